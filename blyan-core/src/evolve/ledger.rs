//! Owns the ledger of a policy: what was adopted and what was used, read from a chain, and with it the
//! rewards of a period.

use std::collections::BTreeSet;

use super::judge::{AcceptedSet, Judgement, Verdict, judge};
use super::reward::{Adoption, Contribution, Measured, Replacement, Share, Use, Worth, rewards};
use super::usage::uses_under;
use super::{EvolveError, Losses};
use crate::chain::Chain;
use crate::hash::BlockHash;
use crate::manager::Snapshot;

/// What rewards are computed from. A pure function of the set of blocks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ledger {
    /// What the fork choice took, from the policy's model on.
    pub adoptions: Vec<Adoption>,
    /// Runs of these models, and of the policy's, that count.
    pub uses: Vec<Use>,
    /// Periods so far: one more than the highest that a round has.
    pub periods: u64,
}

impl Ledger {
    /// Reads the ledger of a policy.
    ///
    /// # Errors
    ///
    /// [`EvolveError`] if `policy` is none, or from the chain.
    pub fn of(chain: &Chain, policy: &BlockHash) -> Result<Self, EvolveError> {
        let state = judge(chain, policy)?;
        let mut ledger = Self { periods: periods(&state), ..Self::default() };
        let first = state.chosen.steps.first().map_or(state.chosen.model, |step| step.base);
        let mut models = BTreeSet::from([first]);
        for step in &state.chosen.steps {
            models.insert(step.model);
            ledger.adoptions.push(adoption(chain, &state, step)?);
        }
        for used in uses_under(chain, &state)? {
            let round = state.rounds.iter().find(|(_, round)| round.reveals.contains_key(&used.reveal));
            if let Some((round, _)) = round.filter(|_| models.contains(&used.model)) {
                let (run, period) = (used.run, period_of(&state, round));
                ledger.uses.push(Use { run, period, tokens: used.tokens });
            }
        }
        Ok(ledger)
    }

    /// See [`rewards`].
    pub fn rewards(&self, period: u64, pool: u64) -> Vec<Share> {
        rewards(period, &self.adoptions, &self.uses, pool)
    }
}

/// What each key earned of a period's pool, by what is on the chain. [`Ledger`] for several periods.
///
/// # Errors
///
/// [`EvolveError`] if `policy` is none, or from the chain.
pub fn rewards_of(
    chain: &Chain,
    policy: &BlockHash,
    period: u64,
    pool: u64,
) -> Result<Vec<Share>, EvolveError> {
    Ok(Ledger::of(chain, policy)?.rewards(period, pool))
}

/// Rounds before a round in its line.
fn period_of(state: &Judgement, round: &BlockHash) -> u64 {
    let previous = |round: &BlockHash| state.rounds.get(round).and_then(|round| round.previous);
    std::iter::successors(previous(round), previous).count() as u64
}

fn periods(state: &Judgement) -> u64 {
    state.rounds.keys().map(|round| period_of(state, round) + 1).max().unwrap_or(0)
}

/// On the split, then on each dataset.
fn worth(losses: &[Losses]) -> Worth {
    let mut pairs =
        losses.iter().map(|losses| Measured { base: losses.base.bits(), candidate: losses.candidate.bits() });
    // Nothing measured is no improvement.
    let split = pairs.next().unwrap_or(Measured { base: 0, candidate: 0 });
    Worth { split, datasets: pairs.collect() }
}

fn adoption(chain: &Chain, state: &Judgement, step: &AcceptedSet) -> Result<Adoption, EvolveError> {
    let base = Snapshot::of_model(chain, &step.base)?;
    let mut contributions = Vec::new();
    for candidate in step.candidates.iter().filter_map(|candidate| state.candidates.get(candidate)) {
        let mut replacements = Vec::new();
        for (&slot, block) in &candidate.blocks {
            let replaced = base.slots().get(&slot).map(|pinned| pinned.block);
            let payload = chain.get(block)?.header().payload.hash;
            replacements.push(Replacement { slot, replaced, block: *block, payload });
        }
        let alone = match &candidate.verdict {
            Verdict::Accepted { losses, .. } => worth(losses),
            Verdict::Refused(_) => worth(&[]),
        };
        let (author, claim) = (candidate.author, candidate.claim);
        contributions.push(Contribution { author, claim, replacements, alone });
    }
    let period = period_of(state, &step.round);
    Ok(Adoption { period, together: worth(&step.losses), contributions })
}
