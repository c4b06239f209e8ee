//! A scripted session over the whole library, printed as one JSON document.
//!
//! `cargo run --example session -- MODEL_DIR EMPTY_DIR` imports, verifies, lists, reads a tensor,
//! generates greedily and with a seed, replays both receipts, counts, and meets an error. The
//! bindings run the same script, and the tests compare what they print byte for byte.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to people")]

use std::error::Error;
use std::process::ExitCode;

use blyan_core::import::{self, ImportOptions};
use blyan_core::manager::{
    GenerateOptions, Generation, ManagerError, ManagerOptions, MoEModelManager, SamplingOptions,
};
use blyan_core::{BlockHash, Chain, ChainError, ChainId, TensorBlock, VerifyOptions};
use serde_json::{Value, json};

const PROMPT: &str = "In the beginning";
const TENSOR: (&str, &str) = ("layer0.expert1", "gate_proj.weight");

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, dir] = &arguments[..] else {
        eprintln!("session MODEL_DIR EMPTY_DIR");
        return ExitCode::from(2);
    };
    match session(model, dir) {
        Ok(document) => {
            println!("{document:#}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("session: {error}");
            ExitCode::FAILURE
        }
    }
}

fn session(folder: &str, dir: &str) -> Result<Value, Box<dyn Error>> {
    let chain = Chain::open(dir)?;
    let imported = import::checkpoint(&chain, folder, &ImportOptions::default())?;
    let verified = chain.verify(&VerifyOptions::full())?;
    let bad: Vec<Value> = (verified.bad.iter())
        .map(|bad| json!({ "block": bad.block, "reason": bad.reason.to_string() }))
        .collect();

    let model = MoEModelManager::open(&chain, &ManagerOptions::default())?;
    let greedy = GenerateOptions { max_tokens: Some(24), ..GenerateOptions::default() };
    let seeded = GenerateOptions {
        sampling: SamplingOptions {
            temperature: 0.8,
            top_k: Some(40),
            top_p: Some(0.95),
            min_p: Some(0.05),
            repetition_penalty: Some(1.1),
            seed: 7,
        },
        ..greedy.clone()
    };
    let greedy = model.generate(PROMPT, &greedy)?;
    let seeded = model.generate(PROMPT, &seeded)?;

    Ok(json!({
        "import": {
            "model": imported.model,
            "spec": imported.spec,
            "blocks": imported.blocks_new + imported.blocks_known,
            "new_blocks": imported.blocks_new,
        },
        "verify": {
            "ok": verified.is_ok(),
            "blocks": verified.blocks,
            "payload_bytes": verified.payload_bytes,
            "bad": bad,
        },
        "blocks": blocks(&chain)?,
        "tensor": tensor(&chain)?,
        "greedy": generation(&greedy),
        "seeded": generation(&seeded),
        "replay": { "greedy": replays(&greedy, &chain)?, "seeded": replays(&seeded, &chain)? },
        "usage": (model.usage().top(5).iter())
            .map(|expert| json!({ "slot": expert.slot, "block": expert.block, "tokens": expert.tokens }))
            .collect::<Value>(),
        "error": not_found(&chain)?,
    }))
}

/// Every block: lane by lane, each in the chain's own order.
fn blocks(chain: &Chain) -> Result<Vec<Value>, ChainError> {
    let lanes = ChainId::ALL.into_iter().flat_map(|lane| chain.blocks(lane));
    let describe = |block: Result<blyan_core::Block, ChainError>| {
        let block = block?;
        let header = block.header();
        Ok(json!({
            "hash": block.hash(),
            "lane": header.lane.to_string(),
            "kind": header.kind.to_string(),
            "name": header.name,
            "height": block.height(),
            "payload": header.payload.hash,
            "payload_bytes": header.payload.len_bytes,
            "parents": header.parents.len(),
        }))
    };
    lanes.map(describe).collect()
}

fn tensor(chain: &Chain) -> Result<Value, Box<dyn Error>> {
    let (slot, name) = TENSOR;
    let heads = chain.heads(slot)?;
    let block = heads.first().ok_or("the model has no such expert")?.hash();
    let tensors = TensorBlock::open(chain, &block)?;
    let view = tensors.tensor(name)?;
    let first: String = view.data().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    Ok(json!({
        "block": block,
        "name": view.name(),
        "dtype": view.dtype().name(),
        "shape": view.shape().dims(),
        "nbytes": view.data().len(),
        "first": first,
        "sum": view.data().iter().map(|&byte| u64::from(byte)).sum::<u64>(),
    }))
}

fn generation(generation: &Generation) -> Value {
    let claim = generation.receipt.claim();
    json!({
        "prompt": PROMPT,
        "tokens": generation.tokens,
        "text": generation.text,
        "finish_reason": generation.finish_reason,
        "receipt": generation.receipt.hash(),
        "logits": claim.logits,
    })
}

fn replays(generation: &Generation, chain: &Chain) -> Result<bool, ManagerError> {
    Ok(generation.receipt.replay(chain, &ManagerOptions::default())?.is_ok())
}

/// What asking for a block that nobody has gives.
fn not_found(chain: &Chain) -> Result<Value, Box<dyn Error>> {
    match chain.get(&BlockHash::from_bytes([0; 32])) {
        Err(ChainError::NotFound { block }) => Ok(json!({ "code": "not_found", "block": block })),
        Err(error) => Err(error.into()),
        Ok(_) => Err("a block hashes to zero".into()),
    }
}
