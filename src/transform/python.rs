//! Worker processes that run on-demand functions written in Python. A worker starts on demand, takes
//! one batch at a time over its pipes, and is replaced when it dies or takes too long.
//!
//! A frame is two little-endian lengths, a JSON header and an Arrow IPC stream. Workers get a bare
//! environment, so no secret of this process can reach a function.

use std::{process::Stdio, sync::Arc, time::Duration};

use arrow::{
    array::RecordBatch,
    ipc::{reader::StreamReader, writer::StreamWriter},
};
use base64::Engine as _;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::{Mutex, Semaphore},
    time::timeout,
};

use super::Outputs;
use crate::{
    config::PythonConfig,
    error::{Error, Kind, Result},
    model::{OnDemandFeatureView, on_demand::Transformation},
};

const WORKER: &str = include_str!("python/worker.py");

/// How long one batch may take; a worker that takes longer is killed.
const LIMIT: Duration = Duration::from_secs(60);

/// The most a worker may answer, in bytes.
const MAX_ANSWER: usize = 1 << 30;

/// Variables a worker inherits; all others stay here.
const INHERITED: [&str; 6] = ["PATH", "HOME", "LANG", "LC_ALL", "VIRTUAL_ENV", "TZ"];

/// Idle workers and the right to have more.
pub(super) struct Pool {
    config: PythonConfig,
    slots: Semaphore,
    idle: Mutex<Vec<Worker>>,
}

impl Pool {
    pub(super) fn new(config: PythonConfig) -> Self {
        let slots = Semaphore::new(config.workers.max(1));
        Self {
            config,
            slots,
            idle: Mutex::default(),
        }
    }

    /// Runs the view's function on a batch.
    pub(super) async fn call(&self, view: &OnDemandFeatureView, inputs: &RecordBatch) -> Result<Outputs> {
        let Transformation::Python {
            name,
            source,
            body,
            pandas,
            singleton,
        } = &view.transformation
        else {
            return Err(Error::internal("not a Python transformation"));
        };
        if !self.config.enabled {
            return Err(Error::unsupported("Python transformations are switched off")
                .hint("set `thali.python.enabled: true`, or give the view as expressions"));
        }
        let header = json!({
            "name": name,
            "source": source,
            "body": base64::engine::general_purpose::STANDARD.encode(body),
            "pandas": pandas,
            "singleton": singleton,
            "features": view.features.iter().map(|feature| &feature.name).collect::<Vec<_>>(),
        });
        let payload = encode(inputs)?;
        let closed = |_| Error::unavailable("Python workers are shutting down");
        let _slot = self.slots.acquire().await.map_err(closed)?;
        let idle = self.idle.lock().await.pop();
        let mut worker = match idle {
            Some(worker) => worker,
            None => Worker::start(&self.config)?,
        };
        let answer = timeout(LIMIT, worker.exchange(&header, &payload)).await;
        let (header, payload) = match answer {
            Ok(Ok(answer)) => answer,
            // Dropping the worker kills it; what it was doing is unknown.
            Ok(Err(error)) => return Err(error),
            Err(_) => {
                let message = format!("its Python function took longer than {} s", LIMIT.as_secs());
                return Err(Error::new(Kind::DeadlineExceeded, message));
            }
        };
        self.idle.lock().await.push(worker);
        if let Some(problem) = header.get("error").and_then(Value::as_str) {
            return Err(Error::invalid(format!("its Python function failed: {problem}")));
        }
        decode(&payload)
    }
}

struct Worker {
    _child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Worker {
    fn start(config: &PythonConfig) -> Result<Self> {
        let mut command = Command::new(&config.command);
        command.args(["-u", "-c", WORKER]).env_clear().kill_on_drop(true);
        for name in INHERITED {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().map_err(|error| {
            Error::unavailable(format!(
                "the Python worker `{}` cannot be started: {error}",
                config.command
            ))
            .hint("set `thali.python.command` to a Python that has pandas and pyarrow")
        })?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::internal("a Python worker has no pipes"));
        };
        Ok(Self {
            _child: child,
            input,
            output: BufReader::new(output),
        })
    }

    async fn exchange(&mut self, header: &Value, payload: &[u8]) -> Result<(Value, Vec<u8>)> {
        let header = header.to_string();
        let mut frame = Vec::with_capacity(8 + header.len() + payload.len());
        frame.extend_from_slice(&length(header.len())?);
        frame.extend_from_slice(&length(payload.len())?);
        frame.extend_from_slice(header.as_bytes());
        frame.extend_from_slice(payload);
        self.input.write_all(&frame).await.map_err(|error| died(&error))?;
        self.input.flush().await.map_err(|error| died(&error))?;
        let header_length = self.output.read_u32_le().await.map_err(|error| died(&error))? as usize;
        let payload_length = self.output.read_u32_le().await.map_err(|error| died(&error))? as usize;
        if header_length.max(payload_length) > MAX_ANSWER {
            return Err(Error::invalid("its Python function answered more than 1 GiB"));
        }
        let mut header = vec![0; header_length];
        self.output
            .read_exact(&mut header)
            .await
            .map_err(|error| died(&error))?;
        let mut payload = vec![0; payload_length];
        self.output
            .read_exact(&mut payload)
            .await
            .map_err(|error| died(&error))?;
        let header = serde_json::from_slice(&header)
            .map_err(|error| Error::internal(format!("a Python worker answered nonsense: {error}")))?;
        Ok((header, payload))
    }
}

fn length(length: usize) -> Result<[u8; 4]> {
    let length = u32::try_from(length).map_err(|_| Error::invalid("its inputs are larger than 4 GiB"))?;
    Ok(length.to_le_bytes())
}

fn died(error: &std::io::Error) -> Error {
    Error::unavailable(format!("its Python worker died: {error}"))
        .hint("the worker needs a Python with pandas and pyarrow (`thali.python.command`)")
}

fn encode(batch: &RecordBatch) -> Result<Vec<u8>> {
    let mut buffer = Vec::new();
    let mut writer = StreamWriter::try_new(&mut buffer, &batch.schema())?;
    writer.write(batch)?;
    writer.finish()?;
    drop(writer);
    Ok(buffer)
}

fn decode(payload: &[u8]) -> Result<Outputs> {
    let mut outputs = Outputs::new();
    for batch in StreamReader::try_new(payload, None)? {
        let batch = batch?;
        for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
            outputs.push((field.name().clone(), Arc::clone(column)));
        }
    }
    Ok(outputs)
}
