//! [`Pass`]: the join of a run of entity rows with all sources, and [`Joined`], what comes of it.
//!
//! Sources are read in their order; a few may be under way at the same time, so that no core waits for the
//! end of one. What is joined of a source stays in memory, or is spilled when it is more than its share.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use arrow::{
    datatypes::{DataType, Field, Schema, SchemaRef},
    record_batch::{RecordBatch, RecordBatchOptions},
};
use datafusion::{
    error::DataFusionError,
    execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation},
};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use tokio::{sync::Semaphore, task::JoinSet};

use super::{
    Bounds, Join, Part, Side, Sources,
    entities::{self, Entities},
    matched::Matched,
    out_of_memory,
    probe::{Contest, Probe},
    spill::Spill,
    task_failed,
    timeline::Timeline,
    winners,
};
use crate::{
    error::{Error, Result},
    model::ValueType,
    offline::store::{JoinKey, JoinView},
};

/// The most rows of a result batch, and about how many values it has.
const OUTPUT_ROWS: usize = 1 << 14;
const OUTPUT_VALUES: usize = 1 << 19;
/// Which part of the limit joined sources may keep while others are read: one in so many.
const KEPT_SHARE: usize = if cfg!(test) { 64 } else { 4 };
/// What a text is taken to need, with its place.
const TEXT_BYTES: usize = 32;

/// One run of entity rows, ready to be joined.
pub(super) struct Pass {
    entities: Entities,
    schema: SchemaRef,
    sides: Vec<(Vec<Probe>, Bounds)>,
    views: Vec<Answer>,
    pool: Arc<dyn MemoryPool>,
    held: MemoryReservation,
}

/// Where a view's values come from.
#[derive(Clone)]
pub(super) struct Answer {
    side: usize,
    pub(super) probe: usize,
    pub(super) ttl: Option<i64>,
    /// Output field and the place among the probe's values.
    pub(super) outputs: Vec<(Field, usize)>,
}

/// What a source may need in memory for each entity row while it is read.
pub(super) fn bytes_a_row(side: &Side) -> usize {
    let mut columns: Vec<(&str, &[JoinKey])> = Vec::new();
    let mut bytes = 0;
    for (_, view) in &side.views {
        for feature in &view.features {
            let column = (feature.source_column.as_str(), view.join_keys.as_slice());
            let same = |(name, keys): &(&str, &[JoinKey])| *name == column.0 && same_keys(keys, column.1);
            if !columns.iter().any(same) {
                columns.push(column);
                let field = side.schema.field_with_name(column.0);
                bytes += field.map_or(TEXT_BYTES, |field| width(field.data_type()));
            }
        }
    }
    // The entity's own slot, its winner, and the values of winners, of losers, and of both swept.
    32 + winners::SLOT_BYTES + 3 * bytes
}

fn width(data_type: &DataType) -> usize {
    data_type.primitive_width().unwrap_or(match data_type {
        DataType::Boolean | DataType::Null => 1,
        DataType::FixedSizeBinary(bytes) => usize::try_from(*bytes).unwrap_or(TEXT_BYTES),
        _ => TEXT_BYTES,
    })
}

fn same_keys(a: &[JoinKey], b: &[JoinKey]) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| {
            (&a.entity_column, &a.source_column, a.value_type)
                == (&b.entity_column, &b.source_column, b.value_type)
        })
}

impl Pass {
    /// Sorts these entity rows into the timelines that the sources are compared with.
    pub(super) fn new(join: &Join, rows: Range<usize>) -> Result<Self> {
        let entities = join.entities.slice(rows);
        let held = MemoryConsumer::new("entity rows' times").register(&join.pool);
        let mut timelines: HashMap<Vec<(String, ValueType)>, Arc<Timeline>> = HashMap::new();
        let mut timeline = |keys: &[JoinKey]| -> Result<Arc<Timeline>> {
            let name: Vec<_> = keys
                .iter()
                .map(|key| (key.entity_column.clone(), key.value_type))
                .collect();
            if let Some(timeline) = timelines.get(&name) {
                return Ok(Arc::clone(timeline));
            }
            let timeline = Arc::new(entities.timeline(&name, join.scale)?);
            held.try_grow(timeline.memory())
                .map_err(|error| out_of_memory(&error))?;
            timelines.insert(name, Arc::clone(&timeline));
            Ok(timeline)
        };
        let count = join.sides.iter().map(|side| side.views.len()).sum();
        let mut views: Vec<Option<Answer>> = vec![None; count];
        let mut sides = Vec::with_capacity(join.sides.len());
        for (index, side) in join.sides.iter().enumerate() {
            let mut groups: Vec<Vec<&(usize, JoinView)>> = Vec::new();
            for view in &side.views {
                let same = |group: &&mut Vec<&(usize, JoinView)>| {
                    group
                        .iter()
                        .any(|(_, other)| same_keys(&other.join_keys, &view.1.join_keys))
                };
                match groups.iter_mut().find(same) {
                    Some(group) => group.push(view),
                    None => groups.push(vec![view]),
                }
            }
            let mut probes = Vec::with_capacity(groups.len());
            for group in groups {
                let keys = group.first().map_or(&[][..], |(_, view)| &view.join_keys);
                let probe = Probe::new(join, side, &group, timeline(keys)?)?;
                for (place, view) in &group {
                    let answer = Answer {
                        side: index,
                        probe: probes.len(),
                        ttl: view.ttl.map(|ttl| join.scale.length(ttl)),
                        outputs: probe.outputs(view, &side.schema)?,
                    };
                    *views
                        .get_mut(*place)
                        .ok_or_else(|| Error::internal("a view of the join has no place"))? = Some(answer);
                }
                probes.push(probe);
            }
            let bounds = bounds(&probes, &side.schema);
            sides.push((probes, bounds));
        }
        let views: Option<Vec<Answer>> = views.into_iter().collect();
        let views = views.ok_or_else(|| Error::internal("a view of the join has no source"))?;
        let features = views
            .iter()
            .flat_map(|view| view.outputs.iter().map(|(field, _)| Arc::new(field.clone())));
        let fields: Vec<_> = entities.fields().cloned().chain(features).collect();
        let schema = Schema::new_with_metadata(fields, entities.metadata().clone());
        Ok(Self {
            entities,
            schema: Arc::new(schema),
            sides,
            views,
            pool: Arc::clone(&join.pool),
            held,
        })
    }

    /// Streams all sources past the entity rows, `parallel` parts and `sides` sources at the same time.
    pub(super) async fn run(
        self,
        sources: &Arc<dyn Sources>,
        parallel: usize,
        sides: usize,
    ) -> Result<Joined> {
        let columns = self.schema.fields().len().max(1);
        let parts = self
            .entities
            .parts((OUTPUT_VALUES / columns).clamp(1 << 6, OUTPUT_ROWS));
        let limit = match self.pool.memory_limit() {
            MemoryLimit::Finite(limit) => limit / KEPT_SHARE,
            _ => usize::MAX,
        };
        let shared = Arc::new(Shared {
            sources: Arc::clone(sources),
            turns: Arc::new(Semaphore::new(parallel.max(1))),
            pool: self.pool,
            parts,
            keep: limit,
            kept: AtomicUsize::new(0),
        });
        let last = self.sides.len().saturating_sub(1);
        let views = &self.views;
        let work = self
            .sides
            .into_iter()
            .enumerate()
            .map(|(index, (probes, bounds))| {
                let answers: Vec<_> = views.iter().filter(|view| view.side == index).cloned().collect();
                let shared = Arc::clone(&shared);
                async move {
                    let matched = shared.read(index, probes, &bounds).await?;
                    shared.put_by(matched, answers, index == last).await
                }
            });
        let sides = stream::iter(work).buffered(sides.max(1)).try_collect().await?;
        let parts = match Arc::try_unwrap(shared) {
            Ok(shared) => shared.parts,
            Err(shared) => shared.parts.clone(),
        };
        Ok(Joined {
            schema: self.schema,
            entities: self.entities,
            parts,
            views: self.views,
            sides,
            _held: self.held,
        })
    }
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

/// What the sources of a pass have in common.
struct Shared {
    sources: Arc<dyn Sources>,
    /// For parts that are read.
    turns: Arc<Semaphore>,
    pool: Arc<dyn MemoryPool>,
    parts: Vec<entities::Part>,
    /// Bytes that joined sources may keep, and keep.
    keep: usize,
    kept: AtomicUsize,
}

impl Shared {
    /// Streams the parts of a source past its probes.
    async fn read(&self, index: usize, probes: Vec<Probe>, bounds: &Bounds) -> Result<Vec<Matched>> {
        let turn = || async {
            let turn = Arc::clone(&self.turns).acquire_owned().await;
            turn.map_err(|_| Error::internal("a join was ended while it ran"))
        };
        // Memory is taken when the source's turn has come, not before.
        let mut first = Some(turn().await?);
        let contests = probes
            .into_iter()
            .map(|probe| Contest::new(probe, &self.pool))
            .collect::<Result<Vec<_>>>()?;
        let contests = Arc::new(contests);
        let parts = if bounds.nothing {
            Vec::new()
        } else {
            self.sources.scan(index, bounds).await?
        };
        let mut tasks = JoinSet::new();
        for part in parts {
            let turn = match first.take() {
                Some(turn) => turn,
                None => turn().await?,
            };
            while let Some(done) = tasks.try_join_next() {
                done.map_err(task_failed)??;
            }
            let contests = Arc::clone(&contests);
            tasks.spawn(async move {
                let _turn = turn;
                stream_past(&contests, part).await
            });
        }
        drop(first);
        while let Some(done) = tasks.join_next().await {
            done.map_err(task_failed)??;
        }
        let contests =
            Arc::into_inner(contests).ok_or_else(|| Error::internal("a scan outlived its join"))?;
        let finish = move || contests.into_iter().map(Contest::finish).collect();
        tokio::task::spawn_blocking(finish).await.map_err(task_failed)?
    }

    /// Keeps what is joined, or spills it.
    async fn put_by(&self, matched: Vec<Matched>, answers: Vec<Answer>, last: bool) -> Result<SideAnswer> {
        let bytes: usize = matched.iter().map(Matched::memory).sum();
        if last || self.kept.load(Ordering::Relaxed).saturating_add(bytes) <= self.keep {
            self.kept.fetch_add(bytes, Ordering::Relaxed);
            return Ok(SideAnswer::Kept(matched));
        }
        let parts = self.parts.clone();
        let write = move || Spill::write(&matched, &answers, &parts);
        let spill = tokio::task::spawn_blocking(write).await.map_err(task_failed)??;
        Ok(SideAnswer::Spilled(spill))
    }
}

/// Streams one part past the probes of its side.
async fn stream_past(contests: &[Contest], part: Part) -> Result<()> {
    let Part { mut place, mut rows } = part;
    let mut entries = contests.iter().map(Contest::enter).collect::<Result<Vec<_>>>()?;
    while let Some(batch) = rows.next().await {
        let batch = batch?;
        for (contest, entry) in contests.iter().zip(&mut entries) {
            contest.offer(entry, &batch, place)?;
        }
        place += batch.num_rows() as u64;
        // Batches that are ready at once would otherwise never let this thread go.
        tokio::task::consume_budget().await;
    }
    contests
        .iter()
        .zip(entries)
        .for_each(|(contest, entry)| contest.leave(entry));
    Ok(())
}

/// What is joined of a source.
enum SideAnswer {
    Kept(Vec<Matched>),
    Spilled(Spill),
}

/// The answer of a run of entity rows, made batch by batch as it is asked for.
pub(super) struct Joined {
    schema: SchemaRef,
    entities: Entities,
    parts: Vec<entities::Part>,
    views: Vec<Answer>,
    sides: Vec<SideAnswer>,
    _held: MemoryReservation,
}

impl Joined {
    pub(super) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// The rows, `parallel` batches being made ahead.
    pub(super) fn batches(
        self: Arc<Self>,
        parallel: usize,
    ) -> impl Stream<Item = Result<RecordBatch, DataFusionError>> + Send {
        let count = self.parts.len();
        let make = move |part: usize| {
            let joined = Arc::clone(&self);
            async move {
                let made = tokio::task::spawn_blocking(move || joined.batch(part)).await;
                made.map_err(task_failed)?.map_err(DataFusionError::from)
            }
        };
        stream::iter(0..count).map(make).buffered(parallel.max(1))
    }

    fn batch(&self, part: usize) -> Result<RecordBatch> {
        let rows = self.parts[part];
        let mut columns = self.entities.columns(&rows)?;
        let mut spilled = HashMap::new();
        for view in &self.views {
            match &self.sides[view.side] {
                SideAnswer::Kept(matched) => columns.extend(matched[view.probe].columns(view, &rows)?),
                SideAnswer::Spilled(spill) => {
                    let mut rest = match spilled.remove(&view.side) {
                        Some(rest) => rest,
                        None => spill.read(part)?.into_iter(),
                    };
                    columns.extend(rest.by_ref().take(view.outputs.len()));
                    spilled.insert(view.side, rest);
                }
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows.rows));
        Ok(RecordBatch::try_new_with_options(
            Arc::clone(&self.schema),
            columns,
            &options,
        )?)
    }
}
