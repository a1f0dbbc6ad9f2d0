//! [`SqliteStore`]: the SQLite online store in Feast's layout (`feast/infra/online_stores/sqlite.py`).
//!
//! One table per view, one row per entity key and feature. Two deliberate differences from Feast's own
//! store, neither visible in the file format: times are written and read as UTC whatever the process's
//! time zone is, and a row never goes back in event time.
//!
//! Invariant: event times are whole seconds in this layout, so two writes within one second count as
//! equally old and the later write wins.

mod read;
mod search;
mod words;
mod write;

use std::{
    fmt,
    future::ready,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Row as _, SqliteConnection, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous},
};

use self::read::Readers;
use super::{
    Found, OlderRow, OnlineRead, OnlineStore, RowBatch, Search, StoreKind, Table, WriteBatch,
    sql::{connections::Connections, placeholders, table_name, vectors::Metric},
};
use crate::{
    config::schema::{Kind as Holds, Schema, Unknown, missing, used},
    error::{Error, Kind, Result},
    model::FeatureView,
    proto::feast::core::{InfraObject, SqliteTable, infra_object::InfraObject as Inner},
};

/// How long a writer waits for another process's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(20);

/// How many searches and listings read at the same time; more wait for their turn.
const READERS: usize = 4;

/// Entity keys per page of [`OnlineStore::keys`], and per statement that deletes.
const PAGE: usize = 1000;

/// The `sqlite` type.
pub static KIND: StoreKind = StoreKind {
    name: "sqlite",
    schema: &SCHEMA,
    open: |opening| {
        Box::pin(async move {
            let path = opening.section.text("path").unwrap_or("data/online.db");
            let mut store = SqliteStore::open(opening.repo_path.join(path)).await?;
            store.vector_enabled = opening.section.bool("vector_enabled");
            store.text_enabled = opening.section.bool("text_search_enabled");
            store.keeps_numbers = opening.section.bool("enable_openai_compatible_store");
            if let Some(name) = opening.section.text("similarity") {
                store.similarity =
                    Metric::named(name).map_err(|error| Error::config(error.message().to_owned()))?;
            }
            Ok(Arc::new(store) as Arc<dyn OnlineStore>)
        })
    },
};

static SCHEMA: Schema = Schema {
    unknown: Unknown::Refused,
    keys: &[
        used("type", Holds::Text, Some("sqlite")),
        used("path", Holds::Text, Some("data/online.db")),
        used("vector_enabled", Holds::Bool, Some("false")),
        used("similarity", Holds::Text, None),
        used("text_search_enabled", Holds::Bool, Some("false")),
        used("enable_openai_compatible_store", Holds::Bool, Some("false")),
        missing(
            "vector_len",
            Holds::Int,
            "vectors are as long as their field's `vector_length`",
        ),
    ],
};

/// Pages the writer keeps, in KiB where it is negative: SQLite's own 2 MiB are read again and again.
const WRITER_CACHE: &str = "-32768";

/// An opened SQLite online store.
#[derive(Debug, Clone)]
pub struct SqliteStore {
    path: PathBuf,
    /// For what requests for features read.
    request_readers: Arc<Readers>,
    /// For everything else that reads.
    readers: Arc<Connections<SqliteConnection>>,
    /// One connection: SQLite has one writer anyway, and waiting here is fairer than its busy handler.
    writer: SqlitePool,
    vector_enabled: bool,
    text_enabled: bool,
    /// Whether tables get the column Feast keeps numbers in.
    keeps_numbers: bool,
    /// What a search that names none measures by.
    similarity: Metric,
}

impl SqliteStore {
    /// Opens the file, creating it and its directory when they are missing.
    ///
    /// # Errors
    /// `Config` naming the path when it cannot be created, opened or is no SQLite database.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            tokio::fs::create_dir_all(parent).await.map_err(|error| {
                Error::config(format!(
                    "directory `{}` of the online store cannot be created: {error}",
                    parent.display()
                ))
                .hint("check `online_store.path` and the directory's permissions")
            })?;
        }
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(BUSY_TIMEOUT)
            .statement_cache_capacity(256)
            .optimize_on_close(false, None);
        let writing = options.clone().pragma("cache_size", WRITER_CACHE);
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .test_before_acquire(false)
            .connect_with(writing)
            .await
            .map_err(|error| {
                Error::config(format!(
                    "online store `{}` cannot be opened: {error}",
                    path.display()
                ))
                .hint("check `online_store.path`; it must be a writable SQLite file or not exist yet")
                .source_error(error)
            })?;
        // Readers connect when first needed; by then the file exists in WAL mode.
        let place = format!("the online store `{}`", path.display());
        let options = options.row_buffer_size(512).disable_statement_logging();
        Ok(Self {
            request_readers: Arc::new(Readers::new(path.clone())),
            path,
            readers: Arc::new(Connections::new(
                options,
                |_| Box::pin(ready(Ok(()))),
                place,
                READERS,
            )),
            writer,
            vector_enabled: false,
            text_enabled: false,
            keeps_numbers: false,
            similarity: Metric::L2,
        })
    }

    /// What to tell about a failed statement.
    fn failed(&self, doing: &str, error: impl Into<Fault>) -> Error {
        let path = self.path.display();
        let error = error.into();
        let told = match error.primary_code() {
            Some(13) => Error::unavailable(format!("{doing} online store `{path}`: the disk is full"))
                .hint("free some space; nothing of the batch was written"),
            Some(8) => Error::unavailable(format!("{doing} online store `{path}`: it is read-only"))
                .hint("make the file and its directory writable for this process"),
            Some(5 | 6) => Error::unavailable(format!(
                "{doing} online store `{path}`: another process keeps it locked"
            ))
            .hint("try again; if it stays, look for a process with a long transaction on the file"),
            Some(11 | 26) => Error::internal(format!(
                "{doing} online store `{path}`: the file is damaged or no SQLite database"
            )),
            _ => match &error {
                Fault::Sqlx(sqlx::Error::PoolTimedOut) => Error::new(
                    Kind::Overloaded,
                    format!("{doing} online store `{path}`: no connection became free in time"),
                ),
                _ => Error::unavailable(format!("{doing} online store `{path}`: {error}")),
            },
        };
        match error {
            Fault::Sqlx(error) => told.source_error(error),
            Fault::Rusqlite(error) => told.source_error(error),
        }
    }

    /// A statement about one table with a parameter, in which a missing table has no rows.
    async fn ask(&self, statement: &str, parameter: &[u8]) -> Result<Vec<SqliteRow>> {
        let mut lease = self.readers.lease().await?;
        let query = sqlx::query(AssertSqlSafe(statement.to_owned())).bind(parameter);
        let asked = query.fetch_all(&mut *lease).await;
        lease.settle(&asked);
        match asked {
            Err(error) if is_missing_table(&error) => Ok(Vec::new()),
            asked => asked.map_err(|error| self.failed("reading", error)),
        }
    }

    async fn create_table(&self, connection: &mut SqliteConnection, table: &str) -> Result<()> {
        let name = quoted(table);
        let index = quoted(&format!("{table}_ek"));
        let number = if self.keeps_numbers {
            "value_num REAL, "
        } else {
            ""
        };
        let statements = [
            format!(
                "CREATE TABLE IF NOT EXISTS {name} (entity_key BLOB, feature_name TEXT, value BLOB, value_text TEXT, \
                 {number}vector_value BLOB, event_ts timestamp, created_ts timestamp, PRIMARY KEY(entity_key, feature_name))"
            ),
            format!("CREATE INDEX IF NOT EXISTS {index} ON {name} (entity_key)"),
        ];
        for statement in statements {
            sqlx::query(AssertSqlSafe(statement))
                .execute(&mut *connection)
                .await
                .map_err(|error| self.failed("preparing", error))?;
        }
        // Tables of older Feast versions lack the one, and those made before it was wanted the other.
        let columns: Vec<String> = sqlx::query_scalar("SELECT name FROM pragma_table_info(?1)")
            .bind(table)
            .fetch_all(&mut *connection)
            .await
            .map_err(|error| self.failed("preparing", error))?;
        let wanted = [
            ("value_text", "TEXT", true),
            ("value_num", "REAL", self.keeps_numbers),
        ];
        for (column, holds, is_wanted) in wanted {
            if is_wanted && !columns.iter().any(|known| known == column) {
                let statement = format!("ALTER TABLE {name} ADD COLUMN {column} {holds}");
                sqlx::query(AssertSqlSafe(statement))
                    .execute(&mut *connection)
                    .await
                    .map_err(|error| self.failed("preparing", error))?;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl OnlineStore for SqliteStore {
    async fn read(&self, read: &OnlineRead<'_>) -> Result<Vec<RowBatch>> {
        self.read_groups(read).await
    }

    async fn write(&self, project: &str, table: &Table, batch: &WriteBatch, older: OlderRow) -> Result<u64> {
        self.write_rows(&table_name(project, &table.name), batch, older)
            .await
    }

    async fn provision(&self, project: &str, keep: &[Arc<FeatureView>], drop: &[Table]) -> Result<()> {
        let failed = |error| self.failed("preparing", error);
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        for view in keep {
            self.create_table(&mut transaction, &table_name(project, &view.name))
                .await?;
        }
        for table in drop {
            let statement = format!(
                "DROP TABLE IF EXISTS {}",
                quoted(&table_name(project, &table.name))
            );
            sqlx::query(AssertSqlSafe(statement))
                .execute(&mut *transaction)
                .await
                .map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)
    }

    async fn delete(&self, project: &str, table: &Table, keys: &[Bytes]) -> Result<u64> {
        let name = quoted(&table_name(project, &table.name));
        let failed = |error| self.failed("writing", error);
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let mut deleted = 0;
        for keys in keys.chunks(PAGE) {
            let condition = format!("FROM {name} WHERE entity_key IN ({})", placeholders(keys.len()));
            let bound = |sql: String| {
                let query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
                keys.iter().fold(query, |query, key| query.bind(key.as_ref()))
            };
            let counted = bound(format!("SELECT count(DISTINCT entity_key) {condition}"));
            let row = match counted.fetch_one(&mut *transaction).await {
                Err(error) if is_missing_table(&error) => return Ok(0),
                row => row.map_err(failed)?,
            };
            deleted += u64::try_from(row.try_get::<i64, _>(0).map_err(failed)?).unwrap_or_default();
            let gone = bound(format!("DELETE {condition}"));
            gone.execute(&mut *transaction).await.map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)?;
        Ok(deleted)
    }

    async fn count(&self, project: &str, table: &Table) -> Result<u64> {
        let name = quoted(&table_name(project, &table.name));
        let statement = format!("SELECT count(DISTINCT entity_key) FROM {name} WHERE ?1 IS NOT NULL");
        let rows = self.ask(&statement, &[]).await?;
        let Some(row) = rows.first() else { return Ok(0) };
        let count: i64 = row.try_get(0).map_err(|error| self.failed("reading", error))?;
        Ok(u64::try_from(count).unwrap_or_default())
    }

    async fn truncate(&self, project: &str, table: &Table) -> Result<()> {
        let name = quoted(&table_name(project, &table.name));
        let statement = AssertSqlSafe(format!("DELETE FROM {name}"));
        match sqlx::query(statement).execute(&self.writer).await {
            Err(error) if !is_missing_table(&error) => Err(self.failed("writing", error)),
            _ => Ok(()),
        }
    }

    async fn keys(
        &self,
        project: &str,
        table: &Table,
        page: Option<Bytes>,
    ) -> Result<(Vec<Bytes>, Option<Bytes>)> {
        let name = quoted(&table_name(project, &table.name));
        let statement = format!(
            "SELECT DISTINCT entity_key FROM {name} WHERE entity_key > ?1 ORDER BY entity_key LIMIT {PAGE}"
        );
        let rows = self.ask(&statement, &page.unwrap_or_default()).await?;
        let keys = rows
            .iter()
            .map(|row| row.try_get::<Vec<u8>, _>(0).map(Bytes::from));
        let keys: Vec<Bytes> = keys
            .collect::<Result<_, _>>()
            .map_err(|error| self.failed("reading", error))?;
        let next = keys.last().filter(|_| keys.len() == PAGE).cloned();
        Ok((keys, next))
    }

    async fn search(&self, project: &str, table: &Table, search: &Search) -> Result<Found> {
        self.search_rows(project, table, search).await
    }

    fn infra(&self, project: &str, view: &FeatureView) -> Option<InfraObject> {
        Some(InfraObject {
            infra_object_class_type: "feast.infra.online_stores.sqlite.SqliteTable".to_owned(),
            infra_object: Some(Inner::SqliteTable(SqliteTable {
                path: self.path.display().to_string(),
                name: table_name(project, &view.name),
            })),
        })
    }

    fn prefers_key_order(&self, _: &FeatureView) -> bool {
        true
    }

    fn name(&self) -> &'static str {
        KIND.name
    }

    async fn check(&self) -> Result<()> {
        self.ask("SELECT 1 FROM sqlite_master WHERE ?1 IS NOT NULL LIMIT 1", &[])
            .await
            .map(drop)
    }
}

/// What SQLite said, by way of either library.
#[derive(Debug)]
enum Fault {
    Sqlx(sqlx::Error),
    Rusqlite(rusqlite::Error),
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        Self::Sqlx(error)
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Rusqlite(error)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlx(error) => error.fmt(f),
            Self::Rusqlite(error) => error.fmt(f),
        }
    }
}

impl Fault {
    /// SQLite's primary result code.
    fn primary_code(&self) -> Option<i32> {
        let code = match self {
            Self::Sqlx(sqlx::Error::Database(error)) => error.code()?.parse::<i32>().ok()?,
            Self::Sqlx(_) => return None,
            Self::Rusqlite(error) => error.sqlite_error()?.extended_code,
        };
        Some(code & 0xff)
    }
}

fn is_missing_table(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(error) if error.message().contains("no such table"))
}

/// An identifier in double quotes.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests;
