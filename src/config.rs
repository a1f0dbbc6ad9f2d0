//! What a node is told: Feast's `feature_store.yaml`, thali's own section of it, environment, flags.
//!
//! Loading happens once; afterwards no text is checked twice. Backends get their own part, never the whole.

mod build;
mod check;
mod expand;
pub(crate) mod locate;
mod offline;
pub mod problem;
pub mod quantity;
mod registry;
pub(crate) mod schema;
mod section;
mod serving;
pub mod show;
mod stores;
pub mod yaml;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

pub use build::{is_project_name, schedule_problem};
pub use check::{Origin, Setting};
pub use locate::Sources;
pub use offline::OfflineConfig;
use problem::Problems;
pub use registry::{CacheMode, RegistryBackend, RegistryConfig, SchemaMode, SqlRegistry};
pub(crate) use schema::Schema;
pub use section::Section;
pub use serving::{
    AuditConfig, AuditSink, FeatureLogConfig, FeatureServerConfig, OnlineConfig, PushBatching, UnknownEntity,
};

use crate::{cloud::Environment, model::entity_key, online::store::StoreKind};

/// Everything that is configured.
#[derive(Debug, Clone)]
pub struct Config {
    pub project: String,
    pub project_description: String,
    pub provider: String,
    /// The directory relative paths of stores and sources start from (`--chdir`).
    pub repo_path: PathBuf,
    /// The file it was read from, if any.
    pub file: Option<PathBuf>,
    pub registry: RegistryConfig,
    pub online_store: OnlineStoreConfig,
    pub offline_store: OfflineStoreConfig,
    pub batch_engine: BatchEngineConfig,
    pub entity_key_version: entity_key::Version,
    pub materialization: MaterializationConfig,
    pub feature_server: FeatureServerConfig,
    pub thali: ThaliConfig,
    /// How object stores are reached.
    pub environment: Environment,
}

/// A configuration with what there is to say about it.
#[derive(Debug, Clone)]
pub struct Report {
    pub config: Config,
    /// What is odd but stops nothing.
    pub warnings: Problems,
    /// Every value in force and where it came from.
    pub settings: Vec<Setting>,
    /// What was read, with overrides laid over it.
    pub document: yaml::Node,
}

impl Config {
    /// Finds, reads and checks everything that is configured.
    ///
    /// # Errors
    /// All problems at once, warnings among them, when at least one stops thali.
    pub fn load(sources: &Sources) -> Result<Self, Problems> {
        let report = Report::load(sources)?;
        for warning in &report.warnings.0 {
            tracing::warn!("{warning}");
        }
        Ok(report.config)
    }
}

impl Report {
    /// As [`Config::load`], and keeps warnings and origins.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load(sources: &Sources) -> Result<Self, Problems> {
        build::load(sources)
    }
}

/// The `online_store:` section.
#[derive(Debug, Clone, PartialEq)]
pub enum OnlineStoreConfig {
    Store {
        kind: &'static StoreKind,
        section: Section,
    },
    /// `online_store: null`: nothing is served online.
    Disabled,
}

/// The `offline_store:` section; `file`, `dask` and `duckdb` all run on the embedded engine.
#[derive(Debug, Clone, PartialEq)]
pub enum OfflineStoreConfig {
    Files,
    Postgres(Section),
    /// Several of the others, told apart by their types of sources.
    Hybrid(Section),
    /// Another offline server.
    Remote(Section),
}

/// The `batch_engine:` section: where joins run.
#[derive(Debug, Clone, PartialEq)]
pub enum BatchEngineConfig {
    /// In the process that is asked.
    Local,
    /// On the cluster of that scheduler (`host:port`), in jobs of up to so many tasks.
    #[cfg(feature = "ballista")]
    Ballista { scheduler: String, tasks: usize },
}

/// The `materialization:` section.
#[derive(Debug, Clone, Default)]
pub struct MaterializationConfig {
    /// Rows per write to the online store; `None` leaves it to thali.
    pub online_write_batch_size: Option<usize>,
}

/// How a value older than its view's ttl is answered online.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TtlMode {
    /// As Feast's Python server: ttl is not looked at.
    #[default]
    Python,
    /// As Feast's Go server: the value with status `OUTSIDE_MAX_AGE`.
    Status,
    /// No value, status `OUTSIDE_MAX_AGE`.
    Null,
}

/// The `thali:` section.
#[derive(Debug, Clone)]
pub struct ThaliConfig {
    /// Bytes a join or materialization may hold together; what needs more is refused.
    pub memory_limit: u64,
    pub ttl_mode: TtlMode,
    pub unknown_entity: UnknownEntity,
    pub online: OnlineConfig,
    pub offline: OfflineConfig,
    /// Schedules by view name; they win over the view's `thali.schedule` tag.
    pub schedules: BTreeMap<String, String>,
    /// How far before its beginning an incremental materialization looks for rows that came late.
    pub materialize_lookback: Duration,
    pub python: PythonConfig,
    pub registry_poll: Duration,
    pub registry_history: HistoryConfig,
    /// How long requests in flight may take after shutdown began.
    pub shutdown_grace: Duration,
    /// How long a node says it is not ready before it stops accepting.
    pub shutdown_delay: Duration,
    /// An OTLP/gRPC collector; traces are off without one.
    pub otlp_endpoint: Option<String>,
    /// The share of requests that are traced, of those whose callers leave it to thali.
    pub otlp_sample_ratio: f64,
}

/// Entries about who changed the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryConfig {
    /// How many are kept of each project; 0 keeps none.
    pub keep: usize,
}

/// Worker processes for on-demand views written in Python.
#[derive(Debug, Clone)]
pub struct PythonConfig {
    pub enabled: bool,
    pub command: String,
    pub workers: usize,
    /// How long a function may take for one batch.
    pub time_limit: Duration,
    /// Bytes of data that a worker may hold.
    pub memory_limit: u64,
}

impl Default for PythonConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            command: "python3".to_owned(),
            workers: 2,
            time_limit: Duration::from_secs(60),
            memory_limit: 2 << 30,
        }
    }
}

impl Default for ThaliConfig {
    fn default() -> Self {
        Self {
            memory_limit: 1 << 30,
            ttl_mode: TtlMode::Python,
            unknown_entity: UnknownEntity::Store,
            online: OnlineConfig::default(),
            offline: OfflineConfig::default(),
            schedules: BTreeMap::new(),
            materialize_lookback: Duration::ZERO,
            python: PythonConfig::default(),
            registry_poll: Duration::from_secs(1),
            registry_history: HistoryConfig { keep: 1_000 },
            shutdown_grace: Duration::from_secs(30),
            shutdown_delay: Duration::ZERO,
            otlp_endpoint: None,
            otlp_sample_ratio: 1.0,
        }
    }
}

#[cfg(test)]
mod tests;
