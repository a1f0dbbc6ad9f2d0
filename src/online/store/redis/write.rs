//! Writing and deleting: a script for each row, so that comparing event times and storing the row are one
//! step whoever else writes.

use std::fmt::Write as _;

use bytes::Bytes;
use prost::Message as _;

use super::{
    RedisStore,
    layout::time_field,
    resp::{Pipeline, Walk, error_of, put_bulk, refused},
};
use crate::{
    error::{Error, Result},
    model::entity_key::redis_field_hash,
    online::store::{OlderRow, Table, WriteBatch},
};

/// Rows and bytes sent at a time at most.
const ROWS: usize = 512;
const BYTES: usize = 1 << 20;

/// A script with the name Redis keeps it under, the SHA-1 of its text.
pub(super) struct Script {
    pub(super) text: &'static str,
    pub(super) sha: &'static str,
}

/// Stores a row unless a newer one is there: `key; time field, seconds, nanoseconds, encoded time, seconds
/// to live or nothing, whether older rows overwrite, then fields and values`.
pub(super) static PUT: Script = Script {
    text: include_str!("put.lua"),
    sha: "5d96f1a5edf796570f640ab7f4f52ebe9c4410eb",
};

/// Deletes a row, and the entity with its last row: `key; time field, other fields`.
pub(super) static DELETE: Script = Script {
    text: include_str!("delete.lua"),
    sha: "c76772eb059c649f548a7687d17c96efdd10f486",
};

impl Script {
    /// Begins a call; by its text when the server does not know it yet.
    fn begin(&self, pipeline: &mut Pipeline, arguments: usize, by_text: bool) {
        pipeline.begin(4 + arguments);
        if by_text {
            pipeline.arg(b"EVAL");
            pipeline.arg(self.text.as_bytes());
        } else {
            pipeline.arg(b"EVALSHA");
            pipeline.arg(self.sha.as_bytes());
        }
        pipeline.arg(b"1");
    }
}

impl RedisStore {
    pub(super) async fn write_rows(
        &self,
        project: &str,
        table: &Table,
        batch: &WriteBatch,
        older: OlderRow,
    ) -> Result<u64> {
        let rows = batch.newest_rows()?;
        let overwrites = older == OlderRow::Overwrite || self.skips_compare;
        let call = Put {
            project: project.as_bytes(),
            time_field: time_field(&table.name),
            fields: batch
                .features
                .iter()
                .map(|feature| redis_field_hash(&table.name, feature))
                .collect(),
            batch,
            overwrites: if overwrites { b"1" } else { b"0" },
            ttl: self.ttl.map(|seconds| seconds.to_string()).unwrap_or_default(),
        };
        let append = |pipeline: &mut Pipeline, row: usize, by_text| call.append(pipeline, row, by_text);
        let done = self.call_all(&rows, append).await;
        let Some((why, unwritten)) = done.failed else {
            return Ok(done.count);
        };
        let count = batch.keys.len();
        let failed = why.context(self.doing("writing"));
        Err(Error::new(
            failed.kind(),
            format!(
                "{}; of {count} rows, {} were not written",
                failed.message(),
                ranges(unwritten)
            ),
        )
        .hint(match failed.hint_text() {
            Some(hint) => hint.to_owned(),
            None => "write the batch again: rows that are stored stay as they are".to_owned(),
        }))
    }

    /// Deletes the rows of these entity keys; answers how many there were.
    pub(super) async fn delete_rows(&self, project: &[u8], table: &Table, keys: &[Bytes]) -> Result<u64> {
        let names: Vec<_> = table
            .view
            .features
            .iter()
            .map(|feature| redis_field_hash(&table.name, &feature.name))
            .collect();
        let mut fields = Vec::new();
        put_bulk(&mut fields, &time_field(&table.name));
        for name in &names {
            put_bulk(&mut fields, name);
        }
        let rows: Vec<usize> = (0..keys.len()).collect();
        let done = self
            .call_all(&rows, |pipeline, row, by_text| {
                DELETE.begin(pipeline, 1 + names.len(), by_text);
                pipeline.key(&keys[row], project);
                pipeline.encoded(&fields);
            })
            .await;
        match done.failed {
            None => Ok(done.count),
            Some((why, _)) => Err(why.context(self.doing("deleting from"))),
        }
    }

    /// Calls a script for every row; goes on after a row that the server refuses, not after a lost server.
    async fn call_all(&self, rows: &[usize], append: impl Fn(&mut Pipeline, usize, bool)) -> Done {
        let mut done = Done::default();
        let mut rest = rows;
        while !rest.is_empty() {
            let mut pipeline = Pipeline::default();
            let mut count = 0;
            while count < rest.len().min(ROWS) && pipeline.size() < BYTES {
                append(&mut pipeline, rest[count], false);
                count += 1;
            }
            let (now, later) = rest.split_at(count);
            rest = later;
            let mut unknown = Vec::new();
            match self.send(pipeline).await {
                Ok(frames) => done.take(now, &frames, Some(&mut unknown)),
                Err(error) => {
                    done.lost(error, now, rest);
                    return done;
                }
            }
            if unknown.is_empty() {
                continue;
            }
            let mut pipeline = Pipeline::default();
            for &row in &unknown {
                append(&mut pipeline, row, true);
            }
            match self.send(pipeline).await {
                Ok(frames) => done.take(&unknown, &frames, None),
                Err(error) => {
                    done.lost(error, &unknown, rest);
                    return done;
                }
            }
        }
        done
    }
}

/// What became of the rows of a batch.
#[derive(Default)]
struct Done {
    count: u64,
    /// Why some rows are not done, and which.
    failed: Option<(Error, Vec<usize>)>,
}

impl Done {
    /// Counts the answers of some rows; rows whose script the server does not know go to `unknown`.
    fn take(&mut self, rows: &[usize], frames: &[Bytes], mut unknown: Option<&mut Vec<usize>>) {
        for (&row, frame) in rows.iter().zip(frames) {
            match (error_of(frame), &mut unknown) {
                (Some(said), Some(unknown)) if said.starts_with("NOSCRIPT") => unknown.push(row),
                (Some(said), _) => self.fail(refused(said), [row]),
                (None, _) => match Walk::new(frame).int() {
                    Ok(count) => self.count += u64::from(count > 0),
                    Err(error) => self.fail(error, [row]),
                },
            }
        }
    }

    fn lost(&mut self, error: Error, now: &[usize], later: &[usize]) {
        self.fail(error, now.iter().chain(later).copied());
    }

    fn fail(&mut self, error: Error, rows: impl IntoIterator<Item = usize>) {
        self.failed
            .get_or_insert_with(|| (error, Vec::new()))
            .1
            .extend(rows);
    }
}

/// A call of [`PUT`] for the rows of a batch.
struct Put<'a> {
    project: &'a [u8],
    time_field: Vec<u8>,
    fields: Vec<[u8; 4]>,
    batch: &'a WriteBatch,
    overwrites: &'static [u8],
    ttl: String,
}

impl Put<'_> {
    fn append(&self, pipeline: &mut Pipeline, row: usize, by_text: bool) {
        let time = timestamp(self.batch.event_times[row]);
        PUT.begin(pipeline, 6 + 2 * self.fields.len(), by_text);
        pipeline.key(&self.batch.keys[row], self.project);
        pipeline.arg(&self.time_field);
        pipeline.arg(time.seconds.to_string().as_bytes());
        pipeline.arg(time.nanos.to_string().as_bytes());
        pipeline.arg(&time.encode_to_vec());
        pipeline.arg(self.ttl.as_bytes());
        pipeline.arg(self.overwrites);
        for (field, value) in self.fields.iter().zip(self.batch.row(row)) {
            pipeline.arg(field);
            pipeline.arg(value);
        }
    }
}

fn timestamp(micros: i64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: micros.div_euclid(1_000_000),
        nanos: i32::try_from(micros.rem_euclid(1_000_000) * 1_000).unwrap_or_default(),
    }
}

/// Rows as a person reads them: `0-511, 600 and 12 more`.
fn ranges(mut rows: Vec<usize>) -> String {
    const SHOWN: usize = 8;
    rows.sort_unstable();
    let mut text = String::new();
    let mut covered = 0;
    for (shown, range) in rows.chunk_by(|a, b| a + 1 == *b).enumerate() {
        if shown == SHOWN {
            let _ = write!(text, " and {} more", rows.len() - covered);
            break;
        }
        let comma = if shown == 0 { "" } else { ", " };
        let _ = match range {
            [row] => write!(text, "{comma}{row}"),
            _ => write!(text, "{comma}{}-{}", range[0], range[range.len() - 1]),
        };
        covered += range.len();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_shown_in_ranges() {
        assert_eq!(ranges(vec![3, 1, 2, 9]), "1-3, 9");
        let even: Vec<usize> = (0..20).map(|number| number * 2).collect();
        assert_eq!(ranges(even), "0, 2, 4, 6, 8, 10, 12, 14 and 12 more");
    }

    #[test]
    fn times_are_split_as_protobuf_wants_them() {
        let time = timestamp(-1);
        assert_eq!((time.seconds, time.nanos), (-1, 999_999_000));
        assert_eq!(
            hex::encode(timestamp(1_795_260_600_000_000).encode_to_vec()),
            "08b88186d806"
        );
    }
}
