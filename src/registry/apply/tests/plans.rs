use super::*;

#[tokio::test]
async fn a_plan_shows_what_execute_does() {
    let f = fixture();
    f.apply(repository()).await.unwrap();
    f.single(object(
        ObjectKind::SavedDataset,
        "ds",
        &core::SavedDataset {
            spec: Some(core::SavedDatasetSpec {
                name: "ds".to_owned(),
                ..Default::default()
            }),
            meta: None,
        },
    ))
    .await
    .unwrap();
    assert!(f.registry.plan(PROJECT, repository()).await.unwrap().is_empty());

    let mut spec = view_spec("weather");
    spec.features = vec![feature("temp", 6), feature("gust", 5)];
    spec.ttl = Some(prost_types::Duration {
        seconds: 60,
        nanos: 0,
    });
    let desired = || {
        vec![
            entity("airport", "origin"),
            entity("plane", "tail"),
            view_of(spec.clone()),
            object(ObjectKind::DataSource, "weather", &file_source("weather")),
        ]
    };
    let plan = f.registry.plan(PROJECT, desired()).await.unwrap();
    let lines: Vec<_> = plan
        .changes
        .iter()
        .map(|c| (c.action, c.name.as_str(), c.version))
        .collect();
    assert_eq!(
        lines,
        [
            (PlannedAction::Delete, "delays", None),
            (PlannedAction::Delete, "headwind", None),
            (PlannedAction::Create, "plane", None),
            (PlannedAction::Update, "weather", Some(1)),
        ]
    );
    let fields = &plan.changes.last().unwrap().fields;
    let paths: Vec<_> = fields.iter().map(|field| field.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "features.temp.value_type",
            "features.wind",
            "features.gust",
            "ttl"
        ]
    );
    let temp = fields.first().unwrap();
    assert_eq!(
        (temp.old.clone().unwrap(), temp.new.clone().unwrap()),
        ("DOUBLE".into(), "FLOAT".into())
    );

    let report = f.registry.execute(&plan, &author()).await.unwrap();
    assert_eq!(
        report
            .objects
            .iter()
            .filter(|o| o.outcome != Outcome::Unchanged)
            .count(),
        4
    );
    assert!(f.registry.plan(PROJECT, desired()).await.unwrap().is_empty());
    let state = f.state().await;
    assert!(
        state.object(ObjectKind::SavedDataset, "ds").is_some(),
        "made at run time, not ours to delete"
    );
    assert!(state.object(ObjectKind::Entity, DUMMY_ENTITY_NAME).is_some());
    assert!(
        state
            .object(ObjectKind::OnDemandFeatureView, "headwind")
            .is_none()
    );
}

#[tokio::test]
async fn a_view_may_change_its_kind_in_one_plan() {
    let f = fixture();
    f.apply(repository()).await.unwrap();
    let desired = vec![
        view("base"),
        on_demand("weather", "base", "x"),
        entity("airport", "origin"),
    ];
    let plan = f.registry.plan(PROJECT, desired).await.unwrap();
    f.registry.execute(&plan, &author()).await.unwrap();
    let state = f.state().await;
    assert!(state.object(ObjectKind::OnDemandFeatureView, "weather").is_some());
    assert!(state.object(ObjectKind::FeatureView, "weather").is_none());
    let kinds: Vec<_> = state
        .versions
        .iter()
        .filter(|v| v.view == "weather")
        .map(|v| (v.kind, v.number))
        .collect();
    assert_eq!(kinds, [(ObjectKind::OnDemandFeatureView, 0)]);
}

#[tokio::test]
async fn a_plan_that_has_become_another_is_not_executed() {
    let f = fixture();
    f.apply(repository()).await.unwrap();
    let mut desired = repository();
    desired.push(entity("plane", "tail"));
    let plan = f.registry.plan(PROJECT, desired).await.unwrap();
    f.single(entity("plane", "other_key")).await.unwrap();
    let error = f.registry.execute(&plan, &author()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert!(error.message().contains("entity `plane`"), "{error}");
    // A run that was recorded meanwhile is no reason to plan again.
    let plan = f.registry.plan(PROJECT, repository()).await.unwrap();
    f.registry
        .record_materialization(PROJECT, "weather", interval(1, 2))
        .await
        .unwrap();
    f.registry.execute(&plan, &author()).await.unwrap();
}
