#![expect(clippy::unwrap_used, reason = "tests")]

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::Value as Json;
use sqlx::Row as _;
use tempfile::TempDir;

use super::*;
use crate::{
    model::{ObjectKind, value::Value},
    online::{
        fixture::{PROJECT, TEN, feature_view, float, int, key, text},
        store::{KeyGroup, ViewColumns},
    },
};

fn view() -> FeatureView {
    FeatureView::from_object(&feature_view("v", &[], &[])).unwrap()
}

async fn store() -> (TempDir, SqliteStore) {
    let folder = TempDir::new().unwrap();
    let store = SqliteStore::open(folder.path().join("online.db")).await.unwrap();
    (folder, store)
}

fn batch(features: &[&str], rows: &[(&Bytes, i64, &[Value])]) -> WriteBatch {
    let encode = |value: &Value| Bytes::from(prost::Message::encode_to_vec(value));
    WriteBatch {
        features: features.iter().map(ToString::to_string).collect(),
        keys: rows.iter().map(|(key, ..)| Bytes::clone(key)).collect(),
        event_times: rows.iter().map(|(_, time, _)| *time).collect(),
        created_times: vec![None; rows.len()],
        values: rows
            .iter()
            .flat_map(|(_, _, values)| values.iter().map(encode))
            .collect(),
    }
}

fn table(name: &str) -> Table {
    Table {
        view: Arc::new(view()),
        name: name.to_owned(),
    }
}

fn group(keys: &[Bytes], views: &[(&str, &[&str])]) -> KeyGroup {
    let columns = |(name, features): &(&str, &[&str])| ViewColumns {
        table: table(name),
        features: features.iter().map(ToString::to_string).collect(),
    };
    KeyGroup {
        keys: keys.to_vec(),
        views: views.iter().map(columns).collect(),
    }
}

async fn read(store: &SqliteStore, groups: &[KeyGroup]) -> Vec<RowBatch> {
    store
        .read(&OnlineRead {
            project: PROJECT,
            groups,
        })
        .await
        .unwrap()
}

fn value(bytes: Option<impl AsRef<[u8]>>) -> Option<Value> {
    bytes.map(|bytes| prost::Message::decode(bytes.as_ref()).unwrap())
}

fn driver(id: i64) -> Bytes {
    key(&[("driver_id", int(id))])
}

#[tokio::test]
async fn rows_that_feast_wrote_are_read() {
    let recorded: Json =
        serde_json::from_str(include_str!("../../../../tests/wire/sqlite_online_store.json")).unwrap();
    let (_folder, store) = store().await;
    for statement in recorded["ddl"].as_array().unwrap() {
        if let Some(sql) = statement["sql"].as_str() {
            sqlx::query(AssertSqlSafe(sql.to_owned()))
                .execute(&store.writer)
                .await
                .unwrap();
        }
    }
    for row in recorded["rows"].as_array().unwrap() {
        let bytes = |name: &str| hex::decode(row[name].as_str().unwrap()).unwrap();
        sqlx::query("INSERT INTO dp_driver_fv VALUES (?,?,?,?,NULL,?,?)")
            .bind(bytes("entity_key_hex"))
            .bind(row["feature_name"].as_str())
            .bind(bytes("value_hex"))
            .bind(row["value_text"].as_str())
            .bind(row["event_ts"].as_i64())
            .bind(row["created_ts"].as_i64())
            .execute(&store.writer)
            .await
            .unwrap();
    }
    let keys = [driver(1002), driver(9999), driver(1001)];
    let batches = read(
        &store,
        &[group(&keys, &[("driver_fv", &["trips", "conv_rate", "name"])])],
    )
    .await;
    let rows = &batches[0];
    assert_eq!(rows.event_times, [Some(1_767_225_600_000_000), None, Some(TEN)]);
    let values: Vec<_> = rows.values().iter().map(|bytes| value(bytes.as_ref())).collect();
    assert_eq!(
        values[..3],
        [Some(int(5)), Some(float(0.75)), Some(text("older"))]
    );
    assert_eq!(values[3..6], [None, None, None]);
    assert_eq!(values[6..], [Some(int(20)), Some(float(0.25)), Some(text("b"))]);
}

#[tokio::test]
async fn rows_are_written_as_feast_writes_them() {
    let recorded: Json =
        serde_json::from_str(include_str!("../../../../tests/wire/sqlite_online_store.json")).unwrap();
    let (_folder, store) = store().await;
    let mut view = view();
    view.name = "driver_fv".to_owned();
    store
        .provision(PROJECT, &[Arc::new(view.clone())], &[])
        .await
        .unwrap();
    let mut rows = batch(
        &["conv_rate", "name"],
        &[(&driver(1001), TEN + 123_456, &[float(0.25), text("b")])],
    );
    rows.created_times = vec![Some(TEN + 3_600_000_000)];
    store
        .write(PROJECT, &Table::of(&Arc::new(view)), &rows, OlderRow::Skip)
        .await
        .unwrap();
    let squeeze = |sql: &str| {
        sql.split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
            .replace(['"'], "")
            .replace("( ", "(")
            .replace(" )", ")")
    };
    for statement in recorded["ddl"].as_array().unwrap() {
        let Some(sql) = statement["sql"].as_str() else {
            continue;
        };
        let ours: String = sqlx::query_scalar("SELECT sql FROM sqlite_master WHERE name = ?1")
            .bind(statement["name"].as_str())
            .fetch_one(&store.writer)
            .await
            .unwrap();
        assert_eq!(squeeze(&ours), squeeze(sql));
    }
    for recorded in recorded["rows"].as_array().unwrap() {
        let feature = recorded["feature_name"].as_str().unwrap();
        let of_1001 = recorded["entity_key_hex"] == hex::encode(driver(1001));
        if !of_1001 || !["conv_rate", "name"].contains(&feature) {
            continue;
        }
        let ours = sqlx::query(
            "SELECT value, value_text, event_ts, created_ts, typeof(event_ts), vector_value FROM dp_driver_fv \
             WHERE feature_name = ?1",
        )
        .bind(feature)
        .fetch_one(&store.writer)
        .await
        .unwrap();
        assert_eq!(
            hex::encode(ours.get::<Vec<u8>, _>(0)),
            recorded["value_hex"].as_str().unwrap()
        );
        assert_eq!(ours.get::<String, _>(1), recorded["value_text"].as_str().unwrap());
        assert_eq!(
            ours.get_unchecked::<i64, _>(2),
            recorded["event_ts"].as_i64().unwrap()
        );
        assert_eq!(
            ours.get_unchecked::<i64, _>(3),
            recorded["created_ts"].as_i64().unwrap()
        );
        assert_eq!(ours.get::<String, _>(4), "integer");
        assert!(ours.get::<Option<Vec<u8>>, _>(5).is_none());
    }
}

#[tokio::test]
async fn several_views_and_groups_are_read_at_once() {
    let (_folder, store) = store().await;
    let other = key(&[("customer_id", text("C1"))]);
    let one = batch(
        &["a", "b"],
        &[
            (&driver(1), TEN, &[int(1), int(2)]),
            (&driver(2), TEN, &[int(3), int(4)]),
        ],
    );
    store
        .write(PROJECT, &table("v1"), &one, OlderRow::Skip)
        .await
        .unwrap();
    store
        .write(
            PROJECT,
            &table("o'dd \"v"),
            &batch(&["it's"], &[(&other, TEN, &[int(9)])]),
            OlderRow::Skip,
        )
        .await
        .unwrap();
    let groups = [
        group(
            &[driver(2), driver(1), driver(3)],
            &[("v1", &["b"]), ("v1", &["a", "b"])],
        ),
        group(&[other], &[("o'dd \"v", &["it's", "missing"])]),
    ];
    let batches = read(&store, &groups).await;
    assert_eq!(batches.len(), 3);
    assert_eq!(
        batches[0]
            .values()
            .iter()
            .map(|v| value(v.as_ref()))
            .collect::<Vec<_>>(),
        [Some(int(4)), Some(int(2)), None]
    );
    assert_eq!(value(batches[1].values()[2].as_ref()), Some(int(1)));
    assert_eq!(batches[1].event_times, [Some(TEN), Some(TEN), None]);
    assert_eq!(value(batches[2].values()[0].as_ref()), Some(int(9)));
    assert_eq!(batches[2].values()[1], None);
}

#[tokio::test]
async fn a_view_that_was_never_provisioned_has_no_rows() {
    let (_folder, store) = store().await;
    store
        .write(
            PROJECT,
            &table("v"),
            &batch(&["a"], &[(&driver(1), TEN, &[int(1)])]),
            OlderRow::Skip,
        )
        .await
        .unwrap();
    let batches = read(
        &store,
        &[group(&[driver(1)], &[("absent", &["a"]), ("v", &["a"])])],
    )
    .await;
    assert_eq!(batches[0].event_times, [None]);
    assert_eq!(batches[1].event_times, [Some(TEN)]);
}

#[tokio::test]
async fn older_event_time_never_wins_unless_told_to() {
    let (_folder, store) = store().await;
    let key = driver(1);
    let write = |time, number, older| {
        let (store, key) = (store.clone(), key.clone());
        async move {
            let rows = batch(&["a"], &[(&key, time, &[int(number)])]);
            store.write(PROJECT, &table("v"), &rows, older).await.unwrap()
        }
    };
    assert_eq!(write(TEN, 1, OlderRow::Skip).await, 1);
    assert_eq!(write(TEN - 1_000_000, 2, OlderRow::Skip).await, 0);
    let rows = read(&store, &[group(std::slice::from_ref(&key), &[("v", &["a"])])]).await;
    assert_eq!(value(rows[0].values()[0].as_ref()), Some(int(1)));
    assert_eq!(write(TEN, 3, OlderRow::Skip).await, 1, "an equal time corrects");
    assert_eq!(write(TEN - 1_000_000, 4, OlderRow::Overwrite).await, 1);
    let rows = read(&store, &[group(&[key], &[("v", &["a"])])]).await;
    assert_eq!(value(rows[0].values()[0].as_ref()), Some(int(4)));
    assert_eq!(rows[0].event_times, [Some(TEN - 1_000_000)]);
}

#[tokio::test]
async fn provisioning_can_be_repeated_and_dropping_too() {
    let (_folder, store) = store().await;
    let keep = [Arc::new(view())];
    for _ in 0..2 {
        store.provision(PROJECT, &keep, &[table("gone")]).await.unwrap();
    }
    store
        .write(
            PROJECT,
            &table("v"),
            &batch(&["a"], &[(&driver(1), TEN, &[int(1)])]),
            OlderRow::Skip,
        )
        .await
        .unwrap();
    store.provision(PROJECT, &keep, &[]).await.unwrap();
    let wanted = [group(&[driver(1)], &[("v", &["a"])])];
    assert_eq!(read(&store, &wanted).await[0].event_times, [Some(TEN)]);
    store.provision(PROJECT, &[], &[table("v")]).await.unwrap();
    assert_eq!(read(&store, &wanted).await[0].event_times, [None]);
    assert_eq!(keep[0].kind, ObjectKind::FeatureView);
}

#[tokio::test]
async fn thousands_of_keys_fit_into_a_request() {
    let (_folder, store) = store().await;
    let keys: Vec<Bytes> = (0..5000).map(driver).collect();
    let values: Vec<[Value; 1]> = (0..5000).map(|id| [int(id)]).collect();
    let rows: Vec<_> = keys
        .iter()
        .zip(&values)
        .map(|(key, value)| (key, TEN, &value[..]))
        .collect();
    assert_eq!(
        store
            .write(PROJECT, &table("v"), &batch(&["a"], &rows), OlderRow::Skip)
            .await
            .unwrap(),
        5000
    );
    let rows = &read(&store, &[group(&keys, &[("v", &["a"])])]).await[0];
    for (id, bytes) in rows.values().iter().enumerate() {
        assert_eq!(value(bytes.as_ref()), Some(int(id as i64)));
    }
}

#[tokio::test]
async fn a_full_disk_is_told_and_nothing_of_the_batch_is_written() {
    let (_folder, store) = store().await;
    store
        .write(
            PROJECT,
            &table("v"),
            &batch(&["a"], &[(&driver(1), TEN, &[int(1)])]),
            OlderRow::Skip,
        )
        .await
        .unwrap();
    let pages: i64 = sqlx::query_scalar("PRAGMA page_count")
        .fetch_one(&store.writer)
        .await
        .unwrap();
    sqlx::query(AssertSqlSafe(format!("PRAGMA max_page_count = {}", pages + 2)))
        .execute(&store.writer)
        .await
        .unwrap();
    let keys: Vec<Bytes> = (1..2000).map(driver).collect();
    let long = [text(&"x".repeat(200))];
    let rows: Vec<_> = keys.iter().map(|key| (key, TEN, &long[..])).collect();
    let error = store
        .write(PROJECT, &table("v"), &batch(&["a"], &rows), OlderRow::Skip)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.message().contains("disk is full"), "{error}");
    let rows = read(&store, &[group(&[driver(1), driver(2)], &[("v", &["a"])])]).await;
    assert_eq!(rows[0].event_times, [Some(TEN), None]);
    assert_eq!(value(rows[0].values()[0].as_ref()), Some(int(1)));
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_with_its_name() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("online.db");
    std::fs::write(
        &path,
        "this is not a database, but long enough to be taken for one".repeat(20),
    )
    .unwrap();
    let error = SqliteStore::open(&path).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    assert!(error.message().contains("online.db"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Whatever the order and the grouping into batches, every key ends with its newest row.
    #[test]
    fn any_order_of_writes_ends_with_the_newest(
        order in Just((0..24_i64).collect::<Vec<_>>()).prop_shuffle(),
        sizes in prop::collection::vec(1..6_usize, 24),
    ) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let (_folder, store) = store().await;
            let mut rest = order.as_slice();
            for size in sizes {
                let (now, later) = rest.split_at(size.min(rest.len()));
                rest = later;
                // Four keys with six writes each, one second apart.
                let keys: Vec<Bytes> = now.iter().map(|write| driver(write % 4)).collect();
                let values: Vec<[Value; 2]> = now.iter().map(|write| [int(*write), int(write * 10)]).collect();
                let rows: Vec<_> = (0..now.len())
                    .map(|row| (&keys[row], TEN + now[row] / 4 * 1_000_000, &values[row][..]))
                    .collect();
                store.write(PROJECT, &table("v"), &batch(&["a", "b"], &rows), OlderRow::Skip).await.unwrap();
            }
            let keys: Vec<Bytes> = (0..4).map(driver).collect();
            let rows = read(&store, &[group(&keys, &[("v", &["a", "b"])])]).await;
            for id in 0..4 {
                let newest = 20 + id as i64;
                prop_assert_eq!(value(rows[0].values()[id * 2].as_ref()), Some(int(newest)));
                prop_assert_eq!(value(rows[0].values()[id * 2 + 1].as_ref()), Some(int(newest * 10)));
                prop_assert_eq!(rows[0].event_times[id], Some(TEN + 5_000_000));
            }
            Ok(())
        })?;
    }
}
