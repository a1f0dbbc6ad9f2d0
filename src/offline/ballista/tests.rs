use arrow::{
    array::{Array as _, Int64Array},
    datatypes::{DataType, Field, Schema},
};

use super::*;

fn batches(lengths: &[i64]) -> (SchemaRef, Vec<RecordBatch>) {
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
    let mut next = 0;
    let batch = |length: &i64| {
        let column = Int64Array::from_iter_values(next..next + length);
        next += length;
        RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(column)]).unwrap()
    };
    let batches = lengths.iter().map(batch).collect();
    (schema, batches)
}

/// The numbers of each share, job by job.
fn numbers(work: &VecDeque<Work>) -> Vec<Vec<Vec<i64>>> {
    let question = Question::new(&[], false, &Schema::empty()).unwrap();
    let share = |share: &Share| {
        let query = question.query(share.clone()).unwrap();
        let EntityRows::Batches { batches, .. } = query.entities else {
            unreachable!("rows were given");
        };
        let column = |batch: &RecordBatch| {
            let column = batch.column(0).as_any().downcast_ref::<Int64Array>().unwrap();
            column.values().to_vec()
        };
        batches.iter().flat_map(column).collect()
    };
    work.iter()
        .map(|work| work.shares.iter().map(share).collect())
        .collect()
}

#[test]
fn rows_are_shared_in_their_order() {
    let (schema, batches) = batches(&[3, 0, 1, 6]);
    let work = Work::of_rows(&schema, &batches, "at", 4).unwrap();
    assert_eq!(
        numbers(&work),
        [[vec![0, 1], vec![2, 3, 4], vec![5, 6], vec![7, 8, 9]]]
    );
    assert_eq!(work[0].rows, [2, 3, 2, 3].map(Some));
}

#[test]
fn no_task_is_without_rows() {
    let (schema, two) = batches(&[2]);
    let work = Work::of_rows(&schema, &two, "at", 9).unwrap();
    assert_eq!(numbers(&work), [[vec![0], vec![1]]]);
    let (schema, none) = batches(&[0]);
    assert!(Work::of_rows(&schema, &none, "at", 9).unwrap().is_empty());
}

#[test]
fn many_rows_are_several_jobs() {
    let rows = i64::try_from(JOB_BYTES / 8).unwrap() * 2 + 5;
    let (schema, batches) = batches(&[rows]);
    let work = Work::of_rows(&schema, &batches, "at", 2).unwrap();
    assert_eq!(work.len(), 3);
    let shared: Vec<i64> = numbers(&work).into_iter().flatten().flatten().collect();
    assert!(shared.into_iter().eq(0..rows));
}

/// Both ends of each share, in nanoseconds.
fn ranges(start: DateTime<Utc>, end: DateTime<Utc>, tasks: usize) -> Vec<(i64, i64)> {
    let question = Question::new(&[], false, &Schema::empty()).unwrap();
    let share = |share: &Share| {
        let EntityRows::Range { start, end } = question.query(share.clone()).unwrap().entities else {
            unreachable!("a range was given");
        };
        (
            start.timestamp_nanos_opt().unwrap(),
            end.timestamp_nanos_opt().unwrap(),
        )
    };
    let work = Work::of_range(start, end, tasks);
    assert_eq!(work.len(), 1);
    work[0].shares.iter().map(share).collect()
}

#[test]
fn a_range_is_cut_without_gaps() {
    const SECOND: i64 = 1_000_000_000;
    let (start, end) = (1_700_000_000 * SECOND + 5, 1_700_000_100 * SECOND + 7);
    let cuts = ranges(
        DateTime::from_timestamp_nanos(start),
        DateTime::from_timestamp_nanos(end),
        7,
    );
    assert_eq!(cuts.len(), 7);
    assert_eq!((cuts[0].0, cuts[6].1), (start, end));
    for (before, after) in cuts.iter().zip(&cuts[1..]) {
        assert!(before.0 <= before.1);
        assert_eq!(before.1 + 1, after.0);
        assert_eq!(after.0 % SECOND, 0, "every unit of time sees the same cut");
    }
}

#[test]
fn short_ranges_and_the_longest() {
    let at = DateTime::from_timestamp(7, 5).unwrap();
    assert_eq!(ranges(at, at, 4).len(), 1);
    assert_eq!(ranges(at, at + TimeDelta::seconds(2), 4).len(), 2);
    let work = Work::of_range(DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC, 3);
    assert_eq!(work[0].shares.len(), 3);
}
