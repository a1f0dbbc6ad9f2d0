//! DynamoDB as an online store, played by moto.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use thali::{
    error::Kind,
    model::{FeatureView, ValueType},
    online::store::{OlderRow, Table},
};

use super::{
    conformance::{HOUR, TEN, conformance, encoded, key, pair, rows, texts, view, with_pair},
    home::Home,
};
use crate::servers;

fn section() -> String {
    let endpoint = servers::url("THALI_TEST_DYNAMODB");
    format!(
        "type: dynamodb\nregion: us-east-1\nendpoint_url: {endpoint}\nread_timeout: 60\ntags: {{team: ml, stage: test}}"
    )
}

async fn home() -> Home {
    Home::new(&section())
}

/// A store with the table of a view of two features.
/// A call of somebody else; moto looks at nothing of a signature but the region.
async fn call(operation: &str, body: &serde_json::Value) {
    let region = "AWS4-HMAC-SHA256 Credential=test/20261121/us-east-1/dynamodb/aws4_request, SignedHeaders=host, Signature=0";
    let sent = reqwest::Client::new()
        .post(servers::url("THALI_TEST_DYNAMODB"))
        .header("content-type", "application/x-amz-json-1.0")
        .header("x-amz-target", format!("DynamoDB_20120810.{operation}"))
        .header("authorization", region)
        .body(body.to_string())
        .send()
        .await
        .unwrap();
    assert!(sent.status().is_success(), "{:?}", sent.text().await);
}

// A table may not be called just anything: tests that have odd names are left out.
conformance!(
    home;
    values_of_every_type_come_back,
    nulls_unknown_entities_and_unknown_features,
    one_read_of_several_groups_and_views,
    a_view_that_was_never_prepared_has_no_rows,
    the_newest_of_a_key_that_comes_twice_counts,
    rows_never_go_back_in_event_time,
    views_are_prepared_and_dropped_as_often_as_wanted,
    rows_are_deleted_by_their_keys,
    rows_are_counted_and_truncated,
    keys_are_listed_page_by_page,
    five_thousand_keys_in_one_request,
    the_newest_of_many_writers_stays,
    no_value_turns_up_elsewhere,
);

#[tokio::test]
async fn keys_of_rows_that_feast_wrote_are_not_left_out_in_silence() {
    let home = home().await;
    let (store, v) = with_pair(&home).await;
    let project = &home.project;
    let table = Table::of(&v);
    let batch = rows(
        &["a", "b"],
        &[(key("1"), TEN, &["a", "b"]), (key("2"), TEN, &["a", "b"])],
    );
    store
        .write(project, &table, &batch, OlderRow::Skip)
        .await
        .unwrap();
    // As Feast puts a whole item in place of another.
    let id = thali::model::entity_key::entity_id(&key("2"));
    let item = serde_json::json!({
        "TableName": format!("{project}.v"),
        "Item": {"entity_id": {"S": id}, "event_ts": {"S": "2026-11-21 10:00:00+00:00"}, "values": {"M": {}}},
    });
    call("PutItem", &item).await;
    let error = store.keys(project, &table, None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.message().contains("written by Feast"), "{error}");
    store
        .write(project, &table, &batch, OlderRow::Skip)
        .await
        .unwrap();
    let (keys, next) = store.keys(project, &table, None).await.unwrap();
    assert_eq!((keys.len(), next), (2, None));
}

#[tokio::test]
async fn a_write_of_some_features_keeps_the_others() {
    let home = home().await;
    let (store, v) = with_pair(&home).await;
    let project = &home.project;
    let table = Table::of(&v);
    let both = rows(&["a", "b"], &[(key("1"), TEN, &["1a", "1b"])]);
    store.write(project, &table, &both, OlderRow::Skip).await.unwrap();
    let some = rows(
        &["b"],
        &[(key("1"), TEN + HOUR, &["1b'"]), (key("2"), TEN, &["2b"])],
    );
    assert_eq!(
        store.write(project, &table, &some, OlderRow::Skip).await.unwrap(),
        2
    );
    let older = rows(&["a"], &[(key("1"), TEN, &["old"])]);
    assert_eq!(
        store
            .write(project, &table, &older, OlderRow::Skip)
            .await
            .unwrap(),
        0
    );
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        texts(&*store, project, &v, &[key("1"), key("2")], &["a", "b"]).await,
        [
            (Some(TEN + HOUR), vec![text("1a"), text("1b'")]),
            (Some(TEN), vec![None, text("2b")]),
        ]
    );
}

#[tokio::test]
async fn times_with_and_without_a_fraction_are_compared_as_times() {
    let home = home().await;
    let (store, v) = with_pair(&home).await;
    let project = &home.project;
    let write = async |time| {
        let batch = rows(&["a", "b"], &[(key("1"), time, &["a", "b"])]);
        store
            .write(project, &Table::of(&v), &batch, OlderRow::Skip)
            .await
            .unwrap()
    };
    assert_eq!(write(TEN + 1).await, 1);
    assert_eq!(write(TEN).await, 0);
    assert_eq!(write(TEN + 999_999).await, 1);
    assert_eq!(write(TEN + 100_000).await, 0);
    assert_eq!(write(TEN + 1_000_000).await, 1);
    assert_eq!(write(TEN + 999_999).await, 0);
}

#[tokio::test]
async fn more_features_than_an_expression_takes() {
    let home = home().await;
    let store = home.open().await;
    let project = &home.project;
    let names: Vec<String> = (0..1_000).map(|number| format!("feature_{number}")).collect();
    let typed: Vec<(&str, ValueType)> = names
        .iter()
        .map(|name| (name.as_str(), ValueType::String))
        .collect();
    let wide = view("wide", &typed);
    store.provision(project, &[Arc::clone(&wide)], &[]).await.unwrap();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let batch = rows(&names, &[(key("1"), TEN, &names)]);
    assert_eq!(
        store
            .write(project, &Table::of(&wide), &batch, OlderRow::Skip)
            .await
            .unwrap(),
        1
    );
    let read = texts(&*store, project, &wide, &[key("1")], &names).await;
    let wanted: Vec<Option<String>> = names.iter().map(|name| Some((*name).to_owned())).collect();
    assert_eq!(read, [(Some(TEN), wanted)]);
    let many = rows(&names[..281], &[(key("1"), TEN, &names[..281])]);
    let error = store
        .write(project, &Table::of(&wide), &many, OlderRow::Skip)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument);
    let some = rows(&names[..100], &[(key("1"), TEN, &names[1..101])]);
    assert_eq!(
        store
            .write(project, &Table::of(&wide), &some, OlderRow::Skip)
            .await
            .unwrap(),
        1
    );
}

#[tokio::test]
async fn a_batch_that_fails_names_its_rows() {
    let home = home().await;
    let (store, v) = with_pair(&home).await;
    let project = &home.project;
    let mut batch = rows(
        &["a", "b"],
        &[(key("1"), TEN, &["a", "b"]), (key("2"), TEN, &["a", "b"])],
    );
    // An item may have 400 KB.
    batch.values[2] = encoded(&"x".repeat(500_000));
    let error = store
        .write(project, &Table::of(&v), &batch, OlderRow::Skip)
        .await
        .unwrap_err();
    assert!(
        error
            .message()
            .starts_with("1 of 2 rows were not written (id=\"2\")"),
        "{error}"
    );
    let stored = texts(&*store, project, &v, &[key("1")], &["a"]).await;
    assert_eq!(stored[0].0, Some(TEN));
}

#[tokio::test]
async fn a_table_has_the_tags_of_the_store_and_of_its_view() {
    let home = home().await;
    let store = home.open().await;
    let mut tagged: FeatureView = (*pair("v")).clone();
    tagged.tags = BTreeMap::from(
        [("stage", "prod"), ("odd", "{\"no\": \"tag\"}")].map(|(k, v)| (k.to_owned(), v.to_owned())),
    );
    for _ in 0..2 {
        store
            .provision(&home.project, &[Arc::new(tagged.clone())], &[])
            .await
            .unwrap();
    }
    let infra = store.infra(&home.project, &tagged).unwrap();
    assert_eq!(
        infra.infra_object_class_type,
        "feast.infra.online_stores.dynamodb.DynamoDBTable"
    );
}

#[tokio::test]
async fn a_store_that_is_away_is_told_within_seconds() {
    let home = Home::new("type: dynamodb\nregion: us-east-1\nendpoint_url: http://127.0.0.1:1");
    let store = home.open().await;
    let begin = std::time::Instant::now();
    let error = store.check().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    let batch = rows(&["a", "b"], &[(key("1"), TEN, &["a", "b"])]);
    let error = store
        .write(&home.project, &Table::of(&pair("v")), &batch, OlderRow::Skip)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.message().contains("http://127.0.0.1:1"), "{error}");
    assert!(begin.elapsed().as_secs() < 10);
    assert_eq!(
        store
            .delete(&home.project, &Table::of(&pair("v")), &[] as &[Bytes])
            .await
            .unwrap(),
        0
    );
}

/// What DynamoDB does under load and moto never: answers in parts, throttles, and is unwell.
mod busy {
    use std::sync::{Arc, Mutex};

    use axum::{Router, body::Bytes, http::StatusCode, routing::post};
    use serde_json::{Value as Json, json};
    use thali::{error::Kind, online::store::OnlineRead};

    use super::*;

    type Answers = Arc<Mutex<Vec<(u16, Json)>>>;

    /// A store whose DynamoDB gives these answers, the last of them again and again; and what it was asked.
    async fn home(answers: Vec<(u16, Json)>) -> (Home, Arc<Mutex<Vec<Json>>>) {
        let answers: Answers = Arc::new(Mutex::new(answers));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        let answer = move |body: Bytes| async move {
            log.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
            let mut answers = answers.lock().unwrap();
            let (status, json) = if answers.len() > 1 {
                answers.remove(0)
            } else {
                answers[0].clone()
            };
            (StatusCode::from_u16(status).unwrap(), json.to_string())
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", post(answer));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let home = Home::new(&format!(
            "type: dynamodb\nregion: us-east-1\nendpoint_url: http://{address}\ntable_name_template: '{{table_name}}'"
        ));
        (home, asked)
    }

    fn item(id: &str, value: &str) -> Json {
        use base64::{Engine as _, prelude::BASE64_STANDARD};
        json!({
            "entity_id": {"S": thali::model::entity_key::entity_id(&key(id))},
            "event_ts": {"S": "2026-11-21 10:00:00+00:00"},
            "values": {"M": {"a": {"B": BASE64_STANDARD.encode(encoded(value))}}},
        })
    }

    fn throttled() -> (u16, Json) {
        let name = "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException";
        (400, json!({"__type": name, "message": "slow down"}))
    }

    #[tokio::test]
    async fn keys_left_unread_are_asked_for_again() {
        let rest = json!({"v": {"Keys": [{"entity_id": {"S": "rest"}}]}});
        let (home, asked) = home(vec![
            (
                200,
                json!({"Responses": {"v": [item("1", "one")]}, "UnprocessedKeys": rest}),
            ),
            throttled(),
            (200, json!({"Responses": {"v": []}, "UnprocessedKeys": rest})),
            (
                500,
                json!({"__type": "x#InternalServerError", "message": "unwell"}),
            ),
            (
                200,
                json!({"Responses": {"v": [item("2", "two")]}, "UnprocessedKeys": {}}),
            ),
        ])
        .await;
        let store = home.open().await;
        let read = texts(&*store, &home.project, &pair("v"), &[key("1"), key("2")], &["a"]).await;
        let row = |text: &str| (Some(TEN), vec![Some(text.to_owned())]);
        assert_eq!(read, [row("one"), row("two")]);
        let asked = asked.lock().unwrap();
        assert_eq!(asked.len(), 5);
        assert_eq!(asked[0]["RequestItems"]["v"]["Keys"].as_array().unwrap().len(), 2);
        assert!(asked[1..].iter().all(|body| body["RequestItems"] == rest));
    }

    #[tokio::test]
    async fn who_throttles_for_too_long_is_overloaded() {
        let (home, _) = home(vec![throttled()]).await;
        let store = home.open().await;
        let groups = [super::super::conformance::group(
            &[key("1")],
            vec![super::super::conformance::columns(&pair("v"), &["a"])],
        )];
        let read = OnlineRead {
            project: &home.project,
            groups: &groups,
        };
        assert_eq!(store.read(&read).await.unwrap_err().kind(), Kind::Overloaded);
        let batch = rows(&["a", "b"], &[(key("1"), TEN, &["a", "b"])]);
        let write = store
            .write(&home.project, &Table::of(&pair("v")), &batch, OlderRow::Skip)
            .await;
        assert_eq!(write.unwrap_err().kind(), Kind::Overloaded);
    }
}
