//! Writing: one conditional update per row, so that each is atomic and none goes back in event time.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream};
use serde_json::{Map, Value as Json, json};

use super::{
    DynamoStore, WRITERS,
    client::{Failure, backoff},
    item::{ENTITY_KEY, UTC, binary, parse_time, time_text, values},
};
use crate::{
    error::{Error, Result},
    model::entity_key::entity_id,
    online::store::{OlderRow, Table, WriteBatch, batch::unwritten},
};

/// DynamoDB takes 300 operators in an update.
const MOST_FEATURES_APART: usize = 280;

/// How long and how often, at least, a row is tried against others who write the same one.
const PATIENCE: Duration = Duration::from_secs(5);
const TRIES: usize = 10;

/// How the values of a row are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// They are all there are.
    Whole,
    /// Into the values that are there.
    Merged,
    /// They are the first of their row.
    First,
}

/// What the stored row has to be for the write to count.
#[derive(Debug, Clone)]
enum Guard {
    /// Whatever it is.
    None,
    /// Not newer; only for rows whose time is written in UTC, which is what texts can tell.
    NotNewer,
    /// Still as it was when it was looked at: its `event_ts`, if it has one.
    Same(Option<String>),
}

impl DynamoStore {
    pub(super) async fn write_rows(
        &self,
        project: &str,
        table: &Table,
        batch: &WriteBatch,
        older: OlderRow,
    ) -> Result<u64> {
        let rows = batch.newest_rows()?;
        let features = &table.view.features;
        let whole = !features.is_empty() && features.iter().all(|field| batch.features.contains(&field.name));
        if !whole && batch.features.len() > MOST_FEATURES_APART {
            return Err(Error::invalid(format!(
                "{} features of `{}` cannot be written apart from the others",
                batch.features.len(),
                table.name
            ))
            .hint(format!(
                "write all features of the view, or at most {MOST_FEATURES_APART} at a time"
            )));
        }
        let times = batch
            .event_times
            .iter()
            .map(|time| time_text(*time))
            .collect::<Result<Vec<_>>>()?;
        let name = self.table_name(project, &table.name);
        let writes = || {
            let write = |&row: &usize| RowWrite {
                store: self,
                table: &name,
                id: entity_id(&batch.keys[row]),
                time: &times[row],
                micros: batch.event_times[row],
                batch,
                row,
                whole,
                older,
            };
            rows.iter().map(write).collect()
        };
        let (mut done, missing_table) = self.write_each(writes()).await;
        if missing_table {
            // Not provisioned, or a version that was never written before.
            self.create(&name, &table.view).await?;
            (done, _) = self.write_each(writes()).await;
        }
        let failed: Vec<usize> = done
            .iter()
            .filter(|(_, outcome)| outcome.is_err())
            .map(|(row, _)| *row)
            .collect();
        let stored = done
            .iter()
            .filter(|(_, outcome)| matches!(outcome, Ok(true)))
            .count() as u64;
        let first = done.into_iter().find_map(|(_, outcome)| outcome.err());
        match first {
            None => Ok(stored),
            Some(failure) => {
                let error = self.client.told(failure, "writing", &name);
                let failed: Vec<_> = failed.iter().map(|row| &batch.keys[*row]).collect();
                Err(unwritten(error, rows.len(), &failed))
            }
        }
    }

    /// The outcome of each row, and whether it is known that there is no table. After a failure that others
    /// will share the rest is not tried.
    async fn write_each(&self, writes: Vec<RowWrite<'_>>) -> (Vec<(usize, Result<bool, Failure>)>, bool) {
        let given_up = AtomicBool::new(false);
        let mut tries = Vec::with_capacity(writes.len());
        for write in writes {
            tries.push(write.unless(&given_up));
        }
        let outcomes: Vec<_> = stream::iter(tries).buffered(WRITERS).collect().await;
        let missing = outcomes
            .iter()
            .any(|(_, outcome)| outcome.as_ref().is_err_and(Failure::is_missing));
        (outcomes, missing)
    }
}

/// One row on its way.
struct RowWrite<'a> {
    store: &'a DynamoStore,
    table: &'a str,
    id: String,
    time: &'a str,
    micros: i64,
    batch: &'a WriteBatch,
    row: usize,
    /// Whether the batch has all features of the view.
    whole: bool,
    older: OlderRow,
}

impl RowWrite<'_> {
    async fn unless(self, given_up: &AtomicBool) -> (usize, Result<bool, Failure>) {
        if given_up.load(Relaxed) {
            let failure = Failure::Unreachable("an earlier row failed".to_owned());
            return (self.row, Err(failure));
        }
        let outcome = self.run().await;
        if let Err(failure) = &outcome
            && !failure.is("ValidationException")
        {
            given_up.store(true, Relaxed);
        }
        (self.row, outcome)
    }

    /// Whether the row was stored; it is not when a newer one is there.
    async fn run(&self) -> Result<bool, Failure> {
        let mut shape = if self.whole { Shape::Whole } else { Shape::Merged };
        let mut guard = match self.older {
            OlderRow::Skip => Guard::NotNewer,
            OlderRow::Overwrite => Guard::None,
        };
        let begin = Instant::now();
        let mut backoff = backoff();
        let mut attempt = 0;
        loop {
            let failure = match self
                .store
                .client
                .call("UpdateItem", &self.request(shape, &guard))
                .await
            {
                Ok(_) => return Ok(true),
                Err(failure) => failure,
            };
            let Failure::Refused { code, item, .. } = &failure else {
                return Err(failure);
            };
            if code != "ConditionalCheckFailedException" {
                return Err(failure);
            }
            // The stored row does not fit; it comes along, and tells why.
            let stored = item.as_ref().and_then(|item| item.pointer("/event_ts/S"));
            let stored = stored.and_then(Json::as_str);
            if self.older == OlderRow::Skip {
                if stored
                    .and_then(parse_time)
                    .is_some_and(|stored| stored > self.micros)
                {
                    return Ok(false);
                }
                guard = Guard::Same(stored.map(str::to_owned));
            }
            if !self.whole {
                let has_values = item
                    .as_ref()
                    .is_some_and(|item| item.pointer("/values/M").is_some());
                shape = if has_values { Shape::Merged } else { Shape::First };
            }
            attempt += 1;
            if attempt > TRIES && begin.elapsed() > PATIENCE {
                return Err(failure);
            }
            if attempt > 2 {
                backoff.pause().await;
            }
        }
    }

    fn request(&self, shape: Shape, guard: &Guard) -> Json {
        let features = &self.batch.features;
        let row = self.batch.row(self.row);
        let mut names = Map::from_iter([
            ("#t".to_owned(), json!("event_ts")),
            ("#v".to_owned(), json!("values")),
            ("#k".to_owned(), json!(ENTITY_KEY)),
        ]);
        let mut given = Map::from_iter([
            (":t".to_owned(), json!({"S": self.time})),
            (":k".to_owned(), binary(&self.batch.keys[self.row])),
        ]);
        let mut update = "SET #t=:t,#k=:k".to_owned();
        if shape == Shape::Merged {
            for (number, (feature, value)) in features.iter().zip(row).enumerate() {
                // Writing into a String cannot fail.
                let _ = write!(update, ",#v.#{number}=:{number}");
                names.insert(format!("#{number}"), json!(feature));
                given.insert(format!(":{number}"), binary(value));
            }
        } else {
            update.push_str(",#v=:v");
            given.insert(":v".to_owned(), values(features, row));
        }
        let mut conditions: Vec<&str> = Vec::new();
        match guard {
            Guard::None => {}
            Guard::NotNewer => {
                given.insert(":utc".to_owned(), json!({"S": UTC}));
                conditions.push("(attribute_not_exists(#t) OR (contains(#t,:utc) AND #t<=:t))");
            }
            Guard::Same(None) => conditions.push("attribute_not_exists(#t)"),
            Guard::Same(Some(text)) => {
                given.insert(":was".to_owned(), json!({"S": text}));
                conditions.push("#t=:was");
            }
        }
        match shape {
            Shape::Whole => {}
            Shape::Merged => conditions.push("attribute_exists(#v)"),
            Shape::First => conditions.push("attribute_not_exists(#v)"),
        }
        let mut request = json!({
            "TableName": self.table,
            "Key": {"entity_id": {"S": self.id}},
            "UpdateExpression": update,
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": given,
        });
        if !conditions.is_empty() {
            request["ConditionExpression"] = json!(conditions.join(" AND "));
            request["ReturnValuesOnConditionCheckFailure"] = json!("ALL_OLD");
        }
        request
    }
}
