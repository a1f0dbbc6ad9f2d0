//! [`Programs`]: what is made of views that compute on write, once for each state of the registry.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{model::OnDemandFeatureView, registry::Catalog, transform::Program};

/// The programs of one project's views, all made from one catalog: their inputs depend on it.
#[derive(Default)]
pub(in crate::online) struct Programs(Mutex<Shelf>);

#[derive(Default)]
struct Shelf {
    generation: u64,
    programs: HashMap<String, Arc<Program>>,
}

impl Programs {
    /// The program of a view of the catalog.
    pub(super) fn of(&self, view: &Arc<OnDemandFeatureView>, catalog: &Catalog) -> Arc<Program> {
        let mut shelf = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if shelf.generation < catalog.generation {
            *shelf = Shelf {
                generation: catalog.generation,
                programs: HashMap::new(),
            };
        }
        let made = || Arc::new(Program::new(Arc::clone(view)));
        if shelf.generation > catalog.generation {
            // A write that began before the catalog was replaced.
            return made();
        }
        Arc::clone(shelf.programs.entry(view.name.clone()).or_insert_with(made))
    }
}
