//! `thali export`: the registry's objects as definition files, whoever registered them.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use super::{Global, Outcome, output};
use crate::{definitions, error::Error, model::ObjectKind};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Another project of the same registry
    #[arg(short, long, value_name = "NAME")]
    project: Option<String>,
}

pub(super) async fn run(global: &Global, arguments: &Arguments) -> Outcome {
    let (context, _telemetry) = global.open("warn").await?;
    let project = arguments.project.as_ref().unwrap_or(&context.config.project);
    let catalog = context.registry.fresh_catalog(project).await?;
    if ObjectKind::ALL
        .iter()
        .all(|kind| catalog.objects(*kind).is_empty())
    {
        return Err(ObjectKind::Project.not_found(project, project));
    }
    let objects = ObjectKind::ALL
        .into_iter()
        .flat_map(|kind| catalog.objects(kind))
        .map(AsRef::as_ref);
    let text = definitions::export(project, objects)?;
    match &arguments.output {
        None => output::line(format_args!("{}", text.trim_end())),
        Some(path) => {
            std::fs::write(path, text).map_err(|error| {
                Error::invalid(format!("`{}` cannot be written: {error}", path.display()))
            })?;
            output::line(format_args!("Wrote {}", path.display()));
        }
    }
    Ok(ExitCode::SUCCESS)
}
