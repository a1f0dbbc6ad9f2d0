//! What saved datasets have beyond other objects: their rows, and the jobs that make them.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
};
use serde_json::{Value, json};

use super::{
    Api, Shared,
    params::{Body, Params},
    reply::{Answer, Failure},
    writes::bodies::CreateDatasetBody,
};
use crate::{
    context::Context,
    error::{Error, Kind},
    model::ObjectKind,
    proto::feast::registry::CreateDatasetFromRetrievalRequest,
    registry::datasets::{self, DatasetJobs, Job},
};

impl Api {
    fn context(&self) -> Result<&Context, Error> {
        self.context
            .as_ref()
            .ok_or_else(|| Error::unsupported("this server has no offline store"))
    }

    fn jobs(&self) -> Arc<DatasetJobs> {
        let jobs = self.context.as_ref().map(|context| Arc::clone(&context.datasets));
        jobs.unwrap_or_default()
    }
}

/// `GET /saved_datasets/data/{name}`.
pub(super) async fn data(State(api): Shared, Path(name): Path<String>, params: Params) -> Answer {
    let limit = usize::try_from(params.number("limit", 100)?.unwrap_or(10)).unwrap_or(10);
    let catalog = api.catalog(params.project()?, false).await?;
    let dataset = catalog.require(ObjectKind::SavedDataset, &name)?;
    let sample = datasets::sample(&api.offline, dataset, limit)
        .await
        .map_err(|error| Failure::http(500, format!("Failed to read dataset data: {}", error.one_line())))?;
    Ok(Json(json!({
        "columns": sample.columns,
        "sample_size": sample.rows.len(),
        "rows": sample.rows,
        "total_rows": sample.total,
    })))
}

fn report(job: &Job) -> Value {
    let report = job.report();
    json!({
        "job_id": report.job_id,
        "dataset_name": report.dataset_name,
        "project": report.project,
        "status": report.status,
        "created_at": report.created_at,
        "completed_at": report.completed_at,
        "error": report.error,
    })
}

/// `GET /saved_datasets/jobs`.
pub(super) async fn jobs(State(api): Shared, params: Params) -> Answer {
    let jobs = api.jobs().list(&params.text("project"), &params.text("status"));
    Ok(Json(json!({"jobs": jobs.iter().map(report).collect::<Vec<_>>()})))
}

/// `GET /saved_datasets/jobs/{id}`.
pub(super) async fn job(State(api): Shared, Path(id): Path<String>) -> Answer {
    Ok(Json(report(&api.jobs().get(&id)?)))
}

/// `POST /saved_datasets/create`.
pub(super) async fn create(State(api): Shared, Body(body): Body<CreateDatasetBody>) -> Answer {
    let request = CreateDatasetFromRetrievalRequest {
        name: body.name,
        project: body.project,
        feature_service_name: body.feature_service_name.unwrap_or_default(),
        features: body.features.unwrap_or_default(),
        entity_source_type: body.entity_source_type.unwrap_or_default(),
        entity_source_path: body.entity_source_path.unwrap_or_default(),
        entity_keys: body.entity_keys.unwrap_or_default(),
        entity_values: body.entity_values.unwrap_or_default(),
        start_date: body.start_date.unwrap_or_default(),
        end_date: body.end_date.unwrap_or_default(),
        extra_columns: body.extra_columns.unwrap_or_default(),
        storage_type: body.storage_type.unwrap_or_default(),
        storage_path: body.storage_path.unwrap_or_default(),
        tags: body.tags.unwrap_or_default(),
        allow_overwrite: body.allow_overwrite.unwrap_or_default(),
    };
    // Feast refuses what is missing with 400.
    let refused = |error: Error| match error.kind() {
        Kind::InvalidArgument => Failure::http(400, error.one_line()),
        _ => error.into(),
    };
    let job = datasets::create(api.context()?, request).await.map_err(refused)?;
    Ok(Json(json!({"job_id": job.id, "status": job.status.name()})))
}
