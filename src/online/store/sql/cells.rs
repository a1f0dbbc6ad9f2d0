//! Which cells of a batch are written, in which order: the tables have one row per entity and feature.

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message as _;

use crate::{
    model::value::{Kind, Value},
    online::store::{OlderRow, WriteBatch},
};

/// The rows that are not older than what is stored, in the order of their keys. All writers go in this
/// order, so none waits for one that waits for it.
pub(crate) fn fresh_rows(
    batch: &WriteBatch,
    rows: &[usize],
    stored: &HashMap<Vec<u8>, i64>,
    older: OlderRow,
    precision: i64,
) -> Vec<usize> {
    let is_fresh = |row: &usize| {
        let known = stored.get(batch.keys[*row].as_ref());
        older == OlderRow::Overwrite
            || known.is_none_or(|known| {
                known.div_euclid(precision) <= batch.event_times[*row].div_euclid(precision)
            })
    };
    let mut fresh: Vec<usize> = rows.iter().copied().filter(is_fresh).collect();
    fresh.sort_unstable_by(|a, b| batch.keys[*a].cmp(&batch.keys[*b]));
    fresh
}

/// The columns of a batch in the order of their names.
pub(crate) fn sorted_columns(batch: &WriteBatch) -> Vec<usize> {
    let mut columns: Vec<usize> = (0..batch.features.len()).collect();
    columns.sort_unstable_by(|a, b| batch.features[*a].cmp(&batch.features[*b]));
    columns
}

/// The number Feast keeps beside a value for filtering.
pub(crate) fn value_number(value: &Value) -> Option<f64> {
    match value.val.as_ref()? {
        Kind::Int32Val(number) => Some(f64::from(*number)),
        #[expect(clippy::cast_precision_loss, reason = "the column holds doubles")]
        Kind::Int64Val(number) => Some(*number as f64),
        Kind::DoubleVal(number) => Some(*number),
        Kind::FloatVal(number) => Some(f64::from(*number)),
        Kind::BoolVal(truth) => Some(f64::from(u8::from(*truth))),
        _ => None,
    }
}

/// A value that somebody encoded; one that cannot be read has no text and no vector.
pub(crate) fn decoded(bytes: &Bytes) -> Value {
    Value::decode(bytes.clone()).unwrap_or_default()
}
