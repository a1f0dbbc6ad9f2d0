//! How settings are printed: one line each, secrets masked.

use serde_json::Value as Json;

use super::{
    check::Setting,
    yaml::{Node, Value},
};

/// What stands in the place of a secret.
const MASK: &str = "***";

impl Setting {
    /// The value as it may be shown to anyone.
    pub fn shown(&self) -> String {
        if self.secret {
            MASK.to_owned()
        } else {
            show(&self.value)
        }
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::Text(text) => mask_url(text),
        Value::List(items) => {
            let items: Vec<String> = items.iter().map(|item| show(&item.value)).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Map(entries) => {
            let pairs: Vec<String> = entries
                .iter()
                .map(|entry| format!("{}: {}", entry.key, show_named(&entry.key, &entry.node)))
                .collect();
            format!("{{{}}}", pairs.join(", "))
        }
    }
}

fn show_named(key: &str, node: &Node) -> String {
    if is_secret(key) {
        MASK.to_owned()
    } else {
        show(&node.value)
    }
}

/// Whether the value of a key that nobody knows more about is to be hidden.
fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["password", "passwd", "passphrase", "secret", "token", "key"]
        .iter()
        .any(|word| key.contains(word))
        && !key.starts_with("entity_key")
}

/// A document as it may be shown to anyone.
pub fn masked(node: &Node) -> Json {
    match &node.value {
        Value::Text(text) => mask_url(text).into(),
        Value::List(items) => items.iter().map(masked).collect(),
        Value::Map(entries) => {
            let pairs = entries.iter().map(|entry| {
                let plain = matches!(entry.node.value, Value::Map(_) | Value::List(_) | Value::Null);
                let hidden = is_secret(&entry.key) && !plain;
                let value = if hidden { MASK.into() } else { masked(&entry.node) };
                (entry.key.clone(), value)
            });
            Json::Object(pairs.collect())
        }
        _ => node.to_json(),
    }
}

/// Hides the user information of URLs, and secrets among their options.
pub fn mask_url(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    // A password may hold anything but the `@` that ends it.
    let (place, query) = match rest.rsplit_once('@') {
        Some((info, host)) if !info.contains('?') => {
            let (host, query) = host.split_once('?').unwrap_or((host, ""));
            (format!("{MASK}@{host}"), query)
        }
        _ => {
            let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
            match place.rsplit_once('@') {
                Some((_, host)) => (format!("{MASK}@{host}"), query),
                None => (place.to_owned(), query),
            }
        }
    };
    if query.is_empty() {
        return format!("{scheme}://{place}");
    }
    let options: Vec<String> = query.split('&').map(mask_option).collect();
    format!("{scheme}://{place}?{}", options.join("&"))
}

fn mask_option(option: &str) -> String {
    match option.split_once('=') {
        Some((key, _)) if is_secret(key) => format!("{key}={MASK}"),
        _ => option.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_is_shown() {
        assert_eq!(
            mask_url("postgresql://me:pw@db:5432/feast?x=a@b"),
            "postgresql://***@db:5432/feast?x=a@b"
        );
        assert_eq!(mask_url("redis://:p@w@host"), "redis://***@host");
        assert_eq!(
            mask_url("mysql+pymysql://me:p/w@db/feast?charset=utf8&passwd=x"),
            "mysql+pymysql://***@db/feast?charset=utf8&passwd=***"
        );
        assert_eq!(
            mask_url("postgresql://h/d?user=u&password=p@w"),
            "postgresql://h/d?user=u&password=***"
        );
        assert_eq!(mask_url("data/registry.db"), "data/registry.db");
        assert_eq!(mask_url("http://collector:4317"), "http://collector:4317");
    }
}
