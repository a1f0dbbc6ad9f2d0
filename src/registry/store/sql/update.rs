//! One update is one transaction: lock the project, look, decide, write, commit. What a rival or a broken
//! connection spoils is done again, as long as that cannot do it twice.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use sqlx::{AnyConnection, Row};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    super::{
        Decide, PROJECT_UUID, ProjectState, complete,
        history::{Author, HistoryEntry},
    },
    SqlStore,
    delta::Delta,
    dialect::Place,
    known::{Known, Own},
    read::{new_revision, read},
    schema::TABLES,
    watch::CHANNEL,
    write::{Stop, Written, label, touch, write},
};
use crate::{
    backoff::Backoff,
    database::{Database, Engine, Transaction},
    error::{Error, Kind, Result},
};

/// How long an update tries to get its turn between others.
const CONTENTION: Duration = Duration::from_secs(10);
/// How long an update waits for a database that went away.
const OUTAGE: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);
/// How much of an entry of the history goes into one row.
const PART: usize = 4 << 20;

/// A commit of which it is not known whether it was kept.
struct Unsure {
    writer: String,
    /// Before that commit.
    revision: i64,
}

/// What an update has been through.
struct Course {
    unsure: Option<Unsure>,
    contended: Option<Instant>,
    lost: Option<Instant>,
    backoff: Backoff,
}

impl SqlStore {
    pub(super) async fn run(
        &self,
        project: &str,
        author: Option<&Author>,
        decide: Decide<'_>,
    ) -> Result<Arc<ProjectState>> {
        let mut course = Course {
            unsure: None,
            contended: None,
            lost: None,
            backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
        };
        loop {
            let started = Instant::now();
            match self.attempt(project, author, decide, &mut course.unsure).await {
                Ok(state) => return Ok(state),
                Err(stop) => {
                    let stop = match stop {
                        Stop::Taken { table, names } => self.why_taken(project, table, names).await?,
                        stop => stop,
                    };
                    course.again(&self.primary.database, project, stop, started)?;
                    course.backoff.pause().await;
                }
            }
        }
    }

    async fn attempt(
        &self,
        project: &str,
        author: Option<&Author>,
        decide: Decide<'_>,
        unsure: &mut Option<Unsure>,
    ) -> Result<Arc<ProjectState>, Stop> {
        let place = Place::new(&self.primary.database, project);
        let mut transaction = self.primary.database.begin().await?;
        let own = lock(&mut transaction, place).await?;
        let mut is_done = false;
        // With the lock, it is over in any case: was it kept?
        if let Some(before) = unsure {
            is_done = own.writer == before.writer;
            if !is_done && own.revision > before.revision + 1 {
                return Err(unknown(project).into());
            }
            *unsure = None;
        }
        let cell = self.primary.cell(project);
        let mut known = cell.lock().await;
        let other = self.replica_state(project);
        let known = read(&mut transaction, place, &mut known, other.as_ref()).await?;
        let state = Arc::clone(&known.state);
        if is_done {
            return Ok(state);
        }
        let changes = decide(&state)?;
        let now = Utc::now();
        let changes = if changes.is_empty() {
            changes
        } else {
            complete(&state, changes, now)
        };
        let mut delta = Delta::of(&state, &changes);
        if self.purge {
            delta.metadata.shift_remove(PROJECT_UUID);
        }
        if delta.is_nothing(&state) {
            transaction.rollback().await?;
            self.primary.forget_if_empty(project, &state);
            return Ok(state);
        }
        let mut next = Own {
            revision: own.revision + 1,
            entries: own.entries,
            writer: Uuid::new_v4().to_string(),
        };
        let last_updated = DateTime::from_timestamp(now.timestamp(), 0).filter(|_| !self.purge);
        let mut after = delta.apply(
            &state,
            place.dialect.keeps_order(),
            new_revision(next.revision),
            last_updated,
        );
        if after.is_empty() {
            after.last_updated = None;
        }
        let connection = &mut transaction;
        let marks = &known.marks;
        let written = write(connection, place, &self.limits, &delta, &state, marks, now).await?;
        if after.last_updated.is_some() {
            touch(connection, place, now).await?;
        }
        if let Some(history) = &delta.history {
            next.entries = self.replace_history(connection, place, history).await?;
        }
        if let Some(author) = author
            && let Some(entry) = HistoryEntry::of(&state, &changes, author, number_after(next.entries), now)
            && self.keep > 0
        {
            next.entries += 1;
            self.note(connection, place, &entry).await?;
        }
        sign(connection, place, &next).await?;
        if let Err(error) = transaction.commit().await {
            *unsure = Database::is_disconnect(&error).then_some(Unsure {
                writer: next.writer,
                revision: own.revision,
            });
            return Err(error.into());
        }
        let after = Arc::new(after);
        take_over(known, &after, next, written, delta.wipe);
        self.primary.forget_if_empty(project, &after);
        Ok(after)
    }

    /// Answers the number of the newest entry.
    async fn replace_history(
        &self,
        connection: &mut AnyConnection,
        place: Place<'_>,
        entries: &[HistoryEntry],
    ) -> Result<i64, Stop> {
        let query = place.query("DELETE FROM thali_history WHERE project_id = ?");
        query.bind(place.project).execute(&mut *connection).await?;
        for entry in entries {
            self.note(connection, place, entry).await?;
        }
        let newest = entries.iter().map(|entry| entry.number).max();
        Ok(newest.map_or(0, |newest| i64::try_from(newest).unwrap_or(i64::MAX)))
    }

    /// Adds an entry to the history, and drops those that are too old.
    async fn note(
        &self,
        connection: &mut AnyConnection,
        place: Place<'_>,
        entry: &HistoryEntry,
    ) -> Result<(), Stop> {
        let number = i64::try_from(entry.number).unwrap_or(i64::MAX);
        let bytes = entry.encode(place.project);
        for (part, bytes) in (0_i64..).zip(bytes.chunks(PART)) {
            let statement = "INSERT INTO thali_history (project_id, number, part, at, author, action, entry) \
                             VALUES (?, ?, ?, ?, ?, ?, ?)";
            let query = place.query(statement).bind(place.project).bind(number).bind(part);
            let query = query
                .bind(entry.time.timestamp_micros())
                .bind(&entry.author.name)
                .bind(&entry.author.action);
            query.bind(bytes).execute(&mut *connection).await?;
        }
        let oldest = number.saturating_sub(self.keep);
        if oldest > 0 {
            let statement = "DELETE FROM thali_history WHERE project_id = ? AND number <= ?";
            let query = place.query(statement).bind(place.project).bind(oldest);
            query.execute(connection).await?;
        }
        Ok(())
    }

    /// A name that is taken and was not seen: somebody was faster, or the database takes it for another
    /// one, which no repetition changes.
    async fn why_taken(&self, project: &str, table: usize, names: Vec<String>) -> Result<Stop> {
        let place = Place::new(&self.primary.database, project);
        let Some(kind) = TABLES.get(table).copied() else {
            return Ok(Stop::Overtaken("an object".to_owned()));
        };
        for name in &names {
            // Not the exact comparison of everything else: the one the key makes.
            let statement = format!(
                "SELECT {}, {} FROM {} WHERE {} = ? AND project_id = ?",
                place.dialect.text(kind.key),
                place.dialect.text("project_id"),
                kind.name,
                kind.key
            );
            let query = place.query(&statement).bind(name).bind(project);
            let row = query.fetch_optional(self.primary.database.pool()).await;
            let failed = |error| self.primary.database.failed(error);
            let Some(row) = row.map_err(failed)? else { continue };
            let present: String = row.try_get(0).map_err(failed)?;
            let owner: String = row.try_get(1).map_err(failed)?;
            if present != *name || owner != project {
                return Err(Error::new(
                    Kind::AlreadyExists,
                    format!(
                        "{} of project `{project}` cannot be told from {} of project `{owner}` in the \
                         database `{}`",
                        label(kind, Some(name)),
                        label(kind, Some(&present)),
                        place.database.url()
                    ),
                )
                .hint("its collation takes names for equal that are not; choose another name"));
            }
        }
        let first = names.first().map(String::as_str);
        Ok(Stop::Overtaken(label(kind, first)))
    }
}

impl Course {
    /// Whether there is another attempt after the one that began at `started`.
    fn again(&mut self, database: &Database, project: &str, stop: Stop, started: Instant) -> Result<()> {
        let conflict = |what: String| {
            Error::new(
                Kind::Conflict,
                format!("{what} of project `{project}` keeps changing"),
            )
            .hint("others are writing to the same database; try again")
        };
        let (is_outage, error) = match stop {
            Stop::Final(error) if error.kind() == Kind::Unavailable => (true, error),
            Stop::Final(error) => return Err(error),
            Stop::Overtaken(what) => (false, conflict(what)),
            Stop::Taken { .. } => (false, conflict("an object".to_owned())),
            Stop::Sql(error) if Database::is_disconnect(&error) => (true, database.failed(error)),
            Stop::Sql(error) if Database::is_lost_race(&error) => {
                let error = database.failed(error).context(format!("project `{project}`"));
                (false, Error::new(Kind::Conflict, error.one_line()))
            }
            Stop::Sql(error) => return Err(database.failed(error)),
        };
        let (since, limit) = if is_outage {
            (&mut self.lost, OUTAGE)
        } else {
            (&mut self.contended, CONTENTION)
        };
        if since.get_or_insert(started).elapsed() < limit {
            return Ok(());
        }
        Err(if self.unsure.is_some() {
            unknown(project).source_error(error)
        } else {
            error
        })
    }
}

fn unknown(project: &str) -> Error {
    Error::unavailable(format!(
        "the connection broke while a change of project `{project}` was being committed, and whether it was \
         kept is not known"
    ))
    .hint("look at the project, then apply again if the change is missing")
}

fn number_after(entries: i64) -> u64 {
    u64::try_from(entries).unwrap_or_default() + 1
}

/// Takes the project's turn: until the transaction ends, no other thali writes to it.
async fn lock(transaction: &mut Transaction, place: Place<'_>) -> Result<Own, Stop> {
    let statement = format!(
        "SELECT revision, entries, writer FROM thali_projects WHERE project_id = ?{}",
        place.dialect.for_update()
    );
    for make in [true, false] {
        let query = place.query(&statement).bind(place.project);
        if let Some(row) = query.fetch_optional(&mut **transaction).await? {
            return Ok(Own {
                revision: row.try_get(0)?,
                entries: row.try_get(1)?,
                writer: row.try_get(2)?,
            });
        }
        if make {
            let query = place.query(&place.dialect.make_project()).bind(place.project);
            query.execute(&mut **transaction).await?;
        }
    }
    Err(Error::internal(format!("the row of project `{}` cannot be found", place.project)).into())
}

/// Says in the project's row who changed it last, and tells those who listen.
async fn sign(connection: &mut AnyConnection, place: Place<'_>, own: &Own) -> Result<(), sqlx::Error> {
    let statement = "UPDATE thali_projects SET revision = ?, entries = ?, writer = ? WHERE project_id = ?";
    let query = place.query(statement).bind(own.revision).bind(own.entries);
    let query = query.bind(&own.writer).bind(place.project);
    query.execute(&mut *connection).await?;
    if place.dialect.engine == Engine::Postgres {
        let query = place
            .query("SELECT pg_notify(?, ?)")
            .bind(CHANNEL)
            .bind(place.project);
        query.fetch_all(connection).await?;
    }
    Ok(())
}

fn take_over(known: &mut Known, state: &Arc<ProjectState>, own: Own, written: Written, wipe: bool) {
    known.state = Arc::clone(state);
    known.own = own;
    if wipe {
        known.marks = Default::default();
    }
    for (table, key, mark) in written {
        let Some(marks) = known.marks.get_mut(table) else {
            continue;
        };
        match mark {
            Some(mark) => marks.put(key, mark),
            None => marks.remove(&key),
        }
    }
}
