//! The plan of a job: [`Tasks`], whose input has one partition per task and in it one cell, the [`Share`];
//! where the newest rows of a window are wanted, [`Newest`] over it; and [`Codec`], which carries both between
//! processes.
//!
//! Shares are the input, not a part of the operator: the scheduler sends each executor the partitions of its
//! tasks only, and knows how to split an input that is in memory.

use std::{fmt, sync::Arc};

use arrow::{
    array::{Array as _, BinaryArray},
    datatypes::{DataType, Field, Schema, SchemaRef},
    record_batch::RecordBatch,
};
use ballista_core::serde::BallistaPhysicalExtensionCodec;
use datafusion::{
    common::{Result as DataFusionResult, tree_node::TreeNodeRecursion},
    datasource::memory::MemorySourceConfig,
    execution::{SendableRecordBatchStream, TaskContext},
    physical_expr::{EquivalenceProperties, PhysicalExpr},
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
        execution_plan::{Boundedness, EmissionType},
        stream::RecordBatchStreamAdapter,
    },
};
use datafusion_proto::{
    physical_plan::{AsExecutionPlan as _, PhysicalExtensionCodec, PhysicalProtoConverterExtension},
    protobuf::PhysicalPlanNode,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use prost::Message as _;

use super::{
    failure,
    task::{Question, Share},
    window::{self, Newest},
};
use crate::{
    error::{Error, Result},
    offline::store::OfflineStore,
};

/// In front of our operators' bytes, so that they are not taken for one of Ballista's.
const TASKS: &[u8] = b"thali tasks 1\n";
const NEWEST: &[u8] = b"thali newest rows 1\n";

/// The plan of a job as the scheduler takes it, whose results are in so many partitions: where rows are asked
/// for, as many as there are shares, in their order.
pub(super) fn encoded(question: Question, shares: &[Share], results: usize) -> Result<Vec<u8>> {
    let keys = question.window_keys();
    let tasks = tasks(question, shares)?;
    let plan = match keys {
        Some(keys) => Arc::new(Newest::spread(tasks, keys, results)?),
        None => tasks,
    };
    let node = PhysicalPlanNode::try_from_physical_plan(plan, &Codec::default())?;
    Ok(node.encode_to_vec())
}

fn tasks(question: Question, shares: &[Share]) -> Result<Arc<dyn ExecutionPlan>> {
    let schema = Arc::new(Schema::new(vec![Field::new("share", DataType::Binary, false)]));
    let cell = |share: &Share| {
        let cell = BinaryArray::from_vec(vec![share.encode_to_vec().as_slice()]);
        Ok(vec![RecordBatch::try_new(
            Arc::clone(&schema),
            vec![Arc::new(cell)],
        )?])
    };
    let partitions = shares.iter().map(cell).collect::<Result<Vec<_>>>()?;
    let input = MemorySourceConfig::try_new_exec(&partitions, Arc::clone(&schema), None)?;
    Ok(Arc::new(Tasks::new(question, input, None)?))
}

/// Answers each partition of its input, where there is a store to do it with.
pub(super) struct Tasks {
    question: Arc<Question>,
    input: Arc<dyn ExecutionPlan>,
    store: Option<Arc<dyn OfflineStore>>,
    properties: Arc<PlanProperties>,
}

impl Tasks {
    fn new(
        question: impl Into<Arc<Question>>,
        input: Arc<dyn ExecutionPlan>,
        store: Option<Arc<dyn OfflineStore>>,
    ) -> Result<Self> {
        let question = question.into();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(question.answer()?),
            Partitioning::UnknownPartitioning(input.properties().partitioning.partition_count()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Self {
            question,
            input,
            store,
            properties: Arc::new(properties),
        })
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tasks")
    }
}

impl DisplayAs for Tasks {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("tasks")
    }
}

impl ExecutionPlan for Tasks {
    fn name(&self) -> &'static str {
        "Tasks"
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
        let tasks = Self::new(Arc::clone(&self.question), input, self.store.clone())?;
        Ok(Arc::new(tasks))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        let store = self.store.clone();
        let store = store.ok_or_else(|| Error::internal("this process is no executor of thali's tasks"))?;
        let cells = self.input.execute(partition, context)?;
        let (question, schema) = (Arc::clone(&self.question), self.schema());
        let expected = Arc::clone(&schema);
        let answer = async move {
            let share = share(cells).await?;
            let rows = match question.pull(&share)? {
                Some((pull, scale)) => window::read(&*store, pull, scale, &expected).await?,
                None => store.historical(question.query(share)?).await?,
            };
            same_columns(&expected, &rows.schema())?;
            Ok::<_, Error>(rows.map_err(Error::from))
        };
        let rows = stream::once(answer).try_flatten().map_err(failure::told);
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }
}

/// The one cell of a partition.
async fn share(mut cells: SendableRecordBatchStream) -> Result<Share> {
    let missing = || Error::internal("a task came without its rows");
    let batch = cells.next().await.ok_or_else(missing)??;
    let column = batch.columns().first();
    let cell = column.and_then(|column| column.as_any().downcast_ref::<BinaryArray>());
    let cell = cell.filter(|cell| !cell.is_empty()).ok_or_else(missing)?;
    Ok(Share::decode(cell.value(0))?)
}

/// Sources that changed meanwhile, or that an executor sees differently, must not become wrong columns.
fn same_columns(expected: &SchemaRef, found: &SchemaRef) -> Result<()> {
    if expected.fields() == found.fields() {
        return Ok(());
    }
    Err(
        Error::unavailable("an executor finds other columns in the sources than the process that asks").hint(
            "all executors and their clients must see the same sources and the same `feature_store.yaml`",
        ),
    )
}

/// Ballista's codec, and ours for [`Tasks`]. Executors have a store; scheduler and clients have none.
#[derive(Default, Clone)]
pub struct Codec {
    ballista: Arc<BallistaPhysicalExtensionCodec>,
    store: Option<Arc<dyn OfflineStore>>,
}

impl Codec {
    /// An executor's.
    pub fn with_store(store: Arc<dyn OfflineStore>) -> Self {
        Self {
            store: Some(store),
            ..Self::default()
        }
    }
}

impl fmt::Debug for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Codec")
    }
}

impl PhysicalExtensionCodec for Codec {
    fn try_decode(
        &self,
        bytes: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        context: &TaskContext,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let input = || {
            let input = inputs.first().cloned();
            input.ok_or_else(|| Error::internal("a plan of thali's has no input"))
        };
        if let Some(question) = bytes.strip_prefix(TASKS) {
            let question = Question::decode(question).map_err(Error::from)?;
            Ok(Arc::new(Tasks::new(question, input()?, self.store.clone())?))
        } else if let Some(keys) = bytes.strip_prefix(NEWEST) {
            let keys = u64::decode(keys).map_err(Error::from)?;
            let keys = usize::try_from(keys).unwrap_or(usize::MAX);
            Ok(Arc::new(Newest::new(input()?, keys)?))
        } else {
            self.ballista.try_decode(bytes, inputs, context, converter)
        }
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        bytes: &mut Vec<u8>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> DataFusionResult<()> {
        let encoded = if let Some(tasks) = node.downcast_ref::<Tasks>() {
            bytes.extend_from_slice(TASKS);
            tasks.question.encode(bytes)
        } else if let Some(newest) = node.downcast_ref::<Newest>() {
            bytes.extend_from_slice(NEWEST);
            (newest.keys() as u64).encode(bytes)
        } else {
            return self.ballista.try_encode(node, bytes, converter);
        };
        encoded.map_err(|error| Error::internal(format!("a plan cannot be encoded: {error}")).into())
    }
}
