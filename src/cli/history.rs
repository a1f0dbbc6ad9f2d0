//! `thali registry history | diff | rollback`: what was applied, by whom, and back again.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value as Json, json};

use super::{
    Global, Outcome,
    output::{self, Format},
    repository::{self, Tables},
};
use crate::{
    context::Context,
    error::Result,
    online::rows::served,
    registry::{
        apply::PlannedChange,
        store::history::{HistoryEntry, HistoryPage, ObjectChange},
    },
};

#[derive(Debug, Args)]
pub(super) struct HistoryArguments {
    /// The project; by default the one of feature_store.yaml
    #[arg(short, long)]
    project: Option<String>,
    /// How many entries, the newest first
    #[arg(short = 'n', long, default_value_t = 20)]
    limit: usize,
    /// Only entries before this one
    #[arg(long, value_name = "NUMBER")]
    before: Option<u64>,
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Debug, Args)]
pub(super) struct DiffArguments {
    /// The entry to start from; 0 is before the first
    from: u64,
    /// The entry to compare with; by default the newest
    to: Option<u64>,
    /// The project; by default the one of feature_store.yaml
    #[arg(short, long)]
    project: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct RollbackArguments {
    /// The last entry that stays; 0 takes back everything
    #[arg(long, value_name = "NUMBER")]
    to: u64,
    /// The project; by default the one of feature_store.yaml
    #[arg(short, long)]
    project: Option<String>,
    /// Show what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
}

fn project_of(context: &Context, named: Option<String>) -> String {
    named.unwrap_or_else(|| context.config.project.clone())
}

impl HistoryArguments {
    pub(super) async fn run(self, global: &Global) -> Outcome {
        let (context, _telemetry) = global.open("warn").await?;
        let project = project_of(&context, self.project);
        let page = HistoryPage {
            before: self.before,
            limit: self.limit,
        };
        let entries = context.registry.history(&project, page).await?;
        let all = || entries.iter().map(entry_json).collect::<Json>();
        match self.output {
            Format::Json => output::json(&all(), 2)?,
            Format::Yaml => output::yaml(&all())?,
            Format::Table => {
                let rows: Vec<_> = entries.iter().map(entry_row).collect();
                output::table(&["ENTRY", "TIME", "AUTHOR", "ACTION", "CHANGES"], &rows);
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn entry_json(entry: &HistoryEntry) -> Json {
    let object = |change: &ObjectChange| json!({"kind": change.kind.label(), "name": change.name, "change": verb(change)});
    json!({
        "entry": entry.number,
        "time": entry.time.to_rfc3339(),
        "author": entry.author.name,
        "action": entry.author.action,
        "objects": entry.objects.iter().map(object).collect::<Vec<_>>(),
    })
}

fn entry_row(entry: &HistoryEntry) -> Vec<String> {
    const SHOWN: usize = 3;
    let mut changes: Vec<String> = entry
        .objects
        .iter()
        .filter(|change| repository::is_shown(change.kind, &change.name))
        .map(|change| format!("{} {} {}", verb(change), change.kind.label(), change.name))
        .collect();
    if let Some(more) = changes.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        changes.truncate(SHOWN);
        changes.push(format!("and {more} more"));
    }
    vec![
        entry.number.to_string(),
        entry.time.format("%Y-%m-%d %H:%M:%S UTC").to_string(),
        entry.author.name.clone(),
        entry.author.action.clone(),
        changes.join(", "),
    ]
}

fn verb(change: &ObjectChange) -> &'static str {
    match (&change.before, &change.after) {
        (None, _) => "created",
        (Some(_), Some(_)) => "updated",
        (Some(_), None) => "deleted",
    }
}

impl DiffArguments {
    pub(super) async fn run(self, global: &Global) -> Outcome {
        let (context, _telemetry) = global.open("warn").await?;
        let project = project_of(&context, self.project);
        let changes = context.registry.diff(&project, self.from, self.to).await?;
        show(&changes);
        Ok(ExitCode::SUCCESS)
    }
}

fn show(changes: &[PlannedChange]) {
    let shown = |change: &&PlannedChange| repository::is_shown(change.kind, &change.name);
    let lines: Vec<String> = changes
        .iter()
        .filter(shown)
        .flat_map(repository::describe)
        .collect();
    for line in &lines {
        output::line(format_args!("{line}"));
    }
    if lines.is_empty() {
        output::line(format_args!("No changes to registry"));
    }
}

impl RollbackArguments {
    pub(super) async fn run(self, global: &Global) -> Outcome {
        let (context, _telemetry) = global.open("warn").await?;
        let project = project_of(&context, self.project);
        let rollback = context.registry.plan_rollback(&project, self.to).await?;
        show(&rollback.changes);
        if self.dry_run || rollback.changes.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        let before = context.registry.fresh_catalog(&project).await?;
        let author = super::author(&format!("rollback to {}", self.to));
        context.registry.roll_back(&rollback, &author).await?;
        follow(&context, &project, &before, &rollback.changes).await?;
        output::line(format_args!(
            "Project {project} is what it was after entry {}",
            self.to
        ));
        Ok(ExitCode::SUCCESS)
    }
}

/// Takes the online store along.
async fn follow(
    context: &Context,
    project: &str,
    before: &crate::registry::Catalog,
    changes: &[PlannedChange],
) -> Result<()> {
    let after = context.registry.catalog(project).await?;
    let served: Vec<String> = served(&after).iter().map(|view| view.name.clone()).collect();
    let tables = Tables::between(before, &served, changes);
    if after.state().is_empty() {
        return context.online.provision(project, &[], &tables.dropped).await;
    }
    repository::provision(context, &after, &tables.dropped).await
}
