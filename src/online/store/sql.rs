//! What the online stores in SQL databases share: connections, the way of rows out of an answer and into
//! a table, and conditions on them. No statement of a particular database is here.

pub(super) mod cells;
pub(super) mod connections;
pub(super) mod filling;
pub(super) mod matching;
pub(super) mod vectors;

use std::time::Duration;

use crate::{
    database::{Database, failure},
    error::{Error, Result},
};

/// How often a batch is written again after another writer came first.
const RACES: usize = 20;

/// How long a statement may take until the database counts as away. A read of a request takes
/// milliseconds; this is for servers that vanish without a word.
pub(super) const READ_LIMIT: Duration = Duration::from_secs(10);
/// The same of a statement that writes or goes through a whole table.
pub(super) const LONG_LIMIT: Duration = Duration::from_secs(600);

/// The table of a view, as Feast calls it in all of its SQL stores.
pub(super) fn table_name(project: &str, table: &str) -> String {
    format!("{project}_{table}")
}

/// So many `?`, with commas between.
pub(super) fn placeholders(width: usize) -> String {
    let mut text = "?,".repeat(width);
    text.pop();
    text
}

/// Ends a statement of a server that does not answer.
pub(super) async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done,
        Err(_elapsed) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
    }
}

/// Counts the races that a writer lost, so that it gives up in the end.
#[derive(Debug, Default)]
pub(super) struct Races(usize);

impl Races {
    /// Whether to try again; waits a moment that grows and differs, so that the same writers do not meet
    /// again.
    pub(super) async fn again(&mut self, error: &sqlx::Error) -> bool {
        if !Database::is_lost_race(error) || self.0 == RACES {
            return false;
        }
        self.0 += 1;
        let spread = u64::from(uuid::Uuid::new_v4().as_bytes()[0]);
        tokio::time::sleep(Duration::from_micros(spread * self.0 as u64 * 20)).await;
        true
    }
}

/// What to tell about a failed statement.
pub(super) fn failed(place: &str, error: sqlx::Error) -> Error {
    failure::in_words(place, error)
}

pub(super) fn is_missing_table(error: &sqlx::Error) -> bool {
    failure::is_missing_table(error)
}
