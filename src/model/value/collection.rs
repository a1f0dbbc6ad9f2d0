//! Lists and sets, put together from scalar values and taken apart again. It converts no types: the
//! scalars have the element's type already.

use bytes::Bytes;

use super::{Kind, NULL, NULL_TIMESTAMP, Value};
use crate::model::ValueType;
use crate::proto::feast::types::{
    BoolList, BoolSet, BytesList, BytesSet, DoubleList, DoubleSet, FloatList, FloatSet, Int32List, Int32Set,
    Int64List, Int64Set, StringList, StringSet,
};

/// What a list or set type holds; `None` for scalars, maps, structs and nested collections.
pub(crate) fn element_type(value_type: ValueType) -> Option<ValueType> {
    Some(match value_type {
        ValueType::BytesList | ValueType::BytesSet => ValueType::Bytes,
        ValueType::StringList | ValueType::StringSet => ValueType::String,
        ValueType::Int32List | ValueType::Int32Set => ValueType::Int32,
        ValueType::Int64List | ValueType::Int64Set => ValueType::Int64,
        ValueType::DoubleList | ValueType::DoubleSet => ValueType::Double,
        ValueType::FloatList | ValueType::FloatSet => ValueType::Float,
        ValueType::BoolList | ValueType::BoolSet => ValueType::Bool,
        ValueType::UnixTimestampList | ValueType::UnixTimestampSet => ValueType::UnixTimestamp,
        ValueType::JsonList => ValueType::Json,
        ValueType::UuidList | ValueType::UuidSet => ValueType::Uuid,
        ValueType::TimeUuidList | ValueType::TimeUuidSet => ValueType::TimeUuid,
        ValueType::DecimalList | ValueType::DecimalSet => ValueType::Decimal,
        _ => return None,
    })
}

/// Whether the type is a set of scalars, which keeps no duplicates.
pub(crate) fn is_set(value_type: ValueType) -> bool {
    matches!(
        value_type,
        ValueType::BytesSet
            | ValueType::StringSet
            | ValueType::Int32Set
            | ValueType::Int64Set
            | ValueType::DoubleSet
            | ValueType::FloatSet
            | ValueType::BoolSet
            | ValueType::UnixTimestampSet
            | ValueType::UuidSet
            | ValueType::TimeUuidSet
            | ValueType::DecimalSet
    )
}

/// The list or set of those scalars.
///
/// Protobuf lists cannot hold null. Lists keep their length, so a null becomes what Feast puts there: an
/// empty text, 0, false, the null timestamp, and NaN in lists of floating point numbers (that is what
/// pandas makes of it on the way). Sets drop nulls and repeated values.
pub(crate) fn collect(value_type: ValueType, mut items: Vec<Value>) -> Value {
    if is_set(value_type) {
        deduplicate(&mut items);
    }
    macro_rules! collected {
        ($kind:ident, $message:ident, $element:ident) => {
            Kind::$kind($message {
                val: items.iter_mut().map($element).collect(),
            })
        };
    }
    let kind = match value_type {
        ValueType::BytesList => collected!(BytesListVal, BytesList, bytes),
        ValueType::StringList => collected!(StringListVal, StringList, text),
        ValueType::Int32List => collected!(Int32ListVal, Int32List, int32),
        ValueType::Int64List => collected!(Int64ListVal, Int64List, int64),
        ValueType::DoubleList => collected!(DoubleListVal, DoubleList, double),
        ValueType::FloatList => collected!(FloatListVal, FloatList, float),
        ValueType::BoolList => collected!(BoolListVal, BoolList, boolean),
        ValueType::UnixTimestampList => collected!(UnixTimestampListVal, Int64List, timestamp),
        ValueType::BytesSet => collected!(BytesSetVal, BytesSet, bytes),
        ValueType::StringSet => collected!(StringSetVal, StringSet, text),
        ValueType::Int32Set => collected!(Int32SetVal, Int32Set, int32),
        ValueType::Int64Set => collected!(Int64SetVal, Int64Set, int64),
        ValueType::DoubleSet => collected!(DoubleSetVal, DoubleSet, double),
        ValueType::FloatSet => collected!(FloatSetVal, FloatSet, float),
        ValueType::BoolSet => collected!(BoolSetVal, BoolSet, boolean),
        ValueType::UnixTimestampSet => collected!(UnixTimestampSetVal, Int64Set, timestamp),
        ValueType::JsonList => collected!(JsonListVal, StringList, text),
        ValueType::UuidList => collected!(UuidListVal, StringList, text),
        ValueType::TimeUuidList => collected!(TimeUuidListVal, StringList, text),
        ValueType::UuidSet => collected!(UuidSetVal, StringSet, text),
        ValueType::TimeUuidSet => collected!(TimeUuidSetVal, StringSet, text),
        ValueType::DecimalList => collected!(DecimalListVal, StringList, text),
        ValueType::DecimalSet => collected!(DecimalSetVal, StringSet, text),
        _ => return NULL,
    };
    kind.into()
}

fn deduplicate(items: &mut Vec<Value>) {
    use prost::Message;
    let mut seen = std::collections::HashSet::with_capacity(items.len());
    items.retain(|item| item.val.is_some() && seen.insert(item.encode_to_vec()));
}

fn bytes(value: &mut Value) -> Bytes {
    match value.val.take() {
        Some(Kind::BytesVal(bytes)) => bytes,
        _ => Bytes::new(),
    }
}

fn text(value: &mut Value) -> String {
    match value.val.take() {
        Some(
            Kind::StringVal(text)
            | Kind::JsonVal(text)
            | Kind::UuidVal(text)
            | Kind::TimeUuidVal(text)
            | Kind::DecimalVal(text),
        ) => text,
        _ => String::new(),
    }
}

fn int32(value: &mut Value) -> i32 {
    match value.val.take() {
        Some(Kind::Int32Val(number)) => number,
        _ => 0,
    }
}

fn int64(value: &mut Value) -> i64 {
    match value.val.take() {
        Some(Kind::Int64Val(number)) => number,
        _ => 0,
    }
}

fn double(value: &mut Value) -> f64 {
    match value.val.take() {
        Some(Kind::DoubleVal(number)) => number,
        _ => f64::NAN,
    }
}

fn float(value: &mut Value) -> f32 {
    match value.val.take() {
        Some(Kind::FloatVal(number)) => number,
        _ => f32::NAN,
    }
}

fn boolean(value: &mut Value) -> bool {
    matches!(value.val.take(), Some(Kind::BoolVal(true)))
}

fn timestamp(value: &mut Value) -> i64 {
    match value.val.take() {
        Some(Kind::UnixTimestampVal(seconds)) => seconds,
        _ => NULL_TIMESTAMP,
    }
}

/// The scalars a list or set holds, in stored order; `None` when the value is no list or set.
pub(super) fn items(value: &Value) -> Option<Vec<Value>> {
    macro_rules! scalars {
        ($list:expr, $kind:ident) => {
            $list
                .val
                .iter()
                .map(|item| Kind::$kind(item.clone()).into())
                .collect()
        };
    }
    Some(match value.val.as_ref()? {
        Kind::BytesListVal(list) => scalars!(list, BytesVal),
        Kind::BytesSetVal(set) => scalars!(set, BytesVal),
        Kind::StringListVal(list) => scalars!(list, StringVal),
        Kind::StringSetVal(set) => scalars!(set, StringVal),
        Kind::Int32ListVal(list) => scalars!(list, Int32Val),
        Kind::Int32SetVal(set) => scalars!(set, Int32Val),
        Kind::Int64ListVal(list) => scalars!(list, Int64Val),
        Kind::Int64SetVal(set) => scalars!(set, Int64Val),
        Kind::DoubleListVal(list) => scalars!(list, DoubleVal),
        Kind::DoubleSetVal(set) => scalars!(set, DoubleVal),
        Kind::FloatListVal(list) => scalars!(list, FloatVal),
        Kind::FloatSetVal(set) => scalars!(set, FloatVal),
        Kind::BoolListVal(list) => scalars!(list, BoolVal),
        Kind::BoolSetVal(set) => scalars!(set, BoolVal),
        Kind::UnixTimestampListVal(list) => scalars!(list, UnixTimestampVal),
        Kind::UnixTimestampSetVal(set) => scalars!(set, UnixTimestampVal),
        Kind::JsonListVal(list) => scalars!(list, JsonVal),
        Kind::UuidListVal(list) => scalars!(list, UuidVal),
        Kind::UuidSetVal(set) => scalars!(set, UuidVal),
        Kind::TimeUuidListVal(list) => scalars!(list, TimeUuidVal),
        Kind::TimeUuidSetVal(set) => scalars!(set, TimeUuidVal),
        Kind::DecimalListVal(list) => scalars!(list, DecimalVal),
        Kind::DecimalSetVal(set) => scalars!(set, DecimalVal),
        Kind::ListVal(values) | Kind::SetVal(values) => values.val.clone(),
        _ => return None,
    })
}
