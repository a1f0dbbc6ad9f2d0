//! What a set of rows looks like, column by column, in one reading.
//!
//! Rows, nulls, least and greatest are exact. For the distribution a column of numbers keeps up to
//! [`Kept::numbers`] values, all of them as long as they fit and a uniform sample of them after that
//! (reservoir sampling, algorithm R, with a fixed seed so that the same rows give the same answer); a column
//! of categories counts up to [`CATEGORIES`] of them and the rest together. So memory does not depend on
//! the number of rows, and [`Column::exact`] says whether something had to be left out.

use std::collections::HashMap;

use arrow::{
    array::{Array, ArrayRef, AsArray},
    compute::cast,
    datatypes::{DataType, Float64Type},
    record_batch::RecordBatch,
    util::display::{ArrayFormatter, FormatOptions},
};
use chrono::{DateTime, SecondsFormat};
use futures::StreamExt as _;

use super::{Readable, cells};
use crate::error::Result;

/// Values that are kept of all columns of numbers together: 64 MiB.
const KEPT_VALUES: usize = 1 << 23;
/// The most that are kept of one column.
const MOST_OF_COLUMN: usize = 1 << 18;
/// The fewest.
const FEWEST_OF_COLUMN: usize = 1 << 10;
/// Categories that are counted each by itself.
pub(super) const CATEGORIES: usize = 10_000;
/// New categories that are named.
const NAMED: usize = 5;

/// What is done with the values of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    Number,
    Category,
    Time,
    /// Lists, maps, bytes: only nulls are counted.
    Other,
}

impl Sort {
    pub(super) fn of(data_type: &DataType) -> Self {
        match cells::kind(data_type) {
            "integer" | "number" => Self::Number,
            "text" | "boolean" => Self::Category,
            "time" => Self::Time,
            _ => Self::Other,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Number => "number",
            Self::Category => "category",
            Self::Time => "time",
            Self::Other => "other",
        }
    }
}

/// One column.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) sort: Sort,
    pub(super) rows: u64,
    /// Not-a-number counts as null, as in pandas.
    pub(super) nulls: u64,
    /// Of numbers, and of times in microseconds.
    pub(super) range: Option<(f64, f64)>,
    /// Numbers outside of the range of the reference.
    pub(super) outside: u64,
    pub(super) numbers: Sample,
    pub(super) categories: Categories,
}

/// A uniform sample of numbers.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) kept: Vec<f64>,
    seen: u64,
    most: usize,
    random: u64,
}

impl Sample {
    pub(super) fn new(most: usize) -> Self {
        Self {
            kept: Vec::new(),
            seen: 0,
            most,
            random: 0x9E37_79B9_7F4A_7C15,
        }
    }

    pub(super) fn add(&mut self, value: f64) {
        self.seen += 1;
        if self.kept.len() < self.most {
            self.kept.push(value);
            return;
        }
        let place = self.next() % self.seen;
        if let Some(kept) = usize::try_from(place)
            .ok()
            .and_then(|place| self.kept.get_mut(place))
        {
            *kept = value;
        }
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

/// Categories with how often each comes.
#[derive(Debug, Default)]
pub(super) struct Categories {
    pub(super) counts: HashMap<Box<str>, u64>,
    /// Those that are not counted by themselves.
    pub(super) others: u64,
    /// Names of some that the reference does not have.
    pub(super) new: Vec<String>,
}

impl Categories {
    /// Counts one; with a reference, only the categories that it has are counted by themselves.
    pub(super) fn add(&mut self, value: &str, reference: Option<&Self>) {
        if let Some(count) = self.counts.get_mut(value) {
            *count += 1;
            return;
        }
        let counted = match reference {
            Some(reference) => reference.counts.contains_key(value),
            None => self.counts.len() < CATEGORIES,
        };
        if counted {
            self.counts.insert(value.into(), 1);
            return;
        }
        self.others += 1;
        // Of a reference with too many categories it is not known what it has.
        let is_new = reference.is_some_and(|reference| reference.others == 0);
        if is_new && self.new.len() < NAMED && !self.new.iter().any(|known| known == value) {
            self.new.push(value.to_owned());
        }
    }
}

impl Column {
    fn new(name: &str, sort: Sort, most: usize) -> Self {
        Self {
            name: name.to_owned(),
            sort,
            rows: 0,
            nulls: 0,
            range: None,
            outside: 0,
            numbers: Sample::new(most),
            categories: Categories::default(),
        }
    }

    pub(super) fn values(&self) -> u64 {
        self.rows - self.nulls
    }

    /// Whether every value had its part in the distribution.
    pub(super) fn exact(&self) -> bool {
        self.numbers.seen <= self.numbers.most as u64
    }

    #[expect(clippy::cast_precision_loss, reason = "a share is wanted")]
    pub(super) fn null_rate(&self) -> f64 {
        if self.rows == 0 {
            return 0.0;
        }
        self.nulls as f64 / self.rows as f64
    }

    /// The ends of the range as they are shown.
    pub(super) fn shown_range(&self) -> Option<[serde_json::Value; 2]> {
        let (least, greatest) = self.range?;
        let show = |value: f64| match self.sort {
            #[expect(clippy::cast_possible_truncation, reason = "microseconds of a moment")]
            Sort::Time => DateTime::from_timestamp_micros(value as i64)
                .map(|at| at.to_rfc3339_opts(SecondsFormat::AutoSi, true))
                .into(),
            _ => value.into(),
        };
        Some([show(least), show(greatest)])
    }

    fn add(&mut self, array: &ArrayRef, reference: Option<&Self>) -> Result<()> {
        self.rows += array.len() as u64;
        match self.sort {
            Sort::Number => {
                let numbers = cast(array, &DataType::Float64)?;
                for number in numbers.as_primitive::<Float64Type>() {
                    match number {
                        Some(number) if !number.is_nan() => {
                            self.widen(number);
                            self.numbers.add(number);
                            let outside = reference
                                .and_then(|reference| reference.range)
                                .is_some_and(|(least, greatest)| number < least || number > greatest);
                            self.outside += u64::from(outside);
                        }
                        _ => self.nulls += 1,
                    }
                }
            }
            Sort::Time => {
                let micros = DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, None);
                let times = cast(
                    &cast(&cast(array, &micros)?, &DataType::Int64)?,
                    &DataType::Float64,
                )?;
                self.nulls += times.null_count() as u64;
                for time in times.as_primitive::<Float64Type>().iter().flatten() {
                    self.widen(time);
                }
            }
            Sort::Category => {
                let reference = reference.map(|reference| &reference.categories);
                let options = FormatOptions::default();
                let shown = ArrayFormatter::try_new(array, &options)?;
                let mut text = String::new();
                for row in 0..array.len() {
                    if array.is_null(row) {
                        self.nulls += 1;
                        continue;
                    }
                    text.clear();
                    shown.value(row).write(&mut text)?;
                    self.categories.add(&text, reference);
                }
            }
            Sort::Other => self.nulls += array.logical_null_count() as u64,
        }
        Ok(())
    }

    fn widen(&mut self, value: f64) {
        let (least, greatest) = self.range.unwrap_or((value, value));
        self.range = Some((least.min(value), greatest.max(value)));
    }
}

/// Every column of a set of rows.
#[derive(Debug)]
pub(super) struct Statistics {
    pub(super) rows: u64,
    pub(super) columns: Vec<Column>,
}

impl Statistics {
    pub(super) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Reads everything. `named` says what a column is called here; with a reference, values are counted
    /// as it has them.
    pub(super) async fn of(
        rows: &dyn Readable,
        reference: Option<&Self>,
        named: impl Fn(&str) -> String,
    ) -> Result<Self> {
        let mut stream = rows.read().await?;
        let schema = stream.schema();
        let most = KEPT_VALUES / schema.fields().len().max(1);
        let most = most.clamp(FEWEST_OF_COLUMN, MOST_OF_COLUMN);
        let mut columns: Vec<Column> = schema
            .fields()
            .iter()
            .map(|field| Column::new(&named(field.name()), Sort::of(field.data_type()), most))
            .collect();
        let references: Vec<Option<&Column>> = columns
            .iter()
            .map(|column| {
                let other = reference?.column(&column.name)?;
                (other.sort == column.sort).then_some(other)
            })
            .collect();
        let mut count = 0;
        while let Some(batch) = stream.next().await {
            let batch: RecordBatch = batch?;
            count += batch.num_rows() as u64;
            for ((column, reference), array) in columns.iter_mut().zip(&references).zip(batch.columns()) {
                column.add(array, *reference)?;
            }
        }
        for column in &mut columns {
            column.numbers.kept.sort_unstable_by(f64::total_cmp);
        }
        Ok(Self { rows: count, columns })
    }
}
