//! Answers as Arrow: a row per entity row, features in their declared types. A stored feature `f` is
//! followed by `f__status` and `f__event_timestamp`; join keys and computed features are always present
//! and have no time, so they stand alone.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, RecordBatch, RecordBatchOptions, StringDictionaryBuilder, TimestampMicrosecondArray},
    datatypes::{Field, Int8Type, Schema},
    ipc::writer::StreamWriter,
};
use prost::Message as _;

use super::serve::{Column, Response, Stored};
use crate::{
    error::{Error, Result},
    model::{
        ValueType,
        value::{self, Value},
    },
};

/// The media type of what [`write_stream`] writes.
pub const MEDIA_TYPE: &str = "application/vnd.apache.arrow.stream";

/// The answer as an Arrow IPC stream.
///
/// # Errors
/// `InvalidArgument` when a stored value is malformed or not of its feature's type.
pub fn write_stream(out: &mut Vec<u8>, response: &Response) -> Result<()> {
    let batch = batch(response)?;
    let mut writer = StreamWriter::try_new(out, &batch.schema())?;
    writer.write(&batch)?;
    Ok(writer.finish()?)
}

fn batch(response: &Response) -> Result<RecordBatch> {
    let mut fields = Vec::new();
    let mut arrays: Vec<ArrayRef> = Vec::new();
    let mut add = |name: String, array: ArrayRef| {
        fields.push(Field::new(name, array.data_type().clone(), true));
        arrays.push(array);
    };
    for ((name, column), declared) in response.columns().zip(response.types()) {
        let failed = |error: Error| error.context(format!("column `{name}`"));
        match column {
            Column::Plain(values) => add(name.to_owned(), array(values, declared).map_err(failed)?),
            Column::Stored(stored) => {
                let values = decode(&stored).map_err(failed)?;
                add(name.to_owned(), array(&values, declared).map_err(failed)?);
                add(format!("{name}__status"), statuses(&stored)?);
                let times: TimestampMicrosecondArray = stored.event_times().collect();
                add(
                    format!("{name}__event_timestamp"),
                    Arc::new(times.with_timezone("UTC")),
                );
            }
        }
    }
    let options = RecordBatchOptions::new().with_row_count(Some(response.rows()));
    Ok(RecordBatch::try_new_with_options(
        Arc::new(Schema::new(fields)),
        arrays,
        &options,
    )?)
}

fn decode(stored: &Stored<'_>) -> Result<Vec<Value>> {
    let cells = stored.cells().map(|(bytes, _)| match bytes {
        Some(bytes) => Value::decode(bytes).map_err(Error::from),
        None => Ok(value::NULL),
    });
    cells.collect()
}

/// Values in their declared type; where none is declared, in that of the first value there is.
fn array(values: &[Value], declared: ValueType) -> Result<ArrayRef> {
    let wanted = match declared {
        ValueType::Unknown => values
            .iter()
            .map(value::value_type)
            .find(|found| !matches!(found, ValueType::Unknown | ValueType::Null))
            .unwrap_or(ValueType::String),
        declared => declared,
    };
    value::arrow::to_array(values, wanted)
}

fn statuses(stored: &Stored<'_>) -> Result<ArrayRef> {
    let mut builder = StringDictionaryBuilder::<Int8Type>::new();
    for (_, status) in stored.cells() {
        builder.append(status.name())?;
    }
    Ok(Arc::new(builder.finish()))
}
