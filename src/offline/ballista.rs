//! [`Distributed`]: an offline store whose joins and windows run on a Ballista cluster (`batch_engine: {type: ballista}`).
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
//! # Newest rows
//! A window's newest rows, of which materialization stores one for each key, are found in two stages
//! (`window`): tasks read a range of the window's times each, then rows meet by the hash of their key. Rows
//! come back in an order that depends on them only, so that a job that is done again goes on where results
//! were lost, and a run that was killed where it was, as long as it is known that the source has the same rows;
//! where it is not, results that are lost halfway are an error.
//!
//! Executors read the sources themselves, with their own `feature_store.yaml`. Everything else (pulls of all
//! rows, writes, schemas) is done here, by the store underneath.

mod answer;
mod failure;
mod job;
mod plan;
mod task;
mod window;

use std::{collections::VecDeque, path::Path, sync::Arc};

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use datafusion::execution::SendableRecordBatchStream;
use tokio_util::task::TaskTracker;

use self::{
    answer::{Answer, Window},
    job::Cluster,
    task::{Question, Share},
};
use super::{
    asof::times::Scale,
    store::{Appended, EntityRows, HistoricalQuery, Note, OfflineStore, Parts, Pull, bytes_of},
};
use crate::{error::Result, proto::feast::core::DataSource};

pub use plan::Codec;

/// The longest message between the processes of a cluster.
pub const MESSAGE_BYTES: usize = 256 << 20;
/// How often a window is halved beyond what its tasks need: what is empty of it drops out.
const HALVINGS: usize = 24;
/// The scale of times in online stores, on which materialization compares them.
const STORED: Scale = Scale::Micros;
/// Bytes of entity rows in one job; more of them are several jobs, one after the other.
const JOB_BYTES: usize = MESSAGE_BYTES / 4;

/// See the module.
pub struct Distributed {
    local: Arc<dyn OfflineStore>,
    cluster: Cluster,
    tasks: usize,
}

impl Distributed {
    /// A store that joins and finds newest rows on the cluster of `scheduler` (`host:port`), in jobs of up to
    /// `tasks` tasks, and does everything else in `local`. The process must not end before `jobs` are over.
    pub fn new(local: Arc<dyn OfflineStore>, scheduler: &str, tasks: usize, jobs: TaskTracker) -> Self {
        Self {
            local,
            cluster: Cluster {
                scheduler: scheduler.to_owned(),
                jobs,
            },
            tasks: tasks.max(1),
        }
    }

    /// The newest rows of a window that has both ends, their times compared on the scale, and what they are of.
    async fn newest(&self, pull: &Pull, scale: Option<Scale>) -> Result<Option<(Answer, Window)>> {
        let (Some(start), Some(end)) = (pull.start, pull.end) else {
            return Ok(None);
        };
        let pull = Pull {
            latest_only: false,
            ..pull.clone()
        };
        // Nothing of it is read: it says what is wrong with the question, and tells the columns.
        let Parts {
            streams, fingerprint, ..
        } = self.local.pull_parts(pull.clone()).await?;
        let Some(schema) = streams.first().map(|rows| rows.schema()) else {
            return Ok(None);
        };
        let scale = scale.unwrap_or_else(|| window::finest(&pull, &schema));
        let question = Question::of_window(&pull, &schema, scale)?;
        let shares = self.ranges(&pull.source, start, end).await;
        let work = (!shares.is_empty()).then(|| Work {
            shares,
            rows: vec![None; self.tasks],
        });
        let window = Window {
            store: Arc::clone(&self.local),
            pull,
            fingerprint,
        };
        let answer = Answer::new(&self.cluster, question, schema, work.into_iter().collect());
        Ok(Some((answer.of_window(window.clone()), window)))
    }

    /// Ranges of times with about as many rows each as far as the source can tell, none where it has none:
    /// the fullest is halved until there is one for each task.
    async fn ranges(&self, source: &DataSource, start: DateTime<Utc>, end: DateTime<Utc>) -> Vec<Share> {
        let Some(rows) = self.local.rows_at_most(source, start, end).await else {
            return Work::even(start, end, self.tasks);
        };
        let seconds = |first: DateTime<Utc>, last: DateTime<Utc>| last.timestamp() - first.timestamp();
        let mut ranges = vec![(rows, start, end)];
        for _ in 0..self.tasks + HALVINGS {
            let (place, &(rows, first, last)) = match (0..)
                .zip(&ranges)
                .max_by_key(|(_, (rows, first, last))| (*rows, seconds(*first, *last)))
            {
                Some(fullest) if ranges.len() < self.tasks => fullest,
                _ => break,
            };
            let middle = first.timestamp() + seconds(first, last) / 2;
            let Some(middle) = DateTime::from_timestamp(middle, 0).filter(|middle| first < *middle) else {
                break;
            };
            ranges.swap_remove(place);
            for (first, last) in [(first, middle - TimeDelta::nanoseconds(1)), (middle, last)] {
                // Of what is not known any more, all rows may be.
                let fewer = self.local.rows_at_most(source, first, last).await;
                ranges.push((fewer.unwrap_or(rows), first, last));
            }
            ranges.retain(|(rows, ..)| *rows > 0);
        }
        ranges
            .into_iter()
            .filter(|(rows, ..)| *rows > 0)
            .map(|(_, first, last)| Share::of_range(first, last))
            .collect()
    }
}

/// The shares of a job's tasks, and how many rows each of its results is to have where that is known before.
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

    /// One job that is the range.
    fn of_range(start: DateTime<Utc>, end: DateTime<Utc>, tasks: usize) -> VecDeque<Self> {
        let shares = Self::even(start, end, tasks);
        VecDeque::from([Self {
            rows: vec![None; shares.len()],
            shares,
        }])
    }

    /// A range, cut at whole seconds so that every unit of time sees the same cuts.
    fn even(start: DateTime<Utc>, end: DateTime<Utc>, tasks: usize) -> Vec<Share> {
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
        (0..tasks).map(share).collect()
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
        Answer::new(&self.cluster, question, schema, work).rows().await
    }

    async fn pull(&self, pull: Pull) -> Result<SendableRecordBatchStream> {
        if pull.latest_only
            && let Some((answer, _)) = self.newest(&pull, None).await?
        {
            return answer.rows().await;
        }
        self.local.pull(pull).await
    }

    async fn newest_parts(&self, pull: &Pull) -> Result<Option<Parts>> {
        let Some((answer, window)) = self.newest(pull, Some(STORED)).await? else {
            return Ok(None);
        };
        let rows = answer.rows().await?;
        // Executors have read the source by now, each at a time of its own.
        let known = match window.is_unchanged().await? {
            true => window.fingerprint,
            false => None,
        };
        // Rows come by hashes of their keys, of which another version may have others.
        let version = env!("CARGO_PKG_VERSION");
        Ok(Some(Parts {
            streams: vec![rows],
            fingerprint: known.map(|known| format!("{known} {} {version}", self.tasks)),
            in_order: true,
        }))
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

    async fn log(&self, service: &str, batches: &[RecordBatch]) -> Result<Option<u64>> {
        self.local.log(service, batches).await
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
