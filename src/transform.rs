//! On-demand transformations over Arrow batches: native expressions in process, Python functions in
//! worker processes. It neither reads stores nor decides which inputs a view gets.

pub mod expressions;
mod python;

use std::{sync::Arc, time::Instant};

use arrow::{
    array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array},
    compute::cast,
    datatypes::{DataType, Field as ArrowField, Schema},
};

use crate::{
    config::PythonConfig,
    error::{Error, Result},
    metrics::{Metrics, TransformLabels},
    model::{OnDemandFeatureView, on_demand::Transformation, value::arrow::arrow_type},
};

/// Runs on-demand feature views.
pub struct Transformer {
    workers: python::Pool,
    metrics: Arc<Metrics>,
}

impl Transformer {
    /// Starts nothing; workers start when first needed.
    pub fn new(python: PythonConfig, metrics: Arc<Metrics>) -> Self {
        Self {
            workers: python::Pool::new(python),
            metrics,
        }
    }

    /// Computes the outputs of `view` for every row of `inputs`, whose columns carry the inputs under
    /// `feature` and `view__feature`, request columns and join keys under their own names. The result
    /// has one column per declared feature of the view, in declared order and types, and as many rows.
    ///
    /// # Errors
    /// `InvalidArgument` when the transformation fails on the data, `Unsupported` when its kind is,
    /// `Unavailable` when no Python worker can be started.
    pub async fn transform(&self, view: &OnDemandFeatureView, inputs: &RecordBatch) -> Result<RecordBatch> {
        let started = Instant::now();
        let (mode, outputs) = match &view.transformation {
            Transformation::Expressions(texts) => ("sql", expressions::evaluate(texts, inputs)),
            Transformation::Python { pandas, .. } => {
                let mode = if *pandas { "pandas" } else { "python" };
                (mode, self.workers.call(view, inputs).await)
            }
            Transformation::Substrait(_) => {
                return Err(unsupported(view, "Substrait plans are not run yet"));
            }
            Transformation::Missing => {
                return Err(unsupported(view, "it has no transformation that is known"));
            }
        };
        let outputs =
            outputs.map_err(|error| error.context(format!("on demand feature view `{}`", view.name)))?;
        let result = declared(view, &outputs, inputs.num_rows())?;
        let labels = TransformLabels {
            odfv_name: view.name.clone(),
            mode,
        };
        self.metrics
            .transformation
            .get_or_create(&labels)
            .observe(started.elapsed().as_secs_f64());
        Ok(result)
    }
}

fn unsupported(view: &OnDemandFeatureView, why: &str) -> Error {
    Error::unsupported(format!(
        "on demand feature view `{}` cannot be computed: {why}",
        view.name
    ))
}

/// Named output columns of a transformation, before they are brought to their declared types.
type Outputs = Vec<(String, ArrayRef)>;

/// The declared features, in order and type. Outputs may carry the view's name as a prefix.
fn declared(view: &OnDemandFeatureView, outputs: &Outputs, rows: usize) -> Result<RecordBatch> {
    let mut fields = Vec::with_capacity(view.features.len());
    let mut columns = Vec::with_capacity(view.features.len());
    for feature in &view.features {
        let full = format!("{}__{}", view.name, feature.name);
        let found = outputs
            .iter()
            .find(|(name, _)| *name == feature.name || *name == full);
        let Some((_, column)) = found else {
            return Err(Error::invalid(format!(
                "on demand feature view `{}` did not compute its feature `{}`",
                view.name, feature.name
            )));
        };
        if column.len() != rows {
            return Err(Error::invalid(format!(
                "on demand feature view `{}` computed {} values of `{}` for {rows} rows",
                view.name,
                column.len(),
                feature.name
            )));
        }
        let wanted = arrow_type(feature.value_type);
        let column = typed(column, &wanted).map_err(|error| {
            error.context(format!(
                "feature `{}` of on demand feature view `{}`",
                feature.name, view.name
            ))
        })?;
        fields.push(ArrowField::new(&feature.name, column.data_type().clone(), true));
        columns.push(column);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(
        Arc::new(Schema::new(fields)),
        columns,
        &options,
    )?)
}

fn typed(column: &ArrayRef, wanted: &DataType) -> Result<ArrayRef> {
    if column.data_type() == wanted {
        return Ok(Arc::clone(column));
    }
    if column.data_type() == &DataType::Null {
        return Ok(new_null_array(wanted, column.len()));
    }
    if matches!(wanted, DataType::Struct(_) | DataType::Map(..)) {
        // Their inner types are the data's own; the value codec reads them as they are.
        return Ok(Arc::clone(column));
    }
    Ok(cast(column, wanted)?)
}
