//! Owns what all blocks of evidence have in common: the payload decides the whole block, and a block
//! that differs from what its payload says is refused.

use std::marker::PhantomData;
use std::sync::Arc;

use semver::Version;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::dataset::DatasetRule;
use super::{EvolveError, PolicyError, PublicKey, RoundError};
use crate::chain::{Chain, ChainError, Draft, ParentView, ValidationError, Validator, Validators};
pub(super) use crate::format::canonical::to_bytes as to_canonical_json;
use crate::format::canonical::{self, MAX_JSON_BYTES, Unread};
use crate::format::{BlockKind, ChainId, Header, ManifestError, Parent, SpecError};
use crate::hash::BlockHash;
use crate::storage::Payload;

/// The payload of a block of evidence. Kind, lane, name, version and parents of the block follow from
/// it, so equal evidence is one block, whoever appends it.
pub trait Evidence: Sized {
    /// Kind of the block.
    const KIND: BlockKind;
    /// Lane of the block.
    const LANE: ChainId;

    /// Reads a payload, as strictly as is possible without its parents.
    ///
    /// # Errors
    ///
    /// [`InvalidEvidence`] naming what is wrong.
    fn from_payload(bytes: &[u8]) -> Result<Self, InvalidEvidence>;

    /// The payload, in its one spelling.
    fn to_payload(&self) -> Vec<u8>;

    /// Name of the block.
    fn name(&self) -> String {
        Self::KIND.to_string()
    }

    /// Version of the block.
    fn version(&self) -> Version {
        Version::new(1, 0, 0)
    }

    /// Every block that the payload names, in any order: the block's parents, no more and no less.
    fn parents(&self) -> Vec<Parent>;

    /// Checks what the payload says against the blocks that it names.
    ///
    /// # Errors
    ///
    /// [`InvalidEvidence`] naming what is wrong.
    fn check_parents(&self, parents: &dyn ParentView) -> Result<(), InvalidEvidence>;

    /// The block, not appended yet.
    fn draft(&self) -> Draft {
        let mut draft = Draft::new(Self::LANE, Self::KIND, self.name(), self.to_payload());
        draft.version = self.version();
        draft.parents = self.parents();
        draft
    }

    /// Appends the block and returns its hash. A block that the chain holds already stays as it is.
    ///
    /// # Errors
    ///
    /// [`EvolveError::Chain`]; [`EvolveError::reason`] says what the chain refused.
    fn append(&self, chain: &Chain) -> Result<BlockHash, EvolveError> {
        Ok(chain.append(self.draft())?)
    }

    /// Reads a stored block and checks all of it again.
    ///
    /// # Errors
    ///
    /// [`EvolveError::WrongKind`], [`EvolveError::InvalidBlock`], [`EvolveError::Chain`].
    fn read(chain: &Chain, block: &BlockHash) -> Result<Self, EvolveError> {
        let stored = chain.get(block)?;
        let header = stored.header();
        if header.kind != Self::KIND {
            return Err(EvolveError::WrongKind { block: *block, found: header.kind, expected: Self::KIND });
        }
        let payload = chain.payload_of(&stored)?;
        check(header, &payload, &StoredParents { chain, header }).map_err(|error| match error {
            InvalidEvidence::Chain(error) => EvolveError::Chain(*error),
            source => EvolveError::InvalidBlock { block: *block, source: Box::new(source) },
        })
    }

    /// As [`Self::read`], but `None` for a block that is not valid evidence of this kind: for folds,
    /// which pass over such blocks.
    ///
    /// # Errors
    ///
    /// [`EvolveError::Chain`].
    fn read_valid(chain: &Chain, block: &BlockHash) -> Result<Option<Self>, EvolveError> {
        match Self::read(chain, block) {
            Ok(evidence) => Ok(Some(evidence)),
            Err(EvolveError::WrongKind { .. } | EvolveError::InvalidBlock { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Why a block is no valid evidence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidEvidence {
    /// More bytes than a payload of this kind may have.
    #[error("the {kind} payload has {len_bytes} bytes: at most {limit_bytes} are read")]
    TooLong {
        /// Kind of the block.
        kind: BlockKind,
        /// Length of the payload.
        len_bytes: usize,
        /// The most that is read.
        limit_bytes: usize,
    },
    /// Not the JSON of this kind.
    #[error("the payload is not the JSON of a {kind}: {reason}")]
    Json {
        /// Kind of the block.
        kind: BlockKind,
        /// What the parser said.
        reason: String,
    },
    /// Valid JSON, but not in its one canonical spelling.
    #[error("the {kind} payload is not in canonical form")]
    NotCanonical {
        /// Kind of the block.
        kind: BlockKind,
    },
    /// A payload of a later version.
    #[error("the {kind} payload has version {found}, this library reads version 1")]
    FormatVersion {
        /// Kind of the block.
        kind: BlockKind,
        /// Version in the payload.
        found: u32,
    },
    /// Something in the header that does not follow from the payload.
    #[error("its header has the {field} {found:?}, its payload makes it {expected:?}")]
    Header {
        /// Which field.
        field: &'static str,
        /// As it stands in the header.
        found: String,
        /// As it must stand.
        expected: String,
    },
    /// Parents are not exactly the blocks that the payload names.
    #[error("its payload and its parents do not name the same blocks in the same roles: see {block}")]
    Parents {
        /// The first block that only one of them names, or that has another role.
        block: BlockHash,
    },
    /// A named block of another kind.
    #[error("block {block} is a {found} block: a {expected} block is needed there")]
    ParentKind {
        /// The block.
        block: BlockHash,
        /// What it is.
        found: BlockKind,
        /// What is needed.
        expected: BlockKind,
    },
    /// A kind that no statement has, or that is an application's own where the library would have to know it.
    #[error("this library knows no statements of kind {kind}")]
    ForeignKind {
        /// The kind.
        kind: BlockKind,
    },
    /// A signature that is not of this body, kind and key.
    #[error("the signature of the {kind} by {key} is not valid")]
    Signature {
        /// Kind of the block.
        kind: BlockKind,
        /// The key that is said to have signed.
        key: PublicKey,
    },
    /// A key that is not among the policy's validators.
    #[error("{key} is no validator of policy {policy}")]
    NotAValidator {
        /// The key.
        key: PublicKey,
        /// The policy.
        policy: BlockHash,
    },
    /// A key that is not among the policy's voters.
    #[error("{key} is no voter of policy {policy}")]
    NotAVoter {
        /// The key.
        key: PublicKey,
        /// The policy.
        policy: BlockHash,
    },
    /// A policy that asks for what cannot be.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A statement of a round that does not fit the blocks that it names, or itself.
    #[error(transparent)]
    Round(#[from] RoundError),
    /// A tokens payload that is no list of ids.
    #[error("the tokens payload has {len_bytes} bytes: expected 4 for each id, and at least one id")]
    TokensLength {
        /// Length of the payload.
        len_bytes: usize,
    },
    /// A block about a dataset that its own parents contradict.
    #[error(transparent)]
    Dataset(#[from] DatasetRule),
    /// The manifest of a named model block.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A named spec block.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A parent could not be read.
    #[error(transparent)]
    Chain(Box<ChainError>),
}

impl From<ChainError> for InvalidEvidence {
    fn from(error: ChainError) -> Self {
        Self::Chain(Box::new(error))
    }
}

/// Reads bytes that [`to_canonical_json`] wrote, and no others.
pub(super) fn from_canonical_json<T: Serialize + DeserializeOwned>(
    kind: BlockKind,
    bytes: &[u8],
) -> Result<T, InvalidEvidence> {
    canonical::from_bytes(bytes).map_err(|error| match error {
        Unread::TooLong { len_bytes } => {
            InvalidEvidence::TooLong { kind, len_bytes, limit_bytes: MAX_JSON_BYTES }
        }
        Unread::Json { reason } => InvalidEvidence::Json { kind, reason },
        Unread::NotCanonical => InvalidEvidence::NotCanonical { kind },
    })
}

/// Refuses every version but 1.
pub(super) fn check_version(kind: BlockKind, found: u32) -> Result<(), InvalidEvidence> {
    if found == 1 { Ok(()) } else { Err(InvalidEvidence::FormatVersion { kind, found }) }
}

/// Refuses a parent of another kind.
pub(super) fn check_kind(
    parents: &dyn ParentView,
    block: &BlockHash,
    expected: BlockKind,
) -> Result<Header, InvalidEvidence> {
    let header = parents.header(block)?;
    if header.kind != expected {
        return Err(InvalidEvidence::ParentKind { block: *block, found: header.kind, expected });
    }
    Ok(header)
}

/// A parent as evidence of a kind.
pub(super) fn parent<T: Evidence>(parents: &dyn ParentView, block: &BlockHash) -> Result<T, InvalidEvidence> {
    check_kind(parents, block, T::KIND)?;
    T::from_payload(&parents.payload(block)?)
}

/// Reads a block of evidence: its payload is valid, and header and parents are what it makes them.
fn check<T: Evidence>(
    header: &Header,
    payload: &[u8],
    parents: &dyn ParentView,
) -> Result<T, InvalidEvidence> {
    let evidence = T::from_payload(payload)?;
    let media_type = Draft::new(T::LANE, T::KIND, "", []).media_type;
    for (field, found, expected) in [
        ("kind", header.kind.to_string(), T::KIND.to_string()),
        ("lane", header.lane.to_string(), T::LANE.to_string()),
        ("name", header.name.clone(), evidence.name()),
        ("version", header.version.to_string(), evidence.version().to_string()),
        ("media type", header.payload.media_type.clone(), media_type),
    ] {
        if found != expected {
            return Err(InvalidEvidence::Header { field, found, expected });
        }
    }
    let mut named = evidence.parents();
    named.sort_unstable();
    named.dedup();
    if named != header.parents {
        let differs = named.iter().zip(&header.parents).find(|(a, b)| a != b).map(|(a, b)| a.min(b));
        let longer = if named.len() > header.parents.len() { &named } else { &header.parents };
        let longer = longer.get(named.len().min(header.parents.len()));
        let block = differs.or(longer).map(|parent| parent.hash);
        // The lists differ, so there is such a block.
        return Err(InvalidEvidence::Parents { block: block.unwrap_or(BlockHash::from_bytes([0; 32])) });
    }
    evidence.check_parents(parents)?;
    Ok(evidence)
}

/// The parents of a stored block.
struct StoredParents<'a> {
    chain: &'a Chain,
    header: &'a Header,
}

impl StoredParents<'_> {
    fn check(&self, parent: &BlockHash) -> Result<(), ChainError> {
        let found = self.header.parents.binary_search_by_key(parent, |parent| parent.hash);
        found.map(drop).map_err(|_| ChainError::NotFound { block: *parent })
    }
}

impl ParentView for StoredParents<'_> {
    fn header(&self, parent: &BlockHash) -> Result<Header, ChainError> {
        self.check(parent)?;
        Ok(self.chain.get(parent)?.header().clone())
    }

    fn payload(&self, parent: &BlockHash) -> Result<Payload, ChainError> {
        self.check(parent)?;
        self.chain.payload(parent)
    }
}

/// The validator of a kind of evidence.
pub(super) struct Rule<T>(PhantomData<fn() -> T>);

impl<T: Evidence + 'static> Rule<T> {
    pub(super) fn register(validators: Validators) -> Validators {
        validators.with(T::KIND, Arc::new(Self(PhantomData)))
    }
}

impl<T: Evidence> Validator for Rule<T> {
    fn validate(
        &self,
        header: &Header,
        payload: &[u8],
        parents: &dyn ParentView,
    ) -> Result<(), ValidationError> {
        check::<T>(header, payload, parents).map(drop).map_err(ValidationError::new)
    }
}
