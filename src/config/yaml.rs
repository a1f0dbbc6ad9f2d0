//! YAML as a tree whose nodes know their line: what both the configuration and the definitions are read
//! from, so that every problem can name a place. It checks nothing but the syntax.
//!
//! Scalars follow YAML 1.1 as PyYAML reads them, because Feast does: `yes` and `on` are booleans, `010`
//! is eight, `1e3` and `y` are text.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{Spanned, options::DuplicateKeyPolicy};

use super::problem::Problem;

/// A value and the place it was written at.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Counted from 1; 0 when the value was not read from a file.
    pub line: u64,
    /// As it was spelled, for plain scalars.
    pub spelling: String,
    pub value: Value,
}

/// What a node holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    /// In the order of the file.
    Map(Vec<Entry>),
}

/// One key of a mapping with its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub key: String,
    pub line: u64,
    pub node: Node,
}

impl Node {
    /// A node that no file holds.
    pub fn unplaced(value: Value) -> Self {
        Self {
            line: 0,
            spelling: String::new(),
            value,
        }
    }

    /// The entries of a mapping; nothing for other values.
    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The entry of that key.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    /// The value of that key.
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.entry(key).map(|entry| &entry.node)
    }

    /// The text of a scalar as a reader of the file sees it; `None` for null, lists and mappings.
    pub fn scalar(&self) -> Option<String> {
        match &self.value {
            Value::Null | Value::List(_) | Value::Map(_) => None,
            Value::Text(text) => Some(text.clone()),
            _ if !self.spelling.is_empty() => Some(self.spelling.clone()),
            Value::Bool(value) => Some(value.to_string()),
            Value::Int(value) => Some(value.to_string()),
            Value::Float(value) => Some(value.to_string()),
        }
    }

    /// What it is, for messages.
    pub fn what(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Int(_) => "a number",
            Value::Float(_) => "a fractional number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// The same without places.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Int(value) => (*value).into(),
            Value::Float(value) => (*value).into(),
            Value::Text(value) => value.clone().into(),
            Value::List(items) => items.iter().map(Self::to_json).collect(),
            Value::Map(entries) => {
                let pairs = entries
                    .iter()
                    .map(|entry| (entry.key.clone(), entry.node.to_json()));
                serde_json::Value::Object(pairs.collect())
            }
        }
    }

    /// Undoes what PyYAML would not have done.
    fn settle(&mut self) {
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(Self::settle),
            Value::Map(entries) => entries.iter_mut().for_each(|entry| entry.node.settle()),
            Value::Bool(_) if matches!(self.spelling.as_str(), "y" | "n" | "Y" | "N") => {
                self.value = Value::Text(self.spelling.clone());
            }
            // PyYAML wants a point and a signed exponent; anything else with an `e` is text to it.
            Value::Float(_) if self.spelling.contains(['e', 'E']) && !self.spelling.contains('.') => {
                self.value = Value::Text(self.spelling.clone());
            }
            _ => {}
        }
    }
}

/// Parses one document. An empty one is `Null`.
///
/// # Errors
/// The place and the reason, when it is not YAML.
pub fn parse(text: &str) -> Result<Node, Problem> {
    let options = serde_saphyr::options! {
        legacy_octal_numbers: true,
        duplicate_keys: DuplicateKeyPolicy::Error,
    };
    let raw: Spanned<Raw> = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let line = error.location().map_or(0, |location| location.line());
        let whole = error.without_snippet().to_string();
        let message = whole.lines().next().unwrap_or("malformed").to_owned();
        Problem::error(format!("not valid YAML: {message}")).at(line)
    })?;
    let mut node = raw_node(raw, text);
    node.settle();
    Ok(node)
}

/// The tree before spellings are known.
enum Raw {
    Scalar(Value),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

fn raw_node(raw: Spanned<Raw>, text: &str) -> Node {
    let line = raw.referenced.line();
    let mut spelling = String::new();
    let value = match raw.value {
        Raw::Scalar(value) => {
            if matches!(value, Value::Bool(_) | Value::Int(_) | Value::Float(_)) {
                spelling = plain_scalar(text, raw.defined.line(), raw.defined.column());
            }
            value
        }
        Raw::List(items) => Value::List(items.into_iter().map(|item| raw_node(item, text)).collect()),
        Raw::Map(pairs) => Value::Map(
            pairs
                .into_iter()
                .map(|(key, value)| Entry {
                    line: key.referenced.line(),
                    key: key.value,
                    node: raw_node(value, text),
                })
                .collect(),
        ),
    };
    Node {
        line,
        spelling,
        value,
    }
}

/// The plain scalar that starts at a place of the text.
fn plain_scalar(text: &str, line: u64, column: u64) -> String {
    let (Ok(line), Ok(column)) = (usize::try_from(line), usize::try_from(column)) else {
        return String::new();
    };
    let Some(line) = text.lines().nth(line.saturating_sub(1)) else {
        return String::new();
    };
    let rest: String = line.chars().skip(column.saturating_sub(1)).collect();
    let end = rest.find([',', ']', '}', ' ', '\t', '#']).unwrap_or(rest.len());
    rest.get(..end)
        .unwrap_or_default()
        .trim_end_matches(':')
        .to_owned()
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_any(Self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Int(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Scalar(
            i64::try_from(value).map_or_else(|_| Value::Text(value.to_string()), Value::Int),
        ))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Float(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Text(value.to_owned())))
    }

    fn visit_string<E>(self, value: String) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Text(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(Raw::Map(pairs))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn nodes_know_their_lines() {
        let node = parse("a: 1\nb:\n  - x\n  - {c: yes}\n").unwrap();
        assert_eq!(node.entry("b").unwrap().line, 2);
        let Value::List(items) = &node.get("b").unwrap().value else {
            unreachable!()
        };
        assert_eq!(items[0].line, 3);
        assert_eq!(items[1].entry("c").unwrap().line, 4);
        assert_eq!(items[1].get("c").unwrap().value, Value::Bool(true));
    }

    #[test]
    fn scalars_are_read_as_pyyaml_reads_them() {
        let node =
            parse("a: on\nb: No\nc: 010\nd: 1e3\ne: y\nf: 1_000\ng: '1'\nh: ~\ni:\nj: 1.5\non: 1\nk: {l: n, m: OFF}\n")
                .unwrap();
        let value = |key: &str| node.get(key).unwrap().value.clone();
        assert_eq!(value("a"), Value::Bool(true));
        assert_eq!(value("b"), Value::Bool(false));
        assert_eq!(value("c"), Value::Int(8));
        assert_eq!(value("d"), Value::Text("1e3".into()));
        assert_eq!(value("e"), Value::Text("y".into()));
        assert_eq!(value("f"), Value::Int(1000));
        assert_eq!(value("g"), Value::Text("1".into()));
        assert_eq!(value("h"), Value::Null);
        assert_eq!(value("i"), Value::Null);
        assert_eq!(value("j"), Value::Float(1.5));
        assert_eq!(value("on"), Value::Int(1));
        assert_eq!(
            node.get("k").unwrap().get("l").unwrap().value,
            Value::Text("n".into())
        );
        assert_eq!(node.get("k").unwrap().get("m").unwrap().value, Value::Bool(false));
        assert_eq!(node.get("b").unwrap().scalar().unwrap(), "No");
    }

    #[test]
    fn merge_keys_and_anchors_are_followed() {
        let node = parse("base: &b {x: 1}\nuse:\n  <<: *b\n  y: 2\n").unwrap();
        let used = node.get("use").unwrap();
        assert_eq!(used.get("x").unwrap().value, Value::Int(1));
        assert_eq!(used.get("y").unwrap().value, Value::Int(2));
    }

    #[test]
    fn broken_text_is_refused_with_its_line() {
        for (text, line) in [
            ("a: 1\nb: [1, 2\n", 2..=3),
            ("a: 1\na: 2\n", 2..=2),
            ("a: 1\n b: 2\n", 2..=2),
        ] {
            let problem = parse(text).unwrap_err();
            assert!(line.contains(&problem.line), "{text:?}: {problem:?}");
        }
        assert_eq!(parse("").unwrap().value, Value::Null);
        assert_eq!(parse("# only a comment\n").unwrap().value, Value::Null);
    }
}
