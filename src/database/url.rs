//! [`DatabaseUrl`]: where a SQL database is, read as `SQLAlchemy` reads it and told to sqlx in its words.
//! Connecting is not done here.

mod options;

use std::{
    borrow::Cow,
    fmt,
    path::{Path, PathBuf, absolute},
    time::Duration,
};

use url::{Url, form_urlencoded};

use super::Engine;
use crate::error::{Error, Result};

const FORMS: &str = "`postgresql://user:password@host/database`, `mysql://user:password@host/database`, \
                     `sqlite:///relative/file.db` or `sqlite:////absolute/file.db`";
/// What stands in the place of a password.
const MASK: &str = "***";

/// A SQL database by URL. Printing it never shows the password.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl {
    engine: Engine,
    place: Place,
    /// sqlx's own options, in its words.
    options: Vec<(&'static str, String)>,
    connect_timeout: Option<Duration>,
    warnings: Vec<String>,
}

#[derive(Clone, PartialEq, Eq)]
enum Place {
    File(PathBuf),
    Server(Server),
}

#[derive(Clone, PartialEq, Eq, Default)]
struct Server {
    user: Option<String>,
    password: Option<String>,
    host: Option<String>,
    port: Option<u16>,
    database: Option<String>,
}

impl DatabaseUrl {
    /// Reads a `SQLAlchemy` URL; relative file names start from `base`.
    ///
    /// # Errors
    /// `Config` when it is malformed or an option cannot be understood, `Unsupported` for other databases.
    pub fn parse(text: &str, base: &Path) -> Result<Self> {
        let text = text.trim();
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(Error::config("this is not a database URL").hint(format!("for example {FORMS}")));
        };
        let scheme = scheme.to_ascii_lowercase();
        let (dialect, driver) = scheme.split_once('+').unwrap_or((&scheme, ""));
        let engine = match dialect {
            "sqlite" if driver != "pysqlcipher" => Engine::Sqlite,
            "postgresql" | "postgres" => Engine::Postgres,
            "mysql" | "mariadb" => Engine::MySql,
            _ => {
                return Err(Error::unsupported(format!(
                    "databases of the kind `{scheme}` are not supported"
                ))
                .hint(format!("supported: {FORMS}")));
            }
        };
        let (rest, query) = split_query(rest);
        let place = match engine {
            Engine::Sqlite => Place::File(file(rest, base)?),
            Engine::Postgres | Engine::MySql => Place::Server(server(rest)?),
        };
        let options: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes())
            .map(|(key, value)| (key.into_owned(), value.into_owned()))
            .collect();
        Self::at(engine, place).with_options(&options)
    }

    /// A SQLite database in `file`.
    pub fn sqlite(file: &Path) -> Self {
        let file = absolute(file).unwrap_or_else(|_error| file.to_owned());
        Self::at(Engine::Sqlite, Place::File(file))
    }

    fn at(engine: Engine, place: Place) -> Self {
        Self {
            engine,
            place,
            options: Vec::new(),
            connect_timeout: None,
            warnings: Vec::new(),
        }
    }

    /// The URL with driver options laid over its own, such as `connect_args` of `SQLAlchemy`.
    ///
    /// # Errors
    /// `Config` when the value of an option cannot be understood.
    pub fn with_options(mut self, options: &[(String, String)]) -> Result<Self> {
        for (key, value) in options {
            match self.engine {
                Engine::Sqlite => self.sqlite_option(key, value)?,
                Engine::Postgres => self.postgres_option(key, value)?,
                Engine::MySql => self.mysql_option(key, value)?,
            }
        }
        Ok(self)
    }

    /// Which SQL it speaks.
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// The file of a SQLite database.
    pub fn file(&self) -> Option<&Path> {
        match &self.place {
            Place::File(path) => Some(path),
            Place::Server(_) => None,
        }
    }

    /// How long connecting may take; for SQLite how long to wait for another writer.
    pub fn connect_timeout(&self) -> Option<Duration> {
        self.connect_timeout
    }

    /// Whether the file is only to be read.
    pub(super) fn is_read_only(&self) -> bool {
        self.options.contains(&("mode", "ro".to_owned()))
    }

    /// What was asked for and means nothing here.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The URL as sqlx's `Any` driver reads it. It holds the password: never print it.
    pub(super) fn target(&self) -> Result<Url> {
        let text = match &self.place {
            Place::File(path) => match path.to_str() {
                Some(path) => format!("sqlite://{}", encode(path, "/")),
                None => return Err(Error::config(format!("`{}` is not UTF-8", path.display()))),
            },
            Place::Server(_) if self.engine == Engine::Postgres => "postgres:///".to_owned(),
            Place::Server(server) => {
                let part = |text: &Option<String>| encode(text.as_deref().unwrap_or_default(), "");
                let (user, password) = (part(&server.user), part(&server.password));
                let user = if user.is_empty() { "root".to_owned() } else { user };
                let host = match server.host.as_deref().unwrap_or("localhost") {
                    host if host.contains(':') => format!("[{host}]"),
                    host => host.to_owned(),
                };
                let port = server.port.unwrap_or(3306);
                format!(
                    "mysql://{user}:{password}@{host}:{port}/{}",
                    part(&server.database)
                )
            }
        };
        let mut url = Url::parse(&text)
            .map_err(|error| Error::config(format!("the database URL `{self}` is malformed: {error}")))?;
        let mut pairs: Vec<(&str, Cow<'_, str>)> = Vec::new();
        if let (Engine::Postgres, Place::Server(server)) = (self.engine, &self.place) {
            // Here everything may be given in the query, which spares the rules of authorities.
            let texts = [
                ("user", &server.user),
                ("password", &server.password),
                ("host", &server.host),
                ("dbname", &server.database),
            ];
            let given = |(key, text): (&'static str, &'_ Option<String>)| Some((key, text.clone()?.into()));
            pairs.extend(texts.into_iter().filter_map(given));
            pairs.extend(server.port.map(|port| ("port", port.to_string().into())));
        }
        pairs.extend(
            self.options
                .iter()
                .map(|(key, value)| (*key, Cow::from(value.as_str()))),
        );
        if !pairs.is_empty() {
            url.query_pairs_mut().extend_pairs(pairs);
        }
        Ok(url)
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = match &self.place {
            Place::File(path) => return write!(f, "sqlite:///{}", path.display()),
            Place::Server(server) => server,
        };
        write!(f, "{}://", self.engine.scheme())?;
        if let Some(user) = &server.user {
            f.write_str(user)?;
            if server.password.is_some() {
                write!(f, ":{MASK}")?;
            }
            f.write_str("@")?;
        }
        match server.host.as_deref().unwrap_or_default() {
            host if host.contains(':') => write!(f, "[{host}]")?,
            host => f.write_str(host)?,
        }
        if let Some(port) = server.port {
            write!(f, ":{port}")?;
        }
        write!(f, "/{}", server.database.as_deref().unwrap_or_default())
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseUrl({self})")
    }
}

/// A password may hold a raw `?`, as `SQLAlchemy` allows.
fn split_query(rest: &str) -> (&str, &str) {
    let authority = userinfo(rest).map_or(0, |info| info.len() + 1);
    match rest.get(authority..).and_then(|rest| rest.find('?')) {
        Some(mark) => {
            let (rest, query) = rest.split_at(authority + mark);
            (rest, query.trim_start_matches('?'))
        }
        None => (rest, ""),
    }
}

/// `user:password` of `user:password@host:1/database?query`.
fn userinfo(rest: &str) -> Option<&str> {
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let authority = rest.get(..end)?;
    if let Some((info, _)) = authority.rsplit_once('@') {
        return Some(info);
    }
    // `user:pass/word@host`: what follows the colon is no port, so it begins a password.
    let (_, port) = authority.rsplit_once(':')?;
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit());
    if is_port {
        None
    } else {
        rest.split_once('@').map(|(info, _)| info)
    }
}

fn server(rest: &str) -> Result<Server> {
    let mut server = Server::default();
    let mut after = rest;
    if let Some(info) = userinfo(rest) {
        after = rest.get(info.len() + 1..).unwrap_or_default();
        let (user, password) = match info.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (info, None),
        };
        server.user = Some(decode(user)?).filter(|user| !user.is_empty());
        server.password = password.map(decode).transpose()?;
    }
    let (authority, database) = after.split_once('/').unwrap_or((after, ""));
    let (host, port) = match authority
        .strip_prefix('[')
        .and_then(|inner| inner.split_once(']'))
    {
        Some((host, port)) => (host, port.strip_prefix(':')),
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    server.host = Some(decode(host)?).filter(|host| !host.is_empty());
    if let Some(port) = port.filter(|port| !port.is_empty()) {
        server.port = Some(port_number(port)?);
    }
    server.database = Some(decode(database)?).filter(|database| !database.is_empty());
    Ok(server)
}

/// The file after `sqlite://`: a slash and a relative path, or two for an absolute one.
fn file(rest: &str, base: &Path) -> Result<PathBuf> {
    const HINT: &str = "`sqlite:///relative/file.db` or `sqlite:////absolute/file.db`";
    let Some(file) = rest.strip_prefix('/') else {
        let text = if rest.is_empty() {
            "a database in memory is seen by nobody else; give the URL a file"
        } else {
            "the URL of a SQLite database has three slashes before the file"
        };
        return Err(Error::config(text).hint(HINT));
    };
    let file = decode(file)?;
    let file = file.strip_prefix("file:").unwrap_or(&file);
    if file.is_empty() || file == ":memory:" {
        return Err(
            Error::config("a database in memory is seen by nobody else; give the URL a file").hint(HINT),
        );
    }
    let path = base.join(file);
    absolute(&path).map_err(|error| Error::config(format!("`{}` is no file: {error}", path.display())))
}

fn port_number(text: &str) -> Result<u16> {
    text.parse()
        .map_err(|_error| Error::config(format!("`{text}` is no port of a database server")))
        .map_err(|error| error.hint("special characters in a password are written as %XX, `@` as %40"))
}

/// `%41` to `A`; a lone `%` stays, as in Python.
fn decode(text: &str) -> Result<String> {
    // A plus sign is one here, unlike in a query.
    let pair = format!("v={}", text.replace('+', "%2B").replace('&', "%26"));
    let mut pairs = form_urlencoded::parse(pair.as_bytes());
    let decoded = pairs.next().map(|(_, value)| value.into_owned());
    match decoded {
        Some(decoded) if !decoded.contains(char::REPLACEMENT_CHARACTER) => Ok(decoded),
        _ => Err(Error::config("a %XX sequence of the database URL is not UTF-8")),
    }
}

fn encode(text: &str, keep: &str) -> String {
    use fmt::Write as _;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        let plain = char::from(byte);
        if plain.is_ascii_alphanumeric() || "-._~".contains(plain) || keep.contains(plain) {
            encoded.push(plain);
        } else {
            // Writing into a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests;
