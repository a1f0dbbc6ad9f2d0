//! The table of the feature server's routes, from which its router and its OpenAPI document are made.

use axum::routing::{get, post};
use serde_json::{Value, json};

use super::{App, chat, get_online_features, health, push, search, vector_stores, write_to_online_store};
use crate::http::{
    openapi::{
        About,
        schema::{list, map, nullable, number, object, of_fields, one_of, text},
    },
    route::{Route, add},
};

/// What the document says of the whole.
pub(super) fn about() -> About {
    About {
        title: "thali feature server",
        description: "Feast's feature server: reading, writing and searching feature values.",
        servers: json!([{"url": "/"}]),
        failure: json!({
            "description": "a text that holds a JSON object with module, class and message; with 422, what is wrong with the body",
            "anyOf": [text(), object([("detail", list(&json!({"type": "object"})))])],
        }),
    }
}

/// The routes that read and write values, which stay within the limits.
pub(super) fn data(app: &App) -> Vec<Route<()>> {
    let mut all = Vec::new();
    add(&mut all, "reading", reading(app));
    add(&mut all, "writing", writing(app));
    add(&mut all, "vector stores", stores(app));
    all
}

/// The routes that always answer.
pub(super) fn plain(app: &App) -> Vec<Route<()>> {
    let reply = object([("response", text())]);
    let message = object([("role", text()), ("content", text())]);
    let mut all = Vec::new();
    let routes = vec![
        Route::new(
            "get",
            "/health",
            "200 while the registry can be read",
            get(health),
        ),
        Route::new(
            "post",
            "/chat",
            "Feast's chat page, whose answer is fixed",
            post(chat),
        )
        .reads(object([("messages", list(&message))]))
        .answers(reply),
    ];
    add(&mut all, "server", routes);
    bind(all, app)
}

fn bind(routes: Vec<Route<App>>, app: &App) -> Vec<Route<()>> {
    let bound = routes.into_iter().map(|route| route.with_state(app.clone()));
    bound.collect()
}

fn truth() -> Value {
    json!({"type": "boolean"})
}

/// Values by column.
fn columns() -> Value {
    map(&list(&json!({})))
}

fn features() -> Value {
    let column = object([
        ("values", list(&json!({}))),
        (
            "statuses",
            list(&one_of(&[
                "PRESENT",
                "NULL_VALUE",
                "NOT_FOUND",
                "OUTSIDE_MAX_AGE",
            ])),
        ),
        ("event_timestamps", list(&text())),
    ]);
    let view = of_fields(vec![("name", text(), false), ("version", number(), true)]);
    let metadata = of_fields(vec![
        ("feature_names", list(&text()), false),
        ("feature_view_metadata", list(&view), true),
    ]);
    object([("results", list(&column)), ("metadata", metadata)])
}

/// Which features are asked for, and how they are answered.
fn wanted() -> Vec<(&'static str, Value, bool)> {
    vec![
        ("feature_service", nullable(&text()), true),
        ("features", list(&text()), true),
        ("full_feature_names", truth(), true),
        ("include_feature_view_version_metadata", truth(), true),
    ]
}

fn searched() -> Value {
    let mut fields = wanted();
    let vector = nullable(&list(&json!({"type": "number"})));
    fields.extend([
        ("query", vector, true),
        ("top_k", number(), true),
        ("query_string", nullable(&text()), true),
        ("distance_metric", nullable(&text()), true),
        ("api_version", number(), true),
        ("filters", nullable(&json!({"type": "object"})), true),
    ]);
    of_fields(fields)
}

fn reading(app: &App) -> Vec<Route<()>> {
    let mut body = wanted();
    body.push(("entities", columns(), false));
    let search = |path: &str, summary: &str| {
        Route::new("post", path, summary, post(search::search))
            .reads(searched())
            .answers(features())
    };
    let routes = vec![
        Route::new(
            "post",
            "/get-online-features",
            "The newest values of features; by `Accept` also as protobuf or Arrow",
            post(get_online_features),
        )
        .reads(of_fields(body))
        .answers(features()),
        search(
            "/search",
            "The rows nearest to a vector, or that match a text best",
        ),
        search("/retrieve-online-documents", "The old name of `/search`"),
    ];
    bind(routes, app)
}

fn writing(app: &App) -> Vec<Route<()>> {
    let routes = vec![
        Route::new("post", "/push", "Rows for the views of a push source", post(push)).reads(of_fields(
            vec![
                ("push_source_name", text(), false),
                ("df", columns(), false),
                ("to", one_of(&["online", "offline", "online_and_offline"]), true),
                ("allow_registry_cache", truth(), true),
                ("transform_on_write", truth(), true),
            ],
        )),
        Route::new(
            "post",
            "/write-to-online-store",
            "Rows for one view",
            post(write_to_online_store),
        )
        .reads(of_fields(vec![
            ("feature_view_name", text(), false),
            ("df", columns(), false),
            ("allow_registry_cache", truth(), true),
            ("transform_on_write", truth(), true),
        ]))
        .answers(json!({"type": "null"})),
    ];
    bind(routes, app)
}

fn stores(app: &App) -> Vec<Route<()>> {
    let store = object([
        ("id", text()),
        ("object", text()),
        ("name", text()),
        ("status", text()),
        ("created_at", number()),
    ]);
    let query = json!({"anyOf": [text(), list(&text()), list(&json!({"type": "number"}))]});
    let asked = of_fields(vec![
        ("query", query, false),
        ("filters", nullable(&json!({"type": "object"})), true),
        ("max_num_results", number(), true),
        ("metadata", nullable(&json!({"type": "object"})), true),
    ]);
    let routes = vec![
        Route::new(
            "get",
            "/v1/vector_stores",
            "The views with a searchable vector, as OpenAI's clients see them",
            get(vector_stores::list),
        )
        .answers(object([("object", text()), ("data", list(&store))])),
        Route::new(
            "get",
            "/v1/vector_stores/{id}",
            "One of them",
            get(vector_stores::get),
        )
        .answers(store),
        Route::new(
            "post",
            "/v1/vector_stores/{id}/search",
            "A search in OpenAI's form; texts are not embedded, so `query` is a vector",
            post(vector_stores::search),
        )
        .reads(asked)
        .answers(json!({"type": "object"})),
    ];
    bind(routes, app)
}
