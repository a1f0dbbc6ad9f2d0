//! A PostgreSQL server as Feast's store sections name it: `host`, `port`, `database`, `db_schema`, `user`,
//! `password`, `sslmode` and the paths of certificates. It opens no connection.

use sqlx::{
    ConnectOptions as _,
    postgres::{PgConnectOptions, PgSslMode},
};

use crate::{
    config::{
        Section,
        schema::{Key, Kind as Holds, missing, only, used},
    },
    error::{Error, Result},
};

const DEFAULT_PORT: i64 = 5432;
const DEFAULT_CONNECTIONS: i64 = 10;

/// The keys that name a server in a store's section.
pub(crate) const KEYS: [Key; 15] = [
    used("type", Holds::Text, Some("postgres")),
    used("host", Holds::Text, None),
    used("port", Holds::Int, Some("5432")),
    used("database", Holds::Text, None),
    used("db_schema", Holds::Text, Some("public")),
    used("user", Holds::Text, None),
    used("password", Holds::Secret, None),
    used(
        "sslmode",
        Holds::Choice(&[
            "disable",
            "allow",
            "prefer",
            "require",
            "verify-ca",
            "verify-full",
        ]),
        Some("require"),
    ),
    used("sslkey_path", Holds::Text, None),
    used("sslcert_path", Holds::Text, None),
    used("sslrootcert_path", Holds::Text, None),
    used("max_conn", Holds::Int, Some("10")),
    missing(
        "min_conn",
        Holds::Int,
        "connections are opened when they are needed",
    ),
    only(
        "conn_type",
        Holds::Choice(&["singleton", "pool"]),
        "pool",
        "connections are opened as they are needed, up to `max_conn` of them",
    ),
    missing(
        "keepalives_idle",
        Holds::Int,
        "connections are kept alive as the system has it",
    ),
];

/// Where the server is and how to be let in.
pub(crate) struct Server {
    pub(crate) options: PgConnectOptions,
    /// The URL without the password, for messages.
    pub(crate) address: String,
    pub(crate) user: String,
    /// Where tables without a schema of their own are.
    pub(crate) schema: String,
    /// `max_conn`.
    pub(crate) connections: usize,
}

impl Server {
    /// Reads a section that lies under `path`, such as `online_store`.
    ///
    /// # Errors
    /// `Config` naming the key that is missing or makes no sense.
    pub(crate) fn of(section: &Section, path: &str) -> Result<Self> {
        let needed = |key: &str| {
            section.text(key).ok_or_else(|| {
                let store = path.replace('_', " ");
                Error::config(format!("{store} `postgres` needs `{key}`"))
                    .hint(format!("set `{path}.{key}` in feature_store.yaml"))
            })
        };
        let (host, database, user) = (needed("host")?, needed("database")?, needed("user")?);
        let port = u16::try_from(section.int("port").unwrap_or(DEFAULT_PORT))
            .map_err(|_error| Error::config(format!("`{path}.port` is no port number")))?;
        let schema = section.text("db_schema").unwrap_or("public").trim();
        let search_path = match schema {
            "public" => "public".to_owned(),
            other => format!("{other},public"),
        };
        let mut ssl_mode: PgSslMode = section
            .text("sslmode")
            .unwrap_or("require")
            .parse()
            .map_err(|error: sqlx::Error| Error::config(format!("`{path}.sslmode`: {error}")))?;
        let mut options = PgConnectOptions::new_without_pgpass()
            .host(host)
            .port(port)
            .database(database)
            .username(user)
            .password(needed("password")?)
            .application_name("thali")
            .options([("search_path", search_path)])
            .disable_statement_logging();
        if let Some(path) = section.text("sslrootcert_path") {
            options = options.ssl_root_cert(path);
            // libpq checks the certificate when it is given one to check it by.
            if matches!(ssl_mode, PgSslMode::Require) {
                ssl_mode = PgSslMode::VerifyCa;
            }
        }
        if let Some(path) = section.text("sslcert_path") {
            options = options.ssl_client_cert(path);
        }
        if let Some(path) = section.text("sslkey_path") {
            options = options.ssl_client_key(path);
        }
        let connections = section.int("max_conn").unwrap_or(DEFAULT_CONNECTIONS);
        Ok(Self {
            options: options.ssl_mode(ssl_mode),
            address: format!("postgresql://{user}@{host}:{port}/{database}"),
            user: user.to_owned(),
            schema: schema.to_owned(),
            connections: usize::try_from(connections).unwrap_or(1),
        })
    }
}
