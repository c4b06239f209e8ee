//! Owns the audit of the index: its tables against the headers, which name themselves.
//!
//! The headers are the truth: whatever hashes to the name it was given is a block. From the blocks
//! follows what every other table must hold, entry by entry, and nothing besides.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::Ordering;

use redb::{Key, ReadTransaction, ReadableTable, TableDefinition, Value};

use super::{BadBlock, VerifyReport, Watch};
use crate::chain::block::Block;
use crate::chain::error::{ChainError, Damage};
use crate::chain::reader::{ALL_LANES, Reader, Stored, entry_error, hash_of_value};
use crate::chain::signature::SignatureRecord;
use crate::chain::tables::{self, Numbers};
use crate::format::{BlockKind, ChainId, Parent, ParentRole};
use crate::hash::{BlockHash, PayloadHash};
use crate::storage::StorageError;

/// Blocks between two looks at progress and cancellation.
const STEP_BLOCKS: usize = 1024;

/// Stands for the block of an entry that belongs to none.
const NO_BLOCK: BlockHash = BlockHash::from_bytes([0; 32]);

/// What the audit keeps of a block whose header is intact.
pub(super) struct Seen {
    number: u64,
    height: u64,
    lane: ChainId,
    kind: BlockKind,
    name: Box<str>,
    parents: Box<[Parent]>,
    pub(super) payload: PayloadHash,
    pub(super) payload_len: u64,
    pub(super) inline: bool,
}

impl Seen {
    fn new(block: &Block) -> Self {
        let header = block.header();
        Self {
            number: block.number(),
            height: block.height(),
            lane: header.lane,
            kind: header.kind,
            name: header.name.as_str().into(),
            parents: header.parents.as_slice().into(),
            payload: header.payload.hash,
            payload_len: header.payload.len_bytes,
            inline: tables::is_inline(header),
        }
    }
}

/// The value of an index entry, as bytes to compare.
struct Mark(Vec<u8>);

impl From<()> for Mark {
    fn from((): ()) -> Self {
        Self(Vec::new())
    }
}

impl From<u8> for Mark {
    fn from(mark: u8) -> Self {
        Self(vec![mark])
    }
}

impl From<&[u8; 32]> for Mark {
    fn from(hash: &[u8; 32]) -> Self {
        Self(hash.to_vec())
    }
}

/// An entry of an index table that follows from a block: key, value, the block.
type Expected = (Vec<u8>, Vec<u8>, BlockHash);

/// Adds an expected entry.
type Expect<'e> = &'e mut dyn FnMut(Vec<u8>, Mark);

pub(super) struct Audit<'a> {
    reader: &'a Reader,
    pub(super) watch: &'a Watch<'a>,
    pub(super) seen: BTreeMap<BlockHash, Seen>,
    /// Which name each number was given to.
    names: HashMap<u64, BlockHash>,
    /// Blocks whose header cannot be read: nothing is expected of their entries.
    lost: HashSet<BlockHash>,
    bad: Vec<(BlockHash, Damage)>,
    pub(super) payload_bytes: u64,
    collected: Vec<BlockHash>,
}

/// The part of an error that belongs to one block; any other ends the verification.
fn damage_of(error: ChainError) -> Result<(BlockHash, Damage), ChainError> {
    match error {
        ChainError::Damaged { block, reason } => Ok((block, reason)),
        error => Err(error),
    }
}

impl<'a> Audit<'a> {
    pub(super) fn new(reader: &'a Reader, watch: &'a Watch<'a>) -> Self {
        Self {
            reader,
            watch,
            seen: BTreeMap::new(),
            names: HashMap::new(),
            lost: HashSet::new(),
            bad: Vec::new(),
            payload_bytes: 0,
            collected: Vec::new(),
        }
    }

    pub(super) fn note(&mut self, block: BlockHash, reason: Damage) {
        self.bad.push((block, reason));
    }

    pub(super) fn note_collected(&mut self, block: BlockHash) {
        self.collected.push(block);
    }

    pub(super) fn into_report(mut self) -> VerifyReport {
        self.collected.sort_unstable();
        let collected = self.collected;
        let seen = self.seen;
        let name = |block: &BlockHash| seen.get(block).map(|block| block.name.to_string());
        let mut bad: Vec<BadBlock> = self
            .bad
            .into_iter()
            .map(|(block, reason)| BadBlock { block, name: name(&block), reason })
            .collect();
        bad.sort_by_key(|bad| bad.block);
        VerifyReport { blocks: seen.len() as u64, payload_bytes: self.payload_bytes, collected, bad }
    }

    /// Reads every header there is, and finds the blocks whose header cannot be read.
    pub(super) fn read_headers(&mut self) -> Result<(), ChainError> {
        let total = self.reader.block_count()?;
        self.watch.total_blocks.store(total, Ordering::Relaxed);
        // A table that cannot be walked is reported by check_tables.
        let settled = self.reader.settled_lanes(ALL_LANES).unwrap_or_default();
        let recent = self.reader.recent_lanes(ALL_LANES).unwrap_or_default();
        self.names =
            settled.iter().chain(recent).map(|(key, hash)| (tables::last_number(key), *hash)).collect();
        let mut numbers: Vec<u64> = self.names.keys().copied().collect();
        let stored = self.reader.read(|transaction| {
            let mut stored = Vec::new();
            for entry in transaction.open_table(tables::BLOCKS)?.range::<u64>(..)? {
                stored.push(entry?.0.value());
            }
            Ok(stored)
        });
        match stored {
            Ok(stored) => numbers.extend(stored),
            Err(error) if numbers.is_empty() => return Err(error.into()),
            // The numbers that were given out tell what should be there.
            Err(_) => {}
        }
        numbers.sort_unstable();
        numbers.dedup();
        for (step, number) in numbers.iter().enumerate() {
            self.read_header(*number)?;
            self.watch.blocks.fetch_add(1, Ordering::Relaxed);
            if step % STEP_BLOCKS == 0 {
                self.watch.step()?;
            }
        }
        Ok(())
    }

    fn read_header(&mut self, number: u64) -> Result<(), ChainError> {
        let name = self.names.get(&number).copied();
        let value = match (self.reader.value(number), name) {
            (Ok(value), _) => value,
            (Err(error), Some(name)) => {
                let (block, reason) = damage_of(entry_error(&name, "blocks")(error))?;
                self.lose(block, reason);
                return Ok(());
            }
            (Err(error), None) => {
                // Nobody knows any more what it was called.
                let (block, reason) = damage_of(entry_error(&NO_BLOCK, "blocks")(error))?;
                self.note(block, reason);
                return Ok(());
            }
        };
        let Some(value) = value else {
            if let Some(name) = name {
                self.lose(name, Damage::HeaderMissing);
            }
            return Ok(());
        };
        // Without a name, the header's own is as good; check_tables misses it in its table.
        let name = name.unwrap_or_else(|| hash_of_value(&value));
        let decoded = Stored::decode(&name, number, value).map(|stored| {
            let seen = Seen::new(&stored.block);
            let payload = if seen.inline { stored.inline_payload().map(|_| ()) } else { Ok(()) };
            (seen, payload)
        });
        match decoded {
            Ok((seen, payload)) => {
                self.names.insert(number, name);
                self.seen.insert(name, seen);
                if let Err(error) = payload {
                    let (block, reason) = damage_of(error)?;
                    self.note(block, reason);
                }
            }
            Err(error) => {
                let (block, reason) = damage_of(error)?;
                self.lose(block, reason);
            }
        }
        Ok(())
    }

    fn lose(&mut self, block: BlockHash, reason: Damage) {
        self.lost.insert(block);
        self.note(block, reason);
    }

    /// Every parent must be there, and the height one more than the highest parent's.
    pub(super) fn check_parents(&mut self) {
        let mut bad = Vec::new();
        for (block, seen) in &self.seen {
            let mut expected = Some(0);
            for parent in &seen.parents {
                match self.seen.get(&parent.hash) {
                    Some(found) => {
                        expected = expected.map(|height: u64| height.max(found.height.saturating_add(1)));
                    }
                    None => {
                        expected = None;
                        // A parent that cannot be read is reported itself.
                        if !self.lost.contains(&parent.hash) {
                            bad.push((*block, Damage::MissingParent { parent: parent.hash }));
                        }
                    }
                }
            }
            if let Some(expected) = expected.filter(|expected| *expected != seen.height) {
                bad.push((*block, Damage::Height { stored: seen.height, expected }));
            }
        }
        self.bad.append(&mut bad);
    }

    /// Every table must hold what the headers imply, and nothing else.
    pub(super) fn check_tables(&mut self) -> Result<(), ChainError> {
        let settled = self.reader.read(tables::settled)?;
        for number in [settled.hashes, settled.lanes].into_iter().flatten() {
            if self.reader.block_count().is_ok_and(|count| number > count) {
                self.note(NO_BLOCK, Damage::StrayEntry { table: "meta", number });
            }
        }
        let is_recent =
            |seen: &Seen, settled: Option<u64>| settled.is_some_and(|settled| seen.number >= settled);
        let numbers = |recent: bool| {
            move |block: &BlockHash, seen: &Seen, expect: Expect<'_>| {
                if is_recent(seen, settled.hashes) == recent {
                    expect(tables::number_key(block, seen.number).to_vec(), ().into());
                }
            }
        };
        self.check_table("numbers", tables::NUMBERS, numbers(false))?;
        if self.reader.read(|transaction| Ok(Numbers::read(transaction)?.has_recent()))? {
            self.check_table("recent", tables::RECENT, numbers(true))?;
        }
        let lanes = |recent: bool| {
            move |block: &BlockHash, seen: &Seen, expect: Expect<'_>| {
                let key = tables::lane_key(seen.lane, seen.kind, seen.height, seen.number);
                match (is_recent(seen, settled.lanes), recent) {
                    (false, false) => expect(key.to_vec(), block.as_bytes().into()),
                    (true, true) => expect(tables::recent_lane_key(&key).to_vec(), block.as_bytes().into()),
                    _ => {}
                }
            }
        };
        self.check_table("lanes", tables::LANES, lanes(false))?;
        if settled.lanes.is_some() {
            self.check_table("recent_lanes", tables::RECENT_LANES, lanes(true))?;
        }
        let superseded = self
            .parents_with(|child, parent, role| role == ParentRole::Predecessor && child.name == parent.name);
        let names = |block: &BlockHash, seen: &Seen, expect: Expect<'_>| {
            let head = u8::from(!superseded.contains(block));
            expect(tables::name_key(&seen.name, seen.number), head.into());
        };
        self.check_table("names", tables::NAMES, names)?;
        let numbers: HashMap<BlockHash, u64> =
            self.seen.iter().map(|(block, seen)| (*block, seen.number)).collect();
        let children = |_: &BlockHash, seen: &Seen, expect: Expect<'_>| {
            for parent in &seen.parents {
                if let Some(number) = numbers.get(&parent.hash) {
                    expect(tables::child_key(*number, seen.number).to_vec(), (parent.role as u8).into());
                }
            }
        };
        self.check_table("children", tables::CHILDREN, children)?;
        let continued = self.parents_with(|child, parent, _| child.lane == parent.lane);
        let tips = |block: &BlockHash, seen: &Seen, expect: Expect<'_>| {
            if !continued.contains(block) {
                expect(tables::tip_key(seen.lane, seen.number).to_vec(), ().into());
            }
        };
        self.check_table("tips", tables::TIPS, tips)
    }

    /// The blocks that are parent of some block in the way asked for.
    fn parents_with(&self, counts: impl Fn(&Seen, &Seen, ParentRole) -> bool) -> HashSet<BlockHash> {
        let mut parents = HashSet::new();
        for child in self.seen.values() {
            for parent in &child.parents {
                if self.seen.get(&parent.hash).is_some_and(|found| counts(child, found, parent.role)) {
                    parents.insert(parent.hash);
                }
            }
        }
        parents
    }

    fn check_table<K, V>(
        &mut self,
        table: &'static str,
        definition: TableDefinition<'static, K, V>,
        expect: impl Fn(&BlockHash, &Seen, Expect<'_>),
    ) -> Result<(), ChainError>
    where
        K: Key + 'static,
        V: Value + 'static,
        for<'b> K::SelfType<'b>: AsRef<[u8]>,
        for<'b> V::SelfType<'b>: Into<Mark>,
    {
        self.watch.step()?;
        let mut expected: Vec<Expected> = Vec::with_capacity(self.seen.len());
        for (block, seen) in &self.seen {
            expect(block, seen, &mut |key, mark| expected.push((key, mark.0, *block)));
        }
        expected.sort_unstable();
        let found = match entries(self.reader, definition) {
            Ok(found) => found,
            Err(StorageError::IndexDamaged { reason }) => {
                if expected.is_empty() {
                    self.note(NO_BLOCK, Damage::Unreadable { table, reason });
                }
                return self.check_entries(table, definition, &expected);
            }
            Err(error) => return Err(error.into()),
        };
        let mut found = found.into_iter().peekable();
        for (key, mark, block) in expected {
            while let Some((extra, mark)) = found.next_if(|(found, _)| *found < key) {
                self.unexpected(table, &extra, &mark);
            }
            let found = found.next_if(|(found, _)| *found == key).map(|(_, mark)| mark);
            if found.as_ref() != Some(&mark) && !self.is_excused(table, found.as_deref()) {
                self.note(block, Damage::Entry { table });
            }
        }
        for (extra, mark) in found {
            self.unexpected(table, &extra, &mark);
        }
        Ok(())
    }

    /// An entry that no intact header implies: its block is lost, or the entry is wrong.
    fn unexpected(&mut self, table: &'static str, key: &[u8], mark: &[u8]) {
        // What the entry says, and where it says nothing, whose number it carries.
        let number =
            if table == "recent_lanes" { tables::first_number(key) } else { tables::last_number(key) };
        let child_of_lost =
            || self.names.get(&tables::first_number(key)).filter(|parent| self.lost.contains(*parent));
        let block = match table {
            "lanes" | "recent_lanes" => Some(tables::first_hash(mark)),
            // The children of a lost block know their parent, not its number.
            "children" if child_of_lost().is_some() => return,
            _ => self.names.get(&number).copied(),
        };
        match block {
            Some(block) if self.lost.contains(&block) => {}
            Some(block) if self.seen.contains_key(&block) => self.note(block, Damage::Entry { table }),
            Some(block) => self.lose(block, Damage::HeaderMissing),
            None => self.note(NO_BLOCK, Damage::StrayEntry { table, number }),
        }
    }

    /// A block that seems to miss its place as a tip or head may have lost it to a block whose
    /// header cannot be read.
    fn is_excused(&self, table: &'static str, found: Option<&[u8]>) -> bool {
        !self.lost.is_empty() && matches!((table, found), ("tips", None) | ("names", Some([0])))
    }

    /// Looks up one entry at a time, to tell the blocks whose entries are on damaged pages.
    fn check_entries<K, V>(
        &mut self,
        table: &'static str,
        definition: TableDefinition<'static, K, V>,
        expected: &[Expected],
    ) -> Result<(), ChainError>
    where
        K: Key + 'static,
        V: Value + 'static,
        for<'b> V::SelfType<'b>: Into<Mark>,
    {
        for (step, (key, mark, block)) in expected.iter().enumerate() {
            if step % STEP_BLOCKS == 0 {
                self.watch.step()?;
            }
            let found = self.reader.read(|transaction| {
                let found = transaction.open_table(definition)?.get(K::from_bytes(key))?;
                Ok(found.map(|found| found.value().into().0))
            });
            match found.map_err(entry_error(block, table)) {
                Ok(found) if found.as_ref() == Some(mark) || self.is_excused(table, found.as_deref()) => {}
                Ok(_) => self.note(*block, Damage::Entry { table }),
                Err(error) => {
                    let (block, reason) = damage_of(error)?;
                    self.note(block, reason);
                }
            }
        }
        Ok(())
    }

    /// What is noted of collected payloads must be readable.
    pub(super) fn check_collected(&mut self) -> Result<(), ChainError> {
        match self.reader.check_collected() {
            Err(StorageError::IndexDamaged { reason }) => {
                self.note(NO_BLOCK, Damage::Unreadable { table: "collected", reason });
                Ok(())
            }
            checked => Ok(checked?),
        }
    }

    /// Every signature beside a block must be one of that block.
    pub(super) fn check_signatures(&mut self) -> Result<(), ChainError> {
        let signatures = self.reader.scan(tables::SIGNATURES, [0; 72], [0xff; 72], |signature| *signature);
        let mut bad = Vec::new();
        match signatures {
            Ok(signatures) => {
                for (step, (key, signature)) in signatures.iter().enumerate() {
                    if step % STEP_BLOCKS == 0 {
                        self.watch.step()?;
                    }
                    let block = tables::first_hash(key);
                    let record = tables::signature_record(key, *signature);
                    if !self.seen.contains_key(&block) {
                        if self.lost.insert(block) {
                            bad.push((block, Damage::HeaderMissing));
                        }
                    } else if !record.verifies(&block) {
                        let SignatureRecord { public_key, time_ms, .. } = record;
                        bad.push((block, Damage::Signature { public_key, time_ms }));
                    }
                }
            }
            // The table cannot be walked: ask for each block's, to tell whose are lost.
            Err(StorageError::IndexDamaged { .. }) => {
                for block in self.seen.keys() {
                    match self.reader.signatures(block) {
                        Ok(records) => {
                            let wrong = records.into_iter().filter(|record| !record.verifies(block));
                            bad.extend(wrong.map(|SignatureRecord { public_key, time_ms, .. }| {
                                (*block, Damage::Signature { public_key, time_ms })
                            }));
                        }
                        Err(error) => bad.push(damage_of(error)?),
                    }
                }
            }
            Err(error) => return Err(error.into()),
        }
        self.bad.append(&mut bad);
        Ok(())
    }
}

/// Key and value of an index entry, as bytes.
type Entry = (Vec<u8>, Vec<u8>);

/// Every entry of an index table, by key.
fn entries<K, V>(
    reader: &Reader,
    definition: TableDefinition<'static, K, V>,
) -> Result<Vec<Entry>, StorageError>
where
    K: Key + 'static,
    V: Value + 'static,
    for<'b> K::SelfType<'b>: AsRef<[u8]>,
    for<'b> V::SelfType<'b>: Into<Mark>,
{
    reader.read(|transaction: &ReadTransaction| {
        let mut entries = Vec::new();
        for entry in transaction.open_table(definition)?.iter()? {
            let (key, value) = entry?;
            entries.push((key.value().as_ref().to_vec(), value.value().into().0));
        }
        Ok(entries)
    })
}
