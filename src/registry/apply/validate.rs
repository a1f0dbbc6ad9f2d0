//! The rules a definition has to obey. Rules about one object always hold; rules about what it refers
//! to hold only when the whole repository is at hand, because Feast's own `apply` sends views before
//! their entities and new objects before the deletion of old ones.

mod cycles;
mod names;
mod types;

use std::collections::{BTreeMap, HashMap, HashSet};

use prost::Message;

use super::{
    ApplyMode,
    compare::{Look, same},
    problems::Problems,
    version,
};
use crate::{
    error::{Error, Kind, Result},
    model::{Object, ObjectKind, feature_view::DUMMY_ENTITY_NAME},
    proto::feast::core::{self, data_source::SourceType, on_demand_source::Source},
};

/// The objects of the project as they will be, by kind and name.
pub(super) type World<'a> = HashMap<(ObjectKind, &'a str), &'a Object>;

/// Feast's class of a kind, for its error texts.
fn class_name(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::StreamFeatureView => "StreamFeatureView",
        ObjectKind::OnDemandFeatureView => "OnDemandFeatureView",
        ObjectKind::LabelView => "LabelView",
        _ => "FeatureView",
    }
}

fn decode<M: Message + Default>(object: &Object) -> Result<M> {
    M::decode(object.bytes.clone())
        .map_err(|error| Error::from(error).context(format!("{} `{}`", object.kind.label(), object.name)))
}

/// Checks incoming objects against each other, against what will stand beside them (`world`, which they are
/// part of) and against what is stored.
pub(super) fn check(
    incoming: &[Object],
    world: &World<'_>,
    stored: &World<'_>,
    mode: ApplyMode,
) -> Result<()> {
    let mut problems = Problems::default();
    names::duplicates(incoming, stored, &mut problems);
    for object in incoming {
        if names::usable(object, stored, mode, &mut problems) {
            problems.keep(one(object, world, stored, mode));
        }
    }
    names::conflicting_views(incoming, world, stored, &mut problems);
    problems.into_result()
}

/// Whether a project may be called that.
pub(super) fn new_project_name(name: &str) -> Result<()> {
    if is_project_name(name) {
        return Ok(());
    }
    Err(
        Error::invalid(format!("`{name}` cannot be the name of a project"))
            .hint("letters, digits, `_` and `-`, not beginning with `_` or `-`"),
    )
}

/// Feast's rule for names of projects (`feast/repo_operations.py`, `is_valid_name`).
pub fn is_project_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(['_', '-'])
        && name
            .chars()
            .all(|c| c.is_alphanumeric() || matches!(c, '_' | '-'))
}

fn one(object: &Object, world: &World<'_>, stored: &World<'_>, mode: ApplyMode) -> Result<()> {
    version::parse_version(version::version_text(object)?)
        .map_err(|error| error.context(format!("{} `{}`", object.kind.label(), object.name)))?;
    let old = stored.get(&(object.kind, object.name.as_str()));
    if mode == ApplyMode::Single
        && let Some(old) = old
        && same(old, object, Look::Definition)?
    {
        // What is stored is not judged again: a rule may be younger than it is.
        return Ok(());
    }
    types::check(object, world, stored)?;
    let rules = Rules {
        object,
        world,
        strict: mode == ApplyMode::Repository,
    };
    match object.kind {
        ObjectKind::DataSource => rules.source(&decode(object)?),
        ObjectKind::FeatureView => {
            rules.feature_view(&decode::<core::FeatureView>(object)?.spec.unwrap_or_default())
        }
        ObjectKind::StreamFeatureView => rules.stream_view(
            &decode::<core::StreamFeatureView>(object)?
                .spec
                .unwrap_or_default(),
        ),
        ObjectKind::LabelView => {
            rules.label_view(&decode::<core::LabelView>(object)?.spec.unwrap_or_default())
        }
        ObjectKind::OnDemandFeatureView => {
            let view = decode::<core::OnDemandFeatureView>(object)?;
            rules.on_demand_view(&view.spec.unwrap_or_default())
        }
        ObjectKind::FeatureService => {
            rules.service(&decode::<core::FeatureService>(object)?.spec.unwrap_or_default())
        }
        // The others have no rules beyond being what they say they are.
        ObjectKind::Entity => decode::<core::Entity>(object).map(drop),
        ObjectKind::Project => decode::<core::Project>(object).map(drop),
        ObjectKind::SavedDataset => decode::<core::SavedDataset>(object).map(drop),
        ObjectKind::ValidationReference => decode::<core::ValidationReference>(object).map(drop),
        ObjectKind::Permission => decode::<core::Permission>(object).map(drop),
    }
}

/// The rules for one object.
struct Rules<'a> {
    object: &'a Object,
    world: &'a World<'a>,
    strict: bool,
}

impl Rules<'_> {
    fn wrong(&self, problem: impl std::fmt::Display) -> Error {
        Error::invalid(format!(
            "{} `{}`: {problem}",
            self.object.kind.label(),
            self.object.name
        ))
    }

    fn source(&self, source: &core::DataSource) -> Result<()> {
        if source.r#type == SourceType::Invalid as i32 {
            return Err(self.wrong("Could not identify the source type being added."));
        }
        if !source.timestamp_field.is_empty() && source.timestamp_field == source.created_timestamp_column {
            return Err(self.wrong(
                "Please do not use the same column for 'timestamp_field' and 'created_timestamp_column'.",
            ));
        }
        Ok(())
    }

    fn feature_view(&self, spec: &core::FeatureViewSpec) -> Result<()> {
        self.sources(spec.batch_source.as_ref(), spec.stream_source.as_ref())?;
        if !spec.source_views.is_empty() && spec.batch_source.is_none() && self.strict {
            return Err(self.wrong("Derived FeatureView must specify `sink_source`."));
        }
        self.keys_are_no_features(&spec.entities, &spec.entity_columns, &spec.features)?;
        self.columns(
            &spec.entities,
            &spec.entity_columns,
            &spec.features,
            spec.batch_source.as_ref(),
        )
    }

    fn stream_view(&self, spec: &core::StreamFeatureViewSpec) -> Result<()> {
        self.sources(spec.batch_source.as_ref(), spec.stream_source.as_ref())?;
        let streaming = |source: &core::DataSource| {
            matches!(
                source.r#type(),
                SourceType::StreamKafka
                    | SourceType::StreamKinesis
                    | SourceType::PushSource
                    | SourceType::CustomSource
            )
        };
        if self.strict && !spec.stream_source.as_ref().is_some_and(streaming) {
            return Err(self.wrong("needs a stream source: Kafka, Kinesis, push or a custom one"));
        }
        if self.strict && !spec.aggregations.is_empty() && spec.timestamp_field.is_empty() {
            return Err(self.wrong(
                "aggregations must have a timestamp field associated with them to perform the aggregations",
            ));
        }
        self.columns(
            &spec.entities,
            &spec.entity_columns,
            &spec.features,
            spec.batch_source.as_ref(),
        )
    }

    fn label_view(&self, spec: &core::LabelViewSpec) -> Result<()> {
        if spec.entities.is_empty() {
            return Err(Error::invalid("Label view has no entities."));
        }
        self.sources(spec.source.as_ref(), None)?;
        let reference = spec.reference_feature_view.as_str();
        if self.strict && !reference.is_empty() && self.view(reference).is_none() {
            return Err(self.no_view(reference));
        }
        self.columns(
            &spec.entities,
            &spec.entity_columns,
            &spec.features,
            spec.source.as_ref(),
        )
    }

    fn on_demand_view(&self, spec: &core::OnDemandFeatureViewSpec) -> Result<()> {
        self.unique_columns(&spec.features)?;
        if let Some(circle) = cycles::through(&self.object.name, spec, self.world)? {
            return Err(self
                .wrong(format!("it is computed from itself: {circle}"))
                .hint("take one of these views out of the sources of another"));
        }
        if !self.strict {
            return Ok(());
        }
        if !matches!(spec.mode.as_str(), "" | "pandas" | "python" | "substrait") {
            return Err(self.wrong(format!(
                "mode `{}` is none of python, pandas, substrait",
                spec.mode
            )));
        }
        if spec.singleton && spec.mode != "python" {
            return Err(self.wrong("singleton is supported only in mode python"));
        }
        if spec.write_to_online_store && spec.entities.is_empty() {
            return Err(self.wrong("write_to_online_store needs entities"));
        }
        for source in spec.sources.values() {
            match &source.source {
                Some(Source::FeatureViewProjection(projection)) => self.projection(projection)?,
                Some(Source::RequestDataSource(source)) => self.source(source)?,
                Some(Source::FeatureView(_)) | None => {}
            }
        }
        self.entities(&spec.entities, &spec.entity_columns)
    }

    fn service(&self, spec: &core::FeatureServiceSpec) -> Result<()> {
        if self.strict {
            spec.features
                .iter()
                .try_for_each(|projection| self.projection(projection))?;
        }
        Ok(())
    }

    /// Embedded sources obey the rules of sources; streams bring the batch source their history lies in.
    fn sources(&self, batch: Option<&core::DataSource>, stream: Option<&core::DataSource>) -> Result<()> {
        for source in [batch, stream].into_iter().flatten() {
            self.source(source)?;
        }
        let stored_batch = batch.filter(|source| !is_stream(source)).is_some();
        let streams = [batch, stream]
            .into_iter()
            .flatten()
            .filter(|source| is_stream(source));
        for source in streams {
            if self.strict && source.batch_source.is_none() && !stored_batch {
                return Err(self.wrong(format!(
                    "A batch_source needs to be specified for stream source `{}`",
                    source.name
                )));
            }
        }
        Ok(())
    }

    fn columns(
        &self,
        entities: &[String],
        entity_columns: &[core::FeatureSpecV2],
        features: &[core::FeatureSpecV2],
        source: Option<&core::DataSource>,
    ) -> Result<()> {
        self.unique_columns(features)?;
        if !self.strict {
            return Ok(());
        }
        if features.iter().filter(|feature| feature.vector_index).count() > 1 {
            return Err(self.wrong("Only one vector feature is allowed per feature view."));
        }
        let none = BTreeMap::new();
        let mapping = source.map_or(&none, |source| &source.field_mapping);
        for column in entity_columns.iter().chain(features) {
            if let Some(target) = mapping.get(&column.name).filter(|target| **target != column.name) {
                return Err(self.wrong(format!(
                    "The field {} is mapped to {target} for this data source. Please either remove this field mapping \
                     or use {target} as the Entity or Feature name.",
                    column.name
                )));
            }
        }
        self.entities(entities, entity_columns)
    }

    /// A column that is looked up by cannot be looked up as well: its values would never be stored.
    fn keys_are_no_features(
        &self,
        entities: &[String],
        keys: &[core::FeatureSpecV2],
        features: &[core::FeatureSpecV2],
    ) -> Result<()> {
        let mut names: Vec<String> = keys.iter().map(|key| key.name.clone()).collect();
        for entity in entities {
            if let Some(entity) = self.world.get(&(ObjectKind::Entity, entity.as_str())) {
                names.push(decode::<core::Entity>(entity)?.spec.unwrap_or_default().join_key);
            }
        }
        match features.iter().find(|feature| names.contains(&feature.name)) {
            Some(both) => Err(self
                .wrong(format!("`{}` is a join key and a feature", both.name))
                .hint("give the feature another name")),
            None => Ok(()),
        }
    }

    fn unique_columns(&self, columns: &[core::FeatureSpecV2]) -> Result<()> {
        let mut names = HashSet::new();
        for column in columns {
            if column.name.is_empty() {
                return Err(self.wrong("a feature has no name"));
            }
            names::well_formed("feature", &column.name).map_err(|problem| self.wrong(problem.message()))?;
        }
        match columns.iter().find(|column| !names.insert(column.name.as_str())) {
            Some(twice) => Err(self.wrong(format!("feature `{}` is there twice", twice.name))),
            None => Ok(()),
        }
    }

    /// Entities exist, have join keys of their own, and the view's columns have their types.
    fn entities(&self, names: &[String], columns: &[core::FeatureSpecV2]) -> Result<()> {
        let mut keys = HashSet::new();
        for name in names.iter().filter(|name| *name != DUMMY_ENTITY_NAME) {
            let Some(object) = self.world.get(&(ObjectKind::Entity, name.as_str())) else {
                let known: Vec<&str> = self.names(ObjectKind::Entity);
                let error = Error::new(
                    Kind::EntityNotFound,
                    format!(
                        "{} `{}` uses entity `{name}`, which does not exist",
                        self.object.kind.label(),
                        self.object.name
                    ),
                );
                return Err(if known.is_empty() {
                    error.hint("define it among the entities")
                } else {
                    error.hint(format!("there are: {}", known.join(", ")))
                });
            };
            let entity = decode::<core::Entity>(object)?.spec.unwrap_or_default();
            if !keys.insert(entity.join_key.clone()) {
                return Err(self.wrong(format!(
                    "A feature view should not have entities that share a join key. (`{}`)",
                    entity.join_key
                )));
            }
            let column = columns.iter().find(|column| column.name == entity.join_key);
            if let Some(column) = column
                && entity.value_type != 0
                && column.value_type != 0
                && column.value_type != entity.value_type
            {
                return Err(self.wrong(format!(
                    "Entity {name} has type {}, which does not match the inferred type {}.",
                    type_name(entity.value_type),
                    type_name(column.value_type)
                )));
            }
        }
        Ok(())
    }

    fn view(&self, name: &str) -> Option<&Object> {
        let found = ObjectKind::VIEWS
            .iter()
            .find_map(|kind| self.world.get(&(*kind, name)));
        found.copied()
    }

    fn no_view(&self, name: &str) -> Error {
        let (kind, own) = (self.object.kind.label(), &self.object.name);
        let message = format!("{kind} `{own}` uses feature view `{name}`, which does not exist");
        Error::new(Kind::FeatureViewNotFound, message)
    }

    fn projection(&self, projection: &core::FeatureViewProjection) -> Result<()> {
        let name = &projection.feature_view_name;
        let Some(view) = self.view(name) else {
            return Err(self.no_view(name));
        };
        if !projection.join_key_map.is_empty() && !has_keys(view)? {
            let text =
                format!("on demand feature view `{name}` is not stored, so it has no join keys to map");
            return Err(self
                .wrong(text)
                .hint("map the join keys where that view names its own sources"));
        }
        let columns = view_columns(view)?;
        match projection
            .feature_columns
            .iter()
            .find(|column| columns.iter().all(|c| c.name != column.name))
        {
            // An old version of the view may have had it.
            Some(missing) if projection.version_tag.is_none() => {
                Err(self.wrong(format!("feature view `{name}` has no feature `{}`", missing.name)))
            }
            _ => Ok(()),
        }
    }

    fn names(&self, kind: ObjectKind) -> Vec<&str> {
        let of_kind = self.world.keys().filter(|(other, _)| *other == kind);
        let mut names: Vec<&str> = of_kind
            .map(|(_, name)| *name)
            .filter(|n| *n != DUMMY_ENTITY_NAME)
            .collect();
        names.sort_unstable();
        names
    }
}

/// Whether a view's rows are looked up by keys: all are but on-demand views that compute when they are read.
fn has_keys(view: &Object) -> Result<bool> {
    if view.kind != ObjectKind::OnDemandFeatureView {
        return Ok(true);
    }
    let spec = decode::<core::OnDemandFeatureView>(view)?.spec;
    Ok(spec.is_some_and(|spec| spec.write_to_online_store))
}

fn is_stream(source: &core::DataSource) -> bool {
    matches!(
        source.r#type(),
        SourceType::StreamKafka | SourceType::StreamKinesis | SourceType::PushSource
    )
}

fn type_name(number: i32) -> String {
    crate::model::ValueType::from_number(number).name().to_owned()
}

/// Features and join keys of a view of any kind, as its message lists them.
pub(super) fn view_columns(view: &Object) -> Result<Vec<core::FeatureSpecV2>> {
    let (mut features, keys) = match view.kind {
        ObjectKind::StreamFeatureView => {
            let spec = decode::<core::StreamFeatureView>(view)?.spec.unwrap_or_default();
            (spec.features, spec.entity_columns)
        }
        ObjectKind::OnDemandFeatureView => {
            let spec = decode::<core::OnDemandFeatureView>(view)?
                .spec
                .unwrap_or_default();
            (spec.features, spec.entity_columns)
        }
        ObjectKind::LabelView => {
            let spec = decode::<core::LabelView>(view)?.spec.unwrap_or_default();
            (spec.features, spec.entity_columns)
        }
        _ => {
            let spec = decode::<core::FeatureView>(view)?.spec.unwrap_or_default();
            (spec.features, spec.entity_columns)
        }
    };
    features.retain(|feature| keys.iter().all(|key| key.name != feature.name));
    Ok(features)
}
