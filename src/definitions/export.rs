//! Writes a registry as definition files. Whatever the sections cannot say exactly is written as a
//! `proto:` entry: every object is read back and compared before it is written in its own section.

mod sections;

use std::collections::BTreeSet;

use prost_reflect::{DynamicMessage, Value as Dynamic};
use serde_json::{Map, Value as Json};

use super::{Definitions, build, syntax::kind_name};
use crate::{
    config::{
        problem::{Problem, Problems},
        yaml::{self, Value},
    },
    error::{Error, Result},
    model::{Object, ObjectKind, feature_view::DUMMY_ENTITY_NAME, object, on_demand::EXPRESSIONS_TAG},
};

/// Sections in the order they are written.
const SECTIONS: [(&str, Option<ObjectKind>); 8] = [
    ("entities", Some(ObjectKind::Entity)),
    ("data_sources", Some(ObjectKind::DataSource)),
    ("feature_views", Some(ObjectKind::FeatureView)),
    ("on_demand_feature_views", Some(ObjectKind::OnDemandFeatureView)),
    ("feature_services", Some(ObjectKind::FeatureService)),
    ("permissions", Some(ObjectKind::Permission)),
    ("saved_datasets", Some(ObjectKind::SavedDataset)),
    ("proto", None),
];

type Key = (ObjectKind, String);

/// One file that, applied, makes these objects again.
///
/// # Errors
/// `Internal` when stored bytes are malformed.
pub fn export<'a>(project: &str, objects: impl IntoIterator<Item = &'a Object>) -> Result<String> {
    let is_dummy = |object: &&Object| object.kind == ObjectKind::Entity && object.name == DUMMY_ENTITY_NAME;
    let mut objects: Vec<&Object> = objects.into_iter().filter(|object| !is_dummy(object)).collect();
    objects.sort_by_key(|object| object.kind);
    // Objects whose own section cannot say what they are.
    let mut escaped: BTreeSet<Key> = BTreeSet::new();
    loop {
        let file = compose(&objects, &escaped)?;
        let text = serde_saphyr::to_string(&file.json)
            .map_err(|error| Error::internal(format!("definitions have no YAML form: {error}")))?;
        let inexact = file.inexact(project, &text, &objects)?;
        let before = escaped.len();
        escaped.extend(inexact);
        // Entries of `proto:` are exact by themselves, so every round leaves fewer to check.
        if escaped.len() == before {
            return Ok(
                if file.keys.is_empty() && file.json.as_object().is_some_and(Map::is_empty) {
                    String::new()
                } else {
                    text
                },
            );
        }
    }
}

/// A composed file and which object each item is.
struct Composed {
    json: Json,
    /// By section and index.
    keys: Vec<(&'static str, Vec<Key>)>,
}

fn compose(objects: &[&Object], escaped: &BTreeSet<Key>) -> Result<Composed> {
    let mut root = Map::new();
    let mut keys = Vec::new();
    if let Some(project) = objects.iter().find(|object| object.kind == ObjectKind::Project)
        && let Some(json) = sections::project(project)?
    {
        root.insert("project".to_owned(), json);
    }
    for (section, kind) in SECTIONS {
        let mut items = Vec::new();
        let mut names = Vec::new();
        for object in objects.iter().filter(|object| object.kind != ObjectKind::Project) {
            let key = (object.kind, object.name.clone());
            let own = SECTIONS.iter().any(|(_, kind)| *kind == Some(object.kind));
            let natural = if own && !escaped.contains(&key) {
                sections::natural(object)?
            } else {
                None
            };
            let item = match (kind, natural) {
                (Some(kind), Some(natural)) if kind == object.kind => natural,
                (None, None) => proto_entry(object)?,
                _ => continue,
            };
            items.push(item);
            names.push(key);
        }
        if !items.is_empty() {
            root.insert(section.to_owned(), Json::Array(items));
            keys.push((section, names));
        }
    }
    Ok(Composed {
        json: Json::Object(root),
        keys,
    })
}

impl Composed {
    /// Objects that would come back different, or not at all.
    fn inexact(&self, project: &str, text: &str, objects: &[&Object]) -> Result<Vec<Key>> {
        let read = Definitions::from_text("export", text);
        let built = read.and_then(|read| build::build(project, &read.document, &build::Schemas::new()));
        match built {
            Ok(built) => {
                let mut inexact = Vec::new();
                for (_, keys) in self.keys.iter().filter(|(section, _)| *section != "proto") {
                    for key in keys {
                        let again = built
                            .iter()
                            .find(|object| (object.kind, &object.name) == (key.0, &key.1));
                        let stored = objects
                            .iter()
                            .find(|object| (object.kind, &object.name) == (key.0, &key.1));
                        let same = match (again, stored) {
                            (Some(again), Some(stored)) => essence(again)? == essence(stored)?,
                            _ => false,
                        };
                        if !same {
                            inexact.push(key.clone());
                        }
                    }
                }
                Ok(inexact)
            }
            Err(problems) => {
                let blamed = self.blamed(text, &problems);
                if blamed.is_empty() {
                    return Err(Error::internal(format!(
                        "the registry cannot be exported: {problems}"
                    )));
                }
                Ok(blamed)
            }
        }
    }

    /// The objects at whose lines problems were found.
    fn blamed(&self, text: &str, problems: &Problems) -> Vec<Key> {
        let Ok(root) = yaml::parse(text) else {
            return Vec::new();
        };
        let mut starts: Vec<(u64, &Key)> = Vec::new();
        for (section, keys) in self.keys.iter().filter(|(section, _)| *section != "proto") {
            if let Some(Value::List(items)) = root.get(section).map(|node| &node.value) {
                starts.extend(items.iter().map(|item| item.line).zip(keys));
            }
        }
        starts.sort_by_key(|(line, _)| *line);
        let owner = |problem: &Problem| {
            starts
                .iter()
                .rev()
                .find(|(line, _)| *line <= problem.line)
                .map(|(_, key)| (*key).clone())
        };
        problems
            .0
            .iter()
            .filter(|problem| problem.is_error())
            .filter_map(owner)
            .collect()
    }
}

/// `{kind, json}` of an object, without what a registry keeps for itself.
fn proto_entry(object: &Object) -> Result<Json> {
    let mut message = object.dynamic()?;
    forget(&mut message, &["meta"]);
    // The file can be applied to a project of another name.
    message.clear_field_by_name("project");
    if let Some(spec) = message
        .get_field_by_name_mut("spec")
        .and_then(Dynamic::as_message_mut)
    {
        spec.clear_field_by_name("project");
    }
    let mut entry = Map::new();
    entry.insert("kind".to_owned(), kind_name(object.kind).into());
    entry.insert("json".to_owned(), object::message_to_json(&message)?);
    Ok(Json::Object(entry))
}

/// What a definition decides about an object: not times, states and the like.
fn essence(object: &Object) -> Result<Json> {
    let mut message = object.dynamic()?;
    forget(&mut message, &["meta", "project", "data_source_class_type"]);
    let mut json = object::message_to_json(&message)?;
    if let Some(spec) = json.get_mut("spec").and_then(Json::as_object_mut) {
        if spec.get("version").is_some_and(|version| version == "latest") {
            spec.remove("version");
        }
        if spec.get("ttl").is_some_and(|ttl| ttl == "0s") {
            spec.remove("ttl");
        }
        // The Python text follows from the expressions; how it is put may change with versions.
        if spec
            .get("tags")
            .is_some_and(|tags| tags.get(EXPRESSIONS_TAG).is_some())
        {
            spec.remove("featureTransformation");
        }
    }
    Ok(json)
}

/// Clears fields by name, however deep.
fn forget(message: &mut DynamicMessage, names: &[&str]) {
    let fields: Vec<_> = message.fields().map(|(field, _)| field).collect();
    for field in fields {
        if names.contains(&field.name()) && keep_class(message, field.name()) {
            message.clear_field(&field);
            continue;
        }
        match message.get_field_mut(&field) {
            Dynamic::Message(inner) => forget(inner, names),
            Dynamic::List(items) => items
                .iter_mut()
                .filter_map(Dynamic::as_message_mut)
                .for_each(|inner| forget(inner, names)),
            Dynamic::Map(items) => {
                items
                    .values_mut()
                    .filter_map(Dynamic::as_message_mut)
                    .for_each(|inner| forget(inner, names));
            }
            _ => {}
        }
    }
}

/// The class of a custom source says what it is; the class of a known one follows from its type.
fn keep_class(source: &DynamicMessage, field: &str) -> bool {
    use crate::proto::feast::core::data_source::SourceType;
    if field != "data_source_class_type" {
        return true;
    }
    let number = source
        .get_field_by_name("type")
        .and_then(|value| value.as_enum_number())
        .unwrap_or_default();
    ![SourceType::CustomSource as i32, SourceType::BatchIceberg as i32].contains(&number)
}
