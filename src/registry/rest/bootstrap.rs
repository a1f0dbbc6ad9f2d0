//! thali's own `GET /api/thali/v1/bootstrap`: what the page needs first, in one answer.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use serde_json::{Value, json};

use super::{Shared, metrics, reply::Answer};
use crate::{
    model::{ObjectKind, feature_view::DUMMY_ENTITY_NAME},
    registry::{
        catalog::Catalog,
        features::{self, Wanted},
        listing,
    },
};

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

/// Feast's counts without what the page's lists do not show: the placeholder entity, and labels among the features.
fn counts(catalog: &Catalog) -> BTreeMap<&'static str, usize> {
    let wanted = Wanted {
        kind: "feature",
        ..Wanted::default()
    };
    let entities = catalog.objects(ObjectKind::Entity).iter();
    let mut counts = metrics::counts(catalog);
    counts.insert("features", features::list(catalog, wanted).len());
    counts.insert(
        "entities",
        entities.filter(|entity| entity.name != DUMMY_ENTITY_NAME).count(),
    );
    counts
}
