//! [`LocalPlace`]: a registry file on local disk. It is replaced so that at every instant, also after a
//! crash or on a full disk, either the old or the new content is there; a lock keeps writers of many
//! processes apart. Feast writes the same file in place and without a lock, which readers here outlast.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;

use super::place::{Lock, Look, Mark, Place, Replaced};
use crate::error::{Error, Result};

const TEMPORARY_SUFFIX: &str = ".tmp";

/// A file changed this recently may change again without a new mark: the clock of file times has ticks.
const TICK: Duration = Duration::from_millis(50);
/// The same for file systems that keep whole seconds.
const COARSE_TICK: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct LocalPlace {
    name: String,
    path: Arc<Path>,
}

impl LocalPlace {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            name: path.display().to_string(),
            path: path.into(),
        }
    }

    /// Runs file access where it may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
        failed: impl FnOnce(&str, io::Error) -> Error,
    ) -> Result<T> {
        let path = Arc::clone(&self.path);
        match tokio::task::spawn_blocking(move || work(&path)).await {
            Ok(done) => done.map_err(|error| failed(&self.name, error)),
            Err(error) => {
                Err(Error::internal("access to the registry file was interrupted").source_error(error))
            }
        }
    }
}

#[async_trait]
impl Place for LocalPlace {
    fn name(&self) -> &str {
        &self.name
    }

    async fn look(&self, known: Option<&Mark>) -> Result<Look> {
        let known = known.map(|mark| mark.text().to_owned());
        let look = move |path: &Path| match fs::metadata(path) {
            Ok(metadata) if known.is_some_and(|known| known == mark_text(&metadata)) => Ok(Some(Look::Same)),
            Ok(_) => read(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Some(Look::Missing)),
            Err(error) => Err(error),
        };
        let found = self.blocking(look, unreadable).await?;
        found.ok_or_else(|| {
            Error::unavailable(format!(
                "registry file `{}` is being rewritten without pause",
                self.name
            ))
        })
    }

    async fn present_mark(&self) -> Result<Option<Mark>> {
        Ok(None)
    }

    fn has_exact_marks(&self) -> bool {
        false
    }

    async fn lock(&self) -> Result<Lock> {
        let lock = self.blocking(|path| Target::of(path).lock(), unwritable).await?;
        Ok(Box::new(lock))
    }

    async fn replace(&self, content: Bytes, expected: Option<&Mark>) -> Result<Replaced> {
        let expected = expected.map(|mark| mark.text().to_owned());
        let replace = move |path: &Path| {
            let target = Target::of(path);
            target.remove_leftovers()?;
            let temporary = target.temporary(|file| file.write_all(&content))?;
            // Feast takes no lock: this leaves it only the blink of an eye to be overwritten in.
            let present = match fs::metadata(&target.path) {
                Ok(metadata) => Some(mark_text(&metadata)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
            if present != expected {
                return Ok(Replaced::Lost);
            }
            let metadata = target.put(temporary)?;
            Ok(Replaced::Done(mark(&metadata, SystemTime::now())))
        };
        self.blocking(replace, unwritable).await
    }

    async fn list(&self, folder: &str) -> Result<Vec<String>> {
        let folder = folder.to_owned();
        let list = move |path: &Path| {
            let entries = match fs::read_dir(side_path(path, &folder)) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                Err(error) => return Err(error),
            };
            let mut names = Vec::new();
            for entry in entries {
                // Temporary files and names that are not ours begin with a dot or are no text.
                if let Ok(name) = entry?.file_name().into_string()
                    && !name.starts_with('.')
                {
                    names.push(name);
                }
            }
            Ok(names)
        };
        self.blocking(list, history_unreadable).await
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>> {
        let name = name.to_owned();
        let get = move |path: &Path| match fs::read(side_path(path, &name)) {
            Ok(content) => Ok(Some(content.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        self.blocking(get, history_unreadable).await
    }

    async fn put(&self, name: &str, content: Bytes) -> Result<()> {
        let name = name.to_owned();
        let put = move |path: &Path| {
            let target = Target::at(side_path(path, &name));
            if !target.directory.exists() {
                fs::create_dir_all(&target.directory)?;
                // The new folders themselves have to outlast a crash of the machine.
                for folder in target.directory.ancestors().skip(1).take(3) {
                    File::open(folder)?.sync_all()?;
                }
            }
            remove_temporary(&target.directory, &target.temporary_prefix())?;
            let temporary = target.temporary(|file| file.write_all(&content))?;
            target.put(temporary).map(drop)
        };
        self.blocking(put, history_unwritable).await
    }

    async fn remove(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        let remove = move |path: &Path| match fs::remove_file(side_path(path, &name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        self.blocking(remove, history_unwritable).await
    }
}

/// Where the file at `path` really lies, so that a link to a registry stays a link.
fn real_path(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Side objects lie in a folder named after the file.
fn side_path(path: &Path, name: &str) -> PathBuf {
    let mut folder = real_path(path).into_os_string();
    folder.push(".history");
    Path::new(&folder).join(name)
}

/// What the file system tells about a file's content without reading it.
fn mark_text(metadata: &fs::Metadata) -> String {
    let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
    format!("{}-{}-{seconds}.{nanoseconds:09}", metadata.ino(), metadata.len())
}

fn mark(metadata: &fs::Metadata, taken: SystemTime) -> Mark {
    let tick = if metadata.mtime_nsec() == 0 {
        COARSE_TICK
    } else {
        TICK
    };
    let modified = metadata.modified().unwrap_or(taken);
    let mut mark = Mark::new(Some(mark_text(metadata)), None);
    mark.is_certain = taken.duration_since(modified).is_ok_and(|age| age > tick);
    mark
}

/// `None` when the file never stood still.
fn read(path: &Path) -> io::Result<Option<Look>> {
    // Feast overwrites in place: read again when the file changed under the read.
    for _ in 0..16 {
        let taken = SystemTime::now();
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(Look::Missing)),
            Err(error) => return Err(error),
        };
        let before = file.metadata()?;
        let mut content = Vec::with_capacity(usize::try_from(before.len()).unwrap_or_default());
        file.read_to_end(&mut content)?;
        let after = file.metadata()?;
        if mark_text(&before) == mark_text(&after) && content.len() as u64 == after.len() {
            return Ok(Some(Look::Content(mark(&after, taken), content.into())));
        }
    }
    Ok(None)
}

/// A file to be replaced as a whole.
#[derive(Debug)]
struct Target {
    path: PathBuf,
    directory: PathBuf,
}

impl Target {
    fn of(path: &Path) -> Self {
        Self::at(real_path(path))
    }

    fn at(path: PathBuf) -> Self {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        Self { path, directory }
    }

    /// Waits until no other writer is at work on the file; the system gives the lock back even after
    /// kill -9. Makes the file's directory if there is none.
    fn lock(&self) -> io::Result<File> {
        fs::create_dir_all(&self.directory)?;
        let mut name = self.path.clone().into_os_string();
        name.push(".lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(name)?;
        lock.lock()?;
        Ok(lock)
    }

    /// A new file beside this one, on disk; it is removed on every early return.
    fn temporary(
        &self,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> io::Result<tempfile::NamedTempFile> {
        let present = fs::metadata(&self.path).map(|metadata| metadata.permissions());
        let mut temporary = tempfile::Builder::new()
            .prefix(&self.temporary_prefix())
            .suffix(TEMPORARY_SUFFIX)
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(&self.directory)?;
        if let Ok(permissions) = present {
            temporary.as_file().set_permissions(permissions)?;
        }
        write(temporary.as_file_mut())?;
        temporary.as_file().sync_all()?;
        Ok(temporary)
    }

    /// Puts the new file in place of this one.
    fn put(&self, temporary: tempfile::NamedTempFile) -> io::Result<fs::Metadata> {
        let metadata = temporary.as_file().metadata()?;
        temporary.persist(&self.path).map_err(|error| error.error)?;
        File::open(&self.directory)?.sync_all()?;
        Ok(metadata)
    }

    fn temporary_prefix(&self) -> OsString {
        let mut prefix = OsString::from(".");
        prefix.push(self.path.file_name().unwrap_or_default());
        prefix.push(".");
        prefix
    }

    /// Removes what a writer that was killed left behind; nobody else writes while the lock is held.
    fn remove_leftovers(&self) -> io::Result<()> {
        remove_temporary(&self.directory, &self.temporary_prefix())?;
        let history = side_path(&self.path, "");
        remove_temporary(&history.join("pending"), OsStr::new("."))
    }
}

fn remove_temporary(directory: &Path, prefix: &OsStr) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let name = entry?.file_name();
        let bytes = name.as_encoded_bytes();
        if bytes.starts_with(prefix.as_encoded_bytes()) && bytes.ends_with(TEMPORARY_SUFFIX.as_bytes()) {
            fs::remove_file(directory.join(&name))?;
        }
    }
    Ok(())
}

fn unreadable(name: &str, error: io::Error) -> Error {
    Error::unavailable(format!("registry file `{name}` cannot be read: {error}")).source_error(error)
}

fn unwritable(name: &str, error: io::Error) -> Error {
    let hint = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free some space; nothing was changed",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "the directory has to be writable, because the file is replaced as a whole; nothing was changed"
        }
        _ => "nothing was changed",
    };
    Error::unavailable(format!("registry file `{name}` cannot be written: {error}"))
        .hint(hint)
        .source_error(error)
}

fn history_unreadable(name: &str, error: io::Error) -> Error {
    Error::unavailable(format!("the history in `{name}.history` cannot be read: {error}")).source_error(error)
}

fn history_unwritable(name: &str, error: io::Error) -> Error {
    Error::unavailable(format!(
        "the history in `{name}.history` cannot be written: {error}"
    ))
    .hint("each change is recorded there; free some space or make it writable")
    .source_error(error)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn replace(target: &Target, content: &[u8]) {
        target.remove_leftovers().unwrap();
        let temporary = target.temporary(|file| file.write_all(content)).unwrap();
        target.put(temporary).unwrap();
    }

    #[test]
    fn a_full_disk_leaves_the_old_content_and_no_rubbish() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registry.db");
        fs::write(&path, "old").unwrap();
        let target = Target::of(&path);
        let full = target.temporary(|file| {
            file.write_all(b"ne")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert_eq!(full.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        replace(&target, b"new");
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_killed_writers_temporary_file_is_cleared_away() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registry.db");
        let pending = side_path(&path, "pending");
        fs::create_dir_all(&pending).unwrap();
        let leftovers = [
            directory.path().join(".registry.db.abc123.tmp"),
            pending.join(".someones.abc123.tmp"),
        ];
        let unrelated = directory.path().join("registry.db.backup.tmp");
        for file in leftovers.iter().chain([&unrelated]) {
            fs::write(file, "half").unwrap();
        }
        replace(&Target::of(&path), b"whole");
        assert!(!leftovers.iter().any(|file| file.exists()));
        assert!(unrelated.exists());
    }

    #[test]
    fn links_and_permissions_stay() {
        let directory = tempfile::tempdir().unwrap();
        let real = directory.path().join("real.db");
        let link = directory.path().join("registry.db");
        fs::write(&real, "old").unwrap();
        fs::set_permissions(&real, Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        replace(&Target::of(&link), b"new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&real).unwrap(), b"new");
        assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
    }

    #[tokio::test]
    async fn a_write_in_between_is_not_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registry.db");
        fs::write(&path, "one").unwrap();
        let place = LocalPlace::new(path.clone());
        let Look::Content(mark, _) = place.look(None).await.unwrap() else {
            unreachable!("there is a file");
        };
        fs::write(&path, "another").unwrap();
        let lost = place.replace("mine".into(), Some(&mark)).await.unwrap();
        assert!(matches!(lost, Replaced::Lost));
        let lost = place.replace("mine".into(), None).await.unwrap();
        assert!(matches!(lost, Replaced::Lost));
        assert_eq!(fs::read(&path).unwrap(), b"another");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
