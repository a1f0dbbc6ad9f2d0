//! On-demand views on joined batches, and the choice and order of the answer's columns.

use std::sync::Arc;

use arrow::{
    array::ArrayRef,
    compute::cast,
    datatypes::{Field, Schema, SchemaRef},
    record_batch::{RecordBatch, RecordBatchOptions},
};
use datafusion::{execution::SendableRecordBatchStream, physical_plan::stream::RecordBatchStreamAdapter};
use futures::StreamExt;

use super::resolve::{Plan, Source};
use crate::{
    error::{Error, Result},
    model::value::arrow::arrow_type,
    transform::Transformer,
};

/// Batches computed at the same time.
const AT_ONCE: usize = 2;

/// Adds the computed columns to joined rows and drops those that were inputs only.
pub(super) async fn computed(
    plan: Plan,
    mut joined: SendableRecordBatchStream,
    transformer: Arc<Transformer>,
) -> Result<SendableRecordBatchStream> {
    if plan.on_demand.is_empty() {
        return Ok(joined);
    }
    let answer = Arc::new(Answer::new(plan, joined.schema()));
    // Maps and structs come in the types of their data: the first batch shows them.
    let first = match joined.next().await {
        Some(batch) => Some(answer.batch(&batch?, &transformer).await?),
        None => None,
    };
    let schema = first
        .as_ref()
        .map_or_else(|| answer.declared(), RecordBatch::schema);
    let fields = Arc::clone(&schema);
    let rest = joined.map(move |batch| {
        let (answer, transformer, fields) =
            (Arc::clone(&answer), Arc::clone(&transformer), Arc::clone(&fields));
        async move { Ok(conformed(&answer.batch(&batch?, &transformer).await?, &fields)?) }
    });
    let batches = futures::stream::iter(first.map(Ok)).chain(rest.buffered(AT_ONCE));
    Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
}

struct Answer {
    plan: Plan,
    joined: SchemaRef,
    /// Columns of the joined rows before the first feature.
    entity_columns: usize,
}

impl Answer {
    fn new(plan: Plan, joined: SchemaRef) -> Self {
        let entity_columns = joined.fields().len().saturating_sub(plan.joined_features);
        Self {
            plan,
            joined,
            entity_columns,
        }
    }

    /// The answer's schema by declared types, for answers without rows.
    fn declared(&self) -> SchemaRef {
        let entities = (0..self.entity_columns).map(|place| self.joined.field(place).clone());
        let feature = |output: &super::resolve::Output| match &output.source {
            Source::Joined(column) | Source::Entity(column) => match self.joined.field_with_name(column) {
                Ok(field) => field.clone().with_name(&output.name),
                Err(_) => Field::new(&output.name, arrow::datatypes::DataType::Null, true),
            },
            Source::Computed { view, feature } => {
                let declared = self.plan.on_demand[*view].program.view.features[*feature].value_type;
                Field::new(&output.name, arrow_type(declared), true)
            }
        };
        let fields: Vec<_> = entities.chain(self.plan.outputs.iter().map(feature)).collect();
        Arc::new(Schema::new_with_metadata(fields, self.joined.metadata().clone()))
    }

    async fn batch(&self, joined: &RecordBatch, transformer: &Transformer) -> Result<RecordBatch> {
        let mut computed: Vec<RecordBatch> = Vec::with_capacity(self.plan.on_demand.len());
        for next in &self.plan.on_demand {
            let mut fields = Vec::with_capacity(next.inputs.len());
            let mut columns = Vec::with_capacity(next.inputs.len());
            for (name, source) in &next.inputs {
                let column = values(source, joined, &computed)?;
                fields.push(Field::new(name, column.data_type().clone(), true));
                columns.push(column);
            }
            let inputs = batch(Schema::new(fields), columns, joined.num_rows())?;
            computed.push(transformer.transform(&next.program, &inputs).await?);
        }
        let mut fields: Vec<Field> = Vec::new();
        let mut columns = Vec::new();
        for place in 0..self.entity_columns {
            fields.push(self.joined.field(place).clone());
            columns.push(Arc::clone(joined.column(place)));
        }
        for output in &self.plan.outputs {
            let column = values(&output.source, joined, &computed)?;
            fields.push(Field::new(&output.name, column.data_type().clone(), true));
            columns.push(column);
        }
        let schema = Schema::new_with_metadata(fields, self.joined.metadata().clone());
        batch(schema, columns, joined.num_rows())
    }
}

fn values(source: &Source, joined: &RecordBatch, computed: &[RecordBatch]) -> Result<ArrayRef> {
    let column = match source {
        Source::Joined(name) | Source::Entity(name) => joined.column_by_name(name),
        Source::Computed { view, feature } => computed.get(*view).map(|batch| batch.column(*feature)),
    };
    column
        .cloned()
        .ok_or_else(|| Error::internal(format!("no values for {source:?}")))
}

fn batch(schema: Schema, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(
        Arc::new(schema),
        columns,
        &options,
    )?)
}

/// The batch in the types of the first one.
fn conformed(next: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let column = |(column, field): (&ArrayRef, &Arc<Field>)| Ok(cast(column, field.data_type())?);
    let columns = next
        .columns()
        .iter()
        .zip(schema.fields())
        .map(column)
        .collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(next.num_rows()));
    Ok(RecordBatch::try_new_with_options(
        Arc::clone(schema),
        columns,
        &options,
    )?)
}
