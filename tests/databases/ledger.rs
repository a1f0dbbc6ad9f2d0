//! The job ledger: a slot runs once, a lease has one holder, whatever engine keeps them and however many
//! processes ask.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;
use sqlx::Row;
use thali::{
    database::{Database, Engine},
    error::Kind,
    schedule::ledger::{Counts, LEASE, Ledger, NewRun, RunFilter, RunState, Trigger},
};

use crate::servers::{Fresh, on_every_engine, run};

on_every_engine!(
    many_may_open_a_new_ledger_at_once,
    a_slot_is_run_once_however_many_try,
    a_lease_has_one_holder_and_growing_epochs,
    an_expired_lease_goes_to_one_of_many,
    whoever_lost_a_lease_is_told,
    an_abandoned_run_is_reported_as_failed,
    runs_are_kept_as_they_were_written,
    runs_are_listed_newest_first_and_by_what_is_asked,
    a_newer_ledger_is_left_alone,
);

/// Ledgers of as many processes.
async fn ledgers(fresh: &Fresh, count: usize) -> Vec<Arc<Ledger>> {
    join_all((0..count).map(|_| async { Arc::new(Ledger::new(fresh.open().await)) })).await
}

async fn ledger(fresh: &Fresh) -> (Ledger, Database) {
    let database = fresh.open().await;
    (Ledger::new(database.clone()), database)
}

fn new_run(view: &str, slot: Option<DateTime<Utc>>) -> NewRun {
    NewRun {
        project: "p".into(),
        feature_view: view.into(),
        kind: "materialize",
        trigger: Trigger::Schedule,
        slot,
    }
}

fn counts(read: u64, written: u64) -> Counts {
    Counts {
        read,
        written,
        ..Counts::default()
    }
}

/// Makes everything that is timed look as old as two leases.
async fn let_time_pass(database: &Database) {
    let past = (LEASE * 2).as_micros();
    run(
        database,
        &format!("UPDATE thali_runs SET heartbeat_at = heartbeat_at - {past}"),
    )
    .await;
    run(
        database,
        &format!("UPDATE thali_leases SET expires_at = expires_at - {past}"),
    )
    .await;
}

async fn many_may_open_a_new_ledger_at_once(fresh: &Fresh) {
    let ledgers = ledgers(fresh, 8).await;
    let checked = join_all(ledgers.iter().map(|ledger| ledger.check())).await;
    assert!(checked.iter().all(Result::is_ok), "{checked:?}");
}

async fn a_slot_is_run_once_however_many_try(fresh: &Fresh) {
    let ledgers = ledgers(fresh, 4).await;
    for number in 0..5 {
        let slot = Some(Utc::now() + TimeDelta::minutes(number));
        let tries = (0..16).map(|n| {
            let ledger = Arc::clone(&ledgers[n % ledgers.len()]);
            tokio::spawn(async move { ledger.start(&new_run("v", slot)).await.unwrap() })
        });
        let started = join_all(tries).await;
        let started = started.into_iter().filter_map(Result::unwrap).count();
        assert_eq!(started, 1);
        assert!(ledgers[0].start(&new_run("w", slot)).await.unwrap().is_some());
    }
    for _ in 0..2 {
        assert!(ledgers[0].start(&new_run("v", None)).await.unwrap().is_some());
    }
}

async fn a_lease_has_one_holder_and_growing_epochs(fresh: &Fresh) {
    let (ledger, _database) = ledger(fresh).await;
    let first = ledger.acquire("a", "x").await.unwrap().unwrap();
    assert!(ledger.acquire("a", "y").await.unwrap().is_none());
    assert!(ledger.acquire("b", "y").await.unwrap().is_some());
    assert!(ledger.renew(&first).await.unwrap());
    ledger.release(&first).await.unwrap();
    assert!(
        !ledger.renew(&first).await.unwrap(),
        "a renewal that comes late does not bring a lease back"
    );
    let second = ledger.acquire("a", "y").await.unwrap().unwrap();
    assert!(second.epoch > first.epoch);
    assert!(!ledger.renew(&first).await.unwrap());
    ledger.release(&first).await.unwrap();
    assert!(
        ledger.acquire("a", "x").await.unwrap().is_none(),
        "only its holder releases it"
    );
}

async fn an_expired_lease_goes_to_one_of_many(fresh: &Fresh) {
    let ledgers = ledgers(fresh, 4).await;
    let database = fresh.open().await;
    for round in 1..=5 {
        let tries = (0..16).map(|n| {
            let ledger = Arc::clone(&ledgers[n % ledgers.len()]);
            tokio::spawn(async move { ledger.acquire("a", &format!("holder {n}")).await.unwrap() })
        });
        let taken = join_all(tries).await;
        let taken: Vec<_> = taken.into_iter().filter_map(Result::unwrap).collect();
        assert_eq!(taken.len(), 1, "{taken:?}");
        assert_eq!(taken[0].epoch, round);
        let_time_pass(&database).await;
    }
}

async fn whoever_lost_a_lease_is_told(fresh: &Fresh) {
    let (ledger, database) = ledger(fresh).await;
    let first = ledger.acquire("a", "x").await.unwrap().unwrap();
    let_time_pass(&database).await;
    assert!(ledger.acquire("a", "y").await.unwrap().is_some());
    assert_eq!(ledger.keep(&first).await.kind(), Kind::Conflict);
}

async fn an_abandoned_run_is_reported_as_failed(fresh: &Fresh) {
    let (ledger, database) = ledger(fresh).await;
    let alive = ledger.start(&new_run("alive", None)).await.unwrap().unwrap();
    ledger.start(&new_run("dead", None)).await.unwrap().unwrap();
    let_time_pass(&database).await;
    ledger.heartbeat(&alive, counts(1, 1)).await.unwrap();
    let runs = ledger.runs(&RunFilter::default()).await.unwrap();
    let states: Vec<_> = runs
        .iter()
        .map(|run| (run.feature_view.as_str(), run.state))
        .collect();
    assert_eq!(states, [("dead", RunState::Failed), ("alive", RunState::Running)]);
    assert!(runs[0].error.is_some() && runs[0].ended_at.is_some());
}

async fn runs_are_kept_as_they_were_written(fresh: &Fresh) {
    let (ledger, _database) = ledger(fresh).await;
    let moment = |micros| DateTime::from_timestamp_micros(micros).unwrap();
    let (slot, from, to) = (
        moment(1_700_000_000_123_456),
        moment(-1),
        moment(253_402_300_799_999_999),
    );
    let view = "Straße 'x' \"y\" 🚕".to_owned();
    let before = Utc::now() - TimeDelta::seconds(1);
    let id = ledger.start(&new_run(&view, Some(slot))).await.unwrap().unwrap();
    ledger.set_window(&id, from, to).await.unwrap();
    ledger.heartbeat(&id, counts(7, 5)).await.unwrap();
    let error = "é".repeat(10_000);
    ledger
        .finish(&id, RunState::Failed, counts(u64::MAX, 9), Some(&error))
        .await
        .unwrap();
    ledger.heartbeat(&id, counts(1, 1)).await.unwrap();
    let run = ledger.last_scheduled("p", &view).await.unwrap().unwrap();
    assert_eq!(
        (run.id.as_str(), run.feature_view.as_str()),
        (id.as_str(), view.as_str())
    );
    assert_eq!(
        (run.slot, run.window_start, run.window_end),
        (Some(slot), Some(from), Some(to))
    );
    assert_eq!(
        (run.rows_read, run.rows_written),
        (u64::try_from(i64::MAX).unwrap(), 9)
    );
    assert_eq!(
        (run.state, run.trigger.as_str(), run.kind.as_str()),
        (RunState::Failed, "schedule", "materialize")
    );
    assert!(error.starts_with(run.error.as_deref().unwrap()));
    assert!(run.started_at > before && run.ended_at.unwrap() >= run.started_at);
    // Names that only a case or an accent tells apart are two names.
    assert!(ledger.last_scheduled("P", &view).await.unwrap().is_none());
    assert!(
        ledger
            .start(&new_run(&view.to_lowercase(), Some(slot)))
            .await
            .unwrap()
            .is_some()
    );
}

async fn runs_are_listed_newest_first_and_by_what_is_asked(fresh: &Fresh) {
    let (ledger, _database) = ledger(fresh).await;
    for view in ["a", "b", "a"] {
        ledger.start(&new_run(view, None)).await.unwrap().unwrap();
    }
    let list = async |project: Option<&str>, feature_view: Option<&str>, limit| {
        let filter = RunFilter {
            project: project.map(str::to_owned),
            feature_view: feature_view.map(str::to_owned),
            limit,
        };
        let runs = ledger.runs(&filter).await.unwrap();
        runs.into_iter().map(|run| run.feature_view).collect::<String>()
    };
    assert_eq!(list(None, None, 0).await, "aba");
    assert_eq!(list(Some("p"), Some("a"), 0).await, "aa");
    assert_eq!(list(Some("p"), None, 2).await, "ab");
    assert_eq!(list(Some("q"), None, 0).await, "");
}

async fn a_newer_ledger_is_left_alone(fresh: &Fresh) {
    let (ledger, database) = ledger(fresh).await;
    ledger.check().await.unwrap();
    run(
        &database,
        "INSERT INTO thali_jobs_migrations (version, name, applied_at) VALUES (99, 'future', 0)",
    )
    .await;
    let error = Ledger::new(fresh.open().await).check().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    assert!(error.message().contains("is at version 99"), "{error}");
}

/// The file an older thali left, whose migrations were kept by sqlx.
#[tokio::test]
async fn an_older_file_is_opened() {
    let fresh = Fresh::new(Engine::Sqlite).await;
    let database = fresh.open().await;
    run(
        &database,
        "CREATE TABLE thali_runs (id TEXT PRIMARY KEY, project TEXT NOT NULL, feature_view TEXT NOT NULL, \
         kind TEXT NOT NULL, trigger TEXT NOT NULL, slot INTEGER, state TEXT NOT NULL, window_start INTEGER, \
         window_end INTEGER, started_at INTEGER NOT NULL, heartbeat_at INTEGER NOT NULL, ended_at INTEGER, \
         rows_read INTEGER NOT NULL DEFAULT 0, rows_written INTEGER NOT NULL DEFAULT 0, error TEXT); \
         CREATE UNIQUE INDEX thali_runs_slot ON thali_runs (project, feature_view, slot) WHERE slot IS NOT NULL; \
         CREATE TABLE thali_leases (name TEXT PRIMARY KEY, holder TEXT NOT NULL, epoch INTEGER NOT NULL, \
         expires_at INTEGER NOT NULL); \
         INSERT INTO thali_runs (id, project, feature_view, kind, trigger, state, started_at, heartbeat_at) \
         VALUES ('old', 'p', 'v', 'materialize', 'cli', 'succeeded', 1, 1)",
    )
    .await;
    let ledger = Ledger::new(database.clone());
    let runs = ledger.runs(&RunFilter::default()).await.unwrap();
    assert_eq!(runs[0].id, "old");
    assert!(ledger.start(&new_run("v", None)).await.unwrap().is_some());
    let versions = sqlx::query("SELECT MAX(version) FROM thali_jobs_migrations");
    let row = versions.fetch_one(database.pool()).await.unwrap();
    assert_eq!(row.get::<i64, _>(0), 2);
}
