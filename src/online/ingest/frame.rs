//! [`Frame`]: rows somebody sent, as named columns of JSON or typed values, and their conversions.

use arrow::array::ArrayRef;
use bytes::{Bytes, BytesMut};
use prost::Message as _;
use serde_json::Value as Json;

use crate::{
    error::{Error, Result},
    model::{
        ValueType,
        value::{self, Kind, Value},
    },
    online::serve::Given,
};

/// Columns of equal length.
#[derive(Debug, Clone)]
pub struct Frame {
    rows: usize,
    columns: Vec<(String, Given)>,
}

/// One column, with its name for messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column<'a> {
    name: &'a str,
    given: &'a Given,
}

impl Frame {
    /// A frame of these columns.
    ///
    /// # Errors
    /// `InvalidArgument` naming two columns that are not equally long.
    pub fn new(columns: Vec<(String, Given)>) -> Result<Self> {
        let rows = columns.first().map_or(0, |(_, given)| given.len());
        if let Some((name, given)) = columns.iter().find(|(_, given)| given.len() != rows) {
            return Err(Error::invalid(format!(
                "all columns must have the same number of values: `{}` has {rows}, `{name}` has {}",
                columns[0].0,
                given.len()
            )));
        }
        Ok(Self { rows, columns })
    }

    /// A frame of columns of JSON.
    ///
    /// # Errors
    /// As [`Frame::new`].
    pub fn from_json(columns: Vec<(String, Vec<Json>)>) -> Result<Self> {
        Self::new(
            columns
                .into_iter()
                .map(|(name, values)| (name, Given::Json(values)))
                .collect(),
        )
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn column(&self, name: &str) -> Option<Column<'_>> {
        let (name, given) = self.columns.iter().find(|(known, _)| known == name)?;
        Some(Column { name, given })
    }

    pub(super) fn require(&self, name: &str) -> Result<Column<'_>> {
        self.first(&[name.to_owned()])
    }

    /// The first column there is of these.
    pub(super) fn first(&self, names: &[String]) -> Result<Column<'_>> {
        names.iter().find_map(|name| self.column(name)).ok_or_else(|| {
            let name = names.first().map_or("", String::as_str);
            Error::invalid(format!("the rows lack the column `{name}`"))
        })
    }
}

impl Column<'_> {
    pub(super) fn values(self, value_type: ValueType) -> Result<Vec<Value>> {
        self.given.convert(self.name, value_type)
    }

    /// The values as encoded messages, no bytes for null.
    pub(super) fn encoded(self, value_type: ValueType) -> Result<Vec<Bytes>> {
        encode(&self.values(value_type)?)
    }

    pub(super) fn array(self, value_type: ValueType) -> Result<ArrayRef> {
        value::arrow::to_array(&self.values(value_type)?, value_type)
            .map_err(|error| error.context(format!("column `{}`", self.name)))
    }

    /// The values as microseconds since 1970; times without an offset are UTC.
    pub(super) fn times(self) -> Result<Vec<Option<i64>>> {
        let wrong = |row: usize, what: &str| {
            Error::invalid(format!("column `{}` has {what} in row {row}, where a time was expected", self.name))
                .hint("write times as ISO 8601 text, for example `2026-11-21T10:00:00`; without an offset they are UTC")
        };
        match self.given {
            Given::Json(values) => {
                let time = |(row, json): (usize, &Json)| match json {
                    Json::Null => Ok(None),
                    Json::String(text) => match value::text::parse_instant(text) {
                        Some((instant, _)) => Ok(Some(instant.timestamp_micros())),
                        None if text.is_empty() || text == "NaT" || text == "NaN" => Ok(None),
                        None => Err(wrong(row, &format!("`{text}`"))),
                    },
                    // A bare number may be seconds, milliseconds or, as pandas has it, nanoseconds.
                    other => Err(wrong(row, &format!("`{other}`"))),
                };
                values.iter().enumerate().map(time).collect()
            }
            Given::Typed(values) => {
                let time = |(row, value): (usize, &Value)| match &value.val {
                    _ if value::is_null(value) => Ok(None),
                    Some(Kind::UnixTimestampVal(seconds)) => Ok(seconds.checked_mul(1_000_000)),
                    Some(Kind::ZonedTimestampVal(zoned)) => Ok(zoned.unix_timestamp.checked_mul(1_000_000)),
                    Some(Kind::StringVal(text)) => match value::text::parse_instant(text) {
                        Some((instant, _)) => Ok(Some(instant.timestamp_micros())),
                        None => Err(wrong(row, &format!("`{text}`"))),
                    },
                    _ => Err(wrong(
                        row,
                        &format!("a value of type `{}`", value::value_type(value)),
                    )),
                };
                values.iter().enumerate().map(time).collect()
            }
        }
    }

    /// As [`Column::times`], but no row may lack its time.
    pub(super) fn required_times(self) -> Result<Vec<Option<i64>>> {
        let times = self.times()?;
        match times.iter().position(Option::is_none) {
            None => Ok(times),
            Some(row) => Err(Error::invalid(format!(
                "column `{}` has no time in row {row}",
                self.name
            ))),
        }
    }
}

/// Values as encoded messages, no bytes for null.
pub(super) fn encode(values: &[Value]) -> Result<Vec<Bytes>> {
    let mut out = BytesMut::new();
    let encode = |value: &Value| {
        if value::is_null(value) {
            return Ok(Bytes::new());
        }
        let encoded = value.encode(&mut out);
        encoded.map_err(|error| Error::internal("a value cannot be encoded").source_error(error))?;
        Ok(out.split().freeze())
    };
    values.iter().map(encode).collect()
}
