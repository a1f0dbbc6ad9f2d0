//! Typed columns to a store's rows: keys are encoded, rows that say nothing are left out.

use arrow::{
    array::{Array, ArrayRef, AsArray as _},
    compute::{CastOptions, cast_with_options},
    datatypes::{DataType, TimeUnit, TimestampMicrosecondType},
    record_batch::RecordBatch,
};
use bytes::Bytes;

use crate::{
    error::{Error, Result},
    model::{
        FeatureView,
        entity_key::{KeyEncoder, Version},
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
    /// The rows that have a key, an event time and at least one value.
    pub(super) fn assemble(self, view: &FeatureView, version: Version) -> Result<WriteBatch> {
        let rows = self.event_times.len();
        let dummy: Value = Kind::StringVal(String::new()).into();
        let names: Vec<&str> = if self.keys.is_empty() {
            vec![DUMMY_JOIN_KEY]
        } else {
            view.join_keys.iter().map(|key| key.name.as_str()).collect()
        };
        let mut encoder = KeyEncoder::new(&names, version)?;
        let mut batch = WriteBatch {
            features: view.features.iter().map(|field| field.name.clone()).collect(),
            keys: Vec::with_capacity(rows),
            event_times: Vec::with_capacity(rows),
            created_times: Vec::with_capacity(rows),
            values: Vec::with_capacity(rows * self.features.len()),
        };
        let mut key: Vec<&Value> = Vec::with_capacity(names.len());
        for row in 0..rows {
            let Some(time) = self.event_times[row] else {
                continue;
            };
            key.clear();
            key.extend(self.keys.iter().map(|column| &column[row]));
            if self.keys.is_empty() {
                key.push(&dummy);
            }
            if key.iter().any(|value| value::is_null(value))
                || self.features.iter().all(|column| column[row].is_empty())
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
}

/// A view's rows from Arrow columns under their mapped names. Rows without an event time, with a null
/// join key or without any value are left out; times without a zone are UTC.
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
    let column = |name: &str| {
        batch.column_by_name(name).ok_or_else(|| {
            Error::invalid(format!(
                "rows for feature view `{}` lack the column `{name}`",
                view.name
            ))
        })
    };
    let fits =
        |name: &str, error: Error| error.context(format!("column `{name}` for feature view `{}`", view.name));
    let keys = view
        .join_keys
        .iter()
        .filter(|_| !view.is_entityless())
        .map(|key| {
            value::arrow::from_array(column(&key.name)?, key.value_type)
                .map_err(|error| fits(&key.name, error))
        });
    let features = view.features.iter().map(|field| {
        value::arrow::encode_column(column(&field.name)?, field.value_type)
            .map_err(|error| fits(&field.name, error))
    });
    let times = |name: &str| times(column(name)?).map_err(|error| fits(name, error));
    let rows = Rows {
        keys: keys.collect::<Result<_>>()?,
        features: features.collect::<Result<_>>()?,
        event_times: times(timestamp_column)?,
        created_times: created_column.map_or_else(|| Ok(Vec::new()), times)?,
    };
    rows.assemble(view, version)
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
