//! Owns the door to the `blyan` command line, which the package's console script calls.

use std::ffi::OsString;
use std::sync::{Arc, OnceLock};

use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;

use crate::door::{Job, Silent, Watch, run_watched};
use crate::failure::Failure;

/// Runs the command line; Ctrl-C stops it and leaves every chain sound.
#[pyfunction]
pub(crate) fn command_line(py: Python<'_>, arguments: Vec<OsString>) -> PyResult<u8> {
    let watch = Watch { patient: true, ..Watch::default() };
    let ended = Arc::new(OnceLock::new());
    let end = Arc::clone(&ended);
    let done = run_watched(py, &watch, move |job: &Job<Silent>| {
        Ok::<_, Failure>(*end.get_or_init(|| blyan_cli::main(arguments, &job.cancel)))
    });
    match (done, ended.get()) {
        // The code says whether Ctrl-C stopped anything, or came when everything was done.
        (Err(error), Some(code)) if error.is_instance_of::<PyKeyboardInterrupt>(py) => Ok(*code),
        (done, _) => done,
    }
}
