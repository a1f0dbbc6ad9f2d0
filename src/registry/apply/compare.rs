//! When two versions of an object are the same, which differences make a new version of a view, and
//! what the differences are. Times of writing never count.

use prost_reflect::{DynamicMessage, ReflectMessage, SerializeOptions, Value};
use serde_json::Value as Json;

use super::version::normalized_version;
use crate::{
    error::{Error, Result},
    model::{Object, ObjectKind},
};

/// What besides the times of writing is left out of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Nothing: whether there is anything to write.
    Everything,
    /// State, intervals and the number of the version: what a plan shows.
    Plan,
    /// The pinned version as well: whether the definition is the same.
    Definition,
}

/// Whether two objects of one kind and name say the same.
pub(super) fn same(a: &Object, b: &Object, look: Look) -> Result<bool> {
    Ok(a.bytes == b.bytes || comparable(a, look)? == comparable(b, look)?)
}

/// The message without what does not count.
fn comparable(object: &Object, look: Look) -> Result<DynamicMessage> {
    let mut message = object.dynamic()?;
    clear_source_times(&mut message);
    edit(&mut message, "meta", |meta| {
        meta.clear_field_by_name("created_timestamp");
        meta.clear_field_by_name("last_updated_timestamp");
        if look != Look::Everything && object.kind.is_view() {
            for name in [
                "materialization_intervals",
                "state",
                "current_version_number",
                "version_id",
            ] {
                meta.clear_field_by_name(name);
            }
        }
    });
    if object.kind != ObjectKind::Project {
        message.clear_field_by_name("project");
        edit(&mut message, "spec", |spec| spec.clear_field_by_name("project"));
    }
    if object.kind.is_view() {
        edit(&mut message, "spec", |spec| {
            let version = spec
                .get_field_by_name("version")
                .and_then(|v| v.as_str().map(normalized_version));
            match version {
                Some(Some(pin)) if look != Look::Definition => {
                    spec.set_field_by_name("version", Value::String(pin));
                }
                _ => spec.clear_field_by_name("version"),
            }
        });
    }
    Ok(message)
}

/// Edits a part that is there; a part that ends up empty counts as absent.
fn edit(message: &mut DynamicMessage, part: &str, change: impl FnOnce(&mut DynamicMessage)) {
    if !message.has_field_by_name(part) {
        return;
    }
    let empty = match message
        .get_field_by_name_mut(part)
        .and_then(Value::as_message_mut)
    {
        Some(inner) => {
            change(inner);
            inner.fields().next().is_none() && inner.unknown_fields().next().is_none()
        }
        None => false,
    };
    if empty {
        message.clear_field_by_name(part);
    }
}

/// Sources embedded in other objects carry their own times, which differ with every apply.
fn clear_source_times(message: &mut DynamicMessage) {
    for (_, value) in message.fields_mut() {
        match value {
            Value::Message(inner) => clear_embedded(inner),
            Value::List(items) => items
                .iter_mut()
                .filter_map(Value::as_message_mut)
                .for_each(clear_embedded),
            Value::Map(entries) => {
                entries
                    .values_mut()
                    .filter_map(Value::as_message_mut)
                    .for_each(clear_embedded);
            }
            _ => {}
        }
    }
}

fn clear_embedded(message: &mut DynamicMessage) {
    if message.descriptor().full_name() == "feast.core.DataSource" {
        message.clear_field_by_name("meta");
    }
    clear_source_times(message);
}

/// Whether the change from `old` to `new` makes a new version: what a stored row means has changed.
/// Descriptions of the view, tags, sources and settings do not.
pub(super) fn is_version_significant(old: &Object, new: &Object) -> Result<bool> {
    let (old_spec, new_spec) = (significant(old)?, significant(new)?);
    Ok(old_spec != new_spec)
}

/// The part of a view that its versions are about.
fn significant(object: &Object) -> Result<Vec<(&'static str, Value)>> {
    let names: &[&'static str] = match object.kind {
        ObjectKind::StreamFeatureView => &[
            "features",
            "entities",
            "entity_columns",
            "user_defined_function",
            "feature_transformation",
            "aggregations",
            "timestamp_field",
            "mode",
        ],
        ObjectKind::OnDemandFeatureView => &[
            "features",
            "sources",
            "entity_columns",
            "user_defined_function",
            "feature_transformation",
            "aggregations",
            "mode",
        ],
        ObjectKind::LabelView => &["features"],
        _ => &["features", "entities", "entity_columns", "source_views"],
    };
    let message = comparable(object, Look::Definition)?;
    let Some(spec) = message.get_field_by_name("spec") else {
        return Ok(Vec::new());
    };
    let Some(spec) = spec.as_message() else {
        return Ok(Vec::new());
    };
    let mut parts = Vec::new();
    for name in names {
        let Some(value) = spec.get_field_by_name(name) else {
            continue;
        };
        let mut value = value.into_owned();
        strip_code(&mut value);
        if matches!(*name, "features" | "entities" | "entity_columns") {
            sort_by_name(&mut value);
        }
        parts.push((*name, value));
    }
    Ok(parts)
}

/// Pickled functions differ from one Python to the next: their source text decides where there is one.
fn strip_code(value: &mut Value) {
    match value {
        Value::Message(message) => {
            let has_text = |m: &DynamicMessage| {
                m.get_field_by_name("body_text")
                    .is_some_and(|t| t.as_str() != Some(""))
            };
            if has_text(message) {
                message.clear_field_by_name("body");
            }
            message.fields_mut().for_each(|(_, inner)| strip_code(inner));
        }
        Value::List(items) => items.iter_mut().for_each(strip_code),
        Value::Map(entries) => entries.values_mut().for_each(strip_code),
        _ => {}
    }
}

fn sort_by_name(value: &mut Value) {
    if let Value::List(items) = value {
        items.sort_by_key(|item| match item {
            Value::String(text) => text.clone(),
            Value::Message(message) => name_of(message),
            _ => String::new(),
        });
    }
}

fn name_of(message: &DynamicMessage) -> String {
    message
        .get_field_by_name("name")
        .and_then(|name| name.as_str().map(str::to_owned))
        .unwrap_or_default()
}

/// One difference between what is stored and what is wanted.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldChange {
    /// Protobuf's field names, `spec.` left out, list items by their name: `features.temp.value_type`.
    pub path: String,
    /// `None` when the field is new.
    pub old: Option<Json>,
    /// `None` when the field goes away.
    pub new: Option<Json>,
}

/// The differences between two definitions of one object, in the order of the fields.
pub(super) fn differences(old: &Object, new: &Object) -> Result<Vec<FieldChange>> {
    let mut changes = Vec::new();
    let (old, new) = (readable(old)?, readable(new)?);
    diff(String::new(), Some(&old), Some(&new), &mut changes);
    Ok(changes)
}

/// The definition as JSON with protobuf's own names; code as text where there is text.
fn readable(object: &Object) -> Result<Json> {
    let mut message = Value::Message(comparable(object, Look::Plan)?);
    strip_code(&mut message);
    let Some(message) = message.as_message() else {
        return Ok(Json::Null);
    };
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .skip_default_fields(true);
    message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(|error| Error::internal(format!("`{}` has no JSON form: {error}", object.name)))
}

fn diff(path: String, old: Option<&Json>, new: Option<&Json>, out: &mut Vec<FieldChange>) {
    match (old, new) {
        (Some(old), Some(new)) if old == new => {}
        (Some(Json::Object(old)), Some(Json::Object(new))) => {
            let mut keys: Vec<&String> = old.keys().collect();
            keys.extend(new.keys().filter(|key| !old.contains_key(*key)));
            for key in keys {
                diff(join(&path, key), old.get(key), new.get(key), out);
            }
        }
        (Some(Json::Array(old)), Some(Json::Array(new))) if named(old) && named(new) => {
            let find = |list: &[Json], name: &str| list.iter().find(|item| item["name"] == *name).cloned();
            let names = |list: &[Json]| -> Vec<String> {
                list.iter()
                    .filter_map(|item| item["name"].as_str().map(str::to_owned))
                    .collect()
            };
            let (before, after) = (names(old), names(new));
            let mut all = before.clone();
            all.extend(after.iter().filter(|name| !before.contains(name)).cloned());
            for name in &all {
                diff(
                    join(&path, name),
                    find(old, name).as_ref(),
                    find(new, name).as_ref(),
                    out,
                );
            }
            if all.len() == before.len() && all.len() == after.len() && before != after {
                let list = |names: Vec<String>| Some(Json::from(names));
                out.push(FieldChange {
                    path: join(&path, "order"),
                    old: list(before),
                    new: list(after),
                });
            }
        }
        (old, new) => out.push(FieldChange {
            path,
            old: old.cloned(),
            new: new.cloned(),
        }),
    }
}

/// Whether every item of a list has a name of its own.
fn named(list: &[Json]) -> bool {
    let mut names: Vec<&str> = list
        .iter()
        .filter_map(|item| item.get("name")?.as_str())
        .collect();
    names.sort_unstable();
    names.dedup();
    names.len() == list.len()
}

fn join(path: &str, key: &str) -> String {
    match path {
        "" | "spec" => key.to_owned(),
        path => format!("{path}.{key}"),
    }
}
