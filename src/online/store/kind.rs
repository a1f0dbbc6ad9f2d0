//! The types of online stores there are: how each is called, which keys it takes, how it is opened.

use std::{fmt, path::Path, sync::Arc};

use futures::future::BoxFuture;

use super::{OnlineStore, disabled::DisabledStore, dynamodb, hybrid, mysql, postgres, redis, remote, sqlite};
use crate::{
    config::{OnlineStoreConfig, Schema, Section},
    error::Result,
    metrics::Metrics,
    model::entity_key,
};

/// Every type of store that thali serves from.
pub static KINDS: &[&StoreKind] = &[
    &dynamodb::KIND,
    &hybrid::KIND,
    &mysql::KIND,
    &postgres::KIND,
    &redis::KIND,
    &remote::KIND,
    &sqlite::KIND,
];

/// A store on its way.
pub(crate) type Opened<'a> = BoxFuture<'a, Result<Arc<dyn OnlineStore>>>;

/// A type of online store.
pub struct StoreKind {
    /// As `online_store.type` has it.
    pub name: &'static str,
    /// The keys of its section.
    pub(crate) schema: &'static Schema,
    /// Opens it; a store that cannot be reached now opens all the same, and says so when it is used.
    pub(crate) open: for<'a> fn(Opening<'a>) -> Opened<'a>,
}

impl fmt::Debug for StoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for StoreKind {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

/// What a store is opened with.
#[derive(Clone, Copy)]
pub struct Opening<'a> {
    /// The checked keys of its section.
    pub section: &'a Section,
    /// The directory that relative paths start from.
    pub repo_path: &'a Path,
    pub key_version: entity_key::Version,
    pub metrics: &'a Arc<Metrics>,
}

/// The version of keys in a store, which for some is not a matter of configuration.
pub fn key_version(config: &OnlineStoreConfig, configured: entity_key::Version) -> entity_key::Version {
    match config {
        OnlineStoreConfig::Store { kind, .. } if kind.name == mysql::KIND.name => entity_key::Version::V3,
        _ => configured,
    }
}

/// Opens the configured store.
///
/// # Errors
/// `Config` when the configuration makes no sense to the store; what the store returns.
pub async fn open(
    config: &OnlineStoreConfig,
    repo_path: &Path,
    key_version: entity_key::Version,
    metrics: &Arc<Metrics>,
) -> Result<Arc<dyn OnlineStore>> {
    match config {
        OnlineStoreConfig::Disabled => Ok(Arc::new(DisabledStore)),
        OnlineStoreConfig::Store { kind, section } => {
            (kind.open)(Opening {
                section,
                repo_path,
                key_version,
                metrics,
            })
            .await
        }
    }
}
