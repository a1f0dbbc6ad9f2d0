//! The file store over Delta tables, with logs written by hand.

use std::collections::BTreeMap;

use arrow::{
    datatypes::{Field, Fields, Schema},
    json::ReaderBuilder,
};
use serde_json::{Value as Json, json};

use super::*;

const PLAIN: &str = r#"{"protocol":{"minReaderVersion":1,"minWriterVersion":2}}"#;

/// A table in a folder, with as many commits as were made.
struct Table {
    folder: TempDir,
    commits: u32,
}

impl Table {
    /// A table whose first commit has its protocol and these columns.
    fn new(protocol: &str, columns: &Json, partitions: &[&str], settings: &Json) -> Self {
        let mut table = Self {
            folder: TempDir::new().unwrap(),
            commits: 0,
        };
        std::fs::create_dir_all(table.path("_delta_log/_sidecars")).unwrap();
        let schema = json!({"type": "struct", "fields": columns}).to_string();
        let metadata = json!({"metaData": {"id": "t", "format": {"provider": "parquet"}, "schemaString": schema,
            "partitionColumns": partitions, "configuration": settings}});
        table.commit(&format!("{protocol}\n{metadata}\n"));
        table
    }

    /// One of drivers.
    fn plain(protocol: &str) -> Self {
        Self::new(protocol, &drivers_columns(), &[], &json!({}))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("table").join(name)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.path("_delta_log").join(name)
    }

    fn commit(&mut self, lines: &str) {
        std::fs::write(self.log(&format!("{:020}.json", self.commits)), lines).unwrap();
        self.commits += 1;
    }

    /// The line that adds a file of these rows, which is written.
    fn file(&self, name: &str, path: &str, partition: &Json, rows: &RecordBatch) -> Json {
        std::fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        write(&self.path(name), rows);
        let size = std::fs::metadata(self.path(name)).unwrap().len();
        json!({"add": {"path": path, "partitionValues": partition, "size": size, "modificationTime": self.commits, "dataChange": true}})
    }

    fn add(&mut self, name: &str, rows: &RecordBatch) {
        let line = self.file(name, name, &json!({}), rows);
        self.commit(&line.to_string());
    }

    async fn rows(&self) -> Result<RecordBatch> {
        collect(
            store(&self.folder)
                .pull(pull(source("table"), None, None, false))
                .await,
        )
        .await
    }

    async fn x(&self) -> Vec<Option<i64>> {
        let mut found = whole(&self.rows().await.unwrap(), "x");
        found.sort();
        found
    }

    async fn refused(&self) -> String {
        let error = store(&self.folder).schema(&source("table")).await.unwrap_err();
        assert!(error.message().contains("data source `src`"), "{error}");
        format!("{:?}: {error}", error.kind())
    }
}

fn column(name: &str, kind: &str) -> Json {
    json!({"name": name, "type": kind, "nullable": true, "metadata": {}})
}

fn drivers_columns() -> Json {
    json!([
        column("driver", "long"),
        column("ts", "timestamp"),
        column("x", "long")
    ])
}

fn row(driver: i64, at: &str, x: i64) -> RecordBatch {
    batch(vec![
        ("driver", numbers(&[driver])),
        ("ts", times(&[at])),
        ("x", numbers(&[x])),
    ])
}

fn features(names: &[&str]) -> String {
    json!({"protocol": {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": names, "writerFeatures": names}})
        .to_string()
}

#[tokio::test]
async fn rows_are_those_of_the_files_that_count() {
    let mut table = Table::plain(PLAIN);
    table.add("a.parquet", &row(1, "10:00:00", 1));
    table.add("b.parquet", &row(1, "11:00:00", 2));
    assert_eq!(table.x().await, [Some(1), Some(2)]);
    let new = table.file("c d.parquet", "c%20d.parquet", &json!({}), &row(2, "12:00:00", 3));
    table.commit(&format!(
        "{}\n\n{new}\n",
        json!({"remove": {"path": "a.parquet", "dataChange": true}})
    ));
    assert_eq!(table.x().await, [Some(2), Some(3)]);

    // Of equal times the row counts that was written last, whatever its file is called.
    table.add("0.parquet", &row(1, "11:00:00", 4));
    let store = store(&table.folder);
    let newest = collect(store.pull(pull(source("table"), None, None, true)).await)
        .await
        .unwrap();
    let mut x = whole(&newest, "x");
    x.sort_unstable();
    assert_eq!(x, [Some(3), Some(4)]);
    let entities = batch(vec![
        ("from", numbers(&[1, 2, 1])),
        ("at", times(&["11:30:00", "13:00:00", "10:30:00"])),
    ]);
    let views = vec![view(&source("table"), "from", "x", "x", None)];
    let joined = collect(store.historical(asked(entities, views)).await)
        .await
        .unwrap();
    assert_eq!(whole(&joined, "x"), [Some(4), Some(3), None]);

    // The same files are the same rows; one more is not.
    let fingerprint = async || {
        store
            .pull_parts(pull(source("table"), None, None, false))
            .await
            .unwrap()
            .fingerprint
    };
    let before = fingerprint().await;
    assert!(before.is_some() && before == fingerprint().await);
    table.add("e.parquet", &row(1, "14:00:00", 5));
    assert_ne!(before, fingerprint().await);
}

#[tokio::test]
async fn what_is_added_and_saved_is_refused() {
    let table = Table::plain(PLAIN);
    let store = store(&table.folder);
    let refused = store
        .append(&source("table"), vec![drivers()], None)
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), Kind::Unsupported);
    assert!(refused.message().contains("`src` is a Delta table"), "{refused}");
    let empty = Box::pin(datafusion::physical_plan::EmptyRecordBatchStream::new(
        drivers().schema(),
    ));
    let refused = store.save(&source("table"), empty, true, None).await.unwrap_err();
    assert!(refused.message().contains("a Delta table"), "{refused}");
}

#[tokio::test]
async fn partition_columns_are_in_the_log() {
    let columns = json!([
        column("day", "date"),
        column("driver", "long"),
        column("ts", "timestamp"),
        column("place", "string"),
        column("x", "long"),
        column("late", "double"),
    ]);
    let mut table = Table::new(PLAIN, &columns, &["place", "day"], &json!({}));
    for (name, path, place, day, x) in [
        (
            "place=a%20b/1.parquet",
            "place=a%2520b/1.parquet",
            json!("a b"),
            json!("2026-01-01"),
            1,
        ),
        ("2.parquet", "2.parquet", json!(""), Json::Null, 2),
    ] {
        let values = json!({"place": place, "day": day});
        let line = table.file(name, path, &values, &row(1, "10:00:00", x));
        table.commit(&line.to_string());
    }
    let store = store(&table.folder);
    let names = |schema: &SchemaRef| {
        schema
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect::<Vec<_>>()
    };
    let schema = store.schema(&source("table")).await.unwrap();
    assert_eq!(names(&schema), ["day", "driver", "ts", "place", "x", "late"]);
    let asked = Pull {
        features: ["place", "x", "day", "late"].map(str::to_owned).to_vec(),
        ..pull(source("table"), None, None, false)
    };
    let rows = collect(store.pull(asked).await).await.unwrap();
    let shown = pretty_format_batches(&[rows.project(&[1, 2, 3, 4]).unwrap()])
        .unwrap()
        .to_string();
    assert!(shown.contains("| a b   | 1 | 2026-01-01 |      |"), "{shown}");
    assert!(shown.contains("|       | 2 |            |      |"), "{shown}");
}

#[tokio::test]
async fn columns_may_have_other_names_in_files() {
    let mapped = |name: &str, kind: &str, physical: &str| json!({"name": name, "type": kind, "nullable": true, "metadata": {"delta.columnMapping.id": 1, "delta.columnMapping.physicalName": physical}});
    // The names have changed places since the first file.
    let columns = json!([
        mapped("driver", "long", "driver"),
        mapped("ts", "timestamp", "ts"),
        mapped("x", "long", "y"),
        mapped("y", "long", "x")
    ]);
    let by_name = json!({"delta.columnMapping.mode": "name"});
    let mut table = Table::new(&features(&["columnMapping"]), &columns, &[], &by_name);
    let rows = batch(vec![
        ("x", numbers(&[1])),
        ("y", numbers(&[2])),
        ("driver", numbers(&[7])),
        ("ts", times(&["10:00:00"])),
    ]);
    table.add("a.parquet", &rows);
    assert_eq!(table.x().await, [Some(2)]);
    let entities = batch(vec![("from", numbers(&[7])), ("at", times(&["11:00:00"]))]);
    let views = vec![view(&source("table"), "from", "y", "y", None)];
    let joined = collect(store(&table.folder).historical(asked(entities, views)).await)
        .await
        .unwrap();
    assert_eq!(whole(&joined, "y"), [Some(1)]);
    let by_id = Table::new(
        &features(&["columnMapping"]),
        &columns,
        &[],
        &json!({"delta.columnMapping.mode": "id"}),
    );
    assert!(
        by_id.refused().await.starts_with("Unsupported"),
        "{}",
        by_id.refused().await
    );
}

#[tokio::test]
async fn deleted_rows_are_not_read() {
    let mut table = Table::plain(&features(&["deletionVectors"]));
    let rows = batch(vec![
        ("driver", numbers(&[1; 30])),
        ("ts", times(&["10:00:00"; 30])),
        ("x", numbers(&(0..30).collect::<Vec<_>>())),
    ]);
    let mut line = table.file("a.parquet", "a.parquet", &json!({}), &rows);
    // Rows 3, 4, 7, 11, 18, 29.
    let vector = json!({"storageType": "i", "pathOrInlineDv": "^Bg9^0rr910000000000iXQKl0rr91000f55c8Xg0@@D72lkbi5=-{L", "sizeInBytes": 44, "cardinality": 6});
    line["add"]["stats"] = json!({"numRecords": 30}).to_string().into();
    table.commit(&line.to_string());
    assert_eq!(table.x().await.len(), 30);
    line["add"]["deletionVector"] = vector;
    table.commit(&format!("{}\n{line}", json!({"remove": {"path": "a.parquet"}})));
    let left: Vec<_> = (0..30)
        .filter(|x| ![3, 4, 7, 11, 18, 29].contains(x))
        .map(Some)
        .collect();
    assert_eq!(table.x().await, left);
    let entities = batch(vec![("from", numbers(&[1])), ("at", times(&["11:00:00"]))]);
    let views = vec![view(&source("table"), "from", "x", "x", None)];
    let joined = collect(store(&table.folder).historical(asked(entities, views)).await)
        .await
        .unwrap();
    assert_eq!(whole(&joined, "x"), [Some(28)], "the last row that is left");

    line["add"]["deletionVector"]["cardinality"] = 5.into();
    table.commit(&line.to_string());
    let wrong = table.rows().await.unwrap_err();
    assert!(wrong.message().contains("deletion vector"), "{wrong}");
}

#[tokio::test]
async fn files_without_rows_of_the_window_are_not_opened() {
    let mut table = Table::plain(PLAIN);
    for (name, at, cut) in [
        ("a.parquet", "10:00:00.000500", "10:00:00.000Z"),
        ("b.parquet", "12:00:00", "12:00:00.000Z"),
    ] {
        let mut line = table.file(name, name, &json!({}), &row(1, at, 1));
        let bound = json!({"ts": format!("2026-01-01T{cut}"), "driver": 1});
        line["add"]["stats"] = json!({"numRecords": 1, "minValues": bound, "maxValues": bound})
            .to_string()
            .into();
        table.commit(&line.to_string());
    }
    let store = store(&table.folder);
    let count = async |start, end| {
        Ok::<_, Error>(
            collect(store.pull(pull(source("table"), start, end, false)).await)
                .await?
                .num_rows(),
        )
    };
    // Statistics are cut to milliseconds.
    assert_eq!(count(Some("10:00:00.000400"), Some("11:00:00")).await.unwrap(), 1);
    std::fs::remove_file(table.path("a.parquet")).unwrap();
    assert_eq!(count(Some("11:00:00"), None).await.unwrap(), 1);
    assert_eq!(count(Some("13:00:00"), None).await.unwrap(), 0);
    assert!(
        count(Some("10:00:00"), None).await.is_err(),
        "a file that counts is not there"
    );
}

#[tokio::test]
async fn what_is_not_understood_is_refused_by_name() {
    for (table, said) in [
        (
            Table::plain(&features(&["typeWidening"])),
            "Unsupported: data source `src`",
        ),
        (Table::plain(&features(&["typeWidening"])), "`typeWidening`"),
        (
            Table::plain(r#"{"protocol":{"minReaderVersion":4,"minWriterVersion":7}}"#),
            "version 4",
        ),
        (
            Table::new(PLAIN, &json!([column("v", "variant")]), &[], &json!({})),
            "column `v` of the Delta table: the type \"variant\"",
        ),
        (
            Table::new(PLAIN, &drivers_columns(), &["day"], &json!({})),
            "no partition column `day`",
        ),
    ] {
        let told = table.refused().await;
        assert!(told.contains(said), "{told}");
    }
    for path in [
        "s3://other/a.parquet",
        "/other/a.parquet",
        "file:/a.parquet",
        "../a.parquet",
    ] {
        let mut table = Table::plain(PLAIN);
        table.commit(
            &json!({"add": {"path": path, "partitionValues": {}, "size": 1, "modificationTime": 0}})
                .to_string(),
        );
        let told = table.refused().await;
        assert!(told.contains("has a file"), "{told}");
        // What was removed since does not matter.
        table.commit(&json!({"remove": {"path": path}}).to_string());
        assert!(
            store(&table.folder).schema(&source("table")).await.is_ok(),
            "{path}"
        );
    }
    let mut table = Table::plain(PLAIN);
    table.add("a.parquet", &row(1, "10:00:00", 1));
    table.commit("{}");
    std::fs::remove_file(table.log("00000000000000000001.json")).unwrap();
    let told = table.refused().await;
    assert!(told.contains("version 2, but version 1 is missing"), "{told}");
    std::fs::write(table.log("00000000000000000001.json"), "{\"add\":").unwrap();
    let told = table.refused().await;
    assert!(told.contains("`00000000000000000001.json`"), "{told}");
    std::fs::remove_dir_all(table.path("_delta_log")).unwrap();
    std::fs::create_dir(table.path("_delta_log")).unwrap();
    let told = table.refused().await;
    assert!(told.contains("there is no Delta table"), "{told}");
}

/// The lines of commits as a checkpoint has them.
fn checkpoint(path: &Path, lines: &[String]) {
    let text = || DataType::Utf8;
    let list = DataType::new_list(text(), true);
    let entry = Fields::from(vec![
        Field::new("key", text(), false),
        Field::new("value", text(), true),
    ]);
    let map = DataType::Map(
        Arc::new(Field::new("key_value", DataType::Struct(entry), false)),
        false,
    );
    let group = |name: &str, fields: Vec<(&str, DataType)>| {
        let fields = fields
            .into_iter()
            .map(|(name, kind)| Field::new(name, kind, true))
            .collect();
        Field::new(name, DataType::Struct(fields), true)
    };
    let schema = Schema::new(vec![
        group(
            "protocol",
            vec![
                ("minReaderVersion", DataType::Int32),
                ("readerFeatures", list.clone()),
            ],
        ),
        group(
            "metaData",
            vec![
                ("schemaString", text()),
                ("partitionColumns", list),
                ("configuration", map.clone()),
            ],
        ),
        group(
            "add",
            vec![
                ("path", text()),
                ("partitionValues", map),
                ("size", DataType::Int64),
                ("modificationTime", DataType::Int64),
            ],
        ),
        group("sidecar", vec![("path", text())]),
    ]);
    let mut decoder = ReaderBuilder::new(Arc::new(schema)).build_decoder().unwrap();
    decoder.decode(lines.join("\n").as_bytes()).unwrap();
    write(path, &decoder.flush().unwrap().unwrap());
}

#[tokio::test]
async fn checkpoints_stand_for_the_commits_before_them() {
    let columns = json!([
        column("driver", "long"),
        column("ts", "timestamp"),
        column("x", "long"),
        column("p", "string")
    ]);
    let protocol = features(&["v2Checkpoint"]);
    let mut table = Table::new(&protocol, &columns, &["p"], &json!({}));
    let head: Vec<String> = std::fs::read_to_string(table.log("00000000000000000000.json"))
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    let mut adds = BTreeMap::new();
    for (name, p, x) in [("a", json!("p"), 1), ("b", Json::Null, 2), ("c", json!("q"), 3)] {
        let line = table.file(name, name, &json!({"p": p}), &row(1, "10:00:00", x));
        table.commit(&line.to_string());
        adds.insert(name, line.to_string());
    }
    // Two parts stand for versions 0 to 2; version 3 follows. The part of a later one is not all of it.
    let version = |version: u64, rest: &str| table.log(&format!("{version:020}.{rest}"));
    let parts = [
        "checkpoint.0000000001.0000000002.parquet",
        "checkpoint.0000000002.0000000002.parquet",
    ];
    checkpoint(
        &version(2, parts[0]),
        &[head.as_slice(), &[adds["a"].clone()]].concat(),
    );
    checkpoint(&version(2, parts[1]), &[adds["b"].clone()]);
    checkpoint(&version(3, parts[0]), &head);
    for gone in 0..3 {
        std::fs::remove_file(version(gone, "json")).unwrap();
    }
    assert_eq!(table.x().await, [Some(1), Some(2), Some(3)]);
    for hint in [
        "{\"version\":2,\"size\":4,\"parts\":2}",
        "{\"version\":9}",
        "broken",
    ] {
        std::fs::write(table.log("_last_checkpoint"), hint).unwrap();
        assert_eq!(table.x().await, [Some(1), Some(2), Some(3)], "{hint}");
    }

    // One of the newer kind, whose files are told in another file.
    std::fs::write(version(1, "2.compacted.json"), "not read").unwrap();
    checkpoint(
        &table.log("_sidecars/s.parquet"),
        &[adds["b"].clone(), adds["c"].clone()],
    );
    let top = [
        head.join("\n"),
        json!({"sidecar": {"path": "s.parquet", "sizeInBytes": 1}}).to_string(),
    ]
    .join("\n");
    std::fs::write(
        version(3, "checkpoint.80a083e8-7026-4e79-81be-64bd76c43a11.json"),
        top,
    )
    .unwrap();
    std::fs::remove_file(version(3, "json")).unwrap();
    assert_eq!(table.x().await, [Some(2), Some(3)]);
    let asked = Pull {
        features: vec!["p".to_owned()],
        ..pull(source("table"), None, None, false)
    };
    let rows = collect(store(&table.folder).pull(asked).await).await.unwrap();
    let mut p: Vec<_> = rows["p"].as_string::<i32>().iter().collect();
    p.sort_unstable();
    assert_eq!(p, [None, Some("q")]);
}
