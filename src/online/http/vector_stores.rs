//! Views with a searchable vector as OpenAI's clients see vector stores. Texts are not embedded here, so
//! a search by text is refused as Feast refuses it without a model; a vector is taken instead.

use std::sync::Arc;

use axum::{
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value as Json, json};
use sha2::{Digest as _, Sha256};

use super::{App, reply::Failure};
use crate::{
    error::Result,
    model::{FeatureView, ObjectKind, value},
    online::{
        json::body::{self, Query},
        plan::Wanted,
        search::{Answer, Request},
    },
    proto::feast::core,
    registry::Catalog,
};

/// How many rows are answered when the request does not say.
const ROWS: i64 = 10;

/// `GET /v1/vector_stores`.
pub(super) async fn list(State(app): State<App>) -> Result<Response, Failure> {
    let catalog = app.server.registry.catalog(&app.server.project).await?;
    let mut stores = Vec::new();
    for view in searchable(&catalog) {
        stores.push(store(&catalog, view)?);
    }
    Ok(axum::Json(json!({"object": "list", "data": stores})).into_response())
}

/// `GET /v1/vector_stores/{id}`.
pub(super) async fn get(State(app): State<App>, Path(id): Path<String>) -> Result<Response, Failure> {
    let catalog = app.server.registry.catalog(&app.server.project).await?;
    let Some(view) = searchable(&catalog).find(|view| id_of(view) == id) else {
        return Ok(unknown(&id));
    };
    Ok(axum::Json(store(&catalog, view)?).into_response())
}

/// `POST /v1/vector_stores/{id}/search`.
pub(super) async fn search(
    State(app): State<App>,
    Path(id): Path<String>,
    raw: Bytes,
) -> Result<Response, Failure> {
    let body = body::read_vector_store_search(&raw)?;
    let catalog = app.server.registry.catalog(&app.server.project).await?;
    let Some(view) = searchable(&catalog).find(|view| id_of(view) == id) else {
        return Ok(unknown(&id));
    };
    if !body.unsupported.is_empty() {
        let names = body.unsupported.join(", ");
        return Ok(invalid(&format!(
            "not supported: {names}; leave these parameters out"
        )));
    }
    let vector = match body.query {
        Query::Vector(vector) => vector,
        Query::Texts(_) => {
            return Ok(invalid(
                "no embedding model: thali does not embed texts; give `query` as the vector of the text",
            ));
        }
    };
    let plain = view.features.iter().filter(|feature| !feature.vector_index);
    let features = body
        .features
        .unwrap_or_else(|| plain.map(|feature| feature.name.clone()).collect());
    let wanted = features.iter().map(|name| format!("{}:{name}", view.name));
    let echoed: Vec<Json> = vector.iter().map(|number| json!(number)).collect();
    let request = Request {
        wanted: Wanted::features(wanted),
        vector: Some(vector),
        text: None,
        metric: None,
        filter: body.filter,
        top_k: Some(body.max_num_results.unwrap_or(ROWS)),
        version_metadata: false,
    };
    let found = match app.server.search(request).await {
        Ok(found) => found,
        Err(error) if error.kind().is_callers_fault() => return Ok(invalid(&error.one_line())),
        Err(error) => return Err(error.into()),
    };
    let page = json!({
        "object": "vector_store.search_results.page",
        "search_query": echoed,
        "data": results(&id, &found)?,
        "has_more": false,
        "next_page": null,
    });
    Ok(axum::Json(page).into_response())
}

fn searchable(catalog: &Catalog) -> impl Iterator<Item = &Arc<FeatureView>> {
    catalog
        .stored_views()
        .into_iter()
        .filter(|view| view.features.iter().any(|feature| feature.vector_index))
}

/// As Feast makes them, so that clients keep theirs.
pub(super) fn id_of(view: &FeatureView) -> String {
    let digest = Sha256::digest(format!("{}:{}", view.project, view.name));
    format!("vs_{}", hex::encode(&digest[..12]))
}

fn store(catalog: &Catalog, view: &FeatureView) -> Result<Json> {
    let created = match catalog.object(view.kind, &view.name) {
        Some(object) if object.kind == ObjectKind::FeatureView => object
            .decode::<core::FeatureView>()?
            .meta
            .and_then(|meta| meta.created_timestamp),
        _ => None,
    };
    Ok(json!({
        "id": id_of(view),
        "object": "vector_store",
        "name": view.name,
        "status": "completed",
        "created_at": created.map_or(0, |time| time.seconds),
    }))
}

fn results(id: &str, found: &Answer) -> Result<Vec<Json>> {
    let columns: Vec<_> = (0..found.features.len())
        .map(|feature| found.values(feature))
        .collect::<Result<_>>()?;
    let metric = found
        .vector_field
        .as_ref()
        .and_then(|field| field.metric.as_deref());
    let mut keys: Vec<_> = found.join_keys().iter().collect();
    keys.sort_by(|a, b| a.0.cmp(&b.0));
    let rows = (0..found.rows()).map(|row| {
        let mut attributes = Map::new();
        let mut content = Vec::new();
        for (name, values) in found.features.iter().zip(&columns) {
            let value = values[row].as_ref().map_or(Json::Null, value::json::to_json);
            if let Json::String(text) = &value {
                content.push(json!({"type": "text", "text": text}));
            }
            attributes.insert(name.clone(), value);
        }
        if content.is_empty() {
            let all = Json::Object(attributes.clone()).to_string();
            content.push(json!({"type": "text", "text": all}));
        }
        let key = keys
            .iter()
            .map(|(_, values)| value::text::value_text(&values[row]).unwrap_or_default());
        let key: Vec<String> = key.collect();
        let name = if key.is_empty() {
            row.to_string()
        } else {
            key.join("_")
        };
        let distance = found.distances().map_or(0.0, |distances| distances[row]);
        json!({
            "file_id": format!("{id}_{name}"),
            "filename": id,
            "score": score(distance, metric),
            "attributes": attributes,
            "content": content,
        })
    });
    Ok(rows.collect())
}

/// OpenAI's scores are better when greater (`feast/utils.py:_distance_to_score`).
fn score(distance: f64, metric: Option<&str>) -> f64 {
    match metric.unwrap_or("L2").to_ascii_lowercase().as_str() {
        "cosine" => (1.0 - distance).max(0.0),
        "inner_product" | "ip" | "dot" => -distance,
        _ => 1.0 / (1.0 + distance),
    }
}

fn unknown(id: &str) -> Response {
    refusal(
        StatusCode::NOT_FOUND,
        "not_found_error",
        &format!("No vector store found with id '{id}'"),
    )
}

fn invalid(message: &str) -> Response {
    refusal(StatusCode::UNPROCESSABLE_ENTITY, "invalid_request_error", message)
}

fn refusal(status: StatusCode, kind: &str, message: &str) -> Response {
    let body = json!({"error": {"message": message, "type": kind}});
    (status, axum::Json(body)).into_response()
}
