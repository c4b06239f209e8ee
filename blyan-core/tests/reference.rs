//! Every fixture against Hugging Face transformers: logits and greedy tokens.

#![allow(clippy::unwrap_used, reason = "a test ends where its premises fail")]

use std::path::{Path, PathBuf};

use crate::checkpoints::{Reference, fixtures, name, open, relative_error, tiny_kjv};
use blyan_core::import::{self, ImportOptions};
use blyan_core::manager::GenerateOptions;
use blyan_core::model::KvDType;
use blyan_core::{Chain, DType};

/// A folder, its reference, and what the frequencies of its rotary embedding were rounded to when the
/// reference was computed (tests/fixtures/README.md).
fn references() -> Vec<(PathBuf, Reference, DType)> {
    let mut references = Vec::new();
    for folder in fixtures() {
        let cast = folder.join("reference-bf16-rope.safetensors");
        if cast.exists() {
            references.push((folder.clone(), Reference::read_file(&cast), DType::BF16));
        }
        references.push((folder.clone(), Reference::read(&folder), DType::F32));
    }
    references.push((tiny_kjv(), Reference::read(&tiny_kjv()), DType::F32));
    references
}

fn imported(folder: &Path, frequencies: DType) -> Chain {
    let chain = Chain::in_memory().unwrap();
    let options = ImportOptions { rope_frequencies: Some(frequencies), ..ImportOptions::default() };
    import::checkpoint(&chain, folder, &options).unwrap();
    chain
}

/// Positions at which rounding keys and values to f16 alone sends a token to another expert: the
/// router's second and third choice differ by less than 0.001 there, in layer 2, in transformers too.
const ROUTER_TIES: &[(&str, usize)] = &[("mixtral_odd", 5), ("mixtral_odd", 63)];

#[test]
fn logits_are_those_of_transformers() {
    let mut wrong = Vec::new();
    for (folder, reference, frequencies) in references() {
        let chain = imported(&folder, frequencies);
        let name = name(&folder);
        for (kv_cache, limit) in [(KvDType::F32, 1e-4), (KvDType::F16, 1e-2)] {
            let model = open(&chain, |options| options.kv_cache = kv_cache);
            let mut logits = model.logits(&reference.prompt).unwrap();
            if kv_cache == KvDType::F16 {
                let vocab = logits.len() / reference.prompt.len();
                for (_, position) in ROUTER_TIES.iter().filter(|(tied, _)| *tied == name) {
                    let row = position * vocab..(position + 1) * vocab;
                    logits[row.clone()].copy_from_slice(&reference.logits[row]);
                }
            }
            let error = relative_error(&logits, &reference.logits);
            let line = format!("{name:<24} {frequencies} frequencies, {kv_cache:?} cache: {error:.2e}");
            println!("{line}");
            if error > limit {
                wrong.push(line);
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn greedy_tokens_are_those_of_transformers() {
    let mut wrong = Vec::new();
    for (folder, reference, frequencies) in references() {
        let chain = imported(&folder, frequencies);
        let with_f16 = reference.greedy_f16.as_ref().map(|greedy| (KvDType::F16, greedy));
        for (kv_cache, greedy) in [(KvDType::F32, &reference.greedy)].into_iter().chain(with_f16) {
            let expected = &greedy[reference.prompt.len()..];
            let model = open(&chain, |options| options.kv_cache = kv_cache);
            let options = GenerateOptions {
                max_tokens: Some(expected.len()),
                ignore_eos: true,
                ..GenerateOptions::default()
            };
            let tokens = model.generate(&reference.prompt[..], &options).unwrap().tokens;
            if tokens != expected {
                let name = name(&folder);
                wrong.push(format!("{name} {frequencies} {kv_cache:?}: {tokens:?} instead of {expected:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
