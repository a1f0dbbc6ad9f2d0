//! [`serve`]: one process with some or all roles. It binds every listener first, starts what the roles
//! need, and ends them in order: not ready, requests in flight finish, tasks stop, exit.

#[cfg(feature = "ballista")]
pub mod cluster;
mod listeners;
mod resources;

use std::{future::Future, net::SocketAddr, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use axum_server::{Handle, tls_rustls::RustlsConfig};
use chrono::Utc;
use futures::future::BoxFuture;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    context::Context,
    error::{Error, Kind, Result},
    http::Readiness,
    metrics::ProjectView,
    online::{
        feature_log::FeatureLog,
        ingest::{Journal, JournalOptions},
    },
    schedule::driver,
};

pub use listeners::{Listen, ListenerKind, Listening};

/// One of the servers that a process can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Registry,
    Online,
    Offline,
    Scheduler,
    Ui,
}

impl Role {
    /// Every role, as `--role all`.
    pub const ALL: [Self; 5] = [
        Self::Registry,
        Self::Online,
        Self::Offline,
        Self::Scheduler,
        Self::Ui,
    ];

    /// As written in `--role`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Registry => "registry",
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Scheduler => "scheduler",
            Self::Ui => "ui",
        }
    }
}

impl FromStr for Role {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|role| role.name() == text)
            .ok_or_else(|| {
                Error::invalid(format!("`{text}` is no role"))
                    .hint("roles are all, registry, online, offline, scheduler, ui")
            })
    }
}

/// The certificate chain and key of every listener, as PEM files.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Whom a serving node tells of its addresses.
pub type Announce = Box<dyn Fn(Option<&Listening>) + Send + Sync>;

/// What to serve and where.
pub struct ServeOptions {
    pub roles: Vec<Role>,
    pub listen: Vec<Listen>,
    pub tls: Option<TlsFiles>,
    /// Is told every address once it accepts, then `None` once everything is ready.
    pub announce: Announce,
}

/// Serves until a signal or until a task that must not end does.
///
/// # Errors
/// A port that cannot be bound, a certificate that cannot be read, or the error of the task that ended.
pub async fn serve(mut context: Context, options: ServeOptions) -> Result<()> {
    let mut signals = Signals::listen()?;
    if options.roles.contains(&Role::Online) {
        context.push_journal = push_journal(&context)?;
        context.feature_log = feature_log(&context);
    }
    let bound = listeners::bind(&options)?;
    let tls = match &options.tls {
        Some(files) => Some(load_tls(files).await?),
        None => None,
    };
    let readiness = Arc::new(readiness(&context, &options.roles));
    let (health, health_service) = tonic_health::server::health_reporter();
    let stop = CancellationToken::new();
    let handle: Handle<SocketAddr> = Handle::new();
    let mut tasks = Tasks::default();

    // The catalog is loaded before the first request can ask for it; a registry that is down now may
    // come back, so this only shows in /ready.
    if let Err(error) = context.registry.catalog(&context.config.project).await {
        tracing::warn!(%error, "the registry cannot be read yet");
    }
    for listeners::Bound {
        listening,
        socket,
        plain,
    } in bound
    {
        let router = listeners::router(listening.kind, &context, &options.roles, &health_service)?;
        let own_health = listening.kind.has_own_health();
        let router = crate::http::listener(router, own_health, &readiness, &context.metrics);
        let tls = if plain { None } else { tls.clone() };
        let server = listeners::run(socket, tls, router, handle.clone());
        // Joins keep cores busy; their server lives on the background threads.
        if listening.kind == ListenerKind::Offline {
            tasks
                .set
                .spawn_on(named("offline", server), context.background.handle());
        } else {
            tasks.set.spawn(named(listening.kind.name(), server));
        }
        (options.announce)(Some(&listening));
    }
    tasks.set.spawn(named(
        "registry refresh",
        watch_registry(context.clone(), stop.clone()),
    ));
    tasks.set.spawn(named(
        "gRPC health",
        mirror_health(Arc::clone(&readiness), health.clone(), stop.clone()),
    ));
    let metrics = Arc::clone(&context.metrics);
    let stopped = stop.clone();
    let measure = async move { resources::measure(&metrics, stopped).await };
    tasks.set.spawn(named("resource metrics", measure));
    if options.roles.contains(&Role::Scheduler) {
        tasks
            .set
            .spawn(named("scheduler", driver::drive(context.clone(), stop.clone())));
    }

    if let Some(journal) = context.push_journal.clone() {
        let (offline, metrics) = (Arc::clone(&context.offline), Arc::clone(&context.metrics));
        let appending = journal.run(offline, metrics, stop.clone());
        tasks
            .set
            .spawn_on(named("push journal", appending), context.background.handle());
    }

    let announced = wait_until_ready(&readiness);
    tokio::pin!(announced);
    let mut announced_ready = false;
    let ended = loop {
        tokio::select! {
            () = &mut announced, if !announced_ready => {
                announced_ready = true;
                (options.announce)(None);
            }
            () = signals.next() => break None,
            ended = tasks.next() => break ended,
        }
    };
    tracing::info!("shutting down");
    readiness.drain();
    health
        .set_service_status("", tonic_health::ServingStatus::NotServing)
        .await;
    let drained = drain(&context, &handle, &stop, &mut tasks);
    tokio::select! {
        () = drained => {}
        () = signals.next() => {
            tracing::warn!("second signal, exiting at once");
            std::process::exit(130);
        }
    }
    match ended {
        None => Ok(()),
        Some((name, Ok(()))) => Err(Error::internal(format!("task `{name}` ended by itself"))),
        Some((name, Err(error))) => Err(error.context(format!("task `{name}`"))),
    }
}

/// Where pushes wait for the offline store, if they are to.
fn push_journal(context: &Context) -> Result<Option<Arc<Journal>>> {
    let Some(batching) = &context.config.feature_server.push_batching else {
        return Ok(None);
    };
    let options = JournalOptions {
        folder: context.config.repo_path.join(&batching.journal),
        batch_size: batching.batch_size,
        interval: batching.interval,
        limit: batching.limit,
    };
    Journal::open(options).map(Some)
}

/// Where served features wait for their logs, if they are to be logged.
fn feature_log(context: &Context) -> Option<Arc<FeatureLog>> {
    let config = context.config.feature_server.feature_log.as_ref()?;
    let log = FeatureLog::start(
        config,
        Arc::clone(&context.offline),
        Arc::clone(&context.metrics),
        context.background.handle(),
    );
    Some(Arc::new(log))
}

async fn drain(context: &Context, handle: &Handle<SocketAddr>, stop: &CancellationToken, tasks: &mut Tasks) {
    let thali = &context.config.thali;
    tokio::time::sleep(thali.shutdown_delay).await;
    stop.cancel();
    handle.graceful_shutdown(Some(thali.shutdown_grace));
    let finish = async {
        while tasks.next().await.is_some() {}
        context.finish().await;
        // Nothing is served any more.
        if let Some(log) = &context.feature_log {
            log.close().await;
        }
    };
    // A little longer than the listeners' own limit, so that they end first.
    if tokio::time::timeout(thali.shutdown_grace + Duration::from_secs(2), finish)
        .await
        .is_err()
    {
        tracing::warn!("some tasks did not end in time and were stopped");
        tasks.set.abort_all();
    }
}

type Named = (&'static str, Result<()>);

#[derive(Default)]
struct Tasks {
    set: JoinSet<Named>,
}

impl Tasks {
    async fn next(&mut self) -> Option<Named> {
        Some(match self.set.join_next().await? {
            Ok(named) => named,
            Err(error) => (
                "unknown",
                Err(Error::internal("a task panicked").source_error(error)),
            ),
        })
    }
}

async fn named(name: &'static str, task: impl Future<Output = Result<()>>) -> Named {
    (name, task.await)
}

/// SIGTERM and Ctrl-C.
pub(crate) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    /// From here on they do not end the process.
    pub(crate) fn listen() -> Result<Self> {
        let listen = |kind| {
            signal(kind)
                .map_err(|error| Error::unavailable(format!("signals cannot be listened to: {error}")))
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// Waits for one.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

async fn load_tls(files: &TlsFiles) -> Result<RustlsConfig> {
    RustlsConfig::from_pem_file(&files.cert, &files.key)
        .await
        .map_err(|error| {
            Error::config(format!(
                "the certificate `{}` and key `{}` cannot be used: {error}",
                files.cert.display(),
                files.key.display()
            ))
            .hint("both must be PEM files, the certificate chain first")
        })
}

fn readiness(context: &Context, roles: &[Role]) -> Readiness {
    let mut readiness = Readiness::default();
    let registry = Arc::clone(&context.registry);
    let check = move || -> BoxFuture<'static, Result<()>> {
        let registry = Arc::clone(&registry);
        Box::pin(async move { registry.check().await })
    };
    // Who only reads goes on with what it knows; taking it out of service would help nobody.
    let reads_only = !roles.contains(&Role::Registry) && !roles.contains(&Role::Scheduler);
    let (registry, project) = (Arc::clone(&context.registry), context.config.project.clone());
    readiness.add_unless("registry", check, move || reads_only && registry.knows(&project));
    if roles.contains(&Role::Online) {
        let online = Arc::clone(&context.online);
        readiness.add("online store", move || {
            let online = Arc::clone(&online);
            Box::pin(async move { online.check().await })
        });
    }
    if roles.contains(&Role::Offline) {
        let offline = Arc::clone(&context.offline);
        readiness.add("offline store", move || {
            let offline = Arc::clone(&offline);
            Box::pin(async move { offline.check().await })
        });
    }
    if roles.contains(&Role::Scheduler) {
        let ledger = Arc::clone(&context.ledger);
        readiness.add("job ledger", move || {
            let ledger = Arc::clone(&ledger);
            Box::pin(async move { ledger.check().await })
        });
    }
    readiness
}

async fn wait_until_ready(readiness: &Readiness) {
    let mut turn = tokio::time::interval(Duration::from_millis(100));
    loop {
        turn.tick().await;
        if readiness.look().await.0 {
            return;
        }
    }
}

/// How old the freshness gauges may be; Feast renews them every 30 s.
const FRESHNESS: Duration = Duration::from_secs(10);

/// Looks for other processes' changes and keeps the freshness gauges; never ends by itself. Taking in a
/// large registry keeps a core busy for a while, which is not to be a core that answers requests.
async fn watch_registry(context: Context, stop: CancellationToken) -> Result<()> {
    let background = context.background.clone();
    background.run(follow_registry(context, stop)).await
}

async fn follow_registry(context: Context, stop: CancellationToken) -> Result<()> {
    let poll = context.config.thali.registry_poll;
    let period = context
        .config
        .registry
        .cache_ttl
        .map_or(poll, |ttl| ttl.min(poll));
    let mut turn = tokio::time::interval(period.max(Duration::from_millis(10)));
    turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut freshness = tokio::time::interval(FRESHNESS);
    let mut failing = false;
    loop {
        tokio::select! {
            _ = turn.tick() => {}
            () = context.registry.changed() => {}
            _ = freshness.tick() => {
                measure_freshness(&context).await;
                continue;
            }
            () = stop.cancelled() => return Ok(()),
        }
        match context.registry.refresh().await {
            Ok(changed) => {
                if changed {
                    context.metrics.registry_refreshes.inc();
                }
                if failing {
                    tracing::info!("the registry answers again");
                }
                failing = false;
            }
            Err(error) => {
                context.metrics.registry_failures.inc();
                if !failing {
                    tracing::warn!(%error, "the registry cannot be read; serving what is known");
                }
                failing = true;
            }
        }
    }
}

async fn measure_freshness(context: &Context) {
    let Ok(catalog) = context.registry.catalog(&context.config.project).await else {
        return;
    };
    for view in catalog.stored_views() {
        let Some(until) = view.materialized_until() else {
            continue;
        };
        let label = ProjectView {
            feature_view: view.name.clone(),
            project: view.project.clone(),
        };
        let age = (Utc::now() - until).as_seconds_f64();
        context.metrics.freshness.get_or_create(&label).set(age);
    }
}

/// Makes gRPC health say what `/ready` says.
async fn mirror_health(
    readiness: Arc<Readiness>,
    health: tonic_health::server::HealthReporter,
    stop: CancellationToken,
) -> Result<()> {
    let mut turn = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = turn.tick() => {}
            () = stop.cancelled() => return Ok(()),
        }
        let status = if readiness.look().await.0 {
            tonic_health::ServingStatus::Serving
        } else {
            tonic_health::ServingStatus::NotServing
        };
        health.set_service_status("", status).await;
    }
}

/// The error of a port that cannot be bound.
fn cannot_bind(host: &str, port: u16, flag: &str, error: &std::io::Error) -> Error {
    let message = format!("cannot listen on {host}:{port}: {error}");
    Error::new(Kind::Config, message).hint(format!(
        "free the port or choose another with `{flag}` (0 is any free port)"
    ))
}
