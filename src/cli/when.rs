//! Moments on the command line, as Python's `datetime.fromisoformat` reads them; without an offset they
//! are UTC.

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};

/// Parses a moment; the error says what would do.
pub(super) fn moment(text: &str) -> Result<DateTime<Utc>, String> {
    let text = text.trim();
    if let Ok(moment) = DateTime::parse_from_rfc3339(text) {
        return Ok(moment.with_timezone(&Utc));
    }
    for format in [
        "%Y-%m-%dT%H:%M:%S%.f%#z",
        "%Y-%m-%d %H:%M:%S%.f%#z",
        "%Y-%m-%dT%H:%M%#z",
    ] {
        if let Ok(moment) = DateTime::parse_from_str(text, format) {
            return Ok(moment.with_timezone(&Utc));
        }
    }
    for format in [
        "%Y-%m-%dT%H:%M:%S%.f",
        "%Y-%m-%d %H:%M:%S%.f",
        "%Y-%m-%dT%H:%M",
        "%Y-%m-%d %H:%M",
    ] {
        if let Ok(moment) = NaiveDateTime::parse_from_str(text, format) {
            return Ok(moment.and_utc());
        }
    }
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok();
    date.and_then(|date| date.and_hms_opt(0, 0, 0))
        .map(|moment| moment.and_utc())
        .ok_or_else(|| format!("`{text}` is no time, such as 2024-05-01 or 2024-05-01T06:00:00+02:00"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn iso_forms_are_read() {
        let expected: DateTime<Utc> = "2024-05-01T04:30:00Z".parse().unwrap();
        for text in [
            "2024-05-01T04:30:00",
            "2024-05-01 04:30",
            "2024-05-01T04:30:00Z",
            "2024-05-01T06:30:00+02:00",
            "2024-05-01T06:30:00+0200",
            "2024-05-01 04:30:00.000",
        ] {
            assert_eq!(moment(text).unwrap(), expected, "{text}");
        }
        assert_eq!(
            moment("2024-05-01").unwrap(),
            "2024-05-01T00:00:00Z".parse::<DateTime<Utc>>().unwrap()
        );
        assert!(moment("yesterday").is_err());
    }
}
