//! The table of routes: how each is reached, what it takes, what it answers, and who answers. The router
//! and the document at `/openapi.json` are both made from it.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, State},
    routing::{MethodRouter, delete, get, post, put},
};
use serde_json::{Value, json};

use super::{
    Api, FEAST_VERSION, Shared, bootstrap, datasets, engines, get_feature, get_project, lineage,
    list_projects, metrics, monitoring,
    objects::{self, Content, RESOURCES, Resource},
    openapi::schema::{self, Schema, list, map, message, nullable, number, object, one_of, text},
    params::Params,
    refresh, search, views, visits,
    writes::{self, bodies},
};
use crate::model::ObjectKind;

/// A parameter of the query.
#[derive(Debug, Clone)]
pub(super) struct Param {
    pub(super) name: &'static str,
    pub(super) required: bool,
    pub(super) schema: Value,
    pub(super) about: &'static str,
}

/// One route.
pub(super) struct Route {
    pub(super) method: &'static str,
    pub(super) path: String,
    pub(super) group: &'static str,
    pub(super) summary: String,
    pub(super) params: Vec<Param>,
    pub(super) body: Option<Value>,
    pub(super) status: u16,
    /// `None` when there is no body.
    pub(super) answer: Option<Value>,
    /// Feast's routes answer with and without the prefix.
    pub(super) is_feasts: bool,
    handler: MethodRouter<Arc<Api>>,
}

impl Route {
    fn new(
        method: &'static str,
        path: impl Into<String>,
        summary: impl Into<String>,
        handler: MethodRouter<Arc<Api>>,
    ) -> Self {
        Self {
            method,
            path: path.into(),
            group: "",
            summary: summary.into(),
            params: Vec::new(),
            body: None,
            status: 200,
            answer: None,
            is_feasts: true,
            handler,
        }
    }

    fn takes(mut self, params: impl IntoIterator<Item = Param>) -> Self {
        self.params.extend(params);
        self
    }

    fn reads(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }

    fn answers(mut self, schema: Value) -> Self {
        self.answer = Some(schema);
        self
    }

    fn created(mut self) -> Self {
        self.status = 201;
        self.answers(done("applied"))
    }
}

fn param(name: &'static str, schema: Value, about: &'static str) -> Param {
    Param {
        name,
        required: false,
        schema,
        about,
    }
}

fn required(name: &'static str, about: &'static str) -> Param {
    Param {
        required: true,
        ..param(name, text(), about)
    }
}

fn string(name: &'static str, about: &'static str) -> Param {
    param(name, text(), about)
}

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
        let mut routes = of_resource(resource);
        routes.extend(writing(resource));
        add(&mut all, resource.path, routes);
    }
    add(&mut all, "projects", of_projects());
    add(&mut all, "saved dataset jobs", of_dataset_jobs());
    add(&mut all, "lineage", of_lineage());
    add(&mut all, "search and metrics", of_metrics());
    add(&mut all, "materialization", of_engines());
    add(&mut all, "monitoring", of_monitoring());
    add(&mut all, "server", of_server());
    all
}

fn add(all: &mut Vec<Route>, group: &'static str, routes: Vec<Route>) {
    all.extend(routes.into_iter().map(|route| Route { group, ..route }));
}

/// The router of these routes, Feast's only or ours only.
pub(super) fn router(routes: Vec<Route>, is_feasts: bool) -> Router<Arc<Api>> {
    routes
        .into_iter()
        .filter(|route| route.is_feasts == is_feasts)
        .fold(Router::new(), |router, route| {
            router.route(&route.path, route.handler)
        })
}

/// List, list of all projects and single object of one resource; deletion where Feast has it.
fn of_resource(resource: &'static Resource) -> Vec<Route> {
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

fn writing(resource: &Resource) -> Vec<Route> {
    let write = |handler, body: Value| {
        Route::new(
            "post",
            format!("/{}", resource.path),
            "Creates or replaces one",
            handler,
        )
        .reads(body)
    };
    match resource.path {
        "entities" => vec![write(post(writes::entity), bodies::EntityBody::schema()).created()],
        "data_sources" => vec![write(post(writes::data_source), bodies::DataSourceBody::schema()).created()],
        "feature_views" => {
            let mut routes =
                vec![write(post(writes::feature_view), bodies::FeatureViewBody::schema()).created()];
            routes.extend(of_views());
            routes
        }
        "feature_services" => {
            vec![
                write(
                    post(writes::feature_service),
                    bodies::FeatureServiceBody::schema(),
                )
                .created(),
            ]
        }
        "permissions" => vec![write(post(writes::permission), bodies::PermissionBody::schema()).created()],
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

fn of_projects() -> Vec<Route> {
    let one = message("feast.core.Project");
    let many = object([("projects", list(&one)), ("pagination", pagination())]);
    vec![
        Route::new(
            "get",
            "/projects",
            "The projects that are not hidden",
            get(list_projects),
        )
        .takes([cache()])
        .takes(paging())
        .answers(json!({"anyOf": [many, object([("error", text())])]})),
        Route::new("get", "/projects/{name}", "One of them", get(get_project))
            .takes([cache()])
            .answers(one),
    ]
}

fn of_dataset_jobs() -> Vec<Route> {
    let job = || {
        object([
            ("job_id", text()),
            ("dataset_name", text()),
            ("project", text()),
            ("status", one_of(&["pending", "running", "completed", "failed"])),
            ("created_at", text()),
            ("completed_at", text()),
            ("error", text()),
        ])
    };
    let sample = object([
        ("columns", list(&text())),
        ("rows", list(&json!({"type": "object"}))),
        ("total_rows", number()),
        ("sample_size", number()),
    ]);
    vec![
        Route::new(
            "post",
            "/saved_datasets/create",
            "Makes a data set by a retrieval, in the background",
            post(datasets::create),
        )
        .reads(bodies::CreateDatasetBody::schema())
        .answers(object([("job_id", text()), ("status", text())])),
        Route::new(
            "get",
            "/saved_datasets/jobs",
            "Data sets being made, newest first",
            get(datasets::jobs),
        )
        .takes([
            string("project", "only of this project"),
            string("status", "only with this status"),
        ])
        .answers(object([("jobs", list(&job()))])),
        Route::new(
            "get",
            "/saved_datasets/jobs/{id}",
            "One of them",
            get(datasets::job),
        )
        .answers(job()),
        Route::new(
            "get",
            "/saved_datasets/data/{name}",
            "The first rows of a data set",
            get(datasets::data),
        )
        .takes([project(), counted("limit", Some(100), Some(10), "how many rows")])
        .answers(sample),
    ]
}

fn of_lineage() -> Vec<Route> {
    let filters = || {
        [
            string("filter_object_type", "only edges of an object of this type"),
            string("filter_object_name", "and this name"),
        ]
    };
    let marked = list(&schema::extended(&edge(), [("project", text())]));
    let places = object([
        ("relationships", edges()),
        ("indirect_relationships", edges()),
        ("relationships_pagination", pagination()),
        ("indirect_relationships_pagination", pagination()),
    ]);
    let everything = |more: Vec<(&str, Value)>| {
        let mut schema = object([
            ("project", text()),
            ("objects", map(&list(&json!({"type": "object"})))),
            ("relationships", edges()),
            ("indirectRelationships", edges()),
        ]);
        for (name, inner) in more {
            schema["properties"][name] = inner;
        }
        schema
    };
    let complete = everything(vec![("pagination", map(&pagination()))]);
    let flag = param(
        "include_indirect",
        json!({"type": "boolean", "default": false}),
        "indirect edges too",
    );
    vec![
        Route::new(
            "get",
            "/lineage/registry",
            "The edges of a project",
            get(lineage::registry),
        )
        .takes([project(), cache()])
        .takes(filters())
        .takes(paging())
        .answers(places),
        Route::new(
            "get",
            "/lineage/registry/all",
            "The edges of every project",
            get(lineage::registry_all),
        )
        .takes([cache()])
        .takes(filters())
        .answers(object([
            ("relationships", marked.clone()),
            ("indirect_relationships", marked),
        ])),
        Route::new(
            "get",
            "/lineage/objects/{type}/{name}",
            "The edges of one object",
            get(lineage::object),
        )
        .takes([project(), cache(), flag])
        .takes(paging())
        .answers(
            json!({"type": "object", "properties": {"relationships": edges(), "pagination": pagination()}}),
        ),
        Route::new(
            "get",
            "/lineage/complete",
            "A project with its edges",
            get(lineage::complete),
        )
        .takes([project(), cache()])
        .takes(paging())
        .answers(complete),
        Route::new(
            "get",
            "/lineage/complete/all",
            "Every project with its edges",
            get(lineage::complete_all),
        )
        .takes([cache()])
        .answers(object([("projects", list(&everything(Vec::new())))])),
    ]
}

fn of_metrics() -> Vec<Route> {
    let reference = object([("name", text()), ("project", text())]);
    let view = object([
        ("name", text()),
        ("project", text()),
        ("type", view_types()),
        ("featureCount", number()),
    ]);
    let counts = map(&number());
    let time = nullable(&json!({"type": "string", "format": "date-time"}));
    let both = |more: [(&str, Value); 2], project: Value| {
        let [first, second] = more;
        object([
            first,
            second,
            ("featureServices", list(&reference)),
            ("featureViews", list(&view)),
            ("projects", list(&project)),
            ("registryLastUpdated", time.clone()),
        ])
    };
    let of_one = both(
        [("project", text()), ("counts", counts.clone())],
        object([("name", text())]),
    );
    let of_all = both(
        [("total", counts.clone()), ("perProject", map(&counts))],
        object([("name", text()), ("description", text())]),
    );
    let tag = object([
        ("tag_key", text()),
        ("tag_value", text()),
        ("feature_views", list(&reference)),
        ("total_feature_views", number()),
    ]);
    let visit = object(
        [
            "path",
            "timestamp",
            "project",
            "user",
            "object",
            "object_name",
            "method",
        ]
        .map(|name| (name, text())),
    );
    vec![
        Route::new(
            "get",
            "/search",
            "What matches by name, description or tag, best first",
            get(search::search),
        )
        .takes([
            required("query", "what to look for; empty matches everything"),
            param("projects", list(&text()), "only in these projects"),
            tags(),
            cache(),
            param(
                "sort_by",
                one_of(&["match_score", "name", "type"]),
                "what to sort by",
            ),
            param("sort_order", one_of(&["asc", "desc"]), "upwards or downwards"),
            counted("page", None, Some(1), "which page"),
            counted("limit", Some(100), Some(50), "how many on a page"),
        ])
        .answers(found()),
        Route::new(
            "get",
            "/metrics/resource_counts",
            "How much there is",
            get(metrics::resource_counts),
        )
        .takes([string("project", "only of this project"), cache()])
        .answers(json!({"anyOf": [of_one, of_all]})),
        Route::new(
            "get",
            "/metrics/popular_tags",
            "The tags that most views have",
            get(metrics::popular_tags),
        )
        .takes([
            string("project", "only of this project"),
            cache(),
            counted("limit", None, Some(4), "how many"),
        ])
        .answers(object([
            ("popular_tags", list(&tag)),
            ("metadata", map(&number())),
        ])),
        Route::new(
            "get",
            "/metrics/recently_visited",
            "The objects shown last",
            get(visits::recently_visited),
        )
        .takes([
            string("project", "only of this project"),
            string("object", "only of this resource"),
        ])
        .takes(paging())
        .answers(object([("visits", list(&visit)), ("pagination", pagination())])),
    ]
}

fn found() -> Value {
    let hit = object([
        ("type", text()),
        ("name", text()),
        ("description", text()),
        ("project", text()),
    ]);
    object([
        ("query", text()),
        ("projects_searched", list(&text())),
        ("results", list(&hit)),
        ("pagination", json!({"type": "object"})),
        ("errors", list(&text())),
    ])
}

fn of_engines() -> Vec<Route> {
    let engine = json!({"type": "object", "required": ["engineType", "engineClass", "config", "featureViewCount", "project"]});
    let view = object([
        ("name", text()),
        ("type", one_of(&["Batch", "Stream"])),
        ("online", json!({"type": "boolean"})),
        ("lastMaterialized", nullable(&text())),
        (
            "materializationIntervals",
            list(&message("feast.core.MaterializationInterval")),
        ),
    ]);
    let job = object(["id", "featureView", "status", "startTime", "endTime"].map(|name| (name, text())));
    vec![
        Route::new(
            "get",
            "/compute_engines",
            "What materializes the views of a project",
            get(engines::engine),
        )
        .takes([project(), cache()])
        .answers(object([
            ("engine", engine.clone()),
            ("featureViews", list(&view)),
        ])),
        Route::new(
            "get",
            "/compute_engines/all",
            "The same of every project",
            get(engines::all),
        )
        .takes([cache()])
        .takes(pages().into_iter().take(2))
        .answers(object([
            ("engines", list(&engine)),
            ("pagination", computed_pagination()),
        ])),
        Route::new(
            "get",
            "/materialization_jobs",
            "The windows recorded in the registry, newest first",
            get(engines::materialization_jobs),
        )
        .takes([
            project(),
            cache(),
            string("status", "only with this status"),
            string("feature_view", "only of this view"),
        ])
        .takes(paging())
        .answers(object([
            ("jobs", list(&job)),
            ("pagination", computed_pagination()),
        ])),
    ]
}

fn of_monitoring() -> Vec<Route> {
    monitoring::ROUTES
        .iter()
        .map(|(method, path)| {
            let handler = match *method {
                "get" => get(monitoring::disabled),
                _ => post(monitoring::disabled),
            };
            let summary = "Feast's data quality monitoring, which is not part of thali: always 503";
            Route::new(method, format!("/monitoring/{path}"), summary, handler).answers(json!({}))
        })
        .collect()
}

fn of_server() -> Vec<Route> {
    let version = || async { Json(json!({"version": FEAST_VERSION})) };
    let counted_project = object([
        ("name", text()),
        ("description", text()),
        ("counts", map(&number())),
    ]);
    let ours = object([
        ("version", text()),
        ("projects", list(&counted_project)),
        ("roles", list(&text())),
    ]);
    vec![
        Route::new(
            "get",
            "/version",
            "The version of Feast whose contract is kept",
            get(version),
        )
        .answers(object([("version", text())])),
        Route::new(
            "post",
            "/registry/refresh",
            "Looks for changes made elsewhere",
            post(refresh),
        ),
        Route {
            is_feasts: false,
            ..Route::new(
                "get",
                "/api/thali/v1/bootstrap",
                "What the user interface needs first",
                get(bootstrap::bootstrap),
            )
            .answers(ours)
        },
    ]
}
