//! Texts, indexed by SQLite's own FTS5 for as long as a search takes, as Feast does: words by their stems,
//! FTS5's language of queries, and its ranks (BM25). Unlike Feast's the index has each entity once, and
//! goes again: nothing of a search stays in the file.

use sqlx::{AssertSqlSafe, Row as _, SqliteConnection};

use super::{
    quoted,
    search::{Place, each},
};

/// The index, which only the connection that searches sees.
const INDEX: &str = "temp.thali_words";

/// What to search for, in which features.
pub(super) struct Words {
    pub(super) features: Vec<String>,
    pub(super) text: String,
}

impl Words {
    /// The entities that match and their ranks; greater is better.
    pub(super) async fn rank(
        &self,
        connection: &mut SqliteConnection,
        place: &Place<'_>,
        mut found: impl FnMut(&[u8], f64),
    ) -> Result<(), sqlx::Error> {
        // A search that was given up may have left its own.
        self.run(connection, format!("DROP TABLE IF EXISTS {INDEX}"), &[])
            .await?;
        self.index(connection, place).await?;
        let mut ended = matches(connection, place, &self.text, &mut found).await;
        if ended.as_ref().is_err_and(is_no_query) {
            ended = match plain(&self.text) {
                Some(words) => matches(connection, place, &words, &mut found).await,
                None => Ok(()),
            };
        }
        self.run(connection, format!("DROP TABLE {INDEX}"), &[]).await?;
        ended
    }

    /// Indexes the texts of every candidate under the number of one of its rows.
    async fn index(&self, connection: &mut SqliteConnection, place: &Place<'_>) -> Result<(), sqlx::Error> {
        let columns: Vec<String> = self.features.iter().map(|name| column(name)).collect();
        let columns = columns.join(", ");
        let make = format!(
            "CREATE VIRTUAL TABLE {INDEX} USING fts5({columns}, content='', tokenize='porter unicode61')"
        );
        self.run(connection, make, &[]).await?;
        let text = |name: &String| {
            format!(
                "max(CASE feature_name WHEN '{}' THEN value_text END)",
                name.replace('\'', "''")
            )
        };
        let texts: Vec<String> = self.features.iter().map(text).collect();
        let fill = format!(
            "INSERT INTO {INDEX} (rowid, {columns}) SELECT min(rowid), {} FROM {} WHERE {} GROUP BY entity_key",
            texts.join(", "),
            place.table,
            place.condition
        );
        self.run(connection, fill, place.parameters).await
    }

    async fn run(
        &self,
        connection: &mut SqliteConnection,
        sql: String,
        parameters: &[String],
    ) -> Result<(), sqlx::Error> {
        let query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
        let bound = parameters.iter().fold(query, |query, text| query.bind(text));
        bound.execute(connection).await.map(drop)
    }
}

async fn matches(
    connection: &mut SqliteConnection,
    place: &Place<'_>,
    query: &str,
    found: &mut impl FnMut(&[u8], f64),
) -> Result<(), sqlx::Error> {
    let table = place.table;
    let sql = format!(
        "SELECT entity_key, -hit.rank FROM (SELECT rowid AS row, rank FROM {INDEX} WHERE thali_words MATCH ?1) hit \
         JOIN {table} ON {table}.rowid = hit.row"
    );
    let rows = sqlx::query(AssertSqlSafe(sql)).persistent(false).bind(query);
    each(rows.fetch(connection), |row| {
        found(row.try_get_unchecked(0)?, row.try_get_unchecked(1)?);
        Ok(true)
    })
    .await
}

/// The column of a feature; two names mean something else to FTS5.
fn column(feature: &str) -> String {
    match feature.to_ascii_lowercase().as_str() {
        "rank" | "rowid" => quoted(&format!("{feature}_")),
        _ => quoted(feature),
    }
}

/// Whether the text is not one of FTS5's queries: most people just write words.
fn is_no_query(error: &sqlx::Error) -> bool {
    let said = |text: &str| matches!(error, sqlx::Error::Database(error) if error.message().contains(text));
    [
        "fts5: ",
        "no such column",
        "unterminated string",
        "unknown special query",
    ]
    .into_iter()
    .any(said)
}

/// The words of a text as a query for all of them.
fn plain(text: &str) -> Option<String> {
    let words = text.split(|letter: char| !letter.is_alphanumeric());
    let words: Vec<String> = words.filter(|word| !word.is_empty()).map(quoted).collect();
    (!words.is_empty()).then(|| words.join(" "))
}
