//! `thali plan`: what `apply` would do, for people and for CI (exit status 2 when it would do something).

use std::process::ExitCode;

use clap::Args;

use super::{
    Global, Name, Outcome, output,
    repository::{self, Options, Planned, Tables, Told, describe, is_shown},
};
use crate::{context::Context, error::Result, registry::apply::PlannedAction};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    options: Options,
}

/// There are changes.
const CHANGES: u8 = 2;

pub(super) async fn run(global: &Global, arguments: &Arguments) -> Outcome {
    let (context, _telemetry) = global.open("warn").await?;
    let planned = repository::plan(&context, &arguments.options).await?;
    let plan = &planned.plan;
    if global.name == Name::Feast {
        show_as_feast(&context, &planned).await?;
        return Ok(ExitCode::SUCCESS);
    }
    if plan.is_empty() {
        output::line(format_args!("No changes: project {} is up to date", plan.project));
        return Ok(ExitCode::SUCCESS);
    }
    show(&context, &planned).await?;
    Ok(ExitCode::from(CHANGES))
}

/// In the words of Feast's command, whose exit status says nothing of changes.
async fn show_as_feast(context: &Context, planned: &Planned) -> Result<()> {
    let plan = &planned.plan;
    let before = context.registry.catalog(&plan.project).await?;
    let tables = Tables::between(&before, &planned.served, &plan.changes);
    let changes = plan.changes.iter().map(|change| Told {
        verb: match change.action {
            PlannedAction::Create => "Created",
            PlannedAction::Update => "Updated",
            PlannedAction::Delete => "Deleted",
        },
        kind: change.kind,
        name: &change.name,
        fields: &change.fields,
    });
    repository::tell(changes, &tables, &plan.project);
    Ok(())
}

async fn show(context: &Context, planned: &Planned) -> Result<()> {
    let plan = &planned.plan;
    output::line(format_args!("Project {}:", plan.project));
    for change in plan
        .changes
        .iter()
        .filter(|change| is_shown(change.kind, &change.name))
    {
        for line in describe(change) {
            output::line(format_args!("{line}"));
        }
    }
    let before = context.registry.catalog(&plan.project).await?;
    let tables = Tables::between(&before, &planned.served, &plan.changes);
    for name in &tables.created {
        output::line(format_args!("+ online table {}_{name}", plan.project));
    }
    for table in &tables.dropped {
        output::line(format_args!("- online table {}_{}", plan.project, table.name));
    }
    output::line(format_args!(
        "{} to change, {} stay as they are",
        plan.changes.len(),
        plan.unchanged
    ));
    Ok(())
}
