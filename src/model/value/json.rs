//! Values as JSON: out in exactly the form of Feast's HTTP feature server, in by a declared type or by
//! inference. The envelopes around values belong to the surfaces.

use std::io::Write;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Serialize;
use serde_json::Value as Json;

use super::{Kind, NULL_TIMESTAMP, Value, collection, is_null, text};
use crate::proto::feast::types::{Map, MapList};

mod dumps;
mod encoded;
mod read;

pub(super) use dumps::dumps;
pub use encoded::write_encoded;
pub(super) use read::{check_json, whole};
pub use read::{from_json, infer_from_json};

/// Appends the JSON that Feast's feature server renders for the value.
///
/// Numbers are shortest and 32-bit floats widened, NaN and infinities are texts, bytes are base64,
/// timestamps are whole seconds, zoned timestamps ISO 8601, and a scalar map is null (Feast cannot
/// render it).
pub fn write_json(out: &mut Vec<u8>, value: &Value) {
    let Some(kind) = value.val.as_ref().filter(|_| !is_null(value)) else {
        out.extend_from_slice(b"null");
        return;
    };
    match kind {
        Kind::NullVal(_) | Kind::ScalarMapVal(_) => out.extend_from_slice(b"null"),
        Kind::BoolVal(truth) => plain(out, truth),
        Kind::Int32Val(number) => plain(out, number),
        Kind::Int64Val(number) | Kind::UnixTimestampVal(number) => plain(out, number),
        Kind::DoubleVal(number) => float(out, *number),
        Kind::FloatVal(number) => float(out, f64::from(*number)),
        Kind::StringVal(text)
        | Kind::JsonVal(text)
        | Kind::UuidVal(text)
        | Kind::TimeUuidVal(text)
        | Kind::DecimalVal(text) => plain(out, text),
        Kind::BytesVal(bytes) => base64(out, bytes),
        Kind::ZonedTimestampVal(zoned) if zoned.unix_timestamp != NULL_TIMESTAMP => {
            plain(out, &text::zoned_text(zoned.unix_timestamp, &zoned.zone));
        }
        Kind::ZonedTimestampVal(_) => out.extend_from_slice(b"null"),
        Kind::BytesListVal(list) => array(out, &list.val, |out, bytes| base64(out, bytes)),
        Kind::BytesSetVal(set) => array(out, &set.val, |out, bytes| base64(out, bytes)),
        Kind::StringListVal(list)
        | Kind::JsonListVal(list)
        | Kind::UuidListVal(list)
        | Kind::TimeUuidListVal(list)
        | Kind::DecimalListVal(list) => array(out, &list.val, plain),
        Kind::StringSetVal(set)
        | Kind::UuidSetVal(set)
        | Kind::TimeUuidSetVal(set)
        | Kind::DecimalSetVal(set) => array(out, &set.val, plain),
        Kind::Int32ListVal(list) => array(out, &list.val, plain),
        Kind::Int32SetVal(set) => array(out, &set.val, plain),
        Kind::Int64ListVal(list) | Kind::UnixTimestampListVal(list) => array(out, &list.val, plain),
        Kind::Int64SetVal(set) | Kind::UnixTimestampSetVal(set) => array(out, &set.val, plain),
        Kind::DoubleListVal(list) => array(out, &list.val, |out, number| float(out, *number)),
        Kind::DoubleSetVal(set) => array(out, &set.val, |out, number| float(out, *number)),
        Kind::FloatListVal(list) => array(out, &list.val, |out, number| float(out, f64::from(*number))),
        Kind::FloatSetVal(set) => array(out, &set.val, |out, number| float(out, f64::from(*number))),
        Kind::BoolListVal(list) => array(out, &list.val, plain),
        Kind::BoolSetVal(set) => array(out, &set.val, plain),
        Kind::ListVal(values) | Kind::SetVal(values) => array(out, &values.val, write_json),
        Kind::MapVal(map) | Kind::StructVal(map) => object(out, map),
        Kind::MapListVal(maps) | Kind::StructListVal(maps) => array(out, &maps.val, object),
    }
}

/// Writes what cannot fail: numbers, booleans and texts into memory.
fn plain<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    let start = out.len();
    if serde_json::to_writer(&mut *out, value).is_err() {
        out.truncate(start);
        out.extend_from_slice(b"null");
    }
}

fn float(out: &mut Vec<u8>, number: f64) {
    // Below and above this range Python's layout of the same digits is its own.
    if number == 0.0 || (1e-4..1e16).contains(&number.abs()) {
        plain(out, &number);
    } else if number.is_finite() {
        out.extend_from_slice(text::float_text(number).as_bytes());
    } else {
        plain(out, non_finite(number));
    }
}

/// Protobuf's JSON spelling of a number that JSON has none for.
fn non_finite(number: f64) -> &'static str {
    if number.is_nan() {
        "NaN"
    } else if number > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    }
}

fn base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    let mut writer = base64::write::EncoderWriter::new(out, &BASE64_STANDARD);
    // Writing into memory cannot fail.
    let _ = writer.write_all(bytes);
    if let Ok(out) = writer.finish() {
        out.push(b'"');
    }
}

fn array<T>(out: &mut Vec<u8>, items: &[T], mut write: impl FnMut(&mut Vec<u8>, &T)) {
    out.push(b'[');
    for (position, item) in items.iter().enumerate() {
        if position > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}

fn object(out: &mut Vec<u8>, map: &Map) {
    out.push(b'{');
    for (position, (key, value)) in map.val.iter().enumerate() {
        if position > 0 {
            out.push(b',');
        }
        plain(out, key);
        out.push(b':');
        write_json(out, value);
    }
    out.push(b'}');
}

/// The same JSON as [`write_json`], as a tree.
pub fn to_json(value: &Value) -> Json {
    let number = |number: f64| {
        serde_json::Number::from_f64(number).map_or_else(|| Json::from(non_finite(number)), Json::Number)
    };
    let fields = |map: &Map| {
        Json::Object(
            map.val
                .iter()
                .map(|(key, value)| (key.clone(), to_json(value)))
                .collect(),
        )
    };
    let maps = |maps: &MapList| Json::Array(maps.val.iter().map(fields).collect());
    let Some(kind) = value.val.as_ref().filter(|_| !is_null(value)) else {
        return Json::Null;
    };
    match kind {
        Kind::BoolVal(truth) => Json::from(*truth),
        Kind::Int32Val(number) => Json::from(*number),
        Kind::Int64Val(number) | Kind::UnixTimestampVal(number) => Json::from(*number),
        Kind::DoubleVal(double) => number(*double),
        Kind::FloatVal(float) => number(f64::from(*float)),
        Kind::StringVal(text)
        | Kind::JsonVal(text)
        | Kind::UuidVal(text)
        | Kind::TimeUuidVal(text)
        | Kind::DecimalVal(text) => Json::from(text.as_str()),
        Kind::BytesVal(bytes) => Json::from(BASE64_STANDARD.encode(bytes)),
        Kind::ZonedTimestampVal(zoned) if zoned.unix_timestamp != NULL_TIMESTAMP => {
            Json::from(text::zoned_text(zoned.unix_timestamp, &zoned.zone))
        }
        // In a list the null timestamp keeps its number, as Feast's server prints it.
        Kind::UnixTimestampListVal(list) => Json::from(list.val.as_slice()),
        Kind::UnixTimestampSetVal(set) => Json::from(set.val.as_slice()),
        Kind::MapVal(map) | Kind::StructVal(map) => fields(map),
        Kind::MapListVal(list) | Kind::StructListVal(list) => maps(list),
        _ => match collection::items(value) {
            Some(items) => Json::Array(items.iter().map(to_json).collect()),
            None => Json::Null,
        },
    }
}

/// The name of a value's type for messages; JSON's own name when the type is not known.
fn described(json: &Json) -> &'static str {
    match json {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::String(_) => "a text",
        Json::Array(_) => "an array",
        Json::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests;
