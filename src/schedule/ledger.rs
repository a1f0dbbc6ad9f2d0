//! The ledger of runs: what was started, how far it came, how it ended; and the leases that keep two
//! processes from materializing the same view at once.
//!
//! It is a SQLite database of thali's own beside the registry, shared by every process of a host. A
//! run is `running` only while its process renews it; a run whose process died is reported as failed.

use std::{path::Path, time::Duration};

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{
    Row, SqlitePool,
    migrate::{Migration, MigrationType, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow},
};
use uuid::Uuid;

use crate::error::{Error, Kind, Result};

/// How long a lease and a run stay alive without being renewed.
pub const LEASE: Duration = Duration::from_secs(30);

/// What started a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Trigger {
    Cli,
    Http,
    Schedule,
}

impl Trigger {
    fn name(self) -> &'static str {
        match self {
            Self::Cli => "cli",
            Self::Http => "http",
            Self::Schedule => "schedule",
        }
    }
}

/// How a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

impl RunState {
    fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    fn parse(text: &str) -> Self {
        match text {
            "running" => Self::Running,
            "succeeded" => Self::Succeeded,
            "cancelled" => Self::Cancelled,
            _ => Self::Failed,
        }
    }
}

/// A run that is about to start.
#[derive(Debug, Clone)]
pub struct NewRun {
    pub project: String,
    pub feature_view: String,
    /// `materialize` or `materialize-incremental`.
    pub kind: &'static str,
    pub trigger: Trigger,
    /// The scheduled moment it stands for; a second run of the same slot is refused.
    pub slot: Option<DateTime<Utc>>,
}

/// A run as kept, in the shape the jobs page shows.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    pub id: String,
    pub project: String,
    pub feature_view: String,
    pub kind: String,
    pub trigger: String,
    pub state: RunState,
    #[serde(skip)]
    pub slot: Option<DateTime<Utc>>,
    pub window_start: Option<DateTime<Utc>>,
    pub window_end: Option<DateTime<Utc>>,
    pub started_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    pub rows_read: u64,
    pub rows_written: u64,
    pub error: Option<String>,
}

/// Which runs to list.
#[derive(Debug, Clone, Default)]
pub struct RunFilter {
    pub project: Option<String>,
    pub feature_view: Option<String>,
    /// 0 lists 100.
    pub limit: u32,
}

/// The right to materialize one view, held until it expires or is released.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub name: String,
    pub holder: String,
    pub epoch: i64,
}

/// An opened ledger.
#[derive(Debug, Clone)]
pub struct Ledger {
    pool: SqlitePool,
}

impl Ledger {
    /// Opens or creates the ledger at `path` and brings its tables up to date.
    ///
    /// # Errors
    /// `Unavailable` naming the file when it cannot be opened, `Config` when a newer thali wrote it.
    pub async fn open(path: &Path) -> Result<Self> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|error| {
                Error::unavailable(format!("cannot create `{}`: {error}", parent.display()))
            })?;
        }
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .busy_timeout(Duration::from_secs(10));
        let pool = SqlitePoolOptions::new()
            .max_connections(4)
            .connect_with(options)
            .await
            .map_err(|error| cannot_open(path, &error))?;
        // Processes of one deployment start together; whoever comes first migrates, the others wait for it.
        let mut alone = pool
            .begin_with("BEGIN IMMEDIATE")
            .await
            .map_err(|error| cannot_open(path, &error))?;
        migrator().run(&mut *alone).await.map_err(|error| {
            Error::config(format!(
                "the job ledger `{}` cannot be brought up to date: {error}",
                path.display()
            ))
            .hint("a newer thali may have written it; run that version or move the file away")
        })?;
        alone.commit().await.map_err(|error| cannot_open(path, &error))?;
        Ok(Self { pool })
    }

    /// Records a run as running and answers its id; `None` when its slot was taken by another.
    ///
    /// # Errors
    /// `Unavailable` when the ledger cannot be written.
    pub async fn start(&self, run: &NewRun) -> Result<Option<String>> {
        let id = Uuid::now_v7().to_string();
        let now = Utc::now().timestamp_micros();
        let inserted = sqlx::query(
            "INSERT INTO thali_runs (id, project, feature_view, kind, trigger, slot, state, started_at, heartbeat_at) \
             VALUES (?, ?, ?, ?, ?, ?, 'running', ?, ?) ON CONFLICT DO NOTHING",
        )
        .bind(&id)
        .bind(&run.project)
        .bind(&run.feature_view)
        .bind(run.kind)
        .bind(run.trigger.name())
        .bind(run.slot.map(|slot| slot.timestamp_micros()))
        .bind(now)
        .bind(now)
        .execute(&self.pool)
        .await
        .map_err(|error| failed(&error))?;
        Ok((inserted.rows_affected() > 0).then_some(id))
    }

    /// Writes a run's window once it is known.
    ///
    /// # Errors
    /// `Unavailable` when the ledger cannot be written.
    pub async fn set_window(&self, id: &str, start: DateTime<Utc>, end: DateTime<Utc>) -> Result<()> {
        sqlx::query("UPDATE thali_runs SET window_start = ?, window_end = ? WHERE id = ?")
            .bind(start.timestamp_micros())
            .bind(end.timestamp_micros())
            .bind(id)
            .execute(&self.pool)
            .await
            .map_err(|error| failed(&error))?;
        Ok(())
    }

    /// Writes a run's counts and shows that its process lives.
    ///
    /// # Errors
    /// `Unavailable` when the ledger cannot be written.
    pub async fn heartbeat(&self, id: &str, rows_read: u64, rows_written: u64) -> Result<()> {
        sqlx::query(
            "UPDATE thali_runs SET heartbeat_at = ?, rows_read = ?, rows_written = ? \
             WHERE id = ? AND state = 'running'",
        )
        .bind(Utc::now().timestamp_micros())
        .bind(count(rows_read))
        .bind(count(rows_written))
        .bind(id)
        .execute(&self.pool)
        .await
        .map_err(|error| failed(&error))?;
        Ok(())
    }

    /// Closes a run.
    ///
    /// # Errors
    /// `Unavailable` when the ledger cannot be written.
    pub async fn finish(
        &self,
        id: &str,
        state: RunState,
        rows: (u64, u64),
        error: Option<&str>,
    ) -> Result<()> {
        sqlx::query(
            "UPDATE thali_runs SET state = ?, ended_at = ?, rows_read = ?, rows_written = ?, error = ? WHERE id = ?",
        )
        .bind(state.name())
        .bind(Utc::now().timestamp_micros())
        .bind(count(rows.0))
        .bind(count(rows.1))
        .bind(error)
        .bind(id)
        .execute(&self.pool)
        .await
        .map_err(|error| failed(&error))?;
        Ok(())
    }

    /// Runs, newest first. Runs whose process stopped renewing them are closed as failed first.
    ///
    /// # Errors
    /// `Unavailable` when the ledger cannot be read.
    pub async fn runs(&self, filter: &RunFilter) -> Result<Vec<Run>> {
        self.close_abandoned().await?;
        let limit = if filter.limit == 0 { 100 } else { filter.limit };
        let rows = sqlx::query(
            "SELECT * FROM thali_runs WHERE (?1 IS NULL OR project = ?1) AND (?2 IS NULL OR feature_view = ?2) \
             ORDER BY started_at DESC, id DESC LIMIT ?3",
        )
        .bind(&filter.project)
        .bind(&filter.feature_view)
        .bind(limit)
        .fetch_all(&self.pool)
        .await
        .map_err(|error| failed(&error))?;
        Ok(rows.iter().map(run).collect())
    }

    /// The newest scheduled run of a view.
    ///
    /// # Errors
    /// `Unavailable` when the ledger cannot be read.
    pub async fn last_scheduled(&self, project: &str, feature_view: &str) -> Result<Option<Run>> {
        let row = sqlx::query(
            "SELECT * FROM thali_runs WHERE project = ? AND feature_view = ? AND slot IS NOT NULL \
             ORDER BY slot DESC LIMIT 1",
        )
        .bind(project)
        .bind(feature_view)
        .fetch_optional(&self.pool)
        .await
        .map_err(|error| failed(&error))?;
        Ok(row.as_ref().map(run))
    }

    /// Takes the lease if nobody holds it; `None` when somebody does.
    ///
    /// # Errors
    /// `Unavailable` when the ledger cannot be written.
    pub async fn acquire(&self, name: &str, holder: &str) -> Result<Option<Lease>> {
        let now = Utc::now();
        let row = sqlx::query(
            "INSERT INTO thali_leases (name, holder, epoch, expires_at) VALUES (?1, ?2, 1, ?3) \
             ON CONFLICT (name) DO UPDATE SET holder = ?2, epoch = epoch + 1, expires_at = ?3 \
             WHERE expires_at < ?4 RETURNING epoch",
        )
        .bind(name)
        .bind(holder)
        .bind((now + LEASE).timestamp_micros())
        .bind(now.timestamp_micros())
        .fetch_optional(&self.pool)
        .await
        .map_err(|error| failed(&error))?;
        Ok(row.map(|row| Lease {
            name: name.to_owned(),
            holder: holder.to_owned(),
            epoch: row.get(0),
        }))
    }

    /// Renews a lease; `false` when it was lost.
    ///
    /// # Errors
    /// `Unavailable` when the ledger cannot be written.
    pub async fn renew(&self, lease: &Lease) -> Result<bool> {
        let renewed =
            sqlx::query("UPDATE thali_leases SET expires_at = ? WHERE name = ? AND holder = ? AND epoch = ?")
                .bind((Utc::now() + LEASE).timestamp_micros())
                .bind(&lease.name)
                .bind(&lease.holder)
                .bind(lease.epoch)
                .execute(&self.pool)
                .await
                .map_err(|error| failed(&error))?;
        Ok(renewed.rows_affected() > 0)
    }

    /// Gives a lease back.
    ///
    /// # Errors
    /// `Unavailable` when the ledger cannot be written; the lease then expires by itself.
    pub async fn release(&self, lease: &Lease) -> Result<()> {
        // The row stays, so that epochs keep growing.
        sqlx::query("UPDATE thali_leases SET expires_at = 0 WHERE name = ? AND holder = ? AND epoch = ?")
            .bind(&lease.name)
            .bind(&lease.holder)
            .bind(lease.epoch)
            .execute(&self.pool)
            .await
            .map_err(|error| failed(&error))?;
        Ok(())
    }

    /// Readiness.
    ///
    /// # Errors
    /// `Unavailable` when the ledger cannot be read.
    pub async fn check(&self) -> Result<()> {
        sqlx::query("SELECT 1")
            .execute(&self.pool)
            .await
            .map_err(|error| failed(&error))?;
        Ok(())
    }

    async fn close_abandoned(&self) -> Result<()> {
        let now = Utc::now();
        sqlx::query(
            "UPDATE thali_runs SET state = 'failed', ended_at = heartbeat_at, \
             error = 'the process that ran it stopped; run it again' \
             WHERE state = 'running' AND heartbeat_at < ?",
        )
        .bind((now - LEASE).timestamp_micros())
        .execute(&self.pool)
        .await
        .map_err(|error| failed(&error))?;
        Ok(())
    }
}

fn migrator() -> Migrator {
    Migrator::with_migrations(vec![Migration::new(
        1,
        "runs".into(),
        MigrationType::Simple,
        sqlx::SqlStr::from_static(include_str!("../../migrations/sqlite/0001_runs.sql")),
        false,
    )])
}

fn run(row: &SqliteRow) -> Run {
    Run {
        id: row.get("id"),
        project: row.get("project"),
        feature_view: row.get("feature_view"),
        kind: row.get("kind"),
        trigger: row.get("trigger"),
        state: RunState::parse(row.get("state")),
        slot: time(row.get("slot")),
        window_start: time(row.get("window_start")),
        window_end: time(row.get("window_end")),
        started_at: time(row.get("started_at")).unwrap_or_default(),
        ended_at: time(row.get("ended_at")),
        rows_read: u64::try_from(row.get::<i64, _>("rows_read")).unwrap_or_default(),
        rows_written: u64::try_from(row.get::<i64, _>("rows_written")).unwrap_or_default(),
        error: row.get("error"),
    }
}

fn time(micros: Option<i64>) -> Option<DateTime<Utc>> {
    micros.and_then(DateTime::from_timestamp_micros)
}

fn count(rows: u64) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

fn cannot_open(path: &Path, error: &sqlx::Error) -> Error {
    Error::unavailable(format!(
        "the job ledger `{}` cannot be opened: {error}",
        path.display()
    ))
    .hint("check that the directory exists and is writable")
}

fn failed(error: &sqlx::Error) -> Error {
    Error::new(
        Kind::Unavailable,
        format!("the job ledger does not answer: {error}"),
    )
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    async fn ledger() -> (tempfile::TempDir, Ledger) {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&folder.path().join("thali.db")).await.unwrap();
        (folder, ledger)
    }

    fn new_run(slot: Option<DateTime<Utc>>) -> NewRun {
        NewRun {
            project: "p".into(),
            feature_view: "v".into(),
            kind: "materialize",
            trigger: Trigger::Schedule,
            slot,
        }
    }

    #[tokio::test]
    async fn many_may_open_a_new_ledger_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("thali.db");
        let opened = futures::future::join_all((0..16).map(|_| Ledger::open(&path))).await;
        for ledger in opened {
            ledger.unwrap();
        }
    }

    #[tokio::test]
    async fn a_slot_is_run_once() {
        let (_folder, ledger) = ledger().await;
        let slot = Some(Utc::now());
        assert!(ledger.start(&new_run(slot)).await.unwrap().is_some());
        assert!(ledger.start(&new_run(slot)).await.unwrap().is_none());
        assert!(ledger.start(&new_run(None)).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_lease_has_one_holder_and_growing_epochs() {
        let (_folder, ledger) = ledger().await;
        let first = ledger.acquire("a", "x").await.unwrap().unwrap();
        assert!(ledger.acquire("a", "y").await.unwrap().is_none());
        assert!(ledger.renew(&first).await.unwrap());
        ledger.release(&first).await.unwrap();
        let second = ledger.acquire("a", "y").await.unwrap().unwrap();
        assert!(second.epoch > first.epoch);
        assert!(!ledger.renew(&first).await.unwrap());
    }

    #[tokio::test]
    async fn an_abandoned_run_is_reported_as_failed() {
        let (_folder, ledger) = ledger().await;
        let id = ledger.start(&new_run(None)).await.unwrap().unwrap();
        let stale = (Utc::now() - LEASE * 2).timestamp_micros();
        sqlx::query("UPDATE thali_runs SET heartbeat_at = ? WHERE id = ?")
            .bind(stale)
            .bind(&id)
            .execute(&ledger.pool)
            .await
            .unwrap();
        let runs = ledger.runs(&RunFilter::default()).await.unwrap();
        assert_eq!(runs[0].state, RunState::Failed);
        assert!(runs[0].error.is_some());
    }
}
