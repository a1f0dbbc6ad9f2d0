//! `thali features list` and `describe`: the features of all views of a project; and how commands are told
//! which features they are about.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};

use super::{
    Global, Name, Outcome,
    objects::Place,
    output::{self, Format},
};
use crate::{
    error::Result,
    model::ObjectKind,
    proto::feast::registry::Feature,
    registry::{Catalog, View, changes::any_view},
};

/// The features a command is about.
#[derive(Debug, Args)]
pub(super) struct Wanted {
    /// A feature as VIEW:FEATURE, repeatable
    #[arg(
        short,
        long = "features",
        value_name = "VIEW:FEATURE",
        required_unless_present = "feature_service"
    )]
    pub(super) features: Vec<String>,
    /// Every feature of a service instead
    #[arg(long, value_name = "NAME", conflicts_with = "features")]
    pub(super) feature_service: Option<String>,
}

/// What can be asked about features.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List them with their views and types
    List(List),
    /// Show every feature of that name, of whatever view
    Describe(Describe),
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Table, ignore_case = true)]
    output: Format,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
pub(super) struct Describe {
    /// FEATURE or VIEW:FEATURE
    #[arg(value_name = "NAME")]
    name: String,
    /// How to print; YAML, or JSON when called `feast`
    #[arg(short, long, value_enum, ignore_case = true)]
    output: Option<Format>,
    #[command(flatten)]
    place: Place,
}

impl Command {
    pub(super) async fn run(self, global: &Global) -> Outcome {
        let (context, _telemetry) = global.open("warn").await?;
        let place = match &self {
            Self::List(List { place, .. }) | Self::Describe(Describe { place, .. }) => place,
        };
        let catalog = context.registry.fresh_catalog(place.project(&context)).await?;
        match self {
            Self::List(asked) => list(&catalog, global.name, asked.output)?,
            Self::Describe(asked) => return describe(&catalog, global.name, &asked),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Every feature; Feast's command lists no labels, and on-demand views before stream views.
fn known(catalog: &Catalog, name: Name) -> Vec<Feature> {
    let mut found = catalog.features();
    if name == Name::Feast {
        found.retain(|feature| feature.kind == "feature");
        let rank = |feature: &Feature| {
            any_view(catalog, &feature.feature_view)
                .map(|view| view.kind)
                .ok()
        };
        found.sort_by_key(rank);
    }
    found
}

fn list(catalog: &Catalog, name: Name, format: Format) -> Result<()> {
    let found = known(catalog, name);
    let items = || -> Json {
        let item = |feature: &Feature| match name {
            Name::Thali => plain(feature),
            // The first two are the wrong way round in Feast, and scripts read them so.
            Name::Feast => json!({
                "feature_name": feature.feature_view,
                "feature_view": feature.name,
                "dtype": feature.r#type,
            }),
        };
        found.iter().map(item).collect()
    };
    match format {
        Format::Table => table(&found, name),
        Format::Yaml => output::yaml(&items())?,
        Format::Json => output::json(&items(), 4)?,
    }
    Ok(())
}

fn table(found: &[Feature], name: Name) {
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|feature| {
            vec![
                feature.name.clone(),
                feature.feature_view.clone(),
                feature.r#type.clone(),
            ]
        })
        .collect();
    let headers = match name {
        Name::Thali => ["FEATURE", "FEATURE VIEW", "DATA TYPE"],
        Name::Feast => ["Feature", "Feature View", "Data Type"],
    };
    output::table(&headers, &rows);
}

fn plain(feature: &Feature) -> Json {
    json!({
        "name": feature.name,
        "featureView": feature.feature_view,
        "type": feature.r#type,
        "description": feature.description,
        "tags": feature.tags,
    })
}

fn describe(catalog: &Catalog, name: Name, asked: &Describe) -> Outcome {
    let (view, feature) = asked.name.split_once(':').unwrap_or(("", &asked.name));
    let mut found = known(catalog, name);
    found.retain(|known| known.name == feature && (view.is_empty() || known.feature_view == view));
    if found.is_empty() {
        output::line(format_args!(
            "Feature '{}' not found in any feature view.",
            asked.name
        ));
        return Ok(ExitCode::from(match name {
            Name::Thali => 1,
            Name::Feast => 0,
        }));
    }
    let items: Json = match name {
        Name::Thali => found.iter().map(plain).collect(),
        Name::Feast => found
            .iter()
            .map(|feature| in_feasts_words(catalog, feature))
            .collect::<Result<Vec<_>>>()?
            .into(),
    };
    match (asked.output, name) {
        (Some(Format::Table), _) => table(&found, name),
        (Some(Format::Yaml), _) | (None, Name::Thali) => output::yaml(&items)?,
        (Some(Format::Json), _) | (None, Name::Feast) => output::json(&items, 4)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn in_feasts_words(catalog: &Catalog, feature: &Feature) -> Result<Json> {
    let view = any_view(catalog, &feature.feature_view)?;
    let mut source = view.to_json()?.pointer("/spec/batchSource").cloned();
    if let Some(source) = source.as_mut().and_then(Json::as_object_mut) {
        source.shift_remove("dataSourceClassType");
        source.shift_remove("project");
    }
    let online = match catalog.view(&feature.feature_view) {
        Some(View::Stored(view)) => Json::Bool(view.online),
        _ => "N/A".into(),
    };
    Ok(json!({
        "Feature Name": feature.name,
        "Feature View": feature.feature_view,
        "Data Type": feature.r#type,
        "Description": feature.description,
        "Online Store": online,
        "Source": if view.kind == ObjectKind::OnDemandFeatureView { "N/A".into() } else { source.unwrap_or_default() },
    }))
}
