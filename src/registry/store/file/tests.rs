#![expect(clippy::unwrap_used, reason = "tests")]

pub(super) mod history;
mod killed;
mod object;

use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use prost::Message;

use super::{
    super::conformance::{self, change, entity},
    *,
};
use crate::{model::ObjectKind, proto::feast::core};

fn registry_path(directory: &tempfile::TempDir) -> PathBuf {
    directory.path().join("data").join("registry.db")
}

#[tokio::test]
async fn conforms() {
    let directory = tempfile::tempdir().unwrap();
    conformance::all(&FileStore::open(registry_path(&directory)).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writers_lose_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut handles: Vec<Arc<dyn RegistryStore>> = Vec::new();
    for _ in 0..3 {
        handles.push(Arc::new(
            FileStore::open(registry_path(&directory)).await.unwrap(),
        ));
    }
    conformance::concurrent_writers(handles).await;
}

#[tokio::test]
async fn a_file_that_is_no_registry_or_a_newer_one_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("registry.db");
    let newer = core::Registry {
        registry_schema_version: "2".to_owned(),
        ..Default::default()
    }
    .encode_to_vec();
    for (content, expected) in [
        (newer.as_slice(), "schema version `2`"),
        (b"hello world", "not a readable"),
    ] {
        fs::write(&path, content).unwrap();
        let error = FileStore::open(&path).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        assert!(error.message().contains(expected), "{error}");
        assert!(error.message().contains("registry.db"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), content);
    }
    fs::remove_file(&path).unwrap();
    let store = FileStore::open(&path).await.unwrap();
    change(&store, "p", vec![Change::Put(entity("e", ""))]).await;
    fs::write(&path, &newer).unwrap();
    store
        .update("p", None, &mut |_| Ok(vec![Change::Put(entity("f", ""))]))
        .await
        .unwrap_err();
    assert_eq!(fs::read(&path).unwrap(), newer, "also when it appears later");
    assert_eq!(store.check().await.unwrap_err().kind(), Kind::Unavailable);
}

#[tokio::test]
async fn a_file_caught_empty_is_not_taken_for_an_empty_registry() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("registry.db");
    fs::write(&path, "").unwrap();
    let store = FileStore::open(&path).await.unwrap();
    change(&store, "p", vec![Change::Put(entity("e", ""))]).await;
    let content = fs::read(&path).unwrap();
    fs::write(&path, "").unwrap();
    let error = store
        .update("p", None, &mut |_| Ok(vec![Change::Put(entity("f", ""))]))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    fs::write(&path, content).unwrap();
    let state = change(&store, "p", vec![Change::Put(entity("f", ""))]).await;
    assert!(state.object(ObjectKind::Entity, "e").is_some());
}

#[tokio::test]
async fn a_place_that_cannot_be_written_is_a_clear_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file").join("registry.db");
    fs::write(directory.path().join("file"), "in the way").unwrap();
    let error = FileStore::open(&path).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.message().contains("registry.db"), "{error}");
}

#[tokio::test]
async fn other_writers_are_noticed_without_a_hint() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("registry.db");
    let (one, two) = (
        FileStore::open(&path).await.unwrap(),
        FileStore::open(&path).await.unwrap(),
    );
    for round in 0..10 {
        let before = one.revision().await.unwrap();
        change(
            &two,
            "p",
            vec![Change::Put(entity("e", &format!("{}", round % 2)))],
        )
        .await;
        assert_ne!(one.revision().await.unwrap(), before);
        assert_eq!(
            one.load("p").await.unwrap().objects,
            two.load("p").await.unwrap().objects
        );
    }
}

#[tokio::test]
async fn a_new_file_is_readable_as_the_umask_allows() {
    let directory = tempfile::tempdir().unwrap();
    let path = registry_path(&directory);
    let store = FileStore::open(&path).await.unwrap();
    change(&store, "p", vec![Change::Put(entity("e", ""))]).await;
    let reference = directory.path().join("reference");
    fs::write(&reference, "").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), mode(&reference));
}

#[tokio::test]
async fn the_file_is_what_feasts_own_reader_expects() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("registry.db");
    let store = FileStore::open(&path).await.unwrap();
    change(
        &store,
        "p",
        vec![
            Change::Put(entity("driver", "d")),
            Change::Put(conformance::view("stats")),
        ],
    )
    .await;
    let registry = core::Registry::decode(fs::read(&path).unwrap().as_slice()).unwrap();
    assert_eq!(registry.registry_schema_version, "1");
    assert_eq!(registry.version_id.len(), 36);
    assert!(registry.last_updated.is_some());
    assert_eq!(
        registry.entities.first().unwrap().spec.as_ref().unwrap().project,
        "p"
    );
    assert_eq!(
        registry.projects.first().unwrap().spec.as_ref().unwrap().name,
        "p"
    );
    #[expect(deprecated, reason = "Feast still writes it")]
    let metadata = &registry.project_metadata;
    assert_eq!(metadata.first().unwrap().project_uuid.len(), 36);
    assert_eq!(
        registry.encode_to_vec(),
        fs::read(&path).unwrap(),
        "fields stand in protobuf's order"
    );
}

/// Written by Feast 0.67: two applies with a materialization in between.
const GOLDEN: &[u8] = include_bytes!("../../../../tests/wire/registry/feast-0.67.registry.db");

#[test]
fn feasts_file_is_taken_apart_and_put_together_byte_for_byte() {
    let document = Document::parse(&Bytes::from_static(GOLDEN), None).unwrap();
    assert_eq!(document.encode(), GOLDEN);
}

#[tokio::test]
async fn feasts_file_is_read_and_changed_without_touching_what_else_is_in_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("registry.db");
    fs::write(&path, GOLDEN).unwrap();
    let store = FileStore::open(&path).await.unwrap();
    assert_eq!(store.projects().await.unwrap(), ["golden"]);
    let before = store.load("golden").await.unwrap();
    conformance::is_golden(&before);
    assert!(before.object(ObjectKind::LabelView, "labels").is_some());
    assert!(before.object(ObjectKind::Permission, "readers").is_some());
    let after = change(&store, "golden", vec![Change::Put(entity("plane", ""))]).await;
    conformance::is_golden(&after);
    for object in before.objects.iter() {
        assert_eq!(after.object(object.kind, &object.name), Some(object));
    }
    assert_eq!(after.infra, before.infra);
    assert_eq!(after.versions, before.versions);
}
