//! A source's column, brought into the one form its feature's type is read from.

use ::arrow::array::{
    Array, BinaryArray, BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array, StringArray,
};
use ::arrow::compute::cast;
use ::arrow::datatypes::{DataType, Float32Type, Float64Type, Int32Type, Int64Type};
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};

use super::super::{Kind, NULL, Value, collection};
use super::{cells, nested};
use crate::error::{Error, Result};
use crate::model::ValueType;
use crate::proto::feast::types::{DoubleList, FloatList, Int32List, Int64List};

/// One column in canonical form. Cloning Arrow arrays is cheap, so nothing is copied when the source has
/// that form already.
pub(super) enum Column {
    Int32(Int32Array),
    Int64(Int64Array),
    Double(Float64Array),
    Float(Float32Array),
    Bool(BooleanArray),
    /// Seconds.
    Timestamp(Int64Array),
    Bytes(BinaryArray),
    /// Texts of one of the types that are texts on the wire.
    Text(StringArray, ValueType),
    /// Everything that has no columnar form.
    Values(Vec<Value>),
}

/// What is done with the part of a timestamp below a second. Feast rounds scalars down (NumPy's way) and
/// list elements towards zero (Python's way); they differ before 1970.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Seconds {
    Down,
    TowardsZero,
}

impl Column {
    pub(super) fn read(array: &dyn Array, value_type: ValueType) -> Result<Self> {
        Self::read_with(array, value_type, Seconds::Down)
    }

    fn read_with(array: &dyn Array, value_type: ValueType, seconds: Seconds) -> Result<Self> {
        if let DataType::Dictionary(_, inner) = array.data_type() {
            return Self::read_with(cast(array, inner)?.as_ref(), value_type, seconds);
        }
        if array.data_type().is_null() {
            return Ok(Self::Values(vec![NULL; array.len()]));
        }
        if collection::element_type(value_type).is_some() {
            return collected(array, value_type).map(Self::Values);
        }
        let is_nested = array.data_type().is_nested();
        Ok(match value_type {
            ValueType::Map
            | ValueType::MapList
            | ValueType::Struct
            | ValueType::StructList
            | ValueType::ValueList
            | ValueType::ValueSet
            | ValueType::ScalarMap => Self::Values(nested::read(array, value_type)?),
            ValueType::Json => Self::Text(cells::json_texts(array)?, value_type),
            ValueType::Unknown => Self::Values(nested::inferred(array)?),
            ValueType::Null => Self::Values(vec![NULL; array.len()]),
            _ if is_nested => Self::Values(vec![NULL; array.len()]),
            ValueType::Int32 => Self::Int32(cells::int32s(array)?),
            ValueType::Int64 => Self::Int64(cells::int64s(array, value_type)?),
            ValueType::Double => Self::Double(cells::doubles(array, value_type)?),
            ValueType::Float => Self::Float(cells::floats(array)?),
            ValueType::Bool => Self::Bool(cells::booleans(array)?),
            ValueType::UnixTimestamp => Self::Timestamp(cells::timestamps(array, value_type, seconds)?),
            ValueType::ZonedTimestamp => Self::Values(cells::zoned_timestamps(array)?),
            ValueType::Bytes | ValueType::PdfBytes | ValueType::ImageBytes => {
                Self::Bytes(cells::binaries(array, value_type)?)
            }
            ValueType::Uuid | ValueType::TimeUuid => Self::Text(cells::uuids(array, value_type)?, value_type),
            _ => Self::Text(cells::texts(array, value_type)?, value_type),
        })
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Values(values) => values.len(),
            Self::Bool(array) => array.len(),
            Self::Int32(array) => array.len(),
            Self::Int64(array) | Self::Timestamp(array) => array.len(),
            Self::Double(array) => array.len(),
            Self::Float(array) => array.len(),
            Self::Bytes(array) => array.len(),
            Self::Text(array, _) => array.len(),
        }
    }

    /// About as many bytes as the encoded column takes.
    pub(super) fn size_hint(&self) -> usize {
        match self {
            Self::Bytes(array) => array.value_data().len() + 4 * array.len(),
            Self::Text(array, _) => array.value_data().len() + 4 * array.len(),
            _ => 10 * self.len(),
        }
    }

    pub(super) fn into_values(self) -> Vec<Value> {
        match self {
            Self::Values(values) => values,
            column => (0..column.len()).map(|row| column.scalar(row)).collect(),
        }
    }

    /// The value of a row of a scalar column, where NaN counts as null.
    fn scalar(&self, row: usize) -> Value {
        match self.element(row).val {
            Some(Kind::DoubleVal(number)) if number.is_nan() => NULL,
            Some(Kind::FloatVal(number)) if number.is_nan() => NULL,
            val => Value { val },
        }
    }

    /// The value of a row of a list's elements, where NaN is a number.
    fn element(&self, row: usize) -> Value {
        if self.is_null(row) {
            return NULL;
        }
        match self {
            Self::Values(values) => values[row].clone(),
            Self::Int32(array) => Kind::Int32Val(array.value(row)).into(),
            Self::Int64(array) => Kind::Int64Val(array.value(row)).into(),
            Self::Double(array) => Kind::DoubleVal(array.value(row)).into(),
            Self::Float(array) => Kind::FloatVal(array.value(row)).into(),
            Self::Bool(array) => Kind::BoolVal(array.value(row)).into(),
            Self::Timestamp(array) => Kind::UnixTimestampVal(array.value(row)).into(),
            Self::Bytes(array) => Kind::BytesVal(Bytes::copy_from_slice(array.value(row))).into(),
            Self::Text(array, value_type) => {
                let text = array.value(row).to_owned();
                match value_type {
                    ValueType::Json => Kind::JsonVal(text),
                    ValueType::Uuid => Kind::UuidVal(text),
                    ValueType::TimeUuid => Kind::TimeUuidVal(text),
                    ValueType::Decimal => Kind::DecimalVal(text),
                    _ => Kind::StringVal(text),
                }
                .into()
            }
        }
    }

    fn is_null(&self, row: usize) -> bool {
        match self {
            Self::Values(_) => false,
            Self::Int32(array) => array.is_null(row),
            Self::Int64(array) | Self::Timestamp(array) => array.is_null(row),
            Self::Double(array) => array.is_null(row),
            Self::Float(array) => array.is_null(row),
            Self::Bool(array) => array.is_null(row),
            Self::Bytes(array) => array.is_null(row),
            Self::Text(array, _) => array.is_null(row),
        }
    }

    /// Appends the encoded message of a row of a scalar column; nothing for null.
    pub(super) fn encode(&self, row: usize, out: &mut BytesMut) {
        if self.is_null(row) {
            return;
        }
        match self {
            Self::Values(values) => {
                // The buffer grows as needed, so there is always room.
                let _ = values[row].encode(out);
            }
            Self::Int32(array) => varint(out, ValueType::Int32, i64::from(array.value(row))),
            Self::Int64(array) => varint(out, ValueType::Int64, array.value(row)),
            Self::Timestamp(array) => varint(out, ValueType::UnixTimestamp, array.value(row)),
            Self::Bool(array) => varint(out, ValueType::Bool, i64::from(array.value(row))),
            Self::Double(array) if !array.value(row).is_nan() => {
                encode_key(tag(ValueType::Double), WireType::SixtyFourBit, out);
                out.put_f64_le(array.value(row));
            }
            Self::Float(array) if !array.value(row).is_nan() => {
                encode_key(tag(ValueType::Float), WireType::ThirtyTwoBit, out);
                out.put_f32_le(array.value(row));
            }
            Self::Double(_) | Self::Float(_) => {}
            Self::Bytes(array) => delimited(out, ValueType::Bytes, array.value(row)),
            Self::Text(array, value_type) => delimited(out, *value_type, array.value(row).as_bytes()),
        }
    }
}

/// A type's number is the number of the field its values travel in.
fn tag(value_type: ValueType) -> u32 {
    value_type as u32
}

fn varint(out: &mut BytesMut, value_type: ValueType, number: i64) {
    encode_key(tag(value_type), WireType::Varint, out);
    encode_varint(number.cast_unsigned(), out);
}

fn delimited(out: &mut BytesMut, value_type: ValueType, content: &[u8]) {
    encode_key(tag(value_type), WireType::LengthDelimited, out);
    encode_varint(content.len() as u64, out);
    out.extend_from_slice(content);
}

/// Lists and sets of scalars, from a list column or from JSON texts.
fn collected(array: &dyn Array, value_type: ValueType) -> Result<Vec<Value>> {
    let Some(element) = collection::element_type(value_type) else {
        return Err(Error::internal(format!("type `{value_type}` is no collection")));
    };
    if cells::is_text(array.data_type()) {
        return cells::json_values(array, value_type);
    }
    let (items, rows) = nested::lists(array, value_type)?;
    let column = Column::read_with(items.as_ref(), element, Seconds::TowardsZero)?;
    let list = |row: std::ops::Range<usize>| match (&column, value_type) {
        // Embeddings are long; copy them whole.
        (Column::Float(array), ValueType::FloatList) if array.null_count() == 0 => {
            Kind::FloatListVal(FloatList {
                val: slice::<Float32Type>(array, row),
            })
            .into()
        }
        (Column::Double(array), ValueType::DoubleList) if array.null_count() == 0 => {
            Kind::DoubleListVal(DoubleList {
                val: slice::<Float64Type>(array, row),
            })
            .into()
        }
        (Column::Int64(array), ValueType::Int64List) if array.null_count() == 0 => {
            Kind::Int64ListVal(Int64List {
                val: slice::<Int64Type>(array, row),
            })
            .into()
        }
        (Column::Int32(array), ValueType::Int32List) if array.null_count() == 0 => {
            Kind::Int32ListVal(Int32List {
                val: slice::<Int32Type>(array, row),
            })
            .into()
        }
        _ => collection::collect(value_type, row.map(|row| column.element(row)).collect()),
    };
    Ok(rows.into_iter().map(|row| row.map_or(NULL, list)).collect())
}

fn slice<T: ::arrow::datatypes::ArrowPrimitiveType>(
    array: &::arrow::array::PrimitiveArray<T>,
    row: std::ops::Range<usize>,
) -> Vec<T::Native> {
    array.values()[row].to_vec()
}
