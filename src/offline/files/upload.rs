//! Writing file sources in object stores. Rows are made a file on local disk first, and that is sent: an
//! object is there whole or not at all. Nothing locks writers there; an object is replaced only if it is still
//! the one that was read, and whoever comes second begins anew.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use datafusion::execution::SendableRecordBatchStream;
use futures::TryStreamExt;
use object_store::{
    Attribute, Attributes, GetOptions, GetResult, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
    UpdateVersion, WriteMultipart, path::Path as Key,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uuid::Uuid;

use super::{
    buckets::Object,
    location::{Location, Place, Shape},
    write::{self, Rows, blocking, part_name},
};
use crate::{
    backoff::Backoff,
    cloud::is_lost,
    durable,
    error::{Error, Kind, Result},
    offline::store::Note,
};

/// Longer files are sent in parts, for which there are no conditions.
const MOST_AT_ONCE: u64 = if cfg!(test) { 1 << 16 } else { 64 << 20 };
/// A part of such a file, and how many are on their way at a time.
const PART: usize = if cfg!(test) { 1 << 14 } else { 16 << 20 };
const PARTS_AT_ONCE: usize = 4;
/// How long to go on where others come first.
const PATIENCE: Duration = Duration::from_secs(30);
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(640));

/// What an object says of the writes that are in it, the newest first: of one whose answer got lost, and of
/// one that is to happen once, it shows whether it was made.
const WRITES: &str = "thali_writes";
/// As many of them as an object says.
const MOST_WRITES: usize = 16;

/// Adds rows to the object, or as a new object of the folder.
pub(super) async fn append(
    object: &Object,
    location: &Location,
    rows: Rows,
    marker: Option<&Path>,
) -> Result<u64> {
    let id = match marker {
        Some(marker) => marked(marker).await?,
        None => Uuid::now_v7(),
    };
    let count = rows.count;
    if count == 0 {
        return Ok(0);
    }
    let is_new = match location.shape {
        Shape::Folder => add(object, location, rows, id).await?,
        _ => extend(object, location, rows, id).await?,
    };
    Ok(if is_new { count } else { 0 })
}

/// A name for a write that is to happen once: always the same for the same marker, whatever happens.
async fn marked(marker: &Path) -> Result<Uuid> {
    let marker = marker.to_owned();
    let failed = |error: std::io::Error| {
        Error::unavailable(format!("marking a write in `{}`: {error}", marker.display()))
    };
    match tokio::fs::read_to_string(&marker).await {
        Ok(text) => {
            if let Ok(id) = text.parse() {
                return Ok(id);
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let id = Uuid::now_v7();
    blocking({
        let marker = marker.clone();
        move || {
            let failed = |error: std::io::Error| {
                Error::unavailable(format!("marking a write in `{}`: {error}", marker.display()))
            };
            durable::replace(&marker, id.to_string().as_bytes()).map_err(failed)
        }
    })
    .await?;
    Ok(id)
}

/// Adds an object of that name to the folder, if it is not there. Written twice it is the same.
async fn add(object: &Object, location: &Location, rows: Rows, id: Uuid) -> Result<bool> {
    let key = object.key.clone().join(part_name(id, location.format));
    let draft = Draft::new(location)?;
    let (path, format) = (draft.path.clone(), location.format);
    blocking(move || rows.write(&path, format)).await?;
    match object.opened.bucket.head(&key).await {
        Ok(_) => return Ok(false),
        Err(object_store::Error::NotFound { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    draft.send(object, &key, PutOptions::default()).await?;
    Ok(true)
}

/// Replaces the object by one with more rows at its end, unless an earlier call did.
async fn extend(object: &Object, location: &Location, rows: Rows, id: Uuid) -> Result<bool> {
    object.check_conditions().await?;
    let rows = Arc::new(rows);
    let (began, mut backoff) = (Instant::now(), BACKOFF);
    let mut tries = 0;
    loop {
        let draft = Draft::new(location)?;
        let bucket = &object.opened.bucket;
        let found = bucket.get_opts(&object.key, GetOptions::default()).await?;
        if writes(&found.attributes).contains(&id) {
            // Of a try whose answer got lost it was this call.
            return Ok(tries > 0);
        }
        let version = UpdateVersion {
            e_tag: found.meta.e_tag.clone(),
            version: found.meta.version.clone(),
        };
        let attributes = with_write(found.attributes.clone(), id);
        match draft.fetch(found).await {
            Err(error) if error.kind() == Kind::Conflict && began.elapsed() < PATIENCE => {
                backoff.pause().await;
                continue;
            }
            fetched => fetched?,
        }
        let (path, format, more) = (draft.path.clone(), location.format, Arc::clone(&rows));
        blocking(move || write::extend(&path, format, &more.batches)).await?;
        if draft.size().await? > MOST_AT_ONCE {
            return Err(Error::unsupported(format!(
                "`{}` is too large to be replaced with more rows in it",
                location.name
            ))
            .hint("make the source a folder of objects: rows are then added as objects of their own"));
        }
        let options = PutOptions {
            attributes,
            ..PutMode::Update(version).into()
        };
        match draft.send(object, &object.key, options).await {
            Ok(()) => return Ok(true),
            Err(error) if is_lost(&error) && began.elapsed() < PATIENCE => backoff.pause().await,
            Err(error) => return Err(error.into()),
        }
        tries += 1;
    }
}

fn writes(attributes: &Attributes) -> Vec<Uuid> {
    let said = attributes.get(&Attribute::Metadata(WRITES.into()));
    let names = said.map_or("", AsRef::as_ref).split('-');
    names.filter_map(|name| name.parse().ok()).collect()
}

fn with_write(mut attributes: Attributes, id: Uuid) -> Attributes {
    let names: Vec<_> = std::iter::once(id)
        .chain(writes(&attributes))
        .take(MOST_WRITES)
        .map(|id| id.simple().to_string())
        .collect();
    attributes.insert(Attribute::Metadata(WRITES.into()), names.join("-").into());
    attributes
}

/// Writes a stream as the object.
pub(super) async fn save(
    object: &Object,
    location: &Location,
    rows: SendableRecordBatchStream,
    note: Option<Note>,
) -> Result<u64> {
    let draft = Draft::new(location)?;
    let file = Location {
        place: Place::Disk(draft.path.clone()),
        shape: Shape::Absent,
        ..location.clone()
    };
    let count = write::save(&draft.path, &file, rows, note).await?;
    let exists = || Error::new(Kind::AlreadyExists, format!("`{}` exists already", location.name));
    let is_new = location.shape == Shape::Absent;
    if is_new && draft.size().await? > MOST_AT_ONCE {
        // In parts no condition can be set: what somebody else writes there during the upload is replaced.
        match object.opened.bucket.head(&object.key).await {
            Ok(_) => return Err(exists()),
            Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let id = Uuid::now_v7();
    let mode = if is_new {
        PutMode::Create
    } else {
        PutMode::Overwrite
    };
    let options = PutOptions {
        attributes: with_write(Attributes::new(), id),
        ..mode.into()
    };
    match draft.send(object, &object.key, options).await {
        Ok(()) => Ok(count),
        Err(error) if is_new && is_lost(&error) => {
            let head = GetOptions {
                head: true,
                ..GetOptions::default()
            };
            let there = object.opened.bucket.get_opts(&object.key, head).await?;
            // It may be this one, when the answer of a try got lost.
            if writes(&there.attributes).contains(&id) {
                Ok(count)
            } else {
                Err(exists())
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// A file on local disk that is to become an object; gone when it is dropped.
struct Draft {
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Draft {
    fn new(location: &Location) -> Result<Self> {
        let folder = tempfile::tempdir()
            .map_err(|error| Error::unavailable(format!("a folder for temporary files: {error}")))?;
        Ok(Self {
            path: folder.path().join(format!("rows{}", location.format.extension())),
            _folder: folder,
        })
    }

    fn failed(error: &std::io::Error) -> Error {
        Error::unavailable(format!("a temporary file: {error}"))
    }

    async fn size(&self) -> Result<u64> {
        let metadata = tokio::fs::metadata(&self.path).await;
        Ok(metadata.map_err(|error| Self::failed(&error))?.len())
    }

    /// Fills the file with an object's content.
    async fn fetch(&self, found: GetResult) -> Result<()> {
        let file = tokio::fs::File::create(&self.path).await;
        let mut file = file.map_err(|error| Self::failed(&error))?;
        let mut content = found.into_stream();
        while let Some(bytes) = content.try_next().await? {
            file.write_all(&bytes)
                .await
                .map_err(|error| Self::failed(&error))?;
        }
        file.flush().await.map_err(|error| Self::failed(&error))
    }

    /// Makes the file an object.
    async fn send(&self, object: &Object, key: &Key, options: PutOptions) -> object_store::Result<()> {
        let bucket = &object.opened.bucket;
        let broken = |error: std::io::Error| object_store::Error::Generic {
            store: "temporary file",
            source: Box::new(Self::failed(&error)),
        };
        let mut file = tokio::fs::File::open(&self.path).await.map_err(broken)?;
        if file.metadata().await.map_err(broken)?.len() <= MOST_AT_ONCE {
            let mut content = Vec::new();
            file.read_to_end(&mut content).await.map_err(broken)?;
            return bucket.put_opts(key, content.into(), options).await.map(drop);
        }
        let upload = bucket.put_multipart(key).await?;
        let mut parts = WriteMultipart::new_with_chunk_size(upload, PART);
        loop {
            let mut part = Vec::with_capacity(PART);
            let read = (&mut file).take(PART as u64).read_to_end(&mut part).await;
            if read.map_err(broken)? == 0 {
                break;
            }
            parts.wait_for_capacity(PARTS_AT_ONCE).await?;
            parts.put(Bytes::from(part));
        }
        parts.finish().await.map(drop)
    }
}
