//! What leads from one state of a project to the next, folded to one outcome per object: from changes
//! that are to be written, or from rows that others have written.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use indexmap::IndexMap;

use super::super::{Change, Objects, ProjectState, Revision, ViewVersion, history::HistoryEntry};
use crate::model::{Object, ObjectKind};

/// Outcomes; `None` is a row that goes.
#[derive(Debug, Default)]
pub(super) struct Delta {
    pub objects: IndexMap<(ObjectKind, String), Option<Arc<Object>>>,
    pub versions: IndexMap<(String, u32), Option<Arc<ViewVersion>>>,
    pub infra: Option<Option<Bytes>>,
    /// Keys that come or change.
    pub metadata: IndexMap<String, String>,
    /// Everything that was there before goes, whether it is known or not.
    pub wipe: bool,
    /// What the project's history becomes.
    pub history: Option<Vec<HistoryEntry>>,
    /// Views of which all versions that were there before go, known or not.
    pub dropped: HashSet<String>,
}

impl Delta {
    /// What `changes` come to, without those that change nothing.
    pub(super) fn of(before: &ProjectState, changes: &[Change]) -> Self {
        let mut delta = Self::default();
        let mut numbers: HashMap<&str, Vec<u32>> = HashMap::new();
        if changes.iter().any(|change| matches!(change, Change::Delete(..))) {
            for version in &before.versions {
                numbers.entry(&version.view).or_default().push(version.number);
            }
        }
        for change in changes {
            delta.fold(before, &mut numbers, change);
        }
        let wipe = delta.wipe;
        delta.objects.retain(|(kind, name), after| {
            let before = before.object(*kind, name);
            wipe || before.map(|object| &object.bytes) != after.as_ref().map(|object| &object.bytes)
        });
        delta
    }

    /// `numbers` are those of the versions a view has at this point.
    fn fold<'a>(
        &mut self,
        before: &ProjectState,
        numbers: &mut HashMap<&'a str, Vec<u32>>,
        change: &'a Change,
    ) {
        let project = &before.project;
        match change {
            Change::Put(object) => {
                let is_project = object.kind == ObjectKind::Project;
                let name = if is_project { project } else { &object.name };
                let object = Object {
                    project: project.clone(),
                    name: name.clone(),
                    ..object.clone()
                };
                self.objects
                    .insert((object.kind, name.clone()), Some(Arc::new(object)));
            }
            Change::Delete(kind, name) => {
                self.objects.insert((*kind, name.clone()), None);
                if kind.is_view() {
                    let gone = numbers.remove(name.as_str()).into_iter().flatten();
                    self.versions
                        .extend(gone.map(|number| ((name.clone(), number), None)));
                    self.dropped.insert(name.clone());
                }
            }
            Change::PutVersion(version) => {
                numbers.entry(&version.view).or_default().push(version.number);
                let key = (version.view.clone(), version.number);
                self.versions.insert(key, Some(Arc::new(version.clone())));
            }
            Change::PutInfra(infra) => self.infra = Some(Some(infra.clone())),
            Change::PutMetadata(key, value) => {
                self.metadata.insert(key.clone(), value.clone());
            }
            Change::PutHistory(entries) => self.history = Some(entries.clone()),
            Change::DeleteProject => {
                let objects = before.objects.iter();
                let versions = before.versions.iter();
                *self = Self {
                    objects: objects
                        .map(|object| ((object.kind, object.name.clone()), None))
                        .collect(),
                    versions: versions
                        .map(|version| ((version.view.clone(), version.number), None))
                        .collect(),
                    infra: Some(None),
                    wipe: true,
                    history: self.history.take(),
                    ..Self::default()
                };
            }
        }
    }

    /// Whether everything stays as it is.
    pub(super) fn is_nothing(&self, before: &ProjectState) -> bool {
        let is_kept = |(key, value): (&String, &String)| {
            before
                .metadata
                .iter()
                .any(|(old, kept)| old == key && kept == value)
        };
        let mut known: HashMap<(&str, u32), &Arc<ViewVersion>> = HashMap::new();
        if !self.versions.is_empty() {
            let versions = before.versions.iter();
            known.extend(versions.map(|version| ((version.view.as_str(), version.number), version)));
        }
        let same_version = |((view, number), after): (&(String, u32), &Option<Arc<ViewVersion>>)| {
            known.get(&(view.as_str(), *number)).copied() == after.as_ref()
        };
        self.objects.is_empty()
            && self.history.is_none()
            && self.infra.as_ref().is_none_or(|after| *after == before.infra)
            && (!self.wipe || before.is_empty())
            && self.metadata.iter().all(is_kept)
            && self.versions.iter().all(same_version)
    }

    /// The state after it.
    pub(super) fn apply(
        &self,
        before: &ProjectState,
        keeps_order: bool,
        revision: Revision,
        last_updated: Option<DateTime<Utc>>,
    ) -> ProjectState {
        let mut state = before.clone();
        state.revision = revision;
        state.last_updated = last_updated;
        self.apply_objects(&mut state, keeps_order);
        self.apply_versions(&mut state);
        if let Some(infra) = &self.infra {
            state.infra.clone_from(infra);
        }
        if self.wipe {
            state.metadata.clear();
        }
        for (key, value) in &self.metadata {
            match state.metadata.iter_mut().find(|(old, _)| old == key) {
                Some((_, old)) => old.clone_from(value),
                None => state.metadata.push((key.clone(), value.clone())),
            }
        }
        state.metadata.sort();
        state
    }

    fn apply_objects(&self, state: &mut ProjectState, keeps_order: bool) {
        let gone: HashSet<(ObjectKind, &str)> = self
            .objects
            .iter()
            .filter(|(_, after)| after.is_none())
            .map(|((kind, name), _)| (*kind, name.as_str()))
            .collect();
        if !gone.is_empty() {
            state
                .objects
                .retain(|object| !gone.contains(&(object.kind, object.name.as_str())));
        }
        let kept = state.objects.len();
        for object in self.objects.values().flatten() {
            state.objects.put(Arc::clone(object));
        }
        if !keeps_order && state.objects.len() > kept {
            // All processes list them in the same order.
            let mut objects: Vec<_> = state.objects.iter().cloned().collect();
            objects.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
            state.objects = objects.into_iter().collect::<Objects>();
        }
    }

    fn apply_versions(&self, state: &mut ProjectState) {
        if self.versions.is_empty() {
            return;
        }
        let touched: HashSet<(&str, u32)> = self
            .versions
            .keys()
            .map(|(view, number)| (view.as_str(), *number))
            .collect();
        state
            .versions
            .retain(|version| !touched.contains(&(version.view.as_str(), version.number)));
        state.versions.extend(self.versions.values().flatten().cloned());
        state
            .versions
            .sort_by(|a, b| (&a.view, a.number).cmp(&(&b.view, b.number)));
    }
}
