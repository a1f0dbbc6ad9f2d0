//! [`Winners`]: the best feature row seen so far for each of a range of slots, with a copy of its values.
//!
//! Values are copied batch by batch, only of rows that win; rows that lost since are swept out when
//! they are the greater part, so memory stays in proportion to the slots.

use arrow::{
    array::{ArrayRef, UInt32Array},
    compute::{interleave, take},
};

use crate::error::Result;

/// A feature row on offer.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    /// Within the range.
    pub slot: u32,
    /// In the batch it comes from.
    pub row: u32,
    pub time: i64,
    /// `i64::MIN` when unknown.
    pub created: i64,
}

/// Where a row stands among others of its slot: the greatest wins. The last part is the row's place in
/// the source, so that equal rows are decided the same way every time.
pub type Rank = (i64, i64, u64);

#[derive(Debug, Clone, Copy)]
struct Best {
    rank: Rank,
    chunk: u32,
    row: u32,
}

const EMPTY: u32 = u32::MAX;
const IN_THIS_BATCH: u32 = u32::MAX - 1;
/// Losers are not worth sweeping below this many rows.
const SWEEP_ROWS: usize = 1 << 14;
/// More chunks than this are merged even without losers.
const SWEEP_CHUNKS: usize = 1 << 10;
/// What a slot needs before it has a winner, and its part of what is kept of it afterwards.
pub const SLOT_BYTES: usize = size_of::<Best>() + 8;

/// See the module.
pub struct Winners {
    best: Vec<Best>,
    /// Per column, what was copied of each batch.
    columns: Vec<Vec<ArrayRef>>,
    chunks: usize,
    /// Rows in `chunks`, winners or not.
    stored: usize,
    /// Slots with a winner.
    filled: usize,
    touched: Vec<u32>,
    chunk_memory: usize,
}

impl Winners {
    /// For `slots` slots.
    pub fn new(slots: usize) -> Self {
        let best = vec![
            Best {
                rank: (i64::MIN, i64::MIN, 0),
                chunk: EMPTY,
                row: 0
            };
            slots
        ];
        Self {
            best,
            columns: Vec::new(),
            chunks: 0,
            stored: 0,
            filled: 0,
            touched: Vec::new(),
            chunk_memory: 0,
        }
    }

    /// Adds empty slots at the end, up to `slots`.
    pub fn grow(&mut self, slots: usize) {
        self.best.resize(
            slots,
            Best {
                rank: (i64::MIN, i64::MIN, 0),
                chunk: EMPTY,
                row: 0,
            },
        );
    }

    /// Bytes that this many slots need without winners.
    pub fn memory_of(slots: usize) -> usize {
        slots * size_of::<Best>()
    }

    /// Bytes it holds.
    pub fn memory(&self) -> usize {
        self.best.capacity() * size_of::<Best>() + self.chunk_memory
    }

    /// Lets candidates of one batch compete; `columns` are the batch's values, `order` is the place of
    /// its first row in the source.
    ///
    /// # Errors
    /// `InvalidArgument` when values cannot be copied (a text column of more than 2 GiB of winners).
    pub fn offer(&mut self, candidates: &[Candidate], columns: &[ArrayRef], order: u64) -> Result<()> {
        for candidate in candidates {
            let best = &mut self.best[candidate.slot as usize];
            let rank = (
                candidate.time,
                candidate.created,
                order + u64::from(candidate.row),
            );
            if best.chunk != EMPTY && rank < best.rank {
                continue;
            }
            if best.chunk == EMPTY {
                self.filled += 1;
            }
            if best.chunk != IN_THIS_BATCH {
                self.touched.push(candidate.slot);
            }
            *best = Best {
                rank,
                chunk: IN_THIS_BATCH,
                row: candidate.row,
            };
        }
        if self.touched.is_empty() {
            return Ok(());
        }
        let chunk = u32::try_from(self.chunks).unwrap_or(EMPTY);
        let mut rows = Vec::with_capacity(self.touched.len());
        for (row, slot) in (0_u32..).zip(self.touched.drain(..)) {
            let best = &mut self.best[slot as usize];
            rows.push(best.row);
            (best.chunk, best.row) = (chunk, row);
        }
        self.stored += rows.len();
        let rows = UInt32Array::from(rows);
        self.columns.resize_with(columns.len(), Vec::new);
        for (kept, column) in self.columns.iter_mut().zip(columns) {
            let copied = take(column, &rows, None)?;
            self.chunk_memory += copied.get_buffer_memory_size();
            kept.push(copied);
        }
        self.chunks += 1;
        let losers = self.stored - self.filled;
        if losers > self.filled + SWEEP_ROWS || self.chunks > SWEEP_CHUNKS {
            self.sweep()?;
        }
        Ok(())
    }

    /// Rewrites the winners as one chunk, in the order of their slots.
    ///
    /// # Errors
    /// As [`Winners::offer`].
    pub fn sweep(&mut self) -> Result<()> {
        let mut places = Vec::with_capacity(self.filled);
        let filled = self.best.iter_mut().filter(|best| best.chunk != EMPTY);
        for (row, best) in (0_u32..).zip(filled) {
            places.push((best.chunk as usize, best.row as usize));
            (best.chunk, best.row) = (0, row);
        }
        self.stored = places.len();
        self.chunks = usize::from(self.chunks > 0);
        self.chunk_memory = 0;
        // Column by column, so that only one is there twice.
        for column in &mut self.columns {
            let parts: Vec<_> = column.iter().map(AsRef::as_ref).collect();
            let swept = interleave(&parts, &places)?;
            self.chunk_memory += swept.get_buffer_memory_size();
            *column = vec![swept];
        }
        Ok(())
    }

    /// The rank of the slot's winner and its row in the one chunk that [`Winners::sweep`] leaves.
    pub fn winner(&self, slot: usize) -> Option<(Rank, u32)> {
        let best = &self.best[slot];
        (best.chunk != EMPTY).then_some((best.rank, best.row))
    }

    /// The times and the values of the winners after [`Winners::sweep`], in the order of their slots.
    pub fn into_parts(self) -> (Vec<i64>, Vec<ArrayRef>) {
        let filled = self.best.iter().filter(|best| best.chunk != EMPTY);
        let times = filled.map(|best| best.rank.0).collect();
        (times, self.columns.into_iter().flatten().collect())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{AsArray, Int64Array},
        datatypes::Int64Type,
    };

    use super::*;

    fn offer(winners: &mut Winners, order: u64, rows: &[(u32, i64, i64, i64)]) {
        let values: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.3)));
        let candidates: Vec<_> = (0_u32..)
            .zip(rows)
            .map(|(row, &(slot, time, created, _))| Candidate {
                slot,
                row,
                time,
                created,
            })
            .collect();
        winners.offer(&candidates, &[values], order).unwrap();
    }

    fn value(winners: &Winners, slot: usize) -> Option<i64> {
        let (_, row) = winners.winner(slot)?;
        let columns = &winners.columns[0];
        assert_eq!(columns.len(), 1, "not swept");
        let column = &columns[0];
        Some(column.as_primitive::<Int64Type>().value(row as usize))
    }

    #[test]
    fn later_time_then_later_creation_then_later_place_wins() {
        let mut winners = Winners::new(3);
        offer(
            &mut winners,
            100,
            &[(0, 5, 1, 50), (0, 5, 2, 51), (0, 4, 9, 40), (2, 1, 1, 10)],
        );
        offer(&mut winners, 0, &[(0, 5, 2, 99), (2, 1, 1, 98), (2, 0, 0, 97)]);
        winners.sweep().unwrap();
        assert_eq!(
            [0, 1, 2].map(|slot| value(&winners, slot)),
            [Some(51), None, Some(10)]
        );
    }

    #[test]
    fn memory_follows_the_slots() {
        let mut winners = Winners::new(16);
        for batch in 0..200_i64 {
            let rows: Vec<_> = (0..1_000_u32)
                .map(|row| (row % 16, batch, i64::from(row), batch))
                .collect();
            offer(&mut winners, 0, &rows);
        }
        let mut many = Winners::new(1 << 14);
        for batch in 0..40_i64 {
            let rows: Vec<_> = (0..1 << 14).map(|slot| (slot, batch, 0, batch)).collect();
            offer(&mut many, 0, &rows);
        }
        assert!(many.chunk_memory <= 4 * 8 * (1 << 14), "{}", many.chunk_memory);
        many.sweep().unwrap();
        winners.sweep().unwrap();
        assert_eq!((value(&winners, 15), value(&many, 77)), (Some(199), Some(39)));
    }
}
