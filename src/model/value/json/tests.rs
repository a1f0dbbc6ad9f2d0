//! JSON against what Feast's server printed, and there and back for random values.
#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use prost::Message;
use serde_json::json;

use super::super::samples;
use super::*;
use crate::model::ValueType;

fn vectors() -> Json {
    serde_json::from_str(include_str!("../../../../tests/wire/value_types.json")).unwrap()
}

fn written(value: &Value) -> String {
    let mut out = Vec::new();
    write_json(&mut out, value);
    String::from_utf8(out).unwrap()
}

#[expect(clippy::needless_pass_by_value, reason = "reads better with `json!`")]
fn read(json: Json, value_type: ValueType) -> Value {
    from_json(&json, value_type).unwrap()
}

#[test]
fn json_is_what_feasts_server_prints() {
    let vectors = vectors();
    let cases = vectors["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 29);
    for case in cases {
        let bytes = hex::decode(case["value_proto_hex"].as_str().unwrap()).unwrap();
        let value = Value::decode(bytes.as_slice()).unwrap();
        assert_eq!(value.encode_to_vec(), bytes, "{case}");
        assert_eq!(
            Json::from(super::super::value_type(&value).number()),
            case["value_type_id"]
        );
        assert_eq!(written(&value), case["http_json"].to_string(), "{case}");
        assert_eq!(to_json(&value), case["http_json"], "{case}");
    }
}

#[test]
fn what_feast_prints_reads_back_by_its_type() {
    for case in vectors()["cases"].as_array().unwrap() {
        let value_type =
            ValueType::from_number(i32::try_from(case["value_type_id"].as_i64().unwrap()).unwrap());
        // The zone's name and a scalar map's keys are not in the JSON.
        if matches!(value_type, ValueType::ZonedTimestamp | ValueType::ScalarMap) {
            continue;
        }
        let value = from_json(&case["http_json"], value_type).unwrap();
        assert_eq!(
            hex::encode(value.encode_to_vec()),
            case["value_proto_hex"].as_str().unwrap(),
            "{case}"
        );
    }
}

#[test]
fn nulls_print_as_null() {
    for value in [
        Value::default(),
        Kind::NullVal(0).into(),
        Kind::UnixTimestampVal(i64::MIN).into(),
        Kind::ZonedTimestampVal(crate::proto::feast::types::ZonedTimestamp {
            unix_timestamp: i64::MIN,
            zone: String::new(),
        })
        .into(),
    ] {
        assert_eq!(written(&value), "null");
        assert_eq!(to_json(&value), Json::Null);
    }
}

#[test]
fn numbers_that_json_has_not_are_texts() {
    assert_eq!(written(&Kind::DoubleVal(f64::NAN).into()), "\"NaN\"");
    assert_eq!(written(&Kind::FloatVal(f32::INFINITY).into()), "\"Infinity\"");
    assert_eq!(
        written(&Kind::DoubleVal(f64::NEG_INFINITY).into()),
        "\"-Infinity\""
    );
    assert_eq!(written(&Kind::FloatVal(0.3).into()), "0.30000001192092896");
    assert_eq!(written(&Kind::DoubleVal(3.0).into()), "3.0");
}

#[test]
fn entity_columns_take_what_feast_takes() {
    assert_eq!(read(json!("1001"), ValueType::Int64), Kind::Int64Val(1001).into());
    assert_eq!(read(json!(1001.7), ValueType::Int64), Kind::Int64Val(1001).into());
    assert_eq!(
        read(json!(-1001.7), ValueType::Int32),
        Kind::Int32Val(-1001).into()
    );
    assert_eq!(read(json!(true), ValueType::Int64), Kind::Int64Val(1).into());
    assert_eq!(
        read(json!(5), ValueType::String),
        Kind::StringVal("5".into()).into()
    );
    assert_eq!(
        read(json!(1e16), ValueType::String),
        Kind::StringVal("1e+16".into()).into()
    );
    assert_eq!(
        read(json!(false), ValueType::String),
        Kind::StringVal("False".into()).into()
    );
    assert_eq!(read(json!(null), ValueType::Int64), Value::default());
    assert_eq!(read(json!([5]), ValueType::Int64), Value::default());
    assert_eq!(read(json!("NaN"), ValueType::Double), Value::default());
    assert_eq!(read(json!("1.5"), ValueType::Float), Kind::FloatVal(1.5).into());
    assert_eq!(read(json!("true"), ValueType::Bool), Kind::BoolVal(true).into());
    assert_eq!(
        read(json!("2026-07-01T09:00:00-07:00"), ValueType::UnixTimestamp),
        Kind::UnixTimestampVal(1_782_921_600).into()
    );
    assert_eq!(
        read(json!(15), ValueType::UnixTimestamp),
        Kind::UnixTimestampVal(15).into()
    );
    assert_eq!(
        read(json!("15"), ValueType::UnixTimestamp),
        Kind::UnixTimestampVal(15).into()
    );
}

#[test]
fn what_does_not_fit_is_an_error_that_names_it() {
    for (json, value_type) in [
        (json!("abc"), ValueType::Int64),
        (json!(3_000_000_000_i64), ValueType::Int32),
        (json!(9_223_372_036_854_775_808_u64), ValueType::Int64),
        (json!(1e300), ValueType::Int64),
        (json!("abc"), ValueType::Double),
        (json!("maybe"), ValueType::Bool),
        (json!("a?"), ValueType::Bytes),
        (json!("yesterday"), ValueType::UnixTimestamp),
        (json!("not-a-uuid"), ValueType::Uuid),
        (json!("1.2.3"), ValueType::Decimal),
        (json!("{a}"), ValueType::Json),
        (json!("[1]"), ValueType::Map),
        (json!(7), ValueType::Int64List),
        (json!([[1]]), ValueType::Int64List),
        (json!([1, "x"]), ValueType::Int64List),
        (json!([1]), ValueType::MapList),
        (json!([1]), ValueType::ValueList),
    ] {
        let error = from_json(&json, value_type).unwrap_err();
        assert_eq!(
            error.kind(),
            crate::error::Kind::InvalidArgument,
            "{json} as {value_type}"
        );
        assert!(error.message().contains('`'), "{error}");
    }
    let error = from_json(&json!("abc"), ValueType::Int64).unwrap_err();
    assert_eq!(
        error.message(),
        "`\"abc\"` is a text that does not fit type `Int64`"
    );
    let long = from_json(&json!("é".repeat(1000)), ValueType::Int64).unwrap_err();
    assert!(long.message().len() < 300, "{long}");
}

#[test]
fn collections_may_come_as_json_texts() {
    assert_eq!(
        read(json!("[1, 2]"), ValueType::Int64List),
        read(json!([1, 2]), ValueType::Int64List)
    );
    assert_eq!(
        read(json!("{\"a\": 1}"), ValueType::Map),
        read(json!({"a": 1}), ValueType::Map)
    );
    assert_eq!(
        read(json!("{\"a\": 1}"), ValueType::Struct),
        read(json!({"a": 1}), ValueType::Struct)
    );
    assert_eq!(
        read(json!(["{\"a\": 1}"]), ValueType::MapList),
        read(json!([{"a": 1}]), ValueType::MapList)
    );
    assert_eq!(
        read(json!("[{\"a\": 1}]"), ValueType::StructList),
        read(json!([{"a": 1}]), ValueType::StructList)
    );
}

#[test]
fn json_features_keep_texts_and_render_objects_as_python() {
    assert_eq!(
        read(json!("{\"a\":1}"), ValueType::Json),
        Kind::JsonVal("{\"a\":1}".into()).into()
    );
    assert_eq!(
        read(json!({"a": [1, 2.0, 1e16], "é": "\u{1F980}\n"}), ValueType::Json),
        Kind::JsonVal("{\"a\": [1, 2.0, 1e+16], \"\\u00e9\": \"\\ud83e\\udd80\\n\"}".into()).into()
    );
}

#[test]
fn json_texts_may_be_pythons() {
    let text = r#"{"a": [NaN, -Infinity], "b": "say \"NaN\" \\", "c": Infinity}"#;
    assert_eq!(
        read(json!(text), ValueType::Json),
        Kind::JsonVal(text.into()).into()
    );
    assert_eq!(
        to_json(&read(json!(text), ValueType::Map)),
        json!({"a": ["NaN", "-Infinity"], "b": "say \"NaN\" \\", "c": "Infinity"})
    );
    assert!(from_json(&json!("{NaN: 1"), ValueType::Json).is_err());
}

#[test]
fn lists_keep_their_length_and_sets_do_not() {
    assert_eq!(
        to_json(&read(json!([1, null]), ValueType::Int64List)),
        json!([1, 0])
    );
    assert_eq!(
        to_json(&read(json!(["a", null]), ValueType::StringList)),
        json!(["a", ""])
    );
    assert_eq!(
        to_json(&read(json!([0.5, null]), ValueType::FloatList)),
        json!([0.5, "NaN"])
    );
    assert_eq!(
        to_json(&read(json!([true, null]), ValueType::BoolList)),
        json!([true, false])
    );
    assert_eq!(
        to_json(&read(json!([3, 1, 3, null]), ValueType::Int64Set)),
        json!([3, 1])
    );
}

#[test]
fn types_are_inferred_as_feast_does() {
    let inferred = |json: Json| super::super::value_type(&infer_from_json(&json));
    assert_eq!(inferred(json!(null)), ValueType::Unknown);
    assert_eq!(inferred(json!(true)), ValueType::Bool);
    assert_eq!(inferred(json!(1)), ValueType::Int64);
    assert_eq!(inferred(json!(1.0)), ValueType::Double);
    assert_eq!(inferred(json!(u64::MAX)), ValueType::Double);
    assert_eq!(inferred(json!("1")), ValueType::String);
    assert_eq!(inferred(json!({})), ValueType::Map);
    assert_eq!(inferred(json!([])), ValueType::Int64List);
    assert_eq!(inferred(json!([1, 2])), ValueType::Int64List);
    assert_eq!(inferred(json!([1, 2.5])), ValueType::DoubleList);
    assert_eq!(inferred(json!([0.1, "NaN", "Infinity"])), ValueType::DoubleList);
    assert_eq!(inferred(json!(["a", null])), ValueType::StringList);
    assert_eq!(inferred(json!([true])), ValueType::BoolList);
    assert_eq!(inferred(json!([{"a": 1}])), ValueType::MapList);
    assert_eq!(inferred(json!([[1], [2]])), ValueType::ValueList);
    assert_eq!(inferred(json!([1, "a"])), ValueType::ValueList);
    assert_eq!(inferred(json!([null])), ValueType::ValueList);
    assert_eq!(
        to_json(&infer_from_json(&json!([0.1, "NaN", null]))),
        json!([0.1, "NaN", "NaN"])
    );
}

proptest! {
    #[test]
    fn both_writers_agree_and_values_read_back((value_type, values) in samples::typed_values()) {
        for value in &values {
            let json = to_json(value);
            prop_assert_eq!(serde_json::from_str::<Json>(&written(value)).unwrap(), json.clone());
            if matches!(value_type, ValueType::ScalarMap) {
                continue;
            }
            let back = from_json(&json, value_type).unwrap();
            // JSON always shows an offset, so a time without a zone comes back in UTC.
            let is_unzoned = matches!(&value.val, Some(Kind::ZonedTimestampVal(zoned)) if zoned.zone.is_empty());
            if is_unzoned {
                prop_assert_eq!(to_json(&back), json);
            } else {
                prop_assert_eq!(back.encode_to_vec(), value.encode_to_vec(), "{}", json);
            }
        }
    }

    #[test]
    fn arrays_of_numbers_survive_inference(numbers in prop::collection::vec(any::<f64>(), 1..5)) {
        let value = collection::collect(ValueType::DoubleList, numbers.iter().map(|n| Kind::DoubleVal(*n).into()).collect());
        prop_assert_eq!(infer_from_json(&to_json(&value)).encode_to_vec(), value.encode_to_vec());
    }
}
