//! Feast's tables in a SQLite file. Writers take the write lock before they look (`BEGIN IMMEDIATE`), so
//! what they decide on is what they change; readers see one consistent state and wait for nobody.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Row, SqliteConnection, SqlitePool,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions, SqliteRow},
};
use tokio::sync::Mutex;

use super::{
    super::{
        Change, Decide, ProjectState, RegistryStore, Revision, ViewVersion, complete,
        history::{Author, HistoryEntry, HistoryPage},
        version_kind, version_kind_name,
    },
    schema::{self, Dialect, SQLITE, Table},
};
use crate::{
    error::{Error, Kind, Result},
    model::{Object, ObjectKind},
};

const DIALECT: Dialect = SQLITE;

/// How long a writer waits for writers of other processes before it gives up.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// A registry database file.
#[derive(Debug)]
pub(super) struct SqliteStore {
    path: PathBuf,
    options: SqliteConnectOptions,
    pool: SqlitePool,
    watcher: Mutex<Watcher>,
    /// Writers of this process take turns here, fairly; SQLite's own waiting is a lottery.
    turn: Mutex<()>,
}

/// A connection that never writes: to it, every commit of any other one changes `data_version`.
#[derive(Debug, Default)]
struct Watcher {
    connection: Option<SqliteConnection>,
    /// Versions of different connections do not compare.
    connected: u64,
}

impl SqliteStore {
    pub(super) async fn open(path: &Path) -> Result<Self> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(|error| {
                Error::unavailable(format!(
                    "registry directory `{}` cannot be made: {error}",
                    directory.display()
                ))
                .source_error(error)
            })?;
        }
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(false)
            .disable_statement_logging();
        let pool = SqlitePoolOptions::new()
            .max_connections(4)
            .idle_timeout(Duration::from_secs(60))
            .connect_lazy_with(options.clone());
        let store = Self {
            path: path.to_owned(),
            options,
            pool,
            watcher: Mutex::default(),
            turn: Mutex::default(),
        };
        store.prepare().await?;
        Ok(store)
    }

    async fn prepare(&self) -> Result<()> {
        let mut connection = self.pool.acquire().await.map_err(|error| self.failed(error))?;
        // It stays with the file. Where it cannot be had (an unusual file system), all works but readers wait.
        if let Err(error) = sqlx::query("PRAGMA journal_mode = WAL")
            .execute(&mut *connection)
            .await
        {
            tracing::debug!(%error, "registry database stays without a write-ahead log");
        }
        drop(connection);
        let mut transaction = self
            .pool
            .begin_with("BEGIN IMMEDIATE")
            .await
            .map_err(|error| self.failed(error))?;
        for statement in schema::create(DIALECT) {
            let made = sqlx::query(AssertSqlSafe(statement))
                .execute(&mut *transaction)
                .await;
            made.map_err(|error| self.failed(error))?;
        }
        // A table of the same name that is not Feast's shows here, before anything is written.
        read_state(&mut transaction, "", Revision::default())
            .await
            .map_err(|error| match &error {
                sqlx::Error::Database(inner) => Error::config(format!(
                    "`{}` is not a Feast registry: {}",
                    self.path.display(),
                    inner.message()
                )),
                _ => self.failed(error),
            })?;
        transaction.commit().await.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: sqlx::Error) -> Error {
        let path = self.path.display();
        let code = error
            .as_database_error()
            .and_then(|inner| inner.code())
            .unwrap_or_default()
            .into_owned();
        // SQLite's primary result code is the low byte of the extended one.
        let primary = code.parse::<u32>().map_or(0, |code| code & 0xff);
        match primary {
            5 | 6 => Error::unavailable(format!("registry database `{path}` is locked by another program")),
            13 => Error::unavailable(format!("the disk of registry database `{path}` is full"))
                .hint("free some space; nothing was changed"),
            8 => Error::unavailable(format!("registry database `{path}` cannot be written"))
                .hint("file and directory have to be writable; nothing was changed"),
            11 | 26 => Error::new(
                Kind::Config,
                format!("`{path}` is not a readable SQLite database"),
            )
            .hint("restore it from a backup, or move it away to start with an empty registry"),
            _ => Error::unavailable(format!("registry database `{path}`: {error}")),
        }
        .source_error(error)
    }

    async fn watch(&self) -> Result<Revision, sqlx::Error> {
        let mut watcher = self.watcher.lock().await;
        // Taken out, so that a connection that failed or was left in the middle is not used again.
        let mut connection = match watcher.connection.take() {
            Some(connection) => connection,
            None => {
                watcher.connected += 1;
                SqliteConnection::connect_with(&self.options).await?
            }
        };
        let version: i64 = sqlx::query_scalar("PRAGMA data_version")
            .fetch_one(&mut connection)
            .await?;
        let revision = Revision(format!("{}-{version}", watcher.connected));
        watcher.connection = Some(connection);
        Ok(revision)
    }

    async fn write(
        &self,
        connection: &mut SqliteConnection,
        project: &str,
        changes: &[Change],
        now: DateTime<Utc>,
    ) -> Result<(), sqlx::Error> {
        for change in changes {
            write_change(connection, project, change, now).await?;
        }
        if changes.last() != Some(&Change::DeleteProject) {
            let seconds = now.timestamp();
            let text = seconds.to_string();
            put_metadata(connection, project, schema::LAST_UPDATED, &text, seconds).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl RegistryStore for SqliteStore {
    async fn projects(&self) -> Result<Vec<String>> {
        let names = sqlx::query_scalar(schema::SELECT_PROJECTS)
            .fetch_all(&self.pool)
            .await;
        names.map_err(|error| self.failed(error))
    }

    async fn load(&self, project: &str) -> Result<Arc<ProjectState>> {
        // The mark comes first: a change in between is loaded now and looked at once more later.
        let revision = self.revision().await?;
        let mut transaction = self.pool.begin().await.map_err(|error| self.failed(error))?;
        let state = read_state(&mut transaction, project, revision)
            .await
            .map_err(|error| self.failed(error))?;
        transaction.commit().await.map_err(|error| self.failed(error))?;
        Ok(Arc::new(state))
    }

    async fn revision(&self) -> Result<Revision> {
        self.watch().await.map_err(|error| self.failed(error))
    }

    async fn update(
        &self,
        project: &str,
        _author: Option<&Author>,
        decide: Decide<'_>,
    ) -> Result<Arc<ProjectState>> {
        let _turn = self.turn.lock().await;
        let revision = self.revision().await?;
        // Dropped without a commit, also by a caller that gives up, it is rolled back.
        let mut transaction = self
            .pool
            .begin_with("BEGIN IMMEDIATE")
            .await
            .map_err(|error| self.failed(error))?;
        let mut state = read_state(&mut transaction, project, revision)
            .await
            .map_err(|error| self.failed(error))?;
        let changes = decide(&state)?;
        if changes.is_empty() {
            return Ok(Arc::new(state));
        }
        let now = Utc::now();
        let mut changes = complete(&state, changes, now);
        for change in &mut changes {
            if let Change::Put(object) = change {
                project.clone_into(&mut object.project);
            }
        }
        if changes.iter().all(|change| matches!(change, Change::Delete(..))) && state.is_empty() {
            return Ok(Arc::new(state));
        }
        self.write(&mut transaction, project, &changes, now)
            .await
            .map_err(|error| self.failed(error))?;
        transaction.commit().await.map_err(|error| self.failed(error))?;
        for change in &changes {
            state.change(change);
        }
        state.last_updated = DateTime::from_timestamp(now.timestamp(), 0);
        Ok(Arc::new(state))
    }

    async fn history(&self, _project: &str, _page: HistoryPage) -> Result<Vec<HistoryEntry>> {
        Err(Error::unsupported("SQL registries keep no history yet"))
    }

    async fn check(&self) -> Result<()> {
        self.revision().await.map(drop)
    }
}

async fn read_state(
    connection: &mut SqliteConnection,
    project: &str,
    revision: Revision,
) -> Result<ProjectState, sqlx::Error> {
    let mut state = ProjectState {
        project: project.to_owned(),
        revision,
        ..ProjectState::default()
    };
    for table in schema::TABLES {
        let rows = sqlx::query(AssertSqlSafe(table.select(DIALECT))).bind(project);
        for row in rows.fetch_all(&mut *connection).await? {
            state.objects.put(Arc::new(read_object(table, project, &row)?));
        }
    }
    let infra = sqlx::query_scalar::<_, Vec<u8>>(schema::SELECT_INFRA)
        .bind(schema::INFRA_NAME)
        .bind(project);
    state.infra = infra.fetch_optional(&mut *connection).await?.map(Bytes::from);
    let versions = sqlx::query(schema::SELECT_VERSIONS).bind(project);
    for row in versions.fetch_all(&mut *connection).await? {
        state.versions.push(Arc::new(read_version(&row)?));
    }
    let metadata = sqlx::query_as::<_, (String, String)>(schema::SELECT_METADATA).bind(project);
    for (key, value) in metadata.fetch_all(&mut *connection).await? {
        if key == schema::LAST_UPDATED {
            state.last_updated = value
                .parse()
                .ok()
                .and_then(|seconds| DateTime::from_timestamp(seconds, 0));
        } else {
            state.metadata.push((key, value));
        }
    }
    Ok(state)
}

fn read_object(table: Table, project: &str, row: &SqliteRow) -> Result<Object, sqlx::Error> {
    Ok(Object {
        kind: table.kind,
        project: project.to_owned(),
        name: row.try_get(0)?,
        bytes: row.try_get::<Vec<u8>, _>(1)?.into(),
    })
}

fn read_version(row: &SqliteRow) -> Result<ViewVersion, sqlx::Error> {
    Ok(ViewVersion {
        view: row.try_get(0)?,
        number: u32::try_from(row.try_get::<i64, _>(1)?).unwrap_or_default(),
        kind: version_kind(row.try_get(2)?),
        bytes: row.try_get::<Vec<u8>, _>(3)?.into(),
        created: DateTime::from_timestamp(row.try_get(4)?, 0).unwrap_or_default(),
        description: row.try_get::<Option<String>, _>(5)?.unwrap_or_default(),
        version_id: row.try_get(6)?,
    })
}

async fn write_change(
    connection: &mut SqliteConnection,
    project: &str,
    change: &Change,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let seconds = now.timestamp();
    match change {
        Change::Put(object) => {
            let statement = schema::table_of(object.kind).upsert();
            let name = if object.kind == ObjectKind::Project {
                project
            } else {
                &object.name
            };
            let query = sqlx::query(AssertSqlSafe(statement))
                .bind(name)
                .bind(project)
                .bind(seconds);
            query.bind(&object.bytes[..]).execute(connection).await?;
        }
        Change::Delete(kind, name) => {
            let statement = schema::table_of(*kind).delete();
            sqlx::query(AssertSqlSafe(statement))
                .bind(name)
                .bind(project)
                .execute(&mut *connection)
                .await?;
            if kind.is_view() {
                sqlx::query(schema::DELETE_VERSIONS)
                    .bind(name)
                    .bind(project)
                    .execute(connection)
                    .await?;
            }
        }
        Change::PutVersion(version) => {
            sqlx::query(schema::UPSERT_VERSION)
                .bind(&version.view)
                .bind(project)
                .bind(i64::from(version.number))
                .bind(version_kind_name(version.kind))
                .bind(&version.bytes[..])
                .bind(version.created.timestamp())
                .bind(&version.description)
                .bind(&version.version_id)
                .execute(connection)
                .await?;
        }
        Change::PutInfra(infra) => {
            let query = sqlx::query(schema::UPSERT_INFRA)
                .bind(schema::INFRA_NAME)
                .bind(project)
                .bind(seconds);
            query.bind(&infra[..]).execute(connection).await?;
        }
        Change::PutHistory(_) => {}
        Change::PutMetadata(key, value) => put_metadata(connection, project, key, value, seconds).await?,
        Change::DeleteProject => {
            let names = schema::TABLES
                .iter()
                .map(|table| table.name)
                .chain(schema::OTHER_TABLES);
            for name in names {
                let statement = format!("DELETE FROM {name} WHERE project_id = ?");
                sqlx::query(AssertSqlSafe(statement))
                    .bind(project)
                    .execute(&mut *connection)
                    .await?;
            }
        }
    }
    Ok(())
}

async fn put_metadata(
    connection: &mut SqliteConnection,
    project: &str,
    key: &str,
    value: &str,
    seconds: i64,
) -> Result<(), sqlx::Error> {
    let query = sqlx::query(schema::UPSERT_METADATA)
        .bind(project)
        .bind(key)
        .bind(value)
        .bind(seconds);
    query.execute(connection).await.map(drop)
}
