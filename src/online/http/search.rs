//! The search routes: Feast's own, whose version 1 is deprecated.

use axum::{body::Bytes, extract::State, http::HeaderMap, response::Response};
use prost::Message as _;

use super::{
    App,
    exchange::{Format, answer},
    reply::Failure,
};
use crate::online::json::{body, write_message};

/// `POST /search` and `/retrieve-online-documents`.
pub(super) async fn search(
    State(app): State<App>,
    headers: HeaderMap,
    raw: Bytes,
) -> Result<Response, Failure> {
    let body = body::read_search(&raw)?;
    let found = app.server.search(body.request).await?;
    let message = if body.api_version == 2 {
        found.into_message()?
    } else {
        found.into_old_message()?
    };
    let mut out = Vec::new();
    // An answer of a search has no rows of entities that Arrow's columns could belong to.
    let format = match Format::accepted(&headers) {
        Format::Protobuf => {
            out = message.encode_to_vec();
            Format::Protobuf
        }
        Format::Json | Format::Arrow => {
            write_message(&mut out, &message);
            Format::Json
        }
    };
    Ok(answer(&headers, &app.limits, format, out))
}
