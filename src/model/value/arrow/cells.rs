//! Scalar columns of any Arrow type, converted to the canonical type of a feature's type.

use ::arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array,
    StringArray, StringBuilder,
};
use ::arrow::compute::cast;
use ::arrow::datatypes::{DataType, Float32Type, Float64Type, Int64Type, TimeUnit, UInt64Type};
use chrono::DateTime;
use serde_json::Value as Json;

use super::super::{Kind, NULL, Value, json, text};
use super::column::Seconds;
use super::nested;
use crate::error::{Error, Result};
use crate::model::ValueType;
use crate::proto::feast::types::ZonedTimestamp;

pub(super) fn misfit(data_type: &DataType, value_type: ValueType) -> Error {
    Error::invalid(format!(
        "a column of Arrow type `{data_type}` cannot hold values of type `{value_type}`"
    ))
}

fn bad_value(shown: impl std::fmt::Display, value_type: ValueType) -> Error {
    Error::invalid(format!("`{shown}` does not fit type `{value_type}`"))
}

pub(super) fn is_text(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
    )
}

fn is_decimal(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Decimal32(..)
            | DataType::Decimal64(..)
            | DataType::Decimal128(..)
            | DataType::Decimal256(..)
    )
}

/// A column of texts as they are, whatever the width of its offsets.
fn strings(array: &dyn Array) -> Result<StringArray> {
    Ok(as_type(array, &DataType::Utf8)?.as_string::<i32>().clone())
}

fn as_type(array: &dyn Array, data_type: &DataType) -> Result<ArrayRef> {
    if array.data_type() == data_type {
        Ok(array.slice(0, array.len()))
    } else {
        Ok(cast(array, data_type)?)
    }
}

/// Parses every text of a column.
fn parsed<T>(
    array: &dyn Array,
    value_type: ValueType,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Vec<Option<T>>> {
    strings(array)?
        .iter()
        .map(|text| {
            text.map(|text| parse(text).ok_or_else(|| bad_value(text, value_type)))
                .transpose()
        })
        .collect()
}

pub(super) fn int32s(array: &dyn Array) -> Result<Int32Array> {
    if let Some(numbers) = array.as_any().downcast_ref::<Int32Array>() {
        return Ok(numbers.clone());
    }
    int64s(array, ValueType::Int32)?
        .try_unary(|number| i32::try_from(number).map_err(|_| bad_value(number, ValueType::Int32)))
}

pub(super) fn int64s(array: &dyn Array, value_type: ValueType) -> Result<Int64Array> {
    match array.data_type() {
        DataType::Int64 => Ok(array.as_primitive::<Int64Type>().clone()),
        DataType::UInt64 => array
            .as_primitive::<UInt64Type>()
            .try_unary(|number| i64::try_from(number).map_err(|_| bad_value(number, value_type))),
        DataType::Boolean => Ok(cast(array, &DataType::Int64)?.as_primitive::<Int64Type>().clone()),
        data_type if data_type.is_integer() => {
            Ok(cast(array, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
        }
        data_type if data_type.is_floating() || is_decimal(data_type) => doubles(array, value_type)?
            .iter()
            .map(|number| match number {
                None => Ok(None),
                Some(number) if number.is_nan() => Ok(None),
                Some(number) => json::whole(number)
                    .map(Some)
                    .ok_or_else(|| bad_value(text::float_text(number), value_type)),
            })
            .collect(),
        data_type if is_text(data_type) => Ok(parsed(array, value_type, text::parse_int)?.into()),
        data_type => Err(misfit(data_type, value_type)),
    }
}

pub(super) fn doubles(array: &dyn Array, value_type: ValueType) -> Result<Float64Array> {
    match array.data_type() {
        data_type if data_type.is_numeric() => Ok(as_type(array, &DataType::Float64)?
            .as_primitive::<Float64Type>()
            .clone()),
        DataType::Boolean => Ok(cast(array, &DataType::Float64)?
            .as_primitive::<Float64Type>()
            .clone()),
        data_type if is_text(data_type) => Ok(parsed(array, value_type, text::parse_float)?.into()),
        data_type => Err(misfit(data_type, value_type)),
    }
}

pub(super) fn floats(array: &dyn Array) -> Result<Float32Array> {
    if matches!(array.data_type(), DataType::Float32 | DataType::Float16) {
        return Ok(as_type(array, &DataType::Float32)?
            .as_primitive::<Float32Type>()
            .clone());
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "narrowing is what a Float32 feature asks for"
    )]
    let narrow = |number: f64| number as f32;
    Ok(doubles(array, ValueType::Float)?.unary(narrow))
}

pub(super) fn booleans(array: &dyn Array) -> Result<BooleanArray> {
    match array.data_type() {
        DataType::Boolean => Ok(array.as_boolean().clone()),
        data_type if data_type.is_integer() => Ok(cast(array, &DataType::Boolean)?.as_boolean().clone()),
        data_type => Err(misfit(data_type, ValueType::Bool)),
    }
}

pub(super) fn binaries(array: &dyn Array, value_type: ValueType) -> Result<BinaryArray> {
    match array.data_type() {
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            Ok(as_type(array, &DataType::Binary)?.as_binary::<i32>().clone())
        }
        data_type => Err(misfit(data_type, value_type)),
    }
}

/// Everything as Python's `str()` shows it.
pub(super) fn texts(array: &dyn Array, value_type: ValueType) -> Result<StringArray> {
    let data_type = array.data_type();
    match data_type {
        DataType::Boolean => Ok(array
            .as_boolean()
            .iter()
            .map(|truth| truth.map(text::bool_text))
            .collect()),
        DataType::Float64 => Ok(array
            .as_primitive::<Float64Type>()
            .iter()
            .map(|number| number.and_then(number_text))
            .collect()),
        DataType::Float32 | DataType::Float16 => Ok(floats(array)?
            .iter()
            .map(|number| number.and_then(number_text))
            .collect()),
        DataType::Timestamp(unit, _) => {
            let format = match unit {
                TimeUnit::Second => "%Y-%m-%dT%H:%M:%S",
                TimeUnit::Millisecond => "%Y-%m-%dT%H:%M:%S%.3f",
                TimeUnit::Microsecond => "%Y-%m-%dT%H:%M:%S%.6f",
                TimeUnit::Nanosecond => "%Y-%m-%dT%H:%M:%S%.9f",
            };
            let instants = cast(array, &DataType::Int64)?;
            let instants = instants.as_primitive::<Int64Type>().iter();
            Ok(instants
                .map(|ticks| ticks.and_then(|ticks| instant_text(ticks, *unit, format)))
                .collect())
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
            let bytes = binaries(array, value_type)?;
            let read = |bytes: &[u8]| {
                std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| {
                    Error::invalid(format!("a value of a `{data_type}` column is not UTF-8"))
                        .hint("declare the feature as Bytes")
                })
            };
            bytes.iter().map(|bytes| bytes.map(read).transpose()).collect()
        }
        DataType::FixedSizeBinary(_) | DataType::Interval(_) => Err(misfit(data_type, value_type)),
        _ => strings(array),
    }
}

/// Python's text of a number; NaN counts as null.
fn number_text<F: Into<f64> + Copy + serde::Serialize>(number: F) -> Option<String> {
    let wide: f64 = number.into();
    (!wide.is_nan()).then(|| text::float_text(number))
}

/// Ticks of the unit in a second.
fn per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

fn instant_text(ticks: i64, unit: TimeUnit, format: &str) -> Option<String> {
    let per_second = per_second(unit);
    let nanos = ticks.rem_euclid(per_second) * (1_000_000_000 / per_second);
    let instant = DateTime::from_timestamp(ticks.div_euclid(per_second), u32::try_from(nanos).ok()?)?;
    Some(instant.format(format).to_string())
}

/// Whole seconds of timestamps, dates, numbers of seconds, and texts that spell either.
pub(super) fn timestamps(array: &dyn Array, value_type: ValueType, seconds: Seconds) -> Result<Int64Array> {
    let scaled = |per_second: i64| -> Result<Int64Array> {
        let ticks = cast(array, &DataType::Int64)?;
        let ticks = ticks.as_primitive::<Int64Type>();
        Ok(match seconds {
            _ if per_second == 1 => ticks.clone(),
            Seconds::Down => ticks.unary(|ticks| ticks.div_euclid(per_second)),
            Seconds::TowardsZero => ticks.unary(|ticks| ticks / per_second),
        })
    };
    match array.data_type() {
        DataType::Timestamp(unit, _) => scaled(per_second(*unit)),
        DataType::Date64 => scaled(1_000),
        DataType::Date32 => {
            let days = cast(&cast(array, &DataType::Int32)?, &DataType::Int64)?;
            Ok(days.as_primitive::<Int64Type>().unary(|days| days * 86_400))
        }
        data_type if is_text(data_type) => {
            let parse = |text: &str| match text::parse_instant(text) {
                Some((instant, _)) => Some(instant.timestamp()),
                None => text::parse_int(text),
            };
            Ok(parsed(array, value_type, parse)?.into())
        }
        data_type if data_type.is_numeric() => int64s(array, value_type),
        data_type => Err(misfit(data_type, value_type)),
    }
}

pub(super) fn zoned_timestamps(array: &dyn Array) -> Result<Vec<Value>> {
    let value = |unix_timestamp: i64, zone: String| {
        Value::from(Kind::ZonedTimestampVal(ZonedTimestamp { unix_timestamp, zone }))
    };
    if is_text(array.data_type()) {
        let instants = parsed(array, ValueType::ZonedTimestamp, text::parse_instant)?;
        return Ok(instants
            .into_iter()
            .map(|parsed| {
                parsed.map_or(NULL, |(instant, offset)| {
                    value(
                        instant.timestamp(),
                        offset.map(text::offset_name).unwrap_or_default(),
                    )
                })
            })
            .collect());
    }
    let zone = match array.data_type() {
        DataType::Timestamp(_, Some(zone)) => zone.to_string(),
        _ => String::new(),
    };
    let seconds = timestamps(array, ValueType::ZonedTimestamp, Seconds::Down)?;
    Ok(seconds
        .iter()
        .map(|seconds| seconds.map_or(NULL, |seconds| value(seconds, zone.clone())))
        .collect())
}

/// Texts as they are; 16 bytes in their usual spelling.
pub(super) fn uuids(array: &dyn Array, value_type: ValueType) -> Result<StringArray> {
    match array.data_type() {
        DataType::FixedSizeBinary(16) => Ok(array
            .as_fixed_size_binary()
            .iter()
            .map(|bytes| {
                bytes
                    .and_then(|bytes| uuid::Uuid::from_slice(bytes).ok())
                    .map(|uuid| uuid.to_string())
            })
            .collect()),
        data_type if is_text(data_type) => strings(array),
        data_type => Err(misfit(data_type, value_type)),
    }
}

/// Texts that hold JSON, which are kept; anything else is rendered as JSON.
pub(super) fn json_texts(array: &dyn Array) -> Result<StringArray> {
    if is_text(array.data_type()) {
        let texts = strings(array)?;
        for text in texts.iter().flatten() {
            json::check_json(text)?;
        }
        return Ok(texts);
    }
    let mut out = StringBuilder::new();
    for (row, value) in nested::inferred(array)?.iter().enumerate() {
        if array.is_null(row) {
            out.append_null();
        } else {
            out.append_value(json::dumps(&json::to_json(value)));
        }
    }
    Ok(out.finish())
}

/// Texts that hold JSON of values of that type.
pub(super) fn json_values(array: &dyn Array, value_type: ValueType) -> Result<Vec<Value>> {
    strings(array)?
        .iter()
        .map(|text| text.map_or(Ok(NULL), |text| json::from_json(&Json::from(text), value_type)))
        .collect()
}
