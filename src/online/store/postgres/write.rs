//! Writing: guarded upserts of arrays. A batch is one statement, or one transaction.
//!
//! Rows that are older than what is stored are left out by a look before; who comes in between is met by
//! the condition of the upsert. All writers go through the cells in one order, so they never wait for
//! each other in a circle, and what two of them leave is what one after the other would have left.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};

use super::{PostgresStore, quoted, read::micros, tables::Columns};
use crate::{
    error::{Error, Result},
    model::{FeatureView, value::text::value_text},
    online::store::{
        OlderRow, WriteBatch,
        sql::{
            COLUMNS, LONG_LIMIT, Races,
            cells::{decoded, fresh_rows, sorted_columns, value_number},
            is_missing_table,
            vectors::floats,
            within,
        },
    },
};

/// Cells written per statement.
const CELLS_PER_STATEMENT: usize = 20_000;
/// Dimensions pgvector can hold.
const LONGEST_VECTOR: usize = 16_000;

impl PostgresStore {
    pub(super) async fn write_rows(
        &self,
        table: &str,
        view: &FeatureView,
        batch: &WriteBatch,
        older: OlderRow,
    ) -> Result<u64> {
        let mut rows = batch.newest_rows()?;
        if rows.is_empty() || batch.features.is_empty() {
            return Ok(0);
        }
        for &row in &rows {
            time(batch.event_times[row])?;
            batch.created(row).map(time).transpose()?;
        }
        rows.sort_unstable_by(|a, b| batch.keys[*a].cmp(&batch.keys[*b]));
        let mut races = Races::default();
        let mut changed = false;
        loop {
            let mut lease = self.connections.lease().await?;
            let work = self.write_once(&mut lease, table, batch, &rows, older);
            let outcome = within(LONG_LIMIT, work).await;
            let again = lease.settle(&outcome);
            match outcome {
                Ok(Some(written)) => return Ok(written),
                // Not provisioned, or a version that was never written before.
                Ok(None) => self.provision_tables(&[(table.to_owned(), view)], &[]).await?,
                Err(error) if is_other_table(&error) && !changed => {
                    changed = true;
                    self.tables().remove(table);
                }
                Err(error) if again || races.again(&error).await => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
    }

    /// Answers how many rows were written; `None` if there is no such table.
    async fn write_once(
        &self,
        connection: &mut PgConnection,
        table: &str,
        batch: &WriteBatch,
        rows: &[usize],
        older: OlderRow,
    ) -> Result<Option<u64>, sqlx::Error> {
        let known = self.tables().get(table).copied();
        let columns = match known {
            Some(columns) => columns,
            None => {
                let Some(columns) = self.columns(connection, table).await? else {
                    return Ok(None);
                };
                self.tables().insert(table.to_owned(), columns);
                columns
            }
        };
        let per_statement = (CELLS_PER_STATEMENT / batch.features.len()).max(1);
        if rows.len() <= per_statement {
            return self
                .upsert(connection, table, columns, batch, rows, older)
                .await
                .map(Some);
        }
        let mut transaction = connection.begin().await?;
        let mut written = 0;
        for rows in rows.chunks(per_statement) {
            written += self
                .upsert(&mut transaction, table, columns, batch, rows, older)
                .await?;
        }
        transaction.commit().await?;
        Ok(Some(written))
    }

    async fn upsert(
        &self,
        connection: &mut PgConnection,
        table: &str,
        columns: Columns,
        batch: &WriteBatch,
        rows: &[usize],
        older: OlderRow,
    ) -> Result<u64, sqlx::Error> {
        let stored = match older {
            OlderRow::Skip => stored_times(connection, table, batch, rows).await?,
            OlderRow::Overwrite => HashMap::new(),
        };
        let fresh = fresh_rows(batch, rows, &stored, older, 1);
        if fresh.is_empty() {
            return Ok(0);
        }
        let cells = Cells::of(batch, &fresh, columns, self.vector_enabled && columns.is_vector);
        cells.upsert(connection, &quoted(table), columns, older).await?;
        Ok(fresh.len() as u64)
    }
}

/// The stored event time of every key that has one.
async fn stored_times(
    connection: &mut PgConnection,
    table: &str,
    batch: &WriteBatch,
    rows: &[usize],
) -> Result<HashMap<Vec<u8>, i64>, sqlx::Error> {
    let statement = format!(
        "SELECT entity_key, max(event_ts) FROM {} WHERE entity_key = ANY($1) GROUP BY entity_key",
        quoted(table)
    );
    let keys: Vec<&[u8]> = rows.iter().map(|row| batch.keys[*row].as_ref()).collect();
    let mut times = HashMap::with_capacity(rows.len());
    for row in sqlx::query(AssertSqlSafe(statement))
        .bind(keys)
        .fetch_all(connection)
        .await?
    {
        times.insert(row.try_get(0)?, micros(&row, 1)?.unwrap_or(i64::MIN));
    }
    Ok(times)
}

/// The columns of a statement, cell by cell.
#[derive(Default)]
struct Cells<'a> {
    keys: Vec<&'a [u8]>,
    features: Vec<&'a str>,
    values: Vec<&'a [u8]>,
    texts: Vec<Option<String>>,
    numbers: Vec<Option<f64>>,
    vectors: Vec<Option<String>>,
    event_times: Vec<DateTime<Utc>>,
    created_times: Vec<Option<DateTime<Utc>>>,
}

impl<'a> Cells<'a> {
    fn of(batch: &'a WriteBatch, rows: &[usize], columns: Columns, with_vectors: bool) -> Self {
        let order = sorted_columns(batch);
        let mut cells = Self::default();
        for &row in rows {
            let values = batch.row(row);
            // Checked before.
            let event_time = time(batch.event_times[row]).unwrap_or_default();
            let created = batch.created(row).and_then(|micros| time(micros).ok());
            for &column in &order {
                let value = decoded(&values[column]);
                cells.keys.push(&batch.keys[row]);
                cells.features.push(&batch.features[column]);
                cells.values.push(&values[column]);
                // PostgreSQL has no text with a zero in it.
                cells
                    .texts
                    .push(value_text(&value).map(|text| text.replace('\0', "")));
                if columns.has_number {
                    cells.numbers.push(value_number(&value));
                }
                if with_vectors {
                    cells
                        .vectors
                        .push(floats(&value).and_then(|vector| vector_text(&vector)));
                }
                cells.event_times.push(event_time);
                cells.created_times.push(created);
            }
        }
        cells
    }

    async fn upsert(
        self,
        connection: &mut PgConnection,
        table: &str,
        columns: Columns,
        older: OlderRow,
    ) -> Result<(), sqlx::Error> {
        let mut names = COLUMNS.to_vec();
        let mut arrays = vec![
            "bytea[]",
            "text[]",
            "bytea[]",
            "text[]",
            "timestamptz[]",
            "timestamptz[]",
        ];
        let mut taken: Vec<String> = ["k", "f", "v", "t", "e", "c"].map(str::to_owned).to_vec();
        let mut aliases = taken.clone();
        if columns.has_number {
            names.push("value_num");
            arrays.push("float8[]");
            aliases.push("n".to_owned());
            taken.push("n".to_owned());
        }
        let with_vectors = !self.vectors.is_empty();
        if columns.has_vector {
            names.push("vector_value");
            taken.push(if with_vectors { "z::vector" } else { "NULL" }.to_owned());
        }
        if with_vectors {
            arrays.push("text[]");
            aliases.push("z".to_owned());
        }
        let arrays: Vec<String> = arrays
            .iter()
            .enumerate()
            .map(|(index, name)| format!("${}::{name}", index + 1))
            .collect();
        let updates: Vec<String> = names[2..]
            .iter()
            .map(|name| format!("{name} = excluded.{name}"))
            .collect();
        let guard = match older {
            OlderRow::Skip => " WHERE s.event_ts IS NULL OR s.event_ts <= excluded.event_ts",
            OlderRow::Overwrite => "",
        };
        let statement = format!(
            "INSERT INTO {table} AS s ({}) SELECT {} FROM unnest({}) AS cell({}) \
             ON CONFLICT (entity_key, feature_name) DO UPDATE SET {}{guard}",
            names.join(", "),
            taken.join(", "),
            arrays.join(", "),
            aliases.join(", "),
            updates.join(", "),
        );
        let mut query = sqlx::query(AssertSqlSafe(statement))
            .bind(self.keys)
            .bind(self.features)
            .bind(self.values)
            .bind(self.texts)
            .bind(self.event_times)
            .bind(self.created_times);
        if columns.has_number {
            query = query.bind(self.numbers);
        }
        if with_vectors {
            query = query.bind(self.vectors);
        }
        query.execute(connection).await.map(drop)
    }
}

/// A time PostgreSQL can hold.
fn time(micros: i64) -> Result<DateTime<Utc>> {
    DateTime::from_timestamp_micros(micros)
        .filter(|time| (-4000..290_000).contains(&chrono::Datelike::year(time)))
        .ok_or_else(|| {
            Error::invalid(format!(
                "{micros} microseconds since 1970 is no time that PostgreSQL can hold"
            ))
        })
}

/// A vector as pgvector reads it; one it cannot hold is not searched for.
pub(super) fn vector_text(vector: &[f32]) -> Option<String> {
    let fits = (1..=LONGEST_VECTOR).contains(&vector.len()) && vector.iter().all(|number| number.is_finite());
    let numbers: Vec<String> = vector.iter().map(f32::to_string).collect();
    fits.then(|| format!("[{}]", numbers.join(",")))
}

/// The table is not what it was when its columns were looked at: gone, or made anew.
fn is_other_table(error: &sqlx::Error) -> bool {
    let code = match error {
        sqlx::Error::Database(error) => error.code(),
        _ => None,
    };
    is_missing_table(error) || code.is_some_and(|code| ["42703", "42704", "42804"].contains(&code.as_ref()))
}
