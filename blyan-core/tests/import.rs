//! Importing checkpoints: what becomes of each tensor, and what an import adds to a chain.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::folders::{CHOICES, Checkpoint, Raw, fixture, fixtures, manifest, state, tensor_block, weights};
use blyan_core::format::Architecture;
use blyan_core::import::{self, ImportError, ImportOptions, ImportReport};
use blyan_core::{Chain, ChainId, DType, Manifest, ModelSpec, VerifyOptions};
use half::{bf16, f16};
use safetensors::tensor::Dtype;
use serde_json::{Value, json};

fn import(chain: &Chain, dir: &Path, dtype: Option<DType>) -> ImportReport {
    let options = ImportOptions { dtype, ..ImportOptions::default() };
    import::checkpoint(chain, dir, &options)
        .unwrap_or_else(|error| panic!("{} {dtype:?}: {error}", dir.display()))
}

/// Published name of a block's tensor, by the tables in the architectures' papers and model cards; the
/// library's own mapping is not used.
fn published(architecture: Architecture, sparse: bool, slot: &str, tensor: &str) -> String {
    let (layer, part) = match slot.split_once('.') {
        Some((layer, part)) => (layer.strip_prefix("layer").unwrap(), part),
        None if slot == "head" => return tensor.to_owned(),
        None => return format!("model.{tensor}"),
    };
    let layer = format!("model.layers.{layer}");
    if part == "attention" {
        let outside = tensor.starts_with("input_layernorm") || tensor.starts_with("post_attention_layernorm");
        return if outside { format!("{layer}.{tensor}") } else { format!("{layer}.self_attn.{tensor}") };
    }
    let mixtral = architecture == Architecture::Mixtral;
    let moe = if mixtral { "block_sparse_moe" } else { "mlp" };
    match part {
        "router" => format!("{layer}.{moe}.{tensor}"),
        "shared_expert" if tensor.starts_with("shared_expert_gate") => format!("{layer}.mlp.{tensor}"),
        "shared_expert" => format!("{layer}.mlp.shared_expert.{tensor}"),
        _ if !sparse => format!("{layer}.mlp.{tensor}"),
        _ => {
            let tensor = if mixtral {
                tensor.replace("gate_proj", "w1").replace("down_proj", "w2").replace("up_proj", "w3")
            } else {
                tensor.to_owned()
            };
            format!("{layer}.{moe}.experts.{}.{tensor}", part.strip_prefix("expert").unwrap())
        }
    }
}

fn to_f32(raw: &Raw) -> Vec<f32> {
    let pairs = raw.data.chunks_exact(2).map(|b| [b[0], b[1]]);
    match raw.dtype {
        Dtype::BF16 => pairs.map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
        Dtype::F16 => pairs.map(|b| f16::from_le_bytes(b).to_f32()).collect(),
        _ => raw.data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
    }
}

/// Quantizes one row by searching all codes in f64.
fn naive_row(dtype: DType, row: &[f32]) -> (f32, Vec<f64>) {
    let limit = if dtype == DType::I8 { 127.0 } else { 448.0 };
    let amax = row.iter().fold(0f32, |amax, x| amax.max(x.abs()));
    let scale = if amax == 0.0 { 1.0 } else { amax / limit };
    let codes: Vec<f64> = if dtype == DType::I8 {
        (-127..=127).map(f64::from).collect()
    } else {
        (0..=255)
            .map(|code| f64::from(float8::F8E4M3::from_bits(code).to_f32()))
            .filter(|x| x.is_finite())
            .collect()
    };
    let distance = |x: &f32| {
        let y = f64::from(x / scale);
        codes.iter().map(|code| (code - y).abs()).fold(f64::INFINITY, f64::min)
    };
    (scale, row.iter().map(distance).collect())
}

/// Compares an I4 matrix, as it is stored, with the best that a naive search in f64 over the scales of
/// docs/format.md and all values finds for each group.
fn check_groups(block: &blyan_core::TensorBlock, name: &str, values: &[f32], what: &str) {
    let stored = safetensors::SafeTensors::deserialize(block.payload()).unwrap();
    let words = stored.tensor(&format!("{name}_packed")).unwrap();
    assert_eq!((words.dtype(), words.data().len()), (Dtype::I32, values.len() / 2), "{what}");
    let scales = stored.tensor(&format!("{name}_scale")).unwrap();
    assert_eq!((scales.dtype(), scales.data().len()), (Dtype::BF16, values.len() / 16), "{what}");
    let squares = |x: &[f32], scale: f64, value: &dyn Fn(usize) -> f64| -> f64 {
        x.iter().enumerate().map(|(i, x)| (f64::from(*x) - scale * value(i)).powi(2)).sum()
    };
    for (group, x) in values.chunks(32).enumerate() {
        let scale = bf16::from_le_bytes(scales.data()[2 * group..][..2].try_into().unwrap()).to_f64();
        let value = |i: usize| {
            let word = words.data()[16 * group + i / 8 * 4..][..4].try_into().unwrap();
            f64::from(u32::from_le_bytes(word) >> (4 * (i % 8)) & 15) - 8.0
        };
        let (most, least) = (x.iter().copied().fold(0f32, f32::max), x.iter().copied().fold(0f32, f32::min));
        let extreme = if most > -least { most } else { least };
        let best = (24..=36)
            .map(|n| bf16::from_f32(extreme * (-n as f32 / 256.0)).to_f64())
            .map(|scale| {
                let nearest = |i: usize| (f64::from(x[i]) / scale).round_ties_even().clamp(-8.0, 7.0);
                squares(x, scale, &nearest)
            })
            .fold(f64::INFINITY, f64::min);
        let actual = squares(x, scale, &value);
        assert!(actual <= best * (1.0 + 1e-5), "{what} group {group}: {actual}, not {best}");
    }
}

/// Compares one stored tensor with the checkpoint's.
fn check_tensor(
    block: &blyan_core::TensorBlock,
    name: &str,
    source: &Raw,
    choice: Option<DType>,
    what: &str,
) {
    let view = block.tensor(name).unwrap();
    assert_eq!(view.shape().dims(), source.shape, "{what}");
    // The policy of docs/format.md, in its words.
    let embedding = name == "embed_tokens.weight";
    let gate = name == "gate.weight" || name == "shared_expert_gate.weight";
    let projection = source.shape.len() == 2 && !embedding && !gate;
    let head = name == "lm_head.weight";
    let expected = match choice {
        Some(DType::I4) if projection && (head || !source.shape[1].is_multiple_of(32)) => "I8".to_owned(),
        Some(dtype) if projection || (embedding && !dtype.is_quantized()) => dtype.name().to_owned(),
        _ => source.dtype.to_string(),
    };
    assert_eq!(view.dtype().name(), expected, "{what}");
    let values = to_f32(source);
    match view.dtype() {
        dtype if dtype.name() == source.dtype.to_string() => assert_eq!(view.data(), source.data, "{what}"),
        DType::F16 => {
            let expected: Vec<u8> =
                values.iter().flat_map(|x| f16::from_f64(f64::from(*x)).to_le_bytes()).collect();
            assert_eq!(view.data(), expected, "{what}");
        }
        DType::I4 => check_groups(block, name, &values, what),
        dtype => {
            let scales = block.scale(name).unwrap();
            assert_eq!(scales.shape().dims(), [source.shape[0], 1]);
            let (scales, cols) = (scales.to_f32_vec(), source.shape[1]);
            let stored = view.to_f32_vec();
            for (row, scale) in scales.iter().enumerate() {
                let row_values = &values[row * cols..][..cols];
                let (expected_scale, distances) = naive_row(dtype, row_values);
                assert_eq!(*scale, expected_scale, "{what} row {row}");
                for ((x, q), distance) in row_values.iter().zip(&stored[row * cols..]).zip(distances) {
                    let actual = (f64::from(*q) - f64::from(x / scale)).abs();
                    assert_eq!(actual, distance, "{what} row {row}: {x} became {q}");
                }
            }
        }
    }
}

#[test]
fn every_tensor_of_every_fixture_in_every_type_is_what_it_should_be() {
    for (name, dir) in fixtures() {
        // The oracle searches every code for every weight: the one large model is for other tests.
        if name == "tiny-kjv-moe" {
            continue;
        }
        let source = weights(&dir);
        let chain = Chain::in_memory().unwrap();
        for (label, choice) in CHOICES {
            let report = import(&chain, &dir, choice);
            let manifest = manifest(&chain, &report.model);
            let spec = ModelSpec::from_canonical_json(&chain.payload(&manifest.spec).unwrap()).unwrap();
            let sparse_layers: BTreeSet<String> = manifest
                .slots
                .keys()
                .filter_map(|slot| Some(slot.to_string().strip_suffix(".router")?.to_owned()))
                .collect();
            let mut used = BTreeSet::new();
            for slot in manifest.slots.keys().filter(|slot| slot.kind().is_weights()) {
                let slot = slot.to_string();
                let block = tensor_block(&chain, &report.model, &slot);
                let sparse = slot.split_once('.').is_some_and(|(layer, _)| sparse_layers.contains(layer));
                for (tensor, _) in block.tensors().filter(|(tensor, _)| !tensor.ends_with("_scale")) {
                    let mut published = published(spec.architecture, sparse, &slot, tensor);
                    if published == "lm_head.weight" && spec.tie_word_embeddings {
                        assert!(
                            choice.is_some_and(DType::is_quantized),
                            "a tied head is only its own if quantized"
                        );
                        published = "model.embed_tokens.weight".to_owned();
                    }
                    let what = format!("{name} {label} {published}");
                    let source = source.get(&published).unwrap_or_else(|| panic!("{what}"));
                    check_tensor(&block, tensor, source, choice, &what);
                    used.insert(published);
                }
            }
            assert_eq!(used, source.keys().cloned().collect(), "{name}: no tensor is lost");
        }
    }
}

#[test]
fn importing_twice_adds_nothing_and_models_share_what_is_equal() {
    for (name, dir) in fixtures() {
        let chain = Chain::in_memory().unwrap();
        let kept = import(&chain, &dir, None);
        assert_eq!(kept.blocks_known, 0, "{name}");
        assert_eq!(chain.len().unwrap(), kept.blocks_new, "{name}");
        let before = state(&chain);
        let again = import(&chain, &dir, None);
        assert_eq!((again.blocks_new, again.payload_bytes_new), (0, 0), "{name}");
        assert_eq!((again.model, again.spec, again.root), (kept.model, kept.spec, kept.root), "{name}");
        assert_eq!(state(&chain), before, "{name}");
        // All fixtures are bf16: that choice is the kept type.
        assert_eq!(import(&chain, &dir, Some(DType::BF16)).blocks_new, 0, "{name}");

        let int8 = import(&chain, &dir, Some(DType::I8));
        assert_eq!(int8.spec, kept.spec, "{name}");
        let (a, b) = (manifest(&chain, &kept.model), manifest(&chain, &int8.model));
        for (slot, block) in &a.slots {
            let text = slot.to_string();
            let projections = text.contains("expert") || text.ends_with("attention") || text == "head";
            assert_eq!(b.slots[slot] == *block, !projections, "{name} {text}");
        }
        assert_eq!(chain.tips(ChainId::Meta).unwrap().len(), 2, "two models side by side");
        assert!(chain.verify(&VerifyOptions { full: true, ..VerifyOptions::default() }).unwrap().is_ok());
    }
}

#[test]
fn one_changed_expert_is_one_payload_one_block_and_one_model() {
    let chain = Chain::in_memory().unwrap();
    let mut checkpoint = Checkpoint::of("mixtral");
    let first = import(&chain, checkpoint.write().path(), None);
    checkpoint.tensor("model.layers.1.block_sparse_moe.experts.3.w2.weight").data[0] ^= 1;
    let second = import(&chain, checkpoint.write().path(), None);
    assert_eq!(second.blocks_new, 2);
    assert_eq!(second.spec, first.spec);
    let (a, b) = (manifest(&chain, &first.model), manifest(&chain, &second.model));
    let changed: Vec<String> = a
        .slots
        .iter()
        .filter(|(slot, block)| b.slots[slot] != **block)
        .map(|(slot, _)| slot.to_string())
        .collect();
    assert_eq!(changed, ["layer1.expert3"]);
    let payload_bytes = |hash| chain.get(hash).unwrap().header().payload.len_bytes;
    let expert = b.slots[&"layer1.expert3".parse().unwrap()];
    assert_eq!(second.payload_bytes_new, payload_bytes(&expert) + payload_bytes(&second.model));
}

#[test]
fn folder_names_shards_and_key_order_do_not_matter() {
    let checkpoint = Checkpoint::of("mixtral_window");
    let from = |dir: &Path| {
        let report = import(&Chain::in_memory().unwrap(), dir, Some(DType::I8));
        (report.model, report.root)
    };
    let sharded = from(&fixture("mixtral_window"));
    let single = checkpoint.write();
    assert_eq!(from(single.path()), sharded);
    let elsewhere = tempfile::tempdir().unwrap();
    let odd = elsewhere.path().join("other näme");
    fs::rename(single.path(), &odd).unwrap();
    let mut reversed = serde_json::Map::new();
    reversed.extend(checkpoint.config.iter().rev().map(|(key, value)| (key.clone(), value.clone())));
    fs::write(odd.join("config.json"), serde_json::to_vec(&reversed).unwrap()).unwrap();
    fs::write(odd.join("README.md"), "hello").unwrap();
    assert_eq!(from(&odd), sharded);
}

#[test]
fn a_dry_run_reports_what_the_import_does_and_does_nothing() {
    let chain = Chain::in_memory().unwrap();
    let mut checkpoint = Checkpoint::of("qwen2_moe");
    // Equal payloads within one import, in files and in the index.
    let copy = checkpoint.tensors["model.layers.0.mlp.experts.0.up_proj.weight"].clone();
    for expert in ["0", "1"] {
        for part in ["gate_proj", "up_proj"] {
            *checkpoint.tensor(&format!("model.layers.0.mlp.experts.{expert}.{part}.weight")) = copy.clone();
        }
    }
    *checkpoint.tensor("model.layers.0.mlp.experts.1.down_proj.weight") =
        checkpoint.tensors["model.layers.0.mlp.experts.0.down_proj.weight"].clone();
    for file in ["tokenizer_config.json", "special_tokens_map.json"] {
        checkpoint.files.insert(file.to_owned(), b"{}".to_vec());
    }
    let dir = checkpoint.write();
    for dtype in [None, Some(DType::I8), None] {
        let before = state(&chain);
        let options = ImportOptions { dtype, dry_run: true, ..ImportOptions::default() };
        let promised = import::checkpoint(&chain, dir.path(), &options).unwrap();
        assert_eq!(state(&chain), before);
        assert_eq!(import(&chain, dir.path(), dtype), promised);
    }
    // A spec of its own, so that texts are known under a block that this import does not make.
    checkpoint.config.insert("rms_norm_eps".to_owned(), json!(1e-4));
    let dir = checkpoint.write();
    let options = ImportOptions { dry_run: true, ..ImportOptions::default() };
    let promised = import::checkpoint(&chain, dir.path(), &options).unwrap();
    assert_eq!(import(&chain, dir.path(), None), promised);
    assert!(promised.payload_bytes_known > promised.payload_bytes_new);
}

#[test]
fn a_dry_run_works_on_a_chain_open_for_reading() {
    let dir = tempfile::tempdir().unwrap();
    import(&Chain::open(dir.path()).unwrap(), &fixture("llama"), None);
    let chain = Chain::open_read_only(dir.path()).unwrap();
    let options = ImportOptions { dry_run: true, ..ImportOptions::default() };
    assert_eq!(import::checkpoint(&chain, fixture("llama"), &options).unwrap().blocks_new, 0);
    assert!(matches!(
        import::checkpoint(&chain, fixture("llama"), &ImportOptions::default()),
        Err(ImportError::Chain(_))
    ));
}

#[test]
fn cancelled_anywhere_nothing_remains() {
    let chain = Chain::in_memory().unwrap();
    import(&chain, &fixture("llama"), None);
    let before = state(&chain);
    let total = import(&Chain::in_memory().unwrap(), &fixture("mixtral_window"), None).blocks_new;
    for stop in [0, 1, 2, total / 2, total - 1, total] {
        let cancel = AtomicBool::new(stop == 0);
        let progress = |progress: import::ImportProgress| {
            assert!(progress.blocks <= progress.total_blocks);
            assert!(progress.payload_bytes <= progress.total_payload_bytes);
            cancel.store(progress.blocks >= stop, Ordering::Relaxed);
        };
        let options =
            ImportOptions { cancel: Some(&cancel), progress: Some(&progress), ..ImportOptions::default() };
        let error = import::checkpoint(&chain, fixture("mixtral_window"), &options).unwrap_err();
        assert!(matches!(error, ImportError::Cancelled), "{stop}: {error}");
        assert_eq!(state(&chain), before);
    }
    let seen = Mutex::new(Vec::new());
    let progress = |progress: import::ImportProgress| seen.lock().unwrap().push(progress);
    let options = ImportOptions { progress: Some(&progress), ..ImportOptions::default() };
    import::checkpoint(&chain, fixture("mixtral_window"), &options).unwrap();
    let seen = seen.into_inner().unwrap();
    assert_eq!(seen.len() as u64, total);
    let last = seen.last().unwrap();
    assert_eq!((last.blocks, last.payload_bytes), (last.total_blocks, last.total_payload_bytes));
}

#[test]
fn a_damaged_payload_is_repaired_by_importing_again() {
    let dir = tempfile::tempdir().unwrap();
    let chain = Chain::open(dir.path()).unwrap();
    let report = import(&chain, &fixture("olmoe"), None);
    let slot = "layer2.expert5".parse().unwrap();
    let expert = manifest(&chain, &report.model).slots[&slot];
    let payload = chain.get(&expert).unwrap().header().payload.clone();
    drop(chain);
    let name = payload.hash.to_string();
    let path = dir.path().join("payloads").join(&name[..2]).join(&name);
    let whole = fs::read(&path).unwrap();
    let mut damaged = whole.clone();
    *damaged.last_mut().unwrap() ^= 1;
    fs::remove_file(&path).unwrap();
    fs::write(&path, damaged).unwrap();

    let chain = Chain::open(dir.path()).unwrap();
    let full = VerifyOptions { full: true, ..VerifyOptions::default() };
    assert_eq!(chain.verify(&full).unwrap().bad.len(), 1);
    assert!(chain.payload(&expert).is_err());
    let again = import(&chain, &fixture("olmoe"), None);
    assert_eq!((again.blocks_new, again.payload_bytes_new), (0, payload.len_bytes));
    assert_eq!(fs::read(&path).unwrap(), whole);
    assert!(chain.verify(&full).unwrap().is_ok());
}

/// The layout that transformers 5 has in memory: experts stacked, gate above up.
fn stacked(checkpoint: &Checkpoint, layers: usize, experts: usize) -> Checkpoint {
    let mut stacked = checkpoint.clone();
    let mixtral = checkpoint.config["model_type"] == "mixtral";
    for layer in 0..layers {
        let moe = format!("model.layers.{layer}.{}", if mixtral { "block_sparse_moe" } else { "mlp" });
        let names = if mixtral { ["w1", "w3", "w2"] } else { ["gate_proj", "up_proj", "down_proj"] };
        let mut take = |expert: usize, part: &str| {
            stacked.tensors.remove(&format!("{moe}.experts.{expert}.{part}.weight")).unwrap()
        };
        let (mut gate_up, mut down) = (Vec::new(), Vec::new());
        let (mut gate_shape, mut down_shape) = (vec![], vec![]);
        for expert in 0..experts {
            for part in &names[..2] {
                let raw = take(expert, part);
                gate_up.extend(raw.data);
                gate_shape = vec![experts, 2 * raw.shape[0], raw.shape[1]];
            }
            let raw = take(expert, names[2]);
            down.extend(raw.data);
            down_shape = vec![experts, raw.shape[0], raw.shape[1]];
        }
        let raw = |shape, data| Raw { dtype: Dtype::BF16, shape, data };
        let router = stacked.tensors.remove(&format!("{moe}.gate.weight")).unwrap();
        let mlp = format!("model.layers.{layer}.mlp");
        stacked.tensors.insert(format!("{mlp}.gate.weight"), router);
        stacked.tensors.insert(format!("{mlp}.experts.gate_up_proj"), raw(gate_shape, gate_up));
        stacked.tensors.insert(format!("{mlp}.experts.down_proj"), raw(down_shape, down));
    }
    stacked
}

#[test]
fn stacked_experts_are_the_same_model() {
    for (name, experts) in [("mixtral", 8), ("qwen3_moe", 16), ("qwen2_moe", 8), ("olmoe", 16)] {
        let checkpoint = Checkpoint::of(name);
        let stacked = stacked(&checkpoint, 3, experts).write();
        for (label, dtype) in CHOICES {
            let chain = Chain::in_memory().unwrap();
            let expected = import(&chain, &fixture(name), dtype);
            assert_eq!(import(&chain, stacked.path(), dtype).model, expected.model, "{name} {label}");
        }
    }
}

#[test]
fn a_model_saved_without_the_class_around_it_is_the_same_model() {
    let mut checkpoint = Checkpoint::of("llama");
    let chain = Chain::in_memory().unwrap();
    let expected = import(&chain, &fixture("llama"), None);
    let bare = checkpoint
        .tensors
        .iter()
        .map(|(name, raw)| (name.trim_start_matches("model.").to_owned(), raw.clone()));
    checkpoint.tensors = bare.collect();
    assert_eq!(import(&chain, checkpoint.write().path(), None).model, expected.model);
    checkpoint.config.insert("tie_word_embeddings".to_owned(), false.into());
    let error = import::checkpoint(&chain, checkpoint.write().path(), &ImportOptions::default()).unwrap_err();
    assert!(
        matches!(&error, ImportError::MissingTensors { names } if names == &["lm_head.weight"]),
        "{error}"
    );
}

#[test]
fn a_tied_head_that_is_written_out_is_left_out() {
    let mut checkpoint = Checkpoint::of("llama");
    let chain = Chain::in_memory().unwrap();
    let expected = import(&chain, &fixture("llama"), None);
    let embedding = checkpoint.tensors["model.embed_tokens.weight"].clone();
    checkpoint.tensors.insert("lm_head.weight".to_owned(), embedding);
    let frequencies = Raw { dtype: Dtype::F32, shape: vec![8], data: vec![0; 32] };
    checkpoint.tensors.insert("model.layers.0.self_attn.rotary_emb.inv_freq".to_owned(), frequencies);
    assert_eq!(import(&chain, checkpoint.write().path(), None).model, expected.model);
    checkpoint.tensor("lm_head.weight").data[5] ^= 1;
    let error = import::checkpoint(&chain, checkpoint.write().path(), &ImportOptions::default()).unwrap_err();
    assert!(matches!(error, ImportError::TiedHeadDiffers));
}

/// As `safetensors.torch.save_model` writes it.
#[test]
fn a_tied_matrix_may_have_the_name_of_the_head() {
    let mut checkpoint = Checkpoint::of("llama");
    let embedding = checkpoint.tensors.remove("model.embed_tokens.weight").unwrap();
    checkpoint.tensors.insert("lm_head.weight".to_owned(), embedding);
    for dtype in [None, Some(DType::I8)] {
        let chain = Chain::in_memory().unwrap();
        let expected = import(&chain, &fixture("llama"), dtype);
        assert_eq!(import(&chain, checkpoint.write().path(), dtype).model, expected.model);
    }
    checkpoint.config["tie_word_embeddings"] = false.into();
    let chain = Chain::in_memory().unwrap();
    let error = import::checkpoint(&chain, checkpoint.write().path(), &ImportOptions::default()).unwrap_err();
    assert!(matches!(error, ImportError::MissingTensors { names } if names == ["model.embed_tokens.weight"]));
}

/// transformers 5 saves the templates of a tokenizer so, and reads them back so.
#[test]
fn chat_templates_in_a_folder_of_their_own_keep_their_names() {
    let mut checkpoint = Checkpoint::of("llama");
    let config = br#"{"bos_token": "<s>", "chat_template": "old"}"#;
    checkpoint.files.insert("tokenizer_config.json".to_owned(), config.to_vec());
    checkpoint.files.insert("chat_template.jinja".to_owned(), b"plain".to_vec());
    let dir = checkpoint.write();
    let folder = dir.path().join("additional_chat_templates");
    fs::create_dir(&folder).unwrap();
    for (file, text) in [("tool_use.jinja", "tools"), ("rag.v2.jinja", "documents"), ("notes.txt", "x")] {
        fs::write(folder.join(file), text).unwrap();
    }
    let config_of = |chain: &Chain| {
        let report = import(chain, dir.path(), None);
        assert_eq!(report.ignored_files, ["additional_chat_templates/notes.txt"]);
        let manifest = manifest(chain, &report.model);
        assert!(!manifest.slots.contains_key(&"chat_template".parse().unwrap()), "it would win");
        let config = manifest.slots[&"tokenizer_config".parse().unwrap()];
        serde_json::from_slice::<serde_json::Value>(&chain.payload(&config).unwrap()).unwrap()
    };
    let chain = Chain::in_memory().unwrap();
    let named = |name: &str, template: &str| json!({"name": name, "template": template});
    let (rag, tools) = (named("rag.v2", "documents"), named("tool_use", "tools"));
    let list = json!([named("default", "plain"), rag, tools]);
    assert_eq!(config_of(&chain), json!({"bos_token": "<s>", "chat_template": list}));
    for file in ["tokenizer_config.json", "chat_template.jinja"] {
        fs::remove_file(dir.path().join(file)).unwrap();
    }
    assert_eq!(config_of(&chain), json!({"chat_template": [rag, tools]}));

    let before = state(&chain);
    let refused = || import::checkpoint(&chain, dir.path(), &ImportOptions::default()).unwrap_err();
    fs::write(folder.join("rag.v2.jinja"), "{% if %}").unwrap();
    assert!(matches!(refused(), ImportError::ChatTemplate { file: "additional_chat_templates", .. }));
    fs::write(folder.join("rag.v2.jinja"), b"\xff").unwrap();
    let file = "additional_chat_templates/rag.v2.jinja";
    assert!(matches!(refused(), ImportError::NotUtf8 { file: bad } if bad == file));
    fs::write(folder.join("rag.v2.jinja"), vec![b'x'; (4 << 20) + 1]).unwrap();
    assert!(matches!(refused(), ImportError::FileTooLarge { file: bad, .. } if bad == file));
    assert_eq!(state(&chain), before);
}

#[test]
fn texts_are_kept_byte_for_byte_unless_the_tokenizer_lacks_tokens_and_other_files_are_named() {
    let mut checkpoint = Checkpoint::of("llama");
    let texts: [(&str, &str, &[u8]); 4] = [
        ("tokenizer.json", "tokenizer", b" {\"a\" : 1}\n"),
        ("tokenizer_config.json", "tokenizer_config", b"{\"chat_template\": \"x\"}"),
        ("special_tokens_map.json", "special_tokens_map", b"{ }"),
        ("chat_template.jinja", "chat_template", "{{ messages }} ë\r\n".as_bytes()),
    ];
    for (file, _, bytes) in texts {
        checkpoint.files.insert(file.to_owned(), bytes.to_vec());
    }
    checkpoint.files.insert("README.md".to_owned(), b"x".to_vec());
    // Read for a tokenizer that makes sense.
    checkpoint.files.insert("added_tokens.json".to_owned(), b"{\"<t>\": 3}".to_vec());
    let chain = Chain::in_memory().unwrap();
    let report = import(&chain, checkpoint.write().path(), None);
    assert_eq!(report.ignored_files, ["README.md"]);
    let manifest = manifest(&chain, &report.model);
    for (_, slot, bytes) in texts {
        let block = manifest.slots[&slot.parse().unwrap()];
        assert_eq!(&*chain.payload(&block).unwrap(), bytes);
        assert!(chain.get(&block).unwrap().header().parents.is_empty(), "models share their texts");
    }
    let generation = manifest.slots[&"generation_config".parse().unwrap()];
    assert_eq!(&*chain.payload(&generation).unwrap(), checkpoint.files["generation_config.json"]);

    let tokenizer = br#"{"added_tokens": [], "model": {"vocab": {"a": 0, "b": 1, "c": 2}}}"#;
    checkpoint.files.insert("tokenizer.json".to_owned(), tokenizer.to_vec());
    let report = import(&chain, checkpoint.write().path(), None);
    let tokenizer = self::manifest(&chain, &report.model).slots[&"tokenizer".parse().unwrap()];
    let completed: serde_json::Value = serde_json::from_slice(&chain.payload(&tokenizer).unwrap()).unwrap();
    assert_eq!(completed["added_tokens"][0]["content"], "<t>");
    assert_eq!(completed["added_tokens"][0]["id"], 3);
}

/// Every block of every fixture in every type: a change here is a change of the format, which needs a
/// version. `BLYAN_BLESS=1 cargo test --test main import::golden` writes the file again.
#[test]
fn golden_file_of_format_version_1() {
    let mut golden = BTreeMap::new();
    for (name, dir) in fixtures() {
        for (label, dtype) in CHOICES {
            let chain = Chain::in_memory().unwrap();
            let report = import(&chain, &dir, dtype);
            let manifest: Manifest = manifest(&chain, &report.model);
            let blocks: BTreeMap<String, String> =
                manifest.slots.iter().map(|(slot, block)| (slot.to_string(), block.to_string())).collect();
            let entry = json!({
                "model": report.model, "spec": report.spec, "root": report.root, "blocks": blocks,
            });
            golden.insert(format!("{name}/{label}"), entry);
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/format-v1.json");
    if std::env::var_os("BLYAN_BLESS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, serde_json::to_string_pretty(&golden).unwrap() + "\n").unwrap();
    }
    let expected: BTreeMap<String, Value> = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (name, entry) in &golden {
        assert_eq!(Some(entry), expected.get(name), "{name}");
    }
    assert_eq!(golden.len(), expected.len());
}
