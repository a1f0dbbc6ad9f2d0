//! Values as Arrow columns: what a source's column becomes in the online store, and the columns that
//! values are handed out in. Which column belongs to which feature is decided elsewhere.
//!
//! The rules are those of Feast's way through pandas, where that way keeps the data. Where it loses or
//! refuses data for reasons of pandas (whole numbers beside nulls, lists of whole numbers with nulls),
//! the data is kept.

use std::sync::{Arc, LazyLock};

use ::arrow::array::{Array, ArrayRef};
use ::arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use bytes::{Bytes, BytesMut};

use super::{Value, collection};
use crate::error::Result;
use crate::model::ValueType;

mod build;
mod cells;
mod column;
mod encoded;
mod nested;

use column::Column;

/// The values of a column, as values of `value_type`; a null is the empty value.
///
/// NaN counts as null in a scalar column and stays NaN in lists; a null inside a list becomes an empty
/// text, 0, false, NaN or the null timestamp. A column of lists where a scalar is declared is null
/// throughout, as in Feast.
///
/// # Errors
/// [`crate::error::Kind::InvalidArgument`] when the column, or a value in it, does not fit the type.
pub fn from_array(array: &dyn Array, value_type: ValueType) -> Result<Vec<Value>> {
    Ok(Column::read(array, value_type)?.into_values())
}

/// The values of a column as encoded `feast.types.Value` messages, one per row, no bytes for null: the
/// same as encoding what [`from_array`] returns, without building scalar values in between.
///
/// # Errors
/// As [`from_array`].
pub fn encode_column(array: &dyn Array, value_type: ValueType) -> Result<Vec<Bytes>> {
    let column = Column::read(array, value_type)?;
    let mut out = BytesMut::with_capacity(column.size_hint());
    let ends: Vec<usize> = (0..column.len())
        .map(|row| {
            column.encode(row, &mut out);
            out.len()
        })
        .collect();
    let all = out.freeze();
    let starts = std::iter::once(0).chain(ends.iter().copied());
    Ok(starts
        .zip(&ends)
        .map(|(start, &end)| all.slice(start..end))
        .collect())
}

/// The values as a column of type [`arrow_type`]; values of other types are converted as JSON would be.
///
/// # Errors
/// [`crate::error::Kind::InvalidArgument`] when a value does not fit the type.
pub fn to_array<'a>(values: impl IntoIterator<Item = &'a Value>, value_type: ValueType) -> Result<ArrayRef> {
    build::array(&values.into_iter().collect::<Vec<_>>(), value_type)
}

/// As [`to_array`] from encoded `feast.types.Value` messages, where `None` and no bytes are null.
///
/// # Errors
/// As [`to_array`]; `Internal` when a message is malformed.
pub fn decode_array(cells: &[Option<&[u8]>], value_type: ValueType) -> Result<ArrayRef> {
    encoded::array(cells, value_type)
}

static TEXT_MAP: LazyLock<DataType> = LazyLock::new(|| {
    let entry = Fields::from(vec![
        Field::new("key", DataType::Utf8, false),
        Field::new("value", DataType::Utf8, true),
    ]);
    DataType::Map(
        Arc::new(Field::new("entries", DataType::Struct(entry), false)),
        false,
    )
});

/// The type of a column that holds values of that type, Feast's `FEAST_TYPES_TO_PYARROW_TYPES`.
///
/// A bare [`ValueType`] does not know the fields of a struct or what a nested list holds: structs and
/// maps with other keys have the type of a map of texts, nested lists hold texts.
pub fn arrow_type(value_type: ValueType) -> DataType {
    let list = |item: DataType| DataType::List(Arc::new(Field::new_list_field(item, true)));
    if let Some(element) = collection::element_type(value_type) {
        return list(arrow_type(element));
    }
    match value_type {
        ValueType::Unknown | ValueType::Null => DataType::Null,
        ValueType::Bytes | ValueType::PdfBytes | ValueType::ImageBytes => DataType::Binary,
        ValueType::Int32 => DataType::Int32,
        ValueType::Int64 => DataType::Int64,
        ValueType::Double => DataType::Float64,
        ValueType::Float => DataType::Float32,
        ValueType::Bool => DataType::Boolean,
        ValueType::UnixTimestamp | ValueType::ZonedTimestamp => {
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
        }
        ValueType::Json => DataType::LargeUtf8,
        ValueType::Map | ValueType::Struct | ValueType::ScalarMap => TEXT_MAP.clone(),
        ValueType::MapList | ValueType::StructList => list(TEXT_MAP.clone()),
        ValueType::ValueList | ValueType::ValueSet => list(list(DataType::Utf8)),
        _ => DataType::Utf8,
    }
}

/// The type Feast infers for a source's column (`pa_to_feast_value_type`); [`ValueType::Unknown`] when
/// it has none.
///
/// Dates and decimals, which Feast does not know there, are timestamps and decimals.
pub fn from_arrow_type(data_type: &DataType) -> ValueType {
    match data_type {
        DataType::Null => ValueType::Null,
        DataType::Boolean => ValueType::Bool,
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 => {
            ValueType::Int32
        }
        DataType::Int64 | DataType::UInt32 | DataType::UInt64 => ValueType::Int64,
        DataType::Float16 | DataType::Float32 => ValueType::Float,
        DataType::Float64 => ValueType::Double,
        DataType::Utf8 | DataType::Utf8View => ValueType::String,
        DataType::LargeUtf8 => ValueType::Json,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            ValueType::Bytes
        }
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => ValueType::UnixTimestamp,
        DataType::Decimal32(..)
        | DataType::Decimal64(..)
        | DataType::Decimal128(..)
        | DataType::Decimal256(..) => ValueType::Decimal,
        DataType::Map(..) => ValueType::Map,
        DataType::Struct(_) => ValueType::Struct,
        DataType::Dictionary(_, inner) => from_arrow_type(inner),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => list_of(from_arrow_type(item.data_type())),
        _ => ValueType::Unknown,
    }
}

/// The list type with such elements.
pub(crate) fn list_of(element: ValueType) -> ValueType {
    match element {
        ValueType::Map => ValueType::MapList,
        ValueType::Struct => ValueType::StructList,
        ValueType::Unknown | ValueType::Null => ValueType::Unknown,
        _ => ValueType::ALL
            .iter()
            .copied()
            .find(|&list| collection::element_type(list) == Some(element))
            .unwrap_or(ValueType::ValueList),
    }
}

#[cfg(test)]
mod tests;
