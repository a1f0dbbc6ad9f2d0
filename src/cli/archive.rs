//! `thali registry export | import` and `thali backup | restore`: projects as one file, from and into any
//! registry.

use std::{
    fs::File,
    io::{BufReader, BufWriter, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;

use super::{Global, Outcome, output};
use crate::{
    context::Context,
    error::{Error, Result},
    online::rows::served,
    registry::archive::{Archive, Existing},
    schedule::ledger::RunFilter,
};

#[derive(Debug, Args)]
pub(super) struct ExportArguments {
    /// The file to write; `-` is standard output
    file: PathBuf,
    /// A project to export (repeatable); by default the one of feature_store.yaml
    #[arg(short, long = "project", value_name = "PROJECT")]
    projects: Vec<String>,
    /// Every project of the registry
    #[arg(long, conflicts_with = "projects")]
    all: bool,
}

#[derive(Debug, Args)]
pub(super) struct ImportArguments {
    /// The file to read; `-` is standard input
    file: PathBuf,
    /// Put the archive in the place of projects that exist
    #[arg(long)]
    replace: bool,
}

#[derive(Debug, Args)]
pub(super) struct BackupArguments {
    /// The file to write; `-` is standard output
    file: PathBuf,
}

impl ExportArguments {
    pub(super) async fn run(self, global: &Global) -> Outcome {
        let (context, _telemetry) = global.open("warn").await?;
        let projects = match (self.all, self.projects.is_empty()) {
            (true, _) => context.registry.projects().await?,
            (false, true) => vec![context.config.project.clone()],
            (false, false) => self.projects,
        };
        let archive = take(&context, &projects).await?;
        write(&archive, &self.file)?;
        tell("Exported", &archive, &self.file);
        Ok(ExitCode::SUCCESS)
    }
}

impl BackupArguments {
    /// Every project, its history and its runs.
    pub(super) async fn run(self, global: &Global) -> Outcome {
        let (context, _telemetry) = global.open("warn").await?;
        let projects = context.registry.projects().await?;
        let mut archive = take(&context, &projects).await?;
        for project in &mut archive.projects {
            let filter = RunFilter {
                project: Some(project.name.clone()),
                limit: u32::MAX,
                ..RunFilter::default()
            };
            let runs = context.ledger.runs(&filter).await?;
            project.runs = runs.iter().filter_map(|run| run.archived()).collect();
        }
        write(&archive, &self.file)?;
        tell("Backed up", &archive, &self.file);
        Ok(ExitCode::SUCCESS)
    }
}

impl ImportArguments {
    /// Restores whatever the archive holds: an export has no runs, a backup has.
    pub(super) async fn run(self, global: &Global) -> Outcome {
        let archive = read(&self.file)?;
        let (context, _telemetry) = global.open("warn").await?;
        let existing = if self.replace {
            Existing::Replace
        } else {
            Existing::Refuse
        };
        let author = super::author("import");
        context.registry.import(&archive, existing, &author).await?;
        for project in &archive.projects {
            context.ledger.restore(&project.name, &project.runs).await?;
            let catalog = context.registry.fresh_catalog(&project.name).await?;
            let views = served(&catalog);
            let provisioned = context.online.provision(&project.name, &views, &[]).await;
            provisioned.map_err(|error| {
                error
                    .context("the registry is restored, but the online store could not follow")
                    .hint("apply or materialize again when the online store can be written")
            })?;
        }
        tell("Imported", &archive, &self.file);
        Ok(ExitCode::SUCCESS)
    }
}

async fn take(context: &Context, projects: &[String]) -> Result<Archive> {
    let mut archive = Archive::default();
    for project in projects {
        archive.projects.push(context.registry.archive(project).await?);
    }
    Ok(archive)
}

fn is_stream(file: &Path) -> bool {
    file.as_os_str() == "-"
}

/// The whole archive or no file at all: it is written beside and renamed.
fn write(archive: &Archive, file: &Path) -> Result<()> {
    let failed =
        |error: std::io::Error| Error::unavailable(format!("cannot write `{}`: {error}", file.display()));
    if is_stream(file) {
        let stdout = std::io::stdout();
        if stdout.is_terminal() {
            return Err(Error::invalid("an archive is not for a terminal").hint("give a file, or redirect"));
        }
        let mut target = BufWriter::new(stdout.lock());
        archive.write(&mut target)?;
        return target.flush().map_err(failed);
    }
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut beside = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    let mut target = BufWriter::new(&mut beside);
    archive.write(&mut target)?;
    target.flush().map_err(failed)?;
    drop(target);
    beside.as_file().sync_all().map_err(failed)?;
    beside.persist(file).map_err(|error| failed(error.error))?;
    Ok(())
}

fn read(file: &Path) -> Result<Archive> {
    if is_stream(file) {
        return Archive::read(&mut std::io::stdin().lock());
    }
    let opened = File::open(file)
        .map_err(|error| Error::invalid(format!("cannot read `{}`: {error}", file.display())))?;
    Archive::read(&mut BufReader::new(opened)).map_err(|error| error.context(format!("`{}`", file.display())))
}

fn tell(what: &str, archive: &Archive, file: &Path) {
    for project in &archive.projects {
        output::note(format_args!(
            "{what} project {}: {} objects, {} versions, {} entries of history, {} runs",
            project.name,
            project.objects.len(),
            project.versions.len(),
            project.history.len(),
            project.runs.len(),
        ));
    }
    if archive.projects.is_empty() {
        output::note(format_args!("`{}`: no project", file.display()));
    }
}
