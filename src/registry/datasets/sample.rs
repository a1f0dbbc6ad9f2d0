//! The first rows of a dataset.

use std::sync::Arc;

use arrow::{
    datatypes::{DataType, SchemaRef},
    json::{WriterBuilder, writer::JsonArray},
};
use chrono::{DateTime, Utc};
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;
use serde_json::{Map, Value};

use crate::{
    error::{Error, Result},
    model::Object,
    offline::store::{OfflineStore, Pull},
    proto::feast::core::{self, data_source, saved_dataset_storage},
};

/// Columns that Feast takes for the time of a row, in this order.
const TIMES: [&str; 3] = ["event_timestamp", "datetime", "timestamp"];

/// The first rows of a dataset, and how many it has.
pub(crate) struct Sample {
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Map<String, Value>>,
    pub(crate) total: usize,
}

/// Reads the first `limit` rows.
///
/// # Errors
/// `Unsupported` when the dataset does not lie in files; what the offline store returns.
pub(crate) async fn sample(
    offline: &Arc<dyn OfflineStore>,
    dataset: &Object,
    limit: usize,
) -> Result<Sample> {
    let source = source(dataset)?;
    let known = offline.rows_at_most(&source, DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC);
    let mut stream = rows(offline, source).await?;
    let columns = stream.schema();
    let columns = columns
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect();
    let (mut rows, mut total) = (Vec::new(), 0);
    while let Some(batch) = stream.next().await {
        let batch = batch?;
        total += batch.num_rows();
        if rows.len() < limit {
            let wanted = batch.slice(0, batch.num_rows().min(limit - rows.len()));
            let mut writer = WriterBuilder::new()
                .with_explicit_nulls(true)
                .build::<_, JsonArray>(Vec::new());
            writer.write(&wanted)?;
            writer.finish()?;
            let values: Vec<Map<String, Value>> = serde_json::from_slice(&writer.into_inner())
                .map_err(|error| Error::internal("rows have no JSON form").source_error(error))?;
            rows.extend(values);
        }
        if let Some(known) = known
            && rows.len() >= limit
        {
            // What the files say about themselves saves reading the rest of them.
            total = usize::try_from(known).unwrap_or(usize::MAX);
            break;
        }
    }
    Ok(Sample { columns, rows, total })
}

/// Every row of a source that says nothing about its times.
pub(super) async fn rows(
    offline: &Arc<dyn OfflineStore>,
    mut source: core::DataSource,
) -> Result<SendableRecordBatchStream> {
    let schema = offline.schema(&source).await?;
    source.timestamp_field = time_column(&schema);
    let columns = schema.fields().iter().map(|field| field.name().clone());
    let features = columns.filter(|name| *name != source.timestamp_field).collect();
    let pull = Pull {
        source: Arc::new(source),
        join_keys: Vec::new(),
        features,
        start: None,
        end: None,
        latest_only: false,
    };
    offline.pull(pull).await
}

/// The column that says when a row was; empty when there is none, of which the store complains if it minds.
fn time_column(schema: &SchemaRef) -> String {
    let is_time = |name: &str| {
        let field = schema.field_with_name(name).ok()?;
        matches!(
            field.data_type(),
            DataType::Timestamp(..) | DataType::Date32 | DataType::Date64
        )
        .then(|| name.to_owned())
    };
    let names = schema.fields().iter().map(|field| field.name().as_str());
    TIMES
        .into_iter()
        .chain(names)
        .find_map(is_time)
        .unwrap_or_default()
}

/// The place a dataset lies in, as a source to read.
fn source(dataset: &Object) -> Result<core::DataSource> {
    let spec = dataset.decode::<core::SavedDataset>()?.spec.unwrap_or_default();
    match spec.storage.and_then(|storage| storage.kind) {
        Some(saved_dataset_storage::Kind::FileStorage(file)) => Ok(core::DataSource {
            name: dataset.name.clone(),
            r#type: data_source::SourceType::BatchFile.into(),
            options: Some(data_source::Options::FileOptions(file)),
            ..Default::default()
        }),
        _ => Err(Error::unsupported(format!(
            "saved dataset `{}` does not lie in files",
            dataset.name
        ))),
    }
}
