//! `thali registry …` and `registry-dump`: the registry as a whole.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Map, Value as Json};

use super::{Global, Name, Outcome, archive, history, output};
use crate::{
    config::{RegistryBackend, SchemaMode},
    error::{Error, Result},
    model::{
        Object, ObjectKind,
        object::{dynamic, message_to_json},
    },
    registry::{Catalog, store::sql::SqlStore},
};

/// Commands about the registry's storage.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create the tables of a SQL registry
    CreateSchema,
    /// List what was applied, when and by whom
    History(history::HistoryArguments),
    /// Show what changed between two entries of the history
    Diff(history::DiffArguments),
    /// Make the project what it was after an entry of the history
    Rollback(history::RollbackArguments),
    /// Write projects to a file that any registry can import
    Export(archive::ExportArguments),
    /// Read projects from a file
    Import(archive::ImportArguments),
}

impl Command {
    pub(super) async fn run(self, global: &Global) -> Outcome {
        match self {
            Self::CreateSchema => create_schema(global).await,
            Self::History(arguments) => arguments.run(global).await,
            Self::Diff(arguments) => arguments.run(global).await,
            Self::Rollback(arguments) => arguments.run(global).await,
            Self::Export(arguments) => arguments.run(global).await,
            Self::Import(arguments) => arguments.run(global).await,
        }
    }
}

async fn create_schema(global: &Global) -> Outcome {
    let config = global.load()?.config;
    let kind = match config.registry.backend {
        RegistryBackend::Sql(mut sql) => {
            // Opening makes what is missing, unless the file says that it may not: here is where it may.
            sql.schema_mode = SchemaMode::Auto;
            SqlStore::open(&sql, config.thali.registry_history.keep).await?;
            // The job ledger's tables are made when it is first asked.
            let (context, _telemetry) = global.open("warn").await?;
            context.ledger.check().await?;
            output::line(format_args!("SQL registry schema created successfully."));
            return Ok(ExitCode::SUCCESS);
        }
        RegistryBackend::File { .. } | RegistryBackend::Object(_) => "file",
        RegistryBackend::Remote(_) => "remote",
    };
    let message = format!(
        "This command only applies to SQL-based registries (registry_type='sql'). Current type: '{kind}'"
    );
    if global.name == Name::Feast {
        output::note(format_args!("Error: {message}"));
        return Ok(ExitCode::from(1));
    }
    Err(Error::invalid(message))
}

/// `registry-dump`: the project as JSON, in the shape of Feast's command: sorted, and without the names of
/// the project in each object.
pub(super) async fn dump(global: &Global) -> Outcome {
    let (context, _telemetry) = global.open("warn").await?;
    let catalog = context.registry.fresh_catalog(&context.config.project).await?;
    let mut root = dumped(&catalog)?;
    root.sort_all_objects();
    output::json(&root, 2)?;
    Ok(ExitCode::SUCCESS)
}

fn dumped(catalog: &Catalog) -> Result<Json> {
    let mut root = Map::new();
    root.insert("project".to_owned(), catalog.project().into());
    for (kind, key) in [
        (ObjectKind::DataSource, "dataSources"),
        (ObjectKind::Entity, "entities"),
        (ObjectKind::FeatureView, "featureViews"),
        (ObjectKind::FeatureService, "featureServices"),
        (ObjectKind::OnDemandFeatureView, "onDemandFeatureViews"),
        (ObjectKind::StreamFeatureView, "streamFeatureViews"),
        (ObjectKind::LabelView, "labelViews"),
        (ObjectKind::SavedDataset, "savedDatasets"),
        (ObjectKind::ValidationReference, "validationReferences"),
        (ObjectKind::Permission, "permissions"),
    ] {
        let mut objects = catalog.objects(kind).to_vec();
        objects.sort_by(|a, b| a.name.cmp(&b.name));
        let items = objects
            .iter()
            .map(|object| dumped_object(object))
            .collect::<Result<Vec<_>>>()?;
        if !items.is_empty() {
            root.insert(key.to_owned(), Json::Array(items));
        }
    }
    let infra = infra(catalog)?;
    if !infra.is_empty() {
        root.insert("infra".to_owned(), Json::Array(infra));
    }
    Ok(Json::Object(root))
}

fn dumped_object(object: &Object) -> Result<Json> {
    let mut json = object.to_json()?;
    super::objects::as_client_knows_it(object.kind, &mut json);
    readable_code(&mut json);
    Ok(json)
}

/// Feast shows the source of a function where the message holds it pickled, and that of a pandas view in
/// the place of older releases as well.
fn readable_code(json: &mut Json) {
    for place in [
        "/spec/userDefinedFunction",
        "/spec/featureTransformation/userDefinedFunction",
    ] {
        if let Some(function) = json.pointer_mut(place).and_then(Json::as_object_mut)
            && let Some(text) = function.get("bodyText").cloned()
        {
            function.insert("body".to_owned(), text);
        }
    }
    let text = json
        .pointer("/spec/featureTransformation/userDefinedFunction/body")
        .cloned();
    if let Some(text) = text
        && let Some(spec) = json.get_mut("spec").and_then(Json::as_object_mut)
        && spec.get("mode").is_none_or(|mode| mode == "pandas")
    {
        spec.entry("userDefinedFunction")
            .or_insert_with(|| serde_json::json!({"body": text}));
    }
}

/// The tables of the online store, each without the envelope that says which store it is.
fn infra(catalog: &Catalog) -> Result<Vec<Json>> {
    let Some(bytes) = &catalog.state().infra else {
        return Ok(Vec::new());
    };
    let json = message_to_json(&dynamic("feast.core.Infra", bytes)?)?;
    let objects = json.get("infraObjects").and_then(Json::as_array);
    let inner = |object: &Json| {
        let mut fields = object.as_object()?.iter();
        fields.find_map(|(_, value)| value.is_object().then(|| value.clone()))
    };
    Ok(objects.into_iter().flatten().filter_map(inner).collect())
}
