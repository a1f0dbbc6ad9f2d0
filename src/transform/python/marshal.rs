//! Python's `marshal` format, version 2, as far as values need it: the one form that Python reads and
//! writes at the speed of its own objects. Reading trusts nothing: a worker may answer any bytes.

use bytes::{Buf as _, Bytes};

use crate::error::{Error, Result};

/// How deep answers may be nested.
const DEPTH: usize = 100;

/// Writes objects one after the other; containers are a head with their length, then their items.
#[derive(Debug, Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// A frame: the length of what `fill` writes, then that.
    pub(super) fn frame(fill: impl FnOnce(&mut Self)) -> Result<Vec<u8>> {
        let mut writer = Self(vec![0; 4]);
        fill(&mut writer);
        let mut frame = writer.into_bytes();
        let length = u32::try_from(frame.len() - 4)
            .ok()
            .filter(|length| *length <= i32::MAX as u32)
            .ok_or_else(|| Error::invalid("its inputs are larger than 2 GiB"))?;
        frame[..4].copy_from_slice(&length.to_le_bytes());
        Ok(frame)
    }

    fn length(&mut self, length: usize) {
        // Frames of more than 2 GiB are refused when they are complete.
        self.0
            .extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    }

    pub(super) fn none(&mut self) {
        self.0.push(b'N');
    }

    pub(super) fn bool(&mut self, truth: bool) {
        self.0.push(if truth { b'T' } else { b'F' });
    }

    pub(super) fn int(&mut self, number: i64) {
        if let Ok(small) = i32::try_from(number) {
            self.0.push(b'i');
            self.0.extend_from_slice(&small.to_le_bytes());
            return;
        }
        let mut digits = Vec::with_capacity(5);
        let mut rest = number.unsigned_abs();
        while rest > 0 {
            digits.push((rest & 0x7fff) as u16);
            rest >>= 15;
        }
        let count = i32::try_from(digits.len()).unwrap_or_default();
        self.0.push(b'l');
        self.0
            .extend_from_slice(&(if number < 0 { -count } else { count }).to_le_bytes());
        for digit in digits {
            self.0.extend_from_slice(&digit.to_le_bytes());
        }
    }

    pub(super) fn float(&mut self, number: f64) {
        self.0.push(b'g');
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    pub(super) fn text(&mut self, text: &str) {
        self.0.push(b'u');
        self.length(text.len());
        self.0.extend_from_slice(text.as_bytes());
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.0.push(b's');
        self.length(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn tuple(&mut self, length: usize) {
        self.0.push(b'(');
        self.length(length);
    }

    pub(super) fn list(&mut self, length: usize) {
        self.0.push(b'[');
        self.length(length);
    }

    pub(super) fn set(&mut self, length: usize) {
        self.0.push(b'<');
        self.length(length);
    }

    /// Keys and values follow, then [`Writer::end`].
    pub(super) fn dict(&mut self) {
        self.0.push(b'{');
    }

    pub(super) fn end(&mut self) {
        self.0.push(b'0');
    }
}

/// A Python object of the types marshal and values have in common.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Object {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Bytes(Bytes),
    Text(String),
    /// A list or a set.
    List(Vec<Object>),
    Tuple(Vec<Object>),
    Dict(Vec<(Object, Object)>),
}

/// Reads one object, which must be all there is.
pub(super) fn read(mut bytes: Bytes) -> Result<Object> {
    let object = object(&mut bytes, 0)?.ok_or_else(nonsense)?;
    if bytes.is_empty() {
        return Ok(object);
    }
    Err(nonsense())
}

fn nonsense() -> Error {
    Error::invalid("its Python worker answered what no value is")
}

/// `None` is the end of a dict.
fn object(bytes: &mut Bytes, depth: usize) -> Result<Option<Object>> {
    if depth > DEPTH {
        return Err(Error::invalid(
            "its Python function answered values nested too deeply",
        ));
    }
    Ok(Some(match bytes.try_get_u8().map_err(|_| nonsense())? {
        b'0' => return Ok(None),
        b'N' => Object::None,
        b'T' => Object::Bool(true),
        b'F' => Object::Bool(false),
        b'i' => Object::Int(i64::from(bytes.try_get_i32_le().map_err(|_| nonsense())?)),
        b'l' => Object::Int(long(bytes)?),
        b'g' => Object::Float(bytes.try_get_f64_le().map_err(|_| nonsense())?),
        b's' => Object::Bytes(octets(bytes)?),
        b'u' | b't' => Object::Text(
            String::from_utf8(octets(bytes)?.into())
                .map_err(|_| Error::invalid("its Python function answered a text that is not Unicode"))?,
        ),
        b'(' => Object::Tuple(items(bytes, depth)?),
        b'[' | b'<' | b'>' => Object::List(items(bytes, depth)?),
        b'{' => {
            let mut entries = Vec::new();
            while let Some(key) = object(bytes, depth + 1)? {
                entries.push((key, object(bytes, depth + 1)?.ok_or_else(nonsense)?));
            }
            Object::Dict(entries)
        }
        _ => return Err(nonsense()),
    }))
}

fn octets(bytes: &mut Bytes) -> Result<Bytes> {
    let length = bytes.try_get_u32_le().map_err(|_| nonsense())? as usize;
    if length > bytes.len() {
        return Err(nonsense());
    }
    Ok(bytes.split_to(length))
}

fn items(bytes: &mut Bytes, depth: usize) -> Result<Vec<Object>> {
    let length = bytes.try_get_u32_le().map_err(|_| nonsense())? as usize;
    // Every item takes a byte at least, so a false length reserves no more than the answer is long.
    let mut items = Vec::with_capacity(length.min(bytes.len()));
    for _ in 0..length {
        items.push(object(bytes, depth + 1)?.ok_or_else(nonsense)?);
    }
    Ok(items)
}

/// A whole number in digits of 15 bits.
fn long(bytes: &mut Bytes) -> Result<i64> {
    let count = bytes.try_get_i32_le().map_err(|_| nonsense())?;
    let mut number: i128 = 0;
    for place in 0..count.unsigned_abs() {
        let digit = i128::from(bytes.try_get_u16_le().map_err(|_| nonsense())?);
        if place < 5 {
            number |= digit << (15 * place);
        } else if digit != 0 {
            number = i128::MAX;
        }
    }
    let number = if count < 0 { -number } else { number };
    i64::try_from(number)
        .map_err(|_| Error::invalid("its Python function answered a whole number of more than 64 bits"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(fill: impl FnOnce(&mut Writer)) -> Bytes {
        let mut writer = Writer::default();
        fill(&mut writer);
        writer.into_bytes().into()
    }

    /// What Python 3.11's `marshal.dumps(…, 2)` makes of it.
    #[test]
    fn the_bytes_are_pythons() {
        let bytes = written(|writer| {
            writer.tuple(4);
            writer.int(-(1 << 40));
            writer.float(0.5);
            writer.text("ä");
            writer.dict();
            writer.text("k");
            writer.bytes(b"v");
            writer.end();
        });
        let python = "28040000006cfdffffff000000000004\
                      67000000000000e03f7502000000c3a47b75010000006b73010000007630";
        assert_eq!(hex::encode(&bytes), python);
        let Object::Tuple(items) = read(bytes).unwrap() else {
            unreachable!()
        };
        assert_eq!(items[0], Object::Int(-(1 << 40)));
        let entry = (
            Object::Text("k".to_owned()),
            Object::Bytes(Bytes::from_static(b"v")),
        );
        assert_eq!(items[3], Object::Dict(vec![entry]));
    }

    #[test]
    fn false_lengths_and_endless_nesting_are_refused() {
        assert!(read(Bytes::from_static(b"[\xff\xff\xff\xff")).is_err());
        assert!(read(Bytes::from_static(b"s\xff\xff\xff\xffab")).is_err());
        let deep: Vec<u8> = b"[\x01\x00\x00\x00".repeat(100_000);
        assert!(read(deep.into()).is_err());
        let huge = written(|writer| {
            writer
                .0
                .extend_from_slice(b"l\x06\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00")
        });
        assert!(read(huge).unwrap_err().message().contains("64 bits"));
    }

    proptest! {
        #[test]
        fn numbers_read_back(number: i64) {
            prop_assert_eq!(read(written(|writer| writer.int(number))).unwrap(), Object::Int(number));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = read(bytes.into());
        }
    }
}
