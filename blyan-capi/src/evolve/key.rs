//! Owns the keys of those who say something.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use std::ffi::c_char;

use blyan_core::evolve::PublicKey;
use ed25519_dalek::SigningKey;

use crate::edge::{copy_out, free, new_handle, out, read, text};
use crate::error::{blyan_status, edge};
use crate::signature::signing_key;

/// An ed25519 key that signs what its owner says.
pub struct blyan_key(pub(crate) SigningKey);

/// An ed25519 public key: the only name that a contributor, validator or voter has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct blyan_public_key {
    /// The bytes.
    pub bytes: [u8; 32],
}

impl blyan_public_key {
    pub(crate) fn key(&self) -> PublicKey {
        PublicKey::from_bytes(self.bytes)
    }
}

impl From<PublicKey> for blyan_public_key {
    fn from(key: PublicKey) -> Self {
        Self { bytes: *key.as_bytes() }
    }
}

/// The key of `BLYAN_SECRET_KEY_SIZE` secret bytes, which the program draws from the system's source of
/// randomness and keeps: salts follow from them, so whoever has the key can go on with what it began.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_key_from_secret(
    secret_key: *const u8,
    secret_key_size: usize,
    key: *mut *mut blyan_key,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (key, secret) = unsafe { (new_handle(key, "key")?, signing_key(secret_key, secret_key_size)?) };
        key.set(blyan_key(secret));
        Ok(())
    })
}

/// The public key that verifies what a key signs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_key_public(
    key: *const blyan_key,
    public_key: *mut blyan_public_key,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (key, public_key) = unsafe { (read(key, "key")?, out(public_key, "public_key")?) };
        public_key.set(PublicKey::of(&key.0).into());
        Ok(())
    })
}

/// Frees a key; nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_key_free(key: *mut blyan_key) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(key) }
}

/// Writes 64 lowercase hexadecimal digits and a NUL; `size` must be `BLYAN_HASH_HEX_SIZE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_public_key_to_hex(
    public_key: *const blyan_public_key,
    hex: *mut c_char,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let public_key = unsafe { read(public_key, "public_key") }?;
        let digits = format!("{}\0", public_key.key());
        // SAFETY: as above.
        unsafe { copy_out(digits.as_bytes(), hex.cast::<u8>(), size, "hex") }
    })
}

/// Reads 64 lowercase hexadecimal digits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_public_key_from_hex(
    hex: *const c_char,
    hex_len: usize,
    public_key: *mut blyan_public_key,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (hex, public_key) = unsafe { (text(hex, hex_len, "hex")?, out(public_key, "public_key")?) };
        public_key.set(hex.parse::<PublicKey>()?.into());
        Ok(())
    })
}
