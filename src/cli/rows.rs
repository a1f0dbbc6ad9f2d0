//! `thali online …`: the rows of the online store, looked at, counted and deleted by entity key.

use std::{io::Write as _, process::ExitCode, sync::Arc};

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat};
use clap::{Args, Subcommand, ValueEnum};
use prost::Message as _;
use serde_json::{Map, Value as Json, json};

use super::{Global, Outcome, key_value, output};
use crate::{
    context::Context,
    error::{Error, Result},
    model::value::{self, Value},
    online::{
        rows::Rows,
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
    let stored = stored(context, &arguments.view).await?;
    let table = &stored.table;
    let mut rows = Vec::new();
    if arguments.all {
        let mut page = None;
        loop {
            let (keys, next) = context.online.keys(&context.config.project, table, page).await?;
            for keys in keys.chunks(ROWS_PER_READ) {
                rows.extend(read(context, table, keys).await?);
            }
            page = next;
            if page.is_none() {
                break;
            }
        }
    } else {
        let keys = stored.keys(&arguments.entities.columns())?;
        rows = read(context, table, &keys).await?;
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
    let rows = stored(context, &arguments.view).await?;
    let keys = rows.keys(&arguments.entities.columns())?;
    let deleted = rows.delete(&keys).await?;
    output::line(format_args!(
        "{deleted} of {} rows deleted from {}",
        keys.len(),
        arguments.view
    ));
    Ok(ExitCode::SUCCESS)
}

async fn count(context: &Context, arguments: &CountArguments) -> Outcome {
    let mut all = Vec::new();
    for view in &arguments.views {
        all.push(stored(context, view).await?);
    }
    if all.is_empty() {
        all = Rows::of_all(context, &context.config.project).await?;
    }
    let mut counts = Vec::with_capacity(all.len());
    for rows in all {
        counts.push((rows.view().to_owned(), rows.count().await?));
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
    let rows = stored(context, &arguments.view).await?;
    if !arguments.yes && !confirmed(&arguments.view)? {
        output::note(format_args!("Aborted!"));
        return Ok(ExitCode::from(1));
    }
    rows.truncate().await?;
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

async fn stored(context: &Context, view: &str) -> Result<Rows> {
    Rows::of(context, &context.config.project, view).await
}

impl Entities {
    /// The values that were written, by join key.
    fn columns(&self) -> Vec<(String, Vec<Json>)> {
        let column = |(name, text): &(String, String)| (name.clone(), vec![Json::String(text.clone())]);
        self.entities.iter().map(column).collect()
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
