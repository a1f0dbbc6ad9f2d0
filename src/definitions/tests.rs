#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use prost_reflect::DynamicMessage;
use serde_json::Value as Json;

use super::*;
use crate::model::{ObjectKind, object, on_demand::EXPRESSIONS_TAG};

const FEAST_YAML: &str = include_str!("tests/feast.yaml");
const FEAST_JSON: &str = include_str!("tests/feast.json");
const FLIGHTS_YAML: &str = include_str!("../cli/demo/flights/definitions.yaml");

/// The columns of the Parquet file that Feast looked at when it made `feast.json`.
fn weather() -> Schemas {
    let time = DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()));
    let list = |item| DataType::List(Arc::new(Field::new_list_field(item, true)));
    let field = |name: &str, data_type| Field::new(name, data_type, true);
    let schema = Schema::new(vec![
        field("origin", DataType::Utf8),
        field("event_timestamp", time.clone()),
        field("created", time),
        field("temp", DataType::Float64),
        field("cnt", DataType::Int64),
        field("name", DataType::Utf8),
        field("raw", DataType::Float64),
        field("flags", list(DataType::Boolean)),
        field("ids", list(DataType::Int64)),
    ]);
    Schemas::from([("weather".to_owned(), Arc::new(schema))])
}

fn build_with(text: &str, schemas: &Schemas) -> Result<Vec<Object>, Problems> {
    build::build("ref", &Definitions::from_text("d.yaml", text)?.document, schemas)
}

/// What is wrong with `text`, without schemas.
fn problems(text: &str) -> Vec<String> {
    let found = build_with(text, &Schemas::new()).err().unwrap_or_default();
    found.0.iter().map(ToString::to_string).collect()
}

#[test]
fn objects_are_those_that_feast_registers() {
    let built = build_with(FEAST_YAML, &weather()).unwrap();
    let expected: Json = serde_json::from_str(FEAST_JSON).unwrap();
    for (kind, objects) in expected.as_object().unwrap() {
        let kind = ObjectKind::ALL
            .into_iter()
            .find(|known| syntax::kind_name(*known) == kind)
            .unwrap();
        let mut ours: Vec<&Object> = built.iter().filter(|object| object.kind == kind).collect();
        ours.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(ours.len(), objects.as_array().unwrap().len(), "{kind:?}");
        for (ours, theirs) in ours.into_iter().zip(objects.as_array().unwrap()) {
            let mut ours = ours.to_json().unwrap();
            if kind == ObjectKind::OnDemandFeatureView {
                let spec = ours.get_mut("spec").unwrap().as_object_mut().unwrap();
                assert!(spec.remove("featureTransformation").is_some());
                spec.get_mut("tags")
                    .unwrap()
                    .as_object_mut()
                    .unwrap()
                    .remove(EXPRESSIONS_TAG)
                    .unwrap();
            }
            assert_eq!(&ours, theirs);
        }
    }
}

#[test]
fn the_demo_project_builds() {
    let built = build_with(FLIGHTS_YAML, &Schemas::new()).unwrap();
    assert!(
        built
            .iter()
            .any(|object| object.kind == ObjectKind::FeatureService)
    );
    let weather = built
        .iter()
        .find(|o| o.kind == ObjectKind::FeatureView && o.name == "weather")
        .unwrap();
    assert_eq!(
        weather.to_json().unwrap()["spec"]["tags"][SCHEDULE_TAG],
        "every 10m"
    );
}

#[test]
fn what_is_exported_comes_back_equal() {
    for (name, text) in [("feast", FEAST_YAML), ("flights", FLIGHTS_YAML)] {
        let built =
            build_with(text, &weather()).unwrap_or_else(|_| build_with(text, &Schemas::new()).unwrap());
        let exported = export("ref", &built).unwrap();
        assert!(!exported.contains("proto:"), "{name}: {exported}");
        let again = build_with(&exported, &Schemas::new()).unwrap();
        assert_eq!(built.len(), again.len());
        for (before, after) in built.iter().zip(&again) {
            assert_eq!(before.to_json().unwrap(), after.to_json().unwrap(), "{name}");
        }
    }
}

#[test]
fn services_say_what_of_them_is_logged() {
    let text = "\
entities: [{name: airport, join_key: origin, value_type: String}]
data_sources: [{name: weather, type: file, path: x, timestamp_field: t}]
feature_views:
  - {name: v, entities: [airport], source: weather, schema: [{name: x, type: Float64}]}
feature_services:
  - name: some
    features: [v]
    logging: {path: logs/some, sample_rate: 0.1, partition_by: [__log_date]}
  - {name: all, features: [v], logging: {path: logs/all}}
";
    let built = build_with(text, &Schemas::new()).unwrap();
    let logging = |name: &str| {
        let service = built.iter().find(|object| object.name == name).unwrap();
        service.to_json().unwrap()["spec"]["loggingConfig"].clone()
    };
    let file = serde_json::json!({"path": "logs/some", "partitionBy": ["__log_date"]});
    assert_eq!(logging("some")["fileDestination"], file);
    let rate: f32 = serde_json::from_value(logging("some")["sampleRate"].clone()).unwrap();
    assert_eq!(rate.to_string(), "0.1");
    assert_eq!(logging("all")["sampleRate"], 1.0);
    let exported = export("ref", &built).unwrap();
    assert!(!exported.contains("proto:"), "{exported}");
    let again = build_with(&exported, &Schemas::new()).unwrap();
    for (before, after) in built.iter().zip(&again) {
        assert_eq!(before.to_json().unwrap(), after.to_json().unwrap());
    }
    let found = problems(&text.replace("0.1, partition_by", "2, partition"));
    assert_eq!(
        found,
        [
            "d.yaml:8: `sample_rate`: logging: a number from 0 to 1 is wanted here, not `2`",
            "d.yaml:8: `partition`: unknown key in this logging (did you mean `partition_by`?)",
        ]
    );
    let found = problems(&text.replace("path: logs/all", "sample_rate: 0"));
    assert_eq!(found, ["d.yaml:9: logging without `path`"]);
}

/// A registry as the SDK makes it, with what no section can express.
fn foreign() -> Vec<Object> {
    let mut objects = build_with(FEAST_YAML, &weather()).unwrap();
    let mut add = |kind: ObjectKind, name: &str, json: &str| {
        let json: Json = serde_json::from_str(json).unwrap();
        let message: DynamicMessage = object::dynamic_from_json(kind.message_name(), &json).unwrap();
        let bytes = prost::Message::encode_to_vec(&message).into();
        objects.push(Object {
            kind,
            project: "ref".into(),
            name: name.into(),
            bytes,
        });
    };
    add(
        ObjectKind::DataSource,
        "stream",
        r#"{"name": "stream", "project": "ref", "type": "STREAM_KAFKA", "timestampField": "t",
            "kafkaOptions": {"kafkaBootstrapServers": "k:9092", "topic": "x"},
            "batchSource": {"name": "weather", "type": "BATCH_FILE", "fileOptions": {"uri": "w"}},
            "meta": {"createdTimestamp": "2024-01-01T00:00:00Z"}}"#,
    );
    add(
        ObjectKind::OnDemandFeatureView,
        "python",
        r#"{"spec": {"name": "python", "project": "ref", "features": [{"name": "x", "valueType": "DOUBLE"}],
            "mode": "pandas", "featureTransformation": {"userDefinedFunction":
            {"name": "f", "body": "gASVAA==", "bodyText": "def f(df): return df\n"}}},
            "meta": {"currentVersionNumber": 3}}"#,
    );
    add(
        ObjectKind::FeatureView,
        "orphan",
        r#"{"spec": {"name": "orphan", "project": "ref", "entities": ["gone"], "ttl": "5s", "online": true,
            "features": [{"name": "y", "valueType": "INT64"}],
            "batchSource": {"name": "inline", "type": "BATCH_FILE", "fileOptions": {"uri": "i"}}}}"#,
    );
    add(
        ObjectKind::FeatureService,
        "mixed",
        r#"{"spec": {"name": "mixed", "project": "ref", "features": [
            {"featureViewName": "python", "featureColumns": [{"name": "x", "valueType": "DOUBLE"}], "viewType": "featureView"},
            {"featureViewName": "gone", "featureColumns": [{"name": "z", "valueType": "INT32"}], "viewType": "featureView"}],
            "loggingConfig": {"sampleRate": 0.5, "redshiftDestination": {"tableName": "logs"}}}}"#,
    );
    objects
}

#[test]
fn what_no_section_can_express_travels_as_proto() {
    let objects = foreign();
    let exported = export("ref", &objects).unwrap();
    let file = yaml::parse(&exported).unwrap();
    let Some(yaml::Value::List(escaped)) = file.get("proto").map(|node| &node.value) else {
        unreachable!()
    };
    assert_eq!(
        escaped.len(),
        4,
        "only what has no section of its own:\n{exported}"
    );
    let again = build_with(&exported, &Schemas::new()).unwrap();
    for before in &objects {
        let after = again
            .iter()
            .find(|after| (after.kind, &after.name) == (before.kind, &before.name))
            .unwrap();
        let mut expected = before.to_json().unwrap();
        expected.as_object_mut().unwrap().remove("meta");
        assert_eq!(expected, after.to_json().unwrap(), "{}", before.name);
    }
    assert_eq!(
        export("ref", &again).unwrap(),
        exported,
        "a second export is the same text"
    );
}

#[test]
fn every_problem_has_its_place() {
    let text = "\
entities:
  - {name: airport, join_kye: origin}
  - {name: Airport}
data_sources:
  - {name: weather, type: fle, path: x}
  - {name: planes, type: file}
  - {name: push, type: push, batch_source: nope}
feature_views:
  - {name: a, entities: [airprt], source: weathr, schema: [{name: x, type: Flot64}]}
  - {name: 'b:c', source: planes}
  - {name: d, source: planes, ttl: soon, schedule: hourly, online: perhaps}
feature_service: []
";
    let read = Definitions::from_text("d.yaml", text).unwrap_err();
    let found: Vec<String> = read.0.iter().map(ToString::to_string).collect();
    let expected = [
        "d.yaml:2: `join_kye`: unknown key in this entity (did you mean `join_key`?)",
        "d.yaml:5: `type`: data source: `fle` is not known (did you mean `file`?)",
        "d.yaml:6: data source without `path`",
        "d.yaml:9: `type`: there is no type `Flot64` (did you mean `Float64`?)",
        "d.yaml:10: feature view name `b:c` must not contain `@` or `:`",
        "d.yaml:11: `ttl`: feature view: a span of time such as `2h` is wanted here, not `soon`",
        "d.yaml:11: `schedule`: `hourly` is neither `every 10m` nor a cron expression",
        "d.yaml:11: `online`: feature view: `true` or `false` is wanted here, not `perhaps`",
        "d.yaml:12: `feature_service`: unknown key in this definition file (did you mean `feature_services`?)",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}\n{expected}");
    }
}

#[test]
fn names_must_lead_somewhere() {
    let text = "\
entities:
  - {name: airport, join_key: origin, value_type: String}
  - {name: AIRPORT}
data_sources:
  - {name: weather, type: file, path: x, timestamp_field: t}
  - {name: push, type: push, batch_source: wether}
feature_views:
  - {name: a, entities: [airprt], source: weather, schema: [{name: x, type: Float64}]}
  - {name: b, entities: [airport], source: push, schema: [{name: x, type: Float64}]}
  - {name: c, entities: [airport], source: weather, schema: [{name: x, type: Float64}, {name: origin, type: Int64}]}
on_demand_feature_views:
  - {name: o, sources: [a, c], schema: [{name: z, type: Float64}], expressions: {z: x}}
  - {name: p, sources: [c], schema: [{name: z, type: Float64}], expressions: {z: y + 1}}
feature_services:
  - {name: s, features: [a, {view: c, features: [X]}, d]}
permissions:
  - {name: q, actions: [READ], policy: {roles: [r]}}
";
    let read: Vec<String> = problems(text);
    assert_eq!(
        read,
        [
            "d.yaml:17: `actions`: permission: `READ` is not known (known here: CREATE, DESCRIBE, UPDATE, DELETE, READ_ONLINE, READ_OFFLINE, WRITE_ONLINE, WRITE_OFFLINE)",
            "d.yaml:17: permission without `actions` (for example READ_ONLINE)"
        ]
    );
    let found = problems(&text.replace("[READ]", "[DESCRIBE]"));
    let expected = [
        "d.yaml:3: entity `AIRPORT` is defined twice, in another case (`airport` is defined at d.yaml:2)",
        "d.yaml:6: push source `push`: there is no data source `wether` (did you mean `weather`?)",
        "d.yaml:8: feature view `a`: there is no entity `airprt` (did you mean `airport`?)",
        "d.yaml:10: feature view `c`: join key `origin` is Int64, entity `airport` says String",
        "d.yaml:13: `expressions`: on demand feature view `p`: expression `y + 1` does not compile",
        "d.yaml:15: feature service `s`: feature view `c` has no feature `X` (did you mean `x`?)",
        "d.yaml:15: feature service `s`: there is no feature view `d`",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}\n{expected}");
    }
}

#[test]
fn sources_are_held_against_their_files() {
    let text = "\
entities: [{name: airport, join_key: orign}]
data_sources:
  - {name: weather, type: file, path: x, timestamp_field: event_time, field_mapping: {row: raw}}
";
    let found = build_with(text, &weather()).unwrap_err().to_string();
    assert!(
        found.contains(
            "d.yaml:3: `timestamp_field`: data source `weather`: its file has no column `event_time`"
        ),
        "{found}"
    );
    assert!(
        found.contains("d.yaml:3: `field_mapping`: data source `weather`: its file has no column `row`"),
        "{found}"
    );
    let text = "\
entities: [{name: airport, join_key: orign}]
data_sources:
  - {name: weather, type: file, path: x, timestamp_field: event_timestamp}
feature_views:
  - {name: v, entities: [airport], source: weather, schema: [{name: tmp, type: Float64}]}
";
    let found = build_with(text, &weather()).unwrap_err().to_string();
    assert!(
        found.contains(
            "d.yaml:5: feature view `v`: data source `weather` has no column `tmp` (did you mean `temp`?)"
        ),
        "{found}"
    );
    assert!(
        found.contains("has no column `orign`, the join key of entity `airport` (did you mean `origin`?)"),
        "{found}"
    );
    let unnamed = "data_sources: [{name: weather, type: file, path: x}]\n";
    let found = build_with(unnamed, &weather()).unwrap_err().to_string();
    assert!(
        found.contains("its file has several timestamps: event_timestamp, created"),
        "{found}"
    );
}

#[tokio::test]
async fn a_folder_is_read_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("feature_store.yaml", "project: ref\nregistry: r.db\n");
    write("b.yml", "entities: [{name: b}]\n");
    write("sub/a.yaml", "entities: [{name: a}]\n");
    write(".hidden/x.yaml", "nonsense: [");
    write("node_modules/x.yaml", "nonsense: [");
    write("skipped/x.yaml", "nonsense: [");
    write(".feastignore", "skipped/ # a folder\n");
    write("__init__.py", "");
    let sources = crate::config::Sources {
        chdir: Some(dir.path().to_path_buf()),
        ..Default::default()
    };
    let config = Config::load(&sources).unwrap();
    assert!(
        !Definitions::read(&config).unwrap().has_python,
        "an empty module defines nothing"
    );
    write("features.py", "from feast import Entity");
    let read = Definitions::read(&config).unwrap();
    assert_eq!((read.files, read.has_python), (2, true));
    assert!(read.nothing_defined().is_none());
    write("c.yaml", "entities: [{name: c}]\nbroken");
    let error = Definitions::read(&config).unwrap_err();
    assert!(error.message().starts_with("c.yaml:"), "{error}");
    for name in ["b.yml", "c.yaml", "sub/a.yaml"] {
        std::fs::remove_file(dir.path().join(name)).unwrap();
    }
    let nothing = Definitions::read(&config).unwrap().nothing_defined().unwrap();
    assert!(nothing.hint_text().unwrap().contains("feast apply"), "{nothing}");
}
