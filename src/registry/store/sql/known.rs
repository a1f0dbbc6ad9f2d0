//! What a store remembers of a project between two looks: its state, and the marks of the rows it was
//! read from, by which only what has changed is read again.

use std::{collections::HashMap, sync::Arc};

use super::{
    super::{ProjectState, Revision},
    dialect::MODULUS,
    schema::TABLES,
};

/// A project as it was last read.
#[derive(Debug)]
pub(super) struct Known {
    pub state: Arc<ProjectState>,
    pub own: Own,
    /// Marks of another epoch mean nothing.
    pub epoch: String,
    pub marks: [Marks; TABLES.len()],
}

impl Known {
    /// Before the first look. What is known by `other` means will be shared.
    pub(super) fn new(project: &str, other: Option<&Arc<ProjectState>>) -> Self {
        let empty = || Arc::new(ProjectState::empty(project, Revision::default()));
        Self {
            state: other.map_or_else(empty, Arc::clone),
            own: Own::default(),
            epoch: String::new(),
            marks: Default::default(),
        }
    }
}

/// The project's row of `thali_projects`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Own {
    pub revision: i64,
    pub entries: i64,
    pub writer: String,
}

/// A row of one table and project: its name, and of a version its number.
pub(super) type Key = (String, i64);

/// The marks of one table's rows.
#[derive(Debug, Default)]
pub(super) struct Marks {
    rows: HashMap<Key, i64>,
    sum: Sum,
}

/// What the database can tell of many marks at once: how many there are, their sum and the sum of their
/// squares (of remainders, so that these fit 64 bits).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub count: i128,
    pub sum: i128,
    pub squares: i128,
}

impl Sum {
    fn add(&mut self, mark: i64, sign: i128) {
        let rest = i128::from(mark % MODULUS);
        self.count += sign;
        self.sum += sign * i128::from(mark);
        self.squares += sign * rest * rest;
    }
}

impl Marks {
    pub(super) fn get(&self, key: &Key) -> Option<i64> {
        self.rows.get(key).copied()
    }

    pub(super) fn sum(&self) -> Sum {
        self.sum
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.rows.keys()
    }

    pub(super) fn put(&mut self, key: Key, mark: i64) {
        if let Some(old) = self.rows.insert(key, mark) {
            self.sum.add(old, -1);
        }
        self.sum.add(mark, 1);
    }

    pub(super) fn remove(&mut self, key: &Key) {
        if let Some(old) = self.rows.remove(key) {
            self.sum.add(old, -1);
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_tell_sets_of_marks_apart() {
        let marks = |rows: &[i64]| {
            let mut marks = Marks::default();
            for (row, mark) in rows.iter().enumerate() {
                marks.put((row.to_string(), 0), *mark);
            }
            marks
        };
        assert_ne!(marks(&[101, 104]).sum(), marks(&[102, 103]).sum());
        assert_ne!(marks(&[0]).sum(), marks(&[]).sum());
        let mut changed = marks(&[1 << 59, 7, 9]);
        changed.put(("1".to_owned(), 0), 8);
        changed.remove(&("2".to_owned(), 0));
        changed.remove(&("3".to_owned(), 0));
        assert_eq!(changed.sum(), marks(&[1 << 59, 8]).sum());
    }
}
