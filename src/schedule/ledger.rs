//! The ledger of runs: what was started, how far it came, how it ended; and the leases that keep two
//! processes from materializing the same view at once.
//!
//! It is a few tables in a database all processes of a deployment share. A run is `running` only while
//! its process renews it; a run whose process died is reported as failed. Times are the database's, so
//! that processes need not agree on the time.

mod archive;
mod process;
mod progress;
mod run;

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{Row, any::AnyRow};
use tokio::{
    sync::OnceCell,
    time::{Instant, sleep, timeout_at},
};
use uuid::Uuid;

pub use self::progress::Counts;
pub use self::run::{NewRun, Run, RunFilter, RunState, Trigger};
use crate::{
    database::{Database, Engine, Migration},
    error::{Error, Kind, Result},
};

const TABLE: &str = "thali_jobs_migrations";

/// Runs and what else is known of them; those of an older thali have nothing more.
const RUNS: &str = "SELECT thali_runs.*, thali_progress.rows_resumed, thali_progress.chunks \
     FROM thali_runs LEFT JOIN thali_progress ON run_id = id";

/// How long a lease and a run stay alive without being renewed.
pub const LEASE: Duration = Duration::from_secs(30);
/// How soon a lease that could not be renewed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// What is kept of an error, in characters.
const LONGEST_ERROR: usize = 4_000;

/// The right to materialize one view, held until it expires or is released.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub name: String,
    pub holder: String,
    /// Grows with every holder.
    pub epoch: i64,
    /// When it was asked for, by this process's steady clock: from then it lasts [`LEASE`].
    taken: Instant,
}

/// The ledger in a database. Its tables are made, or brought up to date, when it is first used: who
/// materializes nothing needs no right to make them.
#[derive(Debug)]
pub struct Ledger {
    database: Database,
    migrated: OnceCell<()>,
}

impl Ledger {
    /// The ledger in `database`.
    pub fn new(database: Database) -> Self {
        Self {
            database,
            migrated: OnceCell::new(),
        }
    }

    async fn database(&self) -> Result<&Database> {
        let migrate = || async {
            macro_rules! of_engine {
                ($folder:literal) => {
                    [
                        include_str!(concat!("../../migrations/jobs/", $folder, "/0001_runs.sql")),
                        include_str!(concat!(
                            "../../migrations/jobs/",
                            $folder,
                            "/0002_progress.sql"
                        )),
                    ]
                };
            }
            let [runs, progress] = match self.database.engine() {
                Engine::Sqlite => of_engine!("sqlite"),
                Engine::Postgres => of_engine!("postgres"),
                Engine::MySql => of_engine!("mysql"),
            };
            let migrations: [Migration; 2] = [(1, "runs", runs), (2, "progress", progress)];
            let migrated = self.database.migrate(TABLE, &migrations).await;
            migrated.map_err(|error| error.context("the job ledger cannot be opened"))
        };
        self.migrated.get_or_try_init(migrate).await?;
        Ok(&self.database)
    }

    /// Records a run as running and answers its id; `None` when its slot was taken by another.
    ///
    /// # Errors
    /// `Unavailable` when the ledger cannot be written.
    pub async fn start(&self, run: &NewRun) -> Result<Option<String>> {
        let id = Uuid::now_v7().to_string();
        let now = self.database.now();
        let statement = format!(
            "INSERT INTO thali_runs \
             (id, project, feature_view, kind, \"trigger\", slot, state, started_at, heartbeat_at) \
             VALUES (?, ?, ?, ?, ?, ?, 'running', {now}, {now})"
        );
        let values = [
            text(&id),
            text(&run.project),
            text(&run.feature_view),
            text(run.kind),
            text(run.trigger.name()),
            Value::Number(run.slot.map(|slot| slot.timestamp_micros())),
        ];
        match self.write(&statement, &values).await {
            Ok(_) => {
                let progress = "INSERT INTO thali_progress (run_id) VALUES (?)";
                match self.write(progress, &[text(&id)]).await {
                    Ok(_) | Err(Failure::Duplicate) => Ok(Some(id)),
                    Err(Failure::Other(error)) => Err(error),
                }
            }
            // The slot is taken, perhaps by this very run: the connection broke after it was written.
            Err(Failure::Duplicate) => {
                let own = self
                    .read("SELECT id FROM thali_runs WHERE id = ?", &[text(&id)])
                    .await?;
                Ok((!own.is_empty()).then_some(id))
            }
            Err(Failure::Other(error)) => Err(error),
        }
    }

    /// Writes a run's window once it is known.
    ///
    /// # Errors
    /// `Unavailable` when the ledger cannot be written.
    pub async fn set_window(&self, id: &str, start: DateTime<Utc>, end: DateTime<Utc>) -> Result<()> {
        let statement = "UPDATE thali_runs SET window_start = ?, window_end = ? WHERE id = ?";
        let values = [
            number(start.timestamp_micros()),
            number(end.timestamp_micros()),
            text(id),
        ];
        self.write(statement, &values).await?;
        Ok(())
    }

    /// Closes a run.
    ///
    /// # Errors
    /// `Unavailable` when the ledger cannot be written.
    pub async fn finish(&self, id: &str, state: RunState, counts: Counts, error: Option<&str>) -> Result<()> {
        let statement = format!(
            "UPDATE thali_runs SET state = ?, ended_at = {}, rows_read = ?, rows_written = ?, error = ? \
             WHERE id = ?",
            self.database.now()
        );
        let values = [
            text(state.name()),
            count(counts.read),
            count(counts.written),
            Value::Text(error.map(|error| error.chars().take(LONGEST_ERROR).collect())),
            text(id),
        ];
        self.write_progress(id, counts).await?;
        self.write(&statement, &values).await?;
        Ok(())
    }

    /// Runs, newest first. Runs whose process stopped renewing them are closed as failed first.
    ///
    /// # Errors
    /// `Unavailable` when the ledger cannot be read.
    pub async fn runs(&self, filter: &RunFilter) -> Result<Vec<Run>> {
        self.close_abandoned().await?;
        let mut statement = format!("{RUNS} WHERE 1 = 1");
        let mut values = Vec::new();
        for (column, wanted) in [
            ("project", &filter.project),
            ("feature_view", &filter.feature_view),
        ] {
            if let Some(wanted) = wanted {
                statement.push_str(&format!(" AND {column} = ?"));
                values.push(text(wanted));
            }
        }
        statement.push_str(" ORDER BY started_at DESC, id DESC LIMIT ?");
        values.push(number(if filter.limit == 0 {
            100
        } else {
            i64::from(filter.limit)
        }));
        let rows = self.read(&statement, &values).await?;
        rows.iter().map(|row| self.run(row)).collect()
    }

    /// The newest scheduled run of a view.
    ///
    /// # Errors
    /// `Unavailable` when the ledger cannot be read.
    pub async fn last_scheduled(&self, project: &str, feature_view: &str) -> Result<Option<Run>> {
        let statement = format!(
            "{RUNS} WHERE project = ? AND feature_view = ? AND slot IS NOT NULL ORDER BY slot DESC LIMIT 1"
        );
        let rows = self
            .read(&statement, &[text(project), text(feature_view)])
            .await?;
        rows.first().map(|row| self.run(row)).transpose()
    }

    /// Takes the lease for a run if nobody holds it; `None` when somebody does. A holder that is known to
    /// have been killed holds nothing, and its run is closed.
    ///
    /// # Errors
    /// `Unavailable` when the ledger cannot be written.
    pub async fn acquire(&self, name: &str, run: &str) -> Result<Option<Lease>> {
        let taken = Instant::now();
        let now = self.database.now();
        let expiry = format!("{now} + {}", LEASE.as_micros());
        let holder = match process::mark() {
            Some(mark) => format!("{run} {mark}"),
            None => run.to_owned(),
        };
        let look = format!(
            "SELECT epoch, holder, CASE WHEN expires_at < {now} THEN 1 ELSE 0 END AS free \
             FROM thali_leases WHERE name = ?"
        );
        let found = self.read(&look, &[text(name)]).await?;
        let (epoch, written) = match found.first() {
            None => {
                let insert = format!(
                    "INSERT INTO thali_leases (name, holder, epoch, expires_at) VALUES (?, ?, 1, {expiry})"
                );
                (1, self.write(&insert, &[text(name), text(&holder)]).await)
            }
            Some(row) => {
                let (held, by): (i64, String) = (self.get(row, "epoch")?, self.get(row, "holder")?);
                let mut unchanged = format!(" AND expires_at < {now}");
                if self.get::<i64>(row, "free")? == 0 {
                    unchanged.clear();
                    match by.split_once(' ') {
                        Some((gone, mark)) if process::is_gone(mark) => {
                            self.close("id = ?", &[text(gone)]).await?
                        }
                        _ => return Ok(None),
                    }
                }
                // The epoch says that nobody came in between.
                let take = format!(
                    "UPDATE thali_leases SET holder = ?, epoch = epoch + 1, expires_at = {expiry} \
                     WHERE name = ? AND epoch = ? AND holder = ?{unchanged}"
                );
                let values = [text(&holder), text(name), number(held), text(&by)];
                (held + 1, self.write(&take, &values).await)
            }
        };
        let lease = Lease {
            name: name.to_owned(),
            holder,
            epoch,
            taken,
        };
        match written {
            Ok(rows) => Ok((rows > 0).then_some(lease)),
            Err(Failure::Duplicate) => Ok(None),
            Err(Failure::Other(error)) => Err(error),
        }
    }

    /// Renews a lease; `false` when it was lost.
    ///
    /// # Errors
    /// `Unavailable` when the ledger cannot be written.
    pub async fn renew(&self, lease: &Lease) -> Result<bool> {
        let statement = format!(
            "UPDATE thali_leases SET expires_at = {} + {} WHERE name = ? AND holder = ? AND epoch = ?",
            self.database.now(),
            LEASE.as_micros()
        );
        let values = [text(&lease.name), text(&lease.holder), number(lease.epoch)];
        Ok(self.write(&statement, &values).await? > 0)
    }

    /// Renews a lease again and again. Ends only when it was lost, or early enough before it could be:
    /// whoever holds it has to stop then.
    pub async fn keep(&self, lease: &Lease) -> Error {
        let mut renewed = lease.taken;
        loop {
            let asked = Instant::now();
            let last_moment = renewed + LEASE * 5 / 6;
            match timeout_at(last_moment, self.renew(lease)).await {
                Ok(Ok(true)) => {
                    renewed = asked;
                    sleep(LEASE / 3).await;
                }
                Ok(Ok(false)) => {
                    return Error::new(
                        Kind::Conflict,
                        format!("the lease `{}` was lost to another run", lease.name),
                    );
                }
                Ok(Err(error)) if Instant::now() + RETRY >= last_moment => return error,
                Ok(Err(_)) => sleep(RETRY).await,
                Err(_elapsed) => {
                    return Error::unavailable(format!(
                        "the lease `{}` cannot be renewed in time: the job ledger does not answer",
                        lease.name
                    ));
                }
            }
        }
    }

    /// Gives a lease back.
    ///
    /// # Errors
    /// `Unavailable` when the ledger cannot be written; the lease then expires by itself.
    pub async fn release(&self, lease: &Lease) -> Result<()> {
        // The row stays, so that epochs keep growing. It is nobody's, so that a renewal that was given up
        // while the database worked on it, and that comes after this, does not bring the lease back.
        let statement = "UPDATE thali_leases SET expires_at = 0, holder = '' \
                         WHERE name = ? AND holder = ? AND epoch = ?";
        let values = [text(&lease.name), text(&lease.holder), number(lease.epoch)];
        self.write(statement, &values).await?;
        Ok(())
    }

    /// Readiness.
    ///
    /// # Errors
    /// `Unavailable` when the ledger cannot be read.
    pub async fn check(&self) -> Result<()> {
        self.database().await?.check().await
    }

    async fn close_abandoned(&self) -> Result<()> {
        let now = self.database.now();
        let abandoned = format!(
            "state = 'running' AND heartbeat_at < {now} - {}",
            LEASE.as_micros()
        );
        // Readers write only when there is something to write.
        let look = format!("SELECT id FROM thali_runs WHERE {abandoned} LIMIT 1");
        if self.read(&look, &[]).await?.is_empty() {
            return Ok(());
        }
        self.close(&abandoned, &[]).await
    }

    /// Closes runs whose process is gone.
    async fn close(&self, which: &str, values: &[Value]) -> Result<()> {
        let close = format!(
            "UPDATE thali_runs SET state = 'failed', ended_at = heartbeat_at, \
             error = 'the process that ran it stopped; run it again' WHERE state = 'running' AND {which}"
        );
        self.write(&close, values).await?;
        Ok(())
    }

    async fn write(&self, statement: &str, values: &[Value]) -> Result<u64, Failure> {
        let database = self.database().await.map_err(Failure::Other)?;
        let done = database
            .retried(|| bound(database.sql(statement), values).execute(database.pool()))
            .await;
        match done {
            Ok(done) => Ok(done.rows_affected()),
            Err(error) if Database::is_duplicate(&error) => Err(Failure::Duplicate),
            Err(error) => Err(Failure::Other(self.failed(error).await)),
        }
    }

    async fn read(&self, statement: &str, values: &[Value]) -> Result<Vec<AnyRow>> {
        let database = self.database().await?;
        let read = database
            .retried(|| bound(database.sql(statement), values).fetch_all(database.pool()))
            .await;
        match read {
            Ok(rows) => Ok(rows),
            Err(error) => Err(self.failed(error).await),
        }
    }

    async fn failed(&self, error: sqlx::Error) -> Error {
        self.database.explained(error).await.context("the job ledger")
    }

    fn get<'r, T>(&self, row: &'r AnyRow, column: &str) -> Result<T>
    where
        T: sqlx::Decode<'r, sqlx::Any> + sqlx::Type<sqlx::Any>,
    {
        row.try_get(column)
            .map_err(|error| self.database.failed(error).context("the job ledger"))
    }

    fn run(&self, row: &AnyRow) -> Result<Run> {
        let time = |column: &str| -> Result<Option<DateTime<Utc>>> {
            let micros: Option<i64> = self.get(row, column)?;
            Ok(micros.and_then(DateTime::from_timestamp_micros))
        };
        let rows = |column: &str| -> Result<u64> {
            let found: Option<i64> = self.get(row, column)?;
            Ok(found
                .and_then(|rows| u64::try_from(rows).ok())
                .unwrap_or_default())
        };
        Ok(Run {
            id: self.get(row, "id")?,
            project: self.get(row, "project")?,
            feature_view: self.get(row, "feature_view")?,
            kind: self.get(row, "kind")?,
            trigger: self.get(row, "trigger")?,
            state: RunState::parse(self.get(row, "state")?),
            slot: time("slot")?,
            window_start: time("window_start")?,
            window_end: time("window_end")?,
            started_at: time("started_at")?.unwrap_or_default(),
            ended_at: time("ended_at")?,
            rows_read: rows("rows_read")?,
            rows_written: rows("rows_written")?,
            rows_resumed: rows("rows_resumed")?,
            chunks: rows("chunks")?,
            error: self.get(row, "error")?,
        })
    }
}

/// Why nothing was written.
#[derive(Debug)]
enum Failure {
    /// The row exists.
    Duplicate,
    Other(Error),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Duplicate => Self::new(Kind::Conflict, "the job ledger has this row already"),
            Failure::Other(error) => error,
        }
    }
}

/// A parameter of a statement.
#[derive(Debug)]
enum Value {
    Text(Option<String>),
    Number(Option<i64>),
}

fn text(text: &str) -> Value {
    Value::Text(Some(text.to_owned()))
}

fn number(number: i64) -> Value {
    Value::Number(Some(number))
}

fn count(rows: u64) -> Value {
    number(i64::try_from(rows).unwrap_or(i64::MAX))
}

fn bound<'q>(
    statement: sqlx::AssertSqlSafe<String>,
    values: &[Value],
) -> sqlx::query::Query<'q, sqlx::Any, sqlx::any::AnyArguments> {
    values
        .iter()
        .fold(sqlx::query(statement), |query, value| match value {
            Value::Text(text) => query.bind(text.clone()),
            Value::Number(number) => query.bind(*number),
        })
}
