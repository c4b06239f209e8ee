//! Owns the numbers of lanes, block kinds and parent roles. They never change their meaning.

use std::fmt;

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

/// Lane of a chain.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum ChainId {
    /// Lane A: architecture, models, releases.
    #[serde(rename = "A")]
    Meta = 0,
    /// Lane B: weights and what else fills a slot.
    #[serde(rename = "B")]
    Parameter = 1,
    /// Lane D: evaluation and training data, votes.
    #[serde(rename = "D")]
    Dataset = 2,
}

impl ChainId {
    /// Every lane.
    pub const ALL: [Self; 3] = [Self::Meta, Self::Parameter, Self::Dataset];

    /// The lane's letter.
    pub const fn letter(self) -> char {
        match self {
            Self::Meta => 'A',
            Self::Parameter => 'B',
            Self::Dataset => 'D',
        }
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.letter())
    }
}

/// What a block's payload is. A number, so that a kind of a later version is kept, not refused.
///
/// | range | use |
/// |---|---|
/// | 0 | never used |
/// | 1–15 | lane A: specs, models, releases, migrations; policies and what is proposed and attested under them |
/// | 16–31 | lane B: weights, safetensors payloads, always files |
/// | 32–47 | lane B: texts of a model: tokenizer, templates |
/// | 64–95 | lane D: token ids, datasets and their votes, evaluation rounds, uses |
/// | 48–63, 96–4095 | reserved for later versions of Blyan |
/// | 4096–65535 | free for applications |
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub struct BlockKind(pub u16);

impl BlockKind {
    /// A `ModelSpec`, canonical JSON.
    pub const SPEC: Self = Self(1);
    /// A model: spec and slot → block, canonical JSON.
    pub const MODEL: Self = Self(2);
    /// A model with a name and a version, canonical JSON.
    pub const RELEASE: Self = Self(3);
    /// What a model of another architecture comes from, canonical JSON.
    pub const MIGRATION: Self = Self(4);
    /// What a model takes as evidence: whose, how much; canonical JSON.
    pub const POLICY: Self = Self(5);
    /// A commitment to a candidate, signed.
    pub const CLAIM: Self = Self(6);
    /// A change of a model that wants to be judged, signed.
    pub const CANDIDATE: Self = Self(7);
    /// Losses of a model with and without candidates, signed.
    pub const ATTESTATION: Self = Self(8);
    /// An attestation that does not recompute, signed.
    pub const ACCUSATION: Self = Self(9);
    /// Token embedding.
    pub const EMBEDDING: Self = Self(16);
    /// A layer's attention and norms.
    pub const ATTENTION: Self = Self(17);
    /// A layer's router.
    pub const ROUTER: Self = Self(18);
    /// One expert.
    pub const EXPERT: Self = Self(19);
    /// A layer's shared expert.
    pub const SHARED_EXPERT: Self = Self(20);
    /// Norm before the output head.
    pub const FINAL_NORM: Self = Self(21);
    /// Output head.
    pub const HEAD: Self = Self(22);
    /// What is added to a weight block to get another one.
    pub const DELTA: Self = Self(23);
    /// `tokenizer.json`.
    pub const TOKENIZER: Self = Self(32);
    /// `tokenizer_config.json`.
    pub const TOKENIZER_CONFIG: Self = Self(33);
    /// `special_tokens_map.json`.
    pub const SPECIAL_TOKENS_MAP: Self = Self(34);
    /// `chat_template.jinja`.
    pub const CHAT_TEMPLATE: Self = Self(35);
    /// `generation_config.json`.
    pub const GENERATION_CONFIG: Self = Self(36);
    /// Token ids, u32 little-endian.
    pub const TOKENS: Self = Self(64);
    /// Where tokens come from and what they are; canonical JSON.
    pub const DATASET: Self = Self(65);
    /// What a validator found in a dataset, signed.
    pub const AUDIT: Self = Self(66);
    /// A voice for or against a dataset, signed.
    pub const VOTE: Self = Self(67);
    /// The votes on a dataset that were counted; canonical JSON.
    pub const TALLY: Self = Self(68);
    /// A dataset accepted or rejected; canonical JSON.
    pub const RULING: Self = Self(69);
    /// Opens an evaluation round and commits to its split, signed.
    pub const ROUND: Self = Self(70);
    /// Ends the time for claims of a round, signed.
    pub const CLOSING: Self = Self(71);
    /// The split that judges the candidates of a round, signed.
    pub const REVEAL: Self = Self(72);
    /// Receipts that count as use, signed.
    pub const USAGE_RECORD: Self = Self(73);
    /// What was run, to be run again; canonical JSON.
    pub const RECEIPT: Self = Self(74);

    const NAMES: [(Self, &'static str); 33] = [
        (Self::SPEC, "spec"),
        (Self::MODEL, "model"),
        (Self::RELEASE, "release"),
        (Self::MIGRATION, "migration"),
        (Self::POLICY, "policy"),
        (Self::CLAIM, "claim"),
        (Self::CANDIDATE, "candidate"),
        (Self::ATTESTATION, "attestation"),
        (Self::ACCUSATION, "accusation"),
        (Self::EMBEDDING, "embedding"),
        (Self::ATTENTION, "attention"),
        (Self::ROUTER, "router"),
        (Self::EXPERT, "expert"),
        (Self::SHARED_EXPERT, "shared_expert"),
        (Self::FINAL_NORM, "final_norm"),
        (Self::HEAD, "head"),
        (Self::DELTA, "delta"),
        (Self::TOKENIZER, "tokenizer"),
        (Self::TOKENIZER_CONFIG, "tokenizer_config"),
        (Self::SPECIAL_TOKENS_MAP, "special_tokens_map"),
        (Self::CHAT_TEMPLATE, "chat_template"),
        (Self::GENERATION_CONFIG, "generation_config"),
        (Self::TOKENS, "tokens"),
        (Self::DATASET, "dataset"),
        (Self::AUDIT, "audit"),
        (Self::VOTE, "vote"),
        (Self::TALLY, "tally"),
        (Self::RULING, "ruling"),
        (Self::ROUND, "round"),
        (Self::CLOSING, "closing"),
        (Self::REVEAL, "reveal"),
        (Self::USAGE_RECORD, "usage_record"),
        (Self::RECEIPT, "receipt"),
    ];

    /// Whether payloads of this kind are weights: safetensors, always a file of their own.
    pub const fn is_weights(self) -> bool {
        self.0 >= 16 && self.0 <= 31
    }

    /// Whether payloads of this kind are canonical JSON of the module `evolve`.
    pub const fn is_evidence(self) -> bool {
        (self.0 >= Self::POLICY.0 && self.0 <= Self::ACCUSATION.0)
            || (self.0 >= Self::DATASET.0 && self.0 <= Self::RECEIPT.0)
    }

    /// The kind of that name, as [`fmt::Display`] writes it.
    pub fn from_name(name: &str) -> Option<Self> {
        let known = Self::NAMES.iter().find(|(_, known)| *known == name);
        known.map(|(kind, _)| *kind).or_else(|| {
            let number = name.strip_prefix("kind")?.parse().ok()?;
            Some(Self(number)).filter(|kind: &Self| kind.to_string() == name)
        })
    }
}

impl fmt::Display for BlockKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.iter().find(|(kind, _)| kind == self) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "kind{}", self.0),
        }
    }
}

impl fmt::Debug for BlockKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockKind({}, {self})", self.0)
    }
}

/// What a parent is to a block.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum ParentRole {
    /// The block means nothing without this parent.
    Dependency = 0,
    /// The block takes this parent's place in its slot.
    Predecessor = 1,
    /// The block was derived from this parent, in whatever way.
    Base = 2,
    /// The parent supports a claim that the block makes.
    Evidence = 3,
}
