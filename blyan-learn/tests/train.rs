//! Runs: they learn, repeat, resume to the same bits, stop, and end in blocks that the core accepts.

#![allow(clippy::unwrap_used, reason = "a test ends where its premises fail")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use blyan_core::format::FeedForward;
use blyan_core::import::{self, ImportOptions};
use blyan_core::manager::{ManagerError, ManagerOptions, MoEModelManager, Snapshot, delta};
use blyan_core::model::KvDType;
use blyan_core::{Chain, DType, ModelSpec, ParentRole, Slot, TensorBlock};
use blyan_learn::{AdamW, Ended, Form, LearnError, Schedule, TrainOptions, Trainer};

fn imported(dtype: Option<DType>) -> (Chain, Snapshot) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../blyan-core/tests/fixtures/mixtral");
    let chain = Chain::in_memory().unwrap();
    import::checkpoint(&chain, folder, &ImportOptions { dtype, ..ImportOptions::default() }).unwrap();
    let snapshot = Snapshot::only_model(&chain).unwrap();
    (chain, snapshot)
}

/// A text with something to learn: each token follows from the last.
fn text(len: usize) -> Vec<u32> {
    let mut token = 1u32;
    (0..len)
        .map(|_| {
            token = (token * 5 + 3) % 64;
            token
        })
        .collect()
}

const EXPERT: Slot = Slot::Expert { layer: 1, expert: 2 };
const SLOTS: [Slot; 3] = [Slot::Expert { layer: 2, expert: 0 }, EXPERT, Slot::Router { layer: 1 }];

fn options(form: Form) -> TrainOptions {
    TrainOptions {
        slots: SLOTS.to_vec(),
        form,
        steps: 12,
        batch: 3,
        sequence: 24,
        schedule: Schedule { peak: 5e-3, floor: 0.1, warmup_steps: 2 },
        adamw: AdamW { weight_decay: 0.01, ..AdamW::default() },
        balance: 0.01,
        seed: 7,
        threads: Some(2),
        ..TrainOptions::default()
    }
}

fn run(trainer: &mut Trainer) -> Vec<u64> {
    let mut losses = Vec::new();
    let ended = trainer.run(&mut |step| losses.push(step.loss.to_bits()), None).unwrap();
    assert_eq!(ended, Ended::Finished);
    losses
}

/// Mean loss of a text in the core, the judge.
fn core_loss(chain: &Chain, snapshot: &Snapshot, tokens: &[u32]) -> f64 {
    let options = ManagerOptions {
        persist_usage: false,
        kv_cache: KvDType::F32,
        threads: Some(2),
        ..ManagerOptions::default()
    };
    let model = MoEModelManager::open_snapshot(chain, snapshot.clone(), &options).unwrap();
    let logits = model.logits(tokens).unwrap();
    let vocabulary = logits.len() / tokens.len();
    let losses = logits.chunks(vocabulary).zip(&tokens[1..]).map(|(row, &next)| {
        let top = row.iter().fold(f32::MIN, |top, x| top.max(*x));
        let sum: f64 = row.iter().map(|x| f64::from(x - top).exp()).sum();
        sum.ln() - f64::from(row[next as usize] - top)
    });
    losses.sum::<f64>() / (tokens.len() - 1) as f64
}

#[test]
fn candidates_are_better_in_the_core_in_every_form_and_dtype() {
    let forms = [Form::Full, Form::LowRank { rank: 4 }, Form::Int8];
    for (form, dtype) in forms.map(|form| (form, None)).into_iter().chain([
        (Form::Full, Some(DType::I8)),
        (Form::LowRank { rank: 8 }, Some(DType::F16)),
        (Form::Int8, Some(DType::I8)),
    ]) {
        let (chain, snapshot) = imported(dtype);
        let held_out = &text(1200)[1000..1100];
        let mut options = options(form);
        if matches!(form, Form::LowRank { .. }) {
            // Its B begins at zero, so it needs more.
            (options.steps, options.schedule.peak) = (30, 3e-2);
        }
        let mut trainer = Trainer::new(&chain, &snapshot, text(1000), options).unwrap();
        let before = core_loss(&chain, &snapshot, held_out);
        assert!(
            (trainer.loss(&held_out[..25]).unwrap() - core_loss(&chain, &snapshot, &held_out[..25])).abs()
                < 2e-3
        );
        run(&mut trainer);
        let candidates = trainer.append_candidates(&chain).unwrap();
        assert_eq!(candidates.iter().map(|candidate| candidate.slot).collect::<Vec<_>>(), {
            let mut slots = SLOTS.to_vec();
            slots.sort_unstable();
            slots
        });
        let mut better = snapshot.clone();
        for candidate in &candidates {
            let header = chain.get(&candidate.block).unwrap().header().clone();
            assert_eq!(header.version, semver::Version::new(1, 0, 1));
            let follows =
                header.parents.iter().find(|parent| parent.role == ParentRole::Predecessor).unwrap();
            assert_eq!(follows.hash, candidate.base);
            assert_eq!(candidate.delta.is_some(), form != Form::Full);
            if let Some(delta) = candidate.delta {
                assert_eq!(delta::merged_hash(&chain, &delta).unwrap(), header.payload.hash);
            }
            let open = |block| TensorBlock::open(&chain, block).unwrap();
            let (old, new) = (open(&candidate.base), open(&candidate.block));
            for (name, view) in old.tensors() {
                assert_eq!(new.tensor(name).unwrap().dtype(), view.dtype());
            }
            better = better.with_block(&chain, &candidate.block).unwrap();
        }
        let after = core_loss(&chain, &better, held_out);
        assert!(after < before - 0.05, "{form:?} {dtype:?}: {before} to {after}");
    }
}

#[test]
fn what_is_not_trained_does_not_move() {
    let (chain, snapshot) = imported(None);
    let mut one = options(Form::Full);
    one.slots = vec![EXPERT];
    let mut trainer = Trainer::new(&chain, &snapshot, text(500), one).unwrap();
    assert_eq!(trainer.trained_parameters(), 3 * 64 * 96);
    run(&mut trainer);
    let candidates = trainer.append_candidates(&chain).unwrap();
    assert_eq!(candidates.len(), 1);
    assert_eq!(candidates[0].slot, EXPERT);
}

#[test]
fn runs_repeat_and_a_resumed_one_ends_in_the_same_bits() {
    let (chain, snapshot) = imported(None);
    let tokens: Arc<[u32]> = text(600).into();
    for form in [Form::Full, Form::LowRank { rank: 3 }] {
        let new = || Trainer::new(&chain, &snapshot, tokens.clone(), options(form)).unwrap();
        let (mut one, mut two) = (new(), new());
        let losses = run(&mut one);
        let mut first_half = Vec::new();
        let cancel = AtomicBool::new(false);
        let ended = two
            .run(
                &mut |step| {
                    first_half.push(step.loss.to_bits());
                    cancel.store(step.step == 4, Ordering::Relaxed);
                },
                Some(&cancel),
            )
            .unwrap();
        assert_eq!((ended, two.steps_done()), (Ended::Cancelled, 5));
        let saved = two.checkpoint().unwrap();
        let mut three = new();
        three.resume(&saved).unwrap();
        assert_eq!(three.checkpoint().unwrap(), saved);
        let rest = run(&mut three);
        assert_eq!([first_half, rest].concat(), losses);
        assert_eq!(three.checkpoint().unwrap(), one.checkpoint().unwrap());
        let blocks = |trainer: &Trainer| trainer.append_candidates(&chain).unwrap();
        assert_eq!(blocks(&one), blocks(&three));
    }
}

#[test]
fn checkpoints_of_others_or_damaged_are_refused_and_change_nothing() {
    let (chain, snapshot) = imported(None);
    let new = |change: &dyn Fn(&mut TrainOptions)| {
        let mut options = options(Form::Full);
        change(&mut options);
        Trainer::new(&chain, &snapshot, text(200), options).unwrap()
    };
    let mut trainer = new(&|_| {});
    trainer.step().unwrap();
    let saved = trainer.checkpoint().unwrap();
    for (field, change) in [
        ("seed", (&|options: &mut TrainOptions| options.seed = 8) as &dyn Fn(&mut TrainOptions)),
        ("steps", &|options| options.steps = 13),
        ("slots", &|options| options.slots = vec![EXPERT]),
        ("form", &|options| options.form = Form::Int8),
    ] {
        let mut other = new(change);
        let before = other.checkpoint().unwrap();
        match other.resume(&saved).unwrap_err() {
            LearnError::OtherRun { field: found, .. } => assert_eq!(found, field),
            error => panic!("{error}"),
        }
        assert_eq!(other.checkpoint().unwrap(), before);
    }
    let mut other = new(&|_| {});
    let before = other.checkpoint().unwrap();
    for cut in (0..saved.len()).step_by(997).chain([0, 1, 8, 10, 14, saved.len() - 1]) {
        assert!(matches!(other.resume(&saved[..cut]), Err(LearnError::Checkpoint { .. })), "{cut}");
    }
    for at in (0..saved.len()).step_by(1999) {
        let mut bad = saved.clone();
        bad[at] ^= 0x10;
        assert!(other.resume(&bad).is_err(), "{at}");
    }
    assert_eq!(other.checkpoint().unwrap(), before);
    other.resume(&saved).unwrap();
}

#[test]
fn options_that_make_no_sense_are_named() {
    let (chain, snapshot) = imported(None);
    let error = |tokens: Vec<u32>, change: &dyn Fn(&mut TrainOptions)| {
        let mut options = options(Form::Full);
        change(&mut options);
        Trainer::new(&chain, &snapshot, tokens, options).unwrap_err()
    };
    let good = text(200);
    let option = |change: &dyn Fn(&mut TrainOptions)| match error(good.clone(), change) {
        LearnError::Option { option, .. } => option,
        other => panic!("{other}"),
    };
    assert_eq!(option(&|o| o.batch = 0), "batch");
    assert_eq!(option(&|o| o.sequence = 0), "sequence");
    assert_eq!(option(&|o| o.sequence = 257), "sequence");
    assert_eq!(option(&|o| o.threads = Some(0)), "threads");
    assert_eq!(option(&|o| o.threads = Some(65537)), "threads");
    assert_eq!(option(&|o| o.schedule.peak = f64::NAN), "schedule.peak");
    assert_eq!(option(&|o| o.schedule.floor = -0.1), "schedule.floor");
    assert_eq!(option(&|o| o.adamw.beta2 = 1.0), "adamw.beta2");
    assert_eq!(option(&|o| o.clip = Some(0.0)), "clip");
    assert_eq!(option(&|o| o.balance = -1.0), "balance");
    assert_eq!(option(&|o| o.form = Form::LowRank { rank: 0 }), "rank");
    assert!(matches!(error(good.clone(), &|o| o.slots.clear()), LearnError::NoSlots));
    let none = Slot::Expert { layer: 9, expert: 0 };
    assert!(
        matches!(error(good.clone(), &|o| o.slots.push(none)), LearnError::UnknownSlot { slot } if slot == none)
    );
    assert!(matches!(
        error(good.clone(), &|o| o.slots.push(Slot::Tokenizer)),
        LearnError::UnknownSlot { slot: Slot::Tokenizer }
    ));
    let norm = |o: &mut TrainOptions| (o.slots, o.form) = (vec![Slot::FinalNorm], Form::Int8);
    assert!(matches!(error(good.clone(), &norm), LearnError::NoMatrix { slot: Slot::FinalNorm }));
    assert!(matches!(error(text(24), &|_| {}), LearnError::FewTokens { found: 24, needed: 25 }));
    let mut unknown = good.clone();
    unknown[17] = 256;
    assert!(matches!(
        error(unknown, &|_| {}),
        LearnError::UnknownToken { index: 17, token: 256, vocab_size: 256 }
    ));
    let trainer = Trainer::new(&chain, &snapshot, good, options(Form::Full)).unwrap();
    assert!(matches!(trainer.logits(&[]), Err(LearnError::FewTokens { found: 0, needed: 1 })));
    assert!(matches!(trainer.loss(&[1]), Err(LearnError::FewTokens { found: 1, needed: 2 })));
    for deviation in [f64::NAN, f64::INFINITY, -0.1] {
        let spec = snapshot.spec().clone();
        let error = Trainer::from_nothing(spec, deviation, text(200), options(Form::Full)).unwrap_err();
        assert!(matches!(error, LearnError::Option { option: "deviation", .. }), "{error}");
    }
    let mut spec = ModelSpec::clone(snapshot.spec());
    spec.vocab_size = 0;
    let error = Trainer::from_nothing(spec.into(), 0.02, text(200), options(Form::Full)).unwrap_err();
    assert!(matches!(error, LearnError::Manager(ManagerError::Spec(_))), "{error}");
}

/// It ended the process. Larger than any address space: some systems promise all that has an address.
#[test]
fn a_model_beyond_memory_is_an_error() {
    let (_, snapshot) = imported(None);
    let mut spec = ModelSpec::clone(snapshot.spec());
    (spec.vocab_size, spec.hidden_size) = (1 << 20, 1 << 20);
    for layer in &mut spec.layers {
        if let FeedForward::Moe { moe_intermediate_size, .. } = &mut layer.feed_forward {
            *moe_intermediate_size = 1 << 20;
        }
    }
    let error = Trainer::from_nothing(spec.into(), 0.02, text(200), options(Form::Full)).unwrap_err();
    assert!(matches!(error, LearnError::Memory { .. }), "{error}");
}

#[test]
fn a_loss_that_is_no_number_changes_nothing() {
    let (chain, snapshot) = imported(None);
    let mut options = options(Form::Full);
    options.schedule = Schedule { peak: 1e30, floor: 1.0, warmup_steps: 0 };
    let mut trainer = Trainer::new(&chain, &snapshot, text(200), options).unwrap();
    let error = loop {
        let before = trainer.checkpoint().unwrap();
        if let Err(error) = trainer.step() {
            assert_eq!(trainer.checkpoint().unwrap(), before);
            break error;
        }
    };
    assert!(matches!(error, LearnError::Diverged { .. }), "{error}");
}

#[test]
fn a_model_from_nothing_learns_and_becomes_a_chain() {
    let (_, snapshot) = imported(None);
    let spec = snapshot.spec().clone();
    let mut options = options(Form::Full);
    options.schedule.peak = 1e-2;
    options.steps = 40;
    let tokens: Arc<[u32]> = text(1000).into();
    let mut trainer = Trainer::from_nothing(spec.clone(), 0.02, tokens.clone(), options.clone()).unwrap();
    let start = trainer.loss(&tokens[..100]).unwrap();
    assert!((start - 256f64.ln()).abs() < 0.1, "it knows nothing: {start}");
    run(&mut trainer);
    let end = trainer.loss(&tokens[..100]).unwrap();
    assert!(end < start - 1.5, "{start} to {end}");
    assert!(matches!(trainer.append_candidates(&Chain::in_memory().unwrap()), Err(LearnError::NoBase)));
    let blocks: Vec<_> = (0..2)
        .map(|_| {
            let chain = Chain::in_memory().unwrap();
            let model = trainer.append_model(&chain, DType::BF16, &[]).unwrap();
            let snapshot = Snapshot::of_model(&chain, &model).unwrap();
            assert!(
                (core_loss(&chain, &snapshot, &tokens[..25]) - trainer.loss(&tokens[..25]).unwrap()).abs()
                    < 0.05
            );
            model
        })
        .collect();
    assert_eq!(blocks[0], blocks[1]);
    let again = Trainer::from_nothing(spec, 0.02, tokens, options).unwrap();
    assert_eq!(again.steps_done(), 0);
}
