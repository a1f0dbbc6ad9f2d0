//! JSON straight from the encoded message: a stored value is answered far more often than it is looked
//! at, and scalars and lists of numbers need no message in memory for that.

use prost::{Message as _, encoding::decode_varint};

use super::{NULL_TIMESTAMP, Value, base64, float, plain, write_json};
use crate::error::Result;

/// Appends what [`write_json`] renders for the value that `bytes` encode; no bytes are null.
///
/// # Errors
/// `InvalidArgument` when they encode no value.
pub fn write_encoded(out: &mut Vec<u8>, bytes: &[u8]) -> Result<()> {
    if bytes.is_empty() {
        out.extend_from_slice(b"null");
        return Ok(());
    }
    if write_scalar(out, bytes).is_none() {
        write_json(out, &Value::decode(bytes)?);
    }
    Ok(())
}

/// Writes a message that is exactly one field, a scalar or a list of numbers; answers `None`, having written nothing, for others.
fn write_scalar(out: &mut Vec<u8>, bytes: &[u8]) -> Option<()> {
    let (&tag, mut rest) = bytes.split_first()?;
    // `field number << 3 | wire type`, as in feast/types/Value.proto.
    match tag {
        0x0a => base64(out, whole(rest)?),
        0x12 => plain(out, std::str::from_utf8(whole(rest)?).ok()?),
        0x18 | 0x20 | 0x38 | 0x40 => {
            let number = decode_varint(&mut rest).ok().filter(|_| rest.is_empty())?;
            #[expect(
                clippy::cast_possible_wrap,
                clippy::cast_possible_truncation,
                reason = "protobuf's encoding"
            )]
            match tag {
                0x18 => plain(out, &(number as i32)),
                0x38 => plain(out, &(number != 0)),
                0x40 if number as i64 == NULL_TIMESTAMP => out.extend_from_slice(b"null"),
                _ => plain(out, &(number as i64)),
            }
        }
        0x29 => float(out, f64::from_le_bytes(rest.try_into().ok()?)),
        0x35 => float(out, f64::from(f32::from_le_bytes(rest.try_into().ok()?))),
        0x72 => write_integers(out, packed(rest)?)?,
        0x7a => write_reals(out, packed(rest)?, |number| f64::from_le_bytes(*number))?,
        0x82 => {
            let rest = rest.strip_prefix(&[0x01])?;
            write_reals(out, packed(rest)?, |number| {
                f64::from(f32::from_le_bytes(*number))
            })?;
        }
        _ => return None,
    }
    Some(())
}

/// The numbers of a list, when they are all there is.
fn packed(rest: &[u8]) -> Option<&[u8]> {
    let numbers = whole(whole(rest)?.strip_prefix(&[0x0a])?)?;
    (!numbers.is_empty()).then_some(numbers)
}

fn write_integers(out: &mut Vec<u8>, mut numbers: &[u8]) -> Option<()> {
    let start = out.len();
    while !numbers.is_empty() {
        let Ok(number) = decode_varint(&mut numbers) else {
            out.truncate(start);
            return None;
        };
        out.push(if out.len() == start { b'[' } else { b',' });
        plain(out, &number.cast_signed());
    }
    out.push(b']');
    Some(())
}

/// Numbers of `SIZE` bytes each.
fn write_reals<const SIZE: usize>(
    out: &mut Vec<u8>,
    numbers: &[u8],
    real: impl Fn(&[u8; SIZE]) -> f64,
) -> Option<()> {
    let (numbers, rest) = numbers.as_chunks::<SIZE>();
    if !rest.is_empty() {
        return None;
    }
    for (place, number) in numbers.iter().enumerate() {
        out.push(if place == 0 { b'[' } else { b',' });
        float(out, real(number));
    }
    out.push(b']');
    Some(())
}

/// The contents of a field with a length that ends the message.
fn whole(mut rest: &[u8]) -> Option<&[u8]> {
    let length = decode_varint(&mut rest).ok()?;
    (u64::try_from(rest.len()) == Ok(length)).then_some(rest)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        model::value::Kind,
        proto::feast::types::{DoubleList, FloatList, Int64List},
    };

    fn both(value: &Value) -> (String, String) {
        let (mut direct, mut decoded) = (Vec::new(), Vec::new());
        write_encoded(&mut direct, &value.encode_to_vec()).unwrap();
        write_json(&mut decoded, value);
        (
            String::from_utf8(direct).unwrap(),
            String::from_utf8(decoded).unwrap(),
        )
    }

    #[test]
    fn edges_are_as_the_message_has_them() {
        for kind in [
            Kind::Int32Val(i32::MIN),
            Kind::Int64Val(i64::MIN),
            Kind::UnixTimestampVal(i64::MIN),
            Kind::DoubleVal(f64::NAN),
            Kind::FloatVal(f32::NEG_INFINITY),
            Kind::BoolVal(false),
            Kind::StringVal(String::new()),
            Kind::BytesVal(Vec::new().into()),
            Kind::NullVal(0),
        ] {
            let (direct, decoded) = both(&kind.into());
            assert_eq!(direct, decoded);
        }
    }

    proptest! {
        #[test]
        fn any_value_is_written_as_its_message_is(
            number in any::<i64>(), real in any::<f64>(), short in any::<f32>(), text in ".*", bytes in any::<Vec<u8>>(),
            numbers in any::<Vec<i64>>(), reals in any::<Vec<f64>>(),
        ) {
            #[expect(clippy::cast_possible_truncation, reason = "any number will do")]
            for kind in [
                Kind::Int64Val(number), Kind::Int32Val(number as i32), Kind::UnixTimestampVal(number),
                Kind::DoubleVal(real), Kind::FloatVal(short), Kind::StringVal(text), Kind::BytesVal(bytes.into()),
                Kind::BoolVal(number % 2 == 0),
                Kind::Int64ListVal(Int64List { val: numbers.clone() }),
                Kind::DoubleListVal(DoubleList { val: reals.clone() }),
                Kind::FloatListVal(FloatList { val: reals.iter().map(|real| *real as f32).collect() }),
                Kind::UnixTimestampListVal(Int64List { val: numbers }),
            ] {
                let (direct, decoded) = both(&kind.into());
                prop_assert_eq!(direct, decoded);
            }
        }

        /// What is no single scalar is left to the decoder, whatever it makes of it.
        #[test]
        fn any_bytes_are_taken_as_the_decoder_takes_them(bytes in any::<Vec<u8>>()) {
            let mut direct = Vec::new();
            let taken = write_encoded(&mut direct, &bytes);
            match Value::decode(&bytes[..]) {
                Ok(value) => {
                    let mut decoded = Vec::new();
                    write_json(&mut decoded, &value);
                    prop_assert!(taken.is_ok());
                    prop_assert_eq!(direct, decoded);
                }
                Err(_) => prop_assert!(taken.is_err() && direct.is_empty()),
            }
        }
    }
}
