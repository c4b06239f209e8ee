//! Owns what can go wrong with datasets: in a block, and in what is asked for.

use std::fmt;

use semver::Version;

use super::super::{PublicKey, Tier};
use super::audit::Findings;
use crate::hash::{BlockHash, PayloadHash};

/// What a dataset block must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Field {
    /// Name of the block.
    Name,
    /// SemVer without build metadata.
    Version,
    /// SPDX license expression.
    License,
    /// Origin.
    Source,
    /// Size of the vocabulary.
    VocabSize,
    /// Number of tokens.
    NumTokens,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "name: expected 1 to 128 bytes of a-z 0-9 _ . -",
            Self::Version => "version: expected SemVer without build metadata",
            Self::License => "license: expected an SPDX license expression",
            Self::Source => "source: expected 1 to 2048 bytes of text without control characters",
            Self::VocabSize => "vocab_size: expected at least 1",
            Self::NumTokens => "num_tokens: expected at least 1",
        })
    }
}

/// A block about a dataset that its own parents contradict.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DatasetRule {
    /// A field of a dataset outside of its grammar.
    #[error("the dataset cannot have this {field}")]
    Field {
        /// Which one.
        field: Field,
    },
    /// The dataset names another content than its tokens block holds.
    #[error("the dataset gives the content hash {found}, its tokens have {expected}")]
    ContentHash {
        /// In the dataset.
        found: PayloadHash,
        /// Of the tokens.
        expected: PayloadHash,
    },
    /// The dataset names another number of tokens than its tokens block holds.
    #[error("the dataset says that it has {found} tokens, there are {expected}")]
    NumTokens {
        /// In the dataset.
        found: u64,
        /// In the tokens block.
        expected: u64,
    },
    /// An id that is not below the dataset's vocabulary size.
    #[error(
        "token {token} at position {position} is outside the dataset's vocabulary of {vocab_size} tokens"
    )]
    OutOfVocabulary {
        /// The id.
        token: u32,
        /// Where the first such id stands.
        position: u64,
        /// The dataset's vocabulary.
        vocab_size: u32,
    },
    /// A version that follows a dataset of another name, or not a lower one.
    #[error("it follows {name} {version}: expected a lower version of the same name")]
    Predecessor {
        /// Name of the predecessor.
        name: String,
        /// Its version.
        version: Version,
    },
    /// An audit that names another block than its policy or dataset does.
    #[error("the audit names {found} as {field}, its policy and dataset make it {expected}")]
    OtherBlock {
        /// Which one.
        field: &'static str,
        /// In the audit.
        found: BlockHash,
        /// As it must be.
        expected: BlockHash,
    },
    /// Findings that are not what is there.
    #[error("the audit does not recompute: it says {found:?}, there is {expected:?}")]
    Findings {
        /// In the audit.
        found: Box<Findings>,
        /// As counted.
        expected: Box<Findings>,
    },
    /// Findings about a text that is not claimed, or none about one that is.
    #[error(
        "the audit {} findings about the text: expected them exactly if the dataset names a tokenizer and a text",
        if *found { "has" } else { "lacks" }
    )]
    TextFindings {
        /// Whether the audit has them.
        found: bool,
    },
    /// A tier that the policy does not put to the vote.
    #[error("the policy lets nobody vote on datasets of tier {tier}")]
    Tier {
        /// The dataset's tier.
        tier: Tier,
    },
    /// A vote on a dataset that the policy's model cannot read.
    #[error("audit {audit} found that the policy's model cannot read the dataset")]
    Unfit {
        /// The audit.
        audit: BlockHash,
    },
    /// A named block that is about something else.
    #[error("block {block} is about another policy or dataset")]
    OtherSubject {
        /// The block.
        block: BlockHash,
    },
    /// A tally with two votes of one key.
    #[error("the tally counts {key} twice")]
    CountedTwice {
        /// The key.
        key: PublicKey,
    },
    /// A tally whose counts are not its votes'.
    #[error("the tally says {found:?} votes for and against, it counts {expected:?}")]
    Counts {
        /// For and against as the tally says.
        found: [u32; 2],
        /// For and against by its votes.
        expected: [u32; 2],
    },
    /// A tally of too few votes.
    #[error("the tally has {votes} votes, the policy needs {quorum}")]
    Quorum {
        /// Votes in the tally.
        votes: usize,
        /// Votes needed.
        quorum: u32,
    },
    /// A ruling that does not follow from its tally.
    #[error("the ruling is {}, its tally makes it the opposite", if *accepted { "accepted" } else { "rejected" })]
    Ruling {
        /// As the ruling says.
        accepted: bool,
    },
}

/// What was asked for and cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DatasetError {
    /// A text for a model without a tokenizer.
    #[error("the model has no tokenizer: give token ids")]
    NoTokenizer,
    /// A vote or a tally before an audit that counts.
    #[error("dataset {dataset} has no audit that counts: let a validator of the policy audit it")]
    NotAudited {
        /// The dataset.
        dataset: BlockHash,
    },
    /// A second vote, the other way: both would count for nothing.
    #[error("{key} voted the other way in {vote}: a vote cannot be taken back")]
    AlreadyVoted {
        /// The key.
        key: PublicKey,
        /// Its vote.
        vote: BlockHash,
    },
    /// Too few votes that count.
    #[error("{votes} votes count, the policy needs {quorum}")]
    Quorum {
        /// Votes that count.
        votes: usize,
        /// Votes needed.
        quorum: u32,
    },
    /// A ruling before a tally.
    #[error("dataset {dataset} has no tally that counts: count the votes first")]
    NoTally {
        /// The dataset.
        dataset: BlockHash,
    },
    /// An audit that does not say what is there.
    #[error("audit {audit} by {key} does not recompute")]
    FalseAudit {
        /// The audit.
        audit: BlockHash,
        /// Who signed it.
        key: PublicKey,
    },
}
