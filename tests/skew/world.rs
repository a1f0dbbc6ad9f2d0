//! thali in a folder of its own: a source that is pushed to, an online store, two views of the source, one of
//! them with a ttl.

use std::{collections::BTreeMap, fs::File, sync::Arc};

use arrow::{
    array::{ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, TimestampMicrosecondArray},
    datatypes::{Float64Type, Int64Type},
    ipc::reader::StreamReader,
};
use chrono::{DateTime, Utc};
use futures::StreamExt;
use parquet::arrow::ArrowWriter;
use serde_json::json;
use tempfile::TempDir;
use thali::{
    config::{Config, Sources},
    context::Context,
    database::Engine,
    definitions::{Definitions, Validation},
    materialize::{self, Request, Window},
    offline::retrieve::{self, HistoricalRequest, RequestRows},
    online::{
        ingest::{Frame, Options, Target, Writer},
        plan::Wanted,
        serve::{self, Given},
        table,
    },
    registry::store::history::Author,
    schedule::ledger::Trigger,
};
use tokio_util::sync::CancellationToken;

use crate::{
    model::{HOUR, Row, SECOND, Values},
    servers::{Fresh, run, url},
};

/// Half hours, so that no row is as old as that to the second.
pub(crate) const TTL: i64 = 5 * HOUR / 2;
const SETTINGS: &str = "provider: local\nregistry: registry.db\nentity_key_serialization_version: 3\n\
    thali: {ttl_mode: 'null', materialize_lookback: 4h}\n";
const DEFINITIONS: &str = "
entities: [{name: id, join_key: id, value_type: Int64}]
data_sources:
  - {name: facts, SOURCE, timestamp_field: at, created_timestamp_column: made}
  - {name: facts_push, type: push, batch_source: facts}
feature_views:
  - {name: plain, entities: [id], source: facts_push, schema: [{name: a, type: Int64}, {name: b, type: Float64}]}
  - {name: aged, entities: [id], source: facts_push, ttl: 150m, schema: [{name: a, type: Int64}, {name: b, type: Float64}]}
";

/// Where the rows of a world are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stores {
    pub(crate) offline: Offline,
    pub(crate) online: Online,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Offline {
    /// A Parquet file.
    File,
    /// A table of a database of its own.
    Postgres,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Online {
    Sqlite,
    Redis,
    /// The database of its own.
    Postgres,
}

impl Online {
    /// What it keeps times in, in microseconds. In SQLite those of Feast have no fractions of a second.
    pub(crate) fn tick(self) -> i64 {
        match self {
            Self::Sqlite => SECOND,
            Self::Redis | Self::Postgres => 1,
        }
    }
}

pub(crate) struct World {
    folder: TempDir,
    context: Context,
    database: Option<Fresh>,
}

fn time(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap()
}

fn batch(rows: &[Row]) -> RecordBatch {
    let times = |of: fn(&Row) -> i64| -> ArrayRef {
        let times: TimestampMicrosecondArray = rows.iter().map(|row| Some(of(row))).collect();
        Arc::new(times.with_timezone("UTC"))
    };
    let columns: [(&str, ArrayRef); 5] = [
        (
            "id",
            Arc::new(rows.iter().map(|row| Some(row.key)).collect::<Int64Array>()),
        ),
        ("at", times(|row| row.event)),
        ("made", times(|row| row.created)),
        (
            "a",
            Arc::new(rows.iter().map(|row| row.values.0).collect::<Int64Array>()),
        ),
        (
            "b",
            Arc::new(rows.iter().map(|row| row.values.1).collect::<Float64Array>()),
        ),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
}

async fn open(folder: &TempDir) -> Context {
    let sources = Sources {
        chdir: Some(folder.path().to_owned()),
        ..Sources::default()
    };
    Context::open(Config::load(&sources).unwrap()).await.unwrap()
}

impl World {
    pub(crate) async fn new(stores: Stores) -> Self {
        let folder = TempDir::new().unwrap();
        let database = match (stores.offline, stores.online) {
            (Offline::Postgres, _) | (_, Online::Postgres) => Some(Fresh::new(Engine::Postgres).await),
            _ => None,
        };
        let section = |kind: &str, store: &str| {
            let keys = database.as_ref().unwrap().keys().replace('\n', "\n  ");
            format!("{kind}:\n  type: {store}\n  {keys}\n  sslmode: disable\n")
        };
        let (offline, source) = match stores.offline {
            Offline::File => {
                let empty = batch(&[]);
                let file = File::create(folder.path().join("facts.parquet")).unwrap();
                let writer = ArrowWriter::try_new(file, empty.schema(), None);
                writer.unwrap().close().unwrap();
                (
                    "offline_store: {type: file}\n".to_owned(),
                    "type: file, path: facts.parquet",
                )
            }
            Offline::Postgres => {
                let database = database.as_ref().unwrap().open().await;
                let columns = "id bigint, at timestamptz, made timestamptz, a bigint, b double precision";
                run(&database, &format!("CREATE TABLE facts ({columns})")).await;
                database.pool().close().await;
                (
                    section("offline_store", "postgres"),
                    "type: postgres, table: facts",
                )
            }
        };
        let online = match stores.online {
            Online::Sqlite => "online_store: {type: sqlite, path: online.db}\n".to_owned(),
            Online::Redis => {
                let address = url("THALI_TEST_REDIS");
                format!("online_store: {{type: redis, connection_string: '{address}'}}\n")
            }
            Online::Postgres => section("online_store", "postgres"),
        };
        // Worlds share a Redis.
        let project = format!("skew_{}", uuid::Uuid::new_v4().simple());
        let settings = format!("project: {project}\n{SETTINGS}{offline}{online}");
        std::fs::write(folder.path().join("feature_store.yaml"), settings).unwrap();
        let context = open(&folder).await;
        let definitions =
            Definitions::from_text("definitions.yaml", &DEFINITIONS.replace("SOURCE", source)).unwrap();
        let objects = definitions
            .resolve(&project, &*context.offline, Validation::Skipped)
            .await
            .unwrap();
        let plan = context.registry.plan(&project, objects).await.unwrap();
        context
            .registry
            .execute(&plan, &Author::new(&project, "apply"))
            .await
            .unwrap();
        Self {
            folder,
            context,
            database,
        }
    }

    fn project(&self) -> &str {
        &self.context.config.project
    }

    pub(crate) async fn remove(self) {
        if let Some(database) = self.database {
            database.remove().await;
        }
    }

    /// As a process that ends and another that begins.
    pub(crate) async fn restart(&mut self) {
        self.context = open(&self.folder).await;
    }

    pub(crate) async fn append(&self, rows: &[Row]) {
        let catalog = self.context.registry.catalog(self.project()).await.unwrap();
        let source = catalog
            .stored_view("plain")
            .unwrap()
            .batch_source
            .clone()
            .unwrap();
        self.context
            .offline
            .append(&source, vec![batch(rows)], None)
            .await
            .unwrap();
    }

    pub(crate) async fn push(&self, rows: &[Row]) {
        let column = |of: fn(&Row) -> serde_json::Value| rows.iter().map(of).collect();
        let frame = Frame::from_json(vec![
            ("id".into(), column(|row| json!(row.key))),
            ("at".into(), column(|row| json!(time(row.event).to_rfc3339()))),
            ("made".into(), column(|row| json!(time(row.created).to_rfc3339()))),
            ("a".into(), column(|row| json!(row.values.0))),
            ("b".into(), column(|row| json!(row.values.1))),
        ]);
        let writer = Writer::new(&self.context);
        writer
            .push("facts_push", &frame.unwrap(), Target::Both, Options::default())
            .await
            .unwrap();
    }

    pub(crate) async fn materialize(&self, first: Option<i64>, last: i64) {
        let window = match first {
            Some(first) => Window::Between {
                start: time(first),
                end: time(last),
            },
            None => Window::Incremental { end: time(last) },
        };
        let request = Request::new(self.project(), Vec::new(), window, Trigger::Cli);
        materialize::run(&self.context, request, CancellationToken::new())
            .await
            .unwrap();
    }

    /// What is answered online now, of both views, by key.
    pub(crate) async fn online(&self, keys: i64) -> BTreeMap<&'static str, Vec<Values>> {
        let request = serve::Request {
            wanted: Wanted::Features(references().into_iter().map(Into::into).collect()),
            full_names: true,
            version_metadata: false,
            columns: vec![(
                "id".into(),
                Given::Json((0..keys).map(|key| json!(key)).collect()),
            )],
        };
        let response = serve::get_online_features(&self.context, request).await.unwrap();
        let mut stream = Vec::new();
        table::write_stream(&mut stream, &response).unwrap();
        values(
            StreamReader::try_new(&stream[..], None)
                .unwrap()
                .map(Result::unwrap),
        )
    }

    /// What the join answers at a moment, of both views, by key.
    pub(crate) async fn join(&self, keys: i64, moment: i64) -> BTreeMap<&'static str, Vec<Values>> {
        let ids: Int64Array = (0..keys).collect();
        let times = TimestampMicrosecondArray::from_value(moment, ids.len()).with_timezone("UTC");
        let columns: [(&str, ArrayRef); 2] = [("id", Arc::new(ids)), ("event_timestamp", Arc::new(times))];
        let entities = RecordBatch::try_from_iter(columns).unwrap();
        let request = HistoricalRequest {
            rows: RequestRows::Given {
                schema: entities.schema(),
                batches: vec![entities],
            },
            wanted: retrieve::Wanted::features(references()),
            full_feature_names: true,
            filter_by_created: false,
        };
        let rows = retrieve::historical(&self.context, self.project(), request)
            .await
            .unwrap();
        let batches: Vec<_> = rows.map(Result::unwrap).collect().await;
        values(batches.into_iter())
    }
}

fn references() -> Vec<String> {
    ["plain:a", "plain:b", "aged:a", "aged:b"]
        .map(str::to_owned)
        .to_vec()
}

fn values(batches: impl Iterator<Item = RecordBatch>) -> BTreeMap<&'static str, Vec<Values>> {
    let mut found: BTreeMap<&'static str, Vec<Values>> = BTreeMap::new();
    for batch in batches {
        for view in ["plain", "aged"] {
            let column = |name: &str| batch.column_by_name(&format!("{view}__{name}")).unwrap();
            let (a, b) = (
                column("a").as_primitive::<Int64Type>(),
                column("b").as_primitive::<Float64Type>(),
            );
            found.entry(view).or_default().extend(a.iter().zip(b.iter()));
        }
    }
    found
}
