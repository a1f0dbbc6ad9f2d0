//! Writing the get-online-features envelope.

use std::{io::Write as _, ops::Range, sync::atomic::Ordering};

use chrono::{DateTime, Datelike, Timelike};

use crate::{
    error::Result,
    model::value,
    online::serve::{Column, Response, Status},
    proto::feast::serving::{FieldStatus, GetOnlineFeaturesResponse},
};

/// What Feast answers as the event time of values that have none.
const EPOCH: &str = "1970-01-01T00:00:00Z";

/// Appends the answer in Feast's JSON.
///
/// # Errors
/// `InvalidArgument` when a stored value is not a valid message.
pub fn write_response(out: &mut Vec<u8>, response: &Response) -> Result<()> {
    let rows = response.rows();
    let written = response.written();
    let expected = rows * written.row_bytes.load(Ordering::Relaxed);
    out.reserve(1024 + expected + expected / 16);
    let start = out.len();
    let mut plain_tail = Vec::new();
    let mut present = Vec::new();
    let mut times = Times::default();
    out.extend_from_slice(b"{\"results\":[");
    for (index, (_, column)) in response.columns().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"values\":[");
        match column {
            Column::Plain(values) => {
                separated(out, values.iter(), |out, value| {
                    value::json::write_json(out, value)
                });
                if plain_tail.is_empty() {
                    write_plain_tail(&mut plain_tail, rows);
                }
                out.extend_from_slice(&plain_tail);
            }
            Column::Stored(stored) => {
                let mut all_present = true;
                for (row, (bytes, status)) in stored.cells().enumerate() {
                    if row > 0 {
                        out.push(b',');
                    }
                    all_present &= status == Status::Present;
                    value::json::write_encoded(out, bytes.unwrap_or_default())?;
                }
                out.extend_from_slice(b"],\"statuses\":[");
                if all_present {
                    if present.is_empty() {
                        separated(&mut present, std::iter::repeat_n("PRESENT", rows), quote);
                    }
                    out.extend_from_slice(&present);
                } else {
                    separated(out, stored.cells(), |out, (_, status)| quote(out, status.name()));
                }
                out.extend_from_slice(b"],\"event_timestamps\":[");
                out.extend_from_slice(times.of_batch(stored.batch, |out| {
                    write_times(out, stored.event_times());
                }));
                out.extend_from_slice(b"]}");
            }
        }
    }
    out.extend_from_slice(b"],\"metadata\":{\"feature_names\":[");
    for name in response.key_names() {
        text(out, name);
        out.push(b',');
    }
    let names = written.names.get_or_init(|| {
        let mut names = Vec::new();
        separated(&mut names, response.feature_names(), text);
        names.into()
    });
    if names.is_empty() && out.last() == Some(&b',') {
        out.pop();
    }
    out.extend_from_slice(names);
    out.push(b']');
    if let Some(versions) = response.view_versions() {
        let versions = versions.iter().map(|(name, version)| (name.as_str(), *version));
        write_versions(out, versions);
    }
    out.extend_from_slice(b"}}");
    let row_bytes = (out.len() - start).div_ceil(rows.max(1));
    written.row_bytes.store(row_bytes, Ordering::Relaxed);
    Ok(())
}

/// Appends an answer that was made as a message.
pub fn write_message(out: &mut Vec<u8>, message: &GetOnlineFeaturesResponse) {
    out.extend_from_slice(b"{\"results\":[");
    separated(out, message.results.iter(), |out, column| {
        out.extend_from_slice(b"{\"values\":[");
        separated(out, column.values.iter(), |out, value| {
            value::json::write_json(out, value);
        });
        out.extend_from_slice(b"],\"statuses\":[");
        separated(out, column.statuses.iter(), |out, status| {
            let status = FieldStatus::try_from(*status).unwrap_or_default();
            quote(out, status.as_str_name());
        });
        out.extend_from_slice(b"],\"event_timestamps\":[");
        separated(out, column.event_timestamps.iter(), |out, time| {
            write_time(out, time.seconds * 1_000_000 + i64::from(time.nanos) / 1000);
        });
        out.extend_from_slice(b"]}");
    });
    let metadata = message.metadata.as_ref();
    let names = metadata.and_then(|metadata| metadata.feature_names.as_ref());
    out.extend_from_slice(b"],\"metadata\":{\"feature_names\":[");
    separated(out, names.iter().flat_map(|names| &names.val), |out, name| {
        text(out, name)
    });
    out.push(b']');
    let versions = metadata.map(|metadata| metadata.feature_view_metadata.as_slice());
    if let Some(versions) = versions.filter(|versions| !versions.is_empty()) {
        let versions = versions.iter().map(|view| {
            (
                view.name.as_str(),
                u32::try_from(view.version).unwrap_or_default(),
            )
        });
        write_versions(out, versions);
    }
    out.extend_from_slice(b"}}");
}

fn write_versions<'a>(out: &mut Vec<u8>, versions: impl Iterator<Item = (&'a str, u32)>) {
    out.extend_from_slice(b",\"feature_view_metadata\":[");
    separated(out, versions, |out, (name, version)| {
        out.extend_from_slice(b"{\"name\":");
        text(out, name);
        if version > 0 {
            // Writing into a Vec cannot fail.
            let _ = write!(out, ",\"version\":{version}");
        }
        out.push(b'}');
    });
    out.push(b']');
}

/// The event times of a batch as JSON, made once for all its columns.
#[derive(Default)]
struct Times {
    rendered: Vec<Option<Vec<u8>>>,
}

impl Times {
    fn of_batch(&mut self, batch: usize, render: impl FnOnce(&mut Vec<u8>)) -> &[u8] {
        if self.rendered.len() <= batch {
            self.rendered.resize(batch + 1, None);
        }
        self.rendered[batch].get_or_insert_with(|| {
            let mut out = Vec::new();
            render(&mut out);
            out
        })
    }
}

/// Everything after the values of a column that is present and timeless throughout.
fn write_plain_tail(out: &mut Vec<u8>, rows: usize) {
    out.extend_from_slice(b"],\"statuses\":[");
    separated(out, std::iter::repeat_n("PRESENT", rows), quote);
    out.extend_from_slice(b"],\"event_timestamps\":[");
    separated(out, std::iter::repeat_n(EPOCH, rows), quote);
    out.extend_from_slice(b"]}");
}

fn separated<T>(out: &mut Vec<u8>, items: impl Iterator<Item = T>, mut write: impl FnMut(&mut Vec<u8>, T)) {
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(out, item);
    }
}

/// A text that needs no escaping.
fn quote(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

fn text(out: &mut Vec<u8>, text: &str) {
    let start = out.len();
    if serde_json::to_writer(&mut *out, text).is_err() {
        out.truncate(start);
        out.extend_from_slice(b"\"\"");
    }
}

/// The event times of a column. Rows are mostly written many at a time, so many have the same one.
fn write_times(out: &mut Vec<u8>, times: impl Iterator<Item = Option<i64>>) {
    let mut last: Option<(Option<i64>, Range<usize>)> = None;
    separated(out, times, |out, time| match &last {
        Some((known, text)) if *known == time => out.extend_from_within(text.clone()),
        _ => {
            let start = out.len();
            match time {
                Some(micros) => write_time(out, micros),
                None => quote(out, EPOCH),
            }
            last = Some((time, start..out.len()));
        }
    });
}

/// A time as protobuf's JSON prints it: UTC with 0, 3 or 6 digits of a second.
fn write_time(out: &mut Vec<u8>, micros: i64) {
    let Some(time) = DateTime::from_timestamp_micros(micros) else {
        quote(out, EPOCH);
        return;
    };
    // Writing into a Vec cannot fail.
    let _ = write!(
        out,
        "\"{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
        time.year(),
        time.month(),
        time.day(),
        time.hour(),
        time.minute(),
        time.second()
    );
    let fraction = micros.rem_euclid(1_000_000);
    let _ = match (fraction, fraction % 1000) {
        (0, _) => Ok(()),
        (_, 0) => write!(out, ".{:03}", fraction / 1000),
        _ => write!(out, ".{fraction:06}"),
    };
    out.extend_from_slice(b"Z\"");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(micros: i64) -> String {
        let mut out = Vec::new();
        write_time(&mut out, micros);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn times_have_as_many_digits_as_they_need() {
        assert_eq!(time(0), "\"1970-01-01T00:00:00Z\"");
        assert_eq!(time(1_795_255_200_123_456), "\"2026-11-21T10:00:00.123456Z\"");
        assert_eq!(time(1_795_255_200_120_000), "\"2026-11-21T10:00:00.120Z\"");
        assert_eq!(time(-1), "\"1969-12-31T23:59:59.999999Z\"");
    }
}
