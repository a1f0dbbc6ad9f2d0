//! The contract of a registry backend: it keeps kinds, names and bytes, and knows nothing of what a
//! feature view is. One update is one transaction.

pub mod file;
pub mod sql;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};

use crate::{
    error::Result,
    model::{Object, ObjectKind},
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
