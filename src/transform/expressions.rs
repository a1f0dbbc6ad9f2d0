//! Native on-demand expressions: SQL scalar expressions, compiled once by DataFusion for inputs of given
//! names and types and evaluated in process. The same text gives the same answer online and in a join.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock},
};

use arrow::{
    array::{ArrayRef, RecordBatch},
    compute::can_cast_types,
    datatypes::{DataType, Schema, SchemaRef},
};
use datafusion::{
    common::{
        DFSchema,
        config::ConfigOptions,
        tree_node::{TreeNode as _, TreeNodeRecursion},
    },
    error::DataFusionError,
    logical_expr::{Expr, Volatility},
    physical_expr::PhysicalExpr,
    prelude::{SessionConfig, SessionContext},
};

use crate::{
    error::{Error, Result},
    model::{Field, OnDemandFeatureView, ValueType, value::arrow::arrow_type},
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
    /// By the view's features.
    outputs: Vec<(String, Arc<dyn PhysicalExpr>)>,
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
            let expression = parse(text, &all).map_err(|error| bad(name, &error))?;
            for column in expression.column_refs() {
                used.insert(inputs.index_of(column.name())?);
            }
            parsed.push((name, expression));
        }
        let used: Vec<usize> = used.into_iter().collect();
        let schema = Arc::new(inputs.project(&used)?);
        let names = DFSchema::try_from(schema.as_ref().clone())?;
        let output = |((name, expression), feature): ((&str, Expr), &Field)| {
            let physical = SESSION
                .create_physical_expr(expression, &names)
                .and_then(|physical| {
                    fits(&physical.data_type(&schema)?, feature.value_type).map(|()| physical)
                });
            Ok((name.to_owned(), physical.map_err(|error| bad(name, &error))?))
        };
        let features = parsed.into_iter().zip(&view.features);
        let outputs = features.map(output).collect::<Result<_>>()?;
        Ok(Self {
            used,
            schema,
            outputs,
        })
    }

    /// The features' columns in declared order, from a batch of the used inputs.
    pub(super) fn evaluate(&self, inputs: &RecordBatch) -> Result<Vec<ArrayRef>> {
        let column = |(name, expression): &(String, Arc<dyn PhysicalExpr>)| {
            expression
                .evaluate(inputs)
                .and_then(|column| column.into_array(inputs.num_rows()))
                .map_err(|error| bad(name, &error))
        };
        self.outputs.iter().map(column).collect()
    }
}

/// Whether what an expression gives can become a feature of that type without becoming null.
fn fits(given: &DataType, declared: ValueType) -> std::result::Result<(), DataFusionError> {
    let wanted = arrow_type(declared);
    let is_text = |data_type: &DataType| {
        matches!(
            data_type,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
        )
    };
    if *given == DataType::Null || can_cast_types(given, &wanted) && (!is_text(given) || is_text(&wanted)) {
        return Ok(());
    }
    Err(DataFusionError::Plan(format!(
        "it gives {given}, but `{declared}` is declared; convert it with CAST"
    )))
}

/// Parses an expression over named inputs.
fn parse(text: &str, inputs: &DFSchema) -> std::result::Result<Expr, DataFusionError> {
    let expression = SESSION.parse_sql_expr(text, inputs)?;
    let mut varies = None;
    expression.apply(|part| {
        if let Expr::ScalarFunction(call) = part
            && call.func.signature().volatility != Volatility::Immutable
        {
            varies = Some(call.func.name().to_owned());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    match varies {
        None => Ok(expression),
        Some(function) => Err(DataFusionError::Plan(format!(
            "`{function}` gives other values in training than in serving; send such a value with the request"
        ))),
    }
}

fn bad(name: &str, error: &DataFusionError) -> Error {
    Error::invalid(format!(
        "expression of `{name}` cannot be computed: {}",
        error.strip_backtrace()
    ))
    .hint("it may use the view's inputs by name and SQL's scalar functions")
}

/// Feature names keep their case, as everywhere in Feast.
fn session() -> SessionContext {
    let mut options = ConfigOptions::default();
    options.sql_parser.enable_ident_normalization = false;
    SessionContext::new_with_config(SessionConfig::from(options))
}

/// Checks that an expression compiles against named, typed inputs, and that it gives what is declared.
///
/// # Errors
/// `InvalidArgument` with the reason.
pub fn check(text: &str, inputs: &Schema, declared: Option<ValueType>) -> Result<()> {
    let schema = DFSchema::try_from(inputs.clone())?;
    parse(text, &schema)
        .and_then(|expression| SESSION.create_physical_expr(expression, &schema))
        .and_then(|physical| match declared {
            Some(declared) => fits(&physical.data_type(inputs)?, declared),
            None => Ok(()),
        })
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
    use arrow::array::{Array as _, Float64Array, Int64Array};

    use super::*;
    use crate::{
        model::on_demand::Transformation,
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
        assert!(check("factor +", &schema, None).is_err());
        assert!(check("factor + 1", &schema, Some(ValueType::Int32)).is_ok());
        let text = "concat('a', factor)";
        assert!(check(text, &schema, Some(ValueType::String)).is_ok());
        let error = check(text, &schema, Some(ValueType::Double)).unwrap_err();
        assert!(error.message().contains("`Float64` is declared"), "{error}");
    }

    #[test]
    fn what_differs_between_training_and_serving_is_refused() {
        for text in ["date_part('epoch', now())", "factor * random()"] {
            let error = compiled(&[("x", text)]).unwrap_err();
            assert!(error.message().contains("training"), "{error}");
            assert!(check(text, &inputs().schema(), None).is_err());
        }
    }
}
