//! JSON Schemas for the API's document: of protobuf messages in `MessageToDict`'s form, made from their
//! descriptors, and of request bodies, made from the structs they are read into.

use std::collections::BTreeMap;

use prost_reflect::{Cardinality, DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

const COMPONENTS: &str = "#/components/schemas/";

/// A reference to the schema of a protobuf message.
pub(crate) fn message(name: &str) -> Value {
    json!({"$ref": format!("{COMPONENTS}{name}")})
}

/// A list of such things.
pub(crate) fn list(items: &Value) -> Value {
    json!({"type": "array", "items": items})
}

/// An object with these properties, all of them always there.
pub(crate) fn object<const N: usize>(properties: [(&str, Value); N]) -> Value {
    let required: Vec<&str> = properties.iter().map(|(name, _)| *name).collect();
    json!({"type": "object", "required": required, "properties": Map::from_iter(owned(properties))})
}

/// A message with more properties beside its own, which may be missing.
pub(crate) fn extended<const N: usize>(base: &Value, more: [(&str, Value); N]) -> Value {
    json!({"allOf": [base, {"type": "object", "properties": Map::from_iter(owned(more))}]})
}

fn owned<const N: usize>(properties: [(&str, Value); N]) -> impl Iterator<Item = (String, Value)> {
    properties
        .into_iter()
        .map(|(name, schema)| (name.to_owned(), schema))
}

/// Names to things of one kind.
pub(crate) fn map(values: &Value) -> Value {
    json!({"type": "object", "additionalProperties": values})
}

pub(crate) fn text() -> Value {
    json!({"type": "string"})
}

pub(crate) fn number() -> Value {
    json!({"type": "integer"})
}

/// One of these texts.
pub(crate) fn one_of(texts: &[&str]) -> Value {
    json!({"type": "string", "enum": texts})
}

/// The schema, or null.
pub(crate) fn nullable(schema: &Value) -> Value {
    json!({"anyOf": [schema, {"type": "null"}]})
}

/// The schemas of every message that a document refers to, and of those that these refer to.
pub(super) fn components(document: &Value) -> Map<String, Value> {
    let mut found = Map::new();
    let Ok(pool) = DescriptorPool::decode(crate::proto::DESCRIPTOR_SET) else {
        return found;
    };
    let mut wanted = Vec::new();
    references(document, &mut wanted);
    while let Some(name) = wanted.pop() {
        if found.contains_key(&name) {
            continue;
        }
        let Some(descriptor) = pool.get_message_by_name(&name) else {
            continue;
        };
        let schema = of_message(&descriptor);
        references(&schema, &mut wanted);
        found.insert(name, schema);
    }
    found.sort_keys();
    found
}

fn references(node: &Value, found: &mut Vec<String>) {
    match node {
        Value::Object(fields) => {
            if let Some(name) = fields.get("$ref").and_then(Value::as_str) {
                found.extend(name.strip_prefix(COMPONENTS).map(str::to_owned));
            }
            fields.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

fn of_message(descriptor: &MessageDescriptor) -> Value {
    let properties: Map<String, Value> = descriptor
        .fields()
        .map(|field| (field.json_name().to_owned(), of_field(&field)))
        .collect();
    json!({"type": "object", "properties": properties})
}

fn of_field(field: &FieldDescriptor) -> Value {
    if field.is_map() {
        let value = field
            .kind()
            .as_message()
            .map(|entry| of_kind(&entry.map_entry_value_field().kind()));
        return map(&value.unwrap_or_default());
    }
    let item = of_kind(&field.kind());
    match field.cardinality() {
        Cardinality::Repeated => list(&item),
        Cardinality::Optional | Cardinality::Required => item,
    }
}

fn of_kind(kind: &Kind) -> Value {
    match kind {
        Kind::Bool => json!({"type": "boolean"}),
        Kind::Int32 | Kind::Uint32 | Kind::Sint32 | Kind::Fixed32 | Kind::Sfixed32 => number(),
        Kind::Int64 | Kind::Uint64 | Kind::Sint64 | Kind::Fixed64 | Kind::Sfixed64 => {
            json!({"type": "string", "format": "int64"})
        }
        Kind::Float | Kind::Double => json!({"type": ["number", "string"]}),
        Kind::String => text(),
        Kind::Bytes => json!({"type": "string", "format": "byte"}),
        Kind::Enum(descriptor) => {
            let names: Vec<String> = descriptor.values().map(|value| value.name().to_owned()).collect();
            json!({"type": "string", "enum": names})
        }
        Kind::Message(descriptor) => match descriptor.full_name() {
            "google.protobuf.Timestamp" => json!({"type": "string", "format": "date-time"}),
            "google.protobuf.Duration" => {
                json!({"type": "string", "description": "seconds, such as `3600s`"})
            }
            "google.protobuf.StringValue" => text(),
            name => message(name),
        },
    }
}

/// What a part of a request body looks like.
pub(crate) trait Schema {
    /// Whether the part may be left out.
    const OPTIONAL: bool = false;

    fn schema() -> Value;
}

impl Schema for String {
    fn schema() -> Value {
        text()
    }
}

impl Schema for bool {
    fn schema() -> Value {
        json!({"type": "boolean"})
    }
}

impl Schema for i32 {
    fn schema() -> Value {
        json!({"type": "integer", "minimum": i32::MIN, "maximum": i32::MAX})
    }
}

impl Schema for i64 {
    fn schema() -> Value {
        json!({"type": "integer", "minimum": i64::MIN, "maximum": i64::MAX})
    }
}

impl<T: Schema> Schema for Vec<T> {
    fn schema() -> Value {
        list(&T::schema())
    }
}

impl<T: Schema> Schema for BTreeMap<String, T> {
    fn schema() -> Value {
        map(&T::schema())
    }
}

impl<T: Schema> Schema for Option<T> {
    const OPTIONAL: bool = true;

    fn schema() -> Value {
        nullable(&T::schema())
    }
}

/// A field of a body: its name, its schema, whether it may be left out.
pub(crate) type Field = (&'static str, Value, bool);

/// The schema of a body with these fields.
pub(crate) fn of_fields(fields: Vec<Field>) -> Value {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for (name, schema, optional) in fields {
        let name = name.trim_start_matches("r#");
        if !optional {
            required.push(name);
        }
        properties.insert(name.to_owned(), schema);
    }
    let mut schema = json!({"type": "object", "properties": properties});
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

/// Declares a request body once: the struct it is read into, and what the document says of it.
macro_rules! body {
    ($(#[$about:meta])* $visibility:vis struct $name:ident {
        $($(#[$of_field:meta])* $of:vis $field:ident: $type:ty,)*
    }) => {
        $(#[$about])*
        #[derive(Debug, serde::Deserialize)]
        $visibility struct $name {
            $($(#[$of_field])* $of $field: $type,)*
        }

        impl $crate::http::openapi::schema::Schema for $name {
            fn schema() -> serde_json::Value {
                use $crate::http::openapi::schema::Schema;
                $crate::http::openapi::schema::of_fields(vec![
                    $((stringify!($field), <$type as Schema>::schema(), <$type as Schema>::OPTIONAL),)*
                ])
            }
        }
    };
}

pub(crate) use body;
