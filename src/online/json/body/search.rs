//! The bodies of searches: Feast's own, and those of OpenAI's vector stores.

use serde_json::Value as Json;

use super::{Body, Rejection};
use crate::online::{
    plan::Wanted,
    search::Request,
    store::search::{Comparison, Filter},
};

/// The body of `/search`.
#[derive(Debug)]
pub struct SearchBody {
    pub request: Request,
    /// 1 is the deprecated form, 2 the present one.
    pub api_version: i64,
}

/// The body of `/v1/vector_stores/{id}/search`.
#[derive(Debug)]
pub struct VectorStoreBody {
    pub query: Query,
    pub filter: Option<Filter>,
    pub max_num_results: Option<i64>,
    /// Parameters that Feast refuses as well.
    pub unsupported: Vec<&'static str>,
    pub features: Option<Vec<String>>,
}

/// What a vector store is asked for.
#[derive(Debug)]
pub enum Query {
    Texts(Vec<String>),
    /// thali's own: the caller has embedded its text itself.
    Vector(Vec<f32>),
}

/// Reads the body of `/search`.
///
/// # Errors
/// A rejection that lists every wrong field.
pub fn read_search(raw: &[u8]) -> Result<SearchBody, Rejection> {
    let mut body = Body::parse(raw)?;
    let service = body.text("feature_service").filter(|name| !name.is_empty());
    let features = body.texts("features").unwrap_or_default();
    let mut request = Request {
        wanted: service.map_or_else(|| Wanted::features(features), Wanted::service),
        vector: body.vector("query"),
        text: body.text("query_string"),
        metric: body.text("distance_metric"),
        filter: body.filter("filters"),
        top_k: body.int("top_k"),
        version_metadata: body.flag("include_feature_view_version_metadata", false),
    };
    body.flag("full_feature_names", false);
    let api_version = body.int("api_version").unwrap_or(1);
    if api_version != 2 {
        (request.text, request.metric, request.filter) = (None, None, None);
    }
    body.finish(SearchBody { request, api_version })
}

/// Reads the body of `/v1/vector_stores/{id}/search`.
///
/// # Errors
/// A rejection that lists every wrong field.
pub fn read_vector_store_search(raw: &[u8]) -> Result<VectorStoreBody, Rejection> {
    let mut body = Body::parse(raw)?;
    let query = body.query();
    let mut unsupported = Vec::new();
    let options = body.take("ranking_options");
    for (name, told) in [
        ("score_threshold", "ranking_options.score_threshold"),
        ("ranker", "ranking_options.ranker"),
    ] {
        let given = options.as_ref().and_then(|options| options.get(name));
        unsupported.extend(given.filter(|given| !given.is_null()).map(|_| told));
    }
    if body.flag("rewrite_query", false) {
        unsupported.push("rewrite_query");
    }
    let metadata = body.take("metadata");
    let features = metadata
        .as_ref()
        .and_then(|metadata| metadata.get("features_to_retrieve")?.as_array());
    let features = features.map(|names| names.iter().filter_map(|name| Some(name.as_str()?.to_owned())));
    let read = VectorStoreBody {
        query,
        filter: body.filter("filters"),
        max_num_results: body.int("max_num_results"),
        unsupported,
        features: features.map(Iterator::collect),
    };
    body.finish(read)
}

impl Body<'_> {
    /// An optional whole number.
    fn int(&mut self, name: &str) -> Option<i64> {
        let value = self.take(name)?;
        let number = match &value {
            #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and small")]
            Json::Number(number) => number.as_i64().or_else(|| {
                let number = number.as_f64()?;
                (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64)
            }),
            Json::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        if number.is_none() {
            let message = "Input should be a valid integer, unable to parse input";
            self.problem("int_parsing", &[name.into()], message, &value);
        }
        number
    }

    /// An optional list of numbers.
    fn vector(&mut self, name: &str) -> Option<Vec<f32>> {
        let value = self.take(name)?;
        let Json::Array(items) = &value else {
            self.problem(
                "list_type",
                &[name.into()],
                "Input should be a valid list",
                &value,
            );
            return None;
        };
        let mut vector = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            match number(item) {
                Some(number) => vector.push(number),
                None => {
                    let place = [name.into(), index.into()];
                    self.problem("float_type", &place, "Input should be a valid number", item);
                }
            }
        }
        Some(vector)
    }

    /// Texts, or a vector.
    fn query(&mut self) -> Query {
        if !self.fields.contains_key("query") {
            self.missing("query");
        }
        match self.fields.get("query") {
            Some(Json::Array(items)) if items.iter().any(Json::is_number) => {
                Query::Vector(self.vector("query").unwrap_or_default())
            }
            Some(Json::Array(_)) => Query::Texts(self.texts("query").unwrap_or_default()),
            _ => Query::Texts(vec![self.text("query").unwrap_or_default()]),
        }
    }

    /// An optional condition.
    fn filter(&mut self, name: &str) -> Option<Filter> {
        let value = self.take(name)?;
        self.condition(&value, &mut vec![name.into()])
    }

    fn condition(&mut self, value: &Json, place: &mut Vec<Json>) -> Option<Filter> {
        let Json::Object(fields) = value else {
            let message = "Input should be a valid dictionary";
            self.problem("model_type", place, message, value);
            return None;
        };
        let kind = fields.get("type").and_then(Json::as_str).unwrap_or_default();
        let Some(op) = comparison(kind) else {
            return self.compound(kind, value, place);
        };
        let Some(key) = fields.get("key").and_then(Json::as_str) else {
            place.push("key".into());
            self.problem("missing", place, "Field required", value);
            place.pop();
            return None;
        };
        let Some(compared) = fields.get("value") else {
            place.push("value".into());
            self.problem("missing", place, "Field required", value);
            place.pop();
            return None;
        };
        let (key, value) = (key.to_owned(), compared.clone());
        Some(Filter::Compare { op, key, value })
    }

    fn compound(&mut self, kind: &str, value: &Json, place: &mut Vec<Json>) -> Option<Filter> {
        if !matches!(kind, "and" | "or") {
            place.push("type".into());
            let message = "Input should be 'eq', 'ne', 'gt', 'gte', 'lt', 'lte', 'in', 'nin', 'and' or 'or'";
            self.problem("literal_error", place, message, &value["type"]);
            place.pop();
            return None;
        }
        let Some(parts) = value.get("filters").and_then(Json::as_array) else {
            place.push("filters".into());
            self.problem("missing", place, "Field required", value);
            place.pop();
            return None;
        };
        let mut filters = Vec::with_capacity(parts.len());
        for (index, part) in parts.iter().enumerate() {
            place.extend(["filters".into(), index.into()]);
            filters.extend(self.condition(part, place));
            place.truncate(place.len() - 2);
        }
        Some(match kind {
            "and" => Filter::And(filters),
            _ => Filter::Or(filters),
        })
    }
}

fn comparison(kind: &str) -> Option<Comparison> {
    Some(match kind {
        "eq" => Comparison::Equal,
        "ne" => Comparison::NotEqual,
        "gt" => Comparison::Greater,
        "gte" => Comparison::GreaterOrEqual,
        "lt" => Comparison::Less,
        "lte" => Comparison::LessOrEqual,
        "in" => Comparison::In,
        "nin" => Comparison::NotIn,
        _ => return None,
    })
}

/// A number, also as text, as pydantic takes it.
#[expect(clippy::cast_possible_truncation, reason = "vectors are of single precision")]
fn number(value: &Json) -> Option<f32> {
    match value {
        Json::Number(number) => Some(number.as_f64()? as f32),
        Json::String(text) => text.trim().parse::<f64>().ok().map(|number| number as f32),
        _ => None,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn conditions_nest() {
        let raw = json!({"features": ["v:a"], "query": [1, "0.5"], "top_k": 2.0, "api_version": "2", "filters":
            {"type": "and", "filters": [{"type": "gte", "key": "a", "value": 5}, {"type": "or", "filters": []}]}});
        let body = read_search(raw.to_string().as_bytes()).unwrap();
        assert_eq!((body.api_version, body.request.top_k), (2, Some(2)));
        assert_eq!(body.request.vector, Some(vec![1.0, 0.5]));
        let compare = Filter::Compare {
            op: Comparison::GreaterOrEqual,
            key: "a".to_owned(),
            value: json!(5),
        };
        let wanted = Filter::And(vec![compare, Filter::Or(Vec::new())]);
        assert_eq!(body.request.filter, Some(wanted));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let raw = json!({"query": [1, []], "top_k": "x", "filters":
            {"type": "and", "filters": [{"type": "xx", "key": "a", "value": 1}]}});
        let detail = read_search(raw.to_string().as_bytes()).unwrap_err().detail;
        let places: Vec<&Json> = detail.iter().map(|problem| &problem["loc"]).collect();
        assert_eq!(
            places,
            [
                &json!(["body", "query", 1]),
                &json!(["body", "filters", "filters", 0, "type"]),
                &json!(["body", "top_k"]),
            ]
        );
    }

    #[test]
    fn version_one_knows_no_conditions() {
        let raw =
            json!({"query": [1], "query_string": "x", "filters": {"type": "eq", "key": "a", "value": 1}});
        let body = read_search(raw.to_string().as_bytes()).unwrap();
        assert_eq!((body.request.filter, body.request.text), (None, None));
    }
}
