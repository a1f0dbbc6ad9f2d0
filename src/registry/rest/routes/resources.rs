//! Routes of what can be listed and shown: one group per resource, with its writes.

use axum::{
    extract::{Path, State},
    routing::{delete, get, post, put},
};
use serde_json::{Value, json};

use super::{
    Route, cache, definition, done, edges, item, pages, pagination, paging, project, related, relations,
    tags, view,
};
use crate::{
    http::{
        openapi::schema::{self, Schema as _, list, map, message, number, object, text},
        route::string,
    },
    model::ObjectKind,
    registry::rest::{
        Shared, get_feature,
        objects::{self, Content, Resource},
        params::Params,
        views,
        writes::{self, bodies},
    },
};

/// List, list of all projects and single object of one resource; deletion where Feast has it.
pub(super) fn of_resource(resource: &'static Resource) -> Vec<Route> {
    let (path, key) = (resource.path, resource.key);
    let one = item(resource.content);
    let page =
        move |State(api): Shared, params: Params| async move { objects::list(&api, resource, &params).await };
    let all = move |State(api): Shared, params: Params| async move {
        objects::list_all(&api, resource, &params).await
    };
    let mut filters = match resource.content {
        Content::Kind(_) => vec![tags()],
        Content::Views => vec![
            tags(),
            string("entity", "views of this entity"),
            string("feature", "views with this feature"),
            string("feature_service", "views that this service uses"),
            string("data_source", "views that read this source"),
            string("updated_since", "ISO 8601; views changed then or later"),
        ],
        Content::Fields(_) => vec![
            string("feature_view", "only of this view"),
            string("name", "only of this name"),
        ],
    };
    match path {
        "feature_services" => filters.push(string("feature_view", "services that use this view")),
        "saved_datasets" => filters.extend([
            string("namespace", "only of this namespace"),
            string("collection", "only of this collection"),
        ]),
        _ => {}
    }
    let listed = |item: &Value| {
        let lists = object([(key, list(item)), ("pagination", pagination())]);
        schema::extended(&lists, [("relationships", map(&edges()))])
    };
    let marked = schema::extended(&one, [("project", text())]);
    let mut routes = vec![
        Route::new("get", format!("/{path}"), "Those of a project", get(page))
            .takes([project(), cache(), relations()])
            .takes(filters.clone())
            .takes(paging())
            .answers(listed(&one)),
        Route::new("get", format!("/{path}/all"), "Those of every project", get(all))
            .takes([cache(), relations()])
            .takes(filters)
            .takes(pages())
            .answers(listed(&marked)),
    ];
    if !matches!(resource.content, Content::Fields(_)) {
        routes.extend(single(resource, &one));
    }
    if path == "features" {
        let feature = schema::extended(&one, [definition(), related()]);
        routes.push(
            Route::new(
                "get",
                "/features/{feature_view}/{name}",
                "One feature of a view",
                get(get_feature),
            )
            .takes([project(), cache(), relations()])
            .answers(feature),
        );
    }
    routes
}

fn single(resource: &'static Resource, one: &Value) -> Vec<Route> {
    let path = format!("/{}/{{name}}", resource.path);
    let show = move |State(api): Shared, Path(name): Path<String>, params: Params| async move {
        objects::get(&api, resource, &name, &params).await
    };
    let shown = match resource.content {
        Content::Kind(ObjectKind::Entity) => {
            let sources = list(&message("feast.core.DataSource"));
            schema::extended(one, [definition(), related(), ("dataSources", sources)])
        }
        _ => schema::extended(one, [definition(), related()]),
    };
    let mut routes = vec![
        Route::new("get", path.clone(), "One of them", get(show))
            .takes([project(), cache(), relations()])
            .answers(shown),
    ];
    if resource.path != "label_views" {
        let remove = move |State(api): Shared, Path(name): Path<String>, params: Params| async move {
            writes::remove(&api, resource, &name, &params).await
        };
        // Feast answers in another form for saved datasets.
        let status = if resource.path == "saved_datasets" {
            "ok"
        } else {
            "deleted"
        };
        routes.push(
            Route::new("delete", path, "Removes one", delete(remove))
                .takes([project()])
                .answers(done(status)),
        );
    }
    routes
}

pub(super) fn writing(resource: &Resource) -> Vec<Route> {
    let write = |handler, body: Value| {
        Route::new(
            "post",
            format!("/{}", resource.path),
            "Creates or replaces one",
            handler,
        )
        .reads(body)
    };
    let create = |handler, body| Route {
        status: 201,
        ..write(handler, body).answers(done("applied"))
    };
    match resource.path {
        "entities" => vec![create(post(writes::entity), bodies::EntityBody::schema())],
        "data_sources" => vec![create(
            post(writes::data_source),
            bodies::DataSourceBody::schema(),
        )],
        "feature_views" => {
            let view = create(post(writes::feature_view), bodies::FeatureViewBody::schema());
            std::iter::once(view).chain(of_views()).collect()
        }
        "feature_services" => {
            vec![create(
                post(writes::feature_service),
                bodies::FeatureServiceBody::schema(),
            )]
        }
        "permissions" => vec![create(post(writes::permission), bodies::PermissionBody::schema())],
        "saved_datasets" => {
            vec![write(post(writes::saved_dataset), bodies::SavedDatasetBody::schema()).answers(done("ok"))]
        }
        _ => Vec::new(),
    }
}

/// What Feast's REST server has no way to do.
fn of_views() -> Vec<Route> {
    let state = || {
        object([
            ("name", text()),
            ("project", text()),
            ("enabled", json!({"type": "boolean"})),
        ])
    };
    let change = |path: &str, summary: &str, handler| {
        Route::new("put", format!("/feature_views/{{name}}/{path}"), summary, handler).takes([project()])
    };
    let version = object([
        ("version", number()),
        ("type", text()),
        ("created", json!({"type": "string", "format": "date-time"})),
        ("versionId", text()),
        ("isActive", json!({"type": "boolean"})),
        ("definition", view()),
    ]);
    vec![
        change(
            "enable",
            "Lets a view be served and materialized",
            put(views::enable),
        )
        .answers(state()),
        change(
            "disable",
            "Stops serving and materializing a view",
            put(views::disable),
        )
        .answers(state()),
        change(
            "set-state",
            "Moves a view to another state of its life",
            put(views::set_state),
        )
        .reads(views::StateBody::schema())
        .answers(object([("name", text()), ("project", text()), ("state", text())])),
        Route::new(
            "get",
            "/feature_views/{name}/versions",
            "The versions of a view, newest first",
            get(views::versions),
        )
        .takes([project(), cache()])
        .answers(object([("name", text()), ("versions", list(&version))])),
    ]
}
