#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use arrow::{
    array::{AsArray as _, Int64Array},
    datatypes::{DataType, Field, Int64Type, Schema, SchemaRef},
};
use datafusion::execution::SendableRecordBatchStream;

use super::*;
use crate::{
    metrics::MetricsConfig,
    offline::store::{Appended, HistoricalQuery, Note, Pull, Refused},
};

/// Takes no row with a 7.
#[derive(Default)]
struct NoSevens {
    taken: Mutex<Vec<i64>>,
}

#[async_trait::async_trait]
impl OfflineStore for NoSevens {
    async fn historical(&self, _query: HistoricalQuery) -> Result<SendableRecordBatchStream> {
        Err(Error::unsupported("not needed here"))
    }

    async fn pull(&self, _pull: Pull) -> Result<SendableRecordBatchStream> {
        Err(Error::unsupported("not needed here"))
    }

    async fn append(
        &self,
        _source: &DataSource,
        batches: Vec<RecordBatch>,
        once: Option<&Path>,
    ) -> Result<Appended> {
        assert!(once.is_some());
        let values = batches
            .iter()
            .flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values());
        let mut appended = Appended::default();
        for (row, value) in values.enumerate() {
            if *value == 7 {
                let reason = "there is a 7".to_owned();
                appended.refused.push(Refused { row, reason });
            } else {
                self.taken.lock().unwrap().push(*value);
                appended.rows += 1;
            }
        }
        Ok(appended)
    }

    async fn save(
        &self,
        _target: &DataSource,
        _rows: SendableRecordBatchStream,
        _overwrite: bool,
        _note: Option<Note>,
    ) -> Result<u64> {
        Err(Error::unsupported("not needed here"))
    }

    async fn schema(&self, _source: &DataSource) -> Result<SchemaRef> {
        Err(Error::unsupported("not needed here"))
    }

    async fn check(&self) -> Result<()> {
        Ok(())
    }
}

fn rows(source: &str, values: &[i64]) -> (Arc<DataSource>, RecordBatch) {
    let schema = Schema::new(vec![Field::new("n", DataType::Int64, false)]);
    let batch = RecordBatch::try_new(
        Arc::new(schema),
        vec![Arc::new(Int64Array::from(values.to_vec()))],
    )
    .unwrap();
    let source = DataSource {
        name: source.to_owned(),
        ..DataSource::default()
    };
    (Arc::new(source), batch)
}

fn options(folder: &Path) -> JournalOptions {
    JournalOptions {
        folder: folder.to_owned(),
        batch_size: 1_000_000,
        interval: Duration::from_secs(3600),
        limit: 100_000,
    }
}

/// The values of a segment's rows, by source.
fn values(bytes: Vec<u8>) -> Vec<(String, Vec<i64>)> {
    let sources = record::by_source(bytes.into()).unwrap();
    let values = |batches: &[RecordBatch]| {
        let columns = batches
            .iter()
            .map(|batch| batch.column(0).as_primitive::<Int64Type>());
        columns.flat_map(|column| column.values().to_vec()).collect()
    };
    sources
        .iter()
        .map(|(source, batches)| (source.name.clone(), values(batches)))
        .collect()
}

#[test]
fn what_was_cut_off_does_not_count() {
    let mut bytes = record::encode(&[rows("a", &[1, 2]), rows("b", &[3])])
        .unwrap()
        .to_vec();
    bytes.extend(record::encode(&[rows("a", &[4])]).unwrap());
    let complete = bytes.len();
    bytes.extend(record::encode(&[rows("a", &[5])]).unwrap());
    let whole = [("a".to_owned(), vec![1, 2, 4]), ("b".to_owned(), vec![3])];
    for end in complete..bytes.len() {
        assert_eq!(values(bytes[..end].to_vec()), whole, "{end}");
    }
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    assert_eq!(values(bytes), whole);
}

#[tokio::test]
async fn the_next_process_takes_over_what_one_left() {
    let folder = tempfile::tempdir().unwrap();
    let first = Journal::open(options(folder.path())).unwrap();
    first.put(&[rows("a", &[1])]).await.unwrap();
    first.put(&[rows("a", &[2])]).await.unwrap();
    // It lives: its rows are its own.
    let second = Journal::open(options(folder.path())).unwrap();
    assert!(second.sealed.lock().unwrap().is_empty());
    drop(first);
    let third = Journal::open(options(folder.path())).unwrap();
    let sealed = third.sealed.lock().unwrap().clone();
    assert_eq!(sealed.len(), 1);
    assert_eq!(
        values(fs::read(&sealed[0]).unwrap()),
        [("a".to_owned(), vec![1, 2])]
    );
}

#[tokio::test]
async fn refused_rows_are_set_aside_and_can_be_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(options(folder.path())).unwrap();
    let (store, metrics) = (NoSevens::default(), Metrics::new(&MetricsConfig::default()));
    journal
        .put(&[rows("a", &[1, 7]), rows("b", &[7, 7, 2])])
        .await
        .unwrap();
    journal.put(&[rows("a", &[3])]).await.unwrap();
    journal.seal().await;
    journal.append(&store, &metrics).await;
    assert_eq!(*store.taken.lock().unwrap(), [1, 3, 2]);
    assert!(journal.sealed.lock().unwrap().is_empty(), "nothing is held up");
    assert_eq!(journal.waiting_bytes.load(SeqCst), 0);
    let counted = |source: &str| {
        let label = crate::metrics::SourceLabel {
            data_source: source.to_owned(),
        };
        metrics.refused_rows.get_or_create(&label).get()
    };
    assert_eq!((counted("a"), counted("b")), (1, 2));
    let entries = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let aside: Vec<_> = entries.filter(|path| path.is_file()).collect();
    let [aside] = &aside[..] else { panic!("{aside:?}") };
    let all = [("a".to_owned(), vec![7]), ("b".to_owned(), vec![7, 7])];
    assert_eq!(values(fs::read(aside).unwrap()), all);
    let (_, batches) = &record::by_source(fs::read(aside).unwrap().into()).unwrap()[0];
    assert_eq!(batches[0].schema().metadata()["thali.refused"], "there is a 7");
    // In a folder it is a segment that somebody left.
    let again = folder.path().join("again");
    fs::create_dir(&again).unwrap();
    let moved = again.join(aside.file_name().unwrap());
    fs::rename(aside, &moved).unwrap();
    let next = Journal::open(options(folder.path())).unwrap();
    assert_eq!(*next.sealed.lock().unwrap(), [moved]);
}

#[tokio::test]
async fn a_full_journal_turns_rows_away() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(options(folder.path())).unwrap();
    let many: Vec<i64> = (0..5_000).collect();
    journal.put(&[rows("a", &many)]).await.unwrap();
    journal.put(&[rows("a", &many)]).await.unwrap();
    let error = journal.put(&[rows("a", &many)]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Overloaded);
    journal.put(&[rows("a", &[1])]).await.unwrap();
}
