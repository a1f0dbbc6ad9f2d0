//! Plans: what it takes to make a project hold exactly the objects of a repository, shown before it is
//! done, and done only if the project still is as it was shown.

use std::collections::HashSet;

use chrono::{DateTime, Utc};

use super::{
    Applied, ApplyMode, ApplyReport, Outcome, apply_to,
    compare::{FieldChange, differences},
};
use crate::{
    error::{Error, Kind, Result},
    model::{Object, ObjectKind, feature_view::DUMMY_ENTITY_NAME},
    registry::{
        Registry,
        store::{Change, ProjectState, history::Author},
    },
};

/// What happens to one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlannedAction {
    Create,
    Update,
    Delete,
}

/// One change of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedChange {
    pub kind: ObjectKind,
    pub name: String,
    pub action: PlannedAction,
    /// What an update changes, field by field.
    pub fields: Vec<FieldChange>,
    /// The version of a view that will be made.
    pub version: Option<u32>,
}

/// What applying a repository would do.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub project: String,
    /// Deletions first, then in apply order.
    pub changes: Vec<PlannedChange>,
    /// How many objects stay as they are.
    pub unchanged: usize,
    desired: Vec<Object>,
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

impl Registry {
    /// Compares a whole repository with the project: objects of the project that are not in it would be
    /// deleted, except the project itself, saved datasets and validation references, which are made by
    /// clients at run time.
    ///
    /// # Errors
    /// Everything that is wrong with the objects, in one error.
    pub async fn plan(&self, project: &str, desired: Vec<Object>) -> Result<Plan> {
        let state = self.store.load(project).await?;
        let (plan, _, _) = plan_for(&state, desired, Utc::now())?;
        Ok(plan)
    }

    /// Does what a plan says, all or nothing.
    ///
    /// # Errors
    /// `Conflict` when the project has changed so that the plan would be another one now.
    pub async fn execute(&self, plan: &Plan, author: &Author) -> Result<ApplyReport> {
        let mut report = ApplyReport::default();
        let mut decide = |state: &ProjectState| {
            let (now, changes, done) = plan_for(state, plan.desired.clone(), Utc::now())?;
            if now.changes != plan.changes {
                return Err(changed_since(plan, &now));
            }
            report = done;
            Ok(changes)
        };
        self.update(&plan.project, Some(author), &mut decide).await?;
        Ok(report)
    }
}

fn plan_for(
    state: &ProjectState,
    desired: Vec<Object>,
    now: DateTime<Utc>,
) -> Result<(Plan, Vec<Change>, ApplyReport)> {
    let wanted: HashSet<(ObjectKind, &str)> = desired
        .iter()
        .map(|object| (object.kind, object.name.as_str()))
        .collect();
    let mut deleted: Vec<(ObjectKind, String)> = state
        .objects
        .iter()
        .filter(|object| is_owned(object) && !wanted.contains(&(object.kind, object.name.as_str())))
        .map(|object| (object.kind, object.name.clone()))
        .collect();
    // What refers to others goes before what it refers to.
    deleted.sort_by_key(|(kind, _)| std::cmp::Reverse(*kind));
    let (changes, report) = apply_to(state, desired.clone(), deleted, ApplyMode::Repository, now)?;

    let planned = planned(state, &changes, &report)?;
    let unchanged = report.objects.len() - planned.len();
    let plan = Plan {
        project: state.project.clone(),
        changes: planned,
        unchanged,
        desired,
    };
    Ok((plan, changes, report))
}

/// The report as a plan shows it: what changes, with the fields of what is updated.
pub(super) fn planned(
    state: &ProjectState,
    changes: &[Change],
    report: &ApplyReport,
) -> Result<Vec<PlannedChange>> {
    let mut planned = Vec::new();
    for Applied {
        kind,
        name,
        outcome,
        version,
    } in &report.objects
    {
        let (action, fields) = match outcome {
            Outcome::Unchanged => continue,
            Outcome::Deleted => (PlannedAction::Delete, Vec::new()),
            Outcome::Created => (PlannedAction::Create, Vec::new()),
            Outcome::Updated => (PlannedAction::Update, field_changes(state, changes, *kind, name)?),
        };
        planned.push(PlannedChange {
            kind: *kind,
            name: name.clone(),
            action,
            fields,
            version: *version,
        });
    }
    Ok(planned)
}

/// Whether a repository that does not mention the object deletes it.
fn is_owned(object: &Object) -> bool {
    let made_elsewhere = matches!(
        object.kind,
        ObjectKind::Project | ObjectKind::SavedDataset | ObjectKind::ValidationReference
    );
    let is_dummy = object.kind == ObjectKind::Entity && object.name == DUMMY_ENTITY_NAME;
    !made_elsewhere && !is_dummy
}

fn field_changes(
    state: &ProjectState,
    changes: &[Change],
    kind: ObjectKind,
    name: &str,
) -> Result<Vec<FieldChange>> {
    let new = changes.iter().find_map(|change| match change {
        Change::Put(object) if object.kind == kind && object.name == name => Some(object),
        _ => None,
    });
    match (state.object(kind, name), new) {
        (Some(old), Some(new)) => differences(old, new),
        _ => Ok(Vec::new()),
    }
}

fn changed_since(plan: &Plan, now: &Plan) -> Error {
    let differs = now
        .changes
        .iter()
        .find(|change| !plan.changes.contains(change))
        .or_else(|| plan.changes.iter().find(|change| !now.changes.contains(change)));
    let what = differs.map_or_else(String::new, |change| {
        format!(" ({} `{}`)", change.kind.label(), change.name)
    });
    Error::new(
        Kind::Conflict,
        format!(
            "project `{}` has changed since it was planned{what}",
            plan.project
        ),
    )
    .hint("plan again")
}
