//! `/openapi.json` and the page that shows it: both say what the table of routes says, and no more.

pub(crate) mod schema;

use std::sync::Arc;

use axum::{
    Json,
    http::header,
    response::{Html, IntoResponse},
};
use serde_json::{Map, Value, json};

use super::route::{Param, Route};

/// The page, which reads the document from beside itself.
const PAGE: &str = include_str!("openapi/page.html");

/// `GET /openapi.json`.
pub(crate) async fn answer(document: Arc<Value>) -> Json<Value> {
    Json(Value::clone(&document))
}

/// `GET /docs`.
pub(crate) async fn page() -> impl IntoResponse {
    let policy =
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'";
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(PAGE))
}

/// What a document says of the API as a whole.
pub(crate) struct About {
    pub(crate) title: &'static str,
    pub(crate) description: &'static str,
    /// Where Feast's routes begin.
    pub(crate) servers: Value,
    /// The schema of a refusal.
    pub(crate) failure: Value,
}

/// The document of these routes.
pub(crate) fn document<'a, S: 'a>(about: About, routes: impl IntoIterator<Item = &'a Route<S>>) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in routes {
        let operations = paths.entry(route.path.clone()).or_insert_with(|| json!({}));
        operations[route.method] = operation(route);
        if !route.is_feasts {
            operations["servers"] = json!([{"url": "/"}]);
        }
    }
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": about.title,
            "description": about.description,
            "version": env!("CARGO_PKG_VERSION"),
        },
        "servers": about.servers,
        "paths": paths,
    });
    let mut schemas = schema::components(&document);
    schemas.insert("Failure".to_owned(), about.failure);
    document["components"] = json!({"schemas": schemas});
    document
}

fn operation<S>(route: &Route<S>) -> Value {
    let mut responses = Map::new();
    let answer = match &route.answer {
        Some(schema) => json!({"description": "done", "content": {"application/json": {"schema": schema}}}),
        None => json!({"description": "done; no body"}),
    };
    responses.insert(route.status.to_string(), answer);
    let refusal = json!({
        "description": "refused, with the reason",
        "content": {"application/json": {"schema": schema::message("Failure")}},
    });
    responses.insert("4XX".to_owned(), refusal.clone());
    responses.insert("5XX".to_owned(), refusal);
    let parameters: Vec<Value> = in_path(&route.path)
        .map(|name| {
            json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "minLength": 1}})
        })
        .chain(route.params.iter().map(in_query))
        .collect();
    let mut operation = json!({
        "tags": [route.group],
        "summary": route.summary,
        "operationId": format!("{}{}", route.method, route.path.replace(['/', '{', '}'], "_")),
        "parameters": parameters,
        "responses": responses,
    });
    if let Some(body) = &route.body {
        operation["requestBody"] =
            json!({"required": true, "content": {"application/json": {"schema": body}}});
    }
    operation
}

fn in_path(path: &str) -> impl Iterator<Item = &str> {
    path.split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

fn in_query(param: &Param) -> Value {
    json!({
        "name": param.name,
        "in": "query",
        "required": param.required,
        "description": param.about,
        "schema": param.schema,
    })
}
