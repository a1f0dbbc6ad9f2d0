//! Writing and deleting: by scripts, so that comparing event times and storing a row are one step whoever
//! else writes. One call stores some rows, or one row where each may belong to another server.

use std::fmt::Write as _;

use bytes::Bytes;
use prost::Message as _;

use super::{
    Link, RedisStore,
    layout::time_field,
    resp::{Pipeline, Walk, error_of, put_bulk, refused},
};
use crate::{
    error::{Error, Result},
    model::entity_key::redis_field_hash,
    online::store::{OlderRow, Table, WriteBatch},
};

/// Rows and bytes sent at a time at most.
const ROWS: usize = 2048;
const BYTES: usize = 1 << 20;
/// Rows of a call, and their values at most: the server does nothing else meanwhile.
const ROWS_OF_A_CALL: usize = 64;
const VALUES_OF_A_CALL: usize = 2048;

/// A script with the name Redis keeps it under, the SHA-1 of its text.
pub(super) struct Script {
    pub(super) text: &'static str,
    pub(super) sha: &'static str,
}

/// Stores rows unless newer ones are there.
pub(super) static PUT: Script = Script {
    text: include_str!("put.lua"),
    sha: "81ac6a2ac9b5d6b7a77737618ae23ecaf8fb9729",
};

/// Deletes a row, and the entity with its last row: `key; time field, other fields`.
pub(super) static DELETE: Script = Script {
    text: include_str!("delete.lua"),
    sha: "c76772eb059c649f548a7687d17c96efdd10f486",
};

impl Script {
    /// Begins a call for some keys; by its text when the server does not know it yet.
    fn begin(&self, pipeline: &mut Pipeline, keys: usize, arguments: usize, by_text: bool) {
        pipeline.begin(3 + keys + arguments);
        if by_text {
            pipeline.arg(b"EVAL");
            pipeline.arg(self.text.as_bytes());
        } else {
            pipeline.arg(b"EVALSHA");
            pipeline.arg(self.sha.as_bytes());
        }
        pipeline.arg(keys.to_string().as_bytes());
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
        let mut head = Vec::new();
        put_bulk(&mut head, &time_field(&table.name));
        let ttl = self.ttl.map(|seconds| seconds.to_string()).unwrap_or_default();
        put_bulk(&mut head, ttl.as_bytes());
        put_bulk(&mut head, if overwrites { b"1" } else { b"0" });
        put_bulk(&mut head, batch.features.len().to_string().as_bytes());
        for feature in &batch.features {
            put_bulk(&mut head, &redis_field_hash(&table.name, feature));
        }
        let call = Put {
            project: project.as_bytes(),
            head,
            batch,
        };
        let together = match &self.link {
            Link::Single(_) => ROWS_OF_A_CALL.min(VALUES_OF_A_CALL / batch.features.len().max(1)),
            // The rows of a call must belong to one server.
            Link::Cluster(_) => 1,
        };
        let append = |pipeline: &mut Pipeline, rows: &[usize], by_text| call.append(pipeline, rows, by_text);
        let done = self.call_all(&rows, together, append).await;
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
            .call_all(&rows, 1, |pipeline, rows, by_text| {
                for &row in rows {
                    DELETE.begin(pipeline, 1, 1 + names.len(), by_text);
                    pipeline.key(&keys[row], project);
                    pipeline.encoded(&fields);
                }
            })
            .await;
        match done.failed {
            None => Ok(done.count),
            Some((why, _)) => Err(why.context(self.doing("deleting from"))),
        }
    }

    /// Calls a script for all rows, some of them `together`; goes on after a row that the server refuses, not
    /// after a lost server.
    async fn call_all(
        &self,
        rows: &[usize],
        together: usize,
        append: impl Fn(&mut Pipeline, &[usize], bool),
    ) -> Done {
        let mut done = Done::default();
        let mut rest: Vec<&[usize]> = rows.chunks(together.max(1)).collect();
        while !rest.is_empty() {
            let mut pipeline = Pipeline::default();
            let (mut calls, mut count) = (0, 0);
            while calls < rest.len() && count < ROWS && pipeline.size() < BYTES {
                append(&mut pipeline, rest[calls], false);
                count += rest[calls].len();
                calls += 1;
            }
            let later = rest.split_off(calls);
            let mut now = std::mem::replace(&mut rest, later);
            let mut by_text = false;
            loop {
                match self.send(pipeline).await {
                    Ok(frames) => now = done.take(&now, &frames, by_text),
                    Err(error) => {
                        done.lost(error, now.iter().chain(&rest).copied());
                        return done;
                    }
                }
                if now.is_empty() {
                    break;
                }
                pipeline = Pipeline::default();
                by_text = true;
                for rows in &now {
                    append(&mut pipeline, rows, by_text);
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
    /// Counts the answers of some calls. Answers what to call again, by the script's text: calls of one that
    /// the server does not know, and each row of a call that failed for one of its rows.
    fn take<'a>(&mut self, calls: &[&'a [usize]], frames: &[Bytes], by_text: bool) -> Vec<&'a [usize]> {
        let mut again = Vec::new();
        for (&rows, frame) in calls.iter().zip(frames) {
            match error_of(frame) {
                Some(said) if !by_text && said.starts_with("NOSCRIPT") => again.push(rows),
                Some(_) if rows.len() > 1 => again.extend(rows.chunks(1)),
                Some(said) => self.fail(refused(said), rows.iter().copied()),
                None => match Walk::new(frame).int() {
                    Ok(count) => self.count += u64::try_from(count).unwrap_or_default(),
                    Err(error) => self.fail(error, rows.iter().copied()),
                },
            }
        }
        again
    }

    fn lost<'a>(&mut self, error: Error, calls: impl Iterator<Item = &'a [usize]>) {
        self.fail(error, calls.flatten().copied());
    }

    fn fail(&mut self, error: Error, rows: impl IntoIterator<Item = usize>) {
        self.failed
            .get_or_insert_with(|| (error, Vec::new()))
            .1
            .extend(rows);
    }
}

/// A call of [`PUT`] for rows of a batch.
struct Put<'a> {
    project: &'a [u8],
    /// The arguments before those of the rows, encoded.
    head: Vec<u8>,
    batch: &'a WriteBatch,
}

impl Put<'_> {
    fn append(&self, pipeline: &mut Pipeline, rows: &[usize], by_text: bool) {
        let width = self.batch.features.len();
        PUT.begin(
            pipeline,
            rows.len(),
            4 + width + rows.len() * (1 + width),
            by_text,
        );
        for &row in rows {
            pipeline.key(&self.batch.keys[row], self.project);
        }
        pipeline.encoded(&self.head);
        for &row in rows {
            pipeline.arg(&timestamp(self.batch.event_times[row]).encode_to_vec());
            for value in self.batch.row(row) {
                pipeline.arg(value);
            }
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
