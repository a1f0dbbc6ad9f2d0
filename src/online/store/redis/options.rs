//! `connection_string` as Feast reads it: hosts and redis-py's options in one line of commas.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use rustls::ClientConfig;
use serde_json::Value as Json;

use super::tls;
use crate::{
    error::{Error, Result},
    tls::Check,
};

const PORT: u16 = 6379;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Options of redis-py that say how its own objects work; here they change nothing but a warning.
const ACCEPTED: &[&str] = &[
    "address_remap",
    "auto_close_connection_pool",
    "cluster_error_retry_attempts",
    "decode_responses",
    "dynamic_startup_nodes",
    "encoding",
    "encoding_errors",
    "health_check_interval",
    "lib_name",
    "lib_version",
    "load_balancing_strategy",
    "max_connections",
    "min_other_sentinels",
    "protocol",
    "read_from_replicas",
    "reinitialize_steps",
    "require_full_coverage",
    "retry_on_error",
    "retry_on_timeout",
    "single_connection_client",
    "skip_full_coverage_check",
    "socket_keepalive",
    "socket_read_size",
    "ssl_ciphers",
    "ssl_min_version",
];

/// Options that count.
const USED: &[&str] = &[
    "client_name",
    "db",
    "password",
    "sentinel_kwargs",
    "socket_connect_timeout",
    "socket_timeout",
    "ssl",
    "ssl_ca_certs",
    "ssl_ca_data",
    "ssl_cert_reqs",
    "ssl_certfile",
    "ssl_check_hostname",
    "ssl_keyfile",
    "username",
];

/// A host and its port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// How connections are made.
#[derive(Clone)]
pub(super) struct Options {
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    pub(super) database: u32,
    pub(super) client_name: Option<String>,
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) connect_timeout: Duration,
    pub(super) response_timeout: Duration,
}

/// Without the secrets.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("database", &self.database)
            .field("tls", &self.tls.is_some())
            .finish_non_exhaustive()
    }
}

/// A connection string, taken apart.
#[derive(Debug)]
pub(super) struct Connections {
    pub(super) addresses: Vec<Address>,
    pub(super) options: Options,
    /// How sentinels are connected to: Feast gives them none of the options but the timeouts.
    pub(super) sentinel: Options,
}

impl Connections {
    /// Reads a connection string.
    ///
    /// # Errors
    /// `Config` naming the part that cannot be used, never with a secret.
    pub(super) fn parse(text: &str) -> Result<Self> {
        if text.contains("://") {
            return Err(wrong("is a URL").hint("write `host:port,option=value`, for TLS with `ssl=true`"));
        }
        let mut addresses = Vec::new();
        let mut given: BTreeMap<&str, Given> = BTreeMap::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match part.split_once('=') {
                None => addresses.push(address(part)?),
                Some((name, value)) => {
                    let name = name.trim();
                    if !USED.contains(&name) && !ACCEPTED.contains(&name) {
                        return Err(unknown(name));
                    }
                    if ACCEPTED.contains(&name) {
                        tracing::warn!(
                            "`{name}` of `online_store.connection_string` is redis-py's own and is not used"
                        );
                    }
                    given.insert(name, Given::new(name, value));
                }
            }
        }
        if addresses.is_empty() {
            return Err(wrong("names no host").hint("write `host:port` first, such as `localhost:6379`"));
        }
        let options = options(&given)?;
        let plain = Options {
            username: None,
            password: None,
            database: 0,
            client_name: None,
            tls: None,
            ..options.clone()
        };
        let sentinel = match given.get("sentinel_kwargs") {
            None => plain,
            Some(kwargs) => sentinel_options(kwargs, &plain)?,
        };
        Ok(Self {
            addresses,
            options,
            sentinel,
        })
    }
}

fn wrong(what: &str) -> Error {
    Error::config(format!("`online_store.connection_string` {what}"))
}

fn unknown(name: &str) -> Error {
    let known = USED.join("`, `");
    wrong(&format!("has the unknown option `{name}`")).hint(format!("options that count are `{known}`"))
}

fn address(part: &str) -> Result<Address> {
    let (host, port) = part.split_once(':').unwrap_or((part, ""));
    let port = match port {
        "" => Ok(PORT),
        port => port
            .parse()
            .map_err(|_| wrong(&format!("has `{port}` where a port belongs"))),
    };
    Ok(Address {
        host: host.to_owned(),
        port: port?,
    })
}

/// The value of an option, which Feast reads as JSON where it is JSON.
struct Given {
    name: String,
    text: String,
    json: Option<Json>,
}

impl Given {
    fn new(name: &str, text: &str) -> Self {
        Self {
            name: name.to_owned(),
            text: text.to_owned(),
            json: serde_json::from_str(text).ok(),
        }
    }

    fn text(&self) -> Option<String> {
        match &self.json {
            Some(Json::Null) => None,
            Some(Json::String(text)) => Some(text.clone()),
            _ => Some(self.text.clone()),
        }
    }

    fn flag(&self) -> Result<bool> {
        match self.text().unwrap_or_default().to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" => Ok(true),
            "" | "false" | "0" | "no" => Ok(false),
            _ => Err(wrong(&format!("wants `true` or `false` for `{}`", self.name))),
        }
    }

    fn seconds(&self) -> Result<Option<Duration>> {
        let Some(text) = self.text() else { return Ok(None) };
        let seconds = text
            .parse()
            .ok()
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        match seconds.filter(|seconds| !seconds.is_zero()) {
            Some(seconds) => Ok(Some(seconds)),
            None => Err(wrong(&format!("wants a number of seconds for `{}`", self.name))),
        }
    }
}

fn options(given: &BTreeMap<&str, Given>) -> Result<Options> {
    let text = |name: &str| given.get(name).and_then(Given::text);
    let flag = |name: &str, default| given.get(name).map_or(Ok(default), Given::flag);
    let seconds = |name: &str| given.get(name).map_or(Ok(None), Given::seconds);
    let database = match text("db") {
        None => 0,
        Some(number) => number
            .parse()
            .map_err(|_| wrong(&format!("has `{number}` for `db`, which is no number")))?,
    };
    let reqs = text("ssl_cert_reqs").map_or_else(|| "required".to_owned(), |reqs| reqs.to_ascii_lowercase());
    let check = match reqs.trim_start_matches("cert_") {
        "none" => Check::Nothing,
        "optional" | "required" if flag("ssl_check_hostname", true)? => Check::IssuerAndName,
        "optional" | "required" => Check::Issuer,
        _ => {
            return Err(wrong(&format!("has `{reqs}` for `ssl_cert_reqs`"))
                .hint("use `required`, `optional` or `none`"));
        }
    };
    let tls = if flag("ssl", false)? {
        let files = tls::Files {
            authorities: text("ssl_ca_data"),
            authorities_file: text("ssl_ca_certs"),
            certificate: text("ssl_certfile"),
            key: text("ssl_keyfile"),
        };
        Some(tls::config(&files, check)?)
    } else {
        None
    };
    let response_timeout = seconds("socket_timeout")?;
    Ok(Options {
        username: text("username"),
        password: text("password"),
        database,
        client_name: text("client_name"),
        tls,
        // redis-py gives a connection as long as a reply when it is told nothing else.
        connect_timeout: seconds("socket_connect_timeout")?
            .or(response_timeout)
            .unwrap_or(CONNECT_TIMEOUT),
        response_timeout: response_timeout.unwrap_or(RESPONSE_TIMEOUT),
    })
}

/// `sentinel_kwargs={"password":"…"}`: a comma would end it, so it holds one option.
fn sentinel_options(kwargs: &Given, plain: &Options) -> Result<Options> {
    let Some(Json::Object(entries)) = &kwargs.json else {
        return Err(wrong("has `sentinel_kwargs` that are no JSON object"));
    };
    let mut given = BTreeMap::new();
    for (name, value) in entries {
        if !USED.contains(&name.as_str()) {
            return Err(unknown(name));
        }
        given.insert(name.as_str(), Given::new(name, &value.to_string()));
    }
    let options = options(&given)?;
    Ok(Options {
        connect_timeout: plain.connect_timeout,
        response_timeout: plain.response_timeout,
        ..options
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn what_feast_takes_is_read() {
        let read = Connections::parse("redis_master:6380,db=2,password=p@ss=word/1,username=bob").unwrap();
        assert_eq!(read.addresses[0].to_string(), "redis_master:6380");
        assert_eq!(read.options.database, 2);
        assert_eq!(read.options.password.as_deref(), Some("p@ss=word/1"));
        assert_eq!(read.options.username.as_deref(), Some("bob"));
        assert!(read.options.tls.is_none());
        assert_eq!(read.options.response_timeout, RESPONSE_TIMEOUT);
        let read = Connections::parse("localhost").unwrap();
        assert_eq!(read.addresses[0].to_string(), "localhost:6379");
        let cluster = "a:1, b:2,skip_full_coverage_check=true,ssl=true,password=0123,socket_timeout=0.5";
        let read = Connections::parse(cluster).unwrap();
        assert_eq!(read.addresses.len(), 2);
        // As JSON this would be no number.
        assert_eq!(read.options.password.as_deref(), Some("0123"));
        assert_eq!(read.options.connect_timeout, Duration::from_millis(500));
        assert!(read.options.tls.is_some());
        let read = Connections::parse("a:1,password=\"quoted\",ssl=False").unwrap();
        assert_eq!(read.options.password.as_deref(), Some("quoted"));
        assert!(read.options.tls.is_none());
    }

    #[test]
    fn sentinels_get_their_own_options() {
        let text =
            "s:26379,password=secret,ssl=true,ssl_cert_reqs=none,sentinel_kwargs={\"password\":\"other\"}";
        let read = Connections::parse(text).unwrap();
        assert_eq!(read.sentinel.password.as_deref(), Some("other"));
        assert!(read.sentinel.tls.is_none());
        let read = Connections::parse("s:26379,password=secret").unwrap();
        assert_eq!(read.sentinel.password, None);
        assert!(!format!("{read:?}").contains("secret"));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let cases = [
            ("", "names no host"),
            ("db=1", "names no host"),
            ("redis://localhost:6379", "is a URL"),
            ("a:b", "`b` where a port belongs"),
            ("a:1,passwort=x", "unknown option `passwort`"),
            ("a:1,db=x", "`x` for `db`"),
            ("a:1,ssl=maybe", "`ssl`"),
            ("a:1,ssl_cert_reqs=some", "`some` for `ssl_cert_reqs`"),
            ("a:1,socket_timeout=-1", "`socket_timeout`"),
            (
                "a:1,ssl=true,ssl_ca_certs=/nowhere.pem",
                "`/nowhere.pem` of `ssl_ca_certs`",
            ),
            ("a:1,sentinel_kwargs=x", "no JSON object"),
        ];
        for (text, part) in cases {
            let error = Connections::parse(text).unwrap_err();
            assert!(error.message().contains(part), "{text}: {error}");
            assert_eq!(error.kind(), crate::error::Kind::Config);
        }
    }
}
