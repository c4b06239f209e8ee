//! Owns the policy: the meta block that says whose evidence a model takes, and how much of it.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::dataset::Dataset;
use super::evidence::{check_kind, check_version, from_canonical_json, parent, to_canonical_json};
use super::{Evidence, EvolveError, InvalidEvidence, MILLION, PublicKey};
use crate::chain::{Chain, ParentView};
use crate::format::{BlockKind, ChainId, Manifest, Parent, Slot};
use crate::hash::BlockHash;

/// Longest evaluation window in tokens.
const MAX_WINDOW: u32 = 1 << 20;

/// How good a dataset is held to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Checked text of known origin.
    Gold,
    /// Good text that nobody read as a whole.
    Silver,
    /// Anything else worth trying.
    Experimental,
}

impl Tier {
    /// Every tier, the best first.
    pub const ALL: [Self; 3] = [Self::Gold, Self::Silver, Self::Experimental];

    /// The tier of that name, as [`fmt::Display`] writes it.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tier| tier.to_string() == name)
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gold => "gold",
            Self::Silver => "silver",
            Self::Experimental => "experimental",
        })
    }
}

/// Payload of a policy block. A policy that follows another begins a new line: statements made under the
/// other do not count under it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Version of this description; 1.
    pub policy_version: u32,
    /// The model block that everything begins with.
    pub model: BlockHash,
    /// The policy that this one takes the place of.
    pub predecessor: Option<BlockHash>,
    /// Keys whose audits, rounds and attestations count.
    pub validators: BTreeSet<PublicKey>,
    /// Validators that must attest the same bits.
    pub required: u32,
    /// Least improvement of the loss, relative to it, in parts per million.
    pub threshold_ppm: u32,
    /// Most that the loss on any dataset may get worse, relative to it, in parts per million.
    pub tolerance_ppm: u32,
    /// Dataset blocks on which no candidate may be worse.
    pub datasets: BTreeSet<BlockHash>,
    /// Keys whose votes on datasets count.
    pub voters: BTreeSet<PublicKey>,
    /// Votes that a tally needs.
    pub quorum: u32,
    /// Share of the counted votes that must be for a dataset, in parts per million.
    pub approval_ppm: u32,
    /// Tokens that an evaluation window predicts.
    pub window: u32,
    /// Tiers of datasets that may be voted on.
    pub tiers: BTreeSet<Tier>,
}

/// A policy that asks for what cannot be, or for nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// A listed key under which nothing verifies.
    #[error("{key} is no ed25519 public key of full order")]
    Key {
        /// The key.
        key: PublicKey,
    },
    /// More attestations than there are validators, or none.
    #[error("required is {required}: expected 1 to {validators}, the number of validators")]
    Required {
        /// As given.
        required: u32,
        /// Number of validators.
        validators: usize,
    },
    /// More votes than there are voters, or none.
    #[error("quorum is {quorum}: expected 1 to {voters}, the number of voters")]
    Quorum {
        /// As given.
        quorum: u32,
        /// Number of voters.
        voters: usize,
    },
    /// A dataset that was tokenized for another model.
    #[error("dataset {dataset} names another tokenizer than the policy's model has")]
    ForeignTokenizer {
        /// The dataset.
        dataset: BlockHash,
    },
    /// A number outside of its range.
    #[error("{field} is {found}: expected {least} to {most}")]
    OutOfRange {
        /// Which number.
        field: &'static str,
        /// As given.
        found: u32,
        /// The least that is allowed.
        least: u32,
        /// The most that is allowed.
        most: u32,
    },
}

impl Policy {
    /// A policy with these validators, all of whom must agree: 1 % of improvement, nowhere worse by more
    /// than 0.1 %, windows of 256 tokens, no voters. The other fields are there to be set.
    pub fn new(model: BlockHash, validators: impl IntoIterator<Item = PublicKey>) -> Self {
        let validators: BTreeSet<PublicKey> = validators.into_iter().collect();
        Self {
            policy_version: 1,
            model,
            predecessor: None,
            required: u32::try_from(validators.len()).unwrap_or(u32::MAX),
            validators,
            threshold_ppm: 10_000,
            tolerance_ppm: 1_000,
            datasets: BTreeSet::new(),
            voters: BTreeSet::new(),
            quorum: 1,
            approval_ppm: 500_001,
            window: 256,
            tiers: Tier::ALL.into(),
        }
    }

    /// The policy in a block, all of it checked again.
    ///
    /// # Errors
    ///
    /// [`EvolveError::WrongKind`], [`EvolveError::InvalidBlock`], [`EvolveError::Chain`].
    pub fn of(chain: &Chain, block: &BlockHash) -> Result<Self, EvolveError> {
        Self::read(chain, block)
    }

    /// Checks what the policy says by itself.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] naming what is wrong.
    pub fn check(&self) -> Result<(), PolicyError> {
        let weak = self.validators.iter().chain(&self.voters).find(|key| key.verifying().is_none());
        if let Some(&key) = weak {
            return Err(PolicyError::Key { key });
        }
        let (validators, voters) = (self.validators.len(), self.voters.len());
        if self.required == 0 || self.required as usize > validators {
            return Err(PolicyError::Required { required: self.required, validators });
        }
        // Without voters no dataset is ever voted on, whatever the quorum.
        if self.quorum == 0 || (voters > 0 && self.quorum as usize > voters) {
            return Err(PolicyError::Quorum { quorum: self.quorum, voters });
        }
        for (field, found, least, most) in [
            // Without improvement, a copy would be accepted.
            ("threshold_ppm", self.threshold_ppm, 1, MILLION),
            ("tolerance_ppm", self.tolerance_ppm, 0, MILLION),
            ("approval_ppm", self.approval_ppm, 1, MILLION),
            ("window", self.window, 1, MAX_WINDOW),
        ] {
            if !(least..=most).contains(&found) {
                return Err(PolicyError::OutOfRange { field, found, least, most });
            }
        }
        Ok(())
    }

    /// Refuses a key that is not among the validators; `policy` is this policy's block.
    pub(super) fn check_validator(&self, policy: &BlockHash, key: &PublicKey) -> Result<(), InvalidEvidence> {
        let known = self.validators.contains(key);
        known.then_some(()).ok_or(InvalidEvidence::NotAValidator { key: *key, policy: *policy })
    }

    /// Refuses a key that is not among the voters; `policy` is this policy's block.
    pub(super) fn check_voter(&self, policy: &BlockHash, key: &PublicKey) -> Result<(), InvalidEvidence> {
        let known = self.voters.contains(key);
        known.then_some(()).ok_or(InvalidEvidence::NotAVoter { key: *key, policy: *policy })
    }
}

impl Evidence for Policy {
    const KIND: BlockKind = BlockKind::POLICY;
    const LANE: ChainId = ChainId::Meta;

    fn from_payload(bytes: &[u8]) -> Result<Self, InvalidEvidence> {
        let policy: Self = from_canonical_json(Self::KIND, bytes)?;
        check_version(Self::KIND, policy.policy_version)?;
        policy.check()?;
        Ok(policy)
    }

    fn to_payload(&self) -> Vec<u8> {
        to_canonical_json(self)
    }

    fn parents(&self) -> Vec<Parent> {
        let mut parents = vec![Parent::dependency(self.model)];
        parents.extend(self.predecessor.map(Parent::predecessor));
        parents.extend(self.datasets.iter().copied().map(Parent::dependency));
        parents
    }

    fn check_parents(&self, parents: &dyn ParentView) -> Result<(), InvalidEvidence> {
        check_kind(parents, &self.model, BlockKind::MODEL)?;
        let manifest = Manifest::from_canonical_json(&parents.payload(&self.model)?)?;
        if let Some(predecessor) = &self.predecessor {
            check_kind(parents, predecessor, BlockKind::POLICY)?;
        }
        for dataset in &self.datasets {
            let named: Dataset = parent(parents, dataset)?;
            // The losses on ids of another tokenizer would mean nothing.
            if named.tokenizer.is_some() && named.tokenizer.as_ref() != manifest.slots.get(&Slot::Tokenizer) {
                return Err(PolicyError::ForeignTokenizer { dataset: *dataset }.into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::*;

    fn key(seed: u8) -> PublicKey {
        PublicKey::of(&SigningKey::from_bytes(&[seed; 32]))
    }

    fn policy() -> Policy {
        let model = BlockHash::from_bytes([7; 32]);
        Policy { voters: [key(3)].into(), ..Policy::new(model, [key(1), key(2)]) }
    }

    const GOLDEN: &str = concat!(
        r#"{"policy_version":1,"model":"0707070707070707070707070707070707070707070707070707070707070707","#,
        r#""predecessor":null,"validators":["8139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b394","#,
        r#""8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c"],"required":2,"#,
        r#""threshold_ppm":10000,"tolerance_ppm":1000,"datasets":[],"#,
        r#""voters":["ed4928c628d1c2c6eae90338905995612959273a5c63f93636c14614ac8737d1"],"quorum":1,"#,
        r#""approval_ppm":500001,"window":256,"tiers":["gold","silver","experimental"]}"#,
    );

    #[test]
    fn bytes_are_pinned() {
        assert_eq!(String::from_utf8(policy().to_payload()).unwrap(), GOLDEN);
        assert_eq!(Policy::from_payload(GOLDEN.as_bytes()).unwrap(), policy());
    }

    #[test]
    fn lists_ascend_without_repetition() {
        let [one, two] = [key(1).to_string(), key(2).to_string()];
        let turned = GOLDEN.replacen(&two, "#", 1).replacen(&one, &two, 1).replacen('#', &one, 1);
        let twice = GOLDEN.replacen(&two, &one, 1);
        let tiers = GOLDEN.replace("\"gold\",\"silver\"", "\"silver\",\"gold\"");
        for other in [turned, twice, tiers] {
            let error = Policy::from_payload(other.as_bytes()).unwrap_err();
            assert!(matches!(error, InvalidEvidence::NotCanonical { .. }), "{other}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let refused = |policy: Policy| {
            let error = Policy::from_payload(&policy.to_payload()).unwrap_err();
            let InvalidEvidence::Policy(error) = error else { panic!("{error:?}") };
            error
        };
        let weak = PublicKey::from_bytes([0xff; 32]);
        assert_eq!(refused(Policy { voters: [weak].into(), ..policy() }), PolicyError::Key { key: weak });
        for required in [0, 3] {
            let error = refused(Policy { required, ..policy() });
            assert_eq!(error, PolicyError::Required { required, validators: 2 });
        }
        for quorum in [0, 2] {
            assert_eq!(refused(Policy { quorum, ..policy() }), PolicyError::Quorum { quorum, voters: 1 });
        }
        for (wrong, field) in [
            (Policy { threshold_ppm: 0, ..policy() }, "threshold_ppm"),
            (Policy { threshold_ppm: MILLION + 1, ..policy() }, "threshold_ppm"),
            (Policy { tolerance_ppm: MILLION + 1, ..policy() }, "tolerance_ppm"),
            (Policy { approval_ppm: 0, ..policy() }, "approval_ppm"),
            (Policy { approval_ppm: MILLION + 1, ..policy() }, "approval_ppm"),
            (Policy { window: 0, ..policy() }, "window"),
            (Policy { window: MAX_WINDOW + 1, ..policy() }, "window"),
        ] {
            let error = refused(wrong);
            assert!(matches!(error, PolicyError::OutOfRange { field: found, .. } if found == field));
        }
        let nobody = Policy::new(BlockHash::from_bytes([7; 32]), []);
        assert_eq!(refused(nobody), PolicyError::Required { required: 0, validators: 0 });
    }
}
