//! `thali precompute`: feature vectors of services, made anew for all entities.

use std::process::ExitCode;

use clap::Args;

use super::{Global, Outcome, output};
use crate::{model::ObjectKind, online::precompute::Maker};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The service; without one, every service with `precompute_online`
    #[arg(value_name = "SERVICE")]
    service: Option<String>,
}

pub(super) async fn run(global: &Global, arguments: &Arguments) -> Outcome {
    let (context, _telemetry) = global.open("warn").await?;
    let catalog = context.registry.fresh_catalog(&context.config.project).await?;
    let maker = Maker::new(&context, &catalog);
    let services = match &arguments.service {
        Some(service) => vec![service.clone()],
        None => {
            let mut chosen = Vec::new();
            for object in catalog.objects(ObjectKind::FeatureService) {
                let service = catalog.service(&object.name)?;
                if service.spec.as_ref().is_some_and(|spec| spec.precompute_online) {
                    chosen.push(object.name.clone());
                }
            }
            chosen
        }
    };
    for service in services {
        let count = maker.service(&service).await?;
        output::line(format_args!("{service}: {count} vectors made"));
    }
    Ok(ExitCode::SUCCESS)
}
