//! Owns collecting payload files that nothing retained needs.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use std::ptr;

use blyan_core::chain::{CollectOptions, CollectReport};

use crate::cancel::{blyan_cancel, flag};
use crate::chain::blyan_chain;
use crate::edge::{Options, describe, free, init_options, new_handle, options, out, read};
use crate::error::{blyan_status, edge};
use crate::hash::{at, blyan_hash, optional_block_hashes};

/// What to collect. Fill it with `blyan_collect_options_init` first.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_collect_options {
    /// `sizeof(blyan_collect_options)`.
    pub size: usize,
    /// Blocks whose payloads are retained, with those of all blocks that they depend on; by default NULL:
    /// every release, and every model but those that one with all of its weights follows, directly or over others.
    pub roots: *const blyan_hash,
    /// Number of these blocks.
    pub roots_len: usize,
    /// Not 0: delete nothing, only report what would be. By default 0.
    pub dry_run: i32,
    /// 0.
    pub reserved: i32,
    /// Ends it when set, before anything is deleted; may be NULL.
    pub cancel: *const blyan_cancel,
}

// SAFETY: numbers and pointers alone, the size first.
unsafe impl Options for blyan_collect_options {
    fn defaults(size: usize) -> Self {
        Self { size, roots: ptr::null(), roots_len: 0, dry_run: 0, reserved: 0, cancel: ptr::null() }
    }
}

/// Fills options with their defaults; `size` is `sizeof *options`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_collect_options_init(
    options: *mut blyan_collect_options,
    size: usize,
) -> blyan_status {
    // SAFETY: the caller's pointer, as the header asks.
    edge(|| unsafe { init_options(options, size) })
}

/// What a collection deleted, or would delete.
pub struct blyan_collect_report(CollectReport);

/// What a collection deleted, or would delete, in numbers.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_collect_info {
    /// Number of blocks of weights whose payload goes; they stay in the chain, and
    /// `blyan_collect_report_block` names them.
    pub blocks_len: usize,
    /// Payload files of theirs.
    pub payloads: u64,
    /// Bytes of these files.
    pub payload_bytes: u64,
    /// Files that no block names: what a crash left behind.
    pub stray_payloads: u64,
    /// Bytes of these files.
    pub stray_bytes: u64,
    /// Files that stay.
    pub retained_payloads: u64,
    /// Bytes of the files that stay.
    pub retained_bytes: u64,
}

/// Deletes payload files that no block names, and those of weights that nothing retained needs; `options`
/// may be NULL. Weights that are in no model and no release yet, such as candidates, are not retained unless
/// the roots name them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_chain_collect(
    chain: *const blyan_chain,
    options: *const blyan_collect_options,
    report: *mut *mut blyan_collect_report,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (report, chain, asked) = unsafe {
            (new_handle(report, "report")?, read(chain, "chain")?, self::options(options, "options")?)
        };
        // SAFETY: as above.
        let (roots, cancel) =
            unsafe { (optional_block_hashes(asked.roots, asked.roots_len, "roots")?, flag(asked.cancel)?) };
        let dry_run = asked.dry_run != 0;
        let collect = CollectOptions { roots: roots.as_deref(), dry_run, cancel: cancel.as_deref() };
        let chain = if dry_run { &chain.chain } else { chain.to_write()? };
        report.set(blyan_collect_report(chain.collect(&collect)?));
        Ok(())
    })
}

/// What a collection deleted, or would delete, in numbers; `size` is `sizeof *info`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_collect_report_describe(
    report: *const blyan_collect_report,
    info: *mut blyan_collect_info,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        let report = &unsafe { read(report, "report") }?.0;
        let description = blyan_collect_info {
            blocks_len: report.blocks.len(),
            payloads: report.payloads,
            payload_bytes: report.payload_bytes,
            stray_payloads: report.stray_payloads,
            stray_bytes: report.stray_bytes,
            retained_payloads: report.retained_payloads,
            retained_bytes: report.retained_bytes,
        };
        // SAFETY: as above.
        unsafe { describe(info, size, "info", description) }
    })
}

/// One of the blocks whose payload goes, by hash.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_collect_report_block(
    report: *const blyan_collect_report,
    index: usize,
    block: *mut blyan_hash,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (report, block) = unsafe { (read(report, "report")?, out(block, "block")?) };
        block.set((*at(&report.0.blocks, index)?).into());
        Ok(())
    })
}

/// Frees a report; nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_collect_report_free(report: *mut blyan_collect_report) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(report) }
}
