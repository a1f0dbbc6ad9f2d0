//! The table of routes: how each is reached, what it takes, what it answers, and who answers. The router
//! and the document at `/openapi.json` are both made from it. Here is what the groups in `resources` and
//! `services` have in common.

mod resources;
mod services;

use std::sync::Arc;

use axum::Router;
use serde_json::{Value, json};

use super::{
    Api,
    objects::{Content, RESOURCES},
};
use crate::{
    http::{
        openapi::schema::{list, message, number, object, one_of, text},
        route::{self, Param, add, param, required, string},
    },
    model::ObjectKind,
};

/// A route of the registry.
pub(super) type Route = route::Route<Arc<Api>>;

fn project() -> Param {
    required("project", "the project")
}

fn cache() -> Param {
    let schema = json!({"type": "boolean", "default": true});
    param(
        "allow_cache",
        schema,
        "whether what was seen last will do, without a look at the store",
    )
}

fn relations() -> Param {
    let schema = json!({"type": "boolean", "default": false});
    param(
        "include_relationships",
        schema,
        "whether to add the edges of the lineage",
    )
}

fn tags() -> Param {
    param("tags", list(&text()), "`key:value`; all of them must be there")
}

fn counted(name: &'static str, max: Option<u32>, default: Option<u32>, about: &'static str) -> Param {
    let mut schema =
        json!({"type": "integer", "minimum": 1, "maximum": max.unwrap_or(i32::MAX.unsigned_abs())});
    if let Some(default) = default {
        schema["default"] = default.into();
    }
    param(name, schema, about)
}

fn paging() -> [Param; 4] {
    [
        counted(
            "page",
            None,
            None,
            "which page; everything without both page and limit",
        ),
        counted("limit", Some(100), None, "how many on a page"),
        string("sort_by", "the attribute to sort by"),
        param("sort_order", one_of(&["asc", "desc"]), "upwards or downwards"),
    ]
}

/// Paging of the routes that always page.
fn pages() -> [Param; 4] {
    [
        counted("page", None, Some(1), "which page"),
        counted("limit", Some(100), Some(50), "how many on a page"),
        string("sort_by", "the top-level key to sort by"),
        string("sort_order", "`desc` for downwards"),
    ]
}

fn done(status: &str) -> Value {
    object([
        ("name", text()),
        ("project", text()),
        ("status", one_of(&[status])),
    ])
}

fn pagination() -> Value {
    message("feast.registry.PaginationMetadata")
}

fn computed_pagination() -> Value {
    object([("page", number()), ("limit", number()), ("total", number())])
}

fn edge() -> Value {
    message("feast.registry.EntityRelation")
}

fn edges() -> Value {
    list(&edge())
}

fn view_types() -> Value {
    one_of(&[
        "featureView",
        "onDemandFeatureView",
        "streamFeatureView",
        "labelView",
    ])
}

/// Views of any kind are told apart by `type`.
fn view() -> Value {
    let specs = [
        "feast.core.FeatureViewSpec",
        "feast.core.OnDemandFeatureViewSpec",
        "feast.core.StreamFeatureViewSpec",
        "feast.core.LabelViewSpec",
    ];
    let metas = [
        "feast.core.FeatureViewMeta",
        "feast.core.OnDemandFeatureViewMeta",
        "feast.core.LabelViewMeta",
    ];
    json!({
        "type": "object",
        "required": ["type"],
        "properties": {
            "type": view_types(),
            "spec": {"anyOf": specs.map(message)},
            "meta": {"anyOf": metas.map(message)},
        },
    })
}

fn item(content: Content) -> Value {
    match content {
        Content::Kind(ObjectKind::LabelView) | Content::Views => view(),
        Content::Kind(kind) => message(kind.message_name()),
        Content::Fields(_) => message("feast.registry.Feature"),
    }
}

fn definition() -> (&'static str, Value) {
    ("featureDefinition", text())
}

fn related() -> (&'static str, Value) {
    ("relationships", edges())
}

/// Every route, in the order of the document.
pub(super) fn routes() -> Vec<Route> {
    let mut all = Vec::new();
    for resource in &RESOURCES {
        let mut routes = resources::of_resource(resource);
        routes.extend(resources::writing(resource));
        add(&mut all, resource.path, routes);
    }
    add(&mut all, "projects", services::of_projects());
    add(&mut all, "saved dataset jobs", services::of_dataset_jobs());
    add(&mut all, "lineage", services::of_lineage());
    add(&mut all, "search and metrics", services::of_metrics());
    add(&mut all, "materialization", services::of_engines());
    add(&mut all, "monitoring", services::of_monitoring());
    add(&mut all, "server", services::of_server());
    all
}

/// The router of these routes, Feast's only or ours only.
pub(super) fn router(routes: Vec<Route>, is_feasts: bool) -> Router<Arc<Api>> {
    route::router(routes.into_iter().filter(|route| route.is_feasts == is_feasts))
}
