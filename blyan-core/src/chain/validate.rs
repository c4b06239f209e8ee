//! Owns the seam through which layers above refuse blocks of a kind they know.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::error::{ChainError, ValidationError};
use crate::format::{BlockKind, Header};
use crate::hash::BlockHash;
use crate::storage::Payload;

/// The parents of a block that is being appended.
pub trait ParentView {
    /// Header of a parent.
    ///
    /// # Errors
    ///
    /// [`ChainError::NotFound`] if the block is not a parent, or is damaged.
    fn header(&self, parent: &BlockHash) -> Result<Header, ChainError>;

    /// Verified payload of a parent.
    ///
    /// # Errors
    ///
    /// As for [`Self::header`].
    fn payload(&self, parent: &BlockHash) -> Result<Payload, ChainError>;
}

/// Judges blocks of one kind before they are appended.
pub trait Validator: Send + Sync {
    /// Accepts or refuses a block.
    ///
    /// # Errors
    ///
    /// [`ValidationError`] with the reason; the block is then not appended.
    fn validate(
        &self,
        header: &Header,
        payload: &[u8],
        parents: &dyn ParentView,
    ) -> Result<(), ValidationError>;
}

/// A validator for each kind that has one.
#[derive(Clone, Default)]
pub struct Validators(HashMap<BlockKind, Arc<dyn Validator>>);

impl Validators {
    /// No validators: every well-formed block is accepted.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers the validator of a kind, replacing an earlier one.
    #[must_use]
    pub fn with(mut self, kind: BlockKind, validator: Arc<dyn Validator>) -> Self {
        self.0.insert(kind, validator);
        self
    }

    pub(super) fn get(&self, kind: BlockKind) -> Option<&Arc<dyn Validator>> {
        self.0.get(&kind)
    }
}

impl fmt::Debug for Validators {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
