//! What every online store does, seen through its public contract: one suite for all of them.
//!
//! `conformance!(home)` makes a test of each function here; a store that cannot do all of it names those it
//! can. `home` answers a [`Home`] of its own for each test.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use futures::future::join_all;
use prost::Message as _;
use thali::{
    model::{
        FeatureView, Field, ObjectKind, ValueType, entity_key,
        value::{Value, value_type},
    },
    online::store::{KeyGroup, OlderRow, OnlineRead, OnlineStore, RowBatch, Table, ViewColumns, WriteBatch},
    proto::feast::types::value::Val as Kind,
};

use super::home::Home;

/// 2026-11-21T10:00:00Z in microseconds.
pub(crate) const TEN: i64 = 1_795_255_200_000_000;
pub(crate) const HOUR: i64 = 3_600_000_000;

/// The same tests for a store: `conformance!(home)` for all of them, with `async fn home() -> Home`.
macro_rules! conformance {
    ($home:path) => {
        crate::online::conformance::conformance!(
            $home;
            values_of_every_type_come_back,
            nulls_unknown_entities_and_unknown_features,
            one_read_of_several_groups_and_views,
            a_view_that_was_never_prepared_has_no_rows,
            the_newest_of_a_key_that_comes_twice_counts,
            rows_never_go_back_in_event_time,
            views_are_prepared_and_dropped_as_often_as_wanted,
            rows_are_deleted_by_their_keys,
            rows_are_counted_and_truncated,
            keys_are_listed_page_by_page,
            projects_whose_names_end_alike_do_not_touch,
            keys_that_look_like_patterns,
            five_thousand_keys_in_one_request,
            the_newest_of_many_writers_stays,
            no_value_turns_up_elsewhere,
            odd_names,
        );
    };
    ($home:path; $($test:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                let home = $home().await;
                crate::online::conformance::$test(&home).await;
                home.remove().await;
            }
        )*
    };
}
pub(crate) use conformance;

/// A view of these features over the string join key `id`.
pub(crate) fn view(name: &str, features: &[(&str, ValueType)]) -> Arc<FeatureView> {
    keyed_view(name, &["id"], features)
}

pub(crate) fn keyed_view(name: &str, keys: &[&str], features: &[(&str, ValueType)]) -> Arc<FeatureView> {
    let field = |name: &str, value_type| Field {
        name: name.to_owned(),
        value_type,
        description: String::new(),
        tags: Default::default(),
        vector_index: false,
    };
    Arc::new(FeatureView {
        kind: ObjectKind::FeatureView,
        project: String::new(),
        name: name.to_owned(),
        entities: keys.iter().map(ToString::to_string).collect(),
        join_keys: keys.iter().map(|key| field(key, ValueType::String)).collect(),
        features: features.iter().map(|(name, kind)| field(name, *kind)).collect(),
        ttl: None,
        batch_source: None,
        stream_source: None,
        online: true,
        offline: false,
        enabled: true,
        state: Default::default(),
        tags: Default::default(),
        description: String::new(),
        owner: String::new(),
        intervals: Vec::new(),
        version: 0,
    })
}

/// A view with the string features `a` and `b`.
pub(crate) fn pair(name: &str) -> Arc<FeatureView> {
    view(name, &[("a", ValueType::String), ("b", ValueType::String)])
}

/// The store with the view `v` of a [`pair`] in it.
pub(crate) async fn with_pair(home: &Home) -> (Arc<dyn OnlineStore>, Arc<FeatureView>) {
    let (store, view) = (home.open().await, pair("v"));
    store
        .provision(&home.project, &[Arc::clone(&view)], &[])
        .await
        .unwrap();
    (store, view)
}

pub(crate) fn text(text: &str) -> Value {
    Kind::StringVal(text.to_owned()).into()
}

pub(crate) fn encoded(text_of: &str) -> Bytes {
    text(text_of).encode_to_vec().into()
}

/// The key of the entity `id`.
pub(crate) fn key(id: &str) -> Bytes {
    key_of("id", id)
}

pub(crate) fn key_of(name: &str, id: &str) -> Bytes {
    entity_key::serialize(&[(name, &text(id))], entity_key::Version::V3)
        .unwrap()
        .into()
}

/// Rows of one text feature after another: `(key, event time, values)`.
pub(crate) fn rows(features: &[&str], rows: &[(Bytes, i64, &[&str])]) -> WriteBatch {
    WriteBatch {
        features: features.iter().map(ToString::to_string).collect(),
        keys: rows.iter().map(|(key, ..)| key.clone()).collect(),
        event_times: rows.iter().map(|(_, time, _)| *time).collect(),
        created_times: Vec::new(),
        values: rows
            .iter()
            .flat_map(|(.., values)| values.iter().map(|value| encoded(value)))
            .collect(),
    }
}

/// One row of `a` and `b`.
fn row(id: &str, time: i64, a: &str, b: &str) -> WriteBatch {
    rows(&["a", "b"], &[(key(id), time, &[a, b])])
}

pub(crate) fn columns(view: &Arc<FeatureView>, features: &[&str]) -> ViewColumns {
    ViewColumns {
        table: Table::of(view),
        features: features.iter().map(ToString::to_string).collect(),
    }
}

pub(crate) fn group(keys: &[Bytes], views: Vec<ViewColumns>) -> KeyGroup {
    KeyGroup {
        keys: keys.to_vec(),
        views: views.into(),
    }
}

pub(crate) async fn read(store: &dyn OnlineStore, project: &str, groups: &[KeyGroup]) -> Vec<RowBatch> {
    store.read(&OnlineRead { project, groups }).await.unwrap()
}

/// The texts of one view, row by row, each with the row's event time.
pub(crate) async fn texts(
    store: &dyn OnlineStore,
    project: &str,
    view: &Arc<FeatureView>,
    keys: &[Bytes],
    features: &[&str],
) -> Vec<(Option<i64>, Vec<Option<String>>)> {
    let batches = read(store, project, &[group(keys, vec![columns(view, features)])]).await;
    assert_eq!(batches.len(), 1);
    let batch = &batches[0];
    assert!(batch.has_shape(keys.len(), features.len()));
    let value = |bytes: Option<&[u8]>| {
        let value = Value::decode(bytes?).unwrap();
        match value.val {
            Some(Kind::StringVal(text)) => Some(text),
            None => Some("null".to_owned()),
            other => panic!("{other:?}"),
        }
    };
    let row = |(row, time): (usize, &Option<i64>)| (*time, batch.row(row).map(value).collect());
    batch.event_times.iter().enumerate().map(row).collect()
}

fn present(time: i64, values: &[&str]) -> (Option<i64>, Vec<Option<String>>) {
    (
        Some(time),
        values.iter().map(|value| Some((*value).to_owned())).collect(),
    )
}

fn absent(width: usize) -> (Option<i64>, Vec<Option<String>>) {
    (None, vec![None; width])
}

async fn write(store: &dyn OnlineStore, project: &str, view: &Arc<FeatureView>, batch: &WriteBatch) -> u64 {
    store
        .write(project, &Table::of(view), batch, OlderRow::Skip)
        .await
        .unwrap()
}

pub(crate) async fn values_of_every_type_come_back(home: &Home) {
    let recorded: serde_json::Value =
        serde_json::from_str(include_str!("../../wire/value_types.json")).unwrap();
    let values: Vec<(String, Bytes)> = recorded["cases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|case| {
            let hex = case["value_proto_hex"].as_str().unwrap();
            let name = case["feature"].as_str().unwrap().to_owned();
            (name, Bytes::from(hex::decode(hex).unwrap()))
        })
        .collect();
    assert!(values.len() >= 29);
    let typed: Vec<(&str, ValueType)> = values
        .iter()
        .map(|(name, bytes)| (name.as_str(), value_type(&Value::decode(bytes.clone()).unwrap())))
        .collect();
    let names: Vec<&str> = typed.iter().map(|(name, _)| *name).collect();
    let view = view("types", &typed);
    let store = home.open().await;
    store
        .provision(&home.project, &[Arc::clone(&view)], &[])
        .await
        .unwrap();
    let time = TEN + 123_456;
    let batch = WriteBatch {
        features: names.iter().map(ToString::to_string).collect(),
        keys: vec![key("1")],
        event_times: vec![time],
        created_times: vec![Some(TEN)],
        values: values.iter().map(|(_, bytes)| bytes.clone()).collect(),
    };
    assert_eq!(write(&*store, &home.project, &view, &batch).await, 1);
    let groups = [group(&[key("1")], vec![columns(&view, &names)])];
    let batches = read(&*store, &home.project, &groups).await;
    assert_eq!(batches[0].event_times, [Some(time - time % home.precision)]);
    for ((name, bytes), stored) in values.iter().zip(&batches[0].values()) {
        let stored = Value::decode(stored.clone().unwrap()).unwrap();
        let written = Value::decode(bytes.clone()).unwrap();
        // As text, because NaN is not equal to itself.
        assert_eq!(format!("{stored:?}"), format!("{written:?}"), "{name}");
    }
}

pub(crate) async fn nulls_unknown_entities_and_unknown_features(home: &Home) {
    let (store, view) = with_pair(home).await;
    let batch = WriteBatch {
        features: vec!["b".to_owned()],
        keys: vec![key("1"), key("2")],
        event_times: vec![TEN, TEN + HOUR],
        created_times: Vec::new(),
        values: vec![Bytes::new(), encoded("two")],
    };
    assert_eq!(write(&*store, &home.project, &view, &batch).await, 2);
    let keys = [key("2"), key("9"), key("1"), key("")];
    assert_eq!(
        texts(&*store, &home.project, &view, &keys, &["a", "b"]).await,
        [
            (Some(TEN + HOUR), vec![None, Some("two".to_owned())]),
            absent(2),
            (Some(TEN), vec![None, Some("null".to_owned())]),
            absent(2),
        ]
    );
    assert_eq!(read(&*store, &home.project, &[]).await, []);
    let nobody = [group(&[], vec![columns(&view, &["a"])])];
    assert_eq!(
        read(&*store, &home.project, &nobody).await,
        [RowBatch::empty(0, 1)]
    );
    let empty = rows(&["a", "b"], &[]);
    assert_eq!(write(&*store, &home.project, &view, &empty).await, 0);
    store.check().await.unwrap();
}

pub(crate) async fn one_read_of_several_groups_and_views(home: &Home) {
    let store = home.open().await;
    let [v, w] = [pair("v"), pair("w")];
    let other = keyed_view("other", &["shop"], &[("a", ValueType::String)]);
    let views = [Arc::clone(&v), Arc::clone(&w), Arc::clone(&other)];
    store.provision(&home.project, &views, &[]).await.unwrap();
    write(&*store, &home.project, &v, &row("1", TEN, "v1a", "v1b")).await;
    write(&*store, &home.project, &v, &row("2", TEN, "v2a", "v2b")).await;
    write(&*store, &home.project, &w, &row("2", TEN + HOUR, "w2a", "w2b")).await;
    let shop = key_of("shop", "1");
    let of_shop = rows(&["a"], &[(shop.clone(), TEN, &["s1a"])]);
    write(&*store, &home.project, &other, &of_shop).await;
    let groups = [
        group(
            &[key("2"), key("1")],
            vec![columns(&w, &["b"]), columns(&v, &["b", "a"])],
        ),
        group(
            &[key_of("shop", "0"), shop.clone()],
            vec![columns(&other, &["a"])],
        ),
        // The same key in a second group, as two aliases of a view make it.
        group(&[key("2")], vec![columns(&v, &["a"]), columns(&w, &["a", "b"])]),
    ];
    let batches = read(&*store, &home.project, &groups).await;
    let some = |text: &str| Some(encoded(text));
    let batch = |width, event_times: &[Option<i64>], values: &[Option<Bytes>]| {
        RowBatch::of(width, event_times.to_vec(), values.iter().cloned())
    };
    assert_eq!(
        batches,
        [
            batch(1, &[Some(TEN + HOUR), None], &[some("w2b"), None]),
            batch(
                2,
                &[Some(TEN), Some(TEN)],
                &[some("v2b"), some("v2a"), some("v1b"), some("v1a")]
            ),
            batch(1, &[None, Some(TEN)], &[None, some("s1a")]),
            batch(1, &[Some(TEN)], &[some("v2a")]),
            batch(2, &[Some(TEN + HOUR)], &[some("w2a"), some("w2b")]),
        ]
    );
}

pub(crate) async fn a_view_that_was_never_prepared_has_no_rows(home: &Home) {
    let store = home.open().await;
    let [v, unknown] = [pair("v"), pair("unknown")];
    store
        .provision(&home.project, &[Arc::clone(&v)], &[])
        .await
        .unwrap();
    write(&*store, &home.project, &v, &row("1", TEN, "a", "b")).await;
    let both = vec![columns(&unknown, &["a"]), columns(&v, &["a"])];
    let batches = read(&*store, &home.project, &[group(&[key("1")], both)]).await;
    assert_eq!(batches[0], RowBatch::empty(1, 1));
    assert_eq!(batches[1].event_times, [Some(TEN)]);
}

pub(crate) async fn the_newest_of_a_key_that_comes_twice_counts(home: &Home) {
    let (store, v) = with_pair(home).await;
    let one = key("1");
    let mut batch = rows(
        &["a", "b"],
        &[
            (one.clone(), TEN, &["old", "old"]),
            (one.clone(), TEN + HOUR, &["corrected", "corrected"]),
            (one.clone(), TEN + HOUR, &["new", "new"]),
            (key("2"), TEN, &["two", "two"]),
            (one.clone(), TEN, &["late", "late"]),
        ],
    );
    let created = [TEN, TEN + HOUR, TEN, TEN, TEN].map(Some);
    batch.created_times = created.to_vec();
    assert_eq!(write(&*store, &home.project, &v, &batch).await, 2);
    assert_eq!(
        texts(&*store, &home.project, &v, &[one, key("2")], &["a", "b"]).await,
        [
            present(TEN + HOUR, &["corrected", "corrected"]),
            present(TEN, &["two", "two"])
        ]
    );
}

pub(crate) async fn rows_never_go_back_in_event_time(home: &Home) {
    let store = home.open().await;
    let v = pair("v");
    let project = &home.project;
    store.provision(project, &[Arc::clone(&v)], &[]).await.unwrap();
    let stored = async || texts(&*store, project, &v, &[key("1")], &["a", "b"]).await;
    assert_eq!(write(&*store, project, &v, &row("1", TEN, "1", "1")).await, 1);
    let older = row("1", TEN - HOUR, "0", "0");
    assert_eq!(write(&*store, project, &v, &older).await, 0);
    assert_eq!(stored().await, [present(TEN, &["1", "1"])]);
    // Of equal times the one written last stays: that is how a value is corrected.
    assert_eq!(write(&*store, project, &v, &row("1", TEN, "2", "2")).await, 1);
    assert_eq!(stored().await, [present(TEN, &["2", "2"])]);
    let newer = row("1", TEN + home.precision, "3", "3");
    assert_eq!(write(&*store, project, &v, &newer).await, 1);
    assert_eq!(stored().await, [present(TEN + home.precision, &["3", "3"])]);
    let mixed = rows(
        &["a", "b"],
        &[
            (key("1"), TEN - HOUR, &["0", "0"]),
            (key("2"), TEN - HOUR, &["other", "other"]),
        ],
    );
    assert_eq!(write(&*store, project, &v, &mixed).await, 1);
    assert_eq!(stored().await, [present(TEN + home.precision, &["3", "3"])]);
    let table = Table::of(&v);
    let backfill = store.write(project, &table, &older, OlderRow::Overwrite);
    assert_eq!(backfill.await.unwrap(), 1);
    assert_eq!(stored().await, [present(TEN - HOUR, &["0", "0"])]);
}

pub(crate) async fn views_are_prepared_and_dropped_as_often_as_wanted(home: &Home) {
    let store = home.open().await;
    let project = &home.project;
    let [v, w] = [pair("v"), pair("w")];
    let of_version = Table {
        view: Arc::clone(&v),
        name: "v_v2".to_owned(),
    };
    let keep = [Arc::clone(&v), Arc::clone(&w)];
    let rows_of = async |view: &Arc<FeatureView>| {
        let ids = [key("1"), key("2")];
        let rows = texts(&*store, project, view, &ids, &["a", "b"]).await;
        rows.iter().filter(|(time, _)| time.is_some()).count()
    };
    let mut again = (*v).clone();
    again.name.clone_from(&of_version.name);
    let again = Arc::new(again);
    for _ in 0..2 {
        store.provision(project, &keep, &[]).await.unwrap();
        write(&*store, project, &v, &row("1", TEN, "a", "b")).await;
        write(&*store, project, &v, &row("2", TEN, "a", "b")).await;
        write(&*store, project, &w, &row("1", TEN, "a", "b")).await;
        store
            .write(
                project,
                &of_version,
                &row("1", TEN, "version", "2"),
                OlderRow::Skip,
            )
            .await
            .unwrap();
        store.provision(project, &keep, &[]).await.unwrap();
        assert_eq!(
            [rows_of(&v).await, rows_of(&w).await, rows_of(&again).await],
            [2, 1, 1]
        );
        let gone = [Table::of(&v)];
        for _ in 0..2 {
            store.provision(project, &[Arc::clone(&w)], &gone).await.unwrap();
            assert_eq!(
                [rows_of(&v).await, rows_of(&w).await, rows_of(&again).await],
                [0, 1, 1]
            );
        }
        let gone = [of_version.clone(), Table::of(&w), Table::of(&pair("never"))];
        store.provision(project, &[], &gone).await.unwrap();
        assert_eq!([rows_of(&w).await, rows_of(&again).await], [0, 0]);
    }
}

pub(crate) async fn rows_are_deleted_by_their_keys(home: &Home) {
    let store = home.open().await;
    let project = &home.project;
    let [v, w] = [pair("v"), pair("w")];
    let table = Table::of(&v);
    store
        .provision(project, &[Arc::clone(&v), Arc::clone(&w)], &[])
        .await
        .unwrap();
    for id in ["1", "2", "3"] {
        write(&*store, project, &v, &row(id, TEN, "a", "b")).await;
    }
    write(&*store, project, &w, &row("1", TEN, "a", "b")).await;
    let keys = [key("1"), key("9"), key("3"), key("1")];
    assert_eq!(store.delete(project, &table, &keys).await.unwrap(), 2);
    assert_eq!(store.delete(project, &table, &keys).await.unwrap(), 0);
    assert_eq!(store.delete(project, &table, &[]).await.unwrap(), 0);
    assert_eq!(
        texts(&*store, project, &v, &[key("1"), key("2"), key("3")], &["a", "b"]).await,
        [absent(2), present(TEN, &["a", "b"]), absent(2)]
    );
    assert_eq!(
        texts(&*store, project, &w, &[key("1")], &["a"]).await,
        [present(TEN, &["a"])]
    );
    // What was deleted is forgotten, its time too.
    let older = row("1", TEN - HOUR, "again", "again");
    assert_eq!(write(&*store, project, &v, &older).await, 1);
}

pub(crate) async fn rows_are_counted_and_truncated(home: &Home) {
    let store = home.open().await;
    let project = &home.project;
    let [v, w] = [pair("v"), pair("w")];
    let [table, other] = [Table::of(&v), Table::of(&w)];
    store
        .provision(project, &[Arc::clone(&v), Arc::clone(&w)], &[])
        .await
        .unwrap();
    assert_eq!(store.count(project, &table).await.unwrap(), 0);
    for number in 0..40 {
        write(&*store, project, &v, &row(&number.to_string(), TEN, "a", "b")).await;
    }
    write(&*store, project, &w, &row("1", TEN, "a", "b")).await;
    assert_eq!(store.count(project, &table).await.unwrap(), 40);
    assert_eq!(store.count(project, &other).await.unwrap(), 1);
    for _ in 0..2 {
        store.truncate(project, &table).await.unwrap();
        assert_eq!(store.count(project, &table).await.unwrap(), 0);
        assert_eq!(store.count(project, &other).await.unwrap(), 1);
    }
    assert_eq!(
        write(&*store, project, &v, &row("1", TEN - HOUR, "a", "b")).await,
        1
    );
}

/// All keys of a table, through all pages.
pub(crate) async fn all_keys(store: &dyn OnlineStore, project: &str, table: &Table) -> BTreeSet<Bytes> {
    let mut found = BTreeSet::new();
    let mut page = None;
    loop {
        let (keys, next) = store.keys(project, table, page).await.unwrap();
        found.extend(keys);
        match next {
            Some(_) => page = next,
            None => return found,
        }
    }
}

pub(crate) async fn keys_are_listed_page_by_page(home: &Home) {
    let store = home.open().await;
    let project = &home.project;
    let [v, w] = [pair("v"), pair("w")];
    store
        .provision(project, &[Arc::clone(&v), Arc::clone(&w)], &[])
        .await
        .unwrap();
    assert_eq!(all_keys(&*store, project, &Table::of(&v)).await, BTreeSet::new());
    let keys: Vec<Bytes> = (0..2_500).map(|number| key(&number.to_string())).collect();
    let written: Vec<_> = keys
        .iter()
        .map(|key| (key.clone(), TEN, &["a", "b"][..]))
        .collect();
    assert_eq!(
        write(&*store, project, &v, &rows(&["a", "b"], &written)).await,
        2_500
    );
    write(&*store, project, &w, &row("only w", TEN, "a", "b")).await;
    let found = all_keys(&*store, project, &Table::of(&v)).await;
    assert_eq!(found, keys.into_iter().collect());
}

pub(crate) async fn projects_whose_names_end_alike_do_not_touch(home: &Home) {
    let store = home.open().await;
    let v = pair("v");
    let table = Table::of(&v);
    let short = home.project.as_str();
    let long = format!("x{short}");
    for project in [short, &long] {
        store.provision(project, &[Arc::clone(&v)], &[]).await.unwrap();
        write(&*store, project, &v, &row("1", TEN, project, "b")).await;
        write(&*store, project, &v, &row("2", TEN, project, "b")).await;
    }
    assert_eq!(store.count(short, &table).await.unwrap(), 2);
    assert_eq!(
        all_keys(&*store, short, &table).await,
        [key("1"), key("2")].into_iter().collect()
    );
    let of_long = async || texts(&*store, &long, &v, &[key("1"), key("2")], &["a"]).await;
    let whole = [present(TEN, &[&long]), present(TEN, &[&long])];
    store.delete(short, &table, &[key("1")]).await.unwrap();
    assert_eq!(of_long().await, whole);
    store.truncate(short, &table).await.unwrap();
    assert_eq!(of_long().await, whole);
    store.provision(short, &[], &[table]).await.unwrap();
    assert_eq!(of_long().await, whole);
    store.provision(&long, &[], &[Table::of(&v)]).await.unwrap();
}

pub(crate) async fn keys_that_look_like_patterns(home: &Home) {
    let store = home.open().await;
    let project = &home.project;
    let names = ["id", "i*", "i?", "[i]d", "i\\d", "*"];
    let views: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(number, name)| keyed_view(&format!("v{number}"), &[name], &[("a", ValueType::String)]))
        .collect();
    store.provision(project, &views, &[]).await.unwrap();
    let ids = ["*", "?", "[a]", "\\", "a", "*?[\\", "\0", project];
    for (view, name) in views.iter().zip(names) {
        let written: Vec<_> = ids.iter().map(|id| (key_of(name, id), TEN, &["x"][..])).collect();
        assert_eq!(write(&*store, project, view, &rows(&["a"], &written)).await, 8);
    }
    for (view, name) in views.iter().zip(names) {
        let table = Table::of(view);
        let found = all_keys(&*store, project, &table).await;
        assert_eq!(found, ids.iter().map(|id| key_of(name, id)).collect(), "{name}");
        assert_eq!(store.count(project, &table).await.unwrap(), 8, "{name}");
    }
    store.truncate(project, &Table::of(&views[1])).await.unwrap();
    store
        .provision(project, &views, &[Table::of(&views[5])])
        .await
        .unwrap();
    for (number, view) in views.iter().enumerate() {
        let left = if matches!(number, 1 | 5) { 0 } else { 8 };
        assert_eq!(
            store.count(project, &Table::of(view)).await.unwrap(),
            left,
            "{number}"
        );
    }
}

pub(crate) async fn five_thousand_keys_in_one_request(home: &Home) {
    let store = home.open().await;
    let project = &home.project;
    let v = pair("v");
    store.provision(project, &[Arc::clone(&v)], &[]).await.unwrap();
    let texts_of: Vec<String> = (0..5_000).map(|number| number.to_string()).collect();
    let pairs: Vec<[&str; 2]> = texts_of.iter().map(|text| [text.as_str(), "b"]).collect();
    let written: Vec<_> = pairs.iter().map(|pair| (key(pair[0]), TEN, &pair[..])).collect();
    assert_eq!(
        write(&*store, project, &v, &rows(&["a", "b"], &written)).await,
        5_000
    );
    let keys: Vec<Bytes> = (0..5_000)
        .rev()
        .map(|number| key(&(number * 2).to_string()))
        .collect();
    let found = texts(&*store, project, &v, &keys, &["a"]).await;
    for (place, row) in found.iter().enumerate() {
        let number = (4_999 - place) * 2;
        if number < 5_000 {
            assert_eq!(*row, present(TEN, &[&number.to_string()]));
        } else {
            assert_eq!(*row, absent(1));
        }
    }
}

pub(crate) async fn the_newest_of_many_writers_stays(home: &Home) {
    const WRITERS: i64 = 4;
    const ROUNDS: i64 = 12;
    let v = pair("v");
    let keys: Vec<Bytes> = (0..16).map(|number| key(&number.to_string())).collect();
    let first = home.open().await;
    first
        .provision(&home.project, &[Arc::clone(&v)], &[])
        .await
        .unwrap();
    let writers = (0..WRITERS).map(async |writer| {
        let store = home.open().await;
        let (v, keys, project) = (Arc::clone(&v), keys.clone(), home.project.clone());
        let running = tokio::spawn(async move {
            for round in 0..ROUNDS {
                // Every writer has its own order of times, and all times are different.
                let version = (round * 7 + writer * 3) % ROUNDS * WRITERS + writer;
                let value = version.to_string();
                let pair = [value.as_str(), value.as_str()];
                let time = TEN + version * 1_000_000;
                let written: Vec<_> = keys.iter().map(|key| (key.clone(), time, &pair[..])).collect();
                write(&*store, &project, &v, &rows(&["a", "b"], &written)).await;
            }
        });
        running.await
    });
    for ended in join_all(writers).await {
        ended.unwrap();
    }
    let newest = ROUNDS * WRITERS - 1;
    let value = newest.to_string();
    let expected = present(TEN + newest * 1_000_000, &[&value, &value]);
    assert_eq!(
        texts(&*first, &home.project, &v, &keys, &["a", "b"]).await,
        vec![expected; 16]
    );
}

pub(crate) async fn no_value_turns_up_elsewhere(home: &Home) {
    let store = home.open().await;
    let project = &home.project;
    let features = ["a", "b", "c", "d", "e"];
    let typed = features.map(|feature| (feature, ValueType::String));
    let views: Vec<_> = (0..4).map(|number| view(&format!("v{number}"), &typed)).collect();
    store.provision(project, &views, &[]).await.unwrap();
    let mut expected = HashMap::new();
    for (number, view) in views.iter().enumerate() {
        let mut batch = rows(&features, &[]);
        // Every view lacks other entities.
        for id in (0..30).filter(|id| id % 5 != number) {
            let key = key(&id.to_string());
            batch.keys.push(key.clone());
            batch.event_times.push(TEN + number as i64 * HOUR);
            for feature in features {
                let value = encoded(&format!("{}/{id}/{feature}", view.name));
                expected.insert((number, key.clone(), feature), value.clone());
                batch.values.push(value);
            }
        }
        write(&*store, project, view, &batch).await;
    }
    // Some shape of request after the other, each different in views, features, keys and their order.
    let requests = (0..40_usize).map(async |seed| {
        let views_of = |group: usize| {
            let count = 1 + (seed + group) % 4;
            (0..count).map(move |place| {
                let number = (seed + group + place * (1 + 2 * (seed % 2))) % 4;
                let wanted: Vec<&str> = (0..=(seed + place) % 5)
                    .map(|offset| features[(offset * 2 + seed) % 5])
                    .collect();
                (number, wanted)
            })
        };
        let keys_of = |group: usize| -> Vec<Bytes> {
            let keys = (0..(seed * 3 + group) % 35).map(|place| (place * 11 + seed) % 35);
            keys.map(|id| key(&id.to_string())).collect()
        };
        let groups: Vec<KeyGroup> = (0..1 + seed % 3)
            .map(|number| {
                let columns = views_of(number).map(|(view, wanted)| columns(&views[view], &wanted));
                group(&keys_of(number), columns.collect())
            })
            .collect();
        let batches = read(&*store, project, &groups).await;
        let mut batches = batches.iter();
        for number in 0..groups.len() {
            for (view, wanted) in views_of(number) {
                let batch = batches.next().unwrap();
                for (row, key) in keys_of(number).iter().enumerate() {
                    for (column, feature) in wanted.iter().enumerate() {
                        assert_eq!(
                            batch.get(row, column),
                            expected.get(&(view, key.clone(), *feature)).map(AsRef::as_ref),
                            "request {seed}, view {view}, {feature}"
                        );
                    }
                    let known = expected.contains_key(&(view, key.clone(), "a"));
                    assert_eq!(batch.event_times[row], known.then_some(TEN + view as i64 * HOUR));
                }
            }
        }
        assert!(batches.next().is_none());
    });
    join_all(requests).await;
}

pub(crate) async fn odd_names(home: &Home) {
    let store = home.open().await;
    let project = &home.project;
    let names = [
        "select",
        "with space",
        "dört é 漢字",
        "q\"uote",
        "it's",
        "semi;colon --",
        "back`tick",
        "per%cent_",
        "co:lon",
    ];
    let views: Vec<_> = names
        .iter()
        .map(|name| view(name, &names.map(|feature| (feature, ValueType::String))))
        .collect();
    for _ in 0..2 {
        store.provision(project, &views, &[]).await.unwrap();
    }
    let values_of = |view: &FeatureView| names.map(|feature| format!("{} {feature}", view.name));
    for view in &views {
        let values = values_of(view);
        let values = values.each_ref().map(String::as_str);
        let batch = rows(&names, &[(key("it's \"1\""), TEN, &values)]);
        assert_eq!(write(&*store, project, view, &batch).await, 1, "{}", view.name);
    }
    let keys = [key("it's \"1\"")];
    for view in &views {
        let values = values_of(view);
        let values = values.each_ref().map(String::as_str);
        assert_eq!(
            texts(&*store, project, view, &keys, &names).await,
            [present(TEN, &values)],
            "{}",
            view.name
        );
    }
    let gone: Vec<Table> = views.iter().map(Table::of).collect();
    store.provision(project, &[], &gone).await.unwrap();
    assert_eq!(
        texts(&*store, project, &views[4], &keys, &["it's"]).await,
        [absent(1)]
    );
}
