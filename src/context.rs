//! [`Context`]: the opened stores and shared services of one process, handed to roles and commands.

use std::sync::Arc;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::task::TaskTracker;

use crate::{
    config::{BatchEngineConfig, Config, OfflineStoreConfig, RegistryBackend},
    database::{Database, DatabaseOptions},
    error::{Error, Result},
    metrics::Metrics,
    offline::{files, hybrid, postgres::PostgresStore, remote, store::OfflineStore},
    online::{
        feature_log::FeatureLog,
        ingest::Journal,
        store::{OnlineStore, kind},
    },
    registry::{
        Registry,
        datasets::DatasetJobs,
        store::{RegistryStore, file::FileStore, remote::RemoteStore, sql::SqlStore},
    },
    schedule::ledger::Ledger,
    transform::Transformer,
};

/// Runs tell the ledger once a second that they live; that shares a few connections well.
const LEDGER_CONNECTIONS: u32 = 4;

/// What roles and commands work with. Cloning is cheap.
#[derive(Clone)]
pub struct Context {
    pub config: Arc<Config>,
    pub registry: Arc<Registry>,
    pub online: Arc<dyn OnlineStore>,
    pub offline: Arc<dyn OfflineStore>,
    pub transformer: Arc<Transformer>,
    /// Where pushed rows wait for the offline store, in a node that takes pushes and is told to.
    pub push_journal: Option<Arc<Journal>>,
    /// Where served features wait for their logs, in a node that serves features and is told to.
    pub feature_log: Option<Arc<FeatureLog>>,
    pub ledger: Arc<Ledger>,
    /// Saved datasets being made.
    pub datasets: Arc<DatasetJobs>,
    pub metrics: Arc<Metrics>,
    pub background: Background,
    /// What the process ends after: writes into the online store, whoever waits for them, and jobs of a cluster.
    pub unfinished: TaskTracker,
}

impl Context {
    /// Opens every configured store.
    ///
    /// # Errors
    /// What the store that cannot be opened says.
    pub async fn open(config: Config) -> Result<Self> {
        let config = Arc::new(config);
        let registry = open_registry(&config).await?;
        let metrics = Arc::new(Metrics::new(&config.feature_server.metrics));
        let online = kind::open(
            &config.online_store,
            &config.repo_path,
            config.entity_key_version,
            &metrics,
        )
        .await?;
        let unfinished = TaskTracker::new();
        let offline = open_offline(&config, &registry)?;
        let offline = with_engine(offline, &config.batch_engine, &unfinished);
        let ledger = open_ledger(&config).await?;
        Ok(Self {
            registry,
            online,
            offline,
            push_journal: None,
            feature_log: None,
            transformer: Arc::new(
                Transformer::new(config.thali.python.clone(), Arc::clone(&metrics))
                    .with_service(config.feature_server.transformation_service.as_deref())?,
            ),
            ledger: Arc::new(ledger),
            datasets: Arc::default(),
            metrics,
            background: Background::start()?,
            unfinished,
            config,
        })
    }

    /// Waits for what must not be cut off by the end of the process.
    pub async fn finish(&self) {
        self.unfinished.close();
        self.unfinished.wait().await;
    }
}

/// The registry, wherever it is.
///
/// # Errors
/// What its store says.
pub(crate) async fn open_registry(config: &Config) -> Result<Arc<Registry>> {
    let keep = config.thali.registry_history.keep;
    let store: Arc<dyn RegistryStore> = match &config.registry.backend {
        RegistryBackend::File { path } => Arc::new(FileStore::open(path).await?.keep_history(keep)),
        RegistryBackend::Object(object) => Arc::new(FileStore::open_object(object).await?.keep_history(keep)),
        RegistryBackend::Sql(sql) => Arc::new(SqlStore::open(sql, keep).await?),
        RegistryBackend::Remote(remote) => Arc::new(RemoteStore::open(remote)?),
    };
    Ok(Arc::new(Registry::new(store)))
}

/// The offline store, which joins in this process.
///
/// # Errors
/// `Config` naming the key of its section that makes no sense.
pub(crate) fn open_offline(config: &Config, registry: &Arc<Registry>) -> Result<Arc<dyn OfflineStore>> {
    let memory_limit = usize::try_from(config.thali.memory_limit).unwrap_or(usize::MAX);
    let files = files::FileStore::new(files::FileStoreConfig {
        repo_path: config.repo_path.clone(),
        memory_limit,
        environment: config.environment.clone(),
    })?;
    Ok(match &config.offline_store {
        OfflineStoreConfig::Files => Arc::new(files),
        OfflineStoreConfig::Postgres(section) => Arc::new(PostgresStore::new(section, files)?),
        OfflineStoreConfig::Hybrid(section) => hybrid::open(section, files)?,
        OfflineStoreConfig::Remote(section) => Arc::new(remote::RemoteStore::new(
            remote::Server::of(section, &config.repo_path)?,
            Arc::clone(registry),
            config.project.clone(),
            files,
            memory_limit,
        )),
    })
}

/// The store, joining where the configuration says.
#[cfg_attr(
    not(feature = "ballista"),
    expect(unused_variables, reason = "jobs are of clusters")
)]
fn with_engine(
    local: Arc<dyn OfflineStore>,
    engine: &BatchEngineConfig,
    jobs: &TaskTracker,
) -> Arc<dyn OfflineStore> {
    match engine {
        BatchEngineConfig::Local => local,
        #[cfg(feature = "ballista")]
        BatchEngineConfig::Ballista { scheduler, tasks } => Arc::new(
            crate::offline::ballista::Distributed::new(local, scheduler, *tasks, jobs.clone()),
        ),
    }
}

/// Every process of a deployment finds the same job ledger.
async fn open_ledger(config: &Config) -> Result<Ledger> {
    let place = config.registry.backend.meeting_place(&config.repo_path);
    let options = DatabaseOptions {
        pool_size: LEDGER_CONNECTIONS,
        max_overflow: Some(0),
        ..DatabaseOptions::default()
    };
    Ok(Ledger::new(Database::open(&place, &options).await?))
}

/// Threads for work that keeps a core busy (joins, materialization), so that it cannot stall requests.
#[derive(Clone)]
pub struct Background {
    handle: Handle,
    _owner: Arc<Owner>,
}

/// Ends the runtime without waiting: blocking inside another runtime would panic.
struct Owner(Option<Runtime>);

impl Drop for Owner {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Background {
    fn start() -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .thread_name("background")
            .enable_all()
            .build()
            .map_err(|error| Error::unavailable(format!("background threads cannot be started: {error}")))?;
        Ok(Self {
            handle: runtime.handle().clone(),
            _owner: Arc::new(Owner(Some(runtime))),
        })
    }

    /// Runs `work` there; dropping the future stops it.
    ///
    /// # Errors
    /// What `work` returns; `Internal` when it panicked.
    pub async fn run<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn_on(work, &self.handle);
        match tasks.join_next().await {
            Some(Ok(outcome)) => outcome,
            Some(Err(error)) => {
                Err(Error::internal("background work ended unexpectedly").source_error(error))
            }
            None => Err(Error::internal("background work was never started")),
        }
    }

    /// The runtime's handle, for servers that live there.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}
