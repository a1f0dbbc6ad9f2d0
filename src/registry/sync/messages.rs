//! States and changes as messages: the steps from one state to the next, and the fingerprint by which
//! two processes know that they speak of the same one.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use crate::{
    error::{Error, Result},
    model::{Object, feature_view::timestamp},
    proto::thali::registry::{self as wire, change_record::Change as Record},
    registry::store::{
        Change, ProjectState, Revision, ViewVersion,
        history::{HistoryEntry, kind_number, kind_of_number},
        proto_time, version_of_record, version_record,
    },
};

/// About how much one message holds; callers of gRPC take 4 MiB by default.
const PART: usize = 1 << 20;

/// A number that is the same for the same contents, whatever order they are kept in.
pub(crate) fn fingerprint(state: &ProjectState) -> u64 {
    let of = |part: &dyn Fn(&mut DefaultHasher)| {
        let mut hasher = DefaultHasher::new();
        part(&mut hasher);
        hasher.finish()
    };
    let objects = state
        .objects
        .iter()
        .map(|object| of(&|hasher| (object.kind, &object.name, &object.bytes).hash(hasher)));
    let versions = state
        .versions
        .iter()
        .map(|version| of(&|hasher| (&version.view, version.number, &version.bytes).hash(hasher)));
    let metadata = state.metadata.iter().map(|pair| of(&|hasher| pair.hash(hasher)));
    let infra = of(&|hasher| state.infra.as_deref().unwrap_or_default().hash(hasher));
    objects
        .chain(versions)
        .chain(metadata)
        .fold(infra, u64::wrapping_add)
}

/// The messages that lead from `before`, or from nothing, to `after`.
pub(crate) fn step(before: Option<&ProjectState>, after: &ProjectState) -> Vec<wire::WatchPart> {
    let mut parts = Parts::default();
    parts.last.anew = before.is_none();
    for object in after.objects.iter() {
        let known = before.and_then(|before| before.object(object.kind, &object.name));
        if known.is_none_or(|known| known.bytes != object.bytes) {
            let size = object.bytes.len() + object.name.len();
            parts.grown_by(size).put_objects.push(archived(object));
        }
    }
    let (old, new) = (before.map(versions).unwrap_or_default(), versions(after));
    for (name, version) in &new {
        if old.get(name) != Some(version) {
            let record = version_record(&after.project, version);
            parts.grown_by(version.bytes.len()).put_versions.push(record);
        }
    }
    if let Some(before) = before {
        for object in before.objects.iter() {
            if after.object(object.kind, &object.name).is_none() {
                parts
                    .grown_by(object.name.len())
                    .removed_objects
                    .push(wire::ObjectName {
                        kind: kind_number(object.kind).into(),
                        name: object.name.clone(),
                    });
            }
        }
        for (_, version) in old.iter().filter(|(name, _)| !new.contains_key(*name)) {
            parts
                .grown_by(version.view.len())
                .removed_versions
                .push(wire::VersionName {
                    view: version.view.clone(),
                    number: version.number,
                });
        }
    }
    parts.last.rest = Some(wire::ProjectRest {
        infra: after.infra.clone(),
        metadata: after.metadata.iter().cloned().collect(),
        last_updated: after.last_updated.map(proto_time),
        fingerprint: fingerprint(after),
    });
    parts.full.push(parts.last);
    parts.full
}

/// Versions by view and number.
type Versions = BTreeMap<(String, u32), Arc<ViewVersion>>;

fn versions(state: &ProjectState) -> Versions {
    let named = |version: &Arc<ViewVersion>| ((version.view.clone(), version.number), Arc::clone(version));
    state.versions.iter().map(named).collect()
}

/// Messages of bounded size.
#[derive(Debug, Default)]
struct Parts {
    full: Vec<wire::WatchPart>,
    last: wire::WatchPart,
    size: usize,
}

impl Parts {
    /// The part that has room for that much more.
    fn grown_by(&mut self, size: usize) -> &mut wire::WatchPart {
        if self.size > 0 && self.size + size > PART {
            self.full.push(std::mem::take(&mut self.last));
            self.size = 0;
        }
        self.size += size;
        &mut self.last
    }
}

/// Puts parts together to states.
#[derive(Debug, Default)]
pub(crate) struct Step {
    state: ProjectState,
    versions: Versions,
}

impl Step {
    /// Begins with nothing known of the project.
    pub(crate) fn new(project: &str) -> Self {
        Self {
            state: ProjectState::empty(project, Revision::default()),
            versions: Versions::new(),
        }
    }

    /// Takes one part; answers the new state and its fingerprint when the step is complete. Objects that
    /// are as in `known` are shared with it.
    ///
    /// # Errors
    /// `Internal` when the part is of a newer thali.
    pub(crate) fn take(
        &mut self,
        part: wire::WatchPart,
        known: Option<&ProjectState>,
    ) -> Result<Option<(ProjectState, u64)>> {
        let state = &mut self.state;
        if part.anew {
            *state = ProjectState::empty(&state.project, Revision::default());
            self.versions.clear();
        }
        for object in part.put_objects {
            let object = object_of(object, &state.project)?;
            let same = known.and_then(|known| known.object(object.kind, &object.name));
            state.objects.put(match same {
                Some(same) if same.bytes == object.bytes => Arc::clone(same),
                _ => Arc::new(object),
            });
        }
        for removed in part.removed_objects {
            let kind = kind_of(removed.kind)?;
            state.objects.remove(&state.project, kind, &removed.name);
        }
        for record in &part.put_versions {
            let version = version_of_record(record);
            let name = (version.view.clone(), version.number);
            self.versions.insert(name, Arc::new(version));
        }
        for removed in part.removed_versions {
            self.versions.remove(&(removed.view, removed.number));
        }
        let Some(rest) = part.rest else {
            return Ok(None);
        };
        state.versions = self.versions.values().map(Arc::clone).collect();
        state.infra = rest.infra;
        state.metadata = rest.metadata.into_iter().collect();
        state.last_updated = rest.last_updated.as_ref().and_then(timestamp);
        state.revision = Revision(format!("{:016x}", rest.fingerprint));
        Ok(Some((state.clone(), rest.fingerprint)))
    }
}

fn archived(object: &Object) -> wire::ArchivedObject {
    wire::ArchivedObject {
        kind: kind_number(object.kind).into(),
        name: object.name.clone(),
        message: object.bytes.clone(),
    }
}

fn object_of(object: wire::ArchivedObject, project: &str) -> Result<Object> {
    Ok(Object {
        kind: kind_of(object.kind)?,
        project: project.to_owned(),
        name: object.name,
        bytes: object.message,
    })
}

fn kind_of(number: i32) -> Result<crate::model::ObjectKind> {
    wire::ObjectKind::try_from(number)
        .ok()
        .and_then(kind_of_number)
        .ok_or_else(|| Error::internal("the other thali speaks of a kind of object that is not known here"))
}

/// A change as a message.
pub(crate) fn record_of_change(change: Change, project: &str) -> wire::ChangeRecord {
    let record = match change {
        Change::Put(object) => Record::Put(archived(&object)),
        Change::Delete(kind, name) => Record::Delete(wire::ObjectName {
            kind: kind_number(kind).into(),
            name,
        }),
        Change::PutVersion(version) => Record::PutVersion(version_record(project, &version)),
        Change::PutInfra(infra) => Record::PutInfra(infra),
        Change::PutMetadata(key, value) => Record::PutMetadata(wire::MetadataPair { key, value }),
        Change::PutHistory(entries) => Record::PutHistory(wire::HistoryList {
            entries: entries.iter().map(|entry| entry.to_message(project)).collect(),
        }),
        Change::DeleteProject => Record::DeleteProject(wire::DeleteProject {}),
    };
    wire::ChangeRecord { change: Some(record) }
}

/// What [`record_of_change`] made.
///
/// # Errors
/// `InvalidArgument` when it is of a newer thali.
pub(crate) fn change_of_record(record: wire::ChangeRecord, project: &str) -> Result<Change> {
    let unknown = || Error::invalid("the request holds a change that is not known here");
    Ok(match record.change.ok_or_else(unknown)? {
        Record::Put(object) => Change::Put(object_of(object, project)?),
        Record::Delete(name) => Change::Delete(kind_of(name.kind)?, name.name),
        Record::PutVersion(version) => Change::PutVersion(version_of_record(&version)),
        Record::PutInfra(infra) => Change::PutInfra(infra),
        Record::PutMetadata(pair) => Change::PutMetadata(pair.key, pair.value),
        Record::PutHistory(list) => {
            let entries = list.entries.into_iter().map(HistoryEntry::from_message);
            Change::PutHistory(entries.collect::<Result<_>>()?)
        }
        Record::DeleteProject(_) => Change::DeleteProject,
    })
}
