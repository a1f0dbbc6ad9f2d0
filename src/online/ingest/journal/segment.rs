//! The thread that writes segments: all records that wait go to disk together, and are acknowledged then.

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    sync::mpsc::Receiver,
};

use bytes::Bytes;
use tokio::sync::oneshot;

/// What segments are called after their number.
pub(super) const SEGMENT: &str = "rows";

/// What the thread is asked for.
pub(super) enum Command {
    /// Writes a record; what went wrong is told in words.
    Put {
        record: Bytes,
        done: oneshot::Sender<Result<(), String>>,
    },
    /// Completes the segment being written, if it has records.
    Seal { done: oneshot::Sender<Option<PathBuf>> },
}

/// The segment being written.
struct Open {
    path: PathBuf,
    file: File,
    /// Bytes that were acknowledged.
    length: u64,
}

/// Serves until nobody can ask any more.
pub(super) fn write_segments(folder: &Path, inbox: &Receiver<Command>) {
    let mut number = 0_u64;
    let mut open: Option<Open> = None;
    while let Ok(first) = inbox.recv() {
        let mut records = Vec::new();
        let mut waiting = Vec::new();
        let mut seal = None;
        for command in std::iter::once(first).chain(std::iter::from_fn(|| inbox.try_recv().ok())) {
            match command {
                Command::Put { record, done } => {
                    records.push(record);
                    waiting.push(done);
                }
                Command::Seal { done } => {
                    seal = Some(done);
                    break;
                }
            }
        }
        if !records.is_empty() {
            let written = write(folder, &mut number, &mut open, &records).map_err(|error| error.to_string());
            for done in waiting {
                // Whoever gave up waiting may find the row appended all the same.
                let _gone = done.send(written.clone());
            }
        }
        if let Some(done) = seal {
            let sealed = open.take().filter(|open| open.length > 0).map(|open| open.path);
            let _gone = done.send(sealed);
        }
    }
}

fn write(folder: &Path, number: &mut u64, open: &mut Option<Open>, records: &[Bytes]) -> std::io::Result<()> {
    let mut segment = match open.take() {
        Some(segment) => segment,
        None => {
            *number += 1;
            let path = folder.join(format!("{number:012}.{SEGMENT}"));
            let file = File::options().create_new(true).append(true).open(&path)?;
            File::open(folder)?.sync_all()?;
            Open {
                path,
                file,
                length: 0,
            }
        }
    };
    let begin = segment.length;
    let written = records
        .iter()
        .try_for_each(|record| segment.file.write_all(record))
        .and_then(|()| segment.file.sync_data());
    match written {
        Ok(()) => segment.length += records.iter().map(|record| record.len() as u64).sum::<u64>(),
        // What came after the last acknowledged record does not count.
        Err(_) => segment.file.set_len(begin)?,
    }
    *open = Some(segment);
    written
}
