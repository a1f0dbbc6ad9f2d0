//! `thali entities list`, `feature-views describe NAME` and so on; `delete`; `registry-dump`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Map, Value as Json};

use super::{Global, Outcome, output};
use crate::{
    context::Context,
    error::{Error, Result},
    model::{Field, Object, ObjectKind, feature_view::DUMMY_ENTITY_NAME},
    registry::{Catalog, View, changes::Changes},
};

/// Commands about one kind of object.
#[derive(Debug, Subcommand)]
pub(super) enum Objects {
    /// Projects of the registry
    #[command(subcommand)]
    Projects(Question),
    /// Entities of the project
    #[command(subcommand)]
    Entities(Question),
    /// Data sources of the project
    #[command(subcommand)]
    DataSources(Question),
    /// Views of the project, of every kind
    #[command(subcommand)]
    FeatureViews(Question),
    /// On demand feature views of the project
    #[command(subcommand)]
    OnDemandFeatureViews(Question),
    /// Stream feature views of the project
    #[command(subcommand)]
    StreamFeatureViews(Question),
    /// Label views of the project
    #[command(subcommand)]
    LabelViews(Question),
    /// Feature services of the project
    #[command(subcommand)]
    FeatureServices(Question),
    /// Saved datasets of the project
    #[command(subcommand)]
    SavedDatasets(Question),
    /// Validation references of the project
    #[command(subcommand)]
    ValidationReferences(Question),
    /// Permissions of the project
    #[command(subcommand)]
    Permissions(Question),
}

impl Objects {
    fn parts(&self) -> (&'static [ObjectKind], &Question) {
        match self {
            Self::Projects(question) => (&[ObjectKind::Project], question),
            Self::Entities(question) => (&[ObjectKind::Entity], question),
            Self::DataSources(question) => (&[ObjectKind::DataSource], question),
            Self::FeatureViews(question) => (&ObjectKind::VIEWS, question),
            Self::OnDemandFeatureViews(question) => (&[ObjectKind::OnDemandFeatureView], question),
            Self::StreamFeatureViews(question) => (&[ObjectKind::StreamFeatureView], question),
            Self::LabelViews(question) => (&[ObjectKind::LabelView], question),
            Self::FeatureServices(question) => (&[ObjectKind::FeatureService], question),
            Self::SavedDatasets(question) => (&[ObjectKind::SavedDataset], question),
            Self::ValidationReferences(question) => (&[ObjectKind::ValidationReference], question),
            Self::Permissions(question) => (&[ObjectKind::Permission], question),
        }
    }
}

/// What can be asked about one kind of object.
#[derive(Debug, Subcommand)]
pub(super) enum Question {
    /// List them
    List(Filter),
    /// Show one in full
    Describe {
        #[arg(value_name = "NAME")]
        name: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct Filter {
    /// Only objects with this tag, KEY:VALUE; repeatable, all must be there
    #[arg(long, value_name = "KEY:VALUE", value_parser = tag)]
    tags: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(super) struct DeleteArguments {
    /// Name of the object
    name: String,
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

fn tag(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once(':').ok_or_else(|| "write KEY:VALUE".to_owned())?;
    Ok((pair.0.to_owned(), pair.1.to_owned()))
}

pub(super) async fn run(global: &Global, objects: &Objects) -> Outcome {
    let (kinds, question) = objects.parts();
    let (context, _telemetry) = global.open("warn").await?;
    let project = context.config.project.clone();
    match question {
        Question::List(filter) => {
            let objects = listed(&context, &project, kinds).await?;
            let mut rows = Vec::new();
            for object in objects {
                let json = object.to_json()?;
                if filter
                    .tags
                    .iter()
                    .all(|(key, value)| tags(&json).get(key).is_some_and(|tag| tag == value))
                {
                    rows.push(row(&object, &json));
                }
            }
            let headers: &[&str] = match kinds {
                [_] => &["NAME", "DESCRIPTION", "DETAILS"],
                _ => &["NAME", "DESCRIPTION", "DETAILS", "TYPE"],
            };
            for cells in &mut rows {
                cells.truncate(headers.len());
            }
            output::table(headers, &rows);
        }
        Question::Describe { name } => {
            let catalog = context.registry.fresh_catalog(&project).await?;
            let found = kinds.iter().find_map(|kind| catalog.object(*kind, name));
            let first = kinds.first().copied().unwrap_or(ObjectKind::FeatureView);
            let object = found.ok_or_else(|| first.not_found(name, &project))?;
            let text = serde_saphyr::to_string(&object.to_json()?)
                .map_err(|error| Error::internal(format!("the object has no YAML form: {error}")))?;
            output::line(format_args!("{}", text.trim_end()));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Objects of some kinds; projects are those of the whole registry.
async fn listed(context: &Context, project: &str, kinds: &[ObjectKind]) -> Result<Vec<Object>> {
    let mut objects = Vec::new();
    if kinds == [ObjectKind::Project] {
        for name in context.registry.projects().await? {
            let catalog = context.registry.fresh_catalog(&name).await?;
            objects.extend(
                catalog
                    .object(ObjectKind::Project, &name)
                    .map(|object| object.as_ref().clone()),
            );
        }
        return Ok(objects);
    }
    let catalog = context.registry.fresh_catalog(project).await?;
    let found = kinds.iter().flat_map(|kind| catalog.objects(*kind));
    objects.extend(
        found
            .filter(|object| object.name != DUMMY_ENTITY_NAME)
            .map(|object| object.as_ref().clone()),
    );
    objects.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(objects)
}

/// The part that holds the fields: most kinds have a `spec`.
fn spec(json: &Json) -> &Json {
    json.get("spec").unwrap_or(json)
}

fn tags(json: &Json) -> &Map<String, Json> {
    static NONE: std::sync::LazyLock<Map<String, Json>> = std::sync::LazyLock::new(Map::new);
    spec(json).get("tags").and_then(Json::as_object).unwrap_or(&NONE)
}

fn row(object: &Object, json: &Json) -> Vec<String> {
    let spec = spec(json);
    let text = |key: &str| {
        spec.get(key)
            .and_then(Json::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let names = |key: &str, name: &str| -> String {
        let items = spec
            .get(key)
            .and_then(Json::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let name = |item: &Json| {
            item.as_str()
                .or_else(|| item.get(name)?.as_str())
                .map(str::to_owned)
        };
        items.iter().filter_map(name).collect::<Vec<_>>().join(", ")
    };
    let details = match object.kind {
        ObjectKind::Entity => format!("{} ({})", text("joinKey"), text("valueType")),
        ObjectKind::DataSource => text("type"),
        kind if kind.is_view() => names("entities", "").replace(DUMMY_ENTITY_NAME, ""),
        ObjectKind::FeatureService => names("features", "featureViewName"),
        ObjectKind::Permission => names("actions", ""),
        _ => String::new(),
    };
    vec![
        object.name.clone(),
        text("description"),
        details,
        object.kind.label().to_owned(),
    ]
}

/// `thali features list`: every feature of every view.
pub(super) async fn features(global: &Global) -> Outcome {
    let (context, _telemetry) = global.open("warn").await?;
    let catalog = context.registry.fresh_catalog(&context.config.project).await?;
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut add = |view: &str, fields: &[Field]| {
        rows.extend(
            fields
                .iter()
                .map(|field| vec![field.name.clone(), view.to_owned(), field.value_type.to_string()]),
        );
    };
    for view in catalog.views() {
        match view {
            View::Stored(view) => add(&view.name, &view.features),
            View::OnDemand(view) => add(&view.name, &view.features),
        }
    }
    rows.sort();
    output::table(&["FEATURE", "FEATURE VIEW", "DATA TYPE"], &rows);
    Ok(ExitCode::SUCCESS)
}

/// `thali delete NAME`: the first object with that name, whatever it is.
pub(super) async fn delete(global: &Global, arguments: &DeleteArguments) -> Outcome {
    let (context, _telemetry) = global.open("warn").await?;
    let (project, name) = (context.config.project.clone(), &arguments.name);
    let catalog = context.registry.fresh_catalog(&project).await?;
    let Some(kind) = DELETED_KINDS
        .into_iter()
        .find(|kind| catalog.object(*kind, name).is_some())
    else {
        output::line(format_args!("Object not found. Deletion skipped."));
        return Ok(ExitCode::SUCCESS);
    };
    let changes = Changes {
        registry: context.registry.clone(),
        online: Some(context.online.clone()),
    };
    changes
        .delete(kind, &project, name, &super::author("delete"))
        .await?;
    output::line(format_args!("Deleted {} {name} from {project}.", kind.label()));
    Ok(ExitCode::SUCCESS)
}

/// `thali registry-dump`: the project as JSON, in the shape of Feast's command.
pub(super) async fn dump(global: &Global) -> Outcome {
    let (context, _telemetry) = global.open("warn").await?;
    let catalog = context.registry.fresh_catalog(&context.config.project).await?;
    let text = serde_json::to_string_pretty(&dumped(&catalog)?)
        .map_err(|error| Error::internal("the registry has no JSON form").source_error(error))?;
    output::line(format_args!("{text}"));
    Ok(ExitCode::SUCCESS)
}

fn dumped(catalog: &Catalog) -> Result<Json> {
    let mut root = Map::new();
    root.insert("project".to_owned(), catalog.project().to_owned().into());
    for (kind, key) in [
        (ObjectKind::DataSource, "dataSources"),
        (ObjectKind::Entity, "entities"),
        (ObjectKind::FeatureView, "featureViews"),
        (ObjectKind::OnDemandFeatureView, "onDemandFeatureViews"),
        (ObjectKind::StreamFeatureView, "streamFeatureViews"),
        (ObjectKind::LabelView, "labelViews"),
        (ObjectKind::FeatureService, "featureServices"),
        (ObjectKind::SavedDataset, "savedDatasets"),
        (ObjectKind::ValidationReference, "validationReferences"),
        (ObjectKind::Permission, "permissions"),
    ] {
        let objects = catalog.objects(kind);
        let items = objects
            .iter()
            .map(|object| object.to_json())
            .collect::<Result<Vec<_>>>()?;
        if !items.is_empty() {
            root.insert(key.to_owned(), Json::Array(items));
        }
    }
    Ok(Json::Object(root))
}
