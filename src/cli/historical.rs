//! `thali get-historical-features`: a point-in-time join from the command line.

use std::{
    fs::{File, Permissions},
    io::{BufWriter, Cursor},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use arrow::{
    array::RecordBatch,
    compute::cast,
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    util::pretty::pretty_format_batches,
};
use chrono::{DateTime, Utc};
use clap::{Args, ValueEnum};
use futures::StreamExt as _;
use parquet::{
    arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder},
    file::properties::WriterProperties,
};
use tempfile::TempPath;

use super::{Global, Name, Outcome, output, until_signal, when::moment};
use crate::{
    context::Context,
    error::{Error, Result},
    offline::retrieve::{HistoricalRequest, RequestRows, Wanted, historical},
};

/// The column of the rows' moments, where it may come as text.
const TIMESTAMP: &str = "event_timestamp";
/// The most a row group of a written file has.
const ROW_GROUP_ROWS: usize = 1 << 18;
const ROW_GROUP_BYTES: usize = 64 << 20;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Entity rows as JSON: '[{"event_timestamp": "2025-03-29T12:00:00", "driver_id": 1001}]'
    #[arg(short, long, value_name = "JSON")]
    dataframe: Option<String>,
    /// Entity rows as a Parquet or CSV file
    #[arg(long, value_name = "FILE", conflicts_with = "dataframe")]
    entity_file: Option<PathBuf>,
    /// Entity rows as a SQL query over the project's data sources
    #[arg(long, value_name = "SQL", conflicts_with_all = ["dataframe", "entity_file"])]
    entity_sql: Option<String>,
    #[command(flatten)]
    wanted: super::features::Wanted,
    /// First event time of everything there is, instead of entity rows
    #[arg(short, long, value_parser = moment, conflicts_with_all = ["dataframe", "entity_file", "entity_sql"])]
    start_date: Option<DateTime<Utc>>,
    /// Last event time of it
    #[arg(short, long, value_parser = moment, conflicts_with_all = ["dataframe", "entity_file", "entity_sql"])]
    end_date: Option<DateTime<Utc>>,
    /// Call features VIEW__FEATURE
    #[arg(long)]
    full_feature_names: bool,
    /// Only rows created by the entity row's time count, where sources say when that was
    #[arg(long)]
    filter_by_created_timestamp: bool,
    /// Write a Parquet or CSV file instead of printing
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// How to print
    #[arg(long, value_enum)]
    format: Option<Format>,
}

/// How to print.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Table,
    Json,
    /// JSON with times in milliseconds, as Feast's command prints
    #[value(hide = true)]
    Records,
}

pub(super) async fn run(global: &Global, arguments: Arguments) -> Outcome {
    let rows = request_rows(&arguments)?;
    let (context, _telemetry) = global.open("warn").await?;
    until_signal(&context, answer(global, &context, arguments, rows)).await
}

async fn answer(global: &Global, context: &Context, arguments: Arguments, rows: RequestRows) -> Outcome {
    let request = HistoricalRequest {
        rows,
        wanted: match arguments.wanted.feature_service {
            Some(service) => Wanted::Service(service),
            None => Wanted::features(arguments.wanted.features),
        },
        full_feature_names: arguments.full_feature_names,
        filter_by_created: arguments.filter_by_created_timestamp,
    };
    let project = context.config.project.clone();
    let mut stream = historical(context, &project, request).await?;
    let schema = stream.schema();
    if let Some(path) = &arguments.output {
        let mut sink = Sink::create(path, schema)?;
        while let Some(batch) = stream.next().await {
            sink.write(&batch?)?;
        }
        let rows = sink.finish()?;
        output::line(format_args!("Wrote {rows} rows to {}", path.display()));
        return Ok(ExitCode::SUCCESS);
    }
    let mut batches = Vec::new();
    while let Some(batch) = stream.next().await {
        batches.push(batch?);
    }
    let by_name = match global.name {
        Name::Thali => Format::Table,
        Name::Feast => Format::Records,
    };
    match arguments.format.unwrap_or(by_name) {
        Format::Table if batches.is_empty() => {
            output::line(format_args!(
                "{}",
                pretty_format_batches(&[RecordBatch::new_empty(schema)])?
            ));
        }
        Format::Table => output::line(format_args!("{}", pretty_format_batches(&batches)?)),
        Format::Json => {
            let mut writer = arrow::json::ArrayWriter::new(Vec::new());
            writer.write_batches(&batches.iter().collect::<Vec<_>>())?;
            writer.finish()?;
            let text = String::from_utf8_lossy(&writer.into_inner()).into_owned();
            output::line(format_args!("{}", if text.is_empty() { "[]" } else { &text }));
        }
        Format::Records => output::json(&records(&batches)?, 4)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Rows as pandas' `to_json(orient="records")` has them.
fn records(batches: &[RecordBatch]) -> Result<serde_json::Value> {
    let numbered = batches
        .iter()
        .map(with_numbers_for_times)
        .collect::<Result<Vec<_>>>()?;
    let mut writer = arrow::json::WriterBuilder::new()
        .with_explicit_nulls(true)
        .build::<_, arrow::json::writer::JsonArray>(Vec::new());
    writer.write_batches(&numbered.iter().collect::<Vec<_>>())?;
    writer.finish()?;
    let bytes = writer.into_inner();
    if bytes.is_empty() {
        return Ok(serde_json::Value::Array(Vec::new()));
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::internal("rows have no JSON form").source_error(error))
}

fn with_numbers_for_times(batch: &RecordBatch) -> Result<RecordBatch> {
    let mut fields = Vec::new();
    let mut columns = Vec::new();
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        if let DataType::Timestamp(_, zone) = field.data_type() {
            let milliseconds = DataType::Timestamp(TimeUnit::Millisecond, zone.clone());
            columns.push(cast(&cast(column, &milliseconds)?, &DataType::Int64)?);
            fields.push(Field::new(field.name(), DataType::Int64, true));
        } else {
            columns.push(Arc::clone(column));
            fields.push(field.as_ref().clone());
        }
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

fn request_rows(arguments: &Arguments) -> Result<RequestRows> {
    if let Some(sql) = &arguments.entity_sql {
        return Ok(RequestRows::Sql(sql.clone()));
    }
    let (schema, batches) = match (&arguments.dataframe, &arguments.entity_file) {
        (Some(json), _) => rows_of_json(json)?,
        (None, Some(path)) => rows_of_file(path)?,
        (None, None) if arguments.start_date.is_none() && arguments.end_date.is_none() => {
            return Err(Error::invalid("no entity rows")
                .hint("give --dataframe, --entity-file, --entity-sql, or --start-date and --end-date"));
        }
        (None, None) => {
            return Ok(RequestRows::Range {
                start: arguments.start_date,
                end: arguments.end_date,
            });
        }
    };
    let batches = batches.iter().map(timed).collect::<Result<Vec<_>>>()?;
    let schema = batches.first().map_or(schema, RecordBatch::schema);
    Ok(RequestRows::Given { schema, batches })
}

/// A list of objects; columns in the order they first come.
fn rows_of_json(text: &str) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let malformed =
        |why: String| Error::invalid(format!("--dataframe is no JSON list of entity rows: {why}"));
    let rows: Vec<serde_json::Map<String, serde_json::Value>> =
        serde_json::from_str(text).map_err(|error| malformed(error.to_string()))?;
    let values = rows.iter().map(|row| Ok(serde_json::Value::Object(row.clone())));
    let schema = arrow::json::reader::infer_json_schema_from_iterator(values)
        .map_err(|error| malformed(error.to_string()))?;
    let schema = Arc::new(schema);
    let mut decoder = arrow::json::ReaderBuilder::new(Arc::clone(&schema)).build_decoder()?;
    decoder
        .serialize(&rows)
        .map_err(|error| malformed(error.to_string()))?;
    Ok((schema, decoder.flush()?.into_iter().collect()))
}

fn rows_of_file(path: &Path) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let unreadable = |error: &dyn std::fmt::Display| {
        Error::invalid(format!(
            "entity rows of `{}` cannot be read: {error}",
            path.display()
        ))
    };
    if extension(path) == "csv" {
        let text = std::fs::read(path).map_err(|error| unreadable(&error))?;
        let format = arrow::csv::reader::Format::default().with_header(true);
        let (schema, _) = format
            .infer_schema(Cursor::new(&text), None)
            .map_err(|error| unreadable(&error))?;
        let schema = Arc::new(schema);
        let reader = arrow::csv::ReaderBuilder::new(Arc::clone(&schema)).with_format(format);
        let reader = reader
            .build(Cursor::new(&text))
            .map_err(|error| unreadable(&error))?;
        let batches = reader
            .collect::<Result<_, _>>()
            .map_err(|error| unreadable(&error))?;
        return Ok((schema, batches));
    }
    let file = File::open(path).map_err(|error| unreadable(&error))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| unreadable(&error))?;
    let schema = Arc::clone(builder.schema());
    let reader = builder.build().map_err(|error| unreadable(&error))?;
    let batches = reader
        .collect::<Result<_, _>>()
        .map_err(|error| unreadable(&error))?;
    Ok((schema, batches))
}

/// Moments that came as text become moments; without an offset they are UTC.
fn timed(batch: &RecordBatch) -> Result<RecordBatch> {
    let Some((index, field)) = batch.schema_ref().column_with_name(TIMESTAMP) else {
        return Ok(batch.clone());
    };
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let is_text = matches!(
        field.data_type(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
    );
    if !is_text {
        return Ok(batch.clone());
    }
    let strict = arrow::compute::CastOptions {
        safe: false,
        ..Default::default()
    };
    let column = arrow::compute::cast_with_options(batch.column(index), &utc, &strict)
        .map_err(|error| Error::invalid(format!("`{TIMESTAMP}` holds no times: {error}")))?;
    let mut fields: Vec<Arc<Field>> = batch.schema_ref().fields().iter().map(Arc::clone).collect();
    let mut columns = batch.columns().to_vec();
    if let (Some(field), Some(old)) = (fields.get_mut(index), columns.get_mut(index)) {
        *field = Arc::new(Field::new(TIMESTAMP, utc, true));
        *old = column;
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

fn extension(path: &Path) -> String {
    path.extension()
        .and_then(|extension| extension.to_str())
        .unwrap_or_default()
        .to_lowercase()
}

/// The file an answer is written to, which has its place when it is whole: half of an answer looks like one.
struct Sink {
    format: Written,
    rows: usize,
    /// What is written and its place; none where that is no file, a pipe say.
    draft: Option<(TempPath, PathBuf)>,
}

enum Written {
    Csv(Box<arrow::csv::Writer<BufWriter<File>>>),
    Parquet(Box<ArrowWriter<File>>),
}

impl Sink {
    fn create(path: &Path, schema: SchemaRef) -> Result<Self> {
        let format = extension(path);
        if !matches!(format.as_str(), "csv" | "parquet") {
            let text = format!("`{format}` is no format to write");
            return Err(Error::invalid(text).hint("name it .parquet or .csv"));
        }
        let (file, draft) = drafted(path).map_err(|error| unwritable(path, &error))?;
        let format = if format == "csv" {
            Written::Csv(Box::new(arrow::csv::Writer::new(BufWriter::new(file))))
        } else {
            // A row group is in memory until it is written.
            let properties = WriterProperties::builder()
                .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
                .build();
            let writer = ArrowWriter::try_new(file, schema, Some(properties)).map_err(parquet_error)?;
            Written::Parquet(Box::new(writer))
        };
        Ok(Self {
            format,
            rows: 0,
            draft,
        })
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.rows += batch.num_rows();
        match &mut self.format {
            Written::Csv(writer) => Ok(writer.write(&plain(batch)?)?),
            Written::Parquet(writer) => {
                writer.write(batch).map_err(parquet_error)?;
                if writer.in_progress_size() > ROW_GROUP_BYTES {
                    writer.flush().map_err(parquet_error)?;
                }
                Ok(())
            }
        }
    }

    fn finish(self) -> Result<usize> {
        match self.format {
            Written::Csv(writer) => {
                let flushed = writer.into_inner().into_inner();
                flushed.map_err(|error| {
                    Error::unavailable(format!("the CSV file cannot be written: {error}"))
                })?;
            }
            Written::Parquet(writer) => {
                writer.close().map_err(parquet_error)?;
            }
        }
        if let Some((draft, place)) = self.draft {
            let placed = draft.persist(&place);
            placed.map_err(|error| unwritable(&place, &error.error))?;
        }
        Ok(self.rows)
    }
}

/// A file to write, beside its place if that is one for a file.
fn drafted(path: &Path) -> std::io::Result<(File, Option<(TempPath, PathBuf)>)> {
    let found = std::fs::metadata(path);
    if found.as_ref().is_ok_and(|found| !found.is_file()) {
        return Ok((File::create(path)?, None));
    }
    // What a link leads to is replaced, not the link.
    let place = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = place.parent().filter(|folder| !folder.as_os_str().is_empty());
    let permissions = found.map_or(Permissions::from_mode(0o666), |found| found.permissions());
    let file = tempfile::Builder::new()
        .prefix(".")
        .suffix(".tmp")
        .permissions(permissions)
        .tempfile_in(folder.unwrap_or(Path::new(".")))?;
    let (file, draft) = file.into_parts();
    Ok((file, Some((draft, place))))
}

fn unwritable(path: &Path, error: &std::io::Error) -> Error {
    Error::invalid(format!("`{}` cannot be written: {error}", path.display()))
}

fn parquet_error(error: parquet::errors::ParquetError) -> Error {
    Error::unavailable(format!("the Parquet file cannot be written: {error}")).source_error(error)
}

/// CSV has no lists or maps: they become text.
fn plain(batch: &RecordBatch) -> Result<RecordBatch> {
    let mut fields = Vec::new();
    let mut columns = Vec::new();
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        let data_type = field.data_type();
        if data_type.is_nested() {
            fields.push(Arc::new(Field::new(field.name(), DataType::Utf8, true)));
            columns.push(cast(column, &DataType::Utf8)?);
        } else {
            fields.push(Arc::clone(field));
            columns.push(Arc::clone(column));
        }
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn json_rows_become_timed_columns() {
        let text = r#"[{"event_timestamp": "2025-03-29T12:00:00", "driver_id": 1, "name": "a"},
                       {"event_timestamp": "2025-03-29T14:00:00+02:00", "driver_id": 2}]"#;
        let (_, batches) = rows_of_json(text).unwrap();
        let batch = timed(&batches[0]).unwrap();
        assert_eq!(batch.num_rows(), 2);
        let times = batch.column_by_name(TIMESTAMP).unwrap();
        let times: &arrow::array::TimestampMicrosecondArray = times.as_any().downcast_ref().unwrap();
        assert_eq!(times.value(0), times.value(1));
        assert!(rows_of_json("{}").is_err());
        assert!(rows_of_json("[1]").is_err());
        let bad = rows_of_json(r#"[{"event_timestamp": "soon"}]"#).unwrap().1;
        assert!(timed(&bad[0]).is_err());
    }

    #[test]
    fn csv_and_parquet_files_are_read_and_written() {
        let dir = tempfile::tempdir().unwrap();
        let csv = dir.path().join("rows.csv");
        std::fs::write(
            &csv,
            "driver_id,event_timestamp\n1,2025-03-29T12:00:00\n2,2025-03-29T13:00:00\n",
        )
        .unwrap();
        let (schema, batches) = rows_of_file(&csv).unwrap();
        for name in ["out.parquet", "out.csv"] {
            let path = dir.path().join(name);
            let mut sink = Sink::create(&path, Arc::clone(&schema)).unwrap();
            batches.iter().for_each(|batch| sink.write(batch).unwrap());
            assert_eq!(sink.finish().unwrap(), 2);
            let (_, again) = rows_of_file(&path).unwrap();
            assert_eq!(
                again.iter().map(RecordBatch::num_rows).sum::<usize>(),
                2,
                "{name}"
            );
        }
        assert!(Sink::create(&dir.path().join("out.xlsx"), schema).is_err());
        assert!(rows_of_file(&dir.path().join("none.parquet")).is_err());
    }
}
