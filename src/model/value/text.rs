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
    F: Into<f64> + Copy + serde::Serialize,
{
    let wide: f64 = number.into();
    if wide.is_nan() {
        return "nan".to_owned();
    }
    if wide.is_infinite() {
        return if wide > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    // The JSON writer finds the same digits as Python, ties included (`{:e}` does not); only the layout
    // differs. A finite number always has a JSON form.
    let json = serde_json::to_string(&number).unwrap_or_default();
    let (sign, json) = json
        .strip_prefix('-')
        .map_or(("", json.as_str()), |rest| ("-", rest));
    let (mantissa, exponent) = json.split_once('e').unwrap_or((json, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{whole}{fraction}");
    let digits = all.trim_start_matches('0');
    let leading_zeros = all.len() - digits.len();
    let digits = digits.trim_end_matches('0');
    let Some((first, rest)) = digits.split_at_checked(1) else {
        return format!("{sign}0.0");
    };
    let point = signed(whole.len()) - signed(leading_zeros) + exponent.parse::<isize>().unwrap_or(0);
    let layout = match point {
        1..=16 if point >= signed(digits.len()) => {
            format!("{digits:0<width$}.0", width = point.unsigned_abs())
        }
        1..=16 => {
            let (whole, fraction) = digits.split_at(point.unsigned_abs());
            format!("{whole}.{fraction}")
        }
        -3..=0 => format!("0.{}{digits}", "0".repeat(point.unsigned_abs())),
        _ => {
            let dot = if rest.is_empty() { "" } else { "." };
            let sign = if point < 1 { '-' } else { '+' };
            format!("{first}{dot}{rest}e{sign}{:02}", (point - 1).unsigned_abs())
        }
    };
    format!("{sign}{layout}")
}

/// Lengths of a number's text, which are small.
fn signed(length: usize) -> isize {
    length.cast_signed()
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
