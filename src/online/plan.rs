//! [`Plan`]: a request's feature names resolved against a catalog, once, for all requests of that shape.
//!
//! A plan says which views are read by which keys, what goes into which on-demand view, and how the
//! answer's columns are called. It holds no values and does no I/O.

mod cache;
mod resolve;

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{Arc, OnceLock, atomic::AtomicUsize},
};

pub use cache::Plans;
use prometheus_client::metrics::counter::Counter;

use super::{feature_log::Layout, precompute::Precomputed, store::ViewColumns};
use crate::{
    error::Result,
    model::{FeatureView, OnDemandFeatureView, ValueType, entity_key},
    registry::Catalog,
    transform::Program,
};

/// What a request asks for, in the words of its body: most requests are found to be like one before, and
/// then nothing of them is kept.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Wanted<'a> {
    /// `view:feature` references.
    Features(Vec<Cow<'a, str>>),
    /// A feature service by name.
    Service(Cow<'a, str>),
}

impl<'a> Wanted<'a> {
    /// These `view:feature` references.
    pub fn features<T: Into<Cow<'a, str>>>(features: impl IntoIterator<Item = T>) -> Self {
        Self::Features(features.into_iter().map(Into::into).collect())
    }

    /// This feature service.
    pub fn service(name: impl Into<Cow<'a, str>>) -> Self {
        Self::Service(name.into())
    }

    fn into_owned(self) -> Wanted<'static> {
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        match self {
            Self::Features(features) => Wanted::Features(features.into_iter().map(owned).collect()),
            Self::Service(name) => Wanted::Service(owned(name)),
        }
    }
}

/// Everything of a request that decides its plan.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Shape<'a> {
    pub wanted: Wanted<'a>,
    /// Whether features are called `view__feature`.
    pub full_names: bool,
}

/// The configuration that plans depend on.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub key_version: entity_key::Version,
    /// `registry.enable_online_feature_view_versioning`.
    pub versioning: bool,
}

/// A resolved request.
#[derive(Debug)]
pub struct Plan {
    pub project: Arc<str>,
    /// What the columns of a request mean, by their names.
    pub roles: HashMap<String, Role>,
    /// Entity columns that keys are made of; every one must be in the request.
    pub key_columns: Vec<KeyColumn>,
    /// Request columns that on-demand views need; every one must be in the request.
    pub request_columns: Vec<RequestColumn>,
    pub groups: Vec<Group>,
    /// In an order in which each needs only outputs of earlier ones.
    pub on_demand: Vec<OnDemand>,
    /// The answer's columns after the entity columns.
    pub outputs: Vec<Output>,
    /// Names and versions of the views read, for version metadata.
    pub view_versions: Vec<(String, u32)>,
    /// For a service whose features are stored together besides.
    pub precomputed: Option<Precomputed>,
    /// For a service whose answers are logged.
    pub log: Option<Arc<Layout>>,
    /// What was learned from writing answers.
    pub written: Written,
    /// By batch, the counters of rows that were there and that were not.
    pub counters: OnceLock<Vec<[Counter; 2]>>,
}

/// What one answer teaches about writing the next of the same plan.
#[derive(Debug, Default)]
pub struct Written {
    /// The names of the outputs, as they stand in an answer.
    pub names: OnceLock<Box<[u8]>>,
    /// The bytes of the last answer for each of its rows.
    pub row_bytes: AtomicUsize,
}

/// What a column of a request is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// A join key of a view that is read, answered under this name; indexes into [`Plan::key_columns`].
    Key { name: String, columns: Vec<usize> },
    /// A join key of the project that no view read here has; it is answered as it came.
    Echo { name: String },
    /// Request data; an index into [`Plan::request_columns`].
    Request(usize),
}

/// An entity column in the type one or more views declare for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyColumn {
    pub name: String,
    pub value_type: ValueType,
    /// A view that needs it, for messages.
    pub view: String,
}

/// A column the caller sends for on-demand views.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestColumn {
    pub name: String,
    pub value_type: ValueType,
}

/// Views whose keys are made of the same columns in the same way.
#[derive(Debug)]
pub struct Group {
    pub encoder: entity_key::KeyEncoder,
    /// Indexes into [`Plan::key_columns`], in the encoder's order; empty for views without entities.
    pub columns: Vec<usize>,
    pub views: Arc<[ViewColumns]>,
}

/// Where a stored value stands: in which batch of the store's answer, and in which column of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Slot {
    pub batch: usize,
    pub feature: usize,
}

/// One on-demand view to compute.
#[derive(Debug)]
pub struct OnDemand {
    pub program: Program,
    pub inputs: Vec<Input>,
}

/// One input column of an on-demand view.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    pub name: String,
    pub value_type: ValueType,
    pub source: Source,
    /// The first input of the same source, when that is an earlier one.
    pub same: Option<usize>,
}

/// Where values come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    Stored(Slot),
    /// An index into [`Plan::key_columns`].
    Key(usize),
    /// An index into [`Plan::request_columns`].
    Request(usize),
    /// A feature of an earlier on-demand view of the plan.
    Computed {
        view: usize,
        feature: usize,
    },
}

/// One column of the answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    pub name: String,
    pub source: Source,
}

impl Plan {
    /// Resolves a request.
    ///
    /// # Errors
    /// The not-found errors of views and services; `InvalidArgument` for unknown features, malformed
    /// references and views that are switched off; `FeatureNameCollision`.
    pub fn new(catalog: &Catalog, shape: &Shape<'_>, settings: Settings) -> Result<Self> {
        let mut plan = resolve::resolve(catalog, shape, settings)?;
        if let Wanted::Service(name) = &shape.wanted {
            let service = catalog.service(name)?;
            plan.precomputed = Precomputed::of(service, &plan);
            let spec = service.spec.as_ref();
            plan.log = spec
                .and_then(|spec| Layout::of(catalog, spec, &plan, shape.full_names))
                .map(Arc::new);
        }
        Ok(plan)
    }

    /// The number of batches the store answers with.
    pub fn batches(&self) -> impl Iterator<Item = (usize, &ViewColumns)> {
        self.groups
            .iter()
            .enumerate()
            .flat_map(|(group, g)| g.views.iter().map(move |view| (group, view)))
    }
}

/// The view an on-demand view is stored as when its outputs are computed on write.
pub fn stored_form(view: &OnDemandFeatureView, catalog: &Catalog) -> FeatureView {
    resolve::stored_form(view, catalog)
}

/// The name a view's rows are stored under.
pub fn table_of(name: &str, version: u32, versioning: bool) -> String {
    if versioning && version > 0 {
        format!("{name}_v{version}")
    } else {
        name.to_owned()
    }
}
