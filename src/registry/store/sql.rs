//! [`SqlStore`]: the registry in Feast's own tables, in SQLite, PostgreSQL, MySQL or MariaDB. An existing
//! Feast database is opened as it is, and Feast opens ours.
//!
//! Writers of one project take turns by a row of thali's own; Feast's clients, who know nothing of it, are
//! noticed by what they leave behind. Only what has changed is read again.

mod delta;
mod dialect;
mod known;
mod limits;
mod news;
mod open;
mod read;
mod schema;
mod update;
mod watch;
mod write;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use sqlx::{Connection, Row};

use self::{dialect::Place, known::Known, limits::Limits, read::read, schema::METADATA, watch::Watch};
use super::{
    Change, Decide, ProjectState, RegistryStore, Revision,
    history::{Author, HistoryEntry, HistoryPage},
    new_project,
};
use crate::{config::SqlRegistry, database::Database, error::Result, model::ObjectKind};

/// A registry in a SQL database.
pub struct SqlStore {
    primary: Side,
    /// Where to read from instead.
    replica: Option<Side>,
    limits: Limits,
    /// How many entries of a project's history are kept.
    keep: i64,
    /// Feast's table of metadata is left empty.
    purge: bool,
    watch: Watch,
}

/// A database and what is known of what is in it.
struct Side {
    database: Database,
    known: Mutex<HashMap<String, Cell>>,
}

/// Held by who looks at the project; always taken with a connection already in hand.
type Cell = Arc<tokio::sync::Mutex<Option<Known>>>;

impl SqlStore {
    /// Opens the registry and makes the tables that are missing; `keep` entries of each project's history
    /// are kept.
    ///
    /// # Errors
    /// `Config` when the tables are not Feast's, or those of a newer thali, or `verify` misses some;
    /// `Unavailable` when the database cannot be reached.
    pub async fn open(registry: &SqlRegistry, keep: usize) -> Result<Self> {
        let database = Database::open(&registry.url, &registry.options).await?;
        let limits = open::prepare(&database, registry.schema_mode).await?;
        let mut replica = None;
        if let Some(url) = registry.read_url.as_ref().filter(|url| **url != registry.url) {
            let database = Database::open(url, &registry.options).await?;
            open::await_replica(&database).await?;
            replica = Some(Side::new(database));
        }
        let store = Self {
            watch: Watch::start(&database),
            primary: Side::new(database),
            replica,
            limits,
            keep: i64::try_from(keep).unwrap_or(i64::MAX),
            purge: registry.purge_metadata,
        };
        store.sync_projects().await?;
        Ok(store)
    }

    /// Gives projects of older Feasts, of which there is only metadata, a row of their own.
    async fn sync_projects(&self) -> Result<()> {
        for project in open::without_rows(&self.primary.database).await? {
            let mut decide = |state: &ProjectState| {
                let row = Change::Put(new_project(&project, chrono::Utc::now()));
                let is_missing = state.object(ObjectKind::Project, &project).is_none();
                Ok(if is_missing { vec![row] } else { Vec::new() })
            };
            self.run(&project, None, &mut decide).await?;
        }
        if self.purge {
            let statement = format!(
                "DELETE FROM {METADATA} WHERE project_id IN \
                 (SELECT project_id FROM projects) AND metadata_key IN ('project_uuid', '{}')",
                schema::LAST_UPDATED
            );
            let database = &self.primary.database;
            let done = sqlx::query(database.sql(&statement))
                .execute(database.pool())
                .await;
            done.map_err(|error| database.failed(error))?;
        }
        Ok(())
    }

    fn read_side(&self) -> &Side {
        self.replica.as_ref().unwrap_or(&self.primary)
    }

    /// What is known by the replica, unless somebody is looking at it.
    fn replica_state(&self, project: &str) -> Option<Arc<ProjectState>> {
        self.replica.as_ref()?.state(project)
    }

    /// A replica that lags never takes readers back to before what was written here. A primary that is
    /// older than what is known of it, because a backup was restored, does.
    async fn newer_of_primary(&self, project: &str, read: i64) -> Result<Option<Arc<ProjectState>>> {
        let cell = self.primary.cell(project);
        let known = match cell.lock().await.as_ref() {
            Some(known) if known.own.revision > read => (known.own.revision, Arc::clone(&known.state)),
            _ => return Ok(None),
        };
        let place = Place::new(&self.primary.database, project);
        let query = place.query("SELECT revision FROM thali_projects WHERE project_id = ?");
        let row = query
            .bind(project)
            .fetch_optional(self.primary.database.pool())
            .await;
        Ok(match row {
            Ok(row) => {
                let revision = row
                    .and_then(|row| row.try_get::<i64, _>(0).ok())
                    .unwrap_or_default();
                (revision >= known.0).then_some(known.1)
            }
            Err(error) => {
                tracing::debug!(%error, "the primary of a lagging replica does not answer");
                Some(known.1)
            }
        })
    }

    async fn look(&self, side: &Side, project: &str) -> Result<Arc<ProjectState>, sqlx::Error> {
        let place = Place::new(&side.database, project);
        let mut connection = side.database.pool().acquire().await?;
        let mut snapshot = connection.begin_with(place.dialect.snapshot()).await?;
        let cell = side.cell(project);
        let mut known = cell.lock().await;
        let other = match &self.replica {
            Some(_) => self.primary.state(project),
            None => None,
        };
        let known = read(&mut snapshot, place, &mut known, other.as_ref()).await?;
        let state = Arc::clone(&known.state);
        snapshot.rollback().await?;
        Ok(state)
    }
}

impl Side {
    fn new(database: Database) -> Self {
        Self {
            database,
            known: Mutex::default(),
        }
    }

    fn cell(&self, project: &str) -> Cell {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get(project) {
            Some(cell) => Arc::clone(cell),
            None => Arc::clone(known.entry(project.to_owned()).or_default()),
        }
    }

    /// What is known, unless somebody is looking at it right now.
    fn state(&self, project: &str) -> Option<Arc<ProjectState>> {
        let cell = self.cell(project);
        let known = cell.try_lock().ok()?;
        known.as_ref().map(|known| Arc::clone(&known.state))
    }

    /// Names of projects there is nothing of are not kept: callers may make up any number.
    fn forget_if_empty(&self, project: &str, state: &ProjectState) {
        if state.is_empty() {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.remove(project);
        }
    }
}

#[async_trait]
impl RegistryStore for SqlStore {
    async fn projects(&self) -> Result<Vec<String>> {
        let database = &self.read_side().database;
        let dialect = Place::new(database, "").dialect;
        let id = dialect.text("project_id");
        let statement = format!(
            "SELECT {id} FROM projects UNION ALL \
             SELECT {id} FROM {METADATA} WHERE metadata_key = 'project_uuid'"
        );
        let ask = || sqlx::query(database.sql(&statement)).fetch_all(database.pool());
        let rows = again(database, ask).await?;
        let names = rows.iter().map(|row| row.try_get::<String, _>(0));
        let names = names.collect::<Result<BTreeSet<_>, _>>();
        Ok(names
            .map_err(|error| database.failed(error))?
            .into_iter()
            .collect())
    }

    async fn load(&self, project: &str) -> Result<Arc<ProjectState>> {
        let side = self.read_side();
        let state = again(&side.database, || self.look(side, project)).await?;
        side.forget_if_empty(project, &state);
        if self.replica.is_some() {
            let cell = side.cell(project);
            let read = cell.lock().await.as_ref().map_or(0, |known| known.own.revision);
            if let Some(newer) = self.newer_of_primary(project, read).await? {
                return Ok(newer);
            }
        }
        Ok(state)
    }

    async fn revision(&self) -> Result<Revision> {
        let database = &self.read_side().database;
        again(database, || self.watch.revision(database)).await
    }

    async fn changed(&self) {
        self.watch.changed().await;
    }

    async fn update(
        &self,
        project: &str,
        author: Option<&Author>,
        decide: Decide<'_>,
    ) -> Result<Arc<ProjectState>> {
        self.run(project, author, decide).await
    }

    async fn history(&self, project: &str, page: HistoryPage) -> Result<Vec<HistoryEntry>> {
        let database = &self.primary.database;
        let place = Place::new(database, project);
        let numbers = || {
            let statement = "SELECT DISTINCT number FROM thali_history WHERE project_id = ? AND number < ? \
                             ORDER BY number DESC LIMIT ?";
            let before = page.before.and_then(|before| i64::try_from(before).ok());
            let query = place
                .query(statement)
                .bind(project)
                .bind(before.unwrap_or(i64::MAX));
            let limit = i64::try_from(page.limit).unwrap_or(i64::MAX);
            query.bind(limit).fetch_all(database.pool())
        };
        let numbers = again(database, numbers).await?;
        let number = |row: Option<&sqlx::any::AnyRow>| row.and_then(|row| row.try_get::<i64, _>(0).ok());
        let (Some(newest), Some(oldest)) = (number(numbers.first()), number(numbers.last())) else {
            return Ok(Vec::new());
        };
        let parts = || {
            let statement = "SELECT number, entry FROM thali_history \
                             WHERE project_id = ? AND number <= ? AND number >= ? ORDER BY number DESC, part";
            let query = place.query(statement).bind(project).bind(newest);
            query.bind(oldest).fetch_all(database.pool())
        };
        let mut entries: Vec<(i64, Vec<u8>)> = Vec::new();
        for row in again(database, parts).await? {
            let failed = |error| database.failed(error);
            let number: i64 = row.try_get(0).map_err(failed)?;
            let part: &[u8] = row.try_get(1).map_err(failed)?;
            match entries.last_mut() {
                Some((last, bytes)) if *last == number => bytes.extend_from_slice(part),
                _ => entries.push((number, part.to_vec())),
            }
        }
        let entries = entries.into_iter();
        entries
            .map(|(_, bytes)| HistoryEntry::decode(bytes.into()))
            .collect()
    }

    async fn check(&self) -> Result<()> {
        self.primary.database.check().await?;
        match &self.replica {
            Some(replica) => replica.database.check().await,
            None => Ok(()),
        }
    }
}

/// Asks once more when the connection broke.
async fn again<T, F>(database: &Database, ask: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = Result<T, sqlx::Error>>,
{
    match database.retried(ask).await {
        Ok(answer) => Ok(answer),
        Err(error) => Err(database.explained(error).await),
    }
}

#[cfg(test)]
mod tests;
