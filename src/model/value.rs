//! [`Value`]: one feature or join key value, as `feast.types.Value` carries it.
//!
//! Here are the questions every layer asks of a value; its JSON, Arrow and text forms are in the
//! modules below. Values are data only: what a view's schema says about them is decided elsewhere.

pub mod arrow;
pub mod json;
pub mod text;

pub(crate) mod collection;
#[cfg(test)]
mod samples;

use super::value_type::ValueType;

pub use crate::proto::feast::types::Value;

/// The alternatives a [`Value`] holds.
pub type Kind = crate::proto::feast::types::value::Val;

/// The timestamp that Feast writes for "no timestamp" (pandas' `NaT`).
pub const NULL_TIMESTAMP: i64 = i64::MIN;

/// The value that stands for "no value": no bytes on the wire.
pub const NULL: Value = Value { val: None };

/// The type a value carries; [`ValueType::Unknown`] when it is empty.
pub fn value_type(value: &Value) -> ValueType {
    let Some(kind) = &value.val else {
        return ValueType::Unknown;
    };
    match kind {
        Kind::BytesVal(_) => ValueType::Bytes,
        Kind::StringVal(_) => ValueType::String,
        Kind::Int32Val(_) => ValueType::Int32,
        Kind::Int64Val(_) => ValueType::Int64,
        Kind::DoubleVal(_) => ValueType::Double,
        Kind::FloatVal(_) => ValueType::Float,
        Kind::BoolVal(_) => ValueType::Bool,
        Kind::UnixTimestampVal(_) => ValueType::UnixTimestamp,
        Kind::BytesListVal(_) => ValueType::BytesList,
        Kind::StringListVal(_) => ValueType::StringList,
        Kind::Int32ListVal(_) => ValueType::Int32List,
        Kind::Int64ListVal(_) => ValueType::Int64List,
        Kind::DoubleListVal(_) => ValueType::DoubleList,
        Kind::FloatListVal(_) => ValueType::FloatList,
        Kind::BoolListVal(_) => ValueType::BoolList,
        Kind::UnixTimestampListVal(_) => ValueType::UnixTimestampList,
        Kind::NullVal(_) => ValueType::Null,
        Kind::MapVal(_) => ValueType::Map,
        Kind::MapListVal(_) => ValueType::MapList,
        Kind::BytesSetVal(_) => ValueType::BytesSet,
        Kind::StringSetVal(_) => ValueType::StringSet,
        Kind::Int32SetVal(_) => ValueType::Int32Set,
        Kind::Int64SetVal(_) => ValueType::Int64Set,
        Kind::DoubleSetVal(_) => ValueType::DoubleSet,
        Kind::FloatSetVal(_) => ValueType::FloatSet,
        Kind::BoolSetVal(_) => ValueType::BoolSet,
        Kind::UnixTimestampSetVal(_) => ValueType::UnixTimestampSet,
        Kind::JsonVal(_) => ValueType::Json,
        Kind::JsonListVal(_) => ValueType::JsonList,
        Kind::StructVal(_) => ValueType::Struct,
        Kind::StructListVal(_) => ValueType::StructList,
        Kind::UuidVal(_) => ValueType::Uuid,
        Kind::TimeUuidVal(_) => ValueType::TimeUuid,
        Kind::UuidListVal(_) => ValueType::UuidList,
        Kind::TimeUuidListVal(_) => ValueType::TimeUuidList,
        Kind::UuidSetVal(_) => ValueType::UuidSet,
        Kind::TimeUuidSetVal(_) => ValueType::TimeUuidSet,
        Kind::ListVal(_) => ValueType::ValueList,
        Kind::SetVal(_) => ValueType::ValueSet,
        Kind::DecimalVal(_) => ValueType::Decimal,
        Kind::DecimalListVal(_) => ValueType::DecimalList,
        Kind::DecimalSetVal(_) => ValueType::DecimalSet,
        Kind::ScalarMapVal(_) => ValueType::ScalarMap,
        Kind::ZonedTimestampVal(_) => ValueType::ZonedTimestamp,
    }
}

/// Whether the value says "no value", in any of the ways Feast has written that.
pub fn is_null(value: &Value) -> bool {
    matches!(
        &value.val,
        None | Some(Kind::NullVal(_) | Kind::UnixTimestampVal(NULL_TIMESTAMP))
    )
}

impl From<Kind> for Value {
    fn from(kind: Kind) -> Self {
        Self { val: Some(kind) }
    }
}
