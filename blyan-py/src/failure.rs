//! Owns [`Failure`]: everything a call can fail with on its way back to Python, before it has the
//! interpreter; and how the core's errors become one. `describe` says what each means in Python.

use blyan_core::chain::ChainError;
use blyan_core::evolve::EvolveError;
use blyan_core::hash::ParseHashError;
use blyan_core::import::{ExportError, ImportError};
use blyan_core::manager::ManagerError;
use blyan_core::tensor::TensorError;
use blyan_core::usage::UsageError;
use blyan_learn::LearnError;
use pyo3::PyErr;

/// Why a call failed.
#[derive(Debug)]
pub(crate) enum Failure {
    Core(Box<blyan_core::Error>),
    /// Training.
    Learn(Box<LearnError>),
    /// A hash that is none.
    Hash(ParseHashError),
    /// An argument that the core never gets to see.
    Argument(String),
    /// A handle that was closed.
    Closed(&'static str),
    /// A handle that another process opened, and its id.
    Forked(&'static str, u32),
    /// The process in which a call works that forked.
    ForkedInCall(u32),
    /// The process that began to train first, of which this one is a fork.
    TrainedBefore(u32),
    /// A session or stream that is in use.
    Busy(&'static str),
    /// The core panicked: a bug.
    Panic(String),
    /// The system gave no thread.
    Threads(String),
    /// An exception, such as that of a callback.
    Python(PyErr),
}

impl From<PyErr> for Failure {
    fn from(error: PyErr) -> Self {
        Self::Python(error)
    }
}

impl From<LearnError> for Failure {
    fn from(error: LearnError) -> Self {
        Self::Learn(Box::new(error))
    }
}

impl From<ParseHashError> for Failure {
    fn from(error: ParseHashError) -> Self {
        Self::Hash(error)
    }
}

macro_rules! from_core {
    ($($error:ty),*) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::Core(Box::new(error.into()))
            }
        }
    )*};
}

from_core!(ChainError, TensorError, ImportError, ExportError, ManagerError, UsageError, EvolveError);
