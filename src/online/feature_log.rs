//! [`FeatureLog`]: what feature services answered, on its way to their logs.
//!
//! Feast's `logging_config` of a service says where its log lies and which share of its requests it holds,
//! `feature_server.feature_logging` how they get there. A request never waits: its answer is shared with the
//! log, not copied, and where `queue_capacity` rows wait already it is dropped and counted. Behind the queue
//! one task turns answers into columns, a thousand rows at a time, and adds them to the services' logs
//! every `flush_interval_secs`, or sooner where there are many. A log that cannot be written to is tried
//! again at the next turn, and its rows are kept in memory as long as they are few.
//!
//! What is logged is on disk after the next turn, or after an orderly shutdown; a process that is killed
//! loses what it had not written.

mod layout;

use std::{
    collections::BTreeMap,
    hash::BuildHasher as _,
    mem::take,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use foldhash::quality::RandomState;
pub use layout::Layout;
use tokio::{runtime::Handle, sync::mpsc, task::JoinHandle, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::serve::Response;
use crate::{
    config::FeatureLogConfig,
    error::Kind,
    metrics::{LogLabels, Metrics},
    offline::{served_log::LogPlace, store::OfflineStore},
};

/// Rows that become columns at once.
const TOGETHER: usize = 1000;
/// Bytes of one service's log that are written without waiting for the next turn.
const ENOUGH: usize = 16 << 20;
/// Bytes of one service's log that are kept when it cannot be written to.
const MOST: usize = 64 << 20;

/// An answer to be logged.
#[derive(Debug)]
struct Entry {
    layout: Arc<Layout>,
    response: Arc<Response>,
    id: String,
}

/// See the module.
#[derive(Debug)]
pub struct FeatureLog {
    queue: mpsc::UnboundedSender<Entry>,
    /// Rows in the queue.
    waiting: Arc<AtomicUsize>,
    capacity: usize,
    dice: RandomState,
    thrown: AtomicU64,
    metrics: Arc<Metrics>,
    closing: CancellationToken,
    writing: Mutex<Option<JoinHandle<()>>>,
}

impl FeatureLog {
    /// A log whose rows are written by a task of `runtime`.
    pub fn start(
        config: &FeatureLogConfig,
        offline: Arc<dyn OfflineStore>,
        metrics: Arc<Metrics>,
        runtime: &Handle,
    ) -> Self {
        let (queue, inbox) = mpsc::unbounded_channel();
        let closing = CancellationToken::new();
        let waiting = Arc::new(AtomicUsize::new(0));
        let writer = Writer {
            offline,
            metrics: Arc::clone(&metrics),
            waiting: Arc::clone(&waiting),
            logs: Vec::new(),
        };
        let writing = runtime.spawn(writer.run(inbox, config.interval, closing.clone()));
        Self {
            queue,
            waiting,
            capacity: config.queue_rows,
            dice: RandomState::default(),
            thrown: AtomicU64::new(0),
            metrics,
            closing,
            writing: Mutex::new(Some(writing)),
        }
    }

    /// Takes an answer if the dice say so and there is room for it.
    pub(super) fn offer(&self, layout: &Arc<Layout>, response: &Arc<Response>, id: Option<&str>) {
        if !self.is_drawn(layout.sample_rate) {
            return;
        }
        let rows = response.rows();
        let fits = |waiting: usize| waiting.checked_add(rows).filter(|&all| all <= self.capacity);
        let entry = Entry {
            layout: Arc::clone(layout),
            response: Arc::clone(response),
            id: id.map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned),
        };
        if self.waiting.fetch_update(Relaxed, Relaxed, fits).is_err() {
            count(&self.metrics, &layout.service, "queue_full", rows);
        } else if self.queue.send(entry).is_err() {
            self.waiting.fetch_sub(rows, Relaxed);
            count(&self.metrics, &layout.service, "failed", rows);
        } else {
            self.metrics.log_waiting.inc_by(gauged(rows));
        }
    }

    fn is_drawn(&self, share: f32) -> bool {
        if share >= 1.0 {
            return true;
        }
        let face = self.dice.hash_one(self.thrown.fetch_add(1, Relaxed)) >> 32;
        // Both are exact in a double.
        f64::from(u32::try_from(face).unwrap_or_default()) < f64::from(share) * f64::from(u32::MAX)
    }

    /// Writes what was taken so far, and ends.
    pub async fn close(&self) {
        self.closing.cancel();
        let writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writing) = writing
            && let Err(error) = writing.await
        {
            tracing::error!(%error, "the log of served features ended early");
        }
    }
}

fn gauged(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

fn count(metrics: &Metrics, service: &str, outcome: &'static str, rows: usize) {
    let labels = LogLabels {
        feature_service: service.to_owned(),
        outcome,
    };
    metrics.log_rows.get_or_create(&labels).inc_by(rows as u64);
}

/// The task behind the queue.
struct Writer {
    offline: Arc<dyn OfflineStore>,
    metrics: Arc<Metrics>,
    waiting: Arc<AtomicUsize>,
    logs: Vec<Log>,
}

/// What is to be added to one log.
struct Log {
    service: String,
    place: LogPlace,
    schema: SchemaRef,
    /// Answers that are not rows yet.
    fresh: Vec<Entry>,
    fresh_rows: usize,
    /// Rows by the folder they go to.
    parts: BTreeMap<String, Vec<RecordBatch>>,
    bytes: usize,
    /// Whether the last try to write failed: the next is at the next turn.
    failed: bool,
}

impl Writer {
    async fn run(
        mut self,
        mut inbox: mpsc::UnboundedReceiver<Entry>,
        interval: Duration,
        closing: CancellationToken,
    ) {
        let mut turn = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                entry = inbox.recv() => match entry {
                    Some(entry) => self.take(entry).await,
                    None => break,
                },
                _ = turn.tick() => self.write_all().await,
                () = closing.cancelled() => break,
            }
        }
        inbox.close();
        while let Some(entry) = inbox.recv().await {
            self.take(entry).await;
        }
        self.write_all().await;
        for log in take(&mut self.logs) {
            self.give_up(&log);
        }
    }

    async fn take(&mut self, entry: Entry) {
        let rows = entry.response.rows();
        self.waiting.fetch_sub(rows, Relaxed);
        self.metrics.log_waiting.dec_by(gauged(rows));
        // A definition that changes makes a log of other columns, which are to be in another file.
        let place = self
            .logs
            .iter()
            .position(|log| log.place == entry.layout.place && log.schema == entry.layout.schema);
        let place = place.unwrap_or_else(|| {
            self.logs.push(Log {
                service: entry.layout.service.clone(),
                place: entry.layout.place.clone(),
                schema: Arc::clone(&entry.layout.schema),
                fresh: Vec::new(),
                fresh_rows: 0,
                parts: BTreeMap::new(),
                bytes: 0,
                failed: false,
            });
            self.logs.len() - 1
        });
        let Some(log) = self.logs.get_mut(place) else {
            return;
        };
        log.fresh_rows += rows;
        log.fresh.push(entry);
        if log.fresh_rows >= TOGETHER {
            log.convert(&self.metrics);
        }
        if log.bytes >= ENOUGH && !log.failed {
            log.write(&self.offline, &self.metrics).await;
        }
        if log.bytes >= MOST {
            let log = self.logs.swap_remove(place);
            self.give_up(&log);
        }
    }

    async fn write_all(&mut self) {
        for log in &mut self.logs {
            log.convert(&self.metrics);
            log.write(&self.offline, &self.metrics).await;
        }
        self.logs.retain(|log| !log.parts.is_empty());
    }

    fn give_up(&self, log: &Log) {
        let rows: usize = log.parts.values().flatten().map(RecordBatch::num_rows).sum();
        let rows = rows + log.fresh_rows;
        if rows > 0 {
            tracing::error!(service = log.service, rows, "served rows could not be logged");
            count(&self.metrics, &log.service, "failed", rows);
        }
    }
}

impl Log {
    /// Turns answers into rows.
    fn convert(&mut self, metrics: &Metrics) {
        let mut entries = take(&mut self.fresh);
        self.fresh_rows = 0;
        // A service has a layout for each form of its answers.
        entries.sort_by_key(|entry| Arc::as_ptr(&entry.layout));
        for alike in entries.chunk_by(|one, next| Arc::ptr_eq(&one.layout, &next.layout)) {
            self.convert_alike(alike, metrics);
        }
    }

    fn convert_alike(&mut self, entries: &[Entry], metrics: &Metrics) {
        let Some(layout) = entries.first().map(|first| &first.layout) else {
            return;
        };
        if let Ok(rows) = layout.rows(entries) {
            self.add(rows, metrics);
            return;
        }
        // One of them has a value that is not of its feature's type; the others are not to pay for it.
        for entry in entries {
            match layout.rows(std::slice::from_ref(entry)) {
                Ok(rows) => self.add(rows, metrics),
                Err(error) => {
                    tracing::warn!(%error, service = self.service, "an answer cannot be logged");
                    count(metrics, &self.service, "failed", entry.response.rows());
                }
            }
        }
    }

    fn add(&mut self, rows: RecordBatch, metrics: &Metrics) {
        let (bytes, count_of) = (rows.get_array_memory_size(), rows.num_rows());
        match self.place.parts(vec![rows]) {
            Ok(parts) => {
                self.bytes += bytes;
                for (folder, mut batches) in parts {
                    self.parts.entry(folder).or_default().append(&mut batches);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "served rows cannot be logged");
                count(metrics, &self.service, "failed", count_of);
            }
        }
    }

    /// Writes each part on its own: those that are written are not written again.
    async fn write(&mut self, offline: &Arc<dyn OfflineStore>, metrics: &Metrics) {
        self.failed = false;
        for (folder, batches) in take(&mut self.parts) {
            let rows = batches.iter().map(RecordBatch::num_rows).sum();
            let kept = batches.clone();
            match self.place.write(offline, &folder, batches).await {
                Ok(_) => count(metrics, &self.service, "written", rows),
                Err(error) if error.kind() == Kind::Unavailable => {
                    tracing::warn!(%error, service = self.service, rows, "served rows are not logged yet");
                    self.parts.insert(folder, kept);
                    self.failed = true;
                }
                Err(error) => {
                    tracing::error!(%error, service = self.service, rows, "served rows cannot be logged");
                    count(metrics, &self.service, "failed", rows);
                }
            }
        }
        let left = self.parts.values().flatten();
        self.bytes = left.map(RecordBatch::get_array_memory_size).sum();
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
