//! Retrieval against what Feast answered (its DuckDB store), and what is ours beyond that.
#![expect(clippy::unwrap_used, reason = "tests")]

use arrow::array::{ArrayRef, Int64Array, StringArray, TimestampMicrosecondArray};

use super::*;
use crate::offline::fixture::{Fixture, batch, collect, numbers, printed, recorded, time, times};

fn request(rows: RecordBatch, references: &[&str]) -> HistoricalRequest {
    HistoricalRequest {
        rows: RequestRows::Given {
            schema: rows.schema(),
            batches: vec![rows],
        },
        wanted: Wanted::features(references.iter().map(|&text| text.to_owned()).collect()),
        full_feature_names: false,
        filter_by_created: false,
    }
}

async fn ask(fixture: &Fixture, request: HistoricalRequest) -> Result<RecordBatch> {
    let catalog = fixture.catalog();
    collect(
        retrieve(
            &catalog,
            fixture.store.as_ref(),
            Arc::clone(&fixture.transformer),
            request,
        )
        .await,
    )
    .await
}

/// The rows all recorded cases start from.
fn entity_rows() -> RecordBatch {
    let recorded = recorded();
    let rows = recorded["entity_df_e"].as_array().unwrap();
    let texts = |name: &str| {
        rows.iter()
            .map(|row| row[name].as_str().unwrap())
            .collect::<Vec<_>>()
    };
    let ids: Int64Array = rows.iter().map(|row| row["driver_id"].as_i64()).collect();
    batch(vec![
        ("driver_id", Arc::new(ids)),
        ("event_timestamp", times(&texts("event_timestamp"))),
        ("label", Arc::new(StringArray::from(texts("label")))),
    ])
}

/// A cell of our result or of a pandas print in one form: numbers without a needless fraction.
fn cell(text: &str) -> String {
    match text {
        "NaN" | "<NA>" | "-" => "null".to_owned(),
        text => text
            .strip_suffix(".0")
            .unwrap_or(text)
            .replace("+00:00", "")
            .replace('Z', ""),
    }
}

/// Compares a result with a recorded table, whose rows begin with their number.
fn assert_recorded(result: &RecordBatch, store: &str, case: &str) {
    let recorded = recorded();
    let table = recorded["results"][store][case]["table"].as_array().unwrap();
    let want: Vec<Vec<String>> = table
        .iter()
        .enumerate()
        .map(|(row, line)| {
            let cells = line
                .as_str()
                .unwrap()
                .split_whitespace()
                .skip(usize::from(row > 0));
            cells.map(cell).collect()
        })
        .collect();
    let ours: Vec<Vec<String>> = printed(result)
        .iter()
        .map(|row| row.iter().flat_map(|text| text.split('T')).map(cell).collect())
        .collect();
    assert_eq!(ours, want, "{case}");
}

#[tokio::test]
async fn recorded_answers_are_given() {
    let fixture = Fixture::new();
    let all = entity_rows();
    let ttl = batch(vec![
        ("driver_id", numbers(&[1, 1])),
        (
            "event_timestamp",
            times(&["2026-01-01T14:00:00Z", "2026-01-01T14:00:01Z"]),
        ),
    ]);
    let nulls: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
    let null_key = batch(vec![
        ("driver_id", nulls),
        (
            "event_timestamp",
            times(&["2026-01-01T10:00Z", "2026-01-01T10:00Z"]),
        ),
    ]);
    let ten = time("2026-01-01T10:00Z").timestamp_micros();
    let naive: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![ten]));
    let new_york: ArrayRef =
        Arc::new(TimestampMicrosecondArray::from(vec![ten]).with_timezone("America/New_York"));
    let text: ArrayRef = Arc::new(StringArray::from(vec!["2026-01-01T10:00:00Z"]));
    let one = |name, times| batch(vec![("driver_id", numbers(&[1])), (name, times)]);
    let cases = [
        ("single_fv_ttl2h", request(all.clone(), &["fa:x", "fa:y"])),
        (
            "created_filter",
            HistoricalRequest {
                filter_by_created: true,
                ..request(all.clone(), &["fa:x"])
            },
        ),
        (
            "two_fv_full",
            HistoricalRequest {
                full_feature_names: true,
                ..request(all.slice(0, 3), &["fb:x", "fa:x"])
            },
        ),
        ("ttl_boundary", request(ttl, &["fa:x"])),
        ("naive_ts_other_name", request(one("when", naive), &["fa:x"])),
        ("tz_ny", request(one("event_timestamp", new_york), &["fa:x"])),
        ("string_ts", request(one("event_timestamp", text), &["fa:x"])),
        ("null_key", request(null_key, &["fb:x"])),
        ("field_mapping", request(all.slice(0, 4), &["fm:renamed"])),
        ("entityless", request(all.slice(0, 2), &["fg:gv"])),
    ];
    for (case, request) in cases {
        assert_recorded(&ask(&fixture, request).await.unwrap(), "duckdb", case);
    }
    let rows = batch(vec![
        ("origin_id", numbers(&[1])),
        ("dest_id", numbers(&[2])),
        ("event_timestamp", times(&["2026-01-01T12:00Z"])),
    ]);
    let mut service = request(rows.clone(), &[]);
    service.wanted = Wanted::Service("al".to_owned());
    service.full_feature_names = true;
    assert_recorded(&ask(&fixture, service).await.unwrap(), "duckdb", "alias");
    let alias = |alias: &str| Alias {
        view: "fb".to_owned(),
        alias: alias.to_owned(),
    };
    let mut aliased = request(rows, &[]);
    aliased.wanted = Wanted::Features {
        references: vec!["origin:x".to_owned(), "dest:x".to_owned()],
        aliases: vec![alias("origin"), alias("dest")],
    };
    aliased.full_feature_names = true;
    assert_recorded(&ask(&fixture, aliased).await.unwrap(), "duckdb", "alias");
    let empty = ask(&fixture, request(all.slice(0, 0), &["fb:x"])).await.unwrap();
    assert_eq!(printed(&empty), [["driver_id", "event_timestamp", "label", "x"]]);
}

#[tokio::test]
async fn a_range_is_every_key_and_time_with_the_newest_values() {
    let fixture = Fixture::new();
    let range = |references: &[&str], full_feature_names| HistoricalRequest {
        rows: RequestRows::Range {
            start: Some(time("2026-01-01T09:00Z")),
            end: Some(time("2026-01-01T12:00Z")),
        },
        full_feature_names,
        ..request(entity_rows(), references)
    };
    let rows = ask(&fixture, range(&["fa:x", "fb:x"], true)).await.unwrap();
    // As Feast's PostgreSQL store, but the corrected row (x = 12, created later) wins at 10:00.
    assert_eq!(
        printed(&rows),
        [
            ["event_timestamp", "driver_id", "fa__x", "fb__x"],
            ["2026-01-01T09:00:00Z", "1", "10", "101"],
            ["2026-01-01T10:00:00Z", "1", "12", "101"],
            ["2026-01-01T10:00:00Z", "3", "30", "-"],
            ["2026-01-01T11:00:00Z", "2", "-", "200"],
            ["2026-01-01T12:00:00Z", "1", "13", "101"],
        ]
    );
    let open = HistoricalRequest {
        rows: RequestRows::Range {
            start: None,
            end: Some(time("2026-01-01T12:00Z")),
        },
        ..range(&["fa:x"], false)
    };
    let rows = printed(&ask(&fixture, open).await.unwrap());
    assert_eq!(
        rows[1],
        ["2026-01-01T10:00:00Z", "1", "12"],
        "a range goes back by the longest ttl"
    );
    assert_eq!(rows.len(), 4);
}

#[tokio::test]
async fn computed_features_come_after_joined_ones() {
    let fixture = Fixture::new();
    let rows = batch(vec![
        ("driver_id", numbers(&[1, 9])),
        (
            "event_timestamp",
            times(&["2026-01-01T10:00Z", "2026-01-01T10:00Z"]),
        ),
        ("bonus", numbers(&[5, 6])),
    ]);
    let only = ask(&fixture, request(rows.clone(), &["odfv:double"]))
        .await
        .unwrap();
    assert_eq!(
        printed(&only)[0],
        ["driver_id", "event_timestamp", "bonus", "double"]
    );
    assert_eq!(printed(&only)[1][3], "24");
    assert_eq!(printed(&only)[2][3], "-");
    let mut both = request(rows.clone(), &["odfv:plus", "fa:x", "fb:x"]);
    both.full_feature_names = true;
    let both = printed(&ask(&fixture, both).await.unwrap());
    assert_eq!(both[0][3..], ["fa__x", "fb__x", "odfv__plus"]);
    assert_eq!(both[1][3..], ["12", "101", "17"]);
    let none = ask(&fixture, request(rows.slice(0, 0), &["odfv:double"]))
        .await
        .unwrap();
    assert_eq!(none.schema().field(3).data_type(), &DataType::Int64);
    let without = rows.project(&[0, 1]).unwrap();
    let error = ask(&fixture, request(without, &["odfv:double"]))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::RequestDataNotFound);
    assert!(error.message().contains("`bonus`"), "{error}");
}

#[tokio::test]
async fn wrong_questions_are_refused_before_anything_is_read() {
    let fixture = Fixture::new();
    let all = entity_rows();
    let two_times = batch(vec![
        ("driver_id", numbers(&[1])),
        ("t1", times(&["2026-01-01T10:00Z"])),
        ("t2", times(&["2026-01-01T10:00Z"])),
    ]);
    let named_x = batch(vec![
        ("driver_id", numbers(&[1])),
        ("event_timestamp", times(&["2026-01-01T10:00Z"])),
        ("x", numbers(&[1])),
    ]);
    let text_key: ArrayRef = Arc::new(StringArray::from(vec!["abc"]));
    let wrong_type = batch(vec![
        ("driver_id", text_key),
        ("event_timestamp", times(&["2026-01-01T10:00Z"])),
    ]);
    let sql = |text: &str| HistoricalRequest {
        rows: RequestRows::Sql(text.to_owned()),
        ..request(all.clone(), &["fa:x"])
    };
    let cases = [
        (
            request(all.clone(), &["fb:x", "fa:x"]),
            Kind::FeatureNameCollision,
            "`x`",
        ),
        (
            request(named_x, &["fa:x"]),
            Kind::FeatureNameCollision,
            "`x` has the name of an entity column",
        ),
        (
            request(two_times, &["fa:x"]),
            Kind::InvalidArgument,
            "`event_timestamp`",
        ),
        (
            request(all.project(&[1, 2]).unwrap(), &["fa:x"]),
            Kind::EntityColumnsMissing,
            "`driver_id`",
        ),
        (
            request(all.clone(), &["nope:x"]),
            Kind::FeatureViewNotFound,
            "nope",
        ),
        (
            request(all.clone(), &["fa:nope"]),
            Kind::InvalidArgument,
            "no feature `nope`",
        ),
        (
            request(all.clone(), &["fa@v3:x"]),
            Kind::FeatureViewVersionNotFound,
            "`3`",
        ),
        (request(all.clone(), &[]), Kind::InvalidArgument, "no features"),
        (
            request(wrong_type, &["fa:x"]),
            Kind::InvalidArgument,
            "holds `abc`, which is no Int64",
        ),
        (sql("select 1 as x from"), Kind::InvalidArgument, "the SQL"),
        (
            sql("select * from '/etc/passwd'"),
            Kind::InvalidArgument,
            "reads `/etc/passwd`, which is no data source",
        ),
        (
            sql("select * from information_schema.df_settings"),
            Kind::InvalidArgument,
            "which is no data source",
        ),
        (sql("drop table fa_source"), Kind::InvalidArgument, "the SQL"),
        (
            sql("set datafusion.execution.batch_size = 1"),
            Kind::InvalidArgument,
            "the SQL",
        ),
        (
            sql("explain select 1 as driver_id"),
            Kind::InvalidArgument,
            "no `SELECT`",
        ),
        (
            sql("select 1 as driver, now() as event_timestamp"),
            Kind::EntityColumnsMissing,
            "`driver_id`",
        ),
    ];
    for (request, kind, part) in cases {
        let error = ask(&fixture, request).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().contains(part), "{part} in {error}");
    }
}

#[tokio::test]
async fn entity_rows_come_from_a_query_over_the_data_sources() {
    let fixture = Fixture::new();
    let given = batch(vec![
        ("driver_id", numbers(&[1, 2])),
        (
            "event_timestamp",
            times(&["2026-01-01T11:00Z", "2026-01-01T11:00Z"]),
        ),
    ]);
    let want = ask(&fixture, request(given.clone(), &["fa:x"])).await.unwrap();
    let sql = "WITH drivers AS (SELECT DISTINCT driver_id FROM fa_source WHERE driver_id <= 2) \
               SELECT driver_id, TIMESTAMP '2026-01-01 11:00:00' AS event_timestamp FROM drivers ORDER BY driver_id";
    let asked = HistoricalRequest {
        rows: RequestRows::Sql(sql.to_owned()),
        ..request(given, &["fa:x"])
    };
    let got = ask(&fixture, asked).await.unwrap();
    assert_eq!(got["driver_id"].as_ref(), want["driver_id"].as_ref());
    assert_eq!(got["x"].as_ref(), want["x"].as_ref());
    assert!(got["x"].null_count() < 2);
}

#[test]
fn the_index_of_a_frame_is_dropped_and_nullable_integers_stay_so() {
    let columns = [("driver_id", numbers(&[1])), ("__index_level_0__", numbers(&[7]))];
    let rows = batch(
        columns
            .into_iter()
            .chain([("event_timestamp", times(&["2026-01-01Z"]))])
            .collect(),
    );
    let described = serde_json::json!({
        "index_columns": ["__index_level_0__"],
        "columns": [
            {"name": "driver_id", "numpy_type": "Int64"},
            {"name": "event_timestamp", "numpy_type": "datetime64[ns, America/New_York]"},
            {"name": null, "field_name": "__index_level_0__", "numpy_type": "int64"},
        ],
    });
    let metadata = [("pandas".to_owned(), described.to_string())].into();
    let schema = Arc::new(rows.schema().as_ref().clone().with_metadata(metadata));
    let (schema, batches) =
        without_index(&schema, vec![rows.with_schema(Arc::clone(&schema)).unwrap()]).unwrap();
    assert_eq!((schema.fields().len(), batches[0].num_columns()), (2, 2));
    let kept: serde_json::Value = serde_json::from_str(&schema.metadata()["pandas"]).unwrap();
    assert_eq!(kept["index_columns"], serde_json::json!([]));
    assert_eq!(
        kept["columns"],
        serde_json::json!([{"name": "driver_id", "numpy_type": "Int64"}])
    );
}
