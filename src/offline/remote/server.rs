//! [`Server`]: an offline server over Arrow Flight: commands out, rows in. It knows nothing of features.

use std::{error::Error as _, path::Path, sync::Arc, time::Duration};

use arrow::{
    array::{RecordBatch, StringArray},
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use arrow_flight::{
    Empty, FlightData, FlightDescriptor, decode::FlightRecordBatchStream, encode::FlightDataEncoderBuilder,
    error::FlightError, flight_service_client::FlightServiceClient,
};
use datafusion::{execution::SendableRecordBatchStream, physical_plan::stream::RecordBatchStreamAdapter};
use futures::{StreamExt, TryStreamExt, future::ready, stream};
use serde_json::{Value as Json, json};
use tonic::{
    Code, ConnectError, Status, Streaming, service::interceptor::InterceptedService, transport::Channel,
};

use crate::{
    backoff::Backoff,
    config::Section,
    error::{Error, Kind, Result, reason},
    offline::flight::beyond::{KNOWN_AS_OF, Receipt},
    tls::grpc::{self, RemoteTls, Token},
};

const DEFAULT_PORT: i64 = 8815;
/// Waits between tries grow from the first to the second, as in Feast.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(4));
/// How long readiness waits for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// What stands before the JSON of an error.
const MARK: &str = "Flight error: ";

type Client = FlightServiceClient<InterceptedService<Channel, Token>>;

/// A write that failed.
#[derive(Debug)]
pub(super) struct Unwritten {
    pub(super) error: Error,
    /// Whether it may have happened all the same.
    pub(super) may_have_happened: bool,
}

impl From<Unwritten> for Error {
    fn from(unwritten: Unwritten) -> Self {
        unwritten.error
    }
}

impl From<Error> for Unwritten {
    /// Of what never left this process.
    fn from(error: Error) -> Self {
        Self {
            error,
            may_have_happened: false,
        }
    }
}

/// See the module. Cloning is cheap.
#[derive(Clone)]
pub struct Server {
    address: Arc<str>,
    channel: Channel,
    token: Token,
    retries: u32,
}

impl Server {
    /// The server of the section; it is connected to when it is first needed.
    ///
    /// # Errors
    /// `Config` naming the key that is missing or makes no sense.
    pub fn of(section: &Section, repo: &Path) -> Result<Self> {
        let host = section.text("host").ok_or_else(|| {
            Error::config("offline store `remote` needs `host`")
                .hint("set `offline_store.host` in feature_store.yaml")
        })?;
        let port = section.int("port").unwrap_or(DEFAULT_PORT);
        let address = format!("{host}:{port}");
        let malformed = || {
            Error::config(format!(
                "`offline_store` has host and port `{address}`, which is no address of an offline server"
            ))
        };
        let certificate = section.text("cert").filter(|path| !path.is_empty());
        let tls = (section.text("scheme") == Some("https")).then(|| RemoteTls {
            ca: certificate.map(|path| repo.join(path)),
            ..RemoteTls::default()
        });
        let retries = section.int("connection_retries").unwrap_or(3);
        Ok(Self {
            channel: grpc::channel(&address, tls.as_ref(), malformed)?,
            token: Token::new(section.text("token"), || {
                Error::config("`thali.offline_token` is no token")
            })?,
            retries: u32::try_from(retries).unwrap_or_default(),
            address: address.into(),
        })
    }

    /// Its host and port.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    fn client(&self) -> Client {
        FlightServiceClient::with_interceptor(self.channel.clone(), self.token.clone())
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX)
    }

    /// The rows of a read, as they come: the server is asked for more when these are taken.
    pub(super) async fn read(
        &self,
        api: &str,
        parameters: Json,
        upload: Option<RecordBatch>,
    ) -> Result<SendableRecordBatchStream> {
        let known_as_of = parameters.get(KNOWN_AS_OF).is_some();
        let messages = messages(api, parameters, upload).await?;
        let exchanged = self.called(is_away, |mut client| {
            let request = stream::iter(messages.clone());
            async move { first(client.do_exchange(request).await?.into_inner()).await }
        });
        let mut answer = exchanged.await.map_err(|status| self.failed(&status))?;
        let (server, early) = (self.clone(), self.clone());
        // The first batch brings the schema, or none where there are no rows.
        let first = answer.next().await.transpose();
        let first = first.map_err(|error| server.broken(error))?;
        let schema = answer.schema().cloned().ok_or_else(|| {
            Error::unavailable(format!("offline server `{}` answered nothing", self.address))
        })?;
        // Whoever does not know it passes over it.
        if known_as_of
            && schema
                .metadata()
                .get(KNOWN_AS_OF)
                .is_none_or(|does| does != "true")
        {
            let text = format!(
                "offline server `{}` did not leave out rows by when they were created",
                self.address
            );
            return Err(Error::unsupported(text)
                .hint("ask thali's own offline server, which does, or ask without that cut-off"));
        }
        let rest = answer.map_err(move |error| early.broken(error).into());
        let rows = stream::iter(first.map(Ok)).chain(rest);
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }

    /// A write: done when this returns; the answer is the receipt of a server that gives one. It is sent again when
    /// it cannot have arrived, or, if the server knows it again, while it may have.
    pub(super) async fn write(
        &self,
        api: &str,
        parameters: Json,
        rows: Option<RecordBatch>,
        is_known_again: bool,
    ) -> Result<Option<Receipt>, Unwritten> {
        let messages = messages(api, parameters, rows).await?;
        let is_worth_it = |status: &Status| never_arrived(status) || is_known_again && !is_refusal(status);
        let put = self.called(is_worth_it, |mut client| {
            let request = stream::iter(messages.clone());
            async move {
                let mut answer = client.do_put(request).await?.into_inner();
                let mut receipt = None;
                while let Some(part) = answer.message().await? {
                    receipt = serde_json::from_slice(&part.app_metadata).ok().or(receipt);
                }
                Ok(receipt)
            }
        });
        put.await.map_err(|status| {
            let error = self.failed(&status);
            if never_arrived(&status) || is_refusal(&status) {
                return error.into();
            }
            let text = format!(
                "{}; it is not known whether the rows were written",
                error.message()
            );
            Unwritten {
                error: Error::new(error.kind(), text)
                    .hint("see whether they are there before they are sent again"),
                may_have_happened: true,
            }
        })
    }

    /// Whether it says of itself that it can do that.
    pub(super) async fn knows(&self, action: &str) -> Result<bool> {
        let told = self.called(is_away, |mut client| async move {
            let told = client.list_actions(Empty {}).await?.into_inner();
            told.try_collect::<Vec<_>>().await
        });
        match told.await {
            Ok(told) => Ok(told.iter().any(|known| known.r#type == action)),
            Err(status) if status.code() == Code::Unimplemented => Ok(false),
            Err(status) => Err(self.failed(&status)),
        }
    }

    /// Whether it answers.
    pub(super) async fn check(&self) -> Result<()> {
        let mut client = self.client();
        let answered = tokio::time::timeout(ANSWER_LIMIT, client.list_actions(Empty {})).await;
        let answered = answered.map_err(|_elapsed| {
            Error::unavailable(format!("offline server `{}` does not answer", self.address))
        })?;
        answered.map(drop).map_err(|status| self.failed(&status))
    }

    /// A call, tried again while that is worth it.
    async fn called<T, F>(
        &self,
        is_worth_it: impl Fn(&Status) -> bool,
        call: impl Fn(Client) -> F,
    ) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        let mut tries = 0;
        loop {
            match call(self.client()).await {
                Ok(answer) => return Ok(answer),
                Err(status) if tries < self.retries && is_worth_it(&status) => {
                    tries += 1;
                    backoff.pause().await;
                }
                Err(status) => return Err(status),
            }
        }
    }

    fn broken(&self, error: FlightError) -> Error {
        match error {
            FlightError::Tonic(status) => self.failed(&status),
            error => Error::unavailable(format!(
                "the answer of offline server `{}` cannot be read: {error}",
                self.address
            )),
        }
    }

    /// What the server says went wrong, in words. Feast's errors are JSON with the class of their exception.
    fn failed(&self, status: &Status) -> Error {
        let text = status.message();
        let detail = text.find(MARK).and_then(|at| {
            let json = &text[at + MARK.len()..];
            let mut values = serde_json::Deserializer::from_str(json).into_iter::<Json>();
            values.next()?.ok()
        });
        let of_detail = |key: &str| detail.as_ref()?.get(key)?.as_str();
        let message = match (of_detail("message"), status.source()) {
            (Some(message), _) => message.to_owned(),
            (None, Some(cause)) if never_arrived(status) => {
                let text = format!(
                    "offline server `{}` cannot be reached: {}",
                    self.address,
                    reason(cause)
                );
                return Error::unavailable(text)
                    .hint("see that it runs; `offline_store.host` and `offline_store.port` say where it is");
            }
            (None, Some(cause)) => {
                let text = format!("offline server `{}` broke off: {}", self.address, reason(cause));
                return Error::unavailable(text).hint("its own log may say why");
            }
            (None, None) => text.to_owned(),
        };
        let message = message.lines().next().unwrap_or_default();
        let told = format!("offline server `{}`: {message}", self.address);
        let error = |kind: Kind| Error::new(kind, told.clone());
        match (status.code(), of_detail("class")) {
            (Code::Unauthenticated | Code::PermissionDenied, _) | (_, Some("FeastPermissionError")) => {
                Error::config(told.clone()).hint("set `thali.offline_token` to a token it accepts")
            }
            (Code::NotFound, _) => error(Kind::ObjectNotFound),
            (Code::AlreadyExists, _) => error(Kind::AlreadyExists),
            (Code::Unimplemented, _) => error(Kind::Unsupported),
            (Code::ResourceExhausted, _) => error(Kind::Overloaded),
            (Code::DeadlineExceeded, _) => error(Kind::DeadlineExceeded),
            (Code::InvalidArgument, _) => error(Kind::InvalidArgument),
            // A class says that it was no accident of the server.
            (Code::Unknown | Code::Internal, Some(_)) => error(Kind::InvalidArgument),
            _ => error(Kind::Unavailable),
        }
    }
}

fn is_away(status: &Status) -> bool {
    status.code() == Code::Unavailable
}

/// Whether there was no connection, so that nothing can have been done.
fn never_arrived(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Whether the server itself said no; of other failures it is not known what it has done.
fn is_refusal(status: &Status) -> bool {
    match status.code() {
        Code::Unknown | Code::Internal => {
            status.metadata().contains_key("x-arrow-status") || status.message().contains(MARK)
        }
        Code::Ok | Code::Cancelled | Code::DeadlineExceeded | Code::Unavailable | Code::DataLoss => false,
        _ => status.source().is_none(),
    }
}

/// Waits until an answer has begun: with the first message it is known whether there is one.
async fn first(mut answer: Streaming<FlightData>) -> Result<FlightRecordBatchStream, Status> {
    let first = answer.message().await?;
    let all = stream::iter(first.map(Ok)).chain(answer.map_err(FlightError::from));
    // Messages that carry only metadata hold no rows.
    let rows = all.try_filter(|message| ready(!message.data_header.is_empty()));
    Ok(FlightRecordBatchStream::new_from_flight_data(rows))
}

/// A command with its rows, or with the rows that stand for none.
async fn messages(api: &str, mut parameters: Json, rows: Option<RecordBatch>) -> Result<Vec<FlightData>> {
    parameters["command_id"] = json!(uuid::Uuid::new_v4().to_string());
    parameters["api"] = json!(api);
    let rows = match rows {
        Some(rows) => rows,
        None => placeholder()?,
    };
    let encoder = FlightDataEncoderBuilder::new()
        .with_schema(rows.schema())
        .with_flight_descriptor(Some(FlightDescriptor::new_cmd(parameters.to_string())))
        .build(stream::iter([Ok(rows)]));
    let encoded: Result<Vec<_>, _> = encoder.try_collect().await;
    encoded.map_err(|error| Error::invalid(format!("the rows cannot be sent: {error}")))
}

/// A table with one column called `key`, as Feast sends it.
fn placeholder() -> Result<RecordBatch> {
    let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("key", DataType::Utf8, true)]));
    Ok(RecordBatch::try_new(
        schema,
        vec![Arc::new(StringArray::from(vec!["no rows"]))],
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_is_told_from_what_may_have_happened() {
        let away = Status::from_error(Box::new(ConnectError("connection refused".into())));
        assert!(never_arrived(&away) && is_away(&away));
        let lost = Status::from_error("h2 protocol error".into());
        assert!(!never_arrived(&lost) && !is_refusal(&lost));
        for refused in [
            Status::invalid_argument("no such column"),
            Status::unimplemented(""),
            Status::unknown(r#"Flight error: {"module": "feast.errors", "class": "X", "message": "no"}"#),
        ] {
            assert!(is_refusal(&refused) && !never_arrived(&refused), "{refused}");
        }
        for unknown in [
            Status::unavailable("502 Bad Gateway"),
            Status::deadline_exceeded(""),
            Status::unknown("transport error"),
        ] {
            assert!(!is_refusal(&unknown) && !never_arrived(&unknown), "{unknown}");
        }
    }
}
