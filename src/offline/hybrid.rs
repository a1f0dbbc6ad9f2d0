//! Feast's `offline_store: {type: hybrid}`: several stores, of which a source's type names its own
//! (`feast/infra/offline_stores/hybrid_offline_store.py`).
//!
//! Here one engine joins whatever the stores hold, so a query may take its views from several of them, which
//! Feast refuses. Files need no store of their own: they are read and written besides, as in [`PostgresStore`].

use std::sync::Arc;

use super::{files::FileStore, postgres::PostgresStore, store::OfflineStore};
use crate::{
    config::{
        Section,
        schema::{Kind as Holds, OFFLINE, Schema, Unknown, used},
    },
    error::{Error, Result},
};

/// The keys of the section (Feast's `HybridOfflineStoreConfig`).
pub(crate) static SCHEMA: Schema = Schema {
    unknown: Unknown::Refused,
    keys: &[
        used("type", Holds::Text, Some("hybrid")),
        used("offline_stores", Holds::Stores(&OFFLINE), None),
    ],
};

/// The store for all that the section lists.
///
/// # Errors
/// `Config` when it lists none, or two for the same type of source, or one that cannot be used.
pub fn open(section: &Section, files: FileStore) -> Result<Arc<dyn OfflineStore>> {
    let (mut of_files, mut postgres, mut count) = (None, None, 0);
    while let Some(name) = section.text(&format!("offline_stores.{count}.type")) {
        let conf = section.under(&format!("offline_stores.{count}.conf"));
        count += 1;
        if name == "postgres" {
            postgres = Some(conf);
        } else if let Some(other) = of_files.replace(name) {
            return Err(Error::config(format!(
                "`offline_store.offline_stores` has two stores of files, `{other}` and `{name}`"
            ))
            .hint("which one holds a file could not be told: leave one of them"));
        }
    }
    match postgres {
        Some(conf) => Ok(Arc::new(PostgresStore::new(&conf, files)?)),
        None if count > 0 => Ok(Arc::new(files)),
        None => Err(Error::config("`offline_store.offline_stores` is missing")
            .hint("list the stores as `- {type: …, conf: {…}}`")),
    }
}
