//! The forms of uploads and errors. The RPCs are driven by Feast's SDK in the repository's Python tests.
#![expect(clippy::unwrap_used, reason = "tests")]

use arrow::datatypes::{DataType, Field};

use super::*;

fn upload(columns: &[&str]) -> Upload {
    let fields: Vec<_> = columns
        .iter()
        .map(|name| Field::new(*name, DataType::Utf8, true))
        .collect();
    Upload {
        schema: Arc::new(Schema::new(fields)),
        batches: Vec::new(),
    }
}

#[test]
fn a_lone_key_column_stands_for_no_rows() {
    assert!(upload(&["key"]).is_placeholder());
    assert!(Upload::empty().is_placeholder());
    assert!(!upload(&["key", "event_timestamp"]).is_placeholder());
    assert!(!upload(&["driver_id"]).is_placeholder());
}

#[test]
fn errors_carry_the_class_and_fit_in_a_header() {
    let missing = status(Error::new(
        Kind::FeatureViewNotFound,
        "Feature view x does not exist in project p",
    ));
    assert_eq!(missing.code(), tonic::Code::NotFound);
    let detail = missing.message().strip_prefix("Flight error: ").unwrap();
    let detail: serde_json::Value = serde_json::from_str(detail).unwrap();
    assert_eq!(detail["class"], "FeatureViewNotFoundException");
    let long = status(Error::invalid("ü".repeat(5_000)));
    assert!(long.message().len() < 3_000);
    assert!(serde_json::from_str::<serde_json::Value>(&long.message()["Flight error: ".len()..]).is_ok());
}
