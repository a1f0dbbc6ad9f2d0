#![expect(clippy::unwrap_used, reason = "tests")]

use arrow::{
    array::{
        Array as _, AsArray as _, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray,
        TimestampMillisecondArray,
    },
    datatypes::{Float64Type, Int32Type, TimestampMicrosecondType, TimestampNanosecondType},
};
use serde_json::{Value as Json, json};

use super::*;
use crate::{
    model::{ObjectKind, ValueType, entity_key::Version, value::Value},
    online::{
        fixture::{Fixture, HOUR, TEN, columns, feature_view, int, key, object, on_demand, projection, text},
        plan::Wanted,
        serve::{Column, Given, Request},
    },
};

fn frame(columns: Json) -> Frame {
    let Json::Object(columns) = columns else {
        unreachable!("tests pass objects")
    };
    let columns = columns
        .into_iter()
        .map(|(name, values)| (name, values.as_array().unwrap().clone()));
    Frame::from_json(columns.collect()).unwrap()
}

/// The stored values of a feature for drivers, by the way every reader goes.
async fn stored(fixture: &Fixture, feature: &str, drivers: &[i64]) -> Vec<Option<Value>> {
    let request = Request {
        wanted: Wanted::features([feature]),
        full_names: false,
        version_metadata: false,
        columns: vec![(
            "driver_id".to_owned(),
            Given::Typed(drivers.iter().map(|id| int(*id)).collect()),
        )],
    };
    let response = fixture.server.get(request).await.unwrap();
    let (_, column) = response.columns().nth(1).unwrap();
    let Column::Stored(column) = column else {
        unreachable!("the feature is stored")
    };
    let decode = |bytes: Option<&[u8]>| bytes.map(|bytes| prost::Message::decode(bytes).unwrap());
    column.cells().map(|(bytes, _)| decode(bytes)).collect()
}

fn driver_rows() -> Json {
    json!({
        "driver_id": [1001, 1007],
        "conv_rate": [0.9, 0.1], "acc_rate": [0.8, null], "trips": [77, 7], "trips32": [7, 8],
        "name": ["pushed", "new"], "active": [false, true],
        "event_timestamp": ["2026-11-21T11:30:00", "2026-11-21T13:30:00.5+02:00"],
        "created": ["2026-11-21T11:31:00", "2026-11-21T11:32:00"],
    })
}

#[tokio::test]
async fn a_push_to_both_reaches_both() {
    let fixture = Fixture::drivers().await;
    let pushed = fixture
        .writer
        .push(
            "driver_push",
            &frame(driver_rows()),
            Target::Both,
            Options::default(),
        )
        .await
        .unwrap();
    assert_eq!((pushed.stored, pushed.queued), (2, false));
    assert_eq!(
        stored(&fixture, "driver_fv:name", &[1001, 1007]).await,
        [Some(text("pushed")), Some(text("new"))]
    );
    let appended = fixture.offline.appended.lock().unwrap();
    let (source, batch) = &appended[0];
    assert_eq!((appended.len(), source.as_str()), (1, "driver_fv_source"));
    let names: Vec<&str> = batch
        .schema_ref()
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    assert_eq!(
        names,
        [
            "event_timestamp",
            "driver_id",
            "conv_rate",
            "acc_rate",
            "trips",
            "trips32",
            "name",
            "active",
            "created"
        ]
    );
    let times = batch.column(0).as_primitive::<TimestampNanosecondType>();
    assert_eq!(
        times.values(),
        &[1_795_260_600_000_000_000, 1_795_260_600_500_000_000]
    );
    assert_eq!(times.timezone(), Some("UTC"));
    let created = batch.column(8).as_primitive::<TimestampMicrosecondType>();
    assert_eq!(
        (created.value(0), created.timezone()),
        (1_795_260_660_000_000, None)
    );
    assert!(batch.column(3).as_primitive::<Float64Type>().is_null(1));
    assert_eq!(batch.column(5).as_primitive::<Int32Type>().values(), &[7, 8]);
}

#[tokio::test]
async fn a_push_offline_leaves_the_online_store_alone() {
    let fixture = Fixture::drivers().await;
    let rows = frame(driver_rows());
    fixture
        .writer
        .push("driver_push", &rows, Target::Offline, Options::default())
        .await
        .unwrap();
    assert_eq!(
        stored(&fixture, "driver_fv:name", &[1001, 1007]).await,
        [Some(text("b2")), None]
    );
    assert_eq!(fixture.offline.appended.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_wrong_value_in_the_last_row_stops_the_whole_push() {
    let fixture = Fixture::drivers().await;
    let mut rows = driver_rows();
    rows["trips"][1] = json!("seven");
    let error = fixture
        .writer
        .push("driver_push", &frame(rows), Target::Both, Options::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument);
    assert!(error.message().contains("`trips`"), "{error}");
    assert_eq!(
        stored(&fixture, "driver_fv:trips", &[1001, 1007]).await,
        [Some(int(21)), None]
    );
    assert!(fixture.offline.appended.lock().unwrap().is_empty());
}

#[tokio::test]
async fn rows_that_say_nothing_are_skipped() {
    let fixture = Fixture::drivers().await;
    let rows = json!({
        "driver_id": [1001, null, 1001], "customer_id": ["C7", "C8", "C9"], "rating": [null, 1.0, 2.0],
        "event_timestamp": ["2026-11-21", "2026-11-21", "2026-11-21"],
    });
    let written = fixture
        .writer
        .write_to_online_store("dc_fv", &frame(rows), Options::default())
        .await
        .unwrap();
    assert_eq!(written, 1);
}

#[tokio::test]
async fn times_go_by_the_sources_name_or_by_the_remote_clients() {
    let mut proto = crate::online::fixture::feature_view_proto(
        "t_fv",
        &[("driver", "driver_id", ValueType::Int64)],
        &[("trips", ValueType::Int64)],
    );
    let source = proto.spec.as_mut().unwrap().batch_source.as_mut().unwrap();
    source.timestamp_field = "ts".to_owned();
    source.created_timestamp_column = "made".to_owned();
    source
        .field_mapping
        .insert("TRIPS".to_owned(), "trips".to_owned());
    let fixture = Fixture::new(vec![
        crate::online::fixture::entity("driver", "driver_id", ValueType::Int64),
        object(ObjectKind::FeatureView, "t_fv", &proto),
    ])
    .await;
    let write = async |rows: Json| {
        fixture
            .writer
            .write_to_online_store("t_fv", &frame(rows), Options::default())
            .await
    };
    let at = "2026-11-21T10:00:00";
    let own = json!({"driver_id": [1], "trips": [5], "ts": [at], "made": [at]});
    assert_eq!(write(own).await.unwrap(), 1);
    let remote = json!({"driver_id": [2], "TRIPS": [6], "event_timestamp": [at], "created": [at]});
    assert_eq!(write(remote).await.unwrap(), 1);
    assert_eq!(
        stored(&fixture, "t_fv:trips", &[1, 2]).await,
        [Some(int(5)), Some(int(6))]
    );
    let missing = write(json!({"driver_id": [2]})).await.unwrap_err();
    assert!(missing.message().contains("`trips`, `ts`, `made`"), "{missing}");
    let number = json!({"driver_id": [2], "trips": [6], "ts": [1_795_255_200], "made": [at]});
    assert!(write(number).await.unwrap_err().message().contains("`ts`"));
}

#[tokio::test]
async fn stored_on_demand_features_are_computed_when_written() {
    let fixture = Fixture::drivers().await;
    let rows = json!({"driver_id": [1, 2], "trips": [4, 5]});
    let written = fixture
        .writer
        .write_to_online_store("odfv_written", &frame(rows), Options::default())
        .await
        .unwrap();
    assert_eq!(written, 2);
    assert_eq!(
        stored(&fixture, "odfv_written:trips_x10", &[1, 2]).await,
        [Some(int(40)), Some(int(50))]
    );
    let done = Options {
        transform: false,
        ..Options::default()
    };
    let rows = json!({"driver_id": [3], "trips_x10": [1]});
    fixture
        .writer
        .write_to_online_store("odfv_written", &frame(rows), done)
        .await
        .unwrap();
    assert_eq!(
        stored(&fixture, "odfv_written:trips_x10", &[3]).await,
        [Some(int(1))]
    );
    let read_only = fixture
        .writer
        .write_to_online_store("odfv_python", &frame(json!({"a": [1]})), done)
        .await;
    assert_eq!(read_only.unwrap_err().kind(), Kind::InvalidArgument);
}

#[tokio::test]
async fn a_view_is_compiled_once_until_it_changes() {
    let fixture = Fixture::drivers().await;
    let write = async |id: i64| {
        let rows = frame(json!({"driver_id": [id], "trips": [4]}));
        let written = fixture
            .writer
            .write_to_online_store("odfv_written", &rows, Options::default());
        assert_eq!(written.await.unwrap(), 1);
        let catalog = fixture.server.registry.catalog("dp").await.unwrap();
        let Some(View::OnDemand(view)) = catalog.view("odfv_written") else {
            unreachable!("it is there")
        };
        let program = fixture.writer.programs.of(view, &catalog);
        (program, stored(&fixture, "odfv_written:trips_x10", &[id]).await)
    };
    let (first, value) = write(1).await;
    assert_eq!(value, [Some(int(40))]);
    assert!(Arc::ptr_eq(&first, &write(2).await.0));

    let trips = projection("driver_fv", "", &[("trips", ValueType::Int64)]);
    let outputs = [("trips_x10", ValueType::Int64, "trips * 100")];
    let mut changed = on_demand("odfv_written", &[trips], &[], &outputs);
    let spec = changed.spec.as_mut().unwrap();
    spec.write_to_online_store = true;
    spec.entities = vec!["driver".to_owned()];
    spec.entity_columns = columns(&[("driver_id", ValueType::Int64)]);
    let changed = object(ObjectKind::OnDemandFeatureView, "odfv_written", &changed);
    let put = crate::registry::store::Change::Put(changed);
    let registry = &fixture.server.registry;
    registry
        .update("dp", None, &mut |_| Ok(vec![put.clone()]))
        .await
        .unwrap();
    let (second, value) = write(3).await;
    assert_eq!(value, [Some(int(400))]);
    assert!(!Arc::ptr_eq(&first, &second));
}

#[tokio::test]
async fn an_input_is_missing_by_name() {
    let plus = on_demand(
        "plus",
        &[projection("driver_fv", "", &[("trips", ValueType::Int64)])],
        &[("extra", ValueType::Int64)],
        &[("sum", ValueType::Int64, "trips + extra")],
    );
    let mut plus = plus;
    let spec = plus.spec.as_mut().unwrap();
    spec.write_to_online_store = true;
    spec.entity_columns = columns(&[("driver_id", ValueType::Int64)]);
    spec.entities = vec!["driver".to_owned()];
    let fixture = Fixture::new(vec![object(ObjectKind::OnDemandFeatureView, "plus", &plus)]).await;
    let rows = json!({"driver_id": [1], "driver_fv__trips": [4]});
    let error = fixture
        .writer
        .write_to_online_store("plus", &frame(rows), Options::default())
        .await
        .unwrap_err();
    assert!(error.message().contains("`extra`"), "{error}");
}

#[test]
fn arrow_rows_become_store_rows() {
    let view = feature_view(
        "v",
        &[("driver", "driver_id", ValueType::Int64)],
        &[("a", ValueType::Double), ("b", ValueType::String)],
    );
    let view = FeatureView::from_object(&view).unwrap();
    let batch = RecordBatch::try_from_iter([
        (
            "driver_id",
            Arc::new(Int64Array::from(vec![Some(1), None, Some(3), Some(4), Some(5)]))
                as arrow::array::ArrayRef,
        ),
        (
            "a",
            Arc::new(Float64Array::from(vec![
                Some(0.5),
                Some(1.0),
                None,
                None,
                Some(2.0),
            ])),
        ),
        (
            "b",
            Arc::new(StringArray::from(vec![
                Some("x"),
                Some("y"),
                None,
                Some("z"),
                Some("w"),
            ])),
        ),
        (
            "ts",
            Arc::new(TimestampMillisecondArray::from(vec![
                Some(TEN / 1000),
                Some(0),
                Some(0),
                Some(-1),
                None,
            ])),
        ),
        (
            "made",
            Arc::new(
                TimestampMicrosecondArray::from(vec![None, None, None, Some(TEN + HOUR), None])
                    .with_timezone("+02:00"),
            ),
        ),
    ])
    .unwrap();
    let rows = write_batch(&view, Version::V3, &batch, "ts", Some("made")).unwrap();
    // Left out: a null key, no event time. A row without any value is one all the same.
    assert_eq!(rows.keys, [1, 3, 4].map(|id| key(&[("driver_id", int(id))])));
    assert_eq!(rows.event_times, [TEN, 0, -1000]);
    assert_eq!(rows.created_times, [None, None, Some(TEN + HOUR)]);
    assert_eq!(rows.features, ["a", "b"]);
    assert!(rows.values[2..5].iter().all(bytes::Bytes::is_empty) && rows.values.len() == 6);
    let who = identities(&view, Version::V3, &batch, "ts", Some("made")).unwrap();
    let prints = rows
        .keys
        .iter()
        .map(|key| Some(crate::model::entity_key::fingerprint(key)));
    assert_eq!(
        who.keys
            .iter()
            .copied()
            .filter(Option::is_some)
            .collect::<Vec<_>>(),
        prints.collect::<Vec<_>>()
    );
    assert_eq!((who.keys[1], who.keys[4]), (None, None));
    assert_eq!((who.event_times[3], who.created_times[3]), (-1000, TEN + HOUR));
    assert_eq!(who.created_times[0], i64::MIN);
    let error = write_batch(&view, Version::V3, &batch, "when", None).unwrap_err();
    assert!(error.message().contains("`when`"), "{error}");
}
