//! [`Job`]: one plan on its way through the cluster. It is submitted, watched until all its tasks are done,
//! and its result partitions are fetched from the executors that have them. It knows nothing of what is in it.
//!
//! Dropping a job ends it: what runs is cancelled, and the executors delete its files. A process that ends
//! waits for that ([`Cluster::jobs`]).

use std::time::Duration;

use ballista_core::{
    client::BallistaClient,
    serde::protobuf::{
        CancelJobParams, CleanJobDataParams, ExecuteQueryParams, GetJobStatusParams, KeyValuePair,
        PartitionLocation, execute_query_params::Query, execute_query_result, job_status::Status,
        scheduler_grpc_client::SchedulerGrpcClient,
    },
    version,
};
use datafusion::execution::SendableRecordBatchStream;
use tokio::runtime::Handle;
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};
use tonic::transport::{Channel, Endpoint};

use super::{MESSAGE_BYTES, failure};
use crate::error::{Error, Kind, Result, reason};

/// How often a job is asked how it is. Asking tells its number at once, which cancelling needs, and ends when
/// the scheduler does; a subscription does neither.
const LOOK: Duration = Duration::from_millis(50);
/// For reaching the scheduler, and for each word to it when a job ends.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Where a result partition is.
pub(super) struct Place(PartitionLocation);

/// Where jobs are handed in.
#[derive(Clone)]
pub(super) struct Cluster {
    /// `host:port`.
    pub(super) scheduler: String,
    /// Jobs that are not over.
    pub(super) jobs: TaskTracker,
}

/// See the module.
pub(super) struct Job {
    id: String,
    scheduler: SchedulerGrpcClient<Channel>,
    address: String,
    running: bool,
    unfinished: TaskTrackerToken,
}

impl Cluster {
    /// Hands a plan to the scheduler.
    ///
    /// # Errors
    /// `Unavailable` when there is no scheduler, `Config` when it is of another version.
    pub(super) async fn submit(&self, name: &'static str, plan: Vec<u8>) -> Result<Job> {
        let (address, unfinished) = (self.scheduler.clone(), self.jobs.token());
        // Whoever goes away meanwhile leaves a job of which nobody knows the number yet: it is dropped here.
        let submitted = tokio::spawn(async move { Job::submit(&address, name, plan, unfinished).await });
        submitted
            .await
            .map_err(|error| Error::internal("handing in a job ended unexpectedly").source_error(error))?
    }
}

impl Job {
    async fn submit(address: &str, name: &str, plan: Vec<u8>, unfinished: TaskTrackerToken) -> Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| {
            Error::config(format!(
                "`batch_engine.scheduler`: `{address}` is no address: {error}"
            ))
        })?;
        let channel = endpoint
            .connect_timeout(CONNECT_LIMIT)
            .tcp_nodelay(true)
            .connect()
            .await
            .map_err(|error| {
                Error::unavailable(format!(
                    "the ballista scheduler at `{address}` cannot be reached: {}",
                    reason(&error)
                ))
                .hint("start it with `thali cluster scheduler`, or set `batch_engine: local`")
            })?;
        let mut scheduler = SchedulerGrpcClient::new(channel)
            .max_encoding_message_size(MESSAGE_BYTES)
            .max_decoding_message_size(MESSAGE_BYTES);
        let setting = |key: &str, value: &str| KeyValuePair {
            key: key.to_owned(),
            value: Some(value.to_owned()),
        };
        let mut request = tonic::Request::new(ExecuteQueryParams {
            session_id: uuid::Uuid::now_v7().to_string(),
            operation_id: uuid::Uuid::now_v7().to_string(),
            settings: vec![setting("ballista.job.name", name)],
            query: Some(Query::PhysicalPlan(plan)),
        });
        version::insert_version_header(request.metadata_mut());
        let answer = scheduler
            .execute_query(request)
            .await
            .map_err(|status| refused(address, &status))?
            .into_inner();
        match answer.result {
            Some(execute_query_result::Result::Success(job)) => Ok(Self {
                id: job.job_id,
                scheduler,
                address: address.to_owned(),
                running: true,
                unfinished,
            }),
            Some(execute_query_result::Result::Failure(failure)) => Err(Error::config(format!(
                "the ballista scheduler at `{address}` does not understand thali's plans: {failure:?}"
            ))
            .hint("scheduler, executors and clients must be the same version of thali")),
            None => Err(Error::internal("the ballista scheduler answered nothing")),
        }
    }

    /// Waits until all tasks are done; where their results are, in the order of the partitions.
    ///
    /// # Errors
    /// `Unavailable` when the scheduler is gone or the job was ended, else what a task failed with.
    pub(super) async fn finish(&mut self) -> Result<Vec<Place>> {
        let mut turn = tokio::time::interval(LOOK);
        loop {
            turn.tick().await;
            let asked = self.scheduler.get_job_status(GetJobStatusParams {
                job_id: self.id.clone(),
            });
            let answer = asked.await.map_err(|status| refused(&self.address, &status))?;
            match answer.into_inner().status.and_then(|status| status.status) {
                None | Some(Status::Queued(_) | Status::Running(_)) => {}
                Some(Status::Failed(failed)) => {
                    self.running = false;
                    return Err(failure::heard(&failed.error));
                }
                Some(Status::Successful(done)) => {
                    self.running = false;
                    let mut places: Vec<_> = done.partition_location.into_iter().map(Place).collect();
                    places.sort_by_key(Place::partition);
                    return Ok(places);
                }
            }
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let (id, running, mut scheduler) = (self.id.clone(), self.running, self.scheduler.clone());
        let unfinished = self.unfinished.clone();
        let end = async move {
            if running {
                let job_id = id.clone();
                let cancel = scheduler.cancel_job(CancelJobParams { job_id });
                let problem = match tokio::time::timeout(CONNECT_LIMIT, cancel).await {
                    Ok(Ok(_)) => None,
                    Ok(Err(status)) => Some(status.to_string()),
                    Err(_) => Some("the scheduler does not answer".to_owned()),
                };
                if let Some(problem) = problem {
                    tracing::warn!(job = id, problem, "a job could not be cancelled");
                    return;
                }
            }
            // Whatever is left after this goes with the scheduler's own cleaning.
            let all = CleanJobDataParams {
                job_id: id,
                ..CleanJobDataParams::default()
            };
            let _cleaned = tokio::time::timeout(CONNECT_LIMIT, scheduler.clean_job_data(all)).await;
        };
        runtime.spawn(async move {
            end.await;
            drop(unfinished);
        });
    }
}

impl Place {
    /// Which partition it is, where that is known.
    pub(super) fn partition(&self) -> Option<u32> {
        self.0.partition_id.as_ref().map(|id| id.partition_id)
    }

    /// How many rows it has, where that is known.
    pub(super) fn rows(&self) -> Option<usize> {
        let rows = self.0.partition_stats.as_ref()?.num_rows;
        usize::try_from(rows).ok()
    }

    /// The partition's rows, from the executor that has them.
    ///
    /// # Errors
    /// `Unavailable` when the executor is gone.
    pub(super) async fn fetch(self) -> Result<SendableRecordBatchStream> {
        let layout = self.0.layout();
        let (Some(executor), Some(partition)) = (self.0.executor_meta, self.0.partition_id) else {
            return Err(Error::internal(
                "the ballista scheduler does not say where a result is",
            ));
        };
        let gone = |error: ballista_core::error::BallistaError| {
            Error::unavailable(format!(
                "the result of a task cannot be fetched from executor `{}` at {}:{}",
                executor.id, executor.host, executor.port
            ))
            .source_error(error.to_string())
        };
        let port = u16::try_from(executor.port).unwrap_or_default();
        let client = BallistaClient::try_new(&executor.host, port, MESSAGE_BYTES, false, None, 2, 200, 0, 0);
        let mut client = client.await.map_err(gone)?;
        let id = partition.into();
        client
            .fetch_partition(&executor.id, &id, self.0.file_id, layout, true)
            .await
            .map_err(gone)
    }
}

fn refused(address: &str, status: &tonic::Status) -> Error {
    let message = format!("the ballista scheduler at `{address}` says: {}", status.message());
    let kind = match status.code() {
        tonic::Code::FailedPrecondition => Kind::Config,
        tonic::Code::OutOfRange | tonic::Code::ResourceExhausted => Kind::TooLarge,
        _ => Kind::Unavailable,
    };
    Error::new(kind, message)
}
