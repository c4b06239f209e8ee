//! Owns the reward: who earned how much of a period's pool, a pure function of what was adopted and of
//! what was used.
//!
//! # The formula
//!
//! A *period* is a round of the policy, counted along its line, since blocks have no time. The weight of a
//! contribution in a period is
//!
//! ```text
//! weight = credit × use          credit in units of 2^-32 halvings of the loss, use in tokens
//! gain   = max(0, (log₂ base − log₂ candidate)  on the split
//!               − the worst (log₂ candidate − log₂ base, 0)  over the policy's datasets)
//! credit = min(gain alone, max(0, gain together − the other candidates' gains alone))
//! use    = the least, over the slots that it changed, of the tokens that were routed to its block there
//!          or to a block that took that block's place later
//! share  = ⌊pool × W / (W + the sum of gain alone × use over all other keys' candidates)⌋,
//!          W the sum of the key's weights
//! ```
//!
//! *Contribution* is the gain, as it was attested; *quality* is what the gain loses where a dataset of the
//! policy got worse; *use* is tokens of receipts that validators replayed. Speed is no factor: nothing on
//! the chain measures it in a way that can be recomputed. An audited measurement would be one more field
//! of [`Worth`], as a deduction from the gain, never as a factor above 1.
//!
//! Gains are differences of one fixed logarithm, so along a line of models they add up to the difference
//! of the ends, bit for bit. Everything is integer and rounded down, and inputs are sets: order and
//! repetition change nothing.
//!
//! # Why adding nothing gains nothing
//!
//! A share grows with the key's own weight and shrinks with what the others found, of which the key can
//! take nothing away. So it is enough that the weights of a key, or of any group of keys, are not raised by
//!
//! - *copying*: weights that were adopted before, in the same slot, count for the first claim alone;
//! - *splitting in time*: gains of steps add up to the gain of the whole at most, a part adopted later
//!   earns later, and each part has at most the use of the whole;
//! - *splitting side by side*: a candidate is credited with no more than what the others do not explain,
//!   so parts that overlap are paid less than the whole; and what an overlap costs one goes to no other,
//!   as the others divide by every gain as it was alone;
//! - *more slots*: the least used one counts, so a slot more never adds use;
//! - *useless experts*: without a gain a candidate has no weight, and nobody else loses any;
//! - *more keys*: weights belong to candidates, each key divides by the others' gains, and rounding down
//!   pays two halves no more than the whole;
//! - *more receipts of one run*: a run counts once, in the first period that it was recorded in.
//!
//! The property tests beside this file say the same. What is left of a pool is paid to nobody; the caller
//! may add it to the next. docs/rewards.md says what is not prevented.

mod fixed;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use super::PublicKey;
use crate::format::Slot;
use crate::hash::{BlockHash, PayloadHash};

/// Most tokens that one contribution's use counts in a period.
pub const MAX_USE: u64 = (1 << 48) - 1;

/// Mean losses of one text without and with a change, as the bits of f64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Measured {
    /// Without.
    pub base: u64,
    /// With.
    pub candidate: u64,
}

impl Measured {
    /// log₂ base − log₂ candidate in units of 2^-32; none if one of them is no loss.
    fn gain(self) -> Option<i64> {
        Some(fixed::log2(self.base)? - fixed::log2(self.candidate)?)
    }
}

/// What validators attested of a change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Worth {
    /// On the split that the round committed to.
    pub split: Measured,
    /// On each dataset of the policy.
    pub datasets: Vec<Measured>,
}

impl Worth {
    /// The improvement on the split, less the worst deterioration on a dataset, in units of 2^-32
    /// halvings of the loss; 0 if that is negative, or if any loss is negative, infinite or no number.
    pub fn gain(&self) -> u64 {
        let gain = || {
            let datasets = self.datasets.iter().map(|losses| losses.gain());
            let worst = datasets.collect::<Option<Vec<_>>>()?.into_iter().min().unwrap_or(0).min(0);
            u64::try_from(self.split.gain()? + worst).ok()
        };
        gain().unwrap_or(0)
    }
}

/// A block in place of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Replacement {
    /// The slot.
    pub slot: Slot,
    /// The block that was there; none in a slot that is new.
    pub replaced: Option<BlockHash>,
    /// The block that took its place.
    pub block: BlockHash,
    /// Payload of the new block: the same weights in another block are a copy.
    pub payload: PayloadHash,
}

/// One candidate of an adopted set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Contribution {
    /// Who claimed and proposed it.
    pub author: PublicKey,
    /// The claim block: names the candidate, and of equal weights in one period the smaller is first.
    pub claim: BlockHash,
    /// What it changed.
    pub replacements: Vec<Replacement>,
    /// What it was found to be worth by itself.
    pub alone: Worth,
}

/// A set of candidates that were accepted together and became part of the model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Adoption {
    /// The period of the reveal that judged them.
    pub period: u64,
    /// What they were found to be worth together; of one candidate, what it is worth alone.
    pub together: Worth,
    /// The candidates.
    pub contributions: Vec<Contribution>,
}

/// What one run used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Use {
    /// Names the run; a run counts once.
    pub run: [u8; 32],
    /// The period that it was recorded in.
    pub period: u64,
    /// Tokens that went through each block; without any it counts for nothing.
    pub tokens: BTreeMap<BlockHash, u64>,
}

/// What one contribution counts in a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Credit {
    /// Who made it.
    pub author: PublicKey,
    /// Its claim.
    pub claim: BlockHash,
    /// The period it was adopted in.
    pub adopted: u64,
    /// What it was worth alone, in units of 2^-32 halvings of the loss; 0 of a copy.
    pub gain: u64,
    /// The part of it that no other candidate of the set explains.
    pub credit: u64,
    /// Tokens that used it, [`MAX_USE`] at most.
    pub tokens: u64,
}

impl Credit {
    /// What is paid for: credit × tokens.
    pub fn weight(&self) -> u128 {
        u128::from(self.credit) * u128::from(self.tokens)
    }

    /// What all other keys divide by: gain × tokens.
    pub fn full_weight(&self) -> u128 {
        u128::from(self.gain) * u128::from(self.tokens)
    }
}

/// What one key earned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Share {
    /// The key.
    pub author: PublicKey,
    /// Its part of the pool.
    pub units: u64,
    /// Sum of the weights of its contributions.
    pub weight: u128,
}

/// A candidate of an adopted set, in the order in which claims count.
struct Place<'a> {
    adoption: usize,
    contribution: &'a Contribution,
    period: u64,
    /// Whether its weights, or its claim, were there before.
    is_copy: bool,
    /// Its gain alone; 0 of a copy.
    gain: u64,
}

/// What each contribution counts in a period, by the period it was adopted in and its claim. Adoptions of
/// later periods and uses of other periods are passed over.
pub fn credits(period: u64, adoptions: &[Adoption], uses: &[Use]) -> Vec<Credit> {
    let adoptions: BTreeSet<&Adoption> =
        adoptions.iter().filter(|adoption| adoption.period <= period).collect();
    let together: Vec<u64> = adoptions.iter().map(|adoption| adoption.together.gain()).collect();
    let places = in_order(&adoptions);
    let mut sums = vec![0_u128; together.len()];
    for place in &places {
        if let Some(sum) = sums.get_mut(place.adoption) {
            *sum += u128::from(place.gain);
        }
    }
    let tokens = tokens_of(period, uses);
    let heirs = heirs(&places);
    let credits = places.iter().map(|place| {
        let others = sums.get(place.adoption).map_or(0, |sum| sum - u128::from(place.gain));
        let together = together.get(place.adoption).copied().unwrap_or(0);
        let unexplained = u64::try_from(others).map_or(0, |others| together.saturating_sub(others));
        let replacements = place.contribution.replacements.iter();
        let tokens = replacements.map(|replacement| tokens_from(replacement, &heirs, &tokens)).min();
        Credit {
            author: place.contribution.author,
            claim: place.contribution.claim,
            adopted: place.period,
            gain: place.gain,
            credit: place.gain.min(unexplained),
            tokens: tokens.unwrap_or(0),
        }
    });
    credits.collect()
}

/// Divides a pool among the keys that contributed, by key; those without weight are not listed. The sum is
/// the pool at most.
///
/// ```
/// use std::collections::BTreeMap;
/// use blyan_core::evolve::{self, Adoption, Contribution, Worth, Measured, PublicKey, Replacement, Use};
/// use blyan_core::{BlockHash, PayloadHash, Slot};
///
/// let losses = Measured { base: 2.0_f64.to_bits(), candidate: 1.9_f64.to_bits() };
/// let worth = Worth { split: losses, datasets: vec![] };
/// let block = BlockHash::from_bytes([2; 32]);
/// let contribution = Contribution {
///     author: PublicKey::from_bytes([7; 32]),
///     claim: BlockHash::from_bytes([1; 32]),
///     replacements: vec![Replacement {
///         slot: Slot::Expert { layer: 0, expert: 3 },
///         replaced: Some(BlockHash::from_bytes([9; 32])),
///         block,
///         payload: PayloadHash::from_bytes([3; 32]),
///     }],
///     alone: worth.clone(),
/// };
/// let adoption = Adoption { period: 0, together: worth, contributions: vec![contribution] };
/// let used = Use { run: [0; 32], period: 1, tokens: BTreeMap::from([(block, 40)]) };
///
/// let shares = evolve::rewards(1, &[adoption], &[used], 1_000);
/// assert_eq!(shares.len(), 1);
/// assert_eq!(shares[0].units, 1_000);
/// ```
pub fn rewards(period: u64, adoptions: &[Adoption], uses: &[Use], pool: u64) -> Vec<Share> {
    // A gain has 44 bits at most and a use 48, so 2^32 candidates fit into the sums.
    let mut keys: BTreeMap<PublicKey, (u128, u128)> = BTreeMap::new();
    for credit in credits(period, adoptions, uses) {
        let (weight, full) = keys.entry(credit.author).or_default();
        *weight += credit.weight();
        *full += credit.full_weight();
    }
    let whole: u128 = keys.values().map(|(_, full)| full).sum();
    let shares = keys.into_iter().filter(|(_, (weight, _))| *weight > 0);
    let share = |(author, (weight, full)): (PublicKey, (u128, u128))| {
        let units = fixed::share(pool, weight, weight + (whole - full));
        Share { author, units, weight }
    };
    shares.map(share).collect()
}

/// All candidates by period and claim. Weights that an earlier one put into the same slot make a copy,
/// as does a claim that was there before.
fn in_order<'a>(adoptions: &BTreeSet<&'a Adoption>) -> Vec<Place<'a>> {
    let mut places = Vec::new();
    for (number, adoption) in adoptions.iter().enumerate() {
        let contributions: BTreeSet<&Contribution> = adoption.contributions.iter().collect();
        places.extend(contributions.into_iter().map(|contribution| Place {
            adoption: number,
            contribution,
            period: adoption.period,
            is_copy: false,
            gain: contribution.alone.gain(),
        }));
    }
    // The sort is stable, and adoptions and contributions are in the order of their sets.
    places.sort_by_key(|place| (place.period, place.contribution.claim));
    let (mut claims, mut weights) = (BTreeSet::new(), BTreeSet::new());
    for place in &mut places {
        let replacements = &place.contribution.replacements;
        let known = |replacement: &Replacement| weights.contains(&(replacement.slot, replacement.payload));
        if !claims.insert(place.contribution.claim) || replacements.iter().any(known) {
            (place.is_copy, place.gain) = (true, 0);
        }
        weights.extend(replacements.iter().map(|replacement| (replacement.slot, replacement.payload)));
    }
    places
}

/// The blocks that took the place of a block in a slot.
type Heirs = BTreeMap<(Slot, BlockHash), Vec<BlockHash>>;

fn heirs(places: &[Place<'_>]) -> Heirs {
    let mut heirs = Heirs::new();
    // A copy would make another's block the heir of its own.
    let originals = places.iter().filter(|place| !place.is_copy);
    for replacement in originals.flat_map(|place| &place.contribution.replacements) {
        if let Some(replaced) = replacement.replaced {
            heirs.entry((replacement.slot, replaced)).or_default().push(replacement.block);
        }
    }
    heirs
}

/// Tokens that went through each block in a period.
fn tokens_of(period: u64, uses: &[Use]) -> BTreeMap<BlockHash, u64> {
    // The first period of each run; of two accounts of it in one period, the smaller. A generation that was ended
    // before it read anything names a run as well: it is no account of it.
    let mut runs: BTreeMap<&[u8; 32], &Use> = BTreeMap::new();
    for used in uses.iter().filter(|used| !used.tokens.is_empty()) {
        runs.entry(&used.run).and_modify(|known| *known = (*known).min(used)).or_insert(used);
    }
    let mut tokens: BTreeMap<BlockHash, u64> = BTreeMap::new();
    for used in runs.into_values().filter(|used| used.period == period) {
        for (block, count) in &used.tokens {
            let sum = tokens.entry(*block).or_default();
            *sum = sum.saturating_add(*count);
        }
    }
    tokens
}

/// Tokens that went through a block or through its heirs.
fn tokens_from(replacement: &Replacement, heirs: &Heirs, tokens: &BTreeMap<BlockHash, u64>) -> u64 {
    let mut known = BTreeSet::from([replacement.block]);
    let mut open = vec![replacement.block];
    let mut sum = 0_u64;
    while let Some(block) = open.pop() {
        sum = sum.saturating_add(tokens.get(&block).copied().unwrap_or(0));
        let next = heirs.get(&(replacement.slot, block)).into_iter().flatten();
        open.extend(next.copied().filter(|block| known.insert(*block)));
    }
    sum.min(MAX_USE)
}
