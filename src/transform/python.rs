//! Worker processes that run on-demand functions written in Python. A worker starts when it is first
//! needed, is told each function once, and is replaced when it dies, takes too long or runs out of memory.
//!
//! Requests that wait are handed over several at a time, but every one is a call of its own: a function
//! over columns never sees rows of another request. Workers get a bare environment and cannot look into this
//! process, so that no secret of its variables and memory reaches a function; of files they see what this
//! process's user does.

mod marshal;
mod values;
mod worker;

use std::{
    collections::VecDeque,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arrow::{
    array::RecordBatch,
    ipc::{reader::StreamReader, writer::StreamWriter},
};
use bytes::Bytes;
use tokio::{
    io::AsyncWriteExt as _,
    sync::{Notify, oneshot},
    time::timeout,
};

use self::{
    marshal::{Object, Writer},
    worker::{Worker, read_frame},
};
use super::{Cells, Input, Outputs};
use crate::{
    config::PythonConfig,
    error::{Error, Kind, Result},
    model::{OnDemandFeatureView, ValueType, on_demand::Transformation, value::Value},
};

/// Calls handed over together at most.
const TOGETHER: usize = 16;

/// Only functions that are quicker than this are handed over together: nobody should wait in one worker
/// while another has nothing to do.
const QUICK: Duration = Duration::from_millis(2);

/// How often a call may be handed over because calls before it ended their worker; besides, it may meet every
/// worker that died while it was idle.
const ATTEMPTS: usize = 3;

/// Functions a worker may hold; one that was told of more is replaced.
const FUNCTIONS: usize = 256;

/// Makes numbers of functions that nobody can make collide.
static NUMBERS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// A view's function, ready to be told to a worker.
#[derive(Debug)]
pub(super) struct Definition {
    number: u64,
    frame: Vec<u8>,
    types: Vec<ValueType>,
    /// How long its calls take of late, in microseconds; at first nobody knows.
    takes: AtomicU64,
}

impl Definition {
    pub(super) fn new(view: &OnDemandFeatureView) -> Result<Self> {
        let Transformation::Python {
            name,
            source,
            body,
            pandas,
            singleton,
        } = &view.transformation
        else {
            return Err(Error::internal("not a Python transformation"));
        };
        let mode = if *pandas { "pandas" } else { "python" };
        let features: Vec<(&str, ValueType)> = view
            .features
            .iter()
            .map(|feature| (feature.name.as_str(), feature.value_type))
            .collect();
        let number = NUMBERS.hash_one((name, source, body, mode, singleton, &features));
        let frame = Writer::frame(|out| {
            out.tuple(8);
            out.text("define");
            out.int(number.cast_signed());
            out.text(name);
            out.text(source);
            out.bytes(body);
            out.text(mode);
            out.bool(*singleton);
            out.list(features.len());
            for (name, value_type) in &features {
                out.tuple(2);
                out.text(name);
                out.int(i64::from(value_type.number()));
            }
        })?;
        Ok(Self {
            number,
            frame,
            types: features.into_iter().map(|(_, value_type)| value_type).collect(),
            takes: AtomicU64::new(u64::MAX),
        })
    }

    fn is_quick(&self) -> bool {
        u128::from(self.takes.load(Ordering::Relaxed)) < QUICK.as_micros()
    }

    fn took(&self, elapsed: Duration) {
        let now = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        let before = self.takes.load(Ordering::Relaxed);
        let blended = if before == u64::MAX {
            now
        } else {
            (before / 8 * 7).saturating_add(now / 8)
        };
        self.takes.store(blended, Ordering::Relaxed);
    }
}

/// A call on its way to a worker.
struct Job {
    definition: Arc<Definition>,
    frame: Vec<u8>,
    reply: oneshot::Sender<Result<Bytes>>,
    attempts: usize,
}

/// The workers and the calls that wait for one.
pub(super) struct Pool(Arc<Shared>);

struct Shared {
    config: PythonConfig,
    state: Mutex<State>,
    ready: Notify,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    /// Workers without work that nobody has called yet.
    idle: usize,
    running: usize,
}

impl Pool {
    pub(super) fn new(config: PythonConfig) -> Self {
        Self(Arc::new(Shared {
            config,
            state: Mutex::default(),
            ready: Notify::new(),
        }))
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.0.config.enabled
    }

    /// Calls a function on columns of values.
    pub(super) async fn values(
        &self,
        definition: &Arc<Definition>,
        inputs: &[Input<'_>],
        rows: usize,
    ) -> Result<Vec<Vec<Value>>> {
        let frame = values_frame(definition, inputs, rows)?;
        let mut answer = self.call(definition, frame).await?.into_iter();
        let (Some(Object::List(columns)), None) = (answer.next(), answer.next()) else {
            return Err(nonsense());
        };
        if columns.len() != definition.types.len() {
            return Err(nonsense());
        }
        let column = |(column, value_type): (Object, &ValueType)| match column {
            Object::List(items) if items.len() == rows => items
                .into_iter()
                .map(|item| values::value(item, *value_type))
                .collect(),
            _ => Err(nonsense()),
        };
        columns.into_iter().zip(&definition.types).map(column).collect()
    }

    /// Calls a function on a batch, which it sees in the batch's own types.
    pub(super) async fn batch(&self, definition: &Arc<Definition>, inputs: &RecordBatch) -> Result<Outputs> {
        let payload = encode(inputs)?;
        let frame = Writer::frame(|out| {
            out.tuple(3);
            out.text("arrow");
            out.int(definition.number.cast_signed());
            out.bytes(&payload);
        })?;
        let mut answer = self.call(definition, frame).await?.into_iter();
        let (Some(Object::Bytes(payload)), None) = (answer.next(), answer.next()) else {
            return Err(nonsense());
        };
        decode(&payload)
    }

    /// Hands a call to a worker and takes its answer without the head.
    async fn call(&self, definition: &Arc<Definition>, frame: Vec<u8>) -> Result<Vec<Object>> {
        if !self.is_enabled() {
            return Err(Error::unsupported("Python transformations are switched off")
                .hint("set `thali.python.enabled: true`, or give the view as expressions"));
        }
        let (reply, answer) = oneshot::channel();
        self.0.submit(Job {
            definition: Arc::clone(definition),
            frame,
            reply,
            attempts: 0,
        });
        let answer = answer
            .await
            .map_err(|_| Error::unavailable("Python workers are shutting down"))??;
        let Object::Tuple(mut parts) = marshal::read(answer)? else {
            return Err(nonsense());
        };
        if parts.is_empty() {
            return Err(nonsense());
        }
        let rest = parts.split_off(1);
        match (&parts[0], &rest[..]) {
            (Object::Text(head), _) if matches!(head.as_str(), "values" | "arrow") => Ok(rest),
            (Object::Text(_), [Object::Text(problem)]) => {
                Err(Error::invalid(format!("its Python function failed: {problem}")))
            }
            _ => Err(nonsense()),
        }
    }
}

fn nonsense() -> Error {
    Error::internal("a Python worker answered nonsense")
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a call into the queue and sees to it that somebody takes it.
    fn submit(self: &Arc<Self>, job: Job) {
        let mut state = self.state();
        state.waiting.push_back(job);
        if state.idle > 0 {
            state.idle -= 1;
            self.ready.notify_one();
        } else if state.running < self.config.workers.max(1) {
            state.running += 1;
            let running = Running(Arc::clone(self));
            drop(state);
            tokio::spawn(work(running));
        }
    }

    /// The next calls for one worker; registers it as idle when there are none.
    fn take(&self) -> VecDeque<Job> {
        let mut state = self.state();
        let mut jobs = VecDeque::new();
        let share = (state.waiting.len() / state.running.max(1)).clamp(1, TOGETHER);
        while jobs.len() < share {
            let Some(job) = state.waiting.pop_front() else {
                break;
            };
            // Whoever asked has gone.
            if job.reply.is_closed() {
                continue;
            }
            if jobs.is_empty() || job.definition.is_quick() {
                jobs.push_back(job);
            } else {
                state.waiting.push_front(job);
                break;
            }
            if jobs.front().is_some_and(|first| !first.definition.is_quick()) {
                break;
            }
        }
        if jobs.is_empty() {
            state.idle += 1;
        }
        jobs
    }

    /// Calls that were handed over but not begun go back to where they were.
    fn give_back(&self, jobs: VecDeque<Job>) {
        let mut state = self.state();
        for mut job in jobs.into_iter().rev() {
            job.attempts += 1;
            if job.attempts < ATTEMPTS + self.config.workers {
                state.waiting.push_front(job);
            } else {
                let gone = Error::unavailable("Python workers died before they came to it");
                let _ = job.reply.send(Err(gone));
            }
        }
    }
}

/// The right to be one of the workers.
struct Running(Arc<Shared>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.state().running -= 1;
    }
}

/// Serves calls with one process at a time, for as long as the runtime lives.
async fn work(running: Running) {
    let shared = &running.0;
    let mut worker: Option<Worker> = None;
    loop {
        let jobs = shared.take();
        if jobs.is_empty() {
            shared.ready.notified().await;
            continue;
        }
        let ready = match worker.take().filter(|worker| worker.known.len() <= FUNCTIONS) {
            Some(worker) => Ok(worker),
            None => Worker::start(&shared.config).await,
        };
        match ready {
            Ok(ready) => worker = serve(shared, ready, jobs).await,
            Err(error) => {
                for job in jobs {
                    let same = Error::new(error.kind(), error.message().to_owned());
                    let same = match error.hint_text() {
                        Some(hint) => same.hint(hint.to_owned()),
                        None => same,
                    };
                    let _ = job.reply.send(Err(same));
                }
            }
        }
    }
}

/// Why a worker is not to be used again.
enum End {
    Died,
    TookTooLong,
    Retired,
}

/// Has a worker answer some calls; gives it back if it can go on.
async fn serve(shared: &Shared, mut worker: Worker, mut jobs: VecDeque<Job>) -> Option<Worker> {
    let mut frames = Vec::new();
    for job in &jobs {
        if worker.known.insert(job.definition.number) {
            frames.extend_from_slice(&job.definition.frame);
        }
        frames.extend_from_slice(&job.frame);
    }
    let limit = shared.config.time_limit;
    let Worker { input, output, .. } = &mut worker;
    let mut sent = 0;
    let write = async {
        // A worker that died is noticed by its missing answer.
        while let Ok(more @ 1..) = input.write(&frames[sent..]).await {
            sent += more;
        }
        std::future::pending::<()>().await;
    };
    let read = async {
        while let Some(job) = jobs.front() {
            let started = Instant::now();
            let answer = match timeout(limit, read_frame(output)).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => return Err(End::Died),
                Err(_) => return Err(End::TookTooLong),
            };
            job.definition.took(started.elapsed());
            let retires = is_retirement(&answer);
            if let Some(job) = jobs.pop_front() {
                let _ = job.reply.send(Ok(answer));
            }
            if retires {
                return Err(End::Retired);
            }
        }
        Ok(())
    };
    let ended = tokio::select! {
        ended = read => ended,
        () = write => Ok(()),
    };
    let error = match ended {
        Ok(()) => return Some(worker),
        Err(End::Retired) => None,
        Err(End::Died) if worker.read_nothing_of(sent as u64) => {
            tracing::info!(target: "thali::python", "an idle worker died and is replaced");
            None
        }
        Err(End::Died) => {
            let how = worker.how_it_ended().await;
            Some(Error::unavailable(format!("its Python worker died: {how}")))
        }
        Err(End::TookTooLong) => {
            let message = format!("its Python function took longer than {} s", limit.as_secs_f64());
            Some(
                Error::new(Kind::DeadlineExceeded, message)
                    .hint("`thali.python.time_limit_seconds` is how long it may take"),
            )
        }
    };
    if let Some(error) = error
        && let Some(job) = jobs.pop_front()
    {
        tracing::warn!(target: "thali::python", "a worker is replaced: {}", error.message());
        let _ = job.reply.send(Err(error));
    }
    shared.give_back(jobs);
    None
}

/// Whether the worker says that it ends after this answer; its head is the second object of the frame.
fn is_retirement(answer: &[u8]) -> bool {
    const HEAD: &[u8] = b"retire";
    answer.get(10..10 + HEAD.len()) == Some(HEAD)
}

fn values_frame(definition: &Definition, inputs: &[Input<'_>], rows: usize) -> Result<Vec<u8>> {
    // Columns are sent once, whatever names they have.
    let mut columns = Vec::with_capacity(inputs.len());
    let mut places = Vec::with_capacity(inputs.len());
    for input in inputs {
        places.push(match input.cells {
            Cells::Same(other) => places[other],
            _ => {
                columns.push(input.cells.values()?);
                columns.len() - 1
            }
        });
    }
    let long = |place: usize| i64::try_from(place).unwrap_or_default();
    Writer::frame(|out| {
        out.tuple(7);
        out.text("values");
        out.int(definition.number.cast_signed());
        out.int(long(rows));
        let mut tagged = Vec::new();
        out.list(columns.len());
        for (place, column) in columns.iter().enumerate() {
            out.list(column.len());
            if column
                .iter()
                .fold(false, |any, value| values::write(out, value) | any)
            {
                tagged.push(place);
            }
        }
        out.tuple(inputs.len());
        inputs.iter().for_each(|input| out.text(&input.name));
        out.tuple(places.len());
        places.iter().for_each(|place| out.int(long(*place)));
        out.tuple(tagged.len());
        tagged.iter().for_each(|place| out.int(long(*place)));
    })
}

fn encode(batch: &RecordBatch) -> Result<Vec<u8>> {
    let mut buffer = Vec::new();
    let mut writer = StreamWriter::try_new(&mut buffer, &batch.schema())?;
    writer.write(batch)?;
    writer.finish()?;
    drop(writer);
    Ok(buffer)
}

fn decode(payload: &[u8]) -> Result<Outputs> {
    let mut outputs = Outputs::new();
    for batch in StreamReader::try_new(payload, None)? {
        let batch = batch?;
        for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
            outputs.push((field.name().clone(), Arc::clone(column)));
        }
    }
    Ok(outputs)
}
