//! [`Newest`]: the newest row of each entity key in a range of keys, found by seeing every row once.
//!
//! Keys are kept as fingerprints, and the range shrinks when there are more of them than may be in memory:
//! what is beyond it is left to another pass. It knows neither stores nor sources.
//!
//! What is known of a key stays where it was put, and a table of numbers finds it: a table of the things
//! themselves would be there twice whenever it grows, and half empty afterwards.

use hashbrown::HashTable;

/// Keys known at once: what fills a table of 2^21 places; 84 MB with it.
pub(super) const KEYS_AT_ONCE: usize = (1 << 21) / 8 * 7;

/// Keys that memory is taken for at a time.
const CHUNK: usize = if cfg!(test) { 16 } else { 1 << 14 };

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    part: u64,
    /// As good as a hash of the key.
    rest: u64,
}

impl Key {
    fn of(fingerprint: u128) -> Self {
        Self {
            part: part_of(fingerprint),
            rest: low(fingerprint),
        }
    }
}

/// Keys with their ranks, by the numbers in which they came.
#[derive(Default)]
struct Ranks {
    chunks: Vec<Vec<(Key, Rank)>>,
}

impl Ranks {
    fn at(&self, number: u32) -> &(Key, Rank) {
        &self.chunks[number as usize / CHUNK][number as usize % CHUNK]
    }

    fn at_mut(&mut self, number: u32) -> &mut (Key, Rank) {
        &mut self.chunks[number as usize / CHUNK][number as usize % CHUNK]
    }

    fn push(&mut self, key: Key, rank: Rank) {
        match self.chunks.last_mut().filter(|chunk| chunk.len() < CHUNK) {
            Some(chunk) => chunk.push((key, rank)),
            None => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push((key, rank));
                self.chunks.push(chunk);
            }
        }
    }

    /// Keeps the keys up to a part, and numbers them anew; answers how many they are.
    fn keep(&mut self, last: u64) -> u32 {
        let mut kept = 0;
        for chunk in 0..self.chunks.len() {
            for row in 0..self.chunks[chunk].len() {
                let known = self.chunks[chunk][row];
                if known.0.part <= last {
                    *self.at_mut(kept) = known;
                    kept += 1;
                }
            }
        }
        self.chunks.truncate((kept as usize).div_ceil(CHUNK));
        if let Some(chunk) = self.chunks.last_mut() {
            chunk.truncate((kept as usize - 1) % CHUNK + 1);
        }
        kept
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
    numbers: HashTable<u32>,
    ranks: Ranks,
}

impl Newest {
    /// For the keys from `first` to `last`, or the first of them if there are more than `limit`.
    pub(super) fn new(first: u64, last: u64, limit: usize) -> Self {
        Self {
            first,
            last,
            limit,
            numbers: HashTable::new(),
            ranks: Ranks::default(),
        }
    }

    pub(super) fn contains(&self, key: u128) -> bool {
        (self.first..=self.last).contains(&part_of(key))
    }

    pub(super) fn keys(&self) -> usize {
        self.numbers.len()
    }

    /// Takes note of a row.
    pub(super) fn offer(&mut self, key: u128, rank: Rank) {
        if !self.contains(key) {
            return;
        }
        if let Some(known) = self.rank_mut(Key::of(key)) {
            *known = (*known).max(rank);
            return;
        }
        while self.keys() >= self.limit && self.last > self.first {
            // Keys are spread evenly, so this sheds about a quarter of them.
            self.last = self.first + (self.last - self.first) / 4 * 3;
            let kept = self.ranks.keep(self.last);
            let hash = |number: &u32| self.ranks.at(*number).0.rest;
            self.numbers.clear();
            for number in 0..kept {
                self.numbers.insert_unique(hash(&number), number, hash);
            }
        }
        if self.contains(key) {
            self.insert(Key::of(key), rank);
        }
    }

    /// Whether a row is to be stored: it is the newest of its key, or newer than any that was there when rows
    /// were offered.
    pub(super) fn wins(&mut self, key: u128, rank: Rank) -> bool {
        if !self.contains(key) {
            return false;
        }
        let key = Key::of(key);
        match self.rank_mut(key) {
            Some(known) if *known > rank => return false,
            Some(known) => *known = rank,
            None => self.insert(key, rank),
        }
        true
    }

    /// Places count no more, because the source is another one now.
    pub(super) fn forget_places(&mut self) {
        for (_, rank) in self.ranks.chunks.iter_mut().flatten() {
            rank.place = 0;
        }
    }

    fn rank_mut(&mut self, key: Key) -> Option<&mut Rank> {
        let is_key = |number: &u32| self.ranks.at(*number).0 == key;
        let number = *self.numbers.find(key.rest, is_key)?;
        Some(&mut self.ranks.at_mut(number).1)
    }

    #[expect(clippy::cast_possible_truncation, reason = "2^32 of them would be 170 GB")]
    fn insert(&mut self, key: Key, rank: Rank) {
        self.ranks.push(key, rank);
        let ranks = &self.ranks;
        let hash = |number: &u32| ranks.at(*number).0.rest;
        self.numbers
            .insert_unique(key.rest, self.numbers.len() as u32, hash);
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
        let key = |number: i64| crate::model::entity_key::fingerprint(&number.to_le_bytes());
        let keys: Vec<(u128, i64)> = (0..1000).map(|number| (key(number), number)).collect();
        let (mut first, mut stored, mut passes) = (0, 0, 0);
        loop {
            let mut newest = Newest::new(first, u64::MAX, 100);
            for (key, time) in &keys {
                newest.offer(*key, rank(*time, 1, 1));
                assert!(newest.keys() <= 100);
            }
            for (key, time) in &keys {
                assert!(!newest.wins(*key, rank(time - 1, 1, 1)));
                stored += usize::from(newest.wins(*key, rank(*time, 1, 1)));
            }
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
