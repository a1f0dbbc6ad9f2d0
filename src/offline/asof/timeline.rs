//! [`Timeline`]: the entity side of a join, reduced to what feature rows are compared with.
//!
//! Entity rows fall into *slots*, one per distinct (key, time), numbered so that the slots of one key
//! lie together in order of time. It holds numbers only; the rows themselves stay with the caller.

use std::hint::select_unpredictable;

use arrow::array::{Array, Int64Array};

use super::keys::{KeyColumn, KeyTable, NO_KEY};
use crate::error::{Error, Result};

/// "No slot": an entity row without key or time, which gets nulls.
pub const NO_SLOT: u32 = u32::MAX;

/// Searches that go on at the same time: as many as a core has next to itself.
const SEARCHES: usize = 512;

/// A search among the slots of a key.
struct Search {
    start: u32,
    /// Slots that are left.
    length: u32,
    end: u32,
    moment: i64,
}

/// The keys and times of all entity rows.
pub struct Timeline {
    keys: KeyTable,
    /// Where each key's slots begin; one more entry than keys.
    starts: Vec<u32>,
    /// The time of each slot.
    times: Vec<i64>,
    /// The slot of each entity row.
    row_slots: Vec<u32>,
}

impl Timeline {
    /// Sorts entity rows into slots. Costs a hash lookup per row and a sort within each key.
    ///
    /// # Errors
    /// `InvalidArgument` for more rows than 32 bits can number.
    pub fn new(batches: &[(Vec<KeyColumn>, Int64Array)]) -> Result<Self> {
        let rows: usize = batches.iter().map(|(_, times)| times.len()).sum();
        if u32::try_from(rows).is_err() {
            return Err(
                Error::invalid(format!("{rows} entity rows are more than one query may have"))
                    .hint("split the entity rows into several queries"),
            );
        }
        let mut keys = KeyTable::new(batches.first().map_or(&[], |(columns, _)| columns));
        let mut row_keys = Vec::with_capacity(rows);
        let mut numbers = Vec::new();
        for (columns, times) in batches {
            keys.insert(columns, times.len(), &mut numbers);
            row_keys
                .extend((0..times.len()).map(|row| if times.is_null(row) { NO_KEY } else { numbers[row] }));
        }
        let moments = || {
            batches
                .iter()
                .flat_map(|(_, times)| times.values().iter().copied())
        };
        Ok(Self::sorted(keys, &row_keys, moments))
    }

    /// Counts rows per key, places them, sorts each key's part by time and numbers the distinct times.
    fn sorted<I: Iterator<Item = i64>>(keys: KeyTable, row_keys: &[u32], moments: impl Fn() -> I) -> Self {
        let mut ends = vec![0_usize; keys.count()];
        for &key in row_keys.iter().filter(|key| **key != NO_KEY) {
            ends[key as usize] += 1;
        }
        let mut sum = 0;
        for end in &mut ends {
            let count = std::mem::replace(end, sum);
            sum += count;
        }
        let mut placed = vec![(0_i64, 0_u32); sum];
        for ((row, &key), moment) in (0_u32..).zip(row_keys).zip(moments()) {
            if key != NO_KEY {
                placed[ends[key as usize]] = (moment, row);
                ends[key as usize] += 1;
            }
        }
        let mut starts = Vec::with_capacity(keys.count() + 1);
        let mut times = Vec::new();
        let mut row_slots = vec![NO_SLOT; row_keys.len()];
        let mut begin = 0;
        let mut slots = 0_u32;
        for &end in &ends {
            starts.push(slots);
            let part = &mut placed[begin..end];
            if !part.is_sorted() {
                part.sort_unstable();
            }
            let mut last = None;
            for &(moment, row) in &*part {
                if last != Some(moment) {
                    last = Some(moment);
                    times.push(moment);
                    slots += 1;
                }
                row_slots[row as usize] = slots - 1;
            }
            begin = end;
        }
        starts.push(slots);
        Self {
            keys,
            starts,
            times,
            row_slots,
        }
    }

    /// The number of slots.
    pub fn slots(&self) -> usize {
        self.times.len()
    }

    /// The time of a slot.
    pub fn time(&self, slot: u32) -> i64 {
        self.times[slot as usize]
    }

    /// The slots of the entity rows, in their order.
    pub fn row_slots(&self) -> &[u32] {
        &self.row_slots
    }

    /// The first and last moment of any entity row.
    pub fn span(&self) -> Option<(i64, i64)> {
        Some((*self.times.iter().min()?, *self.times.iter().max()?))
    }

    /// The numbering of the keys.
    pub fn keys(&self) -> &KeyTable {
        &self.keys
    }

    /// Turns each key into its first slot at or after the moment beside it, or [`NO_SLOT`].
    pub fn first_at_or_after(&self, keys: &mut [u32], moments: &[i64]) {
        let mut searches = Vec::with_capacity(SEARCHES.min(keys.len()));
        for (keys, moments) in keys.chunks_mut(SEARCHES).zip(moments.chunks(SEARCHES)) {
            self.search(keys, moments, &mut searches);
        }
    }

    /// All keys take a step of their search before any takes the next: a search alone would wait for
    /// memory at every step, and its branches are nothing a processor could guess.
    fn search(&self, keys: &mut [u32], moments: &[i64], searches: &mut Vec<Search>) {
        let Some(last) = self.times.len().checked_sub(1) else {
            keys.fill(NO_SLOT);
            return;
        };
        searches.clear();
        let mut longest = 0;
        for (&key, &moment) in keys.iter().zip(moments) {
            let (start, end) = match key {
                NO_KEY => (0, 0),
                key => (self.starts[key as usize], self.starts[key as usize + 1]),
            };
            longest = longest.max(end - start);
            searches.push(Search {
                start,
                length: end - start,
                end,
                moment,
            });
        }
        while longest > 0 {
            for search in &mut *searches {
                let half = search.length / 2;
                let middle = search.start + half;
                // A search that is over looks somewhere, and moves nowhere.
                let before = (self.times[(middle as usize).min(last)] < search.moment) & (search.length > 0);
                search.start = select_unpredictable(before, middle + 1, search.start);
                search.length = half - (u32::from(before) & !search.length);
            }
            longest /= 2;
        }
        for (key, search) in keys.iter_mut().zip(searches) {
            *key = if search.start < search.end {
                search.start
            } else {
                NO_SLOT
            };
        }
    }

    /// The slots of each key in turn, as ranges.
    pub fn by_key(&self) -> impl Iterator<Item = std::ops::Range<u32>> {
        self.starts.windows(2).map(|pair| pair[0]..pair[1])
    }

    /// Bytes it holds.
    pub fn memory(&self) -> usize {
        self.keys.memory() + (self.starts.len() + self.row_slots.len()) * 4 + self.times.len() * 8
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::Arc;

    use arrow::array::ArrayRef;

    use super::*;
    use crate::model::ValueType;

    #[test]
    fn rows_of_one_key_and_time_share_a_slot() {
        let keys: ArrayRef = Arc::new(Int64Array::from(vec![
            Some(1),
            Some(2),
            Some(1),
            None,
            Some(1),
            Some(1),
        ]));
        let times = Int64Array::from(vec![Some(30), Some(10), Some(-5), Some(1), Some(30), None]);
        let timeline =
            Timeline::new(&[(vec![KeyColumn::new(&keys, ValueType::Int64, "k").unwrap()], times)]).unwrap();
        assert_eq!(timeline.row_slots(), [1, 2, 0, NO_SLOT, 1, NO_SLOT]);
        assert_eq!(timeline.by_key().collect::<Vec<_>>(), [0..2, 2..3]);
        assert_eq!(timeline.span(), Some((-5, 30)));
        let mut keys = [0, 0, 0, 1, 1, NO_KEY];
        timeline.first_at_or_after(&mut keys, &[-5, -4, 31, 10, 11, 0]);
        assert_eq!(keys, [0, 1, NO_SLOT, 2, NO_SLOT, NO_SLOT]);
    }

    #[test]
    fn the_first_moment_at_or_after_is_found_in_any_length() {
        for length in 0..40_i64 {
            let rows = usize::try_from(length).unwrap();
            let keys: ArrayRef = Arc::new(Int64Array::from(vec![Some(7); rows]));
            let times = Int64Array::from_iter_values((0..length).map(|place| place * 2));
            let timeline =
                Timeline::new(&[(vec![KeyColumn::new(&keys, ValueType::Int64, "k").unwrap()], times)])
                    .unwrap();
            let asked: Vec<i64> = (-1..=length * 2).collect();
            let mut found = vec![if length > 0 { 0 } else { NO_KEY }; asked.len()];
            timeline.first_at_or_after(&mut found, &asked);
            for (asked, found) in asked.into_iter().zip(found) {
                let want = (0..length).find(|place| place * 2 >= asked);
                assert_eq!(
                    found,
                    want.map_or(NO_SLOT, |slot| u32::try_from(slot).unwrap()),
                    "{asked} of {length}"
                );
            }
        }
    }

    #[test]
    fn no_rows_is_no_slots() {
        let timeline = Timeline::new(&[]).unwrap();
        assert_eq!((timeline.slots(), timeline.span()), (0, None));
        let mut keys = [NO_KEY];
        timeline.first_at_or_after(&mut keys, &[1]);
        assert_eq!(keys, [NO_SLOT]);
    }
}
