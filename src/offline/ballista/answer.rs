//! [`Answer`]: the results of jobs, one after the other, as one stream.

use std::{collections::VecDeque, sync::Arc};

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use datafusion::{
    error::DataFusionError, execution::SendableRecordBatchStream,
    physical_plan::stream::RecordBatchStreamAdapter,
};
use futures::{StreamExt as _, stream};

use super::{
    Work,
    job::{Cluster, Job, Place},
    plan,
    task::Question,
};
use crate::{
    error::{Error, Kind, Result},
    offline::store::{OfflineStore, Pull},
};

/// How often a job is tried whose results were lost.
const ATTEMPTS: usize = 3;

/// What a window's rows are of.
pub(super) struct Window {
    pub(super) store: Arc<dyn OfflineStore>,
    pub(super) pull: Pull,
    pub(super) fingerprint: Option<String>,
}

/// See the module.
pub(super) struct Answer {
    cluster: Cluster,
    question: Question,
    schema: SchemaRef,
    work: VecDeque<Work>,
    window: Option<Window>,
    may_repeat: bool,
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
    /// Of a question, work by work, in these columns.
    pub(super) fn new(
        cluster: &Cluster,
        question: Question,
        schema: SchemaRef,
        work: VecDeque<Work>,
    ) -> Self {
        Self {
            cluster: cluster.clone(),
            question,
            schema,
            work,
            window: None,
            may_repeat: false,
            fetching: None,
            attempts: 0,
            given: 0,
        }
    }

    /// Its rows are those of a window.
    pub(super) fn of_window(self, window: Window) -> Self {
        Self {
            window: Some(window),
            ..self
        }
    }

    /// Where a window's results are lost and its source is another now, its rows may come again.
    pub(super) fn repeating(self) -> Self {
        Self {
            may_repeat: true,
            ..self
        }
    }

    /// As of the local engine: when this returns, there are rows or there was an error.
    pub(super) async fn rows(mut self) -> Result<SendableRecordBatchStream> {
        let schema = Arc::clone(&self.schema);
        let first = self.next().await?;
        let rest = stream::try_unfold(self, |mut answer| async move {
            let batch = answer.next().await?;
            Ok::<_, DataFusionError>(batch.map(|batch| (batch, answer)))
        });
        let rows = stream::iter(first.map(Ok)).chain(rest);
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }

    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        while let Some(work) = self.work.front() {
            let fetching = match self.fetching.take() {
                Some(fetching) => fetching,
                None => Fetching::start(&self.cluster, &self.question, work, self.given).await?,
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
                    self.given = self.go_on_after(error).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// How many rows of a job that is done again were given before.
    async fn go_on_after(&mut self, lost: Error) -> Result<usize> {
        let Some(window) = self.window.as_ref().filter(|_| self.given > 0) else {
            return Ok(self.given);
        };
        if window.fingerprint.is_some() {
            let now = window.store.pull_parts(window.pull.clone()).await?;
            if now.fingerprint == window.fingerprint {
                return Ok(self.given);
            }
        }
        if self.may_repeat { Ok(0) } else { Err(lost) }
    }
}

impl Fetching {
    /// Runs a job to its end.
    async fn start(cluster: &Cluster, question: &Question, work: &Work, skip: usize) -> Result<Self> {
        let plan = plan::encoded(question.clone(), &work.shares, work.rows.len())?;
        let mut job = cluster.submit(question.name(), plan).await?;
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
        let known = |(place, rows): (Place, &Option<usize>)| {
            let rows = rows.or(place.rows());
            (place, rows)
        };
        Ok(Self {
            places: places.into_iter().zip(&work.rows).map(known).collect(),
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
