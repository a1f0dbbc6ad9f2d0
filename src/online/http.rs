//! The HTTP feature server: Feast's routes, envelopes and statuses (`feast/feature_server.py`). It reads
//! bodies, calls one use-case and writes the answer; what is true of features is decided elsewhere.

mod audit;
mod exchange;
mod guard;
mod lookup;
mod materialize;
mod reply;
mod routes;
mod rows;
mod search;
mod vector_stores;

use std::sync::Arc;

use audit::Audit;
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use exchange::{Format, answer, is_protobuf};
use guard::{Guard, Size};
pub use lookup::lookup_router;
use prost::Message as _;
use reply::{Failure, json_bytes};
pub use rows::rows_router;
use serde_json::json;
use tower::ServiceBuilder;

use super::{
    ingest::{Frame, Options, Target, Writer},
    json::{body, write_response},
    limits::Limits,
    message,
    serve::Server,
    store::OlderRow,
    table,
};
use crate::{
    context::Context,
    error::{Error, Result},
    http::{openapi, route},
    proto::feast::serving::GetOnlineFeaturesRequest,
};

/// What the routes work with, shared by all requests.
type App = Arc<Parts>;

struct Parts {
    server: Server,
    writer: Writer,
    limits: Arc<Limits>,
}

/// Feast's feature server.
///
/// # Errors
/// `Config` when the audit log cannot be opened.
pub fn router(context: &Context, limits: Arc<Limits>) -> Result<Router> {
    let app = Arc::new(Parts {
        server: Server::new(context),
        writer: Writer::new(context),
        limits,
    });
    let config = &context.config.feature_server;
    let guard = Guard {
        limits: Arc::clone(&app.limits),
        metrics: Arc::clone(&app.server.metrics),
        shown: config.metrics.clone(),
        audit: config.audit.as_ref().map(Audit::open).transpose()?,
    };
    Ok(routes(&app, materialize::routes(context), guard))
}

fn routes(app: &App, more: Vec<route::Route<()>>, guard: Guard) -> Router {
    let (mut data, plain) = (routes::data(app), routes::plain(app));
    route::add(&mut data, "writing", more);
    let document = Arc::new(openapi::document(routes::about(), data.iter().chain(&plain)));
    // The guard has the limits, and reads the body before a handler does.
    let data = route::router(data).layer(
        ServiceBuilder::new()
            .layer(DefaultBodyLimit::disable())
            .layer(middleware::from_fn_with_state(Arc::new(guard), guard::guard)),
    );
    route::router(plain)
        .route("/chat", get(no_chat_page))
        .route("/ws/chat", get(no_chat_page))
        .route(
            "/openapi.json",
            get(move || openapi::answer(Arc::clone(&document))),
        )
        .route("/docs", get(openapi::page))
        .merge(data)
        .method_not_allowed_fallback(reply::method_not_allowed)
        .fallback(reply::not_found)
}

async fn get_online_features(
    State(app): State<App>,
    headers: HeaderMap,
    raw: Bytes,
) -> Result<Response, Failure> {
    let request = if is_protobuf(&headers) {
        message::request(GetOnlineFeaturesRequest::decode(raw).map_err(Error::from)?)
    } else {
        body::read_request(&raw)?
    };
    app.limits.check_rows(request.rows())?;
    let id = headers.get("x-request-id").and_then(|id| id.to_str().ok());
    let response = app.server.serve(request, id).await?;
    let format = Format::accepted(&headers);
    let mut out = Vec::new();
    match format {
        Format::Json => write_response(&mut out, &response)?,
        Format::Protobuf => out = message::response(&response)?.encode_to_vec(),
        Format::Arrow => table::write_stream(&mut out, &response)?,
    }
    let mut answer = answer(&headers, &app.limits, format, out);
    answer.extensions_mut().insert(Size {
        features: response.feature_count(),
        views: response.view_count(),
        rows: response.rows(),
        read: response.read,
    });
    Ok(answer)
}

async fn push(State(app): State<App>, raw: Bytes) -> Result<Response, Failure> {
    let body = body::read_push(&raw)?;
    app.limits.check_rows(rows(&body.df))?;
    let target = Target::parse(&body.to)?;
    let frame = Frame::from_json(body.df)?;
    let options = Options {
        transform: body.transform_on_write,
        older: older(body.allow_older),
        ..Options::default()
    };
    let pushed = app
        .writer
        .push(&body.push_source_name, &frame, target, options)
        .await?;
    let status = if pushed.queued {
        StatusCode::ACCEPTED
    } else {
        StatusCode::OK
    };
    Ok(status.into_response())
}

async fn write_to_online_store(State(app): State<App>, raw: Bytes) -> Result<Response, Failure> {
    let body = body::read_write(&raw)?;
    app.limits.check_rows(rows(&body.df))?;
    let frame = Frame::from_json(body.df)?;
    let options = Options {
        transform: body.transform_on_write,
        fresh_registry: !body.allow_registry_cache,
        older: older(body.allow_older),
    };
    app.writer
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

fn rows(columns: &body::Columns) -> usize {
    columns.first().map_or(0, |(_, values)| values.len())
}

/// Healthy while the registry can be read, as in Feast.
async fn health(State(app): State<App>) -> StatusCode {
    match app.server.registry.check().await {
        Ok(()) => StatusCode::OK,
        Err(error) => {
            tracing::warn!(%error, "the registry cannot be read");
            StatusCode::SERVICE_UNAVAILABLE
        }
    }
}

/// Feast's chat page and its socket are not here; a client that looks for them is told so.
async fn no_chat_page() -> Response {
    let text = "Feast's chat page is not served by thali: its answers are always the same. POST /chat gives the answer.";
    (StatusCode::NOT_FOUND, axum::Json(json!({"detail": text}))).into_response()
}

/// Feast's feature server has a chat page whose answer is fixed. The body is read, since a connection with
/// an unread one is closed.
async fn chat(_body: Bytes) -> Response {
    axum::Json(json!({"response": "This is a dummy response from the Feast feature server."})).into_response()
}

#[cfg(test)]
mod tests;
