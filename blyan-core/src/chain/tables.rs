//! Owns the tables of the index: their keys, their values, and how a block enters them.
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | text | number, u64 |
//! | `blocks` | block hash | height (u64 LE), header bytes |
//! | `payloads` | payload hash | payload bytes, at most 4 KiB |
//! | `lanes` | lane, height (u64 BE), block hash | |
//! | `kinds` | kind (u16 BE), height (u64 BE), block hash | |
//! | `names` | name, 0, block hash | 1 while no block of the name has it as predecessor, else 0 |
//! | `children` | parent hash, child hash | role |
//! | `tips` | lane, block hash | |
//! | `signatures` | block hash, public key, time (u64 BE) | signature |

use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction};

use super::signature::SignatureRecord;
use crate::format::{BlockKind, ChainId, Header, ParentRole};
use crate::hash::{BlockHash, HASH_LEN, PayloadHash};

pub(super) const META: TableDefinition<'static, &str, u64> = TableDefinition::new("meta");
pub(super) const BLOCKS: TableDefinition<'static, [u8; 32], &[u8]> = TableDefinition::new("blocks");
pub(super) const PAYLOADS: TableDefinition<'static, [u8; 32], &[u8]> = TableDefinition::new("payloads");
pub(super) const LANES: TableDefinition<'static, [u8; 41], ()> = TableDefinition::new("lanes");
pub(super) const KINDS: TableDefinition<'static, [u8; 42], ()> = TableDefinition::new("kinds");
pub(super) const NAMES: TableDefinition<'static, &[u8], u8> = TableDefinition::new("names");
pub(super) const CHILDREN: TableDefinition<'static, [u8; 64], u8> = TableDefinition::new("children");
pub(super) const TIPS: TableDefinition<'static, [u8; 33], ()> = TableDefinition::new("tips");
pub(super) const SIGNATURES: TableDefinition<'static, [u8; 72], [u8; 64]> =
    TableDefinition::new("signatures");

/// Version of the tables; another one is refused.
pub(super) const INDEX_VERSION: u64 = 1;
pub(super) const INDEX_VERSION_KEY: &str = "index_version";

/// Payloads up to this many bytes lie in the index, unless they are weights.
pub(super) const MAX_INLINE_BYTES: u64 = 4096;

/// Whether a payload lies in the index rather than in a file.
pub(super) fn is_inline(header: &Header) -> bool {
    !header.kind.is_weights() && header.payload.len_bytes <= MAX_INLINE_BYTES
}

fn join<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut key = [0; N];
    for (to, from) in key.iter_mut().zip(parts.iter().copied().flatten()) {
        *to = *from;
    }
    key
}

pub(super) fn lane_key(lane: ChainId, height: u64, block: &BlockHash) -> [u8; 41] {
    join(&[&[lane as u8], &height.to_be_bytes(), block.as_bytes()])
}

pub(super) fn kind_key(kind: BlockKind, height: u64, block: &BlockHash) -> [u8; 42] {
    join(&[&kind.0.to_be_bytes(), &height.to_be_bytes(), block.as_bytes()])
}

pub(super) fn name_key(name: &str, block: &BlockHash) -> Vec<u8> {
    // Names have no zero byte, so no name's entries lie between another's.
    [name.as_bytes(), &[0], block.as_bytes()].concat()
}

pub(super) fn child_key(parent: &BlockHash, child: &BlockHash) -> [u8; 64] {
    join(&[parent.as_bytes(), child.as_bytes()])
}

pub(super) fn tip_key(lane: ChainId, block: &BlockHash) -> [u8; 33] {
    join(&[&[lane as u8], block.as_bytes()])
}

pub(super) fn signature_key(block: &BlockHash, public_key: &[u8; 32], time_ms: u64) -> [u8; 72] {
    join(&[block.as_bytes(), public_key, &time_ms.to_be_bytes()])
}

/// The record of an entry of `signatures`.
pub(super) fn signature_record(key: &[u8; 72], signature: [u8; 64]) -> SignatureRecord {
    let (_, rest) = key.split_at(HASH_LEN);
    SignatureRecord {
        public_key: rest.first_chunk().copied().unwrap_or_default(),
        time_ms: rest.last_chunk().copied().map(u64::from_be_bytes).unwrap_or_default(),
        signature,
    }
}

/// The hash that ends a key.
pub(super) fn last_hash(key: &[u8]) -> BlockHash {
    key.last_chunk::<HASH_LEN>()
        .map_or(BlockHash::from_bytes([0; HASH_LEN]), |hash| BlockHash::from_bytes(*hash))
}

/// The hash that begins a key.
pub(super) fn first_hash(key: &[u8]) -> BlockHash {
    key.first_chunk::<HASH_LEN>()
        .map_or(BlockHash::from_bytes([0; HASH_LEN]), |hash| BlockHash::from_bytes(*hash))
}

/// The height in front of the hash that ends a key of `lanes` or `kinds`.
pub(super) fn key_height(key: &[u8]) -> u64 {
    let before = key.split_last_chunk::<HASH_LEN>().map_or(key, |(before, _)| before);
    before.last_chunk::<8>().map_or(0, |height| u64::from_be_bytes(*height))
}

/// A value of `blocks`.
pub(super) fn block_value(height: u64, header: &[u8]) -> Vec<u8> {
    [&height.to_le_bytes(), header].concat()
}

/// Height and header bytes of a value of `blocks`.
pub(super) fn split_block_value(value: &[u8]) -> Option<(u64, &[u8])> {
    let (height, header) = value.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*height), header))
}

/// Creates every table, so that readers find them all; checks the version of existing ones.
pub(super) fn create(transaction: &WriteTransaction) -> Result<u64, redb::Error> {
    let version = {
        let mut meta = transaction.open_table(META)?;
        let stored = meta.get(INDEX_VERSION_KEY)?.map(|version| version.value());
        if stored.is_none() {
            meta.insert(INDEX_VERSION_KEY, INDEX_VERSION)?;
        }
        stored.unwrap_or(INDEX_VERSION)
    };
    transaction.open_table(BLOCKS)?;
    transaction.open_table(PAYLOADS)?;
    transaction.open_table(LANES)?;
    transaction.open_table(KINDS)?;
    transaction.open_table(NAMES)?;
    transaction.open_table(CHILDREN)?;
    transaction.open_table(TIPS)?;
    transaction.open_table(SIGNATURES)?;
    Ok(version)
}

/// The version of the tables, `None` if they were never created.
pub(super) fn version(transaction: &ReadTransaction) -> Result<Option<u64>, redb::Error> {
    match transaction.open_table(META) {
        Ok(meta) => Ok(meta.get(INDEX_VERSION_KEY)?.map(|version| version.value())),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn block_count(transaction: &ReadTransaction) -> Result<u64, redb::Error> {
    Ok(transaction.open_table(BLOCKS)?.len()?)
}

/// What the index keeps of a parent, read before its child is inserted.
pub(super) struct ParentEntry<'a> {
    pub(super) hash: BlockHash,
    pub(super) role: ParentRole,
    pub(super) header: &'a Header,
}

/// Enters a block into every table. Touches the block and its parents, nothing else.
pub(super) fn insert_block(
    transaction: &WriteTransaction,
    block: &BlockHash,
    height: u64,
    header: &Header,
    header_bytes: &[u8],
    parents: &[ParentEntry<'_>],
) -> Result<(), redb::Error> {
    transaction.open_table(BLOCKS)?.insert(block.as_bytes(), block_value(height, header_bytes).as_slice())?;
    transaction.open_table(LANES)?.insert(lane_key(header.lane, height, block), ())?;
    transaction.open_table(KINDS)?.insert(kind_key(header.kind, height, block), ())?;
    {
        let mut names = transaction.open_table(NAMES)?;
        names.insert(name_key(&header.name, block).as_slice(), 1)?;
        for parent in parents {
            if parent.role == ParentRole::Predecessor && parent.header.name == header.name {
                names.insert(name_key(&header.name, &parent.hash).as_slice(), 0)?;
            }
        }
    }
    {
        let mut children = transaction.open_table(CHILDREN)?;
        for parent in parents {
            children.insert(child_key(&parent.hash, block), parent.role as u8)?;
        }
    }
    let mut tips = transaction.open_table(TIPS)?;
    tips.insert(tip_key(header.lane, block), ())?;
    for parent in parents {
        if parent.header.lane == header.lane {
            tips.remove(tip_key(header.lane, &parent.hash))?;
        }
    }
    Ok(())
}

pub(super) fn insert_payload(
    transaction: &WriteTransaction,
    payload: &PayloadHash,
    bytes: &[u8],
) -> Result<(), redb::Error> {
    transaction.open_table(PAYLOADS)?.insert(payload.as_bytes(), bytes)?;
    Ok(())
}

pub(super) fn payload_bytes(
    transaction: &WriteTransaction,
    payload: &PayloadHash,
) -> Result<Option<Vec<u8>>, redb::Error> {
    let table = transaction.open_table(PAYLOADS)?;
    Ok(table.get(payload.as_bytes())?.map(|bytes| bytes.value().to_vec()))
}

pub(super) fn insert_signature(
    transaction: &WriteTransaction,
    block: &BlockHash,
    record: &SignatureRecord,
) -> Result<(), redb::Error> {
    let key = signature_key(block, &record.public_key, record.time_ms);
    transaction.open_table(SIGNATURES)?.insert(key, record.signature)?;
    Ok(())
}

/// The value of `blocks`, from a transaction that reads or one that writes.
pub(super) fn block_bytes(
    table: &impl ReadableTable<[u8; 32], &'static [u8]>,
    block: &BlockHash,
) -> Result<Option<Vec<u8>>, redb::Error> {
    Ok(table.get(block.as_bytes())?.map(|value| value.value().to_vec()))
}
