//! `thali teardown`: the project of this repository goes, from the registry and from the online store.
//! Other projects of the same registry stay (Feast's command removes them too).

use std::process::ExitCode;

use super::{Global, Outcome, output};
use crate::{error::Error, model::ObjectKind, proto::feast::core, registry::changes::Changes};

/// A project with this tag set to `true` is not to be removed (`feast/project.py`).
const PROTECTED_TAG: &str = "feast.dev/protected-project";

pub(super) async fn run(global: &Global) -> Outcome {
    let (context, _telemetry) = global.open("warn").await?;
    let project = context.config.project.clone();
    let catalog = context.registry.fresh_catalog(&project).await?;
    let object = catalog.require(ObjectKind::Project, &project)?;
    let spec = object.decode::<core::Project>()?.spec.unwrap_or_default();
    if spec.tags.get(PROTECTED_TAG).is_some_and(|value| value == "true") {
        return Err(Error::invalid(format!("project `{project}` is protected"))
            .hint(format!("remove its tag `{PROTECTED_TAG}` first")));
    }
    let changes = Changes {
        registry: context.registry.clone(),
        online: Some(context.online.clone()),
    };
    let author = super::author("teardown");
    changes
        .delete(ObjectKind::Project, &project, &project, &author)
        .await?;
    output::line(format_args!("Removed project {project}"));
    Ok(ExitCode::SUCCESS)
}
