//! From definitions to registry objects, byte for byte what Feast's SDK would register: names are looked
//! up, what may be left out is filled in, and everything that does not fit is a problem at its place.

mod services;
mod sources;
mod views;

pub(super) use sources::readable_source;

use std::collections::{BTreeMap, HashMap};

use arrow::datatypes::SchemaRef;
use prost::Message;
use prost_reflect::ReflectMessage as _;

use super::{
    reader::Name,
    syntax::{Common, Document, FieldDefinition, ProtoDefinition, kind_name},
};
use crate::{
    config::problem::{Problem, Problems},
    model::{Object, ObjectKind, feature_view::DUMMY_ENTITY_NAME, feature_view::DUMMY_JOIN_KEY, object},
    proto::feast::core,
};

/// Columns of file sources, by source name; a source that is missing here is not checked.
pub(super) type Schemas = HashMap<String, SchemaRef>;

/// A view as services and on demand views see it.
struct KnownView {
    projection: core::FeatureViewProjection,
    join_keys: Vec<core::FeatureSpecV2>,
}

/// Builds every object of a document.
pub(super) struct Builder<'d> {
    project: &'d str,
    document: &'d Document,
    schemas: &'d Schemas,
    problems: Problems,
    objects: Vec<Object>,
    /// Sources as they are embedded in views: without project.
    sources: BTreeMap<String, core::DataSource>,
    entities: BTreeMap<String, core::EntitySpecV2>,
    views: BTreeMap<String, KnownView>,
    /// Names that were defined but not built, so that using them is no second problem.
    broken: Vec<(ObjectKind, String)>,
}

/// The objects of a document in apply order.
///
/// # Errors
/// Every problem found, when at least one was.
pub(super) fn build(project: &str, document: &Document, schemas: &Schemas) -> Result<Vec<Object>, Problems> {
    let mut builder = Builder {
        project,
        document,
        schemas,
        problems: Problems::default(),
        objects: Vec::new(),
        sources: BTreeMap::new(),
        entities: BTreeMap::new(),
        views: BTreeMap::new(),
        broken: Vec::new(),
    };
    builder.check_names();
    builder.project_object();
    builder.data_sources();
    builder.entities();
    builder.feature_views();
    builder.on_demand_views();
    builder.services();
    builder.permissions();
    builder.datasets();
    builder.protos(|kind| matches!(kind, ObjectKind::FeatureService | ObjectKind::SavedDataset));
    builder.protos(|kind| matches!(kind, ObjectKind::Permission | ObjectKind::ValidationReference));
    if builder.problems.has_errors() {
        return Err(builder.problems);
    }
    builder.objects.sort_by_key(|object| object.kind);
    Ok(builder.objects)
}

impl Builder<'_> {
    fn report(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    fn put(&mut self, kind: ObjectKind, name: &str, message: &impl Message) {
        self.objects.push(Object {
            kind,
            project: self.project.to_owned(),
            name: name.to_owned(),
            bytes: message.encode_to_vec().into(),
        });
    }

    fn broken(&mut self, kind: ObjectKind, name: &str) {
        self.broken.push((kind, name.to_owned()));
    }

    /// A name that is used and not defined; says nothing when its definition was a problem already.
    fn missing(&mut self, kind: ObjectKind, what: &str, name: &Name, known: &[String]) {
        if self
            .broken
            .iter()
            .any(|(broken, text)| *broken == kind && *text == name.text)
        {
            return;
        }
        let text = format!("{what}: there is no {} `{}`", kind.label(), name.text);
        self.report(
            name.place
                .error(text)
                .suggest(&name.text, known.iter().map(String::as_str)),
        );
    }

    /// Names are unique per kind whatever their case; the view kinds share one set of names
    /// (`feast/feature_store.py:_validate_all_feature_views`).
    fn check_names(&mut self) {
        let document = self.document;
        let mut names: Vec<(ObjectKind, &Name)> = Vec::new();
        names.extend(
            document
                .entities
                .iter()
                .map(|entity| (ObjectKind::Entity, &entity.name)),
        );
        names.extend(
            document
                .data_sources
                .iter()
                .map(|source| (ObjectKind::DataSource, &source.name)),
        );
        names.extend(
            document
                .feature_views
                .iter()
                .map(|view| (ObjectKind::FeatureView, &view.name)),
        );
        names.extend(
            document
                .on_demand_feature_views
                .iter()
                .map(|view| (ObjectKind::FeatureView, &view.name)),
        );
        names.extend(
            document
                .feature_services
                .iter()
                .map(|service| (ObjectKind::FeatureService, &service.name)),
        );
        names.extend(
            document
                .permissions
                .iter()
                .map(|permission| (ObjectKind::Permission, &permission.name)),
        );
        names.extend(
            document
                .saved_datasets
                .iter()
                .map(|dataset| (ObjectKind::SavedDataset, &dataset.name)),
        );
        let protos: Vec<(ObjectKind, Name)> = document.protos.iter().filter_map(proto_name).collect();
        names.extend(protos.iter().map(|(kind, name)| {
            (
                if kind.is_view() {
                    ObjectKind::FeatureView
                } else {
                    *kind
                },
                name,
            )
        }));
        let mut first: HashMap<(ObjectKind, String), &Name> = HashMap::new();
        for (kind, name) in names {
            let Some(earlier) = first.get(&(kind, name.text.to_lowercase())) else {
                first.insert((kind, name.text.to_lowercase()), name);
                continue;
            };
            let different = if earlier.text == name.text {
                ""
            } else {
                ", in another case"
            };
            let text = format!("{} `{}` is defined twice{different}", kind.label(), name.text);
            let hint = format!(
                "`{}` is defined at {}:{}",
                earlier.text, earlier.place.file, earlier.place.line
            );
            self.problems.push(name.place.error(text).hint(hint));
        }
    }

    fn project_object(&mut self) {
        let mut spec = core::ProjectSpec {
            name: self.project.to_owned(),
            ..Default::default()
        };
        if let Some(definition) = &self.document.project {
            if let Some(name) = definition.name.as_ref().filter(|name| name.text != self.project) {
                let text = format!(
                    "the project is called `{}` in feature_store.yaml, not `{}`",
                    self.project, name.text
                );
                self.problems.push(name.place.error(text));
            }
            let Common {
                description,
                tags,
                owner,
            } = &definition.common;
            spec.description.clone_from(description);
            spec.tags.clone_from(tags);
            spec.owner.clone_from(owner);
        }
        let name = self.project.to_owned();
        self.put(
            ObjectKind::Project,
            &name,
            &core::Project {
                spec: Some(spec),
                meta: None,
            },
        );
    }

    fn entities(&mut self) {
        let dummy = core::EntitySpecV2 {
            name: DUMMY_ENTITY_NAME.to_owned(),
            join_key: DUMMY_JOIN_KEY.to_owned(),
            project: self.project.to_owned(),
            ..Default::default()
        };
        self.entity(dummy);
        for definition in &self.document.entities {
            let name = definition.name.text.clone();
            let Common {
                description,
                tags,
                owner,
            } = &definition.common;
            self.entity(core::EntitySpecV2 {
                join_key: definition.join_key.clone().unwrap_or_else(|| name.clone()),
                name,
                value_type: definition
                    .value_type
                    .as_ref()
                    .and_then(super::types::FieldType::number)
                    .map_or(0, crate::model::ValueType::number),
                description: description.clone(),
                tags: tags.clone(),
                project: self.project.to_owned(),
                owner: owner.clone(),
            });
        }
        self.protos(|kind| kind == ObjectKind::Entity);
    }

    fn entity(&mut self, spec: core::EntitySpecV2) {
        let name = spec.name.clone();
        self.put(
            ObjectKind::Entity,
            &name,
            &core::Entity {
                spec: Some(spec.clone()),
                meta: None,
            },
        );
        self.entities.insert(name, spec);
    }

    /// Takes over the `proto:` entries of some kinds, and makes them known to what refers to them.
    fn protos(&mut self, wanted: impl Fn(ObjectKind) -> bool) {
        for definition in self
            .document
            .protos
            .iter()
            .filter(|definition| wanted(definition.kind))
        {
            match proto_object(self.project, definition) {
                Ok(object) => {
                    if let Err(error) = self.learn(&object) {
                        self.problems.push(definition.place.error(error.one_line()));
                    }
                    self.objects
                        .retain(|known| known.kind != object.kind || known.name != object.name);
                    self.objects.push(object);
                }
                Err(problem) => self.problems.push(problem),
            }
        }
    }

    fn learn(&mut self, object: &Object) -> crate::error::Result<()> {
        match object.kind {
            ObjectKind::DataSource => {
                let mut source: core::DataSource = object.decode()?;
                source.project = String::new();
                self.sources.insert(object.name.clone(), source);
            }
            ObjectKind::Entity => {
                let spec = object.decode::<core::Entity>()?.spec.unwrap_or_default();
                self.entities.insert(object.name.clone(), spec);
            }
            kind if kind.is_view() => {
                let (projection, join_keys) = views::projection_of(object)?;
                self.views.insert(
                    object.name.clone(),
                    KnownView {
                        projection,
                        join_keys,
                    },
                );
            }
            _ => {}
        }
        Ok(())
    }
}

/// A field as stored.
fn field(definition: &FieldDefinition) -> core::FeatureSpecV2 {
    let mut tags = definition.tags.clone();
    if let Some((name, value)) = definition.field_type.tags() {
        tags.insert(name.to_owned(), value);
    }
    core::FeatureSpecV2 {
        name: definition.name.text.clone(),
        value_type: definition
            .field_type
            .number()
            .map_or(0, crate::model::ValueType::number),
        tags,
        description: definition.description.clone(),
        vector_index: definition.vector_index,
        vector_search_metric: definition.vector_search_metric.clone(),
        vector_length: definition.vector_length,
    }
}

/// The name inside a `proto:` entry.
fn proto_name(definition: &ProtoDefinition) -> Option<(ObjectKind, Name)> {
    let json = &definition.json;
    let holder = match definition.kind {
        ObjectKind::DataSource | ObjectKind::ValidationReference => json,
        _ => json.get("spec")?,
    };
    let text = holder.get("name")?.as_str()?.to_owned();
    Some((
        definition.kind,
        Name {
            text,
            place: definition.place.clone(),
        },
    ))
}

/// The object of a `proto:` entry, in this project.
fn proto_object(project: &str, definition: &ProtoDefinition) -> Result<Object, Problem> {
    let kind = definition.kind;
    let what = kind_name(kind);
    let Some((_, name)) = proto_name(definition) else {
        return Err(definition
            .place
            .error(format!("the JSON of this {what} has no name")));
    };
    let mut message = object::dynamic_from_json(kind.message_name(), &definition.json).map_err(|error| {
        definition
            .place
            .error(format!("{what} `{}`: {}", name.text, error.message()))
    })?;
    let value = || prost_reflect::Value::String(project.to_owned());
    if message.descriptor().get_field_by_name("project").is_some() {
        message.set_field_by_name("project", value());
    } else if let Some(spec) = message
        .get_field_by_name_mut("spec")
        .and_then(prost_reflect::Value::as_message_mut)
        && spec.descriptor().get_field_by_name("project").is_some()
    {
        spec.set_field_by_name("project", value());
    }
    Ok(Object {
        kind,
        project: project.to_owned(),
        name: name.text,
        bytes: message.encode_to_vec().into(),
    })
}
