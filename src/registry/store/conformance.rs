//! What every registry store has to do, as functions over the trait; each store's tests run them all,
//! those that need servers from `tests/databases/`.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "conformance/history.rs"]
mod history;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use chrono::DateTime;
use prost::Message;
use thali::{
    error::{Error, Result},
    model::{Object, ObjectKind, wire},
    proto::feast::core,
    registry::store::{Change, PROJECT_UUID, ProjectState, RegistryStore, ViewVersion},
};

pub(super) use history::is_pruned;

pub(super) fn entity(name: &str, description: &str) -> Object {
    let spec = core::EntitySpecV2 {
        name: name.to_owned(),
        join_key: format!("{name}_id"),
        description: description.to_owned(),
        ..Default::default()
    };
    object(
        ObjectKind::Entity,
        name,
        core::Entity {
            spec: Some(spec),
            meta: None,
        }
        .encode_to_vec(),
    )
}

pub(super) fn view(name: &str) -> Object {
    let spec = core::FeatureViewSpec {
        name: name.to_owned(),
        ..Default::default()
    };
    object(
        ObjectKind::FeatureView,
        name,
        core::FeatureView {
            spec: Some(spec),
            meta: None,
        }
        .encode_to_vec(),
    )
}

fn object(kind: ObjectKind, name: &str, bytes: Vec<u8>) -> Object {
    Object {
        kind,
        project: String::new(),
        name: name.to_owned(),
        bytes: bytes.into(),
    }
}

pub(super) fn any_object(kind: ObjectKind, name: &str) -> Object {
    object(
        kind,
        name,
        wire::set(&[], kind.name_path(), wire::Put::text(name)).unwrap(),
    )
}

fn version(view: &str, number: u32) -> ViewVersion {
    ViewVersion {
        view: view.to_owned(),
        kind: ObjectKind::FeatureView,
        number,
        bytes: Bytes::from_static(b"\x0a\x00"),
        created: DateTime::from_timestamp(1_700_000_000, 0).unwrap(),
        description: String::new(),
        version_id: uuid::Uuid::new_v4().to_string(),
    }
}

/// Makes changes without looking.
pub(super) async fn change(
    store: &dyn RegistryStore,
    project: &str,
    changes: Vec<Change>,
) -> Arc<ProjectState> {
    store
        .update(project, None, &mut |_| Ok(changes.clone()))
        .await
        .unwrap()
}

/// Everything that holds for one store alone; it is empty when this begins.
pub(super) async fn all(store: &dyn RegistryStore) {
    empty(store).await;
    every_kind_is_kept(store).await;
    raw_bytes_are_kept(store).await;
    an_update_is_all_or_nothing(store).await;
    versions_and_metadata(store).await;
    projects_are_apart(store).await;
    revisions_move_with_changes(store).await;
    what_stays_is_shared(store).await;
    history::all(store).await;
}

async fn empty(store: &dyn RegistryStore) {
    assert!(store.projects().await.unwrap().is_empty());
    let state = store.load("nowhere").await.unwrap();
    assert!(state.is_empty());
    assert_eq!(state.project, "nowhere");
    let unchanged = change(store, "nowhere", Vec::new()).await;
    assert!(unchanged.is_empty());
    let gone = change(
        store,
        "nowhere",
        vec![Change::Delete(ObjectKind::Entity, "x".to_owned())],
    )
    .await;
    assert!(gone.is_empty(), "a deletion creates no project");
    assert!(store.projects().await.unwrap().is_empty());
    store.check().await.unwrap();
}

async fn every_kind_is_kept(store: &dyn RegistryStore) {
    for kind in ObjectKind::ALL {
        let name = if kind == ObjectKind::Project {
            "kinds"
        } else {
            kind.label()
        };
        let answered = change(store, "kinds", vec![Change::Put(any_object(kind, name))]).await;
        for state in [answered, store.load("kinds").await.unwrap()] {
            let kept = state
                .object(kind, name)
                .unwrap_or_else(|| panic!("{kind:?} is not there"));
            assert_eq!(kept.project, "kinds");
            assert_eq!(wire::text(&kept.bytes, kind.name_path()).unwrap(), name);
        }
    }
    let state = store.load("kinds").await.unwrap();
    assert_eq!(state.objects.len(), ObjectKind::ALL.len());
    assert!(
        state
            .metadata
            .iter()
            .any(|(key, value)| key == PROJECT_UUID && value.len() == 36)
    );
    assert!(state.last_updated.is_some());
    for kind in ObjectKind::ALL
        .into_iter()
        .filter(|kind| *kind != ObjectKind::Project)
    {
        let state = change(
            store,
            "kinds",
            vec![Change::Delete(kind, kind.label().to_owned())],
        )
        .await;
        assert!(state.object(kind, kind.label()).is_none());
    }
    let state = store.load("kinds").await.unwrap();
    assert_eq!(state.objects.len(), 1, "the project itself stays");
    let state = change(store, "kinds", vec![Change::DeleteProject]).await;
    assert!(state.is_empty());
    assert!(store.projects().await.unwrap().is_empty());
}

async fn raw_bytes_are_kept(store: &dyn RegistryStore) {
    let mut future = entity("driver", "d");
    let mut bytes = future.bytes.to_vec();
    wire::write_bytes(4242, b"newer than us", &mut bytes);
    future.bytes = bytes.into();
    future.project = "raw".to_owned();
    change(
        store,
        "raw",
        vec![
            Change::Put(future.clone()),
            Change::PutInfra(Bytes::from_static(b"\xfa\x01\x01x")),
        ],
    )
    .await;
    change(store, "raw", vec![Change::Put(entity("other", ""))]).await;
    let state = store.load("raw").await.unwrap();
    let kept = state.object(ObjectKind::Entity, "driver").unwrap();
    let without_project = wire::set(&kept.bytes, &[1, 9], wire::Put::Nothing).unwrap();
    assert_eq!(without_project, future.bytes);
    assert_eq!(state.infra.as_deref(), Some(&b"\xfa\x01\x01x"[..]));
    let names: Vec<_> = state
        .objects
        .iter()
        .filter(|o| o.kind == ObjectKind::Entity)
        .map(|o| &o.name)
        .collect();
    assert_eq!(names, ["driver", "other"], "order of arrival");
    let state = change(store, "raw", vec![Change::Put(entity("driver", "changed"))]).await;
    let names: Vec<_> = state
        .objects
        .iter()
        .filter(|o| o.kind == ObjectKind::Entity)
        .map(|o| &o.name)
        .collect();
    assert_eq!(names, ["driver", "other"], "a replaced object keeps its place");
    change(store, "raw", vec![Change::DeleteProject]).await;
}

async fn an_update_is_all_or_nothing(store: &dyn RegistryStore) {
    change(store, "atomic", vec![Change::Put(entity("first", ""))]).await;
    let before = store.load("atomic").await.unwrap();
    let mut decide = |state: &ProjectState| -> Result<Vec<Change>> {
        assert!(
            state.object(ObjectKind::Entity, "first").is_some(),
            "decide sees the present state"
        );
        Err(Error::invalid("no"))
    };
    store.update("atomic", None, &mut decide).await.unwrap_err();
    let after = store.load("atomic").await.unwrap();
    assert_eq!(before.objects, after.objects);
    let many = vec![
        Change::Delete(ObjectKind::Entity, "first".to_owned()),
        Change::Put(entity("second", "")),
        Change::Put(entity("second", "again")),
        Change::Put(entity("third", "")),
        Change::Delete(ObjectKind::Entity, "third".to_owned()),
    ];
    let answered = change(store, "atomic", many).await;
    let loaded = store.load("atomic").await.unwrap();
    assert_eq!(answered.objects.len(), loaded.objects.len());
    for state in [answered, loaded] {
        let second: core::Entity = state
            .object(ObjectKind::Entity, "second")
            .unwrap()
            .decode()
            .unwrap();
        assert_eq!(second.spec.unwrap().description, "again");
        assert!(state.object(ObjectKind::Entity, "first").is_none());
        assert!(state.object(ObjectKind::Entity, "third").is_none());
    }
    change(
        store,
        "atomic",
        vec![Change::Delete(ObjectKind::Project, "atomic".to_owned())],
    )
    .await;
    assert!(store.load("atomic").await.unwrap().is_empty());
}

async fn versions_and_metadata(store: &dyn RegistryStore) {
    let first = version("v", 0);
    let changes = vec![
        Change::Put(view("v")),
        Change::PutVersion(first.clone()),
        Change::PutVersion(version("v", 1)),
        Change::PutVersion(version("w", 0)),
        Change::PutMetadata("recently_visited_ann".to_owned(), "[1, \"two\"]".to_owned()),
    ];
    let answered = change(store, "versions", changes).await;
    for state in [answered, store.load("versions").await.unwrap()] {
        assert_eq!(state.versions.len(), 3);
        assert!(state.versions.iter().any(|kept| **kept == first));
        let keys: Vec<_> = state.metadata.iter().map(|(key, _)| key.as_str()).collect();
        assert!(
            keys.contains(&"recently_visited_ann") && keys.contains(&PROJECT_UUID),
            "{keys:?}"
        );
        let visited = state
            .metadata
            .iter()
            .find(|(key, _)| key == "recently_visited_ann")
            .unwrap();
        assert_eq!(visited.1, "[1, \"two\"]");
        let uuid = state
            .metadata
            .iter()
            .find(|(key, _)| key == PROJECT_UUID)
            .unwrap();
        assert_eq!(uuid.1.len(), 36, "a free key does not destroy the UUID");
    }
    let state = change(
        store,
        "versions",
        vec![Change::Delete(ObjectKind::FeatureView, "v".to_owned())],
    )
    .await;
    assert_eq!(state.versions.len(), 1, "a view takes its versions along");
    change(store, "versions", vec![Change::DeleteProject]).await;
    assert!(store.load("versions").await.unwrap().versions.is_empty());
}

async fn projects_are_apart(store: &dyn RegistryStore) {
    for project in ["b", "a"] {
        let changes = vec![
            Change::Put(entity("same", project)),
            Change::PutVersion(version("v", 0)),
        ];
        change(store, project, changes).await;
    }
    assert_eq!(store.projects().await.unwrap(), ["a", "b"]);
    change(store, "a", vec![Change::DeleteProject]).await;
    let state = store.load("b").await.unwrap();
    let entity: core::Entity = state
        .object(ObjectKind::Entity, "same")
        .unwrap()
        .decode()
        .unwrap();
    assert_eq!(entity.spec.unwrap().description, "b");
    assert_eq!(state.versions.len(), 1);
    change(store, "b", vec![Change::DeleteProject]).await;
}

async fn revisions_move_with_changes(store: &dyn RegistryStore) {
    change(store, "marks", vec![Change::Put(entity("e", "0"))]).await;
    for round in 1..20 {
        let before = store.revision().await.unwrap();
        assert_eq!(before, store.revision().await.unwrap(), "looking changes nothing");
        change(
            store,
            "marks",
            vec![Change::Put(entity("e", &format!("{}", round % 2)))],
        )
        .await;
        assert_ne!(before, store.revision().await.unwrap(), "round {round}");
    }
    change(store, "marks", vec![Change::DeleteProject]).await;
}

async fn what_stays_is_shared(store: &dyn RegistryStore) {
    let kept = |state: &ProjectState, name: &str| {
        let object = state.object(ObjectKind::Entity, name);
        Arc::clone(object.unwrap())
    };
    let both = vec![
        Change::Put(entity("kept", "")),
        Change::Put(entity("other", "")),
        Change::PutVersion(version("v", 0)),
    ];
    let before = change(store, "shared", both).await;
    let loaded = store.load("shared").await.unwrap();
    assert!(Arc::ptr_eq(&kept(&before, "kept"), &kept(&loaded, "kept")));
    assert!(
        Arc::ptr_eq(&loaded, &store.load("shared").await.unwrap()),
        "nothing has changed"
    );
    let changed = change(store, "shared", vec![Change::Put(entity("other", "changed"))]).await;
    for state in [changed, store.load("shared").await.unwrap()] {
        assert!(Arc::ptr_eq(&kept(&before, "kept"), &kept(&state, "kept")));
        assert!(!Arc::ptr_eq(&kept(&before, "other"), &kept(&state, "other")));
        assert_eq!(state.versions, before.versions);
    }
    change(store, "shared", vec![Change::DeleteProject]).await;
}

/// Several handles on one registry, each with several writers: nothing acknowledged is lost, and every
/// increment of a counter saw the one before.
pub(super) async fn concurrent_writers(handles: Vec<Arc<dyn RegistryStore>>) {
    const WRITERS: usize = 3;
    const WRITES: usize = 8;
    let mut tasks = Vec::new();
    for (number, store) in handles.iter().enumerate() {
        for writer in 0..WRITERS {
            let store = Arc::clone(store);
            tasks.push(tokio::spawn(async move {
                for write in 0..WRITES {
                    let name = format!("e{number}-{writer}-{write}");
                    let mut decide = |state: &ProjectState| {
                        let count = match state.metadata.iter().find(|(key, _)| key == "count") {
                            Some((_, count)) => count.parse::<usize>().unwrap(),
                            None => 0,
                        };
                        Ok(vec![
                            Change::Put(entity(&name, "")),
                            Change::PutMetadata("count".to_owned(), (count + 1).to_string()),
                        ])
                    };
                    let state = store.update("busy", None, &mut decide).await.unwrap();
                    assert!(state.object(ObjectKind::Entity, &name).is_some());
                }
            }));
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    let expected = handles.len() * WRITERS * WRITES;
    for store in &handles {
        let state = loop {
            let state = store.load("busy").await.unwrap();
            let entities = state.objects.iter().filter(|o| o.kind == ObjectKind::Entity);
            if entities.count() >= expected {
                break state;
            }
            // One that follows a server hears of the others' last writes a moment later.
            tokio::time::timeout(Duration::from_secs(10), store.changed())
                .await
                .unwrap();
        };
        assert_eq!(
            state
                .objects
                .iter()
                .filter(|o| o.kind == ObjectKind::Entity)
                .count(),
            expected
        );
        let count = &state.metadata.iter().find(|(key, _)| key == "count").unwrap().1;
        assert_eq!(count, &expected.to_string());
    }
}

/// What the registries under `tests/wire/registry` hold, whichever of Feast's registries wrote them.
pub(super) fn is_golden(state: &ProjectState) {
    let object = |kind, name| {
        state
            .object(kind, name)
            .unwrap_or_else(|| panic!("{kind:?} {name} is missing"))
    };
    assert_eq!(state.project, "golden");
    object(ObjectKind::Project, "golden");
    object(ObjectKind::Entity, "__dummy");
    object(ObjectKind::DataSource, "weather_push");
    object(ObjectKind::FeatureService, "delay_model");
    let view: core::FeatureView = object(ObjectKind::FeatureView, "weather").decode().unwrap();
    let (spec, meta) = (view.spec.unwrap(), view.meta.unwrap());
    assert_eq!(
        spec.features.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(),
        ["temp", "wind", "gust"]
    );
    assert_eq!(meta.materialization_intervals.len(), 1);
    assert_eq!(meta.current_version_number, 1);
    let versions: Vec<_> = state
        .versions
        .iter()
        .filter(|v| v.view == "weather")
        .map(|v| (v.kind, v.number))
        .collect();
    assert_eq!(
        versions,
        [(ObjectKind::FeatureView, 0), (ObjectKind::FeatureView, 1)]
    );
    assert!(
        state
            .versions
            .iter()
            .any(|v| v.kind == ObjectKind::OnDemandFeatureView && v.view == "wind_calc")
    );
    assert!(state.infra.as_ref().is_some_and(|infra| !infra.is_empty()));
}
