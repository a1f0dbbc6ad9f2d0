//! The HTTP feature server: Feast's routes, envelopes and statuses (`feast/feature_server.py`). It reads
//! bodies, calls one use-case and writes the answer; what is true of features is decided elsewhere.

mod reply;

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use reply::{Failure, json_bytes};
use serde_json::json;

use super::{
    json::{body, write_response},
    serve::Server,
};
use crate::context::Context;

/// The largest body that is read.
const MAX_BODY: usize = 64 << 20;

/// Feast's feature server.
pub fn router(context: Context) -> Router {
    let server = Server::new(context);
    Router::new()
        .route("/get-online-features", post(get_online_features))
        .route("/health", get(health))
        .route("/chat", post(chat))
        .method_not_allowed_fallback(reply::method_not_allowed)
        .fallback(reply::not_found)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(server)
}

async fn get_online_features(State(server): State<Server>, raw: Bytes) -> Result<Response, Failure> {
    let request = body::read_request(&raw)?;
    let response = server.get(request).await?;
    let mut out = Vec::new();
    write_response(&mut out, &response)?;
    Ok(json_bytes(StatusCode::OK, out))
}

/// Healthy while the registry can be read, as in Feast.
async fn health(State(server): State<Server>) -> StatusCode {
    match server.context.registry.check().await {
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
