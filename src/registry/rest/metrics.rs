//! `/metrics/*`: how much the registry holds, and which tags are used most.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State};
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use super::{Shared, objects::view_type, params::Params, reply::Answer};
use crate::{
    error::Result,
    model::ObjectKind,
    registry::{
        Catalog, View,
        features::{self, Wanted},
        listing,
        select::{self, ViewFilter},
    },
};

/// The objects of a project by the names of the answer. `features` holds labels too and `featureViews`
/// no label views, as in Feast.
pub(super) fn counts(catalog: &Catalog) -> BTreeMap<&'static str, usize> {
    let count = |kind| catalog.objects(kind).len();
    let views = [
        ObjectKind::FeatureView,
        ObjectKind::StreamFeatureView,
        ObjectKind::OnDemandFeatureView,
    ];
    [
        ("entities", count(ObjectKind::Entity)),
        ("dataSources", count(ObjectKind::DataSource)),
        ("savedDatasets", count(ObjectKind::SavedDataset)),
        ("features", features::list(catalog, Wanted::default()).len()),
        ("featureViews", views.into_iter().map(count).sum()),
        ("featureServices", count(ObjectKind::FeatureService)),
    ]
    .into()
}

/// Names of views and services of a project.
fn summaries(catalog: &Catalog) -> Result<(Vec<Value>, Vec<Value>)> {
    let project = catalog.project();
    let services = catalog.objects(ObjectKind::FeatureService).iter();
    let services = services
        .map(|service| json!({"name": service.name, "project": project}))
        .collect();
    let mut views = Vec::new();
    for view in select::views(catalog, &ViewFilter::default())? {
        let features = match catalog.view(&view.name) {
            Some(View::Stored(view)) => view.features.len(),
            Some(View::OnDemand(view)) => view.features.len(),
            None => 0,
        };
        views.push(json!({
            "name": view.name,
            "project": project,
            "type": view_type(view.kind),
            "featureCount": features,
        }));
    }
    Ok((services, views))
}

fn moment(at: Option<DateTime<Utc>>) -> Option<String> {
    at.map(|at| at.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

/// `GET /metrics/resource_counts`.
pub(super) async fn resource_counts(State(api): Shared, params: Params) -> Answer {
    let allow_cache = params.allow_cache()?;
    if let Some(project) = params.get("project").filter(|project| !project.is_empty()) {
        let catalog = api.catalog(project, allow_cache).await?;
        let (services, views) = summaries(&catalog)?;
        return Ok(Json(json!({
            "project": project,
            "counts": counts(&catalog),
            "featureServices": services,
            "featureViews": views,
            "projects": [{"name": project}],
            "registryLastUpdated": moment(catalog.state().last_updated),
        })));
    }
    let mut total: BTreeMap<&str, usize> = BTreeMap::new();
    let mut per_project = serde_json::Map::new();
    let (mut services, mut views, mut projects) = (Vec::new(), Vec::new(), Vec::new());
    let mut newest = None;
    for project in api.projects(allow_cache).await? {
        let catalog = api.catalog(&project.name, true).await?;
        let own = counts(&catalog);
        for (name, count) in &own {
            *total.entry(name).or_default() += count;
        }
        per_project.insert(project.name.clone(), json!(own));
        let (own_services, own_views) = summaries(&catalog)?;
        services.extend(own_services);
        views.extend(own_views);
        projects.push(json!({"name": project.name, "description": listing::text(&project, "description")?}));
        newest = newest.max(catalog.state().last_updated);
    }
    if total.is_empty() {
        total = counts(&Catalog::default());
    }
    Ok(Json(json!({
        "total": total,
        "perProject": per_project,
        "featureServices": services,
        "featureViews": views,
        "projects": projects,
        "registryLastUpdated": moment(newest),
    })))
}

/// `GET /metrics/popular_tags`: tags by the number of views that carry them.
pub(super) async fn popular_tags(State(api): Shared, params: Params) -> Answer {
    let allow_cache = params.allow_cache()?;
    let limit = params.number("limit", i32::MAX)?.unwrap_or(4);
    let projects = match params.get("project").filter(|project| !project.is_empty()) {
        Some(project) => vec![project.to_owned()],
        None => api.project_names(allow_cache).await?,
    };
    let mut total_views = 0;
    let mut tags: Vec<((String, String), Vec<Value>)> = Vec::new();
    for project in projects {
        let catalog: Arc<Catalog> = api.catalog(&project, allow_cache).await?;
        for view in select::views(&catalog, &ViewFilter::default())? {
            total_views += 1;
            let entry = json!({"name": view.name, "project": project});
            for tag in listing::tags(&view)? {
                match tags.iter_mut().find(|(known, _)| *known == tag) {
                    Some((_, views)) => views.push(entry.clone()),
                    None => tags.push((tag, vec![entry.clone()])),
                }
            }
        }
    }
    tags.sort_by(|(a, a_views), (b, b_views)| (b_views.len(), &b.0).cmp(&(a_views.len(), &a.0)));
    let metadata = json!({"totalFeatureViews": total_views, "totalTags": tags.len(), "limit": limit});
    tags.truncate(usize::try_from(limit).unwrap_or_default());
    let tag = |((key, value), views): &((String, String), Vec<Value>)| json!({"tag_key": key, "tag_value": value, "feature_views": views, "total_feature_views": views.len()});
    Ok(Json(
        json!({"popular_tags": tags.iter().map(tag).collect::<Vec<_>>(), "metadata": metadata}),
    ))
}
