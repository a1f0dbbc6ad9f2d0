use super::*;
use crate::registry::store::{history::HistoryPage, memory::MemoryStore};

struct Past {
    registry: Registry,
    store: Arc<MemoryStore>,
}

/// Entries: 1 a repository, 2 a view with another schema, 3 a service deleted and an entity added.
async fn past() -> Past {
    let store = Arc::new(MemoryStore::default());
    let past = Past {
        registry: Registry::new(Arc::clone(&store) as _),
        store,
    };
    past.apply(repository()).await;
    let mut spec = view_spec("weather");
    spec.features = vec![feature("temp", 5), feature("wind", 5), feature("gust", 5)];
    past.apply(vec![view_of(spec)]).await;
    let desired = |object: &Object| {
        object.name != "delays" && (object.name != "weather" || object.kind == ObjectKind::DataSource)
    };
    let mut objects: Vec<Object> = repository().into_iter().filter(desired).collect();
    let mut spec = view_spec("weather");
    spec.features = vec![feature("temp", 5), feature("wind", 5), feature("gust", 5)];
    objects.extend([view_of(spec), entity("plane", "tail")]);
    let plan = past.registry.plan(PROJECT, objects).await.unwrap();
    past.registry.execute(&plan, &author()).await.unwrap();
    past
}

impl Past {
    async fn apply(&self, objects: Vec<Object>) {
        self.registry
            .apply(PROJECT, objects, ApplyMode::Repository, &author())
            .await
            .unwrap();
    }

    async fn state(&self) -> Arc<ProjectState> {
        self.store.load(PROJECT).await.unwrap()
    }

    async fn numbers(&self) -> Vec<u64> {
        let page = HistoryPage {
            before: None,
            limit: 100,
        };
        let entries = self.registry.history(PROJECT, page).await.unwrap();
        entries.iter().map(|entry| entry.number).collect()
    }

    async fn back(&self, to: u64) -> Result<ApplyReport> {
        let rollback = self.registry.plan_rollback(PROJECT, to).await?;
        self.registry.roll_back(&rollback, &author()).await
    }
}

fn lines(changes: &[PlannedChange]) -> Vec<(PlannedAction, &str)> {
    let shown =
        |change: &&PlannedChange| change.name != DUMMY_ENTITY_NAME && change.kind != ObjectKind::Project;
    let shown = changes.iter().filter(shown);
    shown
        .map(|change| (change.action, change.name.as_str()))
        .collect()
}

#[tokio::test]
async fn differences_between_entries_are_shown() {
    let past = past().await;
    assert_eq!(past.numbers().await, [3, 2, 1]);
    let changes = past.registry.diff(PROJECT, 1, Some(2)).await.unwrap();
    assert_eq!(lines(&changes), [(PlannedAction::Update, "weather")]);
    let paths: Vec<_> = changes.iter().flat_map(|change| &change.fields).collect();
    assert_eq!(paths.len(), 1);
    assert_eq!(paths.first().unwrap().path, "features.gust");
    let changes = past.registry.diff(PROJECT, 1, None).await.unwrap();
    assert_eq!(
        lines(&changes),
        [
            (PlannedAction::Update, "weather"),
            (PlannedAction::Delete, "delays"),
            (PlannedAction::Create, "plane"),
        ]
    );
    assert!(past.registry.diff(PROJECT, 3, None).await.unwrap().is_empty());
    for (from, to) in [(4, None), (1, Some(9)), (2, Some(1))] {
        let error = past.registry.diff(PROJECT, from, to).await.unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument, "{from} {to:?}: {error}");
    }
}

#[tokio::test]
async fn going_back_makes_the_project_what_it_was() {
    let past = past().await;
    let interval = Interval {
        start: DateTime::from_timestamp(1_700_000_000, 0).unwrap(),
        end: DateTime::from_timestamp(1_700_003_600, 0).unwrap(),
    };
    past.registry
        .record_materialization(PROJECT, "weather", interval)
        .await
        .unwrap();
    let report = past.back(1).await.unwrap();
    assert!(report.is_changed());
    let state = past.state().await;
    let weather: core::FeatureView = state
        .object(ObjectKind::FeatureView, "weather")
        .unwrap()
        .decode()
        .unwrap();
    assert_eq!(weather.spec.unwrap().features.len(), 2);
    let meta = weather.meta.unwrap();
    assert_eq!(meta.materialization_intervals.len(), 1, "what was run stays");
    assert_eq!(meta.state, FeatureViewState::AvailableOnline as i32);
    assert_eq!(
        meta.current_version_number, 2,
        "another schema is another version"
    );
    assert!(state.object(ObjectKind::FeatureService, "delays").is_some());
    assert!(state.object(ObjectKind::Entity, "plane").is_none());
    assert_eq!(past.numbers().await, [4, 3, 2, 1], "going back is an entry too");

    past.back(3).await.unwrap();
    let state = past.state().await;
    assert!(
        state.object(ObjectKind::Entity, "plane").is_some(),
        "and can be undone"
    );
    assert!(!past.back(5).await.unwrap().is_changed());
}

#[tokio::test]
async fn a_deleted_project_comes_back_with_its_versions() {
    let past = past().await;
    let before = past.state().await;
    past.registry.delete_project(PROJECT, &author()).await.unwrap();
    assert!(past.state().await.is_empty());
    past.back(3).await.unwrap();
    let after = past.state().await;
    let uuid = |state: &ProjectState| {
        state
            .metadata
            .iter()
            .find(|(key, _)| key == "project_uuid")
            .cloned()
    };
    assert_eq!(uuid(&after), uuid(&before));
    assert!(uuid(&after).is_some());
    for version in &before.versions {
        assert!(after.versions.contains(version), "{version:?}");
    }
    let names = |state: &ProjectState| {
        let mut names: Vec<_> = state.objects.iter().map(|o| (o.kind, o.name.clone())).collect();
        names.sort();
        names
    };
    assert_eq!(names(&after), names(&before));
}

#[tokio::test]
async fn going_back_to_before_everything_removes_the_project() {
    let past = past().await;
    past.back(0).await.unwrap();
    assert!(past.state().await.is_empty());
    past.back(3).await.unwrap();
    assert!(
        past.state()
            .await
            .object(ObjectKind::FeatureView, "weather")
            .is_some()
    );
}

#[tokio::test]
async fn what_changed_without_an_entry_is_not_overwritten() {
    let past = past().await;
    let mut spec = view_spec("weather");
    spec.description = "changed by somebody else".to_owned();
    let put = Change::Put(view_of(spec));
    past.registry
        .update(PROJECT, None, &mut |_| Ok(vec![put.clone()]))
        .await
        .unwrap();
    let before = past.state().await;
    let error = past.back(1).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert!(error.message().contains("`weather`"), "{error}");
    assert!(Arc::ptr_eq(&before, &past.state().await), "nothing has changed");
}
