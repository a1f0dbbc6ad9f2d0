//! Reading: one statement for all views of a request, stepped through where it is asked. Its rows, one for
//! each value, are small and many. sqlx steps in a thread of its own and sends each row over; to have SQL
//! gather the rows of a request into one text, so that little is sent, takes twice the time of the rows.

use std::{
    fmt::Write as _,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread::available_parallelism,
    time::Duration,
};

use bytes::Bytes;
use rusqlite::{Connection, ErrorCode, OpenFlags, params_from_iter, types::ValueRef};
use tokio::sync::Semaphore;

use super::{BUSY_TIMEOUT, SqliteStore, quoted, table_name};
use crate::{
    error::{Error, Kind, Result},
    online::store::{KeyGroup, OnlineRead, RowBatch, ViewColumns, sql::filling::Filling},
};

/// How many requests read at the same time at most; more wait for their turn.
const READERS: usize = 8;

/// What each reader keeps of the file, in KiB: enough for the inner pages of a large one, which every read
/// goes through.
const CACHE: i64 = 16 * 1024;

/// How long a request waits for its turn.
const TURN_LIMIT: Duration = Duration::from_secs(3);

/// Prepared statements kept by each reader.
const STATEMENTS: usize = 256;

/// Values of a request that is answered where it is asked: to go to a thread and back takes as long as
/// reading some dozens of them.
const AT_ONCE: usize = 256;

/// Keys per statement; SQLite allows 32,766 parameters.
const KEYS_PER_STATEMENT: usize = 4096;

/// Views per statement; SQLite allows 500 terms of a compound select.
const VIEWS_PER_STATEMENT: usize = 100;

/// Connections that only read, each used by one request at a time.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    turns: Arc<Semaphore>,
}

impl Readers {
    /// They connect when they are first needed; by then the file exists in WAL mode.
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            idle: Mutex::default(),
            // Reading is work for a processor: more readers would only take turns on it.
            turns: Arc::new(Semaphore::new(
                available_parallelism().map_or(2, usize::from).clamp(2, READERS),
            )),
        }
    }

    fn connection(&self) -> rusqlite::Result<Connection> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(connection) = idle {
            return Ok(connection);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.pragma_update(None, "query_only", true)?;
        connection.pragma_update(None, "cache_size", -CACHE)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        Ok(connection)
    }

    /// Works with a connection that waits so long for a lock. It is kept for others unless the work failed.
    fn with<T>(
        &self,
        patience: Duration,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let connection = self.connection()?;
        connection.busy_timeout(patience)?;
        let done = work(&connection)?;
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(connection);
        Ok(done)
    }
}

impl SqliteStore {
    pub(super) async fn read_groups(&self, read: &OnlineRead<'_>) -> Result<Vec<RowBatch>> {
        if read.groups.iter().all(|group| group.views.is_empty()) {
            return Ok(Vec::new());
        }
        let turns = Arc::clone(&self.request_readers.turns);
        let Ok(Ok(turn)) = tokio::time::timeout(TURN_LIMIT, turns.acquire_owned()).await else {
            let path = self.path.display();
            return Err(Error::new(
                Kind::Overloaded,
                format!("reading online store `{path}`: no connection became free in time"),
            ));
        };
        let readers = Arc::clone(&self.request_readers);
        if cells(read) <= AT_ONCE {
            // In WAL mode nobody waits for a writer; what has to wait after all does so in a thread.
            let read = readers.with(Duration::ZERO, |connection| {
                read_all(connection, read.project, read.groups)
            });
            match read {
                Err(error) if is_busy(&error) => {}
                read => return read.map_err(|error| self.failed("reading", error)),
            }
        }
        let project = read.project.to_owned();
        let groups = read.groups.to_vec();
        let reading = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            readers.with(BUSY_TIMEOUT, |connection| read_all(connection, &project, &groups))
        });
        match reading.await {
            Ok(batches) => batches.map_err(|error| self.failed("reading", error)),
            Err(error) => Err(Error::internal(format!("reading the online store: {error}"))),
        }
    }
}

/// The number of values a request asks for.
fn cells(read: &OnlineRead<'_>) -> usize {
    let of_group = |group: &KeyGroup| {
        let features: usize = group.views.iter().map(|view| view.features.len()).sum();
        group.keys.len() * features
    };
    read.groups.iter().map(of_group).sum()
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
}

fn read_all(connection: &Connection, project: &str, groups: &[KeyGroup]) -> rusqlite::Result<Vec<RowBatch>> {
    let mut filling = Filling::new(groups.iter().map(|group| (&*group.keys, &*group.views)));
    if let Some(statement) = Statement::whole(project, groups)
        && fill(connection, &statement, &mut filling)?
    {
        return Ok(filling.finish());
    }
    // Too large for one statement, or a table is missing: view by view, a missing one has no rows.
    for part in parts(groups) {
        for keys in groups[part.group].keys.chunks(KEYS_PER_STATEMENT) {
            fill(connection, &Statement::single(project, &part, keys), &mut filling)?;
        }
    }
    Ok(filling.finish())
}

/// Runs a statement and puts what it answers into its place; answers false, having filled nothing, if a
/// table is missing.
fn fill(
    connection: &Connection,
    statement: &Statement<'_>,
    filling: &mut Filling<'_>,
) -> rusqlite::Result<bool> {
    let mut prepared = match connection.prepare_cached(&statement.sql) {
        Ok(prepared) => prepared,
        Err(error) if is_missing_table(&error) => return Ok(false),
        Err(error) => return Err(error),
    };
    let mut rows = prepared.query(params_from_iter(&statement.parameters))?;
    loop {
        let row = match rows.next() {
            Ok(Some(row)) => row,
            Ok(None) => return Ok(true),
            // It was there when the statement was prepared.
            Err(error) if is_missing_table(&error) => return Ok(false),
            Err(error) => return Err(error),
        };
        let part = usize::try_from(row.get::<_, i64>(0)?).unwrap_or(usize::MAX);
        let micros = seconds(row.get_ref(4)?).saturating_mul(1_000_000);
        let (key, feature, value) = (row.get_ref(1)?, row.get_ref(2)?, row.get_ref(3)?);
        filling.put(part, bytes(key), bytes(feature), bytes(value), micros);
    }
}

/// A text or some bytes; nothing for null.
fn bytes(value: ValueRef<'_>) -> &[u8] {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes,
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => &[],
    }
}

/// Seconds since 1970, which Feast stores as whole numbers.
fn seconds(value: ValueRef<'_>) -> i64 {
    match value {
        ValueRef::Integer(seconds) => seconds,
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the nearest whole number there is"
        )]
        ValueRef::Real(seconds) => seconds as i64,
        ValueRef::Text(_) | ValueRef::Blob(_) | ValueRef::Null => 0,
    }
}

fn is_missing_table(error: &rusqlite::Error) -> bool {
    error.to_string().contains("no such table")
}

/// One view's place in a statement.
struct Part<'a> {
    group: usize,
    /// Which of the answer's batches it fills.
    batch: usize,
    view: &'a ViewColumns,
}

fn parts(groups: &[KeyGroup]) -> impl Iterator<Item = Part<'_>> {
    let views = groups.iter().enumerate();
    let views = views.flat_map(|(group, of_group)| of_group.views.iter().map(move |view| (group, view)));
    views
        .enumerate()
        .map(|(batch, (group, view))| Part { group, batch, view })
}

/// One statement with its parameters.
struct Statement<'a> {
    sql: String,
    parameters: Vec<&'a [u8]>,
}

impl<'a> Statement<'a> {
    fn empty() -> Self {
        Self {
            sql: String::with_capacity(512),
            parameters: Vec::new(),
        }
    }

    /// Everything in one statement, if it fits.
    fn whole(project: &str, groups: &'a [KeyGroup]) -> Option<Self> {
        let views: usize = groups.iter().map(|group| group.views.len()).sum();
        let keys: usize = groups.iter().map(|group| group.keys.len()).sum();
        if views > VIEWS_PER_STATEMENT || keys > KEYS_PER_STATEMENT {
            return None;
        }
        let mut statement = Self::empty();
        let of_groups: Vec<_> = groups.iter().map(|group| statement.keys(&group.keys)).collect();
        for part in parts(groups).filter(|part| !groups[part.group].keys.is_empty()) {
            statement.select(project, &part, &of_groups[part.group]);
        }
        (!statement.sql.is_empty()).then_some(statement)
    }

    fn single(project: &str, part: &Part<'a>, keys: &'a [Bytes]) -> Self {
        let mut statement = Self::empty();
        let parameters = statement.keys(keys);
        statement.select(project, part, &parameters);
        statement
    }

    /// Binds a key set and answers the numbers of its parameters. The count is rounded up to a power of
    /// two by repeating the last key, so that few distinct statements have to be prepared.
    fn keys(&mut self, keys: &'a [Bytes]) -> std::ops::RangeInclusive<usize> {
        let first = self.parameters.len() + 1;
        self.parameters.extend(keys.iter().map(|key| key.as_ref()));
        if let Some(last) = keys.last() {
            let padded = keys.len().next_power_of_two() - keys.len();
            self.parameters.extend(std::iter::repeat_n(last.as_ref(), padded));
        }
        first..=self.parameters.len()
    }

    fn select(&mut self, project: &str, part: &Part<'a>, parameters: &std::ops::RangeInclusive<usize>) {
        if !self.sql.is_empty() {
            self.sql.push_str(" UNION ALL ");
        }
        let table = quoted(&table_name(project, &part.view.table.name));
        // Writing into a String cannot fail.
        let _ = write!(
            self.sql,
            "SELECT {}, entity_key, feature_name, value, event_ts FROM {table} WHERE entity_key IN (",
            part.batch
        );
        for number in parameters.clone() {
            let comma = if number == *parameters.start() { "" } else { "," };
            let _ = write!(self.sql, "{comma}?{number}");
        }
        // Going through all features of an entity is faster than finding most of them one by one; the plus
        // keeps SQLite from the latter.
        let most = part.view.features.len() * 2 > part.view.table.view.features.len();
        let plus = if most { "+" } else { "" };
        let _ = write!(self.sql, ") AND {plus}feature_name IN (");
        for (index, feature) in part.view.features.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let _ = write!(self.sql, "{comma}'{}'", feature.replace('\'', "''"));
        }
        self.sql.push(')');
    }
}
