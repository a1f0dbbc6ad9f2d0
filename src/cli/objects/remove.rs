//! Deleting objects from the command line: by kind and name, or by a name of whatever kind.

use std::{io::Write as _, process::ExitCode};

use clap::Args;
use serde_json::Value as Json;

use super::{
    super::{Global, Name, Outcome, author, output},
    Place, find,
    kinds::{Group, More},
};
use crate::{
    context::Context,
    error::{Error, Result},
    model::{Object, ObjectKind},
    registry::changes::Changes,
};

#[derive(Debug, Args)]
pub(in super::super) struct Arguments {
    /// Name of the object
    name: String,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
pub(super) struct Delete {
    /// Its name
    name: String,
    /// Do not ask; projects are asked about
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    place: Place,
}

/// Deletes one object of the group.
pub(super) async fn one(context: &Context, called: Name, group: &Group, asked: &Delete) -> Outcome {
    let name = &asked.name;
    let is_project = group.more == More::Projects;
    if is_project && !asked.yes && !confirmed(name)? {
        output::note(format_args!("Aborted!"));
        return Ok(ExitCode::from(1));
    }
    let found = find(context, group, asked.place.project(context), name).await?;
    if is_project {
        refuse_protected(&found.object)?;
    }
    let project = found.catalog.project();
    remove(context, &found.object, project).await?;
    if called == Name::Feast && is_project {
        output::line(format_args!("Project '{name}' deleted successfully."));
    } else {
        output::line(format_args!("{} \"{name}\" deleted", found.object.kind.label()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks on the terminal; no answer is a no.
fn confirmed(name: &str) -> Result<bool> {
    let failed = |error: std::io::Error| Error::invalid(format!("the answer cannot be read: {error}"));
    let mut out = std::io::stdout();
    write!(
        out,
        "Are you sure you want to delete project '{name}'? This will remove all associated resources from the \
         registry. [y/N]: "
    )
    .and_then(|()| out.flush())
    .map_err(failed)?;
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer).map_err(failed)?;
    if read == 0 {
        output::line(format_args!(""));
    }
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// A project with this tag set to `true` is not to be removed (`feast/constants.py`).
const PROTECTED_TAG: &str = "feast.dev/protected-project";

/// Whether somebody else looks after the project.
pub(super) fn is_protected(project: &Object) -> Result<bool> {
    let json = project.to_json()?;
    let tags = json.pointer("/spec/tags").and_then(Json::as_object);
    let value = tags
        .and_then(|tags| tags.get(PROTECTED_TAG))
        .and_then(Json::as_str);
    Ok(value == Some("true"))
}

/// The error of whoever wants to remove a project that somebody else looks after.
pub(in super::super) fn refuse_protected(project: &Object) -> Result<()> {
    if !is_protected(project)? {
        return Ok(());
    }
    let message = format!(
        "Cannot delete protected project \"{}\". Protected projects are managed externally.",
        project.name
    );
    Err(Error::invalid(message).hint(format!("remove its tag `{PROTECTED_TAG}` first")))
}

/// Removes an object as the servers do: the registry first, then the online store follows.
async fn remove(context: &Context, object: &Object, project: &str) -> Result<()> {
    let changes = Changes {
        registry: context.registry.clone(),
        online: Some(context.online.clone()),
    };
    let author = author("delete");
    changes.delete(object.kind, project, &object.name, &author).await
}

/// In which order `delete` looks for a name (`feast/cli/cli.py`, `delete`).
const DELETED_KINDS: [ObjectKind; 9] = [
    ObjectKind::Entity,
    ObjectKind::FeatureView,
    ObjectKind::FeatureService,
    ObjectKind::DataSource,
    ObjectKind::SavedDataset,
    ObjectKind::ValidationReference,
    ObjectKind::StreamFeatureView,
    ObjectKind::OnDemandFeatureView,
    ObjectKind::LabelView,
];

/// `thali delete NAME`: the first object with that name, whatever it is.
pub(in super::super) async fn run(global: &Global, arguments: &Arguments) -> Outcome {
    let (context, _telemetry) = global.open("warn").await?;
    let (project, name) = (arguments.place.project(&context), &arguments.name);
    let catalog = context.registry.fresh_catalog(project).await?;
    let Some(object) = DELETED_KINDS
        .into_iter()
        .find_map(|kind| catalog.object(kind, name))
    else {
        output::line(format_args!("Object not found. Deletion skipped."));
        return Ok(ExitCode::SUCCESS);
    };
    remove(&context, object, project).await?;
    let message = object.kind.message_name();
    let class = message.rsplit('.').next().unwrap_or(message);
    output::line(format_args!("Deleted {class} {name} from {project}."));
    Ok(ExitCode::SUCCESS)
}
