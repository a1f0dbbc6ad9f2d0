//! Writing: guarded upserts, one transaction per batch.

use std::collections::HashMap;

use sqlx::{AssertSqlSafe, Row as _, SqliteConnection};

use super::{SqliteStore, is_missing_table, quoted};
use crate::{
    error::Result,
    model::value::text::value_text,
    online::store::{
        OlderRow, WriteBatch,
        sql::{
            COLUMNS,
            cells::{decoded, value_number},
            placeholders,
            vectors::floats,
        },
    },
};

/// Keys looked up per statement.
const KEYS_PER_LOOKUP: usize = 1024;

/// Values written per statement.
const VALUES_PER_UPSERT: usize = 512;

impl SqliteStore {
    pub(super) async fn write_rows(&self, table: &str, batch: &WriteBatch, older: OlderRow) -> Result<u64> {
        let mut rows = batch.newest_rows()?;
        // Neighbours in the table's order touch the same pages.
        rows.sort_unstable_by(|a, b| batch.keys[*a].cmp(&batch.keys[*b]));
        if rows.is_empty() {
            return Ok(0);
        }
        let failed = |error| self.failed("writing", error);
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let mut written = 0;
        for chunk in rows.chunks(KEYS_PER_LOOKUP) {
            let stored = match self
                .stored_times(&mut transaction, table, batch, chunk, older)
                .await
            {
                // Not provisioned, or a version that was never written before.
                Err(error) if is_missing_table(&error) => {
                    self.create_table(&mut transaction, table).await?;
                    HashMap::new()
                }
                stored => stored.map_err(failed)?,
            };
            let fresh: Vec<usize> = chunk
                .iter()
                .copied()
                .filter(|&row| {
                    let known = stored.get(batch.keys[row].as_ref());
                    older == OlderRow::Overwrite
                        || known.is_none_or(|&known| known <= seconds(batch.event_times[row]))
                })
                .collect();
            let mut upserted = self.upsert(&mut transaction, table, batch, &fresh).await;
            if upserted.as_ref().is_err_and(is_missing_column) {
                self.create_table(&mut transaction, table).await?;
                upserted = self.upsert(&mut transaction, table, batch, &fresh).await;
            }
            upserted.map_err(failed)?;
            written += fresh.len() as u64;
        }
        transaction.commit().await.map_err(failed)?;
        Ok(written)
    }

    /// The stored event time of every key that has one; only a probe of the table when none is needed.
    async fn stored_times(
        &self,
        connection: &mut SqliteConnection,
        table: &str,
        batch: &WriteBatch,
        rows: &[usize],
        older: OlderRow,
    ) -> Result<HashMap<Vec<u8>, i64>, sqlx::Error> {
        let rows = if older == OlderRow::Overwrite {
            &rows[..1]
        } else {
            rows
        };
        let parameters = rows.len().next_power_of_two();
        let mut sql = format!(
            "SELECT entity_key, max(event_ts) FROM {} WHERE entity_key IN (?",
            quoted(table)
        );
        sql.push_str(&",?".repeat(parameters - 1));
        sql.push_str(") GROUP BY entity_key");
        let mut query = sqlx::query(AssertSqlSafe(sql));
        let last = std::iter::repeat_n(rows.last(), parameters - rows.len()).flatten();
        for &row in rows.iter().chain(last) {
            query = query.bind(batch.keys[row].as_ref());
        }
        let mut times = HashMap::with_capacity(rows.len());
        for row in query.fetch_all(connection).await? {
            let time: Option<i64> = row.try_get_unchecked(1)?;
            times.insert(row.try_get(0)?, time.unwrap_or(i64::MIN));
        }
        Ok(times)
    }

    async fn upsert(
        &self,
        connection: &mut SqliteConnection,
        table: &str,
        batch: &WriteBatch,
        rows: &[usize],
    ) -> Result<(), sqlx::Error> {
        let width = batch.features.len();
        let cells: Vec<(usize, usize)> = rows
            .iter()
            .flat_map(|&row| (0..width).map(move |column| (row, column)))
            .collect();
        for chunk in cells.chunks(VALUES_PER_UPSERT) {
            let statement = self.upsert_statement(table, chunk.len());
            let mut query = sqlx::query(AssertSqlSafe(statement));
            for &(row, column) in chunk {
                let bytes = &batch.values[row * width + column];
                let value = decoded(bytes);
                query = query
                    .bind(batch.keys[row].as_ref())
                    .bind(batch.features[column].as_str())
                    .bind(bytes.as_ref())
                    .bind(value_text(&value))
                    .bind(seconds(batch.event_times[row]))
                    .bind(batch.created(row).map(seconds));
                if self.vector_enabled {
                    // As C has them in memory: Feast packs them with `struct`.
                    let packed = |vector: Vec<f32>| vector.into_iter().flat_map(f32::to_ne_bytes).collect();
                    query = query.bind(floats(&value).map(packed).map(|bytes: Vec<u8>| bytes));
                }
                if self.keeps_numbers {
                    query = query.bind(value_number(&value));
                }
            }
            query.execute(&mut *connection).await?;
        }
        Ok(())
    }

    fn upsert_statement(&self, table: &str, values: usize) -> String {
        let mut columns = COLUMNS.to_vec();
        if self.vector_enabled {
            columns.push("vector_value");
        }
        if self.keeps_numbers {
            columns.push("value_num");
        }
        let set = format!("({})", placeholders(columns.len()));
        let updates: Vec<String> = columns[2..]
            .iter()
            .map(|name| format!("{name} = excluded.{name}"))
            .collect();
        format!(
            "INSERT INTO {} ({}) VALUES {} ON CONFLICT(entity_key, feature_name) DO UPDATE SET {}",
            quoted(table),
            columns.join(", "),
            vec![set; values].join(","),
            updates.join(", ")
        )
    }
}

/// Whether the table was made before it had to have the column of numbers.
fn is_missing_column(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(error) if error.message().contains("has no column named"))
}

/// Whole seconds of a time in microseconds.
fn seconds(micros: i64) -> i64 {
    micros.div_euclid(1_000_000)
}
