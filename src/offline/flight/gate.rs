//! [`Gate`]: how much the offline server takes on at a time, and what it says about it in metrics.
//!
//! A command has a place from the moment its name is known until its last row is sent, or until its client
//! is gone: [`Work`] is that place. The rows of a result are pulled by a task of their own, at most
//! [`AHEAD`] batches ahead of the client, so that a client that stops reading is found when the command's
//! time is over, and one that goes away ends the query at once.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use arrow::record_batch::RecordBatch;
use datafusion::{
    error::DataFusionError, execution::SendableRecordBatchStream,
    physical_plan::stream::RecordBatchStreamAdapter,
};
use futures::{StreamExt as _, stream};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::Instant,
};
use tracing::Instrument as _;

use super::super::store::bytes_of;
use crate::{
    config::OfflineConfig,
    error::{Error, Kind, Result},
    metrics::{FlightCommand, FlightFlow, FlightOutcome, Metrics},
};

/// Batches of a result that wait for the client.
const AHEAD: usize = 1;

/// See the module.
#[derive(Debug)]
pub(super) struct Gate {
    places: Arc<Semaphore>,
    most_places: usize,
    timeout: Option<Duration>,
    upload_bytes: usize,
    upload_rows: usize,
    /// Bytes that all uploads may hold together, and those that they do.
    all_bytes: usize,
    held: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
}

impl Gate {
    pub(super) fn new(config: &OfflineConfig, memory_limit: usize, metrics: Arc<Metrics>) -> Self {
        let own = config.max_upload.and_then(|bytes| usize::try_from(bytes).ok());
        Self {
            places: Arc::new(Semaphore::new(config.max_queries.min(Semaphore::MAX_PERMITS))),
            most_places: config.max_queries,
            timeout: config.query_timeout,
            upload_bytes: own.map_or(memory_limit, |own| own.min(memory_limit)),
            upload_rows: config.max_upload_rows,
            all_bytes: memory_limit,
            held: Arc::default(),
            metrics,
        }
    }

    /// Bytes one upload may have.
    pub(super) fn upload_bytes(&self) -> usize {
        self.upload_bytes
    }

    /// A place for a command.
    ///
    /// # Errors
    /// `Overloaded` when there is none.
    pub(super) fn enter(&self, command: &'static str) -> Result<Work> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            count(&self.metrics, command, "refused");
            return Err(Error::new(
                Kind::Overloaded,
                format!(
                    "{} commands are being worked on, which is the limit of this offline server",
                    self.most_places
                ),
            )
            .hint("try again later; the limit is `thali.offline.max_queries`"));
        };
        self.metrics
            .flight_in_flight
            .get_or_create(&FlightCommand { command })
            .inc();
        let started = Instant::now();
        Ok(Work {
            command,
            started,
            deadline: self.timeout.and_then(|timeout| started.checked_add(timeout)),
            outcome: Mutex::new("cancelled"),
            uploaded: Held {
                bytes: AtomicUsize::new(0),
                all: Arc::clone(&self.held),
                metrics: Arc::clone(&self.metrics),
            },
            rows: AtomicUsize::new(0),
            metrics: Arc::clone(&self.metrics),
            _place: place,
        })
    }

    /// Takes in one batch of an upload.
    ///
    /// # Errors
    /// `TooLarge` when the upload is, `Overloaded` when all of them are.
    pub(super) fn take_in(&self, work: &Work, batch: &RecordBatch) -> Result<()> {
        let bytes = bytes_of(batch);
        if work.uploaded.bytes.load(Relaxed).saturating_add(bytes) > self.upload_bytes {
            return Err(self.too_large());
        }
        let before = work.rows.fetch_add(batch.num_rows(), Relaxed);
        if before.saturating_add(batch.num_rows()) > self.upload_rows {
            return Err(Error::new(
                Kind::TooLarge,
                format!("the upload has more than {} rows", self.upload_rows),
            )
            .hint("send the rows in several requests; the limit is `thali.offline.max_upload_rows`"));
        }
        let fits = |held: usize| held.checked_add(bytes).filter(|&all| all <= self.all_bytes);
        if self.held.fetch_update(Relaxed, Relaxed, fits).is_err() {
            return Err(Error::new(
                Kind::Overloaded,
                "the uploads of other requests leave no room for this one",
            )
            .hint("try again later, or raise `thali.memory_limit`"));
        }
        work.uploaded.bytes.fetch_add(bytes, Relaxed);
        self.metrics.flight_upload_bytes.inc_by(gauged(bytes));
        flow(&self.metrics, work.command, "in", batch.num_rows(), bytes);
        Ok(())
    }

    /// The refusal of an upload that is too large.
    pub(super) fn too_large(&self) -> Error {
        Error::new(
            Kind::TooLarge,
            format!("the upload has more than {} bytes", self.upload_bytes),
        )
        .hint("send the rows in several requests; the limits are `thali.offline.max_upload` and `thali.memory_limit`")
    }
}

/// Bytes of an upload, given back when dropped.
#[derive(Debug)]
struct Held {
    bytes: AtomicUsize,
    all: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let bytes = self.bytes.load(Relaxed);
        self.all.fetch_sub(bytes, Relaxed);
        self.metrics.flight_upload_bytes.dec_by(gauged(bytes));
    }
}

/// A command being worked on.
#[derive(Debug)]
pub(super) struct Work {
    command: &'static str,
    started: Instant,
    deadline: Option<Instant>,
    /// What is counted when it ends: as nobody waits for it, unless somebody says otherwise.
    outcome: Mutex<&'static str>,
    uploaded: Held,
    /// Rows taken in.
    rows: AtomicUsize,
    metrics: Arc<Metrics>,
    _place: OwnedSemaphorePermit,
}

impl Drop for Work {
    fn drop(&mut self) {
        let label = FlightCommand {
            command: self.command,
        };
        self.metrics.flight_in_flight.get_or_create(&label).dec();
        self.metrics
            .flight_seconds
            .get_or_create(&label)
            .observe(self.started.elapsed().as_secs_f64());
        let outcome = *self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        count(&self.metrics, self.command, outcome);
    }
}

impl Work {
    pub(super) fn command(&self) -> &'static str {
        self.command
    }

    fn ends_as(&self, outcome: &'static str) {
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = outcome;
    }

    /// Does a part of the work in the time there is left for all of it; failing ends it.
    ///
    /// # Errors
    /// What `part` returns; `DeadlineExceeded` when the time is over.
    pub(super) async fn part<T>(&self, part: impl Future<Output = Result<T>>) -> Result<T> {
        let done = match self.deadline {
            None => part.await,
            Some(deadline) => match tokio::time::timeout_at(deadline, part).await {
                Ok(done) => done,
                Err(_) => Err(self.late()),
            },
        };
        if let Err(error) = &done {
            self.ends_as(failure(error.kind()));
        }
        done
    }

    /// The work is done.
    pub(super) fn done(self) {
        self.ends_as("success");
    }

    fn late(&self) -> Error {
        let limit = self.deadline.map(|deadline| deadline - self.started);
        let seconds = limit.unwrap_or_default().as_secs_f64();
        Error::new(
            Kind::DeadlineExceeded,
            format!("the command was not done within {seconds} s"),
        )
        .hint("the limit is `thali.offline.query_timeout_seconds`, to the last row read")
    }

    /// Gives the rows to whoever reads the answer, and keeps the place until they are all taken.
    pub(super) fn stream(self, rows: SendableRecordBatchStream) -> SendableRecordBatchStream {
        let schema = rows.schema();
        let (taken, given) = mpsc::channel(AHEAD);
        tokio::spawn(self.feed(rows, taken).in_current_span());
        let given = stream::unfold(given, async |mut given| {
            let batch = given.recv().await?;
            Some((batch, given))
        });
        Box::pin(RecordBatchStreamAdapter::new(schema, given))
    }

    async fn feed(
        self,
        mut rows: SendableRecordBatchStream,
        taken: mpsc::Sender<std::result::Result<RecordBatch, DataFusionError>>,
    ) {
        let ended = async {
            loop {
                let batch = match rows.next().await {
                    None => return Ok(()),
                    Some(Ok(batch)) => batch,
                    Some(Err(error)) => return Err(error),
                };
                let (count, bytes) = (batch.num_rows(), bytes_of(&batch));
                if taken.send(Ok(batch)).await.is_err() {
                    // Nobody reads any more, of which the branch below takes care.
                    std::future::pending::<()>().await;
                }
                flow(&self.metrics, self.command, "out", count, bytes);
            }
        };
        let late = async {
            match self.deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            ended = ended => Some(ended),
            () = late => Some(Err(DataFusionError::External(Box::new(self.late())))),
            () = taken.closed() => None,
        };
        // The query ends here, before anything is said about it.
        drop(rows);
        match ended {
            None => {}
            Some(Ok(())) => self.ends_as("success"),
            Some(Err(error)) => {
                let kind = match &error {
                    DataFusionError::External(inner) => inner.downcast_ref::<Error>().map(Error::kind),
                    _ => None,
                };
                self.ends_as(failure(kind.unwrap_or(Kind::Internal)));
                // The place is free, although the client does not know yet.
                drop(self);
                let _ = taken.send(Err(error)).await;
            }
        }
    }
}

fn failure(kind: Kind) -> &'static str {
    if kind == Kind::DeadlineExceeded {
        "timeout"
    } else {
        "error"
    }
}

fn gauged(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn count(metrics: &Metrics, command: &'static str, outcome: &'static str) {
    metrics
        .flight_commands
        .get_or_create(&FlightOutcome { command, outcome })
        .inc();
}

fn flow(metrics: &Metrics, command: &'static str, direction: &'static str, rows: usize, bytes: usize) {
    let label = FlightFlow { command, direction };
    metrics.flight_rows.get_or_create(&label).inc_by(rows as u64);
    metrics.flight_bytes.get_or_create(&label).inc_by(bytes as u64);
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use arrow::{
        array::{ArrayRef, Int64Array},
        datatypes::SchemaRef,
    };

    use super::*;

    fn batch(rows: usize) -> RecordBatch {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![1; rows]));
        RecordBatch::try_from_iter([("x", column)]).unwrap()
    }

    fn gate(change: impl FnOnce(&mut OfflineConfig)) -> Gate {
        let mut config = OfflineConfig::default();
        change(&mut config);
        Gate::new(&config, 10_000, Arc::default())
    }

    /// Endless rows: how many batches were asked for, and a sign that they are gone.
    fn endless() -> (SendableRecordBatchStream, Arc<AtomicUsize>, mpsc::Receiver<()>) {
        let (alive, gone) = mpsc::channel(1);
        let asked = Arc::new(AtomicUsize::new(0));
        let schema: SchemaRef = batch(0).schema();
        let counter = Arc::clone(&asked);
        let rows = stream::repeat_with(move || {
            let _ = &alive;
            counter.fetch_add(1, Relaxed);
            Ok(batch(100))
        });
        (Box::pin(RecordBatchStreamAdapter::new(schema, rows)), asked, gone)
    }

    fn outcomes(gate: &Gate, outcome: &'static str) -> u64 {
        let command = "read";
        gate.metrics
            .flight_commands
            .get_or_create(&FlightOutcome { command, outcome })
            .get()
    }

    #[tokio::test]
    async fn a_slow_reader_holds_the_query_back_and_one_that_goes_ends_it() {
        let gate = gate(|_| {});
        let (rows, asked, mut gone) = endless();
        let mut read = gate.enter("read").unwrap().stream(rows);
        for _ in 0..5 {
            read.next().await.unwrap().unwrap();
        }
        // However long the feeder may run now, it finds no room for more.
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        let ahead = asked.load(Relaxed) - 5;
        assert!((1..=AHEAD + 1).contains(&ahead), "{ahead} batches ahead");
        drop(read);
        assert_eq!(gone.recv().await, None);
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert_eq!(outcomes(&gate, "cancelled"), 1);
        assert_eq!(gate.places.available_permits(), gate.most_places);
    }

    #[tokio::test]
    async fn a_command_ends_when_its_time_is_over_even_if_nobody_reads() {
        let gate = gate(|config| config.query_timeout = Some(Duration::from_millis(50)));
        let (rows, _asked, mut gone) = endless();
        let mut read = gate.enter("read").unwrap().stream(rows);
        assert_eq!(gone.recv().await, None, "the query was ended");
        let mut last = Ok(batch(0));
        while let Some(next) = read.next().await {
            last = next;
        }
        let late = Error::from(last.unwrap_err());
        assert_eq!(late.kind(), Kind::DeadlineExceeded);
        assert!(late.message().contains("0.05 s"), "{late}");
        assert_eq!(outcomes(&gate, "timeout"), 1);
        let waits = gate.enter("read").unwrap();
        let late = waits.part(std::future::pending::<Result<()>>()).await;
        assert_eq!(late.unwrap_err().kind(), Kind::DeadlineExceeded);
    }

    #[test]
    fn places_and_uploads_are_limited_and_given_back() {
        let gate = gate(|config| {
            config.max_queries = 2;
            config.max_upload = Some(6_000);
            config.max_upload_rows = 700;
        });
        let (one, two) = (gate.enter("read").unwrap(), gate.enter("read").unwrap());
        assert_eq!(gate.enter("read").unwrap_err().kind(), Kind::Overloaded);
        assert_eq!(outcomes(&gate, "refused"), 1);
        gate.take_in(&one, &batch(700)).unwrap();
        let rows = gate.take_in(&one, &batch(1)).unwrap_err();
        assert!(rows.message().contains("700 rows"), "{rows}");
        let own = gate.take_in(&one, &batch(60)).unwrap_err();
        assert_eq!(own.kind(), Kind::TooLarge);
        let all = gate.take_in(&two, &batch(650)).unwrap_err();
        assert_eq!(all.kind(), Kind::Overloaded, "{all}");
        assert_eq!(gate.metrics.flight_upload_bytes.get(), 5_600);
        drop(one);
        assert_eq!(gate.metrics.flight_upload_bytes.get(), 0);
        two.done();
        assert_eq!((outcomes(&gate, "success"), outcomes(&gate, "cancelled")), (1, 1));
        assert!(gate.enter("read").is_ok());
    }
}
