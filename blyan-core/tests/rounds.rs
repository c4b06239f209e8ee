//! Rounds, their judgement and the fork choice, by losses that nobody measured: what follows from a set
//! of blocks, in whatever order they came, and which blocks are none.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use crate::checkpoints::{fixture, imported};
use crate::world::{OWNER, Revealed, World, drafts, expert, key, noise, parents, public};
use blyan_core::chain::CollectOptions;
use blyan_core::evolve::dataset::Tokens;
use blyan_core::evolve::{
    Accusation, Attestation, Candidate, CandidateBlocks, Claim, Closing, EvaluateError, EvaluateOptions,
    EvaluateProgress, Evidence, EvolveError, Fault, FaultKind, InvalidEvidence, Judgement, LossBits, Policy,
    Reason, Reveal, Round, RoundError, Statement, StepError, attest, attest_all, audit, close_round,
    evaluate, judge, publish, reveal, snapshot_of, split_commitment,
};
use blyan_core::manager::Snapshot;
use blyan_core::{
    BlockHash, BlockKind, Chain, ChainError, ChainId, Draft, ParentRole, PayloadHash, Salt, Slot,
};
use proptest::prelude::*;
use serde_json::Value as Json;

const SPLIT: [u32; 5] = [1, 2, 3, 4, 5];

fn split(number: u32) -> Vec<u32> {
    vec![number, 7, 8, 9]
}

fn world(change: impl FnOnce(&mut Policy)) -> World {
    let (chain, model) = imported(&fixture("mixtral"), None);
    World::new(chain, model, change)
}

/// A policy with a dataset on which no candidate may be worse.
fn world_with_dataset() -> World {
    let (chain, model) = imported(&fixture("mixtral"), None);
    let dataset = World::dataset(&chain, "general", &[9, 8, 7], 10);
    World::new(chain, model, |policy| policy.datasets.extend([dataset]))
}

/// Some other weights for a slot of a model.
fn other(world: &World, model: &BlockHash, slot: Slot, seed: u64) -> CandidateBlocks {
    let mut noise = noise(seed);
    world.changed(model, slot, |_, _, weight| weight + 0.01 * noise())
}

fn next_up(x: f64) -> f64 {
    f64::from_bits(x.to_bits() + 1)
}

#[test]
fn the_threshold_and_the_tolerance_are_exact() {
    let world = world_with_dataset();
    let slots = (0..4).map(|n| expert(0, n));
    let proposals: Vec<_> =
        slots.zip(10..).map(|(slot, author)| (author, other(&world, &world.model, slot, 1))).collect();
    let revealed = world.round(&SPLIT, &proposals);
    // 0.99 is a little less than 99/100 as an f64, 1.001 a little less than 1001/1000.
    let cases = [
        (0.99, 1.001, None),
        (next_up(0.99), 1.001, Some("NotBetter")),
        (0.99, next_up(1.001), Some("Worse")),
        (0.5, f64::INFINITY, Some("NotFinite")),
    ];
    for (candidate, (split, dataset, expected)) in revealed.candidates.iter().zip(cases) {
        world.attest(&[1, 2], &revealed.reveal, &[*candidate], &[(1.0, split), (1.0, dataset)]);
        match expected {
            None => assert!(world.verdict(candidate).is_accepted()),
            Some(reason) => {
                let found = format!("{:?}", world.reason(candidate));
                assert!(found.starts_with(reason), "{found}");
            }
        }
    }
    let policy = Policy::of(&world.chain, &world.policy).unwrap();
    let data = *policy.datasets.first().unwrap();
    let (base, candidate) = (LossBits::of(1.0), LossBits::of(next_up(1.001)));
    let worse = Reason::Worse { data, base, candidate, tolerance_ppm: 1_000 };
    assert_eq!(world.reason(&revealed.candidates[2]), worse);
}

#[test]
fn who_says_two_things_says_nothing() {
    let world = world(|_| ());
    let first = world.round(&split(0), &[(10, other(&world, &world.model, expert(0, 0), 1))]);
    world.attest(&[1, 2], &first.reveal, &first.candidates, &[(2.0, 1.0)]);
    let second_base = world.judge().chosen.model;
    publish(&world.chain, &world.judge()).unwrap();
    let second = world.round(&split(1), &[(10, other(&world, &second_base, expert(0, 1), 2))]);
    world.attest(&[1, 2], &second.reveal, &second.candidates, &[(1.0, 0.5)]);
    assert!(world.verdict(&second.candidates[0]).is_accepted());
    // The same again is one word; another body is not.
    world.attest(&[2], &second.reveal, &second.candidates, &[(1.0, 0.5)]);
    assert!(world.verdict(&second.candidates[0]).is_accepted());
    world.attest(&[2], &second.reveal, &second.candidates, &[(1.0, 0.6)]);
    let reason = world.reason(&second.candidates[0]);
    assert_eq!(reason, Reason::TooFewAttestations { agreeing: 1, required: 2 });
    let kind = FaultKind::TwoAttestations { reveal: second.reveal };
    assert_eq!(world.judge().faults, [Fault { key: public(2), round: second.round, kind }].into());
    // What was said in rounds before stands, what is said later does not.
    assert!(world.verdict(&first.candidates[0]).is_accepted());
    assert_eq!(world.judge().chosen.model, second_base);
    let third = world.round(&split(2), &[(10, other(&world, &second_base, expert(0, 2), 3))]);
    world.attest(&[1, 2], &third.reveal, &third.candidates, &[(1.0, 0.5)]);
    assert!(!world.verdict(&third.candidates[0]).is_accepted());
    world.attest(&[3], &third.reveal, &third.candidates, &[(1.0, 0.5)]);
    assert!(world.verdict(&third.candidates[0]).is_accepted());
}

#[test]
fn what_is_disputed_is_not_accepted() {
    let world = world(|policy| policy.required = 1);
    let revealed = world.round(&SPLIT, &[(10, other(&world, &world.model, expert(0, 0), 1))]);
    world.attest(&[1], &revealed.reveal, &revealed.candidates, &[(2.0, 1.0)]);
    assert!(world.verdict(&revealed.candidates[0]).is_accepted());
    world.attest(&[2], &revealed.reveal, &revealed.candidates, &[(2.0, 1.5)]);
    assert_eq!(world.reason(&revealed.candidates[0]), Reason::Disputed { outcomes: 2 });
}

#[test]
fn who_closes_or_reveals_twice_voids_the_round() {
    for twice in [FaultKind::TwoClosings, FaultKind::TwoReveals] {
        let world = world(|_| ());
        let blocks = other(&world, &world.model, expert(0, 0), 1);
        let beside = (11, other(&world, &world.model, expert(0, 1), 2));
        let revealed = world.round(&SPLIT, &[(10, blocks.clone()), beside]);
        world.attest(&[2, 3], &revealed.reveal, &revealed.candidates[..1], &[(2.0, 1.0)]);
        assert!(world.verdict(&revealed.candidates[0]).is_accepted());
        // What the library refuses, a stranger's does.
        if twice == FaultKind::TwoClosings {
            let late = world.claim(12, &revealed.round, &blocks);
            let claims = BTreeSet::from([revealed.claims[0], late]);
            let closing = Closing { policy: world.policy, round: revealed.round, claims };
            Statement::sign(&key(OWNER), closing).unwrap().append(&world.chain).unwrap();
        } else {
            let shown = Statement::<Reveal>::read(&world.chain, &revealed.reveal).unwrap();
            let reveal = Reveal { candidates: [revealed.candidates[0]].into(), ..shown.body().clone() };
            Statement::sign(&key(OWNER), reveal).unwrap().append(&world.chain).unwrap();
        }
        let reason = Reason::RoundVoid { owner: public(OWNER), fault: twice };
        assert_eq!(world.reason(&revealed.candidates[0]), reason);
        assert_eq!(world.judge().chosen.model, world.model);
        assert_eq!(world.judge().faults.first().map(|fault| fault.key), Some(public(OWNER)));
        // The next round begins where the void one did, and its owner's word counts no more.
        let next = world.finish(2, world.open(2, &split(1)), &split(1), &[(10, blocks)]);
        world.attest(&[1, 2], &next.reveal, &next.candidates, &[(2.0, 1.0)]);
        assert!(!world.verdict(&next.candidates[0]).is_accepted());
        world.attest(&[3], &next.reveal, &next.candidates, &[(2.0, 1.0)]);
        assert!(world.verdict(&next.candidates[0]).is_accepted());
    }
}

#[test]
fn together_counts_only_what_counts_alone() {
    let world = world(|_| ());
    let slots = [expert(0, 0), expert(0, 1), expert(1, 0)];
    let proposals: Vec<_> = (10..).zip(slots.map(|slot| other(&world, &world.model, slot, 1))).collect();
    let revealed = world.round(&SPLIT, &proposals);
    let [good, better, idle] = revealed.candidates[..] else { panic!() };
    let attest = |candidates: &[BlockHash], losses| {
        world.attest(&[1, 2], &revealed.reveal, candidates, &[losses]);
    };
    attest(&[good], (2.0, 1.9));
    attest(&[better], (2.0, 1.8));
    attest(&[idle], (2.0, 2.0));
    let chosen = world.judge().chosen;
    assert_eq!(chosen.steps[0].candidates, [better].into());
    // Who does nothing does not ride along, however good the others are.
    attest(&[good, idle], (2.0, 1.0));
    attest(&[good, better, idle], (2.0, 0.5));
    assert_eq!(world.judge().chosen, chosen);
    attest(&[good, better], (2.0, 1.7));
    let chosen = world.judge().chosen;
    assert_eq!(chosen.steps[0].candidates, [good, better].into());
    assert_eq!(chosen.steps.len(), 1);
    assert!((chosen.score.value() - 1.7 / 2.0).abs() < 1e-15);
    let snapshot = world.snapshot(&world.model);
    let snapshot = proposals[..2].iter().fold(snapshot, |snapshot, (_, blocks)| {
        snapshot.with_block(&world.chain, blocks.values().next().unwrap()).unwrap()
    });
    assert_eq!((chosen.root, chosen.model), (snapshot.root(), snapshot.model_block(&world.chain).unwrap()));
    // A release that is refused publishes nothing.
    let version = || semver::Version::new(1, 0, 0);
    blyan_core::manager::release(&world.chain, &world.model, "taken", version()).unwrap();
    for name in ["taken", "latest", "Not a name"] {
        blyan_core::evolve::publish_release(&world.chain, &world.judge(), name, version()).unwrap_err();
    }
    assert!(!world.chain.contains(&chosen.model).unwrap());
    assert_eq!(publish(&world.chain, &world.judge()).unwrap(), chosen.model);
    assert!(world.chain.contains(&chosen.model).unwrap());
    assert_eq!(world.judge().chosen, chosen, "publishing changes no judgement");
    let roots = Some(&[chosen.model][..]);
    let gone = world.chain.collect(&CollectOptions { roots, ..CollectOptions::default() }).unwrap().blocks;
    let replaced = [0, 1].map(|number| world.snapshot(&world.model).slots()[&slots[number]].block);
    assert!(replaced.iter().all(|block| gone.contains(block)));
    assert_eq!(world.judge().chosen, chosen, "nor does a collection");
}

#[test]
fn the_fork_choice_takes_the_better_loss_then_the_smaller_hash() {
    for (left_loss, right_loss) in [(1.0, 1.2), (1.2, 1.0), (1.0, 1.0)] {
        let world = world(|_| ());
        let (one, two) = (world.open(1, &split(1)), world.open(2, &split(2)));
        let left = world.finish(1, one, &split(1), &[(10, other(&world, &world.model, expert(0, 0), 1))]);
        let right = world.finish(2, two, &split(2), &[(11, other(&world, &world.model, expert(0, 1), 2))]);
        world.attest(&[1, 2], &left.reveal, &left.candidates, &[(2.0, left_loss)]);
        world.attest(&[1, 3], &right.reveal, &right.candidates, &[(2.0, right_loss)]);
        let state = world.judge();
        let made = [&left, &right].map(|revealed| state.rounds[&revealed.round].accepted[0].model);
        let expected = if left_loss == right_loss {
            made[0].min(made[1])
        } else {
            made[usize::from(right_loss < left_loss)]
        };
        assert_eq!(state.chosen.model, expected);
        // A longer path wins by what it makes of the loss in all.
        publish(&world.chain, &state).unwrap();
        let next = world.open(3, &split(3));
        assert_eq!(world.judge().rounds[&next].base, expected);
        let next = world.finish(3, next, &split(3), &[(12, other(&world, &expected, expert(1, 1), 3))]);
        world.attest(&[2, 3], &next.reveal, &next.candidates, &[(4.0, 3.9)]);
        let chosen = world.judge().chosen;
        assert_eq!(chosen.steps.len(), 2);
        let ratio = left_loss.min(right_loss) / 2.0 * 3.9 / 4.0;
        assert!((chosen.score.value() - ratio).abs() < 1e-15);
    }
}

#[test]
fn who_was_first_of_two_that_do_not_know_of_each_other_proposes_again() {
    let world = world(|_| ());
    let blocks = other(&world, &world.model, expert(0, 0), 1);
    let propose = |owner, round, number, authors: &[u8]| {
        let proposals: Vec<_> = authors.iter().map(|author| (*author, blocks.clone())).collect();
        world.finish(owner, round, &split(number), &proposals)
    };
    let (one, two) = (world.open(1, &split(1)), world.open(2, &split(2)));
    // What 10 has shown, 11 claims in a round that began before.
    propose(1, one, 1, &[10]);
    propose(2, two, 2, &[11]);
    let third = propose(3, world.open(3, &split(3)), 3, &[10, 11, 12]);
    for candidate in &third.candidates {
        world.attest(&[1, 2], &third.reveal, &[*candidate], &[(2.0, 1.0)]);
    }
    let accepted: Vec<bool> =
        third.candidates.iter().map(|candidate| world.verdict(candidate).is_accepted()).collect();
    assert_eq!(accepted, [true, true, false]);
    assert!(matches!(world.reason(&third.candidates[2]), Reason::Copy { .. }));
}

#[test]
fn of_equal_weights_in_a_round_the_smallest_claim_decides() {
    let world = world(|_| ());
    let blocks = other(&world, &world.model, expert(0, 0), 1);
    let wider = |seed| {
        let more = other(&world, &world.model, expert(0, 1), seed);
        blocks.clone().into_iter().chain(more).collect::<CandidateBlocks>()
    };
    let proposals = [(10, blocks.clone()), (10, wider(2)), (11, blocks.clone()), (11, wider(3))];
    let revealed = world.round(&SPLIT, &proposals);
    let all: Vec<_> = proposals.iter().map(|(author, _)| *author).zip(&revealed.claims).collect();
    for ((author, _), candidate) in all.iter().zip(&revealed.candidates) {
        let first = all.iter().filter(|(other, _)| other == author).map(|(_, claim)| claim).min();
        let before = all.iter().zip(&revealed.candidates);
        let before = before.filter(|((other, claim), _)| other != author && Some(claim) < first);
        let expected = match before.map(|(_, candidate)| *candidate).min() {
            Some(of) => Reason::Copy { of },
            None => Reason::TooFewAttestations { agreeing: 0, required: 2 },
        };
        assert_eq!(world.reason(candidate), expected);
    }
}

#[test]
fn the_base_of_a_round_follows_from_what_it_names() {
    let world = world(|_| ());
    let blocks = [expert(0, 0), expert(0, 1)].map(|slot| other(&world, &world.model, slot, 1));
    let first = world.round(&split(0), &[(10, blocks[0].clone()), (11, blocks[1].clone())]);
    let named = world.attest(&[1, 2], &first.reveal, &first.candidates[..1], &[(2.0, 1.5)]);
    let second = world.open(2, &split(1));
    let opened = Statement::<Round>::read(&world.chain, &second).unwrap().body().clone();
    assert_eq!(opened.attestations, named.into_iter().collect());
    assert_eq!(opened.previous, Some(first.reveal));
    let made = opened.base;
    assert_eq!(made, world.judge().chosen.model);
    // What is attested later does not take away the ground from under it.
    world.attest(&[1, 2], &first.reveal, &first.candidates[1..], &[(2.0, 1.0)]);
    assert!(world.verdict(&first.candidates[1]).is_accepted());
    assert_eq!(world.judge().rounds[&second].refused, None);

    // The owner of that round, who knows the split, opens others.
    let sign = |round: Round| Statement::sign(&key(2), round).unwrap().append(&world.chain).unwrap();
    let refused = |round| {
        let round = sign(round);
        world.judge().rounds[&round].refused.clone()
    };
    let stale = Round { base: world.model, ..opened.clone() };
    assert_eq!(refused(stale), Some(Reason::WrongBase { base: world.model, expected: made }));
    let none = Round { attestations: BTreeSet::new(), ..opened.clone() };
    assert_eq!(refused(none.clone()), Some(Reason::WrongBase { base: made, expected: world.model }));
    let one = Round { attestations: opened.attestations.iter().take(1).copied().collect(), ..opened.clone() };
    assert_eq!(refused(one), Some(Reason::WrongBase { base: made, expected: world.model }));
    // Leaving out what was attested is a line of its own: it begins lower.
    assert_eq!(refused(Round { base: world.model, ..none.clone() }), None);
    // A round on one that begins wrongly begins where that one should have.
    let wrong = sign(none);
    let proposal = [(12, other(&world, &made, expert(1, 0), 5))];
    let wrong = world.finish(2, wrong, &split(1), &proposal);
    let on_it = Round { previous: Some(wrong.reveal), attestations: BTreeSet::new(), ..opened.clone() };
    assert_eq!(refused(on_it.clone()), Some(Reason::WrongBase { base: made, expected: world.model }));
    assert_eq!(refused(Round { base: world.model, ..on_it }), None);
}

#[test]
fn a_split_that_was_shown_before_judges_nothing() {
    let world = world_with_dataset();
    let blocks = |seed| other(&world, &world.model, expert(0, 0), seed);
    let first = world.round(&split(0), &[(10, blocks(1))]);
    let tokens = Statement::<Reveal>::read(&world.chain, &first.reveal).unwrap().body().tokens;
    // The owner knows the salt, and opens a second round with the same commitment.
    let opened = Statement::<Round>::read(&world.chain, &first.round).unwrap().body().clone();
    let again = Round { previous: Some(first.reveal), ..opened.clone() };
    let again = Statement::sign(&key(OWNER), again).unwrap().append(&world.chain).unwrap();
    let again = world.finish(OWNER, again, &split(0), &[(11, blocks(2))]);
    world.attest(&[1, 2], &again.reveal, &again.candidates, &[(2.0, 1.0), (1.0, 1.0)]);
    assert_eq!(world.reason(&again.candidates[0]), Reason::SplitKnown { tokens });
    // What is shown again later keeps nobody from attesting the first.
    let options = EvaluateOptions { threads: Some(1), ..Default::default() };
    attest_all(&world.chain, &key(2), &first.reveal, &options).unwrap();
    // The same beside the first: a pure fold cannot tell which was first, a careful validator can.
    let beside = Round { seen: BTreeSet::from([first.closing]), ..opened };
    let beside = Statement::sign(&key(OWNER), beside).unwrap().append(&world.chain).unwrap();
    let beside = world.finish(OWNER, beside, &split(0), &[(12, blocks(3))]);
    let error = attest_all(&world.chain, &key(2), &beside.reveal, &options).unwrap_err();
    assert!(matches!(error, EvolveError::Step(StepError::SplitReused { .. })), "{error:?}");
    // The policy's own data is known to everyone.
    let error = blyan_core::evolve::open_round(&world.chain, &key(2), &world.policy, &[9, 8, 7]).unwrap_err();
    assert!(matches!(error, EvolveError::Step(StepError::SplitKnown { .. })), "{error:?}");
}

#[test]
fn a_split_with_windows_beyond_the_models_positions_is_not_shown_for_nothing() {
    let world = world(|policy| policy.window = 1000);
    let chain = &world.chain;
    let split: Vec<u32> = (0..300).map(|n| n % 9).collect();
    let len = chain.len().unwrap();
    let error = blyan_core::evolve::open_round(chain, &key(OWNER), &world.policy, &split).unwrap_err();
    let EvolveError::Evaluate(EvaluateError::WindowTooLong { window, capacity }) = error else {
        panic!("{error:?}")
    };
    assert_eq!((window, capacity), (1000, 256));
    assert_eq!(chain.len().unwrap(), len);

    // One that is opened all the same, as a stranger's library may, is judged: no loss is a number.
    let tokens = Tokens::new(split).unwrap().draft();
    let salt = Salt::from_bytes([7; 32]);
    let round = Round {
        policy: world.policy,
        previous: None,
        attestations: BTreeSet::new(),
        seen: BTreeSet::new(),
        base: world.model,
        split: split_commitment(&salt, &PayloadHash::of(&tokens.payload)),
        tokens: 300,
    };
    let round = Statement::sign(&key(OWNER), round).unwrap().append(chain).unwrap();
    let blocks = other(&world, &world.model, expert(0, 0), 1);
    let claim = world.claim(10, &round, &blocks);
    let closing = close_round(chain, &key(OWNER), &round).unwrap();
    let candidate = blyan_core::evolve::propose_candidate(chain, &key(10), &claim, &blocks).unwrap();
    let (policy, candidates, tokens) = (world.policy, [candidate].into(), chain.append(tokens).unwrap());
    let shown = Reveal { policy, round, closing, candidates, tokens, salt };
    let shown = Statement::sign(&key(OWNER), shown).unwrap().append(chain).unwrap();
    let options = EvaluateOptions { threads: Some(1), ..Default::default() };
    for seed in [2, 3] {
        attest_all(chain, &key(seed), &shown, &options).unwrap();
    }
    assert_eq!(world.reason(&candidate), Reason::NotFinite { data: tokens });
    let report = audit(chain, &world.policy, None, &options).unwrap();
    assert_eq!((report.checked, report.lies.len()), (2, 0));
}

#[test]
fn what_candidates_share_is_measured_once() {
    let (chain, model) = imported(&fixture("mixtral"), None);
    let dataset = World::dataset(&chain, "general", &[9, 8, 7], 10);
    // Nothing is good enough, so that nothing is measured together in one model.
    let world = World::new(chain, model, |policy| {
        policy.datasets.extend([dataset]);
        policy.threshold_ppm = 1_000_000;
    });
    let slots = [expert(2, 0), Slot::Router { layer: 1 }, Slot::FinalNorm];
    let blocks = slots.map(|slot| other(&world, &world.model, slot, 1));
    let proposals: Vec<_> = (10..).zip(blocks).collect();
    let revealed = world.round(&SPLIT, &proposals);

    let finished = std::sync::atomic::AtomicUsize::new(0);
    let count = |progress: EvaluateProgress| {
        let over = progress.tokens == progress.total_tokens;
        finished.fetch_add(usize::from(over), std::sync::atomic::Ordering::Relaxed);
    };
    let options = EvaluateOptions { threads: Some(1), progress: Some(&count), ..Default::default() };
    let evaluations = || finished.swap(0, std::sync::atomic::Ordering::Relaxed);
    let attested = attest_all(&world.chain, &key(2), &revealed.reveal, &options).unwrap();
    assert_eq!((attested.len(), evaluations()), (3, 2), "all models at once, on each data");
    for attestation in &attested {
        let body = Statement::<Attestation>::read(&world.chain, attestation).unwrap().body().clone();
        let changed =
            snapshot_of(&world.chain, &body.candidates.iter().copied().collect::<Vec<_>>()).unwrap();
        for (losses, tokens) in body.losses.iter().zip([&SPLIT[..], &[9, 8, 7]]) {
            for (model, loss) in [(&world.snapshot(&world.model), losses.base), (&changed, losses.candidate)]
            {
                let window = EvaluateOptions { window: 32, progress: None, ..options.clone() };
                let alone = evaluate(&world.chain, model, tokens, &window).unwrap();
                assert_eq!(loss.bits(), alone.loss_bits);
            }
        }
    }
    let candidate = &revealed.candidates[..1];
    attest(&world.chain, &key(3), &revealed.reveal, candidate, &options).unwrap();
    assert_eq!(evaluations(), 2, "the base and the candidate at once");
    let report = audit(&world.chain, &world.policy, None, &options).unwrap();
    assert_eq!((report.checked, report.lies.len(), evaluations()), (4, 0, 2));
}

#[test]
fn an_audit_passes_over_what_was_collected() {
    let world = world(|_| ());
    let first = world.round(&split(0), &[(10, other(&world, &world.model, expert(0, 0), 1))]);
    let old = world.attest(&[1, 2], &first.reveal, &first.candidates, &[(2.0, 1.0)]);
    let base = publish(&world.chain, &world.judge()).unwrap();
    world.chain.collect(&CollectOptions::default()).unwrap();
    let second = world.round(&split(1), &[(11, other(&world, &base, expert(0, 1), 2))]);
    let lie = world.attest(&[1], &second.reveal, &second.candidates, &[(2.0, 1.0)])[0];
    let options = EvaluateOptions { threads: Some(1), ..Default::default() };
    let report = audit(&world.chain, &world.policy, Some(&key(2)), &options).unwrap();
    assert_eq!(report.checked, 1);
    assert_eq!(BTreeSet::from_iter(report.collected), BTreeSet::from_iter(old));
    assert_eq!(report.lies.iter().map(|lie| lie.attestation).collect::<Vec<_>>(), [lie]);
    assert!(report.lies[0].accusation.is_some());
}

#[test]
fn a_key_attests_candidates_once() {
    let world = world(|_| ());
    let blocks = [expert(0, 0), expert(0, 1)].map(|slot| other(&world, &world.model, slot, 1));
    let revealed = world.round(&SPLIT, &(10..).zip(blocks).collect::<Vec<_>>());
    let options = EvaluateOptions { threads: Some(1), ..Default::default() };
    let all = |seed| attest_all(&world.chain, &key(seed), &revealed.reveal, &options);
    let one = |seed, at: usize| {
        attest(&world.chain, &key(seed), &revealed.reveal, &revealed.candidates[at..=at], &options)
    };
    let attested = all(2).unwrap();
    let len = || world.chain.len().unwrap();
    let before = len();
    assert_eq!(all(2).unwrap(), attested);
    assert!(attested.contains(&one(2, 0).unwrap()));
    assert_eq!(len(), before, "the same word is one block");

    // What another version of the arithmetic gave is another word.
    let said = Statement::<Attestation>::read(&world.chain, &attested[1]).unwrap().body().clone();
    let said = Attestation { numerics_version: said.numerics_version + 1, ..said };
    let said = Statement::sign(&key(3), said).unwrap().append(&world.chain).unwrap();
    let at = revealed.candidates.iter().position(|candidate| {
        let said = Statement::<Attestation>::read(&world.chain, &said).unwrap();
        said.body().candidates.contains(candidate)
    });
    let at = at.unwrap();
    for error in [all(3).unwrap_err(), one(3, at).unwrap_err()] {
        let expected = StepError::AlreadyAttested { reveal: revealed.reveal, attestation: said };
        assert!(matches!(&error, EvolveError::Step(step) if *step == expected), "{error:?}");
    }
    assert_eq!(len(), before + 1);
    one(3, 1 - at).unwrap();
    assert!(world.judge().faults.is_empty());
}

#[test]
fn steps_out_of_order_are_refused_by_name() {
    let world = world(|_| ());
    let round = world.open(OWNER, &SPLIT);
    let step = |error: EvolveError| match error {
        EvolveError::Step(error) => error,
        error => panic!("{error:?}"),
    };
    let closed = || close_round(&world.chain, &key(OWNER), &round);
    let shown = |split: &[u32]| reveal(&world.chain, &key(OWNER), &round, split);
    assert_eq!(step(closed().unwrap_err()), StepError::NoClaims { round });
    assert_eq!(step(shown(&SPLIT).unwrap_err()), StepError::NoClosing { round });
    let blocks = other(&world, &world.model, expert(0, 0), 1);
    let claim = world.claim(10, &round, &blocks);
    let propose = |blocks| blyan_core::evolve::propose_candidate(&world.chain, &key(10), &claim, blocks);
    assert_eq!(step(propose(&blocks).unwrap_err()), StepError::NotClosed { claim });
    let closing = closed().unwrap();
    assert_eq!(step(closed().unwrap_err()), StepError::AlreadyClosed { round, closing });
    assert_eq!(step(shown(&SPLIT).unwrap_err()), StepError::NoCandidates { round });
    let swapped = other(&world, &world.model, expert(0, 0), 2);
    let error = propose(&swapped).unwrap_err();
    assert!(
        matches!(error.reason(), Some(InvalidEvidence::Round(RoundError::Commitment { .. }))),
        "{error:?}"
    );
    let candidate = propose(&blocks).unwrap();
    assert_eq!(propose(&blocks).unwrap(), candidate, "the same again is the same block");
    let len = world.chain.len().unwrap();
    for other in [&[1, 2, 3, 4][..], &[1, 2, 3, 4, 6], &[1, 2, 3, 4, 5, 6]] {
        let error = shown(other).unwrap_err();
        assert!(matches!(error.reason(), Some(InvalidEvidence::Round(RoundError::Commitment { .. }))));
    }
    assert_eq!(world.chain.len().unwrap(), len, "not even the tokens are left behind");
    assert_eq!(world.reason(&candidate), Reason::NotRevealed);
    let reveal = shown(&SPLIT).unwrap();
    assert_eq!(step(shown(&SPLIT).unwrap_err()), StepError::AlreadyRevealed { round, reveal });
}

#[test]
fn what_is_appended_while_a_round_is_closed_or_revealed_is_listed() {
    let world = world(|_| ());
    let chain = &world.chain;
    // What is under way when the step begins, by the time that it has looked.
    let meanwhile = |draft: Draft, step: &(dyn Fn() -> BlockHash + Sync)| {
        let mut writer = chain.writer().unwrap();
        let appended = writer.append(draft).unwrap().hash;
        std::thread::scope(|scope| {
            let done = scope.spawn(step);
            std::thread::sleep(std::time::Duration::from_millis(50));
            writer.commit().unwrap();
            (appended, done.join().unwrap())
        })
    };
    let round = world.open(OWNER, &SPLIT);
    let blocks = [expert(0, 0), expert(0, 1)].map(|slot| other(&world, &world.model, slot, 1));
    let claims = blocks.clone().map(|blocks| world.claim(10, &round, &blocks));
    let claim = Statement::<Claim>::read(chain, &claims[0]).unwrap().body().clone();
    let claim = Statement::sign(&key(11), claim).unwrap().draft();
    let (claim, closing) = meanwhile(claim, &|| close_round(chain, &key(OWNER), &round).unwrap());
    let closing = Statement::<Closing>::read(chain, &closing).unwrap();
    assert!(closing.body().claims.contains(&claim));

    let propose = |chain: &Chain, at: usize| {
        blyan_core::evolve::propose_candidate(chain, &key(10), &claims[at], &blocks[at]).unwrap()
    };
    propose(chain, 0);
    let twin = Chain::in_memory().unwrap();
    for draft in drafts(chain) {
        twin.append(draft).unwrap();
    }
    let candidate = propose(&twin, 1);
    let candidate = Statement::<Candidate>::read(&twin, &candidate).unwrap().draft();
    let (candidate, shown) = meanwhile(candidate, &|| reveal(chain, &key(OWNER), &round, &SPLIT).unwrap());
    let shown = Statement::<Reveal>::read(chain, &shown).unwrap();
    assert!(shown.body().candidates.contains(&candidate));
}

/// A chain on which much has happened, honest and not.
fn eventful() -> World {
    let world = world_with_dataset();
    let attest = |keys: &[u8], revealed: &Revealed, candidates: &[usize], split: (f64, f64)| {
        let candidates: Vec<BlockHash> = candidates.iter().map(|index| revealed.candidates[*index]).collect();
        world.attest(keys, &revealed.reveal, &candidates, &[split, (3.0, 3.0)])
    };
    let slots = [expert(0, 0), expert(0, 1), expert(1, 0)];
    let proposals: Vec<_> = (10..).zip(slots.map(|slot| other(&world, &world.model, slot, 1))).collect();
    let first = world.round(&split(0), &proposals);
    attest(&[1, 2, 3], &first, &[0], (2.0, 1.9));
    attest(&[1, 3], &first, &[1], (2.0, 1.8));
    attest(&[1, 2], &first, &[2], (2.0, 2.0));
    attest(&[1, 2], &first, &[0, 1], (2.0, 1.7));
    attest(&[2, 3], &first, &[1], (2.0, 1.8));
    let base = publish(&world.chain, &world.judge()).unwrap();
    // Two rounds beside each other.
    let (two, three) = (world.open(2, &split(1)), world.open(3, &split(2)));
    let copy = world.changed(&base, slots[2], {
        let mut noise = noise(1);
        move |_, _, weight| weight + 0.01 * noise()
    });
    let two = world.finish(2, two, &split(1), &[(13, other(&world, &base, expert(1, 1), 2)), (14, copy)]);
    let three = world.finish(3, three, &split(2), &[(15, other(&world, &base, expert(1, 1), 3))]);
    attest(&[1, 2], &two, &[0], (1.7, 1.6));
    attest(&[1, 2], &two, &[1], (1.7, 1.5));
    attest(&[1, 2], &three, &[0], (1.7, 1.5));
    // A validator who says two things, and one who lies.
    attest(&[3], &two, &[0], (1.7, 1.6));
    attest(&[3], &two, &[0], (1.7, 1.0));
    let lie = attest(&[3], &three, &[0], (1.7, 1.1));
    let truth = world.attestation(&three.reveal, &three.candidates, &[(1.7, 1.5), (3.0, 3.0)]).losses;
    for accuser in [1, 2] {
        let accusation = Accusation {
            policy: world.policy,
            attestation: lie[0],
            accused: public(3),
            losses: truth.clone(),
        };
        Statement::sign(&key(accuser), accusation).unwrap().append(&world.chain).unwrap();
    }
    // One who closes twice.
    let base = publish(&world.chain, &world.judge()).unwrap();
    let four = world.open(1, &split(3));
    let four = world.finish(1, four, &split(3), &[(16, other(&world, &base, expert(0, 2), 4))]);
    attest(&[1, 2], &four, &[0], (1.5, 1.0));
    let late = world.claim(17, &four.round, &other(&world, &base, expert(0, 3), 5));
    let closing = Closing { policy: world.policy, round: four.round, claims: [late].into() };
    Statement::sign(&key(1), closing).unwrap().append(&world.chain).unwrap();
    world
}

#[test]
fn an_eventful_history_has_the_outcome_that_was_planned() {
    let world = eventful();
    let state = world.judge();
    let kinds: Vec<_> = state.faults.iter().map(|fault| (fault.key, fault.kind)).collect();
    assert_eq!(kinds.len(), 3);
    assert!(kinds.iter().any(|(key, kind)| *key == public(3) && matches!(kind, FaultKind::Lie { .. })));
    assert!(kinds.contains(&(public(1), FaultKind::TwoClosings)));
    let verdicts: BTreeMap<_, _> = state.candidates.values().map(|c| (c.author, c.verdict.clone())).collect();
    let accepted = |seed| verdicts[&public(seed)].is_accepted();
    assert_eq!([10, 11, 12, 13, 14, 15, 16].map(accepted), [true, true, false, true, false, true, false]);
    assert!(format!("{:?}", verdicts[&public(12)]).contains("NotBetter"));
    assert!(format!("{:?}", verdicts[&public(14)]).contains("Copy"));
    assert!(format!("{:?}", verdicts[&public(16)]).contains("RoundVoid"));
    let steps: Vec<Vec<_>> = (state.chosen.steps.iter())
        .map(|step| step.candidates.iter().map(|block| state.candidates[block].author).collect())
        .collect();
    let mut first = [public(10), public(11)];
    first.sort();
    let mut found = steps[0].clone();
    found.sort();
    assert_eq!((found, steps[1..].to_vec()), (first.to_vec(), vec![vec![public(15)]]));
    // By hand, from the losses above.
    assert!((state.chosen.score.value() - 1.7 / 2.0 * 1.5 / 1.7).abs() < 1e-15);
}

/// Appends drafts in a random order in which parents come first.
fn append_shuffled(chain: &Chain, drafts: &[Draft], mut below: impl FnMut(usize) -> usize) {
    let mut open: Vec<&Draft> = drafts.iter().collect();
    while !open.is_empty() {
        let draft = open.swap_remove(below(open.len()));
        if parents(draft).iter().all(|parent| chain.contains(parent).unwrap()) {
            chain.append(draft.clone()).unwrap();
        } else {
            open.push(draft);
        }
    }
}

/// Some of the drafts, with all that they depend on.
fn closed_subset(drafts: &[Draft], mut takes: impl FnMut() -> bool) -> Vec<Draft> {
    // Parents stand before children.
    let mut wanted = BTreeSet::new();
    for draft in drafts.iter().rev() {
        let hash = draft.hash().unwrap();
        if wanted.contains(&hash) || takes() {
            wanted.insert(hash);
            wanted.extend(parents(draft));
        }
    }
    drafts.iter().filter(|draft| wanted.contains(&draft.hash().unwrap())).cloned().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    #[test]
    fn chains_that_exchange_blocks_in_any_order_come_to_one_model(seed in any::<u64>()) {
        static WORLD: std::sync::OnceLock<(Vec<Draft>, BlockHash, Judgement)> = std::sync::OnceLock::new();
        let (all, policy, expected) = WORLD.get_or_init(|| {
            let world = eventful();
            (drafts(&world.chain), world.policy, world.judge())
        });
        let mut state = seed | 1;
        let mut below = move |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % n
        };
        // Everyone begins with a part, and hears of the rest from the others.
        let chains = [(); 3].map(|()| Chain::in_memory().unwrap());
        for chain in &chains {
            let part = closed_subset(all, || below(20) == 0);
            append_shuffled(chain, &part, &mut below);
            // The same part in another order is the same judgement.
            let twin = Chain::in_memory().unwrap();
            append_shuffled(&twin, &part, &mut below);
            if chain.contains(policy).unwrap() {
                prop_assert_eq!(judge(chain, policy).unwrap(), judge(&twin, policy).unwrap());
            }
            prop_assert_eq!(chain.root().unwrap(), twin.root().unwrap());
        }
        append_shuffled(&chains[0], all, &mut below);
        for (from, to) in [(0, 2), (2, 1)] {
            append_shuffled(&chains[to], &drafts(&chains[from]), &mut below);
        }
        for chain in &chains {
            let found = judge(chain, policy).unwrap();
            prop_assert_eq!(&found, expected);
            let model = publish(chain, &found).unwrap();
            let snapshot = Snapshot::of_model(chain, &model).unwrap();
            prop_assert_eq!(snapshot.root(), expected.chosen.root);
        }
    }
}

/// JSON pointers of all leaves.
fn leaves(json: &Json, path: &str, out: &mut Vec<String>) {
    match json {
        Json::Object(fields) => {
            fields.iter().for_each(|(name, value)| leaves(value, &format!("{path}/{name}"), out));
        }
        Json::Array(items) => {
            items.iter().enumerate().for_each(|(at, value)| leaves(value, &format!("{path}/{at}"), out));
        }
        _ => out.push(path.to_owned()),
    }
}

fn edits(value: &Json) -> Vec<Json> {
    match value {
        Json::Number(number) => {
            let number = number.as_u64().unwrap();
            vec![Json::from(number + 1), Json::from(0), Json::from(u64::MAX), Json::from(-1), Json::from(0.5)]
        }
        Json::String(text) => {
            let mut flipped = text.clone().into_bytes();
            *flipped.last_mut().unwrap() ^= 1;
            let flipped = String::from_utf8(flipped).unwrap();
            vec![Json::from(flipped), Json::from(""), Json::from("f".repeat(64)), Json::Null]
        }
        Json::Null => vec![Json::from("0".repeat(64)), Json::from(0)],
        other => panic!("{other} is no leaf"),
    }
}

#[test]
fn every_edited_leaf_of_every_statement_is_refused() {
    let world = eventful();
    let len = world.chain.len().unwrap();
    let mut kinds = BTreeSet::new();
    for draft in drafts(&world.chain) {
        let statement =
            [BlockKind::CLAIM, BlockKind::CANDIDATE, BlockKind::ATTESTATION, BlockKind::ACCUSATION];
        let statement = statement.contains(&draft.kind)
            || [BlockKind::ROUND, BlockKind::CLOSING, BlockKind::REVEAL].contains(&draft.kind);
        if !statement || !kinds.insert(draft.kind) {
            continue;
        }
        let json: Json = serde_json::from_slice(&draft.payload).unwrap();
        assert_eq!(json.to_string().into_bytes(), draft.payload, "canonical");
        let mut paths = Vec::new();
        leaves(&json, "", &mut paths);
        assert!(paths.len() >= 6);
        let refused = |draft: Draft, what: &str| {
            let error = world.chain.append(draft).unwrap_err();
            assert!(matches!(error, ChainError::Refused { .. }), "{what}: {error:?}");
            assert_eq!(world.chain.len().unwrap(), len);
        };
        for path in paths {
            for edit in edits(json.pointer(&path).unwrap()) {
                let mut edited = json.clone();
                *edited.pointer_mut(&path).unwrap() = edit.clone();
                if edited != json {
                    let payload = edited.to_string().into_bytes();
                    refused(Draft { payload, ..draft.clone() }, &format!("{} {path} {edit}", draft.kind));
                }
            }
        }
        // Nor does anything around the payload have a second spelling.
        let changed = |change: &dyn Fn(&mut Draft)| {
            let mut draft = draft.clone();
            change(&mut draft);
            draft
        };
        let extra = world.snapshot(&world.model).slots()[&expert(0, 0)].block;
        refused(changed(&|draft| draft.name.push('x')), "name");
        refused(changed(&|draft| draft.version.patch += 1), "version");
        refused(changed(&|draft| draft.lane = ChainId::Parameter), "lane");
        refused(changed(&|draft| draft.media_type = "text/plain".into()), "media type");
        refused(changed(&|draft| draft.parents.truncate(draft.parents.len() - 1)), "a parent less");
        refused(changed(&|draft| draft.parents[0].role = ParentRole::Evidence), "another role");
        refused(draft.clone().with_parent(extra, ParentRole::Dependency), "a parent more");
        refused(changed(&|draft| draft.payload.truncate(draft.payload.len() / 2)), "cut");
        refused(changed(&|draft| draft.payload.push(b' ')), "longer");
    }
    assert_eq!(kinds.len(), 7);
}

#[test]
fn statements_that_do_not_fit_what_they_name_are_refused_by_name() {
    let world = world_with_dataset();
    let slots = [expert(0, 0), expert(0, 1), expert(0, 0)];
    let proposals: Vec<_> = (10..)
        .zip(slots)
        .zip(1..)
        .map(|((author, slot), seed)| (author, other(&world, &world.model, slot, seed)))
        .collect();
    let revealed = world.round(&SPLIT, &proposals);
    let second = world.open(2, &split(1));
    let elsewhere = world.claim(10, &second, &proposals[0].1);
    let chain = &world.chain;
    let reading = "the chain holds it";
    let round = Statement::<Round>::read(chain, &revealed.round).expect(reading).body().clone();
    let closing = Statement::<Closing>::read(chain, &revealed.closing).expect(reading).body().clone();
    let candidate =
        Statement::<Candidate>::read(chain, &revealed.candidates[0]).expect(reading).body().clone();
    let shown = Statement::<Reveal>::read(chain, &revealed.reveal).expect(reading).body().clone();
    let losses = [(2.0, 1.0), (3.0, 3.0)];
    let attested = world.attestation(&revealed.reveal, &revealed.candidates[..1], &losses);
    let block = world.attest(&[1], &revealed.reveal, &revealed.candidates[..1], &losses)[0];
    let policy = Policy { threshold_ppm: 5, ..Policy::of(chain, &world.policy).unwrap() };
    let other_policy = policy.append(chain).unwrap();
    let len = chain.len().unwrap();

    macro_rules! refused {
        ($seed:expr, $body:expr, $reason:pat) => {
            let error = match Statement::sign(&key($seed), $body) {
                Ok(statement) => statement.append(chain).unwrap_err(),
                Err(reason) => EvolveError::Invalid(reason),
            };
            assert!(matches!(error.reason(), Some($reason)), "{error:?}");
            assert_eq!(chain.len().unwrap(), len);
        };
    }
    use InvalidEvidence::{NotAValidator, ParentKind, Round as R};
    refused!(10, round.clone(), NotAValidator { .. });
    refused!(1, Round { tokens: 1, ..round.clone() }, R(RoundError::SplitSize { tokens: 1, .. }));
    refused!(1, Round { tokens: u64::MAX, ..round.clone() }, R(RoundError::SplitSize { .. }));
    refused!(1, Round { attestations: [block].into(), ..round.clone() }, R(RoundError::NothingAttested));
    refused!(1, Round { base: revealed.round, ..round.clone() }, ParentKind { .. });
    refused!(
        1,
        Round { policy: other_policy, previous: Some(revealed.reveal), ..round.clone() },
        R(RoundError::OtherPolicy { .. })
    );
    refused!(1, Round { previous: Some(revealed.closing), ..round.clone() }, ParentKind { .. });
    refused!(1, Round { seen: [revealed.round].into(), ..round.clone() }, ParentKind { .. });

    let claim = Claim { policy: world.policy, round: second, candidate: round.split };
    refused!(2, claim.clone(), R(RoundError::OwnRound { .. }));
    refused!(10, Claim { policy: other_policy, ..claim.clone() }, R(RoundError::OtherPolicy { .. }));
    refused!(10, Claim { round: revealed.closing, ..claim }, ParentKind { .. });

    refused!(2, closing.clone(), R(RoundError::NotTheOwner { .. }));
    refused!(1, Closing { claims: BTreeSet::new(), ..closing.clone() }, R(RoundError::Nothing { .. }));
    refused!(1, Closing { claims: [elsewhere].into(), ..closing.clone() }, R(RoundError::Unrelated { .. }));
    refused!(1, Closing { claims: [revealed.round].into(), ..closing }, ParentKind { .. });

    let salted = Candidate { salt: Salt::from_bytes([1; 32]), ..candidate.clone() };
    refused!(10, salted, R(RoundError::Commitment { .. }));
    refused!(11, candidate.clone(), R(RoundError::OtherAuthor { .. }));
    refused!(10, Candidate { claim: elsewhere, ..candidate.clone() }, R(RoundError::NotListed { .. }));
    refused!(10, Candidate { round: second, ..candidate.clone() }, R(RoundError::Unrelated { .. }));
    refused!(10, Candidate { slots: BTreeMap::new(), ..candidate.clone() }, R(RoundError::Nothing { .. }));
    let slot =
        |name: &str, block| Candidate { slots: [(name.to_owned(), block)].into(), ..candidate.clone() };
    let any = revealed.round;
    refused!(10, slot("layer0.expert00", any), R(RoundError::Slot(_)));
    refused!(10, slot("tokenizer", any), R(RoundError::NotWeights { .. }));

    refused!(2, shown.clone(), R(RoundError::NotTheOwner { .. }));
    refused!(1, Reveal { candidates: BTreeSet::new(), ..shown.clone() }, R(RoundError::Nothing { .. }));
    refused!(
        1,
        Reveal { salt: Salt::from_bytes([1; 32]), ..shown.clone() },
        R(RoundError::Commitment { .. })
    );
    refused!(1, Reveal { round: second, ..shown.clone() }, R(RoundError::NotTheOwner { .. }));
    refused!(2, Reveal { round: second, ..shown.clone() }, R(RoundError::Unrelated { .. }));
    refused!(1, Reveal { tokens: revealed.round, ..shown.clone() }, ParentKind { .. });

    refused!(10, attested.clone(), NotAValidator { .. });
    let root = world.snapshot(&world.model).root();
    refused!(1, Attestation { model_root: root, ..attested.clone() }, R(RoundError::ModelRoot { .. }));
    refused!(1, Attestation { numerics_version: 0, ..attested.clone() }, R(RoundError::NumericsVersion));
    refused!(
        1,
        Attestation { candidates: BTreeSet::new(), ..attested.clone() },
        R(RoundError::Nothing { .. })
    );
    let one_slot = [revealed.candidates[0], revealed.candidates[2]].into();
    refused!(1, Attestation { candidates: one_slot, ..attested.clone() }, R(RoundError::SameSlot { .. }));
    let stranger = [revealed.round].into();
    refused!(1, Attestation { candidates: stranger, ..attested.clone() }, R(RoundError::NotJudged { .. }));
    refused!(1, Attestation { losses: Vec::new(), ..attested.clone() }, R(RoundError::OtherData { .. }));
    let turned = attested.losses.iter().rev().copied().collect();
    refused!(1, Attestation { losses: turned, ..attested.clone() }, R(RoundError::OtherData { .. }));

    let mut found = attested.losses.clone();
    let accusation =
        Accusation { policy: world.policy, attestation: block, accused: public(1), losses: found.clone() };
    refused!(2, accusation.clone(), R(RoundError::NoDifference));
    found[0].candidate = LossBits::of(f64::NAN);
    let accusation = Accusation { losses: found.clone(), ..accusation };
    refused!(1, accusation.clone(), R(RoundError::OwnAttestation { .. }));
    refused!(2, Accusation { accused: public(3), ..accusation.clone() }, R(RoundError::OtherAuthor { .. }));
    found.pop();
    refused!(2, Accusation { losses: found, ..accusation.clone() }, R(RoundError::OtherData { .. }));
    Statement::sign(&key(2), accusation).unwrap().append(chain).unwrap();
}

#[test]
fn blocks_that_fit_no_slot_of_the_base_are_no_candidate() {
    let world = world(|_| ());
    let base = world.snapshot(&world.model);
    let other_slot = other(&world, &world.model, expert(0, 1), 1)[&expert(0, 1)];
    let deep = Slot::Expert { layer: 9, expert: 0 };
    let unchanged = base.slots()[&expert(0, 0)].block;
    let cases = [
        (expert(0, 0), unchanged, "Unchanged"),
        (expert(0, 0), other_slot, "WrongBlock"),
        (deep, other_slot, "UnknownSlot"),
    ];
    let round = world.open(OWNER, &SPLIT);
    let blocks = cases.map(|(slot, block, _)| CandidateBlocks::from([(slot, block)]));
    let claims = blocks.clone().map(|blocks| world.claim(10, &round, &blocks));
    close_round(&world.chain, &key(OWNER), &round).unwrap();
    for ((claim, blocks), (.., expected)) in claims.iter().zip(&blocks).zip(cases) {
        let error = blyan_core::evolve::propose_candidate(&world.chain, &key(10), claim, blocks).unwrap_err();
        let Some(InvalidEvidence::Round(reason)) = error.reason() else { panic!("{error:?}") };
        assert!(format!("{reason:?}").starts_with(expected), "{reason:?}");
    }
}
