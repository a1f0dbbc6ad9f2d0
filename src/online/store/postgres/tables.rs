//! The tables: made as Feast makes them, and those of older Feasts brought up to date.

use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};

use super::{PostgresStore, quoted};
use crate::{
    error::Result,
    model::{FeatureView, ValueType},
    online::store::sql::{LONG_LIMIT, Races, within},
};

/// What differs between tables of one view in different databases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Columns {
    pub(super) has_text: bool,
    pub(super) has_number: bool,
    pub(super) has_vector: bool,
    /// That column is pgvector's, not one of bytes.
    pub(super) is_vector: bool,
}

impl PostgresStore {
    /// The columns of a table; `None` when it does not exist.
    pub(super) async fn columns(
        &self,
        connection: &mut PgConnection,
        table: &str,
    ) -> Result<Option<Columns>, sqlx::Error> {
        let statement = "SELECT a.attname::text, t.typname::text FROM pg_attribute a \
             JOIN pg_type t ON t.oid = a.atttypid \
             WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped";
        let rows = sqlx::query(statement)
            .bind(quoted(table))
            .fetch_all(connection)
            .await?;
        let mut columns = Columns::default();
        for row in &rows {
            match row.try_get(0)? {
                "value_text" => columns.has_text = true,
                "value_num" => columns.has_number = true,
                "vector_value" => {
                    columns.has_vector = true;
                    columns.is_vector = row.try_get::<&str, _>(1)? == "vector";
                }
                _ => {}
            }
        }
        Ok((!rows.is_empty()).then_some(columns))
    }

    /// Makes the table of a view as Feast does, or adds what one of an older Feast lacks.
    async fn create_table(
        &self,
        connection: &mut PgConnection,
        table: &str,
        view: &FeatureView,
    ) -> Result<(), sqlx::Error> {
        let name = quoted(table);
        let vector = if self.vector_enabled { "vector" } else { "BYTEA" };
        let number = match self.keeps_numbers {
            true => "value_num DOUBLE PRECISION NULL, ",
            false => "",
        };
        let mut statements = Vec::new();
        match self.columns(connection, table).await? {
            None => statements.push(format!(
                "CREATE TABLE IF NOT EXISTS {name} (entity_key BYTEA, feature_name TEXT, value BYTEA, \
                 value_text TEXT NULL, {number}vector_value {vector} NULL, event_ts TIMESTAMPTZ, \
                 created_ts TIMESTAMPTZ, PRIMARY KEY(entity_key, feature_name))"
            )),
            Some(known) => {
                let mut add =
                    |column: &str| statements.push(format!("ALTER TABLE {name} ADD COLUMN {column}"));
                if !known.has_text {
                    add("value_text TEXT NULL");
                }
                if self.keeps_numbers && !known.has_number {
                    add("value_num DOUBLE PRECISION NULL");
                }
                if !known.has_vector {
                    add(&format!("vector_value {vector} NULL"));
                } else if self.vector_enabled && !known.is_vector {
                    // Without pgvector Feast keeps nothing in it.
                    statements.push(format!(
                        "ALTER TABLE {name} ALTER COLUMN vector_value TYPE vector USING NULL"
                    ));
                }
            }
        }
        let index = quoted(&format!("{table}_ek"));
        statements.push(format!(
            "CREATE INDEX IF NOT EXISTS {index} ON {name} (entity_key)"
        ));
        if view
            .features
            .iter()
            .any(|field| field.value_type == ValueType::String)
        {
            let index = quoted(&format!("{table}_fts_idx"));
            statements.push(format!(
                "CREATE INDEX IF NOT EXISTS {index} ON {name} USING GIN (to_tsvector('english', value_text))"
            ));
        }
        run(connection, statements).await
    }

    /// What all tables need: the schema, pgvector; and nobody else who makes tables at the same time.
    async fn prepare(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let mut statements = vec![
            "SELECT pg_advisory_xact_lock(hashtext('thali online store'))".to_owned(),
            // A table that is being read for long is not waited for for ever, nor are its readers.
            "SET LOCAL lock_timeout = '30s'".to_owned(),
        ];
        let known: (bool, bool) = sqlx::query_as(
            "SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = $1), to_regtype('vector') IS NOT NULL",
        )
        .bind(&self.schema)
        .fetch_one(&mut *connection)
        .await?;
        if !known.0 {
            let (schema, user) = (quoted(&self.schema), quoted(&self.user));
            statements.push(format!(
                "CREATE SCHEMA IF NOT EXISTS {schema} AUTHORIZATION {user}"
            ));
        }
        if self.vector_enabled && !known.1 {
            statements.push("CREATE EXTENSION IF NOT EXISTS vector".to_owned());
        }
        run(connection, statements).await
    }

    async fn provision_once(
        &self,
        connection: &mut PgConnection,
        keep: &[(String, &FeatureView)],
        drop: &[String],
    ) -> Result<(), sqlx::Error> {
        let mut transaction = connection.begin().await?;
        self.prepare(&mut transaction).await?;
        for (table, view) in keep {
            self.create_table(&mut transaction, table, view).await?;
        }
        let dropped = drop
            .iter()
            .map(|table| format!("DROP TABLE IF EXISTS {}", quoted(table)));
        run(&mut transaction, dropped.collect()).await?;
        transaction.commit().await
    }

    pub(super) async fn provision_tables(
        &self,
        keep: &[(String, &FeatureView)],
        drop: &[String],
    ) -> Result<()> {
        let mut races = Races::default();
        loop {
            let mut lease = self.connections.lease().await?;
            let done = within(LONG_LIMIT, self.provision_once(&mut lease, keep, drop)).await;
            let again = lease.settle(&done);
            self.tables().clear();
            match done {
                Ok(()) => return Ok(()),
                Err(error) if again || races.again(&error).await => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
    }
}

async fn run(connection: &mut PgConnection, statements: Vec<String>) -> Result<(), sqlx::Error> {
    for statement in statements {
        sqlx::query(AssertSqlSafe(statement))
            .persistent(false)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}
