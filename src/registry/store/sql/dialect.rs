//! Everything in which the SQL of the three databases differs, and the statements written in it.
//!
//! A row has a *mark*, a number that changes when the row does: in PostgreSQL the transaction that wrote
//! it, in MySQL a checksum of what is in it. SQLite has none; there, rows are compared.

use sqlx::{Any, any::AnyArguments, query::Query};

use super::schema::{self, Holds, LAST_UPDATED, METADATA, TABLES, Table};
use crate::database::{Database, Engine};

/// How statements are written for a database.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dialect {
    pub engine: Engine,
}

/// A modulus whose square fits a 64-bit number; see [`super::marks::Sum`].
pub(super) const MODULUS: i64 = 2_147_483_647;

/// How many rows a statement names at most.
pub(super) const NAMES: usize = 500;

/// What a row of [`Dialect::summary`] is about, beside positions in [`TABLES`].
pub(super) const OF_METADATA: i64 = 100;
pub(super) const OF_PROJECT: i64 = 101;
pub(super) const OF_EPOCH: i64 = 102;

/// A project in a database: what statements are about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub database: &'a Database,
    pub dialect: Dialect,
    pub project: &'a str,
}

impl<'a> Place<'a> {
    pub(super) fn new(database: &'a Database, project: &'a str) -> Self {
        let dialect = Dialect {
            engine: database.engine(),
        };
        Self {
            database,
            dialect,
            project,
        }
    }

    /// A statement that is run often enough to be kept by the server.
    pub(super) fn query(&self, statement: &str) -> Query<'static, Any, AnyArguments> {
        sqlx::query(self.database.sql(statement))
    }

    /// A statement whose text depends on how many rows it is about.
    pub(super) fn batch(&self, statement: &str, rows: usize) -> Query<'static, Any, AnyArguments> {
        self.query(statement).persistent(rows == 1)
    }

    /// Binds the project for `parts` of [`Dialect::of_project`].
    pub(super) fn bind(
        &self,
        mut query: Query<'static, Any, AnyArguments>,
        parts: usize,
    ) -> Query<'static, Any, AnyArguments> {
        for _ in 0..parts * self.dialect.project_binds() {
            query = query.bind(self.project);
        }
        query
    }
}

impl Dialect {
    /// Types of required and optional columns that hold messages.
    pub(super) fn blob(self) -> (&'static str, &'static str) {
        match self.engine {
            Engine::Sqlite => ("BLOB NOT NULL", "BLOB"),
            Engine::Postgres => ("BYTEA NOT NULL", "BYTEA"),
            Engine::MySql => ("LONGBLOB NOT NULL", "LONGBLOB"),
        }
    }

    /// Whether rows have marks.
    pub(super) fn has_marks(self) -> bool {
        self.engine != Engine::Sqlite
    }

    /// Whether rows come back in the order they were first written.
    pub(super) fn keeps_order(self) -> bool {
        self.engine == Engine::Sqlite
    }

    /// Begins a transaction that sees one state of everything and writes nothing.
    pub(super) fn snapshot(self) -> &'static str {
        match self.engine {
            Engine::Sqlite => "BEGIN",
            Engine::Postgres => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
            Engine::MySql => "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; START TRANSACTION READ ONLY",
        }
    }

    /// The condition for rows of one project; `project_id` is bound [`Dialect::project_binds`] times. An
    /// existing MySQL database may take `P` for `p`.
    pub(super) fn of_project(self) -> &'static str {
        match self.engine {
            Engine::MySql => {
                "project_id = ? AND CAST(CONVERT(project_id USING utf8mb4) AS BINARY) = CAST(? AS BINARY)"
            }
            Engine::Sqlite | Engine::Postgres => "project_id = ?",
        }
    }

    fn project_binds(self) -> usize {
        match self.engine {
            Engine::MySql => 2,
            Engine::Sqlite | Engine::Postgres => 1,
        }
    }

    /// The expression as a text that all texts of a `UNION` agree with.
    pub(super) fn text(self, expression: &str) -> String {
        match self.engine {
            Engine::MySql => format!("CAST({expression} AS CHAR CHARACTER SET utf8mb4) COLLATE utf8mb4_bin"),
            Engine::Sqlite | Engine::Postgres => format!("CAST({expression} AS TEXT)"),
        }
    }

    /// Keeps others from changing the rows that were read.
    pub(super) fn for_update(self) -> &'static str {
        match self.engine {
            Engine::Sqlite => "",
            Engine::Postgres | Engine::MySql => " FOR UPDATE",
        }
    }

    /// The mark of a row with these columns, the last of which is the one that changes most, written in
    /// that second.
    fn mark(self, columns: &[&str], second: &str) -> String {
        match self.engine {
            Engine::Sqlite => "0".to_owned(),
            Engine::Postgres => "CAST(CAST(xmin AS TEXT) AS BIGINT)".to_owned(),
            // 60 bits: a checksum, and some of the time and the length. A better digest of ten thousand
            // rows would take the server ten times as long, every second.
            Engine::MySql => format!(
                "CAST((CRC32(CONCAT_WS('|', {})) << 28) + ({second} * 1009 + LENGTH({})) % 268435456 AS SIGNED)",
                columns.join(", "),
                columns.last().unwrap_or(&"''")
            ),
        }
    }

    fn mark_of(self, table: Table) -> String {
        match table.holds {
            Holds::Versions => self.mark(
                &[
                    table.key,
                    "version_number",
                    "feature_view_type",
                    "COALESCE(description, '')",
                    "version_id",
                    table.message,
                ],
                "created_timestamp",
            ),
            _ => self.mark(&[table.key, table.message], LAST_UPDATED),
        }
    }

    /// Four columns: what it is about, and three texts. Of tables the sums of their marks, if there are
    /// marks; all metadata; the project's own row; and the server, because PostgreSQL's marks of another
    /// one, or of one that lost its last transactions, do not compare. Also, how often the project is bound.
    pub(super) fn summary(self) -> (String, usize) {
        let mut parts = Vec::new();
        if self.has_marks() {
            let condition = format!("WHERE {}", self.of_project());
            parts.extend(
                (0_i64..).zip(TABLES).map(|(position, table)| {
                    self.sums(position, table.name, &self.mark_of(table), &condition)
                }),
            );
        }
        parts.push(format!(
            "SELECT {OF_METADATA} AS t, {} AS a, {} AS b, {} AS c FROM {METADATA} WHERE {}",
            self.text("metadata_key"),
            self.text("metadata_value"),
            self.text("''"),
            self.of_project()
        ));
        parts.push(format!(
            "SELECT {OF_PROJECT} AS t, {} AS a, {} AS b, {} AS c FROM thali_projects WHERE {}",
            self.text("revision"),
            self.text("entries"),
            self.text("writer"),
            self.of_project()
        ));
        let about_project = parts.len();
        if self.engine == Engine::Postgres {
            parts.push(format!(
                "SELECT {OF_EPOCH} AS t, CAST(pg_postmaster_start_time() AS TEXT) AS a, \
                 CAST('' AS TEXT) AS b, CAST('' AS TEXT) AS c"
            ));
        }
        (parts.join(" UNION ALL "), about_project)
    }

    /// As [`Dialect::summary`], of all projects: what has to be equal as long as nothing changes.
    pub(super) fn watermark(self) -> String {
        let mut parts: Vec<_> = (0_i64..)
            .zip(TABLES)
            .map(|(position, table)| self.sums(position, table.name, &self.mark_of(table), ""))
            .collect();
        let mark = self.mark(&["project_id", "metadata_key", "metadata_value"], LAST_UPDATED);
        parts.push(self.sums(OF_METADATA, METADATA, &mark, ""));
        parts.push(format!(
            "SELECT {OF_PROJECT} AS t, {} AS a, {} AS b, {} AS c FROM thali_projects",
            self.text("COUNT(*)"),
            self.text("COALESCE(SUM(revision), 0)"),
            self.text("''"),
        ));
        parts.join(" UNION ALL ")
    }

    fn sums(self, about: i64, table: &str, mark: &str, condition: &str) -> String {
        format!(
            "SELECT {about} AS t, {} AS a, {} AS b, {} AS c FROM (SELECT {mark} AS x FROM {table} {condition}) m",
            self.text("COUNT(*)"),
            self.text("COALESCE(SUM(x), 0)"),
            self.text(&format!("COALESCE(SUM((x % {MODULUS}) * (x % {MODULUS})), 0)")),
        )
    }

    /// Table, name, number and mark of a project's rows in these tables.
    pub(super) fn marks(self, tables: &[usize]) -> String {
        let parts = tables.iter().filter_map(|position| {
            let table = TABLES.get(*position)?;
            let (key, number, mark) = (self.text(table.key), table.number(), self.mark_of(*table));
            Some(format!(
                "SELECT {position} AS t, {key} AS k, {number} AS n, {mark} AS m FROM {} WHERE {}",
                table.name,
                self.of_project()
            ))
        });
        parts.collect::<Vec<_>>().join(" UNION ALL ")
    }

    /// The same of rows with one of `count` names.
    pub(super) fn marks_of(self, position: usize, count: usize, locking: bool) -> String {
        let statement = self.marks(&[position]);
        let names = TABLES
            .get(position)
            .map_or_else(String::new, |table| named(*table, count));
        let lock = if locking { self.for_update() } else { "" };
        format!("{statement}{names}{lock}")
    }

    /// Table, name, number, mark, message and order of a project's rows in these tables.
    /// With `names`, of as many of one table.
    pub(super) fn rows(self, tables: &[usize], names: usize) -> String {
        let parts = tables.iter().filter_map(|position| {
            let table = TABLES.get(*position)?;
            let (key, mark) = (self.text(table.key), self.mark_of(*table));
            let order = if self.keeps_order() { "rowid" } else { "0" };
            Some(format!(
                "SELECT {position} AS t, {key} AS k, 0 AS n, {mark} AS m, {} AS p, {order} AS o FROM {} WHERE {}{}",
                table.message,
                table.name,
                self.of_project(),
                named(*table, names)
            ))
        });
        parts.collect::<Vec<_>>().join(" UNION ALL ")
    }

    /// Table, name, number, mark, message and the further columns of a project's versions, or those of as
    /// many `names`.
    pub(super) fn versions(self, names: usize) -> String {
        let [.., versions] = TABLES;
        format!(
            "SELECT {} AS t, {}, version_number, {}, feature_view_proto, {}, created_timestamp, {}, {} \
             FROM {} WHERE {}{}",
            schema::VERSIONS,
            self.text(versions.key),
            self.mark_of(versions),
            self.text("feature_view_type"),
            self.text("COALESCE(description, '')"),
            self.text("version_id"),
            versions.name,
            self.of_project(),
            named(versions, names)
        )
    }

    /// Inserts rows of one message each: name, project, seconds, message; of projects the name twice.
    pub(super) fn insert(self, table: Table, rows: usize) -> String {
        let key = if table.is_projects() {
            "project_id, project_name"
        } else {
            table.key
        };
        let project = if table.is_projects() { "" } else { " project_id," };
        format!(
            "INSERT INTO {} ({key},{project} {LAST_UPDATED}, {}) VALUES {}",
            table.name,
            table.message,
            tuples(4, rows)
        )
    }

    /// As [`Dialect::insert`]; of rows that exist it replaces the message and the time.
    pub(super) fn upsert(self, table: Table, rows: usize) -> String {
        let key = if table.is_projects() {
            "project_id".to_owned()
        } else {
            format!("{}, project_id", table.key)
        };
        let insert = self.insert(table, rows);
        format!("{insert}{}", self.or_update(&key, &[LAST_UPDATED, table.message]))
    }

    /// Inserts versions, or replaces those that exist.
    pub(super) fn put_versions(self, rows: usize) -> String {
        let replaced = [
            "feature_view_type",
            "feature_view_proto",
            "created_timestamp",
            "description",
            "version_id",
        ];
        format!(
            "INSERT INTO feature_view_version_history ({}) VALUES {}{}",
            schema::VERSION_COLUMNS,
            tuples(8, rows),
            self.or_update("feature_view_name, project_id, version_number", &replaced)
        )
    }

    /// Inserts one key of the metadata, and replaces it if that is wanted.
    pub(super) fn put_metadata(self, replace: bool) -> String {
        let insert = format!(
            "INSERT INTO {METADATA} (project_id, metadata_key, metadata_value, {LAST_UPDATED}) VALUES (?, ?, ?, ?)"
        );
        if !replace {
            return insert;
        }
        let update = self.or_update("project_id, metadata_key", &["metadata_value", LAST_UPDATED]);
        format!("{insert}{update}")
    }

    /// The project's own row, made if it is missing and locked in any case.
    pub(super) fn make_project(self) -> String {
        format!(
            "INSERT INTO thali_projects (project_id, revision, entries, writer) VALUES (?, 0, 0, ''){}",
            match self.engine {
                Engine::MySql => " ON DUPLICATE KEY UPDATE revision = revision",
                Engine::Sqlite | Engine::Postgres =>
                    " ON CONFLICT (project_id) DO UPDATE SET revision = thali_projects.revision",
            }
        )
    }

    fn or_update(self, key: &str, columns: &[&str]) -> String {
        let set = |value: &dyn Fn(&str) -> String| {
            let columns = columns
                .iter()
                .map(|column| format!("{column} = {}", value(column)));
            columns.collect::<Vec<_>>().join(", ")
        };
        match self.engine {
            Engine::MySql => format!(
                " ON DUPLICATE KEY UPDATE {}",
                set(&|column| format!("VALUES({column})"))
            ),
            Engine::Sqlite | Engine::Postgres => format!(
                " ON CONFLICT ({key}) DO UPDATE SET {}",
                set(&|column| format!("excluded.{column}"))
            ),
        }
    }

    /// Deletes a project's rows with one of `count` names, or all.
    pub(super) fn delete(self, table: Table, count: usize) -> String {
        format!(
            "DELETE FROM {} WHERE {}{}",
            table.name,
            self.of_project(),
            named(table, count)
        )
    }

    /// Table, column and type of every column there is.
    pub(super) fn columns(self) -> &'static str {
        match self.engine {
            Engine::Sqlite => {
                "SELECT m.name, p.name, p.type FROM sqlite_master m JOIN pragma_table_info(m.name) p \
                 WHERE m.type IN ('table', 'view')"
            }
            Engine::Postgres => {
                "SELECT CAST(table_name AS TEXT), CAST(column_name AS TEXT), CAST(data_type AS TEXT) \
                 FROM information_schema.columns WHERE table_schema = ANY (current_schemas(false))"
            }
            Engine::MySql => {
                "SELECT CAST(table_name AS CHAR), CAST(column_name AS CHAR), CAST(data_type AS CHAR) \
                 FROM information_schema.columns WHERE table_schema = DATABASE()"
            }
        }
    }
}

/// The condition that a row has one of `count` names; without any, none.
fn named(table: Table, count: usize) -> String {
    match count {
        0 => String::new(),
        _ => format!(" AND {} IN ({})", table.key, placeholders(count)),
    }
}

/// `?, ?, ?`
fn placeholders(count: usize) -> String {
    vec!["?"; count].join(", ")
}

fn tuples(width: usize, rows: usize) -> String {
    vec![format!("({})", placeholders(width)); rows].join(", ")
}
