//! Files that outlast a crash of the machine: written beside their place and renamed, each step seen onto the
//! disk before the next. It knows nothing of what is in them.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

/// Puts a file with this content in its place: whatever happens, there is the old one, or none, or all of it.
///
/// # Errors
/// Those of the file system; the file in place is then the one before.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let fresh = path.with_added_extension("tmp");
    let mut file = File::create(&fresh)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    sync_folder(path)
}

/// Sees the names in the folder of a file onto the disk.
///
/// # Errors
/// Those of the file system.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("marker");
        for content in ["a longer text", "a text"] {
            replace(&path, content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(replace(&folder.path().join("none/marker"), b"").is_err());
    }
}
