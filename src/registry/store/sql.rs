//! [`SqlStore`]: the registry in Feast's own tables, opened by the URL Feast is given. Which SQL is
//! spoken is the business of the dialects below; so far there is SQLite.

mod schema;
mod sqlite;

use std::sync::Arc;

use async_trait::async_trait;

use self::sqlite::SqliteStore;
use super::{
    Decide, ProjectState, RegistryStore, Revision,
    history::{Author, HistoryEntry, HistoryPage},
};
use crate::{
    database::DatabaseUrl,
    error::{Error, Result},
};

/// A registry in a SQL database.
pub struct SqlStore {
    dialect: Box<dyn RegistryStore>,
}

impl SqlStore {
    /// Opens the database and makes the tables that are missing.
    ///
    /// # Errors
    /// `Config` when the tables are not Feast's, `Unsupported` for databases that are not built in,
    /// `Unavailable` when it cannot be opened.
    pub async fn open(url: &DatabaseUrl) -> Result<Self> {
        let Some(path) = url.file() else {
            return Err(Error::unsupported(format!(
                "SQL registries on `{}` are not supported yet",
                url.engine().scheme()
            ))
            .hint("supported: `sqlite:///relative/file.db` or `sqlite:////absolute/file.db`"));
        };
        Ok(Self {
            dialect: Box::new(SqliteStore::open(path).await?),
        })
    }
}

#[async_trait]
impl RegistryStore for SqlStore {
    async fn projects(&self) -> Result<Vec<String>> {
        self.dialect.projects().await
    }

    async fn load(&self, project: &str) -> Result<Arc<ProjectState>> {
        self.dialect.load(project).await
    }

    async fn revision(&self) -> Result<Revision> {
        self.dialect.revision().await
    }

    async fn update(
        &self,
        project: &str,
        author: Option<&Author>,
        decide: Decide<'_>,
    ) -> Result<Arc<ProjectState>> {
        self.dialect.update(project, author, decide).await
    }

    async fn history(&self, project: &str, page: HistoryPage) -> Result<Vec<HistoryEntry>> {
        self.dialect.history(project, page).await
    }

    async fn check(&self) -> Result<()> {
        self.dialect.check().await
    }
}

#[cfg(test)]
mod tests;
