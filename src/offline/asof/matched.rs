//! [`Matched`]: the answer of every slot for one probe, once all feature rows have passed.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, new_null_array},
    compute::interleave,
};
use datafusion::execution::memory_pool::MemoryReservation;

use super::{
    entities::Part,
    out_of_memory,
    pass::Answer,
    timeline::{NO_SLOT, Timeline},
    winners::{Rank, Winners},
};
use crate::error::Result;

/// See the module.
pub(super) struct Matched {
    timeline: Arc<Timeline>,
    /// Per slot, where its answer is: a range of winners in the high bits, and the row in it.
    picks: Vec<u32>,
    ranges: Vec<Kept>,
    range_bits: u32,
    held: Vec<MemoryReservation>,
}

/// What is left of a range of winners.
struct Kept {
    times: Vec<i64>,
    values: Vec<ArrayRef>,
}

impl Matched {
    /// Carries winners forward from slot to slot of each key. Each range has `2^range_bits` slots.
    ///
    /// # Errors
    /// `Overloaded` when it does not fit the memory limit.
    pub(super) fn new(
        timeline: Arc<Timeline>,
        winners: Vec<(Winners, MemoryReservation)>,
        range_bits: u32,
    ) -> Result<Self> {
        let mut ranges = Vec::with_capacity(winners.len());
        let mut held = Vec::with_capacity(winners.len());
        for (mut winners, reservation) in winners {
            winners.sweep()?;
            reservation
                .try_resize(winners.memory())
                .map_err(|error| out_of_memory(&error))?;
            ranges.push(winners);
            held.push(reservation);
        }
        let mask = (1_u32 << range_bits) - 1;
        let mut picks = vec![NO_SLOT; timeline.slots()];
        for slots in timeline.by_key() {
            let mut best: Option<(Rank, u32)> = None;
            for slot in slots {
                let range = slot >> range_bits;
                if let Some((rank, row)) = ranges[range as usize].winner((slot & mask) as usize)
                    && best.is_none_or(|(greatest, _)| rank > greatest)
                {
                    best = Some((rank, range << range_bits | row));
                }
                picks[slot as usize] = best.map_or(NO_SLOT, |(_, pick)| pick);
            }
        }
        let mut kept = Vec::with_capacity(ranges.len());
        for (place, winners) in ranges.into_iter().enumerate() {
            let (times, values) = winners.into_parts();
            let slots = (timeline.slots() - (place << range_bits)).min(1 << range_bits);
            let values_bytes: usize = values.iter().map(|column| column.get_buffer_memory_size()).sum();
            held[place]
                .try_resize(slots * size_of::<u32>() + times.len() * size_of::<i64>() + values_bytes)
                .map_err(|error| out_of_memory(&error))?;
            kept.push(Kept { times, values });
        }
        Ok(Self {
            timeline,
            picks,
            ranges: kept,
            range_bits,
            held,
        })
    }

    /// Bytes it holds.
    pub(super) fn memory(&self) -> usize {
        self.held.iter().map(MemoryReservation::size).sum()
    }

    /// The columns of a view for some of the entity rows.
    ///
    /// # Errors
    /// `InvalidArgument` when values cannot be copied (a text column of more than 2 GiB).
    pub(super) fn columns(&self, view: &Answer, part: &Part) -> Result<Vec<ArrayRef>> {
        let places = self.places(part, view.ttl);
        let column = |(field, value): &(arrow::datatypes::Field, usize)| {
            let null = new_null_array(field.data_type(), 1);
            let parts: Vec<&dyn Array> = self
                .ranges
                .iter()
                .map(|range| {
                    range
                        .values
                        .get(*value)
                        .map_or(null.as_ref(), |column| column.as_ref())
                })
                .chain(std::iter::once(null.as_ref()))
                .collect();
            Ok(interleave(&parts, &places)?)
        };
        view.outputs.iter().map(column).collect()
    }

    /// For each of the entity rows, the range and row of its answer; the range after the last is null.
    fn places(&self, part: &Part, ttl: Option<i64>) -> Vec<(usize, usize)> {
        let mask = (1_u32 << self.range_bits) - 1;
        let none = (self.ranges.len(), 0);
        let place = |&slot: &u32| {
            let pick = if slot == NO_SLOT {
                NO_SLOT
            } else {
                self.picks[slot as usize]
            };
            if pick == NO_SLOT {
                return none;
            }
            let (range, row) = ((pick >> self.range_bits) as usize, (pick & mask) as usize);
            let time = self.ranges[range].times[row];
            let expired = ttl.is_some_and(|ttl| self.timeline.time(slot).saturating_sub(ttl) > time);
            if expired { none } else { (range, row) }
        };
        self.timeline.row_slots()[part.first_row..part.first_row + part.rows]
            .iter()
            .map(place)
            .collect()
    }
}
