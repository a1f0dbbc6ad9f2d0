//! One worker process: how it is started, spoken to and watched.

use std::{
    collections::HashSet,
    process::Stdio,
    sync::{Arc, Mutex, Once, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    time::{Instant, timeout},
};

use super::marshal::{self, Object};
use crate::{
    config::PythonConfig,
    error::{Error, Result},
};

const SOURCE: &str = include_str!("worker.py");

/// Takes the worker's source from the pipe, which keeps it out of the process list.
const BOOTSTRAP: &str = "import os, sys\n\
    frames = os.fdopen(os.dup(0), 'rb')\n\
    exec(compile(frames.read(int(sys.argv[2])), '<worker>', 'exec'))";

/// How long Python may take to start and to import pandas.
const START: Duration = Duration::from_secs(60);

/// The most a worker may answer, in bytes.
const MAX_ANSWER: usize = 1 << 30;

/// Variables a worker inherits, all of which say where things are; the others stay here.
const INHERITED: [&str; 8] = [
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "VIRTUAL_ENV",
    "PYTHONPATH",
    "LD_LIBRARY_PATH",
    "TZ",
];

/// Libraries that would start a thread for each core; workers run side by side instead.
const SINGLE_THREADED: [&str; 3] = ["OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"];

/// Bytes of a worker's output that go to the log in a minute.
const LOGGED: usize = 64 << 10;

/// The most of one line that is logged.
const LINE: usize = 1 << 10;

/// A started worker; dropping it ends the process.
pub(super) struct Worker {
    child: Child,
    pub(super) input: ChildStdin,
    pub(super) output: BufReader<ChildStdout>,
    /// The functions it was told of.
    pub(super) known: HashSet<u64>,
    last_line: Arc<Mutex<String>>,
}

impl Worker {
    /// Starts a worker and waits until it listens.
    pub(super) async fn start(config: &PythonConfig) -> Result<Self> {
        let mut command = Command::new(&config.command);
        command
            .args(["-u", "-c", BOOTSTRAP])
            .arg(config.memory_limit.to_string())
            .arg(SOURCE.len().to_string())
            .env_clear()
            .kill_on_drop(true);
        for name in INHERITED {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        for name in SINGLE_THREADED {
            command.env(name, "1");
        }
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| {
            Error::unavailable(format!(
                "the Python worker `{}` cannot be started: {error}",
                config.command
            ))
            .hint("set `thali.python.command` to a Python that has pandas and pyarrow")
        })?;
        let (Some(mut input), Some(output), Some(errors)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(Error::internal("a Python worker has no pipes"));
        };
        let last_line: Arc<Mutex<String>> = Arc::default();
        tokio::spawn(log(
            errors,
            child.id().unwrap_or_default(),
            Arc::clone(&last_line),
        ));
        let mut output = BufReader::with_capacity(64 << 10, output);
        let ready = async {
            input.write_all(SOURCE.as_bytes()).await?;
            input.flush().await?;
            read_frame(&mut output).await
        };
        let ready = timeout(START, ready).await;
        let mut worker = Self {
            child,
            input,
            output,
            known: HashSet::new(),
            last_line,
        };
        match ready {
            Ok(Ok(ready)) => {
                if !is_sealed(ready) {
                    warn_once();
                }
                Ok(worker)
            }
            Ok(Err(_)) => {
                let how = worker.how_it_ended().await;
                Err(Error::unavailable(format!(
                    "the Python worker `{}` did not start: {how}",
                    config.command
                ))
                .hint("set `thali.python.command` to a Python that has pandas and pyarrow"))
            }
            Err(_) => Err(Error::unavailable(format!(
                "the Python worker `{}` did not start within {} s",
                config.command,
                START.as_secs()
            ))),
        }
    }

    /// Whether none of the bytes that were sent since the last answer was read: a worker that died so died
    /// before it began. It is the pipe that knows; that a process still ran a moment ago says nothing.
    pub(super) fn read_nothing_of(&self, sent: u64) -> bool {
        rustix::io::ioctl_fionread(&self.input).is_ok_and(|unread| unread == sent)
    }

    /// The exit status of a worker that closed its pipe, and the last thing it said.
    pub(super) async fn how_it_ended(&mut self) -> String {
        let status = match timeout(Duration::from_secs(1), self.child.wait()).await {
            Ok(Ok(status)) => status.to_string(),
            _ => "it closed its pipe".to_owned(),
        };
        let said = self.last_line.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_empty() {
            status
        } else {
            format!("{status}, after `{said}`")
        }
    }
}

/// Whether a worker that is ready cannot reach other processes.
fn is_sealed(ready: Bytes) -> bool {
    matches!(marshal::read(ready), Ok(Object::Tuple(parts)) if matches!(parts.get(1), Some(Object::Bool(true))))
}

/// It is the same with every worker.
fn warn_once() {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        tracing::warn!(
            target: "thali::python",
            "this kernel does not keep Python functions from reading the memory and the environment of this process \
             (it lacks Landlock): run only functions that may know its secrets, or set `thali.python.enabled: false`"
        );
    });
}

/// The next answer of a worker.
pub(super) async fn read_frame(output: &mut BufReader<ChildStdout>) -> std::io::Result<Bytes> {
    let length = output.read_u32_le().await? as usize;
    if length > MAX_ANSWER {
        return Err(std::io::Error::other("an answer of more than 1 GiB"));
    }
    let mut frame = vec![0; length];
    output.read_exact(&mut frame).await?;
    Ok(frame.into())
}

/// Passes what functions print on to the log, up to a limit, so that no function can fill a disk.
async fn log(errors: ChildStderr, worker: u32, last_line: Arc<Mutex<String>>) {
    let mut errors = BufReader::with_capacity(LINE, errors);
    let mut since = Instant::now();
    let mut logged = 0;
    let mut line: Vec<u8> = Vec::with_capacity(LINE);
    loop {
        let (taken, ended) = match errors.fill_buf().await {
            Ok([]) | Err(_) => break,
            Ok(chunk) => {
                let end = chunk.iter().position(|byte| *byte == b'\n');
                let part = &chunk[..end.unwrap_or(chunk.len())];
                line.extend_from_slice(&part[..part.len().min(LINE - line.len())]);
                (end.map_or(chunk.len(), |end| end + 1), end.is_some())
            }
        };
        errors.consume(taken);
        if !ended {
            continue;
        }
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        line.clear();
        if text.is_empty() {
            continue;
        }
        if since.elapsed() > Duration::from_secs(60) {
            (since, logged) = (Instant::now(), 0);
        }
        let before = logged;
        logged += text.len();
        if logged <= LOGGED {
            tracing::info!(target: "thali::python", worker, "{text}");
        } else if before <= LOGGED {
            tracing::warn!(target: "thali::python", worker, "a function prints too much; the rest of this minute is left out");
        }
        *last_line.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }
}
