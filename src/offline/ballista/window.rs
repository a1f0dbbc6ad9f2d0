//! The newest row of each key of a window, found by executors.
//!
//! A task reads a range of the window's times and sends on the rows that are the newest of their key among
//! those it holds at once ([`read`]): most of them, usually, stay where they were read. What is sent on is
//! spread by key, so that all rows of a key meet in one place, where [`Newest`] sorts them, on disk if need be,
//! and keeps the first of each.
//!
//! On the way rows carry what they are compared by, behind their own columns ([`marked`]): keys in a form that
//! is equal when the keys are, event time, created time and place in the source. Rows of equal event times are
//! of one task, so places need only be right within it.

use std::{fmt, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray as _, BooleanArray, Int64Array, UInt32Array, UInt64Array},
    compute::{SortOptions, and, concat_batches, filter_record_batch, is_not_null, take_record_batch},
    datatypes::{Field, Int64Type, Schema, SchemaRef, UInt64Type},
    record_batch::RecordBatch,
    row::{OwnedRow, RowConverter, SortField},
};
use datafusion::{
    common::{Result as DataFusionResult, tree_node::TreeNodeRecursion},
    execution::{SendableRecordBatchStream, TaskContext},
    physical_expr::{
        EquivalenceProperties, LexOrdering, PhysicalExpr, PhysicalSortExpr, expressions::Column,
    },
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
        execution_plan::{Boundedness, EmissionType},
        repartition::RepartitionExec,
        sorts::sort::SortExec,
        stream::{RecordBatchReceiverStreamBuilder, RecordBatchStreamAdapter},
    },
};
use futures::StreamExt as _;

use super::failure;
use crate::{
    error::{Error, Result},
    offline::{
        asof::{
            keys::{KeyColumn, KeyTable, comparable},
            times::{Scale, moments},
        },
        store::{OfflineStore, Pull, bytes_of},
    },
};

/// Bytes of rows that a task compares with each other before they are sent on, shared by what is read side by
/// side, which each have at least the lesser.
const HELD: (usize, usize) = (64 << 20, 1 << 20);
/// Rows of a batch that is sent on.
const ROWS: usize = 1 << 14;
/// Columns behind those of the keys: event time, created time, place.
const ORDER: usize = 3;

/// Of how many columns the marks of keys are; rows without keys are all of one.
pub(super) fn key_columns(join_keys: &[String]) -> usize {
    join_keys.len().max(1)
}

/// The columns of a pull's rows on their way.
pub(super) fn marked_schema(rows: &SchemaRef, pull: &Pull, scale: Scale) -> Result<SchemaRef> {
    Ok(marked(&RecordBatch::new_empty(Arc::clone(rows)), pull, scale, 0)?.schema())
}

/// The scale that loses nothing of the times of a pull's rows.
pub(super) fn finest(pull: &Pull, rows: &SchemaRef) -> Scale {
    let times = [
        &pull.source.timestamp_field,
        &pull.source.created_timestamp_column,
    ];
    let fields = times
        .into_iter()
        .filter_map(|time| rows.field_with_name(time).ok());
    Scale::finest(fields.map(|field| field.data_type()))
}

/// Rows with what they are compared by; those with a null in their key belong to nobody and are left out.
fn marked(rows: &RecordBatch, pull: &Pull, scale: Scale, place: u64) -> Result<RecordBatch> {
    let column = |name: &str| {
        let found = rows.column_by_name(name);
        found.ok_or_else(|| Error::internal(format!("a window has no column `{name}`")))
    };
    let key = |name: &String| -> Result<ArrayRef> {
        let column = column(name)?;
        Ok(
            match KeyColumn::strict(column, comparable(column.data_type()), name)? {
                KeyColumn::Whole(numbers) => Arc::new(numbers),
                KeyColumn::Bytes(bytes) => Arc::new(bytes),
            },
        )
    };
    let mut marks: Vec<ArrayRef> = pull.join_keys.iter().map(key).collect::<Result<_>>()?;
    let mut theirs: Option<BooleanArray> = None;
    for key in marks.iter().filter(|key| key.null_count() > 0) {
        let known = is_not_null(key)?;
        theirs = Some(theirs.map_or_else(|| Ok(known.clone()), |before| and(&before, &known))?);
    }
    let count = rows.num_rows();
    if marks.is_empty() {
        marks.push(Arc::new(Int64Array::from(vec![0; count])));
    }
    let (time, created) = (
        &pull.source.timestamp_field,
        &pull.source.created_timestamp_column,
    );
    marks.push(Arc::new(moments(column(time)?, scale, time)?));
    marks.push(Arc::new(match created.is_empty() {
        true => Int64Array::new_null(count),
        false => moments(column(created)?, scale, created)?,
    }));
    marks.push(Arc::new(UInt64Array::from_iter_values((place..).take(count))));
    let fields = marks.iter().enumerate().map(|(number, mark)| {
        let field = Field::new(format!("__mark_{number}"), mark.data_type().clone(), true);
        Arc::new(field)
    });
    let schema = Schema::new(
        rows.schema_ref()
            .fields()
            .iter()
            .cloned()
            .chain(fields)
            .collect::<Vec<_>>(),
    );
    let columns = rows.columns().iter().cloned().chain(marks.clone()).collect();
    let rows = RecordBatch::try_new(Arc::new(schema), columns)?;
    Ok(match theirs {
        Some(theirs) => filter_record_batch(&rows, &theirs)?,
        None => rows,
    })
}

/// The rows of a task, with marks; not all of those that are not the newest of their key.
pub(super) async fn read(
    store: &dyn OfflineStore,
    pull: Pull,
    scale: Scale,
    expected: &SchemaRef,
) -> Result<SendableRecordBatchStream> {
    let keys = key_columns(&pull.join_keys);
    let pull = Arc::new(pull);
    let parts = store.pull_parts(Pull::clone(&pull)).await?.streams;
    let schema = match parts.first() {
        Some(rows) => marked_schema(&rows.schema(), &pull, scale)?,
        None => Arc::clone(expected),
    };
    let limit = (HELD.0 / parts.len().max(1)).max(HELD.1);
    let mut reading = RecordBatchReceiverStreamBuilder::new(schema, parts.len().max(1));
    for (part, mut rows) in (0_u64..).zip(parts) {
        let (pull, sender) = (Arc::clone(&pull), reading.tx());
        reading.spawn(async move {
            let (mut held, mut bytes, mut place) = (Vec::new(), 0, part << 40);
            loop {
                let batch = rows.next().await.transpose()?;
                let ended = batch.is_none();
                if let Some(batch) = batch {
                    let rows = marked(&batch, &pull, scale, place)?;
                    place += batch.num_rows() as u64;
                    bytes += bytes_of(&rows);
                    held.push(rows);
                }
                if held.is_empty() || !(ended || bytes > limit) {
                    if ended {
                        return Ok(());
                    }
                    continue;
                }
                let newest = newest_of(&held, keys)?;
                bytes = bytes_of(&newest);
                // Where most rows are older ones, there is room for more to compare.
                if !ended && bytes < limit / 2 {
                    held = vec![newest];
                    continue;
                }
                for first in (0..newest.num_rows()).step_by(ROWS) {
                    let batch = newest.slice(first, ROWS.min(newest.num_rows() - first));
                    if sender.send(Ok(batch)).await.is_err() {
                        return Ok(());
                    }
                }
                (held, bytes) = (Vec::new(), 0);
            }
        });
    }
    Ok(reading.build())
}

/// The newest row of each key among marked rows, of which there are some.
fn newest_of(rows: &[RecordBatch], keys: usize) -> Result<RecordBatch> {
    let schema = rows.first().map(RecordBatch::schema);
    let schema = schema.ok_or_else(|| Error::internal("there are no rows to compare"))?;
    let all = concat_batches(&schema, rows)?;
    let (keys, order) = marks(&all, keys)?;
    let key = |column: &ArrayRef| match column.as_primitive_opt::<Int64Type>() {
        Some(numbers) => KeyColumn::Whole(numbers.clone()),
        None => KeyColumn::Bytes(column.as_binary::<i32>().clone()),
    };
    let keys: Vec<_> = keys.iter().map(key).collect();
    let (mut table, mut numbers) = (KeyTable::new(&keys), Vec::new());
    table.insert(&keys, all.num_rows(), &mut numbers);
    let events = order[0].as_primitive::<Int64Type>();
    let created = order[1].as_primitive::<Int64Type>();
    let places = order[2].as_primitive::<UInt64Type>();
    let rank = |row: u32| {
        let row = row as usize;
        let created = created.is_valid(row).then(|| created.value(row));
        (events.value(row), created, places.value(row))
    };
    let mut newest: Vec<Option<u32>> = vec![None; table.count()];
    for (row, number) in (0_u32..).zip(&numbers) {
        if let Some(best) = newest.get_mut(*number as usize)
            && best.is_none_or(|best| rank(best) < rank(row))
        {
            *best = Some(row);
        }
    }
    let newest: UInt32Array = newest.into_iter().flatten().collect();
    Ok(take_record_batch(&all, &newest)?)
}

/// The marks of the keys and those of the order.
fn marks(rows: &RecordBatch, keys: usize) -> Result<(&[ArrayRef], &[ArrayRef])> {
    let columns = rows.columns();
    let own = columns.len().checked_sub(keys + ORDER);
    let marks = own.and_then(|own| columns.get(own..));
    let marks = marks.ok_or_else(|| Error::internal("rows of a window came without marks"))?;
    Ok(marks.split_at(keys))
}

/// Of marked rows, partition by partition, the newest of each key, in the order of their keys and without
/// their marks. All rows of a key must be of one partition.
pub(super) struct Newest {
    input: Arc<dyn ExecutionPlan>,
    keys: usize,
    properties: Arc<PlanProperties>,
}

impl Newest {
    /// Over the tasks of a window, in that many partitions.
    pub(super) fn spread(tasks: Arc<dyn ExecutionPlan>, keys: usize, partitions: usize) -> Result<Self> {
        let schema = tasks.schema();
        let own = own_columns(&schema, keys)?;
        let by = (own..own + keys).map(|place| column(&schema, place)).collect();
        let spread = RepartitionExec::try_new(tasks, Partitioning::Hash(by, partitions))?;
        Self::new(Arc::new(spread), keys)
    }

    pub(super) fn new(input: Arc<dyn ExecutionPlan>, keys: usize) -> Result<Self> {
        let schema = input.schema();
        let own = own_columns(&schema, keys)?;
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::new(schema.project(&(0..own).collect::<Vec<_>>())?)),
            Partitioning::UnknownPartitioning(input.properties().partitioning.partition_count()),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Ok(Self {
            input,
            keys,
            properties: Arc::new(properties),
        })
    }

    pub(super) fn keys(&self) -> usize {
        self.keys
    }
}

fn own_columns(schema: &Schema, keys: usize) -> Result<usize> {
    let own = schema.fields().len().checked_sub(keys + ORDER);
    own.ok_or_else(|| Error::internal("rows of a window have no marks"))
}

fn column(schema: &Schema, place: usize) -> Arc<dyn PhysicalExpr> {
    Arc::new(Column::new(schema.field(place).name(), place))
}

/// By key, the newest first.
fn order(schema: &Schema, keys: usize) -> Result<LexOrdering> {
    let own = own_columns(schema, keys)?;
    let by = (own..schema.fields().len()).map(|place| {
        let options = SortOptions {
            descending: place >= own + keys,
            nulls_first: false,
        };
        PhysicalSortExpr::new(column(schema, place), options)
    });
    LexOrdering::new(by).ok_or_else(|| Error::internal("rows of a window have no marks"))
}

impl fmt::Debug for Newest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Newest")
    }
}

impl DisplayAs for Newest {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("newest rows")
    }
}

impl ExecutionPlan for Newest {
    fn name(&self) -> &'static str {
        "NewestRows"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let input = children.pop().unwrap_or_else(|| Arc::clone(&self.input));
        Ok(Arc::new(Self::new(input, self.keys)?))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        // The sort is made here, where no optimizer finds it needless.
        let order = order(&self.input.schema(), self.keys)?;
        let sorted = SortExec::new(order, Arc::clone(&self.input)).with_preserve_partitioning(true);
        let rows = sorted.execute(partition, context)?;
        let schema = self.schema();
        let mut firsts = Firsts::new(&self.input.schema(), self.keys)?;
        let rows = rows.map(move |batch| firsts.of(&batch?).map_err(failure::told));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }
}

/// Of rows in order, the first of each key.
struct Firsts {
    own: usize,
    keys: usize,
    comparable: RowConverter,
    last: Option<OwnedRow>,
}

impl Firsts {
    fn new(schema: &Schema, keys: usize) -> Result<Self> {
        let own = own_columns(schema, keys)?;
        let fields = schema.fields().iter().skip(own).take(keys);
        let fields = fields.map(|field| SortField::new(field.data_type().clone()));
        Ok(Self {
            own,
            keys,
            comparable: RowConverter::new(fields.collect())?,
            last: None,
        })
    }

    /// Those of a batch, without marks.
    fn of(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let keys = self.comparable.convert_columns(marks(batch, self.keys)?.0)?;
        let first: BooleanArray = (0..keys.num_rows())
            .map(|row| {
                let same = match row.checked_sub(1) {
                    Some(before) => keys.row(before) == keys.row(row),
                    None => self.last.as_ref().is_some_and(|last| last.row() == keys.row(row)),
                };
                Some(!same)
            })
            .collect();
        // A batch without rows ends no key.
        if let Some(row) = keys.num_rows().checked_sub(1) {
            self.last = Some(keys.row(row).owned());
        }
        let own: Vec<usize> = (0..self.own).collect();
        Ok(filter_record_batch(&batch.project(&own)?, &first)?)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
