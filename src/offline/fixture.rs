//! A small project for the tests of this role: the views of the recorded point-in-time cases over files
//! in a folder that goes away, with a service of aliases and on-demand views.

use std::{collections::BTreeMap, fs::File, path::Path, sync::Arc};

use arrow::{
    array::{ArrayRef, Float64Array, Int64Array, RecordBatch, TimestampMicrosecondArray},
    compute::concat_batches,
    util::display::{ArrayFormatter, FormatOptions},
};
use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use datafusion::execution::SendableRecordBatchStream;
use futures::TryStreamExt;
use parquet::arrow::ArrowWriter;
use prost::Message;
use serde_json::Value as Json;
use tempfile::TempDir;

use super::files::{FileStore, FileStoreConfig};
use crate::{
    cloud::Environment,
    config::PythonConfig,
    error::Result,
    model::{Object, ObjectKind, ValueType, on_demand::EXPRESSIONS_TAG},
    proto::feast::core::{
        self, DataSource, FeatureSpecV2,
        data_source::{FileOptions, Options, SourceType},
    },
    registry::{Catalog, store::ProjectState},
    transform::Transformer,
};

pub(super) const PROJECT: &str = "pit";

/// What Feast was asked and answered.
pub(super) fn recorded() -> Json {
    serde_json::from_str(include_str!("../../tests/wire/point_in_time.json")).unwrap()
}

/// A project with its files.
pub(super) struct Fixture {
    pub(super) objects: Vec<Object>,
    pub(super) store: Arc<FileStore>,
    pub(super) transformer: Arc<Transformer>,
    _folder: TempDir,
}

impl Fixture {
    pub(super) fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let mut objects = Vec::new();
        for (name, view) in recorded()["views"].as_object().unwrap() {
            write(&folder.path().join(format!("{name}.parquet")), &table(view));
            let spec = view_spec(name, view);
            let source = spec.batch_source.clone().unwrap();
            objects.push(object(ObjectKind::DataSource, &source.name.clone(), &source));
            let view = core::FeatureView {
                spec: Some(spec),
                ..core::FeatureView::default()
            };
            objects.push(object(ObjectKind::FeatureView, name, &view));
        }
        objects.push(aliases());
        objects.push(on_demand(
            "odfv",
            &[("double", "x * 2"), ("plus", "fa__x + bonus")],
        ));
        let config = FileStoreConfig {
            repo_path: folder.path().to_owned(),
            memory_limit: 1 << 26,
            environment: Environment::default(),
        };
        let python = PythonConfig {
            enabled: false,
            ..PythonConfig::default()
        };
        Self {
            objects,
            store: Arc::new(FileStore::new(config).unwrap()),
            transformer: Arc::new(Transformer::new(python, Arc::default())),
            _folder: folder,
        }
    }

    pub(super) fn catalog(&self) -> Catalog {
        let state = ProjectState {
            project: PROJECT.to_owned(),
            objects: self.objects.iter().cloned().map(Arc::new).collect(),
            ..ProjectState::default()
        };
        Catalog::new(Arc::new(state), None, 1).unwrap()
    }
}

fn object(kind: ObjectKind, name: &str, message: &impl Message) -> Object {
    let bytes = message.encode_to_vec().into();
    Object {
        kind,
        project: PROJECT.to_owned(),
        name: name.to_owned(),
        bytes,
    }
}

fn field(name: &str, value_type: ValueType) -> FeatureSpecV2 {
    FeatureSpecV2 {
        name: name.to_owned(),
        value_type: value_type.number(),
        ..FeatureSpecV2::default()
    }
}

fn view_spec(name: &str, view: &Json) -> core::FeatureViewSpec {
    let seconds = match view["ttl"].as_str().unwrap_or("0") {
        "2h" => 7_200,
        "9d" => 9 * 86_400,
        _ => 0,
    };
    let text = |key: &str| view[key].as_str().unwrap_or_default().to_owned();
    let mapping: BTreeMap<String, String> =
        serde_json::from_value(view["field_mapping"].clone()).unwrap_or_default();
    let keyed = view["entities"].is_null();
    let features: Vec<_> = match name {
        "fa" => vec![field("x", ValueType::Int64), field("y", ValueType::Double)],
        "fb" => vec![field("x", ValueType::Int64)],
        "fm" => vec![field("renamed", ValueType::Int64)],
        _ => vec![field("gv", ValueType::Int64)],
    };
    core::FeatureViewSpec {
        name: name.to_owned(),
        project: PROJECT.to_owned(),
        entities: vec![if keyed { "driver" } else { "__dummy" }.to_owned()],
        entity_columns: if keyed {
            vec![field("driver_id", ValueType::Int64)]
        } else {
            Vec::new()
        },
        features,
        ttl: Some(prost_types::Duration { seconds, nanos: 0 }),
        batch_source: Some(DataSource {
            name: format!("{name}_source"),
            r#type: SourceType::BatchFile.into(),
            timestamp_field: text("timestamp_field"),
            created_timestamp_column: text("created_timestamp_column"),
            field_mapping: mapping,
            options: Some(Options::FileOptions(FileOptions {
                uri: format!("{name}.parquet"),
                ..FileOptions::default()
            })),
            ..DataSource::default()
        }),
        online: true,
        ..core::FeatureViewSpec::default()
    }
}

/// The service `al`: one view joined twice.
fn aliases() -> Object {
    let projection = |alias: &str| core::FeatureViewProjection {
        feature_view_name: "fb".to_owned(),
        feature_view_name_alias: alias.to_owned(),
        feature_columns: vec![field("x", ValueType::Int64)],
        join_key_map: [("driver_id".to_owned(), format!("{alias}_id"))].into(),
        ..core::FeatureViewProjection::default()
    };
    let spec = core::FeatureServiceSpec {
        name: "al".to_owned(),
        project: PROJECT.to_owned(),
        features: vec![projection("origin"), projection("dest")],
        ..core::FeatureServiceSpec::default()
    };
    object(
        ObjectKind::FeatureService,
        "al",
        &core::FeatureService {
            spec: Some(spec),
            meta: None,
        },
    )
}

/// Expressions over `fa:x` and the request column `bonus`.
fn on_demand(name: &str, expressions: &[(&str, &str)]) -> Object {
    use core::on_demand_source::Source;
    let projection = core::FeatureViewProjection {
        feature_view_name: "fa".to_owned(),
        feature_columns: vec![field("x", ValueType::Int64)],
        ..core::FeatureViewProjection::default()
    };
    let request = DataSource {
        name: "request".to_owned(),
        options: Some(Options::RequestDataOptions(
            core::data_source::RequestDataOptions {
                schema: vec![field("bonus", ValueType::Int64)],
                ..Default::default()
            },
        )),
        ..DataSource::default()
    };
    let source = |source: Source| core::OnDemandSource { source: Some(source) };
    let texts: BTreeMap<_, _> = expressions.iter().copied().collect();
    let spec = core::OnDemandFeatureViewSpec {
        name: name.to_owned(),
        features: expressions
            .iter()
            .map(|(name, _)| field(name, ValueType::Int64))
            .collect(),
        sources: [
            ("fa".to_owned(), source(Source::FeatureViewProjection(projection))),
            ("request".to_owned(), source(Source::RequestDataSource(request))),
        ]
        .into(),
        tags: [(EXPRESSIONS_TAG.to_owned(), serde_json::to_string(&texts).unwrap())].into(),
        ..core::OnDemandFeatureViewSpec::default()
    };
    let view = core::OnDemandFeatureView {
        spec: Some(spec),
        ..core::OnDemandFeatureView::default()
    };
    object(ObjectKind::OnDemandFeatureView, name, &view)
}

/// `2026-01-01T08:00Z`, with seconds, or a bare date.
pub(super) fn time(text: &str) -> DateTime<Utc> {
    let text = text.trim_end_matches('Z');
    let naive = NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S")
        .or_else(|_| NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M"))
        .or_else(|_| NaiveDate::parse_from_str(text, "%Y-%m-%d").map(NaiveDateTime::from));
    naive.unwrap().and_utc()
}

pub(super) fn times(texts: &[&str]) -> ArrayRef {
    let micros = texts.iter().map(|text| time(text).timestamp_micros());
    Arc::new(TimestampMicrosecondArray::from_iter_values(micros).with_timezone("UTC"))
}

pub(super) fn numbers(values: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

pub(super) fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))
        .unwrap()
}

/// The recorded rows of a view.
fn table(view: &Json) -> RecordBatch {
    let rows = view["rows"].as_array().unwrap();
    let column = |name: &String| -> ArrayRef {
        let cells = rows.iter().map(|row| &row[name.as_str()]);
        match &rows[0][name.as_str()] {
            Json::String(_) => times(&cells.map(|cell| cell.as_str().unwrap()).collect::<Vec<_>>()),
            Json::Number(number) if number.is_f64() => {
                Arc::new(cells.map(Json::as_f64).collect::<Float64Array>())
            }
            _ => Arc::new(cells.map(Json::as_i64).collect::<Int64Array>()),
        }
    };
    let names = rows[0].as_object().unwrap().keys();
    batch(names.map(|name| (name.as_str(), column(name))).collect())
}

fn write(path: &Path, batch: &RecordBatch) {
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

pub(super) async fn collect(stream: Result<SendableRecordBatchStream>) -> Result<RecordBatch> {
    let stream = stream?;
    let schema = stream.schema();
    let batches: Vec<_> = stream.try_collect().await?;
    Ok(concat_batches(&schema, &batches)?)
}

/// Names and cells as text; nulls are `-`.
pub(super) fn printed(batch: &RecordBatch) -> Vec<Vec<String>> {
    let options = FormatOptions::default().with_null("-");
    let columns: Vec<_> = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column, &options).unwrap())
        .collect();
    let names = batch
        .schema()
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect();
    let rows = (0..batch.num_rows()).map(|row| {
        columns
            .iter()
            .map(|column| column.value(row).to_string())
            .collect()
    });
    std::iter::once(names).chain(rows).collect()
}
