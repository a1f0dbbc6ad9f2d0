//! Rows as they were fetched, and what of them is news to a state.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    super::{ProjectState, ViewVersion},
    delta::Delta,
    known::Key,
    schema::{self, Holds, TABLES, VERSIONS},
};
use crate::model::{Object, ObjectKind};

/// A row of one of [`TABLES`].
pub(super) struct Fetched {
    pub table: usize,
    pub key: Key,
    pub mark: i64,
    pub value: Value,
}

pub(super) enum Value {
    Message(Bytes),
    Version(Box<ViewVersion>),
}

/// Rows that may have changed, and rows that are gone.
#[derive(Default)]
pub(super) struct News {
    pub rows: Vec<Fetched>,
    pub gone: Vec<(usize, Key)>,
    /// The rows are all there are: what is not among them is gone too.
    pub whole: bool,
}

impl News {
    /// What leads from `state` to these rows. Objects that are equal to those of `other` are shared.
    pub(super) fn delta(&self, state: &ProjectState, other: Option<&ProjectState>) -> Delta {
        let mut delta = Delta::default();
        let has_versions = self.rows.iter().any(|row| row.table == VERSIONS);
        let versions = [Some(state), other].map(|state| match state {
            Some(state) if has_versions => by_number(state),
            _ => HashMap::new(),
        });
        for row in &self.rows {
            let name = &row.key.0;
            match (&row.value, TABLES.get(row.table).map(|table| table.holds)) {
                (Value::Version(version), _) => {
                    let key = (name.as_str(), row.key.1);
                    let [old, others] = &versions;
                    let is_old = old.get(&key).is_some_and(|old| ***old == **version);
                    let shared = others.get(&key).filter(|other| ****other == **version);
                    if !is_old {
                        let version =
                            shared.map_or_else(|| Arc::new((**version).clone()), |shared| Arc::clone(shared));
                        delta
                            .versions
                            .insert((name.clone(), version.number), Some(version));
                    }
                }
                (Value::Message(bytes), Some(Holds::Objects(kind))) => {
                    let same = |state: &ProjectState| {
                        let object = state.object(kind, name)?;
                        (object.bytes == *bytes).then(|| Arc::clone(object))
                    };
                    if same(state).is_none() {
                        let object = other.and_then(same);
                        let object = object.unwrap_or_else(|| new_object(state, kind, name, bytes));
                        delta.objects.insert((kind, name.clone()), Some(object));
                    }
                }
                (Value::Message(bytes), _) => {
                    delta.infra = (state.infra.as_ref() != Some(bytes)).then(|| Some(bytes.clone()));
                }
            }
        }
        self.forget(state, &mut delta);
        delta
    }

    fn forget(&self, state: &ProjectState, delta: &mut Delta) {
        let mut forget =
            |table: usize, name: &str, number: i64| match TABLES.get(table).map(|table| table.holds) {
                Some(Holds::Objects(kind)) => {
                    if state.object(kind, name).is_some() {
                        delta.objects.insert((kind, name.to_owned()), None);
                    }
                }
                Some(Holds::Versions) => {
                    let number = u32::try_from(number).unwrap_or_default();
                    delta.versions.insert((name.to_owned(), number), None);
                }
                _ => delta.infra = Some(None),
            };
        for (table, (name, number)) in &self.gone {
            forget(*table, name, *number);
        }
        if !self.whole {
            return;
        }
        let present: HashSet<(usize, &str, i64)> = self
            .rows
            .iter()
            .map(|row| (row.table, row.key.0.as_str(), row.key.1))
            .collect();
        for object in state.objects.iter() {
            let table = schema::position(object.kind);
            if !present.contains(&(table, object.name.as_str(), 0)) {
                forget(table, &object.name, 0);
            }
        }
        for version in &state.versions {
            let number = i64::from(version.number);
            if !present.contains(&(VERSIONS, version.view.as_str(), number)) {
                forget(VERSIONS, &version.view, number);
            }
        }
        if state.infra.is_some() && !self.rows.iter().any(|row| row.table == schema::INFRA) {
            forget(schema::INFRA, schema::INFRA_NAME, 0);
        }
    }
}

fn by_number(state: &ProjectState) -> HashMap<(&str, i64), &Arc<ViewVersion>> {
    let versions = state.versions.iter();
    versions
        .map(|version| ((version.view.as_str(), i64::from(version.number)), version))
        .collect()
}

fn new_object(state: &ProjectState, kind: ObjectKind, name: &str, bytes: &Bytes) -> Arc<Object> {
    Arc::new(Object {
        kind,
        project: state.project.clone(),
        name: name.to_owned(),
        bytes: bytes.clone(),
    })
}
