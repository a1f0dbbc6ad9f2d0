//! thali's own routes for what `thali online count|delete|truncate` does; Feast has none.

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::Response,
    routing::{get, post},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value as Json, json};

use super::reply::{Failure, json_bytes};
use crate::{
    context::Context,
    error::{Error, Result},
    online::rows::Rows,
};

/// The routes under `/rows`, to be mounted under `/api/thali/v1`.
pub fn rows_router(context: &Context) -> Router {
    Router::new()
        .route("/rows", get(count))
        .route("/rows/delete", post(delete))
        .route("/rows/truncate", post(truncate))
        .layer(DefaultBodyLimit::max(context.config.thali.online.max_body))
        .with_state(context.clone())
}

/// Whose rows.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Which {
    project: Option<String>,
    feature_view: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Deletion {
    project: Option<String>,
    feature_view: String,
    /// Values by join key.
    #[serde(default)]
    entities: Map<String, Json>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Truncation {
    project: Option<String>,
    feature_view: String,
}

async fn count(State(context): State<Context>, Query(which): Query<Which>) -> Result<Response, Failure> {
    let project = project(&context, which.project);
    let all = match &which.feature_view {
        Some(view) => vec![Rows::of(&context, &project, view).await?],
        None => Rows::of_all(&context, &project).await?,
    };
    let mut counts = Map::new();
    for rows in all {
        counts.insert(rows.view().to_owned(), rows.count().await?.into());
    }
    Ok(answer(&json!({"counts": counts})))
}

async fn delete(State(context): State<Context>, headers: HeaderMap, raw: Bytes) -> Result<Response, Failure> {
    let body: Deletion = read(&headers, &raw)?;
    let rows = Rows::of(&context, &project(&context, body.project), &body.feature_view).await?;
    let column = |(name, values): (String, Json)| match values {
        Json::Array(values) => Ok((name, values)),
        _ => Err(Error::invalid(format!("`entities.{name}` is no list of values"))),
    };
    let columns = body
        .entities
        .into_iter()
        .map(column)
        .collect::<Result<Vec<_>>>()?;
    let keys = rows.keys(&columns)?;
    let asked = keys.len();
    let deleted = to_the_end(&context, async move { rows.delete(&keys).await }).await?;
    Ok(answer(&json!({"asked": asked, "deleted": deleted})))
}

async fn truncate(
    State(context): State<Context>,
    headers: HeaderMap,
    raw: Bytes,
) -> Result<Response, Failure> {
    let body: Truncation = read(&headers, &raw)?;
    let rows = Rows::of(&context, &project(&context, body.project), &body.feature_view).await?;
    to_the_end(&context, async move { rows.truncate().await }).await?;
    Ok(answer(&json!({"truncated": body.feature_view})))
}

/// Whoever stops waiting, what was begun is done.
async fn to_the_end<T: Send + 'static>(
    context: &Context,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let done = context.unfinished.spawn(work).await;
    done.map_err(|error| Error::internal("a deletion ended unexpectedly").source_error(error))?
}

fn project(context: &Context, asked: Option<String>) -> String {
    let asked = asked.filter(|project| !project.is_empty());
    asked.unwrap_or_else(|| context.config.project.clone())
}

/// The body, which says that it is JSON: a page of another site cannot send that without asking first.
fn read<T: DeserializeOwned>(headers: &HeaderMap, raw: &[u8]) -> Result<T> {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    if !kind.is_some_and(|kind| kind.starts_with("application/json")) {
        return Err(Error::invalid("the body does not say that it is JSON")
            .hint("send it with `Content-Type: application/json`"));
    }
    serde_json::from_slice(raw).map_err(|error| Error::invalid(format!("the body: {error}")))
}

fn answer(body: &Json) -> Response {
    json_bytes(StatusCode::OK, body.to_string().into_bytes())
}
