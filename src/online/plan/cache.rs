//! [`Plans`]: plans by shape, dropped when the catalog they were made from is replaced.

use std::{collections::HashMap, hash::BuildHasher as _, sync::Arc};

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;
use prometheus_client::metrics::counter::Counter;

use super::{Plan, Settings, Shape};
use crate::{error::Result, metrics::Metrics, registry::Catalog};

/// Shapes kept of one project; callers that make up ever new ones start over.
const CAPACITY: usize = 4096;

/// Plans of all projects. Readers never wait; the rare maker of a plan copies the map.
#[derive(Debug, Default)]
pub struct Plans {
    shelf: ArcSwap<HashMap<String, Shelf>>,
    hasher: RandomState,
    hits: Counter,
    misses: Counter,
}

/// The plans of one project, all made from one catalog.
#[derive(Debug, Clone, Default)]
struct Shelf {
    generation: u64,
    plans: HashMap<u64, Arc<(Shape<'static>, Arc<Plan>)>>,
}

impl Plans {
    /// No plans yet; those found and made are counted.
    pub fn counted(metrics: &Metrics) -> Self {
        Self {
            hits: metrics.plan_hits.clone(),
            misses: metrics.plan_misses.clone(),
            ..Self::default()
        }
    }

    /// The plan for a shape, made now if there is none yet for this catalog.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn get(&self, catalog: &Catalog, shape: Shape<'_>, settings: Settings) -> Result<Arc<Plan>> {
        let hash = self.hasher.hash_one(&shape);
        if let Some(shelf) = self.shelf.load().get(catalog.project())
            && shelf.generation == catalog.generation
            && let Some(entry) = shelf.plans.get(&hash)
            && entry.0 == shape
        {
            self.hits.inc();
            return Ok(Arc::clone(&entry.1));
        }
        self.misses.inc();
        let plan = Arc::new(Plan::new(catalog, &shape, settings)?);
        let shape = Shape {
            wanted: shape.wanted.into_owned(),
            full_names: shape.full_names,
        };
        let entry = Arc::new((shape, Arc::clone(&plan)));
        self.shelf.rcu(|shelves| {
            let mut shelves = HashMap::clone(shelves);
            let shelf = shelves.entry(catalog.project().to_owned()).or_default();
            if shelf.generation < catalog.generation {
                *shelf = Shelf {
                    generation: catalog.generation,
                    plans: HashMap::new(),
                };
            }
            // A request that began before the catalog was replaced keeps its plan to itself.
            if shelf.generation == catalog.generation {
                if shelf.plans.len() >= CAPACITY {
                    shelf.plans.clear();
                }
                shelf.plans.insert(hash, Arc::clone(&entry));
            }
            shelves
        });
        Ok(plan)
    }
}
