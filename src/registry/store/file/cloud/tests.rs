#![expect(clippy::unwrap_used, reason = "tests")]

//! What is said over HTTP to S3, Google Cloud Storage and Azure, with a server that does what the three
//! have in common and each in its own words: read, conditional write, list and delete.

use std::sync::Mutex;

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, Method, Request, StatusCode, Uri},
    response::{IntoResponse, Response},
};

use super::{
    super::tests::history::{add_one, ann, history_matches},
    *,
};
use crate::{
    error::Kind,
    registry::store::{RegistryStore, conformance, file::FileStore},
};

const SECRET: &str = "bm90IHRvIGJlIHNlZW4=";

/// A key of Google's that asks nobody for a token.
const NO_ACCOUNT: &str =
    r#"{"private_key":"k","private_key_id":"i","client_email":"e","disable_oauth":true}"#;

/// How the server behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Mode {
    #[default]
    Good,
    IgnoresConditions,
    NoBucket,
    Forbidden,
}

#[derive(Default)]
struct Server {
    kind: Option<ObjectStoreKind>,
    mode: Mode,
    objects: Mutex<Objects>,
}

#[derive(Default)]
struct Objects {
    /// Content and version by bucket and key.
    kept: BTreeMap<String, (Bytes, u64)>,
    versions: u64,
    /// Header lines of writes.
    written: Vec<HeaderMap>,
}

/// The server's address.
async fn serve(kind: ObjectStoreKind, mode: Mode) -> (String, Arc<Server>) {
    let server = Arc::new(Server {
        kind: Some(kind),
        mode,
        ..Server::default()
    });
    let router = Router::new().fallback(answer).with_state(Arc::clone(&server));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    (format!("http://{address}"), server)
}

/// A path without its escapes.
fn decoded(path: &str) -> String {
    let path = path.trim_matches('/').replace('=', "%3D");
    let (decoded, _) = url::form_urlencoded::parse(path.as_bytes())
        .next()
        .unwrap_or_default();
    decoded.into_owned()
}

fn error(status: StatusCode, code: &str) -> Response {
    let body = format!(
        "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>Because.</Message><StringToSign>{SECRET}</StringToSign></Error>"
    );
    (status, body).into_response()
}

async fn answer(State(server): State<Arc<Server>>, request: Request<axum::body::Body>) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    match server.mode {
        Mode::NoBucket if server.kind == Some(ObjectStoreKind::Azure) => {
            return error(StatusCode::NOT_FOUND, "ContainerNotFound");
        }
        Mode::NoBucket => return error(StatusCode::NOT_FOUND, "NoSuchBucket"),
        Mode::Forbidden => return error(StatusCode::FORBIDDEN, "SignatureDoesNotMatch"),
        _ => {}
    }
    server
        .objects
        .lock()
        .unwrap()
        .answer(&server, &head.method, &head.uri, &head.headers, body)
}

impl Objects {
    fn answer(
        &mut self,
        server: &Server,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Response {
        let path = decoded(uri.path());
        let query: BTreeMap<_, _> =
            url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).collect();
        let header = |name: &str| {
            headers
                .get(name)
                .map(|value| value.to_str().unwrap().trim_matches('"').to_owned())
        };
        let is_azure = server.kind == Some(ObjectStoreKind::Azure);
        match method.as_str() {
            "GET"
                if query.contains_key("list-type")
                    || query.get("comp").is_some_and(|comp| comp == "list") =>
            {
                self.list(&path, query.get("prefix").map_or("", AsRef::as_ref), is_azure)
            }
            "GET" | "HEAD" => match self.kept.get(&path) {
                None => error(StatusCode::NOT_FOUND, "NoSuchKey"),
                Some((_, version)) if header("if-none-match") == Some(version.to_string()) => {
                    StatusCode::NOT_MODIFIED.into_response()
                }
                Some((content, version)) => (described(*version), content.clone()).into_response(),
            },
            "PUT" => {
                let present = self.kept.get(&path).map(|(_, version)| version.to_string());
                let refuse = if let Some(version) = header("if-match")
                    .or_else(|| header("x-goog-if-generation-match").filter(|version| version != "0"))
                {
                    present != Some(version)
                } else if header("if-none-match").is_some() || header("x-goog-if-generation-match").is_some()
                {
                    present.is_some()
                } else {
                    false
                };
                if refuse && server.mode != Mode::IgnoresConditions {
                    let is_create = header("if-none-match").is_some();
                    return if is_azure && is_create {
                        error(StatusCode::CONFLICT, "BlobAlreadyExists")
                    } else {
                        error(StatusCode::PRECONDITION_FAILED, "PreconditionFailed")
                    };
                }
                self.versions += 1;
                self.kept.insert(path, (body, self.versions));
                self.written.push(headers.clone());
                (StatusCode::CREATED, described(self.versions)).into_response()
            }
            "DELETE" => {
                self.kept.remove(&path);
                StatusCode::NO_CONTENT.into_response()
            }
            "POST" if is_azure => self.delete_batch(&body),
            _ => {
                let text = String::from_utf8(body.to_vec()).unwrap();
                let key = text
                    .split_once("<Key>")
                    .unwrap()
                    .1
                    .split_once("</Key>")
                    .unwrap()
                    .0;
                self.kept.remove(&format!("{path}/{key}"));
                format!("<DeleteResult><Deleted><Key>{key}</Key></Deleted></DeleteResult>").into_response()
            }
        }
    }

    fn list(&self, bucket: &str, prefix: &str, is_azure: bool) -> Response {
        let keys = self.kept.iter().filter_map(|(path, (content, version))| {
            let key = path.strip_prefix(bucket)?.strip_prefix('/')?;
            key.starts_with(prefix).then_some((key, content.len(), version))
        });
        if is_azure {
            let blobs: String = keys.map(|(key, length, version)| format!("<Blob><Name>{key}</Name><Properties><Last-Modified>Sun, 22 Nov 2026 05:00:00 GMT</Last-Modified><Content-Length>{length}</Content-Length><Content-Type>application/octet-stream</Content-Type><Etag>{version}</Etag></Properties></Blob>")).collect();
            return format!("<EnumerationResults><Blobs>{blobs}</Blobs><NextMarker/></EnumerationResults>")
                .into_response();
        }
        let contents: String = keys.map(|(key, length, version)| format!("<Contents><Key>{key}</Key><LastModified>2026-11-22T05:00:00.000Z</LastModified><ETag>\"{version}\"</ETag><Size>{length}</Size></Contents>")).collect();
        format!("<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>")
            .into_response()
    }

    fn delete_batch(&mut self, body: &[u8]) -> Response {
        let text = String::from_utf8_lossy(body);
        let path = text
            .lines()
            .find_map(|line| line.strip_prefix("DELETE ")?.split(' ').next())
            .unwrap();
        self.kept.remove(&decoded(path));
        let part = "--edge\r\nContent-Type: application/http\r\nContent-ID: 0\r\n\r\nHTTP/1.1 202 Accepted\r\nx-ms-version: 1\r\n\r\n\r\n--edge--\r\n";
        (
            StatusCode::ACCEPTED,
            [("content-type", "multipart/mixed; boundary=edge")],
            part,
        )
            .into_response()
    }
}

fn described(version: u64) -> [(&'static str, String); 3] {
    [
        ("etag", format!("\"{version}\"")),
        ("last-modified", "Sun, 22 Nov 2026 05:00:00 GMT".to_owned()),
        ("x-goog-generation", version.to_string()),
    ]
}

/// A registry there, as it would be configured.
fn configured(kind: ObjectStoreKind, server: &str) -> ObjectRegistry {
    let (url, variables) = match kind {
        ObjectStoreKind::S3 => (
            "s3://bucket/feast/registry.db".to_owned(),
            vec![
                ("FEAST_S3_ENDPOINT_URL", server),
                ("AWS_ACCESS_KEY_ID", "id"),
                ("AWS_SECRET_ACCESS_KEY", SECRET),
            ],
        ),
        ObjectStoreKind::Gcs => (
            "gs://bucket/feast/registry.db".to_owned(),
            vec![
                ("GOOGLE_BASE_URL", server),
                ("GOOGLE_SERVICE_ACCOUNT_KEY", NO_ACCOUNT),
            ],
        ),
        ObjectStoreKind::Azure => (
            format!("{server}/bucket/feast/registry.db"),
            vec![("REGISTRY_BLOB_KEY", SECRET)],
        ),
    };
    let pair = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    ObjectRegistry {
        store: kind,
        url,
        options: BTreeMap::new(),
        environment: Environment::of(&variables.into_iter().map(pair).collect()),
    }
}

const ALL: [ObjectStoreKind; 3] = [ObjectStoreKind::S3, ObjectStoreKind::Gcs, ObjectStoreKind::Azure];

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
        let kept = server.objects.lock().unwrap();
        assert!(kept.kept.contains_key("bucket/feast/registry.db"));
        let entries = "bucket/feast/registry.db.history/entries/";
        let beside = format!("{entries}p=2Eq/");
        let is_meant = |key: &&String| *key == "bucket/feast/registry.db" || key.starts_with(entries);
        assert!(
            kept.kept.keys().all(|key| is_meant(&key)),
            "no probe and nothing pending is left: {:?}",
            kept.kept.keys()
        );
        assert_eq!(
            kept.kept.keys().filter(|key| key.starts_with(&beside)).count(),
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
        assert!(server.objects.lock().unwrap().kept.is_empty());
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
    let objects = server.objects.lock().unwrap();
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
fn urls_are_taken_apart_as_by_feast() {
    let location = Location::of("s3://bucket/a/b%20c.db").unwrap();
    assert_eq!((location.host, location.path), ("bucket", "a/b%20c.db"));
    for wrong in ["s3://bucket", "s3://bucket/", "s3:///key", "bucket/key"] {
        assert_eq!(Location::of(wrong).unwrap_err().kind(), Kind::Config, "{wrong}");
    }
    let nothing = Environment::default();
    for (url, expected) in [
        (
            "https://account.blob.core.windows.net/container/a/registry.db",
            ("container", "a/registry.db"),
        ),
        (
            "https://account.blob.core.windows.net/container/registry.db?sig=secret",
            ("container", "registry.db"),
        ),
        (
            "abfss://container@account.dfs.core.windows.net/registry.db",
            ("container", "registry.db"),
        ),
        ("azure://container/a/registry.db", ("container", "a/registry.db")),
    ] {
        let location = Location::of(url).unwrap();
        let (_, container, path) = azure(&location, &nothing).unwrap();
        assert_eq!((container, path), expected, "{url}");
    }
}
