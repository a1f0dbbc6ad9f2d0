//! `thali serve`: the roles of this process and their addresses.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use super::{Global, Outcome, output};
use crate::{
    error::{Error, Result},
    node::{self, Listen, ListenerKind, Listening, Role, ServeOptions, TlsFiles},
};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Roles to serve, separated by commas: all, registry, online, offline, scheduler, ui
    #[arg(long, value_delimiter = ',', default_value = "all")]
    role: Vec<String>,
    #[command(flatten)]
    listeners: Listeners,
}

/// Where to listen.
#[derive(Debug, Args)]
pub(super) struct Listeners {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Port of the registry (gRPC); 0 is any free port, here as below
    #[arg(long, value_name = "PORT", default_value_t = 6570)]
    registry_port: u16,
    /// Port of the registry (REST)
    #[arg(long, value_name = "PORT", default_value_t = 6572)]
    registry_rest_port: u16,
    /// Port of the feature server (HTTP)
    #[arg(long, value_name = "PORT", default_value_t = 6566)]
    online_port: u16,
    /// Port of the offline server (Arrow Flight)
    #[arg(long, value_name = "PORT", default_value_t = 8815)]
    offline_port: u16,
    /// Port of the web page
    #[arg(long, value_name = "PORT", default_value_t = 8888)]
    ui_port: u16,
    /// Port of the metrics and of health, whatever the roles
    #[arg(long, value_name = "PORT", default_value_t = 8000)]
    metrics_port: u16,
    /// Private key of every listener, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Certificate chain of every listener, PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
}

pub(super) async fn run(global: &Global, arguments: Arguments) -> Outcome {
    let roles = roles(&arguments.role)?;
    start(global, options(arguments.listeners, roles, announce)).await
}

/// Opens everything and serves until a signal.
pub(super) async fn start(global: &Global, options: ServeOptions) -> Outcome {
    let (context, telemetry) = global.open("info").await?;
    let outcome = node::serve(context, options).await;
    telemetry.shutdown();
    outcome.map(|()| ExitCode::SUCCESS)
}

/// The roles that the words mean, each once, in the roles' own order.
fn roles(words: &[String]) -> Result<Vec<Role>> {
    let mut roles = Vec::new();
    for word in words
        .iter()
        .map(|word| word.trim())
        .filter(|word| !word.is_empty())
    {
        if word == "all" {
            roles.extend(Role::ALL);
        } else {
            roles.push(word.parse()?);
        }
    }
    roles.sort();
    roles.dedup();
    if roles.is_empty() {
        return Err(Error::invalid("no role to serve").hint("`--role all`"));
    }
    Ok(roles)
}

/// The node's options; `announce` is told every address and then that all are ready.
pub(super) fn options(
    listeners: Listeners,
    roles: Vec<Role>,
    announce: impl Fn(Option<&Listening>) + Send + Sync + 'static,
) -> ServeOptions {
    let mut listen: Vec<Listen> = roles
        .iter()
        .flat_map(|role| listeners.of_role(*role))
        .map(|(kind, port, flag)| listeners.listen(kind, port, flag))
        .collect();
    listen.push(listeners.listen(ListenerKind::Metrics, listeners.metrics_port, "--metrics-port"));
    ServeOptions {
        roles,
        listen,
        tls: listeners
            .tls_cert
            .zip(listeners.tls_key)
            .map(|(cert, key)| TlsFiles { cert, key }),
        announce: Box::new(announce),
    }
}

impl Listeners {
    /// The ports a role opens, and the flags that choose them.
    fn of_role(&self, role: Role) -> Vec<(ListenerKind, u16, &'static str)> {
        match role {
            Role::Registry => vec![
                (ListenerKind::Registry, self.registry_port, "--registry-port"),
                (
                    ListenerKind::RegistryRest,
                    self.registry_rest_port,
                    "--registry-rest-port",
                ),
            ],
            Role::Online => vec![(ListenerKind::Online, self.online_port, "--online-port")],
            Role::Offline => vec![(ListenerKind::Offline, self.offline_port, "--offline-port")],
            Role::Ui => vec![(ListenerKind::Ui, self.ui_port, "--ui-port")],
            // It answers on the metrics port only.
            Role::Scheduler => Vec::new(),
        }
    }

    fn listen(&self, kind: ListenerKind, port: u16, flag: &'static str) -> Listen {
        Listen {
            kind,
            host: self.host.clone(),
            port,
            flag,
            plain: false,
        }
    }
}

/// The lines that whoever started the process waits for.
pub(super) fn announce(listening: Option<&Listening>) {
    match listening {
        Some(listening) => output::line(format_args!(
            "listening {} {}://{}",
            listening.kind.name(),
            listening.scheme,
            listening.address
        )),
        None => output::line(format_args!("ready")),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn words_become_roles() {
        let parse = |words: &[&str]| roles(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert_eq!(parse(&["all"]).unwrap(), Role::ALL);
        assert_eq!(parse(&["ui", "online", "ui"]).unwrap(), [Role::Online, Role::Ui]);
        assert!(parse(&["everything"]).is_err());
        assert!(parse(&[""]).is_err());
    }
}
