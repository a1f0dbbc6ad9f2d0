//! [`PostgresStore`]: Feast's `offline_store: {type: postgres}`: sources that are tables or queries of
//! a PostgreSQL server.
//!
//! Joining and pulling is done here as for files, by [`super::files`]: the server is asked for the wanted
//! columns in the wanted range of times and keys, and its rows stream past (`scan`); nothing is made in
//! the server but what is written there. Sources that are files work besides. Times without a zone are
//! UTC, whatever the server's zone.
//!
//! Materialization asks by what rows are known, to go on where it was killed; a table of PostgreSQL's own can
//! tell (`snapshot`), views, foreign tables and queries cannot.

mod cells;
mod scan;
mod snapshot;
mod source;
mod text;
mod write;

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use datafusion::{
    catalog::TableProvider, execution::SendableRecordBatchStream,
    physical_plan::stream::RecordBatchStreamAdapter,
};
use futures::StreamExt as _;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, postgres::PgConnectOptions};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use self::scan::Rows;
pub(crate) use self::source::{SOURCE_CLASS, Source, options, storage, table_of_storage};
use super::{
    files::{FileStore, Tables},
    store::{Appended, HistoricalQuery, Note, OfflineStore, Parts, Pull},
};
use crate::{
    config::{
        Section,
        schema::{Kind as Holds, Schema, Unknown, joined, missing},
    },
    database::{self, failure, postgres::KEYS},
    error::{Error, Kind, Result},
    proto::feast::core::{DataSource, data_source},
};

/// How long connecting may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long a scan waits for another to end.
const TURN_LIMIT: Duration = Duration::from_secs(60);
/// How long the answer to a question without rows may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// Connections for such questions that are kept for the next.
const KEPT: usize = 2;

/// The keys of the section (Feast's `PostgreSQLOfflineStoreConfig`).
pub(crate) static SCHEMA: Schema = Schema {
    unknown: Unknown::Refused,
    keys: &joined::<{ KEYS.len() + 1 }>(
        &KEYS,
        &[missing(
            "entity_select_mode",
            Holds::Choice(&["temp_table", "embed_query"]),
            "entity rows are joined here: no table and no query is made of them",
        )],
    ),
};

/// See the module.
pub struct PostgresStore {
    files: FileStore,
    server: Arc<Server>,
}

impl PostgresStore {
    /// A store that joins with what `files` may hold; connects when it is first used.
    ///
    /// # Errors
    /// `Config` naming the key that is missing or makes no sense.
    pub fn new(section: &Section, files: FileStore) -> Result<Self> {
        let server = Arc::new(Server::new(database::postgres::Server::of(
            section,
            "offline_store",
        )?));
        let files = files.with_tables(Arc::new(OfServer(Arc::clone(&server))));
        Ok(Self { files, server })
    }
}

/// The server. Each scan has a connection of its own, which is closed when the scan ends, however it ends:
/// the server then stops working on it.
struct Server {
    options: PgConnectOptions,
    /// In words, without the password.
    place: String,
    /// Scans at the same time.
    turns: Arc<Semaphore>,
    /// Connections on which nothing was left half-way.
    kept: Mutex<Vec<PgConnection>>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.place)
    }
}

impl Server {
    fn new(server: database::postgres::Server) -> Self {
        let limit = server.connections.clamp(1, Semaphore::MAX_PERMITS);
        // A prepared statement that is remembered would know the columns as they were.
        let options = server.options.statement_cache_capacity(0);
        Self {
            options: options.options([("timezone", "UTC")]),
            place: format!("the offline store `{}`", server.address),
            turns: Arc::new(Semaphore::new(limit)),
            kept: Mutex::default(),
        }
    }

    /// A connection that changes nothing, for a scan, and its turn.
    async fn reading(&self) -> Result<(PgConnection, OwnedSemaphorePermit)> {
        let turn = self.turn().await?;
        Ok((self.connect_for_reading().await?, turn))
    }

    /// As [`Server::reading`], for a question whose answer is no scan; then it can be [kept](Server::keep).
    async fn asking(&self) -> Result<(PgConnection, OwnedSemaphorePermit)> {
        let turn = self.turn().await?;
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(mut connection) = kept
            // The server may have closed it since.
            && matches!(timeout(CONNECT_LIMIT, connection.ping()).await, Ok(Ok(())))
        {
            return Ok((connection, turn));
        }
        Ok((self.connect_for_reading().await?, turn))
    }

    /// Keeps a connection whose question was answered for the next one.
    fn keep(&self, connection: PgConnection) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT {
            kept.push(connection);
        }
    }

    async fn connect_for_reading(&self) -> Result<PgConnection> {
        let options = self.options.clone();
        self.connect(options.options([("default_transaction_read_only", "on")]))
            .await
    }

    async fn turn(&self) -> Result<OwnedSemaphorePermit> {
        let turn = timeout(TURN_LIMIT, Arc::clone(&self.turns).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else {
            return Err(Error::new(
                Kind::Overloaded,
                format!("all scans of {} are in use", self.place),
            )
            .hint("raise `offline_store.max_conn`"));
        };
        Ok(turn)
    }

    /// A connection for changes.
    async fn writing(&self) -> Result<PgConnection> {
        self.connect(self.options.clone()).await
    }

    async fn connect(&self, options: PgConnectOptions) -> Result<PgConnection> {
        self.within(CONNECT_LIMIT, options.connect()).await
    }

    /// What a server does that may vanish without a word.
    async fn within<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T> {
        let done = timeout(limit, work).await;
        done.unwrap_or_else(|_elapsed| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())))
            .map_err(|error| self.failed(error))
    }

    /// The error of a statement.
    fn failed(&self, error: sqlx::Error) -> Error {
        failure::in_words(&self.place, error)
    }

    /// As [`Server::failed`], of a statement with parts that users wrote: `whose` they are.
    fn refused(&self, whose: &str, error: sqlx::Error) -> Error {
        match &error {
            sqlx::Error::Database(said) if is_about_the_statement(said.code().as_deref()) => {
                Error::invalid(format!("{whose}: PostgreSQL says: {}", said.message())).source_error(error)
            }
            _ => self.failed(error),
        }
    }
}

/// Syntax and names (class 42, but for missing rights), values (22), constraints (23), features (0A), and
/// writing where there is only reading (25006).
fn is_about_the_statement(code: Option<&str>) -> bool {
    code.is_some_and(|code| {
        (code.starts_with("42") && code != "42501")
            || code.starts_with("22")
            || code.starts_with("23")
            || code.starts_with("0A")
            || code == "25006"
    })
}

/// The sources of a server.
struct OfServer(Arc<Server>);

#[async_trait]
impl Tables for OfServer {
    async fn open(
        &self,
        source: &DataSource,
        known: bool,
    ) -> Result<Option<(Arc<dyn TableProvider>, String)>> {
        let Some(lies) = Source::of(source)? else {
            return Ok(None);
        };
        let rows = Rows::open(&self.0, &format!("data source `{}`", source.name), &lies).await?;
        let rows = if known { rows.known(&lies) } else { rows };
        Ok(Some((Arc::new(rows), lies.to_string())))
    }
}

/// Rows as they will be read when they were saved as `target`, if that is a table.
///
/// # Errors
/// `InvalidArgument` when it names no table.
pub(super) fn as_saved(
    target: &DataSource,
    rows: SendableRecordBatchStream,
) -> Result<SendableRecordBatchStream> {
    if Source::of(target)?.is_none() {
        return Ok(rows);
    }
    let schema = Arc::new(text::schema_in_table(&rows.schema()));
    let output = Arc::clone(&schema);
    let rows = rows.map(move |batch| Ok(text::in_table(&batch?, &schema)?));
    Ok(Box::pin(RecordBatchStreamAdapter::new(output, rows)))
}

#[async_trait]
impl OfflineStore for PostgresStore {
    async fn historical(&self, query: HistoricalQuery) -> Result<SendableRecordBatchStream> {
        self.files.historical(query).await
    }

    async fn pull(&self, pull: Pull) -> Result<SendableRecordBatchStream> {
        self.files.pull(pull).await
    }

    async fn pull_parts(&self, pull: Pull) -> Result<Parts> {
        self.files.pull_parts(pull).await
    }

    async fn append(
        &self,
        source: &DataSource,
        batches: Vec<RecordBatch>,
        once: Option<&Path>,
    ) -> Result<Appended> {
        match Source::of(source)? {
            Some(lies) => self.server.append(source, &lies, &batches, once).await,
            None => self.files.append(source, batches, once).await,
        }
    }

    async fn save(
        &self,
        target: &DataSource,
        rows: SendableRecordBatchStream,
        overwrite: bool,
        note: Option<Note>,
    ) -> Result<u64> {
        match Source::of(target)? {
            Some(lies) => self.server.save(&lies, rows, overwrite, note).await,
            None => self.files.save(target, rows, overwrite, note).await,
        }
    }

    /// The comment on a table.
    async fn note(&self, source: &DataSource) -> Result<Option<String>> {
        match Source::of(source)? {
            Some(Source::Table(table)) => self.server.note(&table).await,
            Some(Source::Query(_)) => Ok(None),
            None => self.files.note(source).await,
        }
    }

    /// A table has no maps and structs, and times in microseconds.
    fn as_saved(
        &self,
        target: &DataSource,
        rows: SendableRecordBatchStream,
    ) -> Result<SendableRecordBatchStream> {
        as_saved(target, rows)
    }

    /// The query is run by the server, over its tables, as it is by Feast; one that names a source of files
    /// is run here, over the sources of both.
    async fn select(&self, sql: &str, sources: &[DataSource]) -> Result<(SchemaRef, Vec<RecordBatch>)> {
        let names = FileStore::tables_of(sql);
        let is_of_files =
            |source: &&DataSource| matches!(source.options, Some(data_source::Options::FileOptions(_)));
        if sources
            .iter()
            .filter(is_of_files)
            .any(|source| names.contains(&source.name))
        {
            return self.files.select(sql, sources).await;
        }
        let whose = "the SQL for the entity rows";
        let rows = Rows::open(&self.server, whose, &Source::Query(sql.to_owned())).await?;
        self.files.gathered(rows.all()).await
    }

    async fn schema(&self, source: &DataSource) -> Result<SchemaRef> {
        self.files.schema(source).await
    }

    async fn rows_at_most(
        &self,
        source: &DataSource,
        start: DateTime<Utc>,
        end: DateTime<Utc>,
    ) -> Option<u64> {
        self.files.rows_at_most(source, start, end).await
    }

    async fn check(&self) -> Result<()> {
        let (mut connection, _turn) = self.server.asking().await?;
        self.server.within(ANSWER_LIMIT, connection.ping()).await?;
        self.server.keep(connection);
        Ok(())
    }
}
