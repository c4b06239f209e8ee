//! Owns bundles: blocks of a chain as one file or stream, and taking such a one in.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use std::ffi::{c_char, c_void};
use std::io::{self, Read, Write};
use std::ptr;

use blyan_core::Chain;
use blyan_core::chain::{
    BundleOptions, BundleProgress, BundleReport, ChainError, UnbundleOptions, UnbundleReport,
};

use crate::cancel::{Watch, blyan_cancel, blyan_progress, blyan_progress_fn};
use crate::chain::blyan_chain;
use crate::edge::{Options, check_room, describe, init_options, options, path, read};
use crate::error::{Failure, Outcome, blyan_status, edge};
use crate::hash::{block_hashes, blyan_hash, optional_block_hashes};

/// What to put into a bundle. Fill it with `blyan_bundle_options_init` first.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_bundle_options {
    /// `sizeof(blyan_bundle_options)`.
    pub size: usize,
    /// The blocks; by default NULL: all of the chain.
    pub blocks: *const blyan_hash,
    /// Number of these blocks.
    pub blocks_len: usize,
    /// Blocks that the other chain has, such as its tips: they, their ancestors and the payloads of these are
    /// left out. Hashes that this chain does not know say nothing.
    pub known: *const blyan_hash,
    /// Number of these blocks.
    pub known_len: usize,
    /// Not 0, as by default: the blocks' ancestors belong to it.
    pub ancestors: i32,
    /// 0.
    pub reserved: i32,
    /// Called after each block; may be NULL.
    pub on_progress: blyan_progress_fn,
    /// Given to `on_progress`.
    pub user: *mut c_void,
    /// Ends it when set; may be NULL. If `on_progress` ends it, this is set, too.
    pub cancel: *const blyan_cancel,
}

// SAFETY: numbers, pointers and an optional function, the size first.
unsafe impl Options for blyan_bundle_options {
    fn defaults(size: usize) -> Self {
        Self {
            size,
            blocks: ptr::null(),
            blocks_len: 0,
            known: ptr::null(),
            known_len: 0,
            ancestors: 1,
            reserved: 0,
            on_progress: None,
            user: ptr::null_mut(),
            cancel: ptr::null(),
        }
    }
}

/// Fills options with their defaults; `size` is `sizeof *options`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_bundle_options_init(
    options: *mut blyan_bundle_options,
    size: usize,
) -> blyan_status {
    // SAFETY: the caller's pointer, as the header asks.
    edge(|| unsafe { init_options(options, size) })
}

/// What a bundle holds.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_bundle_info {
    /// Blocks.
    pub blocks: u64,
    /// Payloads, each once.
    pub payloads: u64,
    /// Signatures.
    pub signatures: u64,
    /// Bytes of the file or stream.
    pub bytes: u64,
}

/// Nobody counts a bundle's payloads beforehand.
fn told(progress: BundleProgress) -> blyan_progress {
    blyan_progress {
        blocks: progress.blocks,
        total_blocks: progress.total_blocks,
        bytes: progress.payload_bytes,
        total_bytes: 0,
    }
}

impl blyan_bundle_info {
    fn new(report: &BundleReport) -> Self {
        Self {
            blocks: report.blocks,
            payloads: report.payloads,
            signatures: report.signatures,
            bytes: report.bytes,
        }
    }
}

/// Makes a bundle as the options say.
///
/// # Safety
///
/// NULL or options whose pointers are valid until the call ends.
unsafe fn bundle(
    options: *const blyan_bundle_options,
    make: impl FnOnce(&BundleOptions<'_>) -> Result<BundleReport, ChainError>,
) -> Outcome<BundleReport> {
    // SAFETY: the caller's promise.
    let asked = unsafe { self::options(options, "options") }?;
    // SAFETY: as above.
    let (watch, blocks, known) = unsafe {
        (
            Watch::new(asked.on_progress, asked.user, asked.cancel)?,
            optional_block_hashes(asked.blocks, asked.blocks_len, "blocks")?,
            block_hashes(asked.known, asked.known_len, "known")?,
        )
    };
    let tell = |progress: BundleProgress| watch.tell(told(progress));
    let ancestors = asked.ancestors != 0;
    let cancel = Some(watch.cancel());
    make(&BundleOptions { blocks, ancestors, known, progress: Some(&tell), cancel })
        .map_err(|error| watch.blame(error))
}

/// Writes blocks with their payloads and signatures into a file, which is there as a whole or not at all;
/// `options` may be NULL, `size` is `sizeof *info`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_chain_bundle_file(
    chain: *const blyan_chain,
    file: *const c_char,
    file_len: usize,
    options: *const blyan_bundle_options,
    info: *mut blyan_bundle_info,
    size: usize,
) -> blyan_status {
    edge(|| {
        check_room(info, size, "info")?;
        // SAFETY: the caller's pointers, as the header asks.
        let (chain, file) = unsafe { (read(chain, "chain")?, path(file, file_len, "file")?) };
        // SAFETY: as above.
        let written = unsafe { bundle(options, |options| chain.chain.bundle_file(file, options)) }?;
        // SAFETY: as above.
        unsafe { describe(info, size, "info", blyan_bundle_info::new(&written)) }
    })
}

/// Takes the next bytes of a stream. Returns 0 to go on; anything else ends the call with
/// `BLYAN_STATUS_STOPPED`. The bytes are gone when it returns.
pub type blyan_write_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, data: *const c_void, len: usize) -> i32>;

/// Gives the next bytes of a stream: puts up to `capacity` of them into `data` and their number into `len`,
/// which is 0 and stays so at the end. Returns 0 to go on; anything else ends the call with
/// `BLYAN_STATUS_STOPPED`.
pub type blyan_read_fn = Option<
    unsafe extern "C" fn(user: *mut c_void, data: *mut c_void, capacity: usize, len: *mut usize) -> i32,
>;

/// A stream of the caller's, whose function is called until it asks to stop, on the thread of the call.
struct Stream<F> {
    function: F,
    user: *mut c_void,
    stopped: bool,
}

impl<F: Copy> Stream<F> {
    fn new(function: Option<F>, user: *mut c_void, name: &str) -> Outcome<Self> {
        let missing = || Failure::new(blyan_status::NullArgument, format!("{name} is NULL"));
        Ok(Self { function: function.ok_or_else(missing)?, user, stopped: false })
    }

    /// Calls the function, unless it asked to stop before.
    fn call(&mut self, call: impl FnOnce(F, *mut c_void) -> i32) -> io::Result<()> {
        self.stopped = self.stopped || call(self.function, self.user) != 0;
        if self.stopped { Err(io::Error::other("the callback asked to stop")) } else { Ok(()) }
    }

    /// What a call came to that used it.
    fn end<T>(&self, done: Outcome<T>) -> Outcome<T> {
        if self.stopped { Err(Failure::stopped()) } else { done }
    }
}

impl Write for Stream<unsafe extern "C" fn(*mut c_void, *const c_void, usize) -> i32> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // SAFETY: the caller's function, with what it wants to be given and bytes that live meanwhile.
        self.call(|write, user| unsafe { write(user, bytes.as_ptr().cast(), bytes.len()) })?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Stream<unsafe extern "C" fn(*mut c_void, *mut c_void, usize, *mut usize) -> i32> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (capacity, mut len) = (buffer.len(), 0);
        // SAFETY: the caller's function, with what it wants to be given and room that is its own meanwhile.
        self.call(|read, user| unsafe { read(user, buffer.as_mut_ptr().cast(), capacity, &raw mut len) })?;
        if len > capacity {
            return Err(io::Error::other(format!("the callback gave {len} bytes where {capacity} fit")));
        }
        Ok(len)
    }
}

/// As `blyan_chain_bundle_file`, into a stream: `write` is called with `user` for each part of it. What was
/// written when the call fails has no end, and no chain takes it in.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_chain_bundle(
    chain: *const blyan_chain,
    write: blyan_write_fn,
    user: *mut c_void,
    options: *const blyan_bundle_options,
    info: *mut blyan_bundle_info,
    size: usize,
) -> blyan_status {
    edge(|| {
        check_room(info, size, "info")?;
        // SAFETY: the caller's pointers, as the header asks.
        let chain = unsafe { read(chain, "chain") }?;
        let mut stream = Stream::new(write, user, "write")?;
        // SAFETY: as above.
        let written = unsafe { bundle(options, |options| chain.chain.bundle(&mut stream, options)) };
        let written = stream.end(written)?;
        // SAFETY: as above.
        unsafe { describe(info, size, "info", blyan_bundle_info::new(&written)) }
    })
}

/// How to take in a bundle. Fill it with `blyan_unbundle_options_init` first.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_unbundle_options {
    /// `sizeof(blyan_unbundle_options)`.
    pub size: usize,
    /// Longest payload that is accepted; one at a time is in memory. By default 16 GiB.
    pub max_payload_bytes: u64,
    /// Called after each block; may be NULL.
    pub on_progress: blyan_progress_fn,
    /// Given to `on_progress`.
    pub user: *mut c_void,
    /// Ends it when set; may be NULL. If `on_progress` ends it, this is set, too.
    pub cancel: *const blyan_cancel,
}

// SAFETY: numbers, pointers and an optional function, the size first.
unsafe impl Options for blyan_unbundle_options {
    fn defaults(size: usize) -> Self {
        Self {
            size,
            max_payload_bytes: UnbundleOptions::default().max_payload_bytes,
            on_progress: None,
            user: ptr::null_mut(),
            cancel: ptr::null(),
        }
    }
}

/// Fills options with their defaults; `size` is `sizeof *options`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_unbundle_options_init(
    options: *mut blyan_unbundle_options,
    size: usize,
) -> blyan_status {
    // SAFETY: the caller's pointer, as the header asks.
    edge(|| unsafe { init_options(options, size) })
}

/// What taking in a bundle did.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_unbundle_info {
    /// Root of the chain afterwards.
    pub root: blyan_hash,
    /// Blocks that the chain did not have.
    pub blocks_new: u64,
    /// Blocks that it had.
    pub blocks_known: u64,
    /// Signatures that it did not have.
    pub signatures_new: u64,
    /// Bytes of payloads that were written: new ones, damaged ones repaired, collected ones back again.
    pub payload_bytes_new: u64,
}

impl blyan_unbundle_info {
    fn new(report: &UnbundleReport) -> Self {
        Self {
            root: report.root.into(),
            blocks_new: report.blocks_new,
            blocks_known: report.blocks_known,
            signatures_new: report.signatures_new,
            payload_bytes_new: report.payload_bytes_new,
        }
    }
}

/// Takes a bundle in as the options say.
///
/// # Safety
///
/// NULL or options whose pointers are valid until the call ends.
unsafe fn unbundle(
    chain: &blyan_chain,
    options: *const blyan_unbundle_options,
    take: impl FnOnce(&Chain, &UnbundleOptions<'_>) -> Result<UnbundleReport, ChainError>,
) -> Outcome<UnbundleReport> {
    // SAFETY: the caller's promise.
    let asked = unsafe { self::options(options, "options") }?;
    // SAFETY: as above.
    let watch = unsafe { Watch::new(asked.on_progress, asked.user, asked.cancel) }?;
    let tell = |progress: BundleProgress| watch.tell(told(progress));
    let options = UnbundleOptions {
        max_payload_bytes: asked.max_payload_bytes,
        progress: Some(&tell),
        cancel: Some(watch.cancel()),
    };
    let (chain, _writing) = (chain.to_write()?, chain.writing());
    take(chain, &options).map_err(|error| watch.blame(error))
}

/// Takes a bundle in as one transaction, after everything in it was checked; nothing is appended if it is
/// refused or stopped. `options` may be NULL, `size` is `sizeof *info`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_chain_unbundle_file(
    chain: *const blyan_chain,
    file: *const c_char,
    file_len: usize,
    options: *const blyan_unbundle_options,
    info: *mut blyan_unbundle_info,
    size: usize,
) -> blyan_status {
    edge(|| {
        check_room(info, size, "info")?;
        // SAFETY: the caller's pointers, as the header asks.
        let (chain, file) = unsafe { (read(chain, "chain")?, path(file, file_len, "file")?) };
        // SAFETY: as above.
        let taken = unsafe { unbundle(chain, options, |chain, options| chain.unbundle_file(file, options)) }?;
        // SAFETY: as above.
        unsafe { describe(info, size, "info", blyan_unbundle_info::new(&taken)) }
    })
}

/// As `blyan_chain_unbundle_file`, from a stream, which is read to its end: `read` is called with `user` for each
/// part of it. A long one is kept in a temporary file meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_chain_unbundle(
    chain: *const blyan_chain,
    read: blyan_read_fn,
    user: *mut c_void,
    options: *const blyan_unbundle_options,
    info: *mut blyan_unbundle_info,
    size: usize,
) -> blyan_status {
    edge(|| {
        check_room(info, size, "info")?;
        // SAFETY: the caller's pointers, as the header asks.
        let chain = unsafe { self::read(chain, "chain") }?;
        let mut stream = Stream::new(read, user, "read")?;
        // SAFETY: as above.
        let taken =
            unsafe { unbundle(chain, options, |chain, options| chain.unbundle(&mut stream, options)) };
        let taken = stream.end(taken)?;
        // SAFETY: as above.
        unsafe { describe(info, size, "info", blyan_unbundle_info::new(&taken)) }
    })
}
