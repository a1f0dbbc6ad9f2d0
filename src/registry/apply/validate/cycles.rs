//! On-demand views may be computed from each other, but not in a circle: such a view could never be served.

use std::collections::HashSet;

use super::{World, decode};
use crate::{
    error::Result,
    model::ObjectKind,
    proto::feast::core::{OnDemandFeatureView, OnDemandFeatureViewSpec, on_demand_source::Source},
};

/// The way from a view back to itself, such as ``a` needs `b` needs `a``; `None` when there is none.
pub(super) fn through(
    name: &str,
    spec: &OnDemandFeatureViewSpec,
    world: &World<'_>,
) -> Result<Option<String>> {
    // Two views of one name are told of elsewhere; which of them is meant cannot be said.
    let other =
        |kind: &ObjectKind| *kind != ObjectKind::OnDemandFeatureView && world.contains_key(&(*kind, name));
    if ObjectKind::VIEWS.iter().any(other) {
        return Ok(None);
    }
    let mut seen = HashSet::new();
    let mut open: Vec<Vec<String>> = sources(spec).map(|next| vec![name.to_owned(), next]).collect();
    while let Some(path) = open.pop() {
        let Some(last) = path.last() else { continue };
        if last == name {
            return Ok(Some(format!("`{}`", path.join("` needs `"))));
        }
        let Some(view) = world.get(&(ObjectKind::OnDemandFeatureView, last.as_str())) else {
            continue;
        };
        // Views computed and stored on write are read as they are; nothing is computed through them.
        let spec = decode::<OnDemandFeatureView>(view)?.spec.unwrap_or_default();
        if spec.write_to_online_store || !seen.insert(last.clone()) {
            continue;
        }
        open.extend(sources(&spec).map(|next| {
            let mut path = path.clone();
            path.push(next);
            path
        }));
    }
    Ok(None)
}

fn sources(spec: &OnDemandFeatureViewSpec) -> impl Iterator<Item = String> + '_ {
    spec.sources
        .values()
        .filter_map(|source| match source.source.as_ref()? {
            Source::FeatureViewProjection(projection) => Some(projection.feature_view_name.clone()),
            Source::FeatureView(view) => view.spec.as_ref().map(|spec| spec.name.clone()),
            Source::RequestDataSource(_) => None,
        })
}
