//! The processes of a Ballista cluster that thali's binary can be: [`schedule`], which hands tasks to executors,
//! and [`execute`], which does them with the offline store of its own `feature_store.yaml`.
//!
//! Neither authenticates anybody: whoever reaches their ports can run queries and read results. What a task is
//! and how queries become tasks is in [`crate::offline::ballista`].

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZero,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use ballista_core::{config::TaskSchedulingPolicy, error::BallistaError};
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use ballista_scheduler::{
    cluster::BallistaCluster,
    config::{SchedulerConfig, TaskDistributionPolicy},
    scheduler_process::{create_scheduler, start_grpc_service_with_listener},
};
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};

use super::{Signals, cannot_bind};
use crate::{
    error::{Error, Result},
    offline::{
        ballista::{Codec, MESSAGE_BYTES},
        store::OfflineStore,
    },
};

/// How often an executor says that it lives, after how long without a word it counts as dead, and how often
/// that is looked at, in seconds.
const HEARTBEAT: u64 = 2;
const SILENCE: u64 = 20;
const ROUND: u64 = 2;
/// How long state and results are kept that nobody asked to delete, in seconds.
const KEPT: u64 = 600;

/// Is told the name and address of what listens, and then `None` once all is ready.
pub type Announce = Box<dyn Fn(Option<(&str, SocketAddr)>) + Send + Sync>;

/// Where a scheduler listens.
pub struct SchedulerOptions {
    pub host: String,
    /// 0 is any free port.
    pub port: u16,
    pub announce: Announce,
}

/// Runs a scheduler until a signal: gRPC for executors and clients and Ballista's REST API on one port.
///
/// # Errors
/// A port that cannot be bound, and what makes Ballista's scheduler end.
pub async fn schedule(options: SchedulerOptions) -> Result<()> {
    let mut signals = Signals::listen()?;
    let bound = tokio::net::TcpListener::bind((options.host.as_str(), options.port)).await;
    let listener = bound.map_err(|error| cannot_bind(&options.host, options.port, "--port", &error))?;
    let address = listener
        .local_addr()
        .map_err(|error| Error::unavailable(error.to_string()))?;
    let longest = u32::try_from(MESSAGE_BYTES).unwrap_or(u32::MAX);
    let config = Arc::new(SchedulerConfig {
        namespace: "thali".to_owned(),
        external_host: options.host,
        bind_host: address.ip().to_string(),
        bind_port: address.port(),
        scheduling_policy: TaskSchedulingPolicy::PushStaged,
        task_distribution: TaskDistributionPolicy::RoundRobin,
        finished_job_data_clean_up_interval_seconds: KEPT,
        finished_job_state_clean_up_interval_seconds: KEPT,
        grpc_server_max_decoding_message_size: longest,
        grpc_server_max_encoding_message_size: longest,
        grpc_client_max_message_size: longest,
        executor_timeout_seconds: SILENCE,
        expire_dead_executor_interval_seconds: ROUND,
        no_executors_grace_period_seconds: SILENCE,
        override_physical_codec: Some(Arc::new(Codec::default())),
        ..SchedulerConfig::default()
    });
    let cluster = BallistaCluster::new_from_config(&config).await.map_err(ours)?;
    let scheduler = create_scheduler::<LogicalPlanNode, PhysicalPlanNode>(cluster, config)
        .await
        .map_err(ours)?;
    (options.announce)(Some(("ballista-scheduler", address)));
    (options.announce)(None);
    tokio::select! {
        ended = start_grpc_service_with_listener(listener, scheduler) => ended.map_err(ours),
        () = signals.next() => Ok(()),
    }
}

/// Where an executor listens, and for whom it works.
pub struct ExecutorOptions {
    /// `host:port`.
    pub scheduler: String,
    pub host: IpAddr,
    /// What clients and the scheduler find it by; the address it comes from if not given.
    pub advertised: Option<String>,
    /// For results (Arrow Flight); 0 is any free port, here as below.
    pub port: u16,
    /// For the scheduler.
    pub control_port: u16,
    /// Where results wait until they are fetched; a temporary folder if not given.
    pub folder: Option<PathBuf>,
    /// Tasks at the same time.
    pub slots: NonZero<usize>,
    /// Bytes that its tasks may hold, all together.
    pub memory_limit: u64,
    pub announce: Announce,
}

/// Does tasks with `store` until a signal, on which it finishes what it has begun.
///
/// # Errors
/// `Config` for an address that is none, and what makes Ballista's executor end.
pub async fn execute(options: ExecutorOptions, store: Arc<dyn OfflineStore>) -> Result<()> {
    let (scheduler_host, scheduler_port) = options
        .scheduler
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)))
        .ok_or_else(|| {
            Error::config(format!(
                "`{}` is no `host:port` of a scheduler",
                options.scheduler
            ))
        })?;
    let (port, control_port) = (
        free(options.host, options.port)?,
        free(options.host, options.control_port)?,
    );
    let temporary;
    let folder = match options.folder {
        Some(folder) => folder,
        None => {
            temporary = tempfile::tempdir()
                .map_err(|error| Error::unavailable(format!("a temporary folder cannot be made: {error}")))?;
            temporary.path().to_path_buf()
        }
    };
    let longest = u32::try_from(MESSAGE_BYTES).unwrap_or(u32::MAX);
    let config = Arc::new(ExecutorProcessConfig {
        bind_host: options.host.to_string(),
        external_host: options.advertised,
        port,
        grpc_port: control_port,
        scheduler_host,
        scheduler_port,
        // It waits for its scheduler, in whatever order they are started.
        scheduler_connect_timeout_seconds: 60,
        vcores: options.slots.get(),
        task_scheduling_policy: TaskSchedulingPolicy::PushStaged,
        work_dir: Some(folder.display().to_string()),
        job_data_ttl_seconds: KEPT,
        job_data_clean_up_interval_seconds: KEPT,
        grpc_max_decoding_message_size: longest,
        grpc_max_encoding_message_size: longest,
        executor_heartbeat_interval_seconds: HEARTBEAT,
        // Joins are counted by the store; this is what writing their results may hold.
        memory_pool_size: Some(options.memory_limit),
        override_physical_codec: Some(Arc::new(Codec::with_store(store))),
        ..ExecutorProcessConfig::default()
    });
    let health = config.health.clone();
    let announce = options.announce;
    announce(Some(("executor", SocketAddr::new(options.host, port))));
    let known = async {
        let mut turn = tokio::time::interval(Duration::from_millis(50));
        while !health.is_ready() {
            turn.tick().await;
        }
        announce(None);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = start_executor_process(config) => ended.map_err(ours),
        () = known => Ok(()),
    }
}

/// Ballista binds its ports itself and has to be told which.
fn free(host: IpAddr, port: u16) -> Result<u16> {
    let bound = std::net::TcpListener::bind((host, port)).and_then(|listener| listener.local_addr());
    let address =
        bound.map_err(|error| cannot_bind(&host.to_string(), port, "--port` and `--control-port", &error))?;
    Ok(address.port())
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn ours(error: BallistaError) -> Error {
    Error::unavailable(format!("the cluster process ended: {error}"))
}
