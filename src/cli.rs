//! The command line: arguments in, text and exit status out. Commands call use-cases; none of them
//! decides anything about features.
//!
//! The binary answers to two names with one table of commands. Called `thali`, exit status 1 is something
//! the user can fix and 2 something that is ours (or, of `plan`, changes). Called `feast`, flags, columns,
//! texts and exit statuses are those of Feast's command, so that its scripts run unchanged.

mod apply;
mod archive;
#[cfg(feature = "ballista")]
mod cluster;
mod config;
mod dataset;
mod demo;
mod export;
mod features;
mod health;
mod historical;
mod history;
mod init;
mod jobs;
mod materialize;
mod objects;
mod online;
mod output;
mod permissions;
mod plan;
mod precompute;
mod refused;
mod registry;
mod repository;
mod rows;
mod serve;
mod servers;
mod teardown;
mod views;
mod when;

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use tokio::runtime::Builder;

use crate::{
    config::{Report, Sources},
    context::Context,
    error::{Error, Result},
    node::Signals,
    registry::store::history::Author,
    telemetry,
};

/// Done, with or without something to say about it.
type Outcome = Result<ExitCode>;

/// The names that the binary answers to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Name {
    #[default]
    Thali,
    Feast,
}

/// A whole feature store on one plate: every server of a Feast deployment in one binary.
#[derive(Debug, Parser)]
#[command(name = "thali", version, max_term_width = 110, arg_required_else_help = true)]
struct Thali {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: ThaliCommand,
}

/// The commands of Feast, run by thali.
#[derive(Debug, Parser)]
#[command(name = "feast", max_term_width = 110, arg_required_else_help = true)]
struct Feast {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: FeastCommand,
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
    #[arg(long, global = true, value_name = "LEVEL", env = "THALI_LOG_LEVEL", value_parser = level)]
    log_level: Option<String>,
    /// Sets a configuration key for this run, over file and environment
    #[arg(long = "set", global = true, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
    /// What the binary was called by.
    #[arg(skip)]
    name: Name,
}

#[derive(Debug, Subcommand)]
enum ThaliCommand {
    /// Serve some or all roles from one process
    Serve(serve::Arguments),
    /// Compare the values of a dataset or a log with a reference
    Validate(dataset::ValidateArguments),
    #[command(flatten)]
    Common(Command),
}

#[derive(Debug, Subcommand)]
enum FeastCommand {
    /// Serve the online store: HTTP and gRPC on one port
    Serve(servers::Online),
    /// Feast's own profiles are Python
    #[command(hide = true, disable_help_flag = true)]
    Validate {
        #[arg(num_args = 0.., trailing_var_arg = true, allow_hyphen_values = true)]
        _arguments: Vec<String>,
    },
    #[command(flatten)]
    Common(Command),
}

/// The commands that are there under both names.
#[derive(Debug, Subcommand)]
enum Command {
    /// Make a folder to start from: configuration, definitions, example data
    Init(init::Arguments),
    /// Write the flights example, apply, materialize and serve it
    Demo(demo::Arguments),
    /// Show what `apply` would change
    Plan(plan::Arguments),
    /// Make the registry and the online store what the definitions of this repository say
    Apply(apply::Arguments),
    /// Remove this project from the registry and the online store
    Teardown,
    /// Write the registry's objects as definition files
    Export(export::Arguments),
    /// Print the configuration in force
    #[command(alias = "configuration")]
    Config(config::Arguments),
    /// Copy a window of history into the online store
    Materialize(materialize::Arguments),
    /// Copy what is new since the last run into the online store
    MaterializeIncremental(materialize::IncrementalArguments),
    /// Make the feature vectors of services with `precompute_online` again
    Precompute(precompute::Arguments),
    /// Show materialization runs
    Jobs(jobs::Arguments),
    /// Be a process of the distributed engine
    #[cfg(feature = "ballista")]
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// Read feature values from the online store
    GetOnlineFeatures(online::Arguments),
    /// Look at the rows of the online store, count and delete them
    #[command(subcommand)]
    Online(rows::Command),
    /// Join features to entity rows as they were known at each row's time
    GetHistoricalFeatures(historical::Arguments),
    /// Make saved datasets, prove that they can be made again, say what moved
    #[command(subcommand)]
    Dataset(dataset::Command),
    #[command(flatten)]
    Objects(objects::Objects),
    /// Features of the project
    #[command(subcommand)]
    Features(features::Command),
    /// Delete the object of that name, whatever it is
    Delete(objects::remove::Arguments),
    /// Print the project's registry as JSON
    RegistryDump,
    /// Look after the registry's own storage
    #[command(subcommand)]
    Registry(registry::Command),
    /// Write every project with its history and its runs to one file
    Backup(archive::BackupArguments),
    /// Bring back what a backup holds, into a registry of whatever kind
    Restore(archive::ImportArguments),
    #[command(flatten)]
    Servers(servers::Servers),
    /// Log the address of a feature server somewhere else, of which there is none
    #[command(hide = true)]
    Endpoint,
    /// Ask a server whether it is healthy; for container health checks
    Health(health::Arguments),
    /// Print the version
    Version,
    #[command(flatten)]
    Refused(refused::Refused),
}

/// Parses the process's arguments and runs the command.
pub fn main() -> ExitCode {
    let name = Name::called(env::args_os().next().as_deref());
    let invocation = match parse(name, env::args_os()) {
        Ok(invocation) => invocation,
        Err(error) => {
            let status = if error.use_stderr() {
                name.usage_status()
            } else {
                0
            };
            // Nobody is left to tell when the terminal is gone.
            let _unprintable = error.print();
            return ExitCode::from(status);
        }
    };
    let runtime = match Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let error = Error::unavailable(format!("threads cannot be started: {error}"));
            return fail(name, &error);
        }
    };
    let outcome = runtime.block_on(invocation.run());
    // Work that ignores cancellation must not keep the process.
    runtime.shutdown_background();
    outcome.unwrap_or_else(|error| fail(name, &error))
}

/// What was asked for.
#[derive(Debug)]
struct Invocation {
    global: Global,
    command: Asked,
}

#[derive(Debug)]
enum Asked {
    Serve(serve::Arguments),
    ServeOnline(servers::Online),
    Validate(dataset::ValidateArguments),
    Common(Command),
}

fn parse<I, T>(name: Name, arguments: I) -> Result<Invocation, clap::Error>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let (mut global, command) = match name {
        Name::Thali => {
            // Feast's spellings work, but the help speaks of one way to do a thing.
            let command = Thali::command().mut_subcommands(|command| {
                let spelling = servers::Servers::has_subcommand(command.get_name());
                if spelling { command.hide(true) } else { command }
            });
            let thali = Thali::from_arg_matches(&command.try_get_matches_from(arguments)?)?;
            let command = match thali.command {
                ThaliCommand::Serve(arguments) => Asked::Serve(arguments),
                ThaliCommand::Validate(arguments) => Asked::Validate(arguments),
                ThaliCommand::Common(command) => Asked::Common(command),
            };
            (thali.global, command)
        }
        Name::Feast => {
            let feast = Feast::try_parse_from(arguments)?;
            let command = match feast.command {
                FeastCommand::Serve(arguments) => Asked::ServeOnline(arguments),
                FeastCommand::Validate { .. } => Asked::Common(Command::Refused(refused::VALIDATE)),
                FeastCommand::Common(command) => Asked::Common(command),
            };
            (feast.global, command)
        }
    };
    global.name = name;
    Ok(Invocation { global, command })
}

impl Invocation {
    async fn run(self) -> Outcome {
        let global = &self.global;
        match self.command {
            Asked::Serve(arguments) => serve::run(global, arguments).await,
            Asked::ServeOnline(arguments) => arguments.run(global).await,
            Asked::Validate(arguments) => dataset::run_validate(global, arguments).await,
            Asked::Common(command) => command.run(global).await,
        }
    }
}

impl Command {
    async fn run(self, global: &Global) -> Outcome {
        match self {
            Self::Version => Ok(version(global.name)),
            Self::Endpoint => Ok(endpoint(global)),
            Self::Health(arguments) => health::run(&arguments).await,
            Self::Config(arguments) => config::run(global, &arguments),
            Self::Init(arguments) => init::run(global.name, &arguments),
            Self::Demo(arguments) => demo::run(global, arguments).await,
            Self::GetOnlineFeatures(arguments) => online::run(global, arguments).await,
            Self::Online(command) => command.run(global).await,
            Self::GetHistoricalFeatures(arguments) => historical::run(global, arguments).await,
            Self::Dataset(command) => command.run(global).await,
            Self::Objects(objects) => objects.run(global).await,
            Self::Features(command) => command.run(global).await,
            Self::Delete(arguments) => objects::remove::run(global, &arguments).await,
            Self::RegistryDump => registry::dump(global).await,
            Self::Registry(command) => command.run(global).await,
            Self::Backup(arguments) => arguments.run(global).await,
            Self::Restore(arguments) => arguments.run(global).await,
            Self::Plan(arguments) => plan::run(global, &arguments).await,
            Self::Apply(arguments) => apply::run(global, &arguments).await,
            Self::Teardown => teardown::run(global).await,
            Self::Export(arguments) => export::run(global, &arguments).await,
            Self::Materialize(arguments) => materialize::run(global, arguments).await,
            Self::MaterializeIncremental(arguments) => materialize::run_incremental(global, arguments).await,
            Self::Precompute(arguments) => precompute::run(global, &arguments).await,
            Self::Jobs(arguments) => jobs::run(global, &arguments).await,
            #[cfg(feature = "ballista")]
            Self::Cluster(command) => command.run(global).await,
            Self::Servers(servers) => servers.run(global).await,
            Self::Refused(refused) => Err(refused.error(global.name)),
        }
    }
}

/// Feast's release that the contract is taken from.
const FEAST_VERSION: &str = "0.67.0";

fn version(name: Name) -> ExitCode {
    match name {
        Name::Thali => output::line(format_args!("thali {}", env!("CARGO_PKG_VERSION"))),
        Name::Feast => output::line(format_args!("Feast SDK Version: \"{FEAST_VERSION}\"")),
    }
    ExitCode::SUCCESS
}

/// Feast logs this at level INFO, and its stores for one machine never have such a server.
fn endpoint(global: &Global) -> ExitCode {
    if global.name == Name::Thali || global.log_level.as_deref() == Some("info") {
        output::note(format_args!("There is no active feature server."));
    }
    ExitCode::SUCCESS
}

impl Name {
    /// By the file name the process was started with.
    fn called(program: Option<&OsStr>) -> Self {
        let stem = program.map(Path::new).and_then(Path::file_stem);
        if stem.is_some_and(|stem| stem == "feast") {
            Self::Feast
        } else {
            Self::Thali
        }
    }

    /// The exit status of arguments that make no sense.
    fn usage_status(self) -> u8 {
        match self {
            Self::Thali => 1,
            Self::Feast => 2,
        }
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
        let sources = self.sources();
        if self.name == Name::Feast
            && let Some(path) = sources.missing_file()
        {
            return Err(Error::config(format!(
                "Can't find feature repo configuration file at {}. Make sure you're running feast from an \
                 initialized feast repository.",
                path.display()
            )));
        }
        let report = Report::load(&sources)?;
        for warning in &report.warnings.0 {
            output::note(format_args!("{warning}"));
        }
        Ok(report)
    }

    /// Reads the configuration, sets up logging and opens the stores: what most commands begin with.
    async fn open(&self, default_level: &str) -> Result<(Context, telemetry::Telemetry)> {
        let config = self.load()?.config;
        let telemetry = self.start_telemetry(default_level, &config)?;
        Ok((Context::open(config).await?, telemetry))
    }

    fn start_telemetry(
        &self,
        default_level: &str,
        config: &crate::config::Config,
    ) -> Result<telemetry::Telemetry> {
        let endpoint = config.thali.otlp_endpoint.as_deref();
        let traces = endpoint.map(|endpoint| telemetry::Traces {
            endpoint,
            sample_ratio: config.thali.otlp_sample_ratio,
        });
        telemetry::start(self.log_level.as_deref().unwrap_or(default_level), traces)
    }
}

/// Does `work`, which a signal ends, and then what must not be cut off.
async fn until_signal<T>(context: &Context, work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut signals = Signals::listen()?;
    let outcome = tokio::select! {
        outcome = work => outcome,
        () = signals.next() => Err(Error::unavailable("interrupted")),
    };
    context.finish().await;
    outcome
}

/// Who works at this command line, for the registry's history.
fn author(action: &str) -> Author {
    let name = ["USER", "LOGNAME"]
        .into_iter()
        .find_map(|variable| env::var(variable).ok())
        .filter(|name| !name.is_empty());
    Author::new(name.unwrap_or_else(|| "anonymous".to_owned()), action)
}

/// Prints the error and says how the process ends. Feast prints what the caller got wrong on standard
/// output, and ends with 1 whatever went wrong.
fn fail(name: Name, error: &Error) -> ExitCode {
    match (name, error.kind().is_callers_fault()) {
        (Name::Feast, true) => output::line(format_args!("{error}")),
        _ => output::note(format_args!("error: {error}")),
    }
    if error.kind().is_callers_fault() {
        return ExitCode::from(1);
    }
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        output::note(format_args!("  caused by: {error}"));
        cause = error.source();
    }
    ExitCode::from(match name {
        Name::Thali => 2,
        Name::Feast => 1,
    })
}

/// A level as tracing names it; Feast's names are Python's.
fn level(text: &str) -> Result<String, String> {
    let lower = text.to_ascii_lowercase();
    match lower.as_str() {
        "warning" => Ok("warn".to_owned()),
        "critical" => Ok("error".to_owned()),
        // Without these words it may be a filter such as `thali=debug,warn`.
        "trace" | "debug" | "info" | "warn" | "error" => Ok(lower),
        _ => Ok(text.to_owned()),
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests;
