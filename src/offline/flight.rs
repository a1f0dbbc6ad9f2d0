//! The Arrow Flight server that Feast's SDK talks to with `offline_store: {type: remote}`.
//!
//! Reads travel by `DoExchange`: one stream carries the command and the uploaded rows, the other the
//! result, batch by batch and only as fast as the client takes them; a client that goes away drops the
//! query. Writes travel by `DoPut`. Older SDKs read in three steps (`DoPut`, `GetFlightInfo`, `DoGet`); the
//! ticket is then the command itself, so pulls need no state, and only uploaded rows wait in
//! `pending` for their `DoGet`.
//!
//! Commands are parsed in `command` and run in `run`; here are the RPCs and the form of errors.

mod arrow_names;
mod command;
mod pending;
mod run;

use std::{pin::Pin, sync::Arc};

use arrow::{
    datatypes::{Schema, SchemaRef},
    ipc::writer::IpcWriteOptions,
    record_batch::RecordBatch,
};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightEndpoint, FlightInfo,
    HandshakeRequest, HandshakeResponse, PollInfo, PutResult, SchemaResult, Ticket,
    decode::FlightRecordBatchStream,
    encode::{DictionaryHandling, FlightDataEncoderBuilder},
    error::FlightError,
    flight_service_server::{FlightService, FlightServiceServer},
};
use bytes::Bytes;
use datafusion::execution::SendableRecordBatchStream;
use futures::{Stream, StreamExt, TryStreamExt};
use tonic::{Request, Response, Status, Streaming};

use self::{command::Command, pending::Pending};
use super::store::bytes_of;
use crate::{
    context::Context,
    error::{Error, Kind, Result},
};

/// Descriptors that carry a command.
const CMD: i32 = arrow_flight::flight_descriptor::DescriptorType::Cmd as i32;
/// Errors travel in HTTP headers, which many peers limit to 8 KiB, and percent-encoding swells them.
const MESSAGE_BYTES: usize = 2_000;

/// The Flight service over a context's stores. Messages may be as big as they are: rows are limited by
/// memory, not by the size of a message.
pub fn service(context: Context) -> FlightServiceServer<Server> {
    let limit = usize::try_from(context.config.thali.memory_limit).unwrap_or(usize::MAX);
    let server = Server {
        pending: Arc::new(Pending::new(limit / 2)),
        upload_limit: limit,
        context,
    };
    FlightServiceServer::new(server)
        .max_decoding_message_size(usize::MAX)
        .max_encoding_message_size(usize::MAX)
}

/// See the module.
pub struct Server {
    context: Context,
    pending: Arc<Pending>,
    /// Bytes one upload may have.
    upload_limit: usize,
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

    fn memory(&self) -> usize {
        self.batches.iter().map(bytes_of).sum()
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Server {
    /// Reads a whole upload: its command and its rows.
    async fn receive(&self, mut messages: Streaming<FlightData>) -> Result<(Bytes, Upload)> {
        let mut command = None;
        let mut first = None;
        // The descriptor may come alone, before the schema.
        while first.is_none() {
            let Some(message) = messages.message().await.map_err(|status| broken(&status))? else {
                break;
            };
            if let Some(descriptor) = &message.flight_descriptor {
                command = Some(command_of(descriptor)?);
            }
            first = (!message.data_header.is_empty()).then_some(message);
        }
        let command = command.ok_or_else(|| Error::invalid("the upload names no command"))?;
        let Some(first) = first else {
            return Ok((command, Upload::empty()));
        };
        let messages = futures::stream::iter([Ok(first)]).chain(messages.map_err(FlightError::from));
        // Messages that carry only metadata hold no rows.
        let messages = messages.try_filter(|message| futures::future::ready(!message.data_header.is_empty()));
        let mut rows = FlightRecordBatchStream::new_from_flight_data(messages);
        let mut upload = Upload::empty();
        let mut bytes = 0;
        while let Some(batch) = rows.try_next().await.map_err(|error| malformed(&error))? {
            bytes += bytes_of(&batch);
            if bytes > self.upload_limit {
                let limit = self.upload_limit >> 20;
                return Err(Error::new(
                    Kind::Overloaded,
                    format!("the upload is larger than the memory limit of {limit} MiB"),
                )
                .hint("send the rows in several requests, or raise `memory_limit` in the `thali` section"));
            }
            upload.batches.push(batch);
        }
        upload.schema = rows
            .schema()
            .cloned()
            .unwrap_or_else(|| Arc::new(Schema::empty()));
        Ok((command, upload))
    }

    /// Runs a read command and sends what it finds as it is found.
    async fn read(&self, command: &[u8], upload: Upload) -> Result<Response<Answers<FlightData>>> {
        let rows = match Command::parse(command)? {
            Some(Command::Read(read)) => run::read(&self.context, read, upload).await?,
            Some(Command::Write(_)) => {
                return Err(Error::unsupported("this command writes: it is sent by DoPut"));
            }
            None => return Err(Error::invalid("the command has no `api`")),
        };
        Ok(Response::new(encoded(rows)))
    }

    async fn put(&self, messages: Streaming<FlightData>) -> Result<()> {
        let (text, upload) = self.receive(messages).await?;
        match Command::parse(&text)? {
            // A read that is put is the first step of the older protocol.
            Some(Command::Read(_)) => self.pending.keep(text, upload),
            Some(Command::Write(write)) => run::write(&self.context, write, upload).await?,
            None => tracing::warn!("a put without `api` was ignored"),
        }
        Ok(())
    }

    fn info(&self, descriptor: FlightDescriptor) -> Result<FlightInfo> {
        let command = command_of(&descriptor)?;
        let known = self.pending.has(&command);
        match Command::parse(&command)? {
            Some(Command::Read(read)) if known || !read.needs_upload() => {}
            _ => return Err(Error::new(Kind::ObjectNotFound, "Flight not found.")),
        }
        Ok(flight_info(command, descriptor))
    }
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

fn command_of(descriptor: &FlightDescriptor) -> Result<Bytes> {
    if descriptor.r#type == CMD {
        return Ok(descriptor.cmd.clone());
    }
    Err(Error::invalid("the flight descriptor carries no command"))
}

fn broken(status: &Status) -> Error {
    Error::unavailable(format!("the upload ended early: {}", status.message()))
}

fn malformed(error: &FlightError) -> Error {
    match error {
        FlightError::Tonic(status) => broken(status),
        error => Error::invalid(format!("the uploaded rows cannot be read: {error}")),
    }
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
        let (command, upload) = self.receive(request.into_inner()).await.map_err(status)?;
        self.read(&command, upload).await.map_err(status)
    }

    async fn do_put(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Answers<PutResult>>, Status> {
        self.put(request.into_inner()).await.map_err(status)?;
        Ok(Response::new(Box::pin(futures::stream::empty())))
    }

    async fn do_get(&self, request: Request<Ticket>) -> Result<Response<Answers<FlightData>>, Status> {
        let command = request.into_inner().ticket;
        let upload = match self.pending.take(&command) {
            Some(upload) => upload,
            None => {
                let read = Command::parse(&command).map_err(status)?;
                if matches!(&read, Some(Command::Read(read)) if read.needs_upload()) {
                    let error = Error::new(
                        Kind::ObjectNotFound,
                        "the uploaded rows of this ticket are not here",
                    )
                    .hint("they wait ten minutes, for one read, in the process they were sent to");
                    return Err(status(error));
                }
                Upload::empty()
            }
        };
        self.read(&command, upload).await.map_err(status)
    }

    async fn get_flight_info(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        Ok(Response::new(self.info(request.into_inner()).map_err(status)?))
    }

    async fn list_flights(&self, _: Request<Criteria>) -> Result<Response<Answers<FlightInfo>>, Status> {
        let commands = self.pending.commands();
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
            ACTIONS.map(action),
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
