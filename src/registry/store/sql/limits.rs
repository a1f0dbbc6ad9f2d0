//! What a database cannot keep is refused by name, before the database cuts it off or hangs up.

use std::collections::HashSet;

use bytes::Bytes;

use super::schema::TABLES;
use crate::error::{Error, Result};

/// How much the database takes.
#[derive(Debug, Clone, Default)]
pub(super) struct Limits {
    /// Tables of MySQL databases that Feast made before it changed the type of their messages.
    pub narrow: HashSet<usize>,
    /// The longest statement, in bytes.
    pub statement: Option<usize>,
    /// The longest name, in characters. SQLite has no such limit.
    pub name: Option<usize>,
}

/// The longest message in a narrow table.
const NARROW: usize = 65_535;
/// What a statement needs beside its message.
const OVERHEAD: usize = 16 << 10;

impl Limits {
    /// # Errors
    /// `InvalidArgument`, naming the first object that does not fit.
    pub(super) fn check<'a>(
        &self,
        table: usize,
        rows: impl IntoIterator<Item = &'a (&'a str, &'a Bytes)>,
    ) -> Result<()> {
        let label = TABLES.get(table).map_or("object", |table| table.label());
        let narrow = self.narrow.contains(&table).then_some(NARROW);
        let statement = self.statement.map(|most| most.saturating_sub(OVERHEAD));
        for (name, bytes) in rows {
            if let Some(most) = self.name.filter(|most| name.chars().count() > *most) {
                let start: String = name.chars().take(60).collect();
                return Err(Error::invalid(format!(
                    "the name of {label} `{start}…` is longer than {most} characters"
                )));
            }
            let too_long = |most: &usize| bytes.len() > *most;
            let text = || format!("{label} `{name}` has {} bytes", bytes.len());
            if let Some(most) = narrow.filter(too_long) {
                let column = TABLES.get(table).map_or("", |table| table.message);
                let name = TABLES.get(table).map_or("", |table| table.name);
                return Err(
                    Error::invalid(format!("{}, and its table keeps {most} at most", text())).hint(format!(
                        "an old Feast made it; run `ALTER TABLE {name} MODIFY {column} LONGBLOB NOT NULL`"
                    )),
                );
            }
            if let Some(most) = statement.filter(too_long) {
                return Err(
                    Error::invalid(format!("{}, and the database takes {most} at most", text()))
                        .hint("raise `max_allowed_packet` of the server"),
                );
            }
        }
        Ok(())
    }
}
