//! The features of a project as one flat list, the way Feast's registry shows them. Pure functions.

use super::{Catalog, View, listing::SortKey};
use crate::{
    error::{Error, Kind, Result},
    model::{Field, ObjectKind, ValueType},
    proto::feast::registry::Feature,
};

const STRUCT_SCHEMA_TAG: &str = "feast:struct_schema";
const NESTED_TYPE_TAG: &str = "feast:nested_inner_type";

/// Kinds of view in the order their features are listed.
const ORDER: [ObjectKind; 4] = [
    ObjectKind::FeatureView,
    ObjectKind::StreamFeatureView,
    ObjectKind::OnDemandFeatureView,
    ObjectKind::LabelView,
];

/// Which features are wanted; empty texts want all.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) view: &'a str,
    pub(crate) name: &'a str,
    /// `feature` or `label`.
    pub(crate) kind: &'a str,
}

/// The wanted features of every view, label views last.
pub(crate) fn list(catalog: &Catalog, wanted: Wanted<'_>) -> Vec<Feature> {
    let any = |wanted: &str, name: &str| wanted.is_empty() || wanted == name;
    let mut found = Vec::new();
    for kind in ORDER {
        let label = if kind == ObjectKind::LabelView {
            "label"
        } else {
            "feature"
        };
        if !any(wanted.kind, label) {
            continue;
        }
        for object in catalog
            .objects(kind)
            .iter()
            .filter(|object| any(wanted.view, &object.name))
        {
            let fields = match catalog.view(&object.name) {
                Some(View::Stored(view)) => view.features.as_slice(),
                Some(View::OnDemand(view)) => view.features.as_slice(),
                None => &[],
            };
            let fields = fields.iter().filter(|field| any(wanted.name, &field.name));
            found.extend(fields.map(|field| feature(&object.name, field, label)));
        }
    }
    found
}

impl Catalog {
    /// Every feature of every view, label views last.
    pub(crate) fn features(&self) -> Vec<Feature> {
        list(self, Wanted::default())
    }
}

/// One feature of one view.
///
/// # Errors
/// `ObjectNotFound`, with Feast's text.
pub(crate) fn get(catalog: &Catalog, view: &str, name: &str) -> Result<Feature> {
    list(catalog, Wanted { view, name, kind: "" })
        .into_iter()
        .next()
        .ok_or_else(|| {
            let project = catalog.project();
            let text = format!("Feature {name} not found in feature view {view} in project {project}");
            Error::new(Kind::ObjectNotFound, text)
        })
}

/// What a feature is sorted by: the names of the message's fields.
pub(crate) fn sort_key(feature: &Feature, attribute: &str) -> SortKey {
    match attribute {
        "name" => SortKey::text(&feature.name),
        "feature_view" => SortKey::text(&feature.feature_view),
        "type" => SortKey::text(&feature.r#type),
        "description" => SortKey::text(&feature.description),
        "owner" => SortKey::text(&feature.owner),
        "kind" => SortKey::text(&feature.kind),
        _ => SortKey::Missing,
    }
}

fn feature(view: &str, field: &Field, kind: &str) -> Feature {
    let mut tags = field.tags.clone();
    tags.remove(STRUCT_SCHEMA_TAG);
    tags.remove(NESTED_TYPE_TAG);
    Feature {
        name: field.name.clone(),
        feature_view: view.to_owned(),
        r#type: type_name(field),
        description: field.description.clone(),
        tags,
        kind: kind.to_owned(),
        // Feast leaves owner and timestamps of features empty.
        ..Feature::default()
    }
}

/// The type as Feast's SDK prints it; the inside of structs and nested lists is kept in tags.
pub(crate) fn type_name(field: &Field) -> String {
    let schema = || {
        field
            .tags
            .get(STRUCT_SCHEMA_TAG)
            .and_then(|text| struct_name(text))
    };
    let unknown_struct = || "Struct({_value: String})".to_owned();
    let nested = || field.tags.get(NESTED_TYPE_TAG).map(|text| inner_name(text));
    match field.value_type {
        ValueType::Struct => schema().unwrap_or_else(unknown_struct),
        ValueType::StructList => format!("Array({})", schema().unwrap_or_else(unknown_struct)),
        ValueType::ValueList => nested().unwrap_or_else(|| "Array(Array(String))".to_owned()),
        ValueType::ValueSet => nested().unwrap_or_else(|| "Set(Array(String))".to_owned()),
        other => other.name().to_owned(),
    }
}

/// `{"a": "INT64"}` as `Struct({a: Int64})`.
fn struct_name(schema: &str) -> Option<String> {
    let schema: serde_json::Map<String, serde_json::Value> = serde_json::from_str(schema).ok()?;
    Some(fields_name(&schema))
}

fn fields_name(schema: &serde_json::Map<String, serde_json::Value>) -> String {
    let fields = schema
        .iter()
        .map(|(name, inner)| format!("{name}: {}", inner_name(inner.as_str().unwrap_or("INVALID"))));
    format!("Struct({{{}}})", fields.collect::<Vec<_>>().join(", "))
}

/// A type as the tags spell it: `Array(INT64)`, `UNIX_TIMESTAMP`, `{"__struct__": {…}}`.
fn inner_name(text: &str) -> String {
    for outer in ["Array", "Set"] {
        let inner = text
            .strip_prefix(outer)
            .and_then(|rest| rest.strip_prefix('(')?.strip_suffix(')'));
        if let Some(inner) = inner {
            return format!("{outer}({})", inner_name(inner));
        }
    }
    if let Ok(nested) = serde_json::from_str::<serde_json::Value>(text)
        && let Some(schema) = nested.get("__struct__").and_then(|inner| inner.as_object())
    {
        return fields_name(schema);
    }
    let word = |word: &str| {
        let (first, rest) = word.split_at_checked(1).unwrap_or((word, ""));
        format!("{first}{}", rest.to_lowercase())
    };
    text.split('_').map(word).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::registry::samples;

    #[test]
    fn labels_come_last_and_filters_apply() {
        let catalog = samples::catalog();
        let names = |wanted| {
            let found = list(&catalog, wanted);
            found
                .iter()
                .map(|f| format!("{}:{} {} {}", f.feature_view, f.name, f.r#type, f.kind))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            names(Wanted::default()),
            [
                "trips:rate Float32 feature",
                "trips:count Int64 feature",
                "twice:doubled Float64 feature",
                "verdicts:good Bool label",
            ]
        );
        assert_eq!(
            names(Wanted {
                kind: "label",
                ..Wanted::default()
            }),
            ["verdicts:good Bool label"]
        );
        assert_eq!(
            names(Wanted {
                view: "trips",
                name: "count",
                kind: ""
            }),
            ["trips:count Int64 feature"]
        );
        assert_eq!(get(&catalog, "trips", "rate").unwrap().name, "rate");
        let missing = get(&catalog, "trips", "x").unwrap_err();
        assert_eq!(
            missing.message(),
            "Feature x not found in feature view trips in project shop"
        );
        assert_eq!(missing.kind(), Kind::ObjectNotFound);
    }

    #[test]
    fn nested_types_are_spelled_as_in_the_sdk() {
        let field = |value_type, tag: &str, text: &str| Field {
            name: "f".into(),
            value_type,
            description: String::new(),
            tags: [(tag.to_owned(), text.to_owned())].into(),
            vector_index: false,
        };
        let cases = [
            (
                ValueType::Struct,
                STRUCT_SCHEMA_TAG,
                r#"{"a": "INT64", "b": "Array(UNIX_TIMESTAMP)"}"#,
                "Struct({a: Int64, b: Array(UnixTimestamp)})",
            ),
            (
                ValueType::StructList,
                STRUCT_SCHEMA_TAG,
                r#"{"a": "{\"__struct__\": {\"b\": \"BOOL\"}}"}"#,
                "Array(Struct({a: Struct({b: Bool})}))",
            ),
            (
                ValueType::ValueList,
                NESTED_TYPE_TAG,
                "Array(Set(FLOAT32))",
                "Array(Set(Float32))",
            ),
            (ValueType::Struct, "other", "", "Struct({_value: String})"),
            (ValueType::ValueSet, "other", "", "Set(Array(String))"),
            (ValueType::Double, "other", "", "Float64"),
        ];
        for (value_type, tag, text, wanted) in cases {
            assert_eq!(type_name(&field(value_type, tag, text)), wanted);
        }
    }
}
