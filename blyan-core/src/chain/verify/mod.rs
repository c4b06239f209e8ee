//! Owns verification: every block against its name, every entry of the index against the blocks,
//! every payload against its hash. It goes on after each bad block.

mod audit;
#[cfg(test)]
mod forgery_tests;
mod payloads;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, Thread};

use super::error::{ChainError, Damage};
use super::{Chain, tables};
use crate::hash::BlockHash;
use audit::Audit;

/// What to verify, and whom to tell.
#[derive(Clone, Copy, Default)]
pub struct VerifyOptions<'a> {
    /// Whether to read every payload file, on all cores, or only the index.
    pub full: bool,
    /// Called now and then, on the thread that verifies: it may use the chain, and the rayon pool, itself.
    pub progress: Option<&'a (dyn Fn(VerifyProgress) + Sync)>,
    /// Set to stop; the verification then ends with [`ChainError::Cancelled`].
    pub cancel: Option<&'a AtomicBool>,
}

impl VerifyOptions<'_> {
    /// The index alone: headers, parents, signatures, small payloads, every table.
    pub fn headers() -> Self {
        Self::default()
    }

    /// Everything, payload files included.
    pub fn full() -> Self {
        Self { full: true, ..Self::default() }
    }
}

impl fmt::Debug for VerifyOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyOptions").field("full", &self.full).finish_non_exhaustive()
    }
}

/// How far a verification is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VerifyProgress {
    /// Blocks whose headers were verified.
    pub blocks: u64,
    /// Blocks in the chain.
    pub total_blocks: u64,
    /// Bytes of payload files hashed.
    pub payload_bytes: u64,
    /// Bytes of payload files to hash.
    pub total_payload_bytes: u64,
}

/// A block that is not what was appended.
#[derive(Debug)]
pub struct BadBlock {
    /// The block; all zeros for an entry of the index that belongs to none.
    pub block: BlockHash,
    /// Its name, where its header can be read.
    pub name: Option<String>,
    /// What is wrong with it.
    pub reason: Damage,
}

impl fmt::Display for BadBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.as_deref().unwrap_or("unknown name");
        write!(f, "block {} ({name}): {}", self.block, self.reason)
    }
}

/// What a verification found.
#[derive(Debug, Default)]
#[must_use]
pub struct VerifyReport {
    /// Blocks whose headers are intact.
    pub blocks: u64,
    /// Bytes of payload files hashed, each file once.
    pub payload_bytes: u64,
    /// Blocks whose payload file was collected, by hash: it is missing on purpose. Told by a full
    /// verification only.
    pub collected: Vec<BlockHash>,
    /// Every bad block and reason, by block; one block may be bad in several ways.
    pub bad: Vec<BadBlock>,
}

impl VerifyReport {
    /// Whether everything is as it was appended.
    pub fn is_ok(&self) -> bool {
        self.bad.is_empty()
    }
}

/// Counts on whichever thread does the work, and hears of cancellation there; tells progress on the thread that
/// verifies alone. A callback that waits for the pool would otherwise hold one of its threads meanwhile, and a
/// thread of the pool that waits may be given other work of the same verification.
struct Watch<'a> {
    options: &'a VerifyOptions<'a>,
    caller: Thread,
    /// Whether the callback runs: not again from within.
    telling: AtomicBool,
    /// Set when the callback panicked.
    given_up: AtomicBool,
    blocks: AtomicU64,
    total_blocks: AtomicU64,
    payload_bytes: AtomicU64,
    total_payload_bytes: AtomicU64,
}

impl<'a> Watch<'a> {
    fn new(options: &'a VerifyOptions<'a>) -> Self {
        Self {
            options,
            caller: thread::current(),
            telling: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
            blocks: AtomicU64::new(0),
            total_blocks: AtomicU64::new(0),
            payload_bytes: AtomicU64::new(0),
            total_payload_bytes: AtomicU64::new(0),
        }
    }

    fn now(&self) -> VerifyProgress {
        VerifyProgress {
            blocks: self.blocks.load(Ordering::Relaxed),
            total_blocks: self.total_blocks.load(Ordering::Relaxed),
            payload_bytes: self.payload_bytes.load(Ordering::Relaxed),
            total_payload_bytes: self.total_payload_bytes.load(Ordering::Relaxed),
        }
    }

    /// Tells progress, or lets the caller's thread know that there is some.
    ///
    /// # Errors
    ///
    /// [`ChainError::Cancelled`] once the caller asked for it.
    fn step(&self) -> Result<(), ChainError> {
        let cancelled = self.options.cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed));
        if cancelled || self.given_up.load(Ordering::Relaxed) {
            return Err(ChainError::Cancelled);
        }
        let Some(progress) = self.options.progress else { return Ok(()) };
        if thread::current().id() != self.caller.id() {
            self.caller.unpark();
        } else if !self.telling.swap(true, Ordering::Relaxed) {
            let mut call = Call { watch: self, returned: false };
            progress(self.now());
            call.returned = true;
        }
        Ok(())
    }

    /// Does work on the current rayon pool, while this thread tells how far it is.
    fn tell_during<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, ChainError> + Send,
    ) -> Result<T, ChainError> {
        // A thread of the pool does its part of the work, and tells in between.
        if self.options.progress.is_none() || rayon::current_thread_index().is_some() {
            return work();
        }
        let ended = AtomicBool::new(false);
        let mut result = Err(ChainError::Cancelled);
        rayon::in_place_scope(|scope| {
            let (result, ended) = (&mut result, &ended);
            scope.spawn(move |_| {
                let _end = End { caller: &self.caller, ended };
                *result = work();
            });
            while !ended.load(Ordering::Acquire) {
                thread::park();
                // The work hears of cancellation itself.
                let _ = self.step();
            }
        });
        result
    }
}

/// A call of the callback, which may panic.
struct Call<'w, 'a> {
    watch: &'w Watch<'a>,
    returned: bool,
}

impl Drop for Call<'_, '_> {
    fn drop(&mut self) {
        self.watch.telling.store(false, Ordering::Relaxed);
        self.watch.given_up.fetch_or(!self.returned, Ordering::Relaxed);
    }
}

/// Wakes the caller when the work has ended, be it by a panic, which rayon carries over.
struct End<'w> {
    caller: &'w Thread,
    ended: &'w AtomicBool,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        self.caller.unpark();
    }
}

impl Chain {
    /// Verifies the chain as of its last commit, going on after each bad block.
    ///
    /// Headers only reads the index: every header is hashed, every parent looked up, every
    /// signature checked, every table compared with the headers. Full verification also hashes
    /// every payload file, each once, on all threads of the current rayon pool; what is not in the page cache it
    /// reads without mapping it, so that a medium that fails to is an error, not a signal.
    ///
    /// # Errors
    ///
    /// [`ChainError::Cancelled`]; [`ChainError::Storage`] if no block of the index can be read.
    pub fn verify(&self, options: &VerifyOptions<'_>) -> Result<VerifyReport, ChainError> {
        let reader = self.reader()?;
        match reader.read(tables::version)? {
            Some(version) if tables::INDEX_VERSIONS.contains(&version) => {}
            found => return Err(ChainError::IndexVersion { found: found.unwrap_or(0) }),
        }
        let watch = Watch::new(options);
        let mut audit = Audit::new(&reader, &watch);
        audit.read_headers()?;
        audit.check_parents();
        audit.check_tables()?;
        audit.check_signatures()?;
        audit.check_collected()?;
        if options.full {
            audit.check_payload_files(self)?;
        }
        watch.step()?;
        Ok(audit.into_report())
    }
}
