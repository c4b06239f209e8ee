//! A DAG of content-addressed blocks in three lanes: append, look up, walk, verify, exchange, collect.
//!
//! The chain knows bytes and hashes. What a payload means it asks the [`Validator`] registered for
//! the block's kind.

pub(crate) mod block;
pub(crate) mod bundle;
pub(crate) mod collect;
pub(crate) mod error;
mod known;
mod pending;
pub(crate) mod reader;
pub(crate) mod signature;
pub(crate) mod tables;
pub(crate) mod validate;
pub(crate) mod verify;
pub(crate) mod walk;
pub(crate) mod writer;

use std::path::Path;
use std::sync::{Arc, Mutex};

pub use block::{Block, Draft};
pub use bundle::{
    BUNDLE_MAGIC, BundleError, BundleOptions, BundleProgress, BundleReport, MAX_BUNDLE_BLOCKS,
    UnbundleOptions, UnbundleReport,
};
pub use collect::{CollectOptions, CollectReport};
pub use error::{ChainError, Damage, ValidationError};
pub use signature::SignatureRecord;
pub(crate) use tables::is_inline;
pub use validate::{ParentView, Validator, Validators};
pub use verify::{BadBlock, VerifyOptions, VerifyProgress, VerifyReport};
pub use walk::Blocks;
pub use writer::{Appended, Writer};

use crate::format::PayloadRef;
use crate::hash::BlockHash;
use crate::storage::index::Index;
use crate::storage::{Access, Medium, Payload, PayloadStore, StorageError};
use known::Known;
use reader::Reader;

#[derive(Debug)]
struct Inner {
    index: Index,
    payloads: Arc<PayloadStore>,
    medium: Arc<dyn Medium>,
    validators: Validators,
    /// What the last writer knew; `None` while there is one.
    known: Mutex<Option<Known>>,
}

/// An open chain. Cloning shares it; it can be used from many threads at once.
///
/// A chain open for writing keeps other processes from writing, never from reading. Readers, in
/// this process or another, see the last commit whenever they look.
#[derive(Debug, Clone)]
pub struct Chain(Arc<Inner>);

impl Chain {
    /// Opens the chain on a medium; for writing, creates it if there is none.
    ///
    /// Takes the same time for any number of blocks, after a crash too.
    ///
    /// # Errors
    ///
    /// [`StorageError::Missing`], [`StorageError::Locked`], [`StorageError::NeedsRecovery`] or
    /// [`StorageError::IndexDamaged`] in [`ChainError::Storage`]; [`ChainError::IndexVersion`].
    pub fn open_with(
        medium: Arc<dyn Medium>,
        access: Access,
        validators: Validators,
    ) -> Result<Self, ChainError> {
        // Before a thread of rayon's is started: a fork may follow.
        crate::hash::is_first_process();
        let index = Index::open(&*medium, access)?;
        let mut version = index.snapshot()?.read(tables::version)?;
        if access == Access::ReadWrite {
            let place = medium.dir().unwrap_or(Path::new("memory"));
            medium.remove_temporaries().map_err(StorageError::io("empty the folder tmp of", place))?;
            if version.is_none() {
                let mut batch = index.begin_write()?;
                batch.write(tables::create)?;
                batch.commit()?;
                version = Some(tables::INDEX_VERSION);
            }
        }
        match version {
            Some(version) if tables::INDEX_VERSIONS.contains(&version) => {}
            Some(found) => return Err(ChainError::IndexVersion { found }),
            // Its creation was interrupted, or is going on.
            None => {
                let place = medium.dir().map(Path::to_path_buf).unwrap_or_default();
                return Err(StorageError::Missing { place }.into());
            }
        }
        let payloads = Arc::new(PayloadStore::new(medium.clone()));
        let known = Mutex::default();
        Ok(Self(Arc::new(Inner { index, payloads, medium, validators, known })))
    }

    /// The chain's directory; `None` in memory.
    pub fn dir(&self) -> Option<&Path> {
        self.0.medium.dir()
    }

    /// The payload files, usable after the chain is closed.
    pub fn payloads(&self) -> &Arc<PayloadStore> {
        &self.0.payloads
    }

    /// Whether blocks can be appended.
    pub fn is_writable(&self) -> bool {
        self.0.index.is_writable()
    }

    fn reader(&self) -> Result<Reader, ChainError> {
        Ok(Reader::new(self.0.index.snapshot()?))
    }

    /// Number of blocks in all lanes.
    ///
    /// # Errors
    ///
    /// [`ChainError::Storage`].
    pub fn len(&self) -> Result<u64, ChainError> {
        self.reader()?.block_count()
    }

    /// Whether there is no block.
    ///
    /// # Errors
    ///
    /// [`ChainError::Storage`].
    pub fn is_empty(&self) -> Result<bool, ChainError> {
        Ok(self.len()? == 0)
    }

    /// Whether the block is in the chain.
    ///
    /// # Errors
    ///
    /// [`ChainError::Damaged`] or [`ChainError::Storage`] if that cannot be told.
    pub fn contains(&self, block: &BlockHash) -> Result<bool, ChainError> {
        Ok(self.reader()?.find(block)?.is_some())
    }

    /// The block; its header is hashed again.
    ///
    /// # Errors
    ///
    /// [`ChainError::NotFound`], [`ChainError::Damaged`] or [`ChainError::Storage`].
    pub fn get(&self, block: &BlockHash) -> Result<Block, ChainError> {
        Ok(self.reader()?.get(block)?.block)
    }

    /// Many blocks, in the order of their hashes, all of one state of the chain. Cheaper than one
    /// [`Self::get`] after the other, as the index is entered once.
    ///
    /// # Errors
    ///
    /// Those of [`Self::get`], for the first block that has one.
    pub fn get_all(&self, blocks: &[BlockHash]) -> Result<Vec<Block>, ChainError> {
        self.reader()?.get_all(blocks)
    }

    /// The block's payload, verified: a mapped file, or a copy of what lies in the index.
    ///
    /// # Errors
    ///
    /// [`ChainError::NotFound`], [`ChainError::Damaged`], [`ChainError::PayloadCollected`] or
    /// [`ChainError::Storage`].
    pub fn payload(&self, block: &BlockHash) -> Result<Payload, ChainError> {
        let stored = self.reader()?.get(block)?;
        stored.payload(&self.0.payloads).map_err(|error| self.explain(error))
    }

    /// The payload of a block that was looked up, verified. Only one that lies in the index is
    /// looked up again.
    ///
    /// # Errors
    ///
    /// [`ChainError::Damaged`] or [`ChainError::Storage`].
    pub(crate) fn payload_of(&self, block: &Block) -> Result<Payload, ChainError> {
        if tables::is_inline(block.header()) {
            return self.payload(&block.hash());
        }
        let PayloadRef { hash, len_bytes, .. } = &block.header().payload;
        let found = self.payloads().get(hash, *len_bytes).map_err(reader::payload_error(&block.hash()));
        found.map_err(|error| self.explain(error))
    }

    /// Names the reason for a payload that is not there: by now, as a writer may have collected it since the block was
    /// looked up.
    fn explain(&self, error: ChainError) -> ChainError {
        match self.reader() {
            Ok(reader) => reader.explain(error),
            Err(_) => error,
        }
    }

    /// Begins a transaction, waiting for another one in this process to end.
    ///
    /// # Errors
    ///
    /// [`StorageError::ReadOnly`] in [`ChainError::Storage`], or its failure.
    pub fn writer(&self) -> Result<Writer, ChainError> {
        Writer::begin(self.clone())
    }

    /// Appends one block, durably; a block the chain holds already is left as it is, its payload
    /// repaired if it is damaged.
    ///
    /// # Errors
    ///
    /// [`ChainError::MissingParent`], [`ChainError::Header`], [`ChainError::Refused`], with nothing
    /// written; [`ChainError::Storage`].
    pub fn append(&self, draft: Draft) -> Result<BlockHash, ChainError> {
        let mut writer = self.writer()?;
        let appended = writer.append(draft)?;
        writer.commit()?;
        Ok(appended.hash)
    }

    /// Puts a signature beside a block, durably.
    ///
    /// # Errors
    ///
    /// [`ChainError::Signature`] if it is not valid, [`ChainError::NotFound`],
    /// [`ChainError::Storage`].
    pub fn add_signature(&self, block: &BlockHash, record: SignatureRecord) -> Result<(), ChainError> {
        let mut writer = self.writer()?;
        writer.add_signature(block, record)?;
        writer.commit()
    }

    /// The signatures beside a block, each verified again, by key and time.
    ///
    /// # Errors
    ///
    /// [`ChainError::NotFound`], [`ChainError::Damaged`] for a signature that is not valid,
    /// [`ChainError::Storage`].
    pub fn signatures(&self, block: &BlockHash) -> Result<Vec<SignatureRecord>, ChainError> {
        let reader = self.reader()?;
        reader.get(block)?;
        let records = reader.signatures(block)?;
        let forged = records.iter().find(|record| !record.verifies(block));
        match forged
            .map(|record| Damage::Signature { public_key: record.public_key, time_ms: record.time_ms })
        {
            Some(reason) => Err(ChainError::Damaged { block: *block, reason }),
            None => Ok(records),
        }
    }
}
