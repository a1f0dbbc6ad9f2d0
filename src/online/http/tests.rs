//! Replays requests whose answers by Feast's own server were recorded.
#![expect(clippy::unwrap_used, reason = "tests")]

use axum::{
    body::Body,
    http::{Request, StatusCode, header},
};
use serde_json::{Value as Json, json};
use tower::ServiceExt as _;

use super::*;
use crate::{metrics::MetricsConfig, online::fixture::Fixture};

mod fuzz;
mod surfaces;

const RECORDED: &str = include_str!("../../../tests/wire/feature_server.json");

/// Mistakes of the caller that Feast answers with 500 and its clients then send three times more.
const REFUSED_HERE: [&str; 12] = [
    "missing_feature",
    "bad_ref",
    "no_features",
    "empty_features",
    "empty_list",
    "empty_entities",
    "missing_join_key",
    "length_mismatch",
    "string_bad_int",
    "null_entity",
    "null_mixed_entity",
    "versioned_ref_disabled",
];

/// Likewise for writes.
const REFUSED_WRITES: [&str; 4] = [
    "push_missing_col",
    "push_missing_created",
    "push_bad_to",
    "push_ragged",
];

struct Answer {
    status: StatusCode,
    body: Json,
}

async fn send(router: &Router, method: &str, path: &str, body: &Json) -> Answer {
    let text = match body {
        Json::Null => String::new(),
        Json::String(raw) => raw.clone(),
        other => other.to_string(),
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(text))
        .unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX)
        .await
        .unwrap();
    let body = if bytes.is_empty() {
        json!("")
    } else {
        serde_json::from_slice(&bytes).unwrap()
    };
    Answer { status, body }
}

fn fixture_routes(fixture: &Fixture) -> Router {
    let app = Arc::new(Parts {
        server: fixture.server.clone(),
        writer: fixture.writer.clone(),
        limits: Arc::default(),
    });
    let guard = guard_of(&app);
    routes(&app, Vec::new(), guard)
}

fn guard_of(app: &App) -> Guard {
    Guard {
        limits: Arc::clone(&app.limits),
        metrics: Arc::clone(&app.server.metrics),
        shown: MetricsConfig::default(),
        audit: None,
    }
}

fn recorded() -> Vec<Json> {
    let document: Json = serde_json::from_str(RECORDED).unwrap();
    document["cases"].as_array().unwrap().clone()
}

async fn replay(router: &Router, case: &Json) -> Answer {
    let request = &case["request"];
    send(
        router,
        request["method"].as_str().unwrap(),
        request["path"].as_str().unwrap(),
        &request["body"],
    )
    .await
}

/// Columns by name, as Feast's order within a view is arbitrary. Redis answers PRESENT for an entity it
/// does not know, SQL stores NOT_FOUND.
fn columns(body: &Json) -> std::collections::BTreeMap<String, Json> {
    let names = body["metadata"]["feature_names"].as_array().unwrap();
    let results = body["results"].as_array().unwrap();
    assert_eq!(names.len(), results.len());
    let mut columns = std::collections::BTreeMap::new();
    for (name, result) in names.iter().zip(results) {
        let mut result = result.clone();
        for row in 0..result["values"].as_array().unwrap().len() {
            if result["values"][row].is_null() && result["event_timestamps"][row] == "1970-01-01T00:00:00Z" {
                result["statuses"][row] = json!("NOT_FOUND");
            }
        }
        columns.insert(name.as_str().unwrap().to_owned(), result);
    }
    columns
}

fn detail(body: &Json) -> Json {
    serde_json::from_str(body.as_str().unwrap_or("null")).unwrap_or(Json::Null)
}

#[tokio::test]
async fn recorded_reads_are_answered_alike() {
    let fixture = Fixture::drivers().await;
    let router = fixture_routes(&fixture);
    let mut compared = 0;
    for case in recorded() {
        let name = case["name"].as_str().unwrap();
        if REFUSED_HERE.contains(&name) || REFUSED_WRITES.contains(&name) {
            continue;
        }
        let answer = replay(&router, &case).await;
        let expected = &case["response"]["body"];
        let class = detail(expected)["class"].clone();
        if class == "FeatureNameCollisionError" {
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{name}");
            assert_eq!(detail(&answer.body)["class"], class, "{name}");
            continue;
        }
        assert_eq!(
            answer.status.as_u16(),
            case["response"]["status"],
            "{name}: {}",
            answer.body
        );
        if !class.is_null() {
            assert_eq!(detail(&answer.body)["class"], class, "{name}");
        } else if name == "bad_json" {
            assert_eq!(answer.body["detail"][0]["loc"], expected["detail"][0]["loc"]);
        } else if expected["results"].is_array() {
            let (mut ours, mut theirs) = (columns(&answer.body), columns(expected));
            if ["feature_service", "odfv_python"].contains(&name) {
                // Computed by a pandas function there, by an SQL expression here.
                ours.remove("conv_plus_py");
                theirs.remove("conv_plus_py");
            }
            if name == "odfv_written" {
                // Its event time is when it was recorded.
                for columns in [&mut ours, &mut theirs] {
                    columns.get_mut("trips_x10").unwrap()["event_timestamps"][0] = Json::Null;
                }
            }
            assert_eq!(ours, theirs, "{name}");
            assert_eq!(
                answer.body["metadata"].get("feature_view_metadata"),
                expected["metadata"].get("feature_view_metadata"),
                "{name}"
            );
        } else {
            assert_eq!(&answer.body, expected, "{name}");
        }
        compared += 1;
    }
    assert!(compared > 25, "only {compared} cases were compared");
}

#[tokio::test]
async fn a_refused_write_changes_nothing() {
    let fixture = Fixture::drivers().await;
    let router = fixture_routes(&fixture);
    for case in recorded() {
        let name = case["name"].as_str().unwrap();
        if REFUSED_WRITES.contains(&name) {
            let answer = replay(&router, &case).await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{name}: {}", answer.body);
            assert!(
                detail(&answer.body)["message"].is_string(),
                "{name}: {}",
                answer.body
            );
        }
    }
    // Two views are pushed to, and the row is wrong for the second only in its last value.
    let read = json!({"features": ["driver_fv:trips"], "entities": {"driver_id": [1001]}});
    let answer = send(&router, "POST", "/get-online-features", &read).await;
    assert_eq!(answer.body["results"][1]["values"], json!([21]));
}

#[tokio::test]
async fn on_demand_features_follow_the_stored_ones() {
    let fixture = Fixture::drivers().await;
    let router = fixture_routes(&fixture);
    let body = json!({
        "features": ["odfv_python:conv_plus_py", "driver_fv:trips"],
        "entities": {"driver_id": [1001, 9999, 1001], "val_to_add": [1, 2, 3], "val_to_add_2": [0.5, 0.5, 1]},
        "full_feature_names": true,
    });
    let answer = send(&router, "POST", "/get-online-features", &body).await;
    assert_eq!(
        answer.body["metadata"]["feature_names"],
        json!(["driver_id", "driver_fv__trips", "odfv_python__conv_plus_py"]),
        "{}",
        answer.body
    );
    let computed = &answer.body["results"][2];
    let near = |row: usize, wanted: f64| (computed["values"][row].as_f64().unwrap() - wanted).abs() < 1e-6;
    assert!(near(0, 1.8) && near(2, 4.3), "{computed}");
    assert_eq!(computed["values"][1], Json::Null);
    assert_eq!(computed["statuses"], json!(["PRESENT", "PRESENT", "PRESENT"]));
    assert_eq!(computed["event_timestamps"][0], "1970-01-01T00:00:00Z");
}

#[tokio::test]
async fn mistakes_of_the_caller_are_not_ours() {
    let fixture = Fixture::drivers().await;
    let router = fixture_routes(&fixture);
    for case in recorded() {
        let name = case["name"].as_str().unwrap();
        if REFUSED_HERE.contains(&name) {
            let answer = replay(&router, &case).await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{name}: {}", answer.body);
            assert!(
                detail(&answer.body)["class"].is_string(),
                "{name}: {}",
                answer.body
            );
        }
    }
}

#[tokio::test]
async fn features_come_in_the_order_they_were_asked_for() {
    let fixture = Fixture::drivers().await;
    let router = fixture_routes(&fixture);
    let body = json!({
        "features": ["driver_fv:name", "dc_fv:rating", "driver_fv:conv_rate", "driver_fv:trips"],
        "entities": {"customer_id": ["C1"], "driver_id": [1001]},
    });
    let answer = send(&router, "POST", "/get-online-features", &body).await;
    assert_eq!(
        answer.body["metadata"]["feature_names"],
        json!(["customer_id", "driver_id", "name", "rating", "conv_rate", "trips"])
    );
    assert_eq!(answer.body["results"][3]["values"], json!([4.5]));
}

#[tokio::test]
async fn a_view_without_entities_needs_no_column() {
    let fixture = Fixture::drivers().await;
    let router = fixture_routes(&fixture);
    let body = json!({"features": ["global_fv:gval"], "entities": {}});
    let answer = send(&router, "POST", "/get-online-features", &body).await;
    assert_eq!(
        answer.body,
        json!({
            "results": [{"values": [8], "statuses": ["PRESENT"], "event_timestamps": ["2026-11-21T10:00:00Z"]}],
            "metadata": {"feature_names": ["gval"]},
        })
    );
}

#[tokio::test]
async fn missing_join_keys_are_those_of_the_view() {
    let fixture = Fixture::drivers().await;
    let router = fixture_routes(&fixture);
    let body = json!({"features": ["dc_fv:rating"], "entities": {"driver_id": [1001]}});
    let answer = send(&router, "POST", "/get-online-features", &body).await;
    let message = detail(&answer.body)["message"].as_str().unwrap().to_owned();
    assert!(
        message.contains("`customer_id`") && message.contains("`dc_fv`"),
        "{message}"
    );
    assert!(!message.contains("bkey"), "{message}");
}

#[tokio::test]
async fn the_page_looks_values_up() {
    let fixture = Fixture::drivers().await;
    let router = lookup::routes(fixture.server.clone(), 1 << 20);
    let body = json!({"project": "dp", "featureService": "fs_alias", "entities": {"origin_id": ["1001"], "dest_id": [1]}});
    let refused = send(&router, "POST", "/lookup", &body).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    let body = json!({"features": ["driver_fv:trips"], "entities": {"driver_id": ["1001"]}});
    let answer = send(&router, "POST", "/lookup", &body).await;
    assert_eq!(answer.body["results"][1]["values"], json!([21]));
    let elsewhere =
        json!({"project": "other", "features": ["driver_fv:trips"], "entities": {"driver_id": ["1001"]}});
    assert_eq!(
        send(&router, "POST", "/lookup", &elsewhere).await.status,
        StatusCode::NOT_FOUND
    );
}
