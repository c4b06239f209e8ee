//! Owns bundles and collection: writing blocks to a file or a Python stream, taking them in, and deleting
//! payloads that nothing retained needs.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use blyan_core::chain::{BundleOptions, CollectOptions, UnbundleOptions};
use pyo3::exceptions::{PyBlockingIOError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyString};

use crate::args::{BlockArg, Count};
use crate::buffer::bytes_of;
use crate::chain::ChainHandle;
use crate::door::{CancelToken, Job, Silent, Watch, lock, run_watched};
use crate::failure::Failure;
use crate::progress::Progress;
use crate::values;

/// Where a bundle goes to, or comes from.
enum Place {
    File(PathBuf),
    Stream(Stream),
}

impl Place {
    /// A path, or an object with that method.
    fn of(given: &Bound<'_, PyAny>, method: &'static str) -> PyResult<Self> {
        let is_path = given.is_instance_of::<PyString>() || given.hasattr("__fspath__")?;
        if !is_path && given.hasattr(method)? {
            let call = given.getattr(method)?.unbind();
            let raw = given.is_instance(&given.py().import("io")?.getattr("RawIOBase")?)?;
            return Ok(Self::Stream(Stream { call, raw, raised: Arc::default() }));
        }
        if !is_path {
            let name = given.get_type().name()?;
            let message = format!("expected a path or a binary file with a method {method}, not {name}");
            return Err(PyTypeError::new_err(message));
        }
        given.extract().map(Self::File)
    }

    fn raised(&self) -> Raised {
        match self {
            Self::File(_) => Raised::default(),
            Self::Stream(stream) => Arc::clone(&stream.raised),
        }
    }
}

/// What a stream raised, to come out as itself.
type Raised = Arc<Mutex<Option<PyErr>>>;

/// A Python file: its `read` or `write`.
struct Stream {
    call: Py<PyAny>,
    /// Whether it is an `io.RawIOBase`, whose `write` returns None if it would have to wait.
    raw: bool,
    raised: Raised,
}

impl Stream {
    fn call<T>(&self, work: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T>) -> io::Result<T> {
        Python::attach(|py| work(self.call.bind(py))).map_err(|error| {
            *lock(&self.raised) = Some(error);
            io::Error::other("the stream raised an exception")
        })
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let raw = self.raw;
        self.call(|write| {
            let written = write.call1((PyBytes::new(write.py(), bytes),))?;
            if written.is_instance_of::<PyBool>() {
                return Err(PyTypeError::new_err("write() gave a bool: expected a number of bytes or None"));
            }
            match written.extract::<Option<usize>>()? {
                Some(written) => Ok(written.min(bytes.len())),
                None if raw => Err(would_wait()),
                // Other writers that say nothing took everything.
                None => Ok(bytes.len()),
            }
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.call(|read| {
            let given = read.call1((buffer.len(),))?;
            if given.is_none() {
                return Err(would_wait());
            }
            let copied;
            let bytes = match given.cast::<PyBytes>() {
                Ok(bytes) => bytes.as_bytes(),
                Err(_) => {
                    copied = bytes_of(&given)?;
                    &copied
                }
            };
            let Some(target) = buffer.get_mut(..bytes.len()) else {
                let message = "read() gave more bytes than it was asked for";
                return Err(Failure::Argument(message.to_owned()).into_py(read.py()));
            };
            target.copy_from_slice(bytes);
            Ok(bytes.len())
        })
    }
}

fn would_wait() -> PyErr {
    PyBlockingIOError::new_err("the stream would have to wait: give one that blocks, or a buffer")
}

/// What was raised, rather than what the core makes of it.
fn itself<T>(raised: &Raised, result: PyResult<T>) -> PyResult<T> {
    result.map_err(|error| lock(raised).take().unwrap_or(error))
}

fn hashes(blocks: Vec<BlockArg>) -> Vec<blyan_core::BlockHash> {
    blocks.into_iter().map(|block| block.0).collect()
}

#[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
pub(crate) fn bundle<'py>(
    py: Python<'py>,
    handle: &ChainHandle,
    to: &Bound<'py, PyAny>,
    blocks: Option<Vec<BlockArg>>,
    ancestors: bool,
    known: Vec<BlockArg>,
    progress: Option<Bound<'py, PyAny>>,
    cancel: Option<Py<CancelToken>>,
) -> PyResult<Bound<'py, PyAny>> {
    let chain = handle.get(py)?;
    let place = Place::of(to, "write")?;
    let raised = place.raised();
    let progress = Progress::open(py, progress, "bundle")?;
    let cancel = cancel.map(|token| token.get().flag());
    let watch = Watch { callback: progress.callback(), cancel, ..Watch::default() };
    let watched = watch.callback.is_some();
    let (blocks, known) = (blocks.map(hashes), hashes(known));
    let report = run_watched(py, &watch, move |job: &Job<_>| {
        let report = |progress| job.report(progress);
        let options = BundleOptions {
            blocks,
            ancestors,
            known,
            progress: if watched { Some(&report) } else { None },
            cancel: Some(&job.cancel),
        };
        match place {
            Place::File(path) => chain.bundle_file(path, &options),
            Place::Stream(mut stream) => chain.bundle(&mut stream, &options),
        }
    });
    progress.close(py)?;
    values::bundle_report(py, &itself(&raised, report)?)
}

pub(crate) fn unbundle<'py>(
    py: Python<'py>,
    handle: &ChainHandle,
    from: &Bound<'py, PyAny>,
    max_payload_bytes: Option<Count<u64>>,
    progress: Option<Bound<'py, PyAny>>,
    cancel: Option<Py<CancelToken>>,
) -> PyResult<Bound<'py, PyAny>> {
    let (chain, _telling) = handle.to_append_and_tell(py)?;
    let place = Place::of(from, "read")?;
    let raised = place.raised();
    let progress = Progress::open(py, progress, "unbundle")?;
    let cancel = cancel.map(|token| token.get().flag());
    let watch = Watch { callback: progress.callback(), cancel, ..Watch::default() };
    let watched = watch.callback.is_some();
    let report = run_watched(py, &watch, move |job: &Job<_>| {
        let report = |progress| job.report(progress);
        let default = UnbundleOptions::default();
        let options = UnbundleOptions {
            max_payload_bytes: max_payload_bytes.map_or(default.max_payload_bytes, |bytes| bytes.0),
            progress: if watched { Some(&report) } else { None },
            cancel: Some(&job.cancel),
        };
        match place {
            Place::File(path) => chain.unbundle_file(path, &options),
            Place::Stream(mut stream) => chain.unbundle(&mut stream, &options),
        }
    });
    progress.close(py)?;
    values::unbundle_report(py, &itself(&raised, report)?)
}

pub(crate) fn collect<'py>(
    py: Python<'py>,
    handle: &ChainHandle,
    roots: Option<Vec<BlockArg>>,
    dry_run: bool,
    cancel: Option<Py<CancelToken>>,
) -> PyResult<Bound<'py, PyAny>> {
    let chain = if dry_run { handle.get(py)? } else { handle.to_append(py)? };
    let cancel = cancel.map(|token| token.get().flag());
    let watch = Watch { cancel, ..Watch::default() };
    let roots = roots.map(hashes);
    let report = run_watched(py, &watch, move |job: &Job<Silent>| {
        let options = CollectOptions { roots: roots.as_deref(), dry_run, cancel: Some(&job.cancel) };
        chain.collect(&options)
    })?;
    values::collect_report(py, &report)
}
