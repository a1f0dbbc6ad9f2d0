//! [`in_key_order`]: rows in the order of their entity keys, for stores that keep them in a B-tree, where rows
//! in any other order touch another page each. What is more than [`MEMORY`] waits on disk.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use arrow::{
    array::BinaryArray,
    compute::SortOptions,
    datatypes::{DataType, Field, Schema, SchemaRef},
    record_batch::RecordBatch,
};
use datafusion::{
    error::DataFusionError,
    execution::{
        SendableRecordBatchStream, TaskContext, memory_pool::GreedyMemoryPool, runtime_env::RuntimeEnvBuilder,
    },
    physical_expr::{LexOrdering, PhysicalSortExpr, expressions::Column},
    physical_plan::{
        ExecutionPlan as _,
        coalesce_partitions::CoalescePartitionsExec,
        sorts::sort::SortExec,
        streaming::{PartitionStream, StreamingTableExec},
    },
};

use crate::error::{Error, Result};

/// Bytes of rows that are sorted in memory.
const MEMORY: usize = 32 << 20;

/// The column of keys.
const KEY: &str = "__entity_key";

/// The columns of rows with a column of their keys.
pub(super) fn with_key(schema: &Schema) -> SchemaRef {
    let key = Arc::new(Field::new(KEY, DataType::Binary, false));
    let fields = schema.fields().iter().cloned().chain([key]);
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Rows with a column of their serialized entity keys, of which there is one for each.
///
/// # Errors
/// `Internal` when they are not as many.
pub(super) fn keyed(batch: &RecordBatch, schema: &SchemaRef, keys: BinaryArray) -> Result<RecordBatch> {
    let mut columns = batch.columns().to_vec();
    columns.push(Arc::new(keys));
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}

/// All rows of `streams`, each with the columns of [`with_key`], by their keys.
///
/// # Errors
/// `Internal` when there are no streams.
pub(super) fn in_key_order(streams: Vec<SendableRecordBatchStream>) -> Result<SendableRecordBatchStream> {
    let schema = streams
        .first()
        .map(|stream| stream.schema())
        .ok_or_else(|| Error::internal("there is nothing to sort"))?;
    let key = schema.index_of(KEY)?;
    let order = PhysicalSortExpr::new(Arc::new(Column::new(KEY, key)), SortOptions::default());
    let order = LexOrdering::from([order]);
    let streams = streams
        .into_iter()
        .map(|rows| Arc::new(Once::new(rows)) as Arc<dyn PartitionStream>)
        .collect();
    let rows = StreamingTableExec::try_new(schema, streams, None, [], false, None)?;
    // One sort of all: several, and what merges them, would fight for the memory.
    let rows = CoalescePartitionsExec::new(Arc::new(rows));
    let sorted = SortExec::new(order, Arc::new(rows));
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(GreedyMemoryPool::new(MEMORY)))
        .build_arc()?;
    Ok(sorted.execute(0, Arc::new(TaskContext::default().with_runtime(runtime)))?)
}

/// A stream that can be read once.
struct Once {
    schema: SchemaRef,
    rows: Mutex<Option<SendableRecordBatchStream>>,
}

impl Once {
    fn new(rows: SendableRecordBatchStream) -> Self {
        Self {
            schema: rows.schema(),
            rows: Mutex::new(Some(rows)),
        }
    }
}

impl fmt::Debug for Once {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Once")
    }
}

impl PartitionStream for Once {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner).take();
        rows.unwrap_or_else(|| {
            let again = async { Err(DataFusionError::Internal("rows are read once".to_owned())) };
            Box::pin(datafusion::physical_plan::stream::RecordBatchStreamAdapter::new(
                Arc::clone(&self.schema),
                futures::stream::once(again),
            ))
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use arrow::array::{AsArray as _, StringArray};
    use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
    use futures::TryStreamExt as _;

    use super::*;

    /// More rows than are sorted in memory, from several streams, with their keys as their text.
    #[tokio::test]
    async fn all_rows_come_once_and_in_the_order_of_their_keys() {
        const ROWS: usize = 300_000;
        let plain = Schema::new(vec![Field::new("text", DataType::Utf8, false)]);
        let schema = with_key(&plain);
        let streams = (0..3_u64).map(|part| {
            let (plain, schema) = (Arc::new(plain.clone()), Arc::clone(&schema));
            let batches = (0..100_u64).map({
                let schema = Arc::clone(&schema);
                move |number| {
                    let first = (part * 100 + number) * 1_000;
                    let texts: Vec<String> = (first..first + 1_000)
                        .map(|row| format!("{:0200}", row.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
                        .collect();
                    let keys = BinaryArray::from_iter_values(&texts);
                    let columns: Vec<arrow::array::ArrayRef> = vec![Arc::new(StringArray::from(texts))];
                    let batch = RecordBatch::try_new(Arc::clone(&plain), columns).unwrap();
                    Ok(keyed(&batch, &schema, keys)?)
                }
            });
            Box::pin(RecordBatchStreamAdapter::new(
                schema,
                futures::stream::iter(batches),
            )) as SendableRecordBatchStream
        });
        let mut sorted = in_key_order(streams.collect()).unwrap();
        let (mut last, mut rows) = (String::new(), 0);
        while let Some(batch) = sorted.try_next().await.unwrap() {
            rows += batch.num_rows();
            for (text, key) in batch
                .column(0)
                .as_string::<i32>()
                .iter()
                .zip(batch.column(1).as_binary::<i32>())
            {
                let text = text.unwrap();
                assert_eq!(text.as_bytes(), key.unwrap());
                assert!(last.as_str() <= text);
                text.clone_into(&mut last);
            }
        }
        assert_eq!(rows, ROWS);
    }
}
