//! Owns taking single experts out of checkpoints and models, as blocks that a candidate can name.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use std::ptr;

use blyan_core::evolve::{self, ExtractOptions, ExtractReport, ExtractSource, Piece};

use crate::cancel::{blyan_cancel, flag};
use crate::chain::{blyan_chain, optional_block};
use crate::edge::{
    Options, check_room, describe, free, init_options, new_handle, optional_text, options, path, read,
    read_optional, slice, text, texts,
};
use crate::error::{Failure, Outcome, blyan_status, edge};
use crate::hash::{at, blyan_hash};
use crate::tensor::{blyan_dtype, dtype_option};
use crate::text::{Text, blyan_str};

/// What to take: all or some rows of a slot's weights.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_extract_piece {
    /// The slot of the source.
    pub source: blyan_str,
    /// The slot that the weights are to fill; NULL: the same.
    pub target: blyan_str,
    /// Rows of its gate_proj and up_proj, which are columns of its down_proj, in the order in which the new
    /// expert has them; NULL: all.
    pub rows: *const usize,
    /// Number of rows.
    pub rows_len: usize,
}

impl blyan_extract_piece {
    /// # Safety
    ///
    /// Its pointers are valid.
    unsafe fn piece(&self) -> Outcome<Piece> {
        // SAFETY: the caller's promise.
        let (source, target, rows) = unsafe {
            (
                text(self.source.data, self.source.len, "source")?,
                optional_text(self.target.data, self.target.len, "target")?,
                slice(self.rows, self.rows_len, "rows")?,
            )
        };
        let from = source.parse()?;
        let to = target.map(str::parse).transpose()?.unwrap_or(from);
        Ok(Piece { from, rows: (!self.rows.is_null()).then(|| rows.to_vec()), to })
    }
}

/// Where to take weights from, and how: a checkpoint, or a model of a chain. Fill it with
/// `blyan_extract_options_init` first.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_extract_options {
    /// `sizeof(blyan_extract_options)`.
    pub size: usize,
    /// Path of a checkpoint folder or a GGUF file; by default NULL. Not beside `source`.
    pub checkpoint: blyan_str,
    /// A chain, which may be the one that is appended to; by default NULL.
    pub source: *const blyan_chain,
    /// The model block of `source`; needed with it.
    pub model: *const blyan_hash,
    /// Keys of config.json that are unknown but known not to change the arithmetic.
    pub ignore_config_keys: *const blyan_str,
    /// Number of these keys.
    pub ignore_config_keys_len: usize,
    /// Ends it when set; may be NULL.
    pub cancel: *const blyan_cancel,
    /// Type of the projections, a `blyan_dtype`; `BLYAN_DTYPE_KEEP` by default.
    pub dtype: i32,
    /// Not 0: append nothing, only report what would be.
    pub dry_run: i32,
}

// SAFETY: numbers and pointers alone, the size first.
unsafe impl Options for blyan_extract_options {
    fn defaults(size: usize) -> Self {
        Self {
            size,
            checkpoint: blyan_str { data: ptr::null(), len: 0 },
            source: ptr::null(),
            model: ptr::null(),
            ignore_config_keys: ptr::null(),
            ignore_config_keys_len: 0,
            cancel: ptr::null(),
            dtype: blyan_dtype::Keep as i32,
            dry_run: 0,
        }
    }
}

/// Fills options with their defaults; `size` is `sizeof *options`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_extract_options_init(
    options: *mut blyan_extract_options,
    size: usize,
) -> blyan_status {
    // SAFETY: the caller's pointer, as the header asks.
    edge(|| unsafe { init_options(options, size) })
}

/// What was extracted, or would be.
pub struct blyan_extract_report {
    report: ExtractReport,
    slots: Vec<Text>,
}

/// What was extracted, or would be, in numbers.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_extract_info {
    /// Number of blocks, one for each piece; `blyan_extract_report_block` names them.
    pub blocks_len: usize,
    /// Blocks that the chain did not hold.
    pub blocks_new: u64,
    /// Blocks that it held.
    pub blocks_known: u64,
    /// Bytes of payloads that it did not hold.
    pub payload_bytes_new: u64,
    /// Bytes of payloads that it held, or that appeared twice.
    pub payload_bytes_known: u64,
}

/// A block that was extracted. The slot's name lives as long as the report.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_extracted_block {
    /// The slot that it fills.
    pub slot: blyan_str,
    /// The block: the target's own, if that has exactly these weights.
    pub block: blyan_hash,
    /// Its payload.
    pub payload: blyan_hash,
    /// Length of the payload.
    pub payload_bytes: u64,
    /// Not 0 if the chain did not hold the block.
    pub new_block: i32,
    /// Not 0 if the chain did not hold the payload.
    pub new_payload: i32,
}

/// Makes blocks of single slots' weights for `target`, a model block whose blocks they follow, or a spec
/// block for a model that is not there yet. Nothing is appended if it fails or is stopped.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_extract(
    chain: *const blyan_chain,
    target: *const blyan_hash,
    pieces: *const blyan_extract_piece,
    pieces_len: usize,
    options: *const blyan_extract_options,
    report: *mut *mut blyan_extract_report,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (report, chain, target, pieces, asked) = unsafe {
            (
                new_handle(report, "report")?,
                read(chain, "chain")?,
                read(target, "target")?,
                slice(pieces, pieces_len, "pieces")?,
                self::options(options, "options")?,
            )
        };
        // SAFETY: as above.
        let pieces: Vec<Piece> =
            pieces.iter().map(|piece| unsafe { piece.piece() }).collect::<Outcome<_>>()?;
        // SAFETY: as above.
        let (source, model, ignore_config_keys, cancel) = unsafe {
            (
                read_optional(asked.source, "source")?,
                optional_block(asked.model, "model")?,
                texts(asked.ignore_config_keys, asked.ignore_config_keys_len, "ignore_config_keys")?,
                flag(asked.cancel)?,
            )
        };
        let checkpoint = if asked.checkpoint.data.is_null() {
            None
        } else {
            // SAFETY: as above.
            Some(unsafe { path(asked.checkpoint.data, asked.checkpoint.len, "checkpoint") }?)
        };
        let source = match (&checkpoint, source, model) {
            (Some(path), None, None) => ExtractSource::Checkpoint(path),
            (None, Some(source), Some(model)) => ExtractSource::Model { chain: &source.chain, model },
            _ => {
                let message = "weights come from a checkpoint, or from a source and a model of it";
                return Err(Failure::argument(message));
            }
        };
        let extract = ExtractOptions {
            dtype: dtype_option(asked.dtype)?,
            dry_run: asked.dry_run != 0,
            ignore_config_keys,
            cancel: cancel.as_deref(),
        };
        let chain = if extract.dry_run { &chain.chain } else { chain.to_write()? };
        let made = evolve::extract(chain, &target.block(), &source, &pieces, &extract)?;
        let slots = made.blocks.iter().map(|block| Text::new(block.slot.to_string())).collect();
        report.set(blyan_extract_report { report: made, slots });
        Ok(())
    })
}

/// What was extracted, in numbers; `size` is `sizeof *info`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_extract_report_describe(
    report: *const blyan_extract_report,
    info: *mut blyan_extract_info,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        let report = &unsafe { read(report, "report") }?.report;
        let description = blyan_extract_info {
            blocks_len: report.blocks.len(),
            blocks_new: report.blocks_new,
            blocks_known: report.blocks_known,
            payload_bytes_new: report.payload_bytes_new,
            payload_bytes_known: report.payload_bytes_known,
        };
        // SAFETY: as above.
        unsafe { describe(info, size, "info", description) }
    })
}

/// One of the blocks, in the order of the pieces; `size` is `sizeof *block`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_extract_report_block(
    report: *const blyan_extract_report,
    index: usize,
    block: *mut blyan_extracted_block,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        let report = unsafe { read(report, "report") }?;
        check_room(block, size, "block")?;
        let (found, slot) = (at(&report.report.blocks, index)?, at(&report.slots, index)?);
        let description = blyan_extracted_block {
            slot: slot.view(),
            block: found.block.into(),
            payload: found.payload.into(),
            payload_bytes: found.len_bytes,
            new_block: found.new_block.into(),
            new_payload: found.new_payload.into(),
        };
        // SAFETY: as above.
        unsafe { describe(block, size, "block", description) }
    })
}

/// Frees a report; nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_extract_report_free(report: *mut blyan_extract_report) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(report) }
}
