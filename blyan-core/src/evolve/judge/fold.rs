//! Owns the fold: blocks in, judgement out.
//!
//! Statements are taken in an order in which parents come first, and only those that are valid and
//! whose parents were taken. Rounds are then judged in that order, since a round's base follows from
//! what was accepted before it.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    AcceptedSet, CandidateState, Chosen, Fault, FaultKind, Judgement, Node, Reason, RoundState, Verdict,
};
use crate::chain::{Block, Chain};
use crate::evolve::dataset::Dataset;
use crate::evolve::loss::{Score, improves, worsens};
use crate::evolve::round::{CandidateBlocks, UnderPolicy, snapshot_of};
use crate::evolve::{
    Accusation, Attestation, Body, Candidate, Claim, Closing, Evidence, EvolveError, Policy, PublicKey,
    Reveal, Round, Statement,
};
use crate::format::{BlockKind, Manifest, Slot};
use crate::hash::BlockHash;
use crate::manager::ManagerError;

type Statements<B> = BTreeMap<BlockHash, Statement<B>>;

/// Everything valid that was said under a policy.
#[derive(Default)]
struct Said {
    /// Rounds with those before them first.
    order: Vec<BlockHash>,
    rounds: Statements<Round>,
    claims: Statements<Claim>,
    closings: Statements<Closing>,
    candidates: Statements<Candidate>,
    reveals: Statements<Reveal>,
    attestations: Statements<Attestation>,
    accusations: Statements<Accusation>,
    /// Rounds that came before a round.
    ancestors: BTreeMap<BlockHash, BTreeSet<BlockHash>>,
    /// Tokens blocks of splits that were shown before a round was opened.
    shown: BTreeMap<BlockHash, BTreeSet<BlockHash>>,
}

fn read<B: Body + UnderPolicy>(
    chain: &Chain,
    policy: &BlockHash,
    block: &BlockHash,
    into: &mut Statements<B>,
    known: impl FnOnce(&B) -> bool,
) -> Result<(), EvolveError> {
    if let Some(statement) = Statement::<B>::read_valid(chain, block)?
        && statement.body().policy() == *policy
        && known(statement.body())
    {
        into.insert(*block, statement);
    }
    Ok(())
}

impl Said {
    fn gather(chain: &Chain, policy: &BlockHash) -> Result<Self, EvolveError> {
        let mut blocks: Vec<Block> = Vec::new();
        for kind in [
            BlockKind::ROUND,
            BlockKind::CLAIM,
            BlockKind::CLOSING,
            BlockKind::CANDIDATE,
            BlockKind::REVEAL,
            BlockKind::ATTESTATION,
            BlockKind::ACCUSATION,
        ] {
            for block in chain.blocks_of_kind(kind) {
                blocks.push(block?);
            }
        }
        blocks.sort_unstable_by_key(|block| (block.height(), block.hash()));
        let mut said = Self::default();
        for block in blocks {
            said.take(chain, policy, &block.hash(), block.header().kind)?;
        }
        Ok(said)
    }

    fn take(
        &mut self,
        chain: &Chain,
        policy: &BlockHash,
        block: &BlockHash,
        kind: BlockKind,
    ) -> Result<(), EvolveError> {
        match kind {
            BlockKind::ROUND => {
                read(chain, policy, block, &mut self.rounds, |round: &Round| {
                    let seen = |block: &BlockHash| {
                        self.reveals.contains_key(block) || self.closings.contains_key(block)
                    };
                    round.previous.iter().all(|reveal| self.reveals.contains_key(reveal))
                        && round.attestations.iter().all(|block| self.attestations.contains_key(block))
                        && round.seen.iter().all(seen)
                })?;
                self.place(block);
                Ok(())
            }
            BlockKind::CLAIM => read(chain, policy, block, &mut self.claims, |claim: &Claim| {
                self.rounds.contains_key(&claim.round)
            }),
            BlockKind::CLOSING => read(chain, policy, block, &mut self.closings, |closing: &Closing| {
                self.rounds.contains_key(&closing.round)
                    && closing.claims.iter().all(|claim| self.claims.contains_key(claim))
            }),
            BlockKind::CANDIDATE => {
                read(chain, policy, block, &mut self.candidates, |candidate: &Candidate| {
                    self.closings.contains_key(&candidate.closing)
                })
            }
            BlockKind::REVEAL => read(chain, policy, block, &mut self.reveals, |reveal: &Reveal| {
                self.closings.contains_key(&reveal.closing)
                    && reveal.candidates.iter().all(|block| self.candidates.contains_key(block))
            }),
            BlockKind::ATTESTATION => {
                read(chain, policy, block, &mut self.attestations, |attestation: &Attestation| {
                    self.reveals.contains_key(&attestation.reveal)
                })
            }
            _ => read(chain, policy, block, &mut self.accusations, |accusation: &Accusation| {
                self.attestations.contains_key(&accusation.attestation)
            }),
        }
    }

    /// Notes what came before a round.
    fn place(&mut self, block: &BlockHash) {
        let Some(round) = self.rounds.get(block) else { return };
        let (mut ancestors, mut shown) = (BTreeSet::new(), BTreeSet::new());
        for named in round.body().previous.iter().chain(&round.body().seen) {
            let reveal = self.reveals.get(named).map(|reveal| reveal.body());
            shown.extend(reveal.map(|reveal| reveal.tokens));
            let closing = self.closings.get(named).map(|closing| closing.body().round);
            let Some(before) = reveal.map(|reveal| reveal.round).or(closing) else { continue };
            ancestors.insert(before);
            ancestors.extend(self.ancestors.get(&before).into_iter().flatten());
            shown.extend(self.shown.get(&before).into_iter().flatten());
        }
        self.ancestors.insert(*block, ancestors);
        self.shown.insert(*block, shown);
        self.order.push(*block);
    }

    fn is_before(&self, earlier: &BlockHash, later: &BlockHash) -> bool {
        self.ancestors.get(later).is_some_and(|ancestors| ancestors.contains(earlier))
    }

    fn round_of(&self, reveal: &BlockHash) -> Option<BlockHash> {
        self.reveals.get(reveal).map(|reveal| reveal.body().round)
    }

    fn faults(&self, policy: &Policy) -> BTreeSet<Fault> {
        let mut faults = BTreeSet::new();
        let mut closings: BTreeMap<BlockHash, u32> = BTreeMap::new();
        let mut reveals: BTreeMap<BlockHash, u32> = BTreeMap::new();
        self.closings.values().for_each(|s| *closings.entry(s.body().round).or_default() += 1);
        self.reveals.values().for_each(|s| *reveals.entry(s.body().round).or_default() += 1);
        for (counts, kind) in [(closings, FaultKind::TwoClosings), (reveals, FaultKind::TwoReveals)] {
            let twice = counts.into_iter().filter(|(_, count)| *count > 1);
            let owners = twice.filter_map(|(round, _)| Some((self.rounds.get(&round)?.key(), round)));
            faults.extend(owners.map(|(key, round)| Fault { key, round, kind }));
        }
        // Two signatures under one body are one word.
        let mut words: BTreeMap<_, BTreeSet<&Attestation>> = BTreeMap::new();
        for attestation in self.attestations.values() {
            let body = attestation.body();
            words.entry((attestation.key(), body.reveal, &body.candidates)).or_default().insert(body);
        }
        for ((key, reveal, _), bodies) in words {
            if let Some(round) = self.round_of(&reveal).filter(|_| bodies.len() > 1) {
                faults.insert(Fault { key, round, kind: FaultKind::TwoAttestations { reveal } });
            }
        }
        faults.extend(self.lies(policy));
        faults
    }

    /// Attestations against which enough other validators found the same other bits.
    fn lies(&self, policy: &Policy) -> Vec<Fault> {
        // What each accuser found. Who found several things found nothing.
        let mut found: BTreeMap<(BlockHash, PublicKey), BTreeSet<&Accusation>> = BTreeMap::new();
        for accusation in self.accusations.values() {
            if policy.validators.contains(&accusation.key()) {
                let at = (accusation.body().attestation, accusation.key());
                found.entry(at).or_default().insert(accusation.body());
            }
        }
        let mut accusers: BTreeMap<&Accusation, usize> = BTreeMap::new();
        for bodies in found.into_values() {
            if let Some(body) = bodies.first().filter(|_| bodies.len() == 1) {
                *accusers.entry(body).or_default() += 1;
            }
        }
        let convicted = accusers.into_iter().filter(|(_, count)| *count >= policy.required as usize);
        let fault = |body: &Accusation| {
            let attestation = self.attestations.get(&body.attestation)?;
            let round = self.round_of(&attestation.body().reveal)?;
            let kind = FaultKind::Lie { attestation: body.attestation };
            Some(Fault { key: attestation.key(), round, kind })
        };
        convicted.filter_map(|(body, _)| fault(body)).collect()
    }

    /// Whether one candidate came before another: in a round before, or in the same one with a smaller
    /// claim.
    fn precedes(&self, (a, b): (&Candidate, &Candidate)) -> bool {
        if a.round == b.round { a.claim < b.claim } else { self.is_before(&a.round, &b.round) }
    }

    /// For each candidate that is a copy the one that came first: by another key, with weights of this
    /// one in their slot, before this one and before each of its own author's with them that came before it.
    fn copies(&self, chain: &Chain) -> Result<BTreeMap<BlockHash, BlockHash>, EvolveError> {
        let mut holders: BTreeMap<_, Vec<(BlockHash, &Statement<Candidate>)>> = BTreeMap::new();
        for (block, candidate) in &self.candidates {
            for (slot, filled) in &candidate.body().slots {
                let weights = (slot.as_str(), chain.get(filled)?.header().payload.hash);
                holders.entry(weights).or_default().push((*block, candidate));
            }
        }
        let mut copies = BTreeMap::new();
        for holders in holders.values() {
            // Of one key in one round the first decides: what is not before it takes nothing from the others.
            let mut firsts: BTreeMap<PublicKey, BTreeMap<BlockHash, &Candidate>> = BTreeMap::new();
            for (_, holder) in holders {
                let body = holder.body();
                let first = firsts.entry(holder.key()).or_default().entry(body.round).or_insert(body);
                if body.claim < first.claim {
                    *first = body;
                }
            }
            let mut originals = BTreeMap::new();
            for (key, firsts) in &firsts {
                for round in firsts.keys() {
                    let own = firsts
                        .values()
                        .filter(|own| own.round == *round || self.is_before(&own.round, round));
                    let own: Vec<&Candidate> = own.copied().collect();
                    let others = holders.iter().filter(|(_, other)| {
                        other.key() != *key && own.iter().all(|own| self.precedes((other.body(), own)))
                    });
                    let first = others.map(|(other, body)| (body.body().round == *round, *other)).min();
                    originals.extend(first.map(|(_, first)| ((*key, *round), first)));
                }
            }
            for (block, holder) in holders {
                let original = originals.get(&(holder.key(), holder.body().round));
                copies.extend(original.map(|original| (*block, *original)));
            }
        }
        Ok(copies)
    }
}

/// A round that is judged.
struct Judging<'a> {
    chain: &'a Chain,
    policy: &'a Policy,
    said: &'a Said,
    faults: &'a BTreeSet<Fault>,
    copies: &'a BTreeMap<BlockHash, BlockHash>,
}

/// Words on one set of candidates: each outcome, and who attests it by which block.
type Outcomes<'a> = BTreeMap<&'a Attestation, BTreeMap<PublicKey, BlockHash>>;

impl Judging<'_> {
    /// Whether a key's word counts in a round: not in one in which it was at fault, nor in any that is
    /// not known to have come before that one.
    fn counts(&self, key: &PublicKey, round: &BlockHash) -> bool {
        let mut own = self.faults.iter().filter(|fault| fault.key == *key);
        own.all(|fault| fault.round != *round && self.said.is_before(round, &fault.round))
    }

    /// What validators whose word counts say of each set of candidates that a reveal judges.
    fn outcomes(
        &self,
        round: &BlockHash,
        reveal: &BlockHash,
        listed: Option<&BTreeSet<BlockHash>>,
    ) -> BTreeMap<&BTreeSet<BlockHash>, Outcomes<'_>> {
        let mut outcomes: BTreeMap<_, Outcomes<'_>> = BTreeMap::new();
        for (block, attestation) in &self.said.attestations {
            let (body, key) = (attestation.body(), attestation.key());
            let named = listed.is_none_or(|listed| listed.contains(block));
            if body.reveal == *reveal && named && self.counts(&key, round) {
                let of = outcomes.entry(&body.candidates).or_default();
                // One key, one voice, whichever of its equal words is named.
                of.entry(body).or_default().entry(key).or_insert(*block);
            }
        }
        outcomes
    }

    /// Whether what is attested is enough: the outcome and who attests it, or why not.
    fn verdict<'b>(
        &self,
        outcomes: Option<&'b Outcomes<'b>>,
    ) -> Result<(&'b Attestation, &'b BTreeMap<PublicKey, BlockHash>), Reason> {
        let required = self.policy.required;
        let all = outcomes.into_iter().flatten();
        let agreeing = all.clone().map(|(_, keys)| keys.len()).max().unwrap_or(0);
        let enough: Vec<_> = all.filter(|(_, keys)| keys.len() >= required as usize).collect();
        let (body, keys) = match &enough[..] {
            [] => return Err(Reason::TooFewAttestations { agreeing, required }),
            [(body, keys)] => (**body, *keys),
            several => return Err(Reason::Disputed { outcomes: several.len() }),
        };
        let broken = body.losses.iter().find(|loss| !loss.base.is_finite() || !loss.candidate.is_finite());
        if let Some(loss) = broken {
            return Err(Reason::NotFinite { data: loss.data });
        }
        let Policy { threshold_ppm, tolerance_ppm, .. } = *self.policy;
        if let Some(split) = body.losses.first()
            && !improves(split.base, split.candidate, threshold_ppm)
        {
            let (base, candidate) = (split.base, split.candidate);
            return Err(Reason::NotBetter { base, candidate, threshold_ppm });
        }
        let worse = body.losses.iter().find(|loss| worsens(loss.base, loss.candidate, tolerance_ppm));
        if let Some(loss) = worse {
            let (data, base, candidate) = (loss.data, loss.base, loss.candidate);
            return Err(Reason::Worse { data, base, candidate, tolerance_ppm });
        }
        Ok((body, keys))
    }

    /// Judges what a reveal judges: the sets that are accepted, and why single candidates are not.
    /// Candidates are accepted together only if each is alone.
    fn judge(
        &self,
        (round, start): (&BlockHash, Node),
        reveal: &BlockHash,
        listed: Option<&BTreeSet<BlockHash>>,
    ) -> Result<(Vec<AcceptedSet>, BTreeMap<BlockHash, Reason>), EvolveError> {
        let (mut accepted, mut refused) = (Vec::new(), BTreeMap::new());
        let Some(shown) = self.said.reveals.get(reveal) else { return Ok((accepted, refused)) };
        let outcomes = self.outcomes(round, reveal, listed);
        for candidate in &shown.body().candidates {
            let alone = BTreeSet::from([*candidate]);
            let verdict = match self.copies.get(candidate) {
                Some(of) => Err(Reason::Copy { of: *of }),
                None => self.verdict(outcomes.get(&alone)),
            };
            let set = verdict.map(|found| self.accepted(round, start, found));
            match set {
                Ok(set) => match set? {
                    Some(set) => accepted.push(set),
                    None => drop(refused.insert(*candidate, Reason::NoModel)),
                },
                Err(reason) => drop(refused.insert(*candidate, reason)),
            }
        }
        let alone: BTreeSet<BlockHash> = accepted.iter().flat_map(|set| &set.candidates).copied().collect();
        for (set, outcomes) in &outcomes {
            if set.len() > 1
                && set.is_subset(&alone)
                && let Ok(found) = self.verdict(Some(outcomes))
            {
                accepted.extend(self.accepted(round, start, found)?);
            }
        }
        Ok((accepted, refused))
    }

    /// An accepted set; nothing if its blocks make no model.
    fn accepted(
        &self,
        round: &BlockHash,
        start: Node,
        (body, keys): (&Attestation, &BTreeMap<PublicKey, BlockHash>),
    ) -> Result<Option<AcceptedSet>, EvolveError> {
        let candidates: Vec<BlockHash> = body.candidates.iter().copied().collect();
        let made = snapshot_of(self.chain, &candidates)
            .and_then(|snapshot| Ok((snapshot.model_block(self.chain)?, snapshot.root())));
        let (model, model_root) = match made {
            Ok(made) => made,
            Err(EvolveError::Manager(ManagerError::Chain(error))) => return Err(error.into()),
            Err(EvolveError::Manager(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let score = body.losses.first().map_or(start.score, |split| {
            // The threshold is at least a millionth, so this is less than the start's.
            start.score.times(split.candidate, split.base)
        });
        Ok(Some(AcceptedSet {
            round: *round,
            reveal: body.reveal,
            candidates: body.candidates.clone(),
            base: body.base,
            model,
            model_root,
            losses: body.losses.clone(),
            validators: keys.keys().copied().collect(),
            attestations: keys.values().copied().collect(),
            score,
        }))
    }
}

pub(super) fn fold(chain: &Chain, block: &BlockHash) -> Result<Judgement, EvolveError> {
    let policy = Policy::read(chain, block)?;
    let manifest =
        Manifest::from_canonical_json(&chain.payload(&policy.model)?).map_err(ManagerError::from)?;
    let mut public = BTreeSet::new();
    for dataset in &policy.datasets {
        public.insert(Dataset::read(chain, dataset)?.tokens);
    }
    let said = Said::gather(chain, block)?;
    let (faults, copies) = (said.faults(&policy), said.copies(chain)?);
    let judging = Judging { chain, policy: &policy, said: &said, faults: &faults, copies: &copies };

    let mut rounds: BTreeMap<BlockHash, RoundState> = BTreeMap::new();
    let mut refused: BTreeMap<BlockHash, Reason> = BTreeMap::new();
    for name in &said.order {
        let Some(statement) = said.rounds.get(name) else { continue };
        let (owner, round) = (statement.key(), statement.body());
        let previous = round.previous.as_ref().and_then(|reveal| said.round_of(reveal));
        let (mut start, mut came_by) = (Node { score: Score::ONE, model: policy.model }, None);
        if let (Some(reveal), Some(before)) = (&round.previous, previous.and_then(|name| rounds.get(&name))) {
            start = before.start;
            if let (None, Some(previous)) = (&before.refused, &previous) {
                let (sets, _) = judging.judge((previous, start), reveal, Some(&round.attestations))?;
                came_by = sets.into_iter().min_by_key(AcceptedSet::node).map(Box::new);
                start = came_by.as_ref().map_or(start, |set| set.node());
            }
        }
        let closings: BTreeSet<BlockHash> = (said.closings.iter())
            .filter(|(_, s)| s.body().round == *name)
            .map(|(block, _)| *block)
            .collect();
        let reveals: BTreeMap<BlockHash, BlockHash> = (said.reveals.iter())
            .filter(|(_, reveal)| reveal.body().round == *name)
            .map(|(block, reveal)| (*block, reveal.body().tokens))
            .collect();
        let ancestors = said.ancestors.get(name).cloned().unwrap_or_default();
        let known = said.shown.get(name).into_iter().flatten().chain(&public);
        let split_known = known.into_iter().find(|tokens| reveals.values().any(|split| split == *tokens));
        let void = [FaultKind::TwoClosings, FaultKind::TwoReveals].into_iter();
        let void = void.into_iter().find(|&kind| faults.contains(&Fault { key: owner, round: *name, kind }));
        let why = if let Some(fault) = void {
            Some(Reason::RoundVoid { owner, fault })
        } else if round.base != start.model {
            Some(Reason::WrongBase { base: round.base, expected: start.model })
        } else {
            split_known.map(|tokens| Reason::SplitKnown { tokens: *tokens })
        };
        let mut accepted = Vec::new();
        if why.is_none()
            && let Some(reveal) = reveals.keys().next()
        {
            let (sets, reasons) = judging.judge((name, start), reveal, None)?;
            accepted = sets;
            refused.extend(reasons);
        }
        let base = round.base;
        let state = RoundState {
            owner,
            base,
            previous,
            ancestors,
            closings,
            reveals,
            refused: why,
            accepted,
            start,
            came_by,
        };
        rounds.insert(*name, state);
    }
    let candidates = (said.candidates.iter())
        .map(|(name, candidate)| (*name, candidate_state(name, candidate, &rounds, &refused, &copies)))
        .collect();
    let chosen = Chosen { model: policy.model, root: manifest.root(), score: Score::ONE, steps: Vec::new() };
    let (first, first_root) = (policy.model, manifest.root());
    let mut state = Judgement { policy: *block, rounds, candidates, faults, chosen, first, first_root };
    state.chosen = state.choose(|_| true);
    Ok(state)
}

fn candidate_state(
    name: &BlockHash,
    candidate: &Statement<Candidate>,
    rounds: &BTreeMap<BlockHash, RoundState>,
    refused: &BTreeMap<BlockHash, Reason>,
    copies: &BTreeMap<BlockHash, BlockHash>,
) -> CandidateState {
    let body = candidate.body();
    let round = rounds.get(&body.round);
    let alone = BTreeSet::from([*name]);
    let accepted = round.and_then(|round| round.accepted.iter().find(|set| set.candidates == alone));
    let verdict = match accepted {
        Some(set) => Verdict::Accepted { losses: set.losses.clone(), validators: set.validators.clone() },
        None => {
            let of_round = round.and_then(|round| round.refused.clone());
            let copy = copies.get(name).map(|of| Reason::Copy { of: *of });
            let own = refused.get(name).cloned();
            Verdict::Refused(of_round.or(copy).or(own).unwrap_or(Reason::NotRevealed))
        }
    };
    let slots = body.slots.iter().filter_map(|(slot, block)| Some((slot.parse::<Slot>().ok()?, *block)));
    CandidateState {
        author: candidate.key(),
        round: body.round,
        claim: body.claim,
        base: body.base,
        blocks: slots.collect::<CandidateBlocks>(),
        verdict,
    }
}
