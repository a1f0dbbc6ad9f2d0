//! Delta tables as sources: the files that count in the newest version of the table, as one table for scans.
//!
//! A table is read as it was when it was opened, whatever is written to it meanwhile. What is not understood
//! is refused by name, so that there are never wrong rows. Nothing is written.

mod log;
mod schema;
mod vector;

use std::{cmp::Ordering, collections::HashMap, sync::Arc};

use arrow::datatypes::{DataType, SchemaRef};
use async_trait::async_trait;
use chrono::DateTime;
use datafusion::{
    catalog::{Session, TableProvider},
    common::ScalarValue,
    datasource::{
        listing::{ListingTableUrl, PartitionedFile},
        physical_plan::{
            FileGroup, FileScanConfigBuilder, FileSource as _, ParquetSource,
            parquet::{CachedParquetFileReaderFactory, ParquetRowSelection},
        },
        source::DataSourceExec,
    },
    error::DataFusionError,
    execution::{SessionState, object_store::ObjectStoreUrl},
    logical_expr::{Expr, Operator, TableType, expr::BinaryExpr},
    physical_expr::{
        PhysicalExpr, expressions,
        projection::{ProjectionExpr, ProjectionExprs},
    },
    physical_plan::{ExecutionPlan, empty::EmptyExec},
};
use object_store::{ObjectMeta, ObjectStore, path::Path};
use serde::Deserialize;
use serde_json::Value as Json;

pub(super) use self::log::FOLDER;
use self::{
    log::{Add, Snapshot},
    schema::Columns,
    vector::DeletionVector,
};
use crate::error::{Error, Result};

/// See the module.
#[derive(Debug)]
pub(super) struct DeltaTable {
    store: Arc<dyn ObjectStore>,
    url: ObjectStoreUrl,
    folder: Path,
    columns: Columns,
    files: Vec<File>,
}

#[derive(Debug)]
struct File {
    scanned: PartitionedFile,
    stats: Option<String>,
    deleted: Option<DeletionVector>,
}

/// What a table says of the rows of a file. Bounds may be wider than the values.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Stats {
    num_records: Option<u64>,
    min_values: HashMap<String, Json>,
    max_values: HashMap<String, Json>,
}

/// A condition on a column, by its place in scans.
struct Limit {
    place: usize,
    operator: Operator,
    end: ScalarValue,
}

impl DeltaTable {
    /// The newest version of the table in a folder.
    ///
    /// # Errors
    /// `InvalidArgument` when there is none or it is broken, `Unsupported` naming what is not understood.
    pub(super) async fn open(state: &SessionState, url: &ListingTableUrl) -> Result<Self> {
        let store = state.runtime_env().object_store(url)?;
        let folder = url.prefix().clone();
        let mut snapshot = Snapshot::newest(&store, &folder).await?;
        let columns = Columns::of(&snapshot)?;
        let files = std::mem::take(&mut snapshot.files).into_iter();
        let files = files.map(|add| File::of(add, &folder, &columns));
        let files = files.collect::<Result<Vec<_>>>()?;
        tracing::debug!(folder = %folder, version = snapshot.version, files = files.len(), "Delta table opened");
        Ok(Self {
            store,
            url: url.object_store(),
            folder,
            columns,
            files,
        })
    }

    /// The condition that a filter is, if it is one of those that sources are asked with.
    fn limit(&self, filter: &Expr) -> Option<Limit> {
        let Expr::BinaryExpr(BinaryExpr { left, op, right }) = filter else {
            return None;
        };
        let (Expr::Column(column), Expr::Literal(end, _)) = (left.as_ref(), right.as_ref()) else {
            return None;
        };
        let place = self.columns.schema.index_of(&column.name).ok()?;
        matches!(op, Operator::GtEq | Operator::LtEq).then(|| Limit {
            place: self.columns.places[place],
            operator: *op,
            end: end.clone(),
        })
    }

    /// Whether the file may have rows of use, as far as the log says.
    fn may_hold(&self, file: &File, limits: &[Limit]) -> bool {
        let stats = file.stats();
        let columns = self.columns.scanned.file_schema().fields();
        limits.iter().all(|limit| {
            let end = |values: &HashMap<String, Json>, slack| match columns.get(limit.place) {
                Some(column) => bound(values.get(column.name())?, column.data_type(), slack),
                None => file
                    .scanned
                    .partition_values
                    .get(limit.place - columns.len())
                    .cloned(),
            };
            let (end, useless) = match limit.operator {
                Operator::GtEq => (end(&stats.max_values, SLACK), Ordering::Less),
                _ => (end(&stats.min_values, -SLACK), Ordering::Greater),
            };
            end.is_none_or(|end| end.partial_cmp(&limit.end) != Some(useless))
        })
    }

    /// The conditions as a hint for skipping parts of files.
    fn predicate(&self, limits: Vec<Limit>) -> Option<Arc<dyn PhysicalExpr>> {
        let schema = self.columns.scanned.table_schema();
        let compared = limits.into_iter().map(|limit| {
            let column = expressions::Column::new(schema.field(limit.place).name(), limit.place);
            let end = expressions::lit(limit.end);
            Arc::new(expressions::BinaryExpr::new(
                Arc::new(column),
                limit.operator,
                end,
            )) as Arc<dyn PhysicalExpr>
        });
        compared.reduce(|all, next| Arc::new(expressions::BinaryExpr::new(all, Operator::And, next)))
    }
}

/// Writers cut or round times in statistics to milliseconds: by so many microseconds they may be wrong.
const SLACK: i64 = 1_000;

/// A bound from the statistics; none where it does not mean one moment or number.
fn bound(value: &Json, data_type: &DataType, slack: i64) -> Option<ScalarValue> {
    match (value, data_type) {
        (Json::String(text), DataType::Timestamp(_, Some(zone))) => {
            let moment = DateTime::parse_from_rfc3339(text).ok()?.timestamp_micros();
            Some(ScalarValue::TimestampMicrosecond(
                Some(moment + slack),
                Some(Arc::clone(zone)),
            ))
        }
        (Json::String(text), DataType::Timestamp(_, None)) => {
            match ScalarValue::try_from_string(text.clone(), data_type).ok()? {
                ScalarValue::TimestampMicrosecond(Some(moment), None) => {
                    Some(ScalarValue::TimestampMicrosecond(Some(moment + slack), None))
                }
                _ => None,
            }
        }
        (Json::Number(number), DataType::Int64 | DataType::Int32) => {
            ScalarValue::try_from_string(number.to_string(), data_type).ok()
        }
        _ => None,
    }
}

impl File {
    fn of(add: Add, folder: &Path, columns: &Columns) -> Result<Self> {
        let Add { path, .. } = &add;
        if path.starts_with('/') || url::Url::parse(path).is_ok() {
            return Err(Error::unsupported(format!(
                "the Delta table has a file outside of its folder, which thali does not read: `{path}`"
            ))
            .hint("it is a shallow clone: make a deep one, or name the table it was made of"));
        }
        let inside = Path::from_url_path(path).map_err(|error| {
            Error::invalid(format!(
                "the Delta table has a file whose path makes no sense: {error}"
            ))
        })?;
        let location = folder.parts().chain(inside.parts()).collect();
        let modified = DateTime::from_timestamp_millis(add.modification_time).unwrap_or_default();
        let scanned = PartitionedFile::new_from_meta(ObjectMeta {
            location,
            last_modified: modified,
            size: add.size,
            e_tag: None,
            // The same file with other rows deleted is another one.
            version: add.deletion_vector.as_ref().map(DeletionVector::id),
        });
        Ok(Self {
            scanned: scanned.with_partition_values(columns.partition(&add.partition_values)?),
            stats: add.stats,
            deleted: add.deletion_vector,
        })
    }

    /// Statistics are a help only: broken ones are none.
    fn stats(&self) -> Stats {
        let stats = self.stats.as_deref();
        stats
            .and_then(|stats| serde_json::from_str(stats).ok())
            .unwrap_or_default()
    }

    /// The file for a scan, without the rows that are deleted.
    async fn left(&self, table: &DeltaTable) -> Result<PartitionedFile> {
        let file = self.scanned.clone();
        let Some(deleted) = &self.deleted else {
            return Ok(file);
        };
        let rows = self.stats().num_records.ok_or_else(|| {
            Error::invalid(
                "the log of the Delta table does not say how many rows a file has, some of which are deleted",
            )
            .hint("purge the table: `REORG TABLE … APPLY (PURGE)`")
        })?;
        let left = deleted
            .rows_left(table.store.as_ref(), &table.folder, rows)
            .await?;
        Ok(file.with_extension(ParquetRowSelection::new(left)))
    }
}

#[async_trait]
impl TableProvider for DeltaTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.columns.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let limits: Vec<Limit> = filters.iter().filter_map(|filter| self.limit(filter)).collect();
        let mut files = Vec::with_capacity(self.files.len());
        for file in self.files.iter().filter(|file| self.may_hold(file, &limits)) {
            files.push(file.left(self).await?);
        }
        let names = self.columns.scanned.table_schema();
        let all: Vec<usize> = (0..names.fields().len()).collect();
        let wanted = projection.unwrap_or(&all);
        if files.is_empty() {
            return Ok(Arc::new(EmptyExec::new(Arc::new(
                self.columns.schema.project(wanted)?,
            ))));
        }
        let column = |&place: &usize| {
            let scanned = self.columns.places[place];
            let column = expressions::Column::new(names.field(scanned).name(), scanned);
            ProjectionExpr::new(Arc::new(column), self.columns.schema.field(place).name())
        };
        let footers = state.runtime_env().cache_manager.get_file_metadata_cache();
        let readers = CachedParquetFileReaderFactory::new(Arc::clone(&self.store), footers);
        let mut source = ParquetSource::new(self.columns.scanned.clone())
            .with_table_parquet_options(state.default_table_options().parquet)
            .with_parquet_file_reader_factory(Arc::new(readers));
        if let Some(predicate) = self.predicate(limits) {
            source = source.with_predicate(predicate);
        }
        let source = source
            .try_pushdown_projection(&ProjectionExprs::new(wanted.iter().map(column)))?
            .ok_or_else(|| Error::internal("a scan of Parquet files takes no columns"))?;
        let at_once = files.len().div_ceil(state.config().target_partitions());
        let groups = files.chunks(at_once).map(|files| FileGroup::new(files.to_vec()));
        let config = FileScanConfigBuilder::new(self.url.clone(), source)
            .with_file_groups(groups.collect())
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}
