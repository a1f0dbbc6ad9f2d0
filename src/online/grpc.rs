//! The gRPC feature servers: `feast.serving.ServingService`, which Feast's Go and Java clients call, and
//! `GrpcFeatureServer` of `feast listen`. Both decode a request, call the use-case the HTTP server
//! calls, and encode its answer.

use std::{future::Future, sync::Arc};

use tonic::{Request as Call, Response as Reply, Status as Refusal, codec::CompressionEncoding};

use super::{
    ingest::{Frame, Options, Target, Writer},
    limits::Limits,
    message,
    serve::{Given, Server},
};
use crate::{
    context::Context,
    error::{Error, Result},
    model::value::Value,
    proto::{
        PushRequest, PushResponse, WriteToOnlineStoreRequest, WriteToOnlineStoreResponse,
        feast::serving::{
            GetFeastServingInfoRequest, GetFeastServingInfoResponse, GetOnlineFeaturesRequest,
            GetOnlineFeaturesResponse,
            serving_service_server::{ServingService, ServingServiceServer},
        },
        grpc_feature_server_server::{GrpcFeatureServer, GrpcFeatureServerServer},
    },
};

/// Features over gRPC.
#[derive(Clone)]
pub struct FeatureServer {
    server: Server,
    writer: Writer,
    limits: Arc<Limits>,
}

/// `feast.serving.ServingService`, ready to be mounted.
pub fn serving_service(context: &Context, limits: &Arc<Limits>) -> ServingServiceServer<FeatureServer> {
    ServingServiceServer::new(FeatureServer::new(context, limits))
        .max_decoding_message_size(limits.config.max_body)
        .max_encoding_message_size(usize::MAX)
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip)
}

/// `GrpcFeatureServer`, ready to be mounted.
pub fn feature_server(context: &Context, limits: &Arc<Limits>) -> GrpcFeatureServerServer<FeatureServer> {
    GrpcFeatureServerServer::new(FeatureServer::new(context, limits))
        .max_decoding_message_size(limits.config.max_body)
        .max_encoding_message_size(usize::MAX)
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip)
}

impl FeatureServer {
    fn new(context: &Context, limits: &Arc<Limits>) -> Self {
        Self {
            server: Server::new(context),
            writer: Writer::new(context),
            limits: Arc::clone(limits),
        }
    }

    async fn read(&self, call: Call<GetOnlineFeaturesRequest>) -> Result<GetOnlineFeaturesResponse> {
        let (metadata, _, request) = call.into_parts();
        let id = metadata.get("x-request-id").and_then(|id| id.to_str().ok());
        let request = message::request(request);
        self.limits.check_rows(request.rows())?;
        self.within(async { message::response(self.server.serve(request, id).await?.as_ref()) })
            .await
    }

    /// Does `work` within the limits of the process.
    async fn within<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let _permit = self.limits.admit()?;
        self.limits.in_time(work).await?
    }

    /// The same for a write, which ends whole.
    async fn written<T: Send + 'static>(
        &self,
        write: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let permit = self.limits.admit()?;
        self.limits.to_the_end(permit, write).await?
    }
}

#[tonic::async_trait]
impl ServingService for FeatureServer {
    async fn get_feast_serving_info(
        &self,
        _: Call<GetFeastServingInfoRequest>,
    ) -> Result<Reply<GetFeastServingInfoResponse>, Refusal> {
        Ok(Reply::new(GetFeastServingInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }

    async fn get_online_features(
        &self,
        call: Call<GetOnlineFeaturesRequest>,
    ) -> Result<Reply<GetOnlineFeaturesResponse>, Refusal> {
        Ok(Reply::new(self.read(call).await?))
    }
}

#[tonic::async_trait]
impl GrpcFeatureServer for FeatureServer {
    async fn push(&self, call: Call<PushRequest>) -> Result<Reply<PushResponse>, Refusal> {
        let request = call.into_inner();
        let frame = row(request.features, request.typed_features)?;
        let target = Target::parse(&request.to)?;
        let options = options(request.allow_registry_cache);
        let writer = self.writer.clone();
        let source = request.stream_feature_view;
        self.written(async move { writer.push(&source, &frame, target, options).await })
            .await?;
        Ok(Reply::new(PushResponse { status: true }))
    }

    async fn write_to_online_store(
        &self,
        call: Call<WriteToOnlineStoreRequest>,
    ) -> Result<Reply<WriteToOnlineStoreResponse>, Refusal> {
        let request = call.into_inner();
        let frame = row(request.features, request.typed_features)?;
        let options = options(request.allow_registry_cache);
        let writer = self.writer.clone();
        let view = request.feature_view_name;
        self.written(async move { writer.write_to_online_store(&view, &frame, options).await })
            .await?;
        Ok(Reply::new(WriteToOnlineStoreResponse { status: true }))
    }

    async fn get_online_features(
        &self,
        call: Call<GetOnlineFeaturesRequest>,
    ) -> Result<Reply<GetOnlineFeaturesResponse>, Refusal> {
        Ok(Reply::new(self.read(call).await?))
    }
}

fn options(allow_registry_cache: bool) -> Options {
    Options {
        fresh_registry: !allow_registry_cache,
        ..Options::default()
    }
}

/// The one row a write call carries, as texts or as typed values.
fn row(
    texts: impl IntoIterator<Item = (String, String), IntoIter: ExactSizeIterator>,
    typed: impl IntoIterator<Item = (String, Value), IntoIter: ExactSizeIterator>,
) -> Result<Frame> {
    let (texts, typed) = (texts.into_iter(), typed.into_iter());
    if texts.len() > 0 && typed.len() > 0 {
        return Err(
            Error::invalid("`features` and `typed_features` cannot both be given")
                .hint("send the row as `typed_features` only"),
        );
    }
    let texts = texts.map(|(name, text)| (name, Given::Json(vec![text.into()])));
    let typed = typed.map(|(name, value)| (name, Given::Typed(vec![value])));
    Frame::new(texts.chain(typed).collect())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::online::fixture::{Fixture, TEN, int, text};
    use crate::{
        model::value,
        proto::feast::{
            serving::{FeatureList, get_online_features_request::Kind},
            types::RepeatedValue,
        },
    };

    async fn fixture() -> (Fixture, FeatureServer) {
        let fixture = Fixture::drivers().await;
        let server = FeatureServer {
            server: fixture.server.clone(),
            writer: fixture.writer.clone(),
            limits: Arc::default(),
        };
        (fixture, server)
    }

    fn request(features: &[&str], drivers: &[Value]) -> Call<GetOnlineFeaturesRequest> {
        let val = features.iter().map(ToString::to_string).collect();
        let drivers = RepeatedValue {
            val: drivers.to_vec(),
        };
        Call::new(GetOnlineFeaturesRequest {
            kind: Some(Kind::Features(FeatureList { val })),
            entities: [("driver_id".to_owned(), drivers)].into(),
            ..Default::default()
        })
    }

    #[tokio::test]
    async fn typed_entities_are_read_in_the_declared_type() {
        let (_fixture, server) = fixture().await;
        let int32 = value::Kind::Int32Val(1001).into();
        let call = request(
            &["driver_fv:trips", "driver_fv:acc_rate"],
            &[int32, int(1003), int(9999)],
        );
        let reply = ServingService::get_online_features(&server, call)
            .await
            .unwrap()
            .into_inner();
        let names = reply.metadata.unwrap().feature_names.unwrap().val;
        assert_eq!(names, ["driver_id", "trips", "acc_rate"]);
        assert_eq!(reply.results[0].values, [int(1001), int(1003), int(9999)]);
        assert_eq!(reply.results[1].values, [int(21), value::NULL, value::NULL]);
        assert_eq!(reply.results[1].statuses, [1, 1, 3]);
        assert_eq!(reply.results[1].event_timestamps[0], message::timestamp(TEN));
    }

    #[tokio::test]
    async fn a_row_is_written_from_texts_or_typed_values_but_not_both() {
        let (_fixture, server) = fixture().await;
        let pair = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        let texts = WriteToOnlineStoreRequest {
            features: [
                pair("driver_id", "1001"),
                pair("customer_id", "C2"),
                pair("rating", "9.5"),
                pair("event_timestamp", "2026-11-21T11:58:00"),
            ]
            .into(),
            feature_view_name: "dc_fv".to_owned(),
            ..Default::default()
        };
        let mut both = texts.clone();
        let reply = server.write_to_online_store(Call::new(texts)).await.unwrap();
        assert!(reply.into_inner().status);
        let mut call = request(&["dc_fv:rating"], &[int(1001)]);
        let customer = RepeatedValue {
            val: vec![text("C2")],
        };
        call.get_mut().entities.insert("customer_id".to_owned(), customer);
        let reply = GrpcFeatureServer::get_online_features(&server, call)
            .await
            .unwrap()
            .into_inner();
        assert_eq!(reply.results[2].values, [value::Kind::DoubleVal(9.5).into()]);
        both.typed_features.insert("rating".to_owned(), int(1));
        let refused = server.write_to_online_store(Call::new(both)).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    }

    #[tokio::test]
    async fn an_unknown_push_source_is_the_callers_mistake() {
        let (_fixture, server) = fixture().await;
        let push = PushRequest {
            stream_feature_view: "nope".to_owned(),
            to: "online".to_owned(),
            ..Default::default()
        };
        let refused = server.push(Call::new(push)).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    }
}
