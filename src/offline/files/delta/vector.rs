//! Deletion vectors: which rows of a file of a Delta table are no longer in the table.
//!
//! They are bitmaps in Roaring's portable format, in files beside those of the table or in the log itself.

use object_store::{ObjectStore, ObjectStoreExt as _, path::Path};
use parquet::arrow::arrow_reader::RowSelection;
use serde::Deserialize;
use uuid::Uuid;

use crate::error::{Error, Result};

/// What begins a bitmap of 64-bit numbers.
const MAGIC: u32 = 1_681_511_377;
/// What begins a bitmap of 32-bit numbers, without runs and with them.
const WITHOUT_RUNS: u32 = 12_346;
const WITH_RUNS: u32 = 12_347;
/// From so many containers on, those with runs say where each begins.
const OFFSETS_FROM: usize = 4;
/// More numbers than this are kept as bits.
const MOST_IN_ARRAY: usize = 4096;
const BYTES_OF_BITS: usize = 8192;

/// Where the deleted rows of a file are told.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeletionVector {
    storage_type: String,
    path_or_inline_dv: String,
    offset: Option<u32>,
    size_in_bytes: u32,
    cardinality: u64,
}

impl DeletionVector {
    /// What the protocol knows it by.
    pub(super) fn id(&self) -> String {
        let Self {
            storage_type,
            path_or_inline_dv,
            ..
        } = self;
        let offset = self.offset.map(|offset| format!("@{offset}"));
        format!("{storage_type}{path_or_inline_dv}{}", offset.unwrap_or_default())
    }

    /// The rows of a file that are left of so many.
    ///
    /// # Errors
    /// `InvalidArgument` when the vector is broken, `Unsupported` when it lies elsewhere.
    pub(super) async fn rows_left(
        &self,
        store: &dyn ObjectStore,
        table: &Path,
        rows: u64,
    ) -> Result<RowSelection> {
        let bitmap = match self.storage_type.as_str() {
            "i" => {
                let mut bytes = z85(&self.path_or_inline_dv).ok_or_else(|| self.broken("its text"))?;
                bytes.truncate(self.size_in_bytes as usize);
                bytes
            }
            "u" => self.stored(store, table).await?,
            _ => {
                return Err(Error::unsupported(
                    "a deletion vector of the Delta table lies outside of it, where thali does not read",
                )
                .hint("purge the table: `REORG TABLE … APPLY (PURGE)`"));
            }
        };
        let deleted = numbers(&bitmap).ok_or_else(|| self.broken("its bitmap"))?;
        let last = deleted.last().copied();
        if deleted.len() as u64 != self.cardinality || last.is_some_and(|last| last >= rows) {
            return Err(self.broken("its number of rows"));
        }
        let place = |row: u64| usize::try_from(row).map_err(|_| self.broken("its number of rows"));
        let mut left = Vec::with_capacity(deleted.len() + 1);
        let mut next = 0;
        for row in deleted {
            left.push(next..place(row)?);
            next = place(row)? + 1;
        }
        let rows = place(rows)?;
        left.push(next..rows);
        let left = left.into_iter().filter(|range| !range.is_empty());
        Ok(RowSelection::from_consecutive_ranges(left, rows))
    }

    /// The bitmap in a file of its own: its length, itself, its checksum.
    async fn stored(&self, store: &dyn ObjectStore, table: &Path) -> Result<Vec<u8>> {
        const ID: usize = 20;
        let text = &self.path_or_inline_dv;
        let split = text
            .len()
            .checked_sub(ID)
            .and_then(|end| text.split_at_checked(end));
        let id = split.and_then(|(folder, id)| Some((folder, Uuid::from_slice(&z85(id)?).ok()?)));
        let (folder, id) = id.ok_or_else(|| self.broken("its name"))?;
        let mut path = table.clone();
        if !folder.is_empty() {
            path = path.join(folder);
        }
        let path = path.join(format!("deletion_vector_{id}.bin"));
        let (start, size) = (
            u64::from(self.offset.unwrap_or_default()),
            u64::from(self.size_in_bytes),
        );
        let found = store.get_range(&path, start..start + size + 8).await?;
        let word = |bytes: &[u8]| bytes.first_chunk().map(|word| u32::from_be_bytes(*word));
        let whole = || {
            let (length, rest) = found.split_at_checked(4)?;
            let (bitmap, checksum) = rest.split_at_checked(usize::try_from(size).ok()?)?;
            let is_whole = u64::from(word(length)?) == size && word(checksum)? == crc32fast::hash(bitmap);
            is_whole.then(|| bitmap.to_vec())
        };
        whole().ok_or_else(|| self.broken("its checksum"))
    }

    fn broken(&self, what: &str) -> Error {
        Error::invalid(format!(
            "the deletion vector `{}` of the Delta table is broken: {what} is wrong",
            self.id()
        ))
    }
}

/// Bytes written as text with 85 signs, five for four bytes.
fn z85(text: &str) -> Option<Vec<u8>> {
    const SIGNS: &[u8] =
        b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";
    let mut bytes = Vec::with_capacity(text.len() / 5 * 4);
    for signs in text.as_bytes().chunks(5) {
        if signs.len() < 5 {
            return None;
        }
        let digit = |sign: &u8| {
            SIGNS
                .iter()
                .position(|known| known == sign)
                .map(|digit| digit as u64)
        };
        let word = signs
            .iter()
            .try_fold(0, |word, sign| Some(word * 85 + digit(sign)?))?;
        bytes.extend(u32::try_from(word).ok()?.to_be_bytes());
    }
    Some(bytes)
}

/// The bytes that are not read yet.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(*self.take(2)?.first_chunk()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(*self.take(4)?.first_chunk()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(*self.take(8)?.first_chunk()?))
    }
}

/// The numbers of a bitmap, in order; none when it is no bitmap or its numbers are not in order.
fn numbers(bitmap: &[u8]) -> Option<Vec<u64>> {
    let mut bytes = Bytes(bitmap);
    if bytes.u32()? != MAGIC {
        return None;
    }
    let mut numbers = Vec::new();
    for _ in 0..bytes.u64()? {
        let high = u64::from(bytes.u32()?) << 32;
        low_numbers(&mut bytes, high, &mut numbers)?;
    }
    numbers.is_sorted_by(|one, next| one < next).then_some(numbers)
}

/// Adds the numbers of a bitmap of 32-bit numbers to `high`.
fn low_numbers(bytes: &mut Bytes<'_>, high: u64, numbers: &mut Vec<u64>) -> Option<()> {
    let cookie = bytes.u32()?;
    let (count, runs) = match cookie & 0xffff {
        _ if cookie == WITHOUT_RUNS => (bytes.u32()? as usize, None),
        WITH_RUNS => {
            let count = (cookie >> 16) as usize + 1;
            (count, Some(bytes.take(count.div_ceil(8))?))
        }
        _ => return None,
    };
    let mut containers = Vec::new();
    for _ in 0..count {
        containers.push((bytes.u16()?, usize::from(bytes.u16()?) + 1));
    }
    if runs.is_none() || count >= OFFSETS_FROM {
        bytes.take(count.checked_mul(4)?)?;
    }
    for (place, (middle, size)) in containers.into_iter().enumerate() {
        let high = high | u64::from(middle) << 16;
        if runs.is_some_and(|runs| runs[place / 8] >> (place % 8) & 1 == 1) {
            for _ in 0..bytes.u16()? {
                let (start, more) = (u64::from(bytes.u16()?), u64::from(bytes.u16()?));
                numbers.extend((start..=start + more).map(|low| high + low));
            }
        } else if size <= MOST_IN_ARRAY {
            for _ in 0..size {
                numbers.push(high | u64::from(bytes.u16()?));
            }
        } else {
            let bits = bytes.take(BYTES_OF_BITS)?.iter();
            for (at, byte) in (0..).step_by(8).zip(bits) {
                numbers.extend(
                    (0..8)
                        .filter(|bit| byte >> bit & 1 == 1)
                        .map(|bit| high | at | bit),
                );
            }
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bitmaps of 32-bit numbers as one of 64-bit numbers, under 0, 1, …
    fn bitmap(parts: &[&[u8]]) -> Vec<u8> {
        let mut bytes = MAGIC.to_le_bytes().to_vec();
        bytes.extend((parts.len() as u64).to_le_bytes());
        for (high, part) in (0_u32..).zip(parts) {
            bytes.extend(high.to_le_bytes());
            bytes.extend(*part);
        }
        bytes
    }

    fn words(words: &[u16]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn all_kinds_of_containers_are_read() {
        // Two containers: runs 5 to 7 and 9, then the numbers 1 and 3 of the next 65536.
        let runs = [
            words(&[12_347, 1]),
            vec![0b01],
            words(&[0, 3, 1, 1, 2, 5, 2, 9, 0, 1, 3]),
        ]
        .concat();
        let all = 1 << 32;
        // One container of bits: every second one of the first 10000, so many that they are no array.
        let mut bits = [12_346_u32.to_le_bytes(), 1_u32.to_le_bytes()].concat();
        bits.extend(words(&[0, 4999, 16, 0]));
        bits.extend((0..BYTES_OF_BITS).map(|byte| if byte < 1250 { 0b0101_0101 } else { 0 }));
        let found = numbers(&bitmap(&[&runs, &bits]));
        let expected = [5, 6, 7, 9, 65_537, 65_539]
            .into_iter()
            .chain((0..5000).map(|half| all + 2 * half));
        assert_eq!(found, Some(expected.collect()));
    }

    #[test]
    fn what_is_cut_off_or_out_of_order_is_none() {
        let array = [
            12_346_u32.to_le_bytes().to_vec(),
            1_u32.to_le_bytes().to_vec(),
            words(&[0, 1, 16, 0, 4, 8]),
        ]
        .concat();
        let whole = bitmap(&[&array]);
        assert_eq!(numbers(&whole), Some(vec![4, 8]));
        for end in 0..whole.len() {
            assert_eq!(numbers(&whole[..end]), None, "{end}");
        }
        let mut twice = whole.clone();
        let last = twice.len() - 2;
        twice[last] = 4;
        assert_eq!(numbers(&twice), None);
        assert_eq!(z85("nogoods"), None);
        assert_eq!(z85("~~~~~"), None);
        assert_eq!(z85("#####"), None);
    }

    #[test]
    fn a_name_is_an_identifier() {
        let id = z85("ab^-aqEH.-t@S}K{vb[*k^").map(|_| ());
        assert_eq!(id, None, "with the name of a folder before it");
        let id = z85("vBn[lx{q8@P<9BNH/isA").and_then(|id| Uuid::from_slice(&id).ok());
        assert_eq!(
            id.map(|id| id.to_string()).as_deref(),
            Some("61d16c75-6994-46b7-a15b-8b538852e50e")
        );
    }
}
