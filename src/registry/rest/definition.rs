//! `featureDefinition`: an object as the Python that would define it. For people to read; nothing
//! executes it and nothing depends on its exact text.

use std::fmt::Write;

use serde_json::Value;

use crate::{
    error::Result,
    model::{Field, Object, ObjectKind, on_demand},
    proto::feast::{
        core::{self, data_source::Options, on_demand_source::Source},
        registry::Feature,
    },
    registry::features::type_name,
};

/// A call with keyword arguments, one a line.
struct Call {
    text: String,
}

impl Call {
    fn new(name: &str, class: &str) -> Self {
        Self {
            text: format!("{} = {class}(\n", variable(name)),
        }
    }

    /// An argument whose value is written as it is; left out when empty.
    fn raw(mut self, name: &str, value: impl AsRef<str>) -> Self {
        if !value.as_ref().is_empty() {
            self.text.push_str(&format!("    {name}={},\n", value.as_ref()));
        }
        self
    }

    /// An argument that is a text; left out when empty.
    fn text(self, name: &str, value: &str) -> Self {
        let value = if value.is_empty() {
            String::new()
        } else {
            quoted(value)
        };
        self.raw(name, value)
    }

    fn tags(self, tags: &std::collections::BTreeMap<String, String>) -> Self {
        let tags: Vec<_> = tags
            .iter()
            .map(|(key, value)| format!("{}: {}", quoted(key), quoted(value)))
            .collect();
        let tags = if tags.is_empty() {
            String::new()
        } else {
            format!("{{{}}}", tags.join(", "))
        };
        self.raw("tags", tags)
    }

    fn end(self, imports: &str) -> String {
        format!("{imports}\n\n{})\n", self.text)
    }
}

/// The definition of an object; nothing for kinds that Feast shows none of.
///
/// # Errors
/// `Internal` when stored bytes are malformed.
pub(super) fn of(object: &Object) -> Result<Option<String>> {
    Ok(Some(match object.kind {
        ObjectKind::Entity => entity(&object.decode::<core::Entity>()?.spec.unwrap_or_default()),
        ObjectKind::DataSource => data_source(&object.decode()?),
        ObjectKind::FeatureView => {
            feature_view(&object.decode::<core::FeatureView>()?.spec.unwrap_or_default())
        }
        ObjectKind::StreamFeatureView => stream_view(
            &object
                .decode::<core::StreamFeatureView>()?
                .spec
                .unwrap_or_default(),
        ),
        ObjectKind::OnDemandFeatureView => on_demand_view(
            &object
                .decode::<core::OnDemandFeatureView>()?
                .spec
                .unwrap_or_default(),
        ),
        ObjectKind::LabelView => label_view(&object.decode::<core::LabelView>()?.spec.unwrap_or_default()),
        ObjectKind::FeatureService => {
            feature_service(&object.decode::<core::FeatureService>()?.spec.unwrap_or_default())
        }
        ObjectKind::SavedDataset => {
            saved_dataset(&object.decode::<core::SavedDataset>()?.spec.unwrap_or_default())
        }
        ObjectKind::Project | ObjectKind::ValidationReference | ObjectKind::Permission => return Ok(None),
    }))
}

/// The definition of one feature.
pub(super) fn of_feature(feature: &Feature) -> String {
    Call::new(&feature.name, "Field")
        .text("name", &feature.name)
        .raw("dtype", &feature.r#type)
        .text("description", &feature.description)
        .tags(&feature.tags)
        .end(&format!(
            "from feast import Field\nfrom feast.types import {}",
            imports([feature.r#type.clone()])
        ))
}

fn entity(spec: &core::EntitySpecV2) -> String {
    let key = if spec.join_key.is_empty() {
        &spec.name
    } else {
        &spec.join_key
    };
    Call::new(&spec.name, "Entity")
        .text("name", &spec.name)
        .raw("join_keys", format!("[{}]", quoted(key)))
        .text("description", &spec.description)
        .text("owner", &spec.owner)
        .tags(&spec.tags)
        .end("from feast import Entity")
}

fn data_source(source: &core::DataSource) -> String {
    if let Some(Options::RequestDataOptions(_)) = &source.options {
        let fields = on_demand::request_fields(source);
        let types = imports(fields.iter().map(type_name));
        return Call::new(&source.name, "RequestSource")
            .text("name", &source.name)
            .raw("schema", schema(&fields))
            .tags(&source.tags)
            .end(&format!(
                "from feast import Field, RequestSource\nfrom feast.types import {types}"
            ));
    }
    let class = class_of(source);
    let call = Call::new(&source.name, class).text("name", &source.name);
    let call = match &source.options {
        Some(Options::FileOptions(file)) => call.text("path", &file.uri),
        Some(Options::BigqueryOptions(table)) => call.text("table", &table.table).text("query", &table.query),
        Some(Options::RedshiftOptions(table)) => call.text("table", &table.table).text("query", &table.query),
        Some(Options::SnowflakeOptions(table)) => {
            call.text("table", &table.table).text("query", &table.query)
        }
        Some(Options::TrinoOptions(table)) => call.text("table", &table.table).text("query", &table.query),
        Some(Options::AthenaOptions(table)) => call.text("table", &table.table).text("query", &table.query),
        Some(Options::SparkOptions(spark)) => call
            .text("table", &spark.table)
            .text("query", &spark.query)
            .text("path", &spark.path),
        Some(Options::KafkaOptions(kafka)) => call
            .text("kafka_bootstrap_servers", &kafka.kafka_bootstrap_servers)
            .text("topic", &kafka.topic),
        Some(Options::KinesisOptions(kinesis)) => call
            .text("region", &kinesis.region)
            .text("stream_name", &kinesis.stream_name),
        _ => call,
    };
    let batch = source
        .batch_source
        .as_ref()
        .map(|batch| variable(&batch.name))
        .unwrap_or_default();
    call.raw("batch_source", batch)
        .text("timestamp_field", &source.timestamp_field)
        .text("created_timestamp_column", &source.created_timestamp_column)
        .text("description", &source.description)
        .tags(&source.tags)
        .end(&format!("from feast import {class}"))
}

/// The SDK's class; custom sources name theirs.
fn class_of(source: &core::DataSource) -> &str {
    use core::data_source::SourceType;
    match SourceType::try_from(source.r#type).unwrap_or_default() {
        SourceType::BatchFile => "FileSource",
        SourceType::BatchBigquery => "BigQuerySource",
        SourceType::BatchRedshift => "RedshiftSource",
        SourceType::BatchSnowflake => "SnowflakeSource",
        SourceType::BatchSpark => "SparkSource",
        SourceType::BatchTrino => "TrinoSource",
        SourceType::BatchAthena => "AthenaSource",
        SourceType::StreamKafka => "KafkaSource",
        SourceType::StreamKinesis => "KinesisSource",
        SourceType::PushSource => "PushSource",
        SourceType::RequestSource => "RequestSource",
        _ => source
            .data_source_class_type
            .rsplit('.')
            .next()
            .filter(|c| !c.is_empty())
            .unwrap_or("DataSource"),
    }
}

fn feature_view(spec: &core::FeatureViewSpec) -> String {
    let sources: Vec<_> = spec
        .source_views
        .iter()
        .map(|view| variable(&view.name))
        .collect();
    let source = match (&spec.stream_source, &spec.batch_source) {
        _ if !sources.is_empty() => format!("[{}]", sources.join(", ")),
        (Some(source), _) | (None, Some(source)) => variable(&source.name),
        (None, None) => String::new(),
    };
    let fields: Vec<Field> = spec.features.iter().map(Field::from).collect();
    Call::new(&spec.name, "FeatureView")
        .text("name", &spec.name)
        .raw("entities", list(&spec.entities))
        .raw("ttl", ttl(spec.ttl.as_ref()))
        .raw("schema", schema(&fields))
        .raw("online", python_bool(spec.online))
        .raw("source", source)
        .text("description", &spec.description)
        .text("owner", &spec.owner)
        .tags(&spec.tags)
        .end(&view_imports("FeatureView", &fields))
}

fn stream_view(spec: &core::StreamFeatureViewSpec) -> String {
    let fields: Vec<Field> = spec.features.iter().map(Field::from).collect();
    let source = spec
        .stream_source
        .as_ref()
        .map(|source| variable(&source.name))
        .unwrap_or_default();
    Call::new(&spec.name, "StreamFeatureView")
        .text("name", &spec.name)
        .raw("entities", list(&spec.entities))
        .raw("ttl", ttl(spec.ttl.as_ref()))
        .raw("schema", schema(&fields))
        .raw("online", python_bool(spec.online))
        .raw("source", source)
        .text("timestamp_field", &spec.timestamp_field)
        .tags(&spec.tags)
        .end(&view_imports("StreamFeatureView", &fields))
}

fn label_view(spec: &core::LabelViewSpec) -> String {
    let fields: Vec<Field> = spec.features.iter().map(Field::from).collect();
    let source = spec
        .source
        .as_ref()
        .map(|source| variable(&source.name))
        .unwrap_or_default();
    Call::new(&spec.name, "LabelView")
        .text("name", &spec.name)
        .raw("entities", list(&spec.entities))
        .raw("schema", schema(&fields))
        .raw("source", source)
        .text("labeler_field", &spec.labeler_field)
        .tags(&spec.tags)
        .end(&format!(
            "from feast import Field\nfrom feast.labeling import LabelView\nfrom feast.types import {}",
            imports(fields.iter().map(type_name))
        ))
}

fn on_demand_view(spec: &core::OnDemandFeatureViewSpec) -> String {
    use core::feature_transformation_v2::Transformation;
    let fields: Vec<Field> = spec.features.iter().map(Field::from).collect();
    let name = |source: &core::OnDemandSource| match source.source.as_ref() {
        Some(Source::RequestDataSource(source)) => variable(&source.name),
        Some(Source::FeatureViewProjection(view)) => variable(&view.feature_view_name),
        Some(Source::FeatureView(view)) => variable(&view.spec.clone().unwrap_or_default().name),
        None => String::new(),
    };
    let sources: Vec<_> = spec
        .sources
        .values()
        .map(name)
        .filter(|name| !name.is_empty())
        .collect();
    let mut text = String::from(
        "from feast import Field\nfrom feast.on_demand_feature_view import on_demand_feature_view\n",
    );
    let _ = writeln!(
        text,
        "from feast.types import {}\n\n",
        imports(fields.iter().map(type_name))
    );
    let _ = writeln!(
        text,
        "@on_demand_feature_view(\n    sources=[{}],\n    schema={},",
        sources.join(", "),
        schema(&fields)
    );
    if !spec.mode.is_empty() {
        let _ = writeln!(text, "    mode={},", quoted(&spec.mode));
    }
    text.push_str(")\n");
    let source = match spec
        .feature_transformation
        .as_ref()
        .and_then(|t| t.transformation.as_ref())
    {
        Some(Transformation::UserDefinedFunction(function)) => without_decorators(&function.body_text),
        _ => String::new(),
    };
    match source.is_empty() {
        true => text.push_str(&format!("def {}(inputs):\n    ...\n", variable(&spec.name))),
        false => text.push_str(&source),
    }
    text
}

/// The source of a function from its `def` on.
fn without_decorators(source: &str) -> String {
    let start = source
        .lines()
        .position(|line| line.trim_start().starts_with("def "))
        .unwrap_or_default();
    source
        .lines()
        .skip(start)
        .map(|line| format!("{line}\n"))
        .collect()
}

fn feature_service(spec: &core::FeatureServiceSpec) -> String {
    let projection = |projection: &core::FeatureViewProjection| {
        let view = variable(&projection.feature_view_name);
        let names: Vec<_> = projection
            .feature_columns
            .iter()
            .map(|column| quoted(&column.name))
            .collect();
        if names.is_empty() {
            view
        } else {
            format!("{view}[[{}]]", names.join(", "))
        }
    };
    let features: Vec<_> = spec.features.iter().map(projection).collect();
    Call::new(&spec.name, "FeatureService")
        .text("name", &spec.name)
        .raw("features", format!("[{}]", features.join(", ")))
        .text("description", &spec.description)
        .text("owner", &spec.owner)
        .tags(&spec.tags)
        .end("from feast import FeatureService")
}

fn saved_dataset(spec: &core::SavedDatasetSpec) -> String {
    let features: Vec<_> = spec.features.iter().map(|feature| quoted(feature)).collect();
    Call::new(&spec.name, "SavedDataset")
        .text("name", &spec.name)
        .raw("features", format!("[{}]", features.join(", ")))
        .tags(&spec.tags)
        .end("from feast.saved_dataset import SavedDataset")
}

fn view_imports(class: &str, fields: &[Field]) -> String {
    let types = imports(fields.iter().map(type_name));
    format!(
        "from datetime import timedelta\n\nfrom feast import {class}, Field\nfrom feast.types import {types}"
    )
}

/// The classes that type names are made of, each once, sorted.
fn imports(types: impl IntoIterator<Item = String>) -> String {
    let mut found = std::collections::BTreeSet::new();
    for name in types {
        let words = name.split(|c: char| !c.is_alphanumeric() && c != '_');
        found.extend(
            words
                .filter(|word| word.starts_with(|c: char| c.is_uppercase()))
                .map(str::to_owned),
        );
    }
    found.into_iter().collect::<Vec<_>>().join(", ")
}

fn schema(fields: &[Field]) -> String {
    let line = |field: &Field| {
        let description = match field.description.as_str() {
            "" => String::new(),
            text => format!(", description={}", quoted(text)),
        };
        format!(
            "        Field(name={}, dtype={}{description}),\n",
            quoted(&field.name),
            type_name(field)
        )
    };
    match fields {
        [] => "[]".to_owned(),
        fields => format!("[\n{}    ]", fields.iter().map(line).collect::<String>()),
    }
}

fn list(entities: &[String]) -> String {
    let shown = entities
        .iter()
        .filter(|name| *name != crate::model::feature_view::DUMMY_ENTITY_NAME);
    format!(
        "[{}]",
        shown.map(|name| variable(name)).collect::<Vec<_>>().join(", ")
    )
}

fn ttl(ttl: Option<&prost_types::Duration>) -> String {
    format!("timedelta(seconds={})", ttl.map_or(0, |ttl| ttl.seconds))
}

fn python_bool(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

/// A text as Python (and JSON) quotes it.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// A name that Python takes for a variable.
fn variable(name: &str) -> String {
    let mut text: String = name
        .chars()
        .map(|c| if c.is_alphanumeric() || c == '_' { c } else { '_' })
        .collect();
    if text.starts_with(|c: char| c.is_numeric()) {
        text.insert(0, '_');
    }
    text
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::registry::samples;

    fn definition(kind: ObjectKind, name: &str) -> String {
        of(samples::catalog().require(kind, name).unwrap())
            .unwrap()
            .unwrap()
    }

    #[test]
    fn an_entity() {
        let wanted = "from feast import Entity\n\ndriver = Entity(\n    name=\"driver\",\n    join_keys=[\"driver_id\"],\n    \
                      description=\"who drives\",\n    tags={\"team\": \"ops\"},\n)\n";
        assert_eq!(definition(ObjectKind::Entity, "driver"), wanted);
    }

    #[test]
    fn views_and_sources_name_what_they_are_made_from() {
        let view = definition(ObjectKind::FeatureView, "trips");
        assert!(view.contains("from feast.types import Float32, Int64"), "{view}");
        assert!(view.contains("source=trips_push"), "{view}");
        assert!(view.contains("ttl=timedelta(seconds=86400)"), "{view}");
        let push = definition(ObjectKind::DataSource, "trips_push");
        assert!(
            push.contains("PushSource(") && push.contains("batch_source=trips_file"),
            "{push}"
        );
        let on_demand = definition(ObjectKind::OnDemandFeatureView, "twice");
        assert!(on_demand.contains("sources=[request, trips]"), "{on_demand}");
        let service = definition(ObjectKind::FeatureService, "model");
        assert!(
            service.contains("features=[trips[[\"rate\"]], verdicts[[\"good\"]]]"),
            "{service}"
        );
    }

    #[test]
    fn texts_cannot_break_out_of_their_quotes() {
        assert_eq!(quoted("a\"b\n"), r#""a\"b\n""#);
        assert_eq!(variable("1-a.b"), "_1_a_b");
    }
}
