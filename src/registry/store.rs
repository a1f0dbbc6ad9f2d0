//! The contract of a registry backend: it keeps kinds, names and bytes, and knows nothing of what a
//! feature view is. One update is one transaction.

#[cfg(test)]
mod conformance;
pub mod file;
pub mod history;
#[cfg(test)]
pub(crate) mod memory;
pub mod remote;
pub mod sql;
mod state;

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use prost::Message;

use self::history::{Author, HistoryEntry, HistoryPage};
pub use self::state::{Change, Objects, PROJECT_UUID, ProjectState, ViewVersion};
use crate::{
    error::Result,
    model::{Object, ObjectKind, feature_view::timestamp},
    proto::feast::core,
};

/// An opaque mark of the store's state; two equal revisions mean nothing has changed between them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Revision(pub String);

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

/// A version as Feast's messages carry it.
pub(crate) fn version_record(project: &str, version: &ViewVersion) -> core::FeatureViewVersionRecord {
    core::FeatureViewVersionRecord {
        feature_view_name: version.view.clone(),
        project_id: project.to_owned(),
        version_number: i32::try_from(version.number).unwrap_or(i32::MAX),
        feature_view_type: version_kind_name(version.kind).to_owned(),
        feature_view_proto: version.bytes.clone(),
        created_timestamp: Some(proto_time(version.created)),
        description: version.description.clone(),
        version_id: version.version_id.clone(),
    }
}

/// What [`version_record`] wrote.
pub(crate) fn version_of_record(record: &core::FeatureViewVersionRecord) -> ViewVersion {
    ViewVersion {
        view: record.feature_view_name.clone(),
        kind: version_kind(&record.feature_view_type),
        number: u32::try_from(record.version_number).unwrap_or_default(),
        bytes: record.feature_view_proto.clone(),
        created: record
            .created_timestamp
            .as_ref()
            .and_then(timestamp)
            .unwrap_or_default(),
        description: record.description.clone(),
        version_id: record.version_id.clone(),
    }
}

/// Looks at a project as it is inside the transaction and says what to change; no change is fine.
pub type Decide<'a> = &'a mut (dyn FnMut(&ProjectState) -> Result<Vec<Change>> + Send);

/// A registry backend. All methods may be called concurrently, from many processes.
#[async_trait]
pub trait RegistryStore: Send + Sync + 'static {
    /// Names of all projects, sorted.
    async fn projects(&self) -> Result<Vec<String>>;

    /// The project as it is now; a project that does not exist is an empty state, not an error. Asked
    /// again, what has not changed is shared with the last answer: the same `Arc` for the whole state or,
    /// if something changed, for each object that did not.
    async fn load(&self, project: &str) -> Result<Arc<ProjectState>>;

    /// The mark of the store's present state; cheap enough to ask every second.
    async fn revision(&self) -> Result<Revision>;

    /// Returns when the store was told that something has changed elsewhere. A hint only: it may come
    /// for nothing, and a store that is never told waits for ever.
    async fn changed(&self) {
        std::future::pending().await
    }

    /// Runs `decide` on the project's present state and writes its changes, all or nothing, with no
    /// other writer in between. The first change to a project creates its `Project` object. With an
    /// author, the change becomes an entry of the project's history in the same transaction. Answers the
    /// state after the change; `decide` may run more than once when a writer came in between.
    ///
    /// # Errors
    /// What `decide` returns; `Unavailable` when the store cannot be reached; nothing is written then.
    async fn update(
        &self,
        project: &str,
        author: Option<&Author>,
        decide: Decide<'_>,
    ) -> Result<Arc<ProjectState>>;

    /// Entries of a project's history, newest first. A project that was deleted keeps its history.
    async fn history(&self, project: &str, page: HistoryPage) -> Result<Vec<HistoryEntry>>;

    /// Readiness.
    async fn check(&self) -> Result<()>;
}
