//! The contract of an online store: encoded keys and encoded values in, row batches out. Planning,
//! statuses and JSON are not its business.

pub mod disabled;
pub mod sqlite;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{error::Result, model::FeatureView};

/// What one request reads: for every group, every key is looked up in every view of the group.
#[derive(Debug)]
pub struct OnlineRead<'a> {
    pub project: &'a str,
    pub groups: &'a [KeyGroup],
}

/// Views that share join keys, so their keys are encoded once.
#[derive(Debug, Clone)]
pub struct KeyGroup {
    /// Distinct serialized entity keys.
    pub keys: Vec<Bytes>,
    pub views: Vec<ViewColumns>,
}

/// The features wanted of one view.
#[derive(Debug, Clone)]
pub struct ViewColumns {
    /// The view's name in the store: its own, or `{name}_v{N}` for a version.
    pub table: String,
    pub features: Arc<[String]>,
}

/// One view's answer: row i belongs to key i of its group.
#[derive(Debug, Clone, Default)]
pub struct RowBatch {
    /// Number of features in a row.
    pub width: usize,
    /// Microseconds since 1970 UTC; `None` where the store has no row.
    pub event_times: Vec<Option<i64>>,
    /// Row-major encoded `feast.types.Value`s; `None` where the row lacks the feature, empty for null.
    pub values: Vec<Option<Bytes>>,
}

/// Rows to store for one view.
#[derive(Debug, Clone, Default)]
pub struct WriteBatch {
    pub features: Vec<String>,
    /// Serialized entity keys; a key may come more than once, the newest row then wins.
    pub keys: Vec<Bytes>,
    /// Microseconds since 1970 UTC.
    pub event_times: Vec<i64>,
    pub created_times: Vec<Option<i64>>,
    /// Row-major encoded values, empty for null: `keys.len() * features.len()` of them.
    pub values: Vec<Bytes>,
}

/// What a row older than the stored one does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OlderRow {
    /// It is skipped: a store never goes back in event time.
    Skip,
    /// It overwrites, because a backfill was asked for.
    Overwrite,
}

/// An online store. All methods may be called concurrently, from many processes.
#[async_trait]
pub trait OnlineStore: Send + Sync + 'static {
    /// One batch per (group, view) in order, all in one round trip where the store can.
    async fn read(&self, read: &OnlineRead<'_>) -> Result<Vec<RowBatch>>;

    /// Stores the rows, each atomically; answers how many were written (skipped ones are not).
    /// `view` gives the types, `table` the name to store under.
    async fn write(
        &self,
        project: &str,
        view: &FeatureView,
        table: &str,
        batch: &WriteBatch,
        older: OlderRow,
    ) -> Result<u64>;

    /// Idempotent: tables of `keep` exist afterwards, tables of `drop` do not.
    async fn provision(&self, project: &str, keep: &[Arc<FeatureView>], drop: &[String]) -> Result<()>;

    /// Whether an unknown entity reads as present with null (Feast's Redis) instead of not found.
    fn unknown_is_present(&self) -> bool {
        false
    }

    /// Readiness.
    async fn check(&self) -> Result<()>;
}
