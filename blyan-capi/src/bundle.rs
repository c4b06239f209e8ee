//! Owns bundles: blocks of a chain as one file, and taking such a file in.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use std::ffi::{c_char, c_void};
use std::ptr;

use blyan_core::chain::{BundleOptions, BundleProgress, UnbundleOptions};

use crate::cancel::{Watch, blyan_cancel, blyan_progress, blyan_progress_fn};
use crate::chain::blyan_chain;
use crate::edge::{Options, check_room, describe, init_options, options, path, read};
use crate::error::{blyan_status, edge};
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
    /// Bytes of the file.
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
        let (chain, file, asked) = unsafe {
            (read(chain, "chain")?, path(file, file_len, "file")?, self::options(options, "options")?)
        };
        // SAFETY: as above.
        let (watch, blocks, known) = unsafe {
            (
                Watch::new(asked.on_progress, asked.user, asked.cancel)?,
                optional_block_hashes(asked.blocks, asked.blocks_len, "blocks")?,
                block_hashes(asked.known, asked.known_len, "known")?,
            )
        };
        let tell = |progress: BundleProgress| watch.tell(told(progress));
        let bundle = BundleOptions {
            blocks,
            ancestors: asked.ancestors != 0,
            known,
            progress: Some(&tell),
            cancel: Some(watch.cancel()),
        };
        let written = chain.chain.bundle_file(file, &bundle).map_err(|error| watch.blame(error))?;
        let description = blyan_bundle_info {
            blocks: written.blocks,
            payloads: written.payloads,
            signatures: written.signatures,
            bytes: written.bytes,
        };
        // SAFETY: as above.
        unsafe { describe(info, size, "info", description) }
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
        let (chain, file, asked) = unsafe {
            (read(chain, "chain")?, path(file, file_len, "file")?, self::options(options, "options")?)
        };
        // SAFETY: as above.
        let watch = unsafe { Watch::new(asked.on_progress, asked.user, asked.cancel) }?;
        let tell = |progress: BundleProgress| watch.tell(told(progress));
        let unbundle = UnbundleOptions {
            max_payload_bytes: asked.max_payload_bytes,
            progress: Some(&tell),
            cancel: Some(watch.cancel()),
        };
        let taken = chain.to_write()?.unbundle_file(file, &unbundle).map_err(|error| watch.blame(error))?;
        let description = blyan_unbundle_info {
            root: taken.root.into(),
            blocks_new: taken.blocks_new,
            blocks_known: taken.blocks_known,
            signatures_new: taken.signatures_new,
            payload_bytes_new: taken.payload_bytes_new,
        };
        // SAFETY: as above.
        unsafe { describe(info, size, "info", description) }
    })
}
