//! On-demand transformations: native expressions in process, Python functions in worker processes or in
//! a remote service. It neither reads stores nor decides which inputs a view gets.

pub mod expressions;
mod program;
mod python;
mod service;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, sync::Arc, time::Instant};

use arrow::{
    array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array},
    compute::cast,
    datatypes::{DataType, Field as ArrowField, Schema},
};
use prost::Message as _;

pub use program::Program;

use self::service::Service;
use crate::{
    config::PythonConfig,
    error::{Error, Result},
    metrics::{Metrics, TransformLabels},
    model::{
        OnDemandFeatureView, ValueType,
        on_demand::Transformation,
        value::{self, Value, arrow::arrow_type},
    },
};

/// Runs on-demand feature views.
pub struct Transformer {
    workers: python::Pool,
    service: Option<Service>,
    metrics: Arc<Metrics>,
}

/// One input column of a view.
pub struct Input<'a> {
    pub name: Cow<'a, str>,
    pub value_type: ValueType,
    pub cells: Cells<'a>,
}

/// The values of an input, one for each row.
pub enum Cells<'a> {
    Values(Cow<'a, [Value]>),
    /// Encoded `feast.types.Value` messages; `None` is null.
    Encoded(Vec<Option<&'a [u8]>>),
    /// Those of an earlier input of the same type, under another name.
    Same(usize),
}

impl Cells<'_> {
    fn array(&self, value_type: ValueType) -> Result<ArrayRef> {
        match self {
            Self::Values(values) => value::arrow::to_array(values.as_ref(), value_type),
            Self::Encoded(cells) => value::arrow::decode_array(cells, value_type),
            Self::Same(_) => Err(Error::internal("an input refers to itself")),
        }
    }

    /// The values, decoded where they are not.
    fn values(&self) -> Result<Cow<'_, [Value]>> {
        Ok(match self {
            Self::Values(values) => Cow::Borrowed(values.as_ref()),
            Self::Encoded(cells) => {
                let decode = |cell: &Option<&[u8]>| match cell {
                    Some(bytes) => Value::decode(*bytes),
                    None => Ok(value::NULL),
                };
                Cow::Owned(cells.iter().map(decode).collect::<std::result::Result<_, _>>()?)
            }
            Self::Same(_) => return Err(Error::internal("an input refers to itself")),
        })
    }
}

/// Which place in the metrics a transformation is counted under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occasion {
    Read,
    Write,
}

/// Who computes a view.
enum Runner<'a> {
    Expressions,
    Workers,
    Service(&'a Service),
}

impl Transformer {
    /// Starts nothing; workers start when first needed.
    pub fn new(python: PythonConfig, metrics: Arc<Metrics>) -> Self {
        Self {
            workers: python::Pool::new(python),
            service: None,
            metrics,
        }
    }

    /// Lets a remote service run the Python functions it can run, by its `host:port`.
    ///
    /// # Errors
    /// `Config` when that is no address.
    pub fn with_service(mut self, endpoint: Option<&str>) -> Result<Self> {
        self.service = endpoint.map(Service::new).transpose()?;
        Ok(self)
    }

    /// Computes the outputs of a program's view from columns of values: for each feature that the view
    /// declares, in order, as many values as there are rows.
    ///
    /// # Errors
    /// `InvalidArgument` when the transformation fails on the data, `Unsupported` when its kind is,
    /// `DeadlineExceeded` when it takes too long, `Unavailable` when no worker can be started.
    pub async fn compute(
        &self,
        program: &Program,
        inputs: &[Input<'_>],
        rows: usize,
        occasion: Occasion,
    ) -> Result<Vec<Vec<Value>>> {
        let view = &program.view;
        let started = Instant::now();
        let outputs = match self.runner(view)? {
            Runner::Expressions => native(program, inputs, rows),
            Runner::Workers => {
                let definition = program.definition()?;
                self.workers.values(definition, inputs, rows).await
            }
            Runner::Service(service) => {
                let places: Vec<usize> = (0..inputs.len()).collect();
                let batch = batch(inputs, &places, Arc::new(schema(inputs)), rows)?;
                let outputs = service.call(view, &batch).await?;
                let declared = declared(view, &outputs, rows)?;
                values_of(view, declared.columns())
            }
        };
        let outputs = outputs.map_err(|error| in_view(view, error))?;
        self.observe(view, occasion, started);
        Ok(outputs)
    }

    /// Computes the outputs of a program's view for every row of a batch, whose columns carry the inputs
    /// by name. The result has one column for each feature that the view declares, in order.
    ///
    /// # Errors
    /// As [`Transformer::compute`].
    pub async fn transform(&self, program: &Program, inputs: &RecordBatch) -> Result<RecordBatch> {
        let view = &program.view;
        let outputs = match self.runner(view)? {
            Runner::Expressions => native_batch(program, inputs),
            Runner::Workers => {
                let definition = program.definition()?;
                self.workers.batch(definition, inputs).await
            }
            Runner::Service(service) => service.call(view, inputs).await,
        };
        let outputs = outputs.map_err(|error| in_view(view, error))?;
        declared(view, &outputs, inputs.num_rows())
    }

    fn runner(&self, view: &OnDemandFeatureView) -> Result<Runner<'_>> {
        match &view.transformation {
            Transformation::Expressions(_) => Ok(Runner::Expressions),
            Transformation::Python { pandas, .. } => match &self.service {
                // Feast's own service refuses functions that are not over data frames.
                Some(service) if *pandas || !self.workers.is_enabled() => Ok(Runner::Service(service)),
                _ => Ok(Runner::Workers),
            },
            Transformation::Substrait(_) => Err(unsupported(view, "Substrait plans are not run by thali")
                .hint("give the view as `expressions`, or with `mode=\"python\"` or `mode=\"pandas\"`")),
            Transformation::Missing => Err(unsupported(view, "it has no transformation that is known")),
        }
    }

    /// As in Feast, only views that ask for it are timed.
    fn observe(&self, view: &OnDemandFeatureView, occasion: Occasion, started: Instant) {
        if !view.track_metrics {
            return;
        }
        let labels = TransformLabels {
            odfv_name: view.name.clone(),
            mode: match &view.transformation {
                Transformation::Python { pandas: true, .. } => "pandas",
                Transformation::Python { .. } => "python",
                _ => "sql",
            },
        };
        let family = match occasion {
            Occasion::Read => &self.metrics.transformation,
            Occasion::Write => &self.metrics.write_transformation,
        };
        family
            .get_or_create(&labels)
            .observe(started.elapsed().as_secs_f64());
    }
}

fn in_view(view: &OnDemandFeatureView, error: Error) -> Error {
    error.context(format!("on demand feature view `{}`", view.name))
}

fn unsupported(view: &OnDemandFeatureView, why: &str) -> Error {
    Error::unsupported(format!(
        "on demand feature view `{}` cannot be computed: {why}",
        view.name
    ))
}

/// The schema that inputs have as Arrow columns.
fn schema(inputs: &[Input<'_>]) -> Schema {
    let field = |input: &Input<'_>| ArrowField::new(input.name.as_ref(), arrow_type(input.value_type), true);
    Schema::new(inputs.iter().map(field).collect::<Vec<_>>())
}

/// Some of the inputs as a batch.
fn batch(inputs: &[Input<'_>], places: &[usize], schema: Arc<Schema>, rows: usize) -> Result<RecordBatch> {
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(places.len());
    // An input under two names is converted once.
    let mut made: Vec<usize> = Vec::with_capacity(places.len());
    for &place in places {
        let input = &inputs[place];
        let place = match input.cells {
            Cells::Same(other) => other,
            _ => place,
        };
        let column = match made.iter().position(|known| *known == place) {
            Some(known) => Arc::clone(&columns[known]),
            None => inputs[place]
                .cells
                .array(input.value_type)
                .map_err(|error| error.context(format!("input `{}`", input.name)))?,
        };
        made.push(place);
        columns.push(column);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
}

fn native(program: &Program, inputs: &[Input<'_>], rows: usize) -> Result<Vec<Vec<Value>>> {
    let compiled = program.compiled(|| schema(inputs))?;
    let batch = batch(inputs, &compiled.used, Arc::clone(&compiled.schema), rows)?;
    let columns = compiled.evaluate(&batch)?;
    let view = &program.view;
    let columns: Vec<ArrayRef> = view
        .features
        .iter()
        .zip(&columns)
        .map(|(feature, column)| typed(view, &feature.name, column, feature.value_type))
        .collect::<Result<_>>()?;
    values_of(view, &columns)
}

fn native_batch(program: &Program, inputs: &RecordBatch) -> Result<Outputs> {
    let compiled = program.compiled(|| inputs.schema().as_ref().clone())?;
    let used = inputs.project(&compiled.used)?;
    let features = program.view.features.iter();
    let columns = compiled.evaluate(&used)?;
    Ok(features
        .zip(columns)
        .map(|(feature, column)| (feature.name.clone(), column))
        .collect())
}

/// The declared features' columns as values.
fn values_of(view: &OnDemandFeatureView, columns: &[ArrayRef]) -> Result<Vec<Vec<Value>>> {
    view.features
        .iter()
        .zip(columns)
        .map(|(feature, column)| value::arrow::from_array(column, feature.value_type))
        .collect()
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
        let column = typed(view, &feature.name, column, feature.value_type)?;
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

fn typed(
    view: &OnDemandFeatureView,
    name: &str,
    column: &ArrayRef,
    value_type: ValueType,
) -> Result<ArrayRef> {
    let wanted = arrow_type(value_type);
    if column.data_type() == &wanted {
        return Ok(Arc::clone(column));
    }
    if column.data_type() == &DataType::Null {
        return Ok(new_null_array(&wanted, column.len()));
    }
    if is_open(value_type) {
        // Their inner types are the data's own; the value codec reads them as they are.
        return Ok(Arc::clone(column));
    }
    cast(column, &wanted).map_err(|error| {
        Error::from(error).context(format!(
            "feature `{name}` of on demand feature view `{}`",
            view.name
        ))
    })
}

/// Whether the type does not say what its values hold.
fn is_open(value_type: ValueType) -> bool {
    matches!(
        value_type,
        ValueType::Map
            | ValueType::Struct
            | ValueType::ScalarMap
            | ValueType::MapList
            | ValueType::StructList
            | ValueType::ValueList
            | ValueType::ValueSet
    )
}
