//! [`Table`]: an opened source, of files or another store's: its stored columns, their mapped names, and scans of some of them.

use std::{collections::HashMap, future::ready, sync::Arc};

use arrow::{
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    record_batch::{RecordBatch, RecordBatchOptions},
};
use datafusion::{
    catalog::TableProvider,
    common::{Column, ScalarValue, plan_err},
    datasource::{
        file_format::{FileFormat, csv::CsvFormat, parquet::ParquetFormat},
        listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl},
        physical_plan::{FileScanConfig, FileScanConfigBuilder, ParquetSource},
        source::DataSourceExec,
    },
    error::DataFusionError,
    execution::{SendableRecordBatchStream, SessionState},
    logical_expr::{self, Expr, Operator},
    physical_expr::{PhysicalExpr, expressions},
    physical_plan::{ExecutionPlan, ExecutionPlanProperties, stream::RecordBatchStreamAdapter},
};
use futures::{StreamExt, TryStreamExt as _, stream};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt as _, path::Path};
use sha2::{Digest as _, Sha256};

use super::{
    KNOWN_BY,
    buckets::OneContent,
    delta::DeltaTable,
    location::{Format, Location, Place, Shape},
};
use crate::{
    cloud::Bucket,
    error::{Error, Result},
    offline::{asof::times::Scale, store::listed},
    proto::feast::core::DataSource,
};

/// Files of a pattern whose size is asked for at the same time.
const ASKED_AT_ONCE: usize = 32;

/// A range of one column that rows must lie in to be of use. Scans take it as a hint: it lets them skip
/// parts of files, and they may deliver rows outside of it.
#[derive(Debug, Clone)]
pub(super) enum Filter {
    Moments {
        column: String,
        earliest: Option<i64>,
        latest: Option<i64>,
        scale: Scale,
    },
    Whole {
        column: String,
        least: i64,
        greatest: i64,
    },
}

impl Filter {
    pub(super) fn moments(column: &str, earliest: Option<i64>, latest: Option<i64>, scale: Scale) -> Self {
        Self::Moments {
            column: column.to_owned(),
            earliest,
            latest,
            scale,
        }
    }

    pub(super) fn whole(column: &str, least: i64, greatest: i64) -> Self {
        Self::Whole {
            column: column.to_owned(),
            least,
            greatest,
        }
    }

    fn column(&self) -> &str {
        match self {
            Self::Moments { column, .. } | Self::Whole { column, .. } => column,
        }
    }

    /// The ends of the range in the column's type, as far as they can be told in it.
    fn ends(&self, data_type: &DataType) -> (Option<ScalarValue>, Option<ScalarValue>) {
        match self {
            Self::Moments {
                earliest,
                latest,
                scale,
                ..
            } => {
                let DataType::Timestamp(unit, zone) = data_type else {
                    return (None, None);
                };
                let end = |moment: i64| {
                    // The ends of the scale stand for whatever lies beyond.
                    let inside = moment != i64::MIN && moment != i64::MAX;
                    let ticks = ticks(moment, *scale, *unit)?;
                    let zone = zone.clone();
                    inside.then_some(match unit {
                        TimeUnit::Second => ScalarValue::TimestampSecond(Some(ticks), zone),
                        TimeUnit::Millisecond => ScalarValue::TimestampMillisecond(Some(ticks), zone),
                        TimeUnit::Microsecond => ScalarValue::TimestampMicrosecond(Some(ticks), zone),
                        TimeUnit::Nanosecond => ScalarValue::TimestampNanosecond(Some(ticks), zone),
                    })
                };
                (earliest.and_then(end), latest.and_then(end))
            }
            Self::Whole { least, greatest, .. } => {
                let end = |key: i64| match data_type {
                    DataType::Int64 => Some(ScalarValue::Int64(Some(key))),
                    DataType::Int32 => i32::try_from(key).ok().map(|key| ScalarValue::Int32(Some(key))),
                    _ => None,
                };
                (end(*least), end(*greatest))
            }
        }
    }
}

/// A moment in another unit, rounded down: rows at a rounded-down end are delivered, and sorted out later.
fn ticks(moment: i64, scale: Scale, unit: TimeUnit) -> Option<i64> {
    let per_second = |unit| match unit {
        TimeUnit::Second => 1_i64,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    };
    let (from, to) = (per_second(scale.unit()), per_second(unit));
    if to >= from {
        moment.checked_mul(to / from)
    } else {
        Some(moment.div_euclid(from / to))
    }
}

/// Refuses a file whose last bytes ask for more metadata than the file holds: the Parquet reader
/// subtracts the one from the other without looking, which panics where overflow is checked.
async fn check_footer(store: &dyn ObjectStore, path: &Path, size: u64) -> Result<(), DataFusionError> {
    const FOOTER: u64 = 8;
    let Some(start) = size.checked_sub(FOOTER) else {
        return Ok(());
    };
    let footer = store.get_range(path, start..size).await?;
    let metadata = footer
        .first_chunk()
        .map_or(0, |length| u64::from(u32::from_le_bytes(*length)));
    if metadata > start {
        let problem = "it is no Parquet file, or was cut off";
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, problem).into());
    }
    Ok(())
}

/// The files of a location with the columns they have together.
async fn listed_files(
    state: &SessionState,
    location: &Location,
    options: ListingOptions,
) -> Result<ListingTableConfig, DataFusionError> {
    if location.shape == Shape::Pattern {
        let urls = location.matching().await?;
        let Some(first) = urls.first() else {
            return plan_err!("No files found");
        };
        let store = state.runtime_env().object_store(first)?;
        let ask = |url: &ListingTableUrl| {
            let (store, path) = (Arc::clone(&store), url.prefix().clone());
            async move { store.head(&path).await }
        };
        let asked: Vec<_> = urls.iter().map(ask).collect();
        let files: Vec<ObjectMeta> = stream::iter(asked)
            .buffered(ASKED_AT_ONCE)
            .try_filter(|file| ready(file.size > 0))
            .try_collect()
            .await?;
        let schema = options.format.infer_schema(state, &store, &files).await?;
        let config = ListingTableConfig::new_with_multi_paths(urls).with_listing_options(options);
        return Ok(config.with_schema(schema));
    }
    let url = location.listing()?;
    if location.format == Format::Parquet && location.shape == Shape::File {
        let store = state.runtime_env().object_store(&url)?;
        check_footer(store.as_ref(), url.prefix(), location.size).await?;
    }
    let mut config = ListingTableConfig::new(url).with_listing_options(options);
    if location.shape == Shape::Folder {
        config = config.infer_partitions_from_path(state).await?;
    }
    config.infer_schema(state).await
}

/// See the module.
pub(super) struct Table {
    name: String,
    /// Where its rows are, for messages.
    place: String,
    provider: Arc<dyn TableProvider>,
    stored: SchemaRef,
    is_partitioned: bool,
    /// Whether the provider is told which rows are of use; elsewhere hints for files go into their plan.
    takes_conditions: bool,
    /// The object store its files are in.
    bucket: Option<Bucket>,
    /// Stored column by mapped name, for columns that are mapped.
    mapped: HashMap<String, String>,
    timestamp_field: String,
    created_column: String,
}

impl Table {
    /// Opens the source at a location: finds its files and reads their schemas.
    ///
    /// # Errors
    /// `InvalidArgument` naming the source and path when nothing readable is there.
    pub(super) async fn open(state: &SessionState, location: &Location, source: &DataSource) -> Result<Self> {
        let name = &location.name;
        if location.shape == Shape::Absent {
            let hint = match location.place {
                Place::Disk(_) => "relative paths start at the folder of `feature_store.yaml`",
                Place::Cloud(_) => "names of objects are exact, capital and small letters included",
            };
            let absent = format!("data source `{}`: there is no file `{name}`", source.name);
            return Err(Error::invalid(absent).hint(hint));
        }
        let unreadable = |error: DataFusionError| unreadable(&source.name, name, &error);
        if location.shape == Shape::Delta {
            let url = location.listing().map_err(unreadable)?;
            let table = DeltaTable::open(state, &url).await;
            let table =
                table.map_err(|error| error.context(format!("data source `{}`: `{name}`", source.name)))?;
            return Ok(Self::of(source, Arc::new(table), name.clone()));
        }
        let format: Arc<dyn FileFormat> = match location.format {
            Format::Parquet => {
                Arc::new(ParquetFormat::default().with_options(state.default_table_options().parquet))
            }
            Format::Csv => Arc::new(CsvFormat::default().with_has_header(true)),
        };
        let extension = if location.shape == Shape::File {
            ""
        } else {
            location.format.extension()
        };
        let options = ListingOptions::new(format).with_file_extension(extension);
        let config = listed_files(state, location, options).await.map_err(|error| {
            if error.strip_backtrace().contains("No files found") {
                let kind = location.format.extension();
                Error::invalid(format!(
                    "data source `{}`: there are no `{kind}` files at `{name}`",
                    source.name
                ))
            } else {
                unreadable(error)
            }
        })?;
        let listing = ListingTable::try_new(config).map_err(unreadable)?;
        let is_partitioned = !listing.options().table_partition_cols.is_empty();
        let bucket = match &location.place {
            Place::Disk(_) => None,
            Place::Cloud(object) => Some(object.opened.bucket.clone()),
        };
        Ok(Self {
            is_partitioned,
            takes_conditions: false,
            bucket,
            ..Self::of(source, Arc::new(listing), name.clone())
        })
    }

    /// A source whose provider finds the rows that are of use itself.
    pub(super) fn of(source: &DataSource, provider: Arc<dyn TableProvider>, place: String) -> Self {
        let mapped = source.field_mapping.iter();
        Self {
            name: source.name.clone(),
            place,
            stored: provider.schema(),
            provider,
            is_partitioned: false,
            takes_conditions: true,
            bucket: None,
            mapped: mapped
                .map(|(stored, mapped)| (mapped.clone(), stored.clone()))
                .collect(),
            timestamp_field: source.timestamp_field.clone(),
            created_column: source.created_timestamp_column.clone(),
        }
    }

    /// The table for queries, under its stored names.
    pub(super) fn into_provider(self) -> Arc<dyn TableProvider> {
        self.provider
    }

    /// The columns as they are stored.
    pub(super) fn stored(&self) -> &SchemaRef {
        &self.stored
    }

    /// Whether the same rows come in the same order every time.
    pub(super) fn is_in_order(&self) -> bool {
        !self.takes_conditions
    }

    /// Whether some columns are names of folders.
    pub(super) fn is_partitioned(&self) -> bool {
        self.is_partitioned
    }

    /// The mapped name of the timestamp column.
    ///
    /// # Errors
    /// `InvalidArgument` naming file, column and the columns that exist, when it is missing.
    pub(super) fn timestamp(&self) -> Result<&str> {
        if self.timestamp_field.is_empty() {
            return Err(
                Error::invalid(format!("data source `{}` has no timestamp field", self.name)).hint(format!(
                    "set `timestamp_field` to one of {}",
                    listed(self.columns())
                )),
            );
        }
        self.require(&self.timestamp_field, "its timestamp")?;
        Ok(&self.timestamp_field)
    }

    /// The mapped name of the created column, if the source has one.
    ///
    /// # Errors
    /// As [`Table::timestamp`].
    pub(super) fn created(&self) -> Result<Option<&str>> {
        if self.created_column.is_empty() {
            return Ok(None);
        }
        self.require(&self.created_column, "its created timestamp")?;
        Ok(Some(&self.created_column))
    }

    /// Whether there is a column of that mapped name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.place(name).is_some()
    }

    /// Refuses a missing column, saying what it is wanted for.
    pub(super) fn require(&self, name: &str, purpose: &str) -> Result<()> {
        self.index(name, purpose).map(|_| ())
    }

    fn columns(&self) -> impl Iterator<Item = &str> {
        self.stored.fields().iter().map(|field| field.name().as_str())
    }

    /// What the column of that mapped name is called in the files.
    pub(super) fn stored_name<'a>(&'a self, name: &'a str) -> &'a str {
        self.mapped.get(name).map_or(name, String::as_str)
    }

    /// The error of a read that failed.
    pub(super) fn unreadable(&self, error: &DataFusionError) -> Error {
        unreadable(&self.name, &self.place, error)
    }

    fn place(&self, name: &str) -> Option<usize> {
        self.stored.index_of(self.stored_name(name)).ok()
    }

    fn index(&self, name: &str, purpose: &str) -> Result<usize> {
        self.place(name).ok_or_else(|| {
            let stored = self.stored_name(name);
            Error::invalid(format!(
                "data source `{}`: `{}` has no column `{stored}` for {purpose}; it has {}",
                self.name,
                self.place,
                listed(self.columns())
            ))
        })
    }

    fn indices(&self, columns: &[String]) -> Result<Vec<usize>> {
        columns
            .iter()
            .map(|column| self.index(column, "the query"))
            .collect()
    }

    /// The schema of a scan of these columns, under their mapped names.
    pub(super) fn projected(&self, columns: &[String]) -> Result<SchemaRef> {
        let field = |(index, name): (usize, &String)| {
            let stored = self.stored.field(index);
            Field::new(name, stored.data_type().clone(), true)
        };
        let fields: Vec<_> = self
            .indices(columns)?
            .into_iter()
            .zip(columns)
            .map(field)
            .collect();
        Ok(Arc::new(Schema::new(fields)))
    }

    /// Streams of these columns, one per partition, in the order of the source.
    pub(super) async fn scan(
        &self,
        state: &SessionState,
        columns: &[String],
        filters: &[Filter],
    ) -> Result<Vec<SendableRecordBatchStream>> {
        Ok(self.scan_known(state, columns, filters).await?.0)
    }

    /// As [`Table::scan`], with what tells whether another scan with the same filters has the same rows.
    pub(super) async fn scan_known(
        &self,
        state: &SessionState,
        columns: &[String],
        filters: &[Filter],
    ) -> Result<(Vec<SendableRecordBatchStream>, Option<String>)> {
        let plan = self.plan(state, columns, filters).await?;
        let parallel = state.config().target_partitions();
        let plan = plan
            .repartitioned(parallel, state.config_options())?
            .unwrap_or(plan);
        let streams: Result<Vec<_>> = (0..plan.output_partitioning().partition_count())
            .map(|partition| self.stream(&plan, partition, state, columns))
            .collect();
        Ok((streams?, fingerprint(&plan)))
    }

    /// The plan of a scan of these columns.
    pub(super) async fn plan(
        &self,
        state: &SessionState,
        columns: &[String],
        filters: &[Filter],
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let indices = self.indices(columns)?;
        let conditions = if self.takes_conditions {
            self.conditions(filters)
        } else {
            Vec::new()
        };
        let scan = self.provider.scan(state, Some(&indices), &conditions, None);
        let plan = scan.await.map_err(|error| self.unreadable(&error))?;
        Ok(self.prepared(plan, state, filters))
    }

    /// A partition of such a plan, its columns under their mapped names.
    pub(super) fn stream(
        &self,
        plan: &Arc<dyn ExecutionPlan>,
        partition: usize,
        state: &SessionState,
        columns: &[String],
    ) -> Result<SendableRecordBatchStream> {
        let schema = self.projected(columns)?;
        Ok(renamed(plan.execute(partition, state.task_ctx())?, &schema))
    }

    /// The scan with the filters as hints for skipping parts of Parquet files, reading one content of each.
    fn prepared(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        state: &SessionState,
        filters: &[Filter],
    ) -> Arc<dyn ExecutionPlan> {
        let exec = plan.downcast_ref::<DataSourceExec>();
        let parquet = exec.and_then(DataSourceExec::downcast_to_file_source::<ParquetSource>);
        let Some((config, source)) = parquet else {
            return plan;
        };
        let mut source = source.clone();
        if !self.takes_conditions
            && let Some(predicate) = self.predicate(filters)
        {
            source = source.with_predicate(predicate);
        }
        if let Some(bucket) = &self.bucket {
            source = source.with_parquet_file_reader_factory(Arc::new(OneContent {
                bucket: bucket.clone(),
                footers: state.runtime_env().cache_manager.get_file_metadata_cache(),
            }));
        }
        let config = FileScanConfigBuilder::from(config.clone())
            .with_source(Arc::new(source))
            .build();
        DataSourceExec::from_data_source(config)
    }

    fn predicate(&self, filters: &[Filter]) -> Option<Arc<dyn PhysicalExpr>> {
        let mut all: Option<Arc<dyn PhysicalExpr>> = None;
        for (place, operator, end) in self.limits(filters) {
            let column = Arc::new(expressions::Column::new(self.stored.field(place).name(), place));
            let compared = expressions::BinaryExpr::new(column, operator, expressions::lit(end));
            let compared: Arc<dyn PhysicalExpr> = Arc::new(compared);
            all = Some(match all {
                None => compared,
                Some(before) => Arc::new(expressions::BinaryExpr::new(before, Operator::And, compared)),
            });
        }
        all
    }

    fn conditions(&self, filters: &[Filter]) -> Vec<Expr> {
        let limits = self.limits(filters).into_iter();
        limits
            .map(|(place, operator, end)| {
                let column = Column::new_unqualified(self.stored.field(place).name());
                logical_expr::binary_expr(Expr::Column(column), operator, logical_expr::lit(end))
            })
            .collect()
    }

    /// The ends of the filters, with the places of their columns.
    fn limits(&self, filters: &[Filter]) -> Vec<(usize, Operator, ScalarValue)> {
        let mut limits = Vec::new();
        for filter in filters {
            let Some(place) = self.place(filter.column()) else {
                continue;
            };
            let (least, greatest) = filter.ends(self.stored.field(place).data_type());
            limits.extend(least.map(|end| (place, Operator::GtEq, end)));
            limits.extend(greatest.map(|end| (place, Operator::LtEq, end)));
        }
        limits
    }
}

/// What the files of a scan and their division into partitions come to, in a few letters; files are known by
/// name, size, time and tag. What is not in files says itself by what it is known.
fn fingerprint(plan: &Arc<dyn ExecutionPlan>) -> Option<String> {
    let Some(exec) = plan.downcast_ref::<DataSourceExec>() else {
        return plan.schema().metadata().get(KNOWN_BY).cloned();
    };
    let config = exec.data_source().downcast_ref::<FileScanConfig>()?;
    let mut digest = Sha256::new();
    for group in &config.file_groups {
        digest.update(b"partition");
        for file in group.iter() {
            let (meta, range) = (&file.object_meta, &file.range);
            let range = range.as_ref().map(|range| (range.start, range.end));
            let time = meta.last_modified.timestamp_nanos_opt();
            digest.update(format!(
                "{}|{}|{time:?}|{:?}|{:?}|{range:?}|",
                meta.location, meta.size, meta.e_tag, meta.version
            ));
        }
    }
    Some(hex::encode(digest.finalize()))
}

fn unreadable(source: &str, place: &str, error: &DataFusionError) -> Error {
    let told = match Error::within(error) {
        Some(ours) => ours,
        None => Error::invalid(error.strip_backtrace()),
    };
    told.context(format!("data source `{source}`: `{place}` cannot be read"))
}

fn renamed(stream: SendableRecordBatchStream, schema: &SchemaRef) -> SendableRecordBatchStream {
    let names = Arc::clone(schema);
    let renamed = stream.map(move |batch| {
        let batch = batch?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(
            Arc::clone(&names),
            batch.columns().to_vec(),
            &options,
        )?)
    });
    Box::pin(RecordBatchStreamAdapter::new(Arc::clone(schema), renamed))
}
