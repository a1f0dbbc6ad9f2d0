//! A registry store that forgets everything with the process, for tests of what stands on stores.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use chrono::Utc;

use super::{
    Change, Decide, ProjectState, RegistryStore, Revision, complete,
    history::{Author, HistoryEntry, HistoryPage},
};
use crate::error::Result;

#[derive(Default)]
pub(crate) struct MemoryStore(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    projects: BTreeMap<String, Arc<ProjectState>>,
    revision: u64,
    history: Vec<(String, HistoryEntry)>,
}

impl MemoryStore {
    /// A store that has this project and nothing else.
    pub(crate) fn with(state: ProjectState) -> Self {
        let store = Self::default();
        let name = state.project.clone();
        store.0.lock().unwrap().projects.insert(name, Arc::new(state));
        store
    }
}

#[async_trait]
impl RegistryStore for MemoryStore {
    async fn projects(&self) -> Result<Vec<String>> {
        Ok(self.0.lock().unwrap().projects.keys().cloned().collect())
    }

    async fn load(&self, project: &str) -> Result<Arc<ProjectState>> {
        let kept = self.0.lock().unwrap();
        let revision = Revision(kept.revision.to_string());
        let found = kept.projects.get(project).map(Arc::clone);
        Ok(found.unwrap_or_else(|| Arc::new(ProjectState::empty(project, revision))))
    }

    async fn revision(&self) -> Result<Revision> {
        Ok(Revision(self.0.lock().unwrap().revision.to_string()))
    }

    async fn update(
        &self,
        project: &str,
        author: Option<&Author>,
        decide: Decide<'_>,
    ) -> Result<Arc<ProjectState>> {
        let mut kept = self.0.lock().unwrap();
        let revision = Revision((kept.revision + 1).to_string());
        let before = match kept.projects.get(project) {
            Some(state) => Arc::clone(state),
            None => Arc::new(ProjectState::empty(project, revision.clone())),
        };
        let changes = decide(&before)?;
        if changes.is_empty() {
            return Ok(before);
        }
        let changes = complete(&before, changes, Utc::now());
        for change in &changes {
            if let Change::PutHistory(entries) = change {
                kept.history.retain(|(of, _)| of != project);
                let entries = entries.iter().map(|entry| (project.to_owned(), entry.clone()));
                kept.history.extend(entries);
            }
        }
        let told = kept.history.iter().filter(|(of, _)| of == project);
        let number = told.map(|(_, entry)| entry.number).max().unwrap_or_default() + 1;
        let entry = author.and_then(|author| HistoryEntry::of(&before, &changes, author, number, Utc::now()));
        kept.history
            .extend(entry.map(|entry| (project.to_owned(), entry)));
        let mut after = ProjectState::clone(&before);
        for change in &changes {
            after.change(change);
        }
        after.revision = revision;
        after.last_updated = Some(Utc::now());
        kept.revision += 1;
        let after = Arc::new(after);
        if after.is_empty() {
            kept.projects.remove(project);
        } else {
            kept.projects.insert(project.to_owned(), Arc::clone(&after));
        }
        Ok(after)
    }

    async fn history(&self, project: &str, page: HistoryPage) -> Result<Vec<HistoryEntry>> {
        let kept = self.0.lock().unwrap();
        let of_project = kept.history.iter().rev().filter(|(of, _)| of == project);
        let wanted = of_project
            .map(|(_, entry)| entry)
            .filter(|entry| page.before.is_none_or(|before| entry.number < before));
        Ok(wanted.take(page.limit).cloned().collect())
    }

    async fn check(&self) -> Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn conforms() {
    super::conformance::all(&MemoryStore::default()).await;
}
