//! Changing a project: applying objects, whole repositories by plan, deletions, and what runs record.
//! Every change is one transaction, and the rules are the same for gRPC, REST and the command line.
//! Nothing here talks to stores of feature values.

mod compare;
mod merge;
mod plan;
mod prepare;
mod problems;
mod rollback;
mod validate;
mod version;
mod views;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use chrono::{DateTime, Utc};

pub use self::{
    compare::FieldChange,
    plan::{Plan, PlannedAction, PlannedChange},
    rollback::Rollback,
    validate::is_project_name,
};
use self::{
    merge::{Merged, merge},
    problems::Problems,
    validate::World,
};
use super::{
    Registry,
    store::{Change, ProjectState, ViewVersion, history::Author},
};
use crate::{
    error::Result,
    model::{Object, ObjectKind, feature_view::DUMMY_ENTITY_NAME},
};

/// How much of what objects refer to has to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApplyMode {
    /// One object of a sequence that some client sends: what it refers to may come later.
    Single,
    /// The objects belong together: every reference has to lead somewhere in the end.
    Repository,
}

/// What an apply did to one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Created,
    Updated,
    Unchanged,
    Deleted,
}

/// One line of an [`ApplyReport`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    pub kind: ObjectKind,
    pub name: String,
    pub outcome: Outcome,
    /// The version of a view that this apply made.
    pub version: Option<u32>,
}

/// What an apply did, in the order it was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApplyReport {
    pub objects: Vec<Applied>,
}

impl ApplyReport {
    /// The report of deletions.
    fn deleting(objects: Vec<(ObjectKind, String)>) -> Self {
        let deleted = |(kind, name)| Applied {
            kind,
            name,
            outcome: Outcome::Deleted,
            version: None,
        };
        Self {
            objects: objects.into_iter().map(deleted).collect(),
        }
    }

    /// Whether anything was written.
    pub fn is_changed(&self) -> bool {
        self.objects
            .iter()
            .any(|object| object.outcome != Outcome::Unchanged)
    }
}

impl Registry {
    /// Creates or updates objects of a project, all or none; a missing project is created.
    ///
    /// # Errors
    /// Everything that is wrong with the objects, in one error; nothing has changed then.
    pub async fn apply(
        &self,
        project: &str,
        objects: Vec<Object>,
        mode: ApplyMode,
        author: &Author,
    ) -> Result<ApplyReport> {
        let mut report = ApplyReport::default();
        let mut decide = |state: &ProjectState| {
            let (changes, done) = apply_to(state, objects.clone(), Vec::new(), mode, Utc::now())?;
            report = done;
            Ok(changes)
        };
        self.update(project, Some(author), &mut decide).await?;
        Ok(report)
    }

    /// Deletes one object; `FeatureView` stands for a view of any kind.
    ///
    /// # Errors
    /// The kind's not-found error.
    pub async fn delete(&self, project: &str, kind: ObjectKind, name: &str, author: &Author) -> Result<()> {
        if kind == ObjectKind::Project {
            return self.delete_project(name, author).await;
        }
        let mut decide = |state: &ProjectState| {
            let kinds: &[ObjectKind] = if kind == ObjectKind::FeatureView {
                &ObjectKind::VIEWS
            } else {
                &[kind]
            };
            let found = kinds.iter().filter(|kind| state.object(**kind, name).is_some());
            let changes: Vec<Change> = found.map(|kind| Change::Delete(*kind, name.to_owned())).collect();
            if changes.is_empty() {
                Err(kind.not_found(name, project))
            } else {
                Ok(changes)
            }
        };
        self.update(project, Some(author), &mut decide).await.map(drop)
    }

    /// Deletes a project with everything in it, version history included.
    ///
    /// # Errors
    /// `ProjectNotFound`.
    pub async fn delete_project(&self, project: &str, author: &Author) -> Result<()> {
        let mut decide = |state: &ProjectState| {
            if state.is_empty() {
                return Err(ObjectKind::Project.not_found(project, project));
            }
            Ok(vec![Change::DeleteProject])
        };
        self.update(project, Some(author), &mut decide).await.map(drop)
    }

    /// Keeps an encoded `feast.core.Infra`, if it differs from the one that is kept.
    ///
    /// # Errors
    /// What the store returns.
    pub async fn put_infra(&self, project: &str, infra: Bytes) -> Result<()> {
        let mut decide = |state: &ProjectState| {
            let same = state.infra.as_ref() == Some(&infra) || (state.infra.is_none() && infra.is_empty());
            Ok(if same {
                Vec::new()
            } else {
                vec![Change::PutInfra(infra.clone())]
            })
        };
        self.update(project, None, &mut decide).await.map(drop)
    }

    /// Keeps one of the project's free keys.
    ///
    /// # Errors
    /// What the store returns.
    pub async fn set_metadata(&self, project: &str, key: &str, value: &str) -> Result<()> {
        let mut decide = |state: &ProjectState| {
            let same = state
                .metadata
                .iter()
                .any(|(old, kept)| old == key && kept == value);
            Ok(if same {
                Vec::new()
            } else {
                vec![Change::PutMetadata(key.to_owned(), value.to_owned())]
            })
        };
        self.update(project, None, &mut decide).await.map(drop)
    }
}

/// Works out what writing `incoming` and deleting `deleted` changes in a project.
fn apply_to(
    state: &ProjectState,
    incoming: Vec<Object>,
    deleted: Vec<(ObjectKind, String)>,
    mode: ApplyMode,
    now: DateTime<Utc>,
) -> Result<(Vec<Change>, ApplyReport)> {
    let staying: Vec<&Object> = if deleted.is_empty() {
        state.objects.iter().map(Arc::as_ref).collect()
    } else {
        let gone = |object: &Object| {
            deleted
                .iter()
                .any(|(kind, name)| *kind == object.kind && *name == object.name)
        };
        let all = state.objects.iter().map(Arc::as_ref);
        all.filter(|object| !gone(object)).collect()
    };
    let incoming = prepared(state, &staying, incoming, mode)?;
    if mode == ApplyMode::Repository && state.is_empty() {
        validate::new_project_name(&state.project)?;
    }
    let stored = world(&staying, &[]);
    validate::check(&incoming, &world(&staying, &incoming), &stored, mode)?;

    let mut history: HashMap<&str, Vec<&ViewVersion>> = HashMap::new();
    for version in &state.versions {
        // A view that is deleted and made anew, as another kind, begins a new history.
        if deleted
            .iter()
            .all(|(kind, name)| !kind.is_view() || *name != version.view)
        {
            history.entry(&version.view).or_default().push(version);
        }
    }
    let mut changes: Vec<Change> = Vec::new();
    let deletion = |(kind, name): &(ObjectKind, String)| Change::Delete(*kind, name.clone());
    changes.extend(deleted.iter().map(deletion));
    let mut report = ApplyReport::deleting(deleted);
    let mut problems = Problems::default();
    for object in incoming {
        let (kind, name) = (object.kind, object.name.clone());
        let old = stored.get(&(kind, name.as_str())).copied();
        let history = history.get(name.as_str()).map_or(&[][..], Vec::as_slice);
        let Some((written, version)) = problems.keep(write(old, object, history, now)) else {
            continue;
        };
        let outcome = match (written.is_empty(), old) {
            (true, _) => Outcome::Unchanged,
            (false, None) => Outcome::Created,
            (false, Some(_)) => Outcome::Updated,
        };
        changes.extend(written);
        report.objects.push(Applied {
            kind,
            name,
            outcome,
            version,
        });
    }
    problems.into_result()?;
    Ok((changes, report))
}

fn write(
    old: Option<&Object>,
    object: Object,
    history: &[&ViewVersion],
    now: DateTime<Utc>,
) -> Result<(Vec<Change>, Option<u32>)> {
    if object.kind.is_view() {
        let view = version::Apply { old, history, now }.view(&object)?;
        return Ok((view.changes, view.version));
    }
    Ok(match merge(old, object, now)? {
        Merged::Unchanged => (Vec::new(), None),
        Merged::Changed(object) => (vec![Change::Put(object)], None),
    })
}

/// The objects in apply order, completed with what clients may leave out.
fn prepared(
    state: &ProjectState,
    staying: &[&Object],
    incoming: Vec<Object>,
    mode: ApplyMode,
) -> Result<Vec<Object>> {
    let mut problems = Problems::default();
    let mut objects: Vec<Object> = Vec::with_capacity(incoming.len() + 1);
    for object in incoming {
        objects.extend(problems.keep(prepare::object(object, &state.project)));
    }
    let is_dummy = |object: &Object| object.kind == ObjectKind::Entity && object.name == DUMMY_ENTITY_NAME;
    let has_dummy = objects.iter().any(is_dummy) || staying.iter().any(|object| is_dummy(object));
    if mode == ApplyMode::Repository && !has_dummy {
        objects.push(prepare::dummy_entity(&state.project));
    }
    objects.sort_by_key(|object| object.kind);
    let services: Vec<usize> = (0..objects.len())
        .filter(|index| {
            objects
                .get(*index)
                .is_some_and(|object| object.kind == ObjectKind::FeatureService)
        })
        .collect();
    let mut resolved: BTreeMap<usize, Object> = BTreeMap::new();
    {
        let world = world(staying, &objects);
        for index in services {
            let service = objects
                .get(index)
                .map(|object| prepare::service(object.clone(), &world));
            match service {
                Some(Ok(service)) => drop(resolved.insert(index, service)),
                // The check of references tells of it then, together with everything else.
                Some(Err(_)) if mode == ApplyMode::Repository => {}
                Some(Err(error)) => problems.push(error),
                None => {}
            }
        }
    }
    for (index, service) in resolved {
        if let Some(object) = objects.get_mut(index) {
            *object = service;
        }
    }
    problems.into_result()?;
    Ok(objects)
}

fn world<'a>(staying: &[&'a Object], incoming: &'a [Object]) -> World<'a> {
    let all = staying.iter().copied().chain(incoming);
    all.map(|object| ((object.kind, object.name.as_str()), object))
        .collect()
}

#[cfg(test)]
mod tests;
