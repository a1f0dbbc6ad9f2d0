#![expect(clippy::unwrap_used, reason = "tests")]

//! What is said over HTTP to S3, Google Cloud Storage and Azure, with a server that does what the three
//! have in common and each in its own words.

use std::sync::Arc;

use super::{
    super::tests::history::{add_one, ann, history_matches},
    *,
};
use crate::{
    cloud::fake::{ALL, Mode, SECRET, Server, account},
    error::Kind,
    registry::store::{RegistryStore, conformance, file::FileStore},
};

/// The server's address.
async fn serve(kind: ObjectStoreKind, mode: Mode) -> (String, Arc<Server>) {
    Server::start(kind, mode).await
}

/// A registry there, as it would be configured.
fn configured(kind: ObjectStoreKind, server: &str) -> ObjectRegistry {
    let url = match kind {
        ObjectStoreKind::S3 => "s3://bucket/feast/registry.db".to_owned(),
        ObjectStoreKind::Gcs => "gs://bucket/feast/registry.db".to_owned(),
        ObjectStoreKind::Azure => format!("{server}/account/bucket/feast/registry.db"),
    };
    ObjectRegistry {
        store: kind,
        url,
        options: BTreeMap::new(),
        environment: account(kind, server),
    }
}

#[tokio::test]
async fn each_cloud_keeps_a_registry_and_its_history() {
    for kind in ALL {
        let (url, server) = serve(kind, Mode::Good).await;
        let registry = configured(kind, &url);
        let open = || FileStore::open_object(&registry);
        conformance::all(&open().await.unwrap()).await;
        let (one, two) = (open().await.unwrap(), open().await.unwrap());
        for _ in 0..3 {
            add_one(&one, Some(&ann())).await.unwrap();
            add_one(&two, Some(&ann())).await.unwrap();
        }
        assert_eq!(history_matches(&open().await.unwrap()).await, 6, "{kind:?}");
        let objects = server.objects();
        let kept = &objects.kept;
        assert!(kept.contains_key("bucket/feast/registry.db"));
        let entries = "bucket/feast/registry.db.history/entries/";
        let beside = format!("{entries}p=2Eq/");
        let is_meant = |key: &&String| *key == "bucket/feast/registry.db" || key.starts_with(entries);
        assert!(
            kept.keys().all(|key| is_meant(&key)),
            "no probe and nothing pending is left: {:?}",
            kept.keys()
        );
        assert_eq!(
            kept.keys().filter(|key| key.starts_with(&beside)).count(),
            6,
            "{kind:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_of_each_cloud_lose_nothing() {
    for kind in ALL {
        let (url, _server) = serve(kind, Mode::Good).await;
        let registry = configured(kind, &url);
        let mut handles: Vec<Arc<dyn RegistryStore>> = Vec::new();
        for _ in 0..3 {
            handles.push(Arc::new(FileStore::open_object(&registry).await.unwrap()));
        }
        conformance::concurrent_writers(handles).await;
    }
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_refused() {
    for kind in ALL {
        let (url, server) = serve(kind, Mode::IgnoresConditions).await;
        let registry = configured(kind, &url);
        let store = FileStore::open_object(&registry).await.unwrap();
        let refused = add_one(&store, Some(&ann())).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Unsupported, "{kind:?}: {refused}");
        assert!(server.objects().kept.is_empty());
    }
}

#[tokio::test]
async fn a_missing_bucket_and_a_forbidden_one_are_told_without_secrets() {
    for kind in ALL {
        for (mode, expected) in [
            (Mode::NoBucket, "does not exist"),
            (Mode::Forbidden, "is forbidden"),
        ] {
            let (url, _server) = serve(kind, mode).await;
            let registry = configured(kind, &url);
            let refused = FileStore::open_object(&registry).await.unwrap_err();
            assert_eq!(refused.kind(), Kind::Config, "{kind:?}: {refused}");
            assert!(refused.message().contains(expected), "{kind:?}: {refused}");
            assert!(refused.message().contains("`bucket`"), "{kind:?}: {refused}");
            let all = format!("{refused:?} {refused} {registry:?}");
            assert!(!all.contains(SECRET), "{all}");
        }
    }
}

#[tokio::test]
async fn a_store_that_is_not_there_is_unavailable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let registry = configured(ObjectStoreKind::S3, &url);
    let error = FileStore::open_object(&registry).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert!(
        error.message().contains("s3://bucket/feast/registry.db"),
        "{error}"
    );
    assert!(!error.message().contains('\n'), "{error}");
}

#[tokio::test]
async fn writes_say_what_s3_additional_kwargs_ask_for() {
    let (url, server) = serve(ObjectStoreKind::S3, Mode::Good).await;
    let mut registry = configured(ObjectStoreKind::S3, &url);
    let options = [
        ("ServerSideEncryption", "aws:kms"),
        ("SSEKMSKeyId", "key-1"),
        ("ContentType", "application/x-registry"),
        ("Tagging", "team=ops&tier=1"),
        ("ACL", "private"),
    ];
    registry.options = options
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let store = FileStore::open_object(&registry).await.unwrap();
    add_one(&store, None).await.unwrap();
    let objects = server.objects();
    let headers = objects.written.last().unwrap();
    for (name, value) in [
        ("x-amz-server-side-encryption", "aws:kms"),
        ("x-amz-server-side-encryption-aws-kms-key-id", "key-1"),
        ("content-type", "application/x-registry"),
        ("x-amz-tagging", "team=ops&tier=1"),
        ("if-none-match", "*"),
    ] {
        assert_eq!(headers.get(name).unwrap(), value, "{name}");
    }
}

#[test]
fn a_registry_needs_a_bucket_and_a_name() {
    for wrong in ["s3://bucket", "s3://bucket/", "s3:///key", "bucket/key"] {
        let refused = address(ObjectStoreKind::S3, wrong).unwrap_err();
        assert_eq!(refused.kind(), Kind::Config, "{wrong}");
    }
    let signed = ObjectRegistry {
        url: "https://account.blob.core.windows.net/container/registry.db?sig=secret".to_owned(),
        ..configured(ObjectStoreKind::Azure, "http://localhost")
    };
    let address = address(signed.store, &signed.url).unwrap();
    assert_eq!((address.bucket, address.path), ("container", "registry.db"));
}
