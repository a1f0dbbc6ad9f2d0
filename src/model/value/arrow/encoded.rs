//! Columns made straight from encoded `feast.types.Value` messages, without a [`Value`] for each cell.
//!
//! A scalar's message is one field: a tag and its payload. A column in which any cell is something else
//! (another type than declared, fields a newer Feast has) is decoded in full instead.

use std::sync::Arc;

use ::arrow::array::{
    ArrayRef, BinaryBuilder, BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array, StringBuilder,
    TimestampMicrosecondArray,
};
use prost::Message as _;

use super::super::{NULL, NULL_TIMESTAMP, Value};
use super::build;
use crate::error::Result;
use crate::model::ValueType;

/// A cell: `None` is null.
type Cell<'a> = Option<&'a [u8]>;

pub(super) fn array(cells: &[Cell<'_>], value_type: ValueType) -> Result<ArrayRef> {
    if let Some(array) = scalars(cells, value_type) {
        return Ok(array);
    }
    let decode = |cell: &Cell<'_>| match cell {
        Some(bytes) => Value::decode(*bytes),
        None => Ok(NULL),
    };
    let values: Vec<Value> = cells.iter().map(decode).collect::<std::result::Result<_, _>>()?;
    build::array(&values.iter().collect::<Vec<_>>(), value_type)
}

/// `None` when a cell is not a lone scalar of the type.
fn scalars(cells: &[Cell<'_>], value_type: ValueType) -> Option<ArrayRef> {
    /// The column of a fixed-size type; `$item` reads a cell's bytes, outer `None` when it cannot.
    macro_rules! column {
        ($array:ty, $item:expr) => {{
            let item = $item;
            let read = |cell: &Cell<'_>| match cell {
                Some(bytes) if !bytes.is_empty() => item(bytes),
                _ => Some(None),
            };
            cells.iter().map(read).collect::<Option<$array>>()
        }};
    }
    let array: ArrayRef = match value_type {
        ValueType::Double => Arc::new(Float64Array::from(column!(
            Vec<Option<f64>>,
            |bytes: &[u8]| {
                match bytes {
                    [0x29, payload @ ..] => Some(Some(f64::from_le_bytes(payload.try_into().ok()?))),
                    _ => None,
                }
            }
        )?)),
        ValueType::Float => Arc::new(Float32Array::from(column!(
            Vec<Option<f32>>,
            |bytes: &[u8]| {
                match bytes {
                    [0x35, payload @ ..] => Some(Some(f32::from_le_bytes(payload.try_into().ok()?))),
                    _ => None,
                }
            }
        )?)),
        ValueType::Int64 => Arc::new(Int64Array::from(column!(Vec<Option<i64>>, |bytes: &[u8]| {
            number(bytes, 0x20).map(Some)
        })?)),
        ValueType::Int32 => Arc::new(Int32Array::from(column!(Vec<Option<i32>>, |bytes: &[u8]| {
            i32::try_from(number(bytes, 0x18)?).ok().map(Some)
        })?)),
        ValueType::Bool => Arc::new(BooleanArray::from(column!(
            Vec<Option<bool>>,
            |bytes: &[u8]| { number(bytes, 0x38).map(|number| Some(number != 0)) }
        )?)),
        ValueType::UnixTimestamp => {
            let instants = column!(Vec<Option<i64>>, |bytes: &[u8]| {
                match number(bytes, 0x40)? {
                    NULL_TIMESTAMP => Some(None),
                    seconds => Some(seconds.checked_mul(1_000_000)),
                }
            })?;
            Arc::new(TimestampMicrosecondArray::from(instants).with_timezone("UTC"))
        }
        ValueType::String => {
            let mut builder = StringBuilder::with_capacity(cells.len(), 16 * cells.len());
            for cell in cells {
                match cell {
                    Some(bytes) if !bytes.is_empty() => {
                        builder.append_value(std::str::from_utf8(delimited(bytes, 0x12)?).ok()?);
                    }
                    _ => builder.append_null(),
                }
            }
            Arc::new(builder.finish())
        }
        ValueType::Bytes => {
            let mut builder = BinaryBuilder::with_capacity(cells.len(), 16 * cells.len());
            for cell in cells {
                match cell {
                    Some(bytes) if !bytes.is_empty() => builder.append_value(delimited(bytes, 0x0a)?),
                    _ => builder.append_null(),
                }
            }
            Arc::new(builder.finish())
        }
        _ => return None,
    };
    Some(array)
}

/// The varint after the tag, when it is all there is.
fn number(bytes: &[u8], tag: u8) -> Option<i64> {
    let (first, mut rest) = bytes.split_first()?;
    if *first != tag {
        return None;
    }
    let number = prost::encoding::decode_varint(&mut rest).ok()?;
    rest.is_empty().then_some(number.cast_signed())
}

/// The payload after the tag and its length, when it is all there is.
fn delimited(bytes: &[u8], tag: u8) -> Option<&[u8]> {
    let (first, mut rest) = bytes.split_first()?;
    if *first != tag {
        return None;
    }
    let length = prost::encoding::decode_varint(&mut rest).ok()?;
    (usize::try_from(length).ok()? == rest.len()).then_some(rest)
}
