//! What moved between two sets of rows: columns that came and went, rows that are new, gone or changed.
//!
//! Rows are told apart by key columns. Of each row two digests are kept, of its key and of its values; when
//! that gets too much, only the keys of one part of the digests' range are kept, and the sets are read again
//! for every other part. So the answer is exact whatever the size, and the memory stays below
//! `KEPT_ROWS` rows of 48 bytes; rows that share one key are always kept together.
//! Then the rows to be shown are fetched, a limited number, by a last reading. Sets that have the same
//! fingerprint are read only once.

use std::collections::{BTreeMap, HashMap};

use arrow::{
    array::UInt64Array,
    compute::take_record_batch,
    datatypes::Schema,
    json::{WriterBuilder, writer::JsonArray},
    record_batch::RecordBatch,
};
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt as _;
use serde::Serialize;
use serde_json::{Map, Value as Json};

use super::{
    Readable,
    cells::{Encoder, kind},
    manifest::{Fingerprint, Fingerprinter},
    require,
};
use crate::error::{Error, Result};

/// Rows of both sides whose digests are kept at a time.
pub(super) const KEPT_ROWS: usize = 1 << 21;
/// The most parts the digests' range is divided into, as a power of two.
const MOST_BITS: u32 = 16;
/// Changed rows that are looked at for which of their columns have changed.
const LOOKED_AT: usize = 1000;
/// Rows that are shown of each sort.
const EXAMPLES: usize = 5;

/// Columns of two sets.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Columns {
    pub added: Vec<String>,
    pub removed: Vec<String>,
    /// Name, and what it held before and holds now.
    pub retyped: Vec<(String, &'static str, &'static str)>,
}

/// Counts of rows.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rows {
    pub before: u64,
    pub after: u64,
    pub same: u64,
    pub changed: u64,
    pub added: u64,
    pub removed: u64,
}

/// A row that is not what it was.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Changed {
    pub key: Map<String, Json>,
    /// The columns that differ, as they were and as they are.
    pub before: Map<String, Json>,
    pub after: Map<String, Json>,
}

/// See the module.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub key: Vec<String>,
    pub columns: Columns,
    pub rows: Rows,
    /// How often each column differs among the changed rows that were looked at, and how many these are.
    pub changed_columns: BTreeMap<String, u64>,
    pub looked_at: u64,
    /// The first of each sort.
    pub changed: Vec<Changed>,
    pub added: Vec<Map<String, Json>>,
    pub removed: Vec<Map<String, Json>>,
}

impl Difference {
    /// Whether nothing moved.
    pub fn is_none(&self) -> bool {
        self.columns == Columns::default()
            && self.rows.changed == 0
            && self.rows.added == 0
            && self.rows.removed == 0
    }
}

/// Compares two sets of rows by their key columns.
///
/// # Errors
/// `InvalidArgument` when one side lacks a key column, and what reading returns.
pub async fn compare(before: &dyn Readable, after: &dyn Readable, key: &[String]) -> Result<Difference> {
    compare_within(before, after, key, KEPT_ROWS).await
}

pub(super) async fn compare_within(
    before: &dyn Readable,
    after: &dyn Readable,
    key: &[String],
    kept_rows: usize,
) -> Result<Difference> {
    let compared = compare_whole(before, after, key, kept_rows).await;
    compared
        .map(|(difference, _)| difference)
        .map_err(|(_, error)| error)
}

/// As [`compare`], with the fingerprint of each side, for which nothing is read once more. Where these are
/// the same each side is read once, and else once or twice more for every part of the keys. An error comes
/// with the side, 0 or 1, that could not be read.
pub(super) async fn compare_whole(
    before: &dyn Readable,
    after: &dyn Readable,
    key: &[String],
    kept_rows: usize,
) -> Result<(Difference, [Fingerprint; 2]), (usize, Error)> {
    if key.is_empty() {
        let error = Error::invalid("there are no columns that tell rows apart");
        return Err((0, error.hint("name them with `--key`")));
    }
    let first = [
        before.read().await.map_err(|error| (0, error))?,
        after.read().await.map_err(|error| (1, error))?,
    ];
    let (old, new) = (first[0].schema(), first[1].schema());
    require(&old, key, "the first dataset").map_err(|error| (0, error))?;
    require(&new, key, "the second dataset").map_err(|error| (1, error))?;
    let columns = columns(&old, &new);
    let common = old.fields().iter().map(|field| field.name());
    let compared = common.filter(|name| new.index_of(name).is_ok() && !key.contains(*name));
    let mut comparison = Comparison {
        sides: [before, after],
        key,
        compared: compared.cloned().collect(),
        kept_rows,
        bits: 0,
        rows: Rows::default(),
        marks: Marks::default(),
        taken: [Fingerprinter::new(&old), Fingerprinter::new(&new)],
    };
    let fingerprints = comparison.count(first).await?;
    let mut difference = Difference {
        key: key.to_vec(),
        columns,
        ..Difference::default()
    };
    comparison.show(&mut difference).await?;
    difference.rows = comparison.rows;
    Ok((difference, fingerprints))
}

fn columns(old: &Schema, new: &Schema) -> Columns {
    let only = |one: &Schema, other: &Schema| {
        let names = one.fields().iter().map(|field| field.name());
        names
            .filter(|name| other.index_of(name).is_err())
            .cloned()
            .collect()
    };
    let retyped = old.fields().iter().filter_map(|field| {
        let other = new.field_with_name(field.name()).ok()?;
        let (was, is) = (kind(field.data_type()), kind(other.data_type()));
        (was != is).then(|| (field.name().clone(), was, is))
    });
    Columns {
        added: only(new, old),
        removed: only(old, new),
        retyped: retyped.collect(),
    }
}

/// Rows of both sides by their keys.
type Found = HashMap<u128, [Vec<Map<String, Json>>; 2]>;

/// One row: digests of its key and its values, and its side.
type Entry = (u128, u128, usize);

/// Digests of the keys of rows to show.
#[derive(Default)]
struct Marks {
    changed: Vec<u128>,
    added: Vec<u128>,
    removed: Vec<u128>,
}

struct Comparison<'a> {
    sides: [&'a dyn Readable; 2],
    key: &'a [String],
    compared: Vec<String>,
    kept_rows: usize,
    /// The keys' range is read in two to the power of so many parts.
    bits: u32,
    rows: Rows,
    marks: Marks,
    /// Of both sides, once the first part was read.
    taken: [Fingerprinter; 2],
}

impl Comparison<'_> {
    /// Counts what is the same and what is not; `first` are the sides, from their starts.
    async fn count(
        &mut self,
        first: [SendableRecordBatchStream; 2],
    ) -> Result<[Fingerprint; 2], (usize, Error)> {
        let mut streams: Vec<_> = first.into();
        let mut part = 0;
        loop {
            let mut entries = self.part(part, streams).await?;
            let fingerprints = self.taken.each_ref().map(Fingerprinter::finish);
            if fingerprints[0] == fingerprints[1] {
                self.rows.same = self.rows.before;
                return Ok(fingerprints);
            }
            entries.sort_unstable();
            for group in entries.chunk_by(|one, other| one.0 == other.0) {
                self.group(group);
            }
            part += 1;
            if part >= 1 << self.bits {
                return Ok(fingerprints);
            }
            streams = Vec::new();
            for (number, side) in self.sides.iter().enumerate() {
                streams.push(side.read().await.map_err(|error| (number, error))?);
            }
        }
    }

    fn is_of(&self, part: u128, key: u128) -> bool {
        key & ((1 << self.bits) - 1) == part
    }

    /// The rows of one part of the keys. The first part decides how many there are.
    async fn part(
        &mut self,
        part: u128,
        streams: Vec<SendableRecordBatchStream>,
    ) -> Result<Vec<Entry>, (usize, Error)> {
        let mut entries = Vec::new();
        for (side, stream) in streams.into_iter().enumerate() {
            let read = self.side(side, part, stream, &mut entries).await;
            read.map_err(|error| (side, error))?;
        }
        Ok(entries)
    }

    async fn side(
        &mut self,
        side: usize,
        part: u128,
        mut stream: SendableRecordBatchStream,
        entries: &mut Vec<Entry>,
    ) -> Result<()> {
        let mut scratch = Vec::new();
        while let Some(batch) = stream.next().await {
            let batch = batch?;
            if part == 0 {
                let rows = [&mut self.rows.before, &mut self.rows.after];
                *rows.into_iter().nth(side).unwrap_or(&mut 0) += batch.num_rows() as u64;
                self.taken[side].add(&batch)?;
            }
            let keys = Encoder::new(&batch, self.key.iter().map(String::as_str))?;
            let values = Encoder::new(&batch, self.compared.iter().map(String::as_str))?;
            for row in 0..batch.num_rows() {
                let key = keys.digest(row, &mut scratch)?;
                if self.is_of(part, key) {
                    entries.push((key, values.digest(row, &mut scratch)?, side));
                }
            }
            while part == 0 && entries.len() > self.kept_rows && self.bits < MOST_BITS {
                self.bits += 1;
                entries.retain(|entry| self.is_of(part, entry.0));
            }
        }
        Ok(())
    }

    /// Rows of one key, sorted by their values: what is on both sides is the same, of the rest as much as
    /// is on both sides has changed.
    fn group(&mut self, group: &[Entry]) {
        let Some(&(key, ..)) = group.first() else { return };
        let mut left = [0_u64; 2];
        for equal in group.chunk_by(|one, other| one.1 == other.1) {
            let after = equal.iter().filter(|entry| entry.2 == 1).count() as u64;
            let before = equal.len() as u64 - after;
            let same = before.min(after);
            self.rows.same += same;
            left = [left[0] + before - same, left[1] + after - same];
        }
        let changed = left[0].min(left[1]);
        let (removed, added) = (left[0] - changed, left[1] - changed);
        self.rows.changed += changed;
        self.rows.removed += removed;
        self.rows.added += added;
        for (count, marks, most) in [
            (changed, &mut self.marks.changed, LOOKED_AT),
            (removed, &mut self.marks.removed, EXAMPLES),
            (added, &mut self.marks.added, EXAMPLES),
        ] {
            if count > 0 && marks.len() < most {
                marks.push(key);
            }
        }
    }

    /// Fetches the marked rows.
    async fn show(&self, difference: &mut Difference) -> Result<(), (usize, Error)> {
        let marks = &self.marks;
        let all = marks.changed.iter().chain(&marks.added).chain(&marks.removed);
        let mut found: Found = all.map(|key| (*key, Default::default())).collect();
        if found.is_empty() {
            return Ok(());
        }
        for side in 0..2 {
            let fetched = self.fetch(side, &mut found).await;
            fetched.map_err(|error| (side, error))?;
        }
        for rows in found.values_mut() {
            self.leave_what_differs(rows);
        }
        let rows = |key: &u128| found.get(key);
        for [before, after] in marks.changed.iter().filter_map(rows) {
            for (before, after) in before.iter().zip(after).take(1) {
                difference.looked_at += 1;
                let changed = self.changed(before, after);
                for column in changed.after.keys() {
                    *difference.changed_columns.entry(column.clone()).or_default() += 1;
                }
                if difference.changed.len() < EXAMPLES {
                    difference.changed.push(changed);
                }
            }
        }
        let alone = |side: usize| move |rows: &[Vec<Map<String, Json>>; 2]| rows[side].last().cloned();
        difference.removed = marks
            .removed
            .iter()
            .filter_map(rows)
            .filter_map(alone(0))
            .collect();
        difference.added = marks.added.iter().filter_map(rows).filter_map(alone(1)).collect();
        Ok(())
    }

    /// The rows of one side that are wanted.
    async fn fetch(&self, side: usize, found: &mut Found) -> Result<()> {
        let mut stream = self.sides[side].read().await?;
        let mut scratch = Vec::new();
        while let Some(batch) = stream.next().await {
            let batch = batch?;
            let keys = Encoder::new(&batch, self.key.iter().map(String::as_str))?;
            let (mut places, mut digests) = (Vec::new(), Vec::new());
            for row in 0..batch.num_rows() {
                let key = keys.digest(row, &mut scratch)?;
                if found.contains_key(&key) {
                    places.push(row as u64);
                    digests.push(key);
                }
            }
            for (key, row) in digests.iter().zip(json_rows(&batch, places)?) {
                if let Some(rows) = found.get_mut(key).and_then(|sides| sides.get_mut(side)) {
                    rows.push(row);
                }
            }
        }
        Ok(())
    }

    /// Takes out of rows of one key those that are on both sides.
    fn leave_what_differs(&self, [before, after]: &mut [Vec<Map<String, Json>>; 2]) {
        before.retain(|row| {
            let same =
                |other: &Map<String, Json>| self.compared.iter().all(|name| row.get(name) == other.get(name));
            match after.iter().position(same) {
                Some(place) => {
                    after.remove(place);
                    false
                }
                None => true,
            }
        });
    }

    fn changed(&self, before: &Map<String, Json>, after: &Map<String, Json>) -> Changed {
        let some = |names: &[&String], row: &Map<String, Json>| {
            let cell = |name: &&String| ((*name).clone(), row.get(*name).cloned().unwrap_or_default());
            names.iter().map(cell).collect()
        };
        let differing = self
            .compared
            .iter()
            .filter(|name| before.get(*name) != after.get(*name));
        let differing: Vec<_> = differing.collect();
        Changed {
            key: some(&self.key.iter().collect::<Vec<_>>(), before),
            before: some(&differing, before),
            after: some(&differing, after),
        }
    }
}

fn json_rows(batch: &RecordBatch, places: Vec<u64>) -> Result<Vec<Map<String, Json>>> {
    if places.is_empty() {
        return Ok(Vec::new());
    }
    let rows = take_record_batch(batch, &UInt64Array::from(places))?;
    let mut writer = WriterBuilder::new()
        .with_explicit_nulls(true)
        .build::<_, JsonArray>(Vec::new());
    writer.write(&rows)?;
    writer.finish()?;
    serde_json::from_slice(&writer.into_inner())
        .map_err(|error| Error::internal("rows have no JSON form").source_error(error))
}
