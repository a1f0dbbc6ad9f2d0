//! The registry's REST server: Feast's read and write routes over the catalog, in Feast's shapes, and
//! thali's own bootstrap route. Every route answers at `/x` and at `/api/v1/x`.
//!
//! `routes` is the table of them all, from which the router and the document of its API are made. What can
//! be listed and shown is the table in `objects`; the other modules are one group of routes each.

mod bootstrap;
mod datasets;
mod definition;
mod engines;
mod lineage;
mod metrics;
mod monitoring;
mod objects;
mod params;
mod reply;
mod routes;
mod search;
#[cfg(test)]
mod tests;
mod views;
mod visits;
mod writes;

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    middleware,
    response::IntoResponse,
    routing::get,
};
use serde_json::json;

use self::{
    params::Params,
    reply::{Answer, Failure},
};
use super::{Catalog, changes::Changes, grpc, listing};
use crate::{
    config::OnlineStoreConfig,
    context::Context,
    error::Result,
    http::openapi,
    model::{Object, ObjectKind},
    offline::store::OfflineStore,
};

/// The version of Feast whose contract is kept.
const FEAST_VERSION: &str = "0.67.0";

/// What the routes work with.
struct Api {
    changes: Changes,
    offline: Arc<dyn OfflineStore>,
    /// What datasets are made with; tests go without.
    context: Option<Context>,
    /// The configured project; what a look at an object without a project counts for.
    home: String,
    /// The roles of this process, for the page.
    roles: Vec<&'static str>,
    visits: visits::Visits,
}

impl Api {
    async fn catalog(&self, project: &str, allow_cache: bool) -> Result<Arc<Catalog>> {
        match allow_cache {
            true => self.changes.registry.catalog(project).await,
            false => self.changes.registry.fresh_catalog(project).await,
        }
    }

    /// The projects that are not hidden.
    async fn projects(&self, allow_cache: bool) -> Result<Vec<Arc<Object>>> {
        grpc::read::projects(&self.changes.registry, allow_cache, &BTreeMap::new()).await
    }

    async fn project_names(&self, allow_cache: bool) -> Result<Vec<String>> {
        let projects = self.projects(allow_cache).await?;
        Ok(projects.iter().map(|project| project.name.clone()).collect())
    }
}

/// All routes of the registry's REST listener. `roles` are those of this process.
pub fn router(context: Context, roles: Vec<&'static str>) -> Router {
    all_routes(&api(context, roles))
}

fn all_routes(api: &Arc<Api>) -> Router {
    let pages = Router::new().route("/", get(openapi::page));
    let feasts = feast_routes();
    let routes = thali_routes()
        .nest("/api/v1", feasts.clone())
        .merge(feasts)
        .merge(pages);
    finish(routes, api).fallback(not_found)
}

/// The routes under `/api/` only, for a listener that has pages of its own elsewhere.
pub fn api_router(context: Context, roles: Vec<&'static str>) -> Router {
    let api = api(context, roles);
    finish(
        thali_routes().nest("/api/v1", feast_routes().fallback(not_found)),
        &api,
    )
}

fn api(context: Context, roles: Vec<&'static str>) -> Arc<Api> {
    let parts = context.clone();
    let online =
        (!matches!(context.config.online_store, OnlineStoreConfig::Disabled)).then_some(context.online);
    Arc::new(Api {
        changes: Changes {
            registry: context.registry,
            online,
        },
        offline: context.offline,
        context: Some(parts),
        home: context.config.project.clone(),
        roles,
        visits: visits::Visits::default(),
    })
}

fn finish(routes: Router<Arc<Api>>, api: &Arc<Api>) -> Router {
    routes
        .layer(middleware::from_fn_with_state(Arc::clone(api), visits::record))
        .with_state(Arc::clone(api))
}

/// The state as routes get it.
type Shared = State<Arc<Api>>;

fn thali_routes() -> Router<Arc<Api>> {
    routes::router(routes::routes(), false)
}

fn feast_routes() -> Router<Arc<Api>> {
    let table = routes::routes();
    let document = Arc::new(openapi::document(about(), &table));
    routes::router(table, true)
        .route(
            "/openapi.json",
            get(move || openapi::answer(Arc::clone(&document))),
        )
        .route("/docs", get(openapi::page))
        .method_not_allowed_fallback(method_not_allowed)
}

/// What the document says of the whole.
fn about() -> openapi::About {
    openapi::About {
        title: "thali registry",
        description: "Feast's registry over HTTP, and what thali has besides. Every route of Feast answers with and without the prefix.",
        servers: json!([{"url": "/api/v1"}, {"url": "/"}]),
        failure: json!({
            "type": "object",
            "required": ["detail"],
            "properties": {
                "status_code": {"type": "integer"},
                "detail": {"type": "string"},
                "error_type": {"type": "string"},
            },
        }),
    }
}

async fn get_feature(
    State(api): Shared,
    Path((view, name)): Path<(String, String)>,
    params: Params,
) -> Answer {
    objects::get_feature(&api, &view, &name, &params).await
}

async fn list_projects(State(api): Shared, params: Params) -> Answer {
    let (paging, sorting) = (params.paging()?, params.sorting()?);
    // Feast answers 200 with the error in it when the projects cannot be listed.
    let mut projects = match api.projects(params.allow_cache()?).await {
        Ok(projects) => projects,
        Err(error) => return Ok(Json(json!({"error": error.one_line()}))),
    };
    listing::sort(&mut projects, Some(&sorting), |project, by| {
        listing::attribute(project, by)
    })?;
    let pagination = listing::page(&mut projects, Some(&paging));
    let projects = projects
        .iter()
        .map(|project| reply::object(project))
        .collect::<Result<Vec<_>>>()?;
    Ok(Json(
        json!({"projects": projects, "pagination": reply::pagination(&pagination)}),
    ))
}

async fn get_project(State(api): Shared, Path(name): Path<String>, params: Params) -> Answer {
    let catalog = api.catalog(&name, params.allow_cache()?).await?;
    Ok(Json(
        reply::object(catalog.require(ObjectKind::Project, &name)?)?.into(),
    ))
}

async fn refresh(State(api): Shared) -> Result<StatusCode, Failure> {
    api.changes.registry.refresh().await?;
    Ok(StatusCode::OK)
}

async fn not_found() -> impl IntoResponse {
    (StatusCode::NOT_FOUND, Json(json!({"detail": "Not Found"})))
}

async fn method_not_allowed() -> impl IntoResponse {
    (
        StatusCode::METHOD_NOT_ALLOWED,
        Json(json!({"detail": "Method Not Allowed"})),
    )
}
