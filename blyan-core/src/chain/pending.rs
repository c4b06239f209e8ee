//! Owns the blocks of a transaction on their way into the tables: together, so that each table is entered once for
//! many of them, and its entries in their order, where neighbours share the pages that they change.

use std::collections::BTreeMap;
use std::ops::Bound;

use redb::{Key, Table, Value, WriteTransaction};

use super::block::Block;
use super::tables::{self, BlockValue};
use crate::format::ParentRole;
use crate::hash::BlockHash;

/// Blocks, and bytes of their values, from which on they are entered without waiting for more.
const MAX_BLOCKS: usize = 8192;
const MAX_BYTES: usize = 8 << 20;

/// What the tables do not hold yet.
#[derive(Default)]
pub(super) struct Pending {
    /// Number and value for `blocks`, in the order of their numbers, which follow each other.
    blocks: Vec<(u64, Vec<u8>)>,
    bytes: usize,
    hashes: Vec<[u8; 16]>,
    /// For `recent_lanes`, in the order of numbers.
    lanes: Vec<([u8; 19], BlockHash)>,
    names: BTreeMap<Vec<u8>, u8>,
    children: Vec<([u8; 16], u8)>,
    /// Entries to be made (`true`) or taken away.
    tips: BTreeMap<[u8; 9], bool>,
}

impl Pending {
    /// Takes the block after the last one. `payload` is empty if it is a file, `parents` are those of the header, in
    /// its order.
    pub(super) fn push<'p>(
        &mut self,
        block: &Block,
        header: &[u8],
        payload: &[u8],
        parents: impl Iterator<Item = &'p Block>,
    ) {
        let (number, height, hash) = (block.number(), block.height(), block.hash());
        let value = BlockValue { height, header, payload }.to_bytes();
        self.bytes = self.bytes.saturating_add(value.len());
        self.blocks.push((number, value));
        self.hashes.push(tables::number_key(&hash, number));
        let header = block.header();
        let lane_key = tables::lane_key(header.lane, header.kind, height, number);
        self.lanes.push((tables::recent_lane_key(&lane_key), hash));
        self.names.insert(tables::name_key(&header.name, number), 1);
        self.tips.insert(tables::tip_key(header.lane, number), true);
        for (link, parent) in header.parents.iter().zip(parents) {
            self.children.push((tables::child_key(parent.number(), number), link.role as u8));
            if link.role == ParentRole::Predecessor && parent.header().name == header.name {
                self.names.insert(tables::name_key(&header.name, parent.number()), 0);
            }
            if parent.header().lane == header.lane {
                let key = tables::tip_key(header.lane, parent.number());
                if self.tips.remove(&key).is_none_or(|is_tip| !is_tip) {
                    self.tips.insert(key, false);
                }
            }
        }
    }

    /// Whether there is so much that it is to be entered.
    pub(super) fn is_full(&self) -> bool {
        self.blocks.len() >= MAX_BLOCKS || self.bytes >= MAX_BYTES
    }

    /// The value of a block that is pending.
    pub(super) fn value(&self, number: u64) -> Option<&[u8]> {
        let first = self.blocks.first()?.0;
        let at = usize::try_from(number.checked_sub(first)?).ok()?;
        Some(&self.blocks.get(at)?.1)
    }

    /// Enters everything into the tables. After a failure the transaction is not to be committed.
    pub(super) fn enter(&mut self, transaction: &WriteTransaction) -> Result<(), redb::Error> {
        let mut pending = std::mem::take(self);
        if pending.blocks.is_empty() {
            return Ok(());
        }
        let blocks = pending.blocks.iter().map(|(number, value)| (*number, value.as_slice()));
        insert_sorted(&mut transaction.open_table(tables::BLOCKS)?, blocks)?;
        pending.hashes.sort_unstable();
        let mut recent = transaction.open_table(tables::RECENT)?;
        for key in &pending.hashes {
            recent.insert(key, ())?;
        }
        let lanes = pending.lanes.iter().map(|(key, hash)| (key, hash.as_bytes()));
        insert_sorted(&mut transaction.open_table(tables::RECENT_LANES)?, lanes)?;
        let names = pending.names.iter().map(|(key, head)| (key.as_slice(), *head));
        insert_sorted(&mut transaction.open_table(tables::NAMES)?, names)?;
        pending.children.sort_unstable();
        let children = pending.children.iter().map(|(key, role)| (key, *role));
        insert_sorted(&mut transaction.open_table(tables::CHILDREN)?, children)?;
        let mut tips = transaction.open_table(tables::TIPS)?;
        for (key, is_tip) in &pending.tips {
            if *is_tip {
                tips.insert(key, ())?;
            } else {
                tips.remove(key)?;
            }
        }
        Ok(())
    }
}

/// Inserts entries in their order, those that come to lie side by side in one go. As `Table::insert`, it replaces the
/// value of a key that is there, and fails only where the path to an entry cannot be read.
pub(super) fn insert_sorted<'e, K: Key + 'static, V: Value + 'static>(
    table: &mut Table<'_, K, V>,
    entries: impl Iterator<Item = (K::SelfType<'e>, V::SelfType<'e>)>,
) -> Result<(), redb::Error> {
    let mut entries = entries.peekable();
    while let Some((key, value)) = entries.next() {
        let mut gap = table.lower_bound_mut(Bound::Included(&key))?;
        // What lies beside the gap may be on another page, which says nothing of this one if it is damaged.
        let after =
            gap.peek_next().map(|next| next.map(|(key, _)| K::as_bytes(&key.value()).as_ref().to_vec()));
        let fits = |key: &K::SelfType<'e>| match &after {
            Ok(Some(after)) => K::compare(K::as_bytes(key).as_ref(), after).is_lt(),
            Ok(None) => true,
            Err(_) => false,
        };
        let has_neighbour = fits(&key) && entries.peek().is_some_and(|(next, _)| fits(next));
        if has_neighbour && gap.insert_before(&key, &value).is_ok() {
            while let Some((key, value)) = entries.next_if(|(key, _)| fits(key)) {
                gap.insert_before(key, value)?;
            }
            gap.close()?;
        } else {
            drop(gap);
            table.insert(key, value)?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "pending_tests.rs"]
mod tests;
