//! [`Probe`]: what feature rows of one source are compared with, and [`Contest`]: the comparing.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::{
    array::{Array, ArrayRef},
    datatypes::{Field, Schema},
    record_batch::RecordBatch,
};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};

use super::{
    Join, Side,
    keys::{KeyColumn, NO_KEY},
    matched::Matched,
    out_of_memory,
    timeline::{NO_SLOT, Timeline, Trail},
    times::{Scale, moments},
    winners::{Candidate, Winners},
};
use crate::{
    error::{Error, Result},
    model::ValueType,
    offline::store::{JoinFeature, JoinKey, JoinView},
};

/// The most ranges winners are kept in.
const SHARDS: usize = 8;

/// One timeline, and which columns of a scan are compared with it and kept.
pub(super) struct Probe {
    pub(super) timeline: Arc<Timeline>,
    scale: Scale,
    known_as_of: bool,
    /// Key columns of the scan.
    pub(super) keys: Vec<(usize, ValueType)>,
    time: usize,
    created: Option<usize>,
    /// Value columns of the scan, each once.
    values: Vec<usize>,
    /// The longest ttl of the views; `None` when one has none.
    pub(super) reach: Option<i64>,
}

impl Probe {
    /// For views of a source that are joined by the same keys.
    ///
    /// # Errors
    /// `InvalidArgument` when the source has no column of created times and that is what counts.
    pub(super) fn new(
        join: &Join,
        side: &Side,
        views: &[&(usize, JoinView)],
        timeline: Arc<Timeline>,
    ) -> Result<Self> {
        let column = |name: &str| index_of(&side.schema, name);
        let mut values: Vec<usize> = Vec::new();
        for feature in views.iter().flat_map(|(_, view)| &view.features) {
            let value = column(&feature.source_column)?;
            if !values.contains(&value) {
                values.push(value);
            }
        }
        let reach = views
            .iter()
            .map(|(_, view)| view.ttl.map(|ttl| join.scale.length(ttl)));
        let created = side.created.as_deref().map(column).transpose()?;
        if join.known_as_of && created.is_none() {
            let names: Vec<_> = views.iter().map(|(_, view)| format!("`{}`", view.name)).collect();
            return Err(Error::invalid(format!(
                "the source of {} has no created timestamp column",
                names.join(", ")
            ))
            .hint("filtering by created time needs `created_timestamp_column` on every source"));
        }
        let keys: &[JoinKey] = views.first().map_or(&[], |(_, view)| &view.join_keys);
        Ok(Self {
            timeline,
            scale: join.scale,
            known_as_of: join.known_as_of,
            keys: keys
                .iter()
                .map(|key| Ok((column(&key.source_column)?, key.value_type)))
                .collect::<Result<_>>()?,
            time: column(&side.timestamp)?,
            created,
            values,
            reach: reach
                .collect::<Option<Vec<_>>>()
                .and_then(|all| all.into_iter().max()),
        })
    }

    /// The output fields of a view and where their values are.
    pub(super) fn outputs(&self, view: &JoinView, schema: &Schema) -> Result<Vec<(Field, usize)>> {
        let output = |feature: &JoinFeature| {
            let column = index_of(schema, &feature.source_column)?;
            let place = self.values.iter().position(|value| *value == column);
            let place = place.ok_or_else(|| Error::internal("a wanted column is not kept"))?;
            Ok((
                Field::new(&feature.output, schema.field(column).data_type().clone(), true),
                place,
            ))
        };
        view.features.iter().map(output).collect()
    }

    /// The rows of a batch that may be answers, by the range of `2^range_bits` slots they compete in.
    fn candidates(
        &self,
        batch: &RecordBatch,
        ranges: usize,
        range_bits: u32,
        trail: &mut Trail,
    ) -> Result<Vec<Vec<Candidate>>> {
        let rows = batch.num_rows();
        let schema = batch.schema_ref();
        let read = |column: usize| moments(batch.column(column), self.scale, schema.field(column).name());
        let times = read(self.time)?;
        let created = self.created.map(read).transpose()?;
        let key = |&(column, value_type): &(usize, ValueType)| {
            KeyColumn::new(batch.column(column), value_type, schema.field(column).name())
        };
        let keys = self.keys.iter().map(key).collect::<Result<Vec<_>>>()?;
        let mut numbers = Vec::new();
        self.timeline.keys().find(&keys, rows, &mut numbers);
        let made = |row: usize| match &created {
            Some(created) if created.is_valid(row) => Some(created.value(row)),
            Some(_) => None,
            None => Some(i64::MIN),
        };
        // The number of a key becomes the moment's slot; rows without a key or a moment have none.
        let mut known = Vec::with_capacity(rows);
        for (row, number) in numbers.iter_mut().enumerate() {
            let made = if self.known_as_of {
                made(row)
            } else {
                Some(i64::MIN)
            };
            match made {
                Some(made) if times.is_valid(row) => known.push(times.value(row).max(made)),
                _ => {
                    *number = NO_KEY;
                    known.push(i64::MIN);
                }
            }
        }
        self.timeline.first_at_or_after(&mut numbers, &known, trail);
        let mut offers = vec![Vec::new(); ranges];
        for offer in &mut offers {
            offer.reserve(rows / ranges.max(1));
        }
        let mask = (1_u32 << range_bits) - 1;
        for (row, &slot) in (0_u32..).zip(&numbers) {
            if slot == NO_SLOT {
                continue;
            }
            let time = times.value(row as usize);
            let expired = |reach| self.timeline.time(slot).saturating_sub(reach) > time;
            if self.reach.is_some_and(expired) {
                continue;
            }
            offers[(slot >> range_bits) as usize].push(Candidate {
                slot: slot & mask,
                row,
                time,
                created: made(row as usize).unwrap_or(i64::MIN),
            });
        }
        Ok(offers)
    }
}

/// A probe with the winners of the rows that were offered to it.
pub(super) struct Contest {
    probe: Probe,
    ranges: Vec<Mutex<(Winners, MemoryReservation)>>,
    /// Slots of a range, as a power of two.
    range_bits: u32,
    /// Those of parts that were read, for parts to come, whose times begin about where those ended.
    left: Mutex<Vec<Entry>>,
    pool: Arc<dyn MemoryPool>,
}

impl Contest {
    /// A contest nobody has entered.
    ///
    /// # Errors
    /// `Overloaded` when there is no room for it.
    pub(super) fn new(probe: Probe, pool: &Arc<dyn MemoryPool>) -> Result<Self> {
        let slots = probe.timeline.slots();
        let a_range = slots.div_ceil(SHARDS).next_power_of_two().max(1 << 10);
        let mut ranges = Vec::with_capacity(SHARDS);
        for start in (0..slots).step_by(a_range) {
            let held = MemoryConsumer::new("feature rows").register(pool);
            let slots = a_range.min(slots - start);
            held.try_grow(Winners::memory_of(slots))
                .map_err(|error| out_of_memory(&error))?;
            ranges.push(Mutex::new((Winners::new(slots), held)));
        }
        Ok(Self {
            probe,
            ranges,
            range_bits: a_range.trailing_zeros(),
            left: Mutex::default(),
            pool: Arc::clone(pool),
        })
    }

    /// Enters the rows of a part.
    ///
    /// # Errors
    /// `Overloaded` when there is no room for it.
    pub(super) fn enter(&self) -> Result<Entry> {
        if let Some(entry) = self.left.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Ok(entry);
        }
        let held = MemoryConsumer::new("places of keys").register(&self.pool);
        held.try_grow(self.probe.timeline.trail_memory())
            .map_err(|error| out_of_memory(&error))?;
        Ok(Entry {
            trail: self.probe.timeline.trail(),
            _held: held,
        })
    }

    /// The part has no more rows.
    pub(super) fn leave(&self, entry: Entry) {
        self.left
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(entry);
    }

    /// Offers every row of a batch to the slot it may be the answer of; `place` is where its first row
    /// stands in the source.
    pub(super) fn offer(&self, entry: &mut Entry, batch: &RecordBatch, place: u64) -> Result<()> {
        if self.ranges.is_empty() || batch.num_rows() == 0 {
            return Ok(());
        }
        let mut offers =
            self.probe
                .candidates(batch, self.ranges.len(), self.range_bits, &mut entry.trail)?;
        let columns: Vec<ArrayRef> = self
            .probe
            .values
            .iter()
            .map(|&value| Arc::clone(batch.column(value)))
            .collect();
        let mut left: Vec<usize> = (0..offers.len())
            .filter(|&range| !offers[range].is_empty())
            .collect();
        while !left.is_empty() {
            let before = left.len();
            let mut failed = None;
            left.retain(|&range| {
                let Ok(mut winners) = self.ranges[range].try_lock() else {
                    return true;
                };
                failed = failed
                    .take()
                    .or(compete(&mut winners, &offers[range], &columns, place).err());
                false
            });
            if let Some(error) = failed {
                return Err(error);
            }
            // All that are left are taken: wait for one instead of spinning.
            if left.len() == before
                && let Some(range) = left.pop()
            {
                let mut winners = self.ranges[range].lock().unwrap_or_else(PoisonError::into_inner);
                compete(&mut winners, &std::mem::take(&mut offers[range]), &columns, place)?;
            }
        }
        Ok(())
    }

    /// The answers, when all rows were offered.
    pub(super) fn finish(self) -> Result<Matched> {
        let ranges = self
            .ranges
            .into_iter()
            .map(|range| range.into_inner().unwrap_or_else(PoisonError::into_inner));
        Matched::new(self.probe.timeline, ranges.collect(), self.range_bits)
    }
}

/// What one who reads a part of the source keeps from batch to batch.
pub(super) struct Entry {
    trail: Trail,
    _held: MemoryReservation,
}

fn compete(
    range: &mut (Winners, MemoryReservation),
    candidates: &[Candidate],
    columns: &[ArrayRef],
    place: u64,
) -> Result<()> {
    let (winners, held) = range;
    winners.offer(candidates, columns, place)?;
    held.try_resize(winners.memory())
        .map_err(|error| out_of_memory(&error))
}

fn index_of(schema: &Schema, name: &str) -> Result<usize> {
    schema
        .index_of(name)
        .map_err(|_| Error::internal(format!("the scan does not deliver column `{name}`")))
}
