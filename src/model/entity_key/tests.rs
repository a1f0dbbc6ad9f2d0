//! Keys against what Feast's own serializer and stores wrote, and against random entities.
#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use prost::Message;
use serde_json::Value as Json;

use super::*;
use crate::error;
use crate::proto::feast::types::EntityKey;

const ENTITY_KEYS: &str = include_str!("../../../tests/wire/entity_key.json");
const REDIS: &str = include_str!("../../../tests/wire/redis.json");
const SQLITE: &str = include_str!("../../../tests/wire/sqlite.json");

fn vectors(text: &str) -> Json {
    serde_json::from_str(text).unwrap()
}

fn items<'a>(json: &'a Json, name: &str) -> &'a [Json] {
    json[name].as_array().unwrap()
}

fn unhex(json: &Json) -> Vec<u8> {
    hex::decode(json.as_str().unwrap()).unwrap()
}

fn text_of<'a>(json: &'a Json, name: &str) -> &'a str {
    json[name].as_str().unwrap()
}

/// `{"int64_val": 1001}`; bytes are hex, and numbers may be texts.
fn value_of(json: &Json) -> Value {
    let (field, content) = json.as_object().unwrap().iter().next().unwrap();
    let number = || {
        content
            .as_i64()
            .unwrap_or_else(|| content.as_str().unwrap().parse().unwrap())
    };
    let kind = match field.as_str() {
        "string_val" => Kind::StringVal(content.as_str().unwrap().to_owned()),
        "bytes_val" => Kind::BytesVal(unhex(content).into()),
        "int32_val" => Kind::Int32Val(i32::try_from(number()).unwrap()),
        "int64_val" => Kind::Int64Val(number()),
        "unix_timestamp_val" => Kind::UnixTimestampVal(number()),
        "double_val" => Kind::DoubleVal(content.as_f64().unwrap()),
        "float_val" => Kind::FloatVal(content.as_f64().unwrap() as f32),
        "bool_val" => Kind::BoolVal(content.as_bool().unwrap()),
        other => unreachable!("unknown field {other}"),
    };
    kind.into()
}

#[test]
fn keys_are_feasts_keys() {
    let vectors = vectors(ENTITY_KEYS);
    assert_eq!(items(&vectors, "cases").len(), 15);
    for case in items(&vectors, "cases") {
        let names: Vec<&str> = items(case, "join_keys")
            .iter()
            .map(|name| name.as_str().unwrap())
            .collect();
        let values: Vec<Value> = items(case, "values").iter().map(value_of).collect();
        let pairs: Vec<(&str, &Value)> = names.iter().copied().zip(&values).collect();
        let case_name = text_of(case, "name");

        let v3 = serialize(&pairs, Version::V3).unwrap();
        assert_eq!(hex::encode(&v3), text_of(case, "v3_hex"), "{case_name}");
        let v2 = serialize(&pairs, Version::V2).unwrap();
        assert_eq!(hex::encode(&v2), text_of(case, "v2_hex"), "{case_name}");
        assert_eq!(
            hex::encode(prefix(&names, Version::V3)),
            text_of(case, "prefix_v3_hex"),
            "{case_name}"
        );
        assert_eq!(
            entity_id(&v3),
            text_of(case, "entity_id_mmh3_x64_128_hex"),
            "{case_name}"
        );
        assert_eq!(
            entity_id(&v2),
            text_of(case, "entity_id_v2_mmh3_x64_128_hex"),
            "{case_name}"
        );

        let mut sorted: Vec<(String, Value)> = pairs
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).clone()))
            .collect();
        sorted.sort_by(|left, right| left.0.cmp(&right.0));
        assert_eq!(deserialize(&v3).unwrap(), sorted, "{case_name}");

        let proto = EntityKey {
            join_keys: names.iter().map(ToString::to_string).collect(),
            entity_values: values.clone(),
        };
        assert_eq!(
            hex::encode(proto.encode_to_vec()),
            text_of(case, "entity_key_proto_hex"),
            "{case_name}"
        );
    }
}

#[test]
fn types_that_no_key_can_hold_are_refused_by_name() {
    for case in items(&vectors(ENTITY_KEYS), "errors_v3") {
        let value = if case["value"].is_null() {
            value::NULL
        } else {
            value_of(&case["value"])
        };
        let error = serialize(&[("driver_id", &value)], Version::V3).unwrap_err();
        assert_eq!(error.kind(), error::Kind::InvalidArgument);
        assert!(error.message().contains("`driver_id`"), "{error}");
    }
    let not_a_time = Value::from(Kind::UnixTimestampVal(value::NULL_TIMESTAMP));
    assert!(
        serialize(&[("ts", &not_a_time)], Version::V3)
            .unwrap_err()
            .message()
            .contains("no value")
    );
}

#[test]
fn a_join_key_given_twice_is_refused() {
    let value = Value::from(Kind::Int64Val(1));
    assert!(serialize(&[("a", &value), ("b", &value), ("a", &value)], Version::V3).is_err());
}

#[test]
fn a_wrong_number_of_values_is_refused() {
    let value = Value::from(Kind::Int64Val(1));
    let mut encoder = KeyEncoder::new(&["a", "b"], Version::V3).unwrap();
    assert!(encoder.encode(&[&value]).is_err());
    assert!(encoder.encode(&[&value, &value, &value]).is_err());
    assert!(encoder.encode(&[&value, &value]).is_ok());
}

#[test]
fn an_encoder_forgets_a_refused_entity() {
    let (good, bad) = (Value::from(Kind::Int64Val(1)), Value::from(Kind::BoolVal(true)));
    let mut encoder = KeyEncoder::new(&["b", "a"], Version::V3).unwrap();
    let expected = serialize(&[("b", &good), ("a", &good)], Version::V3).unwrap();
    assert_eq!(encoder.encode(&[&good, &good]).unwrap(), expected);
    assert!(encoder.encode(&[&bad, &good]).is_err());
    assert_eq!(encoder.encode(&[&good, &good]).unwrap(), expected);
}

#[test]
fn keys_of_one_encoder_share_memory() {
    let value = Value::from(Kind::Int64Val(7));
    let mut encoder = KeyEncoder::new(&["driver_id"], Version::V3).unwrap();
    let keys: Vec<Bytes> = (0..1000).map(|_| encoder.encode(&[&value]).unwrap()).collect();
    let is_next = |pair: &&[Bytes]| pair[0].as_ptr_range().end == pair[1].as_ptr();
    assert!(keys.windows(2).filter(is_next).count() > 950);
}

#[test]
fn redis_fields_are_feasts_fields() {
    for case in items(&vectors(ENTITY_KEYS), "redis_field_hash") {
        if let Some((view, feature)) = text_of(case, "input").split_once(':') {
            assert_eq!(
                hex::encode(redis_field_hash(view, feature)),
                text_of(case, "redis_field_hex")
            );
        } else {
            let hash = murmur3::x86_32(text_of(case, "input").as_bytes());
            assert_eq!(hex::encode(hash.to_le_bytes()), text_of(case, "redis_field_hex"));
        }
    }
    let redis = vectors(REDIS);
    for case in items(&redis["field_hash"], "cases") {
        let hash = murmur3::x86_32(text_of(case, "input").as_bytes());
        assert_eq!(Json::from(hash), case["mmh3_x86_32_seed0_unsigned"]);
    }
    let mut fields = 0;
    for key in items(&redis, "keys") {
        let bytes = unhex(&key["key_hex"]);
        let entity = deserialize(bytes.strip_suffix(text_of(key, "project").as_bytes()).unwrap()).unwrap();
        for (name, value) in entity {
            assert_eq!(value, value_of(&key["entity"][name]));
        }
        for field in items(key, "fields")
            .iter()
            .filter(|field| field["field_hex"].is_string())
        {
            let (view, feature) = text_of(field, "feature").split_once(':').unwrap();
            assert_eq!(
                hex::encode(redis_field_hash(view, feature)),
                text_of(field, "field_hex")
            );
            fields += 1;
        }
    }
    assert!(fields > 50, "only {fields} fields in the dump");
}

#[test]
fn keys_in_a_sqlite_store_are_readable() {
    for row in items(&vectors(SQLITE), "rows") {
        let key = unhex(&row["entity_key_hex"]);
        let entity = deserialize(&key).unwrap();
        let pairs: Vec<(&str, &Value)> = entity
            .iter()
            .map(|(name, value)| (name.as_str(), value))
            .collect();
        assert_eq!(serialize(&pairs, Version::V3).unwrap(), key);
    }
}

/// Feast strips NULs from names when it reads a key, so names here have none at the end.
fn entity() -> impl Strategy<Value = Vec<(String, Value)>> {
    let value = prop_oneof![
        any::<String>().prop_map(Kind::StringVal),
        any::<Vec<u8>>().prop_map(|bytes| Kind::BytesVal(bytes.into())),
        any::<i32>().prop_map(Kind::Int32Val),
        any::<i64>().prop_map(Kind::Int64Val),
        (i64::MIN + 1..).prop_map(Kind::UnixTimestampVal),
    ];
    prop::collection::btree_map("\\PC{0,12}", value.prop_map(Value::from), 0..5)
        .prop_map(|entity| entity.into_iter().collect())
}

proptest! {
    #[test]
    fn keys_read_back(entity in entity(), rotation in 0_usize..5) {
        let mut pairs: Vec<(&str, &Value)> = entity.iter().map(|(name, value)| (name.as_str(), value)).collect();
        let key = serialize(&pairs, Version::V3).unwrap();
        prop_assert_eq!(&deserialize(&key).unwrap(), &entity);

        let names: Vec<&str> = pairs.iter().map(|(name, _)| *name).collect();
        prop_assert!(key.starts_with(&prefix(&names, Version::V3)));
        if !pairs.is_empty() {
            let rotation = rotation % pairs.len();
            pairs.rotate_left(rotation);
        }
        prop_assert_eq!(serialize(&pairs, Version::V3).unwrap(), key);
    }

    #[test]
    fn broken_keys_are_errors(entity in entity(), cut in any::<prop::sample::Index>(), noise in any::<Vec<u8>>()) {
        let pairs: Vec<(&str, &Value)> = entity.iter().map(|(name, value)| (name.as_str(), value)).collect();
        let key = serialize(&pairs, Version::V3).unwrap();
        prop_assert!(deserialize(&key[..cut.index(key.len())]).is_err());
        prop_assert!(deserialize(&[&key[..], &[0]].concat()).is_err());
        let _ = deserialize(&noise);
    }
}
