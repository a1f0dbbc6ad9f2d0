//! What is the same for all databases, shown on SQLite; `tests/databases.rs` asks real servers.
#![expect(clippy::unwrap_used, reason = "tests")]

use sqlx::Row;

use super::*;
use crate::error::Kind;

const TABLE: &str = "thali_test_migrations";
const FIRST: Migration = (
    1,
    "numbers",
    "CREATE TABLE IF NOT EXISTS numbers (n BIGINT); CREATE TABLE IF NOT EXISTS other (n BIGINT)",
);
const SECOND: Migration = (2, "more", "CREATE TABLE IF NOT EXISTS more (n BIGINT)");

async fn open(folder: &tempfile::TempDir) -> Database {
    let url = DatabaseUrl::parse("sqlite:///new/folder/t.db", folder.path()).unwrap();
    Database::open(&url, &DatabaseOptions::default()).await.unwrap()
}

#[test]
fn placeholders_get_numbers_but_in_quotes() {
    assert_eq!(
        numbered(r#"SELECT '?', "a?", ? FROM t WHERE b = ? AND c = 'it''s ?'"#),
        r#"SELECT '?', "a?", $1 FROM t WHERE b = $2 AND c = 'it''s ?'"#
    );
}

#[tokio::test]
async fn migrations_run_once_and_in_order_and_not_backwards() {
    let folder = tempfile::tempdir().unwrap();
    let database = open(&folder).await;
    let all = futures::future::join_all((0..8).map(|_| database.migrate(TABLE, &[FIRST]))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    database.migrate(TABLE, &[FIRST, SECOND]).await.unwrap();
    let versions = format!("SELECT version FROM {TABLE} ORDER BY version");
    let rows = sqlx::query(database.sql(&versions))
        .fetch_all(database.pool())
        .await
        .unwrap();
    let versions: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(versions, [1, 2]);
    let error = database.migrate(TABLE, &[FIRST]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    assert!(
        error
            .message()
            .contains("is at version 2, and this thali knows 1"),
        "{error}"
    );
}

#[tokio::test]
async fn writers_take_turns_and_what_is_not_committed_is_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let database = open(&folder).await;
    database.migrate(TABLE, &[FIRST]).await.unwrap();
    let add = |commit: bool| {
        let database = database.clone();
        async move {
            let mut transaction = database.begin().await.unwrap();
            let count = sqlx::query("SELECT COUNT(*) FROM numbers")
                .fetch_one(&mut *transaction)
                .await
                .unwrap();
            sqlx::query("INSERT INTO numbers (n) VALUES (?)")
                .bind(count.get::<i64, _>(0))
                .execute(&mut *transaction)
                .await
                .unwrap();
            if commit {
                transaction.commit().await.unwrap();
            }
        }
    };
    futures::future::join_all((0..40).map(|n| add(n % 2 == 0))).await;
    let counted = sqlx::query("SELECT COUNT(*), COUNT(DISTINCT n) FROM numbers")
        .fetch_one(database.pool())
        .await
        .unwrap();
    assert_eq!((counted.get::<i64, _>(0), counted.get::<i64, _>(1)), (20, 20));
}

#[tokio::test]
async fn a_busy_pool_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let url = DatabaseUrl::parse("sqlite:///t.db", folder.path()).unwrap();
    let options = DatabaseOptions {
        pool_size: 1,
        max_overflow: Some(0),
        pool_timeout: Duration::from_millis(10),
        ..DatabaseOptions::default()
    };
    let database = Database::open(&url, &options).await.unwrap();
    // A slow machine may need several tries to connect.
    let held = loop {
        if let Ok(connection) = database.connection().await {
            break connection;
        }
    };
    let error = database.connection().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(
        error
            .message()
            .starts_with("all 1 connections to the database `sqlite:///"),
        "{error}"
    );
    drop(held);
}
