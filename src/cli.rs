//! The command line: arguments in, text and exit status out. Commands call use-cases; none of them
//! decides anything about features.
//!
//! Exit status: 0 done, 1 something the user can fix, 2 something that is ours (or, of `plan`, changes).

mod apply;
mod config;
mod demo;
mod export;
mod health;
mod historical;
mod init;
mod jobs;
mod materialize;
mod objects;
mod online;
mod output;
mod plan;
mod repository;
mod serve;
mod teardown;
mod when;

use std::{env, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use tokio::runtime::Builder;

use crate::{
    config::{Report, Sources},
    context::Context,
    error::{Error, Result},
    registry::store::history::Author,
    telemetry,
};

/// Done, with or without something to say about it.
type Outcome = Result<ExitCode>;

/// A whole feature store on one plate: every server of a Feast deployment in one binary.
#[derive(Debug, Parser)]
#[command(name = "thali", version, max_term_width = 110, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command; as in Feast, `-c` and `-f` stand before the command, which may have its own.
#[derive(Debug, Args)]
struct Global {
    /// Feature repository to work in
    #[arg(short, long, value_name = "DIR")]
    chdir: Option<PathBuf>,
    /// The feature_store.yaml to read
    #[arg(short, long, value_name = "FILE")]
    feature_store_yaml: Option<PathBuf>,
    /// What is logged to standard error: error, warn, info, debug, trace
    #[arg(long, global = true, value_name = "LEVEL", env = "THALI_LOG_LEVEL")]
    log_level: Option<String>,
    /// Sets a configuration key for this run, over file and environment
    #[arg(long = "set", global = true, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve some or all roles from one process
    Serve(serve::Arguments),
    /// Make a folder to start from: configuration, definitions, example data
    Init(init::Arguments),
    /// Write the flights example, apply, materialize and serve it
    Demo(demo::Arguments),
    /// Show what `apply` would change; the exit status is 2 when it would change anything
    Plan(plan::Arguments),
    /// Make the registry and the online store what the definitions of this repository say
    Apply(apply::Arguments),
    /// Remove this project from the registry and the online store
    Teardown,
    /// Write the registry's objects as definition files
    Export(export::Arguments),
    /// Print the configuration in force and where each value came from
    #[command(alias = "configuration")]
    Config(config::Arguments),
    /// Copy a window of history into the online store
    Materialize(materialize::Arguments),
    /// Copy what is new since the last run into the online store
    MaterializeIncremental(materialize::IncrementalArguments),
    /// Show materialization runs
    Jobs(jobs::Arguments),
    /// Read feature values from the online store
    GetOnlineFeatures(online::Arguments),
    /// Join features to entity rows as they were known at each row's time
    GetHistoricalFeatures(historical::Arguments),
    #[command(flatten)]
    Objects(objects::Objects),
    /// Features of the project
    #[command(subcommand)]
    Features(Features),
    /// Delete the object of that name
    Delete(objects::DeleteArguments),
    /// Print the project's registry as JSON
    RegistryDump,
    /// Ask a server whether it is healthy; for container health checks
    Health(health::Arguments),
    /// Print the version
    Version,
}

#[derive(Debug, Subcommand)]
enum Features {
    /// List them with their views and types
    List,
}

/// Parses the process's arguments and runs the command.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let status = if error.use_stderr() { 1 } else { 0 };
            // Nobody is left to tell when the terminal is gone.
            let _unprintable = error.print();
            return ExitCode::from(status);
        }
    };
    let runtime = match Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return fail(&Error::unavailable(format!("threads cannot be started: {error}")));
        }
    };
    let outcome = runtime.block_on(run(cli));
    // Work that ignores cancellation must not keep the process.
    runtime.shutdown_background();
    outcome.unwrap_or_else(|error| fail(&error))
}

async fn run(cli: Cli) -> Outcome {
    let global = &cli.global;
    match cli.command {
        Command::Version => {
            output::line(format_args!("thali {}", env!("CARGO_PKG_VERSION")));
            Ok(ExitCode::SUCCESS)
        }
        Command::Health(arguments) => health::run(&arguments).await,
        Command::Config(arguments) => config::run(global, &arguments),
        Command::Init(arguments) => init::run(&arguments),
        Command::Demo(arguments) => demo::run(global, arguments).await,
        Command::GetOnlineFeatures(arguments) => online::run(global, arguments).await,
        Command::GetHistoricalFeatures(arguments) => historical::run(global, arguments).await,
        Command::Objects(objects) => objects::run(global, &objects).await,
        Command::Features(Features::List) => objects::features(global).await,
        Command::Delete(arguments) => objects::delete(global, &arguments).await,
        Command::RegistryDump => objects::dump(global).await,
        Command::Plan(arguments) => plan::run(global, &arguments).await,
        Command::Apply(arguments) => apply::run(global, &arguments).await,
        Command::Teardown => teardown::run(global).await,
        Command::Export(arguments) => export::run(global, &arguments).await,
        Command::Serve(arguments) => serve::run(global, arguments).await,
        Command::Materialize(arguments) => materialize::run(global, arguments).await,
        Command::MaterializeIncremental(arguments) => materialize::run_incremental(global, arguments).await,
        Command::Jobs(arguments) => jobs::run(global, &arguments).await,
    }
}

impl Global {
    fn sources(&self) -> Sources {
        Sources::from_process(
            self.chdir.clone(),
            self.feature_store_yaml.clone(),
            self.set.clone(),
        )
    }

    /// Reads the configuration; warnings go to standard error.
    fn load(&self) -> Result<Report> {
        let report = Report::load(&self.sources())?;
        for warning in &report.warnings.0 {
            output::note(format_args!("{warning}"));
        }
        Ok(report)
    }

    /// Reads the configuration, sets up logging and opens the stores: what most commands begin with.
    async fn open(&self, default_level: &str) -> Result<(Context, telemetry::Telemetry)> {
        let config = self.load()?.config;
        let telemetry = self.start_telemetry(default_level, config.thali.otlp_endpoint.as_deref())?;
        Ok((Context::open(config).await?, telemetry))
    }

    fn start_telemetry(&self, default_level: &str, endpoint: Option<&str>) -> Result<telemetry::Telemetry> {
        telemetry::start(self.log_level.as_deref().unwrap_or(default_level), endpoint)
    }
}

/// Prints the error and says how the process ends.
/// Who works at this command line, for the registry's history.
fn author(action: &str) -> Author {
    let name = ["USER", "LOGNAME"]
        .into_iter()
        .find_map(|variable| env::var(variable).ok())
        .filter(|name| !name.is_empty());
    Author::new(name.unwrap_or_else(|| "anonymous".to_owned()), action)
}

fn fail(error: &Error) -> ExitCode {
    output::note(format_args!("error: {error}"));
    if error.kind().is_callers_fault() {
        return ExitCode::from(1);
    }
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        output::note(format_args!("  caused by: {error}"));
        cause = error.source();
    }
    ExitCode::from(2)
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests;
