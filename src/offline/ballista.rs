//! [`Distributed`]: an offline store whose joins run on a Ballista cluster (`batch_engine: {type: ballista}`).
//!
//! # What is split
//! The join of [`super::asof`] keeps entity rows in memory and streams the sources past them, and where they do
//! not fit, it takes them in runs, each a whole join. A cluster does these runs side by side: a query becomes
//! jobs of up to `tasks` tasks, each the ordinary local join of a range of the entity rows, done by an executor
//! with its own memory limit and all its cores. The predicates that the join pushes into its scans (times, keys)
//! are those of the task's own rows: entity rows that come in order of time read each part of a source about
//! once, others read the sources once a task. Ranges, not hashes of keys, so that results only have to be put
//! one after the other and stream to the caller in the order of the entity rows.
//!
//! Without entity rows the range of times is split, since its rows come in order of time.
//!
//! # What is promised
//! The answer is that of the local engine. An executor that dies has its tasks done again by another, those
//! included that it had done. Where a result is gone when it is fetched, its job is done again, and rows that
//! were given already are left out: a task has as many rows as it was given, in their order, and that is
//! checked. Dropping the answer cancels the job (`job`).
//!
//! Executors read the sources themselves, with their own `feature_store.yaml`. Everything but joins (pulls for
//! materialization, writes, schemas) is done here, by the store underneath.

mod failure;
mod job;
mod plan;
mod task;

use std::{collections::VecDeque, path::Path, sync::Arc};

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use datafusion::{
    error::DataFusionError, execution::SendableRecordBatchStream,
    physical_plan::stream::RecordBatchStreamAdapter,
};
use futures::{StreamExt as _, stream};

use self::{
    job::{Job, Place},
    task::{Question, Share},
};
use super::store::{Appended, EntityRows, HistoricalQuery, Note, OfflineStore, Parts, Pull, bytes_of};
use crate::{
    error::{Error, Kind, Result},
    proto::feast::core::DataSource,
};

pub use plan::Codec;

/// The longest message between the processes of a cluster.
pub const MESSAGE_BYTES: usize = 256 << 20;
/// Bytes of entity rows in one job; more of them are several jobs, one after the other.
const JOB_BYTES: usize = MESSAGE_BYTES / 4;
/// How often a job is tried whose results were lost.
const ATTEMPTS: usize = 3;

/// See the module.
pub struct Distributed {
    local: Arc<dyn OfflineStore>,
    scheduler: String,
    tasks: usize,
}

impl Distributed {
    /// A store that joins on the cluster of `scheduler` (`host:port`), in jobs of up to `tasks` tasks, and does
    /// everything else in `local`.
    pub fn new(local: Arc<dyn OfflineStore>, scheduler: &str, tasks: usize) -> Self {
        Self {
            local,
            scheduler: scheduler.to_owned(),
            tasks: tasks.max(1),
        }
    }
}

/// The shares of a job's tasks, and how many rows each is to have where that is known before.
struct Work {
    shares: Vec<Share>,
    rows: Vec<Option<usize>>,
}

impl Work {
    /// Jobs that are the entity rows, one after the other; none where there are no rows.
    fn of_rows(
        schema: &SchemaRef,
        batches: &[RecordBatch],
        timestamp_column: &str,
        tasks: usize,
    ) -> Result<VecDeque<Self>> {
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        let bytes: usize = batches.iter().map(bytes_of).sum();
        let jobs = bytes.div_ceil(JOB_BYTES).max(1).min(rows);
        let mut work = VecDeque::new();
        let (mut first, mut source) = (0, Slices::new(batches));
        for job in 0..jobs {
            let last = rows * (job + 1) / jobs;
            let count = tasks.min(last - first);
            let mut this = Self {
                shares: Vec::new(),
                rows: Vec::new(),
            };
            for task in 0..count {
                let end = first + (last - first) * (task + 1) / count;
                let begin = first + (last - first) * task / count;
                let slices = source.take(end - begin);
                this.shares
                    .push(Share::of_rows(schema, &slices, timestamp_column)?);
                this.rows.push(Some(end - begin));
            }
            work.push_back(this);
            first = last;
        }
        Ok(work)
    }

    /// One job that is the range, cut at whole seconds so that every unit of time sees the same cuts.
    fn of_range(start: DateTime<Utc>, end: DateTime<Utc>, tasks: usize) -> VecDeque<Self> {
        let seconds = (end - start).num_seconds();
        let tasks = i64::try_from(tasks).unwrap_or(i64::MAX).min(seconds).max(1);
        let cut = |number: i64| {
            let after = i128::from(seconds) * i128::from(number) / i128::from(tasks);
            let after = i64::try_from(after).unwrap_or(i64::MAX);
            DateTime::from_timestamp(start.timestamp().saturating_add(after), 0).unwrap_or(end)
        };
        let share = |number: i64| {
            let from = if number == 0 { start } else { cut(number) };
            let until = if number + 1 == tasks {
                end
            } else {
                cut(number + 1) - TimeDelta::nanoseconds(1)
            };
            Share::of_range(from, until)
        };
        let shares: Vec<_> = (0..tasks).map(share).collect();
        VecDeque::from([Self {
            rows: vec![None; shares.len()],
            shares,
        }])
    }
}

/// Batches that are taken off row by row, without copying.
struct Slices<'a> {
    batches: std::slice::Iter<'a, RecordBatch>,
    rest: Option<RecordBatch>,
}

impl<'a> Slices<'a> {
    fn new(batches: &'a [RecordBatch]) -> Self {
        Self {
            batches: batches.iter(),
            rest: None,
        }
    }

    fn take(&mut self, mut rows: usize) -> Vec<RecordBatch> {
        let mut taken = Vec::new();
        while rows > 0 {
            let Some(batch) = self.rest.take().or_else(|| self.batches.next().cloned()) else {
                break;
            };
            let count = rows.min(batch.num_rows());
            if count > 0 {
                taken.push(batch.slice(0, count));
            }
            if count < batch.num_rows() {
                self.rest = Some(batch.slice(count, batch.num_rows() - count));
            }
            rows -= count;
        }
        taken
    }
}

/// The answer under way.
struct Answer {
    scheduler: String,
    question: Question,
    schema: SchemaRef,
    work: VecDeque<Work>,
    /// Of the first job in `work`.
    fetching: Option<Fetching>,
    attempts: usize,
    /// Rows of it that were given.
    given: usize,
}

/// The results of a job.
struct Fetching {
    places: VecDeque<(Place, Option<usize>)>,
    current: Option<(SendableRecordBatchStream, Option<usize>)>,
    /// Rows that an earlier attempt gave.
    skip: usize,
    _job: Job,
}

impl Answer {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        while let Some(work) = self.work.front() {
            let fetching = match self.fetching.take() {
                Some(fetching) => fetching,
                None => Fetching::start(&self.scheduler, &self.question, work, self.given).await?,
            };
            match fetching.next().await {
                Ok(Some((batch, fetching))) => {
                    self.fetching = Some(fetching);
                    if let Some(batch) = batch {
                        self.given += batch.num_rows();
                        let columns = batch.columns().to_vec();
                        return Ok(Some(RecordBatch::try_new(Arc::clone(&self.schema), columns)?));
                    }
                }
                Ok(None) => {
                    self.work.pop_front();
                    (self.given, self.attempts) = (0, 0);
                }
                // Results are lost with their executor; why a job failed is the same the next time.
                Err(error) if error.kind() == Kind::Unavailable && self.attempts + 1 < ATTEMPTS => {
                    tracing::warn!(%error, "a job is done again");
                    self.attempts += 1;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

impl Fetching {
    /// Runs a job to its end.
    async fn start(scheduler: &str, question: &Question, work: &Work, skip: usize) -> Result<Self> {
        let plan = plan::encoded(question.clone(), &work.shares)?;
        let mut job = Job::submit(scheduler, plan).await?;
        let places = job.finish().await?;
        let complete = places.len() == work.rows.len()
            && (0..)
                .zip(&places)
                .all(|(number, place)| place.partition() == Some(number));
        if !complete {
            return Err(Error::internal(format!(
                "of {} tasks of a job {} have results",
                work.rows.len(),
                places.len()
            )));
        }
        Ok(Self {
            places: places.into_iter().zip(work.rows.iter().copied()).collect(),
            current: None,
            skip,
            _job: job,
        })
    }

    /// The next batch, or none of this call's, and the rest; `None` at the end.
    async fn next(mut self) -> Result<Option<(Option<RecordBatch>, Self)>> {
        let Some((rows, left)) = &mut self.current else {
            let Some((place, rows)) = self.places.pop_front() else {
                return Ok(None);
            };
            self.current = Some((place.fetch().await?, rows));
            return Ok(Some((None, self)));
        };
        let Some(batch) = rows.next().await else {
            if left.is_some_and(|left| left > 0) {
                return Err(Error::unavailable("the result of a task has too few rows"));
            }
            self.current = None;
            return Ok(Some((None, self)));
        };
        let batch = batch.map_err(|error| {
            Error::unavailable("the result of a task cannot be read to its end").source_error(error)
        })?;
        if let Some(left) = left {
            *left = left
                .checked_sub(batch.num_rows())
                .ok_or_else(|| Error::internal("the result of a task has too many rows"))?;
        }
        let skipped = self.skip.min(batch.num_rows());
        self.skip -= skipped;
        let batch = batch.slice(skipped, batch.num_rows() - skipped);
        Ok(Some(((batch.num_rows() > 0).then_some(batch), self)))
    }
}

#[async_trait]
impl OfflineStore for Distributed {
    async fn historical(&self, query: HistoricalQuery) -> Result<SendableRecordBatchStream> {
        let HistoricalQuery {
            entities,
            views,
            filter_by_created,
        } = query;
        // The same question about no rows opens the sources, says what is wrong with the question, and tells
        // the columns of its answer.
        let (work, none) = match entities {
            EntityRows::Batches {
                schema,
                batches,
                timestamp_column,
            } => {
                let work = Work::of_rows(&schema, &batches, &timestamp_column, self.tasks)?;
                let none = EntityRows::Batches {
                    schema,
                    batches: Vec::new(),
                    timestamp_column,
                };
                (work, none)
            }
            EntityRows::Range { start, end } => {
                let work = Work::of_range(start, end, self.tasks);
                (
                    work,
                    EntityRows::Range {
                        start: end.max(start),
                        end,
                    },
                )
            }
            entities @ EntityRows::Query(_) => {
                let query = HistoricalQuery {
                    entities,
                    views,
                    filter_by_created,
                };
                return self.local.historical(query).await;
            }
        };
        let nothing = HistoricalQuery {
            entities: none,
            views: views.clone(),
            filter_by_created,
        };
        let nothing = self.local.historical(nothing).await?;
        if work.is_empty() {
            return Ok(nothing);
        }
        let schema = nothing.schema();
        let question = Question::new(&views, filter_by_created, &schema)?;
        let mut answer = Answer {
            scheduler: self.scheduler.clone(),
            question,
            schema: Arc::clone(&schema),
            work,
            fetching: None,
            attempts: 0,
            given: 0,
        };
        // As the local engine: when this returns, there are rows or there was an error.
        let first = answer.next().await?;
        let rest = stream::try_unfold(answer, |mut answer| async move {
            let batch = answer.next().await?;
            Ok::<_, DataFusionError>(batch.map(|batch| (batch, answer)))
        });
        let rows = stream::iter(first.map(Ok)).chain(rest);
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }

    async fn pull(&self, pull: Pull) -> Result<SendableRecordBatchStream> {
        self.local.pull(pull).await
    }

    async fn pull_parts(&self, pull: Pull) -> Result<Parts> {
        self.local.pull_parts(pull).await
    }

    async fn append(
        &self,
        source: &DataSource,
        batches: Vec<RecordBatch>,
        once: Option<&Path>,
    ) -> Result<Appended> {
        self.local.append(source, batches, once).await
    }

    async fn save(
        &self,
        target: &DataSource,
        rows: SendableRecordBatchStream,
        overwrite: bool,
        note: Option<Note>,
    ) -> Result<u64> {
        self.local.save(target, rows, overwrite, note).await
    }

    async fn note(&self, source: &DataSource) -> Result<Option<String>> {
        self.local.note(source).await
    }

    fn as_saved(
        &self,
        target: &DataSource,
        rows: SendableRecordBatchStream,
    ) -> Result<SendableRecordBatchStream> {
        self.local.as_saved(target, rows)
    }

    fn takes_queries(&self) -> bool {
        self.local.takes_queries()
    }

    async fn select(&self, sql: &str, sources: &[DataSource]) -> Result<(SchemaRef, Vec<RecordBatch>)> {
        self.local.select(sql, sources).await
    }

    async fn schema(&self, source: &DataSource) -> Result<SchemaRef> {
        self.local.schema(source).await
    }

    async fn rows_at_most(
        &self,
        source: &DataSource,
        start: DateTime<Utc>,
        end: DateTime<Utc>,
    ) -> Option<u64> {
        self.local.rows_at_most(source, start, end).await
    }

    async fn check(&self) -> Result<()> {
        self.local.check().await
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
