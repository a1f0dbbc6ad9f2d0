//! What sqlx reports, as one line a user can act on. Every database has numbers of its own for the same
//! few troubles; here they get one name.

use std::io;

use sqlx::{mysql::MySqlDatabaseError, postgres::PgDatabaseError};

use super::Database;
use crate::error::{Error, Kind};

/// The troubles a user can do something about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// Nobody answers.
    Unreachable,
    TlsFailed,
    BadOptions,
    WrongPassword,
    NoSuchDatabase,
    NoRights,
    TooManyConnections,
    AllInUse,
    Locked,
    DiskFull,
    NotADatabase,
    ReadOnly,
    LostRace,
    Duplicate,
    TooSlow,
    BadValue,
    MissingTable,
    Gone,
    Other,
}

impl Database {
    /// The error in one line, with the database and never its password.
    pub fn failed(&self, error: sqlx::Error) -> Error {
        self.describe(&error, false).source_error(error)
    }

    /// Another writer came first: a deadlock, a serialization failure, a lock that took too long, a key
    /// that exists. Trying the whole transaction again can help.
    pub fn is_lost_race(error: &sqlx::Error) -> bool {
        matches!(
            trouble(error),
            Trouble::LostRace | Trouble::Locked | Trouble::Duplicate
        )
    }

    /// A row with this key exists.
    pub fn is_duplicate(error: &sqlx::Error) -> bool {
        trouble(error) == Trouble::Duplicate
    }

    /// The connection broke, or the server ended it.
    pub fn is_disconnect(error: &sqlx::Error) -> bool {
        matches!(trouble(error), Trouble::Gone | Trouble::Unreachable)
    }

    /// At the start it is the configuration that is wrong; later the same trouble is the database's.
    pub(super) fn cannot_open(&self, error: &sqlx::Error) -> Error {
        self.describe(error, true)
    }

    fn describe(&self, error: &sqlx::Error, opening: bool) -> Error {
        let place = format!("the database `{}`", self.url());
        let limit = self.pool().options().get_max_connections();
        if trouble(error) == Trouble::AllInUse && self.pool().size() >= limit {
            let text = format!("all {limit} connections to {place} are in use");
            let (_, hint) = words(Trouble::AllInUse);
            return Error::new(kind(Trouble::AllInUse, opening), text).hint(hint);
        }
        describe(&place, error, opening)
    }
}

/// The error of a statement in one line; `place` says of which database, without its password.
pub(crate) fn in_words(place: &str, error: sqlx::Error) -> Error {
    describe(place, &error, false).source_error(error)
}

fn describe(place: &str, error: &sqlx::Error, opening: bool) -> Error {
    let trouble = trouble(error);
    let cause = cause(error);
    let (what, hint) = words(trouble);
    let text = if cause.is_empty() {
        format!("{place} {what}")
    } else {
        format!("{place} {what}: {cause}")
    };
    let text = Error::new(kind(trouble, opening), text);
    if hint.is_empty() { text } else { text.hint(hint) }
}

fn kind(trouble: Trouble, opening: bool) -> Kind {
    match trouble {
        Trouble::BadOptions
        | Trouble::WrongPassword
        | Trouble::NoSuchDatabase
        | Trouble::NoRights
        | Trouble::ReadOnly
        | Trouble::NotADatabase
        | Trouble::TlsFailed
            if opening =>
        {
            Kind::Config
        }
        Trouble::LostRace | Trouble::Duplicate => Kind::Conflict,
        Trouble::BadValue => Kind::InvalidArgument,
        Trouble::TooSlow => Kind::DeadlineExceeded,
        Trouble::MissingTable | Trouble::Other => Kind::Internal,
        _ => Kind::Unavailable,
    }
}

fn words(trouble: Trouble) -> (&'static str, &'static str) {
    match trouble {
        Trouble::Unreachable => (
            "cannot be reached",
            "check that it runs and that host and port are right",
        ),
        Trouble::TlsFailed => (
            "offers no TLS connection that can be trusted",
            "check `sslmode` and the certificates",
        ),
        Trouble::BadOptions => ("cannot be opened", "check the options of its URL"),
        Trouble::WrongPassword => ("refuses the user or the password", ""),
        Trouble::NoSuchDatabase => ("does not exist", "create it, or correct its name in the URL"),
        Trouble::NoRights => (
            "does not allow it",
            "grant the user the rights to read, to write and to create tables",
        ),
        Trouble::TooManyConnections => (
            "has no connection left",
            "lower `pool_size` and `max_overflow`, or raise the limit of the server",
        ),
        Trouble::AllInUse => (
            "gives no connection",
            "raise `pool_size` or `max_overflow` in `sqlalchemy_config_kwargs`",
        ),
        Trouble::Locked => ("is locked by another writer", "try again"),
        Trouble::DiskFull => ("has no space left on its disk", "free some and try again"),
        Trouble::NotADatabase => (
            "is damaged or is no database",
            "move the file away, or restore a backup",
        ),
        Trouble::ReadOnly => (
            "can only be read",
            "check the rights of the file or folder, or whether the server is a replica",
        ),
        Trouble::LostRace => ("let another writer go first", "try again"),
        Trouble::Duplicate => ("has it already", "try again"),
        Trouble::TooSlow => ("ended a statement that took too long", ""),
        Trouble::BadValue => ("cannot keep a value", ""),
        Trouble::MissingTable => ("misses a table", ""),
        Trouble::Gone => ("ended the connection", "try again"),
        Trouble::Other => ("reports", ""),
    }
}

/// What the database itself says, on one line.
fn cause(error: &sqlx::Error) -> String {
    let text = match error {
        sqlx::Error::Database(inner) => inner.message().to_owned(),
        sqlx::Error::Io(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
            io::ErrorKind::TimedOut => "no answer in time".to_owned(),
            _ => error.to_string(),
        },
        sqlx::Error::Tls(error) | sqlx::Error::Configuration(error) => error.to_string(),
        sqlx::Error::PoolTimedOut => String::new(),
        other => other.to_string(),
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

pub(crate) fn is_missing_table(error: &sqlx::Error) -> bool {
    trouble(error) == Trouble::MissingTable
}

pub(super) fn is_damaged(error: &sqlx::Error) -> bool {
    trouble(error) == Trouble::NotADatabase
}

fn trouble(error: &sqlx::Error) -> Trouble {
    match error {
        sqlx::Error::Io(error) => match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted => Trouble::Gone,
            _ => Trouble::Unreachable,
        },
        sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed | sqlx::Error::PoolClosed => Trouble::Gone,
        sqlx::Error::Tls(_) => Trouble::TlsFailed,
        sqlx::Error::Configuration(_) => Trouble::BadOptions,
        sqlx::Error::PoolTimedOut => Trouble::AllInUse,
        sqlx::Error::Database(inner) => {
            if let Some(error) = inner.try_downcast_ref::<PgDatabaseError>() {
                postgres(error.code())
            } else if let Some(error) = inner.try_downcast_ref::<MySqlDatabaseError>() {
                mysql(error.number())
            } else {
                let code = inner.code().and_then(|code| code.parse().ok());
                sqlite(code.unwrap_or_default(), inner.message())
            }
        }
        _ => Trouble::Other,
    }
}

/// By SQLSTATE.
fn postgres(code: &str) -> Trouble {
    match code {
        "28000" | "28P01" => Trouble::WrongPassword,
        "3D000" => Trouble::NoSuchDatabase,
        "42501" => Trouble::NoRights,
        "53300" => Trouble::TooManyConnections,
        "53100" => Trouble::DiskFull,
        "55P03" => Trouble::Locked,
        "40001" | "40P01" => Trouble::LostRace,
        "23505" => Trouble::Duplicate,
        "25006" => Trouble::ReadOnly,
        "57014" => Trouble::TooSlow,
        "42P01" => Trouble::MissingTable,
        "57P03" => Trouble::Unreachable,
        "57P01" | "57P02" | "57P05" => Trouble::Gone,
        "XX001" | "XX002" => Trouble::NotADatabase,
        _ if code.starts_with("08") => Trouble::Gone,
        _ if code.starts_with("22") => Trouble::BadValue,
        _ => Trouble::Other,
    }
}

/// By error number, MariaDB's among them.
fn mysql(number: u16) -> Trouble {
    match number {
        1045 | 1698 | 1251 | 1130 => Trouble::WrongPassword,
        1049 => Trouble::NoSuchDatabase,
        1044 | 1142 | 1143 | 1227 | 1370 => Trouble::NoRights,
        1040 | 1203 | 1226 => Trouble::TooManyConnections,
        1021 | 1026 | 1114 => Trouble::DiskFull,
        1205 | 3572 => Trouble::Locked,
        1213 | 1020 => Trouble::LostRace,
        1022 | 1062 | 1169 | 1586 => Trouble::Duplicate,
        1290 | 1792 | 1836 => Trouble::ReadOnly,
        1317 | 1969 | 3024 => Trouble::TooSlow,
        1146 => Trouble::MissingTable,
        1053 | 1927 | 2006 | 2013 => Trouble::Gone,
        1153 | 1264 | 1292 | 1366 | 1406 => Trouble::BadValue,
        1194 | 1195 | 1030 => Trouble::NotADatabase,
        _ => Trouble::Other,
    }
}

/// By extended result code, whose low byte is the kind.
fn sqlite(code: i32, message: &str) -> Trouble {
    match (code & 0xff, code) {
        (5 | 6, _) => Trouble::Locked,
        (3 | 8 | 23, _) => Trouble::ReadOnly,
        (14, _) => Trouble::Unreachable,
        (13, _) => Trouble::DiskFull,
        (11 | 26, _) => Trouble::NotADatabase,
        (9, _) => Trouble::TooSlow,
        (18, _) => Trouble::BadValue,
        (_, 1555 | 2067 | 2579) => Trouble::Duplicate,
        (1, _) if message.starts_with("no such table") => Trouble::MissingTable,
        _ => Trouble::Other,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::database::{DatabaseOptions, DatabaseUrl};

    #[test]
    fn the_same_trouble_has_one_name() {
        assert_eq!(postgres("08006"), Trouble::Gone);
        assert_eq!(postgres("22021"), Trouble::BadValue);
        assert_eq!(mysql(1213), postgres("40P01"));
        assert_eq!(sqlite(5 | 2 << 8, "database is locked"), Trouble::Locked);
        assert_eq!(sqlite(1, "no such table: x"), Trouble::MissingTable);
        assert_eq!(sqlite(1, "syntax error"), Trouble::Other);
    }

    #[tokio::test]
    async fn a_file_that_is_no_database_is_said_to_be_none() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join("r.db"),
            "text, and quite a lot of it".repeat(50),
        )
        .unwrap();
        let url = DatabaseUrl::parse("sqlite:///r.db", folder.path()).unwrap();
        let error = Database::open(&url, &DatabaseOptions::default())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        assert!(
            error.message().contains("is damaged or is no database"),
            "{error}"
        );
    }
}
