//! Materialization: a window of a view's history, streamed into the online store.
//!
//! Rows are read in batches, encoded and written while the next batch is read; only a fixed number of
//! batches is in memory, plus 32 bytes for each distinct key of the window, which is how the newest row
//! of a key wins whatever order rows come in. The interval is recorded only after the last row was
//! written, so a run that is killed is done again from where it started, and repeating it changes
//! nothing: stores never go back in event time. Views are served throughout.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use futures::StreamExt as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    context::Context,
    error::{Error, Result},
    metrics::{ViewLabel, ViewStatus},
    model::{FeatureView, Interval, ObjectKind, entity_key},
    offline::store::Pull,
    online::{
        ingest, precompute,
        store::{OlderRow, Table, WriteBatch},
    },
    registry::Catalog,
    schedule::ledger::{LEASE, Lease, NewRun, RunState, Trigger},
};

/// Batches that may wait between the reader and the writer.
const IN_FLIGHT: usize = 2;

/// How far an incremental run of a view without ttl and without earlier runs looks back
/// (`feast/feature_store.py`, `materialize_incremental`).
const FIRST_LOOK_BACK: TimeDelta = TimeDelta::weeks(52);

/// Which event times to materialize; both ends belong to the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    Between {
        start: DateTime<Utc>,
        end: DateTime<Utc>,
    },
    /// From where the view's last run ended.
    Incremental { end: DateTime<Utc> },
}

/// Is told how a run goes. Calls must not block.
pub trait Progress: Send + Sync {
    fn view_started(&self, view: &str, start: DateTime<Utc>, end: DateTime<Utc>);
    fn rows(&self, view: &str, read: u64, written: u64);
    fn view_finished(&self, report: &Report);
}

/// What to materialize.
#[derive(Clone)]
pub struct Request {
    pub project: String,
    /// Empty means every enabled online view.
    pub views: Vec<String>,
    pub window: Window,
    pub trigger: Trigger,
    /// The scheduled moment this run stands for.
    pub slot: Option<DateTime<Utc>>,
    /// Whether rows older than the stored ones overwrite them.
    pub older: OlderRow,
    pub progress: Option<Arc<dyn Progress>>,
}

impl Request {
    /// A request for `views` without schedule, progress or backfill.
    pub fn new(project: &str, views: Vec<String>, window: Window, trigger: Trigger) -> Self {
        Self {
            project: project.to_owned(),
            views,
            window,
            trigger,
            slot: None,
            older: OlderRow::Skip,
            progress: None,
        }
    }
}

/// What a run did for one view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub view: String,
    pub start: DateTime<Utc>,
    pub end: DateTime<Utc>,
    pub rows_read: u64,
    pub rows_written: u64,
    pub elapsed: Duration,
}

/// Materializes the views one after the other; a view that another process materializes is waited for.
///
/// # Errors
/// Bad views and windows are refused before anything is read. A view that fails stops the run; the
/// views before it keep what was recorded.
pub async fn run(context: &Context, request: Request, cancel: CancellationToken) -> Result<Vec<Report>> {
    let catalog = context.registry.fresh_catalog(&request.project).await?;
    let views = chosen(&catalog, &request.views)?;
    if let Window::Between { start, end } = request.window
        && start > end
    {
        return Err(Error::invalid(format!(
            "The given start_date {start} is greater than the given end_date {end}."
        )));
    }
    let mut reports = Vec::with_capacity(views.len());
    for view in views {
        if let Some(report) = run_view(context, &request, &view, &cancel).await? {
            reports.push(report);
        }
    }
    let written: Vec<&str> = reports.iter().map(|report| report.view.as_str()).collect();
    precompute::Maker::new(context, &catalog)
        .after_materialization(&written)
        .await?;
    Ok(reports)
}

/// The views a request without or with names means, before anything is read.
///
/// # Errors
/// `FeatureViewNotFound`, or `InvalidArgument` for a view that is not served online.
pub fn chosen(catalog: &Catalog, names: &[String]) -> Result<Vec<Arc<FeatureView>>> {
    if names.is_empty() {
        let all = catalog.stored_views().into_iter();
        return Ok(all
            .filter(|view| view.online && view.enabled && view.kind != ObjectKind::LabelView)
            .filter(|view| view.batch_source.is_some())
            .cloned()
            .collect());
    }
    let mut views = Vec::with_capacity(names.len());
    for name in names {
        let view = catalog.stored_view(name)?;
        if !view.online {
            return Err(Error::invalid(format!(
                "FeatureView {name} is not configured to be served online."
            )));
        }
        if !view.enabled {
            return Err(Error::invalid(format!("feature view `{name}` is disabled")).hint("enable it first"));
        }
        if view.batch_source.is_none() {
            return Err(Error::invalid(format!(
                "feature view `{name}` has no batch source to materialize from"
            )));
        }
        views.push(Arc::clone(view));
    }
    Ok(views)
}

/// Where an incremental run of `view` starts.
pub fn incremental_start(view: &FeatureView, now: DateTime<Utc>) -> DateTime<Utc> {
    view.materialized_until().unwrap_or_else(|| {
        let back = view
            .ttl
            .and_then(|ttl| TimeDelta::from_std(ttl).ok())
            .unwrap_or(FIRST_LOOK_BACK);
        now - back
    })
}

/// Runs one view under its lease and keeps the ledger; `None` when its slot was taken by another.
async fn run_view(
    context: &Context,
    request: &Request,
    view: &Arc<FeatureView>,
    cancel: &CancellationToken,
) -> Result<Option<Report>> {
    let kind = match request.window {
        Window::Between { .. } => "materialize",
        Window::Incremental { .. } => "materialize-incremental",
    };
    let new = NewRun {
        project: request.project.clone(),
        feature_view: view.name.clone(),
        kind,
        trigger: request.trigger,
        slot: request.slot,
    };
    let Some(id) = context.ledger.start(&new).await? else {
        return Ok(None);
    };
    let rows = Arc::new(Rows::default());
    let run = Run {
        context: context.clone(),
        request: request.clone(),
        view: Arc::clone(view),
        id: id.clone(),
        rows: Arc::clone(&rows),
        stop: cancel.child_token(),
    };
    let outcome = context
        .background
        .run(async move {
            tokio::select! {
                outcome = run.leased() => outcome,
                error = run.keep_alive() => Err(error),
            }
        })
        .await;
    let counts = rows.get();
    let (state, text) = match &outcome {
        Ok(_) => (RunState::Succeeded, None),
        Err(_) if cancel.is_cancelled() => (RunState::Cancelled, Some("cancelled".to_owned())),
        Err(error) => (RunState::Failed, Some(error.one_line())),
    };
    context.ledger.finish(&id, state, counts, text.as_deref()).await?;
    let status = if outcome.is_ok() { "success" } else { "failure" };
    context
        .metrics
        .materializations
        .get_or_create(&ViewStatus {
            feature_view: view.name.clone(),
            status,
        })
        .inc();
    let report = outcome.map_err(|error| error.context(format!("materializing `{}`", view.name)))?;
    let label = ViewLabel {
        feature_view: view.name.clone(),
    };
    context
        .metrics
        .materialization_duration
        .get_or_create(&label)
        .observe(report.elapsed.as_secs_f64());
    context
        .metrics
        .materialized_rows
        .get_or_create(&label)
        .inc_by(report.rows_written);
    if let Some(progress) = &request.progress {
        progress.view_finished(&report);
    }
    Ok(Some(report))
}

/// Counts shared with whoever shows them.
#[derive(Debug, Default)]
struct Rows {
    read: AtomicU64,
    written: AtomicU64,
}

impl Rows {
    fn get(&self) -> (u64, u64) {
        (
            self.read.load(Ordering::Relaxed),
            self.written.load(Ordering::Relaxed),
        )
    }
}

/// A run of one view that is in the ledger.
struct Run {
    context: Context,
    request: Request,
    view: Arc<FeatureView>,
    id: String,
    rows: Arc<Rows>,
    stop: CancellationToken,
}

fn cancelled() -> Error {
    Error::unavailable("the run was cancelled")
}

impl Run {
    /// Ends only when the ledger can no longer be told that this run lives.
    async fn keep_alive(&self) -> Error {
        let mut beat = tokio::time::interval(Duration::from_secs(1));
        let mut failures = 0;
        loop {
            beat.tick().await;
            let (read, written) = self.rows.get();
            match self.context.ledger.heartbeat(&self.id, read, written).await {
                Ok(()) => failures = 0,
                Err(error) if failures >= LEASE.as_secs() => return error,
                Err(_) => failures += 1,
            }
        }
    }

    async fn leased(&self) -> Result<Report> {
        let lease = self.lease().await?;
        let outcome = tokio::select! {
            outcome = self.copy() => outcome,
            error = self.context.ledger.keep(&lease) => Err(error),
            () = self.stop.cancelled() => Err(cancelled()),
        };
        self.context.ledger.release(&lease).await?;
        outcome
    }

    /// Waits until the view's lease is free and takes it.
    async fn lease(&self) -> Result<Lease> {
        let name = format!("materialize/{}/{}", self.request.project, self.view.name);
        let mut turn = tokio::time::interval(Duration::from_millis(500));
        loop {
            tokio::select! {
                _ = turn.tick() => {}
                () = self.stop.cancelled() => return Err(cancelled()),
            }
            if let Some(lease) = self.context.ledger.acquire(&name, &self.id).await? {
                return Ok(lease);
            }
        }
    }

    /// Reads, encodes and writes the window, then records it.
    async fn copy(&self) -> Result<Report> {
        let Self {
            context,
            request,
            rows,
            ..
        } = self;
        let started = Instant::now();
        // Another run may have recorded an interval while this one waited for the lease.
        let catalog = context.registry.fresh_catalog(&request.project).await?;
        let view = catalog.stored_view(&self.view.name).map(Arc::clone)?;
        let (start, end) = match request.window {
            Window::Between { start, end } => (start, end),
            Window::Incremental { end } => (incremental_start(&view, Utc::now()), end),
        };
        context.ledger.set_window(&self.id, start, end).await?;
        if let Some(progress) = &request.progress {
            progress.view_started(&view.name, start, end);
        }
        let done = |rows: &Rows| {
            let (rows_read, rows_written) = rows.get();
            Report {
                view: view.name.clone(),
                start,
                end,
                rows_read,
                rows_written,
                elapsed: started.elapsed(),
            }
        };
        if start >= end && matches!(request.window, Window::Incremental { .. }) {
            return Ok(done(rows));
        }
        context
            .online
            .provision(&request.project, std::slice::from_ref(&view), &[])
            .await?;
        let table = Table::of(&view);
        let (sender, mut receiver) = mpsc::channel::<WriteBatch>(IN_FLIGHT);
        let reading = read(context, &view, (start, end), rows, sender);
        let writing = async {
            while let Some(batch) = receiver.recv().await {
                let written = context
                    .online
                    .write(&request.project, &table, &batch, request.older)
                    .await?;
                rows.written.fetch_add(written, Ordering::Relaxed);
                if let Some(progress) = &request.progress {
                    let (read, written) = rows.get();
                    progress.rows(&view.name, read, written);
                }
            }
            Ok::<_, Error>(())
        };
        tokio::try_join!(reading, writing)?;
        if self.stop.is_cancelled() {
            return Err(cancelled());
        }
        context
            .registry
            .record_materialization(&request.project, &view.name, Interval { start, end })
            .await?;
        Ok(done(rows))
    }
}

/// Streams the window to the writer, without rows that are older than one already sent for their key.
async fn read(
    context: &Context,
    view: &FeatureView,
    window: (DateTime<Utc>, DateTime<Utc>),
    rows: &Rows,
    sender: mpsc::Sender<WriteBatch>,
) -> Result<()> {
    let Some(source) = view.batch_source.clone() else {
        return Err(Error::invalid(format!(
            "feature view `{}` has no batch source",
            view.name
        )));
    };
    let timestamp_column = source.timestamp_field.clone();
    let created_column =
        (!source.created_timestamp_column.is_empty()).then(|| source.created_timestamp_column.clone());
    let join_keys = if view.is_entityless() {
        Vec::new()
    } else {
        view.join_keys.iter().map(|key| key.name.clone()).collect()
    };
    let pull = Pull {
        source,
        join_keys,
        features: view.features.iter().map(|field| field.name.clone()).collect(),
        start: Some(window.0),
        end: Some(window.1),
        latest_only: false,
    };
    let size = context
        .config
        .materialization
        .online_write_batch_size
        .unwrap_or(usize::MAX)
        .max(1);
    let mut newest = Newest::default();
    let mut batches = context.offline.pull(pull).await?;
    while let Some(batch) = batches.next().await {
        let batch = batch?;
        rows.read.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
        let mut offset = 0;
        while offset < batch.num_rows() {
            let length = size.min(batch.num_rows() - offset);
            let slice = batch.slice(offset, length);
            offset += length;
            let encoded = ingest::write_batch(
                view,
                context.config.entity_key_version,
                &slice,
                &timestamp_column,
                created_column.as_deref(),
            )?;
            let encoded = newest.retain(encoded);
            if !encoded.keys.is_empty() && sender.send(encoded).await.is_err() {
                // The writer has failed; its error is the one that is reported.
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The (event time, created time) of the newest row seen of each key, so that stores of coarse time
/// resolution still end up with the newest row.
#[derive(Default)]
struct Newest {
    seen: HashMap<u128, (i64, i64)>,
}

impl Newest {
    /// Drops rows that an earlier row of the run, or a later row of the batch, is newer than.
    fn retain(&mut self, batch: WriteBatch) -> WriteBatch {
        let width = batch.features.len();
        let order = |row: usize| {
            (
                batch.event_times[row],
                batch.created_times[row].unwrap_or(i64::MIN),
            )
        };
        let hashes: Vec<u128> = batch
            .keys
            .iter()
            .map(|key| entity_key::fingerprint(key))
            .collect();
        for (row, hash) in hashes.iter().enumerate() {
            let mine = order(row);
            self.seen
                .entry(*hash)
                .and_modify(|best| *best = (*best).max(mine))
                .or_insert(mine);
        }
        // Of rows with equal times the last one of the batch stays.
        let mut kept_keys: HashMap<u128, ()> = HashMap::with_capacity(batch.keys.len());
        let mut kept: Vec<usize> = Vec::with_capacity(batch.keys.len());
        for row in (0..batch.keys.len()).rev() {
            let hash = hashes[row];
            if self.seen.get(&hash) == Some(&order(row)) && kept_keys.insert(hash, ()).is_none() {
                kept.push(row);
            }
        }
        if kept.len() == batch.keys.len() {
            return batch;
        }
        kept.reverse();
        let values = kept
            .iter()
            .flat_map(|row| &batch.values[row * width..(row + 1) * width]);
        WriteBatch {
            keys: kept.iter().map(|row| batch.keys[*row].clone()).collect(),
            event_times: kept.iter().map(|row| batch.event_times[*row]).collect(),
            created_times: kept.iter().map(|row| batch.created_times[*row]).collect(),
            values: values.cloned().collect::<Vec<Bytes>>(),
            features: batch.features,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(rows: &[(&'static str, i64, i64, &'static str)]) -> WriteBatch {
        WriteBatch {
            features: vec!["f".into()],
            keys: rows
                .iter()
                .map(|row| Bytes::from_static(row.0.as_bytes()))
                .collect(),
            event_times: rows.iter().map(|row| row.1).collect(),
            created_times: rows.iter().map(|row| Some(row.2)).collect(),
            values: rows
                .iter()
                .map(|row| Bytes::from_static(row.3.as_bytes()))
                .collect(),
        }
    }

    #[test]
    fn only_the_newest_row_of_a_key_is_sent() {
        let mut newest = Newest::default();
        let first = newest.retain(batch(&[
            ("a", 2, 0, "old"),
            ("b", 5, 0, "b"),
            ("a", 2, 1, "new"),
            ("a", 1, 9, "x"),
        ]));
        assert_eq!(first.keys, ["b", "a"]);
        assert_eq!(first.values, ["b", "new"]);
        let second = newest.retain(batch(&[("a", 1, 0, "late"), ("b", 5, 1, "fixed")]));
        assert_eq!(second.values, ["fixed"]);
    }
}
