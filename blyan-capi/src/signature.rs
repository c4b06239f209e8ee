//! Owns signatures beside blocks.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use blyan_core::SignatureRecord;
use ed25519_dalek::SigningKey;

use crate::chain::blyan_chain;
use crate::edge::{free, new_handle, out, read, slice};
use crate::error::{Failure, Outcome, blyan_status, edge};
use crate::hash::{at, blyan_hash};

/// Somebody's ed25519 signature on a block: they vouch for it as of a time they name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct blyan_signature {
    /// The public key.
    pub public_key: [u8; 32],
    /// The signature.
    pub signature: [u8; 64],
    /// Milliseconds since 1970, as the signer says.
    pub time_ms: u64,
}

impl blyan_signature {
    fn new(record: &SignatureRecord) -> Self {
        Self { public_key: record.public_key, signature: record.signature, time_ms: record.time_ms }
    }

    pub(crate) fn record(&self) -> SignatureRecord {
        SignatureRecord { public_key: self.public_key, time_ms: self.time_ms, signature: self.signature }
    }
}

/// Bytes of an ed25519 secret key.
pub const BLYAN_SECRET_KEY_SIZE: usize = 32;

/// The key of 32 secret bytes.
///
/// # Safety
///
/// NULL, or valid for reads of `size` bytes.
pub(crate) unsafe fn signing_key(secret_key: *const u8, size: usize) -> Outcome<SigningKey> {
    if size != BLYAN_SECRET_KEY_SIZE {
        return Err(Failure::size(format!("a secret key has 32 bytes, not {size}")));
    }
    // SAFETY: the caller's promise.
    let secret = unsafe { slice(secret_key, size, "secret_key") }?;
    let secret: &[u8; BLYAN_SECRET_KEY_SIZE] =
        secret.try_into().map_err(|_| Failure::size("a secret key has 32 bytes"))?;
    Ok(SigningKey::from_bytes(secret))
}

/// Signs a block's hash; `secret_key_size` must be `BLYAN_SECRET_KEY_SIZE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_sign(
    secret_key: *const u8,
    secret_key_size: usize,
    block: *const blyan_hash,
    time_ms: u64,
    signature: *mut blyan_signature,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (block, signature) = unsafe { (read(block, "block")?, out(signature, "signature")?) };
        // SAFETY: as above.
        let key = unsafe { signing_key(secret_key, secret_key_size) }?;
        signature.set(blyan_signature::new(&SignatureRecord::sign(&key, &block.block(), time_ms)));
        Ok(())
    })
}

/// Whether a signature is of this block, its time and its key.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_signature_verifies(
    signature: *const blyan_signature,
    block: *const blyan_hash,
    verifies: *mut bool,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (signature, block, verifies) =
            unsafe { (read(signature, "signature")?, read(block, "block")?, out(verifies, "verifies")?) };
        verifies.set(signature.record().verifies(&block.block()));
        Ok(())
    })
}

/// Puts a signature beside a block, durably. Of one key at one time the first that is valid stays, and another
/// is left out without an error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_chain_add_signature(
    chain: *const blyan_chain,
    block: *const blyan_hash,
    signature: *const blyan_signature,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (chain, block, signature) =
            unsafe { (read(chain, "chain")?, read(block, "block")?, read(signature, "signature")?) };
        Ok(chain.to_write()?.add_signature(&block.block(), signature.record())?)
    })
}

/// The signatures beside a block.
pub struct blyan_signatures(Vec<blyan_signature>);

/// The signatures beside a block, each verified again, by key and time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_chain_signatures(
    chain: *const blyan_chain,
    block: *const blyan_hash,
    signatures: *mut *mut blyan_signatures,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (signatures, chain, block) =
            unsafe { (new_handle(signatures, "signatures")?, read(chain, "chain")?, read(block, "block")?) };
        let records = chain.chain.signatures(&block.block())?;
        signatures.set(blyan_signatures(records.iter().map(blyan_signature::new).collect()));
        Ok(())
    })
}

/// Number of signatures; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_signatures_len(signatures: *const blyan_signatures) -> usize {
    // SAFETY: NULL or a handle.
    unsafe { signatures.as_ref() }.map_or(0, |signatures| signatures.0.len())
}

/// One of the signatures.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_signatures_get(
    signatures: *const blyan_signatures,
    index: usize,
    signature: *mut blyan_signature,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (signatures, signature) =
            unsafe { (read(signatures, "signatures")?, out(signature, "signature")?) };
        signature.set(*at(&signatures.0, index)?);
        Ok(())
    })
}

/// Frees a list of signatures; nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_signatures_free(signatures: *mut blyan_signatures) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(signatures) }
}
