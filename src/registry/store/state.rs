//! What a registry backend keeps of one project, as values: objects by kind and name, versions of views,
//! and the changes that lead from one state to the next.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use indexmap::{Equivalent, IndexSet};

use super::{Revision, history::HistoryEntry};
use crate::model::{Object, ObjectKind};

/// The metadata key every project has.
pub const PROJECT_UUID: &str = "project_uuid";

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

/// Objects found by project, kind and name, in the order they were first put. Cloning shares the objects.
#[derive(Debug, Clone, Default)]
pub struct Objects(IndexSet<Named>);

/// An object that is found by what it is called.
#[derive(Debug, Clone)]
struct Named(Arc<Object>);

impl Hash for Named {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.0.project.as_str(), self.0.kind, self.0.name.as_str()).hash(state);
    }
}

impl PartialEq for Named {
    fn eq(&self, other: &Self) -> bool {
        self.0.kind == other.0.kind && self.0.name == other.0.name && self.0.project == other.0.project
    }
}

impl Eq for Named {}

impl Equivalent<Named> for (&str, ObjectKind, &str) {
    fn equivalent(&self, key: &Named) -> bool {
        *self == (key.0.project.as_str(), key.0.kind, key.0.name.as_str())
    }
}

impl Objects {
    /// The object of that project, kind and name.
    pub fn get(&self, project: &str, kind: ObjectKind, name: &str) -> Option<&Arc<Object>> {
        self.0.get(&(project, kind, name)).map(|named| &named.0)
    }

    /// All of them, in the order they were first put.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Object>> {
        self.0.iter().map(|named| &named.0)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Puts the object under its project, kind and name; one that was there keeps its place.
    pub fn put(&mut self, object: Arc<Object>) {
        self.0.replace(Named(object));
    }

    /// Removes the object of that project, kind and name.
    pub fn remove(&mut self, project: &str, kind: ObjectKind, name: &str) {
        self.0.shift_remove(&(project, kind, name));
    }

    /// Keeps only the objects that `keep` says yes to.
    pub fn retain(&mut self, mut keep: impl FnMut(&Object) -> bool) {
        self.0.retain(|named| keep(&named.0));
    }
}

impl PartialEq for Objects {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl FromIterator<Arc<Object>> for Objects {
    fn from_iter<T: IntoIterator<Item = Arc<Object>>>(objects: T) -> Self {
        Self(objects.into_iter().map(Named).collect())
    }
}

/// Everything a store keeps of one project, as of one revision.
#[derive(Debug, Clone, Default)]
pub struct ProjectState {
    pub project: String,
    pub revision: Revision,
    /// In the store's natural order; the `Project` object itself is among them when it exists.
    pub objects: Objects,
    /// The encoded `feast.core.Infra`.
    pub infra: Option<Bytes>,
    pub versions: Vec<Arc<ViewVersion>>,
    /// Free keys of the project (`feast_metadata`): `project_uuid`, `recently_visited_…`.
    pub metadata: Vec<(String, String)>,
    pub last_updated: Option<DateTime<Utc>>,
}

impl ProjectState {
    /// The state of a project of which nothing is kept.
    pub fn empty(project: &str, revision: Revision) -> Self {
        Self {
            project: project.to_owned(),
            revision,
            ..Self::default()
        }
    }

    /// The object of that kind and name.
    pub fn object(&self, kind: ObjectKind, name: &str) -> Option<&Arc<Object>> {
        self.objects.get(&self.project, kind, name)
    }

    /// Whether nothing at all is kept of the project.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.versions.is_empty() && self.metadata.is_empty()
    }

    /// Makes one change, as a store that has written it would show it.
    pub fn change(&mut self, change: &Change) {
        match change {
            Change::Put(object) => {
                let same = self.object(object.kind, &object.name);
                if same.is_none_or(|same| same.bytes != object.bytes) {
                    let project = self.project.clone();
                    let object = Object {
                        project,
                        ..object.clone()
                    };
                    self.objects.put(Arc::new(object));
                }
            }
            Change::Delete(kind, name) => {
                self.objects.remove(&self.project, *kind, name);
                if kind.is_view() {
                    self.versions.retain(|old| old.view != *name);
                }
            }
            Change::PutVersion(version) => {
                let same =
                    |old: &&mut Arc<ViewVersion>| old.view == version.view && old.number == version.number;
                match self.versions.iter_mut().find(same) {
                    Some(old) => *old = Arc::new(version.clone()),
                    None => self.versions.push(Arc::new(version.clone())),
                }
            }
            Change::PutInfra(infra) => self.infra = Some(infra.clone()),
            Change::PutMetadata(key, value) => match self.metadata.iter_mut().find(|(old, _)| old == key) {
                Some((_, old)) => old.clone_from(value),
                None => self.metadata.push((key.clone(), value.clone())),
            },
            Change::PutHistory(_) => {}
            Change::DeleteProject => {
                let revision = std::mem::take(&mut self.revision);
                *self = Self::empty(&std::mem::take(&mut self.project), revision);
            }
        }
    }
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
    /// Puts these entries, oldest first, in the place of the project's history. No state shows it.
    PutHistory(Vec<HistoryEntry>),
    /// Removes the project and everything in it but its history.
    DeleteProject,
}
