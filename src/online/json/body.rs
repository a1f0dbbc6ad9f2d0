//! Request bodies: JSON to typed requests, with the 422 details FastAPI answers (`loc`, `msg`, `type`,
//! `input`), so that clients that read them need not change. What the values mean is not checked here.

mod request;
mod search;

use std::borrow::Cow;

use serde_json::{Map, Value as Json, json};

use crate::online::{
    plan::Wanted,
    serve::{Given, Request},
};

pub use search::{Query, SearchBody, VectorStoreBody, read_search, read_vector_store_search};

/// How many problems are told at once: a body may have millions, each longer when it is told.
const TOLD: usize = 100;

/// Columns of JSON values by name, in the caller's order.
pub type Columns = Vec<(String, Vec<Json>)>;

/// Why a body was refused, as FastAPI's `detail` list.
#[derive(Debug, Clone, PartialEq)]
pub struct Rejection {
    pub detail: Vec<Json>,
}

/// Body of `/push`.
#[derive(Debug, Clone, PartialEq)]
pub struct PushBody {
    pub push_source_name: String,
    pub df: Columns,
    pub to: String,
    pub transform_on_write: bool,
    /// Whether rows count that are older than the stored ones; Feast has no such field.
    pub allow_older: bool,
}

/// Body of `/write-to-online-store`.
#[derive(Debug, Clone, PartialEq)]
pub struct WriteBody {
    pub feature_view_name: String,
    pub df: Columns,
    /// Whether the cached registry will do; otherwise it is looked at first.
    pub allow_registry_cache: bool,
    pub transform_on_write: bool,
    /// As in [`PushBody`].
    pub allow_older: bool,
}

/// Body of `/materialize` and `/materialize-incremental`.
#[derive(Debug, Clone, PartialEq)]
pub struct MaterializeBody {
    pub start_ts: Option<String>,
    pub end_ts: Option<String>,
    pub feature_views: Option<Vec<String>>,
    pub disable_event_timestamp: bool,
    pub version: Option<String>,
    /// Only tell what would be done; thali's own, as is `backfill`.
    pub dry_run: bool,
    /// Let rows overwrite stored ones that are newer.
    pub backfill: bool,
}

/// A request body being read field by field; problems are collected, so that all are told at once.
pub struct Body<'a> {
    raw: &'a [u8],
    fields: Map<String, Json>,
    problems: Vec<Json>,
}

impl<'a> Body<'a> {
    /// Parses the text of a JSON object. `NaN` and infinities, which Python writes, are taken as texts.
    ///
    /// # Errors
    /// A rejection when it is no JSON or no object.
    pub fn parse(raw: &'a [u8]) -> Result<Self, Rejection> {
        match parse_json(raw)? {
            Json::Object(fields) => Ok(Self {
                raw,
                fields,
                problems: Vec::new(),
            }),
            other => Err(Rejection {
                detail: vec![json!({
                    "type": "model_attributes_type",
                    "loc": ["body"],
                    "msg": "Input should be a valid dictionary or object to extract fields from",
                    "input": other,
                })],
            }),
        }
    }

    /// The fields read, or everything that was wrong with them.
    ///
    /// # Errors
    /// The collected problems.
    pub fn finish<T>(self, value: T) -> Result<T, Rejection> {
        if self.problems.is_empty() {
            Ok(value)
        } else {
            Err(Rejection {
                detail: self.problems,
            })
        }
    }

    /// A field that may be left out or null.
    fn take(&mut self, name: &str) -> Option<Json> {
        self.fields
            .get_mut(name)
            .map(Json::take)
            .filter(|value| !value.is_null())
    }

    fn problem(&mut self, kind: &str, location: &[Json], message: &str, input: &Json) {
        if self.problems.len() >= TOLD {
            return;
        }
        let mut path = vec![Json::from("body")];
        path.extend_from_slice(location);
        self.problems
            .push(json!({"type": kind, "loc": path, "msg": message, "input": input}));
    }

    fn missing(&mut self, name: &str) {
        let input = parse_json(self.raw).unwrap_or_default();
        self.problem("missing", &[name.into()], "Field required", &input);
    }

    /// An optional text.
    pub fn text(&mut self, name: &str) -> Option<String> {
        match self.take(name)? {
            Json::String(text) => Some(text),
            other => {
                self.problem(
                    "string_type",
                    &[name.into()],
                    "Input should be a valid string",
                    &other,
                );
                None
            }
        }
    }

    /// A text that must be there.
    pub fn required_text(&mut self, name: &str) -> String {
        if !self.fields.contains_key(name) {
            self.missing(name);
            return String::new();
        }
        if self.fields.get(name).is_some_and(Json::is_null) {
            self.problem(
                "string_type",
                &[name.into()],
                "Input should be a valid string",
                &Json::Null,
            );
        }
        self.text(name).unwrap_or_default()
    }

    /// A truth value in any of the spellings pydantic takes.
    pub fn flag(&mut self, name: &str, default: bool) -> bool {
        let Some(value) = self.take(name) else {
            return default;
        };
        let truth = match &value {
            Json::Bool(truth) => Some(*truth),
            Json::Number(number) => match number.as_f64() {
                Some(1.0) => Some(true),
                Some(0.0) => Some(false),
                _ => None,
            },
            Json::String(text) => match text.to_ascii_lowercase().as_str() {
                "true" | "t" | "yes" | "y" | "on" | "1" => Some(true),
                "false" | "f" | "no" | "n" | "off" | "0" => Some(false),
                _ => None,
            },
            _ => None,
        };
        truth.unwrap_or_else(|| {
            let message = "Input should be a valid boolean, unable to interpret input";
            self.problem("bool_parsing", &[name.into()], message, &value);
            default
        })
    }

    /// An optional list of texts.
    pub fn texts(&mut self, name: &str) -> Option<Vec<String>> {
        let items = match self.take(name)? {
            Json::Array(items) => items,
            other => {
                self.problem(
                    "list_type",
                    &[name.into()],
                    "Input should be a valid list",
                    &other,
                );
                return None;
            }
        };
        let mut texts = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            match item {
                Json::String(text) => texts.push(text),
                other => {
                    let location = [name.into(), index.into()];
                    self.problem("string_type", &location, "Input should be a valid string", &other);
                }
            }
        }
        Some(texts)
    }

    /// Columns of values, which must be there.
    pub fn columns(&mut self, name: &str) -> Columns {
        let Some(value) = self.fields.get_mut(name).map(Json::take) else {
            self.missing(name);
            return Vec::new();
        };
        let Json::Object(fields) = value else {
            self.problem(
                "dict_type",
                &[name.into()],
                "Input should be a valid dictionary",
                &value,
            );
            return Vec::new();
        };
        let mut columns = Vec::with_capacity(fields.len());
        for (column, values) in fields {
            match values {
                Json::Array(values) => columns.push((column, values)),
                other => {
                    let location = [name.into(), column.into()];
                    self.problem("list_type", &location, "Input should be a valid list", &other);
                }
            }
        }
        columns
    }
}

/// Reads the body of `/get-online-features`.
///
/// # Errors
/// A rejection that lists every wrong field.
pub fn read_request(raw: &[u8]) -> Result<Request<'_>, Rejection> {
    match request::read(raw) {
        Some(request) => Ok(request),
        None => read_any_request(raw),
    }
}

/// Reads a body that has something wrong or unusual about it.
fn read_any_request(raw: &[u8]) -> Result<Request<'static>, Rejection> {
    let mut body = Body::parse(raw)?;
    let columns = body.columns("entities");
    let service = body.text("feature_service");
    let features = body.texts("features");
    let full_names = body.flag("full_feature_names", false);
    let version_metadata = body.flag("include_feature_view_version_metadata", false);
    let wanted = match service {
        Some(service) if !service.is_empty() => Wanted::service(service),
        _ => Wanted::features(features.unwrap_or_default()),
    };
    let columns = columns
        .into_iter()
        .map(|(name, values)| (name, Given::Json(values)))
        .collect();
    body.finish(Request {
        wanted,
        full_names,
        version_metadata,
        columns,
    })
}

/// Reads the body of thali's own `/lookup`: a project, if one is named, and a request.
///
/// # Errors
/// A rejection that lists every wrong field.
pub fn read_lookup(raw: &[u8]) -> Result<(Option<String>, Request<'static>), Rejection> {
    let mut body = Body::parse(raw)?;
    let project = body.text("project").filter(|project| !project.is_empty());
    let columns = body.columns("entities");
    let features = body.texts("features").unwrap_or_default();
    let wanted = body
        .text("featureService")
        .map_or_else(|| Wanted::features(features), Wanted::service);
    let full_names = body.flag("fullFeatureNames", false);
    let request = Request {
        wanted,
        full_names,
        version_metadata: false,
        columns: columns
            .into_iter()
            .map(|(name, values)| (name, Given::Json(values)))
            .collect(),
    };
    body.finish((project, request))
}

/// Reads the body of `/push`.
///
/// # Errors
/// A rejection that lists every wrong field.
pub fn read_push(raw: &[u8]) -> Result<PushBody, Rejection> {
    let mut body = Body::parse(raw)?;
    let push = PushBody {
        push_source_name: body.required_text("push_source_name"),
        df: body.columns("df"),
        to: body.text("to").unwrap_or_else(|| "online".to_owned()),
        transform_on_write: body.flag("transform_on_write", true),
        allow_older: body.flag("allow_older", false),
    };
    body.finish(push)
}

/// Reads the body of `/write-to-online-store`.
///
/// # Errors
/// A rejection that lists every wrong field.
pub fn read_write(raw: &[u8]) -> Result<WriteBody, Rejection> {
    let mut body = Body::parse(raw)?;
    let write = WriteBody {
        feature_view_name: body.required_text("feature_view_name"),
        df: body.columns("df"),
        allow_registry_cache: body.flag("allow_registry_cache", true),
        transform_on_write: body.flag("transform_on_write", true),
        allow_older: body.flag("allow_older", false),
    };
    body.finish(write)
}

/// Reads the body of `/materialize` or, with `incremental`, of `/materialize-incremental`.
///
/// # Errors
/// A rejection that lists every wrong field.
pub fn read_materialize(raw: &[u8], incremental: bool) -> Result<MaterializeBody, Rejection> {
    let mut body = Body::parse(raw)?;
    let materialize = MaterializeBody {
        start_ts: body.text("start_ts"),
        end_ts: if incremental {
            Some(body.required_text("end_ts"))
        } else {
            body.text("end_ts")
        },
        feature_views: body.texts("feature_views"),
        disable_event_timestamp: body.flag("disable_event_timestamp", false),
        version: body.text("version"),
        dry_run: body.flag("dry_run", false),
        backfill: body.flag("backfill", false),
    };
    body.finish(materialize)
}

fn parse_json(raw: &[u8]) -> Result<Json, Rejection> {
    if raw.iter().all(u8::is_ascii_whitespace) {
        let detail = json!({"type": "missing", "loc": ["body"], "msg": "Field required", "input": null});
        return Err(Rejection { detail: vec![detail] });
    }
    let first = match serde_json::from_slice(raw) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    if let Cow::Owned(text) = quote_non_finite(raw)
        && let Ok(value) = serde_json::from_slice(&text)
    {
        return Ok(value);
    }
    let position = position(raw, first.line(), first.column());
    // serde_json ends its messages with the place, which `loc` holds already.
    let message = first.to_string();
    let message = message.split(" at line ").next().unwrap_or_default();
    Err(Rejection {
        detail: vec![json!({
            "type": "json_invalid",
            "loc": ["body", position],
            "msg": "JSON decode error",
            "input": {},
            "ctx": {"error": message},
        })],
    })
}

/// The offset of a line and column, both counted from one.
fn position(raw: &[u8], line: usize, column: usize) -> usize {
    let before: usize = raw
        .split(|&byte| byte == b'\n')
        .take(line.saturating_sub(1))
        .map(|line| line.len() + 1)
        .sum();
    before + column.saturating_sub(1)
}

/// Puts quotes around the bare `NaN`, `Infinity` and `-Infinity` that Python's `json` writes.
fn quote_non_finite(raw: &[u8]) -> Cow<'_, [u8]> {
    const WORDS: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];
    let mut out: Option<Vec<u8>> = None;
    let mut in_text = false;
    let mut at = 0;
    while at < raw.len() {
        let rest = &raw[at..];
        if in_text && raw[at] == b'\\' {
            let length = rest.len().min(2);
            if let Some(out) = &mut out {
                out.extend_from_slice(&rest[..length]);
            }
            at += length;
            continue;
        }
        if let Some(word) = WORDS.iter().find(|word| !in_text && rest.starts_with(word)) {
            let out = out.get_or_insert_with(|| raw[..at].to_vec());
            out.push(b'"');
            out.extend_from_slice(word);
            out.push(b'"');
            at += word.len();
            continue;
        }
        in_text ^= raw[at] == b'"';
        if let Some(out) = &mut out {
            out.push(raw[at]);
        }
        at += 1;
    }
    out.map_or(Cow::Borrowed(raw), Cow::Owned)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn refusals_look_like_fastapi() {
        let detail = |raw: &str| Json::from(read_request(raw.as_bytes()).unwrap_err().detail);
        assert_eq!(
            detail(r#"{"features":["a:b"]}"#),
            json!([{"type": "missing", "loc": ["body", "entities"], "msg": "Field required", "input": {"features": ["a:b"]}}])
        );
        assert_eq!(
            detail(r#"{"features":"a:b","entities":{"k":[1]}}"#),
            json!([{"type": "list_type", "loc": ["body", "features"], "msg": "Input should be a valid list", "input": "a:b"}])
        );
        assert_eq!(
            detail(r#"{"features":["a:b"],"entities":[{"k":1}]}"#),
            json!([{"type": "dict_type", "loc": ["body", "entities"], "msg": "Input should be a valid dictionary", "input": [{"k": 1}]}])
        );
        let bad = detail("{not json");
        assert_eq!(bad[0]["type"], "json_invalid");
        assert_eq!(bad[0]["loc"], json!(["body", 1]));
        assert_eq!(bad[0]["input"], json!({}));
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let detail =
            read_write(br#"{"feature_view_name":1,"df":{"a":2,"b":[1]},"transform_on_write":"maybe"}"#)
                .unwrap_err()
                .detail;
        assert_eq!(detail.len(), 3);
        assert_eq!(detail[1]["loc"], json!(["body", "df", "a"]));
    }

    #[test]
    fn millions_of_problems_are_not_all_told() {
        let many = format!(r#"{{"features":[{}0],"entities":{{}}}}"#, "0,".repeat(10_000));
        let detail = read_request(many.as_bytes()).unwrap_err().detail;
        assert_eq!(detail.len(), TOLD);
        assert_eq!(detail[TOLD - 1]["loc"], json!(["body", "features", TOLD - 1]));
    }

    #[test]
    fn pythons_numbers_are_read() {
        let body = read_write(br#"{"feature_view_name":"NaN","df":{"a":[NaN,-Infinity,"x\"NaN"]}}"#).unwrap();
        assert_eq!(body.feature_view_name, "NaN");
        assert_eq!(
            body.df[0].1,
            vec![json!("NaN"), json!("-Infinity"), json!("x\"NaN")]
        );
    }

    #[test]
    fn deep_nesting_is_refused_not_followed() {
        let deep = "[".repeat(100_000);
        assert_eq!(
            Body::parse(deep.as_bytes()).err().unwrap().detail[0]["type"],
            "json_invalid"
        );
    }

    #[test]
    fn a_service_wins_over_features() {
        let request = read_request(br#"{"feature_service":"s","features":["a:b"],"entities":{}}"#).unwrap();
        assert_eq!(request.wanted, Wanted::service("s"));
    }
}
