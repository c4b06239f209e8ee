//! Exporting models: the checkpoint comes back byte for byte, and as a folder others can load.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::folders::{CHOICES, Checkpoint, Raw, fixture, fixtures, tensor_block, weights};
use blyan_core::export::{self, ExportError, ExportOptions};
use blyan_core::import::{self, ImportError, ImportOptions, ImportReport};
use blyan_core::{Chain, DType};
use safetensors::tensor::Dtype;
use serde_json::{Value, json};

fn import(chain: &Chain, dir: &Path, dtype: Option<DType>) -> ImportReport {
    let options = ImportOptions { dtype, ..ImportOptions::default() };
    import::checkpoint(chain, dir, &options).unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
}

fn config(dir: &Path) -> Value {
    serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap()
}

#[test]
fn kept_types_come_back_byte_for_byte() {
    for (name, dir) in fixtures() {
        let chain = Chain::in_memory().unwrap();
        let report = import(&chain, &dir, None);
        let out = tempfile::tempdir().unwrap();
        let target = out.path().join("new/folder");
        let exported = export::checkpoint(&chain, &report.model, &target, &ExportOptions::default()).unwrap();
        let (original, copy) = (weights(&dir), weights(&target));
        assert!(original == copy, "{name}");
        assert_eq!(exported.tensors, original.len() as u64);
        assert_eq!(exported.tensor_bytes, original.values().map(|raw| raw.data.len() as u64).sum::<u64>());
        for file in ["generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
            assert_eq!(fs::read(dir.join(file)).ok(), fs::read(target.join(file)).ok(), "{name} {file}");
        }
        assert!(exported.files.iter().all(|file| target.join(file).is_file()));
        assert_eq!(fs::read_dir(&target).unwrap().count(), exported.files.len());
        // Nothing is left beside it.
        assert_eq!(fs::read_dir(target.parent().unwrap()).unwrap().count(), 1);

        // The same model comes out of the copy.
        let again = import(&chain, &target, None);
        assert_eq!((again.model, again.blocks_new), (report.model, 0), "{name}");
    }
}

#[test]
fn every_key_of_the_original_config_that_matters_comes_back() {
    // The keys that both the fixtures and the export spell alike; re-importing compares the rest.
    for (name, dir) in fixtures() {
        let chain = Chain::in_memory().unwrap();
        let report = import(&chain, &dir, None);
        let out = tempfile::tempdir().unwrap();
        export::checkpoint(&chain, &report.model, out.path(), &ExportOptions::default()).unwrap();
        let (original, copy) = (config(&dir), config(out.path()));
        for key in [
            "model_type",
            "architectures",
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "rms_norm_eps",
            "num_attention_heads",
            "num_key_value_heads",
            "max_position_embeddings",
            "tie_word_embeddings",
            "eos_token_id",
            "bos_token_id",
            "pad_token_id",
            "num_experts_per_tok",
            "norm_topk_prob",
            "moe_intermediate_size",
            "shared_expert_intermediate_size",
            "clip_qkv",
            "attention_bias",
            "mlp_bias",
        ] {
            assert_eq!(original.get(key), copy.get(key), "{name} {key}");
        }
        let rope = &original["rope_parameters"];
        assert_eq!(copy["rope_theta"], rope["rope_theta"], "{name}");
        assert_eq!(copy["torch_dtype"], original["dtype"], "{name}");
    }
}

#[test]
fn shards_have_an_index_that_agrees_with_them() {
    let chain = Chain::in_memory().unwrap();
    let report = import(&chain, &fixture("mixtral_odd"), None);
    let out = tempfile::tempdir().unwrap();
    let options = ExportOptions { max_shard_bytes: 0, ..ExportOptions::default() };
    let refused = export::checkpoint(&chain, &report.model, out.path(), &options);
    assert!(matches!(refused, Err(ExportError::NoShardBytes)), "{refused:?}");
    let options = ExportOptions { max_shard_bytes: 100_000, ..ExportOptions::default() };
    let exported = export::checkpoint(&chain, &report.model, out.path(), &options).unwrap();
    let index: Value =
        serde_json::from_slice(&fs::read(out.path().join("model.safetensors.index.json")).unwrap()).unwrap();
    assert_eq!(index["metadata"]["total_size"], exported.tensor_bytes);
    let map: BTreeMap<String, String> = serde_json::from_value(index["weight_map"].clone()).unwrap();
    let mut files: Vec<&String> = map.values().collect();
    files.sort();
    files.dedup();
    assert!(files.len() > 3);
    assert_eq!(*files[0], format!("model-00001-of-{:05}.safetensors", files.len()));
    for file in files {
        let bytes = fs::read(out.path().join(file)).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let data: usize = tensors.tensors().iter().map(|(_, view)| view.data().len()).sum();
        assert!(data <= 100_000);
        assert!(tensors.names().iter().all(|name| map[*name] == *file));
    }
    assert!(weights(&fixture("mixtral_odd")) == weights(out.path()));
    assert_eq!(import(&chain, out.path(), None).model, report.model);
}

#[test]
fn files_name_their_format_as_transformers_demands() {
    let chain = Chain::in_memory().unwrap();
    let report = import(&chain, &fixture("llama"), None);
    let out = tempfile::tempdir().unwrap();
    export::checkpoint(&chain, &report.model, out.path(), &ExportOptions::default()).unwrap();
    let bytes = fs::read(out.path().join("model.safetensors")).unwrap();
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
}

#[test]
fn quantized_models_are_written_as_compressed_tensors() {
    for (name, dir) in fixtures() {
        for (dtype, format, kind) in
            [(DType::I8, "int-quantized", "int"), (DType::F8E4M3, "float-quantized", "float")]
        {
            let chain = Chain::in_memory().unwrap();
            let report = import(&chain, &dir, Some(dtype));
            let out = tempfile::tempdir().unwrap();
            export::checkpoint(&chain, &report.model, out.path(), &ExportOptions::default()).unwrap();
            let config = config(out.path());
            let quantization = &config["quantization_config"];
            assert_eq!(quantization["quant_method"], "compressed-tensors");
            assert_eq!(quantization["format"], format);
            let group = &quantization["config_groups"]["group_0"];
            assert_eq!(group["targets"], json!(["Linear"]));
            let weights_config = &group["weights"];
            assert_eq!(
                [&weights_config["num_bits"], &weights_config["type"], &weights_config["strategy"]],
                [&json!(8), &json!(kind), &json!("channel")]
            );
            assert_eq!(config["tie_word_embeddings"], false, "{name}: the head is a tensor of its own");

            let copy = weights(out.path());
            let stored_dtype = if dtype == DType::I8 { Dtype::I8 } else { Dtype::F8_E4M3 };
            let ignored: Vec<&str> = quantization["ignore"]
                .as_array()
                .unwrap()
                .iter()
                .map(|name| name.as_str().unwrap())
                .collect();
            for (tensor, raw) in &copy {
                let Some(layer) = tensor.strip_suffix(".weight").filter(|_| raw.shape.len() == 2) else {
                    continue;
                };
                let quantized = raw.dtype == stored_dtype;
                // Each matrix but the embedding is quantized, with scales, or named as not being so.
                assert_eq!(
                    quantized,
                    !ignored.contains(&layer) && !layer.ends_with("embed_tokens"),
                    "{name} {tensor}"
                );
                let scale = copy.get(&format!("{tensor}_scale"));
                assert_eq!(scale.map(|scale| scale.shape.clone()), quantized.then(|| vec![raw.shape[0], 1]));
            }
            let head = tensor_block(&chain, &report.model, "head");
            assert_eq!(copy["lm_head.weight"].data, head.tensor("lm_head.weight").unwrap().data());
            assert_eq!(copy["lm_head.weight_scale"].data, head.scale("lm_head.weight").unwrap().data());

            let error = import::checkpoint(&chain, out.path(), &ImportOptions::default()).unwrap_err();
            assert!(matches!(error, ImportError::Unsupported { key, .. } if key == "quantization_config"));
        }
    }
}

#[test]
fn int4_models_are_written_as_pack_quantized() {
    // All of its projections have whole groups, but the head is int8; of the other's, some do not.
    for (name, all) in [("mixtral", true), ("olmoe", false)] {
        let chain = Chain::in_memory().unwrap();
        let report = import(&chain, &fixture(name), Some(DType::I4));
        let out = tempfile::tempdir().unwrap();
        let options = ExportOptions { max_shard_bytes: 100_000, ..ExportOptions::default() };
        export::checkpoint(&chain, &report.model, out.path(), &options).unwrap();
        let quantization = &config(out.path())["quantization_config"];
        assert_eq!(quantization["format"], "mixed-precision");
        let groups = quantization["config_groups"].as_object().unwrap();
        let of_format = |format: &str| groups.values().find(|group| group["format"] == format).unwrap();
        let packed = of_format("pack-quantized");
        assert_eq!(groups["group_0"], *packed, "that of the experts, as transformers 5 takes it");
        let weights_config = &packed["weights"];
        assert_eq!(
            ["num_bits", "type", "strategy", "group_size", "symmetric"]
                .map(|key| weights_config[key].clone()),
            [json!(4), json!("int"), json!("group"), json!(32), json!(true)]
        );
        let targets = |group: &serde_json::Value| -> BTreeSet<String> {
            group["targets"]
                .as_array()
                .unwrap()
                .iter()
                .map(|name| name.as_str().unwrap().to_owned())
                .collect()
        };
        let (int4, int8) = (targets(packed), targets(of_format("int-quantized")));
        assert!(int8.contains("lm_head") && (int8.len() == 1) == all);

        let (original, copy) = (weights(&fixture(name)), weights(out.path()));
        for layer in &int4 {
            let dims = &original[&format!("{layer}.weight")].shape;
            let tensor = |suffix: &str| &copy[&format!("{layer}.weight_{suffix}")];
            assert!(!copy.contains_key(&format!("{layer}.weight")));
            assert_eq!(
                (tensor("packed").dtype, &tensor("packed").shape[..]),
                (Dtype::I32, &[dims[0], dims[1] / 8][..])
            );
            assert_eq!(
                (tensor("scale").dtype, &tensor("scale").shape[..]),
                (Dtype::BF16, &[dims[0], dims[1] / 32][..])
            );
            let shape: Vec<u8> = dims.iter().flat_map(|&dim| (dim as i64).to_le_bytes()).collect();
            assert_eq!((tensor("shape").dtype, &tensor("shape").data), (Dtype::I64, &shape));
        }
        for layer in &int8 {
            assert_eq!(copy[&format!("{layer}.weight")].dtype, Dtype::I8);
        }
        let index: serde_json::Value =
            serde_json::from_slice(&fs::read(out.path().join("model.safetensors.index.json")).unwrap())
                .unwrap();
        assert!(index["weight_map"].as_object().unwrap().keys().eq(copy.keys()));
        let bytes: usize = copy.values().map(|raw| raw.data.len()).sum();
        assert_eq!(index["metadata"]["total_size"], bytes);
    }
}

#[test]
fn rounded_models_import_again_as_themselves() {
    for (label, dtype) in CHOICES.into_iter().filter(|(_, dtype)| !dtype.is_some_and(DType::is_quantized)) {
        let chain = Chain::in_memory().unwrap();
        let report = import(&chain, &fixture("qwen2_moe"), dtype);
        let out = tempfile::tempdir().unwrap();
        export::checkpoint(&chain, &report.model, out.path(), &ExportOptions::default()).unwrap();
        assert_eq!(import(&chain, out.path(), None).model, report.model, "{label}");
    }
}

#[test]
fn a_folder_that_is_not_empty_is_left_alone_unless_asked() {
    let chain = Chain::in_memory().unwrap();
    let report = import(&chain, &fixture("llama"), None);
    let out = tempfile::tempdir().unwrap();
    for (file, bytes) in [
        ("notes.txt", "mine"),
        ("model-00001-of-00002.safetensors", "stale"),
        ("model.safetensors.index.json", "{}"),
        ("tokenizer.json", "{}"),
        ("added_tokens.json", "{\"<x>\": 260}"),
    ] {
        fs::write(out.path().join(file), bytes).unwrap();
    }
    let templates = out.path().join("additional_chat_templates");
    fs::create_dir(&templates).unwrap();
    fs::write(templates.join("tool_use.jinja"), "stale").unwrap();
    let error = export::checkpoint(&chain, &report.model, out.path(), &ExportOptions::default()).unwrap_err();
    assert!(matches!(error, ExportError::NotEmpty { .. }));
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 6);

    let options = ExportOptions { overwrite: true, ..ExportOptions::default() };
    let exported = export::checkpoint(&chain, &report.model, out.path(), &options).unwrap();
    let mut present: Vec<String> = fs::read_dir(out.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "notes.txt")
        .collect();
    present.sort();
    assert_eq!(present, exported.files);
    assert_eq!(fs::read(out.path().join("notes.txt")).unwrap(), b"mine");
    assert_eq!(import(&chain, out.path(), None).model, report.model);

    // An empty folder is as good as none, also one that a link leads to.
    let empty = tempfile::tempdir().unwrap();
    export::checkpoint(&chain, &report.model, empty.path(), &ExportOptions::default()).unwrap();
    #[cfg(unix)]
    {
        let links = tempfile::tempdir().unwrap();
        let (place, link) = (links.path().join("place"), links.path().join("link"));
        fs::create_dir(&place).unwrap();
        std::os::unix::fs::symlink(&place, &link).unwrap();
        export::checkpoint(&chain, &report.model, &link, &ExportOptions::default()).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(import(&chain, &place, None).model, report.model);
    }
}

#[test]
fn a_folder_that_cannot_take_the_files_stays_as_it_was() {
    let chain = Chain::in_memory().unwrap();
    let report = import(&chain, &fixture("llama"), None);
    let out = tempfile::tempdir().unwrap();
    fs::write(out.path().join("config.json"), "mine").unwrap();
    fs::create_dir(out.path().join("model.safetensors")).unwrap();
    let options = ExportOptions { overwrite: true, ..ExportOptions::default() };
    let error = export::checkpoint(&chain, &report.model, out.path(), &options).unwrap_err();
    assert!(matches!(&error, ExportError::Io { path, .. } if path.ends_with("model.safetensors")), "{error}");
    assert_eq!(fs::read(out.path().join("config.json")).unwrap(), b"mine");
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 2);

    // Of no name: not the folder that the process is in.
    let error = export::checkpoint(&chain, &report.model, "", &options).unwrap_err();
    assert!(
        matches!(&error, ExportError::Io { source, .. } if source.kind() == std::io::ErrorKind::InvalidInput),
        "{error}"
    );
}

#[test]
fn cancelled_or_refused_nothing_is_left() {
    let chain = Chain::in_memory().unwrap();
    let report = import(&chain, &fixture("llama"), None);
    let out = tempfile::tempdir().unwrap();
    let target = out.path().join("folder");
    let cancel = AtomicBool::new(false);
    let progress = |progress: export::ExportProgress| {
        assert!(progress.tensor_bytes <= progress.total_tensor_bytes);
        cancel.store(progress.tensor_bytes * 2 > progress.total_tensor_bytes, Ordering::Relaxed);
    };
    let options =
        ExportOptions { progress: Some(&progress), cancel: Some(&cancel), ..ExportOptions::default() };
    let error = export::checkpoint(&chain, &report.model, &target, &options).unwrap_err();
    assert!(matches!(error, ExportError::Cancelled));
    let error = export::checkpoint(&chain, &report.spec, &target, &ExportOptions::default()).unwrap_err();
    assert!(matches!(error, ExportError::NotAModel { kind, .. } if kind == "spec"));
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
}

#[test]
fn types_of_a_mixed_checkpoint_are_each_kept() {
    let mut checkpoint = Checkpoint::of("llama");
    for (name, raw) in &mut checkpoint.tensors {
        if name.contains("norm") || name.contains("down_proj") {
            let wide = raw.data.chunks(2).flat_map(|b| [0, 0, b[0], b[1]]).collect();
            *raw = Raw { dtype: Dtype::F32, shape: raw.shape.clone(), data: wide };
        }
    }
    let dir = checkpoint.write();
    let chain = Chain::in_memory().unwrap();
    let report = import(&chain, dir.path(), None);
    let out = tempfile::tempdir().unwrap();
    export::checkpoint(&chain, &report.model, out.path(), &ExportOptions::default()).unwrap();
    assert!(weights(out.path()) == checkpoint.tensors);
}

/// config.json has no key for it: who imports the folder again says it again.
#[test]
fn rounded_rotary_frequencies_are_no_obstacle() {
    let chain = Chain::in_memory().unwrap();
    let options = ImportOptions { rope_frequencies: Some(DType::BF16), ..ImportOptions::default() };
    let report = import::checkpoint(&chain, fixture("qwen3_moe_yarn"), &options).unwrap();
    let out = tempfile::tempdir().unwrap();
    export::checkpoint(&chain, &report.model, out.path(), &ExportOptions::default()).unwrap();
    assert_eq!(import::checkpoint(&chain, out.path(), &options).unwrap().model, report.model);
    assert_ne!(import(&chain, out.path(), None).spec, report.spec);
}
