//! Writing what has changed, in as few statements as there are tables. Who writes with the project's
//! lock has no rival among thali's processes; Feast's own clients know no lock, so rows that exist are
//! locked and compared first, and rows that should not exist are inserted, never replaced.

use std::collections::HashSet;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use sqlx::{AnyConnection, Row};

use super::{
    super::{ProjectState, ViewVersion, version_kind_name},
    delta::Delta,
    dialect::{NAMES, Place},
    known::{Key, Marks},
    limits::Limits,
    schema::{self, INFRA, INFRA_NAME, LAST_UPDATED, TABLES, Table, VERSIONS},
};
use crate::{database::Database, error::Error};

/// Why a transaction came to nothing.
#[derive(Debug)]
pub(super) enum Stop {
    /// Trying again does not help.
    Final(Error),
    /// A client without the project's lock changed this object in between.
    Overtaken(String),
    /// The database has rows of one of these names already.
    Taken {
        table: usize,
        names: Vec<String>,
    },
    Sql(sqlx::Error),
}

impl From<sqlx::Error> for Stop {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

/// Marks of rows as they were written; `None` of those that are gone.
pub(super) type Written = Vec<(usize, Key, Option<i64>)>;

/// How many bytes of messages go into one statement, if there is more than one message.
const BATCH_BYTES: usize = 1 << 20;

type Message<'a> = (&'a str, &'a Bytes);

/// What happens to the rows of one table.
#[derive(Default)]
struct Rows<'a> {
    gone: Vec<&'a str>,
    changed: Vec<Message<'a>>,
    new: Vec<Message<'a>>,
}

/// Writes `delta` in the transaction of `connection`. Answers the marks of what it wrote.
pub(super) async fn write(
    connection: &mut AnyConnection,
    place: Place<'_>,
    limits: &Limits,
    delta: &Delta,
    before: &ProjectState,
    marks: &[Marks],
    now: DateTime<Utc>,
) -> Result<Written, Stop> {
    let mut writer = Writer {
        connection,
        place,
        seconds: now.timestamp(),
        written: Vec::new(),
    };
    if delta.wipe {
        for table in TABLES.iter().map(|table| table.name).chain([schema::METADATA]) {
            let statement = format!("DELETE FROM {table} WHERE {}", place.dialect.of_project());
            let query = place.bind(place.query(&statement), 1);
            query.execute(&mut *writer.connection).await?;
        }
    }
    for (table, rows) in rows(delta, before).iter().enumerate() {
        limits.check(table, rows.changed.iter().chain(&rows.new))?;
        if let Some(marks) = marks.get(table) {
            writer.table(table, rows, marks).await?;
        }
    }
    writer.versions(limits, delta).await?;
    writer.metadata(delta, before).await?;
    Ok(writer.written)
}

fn rows<'a>(delta: &'a Delta, before: &ProjectState) -> [Rows<'a>; VERSIONS] {
    let mut tables: [Rows<'a>; VERSIONS] = Default::default();
    let mut add = |table: usize, name: &'a str, existed: bool, after: Option<&'a Bytes>| {
        let Some(rows) = tables.get_mut(table) else { return };
        match (existed && !delta.wipe, after) {
            (true, Some(bytes)) => rows.changed.push((name, bytes)),
            (false, Some(bytes)) => rows.new.push((name, bytes)),
            (true, None) => rows.gone.push(name),
            (false, None) => {}
        }
    };
    for ((kind, name), after) in &delta.objects {
        let existed = before.object(*kind, name).is_some();
        let after = after.as_ref().map(|object| &object.bytes);
        add(schema::position(*kind), name, existed, after);
    }
    if let Some(infra) = &delta.infra {
        add(INFRA, INFRA_NAME, before.infra.is_some(), infra.as_ref());
    }
    tables
}

struct Writer<'a> {
    connection: &'a mut AnyConnection,
    place: Place<'a>,
    seconds: i64,
    written: Written,
}

impl Writer<'_> {
    async fn table(&mut self, position: usize, rows: &Rows<'_>, marks: &Marks) -> Result<(), Stop> {
        let Some(table) = TABLES.get(position).copied() else {
            return Ok(());
        };
        let changed = rows.changed.iter().map(|(name, _)| *name);
        let present: Vec<&str> = rows.gone.iter().copied().chain(changed.clone()).collect();
        if self.place.dialect.has_marks() {
            for names in present.chunks(NAMES) {
                self.lock(position, table, names, marks).await?;
            }
        }
        for names in rows.gone.chunks(NAMES) {
            let statement = self.place.dialect.delete(table, names.len());
            let done = self
                .named(&statement, names)
                .execute(&mut *self.connection)
                .await?;
            if done.rows_affected() != names.len() as u64 {
                return Err(Stop::Overtaken(label(table, names.first().copied())));
            }
        }
        for batch in batches(&rows.changed) {
            let statement = self.place.dialect.upsert(table, batch.len());
            self.put(&statement, batch).await?;
        }
        for batch in batches(&rows.new) {
            let statement = self.place.dialect.insert(table, batch.len());
            let done = self.put(&statement, batch).await;
            done.map_err(|error| taken(error, position, batch.iter().map(|(name, _)| *name)))?;
        }
        let gone = rows
            .gone
            .iter()
            .map(|name| (position, ((*name).to_owned(), 0), None));
        self.written.extend(gone);
        let written: Vec<&str> = rows.new.iter().map(|(name, _)| *name).chain(changed).collect();
        self.remember(position, &written, |_| true).await
    }

    /// Keeps everybody else from changing rows that exist, and makes sure that they are what is known.
    async fn lock(
        &mut self,
        position: usize,
        table: Table,
        names: &[&str],
        marks: &Marks,
    ) -> Result<(), Stop> {
        let mut missing: HashSet<&str> = names.iter().copied().collect();
        let statement = self.place.dialect.marks_of(position, names.len(), true);
        let query = self.named(&statement, names);
        for row in query.fetch_all(&mut *self.connection).await? {
            let key: Key = (row.try_get(1)?, row.try_get(2)?);
            if missing.remove(key.0.as_str()) && marks.get(&key) != Some(row.try_get(3)?) {
                return Err(Stop::Overtaken(label(table, Some(&key.0))));
            }
        }
        match missing.into_iter().next() {
            Some(name) => Err(Stop::Overtaken(label(table, Some(name)))),
            None => Ok(()),
        }
    }

    async fn put(&mut self, statement: &str, batch: &[Message<'_>]) -> Result<(), sqlx::Error> {
        let mut query = self.place.batch(statement, batch.len());
        for (name, bytes) in batch {
            query = query
                .bind(*name)
                .bind(self.place.project)
                .bind(self.seconds)
                .bind(&bytes[..]);
        }
        query.execute(&mut *self.connection).await.map(drop)
    }

    async fn versions(&mut self, limits: &Limits, delta: &Delta) -> Result<(), Stop> {
        let [.., table] = TABLES;
        if !delta.wipe {
            let dropped: Vec<&str> = delta.dropped.iter().map(String::as_str).collect();
            for names in dropped.chunks(NAMES) {
                let statement = self.place.dialect.delete(table, names.len());
                self.named(&statement, names)
                    .execute(&mut *self.connection)
                    .await?;
            }
        }
        let put: Vec<&ViewVersion> = delta.versions.values().flatten().map(AsRef::as_ref).collect();
        let messages: Vec<Message<'_>> = put
            .iter()
            .map(|version| (version.view.as_str(), &version.bytes))
            .collect();
        limits.check(VERSIONS, &messages)?;
        let mut rest = &put[..];
        for batch in batches(&messages) {
            let (these, others) = rest.split_at(batch.len());
            rest = others;
            let statement = self.place.dialect.put_versions(these.len());
            let mut query = self.place.batch(&statement, these.len());
            for version in these {
                query = query
                    .bind(&version.view)
                    .bind(self.place.project)
                    .bind(i64::from(version.number))
                    .bind(version_kind_name(version.kind))
                    .bind(&version.bytes[..])
                    .bind(version.created.timestamp())
                    .bind(&version.description)
                    .bind(&version.version_id);
            }
            query.execute(&mut *self.connection).await?;
        }
        for ((view, number), after) in &delta.versions {
            if after.is_none() {
                self.written
                    .push((VERSIONS, (view.clone(), i64::from(*number)), None));
            }
        }
        let views: HashSet<&str> = put.iter().map(|version| version.view.as_str()).collect();
        let views: Vec<&str> = views.into_iter().collect();
        // Others than these may be there that are not known yet: they stay unknown until they are read.
        let is_written = |key: &Key| {
            let number = u32::try_from(key.1).unwrap_or_default();
            let after = delta.versions.get(&(key.0.clone(), number));
            after.is_some_and(Option::is_some)
        };
        self.remember(VERSIONS, &views, is_written).await
    }

    async fn metadata(&mut self, delta: &Delta, before: &ProjectState) -> Result<(), Stop> {
        for (key, value) in &delta.metadata {
            let known = before.metadata.iter().any(|(old, _)| old == key) && !delta.wipe;
            let done = self.put_metadata(key, value, known).await;
            done.map_err(|error| match error {
                error if Database::is_duplicate(&error) => Stop::Overtaken(format!("metadata `{key}`")),
                error => Stop::Sql(error),
            })?;
        }
        Ok(())
    }

    async fn put_metadata(&mut self, key: &str, value: &str, replace: bool) -> Result<(), sqlx::Error> {
        let query = self.place.query(&self.place.dialect.put_metadata(replace));
        let query = query
            .bind(self.place.project)
            .bind(key)
            .bind(value)
            .bind(self.seconds);
        query.execute(&mut *self.connection).await.map(drop)
    }

    /// Notes the marks that rows have now.
    async fn remember(
        &mut self,
        position: usize,
        names: &[&str],
        is_written: impl Fn(&Key) -> bool,
    ) -> Result<(), Stop> {
        if !self.place.dialect.has_marks() {
            return Ok(());
        }
        let written: HashSet<&str> = names.iter().copied().collect();
        for names in names.chunks(NAMES) {
            let statement = self.place.dialect.marks_of(position, names.len(), false);
            let query = self.named(&statement, names);
            for row in query.fetch_all(&mut *self.connection).await? {
                let key: Key = (row.try_get(1)?, row.try_get(2)?);
                if written.contains(key.0.as_str()) && is_written(&key) {
                    let mark = row.try_get(3)?;
                    self.written.push((position, key, Some(mark)));
                }
            }
        }
        Ok(())
    }

    fn named(
        &self,
        statement: &str,
        names: &[&str],
    ) -> sqlx::query::Query<'static, sqlx::Any, sqlx::any::AnyArguments> {
        let mut query = self.place.bind(self.place.batch(statement, names.len()), 1);
        for name in names {
            query = query.bind(*name);
        }
        query
    }
}

/// Sets the time of the project's last change, as Feast keeps it.
pub(super) async fn touch(
    connection: &mut AnyConnection,
    place: Place<'_>,
    now: DateTime<Utc>,
) -> Result<(), Stop> {
    let seconds = now.timestamp();
    let mut writer = Writer {
        connection,
        place,
        seconds,
        written: Vec::new(),
    };
    Ok(writer
        .put_metadata(LAST_UPDATED, &seconds.to_string(), true)
        .await?)
}

fn taken<'a>(error: sqlx::Error, table: usize, names: impl Iterator<Item = &'a str>) -> Stop {
    match error {
        error if Database::is_duplicate(&error) => Stop::Taken {
            table,
            names: names.map(str::to_owned).collect(),
        },
        error => Stop::Sql(error),
    }
}

pub(super) fn label(table: Table, name: Option<&str>) -> String {
    format!("{} `{}`", table.label(), name.unwrap_or_default())
}

/// Parts of which each fits one statement.
fn batches<'a, 'b>(mut rest: &'a [Message<'b>]) -> impl Iterator<Item = &'a [Message<'b>]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |(number, (_, message)): &(usize, &Message<'_>)| {
            bytes += message.len();
            *number == 0 || (*number < NAMES && bytes <= BATCH_BYTES)
        };
        let count = rest.iter().enumerate().take_while(fits).count();
        let (batch, others) = rest.split_at_checked(count)?;
        rest = others;
        (!batch.is_empty()).then_some(batch)
    })
}
