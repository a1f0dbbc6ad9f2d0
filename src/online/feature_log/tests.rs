//! The queue, the columns and the files of a log. What real callers are served and what their SDK reads back
//! is in the repository's Python tests.

use std::path::Path;

use arrow::{
    array::{Array as _, AsArray as _},
    compute::concat_batches,
    datatypes::{Float32Type, Int32Type, Int64Type, TimestampMillisecondType},
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::{
    model::{Object, ObjectKind, ValueType},
    offline::files::{FileStore, FileStoreConfig},
    online::{
        fixture::{Fixture, TEN, drivers, object, projection},
        plan::Wanted,
        serve::{Given, Request},
    },
    proto::feast::core::{
        self, LoggingConfig,
        logging_config::{Destination, FileDestination},
    },
};

fn logged_service(sample_rate: f32) -> Object {
    let path = "log".to_owned();
    let spec = core::FeatureServiceSpec {
        name: "logged".to_owned(),
        features: vec![
            projection(
                "driver_fv",
                "",
                &[("trips", ValueType::Int64), ("conv_rate", ValueType::Float)],
            ),
            projection("odfv_python", "plus", &[("conv_plus_py", ValueType::Double)]),
        ],
        logging_config: Some(LoggingConfig {
            sample_rate,
            destination: Some(Destination::FileDestination(FileDestination {
                path,
                ..FileDestination::default()
            })),
        }),
        ..core::FeatureServiceSpec::default()
    };
    let service = core::FeatureService {
        spec: Some(spec),
        meta: None,
    };
    object(ObjectKind::FeatureService, "logged", &service)
}

/// The service's project, and a folder for its log.
struct World {
    fixture: Fixture,
    folder: TempDir,
    offline: Arc<dyn OfflineStore>,
    metrics: Arc<Metrics>,
}

impl World {
    async fn new(sample_rate: f32) -> Self {
        let mut fixture = Fixture::drivers().await;
        let mut objects = drivers();
        objects.push(logged_service(sample_rate));
        let other = Fixture::new(objects).await;
        // The rows of the one, the objects of the other.
        fixture.server.registry = Arc::clone(&other.server.registry);
        let folder = TempDir::new().unwrap();
        let config = FileStoreConfig {
            repo_path: folder.path().to_owned(),
            memory_limit: 1 << 24,
            environment: crate::cloud::Environment::default(),
        };
        Self {
            fixture,
            offline: Arc::new(FileStore::new(config).unwrap()),
            folder,
            metrics: Arc::default(),
        }
    }

    async fn answer(&self, drivers: &[i64]) -> (Arc<Layout>, Arc<Response>) {
        let column = |name: &str, values: Vec<serde_json::Value>| (name.to_owned(), Given::Json(values));
        let request = Request {
            wanted: Wanted::service("logged"),
            full_names: false,
            version_metadata: false,
            columns: vec![
                column("val_to_add_2", drivers.iter().map(|_| json!(0.5)).collect()),
                column("driver_id", drivers.iter().map(|id| json!(id)).collect()),
                column("val_to_add", drivers.iter().map(|_| json!(2)).collect()),
            ],
        };
        let response = Arc::new(self.fixture.server.get(request).await.unwrap());
        (Arc::clone(response.plan_log().unwrap()), response)
    }

    fn log(&self, queue_rows: usize) -> FeatureLog {
        let config = FeatureLogConfig {
            queue_rows,
            interval: Duration::from_secs(3600),
        };
        FeatureLog::start(
            &config,
            Arc::clone(&self.offline),
            Arc::clone(&self.metrics),
            &Handle::current(),
        )
    }

    fn writer(&self) -> Writer {
        Writer {
            offline: Arc::clone(&self.offline),
            metrics: Arc::clone(&self.metrics),
            waiting: Arc::new(AtomicUsize::new(usize::MAX)),
            logs: Vec::new(),
        }
    }

    fn counted(&self, outcome: &'static str) -> u64 {
        let labels = LogLabels {
            feature_service: "logged".to_owned(),
            outcome,
        };
        self.metrics.log_rows.get_or_create(&labels).get()
    }
}

fn rows_in(folder: &Path) -> RecordBatch {
    let mut batches = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let file = std::fs::File::open(entry.unwrap().path()).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(file)
            .unwrap()
            .build()
            .unwrap();
        batches.extend(reader.map(Result::unwrap));
    }
    concat_batches(&batches[0].schema(), &batches).unwrap()
}

#[tokio::test]
async fn a_log_has_feasts_columns_and_what_was_served() {
    let world = World::new(1.0).await;
    let log = world.log(10);
    let (layout, response) = world.answer(&[1001, 1003, 9999]).await;
    log.offer(&layout, &response, Some("r1"));
    log.close().await;
    let rows = rows_in(&world.folder.path().join("log"));
    let schema = rows.schema();
    let names: Vec<_> = schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    let wanted = [
        "driver_id",
        "driver_fv__trips",
        "driver_fv__trips__timestamp",
        "driver_fv__trips__status",
        "driver_fv__conv_rate",
        "driver_fv__conv_rate__timestamp",
        "driver_fv__conv_rate__status",
        "val_to_add",
        "val_to_add_2",
        "plus__conv_plus_py",
        "plus__conv_plus_py__timestamp",
        "plus__conv_plus_py__status",
        "__log_timestamp",
        "__log_date",
        "__request_id",
    ];
    assert_eq!(names, wanted);
    let column = |name: &str| rows.column_by_name(name).unwrap();
    assert_eq!(
        column("driver_id").as_primitive::<Int64Type>().values(),
        &[1001, 1003, 9999]
    );
    let trips = column("driver_fv__trips").as_primitive::<Int64Type>();
    assert_eq!(trips.iter().collect::<Vec<_>>(), [Some(21), None, None]);
    let status = column("driver_fv__trips__status").as_primitive::<Int32Type>();
    assert_eq!(status.values(), &[1, 1, 3]);
    let times = column("driver_fv__trips__timestamp").as_primitive::<TimestampMillisecondType>();
    assert_eq!((times.value(0), times.is_null(2)), (TEN / 1000, true));
    let rates = column("driver_fv__conv_rate").as_primitive::<Float32Type>();
    assert_eq!(rates.iter().collect::<Vec<_>>(), [Some(0.3), Some(0.75), None]);
    assert!(column("plus__conv_plus_py").is_valid(0));
    assert_eq!(column("plus__conv_plus_py__timestamp").null_count(), 3);
    assert_eq!(column("__request_id").as_string::<i32>().value(2), "r1");
    assert_eq!(
        (world.counted("written"), world.metrics.log_waiting.get()),
        (3, 0)
    );
}

#[tokio::test]
async fn rows_that_find_the_queue_full_are_dropped_and_counted() {
    let world = World::new(1.0).await;
    let (layout, response) = world.answer(&[1001, 1002]).await;
    let log = world.log(5);
    // Nothing takes them out while nothing is awaited here.
    for _ in 0..4 {
        log.offer(&layout, &response, None);
    }
    assert_eq!(
        (world.counted("queue_full"), world.metrics.log_waiting.get()),
        (4, 4)
    );
    log.close().await;
    assert_eq!(world.counted("written"), 4);
    log.offer(&layout, &response, None);
    assert_eq!(world.counted("failed"), 2, "nobody takes them any more");
}

#[tokio::test]
async fn a_share_of_the_requests_is_drawn() {
    let world = World::new(0.5).await;
    let log = world.log(1);
    let drawn = (0..2000).filter(|_| log.is_drawn(0.5)).count();
    // Ten standard deviations.
    assert!((776..1224).contains(&drawn), "{drawn}");
    assert!((0..100).all(|_| log.is_drawn(1.0)) && !(0..100).any(|_| log.is_drawn(0.0)));
    let never = World::new(0.0).await;
    let shape = never.fixture.server.get(Request {
        wanted: Wanted::service("logged"),
        full_names: false,
        version_metadata: false,
        columns: ["driver_id", "val_to_add", "val_to_add_2"]
            .map(|name| (name.to_owned(), Given::Json(vec![json!(1)])))
            .into(),
    });
    assert!(shape.await.unwrap().plan_log().is_none());
}

#[tokio::test]
async fn a_log_that_cannot_be_written_to_is_tried_again() {
    let world = World::new(1.0).await;
    let mut writer = world.writer();
    let place = world.folder.path().join("log");
    std::fs::write(&place, "in the way").unwrap();
    let (layout, response) = world.answer(&[1001]).await;
    for id in ["r1", "r2"] {
        let (layout, response) = (Arc::clone(&layout), Arc::clone(&response));
        let id = id.to_owned();
        writer.take(Entry { layout, response, id }).await;
        writer.write_all().await;
    }
    assert_eq!((world.counted("written"), world.counted("failed")), (0, 0));
    std::fs::remove_file(&place).unwrap();
    writer.write_all().await;
    assert_eq!(rows_in(&place).num_rows(), 2);
    assert_eq!((world.counted("written"), writer.logs.len()), (2, 0));
}

#[tokio::test]
async fn an_answer_that_does_not_fit_does_not_take_others_with_it() {
    let world = World::new(1.0).await;
    let row = vec![(
        crate::online::fixture::key(&[("driver_id", crate::online::fixture::int(7))]),
        TEN,
        vec![crate::online::fixture::text("no number")],
    )];
    world.fixture.put("driver_fv", &["trips"], row).await;
    let mut writer = world.writer();
    for driver in [1001, 7, 1002] {
        let (layout, response) = world.answer(&[driver]).await;
        let id = String::new();
        writer.take(Entry { layout, response, id }).await;
    }
    writer.write_all().await;
    assert_eq!((world.counted("written"), world.counted("failed")), (2, 1));
}
