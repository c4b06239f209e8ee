//! Owns [`PublicKey`]: who says something. Also hexadecimal digits, for keys and signatures.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{SigningKey, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An ed25519 public key: the only name that a contributor, validator or voter has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

/// Text that is not lowercase hexadecimal digits of the right number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} lowercase hexadecimal digits, got {text:?}")]
pub struct ParseKeyError {
    /// The text as given, cut to 140 characters.
    pub text: String,
    /// Number of digits.
    pub expected: usize,
}

impl PublicKey {
    /// Wraps 32 bytes. They may be no point of the curve; then nothing verifies under them.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key that verifies what `key` signs.
    pub fn of(key: &SigningKey) -> Self {
        Self(key.verifying_key().to_bytes())
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 12 hexadecimal digits, for people.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(12);
        text
    }

    /// The key to verify with: a point of the curve of full order, in its one spelling.
    pub(super) fn verifying(&self) -> Option<VerifyingKey> {
        let key = VerifyingKey::from_bytes(&self.0).ok().filter(|key| !key.is_weak())?;
        // A small coordinate can also be written 2^255 - 19 larger: a second name of the same key.
        (key.to_edwards().compress().to_bytes() == self.0).then_some(key)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        from_hex(text).map(Self)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

pub(super) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn from_hex<const N: usize>(text: &str) -> Result<[u8; N], ParseKeyError> {
    let error = || ParseKeyError { text: text.chars().take(140).collect(), expected: 2 * N };
    if text.len() != 2 * N {
        return Err(error());
    }
    let digit = |c: u8| match c {
        b'0'..=b'9' => Ok(c - b'0'),
        b'a'..=b'f' => Ok(c - b'a' + 10),
        _ => Err(error()),
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_other_text_is_refused() {
        let key = PublicKey::of(&SigningKey::from_bytes(&[1; 32]));
        // RFC 8032 keys come from SHA-512 of the seed; this one from Python's `cryptography`.
        assert_eq!(key.to_string(), "8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c");
        assert_eq!(key.to_string().parse(), Ok(key));
        assert!(key.to_string().to_uppercase().parse::<PublicKey>().is_err());
        for wrong in ["", "8a", &"é".repeat(32)] {
            assert!(wrong.parse::<PublicKey>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn keys_of_small_order_and_second_spellings_verify_nothing() {
        let mut neutral = [0; 32];
        neutral[0] = 1;
        assert!(PublicKey::from_bytes(neutral).verifying().is_none());
        assert!(PublicKey::from_bytes([0xff; 32]).verifying().is_none());
    }
}
