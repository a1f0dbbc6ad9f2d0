//! Arrow types in the words of `pyarrow`, which Feast's SDK reads column types by.

use arrow::datatypes::{DataType, TimeUnit};

/// What `str(type)` says in Python.
pub(super) fn name(data_type: &DataType) -> String {
    match data_type {
        DataType::Null => "null".to_owned(),
        DataType::Boolean => "bool".to_owned(),
        DataType::Int8 => "int8".to_owned(),
        DataType::Int16 => "int16".to_owned(),
        DataType::Int32 => "int32".to_owned(),
        DataType::Int64 => "int64".to_owned(),
        DataType::UInt8 => "uint8".to_owned(),
        DataType::UInt16 => "uint16".to_owned(),
        DataType::UInt32 => "uint32".to_owned(),
        DataType::UInt64 => "uint64".to_owned(),
        DataType::Float16 => "halffloat".to_owned(),
        DataType::Float32 => "float".to_owned(),
        DataType::Float64 => "double".to_owned(),
        DataType::Utf8 => "string".to_owned(),
        DataType::LargeUtf8 => "large_string".to_owned(),
        DataType::Utf8View => "string_view".to_owned(),
        DataType::Binary => "binary".to_owned(),
        DataType::LargeBinary => "large_binary".to_owned(),
        DataType::BinaryView => "binary_view".to_owned(),
        DataType::FixedSizeBinary(size) => format!("fixed_size_binary[{size}]"),
        DataType::Date32 => "date32[day]".to_owned(),
        DataType::Date64 => "date64[ms]".to_owned(),
        DataType::Time32(unit) => format!("time32[{}]", unit_name(*unit)),
        DataType::Time64(unit) => format!("time64[{}]", unit_name(*unit)),
        DataType::Duration(unit) => format!("duration[{}]", unit_name(*unit)),
        DataType::Timestamp(unit, None) => format!("timestamp[{}]", unit_name(*unit)),
        DataType::Timestamp(unit, Some(zone)) => format!("timestamp[{}, tz={zone}]", unit_name(*unit)),
        DataType::Decimal128(precision, scale) => format!("decimal128({precision}, {scale})"),
        DataType::Decimal256(precision, scale) => format!("decimal256({precision}, {scale})"),
        DataType::List(item) => format!("list<{}: {}>", item.name(), name(item.data_type())),
        DataType::LargeList(item) => format!("large_list<{}: {}>", item.name(), name(item.data_type())),
        DataType::FixedSizeList(item, size) => {
            format!(
                "fixed_size_list<{}: {}>[{size}]",
                item.name(),
                name(item.data_type())
            )
        }
        DataType::Struct(fields) => {
            let fields: Vec<_> = fields
                .iter()
                .map(|field| format!("{}: {}", field.name(), name(field.data_type())))
                .collect();
            format!("struct<{}>", fields.join(", "))
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) => {
                let types: Vec<_> = fields.iter().map(|field| name(field.data_type())).collect();
                format!("map<{}>", types.join(", "))
            }
            other => name(other),
        },
        DataType::Dictionary(indices, values) => {
            format!(
                "dictionary<values={}, indices={}, ordered=0>",
                name(values),
                name(indices)
            )
        }
        other => other.to_string().to_lowercase(),
    }
}

fn unit_name(unit: TimeUnit) -> &'static str {
    match unit {
        TimeUnit::Second => "s",
        TimeUnit::Millisecond => "ms",
        TimeUnit::Microsecond => "us",
        TimeUnit::Nanosecond => "ns",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::Field;

    use super::*;

    #[test]
    fn types_are_called_as_in_python() {
        let item = |data_type| Arc::new(Field::new("item", data_type, true));
        let cases = [
            (DataType::Float64, "double"),
            (
                DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())),
                "timestamp[ns, tz=UTC]",
            ),
            (DataType::Timestamp(TimeUnit::Microsecond, None), "timestamp[us]"),
            (DataType::List(item(DataType::Float32)), "list<item: float>"),
            (
                DataType::Struct(vec![Field::new("a", DataType::Int64, true)].into()),
                "struct<a: int64>",
            ),
        ];
        for (data_type, text) in cases {
            assert_eq!(name(&data_type), text);
        }
    }
}
