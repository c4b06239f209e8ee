//! Owns what can go wrong with stored bytes.

use std::io;
use std::path::PathBuf;

use crate::hash::PayloadHash;

/// A failure of the medium, or bytes on it that are not what they were.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The operating system refused an operation.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// File or folder, relative to nothing in particular.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// No chain where one was to be opened for reading.
    #[error("there is no chain in {}; open it for writing once to create one", place.display())]
    Missing {
        /// Directory that was opened.
        place: PathBuf,
    },
    /// Another handle, in this process or another, has the chain open for writing.
    #[error("the chain is open for writing elsewhere; close it there, or open it read-only here")]
    Locked,
    /// The last writer did not end cleanly and nobody has opened the chain for writing since.
    #[error("the last writer of the chain was interrupted; open it for writing once to recover it")]
    NeedsRecovery,
    /// The chain was opened for reading only.
    #[error("the chain was opened read-only; open it for writing to change it")]
    ReadOnly,
    /// A payload file does not exist.
    #[error("payload {payload} is missing; take in a bundle with it, or import its content again")]
    PayloadMissing {
        /// The payload.
        payload: PayloadHash,
    },
    /// A payload is shorter or longer than its block says.
    #[error("payload {payload} has {actual} bytes instead of {expected}; import its content again")]
    PayloadLength {
        /// The payload.
        payload: PayloadHash,
        /// Length that the block names.
        expected: u64,
        /// Length found.
        actual: u64,
    },
    /// A payload's bytes are not what its name says.
    #[error("payload {payload} is damaged: its bytes hash to {actual}; import its content again")]
    PayloadMismatch {
        /// The payload.
        payload: PayloadHash,
        /// Hash of the bytes found.
        actual: PayloadHash,
    },
    /// The index database, or a page of it, is not what was written.
    #[error("the index is damaged: {reason}")]
    IndexDamaged {
        /// What was found.
        reason: String,
    },
    /// The database library failed on an undamaged file.
    #[error("the index cannot be used: {reason}; open the chain again")]
    Index {
        /// What the library said.
        reason: String,
    },
}

impl StorageError {
    /// For `map_err`: an operation on a path that failed.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}
