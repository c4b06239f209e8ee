//! Two contributors improve different layers of one model in parallel, a third one does harm: what is released
//! is what measuring says. The example `evolve` tells the same with a real model.

#![allow(clippy::unwrap_used, reason = "a test ends where its premises fail")]

use std::collections::BTreeSet;
use std::path::Path;

use blyan_core::evolve::{
    CandidateBlocks, EvaluateOptions, Evidence, Policy, PublicKey, Reason, Verdict, attest_all, claim,
    close_round, evaluate, judge, open_round, propose_candidate, publish_release, reveal,
};
use blyan_core::import::{self, ImportOptions};
use blyan_core::manager::Snapshot;
use blyan_core::{BlockHash, Chain, Slot};
use blyan_learn::{Form, Schedule, TrainOptions, Trainer};
use ed25519_dalek::SigningKey;
use semver::Version;

const WINDOW: u32 = 24;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

/// A text with something to learn: each token follows from the last.
fn text(mut token: u32, len: usize) -> Vec<u32> {
    let mut next = || {
        token = (token * 5 + 3) % 64;
        token
    };
    (0..len).map(|_| next()).collect()
}

fn trainer(chain: &Chain, base: &Snapshot, layer: u32, form: Form) -> Trainer {
    let experts = base
        .slots()
        .keys()
        .copied()
        .filter(|slot| matches!(slot, Slot::Expert { layer: of, .. } if *of == layer));
    let options = TrainOptions {
        slots: experts.collect(),
        form,
        steps: 20,
        batch: 4,
        sequence: WINDOW as usize,
        schedule: Schedule { peak: 1e-2, floor: 0.1, warmup_steps: 2 },
        seed: u64::from(layer),
        threads: Some(1),
        ..TrainOptions::default()
    };
    Trainer::new(chain, base, text(1, 300), options).unwrap()
}

fn blocks(trainer: &Trainer, chain: &Chain) -> CandidateBlocks {
    let candidates = trainer.append_candidates(chain).unwrap();
    candidates.iter().map(|candidate| (candidate.slot, candidate.block)).collect()
}

#[test]
fn what_two_contributors_learnt_is_released_and_harm_is_not() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../blyan-core/tests/fixtures/mixtral");
    let chain = Chain::in_memory().unwrap();
    let model = import::checkpoint(&chain, folder, &ImportOptions::default()).unwrap().model;
    let base = Snapshot::of_model(&chain, &model).unwrap();
    let validators = [1, 2, 3].map(|seed| PublicKey::of(&key(seed)));
    let rules = Policy { required: 2, window: WINDOW, ..Policy::new(model, validators) };
    let policy = rules.append(&chain).unwrap();
    let split = text(7, 120);
    let round = open_round(&chain, &key(1), &policy, &split).unwrap();

    let mut learnt = Vec::new();
    for (layer, form) in [(0, Form::Full), (2, Form::LowRank { rank: 4 })] {
        let mut trainer = trainer(&chain, &base, layer, form);
        trainer.run(&mut |_| (), None).unwrap();
        learnt.push(blocks(&trainer, &chain));
    }
    let mut harm = trainer(&chain, &base, 1, Form::Full);
    let slot = harm.options().slots[0];
    for tensor in base.spec().tensors_of(slot) {
        let along = vec![0.0; tensor.shape.dims().iter().product()];
        harm.change(slot, tensor.name, &along, &|weight, _| -20.0 * weight).unwrap();
    }
    learnt.push(blocks(&harm, &chain));

    let claims: Vec<BlockHash> = (11..)
        .zip(&learnt)
        .map(|(seed, blocks)| claim(&chain, &key(seed), &round, blocks).unwrap())
        .collect();
    close_round(&chain, &key(1), &round).unwrap();
    let candidates: Vec<BlockHash> = (11..)
        .zip(claims.iter().zip(&learnt))
        .map(|(seed, (claim, blocks))| propose_candidate(&chain, &key(seed), claim, blocks).unwrap())
        .collect();
    let revealed = reveal(&chain, &key(1), &round, &split).unwrap();
    let options = EvaluateOptions { threads: Some(1), ..EvaluateOptions::default() };
    for seed in [1, 3] {
        attest_all(&chain, &key(seed), &revealed, &options).unwrap();
    }
    let state = judge(&chain, &policy).unwrap();

    // The oracle: losses measured here, compared as floats, none of them near the threshold.
    let options = EvaluateOptions { window: WINDOW as usize, ..options };
    let loss = |model: &Snapshot| evaluate(&chain, model, &split, &options).unwrap().loss();
    let before = loss(&base);
    for (candidate, (blocks, better)) in candidates.iter().zip(learnt.iter().zip([true, true, false])) {
        let blocks: Vec<BlockHash> = blocks.values().copied().collect();
        let after = loss(&base.with_blocks(&chain, &blocks).unwrap());
        assert_eq!(after < 0.98 * before, better, "{before} to {after}");
        assert_eq!(after > 0.995 * before, !better, "{before} to {after}");
        match &state.candidates[candidate].verdict {
            Verdict::Accepted { losses, .. } => {
                assert!(better);
                assert_eq!([losses[0].base.value(), losses[0].candidate.value()], [before, after]);
            }
            Verdict::Refused(reason) => {
                assert!(!better && matches!(reason, Reason::NotBetter { .. }), "{reason}");
            }
        }
    }

    let accepted: BTreeSet<BlockHash> = candidates[..2].iter().copied().collect();
    assert_eq!(state.chosen.steps.len(), 1);
    assert_eq!(state.chosen.steps[0].candidates, accepted);
    publish_release(&chain, &state, "small", Version::new(1, 1, 0)).unwrap();
    let released = Snapshot::named(&chain, "small@1.1.0").unwrap();
    let changed: Vec<BlockHash> = learnt[..2].iter().flat_map(|blocks| blocks.values().copied()).collect();
    assert_eq!(released.root(), base.with_blocks(&chain, &changed).unwrap().root());
    assert!(loss(&released) < before);
}
