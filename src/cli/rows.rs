//! `thali online …`: the rows of the online store, looked at, counted and deleted by entity key.

use std::{io::Write as _, process::ExitCode, sync::Arc};

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat};
use clap::{Args, Subcommand, ValueEnum};
use prost::Message as _;
use serde_json::{Map, Value as Json, json};

use super::{Global, Outcome, key_value, output, repository::served};
use crate::{
    context::Context,
    error::{Error, Result},
    model::{
        FeatureView, ObjectKind,
        entity_key::KeyEncoder,
        feature_view::DUMMY_JOIN_KEY,
        value::{self, Kind, Value},
    },
    online::{
        plan::table_of,
        precompute::Maker,
        store::{KeyGroup, OnlineRead, Table, ViewColumns, batch::described},
    },
};

/// How many rows are read at a time.
const ROWS_PER_READ: usize = 500;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show rows as they are stored, with their event times
    Get(GetArguments),
    /// Delete the rows of these entities
    Delete(DeleteArguments),
    /// Count the entities that have a row
    Count(CountArguments),
    /// Delete every row of a view, and keep the view
    Truncate(TruncateArguments),
}

#[derive(Debug, Args)]
pub(super) struct GetArguments {
    /// The feature view
    view: String,
    #[command(flatten)]
    entities: Entities,
    /// Every row there is
    #[arg(long, conflicts_with = "entities")]
    all: bool,
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Debug, Args)]
pub(super) struct DeleteArguments {
    /// The feature view
    view: String,
    #[command(flatten)]
    entities: Entities,
}

#[derive(Debug, Args)]
pub(super) struct CountArguments {
    /// The feature views; all of them without
    views: Vec<String>,
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Debug, Args)]
pub(super) struct TruncateArguments {
    /// The feature view
    view: String,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

#[derive(Debug, Args)]
struct Entities {
    /// A join key's value as KEY=VALUE; repeat a key for more entities
    #[arg(short, long = "entity", value_name = "KEY=VALUE", value_parser = key_value)]
    entities: Vec<(String, String)>,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

impl Command {
    pub(super) async fn run(self, global: &Global) -> Outcome {
        let (context, _telemetry) = global.open("warn").await?;
        match self {
            Self::Get(arguments) => get(&context, &arguments).await,
            Self::Delete(arguments) => delete(&context, &arguments).await,
            Self::Count(arguments) => count(&context, &arguments).await,
            Self::Truncate(arguments) => truncate(&context, &arguments).await,
        }
    }
}

async fn get(context: &Context, arguments: &GetArguments) -> Outcome {
    let table = table(context, &arguments.view).await?;
    let mut rows = Vec::new();
    if arguments.all {
        let mut page = None;
        loop {
            let (keys, next) = context.online.keys(&context.config.project, &table, page).await?;
            for keys in keys.chunks(ROWS_PER_READ) {
                rows.extend(read(context, &table, keys).await?);
            }
            page = next;
            if page.is_none() {
                break;
            }
        }
    } else {
        let keys = arguments.entities.keys(context, &table.view)?;
        rows = read(context, &table, &keys).await?;
    }
    match arguments.output {
        Format::Json => output::json(&Json::Array(rows.iter().map(Row::json).collect()), 2)?,
        Format::Table => {
            let features = table.view.features.iter().map(|field| field.name.as_str());
            let headers: Vec<&str> = ["ENTITY", "EVENT TIME"].into_iter().chain(features).collect();
            output::table(&headers, &rows.iter().map(Row::cells).collect::<Vec<_>>());
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn delete(context: &Context, arguments: &DeleteArguments) -> Outcome {
    let table = table(context, &arguments.view).await?;
    let keys = arguments.entities.keys(context, &table.view)?;
    let deleted = context
        .online
        .delete(&context.config.project, &table, &keys)
        .await?;
    let catalog = context.registry.fresh_catalog(&context.config.project).await?;
    Maker::new(context, &catalog)
        .after_write(&arguments.view, &keys)
        .await?;
    output::line(format_args!(
        "{deleted} of {} rows deleted from {}",
        keys.len(),
        arguments.view
    ));
    Ok(ExitCode::SUCCESS)
}

async fn count(context: &Context, arguments: &CountArguments) -> Outcome {
    let mut views = arguments.views.clone();
    if views.is_empty() {
        let catalog = context.registry.fresh_catalog(&context.config.project).await?;
        views = served(&catalog).iter().map(|view| view.name.clone()).collect();
    }
    let mut counts = Vec::with_capacity(views.len());
    for view in views {
        let table = table(context, &view).await?;
        let count = context.online.count(&context.config.project, &table).await?;
        counts.push((view, count));
    }
    match arguments.output {
        Format::Json => {
            let counts = counts.iter().map(|(view, count)| (view.clone(), json!(count)));
            output::json(&Json::Object(counts.collect()), 2)?;
        }
        Format::Table => {
            let rows: Vec<_> = counts
                .iter()
                .map(|(view, count)| vec![view.clone(), count.to_string()])
                .collect();
            output::table(&["FEATURE VIEW", "ROWS"], &rows);
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn truncate(context: &Context, arguments: &TruncateArguments) -> Outcome {
    let table = table(context, &arguments.view).await?;
    if !arguments.yes && !confirmed(&arguments.view)? {
        output::note(format_args!("Aborted!"));
        return Ok(ExitCode::from(1));
    }
    context.online.truncate(&context.config.project, &table).await?;
    let catalog = context.registry.fresh_catalog(&context.config.project).await?;
    Maker::new(context, &catalog)
        .after_truncate(&arguments.view)
        .await?;
    output::line(format_args!("All rows deleted from {}", arguments.view));
    Ok(ExitCode::SUCCESS)
}

/// Asks on the terminal; no answer is a no.
fn confirmed(view: &str) -> Result<bool> {
    let failed = |error: std::io::Error| Error::invalid(format!("the answer cannot be read: {error}"));
    let mut out = std::io::stdout();
    write!(out, "Delete every row of `{view}` in the online store? [y/N]: ")
        .and_then(|()| out.flush())
        .map_err(failed)?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(failed)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// Where the active version of a view is stored.
async fn table(context: &Context, name: &str) -> Result<Table> {
    let project = &context.config.project;
    let catalog = context.registry.fresh_catalog(project).await?;
    let view = served(&catalog).into_iter().find(|view| view.name == name);
    let view = view.ok_or_else(|| match catalog.view(name) {
        Some(_) => Error::invalid(format!("`{name}` is not stored online")),
        None => ObjectKind::FeatureView.not_found(name, project),
    })?;
    let versioning = context.config.registry.enable_online_versioning;
    let name = table_of(&view.name, view.version, versioning);
    Ok(Table { view, name })
}

impl Entities {
    /// The keys of the entities, in the order they were written.
    fn keys(&self, context: &Context, view: &Arc<FeatureView>) -> Result<Vec<Bytes>> {
        let version = context.config.entity_key_version;
        if view.is_entityless() {
            let dummy: Value = Kind::StringVal(String::new()).into();
            return Ok(vec![
                KeyEncoder::new(&[DUMMY_JOIN_KEY], version)?.encode(&[&dummy])?,
            ]);
        }
        let names: Vec<&str> = view.join_keys.iter().map(|key| key.name.as_str()).collect();
        if let Some((name, _)) = self
            .entities
            .iter()
            .find(|(name, _)| !names.contains(&name.as_str()))
        {
            return Err(
                Error::invalid(format!("`{}` has no join key `{name}`", view.name))
                    .hint(format!("its join keys are {}", names.join(", "))),
            );
        }
        let columns = view.join_keys.iter().map(|key| {
            let texts = self.entities.iter().filter(|(name, _)| *name == key.name);
            let value = |(_, text): &(String, String)| {
                value::json::from_json(&Json::String(text.clone()), key.value_type)
                    .map_err(|error| error.context(format!("join key `{}`", key.name)))
            };
            texts.map(value).collect::<Result<Vec<_>>>()
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let rows = columns.first().map_or(0, Vec::len);
        if rows == 0 || columns.iter().any(|column| column.len() != rows) {
            return Err(Error::invalid(format!(
                "every entity of `{}` needs a value of each of {}",
                view.name,
                names.join(", ")
            ))
            .hint("write `-e KEY=VALUE` for each"));
        }
        let mut encoder = KeyEncoder::new(&names, version)?;
        (0..rows)
            .map(|row| {
                let values: Vec<&Value> = columns.iter().map(|column| &column[row]).collect();
                encoder.encode(&values)
            })
            .collect()
    }
}

/// A stored row, or the lack of one.
struct Row {
    entity: String,
    time: Option<String>,
    values: Vec<(String, Option<Json>)>,
}

async fn read(context: &Context, table: &Table, keys: &[Bytes]) -> Result<Vec<Row>> {
    let features: Arc<[String]> = table
        .view
        .features
        .iter()
        .map(|field| field.name.clone())
        .collect();
    let view = ViewColumns {
        table: table.clone(),
        features: Arc::clone(&features),
    };
    let groups = [KeyGroup {
        keys: keys.to_vec(),
        views: Arc::new([view]),
    }];
    let project = &context.config.project;
    let batches = context
        .online
        .read(&OnlineRead {
            project,
            groups: &groups,
        })
        .await?;
    let Some(batch) = batches.first() else {
        return Ok(Vec::new());
    };
    let row = |(number, key): (usize, &Bytes)| {
        let cells = batch.row(number);
        let values = features.iter().zip(cells).map(|(feature, bytes)| {
            let value = bytes.map(Value::decode).transpose()?;
            Ok((feature.clone(), value.as_ref().map(value::json::to_json)))
        });
        Ok(Row {
            entity: described(key),
            time: batch.event_times[number]
                .and_then(DateTime::from_timestamp_micros)
                .map(|time| time.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
            values: values.collect::<Result<_>>()?,
        })
    };
    keys.iter().enumerate().map(row).collect()
}

impl Row {
    fn json(&self) -> Json {
        let values = self
            .values
            .iter()
            .filter_map(|(name, value)| Some((name.clone(), value.clone()?)));
        json!({
            "entity": self.entity,
            "event_timestamp": self.time,
            "values": self.time.as_ref().map(|_| values.collect::<Map<_, _>>()),
        })
    }

    fn cells(&self) -> Vec<String> {
        let time = self.time.clone().unwrap_or_else(|| "no row".to_owned());
        let values = self.values.iter().map(|(_, value)| match value {
            Some(Json::String(text)) => text.clone(),
            Some(value) => value.to_string(),
            None => String::new(),
        });
        [self.entity.clone(), time].into_iter().chain(values).collect()
    }
}
