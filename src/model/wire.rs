//! Protobuf's wire format, read and edited without types: every byte that is not edited stays as it
//! was, in place. This is how single fields of stored objects are changed without losing what newer
//! Feast versions wrote. It knows no message; callers bring field numbers.

use prost::encoding::{decode_varint, encode_varint, encoded_len_varint};

use crate::error::{Error, Result};

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const LENGTH_DELIMITED: u8 = 2;
const FIXED32: u8 = 5;

/// One field as it stands in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    pub number: u32,
    wire_type: u8,
    /// The value: the content of a length-delimited field, the encoded number otherwise.
    pub value: &'a [u8],
    /// Tag, length and value.
    pub raw: &'a [u8],
}

impl<'a> Field<'a> {
    /// The content of a length-delimited field.
    ///
    /// # Errors
    /// `InvalidArgument` when the field is a number.
    pub fn content(&self) -> Result<&'a [u8]> {
        if self.wire_type == LENGTH_DELIMITED {
            Ok(self.value)
        } else {
            Err(malformed("a number where bytes belong"))
        }
    }

    /// The content as text.
    ///
    /// # Errors
    /// `InvalidArgument` when the field is a number or not UTF-8.
    pub fn text(&self) -> Result<&'a str> {
        std::str::from_utf8(self.content()?).map_err(|_| malformed("text that is not UTF-8"))
    }

    /// The value of a varint field.
    ///
    /// # Errors
    /// `InvalidArgument` when the field is of another type.
    pub fn varint(&self) -> Result<u64> {
        if self.wire_type != VARINT {
            return Err(malformed("bytes where a number belongs"));
        }
        decode_varint(&mut &*self.value).map_err(|_| malformed("a number that does not end"))
    }
}

/// The fields of a message in the order they stand in.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

/// The fields of `message`.
pub fn fields(message: &[u8]) -> Fields<'_> {
    Fields { rest: message }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = read_field(self.rest);
        // After an error there is no way to tell where the next field begins.
        self.rest = field
            .as_ref()
            .ok()
            .and_then(|field| self.rest.get(field.raw.len()..))
            .unwrap_or_default();
        Some(field)
    }
}

fn read_field(start: &[u8]) -> Result<Field<'_>> {
    let mut rest = start;
    let tag = decode_varint(&mut rest).map_err(|_| malformed("a tag that does not end"))?;
    let number = u32::try_from(tag >> 3).ok().filter(|number| *number > 0);
    let number = number.ok_or_else(|| malformed("a field number out of range"))?;
    let wire_type = (tag & 7) as u8;
    let length = match wire_type {
        VARINT => {
            let mut after = rest;
            decode_varint(&mut after).map_err(|_| malformed("a number that does not end"))?;
            rest.len() - after.len()
        }
        FIXED64 => 8,
        FIXED32 => 4,
        LENGTH_DELIMITED => {
            let length = decode_varint(&mut rest).map_err(|_| malformed("a length that does not end"))?;
            usize::try_from(length).map_err(|_| malformed("a length out of range"))?
        }
        _ => return Err(malformed("an unknown wire type")),
    };
    let value = rest
        .get(..length)
        .ok_or_else(|| malformed("a field longer than its message"))?;
    let raw_length = start.len() - rest.len() + length;
    let raw = start.get(..raw_length).unwrap_or(start);
    Ok(Field {
        number,
        wire_type,
        value,
        raw,
    })
}

fn malformed(what: &'static str) -> Error {
    Error::invalid(format!("malformed protobuf: {what}"))
}

/// The last field at `path`, as protobuf's merge rule reads it.
///
/// # Errors
/// `InvalidArgument` when the message is malformed on the way there.
pub fn get<'a>(message: &'a [u8], path: &[u32]) -> Result<Option<Field<'a>>> {
    let Some((first, deeper)) = path.split_first() else {
        return Ok(None);
    };
    let mut found = None;
    for field in fields(message) {
        let field = field?;
        if field.number != *first {
            continue;
        }
        if deeper.is_empty() {
            found = Some(field);
        } else {
            found = get(field.content()?, deeper)?.or(found);
        }
    }
    Ok(found)
}

/// The text at `path`; empty when it is absent.
///
/// # Errors
/// As [`get`], or when the field is no text.
pub fn text<'a>(message: &'a [u8], path: &[u32]) -> Result<&'a str> {
    get(message, path)?.map_or(Ok(""), |field| field.text())
}

/// The contents of a repeated field directly inside the message at `path`.
///
/// # Errors
/// As [`get`].
pub fn repeated<'a>(message: &'a [u8], path: &[u32], number: u32) -> Result<Vec<&'a [u8]>> {
    let mut found = Vec::new();
    match path.split_first() {
        None => {
            for field in fields(message) {
                let field = field?;
                if field.number == number {
                    found.push(field.content()?);
                }
            }
        }
        Some((first, deeper)) => {
            for field in fields(message) {
                let field = field?;
                if field.number == *first {
                    found.extend(repeated(field.content()?, deeper, number)?);
                }
            }
        }
    }
    Ok(found)
}

/// What an edit puts in place of a field.
#[derive(Debug, Clone, Copy)]
pub enum Put<'a> {
    /// A length-delimited value: text, bytes or a message; stays even when empty.
    Bytes(&'a [u8]),
    Varint(u64),
    Nothing,
    /// All of these, as a repeated length-delimited field.
    Each(&'a [Vec<u8>]),
}

impl<'a> Put<'a> {
    /// Text the way proto3 writes it: an empty one is left out.
    pub fn text(text: &'a str) -> Self {
        if text.is_empty() {
            Self::Nothing
        } else {
            Self::Bytes(text.as_bytes())
        }
    }

    /// A number the way proto3 writes it: zero is left out.
    pub fn number(number: u64) -> Self {
        if number == 0 {
            Self::Nothing
        } else {
            Self::Varint(number)
        }
    }

    fn write(self, number: u32, out: &mut Vec<u8>) {
        match self {
            Self::Bytes(bytes) => write_bytes(number, bytes, out),
            Self::Varint(value) => {
                encode_varint(u64::from(number) << 3 | u64::from(VARINT), out);
                encode_varint(value, out);
            }
            Self::Nothing => {}
            Self::Each(values) => values.iter().for_each(|value| write_bytes(number, value, out)),
        }
    }
}

/// Appends one length-delimited field.
pub fn write_bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    let tag = u64::from(number) << 3 | u64::from(LENGTH_DELIMITED);
    out.reserve(encoded_len_varint(tag) + encoded_len_varint(bytes.len() as u64) + bytes.len());
    encode_varint(tag, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// The message with the field at `path` replaced; messages on the way are made if they are missing.
/// A new field goes where its number belongs, as protobuf's own writers do.
///
/// # Errors
/// `InvalidArgument` when the message is malformed on the way there.
pub fn set(message: &[u8], path: &[u32], put: Put<'_>) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(message.len() + 32);
    let Some((number, deeper)) = path.split_first() else {
        return Ok(message.to_vec());
    };
    let all = fields(message).collect::<Result<Vec<_>>>()?;
    let last = all.iter().rposition(|field| field.number == *number);
    let home = last.unwrap_or_else(|| {
        all.iter()
            .position(|field| field.number > *number)
            .unwrap_or(all.len())
    });
    for (index, field) in all.iter().enumerate() {
        if field.number == *number {
            let put = if index == home { put } else { Put::Nothing };
            match deeper {
                [] => put.write(*number, &mut out),
                deeper => write_bytes(*number, &set(field.content()?, deeper, put)?, &mut out),
            }
            continue;
        }
        if index == home {
            write_new(*number, deeper, put, &mut out);
        }
        out.extend_from_slice(field.raw);
    }
    if home == all.len() {
        write_new(*number, deeper, put, &mut out);
    }
    Ok(out)
}

/// The message with one more field at `path` behind all others. Nothing is read for it: a later field
/// of the same number wins, and a later message is merged into the earlier.
pub fn append(message: &[u8], path: &[u32], put: Put<'_>) -> Vec<u8> {
    let mut out = message.to_vec();
    if let Some((number, deeper)) = path.split_first() {
        write_new(*number, deeper, put, &mut out);
    }
    out
}

fn write_new(number: u32, deeper: &[u32], put: Put<'_>, out: &mut Vec<u8>) {
    match deeper.split_first() {
        None => put.write(number, out),
        Some(_) if matches!(put, Put::Nothing) => {}
        Some((next, deeper)) => {
            let mut inner = Vec::new();
            write_new(*next, deeper, put, &mut inner);
            write_bytes(number, &inner, out);
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use prost::Message;

    use super::*;
    use crate::proto::feast::core;

    fn entity() -> Vec<u8> {
        let spec = core::EntitySpecV2 {
            name: "driver".to_owned(),
            join_key: "driver_id".to_owned(),
            ..Default::default()
        };
        core::Entity {
            spec: Some(spec),
            meta: None,
        }
        .encode_to_vec()
    }

    #[test]
    fn edits_keep_unknown_fields_and_order() {
        let mut bytes = entity();
        write_bytes(777, b"from the future", &mut bytes);
        let edited = set(&bytes, &[1, 9], Put::text("p")).unwrap();
        let decoded = core::Entity::decode(&*edited).unwrap();
        assert_eq!(decoded.spec.as_ref().unwrap().project, "p");
        assert_eq!(decoded.spec.unwrap().join_key, "driver_id");
        assert_eq!(
            get(&edited, &[777]).unwrap().unwrap().content().unwrap(),
            b"from the future"
        );
        assert_eq!(
            set(&edited, &[1, 9], Put::Nothing).unwrap(),
            bytes,
            "taking it out again restores every byte"
        );
    }

    #[test]
    fn a_new_field_stands_where_protobuf_writers_put_it() {
        let mut whole = core::Entity::decode(&*entity()).unwrap();
        whole.spec.as_mut().unwrap().description = "d".to_owned();
        whole.meta = Some(core::EntityMeta {
            created_timestamp: None,
            last_updated_timestamp: Some(prost_types::Timestamp { seconds: 5, nanos: 0 }),
        });
        let edited = set(&entity(), &[1, 3], Put::text("d")).unwrap();
        let time = prost_types::Timestamp { seconds: 5, nanos: 0 }.encode_to_vec();
        let edited = set(&edited, &[2, 2], Put::Bytes(&time)).unwrap();
        assert_eq!(edited, whole.encode_to_vec());
    }

    #[test]
    fn a_message_in_two_pieces_reads_and_edits_as_one() {
        let mut bytes = entity();
        bytes.extend(set(&[], &[1, 9], Put::text("late")).unwrap());
        assert_eq!(text(&bytes, &[1, 9]).unwrap(), "late");
        assert_eq!(text(&bytes, &[1, 1]).unwrap(), "driver");
        let edited = set(&bytes, &[1, 1], Put::text("pilot")).unwrap();
        let spec = core::Entity::decode(&*edited).unwrap().spec.unwrap();
        assert_eq!((spec.name.as_str(), spec.project.as_str()), ("pilot", "late"));
    }

    #[test]
    fn what_is_appended_wins_and_the_rest_stays() {
        let appended = append(&entity(), &[1, 1], Put::text("pilot"));
        assert!(appended.starts_with(&entity()));
        let spec = core::Entity::decode(&*appended).unwrap().spec.unwrap();
        assert_eq!(
            (spec.name.as_str(), spec.join_key.as_str()),
            ("pilot", "driver_id")
        );
    }

    #[test]
    fn numbers_and_repeated_fields() {
        let bytes = set(&[], &[2, 6], Put::number(4)).unwrap();
        assert_eq!(get(&bytes, &[2, 6]).unwrap().unwrap().varint().unwrap(), 4);
        let bytes = set(&bytes, &[2, 3], Put::Each(&[b"a".to_vec(), b"b".to_vec()])).unwrap();
        assert_eq!(repeated(&bytes, &[2], 3).unwrap(), [b"a", b"b"]);
        assert_eq!(set(&bytes, &[2, 3], Put::Each(&[b"c".to_vec()])).unwrap(), {
            let meta = set(&[], &[2, 3], Put::Bytes(b"c")).unwrap();
            set(&meta, &[2, 6], Put::number(4)).unwrap()
        });
    }

    #[test]
    fn malformed_bytes_are_an_error_not_a_panic() {
        for bytes in [
            &b"\x0a"[..],
            b"\x0a\x05ab",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x0b",
            b"\x00",
            b"\x09a",
        ] {
            assert!(fields(bytes).any(|field| field.is_err()), "{bytes:?}");
            assert!(fields(bytes).count() < 3, "reading stops");
        }
    }
}
