//! Reads mappings of a definition file key by key and notes what is wrong instead of stopping.

use std::{cell::RefCell, collections::BTreeMap, sync::Arc, time::Duration};

use crate::config::{
    problem::{Problem, Problems},
    quantity,
    yaml::{Node, Value},
};

/// Where something was written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Place {
    pub(super) file: Arc<str>,
    pub(super) line: u64,
}

impl Place {
    /// A problem there.
    pub(super) fn error(&self, message: impl Into<String>) -> Problem {
        Problem::error(message).at(self.line).in_file(&self.file)
    }
}

/// A name and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Name {
    pub(super) text: String,
    pub(super) place: Place,
}

/// One file being read.
pub(super) struct File {
    pub(super) name: Arc<str>,
    pub(super) problems: RefCell<Problems>,
}

impl File {
    pub(super) fn report(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem.in_file(&self.name));
    }

    pub(super) fn place(&self, line: u64) -> Place {
        Place {
            file: Arc::clone(&self.name),
            line,
        }
    }

    /// The items of a list.
    pub(super) fn items<'n>(&self, node: &'n Node, key: &str) -> &'n [Node] {
        match &node.value {
            Value::List(items) => items,
            Value::Null => &[],
            _ => {
                self.report(
                    Problem::error(format!("a list is wanted here, not {}", node.what()))
                        .at(node.line)
                        .key(key),
                );
                &[]
            }
        }
    }
}

/// A mapping whose keys are asked for one after the other; [`Mapping::finish`] reports the rest.
pub(super) struct Mapping<'f> {
    pub(super) file: &'f File,
    node: &'f Node,
    /// What is being defined, for messages: `feature view`.
    what: &'static str,
    known: Vec<&'static str>,
}

impl<'f> Mapping<'f> {
    /// `None`, and a problem, when the node is no mapping.
    pub(super) fn new(file: &'f File, node: &'f Node, what: &'static str) -> Option<Self> {
        if !matches!(node.value, Value::Map(_)) {
            let problem = Problem::error(format!("{what}: a mapping is wanted here, not {}", node.what()));
            file.report(problem.at(node.line));
            return None;
        }
        Some(Self {
            file,
            node,
            what,
            known: Vec::new(),
        })
    }

    pub(super) fn place(&self) -> Place {
        self.file.place(self.node.line)
    }

    /// The value of a key that is not null.
    pub(super) fn node(&mut self, key: &'static str) -> Option<&'f Node> {
        self.known.push(key);
        self.node.get(key).filter(|node| node.value != Value::Null)
    }

    fn wrong(&self, key: &str, line: u64, wanted: &str, node: &Node) {
        let found = node
            .scalar()
            .map_or_else(|| node.what().to_owned(), |text| format!("`{text}`"));
        self.file.report(
            Problem::error(format!("{}: {wanted} is wanted here, not {found}", self.what))
                .at(line)
                .key(key),
        );
    }

    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        let node = self.node(key)?;
        let text = node.scalar();
        if text.is_none() {
            self.wrong(key, node.line, "text", node);
        }
        text
    }

    pub(super) fn name(&mut self, key: &'static str) -> Option<Name> {
        let line = self.node.get(key)?.line;
        self.text(key).map(|text| Name {
            text,
            place: self.file.place(line),
        })
    }

    /// A name that must be there; without it the mapping means nothing.
    pub(super) fn required(&mut self, key: &'static str) -> Option<Name> {
        let name = self.name(key);
        self.known.push(key);
        if name.is_none() && self.node.get(key).is_none_or(|node| node.value == Value::Null) {
            self.file
                .report(Problem::error(format!("{} without `{key}`", self.what)).at(self.node.line));
        }
        name.filter(|name| {
            let empty = name.text.trim().is_empty();
            if empty {
                self.file
                    .report(Problem::error(format!("{}: `{key}` is empty", self.what)).at(name.place.line));
            }
            !empty
        })
    }

    pub(super) fn bool(&mut self, key: &'static str) -> Option<bool> {
        let node = self.node(key)?;
        match node.value {
            Value::Bool(value) => Some(value),
            _ => {
                self.wrong(key, node.line, "`true` or `false`", node);
                None
            }
        }
    }

    pub(super) fn int(&mut self, key: &'static str) -> Option<i64> {
        let node = self.node(key)?;
        match node.value {
            Value::Int(value) => Some(value),
            _ => {
                self.wrong(key, node.line, "a whole number", node);
                None
            }
        }
    }

    /// A number from 0 to 1.
    pub(super) fn share(&mut self, key: &'static str) -> Option<f32> {
        let node = self.node(key)?;
        let number = node.scalar().and_then(|text| text.parse().ok());
        let share = number.filter(|number| (0.0..=1.0).contains(number));
        if share.is_none() {
            self.wrong(key, node.line, "a number from 0 to 1", node);
        }
        share
    }

    pub(super) fn duration(&mut self, key: &'static str) -> Option<Duration> {
        let node = self.node(key)?;
        let span = node.scalar().as_deref().and_then(quantity::duration);
        if span.is_none() {
            self.wrong(key, node.line, "a span of time such as `2h`", node);
        }
        span
    }

    /// One of some words, whatever their case.
    pub(super) fn choice(&mut self, key: &'static str, words: &[&'static str]) -> Option<&'static str> {
        let name = self.name(key)?;
        self.one_of(key, &name, words)
    }

    fn one_of(&self, key: &str, name: &Name, words: &[&'static str]) -> Option<&'static str> {
        let found = words
            .iter()
            .copied()
            .find(|word| word.eq_ignore_ascii_case(&name.text));
        if found.is_none() {
            let problem = Problem::error(format!("{}: `{}` is not known", self.what, name.text));
            self.file.report(
                problem
                    .at(name.place.line)
                    .key(key)
                    .suggest(&name.text, words.iter().copied()),
            );
        }
        found
    }

    pub(super) fn choices(&mut self, key: &'static str, words: &[&'static str]) -> Vec<&'static str> {
        let names = self.names(key);
        names
            .iter()
            .filter_map(|name| self.one_of(key, name, words))
            .collect()
    }

    /// A mapping of text to text.
    pub(super) fn map(&mut self, key: &'static str) -> BTreeMap<String, String> {
        let Some(node) = self.node(key) else {
            return BTreeMap::new();
        };
        if !matches!(node.value, Value::Map(_)) {
            self.wrong(key, node.line, "a mapping", node);
        }
        let mut map = BTreeMap::new();
        for entry in node.entries() {
            match entry.node.scalar() {
                Some(text) => _ = map.insert(entry.key.clone(), text),
                None if entry.node.value == Value::Null => _ = map.insert(entry.key.clone(), String::new()),
                None => self.wrong(key, entry.line, "text", &entry.node),
            }
        }
        map
    }

    /// The items of a list.
    pub(super) fn items(&mut self, key: &'static str) -> &'f [Node] {
        self.node(key).map_or(&[], |node| self.file.items(node, key))
    }

    /// A list of names; one name alone is a list as well.
    pub(super) fn names(&mut self, key: &'static str) -> Vec<Name> {
        let Some(node) = self.node(key) else {
            return Vec::new();
        };
        let one = std::slice::from_ref(node);
        let items = if node.scalar().is_some() {
            one
        } else {
            self.file.items(node, key)
        };
        let mut names = Vec::with_capacity(items.len());
        for item in items {
            match item.scalar() {
                Some(text) => names.push(Name {
                    text,
                    place: self.file.place(item.line),
                }),
                None => self.wrong(key, item.line, "a name", item),
            }
        }
        names
    }

    pub(super) fn texts(&mut self, key: &'static str) -> Vec<String> {
        self.names(key).into_iter().map(|name| name.text).collect()
    }

    /// Reports every key that nobody asked for.
    pub(super) fn finish(self) {
        for entry in self.node.entries() {
            if !self.known.contains(&entry.key.as_str()) {
                let problem = Problem::error(format!("unknown key in this {}", self.what));
                self.file.report(
                    problem
                        .at(entry.line)
                        .key(entry.key.clone())
                        .suggest(&entry.key, self.known.iter().copied()),
                );
            }
        }
    }
}
