//! Searches, the same on every store that has them.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use serde_json::{Value as Json, json};
use thali::{
    error::Kind as Trouble,
    model::{FeatureView, ValueType, value::Value},
    online::store::{
        Found, OlderRow, OnlineStore, Search, Table, WriteBatch,
        search::{Comparison, Filter, VectorQuery},
    },
    proto::feast::types::{DoubleList, FloatList, value::Val as Kind},
};

use super::{
    conformance::{TEN, key, text, view},
    home::Home,
};

/// A search of the rows of [`stored`].
fn search(vector: Option<&[f32]>, text: Option<&str>, filter: Option<Filter>, top_k: usize) -> Search {
    Search {
        features: vec!["title".to_owned(), "number".to_owned()],
        vector: vector.map(|vector| VectorQuery {
            field: "place".to_owned(),
            vector: vector.to_vec(),
            metric: None,
        }),
        text: text.map(str::to_owned),
        filter,
        top_k,
    }
}

fn compare(op: Comparison, key: &str, value: Json) -> Filter {
    Filter::Compare {
        op,
        key: key.to_owned(),
        value,
    }
}

/// Six documents on a line, 1 to 6; the odd ones are about rivers. The last has no vector.
async fn stored(store: &dyn OnlineStore, project: &str) -> Arc<FeatureView> {
    let docs = view(
        "docs",
        &[
            ("place", ValueType::FloatList),
            ("other", ValueType::DoubleList),
            ("title", ValueType::String),
            ("number", ValueType::Int64),
            ("share", ValueType::Double),
            ("good", ValueType::Bool),
        ],
    );
    store.provision(project, &[Arc::clone(&docs)], &[]).await.unwrap();
    let mut batch = WriteBatch {
        features: docs.features.iter().map(|field| field.name.clone()).collect(),
        ..WriteBatch::default()
    };
    for number in 1..=6_u8 {
        let topic = if number % 2 == 1 {
            "wide rivers"
        } else {
            "steep mountains"
        };
        let title = format!(
            "On {topic}, volume {number}{}",
            " and rivers".repeat(usize::from(number / 5))
        );
        let place = Kind::FloatListVal(FloatList {
            val: vec![f32::from(number), 1.0],
        });
        let values: [Value; 6] = [
            if number == 6 {
                Value::default()
            } else {
                place.into()
            },
            Kind::DoubleListVal(DoubleList {
                val: vec![0.5; usize::from(number)],
            })
            .into(),
            text(&title),
            Kind::Int64Val(i64::from(number) * 10).into(),
            Kind::DoubleVal(if number == 3 {
                f64::NAN
            } else {
                f64::from(number) / 10.0
            })
            .into(),
            Kind::BoolVal(number > 3).into(),
        ];
        batch.keys.push(key(&number.to_string()));
        batch.event_times.push(TEN + i64::from(number) * 1_000_000);
        batch
            .values
            .extend(values.iter().map(|value| Bytes::from(value.encode_to_vec())));
    }
    let written = store
        .write(project, &Table::of(&docs), &batch, OlderRow::Skip)
        .await
        .unwrap();
    assert_eq!(written, 6);
    docs
}

async fn found(
    home: &Home,
    store: &dyn OnlineStore,
    docs: &Arc<FeatureView>,
    search: &Search,
) -> (Vec<u8>, Found) {
    let found = store
        .search(&home.project, &Table::of(docs), search)
        .await
        .unwrap();
    let number = |wanted: &Bytes| {
        (0..=9)
            .find(|number: &u8| key(&number.to_string()) == *wanted)
            .unwrap()
    };
    (found.keys.iter().map(number).collect(), found)
}

pub(crate) async fn the_nearest_come_first(home: &Home) {
    let store = home.open().await;
    let docs = stored(&*store, &home.project).await;
    let mut nearest = search(Some(&[3.9, 1.0]), None, None, 3);
    nearest.vector.as_mut().unwrap().metric = Some("L2".to_owned());
    let (numbers, answer) = found(home, &*store, &docs, &nearest).await;
    assert_eq!(numbers, [4, 3, 5]);
    for (distance, expected) in answer.distances.unwrap().iter().zip([0.1, 0.9, 1.1]) {
        assert!((distance - expected).abs() < 1e-6, "{distance}");
    }
    assert_eq!(answer.text_ranks, None);
    assert_eq!(
        answer.rows.event_times,
        [4, 3, 5].map(|number| Some(TEN + number * 1_000_000))
    );
    let title: Value = text("On steep mountains, volume 4");
    assert_eq!(
        answer.rows.values()[0].as_deref(),
        Some(title.encode_to_vec().as_slice())
    );
    let number: Value = Kind::Int64Val(40).into();
    assert_eq!(
        answer.rows.values()[1].as_deref(),
        Some(number.encode_to_vec().as_slice())
    );
    let mut ask = async |metric: &str| {
        nearest.vector.as_mut().unwrap().metric = Some(metric.to_owned());
        found(home, &*store, &docs, &nearest).await.0
    };
    assert_eq!(ask("L1").await, [4, 3, 5]);
    assert_eq!(ask("inner_product").await, [5, 4, 3]);
    assert_eq!(ask("cosine").await, [4, 5, 3]);
    // Who has no vector is never found, however many are asked for; nor is anything in another list.
    assert_eq!(
        found(home, &*store, &docs, &search(Some(&[0.0, 0.0]), None, None, 99))
            .await
            .0,
        [1, 2, 3, 4, 5]
    );
}

pub(crate) async fn conditions_hold_before_the_best_are_picked(home: &Home) {
    let store = home.open().await;
    let docs = stored(&*store, &home.project).await;
    let near_one = async |filter: Filter| {
        found(
            home,
            &*store,
            &docs,
            &search(Some(&[1.0, 1.0]), None, Some(filter), 2),
        )
        .await
        .0
    };
    use Comparison::{Equal, Greater, GreaterOrEqual, In, Less, LessOrEqual, NotEqual, NotIn};
    assert_eq!(near_one(compare(Greater, "number", json!(25))).await, [3, 4]);
    assert_eq!(
        near_one(compare(GreaterOrEqual, "number", json!(20.0))).await,
        [2, 3]
    );
    assert_eq!(near_one(compare(NotEqual, "number", json!(10))).await, [2, 3]);
    assert_eq!(near_one(compare(In, "number", json!([50, 40, 7]))).await, [4, 5]);
    assert_eq!(near_one(compare(NotIn, "number", json!([10, 20]))).await, [3, 4]);
    assert_eq!(near_one(compare(In, "number", json!([]))).await, [0_u8; 0]);
    assert_eq!(near_one(compare(Equal, "good", json!(true))).await, [4, 5]);
    // What is no number is neither less nor greater.
    assert_eq!(
        near_one(compare(GreaterOrEqual, "share", json!(0.2))).await,
        [2, 4]
    );
    assert_eq!(near_one(compare(Less, "share", json!(1))).await, [1, 2]);
    assert_eq!(
        near_one(compare(LessOrEqual, "number", json!(9_007_199_254_740_993_i64))).await,
        [1, 2]
    );
    let title = json!("On steep mountains, volume 4");
    assert_eq!(near_one(compare(Equal, "title", title.clone())).await, [4]);
    assert_eq!(near_one(compare(Greater, "title", title)).await, [1, 3]);
    let both = |parts: Vec<Filter>| Filter::And(parts);
    let either = Filter::Or(vec![
        compare(Equal, "number", json!(30)),
        compare(Equal, "number", json!(50)),
    ]);
    assert_eq!(
        near_one(both(vec![compare(Equal, "good", json!(true)), either])).await,
        [5]
    );
    assert_eq!(near_one(both(vec![])).await, [1, 2]);
    // As much as a request may ask for: 500 comparisons, 10,000 values, and as deep as JSON is read.
    let mut wide: Vec<Filter> = (0..499)
        .map(|n| compare(Equal, "number", json!(1_000 + n)))
        .collect();
    let values: Vec<i64> = (0..9_501).map(|n| 50 - n).collect();
    wide.push(compare(In, "number", json!(values)));
    assert_eq!(near_one(Filter::Or(wide)).await, [1, 2]);
    let all = (0..500).map(|n| compare(NotEqual, "number", json!(if n == 499 { 10 } else { 1_000 + n })));
    assert_eq!(near_one(both(all.collect())).await, [2, 3]);
    let anything = Filter::Or(vec![compare(Equal, "number", json!(50)), both(vec![])]);
    assert_eq!(
        near_one(both(vec![anything, compare(Equal, "good", json!(true))])).await,
        [4, 5]
    );
    let deep = (0..60).fold(compare(Equal, "number", json!(50)), |inner, level| {
        match level % 2 {
            0 => Filter::Or(vec![inner]),
            _ => Filter::And(vec![inner]),
        }
    });
    assert_eq!(near_one(deep).await, [5]);
    assert_eq!(
        near_one(compare(Equal, "title", json!("'; DROP TABLE docs; --"))).await,
        [0_u8; 0]
    );
}

pub(crate) async fn texts_are_searched_for_words(home: &Home) {
    let store = home.open().await;
    let docs = stored(&*store, &home.project).await;
    let about =
        async |words: &str, filter| found(home, &*store, &docs, &search(None, Some(words), filter, 9)).await;
    let (mut numbers, answer) = about("rivers", None).await;
    assert_eq!(answer.distances, None);
    let ranks = answer.text_ranks.unwrap();
    assert!(
        ranks.is_sorted_by(|a, b| a >= b) && ranks.iter().all(|rank| *rank > 0.0),
        "{ranks:?}"
    );
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 3, 5, 6]);
    assert_eq!(about("MOUNTAINS volume", None).await.0.len(), 3);
    // All words have to be there, and what looks like an operator is none.
    assert_eq!(about("mountains rivers", None).await.0, [6]);
    assert_eq!(about("mountains & | ! rivers:*", None).await.0, [6]);
    assert_eq!(about("lakes", None).await.0, [0_u8; 0]);
    let good = compare(Comparison::Equal, "good", json!(true));
    let (mut numbers, _) = about("rivers", Some(good)).await;
    numbers.sort_unstable();
    assert_eq!(numbers, [5, 6]);
}

pub(crate) async fn vectors_and_texts_are_searched_together(home: &Home) {
    let store = home.open().await;
    let docs = stored(&*store, &home.project).await;
    let (numbers, answer) = found(
        home,
        &*store,
        &docs,
        &search(Some(&[2.0, 1.0]), Some("rivers"), None, 4),
    )
    .await;
    // Texts count first: what has the words comes before what is only near.
    let mut first = numbers[..4].to_vec();
    first.sort_unstable();
    assert_eq!(first, [1, 3, 5, 6]);
    assert_eq!(answer.distances.unwrap().len(), 4);
    assert!(answer.text_ranks.unwrap().is_sorted_by(|a, b| a >= b));
    let few = compare(Comparison::LessOrEqual, "number", json!(30));
    let (mut numbers, answer) = found(
        home,
        &*store,
        &docs,
        &search(Some(&[2.0, 1.0]), Some("rivers"), Some(few), 3),
    )
    .await;
    assert_eq!(numbers.pop(), Some(2));
    assert_eq!(answer.text_ranks.unwrap()[2], 0.0);
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 3]);
}

pub(crate) async fn searches_that_do_not_fit_are_refused(home: &Home) {
    let store = home.open().await;
    let docs = stored(&*store, &home.project).await;
    let refused = async |search: &Search| {
        let error = store
            .search(&home.project, &Table::of(&docs), search)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), Trouble::InvalidArgument, "{error}");
        error.message().to_owned()
    };
    let filtered = |filter| search(Some(&[1.0, 1.0]), None, Some(filter), 2);
    assert!(
        refused(&search(None, None, None, 1))
            .await
            .contains("needs a vector or a text")
    );
    assert!(
        refused(&search(Some(&[1.0]), None, None, 1))
            .await
            .contains("dimensions")
    );
    assert!(refused(&search(Some(&[]), None, None, 1)).await.contains("empty"));
    assert!(
        refused(&filtered(compare(Comparison::Equal, "nope", json!(1))))
            .await
            .contains("`nope`")
    );
    assert!(
        refused(&filtered(compare(Comparison::In, "number", json!(1))))
            .await
            .contains("list")
    );
    assert!(
        refused(&filtered(compare(Comparison::Equal, "number", json!(null))))
            .await
            .contains("`number`")
    );
    assert!(
        refused(&filtered(compare(Comparison::Equal, "title", json!(3))))
            .await
            .contains("number")
    );
    let mut odd = search(Some(&[1.0, 1.0]), None, None, 1);
    odd.vector.as_mut().unwrap().metric = Some("miles".to_owned());
    assert!(refused(&odd).await.contains("`miles`"));
    odd.vector.as_mut().unwrap().field = "nope".to_owned();
    assert!(refused(&odd).await.contains("`nope`"));
}

/// Makes a test of each function here, as `conformance!` does.
macro_rules! searches {
    ($home:path) => {
        crate::online::searches::searches!(
            $home;
            the_nearest_come_first,
            conditions_hold_before_the_best_are_picked,
            texts_are_searched_for_words,
            vectors_and_texts_are_searched_together,
            searches_that_do_not_fit_are_refused,
        );
    };
    ($home:path; $($test:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                let home = $home().await;
                crate::online::searches::$test(&home).await;
                home.remove().await;
            }
        )*
    };
}
pub(crate) use searches;
