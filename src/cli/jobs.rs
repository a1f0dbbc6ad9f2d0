//! `thali jobs`: what was materialized when, and how it ended; and the way to stop a run.

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use clap::{Args, ValueEnum};

use super::{Global, Outcome, output};
use crate::{
    error::Error,
    schedule::ledger::{Run, RunFilter, RunState},
};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Only runs of this feature view
    #[arg(short, long, value_name = "NAME")]
    view: Option<String>,
    /// How many, newest first
    #[arg(long, default_value_t = 20)]
    limit: u32,
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
    /// Stop the run with this id, wherever it runs
    #[arg(long, value_name = "ID")]
    cancel: Option<String>,
}

/// How to print.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Table,
    Json,
}

pub(super) async fn run(global: &Global, arguments: &Arguments) -> Outcome {
    let (context, _telemetry) = global.open("warn").await?;
    if let Some(id) = &arguments.cancel {
        if !context.ledger.cancel(id).await? {
            return Err(Error::invalid(format!("no run `{id}` is running"))
                .hint("`thali jobs -o json` tells the ids of runs"));
        }
        output::line(format_args!("{id} is asked to stop"));
        return Ok(ExitCode::SUCCESS);
    }
    let filter = RunFilter {
        project: Some(context.config.project.clone()),
        feature_view: arguments.view.clone(),
        limit: arguments.limit,
    };
    let runs = context.ledger.runs(&filter).await?;
    match arguments.output {
        Format::Json => {
            let text = serde_json::to_string_pretty(&runs)
                .map_err(|error| Error::internal("runs have no JSON form").source_error(error))?;
            output::line(format_args!("{text}"));
        }
        Format::Table => {
            let rows: Vec<Vec<String>> = runs.iter().map(row).collect();
            output::table(
                &[
                    "STARTED",
                    "FEATURE VIEW",
                    "KIND",
                    "TRIGGER",
                    "STATE",
                    "ROWS",
                    "CHUNKS",
                    "ROWS/S",
                    "WINDOW",
                    "ERROR",
                ],
                &rows,
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn row(run: &Run) -> Vec<String> {
    let window = match (run.window_start, run.window_end) {
        (Some(start), Some(end)) => format!("{} to {}", show(start), show(end)),
        _ => String::new(),
    };
    let state = match run.state {
        RunState::Running => "running",
        RunState::Succeeded => "succeeded",
        RunState::Failed => "failed",
        RunState::Cancelled => "cancelled",
    };
    vec![
        show(run.started_at),
        run.feature_view.clone(),
        run.kind.clone(),
        run.trigger.clone(),
        state.to_owned(),
        run.rows_written.to_string(),
        run.chunks.to_string(),
        rate(run),
        window,
        run.error.clone().unwrap_or_default(),
    ]
}

/// Rows written a second, on average.
fn rate(run: &Run) -> String {
    let took = run.ended_at.unwrap_or_else(Utc::now) - run.started_at;
    let milliseconds = u64::try_from(took.num_milliseconds()).unwrap_or_default().max(1);
    (run.rows_written * 1000 / milliseconds).to_string()
}

fn show(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%d %H:%M:%S").to_string()
}
