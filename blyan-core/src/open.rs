//! Owns opening a chain with the validators of every layer that knows a kind of block.

use std::path::Path;
use std::sync::Arc;

use crate::chain::{Chain, ChainError, Validators};
use crate::evolve;
use crate::import;
use crate::storage::{Access, DirMedium, MemoryMedium};

/// Validators of every layer.
fn validators() -> Validators {
    evolve::validators(import::validate::validators())
}

impl Chain {
    /// Opens the chain in a directory for reading and writing, creating it if there is none.
    ///
    /// # Errors
    ///
    /// Those of [`Self::open_with`]; [`crate::storage::StorageError::Locked`] at once if another
    /// process writes.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, ChainError> {
        Self::open_with(Arc::new(DirMedium::new(dir.as_ref())), Access::ReadWrite, validators())
    }

    /// Opens the chain in a directory for reading, also while another process writes to it.
    ///
    /// # Errors
    ///
    /// Those of [`Self::open_with`]; [`crate::storage::StorageError::Missing`] if there is no chain.
    pub fn open_read_only(dir: impl AsRef<Path>) -> Result<Self, ChainError> {
        Self::open_with(Arc::new(DirMedium::new(dir.as_ref())), Access::ReadOnly, validators())
    }

    /// A chain in memory, gone when its last clone is dropped.
    ///
    /// # Errors
    ///
    /// Those of [`Self::open_with`].
    pub fn in_memory() -> Result<Self, ChainError> {
        Self::open_with(Arc::new(MemoryMedium::new()), Access::ReadWrite, validators())
    }
}
