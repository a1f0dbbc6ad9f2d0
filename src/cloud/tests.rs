#![expect(clippy::unwrap_used, reason = "tests")]

use futures::TryStreamExt as _;
use object_store::azure::AzureConfigKey;

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
        (
            "http://127.0.0.1:10000/account/container/r.db",
            "container",
            "r.db",
        ),
    ] {
        let kind = ObjectStoreKind::of(url).unwrap_or(ObjectStoreKind::Azure);
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

fn environment(variables: &[(&str, &str)]) -> Environment {
    let variables = variables.iter();
    Environment::of(
        &variables
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
    )
}

/// What the builder for Azure is told: account, endpoint and key.
fn told(url: &str, variables: &[(&str, &str)]) -> [Option<String>; 3] {
    let address = Address::of(ObjectStoreKind::Azure, url).unwrap();
    let builder = azure::builder(&address, &environment(variables), ClientOptions::new()).unwrap();
    [
        AzureConfigKey::AccountName,
        AzureConfigKey::Endpoint,
        AzureConfigKey::AccessKey,
    ]
    .map(|key| builder.get_config_value(&key))
}

#[test]
fn azure_is_reached_as_its_own_clients_are_told() {
    let some = |text: &str| Some(text.to_owned());
    let connection = |text| ("AZURE_STORAGE_CONNECTION_STRING", text);
    let plain =
        "DefaultEndpointsProtocol=https;AccountName=one;AccountKey=aw==;EndpointSuffix=core.chinacloudapi.cn";
    let china = some("https://one.blob.core.chinacloudapi.cn");
    for url in ["az://c/x", "abfss://c@one.dfs.core.windows.net/x"] {
        let account = told(url, &[connection(plain), ("AZURE_STORAGE_ACCOUNT_KEY", "other")]);
        assert_eq!(account, [some("one"), china.clone(), some("aw==")], "{url}");
    }
    let other = told("abfss://c@two.dfs.core.windows.net/x", &[connection(plain)]);
    assert_eq!(other, [some("two"), None, None]);
    let emulator = "AccountName=dev;AccountKey=aw==;BlobEndpoint=http://127.0.0.1:10000/dev/;";
    let account = told("az://c/x", &[connection(emulator)]);
    assert_eq!(
        account,
        [some("dev"), some("http://127.0.0.1:10000/dev"), some("aw==")]
    );
    let signed = "BlobEndpoint=https://three.blob.core.windows.net;SharedAccessSignature=sv=1&sig=a%3D";
    assert_eq!(told("az://c/x", &[connection(signed)])[0], some("three"));
    let names = [("AZURE_STORAGE_ACCOUNT", "four"), ("AZURE_STORAGE_KEY", "aw==")];
    assert_eq!(told("az://c/x", &names), [some("four"), None, some("aw==")]);
    // The registry's key is its account's; the connection string goes on to be that of the files.
    let both = [connection(plain), ("REGISTRY_BLOB_KEY", "bQ==")];
    assert_eq!(
        told("https://five.blob.core.windows.net/c/x", &both)[2],
        some("bQ==")
    );
    assert_eq!(told("az://c/x", &both)[2], some("aw=="));
    let path = told("http://127.0.0.1:10000/dev/c/x", &[]);
    assert_eq!(path[..2], [some("dev"), some("http://127.0.0.1:10000/dev")]);
    for wrong in ["nothing", "AccountName=one", "AccountKey=aw=="] {
        let address = Address::of(ObjectStoreKind::Azure, "az://c/x").unwrap();
        let refused = azure::builder(&address, &environment(&[connection(wrong)]), ClientOptions::new());
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind(), Kind::Config, "{wrong}");
        assert!(!refused.message().contains("aw=="), "{refused}");
    }
}

#[tokio::test]
async fn an_emulator_of_google_is_asked_without_credentials() {
    let (url, server) = fake::Server::start(ObjectStoreKind::Gcs, fake::Mode::Good).await;
    server.put("bucket/x", "content");
    let host = url.strip_prefix("http://").unwrap();
    for host in [host, &url, &format!("{url}/")] {
        let variables = [
            ("STORAGE_EMULATOR_HOST", host),
            ("GOOGLE_SERVICE_ACCOUNT", "/none.json"),
        ];
        let address = Address::of(ObjectStoreKind::Gcs, "gs://bucket/x").unwrap();
        let store = open(&address, &environment(&variables), None, |builder| builder).await;
        let found = store.unwrap().get(&Path::from("x")).await.unwrap();
        assert_eq!(found.bytes().await.unwrap(), "content", "{host}");
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
