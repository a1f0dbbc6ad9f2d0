//! Historical features: feature references or a service and entity rows in, joined and computed rows out.
//!
//! Names are resolved against the catalog (`resolve`), the store joins the stored views, and on-demand
//! views are computed on the joined batches as they come (`compute`). It knows no wire format.
//!
//! Result columns are the entity columns in their order, then features view by view in the order of the
//! references, then computed features. Without entity rows they start with `event_timestamp` and keys.

mod compute;
mod resolve;

use std::{sync::Arc, time::Instant};

use arrow::{
    datatypes::{DataType, Schema, SchemaRef},
    record_batch::{RecordBatch, RecordBatchOptions},
};
use chrono::{DateTime, TimeDelta, Utc};
use datafusion::{execution::SendableRecordBatchStream, physical_plan::stream::RecordBatchStreamAdapter};
use futures::TryStreamExt;

use self::resolve::Plan;
use super::{
    asof::times::is_moment,
    store::{EntityRows, HistoricalQuery, OfflineStore, listed},
};
use crate::{
    context::Context,
    error::{Error, Kind, Result},
    metrics::{MethodLabel, MethodStatus, Metrics},
    model::{Object, ObjectKind},
    proto::feast::core::DataSource,
    registry::Catalog,
    transform::Transformer,
};

/// The column that holds each entity row's moment, unless there is only one that can.
const EVENT_TIMESTAMP: &str = "event_timestamp";
/// How far a query without entity rows and ttl goes back, as Feast does.
const DEFAULT_RANGE: TimeDelta = TimeDelta::days(30);

/// A question for historical features.
pub struct HistoricalRequest {
    pub rows: RequestRows,
    pub wanted: Wanted,
    /// Whether features are called `view__feature`.
    pub full_feature_names: bool,
    /// Only rows created by the entity row's time count (known-as-of).
    pub filter_by_created: bool,
}

/// What the answer has rows for.
pub enum RequestRows {
    Given {
        schema: SchemaRef,
        batches: Vec<RecordBatch>,
    },
    /// Every key and time in a range; its end is now and its start the longest ttl before, if not given.
    Range {
        start: Option<DateTime<Utc>>,
        end: Option<DateTime<Utc>>,
    },
    /// A query for entity rows, over the data sources of the project.
    Sql(String),
}

/// Which features are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// `view:feature` references. A name among `aliases` means the view it stands for, with the join key
    /// map of the feature service that defines it.
    Features {
        references: Vec<String>,
        aliases: Vec<Alias>,
    },
    /// A feature service by name.
    Service(String),
}

impl Wanted {
    /// Plain references.
    pub fn features(references: Vec<String>) -> Self {
        Self::Features {
            references,
            aliases: Vec::new(),
        }
    }
}

/// Another name of a view in references.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alias {
    pub view: String,
    pub alias: String,
}

/// Answers a question about `project` with a stream of rows.
///
/// # Errors
/// Not-found kinds for unknown names, `FeatureNameCollision`, `EntityColumnsMissing`,
/// `RequestDataNotFound`, and what the store and the transformations return.
pub async fn historical(
    context: &Context,
    project: &str,
    request: HistoricalRequest,
) -> Result<SendableRecordBatchStream> {
    let catalog = context.registry.fresh_catalog(project).await?;
    let (offline, transformer) = (Arc::clone(&context.offline), Arc::clone(&context.transformer));
    let work = async move { retrieve(&catalog, offline.as_ref(), transformer, request).await };
    observed(
        &context.metrics,
        "get_historical_features",
        context.background.run(work),
    )
    .await
}

/// The same on given parts.
pub(super) async fn retrieve(
    catalog: &Catalog,
    offline: &dyn OfflineStore,
    transformer: Arc<Transformer>,
    request: HistoricalRequest,
) -> Result<SendableRecordBatchStream> {
    let mut plan = Plan::resolve(catalog, &request.wanted, request.full_feature_names)?;
    let entities = match request.rows {
        RequestRows::Range { start, end } => {
            if let Some(column) = plan.request_columns().next() {
                return Err(missing_request_data(
                    column,
                    "a query without entity rows has none",
                ));
            }
            range(&plan, start, end)
        }
        RequestRows::Given { schema, batches } => given(&plan, &schema, batches)?,
        RequestRows::Sql(sql) if offline.takes_queries() => EntityRows::Query(sql),
        RequestRows::Sql(sql) => {
            let (schema, batches) = offline.select(&sql, &tables(catalog)?).await?;
            given(&plan, &schema, batches)?
        }
    };
    let views = std::mem::take(&mut plan.views);
    let query = HistoricalQuery {
        entities,
        views,
        filter_by_created: request.filter_by_created,
    };
    let joined = offline.historical(query).await?;
    compute::computed(plan, joined, transformer).await
}

/// Rows that came, checked against the plan.
fn given(plan: &Plan, schema: &SchemaRef, batches: Vec<RecordBatch>) -> Result<EntityRows> {
    let (schema, batches) = without_index(schema, batches)?;
    plan.check_entities(&schema)?;
    let timestamp_column = timestamp_column(&schema)?.to_owned();
    Ok(EntityRows::Batches {
        schema,
        batches,
        timestamp_column,
    })
}

/// What a query for entity rows can read: the data sources of the project; of those that are pushed to,
/// their history.
fn tables(catalog: &Catalog) -> Result<Vec<DataSource>> {
    let table = |object: &Arc<Object>| {
        let source: DataSource = object.decode()?;
        Ok(match source.batch_source {
            Some(batch) => DataSource {
                name: source.name,
                ..*batch
            },
            None => source,
        })
    };
    catalog
        .objects(ObjectKind::DataSource)
        .iter()
        .map(table)
        .collect()
}

/// Counts a request, how long it took until its first row could be given, and the rows it gives.
pub(super) async fn observed(
    metrics: &Arc<Metrics>,
    method: &str,
    work: impl Future<Output = Result<SendableRecordBatchStream>>,
) -> Result<SendableRecordBatchStream> {
    let started = Instant::now();
    let outcome = work.await;
    let label = MethodLabel {
        method: method.to_owned(),
    };
    metrics
        .offline_latency
        .get_or_create(&label)
        .observe(started.elapsed().as_secs_f64());
    let status = if outcome.is_ok() { "success" } else { "error" };
    metrics
        .offline_requests
        .get_or_create(&MethodStatus {
            method: method.to_owned(),
            status,
        })
        .inc();
    let stream = outcome?;
    let mut count = RowCount {
        metrics: Arc::clone(metrics),
        label,
        rows: 0,
    };
    let counted = stream.schema();
    let rows = stream.inspect_ok(move |batch| count.add(batch.num_rows()));
    Ok(Box::pin(RecordBatchStreamAdapter::new(counted, rows)))
}

/// Rows given so far; observed when the stream ends or is dropped.
struct RowCount {
    metrics: Arc<Metrics>,
    label: MethodLabel,
    rows: usize,
}

impl RowCount {
    fn add(&mut self, rows: usize) {
        self.rows += rows;
    }
}

impl Drop for RowCount {
    fn drop(&mut self) {
        #[expect(clippy::cast_precision_loss, reason = "a bucket is wanted")]
        self.metrics
            .offline_rows
            .get_or_create(&self.label)
            .observe(self.rows as f64);
    }
}

fn range(plan: &Plan, start: Option<DateTime<Utc>>, end: Option<DateTime<Utc>>) -> EntityRows {
    let end = end.unwrap_or_else(Utc::now);
    let longest = plan.views.iter().filter_map(|view| view.ttl).max();
    let back = longest
        .and_then(|ttl| TimeDelta::from_std(ttl).ok())
        .unwrap_or(DEFAULT_RANGE);
    let start = start
        .or_else(|| end.checked_sub_signed(back))
        .unwrap_or(DateTime::<Utc>::MIN_UTC);
    EntityRows::Range { start, end }
}

/// Drops the columns a pandas index travels in.
fn without_index(schema: &SchemaRef, batches: Vec<RecordBatch>) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let is_index = |name: &str| {
        let digits = name
            .strip_prefix("__index_level_")
            .and_then(|rest| rest.strip_suffix("__"));
        digits.is_some_and(|digits| digits.parse::<u32>().is_ok())
    };
    let kept: Vec<usize> = (0..schema.fields().len())
        .filter(|&place| !is_index(schema.field(place).name()))
        .collect();
    let projected = schema.project(&kept)?;
    let mut metadata = projected.metadata().clone();
    if let Some(pandas) = metadata.get("pandas") {
        let columns = projected
            .fields()
            .iter()
            .filter(|field| !is_moment(field.data_type()));
        match pandas_metadata(
            pandas,
            &columns.map(|field| field.name().as_str()).collect::<Vec<_>>(),
        ) {
            Some(text) => metadata.insert("pandas".to_owned(), text),
            None => metadata.remove("pandas"),
        };
    }
    let schema = Arc::new(Schema::new_with_metadata(projected.fields, metadata));
    let project = |batch: RecordBatch| {
        let columns = kept
            .iter()
            .map(|&place| Arc::clone(batch.column(place)))
            .collect();
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(
            Arc::clone(&schema),
            columns,
            &options,
        )?)
    };
    let batches = batches.into_iter().map(project).collect::<Result<Vec<_>>>()?;
    Ok((schema, batches))
}

/// The uploaded `pandas` metadata for the columns that come back as they were, so that nullable integers
/// stay nullable integers in the caller's frame. The index and the time columns change, so they go.
fn pandas_metadata(text: &str, columns: &[&str]) -> Option<String> {
    let mut metadata: serde_json::Value = serde_json::from_str(text).ok()?;
    let described = metadata.get_mut("columns")?.as_array_mut()?;
    described.retain(|column| {
        column
            .get("name")
            .and_then(|name| name.as_str())
            .is_some_and(|name| columns.contains(&name))
    });
    metadata["index_columns"] = serde_json::json!([]);
    Some(metadata.to_string())
}

/// The column that holds the moments of entity rows.
fn timestamp_column(schema: &Schema) -> Result<&str> {
    if schema.index_of(EVENT_TIMESTAMP).is_ok() {
        return Ok(EVENT_TIMESTAMP);
    }
    // A date is no moment of its own: birthdays must not make the choice unclear.
    let is_time = |data_type: &DataType| matches!(data_type, DataType::Timestamp(..));
    let mut times = schema.fields().iter().filter(|field| is_time(field.data_type()));
    match (times.next(), times.next()) {
        (Some(only), None) => Ok(only.name()),
        (first, _) => {
            let columns = listed(schema.fields().iter().map(|field| field.name().as_str()));
            let why = if first.is_some() {
                "several columns of times"
            } else {
                "no column of times"
            };
            Err(Error::invalid(format!(
                "the entity rows have {why} and none is called `{EVENT_TIMESTAMP}`: {columns}"
            ))
            .hint(format!(
                "call the column that holds the time of each row `{EVENT_TIMESTAMP}`"
            )))
        }
    }
}

fn missing_request_data(column: &str, why: &str) -> Error {
    Error::new(
        Kind::RequestDataNotFound,
        format!("the on demand feature views need request data `{column}`: {why}"),
    )
}

#[cfg(test)]
mod tests;
