//! candle's decoder against the core's logits, PyTorch's gradients and finite differences.

#![allow(clippy::unwrap_used, reason = "a test ends where its premises fail")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use blyan_core::import::{self, ImportOptions};
use blyan_core::kernels::Isa;
use blyan_core::manager::{ManagerOptions, MoEModelManager, Snapshot};
use blyan_core::model::KvDType;
use blyan_core::{Chain, DType, Slot};
use blyan_learn::{Form, TrainOptions, Trainer};
use safetensors::SafeTensors;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../blyan-core/tests/fixtures")
}

fn imported(name: &str, frequencies: DType, dtype: Option<DType>) -> (Chain, Snapshot) {
    let chain = Chain::in_memory().unwrap();
    let options = ImportOptions { rope_frequencies: Some(frequencies), dtype, ..ImportOptions::default() };
    import::checkpoint(&chain, fixtures().join(name), &options).unwrap();
    let snapshot = Snapshot::only_model(&chain).unwrap();
    (chain, snapshot)
}

fn words(file: &Path, tensor: &str) -> Vec<[u8; 4]> {
    let bytes = std::fs::read(file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    tensors.tensor(tensor).unwrap().data().as_chunks().0.to_vec()
}

fn floats(file: &Path, tensor: &str) -> Vec<f32> {
    words(file, tensor).into_iter().map(f32::from_le_bytes).collect()
}

fn prompt(name: &str) -> Vec<u32> {
    words(&fixtures().join(name).join("reference.safetensors"), "prompt")
        .into_iter()
        .map(u32::from_le_bytes)
        .collect()
}

fn trainer(
    chain: &Chain,
    snapshot: &Snapshot,
    slots: Vec<Slot>,
    change: impl FnOnce(&mut TrainOptions),
) -> Trainer {
    let mut options =
        TrainOptions { slots, sequence: 8, batch: 1, threads: Some(2), ..TrainOptions::default() };
    change(&mut options);
    Trainer::new(chain, snapshot, vec![1u32; 32], options).unwrap()
}

fn relative_error(actual: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(actual.len(), expected.len());
    let largest = expected.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    actual.iter().zip(expected).fold(0f32, |error, (a, b)| error.max((a - b).abs())) / largest
}

#[test]
fn logits_are_the_cores_on_every_fixture() {
    let mut seen = 0;
    for entry in std::fs::read_dir(fixtures()).unwrap() {
        let folder = entry.unwrap().path();
        if !folder.join("config.json").exists() {
            continue;
        }
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        // int8 activations are rounded in the core, so only its stored weights can be compared: floats.
        for frequencies in [DType::F32, DType::BF16] {
            let (chain, snapshot) = imported(&name, frequencies, None);
            let options = ManagerOptions {
                persist_usage: false,
                kv_cache: KvDType::F32,
                threads: Some(2),
                ..ManagerOptions::default()
            };
            let model = MoEModelManager::open_snapshot(&chain, snapshot.clone(), &options).unwrap();
            let prompt = prompt(&name);
            let expected = model.logits(&prompt).unwrap();
            let trainer = trainer(&chain, &snapshot, vec![Slot::FinalNorm], |_| {});
            let error = relative_error(&trainer.logits(&prompt).unwrap(), &expected);
            assert!(error < 1e-4, "{name} {frequencies}: {error:e}");
            seen += 1;
        }
    }
    assert!(seen >= 32);
    assert!(!Isa::detect().name().is_empty());
}

/// `layer1`'s slots and tensors under their published names.
fn published(slot: Slot, tensor: &str) -> String {
    let layer = "model.layers.1.block_sparse_moe";
    match slot {
        Slot::Expert { expert, .. } => {
            let number = match tensor {
                "gate_proj.weight" => "w1",
                "down_proj.weight" => "w2",
                _ => "w3",
            };
            format!("{layer}.experts.{expert}.{number}.weight")
        }
        _ => format!("{layer}.gate.weight"),
    }
}

#[test]
fn gradients_are_those_of_pytorch() {
    let file = fixtures().join("mixtral/gradients.safetensors");
    // Computed on the checkpoint as it loads, with exact frequencies, unlike the fixture's logits.
    let (chain, snapshot) = imported("mixtral", DType::F32, None);
    let mut slots: Vec<Slot> = (0..8).map(|expert| Slot::Expert { layer: 1, expert }).collect();
    slots.push(Slot::Router { layer: 1 });
    let trainer = trainer(&chain, &snapshot, slots, |_| {});
    let found = trainer.gradients(&prompt("mixtral")).unwrap();
    let loss = floats(&file, "loss")[0];
    assert!((found.loss as f32 - loss).abs() < 1e-5 * loss, "{} {loss}", found.loss);
    assert_eq!(found.tensors.len(), 25);
    for ((slot, tensor), gradient) in &found.tensors {
        let expected = floats(&file, &published(*slot, tensor));
        if expected.iter().all(|x| *x == 0.0) {
            assert!(gradient.iter().all(|x| *x == 0.0), "{slot} was not used");
            continue;
        }
        let error = relative_error(gradient, &expected);
        assert!(error < 1e-5, "{slot} {tensor}: {error:e}");
    }
}

/// Slots of every kind that a model has.
fn all_slots(snapshot: &Snapshot) -> Vec<Slot> {
    snapshot.slots().keys().copied().filter(|slot| slot.kind().is_weights()).collect()
}

/// Each gradient against a central difference of the loss along it.
fn check_differences(name: &str, slots: Vec<Slot>, form: Form, balance: f64) {
    let (chain, snapshot) = imported(name, DType::F32, Some(DType::F32));
    let prompt = &prompt(name)[..12];
    let set = |options: &mut TrainOptions| (options.form, options.balance) = (form, balance);
    let base = trainer(&chain, &snapshot, slots.clone(), set);
    let found = base.gradients(prompt).unwrap();
    let mut checked = 0;
    let mut by_slot: BTreeMap<Slot, Vec<(String, Vec<f32>)>> = BTreeMap::new();
    for ((slot, tensor), gradient) in found.tensors {
        by_slot.entry(slot).or_default().push((tensor, gradient));
    }
    for (slot, tensors) in by_slot {
        for (tensor, gradient) in tensors {
            let norm = gradient.iter().map(|x| f64::from(x * x)).sum::<f64>().sqrt();
            if norm < 1e-4 {
                continue;
            }
            // Along the gradient itself the derivative is its norm. Routing and clipping have kinks, and f32
            // has noise: a step of some size must lie between the two.
            let slope = |step: f64| {
                let moved = |sign: f64| {
                    let mut other = trainer(&chain, &snapshot, slots.clone(), set);
                    let change = |x: f32, g: f32| x + (sign * step * f64::from(g) / norm) as f32;
                    other.change(slot, &tensor, &gradient, &change).unwrap();
                    other.gradients(prompt).unwrap().loss
                };
                (moved(1.0) - moved(-1.0)) / (2.0 * step)
            };
            let near = |slope: f64| (slope - norm).abs() < 0.02 * norm + 2e-4;
            let slopes = [2e-2, 5e-3, 1e-3].map(|step| slope(step / norm.max(0.5)));
            assert!(slopes.into_iter().any(near), "{name} {slot} {tensor}: {slopes:?} for {norm}");
            checked += 1;
        }
    }
    assert!(checked > 0, "{name}");
}

#[test]
fn gradients_are_those_of_finite_differences() {
    // Of each flavour one: plain, norms over all heads, biases and shared experts, norms a head, tied, window.
    for name in ["olmoe_clip_qkv", "qwen2_moe", "qwen3_moe_yarn", "llama_bias", "mixtral_window"] {
        let (_, snapshot) = imported(name, DType::F32, None);
        check_differences(name, all_slots(&snapshot), Form::Full, 0.0);
    }
}

#[test]
fn low_rank_and_balance_have_right_gradients_too() {
    let slots =
        vec![Slot::Expert { layer: 1, expert: 2 }, Slot::Router { layer: 0 }, Slot::Attention { layer: 0 }];
    check_differences("mixtral", slots, Form::LowRank { rank: 2 }, 0.0);
    check_differences("mixtral", vec![Slot::Router { layer: 0 }, Slot::Router { layer: 1 }], Form::Full, 0.5);
}
