//! Owns appending: one transaction, all of it durable when `commit` returns, or none of it.
//!
//! The order on the medium: payload content synced, renamed into place, its folder synced, then
//! the index commits. So a block that can be found always has its payload.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::Chain;
use super::block::{Block, Draft};
use super::error::{ChainError, Damage};
use super::known::Known;
use super::pending::Pending;
use super::reader::{Reader, Stored, entry_error};
use super::signature::SignatureRecord;
use super::tables;
use super::validate::ParentView;
use crate::format::{Header, PayloadRef};
use crate::hash::{BlockHash, PayloadHash};
use crate::storage::index::WriteBatch;
use crate::storage::payload_writer::PayloadWriter;
use crate::storage::{Payload, StorageError};

/// Decoded blocks that a transaction keeps.
const MAX_KNOWN_BLOCKS: usize = 1024;

/// Parents of such a block: one with more takes much memory, and is a model, which few have as a parent.
const MAX_KNOWN_LINKS: usize = 1024;

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
    /// Payload files this transaction wrote.
    written: Vec<PayloadHash>,
    /// Whether payloads were ever collected.
    has_collected: bool,
    /// Decoded blocks that may be parents of the next: one spec is the parent of a model's every block.
    known: HashMap<BlockHash, Arc<Block>>,
    /// Numbers of the blocks that this transaction made or mended.
    own: HashMap<BlockHash, u64>,
    /// New blocks that are not in the tables yet.
    pending: Pending,
    next_number: u64,
    dirty: bool,
    /// The chain as it was when the transaction began.
    before: Reader,
    /// Which blocks it did certainly not hold.
    held: Known,
    chain: Chain,
}

/// A payload that is about to be appended.
pub(super) enum Content<'a> {
    Here(Vec<u8>),
    /// Gives the bytes that the header names. Many blocks may carry one large payload, which is there already.
    Elsewhere(&'a mut dyn FnMut() -> Result<Vec<u8>, ChainError>),
}

impl Content<'_> {
    fn bytes(&mut self) -> Result<&[u8], ChainError> {
        if let Self::Elsewhere(fetch) = self {
            *self = Self::Here(fetch()?);
        }
        match self {
            Self::Here(bytes) => Ok(bytes),
            Self::Elsewhere(_) => Ok(&[]),
        }
    }

    fn into_bytes(self) -> Result<Vec<u8>, ChainError> {
        match self {
            Self::Here(bytes) => Ok(bytes),
            Self::Elsewhere(fetch) => fetch(),
        }
    }
}

/// The parents of a draft, for its validator.
struct Parents<'a> {
    writer: &'a Writer,
    blocks: &'a [Arc<Block>],
    /// Why a payload could not be read: nothing that a block could be refused for.
    failed: RefCell<Option<ChainError>>,
}

impl Parents<'_> {
    fn find(&self, parent: &BlockHash) -> Result<&Block, ChainError> {
        // In the order of the header's parents, which ascend by hash.
        let found = self.blocks.binary_search_by_key(parent, |block| block.hash()).ok();
        found
            .and_then(|at| self.blocks.get(at))
            .map(|block| &**block)
            .ok_or(ChainError::NotFound { block: *parent })
    }

    fn read(&self, block: &Block) -> Result<Payload, ChainError> {
        let parent = &block.hash();
        if !tables::is_inline(block.header()) {
            // It may still be on its way to the medium.
            self.writer.payloads.wait()?;
        }
        let stored = self.writer.find(parent)?.ok_or(ChainError::NotFound { block: *parent })?;
        let payload = stored.payload(&self.writer.chain.0.payloads);
        payload.map_err(|error| self.writer.chain.explain(error))
    }
}

impl ParentView for Parents<'_> {
    fn header(&self, parent: &BlockHash) -> Result<Header, ChainError> {
        Ok(self.find(parent)?.header().clone())
    }

    fn payload(&self, parent: &BlockHash) -> Result<Payload, ChainError> {
        let block = self.find(parent)?;
        self.read(block).map_err(|error| {
            self.failed.borrow_mut().get_or_insert(error);
            ChainError::NotFound { block: *parent }
        })
    }
}

impl Writer {
    pub(super) fn begin(chain: Chain) -> Result<Self, ChainError> {
        let mut batch = chain.0.index.begin_write()?;
        batch.write(tables::upgrade)?;
        let next_number = batch.read(tables::next_number)?;
        let has_collected = batch.read(tables::has_collected)?;
        let before = chain.reader()?;
        let payloads = PayloadWriter::new(chain.0.medium.clone());
        // Only tried: in a process made by `fork` it may be locked for ever.
        let held = chain.0.known.try_lock().ok().and_then(|mut known| known.take());
        let held = held.filter(|held| held.blocks() == next_number).unwrap_or(Known::of(next_number));
        Ok(Self {
            batch,
            payloads,
            intact: HashSet::new(),
            written: Vec::new(),
            has_collected,
            known: HashMap::new(),
            own: HashMap::new(),
            pending: Pending::default(),
            next_number,
            dirty: false,
            before,
            held,
            chain,
        })
    }

    /// Adds a block to the transaction; its parents may be of the same transaction.
    ///
    /// A block the chain holds already stays as it is, its payload repaired if it is damaged. A
    /// refused draft leaves the transaction usable.
    ///
    /// # Errors
    ///
    /// [`ChainError::MissingParent`], [`ChainError::Header`], [`ChainError::Refused`], with nothing
    /// written; [`ChainError::Damaged`] for a damaged parent, [`ChainError::PayloadCollected`] for one whose payload
    /// was collected and that the draft cannot be judged without; [`ChainError::Storage`].
    pub fn append(&mut self, draft: Draft) -> Result<Appended, ChainError> {
        let (header, header_bytes) = draft.encode()?;
        self.append_block(&header, &header_bytes, Content::Here(draft.payload))
    }

    /// As [`Self::append`], of a block whose header is known to fit its payload.
    pub(super) fn append_block(
        &mut self,
        header: &Header,
        header_bytes: &[u8],
        mut content: Content<'_>,
    ) -> Result<Appended, ChainError> {
        let hash = BlockHash::of_header(header_bytes);
        if let Some(stored) = self.find(&hash)? {
            let new_payload = self.repair_payload(&stored, content)?;
            return Ok(Appended { hash, new_block: false, new_payload });
        }
        if self.held.may_hold(&hash) {
            self.held.note_in_vain(&self.before);
        }
        let mut parents = Vec::with_capacity(header.parents.len());
        for parent in &header.parents {
            let missing = || ChainError::MissingParent { name: header.name.clone(), parent: parent.hash };
            parents.push(self.parent(&parent.hash)?.ok_or_else(missing)?);
        }
        if let Some(validator) = self.chain.0.validators.get(header.kind) {
            let view = Parents { writer: self, blocks: &parents, failed: RefCell::default() };
            validator.validate(header, content.bytes()?, &view).map_err(|source| {
                let refused = ChainError::Refused { name: header.name.clone(), kind: header.kind, source };
                view.failed.take().unwrap_or(refused)
            })?;
        }
        let (payload, new_payload) = if tables::is_inline(header) {
            (content.into_bytes()?, true)
        } else {
            (Vec::new(), self.store_file(&header.payload, content)?)
        };
        let height = parents.iter().map(|parent| parent.height().saturating_add(1)).max().unwrap_or(0);
        let number = self.next_number;
        self.dirty = true;
        let settles = number.is_multiple_of(tables::SETTLE_BLOCKS);
        if settles || self.pending.is_full() {
            self.enter_pending()?;
        }
        if settles {
            self.batch.write(|transaction| tables::settle(transaction, number))?;
        }
        let block = Block::new(hash, header.clone(), height, number);
        self.pending.push(&block, header_bytes, &payload, parents.iter().map(|parent| &**parent));
        self.own.insert(hash, number);
        self.keep(Arc::new(block));
        self.next_number = number.saturating_add(1);
        Ok(Appended { hash, new_block: true, new_payload })
    }

    /// Memory for the next draft's payload: that of one that is written, with its old bytes, or none.
    pub(crate) fn buffer(&self) -> Vec<u8> {
        self.payloads.buffer()
    }

    /// Puts a signature beside a block, which may be of the same transaction. Of one key at one time the first
    /// that is valid stays.
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
        if self.holds_signature(block, &record)? {
            return Ok(());
        }
        self.dirty = true;
        Ok(self.batch.write(|transaction| tables::insert_signature(transaction, block, &record))?)
    }

    /// As [`Self::add_signature`]; whether the chain did not hold it before.
    pub(super) fn add_new_signature(
        &mut self,
        block: &BlockHash,
        record: &SignatureRecord,
    ) -> Result<bool, ChainError> {
        let held = self.holds_signature(block, record)?;
        if !held {
            self.add_signature(block, *record)?;
        }
        Ok(!held)
    }

    /// Whether there is a valid signature of this key and time.
    fn holds_signature(&self, block: &BlockHash, record: &SignatureRecord) -> Result<bool, ChainError> {
        let held = self.batch.read(|transaction| tables::signature_like(transaction, block, record))?;
        Ok(held.is_some_and(|signature| SignatureRecord { signature, ..*record }.verifies(block)))
    }

    /// Ends the transaction without a trace: payload files that it wrote and no block names go, too.
    pub(super) fn abandon(self) -> Result<(), ChainError> {
        // What failed to be written is not there.
        let _ = self.payloads.wait();
        // After a failed write others may rely on them already: the next collection tells what is stray.
        if self.written.is_empty() || self.batch.check().is_err() {
            return Ok(());
        }
        // The transaction is open until the end of this call, so nobody begins to rely on them.
        let named = self.chain.named_payloads()?;
        for payload in self.written.iter().filter(|payload| !named.contains(*payload)) {
            self.chain.remove_payload(payload)?;
        }
        Ok(())
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
            self.enter_pending()?;
            self.batch.commit()?;
            self.held.add(self.own.keys(), self.next_number);
        }
        if let Ok(mut known) = self.chain.0.known.try_lock() {
            *known = Some(self.held);
        }
        Ok(())
    }

    /// Enters what is pending into the tables.
    fn enter_pending(&mut self) -> Result<(), ChainError> {
        let Self { batch, pending, .. } = self;
        Ok(batch.write(|transaction| pending.enter(transaction))?)
    }

    fn find(&self, block: &BlockHash) -> Result<Option<Stored>, ChainError> {
        // Nothing is said of the chain by a transaction that has failed.
        self.batch.check()?;
        let Some(number) = self.own.get(block) else {
            return if self.held.may_hold(block) { self.before.find(block) } else { Ok(None) };
        };
        let value = match self.pending.value(*number) {
            Some(value) => value.to_vec(),
            None => {
                let entered = self.batch.read(|transaction| tables::value_in(transaction, *number));
                let missing = ChainError::Damaged { block: *block, reason: Damage::HeaderMissing };
                entered.map_err(entry_error(block, "blocks"))?.ok_or(missing)?
            }
        };
        Stored::decode(block, *number, value).map(Some)
    }

    /// A parent, decoded once for all its children of this transaction.
    fn parent(&mut self, block: &BlockHash) -> Result<Option<Arc<Block>>, ChainError> {
        if let Some(known) = self.known.get(block) {
            return Ok(Some(known.clone()));
        }
        let Some(stored) = self.find(block)? else { return Ok(None) };
        let found = Arc::new(stored.block);
        self.keep(found.clone());
        Ok(Some(found))
    }

    fn keep(&mut self, block: Arc<Block>) {
        if block.header().parents.len() > MAX_KNOWN_LINKS {
            return;
        }
        if self.known.len() >= MAX_KNOWN_BLOCKS {
            self.known.clear();
        }
        self.known.insert(block.hash(), block);
    }

    /// Makes sure that a stored block's payload is intact; tells whether it had to be written.
    fn repair_payload(&mut self, stored: &Stored, content: Content<'_>) -> Result<bool, ChainError> {
        let block = &stored.block;
        if !tables::is_inline(block.header()) {
            return self.store_file(&block.header().payload, content);
        }
        if stored.inline_payload().is_ok() {
            return Ok(false);
        }
        self.dirty = true;
        let value = stored.with_inline_payload(&content.into_bytes()?);
        self.batch.write(|transaction| tables::replace_value(transaction, block.number(), &value))?;
        self.own.insert(block.hash(), block.number());
        Ok(true)
    }

    /// Makes sure that a payload file is there and intact; tells whether it had to be written.
    fn store_file(&mut self, payload: &PayloadRef, content: Content<'_>) -> Result<bool, ChainError> {
        if self.intact.contains(&payload.hash) {
            return Ok(false);
        }
        let files = &self.chain.0.payloads;
        let intact = files.is_intact(&payload.hash, payload.len_bytes)?;
        if !intact {
            let bytes = content.into_bytes()?;
            files.forget(&payload.hash);
            self.payloads.write(payload.hash, bytes)?;
            self.written.push(payload.hash);
        } else {
            if let Content::Here(bytes) = content {
                self.payloads.keep(bytes);
            }
            self.payloads.rely_on(payload.hash);
        }
        if self.has_collected {
            let payload = &payload.hash;
            let noted = match self.batch.read(|transaction| tables::is_collected_in(transaction, payload)) {
                // What is noted counts where a file is missing, and this one is not.
                Err(StorageError::IndexDamaged { .. }) => false,
                noted => noted?,
            };
            if noted {
                self.dirty = true;
                self.batch.write(|transaction| tables::remove_collected(transaction, payload))?;
            }
        }
        self.intact.insert(payload.hash);
        Ok(!intact)
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("dirty", &self.dirty).finish_non_exhaustive()
    }
}
