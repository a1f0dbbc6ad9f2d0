//! A remote `feast.serving.TransformationService`, as `feast serve_transformations` is one: batches go out
//! and come back as Arrow IPC files. It is told the view's name only and has the function from a registry
//! of its own.

use std::{io::Cursor, sync::Arc, time::Duration};

use arrow::{
    array::RecordBatch,
    ipc::{reader::FileReader, writer::FileWriter},
};
use tonic::transport::{Channel, Endpoint};

use super::Outputs;
use crate::{
    error::{Error, Kind, Result},
    model::OnDemandFeatureView,
    proto::feast::serving::{
        TransformFeaturesRequest, ValueType as Payload,
        transformation_service_client::TransformationServiceClient, value_type::Value,
    },
};

const CONNECT: Duration = Duration::from_secs(3);

/// How long one batch may take.
const CALL: Duration = Duration::from_secs(60);

/// The most an answer may hold, in bytes.
const MAX_ANSWER: usize = 1 << 30;

/// The client of a service; it connects when it is first needed, and again after every failure.
pub(super) struct Service {
    endpoint: String,
    client: TransformationServiceClient<Channel>,
}

impl Service {
    /// The service at `host:port`.
    pub(super) fn new(endpoint: &str) -> Result<Self> {
        let bad = |error: tonic::transport::Error| {
            Error::config(format!(
                "`feature_server.transformation_service_endpoint`: `{endpoint}` is no address: {error}"
            ))
            .hint("give it as `host:port`")
        };
        let url = if endpoint.contains("://") {
            endpoint.to_owned()
        } else {
            format!("http://{endpoint}")
        };
        let channel = Endpoint::from_shared(url)
            .map_err(bad)?
            .connect_timeout(CONNECT)
            .timeout(CALL)
            .connect_lazy();
        Ok(Self {
            endpoint: endpoint.to_owned(),
            client: TransformationServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER),
        })
    }

    /// Has the service compute a view.
    pub(super) async fn call(&self, view: &OnDemandFeatureView, inputs: &RecordBatch) -> Result<Outputs> {
        let inputs = without_long_names(inputs)?;
        let mut file = Vec::new();
        let mut writer = FileWriter::try_new(&mut file, &inputs.schema())?;
        writer.write(&inputs)?;
        writer.finish()?;
        drop(writer);
        let request = TransformFeaturesRequest {
            on_demand_feature_view_name: view.name.clone(),
            project: view.project.clone(),
            transformation_input: Some(Payload {
                value: Some(Value::ArrowValue(file.into())),
            }),
        };
        let answer = self
            .client
            .clone()
            .transform_features(request)
            .await
            .map_err(|status| self.failed(&status))?
            .into_inner();
        let Some(Value::ArrowValue(file)) = answer.transformation_output.and_then(|output| output.value)
        else {
            return Err(Error::internal(format!(
                "the transformation service at `{}` answered no columns",
                self.endpoint
            )));
        };
        let mut outputs = Outputs::new();
        let reader = FileReader::try_new(Cursor::new(file), None)?;
        let schema = reader.schema();
        let batches = reader.collect::<std::result::Result<Vec<_>, _>>()?;
        let all = arrow::compute::concat_batches(&schema, &batches)?;
        for (field, column) in schema.fields().iter().zip(all.columns()) {
            outputs.push((field.name().clone(), Arc::clone(column)));
        }
        Ok(outputs)
    }

    fn failed(&self, status: &tonic::Status) -> Error {
        let kind = match status.code() {
            tonic::Code::Unavailable => Kind::Unavailable,
            tonic::Code::DeadlineExceeded | tonic::Code::Cancelled => Kind::DeadlineExceeded,
            // A connection that ended during the call: what the service itself says comes without a cause.
            _ if std::error::Error::source(status).is_some() => Kind::Unavailable,
            // Feast's service answers whatever a function raises as `Unknown`.
            _ => Kind::InvalidArgument,
        };
        Error::new(
            kind,
            format!(
                "the transformation service at `{}` failed: {}",
                self.endpoint,
                status.message()
            ),
        )
    }
}

/// Feast adds the names `view__feature` by itself and stumbles over those that are there already.
fn without_long_names(inputs: &RecordBatch) -> Result<RecordBatch> {
    let schema = inputs.schema();
    let has_short = |place: usize| {
        let name = schema.field(place).name();
        (0..inputs.num_columns()).any(|other| {
            let short = schema.field(other).name();
            name.strip_suffix(short.as_str())
                .is_some_and(|rest| rest.ends_with("__"))
                && Arc::ptr_eq(inputs.column(place), inputs.column(other))
        })
    };
    let kept: Vec<usize> = (0..inputs.num_columns())
        .filter(|place| !has_short(*place))
        .collect();
    Ok(inputs.project(&kept)?)
}
