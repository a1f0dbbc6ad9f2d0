//! `thali serve`: the roles of this process and their addresses.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use super::{Global, Outcome, output};
use crate::{
    error::{Error, Result},
    node::{self, Listening, Role, ServeOptions, TlsFiles},
};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Roles to serve, separated by commas: all, registry, online, offline, scheduler, ui
    #[arg(long, value_delimiter = ',', default_value = "all")]
    pub(super) role: Vec<String>,
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    pub(super) host: String,
    /// Port of the registry (gRPC); 0 is any free port, here as below
    #[arg(long, value_name = "PORT", default_value_t = 6570)]
    pub(super) registry_port: u16,
    /// Port of the registry (REST)
    #[arg(long, value_name = "PORT", default_value_t = 6572)]
    pub(super) registry_rest_port: u16,
    /// Port of the feature server (HTTP)
    #[arg(long, value_name = "PORT", default_value_t = 6566)]
    pub(super) online_port: u16,
    /// Port of the offline server (Arrow Flight)
    #[arg(long, value_name = "PORT", default_value_t = 8815)]
    pub(super) offline_port: u16,
    /// Port of the web page
    #[arg(long, value_name = "PORT", default_value_t = 8888)]
    pub(super) ui_port: u16,
    /// Port of the metrics and of health, whatever the roles
    #[arg(long, value_name = "PORT", default_value_t = 8000)]
    pub(super) metrics_port: u16,
    /// Private key of every listener, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(super) tls_key: Option<PathBuf>,
    /// Certificate chain of every listener, PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(super) tls_cert: Option<PathBuf>,
}

pub(super) async fn run(global: &Global, arguments: Arguments) -> Outcome {
    let roles = roles(&arguments.role)?;
    let (context, telemetry) = global.open("info").await?;
    let outcome = node::serve(context, options(arguments, roles, announce)).await;
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
    arguments: Arguments,
    roles: Vec<Role>,
    announce: impl Fn(Option<&Listening>) + Send + Sync + 'static,
) -> ServeOptions {
    ServeOptions {
        roles,
        host: arguments.host,
        registry_port: arguments.registry_port,
        registry_rest_port: arguments.registry_rest_port,
        online_port: arguments.online_port,
        offline_port: arguments.offline_port,
        ui_port: arguments.ui_port,
        metrics_port: arguments.metrics_port,
        tls: arguments
            .tls_cert
            .zip(arguments.tls_key)
            .map(|(cert, key)| TlsFiles { cert, key }),
        announce: Box::new(announce),
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
