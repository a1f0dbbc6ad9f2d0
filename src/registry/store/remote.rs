//! [`RemoteStore`]: the registry of another process, over gRPC (`registry_type: remote`).
//!
//! Another thali is followed: it sends a project once and then what changes, so that asking for the
//! project costs nothing and a change is here as soon as it is there. Changes are sent with the
//! fingerprint of what they were decided on and made there in one transaction. Feast's own server knows
//! neither; it is asked again and again instead (see `feast`).
//!
//! When the server is away nothing new is known: loads and updates fail, and whoever has a catalog goes
//! on with it.

mod channel;
mod feast;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use chrono::Utc;
use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
    time::timeout,
};
use tonic::Code;

use self::channel::Connection;
pub use self::channel::{RemoteOptions, RemoteTls};
use super::{
    Decide, ProjectState, RegistryStore, Revision, complete,
    history::{Author, HistoryEntry, HistoryPage},
};
use crate::{
    backoff::Backoff,
    error::{Error, Kind, Result},
    proto::thali::registry as wire,
    registry::sync::{Step, fingerprint, moved_on, record_of_change},
};

/// How long a call may take until the registry counts as away.
const CALL: Duration = Duration::from_secs(30);
/// How long a first look waits for the connection.
const FIRST_LOOK: Duration = Duration::from_secs(10);
/// A server that is followed shows a sign of life more often than this.
const SILENCE: Duration = Duration::from_secs(30);
/// How long updates are tried again when others change the project.
const PERSISTENCE: Duration = Duration::from_secs(20);
/// Waits between attempts to reach the server grow from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// A registry server and the projects that are followed there.
pub struct RemoteStore {
    shared: Arc<Shared>,
}

struct Shared {
    connection: Connection,
    followed: Mutex<HashMap<String, Followed>>,
    /// Counts every change of what is known.
    changes: AtomicU64,
    changed: Notify,
}

/// A project and the task that follows it.
struct Followed {
    sight: watch::Receiver<Sight>,
    task: AbortHandle,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What is known of a project.
#[derive(Debug, Clone, Default)]
struct Sight {
    state: Option<Arc<ProjectState>>,
    fingerprint: u64,
    /// Why nothing new can be known now; `None` while the server is followed.
    problem: Option<String>,
}

impl RemoteStore {
    /// A store on the server at an address; it is connected to when it is first needed.
    ///
    /// # Errors
    /// `Config` when the address or the certificates cannot be used.
    pub fn open(options: &RemoteOptions) -> Result<Self> {
        Ok(Self {
            shared: Arc::new(Shared {
                connection: Connection::new(options)?,
                followed: Mutex::default(),
                changes: AtomicU64::new(0),
                changed: Notify::new(),
            }),
        })
    }

    fn follow(&self, project: &str) -> watch::Receiver<Sight> {
        let mut followed = self.shared.lock();
        if let Some(known) = followed.get(project) {
            return known.sight.clone();
        }
        let (sender, sight) = watch::channel(Sight::default());
        let follower = Follower {
            shared: Arc::downgrade(&self.shared),
            connection: self.shared.connection.clone(),
            project: project.to_owned(),
            sight: sender,
        };
        let task = tokio::spawn(follower.run()).abort_handle();
        let known = Followed {
            sight: sight.clone(),
            task,
        };
        followed.insert(project.to_owned(), known);
        sight
    }

    /// The project as it is there now.
    async fn sight(&self, project: &str) -> Result<Sight> {
        let mut sight = self.follow(project);
        let seen = timeout(
            FIRST_LOOK,
            sight.wait_for(|sight| sight.state.is_some() || sight.problem.is_some()),
        );
        let seen = match seen.await {
            Ok(Ok(seen)) => seen.clone(),
            Ok(Err(_)) => return Err(self.away("it is no longer followed")),
            Err(_) => return Err(self.away("it does not answer")),
        };
        match (&seen.problem, &seen.state) {
            (Some(problem), _) => Err(self.away(problem)),
            (None, Some(state)) if state.is_empty() => {
                // Names that nobody has applied anything to are not followed: callers may make up any number.
                self.shared.lock().remove(project);
                Ok(seen)
            }
            (None, _) => Ok(seen),
        }
    }

    fn away(&self, problem: &str) -> Error {
        Error::unavailable(format!(
            "registry server `{}` cannot be used: {problem}",
            self.shared.connection.address()
        ))
    }

    /// One attempt; `None` when the project was no longer what had been seen.
    async fn try_update(
        &self,
        project: &str,
        author: Option<&Author>,
        decide: &mut Decide<'_>,
    ) -> Result<Option<Arc<ProjectState>>> {
        let seen = self.sight(project).await?;
        let Some(state) = seen.state else {
            return Err(self.away("it shows nothing of the project"));
        };
        let changes = decide(&state)?;
        if changes.is_empty() {
            return Ok(Some(state));
        }
        if self.shared.connection.is_feast() {
            let changes = complete(&state, changes, Utc::now());
            feast::update(&self.shared.connection, project, changes).await?;
            self.shared.lock().remove(project);
            return self.sight(project).await.map(|sight| sight.state);
        }
        let records = changes.into_iter();
        let request = wire::UpdateRequest {
            project: project.to_owned(),
            seen: seen.fingerprint,
            changes: records.map(|change| record_of_change(change, project)).collect(),
            author: author.map(|author| wire::Author {
                name: author.name.clone(),
                action: author.action.clone(),
            }),
        };
        let answered = timeout(CALL, self.shared.connection.sync().update(request)).await;
        let answer = answered
            .map_err(|_| self.away("no answer to an update; look before you repeat it"))?
            .map_err(|status| self.shared.connection.failed(&status))?
            .into_inner();
        let wanted = |sight: &Sight| match answer.done {
            true => sight.fingerprint == answer.fingerprint,
            false => sight.fingerprint != seen.fingerprint,
        };
        let mut sight = self.follow(project);
        let caught_up = async {
            let seen = sight
                .wait_for(|sight| sight.state.is_some() && wanted(sight))
                .await;
            seen.ok().and_then(|sight| sight.state.clone())
        };
        let caught_up = timeout(FIRST_LOOK, caught_up).await.ok().flatten();
        match (caught_up, answer.done) {
            (Some(state), true) => Ok(Some(state)),
            // Others changed it again at once: theirs is the newer state.
            (None, true) => self.sight(project).await.map(|sight| sight.state),
            (_, false) => Ok(None),
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Followed>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl RegistryStore for RemoteStore {
    async fn projects(&self) -> Result<Vec<String>> {
        let connection = &self.shared.connection;
        if connection.is_feast() {
            return feast::projects(connection).await;
        }
        let mut sync = connection.sync();
        let asked = timeout(CALL, sync.projects(wire::ProjectsRequest {})).await;
        match asked.map_err(|_| self.away("it does not answer"))? {
            Ok(answer) => Ok(answer.into_inner().names),
            Err(status) if status.code() == Code::Unimplemented => {
                connection.is_feast_from_now_on();
                feast::projects(connection).await
            }
            Err(status) => Err(connection.failed(&status)),
        }
    }

    async fn load(&self, project: &str) -> Result<Arc<ProjectState>> {
        let seen = self.sight(project).await?;
        seen.state
            .ok_or_else(|| self.away("it shows nothing of the project"))
    }

    async fn revision(&self) -> Result<Revision> {
        let problem = self
            .shared
            .lock()
            .values()
            .find_map(|followed| followed.sight.borrow().problem.clone());
        match problem {
            Some(problem) => Err(self.away(&problem)),
            None => Ok(Revision(self.shared.changes.load(Ordering::Relaxed).to_string())),
        }
    }

    async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    async fn update(
        &self,
        project: &str,
        author: Option<&Author>,
        mut decide: Decide<'_>,
    ) -> Result<Arc<ProjectState>> {
        let trying = async {
            loop {
                if let Some(state) = self.try_update(project, author, &mut decide).await? {
                    return Ok(state);
                }
            }
        };
        timeout(PERSISTENCE, trying)
            .await
            .unwrap_or_else(|_| Err(moved_on(project)))
    }

    async fn history(&self, project: &str, page: HistoryPage) -> Result<Vec<HistoryEntry>> {
        let connection = &self.shared.connection;
        let request = wire::HistoryRequest {
            project: project.to_owned(),
            before: page.before,
            limit: u32::try_from(page.limit).unwrap_or(u32::MAX),
        };
        let asked = timeout(CALL, connection.sync().history(request)).await;
        match asked.map_err(|_| self.away("it does not answer"))? {
            Ok(answer) => {
                let entries = answer.into_inner().entries.into_iter();
                entries.map(HistoryEntry::from_message).collect()
            }
            Err(status) if status.code() == Code::Unimplemented => Err(Error::unsupported(
                "the registry server is Feast's and keeps no history",
            )),
            Err(status) => Err(connection.failed(&status)),
        }
    }

    async fn check(&self) -> Result<()> {
        if self.shared.lock().is_empty() {
            return self.projects().await.map(drop);
        }
        self.revision().await.map(drop)
    }
}

/// The task that keeps one project's sight up to date; it ends when it is aborted or the store is gone.
struct Follower {
    shared: std::sync::Weak<Shared>,
    connection: Connection,
    project: String,
    sight: watch::Sender<Sight>,
}

impl Follower {
    async fn run(self) {
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        loop {
            let began = tokio::time::Instant::now();
            let problem = match self.connection.is_feast() {
                false => self.watch().await,
                true => self.poll().await,
            };
            let Err(error) = problem else { continue };
            tracing::debug!(project = self.project, %error, "the registry server is not followed");
            let problem = error.message().to_owned();
            self.sight.send_modify(|sight| sight.problem = Some(problem));
            if began.elapsed() > BACKOFF.1 {
                backoff.reset();
            }
            backoff.pause().await;
        }
    }

    /// Follows until the connection ends; `Ok` when the server turned out to be Feast's.
    async fn watch(&self) -> Result<()> {
        let request = wire::WatchRequest {
            project: self.project.clone(),
        };
        let opened = timeout(CALL, self.connection.sync().watch(request)).await;
        let mut parts = match opened.map_err(|_| Error::unavailable("it does not answer"))? {
            Ok(answer) => answer.into_inner(),
            Err(status) if status.code() == Code::Unimplemented => {
                self.connection.is_feast_from_now_on();
                return Ok(());
            }
            Err(status) => return Err(self.connection.failed(&status)),
        };
        let mut step = Step::new(&self.project);
        loop {
            let part = timeout(SILENCE, parts.message())
                .await
                .map_err(|_| Error::unavailable("it has fallen silent"))?
                .map_err(|status| self.connection.failed(&status))?
                .ok_or_else(|| Error::unavailable("it has ended the connection"))?;
            let known = self.sight.borrow().state.clone();
            if let Some((state, fingerprint)) = step.take(part, known.as_deref())? {
                self.show(state, fingerprint);
            }
        }
    }

    /// Looks at Feast's server once and waits until it is time to look again.
    async fn poll(&self) -> Result<()> {
        let known = self.sight.borrow().state.clone();
        let looked = timeout(
            CALL,
            feast::load(&self.connection, &self.project, known.as_deref()),
        )
        .await;
        let state = looked.map_err(|_| Error::unavailable("it does not answer"))??;
        let fingerprint = fingerprint(&state);
        self.show(state, fingerprint);
        tokio::time::sleep(feast::PERIOD).await;
        Ok(())
    }

    fn show(&self, state: ProjectState, fingerprint: u64) {
        let mut is_new = false;
        self.sight.send_modify(|sight| {
            is_new = sight.state.is_none() || sight.fingerprint != fingerprint;
            if is_new {
                sight.state = Some(Arc::new(state));
                sight.fingerprint = fingerprint;
            }
            sight.problem = None;
        });
        if let (true, Some(shared)) = (is_new, self.shared.upgrade()) {
            shared.changes.fetch_add(1, Ordering::Relaxed);
            shared.changed.notify_one();
        }
    }
}

/// What a call's status means here.
fn kind_of(status: &tonic::Status) -> Kind {
    match status.code() {
        Code::Aborted => Kind::Conflict,
        Code::InvalidArgument => Kind::InvalidArgument,
        Code::AlreadyExists => Kind::AlreadyExists,
        Code::Unauthenticated | Code::PermissionDenied => Kind::Config,
        _ => Kind::Unavailable,
    }
}

#[cfg(test)]
mod tests;
