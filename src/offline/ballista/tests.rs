use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::{
    array::{Array as _, Int64Array},
    datatypes::{DataType, Field, Schema},
};

use super::*;
use crate::error::Error;

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
fn ends(shares: &[Share]) -> Vec<(i64, i64)> {
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
    shares.iter().map(share).collect()
}

fn ranges(start: DateTime<Utc>, end: DateTime<Utc>, tasks: usize) -> Vec<(i64, i64)> {
    let work = Work::of_range(start, end, tasks);
    assert_eq!(work.len(), 1);
    ends(&work[0].shares)
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

/// A store that only tells how many rows it has of a range, so many times.
struct Counted {
    seconds: Vec<i64>,
    times: usize,
    asked: AtomicUsize,
}

#[async_trait]
impl OfflineStore for Counted {
    async fn historical(&self, _: HistoricalQuery) -> Result<SendableRecordBatchStream> {
        Err(Error::unsupported("not needed here"))
    }

    async fn pull(&self, _: Pull) -> Result<SendableRecordBatchStream> {
        Err(Error::unsupported("not needed here"))
    }

    async fn append(&self, _: &DataSource, _: Vec<RecordBatch>, _: Option<&Path>) -> Result<Appended> {
        Err(Error::unsupported("not needed here"))
    }

    async fn save(
        &self,
        _: &DataSource,
        _: SendableRecordBatchStream,
        _: bool,
        _: Option<Note>,
    ) -> Result<u64> {
        Err(Error::unsupported("not needed here"))
    }

    async fn schema(&self, _: &DataSource) -> Result<SchemaRef> {
        Err(Error::unsupported("not needed here"))
    }

    async fn rows_at_most(&self, _: &DataSource, start: DateTime<Utc>, end: DateTime<Utc>) -> Option<u64> {
        let inside = |second: &&i64| (start.timestamp()..=end.timestamp()).contains(*second);
        let known = self.asked.fetch_add(1, Ordering::Relaxed) < self.times;
        known.then(|| self.seconds.iter().filter(inside).count() as u64)
    }

    async fn check(&self) -> Result<()> {
        Ok(())
    }
}

/// What the rows of these seconds are shared as among four tasks, where so many questions are answered.
async fn shared(seconds: &[i64], times: usize) -> Vec<(i64, i64)> {
    let store = Counted {
        seconds: seconds.to_vec(),
        times,
        asked: AtomicUsize::new(0),
    };
    let store = Distributed::new(Arc::new(store), "nobody:1", 4, TaskTracker::new());
    let (start, end) = (
        DateTime::UNIX_EPOCH,
        DateTime::from_timestamp(2_000_000_000, 7).unwrap(),
    );
    let ranges = store.ranges(&DataSource::default(), start, end).await;
    let mut ends = ends(&ranges);
    ends.sort_unstable();
    assert!(ends.len() <= 4);
    for (before, after) in ends.iter().zip(ends.iter().skip(1)) {
        assert!(before.1 < after.0, "no row is read twice");
    }
    ends
}

#[tokio::test]
async fn every_row_is_of_one_range_and_what_is_empty_of_none() {
    const SECOND: i64 = 1_000_000_000;
    let seconds: Vec<i64> = (1_700_000_000..1_700_100_000).step_by(100).collect();
    let mut read = Vec::new();
    for times in [usize::MAX, 0, 1, 2, 3, 7, 20] {
        let ranges = shared(&seconds, times).await;
        for second in &seconds {
            let inside = |(first, last): &&(i64, i64)| (*first..=*last).contains(&(second * SECOND));
            assert_eq!(ranges.iter().filter(inside).count(), 1, "{second}");
        }
        let length: i64 = ranges
            .iter()
            .map(|(first, last)| last / SECOND - first / SECOND)
            .sum();
        read.push((ranges.len(), length));
    }
    // As long as counts are told nearly nothing else is read, and where they are not, all.
    assert_eq!(read[0].0, 4);
    assert!(read[0].1 < 1_000_000, "{read:?}");
    assert_eq!(read[1], (4, 2_000_000_000 - 3));
    assert!(shared(&[], usize::MAX).await.is_empty());
}
