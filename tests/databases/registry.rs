//! The registry in SQL tables on every engine: the conformance of all stores, and what only databases can
//! do: other clients that know no lock of ours, connections that break, replicas that lag.

use std::sync::Arc;

use bytes::Bytes;
use sqlx::Row;
use thali::{
    config::{SchemaMode, SqlRegistry},
    database::{Database, DatabaseOptions, Engine},
    error::Kind,
    model::{Object, ObjectKind},
    registry::store::{Change, ProjectState, RegistryStore, history::Author, sql::SqlStore},
};

use self::conformance::{change, entity, view};
use crate::servers::{Fresh, on_every_engine, run};

#[path = "../../src/registry/store/conformance.rs"]
#[allow(dead_code, reason = "the tests of other stores need more of it")]
mod conformance;
#[path = "registry/servers_only.rs"]
mod servers_only;

on_every_engine!(
    conforms,
    histories_are_pruned,
    writers_of_many_processes_lose_nothing,
    handles_share_what_has_not_changed,
    feasts_clients_are_noticed,
    feasts_clients_and_ours_lose_nothing,
    projects_of_older_feasts_get_a_row,
    metadata_is_purged_if_that_is_wanted,
    missing_tables_are_named_or_made,
    other_tables_are_refused,
    a_schema_from_the_future_is_refused,
    a_replica_that_lags_takes_nobody_back,
    many_changes_are_one_update,
);

fn registry(fresh: &Fresh) -> SqlRegistry {
    SqlRegistry {
        url: fresh.url().clone(),
        read_url: None,
        schema_mode: SchemaMode::Auto,
        options: DatabaseOptions::default(),
        purge_metadata: false,
    }
}

async fn open(fresh: &Fresh) -> SqlStore {
    SqlStore::open(&registry(fresh), 1_000).await.unwrap()
}

fn entity_of<'a>(state: &'a ProjectState, name: &str) -> Option<&'a Arc<Object>> {
    state.object(ObjectKind::Entity, name)
}

async fn conforms(fresh: &Fresh) {
    conformance::all(&open(fresh).await).await;
}

async fn histories_are_pruned(fresh: &Fresh) {
    let store = SqlStore::open(&registry(fresh), 4).await.unwrap();
    conformance::is_pruned(&store, 4).await;
}

async fn writers_of_many_processes_lose_nothing(fresh: &Fresh) {
    let opened = (0..4).map(|_| async { Arc::new(open(fresh).await) as Arc<dyn RegistryStore> });
    conformance::concurrent_writers(futures::future::join_all(opened).await).await;
}

async fn handles_share_what_has_not_changed(fresh: &Fresh) {
    let (one, two) = (open(fresh).await, open(fresh).await);
    let both = vec![Change::Put(entity("a", "")), Change::Put(entity("b", ""))];
    change(&one, "p", both).await;
    let before = two.load("p").await.unwrap();
    change(
        &one,
        "p",
        vec![Change::Put(entity("b", "new")), Change::Put(view("v"))],
    )
    .await;
    let after = two.load("p").await.unwrap();
    assert!(Arc::ptr_eq(
        entity_of(&before, "a").unwrap(),
        entity_of(&after, "a").unwrap()
    ));
    assert_ne!(entity_of(&before, "b"), entity_of(&after, "b"));
    assert!(after.object(ObjectKind::FeatureView, "v").is_some());
    change(
        &one,
        "p",
        vec![Change::Delete(ObjectKind::Entity, "a".to_owned())],
    )
    .await;
    assert!(entity_of(&two.load("p").await.unwrap(), "a").is_none());
    change(&one, "other", vec![Change::Put(entity("a", ""))]).await;
    let same = two.load("p").await.unwrap();
    change(&one, "other", vec![Change::Put(entity("a", "new"))]).await;
    assert!(Arc::ptr_eq(&same, &two.load("p").await.unwrap()));
}

/// Writes as Feast does: no lock, no revision.
struct Feast {
    database: Database,
}

impl Feast {
    async fn on(fresh: &Fresh) -> Self {
        Self {
            database: fresh.open().await,
        }
    }

    async fn run(&self, statement: &str, bytes: &[u8], names: [&str; 2]) -> u64 {
        let mut query = sqlx::query(self.database.sql(statement));
        if !bytes.is_empty() {
            query = query.bind(bytes);
        }
        let query = query.bind(names[0]).bind(names[1]);
        query.execute(self.database.pool()).await.unwrap().rows_affected()
    }

    async fn put(&self, name: &str, description: &str) {
        let bytes = entity(name, description).bytes;
        let update = "UPDATE entities SET entity_proto = ? WHERE entity_name = ? AND project_id = ?";
        if self.run(update, &bytes, [name, "p"]).await == 0 {
            let insert = "INSERT INTO entities (entity_proto, entity_name, project_id, last_updated_timestamp) \
                          VALUES (?, ?, ?, 1)";
            self.run(insert, &bytes, [name, "p"]).await;
        }
    }

    async fn delete(&self, name: &str) {
        let delete = "DELETE FROM entities WHERE entity_name = ? AND project_id = ?";
        self.run(delete, &[], [name, "p"]).await;
    }
}

async fn feasts_clients_are_noticed(fresh: &Fresh) {
    let (store, feast) = (open(fresh).await, Feast::on(fresh).await);
    change(
        &store,
        "p",
        vec![Change::Put(entity("a", "")), Change::Put(entity("b", ""))],
    )
    .await;
    let mut revision = store.revision().await.unwrap();
    let mut state = store.load("p").await.unwrap();
    for step in ["change", "add", "delete"] {
        match step {
            "change" => feast.put("b", "feast's").await,
            "add" => feast.put("c", "").await,
            _ => feast.delete("b").await,
        }
        let present = store.revision().await.unwrap();
        assert_ne!(present, revision, "{step}");
        revision = present;
        let after = store.load("p").await.unwrap();
        assert!(Arc::ptr_eq(
            entity_of(&state, "a").unwrap(),
            entity_of(&after, "a").unwrap()
        ));
        assert_eq!(
            entity_of(&after, "b").map(|object| object.bytes.clone()),
            (step != "delete").then(|| entity("b", "feast's").bytes)
        );
        assert_eq!(entity_of(&after, "c").is_some(), step != "change");
        state = after;
    }
    let unchanged = store.load("p").await.unwrap();
    assert!(Arc::ptr_eq(&state, &unchanged));
}

/// Feast's client changes what an update is about, between its look and its writing. On SQLite it waits.
async fn feasts_clients_and_ours_lose_nothing(fresh: &Fresh) {
    let (store, feast) = (open(fresh).await, Feast::on(fresh).await);
    if feast.database.engine() == Engine::Sqlite {
        return writers_with_feasts_lose_nothing(&store, &feast).await;
    }
    change(
        &store,
        "p",
        vec![Change::Put(entity("a", "")), Change::Put(entity("b", ""))],
    )
    .await;
    for step in ["change", "add", "delete"] {
        let mut looks = Vec::new();
        let name = if step == "add" { "n" } else { "a" };
        let mut decide = |state: &ProjectState| {
            if looks.is_empty() {
                let meanwhile = async {
                    match step {
                        "delete" => feast.delete("a").await,
                        _ => feast.put(name, "feast's").await,
                    }
                };
                tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(meanwhile));
            }
            let seen = entity_of(state, name).map(|object| object.bytes.clone());
            looks.push(seen.clone());
            let over = if seen.is_some() { "over another" } else { "anew" };
            Ok(vec![Change::Put(entity(name, &format!("{step} {over}")))])
        };
        let author = Author::anonymous("apply");
        let state = store.update("p", Some(&author), &mut decide).await.unwrap();
        assert_eq!(looks.len(), 2, "{step}");
        let (seen, over) = match step {
            "delete" => (None, "anew"),
            _ => (Some(entity(name, "feast's").bytes), "over another"),
        };
        assert_eq!(looks.last(), Some(&seen), "{step}");
        let expected: Bytes = entity(name, &format!("{step} {over}")).bytes;
        assert_eq!(entity_of(&state, name).unwrap().bytes, expected);
        let loaded = store.load("p").await.unwrap();
        assert_eq!(entity_of(&loaded, name).unwrap().bytes, expected);
    }
    writers_with_feasts_lose_nothing(&store, &feast).await;
}

async fn writers_with_feasts_lose_nothing(store: &SqlStore, feast: &Feast) {
    let feasts = async {
        for number in 0..20 {
            feast.put(&format!("feast{number}"), "").await;
        }
    };
    let ours = async {
        for number in 0..20 {
            change(
                store,
                "p",
                vec![Change::Put(entity(&format!("ours{number}"), ""))],
            )
            .await;
        }
    };
    tokio::join!(feasts, ours);
    let state = store.load("p").await.unwrap();
    for number in 0..20 {
        assert!(entity_of(&state, &format!("feast{number}")).is_some());
        assert!(entity_of(&state, &format!("ours{number}")).is_some());
    }
}

async fn projects_of_older_feasts_get_a_row(fresh: &Fresh) {
    drop(open(fresh).await);
    let database = fresh.open().await;
    let old = "INSERT INTO feast_metadata (project_id, metadata_key, metadata_value, last_updated_timestamp) \
               VALUES ('old', 'project_uuid', 'b0e2cc3f-9e0b-4b6c-9d2b-3e9d2f8a6f11', 1)";
    run(&database, old).await;
    let store = open(fresh).await;
    let state = store.load("old").await.unwrap();
    assert!(state.object(ObjectKind::Project, "old").is_some());
    assert!(
        state
            .metadata
            .iter()
            .any(|(_, value)| value == "b0e2cc3f-9e0b-4b6c-9d2b-3e9d2f8a6f11")
    );
    assert_eq!(store.projects().await.unwrap(), ["old"]);
}

async fn metadata_is_purged_if_that_is_wanted(fresh: &Fresh) {
    change(&open(fresh).await, "p", vec![Change::Put(entity("a", ""))]).await;
    let purging = SqlRegistry {
        purge_metadata: true,
        ..registry(fresh)
    };
    let store = SqlStore::open(&purging, 1_000).await.unwrap();
    let written = change(&store, "p", vec![Change::Put(entity("b", ""))]).await;
    for state in [written, store.load("p").await.unwrap()] {
        assert_eq!((state.metadata.len(), state.last_updated), (0, None));
        assert_eq!(state.objects.len(), 3);
    }
}

async fn tables(database: &Database) -> Vec<String> {
    let statement = match database.engine() {
        Engine::Sqlite => "SELECT name FROM sqlite_master WHERE type = 'table'",
        Engine::Postgres => {
            "SELECT CAST(table_name AS TEXT) FROM information_schema.tables WHERE table_schema = 'public'"
        }
        Engine::MySql => {
            "SELECT CAST(table_name AS CHAR) FROM information_schema.tables WHERE table_schema = DATABASE()"
        }
    };
    let rows = sqlx::query(statement).fetch_all(database.pool()).await.unwrap();
    let mut names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    names.sort();
    names
}

async fn refused(registry: &SqlRegistry) -> (Kind, String) {
    let error = SqlStore::open(registry, 1_000).await.err().unwrap();
    (error.kind(), error.message().to_owned())
}

async fn missing_tables_are_named_or_made(fresh: &Fresh) {
    let database = fresh.open().await;
    let verifying = SqlRegistry {
        schema_mode: SchemaMode::Verify,
        ..registry(fresh)
    };
    let (kind, message) = refused(&verifying).await;
    assert_eq!(kind, Kind::Config);
    assert!(
        message.contains("misses tables: projects, data_sources, "),
        "{message}"
    );
    assert!(tables(&database).await.is_empty(), "nothing was made");
    let together = (0..4).map(|_| open(fresh));
    futures::future::join_all(together).await;
    assert_eq!(tables(&database).await.len(), 14 + 3);
    SqlStore::open(&verifying, 1_000).await.unwrap();
    run(&database, "DROP TABLE label_views").await;
    let (_, message) = refused(&verifying).await;
    assert!(message.ends_with("misses tables: label_views"), "{message}");
    let store = open(fresh).await;
    change(&store, "p", vec![Change::Put(entity("a", ""))]).await;
}

async fn other_tables_are_refused(fresh: &Fresh) {
    let database = fresh.open().await;
    run(
        &database,
        "CREATE TABLE entities (project_id VARCHAR(9), mine VARCHAR(9))",
    )
    .await;
    let (kind, message) = refused(&registry(fresh)).await;
    assert_eq!(kind, Kind::Config);
    assert!(
        message.ends_with("is not a Feast registry: its table `entities` has no column `entity_name`"),
        "{message}"
    );
    assert_eq!(tables(&database).await, ["entities"], "nothing was made in it");
}

async fn a_schema_from_the_future_is_refused(fresh: &Fresh) {
    drop(open(fresh).await);
    let database = fresh.open().await;
    run(
        &database,
        "INSERT INTO thali_registry_migrations (version, name, applied_at) VALUES (99, 'x', 0)",
    )
    .await;
    let (kind, message) = refused(&registry(fresh)).await;
    assert_eq!(kind, Kind::Config);
    assert!(message.contains("is at version 99"), "{message}");
}

async fn a_replica_that_lags_takes_nobody_back(fresh: &Fresh) {
    let behind = Fresh::new(fresh.url().engine()).await;
    let replicated = open(&behind).await;
    let lagging = SqlRegistry {
        read_url: Some(behind.url().clone()),
        ..registry(fresh)
    };
    let store = SqlStore::open(&lagging, 1_000).await.unwrap();
    let written = change(&store, "p", vec![Change::Put(entity("a", "1"))]).await;
    assert!(Arc::ptr_eq(&written, &store.load("p").await.unwrap()));
    let again = change(&store, "p", vec![Change::Put(entity("a", "2"))]).await;
    change(&replicated, "p", vec![Change::Put(entity("a", "1"))]).await;
    assert!(Arc::ptr_eq(&again, &store.load("p").await.unwrap()));
    change(&replicated, "p", vec![Change::Put(entity("a", "2"))]).await;
    let newer = change(&replicated, "p", vec![Change::Put(entity("b", ""))]).await;
    let loaded = store.load("p").await.unwrap();
    assert_eq!(loaded.objects.len(), newer.objects.len());
    assert!(Arc::ptr_eq(
        entity_of(&again, "a").unwrap(),
        entity_of(&loaded, "a").unwrap()
    ));
    behind.remove().await;
}

/// More than fits one statement.
async fn many_changes_are_one_update(fresh: &Fresh) {
    let (store, other) = (open(fresh).await, open(fresh).await);
    let put = |count: usize, text: &str| -> Vec<Change> {
        let entities = (0..count).map(|number| entity(&format!("e{number}"), text));
        entities.map(Change::Put).collect()
    };
    let author = Author::anonymous("apply");
    let mut decide = |_: &ProjectState| Ok(put(1_300, "first"));
    store.update("p", Some(&author), &mut decide).await.unwrap();
    assert_eq!(other.load("p").await.unwrap().objects.len(), 1_301);
    let long = "long ".repeat(2_000);
    change(&store, "p", put(700, &long)).await;
    let state = other.load("p").await.unwrap();
    let changed = state
        .objects
        .iter()
        .filter(|object| object.bytes.len() > 9_000)
        .count();
    assert_eq!(changed, 700);
    let delete = |number| Change::Delete(ObjectKind::Entity, format!("e{number}"));
    let after = change(&store, "p", (100..1_300).map(delete).collect()).await;
    assert_eq!(after.objects.len(), 101);
    let same = store.load("p").await.unwrap();
    assert!(Arc::ptr_eq(&after, &same), "what was written is what is there");
    assert_eq!(other.load("p").await.unwrap().objects, after.objects);
}
