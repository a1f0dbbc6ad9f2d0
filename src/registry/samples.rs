//! For the tests of the registry role: a small project with one object of every kind, a registry store
//! in memory, and an online store that only remembers which tables it was told to keep and drop.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
};

use arrow::{array::Int64Array, datatypes::SchemaRef, record_batch::RecordBatch};
use async_trait::async_trait;
use datafusion::{execution::SendableRecordBatchStream, physical_plan::stream::RecordBatchStreamAdapter};
use prost::Message;

use super::{
    Catalog, Registry,
    changes::Changes,
    store::{Change, ProjectState, Revision, memory::MemoryStore},
};
use crate::{
    error::{Error, Result},
    model::{FeatureView, Object, ObjectKind},
    offline::store::{Appended, HistoricalQuery, Note, OfflineStore, Pull},
    online::store::{OlderRow, OnlineRead, OnlineStore, RowBatch, Table, WriteBatch},
    proto::feast::core,
};

/// An offline store whose every source holds the same two batches.
pub(crate) struct Rows;

impl Rows {
    fn batch(values: Vec<i64>) -> Result<RecordBatch> {
        Ok(RecordBatch::try_from_iter([(
            "rate",
            Arc::new(Int64Array::from(values)) as _,
        )])?)
    }
}

#[async_trait]
impl OfflineStore for Rows {
    async fn historical(&self, _: HistoricalQuery) -> Result<SendableRecordBatchStream> {
        Err(Error::unsupported("historical"))
    }

    async fn pull(&self, _: Pull) -> Result<SendableRecordBatchStream> {
        let batches = [Self::batch(vec![1, 2])?, Self::batch(vec![3])?];
        let schema = batches[0].schema();
        let stream = futures::stream::iter(batches.map(Ok));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream)))
    }

    async fn append(&self, _: &core::DataSource, _: Vec<RecordBatch>, _: Option<&Path>) -> Result<Appended> {
        Err(Error::unsupported("append"))
    }

    async fn save(
        &self,
        _: &core::DataSource,
        _: SendableRecordBatchStream,
        _: bool,
        _: Option<Note>,
    ) -> Result<u64> {
        Err(Error::unsupported("save"))
    }

    async fn schema(&self, _: &core::DataSource) -> Result<SchemaRef> {
        Ok(Self::batch(Vec::new())?.schema())
    }

    async fn check(&self) -> Result<()> {
        Ok(())
    }
}

/// A registry in memory that holds the sample project, and the online store that follows it.
pub(crate) fn registry() -> (Changes, Arc<Tables>) {
    let mut state = state();
    state
        .metadata
        .push(("project_uuid".to_owned(), "a-uuid".to_owned()));
    let store = MemoryStore::with(state);
    let tables = Arc::new(Tables::default());
    let online = Some(Arc::clone(&tables) as Arc<dyn OnlineStore>);
    (
        Changes {
            registry: Arc::new(Registry::new(Arc::new(store))),
            online,
        },
        tables,
    )
}

/// Remembers which tables it was told to keep and drop, newest last.
#[derive(Default)]
pub(crate) struct Tables {
    pub(crate) log: Mutex<Vec<String>>,
}

impl Tables {
    /// What happened so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().map(|log| log.clone()).unwrap_or_default()
    }
}

#[async_trait]
impl OnlineStore for Tables {
    async fn read(&self, _: &OnlineRead<'_>) -> Result<Vec<RowBatch>> {
        Err(Error::unsupported("read"))
    }

    async fn write(&self, _: &str, _: &Table, _: &WriteBatch, _: OlderRow) -> Result<u64> {
        Err(Error::unsupported("write"))
    }

    async fn provision(&self, project: &str, keep: &[Arc<FeatureView>], drop: &[Table]) -> Result<()> {
        let mut log = self.log.lock().map_err(|_| Error::internal("poisoned"))?;
        log.extend(keep.iter().map(|view| format!("keep {project}.{}", view.name)));
        log.extend(drop.iter().map(|table| format!("drop {project}.{}", table.name)));
        Ok(())
    }

    fn name(&self) -> &'static str {
        "log"
    }

    async fn check(&self) -> Result<()> {
        Ok(())
    }
}

/// The project's name.
pub(crate) const PROJECT: &str = "shop";

/// The project as a catalog.
pub(crate) fn catalog() -> Catalog {
    Catalog::new(Arc::new(state()), None, 1).unwrap_or_default()
}

fn state() -> ProjectState {
    let mut state = ProjectState::empty(PROJECT, Revision("0".to_owned()));
    for object in objects() {
        state.change(&Change::Put(object));
    }
    state
}

/// The objects of the project, without the project itself filled in (as Feast's SQL registry keeps them).
pub(crate) fn objects() -> Vec<Object> {
    vec![
        object(ObjectKind::Project, PROJECT, &project()),
        object(
            ObjectKind::DataSource,
            "trips_file",
            &file("trips_file", "data/trips.parquet"),
        ),
        object(
            ObjectKind::DataSource,
            "trips_push",
            &push("trips_push", "trips_file"),
        ),
        object(ObjectKind::Entity, "driver", &entity()),
        object(ObjectKind::FeatureView, "trips", &feature_view()),
        object(ObjectKind::OnDemandFeatureView, "twice", &on_demand()),
        object(ObjectKind::LabelView, "verdicts", &label_view()),
        object(ObjectKind::FeatureService, "model", &service()),
        object(ObjectKind::SavedDataset, "train", &saved_dataset()),
        object(ObjectKind::Permission, "readers", &permission()),
    ]
}

/// Any message as an object of the sample project.
pub(crate) fn object(kind: ObjectKind, name: &str, message: &impl Message) -> Object {
    let bytes = message.encode_to_vec().into();
    Object {
        kind,
        project: PROJECT.to_owned(),
        name: name.to_owned(),
        bytes,
    }
}

fn tags(key: &str, value: &str) -> BTreeMap<String, String> {
    [(key.to_owned(), value.to_owned())].into()
}

fn project() -> core::Project {
    let spec = core::ProjectSpec {
        name: PROJECT.into(),
        description: "a shop".into(),
        ..Default::default()
    };
    core::Project {
        spec: Some(spec),
        meta: None,
    }
}

fn file(name: &str, uri: &str) -> core::DataSource {
    let options = core::data_source::FileOptions {
        uri: uri.into(),
        ..Default::default()
    };
    core::DataSource {
        name: name.into(),
        r#type: core::data_source::SourceType::BatchFile.into(),
        timestamp_field: "event_timestamp".into(),
        options: Some(core::data_source::Options::FileOptions(options)),
        ..Default::default()
    }
}

fn push(name: &str, batch: &str) -> core::DataSource {
    core::DataSource {
        name: name.into(),
        r#type: core::data_source::SourceType::PushSource.into(),
        batch_source: Some(Box::new(file(batch, &format!("data/{batch}.parquet")))),
        ..Default::default()
    }
}

fn entity() -> core::Entity {
    let spec = core::EntitySpecV2 {
        name: "driver".into(),
        join_key: "driver_id".into(),
        value_type: 4,
        description: "who drives".into(),
        tags: tags("team", "ops"),
        ..Default::default()
    };
    core::Entity {
        spec: Some(spec),
        meta: None,
    }
}

fn field(name: &str, value_type: i32) -> core::FeatureSpecV2 {
    core::FeatureSpecV2 {
        name: name.into(),
        value_type,
        ..Default::default()
    }
}

/// The feature view `trips`.
pub(crate) fn feature_view() -> core::FeatureView {
    let spec = core::FeatureViewSpec {
        name: "trips".into(),
        entities: vec!["driver".into()],
        entity_columns: vec![field("driver_id", 4)],
        features: vec![field("rate", 6), field("count", 4)],
        batch_source: Some(file("trips_file", "data/trips.parquet")),
        stream_source: Some(push("trips_push", "trips_file")),
        online: true,
        tags: tags("team", "ops"),
        ttl: Some(prost_types::Duration {
            seconds: 86_400,
            nanos: 0,
        }),
        ..Default::default()
    };
    let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let meta = core::FeatureViewMeta {
        created_timestamp: at(1_700_000_000),
        last_updated_timestamp: at(1_700_000_100),
        materialization_intervals: vec![core::MaterializationInterval {
            start_time: at(1_700_000_000),
            end_time: at(1_700_000_050),
        }],
        ..Default::default()
    };
    core::FeatureView {
        spec: Some(spec),
        meta: Some(meta),
    }
}

fn on_demand() -> core::OnDemandFeatureView {
    use core::on_demand_source::Source;
    let request = core::DataSource {
        name: "request".into(),
        r#type: core::data_source::SourceType::RequestSource.into(),
        ..Default::default()
    };
    let trips = core::FeatureViewProjection {
        feature_view_name: "trips".into(),
        ..Default::default()
    };
    let source = |source| core::OnDemandSource { source: Some(source) };
    let spec = core::OnDemandFeatureViewSpec {
        name: "twice".into(),
        features: vec![field("doubled", 5)],
        sources: [
            ("a_request".to_owned(), source(Source::RequestDataSource(request))),
            ("trips".to_owned(), source(Source::FeatureViewProjection(trips))),
        ]
        .into(),
        ..Default::default()
    };
    core::OnDemandFeatureView {
        spec: Some(spec),
        meta: None,
    }
}

fn label_view() -> core::LabelView {
    let spec = core::LabelViewSpec {
        name: "verdicts".into(),
        entities: vec!["driver".into()],
        features: vec![field("good", 7)],
        source: Some(push("verdicts_push", "verdicts_file")),
        ..Default::default()
    };
    core::LabelView {
        spec: Some(spec),
        meta: None,
    }
}

fn service() -> core::FeatureService {
    let projection = |view: &str, feature: core::FeatureSpecV2| core::FeatureViewProjection {
        feature_view_name: view.into(),
        feature_columns: vec![feature],
        ..Default::default()
    };
    let spec = core::FeatureServiceSpec {
        name: "model".into(),
        features: vec![
            projection("trips", field("rate", 6)),
            projection("verdicts", field("good", 7)),
        ],
        ..Default::default()
    };
    core::FeatureService {
        spec: Some(spec),
        meta: None,
    }
}

fn saved_dataset() -> core::SavedDataset {
    let file = core::data_source::FileOptions {
        uri: "data/trips.parquet".into(),
        ..Default::default()
    };
    let spec = core::SavedDatasetSpec {
        name: "train".into(),
        features: vec!["trips:rate".into(), "trips:count".into()],
        feature_service_name: "model".into(),
        namespace: "ml".into(),
        storage: Some(core::SavedDatasetStorage {
            kind: Some(core::saved_dataset_storage::Kind::FileStorage(file)),
        }),
        ..Default::default()
    };
    core::SavedDataset {
        spec: Some(spec),
        meta: None,
    }
}

fn permission() -> core::Permission {
    let spec = core::PermissionSpec {
        name: "readers".into(),
        actions: vec![1],
        ..Default::default()
    };
    core::Permission {
        spec: Some(spec),
        meta: None,
    }
}
