//! Owns verified access to payload files: a map is handed out only after its BLAKE3 matched.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::StorageError;
use super::medium::Medium;
use super::payload::Payload;
use super::trust::TrustRecord;
use crate::hash::PayloadHash;

/// Maps kept before those nobody uses are let go; Linux allows a process 65,530 maps.
const MAX_KEPT_MAPS: usize = 16_384;
/// Payloads at least this long are hashed by all threads.
const PARALLEL_HASH_BYTES: usize = 128 << 10;
/// Payloads at least this long are checked by all threads, one after the other.
const LARGE_PAYLOAD_BYTES: u64 = 64 << 20;
/// Bytes of a payload, and of a large one, that are looked at in one go; powers of two, as BLAKE3 likes.
const PART_BYTES: usize = 2 << 20;
const LARGE_PART_BYTES: usize = 16 << 20;

/// Payload files of one chain, verified once each.
///
/// Holds no database and no lock on the chain: whoever keeps one keeps nobody from writing.
#[derive(Debug)]
pub struct PayloadStore {
    medium: Arc<dyn Medium>,
    verified: Mutex<HashMap<PayloadHash, Payload>>,
}

impl PayloadStore {
    pub(crate) fn new(medium: Arc<dyn Medium>) -> Self {
        Self { medium, verified: Mutex::default() }
    }

    /// A store of the same payloads that shares no lock and no map with this one, but for the medium's own.
    pub(crate) fn reopen(&self) -> Self {
        Self::new(self.medium.clone())
    }

    /// The directory of the chain, where there is one.
    pub fn dir(&self) -> Option<&Path> {
        self.medium.dir()
    }

    /// The payload, mapped, its length and BLAKE3 checked the first time it is asked for.
    ///
    /// Hashes on all threads of the current rayon pool without holding a lock, so it can be called
    /// from within one: two racing callers may both hash, and share the map of the first.
    ///
    /// # Errors
    ///
    /// [`StorageError::PayloadMissing`], [`StorageError::PayloadLength`],
    /// [`StorageError::PayloadMismatch`], or the medium's failure.
    pub fn get(&self, payload: &PayloadHash, len_bytes: u64) -> Result<Payload, StorageError> {
        if let Some(known) = self.verified().get(payload) {
            check_len(payload, len_bytes, known)?;
            return Ok(known.clone());
        }
        let bytes = self.read(payload, len_bytes)?;
        check_hash(payload, &bytes)?;
        Ok(self.keep(payload, bytes))
    }

    /// As [`Self::get`], but a file that `record` knows, unchanged since its hash matched, is not
    /// hashed again; one that is hashed is put on record. What is had on trust is this caller's
    /// alone: [`Self::get`] never gives it to others.
    pub(crate) fn get_recorded(
        &self,
        payload: &PayloadHash,
        len_bytes: u64,
        record: &TrustRecord,
    ) -> Result<Payload, StorageError> {
        let identity = || {
            let identity = self.medium.payload_identity(payload);
            identity.map_err(StorageError::io("look at payload", PathBuf::from(payload.to_string())))
        };
        // The file is looked at before it is opened and again afterwards, so that what is known is
        // known of the file that was opened.
        let before = identity()?;
        let known = before.is_some_and(|before| record.knows(payload, &before));
        if known {
            let bytes = self.read(payload, len_bytes)?;
            if identity()? == before {
                return Ok(bytes);
            }
        }
        // Hashed even if a map was verified before: that may be of a file that is not there any more.
        let bytes = self.read(payload, len_bytes)?;
        check_hash(payload, &bytes)?;
        let bytes = self.keep(payload, bytes);
        if let Some(before) = before.filter(|before| identity().is_ok_and(|now| now == Some(*before))) {
            record.add(payload, before);
        }
        Ok(bytes)
    }

    fn keep(&self, payload: &PayloadHash, bytes: Payload) -> Payload {
        let mut verified = self.verified();
        if verified.len() >= MAX_KEPT_MAPS {
            verified.retain(|_, map| !map.is_unshared());
        }
        verified.entry(*payload).or_insert(bytes).clone()
    }

    /// The payload's bytes as they are now, mapped, its length checked and nothing else.
    pub(crate) fn read(&self, payload: &PayloadHash, len_bytes: u64) -> Result<Payload, StorageError> {
        let found = self.medium.open_payload(payload);
        let bytes = found
            .map_err(StorageError::io("open payload", PathBuf::from(payload.to_string())))?
            .ok_or(StorageError::PayloadMissing { payload: *payload })?;
        check_len(payload, len_bytes, &bytes)?;
        Ok(bytes)
    }

    /// Whether the file as it is now holds what its name says; an error only if it cannot be read.
    pub(crate) fn is_intact(&self, payload: &PayloadHash, len_bytes: u64) -> Result<bool, StorageError> {
        match self.read(payload, len_bytes).and_then(|bytes| check_hash(payload, &bytes)) {
            Ok(()) => Ok(true),
            Err(
                StorageError::PayloadMissing { .. }
                | StorageError::PayloadLength { .. }
                | StorageError::PayloadMismatch { .. },
            ) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether there is a file of that name, whatever it holds.
    pub(crate) fn holds(&self, payload: &PayloadHash) -> Result<bool, StorageError> {
        let found = self.medium.stream_payload(payload, PART_BYTES);
        Ok(found.map_err(StorageError::io("open payload", PathBuf::from(payload.to_string())))?.is_some())
    }

    /// Reads the payload through once and checks it; a disk that cannot read it is an error. `on_part` hears of every
    /// part's length and may end it.
    ///
    /// Works for any payload within [`PART_BYTES`], or [`LARGE_PART_BYTES`] and all threads for a large one.
    pub(crate) fn check<E: From<StorageError>>(
        &self,
        payload: &PayloadHash,
        len_bytes: u64,
        mut on_part: impl FnMut(u64) -> Result<(), E>,
    ) -> Result<(), E> {
        let path = || PathBuf::from(payload.to_string());
        let large = len_bytes >= LARGE_PAYLOAD_BYTES;
        let part_bytes = if large { LARGE_PART_BYTES } else { PART_BYTES };
        let found = self.medium.stream_payload(payload, part_bytes);
        let found = found.map_err(StorageError::io("open payload", path()))?;
        let (actual, mut stream) = found.ok_or(StorageError::PayloadMissing { payload: *payload })?;
        let length = |actual| StorageError::PayloadLength { payload: *payload, expected: len_bytes, actual };
        if actual != len_bytes {
            return Err(length(actual).into());
        }
        let mut hasher = blake3::Hasher::new();
        let mut rest = len_bytes;
        while rest > 0 {
            let part = match stream.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => &[],
                part => part.map_err(StorageError::io("read payload", path()))?,
            };
            let len = part.len().min(part_bytes).min(usize::try_from(rest).unwrap_or(usize::MAX));
            let (part, _) = part.split_at(len);
            if part.is_empty() {
                // It was cut while it was read.
                return Err(length(len_bytes - rest).into());
            }
            if large {
                hasher.update_rayon(part);
            } else {
                hasher.update(part);
            }
            stream.consume(len);
            rest -= len as u64;
            on_part(len as u64)?;
        }
        let actual = PayloadHash::from_bytes(*hasher.finalize().as_bytes());
        if actual == *payload {
            Ok(())
        } else {
            Err(StorageError::PayloadMismatch { payload: *payload, actual }.into())
        }
    }

    /// Forgets a payload whose file is replaced.
    pub(crate) fn forget(&self, payload: &PayloadHash) {
        self.verified().remove(payload);
    }

    fn verified(&self) -> MutexGuard<'_, HashMap<PayloadHash, Payload>> {
        // A map entry is inserted whole or not at all, so a poisoned lock changes nothing.
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check_len(payload: &PayloadHash, expected: u64, bytes: &[u8]) -> Result<(), StorageError> {
    let actual = bytes.len() as u64;
    if actual == expected {
        Ok(())
    } else {
        Err(StorageError::PayloadLength { payload: *payload, expected, actual })
    }
}

/// Compares bytes with the hash that names them.
pub(crate) fn check_hash(payload: &PayloadHash, bytes: &[u8]) -> Result<(), StorageError> {
    let actual = hash_payload(bytes);
    if actual == *payload { Ok(()) } else { Err(StorageError::PayloadMismatch { payload: *payload, actual }) }
}

/// Hashes on as many threads as the length is worth.
pub(crate) fn hash_payload(bytes: &[u8]) -> PayloadHash {
    if bytes.len() < PARALLEL_HASH_BYTES { PayloadHash::of(bytes) } else { PayloadHash::of_parallel(bytes) }
}
