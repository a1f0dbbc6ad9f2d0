//! Join keys as dense numbers: columns of any Arrow type are brought to their declared value type, and
//! a hash table numbers the distinct keys from 0.
//!
//! One whole-number column is hashed as it is, one text or binary column by its bytes, and several
//! columns by a byte string with lengths, so that ("1","11") and ("11","1") stay apart. A null in any
//! column makes the key no key at all: it is never equal to anything.

use std::{
    borrow::Cow,
    hash::{BuildHasher, RandomState},
};

use arrow::{
    array::{Array, ArrayRef, AsArray, BinaryArray, Int64Array},
    compute::{CastOptions, cast_with_options},
    datatypes::{DataType, Float32Type, Float64Type, Int64Type, TimeUnit},
};

use crate::{
    error::{Error, Result},
    model::ValueType,
};

/// "No key": a null, or a key the table does not hold.
pub const NO_KEY: u32 = u32::MAX;

/// A key column in the form keys are compared in.
pub enum KeyColumn {
    Whole(Int64Array),
    Bytes(BinaryArray),
}

impl KeyColumn {
    /// Brings a column to its declared type. What does not fit the type becomes null.
    ///
    /// # Errors
    /// `InvalidArgument` naming `column` when no value of its Arrow type can be of the declared type.
    pub fn new(array: &ArrayRef, value_type: ValueType, column: &str) -> Result<Self> {
        let form = match value_type {
            ValueType::Int32 | ValueType::Int64 => return whole(array, column),
            ValueType::Bool => DataType::Boolean,
            ValueType::UnixTimestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            ValueType::Double | ValueType::Float => DataType::Float64,
            ValueType::Bytes | ValueType::PdfBytes | ValueType::ImageBytes => DataType::Binary,
            _ => DataType::Utf8,
        };
        let array = convert(array, &form, column)?;
        Ok(match form {
            DataType::Boolean => {
                Self::Whole(array.as_boolean().iter().map(|bit| bit.map(i64::from)).collect())
            }
            DataType::Float64 => {
                // Negative zero equals zero, so its bits must as well.
                let bits = |value: f64| (value + 0.0).to_bits().cast_signed();
                Self::Whole(array.as_primitive::<Float64Type>().unary::<_, Int64Type>(bits))
            }
            DataType::Timestamp(..) => Self::Whole(super::times::moments(
                &array,
                super::times::Scale::Micros,
                column,
            )?),
            DataType::Binary => Self::Bytes(array.as_binary::<i32>().clone()),
            _ => Self::Bytes(BinaryArray::from(array.as_string::<i32>().clone())),
        })
    }

    /// As [`KeyColumn::new`], but a value that does not fit is an error: the caller meant something else.
    ///
    /// # Errors
    /// `InvalidArgument` naming `column` and the value.
    pub fn strict(array: &ArrayRef, value_type: ValueType, column: &str) -> Result<Self> {
        let key = Self::new(array, value_type, column)?;
        let nulls = array.logical_nulls();
        let lost = (0..array.len())
            .find(|&row| key.is_null(row) && nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row)));
        let Some(row) = lost else { return Ok(key) };
        let value = arrow::util::display::array_value_to_string(array, row).unwrap_or_default();
        Err(Error::invalid(format!(
            "entity column `{column}` holds `{value}`, which is no {value_type}"
        )))
    }

    /// The column with some value in place of each null.
    #[must_use]
    pub fn without_nulls(self) -> Self {
        match self {
            Self::Whole(array) => Self::Whole(
                array
                    .iter()
                    .map(|value| Some(value.unwrap_or_default()))
                    .collect(),
            ),
            Self::Bytes(array) => Self::Bytes(
                array
                    .iter()
                    .map(|value| Some(value.unwrap_or_default()))
                    .collect(),
            ),
        }
    }

    fn is_null(&self, row: usize) -> bool {
        match self {
            Self::Whole(array) => array.is_null(row),
            Self::Bytes(array) => array.is_null(row),
        }
    }

    fn encode(&self, row: usize, key: &mut Vec<u8>) {
        match self {
            Self::Whole(array) => key.extend_from_slice(&array.value(row).to_le_bytes()),
            Self::Bytes(array) => {
                let value = array.value(row);
                key.extend_from_slice(&value.len().to_le_bytes());
                key.extend_from_slice(value);
            }
        }
    }
}

/// Whole numbers of any type as `i64`; a float with a fraction is no whole number and becomes null.
fn whole(array: &ArrayRef, column: &str) -> Result<KeyColumn> {
    // 2^63 is exact as a float: everything below it converts without loss of meaning.
    let limit = 9_223_372_036_854_775_808.0_f64;
    let fits = |value: f64| value.fract() == 0.0 && value >= -limit && value < limit;
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked before")]
    let exact = |value: f64| if fits(value) { Some(value as i64) } else { None };
    Ok(KeyColumn::Whole(match array.data_type() {
        DataType::Float64 => array
            .as_primitive::<Float64Type>()
            .iter()
            .map(|v| v.and_then(exact))
            .collect(),
        DataType::Float32 => array
            .as_primitive::<Float32Type>()
            .iter()
            .map(|v| v.and_then(|v| exact(f64::from(v))))
            .collect(),
        _ => convert(array, &DataType::Int64, column)?
            .as_primitive::<Int64Type>()
            .clone(),
    }))
}

fn convert(array: &ArrayRef, to: &DataType, column: &str) -> Result<ArrayRef> {
    cast_with_options(
        array,
        to,
        &CastOptions {
            safe: true,
            ..CastOptions::default()
        },
    )
    .map_err(|error| {
        let from = array.data_type();
        Error::invalid(format!(
            "key column `{column}` of type {from} does not fit its declared type"
        ))
        .source_error(error)
    })
}

/// A value type that tells apart whatever the Arrow type can hold.
pub fn comparable(data_type: &DataType) -> ValueType {
    match data_type {
        DataType::UInt64 => ValueType::String,
        whole if whole.is_integer() => ValueType::Int64,
        DataType::Float16 | DataType::Float32 | DataType::Float64 => ValueType::Double,
        DataType::Boolean => ValueType::Bool,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            ValueType::Bytes
        }
        _ => ValueType::String,
    }
}

/// Distinct keys, numbered in the order they came.
pub struct KeyTable {
    seed: u64,
    len: u32,
    store: Store,
}

enum Store {
    /// No key columns: there is one key, 0.
    Single,
    Whole(Vec<(i64, u32)>),
    /// Hash and number per bucket; the bytes of key `n` end at `ends[n]`.
    Bytes {
        buckets: Vec<(u32, u32)>,
        data: Vec<u8>,
        ends: Vec<usize>,
    },
}

const FIRST_BUCKETS: usize = 64;

impl KeyTable {
    /// An empty table for keys of these columns.
    pub fn new(columns: &[KeyColumn]) -> Self {
        let store = match columns {
            [] => Store::Single,
            [KeyColumn::Whole(_)] => Store::Whole(vec![(0, NO_KEY); FIRST_BUCKETS]),
            _ => Store::Bytes {
                buckets: vec![(0, NO_KEY); FIRST_BUCKETS],
                data: Vec::new(),
                ends: Vec::new(),
            },
        };
        let len = u32::from(columns.is_empty());
        // Keys come from callers: without a seed they could be chosen to collide.
        Self {
            seed: RandomState::new().hash_one(0_u8),
            len,
            store,
        }
    }

    /// How many keys it holds.
    pub fn count(&self) -> usize {
        self.len as usize
    }

    /// Bytes it holds.
    pub fn memory(&self) -> usize {
        match &self.store {
            Store::Single => 0,
            Store::Whole(buckets) => buckets.capacity() * size_of::<(i64, u32)>(),
            Store::Bytes { buckets, data, ends } => {
                buckets.capacity() * 8 + data.capacity() + ends.capacity() * 8
            }
        }
    }

    /// The number of each row's key, new keys being added; [`NO_KEY`] where a part is null.
    pub fn insert(&mut self, columns: &[KeyColumn], rows: usize, numbers: &mut Vec<u32>) {
        numbers.clear();
        numbers.reserve(rows);
        let seed = self.seed;
        match (&mut self.store, columns) {
            (Store::Single, _) => numbers.resize(rows, 0),
            (Store::Whole(buckets), [KeyColumn::Whole(array)]) => {
                for row in 0..rows {
                    if array.is_null(row) {
                        numbers.push(NO_KEY);
                        continue;
                    }
                    let key = array.value(row);
                    let bucket = find_whole(buckets, seed, key);
                    if buckets[bucket].1 != NO_KEY {
                        numbers.push(buckets[bucket].1);
                        continue;
                    }
                    buckets[bucket] = (key, self.len);
                    numbers.push(self.len);
                    self.len += 1;
                    if self.len as usize * 2 > buckets.len() {
                        grow_whole(buckets, seed);
                    }
                }
            }
            (Store::Bytes { buckets, data, ends }, _) => {
                let mut scratch = Vec::new();
                for row in 0..rows {
                    let Some(key) = key_bytes(columns, row, &mut scratch) else {
                        numbers.push(NO_KEY);
                        continue;
                    };
                    let hash = hash_bytes(seed, &key);
                    let bucket = find_bytes(buckets, data, ends, hash, &key);
                    if buckets[bucket].1 != NO_KEY {
                        numbers.push(buckets[bucket].1);
                        continue;
                    }
                    buckets[bucket] = (hash, self.len);
                    data.extend_from_slice(&key);
                    ends.push(data.len());
                    numbers.push(self.len);
                    self.len += 1;
                    if self.len as usize * 2 > buckets.len() {
                        grow_bytes(buckets);
                    }
                }
            }
            // Columns of another form than the table was made for hold none of its keys.
            _ => numbers.resize(rows, NO_KEY),
        }
    }

    /// The table with all its keys, to look them up.
    pub fn close(self) -> Keys {
        Keys {
            dense: Dense::of(&self),
            table: self,
        }
    }

    /// The smallest and greatest key of a whole-number table.
    fn whole_range(&self) -> Option<(i64, i64)> {
        let range = self.whole().fold(None, |range, (key, _)| match range {
            None => Some((key, key)),
            Some((least, greatest)) => Some((key.min(least), key.max(greatest))),
        });
        range.filter(|_| matches!(self.store, Store::Whole(_)))
    }

    /// The keys of a whole-number table with their numbers.
    fn whole(&self) -> impl Iterator<Item = (i64, u32)> {
        let buckets = match &self.store {
            Store::Whole(buckets) => buckets.as_slice(),
            _ => &[],
        };
        buckets.iter().copied().filter(|(_, number)| *number != NO_KEY)
    }
}

/// Keys whose numbers can be looked up.
pub struct Keys {
    table: KeyTable,
    dense: Option<Dense>,
}

/// Whole-number keys that lie close together: the number of each at its distance from the first.
struct Dense {
    first: i64,
    numbers: Vec<u32>,
}

impl Dense {
    /// `None` where that would need more memory than half of the table.
    fn of(table: &KeyTable) -> Option<Self> {
        let (first, last) = table.whole_range()?;
        let length = usize::try_from(last.abs_diff(first)).ok()?.checked_add(1)?;
        if length > table.memory() / size_of::<u32>() / 2 {
            return None;
        }
        let mut numbers = vec![NO_KEY; length];
        for (key, number) in table.whole() {
            numbers[usize::try_from(key.abs_diff(first)).ok()?] = number;
        }
        Some(Self { first, numbers })
    }

    fn number(&self, key: i64) -> u32 {
        // A key before the first is at a distance that no table has.
        let distance = key.wrapping_sub(self.first).cast_unsigned();
        let number = usize::try_from(distance)
            .ok()
            .and_then(|place| self.numbers.get(place));
        number.copied().unwrap_or(NO_KEY)
    }
}

impl Keys {
    /// How many keys there are.
    pub fn count(&self) -> usize {
        self.table.count()
    }

    /// Bytes held.
    pub fn memory(&self) -> usize {
        let dense = self.dense.as_ref().map_or(0, |dense| dense.numbers.len());
        self.table.memory() + dense * size_of::<u32>()
    }

    /// The smallest and greatest of whole-number keys, for predicates on the source.
    pub fn whole_range(&self) -> Option<(i64, i64)> {
        self.table.whole_range()
    }

    /// The number of each row's key, or [`NO_KEY`].
    pub fn find(&self, columns: &[KeyColumn], rows: usize, numbers: &mut Vec<u32>) {
        numbers.clear();
        let seed = self.table.seed;
        match (&self.table.store, columns) {
            (Store::Single, _) => numbers.resize(rows, 0),
            (Store::Whole(buckets), [KeyColumn::Whole(array)]) => match &self.dense {
                Some(dense) => find_all(array, |key| dense.number(key), numbers),
                None => find_all(array, |key| buckets[find_whole(buckets, seed, key)].1, numbers),
            },
            (Store::Bytes { buckets, data, ends }, _) => {
                let mut scratch = Vec::new();
                numbers.extend((0..rows).map(|row| match key_bytes(columns, row, &mut scratch) {
                    Some(key) => buckets[find_bytes(buckets, data, ends, hash_bytes(seed, &key), &key)].1,
                    None => NO_KEY,
                }));
            }
            // Columns of another form than the table was made for hold none of its keys.
            _ => numbers.resize(rows, NO_KEY),
        }
    }
}

fn find_all(array: &Int64Array, number: impl Fn(i64) -> u32, numbers: &mut Vec<u32>) {
    if array.null_count() == 0 {
        numbers.extend(array.values().iter().map(|&key| number(key)));
    } else {
        numbers.extend(array.iter().map(|key| key.map_or(NO_KEY, &number)));
    }
}

/// The bytes keys of these columns are compared by; `None` when a part is null.
fn key_bytes<'a>(columns: &'a [KeyColumn], row: usize, scratch: &'a mut Vec<u8>) -> Option<Cow<'a, [u8]>> {
    if let [KeyColumn::Bytes(array)] = columns {
        return array.is_valid(row).then(|| Cow::Borrowed(array.value(row)));
    }
    scratch.clear();
    for column in columns {
        if column.is_null(row) {
            return None;
        }
        column.encode(row, scratch);
    }
    Some(Cow::Borrowed(scratch))
}

fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    #[expect(clippy::cast_possible_truncation, reason = "both halves are wanted")]
    let folded = (product as u64) ^ ((product >> 64) as u64);
    folded
}

const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

#[expect(clippy::cast_possible_truncation, reason = "a hash may lose bits")]
fn hash_whole(seed: u64, key: i64) -> usize {
    mix(key.cast_unsigned() ^ seed, ODD) as usize
}

#[expect(clippy::cast_possible_truncation, reason = "a hash may lose bits")]
fn hash_bytes(seed: u64, key: &[u8]) -> u32 {
    let mut hash = seed ^ key.len() as u64;
    let mut words = key.chunks_exact(8);
    for word in &mut words {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(word);
        hash = mix(hash ^ u64::from_le_bytes(bytes), ODD);
    }
    let mut rest = [0; 8];
    rest[..words.remainder().len()].copy_from_slice(words.remainder());
    hash = mix(hash ^ u64::from_le_bytes(rest), ODD);
    (hash ^ (hash >> 32)) as u32
}

/// The bucket that holds the key, or the free one where it belongs. Tables are at most half full.
fn find_whole(buckets: &[(i64, u32)], seed: u64, key: i64) -> usize {
    let mask = buckets.len() - 1;
    let mut bucket = hash_whole(seed, key) & mask;
    while buckets[bucket].1 != NO_KEY && buckets[bucket].0 != key {
        bucket = (bucket + 1) & mask;
    }
    bucket
}

fn grow_whole(buckets: &mut Vec<(i64, u32)>, seed: u64) {
    let mut bigger = vec![(0, NO_KEY); buckets.len() * 2];
    for &(key, number) in buckets.iter().filter(|(_, number)| *number != NO_KEY) {
        let bucket = find_whole(&bigger, seed, key);
        bigger[bucket] = (key, number);
    }
    *buckets = bigger;
}

fn find_bytes(buckets: &[(u32, u32)], data: &[u8], ends: &[usize], hash: u32, key: &[u8]) -> usize {
    let mask = buckets.len() - 1;
    let mut bucket = hash as usize & mask;
    loop {
        let (found, number) = buckets[bucket];
        if number == NO_KEY {
            return bucket;
        }
        if found == hash {
            let number = number as usize;
            let start = if number == 0 { 0 } else { ends[number - 1] };
            if &data[start..ends[number]] == key {
                return bucket;
            }
        }
        bucket = (bucket + 1) & mask;
    }
}

fn grow_bytes(buckets: &mut Vec<(u32, u32)>) {
    let mask = buckets.len() * 2 - 1;
    let mut bigger = vec![(0, NO_KEY); mask + 1];
    for &(hash, number) in buckets.iter().filter(|(_, number)| *number != NO_KEY) {
        let mut bucket = hash as usize & mask;
        while bigger[bucket].1 != NO_KEY {
            bucket = (bucket + 1) & mask;
        }
        bigger[bucket] = (hash, number);
    }
    *buckets = bigger;
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, Int32Array, StringArray};

    use super::*;

    fn numbers(columns: &[KeyColumn], rows: usize) -> (Keys, Vec<u32>) {
        let mut table = KeyTable::new(columns);
        let mut numbers = Vec::new();
        table.insert(columns, rows, &mut numbers);
        let keys = table.close();
        assert_eq!(find(&keys, columns, rows), numbers);
        (keys, numbers)
    }

    fn find(keys: &Keys, columns: &[KeyColumn], rows: usize) -> Vec<u32> {
        let mut found = Vec::new();
        keys.find(columns, rows, &mut found);
        found
    }

    #[test]
    fn equal_keys_share_a_number_whatever_their_arrow_type() {
        let small: ArrayRef = Arc::new(Int32Array::from(vec![Some(7), None, Some(-1), Some(7)]));
        let columns = [KeyColumn::new(&small, ValueType::Int64, "k").unwrap()];
        let (keys, numbers) = numbers(&columns, 4);
        assert_eq!(numbers, [0, NO_KEY, 1, 0]);
        let float: ArrayRef = Arc::new(Float64Array::from(vec![-1.0, 7.0, 7.5]));
        let columns = [KeyColumn::new(&float, ValueType::Int64, "k").unwrap()];
        assert_eq!(find(&keys, &columns, 3), [1, 0, NO_KEY]);
    }

    #[test]
    fn parts_of_a_composite_key_do_not_run_together() {
        let a: ArrayRef = Arc::new(StringArray::from(vec!["1", "11", "1", "1"]));
        let b: ArrayRef = Arc::new(StringArray::from(vec![Some("11"), Some("1"), None, Some("11")]));
        let columns = [a, b].map(|array| KeyColumn::new(&array, ValueType::String, "k").unwrap());
        assert_eq!(numbers(&columns, 4).1, [0, 1, NO_KEY, 0]);
    }

    #[test]
    fn tables_grow() {
        let many: ArrayRef = Arc::new(Int64Array::from_iter_values(0..10_000));
        for value_type in [ValueType::Int64, ValueType::String] {
            let columns = [KeyColumn::new(&many, value_type, "k").unwrap()];
            assert_eq!(numbers(&columns, 10_000).1, (0..10_000).collect::<Vec<_>>());
        }
    }

    #[test]
    fn keys_are_found_whether_they_lie_close_together_or_not() {
        let ends = [i64::MIN, i64::MAX];
        for kept in [
            vec![],
            vec![-3],
            vec![5, 3, 9, 4],
            vec![i64::MAX, i64::MAX - 2],
            vec![i64::MIN, 0],
            ends.to_vec(),
        ] {
            let kept: ArrayRef = Arc::new(Int64Array::from(kept));
            let (keys, _) = numbers(
                &[KeyColumn::new(&kept, ValueType::Int64, "k").unwrap()],
                kept.len(),
            );
            let kept = kept.as_primitive::<Int64Type>().values();
            let near = kept
                .iter()
                .flat_map(|key| (-2..3).map(|step| key.wrapping_add(step)));
            let asked: Vec<i64> = near.chain(ends).collect();
            let column: ArrayRef = Arc::new(Int64Array::from(asked.clone()));
            let columns = [KeyColumn::new(&column, ValueType::Int64, "k").unwrap()];
            let place = |key| kept.iter().position(|kept| *kept == key);
            let want: Vec<_> = asked
                .iter()
                .map(|key| place(*key).map_or(NO_KEY, |n| u32::try_from(n).unwrap()))
                .collect();
            assert_eq!(find(&keys, &columns, asked.len()), want, "{asked:?}");
        }
    }

    #[test]
    fn an_entity_key_of_the_wrong_type_is_refused() {
        let text: ArrayRef = Arc::new(StringArray::from(vec![Some("12"), None, Some("abc")]));
        let error = KeyColumn::strict(&text, ValueType::Int64, "driver_id")
            .err()
            .unwrap();
        assert_eq!(
            error.message(),
            "entity column `driver_id` holds `abc`, which is no Int64"
        );
    }
}
