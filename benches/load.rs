//! A load generator for the benches, so that the client costs as little as it can: it sends requests that
//! are made beforehand, and looks no further into an answer than to find its end.
//!
//!     load http ADDRESS REQUESTS --connections 16 --seconds 3 [--rate 500]
//!     load raw ADDRESS REQUESTS --pipeline 16 --connections 1 --seconds 3
//!     load static ADDRESS ANSWER
//!
//! `http` keeps HTTP/1.1 connections open and sends the next request when the answer is in; with `--rate`
//! requests are due at fixed moments, whatever the server does, and latency counts from the moment a
//! request was due. `raw` sends any protocol whose answers have known lengths (Redis), some requests at
//! once. `static` answers every HTTP request with the same bytes: what HTTP itself costs.
//!
//! A file of requests is a sequence of: length of the request (u32, little-endian), length of the answer
//! (u32, `raw` only), the request. Each connection sends them in turn, starting at a place of its own.
//! The result is one line of JSON: requests, errors, seconds, rate, p50, p99 and max in milliseconds.

#![expect(clippy::print_stdout, reason = "a command's result")]

use std::{
    collections::VecDeque,
    error::Error,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

struct Request {
    bytes: Vec<u8>,
    answer: usize,
}

struct Options {
    connections: usize,
    pipeline: usize,
    seconds: f64,
    rate: Option<f64>,
}

/// What one connection saw.
#[derive(Default)]
struct Seen {
    micros: Vec<u32>,
    errors: u64,
    bytes: u64,
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    let [mode, address, file, rest @ ..] = arguments.as_slice() else {
        // `cargo test --benches` and `cargo bench` without arguments.
        println!(
            "usage: load http|raw|static ADDRESS FILE [--connections N] [--seconds S] [--rate R] [--pipeline P]"
        );
        return Ok(());
    };
    let option = |name: &str| {
        let at = rest.iter().position(|word| word == name)?;
        rest.get(at + 1)?.parse::<f64>().ok()
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "small counts"
    )]
    let count = |name: &str, default: usize| option(name).map_or(default, |value| value as usize);
    let options = Options {
        connections: count("--connections", 16),
        pipeline: count("--pipeline", 1),
        seconds: option("--seconds").unwrap_or(3.0),
        rate: option("--rate"),
    };
    let file = std::fs::read(file)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match mode.as_str() {
            "static" => serve(address, file).await,
            "http" | "raw" => run(mode == "raw", address, requests(&file)?, options).await,
            other => Err(format!("there is no mode `{other}`").into()),
        }
    })
}

fn requests(mut file: &[u8]) -> Outcome<Vec<Request>> {
    let mut requests = Vec::new();
    while !file.is_empty() {
        let (head, rest) = file.split_at_checked(8).ok_or("the file ends in a request")?;
        let number =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
        let (bytes, rest) = rest
            .split_at_checked(number(0))
            .ok_or("the file ends in a request")?;
        requests.push(Request {
            bytes: bytes.to_vec(),
            answer: number(4),
        });
        file = rest;
    }
    if requests.is_empty() {
        return Err("the file has no requests".into());
    }
    Ok(requests)
}

#[expect(clippy::cast_precision_loss, reason = "statistics")]
async fn run(raw: bool, address: &str, requests: Vec<Request>, options: Options) -> Outcome<()> {
    let requests = Arc::new(requests);
    let began = Instant::now();
    let end = began + Duration::from_secs_f64(options.seconds);
    let mut tasks = JoinSet::new();
    for number in 0..options.connections {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let connection = Connection {
            stream,
            buffer: Vec::with_capacity(1 << 16),
            requests: Arc::clone(&requests),
            next: number * requests.len() / options.connections,
        };
        let pace = options.rate.map(|rate| {
            let gap = options.connections as f64 / rate;
            let first = began + Duration::from_secs_f64(gap * number as f64 / options.connections as f64);
            (first, Duration::from_secs_f64(gap))
        });
        match raw {
            true => tasks.spawn(connection.raw(end, options.pipeline)),
            false => tasks.spawn(connection.http(end, pace)),
        };
    }
    let mut all = Seen::default();
    while let Some(seen) = tasks.join_next().await {
        let seen = seen??;
        all.micros.extend(seen.micros);
        all.errors += seen.errors;
        all.bytes += seen.bytes;
    }
    let seconds = began.elapsed().as_secs_f64();
    all.micros.sort_unstable();
    let at = |share: usize| {
        let last = all.micros.len().saturating_sub(1);
        f64::from(
            all.micros
                .get((all.micros.len() * share / 1000).min(last))
                .copied()
                .unwrap_or_default(),
        ) / 1e3
    };
    println!(
        "{{\"requests\": {}, \"errors\": {}, \"bytes\": {}, \"seconds\": {seconds:.3}, \"rate\": {:.2}, \"p50\": {:.3}, \"p99\": {:.3}, \"max\": {:.3}}}",
        all.micros.len(),
        all.errors,
        all.bytes,
        all.micros.len() as f64 / seconds,
        at(500),
        at(990),
        at(1000),
    );
    Ok(())
}

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    requests: Arc<Vec<Request>>,
    next: usize,
}

fn micros(since: Instant) -> u32 {
    u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX)
}

impl Connection {
    fn place(&mut self) -> usize {
        let place = self.next % self.requests.len();
        self.next = place + 1;
        place
    }

    async fn http(mut self, end: Instant, pace: Option<(Instant, Duration)>) -> Outcome<Seen> {
        let mut seen = Seen::default();
        let mut due = pace.map(|(first, _)| first);
        loop {
            let began = match (&mut due, pace) {
                (Some(due), Some((_, gap))) => {
                    let now = *due;
                    *due += gap;
                    if now < end {
                        tokio::time::sleep_until(now.into()).await;
                    }
                    now
                }
                _ => Instant::now(),
            };
            // Late requests are still sent, so that none that waited goes unseen, but not for ever.
            if began >= end || Instant::now() > end + Duration::from_secs(30) {
                return Ok(seen);
            }
            let place = self.place();
            self.stream.write_all(&self.requests[place].bytes).await?;
            let (status, length) = self.answer().await?;
            seen.bytes += length as u64;
            seen.errors += u64::from(status != 200);
            seen.micros.push(micros(began));
        }
    }

    /// Reads one HTTP answer: its status and the length of its body.
    async fn answer(&mut self) -> Outcome<(u16, usize)> {
        self.buffer.clear();
        let head = loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err("the server has closed the connection".into());
            }
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
        };
        let text = std::str::from_utf8(&self.buffer[..head])?.to_ascii_lowercase();
        let status = text.get(9..12).ok_or("no status")?.parse()?;
        let length = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .ok_or("an answer without content-length")?
            .trim()
            .parse::<usize>()?;
        let mut left = (head + length).saturating_sub(self.buffer.len());
        while left > 0 {
            self.buffer.clear();
            let read = self.stream.read_buf(&mut self.buffer).await?;
            if read == 0 {
                return Err("the server has closed the connection".into());
            }
            left = left.saturating_sub(read);
        }
        Ok((status, length))
    }

    async fn raw(mut self, end: Instant, pipeline: usize) -> Outcome<Seen> {
        let mut seen = Seen::default();
        let mut batch = Vec::new();
        let mut waiting: VecDeque<usize> = VecDeque::new();
        while Instant::now() < end {
            let began = Instant::now();
            batch.clear();
            for _ in 0..pipeline {
                let place = self.place();
                let request = &self.requests[place];
                batch.extend_from_slice(&request.bytes);
                waiting.push_back(request.answer);
            }
            self.stream.write_all(&batch).await?;
            let mut left: usize = waiting.drain(..).sum();
            seen.bytes += left as u64;
            while left > 0 {
                self.buffer.clear();
                let read = self.stream.read_buf(&mut self.buffer).await?;
                if read == 0 {
                    return Err("the server has closed the connection".into());
                }
                left = left
                    .checked_sub(read)
                    .ok_or("an answer is longer than it was before")?;
            }
            let took = micros(began);
            seen.micros.extend(std::iter::repeat_n(took, pipeline));
        }
        Ok(seen)
    }
}

/// Answers every request with the same body. Requests end with a body of the length they name.
async fn serve(address: &str, body: Vec<u8>) -> Outcome<()> {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let answer: Arc<[u8]> = [head.into_bytes(), body].concat().into();
    let listener = TcpListener::bind(address).await?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let answer = Arc::clone(&answer);
        tokio::spawn(async move {
            let mut buffer = Vec::with_capacity(1 << 14);
            loop {
                if let Some(length) = request_length(&buffer) {
                    buffer.drain(..length);
                    if stream.write_all(&answer).await.is_err() {
                        return;
                    }
                } else if !matches!(stream.read_buf(&mut buffer).await, Ok(read) if read > 0) {
                    return;
                }
            }
        });
    }
}

/// The length of the first whole request in a buffer.
fn request_length(buffer: &[u8]) -> Option<usize> {
    let head = buffer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&buffer[..head]).ok()?.to_ascii_lowercase();
    let body = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .and_then(|length| length.trim().parse::<usize>().ok())
        .unwrap_or(0);
    (buffer.len() >= head + body).then_some(head + body)
}
