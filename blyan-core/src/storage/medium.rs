//! Owns the boundary to the medium: the few operations on files that a chain needs.
//!
//! Everything a chain does to files goes through [`Medium`], so that tests can fail the n-th
//! operation or lose what was not synced.

use std::fmt;
use std::io::{self, BufRead, Cursor};
use std::path::Path;

use super::payload::Payload;
use super::trust::FileIdentity;
use crate::hash::PayloadHash;
use redb::StorageBackend;

/// How a chain is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Creates the chain if there is none; excludes other writers.
    ReadWrite,
    /// Changes nothing; works beside a writer.
    ReadOnly,
}

/// A directory-like place that holds one chain.
///
/// Implementations promise what `docs/format.md` assumes of a medium: what was synced stays, a
/// rename is atomic, and a file's content is never seen under a name it was not published with.
pub trait Medium: fmt::Debug + Send + Sync + 'static {
    /// The directory, where there is one.
    fn dir(&self) -> Option<&Path>;

    /// Opens the index file; [`Access::ReadWrite`] creates it, and the folders, if missing.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`] if there is none to read, [`io::ErrorKind::InvalidData`] if there is none
    /// beside payload files, [`io::ErrorKind::WouldBlock`] if it is in use and the medium itself knows, and any
    /// other I/O error.
    fn open_index(&self, access: Access) -> io::Result<Box<dyn StorageBackend>>;

    /// Maps a published payload; `None` if there is none.
    ///
    /// # Errors
    ///
    /// Any I/O error.
    fn open_payload(&self, payload: &PayloadHash) -> io::Result<Option<Payload>>;

    /// What the file system says of a published payload's file; `None` if there is none, or nothing
    /// to be said that changes with every write.
    ///
    /// # Errors
    ///
    /// Any I/O error.
    fn payload_identity(&self, _payload: &PayloadHash) -> io::Result<Option<FileIdentity>> {
        Ok(None)
    }

    /// Opens a published payload to be read through once; its length, and its bytes. `None` if
    /// there is none. Unlike a map, it survives a medium that cannot read its bytes any more.
    /// `part_bytes`: how many bytes to give at once, a power of two of at least 1 MiB.
    ///
    /// # Errors
    ///
    /// Any I/O error.
    fn stream_payload(
        &self,
        payload: &PayloadHash,
        _part_bytes: usize,
    ) -> io::Result<Option<(u64, Box<dyn BufRead + Send>)>> {
        let bytes = self.open_payload(payload)?;
        Ok(bytes.map(|bytes| (bytes.len() as u64, Box::new(Cursor::new(bytes)) as Box<dyn BufRead + Send>)))
    }

    /// Writes a new temporary file; its content is durable on return, its name need not be.
    ///
    /// # Errors
    ///
    /// Any I/O error.
    fn write_temporary(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Moves a temporary file to the place of a payload, replacing what is there. Durable only
    /// after [`Self::sync_payload_folders`].
    ///
    /// # Errors
    ///
    /// Any I/O error.
    fn publish(&self, temporary: &str, payload: &PayloadHash) -> io::Result<()>;

    /// Makes the names of these payloads durable.
    ///
    /// # Errors
    ///
    /// Any I/O error.
    fn sync_payload_folders(&self, payloads: &[PayloadHash]) -> io::Result<()>;

    /// Every published payload and its length in bytes, in any order.
    ///
    /// # Errors
    ///
    /// Any I/O error; [`io::ErrorKind::Unsupported`] if the medium cannot tell.
    fn list_payloads(&self) -> io::Result<Vec<(PayloadHash, u64)>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Deletes a published payload; whoever has it mapped keeps its bytes. It may come back after a loss
    /// of power.
    ///
    /// # Errors
    ///
    /// Any I/O error, except that there is none; [`io::ErrorKind::Unsupported`] if the medium cannot.
    fn remove_payload(&self, _payload: &PayloadHash) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Deletes every temporary file; called by a writer when it opens, before it writes any.
    ///
    /// # Errors
    ///
    /// Any I/O error.
    fn remove_temporaries(&self) -> io::Result<()>;
}
