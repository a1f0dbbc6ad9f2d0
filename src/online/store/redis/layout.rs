//! Which fields of an entity's hash a request wants, and where their values go. Made once for the views of
//! a plan and kept; it also remembers how large such hashes are, which decides how they are read.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;

use super::resp::put_bulk;
use crate::{model::entity_key::redis_field_hash, online::store::ViewColumns};

/// Layouts kept; callers that make up ever new requests start over.
const CAPACITY: usize = 1024;

/// Requests after which the size of a hash is asked again.
const ASK_AGAIN: u32 = 1024;

/// The field with the event time of a view's row.
pub(super) fn time_field(view: &str) -> Vec<u8> {
    format!("_ts:{view}").into_bytes()
}

/// Where a value goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target {
    /// Which of the layout's groups of views.
    pub(super) group: usize,
    pub(super) view: usize,
    /// `None` for the event time.
    pub(super) column: Option<usize>,
}

/// The fields of one hash for one group of views, or for several groups that ask for the same entity.
#[derive(Debug)]
pub(super) struct Layout {
    /// By field, which targets it has.
    fields: Vec<Range<usize>>,
    targets: Vec<Target>,
    /// All names of fields, as arguments of a command.
    pub(super) arguments: Vec<u8>,
    /// Fields of features, by the four bytes of their name.
    hashes: HashMap<u32, usize, RandomState>,
    /// Fields of event times.
    times: Vec<(Vec<u8>, usize)>,
    /// How many fields the hashes have; 0 is not known yet.
    size: AtomicU32,
    /// Whether Redis keeps them packed, where finding one field means going through half of them.
    packed: AtomicBool,
    requests: AtomicU32,
}

impl Layout {
    pub(super) fn new(groups: &[&[ViewColumns]]) -> Self {
        let mut by_name: HashMap<Vec<u8>, usize> = HashMap::new();
        let mut names: Vec<Vec<u8>> = Vec::new();
        let mut wanted: Vec<Vec<Target>> = Vec::new();
        let mut want = |name: Vec<u8>, target: Target| {
            let place = *by_name.entry(name.clone()).or_insert(wanted.len());
            if place == wanted.len() {
                names.push(name);
                wanted.push(Vec::new());
            }
            wanted[place].push(target);
        };
        for (group, views) in groups.iter().enumerate() {
            for (view, columns) in views.iter().enumerate() {
                let table = &columns.table.name;
                for (column, feature) in columns.features.iter().enumerate() {
                    let column = Some(column);
                    want(
                        redis_field_hash(table, feature).to_vec(),
                        Target { group, view, column },
                    );
                }
                let column = None;
                want(time_field(table), Target { group, view, column });
            }
        }
        let mut layout = Self {
            fields: Vec::with_capacity(names.len()),
            targets: Vec::new(),
            arguments: Vec::new(),
            hashes: HashMap::default(),
            times: Vec::new(),
            size: AtomicU32::new(0),
            packed: AtomicBool::new(false),
            requests: AtomicU32::new(0),
        };
        for (field, (name, targets)) in names.into_iter().zip(wanted).enumerate() {
            put_bulk(&mut layout.arguments, &name);
            let start = layout.targets.len();
            layout.targets.extend(targets);
            layout.fields.push(start..layout.targets.len());
            match <[u8; 4]>::try_from(name.as_slice()) {
                Ok(hash) => {
                    layout.hashes.insert(u32::from_le_bytes(hash), field);
                }
                Err(_) => layout.times.push((name, field)),
            }
        }
        layout
    }

    /// The number of fields wanted.
    pub(super) fn len(&self) -> usize {
        self.fields.len()
    }

    pub(super) fn targets(&self, field: usize) -> &[Target] {
        &self.targets[self.fields[field].clone()]
    }

    /// The field of that name, if it is wanted.
    pub(super) fn find(&self, name: &[u8]) -> Option<usize> {
        match <[u8; 4]>::try_from(name) {
            Ok(hash) => self.hashes.get(&u32::from_le_bytes(hash)).copied(),
            Err(_) => {
                let mut times = self.times.iter();
                times.find(|(known, _)| known == name).map(|(_, field)| *field)
            }
        }
    }

    /// Whether to read whole hashes and leave out what was not asked for.
    ///
    /// Redis keeps hashes of a few hundred short values packed. Finding a field there costs it about 5 ns for
    /// each field there is, on top of 0.1 µs for asking at all; giving out everything costs it 0.23 µs a
    /// field. Other hashes find a field at once, so asking for what is wanted is always the cheaper way.
    pub(super) fn reads_whole(&self) -> bool {
        let size = self.size.load(Ordering::Relaxed) as usize;
        size > 0 && self.packed.load(Ordering::Relaxed) && self.len() * (size + 22) > 50 * size
    }

    /// Whether this request should also ask how large a hash is.
    pub(super) fn wants_to_know(&self) -> bool {
        let before = self.requests.fetch_add(1, Ordering::Relaxed);
        self.size.load(Ordering::Relaxed) == 0 || before.is_multiple_of(ASK_AGAIN)
    }

    /// What was answered to that.
    pub(super) fn learn(&self, size: u32, packed: bool) {
        if size > 0 {
            self.size.store(size, Ordering::Relaxed);
            self.packed.store(packed, Ordering::Relaxed);
        }
    }
}

/// Layouts by the views of a plan. Readers never wait; the rare maker of one copies the map.
#[derive(Debug, Default)]
pub(super) struct Layouts(ArcSwap<HashMap<usize, Known>>);

/// A layout, and the views it was made for: while they are held, weakly, no others have their address.
type Known = (Weak<[ViewColumns]>, Arc<Layout>);

impl Layouts {
    pub(super) fn get(&self, views: &Arc<[ViewColumns]>) -> Arc<Layout> {
        let address = views.as_ptr().addr();
        if let Some((known, layout)) = self.0.load().get(&address)
            && known.ptr_eq(&Arc::downgrade(views))
        {
            return Arc::clone(layout);
        }
        let layout = Arc::new(Layout::new(&[views]));
        self.0.rcu(|known| {
            let mut known = if known.len() < CAPACITY {
                HashMap::clone(known)
            } else {
                HashMap::new()
            };
            known.insert(address, (Arc::downgrade(views), Arc::clone(&layout)));
            known
        });
        layout
    }
}

#[cfg(test)]
mod tests;
