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

/// What a window's rows are of, and what the source's rows were known by before anybody read them.
#[derive(Clone)]
pub(super) struct Window {
    pub(super) store: Arc<dyn OfflineStore>,
    pub(super) pull: Pull,
    pub(super) fingerprint: Option<String>,
}

impl Window {
    /// Whether it is known that the source has the same rows still: whoever read them meanwhile read the same.
    pub(super) async fn is_unchanged(&self) -> Result<bool> {
        if self.fingerprint.is_none() {
            return Ok(false);
        }
        let now = self.store.pull_parts(self.pull.clone()).await?;
        Ok(now.fingerprint == self.fingerprint)
    }
}

/// See the module.
pub(super) struct Answer {
    cluster: Cluster,
    question: Question,
    schema: SchemaRef,
    work: VecDeque<Work>,
    window: Option<Window>,
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
                None => {
                    let fetching = Fetching::start(&self.cluster, &self.question, work, self.given).await?;
                    // Results of a window go on where they were if they are those of the same rows.
                    if let Some(window) = self.window.as_ref().filter(|_| self.given > 0)
                        && !window.is_unchanged().await?
                    {
                        return Err(Error::unavailable(
                            "results were lost with their executor, and the source has other rows now",
                        )
                        .hint("run it again"));
                    }
                    fetching
                }
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
                Err(error) if error.kind() == Kind::Unavailable && self.may_be_asked_again() => {
                    tracing::warn!(%error, "a job is done again");
                    self.attempts += 1;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn may_be_asked_again(&self) -> bool {
        let window = self.window.as_ref().filter(|_| self.given > 0);
        self.attempts + 1 < ATTEMPTS && window.is_none_or(|window| window.fingerprint.is_some())
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
