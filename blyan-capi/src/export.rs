//! Owns exporting models as checkpoint folders.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use std::ffi::{c_char, c_void};
use std::ptr;

use blyan_core::export::{self, ExportOptions, ExportProgress};

use crate::cancel::{Watch, blyan_cancel, blyan_progress, blyan_progress_fn};
use crate::chain::blyan_chain;
use crate::edge::{Options, describe, free, init_options, optional_handle, options, out, path, read};
use crate::error::{blyan_status, edge};
use crate::hash::{at, blyan_hash};
use crate::text::{BLYAN_NONE, Text, blyan_str};

/// How to export a model. Fill it with `blyan_export_options_init` first.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_export_options {
    /// `sizeof(blyan_export_options)`.
    pub size: usize,
    /// Not 0: a folder that is not empty may be written to.
    pub overwrite: i32,
    /// 0.
    pub reserved: i32,
    /// Weights are split into files of at most this many bytes; by default `BLYAN_NONE`, which is 5 GB.
    pub max_shard_bytes: u64,
    /// Called after each tensor, its blocks 0; may be NULL.
    pub on_progress: blyan_progress_fn,
    /// Given to `on_progress`.
    pub user: *mut c_void,
    /// Ends the export when set; may be NULL. If `on_progress` ends it, this is set, too.
    pub cancel: *const blyan_cancel,
}

// SAFETY: numbers, pointers and an optional function, the size first.
unsafe impl Options for blyan_export_options {
    fn defaults(size: usize) -> Self {
        Self {
            size,
            overwrite: 0,
            reserved: 0,
            max_shard_bytes: BLYAN_NONE,
            on_progress: None,
            user: ptr::null_mut(),
            cancel: ptr::null(),
        }
    }
}

/// Fills options with their defaults; `size` is `sizeof *options`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_export_options_init(
    options: *mut blyan_export_options,
    size: usize,
) -> blyan_status {
    // SAFETY: the caller's pointer, as the header asks.
    edge(|| unsafe { init_options(options, size) })
}

/// What an export wrote.
pub struct blyan_export_report {
    files: Vec<Text>,
    tensors: u64,
    tensor_bytes: u64,
}

/// What an export wrote, in numbers.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_export_info {
    /// Number of tensors.
    pub tensors: u64,
    /// Bytes of tensors.
    pub tensor_bytes: u64,
    /// Number of files; `blyan_export_report_file` names them.
    pub files_len: usize,
}

/// Writes a model as a checkpoint folder that transformers loads; the folder is complete or untouched. One that is
/// there gets its files when all are written: its config.json goes first and the new one comes last. `options` and
/// `report` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_export_checkpoint(
    chain: *const blyan_chain,
    model: *const blyan_hash,
    dir: *const c_char,
    dir_len: usize,
    options: *const blyan_export_options,
    report: *mut *mut blyan_export_report,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (report, chain, model, dir, asked) = unsafe {
            (
                optional_handle(report, "report")?,
                read(chain, "chain")?,
                read(model, "model")?,
                path(dir, dir_len, "dir")?,
                self::options(options, "options")?,
            )
        };
        // SAFETY: as above.
        let watch = unsafe { Watch::new(asked.on_progress, asked.user, asked.cancel) }?;
        let tell = |progress: ExportProgress| {
            watch.tell(blyan_progress {
                blocks: 0,
                total_blocks: 0,
                bytes: progress.tensor_bytes,
                total_bytes: progress.total_tensor_bytes,
            });
        };
        let defaults = ExportOptions::default();
        let export = ExportOptions {
            overwrite: asked.overwrite != 0,
            max_shard_bytes: match asked.max_shard_bytes {
                BLYAN_NONE => defaults.max_shard_bytes,
                bytes => bytes,
            },
            progress: Some(&tell),
            cancel: Some(watch.cancel()),
        };
        let written = export::checkpoint(&chain.chain, &model.block(), dir, &export)
            .map_err(|error| watch.blame(error))?;
        report.set(blyan_export_report {
            files: written.files.iter().map(|file| Text::new(file.as_str())).collect(),
            tensors: written.tensors,
            tensor_bytes: written.tensor_bytes,
        });
        Ok(())
    })
}

/// What an export wrote, in numbers; `size` is `sizeof *info`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_export_report_describe(
    report: *const blyan_export_report,
    info: *mut blyan_export_info,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        let report = unsafe { read(report, "report") }?;
        let (tensors, tensor_bytes) = (report.tensors, report.tensor_bytes);
        let description = blyan_export_info { tensors, tensor_bytes, files_len: report.files.len() };
        // SAFETY: as above.
        unsafe { describe(info, size, "info", description) }
    })
}

/// Name of a file that was written, in their order. Lives as long as the report.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_export_report_file(
    report: *const blyan_export_report,
    index: usize,
    file: *mut blyan_str,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (report, file) = unsafe { (read(report, "report")?, out(file, "file")?) };
        file.set(at(&report.files, index)?.view());
        Ok(())
    })
}

/// Frees a report; nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_export_report_free(report: *mut blyan_export_report) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(report) }
}
