//! Where the bytes of a chain lie: payload files and the index database, on a [`Medium`].
//!
//! This layer knows hashes, lengths and pages; what a block is it leaves to `chain`.

pub(crate) mod dir;
pub(crate) mod error;
#[cfg(target_os = "linux")]
mod huge_map;
pub(crate) mod index;
pub(crate) mod medium;
pub(crate) mod memory;
pub(crate) mod pages;
pub(crate) mod payload;
pub(crate) mod payload_store;
#[cfg(target_os = "linux")]
mod payload_stream;
pub(crate) mod payload_writer;
pub(crate) mod regular;
pub(crate) mod trust;

pub use dir::DirMedium;
pub use error::StorageError;
pub use medium::{Access, Medium};
pub use memory::MemoryMedium;
pub use payload::Payload;
pub use payload_store::PayloadStore;
/// What a [`Medium`] gives as the file of the index: redb's own trait.
pub use redb::StorageBackend as IndexFile;
pub use trust::FileIdentity;
