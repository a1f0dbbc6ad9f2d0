//! The HTTP feature server: Feast's routes, envelopes and statuses (`feast/feature_server.py`). It reads
//! bodies, calls one use-case and writes the answer; what is true of features is decided elsewhere.

mod lookup;
mod materialize;
mod reply;

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, FromRef, Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
pub use lookup::lookup_router;
use reply::{Failure, json_bytes};
use serde_json::json;

use super::{
    ingest::{Frame, Options, Target, Writer},
    json::{body, write_response},
    serve::Server,
    store::OlderRow,
};
use crate::{context::Context, error::Error};

/// The largest body that is read.
const MAX_BODY: usize = 64 << 20;

/// What the routes work with.
#[derive(Clone, FromRef)]
struct App {
    server: Server,
    writer: Writer,
}

/// Feast's feature server.
pub fn router(context: Context) -> Router {
    let app = App {
        server: Server::new(&context),
        writer: Writer::new(&context),
    };
    routes(app, materialize::routes(context))
}

fn routes(app: App, more: Router) -> Router {
    let routes = Router::new()
        .route("/get-online-features", post(get_online_features))
        .route("/push", post(push))
        .route("/write-to-online-store", post(write_to_online_store))
        .route("/health", get(health))
        .route("/chat", post(chat))
        .route("/search", post(search))
        .route("/retrieve-online-documents", post(search))
        .route("/v1/vector_stores", get(vector_stores))
        .route("/v1/vector_stores/{id}", get(no_vector_store))
        .route("/v1/vector_stores/{id}/search", post(no_vector_store))
        .route("/openapi.json", get(openapi))
        .with_state(app);
    routes
        .merge(more)
        .method_not_allowed_fallback(reply::method_not_allowed)
        .fallback(reply::not_found)
        .layer(DefaultBodyLimit::max(MAX_BODY))
}

async fn get_online_features(State(server): State<Server>, raw: Bytes) -> Result<Response, Failure> {
    let request = body::read_request(&raw)?;
    let response = server.get(request).await?;
    let mut out = Vec::new();
    write_response(&mut out, &response)?;
    Ok(json_bytes(StatusCode::OK, out))
}

async fn push(State(writer): State<Writer>, raw: Bytes) -> Result<Response, Failure> {
    let body = body::read_push(&raw)?;
    let target = Target::parse(&body.to)?;
    let frame = Frame::from_json(body.df)?;
    let options = Options {
        transform: body.transform_on_write,
        older: older(body.allow_older),
        ..Options::default()
    };
    let pushed = writer
        .push(&body.push_source_name, &frame, target, options)
        .await?;
    let status = if pushed.queued {
        StatusCode::ACCEPTED
    } else {
        StatusCode::OK
    };
    Ok(status.into_response())
}

async fn write_to_online_store(State(writer): State<Writer>, raw: Bytes) -> Result<Response, Failure> {
    let body = body::read_write(&raw)?;
    let frame = Frame::from_json(body.df)?;
    let options = Options {
        transform: body.transform_on_write,
        fresh_registry: !body.allow_registry_cache,
        older: older(body.allow_older),
    };
    writer
        .write_to_online_store(&body.feature_view_name, &frame, options)
        .await?;
    Ok(json_bytes(StatusCode::OK, b"null".to_vec()))
}

/// What a row does that is older than the stored one.
fn older(allowed: bool) -> OlderRow {
    if allowed {
        OlderRow::Overwrite
    } else {
        OlderRow::Skip
    }
}

/// Healthy while the registry can be read, as in Feast.
async fn health(State(server): State<Server>) -> StatusCode {
    match server.registry.check().await {
        Ok(()) => StatusCode::OK,
        Err(error) => {
            tracing::warn!(%error, "the registry cannot be read");
            StatusCode::SERVICE_UNAVAILABLE
        }
    }
}

/// Feast's feature server has a chat page whose answer is fixed.
async fn chat() -> Response {
    axum::Json(json!({"response": "This is a dummy response from the Feast feature server."})).into_response()
}

/// Similarity search needs a store that can do it.
async fn search() -> Failure {
    Error::unsupported("the online store `sqlite` does not support similarity search").into()
}

/// The routes there are, for clients that look before they call.
async fn openapi() -> Response {
    let operation = |method: &str, summary: &str| json!({ method: {"summary": summary, "responses": {"200": {"description": "OK"}}} });
    let document = json!({
        "openapi": "3.1.0",
        "info": {"title": "thali feature server", "version": env!("CARGO_PKG_VERSION")},
        "paths": {
            "/get-online-features": operation("post", "Get online features"),
            "/push": operation("post", "Push rows to the views of a push source"),
            "/write-to-online-store": operation("post", "Write rows to one view"),
            "/materialize": operation("post", "Materialize a window"),
            "/materialize-incremental": operation("post", "Materialize what is new"),
            "/health": operation("get", "Health"),
        },
    });
    axum::Json(document).into_response()
}

/// Views with a searchable vector, of which no store built in so far has any.
async fn vector_stores() -> Response {
    axum::Json(json!({"object": "list", "data": []})).into_response()
}

async fn no_vector_store(Path(id): Path<String>) -> Response {
    let message = format!("No vector store found with id '{id}'");
    let body = json!({"error": {"message": message, "type": "not_found_error"}});
    (StatusCode::NOT_FOUND, axum::Json(body)).into_response()
}

#[cfg(test)]
mod tests;
