//! In which form a request came, and in which its answer goes out: media types and packing.

use std::io::{Read as _, Write as _};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};

use super::reply::json_bytes;
use crate::{
    error::{Error, Result},
    online::{limits::Limits, table},
};

/// The media type of protobuf messages.
pub(super) const PROTOBUF: &str = "application/x-protobuf";

/// Shorter answers are not worth packing: they fit a packet as they are.
const PACKED_FROM: usize = 1400;

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Protobuf,
    Arrow,
}

impl Format {
    /// The first form in `Accept` that there is; JSON for everybody else.
    pub(super) fn accepted(headers: &HeaderMap) -> Self {
        let Some(accept) = headers
            .get(header::ACCEPT)
            .and_then(|accept| accept.to_str().ok())
        else {
            return Self::Json;
        };
        let known = accept.split(',').find_map(|range| match media_type(range) {
            "application/json" | "*/*" | "application/*" => Some(Self::Json),
            PROTOBUF | "application/protobuf" => Some(Self::Protobuf),
            table::MEDIA_TYPE => Some(Self::Arrow),
            _ => None,
        });
        known.unwrap_or(Self::Json)
    }
}

/// Whether a request's body is a protobuf message.
pub(super) fn is_protobuf(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| matches!(media_type(kind), PROTOBUF | "application/protobuf"))
}

fn media_type(range: &str) -> &str {
    range.split(';').next().unwrap_or_default().trim()
}

/// A finished answer in its form, packed when that is worth it and the caller can unpack it.
pub(super) fn answer(headers: &HeaderMap, limits: &Limits, format: Format, body: Vec<u8>) -> Response {
    let packed = if limits.config.gzip && body.len() >= PACKED_FROM && accepts_gzip(headers) {
        pack(&body)
    } else {
        None
    };
    let is_packed = packed.is_some();
    let body = packed.unwrap_or(body);
    let mut response = match format {
        Format::Json => json_bytes(StatusCode::OK, body),
        Format::Protobuf => of_type(PROTOBUF, body),
        Format::Arrow => of_type(table::MEDIA_TYPE, body),
    };
    let mut put = |name: HeaderName, value| {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    };
    if is_packed {
        put(header::CONTENT_ENCODING, "gzip");
        put(header::VARY, "accept, accept-encoding");
    }
    response
}

fn of_type(kind: &'static str, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    let codings = headers
        .get(header::ACCEPT_ENCODING)
        .and_then(|codings| codings.to_str().ok());
    codings.is_some_and(|codings| {
        codings.split(',').any(|coding| {
            let (name, rest) = coding.split_once(';').unwrap_or((coding, ""));
            let refused = matches!(rest.trim(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000");
            matches!(name.trim(), "gzip" | "*") && !refused
        })
    })
}

fn pack(body: &[u8]) -> Option<Vec<u8>> {
    let mut packer = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    packer.write_all(body).ok()?;
    packer.finish().ok()
}

/// The body as it was before it was packed, and never more than the limit of it.
///
/// # Errors
/// `TooLarge`; `InvalidArgument` for damaged bytes and other codings.
pub(super) fn unpacked(headers: &HeaderMap, body: Bytes, limits: &Limits) -> Result<Bytes> {
    let Some(coding) = headers.get(header::CONTENT_ENCODING) else {
        return Ok(body);
    };
    match coding.to_str().unwrap_or_default().trim() {
        "" | "identity" => Ok(body),
        "gzip" | "x-gzip" => {
            let most = limits.config.max_body;
            let mut out = Vec::new();
            let mut reader = GzDecoder::new(body.as_ref()).take(most as u64 + 1);
            reader
                .read_to_end(&mut out)
                .map_err(|error| Error::invalid(format!("the body is no gzip: {error}")))?;
            if out.len() > most {
                return Err(limits.too_long());
            }
            Ok(out.into())
        }
        other => Err(Error::invalid(format!("bodies packed by `{other}` are not read"))
            .hint("send it as it is, or by gzip")),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn headers(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn the_first_known_form_is_answered() {
        let format = |accept| Format::accepted(&headers(header::ACCEPT, accept));
        assert_eq!(format("*/*"), Format::Json);
        assert_eq!(format("text/html"), Format::Json);
        assert_eq!(
            format("text/html, application/x-protobuf;q=0.9, */*"),
            Format::Protobuf
        );
        assert_eq!(format("application/vnd.apache.arrow.stream"), Format::Arrow);
    }

    #[test]
    fn packing_is_for_those_who_can_unpack() {
        let accepts = |codings| accepts_gzip(&headers(header::ACCEPT_ENCODING, codings));
        assert!(accepts("deflate, gzip;q=0.5") && accepts("*"));
        assert!(!accepts("br") && !accepts("gzip;q=0") && !accepts_gzip(&HeaderMap::new()));
    }

    #[test]
    fn a_bomb_is_not_unpacked() {
        let mut limits = Limits::default();
        limits.config.max_body = 1 << 20;
        let gzip = headers(header::CONTENT_ENCODING, "gzip");
        let bomb = Bytes::from(pack(&vec![b' '; 64 << 20]).unwrap());
        assert!(bomb.len() < limits.config.max_body);
        let refused = unpacked(&gzip, bomb, &limits).unwrap_err();
        assert_eq!(refused.kind(), crate::error::Kind::TooLarge);
        let fits = Bytes::from(pack(b"{}").unwrap());
        assert_eq!(unpacked(&gzip, fits.clone(), &limits).unwrap(), "{}");
        assert!(unpacked(&gzip, fits.slice(..fits.len() - 3), &limits).is_err());
    }
}
