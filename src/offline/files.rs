//! [`FileStore`]: the offline store over Parquet and CSV files and Delta tables, on local disk or in object stores, read by
//! DataFusion's scans and joined by [`super::asof`].
//!
//! It resolves no feature references and knows no project; it is told sources, columns and windows.
//! Reading is streaming throughout: a join keeps its entity rows, a pull of newest rows one row per
//! key, everything else a few batches. Writing replaces or adds whole files, by renaming them into place or
//! as objects that are there at once.

mod buckets;
mod count;
mod delta;
mod location;
mod note;
mod parts;
mod pull;
mod range;
mod sql;
mod table;
mod upload;
mod write;

use std::{
    num::NonZero,
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use datafusion::{
    catalog::TableProvider,
    execution::{
        SendableRecordBatchStream, SessionState, SessionStateBuilder,
        memory_pool::{GreedyMemoryPool, MemoryPool},
        runtime_env::RuntimeEnvBuilder,
    },
    prelude::SessionConfig,
};
use futures::{StreamExt, TryStreamExt};
use prost::Message as _;

use self::{
    buckets::Buckets,
    location::{Location, Place},
    table::{Filter, Table},
};
use super::{
    asof::{Bounds, Join, Part, Side, Sources, entities::Entities, times::Scale},
    store::{Appended, EntityRows, HistoricalQuery, JoinView, Note, OfflineStore, Parts, Pull},
};
use crate::{
    cloud::Environment,
    error::{Error, Result},
    proto::feast::core::DataSource,
};

/// Footers read at the same time when a query opens many sources.
const OPENED_AT_ONCE: usize = 16;
/// Values and rows of a batch of feature rows, where rows are not so wide that the usual number has more: of a
/// batch only what is best of a slot in the end is copied, so that fewer batches are fewer copies.
const BATCH_VALUES: usize = 1 << 17;
const BATCH_ROWS: usize = 1 << 15;

/// What a [`FileStore`] is told.
#[derive(Debug, Clone)]
pub struct FileStoreConfig {
    /// Where relative paths start.
    pub repo_path: PathBuf,
    /// Bytes that joins and pulls may hold, all together.
    pub memory_limit: usize,
    /// How object stores are reached.
    pub environment: Environment,
}

/// By what the rows of a scan are known, in the metadata of its schema: scans of the same rows of the same source
/// say the same.
pub const KNOWN_BY: &str = "thali.known_by";

/// Sources that are no files, for a store that joins and pulls them as it does files.
#[async_trait]
pub trait Tables: Send + Sync {
    /// The rows of a source and where they are, for messages; `None` when the source is of another kind. Scans
    /// say by what their rows are [known](KNOWN_BY) if they are asked to and it can be told.
    async fn open(
        &self,
        source: &DataSource,
        known: bool,
    ) -> Result<Option<(Arc<dyn TableProvider>, String)>>;
}

/// See the module.
pub struct FileStore {
    config: FileStoreConfig,
    buckets: Buckets,
    tables: Option<Arc<dyn Tables>>,
    state: SessionState,
    pool: Arc<dyn MemoryPool>,
    parallel: usize,
}

impl FileStore {
    /// A store; nothing is read yet.
    ///
    /// # Errors
    /// `Internal` when the query engine cannot be set up.
    pub fn new(config: FileStoreConfig) -> Result<Self> {
        let parallel = std::thread::available_parallelism().map_or(1, NonZero::get);
        let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(config.memory_limit));
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::clone(&pool))
            // A folder's listing must be seen as it is now, not as it was.
            .with_object_list_cache_limit(0)
            .build_arc()?;
        let buckets = Buckets::new(config.environment.clone(), Arc::clone(&runtime));
        let mut session = SessionConfig::new()
            .with_target_partitions(parallel)
            .with_collect_statistics(false);
        let options = session.options_mut();
        // Rows of a partition come in the order of its files, which decides between equal rows.
        options.execution.enable_file_stream_work_stealing = false;
        options.execution.listing_table_ignore_subdirectory = false;
        // Views would keep whole source buffers alive for the few rows that are kept of them.
        options.execution.parquet.schema_force_view_types = false;
        options.execution.parquet.coerce_int96 = Some("us".to_owned());
        let state = SessionStateBuilder::new()
            .with_config(session)
            .with_runtime_env(runtime)
            .with_default_features()
            .build();
        Ok(Self {
            config,
            buckets,
            tables: None,
            state,
            pool,
            parallel,
        })
    }

    /// The store with these sources besides its files.
    #[must_use]
    pub fn with_tables(mut self, tables: Arc<dyn Tables>) -> Self {
        self.tables = Some(tables);
        self
    }

    async fn open(&self, source: &DataSource) -> Result<Table> {
        self.open_known(source, false).await
    }

    /// Opens a source whose scans may have to say by what their rows are known, which files always do.
    async fn open_known(&self, source: &DataSource, known: bool) -> Result<Table> {
        if let Some(tables) = &self.tables
            && let Some((provider, place)) = tables.open(source, known).await?
        {
            return Ok(Table::of(source, provider, place));
        }
        Ok(self.opened(source).await?.1)
    }

    /// The source as it is; of an object that is replaced while it is looked at, the one that came.
    async fn opened(&self, source: &DataSource) -> Result<(Location, Table)> {
        let mut location = self.locate(source).await?;
        loop {
            match Table::open(&self.state, &location, source).await {
                Ok(table) => return Ok((location, table)),
                Err(error) => {
                    let now = self.locate(source).await?;
                    if now.e_tag == location.e_tag {
                        return Err(error);
                    }
                    location = now;
                }
            }
        }
    }

    async fn locate(&self, source: &DataSource) -> Result<Location> {
        Location::of(source, &self.config.repo_path, &self.buckets).await
    }

    /// The sources of a query, each once, with the views that are answered from it.
    async fn open_all(&self, views: Vec<JoinView>) -> Result<Vec<(Table, Vec<(usize, JoinView)>)>> {
        let mut groups: Vec<Vec<(usize, JoinView)>> = Vec::new();
        let mut by_source = std::collections::HashMap::new();
        for (place, view) in views.into_iter().enumerate() {
            let source = &view.source;
            let mapping: std::collections::BTreeMap<_, _> =
                source.field_mapping.clone().into_iter().collect();
            let rows = DataSource {
                options: source.options.clone(),
                ..DataSource::default()
            };
            let name = (
                rows.encode_to_vec(),
                mapping,
                source.timestamp_field.clone(),
                source.created_timestamp_column.clone(),
            );
            let group = *by_source.entry(name).or_insert(groups.len());
            if group == groups.len() {
                groups.push(Vec::new());
            }
            groups[group].push((place, view));
        }
        let opened = groups.into_iter().map(async |views| {
            let source = views.first().map(|(_, view)| Arc::clone(&view.source));
            let source = source.ok_or_else(|| Error::internal("a source without views"))?;
            Ok::<_, Error>((self.open(&source).await?, views))
        });
        futures::stream::iter(opened)
            .buffered(OPENED_AT_ONCE)
            .try_collect()
            .await
    }
}

/// The columns a set of views needs of its source, under their mapped names.
fn wanted(table: &Table, views: &[(usize, JoinView)]) -> Result<Vec<String>> {
    let mut columns = vec![table.timestamp()?.to_owned()];
    columns.extend(table.created()?.map(str::to_owned));
    for (_, view) in views {
        let keys = view.join_keys.iter().map(|key| &key.source_column);
        for column in keys.chain(view.features.iter().map(|feature| &feature.source_column)) {
            if !columns.contains(column) {
                table.require(column, &format!("feature view `{}`", view.name))?;
                columns.push(column.clone());
            }
        }
    }
    Ok(columns)
}

/// The scans of a query: each table with its timestamp column and the columns that are wanted.
struct Scans {
    state: SessionState,
    sides: Vec<(Table, String, Vec<String>)>,
    scale: Scale,
}

#[async_trait]
impl Sources for Scans {
    async fn scan(&self, side: usize, bounds: &Bounds) -> Result<Vec<Part>> {
        let (table, timestamp, columns) = self
            .sides
            .get(side)
            .ok_or_else(|| Error::internal("a side of the join has no table"))?;
        let mut filters = vec![Filter::moments(
            timestamp,
            bounds.earliest,
            bounds.latest,
            self.scale,
        )];
        filters.extend(
            bounds
                .keys
                .iter()
                .map(|(column, least, greatest)| Filter::whole(column, *least, *greatest)),
        );
        let mut state = self.state.clone();
        let config = state.config_mut();
        let rows = (BATCH_VALUES / columns.len().max(1)).clamp(config.batch_size(), BATCH_ROWS);
        *config = config.clone().with_batch_size(rows);
        table.parts(&state, columns, &filters, timestamp).await
    }
}

#[async_trait]
impl OfflineStore for FileStore {
    async fn historical(&self, query: HistoricalQuery) -> Result<SendableRecordBatchStream> {
        let HistoricalQuery {
            entities,
            views,
            filter_by_created,
        } = query;
        let opened = self.open_all(views).await?;
        let mut sides = Vec::with_capacity(opened.len());
        let mut tables = Vec::with_capacity(opened.len());
        for (table, views) in opened {
            let schema = table.projected(&wanted(&table, &views)?)?;
            let (timestamp, created) = (table.timestamp()?.to_owned(), table.created()?.map(str::to_owned));
            tables.push(table);
            sides.push(Side {
                schema,
                timestamp,
                created,
                views,
            });
        }
        let entities = match entities {
            EntityRows::Batches {
                schema,
                batches,
                timestamp_column,
            } => Entities::new(schema, batches, &timestamp_column)?,
            EntityRows::Range { start, end } => self.range(&tables, &sides, start, end).await?,
            EntityRows::Query(_) => return Err(Error::internal("a query for entity rows was not run")),
        };
        let times = sides.iter().flat_map(|side| {
            let columns = std::iter::once(&side.timestamp).chain(&side.created);
            columns
                .filter_map(|name| side.schema.field_with_name(name).ok())
                .map(|field| field.data_type())
        });
        let scale = Scale::finest(times.chain(std::iter::once(entities.timestamp_type())));
        let scans = tables.into_iter().zip(&sides).map(|(table, side)| {
            let columns = side.schema.fields().iter();
            let columns = columns.map(|field| field.name().clone()).collect();
            (table, side.timestamp.clone(), columns)
        });
        let scans = Arc::new(Scans {
            state: self.state.clone(),
            sides: scans.collect(),
            scale,
        });
        let join = Join {
            entities,
            sides,
            scale,
            known_as_of: filter_by_created,
            pool: Arc::clone(&self.pool),
            parallel: self.parallel,
        };
        join.run(scans).await
    }

    async fn pull(&self, pull: Pull) -> Result<SendableRecordBatchStream> {
        self.pull_from(self.open(&pull.source).await?, pull).await
    }

    async fn pull_parts(&self, pull: Pull) -> Result<Parts> {
        self.parts_from(self.open_known(&pull.source, true).await?, pull)
            .await
    }

    async fn append(
        &self,
        source: &DataSource,
        batches: Vec<RecordBatch>,
        once: Option<&Path>,
    ) -> Result<Appended> {
        let location = self.locate(source).await?;
        write::check_source(&location, source)?;
        let rows = match &location.place {
            Place::Disk(path) => write::append(&self.state, path, &location, source, batches, once).await,
            Place::Cloud(object) => {
                let (location, table) = self.opened(source).await?;
                let rows = write::Rows::of(&table, source, &batches)?;
                upload::append(object, &location, rows, once).await
            }
        };
        rows.map(Appended::all)
    }

    async fn save(
        &self,
        target: &DataSource,
        rows: SendableRecordBatchStream,
        overwrite: bool,
        note: Option<Note>,
    ) -> Result<u64> {
        let location = self.locate(target).await?;
        write::check_target(&location, overwrite)?;
        match &location.place {
            Place::Disk(path) => write::save(path, &location, rows, note).await,
            Place::Cloud(object) => upload::save(object, &location, rows, note).await,
        }
    }

    /// A note is in the metadata of a Parquet file; other files have no place for one.
    async fn note(&self, source: &DataSource) -> Result<Option<String>> {
        self.open(source).await?.note(&self.state).await
    }

    async fn select(&self, sql: &str, sources: &[DataSource]) -> Result<(SchemaRef, Vec<RecordBatch>)> {
        self.rows_of_sql(sql, sources).await
    }

    async fn schema(&self, source: &DataSource) -> Result<SchemaRef> {
        Ok(self.open(source).await?.stored().clone())
    }

    async fn rows_at_most(
        &self,
        source: &DataSource,
        start: DateTime<Utc>,
        end: DateTime<Utc>,
    ) -> Option<u64> {
        self.open(source)
            .await
            .ok()?
            .rows_at_most(&self.state, start, end)
            .await
    }

    async fn check(&self) -> Result<()> {
        let path = &self.config.repo_path;
        let found = tokio::fs::metadata(path).await;
        let reason = match found {
            Ok(metadata) if metadata.is_dir() => return Ok(()),
            Ok(_) => "it is not a folder".to_owned(),
            Err(error) => error.to_string(),
        };
        Err(Error::unavailable(format!(
            "the repository folder `{}` cannot be read: {reason}",
            path.display()
        )))
    }
}

#[cfg(test)]
mod tests;
