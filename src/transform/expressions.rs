//! Native on-demand expressions: SQL scalar expressions, compiled by DataFusion and evaluated in
//! process on one batch. The same text gives the same answer online and in a join.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use datafusion::{
    common::{DFSchema, config::ConfigOptions},
    prelude::{SessionConfig, SessionContext},
};

use super::Outputs;
use crate::error::{Error, Result};

/// Evaluates every expression on the columns of `inputs`.
pub(super) fn evaluate(texts: &BTreeMap<String, String>, inputs: &RecordBatch) -> Result<Outputs> {
    let session = session();
    let schema = DFSchema::try_from(inputs.schema().as_ref().clone())?;
    let mut outputs = Outputs::with_capacity(texts.len());
    for (name, text) in texts {
        let bad = |error: datafusion::error::DataFusionError| {
            Error::invalid(format!(
                "expression of `{name}` cannot be computed: {}",
                error.strip_backtrace()
            ))
            .hint("it may use the view's inputs by name and SQL's scalar functions")
        };
        let expression = session.parse_sql_expr(text, &schema).map_err(bad)?;
        let physical = session.create_physical_expr(expression, &schema).map_err(bad)?;
        let column = physical
            .evaluate(inputs)
            .and_then(|v| v.into_array(inputs.num_rows()))
            .map_err(bad)?;
        outputs.push((name.clone(), column));
    }
    Ok(outputs)
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
pub fn check(text: &str, schema: &arrow::datatypes::Schema) -> Result<()> {
    let session = session();
    let schema = DFSchema::try_from(schema.clone())?;
    session
        .parse_sql_expr(text, &schema)
        .and_then(|expression| session.create_physical_expr(expression, &schema))
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
    use std::sync::Arc;

    use arrow::array::{Array as _, Float64Array, Int64Array};

    use super::*;

    fn inputs() -> RecordBatch {
        let speed: arrow::array::ArrayRef = Arc::new(Float64Array::from(vec![Some(2.0), None]));
        let factor: arrow::array::ArrayRef = Arc::new(Int64Array::from(vec![3, 4]));
        RecordBatch::try_from_iter([("windSpeed", speed), ("factor", factor)]).unwrap()
    }

    #[test]
    fn expressions_see_inputs_by_their_exact_names() {
        let texts = BTreeMap::from([("x".to_owned(), "windSpeed * factor".to_owned())]);
        let outputs = evaluate(&texts, &inputs()).unwrap();
        let column = outputs[0].1.as_any().downcast_ref::<Float64Array>().unwrap();
        assert_eq!(column.value(0), 6.0);
        assert!(column.is_null(1));
    }

    #[test]
    fn an_unknown_input_is_named() {
        let texts = BTreeMap::from([("x".to_owned(), "nope + 1".to_owned())]);
        let error = evaluate(&texts, &inputs()).unwrap_err();
        assert!(error.message().contains("nope"), "{error}");
        assert!(check("factor +", &inputs().schema()).is_err());
        assert!(check("factor + 1", &inputs().schema()).is_ok());
    }
}
