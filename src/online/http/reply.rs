//! Answers other than the features themselves: errors and refusals in the shapes Feast's clients parse.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::{
    error::{Error, Kind},
    online::json::body::Rejection,
};

/// Why a request was not answered.
#[derive(Debug)]
pub(super) enum Failure {
    /// The body does not have the form of the route's request.
    Rejected(Rejection),
    Failed(Error),
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Self::Rejected(rejection) => (
                StatusCode::UNPROCESSABLE_ENTITY,
                axum::Json(json!({"detail": rejection.detail})),
            )
                .into_response(),
            Self::Failed(error) => {
                let status =
                    StatusCode::from_u16(error.kind().http()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                // Of what is turned away there may be thousands in a second; it is counted.
                if error.kind().is_callers_fault() || error.kind() == Kind::Overloaded {
                    tracing::debug!(%error, "request refused");
                } else {
                    tracing::error!(%error, source = ?std::error::Error::source(&error), "request failed");
                }
                // Encoded twice: Feast's clients expect a JSON text that holds a JSON object.
                let mut response = (status, axum::Json(error.feast_detail())).into_response();
                if status == StatusCode::SERVICE_UNAVAILABLE {
                    let soon = HeaderValue::from_static("1");
                    response.headers_mut().insert(header::RETRY_AFTER, soon);
                }
                response
            }
        }
    }
}

/// A finished JSON document.
pub(super) fn json_bytes(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

pub(super) async fn not_found() -> Response {
    (StatusCode::NOT_FOUND, axum::Json(json!({"detail": "Not Found"}))).into_response()
}

pub(super) async fn method_not_allowed() -> Response {
    (
        StatusCode::METHOD_NOT_ALLOWED,
        axum::Json(json!({"detail": "Method Not Allowed"})),
    )
        .into_response()
}
