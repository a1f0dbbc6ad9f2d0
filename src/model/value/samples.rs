//! Random values of every type, for the property tests of the modules around.

use proptest::prelude::*;

use super::{Kind, NULL, Value, collection};
use crate::model::ValueType;
use crate::proto::feast::types::{
    Map, MapKey, MapList, RepeatedValue, ScalarMap, ScalarMapEntry, ZonedTimestamp, map_key::Key,
};

/// Seconds of the years 0 to 9999, where every form of an instant exists.
fn seconds() -> impl Strategy<Value = i64> {
    -62_167_219_200_i64..253_402_300_800
}

/// A scalar that is not null: NaN is null outside of lists.
pub(super) fn scalar(value_type: ValueType) -> BoxedStrategy<Value> {
    let kind = match value_type {
        ValueType::Bytes | ValueType::PdfBytes | ValueType::ImageBytes => any::<Vec<u8>>()
            .prop_map(|bytes| Kind::BytesVal(bytes.into()))
            .boxed(),
        ValueType::Int32 => any::<i32>().prop_map(Kind::Int32Val).boxed(),
        ValueType::Int64 => any::<i64>().prop_map(Kind::Int64Val).boxed(),
        ValueType::Double => prop_oneof![9 => any::<f64>(), 1 => Just(f64::INFINITY)]
            .prop_map(Kind::DoubleVal)
            .boxed(),
        ValueType::Float => prop_oneof![9 => any::<f32>(), 1 => Just(f32::NEG_INFINITY)]
            .prop_map(Kind::FloatVal)
            .boxed(),
        ValueType::Bool => any::<bool>().prop_map(Kind::BoolVal).boxed(),
        ValueType::UnixTimestamp => seconds().prop_map(Kind::UnixTimestampVal).boxed(),
        ValueType::ZonedTimestamp => (
            seconds(),
            prop::sample::select(vec!["", "UTC+05:30", "UTC-07:00"]),
        )
            .prop_map(|(unix_timestamp, zone)| {
                Kind::ZonedTimestampVal(ZonedTimestamp {
                    unix_timestamp,
                    zone: zone.to_owned(),
                })
            })
            .boxed(),
        ValueType::Json => json_text().prop_map(Kind::JsonVal).boxed(),
        ValueType::Uuid => uuid().prop_map(Kind::UuidVal).boxed(),
        ValueType::TimeUuid => uuid().prop_map(Kind::TimeUuidVal).boxed(),
        ValueType::Decimal => "-?[0-9]{1,20}(\\.[0-9]{1,8})?".prop_map(Kind::DecimalVal).boxed(),
        _ => any::<String>().prop_map(Kind::StringVal).boxed(),
    };
    kind.prop_map(Value::from).boxed()
}

fn uuid() -> impl Strategy<Value = String> {
    any::<u128>().prop_map(|bits| uuid::Uuid::from_u128(bits).to_string())
}

fn json_text() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("{\"a\": [1, 2]}".to_owned()),
        Just("null".to_owned()),
        any::<i64>().prop_map(|n| n.to_string())
    ]
}

/// What inference gives for JSON: the only values a map read from JSON can have.
fn inferable() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(NULL),
        scalar(ValueType::Int64),
        scalar(ValueType::Double).prop_filter("infinities are texts", |value| {
            matches!(value.val, Some(Kind::DoubleVal(number)) if number.is_finite())
        }),
        scalar(ValueType::Bool),
        scalar(ValueType::String),
        list(ValueType::Int64List),
        list(ValueType::BoolList).prop_filter("an empty list has no type", |value| value
            != &Kind::BoolListVal(Default::default()).into()),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        fields(inner).prop_map(|map| Kind::MapVal(map).into())
    })
}

fn fields(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Map> {
    prop::collection::btree_map(any::<String>(), value, 0..4).prop_map(|val| Map { val })
}

/// A list or set of scalars; sets without repetitions.
fn list(value_type: ValueType) -> BoxedStrategy<Value> {
    let element = collection::element_type(value_type).unwrap_or(ValueType::String);
    prop::collection::vec(scalar(element), 0..5)
        .prop_map(move |items| collection::collect(value_type, items))
        .boxed()
}

/// A value of that type that JSON and its type bring back, or null.
pub(super) fn value(value_type: ValueType) -> BoxedStrategy<Value> {
    let maps = || prop::collection::vec(fields(inferable()), 0..3).prop_map(|val| MapList { val });
    let nested = || {
        let lists = prop_oneof![
            Just(NULL),
            prop::collection::vec(any::<i64>(), 1..4)
                .prop_map(|val| Kind::Int64ListVal(crate::proto::feast::types::Int64List { val }).into()),
        ];
        prop::collection::vec(lists, 0..3).prop_map(|val| RepeatedValue { val })
    };
    let some = match value_type {
        ValueType::Unknown | ValueType::Null => return Just(NULL).boxed(),
        ValueType::Map => fields(inferable())
            .prop_map(|map| Kind::MapVal(map).into())
            .boxed(),
        ValueType::Struct => fields(inferable())
            .prop_map(|map| Kind::StructVal(map).into())
            .boxed(),
        ValueType::MapList => maps().prop_map(|list| Kind::MapListVal(list).into()).boxed(),
        ValueType::StructList => maps().prop_map(|list| Kind::StructListVal(list).into()).boxed(),
        ValueType::ValueList => nested().prop_map(|list| Kind::ListVal(list).into()).boxed(),
        ValueType::ValueSet => nested().prop_map(|list| Kind::SetVal(list).into()).boxed(),
        ValueType::ScalarMap => prop::collection::vec((any::<i64>(), inferable()), 0..3)
            .prop_map(|entries| {
                let entry = |(key, value)| ScalarMapEntry {
                    key: Some(MapKey {
                        key: Some(Key::Int64Key(key)),
                    }),
                    value: Some(value),
                };
                Kind::ScalarMapVal(ScalarMap {
                    val: entries.into_iter().map(entry).collect(),
                })
                .into()
            })
            .boxed(),
        _ if collection::element_type(value_type).is_some() => list(value_type),
        _ => scalar(value_type),
    };
    prop_oneof![1 => Just(NULL), 6 => some].boxed()
}

/// Any type with a few values of it.
pub(super) fn typed_values() -> impl Strategy<Value = (ValueType, Vec<Value>)> {
    prop::sample::select(ValueType::ALL)
        .prop_flat_map(|value_type| (Just(value_type), prop::collection::vec(value(value_type), 0..6)))
}
