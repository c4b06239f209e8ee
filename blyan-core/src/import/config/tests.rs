//! The keys of config.json, one by one.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Details, config_json, read};
use crate::format::{Architecture, FeedForward, ModelSpec, QkNorm, RopeScaling};
use crate::import::error::ImportError;
use crate::import::json::object;

type Config = Map<String, Value>;

fn fixture(name: &str) -> Config {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name).join("config.json");
    object("config.json", &std::fs::read(path).unwrap()).unwrap()
}

fn all_fixtures() -> Vec<(String, Config)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().path().is_dir())
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names.into_iter().map(|name| (name.clone(), fixture(&name))).collect()
}

fn spec(config: &Config) -> Result<ModelSpec, ImportError> {
    read(config, None, &[])
}

/// The config with some keys replaced.
fn with(config: &Config, keys: Value) -> Config {
    let mut config = config.clone();
    config.extend(keys.as_object().unwrap().clone());
    config
}

fn without(config: &Config, keys: &[&str]) -> Config {
    config
        .iter()
        .filter(|(key, _)| !keys.contains(&key.as_str()))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}

/// The same config in the key names of transformers 4.
fn in_version_4(config: &Config) -> Config {
    let mut old = without(config, &["rope_parameters", "dtype", "layer_types"]);
    let mut rope = config["rope_parameters"].as_object().unwrap().clone();
    old.insert("rope_theta".into(), rope.shift_remove("rope_theta").unwrap());
    let rope_type = rope.shift_remove("rope_type").unwrap();
    let scaling = if rope_type == "default" {
        Value::Null
    } else {
        rope.insert("type".into(), rope_type);
        rope.into()
    };
    old.insert("rope_scaling".into(), scaling);
    old.insert("torch_dtype".into(), config["dtype"].clone());
    if config["model_type"] == "qwen3_moe" {
        let experts = old.shift_remove("num_local_experts").unwrap();
        old.insert("num_experts".into(), experts);
    }
    old
}

#[test]
fn both_versions_of_transformers_mean_the_same() {
    for (name, config) in all_fixtures() {
        let new = spec(&config).unwrap();
        assert_eq!(spec(&in_version_4(&config)).unwrap(), new, "{name}");
        // Both spellings at once, as some tools write them.
        let both = with(&in_version_4(&config), Value::Object(config.clone()));
        assert_eq!(spec(&both).unwrap(), new, "{name}");
    }
}

#[test]
fn fixtures_mean_what_their_names_say() {
    let layers = |name: &str| spec(&fixture(name)).unwrap().layers;
    assert!(layers("mixtral_window").iter().all(|layer| layer.sliding_window == Some(9)));
    assert!(layers("mixtral").iter().all(|layer| layer.sliding_window.is_none()));
    let sparse = |name: &str| -> Vec<bool> {
        layers(name).iter().map(|layer| matches!(layer.feed_forward, FeedForward::Moe { .. })).collect()
    };
    assert_eq!(sparse("qwen2_moe_step2"), [false, true, false]);
    assert_eq!(sparse("qwen3_moe_mlp_only"), [true, false, true]);
    let bias = spec(&fixture("llama_bias")).unwrap();
    assert!(bias.attention.qkv_bias && bias.attention.output_bias);
    assert!(matches!(bias.layers[0].feed_forward, FeedForward::Dense { bias: true, .. }));
    let qwen2 = spec(&fixture("qwen2_moe")).unwrap().attention;
    assert!(qwen2.qkv_bias && !qwen2.output_bias);
    assert_eq!(spec(&fixture("olmoe_clip_qkv")).unwrap().attention.clip_qkv, Some(0.8));
    assert_eq!(spec(&fixture("olmoe")).unwrap().attention.qk_norm, QkNorm::AllHeads);
    assert_eq!(spec(&fixture("qwen3")).unwrap().attention.qk_norm, QkNorm::PerHead);
    let mixtral = spec(&fixture("mixtral")).unwrap();
    assert_eq!((mixtral.attention.head_dim, mixtral.rope.rope_theta), (16, 1e6));
    assert!(matches!(
        mixtral.layers[0].feed_forward,
        FeedForward::Moe { num_experts: 8, num_experts_per_tok: 2, norm_topk_prob: true, .. }
    ));
    let RopeScaling::Yarn { factor, attention_factor, beta_fast, beta_slow, truncate, .. } =
        spec(&fixture("qwen3_moe_yarn")).unwrap().rope.scaling
    else {
        panic!("expected YaRN");
    };
    // 0.1 × ln 4 + 1, by hand.
    assert!((attention_factor - 1.138_629_436_111_989).abs() < 1e-15);
    assert_eq!((factor, beta_fast, beta_slow, truncate), (4.0, 32.0, 1.0, true));
    assert_eq!(
        spec(&fixture("llama_llama3")).unwrap().rope.scaling,
        RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 32
        }
    );
}

#[test]
fn what_is_written_reads_back_as_the_same_spec() {
    let window = json!({"use_sliding_window": true, "sliding_window": 5});
    let mut cases = all_fixtures();
    let types = json!(["full_attention", "sliding_attention", "full_attention"]);
    for (name, keys) in [
        ("qwen3", with(window.as_object().unwrap(), json!({"layer_types": types}))),
        ("qwen2_moe", with(window.as_object().unwrap(), json!({"layer_types": types}))),
        ("qwen3_moe", window.as_object().unwrap().clone()),
        (
            "qwen3_moe",
            json!({"mlp_only_layers": [0, 1, 2], "eos_token_id": [3, 1, 3]}).as_object().unwrap().clone(),
        ),
        ("qwen2_moe", json!({"num_experts": 0}).as_object().unwrap().clone()),
        ("llama", json!({"tie_word_embeddings": false, "eos_token_id": null}).as_object().unwrap().clone()),
    ] {
        cases.push((name.to_owned(), with(&fixture(name), Value::Object(keys))));
    }
    for (name, config) in cases {
        let spec = spec(&config).unwrap();
        let details = Details { torch_dtype: "bfloat16", own_head: false, quantization_config: None };
        let written = object("config.json", &config_json(&spec, details).unwrap()).unwrap();
        assert_eq!(super::read(&written, None, &[]).unwrap(), spec, "{name}");
    }
}

#[test]
fn a_spec_without_words_is_refused() {
    let mut spec = spec(&fixture("mixtral")).unwrap();
    spec.layers[1].sliding_window = Some(3);
    let details = Details { torch_dtype: "bfloat16", own_head: false, quantization_config: None };
    let error = config_json(&spec, details).unwrap_err();
    assert!(matches!(error, super::super::ExportError::NotExpressible { architecture: "mixtral", .. }));
}

#[test]
fn windows_follow_each_architecture() {
    let on = json!({"use_sliding_window": true, "sliding_window": 7});
    let windows = |name: &str, keys: Value| -> Vec<Option<usize>> {
        let config = with(&with(&without(&fixture(name), &["layer_types"]), on.clone()), keys);
        spec(&config).unwrap().layers.iter().map(|layer| layer.sliding_window).collect()
    };
    assert_eq!(windows("qwen3", json!({"max_window_layers": 1})), [None, Some(7), Some(7)]);
    assert_eq!(windows("qwen3", json!({})), [None; 3]);
    assert_eq!(windows("qwen3_moe", json!({})), [Some(7); 3]);
    let types = json!(["sliding_attention", "full_attention", "full_attention"]);
    assert_eq!(windows("qwen2_moe", json!({"layer_types": types})), [Some(7), None, None]);
    assert_eq!(
        windows("qwen3", json!({"layer_types": types, "max_window_layers": 0})),
        [Some(7), None, None]
    );
    assert_eq!(windows("qwen3", json!({"use_sliding_window": false, "max_window_layers": 0})), [None; 3]);
    assert_eq!(
        windows("qwen3_moe", json!({"use_sliding_window": false, "max_window_layers": 48})),
        [None; 3]
    );
}

/// An absent window was taken for null, which gave every layer full attention.
#[test]
fn an_absent_window_is_the_class_s_and_a_null_one_is_none() {
    let types = json!(["sliding_attention", "full_attention", "full_attention"]);
    for (name, keys, first) in [
        ("qwen2_odd", json!({"max_window_layers": 1}), 1),
        ("qwen3", json!({"max_window_layers": 1}), 1),
        ("qwen3_moe", json!({}), 0),
    ] {
        let config = without(&fixture(name), &["layer_types", "sliding_window"]);
        let config = with(&with(&config, json!({"use_sliding_window": true})), keys);
        let windows = |config: &Config| -> Vec<Option<usize>> {
            spec(config).unwrap().layers.iter().map(|layer| layer.sliding_window).collect()
        };
        let absent = windows(&config);
        assert!(absent.len() > first, "{name}");
        let expected = |layer: usize| (layer >= first).then_some(4096);
        assert!(absent.iter().enumerate().all(|(layer, window)| *window == expected(layer)), "{name}");
        let null = windows(&with(&config, json!({"sliding_window": null})));
        assert!(null.iter().all(Option::is_none), "{name}");
        let off = windows(&with(&config, json!({"use_sliding_window": false})));
        assert!(off.iter().all(Option::is_none), "{name}");
    }
    let config = without(&fixture("qwen2_moe"), &["layer_types", "sliding_window"]);
    let config = with(&config, json!({"use_sliding_window": true}));
    let error = spec(&config).unwrap_err();
    assert!(matches!(error, ImportError::Unsupported { key, .. } if key == "use_sliding_window"));
    let layers = spec(&with(&config, json!({"layer_types": types}))).unwrap().layers;
    let windows: Vec<Option<usize>> = layers.iter().map(|layer| layer.sliding_window).collect();
    assert_eq!(windows, [Some(4096), None, None]);
    let null = spec(&with(&config, json!({"sliding_window": null}))).unwrap().layers;
    assert!(null.iter().all(|layer| layer.sliding_window.is_none()));
}

#[test]
fn absent_keys_have_their_class_s_defaults() {
    let minimal = |name: &str, keys: &[&str]| spec(&without(&fixture(name), keys)).unwrap();
    let llama = minimal(
        "llama",
        &[
            "rope_parameters",
            "head_dim",
            "attention_bias",
            "mlp_bias",
            "tie_word_embeddings",
            "rms_norm_eps",
            "max_position_embeddings",
            "num_key_value_heads",
            "bos_token_id",
            "eos_token_id",
            "pad_token_id",
        ],
    );
    assert_eq!((llama.rope.rope_theta, llama.rms_norm_eps, llama.max_position_embeddings), (1e4, 1e-6, 2048));
    assert_eq!((llama.attention.head_dim, llama.attention.num_key_value_heads), (16, 4));
    assert!(!llama.tie_word_embeddings);
    assert_eq!((llama.tokens.bos_token_id, llama.tokens.eos_token_ids), (Some(1), vec![2]));
    assert_eq!(minimal("mixtral", &["rope_parameters"]).rope.rope_theta, 1e6);
    assert_eq!(minimal("qwen3", &["head_dim"]).attention.head_dim, 128);
    assert!(minimal("qwen2_moe", &["qkv_bias"]).attention.qkv_bias);
    assert!(matches!(
        minimal("qwen3_moe", &["norm_topk_prob", "decoder_sparse_step", "mlp_only_layers"]).layers[0]
            .feed_forward,
        FeedForward::Moe { norm_topk_prob: false, .. }
    ));
}

#[test]
fn rope_in_every_spelling() {
    let base = without(&fixture("llama"), &["rope_parameters"]);
    let rope = |keys: Value| spec(&with(&base, keys)).map(|spec| spec.rope);
    let linear = rope(json!({"rope_theta": 5000, "rope_scaling": {"type": "linear", "factor": 2}})).unwrap();
    assert_eq!((linear.rope_theta, &linear.scaling), (5000.0, &RopeScaling::Linear { factor: 2.0 }));
    let inner = json!({"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0});
    assert_eq!(rope(json!({"rope_parameters": inner})).unwrap(), linear);
    assert_eq!(rope(json!({"rope_parameters": {"full_attention": inner}})).unwrap(), linear);
    assert_eq!(
        rope(json!({"rope_parameters": {"full_attention": inner, "sliding_attention": inner}})).unwrap(),
        linear
    );
    assert_eq!(rope(json!({"rope_scaling": {}})).unwrap().scaling, RopeScaling::Default);
    let old = json!({"type": "linear", "factor": 2});
    // transformers takes rope_scaling for the whole, and the architecture's base with it.
    assert!(rope(json!({"rope_scaling": old, "rope_parameters": inner})).is_err());
    assert_eq!(
        rope(json!({"rope_scaling": old, "rope_parameters": inner, "rope_theta": 5000})).unwrap(),
        linear
    );
    let error = rope(json!({"rope_scaling": {"type": "linear", "factor": 3}, "rope_parameters": inner}));
    let text = error.unwrap_err().to_string();
    assert!(text.contains(r#"rope_scaling = {"type":"linear","factor":3}"#), "{text}");

    let yarn = |keys: Value| {
        let mut scaling = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64});
        scaling.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        match rope(json!({"rope_scaling": scaling})).unwrap().scaling {
            RopeScaling::Yarn {
                attention_factor,
                factor,
                beta_fast,
                original_max_position_embeddings,
                truncate,
                ..
            } => (attention_factor, factor, beta_fast, original_max_position_embeddings, truncate),
            other => panic!("{other:?}"),
        }
    };
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-15, "{a} {b}");
    assert_eq!(yarn(json!({"attention_factor": 0.5, "mscale": 3.0, "mscale_all_dim": 2.0})).0, 0.5);
    // (0.1 × 0.5 ln 4 + 1) / (0.1 × 2 ln 4 + 1)
    close(
        yarn(json!({"mscale": 0.5, "mscale_all_dim": 2.0})).0,
        1.069_314_718_055_994_5 / 1.277_258_872_223_978,
    );
    close(yarn(json!({"mscale": 0.5, "mscale_all_dim": 0})).0, 1.138_629_436_111_989);
    assert_eq!(yarn(json!({"factor": null})).1, 4.0, "256 positions / 64");
    assert_eq!(yarn(json!({"factor": 1.0})).0, 1.0);
    assert_eq!(yarn(json!({"beta_fast": 16, "truncate": false})).2, 16.0);
    assert!(!yarn(json!({"truncate": false})).4);
    assert!(!yarn(json!({"truncate": null})).4 && yarn(json!({})).4);
    let beside = with(
        &base,
        json!({
            "original_max_position_embeddings": 32, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}
        }),
    );
    assert!(matches!(
        spec(&beside).unwrap().rope.scaling,
        RopeScaling::Yarn { original_max_position_embeddings: 32, .. }
    ));
}

#[test]
fn yarn_reaches_as_far_as_its_factor_says() {
    let base = without(&fixture("llama"), &["rope_parameters"]);
    let positions = |scaling: Value| {
        spec(&with(&base, json!({"rope_scaling": scaling}))).unwrap().max_position_embeddings
    };
    assert_eq!(base["max_position_embeddings"], 256);
    let yarn = |factor: f64, original: u64| {
        positions(
            json!({"type": "yarn", "factor": factor, "original_max_position_embeddings": original, "finetuned": true}),
        )
    };
    assert_eq!((yarn(4.0, 256), yarn(4.0, 64), yarn(2.0, 64)), (1024, 256, 256));
    assert_eq!(yarn(1e300, 256), 1 << 24);
    assert_eq!(positions(json!({"type": "linear", "factor": 4.0})), 256);
}

#[test]
fn qwen3_moe_may_say_what_it_has() {
    let config = fixture("qwen3_moe");
    let coder = with(&config, json!({"shared_expert_intermediate_size": 0, "use_qk_norm": true}));
    assert_eq!(spec(&coder).unwrap(), spec(&config).unwrap());
}

#[test]
fn harmless_keys_are_harmless() {
    let config = fixture("mixtral");
    let expected = spec(&config).unwrap();
    for keys in [
        json!({"output_router_logits": true, "initializer_range": 7.0, "use_cache": false}),
        json!({"attention_dropout": 0.5, "hidden_dropout": 0.5, "router_aux_loss_coef": 9, "router_jitter_noise": 0.1}),
        json!({"transformers_version": "4.0.0", "architectures": ["X"], "_name_or_path": "/x/y"}),
        json!({"something_new": false, "another": null, "quantization_config": null}),
        json!({"norm_topk_prob": true, "hidden_act": "swish", "partial_rotary_factor": 1}),
        json!({"pad_token_id": -1, "num_experts": 8}),
        json!({"is_causal": true}),
        json!({"unsloth_fixed": true, "unsloth_version": "2025.1", "_attn_implementation": "sdpa"}),
        json!({"is_decoder": true, "pruned_heads": {}}),
        json!({"auto_map": {}, "something_new": [], "max_sequence_length": 9, "_flash_attn_2_enabled": true}),
    ] {
        assert_eq!(spec(&with(&config, keys.clone())).unwrap(), expected, "{keys}");
    }
    let unknown = with(&config, json!({"something_new": 1}));
    assert!(matches!(spec(&unknown), Err(ImportError::UnknownKey { key, .. }) if key == "something_new"));
    assert_eq!(read(&unknown, None, &["something_new".to_owned()]).unwrap(), expected);
}

#[test]
fn tokens_come_from_generation_config_first() {
    let config = fixture("llama");
    let tokens =
        |generation: Value| read(&config, Some(generation.as_object().unwrap()), &[]).unwrap().tokens;
    assert_eq!(tokens(json!({"eos_token_id": [9, 2, 9]})).eos_token_ids, [2, 9]);
    assert_eq!(tokens(json!({"eos_token_id": null})).eos_token_ids, [1]);
    assert_eq!(tokens(json!({"bos_token_id": 5, "pad_token_id": 6})).bos_token_id, Some(5));
    assert_eq!(tokens(json!({"pad_token_id": 6})).pad_token_id, Some(6));
    for bad in [json!("1"), json!(-2), json!([1, null]), json!(1.5), json!(4_294_967_296_u64)] {
        let generation = json!({"eos_token_id": bad});
        let error = read(&config, generation.as_object(), &[]).unwrap_err();
        assert!(matches!(error, ImportError::InvalidValue { file, .. } if file == "generation_config.json"));
    }
}

/// What must be refused, each with the key that the error has to name.
#[test]
fn arithmetic_that_is_not_supported_is_refused_by_name() {
    let sliding = json!(["sliding_attention", "full_attention", "full_attention"]);
    let cases = [
        ("mixtral", json!({"hidden_act": "gelu"}), "hidden_act"),
        ("mixtral", json!({"quantization_config": {"bits": 4}}), "quantization_config"),
        ("mixtral", json!({"norm_topk_prob": false}), "norm_topk_prob"),
        ("mixtral", json!({"attention_bias": true}), "attention_bias"),
        ("mixtral", json!({"clip_qkv": 1.0}), "clip_qkv"),
        ("mixtral", json!({"is_causal": false}), "is_causal"),
        ("qwen2_odd", json!({"is_causal": false}), "is_causal"),
        ("llama", json!({"is_causal": 1}), "is_causal"),
        ("llama", json!({"is_causal": null}), "is_causal"),
        ("llama", json!({"pruned_heads": {"0": [1]}}), "pruned_heads"),
        ("qwen3_moe", json!({"use_qk_norm": false}), "use_qk_norm"),
        ("mixtral", json!({"sliding_window": 0}), "sliding_window"),
        ("mixtral", json!({"layer_types": sliding}), "layer_types"),
        ("mixtral", json!({"auto_map": {"AutoModel": "x.Y"}}), "auto_map"),
        ("llama", json!({"sliding_window": 4096}), "sliding_window"),
        ("llama", json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor"),
        (
            "llama",
            json!({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}),
            "rope_parameters.partial_rotary_factor",
        ),
        (
            "llama",
            json!({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}),
            "rope_parameters.rope_type",
        ),
        ("llama", json!({"rope_parameters": {"type": "longrope"}}), "rope_parameters.type"),
        (
            "llama",
            json!({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "beta_fast": 3}}),
            "rope_parameters.beta_fast",
        ),
        (
            "llama",
            json!({"rope_parameters": {"full_attention": {"rope_type": "default"},
            "sliding_attention": {"rope_type": "linear", "factor": 2.0}}}),
            "rope_parameters.sliding_attention",
        ),
        ("llama", json!({"rope_interleaved": true}), "rope_interleaved"),
        ("llama", json!({"logits_scaling": 2.0}), "logits_scaling"),
        ("qwen3", json!({"layer_types": sliding}), "layer_types"),
        (
            "qwen3",
            json!({"layer_types": ["chunked_attention", "full_attention", "full_attention"]}),
            "layer_types",
        ),
        ("qwen3", json!({"mlp_bias": true}), "mlp_bias"),
        ("qwen3_moe", json!({"layer_types": sliding}), "layer_types"),
        (
            "qwen3_moe",
            json!({"use_sliding_window": true, "sliding_window": 8, "max_window_layers": 1}),
            "max_window_layers",
        ),
        ("qwen3_moe", json!({"shared_expert_intermediate_size": 8}), "shared_expert_intermediate_size"),
        (
            "qwen2_moe",
            json!({"layer_types": null, "use_sliding_window": true, "sliding_window": 8}),
            "use_sliding_window",
        ),
    ];
    for (name, keys, expected) in cases {
        let key = match spec(&with(&fixture(name), keys.clone())).expect_err(&keys.to_string()) {
            ImportError::Unsupported { key, .. }
            | ImportError::UnknownKey { key, .. }
            | ImportError::InvalidValue { key, .. } => key,
            other => panic!("{keys}: {other}"),
        };
        assert_eq!(key, expected, "{keys}");
    }
    for value in [json!("gpt2"), json!(3)] {
        let config = with(&fixture("llama"), json!({"model_type": value}));
        assert!(matches!(spec(&config), Err(ImportError::UnknownArchitecture { .. })));
    }
}

#[test]
fn contradictions_are_refused() {
    for (name, keys) in [
        ("mixtral", json!({"num_experts": 9})),
        ("mixtral", json!({"torch_dtype": "float16"})),
        ("mixtral", json!({"rope_theta": 1.0})),
        ("llama", json!({"rope_scaling": {"type": "linear", "factor": 2.0}})),
        ("llama", json!({"rope_parameters": {"rope_type": "default", "type": "linear", "factor": 2.0}})),
        ("qwen3_moe_yarn", json!({"original_max_position_embeddings": 65})),
    ] {
        let error = spec(&with(&fixture(name), keys.clone())).expect_err(&keys.to_string());
        assert!(matches!(error, ImportError::ConflictingKeys { .. }), "{keys}: {error}");
    }
    // The same value in both is no contradiction.
    let agreeing = json!({"torch_dtype": "torch.bfloat16", "rope_theta": 1e6, "num_experts": 8});
    spec(&with(&fixture("mixtral"), agreeing)).unwrap();
}

#[test]
fn missing_and_absurd_values_are_refused_by_name() {
    for (name, key) in [
        ("mixtral", "model_type"),
        ("mixtral", "num_hidden_layers"),
        ("mixtral", "hidden_size"),
        ("mixtral", "vocab_size"),
        ("mixtral", "intermediate_size"),
        ("mixtral", "num_attention_heads"),
        ("mixtral", "num_experts_per_tok"),
        ("qwen2_moe", "shared_expert_intermediate_size"),
        ("qwen3_moe", "moe_intermediate_size"),
        ("qwen3_moe_mlp_only", "intermediate_size"),
        ("llama", "intermediate_size"),
    ] {
        let error = spec(&without(&fixture(name), &[key])).expect_err(key);
        assert!(matches!(&error, ImportError::MissingKey { key: named } if named == key), "{key}: {error}");
    }
    let mixtral = fixture("mixtral");
    for key in [
        "num_hidden_layers",
        "hidden_size",
        "vocab_size",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "intermediate_size",
        "num_local_experts",
        "num_experts_per_tok",
        "max_position_embeddings",
        "rms_norm_eps",
        "tie_word_embeddings",
        "sliding_window",
        "rope_parameters",
        "layer_types",
        "eos_token_id",
    ] {
        for value in
            [json!(-7), json!(1.5), json!("x"), json!(u64::MAX), json!(1e300), json!({"a": []}), json!([[]])]
        {
            let config = with(&mixtral, json!({key: value}));
            let accepted = (key == "rms_norm_eps" && value.as_f64().is_some_and(|eps| eps > 0.0))
                || (key == "tie_word_embeddings" && value.is_boolean());
            assert_eq!(spec(&config).is_ok(), accepted, "{key} = {value}");
        }
    }
    for keys in [
        json!({"num_attention_heads": 0}),
        json!({"num_attention_heads": 3}),
        json!({"num_key_value_heads": 3}),
        json!({"num_key_value_heads": 0}),
        json!({"head_dim": 15}),
        json!({"head_dim": 16777216, "num_attention_heads": 16777216}),
        json!({"num_experts_per_tok": 9}),
        json!({"num_experts_per_tok": 0}),
        json!({"num_local_experts": 0}),
        json!({"num_hidden_layers": 0}),
        json!({"num_hidden_layers": 65537}),
        json!({"num_hidden_layers": 65536, "num_local_experts": 65536}),
        json!({"rms_norm_eps": 0.0}),
    ] {
        assert!(spec(&with(&mixtral, keys.clone())).is_err(), "{keys}");
    }
    for keys in [json!({"decoder_sparse_step": 0}), json!({"mlp_only_layers": [-1]}), json!({"head_dim": 1})]
    {
        assert!(spec(&with(&fixture("qwen3_moe"), keys.clone())).is_err(), "{keys}");
    }
    assert!(spec(&with(&fixture("olmoe"), json!({"head_dim": 8}))).is_err());
    assert!(spec(&with(&fixture("qwen3"), json!({"head_dim": null}))).is_err());
    for factor in [json!(0), json!(-1.0), json!(null), json!("2")] {
        let keys = json!({"rope_parameters": {"rope_type": "linear", "factor": factor}});
        assert!(spec(&with(&fixture("llama"), keys.clone())).is_err(), "{keys}");
    }
    assert_eq!(spec(&fixture("llama")).unwrap().architecture, Architecture::Llama);
}
