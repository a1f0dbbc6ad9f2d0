#![expect(clippy::unwrap_used, reason = "tests")]

use arrow::{
    array::Int64Array,
    datatypes::{DataType, Field, Schema},
};

use super::*;

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
    use arrow::array::AsArray as _;
    use arrow::datatypes::Int64Type;
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
