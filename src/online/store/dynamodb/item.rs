//! An item as it travels: event times as Python prints them, values as base64.

use std::{borrow::Cow, collections::HashMap};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use chrono::{DateTime, Datelike as _};
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use crate::{
    error::{Error, Result},
    model::value::text::parse_instant,
};

/// What ends every event time written by thali, and by Feast for times in UTC.
pub(super) const UTC: &str = "+00:00";

/// The attribute that has the serialized key itself; only thali writes it.
pub(super) const ENTITY_KEY: &str = "entity_key";

/// A row, or the part of it that was asked for.
#[derive(Debug, Deserialize)]
pub(super) struct Item<'a> {
    #[serde(borrow)]
    pub(super) entity_id: Text<'a>,
    #[serde(borrow, default)]
    event_ts: Option<Text<'a>>,
    /// Absent when the row has none of the features asked for.
    #[serde(borrow, default)]
    values: Option<Values<'a>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Text<'a> {
    #[serde(rename = "S", borrow, default)]
    pub(super) text: Cow<'a, str>,
}

#[derive(Debug, Deserialize)]
struct Values<'a> {
    #[serde(rename = "M", borrow, default)]
    map: HashMap<Cow<'a, str>, Binary<'a>>,
}

#[derive(Debug, Deserialize)]
struct Binary<'a> {
    /// Absent in attributes of other types, which nobody writes.
    #[serde(rename = "B", borrow, default)]
    base64: Option<Cow<'a, str>>,
}

impl Item<'_> {
    /// Microseconds since 1970.
    pub(super) fn event_time(&self) -> i64 {
        let text = self.event_ts.as_ref().map(|text| text.text.as_ref());
        text.and_then(parse_time).unwrap_or(0)
    }

    pub(super) fn value(&self, feature: &str) -> Option<Bytes> {
        let binary = self.values.as_ref()?.map.get(feature)?;
        let bytes = binary
            .base64
            .as_deref()
            .and_then(|text| BASE64_STANDARD.decode(text).ok());
        Some(Bytes::from(bytes.unwrap_or_default()))
    }
}

pub(super) fn parse_time(text: &str) -> Option<i64> {
    parse_instant(text).map(|(instant, _)| instant.timestamp_micros())
}

/// The time as Python prints one in UTC: `2026-11-21 10:00:00+00:00`, with six digits of a second if it
/// has a fraction. Within this form texts are ordered as times are: `+` comes before `.`.
pub(super) fn time_text(micros: i64) -> Result<String> {
    let time = DateTime::from_timestamp_micros(micros).filter(|time| (1..=9999).contains(&time.year()));
    let time = time.ok_or_else(|| {
        Error::invalid(format!(
            "{micros} µs since 1970 is no event time that can be stored"
        ))
    })?;
    let whole = micros.rem_euclid(1_000_000) == 0;
    let format = if whole {
        "%Y-%m-%d %H:%M:%S"
    } else {
        "%Y-%m-%d %H:%M:%S%.6f"
    };
    Ok(format!("{}{UTC}", time.format(format)))
}

/// A value as an attribute.
pub(super) fn binary(value: &Bytes) -> Json {
    json!({"B": BASE64_STANDARD.encode(value)})
}

/// The `values` of a row.
pub(super) fn values(features: &[String], row: &[Bytes]) -> Json {
    let pairs = features.iter().cloned().zip(row.iter().map(binary));
    json!({"M": pairs.collect::<Map<_, _>>()})
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn times_are_pythons_and_sort_as_text() {
        let ten = 1_795_255_200_000_000;
        assert_eq!(time_text(ten).unwrap(), "2026-11-21 10:00:00+00:00");
        assert_eq!(
            time_text(ten + 123_456).unwrap(),
            "2026-11-21 10:00:00.123456+00:00"
        );
        assert_eq!(time_text(-1).unwrap(), "1969-12-31 23:59:59.999999+00:00");
        let times = [
            -62_135_596_800_000_000,
            -1,
            0,
            1,
            ten - 1,
            ten,
            ten + 1,
            ten + 1_000_000,
        ];
        for pair in times.windows(2) {
            let texts = pair
                .iter()
                .map(|time| time_text(*time).unwrap())
                .collect::<Vec<_>>();
            assert!(texts[0] < texts[1], "{texts:?}");
            assert_eq!(parse_time(&texts[1]), Some(pair[1]));
        }
        assert_eq!(parse_time("2026-11-21 12:00:00+02:00"), Some(ten));
        assert!(time_text(i64::MAX).is_err());
    }

    #[test]
    fn a_projected_item_may_lack_its_values() {
        let item: Item<'_> =
            serde_json::from_str(r#"{"entity_id":{"S":"a"},"event_ts":{"S":"1970-01-01 00:00:01+00:00"}}"#)
                .unwrap();
        assert_eq!((item.event_time(), item.value("x")), (1_000_000, None));
        let item: Item<'_> = serde_json::from_str(
            r#"{"entity_id":{"S":"a"},"values":{"M":{"x":{"B":"AQI="},"y":{"B":""},"z":{"N":"1"}}}}"#,
        )
        .unwrap();
        assert_eq!(item.value("x"), Some(Bytes::from_static(&[1, 2])));
        assert_eq!(item.value("y"), Some(Bytes::new()));
        assert_eq!((item.value("z"), item.value("other")), (Some(Bytes::new()), None));
    }
}
