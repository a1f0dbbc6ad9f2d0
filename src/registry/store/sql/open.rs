//! Making sure that a database is a registry, before anything else is done with it: Feast's tables as
//! Feast makes them, never altered, and thali's own by migrations.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use sqlx::{AnyConnection, Executor, Row};
use tokio::time::{Instant, sleep};

use super::{
    dialect::{Dialect, Place},
    limits::Limits,
    schema::{self, Definition, METADATA, TABLES},
};
use crate::{
    config::SchemaMode,
    database::{Database, Engine, Migration},
    error::{Error, Result},
};

const MIGRATIONS: &str = "thali_registry_migrations";
/// Tables of our own without which a replica is of no use.
const OWN: [&str; 2] = ["thali_projects", "thali_history"];
/// How long a replica may take to have the tables that were just made.
const REPLICATION: Duration = Duration::from_secs(10);

/// Types of columns by their names, by table.
type Tables = HashMap<String, HashMap<String, String>>;

/// Makes the database ready for use.
pub(super) async fn prepare(database: &Database, mode: SchemaMode) -> Result<Limits> {
    let definitions = schema::definitions(Place::new(database, "").dialect);
    let tables = tables(database).await?;
    refuse_others(database, &definitions, &tables)?;
    let missing = missing(&definitions, &tables);
    if !missing.is_empty() {
        match mode {
            SchemaMode::Auto => create(database, &missing).await?,
            SchemaMode::Verify => {
                let names: Vec<&str> = missing.iter().map(|definition| definition.name).collect();
                return Err(Error::config(format!(
                    "the registry `{}` misses tables: {}",
                    database.url(),
                    names.join(", ")
                ))
                .hint("create them, or set `schema_mode: auto`"));
            }
            SchemaMode::Skip => {}
        }
    }
    database
        .migrate(MIGRATIONS, &[history(database.engine())])
        .await?;
    limits(database, &tables).await
}

/// Makes sure that a replica has all the tables, or has them soon.
pub(super) async fn await_replica(database: &Database) -> Result<()> {
    let definitions = schema::definitions(Place::new(database, "").dialect);
    let deadline = Instant::now() + REPLICATION;
    loop {
        let tables = tables(database).await?;
        refuse_others(database, &definitions, &tables)?;
        let missing = missing(&definitions, &tables);
        let names = missing.iter().map(|definition| definition.name);
        let own = OWN.into_iter().filter(|name| !tables.contains_key(*name));
        let names: Vec<&str> = names.chain(own).collect();
        if names.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Error::config(format!(
                "the `read_path` of the registry, `{}`, misses tables: {}",
                database.url(),
                names.join(", ")
            ))
            .hint("it has to be a replica of the database at `path`"));
        }
        sleep(Duration::from_millis(100)).await;
    }
}

fn history(engine: Engine) -> Migration {
    let sql = match engine {
        Engine::Sqlite => include_str!("../../../../migrations/registry/sqlite/0001_history.sql"),
        Engine::Postgres => include_str!("../../../../migrations/registry/postgres/0001_history.sql"),
        Engine::MySql => include_str!("../../../../migrations/registry/mysql/0001_history.sql"),
    };
    (1, "history", sql)
}

async fn tables(database: &Database) -> Result<Tables> {
    let failed = |error| database.failed(error);
    let dialect = Place::new(database, "").dialect;
    let mut tables = Tables::new();
    let rows = sqlx::query(dialect.columns()).fetch_all(database.pool()).await;
    for row in rows.map_err(failed)? {
        let text = |column: usize| row.try_get::<String, _>(column).map_err(failed);
        let table = tables.entry(text(0)?).or_default();
        table.insert(text(1)?.to_lowercase(), text(2)?.to_lowercase());
    }
    Ok(tables)
}

/// A table of a name of Feast's that is something else.
fn refuse_others(database: &Database, definitions: &[Definition], tables: &Tables) -> Result<()> {
    for definition in definitions {
        let Some(columns) = tables.get(definition.name) else {
            continue;
        };
        let missing = definition
            .columns
            .iter()
            .find(|column| !columns.contains_key(**column));
        if let Some(column) = missing {
            return Err(Error::config(format!(
                "`{}` is not a Feast registry: its table `{}` has no column `{column}`",
                database.url(),
                definition.name
            ))
            .hint("give the registry a database of its own"));
        }
    }
    Ok(())
}

fn missing<'a>(definitions: &'a [Definition], tables: &Tables) -> Vec<&'a Definition> {
    definitions
        .iter()
        .filter(|definition| !tables.contains_key(definition.name))
        .collect()
}

async fn create(database: &Database, missing: &[&Definition]) -> Result<()> {
    let mut transaction = database.begin().await?;
    let created = create_in(&mut transaction, database.engine(), missing).await;
    created.map_err(|error| {
        database
            .failed(error)
            .context("the tables of the registry cannot be made")
    })?;
    transaction.commit().await.map_err(|error| database.failed(error))
}

async fn create_in(
    connection: &mut AnyConnection,
    engine: Engine,
    missing: &[&Definition],
) -> Result<(), sqlx::Error> {
    if engine == Engine::Postgres {
        // Two that make the same table at the same time are told that it exists, in spite of `IF NOT EXISTS`.
        let alone = "SELECT pg_advisory_xact_lock(hashtext('thali_registry_tables'))";
        connection.execute(alone).await?;
    }
    for statement in missing.iter().flat_map(|definition| &definition.create) {
        let statement = sqlx::AssertSqlSafe(statement.clone());
        connection.execute(sqlx::raw_sql(statement)).await?;
    }
    Ok(())
}

async fn limits(database: &Database, tables: &Tables) -> Result<Limits> {
    let mut limits = Limits::default();
    if database.engine() == Engine::Sqlite {
        return Ok(limits);
    }
    limits.name = Some(255);
    if database.engine() == Engine::MySql {
        let asked = sqlx::query("SELECT CAST(@@max_allowed_packet AS SIGNED)").fetch_one(database.pool());
        let row = asked.await.map_err(|error| database.failed(error))?;
        let most: i64 = row.try_get(0).map_err(|error| database.failed(error))?;
        limits.statement = usize::try_from(most).ok();
        let is_narrow = |(position, table): (usize, &schema::Table)| {
            let kind = tables.get(table.name)?.get(table.message)?;
            (kind == "blob").then_some(position)
        };
        limits.narrow = TABLES
            .iter()
            .enumerate()
            .filter_map(is_narrow)
            .collect::<HashSet<_>>();
        for table in limits.narrow.iter().filter_map(|position| TABLES.get(*position)) {
            tracing::error!(
                "column `{}` of table `{}` keeps 64 KiB at most; larger objects are refused until it is LONGBLOB",
                table.message,
                table.name
            );
        }
    }
    Ok(limits)
}

/// Projects that have metadata and, as Feast before 0.45 left them, no row of their own.
pub(super) async fn without_rows(database: &Database) -> Result<Vec<String>> {
    let names = |statement: String| async move {
        let rows = sqlx::query(database.sql(&statement))
            .fetch_all(database.pool())
            .await?;
        rows.iter()
            .map(|row| row.try_get::<String, _>(0))
            .collect::<Result<HashSet<_>, _>>()
    };
    let dialect: Dialect = Place::new(database, "").dialect;
    let id = dialect.text("project_id");
    let uuids = format!("SELECT {id} FROM {METADATA} WHERE metadata_key = 'project_uuid'");
    let failed = |error| database.failed(error);
    let known = names(format!("SELECT {id} FROM projects"))
        .await
        .map_err(failed)?;
    let with_metadata = names(uuids).await.map_err(failed)?;
    let mut missing: Vec<String> = with_metadata.difference(&known).cloned().collect();
    missing.sort();
    Ok(missing)
}
