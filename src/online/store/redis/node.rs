//! One server, or whichever server is the primary now: a few connections that are made when they are needed
//! and made again when they are lost.

use std::{
    sync::{
        Arc, Mutex as Plain,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use tokio::sync::Mutex;

use super::{
    connection::{Connection, Failure},
    options::{Address, Options},
    resp::{Part, Pipeline, Walk, error_of},
};
use crate::error::{Error, Result};

/// Connections to a server at most. Replies are taken apart by whoever asked, so a connection is seldom
/// what a request waits for.
const CONNECTIONS: usize = 4;

/// How the server is found.
#[derive(Debug)]
enum Place {
    Fixed(Address),
    /// Sentinels are asked for the primary of this name.
    Sentinel {
        sentinels: Vec<Address>,
        options: Options,
        name: String,
    },
}

/// A server.
#[derive(Debug)]
pub(super) struct Node {
    place: Place,
    options: Options,
    slots: Vec<Slot>,
    next: AtomicUsize,
}

/// Room for one connection.
#[derive(Debug, Default)]
struct Slot {
    live: ArcSwapOption<Connection>,
    /// Held by whoever connects; the last failure is for those who waited meanwhile.
    gate: Mutex<()>,
    failed: Plain<Option<(Instant, String)>>,
}

impl Node {
    pub(super) fn fixed(address: Address, options: Options) -> Self {
        Self::new(Place::Fixed(address), options)
    }

    pub(super) fn behind_sentinels(
        sentinels: Vec<Address>,
        sentinel_options: Options,
        name: &str,
        options: Options,
    ) -> Self {
        let place = Place::Sentinel {
            sentinels,
            options: sentinel_options,
            name: name.to_owned(),
        };
        Self::new(place, options)
    }

    fn new(place: Place, options: Options) -> Self {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            place,
            options,
            slots: (0..count.min(CONNECTIONS)).map(|_| Slot::default()).collect(),
            next: AtomicUsize::new(0),
        }
    }

    /// For messages.
    pub(super) fn describe(&self) -> String {
        match &self.place {
            Place::Fixed(address) => format!("`{address}`"),
            Place::Sentinel { name, .. } => format!("primary `{name}`"),
        }
    }

    /// Sends commands and answers their replies. They must be such that sending them twice does what
    /// sending them once does: after a lost connection they are sent again, once.
    ///
    /// # Errors
    /// What kept the server from answering; errors of the server are frames.
    pub(super) async fn run(&self, request: Bytes, replies: usize) -> Result<Vec<Bytes>, Failure> {
        let slot = &self.slots[self.next.fetch_add(1, Ordering::Relaxed) % self.slots.len()];
        let mut again = true;
        loop {
            let connection = self.connected(slot).await?;
            let failure = match connection.ask(request.clone(), replies).await {
                Ok(frames) if self.is_demoted(&frames) => {
                    Failure::Lost("it is no longer the primary".to_owned())
                }
                Ok(frames) => return Ok(frames),
                Err(failure) => failure,
            };
            self.forget(slot, &connection);
            if !again || matches!(failure, Failure::Late(_)) {
                return Err(failure);
            }
            again = false;
        }
    }

    /// Whether a server that was the primary refuses writes.
    fn is_demoted(&self, frames: &[Bytes]) -> bool {
        let readonly = |frame: &Bytes| frame.starts_with(b"-READONLY");
        matches!(self.place, Place::Sentinel { .. }) && frames.iter().any(readonly)
    }

    fn forget(&self, slot: &Slot, connection: &Arc<Connection>) {
        let current = slot.live.load();
        if current.as_ref().is_some_and(|live| Arc::ptr_eq(live, connection)) {
            slot.live.compare_and_swap(&current, None);
        }
    }

    async fn connected(&self, slot: &Slot) -> Result<Arc<Connection>, Failure> {
        let live = || slot.live.load_full().filter(|connection| connection.is_alive());
        if let Some(connection) = live() {
            return Ok(connection);
        }
        let asked = Instant::now();
        let _held = slot.gate.lock().await;
        if let Some(connection) = live() {
            return Ok(connection);
        }
        // Many wait when a server is away; one of them tries, and the others have its answer.
        if let Ok(failed) = slot.failed.lock()
            && let Some((when, why)) = &*failed
            && *when >= asked
        {
            return Err(Failure::Refused(Error::unavailable(why.clone())));
        }
        match self.connect().await {
            Ok(connection) => {
                let connection = Arc::new(connection);
                slot.live.store(Some(Arc::clone(&connection)));
                Ok(connection)
            }
            Err(error) => {
                if let Ok(mut failed) = slot.failed.lock() {
                    *failed = Some((Instant::now(), error.message().to_owned()));
                }
                Err(Failure::Refused(error))
            }
        }
    }

    async fn connect(&self) -> Result<Connection> {
        match &self.place {
            Place::Fixed(address) => Connection::open(&address.host, address.port, &self.options).await,
            Place::Sentinel {
                sentinels,
                options,
                name,
            } => {
                let mut last = Error::unavailable("no sentinel is configured");
                for sentinel in sentinels {
                    match self.connect_by(sentinel, options, name).await {
                        Ok(connection) => return Ok(connection),
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
        }
    }

    /// Connects to the primary that a sentinel knows.
    async fn connect_by(&self, sentinel: &Address, options: &Options, name: &str) -> Result<Connection> {
        let primary = primary_of(sentinel, options, name)
            .await
            .map_err(|error| error.context(format_args!("sentinel `{sentinel}`")))?;
        let connection = Connection::open(&primary.host, primary.port, &self.options)
            .await
            .map_err(|error| error.context(format_args!("primary `{primary}`")))?;
        // While sentinels agree on another primary, the old one may have come back as a replica.
        match connection.role().await.as_deref() {
            Some("slave") => Err(Error::unavailable(format!("`{primary}` is no primary any more"))),
            _ => Ok(connection),
        }
    }
}

/// Asks a sentinel for the primary.
async fn primary_of(sentinel: &Address, options: &Options, name: &str) -> Result<Address> {
    let connection = Connection::open(&sentinel.host, sentinel.port, options).await?;
    let question = Pipeline::of(&[b"SENTINEL", b"get-master-addr-by-name", name.as_bytes()]);
    let frames = connection.ask(question.into_bytes(), 1).await?;
    let frame = frames.first().cloned().unwrap_or_default();
    if let Some(said) = error_of(&frame) {
        return Err(super::resp::refused(said));
    }
    let mut walk = Walk::new(&frame);
    if walk.next()? != Part::Array(2) {
        return Err(Error::unavailable(format!("it knows no primary `{name}`"))
            .hint("check `online_store.sentinel_master`"));
    }
    let host = String::from_utf8_lossy(walk.bytes()?).into_owned();
    let port = str::from_utf8(walk.bytes()?)
        .ok()
        .and_then(|port| port.parse().ok());
    let port = port.ok_or_else(|| Error::unavailable("it named no port"))?;
    Ok(Address { host, port })
}

/// How long to wait before asking again for what was about to change.
pub(super) const SOON: Duration = Duration::from_millis(50);
