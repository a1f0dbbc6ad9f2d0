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
//!    then latest place in the source (`probe`, [`winners`]). The values of the kept rows are copied.
//! 3. When all feature rows have passed, one walk over each key's slots carries the best so far forward,
//!    and a row older than the view's ttl becomes null (`matched`).
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
//! - time `n` lookups of a key (by hash, or whole numbers that lie close together by their distance), `n`
//!   looks at the slots about the last one of the key, or `n · log(m/k)` steps of a search in a short sorted run
//!   where the source is in no order of time, `m · log(m/k)` for sorting, and a copy of `w` for each row that is best when its batch has been seen: at most `n`,
//!   typically `m · ln(n/m)` where the source is in no order of time, and about `m` where it is in
//!   order of time, since it is then read from its end;
//! - memory `m · (16 + 32) + 3 · m · w` for a source that is being read, `m · (12 + w)` for one that has
//!   been, whatever `n` is. Nothing of the feature side is sorted, kept or spilled.
//!
//! Sort-merge needs `n log n` time and, beyond memory, disk for `n · w`; it wins only where the source is
//! already sorted by key and time and the entity side does not fit in memory.
//!
//! # Beyond memory
//! Two things can be too big, and each has its way out:
//! - *Many sources.* What has been joined of one is kept until the answer is made. Beyond a share of the limit
//!   the answer's columns of a source that is done are written to a temporary file, in the order of
//!   the entity rows, and read again as the answer is made: disk and time for `m · w` a source
//!   (`spill`).
//! - *Many entity rows.* Entity rows are independent of each other, so where the winners of one source
//!   do not fit, the entity rows are taken in runs, one after the other, each a whole join: `p` runs need
//!   one `p`-th of the memory and `p` times the reading. How many is estimated before, and doubled
//!   when a run meets the limit all the same. Nothing is written for it, and rows of the first
//!   run are answered before the second is read.
//!
//! The entity rows themselves stay in memory: they came as one message, and leave as the answer.
//!
//! # Working together
//! Each partition of a scan is one task, as many at a time as there are cores, in the order of the
//! sources. The timeline is read without locks; winners are in up to `SHARDS` ranges of slots, each
//! behind its own lock, and a task takes the ranges that are free first. Tasks belong to a `JoinSet`:
//! dropping the future, or an error in one of them, ends all at their next batch.
//!
//! Equal times, equal creation times: the later row of the source wins, files in order of their paths.

pub mod entities;
pub mod keys;
mod matched;
mod pass;
mod probe;
mod spill;
pub mod timeline;
pub mod times;
pub mod winners;

use std::{ops::Range, sync::Arc};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::{
    error::DataFusionError,
    execution::{
        SendableRecordBatchStream,
        memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation},
    },
    physical_plan::stream::RecordBatchStreamAdapter,
};
use futures::{TryStreamExt, stream};

use self::{entities::Entities, pass::Joined, times::Scale};
use super::store::JoinView;
use crate::error::{Error, Kind, Result};

/// Fewer entity rows than this are not split further: the limit is too low for anything.
const LEAST_ROWS: usize = if cfg!(test) { 1 } else { 1 << 7 };

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

/// A part of a scan, in the order of the source.
pub struct Part {
    /// Where its first row stands among all rows of the source. Only the order counts.
    pub place: u64,
    pub rows: SendableRecordBatchStream,
}

/// Where the feature rows come from.
#[async_trait]
pub trait Sources: Send + Sync + 'static {
    /// Scans the side with that place, in parts that are read in this order, some at the same time. Rows
    /// outside of `bounds` may be left out. Asked again, it gives the same rows again.
    async fn scan(&self, side: usize, bounds: &Bounds) -> Result<Vec<Part>>;
}

/// A join to be done.
pub struct Join {
    pub entities: Entities,
    pub sides: Vec<Side>,
    /// A scale that is exact for all sides.
    pub scale: Scale,
    /// Whether only rows that had been created by the entity row's time count.
    pub known_as_of: bool,
    pub pool: Arc<dyn MemoryPool>,
    /// How many parts are read at the same time.
    pub parallel: usize,
}

impl Join {
    /// Runs the scans and answers the joined rows: the entity rows, each once, in their order.
    ///
    /// # Errors
    /// `EntityColumnsMissing` when a view's key is no entity column, `InvalidArgument` when key values
    /// have the wrong type or the source lacks a column, what a scan returns, and `Overloaded` when
    /// even a few of the entity rows pass the memory limit.
    pub async fn run(self, sources: Arc<dyn Sources>) -> Result<SendableRecordBatchStream> {
        let held = MemoryConsumer::new("entity rows").register(&self.pool);
        held.try_grow(self.entities.memory())
            .map_err(|error| out_of_memory(&error))?;
        let rows = self.entities.rows();
        let mut runs = Runs {
            rows_at_once: self.rows_at_once(),
            sides_at_once: self.parallel,
            join: Arc::new(self),
            sources,
            next: 0,
            _held: held,
        };
        let first = runs.run().await?;
        let (schema, parallel) = (first.schema(), runs.join.parallel);
        let state = (runs, Some(first));
        let batches = stream::try_unfold(state, move |(mut runs, first)| async move {
            let joined = match first {
                Some(joined) => joined,
                None if runs.next >= rows => return Ok(None),
                None => runs.run().await?,
            };
            Ok::<_, DataFusionError>(Some((Arc::new(joined).batches(parallel), (runs, None))))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            schema,
            batches.try_flatten(),
        )))
    }

    /// How many entity rows probably fit, by the widest source that is to be read beside what is held.
    fn rows_at_once(&self) -> usize {
        let MemoryLimit::Finite(limit) = self.pool.memory_limit() else {
            return usize::MAX;
        };
        let free = limit.saturating_sub(self.pool.reserved());
        let widest = self.sides.iter().map(pass::bytes_a_row).max().unwrap_or(1);
        (free / 2 / widest).max(LEAST_ROWS)
    }
}

/// The entity rows of a join, some at a time.
struct Runs {
    join: Arc<Join>,
    sources: Arc<dyn Sources>,
    rows_at_once: usize,
    sides_at_once: usize,
    next: usize,
    _held: MemoryReservation,
}

impl Runs {
    /// Joins the next rows; fewer of them when memory does not suffice.
    async fn run(&mut self) -> Result<Joined> {
        loop {
            // Runs of the same length, instead of a short one in the end.
            let left = self.join.entities.rows() - self.next;
            let rows = left.div_ceil(left.div_ceil(self.rows_at_once).max(1));
            match self.attempt(self.next..self.next + rows).await {
                // No source is begun before the one before it is done, and of half the rows.
                Err(error)
                    if error.kind() == Kind::Overloaded && (rows > LEAST_ROWS || self.sides_at_once > 1) =>
                {
                    tracing::debug!(rows, "a join met the memory limit: fewer entity rows at once");
                    self.sides_at_once = 1;
                    self.rows_at_once = (rows / 2).max(LEAST_ROWS);
                }
                outcome => {
                    self.next += rows;
                    return outcome;
                }
            }
        }
    }

    async fn attempt(&self, rows: Range<usize>) -> Result<Joined> {
        let join = Arc::clone(&self.join);
        // Sorting a million entity rows takes a while that other tasks should not have to wait.
        let prepared = tokio::task::spawn_blocking(move || pass::Pass::new(&join, rows));
        let pass = prepared.await.map_err(task_failed)??;
        pass.run(&self.sources, self.join.parallel, self.sides_at_once)
            .await
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn task_failed(error: tokio::task::JoinError) -> Error {
    Error::internal(format!("a join task ended early: {error}"))
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

#[cfg(test)]
mod tests;
