//! [`Matching`]: the conditions of a search in SQL. Numbers are compared as numbers by the text Feast
//! keeps beside them, whether or not the table has its column of numbers.

use serde_json::Value as Json;

use crate::{
    error::{Error, Result},
    model::{FeatureView, ValueType},
    online::store::search::{Comparison, Filter},
};

/// How a database writes what differs.
pub(crate) struct Dialect {
    /// The placeholder of the parameter with this number, from 1.
    pub(crate) parameter: fn(usize) -> String,
    /// A text as a number; null if it is none.
    pub(crate) number: fn(&str) -> String,
    /// What makes a comparison go by bytes.
    pub(crate) binary: &'static str,
}

/// Conditions with the parameters they need; all parameters are texts.
pub(crate) struct Matching<'a> {
    view: &'a FeatureView,
    /// The quoted table.
    table: &'a str,
    dialect: &'a Dialect,
    /// Parameters the statement has before these.
    before: usize,
    pub(crate) parameters: Vec<String>,
}

impl<'a> Matching<'a> {
    pub(crate) fn new(view: &'a FeatureView, table: &'a str, dialect: &'a Dialect, before: usize) -> Self {
        Self {
            view,
            table,
            dialect,
            before,
            parameters: Vec::new(),
        }
    }

    /// The condition on the column `entity_key`.
    ///
    /// # Errors
    /// `InvalidArgument` when it does not fit the view.
    pub(crate) fn condition(&mut self, filter: Option<&Filter>) -> Result<String> {
        match filter {
            None => Ok("TRUE".to_owned()),
            Some(Filter::And(parts)) => self.joined(parts, " AND "),
            Some(Filter::Or(parts)) => self.joined(parts, " OR "),
            Some(Filter::Compare { op, key, value }) => self.compare(*op, key, value),
        }
    }

    fn joined(&mut self, parts: &[Filter], word: &str) -> Result<String> {
        if parts.is_empty() {
            return Ok("TRUE".to_owned());
        }
        let parts: Result<Vec<String>> = parts.iter().map(|part| self.condition(Some(part))).collect();
        Ok(format!("({})", parts?.join(word)))
    }

    fn compare(&mut self, op: Comparison, key: &str, value: &Json) -> Result<String> {
        let field = self.view.feature(key).ok_or_else(|| {
            Error::invalid(format!(
                "a filter names `{key}`, which is no feature of view `{}`",
                self.view.name
            ))
        })?;
        let values = match (op, value) {
            (Comparison::In | Comparison::NotIn, Json::Array(values)) => values.as_slice(),
            (Comparison::In | Comparison::NotIn, _) => {
                return Err(Error::invalid(format!(
                    "the filter on `{key}` needs a list of values"
                )));
            }
            _ => std::slice::from_ref(value),
        };
        let is_number = is_number(key, values)?;
        let fits = match field.value_type {
            ValueType::Int32 | ValueType::Int64 | ValueType::Float | ValueType::Double | ValueType::Bool => {
                true
            }
            ValueType::String => !is_number,
            _ => false,
        };
        if !fits {
            return Err(Error::invalid(format!(
                "the filter on `{key}` compares a value of type `{}` with a {}",
                field.value_type,
                if is_number { "number" } else { "text" }
            )));
        }
        let name = self.parameter(key.to_owned());
        let stored = match is_number {
            true => (self.dialect.number)("f.value_text"),
            false => "f.value_text".to_owned(),
        };
        let mut given = Vec::with_capacity(values.len());
        for value in values {
            let text = match value {
                Json::String(text) => text.clone(),
                Json::Bool(truth) => u8::from(*truth).to_string(),
                number => number.to_string(),
            };
            let parameter = self.parameter(text);
            given.push(match is_number {
                true => (self.dialect.number)(&parameter),
                false => format!("{parameter}{}", self.dialect.binary),
            });
        }
        let test = match op {
            Comparison::Equal => format!("{stored} = {}", given[0]),
            Comparison::NotEqual => format!("{stored} <> {}", given[0]),
            Comparison::Greater => format!("{stored} > {}", given[0]),
            Comparison::GreaterOrEqual => format!("{stored} >= {}", given[0]),
            Comparison::Less => format!("{stored} < {}", given[0]),
            Comparison::LessOrEqual => format!("{stored} <= {}", given[0]),
            Comparison::In if given.is_empty() => "FALSE".to_owned(),
            Comparison::NotIn if given.is_empty() => "TRUE".to_owned(),
            Comparison::In => format!("{stored} IN ({})", given.join(", ")),
            Comparison::NotIn => format!("{stored} NOT IN ({})", given.join(", ")),
        };
        // CASE keeps the texts of other features from being read as numbers.
        Ok(format!(
            "entity_key IN (SELECT f.entity_key FROM {} f WHERE f.feature_name = {name} \
             AND CASE WHEN f.feature_name = {name} THEN {test} ELSE FALSE END)",
            self.table
        ))
    }

    /// Adds a parameter and answers its placeholder.
    pub(crate) fn parameter(&mut self, text: String) -> String {
        self.parameters.push(text);
        (self.dialect.parameter)(self.before + self.parameters.len())
    }
}

/// Whether the values are numbers, all of them, or texts. Truths count as the numbers one and zero.
fn is_number(key: &str, values: &[Json]) -> Result<bool> {
    let numbers = values
        .iter()
        .filter(|value| value.is_number() || value.is_boolean())
        .count();
    let texts = values.iter().filter(|value| value.is_string()).count();
    match (numbers, texts) {
        (_, 0) if numbers == values.len() => Ok(numbers > 0),
        (0, _) if texts == values.len() => Ok(false),
        _ => Err(Error::invalid(format!(
            "the filter on `{key}` can compare with texts, with numbers or with truths"
        ))
        .hint("give values of one kind, and no nulls")),
    }
}
