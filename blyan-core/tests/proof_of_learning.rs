//! Proof of learning: planted candidates get the verdicts that they deserve, by measured losses.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use crate::checkpoints::{import_into, tiny_kjv};
use crate::world::{OWNER, Revealed, World, changed, expert, key, noise, public, try_changed};
use blyan_core::evolve::{
    Attestation, CandidateBlocks, EvaluateOptions, Evidence, EvolveError, FaultKind, InvalidEvidence,
    LossBits, Reason, RoundError, Statement, StepError, Verdict, attest, attest_all, audit, claim,
    close_round, evaluate, open_round, propose_candidate, publish, publish_release, reveal,
};
use blyan_core::manager::{ManagerOptions, MoEModelManager, Snapshot};
use blyan_core::{BlockHash, BlockKind, Chain, Slot};
use semver::Version;

fn options() -> EvaluateOptions<'static> {
    EvaluateOptions { threads: Some(2), ..EvaluateOptions::default() }
}

/// The experts that were damaged in the model that everything begins with.
const DAMAGED: [Slot; 2] = [Slot::Expert { layer: 0, expert: 1 }, Slot::Expert { layer: 3, expert: 7 }];

/// A trained model with two damaged experts, and what they were. Text that it never saw.
struct Bible {
    world: World,
    original: Snapshot,
    text: Vec<u32>,
}

/// Damages an expert so that the model is worse, and still a model.
fn damage(name: &str, _: usize, weight: f32) -> f32 {
    if name == "down_proj.weight" { -weight } else { weight }
}

impl Bible {
    fn new(change: impl FnOnce(&mut blyan_core::evolve::Policy)) -> Self {
        let chain = Chain::in_memory().unwrap();
        let trained = import_into(&chain, &tiny_kjv(), None);
        let original = Snapshot::of_model(&chain, &trained).unwrap();
        let options = ManagerOptions { persist_usage: false, ..ManagerOptions::default() };
        let manager = MoEModelManager::open(&chain, &options).unwrap();
        let text = manager.tokenize(include_str!("texts/kjv_held_out.txt")).unwrap();
        let mut damaged = original.clone();
        for slot in DAMAGED {
            let block = changed(&chain, &original.slots()[&slot].block, damage);
            damaged = damaged.with_block(&chain, &block).unwrap();
        }
        let model = damaged.publish(&chain).unwrap();
        let vocab_size = u32::try_from(original.spec().vocab_size).unwrap();
        let dataset = World::dataset(&chain, "held-out", &text[2000..2200], vocab_size);
        let world = World::new(chain, model, |policy| {
            policy.datasets.insert(dataset);
            change(policy);
        });
        Self { world, original, text }
    }

    /// The undamaged expert, somewhat off.
    fn restored(&self, slot: Slot, off: f32, seed: u64) -> CandidateBlocks {
        let before = self.world.snapshot(&self.world.model).slots()[&slot].block;
        let mut noise = noise(seed);
        // Damage twice is none.
        let restore = |name: &str, index, weight| {
            let restored = damage(name, index, weight);
            if off == 0.0 { restored } else { restored * (1.0 + off * noise()) }
        };
        BTreeMap::from([(slot, changed(&self.world.chain, &before, restore))])
    }

    fn split(&self, number: usize) -> &[u32] {
        &self.text[200 * number..200 * (number + 1)]
    }

    fn attest_all(&self, validators: &[u8], revealed: &Revealed) {
        for seed in validators {
            attest_all(&self.world.chain, &key(*seed), &revealed.reveal, &options()).unwrap();
        }
    }
}

#[test]
fn planted_candidates_get_what_they_deserve() {
    let bible = Bible::new(|_| ());
    let world = &bible.world;
    let model = &world.model;
    let [left, right] = DAMAGED;
    let other = expert(0, 0);
    let mut wild = noise(3);
    let mut slight = noise(4);
    let same = world.changed(model, other, |_, _, weight| weight);
    let slightly_worse = world.changed(model, other, |_, _, weight| weight * (1.0 + 0.1 * slight()));
    let badly_worse = world.changed(model, other, |name, index, weight| 3.0 * damage(name, index, weight));
    let random = world.changed(model, expert(2, 4), |_, _, _| 0.2 * wild());
    let infinite = world.changed(model, other, |_, _, weight| weight.signum() * 3e38);
    let best = bible.restored(left, 0.0, 0);
    let proposals = [
        (10, best.clone()),
        (11, bible.restored(right, 0.0, 0)),
        (12, same),
        (13, slightly_worse),
        (14, badly_worse),
        (15, random),
        (16, infinite),
        (17, bible.restored(left, 0.3, 5)),
        // The same weights as the first, by somebody who was told them in time.
        (18, best.clone()),
    ];
    let revealed = world.round(bible.split(0), &proposals);
    let candidate = |author: u8| revealed.candidates[usize::from(author) - 10];

    // Weights that are no numbers do not come that far.
    let before = world.snapshot(model).slots()[&left].block;
    for bad in [f32::NAN, f32::INFINITY] {
        let error =
            try_changed(&world.chain, &before, |_, index, weight| if index == 5 { bad } else { weight });
        assert!(error.unwrap_err().to_string().contains("is not a valid expert block"));
    }

    // Nothing is accepted on the word of one.
    assert_eq!(world.reason(&candidate(10)), Reason::TooFewAttestations { agreeing: 0, required: 2 });
    bible.attest_all(&[1], &revealed);
    assert_eq!(world.reason(&candidate(10)), Reason::TooFewAttestations { agreeing: 1, required: 2 });
    assert_eq!(world.judge().chosen.model, *model);
    bible.attest_all(&[2], &revealed);

    let state = world.judge();
    let verdict = |author: u8| &state.candidates[&candidate(author)].verdict;
    // Which of two equal ones was first is a matter of the smaller claim.
    let (first, copy) = if revealed.claims[0] < revealed.claims[8] { (10, 18) } else { (18, 10) };
    for author in [first, 11, 17] {
        let Verdict::Accepted { losses, validators } = verdict(author) else {
            panic!("{author}: {:?}", verdict(author))
        };
        assert_eq!(*validators, [1, 2].map(public).into());
        assert_eq!(losses.len(), 2);
        // The oracle: the ratio in floats, far from the threshold.
        assert!(losses[0].candidate.value() < 0.985 * losses[0].base.value(), "{author}: {losses:?}");
        assert!(losses[1].candidate.value() < losses[1].base.value());
    }
    assert_eq!(*verdict(copy), Verdict::Refused(Reason::Copy { of: candidate(first) }));
    for author in [12, 13, 14, 15] {
        let Verdict::Refused(Reason::NotBetter { base, candidate, threshold_ppm: 10_000 }) = verdict(author)
        else {
            panic!("{author}: {:?}", verdict(author))
        };
        match author {
            12 => assert_eq!(base, candidate),
            13 => {
                assert!((0.99..1.02).contains(&(candidate.value() / base.value())), "{candidate:?} {base:?}")
            }
            _ => assert!(candidate.value() > 1.001 * base.value(), "{author}: {candidate:?} {base:?}"),
        }
    }
    assert!(matches!(verdict(16), Verdict::Refused(Reason::NotFinite { .. })), "{:?}", verdict(16));
    assert!(state.faults.is_empty());

    // Two of different slots go together, and are the best; of one slot, the better is taken.
    let chosen = &state.chosen;
    assert_eq!(chosen.steps.len(), 1);
    assert_eq!(chosen.steps[0].candidates, [candidate(first), candidate(11)].into());
    let expected = world.snapshot(model).with_block(&world.chain, &best[&left]).unwrap();
    let expected = expected.with_block(&world.chain, &proposals[1].1[&right]).unwrap();
    assert_eq!(chosen.root, expected.root());
    // Its weights are the ones that were trained, under new names.
    let (made, release) = publish_release(&world.chain, &state, "bible", Version::new(1, 0, 1)).unwrap();
    assert_eq!(made, chosen.model);
    assert_eq!(world.chain.get(&release).unwrap().header().kind, BlockKind::RELEASE);
    let payloads = |snapshot: &Snapshot| -> Vec<_> {
        snapshot.slots().iter().map(|(slot, pinned)| (*slot, pinned.payload)).collect()
    };
    assert_eq!(payloads(&world.snapshot(&made)), payloads(&bible.original));
    let measured = |snapshot: &Snapshot| {
        let options = EvaluateOptions { window: 32, ..options() };
        evaluate(&world.chain, snapshot, bible.split(0), &options).unwrap().loss_bits
    };
    assert_eq!(chosen.steps[0].losses[0].candidate.bits(), measured(&bible.original));
    assert_eq!(chosen.steps[0].losses[0].base.bits(), measured(&world.snapshot(model)));

    // A third validator comes later and finds the same; an audit finds nothing.
    bible.attest_all(&[3], &revealed);
    let later = world.judge();
    assert_eq!(later.chosen.model, made);
    assert_eq!(later.chosen.steps[0].validators.len(), 3);
    let report = audit(&world.chain, &world.policy, Some(&key(3)), &options()).unwrap();
    assert_eq!((report.checked, report.lies, report.other_numerics), (27, vec![], vec![]));

    // The next round improves what was made, and knows what was proposed before.
    let next = world.open(2, bible.split(1));
    assert_eq!(world.judge().rounds[&next].base, made);
    let thief = world.changed(&made, left, |_, _, weight| weight);
    let next = world.finish(2, next, bible.split(1), &[(20, thief)]);
    for seed in [1, 2] {
        let none = attest_all(&world.chain, &key(seed), &next.reveal, &options()).unwrap();
        assert!(none.is_empty(), "nobody evaluates a copy");
    }
    assert!(matches!(world.reason(&next.candidates[0]), Reason::Copy { .. }));
}

#[test]
fn what_was_trained_on_a_revealed_split_is_exposed_by_the_next() {
    // A short split, which chance can please.
    let bible = Bible::new(|policy| policy.threshold_ppm = 5_000);
    let world = &bible.world;
    let slot = expert(3, 2);
    let short = &bible.text[..40];
    let first = world.finish(
        OWNER,
        world.open(OWNER, short),
        short,
        &[(10, world.changed(&world.model, slot, |_, _, weight| weight))],
    );
    // "Trained" on what was revealed: of many changes the one that does best on it.
    let window = EvaluateOptions { window: 32, ..options() };
    let loss = |snapshot: &Snapshot, tokens: &[u32]| {
        evaluate(&world.chain, snapshot, tokens, &window).unwrap().loss()
    };
    let base = world.snapshot(&world.model);
    let tries = (0..60).map(|seed| {
        let mut noise = noise(seed);
        let blocks = world.changed(&world.model, slot, |_, _, weight| weight * (1.0 + 1.5 * noise()));
        let snapshot = base.with_block(&world.chain, &blocks[&slot]).unwrap();
        (loss(&snapshot, short), blocks)
    });
    let (best, blocks) = tries.min_by(|(a, _), (b, _)| a.total_cmp(b)).unwrap();
    assert!(best < 0.995 * loss(&base, short), "it would be accepted: {best} {}", loss(&base, short));

    // It cannot be judged by what it was trained on: its claim comes after the closing.
    let late = claim(&world.chain, &key(11), &first.round, &blocks).unwrap();
    let error = propose_candidate(&world.chain, &key(11), &late, &blocks).unwrap_err();
    assert!(matches!(error, EvolveError::Step(StepError::NotClosed { claim }) if claim == late), "{error:?}");
    let error = close_round(&world.chain, &key(OWNER), &first.round).unwrap_err();
    assert!(matches!(error, EvolveError::Step(StepError::AlreadyClosed { .. })), "{error:?}");
    // Nor by the same split again.
    let error = open_round(&world.chain, &key(2), &world.policy, short).unwrap_err();
    assert!(matches!(error, EvolveError::Step(StepError::SplitKnown { .. })), "{error:?}");

    let next = world.round(bible.split(1), &[(11, blocks)]);
    bible.attest_all(&[1, 2], &next);
    let reason = world.reason(&next.candidates[0]);
    assert!(matches!(reason, Reason::NotBetter { .. }), "{reason:?}");
}

#[test]
fn a_lie_is_found_and_its_author_convicted() {
    let bible = Bible::new(|_| ());
    let world = &bible.world;
    let slot = expert(0, 6);
    let worse = world.changed(&world.model, slot, damage);
    let better = bible.restored(DAMAGED[0], 0.0, 0);
    let revealed = world.round(bible.split(0), &[(10, worse), (11, better)]);
    let [worse, better] = revealed.candidates[..] else { panic!() };
    // Two validators are in league with the author of the bad one.
    let lies = world.attest(&[1, 2], &revealed.reveal, &[worse], &[(4.0, 3.0), (4.0, 3.0)]);
    assert!(world.verdict(&worse).is_accepted(), "enough of them lie");
    attest(&world.chain, &key(3), &revealed.reveal, &[better], &options()).unwrap();

    // Somebody who is no validator finds it, too; only validators convict.
    let report = audit(&world.chain, &world.policy, Some(&key(40)), &options()).unwrap();
    assert_eq!((report.checked, report.lies.len()), (3, 2));
    let truth = report.lies[0].recomputed.clone();
    assert!(truth[0].candidate.value() > truth[0].base.value());
    for lie in &report.lies {
        assert!(lies.contains(&lie.attestation) && [1, 2].map(public).contains(&lie.key));
        assert_eq!(lie.recomputed, truth);
        assert!(lie.accusation.is_some());
    }
    assert!(world.judge().faults.is_empty());
    audit(&world.chain, &world.policy, Some(&key(3)), &options()).unwrap();
    assert!(world.judge().faults.is_empty(), "one validator is not enough");
    // A liar who repents convicts the other, not himself.
    let report = audit(&world.chain, &world.policy, Some(&key(2)), &options()).unwrap();
    assert_eq!(report.lies.iter().filter(|lie| lie.accusation.is_some()).count(), 1);
    let faults = world.judge().faults;
    let [fault] = faults.iter().collect::<Vec<_>>()[..] else { panic!("{faults:?}") };
    assert_eq!((fault.key, fault.round), (public(1), revealed.round));
    assert!(matches!(fault.kind, FaultKind::Lie { attestation } if attestation == lies[0]));
    assert_eq!(world.reason(&worse), Reason::TooFewAttestations { agreeing: 1, required: 2 });
    assert_eq!(world.judge().chosen.model, world.model);
    // The word of the convicted counts no more in this round, not even where it is true.
    attest(&world.chain, &key(1), &revealed.reveal, &[better], &options()).unwrap();
    assert_eq!(world.reason(&better), Reason::TooFewAttestations { agreeing: 1, required: 2 });
    attest(&world.chain, &key(2), &revealed.reveal, &[better], &options()).unwrap();
    assert!(world.verdict(&better).is_accepted());
}

#[test]
fn careful_validators_attest_nothing_doubtful() {
    let bible = Bible::new(|_| ());
    let world = &bible.world;
    let [left, right] = DAMAGED;
    // Two rounds beside each other, on one base.
    let (one, two) = (world.open(1, bible.split(0)), world.open(2, bible.split(1)));
    let one = world.finish(1, one, bible.split(0), &[(10, bible.restored(left, 0.0, 0))]);
    let two = world.finish(2, two, bible.split(1), &[(11, bible.restored(right, 0.0, 0))]);
    let attested = |seed: u8, revealed: &Revealed| {
        attest(&world.chain, &key(seed), &revealed.reveal, &revealed.candidates, &options())
    };
    let error = attested(10, &one).unwrap_err();
    assert!(matches!(error.reason(), Some(InvalidEvidence::NotAValidator { key, .. }) if *key == public(10)));
    attested(1, &one).unwrap();
    attested(1, &two).unwrap();
    attested(3, &one).unwrap();
    // Now the first is accepted, and the second improves what is no longer chosen.
    let error = attested(3, &two).unwrap_err();
    assert!(matches!(error, EvolveError::Step(StepError::StaleBase { round, .. }) if round == two.round));
    let chosen = world.judge().chosen;
    assert_eq!(chosen.steps[0].candidates, [one.candidates[0]].into());
    publish(&world.chain, &world.judge()).unwrap();
    // Its author proposes it again, which is no copy of himself.
    let again = bible.restored(right, 0.0, 0);
    let three = world.round(bible.split(2), &[(11, again.clone()), (12, again)]);
    bible.attest_all(&[2, 3], &three);
    assert!(world.verdict(&three.candidates[0]).is_accepted(), "{:?}", world.verdict(&three.candidates[0]));
    assert_eq!(world.reason(&three.candidates[1]), Reason::Copy { of: two.candidates[0] });
    let chosen = world.judge().chosen;
    assert_eq!(chosen.steps.len(), 2);
    let payloads = |snapshot: &Snapshot| -> Vec<_> {
        snapshot.slots().iter().map(|(slot, pinned)| (*slot, pinned.payload)).collect()
    };
    publish(&world.chain, &world.judge()).unwrap();
    assert_eq!(payloads(&world.snapshot(&chosen.model)), payloads(&bible.original));

    // A cancelled measurement says nothing.
    let cancel = std::sync::atomic::AtomicBool::new(true);
    let four = world.round(bible.split(3), &[(13, bible.restored(left, 0.5, 9))]);
    let len = world.chain.len().unwrap();
    let cancelled = EvaluateOptions { cancel: Some(&cancel), ..options() };
    let error = attest_all(&world.chain, &key(1), &four.reveal, &cancelled).unwrap_err();
    assert!(error.to_string().contains("cancelled"), "{error}");
    assert_eq!(world.chain.len().unwrap(), len);
    let unknown = attest(&world.chain, &key(1), &four.reveal, &[one.candidates[0]], &options()).unwrap_err();
    assert!(
        matches!(unknown.reason(), Some(InvalidEvidence::Round(RoundError::NotJudged { .. }))),
        "{unknown:?}"
    );
}

#[test]
fn a_split_that_no_model_reads_judges_nothing() {
    let bible = Bible::new(|_| ());
    let world = &bible.world;
    let split = [1, 2, 3, u32::MAX, 5];
    let revealed = world.round(&split, &[(10, bible.restored(DAMAGED[0], 0.0, 0))]);
    bible.attest_all(&[1, 2], &revealed);
    let tokens = world.judge().rounds[&revealed.round].reveals[&revealed.reveal];
    assert_eq!(world.reason(&revealed.candidates[0]), Reason::NotFinite { data: tokens });
    let block: BlockHash = revealed.reveal;
    let error = reveal(&world.chain, &key(OWNER), &revealed.round, &split).unwrap_err();
    assert!(matches!(error, EvolveError::Step(StepError::AlreadyRevealed { reveal, .. }) if reveal == block));
    let attestation = world.attestation(&block, &revealed.candidates, &[(1.0, 0.5), (1.0, 0.5)]);
    let nan = LossBits::of(f64::NAN);
    assert_ne!(attestation.losses[0].candidate, nan);
    let signed = Statement::<Attestation>::sign(&key(3), attestation).unwrap();
    signed.append(&world.chain).unwrap();
    let report = audit(&world.chain, &world.policy, None, &options()).unwrap();
    assert_eq!(report.lies.len(), 1);
    assert_eq!((report.lies[0].recomputed[0].base, report.lies[0].recomputed[0].candidate), (nan, nan));
}
