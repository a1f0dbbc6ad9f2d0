//! Reading: all tables and keys of a request packed into as few calls as DynamoDB takes, run in parallel.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use indexmap::{IndexMap, IndexSet};
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use super::{
    DynamoStore,
    client::{Failure, backoff, parse},
    item::Item,
};
use crate::{
    error::{Error, Kind, Result},
    model::entity_key::entity_id,
    online::store::{OnlineRead, RowBatch},
};

/// DynamoDB takes expressions of 4 KB; a longer one is not sent, and whole rows are read instead.
const LONGEST_EXPRESSION: usize = 4000;

/// How long DynamoDB may leave keys unread before the request is given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is wanted of one table.
#[derive(Default)]
struct Wanted<'a> {
    ids: IndexSet<&'a str>,
    features: IndexSet<&'a str>,
}

/// Part of one call: a table and some of its keys.
struct Part {
    table: usize,
    from: usize,
    to: usize,
}

/// What is found, by place of the table and by entity id.
type Rows = HashMap<(usize, String), Row>;

struct Row {
    time: i64,
    /// By the features of its table.
    values: Vec<Option<bytes::Bytes>>,
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(rename = "Responses", borrow, default)]
    found: HashMap<String, Vec<Item<'a>>>,
    #[serde(rename = "UnprocessedKeys", default)]
    unprocessed: Map<String, Json>,
}

impl DynamoStore {
    pub(super) async fn read_groups(&self, read: &OnlineRead<'_>) -> Result<Vec<RowBatch>> {
        let ids: Vec<Vec<String>> = read
            .groups
            .iter()
            .map(|group| group.keys.iter().map(|key| entity_id(key)).collect())
            .collect();
        let mut tables: IndexMap<String, Wanted<'_>> = IndexMap::new();
        for (group, ids) in read.groups.iter().zip(&ids) {
            for view in group.views.iter() {
                let wanted = tables
                    .entry(self.table_name(read.project, &view.table.name))
                    .or_default();
                wanted.ids.extend(ids.iter().map(String::as_str));
                wanted.features.extend(view.features.iter().map(String::as_str));
            }
        }
        let rows = self.read_tables(&tables).await?;
        let mut batches = Vec::new();
        for (group, ids) in read.groups.iter().zip(&ids) {
            for view in group.views.iter() {
                let mut batch = RowBatch::empty(ids.len(), view.features.len());
                let name = self.table_name(read.project, &view.table.name);
                let Some((table, _, wanted)) = tables.get_full(&name) else {
                    continue;
                };
                let columns: Vec<usize> = view
                    .features
                    .iter()
                    .filter_map(|feature| wanted.features.get_index_of(feature.as_str()))
                    .collect();
                for (place, id) in ids.iter().enumerate() {
                    let Some(row) = rows.get(&(table, id.clone())) else {
                        continue;
                    };
                    batch.event_times[place] = Some(row.time);
                    for (target, column) in columns.iter().enumerate() {
                        if let Some(value) = &row.values[*column] {
                            batch.put(place, target, value);
                        }
                    }
                }
                batches.push(batch);
            }
        }
        Ok(batches)
    }

    async fn read_tables(&self, tables: &IndexMap<String, Wanted<'_>>) -> Result<Rows> {
        let calls = self.packed(tables);
        let mut reads = Vec::with_capacity(calls.len());
        for call in &calls {
            reads.push(self.read_parts(tables, call));
        }
        stream::iter(reads)
            .buffer_unordered(self.reads_at_once)
            .try_fold(Rows::new(), |mut all, rows| async move {
                all.extend(rows);
                Ok(all)
            })
            .await
    }

    /// Shares the keys out to calls that are as full as they may be.
    fn packed(&self, tables: &IndexMap<String, Wanted<'_>>) -> Vec<Vec<Part>> {
        let mut calls = Vec::new();
        let mut call = Vec::new();
        let mut room = self.keys_per_read;
        for (table, wanted) in tables.values().enumerate() {
            let mut from = 0;
            while from < wanted.ids.len() {
                let to = wanted.ids.len().min(from + room);
                call.push(Part { table, from, to });
                room -= to - from;
                from = to;
                if room == 0 {
                    calls.push(std::mem::take(&mut call));
                    room = self.keys_per_read;
                }
            }
        }
        if !call.is_empty() {
            calls.push(call);
        }
        calls
    }

    /// One call; if a table is missing, one for each table, of which the missing have no rows.
    async fn read_parts(&self, tables: &IndexMap<String, Wanted<'_>>, parts: &[Part]) -> Result<Rows> {
        match self.read_call(tables, parts).await {
            Err(Stop::Failed(failure)) if failure.is_missing() => {
                let mut rows = Rows::new();
                for part in parts.iter().filter(|_| parts.len() > 1) {
                    match self.read_call(tables, std::slice::from_ref(part)).await {
                        Ok(found) => rows.extend(found),
                        Err(Stop::Failed(failure)) if failure.is_missing() => {}
                        Err(stop) => return Err(self.stopped(stop, tables, part)),
                    }
                }
                Ok(rows)
            }
            Err(stop) => Err(self.stopped(stop, tables, &parts[0])),
            Ok(rows) => Ok(rows),
        }
    }

    fn stopped(&self, stop: Stop, tables: &IndexMap<String, Wanted<'_>>, part: &Part) -> Error {
        let name = tables.get_index(part.table).map_or("", |(name, _)| name);
        match stop {
            Stop::Failed(failure) => self.client.told(failure, "reading", name),
            Stop::Unprocessed => Error::new(
                Kind::Overloaded,
                format!("reading DynamoDB table `{name}`: DynamoDB leaves keys unread"),
            )
            .hint("the table's read capacity is used up"),
        }
    }

    async fn read_call(&self, tables: &IndexMap<String, Wanted<'_>>, parts: &[Part]) -> Result<Rows, Stop> {
        let mut items: Map<String, Json> = parts
            .iter()
            .filter_map(|part| {
                let (name, wanted) = tables.get_index(part.table)?;
                Some((name.clone(), request(wanted, part, self.consistent)))
            })
            .collect();
        let mut rows = Rows::new();
        let (mut backoff, mut idle_since) = (backoff(), Instant::now());
        loop {
            let body = json!({"RequestItems": items});
            let bytes = self.client.call("BatchGetItem", &body).await?;
            let answer: Answer<'_> = parse(&bytes)?;
            let mut progress = false;
            for (name, found) in answer.found {
                let Some((table, _, wanted)) = tables.get_full(&name) else {
                    continue;
                };
                for item in found {
                    progress = true;
                    let row = Row {
                        time: item.event_time(),
                        values: wanted
                            .features
                            .iter()
                            .map(|feature| item.value(feature))
                            .collect(),
                    };
                    rows.insert((table, item.entity_id.text.into_owned()), row);
                }
            }
            if answer.unprocessed.is_empty() {
                return Ok(rows);
            }
            if progress {
                backoff.reset();
                idle_since = Instant::now();
            } else if idle_since.elapsed() > PATIENCE {
                return Err(Stop::Unprocessed);
            }
            backoff.pause().await;
            items = answer.unprocessed;
        }
    }
}

/// Why a read ended early.
enum Stop {
    Failed(Failure),
    /// DynamoDB answers, but does not get to the keys.
    Unprocessed,
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// The keys of a part, and the attributes wanted of them.
fn request(wanted: &Wanted<'_>, part: &Part, consistent: bool) -> Json {
    let ids = &wanted.ids.as_slice()[part.from..part.to];
    let keys: Vec<Json> = ids.iter().map(|id| json!({"entity_id": {"S": id}})).collect();
    let mut names = Map::from_iter([
        ("#e".to_owned(), json!("entity_id")),
        ("#t".to_owned(), json!("event_ts")),
        ("#v".to_owned(), json!("values")),
    ]);
    let mut projection = "#e,#t".to_owned();
    for (number, feature) in wanted.features.iter().enumerate() {
        let name = format!("#{number}");
        projection.push_str(",#v.");
        projection.push_str(&name);
        names.insert(name, json!(feature));
    }
    if wanted.features.is_empty() || projection.len() > LONGEST_EXPRESSION {
        names.retain(|name, _| ["#e", "#t", "#v"].contains(&name.as_str()));
        "#e,#t,#v".clone_into(&mut projection);
    }
    json!({
        "Keys": keys,
        "ConsistentRead": consistent,
        "ProjectionExpression": projection,
        "ExpressionAttributeNames": names,
    })
}
