//! [`FileStore`]: the registry as Feast's `registry.db`, one serialized `feast.core.Registry` on local
//! disk or in an object store. Unlike Feast it replaces the file at once and whole, and only if it is
//! still what the change was decided on, so that no acknowledged change is lost. What is in the file is
//! the business of `document`, where it lies that of `place`, the history beside it that of `journal`.

mod cloud;
mod document;
mod journal;
mod local;
mod object;
mod place;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};

pub use self::cloud::ObjectRegistry;
use self::{
    document::Document,
    journal::Journal,
    local::LocalPlace,
    place::{Look, Mark, Place, Replaced},
};
use super::{
    Change, Decide, ProjectState, RegistryStore, Revision, complete,
    history::{Author, HistoryEntry, HistoryPage},
};
use crate::{
    backoff::Backoff,
    error::{Error, Kind, Result},
};

/// How many entries of its history a project keeps.
pub const DEFAULT_HISTORY: usize = 1_000;

const PATIENCE: Duration = Duration::from_secs(30);
/// Pauses between tries when others come first.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(640);

/// The file as it was read or written.
#[derive(Debug)]
struct Snapshot {
    /// `None` when there was no file.
    mark: Option<Mark>,
    revision: Revision,
    length: usize,
    document: Document,
    states: Mutex<States>,
}

/// Projects as they were asked for.
#[derive(Debug, Clone, Default)]
struct States {
    present: HashMap<String, Arc<ProjectState>>,
    /// As of earlier snapshots; a project that has not changed since keeps its state.
    earlier: HashMap<String, Arc<ProjectState>>,
}

impl Snapshot {
    fn state(&self, project: &str) -> Result<Arc<ProjectState>> {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = states.present.get(project) {
            return Ok(Arc::clone(state));
        }
        let state = self.document.state(project, self.revision.clone())?;
        // Names that nobody has applied anything to are not kept: callers may make up any number.
        if state.is_empty() {
            return Ok(Arc::new(state));
        }
        let state = match states.earlier.remove(project) {
            Some(earlier) if is_same(&earlier, &state) => earlier,
            _ => Arc::new(state),
        };
        states.present.insert(project.to_owned(), Arc::clone(&state));
        Ok(state)
    }

    /// What a later snapshot may share.
    fn later_states(&self) -> States {
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut earlier = states.earlier;
        earlier.extend(states.present);
        States {
            present: HashMap::new(),
            earlier,
        }
    }
}

/// Whether nothing of the project has changed; the objects of the one are shared with the other then.
fn is_same(one: &ProjectState, other: &ProjectState) -> bool {
    one.objects.len() == other.objects.len()
        && one.versions.len() == other.versions.len()
        && one.infra == other.infra
        && one.metadata == other.metadata
        && one
            .objects
            .iter()
            .zip(other.objects.iter())
            .all(|(a, b)| Arc::ptr_eq(a, b))
        && one
            .versions
            .iter()
            .zip(&other.versions)
            .all(|(a, b)| Arc::ptr_eq(a, b))
}

/// A registry file.
#[derive(Debug, Clone)]
pub struct FileStore {
    inner: Arc<Inner>,
    keep: usize,
}

#[derive(Debug)]
struct Inner {
    place: Box<dyn Place>,
    snapshot: Mutex<Option<Arc<Snapshot>>>,
    /// Writers of this process take turns: against each other they would only lose races.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// For how long an update goes on trying against others that were faster.
    patience: Duration,
}

/// A change that was decided on and is to be written.
struct Attempt {
    project: String,
    before: Arc<Snapshot>,
    changes: Vec<Change>,
    /// Its number is not known yet.
    entry: Option<HistoryEntry>,
    time: DateTime<Utc>,
}

impl FileStore {
    /// A store on the file at `path` on local disk; a missing file is an empty registry, made by the
    /// first change.
    ///
    /// # Errors
    /// `Config` when there is a file that is no registry or a newer one, `Unavailable` when it cannot
    /// be read.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self> {
        Self::on(Box::new(LocalPlace::new(path.into()))).await
    }

    /// The same in an object store.
    ///
    /// # Errors
    /// `Config` when there is no such bucket, or no access to it, or when what is there is no registry;
    /// `Unavailable` when the store cannot be reached.
    pub async fn open_object(registry: &ObjectRegistry) -> Result<Self> {
        Self::on(Box::new(cloud::open(registry).await?)).await
    }

    async fn on(place: Box<dyn Place>) -> Result<Self> {
        let inner = Inner {
            place,
            snapshot: Mutex::default(),
            turn: Arc::default(),
            patience: PATIENCE,
        };
        inner.snapshot().await?;
        Ok(Self {
            inner: Arc::new(inner),
            keep: DEFAULT_HISTORY,
        })
    }

    /// Keeps that many entries of each project's history instead of [`DEFAULT_HISTORY`]; with none no
    /// further entries are written.
    #[must_use]
    pub fn keep_history(mut self, entries: usize) -> Self {
        self.keep = entries;
        self
    }
}

/// Runs what takes long for a big registry where it may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(interrupted)?
}

fn interrupted(error: tokio::task::JoinError) -> Error {
    Error::internal("work on the registry file was interrupted").source_error(error)
}

impl Inner {
    fn journal(&self) -> Journal<'_> {
        Journal {
            place: self.place.as_ref(),
        }
    }

    fn known(&self) -> Option<Arc<Snapshot>> {
        self.snapshot
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn keep(&self, snapshot: Snapshot) -> Arc<Snapshot> {
        let snapshot = Arc::new(snapshot);
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&snapshot));
        snapshot
    }

    /// The file's content; parsed only when it is not known already.
    async fn snapshot(&self) -> Result<Arc<Snapshot>> {
        let known = self.known();
        let mark = known.as_ref().and_then(|known| known.mark.as_ref());
        let look = self.place.look(mark.filter(|mark| mark.is_certain)).await?;
        let (mark, content) = match (look, known) {
            (Look::Same, Some(known)) => return Ok(known),
            (Look::Same, None) => return Err(Error::internal("a file nobody has read cannot be the same")),
            (Look::Missing, Some(known)) if known.mark.is_none() => return Ok(known),
            (Look::Missing, known) => {
                return Ok(self.keep(self.take(None, 0, Document::default(), known.as_deref())));
            }
            // Feast empties the file before it writes it; an update must not start from that.
            (Look::Content(_, content), Some(known)) if content.is_empty() && known.length > 0 => {
                return Err(self.emptied());
            }
            (Look::Content(mark, content), _) => (mark, content),
        };
        let known = self.known();
        let name = self.place.name().to_owned();
        let parse =
            move || parse(&content, known.as_deref()).map(|document| (document, content.len(), known));
        let (document, length, known) = blocking(parse)
            .await
            .map_err(|error| error.context(format!("registry file `{name}`")))?;
        Ok(self.keep(self.take(Some(mark), length, document, known.as_deref())))
    }

    fn take(
        &self,
        mark: Option<Mark>,
        length: usize,
        document: Document,
        known: Option<&Snapshot>,
    ) -> Snapshot {
        let revision = match &mark {
            None => "missing".to_owned(),
            Some(mark) if self.place.has_exact_marks() || document.version_id().is_empty() => {
                mark.text().to_owned()
            }
            Some(_) => format!("{}-{length}", document.version_id()),
        };
        Snapshot {
            mark,
            revision: Revision(revision),
            length,
            document,
            states: Mutex::new(known.map(Snapshot::later_states).unwrap_or_default()),
        }
    }

    /// Writes what was decided; `None` when another writer was faster and nothing was changed.
    async fn commit(&self, attempt: Attempt, keep: usize) -> Result<Option<Arc<Snapshot>>> {
        let Attempt {
            project,
            before,
            changes,
            entry,
            time,
        } = attempt;
        let journal = self.journal();
        let others = journal.settle(before.document.version_id()).await?;
        let whole = changes.iter().rev().find_map(|change| match change {
            Change::PutHistory(entries) => Some(entries.clone()),
            _ => None,
        });
        let (document, content) = {
            let (before, project) = (Arc::clone(&before), project.clone());
            let change = move || {
                let mut document = before.document.clone();
                document.change(&project, &changes, time)?;
                let content = document.encode();
                Ok((document, content))
            };
            blocking(change).await?
        };
        let version_id = document.version_id().to_owned();
        let mut numbers = match &whole {
            Some(whole) => whole.iter().map(|entry| entry.number).collect(),
            None if entry.is_some() => journal.numbers(&project).await?,
            None => Vec::new(),
        };
        let entry = entry.map(|entry| {
            let number = numbers.iter().max().map_or(1, |last| last + 1);
            numbers.push(number);
            HistoryEntry { number, ..entry }
        });
        let pending = match (whole, &entry) {
            (Some(mut whole), _) if keep > 0 => {
                whole.extend(entry);
                let surplus = whole.len().saturating_sub(keep);
                let kept = whole.get(surplus..).unwrap_or_default();
                Some(journal.begin_whole(&project, &version_id, kept).await?)
            }
            (None, Some(entry)) => Some(journal.begin(&project, &version_id, entry).await?),
            _ => None,
        };
        let length = content.len();
        let after = match self.place.replace(content, before.mark.as_ref()).await {
            Ok(Replaced::Done(mark)) => self.keep(self.take(Some(mark), length, document, Some(&before))),
            not_done => match self.snapshot().await {
                // An answer that got lost on its way: what was written is there.
                Ok(present) if present.document.version_id() == version_id => present,
                _ => {
                    if let Ok(Replaced::Lost) = not_done
                        && let Some((pending, _)) = pending
                    {
                        noted(journal.forget(&[pending]).await);
                    }
                    return not_done.map(|_| None);
                }
            },
        };
        // The change is made: what fails from here on is done by whoever writes next.
        if let Some((pending, content)) = pending {
            noted(journal.finish(&pending, content).await);
            noted(journal.prune(&project, numbers, keep).await);
        }
        // None of these can be of a change that is still being tried: what it expects is no longer there.
        noted(journal.forget(&others).await);
        Ok(Some(after))
    }

    fn emptied(&self) -> Error {
        Error::unavailable(format!(
            "registry file `{}` is empty now; another program may be writing it",
            self.place.name()
        ))
        .hint("remove the file to start with an empty registry")
    }
}

/// Takes the content apart; one that is already known by its version id is not.
fn parse(content: &Bytes, known: Option<&Snapshot>) -> Result<Document> {
    let known_document = known.map(|known| &known.document);
    if let Some(known) = known
        && known.length == content.len()
        && !known.document.version_id().is_empty()
        && Document::version_id_in(content).is_ok_and(|id| id == known.document.version_id())
    {
        return Ok(known.document.clone());
    }
    Document::parse(content, known_document)
}

fn noted(done: Result<()>) {
    if let Err(error) = done {
        tracing::warn!(%error, "the history of the registry is completed with the next change");
    }
}

#[async_trait]
impl RegistryStore for FileStore {
    async fn projects(&self) -> Result<Vec<String>> {
        Ok(self.inner.snapshot().await?.document.projects())
    }

    async fn load(&self, project: &str) -> Result<Arc<ProjectState>> {
        self.inner.snapshot().await?.state(project)
    }

    async fn revision(&self) -> Result<Revision> {
        if let Some(mark) = self.inner.place.present_mark().await? {
            return Ok(Revision(mark.text().to_owned()));
        }
        Ok(self.inner.snapshot().await?.revision.clone())
    }

    async fn update(
        &self,
        project: &str,
        author: Option<&Author>,
        decide: Decide<'_>,
    ) -> Result<Arc<ProjectState>> {
        let start = Instant::now();
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let turn = Arc::clone(&self.inner.turn).lock_owned().await;
            let lock = self.inner.place.lock().await?;
            let before = self.inner.snapshot().await?;
            let state = before.state(project)?;
            let changes = decide(&state)?;
            if changes.is_empty() {
                return Ok(state);
            }
            let time = Utc::now();
            let changes = complete(&state, changes, time).into_iter();
            let changes = changes.map(|change| Document::placed(project, change));
            let changes = changes.collect::<Result<Vec<_>>>()?;
            let author = author.filter(|_| self.keep > 0);
            let attempt = Attempt {
                entry: author.and_then(|author| HistoryEntry::of(&state, &changes, author, 0, time)),
                project: project.to_owned(),
                before,
                changes,
                time,
            };
            let (inner, keep) = (Arc::clone(&self.inner), self.keep);
            // A task of its own: a caller that gives up leaves nothing half done, nor the lock free.
            let commit = tokio::spawn(async move {
                let _held = (turn, lock);
                inner.commit(attempt, keep).await
            });
            if let Some(after) = commit.await.map_err(interrupted)?? {
                return after.state(project);
            }
            if start.elapsed() > self.inner.patience {
                let name = self.inner.place.name();
                return Err(Error::new(
                    Kind::Conflict,
                    format!("registry `{name}` was changed by others at every try; nothing was changed"),
                )
                .hint("try again later; for many writers a SQL registry is faster"));
            }
            backoff.pause().await;
        }
    }

    async fn history(&self, project: &str, page: HistoryPage) -> Result<Vec<HistoryEntry>> {
        let present = async { Ok(self.inner.snapshot().await?.document.version_id().to_owned()) };
        self.inner.journal().page(project, page, present).await
    }

    async fn check(&self) -> Result<()> {
        self.inner
            .snapshot()
            .await
            .map(drop)
            .map_err(|error| match error.kind() {
                Kind::Unavailable => error,
                _ => Error::unavailable(error.message().to_owned()).source_error(error),
            })
    }
}

#[cfg(test)]
mod tests;
