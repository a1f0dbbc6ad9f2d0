//! The keys of a SQL registry: its URLs and what `SQLAlchemy` is told of connections.

use std::time::Duration;

use super::{SECTION, SchemaMode, Section, SqlRegistry};
use crate::{
    config::{check::join, quantity::seconds, yaml::Value},
    database::{DatabaseOptions, DatabaseUrl},
};

const ARGUMENTS: &str = "sqlalchemy_config_kwargs.connect_args";

impl Section<'_> {
    pub(super) fn sql(&mut self) -> Option<SqlRegistry> {
        let path = self.path()?;
        let arguments = self.connect_args();
        let url = self.database("path", &path, &arguments)?;
        let read_url = match self.text("read_path") {
            Some(read_path) => Some(self.database("read_path", &read_path, &arguments)?),
            None => None,
        };
        if read_url
            .as_ref()
            .is_some_and(|read| read.engine() != url.engine())
        {
            return self.fail(
                "read_path",
                "the database to read from is of another kind",
                "`read_path` is a replica of the database at `path`",
            );
        }
        Some(SqlRegistry {
            url,
            read_url,
            schema_mode: match self.text("schema_mode").as_deref() {
                Some("verify") => SchemaMode::Verify,
                Some("skip") => SchemaMode::Skip,
                _ => SchemaMode::Auto,
            },
            options: self.database_options()?,
            purge_metadata: self
                .walk
                .settings
                .bool("registry.purge_feast_metadata")
                .unwrap_or_default(),
        })
    }

    fn database(&mut self, key: &str, text: &str, arguments: &[(String, String)]) -> Option<DatabaseUrl> {
        let url = match DatabaseUrl::parse(text, self.base) {
            Ok(url) => url,
            Err(error) => return self.refuse(key, &error),
        };
        for warning in url.warnings() {
            self.warn(key, warning.clone());
        }
        let known = url.warnings().len();
        match url.with_options(arguments) {
            Ok(url) => {
                // The replica is told the same; saying it once is enough.
                for warning in url.warnings().iter().skip(known).filter(|_| key == "path") {
                    self.warn(ARGUMENTS, warning.clone());
                }
                Some(url)
            }
            Err(error) => self.refuse(ARGUMENTS, &error),
        }
    }

    /// `connect_args`, flattened: `ssl: {ca: x}` is PyMySQL's way to say `ssl_ca: x`.
    fn connect_args(&self) -> Vec<(String, String)> {
        let Some(Value::Map(entries)) = self.walk.settings.value(&join(SECTION, ARGUMENTS)) else {
            return Vec::new();
        };
        let mut arguments = Vec::new();
        for entry in entries {
            match &entry.node.value {
                Value::Map(inner) => {
                    arguments.extend(inner.iter().filter_map(|part| {
                        Some((format!("{}_{}", entry.key, part.key), part.node.scalar()?))
                    }))
                }
                Value::Null => arguments.push((entry.key.clone(), "none".to_owned())),
                _ => arguments.extend(entry.node.scalar().map(|text| (entry.key.clone(), text))),
            }
        }
        arguments
    }

    fn database_options(&mut self) -> Option<DatabaseOptions> {
        let mut options = DatabaseOptions::default();
        let key = |name: &str| format!("sqlalchemy_config_kwargs.{name}");
        let number = |section: &Self, name: &str| section.walk.settings.int(&join(SECTION, &key(name)));
        if let Some(size) = number(self, "pool_size") {
            match u32::try_from(size) {
                Ok(size) => options.pool_size = size,
                Err(_) => return self.fail(&key("pool_size"), format!("{size} is no size"), "0 is no limit"),
            }
        }
        // -1 is no limit, in SQLAlchemy's words.
        if let Some(overflow) = number(self, "max_overflow") {
            options.max_overflow = u32::try_from(overflow).ok();
        }
        if let Some(age) = number(self, "pool_recycle") {
            options.pool_recycle = u64::try_from(age).ok().map(Duration::from_secs);
        }
        let timeout = join(SECTION, &key("pool_timeout"));
        if self.walk.settings.float(&timeout).is_some() {
            options.pool_timeout = seconds(self.walk, &timeout);
        }
        let ping = self.walk.settings.bool(&join(SECTION, &key("pool_pre_ping")));
        options.pool_pre_ping = ping.unwrap_or(options.pool_pre_ping);
        options.echo = match self.walk.settings.value(&join(SECTION, &key("echo"))) {
            Some(Value::Bool(echo)) => *echo,
            Some(Value::Text(word)) => matches!(word.as_str(), "debug" | "true"),
            _ => false,
        };
        Some(options)
    }
}
