//! [`FileStore`]: the registry as Feast's `registry.db`, one serialized `feast.core.Registry` on local
//! disk. Unlike Feast it replaces the file atomically and takes a lock among writers, so that no
//! acknowledged change is lost. What is in the file is the business of `document`.

mod document;
mod replace;

use std::{
    collections::HashMap,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::Utc;

use self::{document::Document, replace::WriteLock};
use super::{
    Change, Decide, ProjectState, RegistryStore, Revision, complete,
    history::{Author, HistoryEntry, HistoryPage},
};
use crate::error::{Error, Kind, Result};

/// File times are coarse: a file changed this recently may change again without a new mark.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// What the file system tells about a file's content without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    modified: SystemTime,
    length: u64,
    inode: u64,
}

impl Mark {
    fn of(metadata: &fs::Metadata) -> io::Result<Self> {
        Ok(Self {
            modified: metadata.modified()?,
            length: metadata.len(),
            inode: metadata.ino(),
        })
    }
}

/// The file as it was read.
#[derive(Debug)]
struct Snapshot {
    /// `None` when there was no file.
    mark: Option<Mark>,
    taken: SystemTime,
    revision: Revision,
    document: Document,
    /// Projects as they were asked for.
    states: Mutex<HashMap<String, Arc<ProjectState>>>,
}

impl Snapshot {
    fn state(&self, project: &str) -> Result<Arc<ProjectState>> {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = states.get(project) {
            return Ok(Arc::clone(state));
        }
        let state = Arc::new(self.document.state(project, self.revision.clone())?);
        // Names that nobody has applied anything to are not kept: callers may make up any number.
        if !state.is_empty() {
            states.insert(project.to_owned(), Arc::clone(&state));
        }
        Ok(state)
    }

    fn is_still(&self, mark: Option<Mark>) -> bool {
        let settled = match self.mark {
            Some(mark) => self
                .taken
                .duration_since(mark.modified)
                .is_ok_and(|age| age > SETTLED_AFTER),
            None => true,
        };
        settled && self.mark == mark
    }
}

/// A registry file on local disk.
#[derive(Debug, Clone)]
pub struct FileStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    snapshot: Mutex<Option<Arc<Snapshot>>>,
    /// Writers of this process take turns here first, so that at most one thread waits for the file lock.
    turn: tokio::sync::Mutex<()>,
}

impl FileStore {
    /// A store on the file at `path`; a missing file is an empty registry, made by the first change.
    ///
    /// # Errors
    /// `Config` when there is a file that is no registry or a newer one, `Unavailable` when it cannot
    /// be read.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let inner = Inner {
            path: path.into(),
            snapshot: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        };
        inner.read()?;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    async fn snapshot(&self) -> Result<Arc<Snapshot>> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.read()).await
    }
}

/// Runs file access where it may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::internal("access to the registry file was interrupted").source_error(error))?
}

impl Inner {
    /// The file's content; parsed only when it is not known already.
    fn read(&self) -> Result<Arc<Snapshot>> {
        let known = self
            .snapshot
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let mark = match fs::metadata(&self.path) {
            Ok(metadata) => Some(Mark::of(&metadata).map_err(|error| self.unreadable(error))?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(self.unreadable(error)),
        };
        let was_filled = known
            .as_ref()
            .and_then(|known| known.mark)
            .is_some_and(|mark| mark.length > 0);
        if let Some(known) = known.as_ref().filter(|known| known.is_still(mark)) {
            return Ok(Arc::clone(known));
        }
        let snapshot = match self.read_file()? {
            // Feast empties the file before it writes it; an update must not start from that.
            Some((_, content)) if content.is_empty() && was_filled => return Err(self.emptied()),
            Some((mark, content)) => self.parse(Some(mark), &content, known.as_deref())?,
            None => Snapshot {
                mark: None,
                taken: SystemTime::now(),
                revision: Revision("missing".to_owned()),
                document: Document::default(),
                states: Mutex::default(),
            },
        };
        Ok(self.keep(snapshot))
    }

    fn read_file(&self) -> Result<Option<(Mark, Bytes)>> {
        // Feast overwrites in place: read again when the file changed under the read.
        for _ in 0..16 {
            let read = fs::File::open(&self.path).and_then(|mut file| {
                let before = Mark::of(&file.metadata()?)?;
                let mut content = Vec::with_capacity(usize::try_from(before.length).unwrap_or_default());
                io::Read::read_to_end(&mut file, &mut content)?;
                let after = Mark::of(&file.metadata()?)?;
                Ok((before == after && content.len() as u64 == after.length).then_some((after, content)))
            });
            match read {
                Ok(Some((mark, content))) => return Ok(Some((mark, content.into()))),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(self.unreadable(error)),
            }
        }
        let path = self.path.display();
        Err(Error::unavailable(format!(
            "registry file `{path}` is being rewritten without pause"
        )))
    }

    fn parse(&self, mark: Option<Mark>, content: &Bytes, known: Option<&Snapshot>) -> Result<Snapshot> {
        let document = Document::parse(content, known.map(|known| &known.document))
            .map_err(|error| error.context(format!("registry file `{}`", self.path.display())))?;
        let revision = match document.version_id() {
            "" => {
                let mut hasher = DefaultHasher::new();
                content.hash(&mut hasher);
                format!("{:016x}", hasher.finish())
            }
            id => id.to_owned(),
        };
        let revision = Revision(format!("{revision}-{}", content.len()));
        Ok(Snapshot {
            mark,
            taken: SystemTime::now(),
            revision,
            document,
            states: Mutex::default(),
        })
    }

    fn keep(&self, snapshot: Snapshot) -> Arc<Snapshot> {
        let snapshot = Arc::new(snapshot);
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&snapshot));
        snapshot
    }

    /// Writes the next content; the lock is held until it is on disk.
    fn write(
        &self,
        lock: &WriteLock,
        before: &Snapshot,
        project: &str,
        changes: &[Change],
    ) -> Result<Arc<Snapshot>> {
        let mut document = before.document.clone();
        document.change(project, changes, Utc::now())?;
        let content = document.encode();
        let metadata = lock.replace(&content).map_err(|error| self.unwritable(error))?;
        let mark = Mark::of(&metadata).map_err(|error| self.unwritable(error))?;
        Ok(self.keep(self.parse(Some(mark), &content, Some(before))?))
    }

    fn unreadable(&self, error: io::Error) -> Error {
        Error::unavailable(format!(
            "registry file `{}` cannot be read: {error}",
            self.path.display()
        ))
        .source_error(error)
    }

    fn emptied(&self) -> Error {
        let path = self.path.display();
        Error::unavailable(format!(
            "registry file `{path}` is empty now; another program may be writing it"
        ))
        .hint("remove the file to start with an empty registry")
    }

    fn unwritable(&self, error: io::Error) -> Error {
        let hint = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                "free some space; nothing was changed"
            }
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                "the directory has to be writable, because the file is replaced as a whole; nothing was changed"
            }
            _ => "nothing was changed",
        };
        Error::unavailable(format!(
            "registry file `{}` cannot be written: {error}",
            self.path.display()
        ))
        .hint(hint)
        .source_error(error)
    }
}

#[async_trait]
impl RegistryStore for FileStore {
    async fn projects(&self) -> Result<Vec<String>> {
        Ok(self.snapshot().await?.document.projects())
    }

    async fn load(&self, project: &str) -> Result<Arc<ProjectState>> {
        self.snapshot().await?.state(project)
    }

    async fn revision(&self) -> Result<Revision> {
        Ok(self.snapshot().await?.revision.clone())
    }

    async fn update(
        &self,
        project: &str,
        _author: Option<&Author>,
        decide: Decide<'_>,
    ) -> Result<Arc<ProjectState>> {
        let _turn = self.inner.turn.lock().await;
        let inner = Arc::clone(&self.inner);
        let (lock, before) = blocking(move || {
            let lock = WriteLock::take(&inner.path).map_err(|error| inner.unwritable(error))?;
            let before = inner.read()?;
            Ok((lock, before))
        })
        .await?;
        let state = before.state(project)?;
        let changes = decide(&state)?;
        if changes.is_empty() {
            return Ok(state);
        }
        let changes = complete(&state, changes, Utc::now());
        let inner = Arc::clone(&self.inner);
        let name = project.to_owned();
        // The lock goes along: a caller that gives up does not free it before the write is done.
        let after = blocking(move || inner.write(&lock, &before, &name, &changes)).await?;
        after.state(project)
    }

    async fn history(&self, _project: &str, _page: HistoryPage) -> Result<Vec<HistoryEntry>> {
        Err(Error::unsupported("registry files keep no history yet"))
    }

    async fn check(&self) -> Result<()> {
        self.snapshot()
            .await
            .map(drop)
            .map_err(|error| match error.kind() {
                Kind::Unavailable => error,
                _ => Error::unavailable(error.message().to_owned()).source_error(error),
            })
    }
}

/// Where the file at `path` really lies, so that a link to a registry stays a link.
fn real_path(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests;
