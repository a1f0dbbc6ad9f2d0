//! What only servers do: they tell of changes, end connections, and have old databases of Feast's.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Row};
use thali::{
    database::{Database, Engine},
    error::{Kind, Result},
    registry::store::{Change, ProjectState, RegistryStore},
};
use tokio::time::timeout;

use super::{
    conformance::{change, entity},
    entity_of, open,
};
use crate::servers::{Fresh, run};

mod postgres_only {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn listeners_are_told() {
        let fresh = Fresh::new(Engine::Postgres).await;
        let (one, two) = (open(&fresh).await, open(&fresh).await);
        // The first comes when it begins to listen.
        timeout(Duration::from_secs(60), two.changed()).await.unwrap();
        change(&one, "p", vec![Change::Put(entity("a", ""))]).await;
        timeout(Duration::from_secs(60), two.changed()).await.unwrap();
        let ended = "SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity \
                     WHERE datname = current_database() AND pid <> pg_backend_pid()";
        let database = fresh.open().await;
        sqlx::query(ended).fetch_all(database.pool()).await.unwrap();
        timeout(Duration::from_secs(60), two.changed()).await.unwrap();
        drop((one, two));
        fresh.remove().await;
    }
}

mod broken_connections {
    use super::*;

    /// Ends every connection to the database but its own.
    async fn end_connections(database: &Database) {
        let list = match database.engine() {
            Engine::Postgres => {
                "SELECT CAST(pid AS BIGINT) FROM pg_stat_activity \
                 WHERE datname = current_database() AND pid <> pg_backend_pid()"
            }
            _ => {
                "SELECT CAST(id AS SIGNED) FROM information_schema.processlist \
                 WHERE db = DATABASE() AND id <> CONNECTION_ID()"
            }
        };
        let (mut connection, rows) = loop {
            let mut connection = database.connection().await.unwrap();
            // Somebody else who ends connections at this moment may end this one.
            if let Ok(rows) = sqlx::query(list).fetch_all(&mut *connection).await {
                break (connection, rows);
            }
        };
        for row in rows {
            let id: i64 = row.get(0);
            let end = match database.engine() {
                Engine::Postgres => format!("SELECT pg_terminate_backend({id})"),
                _ => format!("KILL CONNECTION {id}"),
            };
            // It may be gone by itself.
            drop(sqlx::raw_sql(AssertSqlSafe(end)).execute(&mut *connection).await);
        }
    }

    /// While each update runs, connections are ended at some moment, and once at the worst: between its
    /// look and its writing.
    async fn nothing_is_lost_or_doubled(engine: Engine) {
        const UPDATES: usize = 40;
        let fresh = Fresh::new(engine).await;
        let (store, admin) = (open(&fresh).await, fresh.open().await);
        let mut unknown = 0;
        for number in 0..UPDATES {
            let name = format!("e{number}");
            let mut looks = 0;
            let mut decide = |state: &ProjectState| -> Result<Vec<Change>> {
                looks += 1;
                if looks == 1 && number % 4 == 0 {
                    let ending = end_connections(&admin);
                    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(ending));
                }
                let count = count(state);
                Ok(vec![
                    Change::Put(entity(&name, "")),
                    Change::PutMetadata("count".to_owned(), (count + 1).to_string()),
                ])
            };
            let ending = tokio::spawn({
                let admin = admin.clone();
                async move { end_connections(&admin).await }
            });
            match store.update("p", None, &mut decide).await {
                Ok(state) => assert!(entity_of(&state, &name).is_some()),
                Err(error) => {
                    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
                    unknown += 1;
                }
            }
            assert!(looks > 1 || number % 4 != 0, "the connection was ended");
            ending.await.unwrap();
        }
        let state = open(&fresh).await.load("p").await.unwrap();
        let is_present = |number: &usize| entity_of(&state, &format!("e{number}")).is_some();
        let present = (0..UPDATES).filter(is_present).count();
        assert_eq!(count(&state), present, "every change was made once");
        assert!(
            present + unknown >= UPDATES,
            "{present} of {UPDATES}, {unknown} without an answer"
        );
        assert!(present > UPDATES / 2, "{present} of {UPDATES}");
        drop(store);
        fresh.remove().await;
    }

    fn count(state: &ProjectState) -> usize {
        let count = state.metadata.iter().find(|(key, _)| key == "count");
        count.map_or(0, |(_, count)| count.parse().unwrap())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn postgres() {
        nothing_is_lost_or_doubled(Engine::Postgres).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn mysql() {
        nothing_is_lost_or_doubled(Engine::MySql).await;
    }
}

mod mysql_only {
    use super::*;

    async fn old_database() -> (Fresh, Database) {
        let fresh = Fresh::new(Engine::MySql).await;
        drop(open(&fresh).await);
        let database = fresh.open().await;
        (fresh, database)
    }

    #[tokio::test]
    async fn names_that_an_old_database_takes_for_equal_are_an_error() {
        let (fresh, database) = old_database().await;
        for table in ["entities", "projects", "feast_metadata"] {
            let change =
                format!("ALTER TABLE {table} CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci");
            run(&database, &change).await;
        }
        let store = open(&fresh).await;
        change(&store, "p", vec![Change::Put(entity("driver", ""))]).await;
        let mut decide = |_: &ProjectState| Ok(vec![Change::Put(entity("Driver", ""))]);
        let error = store.update("p", None, &mut decide).await.unwrap_err();
        assert_eq!(error.kind(), Kind::AlreadyExists);
        let text = error.message();
        assert!(
            text.contains("entity `Driver`") && text.contains("entity `driver`"),
            "{text}"
        );
        assert!(store.load("P").await.unwrap().is_empty(), "another project");
        let mut decide = |_: &ProjectState| Ok(vec![Change::Put(entity("x", ""))]);
        let error = store.update("P", None, &mut decide).await.unwrap_err();
        assert_eq!(error.kind(), Kind::AlreadyExists, "{error}");
        let state = store.load("p").await.unwrap();
        assert_eq!(state.objects.len(), 2);
        fresh.remove().await;
    }

    #[tokio::test]
    async fn what_does_not_fit_a_narrow_column_is_refused_by_name() {
        let (fresh, database) = old_database().await;
        run(
            &database,
            "ALTER TABLE entities MODIFY entity_proto BLOB NOT NULL",
        )
        .await;
        let store = open(&fresh).await;
        change(&store, "p", vec![Change::Put(entity("small", ""))]).await;
        let large = entity("large", &"x".repeat(70_000));
        let mut decide = |_: &ProjectState| Ok(vec![Change::Put(large.clone())]);
        let error = store.update("p", None, &mut decide).await.unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert!(error.message().starts_with("entity `large` has 700"), "{error}");
        assert_eq!(store.load("p").await.unwrap().objects.len(), 2);
        fresh.remove().await;
    }
}
