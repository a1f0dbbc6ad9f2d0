//! The registry's gRPC server, `feast.registry.RegistryServer`: decodes a request, asks the catalog or
//! changes the registry, encodes the answer. It holds no rule of its own.
//!
//! The service is written over bytes instead of the generated trait: the eleven kinds of object share
//! one implementation of apply, get, list and delete, and objects pass through undecoded (see `wire`).
//! Every call is durable when it is answered; the `commit` flag of requests is of no consequence.

mod datasets;
pub(crate) mod read;
#[cfg(test)]
mod tests;
mod write;

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
};

use bytes::{Buf, BufMut, Bytes};
use tonic::{
    Request, Response, Status,
    body::Body,
    codec::{
        Codec, CompressionEncoding, DecodeBuf, Decoder, EnabledCompressionEncodings, EncodeBuf, Encoder,
    },
    codegen::{Service, http},
    server::{Grpc, NamedService},
};

use super::{Catalog, Registry, changes::Changes};
pub use crate::proto::DESCRIPTOR_SET;
use crate::{config::OnlineStoreConfig, context::Context, error::Result, model::ObjectKind};

/// The largest request taken; Feast's server takes 4 MiB.
const MAX_REQUEST: usize = 64 << 20;

/// What the transport answers when a request is larger; nothing here answers it for another reason.
const OUT_OF_RANGE: http::HeaderValue = http::HeaderValue::from_static("11");
const RESOURCE_EXHAUSTED: http::HeaderValue = http::HeaderValue::from_static("8");

/// The service, ready to be added to a gRPC server.
pub fn service(context: Context) -> RegistryService {
    let parts = context.clone();
    let online =
        (!matches!(context.config.online_store, OnlineStoreConfig::Disabled)).then_some(context.online);
    let changes = Changes {
        registry: context.registry,
        online,
    };
    RegistryService {
        server: Arc::new(Server {
            changes,
            context: Some(parts),
        }),
    }
}

/// `feast.registry.RegistryServer` over a registry.
#[derive(Clone)]
pub struct RegistryService {
    server: Arc<Server>,
}

impl NamedService for RegistryService {
    const NAME: &'static str = "feast.registry.RegistryServer";
}

impl Service<http::Request<Body>> for RegistryService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let server = Arc::clone(&self.server);
        let call = request.uri().path().rsplit('/').next().and_then(Call::find);
        Box::pin(async move {
            let handler = tower::service_fn(move |request: Request<Bytes>| {
                let server = Arc::clone(&server);
                async move {
                    let call = call.ok_or_else(|| Status::unimplemented("no such method"))?;
                    let answer = server.answer(call, request.into_inner()).await?;
                    Ok::<_, Status>(Response::new(answer))
                }
            });
            let mut gzip = EnabledCompressionEncodings::default();
            gzip.enable(CompressionEncoding::Gzip);
            let mut grpc = Grpc::new(BytesCodec)
                .apply_compression_config(gzip, gzip)
                .apply_max_message_size_config(Some(MAX_REQUEST), None);
            let mut answer = grpc.unary(handler, request).await;
            // Feast's server says of a request that is too large that a resource is exhausted.
            let too_large = answer.headers().get(Status::GRPC_STATUS) == Some(&OUT_OF_RANGE);
            if too_large {
                answer
                    .headers_mut()
                    .insert(Status::GRPC_STATUS, RESOURCE_EXHAUSTED);
            }
            Ok(answer)
        })
    }
}

/// Messages as they are on the wire.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct BytesCodec;

impl Codec for BytesCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        dst.reserve(item.len());
        dst.put(item);
        Ok(())
    }
}

impl Decoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(src.copy_to_bytes(src.remaining())))
    }
}

/// A method of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Apply(ObjectKind),
    Get(ObjectKind),
    List(ObjectKind),
    Delete(ObjectKind),
    ApplyView,
    DeleteView,
    GetAnyView,
    ListAllViews,
    ApplyProject,
    ApplyMaterialization,
    GetFeature,
    ListFeatures,
    UpdateInfra,
    GetInfra,
    ListProjectMetadata,
    Commit,
    Refresh,
    Proto,
    GetLineage,
    GetRelationships,
    CreateDataset,
    GetDatasetData,
    GetDatasetJob,
    ListDatasetJobs,
}

impl Call {
    /// The call of that method name.
    fn find(method: &str) -> Option<Self> {
        Some(match method {
            "ApplyFeatureView" => Self::ApplyView,
            "DeleteFeatureView" => Self::DeleteView,
            "GetAnyFeatureView" => Self::GetAnyView,
            "ListAllFeatureViews" => Self::ListAllViews,
            "ApplyProject" => Self::ApplyProject,
            "ApplyMaterialization" => Self::ApplyMaterialization,
            "GetFeature" => Self::GetFeature,
            "ListFeatures" => Self::ListFeatures,
            "UpdateInfra" => Self::UpdateInfra,
            "GetInfra" => Self::GetInfra,
            "ListProjectMetadata" => Self::ListProjectMetadata,
            "Commit" => Self::Commit,
            "Refresh" => Self::Refresh,
            "Proto" => Self::Proto,
            "GetRegistryLineage" => Self::GetLineage,
            "GetObjectRelationships" => Self::GetRelationships,
            "CreateDatasetFromRetrieval" => Self::CreateDataset,
            "GetDatasetData" => Self::GetDatasetData,
            "GetDatasetJobStatus" => Self::GetDatasetJob,
            "ListDatasetJobs" => Self::ListDatasetJobs,
            _ => return Self::find_by_kind(method),
        })
    }

    fn find_by_kind(method: &str) -> Option<Self> {
        let named = |name: &str| ObjectKind::ALL.into_iter().find(|kind| singular(*kind) == name);
        if let Some(name) = method.strip_prefix("List") {
            return ObjectKind::ALL
                .into_iter()
                .find(|kind| plural(*kind) == name)
                .map(Self::List);
        }
        if let Some(name) = method.strip_prefix("Get") {
            return named(name).map(Self::Get);
        }
        if let Some(name) = method.strip_prefix("Delete") {
            // The four kinds of view share DeleteFeatureView.
            return named(name).filter(|kind| !kind.is_view()).map(Self::Delete);
        }
        let name = method.strip_prefix("Apply")?;
        named(name).filter(|kind| !kind.is_view()).map(Self::Apply)
    }
}

/// The kind's name in method names: `FeatureView`.
fn singular(kind: ObjectKind) -> &'static str {
    kind.message_name().trim_start_matches("feast.core.")
}

/// The kind's name in the names of list methods: `Entities`.
fn plural(kind: ObjectKind) -> String {
    match kind {
        ObjectKind::Entity => "Entities".to_owned(),
        kind => format!("{}s", singular(kind)),
    }
}

/// What answers the calls.
struct Server {
    changes: Changes,
    /// What datasets are made with; tests go without.
    context: Option<Context>,
}

impl Server {
    fn registry(&self) -> &Registry {
        &self.changes.registry
    }

    /// The catalog a read answers from: as last seen, or made sure of.
    async fn catalog(&self, project: &str, allow_cache: bool) -> Result<Arc<Catalog>> {
        match allow_cache {
            true => self.registry().catalog(project).await,
            false => self.registry().fresh_catalog(project).await,
        }
    }

    async fn answer(&self, call: Call, request: Bytes) -> Result<Bytes> {
        match call {
            Call::Get(kind) => self.get(kind, request).await,
            Call::List(kind) => self.list(kind, request).await,
            Call::GetAnyView => self.get_any_view(request).await,
            Call::ListAllViews => self.list_all_views(request).await,
            Call::GetFeature => self.get_feature(request).await,
            Call::ListFeatures => self.list_features(request).await,
            Call::GetInfra => self.get_infra(request).await,
            Call::ListProjectMetadata => self.list_project_metadata(request).await,
            Call::Proto => self.proto().await,
            Call::GetLineage => self.get_lineage(request).await,
            Call::GetRelationships => self.get_relationships(request).await,
            Call::Apply(kind) => self.apply(kind, request).await,
            Call::ApplyView => self.apply_view(request).await,
            Call::ApplyProject => self.apply_project(request).await,
            Call::ApplyMaterialization => self.apply_materialization(request).await,
            Call::UpdateInfra => self.update_infra(request).await,
            Call::Delete(kind) => self.delete(kind, request).await,
            Call::DeleteView => self.delete_view(request).await,
            Call::Commit => Ok(Bytes::new()),
            Call::Refresh => self.registry().refresh().await.map(|_| Bytes::new()),
            Call::CreateDataset => self.create_dataset(request).await,
            Call::GetDatasetData => self.get_dataset_data(request).await,
            Call::GetDatasetJob => self.get_dataset_job(request),
            Call::ListDatasetJobs => self.list_dataset_jobs(request),
        }
    }
}
