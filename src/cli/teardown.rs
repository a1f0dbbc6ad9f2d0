//! `thali teardown`: the project of this repository goes, from the registry and from the online store.
//! Other projects of the same registry stay (Feast's command removes them too).

use std::process::ExitCode;

use super::{Global, Name, Outcome, objects::remove::refuse_protected, output};
use crate::{model::ObjectKind, registry::changes::Changes};

pub(super) async fn run(global: &Global) -> Outcome {
    let (context, _telemetry) = global.open("warn").await?;
    let project = context.config.project.clone();
    let catalog = context.registry.fresh_catalog(&project).await?;
    let object = catalog.require(ObjectKind::Project, &project)?;
    refuse_protected(object)?;
    let changes = Changes {
        registry: context.registry.clone(),
        online: Some(context.online.clone()),
    };
    let author = super::author("teardown");
    changes
        .delete(ObjectKind::Project, &project, &project, &author)
        .await?;
    // Feast's command says nothing.
    if global.name == Name::Thali {
        output::line(format_args!("Removed project {project}"));
    }
    Ok(ExitCode::SUCCESS)
}
