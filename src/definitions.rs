//! Declarative definitions: the YAML files of a repository folder, read into the same registry objects
//! that Feast's SDK makes of Python ones, and written from a registry again. Nothing is applied here.

mod build;
mod export;
mod files;
mod python;
mod reader;
mod syntax;
mod types;

use std::{cell::RefCell, path::Path, sync::Arc};

use crate::{
    config::{Config, locate, problem::Problems, yaml},
    error::{Error, Result},
    model::Object,
    offline::store::OfflineStore,
};
use build::Schemas;
pub use export::export;
use reader::File;
use syntax::Document;

/// The tag that holds a feature view's schedule.
pub const SCHEDULE_TAG: &str = "thali.schedule";

/// Whether sources are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validation {
    /// Columns are checked, and types inferred where they are left out.
    Sources,
    /// Nothing is read; every schema must be written out.
    Skipped,
}

/// The definitions of a repository, parsed but not yet looked up.
#[derive(Debug)]
pub struct Definitions {
    document: Document,
    /// How many files were read.
    pub files: usize,
    /// Whether the repository holds Python files, which thali does not run.
    pub has_python: bool,
}

impl Definitions {
    /// Reads every definition file of the repository of `config`.
    ///
    /// # Errors
    /// Every problem of every file, when there is one.
    pub fn read(config: &Config) -> Result<Self> {
        let found = files::find(&config.repo_path, config.file.as_deref())?;
        let mut document = Document::default();
        let mut problems = Problems::default();
        for path in &found.yaml {
            let name: Arc<str> = Arc::from(short(&config.repo_path, path));
            let text = std::fs::read_to_string(path)
                .map_err(|error| Error::config(format!("`{name}` cannot be read: {error}")))?;
            read_file(&mut document, name, &text, &mut problems);
        }
        if problems.has_errors() {
            problems.sort();
            return Err(problems.into());
        }
        Ok(Self {
            document,
            files: found.yaml.len(),
            has_python: found.has_python,
        })
    }

    /// Reads one text, for tests and for checking what is exported.
    ///
    /// # Errors
    /// Every problem of it.
    pub fn from_text(name: &str, text: &str) -> Result<Self, Problems> {
        let mut document = Document::default();
        let mut problems = Problems::default();
        read_file(&mut document, Arc::from(name), text, &mut problems);
        if problems.has_errors() {
            return Err(problems);
        }
        Ok(Self {
            document,
            files: 1,
            has_python: false,
        })
    }

    /// What to tell a user whose repository defines nothing that thali reads.
    pub fn nothing_defined(&self) -> Option<Error> {
        let document = &self.document;
        let empty = document.entities.is_empty()
            && document.data_sources.is_empty()
            && document.feature_views.is_empty()
            && document.protos.is_empty()
            && document.project.is_none();
        let hint = if self.has_python {
            "its definitions are Python: start `thali serve`, and run `feast apply` there with \
             `registry: {registry_type: remote, path: localhost:6570}`"
        } else {
            "`thali init` writes an example"
        };
        empty.then(|| Error::config("there are no YAML definitions in this repository").hint(hint))
    }

    /// The registry objects they mean, in apply order, the project and Feast's dummy entity among them.
    ///
    /// # Errors
    /// Every problem found: names that are not defined, columns that are not there.
    pub async fn resolve(
        &self,
        project: &str,
        offline: &dyn OfflineStore,
        validation: Validation,
    ) -> Result<Vec<Object>> {
        let mut problems = Problems::default();
        let schemas = match validation {
            Validation::Skipped => Schemas::new(),
            Validation::Sources => self.schemas(offline, &mut problems).await,
        };
        match build::build(project, &self.document, &schemas) {
            Ok(objects) if !problems.has_errors() => Ok(objects),
            Ok(_) => Err(problems.into()),
            Err(more) => {
                problems.0.extend(more.0);
                problems.sort();
                Err(problems.into())
            }
        }
    }

    /// The columns of every source that has some; one that cannot be read is a problem at its definition.
    async fn schemas(&self, offline: &dyn OfflineStore, problems: &mut Problems) -> Schemas {
        let mut schemas = Schemas::new();
        for definition in &self.document.data_sources {
            let Some(source) = build::readable_source(definition) else {
                continue;
            };
            let name = &definition.name;
            match offline.schema(&source).await {
                Ok(schema) => _ = schemas.insert(name.text.clone(), schema),
                Err(error) => {
                    let text = format!("data source `{}`: {}", name.text, error.one_line());
                    problems.push(name.place.error(text));
                }
            }
        }
        schemas
    }
}

fn read_file(document: &mut Document, name: Arc<str>, text: &str, problems: &mut Problems) {
    let file = File {
        name,
        problems: RefCell::default(),
    };
    match yaml::parse(text) {
        Ok(root) => document.read(&file, &root),
        Err(problem) => file.report(problem),
    }
    problems.0.extend(file.problems.into_inner().0);
}

/// The path as a user in the repository would name it.
fn short(repo: &Path, path: &Path) -> String {
    path.strip_prefix(repo)
        .map_or_else(|_| locate::display(path), |path| path.display().to_string())
}

#[cfg(test)]
mod tests;
