//! thali's own lookup route, for its web page: any project's features in Feast's answer.

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    response::Response,
    routing::post,
};

use super::reply::{Failure, json_bytes};
use crate::{
    context::Context,
    online::{
        json::{body, write_response},
        serve::Server,
    },
};

/// The route `/lookup`, to be mounted under `/api/thali/v1`.
pub fn lookup_router(context: &Context) -> Router {
    routes(Server::new(context), context.config.thali.online.max_body)
}

pub(super) fn routes(server: Server, max_body: usize) -> Router {
    Router::new()
        .route("/lookup", post(lookup))
        .layer(DefaultBodyLimit::max(max_body))
        .with_state(server)
}

async fn lookup(State(server): State<Server>, raw: Bytes) -> Result<Response, Failure> {
    let (project, request) = body::read_lookup(&raw)?;
    let project = project.unwrap_or_else(|| server.project.to_string());
    let response = server.get_from(&project, request).await?;
    let mut out = Vec::new();
    write_response(&mut out, &response)?;
    Ok(json_bytes(StatusCode::OK, out))
}
