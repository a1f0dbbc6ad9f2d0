//! How many rows a window of a Parquet source has at most, from the footers of its files: for showing
//! progress, not for computing anything.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use arrow::datatypes::{DataType, TimeUnit};
use chrono::{DateTime, Utc};
use parquet::{
    arrow::parquet_to_arrow_schema,
    file::{
        metadata::{ParquetMetaData, RowGroupMetaData},
        reader::{FileReader, SerializedFileReader},
        statistics::Statistics,
    },
};

use super::location::{Format, Location, Shape};
use crate::proto::feast::core::DataSource;

/// More footers than this are not worth reading for a progress bar.
const MOST_FILES: usize = 64;

/// The rows of the row groups that may hold moments of the window; `None` when that would cost too much.
pub(super) fn rows_at_most(
    source: &DataSource,
    repo: &Path,
    start: DateTime<Utc>,
    end: DateTime<Utc>,
) -> Option<u64> {
    let location = Location::of(source, repo).ok()?;
    if location.format != Format::Parquet {
        return None;
    }
    // The timestamp may be named as in the file or as it is mapped.
    let mapped = source
        .field_mapping
        .iter()
        .find(|(_, to)| **to == source.timestamp_field);
    let column = mapped.map_or(source.timestamp_field.as_str(), |(from, _)| from.as_str());
    let mut rows = 0;
    for path in files(&location)? {
        let reader = SerializedFileReader::new(File::open(path).ok()?).ok()?;
        rows += rows_of_file(reader.metadata(), column, start, end);
    }
    Some(rows)
}

fn files(location: &Location) -> Option<Vec<PathBuf>> {
    match location.shape {
        Shape::File => Some(vec![location.path.clone()]),
        Shape::Folder => {
            let entries = std::fs::read_dir(&location.path)
                .ok()?
                .filter_map(|entry| Some(entry.ok()?.path()));
            let files: Vec<PathBuf> = entries
                .filter(|path| path.extension().is_some_and(|extension| extension == "parquet"))
                .take(MOST_FILES + 1)
                .collect();
            (files.len() <= MOST_FILES).then_some(files)
        }
        Shape::Pattern | Shape::Absent => None,
    }
}

fn rows_of_file(metadata: &ParquetMetaData, column: &str, start: DateTime<Utc>, end: DateTime<Utc>) -> u64 {
    let schema = parquet_to_arrow_schema(metadata.file_metadata().schema_descr(), None).ok();
    let unit = schema.and_then(|schema| match schema.field_with_name(column).ok()?.data_type() {
        DataType::Timestamp(unit, _) => Some(*unit),
        _ => None,
    });
    let window = unit.and_then(|unit| Some((ticks(start, unit)?, ticks(end, unit)?)));
    let inside = |group: &&RowGroupMetaData| match (window, bounds(group, column)) {
        (Some((start, end)), Some((least, greatest))) => least <= end && greatest >= start,
        _ => true,
    };
    let groups = metadata.row_groups().iter().filter(inside);
    groups
        .map(|group| u64::try_from(group.num_rows()).unwrap_or_default())
        .sum()
}

fn bounds(group: &RowGroupMetaData, column: &str) -> Option<(i64, i64)> {
    let chunk = group
        .columns()
        .iter()
        .find(|chunk| chunk.column_path().string() == column)?;
    match chunk.statistics()? {
        Statistics::Int64(values) => Some((*values.min_opt()?, *values.max_opt()?)),
        _ => None,
    }
}

fn ticks(moment: DateTime<Utc>, unit: TimeUnit) -> Option<i64> {
    match unit {
        TimeUnit::Second => Some(moment.timestamp()),
        TimeUnit::Millisecond => Some(moment.timestamp_millis()),
        TimeUnit::Microsecond => Some(moment.timestamp_micros()),
        TimeUnit::Nanosecond => moment.timestamp_nanos_opt(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, RecordBatch, TimestampMicrosecondArray};
    use parquet::{arrow::ArrowWriter, file::properties::WriterProperties};

    use super::*;
    use crate::proto::feast::core::data_source::{FileOptions, Options, SourceType};

    #[test]
    fn only_row_groups_of_the_window_count() {
        let dir = tempfile::tempdir().unwrap();
        let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter_values(
            (0..100).map(|second| second * 1_000_000),
        ));
        let batch = RecordBatch::try_from_iter([("at", times)]).unwrap();
        let properties = WriterProperties::builder()
            .set_max_row_group_row_count(Some(10))
            .build();
        let file = File::create(dir.path().join("x.parquet")).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let source = DataSource {
            r#type: SourceType::BatchFile as i32,
            timestamp_field: "t".to_owned(),
            field_mapping: [("at".to_owned(), "t".to_owned())].into(),
            options: Some(Options::FileOptions(FileOptions {
                uri: "x.parquet".to_owned(),
                ..Default::default()
            })),
            ..Default::default()
        };
        let at = |second| DateTime::from_timestamp(second, 0).unwrap();
        let count = |from, to| rows_at_most(&source, dir.path(), at(from), at(to));
        assert_eq!(count(-5, 500), Some(100));
        assert_eq!(count(25, 34), Some(20));
        assert_eq!(count(100, 200), Some(0));
        let absent = DataSource {
            options: Some(Options::FileOptions(FileOptions::default())),
            ..source.clone()
        };
        assert_eq!(
            rows_at_most(&absent, &dir.path().join("none"), at(0), at(1)),
            None
        );
    }
}
