//! `thali entities list`, `feature-views describe NAME`, `permissions delete NAME` and so on for every
//! kind, and `delete` for a name of any kind. What the kinds are and show is a table, [`kinds`].

pub(super) mod kinds;
pub(super) mod remove;

use std::{process::ExitCode, sync::Arc};

use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches, Subcommand};
use serde_json::Value as Json;

use self::kinds::{Column, GROUPS, Group, More, Row};
use super::{
    Global, Name, Outcome,
    output::{self, Format},
    permissions, views,
};
use crate::{
    context::Context,
    error::Result,
    model::{Object, ObjectKind, feature_view::DUMMY_ENTITY_NAME},
    registry::Catalog,
};

/// A command about one kind of object.
#[derive(Debug)]
pub(super) struct Objects {
    group: &'static Group,
    question: Question,
}

#[derive(Debug)]
enum Question {
    Common(Common),
    Views(views::Command),
    Permissions(permissions::Command),
    /// `permissions list --verbose`
    Matches(Filter),
    /// `projects current_project`
    Current,
}

/// What can be asked about every kind.
#[derive(Debug, Subcommand)]
enum Common {
    /// List them
    List(Filter),
    /// Show one in full
    Describe(Describe),
    /// Delete one; a view goes with its rows in the online store
    Delete(remove::Delete),
}

#[derive(Debug, Args)]
pub(super) struct Filter {
    /// Only objects with this tag, KEY=VALUE or KEY:VALUE; repeatable, all must be there
    #[arg(long, value_name = "TAG", value_parser = tags)]
    tags: Vec<Tags>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
struct Describe {
    /// Its name
    name: String,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Yaml)]
    output: Format,
    #[command(flatten)]
    place: Place,
}

/// Where to look.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// Another project of the same registry
    #[arg(long, value_name = "NAME")]
    project: Option<String>,
}

impl Place {
    pub(super) fn project<'a>(&'a self, context: &'a Context) -> &'a str {
        self.project.as_deref().unwrap_or(&context.config.project)
    }
}

type Tags = Vec<(String, String)>;

/// `key:value, key:value` as Feast reads it, and `key=value`.
fn tags(text: &str) -> Result<Tags, String> {
    let text = text.trim().trim_matches(['(', ')']).replace(['"', '\''], "");
    let tags = text.split(',').filter(|tag| !tag.trim().is_empty());
    tags.map(|tag| {
        let (key, value) = tag.split_once([':', '=']).ok_or("write KEY=VALUE or KEY:VALUE")?;
        Ok((key.trim().to_owned(), value.trim().to_owned()))
    })
    .collect()
}

impl Subcommand for Objects {
    fn augment_subcommands(command: clap::Command) -> clap::Command {
        GROUPS.iter().fold(command, |command, group| {
            let own = Common::augment_subcommands(clap::Command::new(group.command))
                .subcommand_required(true)
                .arg_required_else_help(true);
            let own = match group.more {
                More::None => own,
                More::Projects => own.subcommand(
                    clap::Command::new("current_project").about("Show the project of this repository"),
                ),
                More::Views => views::Command::augment_subcommands(own),
                More::Permissions => permissions::Command::augment_subcommands(own)
                    .mut_subcommand("list", |list| list.arg(verbose())),
            };
            // Each enum of commands brings a text of its own.
            command.subcommand(own.about(group.about))
        })
    }

    fn augment_subcommands_for_update(command: clap::Command) -> clap::Command {
        Self::augment_subcommands(command)
    }

    fn has_subcommand(name: &str) -> bool {
        Group::of(name).is_some()
    }
}

fn verbose() -> Arg {
    Arg::new("verbose")
        .short('v')
        .long("verbose")
        .action(ArgAction::SetTrue)
        .help("Show the resources that match each permission")
}

impl FromArgMatches for Objects {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let unknown = || clap::Error::new(clap::error::ErrorKind::InvalidSubcommand);
        let (name, matches) = matches.subcommand().ok_or_else(unknown)?;
        let group = Group::of(name).ok_or_else(unknown)?;
        let (name, inner) = matches.subcommand().ok_or_else(unknown)?;
        let question = if name == "list" && group.more == More::Permissions && inner.get_flag("verbose") {
            Question::Matches(Filter::from_arg_matches(inner)?)
        } else if Common::has_subcommand(name) {
            Question::Common(Common::from_arg_matches(matches)?)
        } else {
            match group.more {
                More::Views => Question::Views(views::Command::from_arg_matches(matches)?),
                More::Permissions => Question::Permissions(permissions::Command::from_arg_matches(matches)?),
                More::Projects => Question::Current,
                More::None => return Err(unknown()),
            }
        };
        Ok(Self { group, question })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Objects {
    pub(super) async fn run(self, global: &Global) -> Outcome {
        let (context, _telemetry) = global.open("warn").await?;
        let (group, name) = (self.group, global.name);
        match self.question {
            Question::Common(Common::List(filter)) => list(&context, name, group, &filter).await?,
            Question::Common(Common::Describe(asked)) => describe(&context, name, group, &asked).await?,
            Question::Common(Common::Delete(asked)) => {
                return remove::one(&context, name, group, &asked).await;
            }
            Question::Views(command) => return command.run(&context, name).await,
            Question::Permissions(command) => command.run(&context).await?,
            Question::Matches(filter) => permissions::matches(&context, &filter).await?,
            Question::Current => {
                let asked = Describe {
                    name: context.config.project.clone(),
                    output: Format::Yaml,
                    place: Place { project: None },
                };
                describe(&context, name, group, &asked).await?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// An object, the project it was found in, and its JSON.
struct Found {
    catalog: Arc<Catalog>,
    object: Arc<Object>,
    json: Json,
}

impl Found {
    fn new(catalog: &Arc<Catalog>, object: &Arc<Object>) -> Result<Self> {
        Ok(Self {
            catalog: Arc::clone(catalog),
            object: Arc::clone(object),
            json: object.to_json()?,
        })
    }
}

impl Filter {
    /// Whether the object has every tag that is wanted.
    pub(super) fn wants(&self, json: &Json) -> bool {
        let tags = json
            .get("spec")
            .unwrap_or(json)
            .get("tags")
            .and_then(Json::as_object);
        let has = |key: &str, value: &str| {
            let tag = tags.and_then(|tags| tags.get(key)).and_then(Json::as_str);
            tag == Some(value)
        };
        self.tags.iter().flatten().all(|(key, value)| has(key, value))
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }
}

async fn list(context: &Context, name: Name, group: &Group, filter: &Filter) -> Result<()> {
    let project = filter.place.project(context);
    let (kinds, columns) = match name {
        Name::Thali => (group.kinds, group.columns),
        Name::Feast => (group.feast_kinds, group.feast_columns),
    };
    let mut found = if group.more == More::Projects {
        projects(context, name).await?
    } else {
        objects(context, project, kinds).await?
    };
    found.retain(|found| filter.wants(&found.json));
    if name == Name::Thali {
        found.sort_by(|a, b| a.object.name.cmp(&b.object.name));
    }
    if found.is_empty() && name == Name::Thali && filter.output == Format::Table {
        output::note(format_args!("No {} found in project {project}.", group.command));
        return Ok(());
    }
    match filter.output {
        Format::Table => {
            print_table(columns, &found);
            Ok(())
        }
        Format::Yaml => output::yaml(&all(found)),
        Format::Json => output::json(&all(found), 2),
    }
}

fn all(found: Vec<Found>) -> Json {
    found.into_iter().map(|found| found.json).collect()
}

fn print_table(columns: &[Column], found: &[Found]) {
    let headers: Vec<&str> = columns.iter().map(|(header, _)| *header).collect();
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|found| {
            let row = Row {
                catalog: &found.catalog,
                object: &found.object,
                json: &found.json,
            };
            columns.iter().map(|(_, cell)| cell(&row)).collect()
        })
        .collect();
    output::table(&headers, &rows);
}

/// Objects of some kinds, without the entity of views that have none.
async fn objects(context: &Context, project: &str, kinds: &[ObjectKind]) -> Result<Vec<Found>> {
    let catalog = context.registry.fresh_catalog(project).await?;
    let objects = kinds.iter().flat_map(|kind| catalog.objects(*kind));
    objects
        .filter(|object| object.name != DUMMY_ENTITY_NAME)
        .map(|object| Found::new(&catalog, object))
        .collect()
}

/// The projects of the whole registry; Feast shows no protected ones.
async fn projects(context: &Context, name: Name) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for project in context.registry.projects().await? {
        let catalog = context.registry.fresh_catalog(&project).await?;
        if let Some(object) = catalog.object(ObjectKind::Project, &project)
            && (name == Name::Thali || !remove::is_protected(object)?)
        {
            found.push(Found::new(&catalog, object)?);
        }
    }
    Ok(found)
}

async fn describe(context: &Context, name: Name, group: &Group, asked: &Describe) -> Result<()> {
    let found = find(context, group, asked.place.project(context), &asked.name).await?;
    if asked.output == Format::Table {
        let columns = match name {
            Name::Thali => group.columns,
            Name::Feast => group.feast_columns,
        };
        print_table(columns, &[found]);
        return Ok(());
    }
    let mut json = found.json;
    if name == Name::Feast {
        as_feast_describes(found.object.kind, &mut json);
    }
    match asked.output {
        Format::Json => output::json(&json, 2),
        Format::Table | Format::Yaml => output::yaml(&json),
    }
}

/// The object of that name, of the first of the group's kinds that has one.
async fn find(context: &Context, group: &Group, project: &str, name: &str) -> Result<Found> {
    let project = if group.more == More::Projects {
        name
    } else {
        project
    };
    let catalog = context.registry.fresh_catalog(project).await?;
    let object = group.kinds.iter().find_map(|kind| catalog.object(*kind, name));
    let object = object.ok_or_else(|| group.kind().not_found(name, project))?;
    Found::new(&catalog, object)
}

/// Feast's command prints objects as its client holds them, which know no project, and says of feature
/// views whether they are enabled and in which state.
fn as_feast_describes(kind: ObjectKind, json: &mut Json) {
    as_client_knows_it(kind, json);
    let state = kinds::state(json).to_owned();
    let Some(fields) = json.as_object_mut() else {
        return;
    };
    let disabled = fields
        .get("spec")
        .and_then(|spec| spec.get("disabled")?.as_bool());
    if kind == ObjectKind::FeatureView {
        fields.insert("enabled".to_owned(), (!disabled.unwrap_or_default()).into());
        fields.insert("state".to_owned(), state.into());
    }
}

/// Takes out what Feast's client does not know of its objects: the project, and the class of a source,
/// which is what the object is an instance of.
pub(super) fn as_client_knows_it(kind: ObjectKind, json: &mut Json) {
    let Some(fields) = json.as_object_mut() else {
        return;
    };
    if kind == ObjectKind::DataSource {
        fields.shift_remove("dataSourceClassType");
    }
    if kind != ObjectKind::Project
        && let Some(spec) = fields.get_mut("spec").and_then(Json::as_object_mut)
    {
        spec.shift_remove("project");
    }
    fields.shift_remove("project");
}
