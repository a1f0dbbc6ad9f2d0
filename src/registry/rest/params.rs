//! Query parameters and bodies of the REST routes, with Feast's defaults and limits.

use std::{collections::BTreeMap, convert::Infallible};

use axum::{
    Json,
    extract::{FromRequest, FromRequestParts, Request},
    http::{StatusCode, request::Parts},
};
use serde::de::DeserializeOwned;

use super::reply::Failure;
use crate::proto::feast::registry::{PaginationParams, SortingParams};

/// The most objects a page may hold.
const MAX_LIMIT: i32 = 100;

/// The parameters of a request's query; a name may come more than once.
#[derive(Debug, Default)]
pub(super) struct Params {
    pairs: Vec<(String, String)>,
}

impl<S: Sync> FromRequestParts<S> for Params {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::parse(parts.uri.query().unwrap_or_default()))
    }
}

impl Params {
    /// Reads a query string.
    pub(super) fn parse(query: &str) -> Self {
        let pairs = url::form_urlencoded::parse(query.as_bytes())
            .into_owned()
            .collect();
        Self { pairs }
    }

    /// The last value under that name.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.pairs
            .iter()
            .rev()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The last value under that name, or nothing.
    pub(super) fn text(&self, name: &str) -> String {
        self.get(name).unwrap_or_default().to_owned()
    }

    /// Every value under that name that is not blank.
    pub(super) fn all(&self, name: &str) -> Vec<&str> {
        let values = self
            .pairs
            .iter()
            .filter(|(key, _)| key == name)
            .map(|(_, value)| value.as_str());
        values.filter(|value| !value.trim().is_empty()).collect()
    }

    /// The value under that name, which must be there.
    pub(super) fn required(&self, name: &str) -> Result<&str, Failure> {
        self.get(name)
            .ok_or_else(|| Failure::malformed(format!("query parameter `{name}`: Field required")))
    }

    /// The project, which must be there.
    pub(super) fn project(&self) -> Result<&str, Failure> {
        self.required("project")
    }

    /// A yes or no.
    pub(super) fn flag(&self, name: &str, default: bool) -> Result<bool, Failure> {
        let Some(value) = self.get(name) else {
            return Ok(default);
        };
        match value.to_ascii_lowercase().as_str() {
            "true" | "1" | "on" | "yes" | "t" | "y" => Ok(true),
            "false" | "0" | "off" | "no" | "f" | "n" => Ok(false),
            _ => Err(Failure::malformed(format!(
                "query parameter `{name}`: `{value}` is no boolean"
            ))),
        }
    }

    /// Whether the answer may come from what was seen last, without I/O.
    pub(super) fn allow_cache(&self) -> Result<bool, Failure> {
        self.flag("allow_cache", true)
    }

    /// Whether each object's relations are wanted too.
    pub(super) fn include_relationships(&self) -> Result<bool, Failure> {
        self.flag("include_relationships", false)
    }

    /// A number from 1 to `max`.
    pub(super) fn number(&self, name: &str, max: i32) -> Result<Option<i32>, Failure> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        let number = text
            .parse::<i32>()
            .ok()
            .filter(|number| (1..=max).contains(number));
        let range = if max == i32::MAX {
            "1 or more".to_owned()
        } else {
            format!("from 1 to {max}")
        };
        let wrong = || Failure::malformed(format!("query parameter `{name}`: `{text}` is no number {range}"));
        number.map(Some).ok_or_else(wrong)
    }

    /// The page that is wanted; zeros want everything.
    pub(super) fn paging(&self) -> Result<PaginationParams, Failure> {
        let page = self.number("page", i32::MAX)?.unwrap_or_default();
        let limit = self.number("limit", MAX_LIMIT)?.unwrap_or_default();
        Ok(PaginationParams { page, limit })
    }

    /// The page that is wanted, where there is always one.
    pub(super) fn page(&self) -> Result<PaginationParams, Failure> {
        let page = self.number("page", i32::MAX)?.unwrap_or(1);
        let limit = self.number("limit", MAX_LIMIT)?.unwrap_or(50);
        Ok(PaginationParams { page, limit })
    }

    /// The order that is wanted.
    pub(super) fn sorting(&self) -> Result<SortingParams, Failure> {
        let sort_order = self.get("sort_order").unwrap_or("asc");
        if !matches!(sort_order, "asc" | "desc") {
            let detail = format!("query parameter `sort_order`: `{sort_order}` is neither `asc` nor `desc`");
            return Err(Failure::malformed(detail));
        }
        Ok(SortingParams {
            sort_by: self.text("sort_by"),
            sort_order: sort_order.to_owned(),
        })
    }

    /// `tags=key:value`, as often as wanted; what has no colon is passed over, as in Feast.
    pub(super) fn tags(&self) -> BTreeMap<String, String> {
        let tags = self.all("tags").into_iter().filter_map(|tag| tag.split_once(':'));
        tags.map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }
}

/// A JSON body; one that does not fit is answered in Feast's envelope.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        match Json::<T>::from_request(request, state).await {
            Ok(Json(body)) => Ok(Self(body)),
            Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                Err(Failure::http(413, "the body is larger than 2 MB"))
            }
            Err(rejection) => Err(Failure::malformed(rejection.body_text())),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_with_feasts_defaults() {
        let params =
            Params::parse("project=a&tags=x:y:z&tags=no&projects=&projects=p&allow_cache=False&sort_by=name");
        assert_eq!(params.project().unwrap(), "a");
        assert_eq!(params.tags(), [("x".to_owned(), "y:z".to_owned())].into());
        assert_eq!(params.all("projects"), ["p"]);
        assert!(!params.allow_cache().unwrap());
        assert_eq!(params.paging().unwrap(), PaginationParams::default());
        assert_eq!(params.page().unwrap(), PaginationParams { page: 1, limit: 50 });
        assert_eq!(params.sorting().unwrap().sort_order, "asc");
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for wrong in ["page=0", "page=x", "limit=101", "limit=-1", "page="] {
            assert!(Params::parse(wrong).paging().is_err(), "{wrong}");
        }
        assert!(Params::parse("sort_order=up").sorting().is_err());
        assert!(Params::parse("allow_cache=perhaps").allow_cache().is_err());
        assert!(Params::parse("").project().is_err());
    }
}
