//! The words of Redis: commands as they are sent (RESP 2), replies as slices of what came in. No reply is
//! turned into a tree: whoever asked walks through its bytes and keeps slices of them.

use std::{io::Write as _, ops::Range};

use bytes::Bytes;

use crate::error::{Error, Result};

/// Commands that are sent in one go, and answered in order.
#[derive(Debug, Default)]
pub(super) struct Pipeline {
    buffer: Vec<u8>,
    commands: Vec<Span>,
}

/// Where a command and its key lie in the buffer.
#[derive(Debug, Clone)]
struct Span {
    command: Range<usize>,
    key: Range<usize>,
}

impl Pipeline {
    pub(super) fn with_capacity(bytes: usize, commands: usize) -> Self {
        Self {
            buffer: Vec::with_capacity(bytes),
            commands: Vec::with_capacity(commands),
        }
    }

    /// One command without a key.
    pub(super) fn of(arguments: &[&[u8]]) -> Self {
        let mut pipeline = Self::default();
        pipeline.begin(arguments.len());
        for argument in arguments {
            pipeline.arg(argument);
        }
        pipeline
    }

    /// Begins a command of this many arguments, its name and key among them.
    pub(super) fn begin(&mut self, arguments: usize) {
        let start = self.buffer.len();
        put_number(&mut self.buffer, b'*', arguments);
        let end = self.buffer.len();
        self.commands.push(Span {
            command: start..end,
            key: end..end,
        });
    }

    /// The next argument.
    pub(super) fn arg(&mut self, argument: &[u8]) {
        put_bulk(&mut self.buffer, argument);
        self.grown();
    }

    /// The next arguments, encoded before with [`put_bulk`].
    pub(super) fn encoded(&mut self, arguments: &[u8]) {
        self.buffer.extend_from_slice(arguments);
        self.grown();
    }

    /// The next argument, which is the key of an entity in a project.
    pub(super) fn key(&mut self, entity: &[u8], project: &[u8]) {
        put_number(&mut self.buffer, b'$', entity.len() + project.len());
        let start = self.buffer.len();
        self.buffer.extend_from_slice(entity);
        self.buffer.extend_from_slice(project);
        let end = self.buffer.len();
        self.buffer.extend_from_slice(b"\r\n");
        self.grown();
        if let Some(span) = self.commands.last_mut() {
            span.key = start..end;
        }
    }

    fn grown(&mut self) {
        let end = self.buffer.len();
        if let Some(span) = self.commands.last_mut() {
            span.command.end = end;
        }
    }

    /// The number of commands.
    pub(super) fn len(&self) -> usize {
        self.commands.len()
    }

    /// The bytes there are so far.
    pub(super) fn size(&self) -> usize {
        self.buffer.len()
    }

    /// The key of a command.
    pub(super) fn key_of(&self, command: usize) -> &[u8] {
        &self.buffer[self.commands[command].key.clone()]
    }

    /// The bytes of a command.
    pub(super) fn command(&self, command: usize) -> &[u8] {
        &self.buffer[self.commands[command].command.clone()]
    }

    pub(super) fn into_bytes(self) -> Bytes {
        self.buffer.into()
    }
}

fn put_number(out: &mut Vec<u8>, kind: u8, number: usize) {
    // Lengths of values are mostly small, and there are many.
    if let Ok(digit @ 0..=9) = u8::try_from(number) {
        out.extend_from_slice(&[kind, b'0' + digit, b'\r', b'\n']);
        return;
    }
    // Writing into a Vec cannot fail.
    let _ = write!(out, "{}{number}\r\n", kind as char);
}

/// An argument as it is sent.
pub(super) fn put_bulk(out: &mut Vec<u8>, argument: &[u8]) {
    put_number(out, b'$', argument.len());
    out.extend_from_slice(argument);
    out.extend_from_slice(b"\r\n");
}

/// Finds the end of a reply in bytes that arrive piece by piece, looking at each only once.
#[derive(Debug)]
pub(super) struct Scanner {
    at: usize,
    /// Parts of the reply that have not been seen yet.
    missing: usize,
}

impl Scanner {
    /// For a reply that begins at `at`.
    pub(super) fn new(at: usize) -> Self {
        Self { at, missing: 1 }
    }

    /// Where the reply ends, if that is in the buffer; otherwise how far the buffer must reach at least.
    ///
    /// # Errors
    /// When these are no replies of Redis.
    pub(super) fn end(&mut self, buffer: &[u8]) -> Result<Progress> {
        while self.missing > 0 {
            if let Some((length, start)) = text_header(buffer, self.at) {
                let end = start + length + 2;
                if end > buffer.len() {
                    return Ok(Progress::Wants(end));
                }
                self.at = end;
                self.missing -= 1;
                continue;
            }
            let Some(line) = line_end(buffer, self.at) else {
                return Ok(Progress::Wants(buffer.len() + 1));
            };
            let header = &buffer[self.at..line];
            let mut next = line + 2;
            self.missing -= 1;
            match header.first() {
                Some(b'$') => {
                    if let Some(length) = length(header)? {
                        let end = next.saturating_add(length).saturating_add(2);
                        if end > buffer.len() {
                            self.missing += 1;
                            return Ok(Progress::Wants(end));
                        }
                        next = end;
                    }
                }
                Some(b'*') => self.missing = self.missing.saturating_add(length(header)?.unwrap_or(0)),
                Some(b'+' | b'-' | b':') => {}
                _ => return Err(malformed()),
            }
            self.at = next;
        }
        Ok(Progress::Ends(self.at))
    }
}

/// What a [`Scanner`] found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Ends(usize),
    Wants(usize),
}

/// Where the line that begins at `from` ends, without its CR LF.
fn line_end(buffer: &[u8], from: usize) -> Option<usize> {
    let line = buffer.get(from..)?;
    let end = line.iter().position(|byte| *byte == b'\r')?;
    (end + 1 < line.len()).then_some(from + end)
}

/// The length of the text whose header begins at `from`, and where the text begins; `None` for anything but
/// a whole header. Most of a reply is such headers, of one or two digits.
#[inline]
fn text_header(buffer: &[u8], from: usize) -> Option<(usize, usize)> {
    let (b'$', digits) = buffer.get(from..)?.split_first()? else {
        return None;
    };
    if let [first @ b'0'..=b'9', b'\r', b'\n', ..] = digits {
        return Some((usize::from(first - b'0'), from + 4));
    }
    let mut length = 0_usize;
    for (place, byte) in digits.iter().enumerate() {
        match byte {
            b'0'..=b'9' if place < 10 => length = length * 10 + usize::from(byte - b'0'),
            b'\r' if place > 0 && place + 1 < digits.len() => return Some((length, from + place + 3)),
            _ => return None,
        }
    }
    None
}

/// The number behind the first byte of a header; `None` is -1.
fn length(header: &[u8]) -> Result<Option<usize>> {
    match &header[1..] {
        b"-1" => Ok(None),
        [] => Err(malformed()),
        digits => digits
            .iter()
            .try_fold(0_usize, |number, digit| {
                let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
                number.checked_mul(10)?.checked_add(usize::from(digit))
            })
            .map(Some)
            .ok_or_else(malformed),
    }
}

fn malformed() -> Error {
    Error::unavailable("what answers there does not speak the protocol of Redis")
}

/// One part of a reply. Texts and numbers are parts of [`Walk::frame`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    Nil,
    Bulk(Range<usize>),
    Simple(&'a str),
    Error(&'a str),
    Int(i64),
    /// The start of an array of so many parts.
    Array(usize),
}

/// Goes through the parts of one reply.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    frame: &'a [u8],
    at: usize,
}

impl<'a> Walk<'a> {
    pub(super) fn new(frame: &'a [u8]) -> Self {
        Self { frame, at: 0 }
    }

    /// The next part.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn next(&mut self) -> Result<Part<'a>> {
        if let Some((length, start)) = text_header(self.frame, self.at)
            && start + length + 2 <= self.frame.len()
        {
            self.at = start + length + 2;
            return Ok(Part::Bulk(start..start + length));
        }
        let line = line_end(self.frame, self.at).ok_or_else(malformed)?;
        let header = &self.frame[self.at..line];
        let next = line + 2;
        self.at = next;
        let text = || str::from_utf8(&header[1..]).map_err(|_| malformed());
        Ok(match header.first() {
            Some(b'$') => match length(header)? {
                None => Part::Nil,
                Some(length) if next + length + 2 <= self.frame.len() => {
                    self.at = next + length + 2;
                    Part::Bulk(next..next + length)
                }
                Some(_) => return Err(malformed()),
            },
            Some(b'*') => length(header)?.map_or(Part::Nil, Part::Array),
            Some(b'+') => Part::Simple(text()?),
            Some(b'-') => Part::Error(text()?),
            Some(b':') => Part::Int(text()?.parse().map_err(|_| malformed())?),
            _ => return Err(malformed()),
        })
    }

    /// Goes past the next part if it is sent as `known` is, header and all.
    pub(super) fn passes(&mut self, known: &[u8]) -> bool {
        let passes = self
            .frame
            .get(self.at..)
            .is_some_and(|rest| rest.starts_with(known));
        if passes {
            self.at += known.len();
        }
        passes
    }

    /// The next part, which is bytes; answers it, and as it was sent.
    ///
    /// # Errors
    /// What the server said instead.
    pub(super) fn bytes_as_sent(&mut self) -> Result<(&'a [u8], &'a [u8])> {
        let start = self.at;
        let bytes = self.bytes()?;
        Ok((bytes, &self.frame[start..self.at]))
    }

    /// The next part, which is an array; answers its length.
    ///
    /// # Errors
    /// What the server said instead.
    pub(super) fn array(&mut self) -> Result<usize> {
        match self.next()? {
            Part::Array(length) => Ok(length),
            Part::Error(said) => Err(refused(said)),
            _ => Err(malformed()),
        }
    }

    /// The next part, which is bytes.
    ///
    /// # Errors
    /// What the server said instead.
    pub(super) fn bytes(&mut self) -> Result<&'a [u8]> {
        match self.next()? {
            Part::Bulk(range) => Ok(&self.frame[range]),
            Part::Error(said) => Err(refused(said)),
            _ => Err(malformed()),
        }
    }

    /// The next part, which is a number.
    ///
    /// # Errors
    /// What the server said instead.
    pub(super) fn int(&mut self) -> Result<i64> {
        match self.next()? {
            Part::Int(number) => Ok(number),
            Part::Error(said) => Err(refused(said)),
            _ => Err(malformed()),
        }
    }

    /// Leaves out the next part with all that is in it.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn skip(&mut self) -> Result<()> {
        let mut missing = 1_usize;
        while missing > 0 {
            missing -= 1;
            if let Part::Array(length) = self.next()? {
                missing = missing.saturating_add(length);
            }
        }
        Ok(())
    }
}

/// The error in a reply, if it is one: its first word says which.
pub(super) fn error_of(frame: &[u8]) -> Option<&str> {
    match Walk::new(frame).next() {
        Ok(Part::Error(said)) => Some(said),
        _ => None,
    }
}

/// What a server's refusal means to a user.
pub(super) fn refused(said: &str) -> Error {
    let told = Error::unavailable(format!("the server said `{said}`"));
    match said.split(' ').next().unwrap_or_default() {
        "NOAUTH" | "WRONGPASS" => {
            told.hint("check `username` and `password` in `online_store.connection_string`")
        }
        "NOPERM" => told.hint("give the user the rights to this command and to the keys of the project"),
        "LOADING" => told.hint("the server has just been started and reads its data; try again"),
        "OOM" => told.hint("the server's `maxmemory` is used up"),
        "READONLY" => told.hint("this is a replica; name its primary, or use `redis_type: redis_sentinel`"),
        "WRONGTYPE" => told.hint("something else than Feast has written under this key"),
        "MOVED" | "ASK" => told.hint("this is a node of a cluster: use `redis_type: redis_cluster`"),
        _ => told,
    }
}

#[cfg(test)]
mod tests;
