//! Owns why a candidate is not accepted.

use crate::evolve::PublicKey;
use crate::evolve::loss::LossBits;
use crate::hash::BlockHash;

/// What nobody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// Closed a round twice.
    TwoClosings,
    /// Revealed a round twice.
    TwoReveals,
    /// Attested the same candidates twice, with different words.
    TwoAttestations {
        /// The reveal that judged them.
        reveal: BlockHash,
    },
    /// Was convicted of an attestation that does not recompute.
    Lie {
        /// The attestation.
        attestation: BlockHash,
    },
}

/// Why a candidate is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// No reveal judges it, yet.
    #[error("no split was revealed that judges it")]
    NotRevealed,
    /// Its round's owner closed or revealed it twice.
    #[error("the round is void: its owner {owner} did twice what is done once ({fault:?})")]
    RoundVoid {
        /// The owner.
        owner: PublicKey,
        /// What the owner did.
        fault: FaultKind,
    },
    /// Its round does not begin with the model that the rounds before it come to.
    #[error("the round's base is {base}: the rounds before it come to {expected}")]
    WrongBase {
        /// The round's base.
        base: BlockHash,
        /// The base that it must have.
        expected: BlockHash,
    },
    /// The split was known before its round was opened.
    #[error("the split {tokens} was known before the round was opened: it may have been trained on")]
    SplitKnown {
        /// The tokens block.
        tokens: BlockHash,
    },
    /// It holds weights that another key proposed first.
    #[error("it is a copy: {of} holds the same weights for the same slot, and came first")]
    Copy {
        /// The candidate that came first.
        of: BlockHash,
    },
    /// Fewer validators than needed agree, so far.
    #[error("{agreeing} of {required} needed validators attest the same")]
    TooFewAttestations {
        /// The largest number that agrees.
        agreeing: usize,
        /// The number needed.
        required: u32,
    },
    /// Enough validators attest one thing, and enough others another.
    #[error("{outcomes} outcomes have enough attestations each: an audit tells who lies")]
    Disputed {
        /// Number of different outcomes.
        outcomes: usize,
    },
    /// The model with it, or its base, computes no number.
    #[error("its loss on {data} is no number")]
    NotFinite {
        /// The split's tokens block or the dataset.
        data: BlockHash,
    },
    /// The improvement is smaller than the policy asks for.
    #[error("it takes the loss from {} to {}: {threshold_ppm} millionths of improvement are needed", base.value(), candidate.value())]
    NotBetter {
        /// Loss of the base on the split.
        base: LossBits,
        /// Loss with the candidate.
        candidate: LossBits,
        /// The least improvement, relative to the base, in parts per million.
        threshold_ppm: u32,
    },
    /// It is worse on one of the policy's datasets.
    #[error("it takes the loss on {data} from {} to {}: at most {tolerance_ppm} millionths more are tolerated", base.value(), candidate.value())]
    Worse {
        /// The dataset.
        data: BlockHash,
        /// Loss of the base.
        base: LossBits,
        /// Loss with the candidate.
        candidate: LossBits,
        /// The most that it may be worse, relative to the base, in parts per million.
        tolerance_ppm: u32,
    },
    /// What it makes of its base is no model that can be opened.
    #[error("its base with its blocks is no model")]
    NoModel,
}

impl Reason {
    /// The reason as a word that does not change, for programs: the sentence is for people.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotRevealed => "not_revealed",
            Self::RoundVoid { .. } => "round_void",
            Self::WrongBase { .. } => "wrong_base",
            Self::SplitKnown { .. } => "split_known",
            Self::Copy { .. } => "copy",
            Self::TooFewAttestations { .. } => "too_few_attestations",
            Self::Disputed { .. } => "disputed",
            Self::NotFinite { .. } => "not_finite",
            Self::NotBetter { .. } => "not_better",
            Self::Worse { .. } => "worse",
            Self::NoModel => "no_model",
        }
    }
}
