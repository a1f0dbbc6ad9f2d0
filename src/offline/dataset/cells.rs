//! Cells as bytes that are the same however they are stored: the width of a number, the unit and zone of a
//! time and the layout of text or a list leave no trace. What is written here is hashed into manifests that
//! are kept, so the bytes of a value must never change.

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, LargeBinaryArray, LargeStringArray,
        UInt64Array,
    },
    compute::cast,
    datatypes::{DataType, Field, TimeUnit},
    record_batch::RecordBatch,
    util::display::{ArrayFormatter, FormatOptions},
};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

const NANOS_PER_DAY: i128 = 86_400_000_000_000;

/// The columns of a batch, ready to be written cell by cell.
pub(super) struct Encoder(Vec<Cells>);

impl Encoder {
    /// Of these columns, in this order.
    pub(super) fn new<'a>(batch: &RecordBatch, columns: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let cells = |name: &str| {
            let column = batch.column_by_name(name);
            let column = column.ok_or_else(|| Error::internal(format!("rows without column `{name}`")))?;
            Cells::new(column)
        };
        Ok(Self(columns.into_iter().map(cells).collect::<Result<_>>()?))
    }

    /// Writes the cells of a row.
    pub(super) fn write(&self, row: usize, to: &mut Vec<u8>) -> Result<()> {
        self.0.iter().try_for_each(|cells| cells.write(row, to))
    }

    /// A digest of the cells of a row. `scratch` is overwritten; it saves memory being asked for.
    pub(super) fn digest(&self, row: usize, scratch: &mut Vec<u8>) -> Result<u128> {
        scratch.clear();
        self.write(row, scratch)?;
        Ok(halves(&Sha256::digest(scratch)).0)
    }
}

/// A digest as two numbers.
pub(super) fn halves(digest: &[u8]) -> (u128, u128) {
    let half = |from: usize| {
        let bytes = digest.iter().skip(from).take(16);
        bytes.fold(0, |number: u128, byte| number << 8 | u128::from(*byte))
    };
    (half(0), half(16))
}

/// What a column holds, for people and for comparing columns of two sets.
pub(super) fn kind(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Null => "null",
        DataType::Boolean => "boolean",
        whole if whole.is_integer() => "integer",
        real if real.is_floating() => "number",
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => "time",
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text",
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            "bytes"
        }
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => "list",
        DataType::Struct(_) => "struct",
        DataType::Map(..) => "map",
        DataType::Dictionary(_, values) => kind(values),
        _ => "other",
    }
}

enum Cells {
    Null,
    Boolean(BooleanArray),
    Whole(Int64Array),
    Unsigned(UInt64Array),
    Real(Float64Array),
    /// With what one step of the numbers is in nanoseconds.
    Time(Int64Array, i128),
    Text(LargeStringArray),
    Bytes(LargeBinaryArray),
    /// With the offsets of each row's items.
    List(ArrayRef, Vec<usize>, Box<Cells>),
    /// Keys and values between the offsets of each row.
    Map(ArrayRef, Vec<usize>, Box<Cells>, Box<Cells>),
    /// Fields by name.
    Struct(ArrayRef, Vec<(String, Cells)>),
    /// As it is shown.
    Other(ArrayRef),
}

impl Cells {
    fn new(array: &ArrayRef) -> Result<Self> {
        let to = |data_type: &DataType| cast(array, data_type);
        Ok(match array.data_type() {
            DataType::Null => Self::Null,
            DataType::Boolean => Self::Boolean(array.as_boolean().clone()),
            DataType::UInt64 => Self::Unsigned(array.as_primitive().clone()),
            whole if whole.is_integer() => Self::Whole(to(&DataType::Int64)?.as_primitive().clone()),
            real if real.is_floating() => Self::Real(to(&DataType::Float64)?.as_primitive().clone()),
            DataType::Timestamp(unit, _) => {
                let step = match unit {
                    TimeUnit::Second => 1_000_000_000,
                    TimeUnit::Millisecond => 1_000_000,
                    TimeUnit::Microsecond => 1_000,
                    TimeUnit::Nanosecond => 1,
                };
                Self::Time(to(&DataType::Int64)?.as_primitive().clone(), step)
            }
            DataType::Date32 => Self::Time(
                cast(&to(&DataType::Int32)?, &DataType::Int64)?
                    .as_primitive()
                    .clone(),
                NANOS_PER_DAY,
            ),
            DataType::Date64 => Self::Time(to(&DataType::Int64)?.as_primitive().clone(), 1_000_000),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                Self::Text(to(&DataType::LargeUtf8)?.as_string().clone())
            }
            DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
            | DataType::FixedSizeBinary(_) => Self::Bytes(to(&DataType::LargeBinary)?.as_binary().clone()),
            DataType::Dictionary(_, values) => Self::new(&to(values)?)?,
            DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
                let item = Field::new(item.name(), item.data_type().clone(), true);
                let lists = to(&DataType::LargeList(item.into()))?;
                let list = lists.as_list::<i64>();
                let offsets = list.offsets().iter().map(|at| usize::try_from(*at).unwrap_or(0));
                let (offsets, items) = (offsets.collect(), Self::new(list.values())?);
                Self::List(lists, offsets, Box::new(items))
            }
            DataType::Map(..) => {
                let map = array.as_map();
                let offsets = map.offsets().iter().map(|at| usize::try_from(*at).unwrap_or(0));
                let (keys, values) = (Self::new(map.keys())?, Self::new(map.values())?);
                Self::Map(
                    ArrayRef::clone(array),
                    offsets.collect(),
                    Box::new(keys),
                    Box::new(values),
                )
            }
            DataType::Struct(fields) => {
                let columns = fields.iter().zip(array.as_struct().columns());
                let cells = columns.map(|(field, column)| Ok((field.name().clone(), Self::new(column)?)));
                let mut cells = cells.collect::<Result<Vec<_>>>()?;
                cells.sort_by(|a, b| a.0.cmp(&b.0));
                Self::Struct(ArrayRef::clone(array), cells)
            }
            _ => Self::Other(ArrayRef::clone(array)),
        })
    }

    fn is_null(&self, row: usize) -> bool {
        match self {
            Self::Null => true,
            Self::Boolean(array) => array.is_null(row),
            Self::Whole(array) | Self::Time(array, _) => array.is_null(row),
            Self::Unsigned(array) => array.is_null(row),
            Self::Real(array) => array.is_null(row),
            Self::Text(array) => array.is_null(row),
            Self::Bytes(array) => array.is_null(row),
            Self::List(array, ..) | Self::Map(array, ..) | Self::Struct(array, _) | Self::Other(array) => {
                array.is_null(row)
            }
        }
    }

    fn write(&self, row: usize, to: &mut Vec<u8>) -> Result<()> {
        if self.is_null(row) {
            to.push(0);
            return Ok(());
        }
        match self {
            Self::Null => {}
            Self::Boolean(array) => to.extend([b'?', u8::from(array.value(row))]),
            Self::Whole(array) => fixed(to, b'i', i128::from(array.value(row))),
            Self::Unsigned(array) => fixed(to, b'i', i128::from(array.value(row))),
            Self::Real(array) => {
                let value = array.value(row);
                let value = if value.is_nan() { f64::NAN } else { value };
                to.push(b'f');
                to.extend(value.to_bits().to_le_bytes());
            }
            Self::Time(array, step) => fixed(to, b't', i128::from(array.value(row)) * step),
            Self::Text(array) => sized(to, b's', array.value(row).as_bytes()),
            Self::Bytes(array) => sized(to, b'b', array.value(row)),
            Self::List(_, offsets, items) => {
                for item in begin(to, b'l', offsets, row) {
                    items.write(item, to)?;
                }
            }
            Self::Map(_, offsets, keys, values) => {
                for item in begin(to, b'm', offsets, row) {
                    keys.write(item, to)?;
                    values.write(item, to)?;
                }
            }
            Self::Struct(_, fields) => {
                to.push(b'{');
                for (name, cells) in fields {
                    sized(to, b'.', name.as_bytes());
                    cells.write(row, to)?;
                }
                to.push(b'}');
            }
            Self::Other(array) => {
                let options = FormatOptions::default();
                let shown = ArrayFormatter::try_new(array, &options)?.value(row).to_string();
                sized(to, b'o', shown.as_bytes());
            }
        }
        Ok(())
    }
}

fn fixed(to: &mut Vec<u8>, tag: u8, value: i128) {
    to.push(tag);
    to.extend(value.to_le_bytes());
}

pub(super) fn sized(to: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    to.push(tag);
    to.extend((bytes.len() as u64).to_le_bytes());
    to.extend(bytes);
}

/// Writes how many items a row has; answers where they are.
fn begin(to: &mut Vec<u8>, tag: u8, offsets: &[usize], row: usize) -> std::ops::Range<usize> {
    let at = |row: usize| offsets.get(row).copied().unwrap_or_default();
    let items = at(row)..at(row + 1);
    to.push(tag);
    to.extend((items.len() as u64).to_le_bytes());
    items
}
