//! [`Connections`]: open connections to one server, for statements that take turns on them. Unlike
//! sqlx's pool it asks the server nothing when a connection comes back: a request costs its statement and
//! no more.

use std::{
    collections::VecDeque,
    ops::{Deref, DerefMut},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use sqlx::{ConnectOptions as _, Connection};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use super::failed;
use crate::{
    database::Database,
    error::{Error, Kind, Result},
};

/// How long connecting may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// How long to wait for another statement's end.
const TURN_LIMIT: Duration = Duration::from_secs(3);
/// How long an unused connection is kept.
const IDLE_LIMIT: Duration = Duration::from_secs(300);

/// What a new connection is told.
pub(crate) type Setup<C> = for<'c> fn(&'c mut C) -> BoxFuture<'c, Result<(), sqlx::Error>>;

/// Connections that are opened when they are needed.
pub(crate) struct Connections<C: Connection> {
    options: C::Options,
    setup: Setup<C>,
    /// The database in words, without its password.
    place: String,
    limit: usize,
    turns: Semaphore,
    /// The one used last is at the back, and is used next: those in front grow old.
    idle: Mutex<VecDeque<(Instant, C)>>,
}

impl<C: Connection> std::fmt::Debug for Connections<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connections({})", self.place)
    }
}

impl<C: Connection> Connections<C> {
    pub(crate) fn new(options: C::Options, setup: Setup<C>, place: String, limit: usize) -> Self {
        let limit = limit.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            options,
            setup,
            place,
            limit,
            turns: Semaphore::new(limit),
            idle: Mutex::default(),
        }
    }

    /// The database in words, without its password.
    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    /// A connection for one piece of work. Dropped before [`Lease::settle`] it is closed, with what the
    /// server was doing for it.
    ///
    /// # Errors
    /// `Unavailable` when the server cannot be reached, `Overloaded` when no connection becomes free.
    pub(crate) async fn lease(&self) -> Result<Lease<'_, C>> {
        let turn = match self.turns.try_acquire() {
            Ok(turn) => turn,
            Err(_busy) => self.wait().await?,
        };
        let idle = self.idle().pop_back();
        let (connection, is_new) = match idle {
            Some((_, connection)) => (connection, false),
            None => (self.connect().await?, true),
        };
        Ok(Lease {
            connections: self,
            connection,
            is_new,
            _turn: turn,
        })
    }

    async fn wait(&self) -> Result<SemaphorePermit<'_>> {
        match timeout(TURN_LIMIT, self.turns.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(Error::new(
                Kind::Overloaded,
                format!("all {} connections to {} are in use", self.limit, self.place),
            )
            .hint("send fewer requests at a time, or allow more connections in `online_store`")),
        }
    }

    async fn connect(&self) -> Result<C> {
        let attempt = async {
            let mut connection = self.options.connect().await?;
            (self.setup)(&mut connection).await?;
            Ok(connection)
        };
        let connected = match timeout(CONNECT_LIMIT, attempt).await {
            Ok(connected) => connected,
            Err(_elapsed) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
        };
        // Whatever keeps it from being opened, to a request the store is away.
        connected.map_err(|error| {
            let told = failed(&self.place, error);
            let hint = told.hint_text().unwrap_or_default().to_owned();
            let text = Error::unavailable(told.message().to_owned()).source_error(told);
            if hint.is_empty() { text } else { text.hint(hint) }
        })
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<(Instant, C)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put_back(&self, connection: C) {
        let now = Instant::now();
        let mut idle = self.idle();
        idle.push_back((now, connection));
        while idle
            .front()
            .is_some_and(|(since, _)| now.duration_since(*since) > IDLE_LIMIT)
        {
            idle.pop_front();
        }
    }
}

/// A connection that nobody else uses meanwhile.
pub(crate) struct Lease<'a, C: Connection> {
    connections: &'a Connections<C>,
    connection: C,
    is_new: bool,
    _turn: SemaphorePermit<'a>,
}

impl<C: Connection> Lease<'_, C> {
    /// Gives the connection back unless it is broken. Answers whether the work should be tried again: it
    /// was sent over a connection that had ended while nobody used it, as all do when a server restarts.
    pub(crate) fn settle<T>(self, outcome: &Result<T, sqlx::Error>) -> bool {
        match outcome {
            Err(error) if Database::is_disconnect(error) => {
                // The others were opened no later than this one was used.
                self.connections.idle().clear();
                let is_slow =
                    matches!(error, sqlx::Error::Io(inner) if inner.kind() == std::io::ErrorKind::TimedOut);
                !self.is_new && !is_slow
            }
            Ok(_) | Err(sqlx::Error::Database(_)) => {
                self.connections.put_back(self.connection);
                false
            }
            Err(_) => false,
        }
    }
}

impl<C: Connection> Deref for Lease<'_, C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.connection
    }
}

impl<C: Connection> DerefMut for Lease<'_, C> {
    fn deref_mut(&mut self) -> &mut C {
        &mut self.connection
    }
}
