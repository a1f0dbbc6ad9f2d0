//! A small project for the tests of this role: a registry in memory, a SQLite store in a folder that
//! goes away, and rows as Feast would have written them.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use arrow::{
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    record_batch::RecordBatch,
};
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::execution::SendableRecordBatchStream;
use prost::Message as _;
use tempfile::TempDir;

use super::{
    ingest::Writer,
    plan::Settings,
    serve::Server,
    store::{OlderRow, OnlineStore as _, Table, WriteBatch, sqlite::SqliteStore},
};
use crate::{
    config::{PythonConfig, TtlMode, UnknownEntity},
    error::{Error, Result},
    model::{
        Object, ObjectKind, ValueType, entity_key,
        value::{Kind, Value},
    },
    offline::store::{Appended, HistoricalQuery, Note, OfflineStore, Pull},
    proto::feast::core,
    registry::{
        Registry,
        store::{ProjectState, memory::MemoryStore},
    },
    transform::Transformer,
};

pub(super) const PROJECT: &str = "dp";

/// 2026-11-21T10:00:00Z.
pub(super) const TEN: i64 = 1_795_255_200_000_000;
pub(super) const HOUR: i64 = 3_600_000_000;

/// An offline store that keeps what is appended; every source has the columns of `driver_fv`'s.
#[derive(Default)]
pub(super) struct MemoryOffline {
    pub(super) appended: Mutex<Vec<(String, RecordBatch)>>,
}

#[async_trait]
impl OfflineStore for MemoryOffline {
    async fn historical(&self, _query: HistoricalQuery) -> Result<SendableRecordBatchStream> {
        Err(Error::unsupported("not needed here"))
    }

    async fn pull(&self, _pull: Pull) -> Result<SendableRecordBatchStream> {
        Err(Error::unsupported("not needed here"))
    }

    async fn append(
        &self,
        source: &core::DataSource,
        batches: Vec<RecordBatch>,
        _once: Option<&Path>,
    ) -> Result<Appended> {
        let rows = batches.iter().map(RecordBatch::num_rows).sum::<usize>() as u64;
        let named = batches.into_iter().map(|batch| (source.name.clone(), batch));
        self.appended.lock().unwrap().extend(named);
        Ok(Appended::all(rows))
    }

    async fn save(
        &self,
        _target: &core::DataSource,
        _rows: SendableRecordBatchStream,
        _overwrite: bool,
        _note: Option<Note>,
    ) -> Result<u64> {
        Err(Error::unsupported("not needed here"))
    }

    async fn schema(&self, _source: &core::DataSource) -> Result<SchemaRef> {
        let time = |unit, zone: Option<&str>| DataType::Timestamp(unit, zone.map(Into::into));
        Ok(Arc::new(Schema::new(vec![
            Field::new("event_timestamp", time(TimeUnit::Nanosecond, Some("UTC")), true),
            Field::new("driver_id", DataType::Int64, true),
            Field::new("conv_rate", DataType::Float32, true),
            Field::new("acc_rate", DataType::Float64, true),
            Field::new("trips", DataType::Int64, true),
            Field::new("trips32", DataType::Int32, true),
            Field::new("name", DataType::Utf8, true),
            Field::new("active", DataType::Boolean, true),
            Field::new("created", time(TimeUnit::Microsecond, None), true),
        ])))
    }

    async fn check(&self) -> Result<()> {
        Ok(())
    }
}

/// A server over the project, with its store.
pub(super) struct Fixture {
    pub(super) server: Server,
    pub(super) writer: Writer,
    pub(super) store: Arc<SqliteStore>,
    pub(super) offline: Arc<MemoryOffline>,
    _folder: TempDir,
}

impl Fixture {
    pub(super) async fn new(objects: Vec<Object>) -> Self {
        let folder = TempDir::new().unwrap();
        let store = Arc::new(
            SqliteStore::open(folder.path().join("data/online.db"))
                .await
                .unwrap(),
        );
        let python = PythonConfig {
            enabled: false,
            ..PythonConfig::default()
        };
        let server = Server::from_parts(
            PROJECT,
            Arc::new(Registry::new(Arc::new(MemoryStore::with(ProjectState {
                project: PROJECT.to_owned(),
                objects: objects.into_iter().map(Arc::new).collect(),
                ..ProjectState::default()
            })))),
            Arc::clone(&store) as _,
            Arc::new(Transformer::new(python, Arc::default())),
            Arc::default(),
            Settings {
                key_version: entity_key::Version::V3,
                versioning: false,
            },
            (TtlMode::Python, UnknownEntity::Store),
        );
        let offline = Arc::new(MemoryOffline::default());
        let writer = Writer {
            project: PROJECT.into(),
            registry: Arc::clone(&server.registry),
            store: Arc::clone(&store) as _,
            offline: Arc::clone(&offline) as _,
            journal: None,
            transformer: Arc::clone(&server.transformer),
            metrics: Arc::default(),
            settings: server.settings,
            programs: Arc::default(),
        };
        Self {
            server,
            writer,
            store,
            offline,
            _folder: folder,
        }
    }

    /// The project of the recorded requests, with its rows.
    pub(super) async fn drivers() -> Self {
        let fixture = Self::new(drivers()).await;
        let driver = |id: i64, micros: i64, values: [Value; 6]| {
            (key(&[("driver_id", int(id))]), micros, values.to_vec())
        };
        fixture
            .put(
                "driver_fv",
                &["conv_rate", "acc_rate", "trips", "trips32", "name", "active"],
                vec![
                    driver(
                        1001,
                        TEN,
                        [float(0.3), float(0.7), int(21), NULL, text("b2"), NULL],
                    ),
                    driver(
                        1002,
                        TEN - HOUR,
                        [float(0.5), NULL, int(30), NULL, text("c"), NULL],
                    ),
                    driver(1003, TEN - 2 * HOUR, [float(0.75), NULL, NULL, NULL, NULL, NULL]),
                ],
            )
            .await;
        fixture
            .put(
                "dc_fv",
                &["rating"],
                vec![(
                    key(&[("driver_id", int(1001)), ("customer_id", text("C1"))]),
                    TEN,
                    vec![double(4.5)],
                )],
            )
            .await;
        fixture
            .put(
                "global_fv",
                &["gval"],
                vec![(key(&[("__dummy_id", text(""))]), TEN, vec![int(8)])],
            )
            .await;
        let five = Kind::Int32Val(5).into();
        fixture
            .put(
                "i32_fv",
                &["v"],
                vec![(key(&[("i32", five)]), TEN + HOUR, vec![int(55)])],
            )
            .await;
        fixture
            .put(
                "odfv_written",
                &["trips_x10"],
                vec![(key(&[("driver_id", int(1001))]), TEN + HOUR, vec![int(210)])],
            )
            .await;
        fixture
    }

    /// Stores rows past the use-cases.
    pub(super) async fn put(&self, view: &str, features: &[&str], rows: Vec<(Bytes, i64, Vec<Value>)>) {
        let mut batch = WriteBatch {
            features: features.iter().map(ToString::to_string).collect(),
            ..Default::default()
        };
        for (key, time, values) in rows {
            batch.keys.push(key);
            batch.event_times.push(time);
            batch.created_times.push(None);
            batch
                .values
                .extend(values.iter().map(|value| Bytes::from(value.encode_to_vec())));
        }
        let view_object = feature_view(view, &[], &[]);
        let typed = crate::model::FeatureView::from_object(&view_object).unwrap();
        self.store
            .write(PROJECT, &Table::of(&Arc::new(typed)), &batch, OlderRow::Skip)
            .await
            .unwrap();
    }
}

pub(super) const NULL: Value = Value { val: None };

pub(super) fn int(number: i64) -> Value {
    Kind::Int64Val(number).into()
}

pub(super) fn float(number: f32) -> Value {
    Kind::FloatVal(number).into()
}

pub(super) fn double(number: f64) -> Value {
    Kind::DoubleVal(number).into()
}

pub(super) fn text(text: &str) -> Value {
    Kind::StringVal(text.to_owned()).into()
}

pub(super) fn key(values: &[(&str, Value)]) -> Bytes {
    let values: Vec<(&str, &Value)> = values.iter().map(|(name, value)| (*name, value)).collect();
    entity_key::serialize(&values, entity_key::Version::V3)
        .unwrap()
        .into()
}

pub(super) fn object(kind: ObjectKind, name: &str, message: &impl prost::Message) -> Object {
    Object {
        kind,
        project: PROJECT.to_owned(),
        name: name.to_owned(),
        bytes: message.encode_to_vec().into(),
    }
}

pub(super) fn entity(name: &str, join_key: &str, value_type: ValueType) -> Object {
    let spec = core::EntitySpecV2 {
        name: name.to_owned(),
        join_key: join_key.to_owned(),
        value_type: value_type.number(),
        ..Default::default()
    };
    object(
        ObjectKind::Entity,
        name,
        &core::Entity {
            spec: Some(spec),
            ..Default::default()
        },
    )
}

fn spec(&(name, value_type): &(&str, ValueType)) -> core::FeatureSpecV2 {
    core::FeatureSpecV2 {
        name: name.to_owned(),
        value_type: value_type.number(),
        ..Default::default()
    }
}

pub(super) fn columns(columns: &[(&str, ValueType)]) -> Vec<core::FeatureSpecV2> {
    columns.iter().map(spec).collect()
}

/// A batch source with the columns `event_timestamp` and `created`.
pub(super) fn batch_source(name: &str) -> core::DataSource {
    core::DataSource {
        name: name.to_owned(),
        r#type: core::data_source::SourceType::BatchFile as i32,
        timestamp_field: "event_timestamp".to_owned(),
        created_timestamp_column: "created".to_owned(),
        ..Default::default()
    }
}

pub(super) fn feature_view(
    name: &str,
    keys: &[(&str, &str, ValueType)],
    features: &[(&str, ValueType)],
) -> Object {
    let proto = feature_view_proto(name, keys, features);
    object(ObjectKind::FeatureView, name, &proto)
}

/// A view of entities given as (entity, join key, type), pushed to by `{name}` with `_fv` made `_push`.
pub(super) fn feature_view_proto(
    name: &str,
    keys: &[(&str, &str, ValueType)],
    features: &[(&str, ValueType)],
) -> core::FeatureView {
    let push = core::DataSource {
        name: name.replace("_fv", "_push"),
        r#type: core::data_source::SourceType::PushSource as i32,
        batch_source: Some(Box::new(batch_source(&format!("{name}_source")))),
        ..Default::default()
    };
    let entities = keys.iter().map(|(entity, ..)| (*entity).to_owned()).collect();
    let keys: Vec<_> = keys
        .iter()
        .map(|(_, key, value_type)| (*key, *value_type))
        .collect();
    core::FeatureView {
        spec: Some(core::FeatureViewSpec {
            name: name.to_owned(),
            project: PROJECT.to_owned(),
            entities,
            entity_columns: columns(&keys),
            features: columns(features),
            batch_source: Some(batch_source(&format!("{name}_source"))),
            stream_source: Some(push),
            ttl: Some(prost_types::Duration {
                seconds: 7200,
                nanos: 0,
            }),
            online: true,
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// As [`feature_view`], for a source without a created time.
fn without_created(name: &str, keys: &[(&str, &str, ValueType)], features: &[(&str, ValueType)]) -> Object {
    let mut proto = feature_view_proto(name, keys, features);
    let source = proto.spec.as_mut().and_then(|spec| spec.batch_source.as_mut());
    if let Some(source) = source {
        source.created_timestamp_column.clear();
    }
    object(ObjectKind::FeatureView, name, &proto)
}

pub(super) fn projection(
    view: &str,
    alias: &str,
    features: &[(&str, ValueType)],
) -> core::FeatureViewProjection {
    core::FeatureViewProjection {
        feature_view_name: view.to_owned(),
        feature_view_name_alias: alias.to_owned(),
        feature_columns: columns(features),
        ..Default::default()
    }
}

pub(super) fn service(name: &str, features: Vec<core::FeatureViewProjection>) -> Object {
    let spec = core::FeatureServiceSpec {
        name: name.to_owned(),
        features,
        ..Default::default()
    };
    object(
        ObjectKind::FeatureService,
        name,
        &core::FeatureService {
            spec: Some(spec),
            ..Default::default()
        },
    )
}

/// An on-demand view by expressions over views and over one request source.
pub(super) fn on_demand(
    name: &str,
    views: &[core::FeatureViewProjection],
    request: &[(&str, ValueType)],
    outputs: &[(&str, ValueType, &str)],
) -> core::OnDemandFeatureView {
    use core::on_demand_source::Source;
    let mut sources = std::collections::BTreeMap::new();
    for view in views {
        let source = core::OnDemandSource {
            source: Some(Source::FeatureViewProjection(view.clone())),
        };
        sources.insert(view.feature_view_name.clone(), source);
    }
    if !request.is_empty() {
        let options = core::data_source::RequestDataOptions {
            schema: columns(request),
            ..Default::default()
        };
        let source = core::DataSource {
            name: "vals_to_add".to_owned(),
            r#type: core::data_source::SourceType::RequestSource as i32,
            options: Some(core::data_source::Options::RequestDataOptions(options)),
            ..Default::default()
        };
        let source = core::OnDemandSource {
            source: Some(Source::RequestDataSource(source)),
        };
        sources.insert("vals_to_add".to_owned(), source);
    }
    let expressions: serde_json::Map<_, _> = outputs
        .iter()
        .map(|(name, _, expression)| ((*name).to_owned(), (*expression).into()))
        .collect();
    let features: Vec<_> = outputs
        .iter()
        .map(|(name, value_type, _)| (*name, *value_type))
        .collect();
    let tag = (
        crate::model::on_demand::EXPRESSIONS_TAG.to_owned(),
        serde_json::Value::Object(expressions).to_string(),
    );
    core::OnDemandFeatureView {
        spec: Some(core::OnDemandFeatureViewSpec {
            name: name.to_owned(),
            project: PROJECT.to_owned(),
            features: columns(&features),
            sources,
            tags: [tag].into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The objects of the project `dp` that Feast's answers were recorded with, as far as they matter here.
pub(super) fn drivers() -> Vec<Object> {
    use ValueType::{Bool, Bytes, Double, Float, Int32, Int64, String};
    let driver = ("driver", "driver_id", Int64);
    let trips = [("trips", Int64)];
    let mut origin = projection("driver_fv", "origin", &trips);
    origin
        .join_key_map
        .insert("driver_id".to_owned(), "origin_id".to_owned());
    let mut dest = projection("driver_fv", "dest", &trips);
    dest.join_key_map
        .insert("driver_id".to_owned(), "dest_id".to_owned());
    let driver_features = [
        ("conv_rate", Float),
        ("acc_rate", Float),
        ("trips", Int64),
        ("trips32", Int32),
        ("name", String),
        ("active", Bool),
    ];
    let plus = on_demand(
        "odfv_python",
        &[projection("driver_fv", "", &driver_features)],
        &[("val_to_add", Int64), ("val_to_add_2", Double)],
        &[("conv_plus_py", Double, "conv_rate + val_to_add + val_to_add_2")],
    );
    let mut written = on_demand(
        "odfv_written",
        &[projection("driver_fv", "", &trips)],
        &[],
        &[("trips_x10", Int64, "trips * 10")],
    );
    if let Some(spec) = &mut written.spec {
        spec.write_to_online_store = true;
        spec.entities = vec!["driver".to_owned()];
        spec.entity_columns = columns(&[("driver_id", Int64)]);
    }
    vec![
        entity("driver", "driver_id", Int64),
        entity("customer", "customer_id", String),
        entity("i32", "i32", Int32),
        entity("bkey", "bkey", Bytes),
        entity("__dummy", "__dummy_id", String),
        feature_view("driver_fv", &[driver], &driver_features),
        without_created(
            "dc_fv",
            &[driver, ("customer", "customer_id", String)],
            &[("rating", Double)],
        ),
        feature_view("global_fv", &[], &[("gval", Int64)]),
        feature_view("i32_fv", &[("i32", "i32", Int32)], &[("v", Int64)]),
        object(ObjectKind::OnDemandFeatureView, "odfv_python", &plus),
        object(ObjectKind::OnDemandFeatureView, "odfv_written", &written),
        service(
            "fs1",
            vec![
                projection("driver_fv", "", &[("trips", Int64), ("conv_rate", Float)]),
                projection("odfv_python", "", &[("conv_plus_py", Double)]),
            ],
        ),
        service("fs_alias", vec![origin, dest]),
    ]
}
