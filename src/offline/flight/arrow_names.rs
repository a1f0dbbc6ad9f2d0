//! Arrow types in the words of `pyarrow`, which Feast's SDK reads column types by, and back.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};

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

/// The type that a server means, in the words of `pyarrow` or of PostgreSQL; what is not known is text.
pub(in crate::offline) fn type_named(text: &str) -> DataType {
    let text = text.trim();
    if let Some(element) = text.strip_suffix("[]").or_else(|| text.strip_prefix('_')) {
        return DataType::new_list(type_named(element), true);
    }
    if let Some(item) = inside(text, "list<") {
        let element = item.split_once(": ").map_or(item, |(_, element)| element);
        return DataType::new_list(type_named(element), true);
    }
    if let Some(item) = inside(text, "large_list<") {
        let element = item.split_once(": ").map_or(item, |(_, element)| element);
        return DataType::LargeList(Arc::new(Field::new_list_field(type_named(element), true)));
    }
    if let Some(fields) = inside(text, "struct<") {
        let field = |(name, kind): (&str, &str)| Field::new(name, type_named(kind), true);
        let fields = parts(fields).into_iter().filter_map(|part| part.split_once(": "));
        return DataType::Struct(fields.map(field).collect());
    }
    if let Some(types) = inside(text, "map<")
        && let [key, value] = parts(types)[..]
    {
        let entries = Fields::from(vec![
            Field::new("key", type_named(key), false),
            Field::new("value", type_named(value), true),
        ]);
        let entries = Field::new("entries", DataType::Struct(entries), false);
        return DataType::Map(Arc::new(entries), false);
    }
    if let Some(rest) = text
        .strip_prefix("timestamp[")
        .and_then(|rest| rest.strip_suffix(']'))
    {
        let (unit, zone) = rest
            .split_once(", tz=")
            .map_or((rest, None), |(unit, zone)| (unit, Some(zone)));
        let unit = match unit {
            "s" => TimeUnit::Second,
            "ms" => TimeUnit::Millisecond,
            "ns" => TimeUnit::Nanosecond,
            _ => TimeUnit::Microsecond,
        };
        return DataType::Timestamp(unit, zone.map(Into::into));
    }
    match text {
        "null" => DataType::Null,
        "bool" | "boolean" => DataType::Boolean,
        "int8" => DataType::Int8,
        "int16" => DataType::Int16,
        "int32" | "integer" | "smallint" => DataType::Int32,
        "int64" | "bigint" => DataType::Int64,
        "uint8" => DataType::UInt8,
        "uint16" => DataType::UInt16,
        "uint32" => DataType::UInt32,
        "uint64" => DataType::UInt64,
        "halffloat" => DataType::Float16,
        "float" | "real" => DataType::Float32,
        "double" | "double precision" | "numeric" => DataType::Float64,
        "large_string" => DataType::LargeUtf8,
        "binary" | "bytea" => DataType::Binary,
        "large_binary" => DataType::LargeBinary,
        "date32[day]" | "date" => DataType::Date32,
        "date64[ms]" => DataType::Date64,
        "timestamp without time zone" => DataType::Timestamp(TimeUnit::Microsecond, None),
        "timestamp with time zone" => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        _ => DataType::Utf8,
    }
}

fn inside<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    text.strip_prefix(start)?.strip_suffix('>')
}

/// What commas part, but for those inside of other types.
fn parts(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, letter) in text.char_indices() {
        match letter {
            '<' | '[' | '(' => depth += 1,
            '>' | ']' | ')' => depth -= 1,
            ',' if depth == 0 => {
                found.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    found.push(text[start..].trim());
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_postgresql_are_known() {
        for (text, data_type) in [
            ("bigint[]", DataType::new_list(DataType::Int64, true)),
            (
                "timestamp with time zone",
                DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            ),
            ("jsonb", DataType::Utf8),
            (
                "map<string, list<item: double>>",
                type_named("map<string, list<x: double>>"),
            ),
        ] {
            assert_eq!(type_named(text), data_type, "{text}");
        }
    }

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
            assert_eq!(type_named(text), data_type);
        }
    }
}
