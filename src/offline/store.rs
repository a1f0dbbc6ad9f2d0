//! The contract of an offline store: point-in-time joins and pulls over historical sources, as streams
//! of Arrow batches. Feature references, services and on-demand views are resolved before it is asked.

use std::{path::Path, sync::Arc, time::Duration};

use arrow::{
    array::{Array, ArrayRef},
    datatypes::SchemaRef,
    record_batch::RecordBatch,
};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use datafusion::execution::SendableRecordBatchStream;

use crate::{
    error::{Error, Result},
    model::ValueType,
    proto::feast::core::DataSource,
};

/// A point-in-time question: which values of `views` were known at each entity row's time.
pub struct HistoricalQuery {
    pub entities: EntityRows,
    pub views: Vec<JoinView>,
    /// Only rows created by the entity row's time count (known-as-of).
    pub filter_by_created: bool,
}

/// The left side of the join. Result rows are these rows, each once, in this order.
pub enum EntityRows {
    Batches {
        schema: SchemaRef,
        batches: Vec<RecordBatch>,
        /// The column that holds each row's moment; naive times are UTC.
        timestamp_column: String,
    },
    /// No entity rows given: every key and time that the views have in the range, both ends inclusive.
    Range {
        start: DateTime<Utc>,
        end: DateTime<Utc>,
    },
    /// A query for them, of a store that [takes queries](OfflineStore::takes_queries).
    Query(String),
}

/// One view to join.
#[derive(Debug, Clone)]
pub struct JoinView {
    /// With `@v` and its number when it is not the active version.
    pub name: String,
    pub source: Arc<DataSource>,
    /// Empty for views without entities, which join by time only.
    pub join_keys: Vec<JoinKey>,
    pub features: Vec<JoinFeature>,
    pub ttl: Option<Duration>,
}

/// How a join key is called on both sides.
#[derive(Debug, Clone)]
pub struct JoinKey {
    /// In the entity rows (after the projection's join-key map).
    pub entity_column: String,
    /// In the source, after its field mapping.
    pub source_column: String,
    pub value_type: ValueType,
}

/// A wanted feature.
#[derive(Debug, Clone)]
pub struct JoinFeature {
    /// In the source, after its field mapping.
    pub source_column: String,
    /// In the result.
    pub output: String,
    pub value_type: ValueType,
}

/// A window of a source, for materialization and saved datasets. Columns of the result: join keys,
/// features, then the timestamp and created columns under their mapped names.
#[derive(Debug, Clone)]
pub struct Pull {
    pub source: Arc<DataSource>,
    pub join_keys: Vec<String>,
    pub features: Vec<String>,
    /// Both ends inclusive; `None` is open.
    pub start: Option<DateTime<Utc>>,
    pub end: Option<DateTime<Utc>>,
    /// Only the newest row per key (by time, then created); otherwise all rows in any order.
    pub latest_only: bool,
}

/// A pull in parts, which may be read side by side.
pub struct Parts {
    pub streams: Vec<SendableRecordBatchStream>,
    /// Pulls of the same window with the same fingerprint have the same rows in the same order in each part,
    /// whatever their columns; `None` where that cannot be told.
    pub fingerprint: Option<String>,
}

/// An offline store.
#[async_trait]
pub trait OfflineStore: Send + Sync + 'static {
    async fn historical(&self, query: HistoricalQuery) -> Result<SendableRecordBatchStream>;

    async fn pull(&self, pull: Pull) -> Result<SendableRecordBatchStream>;

    /// All rows of a pull, in as many parts as can be read at the same time.
    async fn pull_parts(&self, pull: Pull) -> Result<Parts> {
        Ok(Parts {
            streams: vec![self.pull(pull).await?],
            fingerprint: None,
        })
    }

    /// Appends rows to a source, all or nothing; the rows must have the source's columns.
    async fn append(&self, source: &DataSource, batches: Vec<RecordBatch>) -> Result<u64>;

    /// As [`OfflineStore::append`], but once: called again with the same marker, a file that it writes for
    /// itself and the caller removes in the end, it adds what an interrupted call did not, and nothing else.
    async fn append_once(
        &self,
        source: &DataSource,
        _batches: Vec<RecordBatch>,
        _marker: &Path,
    ) -> Result<u64> {
        Err(Error::unsupported(format!(
            "rows for data source `{}` cannot be appended in batches",
            source.name
        ))
        .hint("switch `feature_server.offline_push_batching_enabled` off"))
    }

    /// Writes a stream as a new data set at the location of `target`.
    async fn save(
        &self,
        target: &DataSource,
        rows: SendableRecordBatchStream,
        overwrite: bool,
    ) -> Result<u64>;

    /// The rows as they will be read when they were saved as `target`.
    ///
    /// # Errors
    /// As [`OfflineStore::save`], for a target that makes no sense.
    fn as_saved(
        &self,
        _target: &DataSource,
        rows: SendableRecordBatchStream,
    ) -> Result<SendableRecordBatchStream> {
        Ok(rows)
    }

    /// The rows of a SQL query over these sources, which are its tables under their names.
    async fn select(&self, _sql: &str, _sources: &[DataSource]) -> Result<(SchemaRef, Vec<RecordBatch>)> {
        Err(
            Error::unsupported("entity rows cannot be given as a SQL query to this offline store")
                .hint("send the rows themselves as a table"),
        )
    }

    /// Whether [`EntityRows::Query`] is understood: queries are then left to the store.
    fn takes_queries(&self) -> bool {
        false
    }

    /// The columns of a source as they are stored (before field mapping).
    async fn schema(&self, source: &DataSource) -> Result<SchemaRef>;

    /// How many rows a window of a source has at most, where that can be told at once; for showing how
    /// far a run is.
    async fn rows_at_most(
        &self,
        _source: &DataSource,
        _start: DateTime<Utc>,
        _end: DateTime<Utc>,
    ) -> Option<u64> {
        None
    }

    /// Readiness.
    async fn check(&self) -> Result<()>;
}

/// Column names for a message, in backticks.
pub(super) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.into_iter().map(|name| format!("`{name}`")).collect();
    if names.is_empty() {
        "no columns".to_owned()
    } else {
        names.join(", ")
    }
}

/// Bytes of the batch's own part of its buffers. Columns that came in one message share its buffer, and
/// would otherwise count all of it each.
pub(super) fn bytes_of(batch: &RecordBatch) -> usize {
    let column = |column: &ArrayRef| column.to_data().get_slice_memory_size().unwrap_or_default();
    batch.columns().iter().map(column).sum()
}
