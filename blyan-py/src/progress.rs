//! Owns who hears of progress: a callback of the caller's, a bar, or nobody. `blyan._progress` decides.

use pyo3::prelude::*;

/// A bar or a callback, and how to end it.
pub(crate) struct Progress<'py> {
    callback: Option<Bound<'py, PyAny>>,
}

impl<'py> Progress<'py> {
    /// `given` is what the caller passed as `progress`.
    pub(crate) fn open(py: Python<'py>, given: Option<Bound<'py, PyAny>>, what: &str) -> PyResult<Self> {
        let callback = py.import("blyan._progress")?.call_method1("open", (given, what))?;
        Ok(Self { callback: callback.extract()? })
    }

    pub(crate) fn callback(&self) -> Option<&Bound<'py, PyAny>> {
        self.callback.as_ref()
    }

    /// Ends a bar, whatever became of the work.
    pub(crate) fn close(&self, py: Python<'py>) -> PyResult<()> {
        let arguments = (self.callback.as_ref(),);
        py.import("blyan._progress")?.call_method1("close", arguments).map(|_| ())
    }
}
