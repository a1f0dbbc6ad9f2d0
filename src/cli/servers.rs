//! Feast's server commands: each starts the one role it names, at Feast's address and with Feast's
//! flags. Flags about worker processes and caches are accepted and mean nothing here.

use std::path::PathBuf;

use clap::{ArgAction, Args, Subcommand};

use super::{Global, Outcome, output, serve};
use crate::{
    error::{Error, Result},
    node::{Listen, ListenerKind, Role, ServeOptions, TlsFiles},
};

/// `feast serve`; `thali serve` has flags of its own.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(super) struct Online {
    /// Address to listen on
    #[arg(short, long, default_value = "127.0.0.1")]
    host: String,
    /// Port to listen on
    #[arg(short, long, default_value_t = 6566)]
    port: u16,
    /// Both protocols answer on the one port, whichever is asked for
    #[arg(short = 't', long = "type", value_parser = ["http", "grpc"], ignore_case = true, default_value = "http")]
    _type: String,
    /// There is no access log
    #[arg(long = "no-access-log")]
    _no_access_log: bool,
    /// Serve metrics on port 8000 as well
    #[arg(short, long)]
    metrics: bool,
    #[command(flatten)]
    _workers: Workers,
    #[command(flatten)]
    tls: Tls,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

/// What tunes Python's worker processes; there are none here.
#[derive(Debug, Args)]
struct Workers {
    #[arg(short, long, hide = true, allow_negative_numbers = true)]
    workers: Option<i64>,
    #[arg(long, hide = true)]
    worker_connections: Option<i64>,
    #[arg(long, hide = true)]
    max_requests: Option<i64>,
    #[arg(long, hide = true)]
    max_requests_jitter: Option<i64>,
    #[arg(long, hide = true)]
    keep_alive_timeout: Option<i64>,
    #[arg(short, long = "registry_ttl_sec", hide = true)]
    registry_ttl_sec: Option<i64>,
}

#[derive(Debug, Args)]
struct Tls {
    /// Private key, PEM
    #[arg(short, long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Certificate chain, PEM
    #[arg(short, long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
}

impl Tls {
    /// The files, both or none; an empty text is none, as in Feast.
    fn files(self, server: &str) -> Result<Option<TlsFiles>> {
        let given = |file: Option<PathBuf>| file.filter(|file| !file.as_os_str().is_empty());
        match (given(self.cert), given(self.key)) {
            (Some(cert), Some(key)) => Ok(Some(TlsFiles { cert, key })),
            (None, None) => Ok(None),
            _ => Err(Error::invalid(format!(
                "Please pass --cert and --key args to start the {server} server in TLS mode."
            ))),
        }
    }
}

/// The servers whose names `thali` has no other use for.
#[derive(Debug, Subcommand)]
pub(super) enum Servers {
    /// Serve the registry: gRPC, and REST when asked for
    #[command(name = "serve_registry")]
    Registry(Registry),
    /// Serve the offline store (Arrow Flight)
    #[command(name = "serve_offline")]
    Offline(Offline),
    /// Serve the web page
    Ui(Ui),
    /// Serve features and take pushes over gRPC
    Listen(Ingest),
}

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(super) struct Registry {
    /// Port of the gRPC server
    #[arg(short, long, default_value_t = 6570)]
    port: u16,
    /// Port of the REST server
    #[arg(long, default_value_t = 6572)]
    rest_port: u16,
    /// Serve gRPC, which is the default
    #[arg(long, overrides_with = "no_grpc")]
    grpc: bool,
    /// Do not serve gRPC
    #[arg(long)]
    no_grpc: bool,
    /// Serve REST as well
    #[arg(short, long)]
    rest_api: bool,
    /// Address of the REST server; gRPC listens on every address
    #[arg(short, long, default_value = ANY)]
    host: String,
    #[command(flatten)]
    tls: Tls,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(super) struct Offline {
    /// Address to listen on
    #[arg(short, long, default_value = "127.0.0.1")]
    host: String,
    /// Port to listen on
    #[arg(short, long, default_value_t = 8815)]
    port: u16,
    #[command(flatten)]
    tls: Tls,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(super) struct Ui {
    /// Address to listen on
    #[arg(short, long, default_value = "0.0.0.0")]
    host: String,
    /// Port to listen on
    #[arg(short, long, default_value_t = 8888)]
    port: u16,
    #[arg(short, long = "registry_ttl_sec", hide = true)]
    _registry_ttl_sec: Option<i64>,
    #[arg(long = "root_path", hide = true, default_value = "")]
    root_path: String,
    #[arg(long, hide = true, default_value = "", env = "FEAST_UI_CORS_ALLOWED_ORIGINS")]
    cors_allowed_origins: String,
    #[command(flatten)]
    tls: Tls,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

#[derive(Debug, Args)]
pub(super) struct Ingest {
    /// Address to listen on, HOST:PORT
    #[arg(short, long, default_value = "localhost:50051", value_parser = host_and_port)]
    address: (String, u16),
    #[arg(short = 'w', long = "max_workers", hide = true)]
    _max_workers: Option<i64>,
    #[arg(short, long = "registry_ttl_sec", hide = true)]
    _registry_ttl_sec: Option<i64>,
}

/// Every address of the machine.
const ANY: &str = "::";

/// Where Feast's feature server has its metrics, and nothing can be said about it.
const METRICS_PORT: u16 = 8000;

impl Online {
    pub(super) async fn run(self, global: &Global) -> Outcome {
        serve::start(global, self.options()?).await
    }

    pub(super) fn options(self) -> Result<ServeOptions> {
        let mut listen = vec![listen_on(ListenerKind::Online, &self.host, self.port, "--port")];
        if self.metrics {
            listen.push(Listen {
                // As Feast's, whatever the server itself speaks.
                plain: true,
                ..listen_on(ListenerKind::Metrics, ANY, METRICS_PORT, "--metrics")
            });
        }
        options(Role::Online, listen, self.tls.files("feature")?)
    }
}

impl Servers {
    pub(super) async fn run(self, global: &Global) -> Outcome {
        serve::start(global, self.options()?).await
    }

    pub(super) fn options(self) -> Result<ServeOptions> {
        match self {
            Self::Registry(registry) => registry.options(),
            Self::Offline(Offline { host, port, tls, .. }) => {
                let listen = vec![listen_on(ListenerKind::Offline, &host, port, "--port")];
                options(Role::Offline, listen, tls.files("offline")?)
            }
            Self::Ui(ui) => {
                ui.note_what_is_ignored();
                let listen = vec![listen_on(ListenerKind::Ui, &ui.host, ui.port, "--port")];
                options(Role::Ui, listen, ui.tls.files("UI")?)
            }
            Self::Listen(ingest) => {
                let (host, port) = ingest.address;
                let listen = vec![listen_on(ListenerKind::Online, &host, port, "--address")];
                options(Role::Online, listen, None)
            }
        }
    }
}

impl Registry {
    fn options(self) -> Result<ServeOptions> {
        let mut wanted = Vec::new();
        if !self.no_grpc {
            wanted.push(listen_on(ListenerKind::Registry, ANY, self.port, "--port"));
        }
        if self.rest_api {
            wanted.push(listen_on(
                ListenerKind::RegistryRest,
                &self.host,
                self.rest_port,
                "--rest-port",
            ));
        }
        if wanted.is_empty() {
            return Err(Error::invalid("--no-grpc leaves nothing to serve").hint("add --rest-api"));
        }
        options(Role::Registry, wanted, self.tls.files("registry")?)
    }
}

impl Ui {
    fn note_what_is_ignored(&self) {
        if !self.root_path.is_empty() {
            output::note(format_args!(
                "note: --root_path has no effect: give the page a host name of its own"
            ));
        }
        if !self.cors_allowed_origins.is_empty() {
            output::note(format_args!(
                "note: --cors-allowed-origins has no effect: other origins are not answered"
            ));
        }
    }
}

fn listen_on(kind: ListenerKind, host: &str, port: u16, flag: &'static str) -> Listen {
    Listen {
        kind,
        host: host.to_owned(),
        port,
        flag,
        plain: false,
    }
}

fn options(role: Role, listen: Vec<Listen>, tls: Option<TlsFiles>) -> Result<ServeOptions> {
    Ok(ServeOptions {
        roles: vec![role],
        listen,
        tls,
        announce: Box::new(serve::announce),
    })
}

fn host_and_port(text: &str) -> Result<(String, u16), String> {
    let parsed = text
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (host, port) = parsed.ok_or_else(|| "write HOST:PORT".to_owned())?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Ok((host.to_owned(), port))
}
