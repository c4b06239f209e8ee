//! Owns walking the DAG: lanes, kinds, heads, tips, children, ancestors, topological order.

use std::collections::{BTreeMap, VecDeque};

use super::block::Block;
use super::error::{ChainError, Damage};
use super::reader::{Reader, SCAN_KEYS, entry_error};
use super::{Chain, tables};
use crate::format::{BlockKind, ChainId};
use crate::hash::{BlockHash, ChainRoot, DomainHasher};
use crate::storage::StorageError;

/// Blocks by height, then hash, as of the moment the walk began. Parents come before children.
///
/// After an item that is an error the walk goes on, unless the index itself cannot be walked.
pub struct Blocks {
    /// `None` before the first block and after the last.
    reader: Option<Reader>,
    streams: Vec<Stream>,
    begun: bool,
    /// Keeps the index open; dropped after the reader.
    chain: Chain,
}

/// Where a walk finds its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Lane(ChainId),
    Kind(BlockKind),
}

/// One lane or kind, read a batch of keys at a time.
struct Stream {
    source: Source,
    batch: VecDeque<(u64, BlockHash)>,
    complete: bool,
    last: Option<(u64, BlockHash)>,
}

impl Stream {
    fn new(source: Source) -> Self {
        Self { source, batch: VecDeque::new(), complete: false, last: None }
    }

    /// The next height and hash, fetching a batch if there is none at hand.
    fn peek(&mut self, reader: &Reader) -> Result<Option<(u64, BlockHash)>, StorageError> {
        if self.batch.is_empty() && !self.complete {
            let keys: Vec<(u64, BlockHash)> = match self.source {
                Source::Lane(lane) => {
                    let after = self.last.map(|(height, hash)| tables::lane_key(lane, height, &hash));
                    let keys = reader.scan(tables::LANES, &[lane as u8], after)?;
                    keys.iter().map(|key| (tables::key_height(key), tables::last_hash(key))).collect()
                }
                Source::Kind(kind) => {
                    let after = self.last.map(|(height, hash)| tables::kind_key(kind, height, &hash));
                    let keys = reader.scan(tables::KINDS, &kind.0.to_be_bytes(), after)?;
                    keys.iter().map(|key| (tables::key_height(key), tables::last_hash(key))).collect()
                }
            };
            self.complete = keys.len() < SCAN_KEYS;
            self.last = keys.last().copied().or(self.last);
            self.batch = keys.into();
        }
        Ok(self.batch.front().copied())
    }
}

impl Blocks {
    fn new(chain: &Chain, sources: impl IntoIterator<Item = Source>) -> Self {
        let streams = sources.into_iter().map(Stream::new).collect();
        Self { reader: None, streams, begun: false, chain: chain.clone() }
    }

    fn advance(&mut self) -> Result<Option<Block>, ChainError> {
        if !self.begun {
            self.begun = true;
            self.reader = Some(self.chain.reader()?);
        }
        let Some(reader) = &self.reader else { return Ok(None) };
        let mut least: Option<((u64, BlockHash), usize)> = None;
        for (index, stream) in self.streams.iter_mut().enumerate() {
            match stream.peek(reader) {
                Ok(Some(key)) if least.is_none_or(|(other, _)| key < other) => least = Some((key, index)),
                Ok(_) => {}
                Err(error) => {
                    self.reader = None;
                    return Err(error.into());
                }
            }
        }
        let Some(((height, hash), index)) = least else {
            self.reader = None;
            return Ok(None);
        };
        let Some(stream) = self.streams.get_mut(index) else { return Ok(None) };
        stream.batch.pop_front();
        let source = stream.source;
        let block = reader.named(&hash)?;
        let (table, agrees) = match source {
            Source::Lane(lane) => ("lanes", block.header().lane == lane),
            Source::Kind(kind) => ("kinds", block.header().kind == kind),
        };
        if !agrees || block.height() != height {
            return Err(ChainError::Damaged { block: hash, reason: Damage::Entry { table } });
        }
        Ok(Some(block))
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
        Blocks::new(self, [Source::Lane(lane)])
    }

    /// The blocks of a kind by height, then hash.
    pub fn blocks_of_kind(&self, kind: BlockKind) -> Blocks {
        Blocks::new(self, [Source::Kind(kind)])
    }

    /// All blocks, every parent before its children: by height, then hash.
    pub fn topological_order(&self) -> Blocks {
        Blocks::new(self, ChainId::ALL.map(Source::Lane))
    }

    /// The blocks of a name that no block of the same name has as its predecessor, by hash.
    ///
    /// # Errors
    ///
    /// [`ChainError::Damaged`] or [`ChainError::Storage`].
    pub fn heads(&self, name: &str) -> Result<Vec<Block>, ChainError> {
        let reader = self.reader()?;
        let mut heads = Vec::new();
        for (hash, head) in reader.blocks_of_name(name)? {
            if head {
                let block = reader.named(&hash)?;
                if block.header().name != name {
                    return Err(ChainError::Damaged {
                        block: hash,
                        reason: Damage::Entry { table: "names" },
                    });
                }
                heads.push(block);
            }
        }
        Ok(heads)
    }

    /// The blocks that have this one as a parent, by hash.
    ///
    /// # Errors
    ///
    /// [`ChainError::NotFound`], [`ChainError::Damaged`] or [`ChainError::Storage`].
    pub fn children(&self, block: &BlockHash) -> Result<Vec<BlockHash>, ChainError> {
        let reader = self.reader()?;
        reader.get(block)?;
        let keys = reader.scan_all(tables::CHILDREN, block.as_bytes());
        let keys = keys.map_err(entry_error(block, "children"))?;
        let children: Vec<BlockHash> = keys.iter().map(|key| tables::last_hash(key)).collect();
        for child in &children {
            if !reader.named(child)?.header().parents.iter().any(|parent| parent.hash == *block) {
                return Err(ChainError::Damaged {
                    block: *child,
                    reason: Damage::Entry { table: "children" },
                });
            }
        }
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
        let mut open = vec![reader.get(block)?];
        while let Some(child) = open.pop() {
            for parent in &child.header().parents {
                if !known.contains_key(&parent.hash) {
                    let missing = Damage::MissingParent { parent: parent.hash };
                    let found = reader.find(&parent.hash)?;
                    let found = found.ok_or(ChainError::Damaged { block: child.hash(), reason: missing })?;
                    known.insert(parent.hash, found.clone());
                    open.push(found);
                }
            }
        }
        let mut ancestors: Vec<Block> = known.into_values().collect();
        ancestors.sort_by_key(|block| (block.height(), block.hash()));
        Ok(ancestors)
    }

    /// The blocks of a lane without a child in the same lane, by hash.
    ///
    /// # Errors
    ///
    /// [`ChainError::Damaged`] or [`ChainError::Storage`].
    pub fn tips(&self, lane: ChainId) -> Result<Vec<BlockHash>, ChainError> {
        let reader = self.reader()?;
        let keys = reader.scan_all(tables::TIPS, &[lane as u8])?;
        let tips: Vec<BlockHash> = keys.iter().map(|key| tables::last_hash(key)).collect();
        for tip in &tips {
            if reader.named(tip)?.header().lane != lane {
                return Err(ChainError::Damaged { block: *tip, reason: Damage::Entry { table: "tips" } });
            }
        }
        Ok(tips)
    }

    /// Names the whole DAG: `derive_key("blyan chain root 1")` over the hashes of the tips of all
    /// lanes, ascending.
    ///
    /// # Errors
    ///
    /// [`ChainError::Damaged`] or [`ChainError::Storage`].
    pub fn root(&self) -> Result<ChainRoot, ChainError> {
        let mut tips = Vec::new();
        for lane in ChainId::ALL {
            tips.extend(self.tips(lane)?);
        }
        tips.sort_unstable();
        let mut hasher = DomainHasher::chain_root();
        for tip in &tips {
            hasher.update(tip.as_bytes());
        }
        Ok(ChainRoot::from_bytes(hasher.finish()))
    }
}
