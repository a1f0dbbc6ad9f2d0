//! What the online stores in SQL databases share: connections, the way of rows out of an answer and into
//! a table, and conditions on them. No statement of a particular database is here.

pub(super) mod cells;
pub(super) mod connections;
pub(super) mod filling;
pub(super) mod matching;
pub(super) mod vectors;

use std::time::Duration;

use crate::{
    backoff::Backoff,
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

/// The columns of such a table that are there whatever the configuration.
pub(super) const COLUMNS: [&str; 6] = [
    "entity_key",
    "feature_name",
    "value",
    "value_text",
    "event_ts",
    "created_ts",
];

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
#[derive(Debug)]
pub(super) struct Races {
    lost: usize,
    backoff: Backoff,
}

impl Default for Races {
    fn default() -> Self {
        Self {
            lost: 0,
            backoff: Backoff::new(Duration::from_millis(5), Duration::from_millis(100)),
        }
    }
}

impl Races {
    /// Whether to try again, which it waits a moment for.
    pub(super) async fn again(&mut self, error: &sqlx::Error) -> bool {
        if !Database::is_lost_race(error) || self.lost == RACES {
            return false;
        }
        self.lost += 1;
        self.backoff.pause().await;
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
