//! Owns the door to the `blyan` command line, which the package's console script calls.

use std::ffi::OsString;

use pyo3::prelude::*;

use crate::door::{Job, Silent, Watch, run_watched};
use crate::failure::Failure;

/// Runs the command line; Ctrl-C stops it and leaves every chain sound.
#[pyfunction]
pub(crate) fn command_line(py: Python<'_>, arguments: Vec<OsString>) -> PyResult<u8> {
    let watch = Watch { patient: true, ..Watch::default() };
    run_watched(py, &watch, move |job: &Job<Silent>| {
        Ok::<_, Failure>(blyan_cli::main(arguments, &job.cancel))
    })
}
