#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use sqlx::{Connection, Row, SqliteConnection};

use super::{
    super::{
        Change,
        conformance::{self, change, entity},
    },
    *,
};
use crate::{
    config::SchemaMode,
    database::{DatabaseOptions, DatabaseUrl},
    error::Kind,
};

async fn open(directory: &tempfile::TempDir) -> SqlStore {
    at("data/registry.db", directory).await.unwrap()
}

async fn at(file: &str, directory: &tempfile::TempDir) -> Result<SqlStore> {
    keeping(1_000, file, directory).await
}

async fn keeping(keep: usize, file: &str, directory: &tempfile::TempDir) -> Result<SqlStore> {
    let registry = SqlRegistry {
        url: DatabaseUrl::sqlite(&directory.path().join(file)),
        read_url: None,
        schema_mode: SchemaMode::Auto,
        options: DatabaseOptions::default(),
        purge_metadata: false,
    };
    SqlStore::open(&registry, keep).await
}

async fn connection(directory: &tempfile::TempDir) -> SqliteConnection {
    let path = directory.path().join("data/registry.db");
    SqliteConnection::connect(&format!("sqlite://{}", path.display()))
        .await
        .unwrap()
}

#[tokio::test]
async fn conforms() {
    let directory = tempfile::tempdir().unwrap();
    conformance::all(&open(&directory).await).await;
}

#[tokio::test]
async fn histories_are_pruned() {
    let directory = tempfile::tempdir().unwrap();
    let store = keeping(4, "r.db", &directory).await.unwrap();
    conformance::is_pruned(&store, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writers_lose_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut handles: Vec<Arc<dyn RegistryStore>> = Vec::new();
    for _ in 0..3 {
        handles.push(Arc::new(open(&directory).await));
    }
    conformance::concurrent_writers(handles).await;
}

#[tokio::test]
async fn other_connections_are_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    change(&store, "p", vec![Change::Put(entity("e", ""))]).await;
    let before = store.revision().await.unwrap();
    let mut other = connection(&directory).await;
    sqlx::query("SELECT count(*) FROM entities")
        .fetch_one(&mut other)
        .await
        .unwrap();
    assert_eq!(store.revision().await.unwrap(), before, "reading is no change");
    sqlx::query("DELETE FROM entities")
        .execute(&mut other)
        .await
        .unwrap();
    assert_ne!(store.revision().await.unwrap(), before);
    assert!(
        store
            .load("p")
            .await
            .unwrap()
            .object(ObjectKind::Entity, "e")
            .is_none()
    );
}

#[tokio::test]
async fn rows_are_what_feast_writes() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    let changes = vec![
        Change::Put(conformance::view("v")),
        Change::PutInfra(bytes::Bytes::from_static(b"\x0a\x00")),
    ];
    change(&store, "p", changes).await;
    let mut db = connection(&directory).await;
    let row = sqlx::query("SELECT * FROM feature_views")
        .fetch_one(&mut db)
        .await
        .unwrap();
    assert_eq!(row.get::<String, _>("feature_view_name"), "v");
    assert_eq!(row.get::<String, _>("project_id"), "p");
    assert!(row.get::<Option<Vec<u8>>, _>("materialized_intervals").is_none());
    let seconds: i64 = row.get("last_updated_timestamp");
    assert!((chrono::Utc::now().timestamp() - seconds).abs() < 60);
    let row = sqlx::query("SELECT * FROM projects")
        .fetch_one(&mut db)
        .await
        .unwrap();
    assert_eq!(
        (
            row.get::<String, _>("project_id"),
            row.get::<String, _>("project_name")
        ),
        ("p".into(), "p".into())
    );
    let keys: Vec<String> = sqlx::query_scalar("SELECT metadata_key FROM feast_metadata ORDER BY 1")
        .fetch_all(&mut db)
        .await
        .unwrap();
    assert_eq!(keys, ["last_updated_timestamp", "project_uuid"]);
    let name: String = sqlx::query_scalar("SELECT infra_name FROM managed_infra")
        .fetch_one(&mut db)
        .await
        .unwrap();
    assert_eq!(name, "infra_obj");
}

#[tokio::test]
async fn user_metadata_of_a_view_survives_an_apply() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    change(&store, "p", vec![Change::Put(conformance::view("v"))]).await;
    let mut db = connection(&directory).await;
    sqlx::query("UPDATE feature_views SET user_metadata = x'01'")
        .execute(&mut db)
        .await
        .unwrap();
    change(&store, "p", vec![Change::Put(conformance::view("v"))]).await;
    let kept: Vec<u8> = sqlx::query_scalar("SELECT user_metadata FROM feature_views")
        .fetch_one(&mut db)
        .await
        .unwrap();
    assert_eq!(kept, [1]);
}

#[tokio::test]
async fn names_are_data_not_sql() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    let nasty = "x'; DROP TABLE entities; --";
    change(&store, nasty, vec![Change::Put(entity(nasty, ""))]).await;
    assert!(
        store
            .load(nasty)
            .await
            .unwrap()
            .object(ObjectKind::Entity, nasty)
            .is_some()
    );
    assert_eq!(store.projects().await.unwrap(), [nasty]);
}

#[tokio::test]
async fn files_that_are_no_registry_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(
        directory.path().join("text.db"),
        "this is some text, and no database at all, ".repeat(40),
    )
    .unwrap();
    let error = at("text.db", &directory).await.err().unwrap();
    assert_eq!(error.kind(), Kind::Config, "{error}");
    let other = directory.path().join("other.db");
    let mut db = SqliteConnection::connect(&format!("sqlite://{}?mode=rwc", other.display()))
        .await
        .unwrap();
    sqlx::query("CREATE TABLE entities (project_id TEXT, mine TEXT)")
        .execute(&mut db)
        .await
        .unwrap();
    let error = at("other.db", &directory).await.err().unwrap();
    assert!(error.message().contains("is not a Feast registry"), "{error}");
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_master WHERE type = 'table'")
        .fetch_one(&mut db)
        .await
        .unwrap();
    assert_eq!(tables, 1, "nothing was made in it");
}

/// A database written by Feast 0.67: two applies with a materialization in between.
const GOLDEN: &str = include_str!("../../../../tests/wire/registry/feast-0.67.sqlite.sql");

#[tokio::test]
async fn feasts_database_is_opened_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("feast.db");
    let mut db = SqliteConnection::connect(&format!("sqlite://{}?mode=rwc", file.display()))
        .await
        .unwrap();
    sqlx::raw_sql(GOLDEN).execute(&mut db).await.unwrap();
    let schema = "SELECT name, sql FROM sqlite_master WHERE tbl_name NOT LIKE 'thali_%' ORDER BY name";
    let tables: Vec<(String, Option<String>)> = sqlx::query_as(schema).fetch_all(&mut db).await.unwrap();
    let store = at("feast.db", &directory).await.unwrap();
    let state = store.load("golden").await.unwrap();
    conformance::is_golden(&state);
    assert!(state.last_updated.is_some());
    assert_eq!(
        state
            .metadata
            .iter()
            .map(|(key, _)| key.as_str())
            .collect::<Vec<_>>(),
        ["project_uuid"]
    );
    let after = change(&store, "golden", vec![Change::Put(entity("plane", ""))]).await;
    conformance::is_golden(&after);
    let kept: Vec<(String, Option<String>)> = sqlx::query_as(schema).fetch_all(&mut db).await.unwrap();
    assert_eq!(tables, kept, "Feast's tables are complete and stay as they were");
}

/// The shape of a table: columns with their types, and whether they are required or part of the key.
async fn shape(db: &mut SqliteConnection, table: &str) -> Vec<(String, String, bool, i64)> {
    let query = format!("SELECT name, type, \"notnull\", pk FROM pragma_table_info('{table}') ORDER BY cid");
    sqlx::query_as(sqlx::AssertSqlSafe(query))
        .fetch_all(db)
        .await
        .unwrap()
}

#[tokio::test]
async fn our_tables_are_feasts_tables() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("feast.db");
    let mut feast = SqliteConnection::connect(&format!("sqlite://{}?mode=rwc", file.display()))
        .await
        .unwrap();
    sqlx::raw_sql(GOLDEN).execute(&mut feast).await.unwrap();
    let _store = open(&directory).await;
    let mut ours = connection(&directory).await;
    let names = "SELECT type || ' ' || name FROM sqlite_master \
                 WHERE name NOT LIKE 'sqlite_%' AND name NOT LIKE 'thali_%' ORDER BY 1";
    let expected: Vec<String> = sqlx::query_scalar(names).fetch_all(&mut feast).await.unwrap();
    let made: Vec<String> = sqlx::query_scalar(names).fetch_all(&mut ours).await.unwrap();
    assert_eq!(made, expected);
    assert!(expected.len() > 20);
    for name in expected.iter().filter_map(|name| name.strip_prefix("table ")) {
        assert_eq!(
            shape(&mut ours, name).await,
            shape(&mut feast, name).await,
            "{name}"
        );
    }
}
