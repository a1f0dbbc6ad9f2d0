//! `thali config`: every value in force and where it came from.

use std::process::ExitCode;

use clap::Args;

use serde_json::Value as Json;

use super::{Global, Name, Outcome, output};
use crate::{
    config::{Report, show::masked},
    error::Result,
};

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
    if global.name == Name::Feast {
        as_feast(&report)?;
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

/// What is configured, with the sections that Feast's command always shows; secrets are masked, which
/// they are not in Feast.
fn as_feast(report: &Report) -> Result<()> {
    let mut document = masked(&report.document);
    if let Some(sections) = document.as_object_mut() {
        for (name, default) in [
            ("auth", serde_json::json!({"type": "no_auth"})),
            ("offline_store", Json::from("dask")),
            ("batch_engine", Json::from("local")),
        ] {
            sections.entry(name).or_insert(default);
        }
    }
    output::yaml(&document)
}
