//! JSON to values: by the declared type of a column, or by what the JSON looks like.

use std::borrow::Cow;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::Value as Json;

use super::super::{Kind, NULL, Value, collection, text};
use super::described;
use crate::error::{Error, Result};
use crate::model::ValueType;
use crate::proto::feast::types::{Map, MapList, RepeatedValue, ZonedTimestamp};

/// Converts JSON to a value of the declared type, as leniently as Feast does: texts that spell numbers
/// are numbers, fractions are cut off for whole numbers, and everything has a text.
///
/// JSON null (and NaN, which pandas makes of it) is the empty value; so is an array or object where a
/// scalar is declared, because Feast stores nothing there. Texts are taken as base64 for bytes, as ISO
/// 8601 for timestamps, and as JSON for lists, maps and structs.
///
/// # Errors
/// [`crate::error::Kind::InvalidArgument`] naming the JSON when it does not fit the type.
pub fn from_json(json: &Json, value_type: ValueType) -> Result<Value> {
    if json.is_null() {
        return Ok(NULL);
    }
    if let Some(element) = collection::element_type(value_type) {
        return collected(&elements(json, value_type)?, value_type, element);
    }
    let kind = match value_type {
        ValueType::Unknown => return Ok(infer_from_json(json)),
        ValueType::Null => return Ok(NULL),
        ValueType::Map => Kind::MapVal(map(json, value_type)?),
        ValueType::Struct => Kind::StructVal(map(json, value_type)?),
        ValueType::MapList => Kind::MapListVal(maps(&elements(json, value_type)?, value_type)?),
        ValueType::StructList => Kind::StructListVal(maps(&elements(json, value_type)?, value_type)?),
        ValueType::ValueList => Kind::ListVal(nested(json, value_type)?),
        ValueType::ValueSet => Kind::SetVal(nested(json, value_type)?),
        ValueType::Json => Kind::JsonVal(json_text(json)?),
        ValueType::ScalarMap => {
            return Err(
                Error::invalid("a `ScalarMap` cannot be written as JSON: its keys are no texts")
                    .hint("declare the feature as Map, or write it from a table"),
            );
        }
        _ if json.is_array() || json.is_object() => return Ok(NULL),
        _ => return scalar(json, value_type),
    };
    Ok(kind.into())
}

/// A list or set of scalars.
fn collected(items: &[Json], value_type: ValueType, element: ValueType) -> Result<Value> {
    let items = items
        .iter()
        .map(|item| from_json_element(item, element))
        .collect::<Result<_>>()?;
    Ok(collection::collect(value_type, items))
}

/// Inside a collection NaN stays NaN, and nothing may be an array.
fn from_json_element(json: &Json, element: ValueType) -> Result<Value> {
    match (element, json) {
        (_, Json::Null) => Ok(NULL),
        (ValueType::Json, _) => Ok(Kind::JsonVal(json_text(json)?).into()),
        (_, Json::Array(_) | Json::Object(_)) => Err(misfit(json, element)),
        (ValueType::Double, _) => Ok(Kind::DoubleVal(float(json, element)?).into()),
        #[expect(
            clippy::cast_possible_truncation,
            reason = "narrowing is what a Float32 feature asks for"
        )]
        (ValueType::Float, _) => Ok(Kind::FloatVal(float(json, element)? as f32).into()),
        _ => scalar(json, element),
    }
}

fn scalar(json: &Json, value_type: ValueType) -> Result<Value> {
    let kind = match value_type {
        ValueType::Int32 => {
            let number = int(json, value_type)?;
            Kind::Int32Val(i32::try_from(number).map_err(|_| out_of_range(json, value_type))?)
        }
        ValueType::Int64 => Kind::Int64Val(int(json, value_type)?),
        ValueType::Double | ValueType::Float => {
            let number = float(json, value_type)?;
            if number.is_nan() {
                return Ok(NULL);
            }
            #[expect(
                clippy::cast_possible_truncation,
                reason = "narrowing is what a Float32 feature asks for"
            )]
            if value_type == ValueType::Float {
                Kind::FloatVal(number as f32)
            } else {
                Kind::DoubleVal(number)
            }
        }
        ValueType::Bool => Kind::BoolVal(boolean(json)?),
        ValueType::String => Kind::StringVal(scalar_text(json)),
        ValueType::Bytes | ValueType::PdfBytes | ValueType::ImageBytes => {
            Kind::BytesVal(bytes(json, value_type)?)
        }
        ValueType::UnixTimestamp => Kind::UnixTimestampVal(instant(json, value_type)?.0),
        ValueType::ZonedTimestamp => {
            let (unix_timestamp, zone) = instant(json, value_type)?;
            Kind::ZonedTimestampVal(ZonedTimestamp { unix_timestamp, zone })
        }
        ValueType::Uuid => Kind::UuidVal(uuid(json, value_type)?),
        ValueType::TimeUuid => Kind::TimeUuidVal(uuid(json, value_type)?),
        ValueType::Decimal => Kind::DecimalVal(decimal(json)?),
        _ => return Err(misfit(json, value_type)),
    };
    Ok(kind.into())
}

/// Python's `int()`: texts are read, fractions cut off towards zero.
fn int(json: &Json, value_type: ValueType) -> Result<i64> {
    match json {
        Json::Bool(truth) => Ok(i64::from(*truth)),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Ok(whole),
            (None, Some(float)) => whole(float).ok_or_else(|| out_of_range(json, value_type)),
            (None, None) => Err(out_of_range(json, value_type)),
        },
        Json::String(text) => text::parse_int(text).ok_or_else(|| misfit(json, value_type)),
        _ => Err(misfit(json, value_type)),
    }
}

/// The whole part of a number, if 64 bits can hold it.
pub(in crate::model::value) fn whole(float: f64) -> Option<i64> {
    // 2^63 is exact as a float; the largest i64 is not.
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    let whole = float.trunc();
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
    (-LIMIT..LIMIT).contains(&whole).then_some(whole as i64)
}

fn float(json: &Json, value_type: ValueType) -> Result<f64> {
    match json {
        Json::Bool(truth) => Ok(f64::from(u8::from(*truth))),
        Json::Number(number) => number.as_f64().ok_or_else(|| out_of_range(json, value_type)),
        Json::String(text) => text::parse_float(text).ok_or_else(|| misfit(json, value_type)),
        _ => Err(misfit(json, value_type)),
    }
}

fn boolean(json: &Json) -> Result<bool> {
    match json {
        Json::Bool(truth) => Ok(*truth),
        Json::Number(number) if number.is_i64() || number.is_u64() => Ok(number.as_i64() != Some(0)),
        Json::String(text) if text.eq_ignore_ascii_case("true") => Ok(true),
        Json::String(text) if text.eq_ignore_ascii_case("false") => Ok(false),
        _ => Err(misfit(json, ValueType::Bool)),
    }
}

/// Python's `str()` of a JSON scalar.
fn scalar_text(json: &Json) -> String {
    match json {
        Json::String(text) => text.clone(),
        Json::Bool(truth) => text::bool_text(*truth).to_owned(),
        Json::Number(number) if number.is_f64() => number.as_f64().map_or_else(String::new, text::float_text),
        other => other.to_string(),
    }
}

fn bytes(json: &Json, value_type: ValueType) -> Result<bytes::Bytes> {
    let Json::String(text) = json else {
        return Err(misfit(json, value_type));
    };
    let decoded = BASE64_STANDARD.decode(text).map_err(|_| {
        misfit(json, value_type).hint("bytes travel in JSON as base64 with padding, as in `AP9hYmM=`")
    })?;
    Ok(decoded.into())
}

/// Whole seconds (a fraction is cut off downwards) and the zone's name.
fn instant(json: &Json, value_type: ValueType) -> Result<(i64, String)> {
    match json {
        Json::Number(_) => Ok((int(json, value_type)?, String::new())),
        Json::String(text) => match (text::parse_instant(text), text::parse_int(text)) {
            (Some((instant, offset)), _) => Ok((
                instant.timestamp(),
                offset.map(text::offset_name).unwrap_or_default(),
            )),
            (None, Some(seconds)) => Ok((seconds, String::new())),
            (None, None) => Err(misfit(json, value_type).hint(
                "timestamps are ISO 8601 texts as in `2026-07-01T09:00:00Z`, or whole seconds since 1970",
            )),
        },
        _ => Err(misfit(json, value_type)),
    }
}

fn uuid(json: &Json, value_type: ValueType) -> Result<String> {
    match json {
        Json::String(text) if uuid::Uuid::try_parse(text).is_ok() => Ok(text.clone()),
        _ => Err(misfit(json, value_type)),
    }
}

fn decimal(json: &Json) -> Result<String> {
    match json {
        Json::String(text) if text::is_decimal(text) => Ok(text.clone()),
        Json::Number(_) => Ok(scalar_text(json)),
        _ => Err(misfit(json, ValueType::Decimal)),
    }
}

/// A text must be JSON already and is kept; anything else is written as Python's `json.dumps` does.
fn json_text(json: &Json) -> Result<String> {
    match json {
        Json::String(text) => check_json(text).map(|()| text.clone()),
        other => Ok(super::dumps(other)),
    }
}

/// Whether the text is JSON, in Python's sense.
pub(in crate::model::value) fn check_json(text: &str) -> Result<()> {
    let check = |text: &str| serde_json::from_str::<serde::de::IgnoredAny>(text);
    match check(text) {
        Ok(_) => Ok(()),
        Err(_) if check(&quote_non_finite(text)).is_ok() => Ok(()),
        Err(error) => {
            Err(misfit(&Json::from(text), ValueType::Json).hint(format!("the text is not JSON: {error}")))
        }
    }
}

/// Reads JSON in Python's sense; numbers that JSON has none for become their texts.
fn parse_json(text: &str) -> Option<Json> {
    serde_json::from_str(text)
        .or_else(|_| serde_json::from_str(&quote_non_finite(text)))
        .ok()
}

/// Python writes and reads bare `NaN`, `Infinity` and `-Infinity` in JSON. Puts quotes around them, which
/// is how Feast's server prints such numbers.
fn quote_non_finite(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let (mut in_text, mut escaped) = (false, false);
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let bare = ["NaN", "Infinity", "-Infinity"]
            .into_iter()
            .find(|word| !in_text && rest.starts_with(word));
        if let Some(word) = bare {
            out.extend(["\"", word, "\""]);
            rest = &rest[word.len()..];
            continue;
        }
        in_text ^= character == '"' && !escaped;
        escaped = in_text && character == '\\' && !escaped;
        out.push(character);
        rest = &rest[character.len_utf8()..];
    }
    out
}

/// The elements of an array, or of an array written as text.
fn elements(json: &Json, value_type: ValueType) -> Result<Cow<'_, [Json]>> {
    match json {
        Json::Array(items) => Ok(Cow::Borrowed(items)),
        Json::String(text) => match parse_json(text) {
            Some(Json::Array(items)) => Ok(Cow::Owned(items)),
            _ => Err(misfit(json, value_type)),
        },
        _ => Err(misfit(json, value_type)),
    }
}

fn map(json: &Json, value_type: ValueType) -> Result<Map> {
    match json {
        Json::Object(fields) => Ok(infer_map(fields)),
        Json::String(text) => match parse_json(text) {
            Some(Json::Object(fields)) => Ok(infer_map(&fields)),
            _ => Err(misfit(json, value_type)),
        },
        _ => Err(misfit(json, value_type)),
    }
}

fn maps(items: &[Json], value_type: ValueType) -> Result<MapList> {
    let item = |item: &Json| {
        if item.is_null() {
            Ok(Map::default())
        } else {
            map(item, value_type)
        }
    };
    Ok(MapList {
        val: items.iter().map(item).collect::<Result<_>>()?,
    })
}

fn nested(json: &Json, value_type: ValueType) -> Result<RepeatedValue> {
    let items = elements(json, value_type)?;
    let val = items
        .iter()
        .map(|item| match item {
            Json::Null => Ok(NULL),
            // Feast has no type for an empty inner list and stores nothing for it.
            Json::Array(inner) if inner.is_empty() => Ok(NULL),
            Json::Array(_) => Ok(infer_from_json(item)),
            _ => Err(misfit(json, value_type)),
        })
        .collect::<Result<_>>()?;
    Ok(RepeatedValue { val })
}

/// Converts JSON to the value Feast infers for it: whole numbers are Int64, others Float64, an array is
/// a list of its first element's type, an object a map. An empty array is an empty Int64 list.
///
/// Arrays that mix types, which Feast refuses, become a list of values of their own types; numbers
/// beside fractions or beside `"NaN"` and the infinities are Float64, the way [`super::write_json`]
/// prints them.
pub fn infer_from_json(json: &Json) -> Value {
    let kind = match json {
        Json::Null => return NULL,
        Json::Bool(truth) => Kind::BoolVal(*truth),
        Json::Number(number) => match number.as_i64() {
            Some(whole) => Kind::Int64Val(whole),
            None => Kind::DoubleVal(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Kind::StringVal(text.clone()),
        Json::Array(items) => return infer_list(items),
        Json::Object(fields) => Kind::MapVal(infer_map(fields)),
    };
    kind.into()
}

fn infer_map(fields: &serde_json::Map<String, Json>) -> Map {
    Map {
        val: fields
            .iter()
            .map(|(key, value)| (key.clone(), infer_from_json(value)))
            .collect(),
    }
}

fn infer_list(items: &[Json]) -> Value {
    let all = |test: fn(&Json) -> bool| items.iter().all(|item| item.is_null() || test(item));
    let is_number = |item: &Json| item.is_number();
    let typed = if items.is_empty() || (items.iter().any(is_number) && all(Json::is_i64)) {
        collected(items, ValueType::Int64List, ValueType::Int64)
    } else if items.iter().any(is_number) && all(|item| item.is_number() || is_non_finite(item)) {
        collected(items, ValueType::DoubleList, ValueType::Double)
    } else if items.iter().any(Json::is_string) && all(Json::is_string) {
        collected(items, ValueType::StringList, ValueType::String)
    } else if items.iter().any(Json::is_boolean) && all(Json::is_boolean) {
        collected(items, ValueType::BoolList, ValueType::Bool)
    } else if items.iter().all(Json::is_object) {
        maps(items, ValueType::MapList).map(|maps| Kind::MapListVal(maps).into())
    } else {
        Ok(mixed(items))
    };
    // Every element was looked at, so no conversion fails; if one did, the untyped form holds them all.
    typed.unwrap_or_else(|_| mixed(items))
}

fn mixed(items: &[Json]) -> Value {
    Kind::ListVal(RepeatedValue {
        val: items.iter().map(infer_from_json).collect(),
    })
    .into()
}

fn is_non_finite(json: &Json) -> bool {
    matches!(json.as_str(), Some("NaN" | "Infinity" | "-Infinity"))
}

/// What was given, short enough for a message.
fn shown(json: &Json) -> String {
    const LIMIT: usize = 80;
    let text = json.to_string();
    match text.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn misfit(json: &Json, value_type: ValueType) -> Error {
    Error::invalid(format!(
        "`{}` is {} that does not fit type `{value_type}`",
        shown(json),
        described(json)
    ))
}

fn out_of_range(json: &Json, value_type: ValueType) -> Error {
    Error::invalid(format!(
        "`{}` is out of range for type `{value_type}`",
        shown(json)
    ))
}
