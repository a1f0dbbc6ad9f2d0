#![expect(clippy::unwrap_used, reason = "tests")]

use serde_json::json;

use super::*;
use crate::{
    model::{
        Object,
        value::{self, Value},
    },
    online::{
        fixture::{Fixture, HOUR, PROJECT, TEN, feature_view, float, int, key, object, projection, service},
        serve::{Column, Given, Request, Status},
    },
};

const KEYS: [(&str, &str, ValueType); 1] = [("driver", "driver_id", ValueType::Int64)];

fn project(precompute: bool) -> Vec<Object> {
    let packed = service(
        "packed",
        vec![
            projection("v", "", &[("a", ValueType::Int64), ("b", ValueType::Float)]),
            projection("w", "", &[("c", ValueType::Int64)]),
        ],
    );
    let mut proto: core::FeatureService = packed.decode().unwrap();
    if let Some(spec) = &mut proto.spec {
        spec.precompute_online = precompute;
    }
    vec![
        crate::online::fixture::entity("driver", "driver_id", ValueType::Int64),
        feature_view("v", &KEYS, &[("a", ValueType::Int64), ("b", ValueType::Float)]),
        feature_view("w", &KEYS, &[("c", ValueType::Int64)]),
        object(ObjectKind::FeatureService, "packed", &proto),
    ]
}

fn driver(id: i64) -> Bytes {
    key(&[("driver_id", int(id))])
}

type Cells = Vec<(String, Vec<(Option<Value>, Status)>)>;

async fn answer(fixture: &Fixture, drivers: &[i64]) -> Cells {
    let request = Request {
        wanted: Wanted::service("packed"),
        full_names: false,
        version_metadata: false,
        columns: vec![(
            "driver_id".to_owned(),
            Given::Json(drivers.iter().map(|id| json!(id)).collect()),
        )],
    };
    let response = fixture.server.get(request).await.unwrap();
    let columns = response.columns().filter_map(|(name, column)| match column {
        Column::Stored(stored) => {
            let cells = stored.cells();
            let decode = |bytes: Option<&[u8]>| bytes.map(|bytes| Value::decode(bytes).unwrap());
            // The views have a ttl, which counts where vectors are served; how old rows are is not what is
            // asked here.
            let seen = |status| match status {
                Status::OutsideMaxAge => Status::Present,
                status => status,
            };
            Some((
                name.to_string(),
                cells
                    .map(|(bytes, status)| (decode(bytes), seen(status)))
                    .collect(),
            ))
        }
        _ => None,
    });
    columns.collect()
}

async fn make(fixture: &Fixture, view: &str, keys: &[Bytes]) {
    let catalog = fixture.server.registry.catalog(PROJECT).await.unwrap();
    let maker = Maker {
        store: &*fixture.store,
        catalog: &catalog,
        settings: fixture.server.settings,
    };
    maker.after_write(view, keys).await.unwrap();
}

async fn with_rows(precompute: bool) -> Fixture {
    let fixture = Fixture::new(project(precompute)).await;
    let rows = vec![
        (driver(1), TEN, vec![int(11), value::NULL]),
        (driver(2), TEN, vec![int(21), float(0.5)]),
    ];
    fixture.put("v", &["a", "b"], rows).await;
    fixture
        .put("w", &["c"], vec![(driver(1), TEN, vec![int(13)])])
        .await;
    fixture
}

#[tokio::test]
async fn vectors_answer_what_rows_answer() {
    let drivers = [2, 1, 9, 1];
    let expected = answer(&with_rows(false).await, &drivers).await;
    let fixture = with_rows(true).await;
    // Without any vector all come from rows, unknown entities too.
    assert_eq!(answer(&fixture, &drivers).await, expected);
    make(&fixture, "v", &[driver(1), driver(9), driver(1)]).await;
    assert_eq!(answer(&fixture, &drivers).await, expected);
    // Driver 1 does come from a vector: rows written past thali are not seen, until it is made again.
    fixture
        .put("w", &["c"], vec![(driver(1), TEN + HOUR, vec![int(14)])])
        .await;
    assert_eq!(answer(&fixture, &drivers).await, expected);
    make(&fixture, "w", &[driver(1)]).await;
    let now = answer(&fixture, &drivers).await;
    assert_eq!(now[2].1[1], (Some(int(14)), Status::Present));
    assert_eq!(now[..2], expected[..2]);
}

#[tokio::test]
async fn a_vector_of_other_features_is_not_used() {
    let fixture = with_rows(true).await;
    make(&fixture, "v", &[driver(1)]).await;
    let expected = answer(&fixture, &[1]).await;
    let catalog = fixture.server.registry.catalog(PROJECT).await.unwrap();
    let shape = Shape {
        wanted: Wanted::service("packed"),
        full_names: false,
    };
    let plan = Plan::new(&catalog, &shape, fixture.server.settings).unwrap();
    let precomputed = plan.precomputed.unwrap();
    let mut other = core::PrecomputedFeatureVector {
        feature_names: vec!["v__a".to_owned(), "v__b".to_owned()],
        values: vec![int(99), int(99)],
        ..Default::default()
    };
    let mut damaged = vec![vec![], b"\xff\xff".to_vec()];
    damaged.push(other.encode_to_vec());
    other.feature_names.push("w__c".to_owned());
    damaged.push(other.encode_to_vec());
    for vector in damaged {
        let value: Value = value::Kind::BytesVal(vector.into()).into();
        let batch = WriteBatch {
            features: vec![VECTOR.to_owned()],
            keys: vec![driver(1)],
            event_times: vec![Utc::now().timestamp_micros() + HOUR],
            created_times: Vec::new(),
            values: vec![value.encode_to_vec().into()],
        };
        let table = precomputed.table();
        fixture
            .store
            .write(PROJECT, table, &batch, OlderRow::Skip)
            .await
            .unwrap();
        assert_eq!(answer(&fixture, &[1]).await, expected);
    }
}

#[tokio::test]
async fn vectors_are_written_as_feast_writes_them() {
    let fixture = with_rows(true).await;
    make(&fixture, "v", &[driver(1)]).await;
    let group = KeyGroup {
        keys: vec![driver(1)],
        views: vec![columns(
            "packed",
            &FeatureView::from_object(&project(true)[1]).unwrap(),
        )]
        .into(),
    };
    let read = OnlineRead {
        project: PROJECT,
        groups: &[group],
    };
    let stored = fixture.store.read(&read).await.unwrap();
    let value = Value::decode(stored[0].get(0, 0).unwrap()).unwrap();
    let Some(value::Kind::BytesVal(bytes)) = value.val else {
        unreachable!("a vector is bytes")
    };
    let vector = core::PrecomputedFeatureVector::decode(bytes).unwrap();
    assert_eq!(vector.feature_names, ["v__a", "v__b", "w__c"]);
    assert_eq!(vector.values, [int(11), value::NULL, int(13)]);
    let times: Vec<&str> = vector
        .fv_timestamps
        .iter()
        .map(|time| time.feature_view_name.as_str())
        .collect();
    assert_eq!(times, ["v", "w"]);
    assert!(vector.precomputed_at.is_some());
}
