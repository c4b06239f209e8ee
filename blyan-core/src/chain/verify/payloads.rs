//! Owns hashing every payload file, one on each thread, near the speed of BLAKE3 itself.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use rayon::prelude::*;

use super::Watch;
use super::audit::Audit;
use crate::chain::Chain;
use crate::chain::error::{ChainError, Damage};
use crate::hash::{BlockHash, PayloadHash};
use crate::storage::{PayloadStore, StorageError};

/// A payload file and the blocks that carry it.
struct PayloadFile {
    payload: PayloadHash,
    len_bytes: u64,
    blocks: Vec<BlockHash>,
}

impl Audit<'_> {
    /// Every payload file must be there and hash to its name.
    pub(super) fn check_payload_files(&mut self, chain: &Chain) -> Result<(), ChainError> {
        let store = chain.payloads();
        let mut by_payload: HashMap<(PayloadHash, u64), Vec<BlockHash>> = HashMap::new();
        for (block, seen) in self.seen.iter().filter(|(_, seen)| !seen.inline) {
            by_payload.entry((seen.payload, seen.payload_len)).or_default().push(*block);
        }
        let mut files: Vec<PayloadFile> = by_payload
            .into_iter()
            .map(|((payload, len_bytes), blocks)| PayloadFile { payload, len_bytes, blocks })
            .collect();
        // The long ones first, so that no thread ends with one alone.
        files.sort_unstable_by_key(|file| (std::cmp::Reverse(file.len_bytes), file.payload));
        let total = files.iter().fold(0_u64, |sum, file| sum.saturating_add(file.len_bytes));
        self.watch.total_payload_bytes.store(total, Ordering::Relaxed);
        let watch = self.watch;
        let check = |file: &PayloadFile| match check_file(store, file, watch) {
            Ok(()) => Ok(None),
            Err(ChainError::Storage(error)) => Ok(Some(error)),
            Err(error) => Err(error),
        };
        let failures: Vec<Option<StorageError>> =
            watch.tell_during(|| files.par_iter().with_max_len(1).map(check).collect())?;
        for (file, failure) in files.iter().zip(failures) {
            let Some(mut failure) = failure else { continue };
            if matches!(failure, StorageError::PayloadMissing { .. }) {
                // By now, as a writer may have collected it since this verification began.
                let collected = match chain.reader()?.is_collected(&file.payload) {
                    // What is noted cannot be read, which is told by itself.
                    Err(StorageError::IndexDamaged { .. }) => false,
                    collected => collected?,
                };
                if collected {
                    file.blocks.iter().for_each(|block| self.note_collected(*block));
                    continue;
                }
                // Or collected it and brought it back.
                failure = match check_file(store, file, watch) {
                    Ok(()) => continue,
                    Err(ChainError::Storage(failure)) => failure,
                    Err(error) => return Err(error),
                };
            }
            for block in &file.blocks {
                self.note(*block, Damage::Payload(same_failure(&failure)));
            }
        }
        self.payload_bytes = self.watch.payload_bytes.load(Ordering::Relaxed);
        Ok(())
    }
}

fn check_file(store: &PayloadStore, file: &PayloadFile, watch: &Watch<'_>) -> Result<(), ChainError> {
    store.check(&file.payload, file.len_bytes, |len_bytes| {
        watch.payload_bytes.fetch_add(len_bytes, Ordering::Relaxed);
        watch.step()
    })
}

/// One failure for each block that carries the payload; an I/O error cannot be cloned whole.
fn same_failure(failure: &StorageError) -> StorageError {
    match failure {
        StorageError::PayloadMissing { payload } => StorageError::PayloadMissing { payload: *payload },
        StorageError::PayloadLength { payload, expected, actual } => {
            StorageError::PayloadLength { payload: *payload, expected: *expected, actual: *actual }
        }
        StorageError::PayloadMismatch { payload, actual } => {
            StorageError::PayloadMismatch { payload: *payload, actual: *actual }
        }
        StorageError::Io { action, path, source } => StorageError::Io {
            action,
            path: path.clone(),
            source: std::io::Error::new(source.kind(), source.to_string()),
        },
        error => StorageError::Index { reason: error.to_string() },
    }
}
