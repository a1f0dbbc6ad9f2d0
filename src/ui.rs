//! Serves the web page that is embedded from `ui/dist`: its files with validators and compression,
//! and the page itself for every path that names a page. It answers no data; that is the work of the
//! routers it is merged with, whose routes always win over the two catch-alls here.

use axum::{
    Json, Router,
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::get,
};
use rust_embed::{EmbeddedFile, RustEmbed};

/// What `npm run build` wrote, or the notice of the build script when nobody ran it. Release builds
/// embed the files; debug builds read them from the source tree at each request.
#[derive(RustEmbed)]
#[folder = "ui/dist"]
struct Assets;

const INDEX: &str = "index.html";

/// The page loads nothing from elsewhere and runs no inline code, so the browser may refuse both.
const CONTENT_SECURITY_POLICY: &str = "default-src 'self'; img-src 'self' data:; object-src 'none'; \
     base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// Vite puts a content hash into the name of everything below `assets/`.
const IMMUTABLE: &str = "public, max-age=31536000, immutable";

/// The page under every path no other route answers.
pub fn router() -> Router {
    Router::new().route("/", get(serve)).route("/{*path}", get(serve))
}

async fn serve(uri: Uri, headers: HeaderMap) -> Response {
    let path = uri.path().trim_start_matches('/');
    if path == "api" || path.starts_with("api/") {
        return not_found();
    }
    let name = if path.is_empty() || names_page(path) {
        INDEX
    } else {
        path
    };
    // The compressed twins are a detail of how a file is stored, not files of their own.
    if name.ends_with(".gz") {
        return not_found();
    }
    file(name, &headers).unwrap_or_else(not_found)
}

/// Whether `path` is a page of the application and not a file. Names of objects may hold dots, so
/// everything about a project (`p/…`) is a page; elsewhere an extension means a file.
fn names_page(path: &str) -> bool {
    path.starts_with("p/") || !path.rsplit('/').next().unwrap_or_default().contains('.')
}

fn file(name: &str, request: &HeaderMap) -> Option<Response> {
    let plain = Assets::get(name)?;
    let content_type = plain.metadata.mimetype().to_owned();
    let gzip = accepts_gzip(request)
        .then(|| Assets::get(&format!("{name}.gz")))
        .flatten();
    let encoded = gzip.is_some();
    let found = gzip.unwrap_or(plain);
    let etag = etag(&found);
    let fresh = is_fresh(request, &etag);

    let mut response = if fresh {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        Body::from(found.data.into_owned()).into_response()
    };
    let headers = response.headers_mut();
    let cache = if name.starts_with("assets/") {
        IMMUTABLE
    } else {
        "no-cache"
    };
    set(headers, header::CACHE_CONTROL, cache);
    set(headers, header::ETAG, &etag);
    set(headers, header::VARY, "accept-encoding");
    set(headers, header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY);
    set(headers, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(headers, header::REFERRER_POLICY, "same-origin");
    if !fresh {
        let text = content_type.starts_with("text/") && !content_type.contains("charset");
        set(
            headers,
            header::CONTENT_TYPE,
            &if text {
                format!("{content_type}; charset=utf-8")
            } else {
                content_type
            },
        );
        if encoded {
            set(headers, header::CONTENT_ENCODING, "gzip");
        }
    }
    Some(response)
}

/// Header values here are ASCII we made ourselves; one that is not is left out instead of failing.
fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// A strong validator: plain and compressed bytes hash differently, as they must.
fn etag(file: &EmbeddedFile) -> String {
    format!("\"{}\"", hex::encode(&file.metadata.sha256_hash()[..16]))
}

fn is_fresh(request: &HeaderMap, etag: &str) -> bool {
    let known = request
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok());
    known
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag)
}

/// Whether the client takes gzip: named, or covered by `*`, and not refused with `q=0`.
fn accepts_gzip(request: &HeaderMap) -> bool {
    let lists = request
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut wildcard = false;
    for item in lists.flat_map(|list| list.split(',')) {
        let mut parts = item.split(';').map(str::trim);
        let coding = parts.next().unwrap_or_default();
        let quality = parts
            .find_map(|part| part.strip_prefix("q="))
            .and_then(|q| q.parse::<f32>().ok());
        let wanted = quality.is_none_or(|q| q > 0.0);
        if coding.eq_ignore_ascii_case("gzip") {
            return wanted;
        }
        wildcard |= coding == "*" && wanted;
    }
    wildcard
}

fn not_found() -> Response {
    (
        StatusCode::NOT_FOUND,
        Json(serde_json::json!({ "detail": "Not Found" })),
    )
        .into_response()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use axum::{body::to_bytes, http::Request};
    use tower::ServiceExt;

    use super::*;

    async fn send(method: &str, path: &str, headers: &[(HeaderName, &str)]) -> Response {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        router()
            .oneshot(request.body(Body::empty()).unwrap())
            .await
            .unwrap()
    }

    fn header_of(response: &Response, name: HeaderName) -> &str {
        response
            .headers()
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    async fn body(response: Response) -> Vec<u8> {
        to_bytes(response.into_body(), usize::MAX).await.unwrap().to_vec()
    }

    #[tokio::test]
    async fn every_page_path_answers_the_page_and_revalidates() {
        let index = Assets::get(INDEX).unwrap().data.into_owned();
        for path in [
            "/",
            "/p/flights",
            "/p/flights/feature-view/weather",
            "/p/flights/entity/a.b",
        ] {
            let response = send("GET", path, &[]).await;
            assert_eq!(response.status(), StatusCode::OK, "{path}");
            assert_eq!(
                header_of(&response, header::CONTENT_TYPE),
                "text/html; charset=utf-8"
            );
            assert_eq!(header_of(&response, header::CACHE_CONTROL), "no-cache");
            assert!(header_of(&response, header::CONTENT_SECURITY_POLICY).starts_with("default-src 'self';"));
            assert_eq!(header_of(&response, header::CONTENT_ENCODING), "");
            assert_eq!(body(response).await, index, "{path}");
        }
    }

    #[tokio::test]
    async fn missing_files_and_api_paths_are_not_pages() {
        for path in [
            "/assets/gone.js",
            "/gone.png",
            "/index.html.gz",
            "/api/v1/entities",
            "/api",
            "/../Cargo.toml",
        ] {
            let response = send("GET", path, &[]).await;
            assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
            assert_eq!(body(response).await, br#"{"detail":"Not Found"}"#);
        }
    }

    #[tokio::test]
    async fn a_known_tag_answers_304_without_a_body() {
        let tag = header_of(&send("GET", "/", &[]).await, header::ETAG).to_owned();
        assert!(tag.starts_with('"') && tag.len() == 34, "{tag}");
        for known in [
            tag.clone(),
            format!("\"other\", {tag}"),
            format!("W/{tag}"),
            "*".to_owned(),
        ] {
            let response = send("GET", "/", &[(header::IF_NONE_MATCH, &known)]).await;
            assert_eq!(response.status(), StatusCode::NOT_MODIFIED, "{known}");
            assert_eq!(header_of(&response, header::ETAG), tag);
            assert!(body(response).await.is_empty());
        }
        let other = send("GET", "/", &[(header::IF_NONE_MATCH, "\"other\"")]).await;
        assert_eq!(other.status(), StatusCode::OK);
    }

    #[tokio::test]
    async fn head_has_the_headers_of_get_and_no_body() {
        let get = send("GET", "/", &[]).await;
        let head = send("HEAD", "/", &[]).await;
        assert_eq!(head.status(), StatusCode::OK);
        assert_eq!(head.headers().get(header::ETAG), get.headers().get(header::ETAG));
        let length = header_of(&head, header::CONTENT_LENGTH).to_owned();
        assert!(body(head).await.is_empty());
        assert_eq!(length, body(get).await.len().to_string());
    }

    /// Only a built page has compressed files; the notice of the build script is too small to matter.
    #[tokio::test]
    async fn built_files_are_compressed_and_hashed_ones_never_revalidated() {
        for name in Assets::iter() {
            let Some(plain) = name.strip_suffix(".gz") else {
                continue;
            };
            let path = format!("/{plain}");
            let raw = send("GET", &path, &[(header::ACCEPT_ENCODING, "gzip;q=0, br")]).await;
            assert_eq!(header_of(&raw, header::CONTENT_ENCODING), "", "{path}");
            let small = send("GET", &path, &[(header::ACCEPT_ENCODING, "br, gzip")]).await;
            assert_eq!(header_of(&small, header::CONTENT_ENCODING), "gzip", "{path}");
            assert_eq!(header_of(&small, header::VARY), "accept-encoding");
            assert_ne!(small.headers().get(header::ETAG), raw.headers().get(header::ETAG));
            assert_eq!(
                small.headers().get(header::CONTENT_TYPE),
                raw.headers().get(header::CONTENT_TYPE)
            );
            assert_eq!(
                header_of(&raw, header::CACHE_CONTROL) == IMMUTABLE,
                plain.starts_with("assets/")
            );
            assert!(body(small).await.len() < body(raw).await.len(), "{path}");
        }
    }

    #[test]
    fn gzip_is_used_only_for_those_who_take_it() {
        let asks = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_str(value).unwrap());
            accepts_gzip(&headers)
        };
        assert!(asks("gzip"));
        assert!(asks("br;q=1.0, GZIP;q=0.5"));
        assert!(asks("*"));
        assert!(!asks("gzip;q=0, *"));
        assert!(!asks("gzip; q=0"));
        assert!(!asks("identity, br"));
        assert!(!accepts_gzip(&HeaderMap::new()));
    }
}
