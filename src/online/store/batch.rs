//! The rows that go into and come out of an online store.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
};

use bytes::Bytes;

use crate::{
    error::{Error, Result},
    model::{entity_key, value},
};

/// How many rows an error names.
const ROWS_NAMED: usize = 5;

/// One view's answer: row i belongs to key i of its group.
///
/// The encoded `feast.types.Value`s of all rows are in one piece of memory: an answer may have tens of
/// thousands of them, of a few bytes each.
#[derive(Clone, Default)]
pub struct RowBatch {
    /// Number of features in a row.
    pub width: usize,
    /// Microseconds since 1970 UTC; `None` where the store has no row.
    pub event_times: Vec<Option<i64>>,
    /// Row-major, where in `encoded` a value is.
    spans: Vec<Span>,
    encoded: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    start: usize,
    end: usize,
}

impl Span {
    /// The row lacks the feature.
    const ABSENT: Self = Self {
        start: usize::MAX,
        end: 0,
    };
}

impl RowBatch {
    /// The answer of a store that has none of the rows.
    pub fn empty(rows: usize, width: usize) -> Self {
        Self {
            width,
            event_times: vec![None; rows],
            spans: vec![Span::ABSENT; rows * width],
            encoded: Vec::new(),
        }
    }

    /// Rows of these values, row-major: as many as there are event times.
    pub fn of<V: AsRef<[u8]>>(
        width: usize,
        event_times: Vec<Option<i64>>,
        values: impl IntoIterator<Item = Option<V>>,
    ) -> Self {
        let mut batch = Self {
            event_times,
            ..Self::empty(0, width)
        };
        for value in values {
            batch.spans.push(Span::ABSENT);
            if let Some(value) = value {
                let place = batch.spans.len() - 1;
                batch.fill(place, |encoded| encoded.extend_from_slice(value.as_ref()));
            }
        }
        batch
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.event_times.len()
    }

    /// Whether there is a place for every value of this many rows and features.
    pub fn has_shape(&self, rows: usize, width: usize) -> bool {
        self.width == width && self.event_times.len() == rows && self.spans.len() == rows * width
    }

    /// An encoded value: `None` where the row lacks the feature, empty for null.
    pub fn get(&self, row: usize, column: usize) -> Option<&[u8]> {
        let Span { start, end } = self.spans[row * self.width + column];
        self.encoded.get(start..end)
    }

    /// The values of a row, by feature.
    pub fn row(&self, row: usize) -> impl Iterator<Item = Option<&[u8]>> {
        (0..self.width).map(move |column| self.get(row, column))
    }

    /// Every value, row-major, each in memory of its own.
    pub fn values(&self) -> Vec<Option<Bytes>> {
        let spans = self.spans.iter();
        let copied = |span: &Span| self.encoded.get(span.start..span.end).map(Bytes::copy_from_slice);
        spans.map(copied).collect()
    }

    /// Sets a value.
    pub fn put(&mut self, row: usize, column: usize, value: &[u8]) {
        self.append(row, column, |encoded| encoded.extend_from_slice(value));
    }

    /// Sets a value to what `append` appends.
    pub fn append<T>(&mut self, row: usize, column: usize, append: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        self.fill(row * self.width + column, append)
    }

    fn fill<T>(&mut self, place: usize, append: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let start = self.encoded.len();
        let done = append(&mut self.encoded);
        let end = self.encoded.len();
        self.spans[place] = Span { start, end };
        done
    }

    /// Adds a row that lacks everything.
    pub fn push_row(&mut self) {
        self.event_times.push(None);
        self.spans
            .resize(self.event_times.len() * self.width, Span::ABSENT);
    }

    /// Sets a row to one of a batch of the same features.
    pub fn copy_row(&mut self, row: usize, from: &Self, of: usize) {
        self.event_times[row] = from.event_times[of];
        for column in 0..self.width {
            if let Some(value) = from.get(of, column) {
                self.put(row, column, value);
            }
        }
    }
}

impl PartialEq for RowBatch {
    fn eq(&self, other: &Self) -> bool {
        self.event_times == other.event_times
            && other.has_shape(self.rows(), self.width)
            && (0..self.rows()).all(|row| self.row(row).eq(other.row(row)))
    }
}

impl fmt::Debug for RowBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RowBatch")
            .field("width", &self.width)
            .field("event_times", &self.event_times)
            .field("values", &self.values())
            .finish()
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
