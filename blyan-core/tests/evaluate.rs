//! Evaluation: the loss that plain arithmetic finds in the logits, and the same bits however it is run.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "what was measured is worth seeing")]

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::checkpoints::{DTYPES, fixture, fixtures, import_into, imported, name, open, tiny_kjv};
use crate::world::{changed, expert};
use blyan_core::evolve::{EvaluateError, EvaluateOptions, evaluate, evaluate_model, evaluate_together};
use blyan_core::format::FeedForward;
use blyan_core::manager::{ManagerError, ManagerOptions, MoEModelManager, Snapshot};
use blyan_core::model::KvDType;
use blyan_core::{BlockHash, Chain, DType, Slot};

/// Some tokens of the fixture's vocabulary, with repetitions.
fn tokens(chain: &Chain, model: &BlockHash, len: usize) -> Vec<u32> {
    let vocab_size = Snapshot::of_model(chain, model).unwrap().spec().vocab_size as u64;
    let mut state = 7u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % vocab_size) as u32
    };
    (0..len).map(|_| next()).collect()
}

fn options(window: usize, pass_tokens: usize) -> EvaluateOptions<'static> {
    EvaluateOptions { window, pass_tokens, threads: Some(1), ..EvaluateOptions::default() }
}

/// The mean loss from the logits alone, with the platform's functions.
fn naive(model: &MoEModelManager, tokens: &[u32], window: usize) -> f64 {
    let vocab_size = model.snapshot().spec().vocab_size;
    let (mut sum, mut count) = (0.0, 0);
    let mut start = 0;
    while start + 1 < tokens.len() {
        let end = (start + window).min(tokens.len() - 1);
        let logits = model.logits(&tokens[start..end]).unwrap();
        for (row, target) in logits.chunks(vocab_size).zip(&tokens[start + 1..=end]) {
            let total: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
            sum += total.ln() - f64::from(row[*target as usize]);
            count += 1;
        }
        start = end;
    }
    assert_eq!(count, tokens.len() - 1);
    sum / f64::from(u32::try_from(count).unwrap())
}

#[test]
fn the_loss_is_that_of_the_logits() {
    for folder in fixtures() {
        for dtype in [None, Some(DType::I8)] {
            let (chain, model) = imported(&folder, dtype);
            let tokens = tokens(&chain, &model, 40);
            let snapshot = Snapshot::of_model(&chain, &model).unwrap();
            let manager = open(&chain, |options| options.kv_cache = KvDType::F32);
            for window in [5, 13, 64] {
                let found = evaluate(&chain, &snapshot, &tokens, &options(window, 32)).unwrap();
                let expected = naive(&manager, &tokens, window);
                assert!((found.loss() - expected).abs() < 1e-6, "{}: {found:?} {expected}", name(&folder));
                assert!((found.perplexity() - expected.exp()).abs() < 1e-3);
                assert_eq!((found.tokens, found.windows), (39, 39u64.div_ceil(window as u64)));
                assert_eq!(found.model_root, snapshot.root());
            }
        }
    }
}

#[test]
fn the_bits_are_the_same_on_all_instruction_sets_threads_and_batches() {
    let isas = blyan_core::kernels::Isa::available();
    for (folder, dtype) in ["mixtral_odd", "qwen2_moe", "olmoe", "llama_bias"]
        .iter()
        .flat_map(|n| DTYPES.map(|d| (fixture(n), d)))
    {
        let (chain, model) = imported(&folder, dtype);
        let tokens = tokens(&chain, &model, 50);
        let snapshot = Snapshot::of_model(&chain, &model).unwrap();
        let bits = |isa: &str, threads, pass_tokens| {
            let options = EvaluateOptions {
                isa: Some(isa.to_owned()),
                threads: Some(threads),
                ..options(11, pass_tokens)
            };
            evaluate(&chain, &snapshot, &tokens, &options).unwrap().loss_bits
        };
        let expected = bits("scalar", 1, 11);
        for isa in &isas {
            for (threads, pass_tokens) in [(1, 1), (2, 7), (3, 22), (2, 1000)] {
                let found = bits(isa.name(), threads, pass_tokens);
                assert_eq!(
                    found,
                    expected,
                    "{} {dtype:?} {} {threads} {pass_tokens}",
                    name(&folder),
                    isa.name()
                );
            }
        }
        // What the model was opened with does not count either.
        for kv_cache in [KvDType::F16, KvDType::F32] {
            let manager = open(&chain, |options| options.kv_cache = kv_cache);
            assert_eq!(evaluate_model(&manager, &tokens, &options(11, 64)).unwrap().loss_bits, expected);
        }
    }
}

/// `base` with other weights in some slots; those of `plain`, in BF16, are what is changed.
fn with_changed(chain: &Chain, base: &Snapshot, plain: &Snapshot, slots: &[Slot]) -> Snapshot {
    let other = |slot: &Slot| {
        changed(chain, &plain.slots()[slot].block, |_, index, weight| match index % 3 {
            0 => -weight,
            _ => weight,
        })
    };
    base.with_blocks(chain, &slots.iter().map(other).collect::<Vec<_>>()).unwrap()
}

/// Changes in every part of a model, as far as it has these slots.
fn changes(plain: &Snapshot) -> Vec<Vec<Slot>> {
    let layers = &plain.spec().layers;
    let last = layers.len() as u32 - 1;
    let experts = |layer: u32| -> Vec<Slot> {
        let count = match layers[layer as usize].feed_forward {
            FeedForward::Dense { .. } => 1,
            FeedForward::Moe { num_experts, .. } => num_experts as u32,
        };
        (0..count).map(|index| expert(layer, index)).collect()
    };
    let mut changes = vec![
        vec![Slot::FinalNorm],
        experts(last),
        experts(0),
        vec![],
        vec![Slot::Router { layer: 1 }],
        vec![Slot::Head],
        vec![Slot::Attention { layer: last }],
        vec![Slot::Embedding],
        experts(1),
        vec![Slot::Attention { layer: 0 }],
        vec![Slot::SharedExpert { layer: last }],
        vec![Slot::Head, Slot::Router { layer: last }, expert(1, 0), Slot::Attention { layer: 1 }],
    ];
    changes.retain(|slots| slots.iter().all(|slot| plain.slots().contains_key(slot)));
    changes
}

#[test]
fn candidates_beside_their_base_have_the_bits_that_they_have_alone() {
    let isas = blyan_core::kernels::Isa::available();
    for (folder, dtype) in [
        ("mixtral_odd", None),
        ("mixtral_window", Some(DType::I8)),
        ("qwen2_moe", Some(DType::I4)),
        ("olmoe", Some(DType::F8E4M3)),
        ("qwen2_odd", Some(DType::F16)),
        ("llama_bias", Some(DType::I8)),
    ] {
        let (chain, plain) = imported(&fixture(folder), None);
        let base = import_into(&chain, &fixture(folder), dtype);
        let [plain, base] = [plain, base].map(|model| Snapshot::of_model(&chain, &model).unwrap());
        let changes = changes(&plain);
        assert!(changes.len() >= 8, "{folder}");
        let mut candidates: Vec<Snapshot> =
            changes.iter().map(|slots| with_changed(&chain, &base, &plain, slots)).collect();
        // A model of another spec, which shares nothing.
        let stranger = import_into(&chain, &fixture("olmoe_clip_qkv"), None);
        candidates.push(Snapshot::of_model(&chain, &stranger).unwrap());
        let mut tokens = tokens(&chain, base.base().unwrap(), 50);
        tokens.iter_mut().for_each(|token| *token %= 251);
        let alone = |snapshot: &Snapshot| {
            let scalar = EvaluateOptions { isa: Some("scalar".to_owned()), ..options(11, 11) };
            evaluate(&chain, snapshot, &tokens, &scalar).unwrap().loss_bits
        };
        let (of_base, of_candidates) = (alone(&base), candidates.iter().map(alone).collect::<Vec<_>>());
        for (slots, bits) in changes.iter().zip(&of_candidates) {
            assert_eq!(*bits == of_base, slots.is_empty(), "{folder}: {slots:?} changes the loss");
        }
        let together: Vec<&Snapshot> = candidates.iter().collect();
        for isa in &isas {
            // Windows of 11 tokens and one of 5: in parts, some beside each other, all at once.
            for (threads, pass_tokens) in [(1, 1), (2, 7), (3, 22), (2, 1000)] {
                let options = EvaluateOptions {
                    isa: Some(isa.name().to_owned()),
                    threads: Some(threads),
                    ..options(11, pass_tokens)
                };
                let what = format!("{folder} {dtype:?} {} {threads} {pass_tokens}", isa.name());
                let found = evaluate_together(&chain, &base, &together, &tokens, &options).unwrap();
                assert_eq!(found.0.loss_bits, of_base, "{what}");
                let bits: Vec<u64> = found.1.iter().map(|found| found.loss_bits).collect();
                assert_eq!(bits, of_candidates, "{what}");
                for (found, model) in found.1.iter().zip(&candidates) {
                    assert_eq!((found.tokens, found.windows), (49, 5), "{what}");
                    assert_eq!(found.model_root, model.root(), "{what}");
                }
            }
        }
    }
}

/// Removes the payload of a slot.
fn remove(dir: &Path, snapshot: &Snapshot, slot: Slot) -> BlockHash {
    let hash = snapshot.slots()[&slot].payload.to_string();
    fs::remove_file(dir.join("payloads").join(&hash[..2]).join(&hash)).unwrap();
    snapshot.slots()[&slot].block
}

#[test]
fn a_damaged_block_of_any_of_them_is_named() {
    let (attention, router) = (Slot::Attention { layer: 0 }, Slot::Router { layer: 2 });
    for (damaged, slot, changed) in [(0, attention, attention), (1, router, router), (2, Slot::Head, router)]
    {
        let dir = tempfile::tempdir().unwrap();
        let chain = Chain::open(dir.path()).unwrap();
        let base = Snapshot::of_model(&chain, &import_into(&chain, &fixture("mixtral"), None)).unwrap();
        let candidates = [changed, Slot::Head].map(|slot| with_changed(&chain, &base, &base, &[slot]));
        let [one, two] = &candidates;
        let tokens = tokens(&chain, base.base().unwrap(), 30);
        let models = [&base, one, two];
        let block = remove(dir.path(), models[damaged], slot);
        // Another handle: this one has the payloads mapped.
        drop(chain);
        let chain = Chain::open(dir.path()).unwrap();
        let evaluate =
            |candidates: &[&Snapshot]| evaluate_together(&chain, &base, candidates, &tokens, &options(8, 16));
        match evaluate(&[one, two]).unwrap_err() {
            EvaluateError::Manager(ManagerError::Block { slot: found, block: named, .. }) => {
                assert_eq!((found, named), (slot, block));
            }
            error => panic!("{error:?}"),
        }
        // What is damaged in a model that is not asked for harms nobody.
        let others: [&[&Snapshot]; 3] = [&[], &[two], &[one]];
        assert_eq!(evaluate(others[damaged]).is_ok(), damaged > 0);
    }
}

#[test]
fn a_trained_model_predicts_its_language() {
    let (chain, model) = imported(&tiny_kjv(), None);
    let snapshot = Snapshot::of_model(&chain, &model).unwrap();
    let manager = open(&chain, |_| ());
    let tokens = manager.tokenize(include_str!("texts/kjv_held_out.txt")).unwrap();
    let options = EvaluateOptions { threads: Some(2), ..EvaluateOptions::default() };
    let found = evaluate(&chain, &snapshot, &tokens, &options).unwrap();
    eprintln!("{} tokens: {} nats, {:.0} tokens/s", found.tokens, found.loss(), found.tokens_per_second());
    assert!((3.0..4.0).contains(&found.loss()), "{}", found.loss());
    let mut shuffled = tokens.clone();
    shuffled.reverse();
    assert!(evaluate(&chain, &snapshot, &shuffled, &options).unwrap().loss() > found.loss() + 2.0);
    assert_eq!(evaluate_model(&manager, &tokens, &options).unwrap().loss_bits, found.loss_bits);
    assert!(manager.usage().experts().iter().all(|expert| expert.tokens == 0), "judging is no use");
}

/// What the model's README says, measured by its trainer with transformers and torch.
#[test]
#[ignore = "needs the whole text: BLYAN_TEST_KJV names its folder"]
fn the_held_out_text_has_the_loss_that_the_trainer_measured() {
    let folder = std::env::var_os("BLYAN_TEST_KJV").unwrap();
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "txt")).collect();
    files.sort();
    let books: Vec<String> = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let text = books.join("\n");
    let (chain, model) = imported(&tiny_kjv(), None);
    let snapshot = Snapshot::of_model(&chain, &model).unwrap();
    let tokens = open(&chain, |_| ()).tokenize(&text).unwrap();
    assert_eq!(tokens.len(), 1_153_373);
    let held_out = &tokens[tokens.len() - 30_000..][..=117 * 256];
    let found = evaluate(&chain, &snapshot, held_out, &EvaluateOptions::default()).unwrap();
    eprintln!("{} nats, {:.0} tokens/s", found.loss(), found.tokens_per_second());
    assert_eq!((found.windows, found.tokens), (117, 117 * 256));
    // The trainer's windows do not share a token, so each predicts one less.
    let manager = open(&chain, |_| ());
    let windows = held_out.chunks_exact(256);
    let losses =
        windows.map(|window| evaluate_model(&manager, window, &EvaluateOptions::default()).unwrap().loss());
    let mean = losses.sum::<f64>() / 117.0;
    eprintln!("{mean} nats in the trainer's windows");
    assert!((mean - 3.480).abs() < 0.0006, "{mean}");
    // By numpy's logarithms and exponentials of this library's logits.
    assert!((found.loss() - 3.481_119_3).abs() < 1e-5, "{}", found.loss());
}

#[test]
fn progress_is_told_and_cancelling_ends_it() {
    let (chain, model) = imported(&fixture("mixtral"), None);
    let tokens = tokens(&chain, &model, 61);
    let snapshot = Snapshot::of_model(&chain, &model).unwrap();
    let told = Mutex::new(Vec::new());
    let cancel = AtomicBool::new(false);
    let watch = |progress| {
        let mut told = told.lock().unwrap();
        told.push(progress);
        cancel.store(told.len() == 8, Ordering::Relaxed);
    };
    let watched = EvaluateOptions { progress: Some(&watch), cancel: Some(&cancel), ..options(10, 10) };
    let found = evaluate(&chain, &snapshot, &tokens, &watched).unwrap();
    {
        let told = told.lock().unwrap();
        let tokens: Vec<u64> = told.iter().map(|progress| progress.tokens).collect();
        assert_eq!(tokens, [10, 20, 30, 40, 50, 60]);
        assert!(told.iter().all(|progress| progress.total_tokens == 60 && progress.tokens_per_second > 0.0));
        assert_eq!(told[5].loss.to_bits(), found.loss_bits);
    }
    let error = evaluate(&chain, &snapshot, &tokens, &watched).unwrap_err();
    assert!(matches!(error, EvaluateError::Cancelled), "{error:?}");
    assert_eq!(told.lock().unwrap().len(), 8, "nothing ran after it was cancelled");

    // Candidates beside it change nothing of that: it is told of each pass once.
    cancel.store(false, Ordering::Relaxed);
    told.lock().unwrap().clear();
    let candidate = with_changed(&chain, &snapshot, &snapshot, &[Slot::Head]);
    let together = || evaluate_together(&chain, &snapshot, &[&candidate; 2], &tokens, &watched);
    assert_eq!(together().unwrap().0.loss_bits, found.loss_bits);
    {
        let told = told.lock().unwrap();
        let tokens: Vec<u64> = told.iter().map(|progress| progress.tokens).collect();
        assert_eq!(tokens, [10, 20, 30, 40, 50, 60]);
        assert_eq!(told[5].loss.to_bits(), found.loss_bits);
    }
    let error = together().unwrap_err();
    assert!(matches!(error, EvaluateError::Cancelled), "{error:?}");
    assert_eq!(told.lock().unwrap().len(), 8);
}

#[test]
fn what_cannot_be_evaluated_is_refused() {
    let (chain, model) = imported(&fixture("mixtral"), None);
    let snapshot = Snapshot::of_model(&chain, &model).unwrap();
    let refused = |tokens: &[u32], options: &EvaluateOptions<'_>| {
        evaluate(&chain, &snapshot, tokens, options).unwrap_err()
    };
    for tokens in [&[][..], &[1]] {
        let error = refused(tokens, &options(4, 4));
        assert!(matches!(error, EvaluateError::TooFewTokens { tokens: n } if n == tokens.len()), "{error:?}");
    }
    assert!(matches!(refused(&[1, 2], &options(0, 4)), EvaluateError::Zero { option: "window" }));
    assert!(matches!(refused(&[1, 2], &options(4, 0)), EvaluateError::Zero { option: "pass_tokens" }));
    let capacity = snapshot.spec().max_position_embeddings;
    let long = vec![1; capacity + 2];
    let error = refused(&long, &options(capacity + 1, 64));
    assert!(matches!(error, EvaluateError::WindowTooLong { .. }), "{error:?}");
    let unknown = u32::try_from(snapshot.spec().vocab_size).unwrap();
    for tokens in [[1, unknown], [unknown, 1], [1, u32::MAX]] {
        let error = refused(&tokens, &options(4, 4));
        assert!(error.to_string().contains("outside the vocabulary"), "{error}");
    }
    let options = EvaluateOptions { isa: Some("avx1024".into()), ..options(4, 4) };
    assert!(matches!(refused(&[1, 2], &options), EvaluateError::Manager(_)));
    assert!(ManagerOptions::default().persist_usage, "evaluating has its own");
}
