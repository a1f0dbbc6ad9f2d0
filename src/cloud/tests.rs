#![expect(clippy::unwrap_used, reason = "tests")]

use futures::TryStreamExt as _;

use super::*;

#[test]
fn urls_are_taken_apart_as_by_feast() {
    for (url, bucket, path) in [
        ("s3://bucket/a/b%20c.db", "bucket", "a/b%20c.db"),
        ("s3a://bucket/part-?.parquet", "bucket", "part-?.parquet"),
        ("gs://bucket", "bucket", ""),
        (
            "https://account.blob.core.windows.net/container/a/registry.db",
            "container",
            "a/registry.db",
        ),
        (
            "https://account.blob.core.windows.net/container/registry.db?sig=secret",
            "container",
            "registry.db",
        ),
        (
            "abfss://container@account.dfs.core.windows.net/registry.db",
            "container",
            "registry.db",
        ),
        ("azure://container/a/registry.db", "container", "a/registry.db"),
    ] {
        let kind = ObjectStoreKind::of(url).unwrap();
        let address = Address::of(kind, url).unwrap();
        assert_eq!((address.bucket, address.path), (bucket, path), "{url}");
    }
    for other in ["https://example.org/x", "hdfs://x/y", "/data/x", "file:///data/x"] {
        assert_eq!(ObjectStoreKind::of(other), None, "{other}");
    }
    for wrong in ["s3:///key", "bucket/key", "s3://"] {
        let refused = Address::of(ObjectStoreKind::S3, wrong).unwrap_err();
        assert_eq!(refused.kind(), Kind::Config, "{wrong}");
    }
}

#[tokio::test]
async fn long_objects_are_read_in_pieces_of_one_content() {
    let (url, server) = fake::Server::start(ObjectStoreKind::S3, fake::Mode::Good).await;
    let content: Vec<u8> = (0..20_000_000_u32)
        .map(|number| number.to_le_bytes()[1])
        .collect();
    server.put("bucket/long", content.clone());
    let environment = fake::account(ObjectStoreKind::S3, &url);
    let address = Address::of(ObjectStoreKind::S3, "s3://bucket/long").unwrap();
    let store = open(&address, &environment, None, |builder| builder)
        .await
        .unwrap();
    let bucket = Bucket::new("bucket", store);
    let path = Path::from("long");
    assert_eq!(bucket.get(&path).await.unwrap().bytes().await.unwrap(), content);
    let some = bucket.get_range(&path, 5..19_999_990).await.unwrap();
    assert_eq!(some, content[5..19_999_990]);
    // Another content in the middle of reading is an error, not a mixture.
    let mut reading = bucket.get(&path).await.unwrap().into_stream();
    reading.try_next().await.unwrap();
    server.put("bucket/long", vec![0; 20_000_000]);
    let changed = loop {
        match reading.try_next().await {
            Ok(Some(_)) => {}
            Ok(None) => unreachable!("the content was another one"),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(changed, object_store::Error::Precondition { .. }),
        "{changed}"
    );
    let before = bucket.head(&path).await.unwrap();
    server.put("bucket/long", vec![1; 20_000_000]);
    let after = bucket.head(&path).await.unwrap();
    assert_ne!(
        before.last_modified, after.last_modified,
        "in the same second, yet not the same"
    );
}
