//! A load generator for the benches, so that the client costs as little as it can: it sends requests that
//! are made beforehand, and looks no further into an answer than to find its end.
//!
//!     load http ADDRESS REQUESTS --connections 16 --seconds 3 [--rate 500]
//!     load storm ADDRESS REQUESTS --connections 1000 --seconds 60 [--rate 5000]
//!     load raw ADDRESS REQUESTS --pipeline 16 --connections 1 --seconds 3
//!     load static ADDRESS ANSWER
//!
//! `http` keeps HTTP/1.1 connections open and sends the next request when the answer is in; with `--rate`
//! requests are due at fixed moments, whatever the server does, and latency counts from the moment a
//! request was due. `storm` does the same, compares every answer of status 200 with the one that is right,
//! counts the others by what they say, connects anew when it has to, and tells what came when. `raw` sends
//! any protocol whose answers have known lengths (Redis), some requests at once. `static` answers every HTTP
//! request with the same bytes: what HTTP itself costs.
//!
//! A file of requests is a sequence of: length of the request (u32, little-endian), length of the answer
//! (u32, `raw` and `storm` only), the request, and for `storm` the body of the answer. Each connection sends
//! them in turn, starting at a place of its own. The result is one line of JSON: requests, errors, seconds,
//! rate, p50, p99 and max in milliseconds; of a storm see [`Storm::report`].
//! It needs no other crate; the benches build it by `rustc --edition 2024 -O benches/load.rs`.

use std::{
    collections::BTreeMap,
    env,
    error::Error,
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

struct Request {
    bytes: Vec<u8>,
    answer: usize,
    /// The answer itself, for `storm`.
    expected: Vec<u8>,
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
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [mode, address, file, rest @ ..] = arguments.as_slice() else {
        return Err("usage: load http|storm|raw|static ADDRESS FILE [--connections N] [--seconds S] [--rate R] [--pipeline P]".into());
    };
    let option = |name: &str| {
        let at = rest.iter().position(|word| word == name)?;
        rest.get(at + 1)?.parse::<f64>().ok()
    };
    let count = |name: &str, default: usize| option(name).map_or(default, |value| value as usize);
    let options = Options {
        connections: count("--connections", 16),
        pipeline: count("--pipeline", 1),
        seconds: option("--seconds").unwrap_or(3.0),
        rate: option("--rate"),
    };
    let file = fs::read(file)?;
    match mode.as_str() {
        "static" => serve(address, file),
        "http" | "raw" => run(mode == "raw", address, requests(&file, false)?, options),
        "storm" => storm(address, requests(&file, true)?, &options),
        other => Err(format!("there is no mode `{other}`").into()),
    }
}

fn requests(mut file: &[u8], with_answers: bool) -> Outcome<Vec<Request>> {
    let mut requests = Vec::new();
    while !file.is_empty() {
        let (head, rest) = file.split_at_checked(8).ok_or("the file ends in a request")?;
        let number =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
        let (bytes, rest) = rest
            .split_at_checked(number(0))
            .ok_or("the file ends in a request")?;
        let (expected, rest) = rest
            .split_at_checked(if with_answers { number(4) } else { 0 })
            .ok_or("the file ends in an answer")?;
        requests.push(Request {
            bytes: bytes.to_vec(),
            answer: number(4),
            expected: expected.to_vec(),
        });
        file = rest;
    }
    if requests.is_empty() {
        return Err("the file has no requests".into());
    }
    Ok(requests)
}

fn run(raw: bool, address: &str, requests: Vec<Request>, options: Options) -> Outcome<()> {
    let requests = Arc::new(requests);
    let mut connections = Vec::new();
    for number in 0..options.connections {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        connections.push(Connection {
            stream,
            buffer: vec![0; 1 << 18],
            requests: Arc::clone(&requests),
            next: number * requests.len() / options.connections,
        });
    }
    let began = Instant::now();
    let end = began + Duration::from_secs_f64(options.seconds);
    let threads: Vec<_> = connections
        .into_iter()
        .enumerate()
        .map(|(number, connection)| {
            let pace = options.rate.map(|rate| {
                let first = began + Duration::from_secs_f64(number as f64 / rate);
                (first, Duration::from_secs_f64(options.connections as f64 / rate))
            });
            thread::spawn(move || match raw {
                true => connection.raw(end, options.pipeline),
                false => connection.http(end, pace),
            })
        })
        .collect();
    let mut all = Seen::default();
    for thread in threads {
        let seen = thread.join().map_err(|_| "a connection's thread panicked")??;
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

    fn read(&mut self, from: usize) -> Outcome<usize> {
        match self.stream.read(&mut self.buffer[from..])? {
            0 => Err("the server has closed the connection, or its head is too long".into()),
            read => Ok(read),
        }
    }

    fn http(mut self, end: Instant, pace: Option<(Instant, Duration)>) -> Outcome<Seen> {
        let mut seen = Seen::default();
        let mut due = pace.map(|(first, _)| first);
        loop {
            let began = match (&mut due, pace) {
                (Some(due), Some((_, gap))) => {
                    let now = *due;
                    *due += gap;
                    if now < end {
                        thread::sleep(now.saturating_duration_since(Instant::now()));
                    }
                    now
                }
                _ => Instant::now(),
            };
            // Requests that are late are still sent, so that none that waited goes unseen, but not for ever.
            if began >= end || Instant::now() > end + Duration::from_secs(30) {
                return Ok(seen);
            }
            let place = self.place();
            let requests = Arc::clone(&self.requests);
            self.stream.write_all(&requests[place].bytes)?;
            let (status, length) = self.answer()?;
            seen.bytes += length as u64;
            seen.errors += u64::from(status != 200);
            seen.micros.push(micros(began));
        }
    }

    /// Reads one HTTP answer: its status and the length of its body.
    fn answer(&mut self) -> Outcome<(u16, usize)> {
        let mut filled = 0;
        let head = loop {
            filled += self.read(filled)?;
            if let Some(end) = head_end(&self.buffer[..filled]) {
                break end;
            }
        };
        let text = std::str::from_utf8(&self.buffer[..head])?;
        let status = text.get(9..12).ok_or("no status")?.parse()?;
        let length = content_length(text).ok_or("an answer without content-length")?;
        let mut left = (head + length).saturating_sub(filled);
        while left > 0 {
            left = left.saturating_sub(self.read(0)?);
        }
        Ok((status, length))
    }

    fn raw(mut self, end: Instant, pipeline: usize) -> Outcome<Seen> {
        let mut seen = Seen::default();
        let requests = Arc::clone(&self.requests);
        let mut batch = Vec::new();
        while Instant::now() < end {
            let began = Instant::now();
            batch.clear();
            let mut left = 0;
            for _ in 0..pipeline {
                let request = &requests[self.place()];
                batch.extend_from_slice(&request.bytes);
                left += request.answer;
            }
            self.stream.write_all(&batch)?;
            seen.bytes += left as u64;
            while left > 0 {
                let read = self.read(0)?;
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

/// Where the body begins.
fn head_end(buffer: &[u8]) -> Option<usize> {
    Some(buffer.windows(4).position(|window| window == b"\r\n\r\n")? + 4)
}

fn content_length(head: &str) -> Option<usize> {
    head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse().ok())?
    })
}

/// What the connections of a storm saw.
#[derive(Default)]
struct Storm {
    micros: Vec<u32>,
    /// By tenths of a second since the start, in which the request was due: answers of status 200, 503 and
    /// others, requests without an answer, and the longest time until an answer in microseconds.
    tenths: BTreeMap<u64, [u64; 5]>,
    /// Answers of another status, without their date, and how many there were.
    others: BTreeMap<String, u64>,
    /// Why connections ended or could not be made.
    lost: BTreeMap<String, u64>,
    wrong: u64,
    /// The place of a request whose answer was wrong, and that answer.
    example: Option<(usize, String)>,
    /// When the last answer came whose status was not 200.
    last_other: Option<Instant>,
}

impl Storm {
    fn note(&mut self, tenth: u64, column: usize, micros: u32) {
        let row = self.tenths.entry(tenth).or_default();
        row[column] += 1;
        row[4] = row[4].max(u64::from(micros));
    }

    fn add(&mut self, other: Storm) {
        self.micros.extend(other.micros);
        for (tenth, row) in other.tenths {
            let sum = self.tenths.entry(tenth).or_default();
            for column in 0..4 {
                sum[column] += row[column];
            }
            sum[4] = sum[4].max(row[4]);
        }
        for (text, count) in other.others {
            *self.others.entry(text).or_default() += count;
        }
        for (text, count) in other.lost {
            *self.lost.entry(text).or_default() += count;
        }
        self.wrong += other.wrong;
        self.example = self.example.take().or(other.example);
        self.last_other = self.last_other.max(other.last_other);
    }

    /// One line of JSON: `began` and `last_other` are seconds since 1970, texts are in hexadecimal.
    fn report(mut self, began: (Instant, f64)) -> String {
        self.micros.sort_unstable();
        let at = |share: usize| {
            let last = self.micros.len().saturating_sub(1);
            let micros = self.micros.get((self.micros.len() * share / 1000).min(last));
            f64::from(micros.copied().unwrap_or_default()) / 1e3
        };
        let texts = |texts: &BTreeMap<String, u64>| {
            let texts: Vec<String> = texts
                .iter()
                .map(|(text, count)| format!("[\"{}\", {count}]", hex(text)))
                .collect();
            texts.join(", ")
        };
        let tenths: Vec<String> = self
            .tenths
            .iter()
            .map(|(tenth, row)| {
                format!(
                    "[{tenth}, {}, {}, {}, {}, {}]",
                    row[0], row[1], row[2], row[3], row[4]
                )
            })
            .collect();
        let last = self
            .last_other
            .map_or(0.0, |last| began.1 + last.duration_since(began.0).as_secs_f64());
        let (place, text) = self.example.clone().unwrap_or_default();
        format!(
            "{{\"began\": {:.6}, \"last_other\": {last:.6}, \"requests\": {}, \"wrong\": {}, \"example\": [{place}, \"{}\"], \"p50\": {:.3}, \"p99\": {:.3}, \"max\": {:.3}, \"others\": [{}], \"lost\": [{}], \"tenths\": [{}]}}",
            began.1,
            self.micros.len(),
            self.wrong,
            hex(&text),
            at(500),
            at(990),
            at(1000),
            texts(&self.others),
            texts(&self.lost),
            tenths.join(", "),
        )
    }
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn storm(address: &str, requests: Vec<Request>, options: &Options) -> Outcome<()> {
    let requests = Arc::new(requests);
    let connections = (0..options.connections)
        .map(|_| connect(address).map(Some))
        .collect::<Outcome<Vec<_>>>()?;
    let unix = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    let began = Instant::now();
    let end = began + Duration::from_secs_f64(options.seconds);
    let mut threads = Vec::new();
    for (number, stream) in connections.into_iter().enumerate() {
        let requests = Arc::clone(&requests);
        let mut one = Storming {
            address: address.to_owned(),
            stream,
            buffer: Vec::new(),
            next: number * requests.len() / options.connections,
            requests,
            seen: Storm::default(),
        };
        let gap = options.rate.map(|rate| options.connections as f64 / rate);
        let first = options.rate.map_or(0.0, |rate| number as f64 / rate);
        let builder = thread::Builder::new().stack_size(256 << 10);
        threads.push(builder.spawn(move || {
            let mut due = began + Duration::from_secs_f64(first);
            while due < end && Instant::now() < end + Duration::from_secs(30) {
                thread::sleep(due.saturating_duration_since(Instant::now()));
                one.request(began, due);
                due = match gap {
                    Some(gap) => due + Duration::from_secs_f64(gap),
                    None => Instant::now(),
                };
            }
            one.seen
        })?);
    }
    let mut all = Storm::default();
    for thread in threads {
        all.add(thread.join().map_err(|_| "a connection's thread panicked")?);
    }
    println!("{}", all.report((began, unix)));
    Ok(())
}

fn connect(address: &str) -> Outcome<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    Ok(stream)
}

/// One connection of a storm.
struct Storming {
    address: String,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
    requests: Arc<Vec<Request>>,
    next: usize,
    seen: Storm,
}

impl Storming {
    fn request(&mut self, began: Instant, due: Instant) {
        let tenth = u64::try_from(due.duration_since(began).as_millis() / 100).unwrap_or(u64::MAX);
        let requests = Arc::clone(&self.requests);
        let place = self.next % requests.len();
        self.next = place + 1;
        match self.exchange(&requests[place].bytes) {
            Ok((status, head)) => {
                let took = micros(due);
                self.seen.micros.push(took);
                let column = match status {
                    200 => 0,
                    503 => 1,
                    _ => 2,
                };
                self.seen.note(tenth, column, took);
                let body = &self.buffer[head..];
                if status != 200 {
                    self.seen.last_other = Some(Instant::now());
                    let head = String::from_utf8_lossy(&self.buffer[..head]);
                    let lines = head.lines().filter(|line| {
                        let name = line.split(':').next().unwrap_or_default();
                        !["date", "x-request-id"].contains(&name.to_lowercase().as_str())
                    });
                    let text = lines.collect::<Vec<_>>().join("\n") + &String::from_utf8_lossy(body);
                    *self.seen.others.entry(text).or_default() += 1;
                } else if body != requests[place].expected {
                    self.seen.wrong += 1;
                    let text = String::from_utf8_lossy(body).into_owned();
                    self.seen.example.get_or_insert((place, text));
                }
            }
            Err(error) => {
                self.stream = None;
                self.seen.note(tenth, 3, 0);
                *self.seen.lost.entry(error.to_string()).or_default() += 1;
            }
        }
    }

    /// Sends a request and reads the answer to it into the buffer: its status, and where its body begins.
    fn exchange(&mut self, request: &[u8]) -> Outcome<(u16, usize)> {
        if self.stream.is_none() {
            self.stream = Some(connect(&self.address)?);
        }
        let stream = self.stream.as_mut().ok_or("no connection")?;
        stream.write_all(request)?;
        self.buffer.clear();
        let mut block = [0; 16 << 10];
        let mut wanted = None;
        loop {
            match wanted {
                Some((status, head, length)) if self.buffer.len() >= head + length => {
                    self.buffer.truncate(head + length);
                    return Ok((status, head));
                }
                _ => {}
            }
            match stream.read(&mut block)? {
                0 => return Err("the server closed the connection".into()),
                read => self.buffer.extend_from_slice(&block[..read]),
            }
            if wanted.is_none()
                && let Some(head) = head_end(&self.buffer)
            {
                let text = std::str::from_utf8(&self.buffer[..head])?;
                let status = text.get(9..12).ok_or("no status")?.parse()?;
                let length = content_length(text).ok_or("an answer without content-length")?;
                wanted = Some((status, head, length));
            }
        }
    }
}

/// Answers every request with the same body.
fn serve(address: &str, body: Vec<u8>) -> Outcome<()> {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let answer: Arc<[u8]> = [head.into_bytes(), body].concat().into();
    for stream in TcpListener::bind(address)?.incoming() {
        let mut stream = stream?;
        stream.set_nodelay(true)?;
        let answer = Arc::clone(&answer);
        thread::spawn(move || -> Outcome<()> {
            let mut buffer = vec![0; 1 << 16];
            let mut filled = 0;
            loop {
                let head = head_end(&buffer[..filled]);
                let wanted = match head {
                    Some(head) => head + content_length(std::str::from_utf8(&buffer[..head])?).unwrap_or(0),
                    None => usize::MAX,
                };
                if filled >= wanted {
                    buffer.copy_within(wanted..filled, 0);
                    filled -= wanted;
                    stream.write_all(&answer)?;
                    continue;
                }
                match stream.read(&mut buffer[filled..])? {
                    0 => return Ok(()),
                    read => filled += read,
                }
            }
        });
    }
    Ok(())
}
