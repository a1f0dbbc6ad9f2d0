//! What saved datasets have beyond other objects: their rows, and the jobs that make them (which do not
//! run here, so there are none).

use std::sync::Arc;

use arrow::json::{WriterBuilder, writer::JsonArray};
use axum::{
    Json,
    extract::{Path, State},
};
use futures::StreamExt;
use serde_json::{Value, json};

use super::{
    Shared,
    params::Params,
    reply::{Answer, Failure},
};
use crate::{
    error::{Error, Kind, Result},
    model::{Object, ObjectKind},
    offline::store::{OfflineStore, Pull},
    proto::feast::core::{self, data_source, saved_dataset_storage},
};

/// The first rows of a dataset.
struct Sample {
    columns: Vec<String>,
    rows: Vec<Value>,
    total: usize,
}

/// `GET /saved_datasets/data/{name}`.
pub(super) async fn data(State(api): Shared, Path(name): Path<String>, params: Params) -> Answer {
    let limit = usize::try_from(params.number("limit", 100)?.unwrap_or(10)).unwrap_or(10);
    let catalog = api.catalog(params.project()?, false).await?;
    let object = catalog.require(ObjectKind::SavedDataset, &name)?;
    let failed =
        |error: Error| Failure::http(500, format!("Failed to read dataset data: {}", error.one_line()));
    let sample = sample(&api.offline, object, limit).await.map_err(failed)?;
    Ok(Json(json!({
        "columns": sample.columns,
        "sample_size": sample.rows.len(),
        "rows": sample.rows,
        "total_rows": sample.total,
    })))
}

async fn sample(offline: &Arc<dyn OfflineStore>, dataset: &Object, limit: usize) -> Result<Sample> {
    let source = Arc::new(source(dataset)?);
    let schema = offline.schema(&source).await?;
    let columns: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
    let pull = Pull {
        source,
        join_keys: Vec::new(),
        features: columns.clone(),
        start: None,
        end: None,
        latest_only: false,
    };
    let mut stream = offline.pull(pull).await?;
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
            let text = writer.into_inner();
            let values: Vec<Value> = serde_json::from_slice(&text)
                .map_err(|error| Error::internal("rows have no JSON form").source_error(error))?;
            rows.extend(values);
        }
    }
    Ok(Sample { columns, rows, total })
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

/// `GET /saved_datasets/jobs`.
pub(super) async fn jobs() -> Answer {
    Ok(Json(json!({"jobs": []})))
}

/// `GET /saved_datasets/jobs/{id}`.
pub(super) async fn job(Path(id): Path<String>) -> Answer {
    Err(Error::new(Kind::ObjectNotFound, format!("Dataset job {id} not found")).into())
}

/// `POST /saved_datasets/create`.
pub(super) async fn create() -> Answer {
    Err(
        Error::unsupported("saved datasets cannot be created through the registry server")
            .hint("use `FeatureStore.create_saved_dataset` of the SDK")
            .into(),
    )
}
