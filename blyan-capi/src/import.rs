//! Owns importing checkpoint folders.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use std::ffi::{c_char, c_void};
use std::ptr;

use blyan_core::import::{self, ImportOptions, ImportProgress, ImportReport};

use crate::cancel::{Watch, blyan_cancel, blyan_progress, blyan_progress_fn};
use crate::chain::blyan_chain;
use crate::edge::{Options, describe, free, init_options, optional_handle, options, out, path, read, texts};
use crate::error::{blyan_status, edge};
use crate::hash::{at, blyan_hash};
use crate::tensor::{blyan_dtype, dtype_option};
use crate::text::{Text, blyan_str};

/// How to import a checkpoint. Fill it with `blyan_import_options_init` first.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_import_options {
    /// `sizeof(blyan_import_options)`.
    pub size: usize,
    /// Type of the projections, a `blyan_dtype`; `BLYAN_DTYPE_KEEP` by default.
    pub dtype: i32,
    /// What rotary frequencies are rounded to; by default `BLYAN_DTYPE_KEEP`, which is F32. It makes
    /// another model.
    pub rope_frequencies: i32,
    /// Not 0: append nothing, only report what would be.
    pub dry_run: i32,
    /// 0.
    pub reserved: i32,
    /// Keys of config.json that are unknown but known not to change the arithmetic.
    pub ignore_config_keys: *const blyan_str,
    /// Number of these keys.
    pub ignore_config_keys_len: usize,
    /// Called after each block; may be NULL.
    pub on_progress: blyan_progress_fn,
    /// Given to `on_progress`.
    pub user: *mut c_void,
    /// Ends the import when set; may be NULL. If `on_progress` ends it, this is set, too.
    pub cancel: *const blyan_cancel,
}

// SAFETY: numbers, pointers and an optional function, the size first.
unsafe impl Options for blyan_import_options {
    fn defaults(size: usize) -> Self {
        Self {
            size,
            dtype: blyan_dtype::Keep as i32,
            rope_frequencies: blyan_dtype::Keep as i32,
            dry_run: 0,
            reserved: 0,
            ignore_config_keys: ptr::null(),
            ignore_config_keys_len: 0,
            on_progress: None,
            user: ptr::null_mut(),
            cancel: ptr::null(),
        }
    }
}

/// Fills options with their defaults; `size` is `sizeof *options`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_import_options_init(
    options: *mut blyan_import_options,
    size: usize,
) -> blyan_status {
    // SAFETY: the caller's pointer, as the header asks.
    edge(|| unsafe { init_options(options, size) })
}

/// What an import appended, or would append.
pub struct blyan_import_report {
    report: ImportReport,
    ignored_files: Vec<Text>,
}

/// What an import appended, or would append.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_import_info {
    /// The model block.
    pub model: blyan_hash,
    /// The spec block.
    pub spec: blyan_hash,
    /// Root of the model's snapshot.
    pub root: blyan_hash,
    /// Blocks that the chain did not have.
    pub blocks_new: u64,
    /// Blocks that it had.
    pub blocks_known: u64,
    /// Bytes of payloads that were written: new ones, and damaged ones repaired.
    pub payload_bytes_new: u64,
    /// Bytes of payloads that were there already, or appeared twice.
    pub payload_bytes_known: u64,
    /// Number of files that are no part of the model; `blyan_import_report_ignored_file` names them.
    pub ignored_files_len: usize,
}

/// Imports a checkpoint folder as one transaction; nothing is appended if it fails or is stopped.
/// `options` and `report` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_import_checkpoint(
    chain: *const blyan_chain,
    dir: *const c_char,
    dir_len: usize,
    options: *const blyan_import_options,
    report: *mut *mut blyan_import_report,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (report, chain, dir, asked) = unsafe {
            (
                optional_handle(report, "report")?,
                read(chain, "chain")?,
                path(dir, dir_len, "dir")?,
                self::options(options, "options")?,
            )
        };
        // SAFETY: as above.
        let (watch, ignore_config_keys) = unsafe {
            (
                Watch::new(asked.on_progress, asked.user, asked.cancel)?,
                texts(asked.ignore_config_keys, asked.ignore_config_keys_len, "ignore_config_keys")?,
            )
        };
        let tell = |progress: ImportProgress| {
            watch.tell(blyan_progress {
                blocks: progress.blocks,
                total_blocks: progress.total_blocks,
                bytes: progress.payload_bytes,
                total_bytes: progress.total_payload_bytes,
            });
        };
        let import = ImportOptions {
            dtype: dtype_option(asked.dtype)?,
            rope_frequencies: dtype_option(asked.rope_frequencies)?,
            dry_run: asked.dry_run != 0,
            ignore_config_keys,
            progress: Some(&tell),
            cancel: Some(watch.cancel()),
        };
        let (chain, _writing) = match import.dry_run {
            true => (&chain.chain, None),
            false => (chain.to_write()?, Some(chain.writing())),
        };
        let imported = import::checkpoint(chain, dir, &import).map_err(|error| watch.blame(error))?;
        let ignored_files = imported.ignored_files.iter().map(|file| Text::new(file.as_str())).collect();
        report.set(blyan_import_report { report: imported, ignored_files });
        Ok(())
    })
}

/// What an import appended; `size` is `sizeof *info`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_import_report_describe(
    report: *const blyan_import_report,
    info: *mut blyan_import_info,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        let ImportReport {
            model,
            spec,
            root,
            blocks_new,
            blocks_known,
            payload_bytes_new,
            payload_bytes_known,
            ref ignored_files,
            ..
        } = unsafe { read(report, "report") }?.report;
        let description = blyan_import_info {
            model: model.into(),
            spec: spec.into(),
            root: root.into(),
            blocks_new,
            blocks_known,
            payload_bytes_new,
            payload_bytes_known,
            ignored_files_len: ignored_files.len(),
        };
        // SAFETY: as above.
        unsafe { describe(info, size, "info", description) }
    })
}

/// Name of a file of the folder that is no part of the model. Lives as long as the report.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_import_report_ignored_file(
    report: *const blyan_import_report,
    index: usize,
    file: *mut blyan_str,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (report, file) = unsafe { (read(report, "report")?, out(file, "file")?) };
        file.set(at(&report.ignored_files, index)?.view());
        Ok(())
    })
}

/// Frees a report; nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_import_report_free(report: *mut blyan_import_report) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(report) }
}
