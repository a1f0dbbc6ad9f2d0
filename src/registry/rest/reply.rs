//! What the REST routes answer: Feast's error body, and messages in `MessageToDict`'s shape.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

use crate::{
    error::{Error, Kind},
    model::Object,
    proto::feast::registry::{Feature, PaginationMetadata},
    registry::{envelopes, lineage::Relation},
};

/// What every route returns.
pub(super) type Answer = Result<Json<Value>, Failure>;

/// An error in Feast's envelope, `{"status_code", "detail", "error_type"}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    status: u16,
    detail: String,
    error_type: &'static str,
}

impl Failure {
    /// The route itself refuses.
    pub(super) fn http(status: u16, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: detail.into(),
            error_type: "HTTPException",
        }
    }

    /// A parameter or the body does not have the form that is asked for.
    pub(super) fn malformed(detail: impl Into<String>) -> Self {
        Self {
            status: 422,
            detail: detail.into(),
            error_type: "RequestValidationError",
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let kind = error.kind();
        let detail = error.one_line();
        match kind {
            Kind::InvalidArgument | Kind::Config => Self {
                status: 422,
                detail,
                error_type: "ValueError",
            },
            kind if kind.http() == 404 => Self {
                status: 404,
                detail,
                error_type: "FeastObjectNotFoundException",
            },
            kind if kind.is_callers_fault() => Self {
                status: kind.http(),
                detail,
                error_type: kind.feast_class(),
            },
            kind => {
                tracing::error!(%error, "request failed");
                let detail = format!("Internal server error: {detail}");
                Self {
                    status: kind.http(),
                    detail,
                    error_type: "InternalServerError",
                }
            }
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = json!({"status_code": self.status, "detail": self.detail, "error_type": self.error_type});
        (status, Json(body)).into_response()
    }
}

/// The object with its project filled in.
///
/// # Errors
/// `Internal` when stored bytes are malformed.
pub(super) fn object(object: &Object) -> Result<Map<String, Value>, Error> {
    let filled = Object {
        bytes: envelopes::with_project(object),
        ..object.clone()
    };
    match filled.to_json()? {
        Value::Object(fields) => Ok(fields),
        other => Err(Error::internal(format!(
            "object `{}` has the JSON form {other}",
            object.name
        ))),
    }
}

/// A feature; empty fields are left out.
pub(super) fn feature(feature: &Feature) -> Map<String, Value> {
    let texts = [
        ("name", &feature.name),
        ("featureView", &feature.feature_view),
        ("type", &feature.r#type),
        ("description", &feature.description),
        ("owner", &feature.owner),
    ];
    let mut fields = Map::new();
    for (name, text) in texts {
        if !text.is_empty() {
            fields.insert(name.to_owned(), text.as_str().into());
        }
    }
    if !feature.tags.is_empty() {
        fields.insert("tags".to_owned(), json!(feature.tags));
    }
    fields.insert("kind".to_owned(), feature.kind.as_str().into());
    fields
}

/// A page's place in its list; zeros are left out.
pub(super) fn pagination(page: &PaginationMetadata) -> Value {
    let mut fields = Map::new();
    let numbers = [
        ("page", page.page),
        ("limit", page.limit),
        ("totalCount", page.total_count),
        ("totalPages", page.total_pages),
    ];
    for (name, number) in numbers {
        if number != 0 {
            fields.insert(name.to_owned(), number.into());
        }
    }
    for (name, flag) in [("hasNext", page.has_next), ("hasPrevious", page.has_previous)] {
        if flag {
            fields.insert(name.to_owned(), true.into());
        }
    }
    Value::Object(fields)
}

/// An edge.
pub(super) fn relation(relation: &Relation) -> Value {
    json!({
        "source": {"type": relation.source.kind.name(), "name": relation.source.name},
        "target": {"type": relation.target.kind.name(), "name": relation.target.name},
    })
}

/// Edges.
pub(super) fn relations<'a>(relations: impl IntoIterator<Item = &'a Relation>) -> Vec<Value> {
    relations.into_iter().map(relation).collect()
}
