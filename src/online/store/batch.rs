//! The rows that go into and come out of an online store.

use std::collections::{HashMap, hash_map::Entry};

use bytes::Bytes;

use crate::{
    error::{Error, Result},
    model::{entity_key, value},
};

/// How many rows an error names.
const ROWS_NAMED: usize = 5;

/// One view's answer: row i belongs to key i of its group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RowBatch {
    /// Number of features in a row.
    pub width: usize,
    /// Microseconds since 1970 UTC; `None` where the store has no row.
    pub event_times: Vec<Option<i64>>,
    /// Row-major encoded `feast.types.Value`s; `None` where the row lacks the feature, empty for null.
    pub values: Vec<Option<Bytes>>,
}

impl RowBatch {
    /// The answer of a store that has none of the rows.
    pub fn empty(rows: usize, width: usize) -> Self {
        Self {
            width,
            event_times: vec![None; rows],
            values: vec![None; rows * width],
        }
    }
}

/// Rows to store for one view.
#[derive(Debug, Clone, Default)]
pub struct WriteBatch {
    pub features: Vec<String>,
    /// Serialized entity keys; a key may come more than once, the newest row then wins.
    pub keys: Vec<Bytes>,
    /// Microseconds since 1970 UTC.
    pub event_times: Vec<i64>,
    /// As many as keys, or none at all.
    pub created_times: Vec<Option<i64>>,
    /// Row-major encoded values, empty for null: `keys.len() * features.len()` of them.
    pub values: Vec<Bytes>,
}

impl WriteBatch {
    /// The created time of a row.
    pub fn created(&self, row: usize) -> Option<i64> {
        self.created_times.get(row).copied().flatten()
    }

    /// The encoded values of a row, by feature.
    pub fn row(&self, row: usize) -> &[Bytes] {
        let width = self.features.len();
        &self.values[row * width..(row + 1) * width]
    }

    /// The rows to write, one per key: the newest by event time, then created time, then position.
    ///
    /// # Errors
    /// `Internal` when the columns have different lengths.
    pub fn newest_rows(&self) -> Result<Vec<usize>> {
        let count = self.keys.len();
        let created = self.created_times.len();
        if self.event_times.len() != count
            || self.values.len() != count * self.features.len()
            || (created != count && created != 0)
        {
            return Err(Error::internal("a write batch has columns of different lengths"));
        }
        let age = |row: usize| (self.event_times[row], self.created(row), row);
        let mut places: HashMap<&[u8], usize> = HashMap::with_capacity(count);
        let mut rows: Vec<usize> = Vec::with_capacity(count);
        for (row, key) in self.keys.iter().enumerate() {
            match places.entry(key.as_ref()) {
                Entry::Vacant(place) => {
                    place.insert(rows.len());
                    rows.push(row);
                }
                Entry::Occupied(place) => {
                    let known = &mut rows[*place.get()];
                    if age(row) > age(*known) {
                        *known = row;
                    }
                }
            }
        }
        Ok(rows)
    }
}

/// The error of a batch of which some rows were written and these were not.
pub fn unwritten(error: Error, rows: usize, keys: &[&Bytes]) -> Error {
    let mut named: Vec<String> = keys.iter().take(ROWS_NAMED).map(|key| described(key)).collect();
    if keys.len() > ROWS_NAMED {
        named.push(format!("{} more", keys.len() - ROWS_NAMED));
    }
    error.context(format!(
        "{} of {rows} rows were not written ({})",
        keys.len(),
        named.join("; ")
    ))
}

/// An entity key for people: its values by name, or its bytes if it is of the old form, which has no end.
pub fn described(key: &[u8]) -> String {
    let Ok(entity) = entity_key::deserialize(key) else {
        return hex::encode(key);
    };
    let pairs = entity
        .iter()
        .map(|(name, value)| format!("{name}={}", value::json::to_json(value)));
    pairs.collect::<Vec<_>>().join(",")
}
