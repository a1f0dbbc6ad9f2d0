//! Looking back and going back: what changed between two entries of a project's history, and making a
//! project what it was after an entry.
//!
//! Going back is an apply like any other: it is validated, makes new versions of views where their
//! schema changes, keeps what was materialized, and becomes an entry itself, so that it can be undone.

use chrono::{DateTime, Utc};
use indexmap::IndexMap;

use super::{
    ApplyMode, ApplyReport, apply_to,
    compare::{Look, differences, same},
    merge::state_path,
    plan::{PlannedAction, PlannedChange, planned},
};
use crate::{
    error::{Error, Kind, Result},
    model::{
        Object, ObjectKind,
        wire::{self, Put},
    },
    registry::{
        Registry,
        store::{
            Change, PROJECT_UUID, ProjectState, ViewVersion,
            history::{Author, HistoryEntry, HistoryPage, ObjectChange},
        },
    },
};

/// How many entries are read at a time.
const PAGE: usize = 200;

/// What undoes every entry after a certain one.
#[derive(Debug, Clone, PartialEq)]
pub struct Rollback {
    pub project: String,
    /// The last entry that stays; 0 stands for the time before the first.
    pub to: u64,
    /// What will change, as a plan shows it.
    pub changes: Vec<PlannedChange>,
    undone: Undone,
}

/// Everything that entries changed, from the first to the last of them.
#[derive(Debug, Clone, Default, PartialEq)]
struct Undone {
    objects: IndexMap<(ObjectKind, String), ObjectChange>,
    removed_versions: Vec<ViewVersion>,
    removed_infra: Option<bytes::Bytes>,
    removed_metadata: Vec<(String, String)>,
}

impl Registry {
    /// What changed after entry `from` up to and with entry `to`, or up to the newest.
    ///
    /// # Errors
    /// `InvalidArgument` when the history does not reach back that far, or not yet up to there.
    pub async fn diff(&self, project: &str, from: u64, to: Option<u64>) -> Result<Vec<PlannedChange>> {
        let entries = self.entries_after(project, from, to).await?;
        let change = |change: ObjectChange| difference(project, change).transpose();
        let undone = Undone::of(entries);
        undone.objects.into_values().filter_map(change).collect()
    }

    /// What it takes to make the project what it was after entry `to`; changes nothing.
    ///
    /// # Errors
    /// `InvalidArgument` when the history does not reach back that far, or what it was then is refused
    /// now; `Conflict` when an object was changed without an entry in the history.
    pub async fn plan_rollback(&self, project: &str, to: u64) -> Result<Rollback> {
        let undone = Undone::of(self.entries_after(project, to, None).await?);
        let state = self.store.load(project).await?;
        let (changes, report) = undone.undo(&state, Utc::now())?;
        Ok(Rollback {
            project: project.to_owned(),
            to,
            changes: planned(&state, &changes, &report)?,
            undone,
        })
    }

    /// Goes back, all or nothing.
    ///
    /// # Errors
    /// As [`Registry::plan_rollback`]; `Conflict` when the project has changed since it was planned.
    pub async fn roll_back(&self, rollback: &Rollback, author: &Author) -> Result<ApplyReport> {
        let mut report = ApplyReport::default();
        let mut decide = |state: &ProjectState| {
            let (changes, done) = rollback.undone.undo(state, Utc::now())?;
            report = done;
            Ok(changes)
        };
        self.update(&rollback.project, Some(author), &mut decide).await?;
        Ok(report)
    }

    /// The entries after `from`, up to and with `to`, newest first.
    async fn entries_after(&self, project: &str, from: u64, to: Option<u64>) -> Result<Vec<HistoryEntry>> {
        let mut entries: Vec<HistoryEntry> = Vec::new();
        let mut before = to.map(|to| to.saturating_add(1));
        loop {
            let page = HistoryPage { before, limit: PAGE };
            let read = self.history(project, page).await?;
            let is_last = read.len() < PAGE;
            let newer = read.iter().filter(|entry| entry.number > from).count();
            let reached = newer < read.len();
            before = read.last().map(|entry| entry.number);
            entries.extend(read.into_iter().take(newer));
            if reached || is_last {
                break;
            }
        }
        let newest = entries.first().map_or(from, |entry| entry.number);
        let oldest = entries.last().map_or(newest, |entry| entry.number - 1);
        if newest < to.unwrap_or(newest) || to.is_some_and(|to| to < from) {
            return Err(Error::invalid(format!(
                "the history of project `{project}` has no entries from {from} to {}",
                to.unwrap_or_default()
            )));
        }
        if oldest > from {
            return Err(Error::invalid(format!(
                "the history of project `{project}` does not reach back to entry {from}: the oldest one left is {}",
                oldest + 1
            )));
        }
        if entries.is_empty() && from > 0 {
            self.require_entry(project, from).await?;
        }
        Ok(entries)
    }

    async fn require_entry(&self, project: &str, number: u64) -> Result<()> {
        let page = HistoryPage {
            before: Some(number.saturating_add(1)),
            limit: 1,
        };
        let found = self.history(project, page).await?;
        if found.first().is_some_and(|entry| entry.number == number) {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "the history of project `{project}` has no entry {number}"
        ))
        .hint("`thali registry history` lists them"))
    }
}

impl Undone {
    /// The sum of entries that come newest first.
    fn of(entries: Vec<HistoryEntry>) -> Self {
        let mut sum = Self::default();
        for entry in entries.into_iter().rev() {
            for change in entry.objects {
                let key = (change.kind, change.name.clone());
                match sum.objects.get_mut(&key) {
                    Some(first) => first.after = change.after,
                    None => drop(sum.objects.insert(key, change)),
                }
            }
            sum.removed_versions.extend(entry.removed_versions);
            sum.removed_infra = sum.removed_infra.or(entry.removed_infra);
            sum.removed_metadata.extend(entry.removed_metadata);
        }
        sum.objects.retain(|_, change| change.before != change.after);
        sum
    }

    /// The changes that take a project from where the entries left it to where they found it.
    fn undo(&self, state: &ProjectState, now: DateTime<Utc>) -> Result<(Vec<Change>, ApplyReport)> {
        let mut incoming = Vec::new();
        let mut deleted = Vec::new();
        for change in self.objects.values() {
            expect_unchanged(state, change)?;
            match &change.before {
                Some(bytes) => incoming.push(definition(&state.project, change, bytes)?),
                None => deleted.push((change.kind, change.name.clone())),
            }
        }
        let stays = |object: &Object| {
            let gone = (object.kind, object.name.clone());
            !deleted.contains(&gone)
        };
        if incoming.is_empty() && !state.objects.iter().any(|object| stays(object)) {
            let report = ApplyReport::deleting(deleted);
            let changes = match state.is_empty() {
                true => Vec::new(),
                false => vec![Change::DeleteProject],
            };
            return Ok((changes, report));
        }
        // The project's own object stays as long as anything is in it.
        deleted.retain(|(kind, _)| *kind != ObjectKind::Project);
        deleted.sort_by_key(|(kind, _)| std::cmp::Reverse(*kind));
        let kept = self.removed_beside(state);
        let mut with_kept = state.clone();
        kept.iter().for_each(|change| with_kept.change(change));
        let (applied, report) = apply_to(&with_kept, incoming, deleted, ApplyMode::Repository, now)?;
        Ok((kept.into_iter().chain(applied).collect(), report))
    }

    /// What deletions took along and is not there again: versions of views, the project's UUID, its
    /// infrastructure.
    fn removed_beside(&self, state: &ProjectState) -> Vec<Change> {
        let mut changes = Vec::new();
        let is_new = state.is_empty();
        for (key, value) in &self.removed_metadata {
            if is_new && key == PROJECT_UUID {
                changes.push(Change::PutMetadata(key.clone(), value.clone()));
            }
        }
        if let (None, Some(infra)) = (&state.infra, &self.removed_infra) {
            changes.push(Change::PutInfra(infra.clone()));
        }
        for version in &self.removed_versions {
            let key = (version.kind, version.view.clone());
            let comes_back = self
                .objects
                .get(&key)
                .is_some_and(|change| change.before.is_some());
            let is_there = |kept: &ViewVersion| kept.view == version.view && kept.number == version.number;
            if comes_back && !state.versions.iter().any(|kept| is_there(kept)) {
                changes.push(Change::PutVersion(version.clone()));
            }
        }
        changes
    }
}

/// Refuses to undo a change over one that the history knows nothing of.
fn expect_unchanged(state: &ProjectState, change: &ObjectChange) -> Result<()> {
    let current = state.object(change.kind, &change.name);
    let is_same = match (current, &change.after) {
        (None, None) => true,
        (Some(current), Some(after)) => {
            let known = Object {
                bytes: after.clone(),
                ..Object::clone(current)
            };
            same(current, &known, Look::Plan)?
        }
        _ => false,
    };
    if is_same {
        return Ok(());
    }
    Err(Error::new(
        Kind::Conflict,
        format!(
            "{} `{}` of project `{}` is not what the history says it is: something else has changed it",
            change.kind.label(),
            change.name,
            state.project
        ),
    )
    .hint("look at the history again; change the object by an apply if it was changed outside of thali"))
}

/// An object of the past as somebody would define it now: its state is of now, not of then.
fn definition(project: &str, change: &ObjectChange, bytes: &bytes::Bytes) -> Result<Object> {
    let mut object = Object {
        kind: change.kind,
        project: project.to_owned(),
        name: change.name.clone(),
        bytes: bytes.clone(),
    };
    if let Some(path) = state_path(change.kind) {
        object.bytes = wire::set(&object.bytes, path, Put::Nothing)?.into();
    }
    Ok(object)
}

/// One object's change as a plan shows it; `None` when only times or states differ.
fn difference(project: &str, change: ObjectChange) -> Result<Option<PlannedChange>> {
    let object = |bytes: bytes::Bytes| Object {
        kind: change.kind,
        project: project.to_owned(),
        name: change.name.clone(),
        bytes,
    };
    let (action, fields) = match (change.before, change.after) {
        (None, None) => return Ok(None),
        (None, Some(_)) => (PlannedAction::Create, Vec::new()),
        (Some(_), None) => (PlannedAction::Delete, Vec::new()),
        (Some(before), Some(after)) => {
            let fields = differences(&object(before), &object(after))?;
            if fields.is_empty() {
                return Ok(None);
            }
            (PlannedAction::Update, fields)
        }
    };
    Ok(Some(PlannedChange {
        kind: change.kind,
        name: change.name,
        action,
        fields,
        version: None,
    }))
}
