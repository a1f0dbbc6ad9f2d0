//! Saved datasets beyond their registration: making one by a retrieval, in the background, and showing the
//! first rows of one. Both of the registry's servers use it.
//!
//! Jobs are kept in memory, as in Feast, and end with the process: a dataset is written beside its place and
//! moved there when it is whole, and registered after that, so an interrupted job leaves nothing.

mod entities;
mod sample;
mod storage;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use chrono::{DateTime, SecondsFormat, Utc};
use prost::Message;
use tokio::{sync::Semaphore, task::JoinSet};
use uuid::Uuid;

pub(crate) use self::{
    entities::moment,
    sample::sample,
    storage::{of_service, storage},
};
use super::{Catalog, apply::ApplyMode, store::history::Author};
use crate::{
    context::Context,
    error::{Error, Kind, Result},
    model::{Object, ObjectKind},
    offline::{
        dataset::{manifest::Definition, place_of, save},
        retrieve::{HistoricalRequest, RequestRows, Wanted, historical},
    },
    proto::feast::{
        core,
        registry::{CreateDatasetFromRetrievalRequest, GetDatasetJobStatusResponse},
    },
};

/// Jobs that run at the same time, as in Feast.
const RUNNING: usize = 2;
/// Jobs that may wait for their turn.
const WAITING: usize = 100;
/// Jobs that are remembered, finished ones included.
const KEPT: usize = 1000;

/// Where a job stands, in Feast's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Pending,
    Running,
    Completed,
    Failed,
}

impl Status {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }

    fn is_open(self) -> bool {
        matches!(self, Self::Pending | Self::Running)
    }
}

/// One dataset being made, or made.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) id: String,
    pub(crate) status: Status,
    dataset: String,
    project: String,
    created: DateTime<Utc>,
    completed: Option<DateTime<Utc>>,
    error: Option<String>,
}

impl Job {
    /// The job as both servers show it.
    pub(crate) fn report(&self) -> GetDatasetJobStatusResponse {
        let text = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Micros, false);
        GetDatasetJobStatusResponse {
            job_id: self.id.clone(),
            dataset_name: self.dataset.clone(),
            project: self.project.clone(),
            status: self.status.name().to_owned(),
            created_at: text(self.created),
            completed_at: self.completed.map(text).unwrap_or_default(),
            error: self.error.clone().unwrap_or_default(),
        }
    }
}

/// The jobs of this process. Dropping it stops those that run.
pub struct DatasetJobs {
    state: Mutex<State>,
    turns: Arc<Semaphore>,
}

#[derive(Default)]
struct State {
    /// Oldest first.
    jobs: VecDeque<Job>,
    tasks: JoinSet<()>,
}

impl Default for DatasetJobs {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            turns: Arc::new(Semaphore::new(RUNNING)),
        }
    }
}

impl DatasetJobs {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The job of that id.
    ///
    /// # Errors
    /// `ObjectNotFound`.
    pub(crate) fn get(&self, id: &str) -> Result<Job> {
        let found = self.state().jobs.iter().find(|job| job.id == id).cloned();
        found.ok_or_else(|| Error::new(Kind::ObjectNotFound, format!("Dataset job '{id}' not found")))
    }

    /// Jobs, newest first. An empty project means all of them; so does a status that there is not, as in Feast.
    pub(crate) fn list(&self, project: &str, status: &str) -> Vec<Job> {
        let all = [
            Status::Pending,
            Status::Running,
            Status::Completed,
            Status::Failed,
        ];
        let wanted = all.into_iter().find(|known| known.name() == status);
        let state = self.state();
        let fits = |job: &&Job| {
            (project.is_empty() || job.project == project) && wanted.is_none_or(|wanted| job.status == wanted)
        };
        state.jobs.iter().rev().filter(fits).cloned().collect()
    }

    fn set(&self, id: &str, change: impl FnOnce(&mut Job)) {
        if let Some(job) = self.state().jobs.iter_mut().find(|job| job.id == id) {
            change(job);
        }
    }

    fn finished(&self, id: &str, outcome: &Result<()>) {
        self.set(id, |job| {
            job.completed = Some(Utc::now());
            match outcome {
                Ok(()) => job.status = Status::Completed,
                Err(error) => {
                    job.status = Status::Failed;
                    job.error = Some(error.one_line());
                }
            }
        });
    }
}

/// Begins to make a dataset; the answer is the job that does it.
///
/// # Errors
/// `InvalidArgument` when the request cannot lead to a dataset, `AlreadyExists` when there is one of that
/// name and it may not be replaced, `Overloaded` when too many wait.
pub(crate) async fn create(context: &Context, mut request: CreateDatasetFromRetrievalRequest) -> Result<Job> {
    prepare(context, &mut request).await?;
    let job = Job {
        id: Uuid::new_v4().to_string(),
        status: Status::Pending,
        dataset: request.name.clone(),
        project: request.project.clone(),
        created: Utc::now(),
        completed: None,
        error: None,
    };
    submit(context, job, request)
}

/// Makes a dataset and returns when it is there.
///
/// # Errors
/// As [`create`], and what making it returns.
pub(crate) async fn create_now(
    context: &Context,
    mut request: CreateDatasetFromRetrievalRequest,
) -> Result<()> {
    prepare(context, &mut request).await?;
    make(context, &request).await
}

/// Refuses what cannot lead to a dataset.
async fn prepare(context: &Context, request: &mut CreateDatasetFromRetrievalRequest) -> Result<()> {
    for text in [&mut request.name, &mut request.project, &mut request.storage_path] {
        *text = text.trim().to_owned();
    }
    check(request)?;
    let catalog = context.registry.fresh_catalog(&request.project).await?;
    if !request.allow_overwrite && catalog.object(ObjectKind::SavedDataset, &request.name).is_some() {
        let message = format!(
            "A dataset named \"{}\" already exists in project \"{}\".",
            request.name, request.project
        );
        return Err(Error::new(Kind::AlreadyExists, message).hint("allow it to be overwritten"));
    }
    Ok(())
}

fn check(request: &CreateDatasetFromRetrievalRequest) -> Result<()> {
    let needed = [
        (&request.name, "Dataset name is required."),
        (&request.project, "Project is required."),
        (
            &request.storage_path,
            "Storage path (output destination) is required.",
        ),
    ];
    if let Some((_, message)) = needed.into_iter().find(|(value, _)| value.is_empty()) {
        return Err(Error::invalid(message));
    }
    if request.feature_service_name.is_empty() && request.features.is_empty() {
        return Err(Error::invalid(
            "Either feature_service_name or features list is required.",
        ));
    }
    if !matches!(request.storage_type.as_str(), "" | "file" | "postgres") {
        return Err(Error::invalid(format!(
            "datasets are made in files or in tables of PostgreSQL, not in `{}`",
            request.storage_type
        )));
    }
    entities::check(request)
}

fn submit(context: &Context, job: Job, request: CreateDatasetFromRetrievalRequest) -> Result<Job> {
    let jobs = &context.datasets;
    let mut state = jobs.state();
    if state.jobs.iter().filter(|job| job.status.is_open()).count() >= RUNNING + WAITING {
        return Err(Error::new(
            Kind::Overloaded,
            format!("{} datasets are being made already", RUNNING + WAITING),
        )
        .hint("try again when some of them are done"));
    }
    while state.jobs.len() >= KEPT
        && let Some(oldest) = state.jobs.iter().position(|job| !job.status.is_open())
    {
        state.jobs.remove(oldest);
    }
    while state.tasks.try_join_next().is_some() {}
    state.jobs.push_back(job.clone());
    // The work has jobs of its own, none: it must not keep those alive that keep it alive.
    let parts = Context {
        datasets: Arc::default(),
        ..context.clone()
    };
    let work = run(
        Arc::downgrade(jobs),
        Arc::clone(&jobs.turns),
        parts,
        job.id.clone(),
        request,
    );
    state.tasks.spawn_on(work, context.background.handle());
    Ok(job)
}

async fn run(
    jobs: Weak<DatasetJobs>,
    turns: Arc<Semaphore>,
    context: Context,
    id: String,
    request: CreateDatasetFromRetrievalRequest,
) {
    let Ok(_turn) = turns.acquire().await else { return };
    let Some(known) = jobs.upgrade() else { return };
    known.set(&id, |job| job.status = Status::Running);
    drop(known);
    let outcome = make(&context, &request).await;
    if let Err(error) = &outcome {
        tracing::warn!(dataset = request.name, %error, "a dataset was not made");
    }
    if let Some(known) = jobs.upgrade() {
        known.finished(&id, &outcome);
    }
}

async fn make(context: &Context, request: &CreateDatasetFromRetrievalRequest) -> Result<()> {
    let catalog = context.registry.fresh_catalog(&request.project).await?;
    let rows = entities::rows(context, &catalog, request).await?;
    let wanted = match request.feature_service_name.as_str() {
        "" => Wanted::features(request.features.clone()),
        service => Wanted::Service(service.to_owned()),
    };
    let question = HistoricalRequest {
        rows: RequestRows::Given {
            schema: rows.schema,
            batches: rows.batches,
        },
        wanted,
        full_feature_names: false,
        filter_by_created: false,
    };
    let definition = Definition::of(&catalog, &question.wanted, question.full_feature_names)?;
    let known_as_of = Utc::now();
    let target = place_of(
        &request.name,
        storage(&request.storage_type, &request.storage_path, "parquet"),
    )?;
    let answer = historical(context, &request.project, question).await?;
    let (offline, overwrite) = (context.offline.as_ref(), request.allow_overwrite);
    let manifest = save(offline, &target, answer, overwrite, (definition, known_as_of)).await?;
    let mut dataset = described(&catalog, request, rows.keys, (rows.first, rows.last));
    if let Some(spec) = &mut dataset.spec {
        spec.tags.extend(manifest.tags());
    }
    let object = Object {
        kind: ObjectKind::SavedDataset,
        project: request.project.clone(),
        name: request.name.clone(),
        bytes: dataset.encode_to_vec().into(),
    };
    let author = Author::anonymous("create dataset");
    context
        .registry
        .apply(&request.project, vec![object], ApplyMode::Single, &author)
        .await
        .map(drop)
}

/// What the registry keeps of the dataset.
fn described(
    catalog: &Catalog,
    request: &CreateDatasetFromRetrievalRequest,
    join_keys: Vec<String>,
    (first, last): (Option<DateTime<Utc>>, Option<DateTime<Utc>>),
) -> core::SavedDataset {
    let (of_service, _) = of_service(catalog, &request.feature_service_name);
    let spec = core::SavedDatasetSpec {
        name: request.name.clone(),
        project: request.project.clone(),
        features: if of_service.is_empty() {
            request.features.clone()
        } else {
            of_service
        },
        join_keys,
        storage: Some(core::SavedDatasetStorage {
            kind: Some(storage(&request.storage_type, &request.storage_path, "parquet")),
        }),
        tags: request.tags.clone(),
        feature_service_name: request.feature_service_name.clone(),
        ..Default::default()
    };
    let meta = core::SavedDatasetMeta {
        min_event_timestamp: first.map(super::store::proto_time),
        max_event_timestamp: last.map(super::store::proto_time),
        ..Default::default()
    };
    core::SavedDataset {
        spec: Some(spec),
        meta: Some(meta),
    }
}
