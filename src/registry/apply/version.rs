//! Version numbers of feature views: when a view gets a new one, pinning to an old one, and the
//! snapshots kept of each.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    compare::{Look, is_version_significant, same},
    merge::{Merged, merge, state_path},
};
use crate::{
    error::{Error, Kind, Result},
    model::{
        Object, ObjectKind,
        wire::{self, Put},
    },
    registry::store::{Change, ViewVersion},
};

/// `v3`, `version3` and `V3` as `v3`; `None` is the latest.
pub(super) fn normalized_version(text: &str) -> Option<String> {
    parse_version(text).ok().flatten().map(tag)
}

fn tag(number: u32) -> String {
    format!("v{number}")
}

/// The version a view asks for; `None` is the latest.
///
/// # Errors
/// `InvalidArgument`, in Feast's words, when it is neither `latest` nor a number.
pub(super) fn parse_version(text: &str) -> Result<Option<u32>> {
    let lower = text.to_ascii_lowercase();
    if lower.is_empty() || lower == "latest" {
        return Ok(None);
    }
    let digits = lower
        .strip_prefix("version")
        .or_else(|| lower.strip_prefix('v'))
        .unwrap_or_default();
    match digits.parse() {
        // The number is an int32 on the wire.
        Ok(number) if digits.bytes().all(|b| b.is_ascii_digit()) && i32::try_from(number).is_ok() => {
            Ok(Some(number))
        }
        _ => Err(Error::invalid(format!(
            "Invalid version string '{text}'. Expected 'latest', 'vN', or 'versionN' (e.g. 'v2', 'version3')."
        ))),
    }
}

/// The version as the view's message spells it.
pub(super) fn version_text(view: &Object) -> Result<&str> {
    match version_path(view.kind) {
        Some(path) => wire::text(&view.bytes, path),
        None => Ok(""),
    }
}

fn version_path(kind: ObjectKind) -> Option<&'static [u32]> {
    match kind {
        ObjectKind::FeatureView => Some(&[1, 18]),
        ObjectKind::StreamFeatureView => Some(&[1, 21]),
        ObjectKind::OnDemandFeatureView => Some(&[1, 17]),
        _ => None,
    }
}

fn number_path(kind: ObjectKind) -> Option<&'static [u32]> {
    match kind {
        ObjectKind::FeatureView | ObjectKind::StreamFeatureView => Some(&[2, 4]),
        ObjectKind::OnDemandFeatureView => Some(&[2, 3]),
        _ => None,
    }
}

fn active_number(view: &Object) -> Result<u32> {
    let Some(path) = number_path(view.kind) else {
        return Ok(0);
    };
    match wire::get(&view.bytes, path)? {
        Some(field) => Ok(u32::try_from(field.varint()?).unwrap_or_default()),
        None => Ok(0),
    }
}

fn with_number(view: &Object, number: u32) -> Result<Object> {
    let Some(path) = number_path(view.kind) else {
        return Ok(view.clone());
    };
    let bytes = wire::set(&view.bytes, path, Put::number(number.into()))?;
    Ok(Object {
        bytes: bytes.into(),
        ..view.clone()
    })
}

/// What applying one view writes; nothing when it is unchanged.
#[derive(Debug, Default)]
pub(super) struct ViewChanges {
    pub changes: Vec<Change>,
    /// The view as it will be stored.
    pub object: Option<Object>,
    /// The number of the version that was made.
    pub version: Option<u32>,
}

/// One view being applied over what is there.
pub(super) struct Apply<'a> {
    pub old: Option<&'a Object>,
    pub history: &'a [&'a ViewVersion],
    pub now: DateTime<Utc>,
}

impl Apply<'_> {
    /// Works out the changes for `incoming`.
    ///
    /// # Errors
    /// A malformed version, or `FeatureViewPinConflict`.
    pub(super) fn view(&self, incoming: &Object) -> Result<ViewChanges> {
        match parse_version(version_text(incoming)?)? {
            None => self.latest(incoming),
            Some(number) => match self.history.iter().find(|version| version.number == number) {
                Some(snapshot) => self.pin(incoming, snapshot),
                // A version that does not exist yet, under the number it was given.
                None => self.store_as_version(incoming, number),
            },
        }
    }

    fn next_number(&self) -> Option<u32> {
        self.history
            .iter()
            .map(|version| version.number)
            .max()
            .map(|last| last.saturating_add(1))
    }

    fn latest(&self, incoming: &Object) -> Result<ViewChanges> {
        let Some(old) = self.old else {
            return self.store_as_version(incoming, self.next_number().unwrap_or(0));
        };
        if !is_version_significant(old, incoming)? {
            return self.store(with_number(incoming, active_number(old)?)?);
        }
        match self.next_number() {
            Some(next) => self.store_as_version(incoming, next),
            None => {
                // The first change of a view from before versions: what was there becomes v0.
                let first = self.snapshot(old, 0);
                let mut changes = self.store_as_version(incoming, 1)?;
                changes.changes.insert(0, first);
                Ok(changes)
            }
        }
    }

    /// Goes back to a snapshot. Pinning and changing at once would lose the change, so that is refused;
    /// what is sent may be the active definition or one that is in the history.
    fn pin(&self, incoming: &Object, snapshot: &ViewVersion) -> Result<ViewChanges> {
        let as_object = |version: &ViewVersion| Object {
            kind: version.kind,
            bytes: version.bytes.clone(),
            ..incoming.clone()
        };
        let mut known = match self.old {
            Some(old) => same(incoming, old, Look::Definition)?,
            None => true,
        };
        for version in self
            .history
            .iter()
            .filter(|version| version.kind == incoming.kind)
        {
            known = known || same(incoming, &as_object(version), Look::Definition)?;
        }
        if !known || snapshot.kind != incoming.kind {
            return Err(pin_conflict(&incoming.name, snapshot.number));
        }
        let mut restored = as_object(snapshot);
        if let Some(path) = version_path(restored.kind) {
            let asked = version_text(incoming)?;
            restored.bytes = wire::set(&restored.bytes, path, Put::text(asked))?.into();
        }
        if let Some(path) = state_path(restored.kind) {
            // The state is of now, not of when the snapshot was taken.
            restored.bytes = wire::set(&restored.bytes, path, Put::Nothing)?.into();
        }
        self.store(with_number(&restored, snapshot.number)?)
    }

    fn store(&self, object: Object) -> Result<ViewChanges> {
        Ok(match merge(self.old, object, self.now)? {
            Merged::Unchanged => ViewChanges::default(),
            Merged::Changed(object) => ViewChanges {
                changes: vec![Change::Put(object.clone())],
                object: Some(object),
                version: None,
            },
        })
    }

    fn store_as_version(&self, incoming: &Object, number: u32) -> Result<ViewChanges> {
        let mut stored = self.store(with_number(incoming, number)?)?;
        if let Some(object) = &stored.object {
            let snapshot = self.snapshot(object, number);
            stored.changes.push(snapshot);
            stored.version = Some(number);
        }
        Ok(stored)
    }

    fn snapshot(&self, view: &Object, number: u32) -> Change {
        Change::PutVersion(ViewVersion {
            view: view.name.clone(),
            kind: view.kind,
            number,
            bytes: Bytes::clone(&view.bytes),
            created: self.now,
            description: String::new(),
            version_id: Uuid::new_v4().to_string(),
        })
    }
}

fn pin_conflict(name: &str, number: u32) -> Error {
    Error::new(
        Kind::FeatureViewPinConflict,
        format!(
            "Cannot pin feature view '{name}' to {} because the definition has also been modified. To pin to an \
             older version, only change the 'version' parameter — do not modify other fields. To apply a new \
             definition, use version='latest' or omit the version parameter.",
            tag(number)
        ),
    )
}
