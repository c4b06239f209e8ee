//! Receipts: an honest one replays anywhere, an edited one is found out leaf by leaf.

#![allow(clippy::unwrap_used, reason = "a test ends where its premises fail")]

use crate::checkpoints::{fixture, import_into, imported, open, tiny_kjv};
use blyan_core::manager::{FinishReason, GenerateOptions, ManagerOptions, Receipt};
use blyan_core::{Chain, DType};
use serde_json::Value as Json;

fn replay_options() -> ManagerOptions {
    ManagerOptions { threads: Some(1), ..ManagerOptions::default() }
}

fn sampled() -> GenerateOptions {
    let mut options = GenerateOptions {
        max_tokens: Some(12),
        stop: vec!["\u{1}never".to_owned()],
        logprobs: Some(2),
        ..GenerateOptions::default()
    };
    options.sampling.temperature = 0.7;
    options.sampling.top_k = Some(40);
    options.sampling.top_p = Some(0.9);
    options.sampling.min_p = Some(0.01);
    options.sampling.repetition_penalty = Some(1.1);
    options.sampling.seed = 42;
    options
}

/// JSON pointers of all leaves.
fn leaves(json: &Json, path: &str, out: &mut Vec<String>) {
    match json {
        Json::Object(fields) => {
            fields.iter().for_each(|(name, value)| leaves(value, &format!("{path}/{name}"), out))
        }
        Json::Array(items) => {
            items
                .iter()
                .enumerate()
                .for_each(|(index, value)| leaves(value, &format!("{path}/{index}"), out));
        }
        _ => out.push(path.to_owned()),
    }
}

/// Other values of the same type, or of none.
fn edits(value: &Json) -> Vec<Json> {
    match value {
        Json::Null => vec![Json::from(7)],
        Json::Bool(value) => vec![Json::from(!value)],
        Json::Number(number) => match number.as_u64() {
            Some(number) => vec![Json::from(number + 1), Json::from(0)],
            None => vec![Json::from(number.as_f64().unwrap() * 0.5)],
        },
        Json::String(text) => {
            let mut flipped = text.clone().into_bytes();
            if let Some(last) = flipped.last_mut() {
                *last = if *last == b'0' { b'1' } else { b'0' };
            }
            vec![Json::from(String::from_utf8(flipped).unwrap()), Json::from("x")]
        }
        _ => unreachable!("a leaf"),
    }
}

fn every_edit_is_named(chain: &Chain, receipt: &Receipt) {
    let json: Json = serde_json::from_str(&receipt.to_json()).unwrap();
    let mut paths = Vec::new();
    leaves(&json, "", &mut paths);
    assert!(paths.len() > 40);
    for path in paths {
        for edit in edits(json.pointer(&path).unwrap()) {
            let mut edited = json.clone();
            *edited.pointer_mut(&path).unwrap() = edit.clone();
            if edited == json {
                continue;
            }
            let named = match Receipt::from_json(edited.to_string().as_bytes()) {
                Err(error) => vec![error.to_string()],
                Ok(receipt) => {
                    let replay = receipt.replay(chain, &replay_options()).unwrap();
                    replay.differences.into_iter().map(|difference| difference.path).collect()
                }
            };
            // JSON's own errors name the field in their text.
            let field = path.trim_start_matches('/').replace('/', ".");
            let found = named.iter().any(|name| *name == path || name.contains(&field));
            assert!(found, "{path} edited to {edit} is not named by {named:?}");
        }
    }
}

#[test]
fn every_edited_leaf_of_a_sampled_receipt_is_named() {
    let (chain, _) = imported(&tiny_kjv(), Some(DType::I8));
    let model = open(&chain, |_| ());
    let generation = model.generate("In the beginning", &sampled()).unwrap();
    assert!(generation.receipt.replay(&chain, &replay_options()).unwrap().is_ok());
    every_edit_is_named(&chain, &generation.receipt);
}

#[test]
fn every_edited_leaf_of_a_greedy_receipt_is_named() {
    let (chain, _) = imported(&fixture("qwen2_moe"), None);
    let model = open(&chain, |_| ());
    let options = GenerateOptions { max_tokens: Some(3), ..GenerateOptions::default() };
    let generation = model.generate([5, 6, 7], &options).unwrap();
    assert!(generation.receipt.replay(&chain, &replay_options()).unwrap().is_ok());
    every_edit_is_named(&chain, &generation.receipt);
}

#[test]
fn a_receipt_replays_on_every_instruction_set_and_thread_count() {
    let (chain, _) = imported(&tiny_kjv(), None);
    let receipt = open(&chain, |_| ()).generate("And God said", &sampled()).unwrap().receipt;
    let receipt = Receipt::from_json(receipt.to_json().as_bytes()).unwrap();
    for isa in blyan_core::kernels::Isa::available() {
        for threads in [1, 3] {
            let options = ManagerOptions {
                isa: Some(isa.name().to_owned()),
                threads: Some(threads),
                prefill_chunk: 2,
                ..ManagerOptions::default()
            };
            let replay = receipt.replay(&chain, &options).unwrap();
            assert!(replay.is_ok(), "{} {threads}: {:?}", isa.name(), replay.differences);
        }
    }
}

#[test]
fn a_cancelled_generation_replays() {
    let (chain, _) = imported(&tiny_kjv(), None);
    let model = open(&chain, |_| ());
    for pieces in [0, 1, 5] {
        let mut stream = model.stream("And God said", &sampled()).unwrap();
        for _ in 0..pieces {
            stream.next().unwrap().unwrap();
        }
        let generation = stream.finish().unwrap();
        assert_eq!(generation.finish_reason, FinishReason::Cancelled);
        assert_eq!(generation.tokens.len(), pieces);
        let replay = generation.receipt.replay(&chain, &replay_options()).unwrap();
        assert!(replay.is_ok(), "{pieces}: {:?}", replay.differences);
    }
}

/// Set in the child process: where the chain is.
const CHILD: &str = "BLYAN_TEST_REPLAY_DIR";

#[test]
fn a_receipt_replays_in_another_process() {
    if let Some(dir) = std::env::var_os(CHILD) {
        let dir = std::path::PathBuf::from(dir);
        let receipt = Receipt::from_json(&std::fs::read(dir.join("receipt.json")).unwrap()).unwrap();
        let chain = Chain::open_read_only(dir.join("chain")).unwrap();
        assert!(receipt.replay(&chain, &replay_options()).unwrap().is_ok());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let chain = Chain::open(dir.path().join("chain")).unwrap();
    import_into(&chain, &tiny_kjv(), Some(DType::F8E4M3));
    let receipt = open(&chain, |_| ()).generate("And God said", &sampled()).unwrap().receipt;
    std::fs::write(dir.path().join("receipt.json"), receipt.to_json()).unwrap();
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "receipts::a_receipt_replays_in_another_process"])
        .env(CHILD, dir.path())
        .env("BLYAN_ISA", "scalar")
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn a_strangers_receipt_with_many_edits_is_compared_at_once() {
    const TOKENS: usize = 200_000;
    let (chain, _) = imported(&fixture("qwen2_moe"), None);
    let model = open(&chain, |_| ());
    let options = GenerateOptions { max_tokens: Some(3), ..GenerateOptions::default() };
    let receipt = model.generate([5, 6, 7], &options).unwrap().receipt;
    let mut json: Json = serde_json::from_str(&receipt.to_json()).unwrap();
    json["claim"]["prompt_tokens"] = vec![0; TOKENS].into();
    json["claim"]["numerics_version"] = 1.into();
    json["seals"]["prompt_tokens"] = "0000".repeat(TOKENS).into();
    let receipt = Receipt::from_json(json.to_string().as_bytes()).unwrap();
    let start = std::time::Instant::now();
    let replay = receipt.replay(&chain, &replay_options()).unwrap();
    // Each with all before it is twenty thousand million comparisons.
    assert!(start.elapsed().as_secs() < 20);
    assert!(replay.differences.len() > TOKENS / 2);
}
