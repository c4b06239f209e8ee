//! Owns the names of things: 32-byte BLAKE3 hashes, one type per kind of thing.
//!
//! A payload's hash is plain BLAKE3, so that `b3sum` checks a payload file. Every other hash is
//! domain-separated with BLAKE3's `derive_key` mode: equal bytes in two roles never share a name.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Length of every hash in bytes.
pub const HASH_LEN: usize = 32;

/// Text that is not 64 lowercase hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a hash is 64 lowercase hexadecimal digits, got {text:?}")]
pub struct ParseHashError {
    /// The text as given, cut to 80 characters.
    pub text: String,
}

fn parse_hex(text: &str) -> Result<[u8; HASH_LEN], ParseHashError> {
    let error = || ParseHashError { text: text.chars().take(80).collect() };
    let digits = text.as_bytes();
    if digits.len() != 2 * HASH_LEN {
        return Err(error());
    }
    let digit = |c: u8| match c {
        b'0'..=b'9' => c - b'0',
        b'a'..=b'f' => c - b'a' + 10,
        _ => u8::MAX,
    };
    // Looked at once, behind the loop: a model's manifest has ten thousand of these.
    let (mut bytes, mut seen) = ([0; HASH_LEN], 0);
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let (high, low) = (digit(pair[0]), digit(pair[1]));
        seen |= high | low;
        *byte = high << 4 | low;
    }
    if seen <= 0xf { Ok(bytes) } else { Err(error()) }
}

macro_rules! hash_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
        pub struct $name([u8; HASH_LEN]);

        impl $name {
            /// Wraps 32 bytes.
            pub const fn from_bytes(bytes: [u8; HASH_LEN]) -> Self {
                Self(bytes)
            }

            /// The 32 bytes.
            pub const fn as_bytes(&self) -> &[u8; HASH_LEN] {
                &self.0
            }

            /// The first 12 hexadecimal digits, for people.
            pub fn short(&self) -> String {
                let mut text = self.to_string();
                text.truncate(12);
                text
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = ParseHashError;

            fn from_str(text: &str) -> Result<Self, ParseHashError> {
                parse_hex(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str> as Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

hash_type! {
    /// Names a block: `derive_key("blyan block 1")` of its header bytes.
    BlockHash
}
hash_type! {
    /// Names a payload: plain BLAKE3 of its bytes, what `b3sum` prints.
    PayloadHash
}
hash_type! {
    /// Names a whole model: `derive_key("blyan snapshot 1")` of spec hash and sorted slots.
    SnapshotRoot
}
hash_type! {
    /// Names the tips of a chain: `derive_key("blyan chain root 1")` of the sorted tips.
    ChainRoot
}
hash_type! {
    /// Digest of the logits a generation sampled from: `derive_key("blyan logits 1")`.
    LogitsDigest
}
hash_type! {
    /// Names a receipt: `derive_key("blyan receipt 1")` of its canonical JSON.
    ReceiptHash
}

hash_type! {
    /// Commits to something that is shown later: a salted hash that tells nothing before.
    Commitment
}
hash_type! {
    /// Makes a commitment tell nothing: 32 bytes that nobody can guess.
    Salt
}
hash_type! {
    /// Names what a candidate changes: `derive_key("blyan candidate 1")` of the base model and the new
    /// blocks.
    CandidateRoot
}

impl BlockHash {
    /// Hashes canonical header bytes.
    pub fn of_header(header: &[u8]) -> Self {
        Self(blake3::derive_key("blyan block 1", header))
    }
}

/// The process in which rayon's global pool may have been started; 0 before it is known.
static FIRST_PROCESS: AtomicU32 = AtomicU32::new(0);

/// Whether this is the process that asked first, and not one made from it by `fork`: the first call notes the process.
///
/// The threads of rayon's global pool are those of the process that used it first, and waiting for them in a child
/// would take for ever. Opening a chain asks. Who uses rayon's pool before that, and forks, asks at the start.
pub fn is_first_process() -> bool {
    let here = std::process::id();
    // Without waiting: a thread that is about to answer does not live in the child.
    match FIRST_PROCESS.compare_exchange(0, here, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => true,
        Err(first) => first == here,
    }
}

/// Whether work may be given to the current rayon pool.
///
/// In a process made by `fork` only to one that this thread belongs to: the global pool's threads are the parent's,
/// and waiting for them would take for ever.
pub(crate) fn may_use_pool() -> bool {
    rayon::current_thread_index().is_some() || is_first_process()
}

impl PayloadHash {
    /// Hashes a payload, on the calling thread.
    pub fn of(payload: &[u8]) -> Self {
        Self(*blake3::hash(payload).as_bytes())
    }

    /// Hashes a payload on all threads of the current rayon pool; in a process made by `fork` that is a pool this
    /// thread belongs to, or else the thread alone.
    pub fn of_parallel(payload: &[u8]) -> Self {
        if !may_use_pool() {
            return Self::of(payload);
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update_rayon(payload);
        Self(*hasher.finalize().as_bytes())
    }
}

/// Hashes a sequence of parts under one of the domains above.
#[derive(Debug, Clone)]
pub(crate) struct DomainHasher(blake3::Hasher);

impl DomainHasher {
    pub(crate) fn snapshot() -> Self {
        Self(blake3::Hasher::new_derive_key("blyan snapshot 1"))
    }

    pub(crate) fn chain_root() -> Self {
        Self(blake3::Hasher::new_derive_key("blyan chain root 1"))
    }

    pub(crate) fn logits() -> Self {
        Self(blake3::Hasher::new_derive_key("blyan logits 1"))
    }

    pub(crate) fn receipt() -> Self {
        Self(blake3::Hasher::new_derive_key("blyan receipt 1"))
    }

    pub(crate) fn split() -> Self {
        Self(blake3::Hasher::new_derive_key("blyan split 1"))
    }

    pub(crate) fn claim() -> Self {
        Self(blake3::Hasher::new_derive_key("blyan claim 1"))
    }

    pub(crate) fn candidate() -> Self {
        Self(blake3::Hasher::new_derive_key("blyan candidate 1"))
    }

    pub(crate) fn salt() -> Self {
        Self(blake3::Hasher::new_derive_key("blyan salt 1"))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(bytes);
        self
    }

    pub(crate) fn finish(&self) -> [u8; HASH_LEN] {
        *self.0.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_hash_is_plain_blake3() {
        // `printf abc | b3sum`
        assert_eq!(
            PayloadHash::of(b"abc").to_string(),
            "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"
        );
    }

    #[test]
    fn equal_bytes_in_two_roles_have_two_names() {
        assert_ne!(BlockHash::of_header(b"abc").as_bytes(), PayloadHash::of(b"abc").as_bytes());
    }

    #[test]
    fn text_round_trips_and_other_text_is_refused() {
        let hash = PayloadHash::of(b"x");
        assert_eq!(hash.to_string().parse::<PayloadHash>().unwrap(), hash);
        assert!(hash.to_string().to_uppercase().parse::<PayloadHash>().is_err());
        assert!("".parse::<PayloadHash>().is_err());
        assert!("é".repeat(32).parse::<PayloadHash>().is_err());
    }
}
