//! Owns why a statement of a round is not valid.

use crate::evolve::PublicKey;
use crate::evolve::loss::ParseLossError;
use crate::format::{BlockKind, ManifestError, ParseSlotError, Slot};
use crate::hash::{BlockHash, Commitment, SnapshotRoot};

/// A statement of a round that does not fit the blocks that it names, or itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RoundError {
    /// A named block that belongs to another policy.
    #[error("block {block} was made under policy {found}, this statement under {expected}")]
    OtherPolicy {
        /// The block.
        block: BlockHash,
        /// The policy that it names.
        found: BlockHash,
        /// The policy that the statement names.
        expected: BlockHash,
    },
    /// A named block that belongs to another round, reveal or closing.
    #[error("block {block} names the {kind} {found}, this statement {expected}")]
    Unrelated {
        /// The block.
        block: BlockHash,
        /// What both name.
        kind: BlockKind,
        /// The one that the block names.
        found: BlockHash,
        /// The one that the statement names.
        expected: BlockHash,
    },
    /// A first round must improve the policy's model.
    #[error("the first round's base is {found}: the policy begins with {expected}")]
    FirstBase {
        /// The base.
        found: BlockHash,
        /// The policy's model.
        expected: BlockHash,
    },
    /// A first round has no round before it that could have been attested.
    #[error("it names attestations but no previous reveal")]
    NothingAttested,
    /// A split that predicts nothing, or more than a tokens block holds.
    #[error("a split of {tokens} tokens: expected {least} to {most}")]
    SplitSize {
        /// Tokens.
        tokens: u64,
        /// The least.
        least: u64,
        /// The most.
        most: u64,
    },
    /// Only who opened a round goes on with it.
    #[error("{key} cannot do that: the round belongs to {owner}")]
    NotTheOwner {
        /// The key that signed.
        key: PublicKey,
        /// The key that opened the round.
        owner: PublicKey,
    },
    /// Who opened a round knows its split.
    #[error("{key} opened the round, knows its split, and cannot propose in it")]
    OwnRound {
        /// The key.
        key: PublicKey,
    },
    /// A candidate by somebody else than its claim.
    #[error("the claim was made by {claimed}, the candidate by {key}")]
    OtherAuthor {
        /// The claim's key.
        claimed: PublicKey,
        /// The candidate's key.
        key: PublicKey,
    },
    /// A claim that the closing does not list.
    #[error("claim {claim} is not in the closing: it came too late, or was left out")]
    NotListed {
        /// The claim.
        claim: BlockHash,
    },
    /// What is shown is not what was committed to.
    #[error("it opens the commitment {found}, committed was {expected}")]
    Commitment {
        /// What the shown things commit to.
        found: Commitment,
        /// The commitment.
        expected: Commitment,
    },
    /// Nothing is named where something must be.
    #[error("it names no {kind}")]
    Nothing {
        /// What is missing.
        kind: BlockKind,
    },
    /// A slot's name.
    #[error(transparent)]
    Slot(#[from] ParseSlotError),
    /// A slot that does not hold weights.
    #[error("{slot} holds no weights: only weights can be judged")]
    NotWeights {
        /// The slot.
        slot: Slot,
    },
    /// The base's manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A slot that the base does not have.
    #[error("the base has nothing in {slot}")]
    UnknownSlot {
        /// The slot.
        slot: Slot,
    },
    /// A block that the base has in that slot already.
    #[error("the base has block {block} in {slot} already")]
    Unchanged {
        /// The slot.
        slot: Slot,
        /// The block.
        block: BlockHash,
    },
    /// A block that does not fit a slot of the base.
    #[error("block {block} for {slot} is a {kind} named {name:?}, or was made for another spec")]
    WrongBlock {
        /// The slot.
        slot: Slot,
        /// The block.
        block: BlockHash,
        /// Its kind.
        kind: BlockKind,
        /// Its name.
        name: String,
    },
    /// Candidates that fill one slot cannot be attested together.
    #[error("two of the candidates fill {slot}")]
    SameSlot {
        /// The slot.
        slot: Slot,
    },
    /// A candidate that the reveal does not judge.
    #[error("candidate {candidate} is not among those that the reveal judges")]
    NotJudged {
        /// The candidate.
        candidate: BlockHash,
    },
    /// The model root is not that of the base with the candidates.
    #[error("the base with the candidates is {expected}, attested is {found}")]
    ModelRoot {
        /// As attested.
        found: SnapshotRoot,
        /// By the blocks.
        expected: SnapshotRoot,
    },
    /// Losses on other data than the split and the policy's datasets, in that order.
    #[error("losses must be of {}, in this order", list(expected))]
    OtherData {
        /// What losses are needed of.
        expected: Vec<BlockHash>,
    },
    /// A version of the arithmetic that nobody has defined.
    #[error("numerics version 0 does not exist")]
    NumericsVersion,
    /// An accusation that says what the attestation says.
    #[error("the recomputed losses are the attested ones: there is nothing to accuse of")]
    NoDifference,
    /// A key that accuses itself.
    #[error("{key} accuses itself")]
    OwnAttestation {
        /// The key.
        key: PublicKey,
    },
    /// Bits that are no loss.
    #[error(transparent)]
    Loss(#[from] ParseLossError),
}

fn list(blocks: &[BlockHash]) -> String {
    blocks.iter().map(BlockHash::to_string).collect::<Vec<_>>().join(", ")
}

/// Why a step of a round cannot be taken with what is on the chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// A split that everybody can know.
    #[error("the split's tokens are on the chain, as block {tokens}: use tokens that nobody has seen")]
    SplitKnown {
        /// The tokens block.
        tokens: BlockHash,
    },
    /// The round has no claims.
    #[error("round {round} has no claims: there is nothing to close")]
    NoClaims {
        /// The round.
        round: BlockHash,
    },
    /// A second closing would void the round.
    #[error("round {round} was closed by {closing}: closing it again would void it")]
    AlreadyClosed {
        /// The round.
        round: BlockHash,
        /// Its closing.
        closing: BlockHash,
    },
    /// A claim that is not listed yet.
    #[error("no closing lists claim {claim}: show nothing before its round is closed")]
    NotClosed {
        /// The claim.
        claim: BlockHash,
    },
    /// A round that is not closed yet.
    #[error("round {round} is not closed: its split must not be shown before the candidates")]
    NoClosing {
        /// The round.
        round: BlockHash,
    },
    /// The round has no candidates.
    #[error("round {round} has no candidates: there is nothing to judge")]
    NoCandidates {
        /// The round.
        round: BlockHash,
    },
    /// A second reveal would void the round.
    #[error("round {round} was revealed by {reveal}: revealing it again would void it")]
    AlreadyRevealed {
        /// The round.
        round: BlockHash,
        /// Its reveal.
        reveal: BlockHash,
    },
    /// A round that no candidate can be accepted in.
    #[error("nothing can be accepted in round {round}: {reason}")]
    RoundRefused {
        /// The round.
        round: BlockHash,
        /// Why.
        reason: crate::evolve::Reason,
    },
    /// A round whose base is not what is chosen beside it.
    #[error("round {round} improves {base}, but {chosen} is chosen: open a new round on that")]
    StaleBase {
        /// The round.
        round: BlockHash,
        /// Its base.
        base: BlockHash,
        /// The chosen model.
        chosen: BlockHash,
    },
    /// A split that another round has shown.
    #[error("the split {tokens} of round {round} was shown by {reveal} too: it may have been trained on")]
    SplitReused {
        /// The round.
        round: BlockHash,
        /// The tokens block.
        tokens: BlockHash,
        /// The other reveal.
        reveal: BlockHash,
    },
    /// A second word of a key about the same candidates would void both.
    #[error(
        "under reveal {reveal} the key attested other losses or numerics of these candidates, in {attestation}"
    )]
    AlreadyAttested {
        /// The reveal.
        reveal: BlockHash,
        /// The key's attestation.
        attestation: BlockHash,
    },
}
