//! Limits, forms of answers, and searches over a store that says what it was asked.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    io::{Read as _, Write as _},
    sync::Mutex,
};

use arrow::{array::AsArray as _, datatypes::Int64Type, ipc::reader::StreamReader};
use async_trait::async_trait;
use axum::http::HeaderMap;
use bytes::Bytes;

use super::*;
use crate::{
    config::OnlineConfig,
    metrics::Metrics,
    model::{FeatureView, ObjectKind, ValueType},
    online::{
        fixture::{TEN, entity, feature_view_proto, float, int, key, object, text},
        store::{
            Found, OlderRow, OnlineRead, OnlineStore, RowBatch, Search, Table, WriteBatch, search::Filter,
        },
    },
    proto::feast::serving::GetOnlineFeaturesResponse,
};

/// A store that finds two rows whatever it is asked, and keeps the question.
#[derive(Default)]
struct Finds {
    asked: Mutex<Vec<Search>>,
}

#[async_trait]
impl OnlineStore for Finds {
    async fn read(&self, _: &OnlineRead<'_>) -> Result<Vec<RowBatch>> {
        Err(self.cannot("read"))
    }

    async fn write(&self, _: &str, _: &Table, _: &WriteBatch, _: OlderRow) -> Result<u64> {
        Err(self.cannot("write"))
    }

    async fn provision(&self, _: &str, _: &[Arc<FeatureView>], _: &[Table]) -> Result<()> {
        Ok(())
    }

    async fn search(&self, _: &str, _: &Table, search: &Search) -> Result<Found> {
        self.asked.lock().unwrap().push(search.clone());
        let value = |feature: &String, id: i64| match feature.as_str() {
            "name" => text(if id == 7 { "seven cats" } else { "b" }),
            "emb" => {
                let val = if id == 7 { vec![0.0, 0.1] } else { vec![0.25, 0.5] };
                crate::model::value::Kind::FloatListVal(crate::proto::feast::types::FloatList { val }).into()
            }
            _ => float(1.5),
        };
        let ids = [7, 1001];
        let values = ids.iter().flat_map(|id| {
            let values = search.features.iter().map(|feature| value(feature, *id));
            values.map(|value| Some(Bytes::from(value.encode_to_vec())))
        });
        Ok(Found {
            keys: ids.iter().map(|id| key(&[("doc_id", int(*id))])).collect(),
            rows: RowBatch::of(search.features.len(), vec![Some(TEN), Some(TEN)], values),
            distances: search.vector.as_ref().map(|_| vec![0.5, 3.0]),
            text_ranks: search.text.as_ref().map(|_| vec![0.75, 0.25]),
        })
    }

    fn name(&self) -> &'static str {
        "finds"
    }

    async fn check(&self) -> Result<()> {
        Ok(())
    }
}

async fn documents() -> (Router, Arc<Finds>, Fixture) {
    let features = [
        ("emb", ValueType::FloatList),
        ("name", ValueType::String),
        ("score", ValueType::Float),
    ];
    let mut view = feature_view_proto("doc_fv", &[("doc", "doc_id", ValueType::Int64)], &features);
    let vector = &mut view.spec.as_mut().unwrap().features[0];
    (vector.vector_index, vector.vector_length) = (true, 2);
    vector.vector_search_metric = "cosine".to_owned();
    let objects = vec![
        entity("doc", "doc_id", ValueType::Int64),
        object(ObjectKind::FeatureView, "doc_fv", &view),
    ];
    let mut fixture = Fixture::new(objects).await;
    let store = Arc::new(Finds::default());
    fixture.server.store = Arc::clone(&store) as _;
    (fixture_routes(&fixture), store, fixture)
}

#[tokio::test]
async fn a_search_is_answered_in_rank_order_with_aligned_columns() {
    let (router, store, _fixture) = documents().await;
    let body = json!({
        "features": ["doc_fv:name", "doc_fv:emb"], "query": [0.5, 1], "top_k": 2, "api_version": 2,
        "query_string": "cats", "distance_metric": "L2",
        "filters": {"type": "and", "filters": [{"type": "gte", "key": "score", "value": 1}]},
    });
    for path in ["/search", "/retrieve-online-documents"] {
        let answer = send(&router, "POST", path, &body).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        let ten = "2026-11-21T10:00:00Z";
        assert_eq!(
            answer.body["metadata"]["feature_names"],
            json!(["name", "emb", "distance", "text_rank", "doc_id"])
        );
        let column = |index: usize| answer.body["results"][index]["values"].clone();
        assert_eq!(column(0), json!(["seven cats", "b"]));
        assert_eq!(column(1)[1], json!([0.25, 0.5]));
        assert_eq!((column(2), column(3)), (json!([0.5, 3.0]), json!([0.75, 0.25])));
        assert_eq!(column(4), json!([7, 1001]));
        assert_eq!(answer.body["results"][2]["event_timestamps"], json!([ten, ten]));
        let epoch = "1970-01-01T00:00:00Z";
        assert_eq!(
            answer.body["results"][4]["event_timestamps"],
            json!([epoch, epoch])
        );
    }
    let asked = store.asked.lock().unwrap();
    let vector = asked[0].vector.as_ref().unwrap();
    assert_eq!((vector.field.as_str(), &vector.vector), ("emb", &vec![0.5, 1.0]));
    assert_eq!(vector.metric.as_deref(), Some("cosine"), "the view's own wins");
    assert!(matches!(&asked[0].filter, Some(Filter::And(parts)) if parts.len() == 1));
}

#[tokio::test]
async fn the_first_version_of_search_answers_vectors_as_text() {
    let (router, _store, _fixture) = documents().await;
    let body = json!({"features": ["doc_fv:emb", "doc_fv:name"], "query": [0.5, 1], "top_k": 2});
    let answer = send(&router, "POST", "/search", &body).await;
    assert_eq!(answer.body["metadata"]["feature_names"], json!(["emb"]));
    assert_eq!(
        answer.body["results"][0]["values"],
        json!(["[0,0.1]", "[0.25,0.5]"])
    );
}

#[tokio::test]
async fn a_text_is_searched_without_distances() {
    let (router, _store, _fixture) = documents().await;
    let body = json!({"features": ["doc_fv:name"], "query_string": "cats", "top_k": 2, "api_version": 2});
    let answer = send(&router, "POST", "/search", &body).await;
    let distance = &answer.body["results"][1];
    assert_eq!(
        (&distance["values"], &distance["statuses"]),
        (&json!([null, null]), &json!(["NOT_FOUND", "NOT_FOUND"]))
    );
}

#[tokio::test]
async fn searches_that_make_no_sense_are_the_callers_mistake() {
    let (router, _store, _fixture) = documents().await;
    for (change, told) in [
        (json!({"query": null}), "nothing to search for"),
        (json!({"query": [1]}), "have 2"),
        (json!({"query": [1, "NaN"]}), "not finite"),
        (json!({"top_k": null}), "`top_k` is missing"),
        (json!({"top_k": 0}), "between 1 and"),
        (json!({"top_k": 1_000_000}), "between 1 and"),
        (json!({"features": []}), ""),
        (
            json!({"filters": {"type": "eq", "key": "nope", "value": 1}}),
            "`nope`",
        ),
        (
            json!({"filters": {"type": "or", "filters": vec![json!({"type": "eq", "key": "name", "value": "x"}); 501]}}),
            "501 comparisons",
        ),
        (
            json!({"filters": {"type": "in", "key": "name", "value": vec!["x"; 10_001]}}),
            "10001 values",
        ),
        (json!({"query_string": "w ".repeat(20_000)}), "40000 bytes"),
    ] {
        let mut body = json!({"features": ["doc_fv:name"], "query": [0.5, 1], "top_k": 2, "api_version": 2});
        body.as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        let answer = send(&router, "POST", "/search", &body).await;
        assert_eq!(
            answer.status,
            StatusCode::BAD_REQUEST,
            "{change}: {}",
            answer.body
        );
        let message = detail(&answer.body)["message"].to_string();
        assert!(message.contains(told), "{change}: {message}");
    }
    // And where the store cannot search at all.
    let fixture = Fixture::drivers().await;
    let body = json!({"features": ["driver_fv:trips"], "query_string": "x", "top_k": 2, "api_version": 2});
    let mut server = fixture.server.clone();
    server.store = Arc::new(crate::online::store::disabled::DisabledStore);
    let refused = server
        .search(body::read_search(body.to_string().as_bytes()).unwrap().request)
        .await
        .unwrap_err();
    assert!(refused.kind().is_callers_fault());
}

#[tokio::test]
async fn a_view_with_vectors_is_a_vector_store() {
    let (router, _store, _fixture) = documents().await;
    let list = send(&router, "GET", "/v1/vector_stores", &Json::Null).await;
    let store = list.body["data"][0].clone();
    assert_eq!(
        (&store["name"], &store["object"]),
        (&json!("doc_fv"), &json!("vector_store"))
    );
    let path = format!("/v1/vector_stores/{}", store["id"].as_str().unwrap());
    assert_eq!(send(&router, "GET", &path, &Json::Null).await.body, store);
    let path = format!("{path}/search");
    let page = send(&router, "POST", &path, &json!({"query": [0.5, 1]})).await;
    assert_eq!(page.status, StatusCode::OK, "{}", page.body);
    assert_eq!(page.body["object"], "vector_store.search_results.page");
    let first = &page.body["data"][0];
    assert_eq!(first["attributes"], json!({"name": "seven cats", "score": 1.5}));
    assert_eq!(first["score"], json!(0.5), "a cosine distance made a similarity");
    assert_eq!(first["content"], json!([{"type": "text", "text": "seven cats"}]));
    assert!(first["file_id"].as_str().unwrap().ends_with("_7"));
    for (body, told) in [
        (json!({"query": "cats"}), "no embedding model"),
        (json!({"query": [0.5, 1], "rewrite_query": true}), "rewrite_query"),
        (json!({"query": [0.5]}), "have 2"),
    ] {
        let refused = send(&router, "POST", &path, &body).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(refused.body["error"]["type"], "invalid_request_error");
        assert!(refused.body["error"]["message"].as_str().unwrap().contains(told));
    }
}

#[test]
fn vector_stores_are_called_as_feast_calls_them() {
    let object = feature_view_proto("driver_fv", &[], &[]);
    let view = FeatureView::from_object(&object_of(&object)).unwrap();
    assert_eq!(vector_stores::id_of(&view), "vs_95091a16c44ed6b2cf59655b");
}

fn object_of(view: &crate::proto::feast::core::FeatureView) -> crate::model::Object {
    object(ObjectKind::FeatureView, "driver_fv", view)
}

/// Sends with headers, and gives the answer as it is on the wire.
async fn exchange(
    router: &Router,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> (StatusCode, HeaderMap, Bytes) {
    let mut request = Request::builder().method("POST").uri("/get-online-features");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::from(body)).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    (parts.status, parts.headers, body)
}

fn many(rows: usize) -> Vec<u8> {
    let ids: Vec<usize> = (1000..1000 + rows).collect();
    json!({"features": ["driver_fv:trips", "driver_fv:conv_rate"], "entities": {"driver_id": ids}})
        .to_string()
        .into_bytes()
}

#[tokio::test]
async fn answers_come_as_json_protobuf_or_arrow() {
    let fixture = Fixture::drivers().await;
    let router = fixture_routes(&fixture);
    let (_, headers, body) = exchange(&router, &[("accept", "application/x-protobuf")], many(4)).await;
    assert_eq!(headers["content-type"], "application/x-protobuf");
    let message = GetOnlineFeaturesResponse::decode(body).unwrap();
    assert_eq!(message.results[1].values[1], int(21));

    let (_, headers, body) = exchange(&router, &[("accept", table::MEDIA_TYPE)], many(4)).await;
    assert_eq!(headers["content-type"], table::MEDIA_TYPE);
    let mut reader = StreamReader::try_new(body.as_ref(), None).unwrap();
    let batch = reader.next().unwrap().unwrap();
    let schema = batch.schema();
    let names: Vec<&str> = schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    assert_eq!(
        names,
        [
            "driver_id",
            "trips",
            "trips__status",
            "trips__event_timestamp",
            "conv_rate",
            "conv_rate__status",
            "conv_rate__event_timestamp"
        ]
    );
    let trips = batch.column(1).as_primitive::<Int64Type>();
    assert_eq!(trips.iter().collect::<Vec<_>>(), [None, Some(21), Some(30), None]);
    assert_eq!(batch.column(3).null_count(), 1, "an unknown entity has no time");

    let sent = GetOnlineFeaturesRequest {
        kind: Some(
            crate::proto::feast::serving::get_online_features_request::Kind::Features(
                crate::proto::feast::serving::FeatureList {
                    val: vec!["driver_fv:trips".to_owned()],
                },
            ),
        ),
        entities: [(
            "driver_id".to_owned(),
            crate::proto::feast::types::RepeatedValue { val: vec![int(1001)] },
        )]
        .into(),
        ..Default::default()
    };
    let kind = [("content-type", "application/x-protobuf")];
    let (status, _, body) = exchange(&router, &kind, sent.encode_to_vec()).await;
    let answer: Json = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        (status, &answer["results"][1]["values"]),
        (StatusCode::OK, &json!([21]))
    );
    let (status, _, _) = exchange(&router, &kind, b"\xff\xff".to_vec()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn long_answers_are_packed_for_those_who_unpack() {
    let fixture = Fixture::drivers().await;
    let router = fixture_routes(&fixture);
    let accepts = [("accept-encoding", "gzip, deflate")];
    let (_, headers, body) = exchange(&router, &accepts, many(100)).await;
    assert_eq!(headers["content-encoding"], "gzip");
    let mut text = String::new();
    flate2::read::GzDecoder::new(body.as_ref())
        .read_to_string(&mut text)
        .unwrap();
    let (_, plain_headers, plain) = exchange(&router, &[], many(100)).await;
    assert!(!plain_headers.contains_key("content-encoding"));
    assert_eq!(text.as_bytes(), plain);
    let (_, headers, _) = exchange(&router, &accepts, many(1)).await;
    assert!(!headers.contains_key("content-encoding"), "a short one is not");

    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(&many(2)).unwrap();
    let packed = packer.finish().unwrap();
    let (status, _, _) = exchange(&router, &[("content-encoding", "gzip")], packed).await;
    assert_eq!(status, StatusCode::OK);
    let (status, _, _) = exchange(&router, &[("content-encoding", "br")], many(1)).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn what_is_over_a_limit_is_refused_in_feasts_form() {
    let fixture = Fixture::drivers().await;
    let limited = |config| {
        let app = Arc::new(Parts {
            server: fixture.server.clone(),
            writer: fixture.writer.clone(),
            limits: Arc::new(Limits::new(config, Arc::<Metrics>::default(), Default::default())),
        });
        let guard = guard_of(&app);
        routes(&app, Vec::new(), guard)
    };
    let refused = |body: &Bytes| detail(&serde_json::from_slice(body).unwrap())["class"].clone();
    let router = limited(OnlineConfig {
        max_body: 1000,
        max_rows: 5,
        ..OnlineConfig::default()
    });
    let (status, _, body) = exchange(&router, &[], many(500)).await;
    assert_eq!(
        (status, refused(&body)),
        (StatusCode::PAYLOAD_TOO_LARGE, json!("FeastError"))
    );
    let (status, _, body) = exchange(&router, &[], many(6)).await;
    assert_eq!(
        (status, refused(&body)),
        (StatusCode::BAD_REQUEST, json!("FeastError"))
    );
    assert_eq!(exchange(&router, &[], many(5)).await.0, StatusCode::OK);

    let full = limited(OnlineConfig {
        max_in_flight: 0,
        ..OnlineConfig::default()
    });
    let (status, headers, body) = exchange(&full, &[], many(1)).await;
    assert_eq!(
        (status, refused(&body)),
        (StatusCode::SERVICE_UNAVAILABLE, json!("FeastError"))
    );
    assert_eq!(headers["retry-after"], "1");
    let healthy = send(&full, "GET", "/health", &Json::Null).await;
    assert_eq!(
        healthy.status,
        StatusCode::OK,
        "who looks after it is never turned away"
    );
}

#[tokio::test]
async fn requests_are_measured_by_how_much_they_ask() {
    let fixture = Fixture::drivers().await;
    let router = fixture_routes(&fixture);
    exchange(&router, &[], many(2)).await;
    exchange(&router, &[], b"{".to_vec()).await;
    let text = fixture.server.metrics.render();
    for line in [
        "feast_feature_server_request_latency_seconds_count{endpoint=\"/get-online-features\",feature_count=\"1-10\",feature_view_count=\"1\"} 1",
        "feast_feature_server_request_latency_seconds_count{endpoint=\"/get-online-features\",feature_count=\"\",feature_view_count=\"\"} 1",
        "thali_online_store_read_seconds_count{store=\"sqlite\"} 1",
        "thali_plan_misses_total 1",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn the_document_has_every_route() {
    let fixture = Fixture::drivers().await;
    let router = fixture_routes(&fixture);
    let document = send(&router, "GET", "/openapi.json", &Json::Null).await.body;
    for path in [
        "/get-online-features",
        "/push",
        "/search",
        "/v1/vector_stores/{id}/search",
        "/health",
    ] {
        assert!(document["paths"][path].is_object(), "{path}");
    }
    let entities = &document["paths"]["/get-online-features"]["post"]["requestBody"]["content"]["application/json"]
        ["schema"];
    assert_eq!(entities["required"], json!(["entities"]));
}
