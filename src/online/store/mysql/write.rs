//! Writing: guarded upserts. A batch is one statement, or one transaction.
//!
//! What the writers of [`super::super::postgres`] do for each other holds here as well: old rows are left
//! out by a look before, who comes in between is met by the condition, all go in one order. InnoDB calls
//! off a writer now and then all the same, which then begins again.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, Connection as _, MySqlConnection, Row as _};

use super::{MySqlStore, placeholders, quoted};
use crate::{
    error::{Error, Result},
    model::{FeatureView, entity_key, value::json},
    online::store::{
        OlderRow, WriteBatch,
        sql::{
            LONG_LIMIT, Races,
            cells::{fresh_rows, sorted_columns},
            is_missing_table, within,
        },
    },
};

const SECOND: i64 = 1_000_000;
/// The last second a `timestamp` column can hold everywhere.
const LAST_SECOND: i64 = i32::MAX as i64;
/// Bytes a `BLOB` can hold.
const BLOB: usize = 65_535;

/// Keys looked up per statement.
const KEYS_PER_LOOKUP: usize = 1024;
/// Cells and bytes written per statement.
const CELLS_PER_STATEMENT: usize = 1000;
const BYTES_PER_STATEMENT: usize = 4 << 20;

impl MySqlStore {
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
            let times = [Some(batch.event_times[row]), batch.created(row)];
            if let Some(micros) = times.into_iter().flatten().find(|micros| time(*micros).is_none()) {
                return Err(Error::invalid(format!(
                    "the row of {} has a time, {} seconds since 1970, that a `timestamp` of MySQL cannot hold",
                    named(&batch.keys[row]),
                    micros.div_euclid(SECOND)
                ))
                .hint("it holds times from 1970-01-01 00:00:01 to 2038-01-19 03:14:07"));
            }
        }
        rows.sort_unstable_by(|a, b| batch.keys[*a].cmp(&batch.keys[*b]));
        let mut races = Races::default();
        loop {
            let mut lease = self.connections.lease().await?;
            let work = write_once(&mut lease, table, view, batch, &rows, older);
            let outcome = within(LONG_LIMIT, work).await;
            let again = lease.settle(&outcome);
            match outcome {
                Ok(Some(written)) => return Ok(written),
                Ok(None) => {
                    return Err(Error::invalid(format!(
                        "view `{}` has features whose names differ in case only, and its table cannot tell them apart",
                        view.name
                    ))
                    .hint(format!(
                        "ALTER TABLE {} CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
                        quoted(table)
                    )));
                }
                // Not provisioned, or a version that was never written before.
                Err(error) if is_missing_table(&error) => {
                    self.provision_tables(&[table.to_owned()], &[]).await?
                }
                Err(error) if again || races.again(&error).await => {}
                Err(error) if is_too_long(&error) => return Err(too_long(view, batch, &rows, error)),
                Err(error) => return Err(self.failed(error)),
            }
        }
    }
}

/// Answers how many rows were written; `None` if the table takes two features for one.
async fn write_once(
    connection: &mut MySqlConnection,
    table: &str,
    view: &FeatureView,
    batch: &WriteBatch,
    rows: &[usize],
    older: OlderRow,
) -> Result<Option<u64>, sqlx::Error> {
    let mut names = HashSet::new();
    let of_view = view.features.iter().map(|field| &field.name);
    let is_like_another = |name: &String| !names.insert(name.to_lowercase());
    if of_view
        .chain(batch.features.iter().filter(|name| view.feature(name).is_none()))
        .any(is_like_another)
        && !is_exact(connection, table).await?
    {
        return Ok(None);
    }
    let mut transaction = connection.begin().await?;
    let mut written = 0;
    for rows in rows.chunks(KEYS_PER_LOOKUP) {
        let stored = match older {
            OlderRow::Skip => stored_times(&mut transaction, table, batch, rows).await?,
            OlderRow::Overwrite => HashMap::new(),
        };
        let fresh = fresh_rows(batch, rows, &stored, older, SECOND);
        upsert(&mut transaction, table, batch, &fresh, older).await?;
        written += fresh.len() as u64;
    }
    transaction.commit().await?;
    Ok(Some(written))
}

/// Whether the table tells names apart that differ in case only; Feast's mostly do not.
async fn is_exact(connection: &mut MySqlConnection, table: &str) -> Result<bool, sqlx::Error> {
    let collation: Option<String> = sqlx::query_scalar(
        "SELECT CAST(collation_name AS CHAR) FROM information_schema.columns \
         WHERE table_schema = DATABASE() AND table_name = ? AND column_name = 'feature_name'",
    )
    .bind(table)
    .fetch_optional(connection)
    .await?;
    // A table that does not exist yet will.
    Ok(collation.is_none_or(|name| name.ends_with("_bin")))
}

/// The stored event time of every key that has one.
async fn stored_times(
    connection: &mut MySqlConnection,
    table: &str,
    batch: &WriteBatch,
    rows: &[usize],
) -> Result<HashMap<Vec<u8>, i64>, sqlx::Error> {
    let count = rows.len().next_power_of_two();
    let statement = format!(
        "SELECT entity_key, MAX(event_ts) FROM {} WHERE entity_key IN ({}) GROUP BY entity_key",
        quoted(table),
        placeholders(count)
    );
    let mut query = sqlx::query(AssertSqlSafe(statement));
    for &row in rows.iter().chain(rows.last().into_iter().cycle()).take(count) {
        query = query.bind(hex::encode(&batch.keys[row]));
    }
    let mut times = HashMap::with_capacity(rows.len());
    for row in query.fetch_all(connection).await? {
        let key: &[u8] = row.try_get_unchecked(0)?;
        let time: Option<DateTime<Utc>> = row.try_get_unchecked(1)?;
        if let Ok(key) = hex::decode(key) {
            times.insert(key, time.map_or(i64::MIN, |time| time.timestamp_micros()));
        }
    }
    Ok(times)
}

async fn upsert(
    connection: &mut MySqlConnection,
    table: &str,
    batch: &WriteBatch,
    rows: &[usize],
    older: OlderRow,
) -> Result<(), sqlx::Error> {
    let columns = sorted_columns(batch);
    let cells = rows
        .iter()
        .flat_map(|row| columns.iter().map(move |column| (*row, *column)));
    let cells: Vec<(usize, usize)> = cells.collect();
    let mut rest = cells.as_slice();
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = |(row, column): &&(usize, usize)| {
            bytes += batch.row(*row)[*column].len() + batch.keys[*row].len() * 2;
            bytes <= BYTES_PER_STATEMENT
        };
        let count = rest
            .iter()
            .take(CELLS_PER_STATEMENT)
            .take_while(fits)
            .count()
            .max(1);
        let (now, later) = rest.split_at(count);
        rest = later;
        let mut query = sqlx::query(AssertSqlSafe(upsert_statement(table, count, older)))
            // Most batches have a length of their own.
            .persistent(count == CELLS_PER_STATEMENT || count <= 64);
        for &(row, column) in now {
            query = query
                .bind(hex::encode(&batch.keys[row]))
                .bind(batch.features[column].as_str())
                .bind(batch.row(row)[column].as_ref())
                .bind(time(batch.event_times[row]))
                .bind(batch.created(row).and_then(time));
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

fn upsert_statement(table: &str, cells: usize, older: OlderRow) -> String {
    let values = vec!["(?,?,?,?,?)"; cells].join(",");
    let update = |column: &str| match older {
        OlderRow::Overwrite => format!("{column} = VALUES({column})"),
        OlderRow::Skip => format!(
            "{column} = IF(event_ts IS NULL OR event_ts <= VALUES(event_ts), VALUES({column}), {column})"
        ),
    };
    // In this order: what is assigned is what the next one compares with.
    let updates = ["value", "created_ts", "event_ts"].map(update).join(", ");
    format!(
        "INSERT INTO {} (entity_key, feature_name, value, event_ts, created_ts) VALUES {values} \
         ON DUPLICATE KEY UPDATE {updates}",
        quoted(table)
    )
}

/// A time in whole seconds, if a `timestamp` can hold it.
fn time(micros: i64) -> Option<DateTime<Utc>> {
    let seconds = micros.div_euclid(SECOND);
    (1..=LAST_SECOND)
        .contains(&seconds)
        .then(|| DateTime::from_timestamp(seconds, 0))
        .flatten()
}

fn is_too_long(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else {
        return false;
    };
    let known = error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>();
    known.is_some_and(|error| error.number() == 1406)
}

fn too_long(view: &FeatureView, batch: &WriteBatch, rows: &[usize], error: sqlx::Error) -> Error {
    let long = rows.iter().find_map(|row| {
        let column = batch.row(*row).iter().position(|value| value.len() > BLOB)?;
        Some((*row, column))
    });
    let text = match long {
        Some((row, column)) => format!(
            "feature `{}` of {} has {} bytes, and the table of view `{}` holds {BLOB} in a value",
            batch.features[column],
            named(&batch.keys[row]),
            batch.row(row)[column].len(),
            view.name
        ),
        None => format!(
            "a key or name is too long for the table of view `{}`: {error}",
            view.name
        ),
    };
    Error::invalid(text)
        .hint("nothing of the batch was written; change the column `value` to MEDIUMBLOB to hold more")
        .source_error(error)
}

/// An entity in a message.
fn named(key: &[u8]) -> String {
    let Ok(entity) = entity_key::deserialize(key) else {
        return format!("entity key `{}`", hex::encode(key));
    };
    let names = entity
        .iter()
        .map(|(name, value)| format!("{name}={}", json::to_json(value)));
    format!("entity `{}`", names.collect::<Vec<_>>().join(", "))
}
