//! Values as Python objects: what a function is given, and what its results become. The worker makes
//! datetimes, UUIDs and such from tagged tuples, and brings results to their declared types.

use std::collections::BTreeMap;

use super::marshal::{Object, Writer};
use crate::{
    error::{Error, Result},
    model::{
        ValueType,
        value::{self, Kind, Value, collection},
    },
    proto::feast::types::{
        Map, MapKey, MapList, RepeatedValue, ScalarMap, ScalarMapEntry, ZonedTimestamp, map_key::Key,
    },
};

/// Writes a value; answers whether it holds a tagged tuple.
pub(super) fn write(out: &mut Writer, value: &Value) -> bool {
    let Some(kind) = &value.val else {
        out.none();
        return false;
    };
    macro_rules! items {
        ($head:ident, $items:expr, $write:expr) => {{
            out.$head($items.len());
            $items.iter().for_each(|item| $write(out, item));
            false
        }};
    }
    let text = |out: &mut Writer, text: &String| out.text(text);
    match kind {
        Kind::NullVal(_) => out.none(),
        Kind::BytesVal(bytes) => out.bytes(bytes),
        Kind::StringVal(text) => out.text(text),
        Kind::Int32Val(number) => out.int(i64::from(*number)),
        Kind::Int64Val(number) => out.int(*number),
        Kind::DoubleVal(number) => out.float(*number),
        Kind::FloatVal(number) => out.float(f64::from(*number)),
        Kind::BoolVal(truth) => out.bool(*truth),
        Kind::BytesListVal(list) => return items!(list, list.val, |out: &mut Writer, item| out.bytes(item)),
        Kind::BytesSetVal(set) => return items!(set, set.val, |out: &mut Writer, item| out.bytes(item)),
        Kind::StringListVal(list) => return items!(list, list.val, text),
        Kind::StringSetVal(set) => return items!(set, set.val, text),
        Kind::Int32ListVal(list) => {
            return items!(list, list.val, |out: &mut Writer, item: &i32| out
                .int(i64::from(*item)));
        }
        Kind::Int32SetVal(set) => {
            return items!(set, set.val, |out: &mut Writer, item: &i32| out
                .int(i64::from(*item)));
        }
        Kind::Int64ListVal(list) => {
            return items!(list, list.val, |out: &mut Writer, item: &i64| out.int(*item));
        }
        Kind::Int64SetVal(set) => return items!(set, set.val, |out: &mut Writer, item: &i64| out.int(*item)),
        Kind::DoubleListVal(list) => {
            return items!(list, list.val, |out: &mut Writer, item: &f64| out.float(*item));
        }
        Kind::DoubleSetVal(set) => {
            return items!(set, set.val, |out: &mut Writer, item: &f64| out.float(*item));
        }
        Kind::FloatListVal(list) => {
            return items!(list, list.val, |out: &mut Writer, item: &f32| out
                .float(f64::from(*item)));
        }
        Kind::FloatSetVal(set) => {
            return items!(set, set.val, |out: &mut Writer, item: &f32| out
                .float(f64::from(*item)));
        }
        Kind::BoolListVal(list) => {
            return items!(list, list.val, |out: &mut Writer, item: &bool| out.bool(*item));
        }
        Kind::BoolSetVal(set) => {
            return items!(set, set.val, |out: &mut Writer, item: &bool| out.bool(*item));
        }
        Kind::MapVal(map) | Kind::StructVal(map) => return write_map(out, map),
        Kind::MapListVal(list) | Kind::StructListVal(list) => {
            out.list(list.val.len());
            return list
                .val
                .iter()
                .fold(false, |tagged, map| write_map(out, map) | tagged);
        }
        Kind::ListVal(values) | Kind::SetVal(values) => {
            out.list(values.val.len());
            return values
                .val
                .iter()
                .fold(false, |tagged, item| write(out, item) | tagged);
        }
        Kind::ScalarMapVal(map) => {
            out.dict();
            for entry in &map.val {
                write_key(out, entry.key.as_ref().and_then(|key| key.key.as_ref()));
                match &entry.value {
                    Some(value) => write(out, value),
                    None => write(out, &value::NULL),
                };
            }
            out.end();
            return true;
        }
        other => {
            write_tagged(out, other);
            return true;
        }
    }
    false
}

fn write_map(out: &mut Writer, map: &Map) -> bool {
    out.dict();
    let tagged = map.val.iter().fold(false, |tagged, (key, value)| {
        out.text(key);
        write(out, value) | tagged
    });
    out.end();
    tagged
}

fn write_key(out: &mut Writer, key: Option<&Key>) {
    match key {
        None => out.none(),
        Some(Key::Int32Key(number)) => out.int(i64::from(*number)),
        Some(Key::Int64Key(number)) => out.int(*number),
        Some(Key::FloatKey(number)) => out.float(f64::from(*number)),
        Some(Key::DoubleKey(number)) => out.float(*number),
        Some(Key::BoolKey(truth)) => out.bool(*truth),
        Some(Key::BytesKey(bytes)) => out.bytes(bytes),
        Some(Key::UnixTimestampKey(seconds)) => time(out, *seconds),
        Some(Key::UuidKey(text) | Key::TimeUuidKey(text)) => tag(out, "u", text),
        Some(Key::DecimalKey(text)) => tag(out, "d", text),
    }
}

fn tag(out: &mut Writer, tag: &str, text: &str) {
    out.tuple(2);
    out.text(tag);
    out.text(text);
}

fn time(out: &mut Writer, seconds: i64) {
    out.tuple(2);
    out.text("t");
    out.int(seconds);
}

fn write_tagged(out: &mut Writer, kind: &Kind) {
    let list = |out: &mut Writer, name: &str, items: &[String]| {
        out.list(items.len());
        items.iter().for_each(|item| tag(out, name, item));
    };
    let set = |out: &mut Writer, name: &str, items: &[String]| {
        out.set(items.len());
        items.iter().for_each(|item| tag(out, name, item));
    };
    match kind {
        Kind::UnixTimestampVal(seconds) => time(out, *seconds),
        Kind::ZonedTimestampVal(zoned) => {
            out.tuple(3);
            out.text("z");
            out.int(zoned.unix_timestamp);
            out.text(&zoned.zone);
        }
        Kind::UnixTimestampListVal(times) => {
            out.list(times.val.len());
            times.val.iter().for_each(|seconds| time(out, *seconds));
        }
        Kind::UnixTimestampSetVal(times) => {
            out.set(times.val.len());
            times.val.iter().for_each(|seconds| time(out, *seconds));
        }
        Kind::JsonVal(text) => tag(out, "j", text),
        Kind::UuidVal(text) | Kind::TimeUuidVal(text) => tag(out, "u", text),
        Kind::DecimalVal(text) => tag(out, "d", text),
        Kind::JsonListVal(texts) => list(out, "j", &texts.val),
        Kind::UuidListVal(texts) | Kind::TimeUuidListVal(texts) => list(out, "u", &texts.val),
        Kind::DecimalListVal(texts) => list(out, "d", &texts.val),
        Kind::UuidSetVal(texts) | Kind::TimeUuidSetVal(texts) => set(out, "u", &texts.val),
        Kind::DecimalSetVal(texts) => set(out, "d", &texts.val),
        // `write` knows all others.
        _ => out.none(),
    }
}

fn misfit(object: &Object, value_type: ValueType) -> Error {
    let what = match object {
        Object::None => "nothing",
        Object::Bool(_) => "a truth value",
        Object::Int(_) => "a whole number",
        Object::Float(_) => "a number",
        Object::Bytes(_) => "bytes",
        Object::Text(_) => "a text",
        Object::List(_) | Object::Tuple(_) => "a list",
        Object::Dict(_) => "a map",
    };
    Error::invalid(format!(
        "its Python function answered {what} where `{value_type}` is declared"
    ))
}

/// The value of a declared type that an object of the worker's is.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a declared Float32 is what Python's float is cut to"
)]
pub(super) fn value(object: Object, value_type: ValueType) -> Result<Value> {
    if let Some(element) = collection::element_type(value_type) {
        return match object {
            Object::None => Ok(value::NULL),
            Object::List(items) => {
                let items: Vec<Value> = items
                    .into_iter()
                    .map(|item| self::item(item, element))
                    .collect::<Result<_>>()?;
                Ok(collection::collect(value_type, items))
            }
            other => Err(misfit(&other, value_type)),
        };
    }
    let kind = match (value_type, object) {
        (_, Object::None) => return Ok(value::NULL),
        (ValueType::Int32, Object::Int(number)) => Kind::Int32Val(i32::try_from(number).map_err(|_| {
            Error::invalid(format!(
                "its Python function answered {number}, which is no `Int32`"
            ))
        })?),
        (ValueType::Int64, Object::Int(number)) => Kind::Int64Val(number),
        // As everywhere outside of lists, NaN is null.
        (ValueType::Double | ValueType::Float, Object::Float(number)) if number.is_nan() => {
            return Ok(value::NULL);
        }
        (ValueType::Double, object @ (Object::Float(_) | Object::Int(_))) => Kind::DoubleVal(float(&object)),
        (ValueType::Float, object @ (Object::Float(_) | Object::Int(_))) => {
            Kind::FloatVal(float(&object) as f32)
        }
        (ValueType::Bool, Object::Bool(truth)) => Kind::BoolVal(truth),
        (ValueType::String, Object::Text(text)) => Kind::StringVal(text),
        (ValueType::Bytes | ValueType::PdfBytes | ValueType::ImageBytes, Object::Bytes(bytes)) => {
            Kind::BytesVal(bytes)
        }
        (ValueType::UnixTimestamp, Object::Int(seconds)) => Kind::UnixTimestampVal(seconds),
        (ValueType::Json, Object::Text(text)) => Kind::JsonVal(text),
        (ValueType::Uuid, Object::Text(text)) => Kind::UuidVal(text),
        (ValueType::TimeUuid, Object::Text(text)) => Kind::TimeUuidVal(text),
        (ValueType::Decimal, Object::Text(text)) => Kind::DecimalVal(text),
        (ValueType::ZonedTimestamp, Object::Tuple(parts)) => zoned(parts)?,
        (ValueType::Map, Object::Dict(entries)) => Kind::MapVal(map(entries)?),
        (ValueType::Struct, Object::Dict(entries)) => Kind::StructVal(map(entries)?),
        (ValueType::MapList, Object::List(items)) => Kind::MapListVal(maps(items)?),
        (ValueType::StructList, Object::List(items)) => Kind::StructListVal(maps(items)?),
        (ValueType::ValueList, Object::List(items)) => Kind::ListVal(repeated(items)?),
        (ValueType::ValueSet, Object::List(items)) => Kind::SetVal(repeated(items)?),
        (ValueType::ScalarMap, Object::List(pairs)) => Kind::ScalarMapVal(scalar_map(pairs)?),
        (ValueType::Unknown | ValueType::Null, object) => return inferred(object),
        (_, other) => return Err(misfit(&other, value_type)),
    };
    Ok(kind.into())
}

/// An item of a list, where NaN is a number.
#[expect(clippy::cast_possible_truncation, reason = "as for values outside of lists")]
fn item(object: Object, value_type: ValueType) -> Result<Value> {
    Ok(match (value_type, &object) {
        (ValueType::Double, Object::Float(_) | Object::Int(_)) => Kind::DoubleVal(float(&object)).into(),
        (ValueType::Float, Object::Float(_) | Object::Int(_)) => Kind::FloatVal(float(&object) as f32).into(),
        _ => value(object, value_type)?,
    })
}

#[expect(
    clippy::cast_precision_loss,
    reason = "Python's float(…) of a whole number does the same"
)]
fn float(object: &Object) -> f64 {
    match object {
        Object::Float(number) => *number,
        Object::Int(number) => *number as f64,
        _ => f64::NAN,
    }
}

fn zoned(parts: Vec<Object>) -> Result<Kind> {
    match <[Object; 2]>::try_from(parts) {
        Ok([Object::Int(unix_timestamp), Object::Text(zone)]) => {
            Ok(Kind::ZonedTimestampVal(ZonedTimestamp { unix_timestamp, zone }))
        }
        _ => Err(misfit(&Object::None, ValueType::ZonedTimestamp)),
    }
}

fn map(entries: Vec<(Object, Object)>) -> Result<Map> {
    let entry = |(key, value): (Object, Object)| match key {
        Object::Text(key) => Ok((key, inferred(value)?)),
        other => Err(misfit(&other, ValueType::String)),
    };
    let val: BTreeMap<String, Value> = entries.into_iter().map(entry).collect::<Result<_>>()?;
    Ok(Map { val })
}

fn maps(items: Vec<Object>) -> Result<MapList> {
    let one = |item: Object| match item {
        Object::Dict(entries) => map(entries),
        other => Err(misfit(&other, ValueType::Map)),
    };
    let val = items.into_iter().map(one).collect::<Result<_>>()?;
    Ok(MapList { val })
}

fn repeated(items: Vec<Object>) -> Result<RepeatedValue> {
    let val = items.into_iter().map(inferred).collect::<Result<_>>()?;
    Ok(RepeatedValue { val })
}

fn scalar_map(pairs: Vec<Object>) -> Result<ScalarMap> {
    let one = |pair: Object| {
        let Object::Tuple(pair) = pair else {
            return Err(misfit(&pair, ValueType::ScalarMap));
        };
        let [key, value] =
            <[Object; 2]>::try_from(pair).map_err(|_| misfit(&Object::None, ValueType::ScalarMap))?;
        Ok(ScalarMapEntry {
            key: Some(MapKey { key: self::key(key)? }),
            value: Some(inferred(value)?),
        })
    };
    let val = pairs.into_iter().map(one).collect::<Result<_>>()?;
    Ok(ScalarMap { val })
}

fn key(object: Object) -> Result<Option<Key>> {
    Ok(match inferred(object)?.val {
        None => None,
        Some(Kind::Int32Val(number)) => Some(Key::Int32Key(number)),
        Some(Kind::Int64Val(number)) => Some(Key::Int64Key(number)),
        Some(Kind::FloatVal(number)) => Some(Key::FloatKey(number)),
        Some(Kind::DoubleVal(number)) => Some(Key::DoubleKey(number)),
        Some(Kind::BoolVal(truth)) => Some(Key::BoolKey(truth)),
        Some(Kind::BytesVal(bytes)) => Some(Key::BytesKey(bytes)),
        Some(Kind::UnixTimestampVal(seconds)) => Some(Key::UnixTimestampKey(seconds)),
        Some(Kind::UuidVal(text)) => Some(Key::UuidKey(text)),
        Some(Kind::DecimalVal(text)) => Some(Key::DecimalKey(text)),
        Some(_) => {
            return Err(Error::invalid(
                "its Python function answered a map with a key that is no scalar",
            ));
        }
    })
}

/// The value an object is by its own type, for parts whose types nobody declares.
fn inferred(object: Object) -> Result<Value> {
    let kind = match object {
        Object::None => return Ok(value::NULL),
        Object::Bool(truth) => Kind::BoolVal(truth),
        Object::Int(number) => Kind::Int64Val(number),
        Object::Float(number) if number.is_nan() => return Ok(value::NULL),
        Object::Float(number) => Kind::DoubleVal(number),
        Object::Bytes(bytes) => Kind::BytesVal(bytes),
        Object::Text(text) => Kind::StringVal(text),
        Object::Dict(entries) => Kind::MapVal(map(entries)?),
        Object::List(items) => return list(items),
        Object::Tuple(parts) => return tagged(parts),
    };
    Ok(kind.into())
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the worker tags numbers that are as narrow"
)]
fn tagged(parts: Vec<Object>) -> Result<Value> {
    let nonsense = || Error::invalid("its Python worker answered what no value is");
    let [Object::Text(tag), payload] = <[Object; 2]>::try_from(parts).map_err(|_| nonsense())? else {
        return Err(nonsense());
    };
    Ok(match (tag.as_str(), payload) {
        ("t", Object::Int(seconds)) => Kind::UnixTimestampVal(seconds).into(),
        ("u", Object::Text(text)) => Kind::UuidVal(text).into(),
        ("d", Object::Text(text)) => Kind::DecimalVal(text).into(),
        ("i", Object::Int(number)) => Kind::Int32Val(i32::try_from(number).map_err(|_| nonsense())?).into(),
        ("f", Object::Float(number)) => Kind::FloatVal(number as f32).into(),
        ("m", Object::List(pairs)) => Kind::ScalarMapVal(scalar_map(pairs)?).into(),
        ("s", Object::List(items)) => set(items)?,
        _ => return Err(nonsense()),
    })
}

/// A list by the type of its first item; an empty one has Feast's type of an empty list.
fn list(items: Vec<Object>) -> Result<Value> {
    if matches!(items.first(), Some(Object::Dict(_))) {
        return Ok(Kind::MapListVal(maps(items)?).into());
    }
    if matches!(items.first(), Some(Object::List(_))) {
        return Ok(Kind::ListVal(repeated(items)?).into());
    }
    let items: Vec<Value> = items.into_iter().map(inferred).collect::<Result<_>>()?;
    let element = common(&items)?;
    Ok(collection::collect(value::arrow::list_of(element), items))
}

fn set(items: Vec<Object>) -> Result<Value> {
    let items: Vec<Value> = items.into_iter().map(inferred).collect::<Result<_>>()?;
    let element = common(&items)?;
    let set = ValueType::ALL
        .iter()
        .copied()
        .filter(|set| collection::element_type(*set) == Some(element))
        .find(|set| collection::is_set(*set))
        .ok_or_else(|| Error::invalid(format!("its Python function answered a set of `{element}`")))?;
    Ok(collection::collect(set, items))
}

fn common(items: &[Value]) -> Result<ValueType> {
    let mut types = items
        .iter()
        .map(value::value_type)
        .filter(|value_type| *value_type != ValueType::Unknown);
    let first = types.next().unwrap_or(ValueType::Int64);
    if types.all(|other| other == first) {
        return Ok(first);
    }
    Err(Error::invalid(
        "its Python function answered a list whose items are of several types",
    ))
}
