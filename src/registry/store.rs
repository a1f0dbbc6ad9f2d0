//! The contract of a registry backend: it keeps kinds, names and bytes, and knows nothing of what a
//! feature view is. One update is one transaction.

#[cfg(test)]
mod conformance;
pub mod file;
pub mod sql;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use prost::Message;

use crate::{
    error::Result,
    model::{Object, ObjectKind},
    proto::feast::core,
};

/// An opaque mark of the store's state; two equal revisions mean nothing has changed between them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Revision(pub String);

/// A stored version of a view (`feature_view_version_history`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewVersion {
    pub view: String,
    /// Which of the view kinds the bytes are.
    pub kind: ObjectKind,
    pub number: u32,
    pub bytes: Bytes,
    pub created: DateTime<Utc>,
    pub description: String,
    /// A UUID.
    pub version_id: String,
}

/// Everything a store keeps of one project, as of one revision.
#[derive(Debug, Clone, Default)]
pub struct ProjectState {
    pub project: String,
    pub revision: Revision,
    /// In the store's natural order; the `Project` object itself is among them when it exists.
    pub objects: Vec<Object>,
    /// The encoded `feast.core.Infra`.
    pub infra: Option<Bytes>,
    pub versions: Vec<ViewVersion>,
    /// Free keys of the project (`feast_metadata`): `project_uuid`, `recently_visited_…`.
    pub metadata: Vec<(String, String)>,
    pub last_updated: Option<DateTime<Utc>>,
}

impl ProjectState {
    /// The object of that kind and name.
    pub fn object(&self, kind: ObjectKind, name: &str) -> Option<&Object> {
        self.objects
            .iter()
            .find(|object| object.kind == kind && object.name == name)
    }

    /// Whether nothing at all is kept of the project.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.versions.is_empty() && self.metadata.is_empty()
    }

    /// The state after a change, as [`RegistryStore::update`] answers it.
    pub(crate) fn change(&mut self, change: &Change) {
        match change {
            Change::Put(object) => {
                let same = |old: &&mut Object| old.kind == object.kind && old.name == object.name;
                match self.objects.iter_mut().find(same) {
                    Some(old) => old.clone_from(object),
                    None => self.objects.push(object.clone()),
                }
            }
            Change::Delete(kind, name) => {
                self.objects.retain(|old| old.kind != *kind || old.name != *name);
                if kind.is_view() {
                    self.versions.retain(|old| old.view != *name);
                }
            }
            Change::PutVersion(version) => {
                let same = |old: &&mut ViewVersion| old.view == version.view && old.number == version.number;
                match self.versions.iter_mut().find(same) {
                    Some(old) => old.clone_from(version),
                    None => self.versions.push(version.clone()),
                }
            }
            Change::PutInfra(infra) => self.infra = Some(infra.clone()),
            Change::PutMetadata(key, value) => match self.metadata.iter_mut().find(|(old, _)| old == key) {
                Some((_, old)) => old.clone_from(value),
                None => self.metadata.push((key.clone(), value.clone())),
            },
            Change::DeleteProject => {
                let project = std::mem::take(&mut self.project);
                *self = Self {
                    project,
                    revision: std::mem::take(&mut self.revision),
                    ..Self::default()
                };
            }
        }
    }
}

/// The metadata key every project has.
pub const PROJECT_UUID: &str = "project_uuid";

/// One change to a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Inserts or replaces the object under its kind and name.
    Put(Object),
    /// Removes the object; removing a view removes its versions too.
    Delete(ObjectKind, String),
    PutVersion(ViewVersion),
    PutInfra(Bytes),
    PutMetadata(String, String),
    /// Removes the project and everything in it.
    DeleteProject,
}

/// `changes` with what they imply: the first change to a project creates its object and its UUID.
fn complete(state: &ProjectState, mut changes: Vec<Change>, now: DateTime<Utc>) -> Vec<Change> {
    for change in &mut changes {
        if matches!(change, Change::Delete(ObjectKind::Project, name) if *name == state.project) {
            *change = Change::DeleteProject;
        }
    }
    let start = changes
        .iter()
        .rposition(|c| *c == Change::DeleteProject)
        .map_or(0, |last| last + 1);
    let anew = start > 0;
    let (_, added) = changes.split_at(start);
    if added.iter().all(|change| matches!(change, Change::Delete(..))) {
        return changes;
    }
    let mut implied = Vec::new();
    let has_uuid = !anew && state.metadata.iter().any(|(key, _)| key == PROJECT_UUID);
    if !has_uuid
        && !added
            .iter()
            .any(|c| matches!(c, Change::PutMetadata(key, _) if key == PROJECT_UUID))
    {
        implied.push(Change::PutMetadata(
            PROJECT_UUID.to_owned(),
            uuid::Uuid::new_v4().to_string(),
        ));
    }
    let has_project = !anew && state.object(ObjectKind::Project, &state.project).is_some();
    let puts_project = |change: &Change| matches!(change, Change::Put(o) if o.kind == ObjectKind::Project);
    if !has_project && !added.iter().any(puts_project) {
        implied.push(Change::Put(new_project(&state.project, now)));
    }
    changes.splice(start..start, implied);
    changes
}

fn new_project(name: &str, now: DateTime<Utc>) -> Object {
    let time = Some(proto_time(now));
    let project = core::Project {
        spec: Some(core::ProjectSpec {
            name: name.to_owned(),
            ..Default::default()
        }),
        meta: Some(core::ProjectMeta {
            created_timestamp: time,
            last_updated_timestamp: time,
        }),
    };
    Object {
        kind: ObjectKind::Project,
        project: name.to_owned(),
        name: name.to_owned(),
        bytes: project.encode_to_vec().into(),
    }
}

/// A time as protobuf's, in the microseconds Python's clients keep.
pub(crate) fn proto_time(time: DateTime<Utc>) -> prost_types::Timestamp {
    let nanos = i32::try_from(time.timestamp_subsec_micros().min(999_999) * 1_000).unwrap_or_default();
    prost_types::Timestamp {
        seconds: time.timestamp(),
        nanos,
    }
}

/// How Feast calls the kind of a stored version.
fn version_kind_name(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::StreamFeatureView => "stream_feature_view",
        ObjectKind::OnDemandFeatureView => "on_demand_feature_view",
        ObjectKind::LabelView => "label_view",
        _ => "feature_view",
    }
}

fn version_kind(name: &str) -> ObjectKind {
    let named = |kind: &ObjectKind| version_kind_name(*kind) == name;
    ObjectKind::VIEWS
        .into_iter()
        .find(named)
        .unwrap_or(ObjectKind::FeatureView)
}

/// Looks at a project as it is inside the transaction and says what to change; no change is fine.
pub type Decide<'a> = &'a mut (dyn FnMut(&ProjectState) -> Result<Vec<Change>> + Send);

/// A registry backend. All methods may be called concurrently, from many processes.
#[async_trait]
pub trait RegistryStore: Send + Sync + 'static {
    /// Names of all projects, sorted.
    async fn projects(&self) -> Result<Vec<String>>;

    /// The project as it is now; a project that does not exist is an empty state, not an error.
    async fn load(&self, project: &str) -> Result<ProjectState>;

    /// The mark of the store's present state; cheap enough to ask every second.
    async fn revision(&self) -> Result<Revision>;

    /// Runs `decide` on the project's present state and writes its changes, all or nothing, with no
    /// other writer in between. The first change to a project creates its `Project` object. Answers
    /// the state after the change; `decide` may run more than once when a writer came in between.
    ///
    /// # Errors
    /// What `decide` returns; `Unavailable` when the store cannot be reached; nothing is written then.
    async fn update(&self, project: &str, decide: Decide<'_>) -> Result<ProjectState>;

    /// Readiness.
    async fn check(&self) -> Result<()>;
}
