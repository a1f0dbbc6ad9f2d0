use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use arrow::{
    array::{
        ArrayRef, Float64Array, Int32Array, Int64Array, LargeStringArray, ListArray, StringArray,
        TimestampMicrosecondArray, TimestampMillisecondArray,
    },
    datatypes::Int64Type,
    record_batch::RecordBatch,
};
use async_trait::async_trait;
use chrono::Utc;
use datafusion::{execution::SendableRecordBatchStream, physical_plan::stream::RecordBatchStreamAdapter};
use futures::executor::block_on;
use proptest::prelude::*;

use super::{
    Readable,
    compare::{Difference, compare, compare_within},
    drift::{index_of_categories, index_of_numbers, kolmogorov_smirnov},
    manifest::{Definition, Fingerprint, Manifest},
    statistics::{Categories, Sample, Statistics},
    validate::{Limits, Report, report},
    verify::fingerprint,
};
use crate::error::Result;

/// Rows in memory.
struct Batches(Vec<RecordBatch>);

#[async_trait]
impl Readable for Batches {
    async fn read(&self) -> Result<SendableRecordBatchStream> {
        let batches = futures::stream::iter(self.0.clone().into_iter().map(Ok));
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            self.0[0].schema(),
            batches,
        )))
    }
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))
        .unwrap()
}

type Row = (i64, Option<i64>, Option<String>);

/// Rows in batches of three.
fn table(rows: &[Row]) -> Batches {
    let one = |rows: &[Row]| {
        batch(vec![
            (
                "key",
                Arc::new(rows.iter().map(|row| Some(row.0)).collect::<Int64Array>()),
            ),
            (
                "number",
                Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>()),
            ),
            (
                "text",
                Arc::new(rows.iter().map(|row| row.2.clone()).collect::<StringArray>()),
            ),
        ])
    };
    let mut batches: Vec<_> = rows.chunks(3).map(one).collect();
    if batches.is_empty() {
        batches.push(one(&[]));
    }
    Batches(batches)
}

fn print_of(rows: &dyn Readable) -> Fingerprint {
    block_on(fingerprint(rows)).unwrap()
}

#[test]
fn a_fingerprint_does_not_depend_on_how_rows_are_stored() {
    let lists =
        |values: Vec<Option<Vec<Option<i64>>>>| ListArray::from_iter_primitive::<Int64Type, _, _>(values);
    let wide = batch(vec![
        ("a", Arc::new(Int64Array::from(vec![Some(1), None]))),
        ("b", Arc::new(LargeStringArray::from(vec!["x", "y"]))),
        (
            "c",
            Arc::new(TimestampMicrosecondArray::from(vec![5_000, 7_000]).with_timezone("UTC")),
        ),
        ("d", Arc::new(lists(vec![Some(vec![Some(1), None]), None]))),
    ]);
    let narrow = batch(vec![
        ("d", Arc::new(lists(vec![None, Some(vec![Some(1), None])]))),
        ("c", Arc::new(TimestampMillisecondArray::from(vec![7, 5]))),
        ("b", Arc::new(StringArray::from(vec!["y", "x"]))),
        ("a", Arc::new(Int32Array::from(vec![None, Some(1)]))),
    ]);
    let first = print_of(&Batches(vec![wide.clone()]));
    assert_eq!(
        first,
        print_of(&Batches(vec![narrow.slice(0, 1), narrow.slice(1, 1)]))
    );
    // Kept manifests hold this very text: it must never change.
    assert_eq!(first.rows, 2);
    assert_eq!(
        first.row_hash,
        "8cdfc6b6d2ae0d9e17e4208386b8013829f8febd9338ce9a69f4fe023b6ecda6"
    );
    let twice = print_of(&Batches(vec![wide.clone(), wide.clone()]));
    let thrice = print_of(&Batches(vec![wide.clone(), wide.clone(), wide.clone()]));
    assert!(
        twice != first && twice.row_hash != thrice.row_hash,
        "rows that are there twice count twice"
    );
    let other = batch(vec![
        ("a", Arc::new(Float64Array::from(vec![Some(1.0), None]))),
        ("b", Arc::new(StringArray::from(vec!["x", "y"]))),
    ]);
    assert_ne!(first.row_hash, print_of(&Batches(vec![other])).row_hash);
}

#[test]
fn a_manifest_survives_as_tags() {
    let manifest = Manifest {
        definition: Definition {
            hash: "ab".to_owned(),
            objects: BTreeMap::from([("feature view v".to_owned(), "cd".to_owned())]),
        },
        known_as_of: chrono::DateTime::from_timestamp_micros(Utc::now().timestamp_micros()).unwrap(),
        rows: Fingerprint {
            rows: 7,
            row_hash: "ef".to_owned(),
        },
    };
    let mut tags = manifest.tags();
    tags.insert("team".to_owned(), "ops".to_owned());
    assert_eq!(Manifest::of_tags(&tags).unwrap(), Some(manifest));
    tags.insert("thali.manifest.rows".to_owned(), "many".to_owned());
    assert!(Manifest::of_tags(&tags).is_err());
    assert_eq!(Manifest::of_tags(&BTreeMap::new()).unwrap(), None);
}

#[test]
fn a_difference_names_columns_and_rows() {
    let text = |text: &str| Some(text.to_owned());
    let before = table(&[
        (1, Some(1), text("a")),
        (2, Some(2), text("b")),
        (3, None, text("c")),
    ]);
    let after = table(&[
        (4, Some(4), text("d")),
        (2, Some(5), text("b")),
        (1, Some(1), text("a")),
    ]);
    let key = ["key".to_owned()];
    let moved = block_on(compare(&before, &after, &key)).unwrap();
    assert_eq!(counts(&moved), [1, 1, 1, 1]);
    assert_eq!(moved.changed_columns, BTreeMap::from([("number".to_owned(), 1)]));
    assert_eq!(
        serde_json::json!(moved.changed[0]),
        serde_json::json!({
            "key": {"key": 2}, "before": {"number": 2}, "after": {"number": 5}
        })
    );
    assert_eq!(
        (&moved.added[0]["key"], &moved.removed[0]["key"]),
        (&4.into(), &3.into())
    );

    let wider = Batches(vec![batch(vec![
        ("key", Arc::new(Int64Array::from(vec![1, 2, 3]))),
        ("number", Arc::new(StringArray::from(vec!["1", "2", "3"]))),
        ("more", Arc::new(Int64Array::from(vec![1, 2, 3]))),
    ])]);
    let moved = block_on(compare(&before, &wider, &key)).unwrap();
    assert_eq!(
        (moved.columns.added, moved.columns.removed),
        (vec!["more".to_owned()], vec!["text".to_owned()])
    );
    assert_eq!(moved.columns.retyped, [("number".to_owned(), "integer", "text")]);
    assert!(block_on(compare(&before, &wider, &["text".to_owned()])).is_err());
    assert!(block_on(compare(&before, &wider, &[])).is_err());
}

fn counts(difference: &Difference) -> [u64; 4] {
    let rows = &difference.rows;
    [rows.same, rows.changed, rows.added, rows.removed]
}

/// The same by multisets of whole rows, group by group.
fn oracle(before: &[Row], after: &[Row]) -> [u64; 4] {
    let mut keys: Vec<i64> = before.iter().chain(after).map(|row| row.0).collect();
    keys.sort_unstable();
    keys.dedup();
    let mut total = [0; 4];
    for key in keys {
        let mut rest: Vec<&Row> = after.iter().filter(|row| row.0 == key).collect();
        let mut gone = 0;
        for row in before.iter().filter(|row| row.0 == key) {
            match rest.iter().position(|other| *other == row) {
                Some(place) => {
                    rest.remove(place);
                    total[0] += 1;
                }
                None => gone += 1,
            }
        }
        let new = rest.len() as u64;
        let changed = new.min(gone);
        total[1] += changed;
        total[2] += new - changed;
        total[3] += gone - changed;
    }
    total
}

/// Counts by looking at every pair of a row and a bin.
fn psi_oracle(reference: &[f64], data: &[f64]) -> f64 {
    let mut sorted = reference.to_vec();
    sorted.sort_by(f64::total_cmp);
    let mut distinct = sorted.clone();
    distinct.dedup();
    let n = sorted.len();
    let mut bins: Vec<Box<dyn Fn(f64) -> bool>> = Vec::new();
    if distinct.len() <= 10 {
        for value in distinct.clone() {
            bins.push(Box::new(move |x| x == value));
        }
        bins.push(Box::new(move |x| !distinct.contains(&x)));
    } else {
        let mut edges: Vec<f64> = (1..10)
            .map(|tenth| sorted[(tenth * n).div_ceil(10) - 1])
            .collect();
        edges.dedup();
        let mut below = f64::NEG_INFINITY;
        for edge in edges.into_iter().chain([f64::INFINITY]) {
            bins.push(Box::new(move |x| below < x && x <= edge));
            below = edge;
        }
    }
    let share = |values: &[f64], bin: &dyn Fn(f64) -> bool| {
        let inside = values.iter().filter(|value| bin(**value)).count();
        inside as f64 / values.len() as f64
    };
    let mut total = 0.0;
    for bin in &bins {
        let (one, other) = (share(reference, bin), share(data, bin));
        if one > 0.0 || other > 0.0 {
            let one = one.max(0.5 / reference.len() as f64);
            let other = other.max(0.5 / data.len() as f64);
            total += (other - one) * (other / one).ln();
        }
    }
    total
}

fn ks_oracle(one: &[f64], other: &[f64]) -> f64 {
    let below = |values: &[f64], x: f64| {
        values.iter().filter(|value| **value <= x).count() as f64 / values.len() as f64
    };
    let distance = |x: &f64| (below(one, *x) - below(other, *x)).abs();
    one.iter().chain(other).map(distance).fold(0.0, f64::max)
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}

fn numbers() -> impl Strategy<Value = Vec<f64>> {
    let some = prop_oneof![(-6_i32..6).prop_map(f64::from), -100.0..100.0_f64];
    prop::collection::vec(some, 1..80)
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let row = (0_i64..8, prop::option::of(0_i64..3), prop::option::of("[ab]"));
    prop::collection::vec(row, 0..30)
}

proptest! {
    #[test]
    fn differences_are_counted_as_by_hand(before in rows(), after in rows(), kept in 1_usize..40) {
        let moved = block_on(compare_within(&table(&before), &table(&after), &["key".to_owned()], kept)).unwrap();
        prop_assert_eq!(counts(&moved), oracle(&before, &after));
        prop_assert_eq!((moved.rows.before, moved.rows.after), (before.len() as u64, after.len() as u64));
    }

    #[test]
    fn equal_rows_and_only_they_have_one_fingerprint(before in rows(), after in rows(), turn in 0_usize..30) {
        let mut turned = before.clone();
        turned.rotate_left(turn.min(before.len()));
        prop_assert_eq!(print_of(&table(&before)), print_of(&table(&turned)));
        let all_same = oracle(&before, &after) == [before.len() as u64, 0, 0, 0];
        prop_assert_eq!(print_of(&table(&before)) == print_of(&table(&after)), all_same);
    }

    #[test]
    fn distances_are_those_of_brute_force(reference in numbers(), data in numbers()) {
        let (known, seen) = (sorted(&reference), sorted(&data));
        let psi = index_of_numbers(&known, &seen).unwrap().value;
        prop_assert!((psi - psi_oracle(&reference, &data)).abs() < 1e-9);
        let ks = kolmogorov_smirnov(&known, &seen).unwrap().value;
        prop_assert!((ks - ks_oracle(&reference, &data)).abs() < 1e-12);
        prop_assert_eq!(kolmogorov_smirnov(&known, &known).unwrap().value, 0.0);
        prop_assert_eq!(index_of_numbers(&known, &known).unwrap().value, 0.0);
    }

    #[test]
    fn categories_are_those_of_brute_force(known in prop::collection::vec("[a-e]", 1..60), seen in prop::collection::vec("[a-g]", 1..60)) {
        let (mut one, mut other) = (Categories::default(), Categories::default());
        known.iter().for_each(|value| one.add(value, None));
        seen.iter().for_each(|value| other.add(value, Some(&one)));
        let count = |values: &[String]| {
            let mut counts: HashMap<String, f64> = HashMap::new();
            for value in values {
                let name = if known.contains(value) { value.clone() } else { "other".to_owned() };
                *counts.entry(name).or_default() += 1.0 / values.len() as f64;
            }
            counts
        };
        let (before, after) = (count(&known), count(&seen));
        let names: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
        let expected: f64 = names.into_iter().map(|name| {
            let share = |counts: &HashMap<String, f64>, rows: usize| {
                counts.get(name).copied().unwrap_or_default().max(0.5 / rows as f64)
            };
            let (one, other) = (share(&before, known.len()), share(&after, seen.len()));
            (other - one) * (other / one).ln()
        }).sum();
        prop_assert!((index_of_categories(&one, &other).unwrap().value - expected).abs() < 1e-9);
    }

    #[test]
    fn statistics_are_those_of_brute_force(rows in rows()) {
        let seen = block_on(Statistics::of(&table(&rows), None, str::to_owned)).unwrap();
        let number = seen.column("number").unwrap();
        let values: Vec<i64> = rows.iter().filter_map(|row| row.1).collect();
        prop_assert_eq!((number.rows, number.values()), (rows.len() as u64, values.len() as u64));
        let range = values.iter().min().zip(values.iter().max()).map(|(least, greatest)| (*least as f64, *greatest as f64));
        prop_assert_eq!(number.range, range);
        let text = seen.column("text").unwrap();
        prop_assert_eq!(text.nulls, rows.iter().filter(|row| row.2.is_none()).count() as u64);
    }
}

#[test]
fn a_sample_keeps_the_distribution_in_bounded_memory() {
    let mut sample = Sample::new(1 << 12);
    let all: Vec<f64> = (0..200_000).map(f64::from).collect();
    all.iter().for_each(|value| sample.add(*value));
    assert_eq!(sample.kept.len(), 1 << 12);
    let distance = kolmogorov_smirnov(&all, &sorted(&sample.kept)).unwrap();
    assert!(distance.value < distance.by_chance, "{distance:?}");
}

fn judged(reference: &Batches, data: &Batches) -> Report {
    block_on(report(
        reference,
        data,
        false,
        &["key".to_owned()],
        Limits::default(),
    ))
    .unwrap()
}

#[test]
fn what_drifts_fails_and_what_does_not_passes() {
    let rows = |keys: std::ops::Range<i64>, row: fn(i64) -> (Option<i64>, &'static str)| {
        let row = |key: i64| (key, row(key).0, Some(row(key).1.to_owned()));
        table(&keys.map(row).collect::<Vec<_>>())
    };
    let reference = rows(0..600, |key| {
        (Some(key % 100), if key % 3 == 0 { "x" } else { "y" })
    });
    // Other keys are no fault.
    let alike = judged(
        &reference,
        &rows(1000..1600, |key| {
            (Some(key * 7 % 100), if key % 3 == 1 { "x" } else { "y" })
        }),
    );
    assert!(alike.passed, "{alike:?}");
    let failing = |report: &Report| -> Vec<String> {
        let failing = report.columns.iter().filter(|column| !column.failures.is_empty());
        failing.map(|column| column.name.clone()).collect()
    };
    let moved = judged(&reference, &rows(0..600, |key| (Some(key % 100 + 50), "x")));
    assert_eq!(failing(&moved), ["number", "text"]);
    let number = moved
        .columns
        .iter()
        .find(|column| column.name == "number")
        .unwrap();
    assert_eq!(
        number.failures.len(),
        3,
        "psi, ks and range: {:?}",
        number.failures
    );
    let nulls = judged(
        &reference,
        &rows(0..600, |key| {
            (
                (key % 5 > 0).then_some(key % 100),
                if key % 3 == 0 { "x" } else { "y" },
            )
        }),
    );
    assert_eq!(failing(&nulls), ["number"]);
    // So few rows say nothing.
    assert!(judged(&reference, &rows(0..3, |key| (Some(key + 40), "y"))).passed);
    assert!(!judged(&reference, &rows(0..0, |_| (None, ""))).passed);
    let other = Batches(vec![batch(vec![(
        "number",
        Arc::new(StringArray::from(vec!["a"; 600])),
    )])]);
    assert_eq!(failing(&judged(&reference, &other)), ["key", "number", "text"]);
}
