//! PostgreSQL as an offline store: joins against what one reads off the rows, pulls, writes, and what is
//! said when it goes wrong. The database is not in UTC, which must not matter.

use std::{fs, sync::Arc, time::Duration};

use arrow::{
    array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray},
    compute::concat_batches,
    datatypes::{DataType, Int64Type},
    util::display::{ArrayFormatter, FormatOptions},
};
use chrono::{DateTime, Utc};
use datafusion::execution::SendableRecordBatchStream;
use futures::TryStreamExt;
use thali::{
    cloud::Environment,
    config::{Config, OfflineStoreConfig, Sources},
    database::Engine,
    error::{Kind, Result},
    model::ValueType,
    offline::{
        files::{FileStore, FileStoreConfig},
        postgres::PostgresStore,
        store::{Appended, EntityRows, HistoricalQuery, JoinFeature, JoinKey, JoinView, OfflineStore, Pull},
    },
    proto::feast::core::{
        DataSource,
        data_source::{CustomSourceOptions, Options},
    },
};

use crate::servers::{Fresh, run};

/// A database of its own with a store on it.
struct Place {
    fresh: Fresh,
    store: PostgresStore,
}

fn store(keys: &str) -> PostgresStore {
    let folder = tempfile::tempdir().unwrap();
    let keys: String = keys.lines().map(|line| format!("  {line}\n")).collect();
    let text = format!(
        "project: p\nprovider: local\nregistry: r.db\noffline_store:\n  type: postgres\n  sslmode: disable\n{keys}"
    );
    fs::write(folder.path().join("feature_store.yaml"), text).unwrap();
    let sources = Sources {
        chdir: Some(folder.path().to_owned()),
        ..Sources::default()
    };
    let config = Config::load(&sources).unwrap();
    let OfflineStoreConfig::Postgres(section) = &config.offline_store else {
        panic!("{:?}", config.offline_store);
    };
    let files = FileStore::new(FileStoreConfig {
        repo_path: folder.path().to_owned(),
        memory_limit: 1 << 26,
        environment: Environment::default(),
    });
    PostgresStore::new(section, files.unwrap()).unwrap()
}

impl Place {
    async fn new(statements: &str) -> Self {
        let fresh = Fresh::new(Engine::Postgres).await;
        let zone = format!(
            "ALTER DATABASE {} SET timezone TO 'America/New_York'",
            fresh.name()
        );
        run(fresh.admin(), &zone).await;
        let database = fresh.open().await;
        run(&database, &format!("SET timezone TO 'UTC'; {statements}")).await;
        database.pool().close().await;
        let store = store(&fresh.keys());
        Self { fresh, store }
    }

    async fn cells(&self, sql: &str) -> Vec<Vec<String>> {
        let (schema, batches) = self.store.select(sql, &[]).await.unwrap();
        printed(&concat_batches(&schema, &batches).unwrap())
    }
}

fn source(table: &str, query: &str, created: &str) -> DataSource {
    let configuration = serde_json::json!({"name": "src", "table": table, "query": query});
    DataSource {
        name: "src".to_owned(),
        timestamp_field: "ts".to_owned(),
        created_timestamp_column: created.to_owned(),
        data_source_class_type:
            "feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source.PostgreSQLSource"
                .to_owned(),
        options: Some(Options::CustomOptions(CustomSourceOptions {
            configuration: configuration.to_string().into(),
        })),
        ..DataSource::default()
    }
}

fn minute(minute: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_767_225_600 + 60 * minute, 0).unwrap()
}

fn times(minutes: &[i64]) -> ArrayRef {
    let micros = minutes.iter().map(|at| minute(*at).timestamp_micros());
    Arc::new(TimestampMicrosecondArray::from_iter_values(micros).with_timezone("UTC"))
}

fn view(source: &DataSource, keys: &[(&str, ValueType)], feature: &str, ttl: Option<u64>) -> JoinView {
    let key = |(name, value_type): &(&str, ValueType)| JoinKey {
        entity_column: (*name).to_owned(),
        source_column: (*name).to_owned(),
        value_type: *value_type,
    };
    JoinView {
        name: "view".to_owned(),
        source: Arc::new(source.clone()),
        join_keys: keys.iter().map(key).collect(),
        features: vec![JoinFeature {
            source_column: feature.to_owned(),
            output: feature.to_owned(),
            value_type: ValueType::Int64,
        }],
        ttl: ttl.map(|minutes| Duration::from_secs(60 * minutes)),
    }
}

fn pull(source: DataSource, start: Option<i64>, end: Option<i64>, latest_only: bool) -> Pull {
    Pull {
        source: Arc::new(source),
        join_keys: vec!["a".to_owned()],
        features: vec!["x".to_owned()],
        start: start.map(minute),
        end: end.map(minute),
        latest_only,
    }
}

async fn collect(stream: Result<SendableRecordBatchStream>) -> Result<RecordBatch> {
    let stream = stream?;
    let schema = stream.schema();
    let batches: Vec<_> = stream.try_collect().await?;
    Ok(concat_batches(&schema, &batches)?)
}

fn whole(batch: &RecordBatch, column: &str) -> Vec<Option<i64>> {
    batch[column].as_primitive::<Int64Type>().iter().collect()
}

fn printed(batch: &RecordBatch) -> Vec<Vec<String>> {
    let options = FormatOptions::default().with_null("-");
    let columns = batch.columns().iter();
    let columns: Vec<_> = columns
        .map(|column| ArrayFormatter::try_new(column, &options).unwrap())
        .collect();
    let row = |row| {
        columns
            .iter()
            .map(|column| column.value(row).to_string())
            .collect()
    };
    (0..batch.num_rows()).map(row).collect()
}

/// A feature row: its keys, minutes of time and creation, value.
type Row = (i64, &'static str, i64, i64, i64);

/// What the join answers, row by row.
fn known(rows: &[Row], key: (i64, &str), at: i64, ttl: Option<i64>, as_of: bool) -> Option<i64> {
    let fits = |row: &&Row| {
        (row.0, row.1) == key
            && row.2 <= at
            && ttl.is_none_or(|ttl| row.2 >= at - ttl)
            && (!as_of || row.3 <= at)
    };
    rows.iter()
        .filter(fits)
        .max_by_key(|row| (row.2, row.3))
        .map(|row| row.4)
}

/// Random rows of keys that run into each other when they are put one after the other.
#[tokio::test]
async fn joins_are_what_one_reads_off_the_rows() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut dice = |sides: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        i64::try_from(seed % sides).unwrap()
    };
    let words = ["1", "11", "111", "a'b"];
    let mut rows: Vec<Row> = Vec::new();
    let mut insert = Vec::new();
    for value in 0..3000_i64 {
        let word = words[usize::try_from(dice(4)).unwrap()];
        let (key, at) = ([1, 11, 111][usize::try_from(dice(3)).unwrap()], dice(400));
        // Unique, so that there is one answer.
        let row = (key, word, at, at + value % 977, value);
        if rows
            .iter()
            .any(|other| (other.0, other.1, other.2, other.3) == (row.0, row.1, row.2, row.3))
        {
            continue;
        }
        insert.push(format!(
            "({key}, '{}', '{}'::timestamptz, '{}'::timestamptz AT TIME ZONE 'UTC', {value})",
            word.replace('\'', "''"),
            minute(row.2).to_rfc3339(),
            minute(row.3).to_rfc3339(),
        ));
        rows.push(row);
    }
    let place = Place::new(&format!(
        "CREATE SCHEMA other; CREATE TABLE other.\"T\" (a int, b text, ts timestamptz, made timestamp, x bigint, unused text); \
         INSERT INTO other.\"T\" (a, b, ts, made, x) VALUES {}",
        insert.join(",")
    ))
    .await;
    let asked: Vec<(i64, &str, i64)> = (0..500)
        .map(|_| {
            let word = words[usize::try_from(dice(4)).unwrap()];
            (
                [1, 11, 111, 5][usize::try_from(dice(4)).unwrap()],
                word,
                dice(450),
            )
        })
        .collect();
    let entities = RecordBatch::try_from_iter_with_nullable([
        (
            "a",
            Arc::new(asked.iter().map(|row| Some(row.0)).collect::<Int64Array>()) as ArrayRef,
            true,
        ),
        (
            "b",
            Arc::new(asked.iter().map(|row| Some(row.1)).collect::<StringArray>()),
            true,
        ),
        (
            "at",
            times(&asked.iter().map(|row| row.2).collect::<Vec<_>>()),
            true,
        ),
    ])
    .unwrap();
    let keys = [("a", ValueType::Int64), ("b", ValueType::String)];
    let table = source("other.\"T\"", "", "made");
    // Its times have no zone, and are UTC.
    let naive = source(
        "",
        "SELECT a, b, ts AT TIME ZONE 'UTC' AS ts, made, x FROM other.\"T\" WHERE a > 0 -- all;",
        "made",
    );
    for (source, ttl, as_of) in [
        (&table, None, false),
        (&table, Some(3), false),
        (&naive, Some(3), false),
        (&naive, None, true),
    ] {
        let query = HistoricalQuery {
            entities: EntityRows::Batches {
                schema: entities.schema(),
                batches: vec![entities.clone()],
                timestamp_column: "at".to_owned(),
            },
            views: vec![view(source, &keys, "x", ttl.map(i64::unsigned_abs))],
            filter_by_created: as_of,
        };
        let answer = collect(place.store.historical(query).await).await.unwrap();
        let expected: Vec<_> = asked
            .iter()
            .map(|(a, b, at)| known(&rows, (*a, b), *at, ttl, as_of))
            .collect();
        assert_eq!(whole(&answer, "x"), expected, "{ttl:?} {as_of}");
        assert!(expected.iter().any(Option::is_some) && expected.iter().any(Option::is_none));
    }
    // A range: the keys and times themselves.
    let query = HistoricalQuery {
        entities: EntityRows::Range {
            start: minute(10),
            end: minute(20),
        },
        views: vec![view(&table, &keys, "x", None)],
        filter_by_created: false,
    };
    let answer = collect(place.store.historical(query).await).await.unwrap();
    let mut inside: Vec<_> = rows.iter().filter(|row| (10..=20).contains(&row.2)).collect();
    inside.sort_by_key(|row| (row.2, row.0, row.1));
    inside.dedup_by_key(|row| (row.2, row.0, row.1));
    let expected: Vec<_> = inside
        .iter()
        .map(|row| known(&rows, (row.0, row.1), row.2, None, false))
        .collect();
    assert_eq!(whole(&answer, "x"), expected);
    place.fresh.remove().await;
}

#[tokio::test]
async fn every_type_arrives() {
    let place = Place::new(
        "CREATE TYPE mood AS ENUM ('fine'); CREATE DOMAIN small AS int2 CHECK (VALUE < 9); \
         CREATE TABLE t (b bool, i2 int2, i4 int4, i8 int8, f4 float4, f8 float8, n numeric, s text, v varchar(9), c char(4), \
         by bytea, ts timestamp, tz timestamptz, d date, j jsonb, u uuid, m mood, sm small, \
         li int4[], lt text[], ln numeric[], lz timestamptz[], lu uuid[]); \
         INSERT INTO t VALUES (true, -2, 4, 8, 0.5, 0.1, 12.25, 'ü', 'v', 'c', '\\x00ff', '1999-12-31 23:59:59.5', \
         '2026-01-01 07:00:00-05', '1969-12-31', '{\"a\": 1}', '00000000-0000-0000-0000-00000000000a', 'fine', 3, \
         '{1,NULL}', '{}', '{1.5}', '{2026-01-01 00:00:00+00}', '{00000000-0000-0000-0000-00000000000a}'); \
         INSERT INTO t (i4) VALUES (NULL)",
    )
    .await;
    let cells = place.cells("SELECT * FROM t").await;
    let expected = [
        "true",
        "-2",
        "4",
        "8",
        "0.5",
        "0.1",
        "12.25",
        "ü",
        "v",
        "c",
        "00ff",
        "1999-12-31T23:59:59.500",
        "2026-01-01T12:00:00Z",
        "1969-12-31",
        "{\"a\": 1}",
        "00000000-0000-0000-0000-00000000000a",
        "fine",
        "3",
        "[1, -]",
        "[]",
        "[1.5]",
        "[2026-01-01T00:00:00Z]",
        "[00000000-0000-0000-0000-00000000000a]",
    ];
    assert_eq!(cells[0], expected);
    assert_eq!(cells[1], vec!["-"; expected.len()]);
    // And all of it goes back.
    let (_, batches) = place.store.select("SELECT * FROM t WHERE b", &[]).await.unwrap();
    place
        .store
        .append(&source("t", "", ""), batches, None)
        .await
        .unwrap();
    assert_eq!(
        place.cells("SELECT * FROM t WHERE b").await,
        [cells[0].clone(), cells[0].clone()]
    );
    let schema = place.store.schema(&source("t", "", "")).await.unwrap();
    assert_eq!(schema.field(1).data_type(), &DataType::Int32);
    place.fresh.remove().await;
}

const DRIVERS: &str = "CREATE TABLE t (a bigint, ts timestamptz, x bigint, id serial); INSERT INTO t VALUES \
     (1, '2026-01-01 00:08:00+00', 10), (1, '2026-01-01 00:10:00+00', 11), (2, '2026-01-01 00:10:00+00', 20), \
     (1, '2026-01-01 00:12:00+00', 12), (NULL, '2026-01-01 00:12:00+00', 13)";

#[tokio::test]
async fn windows_are_pulled_and_rows_appended() {
    let place = Place::new(DRIVERS).await;
    let store = &place.store;
    let found = async |start, end, latest| {
        let pulled = collect(store.pull(pull(source("t", "", ""), start, end, latest)).await);
        let mut found = whole(&pulled.await.unwrap(), "x");
        found.sort();
        found
    };
    assert_eq!(found(Some(10), Some(10), false).await, [Some(11), Some(20)]);
    assert_eq!(found(None, Some(11), true).await, [Some(11), Some(20)]);
    assert_eq!(found(None, None, true).await, [Some(12), Some(20)]);
    let rows = |names: [&str; 3]| {
        let one: ArrayRef = Arc::new(Int64Array::from(vec![7]));
        let columns = [Arc::clone(&one), times(&[13]), one];
        RecordBatch::try_from_iter_with_nullable(
            names
                .into_iter()
                .zip(columns)
                .map(|(name, column)| (name, column, true)),
        )
        .unwrap()
    };
    // The second batch is wrong, so nothing of the first is there.
    let both = vec![rows(["a", "ts", "x"]), rows(["a", "ts", "y"])];
    let error = store.append(&source("t", "", ""), both, None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument);
    assert!(error.message().ends_with("missing `x`, unknown `y`"), "{error}");
    assert_eq!(found(Some(13), None, false).await, []);
    assert_eq!(
        store
            .append(&source("t", "", ""), vec![rows(["x", "ts", "a"])], None)
            .await
            .unwrap()
            .rows,
        1
    );
    assert_eq!(found(Some(13), None, false).await, [Some(7)]);
    let query = source("", "SELECT * FROM t", "");
    let error = store
        .append(&query, vec![rows(["a", "ts", "x"])], None)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    place.fresh.remove().await;
}

#[tokio::test]
async fn of_equal_rows_the_last_one_in_the_table_wins_whoever_reads_them() {
    // A table so big that PostgreSQL would read it with several processes, if it may: rows would come in any order.
    let place = Place::new(
        "CREATE TABLE t (a bigint, ts timestamptz, x bigint) WITH (fillfactor = 10, parallel_workers = 2); \
         INSERT INTO t SELECT key, '2026-01-01 00:10:00+00', round * 1000 + key \
         FROM generate_series(0, 19) AS round, generate_series(0, 999) AS key",
    )
    .await;
    for setting in [
        "min_parallel_table_scan_size",
        "parallel_setup_cost",
        "parallel_tuple_cost",
    ] {
        let name = place.fresh.name();
        run(
            place.fresh.admin(),
            &format!("ALTER DATABASE {name} SET {setting} TO 0"),
        )
        .await;
    }
    let last = (0..1000).map(|key| Some(19_000 + key)).collect::<Vec<_>>();
    let mut pulled = whole(
        &collect(
            place
                .store
                .pull(pull(source("t", "", ""), None, None, true))
                .await,
        )
        .await
        .unwrap(),
        "x",
    );
    pulled.sort();
    assert_eq!(pulled, last);
    let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1000));
    let entities =
        RecordBatch::try_from_iter([("a", keys), ("event_timestamp", times(&[10; 1000]))]).unwrap();
    let query = HistoricalQuery {
        entities: EntityRows::Batches {
            schema: entities.schema(),
            batches: vec![entities],
            timestamp_column: "event_timestamp".to_owned(),
        },
        views: vec![view(&source("t", "", ""), &[("a", ValueType::Int64)], "x", None)],
        filter_by_created: false,
    };
    let joined = collect(place.store.historical(query).await).await.unwrap();
    assert_eq!(whole(&joined, "x"), last);
    place.fresh.remove().await;
}

#[tokio::test]
async fn rows_under_a_marker_are_appended_once() {
    // It fails for a reason that is not in the rows.
    let place = Place::new(&format!(
        "{DRIVERS}; CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.x = 666 THEN \
         RAISE EXCEPTION 'not now' USING ERRCODE = '55000'; END IF; RETURN NEW; END $$; \
         CREATE TRIGGER look BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION look()"
    ))
    .await;
    let folder = tempfile::tempdir().unwrap();
    let marker = folder.path().join("segment.0");
    let append = async |values: Vec<i64>| {
        let minutes = vec![30; values.len()];
        let numbers: ArrayRef = Arc::new(Int64Array::from(values));
        let columns = [
            ("a", Arc::clone(&numbers), true),
            ("ts", times(&minutes), true),
            ("x", numbers, true),
        ];
        let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
        let table = source("t", "", "");
        place.store.append(&table, vec![batch], Some(&marker)).await
    };
    let added = async || place.cells("SELECT count(*) FROM t WHERE a >= 600").await;
    // A transaction that was noted down and did not happen leaves nothing and is no reason not to try again.
    append(vec![665, 666]).await.unwrap_err();
    assert!(marker.exists());
    assert_eq!(added().await, [["0"]]);
    assert_eq!(append(vec![665, 667]).await.unwrap().rows, 2);
    assert_eq!(append(vec![665, 667]).await.unwrap(), Appended::default());
    assert_eq!(added().await, [["2"]]);
    // What cannot be told is neither lost nor added twice.
    fs::write(&marker, "?").unwrap();
    let error = append(vec![665, 667]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    fs::remove_file(&marker).unwrap();
    assert_eq!(append(vec![668]).await.unwrap().rows, 1);
    assert_eq!(added().await, [["3"]]);
    place.fresh.remove().await;
}

/// Rows that break constraints, also ones that are checked late, and triggers do not hold up the others.
#[tokio::test]
async fn rows_that_a_table_refuses_are_left_out_and_told() {
    let place = Place::new(&format!(
        "{DRIVERS}; DELETE FROM t WHERE a IS NULL; ALTER TABLE t ADD CHECK (x <> 7); ALTER TABLE t ALTER a SET NOT NULL; \
         ALTER TABLE t ADD CONSTRAINT once UNIQUE (a, ts, x) DEFERRABLE INITIALLY DEFERRED; \
         CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.x = 30 THEN \
         RAISE EXCEPTION 'not thirty'; END IF; RETURN NEW; END $$; \
         CREATE TRIGGER look BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION look()"
    ))
    .await;
    let folder = tempfile::tempdir().unwrap();
    let batch = |values: Vec<i64>| {
        let minutes = vec![30; values.len()];
        let keys = values.iter().map(|value| (*value != 40).then_some(600 + value));
        let columns = [
            ("a", Arc::new(keys.collect::<Int64Array>()) as ArrayRef, true),
            ("ts", times(&minutes), true),
            ("x", Arc::new(Int64Array::from(values)), true),
        ];
        RecordBatch::try_from_iter_with_nullable(columns).unwrap()
    };
    // 7 is checked, 30 the trigger's, 40 has no key, and 2 is there twice.
    let batches = vec![batch(vec![1, 7, 2, 3]), batch((20..45).collect()), batch(vec![2])];
    let table = source("t", "", "");
    let append = async |marker: &str| {
        let marker = folder.path().join(marker);
        place
            .store
            .append(&table, batches.clone(), Some(&marker))
            .await
            .unwrap()
    };
    let told = |appended: &Appended| {
        let rows = appended.refused.iter().map(|row| row.row);
        rows.collect::<Vec<_>>()
    };
    let appended = append("one").await;
    assert_eq!((appended.rows, told(&appended)), (26, vec![1, 14, 24, 29]));
    let reasons = ["check constraint", "not thirty", "not-null", "once"];
    for (row, reason) in appended.refused.iter().zip(reasons) {
        assert!(row.reason.contains(reason), "{}", row.reason);
    }
    let again = append("one").await;
    assert_eq!((again.rows, again.refused), (0, appended.refused));
    assert_eq!(
        place.cells("SELECT count(*) FROM t WHERE a >= 600").await,
        [["26"]]
    );
    // When all are refused nothing is added.
    assert_eq!(told(&append("two").await), (0..30).collect::<Vec<_>>());
    // Without a marker nobody would be told: all or nothing.
    let error = place
        .store
        .append(&table, batches.clone(), None)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument);
    place.fresh.remove().await;
}

#[tokio::test]
async fn a_stream_becomes_a_table_once() {
    let place = Place::new(DRIVERS).await;
    let store = &place.store;
    let all = async || {
        store
            .pull(pull(source("t", "", ""), None, None, false))
            .await
            .unwrap()
    };
    let target = source("saved", "", "");
    assert_eq!(store.save(&target, all().await, false, None).await.unwrap(), 5);
    let error = store.save(&target, all().await, false, None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::AlreadyExists, "{error}");
    assert_eq!(store.save(&target, all().await, true, None).await.unwrap(), 5);
    assert_eq!(
        place.cells("SELECT a, x, ts FROM saved ORDER BY x LIMIT 1").await,
        [["1", "10", "2026-01-01T00:08:00Z"]]
    );
    // What fails leaves what was there.
    let wrong = source("", "SELECT 1 / (x - 20) AS x, a, ts FROM t", "");
    let broken = store.pull(pull(wrong, None, None, false)).await.unwrap();
    assert!(store.save(&target, broken, true, None).await.is_err());
    assert_eq!(place.cells("SELECT count(*) FROM saved").await, [["5"]]);
    place.fresh.remove().await;
}

#[tokio::test]
async fn what_is_wrong_is_said_and_nothing_is_changed() {
    let place = Place::new(DRIVERS).await;
    let store = &place.store;
    let kinds = [
        (
            "SELECT * FROM nowhere",
            "PostgreSQL says: relation \"nowhere\" does not exist",
        ),
        ("SELEC 1", "syntax error"),
        ("SELECT 1; DROP TABLE t", "syntax error"),
        (
            "SELECT 1) AS q; DROP TABLE t; SELECT * FROM (SELECT 1",
            "multiple commands",
        ),
        (
            "WITH gone AS (DELETE FROM t RETURNING *) SELECT * FROM gone",
            "WITH clause",
        ),
        ("SELECT nextval('t_id_seq')", "read-only"),
    ];
    for (sql, says) in kinds {
        let error = store.select(sql, &[]).await.unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument, "{error}");
        assert!(error.message().contains(says), "{sql}: {error}");
    }
    assert_eq!(place.cells("SELECT count(*) FROM t").await, [["5"]]);
    let error = collect(store.pull(pull(source("none", "", ""), None, None, false)).await);
    let error = error.await.unwrap_err();
    assert!(
        error.message().starts_with("data source `src`: PostgreSQL says"),
        "{error}"
    );
    let mut missing = pull(source("t", "", ""), None, None, false);
    missing.features = vec!["y".to_owned()];
    let error = collect(store.pull(missing).await).await.unwrap_err();
    assert!(error.message().contains("`t` has no column `y`"), "{error}");
    store.check().await.unwrap();
    place.fresh.remove().await;
}

#[tokio::test]
async fn a_server_that_is_away_is_unavailable_and_its_password_stays_secret() {
    let away = store("host: 127.0.0.1\nport: 1\nuser: u\npassword: hush\ndatabase: d");
    let errors = [
        away.check().await.unwrap_err(),
        away.schema(&source("t", "", "")).await.unwrap_err(),
        away.append(&source("t", "", ""), Vec::new(), None)
            .await
            .unwrap_err(),
        collect(away.pull(pull(source("t", "", ""), None, None, true)).await)
            .await
            .unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), Kind::Unavailable);
        let shown = format!("{error} {error:?} {:?}", error.hint_text());
        assert!(
            shown.contains("postgresql://u@127.0.0.1:1/d") && !shown.contains("hush"),
            "{shown}"
        );
    }
}
