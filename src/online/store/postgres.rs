//! [`PostgresStore`]: the PostgreSQL online store in Feast's tables
//! (`feast/infra/online_stores/postgres_online_store/postgres.py`), with pgvector for similarity search.
//!
//! What differs from Feast's own store, none of it in the tables: times are UTC whatever the time zone
//! of the session or the role; an entity's row never goes back in event time; `conn_type` and `min_conn`
//! do not matter, up to `max_conn` connections are opened as they are needed. Feast's single connection
//! of `conn_type: singleton` would make requests wait for each other for no gain.

mod read;
mod search;
mod tables;
mod write;

use std::{
    collections::HashMap,
    future::ready,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use self::tables::Columns;
use super::{
    Found, OlderRow, OnlineRead, OnlineStore, RowBatch, Search, StoreKind, Table, WriteBatch,
    sql::{
        LONG_LIMIT, READ_LIMIT, Races, connections::Connections, failed, is_missing_table, table_name,
        vectors::Metric, within,
    },
};
use crate::{
    config::{
        Section,
        schema::{Kind as Holds, Schema, Unknown, joined, missing, used},
    },
    database::postgres::{KEYS, Server},
    error::{Error, Result},
    model::FeatureView,
};

/// Prepared statements kept on each connection: one per set of views that are asked together.
const STATEMENTS: usize = 128;
/// Entity keys per page of [`OnlineStore::keys`].
const PAGE: i64 = 1000;

/// The `postgres` type.
pub static KIND: StoreKind = StoreKind {
    name: "postgres",
    schema: &SCHEMA,
    open: |opening| {
        Box::pin(async move {
            let store = PostgresStore::open(opening.section)?;
            Ok(Arc::new(store) as Arc<dyn OnlineStore>)
        })
    },
};

static SCHEMA: Schema = Schema {
    unknown: Unknown::Refused,
    keys: &joined::<{ KEYS.len() + 5 }>(
        &KEYS,
        &[
            used("vector_enabled", Holds::Bool, Some("false")),
            used("similarity", Holds::Text, None),
            missing(
                "vector_len",
                Holds::Int,
                "vectors are as long as their field's `vector_length`",
            ),
            used("enable_openai_compatible_store", Holds::Bool, Some("false")),
            missing(
                "max_batched_result_rows",
                Holds::Int,
                "a request is one round trip, however many rows it has",
            ),
        ],
    ),
};

/// An opened PostgreSQL online store.
#[derive(Debug)]
pub struct PostgresStore {
    connections: Connections<PgConnection>,
    user: String,
    schema: String,
    vector_enabled: bool,
    /// Whether tables get the column Feast keeps numbers in.
    keeps_numbers: bool,
    /// What a search that names none measures by; Feast's v2 search takes L2 whatever the configuration
    /// says.
    similarity: Metric,
    /// Columns of tables that have been written to.
    tables: Mutex<HashMap<String, Columns>>,
}

impl PostgresStore {
    /// Takes the configuration in; connects when it is first used.
    ///
    /// # Errors
    /// `Config` naming the key that is missing or makes no sense.
    pub fn open(section: &Section) -> Result<Self> {
        let server = Server::of(section, "online_store")?;
        let options = server.options.statement_cache_capacity(STATEMENTS).options([
            // The plans are those of key look-ups; making one anew takes longer than the look-up.
            ("plan_cache_mode", "force_generic_plan"),
            ("jit", "off"),
        ]);
        let place = format!("the online store `{}`", server.address);
        Ok(Self {
            connections: Connections::new(options, |_| Box::pin(ready(Ok(()))), place, server.connections),
            user: server.user,
            schema: server.schema,
            vector_enabled: section.bool("vector_enabled"),
            keeps_numbers: section.bool("enable_openai_compatible_store"),
            similarity: section
                .text("similarity")
                .map_or(Ok(Metric::L2), Metric::named)
                .map_err(|error| Error::config(error.message().to_owned()))?,
            tables: Mutex::default(),
        })
    }

    fn failed(&self, error: sqlx::Error) -> Error {
        failed(self.connections.place(), error)
    }

    fn tables(&self) -> MutexGuard<'_, HashMap<String, Columns>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A statement about one table with a parameter, in which a missing table has no rows.
    async fn ask<P>(&self, statement: &str, parameter: P) -> Result<Vec<sqlx::postgres::PgRow>>
    where
        P: for<'q> sqlx::Encode<'q, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Clone + Send,
    {
        let mut races = Races::default();
        loop {
            let mut lease = self.connections.lease().await?;
            let query = sqlx::query(AssertSqlSafe(statement.to_owned())).bind(parameter.clone());
            let asked = within(LONG_LIMIT, query.fetch_all(&mut *lease)).await;
            let again = lease.settle(&asked);
            match asked {
                Ok(rows) => return Ok(rows),
                Err(error) if is_missing_table(&error) => return Ok(Vec::new()),
                Err(error) if again || races.again(&error).await => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
    }

    fn count_in(&self, rows: &[sqlx::postgres::PgRow]) -> Result<u64> {
        let Some(row) = rows.first() else { return Ok(0) };
        let count: i64 = row.try_get(0).map_err(|error| self.failed(error))?;
        Ok(u64::try_from(count).unwrap_or_default())
    }
}

#[async_trait]
impl OnlineStore for PostgresStore {
    async fn read(&self, read: &OnlineRead<'_>) -> Result<Vec<RowBatch>> {
        self.read_groups(read).await
    }

    async fn write(&self, project: &str, table: &Table, batch: &WriteBatch, older: OlderRow) -> Result<u64> {
        self.write_rows(&table_name(project, &table.name), &table.view, batch, older)
            .await
    }

    async fn provision(&self, project: &str, keep: &[Arc<FeatureView>], drop: &[Table]) -> Result<()> {
        let named = keep
            .iter()
            .map(|view| (table_name(project, &view.name), view.as_ref()));
        let dropped = drop.iter().map(|table| table_name(project, &table.name));
        let (keep, drop): (Vec<_>, Vec<_>) = (named.collect(), dropped.collect());
        match (keep.is_empty(), drop.is_empty()) {
            (true, true) => Ok(()),
            _ => self.provision_tables(&keep, &drop).await,
        }
    }

    async fn delete(&self, project: &str, table: &Table, keys: &[Bytes]) -> Result<u64> {
        let name = quoted(&table_name(project, &table.name));
        let statement = format!(
            "WITH gone AS (DELETE FROM {name} WHERE entity_key = ANY($1) RETURNING entity_key) \
             SELECT count(DISTINCT entity_key) FROM gone"
        );
        let keys: Vec<Vec<u8>> = keys.iter().map(|key| key.to_vec()).collect();
        self.count_in(&self.ask(&statement, keys).await?)
    }

    async fn count(&self, project: &str, table: &Table) -> Result<u64> {
        let name = quoted(&table_name(project, &table.name));
        let statement = format!(
            "SELECT count(*) FROM (SELECT DISTINCT entity_key FROM {name} WHERE entity_key > $1) entities"
        );
        self.count_in(&self.ask(&statement, Vec::<u8>::new()).await?)
    }

    async fn truncate(&self, project: &str, table: &Table) -> Result<()> {
        let name = quoted(&table_name(project, &table.name));
        // TRUNCATE would wait for all readers, and they for it.
        self.ask(
            &format!("DELETE FROM {name} WHERE entity_key >= $1"),
            Vec::<u8>::new(),
        )
        .await
        .map(drop)
    }

    async fn keys(
        &self,
        project: &str,
        table: &Table,
        page: Option<Bytes>,
    ) -> Result<(Vec<Bytes>, Option<Bytes>)> {
        let name = quoted(&table_name(project, &table.name));
        let statement = format!(
            "SELECT DISTINCT entity_key FROM {name} WHERE entity_key > $1 ORDER BY entity_key LIMIT {PAGE}"
        );
        let rows = self.ask(&statement, page.unwrap_or_default().to_vec()).await?;
        let keys = rows
            .iter()
            .map(|row| row.try_get::<Vec<u8>, _>(0).map(Bytes::from));
        let keys: Vec<Bytes> = keys
            .collect::<Result<_, _>>()
            .map_err(|error| self.failed(error))?;
        let next = keys.last().filter(|_| keys.len() as i64 == PAGE).cloned();
        Ok((keys, next))
    }

    async fn search(&self, project: &str, table: &Table, search: &Search) -> Result<Found> {
        self.search_rows(&table_name(project, &table.name), &table.view, search)
            .await
    }

    fn prefers_key_order(&self, _: &FeatureView) -> bool {
        true
    }

    fn name(&self) -> &'static str {
        KIND.name
    }

    async fn check(&self) -> Result<()> {
        loop {
            let mut lease = self.connections.lease().await?;
            let asked = within(READ_LIMIT, sqlx::query("SELECT 1").execute(&mut *lease)).await;
            if !lease.settle(&asked) {
                return asked.map(|_| ()).map_err(|error| self.failed(error));
            }
        }
    }
}

/// An identifier in double quotes.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
