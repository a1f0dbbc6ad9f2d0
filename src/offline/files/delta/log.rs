//! The log of a Delta table: which files it has in its newest version, and what is said of them.
//!
//! A version is the newest checkpoint with the commits after it. Nothing is kept between two readings, and
//! nothing is written.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use arrow::json::writer::{LineDelimited, WriterBuilder};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectStore, ObjectStoreExt as _, path::Path};
use parquet::{
    arrow::{
        ProjectionMask,
        arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder},
    },
    errors::ParquetError,
};
use serde::Deserialize;

use super::{super::write::blocking, vector::DeletionVector};
use crate::{
    error::{Error, Result},
    offline::store::listed,
};

/// The folder of the log in that of the table.
pub(in crate::offline::files) const FOLDER: &str = "_delta_log";
const SIDECARS: &str = "_sidecars";
const HINT: &str = "_last_checkpoint";
/// Commits read at the same time.
const COMMITS_AT_ONCE: usize = 16;

/// The newest version whose readers' side is understood here.
const READER_VERSION: u32 = 3;
/// The table features that are understood here.
const FEATURES: [&str; 5] = [
    "columnMapping",
    "deletionVectors",
    "timestampNtz",
    "v2Checkpoint",
    "vacuumProtocolCheck",
];
const COLUMN_MAPPING: &str = "delta.columnMapping.mode";

/// A version of a table.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) version: u64,
    pub(super) metadata: Metadata,
    pub(super) has_names_of_files: bool,
    /// The oldest first.
    pub(super) files: Vec<Add>,
}

/// A line of the log; what else there is in one says nothing of the rows.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Action {
    add: Option<Add>,
    remove: Option<Remove>,
    meta_data: Option<Metadata>,
    protocol: Option<Protocol>,
    sidecar: Option<Sidecar>,
}

/// A file of the table.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Add {
    pub(super) path: String,
    pub(super) partition_values: HashMap<String, Option<String>>,
    pub(super) size: u64,
    /// In milliseconds.
    pub(super) modification_time: i64,
    pub(super) stats: Option<String>,
    pub(super) deletion_vector: Option<DeletionVector>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Remove {
    path: String,
    deletion_vector: Option<DeletionVector>,
}

/// What is said of the table as a whole.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    pub(super) schema_string: String,
    pub(super) partition_columns: Vec<String>,
    #[serde(default)]
    pub(super) configuration: HashMap<String, Option<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Protocol {
    min_reader_version: u32,
    reader_features: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Sidecar {
    path: String,
}

#[derive(Deserialize)]
struct Hint {
    version: u64,
}

impl Snapshot {
    /// The newest version of the table in a folder.
    ///
    /// # Errors
    /// `InvalidArgument` when its log is not there or not whole, `Unsupported` naming what is not understood.
    pub(super) async fn newest(store: &Arc<dyn ObjectStore>, table: &Path) -> Result<Self> {
        let log = Log {
            store: Arc::clone(store),
            folder: table.clone().join(FOLDER),
        };
        let listed = log.list().await?;
        let mut replay = Replay::default();
        let mut first = 0;
        if let Some((version, parts)) = listed.checkpoint {
            first = version + 1;
            for part in parts {
                replay.all(log.checkpoint(part).await?);
            }
            for sidecar in std::mem::take(&mut replay.sidecars) {
                let name = sidecar.rsplit('/').next().unwrap_or_default();
                let part = log.folder.clone().join(SIDECARS).join(name);
                replay.all(log.checkpoint(part).await?);
            }
        }
        let newest = listed.newest;
        let commits = (first..newest + 1).map(|version| log.commit(version, newest));
        let mut commits = futures::stream::iter(commits).buffered(COMMITS_AT_ONCE);
        while let Some((path, commit)) = commits.try_next().await? {
            replay.all(actions(&path, &commit)?);
        }
        replay.done(newest)
    }
}

/// What is in the folder of a log.
struct Listed {
    newest: u64,
    /// Its version and its files.
    checkpoint: Option<(u64, Vec<Path>)>,
}

struct Log {
    store: Arc<dyn ObjectStore>,
    folder: Path,
}

impl Log {
    async fn list(&self) -> Result<Listed> {
        let hint = match self.store.get(&self.folder.clone().join(HINT)).await {
            Ok(found) => found.bytes().await.ok(),
            Err(_) => None,
        };
        // It may be gone or broken: it only saves looking at the files before it.
        let hint = hint.and_then(|hint| serde_json::from_slice::<Hint>(&hint).ok());
        if let Some(Hint { version }) = hint {
            let listed = self.list_from(version).await?;
            if let Some(listed) = listed.filter(|listed| listed.checkpoint.is_some()) {
                return Ok(listed);
            }
        }
        self.list_from(0).await?.ok_or_else(|| {
            Error::invalid(format!("there is no Delta table: nothing is in its `{FOLDER}`"))
                .hint("the path of a Delta table is that of the folder its `_delta_log` is in")
        })
    }

    async fn list_from(&self, version: u64) -> Result<Option<Listed>> {
        let offset = self.folder.clone().join(format!("{version:020}"));
        let mut found = self.store.list_with_offset(Some(&self.folder), &offset);
        let mut newest = None;
        // By version and number of parts.
        let mut checkpoints: BTreeMap<(u64, usize), Vec<Path>> = BTreeMap::new();
        while let Some(object) = found.try_next().await? {
            let path = object.location;
            let mut inside = path.prefix_match(&self.folder).into_iter().flatten();
            let (Some(_), None) = (inside.next(), inside.next()) else {
                continue;
            };
            let name: Vec<&str> = path.filename().unwrap_or_default().split('.').collect();
            let Some(version) = name.first().and_then(|version| version.parse().ok()) else {
                continue;
            };
            match name[1..] {
                ["json"] => {}
                ["checkpoint", "parquet"] | ["checkpoint", _, "json" | "parquet"] => {
                    checkpoints.insert((version, 1), vec![path.clone()]);
                }
                ["checkpoint", _, count, "parquet"] => {
                    let count = count.parse().unwrap_or(usize::MAX);
                    checkpoints
                        .entry((version, count))
                        .or_default()
                        .push(path.clone());
                }
                _ => continue,
            }
            newest = newest.max(Some(version));
        }
        // One whose parts are not all there yet is none.
        let mut newest_first = checkpoints.into_iter().rev();
        let whole = newest_first.find(|((_, count), parts)| parts.len() == *count);
        let checkpoint = whole.map(|((version, _), parts)| (version, parts));
        Ok(newest.map(|newest| Listed { newest, checkpoint }))
    }

    /// The commit that made a version. Versions have no gaps, though a listing may have them while others write.
    async fn commit(&self, version: u64, newest: u64) -> Result<(Path, Bytes)> {
        let path = self.folder.clone().join(format!("{version:020}.json"));
        match self.store.get(&path).await {
            Ok(found) => Ok((path, found.bytes().await?)),
            Err(object_store::Error::NotFound { .. }) => Err(Error::invalid(format!(
                "the Delta table has version {newest}, but version {version} is missing in its log"
            ))
            .hint(format!("there should be a `{FOLDER}/{version:020}.json`"))),
            Err(error) => Err(error.into()),
        }
    }

    async fn checkpoint(&self, path: Path) -> Result<Vec<Action>> {
        let content = self.store.get(&path).await?.bytes().await?;
        blocking(move || {
            if path.as_ref().ends_with(".json") {
                actions(&path, &content)
            } else {
                actions(&path, &lines_of(content).map_err(|error| broken(&path, &error))?)
            }
        })
        .await
    }
}

/// The columns of a checkpoint that hold what [`Action`] has.
fn is_wanted(column: &str) -> bool {
    const WANTED: [&str; 9] = [
        "add.path",
        "add.partitionValues.",
        "add.size",
        "add.modificationTime",
        "add.stats",
        "add.deletionVector.",
        "metaData.",
        "protocol.",
        "sidecar.path",
    ];
    let is_of = |wanted: &str| column == wanted || (wanted.ends_with('.') && column.starts_with(wanted));
    WANTED.into_iter().any(is_of)
}

/// The rows of a checkpoint as commits have them.
fn lines_of(checkpoint: Bytes) -> Result<Vec<u8>, ParquetError> {
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let reader = ParquetRecordBatchReaderBuilder::try_new_with_options(checkpoint, options)?;
    let columns = reader.parquet_schema().columns().iter().enumerate();
    let wanted = columns
        .filter(|(_, column)| is_wanted(&column.path().string()))
        .map(|(place, _)| place);
    let wanted = ProjectionMask::leaves(reader.parquet_schema(), wanted);
    let options = WriterBuilder::new().with_explicit_nulls(true);
    let mut writer = options.build::<_, LineDelimited>(Vec::new());
    for batch in reader.with_projection(wanted).build()? {
        writer.write(&batch?)?;
    }
    writer.finish()?;
    Ok(writer.into_inner())
}

fn actions(path: &Path, lines: &[u8]) -> Result<Vec<Action>> {
    let lines = lines.split(|byte| *byte == b'\n');
    let lines = lines.filter(|line| !line.trim_ascii().is_empty());
    let action = |line| serde_json::from_slice(line).map_err(|error| broken(path, &error));
    lines.map(action).collect()
}

fn broken(path: &Path, error: &dyn std::fmt::Display) -> Error {
    let name = path.filename().unwrap_or_default();
    Error::invalid(format!(
        "`{name}` in the log of the Delta table cannot be read: {error}"
    ))
}

/// The actions so far.
#[derive(Default)]
struct Replay {
    protocol: Option<Protocol>,
    metadata: Option<Metadata>,
    /// By path and deletion vector.
    files: HashMap<(String, Option<String>), Add>,
    sidecars: Vec<String>,
}

impl Replay {
    fn all(&mut self, actions: Vec<Action>) {
        for action in actions {
            if let Some(add) = action.add {
                let file = identity(&add.path, add.deletion_vector.as_ref());
                self.files.insert(file, add);
            }
            if let Some(remove) = action.remove {
                let file = identity(&remove.path, remove.deletion_vector.as_ref());
                self.files.remove(&file);
            }
            self.metadata = action.meta_data.or(self.metadata.take());
            self.protocol = action.protocol.or(self.protocol.take());
            let sidecar = action.sidecar.map(|sidecar| sidecar.path);
            self.sidecars.extend(sidecar);
        }
    }

    fn done(self, version: u64) -> Result<Snapshot> {
        let (Some(protocol), Some(metadata)) = (self.protocol, self.metadata) else {
            return Err(Error::invalid(
                "the log of the Delta table says neither its protocol nor its columns",
            ));
        };
        protocol.check()?;
        let mapping = metadata.configuration.get(COLUMN_MAPPING);
        let mapping = mapping.and_then(Option::as_deref).unwrap_or("none");
        if !["none", "name"].contains(&mapping) {
            return Err(Error::unsupported(format!(
                "the Delta table maps its columns by `{mapping}`, which thali does not read"
            ))
            .hint("thali reads tables without column mapping, or with that by `name`"));
        }
        let mut files: Vec<Add> = self.files.into_values().collect();
        files.sort_by(|one, other| {
            (one.modification_time, &one.path).cmp(&(other.modification_time, &other.path))
        });
        Ok(Snapshot {
            version,
            has_names_of_files: mapping == "name",
            metadata,
            files,
        })
    }
}

/// What an action means by its path: the same file may be written in several ways.
fn identity(path: &str, vector: Option<&DeletionVector>) -> (String, Option<String>) {
    let decoded = Path::from_url_path(path);
    let path = decoded.map_or_else(|_| path.to_owned(), String::from);
    (path, vector.map(DeletionVector::id))
}

impl Protocol {
    fn check(&self) -> Result<()> {
        if self.min_reader_version > READER_VERSION {
            return Err(Error::unsupported(format!(
                "the Delta table asks for version {} of the protocol, of which thali reads {READER_VERSION} and older",
                self.min_reader_version
            )));
        }
        let features = self.reader_features.iter().flatten();
        for feature in features {
            if !FEATURES.contains(&feature.as_str()) {
                return Err(Error::unsupported(format!(
                    "the Delta table has the feature `{feature}`, which thali does not read"
                ))
                .hint(format!(
                    "write what the table holds to one without it; of such features thali reads {}",
                    listed(FEATURES)
                )));
            }
        }
        Ok(())
    }
}
