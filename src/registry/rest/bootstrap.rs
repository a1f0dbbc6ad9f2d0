//! thali's own `GET /api/thali/v1/bootstrap`: what the page needs first, in one answer.

use axum::{Json, extract::State};
use serde_json::{Value, json};

use super::{Shared, metrics::counts, reply::Answer};
use crate::{model::ObjectKind, registry::listing};

/// Version, roles, and every project with how much it holds.
pub(super) async fn bootstrap(State(api): Shared) -> Answer {
    let mut projects: Vec<Value> = Vec::new();
    for name in api.project_names(true).await? {
        let catalog = api.catalog(&name, true).await?;
        let project = catalog.require(ObjectKind::Project, &name)?;
        let description = listing::text(project, "description")?;
        projects.push(json!({"name": name, "description": description, "counts": counts(&catalog)}));
    }
    Ok(Json(
        json!({"version": env!("CARGO_PKG_VERSION"), "projects": projects, "roles": api.roles}),
    ))
}
