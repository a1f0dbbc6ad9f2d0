//! Tables of thali's own are made and changed by migrations that are part of the program. Each runs
//! once, by one process at a time. Every statement must bear being run twice (`IF NOT EXISTS`), because
//! MySQL cannot take back half a migration.

use sqlx::{AnyConnection, Executor, Row};

use super::{Database, Engine, failure};
use crate::error::{Error, Result};

/// A version number, a name and SQL.
pub type Migration = (i64, &'static str, &'static str);

impl Database {
    /// Brings the tables that `migrations` describe up to date; `table` keeps which ones were run.
    ///
    /// # Errors
    /// `Config` when a newer thali wrote the tables or the user has no right to make them, `Unavailable`
    /// when the database does not answer.
    pub async fn migrate(&self, table: &'static str, migrations: &[Migration]) -> Result<()> {
        // Nothing to do is the rule: it takes neither a lock nor the right to make tables.
        let mut connection = self.connection().await?;
        let present = self.version(&mut connection, table).await;
        drop(connection);
        if !self.is_behind(present.map_err(|error| self.failed(error))?, table, migrations)? {
            return Ok(());
        }
        let mut alone = self.begin().await?;
        let migrated = self.run(&mut alone, table, migrations).await;
        if self.engine() == Engine::MySql {
            // The lock belongs to the connection, which goes back to the pool.
            let released = sqlx::query("SELECT RELEASE_LOCK(SHA1(CONCAT(DATABASE(), ?)))").bind(table);
            if let Err(error) = released.execute(&mut *alone).await {
                tracing::debug!(%error, "migration lock is released with its connection");
            }
        }
        migrated?;
        alone.commit().await.map_err(|error| self.failed(error))
    }

    async fn run(
        &self,
        alone: &mut AnyConnection,
        table: &'static str,
        migrations: &[Migration],
    ) -> Result<()> {
        let refused = |error: sqlx::Error| {
            self.cannot_open(&error)
                .context(format!("the tables of `{table}` cannot be brought up to date"))
        };
        self.lock(alone, table).await?;
        let make = format!(
            "CREATE TABLE IF NOT EXISTS {table} \
             (version BIGINT NOT NULL PRIMARY KEY, name VARCHAR(255) NOT NULL, applied_at BIGINT NOT NULL)"
        );
        alone.execute(self.sql(&make)).await.map_err(refused)?;
        let present = self.version(alone, table).await.map_err(refused)?;
        self.is_behind(present, table, migrations)?;
        for (version, name, sql) in migrations.iter().filter(|(version, ..)| *version > present) {
            alone.execute(sqlx::raw_sql(*sql)).await.map_err(refused)?;
            let now = self.now();
            let note = format!("INSERT INTO {table} (version, name, applied_at) VALUES (?, ?, {now})");
            sqlx::query(self.sql(&note))
                .bind(version)
                .bind(*name)
                .execute(&mut *alone)
                .await
                .map_err(refused)?;
            tracing::info!(%table, version, name, "database migrated");
        }
        Ok(())
    }

    /// Waits until no other process migrates the same tables. SQLite's transaction is enough.
    async fn lock(&self, alone: &mut AnyConnection, table: &str) -> Result<()> {
        let statement = match self.engine() {
            Engine::Sqlite => return Ok(()),
            Engine::Postgres => "SELECT pg_advisory_xact_lock(hashtext(?))",
            Engine::MySql => "SELECT GET_LOCK(SHA1(CONCAT(DATABASE(), ?)), 60)",
        };
        let row = sqlx::query(self.sql(statement))
            .bind(table)
            .fetch_one(alone)
            .await
            .map_err(|error| self.failed(error))?;
        if self.engine() == Engine::MySql && row.try_get::<Option<i64>, _>(0).ok().flatten() != Some(1) {
            return Err(Error::unavailable(format!(
                "another process has been migrating `{table}` for a minute"
            )));
        }
        Ok(())
    }

    /// The newest migration that was run; 0 when there was none.
    async fn version(&self, connection: &mut AnyConnection, table: &str) -> Result<i64, sqlx::Error> {
        let newest = format!("SELECT MAX(version) FROM {table}");
        match sqlx::query(self.sql(&newest)).fetch_one(connection).await {
            Ok(row) => Ok(row.try_get::<Option<i64>, _>(0)?.unwrap_or_default()),
            Err(error) if failure::is_missing_table(&error) => Ok(0),
            Err(error) => Err(error),
        }
    }

    fn is_behind(&self, present: i64, table: &str, migrations: &[Migration]) -> Result<bool> {
        let known = migrations
            .iter()
            .map(|(version, ..)| *version)
            .max()
            .unwrap_or_default();
        if present > known {
            return Err(Error::config(format!(
                "`{table}` in `{}` is at version {present}, and this thali knows {known}",
                self.url()
            ))
            .hint("a newer thali wrote it; run that version"));
        }
        Ok(present < known)
    }
}
