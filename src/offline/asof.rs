//! The as-of join: for each entity row, of every view the newest feature row that was known then.
//!
//! # How
//! The usual way sorts both sides by key and time and merges them; the feature side, which is the big
//! one, is then sorted (or spilled) for every view. Here only the entity side is kept, and the feature
//! side streams past it in any order:
//!
//! 1. Entity rows are hashed by key and sorted by time within a key. Each distinct (key, time) is a
//!    *slot* ([`timeline`]).
//! 2. A feature row of time `t` can be the answer of slots at or after `t`. It is offered only to the
//!    first of them, which keeps the best row offered to it: greatest time, then greatest creation time,
//!    then latest place in the source ([`winners`]). The values of the kept rows are copied.
//! 3. When all feature rows have passed, one walk over each key's slots carries the best so far forward,
//!    and a row older than the view's ttl becomes null.
//!
//! *Known-as-of* (`filter_by_created`) changes step 2 only: a row created at `c` is an answer of slots at
//! or after `max(t, c)`, so that is where it is offered. Later slots may then hold a row of an older time
//! than an earlier slot, which the walk of step 3, carrying the greatest, gets right.
//!
//! ttl needs no place in steps 1 and 2: the newest row is within it, or none is. So one pass serves all
//! views of a source, whatever their ttl, and views with the same keys share one set of winners.
//!
//! # What it costs
//! With `n` feature rows, `m` entity rows of `k` keys and `w` bytes of wanted columns a row:
//! - time `n` hash lookups, `n · log(m/k)` steps of a search in a short sorted run, `m · log(m/k)` for
//!   sorting, and a copy of `w` for each row that is best when its batch has been seen: at most `n`,
//!   typically `m · ln(n/m)` where the source is in no order of time;
//! - memory `m · (16 + 32 per source) + 2 · m · w` at most, whatever `n` is. Nothing of the feature side is
//!   sorted, kept or spilled.
//!
//! Sort-merge needs `n log n` time and, beyond memory, disk for `n · w`; it wins only where the source is
//! already sorted by key and time and the entity side does not fit in memory. Then the query is refused
//! at the memory limit, and asking in parts is the way out: entity rows are independent of each other.
//!
//! # Working together
//! Each partition of a scan is one task. The timeline is read without locks; winners are in up to
//! `SHARDS` ranges of slots, each behind its own lock, and a task takes the ranges that are free first.
//! Tasks belong to a `JoinSet`: dropping the future, or an error in one of them, ends all at their
//! next batch.
//!
//! Equal times, equal creation times: the later row of the source wins, files in order of their paths.

pub mod entities;
pub mod keys;
pub mod timeline;
pub mod times;
pub mod winners;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use arrow::{
    array::{Array, ArrayRef, Int64Array, new_null_array},
    compute::interleave,
    datatypes::{DataType, Field, Schema, SchemaRef},
    record_batch::{RecordBatch, RecordBatchOptions},
};
use datafusion::{
    error::DataFusionError,
    execution::{
        SendableRecordBatchStream,
        memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation},
    },
    physical_plan::stream::RecordBatchStreamAdapter,
};
use futures::StreamExt;
use tokio::task::JoinSet;

use self::{
    entities::Entities,
    keys::{KeyColumn, NO_KEY},
    timeline::{NO_SLOT, Timeline},
    times::{Scale, moments},
    winners::{Candidate, Winners},
};
use super::store::{JoinKey, JoinView};
use crate::{
    error::{Error, Kind, Result},
    model::ValueType,
};

/// The most ranges winners are kept in.
const SHARDS: usize = 8;
/// Rows of a result batch.
const OUTPUT_ROWS: usize = 1 << 14;

/// A source as its scan delivers it.
pub struct Side {
    /// The columns of the scan's batches, under their mapped names.
    pub schema: SchemaRef,
    pub timestamp: String,
    pub created: Option<String>,
    /// The views that are answered from it, with their place among the query's views.
    pub views: Vec<(usize, JoinView)>,
}

/// What a scan may leave out, because no row outside can be an answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bounds {
    /// Event times on the join's scale; no lower end where a view has no ttl.
    pub earliest: Option<i64>,
    pub latest: Option<i64>,
    /// Ranges of whole-number key columns of the source.
    pub keys: Vec<(String, i64, i64)>,
    /// No row at all can be an answer.
    pub nothing: bool,
}

/// A join under construction: sides are added, then their scans are run past it.
pub struct Join {
    entities: Entities,
    scale: Scale,
    known_as_of: bool,
    pool: Arc<dyn MemoryPool>,
    timelines: HashMap<Vec<(String, ValueType)>, Arc<Timeline>>,
    sides: Vec<Vec<Probe>>,
    /// Per view of the query: its side, probe, ttl and outputs.
    answers: Vec<Option<Answer>>,
    _held: MemoryReservation,
}

/// Where a view's values come from.
struct Answer {
    side: usize,
    probe: usize,
    ttl: Option<i64>,
    /// Output field and the place among the probe's values.
    outputs: Vec<(Field, usize)>,
}

impl Join {
    /// A join of `views` views against `entities`, on a scale that is exact for all sides.
    ///
    /// # Errors
    /// `Overloaded` when the entity rows alone pass the memory limit.
    pub fn new(
        entities: Entities,
        scale: Scale,
        known_as_of: bool,
        views: usize,
        pool: &Arc<dyn MemoryPool>,
    ) -> Result<Self> {
        let held = MemoryConsumer::new("entity rows").register(pool);
        held.try_grow(entities.memory())
            .map_err(|error| out_of_memory(&error))?;
        Ok(Self {
            entities,
            scale,
            known_as_of,
            pool: Arc::clone(pool),
            timelines: HashMap::new(),
            sides: Vec::new(),
            answers: std::iter::repeat_with(|| None).take(views).collect(),
            _held: held,
        })
    }

    /// Adds a source; answers what its scan needs to deliver. Sides are numbered as they are added.
    ///
    /// # Errors
    /// `EntityColumnsMissing` when a view's key is no entity column, `InvalidArgument` when key values
    /// have the wrong type or the source lacks a column.
    pub fn add(&mut self, side: &Side) -> Result<Bounds> {
        let index = self.sides.len();
        let mut groups: Vec<(Vec<&JoinKey>, Vec<usize>)> = Vec::new();
        for (place, (_, view)) in side.views.iter().enumerate() {
            let same = |keys: &[&JoinKey]| {
                keys.len() == view.join_keys.len()
                    && keys.iter().zip(&view.join_keys).all(|(a, b)| {
                        (&a.entity_column, &a.source_column, a.value_type)
                            == (&b.entity_column, &b.source_column, b.value_type)
                    })
            };
            match groups.iter_mut().find(|(keys, _)| same(keys)) {
                Some((_, views)) => views.push(place),
                None => groups.push((view.join_keys.iter().collect(), vec![place])),
            }
        }
        let mut probes = Vec::with_capacity(groups.len());
        for (keys, places) in groups {
            let timeline = self.timeline(&keys)?;
            let views: Vec<_> = places.iter().map(|&place| &side.views[place]).collect();
            let probe = Probe::new(side, &keys, &views, timeline, self)?;
            for (view_index, view) in views {
                let outputs = probe.outputs(view, &side.schema)?;
                let ttl = view.ttl.map(|ttl| self.scale.length(ttl));
                self.answers[*view_index] = Some(Answer {
                    side: index,
                    probe: probes.len(),
                    ttl,
                    outputs,
                });
            }
            probes.push(probe);
        }
        let bounds = bounds(&probes, &side.schema);
        self.sides.push(probes);
        Ok(bounds)
    }

    fn timeline(&mut self, keys: &[&JoinKey]) -> Result<Arc<Timeline>> {
        let name: Vec<_> = keys
            .iter()
            .map(|key| (key.entity_column.clone(), key.value_type))
            .collect();
        if let Some(timeline) = self.timelines.get(&name) {
            return Ok(Arc::clone(timeline));
        }
        let timeline = Arc::new(self.entities.timeline(&name, self.scale)?);
        self._held
            .try_grow(timeline.memory())
            .map_err(|error| out_of_memory(&error))?;
        self.timelines.insert(name, Arc::clone(&timeline));
        Ok(timeline)
    }

    /// Runs the scans (per side, its partitions in order of the source) and answers the joined rows.
    ///
    /// # Errors
    /// What a scan returns, and `Overloaded` when the winners pass the memory limit.
    pub async fn run(
        mut self,
        scans: Vec<Vec<SendableRecordBatchStream>>,
        parallel: usize,
    ) -> Result<SendableRecordBatchStream> {
        let sides: Vec<Arc<Vec<Probe>>> = std::mem::take(&mut self.sides)
            .into_iter()
            .map(Arc::new)
            .collect();
        let mut waiting = Vec::new();
        for (side, partitions) in sides.iter().zip(scans) {
            for (partition, stream) in (0_u64..).zip(partitions) {
                waiting.push((Arc::clone(side), partition, stream));
            }
        }
        let mut waiting = waiting.into_iter();
        let mut tasks = JoinSet::new();
        loop {
            while tasks.len() < parallel.max(1) {
                let Some((side, partition, stream)) = waiting.next() else {
                    break;
                };
                tasks.spawn(pass(side, partition, stream));
            }
            match tasks.join_next().await {
                Some(done) => done.map_err(task_failed)??,
                None => break,
            }
        }
        let matched = tokio::task::spawn_blocking(move || -> Result<Vec<Vec<Matched>>> {
            let finish = |side: Arc<Vec<Probe>>| {
                let probes =
                    Arc::into_inner(side).ok_or_else(|| Error::internal("a scan outlived its join"))?;
                probes.into_iter().map(Probe::finish).collect()
            };
            sides.into_iter().map(finish).collect()
        });
        let matched = matched.await.map_err(task_failed)??;
        self.output(matched)
    }

    /// The entity rows with the values of their winners, made batch by batch as they are asked for.
    fn output(self, matched: Vec<Vec<Matched>>) -> Result<SendableRecordBatchStream> {
        let answers: Option<Vec<Answer>> = self.answers.into_iter().collect();
        let answers = answers.ok_or_else(|| Error::internal("a view of the join has no source"))?;
        let features = answers
            .iter()
            .flat_map(|answer| answer.outputs.iter().map(|(field, _)| field.clone()));
        let fields: Vec<_> = self
            .entities
            .fields()
            .cloned()
            .chain(features.map(Arc::new))
            .collect();
        let schema = Arc::new(Schema::new_with_metadata(
            fields,
            self.entities.metadata().clone(),
        ));
        let parts = self.entities.parts(OUTPUT_ROWS);
        let (entities, held, output_schema) = (self.entities, self._held, Arc::clone(&schema));
        let batches = futures::stream::iter(parts).map(move |part| {
            let _ = &held;
            let mut columns = entities.columns(&part)?;
            for answer in &answers {
                let matched = &matched[answer.side][answer.probe];
                let places = matched.places(part.first_row, part.rows, answer.ttl);
                for (field, value) in &answer.outputs {
                    columns.push(matched.column(*value, &places, field.data_type())?);
                }
            }
            let options = RecordBatchOptions::new().with_row_count(Some(part.rows));
            Ok(RecordBatch::try_new_with_options(
                Arc::clone(&output_schema),
                columns,
                &options,
            )?)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
    }
}

/// Streams one partition past the probes of its side.
async fn pass(side: Arc<Vec<Probe>>, partition: u64, mut stream: SendableRecordBatchStream) -> Result<()> {
    // 2^40 rows a partition: places of different partitions never meet.
    let mut order = partition << 40;
    while let Some(batch) = stream.next().await {
        let batch = batch?;
        for probe in side.iter() {
            probe.offer(&batch, order)?;
        }
        order += batch.num_rows() as u64;
        // Batches that are ready at once would otherwise never let this thread go.
        tokio::task::consume_budget().await;
    }
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn task_failed(error: tokio::task::JoinError) -> Error {
    Error::internal(format!("a join task ended early: {error}"))
}

/// What none of the probes of a side can use.
fn bounds(probes: &[Probe], schema: &Schema) -> Bounds {
    let spans: Vec<_> = probes
        .iter()
        .filter_map(|probe| Some((probe, probe.timeline.span()?)))
        .collect();
    let reach = spans
        .iter()
        .map(|(probe, span)| Some(span.0.saturating_sub(probe.reach?)));
    let mut bounds = Bounds {
        earliest: reach
            .collect::<Option<Vec<_>>>()
            .and_then(|all| all.into_iter().min()),
        latest: spans.iter().map(|(_, span)| span.1).max(),
        keys: Vec::new(),
        nothing: spans.is_empty(),
    };
    // With several probes a row need only please one; a range over all of them seldom cuts anything.
    if let ([(probe, _)], [(column, _)]) = (spans.as_slice(), probes.first().map_or(&[][..], |p| &p.keys))
        && schema.field(*column).data_type().is_integer()
        && let Some((least, greatest)) = probe.timeline.keys().whole_range()
    {
        bounds
            .keys
            .push((schema.field(*column).name().clone(), least, greatest));
    }
    bounds
}

/// One timeline with the winners of one source.
struct Probe {
    timeline: Arc<Timeline>,
    scale: Scale,
    known_as_of: bool,
    /// Key columns of the scan.
    keys: Vec<(usize, ValueType)>,
    time: usize,
    created: Option<usize>,
    /// Value columns of the scan, each once.
    values: Vec<usize>,
    /// The longest ttl of the views; `None` when one has none.
    reach: Option<i64>,
    shards: Vec<Mutex<(Winners, MemoryReservation)>>,
    /// Slots per shard, as a power of two.
    shard_bits: u32,
}

impl Probe {
    fn new(
        side: &Side,
        keys: &[&JoinKey],
        views: &[&(usize, JoinView)],
        timeline: Arc<Timeline>,
        join: &Join,
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
        let per_shard = timeline.slots().div_ceil(SHARDS).next_power_of_two().max(1 << 10);
        let mut shards = Vec::with_capacity(SHARDS);
        for start in (0..timeline.slots()).step_by(per_shard) {
            let winners = Winners::new(per_shard.min(timeline.slots() - start));
            let held = MemoryConsumer::new("feature rows").register(&join.pool);
            held.try_grow(winners.memory())
                .map_err(|error| out_of_memory(&error))?;
            shards.push(Mutex::new((winners, held)));
        }
        let created = side.created.as_deref().map(column).transpose()?;
        if join.known_as_of && created.is_none() {
            let names: Vec<_> = views.iter().map(|(_, view)| format!("`{}`", view.name)).collect();
            return Err(Error::invalid(format!(
                "the source of {} has no created timestamp column",
                names.join(", ")
            ))
            .hint("filtering by created time needs `created_timestamp_column` on every source"));
        }
        Ok(Self {
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
            shards,
            shard_bits: per_shard.trailing_zeros(),
            timeline,
        })
    }

    /// The output fields of a view and where their values are.
    fn outputs(&self, view: &JoinView, schema: &Schema) -> Result<Vec<(Field, usize)>> {
        let output = |feature: &super::store::JoinFeature| {
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

    /// Offers every row of a batch to the slot it may be the answer of; `order` is the place of its
    /// first row in the source.
    fn offer(&self, batch: &RecordBatch, order: u64) -> Result<()> {
        if self.shards.is_empty() || batch.num_rows() == 0 {
            return Ok(());
        }
        let mut offers = self.candidates(batch)?;
        let columns: Vec<ArrayRef> = self
            .values
            .iter()
            .map(|&value| Arc::clone(batch.column(value)))
            .collect();
        let mut left: Vec<usize> = (0..offers.len())
            .filter(|&shard| !offers[shard].is_empty())
            .collect();
        while !left.is_empty() {
            let before = left.len();
            let mut failed = None;
            left.retain(|&shard| {
                let Ok(mut winners) = self.shards[shard].try_lock() else {
                    return true;
                };
                failed = failed
                    .take()
                    .or(compete(&mut winners, &offers[shard], &columns, order).err());
                false
            });
            if let Some(error) = failed {
                return Err(error);
            }
            // All that are left are taken: wait for one instead of spinning.
            if left.len() == before
                && let Some(shard) = left.pop()
            {
                let mut winners = self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner);
                compete(&mut winners, &std::mem::take(&mut offers[shard]), &columns, order)?;
            }
        }
        Ok(())
    }

    /// The rows of a batch that may be answers, by shard.
    fn candidates(&self, batch: &RecordBatch) -> Result<Vec<Vec<Candidate>>> {
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
        let mut offers = vec![Vec::new(); self.shards.len()];
        let mask = (1_u32 << self.shard_bits) - 1;
        for (row, &key) in (0_u32..).zip(&numbers) {
            if key == NO_KEY || times.is_null(row as usize) {
                continue;
            }
            let time = times.value(row as usize);
            let made = created
                .as_ref()
                .map_or(Some(i64::MIN), |created| at(created, row as usize));
            let known = match (self.known_as_of, made) {
                (false, _) => time,
                (true, Some(made)) => time.max(made),
                (true, None) => continue,
            };
            let Some(slot) = self.timeline.first_at_or_after(key, known) else {
                continue;
            };
            if self
                .reach
                .is_some_and(|reach| self.timeline.time(slot).saturating_sub(reach) > time)
            {
                continue;
            }
            let created = made.unwrap_or(i64::MIN);
            offers[(slot >> self.shard_bits) as usize].push(Candidate {
                slot: slot & mask,
                row,
                time,
                created,
            });
        }
        Ok(offers)
    }

    /// Carries winners forward from slot to slot of each key.
    fn finish(self) -> Result<Matched> {
        let mut shards = Vec::with_capacity(self.shards.len());
        for shard in self.shards {
            let (mut winners, held) = shard.into_inner().unwrap_or_else(PoisonError::into_inner);
            winners.sweep()?;
            held.try_resize(winners.memory())
                .map_err(|error| out_of_memory(&error))?;
            shards.push((winners, held));
        }
        let mask = (1_usize << self.shard_bits) - 1;
        let winner = |slot: u32| {
            shards[slot as usize >> self.shard_bits]
                .0
                .winner(slot as usize & mask)
        };
        let mut picks = vec![NO_SLOT; self.timeline.slots()];
        for slots in self.timeline.by_key() {
            let mut best = None;
            for slot in slots {
                if let Some((rank, _)) = winner(slot)
                    && best.is_none_or(|(greatest, _)| rank > greatest)
                {
                    best = Some((rank, slot));
                }
                picks[slot as usize] = best.map_or(NO_SLOT, |(_, slot)| slot);
            }
        }
        Ok(Matched {
            timeline: self.timeline,
            picks,
            shards,
            shard_bits: self.shard_bits,
        })
    }
}

/// A query that cannot be held in memory.
pub(super) fn out_of_memory(error: &DataFusionError) -> Error {
    Error::new(
        Kind::Overloaded,
        format!(
            "the query needs more memory than it may use: {}",
            error.strip_backtrace()
        ),
    )
    .hint("raise `memory_limit` in the `thali` section, or send fewer entity rows at once")
}

fn at(array: &Int64Array, row: usize) -> Option<i64> {
    array.is_valid(row).then(|| array.value(row))
}

fn compete(
    shard: &mut (Winners, MemoryReservation),
    candidates: &[Candidate],
    columns: &[ArrayRef],
    order: u64,
) -> Result<()> {
    shard.0.offer(candidates, columns, order)?;
    shard
        .1
        .try_resize(shard.0.memory())
        .map_err(|error| out_of_memory(&error))
}

fn index_of(schema: &Schema, name: &str) -> Result<usize> {
    schema
        .index_of(name)
        .map_err(|_| Error::internal(format!("the scan does not deliver column `{name}`")))
}

/// The answer of every slot.
struct Matched {
    timeline: Arc<Timeline>,
    /// Per slot, the slot that holds its answer.
    picks: Vec<u32>,
    shards: Vec<(Winners, MemoryReservation)>,
    shard_bits: u32,
}

impl Matched {
    /// For each of the entity rows, the shard and row of its answer; the shard after the last is null.
    fn places(&self, first_row: usize, rows: usize, ttl: Option<i64>) -> Vec<(usize, usize)> {
        let mask = (1_usize << self.shard_bits) - 1;
        let none = (self.shards.len(), 0);
        let place = |&slot: &u32| {
            if slot == NO_SLOT || self.picks[slot as usize] == NO_SLOT {
                return none;
            }
            let pick = self.picks[slot as usize] as usize;
            let shard = pick >> self.shard_bits;
            let Some((rank, row)) = self.shards[shard].0.winner(pick & mask) else {
                return none;
            };
            let expired = ttl.is_some_and(|ttl| self.timeline.time(slot).saturating_sub(ttl) > rank.0);
            if expired { none } else { (shard, row) }
        };
        self.timeline.row_slots()[first_row..first_row + rows]
            .iter()
            .map(place)
            .collect()
    }

    /// The values at `places` of one column.
    fn column(&self, value: usize, places: &[(usize, usize)], data_type: &DataType) -> Result<ArrayRef> {
        let null = new_null_array(data_type, 1);
        let parts: Vec<&dyn Array> = self
            .shards
            .iter()
            .map(|(winners, _)| {
                winners
                    .values()
                    .map_or(null.as_ref(), |columns| columns[value].as_ref())
            })
            .chain(std::iter::once(null.as_ref()))
            .collect();
        Ok(interleave(&parts, places)?)
    }
}

#[cfg(test)]
mod tests;
