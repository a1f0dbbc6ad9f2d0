//! The file store over real files.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{fs::File, path::Path, time::Duration};

use arrow::{
    array::{ArrayRef, AsArray, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray},
    datatypes::{DataType, Int64Type},
    util::pretty::pretty_format_batches,
};
use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use parquet::arrow::ArrowWriter;
use tempfile::TempDir;

mod delta;
mod objects;

use super::*;
use crate::{
    error::Kind,
    model::ValueType,
    offline::store::{JoinFeature, JoinKey},
    proto::feast::core::data_source::{FileOptions, Options},
};

fn store(folder: &TempDir) -> FileStore {
    let config = FileStoreConfig {
        repo_path: folder.path().to_owned(),
        memory_limit: 1 << 26,
        environment: Environment::default(),
    };
    FileStore::new(config).unwrap()
}

fn source(uri: &str) -> DataSource {
    DataSource {
        name: "src".to_owned(),
        timestamp_field: "ts".to_owned(),
        options: Some(Options::FileOptions(FileOptions {
            uri: uri.to_owned(),
            ..FileOptions::default()
        })),
        ..DataSource::default()
    }
}

fn time(text: &str) -> DateTime<Utc> {
    format!("2026-01-01T{text}Z").parse().unwrap()
}

fn times(texts: &[&str]) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_iter_values(
        texts.iter().map(|text| time(text).timestamp_micros()),
    ))
}

fn numbers(values: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))
        .unwrap()
}

fn write(path: &Path, batch: &RecordBatch) {
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

fn drivers() -> RecordBatch {
    batch(vec![
        ("driver", numbers(&[1, 1, 2, 1])),
        ("ts", times(&["08:00:00", "10:00:00", "10:00:00", "12:00:00"])),
        ("x", numbers(&[10, 11, 20, 12])),
    ])
}

fn pull(source: DataSource, start: Option<&str>, end: Option<&str>, latest_only: bool) -> Pull {
    Pull {
        source: Arc::new(source),
        join_keys: vec!["driver".to_owned()],
        features: vec!["x".to_owned()],
        start: start.map(time),
        end: end.map(time),
        latest_only,
    }
}

async fn collect(stream: Result<SendableRecordBatchStream>) -> Result<RecordBatch> {
    let stream = stream?;
    let schema = stream.schema();
    let batches: Vec<_> = stream.try_collect().await?;
    Ok(arrow::compute::concat_batches(&schema, &batches)?)
}

fn whole(batch: &RecordBatch, column: &str) -> Vec<Option<i64>> {
    batch[column].as_primitive::<Int64Type>().iter().collect()
}

fn view(source: &DataSource, key: &str, feature: &str, output: &str, ttl: Option<u64>) -> JoinView {
    JoinView {
        name: output.to_owned(),
        source: Arc::new(source.clone()),
        join_keys: vec![JoinKey {
            entity_column: key.to_owned(),
            source_column: "driver".to_owned(),
            value_type: ValueType::Int64,
        }],
        features: vec![JoinFeature {
            source_column: feature.to_owned(),
            output: output.to_owned(),
            value_type: ValueType::Int64,
        }],
        ttl: ttl.map(Duration::from_secs),
    }
}

fn asked(entities: RecordBatch, views: Vec<JoinView>) -> HistoricalQuery {
    let entities = EntityRows::Batches {
        schema: entities.schema(),
        batches: vec![entities],
        timestamp_column: "at".to_owned(),
    };
    HistoricalQuery {
        entities,
        views,
        filter_by_created: false,
    }
}

#[tokio::test]
async fn a_window_has_both_its_ends() {
    let folder = TempDir::new().unwrap();
    write(&folder.path().join("d.parquet"), &drivers());
    let store = store(&folder);
    let source = source("d.parquet");
    let rows = collect(
        store
            .pull(pull(source.clone(), Some("10:00:00"), Some("12:00:00"), false))
            .await,
    )
    .await
    .unwrap();
    assert_eq!(whole(&rows, "x"), [Some(11), Some(20), Some(12)]);
    assert_eq!(
        rows.schema().field(2).data_type().to_string(),
        "Timestamp(µs, \"UTC\")"
    );
    let rows = collect(
        store
            .pull(pull(source.clone(), None, Some("11:59:59.999999"), true))
            .await,
    )
    .await
    .unwrap();
    assert_eq!(whole(&rows, "x"), [Some(11), Some(20)]);
    let none = collect(
        store
            .pull(pull(source, Some("12:00:00.000001"), None, true))
            .await,
    )
    .await
    .unwrap();
    assert_eq!((none.num_rows(), none.num_columns()), (0, 3));
}

#[tokio::test]
async fn the_newest_row_of_a_key_is_by_time_then_creation() {
    let folder = TempDir::new().unwrap();
    let rows = batch(vec![
        (
            "driver",
            Arc::new(Int64Array::from(vec![Some(1), Some(1), Some(1), None])) as ArrayRef,
        ),
        ("ts", times(&["10:00:00", "10:00:00", "09:00:00", "11:00:00"])),
        ("made", times(&["10:00:02", "10:00:01", "23:00:00", "11:00:00"])),
        ("x", numbers(&[1, 2, 3, 4])),
    ]);
    write(&folder.path().join("d.parquet"), &rows);
    let source = DataSource {
        created_timestamp_column: "made".to_owned(),
        ..source("d.parquet")
    };
    let rows = collect(store(&folder).pull(pull(source, None, None, true)).await)
        .await
        .unwrap();
    assert_eq!(
        whole(&rows, "x"),
        [Some(1)],
        "and a row without a key belongs to nobody"
    );
}

#[tokio::test]
async fn views_of_one_source_are_joined_with_their_own_keys_and_ttl() {
    let folder = TempDir::new().unwrap();
    write(&folder.path().join("d.parquet"), &drivers());
    let source = source("d.parquet");
    let entities = batch(vec![
        ("from", numbers(&[1, 2, 1])),
        ("label", Arc::new(StringArray::from(vec!["a", "b", "c"]))),
        ("to", numbers(&[2, 1, 9])),
        ("at", times(&["12:00:00", "10:00:00", "07:00:00"])),
    ]);
    let views = vec![
        view(&source, "from", "x", "from__x", None),
        view(&source, "to", "x", "to__x", Some(7200)),
        view(&source, "to", "x", "to__x2", Some(7199)),
    ];
    let rows = collect(store(&folder).historical(asked(entities, views)).await)
        .await
        .unwrap();
    let names: Vec<_> = rows
        .schema()
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect();
    assert_eq!(names, ["from", "label", "to", "at", "from__x", "to__x", "to__x2"]);
    assert_eq!(whole(&rows, "from__x"), [Some(12), Some(20), None]);
    assert_eq!(whole(&rows, "to__x"), [Some(20), Some(11), None]);
    assert_eq!(whole(&rows, "to__x2"), [None, Some(11), None]);
}

#[tokio::test]
async fn no_entity_rows_is_no_answers() {
    let folder = TempDir::new().unwrap();
    write(&folder.path().join("d.parquet"), &drivers());
    let empty = batch(vec![("from", numbers(&[])), ("at", times(&[]))]);
    let views = vec![view(&source("d.parquet"), "from", "x", "x", None)];
    let rows = collect(store(&folder).historical(asked(empty, views)).await)
        .await
        .unwrap();
    assert_eq!((rows.num_rows(), rows.num_columns()), (0, 3));
}

#[tokio::test]
async fn columns_are_read_under_their_mapped_names() {
    let folder = TempDir::new().unwrap();
    let rows = batch(vec![
        ("drv", numbers(&[1])),
        ("t_raw", times(&["08:00:00"])),
        ("orig", numbers(&[7])),
    ]);
    write(&folder.path().join("d.parquet"), &rows);
    let pairs = [("drv", "driver"), ("t_raw", "ts"), ("orig", "x")];
    let field_mapping = pairs
        .map(|(from, to)| (from.to_owned(), to.to_owned()))
        .into_iter()
        .collect();
    let source = DataSource {
        field_mapping,
        ..source("d.parquet")
    };
    let entities = batch(vec![("from", numbers(&[1])), ("at", times(&["12:00:00"]))]);
    let store = store(&folder);
    let joined = store
        .historical(asked(entities, vec![view(&source, "from", "x", "x", None)]))
        .await;
    assert_eq!(whole(&collect(joined).await.unwrap(), "x"), [Some(7)]);
    let pulled = collect(store.pull(pull(source.clone(), None, None, false)).await)
        .await
        .unwrap();
    assert_eq!(whole(&pulled, "driver"), [Some(1)]);
    assert_eq!(store.schema(&source).await.unwrap().field(0).name(), "drv");
}

#[tokio::test]
async fn a_missing_column_is_named_with_its_file_and_what_is_there() {
    let folder = TempDir::new().unwrap();
    write(&folder.path().join("d.parquet"), &drivers());
    let store = store(&folder);
    let wrong = DataSource {
        timestamp_field: "event_time".to_owned(),
        ..source("d.parquet")
    };
    let error = collect(store.pull(pull(wrong, None, None, false)).await)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument);
    for part in ["`src`", "d.parquet`", "`event_time`", "`driver`, `ts`, `x`"] {
        assert!(error.message().contains(part), "{part} in {error}");
    }
    let absent = collect(store.pull(pull(source("none.parquet"), None, None, false)).await)
        .await
        .unwrap_err();
    assert!(absent.message().contains("there is no file"), "{absent}");
    std::fs::write(folder.path().join("bad.parquet"), "no parquet").unwrap();
    let bad = store.schema(&source("bad.parquet")).await.unwrap_err();
    assert!(bad.message().contains("bad.parquet` cannot be read"), "{bad}");
    let entities = batch(vec![("someone", numbers(&[1])), ("at", times(&["12:00:00"]))]);
    let query = asked(entities, vec![view(&source("d.parquet"), "from", "x", "x", None)]);
    let error = collect(store.historical(query).await).await.unwrap_err();
    assert_eq!(error.kind(), Kind::EntityColumnsMissing);
}

#[tokio::test]
async fn folders_and_patterns_and_text_are_sources_too() {
    let folder = TempDir::new().unwrap();
    std::fs::create_dir_all(folder.path().join("parts/day=1")).unwrap();
    write(
        &folder.path().join("parts/day=1/a.parquet"),
        &drivers().slice(0, 2),
    );
    write(
        &folder.path().join("parts/day=1/b.parquet"),
        &drivers().slice(2, 2),
    );
    std::fs::create_dir_all(folder.path().join("years/2026")).unwrap();
    write(&folder.path().join("years/2026/a.parquet"), &drivers());
    let text = "driver,ts,x\n1,2026-01-01T08:00:00,10\n1,2026-01-01T10:00:00,11\n2,2026-01-01T10:00:00,20\n1,2026-01-01T12:00:00,12";
    std::fs::write(folder.path().join("d.csv"), text).unwrap();
    let store = store(&folder);
    for uri in ["parts", "parts/", "years/*/*.parquet", "d.csv"] {
        let rows = collect(store.pull(pull(source(uri), Some("10:00:00"), None, false)).await)
            .await
            .unwrap();
        let mut found = whole(&rows, "x");
        found.sort();
        assert_eq!(found, [Some(11), Some(12), Some(20)], "{uri}");
    }
    assert!(
        store
            .schema(&source("parts"))
            .await
            .unwrap()
            .field_with_name("day")
            .is_ok()
    );
}

#[tokio::test]
async fn a_range_has_every_key_and_time_of_the_views() {
    let folder = TempDir::new().unwrap();
    write(&folder.path().join("a.parquet"), &drivers());
    let other = batch(vec![
        ("driver", numbers(&[2, 1, 1])),
        ("ts", times(&["11:00:00", "10:00:00", "13:00:00"])),
        ("y", Arc::new(Float64Array::from(vec![0.5, 0.25, 0.75]))),
    ]);
    write(&folder.path().join("b.parquet"), &other);
    let views = vec![
        view(&source("a.parquet"), "driver", "x", "x", None),
        view(&source("b.parquet"), "driver", "y", "y", None),
    ];
    let entities = EntityRows::Range {
        start: time("09:00:00"),
        end: time("12:00:00"),
    };
    let query = HistoricalQuery {
        entities,
        views,
        filter_by_created: false,
    };
    let rows = collect(store(&folder).historical(query).await).await.unwrap();
    let printed = pretty_format_batches(&[rows]).unwrap().to_string();
    let cells: Vec<Vec<_>> = printed
        .lines()
        .filter(|line| line.contains("2026"))
        .map(|line| {
            line.split('|')
                .map(str::trim)
                .filter(|cell| !cell.is_empty())
                .collect()
        })
        .collect();
    assert_eq!(
        cells,
        [
            vec!["2026-01-01T10:00:00Z", "1", "11", "0.25"],
            vec!["2026-01-01T10:00:00Z", "2", "20"],
            vec!["2026-01-01T11:00:00Z", "2", "20", "0.5"],
            vec!["2026-01-01T12:00:00Z", "1", "12", "0.25"],
        ]
    );
}

#[tokio::test]
async fn appended_rows_are_all_there_whoever_writes_at_once() {
    let folder = TempDir::new().unwrap();
    write(&folder.path().join("d.parquet"), &drivers());
    let store = Arc::new(store(&folder));
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8_i64 {
        let store = Arc::clone(&store);
        // Other column order and a narrower type: both fit.
        let small: ArrayRef = Arc::new(arrow::array::Int32Array::from(vec![7]));
        let rows = batch(vec![
            ("x", numbers(&[writer])),
            ("driver", small),
            ("ts", times(&["13:00:00"])),
        ]);
        writers.spawn(async move {
            store
                .append(&source("d.parquet"), vec![rows], None)
                .await
                .unwrap()
                .rows
        });
    }
    assert_eq!(writers.join_all().await, [1; 8]);
    let rows = collect(store.pull(pull(source("d.parquet"), None, None, false)).await)
        .await
        .unwrap();
    let mut found = whole(&rows, "x");
    found.sort();
    assert_eq!(
        found,
        (0..8).chain([10, 11, 12, 20]).map(Some).collect::<Vec<_>>()
    );
    let left: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(
        !left.iter().any(|name| name.to_string_lossy().ends_with(".tmp")),
        "{left:?}"
    );
}

#[tokio::test]
async fn rows_of_another_schema_change_nothing() {
    let folder = TempDir::new().unwrap();
    write(&folder.path().join("d.parquet"), &drivers());
    std::fs::write(
        folder.path().join("d.csv"),
        "driver,ts,x\n1,2026-01-01T08:00:00,10",
    )
    .unwrap();
    let before = std::fs::read(folder.path().join("d.parquet")).unwrap();
    let store = store(&folder);
    let rows = batch(vec![
        ("driver", numbers(&[1])),
        ("y", numbers(&[1])),
        ("ts", times(&["13:00:00"])),
    ]);
    let error = store
        .append(&source("d.parquet"), vec![rows], None)
        .await
        .unwrap_err();
    assert!(error.message().ends_with("missing `x`, unknown `y`"), "{error}");
    assert_eq!(std::fs::read(folder.path().join("d.parquet")).unwrap(), before);
    let rows = batch(vec![
        ("driver", numbers(&[2])),
        ("ts", times(&["13:00:00"])),
        ("x", numbers(&[5])),
    ]);
    store.append(&source("d.csv"), vec![rows], None).await.unwrap();
    let found = collect(store.pull(pull(source("d.csv"), None, None, false)).await)
        .await
        .unwrap();
    assert_eq!(whole(&found, "x"), [Some(10), Some(5)]);
}

#[tokio::test]
async fn rows_go_to_a_folder_as_a_new_file() {
    let folder = TempDir::new().unwrap();
    std::fs::create_dir(folder.path().join("parts")).unwrap();
    write(&folder.path().join("parts/a.parquet"), &drivers());
    let store = store(&folder);
    assert_eq!(
        store
            .append(&source("parts"), vec![drivers(), drivers()], None)
            .await
            .unwrap()
            .rows,
        8
    );
    let rows = collect(store.pull(pull(source("parts"), None, None, false)).await)
        .await
        .unwrap();
    assert_eq!(rows.num_rows(), 12);
}

#[tokio::test]
async fn a_saved_stream_is_a_file_of_its_own() {
    let folder = TempDir::new().unwrap();
    write(&folder.path().join("d.parquet"), &drivers());
    let store = store(&folder);
    let all = async || {
        store
            .pull(pull(source("d.parquet"), None, None, false))
            .await
            .unwrap()
    };
    assert_eq!(
        store
            .save(&source("out/saved.parquet"), all().await, false, None)
            .await
            .unwrap(),
        4
    );
    let error = store
        .save(&source("out/saved.parquet"), all().await, false, None)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::AlreadyExists);
    assert_eq!(
        store
            .save(&source("out/saved.parquet"), all().await, true, None)
            .await
            .unwrap(),
        4
    );
    let schema = store.schema(&source("out/saved.parquet")).await.unwrap();
    assert_eq!(schema.field(0).data_type(), &DataType::Int64);
    let broken = futures::stream::iter([Ok(drivers()), Err(Error::unavailable("gone").into())]);
    let broken = datafusion::physical_plan::stream::RecordBatchStreamAdapter::new(drivers().schema(), broken);
    assert!(
        store
            .save(&source("broken.parquet"), Box::pin(broken), false, None)
            .await
            .is_err()
    );
    assert!(!folder.path().join("broken.parquet").exists());
}

#[tokio::test]
async fn parts_of_a_file_that_cannot_matter_are_not_read() {
    use parquet::file::{
        properties::WriterProperties, reader::FileReader, serialized_reader::SerializedFileReader,
    };

    let folder = TempDir::new().unwrap();
    let path = folder.path().join("d.parquet");
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(1))
        .build();
    let mut writer =
        ArrowWriter::try_new(File::create(&path).unwrap(), drivers().schema(), Some(properties)).unwrap();
    writer.write(&drivers()).unwrap();
    writer.close().unwrap();
    // Whoever reads the rows of 08:00 or of driver 2 finds rubbish.
    let mut bytes = std::fs::read(&path).unwrap();
    let reader = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
    for group in [0, 2] {
        for column in reader.metadata().row_group(group).columns() {
            let (start, length) = column.byte_range();
            bytes[usize::try_from(start).unwrap()..][..usize::try_from(length).unwrap()].fill(0xff);
        }
    }
    std::fs::write(&path, bytes).unwrap();
    let store = store(&folder);
    let source = source("d.parquet");
    assert!(
        collect(store.pull(pull(source.clone(), None, None, false)).await)
            .await
            .is_err(),
        "rubbish is noticed"
    );
    let late = collect(
        store
            .pull(pull(source.clone(), Some("11:00:00"), None, false))
            .await,
    )
    .await
    .unwrap();
    assert_eq!(whole(&late, "x"), [Some(12)]);
    let entities = batch(vec![("from", numbers(&[1])), ("at", times(&["12:30:00"]))]);
    let joined = store
        .historical(asked(
            entities,
            vec![view(&source, "from", "x", "x", Some(3 * 3600))],
        ))
        .await;
    assert_eq!(whole(&collect(joined).await.unwrap(), "x"), [Some(12)]);
}

#[tokio::test]
async fn equal_rows_are_decided_by_their_place_whatever_is_read_first() {
    use parquet::file::properties::WriterProperties;

    let folder = TempDir::new().unwrap();
    std::fs::create_dir(folder.path().join("d")).unwrap();
    // Driver 1 has the same time in both files, driver 2 only in the first, which also has the latest time.
    let parts = [
        [
            (1, "10:00:00"),
            (2, "10:00:00"),
            (2, "10:00:00"),
            (1, "10:00:00"),
            (3, "12:00:00"),
            (3, "11:00:00"),
        ],
        [
            (1, "08:00:00"),
            (1, "10:00:00"),
            (1, "10:00:00"),
            (1, "09:00:00"),
            (3, "10:00:00"),
            (3, "12:00:00"),
        ],
    ];
    for (file, rows) in (0..).zip(parts) {
        let batch = batch(vec![
            ("driver", numbers(&rows.map(|(driver, _)| driver))),
            ("ts", times(&rows.map(|(_, time)| time))),
            ("x", numbers(&[0, 1, 2, 3, 4, 5].map(|row| file * 10 + row))),
        ]);
        let properties = WriterProperties::builder()
            .set_max_row_group_row_count(Some(1))
            .build();
        let path = File::create(folder.path().join(format!("d/{file}.parquet"))).unwrap();
        let mut writer = ArrowWriter::try_new(path, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }
    let store = store(&folder);
    let source = source("d/");
    let entities = batch(vec![
        ("from", numbers(&[1, 2, 3])),
        ("at", times(&["23:00:00", "23:00:00", "23:00:00"])),
    ]);
    let joined = store
        .historical(asked(entities, vec![view(&source, "from", "x", "x", None)]))
        .await;
    assert_eq!(
        whole(&collect(joined).await.unwrap(), "x"),
        [Some(12), Some(2), Some(15)]
    );
    let newest = collect(store.pull(pull(source, None, None, true)).await)
        .await
        .unwrap();
    let mut newest = whole(&newest, "x");
    newest.sort_unstable();
    assert_eq!(
        newest,
        [Some(2), Some(12), Some(15)],
        "as materialization sees it"
    );
}

#[tokio::test]
async fn only_row_groups_of_the_window_count() {
    use parquet::file::properties::WriterProperties;

    let folder = TempDir::new().unwrap();
    let seconds = (0..100).map(|second| second * 1_000_000);
    let moments: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter_values(seconds));
    let rows = batch(vec![("at", moments)]);
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(10))
        .build();
    let file = File::create(folder.path().join("x.parquet")).unwrap();
    let mut writer = ArrowWriter::try_new(file, rows.schema(), Some(properties)).unwrap();
    writer.write(&rows).unwrap();
    writer.close().unwrap();
    let store = store(&folder);
    let mut mapped = source("x.parquet");
    mapped.field_mapping = [("at".to_owned(), "ts".to_owned())].into();
    let at = |second| DateTime::from_timestamp(second, 0).unwrap();
    for (start, end, expected) in [(-5, 500, 100), (25, 34, 20), (100, 200, 0)] {
        let count = store.rows_at_most(&mapped, at(start), at(end)).await;
        assert_eq!(count, Some(expected), "{start} to {end}");
    }
    mapped.timestamp_field.clear();
    assert_eq!(store.rows_at_most(&mapped, at(0), at(1)).await, Some(100));
    assert_eq!(
        store.rows_at_most(&source("none.parquet"), at(0), at(1)).await,
        None
    );
}
