//! Owns the statement that shows a candidate: which blocks take the place of which.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Claim, Closing, Round, RoundError, UnderPolicy, check_same, claim_commitment, statement};
use crate::chain::ParentView;
use crate::evolve::evidence::check_kind;
use crate::evolve::{Body, InvalidEvidence, PublicKey};
use crate::format::{BlockKind, ChainId, Manifest, Parent, Slot};
use crate::hash::{BlockHash, CandidateRoot, DomainHasher, Salt, SnapshotRoot};

/// Blocks that want to take the place of those of the round's base: by the author of the claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    /// The policy.
    pub policy: BlockHash,
    /// The round.
    pub round: BlockHash,
    /// The closing that lists the claim.
    pub closing: BlockHash,
    /// The claim that committed to this.
    pub claim: BlockHash,
    /// The model that is improved: the round's base.
    pub base: BlockHash,
    /// The new block of each changed slot, at least one.
    pub slots: BTreeMap<String, BlockHash>,
    /// Opens the claim's commitment.
    pub salt: Salt,
}

impl Candidate {
    /// Names what the candidate changes, see [`candidate_root`].
    pub fn root(&self) -> CandidateRoot {
        candidate_root(&self.base, &self.slots)
    }

    /// The slots, checked.
    ///
    /// # Errors
    ///
    /// [`RoundError::Slot`] for a name that is none, [`RoundError::NotWeights`].
    pub fn parsed_slots(&self) -> Result<BTreeMap<Slot, BlockHash>, RoundError> {
        let slots = self.slots.iter().map(|(name, block)| {
            let slot: Slot = name.parse()?;
            if slot.kind().is_weights() { Ok((slot, *block)) } else { Err(RoundError::NotWeights { slot }) }
        });
        slots.collect()
    }
}

/// Names what a candidate changes: `derive_key("blyan candidate 1")` over the base's hash, then for each
/// slot in byte order of its name the name's length (u32 LE), the name, the new block's hash.
pub fn candidate_root(base: &BlockHash, slots: &BTreeMap<String, BlockHash>) -> CandidateRoot {
    let mut hasher = DomainHasher::candidate();
    hasher.update(base.as_bytes());
    for (name, block) in slots {
        let length = u32::try_from(name.len()).unwrap_or(u32::MAX);
        hasher.update(&length.to_le_bytes()).update(name.as_bytes()).update(block.as_bytes());
    }
    CandidateRoot::from_bytes(hasher.finish())
}

/// The manifest of a base with the blocks of candidates in their slots, and its root.
pub(in crate::evolve) fn changed_manifest<'a>(
    base: &Manifest,
    candidates: impl IntoIterator<Item = &'a Candidate>,
) -> Result<SnapshotRoot, RoundError> {
    let mut changed = base.clone();
    let mut filled = BTreeMap::new();
    for candidate in candidates {
        for (slot, block) in candidate.parsed_slots()? {
            if filled.insert(slot, block).is_some() {
                return Err(RoundError::SameSlot { slot });
            }
        }
    }
    changed.slots.extend(filled);
    Ok(changed.root())
}

impl UnderPolicy for Candidate {
    fn policy(&self) -> BlockHash {
        self.policy
    }
}

impl Body for Candidate {
    const KIND: BlockKind = BlockKind::CANDIDATE;
    const LANE: ChainId = ChainId::Meta;

    fn parents(&self) -> Vec<Parent> {
        let named = [self.policy, self.round, self.closing, self.claim, self.base].into_iter();
        named.chain(self.slots.values().copied()).map(Parent::dependency).collect()
    }

    fn check(&self) -> Result<(), InvalidEvidence> {
        if self.parsed_slots()?.is_empty() {
            return Err(RoundError::Nothing { kind: BlockKind::EXPERT }.into());
        }
        Ok(())
    }

    fn check_parents(&self, key: &PublicKey, parents: &dyn ParentView) -> Result<(), InvalidEvidence> {
        check_kind(parents, &self.policy, BlockKind::POLICY)?;
        let round = statement::<Round>(parents, &self.round, &self.policy)?;
        check_same(&self.round, BlockKind::MODEL, round.body().base, self.base)?;
        let closing = statement::<Closing>(parents, &self.closing, &self.policy)?;
        check_same(&self.closing, BlockKind::ROUND, closing.body().round, self.round)?;
        let claim = statement::<Claim>(parents, &self.claim, &self.policy)?;
        if !closing.body().claims.contains(&self.claim) {
            return Err(RoundError::NotListed { claim: self.claim }.into());
        }
        if claim.key() != *key {
            return Err(RoundError::OtherAuthor { claimed: claim.key(), key: *key }.into());
        }
        let (found, expected) = (claim_commitment(&self.salt, key, &self.root()), claim.body().candidate);
        if found != expected {
            return Err(RoundError::Commitment { found, expected }.into());
        }
        self.check_blocks(parents)
    }
}

impl Candidate {
    /// Every block fits its slot of the base, and is another than the base's.
    fn check_blocks(&self, parents: &dyn ParentView) -> Result<(), InvalidEvidence> {
        check_kind(parents, &self.base, BlockKind::MODEL)?;
        let base = Manifest::from_canonical_json(&parents.payload(&self.base)?).map_err(RoundError::from)?;
        for (slot, block) in self.parsed_slots()? {
            match base.slots.get(&slot) {
                None => return Err(RoundError::UnknownSlot { slot }.into()),
                Some(present) if *present == block => {
                    return Err(RoundError::Unchanged { slot, block }.into());
                }
                Some(_) => {}
            }
            let header = parents.header(&block)?;
            // A delta is not named itself: the block that it was merged into is.
            let fits = header.kind == slot.kind() && header.name == slot.to_string();
            if !fits || !header.parents.contains(&Parent::dependency(base.spec)) {
                let (kind, name) = (header.kind, header.name);
                return Err(RoundError::WrongBlock { slot, block, kind, name }.into());
            }
        }
        Ok(())
    }
}
