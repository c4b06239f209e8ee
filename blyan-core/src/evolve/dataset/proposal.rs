//! Owns dataset blocks: what is said about tokens, by whoever proposes them. The first stage.

use semver::Version;
use serde::{Deserialize, Serialize};

use super::super::evidence::{check_kind, check_version, from_canonical_json, parent, to_canonical_json};
use super::super::{Evidence, EvolveError, InvalidEvidence, Tier};
use super::licence::is_licence;
use super::tokens::{Tokens, ids_in};
use super::{DatasetError, DatasetRule, Field};
use crate::chain::{Chain, ParentView};
use crate::format::{BlockKind, ChainId, Parent, Slot, is_block_name};
use crate::hash::{BlockHash, PayloadHash};
use crate::manager::text::Tokenizer;
use crate::manager::{ManagerError, Snapshot};

/// Longest source that is read, in bytes.
const MAX_SOURCE_BYTES: usize = 2048;

/// Payload of a dataset block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dataset {
    /// Version of this description; 1.
    pub dataset_version: u32,
    /// Name of the dataset and of the block, `[a-z0-9_.-]`.
    pub name: String,
    /// Version of the dataset and of the block.
    #[serde(with = "version_text")]
    pub version: Version,
    /// The dataset that this one takes the place of: of the same name and a lower version.
    pub predecessor: Option<BlockHash>,
    /// The tokens block.
    pub tokens: BlockHash,
    /// Hash of its payload: the same content has the same hash whatever is said about it.
    pub content_hash: PayloadHash,
    /// Number of tokens.
    pub num_tokens: u64,
    /// The tokenizer block that the ids belong to; none if they are no text.
    pub tokenizer: Option<BlockHash>,
    /// Every id is lower.
    pub vocab_size: u32,
    /// Hash of the text, UTF-8, that the tokens were made from, if somebody may ask for it.
    pub text_hash: Option<PayloadHash>,
    /// How good it is held to be.
    pub tier: Tier,
    /// SPDX license expression.
    pub license: String,
    /// Where it comes from, for people.
    pub source: String,
}

/// Versions as the text that they are written as.
mod version_text {
    use semver::Version;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(version: &Version, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(version)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Version, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(Error::custom)
    }
}

/// A dataset to propose: [`Dataset`] without what follows from the tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetDraft {
    /// Name of the dataset and of the block, `[a-z0-9_.-]`.
    pub name: String,
    /// Version of the dataset.
    pub version: Version,
    /// The dataset that this one takes the place of: of the same name and a lower version.
    pub predecessor: Option<BlockHash>,
    /// Token ids.
    pub tokens: Vec<u32>,
    /// The tokenizer block that the ids belong to; none if they are no text.
    pub tokenizer: Option<BlockHash>,
    /// Every id is lower.
    pub vocab_size: u32,
    /// Hash of the text that the tokens were made from.
    pub text_hash: Option<PayloadHash>,
    /// How good it is held to be.
    pub tier: Tier,
    /// SPDX license expression.
    pub license: String,
    /// Where it comes from, for people.
    pub source: String,
}

impl DatasetDraft {
    /// A draft of version 1.0.0 from token ids that belong to no tokenizer, tier experimental.
    pub fn of_tokens(
        name: impl Into<String>,
        tokens: Vec<u32>,
        vocab_size: u32,
        license: impl Into<String>,
        source: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            version: Version::new(1, 0, 0),
            predecessor: None,
            tokens,
            tokenizer: None,
            vocab_size,
            text_hash: None,
            tier: Tier::Experimental,
            license: license.into(),
            source: source.into(),
        }
    }

    /// A draft of version 1.0.0 from a text, tokenized as a model does, without special tokens; tier
    /// experimental.
    ///
    /// # Errors
    ///
    /// [`DatasetError::NoTokenizer`], or [`EvolveError::Manager`] if the tokenizer fails.
    pub fn of_text(
        chain: &Chain,
        snapshot: &Snapshot,
        name: impl Into<String>,
        text: &str,
        license: impl Into<String>,
        source: impl Into<String>,
    ) -> Result<Self, EvolveError> {
        let (block, tokenizer) = tokenizer_of(chain, snapshot)?;
        let tokens = tokenizer.encode(text, false).map_err(ManagerError::from)?;
        let vocab_size = u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
        let draft = Self::of_tokens(name, tokens, vocab_size, license, source);
        Ok(Self { tokenizer: Some(block), text_hash: Some(PayloadHash::of(text.as_bytes())), ..draft })
    }
}

/// The tokenizer of a snapshot, and its block.
fn tokenizer_of(chain: &Chain, snapshot: &Snapshot) -> Result<(BlockHash, Tokenizer), EvolveError> {
    let pinned = snapshot.slots().get(&Slot::Tokenizer).ok_or(DatasetError::NoTokenizer)?;
    let tokenizer = Tokenizer::from_json(&chain.payload(&pinned.block)?, snapshot.spec().vocab_size);
    Ok((pinned.block, tokenizer.map_err(ManagerError::from)?))
}

/// Token ids of a text as a model's own tokenizer gives them, without special tokens.
///
/// # Errors
///
/// [`DatasetError::NoTokenizer`], or [`EvolveError::Manager`] if the tokenizer fails.
pub fn tokenize(chain: &Chain, snapshot: &Snapshot, text: &str) -> Result<Vec<u32>, EvolveError> {
    let (_, tokenizer) = tokenizer_of(chain, snapshot)?;
    Ok(tokenizer.encode(text, false).map_err(ManagerError::from)?)
}

/// Proposes a dataset: appends its tokens and what is said about them, together, and returns the dataset
/// block. The same draft is the same block. Other words about the same tokens are another dataset;
/// [`super::state`] says which of several is the accepted one.
///
/// # Errors
///
/// [`EvolveError::Invalid`] or [`EvolveError::Chain`], with nothing appended.
pub fn propose(chain: &Chain, draft: DatasetDraft) -> Result<BlockHash, EvolveError> {
    let num_tokens = draft.tokens.len() as u64;
    let tokens = Tokens::new(draft.tokens)?.draft();
    let header = tokens.header()?;
    let dataset = Dataset {
        dataset_version: 1,
        name: draft.name,
        version: draft.version,
        predecessor: draft.predecessor,
        tokens: tokens.hash()?,
        content_hash: header.payload.hash,
        num_tokens,
        tokenizer: draft.tokenizer,
        vocab_size: draft.vocab_size,
        text_hash: draft.text_hash,
        tier: draft.tier,
        license: draft.license,
        source: draft.source,
    };
    dataset.check()?;
    let mut writer = chain.writer()?;
    writer.append(tokens)?;
    let appended = writer.append(dataset.draft())?;
    writer.commit()?;
    Ok(appended.hash)
}

impl Dataset {
    /// Checks what the dataset says by itself.
    fn check(&self) -> Result<(), InvalidEvidence> {
        check_version(Self::KIND, self.dataset_version)?;
        let visible = |c: char| !c.is_control();
        let source = &self.source;
        for (valid, field) in [
            (is_block_name(&self.name), Field::Name),
            (self.version.build.is_empty(), Field::Version),
            (is_licence(&self.license), Field::License),
            (
                !source.is_empty() && source.len() <= MAX_SOURCE_BYTES && source.chars().all(visible),
                Field::Source,
            ),
            (self.vocab_size > 0, Field::VocabSize),
            (self.num_tokens > 0, Field::NumTokens),
        ] {
            if !valid {
                return Err(DatasetRule::Field { field }.into());
            }
        }
        Ok(())
    }

    fn check_tokens(&self, parents: &dyn ParentView) -> Result<(), InvalidEvidence> {
        let header = check_kind(parents, &self.tokens, BlockKind::TOKENS)?;
        if header.payload.hash != self.content_hash {
            let (found, expected) = (self.content_hash, header.payload.hash);
            return Err(DatasetRule::ContentHash { found, expected }.into());
        }
        let payload = parents.payload(&self.tokens)?;
        let mut count = 0_u64;
        for token in ids_in(&payload)? {
            if token >= self.vocab_size {
                let (position, vocab_size) = (count, self.vocab_size);
                return Err(DatasetRule::OutOfVocabulary { token, position, vocab_size }.into());
            }
            count += 1;
        }
        if count != self.num_tokens {
            return Err(DatasetRule::NumTokens { found: self.num_tokens, expected: count }.into());
        }
        Ok(())
    }
}

impl Evidence for Dataset {
    const KIND: BlockKind = BlockKind::DATASET;
    const LANE: ChainId = ChainId::Dataset;

    fn from_payload(bytes: &[u8]) -> Result<Self, InvalidEvidence> {
        let dataset: Self = from_canonical_json(Self::KIND, bytes)?;
        dataset.check()?;
        Ok(dataset)
    }

    fn to_payload(&self) -> Vec<u8> {
        to_canonical_json(self)
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn version(&self) -> Version {
        self.version.clone()
    }

    fn parents(&self) -> Vec<Parent> {
        let mut parents = vec![Parent::dependency(self.tokens)];
        parents.extend(self.tokenizer.map(Parent::dependency));
        parents.extend(self.predecessor.map(Parent::predecessor));
        parents
    }

    fn check_parents(&self, parents: &dyn ParentView) -> Result<(), InvalidEvidence> {
        if let Some(tokenizer) = &self.tokenizer {
            check_kind(parents, tokenizer, BlockKind::TOKENIZER)?;
        }
        if let Some(predecessor) = &self.predecessor {
            let before: Self = parent(parents, predecessor)?;
            if before.name != self.name || before.version >= self.version {
                let (name, version) = (before.name, before.version);
                return Err(DatasetRule::Predecessor { name, version }.into());
            }
        }
        self.check_tokens(parents)
    }
}
