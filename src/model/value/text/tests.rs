//! Texts against what Python prints.
#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use prost::Message;
use serde_json::Value as Json;

use super::*;

#[test]
fn floats_look_like_pythons() {
    for (number, expected) in [
        (0.0, "0.0"),
        (-0.0, "-0.0"),
        (1.0, "1.0"),
        (0.1, "0.1"),
        (-2.5, "-2.5"),
        (100.0, "100.0"),
        (123_456.789, "123456.789"),
        (0.0001, "0.0001"),
        (0.00012, "0.00012"),
        (0.00001, "1e-05"),
        (1.5e-7, "1.5e-07"),
        (1e15, "1000000000000000.0"),
        (9_007_199_254_740_993.0, "9007199254740992.0"),
        (1e16, "1e+16"),
        (1.2345e22, "1.2345e+22"),
        (1e300, "1e+300"),
        (5e-324, "5e-324"),
        (f64::MAX, "1.7976931348623157e+308"),
        // Two shortest forms are equally near; Python takes the even one.
        (f64::from(-624.155_8_f32), "-624.1558227539062"),
        (f64::NAN, "nan"),
        (f64::INFINITY, "inf"),
        (f64::NEG_INFINITY, "-inf"),
    ] {
        assert_eq!(float_text(number), expected);
    }
    assert_eq!(float_text(1.1_f32), "1.1");
    assert_eq!(float_text(f64::from(1.1_f32)), "1.100000023841858");
}

#[test]
fn value_text_is_what_feast_stores() {
    let rows: Json = serde_json::from_str(include_str!("../../../../tests/wire/sqlite.json")).unwrap();
    for row in rows["rows"].as_array().unwrap() {
        let value = Value::decode(
            hex::decode(row["value_hex"].as_str().unwrap())
                .unwrap()
                .as_slice(),
        )
        .unwrap();
        assert_eq!(value_text(&value).as_deref(), row["value_text"].as_str());
    }
    assert_eq!(value_text(&Kind::BoolVal(true).into()).as_deref(), Some("True"));
    assert_eq!(
        value_text(&Kind::FloatVal(0.1).into()).as_deref(),
        Some("0.10000000149011612")
    );
    assert_eq!(value_text(&Kind::UnixTimestampVal(5).into()), None);
    assert_eq!(value_text(&Value::default()), None);
}

#[test]
fn instants_are_read_as_people_write_them() {
    let seconds =
        |text: &str| parse_instant(text).map(|(instant, offset)| (instant.timestamp(), offset.is_some()));
    assert_eq!(seconds("2026-07-01T09:00:00"), Some((1_782_896_400, false)));
    assert_eq!(seconds("2026-07-01 09:00:00.25"), Some((1_782_896_400, false)));
    assert_eq!(seconds("2026-07-01T09:00:00Z"), Some((1_782_896_400, true)));
    assert_eq!(seconds("2026-07-01T09:00:00-07:00"), Some((1_782_921_600, true)));
    assert_eq!(seconds("2026-07-01 09:00:00+0000"), Some((1_782_896_400, true)));
    assert_eq!(seconds("2026-07-01 09:00"), Some((1_782_896_400, false)));
    assert_eq!(seconds(" 2026-07-01 "), Some((1_782_864_000, false)));
    assert_eq!(seconds("1969-12-31T23:59:58.5Z"), Some((-2, true)));
    for wrong in ["", "yesterday", "2026-13-01", "2026-07-01T25:00:00", "1001"] {
        assert_eq!(seconds(wrong), None, "{wrong}");
    }
}

#[test]
fn zones_are_names_or_offsets() {
    let at = |zone| zoned_text(1_782_921_600, zone).unwrap();
    assert_eq!(at("America/Los_Angeles"), "2026-07-01T09:00:00-07:00");
    assert_eq!(
        zoned_text(1_767_312_000, "America/Los_Angeles").unwrap(),
        "2026-01-01T16:00:00-08:00"
    );
    assert_eq!(at(""), "2026-07-01T16:00:00+00:00");
    assert_eq!(at("UTC"), "2026-07-01T16:00:00+00:00");
    assert_eq!(at("UTC+05:30"), "2026-07-01T21:30:00+05:30");
    assert_eq!(at("-0330"), "2026-07-01T12:30:00-03:30");
    assert_eq!(at("Mars/Olympus"), "2026-07-01T16:00:00+00:00");
    assert_eq!(at("+5:30"), "2026-07-01T16:00:00+00:00");
    assert_eq!(zoned_text(i64::MAX, "UTC"), None);
}

#[test]
fn whole_numbers_are_read_as_python_does() {
    for (text, number) in [
        ("1001", Some(1001)),
        (" -7 ", Some(-7)),
        ("+5", Some(5)),
        ("1_000", Some(1000)),
    ] {
        assert_eq!(parse_int(text), number, "{text}");
    }
    for text in ["", "abc", "1.5", "1__0", "_1", "9223372036854775808", "0x10"] {
        assert_eq!(parse_int(text), None, "{text}");
    }
}

proptest! {
    #[test]
    fn floats_read_back(number in any::<f64>(), single in any::<f32>()) {
        prop_assert_eq!(float_text(number).parse::<f64>().unwrap(), number);
        prop_assert_eq!(float_text(single).parse::<f32>().unwrap(), single);
    }

    #[test]
    fn offsets_read_back(minutes in -18 * 60_i32..18 * 60) {
        let offset = FixedOffset::east_opt(minutes * 60).unwrap();
        prop_assert_eq!(parse_offset(&offset_name(offset)).unwrap_or(FixedOffset::east_opt(0).unwrap()), offset);
    }

    #[test]
    fn any_text_is_safe(text in any::<String>()) {
        let _ = (parse_instant(&text), parse_int(&text), parse_offset(&text), zoned_text(0, &text));
    }
}
