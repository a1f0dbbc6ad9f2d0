//! Copying a window into the online store: passes over ranges of entity keys, each a look at keys and times
//! that finds the newest row of every key, then a read of all columns that stores those rows.
//!
//! So each key is written once, with its newest row, in whatever order the rows come and however many parts
//! are read side by side; and memory is bounded by the keys of a range, not by the window. Parts go through
//! a reader and a writer with a short queue between: a slow store slows the reading down. For a store that
//! takes rows faster in the order of their keys, the newest rows of all parts are sorted into one; as they are
//! when they are from a source of which it is known that it has the same rows, but not that they come in the
//! same order: what is stored is then known all the same.
//!
//! Where the offline store has the newest rows found elsewhere (on a cluster), one pass stores what it gives.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arrow::{array::UInt32Array, compute::take_record_batch, record_batch::RecordBatch};
use bytes::Bytes;
use datafusion::{
    error::DataFusionError, execution::SendableRecordBatchStream,
    physical_plan::stream::RecordBatchStreamAdapter,
};
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    Progress,
    checkpoint::Checkpoint,
    newest::{KEYS_AT_ONCE, Newest, Rank},
    ordered::{in_key_order, keyed, with_key},
};
use crate::{
    context::Context,
    error::{Error, Result},
    metrics::ViewLabel,
    model::{FeatureView, entity_key::Version},
    offline::store::{Parts, Pull},
    online::{
        ingest::{self, Identities},
        store::{KeyGroup, OlderRow, OnlineRead, Table, ViewColumns, WriteBatch},
    },
    schedule::ledger::Counts,
};

/// Rows of a write to the store, fewer where they are wide; and to a store that wants them by their keys, each
/// of whose writes is a transaction.
const ROWS: usize = 1024;
const ORDERED_ROWS: usize = 4096;
const CELLS: usize = 1 << 17;
/// Writes of a part that the store works on at the same time.
const WRITES: usize = 2;
/// How often what is stored is noted down.
const NOTES: Duration = Duration::from_millis(100);

/// Counts shared with whoever shows them.
#[derive(Debug, Default)]
pub(super) struct Counters {
    read: AtomicU64,
    written: AtomicU64,
    resumed: AtomicU64,
    chunks: AtomicU64,
}

impl Counters {
    /// Counts rows and a write of them.
    pub(super) fn add(&self, read: u64, written: u64) {
        self.read.fetch_add(read, Ordering::Relaxed);
        self.chunks.fetch_add(1, Ordering::Release);
        self.written.fetch_add(written, Ordering::Release);
    }

    pub(super) fn get(&self) -> Counts {
        Counts {
            read: self.read.load(Ordering::Relaxed),
            written: self.written.load(Ordering::Acquire),
            resumed: self.resumed.load(Ordering::Relaxed),
            chunks: self.chunks.load(Ordering::Relaxed),
        }
    }
}

/// A view's window on its way.
pub(super) struct Copy {
    pub(super) context: Context,
    pub(super) project: String,
    pub(super) view: Arc<FeatureView>,
    pub(super) older: OlderRow,
    pub(super) counters: Arc<Counters>,
    pub(super) progress: Option<Arc<dyn Progress>>,
    pub(super) keys_at_once: usize,
}

/// How a reading of one part ended.
enum Ended {
    Done,
    /// Rows that were stored are there no more: what was noted down is worth nothing.
    Lost,
}

/// What rows a part has.
#[derive(Clone, Copy)]
enum Rows {
    /// Those of a part of the source; `placed` when they have the places they had when the newest were found.
    OfSource { placed: bool },
    /// The newest, each of its key, in an order of their own.
    Newest,
}

/// Rows to store in a pass, in an order.
struct Part {
    number: usize,
    rows: SendableRecordBatchStream,
    kind: Rows,
    /// Rows that need not be stored again.
    stored: u64,
}

/// What the tasks of a pass share.
struct Pass {
    copy: Arc<Copy>,
    newest: Mutex<Newest>,
    /// Of each part, how many rows are stored.
    stored: Mutex<Vec<u64>>,
    /// Whether the keys before the range were stored by an earlier run.
    resumes: bool,
    /// Whether [`Ended::Lost`] was found before rows were sorted.
    lost: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What is inside is changed row by row and never half.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Copy {
    pub(super) fn new(context: &Context, project: &str, view: &Arc<FeatureView>, older: OlderRow) -> Self {
        Self {
            context: context.clone(),
            project: project.to_owned(),
            view: Arc::clone(view),
            older,
            counters: Arc::default(),
            progress: None,
            keys_at_once: KEYS_AT_ONCE,
        }
    }

    /// Stores what `state` says is not stored yet, and notes down how far it is.
    pub(super) async fn run(self: &Arc<Self>, mut state: Checkpoint) -> Result<()> {
        let mut resumes = !state.is_start();
        loop {
            let reduced = self
                .context
                .offline
                .newest_parts(&self.window(&state, true)?)
                .await?;
            let ended = if let Some(parts) = reduced {
                self.store_reduced(parts, &mut state).await?
            } else {
                let found = self.find(&mut state, resumes).await?;
                resumes = resumes && !state.is_start();
                self.store(found, &mut state, resumes).await?
            };
            if let Ended::Lost = ended {
                tracing::warn!(
                    view = self.view.name,
                    "rows that an earlier run stored are not there any more; all are stored again"
                );
                state.restart();
                resumes = false;
                continue;
            }
            resumes = false;
            let Some(next) = state.last.checked_add(1) else {
                return Ok(());
            };
            state.last = next.saturating_add(state.last - state.first);
            state.first = next;
            state.stored.clear();
            self.note(&state).await?;
        }
    }

    /// Counts rows and keys of a window without storing anything.
    pub(super) async fn count(self: &Arc<Self>, mut state: Checkpoint) -> Result<(u64, u64)> {
        let (mut rows, mut keys) = (0, 0);
        loop {
            let found = self.find(&mut state, false).await?;
            keys += found.0.keys() as u64;
            rows += found.1;
            let Some(next) = state.last.checked_add(1) else {
                return Ok((rows, keys));
            };
            (state.first, state.last) = (next, u64::MAX);
        }
    }

    async fn note(&self, state: &Checkpoint) -> Result<()> {
        let text = state.text();
        let ledger = &self.context.ledger;
        ledger
            .set_checkpoint(&self.project, &self.view.name, text.as_deref())
            .await
    }

    fn window(&self, state: &Checkpoint, all_columns: bool) -> Result<Pull> {
        let view = &self.view;
        let join_keys = view.join_keys.iter().filter(|_| !view.is_entityless());
        let features = view.features.iter().filter(|_| all_columns);
        Ok(Pull {
            source: source(view)?.clone(),
            join_keys: join_keys.map(|key| key.name.clone()).collect(),
            features: features.map(|field| field.name.clone()).collect(),
            start: Some(state.start),
            end: Some(state.end),
            latest_only: false,
        })
    }

    async fn pull(&self, state: &Checkpoint, all_columns: bool) -> Result<Parts> {
        let pull = self.window(state, all_columns)?;
        self.context.offline.pull_parts(pull).await
    }

    /// The newest rows of the first keys that are not stored, and how many rows those keys have.
    async fn find(self: &Arc<Self>, state: &mut Checkpoint, resumes: bool) -> Result<(Newest, u64)> {
        let pulled = self.pull(state, false).await?;
        let parts = self.parts(&pulled);
        let is_same = pulled.fingerprint.is_some() && pulled.fingerprint == state.source;
        if resumes && !is_same {
            // Other rows than those that were stored may be the newest now.
            state.restart();
        }
        if !is_same || state.stored.len() != parts {
            state.stored = vec![0; parts];
        }
        state.source = pulled.fingerprint;
        let (streams, placed) = (pulled.streams, state.source.is_some() && pulled.in_order);
        let newest = Arc::new(Mutex::new(Newest::new(
            state.first,
            state.last,
            self.keys_at_once,
        )));
        let seen = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        for (number, mut rows) in streams.into_iter().enumerate() {
            let (copy, newest, seen) = (Arc::clone(self), Arc::clone(&newest), Arc::clone(&seen));
            tasks.spawn(async move {
                let mut place = 0;
                while let Some(batch) = rows.next().await {
                    let batch = batch?;
                    let who = copy.identities(&batch)?;
                    let mut newest = lock(&newest);
                    let mut inside = 0;
                    for (row, key) in who.keys.iter().enumerate() {
                        let Some(key) = *key else { continue };
                        newest.offer(key, rank(&who, row, placed.then_some((number, place))));
                        inside += u64::from(newest.contains(key));
                    }
                    drop(newest);
                    seen.fetch_add(inside, Ordering::Relaxed);
                    place += batch.num_rows() as u64;
                }
                Ok(Ended::Done)
            });
        }
        while let Some(ended) = tasks.join_next().await {
            joined(ended)?;
        }
        let newest = Arc::into_inner(newest).ok_or_else(|| Error::internal("a reader did not end"))?;
        let newest = newest.into_inner().unwrap_or_else(PoisonError::into_inner);
        state.last = newest.last;
        Ok((newest, seen.load(Ordering::Relaxed)))
    }

    /// Stores the rows that were found.
    async fn store(
        self: &Arc<Self>,
        (mut newest, _): (Newest, u64),
        state: &mut Checkpoint,
        resumes: bool,
    ) -> Result<Ended> {
        let pulled = self.pull(state, true).await?;
        let (parts, by_key) = (self.parts(&pulled), self.in_key_order(&pulled));
        let is_same = pulled.fingerprint.is_some() && pulled.fingerprint == state.source;
        let is_noted = is_same && state.stored.len() == parts;
        if !is_noted {
            newest.forget_places();
            state.stored = vec![0; parts];
            state.source = pulled.fingerprint;
        }
        let pass = Pass {
            copy: Arc::clone(self),
            newest: Mutex::new(newest),
            stored: Mutex::new(state.stored.clone()),
            resumes,
            lost: AtomicBool::new(false),
        };
        let kind = Rows::OfSource {
            placed: is_noted && pulled.in_order,
        };
        self.store_parts(pass, pulled.streams, kind, (by_key, is_noted), state)
            .await
    }

    /// Stores newest rows that were found elsewhere, but for those that an earlier run stored.
    async fn store_reduced(self: &Arc<Self>, found: Parts, state: &mut Checkpoint) -> Result<Ended> {
        let (parts, by_key) = (self.parts(&found), self.in_key_order(&found));
        let is_same = found.fingerprint.is_some() && found.fingerprint == state.source;
        if !is_same || state.stored.len() != parts {
            state.restart();
            state.stored = vec![0; parts];
            state.source = found.fingerprint;
        }
        let pass = Pass {
            copy: Arc::clone(self),
            newest: Mutex::new(Newest::new(state.first, state.last, 0)),
            stored: Mutex::new(state.stored.clone()),
            resumes: false,
            lost: AtomicBool::new(false),
        };
        let counted = |rows: SendableRecordBatchStream| {
            let (copy, schema) = (Arc::clone(self), rows.schema());
            let rows = rows.inspect_ok(move |batch| {
                let rows = batch.num_rows() as u64;
                copy.counters.read.fetch_add(rows, Ordering::Relaxed);
            });
            Box::pin(RecordBatchStreamAdapter::new(schema, rows)) as SendableRecordBatchStream
        };
        let streams = found.streams.into_iter().map(counted).collect();
        let is_noted = state.source.is_some();
        self.store_parts(pass, streams, Rows::Newest, (by_key, is_noted), state)
            .await
    }

    /// Stores parts, by their keys or as they come, and notes down how far it is where that can be told.
    async fn store_parts(
        self: &Arc<Self>,
        pass: Pass,
        streams: Vec<SendableRecordBatchStream>,
        kind: Rows,
        (by_key, is_noted): (bool, bool),
        state: &mut Checkpoint,
    ) -> Result<Ended> {
        let pass = Arc::new(pass);
        let part = |(number, rows)| Part {
            number,
            rows,
            kind,
            stored: 0,
        };
        let mut parts: Vec<Part> = streams.into_iter().enumerate().map(part).collect();
        if by_key {
            let newest = parts.into_iter().map(|part| Arc::clone(&pass).newest(part));
            parts = vec![Part {
                number: 0,
                rows: in_key_order(newest.collect())?,
                kind: Rows::Newest,
                stored: 0,
            }];
        }
        let mut tasks = JoinSet::new();
        for (mut part, stored) in parts.into_iter().zip(&state.stored) {
            part.stored = *stored;
            let number = part.number;
            let (sender, receiver) = mpsc::channel(1);
            tasks.spawn(Arc::clone(&pass).read(part, sender));
            tasks.spawn(Arc::clone(&pass).write(number, receiver));
        }
        let mut notes = tokio::time::interval(NOTES);
        notes.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                ended = tasks.join_next() => match ended {
                    None => break,
                    Some(ended) => match joined(ended) {
                        Err(_) if pass.lost.load(Ordering::Relaxed) => return Ok(Ended::Lost),
                        ended => if let Ended::Lost = ended? {
                            return Ok(Ended::Lost);
                        },
                    },
                },
                _ = notes.tick() => {
                    self.show();
                    let stored = lock(&pass.stored).clone();
                    if is_noted && stored != state.stored {
                        state.stored = stored;
                        self.note(state).await?;
                    }
                }
            }
        }
        self.show();
        Ok(Ended::Done)
    }

    fn show(&self) {
        if let Some(progress) = &self.progress {
            let counts = self.counters.get();
            progress.rows(&self.view.name, counts);
        }
    }

    fn columns(&self) -> Result<(&str, Option<&str>)> {
        let source = source(&self.view)?;
        let created = &source.created_timestamp_column;
        Ok((
            &source.timestamp_field,
            (!created.is_empty()).then_some(created.as_str()),
        ))
    }

    fn version(&self) -> Version {
        self.context.config.entity_key_version
    }

    fn identities(&self, batch: &RecordBatch) -> Result<Identities> {
        let (time, created) = self.columns()?;
        ingest::identities(&self.view, self.version(), batch, time, created)
    }

    fn encoded(&self, batch: &RecordBatch) -> Result<WriteBatch> {
        let (time, created) = self.columns()?;
        ingest::write_batch(&self.view, self.version(), batch, time, created)
    }

    /// Whether rows are stored by their keys: the store wants it, or the rows have no other order by which it
    /// can be told which of them are stored.
    fn in_key_order(&self, rows: &Parts) -> bool {
        let is_only_order = rows.fingerprint.is_some() && !rows.in_order;
        is_only_order || self.context.online.prefers_key_order(&self.view)
    }

    /// In how many parts these rows are stored.
    fn parts(&self, rows: &Parts) -> usize {
        if self.in_key_order(rows) {
            1
        } else {
            rows.streams.len()
        }
    }

    /// Rows of one write.
    fn rows_of_a_write(&self) -> usize {
        let configured = self.context.config.materialization.online_write_batch_size;
        let ordered = self.context.online.prefers_key_order(&self.view);
        let rows = if ordered { ORDERED_ROWS } else { ROWS };
        let wanted = rows.min(CELLS / self.view.features.len().max(1));
        configured.unwrap_or(wanted).max(1)
    }
}

fn source(view: &FeatureView) -> Result<&Arc<crate::proto::feast::core::DataSource>> {
    view.batch_source
        .as_ref()
        .ok_or_else(|| Error::invalid(format!("feature view `{}` has no batch source", view.name)))
}

fn rank(who: &Identities, row: usize, place: Option<(usize, u64)>) -> Rank {
    Rank {
        event: who.event_times[row],
        created: who.created_times[row],
        place: place.map_or(0, |(part, first)| ((part as u64) << 40) + first + row as u64),
    }
}

fn joined<T>(ended: std::result::Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    ended.map_err(|error| Error::internal("reading ended unexpectedly").source_error(error))?
}

/// Rows to store, and how many rows of the part are then stored.
type Chunk = (WriteBatch, u64);

impl Pass {
    /// Reads a part and sends the newest rows on.
    async fn read(self: Arc<Self>, mut part: Part, sender: mpsc::Sender<Chunk>) -> Result<Ended> {
        let size = self.copy.rows_of_a_write();
        let mut place = 0;
        let mut waiting = WriteBatch::default();
        while let Some(batch) = part.rows.next().await {
            let batch = batch?;
            let rows = batch.num_rows() as u64;
            let (chosen, passed) = self.choose(&batch, &part, place)?;
            if let Some(row) = passed
                && !self.is_stored(&batch.slice(row, 1)).await?
            {
                return Ok(Ended::Lost);
            }
            let mut rest = &chosen[..];
            while !rest.is_empty() {
                let (now, later) = rest.split_at(rest.len().min(size - waiting.keys.len()));
                rest = later;
                let taken = match now.len() as u64 == rows {
                    true => batch.clone(),
                    false => take_record_batch(&batch, &UInt32Array::from(now.to_vec()))?,
                };
                append(&mut waiting, self.copy.encoded(&taken)?);
                if waiting.keys.len() >= size {
                    let until = now.last().map_or(0, |row| u64::from(*row) + 1);
                    let until = if rest.is_empty() { rows } else { until };
                    if sender
                        .send((std::mem::take(&mut waiting), place + until))
                        .await
                        .is_err()
                    {
                        // The writer has failed; its error is the one that is reported.
                        return Ok(Ended::Done);
                    }
                }
            }
            place += rows;
        }
        let _ = sender.send((waiting, place)).await;
        Ok(Ended::Done)
    }

    /// The newest rows of a part, each with its key.
    fn newest(self: Arc<Self>, part: Part) -> SendableRecordBatchStream {
        let schema = with_key(&part.rows.schema());
        let rows = futures::stream::try_unfold((self, part, 0), {
            let schema = Arc::clone(&schema);
            move |(pass, mut part, mut place)| {
                let schema = Arc::clone(&schema);
                async move {
                    while let Some(batch) = part.rows.next().await {
                        let batch = batch?;
                        let (chosen, passed) = pass.choose(&batch, &part, place)?;
                        place += batch.num_rows() as u64;
                        if let Some(row) = passed
                            && !pass.is_stored(&batch.slice(row, 1)).await?
                        {
                            pass.lost.store(true, Ordering::Relaxed);
                            return Err(Error::unavailable("rows that were stored are there no more").into());
                        }
                        if !chosen.is_empty() {
                            let batch = take_record_batch(&batch, &UInt32Array::from(chosen))?;
                            let keys = ingest::key_column(&pass.copy.view, pass.copy.version(), &batch)?;
                            return Ok(Some((keyed(&batch, &schema, keys)?, (pass, part, place))));
                        }
                    }
                    Ok::<_, DataFusionError>(None)
                }
            }
        });
        Box::pin(RecordBatchStreamAdapter::new(schema, rows))
    }

    /// The rows of a batch that are to be stored; and one that is stored already, if there is any.
    fn choose(&self, batch: &RecordBatch, part: &Part, place: u64) -> Result<(Vec<u32>, Option<usize>)> {
        match part.kind {
            Rows::OfSource { placed } => self.choose_newest(batch, part, placed, place),
            Rows::Newest => Ok(self.choose_rest(batch.num_rows(), part.stored, place)),
        }
    }

    /// The rows from the place on that is not stored.
    fn choose_rest(&self, rows: usize, stored: u64, place: u64) -> (Vec<u32>, Option<usize>) {
        let rest = (0..).take(rows).filter(|row| place + u64::from(*row) >= stored);
        let rest: Vec<u32> = rest.collect();
        let before = rows - rest.len();
        // They were counted when they were found.
        self.copy
            .counters
            .read
            .fetch_sub(before as u64, Ordering::Relaxed);
        self.copy
            .counters
            .resumed
            .fetch_add(before as u64, Ordering::Relaxed);
        (rest, (before > 0).then_some(0))
    }

    fn choose_newest(
        &self,
        batch: &RecordBatch,
        part: &Part,
        placed: bool,
        place: u64,
    ) -> Result<(Vec<u32>, Option<usize>)> {
        let who = self.copy.identities(batch)?;
        let counters = &self.copy.counters;
        let (mut chosen, mut passed) = (Vec::new(), None);
        let (mut read, mut resumed) = (0, 0);
        let mut newest = lock(&self.newest);
        for (row, key) in (0..).zip(&who.keys) {
            let at = row as usize;
            let before = place + u64::from(row) < part.stored;
            // Rows that belong to nobody are counted in the first pass.
            let inside = key.map_or(newest.first == 0, |key| newest.contains(key));
            if !inside {
                let stored =
                    self.resumes && key.is_some_and(|key| super::newest::part_of(key) < newest.first);
                resumed += u64::from(stored);
                passed = passed.or(stored.then_some(at));
                continue;
            }
            if before {
                resumed += 1;
            } else {
                read += 1;
            }
            let Some(key) = *key else { continue };
            if !newest.wins(key, rank(&who, at, placed.then_some((part.number, place)))) {
                continue;
            }
            if before {
                passed = passed.or(Some(at));
            } else {
                chosen.push(row);
            }
        }
        drop(newest);
        counters.read.fetch_add(read, Ordering::Relaxed);
        counters.resumed.fetch_add(resumed, Ordering::Relaxed);
        Ok((chosen, passed))
    }

    /// Whether the store has a row for the key of a batch of one.
    async fn is_stored(&self, batch: &RecordBatch) -> Result<bool> {
        let Copy {
            context,
            project,
            view,
            ..
        } = &*self.copy;
        let features: Vec<String> = view
            .features
            .iter()
            .take(1)
            .map(|field| field.name.clone())
            .collect();
        let columns = ViewColumns {
            table: Table::of(view),
            features: features.into(),
        };
        let group = KeyGroup {
            keys: self.copy.encoded(batch)?.keys,
            views: vec![columns].into(),
        };
        let read = OnlineRead {
            project,
            groups: &[group],
        };
        let found = context.online.read(&read).await?;
        Ok(found
            .iter()
            .all(|rows| rows.event_times.iter().all(Option::is_some)))
    }

    /// Stores chunks, a few at the same time, and counts them in their order.
    async fn write(self: Arc<Self>, number: usize, mut receiver: mpsc::Receiver<Chunk>) -> Result<Ended> {
        let copy = &self.copy;
        let (context, table) = (&copy.context, Table::of(&copy.view));
        let label = ViewLabel {
            feature_view: copy.view.name.clone(),
        };
        let metrics = &context.metrics;
        let rows_written = metrics.materialized_rows.get_or_create(&label).clone();
        let chunks_written = metrics.materialized_chunks.get_or_create(&label).clone();
        let write = |(batch, until): Chunk| {
            let table = &table;
            async move {
                if batch.keys.is_empty() {
                    return Ok((None, until));
                }
                let written = context
                    .online
                    .write(&copy.project, table, &batch, copy.older)
                    .await?;
                Ok::<_, Error>((Some(written), until))
            }
        };
        let chunks = futures::stream::poll_fn(move |waker| receiver.poll_recv(waker));
        let mut done = chunks.map(write).buffered(WRITES);
        while let Some(stored) = done.next().await {
            let (written, until) = stored?;
            if let Some(written) = written {
                // Whoever sees rows sees the write that they came with.
                copy.counters.chunks.fetch_add(1, Ordering::Release);
                copy.counters.written.fetch_add(written, Ordering::Release);
                rows_written.inc_by(written);
                chunks_written.inc();
            }
            if let Some(rows) = lock(&self.stored).get_mut(number) {
                *rows = until;
            }
        }
        Ok(Ended::Done)
    }
}

/// Adds the rows of a batch to those of another with the same features.
fn append(batch: &mut WriteBatch, mut more: WriteBatch) {
    if batch.keys.is_empty() {
        *batch = more;
        return;
    }
    batch.keys.append(&mut more.keys);
    batch.event_times.append(&mut more.event_times);
    batch.created_times.append(&mut more.created_times);
    let values: &mut Vec<Bytes> = &mut batch.values;
    values.append(&mut more.values);
}
