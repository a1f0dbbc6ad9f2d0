//! Finds and reads `feature_store.yaml` by Feast's rules (`feast/cli/cli_utils.py`).

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::Engine as _;

use super::{
    expand::expand,
    problem::{Problem, Problems},
};

/// Where configuration comes from; later ones win. The environment is handed in, so that tests need no
/// state of the process.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// `-c/--chdir`; the working directory without it.
    pub chdir: Option<PathBuf>,
    /// `-f/--feature-store-yaml`.
    pub file: Option<PathBuf>,
    pub env: BTreeMap<String, String>,
    /// Dotted keys and values of `--set KEY=VALUE`.
    pub flags: Vec<(String, String)>,
}

/// Feast's variable for `--chdir` (the name is a slip of Feast's that users rely on).
const CHDIR_VARIABLE: &str = "FEATURE_REPO_DIR_ENV_VAR";
const FILE_VARIABLE: &str = "FEAST_FS_YAML_FILE_PATH";
const BASE64_VARIABLE: &str = "FEATURE_STORE_YAML_BASE64";
const FILE_NAME: &str = "feature_store.yaml";

/// The text to parse and where it was found.
pub(super) struct Found {
    pub(super) repo_path: PathBuf,
    pub(super) file: Option<PathBuf>,
    /// The file as the user would name it.
    pub(super) name: Arc<str>,
    /// With variables replaced.
    pub(super) text: String,
}

impl Sources {
    /// What the process was started with.
    pub fn from_process(chdir: Option<PathBuf>, file: Option<PathBuf>, flags: Vec<(String, String)>) -> Self {
        let env = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self {
            chdir,
            file,
            env,
            flags,
        }
    }

    /// The directory that relative paths start from.
    pub fn repo_path(&self) -> PathBuf {
        let variable = || {
            self.env
                .get(CHDIR_VARIABLE)
                .filter(|dir| !dir.is_empty())
                .map(PathBuf::from)
        };
        let directory = self
            .chdir
            .clone()
            .or_else(variable)
            .unwrap_or_else(|| PathBuf::from("."));
        std::path::absolute(&directory).unwrap_or(directory)
    }

    /// The file that would be read.
    pub fn yaml_path(&self) -> PathBuf {
        let variable = || {
            self.env
                .get(FILE_VARIABLE)
                .filter(|file| !file.is_empty())
                .map(PathBuf::from)
        };
        self.file
            .clone()
            .or_else(variable)
            .unwrap_or_else(|| self.repo_path().join(FILE_NAME))
    }

    /// The file that would be read, when it is not there.
    pub(crate) fn missing_file(&self) -> Option<PathBuf> {
        let encoded = self.env.get(BASE64_VARIABLE).is_some_and(|text| !text.is_empty());
        let path = self.yaml_path();
        (!encoded && !path.exists()).then_some(path)
    }

    pub(super) fn find(&self) -> Result<Found, Problems> {
        let repo_path = self.repo_path();
        if let Some(encoded) = self.env.get(BASE64_VARIABLE).filter(|text| !text.is_empty()) {
            return self.decode(repo_path, encoded);
        }
        let path = self.yaml_path();
        let name: Arc<str> = Arc::from(display(&path));
        let text = std::fs::read_to_string(&path).map_err(|error| {
            let problem = if error.kind() == std::io::ErrorKind::NotFound {
                Problem::error("there is no such file")
                    .hint("go to a feature repository, name one with `-c DIR`, or make one with `thali init`")
            } else {
                Problem::error(format!("cannot be read: {error}"))
            };
            Problems(vec![problem.in_file(&name)])
        })?;
        Ok(Found {
            repo_path,
            file: Some(path),
            name,
            text: expand(&text, &self.env),
        })
    }

    fn decode(&self, repo_path: PathBuf, encoded: &str) -> Result<Found, Problems> {
        let name: Arc<str> = Arc::from(BASE64_VARIABLE);
        let compact: String = encoded.split_whitespace().collect();
        let bytes = base64::engine::general_purpose::STANDARD.decode(compact).ok();
        let Some(text) = bytes.and_then(|bytes| String::from_utf8(bytes).ok()) else {
            let problem = Problem::error("does not hold base64 of UTF-8 text");
            return Err(Problems(vec![problem.in_file(&name)]));
        };
        Ok(Found {
            repo_path,
            file: None,
            name,
            text: expand(&text, &self.env),
        })
    }
}

/// The path from the working directory when that is shorter.
pub(crate) fn display(path: &Path) -> String {
    let relative = std::env::current_dir()
        .ok()
        .and_then(|here| path.strip_prefix(here).ok().map(Path::to_path_buf));
    relative
        .filter(|path| !path.as_os_str().is_empty())
        .unwrap_or_else(|| path.to_path_buf())
        .display()
        .to_string()
}
