//! Reading: one prepared statement for all views of a request. Its text depends on which views are asked
//! together and on nothing else.

use std::fmt::Write as _;

use futures::TryStreamExt as _;
use sqlx::{AssertSqlSafe, PgConnection, Row as _, ValueRef as _, postgres::PgRow};

use super::{PostgresStore, quoted, table_name};
use crate::{
    error::Result,
    online::store::{
        OnlineRead, RowBatch,
        sql::{READ_LIMIT, filling::Filling, is_missing_table, within},
    },
};

/// Microseconds from 1970 to PostgreSQL's 2000.
const EPOCH: i64 = 946_684_800_000_000;

/// One view of a request: its place among the batches, the group its keys are of, and its own.
struct Part<'a> {
    number: usize,
    group: usize,
    table: String,
    features: &'a [String],
}

impl PostgresStore {
    pub(super) async fn read_groups(&self, read: &OnlineRead<'_>) -> Result<Vec<RowBatch>> {
        let views = read.groups.iter().enumerate();
        let views = views.flat_map(|(group, it)| it.views.iter().map(move |view| (group, view)));
        let parts: Vec<Part<'_>> = views
            .enumerate()
            .map(|(number, (group, view))| Part {
                number,
                group,
                table: quoted(&table_name(read.project, &view.table.name)),
                features: &view.features,
            })
            .collect();
        if parts.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(batches) = self.read_parts(read, &[&parts]).await? {
            return Ok(batches);
        }
        // A table is missing: view by view, a missing one has no rows.
        let single: Vec<&[Part<'_>]> = parts.chunks(1).collect();
        let batches = self.read_parts(read, &single).await?;
        Ok(batches.unwrap_or_default())
    }

    /// Reads the parts with a statement for each of the slices; answers `None` if there is but one, and a
    /// table is missing.
    async fn read_parts(
        &self,
        read: &OnlineRead<'_>,
        slices: &[&[Part<'_>]],
    ) -> Result<Option<Vec<RowBatch>>> {
        'again: loop {
            let mut filling = Filling::new(read.groups.iter().map(|group| (&*group.keys, &*group.views)));
            for parts in slices {
                let mut lease = self.connections.lease().await?;
                let outcome = within(READ_LIMIT, fill(&mut lease, read, parts, &mut filling)).await;
                if lease.settle(&outcome) {
                    continue 'again;
                }
                match outcome {
                    Ok(()) => {}
                    Err(error) if is_missing_table(&error) && slices.len() == 1 && parts.len() > 1 => {
                        return Ok(None);
                    }
                    Err(error) if is_missing_table(&error) => {}
                    Err(error) => return Err(self.failed(error)),
                }
            }
            return Ok(Some(filling.finish()));
        }
    }
}

/// Runs one statement for the parts, and puts what it answers into its place.
async fn fill(
    connection: &mut PgConnection,
    read: &OnlineRead<'_>,
    parts: &[Part<'_>],
    filling: &mut Filling<'_>,
) -> Result<(), sqlx::Error> {
    let mut groups: Vec<usize> = Vec::new();
    let mut sql = String::with_capacity(parts.len() * 160);
    for (position, part) in parts.iter().enumerate() {
        let keys = match groups.iter().position(|group| *group == part.group) {
            Some(known) => known,
            None => {
                groups.push(part.group);
                groups.len() - 1
            }
        };
        let union = if position == 0 { "" } else { " UNION ALL " };
        // Feature names come first among the parameters: there are as many as parts. Writing into a
        // String cannot fail.
        let _ = write!(
            sql,
            "{union}SELECT {position}, entity_key, feature_name, value, event_ts FROM {} \
             WHERE entity_key = ANY(${}) AND feature_name = ANY(${})",
            part.table,
            parts.len() + keys + 1,
            position + 1
        );
    }
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for part in parts {
        query = query.bind(part.features);
    }
    for group in groups {
        let keys: Vec<&[u8]> = read.groups[group].keys.iter().map(|key| key.as_ref()).collect();
        query = query.bind(keys);
    }
    let mut rows = query.fetch(connection);
    while let Some(row) = rows.try_next().await? {
        let position = number(&row, 0)?.and_then(|number| usize::try_from(number).ok());
        let Some(part) = position.and_then(|position| parts.get(position)) else {
            continue;
        };
        let time = micros(&row, 4)?.unwrap_or_default();
        let column = |index| bytes(&row, index).map(Option::unwrap_or_default);
        filling.put(part.number, column(1)?, column(2)?, column(3)?, time);
    }
    Ok(())
}

/// The bytes of a column in PostgreSQL's binary format: of a text those of the text.
pub(super) fn bytes(row: &PgRow, column: usize) -> Result<Option<&[u8]>, sqlx::Error> {
    let value = row.try_get_raw(column)?;
    if value.is_null() {
        return Ok(None);
    }
    value.as_bytes().map(Some).map_err(sqlx::Error::Decode)
}

/// An integer of four or eight bytes; of a time the microseconds since 2000.
fn number(row: &PgRow, column: usize) -> Result<Option<i64>, sqlx::Error> {
    let Some(bytes) = bytes(row, column)? else {
        return Ok(None);
    };
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Ok(Some(i64::from(i32::from_be_bytes(bytes))));
    }
    match <[u8; 8]>::try_from(bytes) {
        Ok(bytes) => Ok(Some(i64::from_be_bytes(bytes))),
        Err(error) => Err(sqlx::Error::Decode(error.into())),
    }
}

/// A time in microseconds since 1970 UTC.
pub(super) fn micros(row: &PgRow, column: usize) -> Result<Option<i64>, sqlx::Error> {
    Ok(number(row, column)?.map(|micros| micros.saturating_add(EPOCH)))
}
