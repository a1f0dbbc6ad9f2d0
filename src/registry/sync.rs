//! Following a registry from another process: the messages of `proto/thali/registry/sync.proto` and the
//! server's side of it. The other side is `crate::registry::store::remote`.

mod messages;

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt, stream};
use tonic::{Request, Response, Status};

pub(crate) use self::messages::{Step, change_of_record, fingerprint, record_of_change, step};
use super::{
    Registry,
    store::{
        Change, ProjectState,
        history::{Author, HistoryEntry, HistoryPage},
    },
};
use crate::{
    context::Context,
    error::{Error, Kind, Result},
    proto::thali::registry::{
        self as wire,
        registry_sync_server::{RegistrySync, RegistrySyncServer},
    },
};

/// The largest request taken: an import is one.
const MAX_REQUEST: usize = 256 << 20;

/// The service, ready to be added to a gRPC server.
pub fn service(context: &Context) -> RegistrySyncServer<SyncService> {
    service_of(Arc::clone(&context.registry))
}

pub(crate) fn service_of(registry: Arc<Registry>) -> RegistrySyncServer<SyncService> {
    RegistrySyncServer::new(SyncService { registry }).max_decoding_message_size(MAX_REQUEST)
}

/// `thali.registry.RegistrySync` over a registry.
pub struct SyncService {
    registry: Arc<Registry>,
}

type Parts = Pin<Box<dyn Stream<Item = Result<wire::WatchPart, Status>> + Send>>;

#[tonic::async_trait]
impl RegistrySync for SyncService {
    type WatchStream = Parts;

    async fn watch(&self, request: Request<wire::WatchRequest>) -> Result<Response<Parts>, Status> {
        let project = request.into_inner().project;
        // Subscribed before the first look: a change in between comes again.
        let publications = self.registry.publications();
        let first = self.registry.fresh_catalog(&project).await?;
        let state = Arc::clone(first.state());
        let parts = step(None, &state);
        let follower = Follower {
            registry: Arc::clone(&self.registry),
            project,
            publications,
            shown: state,
        };
        let later = stream::unfold(follower, Follower::next)
            .map(stream::iter)
            .flatten();
        let whole = stream::iter(parts.into_iter().map(Ok));
        Ok(Response::new(Box::pin(whole.chain(later))))
    }

    async fn update(
        &self,
        request: Request<wire::UpdateRequest>,
    ) -> Result<Response<wire::UpdateResponse>, Status> {
        let request = request.into_inner();
        let changes = request
            .changes
            .into_iter()
            .map(|record| change_of_record(record, &request.project))
            .collect::<Result<Vec<Change>>>()?;
        let author = request
            .author
            .map(|author| Author::new(author.name, author.action));
        let mut is_stale = false;
        let mut decide = |state: &ProjectState| {
            is_stale = fingerprint(state) != request.seen;
            Ok(if is_stale { Vec::new() } else { changes.clone() })
        };
        let updated = self
            .registry
            .update(&request.project, author.as_ref(), &mut decide)
            .await?;
        Ok(Response::new(wire::UpdateResponse {
            done: !is_stale,
            fingerprint: fingerprint(updated.state()),
        }))
    }

    async fn history(
        &self,
        request: Request<wire::HistoryRequest>,
    ) -> Result<Response<wire::HistoryResponse>, Status> {
        /// Entries can be large; the caller asks for the next page.
        const MOST: u32 = 1000;
        let request = request.into_inner();
        let page = HistoryPage {
            before: request.before,
            limit: usize::try_from(request.limit.min(MOST)).unwrap_or_default(),
        };
        let entries = self.registry.history(&request.project, page).await?;
        let entries = entries.iter();
        Ok(Response::new(wire::HistoryResponse {
            entries: entries
                .map(|entry: &HistoryEntry| entry.to_message(&request.project))
                .collect(),
        }))
    }

    async fn projects(
        &self,
        _: Request<wire::ProjectsRequest>,
    ) -> Result<Response<wire::ProjectsResponse>, Status> {
        let names = self.registry.projects().await?;
        Ok(Response::new(wire::ProjectsResponse { names }))
    }
}

/// How long a follower may be told nothing: it then looks by itself, which also shows that both live.
const PATIENCE: Duration = Duration::from_secs(10);

/// What one caller of `Watch` has been shown.
struct Follower {
    registry: Arc<Registry>,
    project: String,
    publications: tokio::sync::watch::Receiver<u64>,
    shown: Arc<ProjectState>,
}

impl Follower {
    /// The next step, or an empty sign of life; ends when the registry does.
    async fn next(mut self) -> Option<(Vec<Result<wire::WatchPart, Status>>, Self)> {
        let told = tokio::time::timeout(PATIENCE, self.publications.changed()).await;
        if matches!(told, Ok(Err(_))) {
            return None;
        }
        let catalog = match self.registry.catalog(&self.project).await {
            Ok(catalog) => catalog,
            // The caller keeps what it has and comes back.
            Err(error) => return Some((vec![Err(error.into())], self)),
        };
        let state = Arc::clone(catalog.state());
        let parts = match Arc::ptr_eq(&state, &self.shown) {
            true => vec![wire::WatchPart::default()],
            false => step(Some(&self.shown), &state),
        };
        self.shown = state;
        Some((parts.into_iter().map(Ok).collect(), self))
    }
}

/// What a project that is no longer what was seen is called.
pub(crate) fn moved_on(project: &str) -> Error {
    Error::new(
        Kind::Conflict,
        format!("project `{project}` changes faster than it can be followed"),
    )
    .hint("try again when fewer clients apply")
}
