use super::*;

#[tokio::test]
async fn versions_follow_significant_changes_only() {
    let f = fixture();
    let report = f.apply(repository()).await.unwrap();
    let version = |report: &ApplyReport| {
        report
            .objects
            .iter()
            .find(|o| o.kind.is_view() && o.name == "weather")
            .unwrap()
            .version
    };
    assert_eq!(version(&report), Some(0));

    let mut spec = view_spec("weather");
    spec.ttl = Some(prost_types::Duration {
        seconds: 60,
        nanos: 0,
    });
    spec.features.reverse();
    assert_eq!(
        f.single(view_of(spec.clone())).await.unwrap().version,
        None,
        "settings and order"
    );
    spec.features.push(feature("humid", 5));
    assert_eq!(f.single(view_of(spec.clone())).await.unwrap().version, Some(1));
    spec.owner = "ops".to_owned();
    assert_eq!(f.single(view_of(spec.clone())).await.unwrap().version, None);
    let active = f.feature_view("weather").await;
    assert_eq!(
        active.meta.unwrap().current_version_number,
        1,
        "a small change does not forget the version"
    );

    // Back to v0: the definition that was active before is what the client still has.
    let mut pin = spec.clone();
    pin.version = "version0".to_owned();
    f.single(view_of(pin.clone())).await.unwrap();
    let restored = f.feature_view("weather").await;
    assert_eq!(restored.spec.as_ref().unwrap().features.len(), 2);
    assert_eq!(restored.meta.unwrap().current_version_number, 0);
    pin.features.push(feature("dew", 5));
    let error = f.single(view_of(pin)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::FeatureViewPinConflict);
    assert!(
        error
            .message()
            .starts_with("Cannot pin feature view 'weather' to v0 because"),
        "{error}"
    );

    // A number of its own choosing, and on from there.
    spec.version = "V9".to_owned();
    spec.features.push(feature("dew", 5));
    assert_eq!(f.single(view_of(spec.clone())).await.unwrap().version, Some(9));
    spec.version = "latest".to_owned();
    spec.features.pop();
    assert_eq!(f.single(view_of(spec.clone())).await.unwrap().version, Some(10));
    let numbers: Vec<_> = f
        .state()
        .await
        .versions
        .iter()
        .filter(|v| v.view == "weather")
        .map(|v| v.number)
        .collect();
    assert_eq!(numbers, [0, 1, 9, 10]);

    spec.version = "newest".to_owned();
    let error = f.single(view_of(spec)).await.unwrap_err();
    assert!(
        error.message().contains("Invalid version string 'newest'"),
        "{error}"
    );
}

#[tokio::test]
async fn the_code_of_an_on_demand_view_is_its_text() {
    let f = fixture();
    f.apply(repository()).await.unwrap();
    let mut pickled_anew: core::OnDemandFeatureView =
        on_demand("headwind", "weather", "a + b").decode().unwrap();
    let spec = pickled_anew.spec.as_mut().unwrap();
    if let Some(core::feature_transformation_v2::Transformation::UserDefinedFunction(udf)) = spec
        .feature_transformation
        .as_mut()
        .and_then(|t| t.transformation.as_mut())
    {
        udf.body = Bytes::from_static(b"another pickle");
    }
    let applied = f
        .single(object(ObjectKind::OnDemandFeatureView, "headwind", &pickled_anew))
        .await
        .unwrap();
    assert_eq!((applied.outcome, applied.version), (Outcome::Updated, None));
    let applied = f.single(on_demand("headwind", "weather", "a - b")).await.unwrap();
    assert_eq!((applied.outcome, applied.version), (Outcome::Updated, Some(1)));
}

#[tokio::test]
async fn a_pinned_view_is_in_the_state_it_is_in_now() {
    let f = fixture();
    f.apply(repository()).await.unwrap();
    f.registry
        .record_materialization(PROJECT, "weather", interval(1, 2))
        .await
        .unwrap();
    f.registry
        .set_state(PROJECT, "weather", FeatureViewState::Materializing, &author())
        .await
        .unwrap();
    let mut spec = view_spec("weather");
    spec.features.push(feature("dew", 5));
    assert_eq!(
        f.single(view_of(spec.clone())).await.unwrap().version,
        Some(1),
        "a snapshot in the middle of a run"
    );
    f.registry
        .record_materialization(PROJECT, "weather", interval(2, 3))
        .await
        .unwrap();
    spec.version = "v1".to_owned();
    f.single(view_of(spec)).await.unwrap();
    let meta = f.feature_view("weather").await.meta.unwrap();
    assert_eq!(meta.state(), FeatureViewState::AvailableOnline);
    assert_eq!(meta.materialization_intervals.len(), 2);
}
