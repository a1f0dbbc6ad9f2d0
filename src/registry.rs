//! The registry: stores, the catalog readers share, applying changes, and the registry role's servers.
//!
//! [`Registry`] is the one way the rest of thali reads or changes metadata. Readers get an immutable
//! [`Catalog`] without waiting; a change made in this process is visible to them when it returns;
//! changes of other processes are seen by [`Registry::refresh`], which the node calls periodically.

pub mod apply;
pub mod archive;
pub mod catalog;
pub(crate) mod changes;
pub mod datasets;
mod envelopes;
mod features;
pub mod grpc;
pub mod lineage;
mod listing;
pub mod rest;
#[cfg(test)]
mod samples;
mod select;
pub mod store;
pub mod sync;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use tokio::sync::{Mutex, watch};

pub use catalog::{Catalog, View};
use store::{
    Decide, ProjectState, RegistryStore, Revision,
    history::{Author, HistoryEntry, HistoryPage},
};

use crate::error::Result;

/// Projects as this process last saw them, all of one revision or newer.
#[derive(Debug, Default)]
struct Shelf {
    revision: Revision,
    catalogs: HashMap<String, Arc<Catalog>>,
}

/// A registry store with its catalogs.
pub struct Registry {
    store: Arc<dyn RegistryStore>,
    shelf: ArcSwap<Shelf>,
    /// Held while the shelf is being replaced; readers never take it.
    writing: Mutex<()>,
    generation: AtomicU64,
    /// Told of every catalog that was put on the shelf.
    publications: watch::Sender<u64>,
}

impl Registry {
    /// Wraps an opened store; nothing is loaded yet.
    pub fn new(store: Arc<dyn RegistryStore>) -> Self {
        Self {
            store,
            shelf: ArcSwap::from_pointee(Shelf::default()),
            writing: Mutex::new(()),
            generation: AtomicU64::new(1),
            publications: watch::Sender::new(0),
        }
    }

    /// The project's catalog as last seen; loaded on first ask. Waits for nothing afterwards.
    ///
    /// # Errors
    /// What the store returns on that first load.
    pub async fn catalog(&self, project: &str) -> Result<Arc<Catalog>> {
        if let Some(catalog) = self.shelf.load().catalogs.get(project) {
            return Ok(Arc::clone(catalog));
        }
        let _writing = self.writing.lock().await;
        if let Some(catalog) = self.shelf.load().catalogs.get(project) {
            return Ok(Arc::clone(catalog));
        }
        let state = self.store.load(project).await?;
        if state.is_empty() {
            // Names that nobody has applied anything to are not kept: callers may make up any number.
            return Ok(Arc::new(Catalog::new(state, None, self.next_generation())?));
        }
        self.publish(state)
    }

    /// Whether a catalog of the project is at hand.
    pub fn knows(&self, project: &str) -> bool {
        self.shelf.load().catalogs.contains_key(project)
    }

    /// The project's catalog, after making sure it is the store's present state.
    ///
    /// # Errors
    /// What the store returns.
    pub async fn fresh_catalog(&self, project: &str) -> Result<Arc<Catalog>> {
        self.refresh().await?;
        self.catalog(project).await
    }

    /// Looks for changes made elsewhere in every known project; answers whether there were any. Readers
    /// keep what they have until it is done.
    ///
    /// # Errors
    /// What the store returns; readers then keep what they have.
    pub async fn refresh(&self) -> Result<bool> {
        let revision = self.store.revision().await?;
        if self.shelf.load().revision == revision {
            return Ok(false);
        }
        let _writing = self.writing.lock().await;
        let mut catalogs = self.shelf.load().catalogs.clone();
        let mut is_changed = false;
        for (name, catalog) in &mut catalogs {
            let state = self.store.load(name).await?;
            if !Arc::ptr_eq(&state, catalog.state()) {
                *catalog = Arc::new(Catalog::new(state, Some(catalog), self.next_generation())?);
                is_changed = true;
            }
        }
        // The revision was read before the loads: a write in between is seen again at the next look.
        self.put(Shelf { revision, catalogs });
        Ok(is_changed)
    }

    /// Returns when the store was told of a change made elsewhere; then it is time to refresh.
    pub async fn changed(&self) {
        self.store.changed().await;
    }

    /// Tells whenever a catalog has changed, whoever changed it.
    pub fn publications(&self) -> watch::Receiver<u64> {
        self.publications.subscribe()
    }

    /// Names of all projects, sorted.
    ///
    /// # Errors
    /// What the store returns.
    pub async fn projects(&self) -> Result<Vec<String>> {
        self.store.projects().await
    }

    /// Changes a project in one transaction and publishes the result before it returns. With an author
    /// the change becomes an entry of the project's history.
    ///
    /// # Errors
    /// What `decide` or the store returns; nothing has changed then.
    pub async fn update(
        &self,
        project: &str,
        author: Option<&Author>,
        decide: Decide<'_>,
    ) -> Result<Arc<Catalog>> {
        let _writing = self.writing.lock().await;
        let state = self.store.update(project, author, decide).await?;
        self.publish(state)
    }

    /// Entries of a project's history, newest first.
    ///
    /// # Errors
    /// What the store returns.
    pub async fn history(&self, project: &str, page: HistoryPage) -> Result<Vec<HistoryEntry>> {
        self.store.history(project, page).await
    }

    /// Readiness of the store underneath.
    ///
    /// # Errors
    /// What the store returns.
    pub async fn check(&self) -> Result<()> {
        self.store.check().await
    }

    /// Puts one project's new state on the shelf. The caller holds `writing`.
    fn publish(&self, state: Arc<ProjectState>) -> Result<Arc<Catalog>> {
        let shelf = self.shelf.load();
        let before = shelf.catalogs.get(&state.project);
        if let Some(before) = before.filter(|before| Arc::ptr_eq(before.state(), &state)) {
            return Ok(Arc::clone(before));
        }
        let catalog = Catalog::new(state, before.map(Arc::as_ref), self.next_generation())?;
        let catalog = Arc::new(catalog);
        let mut catalogs = shelf.catalogs.clone();
        catalogs.insert(catalog.project().to_owned(), Arc::clone(&catalog));
        // The shelf keeps its old revision: other projects may have moved, the next refresh looks.
        let revision = shelf.revision.clone();
        self.put(Shelf { revision, catalogs });
        Ok(catalog)
    }

    fn put(&self, shelf: Shelf) {
        self.shelf.store(Arc::new(shelf));
        self.publications.send_modify(|count| *count += 1);
    }

    fn next_generation(&self) -> u64 {
        self.generation.fetch_add(1, Ordering::Relaxed)
    }
}
