//! Owns reading from one snapshot of the index, checking each value against what names it.

use std::ops::Bound;
use std::sync::{Arc, OnceLock};

use rayon::prelude::*;
use redb::{ReadTransaction, TableDefinition, Value};

use super::block::Block;
use super::error::{ChainError, Damage};
use super::signature::SignatureRecord;
use super::tables::{self, BlockValue, Found, LaneEntry, Lookup, Settled};
use crate::format::Header;
use crate::hash::{BlockHash, PayloadHash, may_use_pool};
use crate::storage::index::Snapshot;
use crate::storage::payload_store::check_hash;
use crate::storage::{Payload, PayloadStore, StorageError};

/// Keys fetched by one step of [`Reader::scan`].
const SCAN_KEYS: usize = 4096;

/// Blocks that a thread looks up at least, where many are asked for.
const BLOCKS_PER_TASK: usize = 256;

/// A block as it is stored: the block, and its payload if that lies in the index.
pub(super) struct Stored {
    pub(super) block: Block,
    value: Vec<u8>,
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

/// The hash of the header in a value of `blocks`: the block that the value really is.
pub(super) fn hash_of_value(value: &[u8]) -> BlockHash {
    BlockHash::of_header(BlockValue::from_bytes(value).header)
}

impl Stored {
    /// Reads a value of `blocks`, checking it against the hash that it was found by.
    pub(super) fn decode(block: &BlockHash, number: u64, value: Vec<u8>) -> Result<Self, ChainError> {
        match hash_of_value(&value) {
            actual if actual == *block => Self::parse(block, number, value),
            actual => Err(ChainError::Damaged { block: *block, reason: Damage::HeaderHash { actual } }),
        }
    }

    /// The same of a value whose header was seen to hash to the block.
    fn parse(block: &BlockHash, number: u64, value: Vec<u8>) -> Result<Self, ChainError> {
        let BlockValue { height, header, .. } = BlockValue::from_bytes(&value);
        let header = Header::from_bytes(header)
            .map_err(|error| ChainError::Damaged { block: *block, reason: Damage::Header(error) })?;
        Ok(Self { block: Block::new(*block, header, height, number), value })
    }

    fn found(block: &BlockHash, found: Found) -> Result<Option<Self>, ChainError> {
        let damaged = |reason| Err(ChainError::Damaged { block: *block, reason });
        match found {
            Found::Nothing => Ok(None),
            Found::NumberOnly => damaged(Damage::HeaderMissing),
            Found::Other(actual) => damaged(Damage::HeaderHash { actual }),
            Found::Value(number, value) => Self::parse(block, number, value).map(Some),
        }
    }

    /// The payload in the index, checked against its hash.
    ///
    /// # Errors
    ///
    /// [`ChainError::Damaged`] if it is not what the header names.
    pub(super) fn inline_payload(&self) -> Result<&[u8], ChainError> {
        let block = self.block.hash();
        let PayloadHashAndLen { payload, expected } = self.payload_ref();
        let bytes = BlockValue::from_bytes(&self.value).payload;
        let actual = bytes.len() as u64;
        if actual != expected {
            return Err(payload_error(&block)(StorageError::PayloadLength { payload, expected, actual }));
        }
        check_hash(&payload, bytes).map_err(payload_error(&block))?;
        Ok(bytes)
    }

    fn payload_ref(&self) -> PayloadHashAndLen {
        let payload = &self.block.header().payload;
        PayloadHashAndLen { payload: payload.hash, expected: payload.len_bytes }
    }

    /// The payload, from wherever it lies, verified.
    pub(super) fn payload(&self, files: &PayloadStore) -> Result<Payload, ChainError> {
        if tables::is_inline(self.block.header()) {
            return Ok(Payload::from(self.inline_payload()?.to_vec()));
        }
        let PayloadHashAndLen { payload, expected } = self.payload_ref();
        files.get(&payload, expected).map_err(payload_error(&self.block.hash()))
    }

    /// The same block with another payload in the index.
    pub(super) fn with_inline_payload(&self, payload: &[u8]) -> Vec<u8> {
        BlockValue { payload, ..BlockValue::from_bytes(&self.value) }.to_bytes()
    }
}

struct PayloadHashAndLen {
    payload: PayloadHash,
    expected: u64,
}

/// All keys of `lanes`.
pub(super) const ALL_LANES: ([u8; 19], [u8; 19]) = ([0; 19], [0xff; 19]);

pub(super) struct Reader {
    /// Opened by the first look-up. Dropped before the snapshot, so that the transaction ends with that, guarded.
    lookup: OnceLock<Lookup>,
    /// The entries of `recent_lanes` as those of `lanes`, in their order there. Read by the first who asks for such.
    recent_lanes: OnceLock<Vec<LaneEntry>>,
    snapshot: Arc<Snapshot>,
}

impl Reader {
    pub(super) fn new(snapshot: Arc<Snapshot>) -> Self {
        Self { lookup: OnceLock::new(), recent_lanes: OnceLock::new(), snapshot }
    }

    /// Runs code on the snapshot; whatever redb does in it, panics included, is a typed error.
    pub(super) fn read<T>(
        &self,
        call: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StorageError> {
        self.snapshot.read(call)
    }

    /// Runs code on the tables that blocks are looked up in.
    pub(super) fn look_up<T>(
        &self,
        call: impl FnOnce(&Lookup) -> Result<T, redb::Error>,
    ) -> Result<T, StorageError> {
        self.read(|transaction| match self.lookup.get() {
            Some(lookup) => call(lookup),
            None => {
                let opened = Lookup::open(transaction)?;
                call(self.lookup.get_or_init(|| opened))
            }
        })
    }

    pub(super) fn block_count(&self) -> Result<u64, ChainError> {
        Ok(self.read(tables::block_count)?)
    }

    pub(super) fn find(&self, block: &BlockHash) -> Result<Option<Stored>, ChainError> {
        let found = self.look_up(|lookup| lookup.find(block));
        Stored::found(block, found.map_err(entry_error(block, "blocks"))?)
    }

    pub(super) fn get(&self, block: &BlockHash) -> Result<Stored, ChainError> {
        self.find(block)?.ok_or(ChainError::NotFound { block: *block })
    }

    pub(super) fn get_all(&self, blocks: &[BlockHash]) -> Result<Vec<Block>, ChainError> {
        if !may_use_pool() {
            return self.get_some(blocks);
        }
        let tasks = blocks.par_chunks(BLOCKS_PER_TASK).map(|blocks| self.get_some(blocks));
        let mut all = Vec::with_capacity(blocks.len());
        let mut failed = None;
        for found in tasks.collect::<Vec<_>>() {
            match (found, &failed) {
                (Ok(found), None) => all.extend(found),
                // After a failure of the medium, whichever task met it, the others are told that there was one.
                (Err(error), None)
                | (
                    Err(error @ ChainError::Storage(StorageError::Io { .. })),
                    Some(
                        ChainError::Storage(StorageError::Index { .. } | StorageError::IndexDamaged { .. })
                        | ChainError::Damaged { reason: Damage::Unreadable { .. }, .. },
                    ),
                ) => failed = Some(error),
                _ => {}
            }
        }
        failed.map_or(Ok(all), Err)
    }

    /// Blocks found in one go; the error is that of the first one that has one.
    fn get_some(&self, blocks: &[BlockHash]) -> Result<Vec<Block>, ChainError> {
        let mut found = Vec::with_capacity(blocks.len());
        let read = self.look_up(|lookup| {
            for block in blocks {
                found.push((block, lookup.find(block)?));
                if !matches!(found.last(), Some((_, Found::Value(..)))) {
                    break;
                }
            }
            Ok(())
        });
        let parse = |(block, found): (&BlockHash, Found)| match Stored::found(block, found)? {
            Some(stored) => Ok(stored.block),
            None => Err(ChainError::NotFound { block: *block }),
        };
        let all = found.into_iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        match (read, blocks.get(all.len())) {
            (Err(error), Some(block)) => Err(entry_error(block, "blocks")(error)),
            (Err(error), None) => Err(error.into()),
            (Ok(()), _) => Ok(all),
        }
    }

    /// The value of `blocks` under a number.
    pub(super) fn value(&self, number: u64) -> Result<Option<Vec<u8>>, StorageError> {
        self.read(|transaction| {
            let value = transaction.open_table(tables::BLOCKS)?.get(number)?;
            Ok(value.map(|value| value.value().to_vec()))
        })
    }

    /// The block under a number that an entry of the index names.
    pub(super) fn numbered(&self, number: u64, table: &'static str) -> Result<Block, ChainError> {
        let dangling = || StorageError::IndexDamaged {
            reason: format!("the table {table:?} names block number {number}, which does not exist"),
        };
        let value = match self.value(number) {
            Ok(value) => value.ok_or_else(dangling)?,
            Err(error) => return Err(self.name_damage(number, error)),
        };
        let actual = hash_of_value(&value);
        // A header that was changed hashes to something, but not to a name that was given out.
        let given = self.look_up(|lookup| lookup.numbers.contains(&actual, number));
        if given.map_err(|error| entry_error(&actual, self.table_of(number))(error))? {
            return Ok(Stored::parse(&actual, number, value)?.block);
        }
        match self.name_of(number)? {
            Some(block) if block != actual => {
                Err(ChainError::Damaged { block, reason: Damage::HeaderHash { actual } })
            }
            _ => {
                let reason = Damage::Entry { table: self.table_of(number) };
                Err(ChainError::Damaged { block: actual, reason })
            }
        }
    }

    /// The table that a number's hash is in, for errors.
    pub(super) fn table_of(&self, number: u64) -> &'static str {
        match self.read(tables::settled) {
            Ok(Settled { hashes: Some(settled), .. }) if number >= settled => "recent",
            _ => "numbers",
        }
    }

    /// The table that a number's place in its lane is in, for errors.
    pub(super) fn lanes_of(&self, number: u64) -> &'static str {
        match self.read(tables::settled) {
            Ok(Settled { lanes: Some(settled), .. }) if number >= settled => "recent_lanes",
            _ => "lanes",
        }
    }

    /// Finds the hash that a number was given to, by going through all of them: for errors only.
    fn name_of(&self, number: u64) -> Result<Option<BlockHash>, StorageError> {
        let find = |given: &[LaneEntry]| {
            given.iter().find(|(key, _)| tables::last_number(key) == number).map(|(_, hash)| *hash)
        };
        match self.recent_lanes(ALL_LANES).map(find) {
            Ok(Some(block)) => Ok(Some(block)),
            _ => Ok(find(&self.settled_lanes(ALL_LANES)?)),
        }
    }

    /// Says whose block it was that could not be read, if that can be told.
    fn name_damage(&self, number: u64, error: StorageError) -> ChainError {
        match self.name_of(number) {
            Ok(Some(block)) => entry_error(&block, "blocks")(error),
            _ => error.into(),
        }
    }

    /// Every key from `first` to `last`, and its value.
    pub(super) fn scan<const N: usize, V: Value + 'static, T>(
        &self,
        table: TableDefinition<'static, &'static [u8; N], V>,
        first: [u8; N],
        last: [u8; N],
        value: impl Fn(V::SelfType<'_>) -> T,
    ) -> Result<Vec<([u8; N], T)>, StorageError> {
        let mut entries: Vec<([u8; N], T)> = Vec::new();
        loop {
            let before = entries.len();
            let last_found = entries.last().map(|(key, _)| *key);
            let start = last_found.as_ref().map_or(Bound::Included(&first), Bound::Excluded);
            self.read(|transaction| {
                let table = transaction.open_table(table)?;
                for entry in table.range::<&[u8; N]>((start, Bound::Included(&last)))?.take(SCAN_KEYS) {
                    let (key, found) = entry?;
                    entries.push((*key.value(), value(found.value())));
                }
                Ok(())
            })?;
            if entries.len() - before < SCAN_KEYS {
                return Ok(entries);
            }
        }
    }

    /// The entries of `lanes` from a key to another.
    pub(super) fn settled_lanes(
        &self,
        (first, last): ([u8; 19], [u8; 19]),
    ) -> Result<Vec<LaneEntry>, StorageError> {
        self.scan(tables::LANES, first, last, |hash| BlockHash::from_bytes(*hash))
    }

    /// The entries that `recent_lanes` has for there.
    pub(super) fn recent_lanes(
        &self,
        (first, last): ([u8; 19], [u8; 19]),
    ) -> Result<&[LaneEntry], StorageError> {
        let all = match self.recent_lanes.get() {
            Some(all) => all,
            None => {
                let all = self.read_recent_lanes()?;
                self.recent_lanes.get_or_init(|| all)
            }
        };
        let start = all.partition_point(|(key, _)| *key < first);
        let end = all.partition_point(|(key, _)| *key <= last);
        Ok(all.get(start..end).unwrap_or_default())
    }

    fn read_recent_lanes(&self) -> Result<Vec<LaneEntry>, StorageError> {
        if self.read(tables::settled)?.lanes.is_none() {
            return Ok(Vec::new());
        }
        let (first, last) = ALL_LANES;
        let mut all = self.scan(tables::RECENT_LANES, first, last, |hash| BlockHash::from_bytes(*hash))?;
        for (key, _) in &mut all {
            *key = tables::settled_lane_key(key);
        }
        all.sort_unstable();
        Ok(all)
    }

    /// The first place in a lane from a key of `lanes` to another.
    pub(super) fn first_lane_key(
        &self,
        first: [u8; 19],
        last: [u8; 19],
    ) -> Result<Option<[u8; 19]>, StorageError> {
        let settled = self.read(|transaction| {
            let table = transaction.open_table(tables::LANES)?;
            let next = table.range::<&[u8; 19]>(&first..=&last)?.next().transpose()?;
            Ok(next.map(|(key, _)| *key.value()))
        })?;
        let recent = self.recent_lanes((first, last))?.first().map(|(key, _)| *key);
        Ok(settled.into_iter().chain(recent).min())
    }

    /// Numbers of the heads of a name.
    pub(super) fn heads(&self, name: &str) -> Result<Vec<u64>, StorageError> {
        let (first, last) = (tables::name_key(name, 0), tables::name_key(name, u64::MAX));
        self.read(|transaction| {
            let table = transaction.open_table(tables::NAMES)?;
            let mut heads = Vec::new();
            for entry in table.range(first.as_slice()..=last.as_slice())? {
                let (key, head) = entry?;
                if head.value() != 0 {
                    heads.push(tables::last_number(key.value()));
                }
            }
            Ok(heads)
        })
    }

    /// Whether a payload file was deleted on purpose.
    pub(super) fn is_collected(&self, payload: &PayloadHash) -> Result<bool, StorageError> {
        self.read(|transaction| tables::is_collected(transaction, payload))
    }

    /// Reads every note of a collected payload.
    pub(super) fn check_collected(&self) -> Result<(), StorageError> {
        self.read(tables::check_collected)
    }

    /// Names the reason for a payload that is not there.
    pub(super) fn explain(&self, error: ChainError) -> ChainError {
        match error {
            ChainError::Damaged {
                block,
                reason: Damage::Payload(StorageError::PayloadMissing { payload }),
            } if self.is_collected(&payload).unwrap_or(false) => {
                ChainError::PayloadCollected { block, payload }
            }
            error => error,
        }
    }

    /// The signature records beside a block, as they are stored.
    pub(super) fn signatures(&self, block: &BlockHash) -> Result<Vec<SignatureRecord>, ChainError> {
        let first = tables::signature_key(block, &[0; 32], 0);
        let last = tables::signature_key(block, &[0xff; 32], u64::MAX);
        let records = self.scan(tables::SIGNATURES, first, last, |signature| *signature);
        let records = records.map_err(entry_error(block, "signatures"))?;
        Ok(records.iter().map(|(key, signature)| tables::signature_record(key, *signature)).collect())
    }
}
