//! [`Uploads`]: rows that wait for the last step of the older three-step read, in files.
//!
//! Older SDKs send the rows of a read by `DoPut`, ask for a ticket and then for the answer, each on its own.
//! The ticket is the command; the rows lie in `thali.offline.upload_folder` under the command's hash. So a
//! ticket can be used by any process that has this folder, also after a restart, and more than once; for
//! [`PATIENCE`] after the upload, and as long as not too many bytes wait: the oldest go first.

use std::{
    fs::{self, File},
    io::{BufReader, BufWriter, Read as _, Write as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use arrow::ipc::{reader::StreamReader, writer::StreamWriter};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::Upload;
use crate::error::{Error, Result};

const PATIENCE: Duration = Duration::from_secs(600);
/// Commands are a few names; longer ones are not looked at.
const LONGEST: usize = 16 << 20;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Uploads {
    folder: PathBuf,
    /// The most bytes that wait.
    limit: u64,
}

impl Uploads {
    pub(super) fn new(folder: PathBuf, limit: u64) -> Self {
        Self { folder, limit }
    }

    /// Keeps rows for their read; the same command again replaces them.
    ///
    /// # Errors
    /// `Unavailable` when the folder cannot be written to.
    pub(super) async fn keep(&self, command: Bytes, upload: Upload) -> Result<()> {
        let this = self.clone();
        blocking(move || this.write(&command, &upload)).await
    }

    /// The rows that were kept for a command.
    ///
    /// # Errors
    /// `Unavailable` when they cannot be read.
    pub(super) async fn find(&self, command: Bytes) -> Result<Option<Upload>> {
        let this = self.clone();
        blocking(move || this.read(&command)).await
    }

    /// Whether rows are kept for a command.
    pub(super) async fn has(&self, command: Bytes) -> Result<bool> {
        let this = self.clone();
        blocking(move || Ok(this.open(&command)?.is_some())).await
    }

    /// The commands whose rows are kept.
    pub(super) async fn commands(&self) -> Result<Vec<Bytes>> {
        let this = self.clone();
        blocking(move || {
            let files = this.files();
            let live = files.into_iter().filter(|file| !file.is_old());
            let commands = live.filter_map(|file| command_of(&mut File::open(file.path).ok()?));
            Ok(commands.collect())
        })
        .await
    }

    fn place(&self, command: &[u8]) -> PathBuf {
        self.folder
            .join(format!("{}.arrow", hex::encode(Sha256::digest(command))))
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> Error {
        Error::unavailable(format!(
            "an upload cannot be kept in `{}`: {error}",
            self.folder.display()
        ))
        .hint("`thali.offline.upload_folder` names a folder this process may write to")
    }

    fn write(&self, command: &[u8], upload: &Upload) -> Result<()> {
        let failed = |error: &dyn std::fmt::Display| self.failed(error);
        fs::create_dir_all(&self.folder).map_err(|error| failed(&error))?;
        let file = tempfile::Builder::new()
            .prefix(".")
            .suffix(".tmp")
            .tempfile_in(&self.folder)
            .map_err(|error| failed(&error))?;
        let mut out = BufWriter::new(file);
        let length = u64::try_from(command.len()).unwrap_or(u64::MAX);
        out.write_all(&length.to_le_bytes())
            .and_then(|()| out.write_all(command))
            .map_err(|error| failed(&error))?;
        let mut rows = StreamWriter::try_new(out, &upload.schema)?;
        for batch in &upload.batches {
            rows.write(batch)?;
        }
        let out = rows.into_inner()?;
        let file = out.into_inner().map_err(|error| failed(&error))?;
        let place = self.place(command);
        file.persist(&place).map_err(|error| failed(&error))?;
        self.make_room(&place);
        Ok(())
    }

    /// Removes what is old, and the oldest of what is too much; never what has just come.
    fn make_room(&self, newest: &Path) {
        let mut files = self.files();
        files.sort_by_key(|file| file.since);
        let mut bytes: u64 = files.iter().map(|file| file.bytes).sum();
        for file in files {
            let too_much = bytes > self.limit && file.path != newest;
            if file.is_old() || too_much {
                bytes -= file.bytes;
                // Another process may have been quicker.
                let _ = fs::remove_file(&file.path);
            }
        }
    }

    fn files(&self) -> Vec<Waiting> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let file = |entry: fs::DirEntry| {
            let path = entry.path();
            let meta = entry.metadata().ok().filter(fs::Metadata::is_file)?;
            Some(Waiting {
                path,
                bytes: meta.len(),
                since: meta.modified().ok()?,
            })
        };
        entries.filter_map(file).collect()
    }

    fn open(&self, command: &[u8]) -> Result<Option<File>> {
        let mut file = match File::open(self.place(command)) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed(&error)),
        };
        let since = file.metadata().and_then(|meta| meta.modified());
        let is_old = since.is_ok_and(is_old);
        Ok((!is_old && command_of(&mut file).as_deref() == Some(command)).then_some(file))
    }

    fn read(&self, command: &[u8]) -> Result<Option<Upload>> {
        let Some(file) = self.open(command)? else {
            return Ok(None);
        };
        let rows = StreamReader::try_new(BufReader::new(file), None)?;
        let schema = rows.schema();
        let batches = rows.collect::<std::result::Result<_, _>>()?;
        Ok(Some(Upload { schema, batches }))
    }
}

struct Waiting {
    path: PathBuf,
    bytes: u64,
    since: SystemTime,
}

impl Waiting {
    fn is_old(&self) -> bool {
        is_old(self.since)
    }
}

fn is_old(since: SystemTime) -> bool {
    since.elapsed().is_ok_and(|age| age > PATIENCE)
}

/// The command a file begins with; the rows are next.
fn command_of(file: &mut File) -> Option<Bytes> {
    let mut length = [0; 8];
    file.read_exact(&mut length).ok()?;
    let length = usize::try_from(u64::from_le_bytes(length)).ok();
    let mut command = vec![0; length.filter(|&length| length <= LONGEST)?];
    file.read_exact(&mut command).ok()?;
    Some(command.into())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::internal(format!("work on an upload ended early: {error}")))?
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
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
        let batches = vec![RecordBatch::try_new(Arc::clone(&schema), vec![column]).unwrap()];
        Upload { schema, batches }
    }

    async fn rows(uploads: &Uploads, command: &Bytes) -> Option<usize> {
        let found = uploads.find(command.clone()).await.unwrap();
        found.map(|upload| upload.batches[0].num_rows())
    }

    #[tokio::test]
    async fn rows_are_found_again_by_anybody_and_the_oldest_make_room() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("uploads");
        let uploads = Uploads::new(place.clone(), 20_000);
        let names = ["a", "b", "c"].map(Bytes::from);
        for (age, name) in [30, 20, 10].into_iter().zip(&names) {
            uploads.keep(name.clone(), upload(1_000)).await.unwrap();
            // Files may be younger than a clock can tell.
            let file = File::options().write(true).open(uploads.place(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age))
                .unwrap();
        }
        uploads.keep(names[2].clone(), upload(9)).await.unwrap();
        let other = Uploads::new(place.clone(), 20_000);
        assert_eq!(rows(&other, &names[2]).await, Some(9));
        assert_eq!(rows(&other, &names[2]).await, Some(9), "twice");
        assert_eq!(rows(&other, &names[1]).await, Some(1_000));
        uploads.keep(Bytes::from("d"), upload(2_000)).await.unwrap();
        assert!(!uploads.has(names[0].clone()).await.unwrap(), "not all fit");
        assert!(uploads.has(Bytes::from("d")).await.unwrap());
        let file = File::options().write(true).open(uploads.place(b"d")).unwrap();
        file.set_modified(SystemTime::now() - 2 * PATIENCE).unwrap();
        assert_eq!(rows(&other, &Bytes::from("d")).await, None, "too late");
        uploads.keep(names[0].clone(), upload(1)).await.unwrap();
        assert!(!uploads.place(b"d").exists());
        assert_eq!(
            Uploads::new("/dev/null/x".into(), 1).commands().await.unwrap(),
            Vec::<Bytes>::new()
        );
    }
}
