//! [`SqlStore`]: the registry in Feast's own tables, opened by the URL Feast is given. Which SQL is
//! spoken is the business of the dialects below; so far there is SQLite.

mod schema;
mod sqlite;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;

use self::sqlite::SqliteStore;
use super::{
    Decide, ProjectState, RegistryStore, Revision,
    history::{Author, HistoryEntry, HistoryPage},
};
use crate::error::{Error, Result};

/// A registry in a SQL database.
pub struct SqlStore {
    dialect: Box<dyn RegistryStore>,
}

impl SqlStore {
    /// Opens the database at a `SQLAlchemy` URL and makes the tables that are missing; relative file
    /// names start from `base`.
    ///
    /// # Errors
    /// `Config` when the URL is malformed or the tables are not Feast's, `Unsupported` for other
    /// databases, `Unavailable` when it cannot be opened.
    pub async fn open(url: &str, base: &Path) -> Result<Self> {
        let path = sqlite_path(url, base)?;
        Ok(Self {
            dialect: Box::new(SqliteStore::open(&path).await?),
        })
    }
}

/// The file a `sqlite:///…` URL names, read as `SQLAlchemy` does: three slashes and a relative path, or
/// four for an absolute one.
pub fn sqlite_path(url: &str, base: &Path) -> Result<PathBuf> {
    const HINT: &str = "`sqlite:///relative/file.db` or `sqlite:////absolute/file.db`";
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(Error::config("the path of the SQL registry is not a database URL").hint(HINT));
    };
    let (dialect, _driver) = scheme.split_once('+').unwrap_or((scheme, ""));
    if dialect != "sqlite" {
        return Err(
            Error::unsupported(format!("SQL registries on `{dialect}` are not supported yet"))
                .hint(format!("supported: {HINT}")),
        );
    }
    let path = rest.split('?').next().unwrap_or_default();
    match path.strip_prefix('/') {
        Some(":memory:" | "") | None => {
            Err(Error::config("a registry in memory is seen by nobody else; give the URL a file").hint(HINT))
        }
        Some(file) => Ok(base.join(file)),
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
