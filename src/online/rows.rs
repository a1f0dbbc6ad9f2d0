//! [`Rows`]: what is stored of one view, as operators see it: counted, deleted by entity, or all at once.
//! The command line and the REST routes share it; neither shows values through it.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value as Json;

use super::{
    plan::{stored_form, table_of},
    precompute::Maker,
    serve::settings,
    store::Table,
};
use crate::{
    context::Context,
    error::{Error, Result},
    model::{
        FeatureView, ObjectKind,
        entity_key::KeyEncoder,
        feature_view::DUMMY_JOIN_KEY,
        value::{self, Kind, Value},
    },
    registry::{Catalog, View},
};

/// The rows of one view.
pub struct Rows {
    context: Context,
    catalog: Arc<Catalog>,
    /// Where the active version of the view is stored.
    pub table: Table,
}

impl Rows {
    /// Those of a view of a project.
    ///
    /// # Errors
    /// `FeatureViewNotFound`; `InvalidArgument` for a view that is not stored online.
    pub async fn of(context: &Context, project: &str, name: &str) -> Result<Self> {
        let catalog = context.registry.fresh_catalog(project).await?;
        let view = served(&catalog).into_iter().find(|view| view.name == name);
        let view = view.ok_or_else(|| match catalog.view(name) {
            Some(_) => Error::invalid(format!("`{name}` is not stored online")),
            None => ObjectKind::FeatureView.not_found(name, project),
        })?;
        let versioning = context.config.registry.enable_online_versioning;
        let name = table_of(&view.name, view.version, versioning);
        Ok(Self {
            context: context.clone(),
            catalog,
            table: Table { view, name },
        })
    }

    /// Those of every view that is stored online.
    ///
    /// # Errors
    /// What the registry returns.
    pub async fn of_all(context: &Context, project: &str) -> Result<Vec<Self>> {
        let catalog = context.registry.fresh_catalog(project).await?;
        let mut all = Vec::new();
        for view in served(&catalog) {
            all.push(Self::of(context, project, &view.name).await?);
        }
        Ok(all)
    }

    /// The name of the view.
    pub fn view(&self) -> &str {
        &self.table.view.name
    }

    fn project(&self) -> &str {
        self.catalog.project()
    }

    /// The keys of entities, given as a column of values for each join key.
    ///
    /// # Errors
    /// `InvalidArgument` when columns are missing, unknown, of different lengths or hold other types.
    pub fn keys(&self, columns: &[(String, Vec<Json>)]) -> Result<Vec<Bytes>> {
        let view = &self.table.view;
        let version = settings(&self.context.config).key_version;
        if view.is_entityless() {
            let dummy: Value = Kind::StringVal(String::new()).into();
            return Ok(vec![
                KeyEncoder::new(&[DUMMY_JOIN_KEY], version)?.encode(&[&dummy])?,
            ]);
        }
        let names: Vec<&str> = view.join_keys.iter().map(|key| key.name.as_str()).collect();
        if let Some((name, _)) = columns.iter().find(|(name, _)| !names.contains(&name.as_str())) {
            return Err(
                Error::invalid(format!("`{}` has no join key `{name}`", view.name))
                    .hint(format!("its join keys are {}", names.join(", "))),
            );
        }
        let values = view.join_keys.iter().map(|key| {
            let given = columns.iter().filter(|(name, _)| *name == key.name);
            let value = |json: &Json| {
                value::json::from_json(json, key.value_type)
                    .map_err(|error| error.context(format!("join key `{}`", key.name)))
            };
            given.flat_map(|(_, values)| values).map(value).collect()
        });
        let values = values.collect::<Result<Vec<Vec<Value>>>>()?;
        let rows = values.first().map_or(0, Vec::len);
        if rows == 0 || values.iter().any(|column| column.len() != rows) {
            return Err(Error::invalid(format!(
                "every entity of `{}` needs a value of each of {}",
                view.name,
                names.join(", ")
            )));
        }
        let mut encoder = KeyEncoder::new(&names, version)?;
        (0..rows)
            .map(|row| encoder.encode(&values.iter().map(|column| &column[row]).collect::<Vec<_>>()))
            .collect()
    }

    /// How many entities have a row.
    ///
    /// # Errors
    /// What the store returns.
    pub async fn count(&self) -> Result<u64> {
        self.context.online.count(self.project(), &self.table).await
    }

    /// Deletes the rows of entities, and their vectors; answers how many there were.
    ///
    /// # Errors
    /// What the store returns.
    pub async fn delete(&self, keys: &[Bytes]) -> Result<u64> {
        let deleted = self
            .context
            .online
            .delete(self.project(), &self.table, keys)
            .await?;
        Maker::new(&self.context, &self.catalog)
            .after_write(self.view(), keys)
            .await?;
        Ok(deleted)
    }

    /// Deletes every row, and makes the vectors anew that had any of them.
    ///
    /// # Errors
    /// What the store returns.
    pub async fn truncate(&self) -> Result<()> {
        self.context.online.truncate(self.project(), &self.table).await?;
        Maker::new(&self.context, &self.catalog)
            .after_truncate(self.view())
            .await
    }
}

/// The views that have a table in the online store.
pub fn served(catalog: &Catalog) -> Vec<Arc<FeatureView>> {
    let mut views: Vec<Arc<FeatureView>> = catalog
        .stored_views()
        .into_iter()
        .filter(|view| view.online)
        .map(Arc::clone)
        .collect();
    for view in catalog.views() {
        if let View::OnDemand(view) = view
            && view.write_to_online_store
        {
            views.push(Arc::new(stored_form(view, catalog)));
        }
    }
    views.sort_by(|a, b| a.name.cmp(&b.name));
    views
}
