//! Text forms of values as Python writes and reads them: `str()` of scalars, which Feast's SQL stores
//! keep beside the value, and the instants and numbers people write into JSON and YAML.

use chrono::{DateTime, FixedOffset, NaiveDate, NaiveDateTime, TimeZone, Utc};

use super::{Kind, Value};

/// What Feast's SQL stores keep in `value_text`: Python's `str()` of texts, numbers and booleans,
/// nothing for any other type.
pub fn value_text(value: &Value) -> Option<String> {
    Some(match value.val.as_ref()? {
        Kind::StringVal(text) => text.clone(),
        Kind::Int32Val(number) => number.to_string(),
        Kind::Int64Val(number) => number.to_string(),
        Kind::DoubleVal(number) => float_text(*number),
        Kind::FloatVal(number) => float_text(f64::from(*number)),
        Kind::BoolVal(truth) => bool_text(*truth).to_owned(),
        _ => return None,
    })
}

/// Python's `str()` of a boolean.
pub(crate) fn bool_text(truth: bool) -> &'static str {
    if truth { "True" } else { "False" }
}

/// Python's `str()` of a float: the shortest digits that read back as the same number.
pub(crate) fn float_text<F>(number: F) -> String
where
    F: Into<f64> + Copy + std::fmt::LowerExp,
{
    let wide: f64 = number.into();
    if wide.is_nan() {
        return "nan".to_owned();
    }
    if wide.is_infinite() {
        return if wide > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    // Rust's `e` form has the shortest digits for the width at hand; only the layout is Python's.
    let scientific = format!("{number:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (sign, mantissa) = mantissa
        .strip_prefix('-')
        .map_or(("", mantissa), |rest| ("-", rest));
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let layout = match usize::try_from(exponent) {
        Ok(whole) if exponent < 16 => {
            if digits.len() > whole + 1 {
                format!("{}.{}", &digits[..=whole], &digits[whole + 1..])
            } else {
                format!("{digits:0<width$}.0", width = whole + 1)
            }
        }
        Err(_) if exponent >= -4 => format!(
            "0.{}{digits}",
            "0".repeat((-exponent - 1).unsigned_abs() as usize)
        ),
        _ => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{mantissa}e{sign}{:02}", exponent.abs())
        }
    };
    format!("{sign}{layout}")
}

/// An instant as people write it: ISO 8601 with `T` or a blank, with or without seconds, fraction, time
/// and offset. A time without an offset is UTC; the offset is returned when one was written.
pub fn parse_instant(text: &str) -> Option<(DateTime<Utc>, Option<FixedOffset>)> {
    const ZONED: [&str; 4] = [
        "%Y-%m-%dT%H:%M:%S%.f%#z",
        "%Y-%m-%d %H:%M:%S%.f%#z",
        "%Y-%m-%dT%H:%M%#z",
        "%Y-%m-%d %H:%M%#z",
    ];
    const NAIVE: [&str; 4] = [
        "%Y-%m-%dT%H:%M:%S%.f",
        "%Y-%m-%d %H:%M:%S%.f",
        "%Y-%m-%dT%H:%M",
        "%Y-%m-%d %H:%M",
    ];
    let text = text.trim();
    for format in NAIVE {
        if let Ok(naive) = NaiveDateTime::parse_from_str(text, format) {
            return Some((naive.and_utc(), None));
        }
    }
    if let Ok(zoned) = DateTime::parse_from_rfc3339(text) {
        return Some((zoned.to_utc(), Some(*zoned.offset())));
    }
    for format in ZONED {
        if let Ok(zoned) = DateTime::parse_from_str(text, format) {
            return Some((zoned.to_utc(), Some(*zoned.offset())));
        }
    }
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    Some((date.and_hms_opt(0, 0, 0)?.and_utc(), None))
}

/// The ISO 8601 form of an instant in a stored zone: an IANA name, `UTC`, or a fixed offset such as
/// `UTC-07:00` or `+0530`; an empty or unknown zone is UTC. `None` when no calendar reaches the instant.
pub(crate) fn zoned_text(seconds: i64, zone: &str) -> Option<String> {
    let instant = DateTime::from_timestamp(seconds, 0)?;
    if let Ok(zone) = zone.parse::<chrono_tz::Tz>() {
        return Some(iso_text(&instant.with_timezone(&zone)));
    }
    let offset = parse_offset(zone).or_else(|| FixedOffset::east_opt(0))?;
    Some(iso_text(&instant.with_timezone(&offset)))
}

fn iso_text<Z: TimeZone>(instant: &DateTime<Z>) -> String
where
    Z::Offset: std::fmt::Display,
{
    instant.format("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

/// `UTC`, `GMT`, `UTC-07:00`, `-07:00`, `+0530`.
fn parse_offset(zone: &str) -> Option<FixedOffset> {
    let zone = zone.trim();
    let rest = zone
        .strip_prefix("UTC")
        .or_else(|| zone.strip_prefix("GMT"))
        .unwrap_or(zone);
    let (sign, rest) = match rest.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let digits = rest.replacen(':', "", 1);
    if digits.len() != 4 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (hours, minutes): (i32, i32) = (digits[..2].parse().ok()?, digits[2..].parse().ok()?);
    FixedOffset::east_opt(sign * (hours * 3600 + minutes * 60))
}

/// The name Python gives a fixed offset, the inverse of [`zoned_text`]'s reading.
pub(crate) fn offset_name(offset: FixedOffset) -> String {
    match offset.local_minus_utc() {
        0 => "UTC".to_owned(),
        _ => format!("UTC{offset}"),
    }
}

/// A whole number as Python's `int()` reads it from text.
pub(crate) fn parse_int(text: &str) -> Option<i64> {
    let text = text.trim();
    text.parse().ok().or_else(|| {
        // Python allows single underscores between digits.
        let inner = text.strip_prefix(['+', '-']).unwrap_or(text);
        let grouped = inner
            .split('_')
            .all(|group| !group.is_empty() && group.bytes().all(|b| b.is_ascii_digit()));
        grouped.then(|| text.replace('_', "").parse().ok()).flatten()
    })
}

/// A floating point number as Python's `float()` reads it from text, with protobuf's spellings of the
/// infinities among them.
pub(crate) fn parse_float(text: &str) -> Option<f64> {
    text.trim().parse().ok()
}

/// Whether the text is a decimal number, as Python's `Decimal` would take it.
pub(crate) fn is_decimal(text: &str) -> bool {
    parse_float(text).is_some()
}

#[cfg(test)]
mod tests;
