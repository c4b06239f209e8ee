//! Owns walking the DAG: lanes, kinds, heads, tips, children, ancestors, topological order.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};

use super::block::Block;
use super::error::{ChainError, Damage};
use super::reader::{Reader, Stored, entry_error};
use super::{Chain, tables};
use crate::format::{BlockKind, ChainId};
use crate::hash::{BlockHash, ChainRoot, DomainHasher, HASH_LEN};
use crate::storage::StorageError;

/// Blocks by height, then hash, as of the moment the walk began. Parents come before children.
///
/// Holds the hashes of one height at a time, and those of the blocks that came last. After an item that is an error the walk goes on, unless
/// the index itself cannot be walked.
pub struct Blocks {
    /// `None` before the first block and after the last.
    reader: Option<Reader>,
    lanes: Vec<ChainId>,
    kind: Option<BlockKind>,
    begun: bool,
    streams: Vec<Stream>,
    /// The blocks of one height that are still to come: hash, number, stream.
    level: VecDeque<(BlockHash, u64, Stream)>,
    /// Keeps the index open; dropped after the reader.
    chain: Chain,
}

/// The blocks of one kind in one lane, from a height on.
#[derive(Clone, Copy, PartialEq)]
struct Stream {
    lane: ChainId,
    kind: BlockKind,
    height: u64,
}

impl Stream {
    /// Moves to the first height at or above its own; `None` if there is none.
    fn seek(mut self, reader: &Reader) -> Result<Option<Self>, StorageError> {
        let first = tables::lane_key(self.lane, self.kind, self.height, 0);
        let last = tables::lane_key(self.lane, self.kind, u64::MAX, u64::MAX);
        let found = reader.first_lane_key(first, last)?;
        Ok(found.map(|key| {
            self.height = tables::lane_key_parts(&key).1;
            self
        }))
    }
}

/// The kinds of block that a lane has.
fn kinds_of(reader: &Reader, lane: ChainId) -> Result<Vec<BlockKind>, StorageError> {
    let mut kinds = Vec::new();
    let mut next = Some(0);
    while let Some(kind) = next {
        let first = tables::lane_key(lane, BlockKind(kind), 0, 0);
        let last = tables::lane_key(lane, BlockKind(u16::MAX), u64::MAX, u64::MAX);
        let Some(key) = reader.first_lane_key(first, last)? else { break };
        let (kind, _) = tables::lane_key_parts(&key);
        kinds.push(kind);
        next = kind.0.checked_add(1);
    }
    Ok(kinds)
}

fn tips_of(reader: &Reader, lane: ChainId) -> Result<Vec<BlockHash>, ChainError> {
    let (first, last) = (tables::tip_key(lane, 0), tables::tip_key(lane, u64::MAX));
    let mut tips = Vec::new();
    for (key, ()) in reader.scan(tables::TIPS, first, last, |()| ())? {
        let tip = reader.numbered(tables::last_number(&key), "tips")?;
        if tip.header().lane != lane {
            let reason = Damage::Entry { table: "tips" };
            return Err(ChainError::Damaged { block: tip.hash(), reason });
        }
        tips.push(tip.hash());
    }
    tips.sort_unstable();
    Ok(tips)
}

/// The tips of every lane at one moment.
pub(super) fn all_tips(reader: &Reader) -> Result<Vec<BlockHash>, ChainError> {
    let mut tips = Vec::new();
    for lane in ChainId::ALL {
        tips.extend(tips_of(reader, lane)?);
    }
    Ok(tips)
}

impl Blocks {
    fn new(chain: &Chain, lanes: &[ChainId], kind: Option<BlockKind>) -> Self {
        Self {
            reader: None,
            lanes: lanes.to_vec(),
            kind,
            begun: false,
            streams: Vec::new(),
            level: VecDeque::new(),
            chain: chain.clone(),
        }
    }

    fn begin(&mut self) -> Result<Reader, ChainError> {
        let reader = self.chain.reader()?;
        for lane in &self.lanes {
            let kinds = match self.kind {
                Some(kind) => vec![kind],
                None => kinds_of(&reader, *lane)?,
            };
            for kind in kinds {
                let stream = Stream { lane: *lane, kind, height: 0 };
                self.streams.extend(stream.seek(&reader)?);
            }
        }
        Ok(reader)
    }

    /// Fetches the blocks of the least height that is left.
    fn next_level(&mut self, reader: &Reader) -> Result<(), StorageError> {
        let Some(height) = self.streams.iter().map(|stream| stream.height).min() else { return Ok(()) };
        let mut level = Vec::new();
        for mut stream in std::mem::take(&mut self.streams) {
            if stream.height > height {
                self.streams.push(stream);
                continue;
            }
            let place = |number| tables::lane_key(stream.lane, stream.kind, height, number);
            let places = (place(0), place(u64::MAX));
            let settled = reader.settled_lanes(places)?;
            for (key, hash) in settled.iter().chain(reader.recent_lanes(places)?) {
                level.push((*hash, tables::last_number(key), stream));
            }
            if let Some(above) = height.checked_add(1) {
                stream.height = above;
                self.streams.extend(stream.seek(reader)?);
            }
        }
        level.sort_unstable_by_key(|(hash, number, _)| (*hash, *number));
        // Only a forged index has one in both tables.
        level.dedup();
        self.level = level.into();
        Ok(())
    }

    fn advance(&mut self) -> Result<Option<Block>, ChainError> {
        let reader = match self.reader.take() {
            Some(reader) => reader,
            None if !std::mem::replace(&mut self.begun, true) => self.begin()?,
            None => return Ok(None),
        };
        if self.level.is_empty() {
            self.next_level(&reader)?;
        }
        let Some((hash, number, stream)) = self.level.pop_front() else { return Ok(None) };
        let read = reader.value(number).map_err(entry_error(&hash, "blocks"));
        let reader = self.reader.insert(reader);
        let missing = ChainError::Damaged { block: hash, reason: Damage::HeaderMissing };
        let block = Stored::decode(&hash, number, read?.ok_or(missing)?)?.block;
        let header = block.header();
        if header.lane == stream.lane && header.kind == stream.kind && block.height() == stream.height {
            Ok(Some(block))
        } else {
            let table = reader.lanes_of(number);
            Err(ChainError::Damaged { block: hash, reason: Damage::Entry { table } })
        }
    }
}

impl Iterator for Blocks {
    type Item = Result<Block, ChainError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}

impl Chain {
    /// The blocks of a lane by height, then hash.
    pub fn blocks(&self, lane: ChainId) -> Blocks {
        Blocks::new(self, &[lane], None)
    }

    /// The blocks of a kind by height, then hash.
    pub fn blocks_of_kind(&self, kind: BlockKind) -> Blocks {
        Blocks::new(self, &ChainId::ALL, Some(kind))
    }

    /// The blocks of a kind in one lane by height, then hash.
    pub fn blocks_of_kind_in(&self, lane: ChainId, kind: BlockKind) -> Blocks {
        Blocks::new(self, &[lane], Some(kind))
    }

    /// All blocks, every parent before its children: by height, then hash.
    pub fn topological_order(&self) -> Blocks {
        Blocks::new(self, &ChainId::ALL, None)
    }

    /// The blocks of a name that no block of the same name has as its predecessor, by hash.
    ///
    /// # Errors
    ///
    /// [`ChainError::Damaged`] or [`ChainError::Storage`].
    pub fn heads(&self, name: &str) -> Result<Vec<Block>, ChainError> {
        let reader = self.reader()?;
        let mut heads = Vec::new();
        for number in reader.heads(name)? {
            let block = reader.numbered(number, "names")?;
            if block.header().name != name {
                let reason = Damage::Entry { table: "names" };
                return Err(ChainError::Damaged { block: block.hash(), reason });
            }
            heads.push(block);
        }
        heads.sort_unstable_by_key(Block::hash);
        Ok(heads)
    }

    /// The blocks whose hashes begin with these lowercase hexadecimal digits, by hash; none for a text
    /// of anything else. For people, who type the start of a hash.
    ///
    /// # Errors
    ///
    /// [`ChainError::Damaged`] or [`ChainError::Storage`].
    pub fn with_prefix(&self, prefix: &str) -> Result<Vec<BlockHash>, ChainError> {
        let hex = prefix.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c));
        if !hex || prefix.len() > 2 * HASH_LEN {
            return Ok(Vec::new());
        }
        let fill = |digit: &str| format!("{prefix}{}", digit.repeat(2 * HASH_LEN - prefix.len())).parse();
        let (Ok(first), Ok(last)) = (fill("0"), fill("f")) else { return Ok(Vec::new()) };
        let reader = self.reader()?;
        let numbers = reader.look_up(|lookup| lookup.numbers.between(&first, &last))?;
        let mut found = Vec::new();
        for number in numbers {
            let hash = reader.numbered(number, reader.table_of(number))?.hash();
            if (first..=last).contains(&hash) {
                found.push(hash);
            }
        }
        found.sort_unstable();
        // Only a forged index has one in both tables.
        found.dedup();
        Ok(found)
    }

    /// The blocks that have this one as a parent, by hash.
    ///
    /// # Errors
    ///
    /// [`ChainError::NotFound`], [`ChainError::Damaged`] or [`ChainError::Storage`].
    pub fn children(&self, block: &BlockHash) -> Result<Vec<BlockHash>, ChainError> {
        let reader = self.reader()?;
        let parent = reader.get(block)?.block.number();
        let (first, last) = (tables::child_key(parent, 0), tables::child_key(parent, u64::MAX));
        let keys = reader.scan(tables::CHILDREN, first, last, |_| ());
        let mut children = Vec::new();
        for (key, ()) in keys.map_err(entry_error(block, "children"))? {
            let child = reader.numbered(tables::last_number(&key), "children")?;
            if !child.header().parents.iter().any(|parent| parent.hash == *block) {
                let reason = Damage::Entry { table: "children" };
                return Err(ChainError::Damaged { block: child.hash(), reason });
            }
            children.push(child.hash());
        }
        children.sort_unstable();
        Ok(children)
    }

    /// Every block this one depends on, directly or not, parents before children: by height, then
    /// hash.
    ///
    /// # Errors
    ///
    /// [`ChainError::NotFound`], [`ChainError::Damaged`] or [`ChainError::Storage`].
    pub fn ancestors(&self, block: &BlockHash) -> Result<Vec<Block>, ChainError> {
        let reader = self.reader()?;
        let mut known: BTreeMap<BlockHash, Block> = BTreeMap::new();
        let mut open = vec![reader.get(block)?.block];
        while let Some(child) = open.pop() {
            for parent in &child.header().parents {
                if let Entry::Vacant(entry) = known.entry(parent.hash) {
                    let missing = Damage::MissingParent { parent: parent.hash };
                    let missing = ChainError::Damaged { block: child.hash(), reason: missing };
                    let found = reader.find(&parent.hash)?.ok_or(missing)?.block;
                    open.push(entry.insert(found).clone());
                }
            }
        }
        let mut ancestors: Vec<Block> = known.into_values().collect();
        ancestors.sort_unstable_by_key(|block| (block.height(), block.hash()));
        Ok(ancestors)
    }

    /// The blocks of a lane without a child in the same lane, by hash.
    ///
    /// # Errors
    ///
    /// [`ChainError::Damaged`] or [`ChainError::Storage`].
    pub fn tips(&self, lane: ChainId) -> Result<Vec<BlockHash>, ChainError> {
        tips_of(&self.reader()?, lane)
    }

    /// Names the whole DAG: `derive_key("blyan chain root 1")` over the hashes of the tips of all
    /// lanes, ascending.
    ///
    /// # Errors
    ///
    /// [`ChainError::Damaged`] or [`ChainError::Storage`].
    pub fn root(&self) -> Result<ChainRoot, ChainError> {
        let mut tips = all_tips(&self.reader()?)?;
        tips.sort_unstable();
        let mut hasher = DomainHasher::chain_root();
        for tip in &tips {
            hasher.update(tip.as_bytes());
        }
        Ok(ChainRoot::from_bytes(hasher.finish()))
    }
}
