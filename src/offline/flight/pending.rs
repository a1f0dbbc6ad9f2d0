//! Rows that wait for the last step of the older three-step read, by their command.
//!
//! Each waits for one read, for ten minutes at most; when too many bytes wait, the oldest go first.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::Upload;

const PATIENCE: Duration = Duration::from_secs(600);
const MOST: usize = 256;

struct Waiting {
    command: Bytes,
    upload: Upload,
    since: Instant,
}

/// See the module.
pub(super) struct Pending {
    /// Oldest first.
    waiting: Mutex<Vec<Waiting>>,
    limit: usize,
}

impl Pending {
    /// Keeps at most `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            waiting: Mutex::default(),
            limit,
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Vec<Waiting>) -> T) -> T {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|waiting| waiting.since.elapsed() < PATIENCE);
        work(&mut waiting)
    }

    /// Keeps rows for their read; the same command again replaces them.
    pub(super) fn keep(&self, command: Bytes, upload: Upload) {
        self.with(|waiting| {
            waiting.retain(|known| known.command != command);
            waiting.push(Waiting {
                command,
                upload,
                since: Instant::now(),
            });
            while waiting.len() > MOST
                || waiting.len() > 1
                    && waiting
                        .iter()
                        .map(|waiting| waiting.upload.memory())
                        .sum::<usize>()
                        > self.limit
            {
                waiting.remove(0);
            }
        });
    }

    /// Takes the rows out.
    pub(super) fn take(&self, command: &Bytes) -> Option<Upload> {
        self.with(|waiting| {
            let place = waiting.iter().position(|waiting| waiting.command == *command)?;
            Some(waiting.remove(place).upload)
        })
    }

    pub(super) fn has(&self, command: &Bytes) -> bool {
        self.with(|waiting| waiting.iter().any(|waiting| waiting.command == *command))
    }

    pub(super) fn commands(&self) -> Vec<Bytes> {
        self.with(|waiting| waiting.iter().map(|waiting| waiting.command.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{ArrayRef, Int64Array},
        datatypes::{DataType, Field, Schema},
        record_batch::RecordBatch,
    };

    use super::*;

    fn upload(rows: usize) -> Upload {
        let schema = Arc::new(Schema::new(vec![Field::new("x", DataType::Int64, true)]));
        let column: ArrayRef = Arc::new(Int64Array::new_null(rows));
        let batches = RecordBatch::try_new(Arc::clone(&schema), vec![column])
            .into_iter()
            .collect();
        Upload { schema, batches }
    }

    #[test]
    fn rows_are_read_once_and_the_oldest_make_room() {
        let pending = Pending::new(20_000);
        let names = ["a", "b", "c"].map(Bytes::from);
        for name in &names {
            pending.keep(name.clone(), upload(1_000));
        }
        assert!(!pending.has(&names[0]), "three do not fit");
        assert_eq!(pending.commands(), names[1..]);
        assert!(pending.take(&names[1]).is_some());
        assert!(pending.take(&names[1]).is_none());
        pending.keep(names[2].clone(), upload(9));
        assert_eq!(
            pending.take(&names[2]).map(|upload| upload.batches[0].num_rows()),
            Some(9)
        );
    }
}
