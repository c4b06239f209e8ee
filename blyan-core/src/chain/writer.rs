//! Owns appending: one transaction, all of it durable when `commit` returns, or none of it.
//!
//! The order on the medium: payload content synced, renamed into place, its folder synced, then
//! the index commits. So a block that can be found always has its payload.

use std::collections::HashSet;

use super::Chain;
use super::block::{Block, Draft};
use super::error::{ChainError, Damage};
use super::reader::{decode_block, entry_error, payload_error};
use super::signature::SignatureRecord;
use super::tables::{self, ParentEntry};
use super::validate::ParentView;
use crate::format::Header;
use crate::hash::{BlockHash, PayloadHash};
use crate::storage::Payload;
use crate::storage::index::WriteBatch;
use crate::storage::payload_store::check_hash;
use crate::storage::payload_writer::PayloadWriter;

/// What an append did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The block.
    pub hash: BlockHash,
    /// Whether the chain did not hold it before.
    pub new_block: bool,
    /// Whether its payload had to be written: new, or damaged and now repaired.
    pub new_payload: bool,
}

/// A transaction. Dropped without [`Self::commit`], nothing of it remains.
pub struct Writer {
    batch: WriteBatch,
    payloads: PayloadWriter,
    /// Payload files this transaction wrote or found intact.
    intact: HashSet<PayloadHash>,
    dirty: bool,
    chain: Chain,
}

/// The parents of a draft, for its validator.
struct Parents<'a> {
    writer: &'a Writer,
    blocks: &'a [Block],
}

impl Parents<'_> {
    fn find(&self, parent: &BlockHash) -> Result<&Block, ChainError> {
        // In the order of the header's parents, which ascend by hash.
        let found = self.blocks.binary_search_by_key(parent, Block::hash).ok();
        found.and_then(|at| self.blocks.get(at)).ok_or(ChainError::NotFound { block: *parent })
    }
}

impl ParentView for Parents<'_> {
    fn header(&self, parent: &BlockHash) -> Result<Header, ChainError> {
        Ok(self.find(parent)?.header().clone())
    }

    fn payload(&self, parent: &BlockHash) -> Result<Payload, ChainError> {
        self.writer.payload(self.find(parent)?)
    }
}

impl Writer {
    pub(super) fn begin(chain: Chain) -> Result<Self, ChainError> {
        let batch = chain.0.index.begin_write()?;
        let payloads = PayloadWriter::new(chain.0.medium.clone());
        Ok(Self { batch, payloads, intact: HashSet::new(), dirty: false, chain })
    }

    /// Adds a block to the transaction; its parents may be of the same transaction.
    ///
    /// A block the chain holds already stays as it is, its payload repaired if it is damaged. A
    /// refused draft leaves the transaction usable.
    ///
    /// # Errors
    ///
    /// [`ChainError::MissingParent`], [`ChainError::Header`], [`ChainError::Refused`], with nothing
    /// written; [`ChainError::Damaged`] for a damaged parent; [`ChainError::Storage`].
    pub fn append(&mut self, draft: Draft) -> Result<Appended, ChainError> {
        let (header, header_bytes) = draft.encode()?;
        let hash = BlockHash::of_header(&header_bytes);
        if self.find(&hash)?.is_some() {
            let new_payload = self.store_payload(&hash, &header, draft.payload, false)?;
            return Ok(Appended { hash, new_block: false, new_payload });
        }
        let mut parents = Vec::with_capacity(header.parents.len());
        for parent in &header.parents {
            let missing = || ChainError::MissingParent { name: header.name.clone(), parent: parent.hash };
            parents.push(self.find(&parent.hash)?.ok_or_else(missing)?);
        }
        if let Some(validator) = self.chain.0.validators.get(header.kind) {
            let view = Parents { writer: self, blocks: &parents };
            validator.validate(&header, &draft.payload, &view).map_err(|source| ChainError::Refused {
                name: header.name.clone(),
                kind: header.kind,
                source,
            })?;
        }
        let new_payload = self.store_payload(&hash, &header, draft.payload, true)?;
        let height = parents.iter().map(|parent| parent.height().saturating_add(1)).max().unwrap_or(0);
        let entries: Vec<ParentEntry<'_>> = header
            .parents
            .iter()
            .zip(&parents)
            .map(|(parent, block)| ParentEntry {
                hash: parent.hash,
                role: parent.role,
                header: block.header(),
            })
            .collect();
        self.dirty = true;
        self.batch.write(|transaction| {
            tables::insert_block(transaction, &hash, height, &header, &header_bytes, &entries)
        })?;
        Ok(Appended { hash, new_block: true, new_payload })
    }

    /// Puts a signature beside a block, which may be of the same transaction.
    ///
    /// # Errors
    ///
    /// [`ChainError::Signature`] if it is not valid, [`ChainError::NotFound`],
    /// [`ChainError::Storage`].
    pub fn add_signature(&mut self, block: &BlockHash, record: SignatureRecord) -> Result<(), ChainError> {
        if !record.verifies(block) {
            return Err(ChainError::Signature { block: *block });
        }
        self.find(block)?.ok_or(ChainError::NotFound { block: *block })?;
        self.dirty = true;
        Ok(self.batch.write(|transaction| tables::insert_signature(transaction, block, &record))?)
    }

    /// Whether the block is in the chain or in this transaction.
    ///
    /// # Errors
    ///
    /// [`ChainError::Damaged`] or [`ChainError::Storage`].
    pub fn contains(&self, block: &BlockHash) -> Result<bool, ChainError> {
        Ok(self.find(block)?.is_some())
    }

    /// Makes everything appended durable and visible, together.
    ///
    /// # Errors
    ///
    /// [`ChainError::Storage`]; whether the transaction is in the chain is then known only after
    /// opening it again. It is there as a whole or not at all.
    pub fn commit(mut self) -> Result<(), ChainError> {
        self.payloads.sync()?;
        if self.dirty {
            self.batch.commit()?;
        }
        Ok(())
    }

    fn find(&self, block: &BlockHash) -> Result<Option<Block>, ChainError> {
        let value = self
            .batch
            .read(|transaction| tables::block_bytes(&transaction.open_table(tables::BLOCKS)?, block))
            .map_err(entry_error(block, "blocks"))?;
        value.map(|value| decode_block(block, &value)).transpose()
    }

    fn inline_payload(
        &self,
        block: &BlockHash,
        payload: &PayloadHash,
    ) -> Result<Option<Vec<u8>>, ChainError> {
        let read = self.batch.read(|transaction| tables::payload_bytes(transaction, payload));
        read.map_err(entry_error(block, "payloads"))
    }

    fn payload(&self, block: &Block) -> Result<Payload, ChainError> {
        let (hash, header) = (block.hash(), block.header());
        let payload = &header.payload;
        if tables::is_inline(header) {
            let missing = Damage::InlinePayloadMissing { payload: payload.hash };
            let missing = ChainError::Damaged { block: hash, reason: missing };
            let bytes = self.inline_payload(&hash, &payload.hash)?.ok_or(missing)?;
            check_hash(&payload.hash, &bytes).map_err(payload_error(&hash))?;
            return Ok(Payload::from(bytes));
        }
        // It may still be on its way to the medium.
        self.payloads.wait()?;
        self.chain.0.payloads.get(&payload.hash, payload.len_bytes).map_err(payload_error(&hash))
    }

    /// Makes sure that the payload is stored and intact; tells whether it had to be written.
    fn store_payload(
        &mut self,
        block: &BlockHash,
        header: &Header,
        bytes: Vec<u8>,
        new_block: bool,
    ) -> Result<bool, ChainError> {
        let payload = header.payload.hash;
        if tables::is_inline(header) {
            let stored = self.inline_payload(block, &payload)?;
            if stored.is_some_and(|stored| stored == bytes) {
                return Ok(false);
            }
            self.dirty = true;
            self.batch.write(|transaction| tables::insert_payload(transaction, &payload, &bytes))?;
            return Ok(true);
        }
        if self.intact.contains(&payload) {
            return Ok(false);
        }
        let files = &self.chain.0.payloads;
        let intact = files.is_intact(&payload, header.payload.len_bytes)?;
        if intact {
            if new_block {
                self.payloads.rely_on(payload);
            }
        } else {
            files.forget(&payload);
            self.payloads.write(payload, bytes)?;
        }
        self.intact.insert(payload);
        Ok(!intact)
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("dirty", &self.dirty).finish_non_exhaustive()
    }
}
