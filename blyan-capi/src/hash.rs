//! Owns hashes, their spelling, and lists of them.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use std::ffi::c_char;

use blyan_core::hash::{
    BlockHash, CandidateRoot, ChainRoot, Commitment, LogitsDigest, PayloadHash, ReceiptHash, SnapshotRoot,
};

use crate::edge::{copy_out, free, out, read, slice, text};
use crate::error::{Failure, Outcome, blyan_status, edge};

/// Bytes of a hash in hexadecimal, its NUL included.
pub const BLYAN_HASH_HEX_SIZE: usize = 65;

/// A BLAKE3 hash: the name of a block, a payload, a receipt, or whatever the field says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct blyan_hash {
    /// The bytes.
    pub bytes: [u8; 32],
}

impl blyan_hash {
    pub(crate) fn block(&self) -> BlockHash {
        BlockHash::from_bytes(self.bytes)
    }

    /// No hash.
    pub(crate) const ZERO: Self = Self { bytes: [0; 32] };
}

macro_rules! from_hashes {
    ($($hash:ty),*) => {$(
        impl From<$hash> for blyan_hash {
            fn from(hash: $hash) -> Self {
                Self { bytes: *hash.as_bytes() }
            }
        }
    )*};
}

from_hashes!(
    BlockHash,
    CandidateRoot,
    ChainRoot,
    Commitment,
    LogitsDigest,
    PayloadHash,
    ReceiptHash,
    SnapshotRoot
);

/// Writes 64 lowercase hexadecimal digits and a NUL; `size` must be `BLYAN_HASH_HEX_SIZE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_hash_to_hex(
    hash: *const blyan_hash,
    hex: *mut c_char,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let hash = unsafe { read(hash, "hash") }?;
        let digits = format!("{}\0", hash.block());
        // SAFETY: as above.
        unsafe { copy_out(digits.as_bytes(), hex.cast::<u8>(), size, "hex") }
    })
}

/// Reads 64 lowercase hexadecimal digits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_hash_from_hex(
    hex: *const c_char,
    hex_len: usize,
    hash: *mut blyan_hash,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (hex, hash) = unsafe { (text(hex, hex_len, "hex")?, out(hash, "hash")?) };
        hash.set(hex.parse::<BlockHash>()?.into());
        Ok(())
    })
}

/// A list of hashes that the caller owns.
pub struct blyan_hashes(pub(crate) Vec<BlockHash>);

/// Number of hashes; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_hashes_len(hashes: *const blyan_hashes) -> usize {
    // SAFETY: NULL or a handle.
    unsafe { hashes.as_ref() }.map_or(0, |hashes| hashes.0.len())
}

/// One of the hashes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_hashes_get(
    hashes: *const blyan_hashes,
    index: usize,
    hash: *mut blyan_hash,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (hashes, hash) = unsafe { (read(hashes, "hashes")?, out(hash, "hash")?) };
        hash.set((*at(&hashes.0, index)?).into());
        Ok(())
    })
}

/// Frees a list of hashes; nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_hashes_free(hashes: *mut blyan_hashes) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(hashes) }
}

/// Blocks that the caller names.
///
/// # Safety
///
/// NULL, or valid for reads of `len` hashes.
pub(crate) unsafe fn block_hashes(
    hashes: *const blyan_hash,
    len: usize,
    name: &str,
) -> Outcome<Vec<BlockHash>> {
    // SAFETY: the caller's promise.
    Ok(unsafe { slice(hashes, len, name) }?.iter().map(blyan_hash::block).collect())
}

/// As [`block_hashes`], none if there is no list; a list of nothing is one.
///
/// # Safety
///
/// As [`block_hashes`].
pub(crate) unsafe fn optional_block_hashes(
    hashes: *const blyan_hash,
    len: usize,
    name: &str,
) -> Outcome<Option<Vec<BlockHash>>> {
    if hashes.is_null() && len == 0 {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    unsafe { block_hashes(hashes, len, name) }.map(Some)
}

/// An element of a list.
pub(crate) fn at<T>(list: &[T], index: usize) -> Outcome<&T> {
    list.get(index).ok_or_else(|| Failure::index(index, list.len()))
}
