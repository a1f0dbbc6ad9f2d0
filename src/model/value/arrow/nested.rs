//! Columns of lists, maps and structs, whose parts have the types Arrow says they have.

use std::ops::Range;

use ::arrow::array::{Array, ArrayRef, AsArray, MapArray};
use ::arrow::compute::cast;
use ::arrow::datatypes::DataType;

use super::super::{Kind, NULL, Value, json};
use super::column::Column;
use super::{cells, list_of};
use crate::error::{Error, Result};
use crate::model::ValueType;
use crate::proto::feast::types::{
    Map, MapKey, MapList, RepeatedValue, ScalarMap, ScalarMapEntry, map_key::Key,
};

/// The elements of all lists, and for each row which of them are its own; `None` for a null list.
pub(super) fn lists(
    array: &dyn Array,
    value_type: ValueType,
) -> Result<(ArrayRef, Vec<Option<Range<usize>>>)> {
    let ranges = |ends: &mut dyn Iterator<Item = Range<usize>>| -> Vec<Option<Range<usize>>> {
        ends.enumerate()
            .map(|(row, range)| array.is_valid(row).then_some(range))
            .collect()
    };
    match array.data_type() {
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let offset = |offset: i32| usize::try_from(offset).unwrap_or_default();
            let mut rows = list
                .offsets()
                .windows(2)
                .map(|pair| offset(pair[0])..offset(pair[1]));
            Ok((list.values().clone(), ranges(&mut rows)))
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            let offset = |offset: i64| usize::try_from(offset).unwrap_or_default();
            let mut rows = list
                .offsets()
                .windows(2)
                .map(|pair| offset(pair[0])..offset(pair[1]));
            Ok((list.values().clone(), ranges(&mut rows)))
        }
        DataType::FixedSizeList(_, _) => {
            let list = array.as_fixed_size_list();
            let width = usize::try_from(list.value_length()).unwrap_or_default();
            let mut rows = (0..list.len()).map(|row| row * width..(row + 1) * width);
            Ok((list.values().clone(), ranges(&mut rows)))
        }
        DataType::ListView(item) | DataType::LargeListView(item) => lists(
            cast(array, &DataType::LargeList(item.clone()))?.as_ref(),
            value_type,
        ),
        data_type => Err(cells::misfit(data_type, value_type)),
    }
}

/// Values of the types that have no columnar form.
pub(super) fn read(array: &dyn Array, value_type: ValueType) -> Result<Vec<Value>> {
    if cells::is_text(array.data_type()) {
        return cells::json_values(array, value_type);
    }
    let wrap = |kind: Option<Kind>| Value { val: kind };
    Ok(match value_type {
        ValueType::Map => maps(array, value_type)?
            .into_iter()
            .map(|map| wrap(map.map(Kind::MapVal)))
            .collect(),
        ValueType::Struct => maps(array, value_type)?
            .into_iter()
            .map(|map| wrap(map.map(Kind::StructVal)))
            .collect(),
        ValueType::MapList => map_lists(array, value_type)?
            .into_iter()
            .map(|list| wrap(list.map(Kind::MapListVal)))
            .collect(),
        ValueType::StructList => map_lists(array, value_type)?
            .into_iter()
            .map(|list| wrap(list.map(Kind::StructListVal)))
            .collect(),
        ValueType::ValueList => value_lists(array, value_type)?
            .into_iter()
            .map(|list| wrap(list.map(Kind::ListVal)))
            .collect(),
        ValueType::ValueSet => value_lists(array, value_type)?
            .into_iter()
            .map(|list| wrap(list.map(Kind::SetVal)))
            .collect(),
        ValueType::ScalarMap => scalar_maps(array)?,
        _ => return Err(cells::misfit(array.data_type(), value_type)),
    })
}

/// Values of the types the columns themselves have. As in Feast, a single number is as wide as Python's
/// numbers are, and a list keeps the width of its elements.
pub(super) fn inferred(array: &dyn Array) -> Result<Vec<Value>> {
    Ok(Column::read(array, inferred_type(array.data_type()))?.into_values())
}

fn inferred_type(data_type: &DataType) -> ValueType {
    match data_type {
        DataType::Struct(_) | DataType::Map(..) => ValueType::Map,
        DataType::Dictionary(_, inner) => inferred_type(inner),
        DataType::LargeUtf8 => ValueType::String,
        data_type if data_type.is_integer() => ValueType::Int64,
        data_type if data_type.is_floating() => ValueType::Double,
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => match item.data_type() {
            DataType::Struct(_) | DataType::Map(..) => ValueType::MapList,
            DataType::LargeUtf8 => ValueType::StringList,
            // A list that can only hold nulls or be empty has Feast's type of an empty list.
            DataType::Null => ValueType::Int64List,
            item => match list_of(super::from_arrow_type(item)) {
                ValueType::Unknown => ValueType::StringList,
                list => list,
            },
        },
        data_type => match super::from_arrow_type(data_type) {
            ValueType::Unknown => ValueType::String,
            known => known,
        },
    }
}

/// Rows of structs or of maps with texts as keys.
fn maps(array: &dyn Array, value_type: ValueType) -> Result<Vec<Option<Map>>> {
    match array.data_type() {
        DataType::Struct(fields) => {
            let columns: Vec<_> = array
                .as_struct()
                .columns()
                .iter()
                .map(|column| inferred(column))
                .collect::<Result<_>>()?;
            let row = |row: usize| Map {
                val: fields
                    .iter()
                    .zip(&columns)
                    .map(|(field, column)| (field.name().clone(), column[row].clone()))
                    .collect(),
            };
            Ok((0..array.len())
                .map(|index| array.is_valid(index).then(|| row(index)))
                .collect())
        }
        DataType::Map(..) => {
            let map = array.as_map();
            let keys = cells::texts(map.keys().as_ref(), ValueType::String)?;
            let values = inferred(map.values().as_ref())?;
            let row = |range: Range<usize>| Map {
                val: range
                    .map(|entry| (keys.value(entry).to_owned(), values[entry].clone()))
                    .collect(),
            };
            Ok(entries(map).into_iter().map(|range| range.map(row)).collect())
        }
        data_type if cells::is_text(data_type) => Ok(cells::json_values(array, ValueType::Map)?
            .into_iter()
            .map(|value| match value.val {
                Some(Kind::MapVal(map)) => Some(map),
                _ => None,
            })
            .collect()),
        data_type => Err(cells::misfit(data_type, value_type)),
    }
}

/// Which entries belong to which row.
fn entries(map: &MapArray) -> Vec<Option<Range<usize>>> {
    let offset = |offset: i32| usize::try_from(offset).unwrap_or_default();
    map.offsets()
        .windows(2)
        .enumerate()
        .map(|(row, pair)| map.is_valid(row).then(|| offset(pair[0])..offset(pair[1])))
        .collect()
}

fn map_lists(array: &dyn Array, value_type: ValueType) -> Result<Vec<Option<MapList>>> {
    let (items, rows) = lists(array, value_type)?;
    let maps = maps(items.as_ref(), value_type)?;
    let list = |row: Range<usize>| MapList {
        val: maps[row].iter().cloned().map(Option::unwrap_or_default).collect(),
    };
    Ok(rows.into_iter().map(|row| row.map(list)).collect())
}

/// Lists of lists. Feast has no type for an empty inner list and stores nothing for it.
fn value_lists(array: &dyn Array, value_type: ValueType) -> Result<Vec<Option<RepeatedValue>>> {
    let (items, rows) = lists(array, value_type)?;
    let (_, inner_rows) = lists(items.as_ref(), value_type)?;
    let mut values = inferred(items.as_ref())?;
    for (value, inner) in values.iter_mut().zip(inner_rows) {
        if inner.is_none_or(|range| range.is_empty()) {
            *value = NULL;
        }
    }
    let list = |row: Range<usize>| RepeatedValue {
        val: values[row].to_vec(),
    };
    Ok(rows.into_iter().map(|row| row.map(list)).collect())
}

fn scalar_maps(array: &dyn Array) -> Result<Vec<Value>> {
    let DataType::Map(..) = array.data_type() else {
        return Err(cells::misfit(array.data_type(), ValueType::ScalarMap));
    };
    let map = array.as_map();
    let keys: Vec<MapKey> = inferred(map.keys().as_ref())?
        .into_iter()
        .map(map_key)
        .collect::<Result<_>>()?;
    let values = inferred(map.values().as_ref())?;
    let row = |range: Range<usize>| {
        let entry = |entry: usize| ScalarMapEntry {
            key: Some(keys[entry].clone()),
            value: Some(values[entry].clone()),
        };
        Value::from(Kind::ScalarMapVal(ScalarMap {
            val: range.map(entry).collect(),
        }))
    };
    Ok(entries(map)
        .into_iter()
        .map(|range| range.map_or(NULL, row))
        .collect())
}

fn map_key(value: Value) -> Result<MapKey> {
    let key = match value.val {
        Some(Kind::Int64Val(number)) => Key::Int64Key(number),
        Some(Kind::DoubleVal(number)) => Key::DoubleKey(number),
        Some(Kind::BoolVal(truth)) => Key::BoolKey(truth),
        Some(Kind::UnixTimestampVal(seconds)) => Key::UnixTimestampKey(seconds),
        Some(Kind::BytesVal(bytes)) => Key::BytesKey(bytes),
        Some(Kind::DecimalVal(text)) => Key::DecimalKey(text),
        _ => {
            let shown = json::to_json(&value);
            return Err(
                Error::invalid(format!("`{shown}` cannot be a key of a `ScalarMap`"))
                    .hint("a map with texts as keys is a Map"),
            );
        }
    };
    Ok(MapKey { key: Some(key) })
}
