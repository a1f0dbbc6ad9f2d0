//! What commands print: plain text, tables, YAML and JSON on standard output, notes on standard error. A
//! reader that went away (`| head`) is no error.

use std::{fmt, io::Write as _};

use clap::ValueEnum;
use serde::Serialize as _;
use serde_json::Value as Json;

use crate::error::{Error, Result};

/// How objects are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Table,
    Yaml,
    Json,
}

/// One line of the answer.
pub(super) fn line(text: fmt::Arguments<'_>) {
    let _reader_gone = writeln!(std::io::stdout(), "{text}");
}

/// One line about the answer, for people.
pub(super) fn note(text: fmt::Arguments<'_>) {
    let _reader_gone = writeln!(std::io::stderr(), "{text}");
}

/// JSON with each level indented by so many spaces.
pub(super) fn json(value: &Json, indent: usize) -> Result<()> {
    let failed = |error: &dyn fmt::Display| Error::internal(format!("the answer has no JSON form: {error}"));
    let spaces = " ".repeat(indent);
    let formatter = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
    let mut bytes = Vec::new();
    value
        .serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter))
        .map_err(|error| failed(&error))?;
    let text = String::from_utf8(bytes).map_err(|error| failed(&error))?;
    line(format_args!("{text}"));
    Ok(())
}

/// YAML that reads back as the same value, also by readers of YAML 1.1.
pub(super) fn yaml(value: &Json) -> Result<()> {
    let text = serde_saphyr::to_string(value)
        .map_err(|error| Error::internal(format!("the answer has no YAML form: {error}")))?;
    line(format_args!("{}", text.trim_end()));
    Ok(())
}

/// Columns under their headers, laid out as Feast's lists (the `plain` style of Python's tabulate): a
/// header is at least two spaces narrower than its column, and a cell may have several lines.
pub(super) fn table(headers: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = headers.iter().map(|header| header.chars().count() + 2).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell
                .lines()
                .map(|line| line.chars().count())
                .fold(*width, usize::max);
        }
    }
    print_row(headers, &widths);
    for row in rows {
        print_row(row, &widths);
    }
}

fn print_row<T: AsRef<str>>(cells: &[T], widths: &[usize]) {
    let height = cells
        .iter()
        .map(|cell| cell.as_ref().lines().count())
        .max()
        .unwrap_or(0);
    for number in 0..height.max(1) {
        let padded: Vec<String> = cells
            .iter()
            .zip(widths)
            .map(|(cell, width)| {
                format!(
                    "{:<width$}",
                    cell.as_ref().lines().nth(number).unwrap_or_default()
                )
            })
            .collect();
        line(format_args!("{}", padded.join("  ").trim_end()));
    }
}

/// One column in a frame (tabulate's `grid` style).
pub(super) fn grid(header: &str, cells: &[String]) {
    let width = cells
        .iter()
        .map(|cell| cell.chars().count())
        .fold(header.chars().count() + 2, usize::max);
    let rule = |fill: &str| line(format_args!("+{}+", fill.repeat(width + 2)));
    rule("-");
    line(format_args!("| {header:<width$} |"));
    rule("=");
    for cell in cells {
        line(format_args!("| {cell:<width$} |"));
        rule("-");
    }
}
