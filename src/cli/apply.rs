//! `thali apply`: the registry becomes what the repository says, and the online store follows.

use std::process::ExitCode;

use clap::Args;

use super::{
    Global, Outcome, output,
    repository::{self, Options, Planned, Tables, Told},
};
use crate::{
    context::Context,
    error::{Error, Result},
    registry::apply::{Applied, Outcome as Change},
};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    options: Options,
    /// There is no progress bar to leave out
    #[arg(long, hide = true)]
    no_progress: bool,
    /// Keep the active versions of views
    #[arg(long, hide = true)]
    no_promote: bool,
}

pub(super) async fn run(global: &Global, arguments: &Arguments) -> Outcome {
    if arguments.no_promote {
        return Err(Error::invalid(
            "`--no-promote` is not supported: a new version of a view is always active",
        )
        .hint("run `apply --no-promote` of Feast's SDK against this registry (`registry_type: remote`)"));
    }
    let (context, _telemetry) = global.open("warn").await?;
    apply(&context, &arguments.options).await?;
    Ok(ExitCode::SUCCESS)
}

/// Plans, applies and provisions; prints what was done in Feast's words.
pub(super) async fn apply(context: &Context, options: &Options) -> Result<()> {
    let Planned { plan, served } = repository::plan(context, options).await?;
    let project = &plan.project;
    output::line(format_args!("Applying changes for project {project}"));
    let before = context.registry.catalog(project).await?;
    let report = context.registry.execute(&plan, &super::author("apply")).await?;
    let after = context.registry.catalog(project).await?;
    let tables = Tables::between(&before, &served, &plan.changes);
    // Also when nothing has changed: an earlier apply may have been cut off before this.
    repository::provision(context, &after, &tables.dropped).await?;
    repository::tell(report.objects.iter().filter_map(told), &tables, project);
    Ok(())
}

/// What was done, as Feast's command puts it.
fn told(object: &Applied) -> Option<Told<'_>> {
    let verb = match object.outcome {
        Change::Created => "Created",
        Change::Updated => "Updated",
        Change::Deleted => "Deleted",
        Change::Unchanged => return None,
    };
    Some(Told {
        verb,
        kind: object.kind,
        name: &object.name,
        fields: &[],
    })
}
