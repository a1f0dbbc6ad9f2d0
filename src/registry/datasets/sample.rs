//! The first rows of a dataset.

use std::sync::Arc;

use arrow::json::{WriterBuilder, writer::JsonArray};
use chrono::{DateTime, Utc};
use futures::StreamExt;
use serde_json::{Map, Value};

use crate::{
    error::{Error, Result},
    model::Object,
    offline::{
        dataset::{every_row, source_of},
        store::OfflineStore,
    },
};

/// The first rows of a dataset, and how many it has.
pub(crate) struct Sample {
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Map<String, Value>>,
    pub(crate) total: usize,
}

/// Reads the first `limit` rows.
///
/// # Errors
/// `Unsupported` when the dataset lies where nothing is read; what the offline store returns.
pub(crate) async fn sample(
    offline: &Arc<dyn OfflineStore>,
    dataset: &Object,
    limit: usize,
) -> Result<Sample> {
    let source = source_of(dataset)?;
    let (first, last) = (DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC);
    let known = offline.rows_at_most(&source, first, last).await;
    let mut stream = every_row(offline, source).await?;
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
