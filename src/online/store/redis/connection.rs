//! One connection to one server: commands of many requests are sent one behind the other, and each gets the
//! replies that are its own. It ends with its first failure; [`super::node`] makes the next.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    sync::{mpsc, oneshot},
};

use super::{
    options::Options,
    resp::{Pipeline, Progress, Scanner, Walk, error_of},
    tls,
};
use crate::error::{Error, Result};

/// Requests that wait to be sent.
const QUEUE: usize = 1024;
/// Requests sent with one write.
const TOGETHER: usize = 64;
/// How much is read at a time at least.
const BLOCK: usize = 16 * 1024;
/// How much is read at a time at most.
const LARGEST_BLOCK: usize = 1 << 20;
/// Answers up to this size get memory of their own; larger ones keep what they were read into.
const COPIED: usize = 64 * 1024;

/// Why a connection did not answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nothing was sent.
    Refused(Error),
    /// It ended after something may have been sent.
    Lost(String),
    /// No answer in time.
    Late(Duration),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => f.write_str(error.message()),
            Self::Lost(why) => f.write_str(why),
            Self::Late(limit) => write!(f, "no answer within {limit:?}"),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(error) => error,
            failure => Self::unavailable(failure.to_string()),
        }
    }
}

/// What one request sends, and where its replies go.
struct Ask {
    request: Bytes,
    replies: usize,
    answer: oneshot::Sender<Vec<Bytes>>,
}

/// A live connection; dropping it closes it.
#[derive(Debug)]
pub(super) struct Connection {
    asks: mpsc::Sender<Ask>,
    ended: Arc<OnceLock<String>>,
    limit: Duration,
}

impl Connection {
    /// Connects, encrypts, logs in and chooses the database.
    ///
    /// # Errors
    /// `Unavailable` with what the server or the system said.
    pub(super) async fn open(host: &str, port: u16, options: &Options) -> Result<Self> {
        let opening = async {
            let stream = TcpStream::connect((host, port))
                .await
                .map_err(|error| Error::unavailable(error.to_string()))?;
            // A request is one write; waiting for more would only delay it.
            let _ = stream.set_nodelay(true);
            let connection = match &options.tls {
                None => {
                    let (read, write) = stream.into_split();
                    Self::start(read, write, options)
                }
                Some(config) => {
                    let stream = tls::wrap(Arc::clone(config), host, stream).await?;
                    let (read, write) = tokio::io::split(stream);
                    Self::start(read, write, options)
                }
            };
            connection.greet(options).await?;
            Ok(connection)
        };
        match tokio::time::timeout(options.connect_timeout, opening).await {
            Ok(opened) => opened,
            Err(_) => Err(Error::unavailable(format!(
                "no connection within {:?}",
                options.connect_timeout
            ))),
        }
    }

    fn start<R, W>(read: R, write: W, options: &Options) -> Self
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let (asks, queue) = mpsc::channel(QUEUE);
        let ended = Arc::new(OnceLock::new());
        let reason = Arc::clone(&ended);
        tokio::spawn(async move {
            let (sent, waiting) = mpsc::unbounded_channel();
            let why = tokio::select! {
                why = send(write, queue, sent) => why,
                why = receive(read, waiting) => why,
            };
            let _ = reason.set(why);
        });
        Self {
            asks,
            ended,
            limit: options.response_timeout,
        }
    }

    async fn greet(&self, options: &Options) -> Result<()> {
        let mut greeting = Pipeline::default();
        let mut say = |words: &[&str]| {
            greeting.begin(words.len());
            for word in words {
                greeting.arg(word.as_bytes());
            }
        };
        match (&options.username, &options.password) {
            (Some(name), password) => say(&["AUTH", name, password.as_deref().unwrap_or_default()]),
            (None, Some(password)) => say(&["AUTH", password]),
            (None, None) => {}
        }
        let database = options.database.to_string();
        if options.database != 0 {
            say(&["SELECT", &database]);
        }
        if let Some(name) = &options.client_name {
            say(&["CLIENT", "SETNAME", name]);
        }
        // Also asks whether this is Redis at all, and whether it wants a password.
        say(&["PING"]);
        let replies = greeting.len();
        let frames = self.ask(greeting.into_bytes(), replies).await?;
        for frame in &frames {
            match error_of(frame) {
                // A user who may not ping may still read.
                Some(said) if said.starts_with("NOPERM") => {}
                Some(said) => return Err(super::resp::refused(said)),
                None => {}
            }
        }
        Ok(())
    }

    /// Sends commands and answers their replies, a frame for each.
    ///
    /// # Errors
    /// What happened to the connection; errors of the server are frames.
    pub(super) async fn ask(&self, request: Bytes, replies: usize) -> Result<Vec<Bytes>, Failure> {
        let (answer, answered) = oneshot::channel();
        let ask = Ask {
            request,
            replies,
            answer,
        };
        let asking = async {
            self.asks.send(ask).await.map_err(|_| ())?;
            answered.await.map_err(|_| ())
        };
        match tokio::time::timeout(self.limit, asking).await {
            Err(_) => Err(Failure::Late(self.limit)),
            Ok(Ok(frames)) => Ok(frames),
            Ok(Err(())) => Err(Failure::Lost(
                self.ended
                    .get()
                    .cloned()
                    .unwrap_or_else(|| "the connection was lost".to_owned()),
            )),
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        !self.asks.is_closed()
    }

    /// What the server is: `master` or `slave`; nothing where it does not say.
    pub(super) async fn role(&self) -> Option<String> {
        let frames = self.ask(Pipeline::of(&[b"ROLE"]).into_bytes(), 1).await.ok()?;
        let mut walk = Walk::new(frames.first()?);
        walk.array().ok()?;
        Some(String::from_utf8_lossy(walk.bytes().ok()?).into_owned())
    }
}

/// What is still to be answered, in the order it was sent.
struct Waiting {
    replies: usize,
    answer: oneshot::Sender<Vec<Bytes>>,
}

/// Sends what is asked until the connection ends; answers why it ended.
async fn send<W: AsyncWrite + Unpin>(
    mut write: W,
    mut queue: mpsc::Receiver<Ask>,
    sent: mpsc::UnboundedSender<Waiting>,
) -> String {
    let mut asks = Vec::with_capacity(TOGETHER);
    let mut together = Vec::new();
    while queue.recv_many(&mut asks, TOGETHER).await > 0 {
        if asks.len() < TOGETHER {
            // Whoever is ready to ask asks first: one write for all of them costs both sides less.
            tokio::task::yield_now().await;
            while asks.len() < TOGETHER
                && let Ok(ask) = queue.try_recv()
            {
                asks.push(ask);
            }
        }
        together.clear();
        let alone = asks.len() == 1;
        let mut request = Bytes::new();
        for ask in asks.drain(..) {
            if alone {
                request = ask.request;
            } else {
                together.extend_from_slice(&ask.request);
            }
            let waiting = Waiting {
                replies: ask.replies,
                answer: ask.answer,
            };
            if sent.send(waiting).is_err() {
                return "the connection was lost".to_owned();
            }
        }
        let bytes = if alone { &request[..] } else { &together[..] };
        let written = async {
            write.write_all(bytes).await?;
            write.flush().await
        };
        if let Err(error) = written.await {
            return format!("the connection was lost: {error}");
        }
        together.shrink_to(1 << 20);
    }
    "the connection was closed".to_owned()
}

/// Gives out replies until the connection ends; answers why it ended.
async fn receive<R: AsyncRead + Unpin>(mut read: R, mut sent: mpsc::UnboundedReceiver<Waiting>) -> String {
    let mut buffer = BytesMut::with_capacity(BLOCK);
    let mut waiting: VecDeque<Waiting> = VecDeque::new();
    let mut ends: Vec<usize> = Vec::new();
    let mut scanner = Scanner::new(0);
    // The next answers are as large as the last one, most of the time.
    let mut block = BLOCK;
    loop {
        while let Ok(next) = sent.try_recv() {
            waiting.push_back(next);
        }
        let mut wanted = buffer.len() + 1;
        while let Some(first) = waiting.front() {
            while ends.len() < first.replies {
                match scanner.end(&buffer) {
                    Ok(Progress::Ends(at)) => {
                        ends.push(at);
                        scanner = Scanner::new(at);
                    }
                    Ok(Progress::Wants(at)) => {
                        wanted = at;
                        break;
                    }
                    Err(error) => return error.message().to_owned(),
                }
            }
            if ends.len() < first.replies {
                break;
            }
            block = ends
                .last()
                .map_or(BLOCK, |end| end.clamp(&BLOCK, &LARGEST_BLOCK).to_owned());
            let frames = cut(&mut buffer, &ends);
            ends.clear();
            scanner = Scanner::new(0);
            wanted = buffer.len() + 1;
            if let Some(first) = waiting.pop_front() {
                // Whoever asked may have gone; the replies were read all the same.
                let _ = first.answer.send(frames);
            }
        }
        if waiting.is_empty() && !buffer.is_empty() {
            // Sent before it was read, so it is in the channel by now, unless nobody asked.
            match sent.try_recv() {
                Ok(next) => {
                    waiting.push_back(next);
                    continue;
                }
                Err(_) => return "the server said something that nobody asked".to_owned(),
            }
        }
        buffer.reserve((wanted - buffer.len()).max(block));
        match read.read_buf(&mut buffer).await {
            Ok(0) => return "the server closed the connection".to_owned(),
            Ok(_) => {}
            Err(error) => return format!("the connection was lost: {error}"),
        }
    }
}

/// Takes the replies that end at `ends` from the buffer.
fn cut(buffer: &mut BytesMut, ends: &[usize]) -> Vec<Bytes> {
    let Some(&last) = ends.last() else {
        return Vec::new();
    };
    let taken = buffer.split_to(last);
    // Small answers would otherwise all hold, and count their users in, the one block they were read into.
    let whole = if last <= COPIED {
        Bytes::copy_from_slice(&taken)
    } else {
        taken.freeze()
    };
    let mut start = 0;
    ends.iter()
        .map(|&end| {
            let frame = whole.slice(start..end);
            start = end;
            frame
        })
        .collect()
}
