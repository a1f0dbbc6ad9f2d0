//! The Arrow Flight server that Feast's SDK talks to with `offline_store: {type: remote}`.
//!
//! Reads travel by `DoExchange`: one stream carries the command and the uploaded rows, the other the
//! result, batch by batch and only as fast as the client takes them; a client that goes away ends the
//! query. Writes travel by `DoPut`. Older SDKs read in three steps (`DoPut`, `GetFlightInfo`, `DoGet`); the
//! ticket is then the command itself, so pulls need no state, and uploaded rows wait in files
//! (`uploads`).
//!
//! Commands are parsed in `command`, received with their rows in `receive`, limited and counted by `gate`,
//! and run in `run`; here are the RPCs and the form of errors.

mod arrow_names;
pub(in crate::offline) mod beyond;
mod command;
mod gate;
mod once;
mod receive;
mod run;
mod uploads;

use std::{pin::Pin, sync::Arc};

use arrow::{
    datatypes::{Schema, SchemaRef},
    ipc::writer::IpcWriteOptions,
    record_batch::RecordBatch,
};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightEndpoint, FlightInfo,
    HandshakeRequest, HandshakeResponse, PollInfo, PutResult, SchemaResult, Ticket,
    encode::{DictionaryHandling, FlightDataEncoderBuilder},
    error::FlightError,
    flight_service_server::{FlightService, FlightServiceServer},
};
use bytes::Bytes;
use datafusion::execution::SendableRecordBatchStream;
use futures::{Stream, TryStreamExt};
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument as _;

pub(super) use self::arrow_names::type_named;
use self::{
    beyond::Receipt,
    command::{Command, Read},
    gate::{Gate, Work},
    once::Marks,
    receive::{Received, command_of, receive},
    uploads::Uploads,
};
use crate::{
    context::Context,
    error::{Error, Kind, Result},
    telemetry::SPANS,
};

/// What a message has beside rows.
const HEADER_BYTES: usize = 1 << 20;
/// Errors travel in HTTP headers, which many peers limit to 8 KiB, and percent-encoding swells them.
const MESSAGE_BYTES: usize = 2_000;

/// The Flight service over a context's stores. An answer's messages may be as big as they are, a client's as
/// big as a whole upload.
pub fn service(context: Context) -> FlightServiceServer<Server> {
    let thali = &context.config.thali;
    let limit = usize::try_from(thali.memory_limit).unwrap_or(usize::MAX);
    let gate = Gate::new(&thali.offline, limit, Arc::clone(&context.metrics));
    let folder = context.config.repo_path.join(&thali.offline.upload_folder);
    let message = gate.upload_bytes().saturating_add(HEADER_BYTES);
    let server = Server {
        marks: Marks::new(folder.join("once")),
        uploads: Uploads::new(folder, thali.memory_limit),
        gate,
        context,
    };
    FlightServiceServer::new(server)
        .max_decoding_message_size(message)
        .max_encoding_message_size(usize::MAX)
}

/// See the module.
pub struct Server {
    context: Context,
    gate: Gate,
    uploads: Uploads,
    marks: Marks,
}

/// Rows that a client sent.
#[derive(Debug, Clone)]
pub struct Upload {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
}

impl Upload {
    fn empty() -> Self {
        Self {
            schema: Arc::new(Schema::empty()),
            batches: Vec::new(),
        }
    }

    /// Whether it stands for no rows at all: the SDK then sends a table with one column, `key`.
    fn is_placeholder(&self) -> bool {
        matches!(self.schema.fields().as_ref(), [only] if only.name() == "key")
            || self.schema.fields().is_empty()
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Server {
    /// Runs a read and sends what it finds as it is found.
    async fn read(
        &self,
        command: Option<Command>,
        upload: Upload,
        work: Work,
    ) -> Result<Response<Answers<FlightData>>> {
        let span = tracing::info_span!(target: SPANS, "flight", command = work.command());
        let reading = async {
            let read = match command {
                Some(Command::Read(read)) => read,
                Some(Command::Write(_)) => {
                    return Err(Error::unsupported("this command writes: it is sent by DoPut"));
                }
                None => return Err(Error::invalid("the command has no `api`")),
            };
            let rows = work.part(run::read(&self.context, read, upload)).await?;
            Ok(Response::new(encoded(work.stream(rows))))
        };
        reading.instrument(span).await
    }

    /// Does what is put; the answer is a receipt, for whoever asked for one.
    async fn put(&self, messages: Streaming<FlightData>) -> Result<Option<Receipt>> {
        let Received {
            text,
            command,
            upload,
            work,
        } = receive(&self.gate, messages, true).await?;
        let span = tracing::info_span!(target: SPANS, "flight", command = work.command());
        let putting = async {
            match command {
                // A read that is put is the first step of the older protocol.
                Some(Command::Read(_)) => self.uploads.keep(text, upload).await.map(|()| None),
                Some(Command::Write(write)) => run::write(&self.context, &self.marks, write, upload).await,
                None => {
                    tracing::warn!("a put without `api` was ignored");
                    Ok(None)
                }
            }
        };
        let receipt = work.part(putting.instrument(span)).await?;
        work.done();
        Ok(receipt)
    }

    /// The third step of the older protocol.
    async fn get(&self, ticket: Bytes) -> Result<Response<Answers<FlightData>>> {
        let command = Command::parse(&ticket)?;
        let work = self.gate.enter(command.as_ref().map_or("none", Command::api))?;
        let upload = match work.part(self.uploads.find(ticket)).await? {
            Some(upload) => upload,
            None if needs_upload(command.as_ref()) => {
                return Err(
                    Error::new(Kind::ObjectNotFound, "the uploaded rows of this ticket are not here").hint(
                        "they are kept for ten minutes, in `thali.offline.upload_folder` of the process they were sent to",
                    ),
                );
            }
            None => Upload::empty(),
        };
        for batch in &upload.batches {
            self.gate.take_in(&work, batch)?;
        }
        self.read(command, upload, work).await
    }

    async fn info(&self, descriptor: FlightDescriptor) -> Result<FlightInfo> {
        let text = command_of(&descriptor)?;
        let command = Command::parse(&text)?;
        let is_read = matches!(&command, Some(Command::Read(_)));
        if is_read && (!needs_upload(command.as_ref()) || self.uploads.has(text.clone()).await?) {
            return Ok(flight_info(text, descriptor));
        }
        Err(Error::new(Kind::ObjectNotFound, "Flight not found."))
    }
}

fn needs_upload(command: Option<&Command>) -> bool {
    matches!(command, Some(Command::Read(Read::Historical(_))))
}

/// An empty schema, unknown sizes, and one ticket that is the command itself.
fn flight_info(command: Bytes, descriptor: FlightDescriptor) -> FlightInfo {
    let info = FlightInfo::new()
        .with_descriptor(descriptor)
        .with_endpoint(FlightEndpoint::new().with_ticket(Ticket::new(command)))
        .with_total_records(-1)
        .with_total_bytes(-1);
    let fallback = info.clone();
    info.try_with_schema(&Schema::empty()).unwrap_or(fallback)
}

fn encoded(rows: SendableRecordBatchStream) -> Answers<FlightData> {
    let schema = rows.schema();
    let rows = rows.map_err(|error| FlightError::Tonic(Box::new(status(Error::from(error)))));
    let messages = FlightDataEncoderBuilder::new()
        .with_schema(schema)
        .with_options(IpcWriteOptions::default())
        // The caller gets dictionary columns back as such.
        .with_dictionary_handling(DictionaryHandling::Resend)
        .build(rows);
    Box::pin(messages.map_err(Status::from))
}

/// An error as the SDK reads it: the gRPC code decides which Arrow exception it becomes and whether the
/// SDK tries again, the JSON after `Flight error: ` which class of `feast.errors` is raised instead.
fn status(error: Error) -> Status {
    if error.kind().is_callers_fault() {
        tracing::debug!(%error, "flight request refused");
    } else {
        tracing::error!(%error, source = ?std::error::Error::source(&error), "flight request failed");
    }
    let code = error.kind().grpc();
    let shorter = if error.one_line().len() > MESSAGE_BYTES {
        let text = error.one_line();
        let end = (0..=MESSAGE_BYTES)
            .rev()
            .find(|&end| text.is_char_boundary(end))
            .unwrap_or_default();
        Error::new(error.kind(), format!("{}…", &text[..end]))
    } else {
        error
    };
    Status::new(code, format!("Flight error: {}", shorter.feast_detail()))
}

fn unimplemented<T>(what: &str) -> Result<T, Status> {
    Err(status(Error::unsupported(format!(
        "{what} is not part of Feast's offline server"
    ))))
}

/// What `ListActions` tells; the commands themselves are sent by `DoPut`.
const ACTIONS: [(&str, &str); 3] = [
    (
        "offline_write_batch",
        "Adds the uploaded rows to the data source of a feature view.",
    ),
    (
        "write_logged_features",
        "Writes uploaded logs of a feature service to its logging destination.",
    ),
    (
        "persist",
        "Runs a read and saves its result at the location of a data source.",
    ),
];

#[tonic::async_trait]
impl FlightService for Server {
    type HandshakeStream = Answers<HandshakeResponse>;
    type ListFlightsStream = Answers<FlightInfo>;
    type DoGetStream = Answers<FlightData>;
    type DoPutStream = Answers<PutResult>;
    type DoActionStream = Answers<arrow_flight::Result>;
    type ListActionsStream = Answers<ActionType>;
    type DoExchangeStream = Answers<FlightData>;

    async fn do_exchange(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Answers<FlightData>>, Status> {
        let received = receive(&self.gate, request.into_inner(), false).await;
        let Received {
            command,
            upload,
            work,
            ..
        } = received.map_err(status)?;
        self.read(command, upload, work).await.map_err(status)
    }

    async fn do_put(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Answers<PutResult>>, Status> {
        let receipt = self.put(request.into_inner()).await.map_err(status)?;
        let told = |receipt: Receipt| {
            let app_metadata = serde_json::json!(receipt).to_string().into();
            Ok(PutResult { app_metadata })
        };
        Ok(Response::new(Box::pin(futures::stream::iter(receipt.map(told)))))
    }

    async fn do_get(&self, request: Request<Ticket>) -> Result<Response<Answers<FlightData>>, Status> {
        self.get(request.into_inner().ticket).await.map_err(status)
    }

    async fn get_flight_info(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let info = self.info(request.into_inner()).await;
        Ok(Response::new(info.map_err(status)?))
    }

    async fn list_flights(&self, _: Request<Criteria>) -> Result<Response<Answers<FlightInfo>>, Status> {
        let commands = self.uploads.commands().await.map_err(status)?;
        let info = |command: Bytes| Ok(flight_info(command.clone(), FlightDescriptor::new_cmd(command)));
        Ok(Response::new(Box::pin(futures::stream::iter(
            commands.into_iter().map(info),
        ))))
    }

    async fn list_actions(&self, _: Request<Empty>) -> Result<Response<Answers<ActionType>>, Status> {
        let action = |(name, text): (&str, &str)| {
            Ok(ActionType {
                r#type: name.to_owned(),
                description: text.to_owned(),
            })
        };
        Ok(Response::new(Box::pin(futures::stream::iter(
            ACTIONS.into_iter().chain(beyond::ACTIONS).map(action),
        ))))
    }

    async fn handshake(
        &self,
        _: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Answers<HandshakeResponse>>, Status> {
        unimplemented("Handshake")
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        unimplemented("PollFlightInfo")
    }

    async fn get_schema(&self, _: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        unimplemented("GetSchema")
    }

    async fn do_action(&self, _: Request<Action>) -> Result<Response<Answers<arrow_flight::Result>>, Status> {
        unimplemented("DoAction")
    }
}

#[cfg(test)]
mod tests;
