//! thali's own routes about jobs: runs as the ledger has them, and schedules with their next moment.

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    driver::{Schedule, schedule_text},
    ledger::{Run, RunFilter},
};
use crate::{
    context::Context,
    error::{Error, Kind, Result},
};

/// The routes, to be mounted under `/api/thali/v1`.
pub fn router(context: Context) -> Router {
    Router::new()
        .route("/jobs", get(jobs))
        .route("/jobs/{id}/cancel", post(cancel))
        .route("/schedules", get(schedules))
        .with_state(context)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct JobsQuery {
    project: Option<String>,
    feature_view: Option<String>,
    #[serde(default)]
    limit: u32,
}

async fn jobs(State(context): State<Context>, Query(query): Query<JobsQuery>) -> Response {
    let filter = RunFilter {
        project: query.project.filter(|text| !text.is_empty()),
        feature_view: query.feature_view.filter(|text| !text.is_empty()),
        limit: query.limit.min(1000),
    };
    let listed = context.ledger.runs(&filter).await;
    answer(listed.map(|runs| json!({"jobs": runs})))
}

/// Asks a run to stop; it does within seconds, wherever it runs.
async fn cancel(State(context): State<Context>, Path(id): Path<String>) -> Response {
    let asked = match context.ledger.cancel(&id).await {
        Ok(true) => Ok(json!({"id": id, "status": "cancelling"})),
        Ok(false) => Err(Error::new(
            Kind::ObjectNotFound,
            format!("no run `{id}` is running"),
        )),
        Err(error) => Err(error),
    };
    answer(asked)
}

#[derive(Debug, Deserialize)]
struct SchedulesQuery {
    project: Option<String>,
}

async fn schedules(State(context): State<Context>, Query(query): Query<SchedulesQuery>) -> Response {
    answer(listed_schedules(&context, query.project.as_deref()).await)
}

async fn listed_schedules(context: &Context, project: Option<&str>) -> Result<Value> {
    let project = project
        .filter(|name| !name.is_empty())
        .unwrap_or(&context.config.project);
    let catalog = context.registry.catalog(project).await?;
    let mut listed = Vec::new();
    // Only the configured project is driven by this node's schedules.
    let driven = project == context.config.project;
    for view in catalog.stored_views() {
        let Some(text) = schedule_text(context, view).filter(|_| driven) else {
            continue;
        };
        let last: Option<Run> = context.ledger.last_scheduled(project, &view.name).await?;
        let (next, problem) = match Schedule::parse(text) {
            Ok(schedule) => (schedule.next(Utc::now()).map(rfc3339), None),
            Err(error) => (None, Some(error.one_line())),
        };
        listed.push(json!({
            "featureView": view.name, "schedule": text, "nextRun": next, "lastRun": last, "problem": problem,
        }));
    }
    Ok(json!({"schedules": listed}))
}

fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// The body, or the error in the shape of the registry's REST surface.
fn answer(outcome: Result<Value, Error>) -> Response {
    match outcome {
        Ok(body) => Json(body).into_response(),
        Err(error) => {
            let status =
                StatusCode::from_u16(error.kind().http()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let body = json!({
                "status_code": status.as_u16(),
                "detail": error.one_line(),
                "error_type": error.kind().feast_class(),
            });
            (status, Json(body)).into_response()
        }
    }
}
