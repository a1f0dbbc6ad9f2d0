//! Taking in what clients send: a command, and rows within the limits of the [`Gate`].
//!
//! Nothing that a client sends makes the server panic or blame itself: what cannot be decoded is refused as
//! the client's mistake.

use std::{panic::AssertUnwindSafe, sync::Arc};

use arrow::{datatypes::Schema, ipc};
use arrow_flight::{FlightData, FlightDescriptor, decode::FlightRecordBatchStream, error::FlightError};
use bytes::Bytes;
use futures::{FutureExt as _, Stream, StreamExt as _, TryStreamExt as _, future::ready};
use tonic::{Code, Status};

use super::{
    Upload,
    command::Command,
    gate::{Gate, Work},
};
use crate::error::{Error, Result};

/// Descriptors that carry a command.
const CMD: i32 = arrow_flight::flight_descriptor::DescriptorType::Cmd as i32;

/// A command with its place and its rows.
#[derive(Debug)]
pub(super) struct Received {
    /// The command as it was sent.
    pub(super) text: Bytes,
    /// `None` where it has no `api`.
    pub(super) command: Option<Command>,
    pub(super) upload: Upload,
    pub(super) work: Work,
}

/// Reads a whole upload.
///
/// # Errors
/// `InvalidArgument` for what is malformed, the refusals of the gate, `Unavailable` when the client is gone.
pub(super) async fn receive<S>(gate: &Gate, mut messages: S, is_put: bool) -> Result<Received>
where
    S: Stream<Item = Result<FlightData, Status>> + Unpin + Send + 'static,
{
    let mut text = None;
    let mut first = None;
    // The descriptor may come alone, before the schema.
    while first.is_none() {
        let next = messages.try_next().await;
        let Some(message) = next.map_err(|status| broken(gate, &status))? else {
            break;
        };
        if let Some(descriptor) = &message.flight_descriptor {
            text = Some(command_of(descriptor)?);
        }
        first = (!message.data_header.is_empty()).then_some(message);
    }
    let text = text.ok_or_else(|| Error::invalid("the upload names no command"))?;
    let command = Command::parse(&text)?;
    let work = gate.enter(match &command {
        Some(Command::Read(_)) if is_put => "upload",
        Some(command) => command.api(),
        None => "none",
    })?;
    let upload = match first {
        Some(first) => work.part(rows(gate, &work, first, messages)).await?,
        None => Upload::empty(),
    };
    Ok(Received {
        text,
        command,
        upload,
        work,
    })
}

async fn rows<S>(gate: &Gate, work: &Work, first: FlightData, rest: S) -> Result<Upload>
where
    S: Stream<Item = Result<FlightData, Status>> + Unpin + Send + 'static,
{
    let messages = futures::stream::iter([Ok(first)]).chain(rest.map_err(FlightError::from));
    let messages = messages
        // Messages that carry only metadata hold no rows.
        .try_filter(|message| ready(!message.data_header.is_empty()))
        .and_then(|message| ready(readable(&message.data_header).map(|()| message)));
    let mut rows = FlightRecordBatchStream::new_from_flight_data(messages);
    let mut upload = Upload::empty();
    loop {
        // Arrow's reader trusts the lengths and offsets in a message, and panics where they lie.
        let next = AssertUnwindSafe(rows.try_next()).catch_unwind().await;
        let next = next.map_err(|_| Error::invalid("the uploaded rows cannot be read: they are damaged"))?;
        let Some(batch) = next.map_err(|error| malformed(gate, &error))? else {
            break;
        };
        gate.take_in(work, &batch)?;
        upload.batches.push(batch);
    }
    upload.schema = rows
        .schema()
        .cloned()
        .unwrap_or_else(|| Arc::new(Schema::empty()));
    Ok(upload)
}

/// Refuses a header that is none.
fn readable(header: &[u8]) -> Result<(), FlightError> {
    match ipc::root_as_message(header) {
        Ok(_) => Ok(()),
        Err(error) => Err(FlightError::DecodeError(format!(
            "a message has no header: {error}"
        ))),
    }
}

/// The bytes of a descriptor's command.
///
/// # Errors
/// `InvalidArgument` when it has none.
pub(super) fn command_of(descriptor: &FlightDescriptor) -> Result<Bytes> {
    if descriptor.r#type == CMD {
        return Ok(descriptor.cmd.clone());
    }
    Err(Error::invalid("the flight descriptor carries no command"))
}

fn broken(gate: &Gate, status: &Status) -> Error {
    match status.code() {
        // One message is over the limit, and was not even read.
        Code::OutOfRange => gate.too_large(),
        Code::Internal | Code::InvalidArgument => {
            Error::invalid(format!("the upload is no flight data: {}", status.message()))
        }
        _ => Error::unavailable(format!("the upload ended early: {}", status.message())),
    }
}

fn malformed(gate: &Gate, error: &FlightError) -> Error {
    match error {
        FlightError::Tonic(status) => broken(gate, status),
        error => Error::invalid(format!("the uploaded rows cannot be read: {error}")),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use arrow::{
        array::{ArrayRef, DictionaryArray, Int64Array, StringArray},
        datatypes::Int32Type,
        record_batch::RecordBatch,
    };
    use arrow_flight::encode::{DictionaryHandling, FlightDataEncoderBuilder};

    use super::*;
    use crate::{config::OfflineConfig, error::Kind};

    const COMMAND: &str = r#"{"api": "write_logged_features", "feature_service_name": "f"}"#;

    fn batch(first: i64) -> RecordBatch {
        let carriers: DictionaryArray<Int32Type> = ["UA", "DL", "UA"].into_iter().collect();
        let columns: [(&str, ArrayRef); 3] = [
            (
                "seats",
                Arc::new(Int64Array::from(vec![Some(first), None, Some(3)])),
            ),
            (
                "name",
                Arc::new(StringArray::from(vec![Some("a"), Some(""), None])),
            ),
            ("carrier", Arc::new(carriers)),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    /// An upload as a client sends it.
    async fn sent(batches: Vec<RecordBatch>) -> Vec<FlightData> {
        let rows = futures::stream::iter(batches.into_iter().map(Ok));
        let encoder = FlightDataEncoderBuilder::new()
            .with_dictionary_handling(DictionaryHandling::Resend)
            .build(rows);
        let mut messages: Vec<FlightData> = encoder.try_collect().await.unwrap();
        messages[0].flight_descriptor = Some(FlightDescriptor::new_cmd(COMMAND));
        messages
    }

    fn gate() -> Gate {
        Gate::new(&OfflineConfig::default(), 1 << 20, Arc::default())
    }

    async fn received(gate: &Gate, messages: Vec<FlightData>) -> Result<Received> {
        let messages = futures::stream::iter(messages.into_iter().map(Ok));
        receive(gate, messages, true).await
    }

    #[tokio::test]
    async fn rows_arrive_as_they_were_sent() {
        let gate = gate();
        let messages = sent(vec![batch(1), batch(2)]).await;
        let whole = received(&gate, messages.clone()).await.unwrap();
        assert_eq!(whole.upload.batches, [batch(1), batch(2)]);
        assert_eq!(whole.work.command(), "write_logged_features");
        // The descriptor may come before everything else, and there may be nothing else.
        let alone = FlightData {
            flight_descriptor: Some(FlightDescriptor::new_cmd(COMMAND)),
            ..FlightData::default()
        };
        let mut apart = messages;
        apart[0].flight_descriptor = None;
        apart.insert(0, alone.clone());
        assert_eq!(received(&gate, apart).await.unwrap().upload.batches.len(), 2);
        assert!(
            received(&gate, vec![alone])
                .await
                .unwrap()
                .upload
                .batches
                .is_empty()
        );
        assert!(received(&gate, Vec::new()).await.is_err());
    }

    #[tokio::test]
    async fn another_schema_in_the_middle_is_the_clients_mistake() {
        let other: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
        let other = RecordBatch::try_from_iter([("other", other)]).unwrap();
        let mut messages = sent(vec![batch(1)]).await;
        messages.extend(sent(vec![other]).await);
        let refused = received(&gate(), messages).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::InvalidArgument, "{refused}");
    }

    #[tokio::test]
    async fn what_is_too_large_is_refused_before_it_is_all_read() {
        let gate = gate();
        let one =
            RecordBatch::try_from_iter([("x", Arc::new(Int64Array::from(vec![7; 10_000])) as ArrayRef)]);
        let mut messages = sent(vec![one.unwrap()]).await;
        let (schema, rows) = (messages.remove(0), messages.remove(0));
        // Endless rows: this only comes to an end because nobody asks for more of them.
        let endless =
            futures::stream::iter([Ok(schema)]).chain(futures::stream::repeat_with(move || Ok(rows.clone())));
        let refused = receive(&gate, endless, true).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::TooLarge, "{refused}");
        assert!(
            refused.one_line().contains("`thali.offline.max_upload`"),
            "{refused}"
        );
        let broken = futures::stream::iter([Err(Status::out_of_range("4 GiB"))]);
        assert_eq!(
            receive(&gate, broken, true).await.unwrap_err().kind(),
            Kind::TooLarge
        );
    }

    #[tokio::test]
    async fn damaged_uploads_are_refused_or_read_and_nothing_else() {
        let gate = gate();
        let whole = sent(vec![batch(1), batch(2)]).await;
        let mut state = 7_u64;
        let mut throw = move |sides: usize| {
            // SplitMix64.
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut face = state;
            face = (face ^ (face >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            face = (face ^ (face >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            usize::try_from((face ^ (face >> 31)) % sides as u64).unwrap()
        };
        let mut refusals = 0;
        for _ in 0..3_000 {
            let mut messages = whole.clone();
            for _ in 0..=throw(3) {
                let place = throw(messages.len());
                let message = &mut messages[place];
                let (mut header, mut body) = (message.data_header.to_vec(), message.data_body.to_vec());
                match throw(6) {
                    0 if !header.is_empty() => {
                        let byte = throw(header.len());
                        header[byte] = u8::try_from(throw(256)).unwrap();
                    }
                    1 if !body.is_empty() => {
                        let byte = throw(body.len());
                        body[byte] ^= 1 << throw(8);
                    }
                    2 => header.truncate(throw(header.len() + 1)),
                    3 => body.truncate(throw(body.len() + 1)),
                    4 => {
                        let copied = messages[place].clone();
                        messages.push(copied);
                        continue;
                    }
                    _ => {
                        let other = throw(messages.len());
                        messages.swap(place, other);
                        continue;
                    }
                }
                (message.data_header, message.data_body) = (header.into(), body.into());
            }
            if let Err(refused) = received(&gate, messages).await {
                assert!(refused.kind().is_callers_fault(), "{refused}");
                refusals += 1;
            }
        }
        assert!(refusals > 500, "{refusals}");
        assert!(gate.enter("another").is_ok());
    }
}
