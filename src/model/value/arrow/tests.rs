//! Columns against what Feast makes of them, and there and back for random values.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::iter::zip;

use ::arrow::array::*;
use ::arrow::compute::cast;
use ::arrow::datatypes::{Float64Type, Int32Type, Int64Type};
use proptest::prelude::*;
use prost::Message;
use serde_json::{Value as Json, json};

use super::super::{Kind, NULL, is_null, json as codec, samples, value_type};
use super::*;

/// The JSON of every row, by both ways through this module.
fn rows(array: &dyn Array, value_type: ValueType) -> Vec<Json> {
    let values = from_array(array, value_type).unwrap();
    let encoded: Vec<Bytes> = values.iter().map(|value| value.encode_to_vec().into()).collect();
    assert_eq!(encode_column(array, value_type).unwrap(), encoded);
    values.iter().map(codec::to_json).collect()
}

#[test]
fn nan_is_null_in_scalars_and_a_number_in_lists() {
    let doubles = Float64Array::from(vec![Some(1.5), Some(f64::NAN), None, Some(f64::INFINITY)]);
    assert_eq!(from_array(&doubles, ValueType::Double).unwrap()[1], NULL);
    assert_eq!(
        rows(&doubles, ValueType::Double),
        [json!(1.5), json!(null), json!(null), json!("Infinity")]
    );
    assert_eq!(
        rows(&doubles, ValueType::Float),
        [json!(1.5), json!(null), json!(null), json!("Infinity")]
    );
    let list =
        ListArray::from_iter_primitive::<Float64Type, _, _>([Some([Some(1.5), Some(f64::NAN), None]), None]);
    assert_eq!(
        rows(&list, ValueType::DoubleList),
        [json!([1.5, "NaN", "NaN"]), json!(null)]
    );
    assert_eq!(
        rows(&list, ValueType::FloatList),
        [json!([1.5, "NaN", "NaN"]), json!(null)]
    );
}

#[test]
fn numbers_become_the_declared_number() {
    let floats = Float64Array::from(vec![Some(1.7), Some(-1.7), None, Some(f64::NAN)]);
    assert_eq!(
        rows(&floats, ValueType::Int64),
        [json!(1), json!(-1), json!(null), json!(null)]
    );
    assert_eq!(
        rows(&floats, ValueType::Int32),
        [json!(1), json!(-1), json!(null), json!(null)]
    );
    let bytes = UInt8Array::from(vec![Some(200), None]);
    assert_eq!(rows(&bytes, ValueType::Int32), [json!(200), json!(null)]);
    assert_eq!(rows(&bytes, ValueType::Double), [json!(200.0), json!(null)]);
    assert_eq!(rows(&bytes, ValueType::Bool), [json!(true), json!(null)]);
    let texts = StringArray::from(vec![Some("12"), None, Some(" 7 ")]);
    assert_eq!(rows(&texts, ValueType::Int64), [json!(12), json!(null), json!(7)]);
    assert_eq!(
        rows(&texts, ValueType::Float),
        [json!(12.0), json!(null), json!(7.0)]
    );
    let precise = Int64Array::from(vec![Some(9_007_199_254_740_993), None]);
    assert_eq!(
        rows(&precise, ValueType::Int64),
        [json!(9_007_199_254_740_993_i64), json!(null)]
    );
    let decimals = Decimal128Array::from(vec![Some(150), None])
        .with_precision_and_scale(5, 2)
        .unwrap();
    assert_eq!(rows(&decimals, ValueType::Decimal), [json!("1.50"), json!(null)]);
    assert_eq!(rows(&decimals, ValueType::Double), [json!(1.5), json!(null)]);
    assert_eq!(rows(&decimals, ValueType::Int64), [json!(1), json!(null)]);
}

#[test]
fn values_that_do_not_fit_are_errors() {
    let check = |array: &dyn Array, value_type| {
        let error = from_array(array, value_type).unwrap_err();
        assert_eq!(error.kind(), crate::error::Kind::InvalidArgument, "{error}");
        error.message().to_owned()
    };
    assert_eq!(
        check(&Int64Array::from(vec![1 << 40]), ValueType::Int32),
        "`1099511627776` does not fit type `Int32`"
    );
    check(&UInt64Array::from(vec![u64::MAX]), ValueType::Int64);
    check(&Float64Array::from(vec![f64::INFINITY]), ValueType::Int64);
    check(&Float64Array::from(vec![1e300]), ValueType::Int64);
    check(&StringArray::from(vec!["x"]), ValueType::Int64);
    check(&StringArray::from(vec!["true"]), ValueType::Bool);
    check(&StringArray::from(vec!["YQ=="]), ValueType::Bytes);
    check(&StringArray::from(vec!["{a}"]), ValueType::Json);
    check(&BinaryArray::from(vec![b"\xff".as_slice()]), ValueType::String);
    check(&TimestampSecondArray::from(vec![1]), ValueType::Int64);
    check(&Int64Array::from(vec![1]), ValueType::Int64List);
    check(&Int64Array::from(vec![1]), ValueType::Map);
}

#[test]
fn everything_has_a_text() {
    assert_eq!(
        rows(&Float64Array::from(vec![Some(1e22), None]), ValueType::String),
        [json!("1e+22"), json!(null)]
    );
    assert_eq!(
        rows(&Float32Array::from(vec![1.1]), ValueType::String),
        [json!("1.1")]
    );
    assert_eq!(
        rows(&BooleanArray::from(vec![true]), ValueType::String),
        [json!("True")]
    );
    assert_eq!(
        rows(&Int16Array::from(vec![-5]), ValueType::String),
        [json!("-5")]
    );
    assert_eq!(
        rows(
            &TimestampMicrosecondArray::from(vec![1_577_844_184_000_005]),
            ValueType::String
        ),
        [json!("2020-01-01T02:03:04.000005")]
    );
    assert_eq!(
        rows(&Date32Array::from(vec![18_262]), ValueType::String),
        [json!("2020-01-01")]
    );
    assert_eq!(
        rows(&Time64MicrosecondArray::from(vec![5]), ValueType::String),
        [json!("00:00:00.000005")]
    );
}

#[test]
fn timestamps_of_every_unit_are_whole_seconds() {
    let arrays: [ArrayRef; 4] = [
        Arc::new(TimestampSecondArray::from(vec![Some(-2), None, Some(5)])),
        Arc::new(TimestampMillisecondArray::from(vec![
            Some(-1500),
            None,
            Some(5999),
        ])),
        Arc::new(TimestampMicrosecondArray::from(vec![
            Some(-1_500_000),
            None,
            Some(5_999_999),
        ])),
        Arc::new(TimestampNanosecondArray::from(vec![
            Some(-1_500_000_000),
            None,
            Some(5_999_999_999),
        ])),
    ];
    for array in arrays {
        assert_eq!(
            rows(&array, ValueType::UnixTimestamp),
            [json!(-2), json!(null), json!(5)]
        );
        let DataType::Timestamp(unit, _) = array.data_type() else {
            unreachable!()
        };
        // Casting a naive time reads it as local time; casting between zones keeps the instant.
        let at = |zone: &str| DataType::Timestamp(*unit, Some(zone.into()));
        let zoned = cast(&cast(&array, &at("UTC")).unwrap(), &at("America/New_York")).unwrap();
        let zoned = from_array(&zoned, ValueType::ZonedTimestamp).unwrap();
        let Some(Kind::ZonedTimestampVal(first)) = &zoned[0].val else {
            unreachable!()
        };
        assert_eq!(
            (first.unix_timestamp, first.zone.as_str()),
            (-2, "America/New_York")
        );
        assert_eq!(zoned[1], NULL);
    }
    assert_eq!(
        rows(&Date32Array::from(vec![18_262]), ValueType::UnixTimestamp),
        [json!(1_577_836_800)]
    );
    assert_eq!(
        rows(
            &Date64Array::from(vec![1_577_836_800_000]),
            ValueType::UnixTimestamp
        ),
        [json!(1_577_836_800)]
    );
    assert_eq!(
        rows(&Int64Array::from(vec![Some(5), None]), ValueType::UnixTimestamp),
        [json!(5), json!(null)]
    );
    assert_eq!(
        rows(
            &StringArray::from(vec!["2020-01-01", "15"]),
            ValueType::UnixTimestamp
        ),
        [json!(1_577_836_800), json!(15)]
    );
    // Elements of lists go through Python's datetime, which cuts towards zero.
    let mut list = ListBuilder::new(TimestampMillisecondBuilder::new());
    list.append_value([Some(-1500), Some(5), None]);
    assert_eq!(
        rows(&list.finish(), ValueType::UnixTimestampList),
        [json!([-1, 0, i64::MIN])]
    );
}

#[test]
fn lists_of_every_kind_are_lists() {
    let list =
        ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), None]), None, Some(vec![])]);
    let expected = [json!([1, 0]), json!(null), json!([])];
    assert_eq!(rows(&list, ValueType::Int64List), expected);
    assert_eq!(rows(&list, ValueType::Int32List), expected);
    assert_eq!(rows(&list.slice(1, 2), ValueType::Int64List), expected[1..]);
    let item = Arc::new(Field::new_list_field(DataType::Int64, true));
    for data_type in [DataType::LargeList(item.clone()), DataType::ListView(item)] {
        assert_eq!(
            rows(&cast(&list, &data_type).unwrap(), ValueType::Int64List),
            expected
        );
    }
    let fixed = FixedSizeListArray::from_iter_primitive::<Int32Type, _, _>(
        [Some(vec![Some(1), Some(2)]), None, Some(vec![Some(3), Some(4)])],
        2,
    );
    assert_eq!(
        rows(&fixed, ValueType::FloatList),
        [json!([1.0, 2.0]), json!(null), json!([3.0, 4.0])]
    );
    assert_eq!(rows(&fixed.slice(2, 1), ValueType::Int32List), [json!([3, 4])]);
    assert_eq!(
        rows(&list, ValueType::Int64),
        [json!(null), json!(null), json!(null)]
    );
    let repeated =
        ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(3), Some(1), Some(3), None])]);
    assert_eq!(rows(&repeated, ValueType::Int64Set), [json!([3, 1])]);
    let texts = StringArray::from(vec![Some("[1, 2]"), None]);
    assert_eq!(
        rows(&texts, ValueType::DoubleList),
        [json!([1.0, 2.0]), json!(null)]
    );
}

#[test]
fn nested_lists_keep_the_width_of_their_elements() {
    let mut lists = ListBuilder::new(ListBuilder::new(Int32Builder::new()));
    lists.values().append_value([Some(1), Some(2)]);
    lists.values().append_value([]);
    lists.values().append_null();
    lists.append(true);
    lists.append(false);
    let array = lists.finish();
    assert_eq!(
        rows(&array, ValueType::ValueList),
        [json!([[1, 2], null, null]), json!(null)]
    );
    let values = from_array(&array, ValueType::ValueSet).unwrap();
    let Some(Kind::SetVal(set)) = &values[0].val else {
        unreachable!()
    };
    assert_eq!(value_type(&set.val[0]), ValueType::Int32List);
}

#[test]
fn structs_and_maps_become_maps() {
    let numbers: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), None]));
    let texts: ArrayRef = Arc::new(LargeStringArray::from(vec!["s", "t"]));
    let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![1_000_000, 2_000_000]));
    let list: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>([
        Some([Some(1)]),
        None,
    ]));
    let array = StructArray::try_from(vec![("a", numbers), ("b", texts), ("t", times), ("l", list)]).unwrap();
    let expected = [
        json!({"a": 1, "b": "s", "l": [1], "t": 1}),
        json!({"a": null, "b": "t", "l": null, "t": 2}),
    ];
    assert_eq!(rows(&array, ValueType::Struct), expected);
    assert_eq!(rows(&array, ValueType::Map), expected);
    let values = from_array(&array, ValueType::Struct).unwrap();
    let Some(Kind::StructVal(fields)) = &values[0].val else {
        unreachable!()
    };
    assert_eq!(
        ["a", "b", "t", "l"].map(|name| value_type(&fields.val[name])),
        [
            ValueType::Int64,
            ValueType::String,
            ValueType::UnixTimestamp,
            ValueType::Int32List
        ]
    );
    assert_eq!(
        rows(&array, ValueType::Json)[0],
        json!("{\"a\": 1, \"b\": \"s\", \"l\": [1], \"t\": 1}")
    );

    let mut maps = MapBuilder::new(None, StringBuilder::new(), Float32Builder::new());
    maps.keys().append_value("k");
    maps.values().append_value(0.5);
    maps.append(true).unwrap();
    maps.append(false).unwrap();
    assert_eq!(
        rows(&maps.finish(), ValueType::Map),
        [json!({"k": 0.5}), json!(null)]
    );
    assert_eq!(
        rows(&StringArray::from(vec!["{\"a\": 1}"]), ValueType::Map),
        [json!({"a": 1})]
    );

    let mut scalar = MapBuilder::new(None, Int64Builder::new(), StringBuilder::new());
    scalar.keys().append_value(1);
    scalar.values().append_value("one");
    scalar.append(true).unwrap();
    let values = from_array(&scalar.finish(), ValueType::ScalarMap).unwrap();
    assert_eq!(
        hex::encode(values[0].encode_to_vec()),
        "fa020d0a0b0a021001120512036f6e65"
    );
}

#[test]
fn uuids_may_be_sixteen_bytes() {
    let id = uuid::Uuid::from_u128(0x1234_5678_1234_5678_1234_5678_1234_5678);
    let bytes = FixedSizeBinaryArray::try_from_iter([id.as_bytes()].into_iter()).unwrap();
    assert_eq!(rows(&bytes, ValueType::Uuid), [json!(id.to_string())]);
}

#[test]
fn arrow_types_are_feasts() {
    use ValueType as V;
    let list = |item: DataType| DataType::List(Arc::new(Field::new_list_field(item, true)));
    for (data_type, expected) in [
        (DataType::Int8, V::Int32),
        (DataType::UInt16, V::Int32),
        (DataType::UInt32, V::Int64),
        (DataType::UInt64, V::Int64),
        (DataType::Float16, V::Float),
        (DataType::Float64, V::Double),
        (DataType::Utf8, V::String),
        (DataType::LargeUtf8, V::Json),
        (DataType::Binary, V::Bytes),
        (DataType::Timestamp(TimeUnit::Nanosecond, None), V::UnixTimestamp),
        (TEXT_MAP.clone(), V::Map),
        (DataType::Struct(Fields::empty()), V::Struct),
        (list(DataType::Float32), V::FloatList),
        (list(DataType::UInt8), V::Int32List),
        (list(DataType::LargeUtf8), V::JsonList),
        (
            list(DataType::Timestamp(TimeUnit::Second, None)),
            V::UnixTimestampList,
        ),
        (list(TEXT_MAP.clone()), V::MapList),
        (list(DataType::Struct(Fields::empty())), V::StructList),
        (list(list(DataType::Int64)), V::ValueList),
        (list(list(list(DataType::Int64))), V::ValueList),
        (
            DataType::FixedSizeList(Arc::new(Field::new_list_field(DataType::Float32, true)), 3),
            V::FloatList,
        ),
        (
            DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
            V::String,
        ),
        (DataType::Null, V::Null),
        (DataType::Duration(TimeUnit::Second), V::Unknown),
        (list(DataType::Null), V::Unknown),
    ] {
        assert_eq!(from_arrow_type(&data_type), expected, "{data_type}");
    }
    assert_eq!(
        arrow_type(V::UnixTimestamp),
        DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
    );
    assert_eq!(arrow_type(V::FloatSet), list(DataType::Float32));
}

#[test]
fn values_of_other_types_are_converted_into_a_column() {
    let values = [Kind::Int32Val(5).into(), Kind::StringVal("7".into()).into(), NULL];
    let array = to_array(&values, ValueType::Int64).unwrap();
    assert_eq!(
        array.as_primitive::<Int64Type>().iter().collect::<Vec<_>>(),
        [Some(5), Some(7), None]
    );
    assert!(to_array(&[Kind::StringVal("x".into()).into()], ValueType::Int64).is_err());
    let beyond = to_array(
        &[Kind::UnixTimestampVal(i64::MAX).into()],
        ValueType::UnixTimestamp,
    );
    assert!(beyond.unwrap().is_null(0));
}

#[test]
fn cells_of_another_type_are_decoded_in_full() {
    let cells: Vec<Bytes> = [
        Kind::Int32Val(-5).into(),
        Kind::StringVal("7".into()).into(),
        NULL,
    ]
    .iter()
    .map(|value: &Value| value.encode_to_vec().into())
    .collect();
    let cells: Vec<Option<&[u8]>> = cells
        .iter()
        .map(|cell: &Bytes| Some(&cell[..]))
        .chain([None])
        .collect();
    let array = decode_array(&cells, ValueType::Int64).unwrap();
    assert_eq!(
        array.as_primitive::<Int64Type>().iter().collect::<Vec<_>>(),
        [Some(-5), Some(7), None, None]
    );
    let damaged = Bytes::from_static(&[0x12, 0x05, b'a']);
    assert!(decode_array(&[Some(&damaged[..])], ValueType::String).is_err());
}

/// Types whose Arrow form says everything their values say.
fn is_lossless(value_type: ValueType) -> bool {
    use ValueType as V;
    !matches!(
        value_type,
        V::Map
            | V::MapList
            | V::Struct
            | V::StructList
            | V::ValueList
            | V::ValueSet
            | V::ScalarMap
            | V::ZonedTimestamp
    )
}

proptest! {
    #[test]
    fn columns_read_back((value_type, values) in samples::typed_values()) {
        let array = to_array(&values, value_type).unwrap();
        prop_assert_eq!(array.data_type(), &arrow_type(value_type));
        prop_assert_eq!(array.len(), values.len());
        let cells: Vec<Bytes> = values.iter().map(|value| value.encode_to_vec().into()).collect();
        let decoded = decode_array(&cells.iter().map(|cell| Some(&cell[..])).collect::<Vec<_>>(), value_type).unwrap();
        prop_assert_eq!(&decoded, &array);
        if value_type != ValueType::ScalarMap {
            let back = from_array(&array, value_type).unwrap();
            prop_assert_eq!(back.len(), values.len());
            let encoded = encode_column(&array, value_type).unwrap();
            for ((value, back), encoded) in zip(zip(&values, &back), &encoded) {
                prop_assert_eq!(&back.encode_to_vec(), encoded);
                if is_lossless(value_type) {
                    prop_assert_eq!(&value.encode_to_vec(), encoded, "{:?}", value);
                } else {
                    prop_assert_eq!(is_null(value), is_null(back));
                }
            }
        }
    }

    #[test]
    fn any_layout_of_a_text_column_gives_the_same_values(texts in prop::collection::vec(any::<Option<String>>(), 0..6), skip in 0_usize..3) {
        let plain = StringArray::from(texts);
        let plain = plain.slice(skip.min(plain.len()), plain.len() - skip.min(plain.len()));
        let expected = encode_column(&plain, ValueType::String).unwrap();
        let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
        for layout in [DataType::LargeUtf8, DataType::Utf8View, dictionary] {
            let array = cast(&plain, &layout).unwrap();
            prop_assert_eq!(&encode_column(&array, ValueType::String).unwrap(), &expected);
        }
    }
}
