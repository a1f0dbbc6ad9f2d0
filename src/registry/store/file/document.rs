//! [`Document`]: the content of Feast's registry file, taken apart only as far as needed to find an
//! object by kind, project and name. Everything else is carried along byte for byte.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use indexmap::IndexMap;
use prost::Message;
use uuid::Uuid;

use super::super::{
    Change, Objects, PROJECT_UUID, ProjectState, Revision, ViewVersion, proto_time, version_of_record,
    version_record,
};
use crate::{
    error::{Error, Kind, Result},
    model::{
        Object, ObjectKind,
        feature_view::timestamp,
        wire::{self, Put},
    },
    proto::feast::core,
};

/// The only layout Feast has ever written.
const SCHEMA_VERSION: &str = "1";

/// Field numbers of `feast.core.Registry` beside the object lists.
mod number {
    pub(super) const SCHEMA_VERSION: u32 = 3;
    pub(super) const VERSION_ID: u32 = 4;
    pub(super) const LAST_UPDATED: u32 = 5;
    pub(super) const INFRA: u32 = 10;
    pub(super) const PROJECT_METADATA: u32 = 15;
    pub(super) const VERSION_HISTORY: u32 = 18;
    pub(super) const VERSION_RECORDS: u32 = 1;
}

/// The list an object kind lives in.
fn list_number(kind: ObjectKind) -> u32 {
    match kind {
        ObjectKind::Entity => 1,
        ObjectKind::FeatureView => 6,
        ObjectKind::FeatureService => 7,
        ObjectKind::OnDemandFeatureView => 8,
        ObjectKind::SavedDataset => 11,
        ObjectKind::DataSource => 12,
        ObjectKind::ValidationReference => 13,
        ObjectKind::StreamFeatureView => 14,
        ObjectKind::Permission => 16,
        ObjectKind::Project => 17,
        ObjectKind::LabelView => 19,
    }
}

fn kind_of_list(number: u32) -> Option<ObjectKind> {
    ObjectKind::ALL
        .into_iter()
        .find(|kind| list_number(*kind) == number)
}

/// Where a version record belongs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct VersionKey {
    project: String,
    view: String,
    number: u32,
}

/// A version record as it stands in the file and as the store's contract shows it.
#[derive(Debug, Clone)]
struct VersionRecord {
    bytes: Bytes,
    version: Arc<ViewVersion>,
}

/// The registry of all projects. Cloning shares what is in it.
#[derive(Debug, Clone, Default)]
pub(super) struct Document {
    version_id: String,
    last_updated: Option<DateTime<Utc>>,
    /// In the file's order.
    objects: Objects,
    /// Encoded `ProjectMetadata` by project.
    metadata: IndexMap<String, Bytes>,
    versions: IndexMap<VersionKey, VersionRecord>,
    /// One for all projects, as in Feast.
    infra: Option<Bytes>,
    /// Fields of the version history message that this build does not know.
    history_rest: Bytes,
    /// All other fields with their tags, by number.
    rest: Vec<(u32, Bytes)>,
}

impl Document {
    /// Takes the file's content apart; what is as in `known` is shared with it, and nothing keeps
    /// `content` alive.
    ///
    /// # Errors
    /// `Config` when the content is no registry or one of another schema version.
    pub(super) fn parse(content: &Bytes, known: Option<&Self>) -> Result<Self> {
        Self::read(content, known).map_err(|error| match error.kind() {
            Kind::Config => error,
            _ => Error::config(format!("not a readable Feast registry: {}", error.message()))
                .hint("restore the file from a backup, or move it away to start with an empty registry"),
        })
    }

    fn read(content: &Bytes, known: Option<&Self>) -> Result<Self> {
        let mut document = Self::default();
        for field in wire::fields(content) {
            let field = field?;
            if let Some(kind) = kind_of_list(field.number) {
                let read = Object::from_bytes(kind, content.slice_ref(field.content()?))?;
                if document.objects.get(&read.project, kind, &read.name).is_some() {
                    // Feast finds the first of two that are called the same.
                    continue;
                }
                let same = known.and_then(|known| known.objects.get(&read.project, kind, &read.name));
                document.objects.put(match same {
                    Some(same) if same.bytes == read.bytes => Arc::clone(same),
                    // A copy of its own: as part of `content` it would keep all of that alive.
                    _ => Arc::new(Object {
                        bytes: Bytes::copy_from_slice(&read.bytes),
                        ..read
                    }),
                });
                continue;
            }
            match field.number {
                number::SCHEMA_VERSION => check_schema_version(field.text()?)?,
                number::VERSION_ID => field.text()?.clone_into(&mut document.version_id),
                number::LAST_UPDATED => {
                    let time = prost_types::Timestamp::decode(field.content()?)?;
                    document.last_updated = timestamp(&time);
                }
                number::INFRA => document.infra = Some(Bytes::copy_from_slice(field.content()?)),
                number::PROJECT_METADATA => {
                    let entry = field.content()?;
                    let project = wire::text(entry, &[1])?.to_owned();
                    let metadata = document.metadata.entry(project);
                    metadata.or_insert_with(|| Bytes::copy_from_slice(entry));
                }
                number::VERSION_HISTORY => document.read_versions(field.content()?, known)?,
                other => document.rest.push((other, Bytes::copy_from_slice(field.raw))),
            }
        }
        Ok(document)
    }

    fn read_versions(&mut self, history: &[u8], known: Option<&Self>) -> Result<()> {
        let mut rest = self.history_rest.to_vec();
        for field in wire::fields(history) {
            let field = field?;
            if field.number != number::VERSION_RECORDS {
                rest.extend_from_slice(field.raw);
                continue;
            }
            let bytes = field.content()?;
            let key = VersionKey {
                view: wire::text(bytes, &[1])?.to_owned(),
                project: wire::text(bytes, &[2])?.to_owned(),
                number: match wire::get(bytes, &[3])? {
                    Some(number) => u32::try_from(number.varint()?).unwrap_or_default(),
                    None => 0,
                },
            };
            let same = known.and_then(|known| known.versions.get(&key));
            let record = match same {
                Some(same) if same.bytes == bytes => same.clone(),
                _ => read_version(Bytes::copy_from_slice(bytes))?,
            };
            self.versions.entry(key).or_insert(record);
        }
        self.history_rest = rest.into();
        Ok(())
    }

    /// The mark that [`Document::version_id`] will be when `content` is parsed.
    pub(super) fn version_id_in(content: &[u8]) -> Result<&str> {
        let mut id = "";
        for field in wire::fields(content) {
            let field = field?;
            if field.number == number::VERSION_ID {
                id = field.text()?;
            }
        }
        Ok(id)
    }

    /// What distinguishes this content from every other: Feast draws a new UUID for each write.
    pub(super) fn version_id(&self) -> &str {
        &self.version_id
    }

    /// The content of the file; the object lists in the order of their field numbers, as Feast writes.
    pub(super) fn encode(&self) -> Bytes {
        let mut sections: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        let mut add = |number: u32, value: &[u8]| {
            wire::write_bytes(number, value, sections.entry(number).or_default());
        };
        for object in self.objects.iter() {
            add(list_number(object.kind), &object.bytes);
        }
        add(number::SCHEMA_VERSION, SCHEMA_VERSION.as_bytes());
        add(number::VERSION_ID, self.version_id.as_bytes());
        if let Some(time) = self.last_updated {
            add(number::LAST_UPDATED, &proto_time(time).encode_to_vec());
        }
        if let Some(infra) = &self.infra {
            add(number::INFRA, infra);
        }
        for entry in self.metadata.values() {
            add(number::PROJECT_METADATA, entry);
        }
        let mut history = Vec::new();
        for record in self.versions.values() {
            wire::write_bytes(number::VERSION_RECORDS, &record.bytes, &mut history);
        }
        history.extend_from_slice(&self.history_rest);
        if !history.is_empty() {
            add(number::VERSION_HISTORY, &history);
        }
        for (number, raw) in &self.rest {
            sections.entry(*number).or_default().extend_from_slice(raw);
        }
        let mut content = Vec::with_capacity(sections.values().map(Vec::len).sum());
        for section in sections.values() {
            content.extend_from_slice(section);
        }
        content.into()
    }

    /// All projects that have an object or metadata of their own.
    pub(super) fn projects(&self) -> Vec<String> {
        let objects = self
            .objects
            .iter()
            .filter(|object| object.kind == ObjectKind::Project);
        let mut names: Vec<String> = objects.map(|object| object.name.clone()).collect();
        names.extend(self.metadata.keys().cloned());
        names.sort();
        names.dedup();
        names
    }

    /// One project as the store's contract shows it.
    pub(super) fn state(&self, project: &str, revision: Revision) -> Result<ProjectState> {
        let versions = self.versions.iter().filter(|(key, _)| key.project == project);
        let of_project = self.objects.iter().filter(|object| object.project == project);
        // In the file's order, also before what was put last is read from there again.
        let mut objects: Vec<_> = of_project.map(Arc::clone).collect();
        objects.sort_by_key(|object| list_number(object.kind));
        Ok(ProjectState {
            project: project.to_owned(),
            revision,
            objects: objects.into_iter().collect(),
            infra: self.infra.clone(),
            versions: versions.map(|(_, record)| Arc::clone(&record.version)).collect(),
            metadata: match self.metadata.get(project) {
                Some(entry) => metadata_pairs(wire::text(entry, &[2])?),
                None => Vec::new(),
            },
            last_updated: self.last_updated,
        })
    }

    /// The change with its object as the file has it: there each says which project it belongs to.
    pub(super) fn placed(project: &str, change: Change) -> Result<Change> {
        let Change::Put(object) = change else {
            return Ok(change);
        };
        let mut object = Object {
            project: project.to_owned(),
            ..object
        };
        object.bytes = object.bytes_with_project()?;
        Ok(Change::Put(object))
    }

    /// Makes the changes to one project, which are placed, and marks the content as new.
    pub(super) fn change(&mut self, project: &str, changes: &[Change], now: DateTime<Utc>) -> Result<()> {
        let are_deletes =
            |one: &Change, next: &Change| matches!((one, next), (Change::Delete(..), Change::Delete(..)));
        for run in changes.chunk_by(are_deletes) {
            match run {
                [Change::Delete(..), ..] => self.delete(project, run),
                other => other
                    .iter()
                    .try_for_each(|change| self.change_one(project, change))?,
            }
        }
        self.version_id = Uuid::new_v4().to_string();
        self.last_updated = Some(now);
        Ok(())
    }

    fn change_one(&mut self, project: &str, change: &Change) -> Result<()> {
        match change {
            Change::Put(object) => self.put(object),
            delete @ Change::Delete(..) => self.delete(project, std::slice::from_ref(delete)),
            Change::PutVersion(version) => self.put_version(project, version)?,
            Change::PutInfra(infra) => self.infra = Some(infra.clone()),
            Change::PutMetadata(key, value) => self.put_metadata(project, key, value)?,
            // Kept beside the document, not in it.
            Change::PutHistory(_) => {}
            Change::DeleteProject => {
                self.objects.retain(|old| old.project != project);
                self.versions.retain(|key, _| key.project != project);
                self.metadata.shift_remove(project);
            }
        }
        Ok(())
    }

    /// One that is put as it was stays what it was.
    fn put(&mut self, object: &Object) {
        let same = self.objects.get(&object.project, object.kind, &object.name);
        if same.is_none_or(|same| same.bytes != object.bytes) {
            self.objects.put(Arc::new(object.clone()));
        }
    }

    /// Many at once, because each removal from a list in order moves all that follow.
    fn delete(&mut self, project: &str, deletes: &[Change]) {
        let mut gone = HashSet::new();
        let mut gone_views = HashSet::new();
        for delete in deletes {
            if let Change::Delete(kind, name) = delete {
                gone.insert((*kind, name.as_str()));
                if kind.is_view() {
                    gone_views.insert(name.as_str());
                }
            }
        }
        self.objects
            .retain(|old| old.project != project || !gone.contains(&(old.kind, old.name.as_str())));
        if !gone_views.is_empty() {
            self.versions
                .retain(|key, _| key.project != project || !gone_views.contains(key.view.as_str()));
        }
    }

    fn put_version(&mut self, project: &str, version: &ViewVersion) -> Result<()> {
        let key = VersionKey {
            project: project.to_owned(),
            view: version.view.clone(),
            number: version.number,
        };
        let bytes = Bytes::from(version_record(project, version).encode_to_vec());
        self.versions.insert(key, read_version(bytes)?);
        Ok(())
    }

    /// Feast keeps free keys as a JSON object in the field of the UUID; ours keeps the UUID among them.
    fn put_metadata(&mut self, project: &str, key: &str, value: &str) -> Result<()> {
        let entry = self.metadata.entry(project.to_owned()).or_insert_with(|| {
            let entry = core::ProjectMetadata {
                project: project.to_owned(),
                ..Default::default()
            };
            entry.encode_to_vec().into()
        });
        let text = wire::text(entry, &[2])?;
        let replaced = match (json_object(text), key) {
            (None, PROJECT_UUID) => value.to_owned(),
            (object, key) => {
                let mut object = object.unwrap_or_default();
                if object.is_empty() && !text.is_empty() {
                    object.insert(PROJECT_UUID.to_owned(), text.into());
                }
                object.insert(key.to_owned(), value.into());
                serde_json::Value::Object(object).to_string()
            }
        };
        *entry = wire::set(entry, &[2], Put::text(&replaced))?.into();
        Ok(())
    }
}

fn check_schema_version(version: &str) -> Result<()> {
    if version.is_empty() || version == SCHEMA_VERSION {
        return Ok(());
    }
    Err(Error::config(format!(
        "the registry has schema version `{version}`, this build reads and writes `{SCHEMA_VERSION}`"
    ))
    .hint("it was written by a newer Feast or thali; use that, nothing was changed"))
}

fn read_version(bytes: Bytes) -> Result<VersionRecord> {
    let record = core::FeatureViewVersionRecord::decode(bytes.clone())?;
    let version = Arc::new(version_of_record(&record));
    Ok(VersionRecord { bytes, version })
}

fn json_object(text: &str) -> Option<serde_json::Map<String, serde_json::Value>> {
    match serde_json::from_str(text) {
        Ok(serde_json::Value::Object(object)) => Some(object),
        _ => None,
    }
}

fn metadata_pairs(text: &str) -> Vec<(String, String)> {
    match json_object(text) {
        Some(object) => object
            .into_iter()
            .map(|(key, value)| match value {
                serde_json::Value::String(text) => (key, text),
                other => (key, other.to_string()),
            })
            .collect(),
        None if text.is_empty() => Vec::new(),
        None => vec![(PROJECT_UUID.to_owned(), text.to_owned())],
    }
}
