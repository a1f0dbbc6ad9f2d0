//! The bytes online stores know an entity by (`feast/infra/key_encoding_utils.py`), and the two hashes
//! made of them. Stores add their own prefixes and suffixes; nothing here knows a store's layout.

use bytes::{BufMut, Bytes, BytesMut};

use super::value::{self, Kind, Value};
use super::value_type::ValueType;
use crate::error::{Error, Result};

mod murmur3;

/// The layouts of `entity_key_serialization_version` that are still in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Version {
    /// No key count and no length in front of key names; it cannot be read back.
    V2,
    /// The default; MySQL and every Redis scan use it whatever is configured.
    #[default]
    V3,
}

/// The encoded key of one entity; the join keys may come in any order.
///
/// # Errors
/// [`crate::error::Kind::InvalidArgument`] when a join key comes twice or a value cannot be part of a key.
pub fn serialize(join_keys: &[(&str, &Value)], version: Version) -> Result<Vec<u8>> {
    let names: Vec<&str> = join_keys.iter().map(|(name, _)| *name).collect();
    let values: Vec<&Value> = join_keys.iter().map(|(_, value)| *value).collect();
    let mut out = Vec::new();
    KeyEncoder::new(&names, version)?.append(&mut out, &values)?;
    Ok(out)
}

/// What every key with these join keys starts with.
pub fn prefix(join_keys: &[&str], version: Version) -> Vec<u8> {
    let mut sorted = join_keys.to_vec();
    sorted.sort_unstable();
    header(&sorted, version)
}

/// The sorted names, as they stand in front of the values.
fn header(sorted: &[&str], version: Version) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + sorted.iter().map(|name| name.len() + 8).sum::<usize>());
    if version == Version::V3 {
        out.put_u32_le(length(sorted.len()));
    }
    for name in sorted {
        out.put_u32_le(ValueType::String as u32);
        if version == Version::V3 {
            out.put_u32_le(length(name.len()));
        }
        out.extend_from_slice(name.as_bytes());
    }
    out
}

/// Lengths are 32 bits wide on the wire; a name or value of 4 GiB does not fit into a request anyway.
fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// How much memory a [`KeyEncoder`] takes at a time.
const BLOCK: usize = 4096;

/// Encodes many entities that share their join keys; names are sorted and written once.
#[derive(Debug, Clone)]
pub struct KeyEncoder {
    names: Vec<String>,
    /// Positions of the caller's values in the order of the sorted names.
    order: Vec<usize>,
    header: Vec<u8>,
    buffer: BytesMut,
}

impl KeyEncoder {
    /// An encoder for values given in the order of `join_keys`.
    ///
    /// # Errors
    /// [`crate::error::Kind::InvalidArgument`] when a join key comes twice.
    pub fn new(join_keys: &[&str], version: Version) -> Result<Self> {
        let mut order: Vec<usize> = (0..join_keys.len()).collect();
        order.sort_by_key(|&position| join_keys[position]);
        let sorted: Vec<&str> = order.iter().map(|&position| join_keys[position]).collect();
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::invalid(format!(
                "join key `{}` comes twice in one entity key",
                pair[0]
            )));
        }
        Ok(Self {
            names: join_keys.iter().map(ToString::to_string).collect(),
            header: header(&sorted, version),
            order,
            buffer: BytesMut::new(),
        })
    }

    /// The key of one entity.
    ///
    /// # Errors
    /// [`crate::error::Kind::InvalidArgument`] when there are more or fewer values than join keys, or one
    /// is null or of a type no key can hold.
    pub fn encode(&mut self, values: &[&Value]) -> Result<Bytes> {
        if self.buffer.capacity() == 0 {
            // Keys are cut off this block until it is used up; then the buffer takes one of the same size.
            self.buffer = BytesMut::with_capacity(BLOCK);
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let done = self.append(&mut buffer, values).map(|()| buffer.split().freeze());
        buffer.clear();
        self.buffer = buffer;
        done
    }

    /// Appends the encoded key to `out`.
    ///
    /// # Errors
    /// As [`KeyEncoder::encode`].
    pub fn append(&self, out: &mut impl BufMut, values: &[&Value]) -> Result<()> {
        if values.len() != self.names.len() {
            return Err(Error::invalid(format!(
                "entity key with {} join keys was given {} values",
                self.names.len(),
                values.len()
            )));
        }
        out.put_slice(&self.header);
        for &position in &self.order {
            put_value(out, &self.names[position], values[position])?;
        }
        Ok(())
    }
}

fn put_value(out: &mut impl BufMut, name: &str, value: &Value) -> Result<()> {
    let (value_type, content): (ValueType, &[u8]) = match &value.val {
        Some(Kind::StringVal(text)) => (ValueType::String, text.as_bytes()),
        Some(Kind::BytesVal(bytes)) => (ValueType::Bytes, bytes),
        Some(Kind::Int32Val(number)) => (ValueType::Int32, &number.to_le_bytes()),
        Some(Kind::Int64Val(number)) => (ValueType::Int64, &number.to_le_bytes()),
        Some(Kind::UnixTimestampVal(seconds)) if !value::is_null(value) => {
            (ValueType::UnixTimestamp, &seconds.to_le_bytes())
        }
        _ if value::is_null(value) => {
            return Err(Error::invalid(format!("join key `{name}` has no value"))
                .hint("every entity needs a value for each of its join keys"));
        }
        _ => {
            return Err(Error::invalid(format!(
                "join key `{name}` has a value of type `{}`, which no entity key can hold",
                value::value_type(value)
            ))
            .hint("join keys can be String, Bytes, Int32, Int64 or UnixTimestamp"));
        }
    };
    out.put_u32_le(value_type as u32);
    out.put_u32_le(length(content.len()));
    out.put_slice(content);
    Ok(())
}

/// Reads a version 3 key back; names come sorted.
///
/// # Errors
/// [`crate::error::Kind::InvalidArgument`] when the bytes are no such key.
pub fn deserialize(key: &[u8]) -> Result<Vec<(String, Value)>> {
    let mut reader = Reader { rest: key };
    let count = reader.u32()?;
    let mut names = Vec::new();
    for _ in 0..count {
        if reader.u32()? != ValueType::String as u32 {
            return Err(malformed("a join key's name is not text"));
        }
        // Feast pads nothing today but strips NULs when it reads, so old keys may carry them.
        names.push(text(reader.sized()?)?.trim_end_matches('\0').to_owned());
    }
    let mut entity = Vec::with_capacity(names.len());
    for name in names {
        let value_type = reader.u32()?;
        let content = reader.sized()?;
        entity.push((
            name,
            Value {
                val: Some(read_value(value_type, content)?),
            },
        ));
    }
    if reader.rest.is_empty() {
        Ok(entity)
    } else {
        Err(malformed("bytes are left over"))
    }
}

fn read_value(value_type: u32, content: &[u8]) -> Result<Kind> {
    let int64 = || {
        content
            .try_into()
            .map(i64::from_le_bytes)
            .map_err(|_| malformed("a number is cut off"))
    };
    Ok(
        match i32::try_from(value_type).map_or(ValueType::Unknown, ValueType::from_number) {
            ValueType::String => Kind::StringVal(text(content)?.to_owned()),
            ValueType::Bytes => Kind::BytesVal(Bytes::copy_from_slice(content)),
            ValueType::Int64 => Kind::Int64Val(int64()?),
            ValueType::UnixTimestamp => Kind::UnixTimestampVal(int64()?),
            ValueType::Int32 => {
                let bytes = content.try_into().map_err(|_| malformed("a number is cut off"))?;
                Kind::Int32Val(i32::from_le_bytes(bytes))
            }
            _ => return Err(malformed("a value has a type no key can hold")),
        },
    )
}

fn text(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| malformed("a text is not UTF-8"))
}

fn malformed(what: &str) -> Error {
    Error::invalid(format!("malformed entity key: {what}"))
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (head, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or_else(|| malformed("it is cut off"))?;
        self.rest = rest;
        Ok(head)
    }

    fn u32(&mut self) -> Result<u32> {
        let bytes = self.take(4)?.try_into().map_err(|_| malformed("it is cut off"))?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn sized(&mut self) -> Result<&'a [u8]> {
        let length = self.u32()? as usize;
        self.take(length)
    }
}

/// The text id that stores without binary keys use for an encoded key.
pub fn entity_id(key: &[u8]) -> String {
    hex::encode(murmur3::x64_128(key))
}

/// 128 bits that stand for a key where keeping the key itself would cost too much memory.
pub fn fingerprint(key: &[u8]) -> u128 {
    u128::from_le_bytes(murmur3::x64_128(key))
}

/// The field of a Redis hash that holds a feature.
pub fn redis_field_hash(view: &str, feature: &str) -> [u8; 4] {
    let mut name = String::with_capacity(view.len() + feature.len() + 1);
    name.push_str(view);
    name.push(':');
    name.push_str(feature);
    murmur3::x86_32(name.as_bytes()).to_le_bytes()
}

#[cfg(test)]
mod tests;
