//! Writes as the registry's servers make them: the registry first, then the online store follows.
//!
//! `feast apply` against a remote registry provisions nothing in the server's online store, so the
//! server does it itself.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{Catalog, Registry, View, apply::ApplyMode, envelopes, store::history::Author};
use crate::{
    error::Result,
    model::{FeatureView, Interval, Object, ObjectKind, OnDemandFeatureView},
    online::{
        plan::stored_form,
        store::{OnlineStore, Table},
    },
};

/// The registry with the online store that follows it.
#[derive(Clone)]
pub(crate) struct Changes {
    pub(crate) registry: Arc<Registry>,
    /// `None` when nothing is served online.
    pub(crate) online: Option<Arc<dyn OnlineStore>>,
}

impl Changes {
    /// Stores the object and, for a view that is served online, makes room for it there.
    ///
    /// # Errors
    /// What the registry refuses; and what the online store returns, after the registry has changed:
    /// applying again completes it.
    pub(crate) async fn apply(&self, object: Object, author: &Author) -> Result<Arc<Catalog>> {
        let (project, name, is_view) = (object.project.clone(), object.name.clone(), object.kind.is_view());
        if let (Some(online), Some((name, tags))) = (&self.online, served_view(&object)?) {
            online.accepts(&name, &tags)?;
        }
        self.registry
            .apply(&project, vec![object], ApplyMode::Single, author)
            .await?;
        let catalog = self.registry.catalog(&project).await?;
        if is_view {
            self.provision(&catalog, &name).await?;
        }
        Ok(catalog)
    }

    async fn provision(&self, catalog: &Catalog, name: &str) -> Result<()> {
        let (Some(online), Some(View::Stored(view))) = (&self.online, catalog.view(name)) else {
            return Ok(());
        };
        if !view.online {
            return Ok(());
        }
        online
            .provision(catalog.project(), &[Arc::clone(view)], &[])
            .await
            .map_err(|error| {
                error.context(format!(
                    "`{name}` is registered, but the online store cannot hold it yet"
                ))
            })
    }

    /// Removes the object; a view goes with its versions and its rows in the online store.
    ///
    /// # Errors
    /// The kind's not-found error; what the registry or the online store returns.
    pub(crate) async fn delete(
        &self,
        kind: ObjectKind,
        project: &str,
        name: &str,
        author: &Author,
    ) -> Result<()> {
        let catalog = self.registry.fresh_catalog(project).await?;
        catalog.require(kind, name)?;
        let tables = if kind.is_view() {
            tables(&catalog, name)
        } else {
            Vec::new()
        };
        if kind == ObjectKind::Project {
            return self.delete_project(&catalog, author).await;
        }
        self.registry.delete(project, kind, name, author).await?;
        self.drop_tables(project, &tables).await
    }

    /// Removes a view of whatever kind.
    ///
    /// # Errors
    /// As [`Changes::delete`].
    pub(crate) async fn delete_view(&self, project: &str, name: &str, author: &Author) -> Result<()> {
        let catalog = self.registry.fresh_catalog(project).await?;
        let kind = any_view(&catalog, name)?.kind;
        self.delete(kind, project, name, author).await
    }

    async fn delete_project(&self, catalog: &Catalog, author: &Author) -> Result<()> {
        let views = catalog.stored_views();
        let tables: Vec<_> = views
            .iter()
            .flat_map(|view| tables(catalog, &view.name))
            .collect();
        self.registry.delete_project(catalog.project(), author).await?;
        self.drop_tables(catalog.project(), &tables).await
    }

    async fn drop_tables(&self, project: &str, tables: &[Table]) -> Result<()> {
        match &self.online {
            Some(online) if !tables.is_empty() => online
                .provision(project, &[], tables)
                .await
                .map_err(|error| error.context("removed from the registry, but not from the online store")),
            _ => Ok(()),
        }
    }

    /// Records that a window of a view is in the online store.
    ///
    /// # Errors
    /// `FeatureViewNotFound`; what the registry returns.
    pub(crate) async fn materialized(&self, project: &str, view: &str, interval: Interval) -> Result<()> {
        self.registry
            .record_materialization(project, view, interval)
            .await
    }

    /// Stores the encoded `feast.core.Infra` of a project.
    ///
    /// # Errors
    /// `InvalidArgument` when it is no such message; what the registry returns.
    pub(crate) async fn put_infra(&self, project: &str, infra: Bytes) -> Result<()> {
        envelopes::check_infra(&infra)?;
        self.registry.put_infra(project, infra).await
    }
}

/// The name and tags of a view that is stored online, for objects that are such a view.
pub(crate) fn served_view(object: &Object) -> Result<Option<(String, BTreeMap<String, String>)>> {
    let (online, tags) = match object.kind {
        ObjectKind::OnDemandFeatureView => {
            let view = OnDemandFeatureView::from_object(object)?;
            (view.write_to_online_store, view.tags)
        }
        kind if kind.is_view() => {
            let view = FeatureView::from_object(object)?;
            (view.online, view.tags)
        }
        _ => return Ok(None),
    };
    Ok(online.then(|| (object.name.clone(), tags)))
}

/// The view of that name, of whatever kind.
///
/// # Errors
/// `FeatureViewNotFound`.
pub(crate) fn any_view<'a>(catalog: &'a Catalog, name: &str) -> Result<&'a Arc<Object>> {
    let mut found = ObjectKind::VIEWS
        .into_iter()
        .filter_map(|kind| catalog.object(kind, name));
    found
        .next()
        .ok_or_else(|| ObjectKind::FeatureView.not_found(name, catalog.project()))
}

/// Where the online store keeps a view: under its name, and each stored version under its own.
fn tables(catalog: &Catalog, name: &str) -> Vec<Table> {
    let view = match catalog.view(name) {
        Some(View::Stored(view)) => Arc::clone(view),
        Some(View::OnDemand(view)) if view.write_to_online_store => Arc::new(stored_form(view, catalog)),
        _ => return Vec::new(),
    };
    let versions = catalog.state().versions.iter();
    let versions = versions
        .filter(|version| version.view == name)
        .map(|version| Table {
            view: Arc::clone(&view),
            name: format!("{name}_v{}", version.number),
        });
    std::iter::once(Table::of(&view)).chain(versions).collect()
}
