//! The contract of an online store: encoded keys and encoded values in, row batches out. Planning,
//! statuses and JSON are not its business.
//!
//! A new store is a file here with a [`StoreKind`], and a line in [`kind::KINDS`].

pub mod batch;
pub mod disabled;
pub mod dynamodb;
pub mod hybrid;
pub mod kind;
pub mod mysql;
pub mod postgres;
pub mod redis;
pub mod remote;
pub mod search;
mod sql;
pub mod sqlite;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;

pub use batch::{RowBatch, WriteBatch};
pub use kind::StoreKind;
pub use search::{Found, Search};

use crate::{
    error::{Error, Result},
    model::FeatureView,
    proto::feast::core::InfraObject,
};

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
    pub views: Arc<[ViewColumns]>,
}

/// The features wanted of one view.
#[derive(Debug, Clone)]
pub struct ViewColumns {
    pub table: Table,
    pub features: Arc<[String]>,
}

/// The rows of one view.
#[derive(Debug, Clone)]
pub struct Table {
    /// Gives the join keys, features, types and tags.
    pub view: Arc<FeatureView>,
    /// The name they are stored under: the view's own, or `{name}_v{N}` for a version.
    pub name: String,
}

impl Table {
    /// Where a view is stored that has no versions of its own.
    pub fn of(view: &Arc<FeatureView>) -> Self {
        Self {
            view: Arc::clone(view),
            name: view.name.clone(),
        }
    }
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
    ///
    /// # Errors
    /// `Unavailable` when the store cannot be reached, within seconds.
    async fn read(&self, read: &OnlineRead<'_>) -> Result<Vec<RowBatch>>;

    /// Stores the rows, each atomically; answers how many were written (skipped ones are not).
    ///
    /// A row whose event time is older than the stored one is skipped, unless `older` says otherwise; of
    /// equal times the row written last stays, so that a correction counts.
    ///
    /// # Errors
    /// Either nothing of the batch is stored, or the message tells which rows are; writing the same batch
    /// again completes it.
    async fn write(&self, project: &str, table: &Table, batch: &WriteBatch, older: OlderRow) -> Result<u64>;

    /// Idempotent: tables of `keep` exist afterwards, tables and rows of `drop` do not.
    ///
    /// # Errors
    /// What the store returns.
    async fn provision(&self, project: &str, keep: &[Arc<FeatureView>], drop: &[Table]) -> Result<()>;

    /// Whether a view with that name and these tags can be stored; asked before it is applied.
    ///
    /// # Errors
    /// `InvalidArgument` with what is wrong with the view.
    fn accepts(&self, _view: &str, _tags: &BTreeMap<String, String>) -> Result<()> {
        Ok(())
    }

    /// Deletes the rows of these serialized entity keys; answers how many there were.
    ///
    /// # Errors
    /// `Unsupported` where the store cannot; what it returns.
    async fn delete(&self, _project: &str, _table: &Table, _keys: &[Bytes]) -> Result<u64> {
        Err(self.cannot("delete rows"))
    }

    /// Counts the entities that have a row.
    ///
    /// # Errors
    /// As [`OnlineStore::delete`].
    async fn count(&self, _project: &str, _table: &Table) -> Result<u64> {
        Err(self.cannot("count rows"))
    }

    /// Deletes every row, and keeps the table.
    ///
    /// # Errors
    /// As [`OnlineStore::delete`].
    async fn truncate(&self, _project: &str, _table: &Table) -> Result<()> {
        Err(self.cannot("delete all rows"))
    }

    /// Some serialized entity keys that have a row, each at least once over all pages, and where the next
    /// page begins (`None`: there are no more). Rows written meanwhile may or may not be among them.
    ///
    /// # Errors
    /// As [`OnlineStore::delete`].
    async fn keys(
        &self,
        _project: &str,
        _table: &Table,
        _page: Option<Bytes>,
    ) -> Result<(Vec<Bytes>, Option<Bytes>)> {
        Err(self.cannot("list entity keys"))
    }

    /// The rows nearest to a vector, or whose texts match best, best first.
    ///
    /// # Errors
    /// `Unsupported` where the store cannot; `InvalidArgument` when the search does not fit the view.
    async fn search(&self, _project: &str, _table: &Table, _search: &Search) -> Result<Found> {
        Err(self.cannot("search for similar rows"))
    }

    /// What Feast records in the registry for a view's table, for stores where it records something.
    fn infra(&self, _project: &str, _view: &FeatureView) -> Option<InfraObject> {
        None
    }

    /// Whether an unknown entity of the view reads as present with null (Feast's Redis) instead of not found.
    fn unknown_is_present(&self, _view: &FeatureView) -> bool {
        false
    }

    /// Whether many rows are stored faster in the order of their serialized keys, as in a B-tree.
    fn prefers_key_order(&self, _view: &FeatureView) -> bool {
        false
    }

    /// Its type as in `online_store.type`, for messages and metrics.
    fn name(&self) -> &'static str;

    /// The refusal of something that this store does not do.
    fn cannot(&self, what: &str) -> Error {
        Error::unsupported(format!("online store `{}` cannot {what}", self.name()))
    }

    /// Readiness.
    ///
    /// # Errors
    /// `Unavailable` with what is wrong.
    async fn check(&self) -> Result<()>;
}
