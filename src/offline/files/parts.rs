//! Scans for the join: Parquet in parts of whole row groups, the newest first.
//!
//! The join copies a row when it is the best so far for an entity row, so it copies least where the newest
//! rows come first; most files are in some order of time, oldest first. Parts also keep all cores busy to
//! the end of a file, and each knows where its rows stand in the source, which decides between equal
//! rows. Other formats are read front to back.

use std::sync::Arc;

use datafusion::{
    datasource::{
        listing::PartitionedFile,
        physical_plan::{
            FileGroup, FileScanConfig, FileScanConfigBuilder, ParquetSource,
            parquet::{ParquetAccessPlan, ParquetRowSelection, metadata::DFParquetMetadata},
        },
        source::DataSourceExec,
    },
    error::DataFusionError,
    execution::SessionState,
    physical_plan::ExecutionPlan,
};
use futures::{StreamExt, TryStreamExt};
use parquet::file::{metadata::ParquetMetaData, statistics::Statistics};

use super::table::{Filter, Table};
use crate::{error::Result, offline::asof::Part};

/// Smaller row groups are read together.
const PART_ROWS: u64 = if cfg!(test) { 2 } else { 1 << 16 };
/// Footers read at the same time.
const FOOTERS_AT_ONCE: usize = 16;

/// Some row groups of a file.
#[derive(Clone)]
struct Groups {
    file: PartitionedFile,
    place: u64,
    /// The latest time of any row, as far as known, in the file's own unit.
    latest: i64,
}

impl Table {
    /// Streams of these columns, in the order in which they are best joined.
    pub(super) async fn parts(
        &self,
        state: &SessionState,
        columns: &[String],
        filters: &[Filter],
        timestamp: &str,
    ) -> Result<Vec<Part>> {
        let plan = self.plan(state, columns, filters).await?;
        let exec = plan.downcast_ref::<DataSourceExec>();
        let Some((config, _)) = exec.and_then(DataSourceExec::downcast_to_file_source::<ParquetSource>)
        else {
            let partitions = self.scan(state, columns, filters).await?;
            let part = |(partition, rows): (u64, _)| Part {
                place: place_of(partition),
                rows,
            };
            return Ok((0..).zip(partitions).map(part).collect());
        };
        let mut groups = self.groups(state, config, timestamp).await?;
        groups.sort_by_key(|groups| std::cmp::Reverse(groups.latest));
        let files = groups
            .iter()
            .map(|groups| FileGroup::new(vec![groups.file.clone()]));
        let config = FileScanConfigBuilder::from(config.clone())
            .with_file_groups(files.collect())
            .build();
        let plan: Arc<dyn ExecutionPlan> = DataSourceExec::from_data_source(config);
        let part = |(partition, groups): (usize, &Groups)| {
            Ok(Part {
                place: groups.place,
                rows: self.stream(&plan, partition, state, columns)?,
            })
        };
        groups.iter().enumerate().map(part).collect()
    }

    async fn groups(
        &self,
        state: &SessionState,
        config: &FileScanConfig,
        timestamp: &str,
    ) -> Result<Vec<Groups>> {
        let time = self.stored_name(timestamp);
        let files = (0..).zip(self.footers(state, config).await?);
        let groups = files.map(|(place, (file, footer))| groups_of(file, place_of(place), &footer, time));
        let groups = groups.collect::<Result<Vec<_>, _>>();
        Ok(groups.map_err(|error| self.unreadable(&error))?.concat())
    }

    /// The files of a scan with what they say of themselves.
    pub(super) async fn footers(
        &self,
        state: &SessionState,
        config: &FileScanConfig,
    ) -> Result<Vec<(PartitionedFile, Arc<ParquetMetaData>)>> {
        let store = state.runtime_env().object_store(&config.object_store_url)?;
        let cache = state.runtime_env().cache_manager.get_file_metadata_cache();
        let files = config.file_groups.iter().flat_map(FileGroup::iter).cloned();
        let files: Vec<PartitionedFile> = files.collect();
        let footers = files.into_iter().map(async |file| {
            let footer = DFParquetMetadata::new(store.as_ref(), &file.object_meta)
                .with_file_metadata_cache(Some(Arc::clone(&cache)))
                .fetch_metadata()
                .await?;
            Ok((file, footer))
        });
        futures::stream::iter(footers)
            .buffered(FOOTERS_AT_ONCE)
            .try_collect()
            .await
            .map_err(|error: DataFusionError| self.unreadable(&error))
    }
}

/// Where the rows of a file or partition begin: 2^40 rows each, so that places never meet.
pub(super) fn place_of(file: u64) -> u64 {
    file << 40
}

fn groups_of(
    mut file: PartitionedFile,
    first: u64,
    footer: &ParquetMetaData,
    time: &str,
) -> Result<Vec<Groups>, DataFusionError> {
    let count = footer.num_row_groups();
    // A scan takes either a selection of rows or a plan.
    let all = match std::mem::take(&mut file.extensions).get::<ParquetRowSelection>() {
        Some(rows) => ParquetAccessPlan::try_new_from_overall_row_selection(
            rows.selection().clone(),
            footer.row_groups(),
        )?,
        None => ParquetAccessPlan::new_all(count),
    };
    let columns = footer.file_metadata().schema_descr().columns();
    let time = columns.iter().position(|column| column.path().string() == time);
    let mut found = Vec::new();
    let (mut place, mut rows, mut latest) = (first, 0, i64::MIN);
    let mut plan = ParquetAccessPlan::new_none(count);
    for (index, group) in footer.row_groups().iter().enumerate() {
        plan.set(index, all.inner()[index].clone());
        rows += u64::try_from(group.num_rows()).unwrap_or_default();
        let statistics = time.and_then(|time| group.column(time).statistics());
        latest = latest.max(match statistics {
            Some(Statistics::Int64(times)) => times.max_opt().copied().unwrap_or(i64::MAX),
            _ => i64::MAX,
        });
        if rows >= PART_ROWS || index + 1 == count {
            let mut file = file.clone();
            file.extensions
                .insert(std::mem::replace(&mut plan, ParquetAccessPlan::new_none(count)));
            found.push(Groups { file, place, latest });
            (place, rows, latest) = (place + rows, 0, i64::MIN);
        }
    }
    Ok(found)
}
