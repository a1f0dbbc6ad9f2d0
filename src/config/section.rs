//! [`Section`]: the checked values of a section whose keys depend on its type, for whom they are meant.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::{
    check::{Settings, join},
    yaml::Value,
};

const TOKEN: &str = "token";

/// Values by key, defaults filled in. Keys were checked when the file was read; what is absent was
/// neither written nor has a default. Debug output has the keys only: some values are secrets.
#[derive(Clone, PartialEq, Default)]
pub struct Section(BTreeMap<String, Value>);

impl fmt::Debug for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Section {
    /// The settings that lie under `path`, by what follows it.
    pub(super) fn new(settings: &Settings, path: &str) -> Self {
        let prefix = join(path, "");
        let values = settings.0.iter().filter_map(|setting| {
            let key = setting.key.strip_prefix(&prefix)?;
            Some((key.to_owned(), setting.value.clone()))
        });
        Self(values.collect())
    }

    /// The token that another server wants, as `token`; Feast's sections have no key for it.
    pub(super) fn with_token(mut self, token: Option<&str>) -> Self {
        if let Some(token) = token {
            self.0.insert(TOKEN.to_owned(), Value::Text(token.to_owned()));
        }
        self
    }

    /// The values that lie under a key, by what follows it, and the token.
    pub fn under(&self, key: &str) -> Self {
        let prefix = join(key, "");
        let token = self.text(TOKEN);
        let values = self.0.iter().filter_map(|(key, value)| {
            let rest = key.strip_prefix(&prefix)?;
            Some((rest.to_owned(), value.clone()))
        });
        Self(values.collect()).with_token(token)
    }

    pub fn value(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    pub fn text(&self, key: &str) -> Option<&str> {
        match self.value(key)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn int(&self, key: &str) -> Option<i64> {
        match self.value(key)? {
            Value::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// False when absent.
    pub fn bool(&self, key: &str) -> bool {
        matches!(self.value(key), Some(Value::Bool(true)))
    }

    /// A number of seconds.
    pub fn seconds(&self, key: &str) -> Option<Duration> {
        match self.value(key)? {
            Value::Int(value) => u64::try_from(*value).ok().map(Duration::from_secs),
            Value::Float(value) => Duration::try_from_secs_f64(*value).ok(),
            _ => None,
        }
    }

    /// A mapping of texts; empty when absent.
    pub fn map(&self, key: &str) -> BTreeMap<String, String> {
        let Some(Value::Map(entries)) = self.value(key) else {
            return BTreeMap::new();
        };
        let pairs = entries
            .iter()
            .filter_map(|entry| Some((entry.key.clone(), entry.node.scalar()?)));
        pairs.collect()
    }
}
