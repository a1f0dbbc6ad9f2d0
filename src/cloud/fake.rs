#![expect(clippy::unwrap_used, reason = "tests")]

//! A server for tests that is S3, Google Cloud Storage or Azure, as far as the three have things in common,
//! each in its own words: read whole and in ranges, conditional write, write in parts, list, delete.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri},
    response::{IntoResponse, Response},
};

use super::{Environment, ObjectStoreKind};

/// A key that may be in no message.
pub(crate) const SECRET: &str = "bm90IHRvIGJlIHNlZW4=";
pub(crate) const ALL: [ObjectStoreKind; 3] =
    [ObjectStoreKind::S3, ObjectStoreKind::Gcs, ObjectStoreKind::Azure];

/// A key of Google's that asks nobody for a token.
const NO_ACCOUNT: &str =
    r#"{"private_key":"k","private_key_id":"i","client_email":"e","disable_oauth":true}"#;

/// How the server behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Mode {
    #[default]
    Good,
    IgnoresConditions,
    NoBucket,
    Forbidden,
}

#[derive(Debug)]
pub(crate) struct Server {
    kind: ObjectStoreKind,
    mode: Mutex<Mode>,
    objects: Mutex<Objects>,
}

#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) content: Bytes,
    version: u64,
    /// Header lines of what users say about an object.
    said: Vec<(HeaderName, HeaderValue)>,
}

#[derive(Debug, Default)]
pub(crate) struct Objects {
    /// By bucket and key.
    pub(crate) kept: BTreeMap<String, Kept>,
    versions: u64,
    /// Header lines of writes.
    pub(crate) written: Vec<HeaderMap>,
    /// Bytes that were read.
    pub(crate) read: usize,
    /// Parts by upload and number or name.
    parts: BTreeMap<(String, String), Bytes>,
}

/// What leads to a server.
pub(crate) fn account(kind: ObjectStoreKind, server: &str) -> Environment {
    let variables = match kind {
        ObjectStoreKind::S3 => vec![
            ("FEAST_S3_ENDPOINT_URL", server),
            ("AWS_ENDPOINT_URL", server),
            ("AWS_ACCESS_KEY_ID", "id"),
            ("AWS_SECRET_ACCESS_KEY", SECRET),
        ],
        ObjectStoreKind::Gcs => vec![
            ("GOOGLE_BASE_URL", server),
            ("GOOGLE_SERVICE_ACCOUNT_KEY", NO_ACCOUNT),
        ],
        ObjectStoreKind::Azure => vec![
            ("REGISTRY_BLOB_KEY", SECRET),
            ("AZURE_STORAGE_ACCOUNT_NAME", "account"),
            ("AZURE_STORAGE_ENDPOINT", server),
            ("AZURE_ALLOW_HTTP", "true"),
        ],
    };
    let pair = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    Environment::of(&variables.into_iter().map(pair).collect())
}

impl Server {
    /// The server's address, and the server.
    pub(crate) async fn start(kind: ObjectStoreKind, mode: Mode) -> (String, Arc<Self>) {
        let server = Arc::new(Self {
            kind,
            mode: Mutex::new(mode),
            objects: Mutex::default(),
        });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&server));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        (format!("http://{address}"), server)
    }

    pub(crate) fn turn(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    pub(crate) fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap()
    }

    /// Puts an object there without a request.
    pub(crate) fn put(&self, key: &str, content: impl Into<Bytes>) {
        self.objects().keep(key.to_owned(), content.into(), Vec::new());
    }
}

/// A path without its escapes, and without the account that it begins with where a host names none.
fn decoded(path: &str) -> String {
    let path = path.trim_matches('/');
    let path = path.strip_prefix("account/").unwrap_or(path).replace('=', "%3D");
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
    let mode = *server.mode.lock().unwrap();
    match mode {
        Mode::NoBucket if server.kind == ObjectStoreKind::Azure => {
            return error(StatusCode::NOT_FOUND, "ContainerNotFound");
        }
        Mode::NoBucket => return error(StatusCode::NOT_FOUND, "NoSuchBucket"),
        Mode::Forbidden => return error(StatusCode::FORBIDDEN, "SignatureDoesNotMatch"),
        Mode::Good | Mode::IgnoresConditions => {}
    }
    let asked = Asked::new(&head.method, &head.uri, &head.headers, server.kind, mode);
    server.objects().answer(&asked, body)
}

/// A request taken apart.
struct Asked<'a> {
    method: &'a Method,
    path: String,
    query: BTreeMap<String, String>,
    headers: &'a HeaderMap,
    is_azure: bool,
    mode: Mode,
}

impl<'a> Asked<'a> {
    fn new(method: &'a Method, uri: &Uri, headers: &'a HeaderMap, kind: ObjectStoreKind, mode: Mode) -> Self {
        Self {
            method,
            path: decoded(uri.path()),
            query: url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes())
                .into_owned()
                .collect(),
            headers,
            is_azure: kind == ObjectStoreKind::Azure,
            mode,
        }
    }

    fn header(&self, name: &str) -> Option<String> {
        let value = self.headers.get(name)?;
        Some(value.to_str().unwrap().trim_matches('"').to_owned())
    }

    fn query(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    fn said(&self) -> Vec<(HeaderName, HeaderValue)> {
        let pairs = self.headers.iter();
        pairs
            .filter(|(name, _)| name.as_str().contains("-meta-"))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }
}

impl Objects {
    fn keep(&mut self, path: String, content: Bytes, said: Vec<(HeaderName, HeaderValue)>) {
        self.versions += 1;
        let kept = Kept {
            content,
            version: self.versions,
            said,
        };
        self.kept.insert(path, kept);
    }

    fn answer(&mut self, asked: &Asked<'_>, body: Bytes) -> Response {
        match asked.method.as_str() {
            "GET" if asked.query.contains_key("list-type") || asked.query("comp") == "list" => {
                self.list(asked)
            }
            "GET" | "HEAD" => self.read(asked),
            "PUT" if asked.query.contains_key("partNumber") || asked.query("comp") == "block" => {
                let part = (
                    asked.path.clone(),
                    format!("{:0>9}{}", asked.query("partNumber"), asked.query("blockid")),
                );
                self.parts.insert(part, body);
                (StatusCode::CREATED, [("etag", "\"part\"")]).into_response()
            }
            "PUT" if asked.query("comp") == "blocklist" => self.complete(asked, &body),
            "PUT" => self.write(asked, body),
            "DELETE" => {
                self.kept.remove(&asked.path);
                StatusCode::NO_CONTENT.into_response()
            }
            "POST" if asked.query.contains_key("uploads") => {
                "<InitiateMultipartUploadResult><UploadId>one</UploadId></InitiateMultipartUploadResult>"
                    .into_response()
            }
            "POST" if asked.query.contains_key("uploadId") => self.complete(asked, &body),
            "POST" if asked.is_azure => self.delete_batch(&body),
            _ => {
                let text = String::from_utf8(body.to_vec()).unwrap();
                let (_, rest) = text.split_once("<Key>").unwrap();
                let (key, _) = rest.split_once("</Key>").unwrap();
                self.kept.remove(&format!("{}/{key}", asked.path));
                format!("<DeleteResult><Deleted><Key>{key}</Key></Deleted></DeleteResult>").into_response()
            }
        }
    }

    fn read(&mut self, asked: &Asked<'_>) -> Response {
        let Some(kept) = self.kept.get(&asked.path) else {
            return error(StatusCode::NOT_FOUND, "NoSuchKey");
        };
        let version = kept.version.to_string();
        if asked.header("if-none-match").as_ref() == Some(&version) {
            return StatusCode::NOT_MODIFIED.into_response();
        }
        if asked.header("if-match").is_some_and(|wanted| wanted != version) {
            return error(StatusCode::PRECONDITION_FAILED, "PreconditionFailed");
        }
        let size = kept.content.len();
        let range = asked.header("range").or_else(|| asked.header("x-ms-range"));
        let (status, content, range) = match range {
            None => (StatusCode::OK, kept.content.clone(), None),
            Some(range) => {
                let (start, end) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
                let (start, end) = match (start, end) {
                    ("", length) => (size - length.parse::<usize>().unwrap(), size),
                    (start, "") => (start.parse().unwrap(), size),
                    (start, end) => (
                        start.parse().unwrap(),
                        size.min(end.parse::<usize>().unwrap() + 1),
                    ),
                };
                let told = format!("bytes {start}-{}/{size}", end - 1);
                (
                    StatusCode::PARTIAL_CONTENT,
                    kept.content.slice(start..end),
                    Some(told),
                )
            }
        };
        let mut response = (status, described(kept.version), content.clone()).into_response();
        let headers = response.headers_mut();
        headers.extend(kept.said.iter().cloned());
        if let Some(range) = range {
            headers.insert("content-range", range.parse().unwrap());
        }
        if asked.method == Method::GET {
            self.read += content.len();
        }
        response
    }

    fn write(&mut self, asked: &Asked<'_>, body: Bytes) -> Response {
        let present = self.kept.get(&asked.path).map(|kept| kept.version.to_string());
        let generation = asked.header("x-goog-if-generation-match");
        let none = asked.header("if-none-match").is_some();
        let wanted = asked
            .header("if-match")
            .or_else(|| generation.clone().filter(|version| version != "0"));
        let refuse = match wanted {
            Some(version) => present != Some(version),
            None => (none || generation.is_some()) && present.is_some(),
        };
        if refuse && asked.mode != Mode::IgnoresConditions {
            return if asked.is_azure && none {
                error(StatusCode::CONFLICT, "BlobAlreadyExists")
            } else {
                error(StatusCode::PRECONDITION_FAILED, "PreconditionFailed")
            };
        }
        self.keep(asked.path.clone(), body, asked.said());
        self.written.push(asked.headers.clone());
        (StatusCode::CREATED, described(self.versions)).into_response()
    }

    /// Makes an object of the parts that were written of it: on Azure in the order of the list, else by number.
    fn complete(&mut self, asked: &Asked<'_>, list: &[u8]) -> Response {
        let list = String::from_utf8_lossy(list);
        let names: Vec<String> = if asked.is_azure {
            let items = list.split('<').filter_map(|item| item.split_once('>'));
            items.map(|(_, id)| format!("{:0>9}{id}", "")).collect()
        } else {
            let parts = self.parts.keys().filter(|(path, _)| *path == asked.path);
            parts.map(|(_, name)| name.clone()).collect()
        };
        let mut content = Vec::new();
        for name in names {
            let part = self.parts.remove(&(asked.path.clone(), name));
            content.extend_from_slice(&part.unwrap_or_default());
        }
        self.keep(asked.path.clone(), content.into(), asked.said());
        let text = "<CompleteMultipartUploadResult><ETag>done</ETag></CompleteMultipartUploadResult>";
        (StatusCode::CREATED, described(self.versions), text).into_response()
    }

    fn list(&self, asked: &Asked<'_>) -> Response {
        let (prefix, delimiter) = (asked.query("prefix"), asked.query("delimiter"));
        let (mut keys, mut folders) = (String::new(), Vec::new());
        for (path, kept) in &self.kept {
            let key = path
                .strip_prefix(&asked.path)
                .and_then(|key| key.strip_prefix('/'));
            let Some(rest) = key.and_then(|key| key.strip_prefix(prefix)) else {
                continue;
            };
            if let Some((folder, _)) = rest.split_once('/').filter(|_| !delimiter.is_empty()) {
                let folder = format!("{prefix}{folder}/");
                if !folders.contains(&folder) {
                    folders.push(folder);
                }
                continue;
            }
            let (length, version) = (kept.content.len(), kept.version);
            keys += &if asked.is_azure {
                format!(
                    "<Blob><Name>{prefix}{rest}</Name><Properties><Last-Modified>Sun, 22 Nov 2026 05:00:00 GMT</Last-Modified><Content-Length>{length}</Content-Length><Content-Type>application/octet-stream</Content-Type><Etag>{version}</Etag></Properties></Blob>"
                )
            } else {
                format!(
                    "<Contents><Key>{prefix}{rest}</Key><LastModified>2026-11-22T05:00:00.000Z</LastModified><ETag>\"{version}\"</ETag><Size>{length}</Size></Contents>"
                )
            };
        }
        if asked.is_azure {
            let folders: String = folders
                .iter()
                .map(|name| format!("<BlobPrefix><Name>{name}</Name></BlobPrefix>"))
                .collect();
            format!("<EnumerationResults><Blobs>{folders}{keys}</Blobs><NextMarker/></EnumerationResults>")
        } else {
            let folders: String = folders
                .iter()
                .map(|name| format!("<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>"))
                .collect();
            format!("<ListBucketResult><IsTruncated>false</IsTruncated>{keys}{folders}</ListBucketResult>")
        }
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
