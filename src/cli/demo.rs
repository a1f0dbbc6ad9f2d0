//! `thali demo`: the flights project from nothing to served features, with three commands to try.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Mutex, PoisonError},
};

use chrono::{DateTime, TimeZone as _, Utc};
use clap::Args;

use super::{Global, Outcome, apply, init, materialize, output, repository::Options, serve};
use crate::{
    config::Config,
    context::Context,
    error::{Error, Result},
    materialize::{Request, Window},
    node::{self, Listening, Role},
    schedule::ledger::Trigger,
};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Folder to work in; made when it is not there
    #[arg(default_value = "thali-demo")]
    directory: PathBuf,
    #[command(flatten)]
    listeners: serve::Listeners,
}

/// The project as it lies in the repository of thali.
const FILES: [(&str, &[u8]); 5] = [
    (
        "feature_store.yaml",
        include_bytes!("demo/flights/feature_store.yaml"),
    ),
    (
        "definitions.yaml",
        include_bytes!("demo/flights/definitions.yaml"),
    ),
    (
        "data/flights.parquet",
        include_bytes!("demo/flights/data/flights.parquet"),
    ),
    (
        "data/weather.parquet",
        include_bytes!("demo/flights/data/weather.parquet"),
    ),
    (
        "data/planes.parquet",
        include_bytes!("demo/flights/data/planes.parquet"),
    ),
];

pub(super) async fn run(global: &Global, arguments: Arguments) -> Outcome {
    let directory = std::path::absolute(&arguments.directory).unwrap_or(arguments.directory);
    let written = unpack(&directory)?;
    let verb = if written { "Wrote" } else { "Using" };
    output::line(format_args!(
        "{verb} the flights project in {}",
        directory.display()
    ));

    let sources = crate::config::Sources {
        chdir: Some(directory),
        ..global.sources()
    };
    let config = Config::load(&crate::config::Sources {
        file: None,
        ..sources
    })?;
    let telemetry = global.start_telemetry("warn", &config)?;
    let context = Context::open(config).await?;
    apply::apply(
        &context,
        &Options {
            skip_source_validation: false,
            skip_feature_view_validation: false,
        },
    )
    .await?;
    let project = context.config.project.clone();
    let (start, end) = window();
    let window = Window::Between { start, end };
    let request = Request::new(&project, Vec::new(), window, Trigger::Cli);
    materialize::with_progress(&context, request).await?;

    let roles = Role::ALL.to_vec();
    let addresses: Mutex<Vec<Listening>> = Mutex::default();
    let announce = move |listening: Option<&Listening>| {
        serve::announce(listening);
        let mut known = addresses.lock().unwrap_or_else(PoisonError::into_inner);
        match listening {
            Some(listening) => known.push(listening.clone()),
            None => invite(&known),
        }
    };
    let outcome = node::serve(context, serve::options(arguments.listeners, roles, announce)).await;
    telemetry.shutdown();
    outcome.map(|()| ExitCode::SUCCESS)
}

/// Writes what is not there yet; a folder with another project is left alone.
fn unpack(directory: &Path) -> Result<bool> {
    let config = directory.join("feature_store.yaml");
    if config.exists() {
        let text = std::fs::read_to_string(&config).unwrap_or_default();
        if !text.lines().any(|line| line.trim() == "project: flights") {
            return Err(
                Error::invalid(format!("{} holds another project", directory.display()))
                    .hint("name another folder: `thali demo DIR`"),
            );
        }
    }
    let mut written = false;
    for (name, bytes) in FILES {
        let path = directory.join(name);
        if !path.exists() {
            init::write(&path, bytes)?;
            written = true;
        }
    }
    Ok(written)
}

/// Everything there is: the oldest planes were built in the fifties, the last flight left in 2013.
fn window() -> (DateTime<Utc>, DateTime<Utc>) {
    let day = |year| {
        Utc.with_ymd_and_hms(year, 1, 1, 0, 0, 0)
            .single()
            .unwrap_or_default()
    };
    (day(1900), day(2014))
}

/// Three commands to try.
fn invite(addresses: &[Listening]) {
    let address = |name: &str| {
        let found = addresses.iter().find(|listening| listening.kind.name() == name);
        found
            .map(|listening| (listening.scheme, listening.address))
            .map(|(scheme, address)| {
                // What listens everywhere is reached at home.
                let host = if address.ip().is_unspecified() {
                    "127.0.0.1".to_owned()
                } else {
                    address.ip().to_string()
                };
                (scheme, host, address.port())
            })
    };
    let (Some(online), Some(registry), Some(offline), Some(ui)) = (
        address("online"),
        address("registry"),
        address("offline"),
        address("ui"),
    ) else {
        return;
    };
    let url = |(scheme, host, port): &(&str, String, u16)| format!("{scheme}://{host}:{port}");
    output::line(format_args!(
        r#"
Try it:

1. The newest weather at Newark, and a Boeing 737:

   curl -s {online}/get-online-features -H 'content-type: application/json' \
     -d '{{"feature_service": "departure_conditions", "entities": {{"origin": ["EWR"], "tailnum": ["N14228"]}}}}'

2. Feast's own SDK (pip install 'feast[grpcio]'), from any folder, for training rows:

   python3 - <<'PYTHON'
   import pandas as pd
   from feast import FeatureStore, RepoConfig

   store = FeatureStore(config=RepoConfig(
       project="flights", provider="local", entity_key_serialization_version=3,
       registry={{"registry_type": "remote", "path": "{registry_host}:{registry_port}"}},
       online_store={{"type": "remote", "path": "{online}"}},
       offline_store={{"type": "remote", "host": "{offline_host}", "port": {offline_port}}},
   ))
   rows = pd.DataFrame({{"origin": ["JFK"], "tailnum": ["N14228"],
                        "event_timestamp": pd.to_datetime(["2013-07-04T15:00:00Z"])}})
   print(store.get_historical_features(rows, store.get_feature_service("departure_delay")).to_df().T)
   PYTHON

3. The page, in a browser:

   {ui}

Ctrl-C stops it; `thali demo` goes on where it was."#,
        online = url(&online),
        registry_host = registry.1,
        registry_port = registry.2,
        offline_host = offline.1,
        offline_port = offline.2,
        ui = url(&ui),
    ));
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_project_is_unpacked_once_and_only_into_its_own_folder() {
        let dir = tempfile::tempdir().unwrap();
        assert!(unpack(dir.path()).unwrap());
        std::fs::write(dir.path().join("definitions.yaml"), "entities: []\n").unwrap();
        assert!(!unpack(dir.path()).unwrap());
        let kept = std::fs::read_to_string(dir.path().join("definitions.yaml")).unwrap();
        assert_eq!(kept, "entities: []\n", "what the user has changed stays");
        let other = tempfile::tempdir().unwrap();
        std::fs::write(other.path().join("feature_store.yaml"), "project: mine\n").unwrap();
        assert!(unpack(other.path()).is_err());
    }
}
