//! [`HybridStore`]: several online stores, of which a view's tag names its own
//! (`feast/infra/online_stores/hybrid_online_store`). A request that needs several reads them concurrently.
//!
//! A view without the tag, or whose tag names no store that is configured, is refused when it is applied and
//! when it is asked for.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::{join_all, try_join_all};

use super::{
    Found, KeyGroup, OlderRow, OnlineRead, OnlineStore, RowBatch, Search, StoreKind, Table, ViewColumns,
    WriteBatch,
    kind::{KINDS, Opening},
};
use crate::{
    config::schema::{Kind as Holds, ONLINE, Schema, Unknown, used},
    error::{Error, Result},
    model::FeatureView,
    proto::feast::core::InfraObject,
};

/// The `hybrid` type.
pub static KIND: StoreKind = StoreKind {
    name: "hybrid",
    schema: &SCHEMA,
    open: |opening| {
        Box::pin(async move { Ok(Arc::new(HybridStore::open(opening).await?) as Arc<dyn OnlineStore>) })
    },
};

static SCHEMA: Schema = Schema {
    unknown: Unknown::Refused,
    keys: &[
        used("type", Holds::Text, Some("hybrid")),
        used("routing_tag", Holds::Text, Some("tribe")),
        used("online_stores", Holds::Stores(&ONLINE), None),
    ],
};

/// An opened set of stores.
pub struct HybridStore {
    tag: String,
    /// By what a view's tag calls them.
    stores: Vec<(&'static str, Arc<dyn OnlineStore>)>,
}

impl HybridStore {
    async fn open(opening: Opening<'_>) -> Result<Self> {
        let mut stores = Vec::new();
        while let Some(name) = opening
            .section
            .text(&format!("online_stores.{}.type", stores.len()))
        {
            let kind = KINDS.iter().find(|kind| kind.name == name);
            let kind =
                kind.ok_or_else(|| Error::internal(format!("there is no online store type `{name}`")))?;
            let section = opening
                .section
                .under(&format!("online_stores.{}.conf", stores.len()));
            let inner = Opening {
                section: &section,
                ..opening
            };
            let store = (kind.open)(inner).await;
            let store = store.map_err(|error| error.context(format!("online store `{name}` of `hybrid`")))?;
            stores.push((kind.name, store));
        }
        if stores.is_empty() {
            return Err(Error::config("`online_store.online_stores` is missing")
                .hint("list the stores as `- {type: …, conf: {…}}`"));
        }
        Ok(Self {
            tag: opening.section.text("routing_tag").unwrap_or("tribe").to_owned(),
            stores,
        })
    }

    /// Which store holds the view.
    fn place(&self, view: &FeatureView) -> Result<usize> {
        self.place_of(&view.name, &view.tags)
    }

    fn place_of(&self, view: &str, tags: &BTreeMap<String, String>) -> Result<usize> {
        let names = || {
            let names: Vec<&str> = self.stores.iter().map(|(name, _)| *name).collect();
            names.join(", ")
        };
        let tag = &self.tag;
        let Some(value) = tags.get(tag).filter(|value| !value.is_empty()) else {
            return Err(Error::invalid(format!(
                "feature view `{view}` has no tag `{tag}`, which says where it is stored online"
            ))
            .hint(format!("set the tag to one of {}", names())));
        };
        let place = self
            .stores
            .iter()
            .position(|(name, _)| name.eq_ignore_ascii_case(value));
        place.ok_or_else(|| {
            Error::invalid(format!(
                "feature view `{view}` has the tag `{tag}: {value}`, and no such online store is configured"
            ))
            .hint(format!(
                "set the tag to one of {}, or add it to `online_store.online_stores`",
                names()
            ))
        })
    }

    fn of(&self, view: &FeatureView) -> Result<&dyn OnlineStore> {
        Ok(self.stores[self.place(view)?].1.as_ref())
    }
}

/// What one store is asked for, and which of the request's batches its answers are.
#[derive(Default)]
struct Share {
    groups: Vec<KeyGroup>,
    batches: Vec<usize>,
}

#[async_trait]
impl OnlineStore for HybridStore {
    async fn read(&self, read: &OnlineRead<'_>) -> Result<Vec<RowBatch>> {
        let mut shares: Vec<Share> = self.stores.iter().map(|_| Share::default()).collect();
        let mut count = 0;
        for group in read.groups {
            let mut views: Vec<Vec<ViewColumns>> = vec![Vec::new(); self.stores.len()];
            for view in group.views.iter() {
                let place = self.place(&view.table.view)?;
                views[place].push(view.clone());
                shares[place].batches.push(count);
                count += 1;
            }
            for (share, views) in shares.iter_mut().zip(views) {
                if !views.is_empty() {
                    share.groups.push(KeyGroup {
                        keys: group.keys.clone(),
                        views: views.into(),
                    });
                }
            }
        }
        let mut reads = Vec::new();
        for ((_, store), share) in self.stores.iter().zip(&shares) {
            if !share.groups.is_empty() {
                reads.push(read_share(store.as_ref(), read.project, share));
            }
        }
        let mut answer = vec![RowBatch::default(); count];
        for (places, batches) in try_join_all(reads).await? {
            for (place, batch) in places.iter().zip(batches) {
                answer[*place] = batch;
            }
        }
        Ok(answer)
    }

    async fn write(&self, project: &str, table: &Table, batch: &WriteBatch, older: OlderRow) -> Result<u64> {
        self.of(&table.view)?.write(project, table, batch, older).await
    }

    async fn provision(&self, project: &str, keep: &[Arc<FeatureView>], drop: &[Table]) -> Result<()> {
        let mut kept: Vec<Vec<Arc<FeatureView>>> = vec![Vec::new(); self.stores.len()];
        for view in keep {
            kept[self.place(view)?].push(Arc::clone(view));
        }
        let mut dropped: Vec<Vec<Table>> = vec![Vec::new(); self.stores.len()];
        for table in drop {
            // A view that could never be stored has nothing to drop.
            if let Ok(place) = self.place(&table.view) {
                dropped[place].push(table.clone());
            }
        }
        for ((_, store), (keep, drop)) in self.stores.iter().zip(kept.iter().zip(&dropped)) {
            if !keep.is_empty() || !drop.is_empty() {
                store.provision(project, keep, drop).await?;
            }
        }
        Ok(())
    }

    fn accepts(&self, view: &str, tags: &BTreeMap<String, String>) -> Result<()> {
        self.stores[self.place_of(view, tags)?].1.accepts(view, tags)
    }

    fn unknown_is_present(&self, view: &FeatureView) -> bool {
        self.of(view).is_ok_and(|store| store.unknown_is_present(view))
    }

    fn prefers_key_order(&self, view: &FeatureView) -> bool {
        self.of(view).is_ok_and(|store| store.prefers_key_order(view))
    }

    async fn delete(&self, project: &str, table: &Table, keys: &[Bytes]) -> Result<u64> {
        self.of(&table.view)?.delete(project, table, keys).await
    }

    async fn count(&self, project: &str, table: &Table) -> Result<u64> {
        self.of(&table.view)?.count(project, table).await
    }

    async fn truncate(&self, project: &str, table: &Table) -> Result<()> {
        self.of(&table.view)?.truncate(project, table).await
    }

    async fn keys(
        &self,
        project: &str,
        table: &Table,
        page: Option<Bytes>,
    ) -> Result<(Vec<Bytes>, Option<Bytes>)> {
        self.of(&table.view)?.keys(project, table, page).await
    }

    async fn search(&self, project: &str, table: &Table, search: &Search) -> Result<Found> {
        self.of(&table.view)?.search(project, table, search).await
    }

    fn infra(&self, project: &str, view: &FeatureView) -> Option<InfraObject> {
        self.of(view).ok()?.infra(project, view)
    }

    fn name(&self) -> &'static str {
        KIND.name
    }

    async fn check(&self) -> Result<()> {
        let checks = self.stores.iter().map(|(name, store)| async move {
            let outcome = store.check().await;
            outcome.map_err(|error| error.context(format!("online store `{name}`")))
        });
        join_all(checks).await.into_iter().collect()
    }
}

async fn read_share<'a>(
    store: &dyn OnlineStore,
    project: &str,
    share: &'a Share,
) -> Result<(&'a [usize], Vec<RowBatch>)> {
    let groups = &share.groups;
    let batches = store.read(&OnlineRead { project, groups }).await?;
    Ok((&share.batches, batches))
}
