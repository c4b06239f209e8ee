//! Owns the tables of the index: their keys, their values, and how a block is found in them.
//!
//! Blocks are numbered in the order in which this directory got them. `numbers` and `recent` are ordered
//! by hash, `lanes` by height; every other table grows at its end, or near its parents, so that an append
//! dirties few pages however many blocks there are. New blocks enter `recent` and `recent_lanes`, whose
//! size is bounded, and move to `numbers` and `lanes` many at a time, so that they share the pages they
//! dirty there. Numbers are never shown: what a chain tells about its blocks does not depend on them.
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | text | number, u64 |
//! | `numbers` | first 8 bytes of the block hash, block number (u64 BE) | |
//! | `recent` | the same, of the blocks from number `settled` on | |
//! | `blocks` | block number (u64) | height (u64), header length (u32), header, small payload |
//! | `lanes` | lane, kind (u16 BE), height (u64 BE), block number (u64 BE) | block hash |
//! | `recent_lanes` | block number, lane, kind, height, of the blocks from number `settled_lanes` on | block hash |
//! | `names` | name, 0, block number (u64 BE) | 1 while no block of the name has it as predecessor, else 0 |
//! | `children` | parent's number (u64 BE), child's number (u64 BE) | role |
//! | `tips` | lane, block number (u64 BE) | |
//! | `signatures` | block hash, public key, time (u64 BE) | signature |
//! | `collected` | payload hash | ; made by the first collection |

use std::cell::Cell;
use std::iter;
use std::ops::{Bound, RangeInclusive};

use redb::{
    ReadOnlyTable, ReadTransaction, ReadableTable, ReadableTableMetadata, TableDefinition, TableHandle,
    WriteTransaction,
};

use super::pending::insert_sorted;
use super::signature::SignatureRecord;
use crate::format::{BlockKind, ChainId, Header};
use crate::hash::{BlockHash, HASH_LEN, PayloadHash};

// Arrays are borrowed: to redb the same types as owned ones, with the same bytes, but it compares keys that are owned
// element by element, and makes a vector to read or write one.
pub(super) const META: TableDefinition<'static, &str, u64> = TableDefinition::new("meta");
pub(super) const NUMBERS: TableDefinition<'static, &[u8; 16], ()> = TableDefinition::new("numbers");
pub(super) const RECENT: TableDefinition<'static, &[u8; 16], ()> = TableDefinition::new("recent");
pub(super) const BLOCKS: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("blocks");
pub(super) const LANES: TableDefinition<'static, &[u8; 19], &[u8; 32]> = TableDefinition::new("lanes");
pub(super) const RECENT_LANES: TableDefinition<'static, &[u8; 19], &[u8; 32]> =
    TableDefinition::new("recent_lanes");
pub(super) const NAMES: TableDefinition<'static, &[u8], u8> = TableDefinition::new("names");
pub(super) const CHILDREN: TableDefinition<'static, &[u8; 16], u8> = TableDefinition::new("children");
pub(super) const TIPS: TableDefinition<'static, &[u8; 9], ()> = TableDefinition::new("tips");
pub(super) const SIGNATURES: TableDefinition<'static, &[u8; 72], &[u8; 64]> =
    TableDefinition::new("signatures");
pub(super) const COLLECTED: TableDefinition<'static, &[u8; 32], ()> = TableDefinition::new("collected");

/// Version of the tables; a later one is refused.
pub(super) const INDEX_VERSION: u64 = 3;
pub(super) const INDEX_VERSION_KEY: &str = "index_version";
/// The version that had no `recent` either: all blocks are in `numbers`.
pub(super) const WITHOUT_RECENT: u64 = 1;
/// The version that had no `recent_lanes`: all blocks are in `lanes`.
pub(super) const WITHOUT_RECENT_LANES: u64 = 2;
/// The versions that can be read.
pub(super) const INDEX_VERSIONS: RangeInclusive<u64> = WITHOUT_RECENT..=INDEX_VERSION;

/// The number from which blocks are in `recent`.
pub(super) const SETTLED_KEY: &str = "settled";
/// The number from which blocks are in `recent_lanes`.
pub(super) const SETTLED_LANES_KEY: &str = "settled_lanes";
/// At each multiple of this number of blocks, those of `recent` move to `numbers`, those of `recent_lanes` to `lanes`.
pub(super) const SETTLE_BLOCKS: u64 = 16384;

/// Payloads up to this many bytes lie in the index, unless they are weights.
pub(super) const MAX_INLINE_BYTES: u64 = 4096;

/// Whether a payload lies in the index rather than in a file.
pub(crate) fn is_inline(header: &Header) -> bool {
    !header.kind.is_weights() && header.payload.len_bytes <= MAX_INLINE_BYTES
}

fn join<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut key = [0; N];
    for (to, from) in key.iter_mut().zip(parts.iter().copied().flatten()) {
        *to = *from;
    }
    key
}

/// Blocks whose hashes begin alike have neighbouring keys; the header tells which is meant.
pub(super) fn number_key(block: &BlockHash, number: u64) -> [u8; 16] {
    let (start, _) = block.as_bytes().split_at(8);
    join(&[start, &number.to_be_bytes()])
}

pub(super) fn lane_key(lane: ChainId, kind: BlockKind, height: u64, number: u64) -> [u8; 19] {
    join(&[&[lane as u8], &kind.0.to_be_bytes(), &height.to_be_bytes(), &number.to_be_bytes()])
}

/// The key of `recent_lanes` that a key of `lanes` becomes.
pub(super) fn recent_lane_key(key: &[u8; 19]) -> [u8; 19] {
    let (place, number) = key.split_at(11);
    join(&[number, place])
}

/// The key of `lanes` that a key of `recent_lanes` becomes.
pub(super) fn settled_lane_key(key: &[u8; 19]) -> [u8; 19] {
    let (number, place) = key.split_at(8);
    join(&[place, number])
}

/// Kind and height of a key of `lanes`.
pub(super) fn lane_key_parts(key: &[u8; 19]) -> (BlockKind, u64) {
    let [_, k0, k1, h0, h1, h2, h3, h4, h5, h6, h7, ..] = *key;
    (BlockKind(u16::from_be_bytes([k0, k1])), u64::from_be_bytes([h0, h1, h2, h3, h4, h5, h6, h7]))
}

pub(super) fn name_key(name: &str, number: u64) -> Vec<u8> {
    // Names have no zero byte, so no name's entries lie between another's.
    [name.as_bytes(), &[0], &number.to_be_bytes()].concat()
}

pub(super) fn child_key(parent: u64, child: u64) -> [u8; 16] {
    join(&[&parent.to_be_bytes(), &child.to_be_bytes()])
}

pub(super) fn tip_key(lane: ChainId, number: u64) -> [u8; 9] {
    join(&[&[lane as u8], &number.to_be_bytes()])
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

/// The block number that ends a key.
pub(super) fn last_number(key: &[u8]) -> u64 {
    key.last_chunk().copied().map(u64::from_be_bytes).unwrap_or_default()
}

/// The block number that begins a key.
pub(super) fn first_number(key: &[u8]) -> u64 {
    key.first_chunk().copied().map(u64::from_be_bytes).unwrap_or_default()
}

/// The hash that begins a key.
pub(super) fn first_hash(key: &[u8]) -> BlockHash {
    BlockHash::from_bytes(key.first_chunk::<HASH_LEN>().copied().unwrap_or_default())
}

/// A value of `blocks`: header and, if it lies in the index, the payload.
pub(super) struct BlockValue<'a> {
    pub(super) height: u64,
    pub(super) header: &'a [u8],
    pub(super) payload: &'a [u8],
}

impl<'a> BlockValue<'a> {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        // A header has at most 8 MiB.
        let header_len = u32::try_from(self.header.len()).unwrap_or(u32::MAX);
        let (height, header_len) = (self.height.to_le_bytes(), header_len.to_le_bytes());
        [height.as_slice(), &header_len, self.header, self.payload].concat()
    }

    /// Splits a value; one too short has an empty header, which no block is named after.
    pub(super) fn from_bytes(bytes: &'a [u8]) -> Self {
        let split = || {
            let (height, rest) = bytes.split_first_chunk::<8>()?;
            let (header_len, rest) = rest.split_first_chunk::<4>()?;
            let header_len = usize::try_from(u32::from_le_bytes(*header_len)).ok()?;
            let (header, payload) = rest.split_at_checked(header_len)?;
            Some(Self { height: u64::from_le_bytes(*height), header, payload })
        };
        split().unwrap_or(Self { height: 0, header: &[], payload: &[] })
    }
}

/// Creates every table, so that readers find them all.
pub(super) fn create(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    transaction.open_table(NUMBERS)?;
    transaction.open_table(BLOCKS)?;
    transaction.open_table(LANES)?;
    transaction.open_table(NAMES)?;
    transaction.open_table(CHILDREN)?;
    transaction.open_table(TIPS)?;
    transaction.open_table(SIGNATURES)?;
    transaction.open_table(META)?.insert(INDEX_VERSION_KEY, WITHOUT_RECENT)?;
    upgrade(transaction)
}

/// Makes tables of the versions before those of this one.
pub(super) fn upgrade(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    let mut meta = transaction.open_table(META)?;
    let version = meta.get(INDEX_VERSION_KEY)?.map(|version| version.value());
    if version == Some(WITHOUT_RECENT) {
        transaction.open_table(RECENT)?;
        meta.insert(SETTLED_KEY, next_number(transaction)?)?;
    }
    if matches!(version, Some(WITHOUT_RECENT | WITHOUT_RECENT_LANES)) {
        transaction.open_table(RECENT_LANES)?;
        meta.insert(SETTLED_LANES_KEY, next_number(transaction)?)?;
        meta.insert(INDEX_VERSION_KEY, INDEX_VERSION)?;
    }
    Ok(())
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

/// The number of the next block.
pub(super) fn next_number(transaction: &WriteTransaction) -> Result<u64, redb::Error> {
    let last = transaction.open_table(BLOCKS)?.last()?.map(|(number, _)| number.value());
    match last.map(|last| last.checked_add(1)) {
        None => Ok(0),
        Some(Some(next)) => Ok(next),
        Some(None) => Err(redb::Error::Corrupted("block number 2^64 - 1".into())),
    }
}

/// What is stored of a block, found by its hash.
pub(super) enum Found {
    Nothing,
    /// A number was given out, and there is no block under it.
    NumberOnly,
    /// Number and value, whose header hashes to the block's name.
    Value(u64, Vec<u8>),
    /// Under the number there is a header that hashes to this.
    Other(BlockHash),
}

/// Key and value of `lanes`.
pub(super) type LaneEntry = ([u8; 19], BlockHash);

/// A table from the beginnings of hashes to numbers.
type HashTable = ReadOnlyTable<&'static [u8; 16], ()>;

/// The tables that give the numbers of hashes.
pub(super) struct Numbers {
    settled: HashTable,
    /// `None` in the version that lacked it.
    recent: Option<HashTable>,
}

impl Numbers {
    pub(super) fn read(transaction: &ReadTransaction) -> Result<Self, redb::Error> {
        let recent = match transaction.open_table(RECENT) {
            Ok(table) => Some(table),
            Err(redb::TableError::TableDoesNotExist(_)) if settled(transaction)?.hashes.is_none() => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Self { settled: transaction.open_table(NUMBERS)?, recent })
    }

    pub(super) fn has_recent(&self) -> bool {
        self.recent.is_some()
    }

    fn tables(&self) -> impl Iterator<Item = &HashTable> {
        iter::once(&self.settled).chain(&self.recent)
    }

    /// Says of every block how its hash begins.
    pub(super) fn each(&self, mut say: impl FnMut([u8; 8])) -> Result<(), redb::Error> {
        for table in self.tables() {
            for entry in table.iter()? {
                let [start @ .., _, _, _, _, _, _, _, _] = *entry?.0.value();
                say(start);
            }
        }
        Ok(())
    }

    /// The numbers of the blocks whose hashes begin like these or one between them.
    pub(super) fn between(&self, first: &BlockHash, last: &BlockHash) -> Result<Vec<u64>, redb::Error> {
        let (first, last) = (number_key(first, 0), number_key(last, u64::MAX));
        let mut numbers = Vec::new();
        for table in self.tables() {
            for entry in table.range::<&[u8; 16]>(&first..=&last)? {
                numbers.push(last_number(entry?.0.value()));
            }
        }
        Ok(numbers)
    }

    /// Whether the block has that number.
    pub(super) fn contains(&self, block: &BlockHash, number: u64) -> Result<bool, redb::Error> {
        let found = |table: &HashTable| Ok(table.get(&number_key(block, number))?.map(|_| ()));
        Ok(self.first(found)?.is_some())
    }

    /// What is found in one of the tables. That a page of the other is damaged says nothing of it; if it is in
    /// neither, nobody knows whether it was on that page.
    fn first<F>(
        &self,
        find: impl Fn(&HashTable) -> Result<Option<F>, redb::Error>,
    ) -> Result<Option<F>, redb::Error> {
        let mut failed = None;
        for table in self.tables() {
            match find(table) {
                Ok(Some(found)) => return Ok(Some(found)),
                Ok(None) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(None), Err)
    }
}

/// The tables that a block is looked up in.
pub(super) struct Lookup {
    pub(super) numbers: Numbers,
    blocks: ReadOnlyTable<u64, &'static [u8]>,
}

impl Lookup {
    pub(super) fn open(transaction: &ReadTransaction) -> Result<Self, redb::Error> {
        Ok(Self { numbers: Numbers::read(transaction)?, blocks: transaction.open_table(BLOCKS)? })
    }

    /// What is stored of the block.
    pub(super) fn find(&self, block: &BlockHash) -> Result<Found, redb::Error> {
        let other = Cell::new(None);
        let (first, last) = (number_key(block, 0), number_key(block, u64::MAX));
        let found = self.numbers.first(|table| {
            for entry in table.range::<&[u8; 16]>(&first..=&last)? {
                let number = last_number(entry?.0.value());
                let Some(value) = self.blocks.get(number)? else {
                    other.set(Some(Found::NumberOnly));
                    continue;
                };
                let value = value.value();
                let actual = BlockHash::of_header(BlockValue::from_bytes(value).header);
                if actual == *block {
                    return Ok(Some(Found::Value(number, value.to_vec())));
                }
                // Another block whose hash starts alike is none of this one's; a damaged header hashes to anything.
                if number_key(&actual, number) != number_key(block, number) {
                    other.set(Some(Found::Other(actual)));
                }
            }
            Ok(None)
        });
        Ok(found?.or(other.into_inner()).unwrap_or(Found::Nothing))
    }
}

/// The numbers from which blocks are in the tables of recent ones; `None` in the versions that lacked those.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) hashes: Option<u64>,
    pub(super) lanes: Option<u64>,
}

pub(super) fn settled(transaction: &ReadTransaction) -> Result<Settled, redb::Error> {
    let meta = transaction.open_table(META)?;
    let number = |key| Ok::<_, redb::Error>(meta.get(key)?.map(|number| number.value()));
    let (hashes, lanes) = (number(SETTLED_KEY)?, number(SETTLED_LANES_KEY)?);
    match (number(INDEX_VERSION_KEY)?, hashes, lanes) {
        (Some(WITHOUT_RECENT), None, None)
        | (Some(WITHOUT_RECENT_LANES), Some(_), None)
        | (Some(INDEX_VERSION), Some(_), Some(_)) => Ok(Settled { hashes, lanes }),
        _ => Err(redb::Error::Corrupted("the numbers of settled blocks do not go with the version".into())),
    }
}

/// Moves the blocks of `recent`, all before this number, to `numbers`, and those of `recent_lanes` to `lanes`. A page
/// that cannot be read leaves them where they are: blocks can be appended all the same, as far as theirs can be read.
pub(super) fn settle(transaction: &WriteTransaction, next: u64) -> Result<(), redb::Error> {
    if let Ok(keys) = settling(transaction) {
        {
            let mut numbers = transaction.open_table(NUMBERS)?;
            for key in &keys {
                numbers.insert(key, ())?;
            }
        }
        transaction.delete_table(RECENT)?;
        transaction.open_table(RECENT)?;
        transaction.open_table(META)?.insert(SETTLED_KEY, next)?;
    }
    if let Ok(entries) = settling_lanes(transaction) {
        let entries = entries.iter().map(|(key, block)| (key, block.as_bytes()));
        insert_sorted(&mut transaction.open_table(LANES)?, entries)?;
        transaction.delete_table(RECENT_LANES)?;
        transaction.open_table(RECENT_LANES)?;
        transaction.open_table(META)?.insert(SETTLED_LANES_KEY, next)?;
    }
    Ok(())
}

/// The keys of `recent`, after a look at where they go to.
fn settling(transaction: &WriteTransaction) -> Result<Vec<[u8; 16]>, redb::Error> {
    let numbers = transaction.open_table(NUMBERS)?;
    let mut keys = Vec::new();
    for entry in transaction.open_table(RECENT)?.iter()? {
        let key = *entry?.0.value();
        numbers.get(&key)?;
        keys.push(key);
    }
    Ok(keys)
}

/// The entries of `recent_lanes` as those of `lanes`, in their order there, after a look at where they go to.
fn settling_lanes(transaction: &WriteTransaction) -> Result<Vec<LaneEntry>, redb::Error> {
    let lanes = transaction.open_table(LANES)?;
    let mut entries = Vec::new();
    for entry in transaction.open_table(RECENT_LANES)?.iter()? {
        let (key, hash) = entry?;
        entries.push((settled_lane_key(key.value()), BlockHash::from_bytes(*hash.value())));
    }
    entries.sort_unstable();
    let mut keys = entries.iter().map(|(key, _)| key).peekable();
    while let Some(key) = keys.next() {
        let mut gap = lanes.lower_bound(Bound::Included(key))?;
        // What comes to lie side by side finds its way between two entries that can be read. An entry after them that
        // cannot says nothing of this one.
        if let Ok(after) = gap.next() {
            let after = after.map(|(key, _)| *key.value());
            while keys.next_if(|key| after.is_none_or(|after| **key < after)).is_some() {}
        }
    }
    Ok(entries)
}

/// A value of `blocks`, as a transaction that writes sees it.
pub(super) fn value_in(transaction: &WriteTransaction, number: u64) -> Result<Option<Vec<u8>>, redb::Error> {
    let blocks = transaction.open_table(BLOCKS)?;
    let value = blocks.get(number)?;
    Ok(value.map(|value| value.value().to_vec()))
}

/// Puts a value of `blocks` in the place of the one before.
pub(super) fn replace_value(
    transaction: &WriteTransaction,
    number: u64,
    value: &[u8],
) -> Result<(), redb::Error> {
    transaction.open_table(BLOCKS)?.insert(number, value)?;
    Ok(())
}

pub(super) fn insert_signature(
    transaction: &WriteTransaction,
    block: &BlockHash,
    record: &SignatureRecord,
) -> Result<(), redb::Error> {
    let key = signature_key(block, &record.public_key, record.time_ms);
    transaction.open_table(SIGNATURES)?.insert(&key, &record.signature)?;
    Ok(())
}

/// Whether anything was ever collected: chains that never did lack the table.
pub(super) fn has_collected(transaction: &WriteTransaction) -> Result<bool, redb::Error> {
    Ok(transaction.list_tables()?.any(|table| table.name() == COLLECTED.name()))
}

/// Notes that these payload files are deleted on purpose.
pub(super) fn insert_collected(
    transaction: &WriteTransaction,
    payloads: &[PayloadHash],
) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(COLLECTED)?;
    for payload in payloads {
        table.insert(payload.as_bytes(), ())?;
    }
    Ok(())
}

/// Notes that a payload is there again; whether it was collected.
pub(super) fn remove_collected(
    transaction: &WriteTransaction,
    payload: &PayloadHash,
) -> Result<bool, redb::Error> {
    Ok(transaction.open_table(COLLECTED)?.remove(payload.as_bytes())?.is_some())
}

/// Whether a payload was collected, as a transaction that writes sees it.
pub(super) fn is_collected_in(
    transaction: &WriteTransaction,
    payload: &PayloadHash,
) -> Result<bool, redb::Error> {
    Ok(transaction.open_table(COLLECTED)?.get(payload.as_bytes())?.is_some())
}

/// Whether a payload was collected.
pub(super) fn is_collected(
    transaction: &ReadTransaction,
    payload: &PayloadHash,
) -> Result<bool, redb::Error> {
    match transaction.open_table(COLLECTED) {
        Ok(table) => Ok(table.get(payload.as_bytes())?.is_some()),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Reads every note of a collected payload.
pub(super) fn check_collected(transaction: &ReadTransaction) -> Result<(), redb::Error> {
    match transaction.open_table(COLLECTED) {
        Ok(table) => Ok(table.iter()?.try_for_each(|entry| entry.map(drop))?),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The signature of the same key and time.
pub(super) fn signature_like(
    transaction: &WriteTransaction,
    block: &BlockHash,
    record: &SignatureRecord,
) -> Result<Option<[u8; 64]>, redb::Error> {
    let key = signature_key(block, &record.public_key, record.time_ms);
    Ok(transaction.open_table(SIGNATURES)?.get(&key)?.map(|signature| *signature.value()))
}
