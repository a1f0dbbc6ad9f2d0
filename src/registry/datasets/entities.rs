//! The entity rows of a dataset to be made: keys and times written in the request, or a file.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray},
    compute::{cast, max, min},
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    record_batch::RecordBatch,
};
use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use futures::TryStreamExt;

use crate::{
    context::Context,
    error::{Error, Result},
    model::ValueType,
    offline::dataset::{every_row, file_source},
    proto::feast::{core::data_source, registry::CreateDatasetFromRetrievalRequest},
    registry::Catalog,
};

const EVENT_TIMESTAMP: &str = "event_timestamp";

/// Entity rows and what is told of them in the dataset.
pub(super) struct Rows {
    pub(super) schema: SchemaRef,
    pub(super) batches: Vec<RecordBatch>,
    pub(super) keys: Vec<String>,
    pub(super) first: Option<DateTime<Utc>>,
    pub(super) last: Option<DateTime<Utc>>,
}

/// Whether the request says where the rows come from.
pub(super) fn check(request: &CreateDatasetFromRetrievalRequest) -> Result<()> {
    let missing = |what: &str, kind: &str| {
        Error::invalid(format!("{what} is required when entity_source_type is '{kind}'."))
    };
    match request.entity_source_type.as_str() {
        "" | "inline" if request.entity_keys.is_empty() => Err(missing("entity_keys", "inline")),
        "" | "inline" if request.entity_values.trim().is_empty() => Err(missing("entity_values", "inline")),
        "" | "inline" => times(request, 1).map(drop),
        "reference" if request.entity_source_path.is_empty() => {
            Err(missing("entity_source_path", "reference"))
        }
        "reference" => Ok(()),
        other => Err(Error::invalid(format!(
            "entity_source_type `{other}` is neither `inline` nor `reference`"
        ))),
    }
}

/// The rows.
pub(super) async fn rows(
    context: &Context,
    catalog: &Catalog,
    request: &CreateDatasetFromRetrievalRequest,
) -> Result<Rows> {
    let mut batches = match request.entity_source_type.as_str() {
        "reference" => from_file(context, &request.entity_source_path).await?,
        _ => vec![inline(catalog, request)?],
    };
    for batch in &mut batches {
        *batch = with_constants(batch, &request.extra_columns)?;
    }
    let schema = batches
        .first()
        .map(RecordBatch::schema)
        .ok_or_else(|| Error::invalid("there are no entity rows"))?;
    let (first, last) = range(&batches)?;
    let extra: Vec<&str> = constants(&request.extra_columns).map(|(name, _)| name).collect();
    let names = schema.fields().iter().map(|field| field.name().as_str());
    let keys = names.filter(|name| *name != EVENT_TIMESTAMP && !extra.contains(name));
    Ok(Rows {
        keys: keys.map(str::to_owned).collect(),
        schema,
        batches,
        first,
        last,
    })
}

/// Keys written one below the other, or for a single key one after the other; times spread evenly.
fn inline(catalog: &Catalog, request: &CreateDatasetFromRetrievalRequest) -> Result<RecordBatch> {
    let names = &request.entity_keys;
    let text = request.entity_values.trim();
    let lines: Vec<Vec<&str>> = if names.len() == 1 {
        let values = text.split([',', '\n']).map(str::trim);
        values
            .filter(|value| !value.is_empty())
            .map(|value| vec![value])
            .collect()
    } else {
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        lines
            .map(|line| line.split(',').map(str::trim).collect())
            .collect()
    };
    if lines.is_empty() {
        return Err(Error::invalid("No entity values could be parsed from the input."));
    }
    let mut columns: Vec<(String, ArrayRef)> = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let cells: Vec<Option<&str>> = lines.iter().map(|line| line.get(index).copied()).collect();
        columns.push((name.clone(), column(&cells, is_text(catalog, name))));
    }
    let times = TimestampMicrosecondArray::from(times(request, lines.len())?).with_timezone("UTC");
    columns.push((EVENT_TIMESTAMP.to_owned(), Arc::new(times)));
    Ok(RecordBatch::try_from_iter(columns)?)
}

/// Whether a join key is declared to be text, so that digits in it are no number.
fn is_text(catalog: &Catalog, key: &str) -> bool {
    let text = ValueType::String as i32;
    catalog
        .entities()
        .any(|(_, entity)| entity.join_key == key && entity.value_type == text)
}

/// Values as whole numbers if all are, else as numbers if all are, else as they are written.
fn column(cells: &[Option<&str>], is_text: bool) -> ArrayRef {
    let all = |fits: fn(&str) -> bool| !is_text && cells.iter().flatten().all(|cell| fits(cell));
    if all(|cell| cell.parse::<i64>().is_ok()) {
        let numbers = cells.iter().map(|cell| cell.and_then(|cell| cell.parse().ok()));
        return Arc::new(numbers.collect::<Int64Array>());
    }
    if all(|cell| cell.parse::<f64>().is_ok()) {
        let numbers = cells.iter().map(|cell| cell.and_then(|cell| cell.parse().ok()));
        return Arc::new(numbers.collect::<Float64Array>());
    }
    Arc::new(cells.iter().copied().collect::<StringArray>())
}

/// Microseconds of each row: from start to end in even steps, or all at the end, which is now if not given.
fn times(request: &CreateDatasetFromRetrievalRequest, rows: usize) -> Result<Vec<i64>> {
    let read = |name: &str, text: &str| match text.trim() {
        "" => Ok(None),
        text => moment(text)
            .map(|at| Some(at.timestamp_micros()))
            .ok_or_else(|| Error::invalid(format!("`{name}`: `{text}` is no ISO 8601 time"))),
    };
    let start = read("start_date", &request.start_date)?;
    let end = read("end_date", &request.end_date)?;
    let last = end.unwrap_or_else(|| Utc::now().timestamp_micros());
    let (Some(start), Some(_), true) = (start, end, rows > 1) else {
        return Ok(vec![last; rows]);
    };
    let steps = i128::try_from(rows - 1).unwrap_or(i128::MAX);
    let span = i128::from(last) - i128::from(start);
    let at = |row: usize| {
        let offset = span * i128::try_from(row).unwrap_or_default() / steps;
        i64::try_from(i128::from(start) + offset).unwrap_or(last)
    };
    Ok((0..rows).map(at).collect())
}

/// An ISO 8601 moment; without an offset it is UTC, without a time midnight.
pub(crate) fn moment(text: &str) -> Option<DateTime<Utc>> {
    if let Ok(zoned) = DateTime::parse_from_rfc3339(text) {
        return Some(zoned.to_utc());
    }
    let formats = [
        "%Y-%m-%dT%H:%M:%S%.f",
        "%Y-%m-%d %H:%M:%S%.f",
        "%Y-%m-%dT%H:%M",
        "%Y-%m-%d %H:%M",
    ];
    let naive = formats
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok());
    let day = || {
        NaiveDate::parse_from_str(text, "%Y-%m-%d")
            .ok()
            .map(NaiveDateTime::from)
    };
    naive.or_else(day).map(|at| at.and_utc())
}

async fn from_file(context: &Context, path: &str) -> Result<Vec<RecordBatch>> {
    let file = data_source::FileOptions {
        uri: path.to_owned(),
        ..Default::default()
    };
    let source = file_source("entity rows".to_owned(), file);
    let offline = Arc::clone(&context.offline);
    let read = async move {
        every_row(&offline, source)
            .await?
            .try_collect()
            .await
            .map_err(Error::from)
    };
    context.background.run(read).await
}

/// `name=value` lines as columns in which every row has the value.
fn with_constants(batch: &RecordBatch, text: &str) -> Result<RecordBatch> {
    let mut fields: Vec<Arc<Field>> = batch.schema_ref().fields().iter().map(Arc::clone).collect();
    let mut columns = batch.columns().to_vec();
    for (name, value) in constants(text) {
        let values = column(&vec![Some(value); batch.num_rows()], false);
        let field = Arc::new(Field::new(name, values.data_type().clone(), true));
        match batch.schema_ref().index_of(name) {
            Ok(index) => {
                if let (Some(old), Some(old_values)) = (fields.get_mut(index), columns.get_mut(index)) {
                    (*old, *old_values) = (field, values);
                }
            }
            Err(_) => {
                fields.push(field);
                columns.push(values);
            }
        }
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

fn constants(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    let trimmed = pairs.map(|(name, value)| (name.trim(), value.trim()));
    trimmed.filter(|(name, _)| !name.is_empty())
}

/// A first and a last moment.
type Ends = (Option<DateTime<Utc>>, Option<DateTime<Utc>>);

/// The first and the last moment of the rows.
fn range(batches: &[RecordBatch]) -> Result<Ends> {
    let micros = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let (mut first, mut last) = (None, None);
    for batch in batches {
        let Some(times) = batch.column_by_name(EVENT_TIMESTAMP) else {
            continue;
        };
        let times = cast(times, &micros)?;
        let Some(times) = times.as_any().downcast_ref::<TimestampMicrosecondArray>() else {
            continue;
        };
        first = [first, min(times)].into_iter().flatten().min();
        last = last.max(max(times));
    }
    let at = |micros: Option<i64>| micros.and_then(DateTime::from_timestamp_micros);
    Ok((at(first), at(last)))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn request(keys: &[&str], values: &str, start: &str, end: &str) -> CreateDatasetFromRetrievalRequest {
        CreateDatasetFromRetrievalRequest {
            entity_keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            entity_values: values.to_owned(),
            start_date: start.to_owned(),
            end_date: end.to_owned(),
            ..Default::default()
        }
    }

    #[test]
    fn keys_and_times_are_read_as_in_feast() {
        let asked = request(&["driver"], "1, 2\n3,", "2026-01-01", "2026-01-03T00:00:00Z");
        let batch = inline(&Catalog::default(), &asked).unwrap();
        assert_eq!(batch.column(0).data_type(), &DataType::Int64);
        assert_eq!(batch.num_rows(), 3);
        let (first, last) = range(&[batch]).unwrap();
        assert_eq!(first, moment("2026-01-01"));
        assert_eq!(last, moment("2026-01-03 00:00:00"));

        let two = request(&["a", "b"], "1,x\n2.5,y\n3", "", "2026-01-01");
        let batch = inline(&Catalog::default(), &two).unwrap();
        assert_eq!(batch.column(0).data_type(), &DataType::Float64);
        assert_eq!(batch.column(1).null_count(), 1);
        let more = with_constants(&batch, "bonus=7\n = 8\nb=z\nno").unwrap();
        assert_eq!(more.num_columns(), 4);
        assert_eq!(
            more.column_by_name("bonus").unwrap().data_type(),
            &DataType::Int64
        );
        assert_eq!(more.column_by_name("b").unwrap().null_count(), 0);
    }

    #[test]
    fn requests_without_rows_are_refused() {
        for (asked, says) in [
            (request(&[], "1", "", ""), "entity_keys"),
            (request(&["k"], " \n", "", ""), "entity_values"),
            (request(&["k"], "1", "", "tomorrow"), "tomorrow"),
        ] {
            let error = check(&asked).unwrap_err();
            assert!(error.message().contains(says), "{error}");
        }
        assert!(inline(&Catalog::default(), &request(&["k"], ",,", "", "")).is_err());
    }
}
