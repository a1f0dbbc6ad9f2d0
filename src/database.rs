//! [`Database`]: a SQL database by the URL Feast is given, one code path for SQLite, PostgreSQL and
//! MySQL/MariaDB. It connects, begins transactions, migrates tables of thali's own and puts errors into
//! words; which tables there are is the business of those who use it.

pub(crate) mod failure;
mod migrate;
pub(crate) mod postgres;
mod url;

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
    time::Duration,
};

use sqlx::{
    Any, AnyConnection, AnyPool, AssertSqlSafe, ConnectOptions, Connection, Executor,
    any::{AnyConnectOptions, AnyPoolOptions, install_default_drivers},
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::timeout,
};

pub use self::{migrate::Migration, url::DatabaseUrl};
use crate::error::{Error, Result};

/// How long connecting may take unless the URL says otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a writer waits for another one's lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the pool may take until it is asked whether the server is there at all.
const DOUBT: Duration = Duration::from_secs(2);
/// How soon [`Database::check`] has to know.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// Which SQL a database speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Engine {
    Sqlite,
    Postgres,
    /// MariaDB too.
    MySql,
}

impl Engine {
    /// The scheme of its URLs.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgresql",
            Self::MySql => "mysql",
        }
    }
}

/// How connections are kept, as `sqlalchemy_config_kwargs` says it. The default is `SQLAlchemy`'s, but
/// for `pool_pre_ping`: a connection that died in the pool is noticed before it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseOptions {
    /// Connections; 0 is no limit.
    pub pool_size: u32,
    /// Further ones under load; `None` is no limit.
    pub max_overflow: Option<u32>,
    /// How long to wait for a connection.
    pub pool_timeout: Duration,
    /// The age at which a connection is replaced.
    pub pool_recycle: Option<Duration>,
    pub pool_pre_ping: bool,
    /// Whether statements are logged.
    pub echo: bool,
}

impl Default for DatabaseOptions {
    fn default() -> Self {
        Self {
            pool_size: 5,
            max_overflow: Some(10),
            pool_timeout: Duration::from_secs(30),
            pool_recycle: None,
            pool_pre_ping: true,
            echo: false,
        }
    }
}

impl DatabaseOptions {
    fn max_connections(&self) -> u32 {
        /// What "no limit" comes to.
        const MANY: u32 = 256;
        match (self.pool_size, self.max_overflow) {
            (0, _) | (_, None) => MANY,
            (size, Some(overflow)) => size.saturating_add(overflow),
        }
    }
}

/// An opened database. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Database {
    url: Arc<DatabaseUrl>,
    pool: AnyPool,
    connect: AnyConnectOptions,
    /// SQLite has one writer at a time, and its own waiting is a lottery: writers of this process queue.
    turn: Option<Arc<Mutex<()>>>,
}

impl Database {
    /// Connects once, so that what is wrong is said at once. The folder and the file of a SQLite
    /// database are made if they are missing.
    ///
    /// # Errors
    /// `Config` when the address, the rights or the password are wrong, `Unavailable` when the server or
    /// the file cannot be reached.
    pub async fn open(url: &DatabaseUrl, options: &DatabaseOptions) -> Result<Self> {
        install_default_drivers();
        let mut target = url.target()?;
        if let Some(file) = url.file()
            && !url.is_read_only()
        {
            if let Some(folder) = file.parent() {
                std::fs::create_dir_all(folder).map_err(|error| {
                    Error::unavailable(format!("cannot create `{}`: {error}", folder.display()))
                })?;
            }
            target.query_pairs_mut().append_pair("mode", "rwc");
        }
        let mut connect = AnyConnectOptions::from_url(&target)
            .map_err(|_error| Error::config(format!("the database URL `{url}` is malformed")))?;
        connect = match "info".parse() {
            Ok(level) if options.echo => connect.log_statements(level),
            _ => connect.disable_statement_logging(),
        };
        let setup = setup(url);
        let pool = AnyPoolOptions::new()
            .max_connections(options.max_connections())
            .acquire_timeout(options.pool_timeout)
            .max_lifetime(options.pool_recycle)
            .test_before_acquire(options.pool_pre_ping)
            .after_connect(move |connection, _| Box::pin(set_up(connection, Arc::clone(&setup))))
            .connect_lazy_with(connect.clone());
        let database = Self {
            url: Arc::new(url.clone()),
            pool,
            connect,
            turn: (url.engine() == Engine::Sqlite).then(Arc::default),
        };
        match database.connect_once().await {
            Ok(()) => Ok(database),
            Err(error) => Err(database.cannot_open(&error)),
        }
    }

    /// Which SQL it speaks.
    pub fn engine(&self) -> Engine {
        self.url.engine()
    }

    /// Where it is.
    pub fn url(&self) -> &DatabaseUrl {
        &self.url
    }

    /// Its connections, for single statements.
    pub fn pool(&self) -> &AnyPool {
        &self.pool
    }

    /// A statement written with `?` for its parameters, in the words of this database. Names are quoted
    /// with `"` in all of them, if at all.
    pub fn sql(&self, statement: &str) -> AssertSqlSafe<String> {
        AssertSqlSafe(match self.engine() {
            Engine::Postgres => numbered(statement),
            Engine::Sqlite | Engine::MySql => statement.to_owned(),
        })
    }

    /// An expression for the present time by the database's clock, in microseconds since 1970: the one
    /// clock all processes share.
    pub fn now(&self) -> &'static str {
        match self.engine() {
            Engine::Sqlite => "CAST(unixepoch('now', 'subsec') * 1000000 AS INTEGER)",
            Engine::Postgres => "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)",
            Engine::MySql => "CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED)",
        }
    }

    /// A connection of the pool, for several statements that need no transaction.
    ///
    /// # Errors
    /// `Unavailable` with the cause when there is none in time.
    pub async fn connection(&self) -> Result<PoolConnection<Any>> {
        match self.while_reachable(self.pool.acquire()).await {
            Ok(connection) => Ok(connection),
            Err(error) => Err(self.explained(error).await),
        }
    }

    /// Begins a writer's transaction: what it reads to decide is what it changes, once it has locked it.
    /// SQLite's is the only writer from the start; PostgreSQL and MySQL see what others committed.
    ///
    /// # Errors
    /// `Unavailable` when there is no connection or, with SQLite, other writers take too long.
    pub async fn begin(&self) -> Result<Transaction> {
        let turn = match &self.turn {
            Some(turn) => Some(Arc::clone(turn).lock_owned().await),
            None => None,
        };
        let statement = match self.engine() {
            Engine::Sqlite => "BEGIN IMMEDIATE",
            Engine::Postgres => "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '30s'",
            // The isolation level is set for the whole session.
            Engine::MySql => "START TRANSACTION",
        };
        let begin = || self.while_reachable(self.pool.begin_with(statement));
        let mut begun = begin().await;
        if begun.as_ref().is_err_and(Self::is_disconnect) {
            begun = begin().await;
        }
        match begun {
            Ok(inner) => Ok(Transaction { inner, _turn: turn }),
            Err(error) => Err(self.explained(error).await),
        }
    }

    /// Runs a statement that bears being run twice, once more if the connection broke.
    ///
    /// # Errors
    /// sqlx's.
    pub async fn retried<T, F, A>(&self, attempt: F) -> Result<T, sqlx::Error>
    where
        F: Fn() -> A,
        A: Future<Output = Result<T, sqlx::Error>>,
    {
        match self.while_reachable(attempt()).await {
            Err(error) if Self::is_disconnect(&error) => self.while_reachable(attempt()).await,
            done => done,
        }
    }

    /// Readiness: answers within seconds.
    ///
    /// # Errors
    /// `Unavailable` when the database does not answer.
    pub async fn check(&self) -> Result<()> {
        let asked = async {
            let mut connection = self.pool.acquire().await?;
            connection.execute("SELECT 1").await
        };
        match timeout(CHECK_TIMEOUT, asked).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(self.explained(error).await),
            Err(_elapsed) => Err(self.explained(sqlx::Error::PoolTimedOut).await),
        }
    }

    /// A connection of its own, in no pool: for those who hold it for long.
    ///
    /// # Errors
    /// sqlx's.
    pub async fn alone(&self) -> Result<AnyConnection, sqlx::Error> {
        let limit = match self.engine() {
            Engine::Sqlite => None,
            Engine::Postgres | Engine::MySql => self.url.connect_timeout(),
        };
        let attempt = async {
            let mut connection = AnyConnection::connect_with(&self.connect).await?;
            set_up(&mut connection, setup(&self.url)).await?;
            Ok(connection)
        };
        match timeout(limit.unwrap_or(CONNECT_TIMEOUT), attempt).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
        }
    }

    /// A connection of its own that hears what is said on a channel by `NOTIFY`; `None` where the database
    /// has no such thing.
    ///
    /// # Errors
    /// sqlx's.
    pub async fn listen(&self, channel: &str) -> Result<Option<PgListener>, sqlx::Error> {
        if self.engine() != Engine::Postgres {
            return Ok(None);
        }
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(self.url.connect_timeout().unwrap_or(CONNECT_TIMEOUT))
            .connect_lazy_with(PgConnectOptions::try_from(&self.connect)?);
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.listen(channel).await?;
        Ok(Some(listener))
    }

    /// Waits for the pool as long as the server can be reached: the pool itself goes on trying to connect
    /// to one that is away until its time is up.
    async fn while_reachable<T>(
        &self,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        let mut work = std::pin::pin!(work);
        if self.engine() == Engine::Sqlite {
            return work.await;
        }
        if let Ok(done) = timeout(DOUBT, &mut work).await {
            return done;
        }
        match self.connect_once().await {
            Err(error) if Self::is_disconnect(&error) => Err(error),
            _ => work.await,
        }
    }

    /// Connects outside of the pool, which would go on trying, and hangs up.
    async fn connect_once(&self) -> Result<(), sqlx::Error> {
        self.alone().await?.close().await
    }

    /// As [`Database::failed`]. The pool only says that there was no connection in time; this finds out why.
    pub async fn explained(&self, error: sqlx::Error) -> Error {
        if matches!(error, sqlx::Error::PoolTimedOut)
            && self.pool.size() < self.pool.options().get_max_connections()
            && let Err(cause) = self.connect_once().await
        {
            return self.failed(cause);
        }
        self.failed(error)
    }
}

/// A transaction that is rolled back unless it is committed. It derefs to its connection.
#[derive(Debug)]
pub struct Transaction {
    // Dropped in this order: the next writer's turn comes when this one is over.
    inner: sqlx::Transaction<'static, Any>,
    _turn: Option<OwnedMutexGuard<()>>,
}

impl Transaction {
    /// Makes its changes last.
    ///
    /// # Errors
    /// sqlx's, so that a lost race can be told from a failure; after a lost connection it is not known
    /// whether the changes were kept.
    pub async fn commit(self) -> Result<(), sqlx::Error> {
        self.inner.commit().await
    }

    /// Forgets its changes.
    ///
    /// # Errors
    /// sqlx's.
    pub async fn rollback(self) -> Result<(), sqlx::Error> {
        self.inner.rollback().await
    }
}

impl Deref for Transaction {
    type Target = AnyConnection;

    fn deref(&self) -> &AnyConnection {
        &self.inner
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut AnyConnection {
        &mut self.inner
    }
}

/// What a new connection is told.
fn setup(url: &DatabaseUrl) -> Arc<[String]> {
    let wait = url.connect_timeout().unwrap_or(LOCK_TIMEOUT);
    match url.engine() {
        Engine::Sqlite if url.is_read_only() => {
            Arc::from([format!("PRAGMA busy_timeout = {}", wait.as_millis())])
        }
        Engine::Sqlite => Arc::from([
            format!("PRAGMA busy_timeout = {}", wait.as_millis()),
            "PRAGMA journal_mode = WAL".to_owned(),
        ]),
        Engine::Postgres => Arc::from([]),
        // Names in double quotes, as everywhere else; too long a value is an error, never cut off.
        Engine::MySql => Arc::from([
            "SET SESSION sql_mode = CONCAT(@@sql_mode, ',ANSI_QUOTES,STRICT_ALL_TABLES')".to_owned(),
            "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED".to_owned(),
            format!(
                "SET SESSION innodb_lock_wait_timeout = {}",
                LOCK_TIMEOUT.as_secs()
            ),
        ]),
    }
}

async fn set_up(connection: &mut AnyConnection, statements: Arc<[String]>) -> Result<(), sqlx::Error> {
    for statement in statements.iter() {
        let done = connection
            .execute(sqlx::raw_sql(AssertSqlSafe(statement.clone())))
            .await;
        match done {
            // It stays with the file, and another process may be changing it at this moment. Where it
            // cannot be had (an unusual file system), all works but readers wait for writers.
            Err(error) if statement.contains("journal_mode") => {
                if failure::is_damaged(&error) {
                    return Err(error);
                }
                tracing::debug!(%error, "database stays without a write-ahead log");
            }
            done => {
                done?;
            }
        }
    }
    Ok(())
}

/// `?` to `$1`, `$2` …, but for those within quotes.
fn numbered(statement: &str) -> String {
    let mut text = String::with_capacity(statement.len() + 8);
    let mut quote = None;
    let mut number = 0_u32;
    for letter in statement.chars() {
        match (quote, letter) {
            (None, '?') => {
                number += 1;
                text.push('$');
                text.push_str(&number.to_string());
                continue;
            }
            (None, '\'' | '"') => quote = Some(letter),
            (Some(open), _) if open == letter => quote = None,
            _ => {}
        }
        text.push(letter);
    }
    text
}

#[cfg(test)]
mod tests;
