//! `thali cluster`: the processes of the distributed engine.

use std::{
    net::{IpAddr, Ipv4Addr},
    num::NonZero,
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Subcommand};

use super::{Global, Outcome, output};
use crate::{context, node::cluster, telemetry};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Hand the tasks of distributed queries to executors; `batch_engine.scheduler` names its address
    Scheduler(Scheduler),
    /// Do tasks of distributed queries, with the offline store of this repository
    Executor(Executor),
}

#[derive(Debug, Args)]
pub(super) struct Scheduler {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Port for executors and clients; 0 is any free port
    #[arg(long, default_value_t = 50050)]
    port: u16,
}

#[derive(Debug, Args)]
pub(super) struct Executor {
    /// The scheduler it works for
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:50050")]
    scheduler: String,
    /// Address to listen on
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// Name or address that scheduler and clients reach it by, if it is another than it calls from
    #[arg(long, value_name = "HOST")]
    advertise: Option<String>,
    /// Port that results are fetched from; 0 is any free port, here as below
    #[arg(long, default_value_t = 50051)]
    port: u16,
    /// Port that the scheduler calls
    #[arg(long, value_name = "PORT", default_value_t = 50052)]
    control_port: u16,
    /// Folder for results until they are fetched; a temporary one if not given
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
    /// Tasks at the same time; each uses all cores, and they share the memory limit
    #[arg(long, default_value_t = NonZero::<usize>::MIN)]
    slots: NonZero<usize>,
}

impl Command {
    pub(super) async fn run(self, global: &Global) -> Outcome {
        match self {
            Self::Scheduler(arguments) => {
                let level = global.log_level.as_deref().unwrap_or("info");
                let telemetry = telemetry::start(level, None)?;
                let outcome = cluster::schedule(cluster::SchedulerOptions {
                    host: arguments.host,
                    port: arguments.port,
                    announce: announce(),
                });
                let outcome = outcome.await;
                telemetry.shutdown();
                outcome?;
            }
            Self::Executor(arguments) => {
                let config = global.load()?.config;
                let telemetry = global.start_telemetry("info", &config)?;
                let options = cluster::ExecutorOptions {
                    scheduler: arguments.scheduler,
                    host: arguments.host,
                    advertised: arguments.advertise,
                    port: arguments.port,
                    control_port: arguments.control_port,
                    folder: arguments.work_dir,
                    slots: arguments.slots,
                    memory_limit: config.thali.memory_limit,
                    announce: announce(),
                };
                let registry = context::open_registry(&config).await?;
                let store = context::open_offline(&config, &registry)?;
                let outcome = cluster::execute(options, store).await;
                telemetry.shutdown();
                outcome?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The lines that whoever started the process waits for, as of `thali serve`.
fn announce() -> cluster::Announce {
    Box::new(|listening| match listening {
        Some((name, address)) => output::line(format_args!("listening {name} http://{address}")),
        None => output::line(format_args!("ready")),
    })
}
