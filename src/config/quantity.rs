//! Sizes (`1GiB`) and spans of time (`2h`) as people write them.

use std::time::Duration;

use super::check::Walk;

/// Bytes: a number with an optional unit, `KB` being a thousand and `KiB` 1024.
pub fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" | "k" => 1_000,
        "mb" | "m" => 1_000_000,
        "gb" | "g" => 1_000_000_000,
        "tb" | "t" => 1_000_000_000_000,
        "kib" | "ki" => 1 << 10,
        "mib" | "mi" => 1 << 20,
        "gib" | "gi" => 1 << 30,
        "tib" | "ti" => 1 << 40,
        _ => return None,
    };
    let scaled = number * precise(factor);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be in range"
    )]
    (0.0..9.0e18).contains(&scaled).then(|| scaled.round() as u64)
}

#[expect(clippy::cast_precision_loss, reason = "unit factors are exact")]
fn precise(factor: u64) -> f64 {
    factor as f64
}

/// A span of time: one or more numbers with units (`1h30m`); a bare number counts seconds.
pub fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    if let Ok(seconds) = rest.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .filter(|end| *end > 0)?;
        let (number, after) = rest.split_at(digits);
        let after = after.trim_start();
        let letters = after
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(after.len());
        let (unit, next) = after.split_at(letters);
        let seconds = match unit {
            "ms" => 0.001,
            "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
            "m" | "min" | "mins" | "minute" | "minutes" => 60.0,
            "h" | "hour" | "hours" => 3_600.0,
            "d" | "day" | "days" => 86_400.0,
            "w" | "week" | "weeks" => 604_800.0,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        total = total.checked_add(part)?;
        rest = next.trim_start();
    }
    Some(total)
}

/// A setting that counts seconds.
pub(super) fn seconds(walk: &Walk, key: &str) -> Duration {
    walk.settings
        .float(key)
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .unwrap_or_default()
}

/// The shortest way to write a span that [`duration`] reads back.
pub fn show_duration(span: Duration) -> String {
    let millis = span.as_millis();
    for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if millis > 0 && millis.is_multiple_of(size) {
            return format!("{}{unit}", millis / size);
        }
    }
    if millis == 0 {
        "0s".to_owned()
    } else {
        format!("{millis}ms")
    }
}

fn split(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_'))
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.replace('_', "").parse().ok()?, unit.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1GiB", Some(1 << 30)),
            ("1.5 kib", Some(1536)),
            ("2GB", Some(2_000_000_000)),
            ("512m", Some(512_000_000)),
            ("GiB", None),
            ("-1", None),
            ("1 parsec", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }

    #[test]
    fn spans() {
        for (text, expected) in [
            ("2h", Some(7200)),
            ("1h30m", Some(5400)),
            ("7d", Some(604_800)),
            ("90", Some(90)),
            ("1 day 2 hours", Some(93_600)),
            ("0s", Some(0)),
            ("", None),
            ("h", None),
            ("2x", None),
            ("-2h", None),
        ] {
            assert_eq!(duration(text), expected.map(Duration::from_secs), "{text}");
        }
        for text in ["2h", "7d", "90s", "0s", "5ms", "30m"] {
            assert_eq!(duration(text).map(show_duration).as_deref(), Some(text));
        }
    }
}
