//! Typed columns to a store's rows: keys are encoded, rows that say nothing are left out.

use arrow::{
    array::{Array, ArrayRef, AsArray as _, BinaryArray, BinaryBuilder},
    compute::{CastOptions, cast_with_options},
    datatypes::{DataType, TimeUnit, TimestampMicrosecondType},
    record_batch::RecordBatch,
};
use bytes::Bytes;

use crate::{
    error::{Error, Result},
    model::{
        FeatureView,
        entity_key::{KeyEncoder, Version, fingerprint},
        feature_view::DUMMY_JOIN_KEY,
        value::{self, Kind, Value},
    },
    online::store::WriteBatch,
};

/// Columns of a view's rows.
pub(super) struct Rows {
    /// By the view's join keys; none for views without entities.
    pub(super) keys: Vec<Vec<Value>>,
    /// By the view's features, encoded.
    pub(super) features: Vec<Vec<Bytes>>,
    pub(super) event_times: Vec<Option<i64>>,
    /// Empty when there are none.
    pub(super) created_times: Vec<Option<i64>>,
}

impl Rows {
    /// The rows that have a key, an event time and, unless `empty` ones are wanted, at least one value.
    pub(super) fn assemble(self, view: &FeatureView, version: Version, empty: bool) -> Result<WriteBatch> {
        let rows = self.event_times.len();
        let (mut encoder, dummy) = (self.encoder(view, version)?, dummy());
        let mut batch = WriteBatch {
            features: view.features.iter().map(|field| field.name.clone()).collect(),
            keys: Vec::with_capacity(rows),
            event_times: Vec::with_capacity(rows),
            created_times: Vec::with_capacity(rows),
            values: Vec::with_capacity(rows * self.features.len()),
        };
        let mut key: Vec<&Value> = Vec::new();
        for row in 0..rows {
            let Some(time) = self.event_times[row] else {
                continue;
            };
            self.key(row, &dummy, &mut key);
            if key.iter().any(|value| value::is_null(value))
                || (!empty && self.features.iter().all(|column| column[row].is_empty()))
            {
                continue;
            }
            let encoded = encoder.encode(&key);
            batch.keys.push(
                encoded
                    .map_err(|error| error.context(format!("row {row} of feature view `{}`", view.name)))?,
            );
            batch.event_times.push(time);
            batch
                .created_times
                .push(self.created_times.get(row).copied().flatten());
            batch
                .values
                .extend(self.features.iter().map(|column| column[row].clone()));
        }
        Ok(batch)
    }

    fn encoder(&self, view: &FeatureView, version: Version) -> Result<KeyEncoder> {
        let names: Vec<&str> = if self.keys.is_empty() {
            vec![DUMMY_JOIN_KEY]
        } else {
            view.join_keys.iter().map(|key| key.name.as_str()).collect()
        };
        KeyEncoder::new(&names, version)
    }

    /// The values of a row's key.
    fn key<'a>(&'a self, row: usize, dummy: &'a Value, key: &mut Vec<&'a Value>) {
        key.clear();
        key.extend(self.keys.iter().map(|column| &column[row]));
        if self.keys.is_empty() {
            key.push(dummy);
        }
    }
}

/// Event and created times of the rows of a batch, and fingerprints of their entity keys.
pub struct Identities {
    /// `None` for rows without an event time or with a null join key: they belong to nobody.
    pub keys: Vec<Option<u128>>,
    /// Microseconds since 1970 UTC.
    pub event_times: Vec<i64>,
    /// `i64::MIN` where there is none.
    pub created_times: Vec<i64>,
}

/// Whose rows a batch has, and of when; needs no feature columns.
///
/// # Errors
/// As [`write_batch`].
pub fn identities(
    view: &FeatureView,
    version: Version,
    batch: &RecordBatch,
    timestamp_column: &str,
    created_column: Option<&str>,
) -> Result<Identities> {
    let rows = Rows {
        keys: keys(view, batch)?,
        features: Vec::new(),
        event_times: times_of(view, batch, timestamp_column)?,
        created_times: created_column.map_or_else(|| Ok(Vec::new()), |name| times_of(view, batch, name))?,
    };
    let (encoder, dummy) = (rows.encoder(view, version)?, dummy());
    let (mut bytes, mut key) = (Vec::new(), Vec::new());
    let mut fingerprints = Vec::with_capacity(batch.num_rows());
    for (row, time) in rows.event_times.iter().enumerate() {
        rows.key(row, &dummy, &mut key);
        if time.is_none() || key.iter().any(|value| value::is_null(value)) {
            fingerprints.push(None);
            continue;
        }
        bytes.clear();
        encoder
            .append(&mut bytes, &key)
            .map_err(|error| error.context(format!("row {row} of feature view `{}`", view.name)))?;
        fingerprints.push(Some(fingerprint(&bytes)));
    }
    let known = |time: &Option<i64>| time.unwrap_or(i64::MIN);
    let mut created_times: Vec<i64> = rows.created_times.iter().map(known).collect();
    created_times.resize(batch.num_rows(), i64::MIN);
    Ok(Identities {
        keys: fingerprints,
        event_times: rows.event_times.iter().map(known).collect(),
        created_times,
    })
}

/// The serialized entity keys of rows that all have one.
///
/// # Errors
/// As [`write_batch`].
pub fn key_column(view: &FeatureView, version: Version, batch: &RecordBatch) -> Result<BinaryArray> {
    let rows = Rows {
        keys: keys(view, batch)?,
        features: Vec::new(),
        event_times: Vec::new(),
        created_times: Vec::new(),
    };
    let (encoder, dummy) = (rows.encoder(view, version)?, dummy());
    let (mut bytes, mut key) = (Vec::new(), Vec::new());
    let mut column = BinaryBuilder::with_capacity(batch.num_rows(), 0);
    for row in 0..batch.num_rows() {
        rows.key(row, &dummy, &mut key);
        bytes.clear();
        encoder
            .append(&mut bytes, &key)
            .map_err(|error| error.context(format!("row {row} of feature view `{}`", view.name)))?;
        column.append_value(&bytes);
    }
    Ok(column.finish())
}

/// A view's rows from Arrow columns under their mapped names. Rows without an event time or with a null
/// join key are left out; times without a zone are UTC.
///
/// # Errors
/// `InvalidArgument` naming a column that is missing or does not fit the view.
pub fn write_batch(
    view: &FeatureView,
    version: Version,
    batch: &RecordBatch,
    timestamp_column: &str,
    created_column: Option<&str>,
) -> Result<WriteBatch> {
    let features = view.features.iter().map(|field| {
        value::arrow::encode_column(column(view, batch, &field.name)?, field.value_type)
            .map_err(|error| fits(view, &field.name, error))
    });
    let rows = Rows {
        keys: keys(view, batch)?,
        features: features.collect::<Result<_>>()?,
        event_times: times_of(view, batch, timestamp_column)?,
        created_times: created_column.map_or_else(|| Ok(Vec::new()), |name| times_of(view, batch, name))?,
    };
    // A newest row that says nothing is what is known: a join answers it, too.
    rows.assemble(view, version, true)
}

fn column<'a>(view: &FeatureView, batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    batch.column_by_name(name).ok_or_else(|| {
        Error::invalid(format!(
            "rows for feature view `{}` lack the column `{name}`",
            view.name
        ))
    })
}

fn fits(view: &FeatureView, name: &str, error: Error) -> Error {
    error.context(format!("column `{name}` for feature view `{}`", view.name))
}

fn keys(view: &FeatureView, batch: &RecordBatch) -> Result<Vec<Vec<Value>>> {
    let keys = view.join_keys.iter().filter(|_| !view.is_entityless());
    keys.map(|key| {
        value::arrow::from_array(column(view, batch, &key.name)?, key.value_type)
            .map_err(|error| fits(view, &key.name, error))
    })
    .collect()
}

fn times_of(view: &FeatureView, batch: &RecordBatch, name: &str) -> Result<Vec<Option<i64>>> {
    times(column(view, batch, name)?).map_err(|error| fits(view, name, error))
}

/// The key of views without entities.
fn dummy() -> Value {
    Kind::StringVal(String::new()).into()
}

/// A column's times in microseconds since 1970.
fn times(array: &ArrayRef) -> Result<Vec<Option<i64>>> {
    if matches!(
        array.data_type(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
    ) {
        let texts = cast_with_options(array, &DataType::Utf8, &CastOptions::default())?;
        let time = |text: Option<&str>| match text.map(|text| (text, value::text::parse_instant(text))) {
            None => Ok(None),
            Some((_, Some((instant, _)))) => Ok(Some(instant.timestamp_micros())),
            Some((text, None)) => Err(Error::invalid(format!("`{text}` is no time"))),
        };
        return texts.as_string::<i32>().iter().map(time).collect();
    }
    let zone = match array.data_type() {
        DataType::Timestamp(_, zone) => zone.clone(),
        DataType::Date32 | DataType::Date64 => None,
        other => {
            return Err(Error::invalid(format!(
                "a column of type `{other}` holds no times"
            )));
        }
    };
    let wanted = DataType::Timestamp(TimeUnit::Microsecond, zone);
    let options = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    let micros = cast_with_options(array, &wanted, &options)?;
    Ok(micros.as_primitive::<TimestampMicrosecondType>().iter().collect())
}
