//! Objects as entries of their own sections: the keys that a person would write. An entry may lose
//! something; the caller compares.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Map, Value as Json};

use crate::{
    config::quantity::show_duration,
    definitions::{
        SCHEDULE_TAG,
        syntax::{ACTIONS, PERMISSION_TYPES},
        types::FieldType,
    },
    error::Result,
    model::{Object, ObjectKind, feature_view::DUMMY_ENTITY_NAME, on_demand::EXPRESSIONS_TAG},
    offline::postgres,
    proto::feast::core::{
        self, FeatureSpecV2,
        data_source::{Options, SourceType},
        file_format::Format,
        logging_config::Destination,
        on_demand_source::Source,
        policy::PolicyType,
        saved_dataset_storage::Kind,
    },
};

/// A mapping that leaves out what is empty.
#[derive(Default)]
struct Entry(Map<String, Json>);

impl Entry {
    fn put(mut self, key: &str, value: impl Into<Json>) -> Self {
        self.0.insert(key.to_owned(), value.into());
        self
    }

    fn text(self, key: &str, text: &str) -> Self {
        if text.is_empty() {
            self
        } else {
            self.put(key, text)
        }
    }

    fn texts(self, key: &str, texts: &[String]) -> Self {
        if texts.is_empty() {
            self
        } else {
            self.put(key, texts.to_vec())
        }
    }

    fn list(self, key: &str, items: Vec<Json>) -> Self {
        if items.is_empty() {
            self
        } else {
            self.put(key, items)
        }
    }

    fn map(self, key: &str, map: &BTreeMap<String, String>) -> Self {
        if map.is_empty() {
            return self;
        }
        let pairs: Map<String, Json> = map
            .iter()
            .map(|(key, value)| (key.clone(), value.clone().into()))
            .collect();
        self.put(key, pairs)
    }

    /// A switch, when it stands differently from its default.
    fn switch(self, key: &str, value: bool, default: bool) -> Self {
        if value == default {
            self
        } else {
            self.put(key, value)
        }
    }

    fn common(self, description: &str, tags: &BTreeMap<String, String>, owner: &str) -> Self {
        self.text("description", description)
            .map("tags", tags)
            .text("owner", owner)
    }

    fn done(self) -> Option<Json> {
        Some(Json::Object(self.0))
    }
}

/// The `project:` mapping, when there is anything to say.
pub(super) fn project(object: &Object) -> Result<Option<Json>> {
    let spec = object.decode::<core::Project>()?.spec.unwrap_or_default();
    let entry = Entry::default().common(&spec.description, &spec.tags, &spec.owner);
    Ok(if entry.0.is_empty() { None } else { entry.done() })
}

/// The object's entry; `None` when its section has no words for it.
pub(super) fn natural(object: &Object) -> Result<Option<Json>> {
    Ok(match object.kind {
        ObjectKind::Entity => entity(&object.decode::<core::Entity>()?.spec.unwrap_or_default()),
        ObjectKind::DataSource => data_source(&object.decode()?),
        ObjectKind::FeatureView => {
            feature_view(&object.decode::<core::FeatureView>()?.spec.unwrap_or_default())
        }
        ObjectKind::OnDemandFeatureView => on_demand(
            &object
                .decode::<core::OnDemandFeatureView>()?
                .spec
                .unwrap_or_default(),
        ),
        ObjectKind::FeatureService => {
            service(&object.decode::<core::FeatureService>()?.spec.unwrap_or_default())
        }
        ObjectKind::Permission => permission(&object.decode::<core::Permission>()?.spec.unwrap_or_default()),
        ObjectKind::SavedDataset => dataset(&object.decode::<core::SavedDataset>()?.spec.unwrap_or_default()),
        _ => None,
    })
}

fn entity(spec: &core::EntitySpecV2) -> Option<Json> {
    let mut entry = Entry::default().text("name", &spec.name);
    if spec.join_key != spec.name {
        entry = entry.text("join_key", &spec.join_key);
    }
    if spec.value_type != 0 {
        entry = entry.put(
            "value_type",
            FieldType::from_stored(spec.value_type, &BTreeMap::new())?.to_string(),
        );
    }
    entry.common(&spec.description, &spec.tags, &spec.owner).done()
}

fn data_source(source: &core::DataSource) -> Option<Json> {
    let entry = Entry::default().text("name", &source.name);
    let entry = match (SourceType::try_from(source.r#type).ok()?, &source.options) {
        (SourceType::BatchFile, Some(Options::FileOptions(options))) => entry
            .put("type", "file")
            .text("path", &options.uri)
            .text("format", file_format(options.file_format.as_ref()))
            .text("s3_endpoint_override", &options.s3_endpoint_override)
            .text("timestamp_field", &source.timestamp_field)
            .text("created_timestamp_column", &source.created_timestamp_column)
            .text("date_partition_column", &source.date_partition_column)
            .map("field_mapping", &source.field_mapping),
        (SourceType::CustomSource, _) if source.data_source_class_type == postgres::SOURCE_CLASS => {
            let found = postgres::Source::of(source).ok().flatten()?;
            let (table, query) = found.table_and_query();
            entry
                .put("type", "postgres")
                .text("table", table)
                .text("query", query)
                .text("timestamp_field", &source.timestamp_field)
                .text("created_timestamp_column", &source.created_timestamp_column)
                .text("date_partition_column", &source.date_partition_column)
                .map("field_mapping", &source.field_mapping)
        }
        (SourceType::PushSource, _) => entry
            .put("type", "push")
            .text("batch_source", &source.batch_source.as_ref()?.name),
        (SourceType::RequestSource, Some(Options::RequestDataOptions(options))) => entry
            .put("type", "request")
            .list("schema", fields(&options.schema)?),
        _ => return None,
    };
    entry
        .common(&source.description, &source.tags, &source.owner)
        .done()
}

#[expect(deprecated, reason = "the field Feast uses")]
fn file_format(format: Option<&core::FileFormat>) -> &'static str {
    match format.and_then(|format| format.format.as_ref()) {
        Some(Format::ParquetFormat(_)) => "parquet",
        Some(Format::DeltaFormat(_)) => "delta",
        None => "",
    }
}

fn fields(specs: &[FeatureSpecV2]) -> Option<Vec<Json>> {
    specs.iter().map(field).collect()
}

fn field(spec: &FeatureSpecV2) -> Option<Json> {
    let field_type = FieldType::from_stored(spec.value_type, &spec.tags)?;
    let mut tags = spec.tags.clone();
    if let Some((internal, _)) = field_type.tags() {
        tags.remove(internal);
    }
    let mut entry = Entry::default()
        .text("name", &spec.name)
        .put("type", field_type.to_string())
        .text("description", &spec.description)
        .map("tags", &tags)
        .switch("vector_index", spec.vector_index, false)
        .text("vector_search_metric", &spec.vector_search_metric);
    if spec.vector_length != 0 {
        entry = entry.put("vector_length", spec.vector_length);
    }
    entry.done()
}

/// Entity names without the dummy of views that have none.
fn entities(names: &[String]) -> Vec<String> {
    if let [only] = names
        && only == DUMMY_ENTITY_NAME
    {
        Vec::new()
    } else {
        names.to_vec()
    }
}

fn feature_view(spec: &core::FeatureViewSpec) -> Option<Json> {
    let source = spec.stream_source.as_ref().or(spec.batch_source.as_ref())?;
    let mut tags = spec.tags.clone();
    let schedule = tags.remove(SCHEDULE_TAG).unwrap_or_default();
    let names = entities(&spec.entities);
    // Key columns are written out, so that their types do not hang on entities or files.
    let keys = if names.is_empty() {
        Vec::new()
    } else {
        fields(&spec.entity_columns)?
    };
    let mut schema = keys;
    schema.extend(fields(&spec.features)?);
    let ttl = spec
        .ttl
        .and_then(|ttl| Duration::try_from(ttl).ok())
        .unwrap_or_default();
    let mut entry = Entry::default()
        .text("name", &spec.name)
        .texts("entities", &names)
        .text("source", &source.name);
    if !ttl.is_zero() {
        entry = entry.put("ttl", show_duration(ttl));
    }
    let version = if spec.version == "latest" {
        ""
    } else {
        &spec.version
    };
    entry
        .list("schema", schema)
        .switch("online", spec.online, true)
        .switch("offline", spec.offline, false)
        .switch("enabled", !spec.disabled, true)
        .text("schedule", &schedule)
        .text("version", version)
        .text("org", &spec.org)
        .common(&spec.description, &tags, &spec.owner)
        .done()
}

fn on_demand(spec: &core::OnDemandFeatureViewSpec) -> Option<Json> {
    let mut tags = spec.tags.clone();
    let expressions: BTreeMap<String, String> = serde_json::from_str(&tags.remove(EXPRESSIONS_TAG)?).ok()?;
    let mut sources = Vec::new();
    for (key, source) in &spec.sources {
        sources.push(match source.source.as_ref()? {
            Source::RequestDataSource(source) => Json::from(source.name.clone()),
            // Which of the view's features are read is not compared with the view here: all are named
            // unless the projection is plain.
            Source::FeatureViewProjection(inner) if inner.feature_view_name == *key => {
                projection(inner, false)?
            }
            Source::FeatureViewProjection(inner) => projection(inner, true)?,
            Source::FeatureView(_) => return None,
        });
    }
    let version = if spec.version == "latest" {
        ""
    } else {
        &spec.version
    };
    Entry::default()
        .text("name", &spec.name)
        .list("sources", sources)
        .texts("entities", &entities(&spec.entities))
        .list("schema", fields(&spec.features)?)
        .map("expressions", &expressions)
        .switch("write_to_online_store", spec.write_to_online_store, false)
        .switch("enabled", !spec.disabled, true)
        .text("version", version)
        .text("org", &spec.org)
        .common(&spec.description, &tags, &spec.owner)
        .done()
}

/// A part of a view; `whole` writes the view's name alone where that says it all.
fn projection(projection: &core::FeatureViewProjection, named: bool) -> Option<Json> {
    let plain = projection.feature_view_name_alias.is_empty()
        && projection.join_key_map.is_empty()
        && projection.version_tag.is_none();
    if plain && !named {
        return Some(projection.feature_view_name.clone().into());
    }
    let features: Vec<String> = projection
        .feature_columns
        .iter()
        .map(|column| column.name.clone())
        .collect();
    let mut entry = Entry::default()
        .text("view", &projection.feature_view_name)
        .texts("features", &features)
        .text("alias", &projection.feature_view_name_alias)
        .map("join_key_map", &projection.join_key_map);
    if let Some(version) = projection.version_tag {
        entry = entry.put("version", version);
    }
    entry.done()
}

fn service(spec: &core::FeatureServiceSpec) -> Option<Json> {
    let features: Vec<Json> = spec
        .features
        .iter()
        .map(|part| projection(part, true))
        .collect::<Option<_>>()?;
    let mut entry = Entry::default()
        .text("name", &spec.name)
        .list("features", features)
        .switch("precompute_online", spec.precompute_online, false);
    if let Some(config) = &spec.logging_config {
        entry = entry.put("logging", logging(config)?);
    }
    entry.common(&spec.description, &spec.tags, &spec.owner).done()
}

fn logging(config: &core::LoggingConfig) -> Option<Json> {
    let Some(Destination::FileDestination(file)) = &config.destination else {
        return None;
    };
    let mut entry = Entry::default()
        .text("path", &file.path)
        .text("s3_endpoint_override", &file.s3_endpoint_override)
        .texts("partition_by", &file.partition_by);
    if config.sample_rate < 1.0 {
        // By its shortest text: 0.1, not what a double makes of it.
        entry = entry.put("sample_rate", config.sample_rate.to_string().parse::<f64>().ok()?);
    }
    entry.done()
}

fn permission(spec: &core::PermissionSpec) -> Option<Json> {
    let mut types: Vec<String> = Vec::new();
    for number in &spec.types {
        let (name, _) = PERMISSION_TYPES.iter().find(|(_, known)| known == number)?;
        types.push((*name).to_owned());
    }
    let mut actions: Vec<String> = Vec::new();
    for number in &spec.actions {
        actions.push((*ACTIONS.get(usize::try_from(*number).ok()?)?).to_owned());
    }
    let policy = match spec.policy.as_ref()?.policy_type.as_ref()? {
        PolicyType::RoleBasedPolicy(policy) => Entry::default().texts("roles", &policy.roles),
        PolicyType::GroupBasedPolicy(policy) => Entry::default().texts("groups", &policy.groups),
        PolicyType::NamespaceBasedPolicy(policy) => Entry::default().texts("namespaces", &policy.namespaces),
        PolicyType::CombinedGroupNamespacePolicy(policy) => Entry::default()
            .texts("groups", &policy.groups)
            .texts("namespaces", &policy.namespaces),
    };
    Entry::default()
        .text("name", &spec.name)
        .texts("types", &types)
        .texts("name_patterns", &spec.name_patterns)
        .map("required_tags", &spec.required_tags)
        .texts("actions", &actions)
        .put("policy", policy.done()?)
        .map("tags", &spec.tags)
        .done()
}

fn dataset(spec: &core::SavedDatasetSpec) -> Option<Json> {
    let place = match spec.storage.as_ref()?.kind.as_ref()? {
        Kind::FileStorage(storage) => Entry::default()
            .put("type", "file")
            .text("path", &storage.uri)
            .text("s3_endpoint_override", &storage.s3_endpoint_override),
        Kind::CustomStorage(storage) => Entry::default()
            .put("type", "postgres")
            .text("table", &postgres::table_of_storage(storage)?),
        _ => return None,
    };
    Entry::default()
        .text("name", &spec.name)
        .texts("features", &spec.features)
        .texts("join_keys", &spec.join_keys)
        .switch("full_feature_names", spec.full_feature_names, false)
        .put("storage", place.done()?)
        .text("feature_service", &spec.feature_service_name)
        .text("namespace", &spec.namespace)
        .text("collection", &spec.collection)
        .text("description", &spec.description)
        .map("tags", &spec.tags)
        .done()
}
