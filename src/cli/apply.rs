//! `thali apply`: the registry becomes what the repository says, and the online store follows.

use std::process::ExitCode;

use clap::Args;

use super::{
    Global, Outcome, output,
    repository::{self, Options, Planned, Tables, is_shown},
};
use crate::{
    context::Context,
    error::Result,
    model::ObjectKind,
    registry::apply::{ApplyReport, Outcome as Change},
};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    options: Options,
}

pub(super) async fn run(global: &Global, arguments: &Arguments) -> Outcome {
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
    tell(&report, &tables, project);
    Ok(())
}

fn tell(report: &ApplyReport, tables: &Tables, project: &str) {
    let mut changed = false;
    for object in report
        .objects
        .iter()
        .filter(|object| is_shown(object.kind, &object.name))
    {
        let verb = match object.outcome {
            Change::Created => "Created",
            Change::Updated => "Updated",
            Change::Deleted => "Deleted",
            Change::Unchanged => continue,
        };
        changed = true;
        // Feast keeps quiet about data sources; they are of interest only when they go.
        if object.kind == ObjectKind::DataSource && object.outcome != Change::Deleted {
            continue;
        }
        output::line(format_args!("{verb} {} {}", object.kind.label(), object.name));
    }
    if !changed {
        output::line(format_args!("No changes to registry"));
    }
    output::line(format_args!(""));
    for name in &tables.created {
        output::line(format_args!("Created online table {project}_{name}"));
    }
    for name in &tables.dropped {
        output::line(format_args!("Removed online table {project}_{name}"));
    }
    if tables.created.is_empty() && tables.dropped.is_empty() {
        output::line(format_args!("No changes to infrastructure"));
    }
}
