//! Columns made of values.

use std::borrow::Cow;
use std::sync::Arc;

use ::arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array,
    LargeStringArray, ListArray, ListBuilder, MapBuilder, MapFieldNames, NullArray, StringArray,
    StringBuilder, TimestampMicrosecondArray,
};
use ::arrow::buffer::{NullBuffer, OffsetBuffer};
use ::arrow::datatypes::{DataType, Field};

use super::super::{Kind, Value, collection, is_null, json, value_type as type_of};
use crate::error::Result;
use crate::model::ValueType;
use crate::proto::feast::types::{Map, map_key::Key};

pub(super) fn array(values: &[&Value], value_type: ValueType) -> Result<ArrayRef> {
    if let Some(element) = collection::element_type(value_type) {
        return list(values, value_type, element);
    }
    let values: Vec<Option<Cow<'_, Value>>> = values
        .iter()
        .map(|value| fitted(value, value_type))
        .collect::<Result<_>>()?;
    macro_rules! column {
        ($array:ty, $($pattern:pat => $item:expr),+) => {
            Arc::new(values.iter().map(|value| match value.as_ref().and_then(|value| value.val.as_ref()) {
                $(Some($pattern) => Some($item),)+
                _ => None,
            }).collect::<$array>())
        };
    }
    // Instants 290,000 years away do not fit into microseconds; they are null rather than wrong.
    let micros = |seconds: i64| seconds.checked_mul(1_000_000);
    Ok(match value_type {
        ValueType::Unknown | ValueType::Null => Arc::new(NullArray::new(values.len())),
        ValueType::Int32 => column!(Int32Array, Kind::Int32Val(number) => *number),
        ValueType::Int64 => column!(Int64Array, Kind::Int64Val(number) => *number),
        ValueType::Double => column!(Float64Array, Kind::DoubleVal(number) => *number),
        ValueType::Float => column!(Float32Array, Kind::FloatVal(number) => *number),
        ValueType::Bool => column!(BooleanArray, Kind::BoolVal(truth) => *truth),
        ValueType::Bytes | ValueType::PdfBytes | ValueType::ImageBytes => {
            column!(BinaryArray, Kind::BytesVal(bytes) => bytes.as_ref())
        }
        ValueType::UnixTimestamp | ValueType::ZonedTimestamp => {
            let instants: TimestampMicrosecondArray = values
                .iter()
                .map(
                    |value| match value.as_ref().and_then(|value| value.val.as_ref()) {
                        Some(Kind::UnixTimestampVal(seconds)) => micros(*seconds),
                        Some(Kind::ZonedTimestampVal(zoned)) => micros(zoned.unix_timestamp),
                        _ => None,
                    },
                )
                .collect();
            Arc::new(instants.with_timezone("UTC"))
        }
        ValueType::Json => column!(LargeStringArray, Kind::JsonVal(text) => text.as_str()),
        ValueType::Map | ValueType::Struct | ValueType::ScalarMap => {
            maps(values.iter().map(Option::as_deref))?
        }
        ValueType::MapList | ValueType::StructList => map_lists(&values)?,
        ValueType::ValueList | ValueType::ValueSet => nested(&values),
        _ => column!(
            StringArray,
            Kind::StringVal(text) | Kind::UuidVal(text) | Kind::TimeUuidVal(text) | Kind::DecimalVal(text) => text.as_str()
        ),
    })
}

/// The value in the column's type; `None` for null.
fn fitted<'a>(value: &'a Value, value_type: ValueType) -> Result<Option<Cow<'a, Value>>> {
    if is_null(value) {
        return Ok(None);
    }
    let fits = type_of(value) == value_type
        || matches!(value_type, ValueType::Unknown | ValueType::Null)
        || matches!(
            (&value.val, value_type),
            (
                Some(Kind::BytesVal(_)),
                ValueType::PdfBytes | ValueType::ImageBytes
            ) | (Some(Kind::UnixTimestampVal(_)), ValueType::ZonedTimestamp)
                | (Some(Kind::MapVal(_)), ValueType::Struct)
                | (Some(Kind::StructVal(_)), ValueType::Map)
        );
    Ok(Some(if fits {
        Cow::Borrowed(value)
    } else {
        Cow::Owned(json::from_json(&json::to_json(value), value_type)?)
    }))
}

fn list(values: &[&Value], value_type: ValueType, element: ValueType) -> Result<ArrayRef> {
    let mut items = Vec::new();
    let mut lengths = Vec::with_capacity(values.len());
    let mut valid = Vec::with_capacity(values.len());
    for value in values {
        let fitted = fitted(value, value_type)?;
        let own = fitted.as_deref().and_then(collection::items);
        valid.push(own.is_some());
        let own = own.unwrap_or_default();
        lengths.push(own.len());
        items.extend(own);
    }
    let child = array(&items.iter().collect::<Vec<_>>(), element)?;
    let field = Arc::new(Field::new_list_field(child.data_type().clone(), true));
    Ok(Arc::new(ListArray::try_new(
        field,
        OffsetBuffer::from_lengths(lengths),
        child,
        Some(NullBuffer::from(valid)),
    )?))
}

type TextMapBuilder = MapBuilder<StringBuilder, StringBuilder>;

fn text_map_builder() -> TextMapBuilder {
    let names = MapFieldNames {
        entry: "entries".to_owned(),
        key: "key".to_owned(),
        value: "value".to_owned(),
    };
    MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new()).with_values_field(Field::new(
        "value",
        DataType::Utf8,
        true,
    ))
}

/// A text as it is, anything else as JSON; `None` for null.
fn entry_text(value: &Value) -> Option<String> {
    match &value.val {
        _ if is_null(value) => None,
        Some(Kind::StringVal(text)) => Some(text.clone()),
        _ => Some(json::to_json(value).to_string()),
    }
}

fn append_map(builder: &mut TextMapBuilder, map: Option<&Map>) -> Result<()> {
    for (key, value) in map.into_iter().flat_map(|map| &map.val) {
        builder.keys().append_value(key);
        builder.values().append_option(entry_text(value));
    }
    Ok(builder.append(map.is_some())?)
}

fn maps<'a>(values: impl Iterator<Item = Option<&'a Value>>) -> Result<ArrayRef> {
    let mut builder = text_map_builder();
    for value in values {
        match value.and_then(|value| value.val.as_ref()) {
            Some(Kind::MapVal(map) | Kind::StructVal(map)) => append_map(&mut builder, Some(map))?,
            Some(Kind::ScalarMapVal(map)) => {
                for entry in &map.val {
                    builder.keys().append_value(
                        entry
                            .key
                            .as_ref()
                            .map_or_else(String::new, |key| key_text(key.key.as_ref())),
                    );
                    builder
                        .values()
                        .append_option(entry.value.as_ref().and_then(entry_text));
                }
                builder.append(true)?;
            }
            _ => append_map(&mut builder, None)?,
        }
    }
    Ok(Arc::new(builder.finish()))
}

fn key_text(key: Option<&Key>) -> String {
    let value = match key {
        None => return String::new(),
        Some(Key::UuidKey(text) | Key::TimeUuidKey(text) | Key::DecimalKey(text)) => return text.clone(),
        Some(Key::Int32Key(number)) => Kind::Int32Val(*number),
        Some(Key::Int64Key(number)) => Kind::Int64Val(*number),
        Some(Key::FloatKey(number)) => Kind::FloatVal(*number),
        Some(Key::DoubleKey(number)) => Kind::DoubleVal(*number),
        Some(Key::BoolKey(truth)) => Kind::BoolVal(*truth),
        Some(Key::UnixTimestampKey(seconds)) => Kind::UnixTimestampVal(*seconds),
        Some(Key::BytesKey(bytes)) => Kind::BytesVal(bytes.clone()),
    };
    entry_text(&value.into()).unwrap_or_default()
}

fn map_lists(values: &[Option<Cow<'_, Value>>]) -> Result<ArrayRef> {
    let mut builder = ListBuilder::new(text_map_builder());
    for value in values {
        match value.as_ref().and_then(|value| value.val.as_ref()) {
            Some(Kind::MapListVal(list) | Kind::StructListVal(list)) => {
                for map in &list.val {
                    append_map(builder.values(), Some(map))?;
                }
                builder.append(true);
            }
            _ => builder.append(false),
        }
    }
    Ok(Arc::new(builder.finish()))
}

fn nested(values: &[Option<Cow<'_, Value>>]) -> ArrayRef {
    let mut builder = ListBuilder::new(ListBuilder::new(StringBuilder::new()));
    for value in values {
        let inner = value.as_deref().and_then(collection::items);
        for list in inner.iter().flatten() {
            let items = collection::items(list);
            for item in items.iter().flatten() {
                builder.values().values().append_option(entry_text(item));
            }
            builder.values().append(items.is_some());
        }
        builder.append(inner.is_some());
    }
    Arc::new(builder.finish())
}
