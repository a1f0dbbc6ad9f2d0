//! [`Source`]: Feast's `PostgreSQLSource`: the name of a table, or a query.

use std::fmt;

use serde::Deserialize;

use crate::{
    error::{Error, Result},
    proto::feast::core::{DataSource, data_source::Options},
};

/// How Feast's class ends, wherever it lives.
const CLASS: &str = ".PostgreSQLSource";

/// What `custom_options.configuration` holds, as JSON; what is not set is empty or null.
#[derive(Deserialize)]
struct Configuration {
    #[serde(default)]
    table: Option<String>,
    #[serde(default)]
    query: Option<String>,
}

/// Where rows are. Names of tables are SQL, as in Feast: `t`, `s.t`, `"T"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    Table(String),
    Query(String),
}

impl Source {
    /// `None` when the source is of another kind. A push source's history has lost its class.
    ///
    /// # Errors
    /// `InvalidArgument` naming the source, when it has neither table nor query.
    pub(super) fn of(source: &DataSource) -> Result<Option<Self>> {
        let class = &source.data_source_class_type;
        let Some(Options::CustomOptions(options)) = &source.options else {
            return Ok(None);
        };
        if !(class.is_empty() || class.ends_with(CLASS)) {
            return Ok(None);
        }
        let found =
            serde_json::from_slice(&options.configuration)
                .ok()
                .and_then(|Configuration { table, query }| {
                    let set = |text: Option<String>| text.filter(|text| !text.trim().is_empty());
                    set(table)
                        .map(Self::Table)
                        .or_else(|| set(query).map(|query| Self::query(&query)))
                });
        let nothing = || {
            Error::invalid(format!(
                "data source `{}` names neither a table nor a query of PostgreSQL",
                source.name
            ))
        };
        found.map(Some).ok_or_else(nothing)
    }

    /// A query, which may end in a semicolon.
    pub(super) fn query(sql: &str) -> Self {
        let ends = |end: char| end == ';' || end.is_whitespace();
        Self::Query(sql.trim_end_matches(ends).to_owned())
    }

    /// What comes after `FROM`.
    pub(super) fn from(&self) -> String {
        match self {
            Self::Table(name) => format!("{name} AS source"),
            // A comment may end the query.
            Self::Query(sql) => format!("(\n{sql}\n) AS source"),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(name) => f.write_str(name),
            Self::Query(_) => f.write_str("its query"),
        }
    }
}

/// An identifier in double quotes.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::proto::feast::core::data_source::CustomSourceOptions;

    fn source(class: &str, configuration: &'static str) -> DataSource {
        DataSource {
            name: "s".to_owned(),
            data_source_class_type: class.to_owned(),
            options: Some(Options::CustomOptions(CustomSourceOptions {
                configuration: configuration.into(),
            })),
            ..DataSource::default()
        }
    }

    #[test]
    fn tables_and_queries_are_told_apart() {
        let class =
            "feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source.PostgreSQLSource";
        let table = source(class, r#"{"name": "s", "query": "", "table": "a.b"}"#);
        assert_eq!(Source::of(&table).unwrap(), Some(Source::Table("a.b".to_owned())));
        let query = source(
            "",
            r#"{"name": "s", "query": "SELECT 1 -- one ;\n", "table": null}"#,
        );
        let query = Source::of(&query).unwrap().unwrap();
        assert_eq!(query.from(), "(\nSELECT 1 -- one\n) AS source");
        let neither = source(class, "{}");
        assert!(
            Source::of(&neither)
                .unwrap_err()
                .message()
                .contains("`s` names neither")
        );
        assert_eq!(Source::of(&source("a.TrinoSource", "{}")).unwrap(), None);
        assert_eq!(Source::of(&DataSource::default()).unwrap(), None);
    }
}
