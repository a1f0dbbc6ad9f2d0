use std::collections::BTreeMap;

use arrow::{
    array::{StringArray, TimestampMicrosecondArray},
    datatypes::{DataType, TimeUnit},
};
use datafusion::{datasource::memory::MemorySourceConfig, physical_plan::collect_partitioned};

use super::*;
use crate::proto::feast::core::DataSource;

fn pull(join_keys: &[&str]) -> Pull {
    let source = DataSource {
        timestamp_field: "at".to_owned(),
        created_timestamp_column: "created".to_owned(),
        ..DataSource::default()
    };
    Pull {
        source: Arc::new(source),
        join_keys: join_keys.iter().map(|key| (*key).to_owned()).collect(),
        features: vec!["x".to_owned()],
        start: None,
        end: None,
        latest_only: false,
    }
}

type Row = (Option<i64>, Option<&'static str>, i64, Option<i64>, i64);

/// Rows whose keys and times meet often, each with a number of its own.
fn rows() -> Vec<Row> {
    let mut state = 7_u64;
    let mut dice = |sides: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % sides
    };
    let row = |number: i64| {
        let driver = dice(9);
        let zone = ["a", "b", "it's"].get(usize::try_from(dice(4)).unwrap()).copied();
        let created = dice(4);
        (
            (driver > 0).then(|| i64::try_from(driver).unwrap()),
            zone,
            i64::try_from(dice(5)).unwrap(),
            (created > 0).then(|| i64::try_from(created).unwrap()),
            number,
        )
    };
    (0..3_000).map(row).collect()
}

fn batch(rows: &[Row]) -> RecordBatch {
    let times = |times: Vec<Option<i64>>| {
        let times = TimestampMicrosecondArray::from(times).with_timezone("UTC");
        Arc::new(times) as ArrayRef
    };
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let schema = Schema::new(vec![
        Field::new("driver", DataType::Int64, true),
        Field::new("zone", DataType::Utf8, true),
        Field::new("x", DataType::Int64, true),
        Field::new("at", time.clone(), true),
        Field::new("created", time, true),
    ]);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter(rows.iter().map(|row| row.0))),
        Arc::new(StringArray::from_iter(rows.iter().map(|row| row.1))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.4))),
        times(rows.iter().map(|row| Some(row.2)).collect()),
        times(rows.iter().map(|row| row.3).collect()),
    ];
    RecordBatch::try_new(Arc::new(schema), columns).unwrap()
}

/// The numbers of the newest rows, found by executors that read so many rows at once, in the order they come.
async fn found(rows: &[Row], keys: &[&str], at_once: usize, partitions: usize) -> Vec<Vec<i64>> {
    let pull = pull(keys);
    let columns = key_columns(&pull.join_keys);
    let mut parts = vec![Vec::new(), Vec::new(), Vec::new()];
    for (number, slice) in rows.chunks(at_once).enumerate() {
        let place = u64::try_from(number * at_once).unwrap();
        let marked = marked(&batch(slice), &pull, Scale::Micros, place).unwrap();
        parts[number % 3].push(newest_of(&[marked], columns).unwrap());
    }
    let schema = marked_schema(&batch(&[]).schema(), &pull, Scale::Micros).unwrap();
    let tasks = MemorySourceConfig::try_new_exec(&parts, schema, None).unwrap();
    let newest = Newest::spread(tasks, columns, partitions).unwrap();
    assert_eq!(newest.schema(), batch(&[]).schema());
    let found = collect_partitioned(Arc::new(newest), Arc::new(TaskContext::default()));
    let numbers = |batch: &RecordBatch| {
        let numbers = batch.column_by_name("x").unwrap().as_primitive::<Int64Type>();
        numbers.values().to_vec()
    };
    let found = found.await.unwrap();
    found
        .iter()
        .map(|partition| partition.iter().flat_map(numbers).collect())
        .collect()
}

#[tokio::test]
async fn the_newest_row_of_each_key_is_found_and_in_the_same_order_each_time() {
    let rows = rows();
    let mut right = BTreeMap::new();
    for row in &rows {
        let (Some(driver), Some(zone)) = (row.0, row.1) else {
            continue;
        };
        let rank = (row.2, row.3, row.4);
        let best = right.entry((driver, zone)).or_insert(rank);
        *best = rank.max(*best);
    }
    let mut right: Vec<i64> = right.values().map(|rank| rank.2).collect();
    right.sort_unstable();
    assert_eq!(right.len(), 8 * 3);
    let once = found(&rows, &["driver", "zone"], 100, 4).await;
    assert!(once.iter().filter(|partition| !partition.is_empty()).count() > 1);
    let mut all = once.concat();
    all.sort_unstable();
    assert_eq!(all, right);
    assert_eq!(found(&rows, &["driver", "zone"], 7, 4).await, once);
}

#[tokio::test]
async fn rows_without_keys_are_all_of_one() {
    let rows = rows();
    let newest = rows.iter().max_by_key(|row| (row.2, row.3, row.4)).unwrap();
    assert_eq!(found(&rows, &[], 100, 3).await.concat(), [newest.4]);
}

#[test]
fn a_key_goes_on_over_batches_and_over_empty_ones() {
    let pull = pull(&["driver"]);
    let row = |driver, at, x| (Some(driver), None, at, None, x);
    let marked = |rows: &[Row]| marked(&batch(rows), &pull, Scale::Micros, 0).unwrap();
    let none = marked(&[]);
    let mut firsts = Firsts::new(&none.schema(), 1).unwrap();
    let mut kept = |rows: &[Row]| firsts.of(&marked(rows)).unwrap().num_rows();
    assert_eq!(kept(&[row(1, 9, 1), row(1, 8, 2), row(2, 9, 3)]), 2);
    assert_eq!(kept(&[]), 0);
    assert_eq!(kept(&[row(2, 8, 4), row(2, 7, 5)]), 0);
    assert_eq!(kept(&[row(3, 7, 6)]), 1);
}

#[test]
fn times_are_compared_on_the_scale_that_is_asked_for() {
    let time = DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()));
    let schema = Arc::new(Schema::new(vec![
        Field::new("driver", DataType::Int64, true),
        Field::new("x", DataType::Int64, true),
        Field::new("at", time.clone(), true),
        Field::new("created", time, true),
    ]));
    let times = |nanos: [i64; 2]| {
        let times = arrow::array::TimestampNanosecondArray::from(nanos.to_vec()).with_timezone("UTC");
        Arc::new(times) as ArrayRef
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![1, 1])),
        Arc::new(Int64Array::from(vec![10, 20])),
        times([1_000_000_900, 1_000_000_100]),
        times([5_000, 5_000]),
    ];
    let rows = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
    let pull = pull(&["driver"]);
    assert_eq!(finest(&pull, &schema), Scale::Nanos);
    let newest = |scale| {
        let rows = marked(&rows, &pull, scale, 0).unwrap();
        let newest = newest_of(&[rows], 1).unwrap();
        newest.column(1).as_primitive::<Int64Type>().values().to_vec()
    };
    assert_eq!(newest(Scale::Nanos), [10]);
    // Equal in microseconds: the later row of the source.
    assert_eq!(newest(Scale::Micros), [20]);
}
