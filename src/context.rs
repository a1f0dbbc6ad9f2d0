//! [`Context`]: the opened stores and shared services of one process, handed to roles and commands.

use std::sync::Arc;

use tokio::runtime::{Builder, Handle, Runtime};

use crate::{
    config::Config,
    error::{Error, Result},
    metrics::Metrics,
    offline::store::OfflineStore,
    online::store::OnlineStore,
    registry::Registry,
    schedule::ledger::Ledger,
    transform::Transformer,
};

/// What roles and commands work with. Cloning is cheap.
#[derive(Clone)]
pub struct Context {
    pub config: Arc<Config>,
    pub registry: Arc<Registry>,
    pub online: Arc<dyn OnlineStore>,
    pub offline: Arc<dyn OfflineStore>,
    pub transformer: Arc<Transformer>,
    pub ledger: Arc<Ledger>,
    pub metrics: Arc<Metrics>,
    pub background: Background,
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
