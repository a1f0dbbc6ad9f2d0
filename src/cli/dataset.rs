//! `thali dataset …` and `thali validate`: making saved datasets, proving that they can be made again,
//! saying what moved between two, and comparing distributions with a reference.
//!
//! Exit status 2 means that they differ, or that the validation failed.

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use serde_json::{Map, Value as Json, json};

use super::{Global, Outcome, output, until_signal, when::moment};
use crate::{
    offline::dataset::{
        Dataset,
        compare::{Difference, compare},
        validate::{Limits, Report, Side, Subject, validate},
        verify::{Verdict, verify},
    },
    proto::feast::registry::CreateDatasetFromRetrievalRequest,
    registry::datasets::create_now,
};

const DIFFERS: u8 = 2;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Join features to entity rows and keep what comes out, with a manifest
    Create(CreateArguments),
    /// Make a dataset again from its definition, and prove that it is the same
    Verify(VerifyArguments),
    /// Say what moved from one dataset to another
    Diff(DiffArguments),
}

#[derive(Debug, Args)]
pub(super) struct CreateArguments {
    /// The dataset's name
    name: String,
    #[command(flatten)]
    wanted: super::features::Wanted,
    /// Entity rows as a Parquet or CSV file
    #[arg(long, value_name = "FILE")]
    entity_file: String,
    /// The Parquet file to write
    #[arg(short, long, value_name = "FILE", required_unless_present = "table")]
    path: Option<String>,
    /// The table of PostgreSQL to make instead
    #[arg(long, value_name = "TABLE", conflicts_with = "path")]
    table: Option<String>,
    /// Replace a dataset of that name, and the file or table
    #[arg(long)]
    overwrite: bool,
}

#[derive(Debug, Args)]
pub(super) struct VerifyArguments {
    /// The dataset's name
    name: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct DiffArguments {
    /// The dataset as it was
    before: String,
    /// The dataset as it is
    after: String,
    /// A column that tells rows apart, repeatable; join keys and time of the first dataset without
    #[arg(short, long, value_name = "COLUMN")]
    key: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ValidateArguments {
    /// The saved dataset to look at
    #[arg(long, value_name = "NAME", required_unless_present = "log")]
    dataset: Option<String>,
    /// What a feature service logged of served requests, instead
    #[arg(long, value_name = "SERVICE", conflicts_with = "dataset")]
    log: Option<String>,
    /// Of the log, only requests from this moment on
    #[arg(long, value_name = "TIME", value_parser = moment, conflicts_with = "dataset")]
    start: Option<DateTime<Utc>>,
    /// Of the log, only requests up to this moment
    #[arg(long, value_name = "TIME", value_parser = moment, conflicts_with = "dataset")]
    end: Option<DateTime<Utc>>,
    /// A validation reference, or a saved dataset
    #[arg(short, long, value_name = "NAME")]
    reference: String,
    /// The greatest population stability index
    #[arg(long, value_name = "X", default_value_t = Limits::default().psi)]
    max_psi: f64,
    /// The greatest distance of Kolmogorov and Smirnov
    #[arg(long, value_name = "X", default_value_t = Limits::default().ks)]
    max_ks: f64,
    /// The greatest share of nulls
    #[arg(long, value_name = "SHARE", default_value_t = Limits::default().null_rate)]
    max_null_rate: f64,
    /// The most that the share of nulls may be above the reference's
    #[arg(long, value_name = "SHARE", default_value_t = Limits::default().null_rise)]
    max_null_rise: f64,
    /// The greatest share of numbers outside of the reference's range
    #[arg(long, value_name = "SHARE", default_value_t = Limits::default().out_of_range)]
    max_out_of_range: f64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Command {
    pub(super) async fn run(self, global: &Global) -> Outcome {
        match self {
            Self::Create(arguments) => create(global, arguments).await,
            Self::Verify(arguments) => verified(global, &arguments).await,
            Self::Diff(arguments) => diff(global, &arguments).await,
        }
    }
}

async fn create(global: &Global, arguments: CreateArguments) -> Outcome {
    let (context, _telemetry) = global.open("warn").await?;
    let (storage_type, place) = match arguments.table {
        Some(table) => ("postgres", table),
        None => ("file", arguments.path.unwrap_or_default()),
    };
    let request = CreateDatasetFromRetrievalRequest {
        name: arguments.name,
        project: context.config.project.clone(),
        features: arguments.wanted.features,
        feature_service_name: arguments.wanted.feature_service.unwrap_or_default(),
        entity_source_type: "reference".to_owned(),
        entity_source_path: arguments.entity_file,
        storage_type: storage_type.to_owned(),
        storage_path: place,
        allow_overwrite: arguments.overwrite,
        ..Default::default()
    };
    let name = request.name.clone();
    until_signal(&context, create_now(&context, request)).await?;
    let catalog = context.registry.fresh_catalog(&context.config.project).await?;
    let made = Dataset::open(&context, &catalog, name.trim())?;
    if let Some(manifest) = made.manifest().await? {
        output::line(format_args!(
            "{name}: {} rows, row hash {}, definition {}",
            manifest.rows.rows, manifest.rows.row_hash, manifest.definition.hash
        ));
    }
    Ok(ExitCode::SUCCESS)
}

async fn verified(global: &Global, arguments: &VerifyArguments) -> Outcome {
    let (context, _telemetry) = global.open("warn").await?;
    let catalog = context.registry.fresh_catalog(&context.config.project).await?;
    let dataset = Dataset::open(&context, &catalog, &arguments.name)?;
    let verdict = until_signal(&context, verify(&context, &catalog, &dataset)).await?;
    if arguments.json {
        output::json(&json!(verdict), 2)?;
    } else {
        print_verdict(&verdict);
    }
    Ok(status(verdict.same))
}

fn print_verdict(verdict: &Verdict) {
    let name = &verdict.dataset;
    match (&verdict.rebuilt, verdict.same) {
        (Some(rebuilt), true) => output::line(format_args!(
            "{name}: the same {} rows came out again, row hash {}",
            rebuilt.rows, rebuilt.row_hash
        )),
        _ => output::line(format_args!("{name}: not the same")),
    }
    for text in &verdict.reasons {
        output::line(format_args!("  {text}"));
    }
    for text in &verdict.definition_changes {
        output::line(format_args!("  definition: {text}"));
    }
    match &verdict.manifest {
        Some(manifest) if !verdict.same => {
            output::line(format_args!("  the manifest is of {}", manifest.known_as_of));
        }
        None => output::line(format_args!(
            "  it has no manifest: compared with the rows in its place"
        )),
        Some(_) => {}
    }
    if let Some(difference) = &verdict.difference {
        print_difference(difference);
    }
}

async fn diff(global: &Global, arguments: &DiffArguments) -> Outcome {
    let (context, _telemetry) = global.open("warn").await?;
    let catalog = context.registry.fresh_catalog(&context.config.project).await?;
    let before = Dataset::open(&context, &catalog, &arguments.before)?;
    let after = Dataset::open(&context, &catalog, &arguments.after)?;
    let key = match arguments.key.as_slice() {
        [] => before.key().await?,
        given => given.to_vec(),
    };
    let difference = compare(&before, &after, &key).await?;
    if arguments.json {
        output::json(&json!(difference), 2)?;
    } else if difference.is_none() {
        output::line(format_args!("no difference in {} rows", difference.rows.same));
    } else {
        print_difference(&difference);
    }
    Ok(status(difference.is_none()))
}

fn print_difference(difference: &Difference) {
    let columns = &difference.columns;
    for (names, word) in [(&columns.added, "added"), (&columns.removed, "removed")] {
        for name in names {
            output::line(format_args!("  column {name}: {word}"));
        }
    }
    for (name, was, is) in &columns.retyped {
        output::line(format_args!("  column {name}: {was} became {is}"));
    }
    let rows = &difference.rows;
    output::line(format_args!(
        "  rows by {}: {} same, {} changed, {} added, {} removed (of {}, now {})",
        difference.key.join(", "),
        rows.same,
        rows.changed,
        rows.added,
        rows.removed,
        rows.before,
        rows.after
    ));
    for (name, count) in &difference.changed_columns {
        output::line(format_args!(
            "  column {name}: changed in {count} of {} rows looked at",
            difference.looked_at
        ));
    }
    for changed in &difference.changed {
        let cells = changed
            .before
            .iter()
            .map(|(name, before)| format!("{name} {before} -> {}", changed.after[name]));
        let cells: Vec<_> = cells.collect();
        output::line(format_args!(
            "  ~ {}: {}",
            cells_of(&changed.key),
            cells.join(", ")
        ));
    }
    for (rows, sign) in [(&difference.added, '+'), (&difference.removed, '-')] {
        for row in rows {
            output::line(format_args!("  {sign} {}", cells_of(row)));
        }
    }
}

/// Text without its quotes, everything else as JSON.
fn plain(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn cells_of(row: &Map<String, Json>) -> String {
    let cells: Vec<_> = row
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    cells.join(" ")
}

pub(super) async fn run_validate(global: &Global, arguments: ValidateArguments) -> Outcome {
    let (context, _telemetry) = global.open("warn").await?;
    let catalog = context.registry.fresh_catalog(&context.config.project).await?;
    let subject = match (arguments.dataset, arguments.log) {
        (_, Some(service)) => Subject::Log(service, (arguments.start, arguments.end)),
        (dataset, None) => Subject::Dataset(dataset.unwrap_or_default()),
    };
    let limits = Limits {
        psi: arguments.max_psi,
        ks: arguments.max_ks,
        null_rise: arguments.max_null_rise,
        null_rate: arguments.max_null_rate,
        out_of_range: arguments.max_out_of_range,
    };
    let report = validate(&context, &catalog, &subject, &arguments.reference, limits).await?;
    if arguments.json {
        output::json(&json!(report), 2)?;
    } else {
        print_report(&report);
    }
    Ok(status(report.passed))
}

fn print_report(report: &Report) {
    let number = |value: Option<f64>| value.map(|value| format!("{value:.4}")).unwrap_or_default();
    let rows: Vec<Vec<String>> = report
        .columns
        .iter()
        .map(|column| {
            let nulls = |side: Option<&Side>| number(side.map(|side| side.null_rate));
            let range = column.dataset.as_ref().and_then(|side| side.range.as_ref());
            let range = range.map(|[least, greatest]| format!("{} .. {}", plain(least), plain(greatest)));
            let exact = if column.exact { "" } else { "~" };
            let measure = |value: Option<f64>| value.map(|value| format!("{exact}{value:.4}"));
            vec![
                column.name.clone(),
                column.kind.to_owned(),
                format!(
                    "{} ({})",
                    nulls(column.dataset.as_ref()),
                    nulls(column.reference.as_ref())
                ),
                range.unwrap_or_default(),
                measure(column.psi).unwrap_or_default(),
                measure(column.ks).unwrap_or_default(),
                if column.failures.is_empty() { "ok" } else { "FAILS" }.to_owned(),
            ]
        })
        .collect();
    let headers = ["COLUMN", "TYPE", "NULLS (REFERENCE)", "RANGE", "PSI", "KS", ""];
    output::table(&headers, &rows);
    for text in &report.failures {
        output::line(format_args!("{text}"));
    }
    for column in &report.columns {
        for text in &column.failures {
            output::line(format_args!("{}: {text}", column.name));
        }
    }
    let verdict = if report.passed { "passes" } else { "fails" };
    output::line(format_args!(
        "{} ({} rows) {verdict} against {} ({} rows)",
        report.subject, report.rows, report.reference, report.reference_rows
    ));
}

fn status(good: bool) -> ExitCode {
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(DIFFERS)
    }
}
