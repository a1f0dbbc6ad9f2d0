#![expect(clippy::unwrap_used, reason = "tests")]

use prost::Message as _;
use serde_json::json;

use super::*;
use crate::online::fixture::{Fixture, HOUR, TEN, double, drivers, feature_view_proto, int, key, object};

fn request(features: &[&str], drivers: &[i64]) -> Request<'static> {
    Request {
        wanted: Wanted::features(features.iter().map(ToString::to_string)),
        full_names: false,
        version_metadata: false,
        columns: vec![(
            "driver_id".to_owned(),
            Given::Json(drivers.iter().map(|id| json!(id)).collect()),
        )],
    }
}

/// The last column's cells as (decoded value, status).
fn cells(response: &Response) -> Vec<(Option<Value>, Status)> {
    let (_, column) = response.columns().last().unwrap();
    let Column::Stored(stored) = column else {
        unreachable!("the feature is stored")
    };
    let decode = |bytes: Option<&[u8]>| bytes.map(|bytes| Value::decode(bytes).unwrap());
    stored
        .cells()
        .map(|(bytes, status)| (decode(bytes), status))
        .collect()
}

#[tokio::test]
async fn every_case_has_its_status() {
    let fixture = Fixture::drivers().await;
    let present = fixture
        .server
        .get(request(&["driver_fv:trips"], &[1001, 1003, 9999, 1001]))
        .await
        .unwrap();
    assert_eq!(
        cells(&present),
        [
            (Some(int(21)), Status::Present),
            // A stored null is there, an unknown entity is not.
            (Some(value::NULL), Status::Present),
            (None, Status::NotFound),
            (Some(int(21)), Status::Present),
        ]
    );
}

#[tokio::test]
async fn a_feature_the_row_lacks_is_not_found() {
    let fixture = Fixture::drivers().await;
    let row = vec![(key(&[("driver_id", int(5))]), TEN, vec![int(1)])];
    fixture.put("driver_fv", &["trips"], row).await;
    let response = fixture
        .server
        .get(request(&["driver_fv:trips", "driver_fv:name"], &[5]))
        .await
        .unwrap();
    assert_eq!(cells(&response), [(None, Status::NotFound)]);
    let (_, column) = response.columns().last().unwrap();
    let Column::Stored(stored) = column else {
        unreachable!("the feature is stored")
    };
    assert_eq!(stored.event_times().collect::<Vec<_>>(), [Some(TEN)]);
}

#[tokio::test]
async fn ttl_is_looked_at_only_when_asked_to() {
    let fixture = Fixture::drivers().await;
    // The view's ttl is two hours.
    let now = Utc::now().timestamp_micros();
    let row = |id: i64, time: i64| (key(&[("driver_id", int(id))]), time, vec![int(id)]);
    fixture
        .put(
            "driver_fv",
            &["trips"],
            vec![row(1, now - HOUR), row(2, now - 3 * HOUR)],
        )
        .await;
    let mut answers = Vec::new();
    for mode in [TtlMode::Python, TtlMode::Status, TtlMode::Null] {
        let mut server = fixture.server.clone();
        server.ttl_mode = mode;
        answers.push(cells(
            &server.get(request(&["driver_fv:trips"], &[1, 2])).await.unwrap(),
        ));
    }
    let fresh = (Some(int(1)), Status::Present);
    assert_eq!(answers[0], [fresh.clone(), (Some(int(2)), Status::Present)]);
    assert_eq!(answers[1], [fresh.clone(), (Some(int(2)), Status::OutsideMaxAge)]);
    assert_eq!(answers[2], [fresh, (None, Status::OutsideMaxAge)]);
}

#[tokio::test]
async fn a_disabled_view_refuses_and_one_that_materializes_serves() {
    use crate::{model::ObjectKind, proto::feast::core::FeatureViewState};
    let keys = [("driver", "driver_id", ValueType::Int64)];
    let mut off = feature_view_proto("off_fv", &keys, &[("trips", ValueType::Int64)]);
    off.spec.as_mut().unwrap().disabled = true;
    let mut busy = feature_view_proto("busy_fv", &keys, &[("trips", ValueType::Int64)]);
    busy.meta.get_or_insert_default().state = FeatureViewState::Materializing as i32;
    let mut objects = drivers();
    objects.push(object(ObjectKind::FeatureView, "off_fv", &off));
    objects.push(object(ObjectKind::FeatureView, "busy_fv", &busy));
    let fixture = Fixture::new(objects).await;
    let refused = fixture
        .server
        .get(request(&["off_fv:trips"], &[1]))
        .await
        .unwrap_err();
    assert!(
        refused.kind() == Kind::InvalidArgument && refused.message().contains("`off_fv`"),
        "{refused}"
    );
    let served = fixture
        .server
        .get(request(&["busy_fv:trips"], &[1]))
        .await
        .unwrap();
    assert_eq!(cells(&served), [(None, Status::NotFound)]);
}

#[tokio::test]
async fn a_changed_registry_is_planned_anew() {
    let fixture = Fixture::drivers().await;
    let wanted = request(&["driver_fv:fresh"], &[1001]);
    assert!(fixture.server.get(wanted.clone()).await.is_err());
    let keys = [("driver", "driver_id", ValueType::Int64)];
    let changed = feature_view_proto("driver_fv", &keys, &[("fresh", ValueType::Double)]);
    let changed = object(crate::model::ObjectKind::FeatureView, "driver_fv", &changed);
    let put = crate::registry::store::Change::Put(changed);
    fixture
        .server
        .registry
        .update("dp", None, &mut |_| Ok(vec![put.clone()]))
        .await
        .unwrap();
    let row = vec![(key(&[("driver_id", int(1001))]), TEN, vec![double(0.5)])];
    fixture.put("driver_fv", &["fresh"], row).await;
    assert_eq!(
        cells(&fixture.server.get(wanted).await.unwrap()),
        [(Some(double(0.5)), Status::Present)]
    );
    assert!(
        fixture
            .server
            .get(request(&["driver_fv:trips"], &[1001]))
            .await
            .is_err()
    );
}

#[tokio::test]
async fn plans_share_reads_between_features_services_and_inputs() {
    let fixture = Fixture::drivers().await;
    let catalog = fixture.server.registry.catalog("dp").await.unwrap();
    let plan = |wanted: Wanted<'_>| {
        let shape = Shape {
            wanted,
            full_names: true,
        };
        Plan::new(&catalog, &shape, fixture.server.settings).unwrap()
    };
    let service = plan(Wanted::service("fs1"));
    // The on-demand view reads the same view: one read with all features, in one group.
    assert_eq!((service.groups.len(), service.groups[0].views.len()), (1, 1));
    assert_eq!(service.groups[0].views[0].features.len(), 6);
    let aliased = plan(Wanted::service("fs_alias"));
    assert_eq!(
        aliased.groups.len(),
        2,
        "two roles of one view are two sets of keys"
    );
    let columns: Vec<&str> = aliased
        .key_columns
        .iter()
        .map(|column| column.name.as_str())
        .collect();
    assert_eq!(columns, ["origin_id", "dest_id"]);
}
