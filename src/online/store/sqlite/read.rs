//! Reading: one statement for all views of a request.

use std::{collections::HashMap, fmt::Write as _};

use bytes::Bytes;
use futures::TryStreamExt as _;
use sqlx::{AssertSqlSafe, Row as _, SqliteConnection};

use super::{SqliteStore, is_missing_table, quoted, table_name};
use crate::{
    error::Result,
    online::store::{KeyGroup, OnlineRead, RowBatch, ViewColumns},
};

/// Keys per statement; SQLite allows 32,766 parameters.
const KEYS_PER_STATEMENT: usize = 4096;

/// Views per statement; SQLite allows 500 terms of a compound select.
const VIEWS_PER_STATEMENT: usize = 100;

/// One view's place in a statement.
struct Part<'a> {
    /// Which of the answer's batches it fills.
    batch: usize,
    view: &'a ViewColumns,
}

impl SqliteStore {
    pub(super) async fn read_groups(&self, read: &OnlineRead<'_>) -> Result<Vec<RowBatch>> {
        let mut batches = Vec::new();
        let mut work: Vec<(&KeyGroup, Vec<Part<'_>>)> = Vec::new();
        for group in read.groups {
            let mut parts = Vec::with_capacity(group.views.len());
            for view in group.views.iter() {
                parts.push(Part {
                    batch: batches.len(),
                    view,
                });
                batches.push(RowBatch {
                    width: view.features.len(),
                    event_times: vec![None; group.keys.len()],
                    values: vec![None; group.keys.len() * view.features.len()],
                });
            }
            work.push((group, parts));
        }
        if batches.is_empty() {
            return Ok(batches);
        }
        let mut connection = self
            .readers
            .acquire()
            .await
            .map_err(|error| self.failed("reading", error))?;
        if let Some(statement) = Statement::whole(read.project, &work)
            && self.run(&mut connection, statement, &mut batches).await?
        {
            return Ok(batches);
        }
        // Too large for one statement, or a table is missing: view by view, a missing one has no rows.
        for (group, parts) in &work {
            for part in parts {
                for (chunk, keys) in group.keys.chunks(KEYS_PER_STATEMENT).enumerate() {
                    let statement = Statement::single(read.project, part, keys, chunk * KEYS_PER_STATEMENT);
                    self.run(&mut connection, statement, &mut batches).await?;
                }
            }
        }
        Ok(batches)
    }

    /// Runs a statement into the batches; answers false, having filled nothing, if a table is missing.
    async fn run(
        &self,
        connection: &mut SqliteConnection,
        statement: Statement<'_>,
        batches: &mut [RowBatch],
    ) -> Result<bool> {
        let mut query = sqlx::query(AssertSqlSafe(statement.sql));
        for key in &statement.parameters {
            query = query.bind(*key);
        }
        let mut rows = query.fetch(connection);
        loop {
            let row = match rows.try_next().await {
                Ok(Some(row)) => row,
                Ok(None) => return Ok(true),
                Err(error) if is_missing_table(&error) => return Ok(false),
                Err(error) => return Err(self.failed("reading", error)),
            };
            let read = |error| self.failed("reading", error);
            let part = usize::try_from(row.try_get::<i64, _>(0).map_err(read)?).unwrap_or(usize::MAX);
            let key: &[u8] = row.try_get(1).map_err(read)?;
            let feature: &str = row.try_get(2).map_err(read)?;
            let value: Option<&[u8]> = row.try_get(3).map_err(read)?;
            let seconds: Option<i64> = row.try_get_unchecked(4).map_err(read)?;
            let Some(target) = statement.targets.get(part) else {
                continue;
            };
            let Some(&index) = statement.indexes[target.keys].get(key) else {
                continue;
            };
            let Some(column) = target.view.features.iter().position(|name| name == feature) else {
                continue;
            };
            let batch = &mut batches[target.batch];
            let time = seconds.unwrap_or(0).saturating_mul(1_000_000);
            let slot = &mut batch.event_times[index];
            *slot = Some(slot.map_or(time, |known| known.max(time)));
            batch.values[index * batch.width + column] =
                Some(Bytes::copy_from_slice(value.unwrap_or_default()));
        }
    }
}

/// One statement with what its rows mean.
struct Statement<'a> {
    sql: String,
    parameters: Vec<&'a [u8]>,
    targets: Vec<Target<'a>>,
    /// Where each key stands, by key set.
    indexes: Vec<HashMap<&'a [u8], usize>>,
}

struct Target<'a> {
    batch: usize,
    view: &'a ViewColumns,
    /// Which of the statement's key sets.
    keys: usize,
}

impl<'a> Statement<'a> {
    fn empty() -> Self {
        Self {
            sql: String::with_capacity(512),
            parameters: Vec::new(),
            targets: Vec::new(),
            indexes: Vec::new(),
        }
    }

    /// Everything in one statement, if it fits.
    fn whole(project: &str, work: &[(&'a KeyGroup, Vec<Part<'a>>)]) -> Option<Self> {
        let views: usize = work.iter().map(|(_, parts)| parts.len()).sum();
        let keys: usize = work.iter().map(|(group, _)| group.keys.len()).sum();
        if views > VIEWS_PER_STATEMENT || keys > KEYS_PER_STATEMENT {
            return None;
        }
        let mut statement = Self::empty();
        for (group, parts) in work {
            if group.keys.is_empty() {
                continue;
            }
            let first = statement.keys(&group.keys, 0);
            for part in parts {
                statement.select(project, part, &first);
            }
        }
        (!statement.sql.is_empty()).then_some(statement)
    }

    fn single(project: &str, part: &Part<'a>, keys: &'a [Bytes], offset: usize) -> Self {
        let mut statement = Self::empty();
        let parameters = statement.keys(keys, offset);
        statement.select(project, part, &parameters);
        statement
    }

    /// Binds a key set and answers the numbers of its parameters. The count is rounded up to a power of
    /// two by repeating the last key, so that few distinct statements have to be prepared.
    fn keys(&mut self, keys: &'a [Bytes], offset: usize) -> std::ops::RangeInclusive<usize> {
        let first = self.parameters.len() + 1;
        self.parameters.extend(keys.iter().map(|key| key.as_ref()));
        if let Some(last) = keys.last() {
            let padded = keys.len().next_power_of_two() - keys.len();
            self.parameters.extend(std::iter::repeat_n(last.as_ref(), padded));
        }
        self.indexes.push(
            keys.iter()
                .enumerate()
                .map(|(index, key)| (key.as_ref(), offset + index))
                .collect(),
        );
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
            self.targets.len()
        );
        for number in parameters.clone() {
            let comma = if number == *parameters.start() { "" } else { "," };
            let _ = write!(self.sql, "{comma}?{number}");
        }
        self.sql.push_str(") AND feature_name IN (");
        for (index, feature) in part.view.features.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let _ = write!(self.sql, "{comma}'{}'", feature.replace('\'', "''"));
        }
        self.sql.push(')');
        self.targets.push(Target {
            batch: part.batch,
            view: part.view,
            keys: self.indexes.len() - 1,
        });
    }
}
