//! Owns import and export of checkpoint folders.

use std::path::PathBuf;

use blyan_core::import::export::{self, ExportOptions};
use blyan_core::import::{self, ImportOptions};
use pyo3::prelude::*;

use crate::args::{BlockArg, Count, DTypeArg};
use crate::chain::{Block, Chain};
use crate::door::{CancelToken, Job, Watch, run, run_watched};
use crate::progress::Progress;
use crate::values;

/// Imports a checkpoint folder in Hugging Face's layout, or a GGUF file (the first, if it is split), and
/// returns the model block; its `report` says what was new. With `dry_run=True` nothing is appended and
/// only the report is returned.
///
/// `dtype` is None to keep the checkpoint's, or "int8", "int4", "fp8", "f16", "bf16". `rope_frequencies="bf16"`
/// is for models that were made as a module cast to it as a whole. `ignore_config_keys` names unknown
/// keys of config.json or of the GGUF metadata that do not change the arithmetic. `progress` is called with an `ImportProgress`
/// after each block; True shows a bar, False nothing, None a bar in a terminal or a notebook.
///
/// All blocks are one transaction: an import that fails, or is cancelled or interrupted before it commits,
/// appends nothing.
///
/// >>> with blyan.Chain.in_memory() as another:
/// ...     meta = blyan.import_checkpoint(another, folder, dtype="int8")
/// ...     meta.kind, meta.report.blocks_new == len(another)
/// ('model', True)
#[pyfunction]
#[pyo3(signature = (chain, path, dtype=None, *, rope_frequencies=None, dry_run=false,
                    ignore_config_keys=vec![], progress=None, cancel=None),
       text_signature = "(chain, path, dtype=None, *, rope_frequencies=None, dry_run=False, ignore_config_keys=(), progress=None, cancel=None)")]
#[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
pub(crate) fn import_checkpoint<'py>(
    py: Python<'py>,
    chain: &Bound<'py, Chain>,
    path: PathBuf,
    dtype: Option<DTypeArg>,
    rope_frequencies: Option<DTypeArg>,
    dry_run: bool,
    ignore_config_keys: Vec<String>,
    progress: Option<Bound<'py, PyAny>>,
    cancel: Option<Py<CancelToken>>,
) -> PyResult<Bound<'py, PyAny>> {
    let handle = &chain.get().handle;
    let (target, _telling) = match dry_run {
        true => (handle.get(py)?, None),
        false => handle.to_append_and_tell(py).map(|(chain, telling)| (chain, Some(telling)))?,
    };
    let progress = Progress::open(py, progress, "import")?;
    let cancel = cancel.map(|token| token.get().flag());
    let watch = Watch { callback: progress.callback(), cancel, ..Watch::default() };
    let watched = watch.callback.is_some();
    let (dtype, rope) = (dtype.map(|dtype| dtype.0), rope_frequencies.map(|dtype| dtype.0));
    let report = run_watched(py, &watch, move |job: &Job<_>| {
        let report = |progress| job.report(progress);
        let options = ImportOptions {
            dtype,
            rope_frequencies: rope,
            dry_run,
            ignore_config_keys,
            progress: if watched { Some(&report) } else { None },
            cancel: Some(&job.cancel),
        };
        import::checkpoint(&target, path, &options)
    });
    progress.close(py)?;
    let report = report?;
    let made = values::import_report(py, &report)?;
    if dry_run {
        return Ok(made);
    }
    let chain = handle.get(py)?;
    let block = run(py, move || chain.get(&report.model))?;
    Ok(Bound::new(py, Block::new(handle, block).with_report(made.unbind()))?.into_any())
}

/// Writes a model as a checkpoint folder that transformers loads, and says what it wrote.
///
/// The folder is complete or untouched; one that is there gets its files when all are written: its
/// config.json goes first and the new one comes last. `max_shard_bytes` is how much goes into one file of weights, at least 1.
///
/// >>> import tempfile
/// >>> with tempfile.TemporaryDirectory() as empty:
/// ...     sorted(blyan.export_checkpoint(chain, model.model, empty).files)[:2]
/// ['config.json', 'generation_config.json']
#[pyfunction]
#[pyo3(signature = (chain, model, path, *, overwrite=false, max_shard_bytes=None, progress=None, cancel=None))]
#[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
pub(crate) fn export_checkpoint<'py>(
    py: Python<'py>,
    chain: &Bound<'py, Chain>,
    model: BlockArg,
    path: PathBuf,
    overwrite: bool,
    max_shard_bytes: Option<Count<u64>>,
    progress: Option<Bound<'py, PyAny>>,
    cancel: Option<Py<CancelToken>>,
) -> PyResult<Bound<'py, PyAny>> {
    let source = chain.get().handle.get(py)?;
    let progress = Progress::open(py, progress, "export")?;
    let cancel = cancel.map(|token| token.get().flag());
    let watch = Watch { callback: progress.callback(), cancel, ..Watch::default() };
    let watched = watch.callback.is_some();
    let report = run_watched(py, &watch, move |job: &Job<_>| {
        let report = |progress| job.report(progress);
        let default = ExportOptions::default();
        let options = ExportOptions {
            overwrite,
            max_shard_bytes: max_shard_bytes.map_or(default.max_shard_bytes, |bytes| bytes.0),
            progress: if watched { Some(&report) } else { None },
            cancel: Some(&job.cancel),
        };
        export::checkpoint(&source, &model.0, path, &options)
    });
    progress.close(py)?;
    values::export_report(py, &report?)
}
