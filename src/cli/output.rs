//! What commands print: plain text and tables on standard output, notes on standard error. A reader that
//! went away (`| head`) is no error.

use std::{fmt, io::Write as _};

/// One line of the answer.
pub(super) fn line(text: fmt::Arguments<'_>) {
    let _reader_gone = writeln!(std::io::stdout(), "{text}");
}

/// One line about the answer, for people.
pub(super) fn note(text: fmt::Arguments<'_>) {
    let _reader_gone = writeln!(std::io::stderr(), "{text}");
}

/// Columns two spaces apart under upper-case headers, as Feast's lists.
pub(super) fn table(headers: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = headers.iter().map(|header| header.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let render = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    line(format_args!("{}", render(&mut headers.iter().copied())));
    for row in rows {
        line(format_args!("{}", render(&mut row.iter().map(String::as_str))));
    }
}
