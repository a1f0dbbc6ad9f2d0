#![expect(clippy::unwrap_used, reason = "tests")]

mod plans;
mod refusals;
mod rollbacks;
mod versions;

use std::sync::Arc;

use prost::Message;

use super::*;
use crate::{
    error::{Error, Kind},
    model::{Interval, wire},
    proto::feast::core::{self, FeatureViewState, data_source::SourceType, on_demand_source::Source},
    registry::store::{RegistryStore, file::FileStore},
};

const PROJECT: &str = "flights";

struct Fixture {
    registry: Registry,
    store: Arc<FileStore>,
    _directory: tempfile::TempDir,
}

fn author() -> Author {
    Author::anonymous("test")
}

fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let opened = FileStore::open(directory.path().join("registry.db"));
    let store = Arc::new(futures::executor::block_on(opened).unwrap());
    Fixture {
        registry: Registry::new(Arc::clone(&store) as _),
        store,
        _directory: directory,
    }
}

impl Fixture {
    async fn apply(&self, objects: Vec<Object>) -> Result<ApplyReport> {
        self.registry
            .apply(PROJECT, objects, ApplyMode::Repository, &author())
            .await
    }

    async fn single(&self, object: Object) -> Result<Applied> {
        Ok(self
            .registry
            .apply(PROJECT, vec![object], ApplyMode::Single, &author())
            .await?
            .objects
            .pop()
            .unwrap())
    }

    async fn state(&self) -> Arc<ProjectState> {
        self.store.load(PROJECT).await.unwrap()
    }

    async fn feature_view(&self, name: &str) -> core::FeatureView {
        self.state()
            .await
            .object(ObjectKind::FeatureView, name)
            .unwrap()
            .decode()
            .unwrap()
    }
}

fn object(kind: ObjectKind, name: &str, message: &impl Message) -> Object {
    Object {
        kind,
        project: String::new(),
        name: name.to_owned(),
        bytes: message.encode_to_vec().into(),
    }
}

fn entity(name: &str, join_key: &str) -> Object {
    let spec = core::EntitySpecV2 {
        name: name.to_owned(),
        join_key: join_key.to_owned(),
        ..Default::default()
    };
    object(
        ObjectKind::Entity,
        name,
        &core::Entity {
            spec: Some(spec),
            meta: None,
        },
    )
}

fn feature(name: &str, value_type: i32) -> core::FeatureSpecV2 {
    core::FeatureSpecV2 {
        name: name.to_owned(),
        value_type,
        ..Default::default()
    }
}

fn file_source(name: &str) -> core::DataSource {
    core::DataSource {
        r#type: SourceType::BatchFile as i32,
        name: name.to_owned(),
        timestamp_field: "event_timestamp".to_owned(),
        ..Default::default()
    }
}

fn view_spec(name: &str) -> core::FeatureViewSpec {
    core::FeatureViewSpec {
        name: name.to_owned(),
        entities: vec!["airport".to_owned()],
        features: vec![feature("temp", 5), feature("wind", 5)],
        entity_columns: vec![feature("origin", 2)],
        batch_source: Some(file_source(name)),
        online: true,
        ..Default::default()
    }
}

fn view_of(spec: core::FeatureViewSpec) -> Object {
    let name = spec.name.clone();
    object(
        ObjectKind::FeatureView,
        &name,
        &core::FeatureView {
            spec: Some(spec),
            meta: None,
        },
    )
}

fn view(name: &str) -> Object {
    view_of(view_spec(name))
}

fn service(name: &str, view: &str, features: &[&str]) -> Object {
    let projection = core::FeatureViewProjection {
        feature_view_name: view.to_owned(),
        feature_columns: features.iter().map(|name| feature(name, 0)).collect(),
        ..Default::default()
    };
    let spec = core::FeatureServiceSpec {
        name: name.to_owned(),
        features: vec![projection],
        ..Default::default()
    };
    object(
        ObjectKind::FeatureService,
        name,
        &core::FeatureService {
            spec: Some(spec),
            meta: None,
        },
    )
}

fn on_demand(name: &str, view: &str, code: &str) -> Object {
    use core::feature_transformation_v2::Transformation;
    let projection = core::FeatureViewProjection {
        feature_view_name: view.to_owned(),
        ..Default::default()
    };
    let source = core::OnDemandSource {
        source: Some(Source::FeatureViewProjection(projection)),
    };
    let udf = core::UserDefinedFunctionV2 {
        name: "f".to_owned(),
        body: code.as_bytes().to_vec().into(),
        body_text: code.to_owned(),
        ..Default::default()
    };
    let spec = core::OnDemandFeatureViewSpec {
        name: name.to_owned(),
        features: vec![feature("headwind", 5)],
        sources: [(view.to_owned(), source)].into(),
        feature_transformation: Some(core::FeatureTransformationV2 {
            transformation: Some(Transformation::UserDefinedFunction(udf)),
        }),
        mode: "python".to_owned(),
        ..Default::default()
    };
    object(
        ObjectKind::OnDemandFeatureView,
        name,
        &core::OnDemandFeatureView {
            spec: Some(spec),
            meta: None,
        },
    )
}

fn repository() -> Vec<Object> {
    vec![
        service("delays", "weather", &["temp"]),
        on_demand("headwind", "weather", "a + b"),
        view("weather"),
        entity("airport", "origin"),
        object(ObjectKind::DataSource, "weather", &file_source("weather")),
    ]
}

fn interval(start: i64, end: i64) -> Interval {
    Interval {
        start: DateTime::from_timestamp(start, 0).unwrap(),
        end: DateTime::from_timestamp(end, 0).unwrap(),
    }
}

fn outcomes(report: &ApplyReport) -> Vec<(&str, Outcome)> {
    report
        .objects
        .iter()
        .map(|object| (object.name.as_str(), object.outcome))
        .collect()
}

#[tokio::test]
async fn a_repository_is_created_once_and_then_unchanged() {
    let f = fixture();
    let report = f.apply(repository()).await.unwrap();
    assert_eq!(report.objects.len(), 6, "{report:?}");
    assert!(
        report
            .objects
            .iter()
            .all(|object| object.outcome == Outcome::Created)
    );
    let before = f.state().await;
    assert!(before.object(ObjectKind::Project, PROJECT).is_some());
    let stored = before.object(ObjectKind::Entity, DUMMY_ENTITY_NAME).unwrap();
    assert_eq!(wire::text(&stored.bytes, &[1, 4]).unwrap(), "__dummy_id");

    let again = f.apply(repository()).await.unwrap();
    assert!(!again.is_changed(), "{again:?}");
    let after = f.state().await;
    assert_eq!(before.revision, after.revision, "nothing was written");

    let service: core::FeatureService = after
        .object(ObjectKind::FeatureService, "delays")
        .unwrap()
        .decode()
        .unwrap();
    let columns = &service
        .spec
        .unwrap()
        .features
        .first()
        .unwrap()
        .feature_columns
        .clone();
    assert_eq!(columns, &[feature("temp", 5)], "the type comes from the view");
}

#[tokio::test]
async fn an_update_keeps_creation_state_and_intervals() {
    let f = fixture();
    f.apply(repository()).await.unwrap();
    let created = f
        .feature_view("weather")
        .await
        .meta
        .unwrap()
        .created_timestamp
        .unwrap();
    f.registry
        .record_materialization(PROJECT, "weather", interval(10, 20))
        .await
        .unwrap();
    // A client reads the view now and sends it back after another run.
    let read = f.feature_view("weather").await;
    f.registry
        .record_materialization(PROJECT, "weather", interval(20, 30))
        .await
        .unwrap();

    let mut spec = view_spec("weather");
    spec.description = "hourly".to_owned();
    let applied = f.single(view_of(spec)).await.unwrap();
    assert_eq!((applied.outcome, applied.version), (Outcome::Updated, None));
    let meta = f.feature_view("weather").await.meta.unwrap();
    assert_eq!(meta.created_timestamp.unwrap(), created);
    assert_eq!(meta.state(), FeatureViewState::AvailableOnline);
    assert_eq!(meta.materialization_intervals.len(), 2);

    let mut stale = read;
    stale.spec.as_mut().unwrap().owner = "ops".to_owned();
    f.single(object(ObjectKind::FeatureView, "weather", &stale))
        .await
        .unwrap();
    let kept = f.feature_view("weather").await;
    assert_eq!(kept.spec.unwrap().owner, "ops");
    let ends: Vec<_> = kept
        .meta
        .unwrap()
        .materialization_intervals
        .iter()
        .map(|i| i.end_time.unwrap().seconds)
        .collect();
    assert_eq!(
        ends,
        [20, 30],
        "what ran in between is not lost, nothing is there twice"
    );
}

#[tokio::test]
async fn times_of_embedded_sources_and_client_clocks_are_no_change() {
    let f = fixture();
    f.apply(repository()).await.unwrap();
    let mut sent = f.feature_view("weather").await;
    let time = prost_types::Timestamp {
        seconds: 77,
        nanos: 0,
    };
    sent.meta.as_mut().unwrap().last_updated_timestamp = Some(time);
    let source = sent.spec.as_mut().unwrap().batch_source.as_mut().unwrap();
    source.meta = Some(core::data_source::SourceMeta {
        created_timestamp: Some(time),
        ..Default::default()
    });
    let applied = f
        .single(object(ObjectKind::FeatureView, "weather", &sent))
        .await
        .unwrap();
    assert_eq!(applied.outcome, Outcome::Unchanged);
}

#[tokio::test]
async fn unknown_fields_survive_and_count() {
    let f = fixture();
    f.apply(repository()).await.unwrap();
    let mut future = view("weather");
    let mut bytes = future.bytes.to_vec();
    wire::write_bytes(900, b"new", &mut bytes);
    future.bytes = bytes.into();
    assert_eq!(f.single(future.clone()).await.unwrap().outcome, Outcome::Updated);
    assert_eq!(f.single(future).await.unwrap().outcome, Outcome::Unchanged);
    f.registry
        .set_enabled(PROJECT, "weather", false, &author())
        .await
        .unwrap();
    let state = f.state().await;
    let stored = state.object(ObjectKind::FeatureView, "weather").unwrap();
    assert_eq!(
        wire::get(&stored.bytes, &[900])
            .unwrap()
            .unwrap()
            .content()
            .unwrap(),
        b"new"
    );
    assert!(f.feature_view("weather").await.spec.unwrap().disabled);
}

#[tokio::test]
async fn a_repository_with_mistakes_is_refused_whole_and_all_are_told() {
    let f = fixture();
    let mut keyless = view_spec("keyless");
    keyless.entities = vec!["nobody".to_owned()];
    let mut twice = view_spec("twice");
    twice.entities = vec!["airport".to_owned(), "tower".to_owned()];
    let mut typed = entity("plane", "tail");
    typed.bytes = wire::set(&typed.bytes, &[1, 2], wire::Put::Varint(4))
        .unwrap()
        .into();
    let mut mistyped = view_spec("mistyped");
    mistyped.entities = vec!["plane".to_owned()];
    mistyped.entity_columns = vec![feature("tail", 2)];
    let mut source = file_source("confused");
    source
        .created_timestamp_column
        .clone_from(&source.timestamp_field);
    let mut objects = repository();
    objects.extend([
        view_of(keyless),
        view_of(twice),
        view_of(mistyped),
        typed,
        entity("tower", "origin"),
        view("a:b"),
        view("WEATHER"),
        object(ObjectKind::DataSource, "confused", &source),
        object(ObjectKind::DataSource, "Weather", &file_source("Weather")),
        on_demand("orphan", "nothing", "x"),
        service("broken", "weather", &["colour"]),
    ]);
    let error = f.apply(objects).await.unwrap_err();
    for part in [
        "entity `nobody`, which does not exist",
        "share a join key",
        "must not contain ':'",
        "Multiple FeatureViews with name 'WEATHER'",
        "'timestamp_field' and 'created_timestamp_column'",
        "case-insensitive name weather",
        "feature view `nothing`, which does not exist",
        "Entity plane has type Int64, which does not match the inferred type String.",
        "feature view `weather` has no feature `colour`",
        "9 problems",
    ] {
        assert!(error.message().contains(part), "`{part}` is missing in {error}");
    }
    assert!(f.state().await.is_empty(), "nothing was written");
}

#[tokio::test]
async fn one_name_serves_one_view() {
    let f = fixture();
    f.apply(repository()).await.unwrap();
    for mode in [ApplyMode::Single, ApplyMode::Repository] {
        let objects = vec![on_demand("weather", "headwind", "x")];
        let error = f
            .registry
            .apply(PROJECT, objects, mode, &author())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), Kind::ConflictingFeatureViewNames);
        assert!(
            error
                .message()
                .contains("is already used by a FeatureView. Cannot register a OnDemandFeatureView")
        );
    }
    let error = f.apply(vec![view("Weather")]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::ConflictingFeatureViewNames);
}

#[tokio::test]
async fn feasts_order_of_single_applies_is_accepted() {
    let f = fixture();
    // Views before entities, a renamed view before the deletion of the old one.
    for object in [
        view("weather"),
        entity("airport", "origin"),
        service("delays", "weather", &["temp"]),
        view("climate"),
    ] {
        f.single(object).await.unwrap();
    }
    f.registry
        .delete(PROJECT, ObjectKind::FeatureView, "weather", &author())
        .await
        .unwrap();
    let error = f.single(service("late", "gone", &["x"])).await.unwrap_err();
    assert_eq!(
        error.message(),
        "Feature view 'gone' not found in project 'flights'"
    );
    let mut sourceless = file_source("s");
    sourceless.r#type = 0;
    f.single(object(ObjectKind::DataSource, "s", &sourceless))
        .await
        .unwrap_err();
    let error = f
        .single(Object {
            bytes: Bytes::from_static(b"\x0a\x7f"),
            ..view("bad")
        })
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument);
}

#[tokio::test]
async fn entityless_views_get_the_dummy() {
    let f = fixture();
    let mut spec = view_spec("global");
    spec.entities.clear();
    spec.entity_columns.clear();
    f.apply(vec![view_of(spec)]).await.unwrap();
    let stored = f.feature_view("global").await.spec.unwrap();
    assert_eq!(stored.entities, [DUMMY_ENTITY_NAME]);
    assert_eq!(stored.entity_columns.first().unwrap().name, "__dummy_id");
}

#[tokio::test]
async fn state_moves_along_feasts_table() {
    let f = fixture();
    f.apply(repository()).await.unwrap();
    use FeatureViewState::{AvailableOnline, Created, Generated, Materializing};
    for state in [Created, Generated, Materializing, AvailableOnline, Materializing] {
        f.registry
            .set_state(PROJECT, "weather", state, &author())
            .await
            .unwrap();
    }
    let error = f
        .registry
        .set_state(PROJECT, "weather", Created, &author())
        .await
        .unwrap_err();
    assert_eq!(
        error.message(),
        "Invalid state transition: MATERIALIZING -> CREATED. Allowed transitions from MATERIALIZING: \
         AVAILABLE_ONLINE, GENERATED."
    );
    f.registry
        .set_state(PROJECT, "headwind", Created, &author())
        .await
        .unwrap();
    let missing = f
        .registry
        .set_state(PROJECT, "gone", Created, &author())
        .await
        .unwrap_err();
    assert_eq!(missing.kind(), Kind::FeatureViewNotFound);
}

#[tokio::test]
async fn materialization_belongs_to_stored_views() {
    let f = fixture();
    f.apply(repository()).await.unwrap();
    let record = |name: &'static str| f.registry.record_materialization(PROJECT, name, interval(1, 2));
    assert_eq!(
        record("headwind").await.unwrap_err().kind(),
        Kind::InvalidArgument
    );
    assert_eq!(
        record("gone").await.unwrap_err().kind(),
        Kind::FeatureViewNotFound
    );
    record("weather").await.unwrap();
    record("weather").await.unwrap();
    let meta = f.feature_view("weather").await.meta.unwrap();
    assert_eq!(
        meta.materialization_intervals.len(),
        2,
        "as in Feast, never merged"
    );
    assert_eq!(meta.state(), FeatureViewState::AvailableOnline);
    let catalog = f.registry.catalog(PROJECT).await.unwrap();
    assert_eq!(
        catalog.stored_view("weather").unwrap().intervals.len(),
        2,
        "visible at once"
    );
}

#[tokio::test]
async fn deletions() {
    let f = fixture();
    f.apply(repository()).await.unwrap();
    f.registry
        .delete(PROJECT, ObjectKind::FeatureView, "headwind", &author())
        .await
        .unwrap();
    assert!(
        f.state()
            .await
            .object(ObjectKind::OnDemandFeatureView, "headwind")
            .is_none()
    );
    let errors: Vec<Error> = vec![
        f.registry
            .delete(PROJECT, ObjectKind::FeatureView, "headwind", &author())
            .await
            .unwrap_err(),
        f.registry
            .delete(PROJECT, ObjectKind::Entity, "nobody", &author())
            .await
            .unwrap_err(),
        f.registry.delete_project("nothing", &author()).await.unwrap_err(),
    ];
    let kinds: Vec<_> = errors.iter().map(Error::kind).collect();
    assert_eq!(
        kinds,
        [
            Kind::FeatureViewNotFound,
            Kind::EntityNotFound,
            Kind::ProjectNotFound
        ]
    );
    f.registry
        .put_infra(PROJECT, Bytes::from_static(b""))
        .await
        .unwrap();
    f.registry.set_metadata(PROJECT, "k", "v").await.unwrap();
    assert!(
        f.state()
            .await
            .metadata
            .contains(&("k".to_owned(), "v".to_owned()))
    );
    f.registry.delete_project(PROJECT, &author()).await.unwrap();
    assert!(f.state().await.is_empty());
    assert!(f.registry.projects().await.unwrap().is_empty());
    let report = f.apply(repository()).await.unwrap();
    assert!(
        report
            .objects
            .iter()
            .all(|object| object.outcome == Outcome::Created),
        "{:?}",
        outcomes(&report)
    );
}

#[tokio::test]
async fn names_of_projects() {
    let f = fixture();
    let error = f
        .registry
        .apply("-p", vec![entity("e", "k")], ApplyMode::Repository, &author())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument);
    assert!(
        is_project_name("a-b_2") && !is_project_name("_a") && !is_project_name("a b") && !is_project_name("")
    );
}
