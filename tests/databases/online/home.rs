//! Where a store under test lives: its section of `feature_store.yaml` and a project of its own.

use std::{fs, sync::Arc};

use thali::{
    config::{Config, OnlineStoreConfig, Sources},
    online::store::{OnlineStore, kind},
};

use crate::servers::Fresh;

/// A store that a test has for itself, or a project that it has for itself within a store.
pub(crate) struct Home {
    /// A name no other test uses, made of letters and digits.
    pub(crate) project: String,
    /// The microseconds that event times are kept in whole numbers of.
    pub(crate) precision: i64,
    folder: tempfile::TempDir,
    database: Option<Fresh>,
}

impl Home {
    /// `section` is what stands under `online_store:`, a line for each key.
    pub(crate) fn new(section: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let project = format!("p{}", &uuid::Uuid::new_v4().simple().to_string()[..10]);
        let section: String = section
            .lines()
            .map(|line| format!("  {}\n", line.trim_end()))
            .collect();
        let text = format!(
            "project: {project}\nprovider: local\nregistry: data/registry.db\nonline_store:\n{section}"
        );
        fs::write(folder.path().join("feature_store.yaml"), text).unwrap();
        Self {
            project,
            precision: 1,
            folder,
            database: None,
        }
    }

    /// The store keeps times in whole numbers of so many microseconds.
    pub(crate) fn with_precision(mut self, micros: i64) -> Self {
        self.precision = micros;
        self
    }

    /// The store is in this database, which goes with it.
    pub(crate) fn within(mut self, database: Fresh) -> Self {
        self.database = Some(database);
        self
    }

    /// The store, opened as another process would.
    pub(crate) async fn open(&self) -> Arc<dyn OnlineStore> {
        let sources = Sources {
            chdir: Some(self.folder.path().to_owned()),
            ..Sources::default()
        };
        let config = Config::load(&sources).unwrap();
        assert!(matches!(config.online_store, OnlineStoreConfig::Store { .. }));
        kind::open(
            &config.online_store,
            &config.repo_path,
            config.entity_key_version,
            &Arc::default(),
        )
        .await
        .unwrap()
    }

    /// The database that the store is in.
    pub(crate) fn database(&self) -> &Fresh {
        self.database.as_ref().unwrap()
    }

    pub(crate) async fn remove(self) {
        if let Some(database) = self.database {
            database.remove().await;
        }
    }
}
