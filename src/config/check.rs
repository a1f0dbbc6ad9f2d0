//! Walks a tree of YAML along a [`Schema`]: wrong types and unknown keys become problems, everything
//! else becomes [`Setting`]s that know where they came from.

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::{
    problem::{Problem, Problems},
    quantity,
    schema::{Effect, Key, Kind, Schema, Unknown},
    yaml::{Node, Value},
};

/// Where a value came from; later ones win.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    File { file: Arc<str>, line: u64 },
    Environment(String),
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { file, line } => write!(f, "{file}:{line}"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag => f.write_str("flag --set"),
        }
    }
}

/// A value in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// Dotted path.
    pub key: String,
    pub value: Value,
    pub origin: Origin,
    /// Never to be printed.
    pub secret: bool,
}

/// The values in force, in the order of the schemas.
#[derive(Debug, Clone, Default)]
pub(super) struct Settings(pub(super) Vec<Setting>);

impl Settings {
    pub(super) fn value(&self, key: &str) -> Option<&Value> {
        self.0
            .iter()
            .find(|setting| setting.key == key)
            .map(|setting| &setting.value)
    }

    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match self.value(key)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn int(&self, key: &str) -> Option<i64> {
        match self.value(key)? {
            Value::Int(value) => Some(*value),
            _ => None,
        }
    }

    pub(super) fn float(&self, key: &str) -> Option<f64> {
        match self.value(key)? {
            Value::Float(value) => Some(*value),
            _ => None,
        }
    }

    pub(super) fn bool(&self, key: &str) -> Option<bool> {
        match self.value(key)? {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    pub(super) fn map(&self, key: &str) -> BTreeMap<String, String> {
        let Some(Value::Map(entries)) = self.value(key) else {
            return BTreeMap::new();
        };
        entries
            .iter()
            .filter_map(|entry| Some((entry.key.clone(), entry.node.scalar()?)))
            .collect()
    }

    /// The line of the file a value was read from, for problems found later.
    pub(super) fn line(&self, key: &str) -> u64 {
        match self
            .0
            .iter()
            .find(|setting| setting.key == key)
            .map(|setting| &setting.origin)
        {
            Some(Origin::File { line, .. }) => *line,
            _ => 0,
        }
    }
}

/// What a walk needs and gathers.
pub(super) struct Walk {
    pub(super) file: Arc<str>,
    /// Origins of values that did not come from the file, by path.
    pub(super) overrides: BTreeMap<String, Origin>,
    pub(super) settings: Settings,
    pub(super) problems: Problems,
}

impl Walk {
    /// Adds a problem of the file.
    pub(super) fn report(&mut self, problem: Problem) {
        // A value from the environment or a flag has no place in the file.
        let file = match self.overrides.get(&problem.key) {
            Some(origin) => Arc::from(origin.to_string()),
            None => Arc::clone(&self.file),
        };
        self.problems.push(problem.in_file(&file));
    }

    /// Walks one mapping (or its absence) whose keys lie under `path`.
    pub(super) fn section(&mut self, path: &str, node: Option<&Node>, schema: &'static Schema) {
        if let Some(node) = node {
            if !matches!(node.value, Value::Map(_) | Value::Null) {
                let problem = Problem::error(format!("a mapping is wanted here, not {}", node.what()));
                self.report(problem.at(node.line).key(path));
                return;
            }
            for entry in node.entries() {
                if schema.key(&entry.key).is_none() {
                    self.unknown(path, entry.line, &entry.key, schema);
                }
            }
        }
        for key in schema.keys {
            let place = join(path, key.name);
            let found = node.and_then(|node| node.get(key.name));
            // `ttl_mode: null` is a word like the others, whatever YAML makes of it.
            let nullable = matches!(key.kind, Kind::Choice(words) if words.contains(&"null"));
            self.key(
                &place,
                key,
                found.filter(|found| nullable || found.value != Value::Null),
            );
        }
    }

    fn unknown(&mut self, path: &str, line: u64, name: &str, schema: &Schema) {
        let problem = match schema.unknown {
            Unknown::Refused => Problem::error("unknown key"),
            Unknown::Warned => Problem::warning("unknown key, ignored"),
        };
        let known = schema.keys.iter().map(|key| key.name);
        self.report(problem.at(line).key(join(path, name)).suggest(name, known));
    }

    fn key(&mut self, path: &str, key: &'static Key, node: Option<&Node>) {
        if let Kind::Section(schema) = key.kind {
            if node.is_some() || matches!(key.effect, Effect::Used) {
                self.section(path, node, schema);
            }
            return;
        }
        if let (Kind::Stores(store), Some(node)) = (key.kind, node) {
            return self.stores(store, path, node);
        }
        let Some(node) = node else {
            if let Some(default) = key.default
                && let Ok(value) = convert(key.kind, &Node::unplaced(Value::Text(default.to_owned())))
            {
                self.set(path, key, value, Origin::Default);
            }
            return;
        };
        if matches!(key.kind, Kind::Any) && matches!(key.effect, Effect::Used) {
            return; // Read by hand: its keys depend on its type.
        }
        match convert(key.kind, node) {
            Ok(value) => {
                if let (Value::Text(text), Effect::Used) = (&value, key.effect)
                    && let Some(name) = unset_variable(text)
                {
                    let problem = Problem::error(format!("`{name}` is not set in the environment"));
                    self.report(
                        problem
                            .at(node.line)
                            .key(path)
                            .hint("only `$NAME` and `${NAME}` are replaced"),
                    );
                }
                let ignored = match key.effect {
                    Effect::Missing(what) => (value != Value::Bool(false)).then_some(what),
                    Effect::Only(done, what) => (value != Value::Text(done.to_owned())).then_some(what),
                    Effect::Used | Effect::Accepted => None,
                };
                if let Some(what) = ignored {
                    self.report(Problem::warning(what).at(node.line).key(path));
                }
                let origin = self.origin(path, node.line);
                self.set(path, key, value, origin);
            }
            Err(problem) => self.report(problem.at(node.line).key(path)),
        }
    }

    /// Defaults of a section that was written as one word, or not at all.
    pub(super) fn defaults(&mut self, path: &str, keys: impl Iterator<Item = &'static Key>) {
        for key in keys {
            self.key(&join(path, key.name), key, None);
        }
    }

    fn origin(&self, path: &str, line: u64) -> Origin {
        let file = || Origin::File {
            file: Arc::clone(&self.file),
            line,
        };
        self.overrides.get(path).cloned().unwrap_or_else(file)
    }

    fn set(&mut self, path: &str, key: &Key, value: Value, origin: Origin) {
        let secret = matches!(key.kind, Kind::Secret) || sounds_secret(key.name);
        self.settings.0.push(Setting {
            key: path.to_owned(),
            value,
            origin,
            secret,
        });
    }

    /// A setting of a section that may also be written as one word.
    pub(super) fn set_text(&mut self, path: &str, text: &str, line: u64) {
        let origin = if line == 0 && !self.overrides.contains_key(path) {
            Origin::Default
        } else {
            self.origin(path, line)
        };
        let value = Value::Text(text.to_owned());
        self.settings.0.push(Setting {
            key: path.to_owned(),
            value,
            origin,
            secret: false,
        });
    }
}

/// `a` and `b` to `a.b`.
pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// What is left of a `${NAME}` that the environment does not know; Feast would take it literally.
fn unset_variable(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("${")?;
    rest.split_once('}').map(|(name, _)| name)
}

fn sounds_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    [
        "password",
        "passphrase",
        "secret",
        "api_key",
        "private_key_content",
    ]
    .iter()
    .any(|word| name.contains(word))
        || name.ends_with("token")
}

/// Reads a value as the kind of its key, as leniently as pydantic does.
fn convert(kind: Kind, node: &Node) -> Result<Value, Problem> {
    let text = node.scalar();
    let wanted = |what: &str| {
        let found = text
            .as_ref()
            .map_or_else(|| node.what().to_owned(), |text| format!("`{text}`"));
        Problem::error(format!("{what} is wanted here, not {found}"))
    };
    match kind {
        Kind::Any | Kind::Section(_) | Kind::Stores(_) => Ok(node.value.clone()),
        Kind::Text | Kind::Secret => match (&node.value, &text) {
            (Value::Bool(_), _) => Err(wanted("text").hint("put it in quotes")),
            (_, Some(text)) => Ok(Value::Text(text.clone())),
            _ => Err(wanted("text")),
        },
        Kind::Bool => match (
            &node.value,
            text.as_deref().map(str::to_ascii_lowercase).as_deref(),
        ) {
            (Value::Bool(value), _) => Ok(Value::Bool(*value)),
            (_, Some("true" | "yes" | "on" | "1" | "t" | "y")) => Ok(Value::Bool(true)),
            (_, Some("false" | "no" | "off" | "0" | "f" | "n")) => Ok(Value::Bool(false)),
            _ => Err(wanted("`true` or `false`")),
        },
        Kind::Int => {
            let number = match &node.value {
                Value::Int(value) => Some(*value),
                Value::Bool(_) => None,
                _ => text.as_deref().and_then(|text| text.trim().parse().ok()),
            };
            number.map(Value::Int).ok_or_else(|| wanted("a whole number"))
        }
        Kind::Float => {
            let number = match &node.value {
                #[expect(clippy::cast_precision_loss, reason = "settings are small")]
                Value::Int(value) => Some(*value as f64),
                Value::Float(value) => Some(*value),
                Value::Bool(_) => None,
                _ => text.as_deref().and_then(|text| text.trim().parse().ok()),
            };
            let number = number.filter(|number| number.is_finite() && *number >= 0.0);
            number
                .map(Value::Float)
                .ok_or_else(|| wanted("a number that is not negative"))
        }
        Kind::List => match &node.value {
            Value::List(_) => Ok(node.value.clone()),
            _ => Err(wanted("a list")),
        },
        Kind::Map => match &node.value {
            Value::Map(_) => Ok(node.value.clone()),
            _ => Err(wanted("a mapping")),
        },
        Kind::Size => match text.as_deref().and_then(quantity::bytes) {
            Some(size) if size > 0 => Ok(Value::Text(text.unwrap_or_default())),
            _ => Err(wanted("a size").hint("for example `512MiB`")),
        },
        Kind::Choice(words) => match text {
            Some(text) if words.contains(&text.as_str()) => Ok(Value::Text(text)),
            Some(text) => Err(
                Problem::error(format!("`{text}` is none of {}", words.join(", ")))
                    .suggest(&text, words.iter().copied()),
            ),
            None if node.value == Value::Null => Ok(Value::Text("null".to_owned())),
            None => Err(wanted("a word").hint(format!("one of {}", words.join(", ")))),
        },
    }
}
