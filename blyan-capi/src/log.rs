//! Owns the way of log messages to a callback: a `tracing` subscriber that holds nothing but it.

#![expect(unsafe_code, reason = "exported symbols and callbacks of the caller")]

use std::cell::Cell;
use std::ffi::c_void;
use std::fmt::{Debug, Write};
use std::sync::{OnceLock, PoisonError, RwLock};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::error::{Failure, blyan_status, edge};
use crate::text::{Text, blyan_str};

/// How much a log message matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum blyan_log_level {
    /// Something failed.
    Error = 1,
    /// Something is not as it should be, and the library goes on.
    Warn = 2,
    /// What happens.
    Info = 3,
    /// What happens in detail.
    Debug = 4,
    /// Everything.
    Trace = 5,
}

/// Hears log messages, from any thread and from several at once. `level` is a `blyan_log_level`,
/// `target` the part of the library; both texts are gone when it returns.
pub type blyan_log_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, level: i32, target: blyan_str, message: blyan_str)>;

struct Sink {
    callback: unsafe extern "C" fn(*mut c_void, i32, blyan_str, blyan_str),
    user: *mut c_void,
    level: i32,
}

// SAFETY: the header says that the callback is called from any thread, with its user pointer.
unsafe impl Send for Sink {}
// SAFETY: as above, from several at once.
unsafe impl Sync for Sink {}

static SINK: RwLock<Option<Sink>> = RwLock::new(None);

thread_local! {
    /// Whether this thread is in the callback.
    static TELLING: Cell<bool> = const { Cell::new(false) };
}

/// Sets the callback that hears messages up to a level, a `blyan_log_level`; NULL ends it, and nothing is
/// heard then, as from the start. When this returns, the callback before is not running any more and is
/// not called again. The callback may not call this.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_set_log_callback(
    callback: blyan_log_fn,
    user: *mut c_void,
    level: i32,
) -> blyan_status {
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    edge(|| {
        if TELLING.get() {
            return Err(Failure::busy("log callback"));
        }
        let sink = match callback {
            None => None,
            Some(_) if !(1..=5).contains(&level) => {
                return Err(Failure::argument(format!("level {level} is none: expected a blyan_log_level")));
            }
            Some(callback) => Some(Sink { callback, user, level }),
        };
        if !INSTALLED.get_or_init(|| tracing::subscriber::set_global_default(Callback).is_ok()) {
            // Only a Rust program that links this crate can have done that.
            return Err(Failure::new(blyan_status::Busy, "the program has a tracing subscriber already"));
        }
        *SINK.write().unwrap_or_else(PoisonError::into_inner) = sink;
        tracing::callsite::rebuild_interest_cache();
        Ok(())
    })
}

fn number(level: &Level) -> i32 {
    match *level {
        Level::ERROR => 1,
        Level::WARN => 2,
        Level::INFO => 3,
        Level::DEBUG => 4,
        Level::TRACE => 5,
    }
}

/// Hands events to the callback; spans are nothing to it.
struct Callback;

impl Subscriber for Callback {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // A message about telling a message would never end.
        if !metadata.is_event() || TELLING.get() {
            return false;
        }
        let sink = SINK.read().unwrap_or_else(PoisonError::into_inner);
        sink.as_ref().is_some_and(|sink| number(metadata.level()) <= sink.level)
    }

    fn register_callsite(&self, _: &'static Metadata<'static>) -> tracing::subscriber::Interest {
        // The level changes with the callback.
        tracing::subscriber::Interest::sometimes()
    }

    fn event(&self, event: &Event<'_>) {
        let mut message = Message::default();
        event.record(&mut message);
        let (target, text) = (Text::new(event.metadata().target()), message.into_text());
        let sink = SINK.read().unwrap_or_else(PoisonError::into_inner);
        let Some(sink) = sink.as_ref() else { return };
        TELLING.set(true);
        let level = number(event.metadata().level());
        // SAFETY: whoever set it promised that it can be called until it is replaced, which waits for
        // this lock.
        unsafe { (sink.callback)(sink.user, level, target.view(), text.view()) };
        TELLING.set(false);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// An event as one line: its message, then its other fields.
#[derive(Default)]
struct Message {
    message: String,
    fields: String,
}

impl Message {
    fn into_text(self) -> Text {
        Text::new(self.message + &self.fields)
    }
}

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
