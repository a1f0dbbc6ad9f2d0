//! Sent rows in the columns and types of the batch source they are appended to.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, TimestampMicrosecondArray, new_null_array},
    compute::{CastOptions, cast_with_options},
    datatypes::{DataType, SchemaRef},
    record_batch::RecordBatch,
};

use super::frame::{Column, Frame};
use crate::{
    error::{Error, Result},
    model::{ValueType, value::arrow::from_arrow_type},
    proto::feast::core::DataSource,
};

/// What the source calls a column that views know as `name`.
pub(super) fn source_name(source: &DataSource, name: &str) -> String {
    let mapped = source.field_mapping.iter().find(|(_, mapped)| *mapped == name);
    mapped.map_or_else(|| name.to_owned(), |(own, _)| own.clone())
}

/// The rows with the source's columns, in its order and types. Columns the source does not have are
/// left out, as Feast does.
///
/// # Errors
/// `InvalidArgument` naming a column that is missing or does not fit.
pub(super) fn source_batch(frame: &Frame, source: &DataSource, schema: &SchemaRef) -> Result<RecordBatch> {
    let mut arrays: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
    let mut missing: Vec<&str> = Vec::new();
    for field in schema.fields() {
        match find(frame, source, field.name()) {
            Some(column) => {
                let array = array(column, field.data_type());
                arrays.push(array.map_err(|error| error.context(format!("column `{}`", field.name())))?);
            }
            None if field.is_nullable() && is_index(field.name()) => {
                arrays.push(new_null_array(field.data_type(), frame.rows()));
            }
            None => missing.push(field.name()),
        }
    }
    if !missing.is_empty() {
        return Err(Error::invalid(format!(
            "rows for data source `{}` lack the columns `{}`",
            source.name,
            missing.join("`, `")
        ))
        .hint("an offline write needs every column of the source"));
    }
    RecordBatch::try_new(Arc::clone(schema), arrays).map_err(|error| {
        Error::invalid(format!("rows do not fit data source `{}`: {error}", source.name)).source_error(error)
    })
}

/// A column pandas adds when it writes a frame with an index; nobody sends it.
fn is_index(name: &str) -> bool {
    name.starts_with("__index_level_")
}

/// The sent column for a column of the source: under its own name, the name views know it by, or the
/// name Feast's remote client gives times.
fn find<'a>(frame: &'a Frame, source: &DataSource, name: &str) -> Option<Column<'a>> {
    let mapped = source.field_mapping.get(name).map(String::as_str);
    let usual = if name == source.timestamp_field {
        Some("event_timestamp")
    } else if name == source.created_timestamp_column {
        Some("created")
    } else {
        None
    };
    frame
        .column(name)
        .or_else(|| frame.column(mapped?))
        .or_else(|| frame.column(usual?))
}

fn array(column: Column<'_>, data_type: &DataType) -> Result<ArrayRef> {
    let plain: ArrayRef = match data_type {
        // Values hold whole seconds; a source keeps what was sent.
        DataType::Timestamp(_, zone) => {
            let times = TimestampMicrosecondArray::from(column.times()?);
            // The zone first: casting from a naive time would shift it.
            Arc::new(times.with_timezone_opt(zone.clone()))
        }
        DataType::Date32 | DataType::Date64 => Arc::new(TimestampMicrosecondArray::from(column.times()?)),
        other => column.array(match from_arrow_type(other) {
            ValueType::Unknown => ValueType::String,
            known => known,
        })?,
    };
    if plain.data_type() == data_type {
        return Ok(plain);
    }
    let options = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    Ok(cast_with_options(&plain, data_type, &options)?)
}
