//! Owns reading from one snapshot of the index, checking each value against what names it.

use std::ops::Bound;

use redb::{ReadTransaction, TableDefinition, Value};

use super::block::Block;
use super::error::{ChainError, Damage};
use super::signature::SignatureRecord;
use super::tables;
use crate::format::Header;
use crate::hash::{BlockHash, PayloadHash};
use crate::storage::index::Snapshot;
use crate::storage::payload_store::check_hash;
use crate::storage::{Payload, PayloadStore, StorageError};

/// Keys fetched by one call of [`Reader::scan`].
pub(super) const SCAN_KEYS: usize = 256;

pub(super) struct Reader {
    snapshot: Snapshot,
}

/// A failure to read the entry of one block: damage is the block's, all else the medium's.
pub(super) fn entry_error(block: &BlockHash, table: &'static str) -> impl FnOnce(StorageError) -> ChainError {
    let block = *block;
    move |error| match error {
        StorageError::IndexDamaged { reason } => {
            ChainError::Damaged { block, reason: Damage::Unreadable { table, reason } }
        }
        error => ChainError::Storage(error),
    }
}

/// A payload that is not what its block says is the block's damage, all else the medium's.
pub(super) fn payload_error(block: &BlockHash) -> impl FnOnce(StorageError) -> ChainError {
    let block = *block;
    move |error| match error {
        error @ (StorageError::PayloadMissing { .. }
        | StorageError::PayloadLength { .. }
        | StorageError::PayloadMismatch { .. }) => {
            ChainError::Damaged { block, reason: Damage::Payload(error) }
        }
        error => ChainError::Storage(error),
    }
}

/// Reads a value of the table `blocks`, checking it against its key.
pub(super) fn decode_block(block: &BlockHash, value: &[u8]) -> Result<Block, ChainError> {
    let damaged = |reason| ChainError::Damaged { block: *block, reason };
    let (height, header) = tables::split_block_value(value).unwrap_or((0, &[]));
    let actual = BlockHash::of_header(header);
    if actual != *block {
        return Err(damaged(Damage::HeaderHash { actual }));
    }
    let header = Header::from_bytes(header).map_err(|error| damaged(Damage::Header(error)))?;
    Ok(Block::new(*block, header, height))
}

impl Reader {
    pub(super) fn new(snapshot: Snapshot) -> Self {
        Self { snapshot }
    }

    /// Runs code on the snapshot; whatever redb does in it, panics included, is a typed error.
    pub(super) fn read<T>(
        &self,
        call: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StorageError> {
        self.snapshot.read(call)
    }

    pub(super) fn block_count(&self) -> Result<u64, ChainError> {
        Ok(self.snapshot.read(tables::block_count)?)
    }

    pub(super) fn find(&self, block: &BlockHash) -> Result<Option<Block>, ChainError> {
        let value = self
            .snapshot
            .read(|transaction| tables::block_bytes(&transaction.open_table(tables::BLOCKS)?, block))
            .map_err(entry_error(block, "blocks"))?;
        value.map(|value| decode_block(block, &value)).transpose()
    }

    pub(super) fn get(&self, block: &BlockHash) -> Result<Block, ChainError> {
        self.find(block)?.ok_or(ChainError::NotFound { block: *block })
    }

    /// A block that another entry of the index names: missing, it is damaged.
    pub(super) fn named(&self, block: &BlockHash) -> Result<Block, ChainError> {
        let missing = ChainError::Damaged { block: *block, reason: Damage::HeaderMissing };
        self.find(block)?.ok_or(missing)
    }

    pub(super) fn payload(
        &self,
        block: &BlockHash,
        header: &Header,
        files: &PayloadStore,
    ) -> Result<Payload, ChainError> {
        let payload = &header.payload;
        if !tables::is_inline(header) {
            return files.get(&payload.hash, payload.len_bytes).map_err(payload_error(block));
        }
        Ok(Payload::from(self.inline_payload(block, &payload.hash)?))
    }

    /// A payload that lies in the index, checked against its hash.
    pub(super) fn inline_payload(
        &self,
        block: &BlockHash,
        payload: &PayloadHash,
    ) -> Result<Vec<u8>, ChainError> {
        let bytes = self
            .snapshot
            .read(|transaction| {
                let table = transaction.open_table(tables::PAYLOADS)?;
                Ok(table.get(payload.as_bytes())?.map(|bytes| bytes.value().to_vec()))
            })
            .map_err(entry_error(block, "payloads"))?;
        let missing = Damage::InlinePayloadMissing { payload: *payload };
        let bytes = bytes.ok_or(ChainError::Damaged { block: *block, reason: missing })?;
        check_hash(payload, &bytes).map_err(payload_error(block))?;
        Ok(bytes)
    }

    /// Up to [`SCAN_KEYS`] keys that begin with `prefix`, the first after `after`.
    pub(super) fn scan<const N: usize, V: Value + 'static>(
        &self,
        table: TableDefinition<'static, [u8; N], V>,
        prefix: &[u8],
        after: Option<[u8; N]>,
    ) -> Result<Vec<[u8; N]>, StorageError> {
        let (mut first, mut last) = ([0; N], [0xff; N]);
        for ((low, high), byte) in first.iter_mut().zip(&mut last).zip(prefix) {
            (*low, *high) = (*byte, *byte);
        }
        let start = after.map_or(Bound::Included(first), Bound::Excluded);
        self.snapshot.read(|transaction| {
            let table = transaction.open_table(table)?;
            let range = table.range::<[u8; N]>((start, Bound::Included(last)))?;
            let mut keys = Vec::new();
            for entry in range.take(SCAN_KEYS) {
                keys.push(entry?.0.value());
            }
            Ok(keys)
        })
    }

    /// Every key that begins with `prefix`.
    pub(super) fn scan_all<const N: usize, V: Value + 'static>(
        &self,
        table: TableDefinition<'static, [u8; N], V>,
        prefix: &[u8],
    ) -> Result<Vec<[u8; N]>, StorageError> {
        let mut keys = Vec::new();
        loop {
            let batch = self.scan(table, prefix, keys.last().copied())?;
            let complete = batch.len() < SCAN_KEYS;
            keys.extend(batch);
            if complete {
                return Ok(keys);
            }
        }
    }

    /// Blocks of a name, and whether each is a head.
    pub(super) fn blocks_of_name(&self, name: &str) -> Result<Vec<(BlockHash, bool)>, StorageError> {
        let (first, last) = ([name.as_bytes(), &[0]].concat(), [name.as_bytes(), &[1]].concat());
        self.snapshot.read(|transaction| {
            let table = transaction.open_table(tables::NAMES)?;
            let mut blocks = Vec::new();
            for entry in table.range(first.as_slice()..last.as_slice())? {
                let (key, head) = entry?;
                blocks.push((tables::last_hash(key.value()), head.value() != 0));
            }
            Ok(blocks)
        })
    }

    /// The signature records beside a block, as they are stored.
    pub(super) fn signatures(&self, block: &BlockHash) -> Result<Vec<SignatureRecord>, ChainError> {
        let read = self.snapshot.read(|transaction| {
            let table = transaction.open_table(tables::SIGNATURES)?;
            let (first, last) = (
                tables::signature_key(block, &[0; 32], 0),
                tables::signature_key(block, &[0xff; 32], u64::MAX),
            );
            let mut records = Vec::new();
            for entry in table.range(first..=last)? {
                let (key, signature) = entry?;
                records.push(tables::signature_record(&key.value(), signature.value()));
            }
            Ok(records)
        });
        read.map_err(entry_error(block, "signatures"))
    }
}
