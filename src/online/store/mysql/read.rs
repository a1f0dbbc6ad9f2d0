//! Reading: one prepared statement for a whole request, unless its parameters are too many.

use std::{fmt::Write as _, ops::Range};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::TryStreamExt as _;
use sqlx::{AssertSqlSafe, MySqlConnection, Row as _};

use super::{MySqlStore, quoted, table_name};
use crate::{
    error::Result,
    online::store::{
        OnlineRead, RowBatch,
        sql::{READ_LIMIT, filling::Filling, is_missing_table, placeholders, within},
    },
};

/// Keys of a view in one statement.
const KEYS_PER_PIECE: usize = 4096;
/// Parameters in one statement; the protocol can count 65,535.
const PARAMETERS: usize = 40_000;

/// Some keys of one view.
struct Piece<'a> {
    /// The view's place among the batches.
    part: usize,
    group: usize,
    keys: Range<usize>,
    table: String,
    features: &'a [String],
}

impl Piece<'_> {
    /// Rounded up, so that few distinct statements have to be prepared.
    fn sizes(&self) -> (usize, usize) {
        (
            self.keys.len().next_power_of_two(),
            self.features.len().next_power_of_two(),
        )
    }
}

impl MySqlStore {
    pub(super) async fn read_groups(&self, read: &OnlineRead<'_>) -> Result<Vec<RowBatch>> {
        let hex = |key: &Bytes| Bytes::from(hex::encode(key));
        let hexed: Vec<Vec<Bytes>> = read
            .groups
            .iter()
            .map(|group| group.keys.iter().map(hex).collect())
            .collect();
        let statements = statements(read);
        loop {
            let groups = read.groups.iter().zip(&hexed);
            let mut filling = Filling::new(groups.map(|(group, keys)| (&**keys, &*group.views)));
            if statements.is_empty() {
                return Ok(filling.finish());
            }
            let mut lease = self.connections.lease().await?;
            let work = fill_all(&mut lease, &statements, &hexed, &mut filling);
            let outcome = within(READ_LIMIT, work).await;
            if !lease.settle(&outcome) {
                return match outcome {
                    Ok(()) => Ok(filling.finish()),
                    Err(error) => Err(self.failed(error)),
                };
            }
        }
    }
}

/// The pieces of a request, by statement.
fn statements<'a>(read: &OnlineRead<'a>) -> Vec<Vec<Piece<'a>>> {
    let mut statements: Vec<Vec<Piece<'a>>> = Vec::new();
    let mut room = 0;
    let mut part = 0;
    for (group, it) in read.groups.iter().enumerate() {
        for view in it.views.iter() {
            let starts = (0..it.keys.len()).step_by(KEYS_PER_PIECE);
            for start in starts.filter(|_| !view.features.is_empty()) {
                let piece = Piece {
                    part,
                    group,
                    keys: start..it.keys.len().min(start + KEYS_PER_PIECE),
                    table: quoted(&table_name(read.project, &view.table.name)),
                    features: &view.features,
                };
                let (keys, features) = piece.sizes();
                match statements.last_mut() {
                    Some(last) if keys + features <= room => {
                        room -= keys + features;
                        last.push(piece);
                    }
                    _ => {
                        room = PARAMETERS.saturating_sub(keys + features);
                        statements.push(vec![piece]);
                    }
                }
            }
            part += 1;
        }
    }
    statements
}

async fn fill_all(
    connection: &mut MySqlConnection,
    statements: &[Vec<Piece<'_>>],
    keys: &[Vec<Bytes>],
    filling: &mut Filling<'_>,
) -> Result<(), sqlx::Error> {
    for pieces in statements {
        match fill(connection, pieces, keys, filling).await {
            Err(error) if is_missing_table(&error) => {
                // View by view, a missing one has no rows.
                for piece in pieces {
                    match fill(connection, std::slice::from_ref(piece), keys, filling).await {
                        Err(error) if is_missing_table(&error) => {}
                        done => done?,
                    }
                }
            }
            done => done?,
        }
    }
    Ok(())
}

/// Runs one statement, and puts what it answers into its place.
async fn fill(
    connection: &mut MySqlConnection,
    pieces: &[Piece<'_>],
    keys: &[Vec<Bytes>],
    filling: &mut Filling<'_>,
) -> Result<(), sqlx::Error> {
    let mut sql = String::new();
    for (position, piece) in pieces.iter().enumerate() {
        let union = if position == 0 { "" } else { " UNION ALL " };
        let (keys, features) = piece.sizes();
        // Writing into a String cannot fail.
        let _ = write!(
            sql,
            "{union}SELECT {position}, entity_key, feature_name, value, event_ts FROM {} \
             WHERE entity_key IN ({}) AND feature_name IN ({})",
            piece.table,
            placeholders(keys),
            placeholders(features)
        );
    }
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for piece in pieces {
        let (key_count, feature_count) = piece.sizes();
        let keys = &keys[piece.group][piece.keys.clone()];
        for key in keys.iter().chain(keys.last().into_iter().cycle()).take(key_count) {
            // As text: compared with bytes, MySQL would not use the index.
            query = query.bind(str::from_utf8(key).unwrap_or_default());
        }
        let names = piece.features;
        for name in names
            .iter()
            .chain(names.last().into_iter().cycle())
            .take(feature_count)
        {
            query = query.bind(name.as_str());
        }
    }
    let mut rows = query.fetch(connection);
    while let Some(row) = rows.try_next().await? {
        let position = usize::try_from(row.try_get_unchecked::<i64, _>(0)?).ok();
        let Some(piece) = position.and_then(|position| pieces.get(position)) else {
            continue;
        };
        let time: Option<DateTime<Utc>> = row.try_get_unchecked(4)?;
        let value: Option<&[u8]> = row.try_get_unchecked(3)?;
        filling.put(
            piece.part,
            row.try_get_unchecked(1)?,
            row.try_get_unchecked(2)?,
            value.unwrap_or_default(),
            time.map_or(0, |time| time.timestamp_micros()),
        );
    }
    Ok(())
}
