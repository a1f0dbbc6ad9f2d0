//! `/compute_engines` and `/materialization_jobs`: what materializes views, and which windows it has done.

use axum::{Json, extract::State};
use serde_json::{Map, Value, json};

use super::{
    Shared,
    params::Params,
    reply::{self, Answer},
};
use crate::{error::Result, model::ObjectKind, registry::Catalog};

/// The one engine there is, under the name of Feast's default.
fn engine_of(project: &str, views: usize) -> Value {
    json!({
        "engineType": "local",
        "engineClass": "LocalComputeEngine",
        "config": {"type": "local"},
        "featureViewCount": views,
        "project": project,
    })
}

fn intervals(object: &Map<String, Value>) -> Vec<Value> {
    let meta = object
        .get("meta")
        .and_then(|meta| meta.get("materializationIntervals"));
    meta.and_then(Value::as_array).cloned().unwrap_or_default()
}

fn views(catalog: &Catalog, kind: ObjectKind, label: &str) -> Result<Vec<Value>> {
    let info = |object: &Map<String, Value>| {
        let intervals = intervals(object);
        let spec = object.get("spec");
        let online = spec
            .and_then(|spec| spec.get("online"))
            .is_some_and(|online| online == true);
        json!({
            "name": spec.and_then(|spec| spec.get("name")),
            "type": label,
            "online": online,
            "lastMaterialized": intervals.last().and_then(|interval| interval.get("endTime")),
            "hasOverride": false,
            "overrides": null,
            "materializationIntervals": intervals,
        })
    };
    catalog
        .objects(kind)
        .iter()
        .map(|object| Ok(info(&reply::object(object)?)))
        .collect()
}

/// `GET /compute_engines`.
pub(super) async fn engine(State(api): Shared, params: Params) -> Answer {
    let project = params.project()?;
    let catalog = api.catalog(project, params.allow_cache()?).await?;
    let mut found = views(&catalog, ObjectKind::FeatureView, "Batch")?;
    found.extend(views(&catalog, ObjectKind::StreamFeatureView, "Stream")?);
    Ok(Json(
        json!({"engine": engine_of(project, found.len()), "featureViews": found}),
    ))
}

/// `GET /compute_engines/all`.
pub(super) async fn all(State(api): Shared, params: Params) -> Answer {
    let paging = params.page()?;
    let mut engines = Vec::new();
    for project in api.project_names(params.allow_cache()?).await? {
        let catalog = api.catalog(&project, true).await?;
        engines.push(engine_of(
            &project,
            catalog.objects(ObjectKind::FeatureView).len(),
        ));
    }
    let total = engines.len();
    let engines = super::objects::cut(engines, &paging);
    let pagination = json!({"page": paging.page, "limit": paging.limit, "total": total});
    Ok(Json(json!({"engines": engines, "pagination": pagination})))
}

/// `GET /materialization_jobs`: the windows recorded in the registry, newest first. (Feast answers none
/// at all unless a page is asked for.)
pub(super) async fn materialization_jobs(State(api): Shared, params: Params) -> Answer {
    let catalog = api.catalog(params.project()?, params.allow_cache()?).await?;
    let paging = params.paging()?;
    let mut jobs = Vec::new();
    for object in catalog.objects(ObjectKind::FeatureView) {
        for (index, interval) in intervals(&reply::object(object)?).iter().enumerate() {
            jobs.push(json!({
                "id": format!("{}-{index}", object.name),
                "featureView": object.name,
                "status": "SUCCEEDED",
                "startTime": interval.get("startTime"),
                "endTime": interval.get("endTime"),
            }));
        }
    }
    if let Some(status) = params.get("status") {
        let status = status.to_uppercase();
        jobs.retain(|job| job["status"] == status);
    }
    if let Some(view) = params.get("feature_view") {
        jobs.retain(|job| job["featureView"] == view);
    }
    let sorting = params.sorting()?;
    match sorting.sort_by.as_str() {
        "" => super::objects::sort_json(&mut jobs, "startTime", true),
        by => super::objects::sort_json(&mut jobs, by, sorting.sort_order == "desc"),
    }
    let total = jobs.len();
    let jobs = super::objects::cut(jobs, &paging);
    let pagination = json!({"page": paging.page, "limit": paging.limit, "total": total});
    Ok(Json(json!({"jobs": jobs, "pagination": pagination})))
}
