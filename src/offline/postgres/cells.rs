//! PostgreSQL's binary values as Arrow columns.
//!
//! Types are Feast's (`feast/type_map.py:pg_type_to_feast_value_type`): `smallint` is an `Int32`, `numeric`
//! a `Float64`; what has no type of its own in Arrow, such as `json`, `uuid` and enumerations, is text.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Float32Builder, Float64Builder, Int32Builder,
        Int64Builder, ListArray, StringBuilder, TimestampMicrosecondBuilder,
    },
    buffer::{NullBuffer, OffsetBuffer},
    datatypes::{DataType, Field, TimeUnit},
};
use sqlx::{
    TypeInfo as _,
    postgres::{PgTypeInfo, PgTypeKind},
};

use crate::error::{Error, Result};

/// Between 1970 and 2000, from when PostgreSQL counts.
const EPOCH_MICROS: i64 = 946_684_800_000_000;
const EPOCH_DAYS: i32 = 10_957;

/// A binary form that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Bool,
    Int16,
    Int32,
    Int64,
    Float32,
    Float64,
    Text,
    Bytes,
    Timestamp,
    TimestampUtc,
    Date,
}

impl Form {
    /// The form of a type, and what it has to be cast to before.
    fn of(name: &str) -> (Self, Option<&'static str>) {
        match name {
            "BOOL" => (Self::Bool, None),
            "INT2" => (Self::Int16, None),
            "INT4" => (Self::Int32, None),
            "INT8" => (Self::Int64, None),
            "FLOAT4" => (Self::Float32, None),
            "FLOAT8" => (Self::Float64, None),
            "NUMERIC" => (Self::Float64, Some("float8")),
            "TEXT" | "VARCHAR" => (Self::Text, None),
            "BYTEA" => (Self::Bytes, None),
            "TIMESTAMP" => (Self::Timestamp, None),
            "TIMESTAMPTZ" => (Self::TimestampUtc, None),
            "DATE" => (Self::Date, None),
            _ => (Self::Text, Some("text")),
        }
    }

    fn data_type(self) -> DataType {
        match self {
            Self::Bool => DataType::Boolean,
            Self::Int16 | Self::Int32 => DataType::Int32,
            Self::Int64 => DataType::Int64,
            Self::Float32 => DataType::Float32,
            Self::Float64 => DataType::Float64,
            Self::Text => DataType::Utf8,
            Self::Bytes => DataType::Binary,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::TimestampUtc => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Date => DataType::Date32,
        }
    }
}

/// How the values of a column are asked for and read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell {
    form: Form,
    is_list: bool,
    cast: Option<&'static str>,
}

impl Cell {
    pub(super) fn of(info: &PgTypeInfo) -> Self {
        let (info, is_list) = match info.kind() {
            PgTypeKind::Domain(base) => return Self::of(base),
            PgTypeKind::Array(element) => (element, true),
            _ => (info, false),
        };
        let (form, cast) = match info.kind() {
            PgTypeKind::Simple => Form::of(info.name()),
            // Among them lists of domains, which a cast makes plain.
            _ => (Form::Text, Some("text")),
        };
        Self { form, is_list, cast }
    }

    /// The column in a `SELECT`; its name is quoted already.
    pub(super) fn selected(self, column: &str) -> String {
        match self.cast {
            None => column.to_owned(),
            Some(to) => {
                let list = if self.is_list { "[]" } else { "" };
                format!("{column}::{to}{list} AS {column}")
            }
        }
    }

    pub(super) fn data_type(self) -> DataType {
        if self.is_list {
            DataType::new_list(self.form.data_type(), true)
        } else {
            self.form.data_type()
        }
    }
}

enum Values {
    Bool(BooleanBuilder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Float32(Float32Builder),
    Float64(Float64Builder),
    Text(StringBuilder),
    Bytes(BinaryBuilder),
    Timestamp(TimestampMicrosecondBuilder),
    Date(Date32Builder),
}

/// A column that is being read.
pub(super) struct Column {
    cell: Cell,
    values: Values,
    /// Of a list: the ends of its cells and which of them are there.
    ends: Vec<i32>,
    present: Vec<bool>,
}

impl Column {
    pub(super) fn new(cell: Cell) -> Self {
        let values = match cell.form {
            Form::Bool => Values::Bool(BooleanBuilder::new()),
            Form::Int16 | Form::Int32 => Values::Int32(Int32Builder::new()),
            Form::Int64 => Values::Int64(Int64Builder::new()),
            Form::Float32 => Values::Float32(Float32Builder::new()),
            Form::Float64 => Values::Float64(Float64Builder::new()),
            Form::Text => Values::Text(StringBuilder::new()),
            Form::Bytes => Values::Bytes(BinaryBuilder::new()),
            Form::Timestamp | Form::TimestampUtc => {
                let builder = TimestampMicrosecondBuilder::new();
                Values::Timestamp(builder.with_data_type(cell.form.data_type()))
            }
            Form::Date => Values::Date(Date32Builder::new()),
        };
        Self {
            cell,
            values,
            ends: Vec::new(),
            present: Vec::new(),
        }
    }

    /// Adds a value, or a null.
    ///
    /// # Errors
    /// `InvalidArgument` when it cannot be held, `Internal` when it is not of the form that was asked for.
    pub(super) fn push(&mut self, value: Option<&[u8]>) -> Result<()> {
        if !self.cell.is_list {
            return self.push_one(value);
        }
        if let Some(mut list) = value {
            let dimensions = i32_of(&mut list)?;
            let (_has_nulls, _element) = (i32_of(&mut list)?, i32_of(&mut list)?);
            let count = match dimensions {
                0 => 0,
                1 => {
                    let (count, _first) = (i32_of(&mut list)?, i32_of(&mut list)?);
                    count
                }
                _ => return Err(Error::unsupported("lists of lists of PostgreSQL are not read")),
            };
            for _ in 0..count {
                let element = field(&mut list)?;
                self.push_one(element)?;
            }
        }
        self.present.push(value.is_some());
        let end = i32::try_from(self.count()).map_err(|_| Error::internal("lists are too long"))?;
        self.ends.push(end);
        Ok(())
    }

    fn push_one(&mut self, value: Option<&[u8]>) -> Result<()> {
        match &mut self.values {
            Values::Bool(builder) => {
                let bit = value.map(|value| fixed::<1>(value).map(|[bit]| bit != 0));
                builder.append_option(bit.transpose()?);
            }
            Values::Int32(builder) => {
                let is_short = self.cell.form == Form::Int16;
                let whole = value.map(|value| match is_short {
                    true => fixed(value).map(|bytes| i32::from(i16::from_be_bytes(bytes))),
                    false => fixed(value).map(i32::from_be_bytes),
                });
                builder.append_option(whole.transpose()?);
            }
            Values::Int64(builder) => {
                let whole = value.map(|value| fixed(value).map(i64::from_be_bytes));
                builder.append_option(whole.transpose()?);
            }
            Values::Float32(builder) => {
                let number = value.map(|value| fixed(value).map(f32::from_be_bytes));
                builder.append_option(number.transpose()?);
            }
            Values::Float64(builder) => {
                let number = value.map(|value| fixed(value).map(f64::from_be_bytes));
                builder.append_option(number.transpose()?);
            }
            Values::Text(builder) => {
                let text = value.map(std::str::from_utf8).transpose();
                builder.append_option(text.map_err(|_| Error::invalid("a text is not UTF-8"))?);
            }
            Values::Bytes(builder) => builder.append_option(value),
            Values::Timestamp(builder) => {
                // The ends of the scale are PostgreSQL's infinities, and stay there.
                let moment = value.map(|value| fixed(value).map(i64::from_be_bytes));
                let since_1970 = |micros: i64| match micros {
                    i64::MIN => i64::MIN,
                    micros => micros.saturating_add(EPOCH_MICROS),
                };
                builder.append_option(moment.transpose()?.map(since_1970));
            }
            Values::Date(builder) => {
                let day = value.map(|value| fixed(value).map(i32::from_be_bytes));
                let since_1970 = |days: i32| match days {
                    i32::MIN => i32::MIN,
                    days => days.saturating_add(EPOCH_DAYS),
                };
                builder.append_option(day.transpose()?.map(since_1970));
            }
        }
        Ok(())
    }

    fn count(&self) -> usize {
        use arrow::array::ArrayBuilder as _;
        match &self.values {
            Values::Bool(builder) => builder.len(),
            Values::Int32(builder) => builder.len(),
            Values::Int64(builder) => builder.len(),
            Values::Float32(builder) => builder.len(),
            Values::Float64(builder) => builder.len(),
            Values::Text(builder) => builder.len(),
            Values::Bytes(builder) => builder.len(),
            Values::Timestamp(builder) => builder.len(),
            Values::Date(builder) => builder.len(),
        }
    }

    /// What was read, and begins anew.
    pub(super) fn finish(&mut self) -> Result<ArrayRef> {
        let values: ArrayRef = match &mut self.values {
            Values::Bool(builder) => Arc::new(builder.finish()),
            Values::Int32(builder) => Arc::new(builder.finish()),
            Values::Int64(builder) => Arc::new(builder.finish()),
            Values::Float32(builder) => Arc::new(builder.finish()),
            Values::Float64(builder) => Arc::new(builder.finish()),
            Values::Text(builder) => Arc::new(builder.finish()),
            Values::Bytes(builder) => Arc::new(builder.finish()),
            Values::Timestamp(builder) => Arc::new(builder.finish()),
            Values::Date(builder) => Arc::new(builder.finish()),
        };
        if !self.cell.is_list {
            return Ok(values);
        }
        let ends = std::mem::take(&mut self.ends);
        let offsets: Vec<i32> = std::iter::once(0).chain(ends).collect();
        let field = Field::new_list_field(self.cell.form.data_type(), true);
        Ok(Arc::new(ListArray::try_new(
            Arc::new(field),
            OffsetBuffer::new(offsets.into()),
            values,
            Some(NullBuffer::from(std::mem::take(&mut self.present))),
        )?))
    }
}

/// The next value with its length before it.
pub(super) fn field<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>> {
    let length = i32_of(rest)?;
    let Ok(length) = usize::try_from(length) else {
        return Ok(None);
    };
    let (value, after) = rest.split_at_checked(length).ok_or_else(malformed)?;
    *rest = after;
    Ok(Some(value))
}

fn i32_of(rest: &mut &[u8]) -> Result<i32> {
    let (number, after) = rest.split_first_chunk().ok_or_else(malformed)?;
    *rest = after;
    Ok(i32::from_be_bytes(*number))
}

fn fixed<const N: usize>(value: &[u8]) -> Result<[u8; N]> {
    value.try_into().map_err(|_| malformed())
}

fn malformed() -> Error {
    Error::internal("PostgreSQL sent a value in another form than was asked for")
}
