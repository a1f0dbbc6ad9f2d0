//! Routes of what is no resource: projects, data sets being made, lineage, search, metrics, engines.

use axum::{
    Json,
    routing::{get, post},
};
use serde_json::{Value, json};

use super::{
    Route, cache, computed_pagination, counted, edge, edges, pages, pagination, paging, project, tags,
    view_types,
};
use crate::{
    http::{
        openapi::schema::{self, Schema as _, list, map, message, nullable, number, object, one_of, text},
        route::{param, required, string},
    },
    registry::rest::{
        FEAST_VERSION, bootstrap, datasets, engines, get_project, lineage, list_projects, metrics,
        monitoring, refresh, search, visits, writes::bodies,
    },
};

pub(super) fn of_projects() -> Vec<Route> {
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

pub(super) fn of_dataset_jobs() -> Vec<Route> {
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

pub(super) fn of_lineage() -> Vec<Route> {
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

pub(super) fn of_metrics() -> Vec<Route> {
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

pub(super) fn of_engines() -> Vec<Route> {
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

pub(super) fn of_monitoring() -> Vec<Route> {
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

pub(super) fn of_server() -> Vec<Route> {
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
