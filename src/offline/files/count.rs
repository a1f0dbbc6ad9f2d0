//! How many rows a window of a Parquet source has at most, from the footers of its files. Where that is none
//! there is nothing to read, so what a footer does not tell is taken to be of every window.

use arrow::datatypes::{DataType, TimeUnit};
use chrono::{DateTime, Utc};
use datafusion::{
    datasource::{physical_plan::ParquetSource, source::DataSourceExec},
    execution::SessionState,
};
use parquet::{
    arrow::parquet_to_arrow_schema,
    file::{
        metadata::{ParquetMetaData, RowGroupMetaData},
        statistics::Statistics,
    },
};

use super::table::Table;

/// More footers than this are not worth reading ahead.
const MOST_FILES: usize = 64;

impl Table {
    /// The rows of the row groups that may hold moments of the window; `None` when that would cost too much.
    pub(super) async fn rows_at_most(
        &self,
        state: &SessionState,
        start: DateTime<Utc>,
        end: DateTime<Utc>,
    ) -> Option<u64> {
        let timestamp = self.timestamp().ok();
        let columns: Vec<String> = timestamp.map(str::to_owned).into_iter().collect();
        let plan = self.plan(state, &columns, &[]).await.ok()?;
        let exec = plan.downcast_ref::<DataSourceExec>()?;
        let (config, _) = exec.downcast_to_file_source::<ParquetSource>()?;
        let files: usize = config.file_groups.iter().map(|group| group.len()).sum();
        if files > MOST_FILES {
            return None;
        }
        // Without one every row may be of the window.
        let column = timestamp.map_or("", |timestamp| self.stored_name(timestamp));
        let footers = self.footers(state, config).await.ok()?;
        let rows = footers
            .iter()
            .map(|(_, footer)| rows_of_file(footer, column, start, end));
        Some(rows.sum())
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
