//! Validation: whether the values of a dataset, or of a service's log, are distributed like those of a
//! reference. Both are read once (`statistics`); nothing is kept of the rows themselves.
//!
//! Columns are compared by name. Join keys and times are only looked at for nulls: other entities at other
//! times are no fault. A measure fails when it passes its limit and also what chance alone explains for so
//! few rows.

use serde::Serialize;
use serde_json::Value as Json;

use super::{
    Dataset, Readable, ServedLog, Window,
    drift::{Measure, index_of_categories, index_of_numbers, kolmogorov_smirnov},
    statistics::{Column, Sort, Statistics},
};
use crate::{
    context::Context, error::Result, model::ObjectKind, proto::feast::core::ValidationReference,
    registry::Catalog,
};

/// What may be exceeded by nothing.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Limits {
    pub psi: f64,
    pub ks: f64,
    /// How much greater the share of nulls may be than in the reference.
    pub null_rise: f64,
    /// The greatest share of nulls, whatever the reference has.
    pub null_rate: f64,
    /// The share of numbers that may lie outside of the reference's range.
    pub out_of_range: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            psi: 0.2,
            ks: 0.1,
            null_rise: 0.05,
            null_rate: 1.0,
            out_of_range: 0.01,
        }
    }
}

/// What is validated.
#[derive(Debug, Clone)]
pub enum Subject {
    /// A saved dataset.
    Dataset(String),
    /// What a feature service logged of the requests served in a window.
    Log(String, Window),
}

/// One side of a column.
#[derive(Debug, Serialize)]
pub struct Side {
    pub values: u64,
    pub null_rate: f64,
    pub range: Option<[Json; 2]>,
}

impl Side {
    fn of(column: &Column) -> Self {
        Self {
            values: column.values(),
            null_rate: column.null_rate(),
            range: column.shown_range(),
        }
    }
}

/// One column.
#[derive(Debug, Serialize)]
pub struct ColumnReport {
    pub name: String,
    pub kind: &'static str,
    pub reference: Option<Side>,
    pub dataset: Option<Side>,
    pub psi: Option<f64>,
    pub ks: Option<f64>,
    pub out_of_range: Option<f64>,
    /// Whether psi and ks were taken over every value, not over a sample.
    pub exact: bool,
    /// What fails, in words.
    pub failures: Vec<String>,
}

/// See the module.
#[derive(Debug, Serialize)]
pub struct Report {
    pub subject: String,
    pub reference: String,
    pub passed: bool,
    pub rows: u64,
    pub reference_rows: u64,
    pub limits: Limits,
    /// What is wrong beside single columns.
    pub failures: Vec<String>,
    pub columns: Vec<ColumnReport>,
}

/// Compares a dataset or a log with a reference: a `ValidationReference` of the registry, which names a
/// saved dataset, or a saved dataset itself. Of Feast's reference only this name is used: its profiler is a
/// pickled Python function.
///
/// # Errors
/// Not-found kinds, and what reading returns.
pub async fn validate(
    context: &Context,
    catalog: &Catalog,
    subject: &Subject,
    reference: &str,
    limits: Limits,
) -> Result<Report> {
    let reference = match catalog.object(ObjectKind::ValidationReference, reference) {
        Some(object) => object.decode::<ValidationReference>()?.reference_dataset_name,
        None => reference.to_owned(),
    };
    let known = Dataset::open(context, catalog, &reference)?;
    let mut keys = known.join_keys().to_vec();
    let opened: (String, Box<dyn Readable>) = match subject {
        Subject::Dataset(name) => {
            let dataset = Dataset::open(context, catalog, name)?;
            keys.extend_from_slice(dataset.join_keys());
            (name.clone(), Box::new(dataset))
        }
        Subject::Log(service, window) => {
            let log = ServedLog::open(context, catalog, service, *window)?;
            (format!("log of {service}"), Box::new(log))
        }
    };
    let is_log = matches!(subject, Subject::Log(..));
    report(&known, opened.1.as_ref(), is_log, &keys, limits)
        .await
        .map(|report| Report {
            subject: opened.0,
            reference,
            ..report
        })
}

pub(super) async fn report(
    reference: &dyn Readable,
    subject: &dyn Readable,
    is_log: bool,
    keys: &[String],
    limits: Limits,
) -> Result<Report> {
    let known = Statistics::of(reference, None, str::to_owned).await?;
    // A log always says of which view a feature is, a dataset seldom.
    let named = |name: &str| match name.split_once("__") {
        Some((view, feature)) if is_log && !view.is_empty() && known.column(name).is_none() => {
            feature.to_owned()
        }
        _ => name.to_owned(),
    };
    let seen = Statistics::of(subject, Some(&known), named).await?;
    let mut columns: Vec<ColumnReport> = known
        .columns
        .iter()
        .map(|column| match seen.column(&column.name) {
            Some(other) => compared(column, other, keys, &limits),
            None => missing(column, is_log),
        })
        .collect();
    // A log has statuses and times of its own, which no dataset has.
    let more = seen
        .columns
        .iter()
        .filter(|column| !is_log && known.column(&column.name).is_none());
    columns.extend(more.map(|column| ColumnReport {
        reference: None,
        dataset: Some(Side::of(column)),
        ..blank(column)
    }));
    let mut failures = Vec::new();
    for (rows, what) in [(known.rows, "the reference"), (seen.rows, "the dataset")] {
        if rows == 0 {
            failures.push(format!("{what} has no rows"));
        }
    }
    Ok(Report {
        subject: String::new(),
        reference: String::new(),
        passed: failures.is_empty() && columns.iter().all(|column| column.failures.is_empty()),
        rows: seen.rows,
        reference_rows: known.rows,
        limits,
        failures,
        columns,
    })
}

fn blank(column: &Column) -> ColumnReport {
    ColumnReport {
        name: column.name.clone(),
        kind: column.sort.name(),
        reference: None,
        dataset: None,
        psi: None,
        ks: None,
        out_of_range: None,
        exact: true,
        failures: Vec::new(),
    }
}

/// A column that only the reference has. A log has its times under a name of its own.
fn missing(column: &Column, is_log: bool) -> ColumnReport {
    let is_time = column.sort == Sort::Time;
    ColumnReport {
        reference: Some(Side::of(column)),
        failures: if is_log && is_time {
            Vec::new()
        } else {
            vec!["the column is missing".to_owned()]
        },
        ..blank(column)
    }
}

fn compared(reference: &Column, seen: &Column, keys: &[String], limits: &Limits) -> ColumnReport {
    let mut report = ColumnReport {
        reference: Some(Side::of(reference)),
        dataset: Some(Side::of(seen)),
        exact: reference.exact() && seen.exact(),
        ..blank(reference)
    };
    let fail = |report: &mut ColumnReport, text: String| report.failures.push(text);
    let (before, now) = (reference.null_rate(), seen.null_rate());
    if now > limits.null_rate {
        fail(
            &mut report,
            format!("null rate {now:.4} is above {}", limits.null_rate),
        );
    }
    if now - before > limits.null_rise {
        fail(
            &mut report,
            format!(
                "null rate rose from {before:.4} to {now:.4}, by more than {}",
                limits.null_rise
            ),
        );
    }
    if reference.sort != seen.sort {
        // A column without a single value says nothing of its type.
        if reference.values() > 0 && seen.values() > 0 {
            let (was, is) = (reference.sort.name(), seen.sort.name());
            fail(&mut report, format!("it held values of type {was}, now {is}"));
        }
        return report;
    }
    if keys.contains(&reference.name) {
        return report;
    }
    let (psi, ks) = match reference.sort {
        Sort::Number => {
            let (known, now) = (&reference.numbers.kept, &seen.numbers.kept);
            (index_of_numbers(known, now), kolmogorov_smirnov(known, now))
        }
        Sort::Category => (index_of_categories(&reference.categories, &seen.categories), None),
        Sort::Time | Sort::Other => (None, None),
    };
    for (name, measure, limit) in [("psi", psi, limits.psi), ("ks", ks, limits.ks)] {
        let Some(Measure { value, by_chance }) = measure else {
            continue;
        };
        if value > limit.max(by_chance) {
            fail(
                &mut report,
                format!("{name} {value:.4} is above {}", limit.max(by_chance)),
            );
        }
    }
    report.psi = psi.map(|measure| measure.value);
    report.ks = ks.map(|measure| measure.value);
    if reference.sort == Sort::Number && seen.values() > 0 && reference.values() > 0 {
        #[expect(clippy::cast_precision_loss, reason = "a share is wanted")]
        let share = seen.outside as f64 / seen.values() as f64;
        report.out_of_range = Some(share);
        if share > limits.out_of_range {
            fail(
                &mut report,
                format!(
                    "{share:.4} of the values are outside of the reference's range, more than {}",
                    limits.out_of_range
                ),
            );
        }
    }
    if !seen.categories.new.is_empty() && !report.failures.is_empty() {
        fail(
            &mut report,
            format!("new values: {}", seen.categories.new.join(", ")),
        );
    }
    report
}
