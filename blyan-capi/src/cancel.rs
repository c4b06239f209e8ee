//! Owns stopping: a flag that another thread sets, and progress callbacks that ask to stop.

#![expect(unsafe_code, reason = "exported symbols and callbacks of the caller")]

use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::edge::{free, new_handle, read_optional};
use crate::error::{Failure, Outcome, blyan_status, edge};

/// A flag that ends calls which were given it, from any thread.
pub struct blyan_cancel(Arc<AtomicBool>);

/// A flag that is not set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_cancel_new(cancel: *mut *mut blyan_cancel) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        unsafe { new_handle(cancel, "cancel") }?.set(blyan_cancel(Arc::default()));
        Ok(())
    })
}

/// Sets the flag, or clears it for another use. Only stores one value: a signal handler may call it.
/// Nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_cancel_set(cancel: *const blyan_cancel, cancelled: bool) {
    // SAFETY: NULL or a handle.
    if let Some(cancel) = unsafe { cancel.as_ref() } {
        cancel.0.store(cancelled, Ordering::Relaxed);
    }
}

/// Whether the flag is set; false for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_cancel_is_set(cancel: *const blyan_cancel) -> bool {
    // SAFETY: NULL or a handle.
    unsafe { cancel.as_ref() }.is_some_and(|cancel| cancel.0.load(Ordering::Relaxed))
}

/// Frees a flag, which calls that have it keep until they end; nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_cancel_free(cancel: *mut blyan_cancel) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(cancel) }
}

/// The flag of an option.
///
/// # Safety
///
/// NULL or a handle.
pub(crate) unsafe fn flag(cancel: *const blyan_cancel) -> Outcome<Option<Arc<AtomicBool>>> {
    // SAFETY: the caller's promise.
    Ok(unsafe { read_optional(cancel, "cancel") }?.map(|cancel| Arc::clone(&cancel.0)))
}

/// How far a call is.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_progress {
    /// Blocks done, slots compared, or tokens predicted; 0 for an export.
    pub blocks: u64,
    /// Blocks to do, slots to compare, or tokens to predict; 0 for an export.
    pub total_blocks: u64,
    /// Bytes of payloads done; 0 for a comparison.
    pub bytes: u64,
    /// Bytes of payloads to do; 0 for a bundle, which is not counted beforehand, and for a comparison.
    pub total_bytes: u64,
}

/// Hears how far a call is. Returns 0 to go on; anything else ends the call with
/// `BLYAN_STATUS_STOPPED`. What `progress` points to is gone when it returns.
///
/// It may be called from other threads than the one that made the call, but never twice at once.
pub type blyan_progress_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, progress: *const blyan_progress) -> i32>;

/// A progress callback, what it wants to be given, and the flag that it stops the call with.
pub(crate) struct Watch<P> {
    callback: Option<unsafe extern "C" fn(user: *mut c_void, progress: *const P) -> i32>,
    user: *mut c_void,
    cancel: Arc<AtomicBool>,
    stopped: AtomicBool,
    turn: Mutex<()>,
}

// SAFETY: the header says that the callback may be called from any thread, with its user pointer; the
// rest is Sync.
unsafe impl<P> Sync for Watch<P> {}

impl<P> Watch<P> {
    /// # Safety
    ///
    /// `cancel` is NULL or a handle; `callback` can be called with `user` until the call ends.
    pub(crate) unsafe fn new(
        callback: Option<unsafe extern "C" fn(user: *mut c_void, progress: *const P) -> i32>,
        user: *mut c_void,
        cancel: *const blyan_cancel,
    ) -> Outcome<Self> {
        // SAFETY: the caller's promise.
        let cancel = unsafe { flag(cancel) }?.unwrap_or_default();
        Ok(Self { callback, user, cancel, stopped: AtomicBool::new(false), turn: Mutex::new(()) })
    }

    /// What the core looks at.
    pub(crate) fn cancel(&self) -> &AtomicBool {
        &self.cancel
    }

    /// Tells the callback; does nothing once it has asked to stop.
    pub(crate) fn tell(&self, progress: P) {
        let Some(callback) = self.callback else { return };
        // It guards nothing but the callback's turn.
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: promised when this was made.
        if !self.stopped.load(Ordering::Relaxed) && unsafe { callback(self.user, &raw const progress) } != 0 {
            self.stopped.store(true, Ordering::Relaxed);
            self.cancel.store(true, Ordering::Relaxed);
        }
    }

    /// The error of a cancelled call is that of the callback, if that is what ended it.
    pub(crate) fn blame<E: Into<Failure>>(&self, error: E) -> Failure {
        if self.stopped.load(Ordering::Relaxed) { Failure::stopped() } else { error.into() }
    }

    /// Whether the callback asked to stop, be it when everything was done.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}
