//! [`MySqlStore`]: the MySQL and MariaDB online store in Feast's tables
//! (`feast/infra/online_stores/mysql_online_store/mysql.py`).
//!
//! Keys are the hex text of version 3 keys whatever version is configured, as Feast has it. What differs
//! from Feast's own store, none of it in rows that both read: times are UTC whatever the time zone of the
//! session; an entity's row never goes back in event time; new tables tell apart names that differ in
//! case only; a value that is too long is refused, where Feast's session may have it cut off.
//!
//! Invariant: event times are whole seconds in this layout, so two writes within one second count as
//! equally old and the later write wins.

mod read;
mod write;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, MySqlConnection, Row as _,
    mysql::MySqlConnectOptions,
};

use super::{
    OlderRow, OnlineRead, OnlineStore, RowBatch, StoreKind, Table, WriteBatch,
    sql::{
        LONG_LIMIT, Races, connections::Connections, failed, is_missing_table, placeholders, table_name,
        within,
    },
};
use crate::{
    config::{
        Section,
        schema::{Kind as Holds, Schema, Unknown, accepted, missing, used},
    },
    error::{Error, Result},
    model::FeatureView,
};

/// Prepared statements kept on each connection.
const STATEMENTS: usize = 128;
/// Connections, at most; Feast has one.
const CONNECTIONS: usize = 10;
/// Entity keys per page of [`OnlineStore::keys`], and per statement that deletes.
const PAGE: usize = 1000;

/// The `mysql` type.
pub static KIND: StoreKind = StoreKind {
    name: "mysql",
    schema: &SCHEMA,
    open: |opening| {
        Box::pin(async move {
            let store = MySqlStore::open(opening.section)?;
            Ok(Arc::new(store) as Arc<dyn OnlineStore>)
        })
    },
};

static SCHEMA: Schema = Schema {
    unknown: Unknown::Refused,
    keys: &[
        used("type", Holds::Text, Some("mysql")),
        used("host", Holds::Text, Some("127.0.0.1")),
        used("port", Holds::Int, Some("3306")),
        used("user", Holds::Text, Some("test")),
        used("password", Holds::Secret, Some("test")),
        used("database", Holds::Text, Some("feast")),
        // Rows are always written in batches.
        accepted("batch_write", Holds::Bool),
        missing("batch_size", Holds::Int, "thali chooses the size of its batches"),
    ],
};

/// An opened MySQL or MariaDB online store.
#[derive(Debug)]
pub struct MySqlStore {
    connections: Connections<MySqlConnection>,
}

impl MySqlStore {
    /// Takes the configuration in; connects when it is first used.
    ///
    /// # Errors
    /// `Config` naming the key that makes no sense.
    pub fn open(section: &Section) -> Result<Self> {
        let text = |key: &str, default| section.text(key).unwrap_or(default).to_owned();
        let (host, user, database) = (
            text("host", "127.0.0.1"),
            text("user", "test"),
            text("database", "feast"),
        );
        let port = u16::try_from(section.int("port").unwrap_or(3306))
            .map_err(|_error| Error::config("`online_store.port` is no port number"))?;
        let options = MySqlConnectOptions::new()
            .host(&host)
            .port(port)
            .username(&user)
            .password(&text("password", "test"))
            .database(&database)
            .timezone(Some("+00:00".to_owned()))
            .statement_cache_capacity(STATEMENTS)
            .disable_statement_logging();
        let place = format!("the online store `mysql://{user}@{host}:{port}/{database}`");
        Ok(Self {
            connections: Connections::new(options, set_up, place, CONNECTIONS),
        })
    }

    fn failed(&self, error: sqlx::Error) -> Error {
        failed(self.connections.place(), error)
    }

    /// Makes the table of a view as Feast does.
    async fn create_table(&self, connection: &mut MySqlConnection, table: &str) -> Result<(), sqlx::Error> {
        let (name, index) = (quoted(table), format!("{table}_ek"));
        let statement = format!(
            "CREATE TABLE IF NOT EXISTS {name} (entity_key VARCHAR(512), feature_name VARCHAR(256), value BLOB, \
             event_ts timestamp NULL DEFAULT NULL, created_ts timestamp NULL DEFAULT NULL, \
             PRIMARY KEY(entity_key, feature_name), INDEX {} (entity_key)) \
             DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
            quoted(&index)
        );
        run(connection, statement).await?;
        let has_index = sqlx::query(
            "SELECT 1 FROM information_schema.statistics \
             WHERE table_schema = DATABASE() AND table_name = ? AND index_name = ?",
        )
        .bind(table)
        .bind(&index)
        .fetch_optional(&mut *connection)
        .await?;
        match has_index {
            Some(_) => Ok(()),
            None => {
                let statement = format!("ALTER TABLE {name} ADD INDEX {} (entity_key)", quoted(&index));
                run(connection, statement).await
            }
        }
    }

    async fn provision_once(
        &self,
        connection: &mut MySqlConnection,
        keep: &[String],
        drop: &[String],
    ) -> Result<(), sqlx::Error> {
        for table in keep {
            self.create_table(connection, table).await?;
        }
        for table in drop {
            run(connection, format!("DROP TABLE IF EXISTS {}", quoted(table))).await?;
        }
        Ok(())
    }

    async fn provision_tables(&self, keep: &[String], drop: &[String]) -> Result<()> {
        let mut races = Races::default();
        loop {
            let mut lease = self.connections.lease().await?;
            let done = within(LONG_LIMIT, self.provision_once(&mut lease, keep, drop)).await;
            let again = lease.settle(&done);
            match done {
                Ok(()) => return Ok(()),
                Err(error) if again || races.again(&error).await => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
    }

    /// The first column of a statement about one table, as text; a missing table has no rows.
    async fn ask(&self, statement: &str, parameters: &[&str]) -> Result<Vec<String>> {
        loop {
            let mut lease = self.connections.lease().await?;
            let mut query = sqlx::query(AssertSqlSafe(statement.to_owned()));
            for parameter in parameters {
                query = query.bind(*parameter);
            }
            let asked = within(LONG_LIMIT, query.fetch_all(&mut *lease)).await;
            if lease.settle(&asked) {
                continue;
            }
            return match asked {
                Ok(rows) => {
                    let texts = rows.iter().map(|row| row.try_get::<String, _>(0));
                    texts
                        .collect::<Result<_, _>>()
                        .map_err(|error| self.failed(error))
                }
                Err(error) if is_missing_table(&error) => Ok(Vec::new()),
                Err(error) => Err(self.failed(error)),
            };
        }
    }

    /// Deletes the rows of some keys in hex; answers how many there were.
    async fn delete_once(
        &self,
        connection: &mut MySqlConnection,
        table: &str,
        keys: &[String],
    ) -> Result<u64, sqlx::Error> {
        let name = quoted(table);
        let condition = format!("{name} WHERE entity_key IN ({})", placeholders(keys.len()));
        let mut transaction = connection.begin().await?;
        let mut entities = sqlx::query(AssertSqlSafe(format!(
            "SELECT DISTINCT entity_key FROM {condition} ORDER BY entity_key FOR UPDATE"
        )))
        .persistent(false);
        let mut gone = sqlx::query(AssertSqlSafe(format!("DELETE FROM {condition}"))).persistent(false);
        for key in keys {
            entities = entities.bind(key);
            gone = gone.bind(key);
        }
        let count = entities.fetch_all(&mut *transaction).await?.len() as u64;
        gone.execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(count)
    }
}

#[async_trait]
impl OnlineStore for MySqlStore {
    async fn read(&self, read: &OnlineRead<'_>) -> Result<Vec<RowBatch>> {
        self.read_groups(read).await
    }

    async fn write(&self, project: &str, table: &Table, batch: &WriteBatch, older: OlderRow) -> Result<u64> {
        self.write_rows(&table_name(project, &table.name), &table.view, batch, older)
            .await
    }

    async fn provision(&self, project: &str, keep: &[Arc<FeatureView>], drop: &[Table]) -> Result<()> {
        let keep: Vec<String> = keep.iter().map(|view| table_name(project, &view.name)).collect();
        let drop: Vec<String> = drop
            .iter()
            .map(|table| table_name(project, &table.name))
            .collect();
        match (keep.is_empty(), drop.is_empty()) {
            (true, true) => Ok(()),
            _ => self.provision_tables(&keep, &drop).await,
        }
    }

    async fn delete(&self, project: &str, table: &Table, keys: &[Bytes]) -> Result<u64> {
        let table = table_name(project, &table.name);
        let mut keys: Vec<String> = keys.iter().map(hex::encode).collect();
        keys.sort_unstable();
        let mut deleted = 0;
        for keys in keys.chunks(PAGE) {
            let mut races = Races::default();
            deleted += loop {
                let mut lease = self.connections.lease().await?;
                let done = within(LONG_LIMIT, self.delete_once(&mut lease, &table, keys)).await;
                let again = lease.settle(&done);
                match done {
                    Ok(count) => break count,
                    Err(error) if is_missing_table(&error) => return Ok(0),
                    Err(error) if again || races.again(&error).await => {}
                    Err(error) => return Err(self.failed(error)),
                }
            };
        }
        Ok(deleted)
    }

    async fn count(&self, project: &str, table: &Table) -> Result<u64> {
        let name = quoted(&table_name(project, &table.name));
        let statement = format!("SELECT CAST(COUNT(DISTINCT entity_key) AS CHAR) FROM {name}");
        let counted = self.ask(&statement, &[]).await?;
        Ok(counted
            .first()
            .and_then(|text| text.parse().ok())
            .unwrap_or_default())
    }

    async fn truncate(&self, project: &str, table: &Table) -> Result<()> {
        let name = quoted(&table_name(project, &table.name));
        self.ask(&format!("DELETE FROM {name}"), &[]).await.map(drop)
    }

    async fn keys(
        &self,
        project: &str,
        table: &Table,
        page: Option<Bytes>,
    ) -> Result<(Vec<Bytes>, Option<Bytes>)> {
        let name = quoted(&table_name(project, &table.name));
        let statement = format!(
            "SELECT DISTINCT entity_key FROM {name} WHERE entity_key > ? ORDER BY entity_key LIMIT {PAGE}"
        );
        let page = page.unwrap_or_default();
        let texts = self.ask(&statement, &[&String::from_utf8_lossy(&page)]).await?;
        let next = texts.last().filter(|_| texts.len() == PAGE);
        let next = next.map(|text| Bytes::copy_from_slice(text.as_bytes()));
        // What is no hex was not written by Feast or thali.
        let keys = texts
            .iter()
            .filter_map(|text| hex::decode(text).ok())
            .map(Bytes::from);
        Ok((keys.collect(), next))
    }

    fn prefers_key_order(&self, _: &FeatureView) -> bool {
        true
    }

    fn name(&self) -> &'static str {
        KIND.name
    }

    async fn check(&self) -> Result<()> {
        self.ask("SELECT '1'", &[]).await.map(drop)
    }
}

/// Too long a value is an error, never cut off; writers lock rows, not the gaps between them.
fn set_up(connection: &mut MySqlConnection) -> futures::future::BoxFuture<'_, Result<(), sqlx::Error>> {
    const STATEMENT: &str = "SET SESSION sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES'), \
         SESSION innodb_lock_wait_timeout = 30; SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED";
    Box::pin(async move {
        sqlx::raw_sql(STATEMENT).execute(connection).await?;
        Ok(())
    })
}

async fn run(connection: &mut MySqlConnection, statement: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(connection)
        .await?;
    Ok(())
}

/// An identifier in backticks.
fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}
