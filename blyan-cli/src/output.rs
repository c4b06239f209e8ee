//! Owns what is printed where: text and JSON on one stream, progress on the other.

use std::io::{self, Write};
use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::error::CliError;

/// Where a command prints.
pub struct Streams<'a> {
    /// What was asked for.
    pub out: &'a mut dyn Write,
    /// Errors.
    pub err: &'a mut dyn Write,
    /// Whether somebody watches the process's standard error: only then are bars drawn there.
    pub terminal: bool,
}

impl Streams<'_> {
    pub(crate) fn print(&mut self, text: &str) -> Result<(), CliError> {
        self.out.write_all(text.as_bytes()).map_err(output_error)
    }

    pub(crate) fn line(&mut self, text: impl AsRef<str>) -> Result<(), CliError> {
        self.print(text.as_ref())?;
        self.print("\n")
    }

    pub(crate) fn flush(&mut self) -> Result<(), CliError> {
        self.out.flush().map_err(output_error)
    }

    pub(crate) fn json(&mut self, document: &impl Serialize) -> Result<(), CliError> {
        let text = serde_json::to_string_pretty(document)
            .map_err(|error| CliError::Output(io::Error::other(error)))?;
        self.line(text)
    }
}

pub(crate) fn output_error(error: io::Error) -> CliError {
    match error.kind() {
        io::ErrorKind::BrokenPipe => CliError::BrokenPipe,
        _ => CliError::Output(error),
    }
}

/// A bar that shows bytes, drawn on a terminal only.
pub(crate) struct Progress {
    bar: Mutex<ProgressBar>,
}

impl Progress {
    pub(crate) fn new(terminal: bool) -> Self {
        let bar = if terminal { ProgressBar::new(0) } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {msg}") {
            bar.set_style(style);
        }
        Self { bar: Mutex::new(bar) }
    }

    pub(crate) fn set(&self, done: u64, total: u64, message: impl FnOnce() -> String) {
        // Called from any thread; a drawing that is under way may be left out.
        if let Ok(bar) = self.bar.try_lock()
            && !bar.is_hidden()
        {
            bar.set_length(total);
            bar.set_position(done);
            bar.set_message(message());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Ok(bar) = self.bar.get_mut() {
            bar.finish_and_clear();
        }
    }
}

/// Columns of text, as wide as their widest cell; the last is not padded. Cells of numbers stand right.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>], right: &[usize]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(head.get(column).map(|cell| cell.chars().count())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            let padded = match right.contains(&column) {
                true => format!("{cell:>width$}"),
                false => format!("{cell:<width$}"),
            };
            line.push_str(&padded);
            line.push_str("  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
