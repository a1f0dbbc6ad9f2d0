//! The file store over objects of the three clouds, on a server of our own.

use arrow::array::Int32Array;

use super::*;
use crate::cloud::{
    ObjectStoreKind,
    fake::{ALL, Mode, SECRET, Server, account},
};

/// A store of objects and what reads it.
struct Cloud {
    kind: ObjectStoreKind,
    server: Arc<Server>,
    store: Arc<FileStore>,
    folder: TempDir,
}

impl Cloud {
    async fn new(kind: ObjectStoreKind) -> Self {
        let (url, server) = Server::start(kind, Mode::Good).await;
        let folder = TempDir::new().unwrap();
        let config = FileStoreConfig {
            repo_path: folder.path().to_owned(),
            memory_limit: 1 << 26,
            environment: account(kind, &url),
        };
        Self {
            kind,
            server,
            store: Arc::new(FileStore::new(config).unwrap()),
            folder,
        }
    }

    /// The source of that key.
    fn source(&self, key: &str) -> DataSource {
        let scheme = match self.kind {
            ObjectStoreKind::S3 => "s3",
            ObjectStoreKind::Gcs => "gs",
            ObjectStoreKind::Azure => "az",
        };
        source(&format!("{scheme}://lake/{key}"))
    }

    /// Puts a file of these rows there; of how many bytes.
    fn put(&self, key: &str, rows: &RecordBatch) -> usize {
        let path = self.folder.path().join("draft.parquet");
        write(&path, rows);
        let content = std::fs::read(path).unwrap();
        let size = content.len();
        self.server.put(&self.at(key), content);
        size
    }

    /// The path under which the server keeps it.
    fn at(&self, key: &str) -> String {
        format!("lake/{key}")
    }

    async fn x(&self, key: &str, start: Option<&str>) -> Vec<Option<i64>> {
        let rows = collect(self.store.pull(pull(self.source(key), start, None, false)).await).await;
        let mut found = whole(&rows.unwrap(), "x");
        found.sort();
        found
    }

    fn keys(&self) -> Vec<String> {
        self.server.objects().kept.keys().cloned().collect()
    }
}

#[tokio::test]
async fn objects_folders_partitions_and_patterns_are_sources() {
    for kind in ALL {
        let cloud = Cloud::new(kind).await;
        cloud.put("one file/d=1.parquet", &drivers());
        cloud.put("parts/day=1/a.parquet", &drivers().slice(0, 2));
        cloud.put("parts/day=2/b.parquet", &drivers().slice(2, 2));
        cloud.put("parts-of-others/x.parquet", &drivers());
        cloud.put("years/2026/a.parquet", &drivers());
        let text = "driver,ts,x\n1,2026-01-01T08:00:00,10\n1,2026-01-01T10:00:00,11\n2,2026-01-01T10:00:00,20\n1,2026-01-01T12:00:00,12";
        cloud.server.put(&cloud.at("d.csv"), text);
        cloud.server.put(&cloud.at("text/a.csv"), text);
        for key in [
            "one file/d=1.parquet",
            "parts",
            "parts/",
            "years/*/*.parquet",
            "years/20?6/[ab].parquet",
            "d.csv",
            "text",
        ] {
            let found = cloud.x(key, Some("10:00:00")).await;
            assert_eq!(found, [Some(11), Some(12), Some(20)], "{kind:?} {key}");
        }
        let schema = cloud.store.schema(&cloud.source("parts")).await.unwrap();
        assert!(schema.field_with_name("day").is_ok(), "{kind:?}");
        let entities = batch(vec![("from", numbers(&[1, 2])), ("at", times(&["11:00:00"; 2]))]);
        let source = cloud.source("parts");
        let views = vec![view(&source, "from", "x", "x", None)];
        let joined = collect(cloud.store.historical(asked(entities, views)).await).await;
        assert_eq!(whole(&joined.unwrap(), "x"), [Some(11), Some(20)], "{kind:?}");
        let count = cloud
            .store
            .rows_at_most(&source, time("00:00:00"), time("09:00:00"))
            .await;
        assert_eq!(
            count,
            Some(2),
            "{kind:?}: the file whose rows are later does not count"
        );
        let sql = "SELECT driver, x FROM src WHERE x > 11";
        let (_, rows) = cloud.store.select(sql, &[cloud.source("d.csv")]).await.unwrap();
        assert_eq!(
            rows.iter().map(RecordBatch::num_rows).sum::<usize>(),
            2,
            "{kind:?}"
        );
    }
}

#[tokio::test]
async fn only_what_can_matter_is_read() {
    let cloud = Cloud::new(ObjectStoreKind::S3).await;
    // Numbers that do not compress, far more than a footer; the wanted column is a small part of them.
    let rows = 100_000;
    let noise = |seed: i64| -> ArrayRef {
        let noise =
            (0..rows).map(|row: i64| (row + seed).wrapping_mul(0x9E37_79B9_7F4A_7C15_u64.cast_signed()));
        Arc::new(Int64Array::from_iter_values(noise))
    };
    let at = time("00:00:00").timestamp_micros();
    let moments: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter_values(
        (0..rows).map(|row| at + row),
    ));
    let names: Vec<String> = (0..20).map(|number| format!("noise{number}")).collect();
    let mut columns = vec![("driver", noise(0)), ("ts", moments), ("x", noise(1))];
    columns.extend(
        names
            .iter()
            .zip(2..)
            .map(|(name, seed)| (name.as_str(), noise(seed))),
    );
    let size = cloud.put("wide.parquet", &batch(columns));
    assert_eq!(cloud.x("wide.parquet", None).await.len(), 100_000);
    let read = cloud.server.objects().read;
    assert!(
        read < size / 3,
        "{read} of {size} bytes were read for 3 of 23 columns"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_added_whoever_writes_at_once() {
    for kind in ALL {
        let cloud = Cloud::new(kind).await;
        cloud.put("d.parquet", &drivers());
        cloud.put("parts/a.parquet", &drivers());
        let text = "driver,ts,x\n1,2026-01-01T08:00:00,10\n1,2026-01-01T10:00:00,11\n2,2026-01-01T10:00:00,20\n1,2026-01-01T12:00:00,12";
        cloud.server.put(&cloud.at("d.csv"), text);
        for key in ["d.parquet", "parts", "d.csv"] {
            let mut writers = tokio::task::JoinSet::new();
            for writer in 0..5_i64 {
                let (store, source) = (Arc::clone(&cloud.store), cloud.source(key));
                let small: ArrayRef = Arc::new(Int32Array::from(vec![7]));
                let rows = batch(vec![
                    ("x", numbers(&[writer])),
                    ("driver", small),
                    ("ts", times(&["13:00:00"])),
                ]);
                writers.spawn(async move { store.append(&source, vec![rows], None).await.unwrap().rows });
            }
            assert_eq!(writers.join_all().await, [1; 5]);
            let expected: Vec<_> = (0..5).chain([10, 11, 12, 20]).map(Some).collect();
            assert_eq!(cloud.x(key, None).await, expected, "{kind:?} {key}");
        }
        let keys = cloud.keys();
        assert_eq!(keys.len(), 3 + 5, "no probe is left: {keys:?}");
    }
}

#[tokio::test]
async fn what_is_to_be_added_once_is_added_once() {
    for kind in ALL {
        let cloud = Cloud::new(kind).await;
        cloud.put("d.parquet", &drivers());
        cloud.put("parts/a.parquet", &drivers());
        for key in ["d.parquet", "parts/"] {
            let source = cloud.source(key);
            let marker = cloud.folder.path().join("marker");
            let more = || {
                batch(vec![
                    ("driver", numbers(&[9])),
                    ("ts", times(&["13:00:00"])),
                    ("x", numbers(&[99])),
                ])
            };
            let once = async || {
                cloud
                    .store
                    .append(&source, vec![more()], Some(&marker))
                    .await
                    .unwrap()
                    .rows
            };
            assert_eq!(once().await, 1);
            // As after a crash between the write and the removal of the marker; others have written since.
            let added = cloud.store.append(&source, vec![more()], None).await.unwrap();
            assert_eq!(added.rows, 1);
            assert_eq!(once().await, 0, "{kind:?} {key}");
            std::fs::remove_file(&marker).unwrap();
            assert_eq!(once().await, 1);
            std::fs::remove_file(&marker).unwrap();
            let found = cloud.x(key, Some("13:00:00")).await;
            assert_eq!(found, [Some(99); 3], "{kind:?} {key}");
        }
    }
}

#[tokio::test]
async fn a_saved_stream_is_an_object_of_its_own() {
    for kind in ALL {
        let cloud = Cloud::new(kind).await;
        cloud.put("d.parquet", &drivers());
        // So much that it is sent in parts.
        let numbers_of = |count: i64| {
            numbers(
                &(0..count)
                    .map(|row| row.wrapping_mul(0x9E37_79B9_7F4A_7C15_u64.cast_signed()))
                    .collect::<Vec<_>>(),
            )
        };
        let at = time("00:00:00").timestamp_micros();
        let moments: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter_values(
            (0..20_000).map(|row| at + row),
        ));
        cloud.put(
            "large.parquet",
            &batch(vec![
                ("driver", numbers_of(20_000)),
                ("ts", moments),
                ("x", numbers_of(20_000)),
            ]),
        );
        for (from, rows) in [("d.parquet", 4), ("large.parquet", 20_000)] {
            let to = cloud.source(&format!("out/{from}"));
            let all = async || {
                cloud
                    .store
                    .pull(pull(cloud.source(from), None, None, false))
                    .await
                    .unwrap()
            };
            assert_eq!(
                cloud.store.save(&to, all().await, false, None).await.unwrap(),
                rows
            );
            let refused = cloud.store.save(&to, all().await, false, None).await.unwrap_err();
            assert_eq!(refused.kind(), Kind::AlreadyExists, "{kind:?}: {refused}");
            assert_eq!(
                cloud.store.save(&to, all().await, true, None).await.unwrap(),
                rows
            );
            assert_eq!(
                cloud.x(&format!("out/{from}"), None).await,
                cloud.x(from, None).await
            );
        }
        let broken = futures::stream::iter([Ok(drivers()), Err(Error::unavailable("gone").into())]);
        let broken =
            datafusion::physical_plan::stream::RecordBatchStreamAdapter::new(drivers().schema(), broken);
        let source = cloud.source("broken.parquet");
        assert!(
            cloud
                .store
                .save(&source, Box::pin(broken), false, None)
                .await
                .is_err()
        );
        assert!(!cloud.keys().contains(&cloud.at("broken.parquet")), "{kind:?}");
        let refused = cloud
            .store
            .save(&cloud.source("out"), Box::pin(empty()), true, None)
            .await
            .unwrap_err();
        assert_eq!(refused.kind(), Kind::Unsupported, "{refused}");
    }
}

fn empty() -> datafusion::physical_plan::stream::RecordBatchStreamAdapter<
    impl futures::Stream<Item = Result<RecordBatch, datafusion::error::DataFusionError>>,
> {
    datafusion::physical_plan::stream::RecordBatchStreamAdapter::new(
        drivers().schema(),
        futures::stream::empty(),
    )
}

#[tokio::test]
async fn what_is_wrong_is_told_without_secrets() {
    for kind in ALL {
        let cloud = Cloud::new(kind).await;
        cloud.put("d.parquet", &drivers());
        cloud
            .server
            .put(&cloud.at("bad.parquet"), "PAR1 this is none PAR1");
        let told = async |key: &str| {
            let error = cloud.store.schema(&cloud.source(key)).await.unwrap_err();
            let all = format!("{error:?} {error}");
            assert!(
                !all.contains(SECRET) && !error.one_line().contains('\n'),
                "{kind:?}: {all}"
            );
            assert!(all.contains("data source `src`"), "{kind:?}: {all}");
            (error.kind(), error.one_line())
        };
        let (problem, text) = told("none.parquet").await;
        assert!(
            problem == Kind::InvalidArgument && text.contains("there is no file"),
            "{kind:?}: {text}"
        );
        let (problem, text) = told("none/*.parquet").await;
        assert!(
            problem == Kind::InvalidArgument && text.contains("there are no `.parquet` files at"),
            "{kind:?}: {text}"
        );
        let (problem, text) = told("bad.parquet").await;
        assert!(
            problem == Kind::InvalidArgument && text.contains("bad.parquet` cannot be read"),
            "{kind:?}: {text}"
        );
        let opened = cloud
            .store
            .pull(pull(cloud.source("d.parquet"), None, None, false))
            .await;
        assert!(opened.is_ok());
        for (mode, expected) in [
            (Mode::NoBucket, "the bucket `lake` does not exist"),
            (Mode::Forbidden, "access to the bucket `lake` is forbidden"),
        ] {
            cloud.server.turn(mode);
            for key in ["d.parquet", "folder/"] {
                let (problem, text) = told(key).await;
                assert_eq!(problem, Kind::Config, "{kind:?} {mode:?} {key}: {text}");
                assert!(text.contains(expected), "{kind:?} {mode:?} {key}: {text}");
            }
        }
    }
}

#[tokio::test]
async fn an_object_that_changes_while_it_is_read_is_a_conflict() {
    let cloud = Cloud::new(ObjectStoreKind::S3).await;
    cloud.put("d.parquet", &drivers());
    let before = cloud
        .store
        .pull(pull(cloud.source("d.parquet"), None, None, false))
        .await;
    cloud.put(
        "d.parquet",
        &batch(vec![
            ("driver", numbers(&[1])),
            ("ts", times(&["10:00:00"])),
            ("x", numbers(&[1])),
        ]),
    );
    match collect(before).await {
        Err(error) => assert_eq!(error.kind(), Kind::Conflict, "{error}"),
        // Read before the change came: then all of it.
        Ok(rows) => assert_eq!(rows.num_rows(), 4),
    }
    assert_eq!(cloud.x("d.parquet", None).await, [Some(1)]);
    // One of the same size in the same second is told apart, too.
    cloud.put(
        "d.parquet",
        &batch(vec![
            ("driver", numbers(&[1])),
            ("ts", times(&["10:00:00"])),
            ("x", numbers(&[2])),
        ]),
    );
    assert_eq!(cloud.x("d.parquet", None).await, [Some(2)]);
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_not_written_through() {
    for kind in ALL {
        let cloud = Cloud::new(kind).await;
        cloud.put("d.parquet", &drivers());
        cloud.put("parts/a.parquet", &drivers());
        cloud.server.turn(Mode::IgnoresConditions);
        let refused = cloud
            .store
            .append(&cloud.source("d.parquet"), vec![drivers()], None)
            .await
            .unwrap_err();
        assert_eq!(refused.kind(), Kind::Unsupported, "{kind:?}: {refused}");
        assert_eq!(cloud.x("d.parquet", None).await.len(), 4);
        assert_eq!(
            cloud
                .store
                .append(&cloud.source("parts"), vec![drivers()], None)
                .await
                .unwrap()
                .rows,
            4
        );
    }
}

#[tokio::test]
async fn buckets_of_one_name_at_two_endpoints_are_two() {
    let (one, two) = (
        Cloud::new(ObjectStoreKind::S3).await,
        Cloud::new(ObjectStoreKind::S3).await,
    );
    one.put("d.parquet", &drivers());
    two.put("d.parquet", &drivers().slice(0, 1));
    let (elsewhere, server) = Server::start(ObjectStoreKind::S3, Mode::Good).await;
    let copy = two.server.objects().kept["lake/d.parquet"].content.clone();
    server.put("lake/d.parquet", copy);
    let mut there = one.source("d.parquet");
    let Some(Options::FileOptions(options)) = &mut there.options else {
        unreachable!("it is a file source");
    };
    options.s3_endpoint_override = elsewhere;
    let rows = collect(one.store.pull(pull(there, None, None, false)).await)
        .await
        .unwrap();
    assert_eq!(rows.num_rows(), 1);
    assert_eq!(one.x("d.parquet", None).await.len(), 4);
}
