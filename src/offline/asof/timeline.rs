//! [`Timeline`]: the entity side of a join, reduced to what feature rows are compared with.
//!
//! Entity rows fall into *slots*, one per distinct (key, time), numbered so that the slots of one key
//! lie together in order of time. It holds numbers only; the rows themselves stay with the caller.

use std::hint::select_unpredictable;

use arrow::array::{Array, Int64Array};

use super::keys::{KeyColumn, KeyTable, Keys, NO_KEY};
use crate::error::{Error, Result};

/// "No slot": an entity row without key or time, which gets nulls.
pub const NO_SLOT: u32 = u32::MAX;

/// Searches that go on at the same time: as many as a core has next to itself.
const SEARCHES: usize = 512;

/// So few slots that it is faster to look at each.
const COUNTED: u32 = 4;

/// A search among the slots of a key.
struct Search {
    /// In the keys that were given.
    row: u32,
    key: u32,
    start: u32,
    /// Slots that are left.
    length: u32,
    moment: i64,
}

/// Where the last search of each key ended: feature rows are mostly in order of time, so that the next one ends
/// there, or beside it.
pub struct Trail {
    places: Vec<u32>,
    searches: Vec<Search>,
}

/// The keys and times of all entity rows.
pub struct Timeline {
    keys: Keys,
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
        Ok(Self::sorted(keys.close(), &row_keys, moments))
    }

    /// Counts rows per key, places them, sorts each key's part by time and numbers the distinct times.
    fn sorted<I: Iterator<Item = i64>>(keys: Keys, row_keys: &[u32], moments: impl Fn() -> I) -> Self {
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
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// A trail that nobody has walked yet; [`Timeline::trail_memory`] says what it needs.
    pub fn trail(&self) -> Trail {
        Trail {
            places: self.starts[..self.keys.count()].to_vec(),
            searches: Vec::new(),
        }
    }

    /// Bytes of a trail.
    pub fn trail_memory(&self) -> usize {
        self.keys.count() * size_of::<u32>()
    }

    /// Turns each key into its first slot at or after the moment beside it, or [`NO_SLOT`].
    pub fn first_at_or_after(&self, keys: &mut [u32], moments: &[i64], trail: &mut Trail) {
        for (keys, moments) in keys.chunks_mut(SEARCHES).zip(moments.chunks(SEARCHES)) {
            trail.searches.clear();
            for ((row, key), &moment) in (0_u32..).zip(&mut *keys).zip(moments) {
                if *key == NO_KEY {
                    *key = NO_SLOT;
                    continue;
                }
                let (start, end) = self.slots_of(*key);
                let place = &mut trail.places[*key as usize];
                match self.near(*place, start, end, moment) {
                    Some(slot) => {
                        *place = slot;
                        *key = if slot < end { slot } else { NO_SLOT };
                    }
                    None => trail.searches.push(Search {
                        row,
                        key: *key,
                        start,
                        length: end - start,
                        moment,
                    }),
                }
            }
            self.search(&mut trail.searches);
            for search in &trail.searches {
                let (_, end) = self.slots_of(search.key);
                trail.places[search.key as usize] = search.start;
                keys[search.row as usize] = if search.start < end { search.start } else { NO_SLOT };
            }
        }
    }

    fn slots_of(&self, key: u32) -> (u32, u32) {
        (self.starts[key as usize], self.starts[key as usize + 1])
    }

    /// The first slot at or after the moment, or the end, if that is `place` or a neighbour of it.
    fn near(&self, place: u32, start: u32, end: u32, moment: i64) -> Option<u32> {
        let reaches = |slot: u32| slot >= end || self.times[slot as usize] >= moment;
        let misses = |slot: u32| slot <= start || self.times[slot as usize - 1] < moment;
        match (reaches(place), misses(place)) {
            (true, true) => Some(place),
            (true, false) => misses(place - 1).then_some(place - 1),
            (false, _) => reaches(place + 1).then_some(place + 1),
        }
    }

    /// Moves the start of each search to its end. All take a step before any takes the next: a search alone
    /// would wait for memory at every step, and its branches are nothing a processor could guess.
    fn search(&self, searches: &mut [Search]) {
        let mut longest = searches.iter().map(|search| search.length).max().unwrap_or(0);
        while longest > COUNTED {
            for search in &mut *searches {
                let half = if search.length > COUNTED {
                    search.length / 2
                } else {
                    0
                };
                // A search that is over looks somewhere, and moves nowhere.
                let last = (search.start + half).saturating_sub(1);
                let before = self.times[last as usize] < search.moment;
                search.start += select_unpredictable(before, half, 0);
                search.length -= half;
            }
            longest -= longest / 2;
        }
        for search in searches {
            let left = search.start as usize..(search.start + search.length) as usize;
            let before = self.times[left]
                .iter()
                .map(|time| u32::from(*time < search.moment));
            search.start += before.sum::<u32>();
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
        timeline.first_at_or_after(&mut keys, &[-5, -4, 31, 10, 11, 0], &mut timeline.trail());
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
            // Up, down and to and fro, each also where the one before has ended.
            let up: Vec<i64> = (-1..=length * 2).collect();
            let down = up.iter().rev().copied();
            let ends = up.iter().zip(up.iter().rev()).flat_map(|(a, b)| [*a, *b]);
            let asked: Vec<i64> = up.iter().copied().chain(down).chain(ends).collect();
            let mut found = vec![if length > 0 { 0 } else { NO_KEY }; asked.len()];
            let mut trail = timeline.trail();
            for _ in 0..2 {
                found.fill(if length > 0 { 0 } else { NO_KEY });
                timeline.first_at_or_after(&mut found, &asked, &mut trail);
                for (asked, found) in asked.iter().zip(&found) {
                    let want = (0..length).find(|place| place * 2 >= *asked);
                    let want = want.map_or(NO_SLOT, |slot| u32::try_from(slot).unwrap());
                    assert_eq!(*found, want, "{asked} of {length}");
                }
            }
        }
    }

    #[test]
    fn no_rows_is_no_slots() {
        let timeline = Timeline::new(&[]).unwrap();
        assert_eq!((timeline.slots(), timeline.span()), (0, None));
        let mut keys = [NO_KEY];
        timeline.first_at_or_after(&mut keys, &[1], &mut timeline.trail());
        assert_eq!(keys, [NO_SLOT]);
    }
}
