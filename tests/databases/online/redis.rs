//! Redis as an online store: alone, and as a cluster.

use std::env;

use bytes::Bytes;
use prost::Message as _;
use serde_json::Value as Json;
use thali::{
    error::Kind,
    model::{ValueType, entity_key::redis_field_hash, value::Value},
    online::store::{OlderRow, Table, WriteBatch},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    conformance::{
        HOUR, TEN, all_keys, columns, conformance, group, key, keyed_view, pair, read, rows, texts, view,
    },
    home::Home,
};

fn address(variable: &str) -> String {
    let Ok(address) = env::var(variable) else {
        panic!("`{variable}` is not set: `make test` starts the servers these tests need");
    };
    address
}

fn home_with(more: &str) -> Home {
    let address = address("THALI_TEST_REDIS");
    Home::new(&format!("type: redis\nconnection_string: \"{address}\"\n{more}"))
}

async fn home() -> Home {
    home_with("")
}

mod alone {
    super::conformance!(super::home);
}

mod cluster {
    use super::{Home, address};

    async fn home() -> Home {
        // One node is enough to find the others.
        let nodes = address("THALI_TEST_REDIS_CLUSTER");
        let (first, _) = nodes.split_once(',').unwrap();
        Home::new(&format!(
            "type: redis\nredis_type: redis_cluster\nconnection_string: \"{first}\""
        ))
    }

    super::conformance!(home);
}

/// Another client of the server, which says one command at a time.
struct Client(TcpStream);

impl Client {
    async fn new() -> Self {
        Self(TcpStream::connect(address("THALI_TEST_REDIS")).await.unwrap())
    }

    /// The bytes of the answer: all that comes until the server answers the ping behind the command.
    async fn say(&mut self, words: &[&[u8]]) -> Vec<u8> {
        let mut command = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            command.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            command.extend_from_slice(word);
            command.extend_from_slice(b"\r\n");
        }
        command.extend_from_slice(b"*2\r\n$4\r\nPING\r\n$9\r\nthat's it\r\n");
        self.0.write_all(&command).await.unwrap();
        let end = b"$9\r\nthat's it\r\n";
        let mut answer = Vec::new();
        while !answer.ends_with(end) {
            assert!(self.0.read_buf(&mut answer).await.unwrap() > 0);
        }
        answer.truncate(answer.len() - end.len());
        answer
    }
}

fn redis_key(key: &Bytes, project: &str) -> Vec<u8> {
    [key, project.as_bytes()].concat()
}

fn unhex(text: &Json) -> Bytes {
    hex::decode(text.as_str().unwrap()).unwrap().into()
}

/// What Feast stored, by its own record: `(entity key, view, features with values, encoded time, time)`.
struct Recorded {
    key: Bytes,
    view: String,
    values: Vec<(String, Bytes)>,
    encoded_time: Bytes,
    time: i64,
}

fn recorded() -> Vec<Recorded> {
    let dump: Json = serde_json::from_str(include_str!("../../wire/redis.json")).unwrap();
    let mut found = Vec::new();
    for entity in dump["keys"].as_array().unwrap() {
        let key = unhex(&entity["key_hex"]);
        let project = entity["project"].as_str().unwrap();
        let key = key.slice(..key.len() - project.len());
        let fields = entity["fields"].as_array().unwrap();
        for field in fields {
            let Some(view) = field["field_ascii"]
                .as_str()
                .and_then(|name| name.strip_prefix("_ts:"))
            else {
                continue;
            };
            let of_view = fields.iter().filter_map(|field| {
                let feature = field["feature"].as_str()?.strip_prefix(view)?.strip_prefix(':')?;
                assert_eq!(unhex(&field["field_hex"]), &redis_field_hash(view, feature)[..]);
                Some((feature.to_owned(), unhex(&field["value_hex"])))
            });
            let time = chrono::DateTime::parse_from_rfc3339(field["timestamp"].as_str().unwrap()).unwrap();
            found.push(Recorded {
                key: key.clone(),
                view: view.to_owned(),
                values: of_view.collect(),
                encoded_time: unhex(&field["value_hex"]),
                time: time.timestamp_micros(),
            });
        }
    }
    assert!(found.len() > 5);
    found
}

#[tokio::test]
async fn rows_that_feast_wrote_are_read() {
    let home = home().await;
    let store = home.open().await;
    let mut client = Client::new().await;
    for row in recorded() {
        let key = redis_key(&row.key, &home.project);
        let time_field = format!("_ts:{}", row.view);
        let hashes: Vec<[u8; 4]> = row
            .values
            .iter()
            .map(|(feature, _)| redis_field_hash(&row.view, feature))
            .collect();
        let mut command: Vec<&[u8]> = vec![b"HSET", &key, time_field.as_bytes(), &row.encoded_time];
        for (hash, (_, value)) in hashes.iter().zip(&row.values) {
            command.extend([&hash[..], value]);
        }
        client.say(&command).await;
    }
    for row in recorded() {
        let features: Vec<(&str, ValueType)> = row
            .values
            .iter()
            .map(|(name, _)| (name.as_str(), ValueType::Unknown))
            .collect();
        let names: Vec<&str> = features.iter().map(|(name, _)| *name).collect();
        let groups = [group(
            std::slice::from_ref(&row.key),
            vec![columns(&view(&row.view, &features), &names)],
        )];
        let batch = read(&*store, &home.project, &groups).await.remove(0);
        assert_eq!(batch.event_times, [Some(row.time)]);
        let values: Vec<Bytes> = batch.values().into_iter().flatten().collect();
        let expected: Vec<Bytes> = row.values.into_iter().map(|(_, value)| value).collect();
        assert_eq!(values, expected);
    }
}

#[tokio::test]
async fn rows_are_written_byte_by_byte_as_feast_writes_them() {
    let home = home().await;
    let store = home.open().await;
    let mut client = Client::new().await;
    for row in recorded() {
        let batch = WriteBatch {
            features: row.values.iter().map(|(name, _)| name.clone()).collect(),
            keys: vec![row.key.clone()],
            event_times: vec![row.time],
            created_times: Vec::new(),
            values: row.values.iter().map(|(_, value)| value.clone()).collect(),
        };
        let table = Table::of(&view(&row.view, &[]));
        let written = store.write(&home.project, &table, &batch, OlderRow::Skip).await;
        assert_eq!(written.unwrap(), 1);
    }
    for row in recorded() {
        let key = redis_key(&row.key, &home.project);
        let bulk = |bytes: &[u8]| [format!("${}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
        for (feature, value) in &row.values {
            let field = redis_field_hash(&row.view, feature);
            assert_eq!(client.say(&[b"HGET", &key, &field]).await, bulk(value));
        }
        let time_field = format!("_ts:{}", row.view);
        let stored = client.say(&[b"HGET", &key, time_field.as_bytes()]).await;
        assert_eq!(stored, bulk(&row.encoded_time));
        assert_eq!(client.say(&[b"TTL", &key]).await, b":-1\r\n");
    }
    // No field beside these.
    let mut keys: Vec<Bytes> = recorded().into_iter().map(|row| row.key).collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        let rows: Vec<_> = recorded().into_iter().filter(|row| row.key == key).collect();
        let fields: usize = rows.iter().map(|row| row.values.len() + 1).sum();
        let stored = client.say(&[b"HLEN", &redis_key(&key, &home.project)]).await;
        assert_eq!(stored, format!(":{fields}\r\n").into_bytes());
    }
}

#[tokio::test]
async fn wide_rows_are_read_whole_and_come_out_the_same() {
    let home = home().await;
    let store = home.open().await;
    let names: Vec<String> = (0..260).map(|number| format!("f{number}")).collect();
    let features: Vec<&str> = names.iter().map(String::as_str).collect();
    let v = view(
        "wide",
        &features
            .iter()
            .map(|name| (*name, ValueType::String))
            .collect::<Vec<_>>(),
    );
    let other = pair("other");
    let entities: Vec<Bytes> = (0..5).map(|number| key(&number.to_string())).collect();
    for (number, entity) in entities.iter().enumerate().skip(1) {
        let values: Vec<String> = names.iter().map(|name| format!("{name} {number}")).collect();
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        let batch = rows(&features, &[(entity.clone(), TEN, &values)]);
        store
            .write(&home.project, &Table::of(&v), &batch, OlderRow::Skip)
            .await
            .unwrap();
        let batch = rows(&["a", "b"], &[(entity.clone(), TEN + HOUR, &["x", "y"])]);
        store
            .write(&home.project, &Table::of(&other), &batch, OlderRow::Skip)
            .await
            .unwrap();
    }
    let mut client = Client::new().await;
    let before = calls(&client.say(&[b"INFO", b"commandstats"]).await, "hgetall");
    // The first request finds out how large the hashes are; entity 0 does not exist and says nothing.
    let wanted: Vec<&str> = features.iter().rev().copied().collect();
    let groups = [group(
        &entities,
        vec![columns(&v, &wanted), columns(&other, &["b"])],
    )];
    let first = read(&*store, &home.project, &groups).await;
    assert_eq!(first[0].event_times[0], None);
    let groups = [group(
        &entities[1..],
        vec![columns(&v, &wanted), columns(&other, &["b"])],
    )];
    let asked = read(&*store, &home.project, &groups).await;
    for _ in 0..3 {
        assert_eq!(read(&*store, &home.project, &groups).await, asked);
    }
    assert_eq!(asked[0].values(), first[0].values()[260..]);
    assert_eq!(asked[1].event_times, [Some(TEN + HOUR); 4]);
    let value = |bytes: &Option<Bytes>| Value::decode(bytes.clone().unwrap()).unwrap();
    assert_eq!(value(&asked[0].values()[0]), super::conformance::text("f259 1"));
    // Other tests may read whole hashes too, so there are at least these.
    let after = calls(&client.say(&[b"INFO", b"commandstats"]).await, "hgetall");
    assert_eq!(
        client
            .say(&[b"OBJECT", b"ENCODING", &redis_key(&entities[1], &home.project)])
            .await,
        b"$8\r\nlistpack\r\n"
    );
    assert!(after >= before + 12, "{before} {after}");
}

/// How often the server was given a command.
fn calls(info: &[u8], command: &str) -> u64 {
    let info = String::from_utf8_lossy(info);
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn an_entity_two_groups_ask_for_is_read_once() {
    let home = home().await;
    let store = home.open().await;
    let v = pair("v");
    let batch = rows(
        &["a", "b"],
        &[(key("1"), TEN, &["a1", "b1"]), (key("2"), TEN, &["a2", "b2"])],
    );
    store
        .write(&home.project, &Table::of(&v), &batch, OlderRow::Skip)
        .await
        .unwrap();
    let groups = [
        group(&[key("1"), key("2")], vec![columns(&v, &["a"])]),
        group(&[key("3"), key("1")], vec![columns(&v, &["b", "a"])]),
    ];
    let batches = read(&*store, &home.project, &groups).await;
    let text = |text: &str| Some(super::conformance::encoded(text));
    assert_eq!(batches[0].values(), [text("a1"), text("a2")]);
    assert_eq!(batches[1].values(), [None, None, text("b1"), text("a1")]);
    assert_eq!(batches[1].event_times, [None, Some(TEN)]);
}

#[tokio::test]
async fn entities_are_kept_for_as_long_as_wanted_after_a_write() {
    let home = home_with("key_ttl_seconds: 1000");
    let store = home.open().await;
    let v = pair("v");
    let mut client = Client::new().await;
    let entity = redis_key(&key("1"), &home.project);
    let mut write = async |time| {
        let batch = rows(&["a", "b"], &[(key("1"), time, &["a", "b"])]);
        let table = Table::of(&v);
        let written = store
            .write(&home.project, &table, &batch, OlderRow::Skip)
            .await
            .unwrap();
        let ttl = client.say(&[b"TTL", &entity]).await;
        client.say(&[b"EXPIRE", &entity, b"500"]).await;
        (written, String::from_utf8(ttl).unwrap())
    };
    assert_eq!(write(TEN).await, (1, ":1000\r\n".to_owned()));
    // A row that is skipped does not lengthen its life.
    assert_eq!(write(TEN - HOUR).await, (0, ":500\r\n".to_owned()));
    assert_eq!(write(TEN).await, (1, ":1000\r\n".to_owned()));
}

#[tokio::test]
async fn event_times_of_any_size_are_compared() {
    let home = home().await;
    let store = home.open().await;
    let v = pair("v");
    let times = [
        -62_135_596_800_000_000,
        -TEN,
        -1_000_001,
        -1_000_000,
        -1,
        0,
        1,
        999_999,
        TEN,
        TEN + 1,
        253_402_300_799_999_999,
    ];
    for (number, time) in times.iter().enumerate() {
        for (other, expected) in times
            .iter()
            .enumerate()
            .map(|(place, other)| (other, u64::from(place >= number)))
        {
            let entity = key(&format!("{time} {other}"));
            let write = async |time: i64| {
                let batch = rows(&["a", "b"], &[(entity.clone(), time, &["a", "b"])]);
                store
                    .write(&home.project, &Table::of(&v), &batch, OlderRow::Skip)
                    .await
                    .unwrap()
            };
            assert_eq!(write(*time).await, 1);
            assert_eq!(write(*other).await, expected, "{other} after {time}");
            let stored = texts(&*store, &home.project, &v, std::slice::from_ref(&entity), &["a"]).await;
            assert_eq!(stored[0].0, Some(*time.max(other)));
        }
    }
}

#[tokio::test]
async fn without_comparing_the_last_row_stays_whatever_its_time() {
    let home = home_with("skip_dedup: true");
    let store = home.open().await;
    let v = pair("v");
    for (time, value) in [(TEN, "new"), (TEN - HOUR, "old")] {
        let batch = rows(&["a", "b"], &[(key("1"), time, &[value, value])]);
        let table = Table::of(&v);
        assert_eq!(
            store
                .write(&home.project, &table, &batch, OlderRow::Skip)
                .await
                .unwrap(),
            1
        );
    }
    let stored = texts(&*store, &home.project, &v, &[key("1")], &["a"]).await;
    assert_eq!(stored, [(Some(TEN - HOUR), vec![Some("old".to_owned())])]);
}

#[tokio::test]
async fn a_dropped_view_stays_where_nothing_is_scanned() {
    let home = home_with("full_scan_for_deletion: false");
    let store = home.open().await;
    let v = pair("v");
    let table = Table::of(&v);
    let batch = rows(&["a", "b"], &[(key("1"), TEN, &["a", "b"])]);
    store
        .write(&home.project, &table, &batch, OlderRow::Skip)
        .await
        .unwrap();
    store
        .provision(&home.project, &[], std::slice::from_ref(&table))
        .await
        .unwrap();
    assert_eq!(store.count(&home.project, &table).await.unwrap(), 1);
    // To empty it is to say so.
    store.truncate(&home.project, &table).await.unwrap();
    assert_eq!(store.count(&home.project, &table).await.unwrap(), 0);
}

#[tokio::test]
async fn an_entity_goes_with_its_last_row() {
    let home = home().await;
    let store = home.open().await;
    let [v, w] = [pair("v"), pair("w")];
    let mut client = Client::new().await;
    let entity = redis_key(&key("1"), &home.project);
    for view in [&v, &w] {
        let batch = rows(&["a", "b"], &[(key("1"), TEN, &["a", "b"])]);
        store
            .write(&home.project, &Table::of(view), &batch, OlderRow::Skip)
            .await
            .unwrap();
    }
    assert_eq!(client.say(&[b"HLEN", &entity]).await, b":6\r\n");
    store
        .delete(&home.project, &Table::of(&v), &[key("1")])
        .await
        .unwrap();
    assert_eq!(client.say(&[b"HLEN", &entity]).await, b":3\r\n");
    store
        .delete(&home.project, &Table::of(&w), &[key("1")])
        .await
        .unwrap();
    assert_eq!(client.say(&[b"EXISTS", &entity]).await, b":0\r\n");
}

#[tokio::test]
async fn scripts_that_the_server_forgot_are_sent_again() {
    let home = home().await;
    let store = home.open().await;
    let v = pair("v");
    let mut client = Client::new().await;
    for number in 0..3 {
        client.say(&[b"SCRIPT", b"FLUSH"]).await;
        let ids: Vec<String> = (0..3).map(|id| format!("{number} {id}")).collect();
        let written: Vec<_> = ids.iter().map(|id| (key(id), TEN, &["a", "b"][..])).collect();
        let batch = rows(&["a", "b"], &written);
        let table = Table::of(&v);
        assert_eq!(
            store
                .write(&home.project, &table, &batch, OlderRow::Skip)
                .await
                .unwrap(),
            3
        );
    }
    // Called by its name as soon as it is known.
    let before = calls(&client.say(&[b"INFO", b"commandstats"]).await, "evalsha");
    assert!(before > 0);
}

#[tokio::test]
async fn what_feast_wrote_with_other_keys_is_left_alone() {
    let home = home().await;
    let store = home.open().await;
    let mut client = Client::new().await;
    let v = pair("v");
    // The same join key, and one more: its keys begin otherwise. And something that is no entity at all.
    let two = keyed_view("v", &["id", "je"], &[("a", ValueType::String)]);
    let batch = rows(&["a", "b"], &[(key("1"), TEN, &["a", "b"])]);
    store
        .write(&home.project, &Table::of(&v), &batch, OlderRow::Skip)
        .await
        .unwrap();
    let foreign = [&key("1")[..], b"junk", home.project.as_bytes()].concat();
    client.say(&[b"HSET", &foreign, b"_ts:v", b""]).await;
    assert_eq!(store.count(&home.project, &Table::of(&v)).await.unwrap(), 1);
    store.truncate(&home.project, &Table::of(&two)).await.unwrap();
    assert_eq!(all_keys(&*store, &home.project, &Table::of(&v)).await.len(), 1);
    store.truncate(&home.project, &Table::of(&v)).await.unwrap();
    assert_eq!(client.say(&[b"EXISTS", &foreign]).await, b":1\r\n");
    client.say(&[b"DEL", &foreign]).await;
}

#[tokio::test]
async fn a_batch_that_fails_tells_which_rows() {
    let home = home().await;
    let store = home.open().await;
    let mut client = Client::new().await;
    let v = pair("v");
    client
        .say(&[b"SET", &redis_key(&key("2"), &home.project), b"no hash"])
        .await;
    let written: Vec<_> = ["1", "2", "3"]
        .iter()
        .map(|id| (key(id), TEN, &["a", "b"][..]))
        .collect();
    let batch = rows(&["a", "b"], &written);
    let failed = store
        .write(&home.project, &Table::of(&v), &batch, OlderRow::Skip)
        .await;
    let error = failed.unwrap_err();
    assert!(
        error.message().contains("of 3 rows, 1 were not written"),
        "{error}"
    );
    let stored = texts(&*store, &home.project, &v, &[key("1"), key("3")], &["a"]).await;
    assert!(stored.iter().all(|(time, _)| *time == Some(TEN)));
}

#[tokio::test]
async fn a_server_that_is_away_is_said_to_be_so() {
    let home = Home::new("type: redis\nconnection_string: \"127.0.0.1:1,password=s3cret\"");
    let store = home.open().await;
    let v = pair("v");
    let groups = [group(&[key("1")], vec![columns(&v, &["a"])])];
    let read = thali::online::store::OnlineRead {
        project: "p",
        groups: &groups,
    };
    let batch = rows(&["a", "b"], &[(key("1"), TEN, &["a", "b"])]);
    let table = Table::of(&v);
    let errors = [
        store.read(&read).await.unwrap_err(),
        store
            .write("p", &table, &batch, OlderRow::Skip)
            .await
            .unwrap_err(),
        store.count("p", &table).await.unwrap_err(),
        store.check().await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), Kind::Unavailable);
        assert!(error.message().contains("`127.0.0.1:1`"), "{error}");
        assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
    }
}
