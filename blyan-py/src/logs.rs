//! Owns the way of the core's `tracing` events to Python's `logging`.
//!
//! An event is written down where it happens, on whatever thread, and handed over by the next call
//! that has the interpreter, or at the program's end. No thread of the core ever waits for the interpreter's
//! lock, so none can hold up a call that waits for the thread.

use std::collections::VecDeque;
use std::fmt::{self, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::door::lock;
use crate::fork::PerProcess;

/// Events kept for an interpreter that does not come for them; later ones are lost.
const MAX_PENDING: usize = 1024;

/// Threads of the core write here without the interpreter, so also while it forks.
static PENDING: PerProcess<Mutex<VecDeque<Entry>>> = PerProcess::new();
/// Whether there may be something to hand over: looked at by every call.
static WAITING: AtomicBool = AtomicBool::new(false);

#[derive(Debug)]
struct Entry {
    /// Name of Python's logger.
    logger: String,
    level: u8,
    message: String,
}

/// Writes down the library's own events.
struct Scribe;

impl Subscriber for Scribe {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target().starts_with("blyan")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let target = event.metadata().target().replace("::", ".");
        let entry = Entry {
            // The crate's name is no matter of Python's.
            logger: target.replacen("blyan_core", "blyan", 1),
            level: match *event.metadata().level() {
                Level::ERROR => 40,
                Level::WARN => 30,
                Level::INFO => 20,
                Level::DEBUG => 10,
                _ => 5,
            },
            message: text.finish(),
        };
        let mut pending = lock(PENDING.get());
        if pending.len() < MAX_PENDING {
            pending.push_back(entry);
            WAITING.store(true, Ordering::Release);
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// An event as text: its message, then its fields.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Text {
    fn finish(self) -> String {
        if self.fields.is_empty() { self.message } else { format!("{} ({})", self.message, self.fields) }
    }
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing into a string does not fail.
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            let comma = if self.fields.is_empty() { "" } else { ", " };
            write!(self.fields, "{comma}{}={value:?}", field.name())
        };
    }
}

/// Begins to write down events; those that no call hands over are handed over as the program ends.
pub(crate) fn listen(module: &Bound<'_, PyModule>) -> PyResult<()> {
    // Another subscriber of this process keeps its place.
    let _ = tracing::subscriber::set_global_default(Scribe);
    // What is imported first ends last: `logging` flushes its handlers after this.
    module.py().import("logging")?;
    module.py().import("atexit")?.call_method1("register", (module.getattr("deliver_logs")?,))?;
    Ok(())
}

/// Hands what was written down to Python's `logging`.
///
/// # Errors
///
/// What came up meanwhile and is no `Exception`, such as `KeyboardInterrupt`: it is the caller's. The next
/// call hands over the rest.
pub(crate) fn deliver(py: Python<'_>) -> PyResult<()> {
    if !WAITING.swap(false, Ordering::AcqRel) {
        return Ok(());
    }
    let mut entries = std::mem::take(&mut *lock(PENDING.get()));
    while let Some(entry) = entries.pop_front() {
        if let Err(error) = log(py, &entry) {
            if !error.is_instance_of::<PyException>(py) {
                put_back(entries);
                return Err(error);
            }
            // A handler that raises must not turn a call that worked into one that failed.
            error.write_unraisable(py, None);
        }
    }
    Ok(())
}

/// Puts events before those that came meanwhile.
fn put_back(mut entries: VecDeque<Entry>) {
    let mut pending = lock(PENDING.get());
    entries.append(&mut pending);
    entries.truncate(MAX_PENDING);
    *pending = entries;
    WAITING.store(true, Ordering::Release);
}

fn log(py: Python<'_>, entry: &Entry) -> PyResult<()> {
    let logger = py.import("logging")?.call_method1("getLogger", (entry.logger.as_str(),))?;
    logger.call_method1("log", (entry.level, "%s", entry.message.as_str()))?;
    Ok(())
}

/// Hands over what was logged since the last call. The end of the program does, too.
#[pyfunction]
pub(crate) fn deliver_logs(py: Python<'_>) -> PyResult<()> {
    deliver(py)
}
