//! Reading a project: a summary says which tables have changed since the last look, marks say which of
//! their rows, and only those are fetched. What turns out to be the same stays the same `Arc`.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use chrono::DateTime;
use sqlx::{AnyConnection, Row, any::AnyRow};

use super::{
    super::{ProjectState, Revision, ViewVersion, version_kind},
    dialect::{NAMES, OF_EPOCH, OF_METADATA, OF_PROJECT, Place},
    known::{Key, Known, Marks, Own, Sum},
    news::{Fetched, News, Value},
    schema::{INFRA, INFRA_NAME, LAST_UPDATED, TABLES, VERSIONS},
};

/// The answer to `Dialect::summary`.
#[derive(Default)]
struct Summary {
    sums: [Sum; TABLES.len()],
    metadata: Vec<(String, String)>,
    last_updated: Option<i64>,
    own: Own,
    epoch: String,
}

/// Looks at the project and brings `known` up to date. Objects that are new to it but equal to those of
/// `other`, what is known of the project by other means, are shared with that.
pub(super) async fn read<'k>(
    connection: &mut AnyConnection,
    place: Place<'_>,
    known: &'k mut Option<Known>,
    other: Option<&Arc<ProjectState>>,
) -> Result<&'k mut Known, sqlx::Error> {
    let summary = summary(connection, place).await?;
    let has_marks = place.dialect.has_marks();
    let comparable = known
        .as_ref()
        .filter(|known| has_marks && known.epoch == summary.epoch);
    let mut reader = Reader { connection, place };
    let news = match comparable {
        Some(known) => reader.changes(known, &summary).await?,
        None => reader.everything().await?,
    };
    // From here on nothing is awaited: either all of it is taken over or, before, nothing.
    let known = known.get_or_insert_with(|| Known::new(place.project, other));
    let last_updated = summary
        .last_updated
        .and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    let delta = news.delta(&known.state, other.map(Arc::as_ref));
    let is_same = delta.objects.is_empty()
        && delta.versions.is_empty()
        && delta.infra.is_none()
        && known.state.metadata == summary.metadata
        && known.state.last_updated == last_updated;
    if !is_same {
        let revision = new_revision(summary.own.revision);
        let mut state = delta.apply(&known.state, place.dialect.keeps_order(), revision, last_updated);
        state.metadata = summary.metadata;
        known.state = match other {
            Some(other) if is_equal(other, &state) => Arc::clone(other),
            _ => Arc::new(state),
        };
    }
    known.own = summary.own;
    known.epoch = summary.epoch;
    if has_marks {
        remember(&mut known.marks, news);
    }
    Ok(known)
}

fn remember(marks: &mut [Marks], news: News) {
    if news.whole {
        marks.iter_mut().for_each(Marks::clear);
    }
    for (table, key) in &news.gone {
        if let Some(marks) = marks.get_mut(*table) {
            marks.remove(key);
        }
    }
    for row in news.rows {
        if let Some(marks) = marks.get_mut(row.table) {
            marks.put(row.key, row.mark);
        }
    }
}

/// A name for a state. A Feast client changes rows and leaves the number alone.
pub(super) fn new_revision(number: i64) -> Revision {
    static STATES: AtomicU64 = AtomicU64::new(1);
    Revision(format!("{number}.{}", STATES.fetch_add(1, Ordering::Relaxed)))
}

/// Whether two states are the same but for their names.
fn is_equal(a: &ProjectState, b: &ProjectState) -> bool {
    let mut objects = a.objects.iter().zip(b.objects.iter());
    a.objects.len() == b.objects.len()
        && objects.all(|(a, b)| Arc::ptr_eq(a, b))
        && a.versions == b.versions
        && a.infra == b.infra
        && a.metadata == b.metadata
        && a.last_updated == b.last_updated
}

async fn summary(connection: &mut AnyConnection, place: Place<'_>) -> Result<Summary, sqlx::Error> {
    let (statement, parts) = place.dialect.summary();
    let query = place.bind(place.query(&statement), parts);
    let mut summary = Summary::default();
    for row in query.fetch_all(connection).await? {
        let about: i64 = row.try_get(0)?;
        let [a, b, c]: [String; 3] = [row.try_get(1)?, row.try_get(2)?, row.try_get(3)?];
        match about {
            OF_METADATA if a == LAST_UPDATED => summary.last_updated = b.parse().ok(),
            OF_METADATA => summary.metadata.push((a, b)),
            OF_PROJECT => {
                summary.own = Own {
                    revision: number(&a)?,
                    entries: number(&b)?,
                    writer: c,
                };
            }
            OF_EPOCH => summary.epoch = a,
            table => {
                let sums = usize::try_from(table)
                    .ok()
                    .and_then(|table| summary.sums.get_mut(table));
                if let Some(sum) = sums {
                    *sum = Sum {
                        count: number(&a)?,
                        sum: number(&b)?,
                        squares: number(&c)?,
                    };
                }
            }
        }
    }
    summary.metadata.sort();
    Ok(summary)
}

fn number<T>(text: &str) -> Result<T, sqlx::Error>
where
    T: std::str::FromStr<Err = std::num::ParseIntError>,
{
    text.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

struct Reader<'a> {
    connection: &'a mut AnyConnection,
    place: Place<'a>,
}

/// When more than one in so many rows of a table is wanted, all are fetched.
const FEW: usize = 4;

impl Reader<'_> {
    /// All rows of all tables.
    async fn everything(&mut self) -> Result<News, sqlx::Error> {
        let objects: Vec<usize> = (0..VERSIONS).collect();
        let mut rows = self.objects(&objects, &[]).await?;
        rows.extend(self.versions(&[]).await?);
        Ok(News {
            rows,
            gone: Vec::new(),
            whole: true,
        })
    }

    /// Rows that do not have the marks that are known, in tables whose sums tell that there are any.
    async fn changes(&mut self, known: &Known, summary: &Summary) -> Result<News, sqlx::Error> {
        let mut news = News::default();
        let sums = known.marks.iter().zip(&summary.sums).enumerate();
        let changed: Vec<usize> = sums
            .filter(|(_, (marks, sum))| marks.sum() != **sum)
            .map(|(table, _)| table)
            .collect();
        if changed.is_empty() {
            return Ok(news);
        }
        let present = self.marks(&changed).await?;
        for table in changed {
            let (Some(present), Some(marks)) = (present.get(table), known.marks.get(table)) else {
                continue;
            };
            let gone = marks.keys().filter(|key| !present.contains_key(*key));
            news.gone.extend(gone.map(|key| (table, key.clone())));
            let wanted: HashSet<&Key> = present
                .iter()
                .filter(|(key, mark)| marks.get(key) != Some(**mark))
                .map(|(key, _)| key)
                .collect();
            let mut rows = Vec::new();
            if wanted.len() > NAMES && wanted.len() > present.len() / FEW {
                rows = self.table(table, &[]).await?;
            } else {
                let names: HashSet<&str> = wanted.iter().map(|key| key.0.as_str()).collect();
                let names: Vec<&str> = names.into_iter().collect();
                for names in names.chunks(NAMES) {
                    rows.extend(self.table(table, names).await?);
                }
            }
            rows.retain(|row| wanted.contains(&row.key));
            news.rows.extend(rows);
        }
        Ok(news)
    }

    /// The marks of all rows in these tables; the others' are empty.
    async fn marks(&mut self, tables: &[usize]) -> Result<[HashMap<Key, i64>; TABLES.len()], sqlx::Error> {
        let mut marks: [HashMap<Key, i64>; TABLES.len()] = Default::default();
        let query = self
            .place
            .query(&self.place.dialect.marks(tables))
            .persistent(false);
        let query = self.place.bind(query, tables.len());
        for row in query.fetch_all(&mut *self.connection).await? {
            if let Some(marks) = marks.get_mut(position(&row)?) {
                marks.insert((row.try_get(1)?, row.try_get(2)?), row.try_get(3)?);
            }
        }
        Ok(marks)
    }

    /// Rows of one table: those with a name, or all when none is given.
    async fn table(&mut self, table: usize, names: &[&str]) -> Result<Vec<Fetched>, sqlx::Error> {
        match table {
            VERSIONS => self.versions(names).await,
            _ => self.objects(&[table], names).await,
        }
    }

    async fn objects(&mut self, tables: &[usize], names: &[&str]) -> Result<Vec<Fetched>, sqlx::Error> {
        let statement = self.place.dialect.rows(tables, names.len());
        let mut query = self.place.bind(self.place.query(&statement), tables.len());
        query = query.persistent(names.len() <= 1);
        for name in names {
            query = query.bind(*name);
        }
        let mut rows = Vec::new();
        for row in query.fetch_all(&mut *self.connection).await? {
            let table = position(&row)?;
            let name: String = row.try_get(1)?;
            if table == INFRA && name != INFRA_NAME {
                continue;
            }
            let bytes: &[u8] = row.try_get(4)?;
            let fetched = Fetched {
                table,
                key: (name, row.try_get(2)?),
                mark: row.try_get(3)?,
                value: Value::Message(bytes.to_vec().into()),
            };
            rows.push((row.try_get::<i64, _>(5)?, fetched));
        }
        // The order they were written in where that is known, else an order that is always the same.
        rows.sort_by(|(a_order, a), (b_order, b)| {
            (a.table, a_order, &a.key).cmp(&(b.table, b_order, &b.key))
        });
        Ok(rows.into_iter().map(|(_, row)| row).collect())
    }

    async fn versions(&mut self, names: &[&str]) -> Result<Vec<Fetched>, sqlx::Error> {
        let statement = self.place.dialect.versions(names.len());
        let mut query = self.place.bind(self.place.query(&statement), 1);
        query = query.persistent(names.len() <= 1);
        for name in names {
            query = query.bind(*name);
        }
        let rows = query.fetch_all(&mut *self.connection).await?;
        rows.iter().map(version).collect()
    }
}

fn version(row: &AnyRow) -> Result<Fetched, sqlx::Error> {
    let (name, number): (String, i64) = (row.try_get(1)?, row.try_get(2)?);
    let bytes: &[u8] = row.try_get(4)?;
    let version = ViewVersion {
        view: name.clone(),
        kind: version_kind(row.try_get(5)?),
        number: u32::try_from(number).unwrap_or_default(),
        bytes: bytes.to_vec().into(),
        created: DateTime::from_timestamp(row.try_get(6)?, 0).unwrap_or_default(),
        description: row.try_get(7)?,
        version_id: row.try_get(8)?,
    };
    Ok(Fetched {
        table: VERSIONS,
        key: (name, number),
        mark: row.try_get(3)?,
        value: Value::Version(Box::new(version)),
    })
}

fn position(row: &AnyRow) -> Result<usize, sqlx::Error> {
    let position: i64 = row.try_get(0)?;
    usize::try_from(position).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}
