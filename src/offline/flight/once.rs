//! [`Marks`]: the markers of writes that are to happen once, a file for each, called by the write's own name.
//!
//! They lie beside the uploads, in `thali.offline.upload_folder`: processes that stand for one another share it.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use uuid::Uuid;

use super::beyond::REMEMBERED;
use crate::error::{Error, Result};

/// How often it is looked for those that are old.
const LOOK: Duration = Duration::from_secs(3600);
/// They are kept for longer than clients count on.
const KEPT: Duration = REMEMBERED.saturating_add(Duration::from_secs(24 * 3600));

/// See the module. Cloning is cheap.
#[derive(Debug, Clone)]
pub(super) struct Marks {
    folder: PathBuf,
    looked: Arc<Mutex<Option<Instant>>>,
}

/// The marker of one write, which nobody else works on as long as this is held.
#[derive(Debug)]
pub(super) struct Mark {
    path: PathBuf,
    _lock: File,
}

impl Mark {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Marks {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            looked: Arc::default(),
        }
    }

    /// The marker of a write.
    ///
    /// # Errors
    /// `Unavailable` when the same write is being worked on, or the folder cannot be written to.
    pub(super) async fn hold(&self, write: Uuid) -> Result<Mark> {
        let this = self.clone();
        let held = tokio::task::spawn_blocking(move || this.held(write)).await;
        held.map_err(|error| Error::internal(format!("marking a write ended early: {error}")))?
    }

    fn held(&self, write: Uuid) -> Result<Mark> {
        let failed = |error: std::io::Error| {
            Error::unavailable(format!(
                "a write cannot be marked in `{}`: {error}",
                self.folder.display()
            ))
            .hint("`thali.offline.upload_folder` names a folder this process may write to")
        };
        fs::create_dir_all(&self.folder).map_err(failed)?;
        self.make_room();
        let path = self.folder.join(write.simple().to_string());
        let mut options = File::options();
        let options = options.create(true).truncate(false).write(true);
        let lock = options.open(path.with_extension("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Mark { path, _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => {
                Err(Error::unavailable("the same rows are being written already").hint("try again later"))
            }
            Err(fs::TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// Removes what nobody asks for any more.
    fn make_room(&self) {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.is_some_and(|looked| looked.elapsed() < LOOK) {
            return;
        }
        *looked = Some(Instant::now());
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let since = entry.metadata().and_then(|meta| meta.modified());
            if since.is_ok_and(is_old) {
                // Another process may have been quicker.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

fn is_old(since: SystemTime) -> bool {
    since.elapsed().is_ok_and(|age| age > KEPT)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[tokio::test]
    async fn a_write_has_one_marker_that_one_holds_at_a_time_and_old_ones_go() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("once");
        let (marks, other) = (Marks::new(place.clone()), Marks::new(place.clone()));
        let (one, two) = (Uuid::now_v7(), Uuid::now_v7());
        let held = marks.hold(one).await.unwrap();
        fs::write(held.path(), "done").unwrap();
        assert_eq!(other.hold(one).await.unwrap_err().kind(), Kind::Unavailable);
        assert_ne!(other.hold(two).await.unwrap().path(), held.path());
        drop(held);
        let held = other.hold(one).await.unwrap();
        assert_eq!(fs::read_to_string(held.path()).unwrap(), "done");
        let file = File::options().write(true).open(held.path()).unwrap();
        file.set_modified(SystemTime::now() - 2 * KEPT).unwrap();
        let later = Marks::new(place);
        later.hold(two).await.unwrap();
        assert!(!held.path().exists(), "it is too old to be asked for");
    }
}
