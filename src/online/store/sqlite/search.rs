//! Searching without an extension: of vectors every candidate is looked at, however many there are, and
//! only the best are kept. Texts are the business of `words`.

use std::collections::HashMap;

use bytes::Bytes;
use futures::{Stream, TryStreamExt as _};
use sqlx::{AssertSqlSafe, Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{SqliteStore, is_missing_table, quoted, table_name, words::Words};
use crate::{
    error::{Error, Result},
    model::{FeatureView, ValueType},
    online::store::{
        Found, KeyGroup, OnlineRead, RowBatch, Search, Table, ViewColumns,
        search::VectorQuery,
        sql::{
            cells::decoded,
            matching::{Dialect, Matching},
            placeholders,
            vectors::{Metric, floats, nearer},
        },
    },
};

static DIALECT: Dialect = Dialect {
    parameter: |number| format!("?{number}"),
    number: |text| {
        format!(
            "CASE {text} WHEN 'True' THEN 1 WHEN 'False' THEN 0 WHEN 'nan' THEN NULL WHEN 'inf' THEN 9e999 \
             WHEN '-inf' THEN -9e999 ELSE CAST({text} AS NUMERIC) END"
        )
    },
    binary: "",
};

/// Rows looked at before other work of the process has its turn.
const TURN: usize = 1024;

/// Where to look: the quoted table, and a condition with its parameters, which are the last ones.
pub(super) struct Place<'a> {
    pub(super) table: &'a str,
    pub(super) condition: &'a str,
    pub(super) parameters: &'a [String],
}

impl SqliteStore {
    pub(super) async fn search_rows(&self, project: &str, table: &Table, search: &Search) -> Result<Found> {
        let name = quoted(&table_name(project, &table.name));
        let mut matching = Matching::new(&table.view, &name, &DIALECT, 0);
        let condition = matching.condition(search.filter.as_ref())?;
        let place = Place {
            table: &name,
            condition: &condition,
            parameters: &matching.parameters,
        };
        let vector = search
            .vector
            .as_ref()
            .map(|query| self.nearness(&table.view, query))
            .transpose()?;
        let words = match &search.text {
            Some(text) => Some(self.words(&table.view, text)?),
            None => None,
        };
        if vector.is_none() && words.is_none() {
            return Err(Error::invalid("a search needs a vector or a text"));
        }
        let mut lease = self.readers.lease().await?;
        let outcome = best(&mut lease, &place, vector.as_ref(), words.as_ref(), search.top_k).await;
        lease.settle(&outcome);
        let best = match outcome {
            Ok(best) => best.map_err(|size| {
                let asked = search.vector.as_ref().map_or(0, |query| query.vector.len());
                Error::invalid(format!(
                    "the search does not fit view `{}`: different vector dimensions {size} and {asked}",
                    table.view.name
                ))
            })?,
            Err(error) if is_missing_table(&error) => Vec::new(),
            Err(error) => return Err(self.failed("searching", error)),
        };
        self.found(project, table, search, best).await
    }

    /// The rows of those that were found.
    async fn found(&self, project: &str, table: &Table, search: &Search, best: Vec<Hit>) -> Result<Found> {
        let keys: Vec<Bytes> = best.iter().map(|hit| hit.key.clone()).collect();
        let columns = ViewColumns {
            table: table.clone(),
            features: search.features.clone().into(),
        };
        let groups = [KeyGroup {
            keys: keys.clone(),
            views: [columns].into(),
        }];
        let read = OnlineRead {
            project,
            groups: &groups,
        };
        let rows = match keys.is_empty() {
            true => None,
            false => self.read_groups(&read).await?.pop(),
        };
        Ok(Found {
            rows: rows.unwrap_or_else(|| RowBatch::empty(0, search.features.len())),
            distances: search
                .vector
                .is_some()
                .then(|| best.iter().map(|hit| hit.distance).collect()),
            text_ranks: search
                .text
                .is_some()
                .then(|| best.iter().map(|hit| hit.rank).collect()),
            keys,
        })
    }

    fn nearness<'a>(&self, view: &FeatureView, query: &'a VectorQuery) -> Result<Nearness<'a>> {
        if !self.vector_enabled {
            return Err(Error::invalid("vector search is off in this online store")
                .hint("set `online_store.vector_enabled: true`"));
        }
        if view.feature(&query.field).is_none() {
            return Err(Error::invalid(format!(
                "`{}` is no feature of view `{}`",
                query.field, view.name
            )));
        }
        if query.vector.is_empty() || query.vector.iter().any(|number| !number.is_finite()) {
            return Err(Error::invalid("the vector to search for is empty or not finite"));
        }
        Ok(Nearness {
            query,
            metric: query
                .metric
                .as_deref()
                .map_or(Ok(self.similarity), Metric::named)?,
        })
    }

    fn words(&self, view: &FeatureView, text: &str) -> Result<Words> {
        if !self.text_enabled {
            return Err(Error::invalid("text search is off in this online store")
                .hint("set `online_store.text_search_enabled: true`"));
        }
        let of_view = view
            .features
            .iter()
            .filter(|field| field.value_type == ValueType::String);
        let features: Vec<String> = of_view.map(|field| field.name.clone()).collect();
        if features.is_empty() {
            return Err(Error::invalid(format!(
                "view `{}` has no texts to search in",
                view.name
            )));
        }
        Ok(Words {
            features,
            text: text.to_owned(),
        })
    }
}

/// An entity that was found.
#[derive(Debug, Clone)]
struct Hit {
    key: Bytes,
    distance: f64,
    rank: f64,
}

/// The best hits so far.
struct Best {
    limit: usize,
    hits: Vec<Hit>,
    better: fn(&Hit, &Hit) -> std::cmp::Ordering,
}

impl Best {
    fn new(limit: usize, better: fn(&Hit, &Hit) -> std::cmp::Ordering) -> Self {
        Self {
            limit,
            hits: Vec::new(),
            better,
        }
    }

    fn offer(&mut self, hit: Hit) {
        let place = self
            .hits
            .partition_point(|known| (self.better)(known, &hit).is_le());
        if place < self.limit {
            self.hits.insert(place, hit);
            self.hits.truncate(self.limit);
        }
    }
}

fn by_distance(a: &Hit, b: &Hit) -> std::cmp::Ordering {
    nearer(a.distance, b.distance).then_with(|| a.key.cmp(&b.key))
}

fn by_rank(a: &Hit, b: &Hit) -> std::cmp::Ordering {
    b.rank.total_cmp(&a.rank).then_with(|| by_distance(a, b))
}

/// The best by vector, by text, or by both as Feast has it: the nearest and the best matches together,
/// each then measured both ways; texts count first. `Err` within is the length of a stored vector that is
/// not that of the one to search for.
async fn best(
    connection: &mut SqliteConnection,
    place: &Place<'_>,
    vector: Option<&Nearness<'_>>,
    words: Option<&Words>,
    top_k: usize,
) -> Result<Result<Vec<Hit>, usize>, sqlx::Error> {
    let mut near = Best::new(top_k, by_distance);
    if let Some(vector) = vector {
        let sql = vector.statement(place, "TRUE");
        if let Err(size) = vector
            .measure(connection, sql, place.parameters, &[], |hit| near.offer(hit))
            .await?
        {
            return Ok(Err(size));
        }
    }
    let Some(words) = words else {
        return Ok(Ok(near.hits));
    };
    let mut matching = Best::new(top_k, by_rank);
    let mut ranks: HashMap<Bytes, f64> = near.hits.iter().map(|hit| (hit.key.clone(), 0.0)).collect();
    words
        .rank(connection, place, |key, rank| {
            if let Some(known) = ranks.get_mut(key) {
                *known = rank;
            }
            matching.offer(Hit {
                key: Bytes::copy_from_slice(key),
                distance: f64::NAN,
                rank,
            });
        })
        .await?;
    let Some(vector) = vector else {
        return Ok(Ok(matching.hits));
    };
    let mut both = Best::new(top_k, by_rank);
    let mut far: HashMap<Bytes, Hit> = HashMap::new();
    for hit in matching
        .hits
        .into_iter()
        .filter(|hit| !ranks.contains_key(&hit.key))
    {
        far.insert(hit.key.clone(), hit);
    }
    for mut hit in near.hits {
        hit.rank = ranks.get(&hit.key).copied().unwrap_or_default();
        both.offer(hit);
    }
    let keys: Vec<Bytes> = far.keys().cloned().collect();
    for keys in keys.chunks(1000) {
        let sql = vector.statement(place, &format!("entity_key IN ({})", placeholders(keys.len())));
        let measured = vector.measure(connection, sql, place.parameters, keys, |hit| {
            if let Some(known) = far.get_mut(&hit.key) {
                known.distance = hit.distance;
            }
        });
        if let Err(size) = measured.await? {
            return Ok(Err(size));
        }
    }
    far.into_values().for_each(|hit| both.offer(hit));
    Ok(Ok(both.hits))
}

/// The rows of a statement, a turn at a time.
pub(super) async fn each(
    mut rows: impl Stream<Item = Result<SqliteRow, sqlx::Error>> + Unpin,
    mut with: impl FnMut(&SqliteRow) -> Result<bool, sqlx::Error>,
) -> Result<(), sqlx::Error> {
    let mut count = 0_usize;
    while let Some(row) = rows.try_next().await? {
        if !with(&row)? {
            break;
        }
        count += 1;
        if count.is_multiple_of(TURN) {
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

/// A vector to be near to.
struct Nearness<'a> {
    query: &'a VectorQuery,
    metric: Metric,
}

impl Nearness<'_> {
    fn statement(&self, place: &Place<'_>, more: &str) -> String {
        format!(
            "SELECT entity_key, value FROM {} WHERE {} AND feature_name = '{}' AND {more}",
            place.table,
            place.condition,
            self.query.field.replace('\'', "''")
        )
    }

    async fn measure(
        &self,
        connection: &mut SqliteConnection,
        sql: String,
        parameters: &[String],
        keys: &[Bytes],
        mut found: impl FnMut(Hit),
    ) -> Result<Result<(), usize>, sqlx::Error> {
        let mut query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
        for text in parameters {
            query = query.bind(text);
        }
        for key in keys {
            query = query.bind(key.as_ref());
        }
        let mut other = Ok(());
        each(query.fetch(connection), |row| {
            let value = Bytes::from(row.try_get_unchecked::<Vec<u8>, _>(1)?);
            let Some(vector) = floats(&decoded(&value)).filter(|vector| !vector.is_empty()) else {
                return Ok(true);
            };
            if vector.len() != self.query.vector.len() {
                other = Err(vector.len());
                return Ok(false);
            }
            found(Hit {
                key: Bytes::from(row.try_get_unchecked::<Vec<u8>, _>(0)?),
                distance: self.metric.distance(&vector, &self.query.vector),
                rank: 0.0,
            });
            Ok(true)
        })
        .await?;
        Ok(other)
    }
}
