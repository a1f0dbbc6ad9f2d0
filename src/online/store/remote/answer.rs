//! The other side's answer: JSON without types, or, from servers that offer it, protobuf with them.

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message as _;
use serde::Deserialize;
use serde_json::Value as Json;

use crate::{
    error::{Error, Result},
    model::{
        ValueType,
        value::{self, Value, text::parse_instant},
    },
    proto::feast::serving::{FieldStatus, GetOnlineFeaturesResponse},
};

/// Columns by name.
pub(super) struct Answer {
    places: HashMap<String, usize>,
    columns: Vec<Column>,
}

pub(super) enum Column {
    Json(JsonColumn),
    Typed {
        values: Vec<Value>,
        statuses: Vec<i32>,
        times: Vec<i64>,
    },
}

/// One value with what is said of it.
pub(super) struct Cell {
    /// `None` when its row is not there.
    pub(super) time: Option<i64>,
    /// Encoded; empty for null, `None` when the row lacks it.
    pub(super) value: Option<Bytes>,
}

#[derive(Deserialize)]
struct Document {
    results: Vec<JsonColumn>,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    feature_names: Vec<String>,
}

#[derive(Deserialize)]
pub(super) struct JsonColumn {
    values: Vec<Json>,
    statuses: Vec<String>,
    event_timestamps: Vec<String>,
}

pub(super) fn from_json(bytes: &[u8]) -> Result<Answer> {
    let document: Document = serde_json::from_slice(bytes)
        .map_err(|error| Error::invalid(format!("it is no answer to a request for features: {error}")))?;
    let columns = document.results.into_iter().map(Column::Json).collect();
    Ok(Answer::new(document.metadata.feature_names, columns))
}

pub(super) fn from_protobuf(bytes: Bytes) -> Result<Answer> {
    let response = GetOnlineFeaturesResponse::decode(bytes)?;
    let names = response
        .metadata
        .unwrap_or_default()
        .feature_names
        .unwrap_or_default()
        .val;
    let columns = response.results.into_iter().map(|vector| Column::Typed {
        values: vector.values,
        statuses: vector.statuses,
        times: vector
            .event_timestamps
            .iter()
            .map(|time| time.seconds.saturating_mul(1_000_000) + i64::from(time.nanos / 1000))
            .collect(),
    });
    Ok(Answer::new(names, columns.collect()))
}

impl Answer {
    fn new(names: Vec<String>, columns: Vec<Column>) -> Self {
        Self {
            places: names.into_iter().zip(0..).collect(),
            columns,
        }
    }

    pub(super) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.get(*self.places.get(name)?)
    }
}

impl Column {
    /// The number of rows that are complete.
    pub(super) fn rows(&self) -> usize {
        let lengths = match self {
            Self::Json(column) => [
                column.values.len(),
                column.statuses.len(),
                column.event_timestamps.len(),
            ],
            Self::Typed {
                values,
                statuses,
                times,
            } => [values.len(), statuses.len(), times.len()],
        };
        lengths.into_iter().min().unwrap_or(0)
    }

    /// A cell of the view's declared type.
    pub(super) fn cell(&self, row: usize, declared: Option<ValueType>) -> Result<Cell> {
        let (value, status, time) = match self {
            Self::Json(column) => {
                let json = &column.values[row];
                let time = parse_instant(&column.event_timestamps[row])
                    .map(|(time, _)| time.timestamp_micros())
                    .ok_or_else(|| {
                        Error::invalid(format!("`{}` is no time", column.event_timestamps[row]))
                    })?;
                let value = value::json::from_json(json, declared.unwrap_or(ValueType::Unknown))?;
                let status =
                    FieldStatus::from_str_name(&column.statuses[row]).unwrap_or(FieldStatus::Invalid);
                (value, status, time)
            }
            Self::Typed {
                values,
                statuses,
                times,
            } => {
                let status = FieldStatus::try_from(statuses[row]).unwrap_or(FieldStatus::Invalid);
                (values[row].clone(), status, times[row])
            }
        };
        let missing = matches!(status, FieldStatus::NotFound | FieldStatus::Invalid);
        // A feature that its row lacks comes with the row's time.
        let time = (!missing || time != 0).then_some(time);
        let value = (!missing).then(|| {
            if value::is_null(&value) {
                Bytes::new()
            } else {
                value.encode_to_vec().into()
            }
        });
        Ok(Cell { time, value })
    }
}
