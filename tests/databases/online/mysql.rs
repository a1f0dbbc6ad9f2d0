//! MySQL and MariaDB as an online store, and what only they do.

use std::sync::Arc;

use bytes::Bytes;
use chrono::NaiveDateTime;
use serde_json::Value as Json;
use sqlx::Row as _;
use thali::{
    database::{Database, Engine},
    error::Kind,
    model::ValueType,
    online::store::{OlderRow, Table, WriteBatch},
};

use super::{
    conformance::{TEN, conformance, key, pair, rows, texts, view, with_pair},
    home::Home,
};
use crate::servers::{Fresh, run};

/// Times are whole seconds in Feast's layout.
async fn home() -> Home {
    let fresh = Fresh::new(Engine::MySql).await;
    Home::new(&format!(
        "type: mysql\n{}\nbatch_write: true\nbatch_size: 10",
        fresh.keys()
    ))
    .with_precision(1_000_000)
    .within(fresh)
}

conformance!(home);

async fn told(database: &Database, statement: &str) -> Vec<Vec<Option<String>>> {
    let statement = sqlx::AssertSqlSafe(statement.to_owned());
    let rows = sqlx::query(statement).fetch_all(database.pool()).await.unwrap();
    let row = |row: &sqlx::any::AnyRow| (0..row.len()).map(|column| row.get(column)).collect();
    rows.iter().map(row).collect()
}

#[tokio::test]
async fn tables_and_rows_are_those_of_feast() {
    let recorded: Json = serde_json::from_str(include_str!("../../wire/mysql_online_store.json")).unwrap();
    let home = home().await;
    let store = home.open().await;
    let driver = view("driver_fv", &[("conv_rate", ValueType::Float)]);
    store.provision("dp", &[Arc::clone(&driver)], &[]).await.unwrap();
    let mut batch = WriteBatch {
        features: ["conv_rate", "emb", "name", "trips"].map(str::to_owned).to_vec(),
        ..WriteBatch::default()
    };
    let time = |text: &Json| {
        let time = NaiveDateTime::parse_from_str(text.as_str()?, "%Y-%m-%d %H:%M:%S").unwrap();
        Some(time.and_utc().timestamp_micros() + 123_456)
    };
    let cells = recorded["rows"].as_array().unwrap();
    for row in cells.chunks(4) {
        batch.keys.push(
            hex::decode(row[0]["entity_key_text"].as_str().unwrap())
                .unwrap()
                .into(),
        );
        batch.event_times.push(time(&row[0]["event_ts"]).unwrap());
        batch.created_times.push(time(&row[0]["created_ts"]));
        let value = |cell: &Json| Bytes::from(hex::decode(cell["value_hex"].as_str().unwrap()).unwrap());
        batch.values.extend(row.iter().map(value));
    }
    store
        .write("dp", &Table::of(&driver), &batch, OlderRow::Skip)
        .await
        .unwrap();
    let database = home.database().open().await;
    let ours = told(&database, "SHOW CREATE TABLE dp_driver_fv").await;
    // What tells names apart that differ in case is the only difference.
    let ours = ours[0][1].clone().unwrap().replace('"', "`");
    let ours = ours
        .replace(" COLLATE utf8mb4_bin", "")
        .replace("COLLATE=utf8mb4_bin", "COLLATE=utf8mb4_general_ci");
    assert_eq!(ours, recorded["show_create_table"].as_str().unwrap());
    let stored = told(
        &database,
        "SELECT entity_key, feature_name, LOWER(HEX(value)), \
         CAST(CONVERT_TZ(event_ts, @@session.time_zone, '+00:00') AS CHAR), \
         CAST(CONVERT_TZ(created_ts, @@session.time_zone, '+00:00') AS CHAR) \
         FROM dp_driver_fv ORDER BY entity_key, feature_name",
    )
    .await;
    let keys = [
        "entity_key_text",
        "feature_name",
        "value_hex",
        "event_ts",
        "created_ts",
    ];
    let expected = cells
        .iter()
        .map(|cell| keys.map(|key| cell[key].as_str().map(str::to_owned)).to_vec());
    assert_eq!(stored, expected.collect::<Vec<_>>());
    home.remove().await;
}

#[tokio::test]
async fn a_value_that_is_too_long_is_refused_with_its_row() {
    let home = home().await;
    let store = home.open().await;
    let v = pair("v");
    let table = Table::of(&v);
    let long = "x".repeat(65_532);
    let fits = "x".repeat(65_531);
    let batch = rows(
        &["a", "b"],
        &[(key("1"), TEN, &["a", "b"]), (key("2"), TEN, &["a", &long])],
    );
    let error = store
        .write(&home.project, &table, &batch, OlderRow::Skip)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument);
    for part in ["`b`", "65536 bytes", "\"2\"", "view `v`"] {
        assert!(error.message().contains(part), "{part}: {error}");
    }
    assert_eq!(store.count(&home.project, &table).await.unwrap(), 0);
    let batch = rows(&["a", "b"], &[(key("2"), TEN, &["a", &fits])]);
    assert_eq!(
        store
            .write(&home.project, &table, &batch, OlderRow::Skip)
            .await
            .unwrap(),
        1
    );
    let database = home.database().open().await;
    run(
        &database,
        &format!("ALTER TABLE {}_v MODIFY value MEDIUMBLOB", home.project),
    )
    .await;
    let batch = rows(&["a", "b"], &[(key("2"), TEN, &["a", &long])]);
    assert_eq!(
        store
            .write(&home.project, &table, &batch, OlderRow::Skip)
            .await
            .unwrap(),
        1
    );
    let row = texts(&*store, &home.project, &v, &[key("2")], &["b"]).await;
    assert_eq!(row[0].1, [Some(long)]);
    home.remove().await;
}

#[tokio::test]
async fn times_that_a_timestamp_cannot_hold_are_refused_with_their_row() {
    let home = home().await;
    let store = home.open().await;
    let v = pair("v");
    for time in [0, 999_999, -1, 2_147_483_648_000_000, i64::MAX, i64::MIN] {
        let batch = rows(&["a"], &[(key("1"), TEN, &["a"]), (key("2"), time, &["a"])]);
        let error = store
            .write(&home.project, &Table::of(&v), &batch, OlderRow::Skip)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert!(error.message().contains("\"2\""), "{error}");
    }
    for time in [1_000_000, 2_147_483_647_999_999] {
        let batch = rows(&["a"], &[(key("2"), time, &["a"])]);
        store
            .write(&home.project, &Table::of(&v), &batch, OlderRow::Skip)
            .await
            .unwrap();
        let row = texts(&*store, &home.project, &v, &[key("2")], &["a"]).await;
        assert_eq!(row[0].0, Some(time - time % 1_000_000));
    }
    home.remove().await;
}

/// In a table of Feast's `Foo` and `foo` are one name; in ours they are two.
#[tokio::test]
async fn names_that_differ_in_case_are_not_mixed_up() {
    let home = home().await;
    let store = home.open().await;
    let typed = |name: &str| view(name, &[("Foo", ValueType::String), ("foo", ValueType::String)]);
    let (ours, theirs) = (typed("ours"), typed("theirs"));
    let batch = rows(&["Foo", "foo"], &[(key("1"), TEN, &["large", "small"])]);
    store
        .provision(&home.project, &[Arc::clone(&ours)], &[])
        .await
        .unwrap();
    store
        .write(&home.project, &Table::of(&ours), &batch, OlderRow::Skip)
        .await
        .unwrap();
    let row = texts(&*store, &home.project, &ours, &[key("1")], &["foo", "Foo"]).await;
    assert_eq!(row[0].1, [Some("small".to_owned()), Some("large".to_owned())]);
    let database = home.database().open().await;
    let statement = format!(
        "CREATE TABLE {}_theirs (entity_key VARCHAR(512), feature_name VARCHAR(256), value BLOB, \
         event_ts timestamp NULL DEFAULT NULL, created_ts timestamp NULL DEFAULT NULL, \
         PRIMARY KEY(entity_key, feature_name)) COLLATE utf8mb4_general_ci",
        home.project
    );
    run(&database, &statement).await;
    let error = store
        .write(&home.project, &Table::of(&theirs), &batch, OlderRow::Skip)
        .await
        .unwrap_err();
    assert!(error.message().contains("differ in case"), "{error}");
    let one = view("theirs", &[("Foo", ValueType::String)]);
    let batch = rows(&["Foo"], &[(key("1"), TEN, &["large"])]);
    store
        .write(&home.project, &Table::of(&one), &batch, OlderRow::Skip)
        .await
        .unwrap();
    let row = texts(&*store, &home.project, &theirs, &[key("1")], &["foo", "Foo"]).await;
    assert_eq!(row[0].1, [None, Some("large".to_owned())]);
    home.remove().await;
}

#[tokio::test]
async fn connections_that_were_ended_are_replaced_unnoticed() {
    let home = home().await;
    let (store, v) = with_pair(&home).await;
    let batch = rows(&["a"], &[(key("1"), TEN, &["one"])]);
    let database = home.database().open().await;
    let end = async || {
        let ids = told(
            &database,
            "SELECT CAST(id AS CHAR) FROM information_schema.processlist \
             WHERE db = DATABASE() AND id <> CONNECTION_ID() AND command = 'Sleep'",
        )
        .await;
        for id in ids.iter().flatten().flatten() {
            run(home.database().admin(), &format!("KILL {id}")).await;
        }
    };
    for _ in 0..3 {
        end().await;
        store
            .write(&home.project, &Table::of(&v), &batch, OlderRow::Skip)
            .await
            .unwrap();
        end().await;
        let row = texts(&*store, &home.project, &v, &[key("1")], &["a"]).await;
        assert_eq!(row, [(Some(TEN), vec![Some("one".to_owned())])]);
    }
    home.remove().await;
}

#[tokio::test]
async fn a_server_that_is_away_is_named_without_its_password() {
    let home = Home::new("type: mysql\nport: 1\npassword: hush");
    let error = home.open().await.check().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(
        error.message().contains("mysql://test@127.0.0.1:1/feast"),
        "{error}"
    );
    assert!(!format!("{error:?}").contains("hush"), "{error:?}");
}
