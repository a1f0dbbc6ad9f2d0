//! Requests that nobody should send: whatever comes in, the fault is the caller's and is said to be.
#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
    test_runner::{Config, TestRunner},
};

use super::*;

/// Numbers as text, since JSON can say more than a program holds.
fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_map(|number| number.to_string()),
        select(vec![
            "1e999",
            "-1e999",
            "NaN",
            "-Infinity",
            "99999999999999999999999999",
            "-0",
            "1E400",
            "0.1e-400",
            "01",
        ])
        .prop_map(str::to_owned),
    ]
}

fn string() -> impl Strategy<Value = String> {
    prop_oneof![
        ".{0,8}".prop_map(|text| Json::from(text).to_string()),
        select(vec![
            r#""\ud800""#,
            r#""\u0000""#,
            r#""\udc00\ud800""#,
            "\"\u{202e}\u{1f980}\"",
            "\"driver_fv:trips\"",
            "\"driver_fv:\"",
            "\":\"",
            "\"driver_fv@v2:trips\"",
            "\"2026-13-99\"",
            "\"",
        ])
        .prop_map(str::to_owned),
    ]
}

/// The text of something like JSON.
fn junk() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        number(),
        string(),
        select(vec!["null", "true", "false", "{}", "[]", "[[]]"]).prop_map(str::to_owned),
    ];
    leaf.prop_recursive(6, 48, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(|items| format!("[{}]", items.join(","))),
            vec((string(), inner), 0..6).prop_map(|fields| {
                let fields: Vec<String> = fields
                    .into_iter()
                    .map(|(name, value)| format!("{name}:{value}"))
                    .collect();
                format!("{{{}}}", fields.join(","))
            }),
        ]
    })
}

/// Requests that are right, with a hole where junk goes.
const WITH_HOLES: [(&str, &str); 17] = [
    (
        "/get-online-features",
        r#"{"features":["driver_fv:trips"],"entities":{"driver_id":[1001,@]}}"#,
    ),
    (
        "/get-online-features",
        r#"{"features":["driver_fv:trips",@],"entities":{"driver_id":[1001]}}"#,
    ),
    (
        "/get-online-features",
        r#"{"features":["dc_fv:rating"],"entities":{"driver_id":[1],"customer_id":@}}"#,
    ),
    (
        "/get-online-features",
        r#"{"features":["i32_fv:v"],"entities":{"i32":[@]}}"#,
    ),
    (
        "/get-online-features",
        r#"{"feature_service":@,"entities":{"driver_id":[1001]}}"#,
    ),
    (
        "/get-online-features",
        r#"{"features":["odfv_python:conv_plus_py"],"entities":{"driver_id":[1001],"val_to_add":[@],"val_to_add_2":[1]}}"#,
    ),
    (
        "/get-online-features",
        r#"{"features":["driver_fv:trips"],"entities":@}"#,
    ),
    (
        "/get-online-features",
        r#"{"features":["driver_fv:trips"],"entities":{"driver_id":[1]},"full_feature_names":@}"#,
    ),
    ("/push", r#"{"push_source_name":@,"df":{"driver_id":[1]}}"#),
    (
        "/push",
        r#"{"push_source_name":"driver_push","to":@,"df":{"driver_id":[1]}}"#,
    ),
    (
        "/push",
        r#"{"push_source_name":"driver_push","df":{"driver_id":[1],"conv_rate":[@],"acc_rate":[1],"trips":[1],"trips32":[1],"name":["x"],"active":[true],"event_timestamp":["2026-11-21T10:00:00"],"created":["2026-11-21T10:00:00"]}}"#,
    ),
    (
        "/write-to-online-store",
        r#"{"feature_view_name":"dc_fv","df":{"driver_id":[1],"customer_id":["c"],"rating":[1],"event_timestamp":[@]}}"#,
    ),
    (
        "/write-to-online-store",
        r#"{"feature_view_name":"dc_fv","df":@}"#,
    ),
    (
        "/search",
        r#"{"features":["driver_fv:trips"],"query":@,"top_k":2,"api_version":2}"#,
    ),
    (
        "/search",
        r#"{"features":["driver_fv:trips"],"query_string":"x","top_k":@,"api_version":2,"filters":@}"#,
    ),
    ("/v1/vector_stores/x/search", r#"{"query":@}"#),
    ("/retrieve-online-documents", "@"),
];

#[test]
fn nothing_the_caller_sends_is_our_fault() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let fixture = runtime.block_on(Fixture::drivers());
    let router = fixture_routes(&fixture);
    let mut runner = TestRunner::new(Config {
        cases: 1500,
        failure_persistence: None,
        ..Config::default()
    });
    let cases = (any::<Index>(), junk(), any::<Option<Index>>());
    runner
        .run(&cases, |(form, junk, cut)| {
            let (path, form) = WITH_HOLES[form.index(WITH_HOLES.len())];
            let mut body = form.replace('@', &junk).into_bytes();
            if let Some(cut) = cut {
                body.truncate(cut.index(body.len().max(1)));
            }
            let request = Request::builder()
                .method("POST")
                .uri(path)
                .body(Body::from(body.clone()))
                .unwrap();
            let response = runtime.block_on(router.clone().oneshot(request)).unwrap();
            let status = response.status();
            let answer = runtime
                .block_on(axum::body::to_bytes(response.into_body(), usize::MAX))
                .unwrap();
            prop_assert!(
                !status.is_server_error(),
                "{status} of {path} {}: {}",
                String::from_utf8_lossy(&body),
                String::from_utf8_lossy(&answer)
            );
            if status.is_client_error() {
                let answer: Json = serde_json::from_slice(&answer).unwrap();
                let told = answer["detail"].is_array()
                    || detail(&answer)["class"].is_string()
                    || answer["error"].is_object();
                prop_assert!(told, "{status}: {answer}");
            }
            Ok(())
        })
        .unwrap();
}

/// Rows of one request do not mix, however they are ordered and repeated.
#[test]
fn rows_are_answered_where_they_were_asked() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let fixture = runtime.block_on(Fixture::drivers());
    let router = fixture_routes(&fixture);
    let mut runner = TestRunner::new(Config {
        cases: 100,
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(&vec(1000i64..1005, 1..40), |ids| {
            let body = json!({"features": ["driver_fv:trips"], "entities": {"driver_id": ids}});
            let answer = runtime.block_on(send(&router, "POST", "/get-online-features", &body));
            let trips = |id: &i64| match id {
                1001 => json!(21),
                1002 => json!(30),
                _ => Json::Null,
            };
            let wanted: Vec<Json> = ids.iter().map(trips).collect();
            prop_assert_eq!(&answer.body["results"][0]["values"], &json!(ids));
            prop_assert_eq!(&answer.body["results"][1]["values"], &Json::from(wanted));
            Ok(())
        })
        .unwrap();
}
