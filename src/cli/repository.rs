//! What `plan`, `apply` and `demo` share: definitions into a plan, a plan into text, and the tables of
//! the online store that go with it.

use bytes::Bytes;
use clap::Args;
use prost::Message as _;
use serde_json::Value as Json;

use super::output;
use crate::{
    context::Context,
    definitions::{Definitions, Validation},
    error::Result,
    model::{ObjectKind, feature_view::DUMMY_ENTITY_NAME},
    online::{rows::served, store::Table},
    proto::feast::core,
    registry::{
        Catalog,
        apply::{FieldChange, Plan, PlannedAction, PlannedChange},
        changes::served_view,
    },
};

/// How repositories are read.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Do not look at the files of data sources; every schema must then be written out
    #[arg(long)]
    pub(super) skip_source_validation: bool,
    /// Nothing to skip: what is checked of views takes no time
    #[arg(long, hide = true)]
    pub(super) skip_feature_view_validation: bool,
}

/// A plan and the views that will have a table in the online store.
pub(super) struct Planned {
    pub(super) plan: Plan,
    pub(super) served: Vec<String>,
}

/// Reads the repository and compares it with the registry; changes nothing.
pub(super) async fn plan(context: &Context, options: &Options) -> Result<Planned> {
    let definitions = Definitions::read(&context.config)?;
    if let Some(error) = definitions.nothing_defined()
        && (definitions.has_python || !is_bare(context).await?)
    {
        return Err(error);
    }
    let validation = if options.skip_source_validation {
        Validation::Skipped
    } else {
        Validation::Sources
    };
    let project = &context.config.project;
    let objects = definitions
        .resolve(project, context.offline.as_ref(), validation)
        .await?;
    let mut served = Vec::new();
    for object in &objects {
        if let Some((name, tags)) = served_view(object)? {
            context.online.accepts(&name, &tags)?;
            served.push(name);
        }
    }
    Ok(Planned {
        plan: context.registry.plan(project, objects).await?,
        served,
    })
}

/// Whether the project holds nothing that a repository without definitions would take away: such a
/// repository may begin a project, as Feast's minimal template does, but a wrong folder empties none.
async fn is_bare(context: &Context) -> Result<bool> {
    let catalog = context.registry.fresh_catalog(&context.config.project).await?;
    let mut objects = catalog.state().objects.iter();
    Ok(objects.all(|object| object.kind == ObjectKind::Project || !is_shown(object.kind, &object.name)))
}

/// Tables of the online store that a plan makes and drops.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) created: Vec<String>,
    pub(super) dropped: Vec<Table>,
}

impl Tables {
    /// What the step from one catalog to the next means; `wanted` names the views served afterwards.
    pub(super) fn between(before: &Catalog, wanted: &[String], changes: &[PlannedChange]) -> Self {
        let had = served(before);
        let deleted = |name: &String| {
            let gone = |change: &PlannedChange| {
                change.action == PlannedAction::Delete && change.kind.is_view() && change.name == *name
            };
            changes.iter().any(gone) && !wanted.contains(name)
        };
        Self {
            created: wanted
                .iter()
                .filter(|name| had.iter().all(|view| view.name != **name))
                .cloned()
                .collect(),
            dropped: had
                .iter()
                .filter(|view| deleted(&view.name))
                .map(Table::of)
                .collect(),
        }
    }
}

/// Makes the online store's tables those of the catalog, and notes them in the registry as Feast does.
pub(super) async fn provision(context: &Context, catalog: &Catalog, dropped: &[Table]) -> Result<()> {
    let views = served(catalog);
    context
        .online
        .provision(catalog.project(), &views, dropped)
        .await
        .map_err(|error| {
            error
                .context("the registry has changed, but the online store could not follow")
                .hint("apply again when the online store can be written")
        })?;
    let objects: Vec<_> = views
        .iter()
        .filter_map(|view| context.online.infra(catalog.project(), view))
        .collect();
    if !objects.is_empty() {
        let infra = core::Infra {
            infra_objects: objects,
        };
        context
            .registry
            .put_infra(catalog.project(), Bytes::from(infra.encode_to_vec()))
            .await?;
    }
    Ok(())
}

/// Whether a line about the object is of interest: Feast keeps quiet about the same ones.
pub(super) fn is_shown(kind: ObjectKind, name: &str) -> bool {
    !(kind == ObjectKind::Entity && name == DUMMY_ENTITY_NAME)
}

/// One change, done or planned, in Feast's words.
pub(super) struct Told<'a> {
    pub(super) verb: &'static str,
    pub(super) kind: ObjectKind,
    pub(super) name: &'a str,
    /// What an update touches, where that is to be shown.
    pub(super) fields: &'a [FieldChange],
}

/// Says what was done, or would be, as Feast's `apply` and `plan` do.
pub(super) fn tell<'a>(changes: impl Iterator<Item = Told<'a>>, tables: &Tables, project: &str) {
    let mut changed = false;
    for change in changes.filter(|change| is_shown(change.kind, change.name)) {
        changed = true;
        // Feast keeps quiet about data sources; they are of interest only when they go.
        if change.kind == ObjectKind::DataSource && change.verb != "Deleted" {
            continue;
        }
        output::line(format_args!(
            "{} {} {}",
            change.verb,
            change.kind.label(),
            change.name
        ));
        for field in change.fields {
            output::line(format_args!("\t{}", describe_field(field)));
        }
    }
    if !changed {
        output::line(format_args!("No changes to registry"));
    }
    output::line(format_args!(""));
    for name in &tables.created {
        output::line(format_args!("Created online table {project}_{name}"));
    }
    for table in &tables.dropped {
        output::line(format_args!("Removed online table {project}_{}", table.name));
    }
    if tables.created.is_empty() && tables.dropped.is_empty() {
        output::line(format_args!("No changes to infrastructure"));
    }
}

/// One planned change as text: `+`, `~` or `-`, and the fields an update touches.
pub(super) fn describe(change: &PlannedChange) -> Vec<String> {
    let sign = match change.action {
        PlannedAction::Create => '+',
        PlannedAction::Update => '~',
        PlannedAction::Delete => '-',
    };
    let version = match (change.action, change.version) {
        (PlannedAction::Update, Some(version)) => format!(" (new version {version})"),
        _ => String::new(),
    };
    let mut lines = vec![format!("{sign} {} {}{version}", change.kind.label(), change.name)];
    lines.extend(
        change
            .fields
            .iter()
            .map(|field| format!("    {}", describe_field(field))),
    );
    lines
}

fn describe_field(change: &FieldChange) -> String {
    match (&change.old, &change.new) {
        (Some(old), Some(new)) => format!("~ {}: {} -> {}", change.path, short(old), short(new)),
        (None, Some(new)) => format!("+ {}: {}", change.path, short(new)),
        (Some(old), None) => format!("- {}: {}", change.path, short(old)),
        (None, None) => change.path.clone(),
    }
}

/// A value on one line that a terminal has room for.
fn short(value: &Json) -> String {
    const ROOM: usize = 120;
    let text = value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
        .replace('\n', "\\n");
    if text.chars().count() <= ROOM {
        return text;
    }
    let start: String = text.chars().take(ROOM).collect();
    format!("{start}…")
}
