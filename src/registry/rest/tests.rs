//! The routes as clients see them, over the sample project.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Method, Request, header},
};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{Api, all_routes, visits::Visits};
use crate::registry::samples::{self, PROJECT, Tables};

fn start() -> (Router, Arc<Tables>) {
    let (changes, tables) = samples::registry();
    let api = Api {
        changes,
        offline: Arc::new(samples::Rows),
        context: None,
        home: PROJECT.to_owned(),
        roles: vec!["registry", "ui"],
        visits: Visits::default(),
    };
    (all_routes(&Arc::new(api)), tables)
}

async fn send(router: &Router, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::CONTENT_TYPE, "application/json");
    let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
    let response = router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    let json = if bytes.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&bytes).unwrap()
    };
    (status, json)
}

async fn get(router: &Router, path: &str) -> Value {
    let (status, json) = send(router, Method::GET, path, None).await;
    assert_eq!(status, 200, "{path}: {json}");
    json
}

async fn status(router: &Router, path: &str) -> (u16, Value) {
    send(router, Method::GET, path, None).await
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array()
        .unwrap()
        .iter()
        .map(|object| object["name"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn every_route_answers_with_and_without_prefix() {
    let (router, _) = start();
    let project = "project=shop";
    for path in [
        "entities",
        "data_sources",
        "feature_views",
        "features",
        "labels",
        "label_views",
        "feature_services",
        "permissions",
        "saved_datasets",
        "compute_engines",
        "materialization_jobs",
        "lineage/registry",
        "lineage/complete",
        "lineage/objects/entity/driver",
        "entities/driver",
        "data_sources/trips_file",
        "feature_views/trips",
        "feature_views/twice",
        "feature_views/verdicts",
        "label_views/verdicts",
        "feature_services/model",
        "permissions/readers",
        "saved_datasets/train",
        "features/trips/rate",
        "saved_datasets/data/train",
    ] {
        get(&router, &format!("/{path}?{project}")).await;
        get(&router, &format!("/api/v1/{path}?{project}")).await;
    }
    for path in [
        "entities/all",
        "data_sources/all",
        "feature_views/all",
        "features/all",
        "labels/all",
        "label_views/all",
        "feature_services/all",
        "saved_datasets/all",
        "permissions/all",
        "compute_engines/all",
        "lineage/registry/all",
        "lineage/complete/all",
        "projects",
        "projects/shop",
        "version",
        "saved_datasets/jobs",
        "search?query=",
        "metrics/resource_counts",
        "metrics/popular_tags",
        "metrics/recently_visited",
    ] {
        get(&router, &format!("/{path}")).await;
        get(&router, &format!("/api/v1/{path}")).await;
    }
}

#[tokio::test]
async fn lists_have_feasts_shape() {
    let (router, _) = start();
    let entities = get(&router, "/entities?project=shop").await;
    assert_eq!(
        entities,
        json!({
            "entities": [{"spec": {"name": "driver", "valueType": "INT64", "description": "who drives", "joinKey": "driver_id",
                                   "tags": {"team": "ops"}, "project": "shop"}}],
            "pagination": {"totalCount": 1, "totalPages": 1},
        })
    );
    let views = get(&router, "/feature_views?project=shop&page=1&limit=1").await;
    assert_eq!(views["featureViews"][0]["type"], "featureView");
    assert_eq!(views["featureViews"][0]["spec"]["ttl"], "86400s");
    assert_eq!(
        views["featureViews"][0]["meta"]["createdTimestamp"],
        "2023-11-14T22:13:20Z"
    );
    assert_eq!(
        views["pagination"],
        json!({"page": 1, "limit": 1, "totalCount": 2, "totalPages": 2, "hasNext": true})
    );
    let labels = get(&router, "/label_views?project=shop").await;
    assert_eq!(labels["featureViews"][0]["type"], "labelView");
    let fields = get(&router, "/features?project=shop&feature_view=trips&name=rate").await;
    assert_eq!(
        fields["features"],
        json!([{"name": "rate", "featureView": "trips", "type": "Float32", "kind": "feature"}])
    );
    assert_eq!(
        names(&get(&router, "/labels?project=shop").await["labels"]),
        ["good"]
    );
    assert_eq!(
        get(&router, "/entities?project=nowhere").await,
        json!({"entities": [], "pagination": {}})
    );
}

#[tokio::test]
async fn filters_and_sorting() {
    let (router, _) = start();
    let views = |query: &'static str| {
        let router = router.clone();
        async move {
            let found = get(&router, &format!("/feature_views?project=shop&{query}")).await;
            found["featureViews"]
                .as_array()
                .unwrap()
                .iter()
                .map(|v| v["spec"]["name"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        }
    };
    assert_eq!(views("entity=driver").await, ["trips"]);
    assert_eq!(views("tags=team:ops").await, ["trips"]);
    assert_eq!(views("sort_by=name&sort_order=desc").await, ["twice", "trips"]);
    assert_eq!(views("updated_since=2023-11-14T22:15:00Z").await, ["trips"]);
    assert!(views("updated_since=2024-01-01").await.is_empty());
    let (code, body) = status(&router, "/feature_views?project=shop&updated_since=soon").await;
    assert_eq!((code, &body["error_type"]), (400, &json!("HTTPException")));
    let services = get(&router, "/feature_services?project=shop&feature_view=twice").await;
    assert_eq!(services["featureServices"], json!([]));
    let datasets = get(&router, "/saved_datasets?project=shop&namespace=ml").await;
    assert_eq!(
        datasets["savedDatasets"][0]["spec"]["dataSources"],
        json!(["trips_file"])
    );
}

#[tokio::test]
async fn single_objects_carry_their_surroundings() {
    let (router, _) = start();
    let entity = get(
        &router,
        "/entities/driver?project=shop&include_relationships=true",
    )
    .await;
    assert_eq!(names(&entity["dataSources"]), ["trips_file", "trips_push"]);
    assert!(entity["featureDefinition"].as_str().unwrap().contains("Entity("));
    assert!(!entity["relationships"].as_array().unwrap().is_empty());
    let label = get(
        &router,
        "/feature_views/verdicts?project=shop&include_relationships=true",
    )
    .await;
    assert_eq!(label["type"], "labelView");
    assert!(!label["relationships"].as_array().unwrap().is_empty());
    let feature = get(&router, "/features/trips/rate?project=shop").await;
    assert!(
        feature["featureDefinition"]
            .as_str()
            .unwrap()
            .contains("dtype=Float32")
    );
    let list = get(&router, "/entities?project=shop&include_relationships=true").await;
    assert!(list["relationships"]["driver"].as_array().unwrap().len() > 2);
}

#[tokio::test]
async fn lists_across_projects_say_whose_each_object_is() {
    let (router, _) = start();
    let body = json!({"name": "other", "project": "second"});
    assert_eq!(send(&router, Method::POST, "/entities", Some(body)).await.0, 201);
    // A project that has no object of its own is not listed by this store.
    let all = get(&router, "/data_sources/all?sort_by=name&sort_order=desc&limit=1").await;
    assert_eq!(all["dataSources"][0]["name"], "trips_push");
    assert_eq!(all["dataSources"][0]["project"], "shop");
    assert_eq!(
        all["pagination"],
        json!({"page": 1, "limit": 1, "totalCount": 2, "totalPages": 2, "hasNext": true})
    );
}

#[tokio::test]
async fn errors_come_in_feasts_envelope() {
    let (router, _) = start();
    let (code, body) = status(&router, "/entities/rider?project=shop").await;
    let wanted = json!({"status_code": 404, "detail": "Entity rider does not exist in project shop",
                        "error_type": "FeastObjectNotFoundException"});
    assert_eq!((code, body), (404, wanted));
    for (path, code, kind) in [
        ("/entities", 422, "RequestValidationError"),
        ("/entities?project=shop&limit=101", 422, "RequestValidationError"),
        ("/lineage/objects/table/x?project=shop", 422, "ValueError"),
        ("/search?query=x&sort_by=size", 400, "HTTPException"),
        ("/search?query=x&limit=1000", 400, "HTTPException"),
        ("/saved_datasets/jobs/1", 404, "FeastObjectNotFoundException"),
        (
            "/features/trips/none?project=shop",
            404,
            "FeastObjectNotFoundException",
        ),
    ] {
        let (found, body) = status(&router, path).await;
        assert_eq!(
            (found, body["error_type"].as_str().unwrap()),
            (code, kind),
            "{path}"
        );
        assert_eq!(body["status_code"], code);
    }
    for path in ["/nothing", "/api/v1/nothing", "/api/v2", "/health"] {
        assert_eq!(
            status(&router, path).await,
            (404, json!({"detail": "Not Found"})),
            "{path}"
        );
    }
    assert_eq!(
        send(&router, Method::PUT, "/entities", None).await,
        (405, json!({"detail": "Method Not Allowed"}))
    );
}

#[tokio::test]
async fn search_finds_and_reports_unknown_projects() {
    let (router, _) = start();
    let found = get(&router, "/search?query=trips&projects=shop&projects=nowhere").await;
    assert_eq!(found["projects_searched"], json!(["shop"]));
    assert_eq!(
        found["errors"],
        json!(["Following projects do not exist: nowhere"])
    );
    assert_eq!(found["results"][0]["match_score"], 100);
    let types: Vec<_> = found["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|hit| hit["type"].as_str().unwrap())
        .collect();
    assert!(
        types.contains(&"dataSource") && types.contains(&"featureView"),
        "{types:?}"
    );
    let all = get(&router, "/search?query=&sort_by=name&sort_order=asc&limit=3").await;
    assert!(all["results"][0].get("match_score").is_none());
    assert_eq!(all["pagination"]["limit"], 3);
    let none = get(&router, "/search?query=x&projects=nowhere").await;
    assert_eq!(none["results"], json!([]));
}

#[tokio::test]
async fn metrics_count_what_is_there() {
    let (router, _) = start();
    let one = get(&router, "/metrics/resource_counts?project=shop").await;
    let wanted = json!({"entities": 1, "dataSources": 2, "savedDatasets": 1, "features": 4, "featureViews": 2, "featureServices": 1});
    assert_eq!(one["counts"], wanted);
    assert_eq!(
        one["featureViews"][0],
        json!({"name": "trips", "project": "shop", "type": "featureView", "featureCount": 2})
    );
    let all = get(&router, "/metrics/resource_counts").await;
    assert_eq!((&all["total"], &all["perProject"]["shop"]), (&wanted, &wanted));
    assert_eq!(
        all["projects"],
        json!([{"name": "shop", "description": "a shop"}])
    );
    let tags = get(&router, "/metrics/popular_tags").await;
    assert_eq!(tags["popular_tags"][0]["tag_key"], "team");
    assert_eq!(
        tags["metadata"],
        json!({"totalFeatureViews": 2, "totalTags": 1, "limit": 4})
    );
    let bootstrap = get(&router, "/api/thali/v1/bootstrap").await;
    assert_eq!(bootstrap["roles"], json!(["registry", "ui"]));
    let mut listed = wanted.clone();
    listed["features"] = json!(3); // the fourth is a label, which the page lists elsewhere
    assert_eq!(bootstrap["projects"][0]["counts"], listed);
}

#[tokio::test]
async fn looks_at_single_objects_are_remembered() {
    let (router, _) = start();
    get(&router, "/api/v1/entities/driver?project=shop").await;
    status(&router, "/api/v1/entities/nobody?project=shop").await;
    get(&router, "/entities?project=shop").await;
    let visits = get(&router, "/metrics/recently_visited?project=shop").await;
    assert_eq!(visits["pagination"], json!({"totalCount": 1}));
    assert_eq!(visits["visits"][0]["object_name"], "driver");
    assert_eq!(visits["visits"][0]["path"], "/api/v1/entities/driver");
    let none = get(&router, "/metrics/recently_visited?object=features").await;
    assert_eq!(none["visits"], json!([]));
}

#[tokio::test]
async fn lineage_of_whole_projects() {
    let (router, _) = start();
    let complete = get(&router, "/lineage/complete?project=shop").await;
    let objects = &complete["objects"];
    assert_eq!(objects["featureViews"][0]["featureView"]["spec"]["name"], "trips");
    assert_eq!(
        objects["featureViews"][1]["onDemandFeatureView"]["spec"]["name"],
        "twice"
    );
    assert_eq!(objects["features"].as_array().unwrap().len(), 4);
    assert_eq!(complete["relationships"].as_array().unwrap().len(), 16);
    let edge = json!({"source": {"type": "featureView", "name": "trips"}, "target": {"type": "featureService", "name": "model"}});
    assert_eq!(complete["relationships"][0], edge);
    let all = get(&router, "/lineage/complete/all").await;
    assert_eq!(all["projects"][0]["objects"]["entities"][0]["project"], "shop");
    let one = get(
        &router,
        "/lineage/registry?project=shop&filter_object_type=entity&filter_object_name=driver",
    )
    .await;
    assert_eq!(one["relationships"].as_array().unwrap().len(), 2);
    let marked = get(&router, "/lineage/registry/all").await;
    assert_eq!(marked["relationships"][0]["project"], "shop");
}

#[tokio::test]
async fn rows_and_windows() {
    let (router, _) = start();
    let data = get(&router, "/saved_datasets/data/train?project=shop&limit=2").await;
    assert_eq!(
        data,
        json!({"columns": ["rate"], "sample_size": 2, "rows": [{"rate": 1}, {"rate": 2}], "total_rows": 3})
    );
    let jobs = get(&router, "/materialization_jobs?project=shop").await;
    assert_eq!(jobs["jobs"][0]["id"], "trips-0");
    assert_eq!(jobs["jobs"][0]["startTime"], "2023-11-14T22:13:20Z");
    assert_eq!(
        get(&router, "/materialization_jobs?project=shop&status=failed").await["jobs"],
        json!([])
    );
    let engine = get(&router, "/compute_engines?project=shop").await;
    assert_eq!(engine["engine"]["featureViewCount"], 1);
    assert_eq!(engine["featureViews"][0]["online"], true);
}

#[tokio::test]
async fn objects_are_written_and_removed() {
    let (router, tables) = start();
    let post = |path: &'static str, body: Value| {
        let router = router.clone();
        async move { send(&router, Method::POST, path, Some(body)).await }
    };
    let applied = |name: &str| (201, json!({"name": name, "project": "shop", "status": "applied"}));
    let entity = json!({"name": "truck", "project": "shop", "value_type": 4, "tags": {"a": "b"}});
    assert_eq!(post("/entities", entity).await, applied("truck"));
    let source = json!({"name": "file", "project": "shop", "type": 1, "timestamp_field": "ts", "file_options": {"uri": "a.parquet"}});
    assert_eq!(post("/data_sources", source).await, applied("file"));
    let view = json!({"name": "loads", "project": "shop", "entities": ["truck"], "batch_source": "file", "ttl_seconds": 60,
                      "features": [{"name": "weight", "value_type": 5}, {"name": "boxes", "value_type": 4}]});
    assert_eq!(post("/feature_views", view.clone()).await, applied("loads"));
    assert_eq!(tables.log(), ["keep shop.loads"]);
    let shown = get(&router, "/feature_views/loads?project=shop").await;
    assert_eq!(shown["spec"]["batchSource"]["fileOptions"]["uri"], "a.parquet");
    assert_eq!(
        shown["spec"]["entityColumns"],
        json!([{"name": "truck", "valueType": "INT64"}])
    );
    let service = json!({"name": "s", "project": "shop", "features": [{"feature_view_name": "loads", "feature_names": ["boxes"]}]});
    assert_eq!(post("/feature_services", service).await, applied("s"));
    let shown = get(&router, "/feature_services/s?project=shop").await;
    assert_eq!(
        shown["spec"]["features"][0]["featureColumns"],
        json!([{"name": "boxes", "valueType": "INT64"}])
    );
    let permission = json!({"name": "p", "project": "shop", "types": ["ENTITY"], "actions": ["READ_ONLINE"],
                            "policy": {"role_based_policy": {"roles": ["r"]}}});
    assert_eq!(post("/permissions", permission).await, applied("p"));
    let dataset =
        json!({"name": "d", "project": "shop", "storage_path": "d.parquet", "feature_service_name": "s"});
    assert_eq!(
        post("/saved_datasets", dataset.clone()).await,
        (200, json!({"status": "ok", "name": "d", "project": "shop"}))
    );
    assert_eq!(post("/saved_datasets", dataset).await.0, 409);
    let shown = get(&router, "/saved_datasets/d?project=shop").await;
    assert_eq!(
        (&shown["spec"]["features"], &shown["spec"]["joinKeys"]),
        (&json!(["loads:boxes"]), &json!(["truck"]))
    );
    for path in [
        "/saved_datasets/d",
        "/permissions/p",
        "/feature_services/s",
        "/feature_views/loads",
        "/data_sources/file",
        "/entities/truck",
    ] {
        let path = format!("{path}?project=shop");
        assert_eq!(send(&router, Method::DELETE, &path, None).await.0, 200, "{path}");
        assert_eq!(send(&router, Method::DELETE, &path, None).await.0, 404, "{path}");
    }
    assert_eq!(
        tables.log(),
        ["keep shop.loads", "drop shop.loads", "drop shop.loads_v0"]
    );
}

#[tokio::test]
async fn bodies_that_make_no_sense_are_refused() {
    let (router, tables) = start();
    let policy = json!({"role_based_policy": {"roles": []}});
    for (path, body, code) in [
        ("/entities", json!({"project": "shop"}), 422),
        ("/entities", json!({"name": "x", "project": ""}), 422),
        ("/entities", json!({"name": "", "project": "shop"}), 422),
        ("/data_sources", json!({"name": "x", "project": "shop"}), 422),
        (
            "/feature_views",
            json!({"name": "x", "project": "shop", "batch_source": "none"}),
            404,
        ),
        (
            "/feature_services",
            json!({"name": "x", "project": "shop", "features": [{"feature_view_name": "none"}]}),
            404,
        ),
        (
            "/feature_services",
            json!({"name": "x", "project": "shop", "features": [{"feature_view_name": "trips", "feature_names": ["none"]}]}),
            422,
        ),
        (
            "/permissions",
            json!({"name": "x", "project": "shop", "types": ["Entity"], "policy": policy}),
            400,
        ),
        (
            "/permissions",
            json!({"name": "x", "project": "shop", "policy": {}}),
            422,
        ),
        ("/saved_datasets", json!({"name": "x", "project": "shop"}), 400),
        ("/saved_datasets/create", json!({}), 422),
    ] {
        let (found, answer) = send(&router, Method::POST, path, Some(body.clone())).await;
        assert_eq!(
            (found, &answer["status_code"]),
            (code, &json!(code)),
            "{path} {body}: {answer}"
        );
    }
    assert_eq!(
        send(&router, Method::POST, "/registry/refresh", None).await.0,
        200
    );
    assert!(tables.log().is_empty());
}
