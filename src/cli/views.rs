//! `thali feature-views enable | disable | set-state | list-versions`, in the words of Feast's command.

use std::process::ExitCode;

use clap::Subcommand;

use super::{Name, Outcome, author, objects::kinds::state, output};
use crate::{
    context::Context,
    error::Result,
    model::{Object, ObjectKind},
    proto::feast::core::FeatureViewState,
    registry::changes::any_view,
};

/// What can be done to a view besides applying it.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Let a view be served and materialized
    Enable {
        /// Its name
        name: String,
    },
    /// Stop a view from being served and materialized
    Disable {
        /// Its name
        name: String,
    },
    /// Move a view to another state of its life
    SetState {
        /// Its name
        name: String,
        #[arg(
            ignore_case = true,
            value_parser = ["CREATED", "GENERATED", "MATERIALIZING", "AVAILABLE_ONLINE"]
        )]
        state: String,
    },
    /// Show the stored versions of a view
    ListVersions {
        /// Its name
        name: String,
    },
}

impl Command {
    pub(super) async fn run(self, context: &Context, called: Name) -> Outcome {
        match self {
            Self::Enable { name } => enable(context, &name, true).await?,
            Self::Disable { name } => enable(context, &name, false).await?,
            Self::ListVersions { name } => list_versions(context, &name).await?,
            Self::SetState { name, state } => return set_state(context, called, &name, &state).await,
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn enable(context: &Context, name: &str, enabled: bool) -> Result<()> {
    let project = &context.config.project;
    let catalog = context.registry.fresh_catalog(project).await?;
    let view = any_view(&catalog, name)?;
    if !has_life(view) {
        output::line(format_args!(
            "Feature view '{name}' does not support enable/disable."
        ));
        return Ok(());
    }
    let json = view.to_json()?;
    let disabled = json
        .pointer("/spec/disabled")
        .and_then(serde_json::Value::as_bool);
    let word = if enabled { "enabled" } else { "disabled" };
    if disabled.unwrap_or_default() != enabled {
        output::line(format_args!("Feature view '{name}' is already {word}."));
        return Ok(());
    }
    let author = author(if enabled { "enable" } else { "disable" });
    context
        .registry
        .set_enabled(project, name, enabled, &author)
        .await?;
    output::line(format_args!("Feature view '{name}' has been {word}."));
    Ok(())
}

/// Only label views can be neither disabled nor moved.
fn has_life(view: &Object) -> bool {
    view.kind != ObjectKind::LabelView
}

async fn set_state(context: &Context, called: Name, name: &str, wanted: &str) -> Outcome {
    let project = &context.config.project;
    let catalog = context.registry.fresh_catalog(project).await?;
    let view = any_view(&catalog, name)?;
    if !has_life(view) {
        output::line(format_args!(
            "Feature view '{name}' does not support state management."
        ));
        return Ok(ExitCode::SUCCESS);
    }
    let wanted = wanted.to_uppercase();
    if state(&view.to_json()?) == wanted {
        output::line(format_args!(
            "Feature view '{name}' is already in state {wanted}."
        ));
        return Ok(ExitCode::SUCCESS);
    }
    let state = FeatureViewState::from_str_name(&wanted).unwrap_or_default();
    let author = author("set-state");
    match context.registry.set_state(project, name, state, &author).await {
        Ok(()) => output::line(format_args!("Feature view '{name}' state set to {wanted}.")),
        // Feast's command says so and ends well.
        Err(error) if called == Name::Feast && error.kind().is_callers_fault() => {
            output::line(format_args!("{error}"));
        }
        Err(error) => return Err(error),
    }
    Ok(ExitCode::SUCCESS)
}

async fn list_versions(context: &Context, name: &str) -> Result<()> {
    let catalog = context.registry.fresh_catalog(&context.config.project).await?;
    let mut versions: Vec<_> = catalog
        .state()
        .versions
        .iter()
        .filter(|version| version.view == name)
        .collect();
    if versions.is_empty() {
        output::line(format_args!(
            "No version history found for feature view '{name}'."
        ));
        return Ok(());
    }
    versions.sort_by_key(|version| version.number);
    let rows: Vec<Vec<String>> = versions
        .into_iter()
        .map(|version| {
            vec![
                format!("v{}", version.number),
                version.kind.label().replace(' ', "_"),
                version.created.format("%Y-%m-%d %H:%M:%S%.6f").to_string(),
                version.version_id.clone(),
            ]
        })
        .collect();
    output::table(&["VERSION", "TYPE", "CREATED", "VERSION_ID"], &rows);
    Ok(())
}
