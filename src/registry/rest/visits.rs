//! `/metrics/recently_visited`: which single objects were shown lately.
//!
//! Kept in this process's memory, the last hundred of each project. (Feast writes its database on every
//! view of an object and loses entries under concurrency.)

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Json,
    extract::{Request, State},
    http::Method,
    middleware::Next,
    response::Response,
};
use chrono::{SecondsFormat, Utc};
use serde_json::{Value, json};

use super::{Api, Shared, objects, params::Params, reply::Answer};

const KEPT: usize = 100;

/// The resources whose single objects count as visited.
const VISITED: [&str; 6] = [
    "entities",
    "data_sources",
    "feature_views",
    "features",
    "feature_services",
    "saved_datasets",
];

/// Visits by project, oldest first.
#[derive(Default)]
pub(super) struct Visits {
    by_project: Mutex<BTreeMap<String, VecDeque<Value>>>,
}

impl Visits {
    fn push(&self, project: &str, visit: Value) {
        let mut by_project = self.by_project.lock().unwrap_or_else(PoisonError::into_inner);
        let visits = by_project.entry(project.to_owned()).or_default();
        visits.push_back(visit);
        if visits.len() > KEPT {
            visits.pop_front();
        }
    }

    fn of(&self, project: &str) -> Vec<Value> {
        let by_project = self.by_project.lock().unwrap_or_else(PoisonError::into_inner);
        by_project
            .get(project)
            .map(|visits| visits.iter().cloned().collect())
            .unwrap_or_default()
    }

    fn everything(&self) -> Vec<Value> {
        let by_project = self.by_project.lock().unwrap_or_else(PoisonError::into_inner);
        by_project.values().flatten().cloned().collect()
    }
}

/// What a path shows: the resource and the object's name.
fn visited(path: &str) -> Option<(&str, &str)> {
    let path = path.strip_prefix("/api/v1").unwrap_or(path);
    let mut parts = path.trim_start_matches('/').split('/');
    let resource = VISITED
        .into_iter()
        .find(|resource| parts.clone().next() == Some(resource))?;
    parts.next();
    let rest: Vec<_> = parts.collect();
    match (resource, rest.as_slice()) {
        ("features", [_, name]) => Some((resource, name)),
        (_, ["all" | "jobs"]) | ("features", _) => None,
        (_, [name]) => Some((resource, name)),
        _ => None,
    }
}

/// Remembers every successful look at a single object.
pub(super) async fn record(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    if request.method() != Method::GET || visited(request.uri().path()).is_none() {
        return next.run(request).await;
    }
    let path = request.uri().path().to_owned();
    let params = Params::parse(request.uri().query().unwrap_or_default());
    let response = next.run(request).await;
    if response.status().is_success()
        && let Some((resource, name)) = visited(&path)
    {
        let project = params.get("project").unwrap_or(&api.home);
        let visit = json!({
            "path": path,
            "timestamp": Utc::now().to_rfc3339_opts(SecondsFormat::Micros, false),
            "project": project,
            "user": "anonymous",
            "object": resource,
            "object_name": name,
            "method": "GET",
        });
        api.visits.push(project, visit);
    }
    response
}

/// `GET /metrics/recently_visited`.
pub(super) async fn recently_visited(State(api): Shared, params: Params) -> Answer {
    let mut visits = match params.get("project").filter(|project| !project.is_empty()) {
        Some(project) => api.visits.of(project),
        None => {
            let mut visits = api.visits.everything();
            objects::sort_json(&mut visits, "timestamp", true);
            visits
        }
    };
    if let Some(object) = params.get("object") {
        visits.retain(|visit| visit["object"] == object);
    }
    visits.drain(..visits.len().saturating_sub(KEPT));
    let (mut paging, sorting) = (params.paging()?, params.sorting()?);
    if !sorting.sort_by.is_empty() {
        objects::sort_json(&mut visits, &sorting.sort_by, sorting.sort_order == "desc");
    }
    if paging.page == 0 && paging.limit == 0 {
        let total = visits.len();
        return Ok(Json(
            json!({"visits": visits, "pagination": {"totalCount": total}}),
        ));
    }
    paging.page = paging.page.max(1);
    if paging.limit == 0 {
        paging.limit = 50;
    }
    let pagination = objects::place(visits.len(), &paging);
    Ok(Json(
        json!({"visits": objects::cut(visits, &paging), "pagination": pagination}),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_single_objects_count() {
        assert_eq!(visited("/api/v1/entities/driver"), Some(("entities", "driver")));
        assert_eq!(visited("/feature_views/trips"), Some(("feature_views", "trips")));
        assert_eq!(visited("/features/trips/rate"), Some(("features", "rate")));
        for other in [
            "/entities",
            "/entities/all",
            "/features/all",
            "/saved_datasets/jobs",
            "/projects/p",
            "/search",
            "/",
        ] {
            assert_eq!(visited(other), None, "{other}");
        }
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let visits = Visits::default();
        for number in 0..150 {
            visits.push("p", json!({"n": number}));
        }
        let kept = visits.of("p");
        assert_eq!((kept.len(), &kept[0]["n"]), (KEPT, &json!(50)));
        assert!(visits.of("q").is_empty());
    }
}
