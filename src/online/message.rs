//! Requests and answers as the messages of `feast.serving`, which gRPC and `application/x-protobuf` share.

use prost::Message as _;

use super::{
    plan::Wanted,
    serve::{Column, Given, Request, Response, Status},
};
use crate::{
    error::{Error, Result},
    model::value::{self, Value},
    proto::feast::{
        serving::{
            FeatureList, FeatureViewMetadata, GetOnlineFeaturesRequest, GetOnlineFeaturesResponse,
            GetOnlineFeaturesResponseMetadata, get_online_features_request::Kind,
            get_online_features_response::FeatureVector,
        },
        types::RepeatedValue,
    },
};

/// A request as it came.
pub fn request(request: GetOnlineFeaturesRequest) -> Request<'static> {
    let wanted = match request.kind {
        Some(Kind::FeatureService(service)) => Wanted::service(service),
        Some(Kind::Features(features)) => Wanted::features(features.val),
        None => Wanted::Features(Vec::new()),
    };
    let given = |(name, values): (String, RepeatedValue)| (name, Given::Typed(values.val));
    let columns = request.entities.into_iter().chain(request.request_context);
    Request {
        wanted,
        full_names: request.full_feature_names,
        version_metadata: request.include_feature_view_version_metadata,
        columns: columns.map(given).collect(),
    }
}

/// An answer, its values decoded.
///
/// # Errors
/// `InvalidArgument` when a stored value is malformed.
pub fn response(response: &Response) -> Result<GetOnlineFeaturesResponse> {
    let mut names = Vec::new();
    let mut results = Vec::new();
    for (name, column) in response.columns() {
        names.push(name.to_owned());
        results.push(vector(&column)?);
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

fn vector(column: &Column<'_>) -> Result<FeatureVector> {
    let present = i32::from(Status::Present as u8);
    let epoch = prost_types::Timestamp::default();
    Ok(match column {
        Column::Plain(values) => FeatureVector {
            values: values.to_vec(),
            statuses: vec![present; values.len()],
            event_timestamps: vec![epoch; values.len()],
        },
        Column::Stored(stored) => {
            let decode = |bytes: Option<&[u8]>| match bytes {
                Some(bytes) => Value::decode(bytes).map_err(Error::from),
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

/// An event time in microseconds.
pub fn timestamp(micros: i64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: micros.div_euclid(1_000_000),
        nanos: i32::try_from(micros.rem_euclid(1_000_000) * 1000).unwrap_or_default(),
    }
}
