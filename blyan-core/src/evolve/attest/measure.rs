//! Owns measuring candidates, and saying what was measured.

use std::collections::{BTreeMap, BTreeSet};
use std::{iter, slice};

use ed25519_dalek::SigningKey;

use super::statement::data_of;
use super::{Attestation, Losses};
use crate::chain::{Chain, ChainError, Writer};
use crate::evolve::dataset::{Dataset, Tokens};
use crate::evolve::judge::{Judgement, Reason, Verdict, judge};
use crate::evolve::loss::{LossBits, improves, worsens};
use crate::evolve::round::{Candidate, Reveal, StepError, children, snapshot_of};
use crate::evolve::{
    EvaluateError, EvaluateOptions, Evidence, EvolveError, Policy, PublicKey, Statement, evaluate,
    evaluate_together,
};
use crate::format::BlockKind;
use crate::hash::{BlockHash, SnapshotRoot};
use crate::kernels::NUMERICS_VERSION;
use crate::manager::{ManagerError, Snapshot};
use crate::model::ModelError;

/// Sets of candidates that are measured beside each other: the base runs once for so many, and so many models
/// are open.
const SETS_AT_ONCE: usize = 16;

/// Measures models, each on each data once.
pub(in crate::evolve) struct Measure<'a> {
    chain: &'a Chain,
    policy: &'a Policy,
    options: EvaluateOptions<'a>,
    known: BTreeMap<(SnapshotRoot, BlockHash), LossBits>,
}

impl<'a> Measure<'a> {
    /// Measures as the policy says; the window in `options` is not looked at.
    pub(in crate::evolve) fn new(
        chain: &'a Chain,
        policy: &'a Policy,
        options: &EvaluateOptions<'a>,
    ) -> Self {
        let options = EvaluateOptions { window: policy.window as usize, ..options.clone() };
        Self { chain, policy, options, known: BTreeMap::new() }
    }

    /// Measures what attestations of these sets of candidates of a reveal will say, beside each other: what
    /// they share with their base is computed once.
    pub(in crate::evolve) fn prepare(
        &mut self,
        reveal: &Reveal,
        sets: &[BTreeSet<BlockHash>],
    ) -> Result<(), EvolveError> {
        for sets in sets.chunks(SETS_AT_ONCE) {
            let mut changed = Vec::with_capacity(sets.len());
            for candidates in sets {
                let blocks: Vec<BlockHash> = candidates.iter().copied().collect();
                changed.push(snapshot_of(self.chain, &blocks)?);
            }
            let Some(base) = changed.first().and_then(Snapshot::base) else { continue };
            let base = Snapshot::of_model(self.chain, base)?;
            for data in data_of(self.policy, reveal) {
                self.measure_together(&base, &changed, &data)?;
            }
        }
        Ok(())
    }

    fn measure_together(
        &mut self,
        base: &Snapshot,
        changed: &[Snapshot],
        data: &BlockHash,
    ) -> Result<(), EvolveError> {
        let unknown = |model: &Snapshot| !self.known.contains_key(&(model.root(), *data));
        let rest: Vec<&Snapshot> = changed.iter().filter(|model| unknown(model)).collect();
        // One model beside a base that is known already shares nothing with anybody.
        if rest.len() + usize::from(unknown(base)) < 2 {
            return Ok(());
        }
        let tokens = self.tokens(data)?;
        let found = evaluate_together(self.chain, base, &rest, &tokens, &self.options);
        let found =
            found.map(|(base, rest)| iter::once(base).chain(rest).map(|found| found.loss_bits).collect());
        let bits: Vec<u64> = or_no_number(found, || vec![f64::NAN.to_bits(); 1 + rest.len()])?;
        for (model, bits) in iter::once(base).chain(rest).zip(bits) {
            self.known.insert((model.root(), *data), LossBits::of(f64::from_bits(bits)));
        }
        Ok(())
    }

    /// What a truthful attestation of these candidates says.
    pub(in crate::evolve) fn attestation(
        &mut self,
        (block, reveal): (&BlockHash, &Reveal),
        candidates: &BTreeSet<BlockHash>,
    ) -> Result<Attestation, EvolveError> {
        let blocks: Vec<BlockHash> = candidates.iter().copied().collect();
        let changed = snapshot_of(self.chain, &blocks)?;
        // A snapshot of candidates came from their base.
        let base = *changed.base().ok_or(ManagerError::NoModel)?;
        let original = Snapshot::of_model(self.chain, &base)?;
        let mut losses = Vec::new();
        for data in data_of(self.policy, reveal) {
            let tokens = self.tokens(&data)?;
            let base = self.loss(&original, &data, &tokens)?;
            let candidate = self.loss(&changed, &data, &tokens)?;
            losses.push(Losses { data, base, candidate });
        }
        Ok(Attestation {
            policy: reveal.policy,
            reveal: *block,
            base,
            candidates: candidates.clone(),
            model_root: changed.root(),
            numerics_version: NUMERICS_VERSION,
            losses,
        })
    }

    /// Whether weights that these candidates are measured by were collected.
    pub(in crate::evolve) fn is_collected(
        &self,
        candidates: &BTreeSet<BlockHash>,
    ) -> Result<bool, EvolveError> {
        let blocks: Vec<BlockHash> = candidates.iter().copied().collect();
        let changed = snapshot_of(self.chain, &blocks)?;
        let base = changed.base().map(|base| Snapshot::of_model(self.chain, base)).transpose()?;
        for model in base.iter().chain([&changed]) {
            match model.refuse_collected(self.chain) {
                Err(ManagerError::Chain(ChainError::PayloadCollected { .. })) => return Ok(true),
                found => found?,
            }
        }
        Ok(false)
    }

    fn tokens(&self, data: &BlockHash) -> Result<Vec<u32>, EvolveError> {
        let tokens = match self.chain.get(data)?.header().kind {
            BlockKind::DATASET => Dataset::read(self.chain, data)?.tokens,
            _ => *data,
        };
        Ok(Tokens::read(self.chain, &tokens)?.into_ids())
    }

    fn loss(&mut self, model: &Snapshot, data: &BlockHash, tokens: &[u32]) -> Result<LossBits, EvolveError> {
        let name = (model.root(), *data);
        if let Some(known) = self.known.get(&name) {
            return Ok(*known);
        }
        let found = evaluate(self.chain, model, tokens, &self.options).map(|found| found.loss_bits);
        let bits = or_no_number(found, || f64::NAN.to_bits())?;
        let loss = LossBits::of(f64::from_bits(bits));
        self.known.insert(name, loss);
        Ok(loss)
    }
}

/// Tokens that the model does not have, or too few to predict one, and windows that it has no positions for make a
/// loss of NaN: for everyone the same, and never accepted.
fn or_no_number<T>(found: Result<T, EvaluateError>, none: impl FnOnce() -> T) -> Result<T, EvolveError> {
    match found {
        Err(
            EvaluateError::TooFewTokens { .. }
            | EvaluateError::WindowTooLong { .. }
            | EvaluateError::Manager(ManagerError::Model(ModelError::UnknownToken { .. })),
        ) => Ok(none()),
        found => Ok(found?),
    }
}

/// What an attestation of a reveal needs, read and checked once.
struct Bench {
    reveal: Reveal,
    policy: Policy,
    state: Judgement,
}

impl Bench {
    /// Refuses what no careful validator attests: a round in which nothing can be accepted, one whose
    /// base is not what is chosen beside it, and one whose split another round has shown that did not come
    /// after it.
    fn new(chain: &Chain, key: &SigningKey, block: &BlockHash) -> Result<Self, EvolveError> {
        let reveal = Statement::<Reveal>::read(chain, block)?.body().clone();
        let policy = Policy::read(chain, &reveal.policy)?;
        policy.check_validator(&reveal.policy, &PublicKey::of(key))?;
        let state = judge(chain, &reveal.policy)?;
        let (round, tokens) = (reveal.round, reveal.tokens);
        // The reveal was valid, so its round is among those that were judged.
        if let Some(judged) = state.rounds.get(&round) {
            if let Some(reason) = judged.refused.clone() {
                return Err(StepError::RoundRefused { round, reason }.into());
            }
            let (base, chosen) = (judged.base, state.chosen_without(&round).model);
            if base != chosen {
                return Err(StepError::StaleBase { round, base, chosen }.into());
            }
        }
        // Of a round that follows this one, the fold knows that it came too late.
        let others = state.rounds.iter();
        let mut others = others.filter(|(name, other)| **name != round && !other.ancestors.contains(&round));
        let shown = |(_, other): (_, &crate::evolve::judge::RoundState)| {
            other.reveals.iter().find(|(_, shown)| **shown == tokens).map(|(reveal, _)| *reveal)
        };
        if let Some(reveal) = others.find_map(shown) {
            return Err(StepError::SplitReused { round, tokens, reveal }.into());
        }
        Ok(Self { reveal, policy, state })
    }
}

/// Appends what a key attests of a reveal, all or nothing.
struct Words<'a> {
    writer: Writer,
    key: &'a SigningKey,
    reveal: &'a BlockHash,
    /// What the key attested before.
    said: Vec<(BlockHash, Statement<Attestation>)>,
}

impl<'a> Words<'a> {
    fn begin(chain: &Chain, key: &'a SigningKey, reveal: &'a BlockHash) -> Result<Self, EvolveError> {
        // Begun first: the key says nothing else between the look and the append.
        let writer = chain.writer()?;
        let mut said = children::<Attestation>(chain, reveal)?;
        said.retain(|(_, said)| said.key() == PublicKey::of(key));
        Ok(Self { writer, key, reveal, said })
    }

    /// Says it, unless it was said: two different words of one key are a fault, and void.
    fn append(&mut self, body: Attestation) -> Result<BlockHash, EvolveError> {
        let mut said = self.said.iter().filter(|(_, said)| said.body().candidates == body.candidates);
        if let Some((attestation, _)) = said.clone().find(|(_, said)| *said.body() != body) {
            let (reveal, attestation) = (*self.reveal, *attestation);
            return Err(StepError::AlreadyAttested { reveal, attestation }.into());
        }
        match said.next() {
            Some((attestation, _)) => Ok(*attestation),
            None => Ok(self.writer.append(Statement::sign(self.key, body)?.draft())?.hash),
        }
    }
}

/// Measures candidates of a reveal, in one model if they are several, and appends what was found as an
/// attestation by `key`, or gives the one of the same that the key has. `options.window` is not looked at, the
/// policy has its own.
///
/// # Errors
///
/// [`StepError::RoundRefused`], [`StepError::StaleBase`], [`StepError::SplitReused`] where a careful
/// validator says nothing; [`StepError::AlreadyAttested`] if the key attests something else of these candidates;
/// [`EvolveError`] for a key that is no validator, candidates that the reveal does not judge, an evaluation that
/// fails or is cancelled, or from the chain.
pub fn attest(
    chain: &Chain,
    key: &SigningKey,
    reveal: &BlockHash,
    candidates: &[BlockHash],
    options: &EvaluateOptions<'_>,
) -> Result<BlockHash, EvolveError> {
    let bench = Bench::new(chain, key, reveal)?;
    let candidates = BTreeSet::from_iter(candidates.iter().copied());
    let mut measure = Measure::new(chain, &bench.policy, options);
    measure.prepare(&bench.reveal, slice::from_ref(&candidates))?;
    let body = measure.attestation((reveal, &bench.reveal), &candidates)?;
    let mut words = Words::begin(chain, key, reveal)?;
    let attestation = words.append(body)?;
    words.writer.commit()?;
    Ok(attestation)
}

/// Attests each candidate of a reveal that is no copy, and then those that are good enough together in one
/// model, as far as they change different slots, the better first. Every validator attests the same
/// sets, since all find the same bits. The candidates are measured beside each other: what they share with
/// their base is computed once.
///
/// # Errors
///
/// As [`attest`]; nothing was appended if one of the candidates cannot be measured or is attested otherwise by the
/// key, and those of single candidates stay if that is so of all together.
pub fn attest_all(
    chain: &Chain,
    key: &SigningKey,
    reveal: &BlockHash,
    options: &EvaluateOptions<'_>,
) -> Result<Vec<BlockHash>, EvolveError> {
    let bench = Bench::new(chain, key, reveal)?;
    let mut measure = Measure::new(chain, &bench.policy, options);
    let is_copy = |candidate: &BlockHash| {
        let judged = bench.state.candidates.get(candidate).map(|judged| &judged.verdict);
        matches!(judged, Some(Verdict::Refused(Reason::Copy { .. })))
    };
    let candidates = bench.reveal.candidates.iter().filter(|candidate| !is_copy(candidate));
    let sets: Vec<BTreeSet<BlockHash>> = candidates.clone().map(|one| BTreeSet::from([*one])).collect();
    measure.prepare(&bench.reveal, &sets)?;
    let (mut bodies, mut good) = (Vec::new(), Vec::new());
    for (candidate, set) in candidates.zip(&sets) {
        let body = measure.attestation((reveal, &bench.reveal), set)?;
        let worse = |losses: &Losses| worsens(losses.base, losses.candidate, bench.policy.tolerance_ppm);
        if let Some(split) = body.losses.first()
            && improves(split.base, split.candidate, bench.policy.threshold_ppm)
            && !body.losses.iter().any(worse)
        {
            good.push((split.candidate, *candidate));
        }
        bodies.push(body);
    }
    let mut words = Words::begin(chain, key, reveal)?;
    let mut appended: Vec<BlockHash> =
        bodies.into_iter().map(|body| words.append(body)).collect::<Result<_, _>>()?;
    words.writer.commit()?;
    good.sort_unstable();
    let (mut together, mut filled) = (BTreeSet::new(), BTreeSet::new());
    for (_, candidate) in good {
        let slots = Statement::<Candidate>::read(chain, &candidate)?.body().parsed_slots()?;
        if slots.keys().all(|slot| !filled.contains(slot)) {
            filled.extend(slots.into_keys());
            together.insert(candidate);
        }
    }
    if together.len() > 1 {
        let body = measure.attestation((reveal, &bench.reveal), &together)?;
        let mut words = Words::begin(chain, key, reveal)?;
        appended.push(words.append(body)?);
        words.writer.commit()?;
    }
    Ok(appended)
}
