//! PostgreSQL as an online store, and what only it does.

use std::sync::Arc;

use bytes::Bytes;
use chrono::DateTime;
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
    searches::searches,
};
use crate::servers::{Fresh, run};

async fn home() -> Home {
    home_with("").await
}

async fn home_with(more: &str) -> Home {
    let fresh = Fresh::new(Engine::Postgres).await;
    Home::new(&format!(
        "type: postgres\nsslmode: disable\n{}\n{more}",
        fresh.keys()
    ))
    .within(fresh)
}

async fn home_of_vectors() -> Home {
    home_with("vector_enabled: true").await
}

conformance!(home);
searches!(home_of_vectors);

/// The texts of a statement's rows.
async fn told(database: &Database, statement: &str) -> Vec<Vec<Option<String>>> {
    let statement = sqlx::AssertSqlSafe(statement.to_owned());
    let rows = sqlx::query(statement).fetch_all(database.pool()).await.unwrap();
    let row = |row: &sqlx::any::AnyRow| (0..row.len()).map(|column| row.get(column)).collect();
    rows.iter().map(row).collect()
}

/// What Feast recorded, as a batch.
fn recorded_rows(rows: &[Json]) -> WriteBatch {
    let mut batch = WriteBatch {
        features: ["conv_rate", "emb", "name", "trips"].map(str::to_owned).to_vec(),
        ..WriteBatch::default()
    };
    let time = |text: &Json| {
        let text = text.as_str()?.replace(' ', "T") + ":00";
        Some(DateTime::parse_from_rfc3339(&text).unwrap().timestamp_micros())
    };
    let bytes = |hex: &Json| Bytes::from(hex::decode(hex.as_str().unwrap()).unwrap());
    for row in rows.chunks(4) {
        batch.keys.push(bytes(&row[0]["entity_key_hex"]));
        batch.event_times.push(time(&row[0]["event_ts"]).unwrap());
        batch.created_times.push(time(&row[0]["created_ts"]));
        batch
            .values
            .extend(row.iter().map(|cell| bytes(&cell["value_hex"])));
    }
    batch
}

/// Tables, indexes and rows are, column by column, those that Feast made of the same values.
#[tokio::test]
async fn tables_and_rows_are_those_of_feast() {
    let recorded: Json = serde_json::from_str(include_str!("../../wire/postgres_online_store.json")).unwrap();
    let variants = recorded["variants"].as_object().unwrap();
    assert_eq!(variants.len(), 2);
    for (name, variant) in variants {
        let schema = variant["schema"].as_str().unwrap();
        let more = match name.as_str() {
            "default" => String::new(),
            _ => format!("vector_enabled: true\nenable_openai_compatible_store: true\ndb_schema: {schema}"),
        };
        let mut home = home_with(&more).await;
        home.project = "dp".to_owned();
        let store = home.open().await;
        let driver = view(
            "driver_fv",
            &[
                ("conv_rate", ValueType::Float),
                ("trips", ValueType::Int64),
                ("name", ValueType::String),
                ("emb", ValueType::FloatList),
            ],
        );
        store.provision("dp", &[Arc::clone(&driver)], &[]).await.unwrap();
        let rows = variant["rows"].as_array().unwrap();
        let batch = recorded_rows(rows);
        store
            .write("dp", &Table::of(&driver), &batch, OlderRow::Skip)
            .await
            .unwrap();

        let database = home.database().open().await;
        let columns = told(
            &database,
            &format!(
                "SELECT column_name::text, data_type::text, udt_name::text, is_nullable::text \
                 FROM information_schema.columns WHERE table_schema = '{schema}' ORDER BY ordinal_position"
            ),
        )
        .await;
        let expected = variant["columns"].as_array().unwrap().iter();
        let expected: Vec<Vec<Option<String>>> = expected
            .map(|column| {
                let text = |key: &str| column[key].as_str().map(str::to_owned);
                ["name", "data_type", "udt", "nullable"].map(text).to_vec()
            })
            .collect();
        assert_eq!(columns, expected, "{name}");
        let indexes = told(
            &database,
            &format!(
                "SELECT indexname::text, indexdef FROM pg_indexes WHERE schemaname = '{schema}' ORDER BY indexname"
            ),
        )
        .await;
        let expected = variant["indexes"].as_array().unwrap().iter();
        let expected: Vec<Vec<Option<String>>> = expected
            .map(|index| {
                ["name", "def"]
                    .map(|key| index[key].as_str().map(str::to_owned))
                    .to_vec()
            })
            .collect();
        assert_eq!(indexes, expected, "{name}");
        let number = match rows[0].get("value_num") {
            Some(_) => "value_num::text",
            None => "NULL::text",
        };
        let cells = told(
            &database,
            &format!(
                "SELECT encode(entity_key, 'hex'), feature_name, encode(value, 'hex'), value_text, {number}, \
                 vector_value::text, (event_ts AT TIME ZONE 'UTC')::text || '+00', \
                 (created_ts AT TIME ZONE 'UTC')::text || '+00' \
                 FROM {schema}.dp_driver_fv ORDER BY entity_key, feature_name"
            ),
        )
        .await;
        let keys = [
            "entity_key_hex",
            "feature_name",
            "value_hex",
            "value_text",
            "value_num",
            "vector_value",
            "event_ts",
            "created_ts",
        ];
        let expected = rows.iter();
        let expected: Vec<Vec<Option<String>>> = expected
            .map(|cell| keys.map(|key| cell[key].as_str().map(str::to_owned)).to_vec())
            .collect();
        assert_eq!(cells, expected, "{name}");
        home.remove().await;
    }
}

/// Tables of older versions of Feast, and of a time before vectors were wanted, get what they lack.
#[tokio::test]
async fn old_tables_get_the_columns_they_lack() {
    let home = home_of_vectors().await;
    let database = home.database().open().await;
    let table = format!("{}_v", home.project);
    let statement = format!(
        "CREATE TABLE {table} (entity_key BYTEA, feature_name TEXT, value BYTEA, vector_value BYTEA NULL, \
         event_ts TIMESTAMPTZ, created_ts TIMESTAMPTZ, PRIMARY KEY(entity_key, feature_name))"
    );
    run(&database, &statement).await;
    let store = home.open().await;
    let v = pair("v");
    let write = async |value: &str| {
        let batch = rows(&["a", "b"], &[(key("1"), TEN, &[value, "b"])]);
        store
            .write(&home.project, &Table::of(&v), &batch, OlderRow::Skip)
            .await
    };
    // Such a table is not written to halfway.
    assert!(write("a").await.unwrap_err().message().contains("value_text"));
    store
        .provision(&home.project, &[Arc::clone(&v)], &[])
        .await
        .unwrap();
    assert_eq!(write("a").await.unwrap(), 1);
    let found = told(
        &database,
        &format!("SELECT value_text, pg_typeof(vector_value)::text FROM {table} ORDER BY 1"),
    )
    .await;
    let row = |text: &str| vec![Some(text.to_owned()), Some("vector".to_owned())];
    assert_eq!(found, [row("a"), row("b")]);
    // Another process makes the table anew; what is known of the old one is not believed.
    run(
        &database,
        &format!("ALTER TABLE {table} DROP COLUMN vector_value"),
    )
    .await;
    assert_eq!(write("c").await.unwrap(), 1);
    home.remove().await;
}

#[tokio::test]
async fn connections_that_were_ended_are_replaced_unnoticed() {
    let home = home().await;
    let (store, v) = with_pair(&home).await;
    let batch = rows(&["a"], &[(key("1"), TEN, &["one"])]);
    let table = Table::of(&v);
    let end = async || {
        let statement = "SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity \
             WHERE application_name = 'thali' AND datname = '{}'";
        run(
            home.database().admin(),
            &statement.replace("{}", home.database().name()),
        )
        .await;
    };
    for _ in 0..3 {
        end().await;
        store
            .write(&home.project, &table, &batch, OlderRow::Skip)
            .await
            .unwrap();
        end().await;
        let row = texts(&*store, &home.project, &v, &[key("1")], &["a"]).await;
        assert_eq!(row, [(Some(TEN), vec![Some("one".to_owned())])]);
        end().await;
        store.check().await.unwrap();
    }
    home.remove().await;
}

#[tokio::test]
async fn a_server_that_is_away_is_named_without_its_password() {
    let home = Home::new(
        "type: postgres\nhost: 127.0.0.1\nport: 1\nuser: u\npassword: hush\ndatabase: d\nconn_type: pool\n\
         min_conn: 2\nmax_batched_result_rows: 0\nkeepalives_idle: 3",
    );
    let store = home.open().await;
    let error = store.check().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(
        error.message().contains("postgresql://u@127.0.0.1:1/d"),
        "{error}"
    );
    assert!(!format!("{error:?}").contains("hush"), "{error:?}");
}

#[tokio::test]
async fn a_database_that_does_not_exist_is_said_to_be_away() {
    let home = home().await;
    let absent = home
        .database()
        .keys()
        .replace(home.database().name(), "thali_no_such");
    let other = Home::new(&format!("type: postgres\nsslmode: disable\n{absent}"));
    let error = other.open().await.check().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.message().contains("does not exist"), "{error}");
    home.remove().await;
}

/// PostgreSQL has no text with a zero in it, and no vector without an end; the values are kept all the same.
#[tokio::test]
async fn values_that_cannot_be_searched_for_are_stored() {
    let home = home_of_vectors().await;
    let store = home.open().await;
    let v = view("v", &[("a", ValueType::String), ("e", ValueType::FloatList)]);
    let vector = |val| {
        let value: thali::model::value::Value =
            thali::proto::feast::types::value::Val::FloatListVal(thali::proto::feast::types::FloatList {
                val,
            })
            .into();
        Bytes::from(prost::Message::encode_to_vec(&value))
    };
    let mut batch = rows(&["a"], &[(key("1"), TEN, &["zero\0"]), (key("2"), TEN, &["x"])]);
    batch.features.push("e".to_owned());
    batch.values.insert(1, vector(vec![f32::INFINITY, 1.0]));
    batch.values.push(vector(vec![]));
    let written = store
        .write(&home.project, &Table::of(&v), &batch, OlderRow::Skip)
        .await
        .unwrap();
    assert_eq!(written, 2);
    let row = texts(&*store, &home.project, &v, &[key("1")], &["a"]).await;
    assert_eq!(row[0].1, [Some("zero\0".to_owned())]);
    let mut late = rows(&["a"], &[(key("3"), i64::MAX, &["x"])]);
    late.created_times = vec![None];
    let error = store
        .write(&home.project, &Table::of(&v), &late, OlderRow::Skip)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument, "{error}");
    home.remove().await;
}
