//! Which objects of a catalog a list call wants, for both the gRPC and the REST server. Pure functions.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, Utc};

use super::{Catalog, View, listing};
use crate::{
    error::Result,
    model::{Object, ObjectKind, on_demand::OnDemandInput},
};

/// What the objects of one kind are filtered by; empty values want all.
#[derive(Debug, Default)]
pub(crate) struct ObjectFilter {
    pub(crate) tags: BTreeMap<String, String>,
    /// Of saved datasets.
    pub(crate) namespace: String,
    /// Of saved datasets.
    pub(crate) collection: String,
    /// Of feature services: only those that use this view.
    pub(crate) feature_view: String,
}

/// The objects of a kind that pass the filter, in the store's order.
///
/// # Errors
/// `Internal` when stored bytes are malformed.
pub(crate) fn objects(
    catalog: &Catalog,
    kind: ObjectKind,
    filter: &ObjectFilter,
) -> Result<Vec<Arc<Object>>> {
    let mut found = catalog.objects(kind).to_vec();
    listing::keep_tagged(&mut found, &filter.tags)?;
    if kind == ObjectKind::SavedDataset {
        for (field, wanted) in [
            ("namespace", &filter.namespace),
            ("collection", &filter.collection),
        ] {
            keep_text(&mut found, field, wanted)?;
        }
    }
    if kind == ObjectKind::FeatureService && !filter.feature_view.is_empty() {
        found.retain(|service| uses(catalog, &service.name, &filter.feature_view));
    }
    Ok(found)
}

fn keep_text(objects: &mut Vec<Arc<Object>>, field: &str, wanted: &str) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let mut kept = Vec::new();
    for object in objects.drain(..) {
        if listing::text(&object, field)? == wanted {
            kept.push(object);
        }
    }
    *objects = kept;
    Ok(())
}

/// What views of all kinds are filtered by; all that is given must hold.
#[derive(Debug, Default)]
pub(crate) struct ViewFilter {
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) entity: String,
    pub(crate) feature: String,
    pub(crate) feature_service: String,
    pub(crate) data_source: String,
    pub(crate) updated_since: Option<DateTime<Utc>>,
}

/// The views that pass the filter: feature views, stream views, on-demand views. As in Feast, label
/// views are not among them.
///
/// # Errors
/// `Internal` when stored bytes are malformed.
pub(crate) fn views(catalog: &Catalog, filter: &ViewFilter) -> Result<Vec<Arc<Object>>> {
    let mut found = Vec::new();
    for kind in [
        ObjectKind::FeatureView,
        ObjectKind::StreamFeatureView,
        ObjectKind::OnDemandFeatureView,
    ] {
        for object in catalog.objects(kind) {
            let typed = catalog.view(&object.name);
            if typed.is_some_and(|view| passes(catalog, &object.name, view, filter))
                && listing::has_tags(object, &filter.tags)?
                && updated_since(object, filter.updated_since)?
            {
                found.push(Arc::clone(object));
            }
        }
    }
    Ok(found)
}

fn passes(catalog: &Catalog, name: &str, view: &View, filter: &ViewFilter) -> bool {
    let (entities, features) = match view {
        View::Stored(view) => (&view.entities, &view.features),
        View::OnDemand(view) => (&view.entities, &view.features),
    };
    (filter.entity.is_empty() || entities.contains(&filter.entity))
        && (filter.feature.is_empty() || features.iter().any(|field| field.name == filter.feature))
        && (filter.feature_service.is_empty() || uses(catalog, &filter.feature_service, name))
        && (filter.data_source.is_empty() || reads(view, &filter.data_source))
}

/// Whether the service exists and projects the view.
fn uses(catalog: &Catalog, service: &str, view: &str) -> bool {
    let spec = catalog
        .service(service)
        .ok()
        .and_then(|service| service.spec.as_ref());
    spec.is_some_and(|spec| {
        spec.features
            .iter()
            .any(|projection| projection.feature_view_name == view)
    })
}

/// Whether the view reads the source, as batch, stream or request source.
pub(crate) fn reads(view: &View, source: &str) -> bool {
    match view {
        View::Stored(view) => {
            let sources = [&view.batch_source, &view.stream_source];
            sources
                .into_iter()
                .flatten()
                .any(|candidate| candidate.name == source)
        }
        View::OnDemand(view) => {
            let is_it = |input: &OnDemandInput| matches!(input, OnDemandInput::Request { name, .. } if name == source);
            view.inputs.iter().any(is_it)
        }
    }
}

/// Times are compared in whole seconds, as Feast's SQL registry does.
fn updated_since(object: &Object, since: Option<DateTime<Utc>>) -> Result<bool> {
    let Some(since) = since else { return Ok(true) };
    Ok(listing::updated_seconds(object)?.is_some_and(|seconds| seconds >= since.timestamp()))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::registry::samples;

    fn names(filter: &ViewFilter) -> Vec<String> {
        let found = views(&samples::catalog(), filter).unwrap();
        found.iter().map(|view| view.name.clone()).collect()
    }

    #[test]
    fn view_filters_all_hold_together() {
        assert_eq!(names(&ViewFilter::default()), ["trips", "twice"]);
        assert_eq!(
            names(&ViewFilter {
                entity: "driver".into(),
                ..Default::default()
            }),
            ["trips"]
        );
        assert_eq!(
            names(&ViewFilter {
                feature: "doubled".into(),
                ..Default::default()
            }),
            ["twice"]
        );
        assert_eq!(
            names(&ViewFilter {
                data_source: "request".into(),
                ..Default::default()
            }),
            ["twice"]
        );
        assert_eq!(
            names(&ViewFilter {
                data_source: "trips_push".into(),
                ..Default::default()
            }),
            ["trips"]
        );
        assert_eq!(
            names(&ViewFilter {
                feature_service: "model".into(),
                ..Default::default()
            }),
            ["trips"]
        );
        assert!(
            names(&ViewFilter {
                feature_service: "none".into(),
                ..Default::default()
            })
            .is_empty()
        );
        let both = ViewFilter {
            entity: "driver".into(),
            feature: "doubled".into(),
            ..Default::default()
        };
        assert!(names(&both).is_empty());
        let at = |seconds| DateTime::from_timestamp(seconds, 0);
        assert_eq!(
            names(&ViewFilter {
                updated_since: at(1_700_000_100),
                ..Default::default()
            }),
            ["trips"]
        );
        assert!(
            names(&ViewFilter {
                updated_since: at(1_700_000_101),
                ..Default::default()
            })
            .is_empty()
        );
        assert_eq!(
            names(&ViewFilter {
                tags: [("team".into(), "ops".into())].into(),
                ..Default::default()
            }),
            ["trips"]
        );
    }

    #[test]
    fn object_filters_of_single_kinds() {
        let catalog = samples::catalog();
        let count = |kind, filter: &ObjectFilter| objects(&catalog, kind, filter).unwrap().len();
        let namespace = |namespace: &str| ObjectFilter {
            namespace: namespace.into(),
            ..Default::default()
        };
        assert_eq!(count(ObjectKind::SavedDataset, &namespace("ml")), 1);
        assert_eq!(count(ObjectKind::SavedDataset, &namespace("other")), 0);
        assert_eq!(
            count(ObjectKind::Entity, &namespace("other")),
            1,
            "only saved datasets have one"
        );
        let view = |view: &str| ObjectFilter {
            feature_view: view.into(),
            ..Default::default()
        };
        assert_eq!(count(ObjectKind::FeatureService, &view("trips")), 1);
        assert_eq!(count(ObjectKind::FeatureService, &view("twice")), 0);
    }
}
