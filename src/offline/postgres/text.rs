//! Arrow columns as text that PostgreSQL reads, the types of columns made for them, and what such columns
//! give back.

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch, StringArray},
    compute::cast,
    datatypes::{DataType, Date32Type, Field, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType},
    json::{WriterBuilder, writer::LineDelimited},
    util::display::{ArrayFormatter, FormatOptions},
};
use chrono::{DateTime, Datelike as _, NaiveDate, TimeDelta};
use std::{fmt::Write as _, sync::Arc};

use crate::error::{Error, Result};

/// The type a column is made with for values of an Arrow type, as Feast makes it.
pub(super) fn column_type(data_type: &DataType) -> String {
    let name = match data_type {
        DataType::Boolean => "boolean",
        DataType::Int8 | DataType::Int16 | DataType::UInt8 => "smallint",
        DataType::Int32 | DataType::UInt16 => "integer",
        DataType::Int64 | DataType::UInt32 => "bigint",
        DataType::UInt64 | DataType::Decimal128(..) | DataType::Decimal256(..) => "numeric",
        DataType::Float16 | DataType::Float32 => "real",
        DataType::Float64 => "double precision",
        DataType::Date32 | DataType::Date64 => "date",
        DataType::Timestamp(_, None) => "timestamp",
        DataType::Timestamp(_, Some(_)) => "timestamptz",
        DataType::Dictionary(_, values) => return column_type(values),
        bytes if is_bytes(bytes) => "bytea",
        list if element(list).is_some_and(|element| !is_nested(element)) => {
            return element(list).map(column_type).unwrap_or_default() + "[]";
        }
        // Its text stays as it was written, which `jsonb` would change.
        nested if is_nested(nested) => "json",
        _ => "text",
    };
    name.to_owned()
}

/// The columns that a table made for these gives back.
pub(super) fn schema_in_table(schema: &Schema) -> Schema {
    let fields = schema.fields().iter();
    let fields = fields.map(|field| Field::new(field.name(), type_in_table(field.data_type()), true));
    Schema::new_with_metadata(fields.collect::<Vec<_>>(), schema.metadata().clone())
}

fn type_in_table(data_type: &DataType) -> DataType {
    match data_type {
        DataType::UInt64 | DataType::Decimal128(..) | DataType::Decimal256(..) => DataType::Float64,
        DataType::Timestamp(_, zone) => {
            DataType::Timestamp(TimeUnit::Microsecond, zone.as_ref().map(|_| "UTC".into()))
        }
        DataType::Dictionary(_, values) => type_in_table(values),
        list if element(list).is_some_and(|element| !is_nested(element)) => {
            let element = element(list).map_or(DataType::Utf8, type_in_table);
            DataType::new_list(element, true)
        }
        nested if is_nested(nested) => DataType::Utf8,
        other => other.clone(),
    }
}

/// A batch as a table made for it gives it back; `schema` is that of [`schema_in_table`].
///
/// # Errors
/// `InvalidArgument` when a value has no place there.
pub(super) fn in_table(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| {
            if is_nested(column.data_type()) && field.data_type() == &DataType::Utf8 {
                Ok(Arc::new(StringArray::from(json_texts(column)?)) as ArrayRef)
            } else {
                Ok(cast(column, field.data_type())?)
            }
        });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}

/// Appends a batch as CSV.
///
/// # Errors
/// `InvalidArgument` when a column has values without a text.
pub(super) fn write_csv(batch: &RecordBatch, into: &mut String) -> Result<()> {
    let columns = batch.columns().iter().map(texts);
    let columns = columns.collect::<Result<Vec<_>>>()?;
    for row in 0..batch.num_rows() {
        for (place, column) in columns.iter().enumerate() {
            if place > 0 {
                into.push(',');
            }
            // Without quotes nothing is null, and an empty text is quoted.
            if let Some(text) = &column[row] {
                _ = write!(into, "\"{}\"", text.replace('"', "\"\""));
            }
        }
        into.push('\n');
    }
    Ok(())
}

/// The cells of a column; nulls are none.
fn texts(column: &ArrayRef) -> Result<Vec<Option<String>>> {
    match column.data_type() {
        DataType::List(field) if !is_nested(field.data_type()) => {
            let lists = column.as_list::<i32>();
            lists
                .iter()
                .map(|list| list.as_ref().map(array_text).transpose())
                .collect()
        }
        DataType::LargeList(field) if !is_nested(field.data_type()) => {
            let lists = column.as_list::<i64>();
            lists
                .iter()
                .map(|list| list.as_ref().map(array_text).transpose())
                .collect()
        }
        DataType::FixedSizeList(field, _) if !is_nested(field.data_type()) => {
            let lists = column.as_fixed_size_list();
            lists
                .iter()
                .map(|list| list.as_ref().map(array_text).transpose())
                .collect()
        }
        nested if is_nested(nested) || element(nested).is_some() => json_texts(column),
        DataType::Timestamp(_, zone) => {
            let zoned = zone.is_some();
            let micros = DataType::Timestamp(TimeUnit::Microsecond, zone.as_ref().map(|_| "UTC".into()));
            let times = cast(column, &micros)?;
            let times = times.as_primitive::<TimestampMicrosecondType>();
            Ok(times.iter().map(|at| Some(moment_text(at?, zoned))).collect())
        }
        DataType::Date32 => {
            let days = column.as_primitive::<Date32Type>();
            Ok(days.iter().map(|day| Some(day_text(day?))).collect())
        }
        plain => {
            let nulls = column.logical_nulls();
            let options = FormatOptions::default().with_display_error(false);
            let formatter = ArrayFormatter::try_new(column, &options)?;
            let start = if is_bytes(plain) { "\\x" } else { "" };
            let text = |row: usize| -> Result<Option<String>> {
                if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                    return Ok(None);
                }
                let mut text = start.to_owned();
                formatter.value(row).write(&mut text)?;
                Ok(Some(text))
            };
            (0..column.len()).map(text).collect()
        }
    }
}

/// A moment in UTC. The ends of the scale are PostgreSQL's infinities.
fn moment_text(micros: i64, zoned: bool) -> String {
    match (micros, DateTime::from_timestamp_micros(micros)) {
        (i64::MIN, _) => "-infinity".to_owned(),
        (i64::MAX, _) | (_, None) => "infinity".to_owned(),
        (_, Some(at)) => {
            let (year, era) = year_and_era(at.year());
            let rest = at.format("-%m-%d %H:%M:%S%.6f");
            format!("{year:04}{rest}{}{era}", if zoned { "+00" } else { "" })
        }
    }
}

fn day_text(days: i32) -> String {
    let day = NaiveDate::default().checked_add_signed(TimeDelta::days(days.into()));
    match (days, day) {
        (i32::MIN, _) => "-infinity".to_owned(),
        (i32::MAX, _) | (_, None) => "infinity".to_owned(),
        (_, Some(day)) => {
            let (year, era) = year_and_era(day.year());
            format!("{year:04}{}{era}", day.format("-%m-%d"))
        }
    }
}

/// The year as PostgreSQL has it: the one before 1 is `0001 BC`.
fn year_and_era(year: i32) -> (i32, &'static str) {
    if year > 0 { (year, "") } else { (1 - year, " BC") }
}

/// `{"a",NULL}`.
fn array_text(list: &ArrayRef) -> Result<String> {
    let cells = texts(list)?.into_iter().map(|cell| match cell {
        Some(text) => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
        None => "NULL".to_owned(),
    });
    Ok(format!("{{{}}}", cells.collect::<Vec<_>>().join(",")))
}

fn json_texts(column: &ArrayRef) -> Result<Vec<Option<String>>> {
    const BEFORE: &str = "{\"v\":";
    let schema = Arc::new(Schema::new(vec![Field::new(
        "v",
        column.data_type().clone(),
        true,
    )]));
    let batch = RecordBatch::try_new(schema, vec![Arc::clone(column)])?;
    let mut bytes = Vec::new();
    let mut writer = WriterBuilder::new()
        .with_explicit_nulls(true)
        .build::<_, LineDelimited>(&mut bytes);
    writer.write(&batch)?;
    writer.finish()?;
    drop(writer);
    let text = String::from_utf8(bytes).map_err(|_| Error::internal("JSON is not UTF-8"))?;
    let cells = text.lines().enumerate().map(|(row, line)| {
        let value = line.strip_prefix(BEFORE).and_then(|rest| rest.strip_suffix('}'));
        value.filter(|_| column.is_valid(row)).map(str::to_owned)
    });
    Ok(cells.collect())
}

fn element(data_type: &DataType) -> Option<&DataType> {
    match data_type {
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            Some(field.data_type())
        }
        _ => None,
    }
}

fn is_nested(data_type: &DataType) -> bool {
    data_type.is_nested() && !matches!(data_type, DataType::Dictionary(..))
}

fn is_bytes(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_)
    )
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use arrow::{
        array::{BinaryArray, Int64Array, ListArray, StringArray, StructArray, TimestampMicrosecondArray},
        datatypes::Int32Type,
    };

    use super::*;

    #[test]
    fn every_kind_of_value_is_text_that_comes_back() {
        let structs = StructArray::from(vec![(
            Arc::new(Field::new("a", DataType::Int64, true)),
            Arc::new(Int64Array::from(vec![Some(1), None])) as ArrayRef,
        )]);
        let words = StringArray::from(vec![Some("say \"hi\",\n\\"), Some("")]);
        let lists: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>([
            Some(vec![Some(1), None]),
            None,
        ]));
        let batch = RecordBatch::try_from_iter_with_nullable([
            ("words", Arc::new(words) as ArrayRef, true),
            ("lists", lists, true),
            ("structs", Arc::new(structs), true),
            (
                "bytes",
                Arc::new(BinaryArray::from_opt_vec(vec![Some(b"\x00\xff"), None])),
                true,
            ),
            (
                "times",
                Arc::new(TimestampMicrosecondArray::from(vec![1, 0]).with_timezone("UTC")),
                true,
            ),
        ])
        .unwrap();
        let mut text = String::new();
        write_csv(&batch, &mut text).unwrap();
        let first = r#""say ""hi"",
\","{""1"",NULL}","{""a"":1}","\x00ff","1970-01-01 00:00:00.000001+00""#;
        let second = r#""",,"{""a"":null}",,"1970-01-01 00:00:00.000000+00""#;
        assert_eq!(text, format!("{first}\n{second}\n"));
        let types: Vec<_> = batch
            .schema()
            .fields()
            .iter()
            .map(|field| column_type(field.data_type()))
            .collect();
        assert_eq!(types, ["text", "integer[]", "json", "bytea", "timestamptz"]);
    }

    #[test]
    fn times_beyond_the_calendar_are_written_too() {
        assert_eq!(moment_text(i64::MAX, true), "infinity");
        assert_eq!(moment_text(i64::MIN, false), "-infinity");
        let at = |text: &str| DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros();
        assert_eq!(
            moment_text(at("0001-01-01T00:00:00Z"), false),
            "0001-01-01 00:00:00.000000"
        );
        assert_eq!(
            moment_text(at("0000-02-03T00:00:00Z"), true),
            "0001-02-03 00:00:00.000000+00 BC"
        );
        assert_eq!(day_text(-1), "1969-12-31");
        assert_eq!(day_text(i32::MAX), "infinity");
    }
}
