//! Owns the audit of the index: its tables against the headers, which name themselves.
//!
//! The headers are the truth: whatever hashes to its key is a block. From them follows what every
//! other table must hold, entry by entry, and nothing besides.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::Ordering;

use redb::{Key, ReadTransaction, TableDefinition, Value};

use super::{BadBlock, VerifyReport, Watch};
use crate::chain::error::{ChainError, Damage};
use crate::chain::reader::{Reader, entry_error, payload_error};
use crate::chain::signature::SignatureRecord;
use crate::chain::tables;
use crate::format::{BlockKind, ChainId, Parent, ParentRole};
use crate::hash::{BlockHash, PayloadHash};
use crate::storage::StorageError;

/// Blocks between two looks at progress and cancellation.
const STEP_BLOCKS: usize = 1024;

/// What the audit keeps of a block whose header is intact.
pub(super) struct Seen {
    height: u64,
    lane: ChainId,
    kind: BlockKind,
    name: Box<str>,
    parents: Box<[Parent]>,
    pub(super) payload: PayloadHash,
    pub(super) payload_len: u64,
    pub(super) inline: bool,
}

/// The one byte an index entry may carry besides its key.
struct Mark(u8);

impl From<()> for Mark {
    fn from((): ()) -> Self {
        Self(0)
    }
}

impl From<u8> for Mark {
    fn from(mark: u8) -> Self {
        Self(mark)
    }
}

/// An entry of an index table that follows from a header: key, mark, the block it follows from.
type Expected = (Vec<u8>, u8, BlockHash);

pub(super) struct Audit<'a> {
    reader: &'a Reader,
    pub(super) watch: &'a Watch<'a>,
    pub(super) seen: BTreeMap<BlockHash, Seen>,
    /// Blocks whose header cannot be read: nothing is expected of their entries.
    lost: HashSet<BlockHash>,
    bad: Vec<(BlockHash, Damage)>,
    pub(super) payload_bytes: u64,
}

/// The parts of an error that belong to one block; the rest ends the verification.
fn damage_of(error: ChainError) -> Result<(BlockHash, Damage), ChainError> {
    match error {
        ChainError::Damaged { block, reason } => Ok((block, reason)),
        error => Err(error),
    }
}

impl<'a> Audit<'a> {
    pub(super) fn new(reader: &'a Reader, watch: &'a Watch<'a>) -> Self {
        Self { reader, watch, seen: BTreeMap::new(), lost: HashSet::new(), bad: Vec::new(), payload_bytes: 0 }
    }

    pub(super) fn note(&mut self, block: BlockHash, reason: Damage) {
        self.bad.push((block, reason));
    }

    pub(super) fn into_report(self) -> VerifyReport {
        let seen = self.seen;
        let name = |block: &BlockHash| seen.get(block).map(|block| block.name.to_string());
        let mut bad: Vec<BadBlock> = self
            .bad
            .into_iter()
            .map(|(block, reason)| BadBlock { block, name: name(&block), reason })
            .collect();
        bad.sort_by_key(|bad| bad.block);
        VerifyReport { blocks: seen.len() as u64, payload_bytes: self.payload_bytes, bad }
    }

    /// Reads every header there is, and finds the blocks whose header cannot be read.
    pub(super) fn read_headers(&mut self) -> Result<(), ChainError> {
        let total = self.reader.block_count()?;
        self.watch.total_blocks.store(total, Ordering::Relaxed);
        let mut candidates = BTreeSet::new();
        let mut after = None;
        let failure = loop {
            match self.reader.scan(tables::BLOCKS, &[], after) {
                Ok(keys) if keys.is_empty() => break None,
                Ok(keys) => {
                    after = keys.last().copied();
                    for key in keys {
                        candidates.insert(BlockHash::from_bytes(key));
                        if candidates.len() % STEP_BLOCKS == 0 {
                            self.watch.step()?;
                        }
                    }
                }
                Err(error) => break Some(error),
            }
        };
        if let Some(error) = failure {
            // A page of the table is damaged. The other tables name the blocks that lie on it.
            candidates.extend(self.blocks_named_elsewhere());
            if candidates.is_empty() {
                return Err(error.into());
            }
        }
        for (number, block) in candidates.iter().enumerate() {
            match self.reader.named(block) {
                Ok(found) => {
                    let header = found.header();
                    let seen = Seen {
                        height: found.height(),
                        lane: header.lane,
                        kind: header.kind,
                        name: header.name.as_str().into(),
                        parents: header.parents.as_slice().into(),
                        payload: header.payload.hash,
                        payload_len: header.payload.len_bytes,
                        inline: tables::is_inline(header),
                    };
                    self.seen.insert(*block, seen);
                }
                Err(error) => {
                    let (block, reason) = damage_of(error)?;
                    self.lost.insert(block);
                    self.note(block, reason);
                }
            }
            self.watch.blocks.fetch_add(1, Ordering::Relaxed);
            if number % STEP_BLOCKS == 0 {
                self.watch.step()?;
            }
        }
        Ok(())
    }

    fn blocks_named_elsewhere(&self) -> BTreeSet<BlockHash> {
        let mut blocks = BTreeSet::new();
        for table in [
            Self::entries(self.reader, tables::LANES),
            Self::entries(self.reader, tables::KINDS),
            Self::entries(self.reader, tables::NAMES),
            Self::entries(self.reader, tables::CHILDREN),
            Self::entries(self.reader, tables::TIPS),
        ] {
            // A table that cannot be read names nothing; check_tables reports it.
            blocks.extend(table.unwrap_or_default().iter().map(|(key, _)| tables::last_hash(key)));
        }
        blocks
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
        let lanes = |block: &BlockHash, seen: &Seen, add: &mut dyn FnMut(Vec<u8>, u8)| {
            add(tables::lane_key(seen.lane, seen.height, block).to_vec(), 0);
        };
        self.check_table("lanes", tables::LANES, lanes)?;
        let kinds = |block: &BlockHash, seen: &Seen, add: &mut dyn FnMut(Vec<u8>, u8)| {
            add(tables::kind_key(seen.kind, seen.height, block).to_vec(), 0);
        };
        self.check_table("kinds", tables::KINDS, kinds)?;
        let superseded = self
            .parents_with(|child, parent, role| role == ParentRole::Predecessor && child.name == parent.name);
        let names = |block: &BlockHash, seen: &Seen, add: &mut dyn FnMut(Vec<u8>, u8)| {
            add(tables::name_key(&seen.name, block), u8::from(!superseded.contains(block)));
        };
        self.check_table("names", tables::NAMES, names)?;
        let children = |block: &BlockHash, seen: &Seen, add: &mut dyn FnMut(Vec<u8>, u8)| {
            for parent in &seen.parents {
                add(tables::child_key(&parent.hash, block).to_vec(), parent.role as u8);
            }
        };
        self.check_table("children", tables::CHILDREN, children)?;
        let continued = self.parents_with(|child, parent, _| child.lane == parent.lane);
        let tips = |block: &BlockHash, seen: &Seen, add: &mut dyn FnMut(Vec<u8>, u8)| {
            if !continued.contains(block) {
                add(tables::tip_key(seen.lane, block).to_vec(), 0);
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
        expect: impl Fn(&BlockHash, &Seen, &mut dyn FnMut(Vec<u8>, u8)),
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
            expect(block, seen, &mut |key, mark| expected.push((key, mark, *block)));
        }
        expected.sort_unstable();
        let found = match Self::entries(self.reader, definition) {
            Ok(found) => found,
            Err(StorageError::IndexDamaged { .. }) => {
                return self.check_entries(table, definition, &expected);
            }
            Err(error) => return Err(error.into()),
        };
        let mut found = found.into_iter().peekable();
        for (key, mark, block) in expected {
            while let Some((extra, _)) = found.next_if(|(found, _)| *found < key) {
                self.unexpected(table, &extra);
            }
            let found = found.next_if(|(found, _)| *found == key).map(|(_, mark)| mark);
            if found != Some(mark) && !self.is_excused(table, found) {
                self.note(block, Damage::Entry { table });
            }
        }
        for (extra, _) in found {
            self.unexpected(table, &extra);
        }
        Ok(())
    }

    /// An entry that no intact header implies: its block is lost, or the entry is wrong.
    fn unexpected(&mut self, table: &'static str, key: &[u8]) {
        let block = tables::last_hash(key);
        if self.lost.contains(&block) {
            return;
        }
        if self.seen.contains_key(&block) {
            self.note(block, Damage::Entry { table });
        } else {
            self.lost.insert(block);
            self.note(block, Damage::HeaderMissing);
        }
    }

    /// A block that seems to miss its place as a tip or head may have lost it to a block whose
    /// header cannot be read.
    fn is_excused(&self, table: &'static str, found: Option<u8>) -> bool {
        !self.lost.is_empty() && matches!((table, found), ("tips", None) | ("names", Some(0)))
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
        for<'b> K::SelfType<'b>: AsRef<[u8]>,
        for<'b> V::SelfType<'b>: Into<Mark>,
    {
        for (number, (key, mark, block)) in expected.iter().enumerate() {
            if number % STEP_BLOCKS == 0 {
                self.watch.step()?;
            }
            let found = self.reader.read(|transaction| {
                let found = transaction.open_table(definition)?.get(K::from_bytes(key))?;
                Ok(found.map(|found| found.value().into().0))
            });
            match found.map_err(entry_error(block, table)).map_err(damage_of) {
                Ok(found) if found == Some(*mark) || self.is_excused(table, found) => {}
                Ok(_) => self.note(*block, Damage::Entry { table }),
                Err(damage) => {
                    let (block, reason) = damage?;
                    self.note(block, reason);
                }
            }
        }
        Ok(())
    }

    /// Every entry of an index table, by key.
    fn entries<K, V>(
        reader: &Reader,
        definition: TableDefinition<'static, K, V>,
    ) -> Result<Vec<(Vec<u8>, u8)>, StorageError>
    where
        K: Key + 'static,
        V: Value + 'static,
        for<'b> K::SelfType<'b>: AsRef<[u8]>,
        for<'b> V::SelfType<'b>: Into<Mark>,
    {
        reader.read(|transaction: &ReadTransaction| {
            let mut entries = Vec::new();
            for entry in transaction.open_table(definition)?.range::<K::SelfType<'_>>(..)? {
                let (key, value) = entry?;
                entries.push((key.value().as_ref().to_vec(), value.value().into().0));
            }
            Ok(entries)
        })
    }

    /// Payloads that lie in the index must be there and hash to their name.
    pub(super) fn check_inline_payloads(&mut self) -> Result<(), ChainError> {
        let mut checked: HashMap<PayloadHash, bool> = HashMap::new();
        let mut bad = Vec::new();
        for (block, seen) in self.seen.iter().filter(|(_, seen)| seen.inline) {
            if checked.get(&seen.payload) == Some(&true) {
                continue;
            }
            let read = self.reader.inline_payload(block, &seen.payload).and_then(|bytes| {
                let expected = seen.payload_len;
                match bytes.len() as u64 {
                    actual if actual == expected => Ok(()),
                    actual => Err(payload_error(block)(StorageError::PayloadLength {
                        payload: seen.payload,
                        expected,
                        actual,
                    })),
                }
            });
            checked.insert(seen.payload, read.is_ok());
            if let Err(error) = read {
                bad.push(damage_of(error)?);
            }
        }
        self.bad.append(&mut bad);
        self.watch.step()
    }

    /// Every signature beside a block must be one of that block.
    pub(super) fn check_signatures(&mut self) -> Result<(), ChainError> {
        let signatures = self.reader.read(|transaction| {
            let mut signatures: Vec<(BlockHash, SignatureRecord)> = Vec::new();
            for entry in transaction.open_table(tables::SIGNATURES)?.range::<[u8; 72]>(..)? {
                let (key, value) = entry?;
                let (key, value) = (key.value(), value.value());
                signatures.push((tables::first_hash(&key), tables::signature_record(&key, value)));
            }
            Ok(signatures)
        });
        let mut bad = Vec::new();
        match signatures {
            Ok(signatures) => {
                for (number, (block, record)) in signatures.iter().enumerate() {
                    if number % STEP_BLOCKS == 0 {
                        self.watch.step()?;
                    }
                    if !self.seen.contains_key(block) && self.lost.insert(*block) {
                        bad.push((*block, Damage::HeaderMissing));
                    } else if !record.verifies(block) {
                        let SignatureRecord { public_key, time_ms, .. } = *record;
                        bad.push((*block, Damage::Signature { public_key, time_ms }));
                    }
                }
            }
            // The table cannot be walked: ask for each block's, to tell whose are lost.
            Err(StorageError::IndexDamaged { .. }) => {
                for block in self.seen.keys() {
                    if let Err(error) = self.reader.signatures(block) {
                        bad.push(damage_of(error)?);
                    }
                }
            }
            Err(error) => return Err(error.into()),
        }
        self.bad.append(&mut bad);
        Ok(())
    }
}
