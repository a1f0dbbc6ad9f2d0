//! [`Newest`]: the newest row of each entity key in a range of keys, found by seeing every row once.
//!
//! Keys are kept as fingerprints, and the range shrinks when there are more of them than may be in memory:
//! what is beyond it is left to another pass. It knows neither stores nor sources.

use std::collections::{HashMap, hash_map::Entry};

use foldhash::fast::RandomState;

/// Keys known at once: what fills a table of 2^21 places, 86 MB.
pub(super) const KEYS_AT_ONCE: usize = (1 << 21) / 8 * 7;

/// Where a row stands among others of its key; the greatest is the newest. The last part is the row's place
/// in the source, so that rows of equal times are decided the same way every time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    pub(super) event: i64,
    /// `i64::MIN` when unknown.
    pub(super) created: i64,
    /// 0 where places cannot be relied on.
    pub(super) place: u64,
}

/// A fingerprint, in a form that takes no more alignment than a [`Rank`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key([u64; 2]);

impl Key {
    fn of(fingerprint: u128) -> Self {
        Self([part_of(fingerprint), low(fingerprint)])
    }
}

/// The part of a fingerprint that ranges are made of.
pub(super) fn part_of(fingerprint: u128) -> u64 {
    low(fingerprint >> 64)
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half is wanted")]
fn low(fingerprint: u128) -> u64 {
    fingerprint as u64
}

/// See the module.
pub(super) struct Newest {
    pub(super) first: u64,
    pub(super) last: u64,
    limit: usize,
    known: HashMap<Key, Rank, RandomState>,
}

impl Newest {
    /// For the keys from `first` to `last`, or the first of them if there are more than `limit`.
    pub(super) fn new(first: u64, last: u64, limit: usize) -> Self {
        Self {
            first,
            last,
            limit,
            known: HashMap::default(),
        }
    }

    pub(super) fn contains(&self, key: u128) -> bool {
        (self.first..=self.last).contains(&part_of(key))
    }

    pub(super) fn keys(&self) -> usize {
        self.known.len()
    }

    /// Takes note of a row.
    pub(super) fn offer(&mut self, key: u128, rank: Rank) {
        if !self.contains(key) {
            return;
        }
        if let Some(known) = self.known.get_mut(&Key::of(key)) {
            *known = (*known).max(rank);
            return;
        }
        while self.known.len() >= self.limit && self.last > self.first {
            // Keys are spread evenly, so this sheds about a quarter of them.
            self.last = self.first + (self.last - self.first) / 4 * 3;
            let last = self.last;
            // Taken out and put back: a table that entries were only removed from would grow with the next.
            let kept: Vec<_> = self.known.drain().filter(|(key, _)| key.0[0] <= last).collect();
            self.known.extend(kept);
        }
        if self.contains(key) {
            self.known.insert(Key::of(key), rank);
        }
    }

    /// Whether a row is to be stored: it is the newest of its key, or newer than any that was there when rows
    /// were offered.
    pub(super) fn wins(&mut self, key: u128, rank: Rank) -> bool {
        if !self.contains(key) {
            return false;
        }
        match self.known.entry(Key::of(key)) {
            Entry::Occupied(known) if *known.get() > rank => false,
            Entry::Occupied(mut known) => {
                known.insert(rank);
                true
            }
            Entry::Vacant(place) => {
                place.insert(rank);
                true
            }
        }
    }

    /// Places count no more, because the source is another one now.
    pub(super) fn forget_places(&mut self) {
        for rank in self.known.values_mut() {
            rank.place = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(event: i64, created: i64, place: u64) -> Rank {
        Rank {
            event,
            created,
            place,
        }
    }

    #[test]
    fn one_row_of_a_key_wins_whatever_the_order() {
        let rows = [
            rank(2, 0, 1),
            rank(2, 1, 2),
            rank(2, 1, 3),
            rank(1, 9, 4),
            rank(2, 1, 0),
        ];
        for turn in 0..rows.len() {
            let mut newest = Newest::new(0, u64::MAX, 10);
            let mut order = rows;
            order.rotate_left(turn);
            for row in order {
                newest.offer(7, row);
            }
            let winners: Vec<_> = rows.iter().filter(|row| newest.wins(7, **row)).collect();
            assert_eq!(winners, [&rank(2, 1, 3)]);
        }
    }

    #[test]
    fn a_row_that_came_since_wins_too_and_goes_never_back() {
        let mut newest = Newest::new(0, u64::MAX, 10);
        newest.offer(7, rank(2, 0, 1));
        assert!(newest.wins(7, rank(3, 0, 0)));
        assert!(!newest.wins(7, rank(2, 0, 1)));
        assert!(newest.wins(8, rank(1, 0, 0)));
    }

    #[test]
    fn ranges_cover_all_keys_and_stay_small() {
        let keys: Vec<u128> = (0..1000)
            .map(|number: u32| crate::model::entity_key::fingerprint(&number.to_le_bytes()))
            .collect();
        let (mut first, mut stored, mut passes) = (0, 0, 0);
        loop {
            let mut newest = Newest::new(first, u64::MAX, 100);
            for key in &keys {
                newest.offer(*key, rank(1, 1, 1));
                assert!(newest.keys() <= 100);
            }
            stored += keys
                .iter()
                .filter(|key| newest.wins(**key, rank(1, 1, 1)))
                .count();
            passes += 1;
            let Some(next) = newest.last.checked_add(1) else {
                break;
            };
            first = next;
        }
        assert_eq!(stored, keys.len());
        assert!((10..40).contains(&passes), "{passes}");
    }
}
