//! Finds the definition files of a repository.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::error::{Error, Result};

/// Folders that hold no definitions, beside hidden ones.
const SKIPPED: [&str; 6] = [
    "node_modules",
    "__pycache__",
    "venv",
    "env",
    "target",
    "site-packages",
];
/// Feast's file of patterns to leave out, one a line.
const IGNORE_FILE: &str = ".feastignore";

/// What a repository holds.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// YAML files, sorted.
    pub(super) yaml: Vec<PathBuf>,
    pub(super) has_python: bool,
}

/// Walks the folder; `config` is no definition file, wherever it lies.
pub(super) fn find(repo: &Path, config: Option<&Path>) -> Result<Found> {
    let ignored: Vec<PathBuf> = fs::read_to_string(repo.join(IGNORE_FILE))
        .unwrap_or_default()
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .filter(|line| !line.is_empty())
        .map(|line| repo.join(line.trim_end_matches("/**").trim_end_matches('/')))
        .collect();
    let mut found = Found::default();
    walk(
        repo,
        &mut |path| {
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            if name == "feature_store.yaml" || config.is_some_and(|config| same(config, path)) {
                return;
            }
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("yaml" | "yml") => found.yaml.push(path.to_path_buf()),
                // Folders of Python modules have an empty one, which defines nothing.
                Some("py") => found.has_python |= path.metadata().is_ok_and(|file| file.len() > 0),
                _ => {}
            }
        },
        &ignored,
    )?;
    found.yaml.sort();
    Ok(found)
}

fn same(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

fn walk(folder: &Path, visit: &mut dyn FnMut(&Path), ignored: &[PathBuf]) -> Result<()> {
    let unreadable = |error: std::io::Error| {
        Error::config(format!("folder `{}` cannot be read: {error}", folder.display()))
    };
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let path = entry.path();
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') || SKIPPED.contains(&name.as_ref()) || ignored.contains(&path) {
            continue;
        }
        // Links to folders could lead in circles, so only real folders are entered.
        let kind = entry.file_type().map_err(unreadable)?;
        if kind.is_dir() {
            walk(&path, visit, ignored)?;
        } else {
            visit(&path);
        }
    }
    Ok(())
}
