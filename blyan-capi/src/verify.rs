//! Owns verifying a chain and what it finds.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use std::ffi::c_void;
use std::ptr;

use blyan_core::chain::VerifyProgress;
use blyan_core::{BlockHash, VerifyOptions};

use crate::cancel::{Watch, blyan_cancel, blyan_progress, blyan_progress_fn};
use crate::chain::blyan_chain;
use crate::edge::{Options, check_room, describe, free, init_options, new_handle, options, out, read};
use crate::error::{Failure, blyan_status, edge};
use crate::hash::{at, blyan_hash};
use crate::text::{EMPTY, Text, blyan_str};

/// What to verify. Fill it with `blyan_verify_options_init` first.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_verify_options {
    /// `sizeof(blyan_verify_options)`.
    pub size: usize,
    /// Not 0, as by default: payload files, too. 0: the index alone.
    pub full: i32,
    /// 0.
    pub reserved: i32,
    /// Hears how far it is, on whichever thread does the work; may be NULL.
    pub on_progress: blyan_progress_fn,
    /// Given to `on_progress`.
    pub user: *mut c_void,
    /// Ends it when set; may be NULL. If `on_progress` ends it, this is set, too.
    pub cancel: *const blyan_cancel,
}

// SAFETY: numbers, pointers and an optional function, the size first.
unsafe impl Options for blyan_verify_options {
    fn defaults(size: usize) -> Self {
        Self { size, full: 1, reserved: 0, on_progress: None, user: ptr::null_mut(), cancel: ptr::null() }
    }
}

/// Fills options with their defaults; `size` is `sizeof *options`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_verify_options_init(
    options: *mut blyan_verify_options,
    size: usize,
) -> blyan_status {
    // SAFETY: the caller's pointer, as the header asks.
    edge(|| unsafe { init_options(options, size) })
}

/// What a verification found.
pub struct blyan_verify_report {
    blocks: u64,
    payload_bytes: u64,
    bad: Vec<Bad>,
    collected: Vec<BlockHash>,
}

struct Bad {
    block: blyan_hash,
    name: Option<Text>,
    reason: Text,
}

/// What a verification found, in numbers.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_verify_info {
    /// Blocks whose headers are intact.
    pub blocks: u64,
    /// Bytes of payload files hashed, each file once.
    pub payload_bytes: u64,
    /// Number of things that are bad, 0 if the chain is sound; `blyan_verify_report_bad` names them.
    pub bad_len: usize,
    /// Number of blocks whose payload file was collected: it is missing on purpose. Told by a full
    /// verification only; `blyan_verify_report_collected` names them.
    pub collected_len: usize,
}

/// A block that is not what was appended. Texts live as long as the report.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_bad_block {
    /// The block; zeros for an entry of the index that belongs to none.
    pub block: blyan_hash,
    /// Its name; empty where its header cannot be read.
    pub name: blyan_str,
    /// What is wrong with it.
    pub reason: blyan_str,
}

/// Verifies a chain, going on after each bad block; `options` may be NULL. A damaged chain is no error
/// of the call: look at the report.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_chain_verify(
    chain: *const blyan_chain,
    options: *const blyan_verify_options,
    report: *mut *mut blyan_verify_report,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (report, chain, asked) = unsafe {
            (new_handle(report, "report")?, read(chain, "chain")?, self::options(options, "options")?)
        };
        // SAFETY: as above.
        let watch = unsafe { Watch::new(asked.on_progress, asked.user, asked.cancel) }?;
        let tell = |progress: VerifyProgress| {
            watch.tell(blyan_progress {
                blocks: progress.blocks,
                total_blocks: progress.total_blocks,
                bytes: progress.payload_bytes,
                total_bytes: progress.total_payload_bytes,
            });
        };
        let verify =
            VerifyOptions { full: asked.full != 0, progress: Some(&tell), cancel: Some(watch.cancel()) };
        let found = chain.chain.verify(&verify).map_err(|error| watch.blame(error))?;
        if watch.is_stopped() {
            return Err(Failure::stopped());
        }
        let bad = found.bad.iter().map(|bad| Bad {
            block: bad.block.into(),
            name: bad.name.as_deref().map(Text::new),
            reason: Text::new(bad.reason.to_string()),
        });
        report.set(blyan_verify_report {
            blocks: found.blocks,
            payload_bytes: found.payload_bytes,
            bad: bad.collect(),
            collected: found.collected,
        });
        Ok(())
    })
}

/// What a verification found, in numbers; `size` is `sizeof *info`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_verify_report_describe(
    report: *const blyan_verify_report,
    info: *mut blyan_verify_info,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        let report = unsafe { read(report, "report") }?;
        let (blocks, payload_bytes) = (report.blocks, report.payload_bytes);
        let (bad_len, collected_len) = (report.bad.len(), report.collected.len());
        let description = blyan_verify_info { blocks, payload_bytes, bad_len, collected_len };
        // SAFETY: as above.
        unsafe { describe(info, size, "info", description) }
    })
}

/// One of the things that are bad, by block; one block may be bad in several ways. `size` is
/// `sizeof *bad`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_verify_report_bad(
    report: *const blyan_verify_report,
    index: usize,
    bad: *mut blyan_bad_block,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        let report = unsafe { read(report, "report") }?;
        // Also where there is nothing bad to write.
        check_room(bad, size, "bad")?;
        let found = at(&report.bad, index)?;
        let name = found.name.as_ref().map_or(EMPTY, Text::view);
        let description = blyan_bad_block { block: found.block, name, reason: found.reason.view() };
        // SAFETY: as above.
        unsafe { describe(bad, size, "bad", description) }
    })
}

/// One of the blocks whose payload file was collected, by hash.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_verify_report_collected(
    report: *const blyan_verify_report,
    index: usize,
    block: *mut blyan_hash,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (report, block) = unsafe { (read(report, "report")?, out(block, "block")?) };
        block.set((*at(&report.collected, index)?).into());
        Ok(())
    })
}

/// Frees a report; nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_verify_report_free(report: *mut blyan_verify_report) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(report) }
}
