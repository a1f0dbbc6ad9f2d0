//! The `registry:` section: where the registry lies and how it is reached, for every backend Feast has.
//! Whether a backend is built in is not known here, but for those that will never be.

mod sql;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    check::{Walk, join},
    locate::Found,
    problem::Problem,
    quantity::seconds,
    schema,
    yaml::{Entry, Node, Value},
};
use crate::{
    cloud::{Environment, ObjectStoreKind},
    database::{DatabaseOptions, DatabaseUrl, Engine},
    error::Error,
    registry::store::{
        file::ObjectRegistry,
        remote::{RemoteOptions, RemoteTls},
    },
};

/// The `registry:` section.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    pub backend: RegistryBackend,
    /// How old what is known of other processes' changes may become; `None` is for ever, as in Feast.
    /// Changes are followed sooner in any case.
    pub cache_ttl: Option<Duration>,
    pub cache_mode: CacheMode,
    pub enable_online_versioning: bool,
}

/// When Feast's registry looks at its store again. thali sees its own writes at once and those of others
/// as soon as it is told of them, which is sooner than either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheMode {
    #[default]
    Sync,
    Thread,
}

/// Where the registry lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistryBackend {
    /// One serialized `feast.core.Registry` on local disk.
    File { path: PathBuf },
    /// The same in an object store.
    Object(ObjectRegistry),
    /// Feast's tables.
    Sql(Box<SqlRegistry>),
    /// A registry server, by gRPC.
    Remote(RemoteOptions),
}

/// A registry in Feast's tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlRegistry {
    pub url: DatabaseUrl,
    /// A replica to read from.
    pub read_url: Option<DatabaseUrl>,
    pub schema_mode: SchemaMode,
    pub options: DatabaseOptions,
    /// Keep nothing in Feast's table of metadata.
    pub purge_metadata: bool,
}

/// What is done about Feast's tables at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SchemaMode {
    /// Those that are missing are made.
    #[default]
    Auto,
    /// Those that are missing are an error.
    Verify,
    Skip,
}

const SECTION: &str = "registry";
const TYPES: [&str; 4] = ["file", "sql", "remote", "snowflake.registry"];
/// Where Feast's clients look for certificates to trust.
const CA_VARIABLES: [&str; 3] = ["FEAST_CA_CERT_FILE_PATH", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"];

pub(super) fn registry(
    root: &Node,
    walk: &mut Walk,
    found: &Found,
    env: &BTreeMap<String, String>,
) -> Option<RegistryConfig> {
    let node = root.get(SECTION).filter(|node| node.value != Value::Null);
    let Some(node) = node else {
        let hint = "for example `registry: data/registry.db`";
        walk.report(Problem::error("missing").key(SECTION).hint(hint));
        return None;
    };
    let kind = kind(node, walk)?;
    if let Value::Map(_) = node.value {
        walk.section(SECTION, Some(node), &schema::REGISTRY);
    } else if let Some(path) = node.scalar() {
        let placed = |value| Node {
            line: node.line,
            spelling: String::new(),
            value,
        };
        let entry = Entry {
            key: "path".to_owned(),
            line: node.line,
            node: placed(Value::Text(path)),
        };
        let mapping = placed(Value::Map(vec![entry]));
        walk.section(SECTION, Some(&mapping), &schema::REGISTRY);
    } else {
        let problem = Problem::error(format!("a path or a mapping is wanted here, not {}", node.what()));
        walk.report(problem.at(node.line).key(SECTION));
        return None;
    }
    let mut section = Section {
        walk,
        line: node.line,
        base: &found.repo_path,
    };
    let backend = match kind.as_str() {
        "sql" => RegistryBackend::Sql(Box::new(section.sql()?)),
        "remote" => RegistryBackend::Remote(section.remote(env)?),
        _ => section.file(env)?,
    };
    Some(RegistryConfig {
        backend,
        cache_ttl: Some(seconds(walk, "registry.cache_ttl_seconds")).filter(|ttl| !ttl.is_zero()),
        cache_mode: match walk.settings.text("registry.cache_mode") {
            Some("thread") => CacheMode::Thread,
            _ => CacheMode::Sync,
        },
        enable_online_versioning: walk
            .settings
            .bool("registry.enable_online_feature_view_versioning")
            .unwrap_or_default(),
    })
}

/// The `registry_type`, if thali has it.
fn kind(node: &Node, walk: &mut Walk) -> Option<String> {
    let Some(entry) = node.entry("registry_type") else {
        return Some("file".to_owned());
    };
    let kind = entry.node.scalar().unwrap_or_else(|| "file".to_owned());
    let problem = match kind.as_str() {
        "file" | "sql" | "remote" => return Some(kind),
        "snowflake.registry" => Problem::error(format!("registry type `{kind}` is not supported by thali"))
            .hint("supported: file, sql, remote"),
        _ => Problem::error(format!("there is no registry type `{kind}`")).suggest(&kind, TYPES),
    };
    walk.report(problem.at(entry.line).key("registry.registry_type"));
    None
}

/// The section while it is read.
struct Section<'a> {
    walk: &'a mut Walk,
    line: u64,
    /// Where relative paths start from.
    base: &'a Path,
}

impl Section<'_> {
    fn text(&self, key: &str) -> Option<String> {
        let text = self.walk.settings.text(&join(SECTION, key))?;
        Some(text.to_owned()).filter(|text| !text.is_empty())
    }

    fn place(&self, problem: Problem, key: &str) -> Problem {
        let key = join(SECTION, key);
        let line = self.walk.settings.line(&key).max(self.line);
        problem.at(line).key(key)
    }

    fn fail<T>(&mut self, key: &str, text: impl Into<String>, hint: &str) -> Option<T> {
        let problem = self.place(Problem::error(text).hint(hint), key);
        self.walk.report(problem);
        None
    }

    fn warn(&mut self, key: &str, text: impl Into<String>) {
        let problem = self.place(Problem::warning(text), key);
        self.walk.report(problem);
    }

    fn refuse<T>(&mut self, key: &str, error: &Error) -> Option<T> {
        let hint = error.hint_text().unwrap_or_default();
        if hint.is_empty() {
            let problem = self.place(Problem::error(error.message()), key);
            self.walk.report(problem);
            return None;
        }
        self.fail(key, error.message(), hint)
    }

    fn path(&mut self) -> Option<String> {
        match self.text("path") {
            Some(path) => Some(path),
            None => self.fail("path", "missing", "where the registry lies"),
        }
    }

    fn file(&mut self, env: &BTreeMap<String, String>) -> Option<RegistryBackend> {
        let path = self.path()?;
        let scheme = path
            .split_once("://")
            .map(|(scheme, _)| scheme.to_ascii_lowercase());
        let by_path = match scheme.as_deref() {
            None | Some("file") => None,
            Some(_) if ObjectStoreKind::of(&path).is_some() => ObjectStoreKind::of(&path),
            // With the store's name any host may be meant, such as an emulator.
            Some("https" | "http") if self.text("registry_store_type").is_some() => {
                Some(ObjectStoreKind::Azure)
            }
            Some(other) => {
                let is_database = ["sqlite", "postgres", "mysql", "mariadb"]
                    .iter()
                    .any(|name| other.starts_with(name));
                return if is_database {
                    self.fail(
                        "path",
                        format!("`{other}` is a database"),
                        "add `registry_type: sql`",
                    )
                } else {
                    self.fail(
                        "path",
                        format!("registry files on `{other}://` are not supported by thali"),
                        "supported: local paths, s3://, gs://, az://, https://<account>.blob.core.windows.net/",
                    )
                };
            }
        };
        if let Some(class) = self.text("registry_store_type") {
            let by_class = match class.as_str() {
                "FileRegistryStore" | "LocalRegistryStore" => None,
                "S3RegistryStore" => Some(ObjectStoreKind::S3),
                "GCSRegistryStore" => Some(ObjectStoreKind::Gcs),
                "AzureRegistryStore" => Some(ObjectStoreKind::Azure),
                _ => {
                    return self.fail(
                        "registry_store_type",
                        format!("registry store `{class}` is not supported by thali"),
                        "supported: FileRegistryStore, S3RegistryStore, GCSRegistryStore, AzureRegistryStore",
                    );
                }
            };
            if by_class != by_path {
                return self.fail(
                    "registry_store_type",
                    format!("the path is none of a `{class}`"),
                    "leave `registry_store_type` out, the path tells",
                );
            }
        }
        let rest = path.split_once("://").map_or(path.as_str(), |(_, rest)| rest);
        let Some(store) = by_path else {
            return Some(RegistryBackend::File {
                path: self.base.join(rest),
            });
        };
        let is_whole = rest
            .split_once('/')
            .is_some_and(|(bucket, key)| !bucket.is_empty() && !key.is_empty() && !key.ends_with('/'));
        if !is_whole {
            return self.fail(
                "path",
                "the path has to name a bucket and an object in it",
                "for example `s3://bucket/registry.db`",
            );
        }
        Some(RegistryBackend::Object(ObjectRegistry {
            store,
            url: path,
            options: self.walk.settings.map("registry.s3_additional_kwargs"),
            environment: Environment::of(env),
        }))
    }

    fn remote(&mut self, env: &BTreeMap<String, String>) -> Option<RemoteOptions> {
        const HINT: &str = "for example `registry.example.org:6570`";
        let path = self.path()?;
        let address = path.trim_start_matches("dns:").trim_start_matches('/');
        if address.contains("://") {
            return self.fail("path", "`host:port` is wanted here, not a URL", HINT);
        }
        let port = address.rsplit_once(':').and_then(|(host, port)| {
            let port = port.parse::<u16>().ok().filter(|port| *port > 0)?;
            Some(port).filter(|_| !host.is_empty())
        });
        if port.is_none() {
            let text = format!("`host:port` is wanted here, not `{path}`");
            return self.fail("path", text, HINT);
        }
        let address = address.to_owned();
        let file = |text: Option<String>| text.map(|text| self.base.join(text));
        let cert = file(self.text("cert"));
        let client = (file(self.text("client_cert")), file(self.text("client_key")));
        let client = match client {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (Some(_), None) => return self.fail("client_cert", "`client_key` is missing", "both or neither"),
            (None, Some(_)) => return self.fail("client_key", "`client_cert` is missing", "both or neither"),
        };
        let authority = self.text("authority");
        let is_tls = self.walk.settings.bool("registry.is_tls").unwrap_or_default();
        if cert.is_none() && !is_tls {
            for (key, is_set) in [
                ("client_cert", client.is_some()),
                ("authority", authority.is_some()),
            ] {
                if is_set {
                    self.warn(
                        key,
                        "counts only with TLS, which `cert` or `is_tls: true` switches on",
                    );
                }
            }
            return Some(RemoteOptions {
                address,
                ..RemoteOptions::default()
            });
        }
        let from_env = || {
            CA_VARIABLES
                .iter()
                .find_map(|name| env.get(*name))
                .map(PathBuf::from)
        };
        let tls = RemoteTls {
            ca: cert.or_else(from_env),
            client,
            authority,
        };
        Some(RemoteOptions {
            address,
            tls: Some(tls),
            token: None,
        })
    }
}

impl RegistryBackend {
    /// The database in which processes of a deployment meet, beside the registry's own tables or file: a
    /// file where one disk is shared, the database itself where it is a server.
    pub fn meeting_place(&self, repo_path: &Path) -> DatabaseUrl {
        const FILE: &str = "thali.db";
        let beside = |file: &Path| {
            file.parent()
                .map(|folder| DatabaseUrl::sqlite(&folder.join(FILE)))
        };
        let place = match self {
            Self::File { path } => beside(path),
            Self::Sql(sql) => match sql.url.engine() {
                Engine::Sqlite => sql.url.file().and_then(beside),
                Engine::Postgres | Engine::MySql => Some(sql.url.clone()),
            },
            Self::Object(_) | Self::Remote(_) => None,
        };
        place.unwrap_or_else(|| DatabaseUrl::sqlite(&repo_path.join("data").join(FILE)))
    }
}

#[cfg(test)]
mod tests;
