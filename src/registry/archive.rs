//! [`Archive`]: projects as one file, independent of the kind of store they come from, so that they can be
//! kept safe and moved. Objects, versions, free keys, infrastructure and history go in with exactly the
//! bytes the store has, and come out so in another one.
//!
//! The format is that of `proto/thali/registry/archive.proto`. A file that was cut off or damaged is
//! refused before anything of it is written.

use std::io::{Read, Write};

use bytes::Bytes;
use prost::Message;

use super::{
    Registry,
    store::{
        Change, PROJECT_UUID, ProjectState, ViewVersion,
        history::{Author, HistoryEntry, HistoryPage, kind_number, kind_of_number},
        version_of_record, version_record,
    },
};
use crate::{
    error::{Error, Kind, Result},
    model::{Object, ObjectKind},
    proto::thali::registry::{
        ArchiveEnd, ArchiveRecord, ArchivedObject, ArchivedProject, ArchivedRun, ObjectKind as KindNumber,
        archive_record::Record,
    },
};

/// What every archive begins with.
const MAGIC: &[u8] = b"thali-archive-1\n";

/// How often a project is read again because it changed while it was read.
const READS: usize = 20;

/// One project of an archive.
#[derive(Debug, Clone, Default)]
pub struct ProjectArchive {
    pub name: String,
    pub infra: Option<Bytes>,
    pub metadata: Vec<(String, String)>,
    pub objects: Vec<Object>,
    pub versions: Vec<ViewVersion>,
    /// Oldest first.
    pub history: Vec<HistoryEntry>,
    pub runs: Vec<ArchivedRun>,
}

/// Projects on their way from one registry to another.
#[derive(Debug, Clone, Default)]
pub struct Archive {
    pub projects: Vec<ProjectArchive>,
}

/// What importing does with a project that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It is an error, and nothing is imported.
    Refuse,
    /// Everything in it gives way to what is in the archive.
    Replace,
}

impl Registry {
    /// Takes one project as it is now, with its whole history.
    ///
    /// # Errors
    /// `ProjectNotFound`; what the store returns; `Conflict` when the project never stands still.
    pub async fn archive(&self, project: &str) -> Result<ProjectArchive> {
        for _ in 0..READS {
            let before = self.store.load(project).await?;
            if before.is_empty() {
                return Err(ObjectKind::Project.not_found(project, project));
            }
            let history = self.whole_history(project).await?;
            let after = self.store.load(project).await?;
            if before.objects == after.objects && before.versions == after.versions {
                return Ok(ProjectArchive::of(&after, history));
            }
        }
        Err(Error::new(
            Kind::Conflict,
            format!("project `{project}` changes faster than it can be read"),
        )
        .hint("try again when fewer clients apply"))
    }

    /// Oldest first.
    async fn whole_history(&self, project: &str) -> Result<Vec<HistoryEntry>> {
        const PAGE: usize = 200;
        let mut entries: Vec<HistoryEntry> = Vec::new();
        loop {
            let page = HistoryPage {
                before: entries.last().map(|entry| entry.number),
                limit: PAGE,
            };
            let read = self.history(project, page).await?;
            let is_last = read.len() < PAGE;
            entries.extend(read);
            if is_last {
                entries.reverse();
                return Ok(entries);
            }
        }
    }

    /// Writes the projects of an archive, each in one transaction; runs are not the registry's to keep.
    ///
    /// # Errors
    /// `AlreadyExists` before anything is written when a project exists and is not to be replaced; what
    /// the store returns, the projects before then being there.
    pub async fn import(&self, archive: &Archive, existing: Existing, author: &Author) -> Result<()> {
        if existing == Existing::Refuse {
            for project in &archive.projects {
                self.refuse_existing(&project.name).await?;
            }
        }
        for project in &archive.projects {
            let mut decide = |state: &ProjectState| {
                if state.is_empty() {
                    return Ok(project.changes());
                }
                if existing == Existing::Refuse {
                    return Err(exists(&project.name));
                }
                let mut changes = vec![Change::DeleteProject];
                changes.extend(project.changes());
                Ok(changes)
            };
            self.update(&project.name, Some(author), &mut decide).await?;
        }
        Ok(())
    }

    async fn refuse_existing(&self, project: &str) -> Result<()> {
        match self.store.load(project).await?.is_empty() {
            true => Ok(()),
            false => Err(exists(project)),
        }
    }
}

fn exists(project: &str) -> Error {
    Error::new(Kind::AlreadyExists, format!("project `{project}` exists already"))
        .hint("add --replace to put the archive in its place")
}

impl ProjectArchive {
    fn of(state: &ProjectState, history: Vec<HistoryEntry>) -> Self {
        Self {
            name: state.project.clone(),
            infra: state.infra.clone(),
            metadata: state.metadata.clone(),
            objects: state.objects.iter().map(|object| Object::clone(object)).collect(),
            versions: state.versions.iter().map(|version| (**version).clone()).collect(),
            history,
            runs: Vec::new(),
        }
    }

    /// What makes an empty project this one.
    fn changes(&self) -> Vec<Change> {
        let mut changes = Vec::new();
        // The UUID goes first: a store that sees none makes one.
        let (uuid, others): (Vec<_>, Vec<_>) = self.metadata.iter().partition(|(key, _)| key == PROJECT_UUID);
        let metadata = uuid.into_iter().chain(others);
        changes.extend(metadata.map(|(key, value)| Change::PutMetadata(key.clone(), value.clone())));
        changes.extend(self.infra.clone().map(Change::PutInfra));
        changes.extend(self.objects.iter().cloned().map(Change::Put));
        changes.extend(self.versions.iter().cloned().map(Change::PutVersion));
        if !self.history.is_empty() {
            changes.push(Change::PutHistory(self.history.clone()));
        }
        changes
    }

    fn records(&self) -> impl Iterator<Item = Record> {
        let project = Record::Project(ArchivedProject {
            name: self.name.clone(),
            infra: self.infra.clone(),
            metadata: self.metadata.iter().cloned().collect(),
        });
        let objects = self.objects.iter().map(|object| {
            Record::Object(ArchivedObject {
                kind: kind_number(object.kind).into(),
                name: object.name.clone(),
                message: object.bytes.clone(),
            })
        });
        let versions = self.versions.iter();
        let versions = versions.map(|version| Record::Version(version_record(&self.name, version)));
        let history = self.history.iter();
        let history = history.map(|entry| Record::History(entry.to_message(&self.name)));
        let runs = self.runs.iter().cloned().map(Record::Run);
        std::iter::once(project)
            .chain(objects)
            .chain(versions)
            .chain(history)
            .chain(runs)
    }

    fn take(&mut self, record: Record) -> Result<()> {
        match record {
            Record::Object(object) => {
                let kind = KindNumber::try_from(object.kind).ok().and_then(kind_of_number);
                self.objects.push(Object {
                    kind: kind.ok_or_else(|| damaged("it holds a kind of object that is not known here"))?,
                    project: self.name.clone(),
                    name: object.name,
                    bytes: object.message,
                });
            }
            Record::Version(version) => self.versions.push(version_of_record(&version)),
            Record::History(entry) => self.history.push(HistoryEntry::from_message(entry)?),
            Record::Run(run) => self.runs.push(run),
            Record::Project(_) | Record::End(_) => return Err(damaged("its records are out of order")),
        }
        Ok(())
    }
}

impl Archive {
    /// Writes the file.
    ///
    /// # Errors
    /// `Unavailable` when it cannot be written.
    pub fn write(&self, target: &mut dyn Write) -> Result<()> {
        let failed = |error: std::io::Error| Error::unavailable(format!("writing the archive: {error}"));
        let mut checksum = crc32fast::Hasher::new();
        let mut count = 0;
        let mut write = |bytes: &[u8]| {
            checksum.update(bytes);
            target.write_all(bytes).map_err(failed)
        };
        write(MAGIC)?;
        for record in self.projects.iter().flat_map(ProjectArchive::records) {
            let record = ArchiveRecord { record: Some(record) };
            write(&record.encode_length_delimited_to_vec())?;
            count += 1;
        }
        let end = Record::End(ArchiveEnd {
            records: count,
            checksum: checksum.finalize(),
        });
        let end = ArchiveRecord { record: Some(end) };
        target
            .write_all(&end.encode_length_delimited_to_vec())
            .map_err(failed)
    }

    /// Reads a whole file and makes sure that it is whole.
    ///
    /// # Errors
    /// `InvalidArgument` when it is no archive, was cut off or damaged; `Unavailable` when it cannot be
    /// read.
    pub fn read(source: &mut dyn Read) -> Result<Self> {
        let mut content = Vec::new();
        source
            .read_to_end(&mut content)
            .map_err(|error| Error::unavailable(format!("reading the archive: {error}")))?;
        let content = Bytes::from(content);
        if !content.starts_with(MAGIC) {
            return Err(
                Error::invalid("the file is no archive of thali, or one of another format")
                    .hint("`thali registry export` and `thali backup` write archives"),
            );
        }
        let mut rest = content.slice(MAGIC.len()..);
        let mut archive = Self::default();
        let mut count = 0;
        loop {
            let read = content.len() - rest.len();
            let record = ArchiveRecord::decode_length_delimited(&mut rest)
                .map_err(|error| damaged("it was cut off").source_error(error))?;
            match record.record.ok_or_else(|| damaged("it is of a newer thali"))? {
                Record::End(end) => {
                    let whole = content.get(..read).unwrap_or_default();
                    if end.records != count || end.checksum != crc32fast::hash(whole) || !rest.is_empty() {
                        return Err(damaged("its checksum is wrong"));
                    }
                    return Ok(archive);
                }
                Record::Project(project) => archive.projects.push(ProjectArchive {
                    name: project.name,
                    infra: project.infra,
                    metadata: project.metadata.into_iter().collect(),
                    ..ProjectArchive::default()
                }),
                record => archive
                    .projects
                    .last_mut()
                    .ok_or_else(|| damaged("its records are out of order"))?
                    .take(record)?,
            }
            count += 1;
        }
    }
}

fn damaged(how: &str) -> Error {
    Error::invalid(format!("the archive is damaged: {how}")).hint("nothing of it was imported")
}
