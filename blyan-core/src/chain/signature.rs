//! Owns signature records: ed25519 over a block's hash and a time, beside the block.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use crate::hash::BlockHash;

/// Somebody's signature on a block: they vouch for it as of a time they name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SignatureRecord {
    /// The ed25519 public key.
    pub public_key: [u8; 32],
    /// Milliseconds since 1970, as the signer says.
    pub time_ms: u64,
    /// The ed25519 signature.
    pub signature: [u8; 64],
}

/// What is signed: `derive_key("blyan signature 1")` over the block hash and the time (u64 LE).
fn message(block: &BlockHash, time_ms: u64) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("blyan signature 1");
    hasher.update(block.as_bytes()).update(&time_ms.to_le_bytes());
    *hasher.finalize().as_bytes()
}

impl SignatureRecord {
    /// Signs a block.
    pub fn sign(key: &SigningKey, block: &BlockHash, time_ms: u64) -> Self {
        let signature = key.sign(&message(block, time_ms)).to_bytes();
        Self { public_key: key.verifying_key().to_bytes(), time_ms, signature }
    }

    /// Whether the signature is of this block, time and key, by the strict rules that leave every
    /// implementation one answer.
    pub fn verifies(&self, block: &BlockHash) -> bool {
        VerifyingKey::from_bytes(&self.public_key).is_ok_and(|key| {
            key.verify_strict(&message(block, self.time_ms), &Signature::from_bytes(&self.signature)).is_ok()
        })
    }
}
