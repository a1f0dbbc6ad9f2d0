//! The contract of an offline store: point-in-time joins and pulls over historical sources, as streams
//! of Arrow batches. Feature references, services and on-demand views are resolved before it is asked.

use std::{path::Path, sync::Arc, time::Duration};

use arrow::{
    array::{Array, ArrayRef},
    datatypes::{Schema, SchemaRef},
    record_batch::RecordBatch,
};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use datafusion::execution::SendableRecordBatchStream;
use serde::{Deserialize, Serialize};

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
    /// Pulls of the same window with the same fingerprint have the same rows in each part, whatever their
    /// columns; `None` where that cannot be told.
    pub fingerprint: Option<String>,
    /// Whether such pulls have them in the same order, too.
    pub in_order: bool,
}

impl Parts {
    /// A pull in one part, of which nothing is known.
    pub fn whole(rows: SendableRecordBatchStream) -> Self {
        Self {
            streams: vec![rows],
            fingerprint: None,
            in_order: false,
        }
    }
}

/// A text to keep with saved rows, asked for when all of them have passed.
pub type Note = Box<dyn FnOnce() -> Result<String> + Send>;

/// What came of an append.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Appended {
    /// Rows that this call added.
    pub rows: u64,
    /// Rows that were left out, in the order of their numbers.
    pub refused: Vec<Refused>,
}

impl Appended {
    /// All rows were added.
    pub fn all(rows: u64) -> Self {
        Self {
            rows,
            refused: Vec::new(),
        }
    }
}

/// A row that a table does not take for what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Its number among the rows of all batches.
    pub row: usize,
    pub reason: String,
}

/// An offline store.
#[async_trait]
pub trait OfflineStore: Send + Sync + 'static {
    async fn historical(&self, query: HistoricalQuery) -> Result<SendableRecordBatchStream>;

    async fn pull(&self, pull: Pull) -> Result<SendableRecordBatchStream>;

    /// All rows of a pull, in as many parts as can be read at the same time.
    async fn pull_parts(&self, pull: Pull) -> Result<Parts> {
        Ok(Parts::whole(self.pull(pull).await?))
    }

    /// Of a pull only the newest row of each key, times compared in microseconds, in parts, where the store has
    /// them found elsewhere than in this process; `None` where they are to be found from all rows.
    async fn newest_parts(&self, _pull: &Pull) -> Result<Option<Parts>> {
        Ok(None)
    }

    /// Appends rows to a source, all or nothing; the rows must have the source's columns. With the same marker
    /// in `once`, a file that it writes for itself and the caller removes in the end, another call adds what
    /// an interrupted one did not, and nothing else. There, rows that the source will not take for what is in
    /// them, a constraint of a table say, are left out; every call tells them.
    async fn append(
        &self,
        source: &DataSource,
        batches: Vec<RecordBatch>,
        once: Option<&Path>,
    ) -> Result<Appended>;

    /// Writes a stream as a new data set at the location of `target`, with a note if its form has a place for one.
    async fn save(
        &self,
        target: &DataSource,
        rows: SendableRecordBatchStream,
        overwrite: bool,
        note: Option<Note>,
    ) -> Result<u64>;

    /// Adds rows to the log of a feature service, if the store keeps logs itself; otherwise they are files to be
    /// [saved](Self::save).
    async fn log(&self, _service: &str, _batches: &[RecordBatch]) -> Result<Option<u64>> {
        Ok(None)
    }

    /// The note that was saved with the rows of a source, or whatever is in its place.
    async fn note(&self, _source: &DataSource) -> Result<Option<String>> {
        Ok(None)
    }

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

    /// How many rows a window of a source has at most, where that can be told at once: for showing how far a
    /// run is, and for leaving out what has none.
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

/// Whether rows with these columns have all that a table or file, the `place`, has, and nothing else; `used` are
/// the given columns that it has, `missing` those it has and the rows have not. An index of pandas is no column.
pub(super) fn check_columns(given: &Schema, used: &[usize], missing: &[&str], place: &str) -> Result<()> {
    let extra = given.fields().iter().enumerate();
    let extra: Vec<_> = extra
        .filter(|(at, field)| !used.contains(at) && !field.name().starts_with("__index_level_"))
        .map(|(_, field)| field.name().as_str())
        .collect();
    let problems = [("missing", missing), ("unknown", &extra)];
    let problems = problems.iter().filter(|(_, names)| !names.is_empty());
    let problems: Vec<_> = problems
        .map(|(what, names)| format!("{what} {}", listed(names.iter().copied())))
        .collect();
    if problems.is_empty() {
        return Ok(());
    }
    let problems = problems.join(", ");
    Err(Error::invalid(format!(
        "the rows do not have the columns of {place}: {problems}"
    )))
}

/// Bytes of the batch's own part of its buffers. Columns that came in one message share its buffer, and
/// would otherwise count all of it each.
pub(super) fn bytes_of(batch: &RecordBatch) -> usize {
    let column = |column: &ArrayRef| column.to_data().get_slice_memory_size().unwrap_or_default();
    batch.columns().iter().map(column).sum()
}
