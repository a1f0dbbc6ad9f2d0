//! What is refused beyond Feast's rules, and that a refusal changes nothing.

use super::*;

/// A project with the view `weather`, materialized once.
async fn materialized() -> Fixture {
    let f = fixture();
    f.apply(repository()).await.unwrap();
    let at = |hour: i64| DateTime::from_timestamp(3600 * hour, 0).unwrap();
    let interval = Interval {
        start: at(1),
        end: at(2),
    };
    f.registry
        .record_materialization(PROJECT, "weather", interval)
        .await
        .unwrap();
    f
}

async fn refused(f: &Fixture, object: Object, says: &[&str]) {
    let before = f.state().await;
    let error = f.single(object).await.unwrap_err();
    assert!(error.kind().is_callers_fault(), "{error}");
    for words in says {
        assert!(
            error.one_line().contains(words),
            "`{words}` is not in: {}",
            error.one_line()
        );
    }
    assert!(
        Arc::ptr_eq(&before, &f.state().await),
        "a refusal changes nothing"
    );
}

fn typed(name: &str, value_type: i32) -> core::FeatureViewSpec {
    let mut spec = view_spec("weather");
    for feature in spec.features.iter_mut().filter(|feature| feature.name == name) {
        feature.value_type = value_type;
    }
    spec
}

#[tokio::test]
async fn stored_values_stay_readable() {
    let f = materialized().await;
    let says = ["weather", "temp", "Float64", "String", "thali.allow-type-change"];
    refused(&f, view_of(typed("temp", 2)), &says).await;

    let mut other_key = view_spec("weather");
    other_key.entity_columns = vec![feature("origin", 4)];
    refused(&f, view_of(other_key), &["origin", "String", "Int64"]).await;
    let mut more_keys = view_spec("weather");
    more_keys.entities.push("carrier".to_owned());
    more_keys.entity_columns.push(feature("carrier", 2));
    refused(&f, view_of(more_keys), &["join keys", "carrier, origin"]).await;
    refused(
        &f,
        entity("airport", "code"),
        &["airport", "weather", "origin", "code"],
    )
    .await;

    // New features, missing ones and other settings are no change of type.
    let mut harmless = view_spec("weather");
    harmless.features = vec![feature("temp", 5), feature("dew", 2)];
    harmless.owner = "ops".to_owned();
    f.single(view_of(harmless.clone())).await.unwrap();
    harmless.features.reverse();
    f.single(view_of(harmless)).await.unwrap();

    // Whoever says so may, and so may who asks for a version.
    let mut free = typed("temp", 2);
    free.tags
        .insert("thali.allow-type-change".to_owned(), "true".to_owned());
    f.single(view_of(free)).await.unwrap();
    let mut pinned = view_spec("weather");
    pinned.version = "v0".to_owned();
    f.single(view_of(pinned)).await.unwrap();
}

#[tokio::test]
async fn types_may_widen_and_may_change_before_anything_is_stored() {
    let f = fixture();
    f.apply(repository()).await.unwrap();
    f.single(view_of(typed("temp", 3))).await.unwrap();
    let at = |hour: i64| DateTime::from_timestamp(3600 * hour, 0).unwrap();
    let interval = Interval {
        start: at(1),
        end: at(2),
    };
    f.registry
        .record_materialization(PROJECT, "weather", interval)
        .await
        .unwrap();
    f.single(view_of(typed("temp", 4))).await.unwrap();
    refused(&f, view_of(typed("temp", 3)), &["Int64", "Int32"]).await;

    // Made anew there is nothing stored.
    f.registry
        .delete(PROJECT, ObjectKind::FeatureView, "weather", &author())
        .await
        .unwrap();
    f.single(view_of(typed("temp", 2))).await.unwrap();
}

#[tokio::test]
async fn names_that_cannot_be_stored_or_told_apart() {
    let f = fixture();
    f.apply(repository()).await.unwrap();
    let long = "x".repeat(256);
    refused(&f, entity(&long, "k"), &["256 characters", "255"]).await;
    f.single(entity(&"é".repeat(255), "k")).await.unwrap();
    refused(&f, entity("tab\there", "k"), &["control character", "tab\\there"]).await;
    refused(&f, entity(" blank", "k"), &["blank"]).await;
    refused(
        &f,
        entity("Airport", "k"),
        &["Airport", "airport", "delete it first"],
    )
    .await;
    refused(&f, view_of(view_spec("Weather")), &["case-insensitively unique"]).await;
    let source = file_source("WEATHER");
    f.single(object(ObjectKind::DataSource, "weather", &file_source("weather")))
        .await
        .unwrap();
    refused(
        &f,
        object(ObjectKind::DataSource, "WEATHER", &source),
        &["weather"],
    )
    .await;
}

#[tokio::test]
async fn features_have_one_name_each_which_no_join_key_has() {
    let f = fixture();
    f.apply(repository()).await.unwrap();
    let with = |more: core::FeatureSpecV2| {
        let mut spec = view_spec("other");
        spec.features.push(more);
        view_of(spec)
    };
    refused(&f, with(feature("temp", 5)), &["temp", "twice"]).await;
    refused(&f, with(feature("origin", 2)), &["origin", "join key"]).await;
    refused(&f, with(feature("", 2)), &["no name"]).await;
    refused(&f, with(feature("a\u{0}b", 2)), &["control character"]).await;
}

#[tokio::test]
async fn on_demand_views_do_not_go_in_circles() {
    let f = fixture();
    let mut objects = repository();
    objects.push(on_demand("first", "headwind", "x"));
    objects.push(on_demand("second", "first", "x"));
    f.apply(objects.clone()).await.unwrap();
    let says = [
        "`first`",
        "computed from itself",
        "`first` needs `second` needs `first`",
    ];
    refused(&f, on_demand("first", "second", "x"), &says).await;
    refused(&f, on_demand("first", "first", "x"), &["`first` needs `first`"]).await;
    // Nor does a whole repository.
    objects.push(on_demand("third", "fourth", "x"));
    objects.push(on_demand("fourth", "third", "x"));
    let error = f.apply(objects).await.unwrap_err();
    assert!(
        error.one_line().contains("`third` needs `fourth` needs `third`"),
        "{error}"
    );
}

#[tokio::test]
async fn what_is_not_stored_has_no_join_keys_to_map() {
    let f = fixture();
    let mapped = |view: &str| {
        let mut service: core::FeatureService = service("mapped", view, &[]).decode().unwrap();
        let projection = &mut service.spec.as_mut().unwrap().features[0];
        projection.join_key_map = [("origin".to_owned(), "dest".to_owned())].into();
        object(ObjectKind::FeatureService, "mapped", &service)
    };
    let with = |object| repository().into_iter().chain([object]).collect::<Vec<_>>();
    let error = f.apply(with(mapped("headwind"))).await.unwrap_err();
    assert!(error.one_line().contains("`headwind` is not stored"), "{error}");
    f.apply(with(mapped("weather"))).await.unwrap();
}
