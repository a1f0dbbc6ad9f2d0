//! The usual body of `/get-online-features`, read without memory for its texts: they are slices of the
//! body. Whatever is unusual is left to the reader of all bodies, which also tells what is wrong.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::Value as Json;

use crate::online::{
    plan::Wanted,
    serve::{Given, Request},
};

/// Requests name few columns; to look for each among all before it would take long with thousands.
const USUAL_COLUMNS: usize = 64;

#[derive(Deserialize)]
struct Usual<'a> {
    #[serde(borrow)]
    entities: Entities<'a>,
    #[serde(borrow, default)]
    features: Option<Vec<Text<'a>>>,
    #[serde(borrow, default)]
    feature_service: Option<Text<'a>>,
    #[serde(default)]
    full_feature_names: bool,
    #[serde(default)]
    include_feature_view_version_metadata: bool,
}

/// A text, in memory of its own only when something of it is escaped.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Columns in the caller's order, each once.
struct Entities<'a>(Vec<(Cow<'a, str>, Vec<Json>)>);

impl<'de: 'a, 'a> Deserialize<'de> for Entities<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Columns;

        impl<'de> Visitor<'de> for Columns {
            type Value = Entities<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("columns of values")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Entities<'de>, M::Error> {
                let mut columns: Vec<(Cow<'de, str>, Vec<Json>)> = Vec::new();
                while let Some((Text(name), values)) = map.next_entry()? {
                    if columns.iter().any(|(known, _)| *known == name) {
                        return Err(M::Error::custom("a column comes twice"));
                    }
                    if columns.len() == USUAL_COLUMNS {
                        return Err(M::Error::custom("many columns"));
                    }
                    columns.push((name, values));
                }
                Ok(Entities(columns))
            }
        }

        deserializer.deserialize_map(Columns)
    }
}

/// The request, if there is nothing unusual about it.
pub(super) fn read(raw: &[u8]) -> Option<Request<'_>> {
    let usual: Usual<'_> = serde_json::from_slice(raw).ok()?;
    let wanted = match usual.feature_service {
        Some(Text(service)) if !service.is_empty() => Wanted::Service(service),
        _ => Wanted::features(
            usual
                .features
                .unwrap_or_default()
                .into_iter()
                .map(|Text(text)| text),
        ),
    };
    let columns = usual.entities.0.into_iter();
    Some(Request {
        wanted,
        full_names: usual.full_feature_names,
        version_metadata: usual.include_feature_view_version_metadata,
        columns: columns
            .map(|(name, values)| (name.into_owned(), Given::Json(values)))
            .collect(),
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::online::json::body::read_any_request;

    /// What is read here is what the other reader reads.
    fn same(raw: &str) -> bool {
        let Some(usual) = read(raw.as_bytes()) else {
            return false;
        };
        let any = read_any_request(raw.as_bytes()).unwrap();
        assert_eq!(format!("{usual:?}"), format!("{any:?}"), "{raw}");
        true
    }

    #[test]
    fn usual_bodies_are_read_as_any() {
        assert!(same(
            r#"{"features":["v:a","v:\u0062"],"entities":{"id":[1,"x",null,1.5,{"a":[2]}]}}"#
        ));
        assert!(same(
            r#"{"feature_service":"s","features":null,"entities":{},"more":[1]}"#
        ));
        assert!(same(
            r#"{"feature_service":"","features":["v:a"],"entities":{"b":[],"a":[1]},"full_feature_names":true}"#
        ));
        assert!(same(
            r#"{"entities":{"id":[123456789012345678901234567890]},"include_feature_view_version_metadata":true}"#
        ));
    }

    #[test]
    fn the_unusual_is_left_to_the_other() {
        for raw in [
            r#"{"features":["v:a"]}"#,
            r#"{"features":["v:a"],"entities":null}"#,
            r#"{"features":["v:a"],"entities":{"id":1}}"#,
            r#"{"features":["v:a"],"entities":{"id":[NaN]}}"#,
            r#"{"features":["v:a"],"entities":{"id":[1],"id":[2]}}"#,
            r#"{"features":["v:a"],"features":["v:b"],"entities":{"id":[1]}}"#,
            r#"{"features":"v:a","entities":{"id":[1]}}"#,
            r#"{"features":[1],"entities":{"id":[1]}}"#,
            r#"{"features":["v:a"],"entities":{"id":[1]},"full_feature_names":"yes"}"#,
            r#"{"features":["v:a"],"entities":{"id":[1]}} x"#,
            "[]",
        ] {
            assert!(read(raw.as_bytes()).is_none(), "{raw}");
        }
        let columns = |count: usize| {
            let columns: serde_json::Map<_, _> = (0..count).map(|n| (format!("c{n}"), json!([n]))).collect();
            json!({"features": ["v:a"], "entities": columns}).to_string()
        };
        assert!(same(&columns(USUAL_COLUMNS)));
        assert!(read(columns(USUAL_COLUMNS + 1).as_bytes()).is_none());
    }

    proptest! {
        #[test]
        fn any_body_of_texts_and_numbers_is_read_the_same(
            features in proptest::option::of(proptest::collection::vec(".{0,8}", 0..4)),
            service in proptest::option::of(".{0,4}"),
            columns in proptest::collection::btree_map(".{0,4}", proptest::collection::vec(any::<i64>(), 0..3), 0..3),
            flag in any::<bool>(),
        ) {
            let body = json!({"features": features, "feature_service": service, "entities": columns, "full_feature_names": flag});
            prop_assert!(same(&body.to_string()));
        }
    }
}
