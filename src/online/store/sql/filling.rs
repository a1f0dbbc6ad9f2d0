//! [`Filling`]: the rows of an answer, each put where it belongs.

use std::collections::HashMap;

use bytes::Bytes;

use crate::online::store::{RowBatch, ViewColumns};

/// The batches of a request while its answer comes in.
pub(crate) struct Filling<'a> {
    parts: Vec<Part<'a>>,
    /// Where each key stands, by group.
    indexes: Vec<HashMap<&'a [u8], usize>>,
    /// The part and key of the row before, which most rows share.
    last: (usize, Vec<u8>, usize),
}

/// One view of a group.
struct Part<'a> {
    group: usize,
    features: &'a [String],
    batch: RowBatch,
    /// The feature after the one found last: a database mostly answers in one order.
    next: usize,
}

impl<'a> Filling<'a> {
    /// Nothing yet; the parts count through the views of all groups.
    pub(crate) fn new(groups: impl Iterator<Item = (&'a [Bytes], &'a [ViewColumns])>) -> Self {
        let mut parts = Vec::new();
        let mut indexes = Vec::new();
        for (group, (keys, views)) in groups.enumerate() {
            let index = keys.iter().enumerate().map(|(index, key)| (key.as_ref(), index));
            indexes.push(index.collect());
            parts.extend(views.iter().map(|view| Part {
                group,
                features: &view.features,
                batch: RowBatch::empty(keys.len(), view.features.len()),
                next: 0,
            }));
        }
        Self {
            parts,
            indexes,
            last: (usize::MAX, Vec::new(), 0),
        }
    }

    /// Where the row of a key is; `None` for one nobody asked for.
    pub(crate) fn place(&mut self, part: usize, key: &[u8]) -> Option<usize> {
        if self.last.0 == part && self.last.1 == key {
            return Some(self.last.2);
        }
        let index = *self.indexes.get(self.parts.get(part)?.group)?.get(key)?;
        self.last.0 = part;
        self.last.1.clear();
        self.last.1.extend_from_slice(key);
        self.last.2 = index;
        Some(index)
    }

    /// The newest of a row's times is the row's.
    pub(crate) fn time(&mut self, part: usize, index: usize, micros: i64) {
        let slot = &mut self.parts[part].batch.event_times[index];
        *slot = Some(slot.map_or(micros, |known| known.max(micros)));
    }

    /// Room for the value of a feature, to be appended to; `None` for a feature nobody asked for.
    pub(crate) fn value(&mut self, part: usize, index: usize, feature: &[u8]) -> Option<Slot<'_>> {
        let part = &mut self.parts[part];
        let width = part.features.len();
        let is_it = |column: &usize| part.features[*column].as_bytes() == feature;
        let column = (part.next..width).chain(0..part.next).find(is_it)?;
        part.next = column + 1;
        Some(Slot {
            batch: &mut part.batch,
            index,
            column,
        })
    }

    /// A row of one feature, as the databases store it.
    pub(crate) fn put(&mut self, part: usize, key: &[u8], feature: &[u8], value: &[u8], micros: i64) {
        let Some(index) = self.place(part, key) else {
            return;
        };
        let Some(slot) = self.value(part, index, feature) else {
            return;
        };
        slot.fill(|values| values.extend_from_slice(value));
        self.time(part, index, micros);
    }

    /// The batches, in the order of the parts.
    pub(crate) fn finish(self) -> Vec<RowBatch> {
        self.parts.into_iter().map(|part| part.batch).collect()
    }
}

/// Where a value goes.
pub(crate) struct Slot<'a> {
    batch: &'a mut RowBatch,
    index: usize,
    column: usize,
}

impl Slot<'_> {
    /// What `append` appends is the value.
    pub(crate) fn fill<T>(self, append: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        self.batch.append(self.index, self.column, append)
    }
}
