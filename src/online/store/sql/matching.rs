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

    /// The condition on the column `entity_key`: one pass over the rows of the features that are named,
    /// however many comparisons there are. (A subquery for each takes PostgreSQL half a minute for 200.)
    ///
    /// # Errors
    /// `InvalidArgument` when it does not fit the view.
    pub(crate) fn condition(&mut self, filter: Option<&Filter>) -> Result<String> {
        let mut names = Vec::new();
        let Some(test) = filter
            .map(|filter| self.test(filter, &mut names))
            .transpose()?
            .flatten()
        else {
            return Ok("TRUE".to_owned());
        };
        let names: Vec<&str> = names
            .iter()
            .map(|(_, placeholder)| placeholder.as_str())
            .collect();
        Ok(format!(
            "entity_key IN (SELECT f.entity_key FROM {} f WHERE f.feature_name IN ({}) GROUP BY f.entity_key \
             HAVING {test})",
            self.table,
            names.join(", ")
        ))
    }

    /// What rows of an entity have to be like; `None` when they may be anything. `names` are those of the
    /// features that have been compared, with their placeholders.
    fn test(&mut self, filter: &Filter, names: &mut Vec<(String, String)>) -> Result<Option<String>> {
        let (parts, word) = match filter {
            Filter::And(parts) => (parts, " AND "),
            Filter::Or(parts) => (parts, " OR "),
            Filter::Compare { op, key, value } => return self.compare(*op, key, value, names).map(Some),
        };
        let tests: Result<Vec<_>> = parts.iter().map(|part| self.test(part, names)).collect();
        let tests = tests?;
        let given: Vec<&str> = tests.iter().flatten().map(String::as_str).collect();
        let is_anything = given.is_empty() || matches!(filter, Filter::Or(_)) && given.len() < tests.len();
        Ok((!is_anything).then(|| balanced(&given, word)))
    }

    fn compare(
        &mut self,
        op: Comparison,
        key: &str,
        value: &Json,
        names: &mut Vec<(String, String)>,
    ) -> Result<String> {
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
        let name = match names.iter().find(|(name, _)| name == key) {
            Some((_, placeholder)) => placeholder.clone(),
            None => {
                let placeholder = self.parameter(key.to_owned());
                names.push((key.to_owned(), placeholder.clone()));
                placeholder
            }
        };
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
            "MAX(CASE WHEN f.feature_name <> {name} THEN 0 WHEN {test} THEN 1 ELSE 0 END) = 1"
        ))
    }

    /// Adds a parameter and answers its placeholder.
    pub(crate) fn parameter(&mut self, text: String) -> String {
        self.parameters.push(text);
        (self.dialect.parameter)(self.before + self.parameters.len())
    }
}

/// `tests` joined by `word`, in brackets that are no deeper than need be: SQLite limits that.
fn balanced(tests: &[&str], word: &str) -> String {
    match tests {
        [] | [_] => tests.concat(),
        _ => {
            let (left, right) = tests.split_at(tests.len() / 2);
            format!("({}{word}{})", balanced(left, word), balanced(right, word))
        }
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
