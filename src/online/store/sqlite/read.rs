//! Reading: one statement for all views of a request, which answers one row for each entity of a view.
//! SQLite works in a thread of its own: every row that comes from there costs more than the values in it,
//! so these come as one text.

use std::fmt::Write as _;

use bytes::Bytes;
use futures::TryStreamExt as _;
use sqlx::{AssertSqlSafe, Row as _, SqliteConnection};

use super::{SqliteStore, is_missing_table, quoted, table_name};
use crate::{
    error::Result,
    online::store::{KeyGroup, OnlineRead, RowBatch, ViewColumns, sql::filling::Filling},
};

/// Keys per statement; SQLite allows 32,766 parameters.
const KEYS_PER_STATEMENT: usize = 4096;

/// Views per statement; SQLite allows 500 terms of a compound select.
const VIEWS_PER_STATEMENT: usize = 100;

/// One view's place in a statement.
struct Part<'a> {
    /// Which of the answer's batches it fills.
    batch: usize,
    view: &'a ViewColumns,
}

impl SqliteStore {
    pub(super) async fn read_groups(&self, read: &OnlineRead<'_>) -> Result<Vec<RowBatch>> {
        let mut work: Vec<(&KeyGroup, Vec<Part<'_>>)> = Vec::with_capacity(read.groups.len());
        let mut batch = 0;
        for group in read.groups {
            let parts = group.views.iter().map(|view| {
                batch += 1;
                Part {
                    batch: batch - 1,
                    view,
                }
            });
            let parts = parts.collect();
            work.push((group, parts));
        }
        let mut filling = Filling::new(read.groups.iter().map(|group| (&*group.keys, &*group.views)));
        if batch == 0 {
            return Ok(Vec::new());
        }
        let mut lease = self.readers.lease().await?;
        let outcome = fill_all(&mut lease, read.project, &work, &mut filling).await;
        lease.settle(&outcome);
        outcome.map_err(|error| self.failed("reading", error))?;
        Ok(filling.finish())
    }
}

async fn fill_all(
    connection: &mut SqliteConnection,
    project: &str,
    work: &[(&KeyGroup, Vec<Part<'_>>)],
    filling: &mut Filling<'_>,
) -> Result<(), sqlx::Error> {
    if let Some(statement) = Statement::whole(project, work)
        && fill(connection, statement, filling).await?
    {
        return Ok(());
    }
    // Too large for one statement, or a table is missing: view by view, a missing one has no rows.
    for (group, parts) in work {
        for part in parts {
            for keys in group.keys.chunks(KEYS_PER_STATEMENT) {
                fill(connection, Statement::single(project, part, keys), filling).await?;
            }
        }
    }
    Ok(())
}

/// Runs a statement and puts what it answers into its place; answers false, having filled nothing, if a
/// table is missing.
async fn fill(
    connection: &mut SqliteConnection,
    statement: Statement<'_>,
    filling: &mut Filling<'_>,
) -> Result<bool, sqlx::Error> {
    let mut query = sqlx::query(AssertSqlSafe(statement.sql));
    for key in &statement.parameters {
        query = query.bind(*key);
    }
    let mut rows = query.fetch(connection);
    loop {
        let row = match rows.try_next().await {
            Ok(Some(row)) => row,
            Ok(None) => return Ok(true),
            Err(error) if is_missing_table(&error) => return Ok(false),
            Err(error) => return Err(error),
        };
        let part = usize::try_from(row.try_get_unchecked::<i64, _>(0)?).unwrap_or(usize::MAX);
        let Some(index) = filling.place(part, row.try_get_unchecked(1)?) else {
            continue;
        };
        let seconds: Option<i64> = row.try_get_unchecked(2)?;
        filling.time(part, index, seconds.unwrap_or(0).saturating_mul(1_000_000));
        let cells: &str = row.try_get_unchecked(3)?;
        let mut name = Vec::new();
        for (feature, value) in cells.split(',').filter_map(|cell| cell.split_once('=')) {
            name.clear();
            unhex(feature, &mut name)?;
            if let Some(slot) = filling.value(part, index, &name) {
                slot.fill(|values| unhex(value, values))?;
            }
        }
    }
}

/// Appends the bytes of SQLite's hex.
fn unhex(text: &str, bytes: &mut Vec<u8>) -> Result<(), sqlx::Error> {
    let start = bytes.len();
    bytes.resize(start + text.len() / 2, 0);
    hex::decode_to_slice(text, &mut bytes[start..]).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// One statement with its parameters.
struct Statement<'a> {
    sql: String,
    parameters: Vec<&'a [u8]>,
}

impl<'a> Statement<'a> {
    fn empty() -> Self {
        Self {
            sql: String::with_capacity(512),
            parameters: Vec::new(),
        }
    }

    /// Everything in one statement, if it fits.
    fn whole(project: &str, work: &[(&'a KeyGroup, Vec<Part<'a>>)]) -> Option<Self> {
        let views: usize = work.iter().map(|(_, parts)| parts.len()).sum();
        let keys: usize = work.iter().map(|(group, _)| group.keys.len()).sum();
        if views > VIEWS_PER_STATEMENT || keys > KEYS_PER_STATEMENT {
            return None;
        }
        let mut statement = Self::empty();
        for (group, parts) in work {
            if group.keys.is_empty() {
                continue;
            }
            let first = statement.keys(&group.keys);
            for part in parts {
                statement.select(project, part, &first);
            }
        }
        (!statement.sql.is_empty()).then_some(statement)
    }

    fn single(project: &str, part: &Part<'a>, keys: &'a [Bytes]) -> Self {
        let mut statement = Self::empty();
        let parameters = statement.keys(keys);
        statement.select(project, part, &parameters);
        statement
    }

    /// Binds a key set and answers the numbers of its parameters. The count is rounded up to a power of
    /// two by repeating the last key, so that few distinct statements have to be prepared.
    fn keys(&mut self, keys: &'a [Bytes]) -> std::ops::RangeInclusive<usize> {
        let first = self.parameters.len() + 1;
        self.parameters.extend(keys.iter().map(|key| key.as_ref()));
        if let Some(last) = keys.last() {
            let padded = keys.len().next_power_of_two() - keys.len();
            self.parameters.extend(std::iter::repeat_n(last.as_ref(), padded));
        }
        first..=self.parameters.len()
    }

    fn select(&mut self, project: &str, part: &Part<'a>, parameters: &std::ops::RangeInclusive<usize>) {
        if !self.sql.is_empty() {
            self.sql.push_str(" UNION ALL ");
        }
        let table = quoted(&table_name(project, &part.view.table.name));
        // Writing into a String cannot fail.
        let _ = write!(
            self.sql,
            "SELECT {}, entity_key, max(event_ts), group_concat(hex(feature_name) || '=' || hex(value)) \
             FROM {table} WHERE entity_key IN (",
            part.batch
        );
        for number in parameters.clone() {
            let comma = if number == *parameters.start() { "" } else { "," };
            let _ = write!(self.sql, "{comma}?{number}");
        }
        self.sql.push_str(") AND feature_name IN (");
        for (index, feature) in part.view.features.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let _ = write!(self.sql, "{comma}'{}'", feature.replace('\'', "''"));
        }
        self.sql.push_str(") GROUP BY entity_key");
    }
}
