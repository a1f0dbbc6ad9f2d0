//! Native on-demand expressions: SQL scalar expressions, compiled once by DataFusion for inputs of given
//! names and types and evaluated in process. The same text gives the same answer online and in a join.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock},
};

use arrow::{
    array::{ArrayRef, RecordBatch},
    datatypes::{Schema, SchemaRef},
};
use datafusion::{
    common::{DFSchema, config::ConfigOptions, tree_node::TreeNode as _},
    error::DataFusionError,
    logical_expr::{Expr, Volatility},
    physical_expr::PhysicalExpr,
    prelude::{SessionConfig, SessionContext},
};

use crate::{
    error::{Error, Result},
    model::OnDemandFeatureView,
};

/// Holds SQL's functions; nothing is ever registered in it.
static SESSION: LazyLock<SessionContext> = LazyLock::new(session);

/// The expressions of a view over inputs of fixed names and types.
#[derive(Debug)]
pub(super) struct Compiled {
    /// Which of the inputs are used, in the order of `schema`.
    pub(super) used: Vec<usize>,
    /// The inputs that are used.
    pub(super) schema: SchemaRef,
    names: DFSchema,
    outputs: Vec<Output>,
}

/// One feature of the view.
#[derive(Debug)]
struct Output {
    name: String,
    expression: Compilation,
}

#[derive(Debug)]
enum Compilation {
    Done(Arc<dyn PhysicalExpr>),
    /// It asks for the time or for random numbers, which are constants once compiled.
    EachTime(Expr),
}

impl Compiled {
    /// Compiles the expressions of the features a view declares.
    pub(super) fn new(
        view: &OnDemandFeatureView,
        texts: &BTreeMap<String, String>,
        inputs: &Schema,
    ) -> Result<Self> {
        let all = DFSchema::try_from(inputs.clone())?;
        let mut parsed: Vec<(&str, Expr)> = Vec::with_capacity(view.features.len());
        let mut used = BTreeSet::new();
        for feature in &view.features {
            let name = feature.name.as_str();
            let text = texts
                .get(name)
                .ok_or_else(|| Error::invalid(format!("there is no expression for its feature `{name}`")))?;
            let expression = SESSION
                .parse_sql_expr(text, &all)
                .map_err(|error| bad(name, &error))?;
            for column in expression.column_refs() {
                used.insert(inputs.index_of(column.name())?);
            }
            parsed.push((name, expression));
        }
        let used: Vec<usize> = used.into_iter().collect();
        let schema = Arc::new(inputs.project(&used)?);
        let names = DFSchema::try_from(schema.as_ref().clone())?;
        let mut outputs = Vec::with_capacity(parsed.len());
        for (name, expression) in parsed {
            let physical = SESSION
                .create_physical_expr(expression.clone(), &names)
                .map_err(|error| bad(name, &error))?;
            outputs.push(Output {
                name: name.to_owned(),
                expression: if is_immutable(&expression) {
                    Compilation::Done(physical)
                } else {
                    Compilation::EachTime(expression)
                },
            });
        }
        Ok(Self {
            used,
            schema,
            names,
            outputs,
        })
    }

    /// The features' columns in declared order, from a batch of the used inputs.
    pub(super) fn evaluate(&self, inputs: &RecordBatch) -> Result<Vec<ArrayRef>> {
        let evaluate = |output: &Output| {
            let fresh;
            let expression = match &output.expression {
                Compilation::Done(expression) => expression,
                Compilation::EachTime(expression) => {
                    fresh = session().create_physical_expr(expression.clone(), &self.names)?;
                    &fresh
                }
            };
            expression.evaluate(inputs)?.into_array(inputs.num_rows())
        };
        let column = |output: &Output| evaluate(output).map_err(|error| bad(&output.name, &error));
        self.outputs.iter().map(column).collect()
    }
}

fn bad(name: &str, error: &DataFusionError) -> Error {
    Error::invalid(format!(
        "expression of `{name}` cannot be computed: {}",
        error.strip_backtrace()
    ))
    .hint("it may use the view's inputs by name and SQL's scalar functions")
}

fn is_immutable(expression: &Expr) -> bool {
    let varies = |expression: &Expr| {
        Ok(match expression {
            Expr::ScalarFunction(call) => call.func.signature().volatility != Volatility::Immutable,
            _ => false,
        })
    };
    !expression.exists(varies).unwrap_or(true)
}

/// Feature names keep their case, as everywhere in Feast.
fn session() -> SessionContext {
    let mut options = ConfigOptions::default();
    options.sql_parser.enable_ident_normalization = false;
    SessionContext::new_with_config(SessionConfig::from(options))
}

/// Checks that an expression compiles against named, typed inputs, without data.
///
/// # Errors
/// `InvalidArgument` with the reason.
pub fn check(text: &str, schema: &Schema) -> Result<()> {
    let schema = DFSchema::try_from(schema.clone())?;
    SESSION
        .parse_sql_expr(text, &schema)
        .and_then(|expression| SESSION.create_physical_expr(expression, &schema))
        .map(|_| ())
        .map_err(|error| {
            Error::invalid(format!(
                "expression `{text}` does not compile: {}",
                error.strip_backtrace()
            ))
        })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use arrow::array::{Array as _, AsArray as _, Float64Array, Int64Array};

    use super::*;
    use crate::{
        model::{ValueType, on_demand::Transformation},
        transform::tests::{field, view},
    };

    fn inputs() -> RecordBatch {
        let speed: ArrayRef = Arc::new(Float64Array::from(vec![Some(2.0), None]));
        let unused: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        let factor: ArrayRef = Arc::new(Int64Array::from(vec![3, 4]));
        RecordBatch::try_from_iter([("windSpeed", speed), ("unused", unused), ("factor", factor)]).unwrap()
    }

    fn compiled(texts: &[(&str, &str)]) -> Result<Compiled> {
        let texts: BTreeMap<String, String> = texts
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
            .collect();
        let mut view = view(Transformation::Missing);
        view.features = texts.keys().map(|name| field(name, ValueType::Double)).collect();
        Compiled::new(&view, &texts, &inputs().schema())
    }

    #[test]
    fn expressions_see_inputs_by_their_exact_names() {
        let compiled = compiled(&[("x", "windSpeed * factor")]).unwrap();
        assert_eq!(compiled.used, [0, 2]);
        let outputs = compiled.evaluate(&inputs().project(&[0, 2]).unwrap()).unwrap();
        let column = outputs[0].as_any().downcast_ref::<Float64Array>().unwrap();
        assert_eq!(column.value(0), 6.0);
        assert!(column.is_null(1));
    }

    #[test]
    fn an_expression_without_inputs_fills_every_row() {
        let compiled = compiled(&[("x", "1.5")]).unwrap();
        let outputs = compiled.evaluate(&inputs().project(&[]).unwrap()).unwrap();
        assert_eq!(outputs[0].len(), 2);
    }

    #[test]
    fn an_unknown_input_is_named() {
        let error = compiled(&[("x", "nope + 1")]).unwrap_err();
        assert!(error.message().contains("nope"), "{error}");
        let schema = inputs().schema();
        assert!(check("factor +", &schema).is_err());
        assert!(check("factor + 1", &schema).is_ok());
    }

    #[test]
    fn the_time_is_not_that_of_the_compilation() {
        let compiled = compiled(&[("x", "date_part('epoch', now())")]).unwrap();
        let batch = inputs().project(&[]).unwrap();
        let time = || {
            compiled.evaluate(&batch).unwrap()[0]
                .as_primitive::<arrow::datatypes::Float64Type>()
                .value(0)
        };
        let first = time();
        let changed = std::iter::repeat_with(time)
            .take(1_000)
            .any(|later| later > first);
        assert!(changed, "still {first}");
    }
}
