//! Feature views and on demand feature views.

use std::collections::BTreeMap;

use arrow::datatypes::{Field as ArrowField, Schema};

use super::{Builder, KnownView, field, sources::embedded};
use crate::{
    definitions::{
        SCHEDULE_TAG, python,
        reader::{Name, Place},
        syntax::{FeatureViewDefinition, FieldDefinition, OnDemandDefinition, ProjectionDefinition},
    },
    error::Result,
    model::{
        Object, ObjectKind, ValueType,
        feature_view::{DUMMY_ENTITY_NAME, DUMMY_JOIN_KEY},
        on_demand::{EXPRESSIONS_TAG, request_fields},
        value::arrow::{arrow_type, from_arrow_type},
    },
    proto::feast::core::{
        self, DataSource, FeatureSpecV2, FeatureViewProjection, OnDemandSource, data_source::SourceType,
        feature_transformation_v2::Transformation, on_demand_source::Source,
    },
    transform::expressions,
};

/// What Feast calls every view but label views in projections.
const VIEW_TYPE: &str = "featureView";

impl Builder<'_> {
    pub(super) fn feature_views(&mut self) {
        self.protos(|kind| {
            matches!(
                kind,
                ObjectKind::FeatureView | ObjectKind::StreamFeatureView | ObjectKind::LabelView
            )
        });
        for definition in &self.document.feature_views {
            let name = &definition.name.text;
            let Some(spec) = self.feature_view(definition) else {
                self.broken(ObjectKind::FeatureView, name);
                continue;
            };
            self.put(
                ObjectKind::FeatureView,
                name,
                &core::FeatureView {
                    spec: Some(spec.clone()),
                    meta: None,
                },
            );
            let known = KnownView {
                projection: projection(&spec.name, &spec.features, spec.batch_source.as_ref(), VIEW_TYPE),
                join_keys: spec.entity_columns,
            };
            self.views.insert(name.clone(), known);
        }
    }

    fn feature_view(&mut self, definition: &FeatureViewDefinition) -> Option<core::FeatureViewSpec> {
        let what = format!("feature view `{}`", definition.name.text);
        let entities = self.entity_names(&what, &definition.entities);
        let (batch_source, stream_source) = self.view_sources(&what, &definition.source)?;
        let entities = entities?;
        let declared: Vec<FeatureSpecV2> = definition.schema.iter().flatten().map(field).collect();
        let is_key = |name: &str| entities.iter().any(|entity| entity.join_key == name);
        let (mut entity_columns, mut features): (Vec<_>, Vec<_>) =
            declared.into_iter().partition(|field| is_key(&field.name));
        self.check_declared_keys(&what, definition, &entities, &entity_columns);
        let columns = self.schemas.get(&batch_source.name).cloned();
        if definition.schema.is_none() {
            let Some(columns) = &columns else {
                let text = format!("{what} without `schema`, and its source cannot be looked at");
                self.report(definition.name.place.error(text));
                return None;
            };
            features = inferred(columns, &batch_source, &is_key);
        } else if let Some(columns) = &columns {
            self.check_features(&what, definition, columns, &batch_source);
        }
        if features.is_empty() {
            self.report(definition.name.place.error(format!("{what} has no features")));
            return None;
        }
        for entity in &entities {
            if entity_columns.iter().all(|column| column.name != entity.join_key) {
                let column = self.key_column(
                    &what,
                    &definition.name.place,
                    entity,
                    columns.as_deref(),
                    &batch_source,
                );
                entity_columns.push(column);
            }
        }
        let mut tags = definition.common.tags.clone();
        if let Some(schedule) = &definition.schedule {
            tags.insert(SCHEDULE_TAG.to_owned(), schedule.clone());
        }
        Some(core::FeatureViewSpec {
            name: definition.name.text.clone(),
            project: self.project.to_owned(),
            entities: entities.into_iter().map(|entity| entity.name).collect(),
            features,
            tags,
            ttl: prost_types::Duration::try_from(definition.ttl).ok(),
            batch_source: Some(batch_source),
            online: definition.online,
            stream_source,
            description: definition.common.description.clone(),
            owner: definition.common.owner.clone(),
            entity_columns,
            offline: definition.offline,
            version: definition.version.clone(),
            org: definition.org.clone(),
            disabled: !definition.enabled,
            ..Default::default()
        })
    }

    /// The entities of a view; the dummy when it names none.
    fn entity_names(&mut self, what: &str, names: &[Name]) -> Option<Vec<core::EntitySpecV2>> {
        if names.is_empty() {
            return Some(
                self.entities
                    .get(DUMMY_ENTITY_NAME)
                    .cloned()
                    .into_iter()
                    .collect(),
            );
        }
        let mut found: Vec<core::EntitySpecV2> = Vec::new();
        for name in names {
            let Some(entity) = self.entities.get(&name.text).cloned() else {
                let known: Vec<String> = self
                    .entities
                    .keys()
                    .filter(|name| *name != DUMMY_ENTITY_NAME)
                    .cloned()
                    .collect();
                self.missing(ObjectKind::Entity, what, name, &known);
                continue;
            };
            if let Some(other) = found.iter().find(|other| other.join_key == entity.join_key) {
                let text = format!(
                    "{what}: entities `{}` and `{}` share a join key",
                    other.name, entity.name
                );
                self.report(name.place.error(text));
            }
            found.push(entity);
        }
        (found.len() == names.len()).then_some(found)
    }

    /// The batch source and, when the view names a push source, that.
    fn view_sources(&mut self, what: &str, name: &Name) -> Option<(DataSource, Option<DataSource>)> {
        let Some(source) = self.sources.get(&name.text).cloned() else {
            let known: Vec<String> = self.sources.keys().cloned().collect();
            self.missing(ObjectKind::DataSource, what, name, &known);
            return None;
        };
        let kind = SourceType::try_from(source.r#type).unwrap_or_default();
        match kind {
            SourceType::RequestSource => {
                let text = format!(
                    "{what}: `{}` is a request source, which has no history",
                    name.text
                );
                self.report(
                    name.place
                        .error(text)
                        .hint("request sources are for on demand feature views"),
                );
                None
            }
            SourceType::PushSource | SourceType::StreamKafka | SourceType::StreamKinesis => {
                let Some(inner) = source.batch_source.as_deref() else {
                    self.report(
                        name.place
                            .error(format!("{what}: `{}` has no batch source", name.text)),
                    );
                    return None;
                };
                // The batch source itself is known with its class, which push sources drop.
                let batch = self
                    .sources
                    .get(&inner.name)
                    .cloned()
                    .unwrap_or_else(|| inner.clone());
                Some((batch, Some(source)))
            }
            _ => Some((source, None)),
        }
    }

    fn check_declared_keys(
        &mut self,
        what: &str,
        definition: &FeatureViewDefinition,
        entities: &[core::EntitySpecV2],
        columns: &[FeatureSpecV2],
    ) {
        for column in columns {
            let entity = entities.iter().find(|entity| entity.join_key == column.name);
            let Some(entity) = entity.filter(|entity| entity.value_type != 0) else {
                continue;
            };
            if entity.value_type != column.value_type {
                let wanted = ValueType::from_number(entity.value_type);
                let found = ValueType::from_number(column.value_type);
                let text = format!(
                    "{what}: join key `{}` is {found}, entity `{}` says {wanted}",
                    column.name, entity.name
                );
                let place = place_of(definition.schema.as_deref(), &column.name, &definition.name.place);
                self.report(place.error(text));
            }
        }
    }

    /// Every declared feature must be a column of the source.
    fn check_features(
        &mut self,
        what: &str,
        definition: &FeatureViewDefinition,
        columns: &Schema,
        source: &DataSource,
    ) {
        let names = visible_columns(columns, source);
        for declared in definition.schema.iter().flatten() {
            let name = &declared.name.text;
            if !names.contains(name) {
                let text = format!("{what}: data source `{}` has no column `{name}`", source.name);
                self.report(
                    declared
                        .name
                        .place
                        .error(text)
                        .suggest(name, names.iter().map(String::as_str)),
                );
            }
        }
    }

    /// The column of a join key that the schema leaves out: the entity's type, else the source's.
    fn key_column(
        &mut self,
        what: &str,
        place: &Place,
        entity: &core::EntitySpecV2,
        columns: Option<&Schema>,
        source: &DataSource,
    ) -> FeatureSpecV2 {
        let name = &entity.join_key;
        let is_dummy = entity.name == DUMMY_ENTITY_NAME;
        if let Some(columns) = columns.filter(|_| !is_dummy) {
            let names = visible_columns(columns, source);
            if !names.contains(name) {
                let text = format!(
                    "{what}: data source `{}` has no column `{name}`, the join key of entity `{}`",
                    source.name, entity.name
                );
                self.report(place.error(text).suggest(name, names.iter().map(String::as_str)));
            }
        }
        let inferred = columns
            .and_then(|columns| columns.field_with_name(name).ok())
            .map(stored_type);
        let value_type = match (entity.value_type, inferred) {
            (0, Some(inferred)) => inferred,
            (0, None) => ValueType::String.number(),
            (known, _) => known,
        };
        FeatureSpecV2 {
            name: name.clone(),
            value_type,
            ..Default::default()
        }
    }

    pub(super) fn on_demand_views(&mut self) {
        for definition in &self.document.on_demand_feature_views {
            let name = &definition.name.text;
            let Some(spec) = self.on_demand_view(definition) else {
                self.broken(ObjectKind::FeatureView, name);
                continue;
            };
            let view = core::OnDemandFeatureView {
                spec: Some(spec.clone()),
                meta: None,
            };
            self.put(ObjectKind::OnDemandFeatureView, name, &view);
            let known = KnownView {
                projection: projection(&spec.name, &spec.features, None, VIEW_TYPE),
                join_keys: spec.entity_columns,
            };
            self.views.insert(name.clone(), known);
        }
        self.protos(|kind| kind == ObjectKind::OnDemandFeatureView);
    }

    fn on_demand_view(&mut self, definition: &OnDemandDefinition) -> Option<core::OnDemandFeatureViewSpec> {
        let name = &definition.name;
        let what = format!("on demand feature view `{}`", name.text);
        let before = self.problems.0.len();
        let mut sources = BTreeMap::new();
        let mut inputs: Vec<FeatureSpecV2> = Vec::new();
        for wanted in &definition.sources {
            if let Some((key, source, fields)) = self.input(&what, wanted) {
                inputs.extend(fields);
                sources.insert(key, OnDemandSource { source: Some(source) });
            }
        }
        if definition.sources.is_empty() {
            self.report(name.place.error(format!("{what} without `sources`")));
        }
        let entities = self.entity_names(&what, &definition.entities);
        if definition.write_to_online_store && definition.entities.is_empty() {
            self.report(name.place.error(format!(
                "{what} is written to the online store, so it needs `entities`"
            )));
        }
        if self.problems.0.len() > before {
            return None;
        }
        self.check_expressions(&what, definition, &inputs);
        if self.problems.0.len() > before {
            return None;
        }
        let entities = entities?;
        let mut tags = definition.common.tags.clone();
        let texts = serde_json::to_string(&definition.expressions).unwrap_or_default();
        tags.insert(EXPRESSIONS_TAG.to_owned(), texts);
        let function = core::UserDefinedFunctionV2 {
            name: python::function_name(&name.text),
            body: bytes::Bytes::new(),
            body_text: python::function(&name.text, &definition.expressions),
            mode: "python".to_owned(),
        };
        let columns = entities.iter().map(|entity| FeatureSpecV2 {
            name: entity.join_key.clone(),
            value_type: if entity.value_type == 0 {
                ValueType::String.number()
            } else {
                entity.value_type
            },
            ..Default::default()
        });
        Some(core::OnDemandFeatureViewSpec {
            name: name.text.clone(),
            project: self.project.to_owned(),
            features: definition.schema.iter().map(field).collect(),
            sources,
            feature_transformation: Some(core::FeatureTransformationV2 {
                transformation: Some(Transformation::UserDefinedFunction(function)),
            }),
            description: definition.common.description.clone(),
            tags,
            owner: definition.common.owner.clone(),
            mode: "python".to_owned(),
            write_to_online_store: definition.write_to_online_store,
            entity_columns: columns.collect(),
            entities: entities.into_iter().map(|entity| entity.name).collect(),
            version: definition.version.clone(),
            org: definition.org.clone(),
            disabled: !definition.enabled,
            ..Default::default()
        })
    }

    /// An input of an on demand view: its key, its stored form, its fields.
    fn input(
        &mut self,
        what: &str,
        wanted: &ProjectionDefinition,
    ) -> Option<(String, Source, Vec<FeatureSpecV2>)> {
        let name = &wanted.view.text;
        if let Some(source) = self.sources.get(name).filter(|_| !self.views.contains_key(name)) {
            if source.r#type != SourceType::RequestSource as i32 {
                let text = format!("{what}: `{name}` is neither a feature view nor a request source");
                self.report(wanted.view.place.error(text));
                return None;
            }
            let source = DataSource {
                data_source_class_type: String::new(),
                ..source.clone()
            };
            let fields = request_fields(&source).into_iter().map(|field| FeatureSpecV2 {
                value_type: field.value_type.number(),
                name: field.name,
                ..Default::default()
            });
            let fields = fields.collect();
            return Some((name.clone(), Source::RequestDataSource(source), fields));
        }
        let (projection, keys) = self.projection(what, wanted)?;
        let called = |key: FeatureSpecV2| FeatureSpecV2 {
            name: wanted.join_key_map.get(&key.name).cloned().unwrap_or(key.name),
            ..key
        };
        let mut fields: Vec<_> = keys.into_iter().map(called).collect();
        let key = if wanted.alias.is_empty() {
            name.clone()
        } else {
            wanted.alias.clone()
        };
        for column in &projection.feature_columns {
            // Where names of two views collide, the long one tells them apart.
            let long = format!("{key}__{}", column.name);
            fields.push(column.clone());
            fields.push(FeatureSpecV2 {
                name: long,
                ..column.clone()
            });
        }
        Some((key, Source::FeatureViewProjection(projection), fields))
    }

    fn check_expressions(&mut self, what: &str, definition: &OnDemandDefinition, inputs: &[FeatureSpecV2]) {
        let place = &definition.expressions_place;
        if definition.schema.is_empty() {
            self.report(definition.name.place.error(format!("{what} without `schema`")));
        }
        for declared in &definition.schema {
            if !definition.expressions.contains_key(&declared.name.text) {
                let text = format!("{what}: there is no expression for `{}`", declared.name.text);
                self.report(declared.name.place.error(text));
            }
        }
        let mut columns: BTreeMap<&str, ArrowField> = BTreeMap::new();
        for input in inputs {
            let data_type = arrow_type(ValueType::from_number(input.value_type));
            columns.insert(&input.name, ArrowField::new(&input.name, data_type, true));
        }
        let schema = Schema::new(columns.into_values().collect::<Vec<_>>());
        for (output, text) in &definition.expressions {
            if definition
                .schema
                .iter()
                .all(|declared| declared.name.text != *output)
            {
                let known = definition
                    .schema
                    .iter()
                    .map(|declared| declared.name.text.as_str());
                let problem = place
                    .error(format!("{what}: `{output}` is not in its schema"))
                    .key("expressions");
                self.report(problem.suggest(output, known));
            }
            let declared = definition
                .schema
                .iter()
                .find(|declared| declared.name.text == *output)
                .map(|declared| ValueType::from_number(field(declared).value_type));
            if let Err(error) = expressions::check(text, &schema, declared) {
                self.report(
                    place
                        .error(format!("{what}: {}", error.message()))
                        .key("expressions"),
                );
            }
        }
    }

    /// A view, or the wanted part of it, as it is stored elsewhere; and its join keys.
    pub(super) fn projection(
        &mut self,
        what: &str,
        wanted: &ProjectionDefinition,
    ) -> Option<(FeatureViewProjection, Vec<FeatureSpecV2>)> {
        let name = &wanted.view;
        let Some(view) = self.views.get(&name.text) else {
            let known: Vec<String> = self.views.keys().cloned().collect();
            self.missing(ObjectKind::FeatureView, what, name, &known);
            return None;
        };
        let mut projection = view.projection.clone();
        let join_keys = view.join_keys.clone();
        projection.feature_view_name_alias.clone_from(&wanted.alias);
        projection.join_key_map.clone_from(&wanted.join_key_map);
        projection.version_tag = wanted.version;
        let mut problems = Vec::new();
        if let Some(features) = &wanted.features {
            let known = std::mem::take(&mut projection.feature_columns);
            for feature in features {
                match known.iter().find(|column| column.name == feature.text) {
                    Some(column) => projection.feature_columns.push(column.clone()),
                    None => {
                        let text = format!(
                            "{what}: feature view `{}` has no feature `{}`",
                            name.text, feature.text
                        );
                        let known = known.iter().map(|column| column.name.as_str());
                        problems.push(feature.place.error(text).suggest(&feature.text, known));
                    }
                }
            }
        }
        for key in wanted.join_key_map.keys() {
            if join_keys.iter().all(|column| column.name != *key) {
                let text = format!("{what}: `{key}` is no join key of feature view `{}`", name.text);
                let known = join_keys.iter().map(|column| column.name.as_str());
                problems.push(name.place.error(text).key("join_key_map").suggest(key, known));
            }
        }
        let fine = problems.is_empty();
        problems.into_iter().for_each(|problem| self.report(problem));
        fine.then_some((projection, join_keys))
    }
}

/// A whole view as services embed it. Feast stores the created column as the timestamp too
/// (`feast/feature_view_projection.py:to_proto`); both are kept as they are.
fn projection(
    name: &str,
    features: &[FeatureSpecV2],
    source: Option<&DataSource>,
    view_type: &str,
) -> FeatureViewProjection {
    let created = source
        .map(|source| source.created_timestamp_column.clone())
        .unwrap_or_default();
    FeatureViewProjection {
        feature_view_name: name.to_owned(),
        feature_columns: features.to_vec(),
        timestamp_field: created.clone(),
        created_timestamp_column: created,
        date_partition_column: source
            .map(|source| source.date_partition_column.clone())
            .unwrap_or_default(),
        batch_source: source.map(embedded),
        view_type: view_type.to_owned(),
        ..Default::default()
    }
}

/// The projection and join keys of a stored view of any kind.
pub(super) fn projection_of(object: &Object) -> Result<(FeatureViewProjection, Vec<FeatureSpecV2>)> {
    let name = &object.name;
    Ok(match object.kind {
        ObjectKind::OnDemandFeatureView => {
            let spec = object
                .decode::<core::OnDemandFeatureView>()?
                .spec
                .unwrap_or_default();
            (
                projection(name, &spec.features, None, VIEW_TYPE),
                spec.entity_columns,
            )
        }
        ObjectKind::StreamFeatureView => {
            let spec = object
                .decode::<core::StreamFeatureView>()?
                .spec
                .unwrap_or_default();
            let keys = spec.entity_columns;
            let mut features = spec.features;
            features.retain(|feature| keys.iter().all(|key| key.name != feature.name));
            (
                projection(name, &features, spec.batch_source.as_ref(), VIEW_TYPE),
                keys,
            )
        }
        ObjectKind::LabelView => {
            let spec = object.decode::<core::LabelView>()?.spec.unwrap_or_default();
            (
                projection(name, &spec.features, spec.source.as_ref(), "labelView"),
                spec.entity_columns,
            )
        }
        _ => {
            let spec = object.decode::<core::FeatureView>()?.spec.unwrap_or_default();
            (
                projection(name, &spec.features, spec.batch_source.as_ref(), VIEW_TYPE),
                spec.entity_columns,
            )
        }
    })
}

fn place_of(schema: Option<&[FieldDefinition]>, name: &str, otherwise: &Place) -> Place {
    let field = schema
        .unwrap_or_default()
        .iter()
        .find(|field| field.name.text == name);
    field.map_or_else(|| otherwise.clone(), |field| field.name.place.clone())
}

fn stored_type(column: &ArrowField) -> i32 {
    from_arrow_type(column.data_type()).number()
}

/// The columns of a source under the names that views use.
fn visible_columns(columns: &Schema, source: &DataSource) -> Vec<String> {
    let name = |column: &str| {
        source
            .field_mapping
            .get(column)
            .cloned()
            .unwrap_or_else(|| column.to_owned())
    };
    columns
        .fields()
        .iter()
        .map(|column| name(column.name()))
        .collect()
}

/// The features a source offers (`feast/inference.py`): every column but keys, times and `__` ones.
fn inferred(columns: &Schema, source: &DataSource, is_key: &dyn Fn(&str) -> bool) -> Vec<FeatureSpecV2> {
    let mut features: Vec<FeatureSpecV2> = Vec::new();
    for column in columns.fields() {
        let stored = column.name().as_str();
        let name = source.field_mapping.get(stored).map_or(stored, String::as_str);
        let times = [
            source.timestamp_field.as_str(),
            source.created_timestamp_column.as_str(),
        ];
        let is_time = times.contains(&stored) || times.contains(&name);
        if is_time
            || is_key(name)
            || stored.starts_with("__")
            || stored.ends_with("__")
            || name == DUMMY_JOIN_KEY
        {
            continue;
        }
        features.push(FeatureSpecV2 {
            name: name.to_owned(),
            value_type: stored_type(column),
            ..Default::default()
        });
    }
    features
}
