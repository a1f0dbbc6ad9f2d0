//! Data sources: checked against the columns they really have, and the push sources on top of them.

use super::{Builder, field};
use crate::{
    definitions::{
        reader::Name,
        syntax::{SourceDefinition, SourceKind},
    },
    model::ObjectKind,
    offline::postgres,
    proto::feast::core::{
        self, DataSource,
        data_source::{FileOptions, Options, RequestDataOptions, SourceType},
    },
};

const FILE_CLASS: &str = "feast.infra.offline_stores.file_source.FileSource";
const PUSH_CLASS: &str = "feast.data_source.PushSource";
const REQUEST_CLASS: &str = "feast.data_source.RequestSource";

/// The source of a definition to look at its columns, if it has any of its own.
pub(in crate::definitions) fn readable_source(definition: &SourceDefinition) -> Option<DataSource> {
    let (options, source_type, class) = stored(definition)?;
    Some(DataSource {
        name: definition.name.text.clone(),
        r#type: source_type as i32,
        timestamp_field: definition.timestamp_field.clone(),
        data_source_class_type: class.to_owned(),
        options: Some(options),
        ..Default::default()
    })
}

/// What a source has whose rows are stored: its options, type and class in Feast.
fn stored(definition: &SourceDefinition) -> Option<(Options, SourceType, &'static str)> {
    Some(match &definition.kind {
        SourceKind::File {
            path,
            format,
            s3_endpoint_override,
        } => {
            let options = FileOptions {
                file_format: format.map(file_format),
                uri: path.clone(),
                s3_endpoint_override: s3_endpoint_override.clone(),
            };
            (Options::FileOptions(options), SourceType::BatchFile, FILE_CLASS)
        }
        SourceKind::Postgres(source) => {
            let options = postgres::options(&definition.name.text, source);
            let options = Options::CustomOptions(options);
            (options, SourceType::CustomSource, postgres::SOURCE_CLASS)
        }
        SourceKind::Push { .. } | SourceKind::Request { .. } => return None,
    })
}

impl Builder<'_> {
    pub(super) fn data_sources(&mut self) {
        self.protos(|kind| kind == ObjectKind::DataSource);
        let definitions = &self.document.data_sources;
        // Push sources embed their batch source, so they come second.
        let (first, second): (Vec<_>, Vec<_>) = definitions
            .iter()
            .partition(|definition| !matches!(definition.kind, SourceKind::Push { .. }));
        for definition in first.into_iter().chain(second) {
            let name = &definition.name.text;
            let Some(source) = self.data_source(definition) else {
                self.broken(ObjectKind::DataSource, name);
                continue;
            };
            let registered = DataSource {
                project: self.project.to_owned(),
                ..source.clone()
            };
            self.put(ObjectKind::DataSource, name, &registered);
            self.sources.insert(name.clone(), source);
        }
    }

    fn data_source(&mut self, definition: &SourceDefinition) -> Option<DataSource> {
        let (options, source_type, class) = match &definition.kind {
            SourceKind::Push { batch_source } => return self.push_source(definition, batch_source),
            SourceKind::File { .. } | SourceKind::Postgres(_) => {
                let (options, source_type, class) = stored(definition)?;
                (Some(options), source_type, class)
            }
            SourceKind::Request { schema } => {
                if schema.is_empty() {
                    let text = format!("request source `{}` without `schema`", definition.name.text);
                    self.report(definition.name.place.error(text));
                }
                let schema = schema.iter().map(field).collect();
                let options = RequestDataOptions {
                    schema,
                    ..Default::default()
                };
                (
                    Some(Options::RequestDataOptions(options)),
                    SourceType::RequestSource,
                    REQUEST_CLASS,
                )
            }
        };
        let mut source = DataSource {
            name: definition.name.text.clone(),
            description: definition.common.description.clone(),
            tags: definition.common.tags.clone(),
            owner: definition.common.owner.clone(),
            r#type: source_type as i32,
            field_mapping: definition.field_mapping.clone(),
            timestamp_field: definition.timestamp_field.clone(),
            date_partition_column: definition.date_partition_column.clone(),
            created_timestamp_column: definition.created_timestamp_column.clone(),
            data_source_class_type: class.to_owned(),
            options,
            ..Default::default()
        };
        if source_type != SourceType::RequestSource {
            self.check_columns(&mut source, &definition.name)?;
        }
        Some(source)
    }

    fn push_source(&mut self, definition: &SourceDefinition, batch: &Name) -> Option<DataSource> {
        let Some(inner) = self.sources.get(&batch.text) else {
            let known: Vec<String> = self.sources.keys().cloned().collect();
            let what = format!("push source `{}`", definition.name.text);
            self.missing(ObjectKind::DataSource, &what, batch, &known);
            return None;
        };
        // Feast copies these from the batch source (`feast/data_source.py:PushSource`).
        let inner = embedded(inner);
        Some(DataSource {
            name: definition.name.text.clone(),
            description: definition.common.description.clone(),
            tags: definition.common.tags.clone(),
            owner: definition.common.owner.clone(),
            r#type: SourceType::PushSource as i32,
            field_mapping: inner.field_mapping.clone(),
            timestamp_field: inner.timestamp_field.clone(),
            date_partition_column: inner.date_partition_column.clone(),
            created_timestamp_column: inner.created_timestamp_column.clone(),
            data_source_class_type: PUSH_CLASS.to_owned(),
            batch_source: Some(Box::new(inner)),
            ..Default::default()
        })
    }

    /// Looks for the columns a source names, and for its timestamp when it names none.
    fn check_columns(&mut self, source: &mut DataSource, name: &Name) -> Option<()> {
        let Some(schema) = self.schemas.get(&source.name) else {
            return Some(());
        };
        let place = match source.options {
            Some(Options::CustomOptions(_)) => "table",
            _ => "file",
        };
        if source.timestamp_field.is_empty() {
            let is_time =
                |kind: &arrow::datatypes::DataType| matches!(kind, arrow::datatypes::DataType::Timestamp(..));
            let times: Vec<&String> = schema
                .fields()
                .iter()
                .filter(|f| is_time(f.data_type()))
                .map(|f| f.name())
                .collect();
            if let [only] = times.as_slice() {
                source.timestamp_field = (*only).clone();
            } else {
                let text = format!("data source `{}` needs a `timestamp_field`", source.name);
                let columns: Vec<&str> = times.iter().map(|name| name.as_str()).collect();
                let hint = match columns.as_slice() {
                    [] => format!("its {place} has no column of a timestamp type"),
                    many => format!("its {place} has several timestamps: {}", many.join(", ")),
                };
                self.report(name.place.error(text).hint(hint));
                return None;
            }
        }
        let columns: Vec<&str> = schema
            .fields()
            .iter()
            .map(|field| field.name().as_str())
            .collect();
        // The timestamp columns may be named as they are in the file or as they are mapped.
        let mapped = |column: &str| {
            source
                .field_mapping
                .iter()
                .any(|(from, to)| to == column && columns.contains(&from.as_str()))
        };
        let named = [
            ("timestamp_field", &source.timestamp_field),
            ("created_timestamp_column", &source.created_timestamp_column),
        ];
        let mut problems = Vec::new();
        for (key, column) in named {
            if !column.is_empty() && !columns.contains(&column.as_str()) && !mapped(column) {
                let text = format!(
                    "data source `{}`: its {place} has no column `{column}`",
                    source.name
                );
                problems.push(
                    name.place
                        .error(text)
                        .key(key)
                        .suggest(column, columns.iter().copied()),
                );
            }
        }
        for from in source
            .field_mapping
            .keys()
            .filter(|from| !columns.contains(&from.as_str()))
        {
            let text = format!(
                "data source `{}`: its {place} has no column `{from}`",
                source.name
            );
            problems.push(
                name.place
                    .error(text)
                    .key("field_mapping")
                    .suggest(from, columns.iter().copied()),
            );
        }
        let fine = problems.is_empty();
        problems.into_iter().for_each(|problem| self.report(problem));
        fine.then_some(())
    }
}

/// A source as other objects hold it. Feast writes no class there, but those of its classes do that it can
/// only tell by their class.
pub(super) fn embedded(source: &DataSource) -> DataSource {
    let mut source = source.clone();
    if source.r#type != SourceType::CustomSource as i32 {
        source.data_source_class_type.clear();
    }
    source
}

/// Feast 0.67 writes its deprecated spelling of delta, and reads no other.
#[expect(deprecated, reason = "the field Feast uses")]
fn file_format(name: &str) -> core::FileFormat {
    use core::file_format::{Format, ParquetFormat};
    let format = match name {
        "delta" => Format::DeltaFormat(core::table_format::DeltaFormat::default()),
        _ => Format::ParquetFormat(ParquetFormat {}),
    };
    core::FileFormat { format: Some(format) }
}
