//! [`Source`]: Feast's `PostgreSQLSource`: the name of a table, or a query.

use std::{fmt, fmt::Write as _};

use serde::Deserialize;

use crate::{
    error::{Error, Result},
    proto::feast::core::{
        DataSource,
        data_source::{CustomSourceOptions, Options},
    },
};

/// Feast's class of such sources.
pub(crate) const SOURCE_CLASS: &str =
    "feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source.PostgreSQLSource";
/// Feast's class of datasets that lie in a table.
const STORAGE_CLASS: &str =
    "feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source.SavedDatasetPostgreSQLStorage";
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
pub(crate) enum Source {
    Table(String),
    Query(String),
}

/// The options of a source, byte by byte as Feast writes them.
pub(crate) fn options(name: &str, source: &Source) -> CustomSourceOptions {
    let (table, query) = source.table_and_query();
    let [name, query, table] = [name, query, table].map(python_text);
    CustomSourceOptions {
        configuration: format!(r#"{{"name": {name}, "query": {query}, "table": {table}}}"#).into(),
    }
}

/// Where a dataset lies, as Feast writes it: several of its classes share the field, so this one is named.
pub(crate) fn storage(table: &str) -> CustomSourceOptions {
    let (table, class) = (python_text(table), python_text(STORAGE_CLASS));
    CustomSourceOptions {
        configuration: format!(
            r#"{{"name": "", "query": "", "table": {table}, "saved_dataset_storage_class": {class}}}"#
        )
        .into(),
    }
}

/// The table in which a dataset lies; none when what says so was not written by Feast's class or here.
pub(crate) fn table_of_storage(storage: &CustomSourceOptions) -> Option<String> {
    let written: serde_json::Value = serde_json::from_slice(&storage.configuration).ok()?;
    // Feast wrote no class before 0.67.
    let class = written
        .get("saved_dataset_storage_class")
        .and_then(|class| class.as_str());
    let table = written.get("table")?.as_str().filter(|table| !table.is_empty())?;
    class
        .is_none_or(|class| class.ends_with(".SavedDatasetPostgreSQLStorage"))
        .then(|| table.to_owned())
}

/// A text as Python's `json` writes it.
fn python_text(text: &str) -> String {
    let mut escaped = String::new();
    for letter in serde_json::Value::from(text).to_string().chars() {
        if letter.is_ascii() {
            escaped.push(letter);
            continue;
        }
        for unit in letter.encode_utf16(&mut [0; 2]) {
            _ = write!(escaped, "\\u{unit:04x}");
        }
    }
    escaped
}

impl Source {
    /// `None` when the source is of another kind. A push source's history has lost its class.
    ///
    /// # Errors
    /// `InvalidArgument` naming the source, when it has neither table nor query.
    pub(crate) fn of(source: &DataSource) -> Result<Option<Self>> {
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
                        .or_else(|| set(query).map(Self::Query))
                });
        let nothing = || {
            Error::invalid(format!(
                "data source `{}` names neither a table nor a query of PostgreSQL",
                source.name
            ))
        };
        found.map(Some).ok_or_else(nothing)
    }

    /// The name of the table and the query, of which one is empty.
    pub(crate) fn table_and_query(&self) -> (&str, &str) {
        match self {
            Self::Table(name) => (name, ""),
            Self::Query(sql) => ("", sql),
        }
    }

    /// What comes after `FROM`.
    pub(super) fn from(&self) -> String {
        match self {
            Self::Table(name) => format!("{name} AS source"),
            Self::Query(sql) => format!("(\n{}\n) AS source", without_end(sql)),
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

/// SQL without the semicolons and comments after its last word, which could not stand in parentheses.
fn without_end(sql: &str) -> &str {
    let bytes = sql.as_bytes();
    let (mut at, mut end) = (0, 0);
    while let Some(&byte) = bytes.get(at) {
        let rest = &sql[at..];
        let length = match byte {
            b';' | b' ' | b'\t' | b'\n' | b'\r' | 0x0c => {
                at += 1;
                continue;
            }
            b'-' if rest.starts_with("--") => {
                at += rest.find('\n').unwrap_or(rest.len());
                continue;
            }
            b'/' if rest.starts_with("/*") => {
                at += comment(rest);
                continue;
            }
            b'\'' => {
                let escapes = at > 0 && matches!(bytes[at - 1], b'e' | b'E');
                quotation(rest, b'\'', escapes)
            }
            b'"' => quotation(rest, b'"', false),
            b'$' => dollars(rest),
            _ => rest.chars().next().map_or(1, char::len_utf8),
        };
        at += length;
        end = at;
    }
    &sql[..end]
}

/// The length of a comment, in which there may be others.
fn comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let two = &text.as_bytes()[at..text.len().min(at + 2)];
        at += match two {
            b"/*" => {
                depth += 1;
                2
            }
            b"*/" => {
                depth -= 1;
                2
            }
            _ => 1,
        };
        if depth == 0 {
            break;
        }
    }
    at
}

/// The length of what stands in quotes; a quote that is doubled ends one and begins the next.
fn quotation(text: &str, quote: u8, escapes: bool) -> usize {
    let bytes = text.as_bytes();
    let mut at = 1;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        if byte == quote {
            return at;
        }
        if escapes && byte == b'\\' {
            at += 1;
        }
    }
    text.len()
}

/// The length of `$tag$…$tag$`, or of a dollar that begins none.
fn dollars(text: &str) -> usize {
    let is_tag = |tag: &str| {
        tag.chars().all(|c| c.is_alphanumeric() || c == '_') && !tag.starts_with(|c: char| c.is_ascii_digit())
    };
    let tag = text[1..].find('$').map(|end| &text[..end + 2]);
    match tag.filter(|tag| is_tag(&tag[1..tag.len() - 1])) {
        Some(tag) => text[tag.len()..]
            .find(tag)
            .map_or(text.len(), |end| end + 2 * tag.len()),
        None => 1,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_comes_after_a_query_goes() {
        for (sql, kept) in [
            ("SELECT 1; -- done;\n", "SELECT 1"),
            ("SELECT 1 /* a /* b */ ; */ ;; -- x", "SELECT 1"),
            ("SELECT ';--' /* no */", "SELECT ';--'"),
            ("SELECT 'it''s; ' ;", "SELECT 'it''s; '"),
            (r"SELECT E'\'; --' ;", r"SELECT E'\'; --'"),
            (r#"SELECT "a;--" FROM t;"#, r#"SELECT "a;--" FROM t"#),
            ("SELECT $x$;--$x$ ;", "SELECT $x$;--$x$"),
            ("SELECT $$;$$;", "SELECT $$;$$"),
            ("SELECT 1 -- one\n + 1; -- two", "SELECT 1 -- one\n + 1"),
            ("SELECT 1; SELECT 2;", "SELECT 1; SELECT 2"),
            ("SELECT 'é' -- ü", "SELECT 'é'"),
            ("SELECT 'open ;", "SELECT 'open ;"),
            ("/* only */", ""),
        ] {
            assert_eq!(without_end(sql), kept, "{sql}");
        }
    }

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
        assert_eq!(query.table_and_query(), ("", "SELECT 1 -- one ;\n"));
        assert_eq!(query.from(), "(\nSELECT 1\n) AS source");
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
