//! [`Journal`]: pushed rows on their way to the offline store, kept on disk until they are there. What was
//! acknowledged is appended exactly once, whenever the process ends.
//!
//! Every process has a folder of its own in the journal's, held by a lock; what a process that is gone left
//! behind is taken over by the next to start. A folder has segments, files of records. A segment that is
//! complete is appended source by source, each under a marker ([`OfflineStore::append`]), then removed.
//!
//! Rows that a source will not take for what is in them hold up no others: they are set aside in a file of
//! records beside the folders, counted and logged. A folder that such files are moved to is appended as what a
//! process left behind is, so they can be tried again.
//!
//! Invariant: a segment is removed when its refused rows are set aside, and before its markers are.

mod record;
mod refused;
mod segment;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
        mpsc::{Sender, channel},
    },
    time::Duration,
};

use arrow::record_batch::RecordBatch;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use self::segment::{Command, SEGMENT, write_segments};
use crate::{
    error::{Error, Kind, Result},
    metrics::Metrics,
    offline::store::OfflineStore,
    proto::feast::core::DataSource,
};

/// How the journal is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalOptions {
    pub folder: PathBuf,
    /// Rows that are appended without waiting for the interval.
    pub batch_size: usize,
    pub interval: Duration,
    /// The most bytes that may wait; more is turned away.
    pub limit: u64,
}

/// Rows that wait for the offline store.
pub struct Journal {
    options: JournalOptions,
    /// Held as long as the process lives.
    _lock: File,
    commands: Sender<Command>,
    /// Complete segments that are not yet appended.
    sealed: Mutex<Vec<PathBuf>>,
    /// Folders of processes that are gone, with their locks; removed once they are empty.
    adopted: Mutex<Vec<(PathBuf, File)>>,
    waiting_bytes: AtomicU64,
    waiting_rows: AtomicUsize,
    enough: Notify,
}

impl Journal {
    /// Opens the journal, and takes over what earlier processes left.
    ///
    /// # Errors
    /// `Config` when the folder cannot be used.
    pub fn open(options: JournalOptions) -> Result<Arc<Self>> {
        let refused = |path: &Path, error: &std::io::Error| {
            Error::config(format!(
                "the push journal cannot use `{}`: {error}",
                path.display()
            ))
            .hint("`thali.push_journal` names a folder this process may write to")
        };
        let own = options.folder.join(uuid::Uuid::now_v7().simple().to_string());
        fs::create_dir_all(&own).map_err(|error| refused(&own, &error))?;
        let lock = hold(&own)
            .map_err(|error| refused(&own, &error))?
            .ok_or_else(|| Error::internal("a new folder is held by somebody else"))?;
        let (mut sealed, mut adopted, mut bytes) = (Vec::new(), Vec::new(), 0);
        let entries = fs::read_dir(&options.folder).map_err(|error| refused(&options.folder, &error))?;
        for entry in entries
            .flatten()
            .filter(|entry| entry.path() != own && entry.path().is_dir())
        {
            let folder = entry.path();
            if let Some(lock) = hold(&folder).map_err(|error| refused(&folder, &error))? {
                for (path, size) in segments(&folder) {
                    bytes += size;
                    sealed.push(path);
                }
                adopted.push((folder, lock));
            }
        }
        sealed.sort();
        if !sealed.is_empty() {
            tracing::info!(
                segments = sealed.len(),
                "pushed rows of an earlier process are appended"
            );
        }
        let (commands, inbox) = channel();
        std::thread::Builder::new()
            .name("push journal".to_owned())
            .spawn(move || write_segments(&own, &inbox))
            .map_err(|error| {
                Error::unavailable(format!("the push journal's thread cannot be started: {error}"))
            })?;
        Ok(Arc::new(Self {
            options,
            _lock: lock,
            commands,
            sealed: Mutex::new(sealed),
            adopted: Mutex::new(adopted),
            waiting_bytes: AtomicU64::new(bytes),
            waiting_rows: AtomicUsize::new(0),
            enough: Notify::new(),
        }))
    }

    /// Returns once the rows are on disk.
    ///
    /// # Errors
    /// `Overloaded` when too much is waiting; `Unavailable` when the disk does not take it.
    pub async fn put(&self, rows: &[(Arc<DataSource>, RecordBatch)]) -> Result<()> {
        let record = record::encode(rows)?;
        let size = record.len() as u64;
        if self.waiting_bytes.fetch_add(size, SeqCst) + size > self.options.limit {
            self.waiting_bytes.fetch_sub(size, SeqCst);
            return Err(Error::new(
                Kind::Overloaded,
                "too many pushed rows wait for the offline store",
            )
            .hint("try again; if it stays, see in the log why rows are not appended"));
        }
        let (done, written) = oneshot::channel();
        let sent = self.commands.send(Command::Put { record, done });
        let outcome = match sent {
            Ok(()) => written
                .await
                .unwrap_or_else(|_| Err("its thread ended".to_owned())),
            Err(_) => Err("its thread ended".to_owned()),
        };
        if let Err(error) = outcome {
            self.waiting_bytes.fetch_sub(size, SeqCst);
            return Err(Error::unavailable(format!(
                "the push journal cannot be written: {error}"
            )));
        }
        let count: usize = rows.iter().map(|(_, batch)| batch.num_rows()).sum();
        if self.waiting_rows.fetch_add(count, SeqCst) + count >= self.options.batch_size {
            self.enough.notify_one();
        }
        Ok(())
    }

    /// Appends what waits, at every interval or when there is enough of it, until `stop`; then once more.
    ///
    /// # Errors
    /// Never; what cannot be appended is logged and tried again.
    pub async fn run(
        self: Arc<Self>,
        store: Arc<dyn OfflineStore>,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> Result<()> {
        self.append(store.as_ref(), &metrics).await;
        while !stop.is_cancelled() {
            tokio::select! {
                () = tokio::time::sleep(self.options.interval) => {}
                () = self.enough.notified() => {}
                () = stop.cancelled() => {}
            }
            self.seal().await;
            self.append(store.as_ref(), &metrics).await;
        }
        Ok(())
    }

    async fn seal(&self) {
        let (done, sealed) = oneshot::channel();
        self.waiting_rows.store(0, SeqCst);
        if self.commands.send(Command::Seal { done }).is_ok()
            && let Ok(Some(path)) = sealed.await
        {
            self.sealed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(path);
        }
    }

    /// Appends every complete segment; one that cannot be is left for the next time.
    async fn append(&self, store: &dyn OfflineStore, metrics: &Metrics) {
        let segments = std::mem::take(&mut *self.sealed.lock().unwrap_or_else(PoisonError::into_inner));
        let mut left = Vec::new();
        for path in segments {
            match append_segment(store, &path, metrics).await {
                Ok(size) => {
                    self.waiting_bytes.fetch_sub(size, SeqCst);
                }
                Err(error) => {
                    tracing::error!(%error, segment = %path.display(), "pushed rows cannot be appended yet");
                    left.push(path);
                }
            }
        }
        let done = left.is_empty();
        self.sealed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(left);
        if done {
            for (folder, _lock) in self
                .adopted
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .drain(..)
            {
                if let Err(error) = fs::remove_dir_all(&folder) {
                    tracing::warn!(%error, folder = %folder.display(), "an empty journal stays");
                }
            }
        }
    }
}

/// Appends a segment and removes it; answers its size.
async fn append_segment(store: &dyn OfflineStore, path: &Path, metrics: &Metrics) -> Result<u64> {
    let failed =
        |error: std::io::Error| Error::unavailable(format!("push journal `{}`: {error}", path.display()));
    let bytes = tokio::fs::read(path).await.map_err(failed)?;
    let size = bytes.len() as u64;
    let (mut markers, mut refused) = (Vec::new(), refused::Rows::default());
    for (number, (source, batches)) in record::by_source(bytes.into())?.into_iter().enumerate() {
        let marker = path.with_extension(number.to_string());
        let appended = store
            .append(&source, batches.clone(), Some(&marker))
            .await
            .map_err(|error| error.context(format!("data source `{}`", source.name)))?;
        refused.add(source, &batches, &appended.refused)?;
        markers.push(marker);
    }
    refused.set_aside(path, metrics).map_err(failed)?;
    fs::remove_file(path).map_err(failed)?;
    if let Some(folder) = path.parent() {
        // The removal must not be younger than that of the markers.
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(failed)?;
    }
    for marker in markers.iter().filter(|marker| marker.exists()) {
        fs::remove_file(marker).map_err(failed)?;
    }
    Ok(size)
}

/// The lock of a process's folder; `None` when the process lives.
fn hold(folder: &Path) -> std::io::Result<Option<File>> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.join("lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

/// The segments of a folder with their sizes.
fn segments(folder: &Path) -> Vec<(PathBuf, u64)> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let segment = |entry: fs::DirEntry| {
        let path = entry.path();
        let size = entry.metadata().ok()?.len();
        (path.extension()? == SEGMENT).then_some((path, size))
    };
    entries.flatten().filter_map(segment).collect()
}

#[cfg(test)]
mod tests;
