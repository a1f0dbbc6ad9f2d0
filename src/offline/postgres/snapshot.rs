//! [`Snapshot`]: the rows of a table as they are at a moment, and by what they are known.
//!
//! A row of PostgreSQL is never changed in its place: whatever changes it makes another version of it, with
//! the number of the transaction that made it (`xmin`) and a place of its own (`ctid`). So the sum of the
//! hashes of these, of all rows in question, tells whether they are the same rows; the server need not look
//! at what is in them, nor send anything. Sum and rows are read in one transaction that sees one moment.
//! Numbers and places count within one server and one line of its history, so these are told too.
//!
//! Only tables that PostgreSQL keeps itself have such versions, with their partitions. Of views, foreign
//! tables, other table access methods and queries, and of servers that only speak PostgreSQL's language,
//! nothing is known: whether a query has the same rows could only be told by running it once more.

use std::sync::Arc;

use sqlx::{AssertSqlSafe, PgConnection};
use tokio::sync::OwnedSemaphorePermit;

use super::{ANSWER_LIMIT, Server};
use crate::error::Result;

/// The server, its line of history and its database; and whether the table and all it is made of have versions.
const TABLE: &str = "\
    WITH RECURSIVE tables(oid) AS (\
        SELECT to_regclass($1)::oid UNION SELECT inhrelid FROM pg_inherits JOIN tables ON inhparent = tables.oid) \
    SELECT concat_ws(' ', (SELECT system_identifier FROM pg_control_system()), \
        (SELECT timeline_id FROM pg_control_checkpoint()), \
        (SELECT oid FROM pg_database WHERE datname = current_database())), \
        bool_and(coalesce(relkind = 'p' OR relkind IN ('r', 'm') AND amname = 'heap', false)) \
    FROM tables LEFT JOIN pg_class USING (oid) LEFT JOIN pg_am ON pg_am.oid = relam";

/// A transaction that goes on seeing what there was when it began.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// See the module.
pub(super) struct Snapshot {
    connection: PgConnection,
    turn: OwnedSemaphorePermit,
}

impl Snapshot {
    /// A snapshot of a table, of which the rows `from` (what comes after `FROM`, with the table as `source`) are
    /// wanted; and by what they are known. Nothing where that cannot be told.
    ///
    /// # Errors
    /// `Unavailable` when the server is away.
    pub(super) async fn of(server: &Arc<Server>, table: &str, from: &str) -> Result<Option<(Self, String)>> {
        let (mut connection, turn) = server.reading().await?;
        let asked = sqlx::query_as(TABLE).bind(table).fetch_one(&mut connection);
        let asked: Option<(String, bool)> = server.within(ANSWER_LIMIT, told(asked)).await?;
        let Some((place, true)) = asked else {
            return Ok(None);
        };
        let begun = sqlx::raw_sql(BEGIN).execute(&mut connection);
        server.within(ANSWER_LIMIT, begun).await?;
        let statement = format!(
            "SELECT count(*), coalesce(sum(hashtextextended(\
             source.tableoid::text || ' ' || source.ctid::text || ' ' || source.xmin::text, 0)), 0)::text FROM {from}"
        );
        // As long as it takes: it looks at every row, as reading them does.
        let asked = sqlx::query_as(AssertSqlSafe(statement)).fetch_one(&mut connection);
        let asked: Option<(i64, String)> = told(asked).await.map_err(|error| server.failed(error))?;
        Ok(asked.map(|(rows, sum)| {
            let known_by = format!("{place} {rows} {sum}");
            (Self { connection, turn }, known_by)
        }))
    }

    /// The connection on which the snapshot is what is read, and its turn.
    pub(super) fn into_connection(self) -> (PgConnection, OwnedSemaphorePermit) {
        (self.connection, self.turn)
    }
}

/// The answer to a question that a server may not understand.
async fn told<T>(asked: impl Future<Output = Result<T, sqlx::Error>>) -> Result<Option<T>, sqlx::Error> {
    match asked.await {
        Err(sqlx::Error::Database(_)) => Ok(None),
        other => other.map(Some),
    }
}
