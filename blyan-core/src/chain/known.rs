//! Owns what a writer remembers of the hashes that its chain holds: who appends many blocks asks for each whether it
//! is there, mostly in vain, and a walk through the tables takes the longer the more blocks there are.

use super::reader::Reader;
use crate::hash::BlockHash;
use crate::storage::StorageError;

/// Bits of the filter for each block that it is made for. With so many blocks it knows all look-ups in vain but one of 400.
const BITS_PER_BLOCK: u64 = 16;

/// Bits that stand for a block.
const PROBES: u32 = 4;

/// Words of the largest filter, 8 MiB: as many as 4 million blocks take. Of more it knows less.
const MAX_WORDS: u64 = 1 << 20;

/// Look-ups in vain cost as much as the filter where there is one for so many blocks.
const BLOCKS_PER_LOOK_UP: u64 = 16;

/// Look-ups in vain before anything is made of them.
const MIN_LOOK_UPS: u64 = 256;

/// Which hashes are certainly not among those of a chain's first blocks.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Blocks that the filter tells of; the numbers before this one.
    blocks: u64,
    filter: Option<Filter>,
    /// Look-ups in vain without a filter.
    in_vain: u64,
}

impl Known {
    /// Nothing is known of so many blocks.
    pub(super) fn of(blocks: u64) -> Self {
        Self { blocks, filter: None, in_vain: 0 }
    }

    pub(super) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Whether the chain may hold the block.
    pub(super) fn may_hold(&self, block: &BlockHash) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.may_hold(start(block)))
    }

    /// Notes that a block was looked up in vain, and makes the filter where that was often enough.
    pub(super) fn note_in_vain(&mut self, reader: &Reader) {
        self.in_vain = self.in_vain.saturating_add(1);
        if self.filter.is_some() || self.in_vain < MIN_LOOK_UPS.max(self.blocks / BLOCKS_PER_LOOK_UP) {
            return;
        }
        self.in_vain = 0;
        // Without one everything is looked up. Tables that cannot be read say so then, of the blocks that it matters to.
        self.filter = Filter::of(reader, self.blocks).ok();
    }

    /// Adds the blocks up to a number.
    pub(super) fn add<'b>(&mut self, blocks: impl Iterator<Item = &'b BlockHash>, next_number: u64) {
        self.blocks = next_number;
        // One that grew beyond what it is made for says too little.
        if let Some(filter) = self.filter.take_if(|filter| filter.made_for < next_number) {
            drop(filter);
        } else if let Some(filter) = &mut self.filter {
            blocks.for_each(|block| filter.insert(start(block)));
        }
    }
}

/// What the tables know of a hash.
fn start(block: &BlockHash) -> [u8; 8] {
    block.as_bytes().first_chunk().copied().unwrap_or_default()
}

/// A Bloom filter of the beginnings of hashes.
#[derive(Debug)]
struct Filter {
    /// A power of two of them.
    words: Vec<u64>,
    /// Blocks.
    made_for: u64,
}

impl Filter {
    /// Of all hashes in the tables, with room for as many more.
    fn of(reader: &Reader, blocks: u64) -> Result<Self, StorageError> {
        let made_for = blocks.saturating_mul(2).max(MIN_LOOK_UPS);
        let words = (made_for.saturating_mul(BITS_PER_BLOCK) / u64::from(u64::BITS)).clamp(1, MAX_WORDS);
        let len = usize::try_from(words.next_power_of_two()).unwrap_or(1);
        let made_for = if words == MAX_WORDS { u64::MAX } else { made_for };
        let mut filter = Self { words: vec![0; len], made_for };
        reader.look_up(|lookup| lookup.numbers.each(|start| filter.insert(start)))?;
        Ok(filter)
    }

    fn insert(&mut self, start: [u8; 8]) {
        let last = self.words.len() - 1;
        for (word, mask) in bits(start) {
            self.words[word & last] |= mask;
        }
    }

    fn may_hold(&self, start: [u8; 8]) -> bool {
        let last = self.words.len() - 1;
        bits(start).all(|(word, mask)| self.words[word & last] & mask != 0)
    }
}

/// The bits that stand for the beginning of a hash: a word, of which the lower part is meant, and a mask of each.
fn bits(start: [u8; 8]) -> impl Iterator<Item = (usize, u64)> {
    let start = u64::from_le_bytes(start);
    (0..PROBES).map(move |probe| {
        let bits = start.rotate_left(16 * probe);
        ((bits >> 6) as usize, 1 << (bits & 63))
    })
}

#[cfg(test)]
#[path = "known_tests.rs"]
mod tests;
