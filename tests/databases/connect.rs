//! Connecting, and what is said when it fails: each engine reports in its own way, the user reads one.

use std::time::Duration;

use futures::future::join_all;
use sqlx::Row;
use thali::{
    database::{Database, DatabaseOptions, DatabaseUrl, Engine, Migration},
    error::{Error, Kind},
};

use crate::servers::{Fresh, on_every_engine, run};

on_every_engine!(
    migrations_run_once_however_many_processes_start,
    what_is_not_committed_is_forgotten,
    a_race_is_told_from_a_failure,
    a_value_comes_back_as_it_went,
    the_clock_is_the_present_time,
);

const TABLE: &str = "thali_test_migrations";

async fn failure(url: &DatabaseUrl) -> Error {
    let options = DatabaseOptions::default();
    let error = Database::open(url, &options).await.unwrap_err();
    let shown = error.to_string();
    assert!(!shown.contains("%40") && !shown.contains("p@ss"), "{shown}");
    assert!(!error.message().contains('\n'), "{shown}");
    error
}

async fn migrations_run_once_however_many_processes_start(fresh: &Fresh) {
    // Not a statement that bears being run twice: what is run twice fails here.
    const STEPS: [Migration; 2] = [
        (
            1,
            "one",
            "CREATE TABLE one (n BIGINT); CREATE TABLE two (n BIGINT)",
        ),
        (2, "two", "INSERT INTO one (n) VALUES (7)"),
    ];
    let databases = join_all((0..6).map(|_| fresh.open())).await;
    let done = join_all(databases.iter().map(|database| database.migrate(TABLE, &STEPS))).await;
    assert!(done.iter().all(Result::is_ok), "{done:?}");
    let row = sqlx::query("SELECT COUNT(*) FROM one")
        .fetch_one(databases[0].pool())
        .await
        .unwrap();
    assert_eq!(row.get::<i64, _>(0), 1);
    let error = databases[0].migrate(TABLE, &STEPS[..1]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Config, "{error}");
}

async fn what_is_not_committed_is_forgotten(fresh: &Fresh) {
    let database = fresh.open().await;
    run(&database, "CREATE TABLE t (n BIGINT)").await;
    let add = async |number: i64| {
        let mut transaction = database.begin().await.unwrap();
        sqlx::query(database.sql("INSERT INTO t (n) VALUES (?)"))
            .bind(number)
            .execute(&mut *transaction)
            .await
            .unwrap();
        transaction
    };
    drop(add(1).await);
    add(2).await.rollback().await.unwrap();
    add(3).await.commit().await.unwrap();
    let rows = sqlx::query("SELECT n FROM t")
        .fetch_all(database.pool())
        .await
        .unwrap();
    let numbers: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(numbers, [3]);
}

async fn a_race_is_told_from_a_failure(fresh: &Fresh) {
    let database = fresh.open().await;
    run(&database, "CREATE TABLE t (n BIGINT PRIMARY KEY)").await;
    let insert = || sqlx::query("INSERT INTO t (n) VALUES (1)").execute(database.pool());
    insert().await.unwrap();
    let twice = insert().await.unwrap_err();
    assert!(
        Database::is_lost_race(&twice) && Database::is_duplicate(&twice),
        "{twice}"
    );
    assert_eq!(database.failed(twice).kind(), Kind::Conflict);
    let wrong = sqlx::query("SELECT x FROM t")
        .execute(database.pool())
        .await
        .unwrap_err();
    assert!(
        !Database::is_lost_race(&wrong) && !Database::is_disconnect(&wrong),
        "{wrong}"
    );
    assert_eq!(database.failed(wrong).kind(), Kind::Internal);
}

async fn a_value_comes_back_as_it_went(fresh: &Fresh) {
    let database = fresh.open().await;
    let blob = match database.engine() {
        Engine::Sqlite => "BLOB",
        Engine::Postgres => "BYTEA",
        Engine::MySql => "LONGBLOB",
    };
    let letters = match database.engine() {
        Engine::MySql => " CHARACTER SET utf8mb4",
        Engine::Sqlite | Engine::Postgres => "",
    };
    let table = format!("CREATE TABLE t (\"trigger\" VARCHAR(255), bytes {blob}, number BIGINT){letters}");
    run(&database, &table).await;
    let bytes: Vec<u8> = (0..=255).cycle().take(3_000_000).collect();
    let text = "?'\"\\ é 🚕";
    let insert = "INSERT INTO t (\"trigger\", bytes, number) VALUES (?, ?, ?)";
    for (text, bytes, number) in [
        (Some(text), Some(bytes.as_slice()), Some(i64::MIN)),
        (None, None, None),
    ] {
        sqlx::query(database.sql(insert))
            .bind(text)
            .bind(bytes)
            .bind(number)
            .execute(database.pool())
            .await
            .unwrap();
    }
    let rows = sqlx::query("SELECT * FROM t ORDER BY number IS NULL")
        .fetch_all(database.pool())
        .await
        .unwrap();
    assert_eq!(rows[0].get::<String, _>("trigger"), text);
    assert_eq!(rows[0].get::<Vec<u8>, _>("bytes"), bytes);
    assert_eq!(rows[0].get::<i64, _>("number"), i64::MIN);
    assert_eq!(rows[1].get::<Option<Vec<u8>>, _>("bytes"), None);
    let long = "x".repeat(300);
    let kept = sqlx::query(database.sql("INSERT INTO t (\"trigger\") VALUES (?)"))
        .bind(&long)
        .execute(database.pool())
        .await;
    match (database.engine(), kept) {
        // SQLite knows no longest text.
        (Engine::Sqlite, kept) => assert!(kept.is_ok()),
        (_, kept) => assert_eq!(database.failed(kept.unwrap_err()).kind(), Kind::InvalidArgument),
    }
}

async fn the_clock_is_the_present_time(fresh: &Fresh) {
    let database = fresh.open().await;
    let asked = format!("SELECT {}", database.now());
    let before = chrono::Utc::now().timestamp_millis();
    let row = sqlx::query(database.sql(&asked))
        .fetch_one(database.pool())
        .await
        .unwrap();
    let after = chrono::Utc::now().timestamp_millis();
    let now = row.get::<i64, _>(0) / 1000;
    assert!((before..=after).contains(&now), "{before} {now} {after}");
}

async fn servers() -> [Fresh; 2] {
    [
        Fresh::new(Engine::Postgres).await,
        Fresh::new(Engine::MySql).await,
    ]
}

#[tokio::test]
async fn a_wrong_address_password_or_name_is_told_apart() {
    for fresh in servers().await {
        let (server, _) = fresh.text.rsplit_once('/').unwrap();
        let (_, address) = server.rsplit_once('@').unwrap();
        let secret = server.split_once("://").unwrap().1.split_once('@').unwrap().0;
        let (user, password) = secret.split_once(':').unwrap();

        let absent = failure(&fresh.with(fresh.name(), "thali_no_such")).await;
        assert_eq!(absent.kind(), Kind::Config);
        assert!(
            absent.message().contains("/thali_no_such` does not exist"),
            "{absent}"
        );

        let refused = failure(&fresh.with(password, "wrong")).await;
        assert_eq!(refused.kind(), Kind::Config);
        assert!(
            refused.message().contains("refuses the user or the password"),
            "{refused}"
        );
        assert!(refused.message().contains(user), "{refused}");

        let unreachable = failure(&fresh.with(address, "127.0.0.1:1")).await;
        assert_eq!(unreachable.kind(), Kind::Unavailable);
        assert!(
            unreachable
                .message()
                .ends_with("cannot be reached: connection refused"),
            "{unreachable}"
        );
        fresh.remove().await;
    }
}

#[tokio::test]
async fn a_user_without_rights_is_told_so() {
    let [postgres, mysql] = servers().await;
    let role = postgres.name().to_owned();
    run(
        postgres.admin(),
        &format!("CREATE ROLE {role} LOGIN PASSWORD 'pw'"),
    )
    .await;
    run(mysql.admin(), &format!("CREATE USER {role} IDENTIFIED BY 'pw'")).await;
    run(
        mysql.admin(),
        &format!("GRANT SELECT ON {}.* TO {role}", mysql.name()),
    )
    .await;
    for fresh in [&postgres, &mysql] {
        let (server, _) = fresh.text.rsplit_once('@').unwrap();
        let (_, secret) = server.split_once("://").unwrap();
        let url = fresh.with(secret, &format!("{role}:pw"));
        let database = Database::open(&url, &DatabaseOptions::default()).await.unwrap();
        let error = database
            .migrate(TABLE, &[(1, "t", "CREATE TABLE t (n BIGINT)")])
            .await
            .unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        assert!(error.message().contains("does not allow it"), "{error}");
        database.pool().close().await;
    }
    run(mysql.admin(), &format!("DROP USER {role}")).await;
    let admin = postgres.admin().clone();
    mysql.remove().await;
    postgres.remove().await;
    run(&admin, &format!("DROP ROLE {role}")).await;
}

/// A connection that the server ended while it waited in the pool is replaced before it is used.
#[tokio::test]
async fn connections_that_died_in_the_pool_are_not_used() {
    for fresh in servers().await {
        let database = fresh.open().await;
        let id = match database.engine() {
            Engine::Postgres => "SELECT CAST(pg_backend_pid() AS BIGINT)",
            _ => "SELECT CAST(CONNECTION_ID() AS SIGNED)",
        };
        let row = sqlx::query(id).fetch_one(database.pool()).await.unwrap();
        let id: i64 = row.get(0);
        match database.engine() {
            Engine::Postgres => run(fresh.admin(), &format!("SELECT pg_terminate_backend({id})::text")).await,
            _ => run(fresh.admin(), &format!("KILL {id}")).await,
        }
        sqlx::query("SELECT 1").execute(database.pool()).await.unwrap();
        database.check().await.unwrap();
        fresh.remove().await;
    }
}

/// Who holds a lock for too long is not waited for for ever, and the one who waited may try again.
#[tokio::test]
async fn a_deadlock_is_a_lost_race() {
    for fresh in servers().await {
        let database = fresh.open().await;
        run(&database, "CREATE TABLE t (n BIGINT PRIMARY KEY, v BIGINT)").await;
        run(&database, "INSERT INTO t (n, v) VALUES (1, 0), (2, 0)").await;
        let touch = async |transaction: &mut thali::database::Transaction, number: i64| {
            let update = sqlx::query(database.sql("UPDATE t SET v = v + 1 WHERE n = ?")).bind(number);
            update.execute(&mut **transaction).await
        };
        let (mut one, mut two) = (database.begin().await.unwrap(), database.begin().await.unwrap());
        touch(&mut one, 1).await.unwrap();
        touch(&mut two, 2).await.unwrap();
        let (first, second) = tokio::join!(
            async {
                let crossed = touch(&mut one, 2).await;
                match crossed {
                    Ok(_) => one.commit().await,
                    Err(error) => one.rollback().await.and(Err(error)),
                }
            },
            async {
                let crossed = touch(&mut two, 1).await;
                match crossed {
                    Ok(_) => two.commit().await,
                    Err(error) => two.rollback().await.and(Err(error)),
                }
            }
        );
        let lost: Vec<_> = [first, second].into_iter().filter_map(Result::err).collect();
        assert_eq!(lost.len(), 1, "{lost:?}");
        assert!(Database::is_lost_race(&lost[0]), "{}", lost[0]);
        fresh.remove().await;
    }
}

#[tokio::test]
async fn a_full_pool_is_told_from_a_server_that_is_gone() {
    for fresh in servers().await {
        let options = DatabaseOptions {
            pool_size: 1,
            max_overflow: Some(0),
            pool_timeout: Duration::from_millis(50),
            ..DatabaseOptions::default()
        };
        let url = fresh.with(fresh.name(), fresh.name());
        let database = Database::open(&url, &options).await.unwrap();
        // A slow machine may need several tries to connect.
        let held = loop {
            if let Ok(connection) = database.connection().await {
                break connection;
            }
        };
        let error = database.connection().await.unwrap_err();
        assert!(error.message().starts_with("all 1 connections"), "{error}");
        drop(held);
        fresh.remove().await;
        let gone = Database::open(&url, &options).await.unwrap_err();
        assert!(gone.message().contains("does not exist"), "{gone}");
    }
}
