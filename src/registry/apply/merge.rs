//! What of a stored object survives when a new definition replaces it: the time of its creation, the
//! state it is in and the intervals it was materialized for. Bytes are edited in place.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use prost::Message;

use super::compare::{Look, same};
use crate::{
    error::Result,
    model::{
        Object, ObjectKind,
        wire::{self, Put},
    },
    proto::feast::core,
    registry::store::proto_time,
};

/// What is to be written.
#[derive(Debug)]
pub(super) enum Merged {
    Unchanged,
    Changed(Object),
}

/// The object as it is to be stored over `old`.
///
/// # Errors
/// `InvalidArgument` when the incoming bytes are malformed.
pub(super) fn merge(old: Option<&Object>, incoming: Object, now: DateTime<Utc>) -> Result<Merged> {
    let mut object = incoming;
    object.bytes = object.bytes_with_project()?;
    if let Some(old) = old {
        object.bytes = keep_lifecycle(object.kind, &old.bytes, object.bytes)?;
    }
    let Some([created, updated]) = object.kind.time_paths() else {
        return match old {
            Some(old) if same(old, &object, Look::Everything)? => Ok(Merged::Unchanged),
            _ => Ok(Merged::Changed(object)),
        };
    };
    let time = proto_time(now).encode_to_vec();
    let first_time = match old {
        Some(old) => content(&old.bytes, created)?,
        None => None,
    };
    // A copy from another registry brings the time of its creation along.
    let first_time = first_time
        .or(content(&object.bytes, created)?)
        .unwrap_or(&time)
        .to_vec();
    object.bytes = wire::set(&object.bytes, created, Put::Bytes(&first_time))?.into();
    if let Some(old) = old {
        let last_time = content(&old.bytes, updated)?.map_or(Put::Nothing, Put::Bytes);
        let as_before = Object {
            bytes: wire::set(&object.bytes, updated, last_time)?.into(),
            ..object.clone()
        };
        if same(old, &as_before, Look::Everything)? {
            return Ok(Merged::Unchanged);
        }
    }
    object.bytes = wire::set(&object.bytes, updated, Put::Bytes(&time))?.into();
    Ok(Merged::Changed(object))
}

fn content<'a>(bytes: &'a [u8], path: &[u32]) -> Result<Option<&'a [u8]>> {
    wire::get(bytes, path)?.map(|field| field.content()).transpose()
}

/// Where the state of a view stands.
pub(super) fn state_path(kind: ObjectKind) -> Option<&'static [u32]> {
    match kind {
        ObjectKind::FeatureView | ObjectKind::StreamFeatureView => Some(&[2, 6]),
        ObjectKind::OnDemandFeatureView => Some(&[2, 5]),
        _ => None,
    }
}

/// Where it is said that a view is disabled.
pub(super) fn disabled_path(kind: ObjectKind) -> Option<&'static [u32]> {
    match kind {
        ObjectKind::FeatureView => Some(&[1, 20]),
        ObjectKind::StreamFeatureView => Some(&[1, 23]),
        ObjectKind::OnDemandFeatureView => Some(&[1, 19]),
        _ => None,
    }
}

/// Whether views of that kind record what was materialized.
pub(super) fn has_intervals(kind: ObjectKind) -> bool {
    matches!(kind, ObjectKind::FeatureView | ObjectKind::StreamFeatureView)
}

const META: &[u32] = &[2];
const INTERVALS: u32 = 3;
const INTERVALS_PATH: &[u32] = &[2, INTERVALS];

/// The view with the interval added at the end.
pub(super) fn add_interval(bytes: &Bytes, interval: &core::MaterializationInterval) -> Result<Bytes> {
    let mut all: Vec<Vec<u8>> = wire::repeated(bytes, META, INTERVALS)?
        .into_iter()
        .map(<[u8]>::to_vec)
        .collect();
    all.push(interval.encode_to_vec());
    Ok(wire::set(bytes, INTERVALS_PATH, Put::Each(&all))?.into())
}

/// A definition says nothing of state and intervals, so they stay. A client that sends back what it
/// read some time ago must not undo a run in between: intervals are only ever added.
fn keep_lifecycle(kind: ObjectKind, old: &Bytes, mut new: Bytes) -> Result<Bytes> {
    if let Some(path) = state_path(kind)
        && wire::get(&new, path)?.is_none()
        && let Some(state) = wire::get(old, path)?
    {
        new = wire::set(&new, path, Put::number(state.varint()?))?.into();
    }
    if has_intervals(kind) {
        let stored = wire::repeated(old, META, INTERVALS)?;
        if stored.is_empty() {
            return Ok(new);
        }
        let mut all: Vec<Vec<u8>> = stored.iter().map(|interval| interval.to_vec()).collect();
        let mut known = stored
            .into_iter()
            .map(core::MaterializationInterval::decode)
            .collect::<Result<Vec<_>, _>>()?;
        for interval in wire::repeated(&new, META, INTERVALS)? {
            let decoded = core::MaterializationInterval::decode(interval)?;
            if !known.contains(&decoded) {
                all.push(interval.to_vec());
                known.push(decoded);
            }
        }
        new = wire::set(&new, INTERVALS_PATH, Put::Each(&all))?.into();
    }
    Ok(new)
}
