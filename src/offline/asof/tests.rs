//! The join against an oracle that looks at every feature row for every entity row.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
        TimestampNanosecondArray,
    },
    datatypes::Int64Type,
};
use datafusion::execution::memory_pool::{GreedyMemoryPool, UnboundedMemoryPool};
use futures::{StreamExt, TryStreamExt};
use proptest::{collection::vec, option, prelude::*};
use tokio::runtime::Runtime;

use super::*;
use crate::{
    error::Kind,
    model::ValueType,
    offline::store::{JoinFeature, JoinKey},
    proto::feast::core::DataSource,
};

/// A row of a source. Its place in the list is its value.
#[derive(Debug, Clone)]
struct FeatureRow {
    keys: [Option<i64>; 2],
    time: Option<i64>,
    created: Option<i64>,
}

#[derive(Debug, Clone)]
struct Source {
    /// Whether times are in nanoseconds.
    nanos: bool,
    has_created: bool,
    rows: Vec<FeatureRow>,
    /// Rows per batch, and batches per partition.
    cuts: (usize, usize),
}

#[derive(Debug, Clone)]
struct ViewCase {
    source: usize,
    /// Which entity columns its keys are joined to, by the source's key columns.
    keys: Vec<usize>,
    ttl: Option<u64>,
}

#[derive(Debug, Clone)]
struct Case {
    sources: Vec<Source>,
    views: Vec<ViewCase>,
    /// Three key columns and a time.
    entities: Vec<([Option<i64>; 3], Option<i64>)>,
    entity_cut: usize,
    known_as_of: bool,
}

/// Few keys and few moments, around 1970, so that ties, edges and duplicates are the rule.
fn case() -> impl Strategy<Value = Case> {
    let key = || option::weighted(0.9, 0..3_i64);
    let moment = || option::weighted(0.95, -6..7_i64);
    let row = (([key(), key()]), moment(), moment()).prop_map(|(keys, time, created)| FeatureRow {
        keys,
        time,
        created,
    });
    let source = (
        any::<bool>(),
        any::<bool>(),
        vec(row, 0..14),
        1..6_usize,
        1..4_usize,
    )
        .prop_map(|(nanos, has_created, rows, rows_per_batch, batches)| Source {
            nanos,
            has_created,
            rows,
            cuts: (rows_per_batch, batches),
        });
    let view = (0..2_usize, vec(0..3_usize, 0..3), option::of(0..5_u64))
        .prop_map(|(source, keys, ttl)| ViewCase { source, keys, ttl });
    let entity = ([key(), key(), key()], moment());
    (
        vec(source, 2),
        vec(view, 1..4),
        vec(entity, 0..10),
        1..5_usize,
        any::<bool>(),
    )
        .prop_map(|(mut sources, views, entities, entity_cut, known_as_of)| {
            if known_as_of {
                sources.iter_mut().for_each(|source| source.has_created = true);
            }
            Case {
                sources,
                views,
                entities,
                entity_cut,
                known_as_of,
            }
        })
}

/// The rule of the point-in-time join, word by word.
fn oracle(case: &Case, view: &ViewCase, entity: &([Option<i64>; 3], Option<i64>)) -> Option<i64> {
    let source = &case.sources[view.source];
    let moment = entity.1?;
    let mut chosen: Option<(i64, Option<i64>, usize)> = None;
    for (place, row) in source.rows.iter().enumerate() {
        let keys_match = view.keys.iter().enumerate().all(|(source_key, &entity_key)| {
            row.keys[source_key].is_some() && row.keys[source_key] == entity.0[entity_key]
        });
        let Some(time) = row.time else { continue };
        let created = if source.has_created { row.created } else { None };
        let known = !case.known_as_of || created.is_some_and(|created| created <= moment);
        let fresh = view
            .ttl
            .is_none_or(|ttl| time >= moment - i64::try_from(ttl).unwrap());
        if keys_match && time <= moment && fresh && known {
            chosen = chosen.max(Some((time, created, place)));
        }
    }
    chosen.map(|(_, _, place)| i64::try_from(place).unwrap())
}

fn time_column(times: Vec<Option<i64>>, nanos: bool) -> ArrayRef {
    if nanos {
        Arc::new(TimestampNanosecondArray::from_iter(
            times.into_iter().map(|time| time.map(|time| time * 1_000)),
        ))
    } else {
        Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC"))
    }
}

/// Key columns `k0` (whole numbers) and `k1` (text), `ts`, `created`, and values `v` and `name`.
fn source_batch(source: &Source, first: usize, rows: &[FeatureRow]) -> RecordBatch {
    let text = |key: Option<i64>| key.map(|key| key.to_string());
    let places = first..first + rows.len();
    let columns: Vec<(&str, ArrayRef)> = vec![
        (
            "k0",
            Arc::new(Int64Array::from_iter(rows.iter().map(|row| row.keys[0]))),
        ),
        (
            "k1",
            Arc::new(StringArray::from_iter(rows.iter().map(|row| text(row.keys[1])))),
        ),
        (
            "ts",
            time_column(rows.iter().map(|row| row.time).collect(), source.nanos),
        ),
        (
            "created",
            time_column(rows.iter().map(|row| row.created).collect(), source.nanos),
        ),
        (
            "v",
            Arc::new(Int64Array::from_iter_values(
                places.clone().map(|place| i64::try_from(place).unwrap()),
            )),
        ),
        (
            "name",
            Arc::new(StringArray::from_iter_values(
                places.map(|place| format!("row {place}")),
            )),
        ),
    ];
    let columns = columns.into_iter().map(|(name, array)| (name, array, true));
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

fn stream(schema: &SchemaRef, batches: Vec<RecordBatch>) -> SendableRecordBatchStream {
    let batches = stream::iter(batches.into_iter().map(Ok));
    Box::pin(RecordBatchStreamAdapter::new(Arc::clone(schema), batches))
}

/// The sources of a case; it counts how often each is scanned.
struct CaseSources {
    case: Case,
    scans: AtomicUsize,
}

#[async_trait]
impl Sources for CaseSources {
    async fn scan(&self, side: usize, bounds: &Bounds) -> Result<Vec<Part>> {
        // Rows outside the bounds may be left out, so leaving the scan out must be right as well.
        assert!(!bounds.nothing);
        self.scans.fetch_add(1, Ordering::Relaxed);
        let source = &self.case.sources[side];
        let schema = source_batch(source, 0, &[]).schema();
        let (per_batch, per_partition) = source.cuts;
        let batches: Vec<_> = source
            .rows
            .chunks(per_batch)
            .enumerate()
            .map(|(batch, rows)| source_batch(source, batch * per_batch, rows))
            .collect();
        let part = |(part, batches): (usize, &[RecordBatch])| Part {
            place: u64::try_from(part).unwrap() << 40,
            rows: stream(&schema, batches.to_vec()),
        };
        Ok(batches.chunks(per_partition).enumerate().map(part).collect())
    }
}

fn side(case: &Case, index: usize) -> Side {
    let source = &case.sources[index];
    let view = |(place, view): (usize, &ViewCase)| {
        let keys = view.keys.iter().enumerate().map(|(key, entity)| JoinKey {
            entity_column: format!("e{entity}"),
            source_column: format!("k{key}"),
            value_type: if key == 0 {
                ValueType::Int64
            } else {
                ValueType::String
            },
        });
        let feature = |name: &str| JoinFeature {
            source_column: name.to_owned(),
            output: format!("{place}__{name}"),
            value_type: ValueType::Int64,
        };
        let view = JoinView {
            name: format!("view{place}"),
            source: Arc::new(DataSource::default()),
            join_keys: keys.collect(),
            features: vec![feature("name"), feature("v")],
            ttl: view.ttl.map(Duration::from_micros),
        };
        (place, view)
    };
    let views = case
        .views
        .iter()
        .enumerate()
        .filter(|(_, view)| view.source == index)
        .map(view)
        .collect();
    Side {
        schema: source_batch(source, 0, &[]).schema(),
        timestamp: "ts".to_owned(),
        created: source.has_created.then(|| "created".to_owned()),
        views,
    }
}

fn entities(case: &Case) -> Entities {
    let batch = |rows: &[([Option<i64>; 3], Option<i64>)]| {
        let key =
            |key: usize| -> ArrayRef { Arc::new(Int64Array::from_iter(rows.iter().map(|row| row.0[key]))) };
        let times = TimestampMicrosecondArray::from_iter(rows.iter().map(|row| row.1));
        let columns = [
            ("e0", key(0)),
            ("e1", key(1)),
            ("at", Arc::new(times) as ArrayRef),
            ("e2", key(2)),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true))).unwrap()
    };
    let batches = case.entities.chunks(case.entity_cut).map(batch).collect();
    Entities::new(batch(&[]).schema(), batches, "at").unwrap()
}

fn new_join(case: &Case, scale: Scale, pool: Arc<dyn MemoryPool>) -> Join {
    Join {
        entities: entities(case),
        sides: (0..case.sources.len()).map(|index| side(case, index)).collect(),
        scale,
        known_as_of: case.known_as_of,
        pool,
        parallel: 2,
    }
}

/// The answer, and how many scans it took.
async fn join(case: &Case, pool: Arc<dyn MemoryPool>) -> Result<(Vec<RecordBatch>, usize)> {
    let sources = Arc::new(CaseSources {
        case: case.clone(),
        scans: AtomicUsize::new(0),
    });
    let join = new_join(case, Scale::Nanos, Arc::clone(&pool));
    let rows = join.run(Arc::clone(&sources) as Arc<dyn Sources>).await?;
    let batches = rows.try_collect().await.map_err(Error::from)?;
    assert_eq!(pool.reserved(), 0, "memory is given back");
    Ok((batches, sources.scans.load(Ordering::Relaxed)))
}

fn at(array: &Int64Array, row: usize) -> Option<i64> {
    array.is_valid(row).then(|| array.value(row))
}

fn check(case: &Case, batches: &[RecordBatch]) {
    let mut row = 0;
    for batch in batches {
        for in_batch in 0..batch.num_rows() {
            for (place, view) in case.views.iter().enumerate() {
                let want = oracle(case, view, &case.entities[row]);
                let values = batch[format!("{place}__v").as_str()].as_primitive::<Int64Type>();
                assert_eq!(at(values, in_batch), want, "row {row}, view {place}");
                let names = batch[format!("{place}__name").as_str()].as_string::<i32>();
                let name = names.is_valid(in_batch).then(|| names.value(in_batch));
                assert_eq!(name, want.map(|want| format!("row {want}")).as_deref());
            }
            row += 1;
        }
    }
    assert_eq!(row, case.entities.len(), "every entity row once");
}

/// One for all cases: starting threads would cost more than joining.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_answer_is_the_oracles(case in case()) {
        let (batches, _) = RUNTIME.block_on(join(&case, Arc::new(UnboundedMemoryPool::default()))).unwrap();
        check(&case, &batches);
    }

    /// Entity rows in runs, sources spilled, whatever it takes: the same answers, or none.
    #[test]
    fn every_answer_is_the_oracles_in_any_memory(case in case(), limit in 200..10_000_usize) {
        match RUNTIME.block_on(join(&case, Arc::new(GreedyMemoryPool::new(limit)))) {
            Ok((batches, _)) => check(&case, &batches),
            Err(error) => {
                assert_eq!(error.kind(), Kind::Overloaded, "{error}");
                assert!(limit < 7_000, "{limit} bytes suffice for one row at a time: {error}");
            }
        }
    }
}

/// `rows` rows of distinct keys at three times each, asked for at the last of them.
fn big(rows: i64) -> Case {
    let row = |place: i64| FeatureRow {
        keys: [Some(place / 3), None],
        time: Some(place % 3),
        created: None,
    };
    Case {
        sources: vec![Source {
            nanos: false,
            has_created: false,
            rows: (0..rows).map(row).collect(),
            cuts: (512, 3),
        }],
        views: vec![
            ViewCase {
                source: 0,
                keys: vec![0],
                ttl: None,
            },
            ViewCase {
                source: 0,
                keys: vec![1],
                ttl: Some(0),
            },
        ],
        entities: (0..rows / 3)
            .rev()
            .map(|key| ([Some(key), None, None], Some(key % 4)))
            .collect(),
        entity_cut: 100_000,
        known_as_of: false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_partitions_at_once_agree_with_one() {
    let case = big(60_000);
    let pool = Arc::new(UnboundedMemoryPool::default());
    let (batches, scans) = join(&case, pool).await.unwrap();
    assert_eq!(scans, 1);
    check_big(&case, &batches);
    // A quarter of the memory that takes: one run after the other, the same answer.
    let pool = Arc::new(GreedyMemoryPool::new(1 << 20));
    let (batches, scans) = join(&case, pool).await.unwrap();
    assert!(scans > 1);
    check_big(&case, &batches);
}

fn check_big(case: &Case, batches: &[RecordBatch]) {
    assert!(batches.len() > 1);
    let mut row = 0;
    for batch in batches {
        let (newest, exact) = (&batch["0__v"], &batch["1__v"]);
        for in_batch in 0..batch.num_rows() {
            let (keys, moment) = case.entities[row];
            let want = keys[0].unwrap() * 3 + moment.unwrap().min(2);
            assert_eq!(at(newest.as_primitive::<Int64Type>(), in_batch), Some(want));
            assert!(exact.is_null(in_batch), "a null key has no answer");
            row += 1;
        }
    }
    assert_eq!(row, 20_000);
}

#[tokio::test]
async fn sources_beyond_their_share_of_memory_wait_on_disk() {
    let mut case = big(30_000);
    case.sources.push(case.sources[0].clone());
    case.views.push(ViewCase {
        source: 1,
        keys: vec![0],
        ttl: None,
    });
    let mut answers = Vec::new();
    for limit in [1 << 30, 8 << 20] {
        let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(limit));
        let sources = Arc::new(CaseSources {
            case: case.clone(),
            scans: AtomicUsize::new(0),
        });
        let mut join = new_join(&case, Scale::Nanos, Arc::clone(&pool));
        join.parallel = 1;
        let rows = join.run(Arc::clone(&sources) as Arc<dyn Sources>).await.unwrap();
        let held = pool.reserved();
        let batches: Vec<RecordBatch> = rows.try_collect().await.unwrap();
        assert_eq!(
            sources.scans.load(Ordering::Relaxed),
            2,
            "all entity rows at once"
        );
        answers.push((held, batches));
    }
    let [(held, want), (less, batches)] = &answers[..] else {
        panic!("two answers")
    };
    assert!(less < held, "{less} of {held} bytes are held");
    assert_eq!(batches, want);
    assert_eq!(batches[0]["0__name"].as_ref(), batches[0]["2__name"].as_ref());
}

#[tokio::test]
async fn without_memory_for_the_entity_rows_the_query_is_refused() {
    let error = join(&big(30_000), Arc::new(GreedyMemoryPool::new(1 << 17)))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Overloaded, "{error}");
    assert!(error.hint_text().unwrap().contains("memory_limit"));
}

/// Sources that give one stream, once.
struct Once(std::sync::Mutex<Option<SendableRecordBatchStream>>);

impl Once {
    fn of(rows: SendableRecordBatchStream) -> Arc<dyn Sources> {
        Arc::new(Self(std::sync::Mutex::new(Some(rows))))
    }
}

#[async_trait]
impl Sources for Once {
    async fn scan(&self, _: usize, _: &Bounds) -> Result<Vec<Part>> {
        let rows = self.0.lock().unwrap().take().unwrap();
        Ok(vec![Part { place: 0, rows }])
    }
}

#[tokio::test]
async fn a_failing_scan_fails_the_join_and_a_dropped_join_drops_its_scans() {
    let case = big(300);
    let schema = side(&case, 0).schema;
    let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
    let failing = stream::once(async { Err(Error::unavailable("the disk is gone").into()) });
    let failing: SendableRecordBatchStream =
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&schema), failing));
    let join = new_join(&case, Scale::Micros, Arc::clone(&pool));
    let Err(error) = join.run(Once::of(failing)).await else {
        panic!("no error")
    };
    assert_eq!(
        (error.kind(), error.message()),
        (Kind::Unavailable, "the disk is gone")
    );

    let (alive, mut dropped) = tokio::sync::mpsc::channel::<()>(1);
    let endless = stream::pending().chain(stream::once(async move {
        drop(alive);
        Err(Error::internal("never").into())
    }));
    let endless: SendableRecordBatchStream =
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&schema), endless));
    let join = new_join(&case, Scale::Micros, pool);
    let running = tokio::spawn(join.run(Once::of(endless)));
    tokio::task::yield_now().await;
    running.abort();
    assert_eq!(dropped.recv().await, None);
    assert!(running.await.is_err_and(|error| error.is_cancelled()));
}
