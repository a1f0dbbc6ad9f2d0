//! `thali config`: every value in force and where it came from.

use std::process::ExitCode;

use clap::Args;

use super::{Global, Outcome, output};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Only check: print nothing when everything is right
    #[arg(long)]
    check: bool,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Outcome {
    let report = global.load()?;
    if arguments.check {
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Vec<String>> = report
        .settings
        .iter()
        .map(|setting| vec![setting.key.clone(), setting.shown(), setting.origin.to_string()])
        .collect();
    output::table(&["KEY", "VALUE", "FROM"], &rows);
    Ok(ExitCode::SUCCESS)
}
