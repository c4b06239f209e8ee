//! GGUF files: what becomes of them, compared with the folders they were made from, with the values that
//! the `gguf` package reads, and with tokens that other code gave (tools/make_gguf_fixtures.py).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::folders::{CHOICES, fixture, manifest, state, tensor_block};
use blyan_core::import::{self, GgufError, ImportError, ImportOptions, ImportReport};
use blyan_core::manager::text::Tokenizer;
use blyan_core::manager::{ManagerOptions, MoEModelManager};
use blyan_core::{Chain, DType, ModelSpec, Slot, VerifyOptions};
use half::{bf16, f16};
use safetensors::SafeTensors;
use serde_json::{Value, json};

fn gguf(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gguf").join(name)
}

fn import(chain: &Chain, path: &Path, dtype: Option<DType>) -> ImportReport {
    let options = ImportOptions { dtype, ..ImportOptions::default() };
    import::checkpoint(chain, path, &options)
        .unwrap_or_else(|error| panic!("{} {dtype:?}: {error}", path.display()))
}

fn refused(path: &Path) -> ImportError {
    let chain = Chain::in_memory().unwrap();
    let error = import::checkpoint(&chain, path, &ImportOptions::default()).unwrap_err();
    assert!(chain.is_empty().unwrap());
    error
}

fn open(chain: &Chain) -> MoEModelManager {
    let options = ManagerOptions { threads: Some(2), persist_usage: false, ..ManagerOptions::default() };
    MoEModelManager::open(chain, &options).unwrap()
}

/// A fixture folder without the file that no GGUF has: its own bytes of generation_config.json.
fn folder(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture(name)).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap();
        if file == "config.json" || file.starts_with("model") {
            fs::copy(&path, dir.path().join(file)).unwrap();
        }
    }
    dir
}

#[test]
fn a_file_with_the_folders_tensors_is_the_folders_model() {
    let pairs = [
        ("llama_bias", "llama_bias"),
        ("llama_llama3", "llama_llama3"),
        ("mixtral_window", "mixtral_window"),
        ("mixtral-2023", "mixtral_window"),
        ("olmoe_clip_qkv", "olmoe_clip_qkv"),
        ("qwen2_moe_step2", "qwen2_moe_step2"),
        ("qwen2_odd", "qwen2_odd"),
        ("qwen3_odd", "qwen3_odd"),
        ("qwen3-split-00001-of-00003", "qwen3_odd"),
        ("qwen3_moe_mlp_only", "qwen3_moe_mlp_only"),
    ];
    for (file, name) in pairs {
        let folder = folder(name);
        let path = gguf(&format!("{file}.gguf"));
        for (label, dtype) in CHOICES {
            let chain = Chain::in_memory().unwrap();
            let expected = import(&chain, folder.path(), dtype);
            let actual = import(&chain, &path, dtype);
            assert_eq!((actual.model, actual.root), (expected.model, expected.root), "{file} {label}");
            assert_eq!((actual.blocks_new, actual.ignored_files.len()), (0, 0), "{file} {label}");
        }
    }
}

#[test]
fn a_file_as_converters_write_it_computes_the_folders_bits() {
    // Norms in F32: other blocks, the same numbers.
    let logits = |path: &Path| {
        let chain = Chain::in_memory().unwrap();
        import(&chain, path, None);
        assert!(chain.verify(&VerifyOptions { full: true, ..VerifyOptions::default() }).unwrap().is_ok());
        let logits = open(&chain).logits(&[3, 17, 99, 200, 5, 5, 0]).unwrap();
        logits.iter().map(|logit| logit.to_bits()).collect::<Vec<_>>()
    };
    assert_eq!(logits(&gguf("llama-as-converted.gguf")), logits(&fixture("llama")));
}

/// Rounds as the chosen type does, by another crate.
fn rounded(dtype: DType, value: f32) -> Vec<u8> {
    match dtype {
        DType::F16 => f16::from_f64(f64::from(value)).to_le_bytes().to_vec(),
        DType::BF16 => bf16::from_f64(f64::from(value)).to_le_bytes().to_vec(),
        _ => value.to_le_bytes().to_vec(),
    }
}

#[test]
fn every_quantized_type_has_the_values_that_the_gguf_package_reads() {
    let places = [
        ("token_embd", "embedding", "embed_tokens.weight"),
        ("blk.0.attn_norm", "layer0.attention", "input_layernorm.weight"),
        ("blk.0.attn_q", "layer0.attention", "q_proj.weight"),
        ("blk.0.attn_k", "layer0.attention", "k_proj.weight"),
        ("blk.0.attn_v", "layer0.attention", "v_proj.weight"),
        ("blk.0.attn_output", "layer0.attention", "o_proj.weight"),
        ("blk.0.ffn_norm", "layer0.attention", "post_attention_layernorm.weight"),
        ("blk.0.ffn_gate", "layer0.expert0", "gate_proj.weight"),
        ("blk.0.ffn_up", "layer0.expert0", "up_proj.weight"),
        ("blk.0.ffn_down", "layer0.expert0", "down_proj.weight"),
        ("output_norm", "final_norm", "norm.weight"),
        ("output", "head", "lm_head.weight"),
    ];
    for number in 0..2 {
        let bytes = fs::read(gguf(&format!("types{number}.safetensors"))).unwrap();
        let expected = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(expected.len(), places.len());
        // Quantized tensors without a chosen type become F16.
        for dtype in [None, Some(DType::F32), Some(DType::BF16), Some(DType::F16)] {
            let chain = Chain::in_memory().unwrap();
            let model = import(&chain, &gguf(&format!("types{number}.gguf")), dtype).model;
            for (name, slot, tensor) in places {
                let block = tensor_block(&chain, &model, slot);
                let view = block.tensor(tensor).unwrap();
                let values = expected.tensor(name).unwrap();
                assert_eq!(view.shape().dims(), values.shape(), "{name}");
                let plain = matches!(name, "blk.0.attn_output" | "blk.0.ffn_down");
                if !name.ends_with("norm") && !plain {
                    assert_eq!(view.dtype(), dtype.unwrap_or(DType::F16), "{name}");
                }
                let bytes = values.data().as_chunks::<4>().0;
                let bytes: Vec<u8> =
                    bytes.iter().flat_map(|b| rounded(view.dtype(), f32::from_le_bytes(*b))).collect();
                assert_eq!(view.data(), bytes, "types{number} {name} {dtype:?}");
            }
        }
    }
}

#[test]
fn quantized_experts_become_int8_as_from_the_same_values_in_a_folder() {
    // The same values as F32 in one file and in blocks in another: one row scale for both.
    let (chain, f32_chain) = (Chain::in_memory().unwrap(), Chain::in_memory().unwrap());
    let int8 = import(&chain, &gguf("types0.gguf"), Some(DType::I8)).model;
    let wide = import(&f32_chain, &gguf("types0.gguf"), Some(DType::F32)).model;
    let (int8, wide) = (
        tensor_block(&chain, &int8, "layer0.attention"),
        tensor_block(&f32_chain, &wide, "layer0.attention"),
    );
    for name in ["q_proj.weight", "k_proj.weight", "v_proj.weight"] {
        let values = wide.tensor(name).unwrap();
        let expected = blyan_core::tensor::quantize(DType::I8, &values).unwrap();
        assert_eq!(int8.tensor(name).unwrap().data(), expected.values);
        assert_eq!(int8.scale(name).unwrap().data(), expected.scales);
    }
}

fn tokens() -> Value {
    serde_json::from_slice(&fs::read(gguf("tokens.json")).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
}

#[test]
fn byte_level_tokens_are_those_of_a_plain_implementation() {
    let page = format!("{} quickly", include_str!("texts/mixed.txt"));
    let expected = tokens();
    let expected = expected["byte_level"].as_object().unwrap();
    assert!(expected.len() >= 10);
    for (pre, expected) in expected {
        let chain = Chain::in_memory().unwrap();
        import(&chain, &gguf(&format!("bpe-{pre}.gguf")), None);
        let manager = open(&chain);
        let tokenizer = manager.tokenizer().unwrap();
        let id = |token| tokenizer.token_id(token).unwrap();
        let tokens = tokenizer.encode(&page, false).unwrap();
        assert!(tokens == ids(expected), "{pre}");
        if !matches!(pre.as_str(), "qwen2" | "olmo") {
            assert_eq!(tokenizer.decode(&tokens, false).unwrap(), page, "{pre}");
        }
        let (bos, eos) = (id("<|im_start|>"), id("<|im_end|>"));
        let bare = tokenizer.encode("Hello", false).unwrap();
        let with = tokenizer.encode("Hello", true).unwrap();
        let wrapped = [&[bos], bare.as_slice(), &[eos]].concat();
        assert_eq!(with, if pre == "gpt-2" { wrapped } else { bare }, "{pre}");
        // A name made up for a row without a token.
        let rows = u32::try_from(tokenizer.vocab_size()).unwrap();
        assert_eq!(tokenizer.token(rows - 1), None);
        assert_eq!(tokenizer.decode(&[rows - 1], false).unwrap(), "");
        assert_eq!(tokenizer.decode(&[bos, id("<think>")], true).unwrap(), "<think>");
    }
}

#[test]
fn sentence_piece_tokens_are_those_of_sentence_piece() {
    for (name, expected) in tokens()["sentence_piece"].as_object().unwrap() {
        let chain = Chain::in_memory().unwrap();
        import(&chain, &gguf(&format!("{name}.gguf")), None);
        let manager = open(&chain);
        let tokenizer: &Tokenizer = manager.tokenizer().unwrap();
        for pair in expected.as_array().unwrap() {
            let line = pair[0].as_str().unwrap();
            let tokens = tokenizer.encode(line, true).unwrap();
            assert_eq!(tokens, ids(&pair[1]), "{name} {line:?}");
            assert_eq!(tokenizer.decode(&tokens, true).unwrap(), line, "{name}");
        }
    }
}

#[test]
fn texts_are_what_a_folder_has_as_files() {
    let texts = |file: &str| {
        let chain = Chain::in_memory().unwrap();
        let model = import(&chain, &gguf(file), None).model;
        let manifest = manifest(&chain, &model);
        let spec = ModelSpec::from_canonical_json(&chain.payload(&manifest.spec).unwrap()).unwrap();
        let text = |slot: &Slot| {
            let bytes = chain.payload(manifest.slots.get(slot)?).unwrap();
            Some(String::from_utf8(bytes.to_vec()).unwrap())
        };
        let slots = [Slot::TokenizerConfig, Slot::ChatTemplate, Slot::GenerationConfig];
        (spec, slots.map(|slot| text(&slot)))
    };
    let json = |text: &Option<String>| serde_json::from_str::<Value>(text.as_ref().unwrap()).unwrap();

    let (spec, [config, template, generation]) = texts("bpe-smollm.gguf");
    let (end, start, turn) = (701, 702, 703);
    assert_eq!((spec.tokens.bos_token_id, spec.tokens.pad_token_id), (Some(start), Some(end)));
    // The end of a text is found by its name, the end of a turn is what the file calls EOS.
    assert_eq!(spec.tokens.eos_token_ids, [end, turn]);
    assert_eq!(
        json(&generation),
        json!({"bos_token_id": start, "eos_token_id": [end, turn], "pad_token_id": end})
    );
    let expected = json!({
        "add_bos_token": false, "add_eos_token": false, "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "clean_up_tokenization_spaces": false,
        "model_max_length": 64, "tokenizer_class": "PreTrainedTokenizerFast",
    });
    assert_eq!(json(&config), expected);
    assert!(template.unwrap().starts_with("{% for m in messages %}<|im_start|>"));

    // Named templates are a list.
    let (_, [config, template, _]) = texts("bpe-qwen2.gguf");
    assert_eq!(template, None);
    let templates = json(&config)["chat_template"].clone();
    let names: BTreeMap<&str, &str> = templates
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["name"].as_str().unwrap(), entry["template"].as_str().unwrap()))
        .collect();
    assert_eq!(names["default"], "{{ messages[0].content }}");
    assert_eq!(names["tool_use"], "{{ tools | length }}");

    let (spec, [_, template, _]) = texts("spm.gguf");
    assert_eq!((spec.tokens.bos_token_id, spec.tokens.eos_token_ids, template), (Some(1), vec![2], None));
}

/// As older converters wrote all added tokens: such a model never stopped.
#[test]
fn ends_of_a_text_are_known_by_their_names_whatever_their_type() {
    let expected = import(&Chain::in_memory().unwrap(), &gguf("bpe-smollm.gguf"), None).model;
    let mut bytes = fs::read(gguf("bpe-smollm.gguf")).unwrap();
    let key = b"tokenizer.ggml.token_type";
    let place = bytes.windows(key.len()).position(|window| window == key).unwrap();
    // Type of the value, type of its elements, their number.
    let first = place + key.len() + 4 + 4 + 8;
    for (id, (control, other)) in [(701, (3, 4)), (703, (3, 1))] {
        assert_eq!(bytes[first + 4 * id], control);
        bytes[first + 4 * id] = other;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("changed.gguf");
    fs::write(&path, bytes).unwrap();
    assert_eq!(import(&Chain::in_memory().unwrap(), &path, None).model, expected);
}

#[test]
fn only_the_first_of_several_files_is_taken_and_all_must_be_there() {
    let dir = tempfile::tempdir().unwrap();
    let part = |number: u32| format!("qwen3-split-{number:05}-of-00003.gguf");
    for number in 1..=3 {
        fs::copy(gguf(&part(number)), dir.path().join(part(number))).unwrap();
    }
    let error = refused(&dir.path().join(part(2)));
    assert!(
        matches!(&error, ImportError::Gguf { source: GgufError::NotFirstPart { part: 2, parts: 3, first }, .. }
            if *first == part(1)),
        "{error}"
    );
    // Under another name the others cannot be found.
    fs::copy(gguf(&part(1)), dir.path().join("other.gguf")).unwrap();
    let error = refused(&dir.path().join("other.gguf"));
    assert!(matches!(error, ImportError::Gguf { source: GgufError::Parts { .. }, .. }), "{error}");
    fs::copy(gguf(&part(3)), dir.path().join(part(2))).unwrap();
    let error = refused(&dir.path().join(part(1)));
    assert!(matches!(error, ImportError::Gguf { source: GgufError::Parts { .. }, .. }), "{error}");
    fs::remove_file(dir.path().join(part(2))).unwrap();
    let error = refused(&dir.path().join(part(1)));
    assert!(matches!(&error, ImportError::Io { path, .. } if path.ends_with(part(2))), "{error}");
}

#[test]
fn a_cancelled_or_dry_import_appends_nothing() {
    let chain = Chain::in_memory().unwrap();
    let before = state(&chain);
    let dry = ImportOptions { dry_run: true, ..ImportOptions::default() };
    let promised = import::checkpoint(&chain, gguf("qwen3_odd.gguf"), &dry).unwrap();
    assert_eq!(state(&chain), before);
    let cancel = std::sync::atomic::AtomicBool::new(true);
    let options = ImportOptions { cancel: Some(&cancel), ..ImportOptions::default() };
    let error = import::checkpoint(&chain, gguf("qwen3_odd.gguf"), &options).unwrap_err();
    assert!(matches!(error, ImportError::Cancelled));
    assert_eq!(state(&chain), before);
    assert_eq!(import(&chain, &gguf("qwen3_odd.gguf"), None), promised);
}

/// A value of the metadata, as a file has it.
enum Meta<'a> {
    U32(u32),
    F32(f32),
    Text(&'a str),
}

/// A small file with keys added. They go to the front, with one more that makes them a multiple of the
/// alignment, so that nothing behind them changes.
fn with_keys(keys: &[(&str, Meta<'_>)]) -> tempfile::TempDir {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let mut added = Vec::new();
    for (key, value) in keys {
        added.extend(text(key));
        match value {
            Meta::U32(value) => added.extend([4u32.to_le_bytes(), value.to_le_bytes()].concat()),
            Meta::F32(value) => added.extend([6u32.to_le_bytes(), value.to_le_bytes()].concat()),
            Meta::Text(value) => added.extend([&8u32.to_le_bytes()[..], &text(value)].concat()),
        }
    }
    let (key, kind) = (text("test.padding"), 8u32.to_le_bytes());
    let len = added.len() + key.len() + kind.len() + 8;
    added.extend([&key[..], &kind, &text(&" ".repeat(len.next_multiple_of(32) - len))].concat());

    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/gguf/valid-plain");
    let mut bytes = fs::read(base).unwrap();
    let count = u64::from_le_bytes(bytes[16..24].try_into().unwrap()) + keys.len() as u64 + 1;
    bytes[16..24].copy_from_slice(&count.to_le_bytes());
    bytes.splice(24..24, added);
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("model.gguf"), bytes).unwrap();
    dir
}

fn spec_with(keys: &[(&str, Meta<'_>)], ignored: &[&str]) -> Result<ModelSpec, ImportError> {
    let dir = with_keys(keys);
    let chain = Chain::in_memory().unwrap();
    let ignore_config_keys = ignored.iter().map(|key| (*key).to_owned()).collect();
    let options = ImportOptions { ignore_config_keys, ..ImportOptions::default() };
    let model = import::checkpoint(&chain, dir.path().join("model.gguf"), &options)?.model;
    let spec = manifest(&chain, &model).spec;
    Ok(ModelSpec::from_canonical_json(&chain.payload(&spec).unwrap()).unwrap())
}

#[test]
fn a_big_endian_file_is_called_so() {
    let dir = with_keys(&[]);
    let path = dir.path().join("model.gguf");
    let mut bytes = fs::read(&path).unwrap();
    bytes[4..8].reverse();
    fs::write(&path, bytes).unwrap();
    let error = refused(&path);
    assert!(
        matches!(error, ImportError::Gguf { source: GgufError::BigEndian { version: 2 | 3 }, .. }),
        "{error}"
    );
}

#[test]
fn keys_are_honoured_or_refused_by_name() {
    use Meta::{F32, Text, U32};
    let plain = spec_with(&[], &[]).unwrap();
    assert_eq!((plain.rms_norm_eps, plain.rope.rope_theta), (1e-5, 1e4));
    let linear = [("llama.rope.scaling.type", Text("linear")), ("llama.rope.scaling.factor", F32(2.5))];
    let json = |spec: &ModelSpec| serde_json::to_value(&spec.rope.scaling).unwrap();
    assert_eq!(json(&spec_with(&linear, &[]).unwrap()), json!({"rope_type": "linear", "factor": 2.5}));
    let yarn = |original| {
        [
            ("llama.rope.scaling.type", Text("yarn")),
            ("llama.rope.scaling.factor", F32(4.0)),
            ("llama.rope.scaling.original_context_length", U32(original)),
            ("llama.rope.scaling.yarn_beta_fast", F32(16.0)),
            ("llama.rope.scaling.finetuned", U32(1)),
        ]
    };
    let scaling = json(&spec_with(&yarn(8), &[]).unwrap());
    // 0.1 ln 4 + 1, as in the paper.
    assert!((scaling["attention_factor"].as_f64().unwrap() - 1.138_629_436_111_989).abs() < 1e-12);
    let (factor, original) = (&scaling["factor"], &scaling["original_max_position_embeddings"]);
    assert_eq!((factor, original), (&json!(4.0), &json!(8)));
    assert_eq!((&scaling["beta_fast"], &scaling["beta_slow"]), (&json!(16.0), &json!(1.0)));
    // As in a folder: the factor says how far the context reaches.
    let reach = |original| spec_with(&yarn(original), &[]).unwrap().max_position_embeddings;
    assert_eq!((reach(8), reach(128)), (plain.max_position_embeddings.max(32), 512));
    let window = spec_with(&[("llama.attention.sliding_window", U32(5))], &[]).unwrap();
    assert_eq!(window.layers[0].sliding_window, Some(5));
    let clip = spec_with(&[("llama.attention.clamp_kqv", F32(0.8))], &[]).unwrap();
    assert_eq!(clip.attention.clip_qkv, Some(0.8));
    // Values that ask for nothing, and keys of other programs.
    let neutral = [("llama.logit_scale", F32(1.0)), ("llama.expert_count", U32(0)), ("other.key", U32(1))];
    assert_eq!(spec_with(&neutral, &[]).unwrap(), plain);

    let named = |error: ImportError, expected: &str| match error {
        ImportError::Gguf {
            source: GgufError::UnknownKey { key, .. } | GgufError::Unsupported { key, .. },
            file,
        } => {
            assert_eq!((key.as_str(), file.as_str()), (expected, "model.gguf"));
        }
        error => panic!("{expected}: {error}"),
    };
    for key in ["llama.logit_scale", "llama.some_new_thing", "llama.rope.dimension_sections"] {
        named(spec_with(&[(key, F32(0.5))], &[]).unwrap_err(), key);
        // Whoever knows better says so.
        assert_eq!(spec_with(&[(key, F32(0.5))], &[key]).unwrap(), plain, "{key}");
    }
    // A chat template without a tokenizer was once dropped without a word, and so were tokens without a model.
    for key in ["tokenizer.chat_template", "tokenizer.chat_template.tool_use"] {
        named(spec_with(&[(key, Text("{{ messages }}"))], &[]).unwrap_err(), key);
        assert_eq!(spec_with(&[(key, Text("{{ messages }}"))], &[key]).unwrap(), plain, "{key}");
    }
    for key in ["tokenizer.ggml.bos_token_id", "tokenizer.ggml.eot_token_id"] {
        let last = u32::try_from(plain.vocab_size).unwrap() - 1;
        match spec_with(&[(key, U32(last + 1))], &[]).unwrap_err() {
            ImportError::Gguf { source: GgufError::InvalidValue { key: found, .. }, .. } => {
                assert_eq!(found, key);
            }
            error => panic!("{key}: {error}"),
        }
        spec_with(&[(key, U32(last))], &[]).unwrap();
    }
    match spec_with(&[("tokenizer.ggml.tokens", Text("a"))], &[]).unwrap_err() {
        ImportError::Gguf { source: GgufError::MissingKey { key }, .. } => {
            assert_eq!(key, "tokenizer.ggml.model");
        }
        error => panic!("{error}"),
    }
    let ntk = [("llama.rope.scaling.type", Text("longrope"))];
    named(spec_with(&ntk, &[]).unwrap_err(), "llama.rope.scaling.type");
}
