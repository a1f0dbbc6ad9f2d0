//! The gRPC feature servers: `feast.serving.ServingService`, which Feast's Go and Java clients call, and
//! `GrpcFeatureServer` of `feast listen`. Both decode a request, call the use-case the HTTP server
//! calls, and encode its answer.

use prost::Message as _;
use tonic::{Request as Call, Response as Reply, Status as Refusal};

use super::{
    ingest::{Frame, Options, Target, Writer},
    plan::Wanted,
    serve::{Column, Given, Request, Response, Server, Status},
};
use crate::{
    context::Context,
    error::{Error, Result},
    model::value::{self, Value},
    proto::{
        PushRequest, PushResponse, WriteToOnlineStoreRequest, WriteToOnlineStoreResponse,
        feast::{
            serving::{
                FeatureList, FeatureViewMetadata, GetFeastServingInfoRequest, GetFeastServingInfoResponse,
                GetOnlineFeaturesRequest, GetOnlineFeaturesResponse, GetOnlineFeaturesResponseMetadata,
                get_online_features_request::Kind,
                get_online_features_response::FeatureVector,
                serving_service_server::{ServingService, ServingServiceServer},
            },
            types::RepeatedValue,
        },
        grpc_feature_server_server::{GrpcFeatureServer, GrpcFeatureServerServer},
    },
};

/// The largest request taken.
const MAX_REQUEST: usize = 64 << 20;

/// Features over gRPC.
#[derive(Clone)]
pub struct FeatureServer {
    server: Server,
    writer: Writer,
}

/// `feast.serving.ServingService`, ready to be mounted.
pub fn serving_service(context: &Context) -> ServingServiceServer<FeatureServer> {
    ServingServiceServer::new(FeatureServer::new(context)).max_decoding_message_size(MAX_REQUEST)
}

/// `GrpcFeatureServer`, ready to be mounted.
pub fn feature_server(context: &Context) -> GrpcFeatureServerServer<FeatureServer> {
    GrpcFeatureServerServer::new(FeatureServer::new(context)).max_decoding_message_size(MAX_REQUEST)
}

impl FeatureServer {
    fn new(context: &Context) -> Self {
        Self {
            server: Server::new(context),
            writer: Writer::new(context),
        }
    }

    async fn read(&self, request: GetOnlineFeaturesRequest) -> Result<GetOnlineFeaturesResponse> {
        let response = self.server.get(decode_request(request)).await?;
        encode_response(&response)
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
        Ok(Reply::new(self.read(call.into_inner()).await?))
    }
}

#[tonic::async_trait]
impl GrpcFeatureServer for FeatureServer {
    async fn push(&self, call: Call<PushRequest>) -> Result<Reply<PushResponse>, Refusal> {
        let request = call.into_inner();
        let frame = row(request.features, request.typed_features)?;
        let target = Target::parse(&request.to)?;
        let options = options(request.allow_registry_cache);
        self.writer
            .push(&request.stream_feature_view, &frame, target, options)
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
        self.writer
            .write_to_online_store(&request.feature_view_name, &frame, options)
            .await?;
        Ok(Reply::new(WriteToOnlineStoreResponse { status: true }))
    }

    async fn get_online_features(
        &self,
        call: Call<GetOnlineFeaturesRequest>,
    ) -> Result<Reply<GetOnlineFeaturesResponse>, Refusal> {
        Ok(Reply::new(self.read(call.into_inner()).await?))
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

fn decode_request(request: GetOnlineFeaturesRequest) -> Request {
    let wanted = match request.kind {
        Some(Kind::FeatureService(service)) => Wanted::Service(service),
        Some(Kind::Features(features)) => Wanted::Features(features.val),
        None => Wanted::Features(Vec::new()),
    };
    let column = |(name, values): (String, RepeatedValue)| (name, Given::Typed(values.val));
    let columns = request.entities.into_iter().chain(request.request_context);
    Request {
        wanted,
        full_names: request.full_feature_names,
        version_metadata: request.include_feature_view_version_metadata,
        columns: columns.map(column).collect(),
    }
}

fn encode_response(response: &Response) -> Result<GetOnlineFeaturesResponse> {
    let mut names = Vec::new();
    let mut results = Vec::new();
    for (name, column) in response.columns() {
        names.push(name.to_owned());
        results.push(encode_column(&column)?);
    }
    let versions = response.view_versions().unwrap_or_default();
    let metadata = GetOnlineFeaturesResponseMetadata {
        feature_names: Some(FeatureList { val: names }),
        feature_view_metadata: versions
            .iter()
            .map(|(name, version)| FeatureViewMetadata {
                name: name.clone(),
                version: i32::try_from(*version).unwrap_or_default(),
            })
            .collect(),
    };
    Ok(GetOnlineFeaturesResponse {
        metadata: Some(metadata),
        results,
        status: false,
    })
}

fn encode_column(column: &Column<'_>) -> Result<FeatureVector> {
    let present = i32::from(Status::Present as u8);
    let epoch = prost_types::Timestamp::default();
    Ok(match column {
        Column::Plain(values) => FeatureVector {
            values: values.to_vec(),
            statuses: vec![present; values.len()],
            event_timestamps: vec![epoch; values.len()],
        },
        Column::Stored(stored) => {
            let decode = |bytes: Option<&bytes::Bytes>| match bytes {
                Some(bytes) => Value::decode(bytes.clone()).map_err(Error::from),
                None => Ok(value::NULL),
            };
            FeatureVector {
                values: stored
                    .cells()
                    .map(|(bytes, _)| decode(bytes))
                    .collect::<Result<_>>()?,
                statuses: stored
                    .cells()
                    .map(|(_, status)| i32::from(status as u8))
                    .collect(),
                event_timestamps: stored
                    .event_times()
                    .map(|time| time.map_or(epoch, timestamp))
                    .collect(),
            }
        }
    })
}

fn timestamp(micros: i64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: micros.div_euclid(1_000_000),
        nanos: i32::try_from(micros.rem_euclid(1_000_000) * 1000).unwrap_or_default(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::online::fixture::{Fixture, TEN, int, text};

    async fn fixture() -> (Fixture, FeatureServer) {
        let fixture = Fixture::drivers().await;
        let server = FeatureServer {
            server: fixture.server.clone(),
            writer: fixture.writer.clone(),
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
        assert_eq!(reply.results[1].event_timestamps[0], timestamp(TEN));
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
