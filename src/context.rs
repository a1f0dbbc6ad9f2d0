//! [`Context`]: the opened stores and shared services of one process, handed to roles and commands.

use std::sync::Arc;

use crate::{
    config::Config, metrics::Metrics, offline::store::OfflineStore, online::store::OnlineStore,
    registry::Registry, schedule::ledger::Ledger, transform::Transformer,
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
}
