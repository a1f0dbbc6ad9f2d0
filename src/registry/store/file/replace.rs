//! Replacing a file so that at every instant, also after a crash or on a full disk, either the old or
//! the new content is there; and the lock that keeps writers of many processes apart.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::real_path;

const TEMPORARY_SUFFIX: &str = ".tmp";

/// The exclusive right to replace one file; given back when dropped, by the system even after kill -9.
#[derive(Debug)]
pub(super) struct WriteLock {
    target: PathBuf,
    directory: PathBuf,
    _locked: File,
}

impl WriteLock {
    /// Waits until no other writer is at work on the file. Makes its directory if there is none.
    pub(super) fn take(path: &Path) -> io::Result<Self> {
        let target = real_path(path);
        let directory = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        fs::create_dir_all(&directory)?;
        let mut name = target.clone().into_os_string();
        name.push(".lock");
        let locked = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(name)?;
        locked.lock()?;
        Ok(Self {
            target,
            directory,
            _locked: locked,
        })
    }

    /// Puts `content` in place of the file's and answers the new file's metadata.
    pub(super) fn replace(&self, content: &[u8]) -> io::Result<fs::Metadata> {
        self.replace_with(|file| file.write_all(content))
    }

    fn replace_with(&self, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<fs::Metadata> {
        self.remove_leftovers()?;
        let mode = fs::metadata(&self.target).map_or(0o666, |metadata| metadata.permissions().mode());
        // The file is removed on every early return.
        let mut temporary = tempfile::Builder::new()
            .prefix(&self.temporary_prefix())
            .suffix(TEMPORARY_SUFFIX)
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(&self.directory)?;
        if self.target.exists() {
            temporary
                .as_file()
                .set_permissions(Permissions::from_mode(mode))?;
        }
        write(temporary.as_file_mut())?;
        temporary.as_file().sync_all()?;
        let metadata = temporary.as_file().metadata()?;
        temporary.persist(&self.target).map_err(|error| error.error)?;
        File::open(&self.directory)?.sync_all()?;
        Ok(metadata)
    }

    fn temporary_prefix(&self) -> OsString {
        let mut prefix = OsString::from(".");
        prefix.push(self.target.file_name().unwrap_or_default());
        prefix.push(".");
        prefix
    }

    /// Removes what a writer that was killed left behind; nobody else writes while the lock is held.
    fn remove_leftovers(&self) -> io::Result<()> {
        let prefix = self.temporary_prefix();
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            let bytes = name.as_encoded_bytes();
            if bytes.starts_with(prefix.as_encoded_bytes()) && bytes.ends_with(TEMPORARY_SUFFIX.as_bytes()) {
                fs::remove_file(self.directory.join(&name))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_leaves_the_old_content_and_no_rubbish() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registry.db");
        fs::write(&path, "old").unwrap();
        let lock = WriteLock::take(&path).unwrap();
        let full = lock.replace_with(|file| {
            file.write_all(b"ne")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert_eq!(full.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        let left: Vec<_> = fs::read_dir(directory.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(left.len(), 2, "only the file and its lock: {left:?}");
        lock.replace(b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_killed_writers_temporary_file_is_cleared_away() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registry.db");
        let leftover = directory.path().join(".registry.db.abc123.tmp");
        let unrelated = directory.path().join("registry.db.backup.tmp");
        fs::write(&leftover, "half").unwrap();
        fs::write(&unrelated, "mine").unwrap();
        WriteLock::take(&path).unwrap().replace(b"whole").unwrap();
        assert!(!leftover.exists());
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
        WriteLock::take(&link).unwrap().replace(b"new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&real).unwrap(), b"new");
        assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
    }
}
