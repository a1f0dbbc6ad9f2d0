//! The history of a registry file, kept beside it: one side object for each entry, so that reading a page
//! reads only that page. What an entry says is the business of `history`.
//!
//! An entry is written before the file is replaced, as pending under the version id that the new content
//! will have, and made final afterwards. A process may end anywhere in between: a pending entry of the
//! file's present version tells of a change that was made, any other of one that was not. Hence the rule
//! that holds it together: whoever replaces the file first makes the entry of what he replaces final.

use std::fmt;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::{
    super::history::{HistoryEntry, HistoryPage},
    place::Place,
};
use crate::{error::Result, model::wire};

const PENDING: &str = "pending";
const ENTRIES: &str = "entries";
/// How many entries are read or removed at the same time.
const AT_ONCE: usize = 16;
/// File systems allow 255 bytes for a name; the version id and the number have to go with it.
const LONGEST_FOLDER: usize = 120;

/// In the name of a pending object that is a whole history.
const WHOLE: &str = "whole";
/// The field of its message that its entries are.
const WHOLE_ENTRIES: u32 = 1;

/// An entry that is not final, or a whole history that is to take the place of a project's. Its name says
/// all that is needed to make it final.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pending {
    version_id: String,
    /// `None` for a whole history.
    number: Option<u64>,
    folder: String,
}

impl fmt::Display for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            version_id, folder, ..
        } = self;
        match self.number {
            Some(number) => write!(f, "{PENDING}/{version_id}.{number}.{folder}"),
            None => write!(f, "{PENDING}/{version_id}.{WHOLE}.{folder}"),
        }
    }
}

impl Pending {
    fn of_name(name: &str) -> Option<Self> {
        let (version_id, rest) = name.split_once('.')?;
        let (number, folder) = rest.split_once('.')?;
        Some(Self {
            version_id: version_id.to_owned(),
            number: match number {
                WHOLE => None,
                number => Some(number.parse().ok()?),
            },
            folder: folder.to_owned(),
        })
    }
}

/// The history in one place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Journal<'a> {
    pub(super) place: &'a dyn Place,
}

impl Journal<'_> {
    /// Makes the entry of the file's present version final, if it is not. Answers the other pending
    /// entries: they are of changes that are being tried, or never were made.
    pub(super) async fn settle(self, present: &str) -> Result<Vec<Pending>> {
        let mut others = Vec::new();
        for pending in self.pending().await? {
            if pending.version_id != present {
                others.push(pending);
            } else if let Some(content) = self.place.get(&pending.to_string()).await? {
                self.finish(&pending, content).await?;
            }
        }
        Ok(others)
    }

    /// Numbers of the project's entries, in no order.
    pub(super) async fn numbers(self, project: &str) -> Result<Vec<u64>> {
        self.numbers_in(&folder(project)).await
    }

    async fn numbers_in(self, folder: &str) -> Result<Vec<u64>> {
        let names = self.place.list(&format!("{ENTRIES}/{folder}")).await?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Writes an entry of the change that will make the file have that version id.
    pub(super) async fn begin(
        self,
        project: &str,
        version_id: &str,
        entry: &HistoryEntry,
    ) -> Result<(Pending, Bytes)> {
        let number = Some(entry.number);
        self.pend(project, version_id, number, entry.encode(project))
            .await
    }

    /// The same for entries that are to take the place of all the project has.
    pub(super) async fn begin_whole(
        self,
        project: &str,
        version_id: &str,
        entries: &[HistoryEntry],
    ) -> Result<(Pending, Bytes)> {
        let mut content = Vec::new();
        for entry in entries {
            wire::write_bytes(WHOLE_ENTRIES, &entry.encode(project), &mut content);
        }
        self.pend(project, version_id, None, content.into()).await
    }

    async fn pend(
        self,
        project: &str,
        version_id: &str,
        number: Option<u64>,
        content: Bytes,
    ) -> Result<(Pending, Bytes)> {
        let pending = Pending {
            version_id: version_id.to_owned(),
            number,
            folder: folder(project),
        };
        self.place.put(&pending.to_string(), content.clone()).await?;
        Ok((pending, content))
    }

    /// Makes final what was pending, after its change was made.
    pub(super) async fn finish(self, pending: &Pending, content: Bytes) -> Result<()> {
        match pending.number {
            Some(number) => {
                self.place
                    .put(&entry_name(&pending.folder, number), content)
                    .await?
            }
            None => self.replace_all(&pending.folder, &content).await?,
        }
        self.place.remove(&pending.to_string()).await
    }

    async fn replace_all(self, folder: &str, whole: &Bytes) -> Result<()> {
        let entries = take_apart(whole)?;
        let mut surplus = self.numbers_in(folder).await?;
        surplus.retain(|number| entries.iter().all(|(kept, _)| kept != number));
        stream::iter(entries)
            .map(|(number, entry)| async move { self.place.put(&entry_name(folder, number), entry).await })
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
        self.remove_all(surplus.into_iter().map(|number| entry_name(folder, number)))
            .await
    }

    /// Removes entries of changes that were not made and never will be.
    pub(super) async fn forget(self, pending: &[Pending]) -> Result<()> {
        self.remove_all(pending.iter().map(ToString::to_string)).await
    }

    /// Removes the project's oldest entries until no more than `keep` of these are left.
    pub(super) async fn prune(self, project: &str, mut numbers: Vec<u64>, keep: usize) -> Result<()> {
        let surplus = numbers.len().saturating_sub(keep);
        if surplus == 0 {
            return Ok(());
        }
        numbers.sort_unstable();
        let folder = folder(project);
        let oldest = numbers.into_iter().take(surplus);
        self.remove_all(oldest.map(|number| entry_name(&folder, number)))
            .await
    }

    /// A page of the project's entries, newest first. `present` is asked for the file's version id after
    /// the pending entries are known, so that none can become final unseen.
    pub(super) async fn page(
        self,
        project: &str,
        page: HistoryPage,
        present: impl Future<Output = Result<String>>,
    ) -> Result<Vec<HistoryEntry>> {
        let folder = folder(project);
        let pending = self.pending().await?;
        let present = present.await?;
        let made = pending
            .into_iter()
            .find(|pending| pending.folder == folder && pending.version_id == present);
        if let Some(whole) = made.as_ref().filter(|made| made.number.is_none())
            && let Some(content) = self.place.get(&whole.to_string()).await?
        {
            let mut entries = take_apart(&content)?;
            entries.retain(|(number, _)| page.before.is_none_or(|before| *number < before));
            entries.sort_unstable_by(|(a, _), (b, _)| b.cmp(a));
            entries.truncate(page.limit);
            return entries
                .into_iter()
                .map(|(_, entry)| HistoryEntry::decode(entry))
                .collect();
        }
        let mut numbers = self.numbers_in(&folder).await?;
        numbers.extend(made.as_ref().and_then(|made| made.number));
        numbers.sort_unstable_by(|a, b| b.cmp(a));
        numbers.dedup();
        numbers.retain(|number| page.before.is_none_or(|before| *number < before));
        numbers.truncate(page.limit);
        let (folder, made) = (folder.as_str(), made.as_ref());
        let entries = stream::iter(numbers)
            .map(|number| async move {
                let pending = made
                    .filter(|made| made.number == Some(number))
                    .map(ToString::to_string);
                if let Some(entry) = self.place.get(&entry_name(folder, number)).await? {
                    return Ok(Some(entry));
                }
                match pending {
                    Some(pending) => self.place.get(&pending).await,
                    None => Ok(None),
                }
            })
            .buffered(AT_ONCE);
        // One that is gone was pruned meanwhile.
        entries
            .try_filter_map(|entry| async { entry.map(HistoryEntry::decode).transpose() })
            .try_collect()
            .await
    }

    async fn pending(self) -> Result<Vec<Pending>> {
        let names = self.place.list(PENDING).await?;
        Ok(names.iter().filter_map(|name| Pending::of_name(name)).collect())
    }

    async fn remove_all(self, names: impl Iterator<Item = String>) -> Result<()> {
        stream::iter(names)
            .map(|name| async move { self.place.remove(&name).await })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }
}

/// The entries of a whole history with their numbers.
fn take_apart(whole: &Bytes) -> Result<Vec<(u64, Bytes)>> {
    let entry = |field: Result<wire::Field<'_>>| {
        let entry = whole.slice_ref(field?.content()?);
        Ok((HistoryEntry::decode(entry.clone())?.number, entry))
    };
    wire::fields(whole).map(entry).collect()
}

fn entry_name(folder: &str, number: u64) -> String {
    format!("{ENTRIES}/{folder}/{number:020}")
}

/// A project's name as the name of a folder: letters, digits, `_` and `-` as they are, other bytes as
/// `=` and their hexadecimal number. What would be too long for a file system ends in a hash.
fn folder(project: &str) -> String {
    let mut folder = String::with_capacity(project.len());
    for byte in project.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => folder.push(char::from(byte)),
            other => folder.push_str(&format!("={other:02X}")),
        }
    }
    if folder.is_empty() {
        return "=".to_owned();
    }
    if folder.len() > LONGEST_FOLDER {
        folder.truncate(LONGEST_FOLDER - 17);
        folder.push_str(&format!("={:016x}", fnv(project)));
    }
    folder
}

/// FNV-1a: the same in every build, unlike the standard library's hash.
fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn every_project_has_a_folder_of_its_own_that_file_systems_take() {
        let long = "p".repeat(255);
        let long_too = format!("{}q", "p".repeat(254));
        let names = [
            "a", "A_1-b", "a.b", "a/b", "..", ".", "", "ä", "=61", "a=", &long, &long_too,
        ];
        let mut folders: Vec<String> = names.iter().map(|name| folder(name)).collect();
        for name in &folders {
            assert!(!name.is_empty() && name.len() <= LONGEST_FOLDER, "{name}");
            assert!(!name.contains(['/', '.']), "{name}");
        }
        folders.sort_unstable();
        folders.dedup();
        assert_eq!(folders.len(), names.len());
    }

    #[test]
    fn a_pending_entrys_name_says_where_it_belongs() {
        for number in [Some(17), None] {
            let pending = Pending {
                version_id: uuid::Uuid::new_v4().to_string(),
                number,
                folder: folder("a.b"),
            };
            let name = pending.to_string();
            let (_, name) = name.split_once('/').unwrap();
            assert_eq!(Pending::of_name(name).unwrap(), pending);
        }
        assert_eq!(Pending::of_name("stranger"), None);
    }
}
