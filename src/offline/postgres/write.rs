//! Writing tables: rows go in with `COPY` in one transaction, so all of them are there or none.

use arrow::{datatypes::Schema, record_batch::RecordBatch};
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};

use super::{
    ANSWER_LIMIT, Server,
    source::{Source, quoted},
    text::{column_type, write_csv},
};
use crate::{
    error::{Error, Kind, Result},
    offline::store::listed,
};

/// Rows that become text at a time.
const CHUNK_ROWS: usize = 1 << 12;

/// Columns of a table and whether they fill themselves.
const COLUMNS: &str = "SELECT attname::text, atthasdef OR attidentity <> '' OR attgenerated <> '' FROM pg_attribute \
                       WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum";

impl Server {
    /// Adds rows to a source.
    pub(super) async fn append(&self, name: &str, source: &Source, batches: &[RecordBatch]) -> Result<u64> {
        let whose = format!("data source `{name}`");
        let table = table_of(&whose, source)?;
        let mut connection = self.writing().await?;
        self.check_columns(&mut connection, &whose, table, batches)
            .await?;
        let mut transaction = self.within(ANSWER_LIMIT, connection.begin()).await?;
        let mut rows = 0;
        for batch in batches {
            rows += self.copy_in(&mut transaction, &whose, table, batch).await?;
        }
        self.within(ANSWER_LIMIT, transaction.commit()).await?;
        Ok(rows)
    }

    /// Rows with too much or too little are refused before anything is written.
    async fn check_columns(
        &self,
        connection: &mut PgConnection,
        whose: &str,
        table: &str,
        batches: &[RecordBatch],
    ) -> Result<()> {
        let asked = sqlx::query(COLUMNS).bind(table).fetch_all(connection);
        let asked = self.within(ANSWER_LIMIT, async { Ok(asked.await) }).await?;
        let found = asked.map_err(|error| self.refused(whose, error))?;
        let columns: Result<Vec<(String, bool)>, sqlx::Error> = found
            .iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .collect();
        let columns = columns.map_err(|error| self.failed(error))?;
        for batch in batches {
            let schema = batch.schema();
            let missing = columns
                .iter()
                .filter(|(name, fills_itself)| !fills_itself && schema.index_of(name).is_err())
                .map(|(name, _)| name.as_str());
            let unknown = schema
                .fields()
                .iter()
                .map(|field| field.name().as_str())
                .filter(|name| columns.iter().all(|(column, _)| column != name));
            let (missing, unknown): (Vec<&str>, Vec<&str>) = (missing.collect(), unknown.collect());
            if !(missing.is_empty() && unknown.is_empty()) {
                let mut parts = Vec::new();
                if !missing.is_empty() {
                    parts.push(format!("missing {}", listed(missing)));
                }
                if !unknown.is_empty() {
                    parts.push(format!("unknown {}", listed(unknown)));
                }
                return Err(Error::invalid(format!(
                    "{whose}: the rows do not have the columns of table `{table}`: {}",
                    parts.join(", ")
                )));
            }
        }
        Ok(())
    }

    /// Makes a table of a stream.
    pub(super) async fn save(
        &self,
        source: &Source,
        mut rows: SendableRecordBatchStream,
        overwrite: bool,
    ) -> Result<u64> {
        let whose = "the saved dataset";
        let table = table_of(whose, source)?;
        let mut connection = self.writing().await?;
        let mut transaction = self.within(ANSWER_LIMIT, connection.begin()).await?;
        if overwrite {
            self.run(&mut transaction, whose, format!("DROP TABLE IF EXISTS {table}"))
                .await?;
        }
        let make = format!("CREATE TABLE {table} ({})", columns_of(&rows.schema()));
        let made = sqlx::query(AssertSqlSafe(make)).execute(&mut *transaction);
        let made = self.within(ANSWER_LIMIT, async { Ok(made.await) }).await?;
        made.map_err(|error| {
            // "Duplicate table", and the race of two that make it.
            let exists = |error: &sqlx::Error| match error {
                sqlx::Error::Database(said) => {
                    matches!(said.code().as_deref(), Some("42P07" | "23505"))
                }
                _ => false,
            };
            if exists(&error) {
                Error::new(Kind::AlreadyExists, format!("there is a table `{table}` already"))
                    .hint("choose another name, or allow it to be overwritten")
            } else {
                self.refused(whose, error)
            }
        })?;
        let mut count = 0;
        while let Some(batch) = rows.next().await {
            count += self.copy_in(&mut transaction, whose, table, &batch?).await?;
        }
        self.within(ANSWER_LIMIT, transaction.commit()).await?;
        Ok(count)
    }

    async fn run(&self, connection: &mut PgConnection, whose: &str, statement: String) -> Result<()> {
        let done = sqlx::query(AssertSqlSafe(statement)).execute(connection);
        let done = self.within(ANSWER_LIMIT, async { Ok(done.await) }).await?;
        done.map(drop).map_err(|error| self.refused(whose, error))
    }

    async fn copy_in(
        &self,
        connection: &mut PgConnection,
        whose: &str,
        table: &str,
        batch: &RecordBatch,
    ) -> Result<u64> {
        if batch.num_rows() == 0 {
            return Ok(0);
        }
        let refused = |error| self.refused(whose, error);
        let schema = batch.schema();
        let columns: Vec<_> = schema.fields().iter().map(|field| quoted(field.name())).collect();
        let statement = format!("COPY {table} ({}) FROM STDIN (FORMAT csv)", columns.join(", "));
        let mut copy = connection.copy_in_raw(&statement).await.map_err(refused)?;
        let mut text = String::new();
        for start in (0..batch.num_rows()).step_by(CHUNK_ROWS) {
            text.clear();
            let rows = CHUNK_ROWS.min(batch.num_rows() - start);
            write_csv(&batch.slice(start, rows), &mut text)?;
            copy.send(text.as_bytes()).await.map_err(refused)?;
        }
        copy.finish().await.map_err(refused)
    }
}

/// The table to write to.
fn table_of<'a>(whose: &str, source: &'a Source) -> Result<&'a str> {
    match source {
        Source::Table(name) => Ok(name),
        Source::Query(_) => Err(Error::unsupported(format!(
            "{whose} is a query: rows cannot be written to it"
        ))
        .hint("write to a source that is a table")),
    }
}

fn columns_of(schema: &Schema) -> String {
    let column = |field: &arrow::datatypes::FieldRef| {
        format!("{} {}", quoted(field.name()), column_type(field.data_type()))
    };
    let columns: Vec<_> = schema.fields().iter().map(column).collect();
    columns.join(", ")
}
