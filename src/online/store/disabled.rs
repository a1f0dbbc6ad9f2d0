//! The store of `online_store: null`: refuses every read and write, and is always ready.

use std::sync::Arc;

use async_trait::async_trait;

use super::{OlderRow, OnlineRead, OnlineStore, RowBatch, Table, WriteBatch};
use crate::{
    error::{Error, Result},
    model::FeatureView,
};

/// No online store.
#[derive(Debug, Clone, Copy)]
pub struct DisabledStore;

fn refused() -> Error {
    Error::unsupported("no online store is configured").hint("set `online_store` in feature_store.yaml")
}

#[async_trait]
impl OnlineStore for DisabledStore {
    async fn read(&self, _: &OnlineRead<'_>) -> Result<Vec<RowBatch>> {
        Err(refused())
    }

    async fn write(&self, _: &str, _: &Table, _: &WriteBatch, _: OlderRow) -> Result<u64> {
        Err(refused())
    }

    async fn provision(&self, _: &str, _: &[Arc<FeatureView>], _: &[Table]) -> Result<()> {
        Ok(())
    }

    fn name(&self) -> &'static str {
        "null"
    }

    fn cannot(&self, _: &str) -> Error {
        refused()
    }

    async fn check(&self) -> Result<()> {
        Ok(())
    }
}
