//! How fast the models of the repository are imported, start and write:
//! `cargo bench -p blyan-core --bench model [-- NAME]`, where NAME is a part of a folder's name.
//!
//! Most of them are tiny: what they show is what a token costs besides its weights. Decoding reads
//! every weight that a token uses once, so it can be no faster than a plain read of as many bytes by
//! as many threads; that is measured too, as often as each model is.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a benchmark prints and may end")]

#[path = "../tests/checkpoints/mod.rs"]
mod checkpoints;

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use blyan_core::format::FeedForward;
use blyan_core::manager::{GenerateOptions, ManagerOptions, MoEModelManager};
use blyan_core::{BlockHash, Chain, DType, Slot};
use rayon::prelude::*;

const PROMPT_TOKENS: usize = 128;
const NEW_TOKENS: usize = 97;
const IMPORTS: usize = 5;
const GENERATIONS_PER_IMPORT: usize = 3;

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Seconds until the first token, and from it to the last.
fn generate(model: &MoEModelManager) -> (f64, f64) {
    let vocab = model.snapshot().spec().vocab_size as u32;
    let prompt: Vec<u32> = (0..PROMPT_TOKENS as u32).map(|i| i.wrapping_mul(2_654_435_761) % vocab).collect();
    let options =
        GenerateOptions { max_tokens: Some(NEW_TOKENS), ignore_eos: true, ..GenerateOptions::default() };
    let begun = Instant::now();
    let mut stream = model.stream(prompt, &options).unwrap();
    assert!(stream.next().unwrap().is_ok());
    let first = begun.elapsed().as_secs_f64();
    assert_eq!(stream.by_ref().map(Result::unwrap).count(), NEW_TOKENS - 1);
    (first, begun.elapsed().as_secs_f64() - first)
}

/// Bytes of the blocks that one token is computed with.
fn bytes_per_token(model: &MoEModelManager) -> f64 {
    let snapshot = model.snapshot();
    let spec = snapshot.spec();
    let share = |slot: Slot| match slot {
        // One row, unless it is the head as well.
        Slot::Embedding => f64::from(u8::from(spec.tie_word_embeddings)),
        Slot::Expert { layer, .. } => match spec.layers[layer as usize].feed_forward {
            FeedForward::Moe { num_experts, num_experts_per_tok, .. } => {
                num_experts_per_tok as f64 / num_experts as f64
            }
            FeedForward::Dense { .. } => 1.0,
        },
        slot => f64::from(u8::from(slot.kind().is_weights())),
    };
    snapshot.slots().iter().map(|(slot, block)| share(*slot) * block.len_bytes as f64).sum()
}

/// Seconds of a plain sum over as many bytes, each thread its part: the best of many, and warm, as
/// the weights of a small model are.
fn plain_read(bytes: f64) -> f64 {
    let data = vec![1_u64; bytes as usize / 8];
    let part = data.len().div_ceil(rayon::current_num_threads());
    let mut best = f64::INFINITY;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(400) {
        let begun = Instant::now();
        black_box(&data).par_chunks(part).for_each(|part| {
            let mut sums = [0_u64; 8];
            for words in part.chunks_exact(8) {
                for (sum, word) in sums.iter_mut().zip(words) {
                    *sum = sum.wrapping_add(*word);
                }
            }
            black_box(sums);
        });
        best = best.min(begun.elapsed().as_secs_f64());
    }
    best
}

#[derive(Default)]
struct Times {
    import: Vec<f64>,
    /// From a closed chain to the first token: open, map and verify, prefill.
    cold: Vec<f64>,
    prefill: Vec<f64>,
    decode: Vec<f64>,
}

impl Times {
    fn import(&mut self, chain: &Chain, folder: &Path, dtype: Option<DType>) -> BlockHash {
        let begun = Instant::now();
        let model = checkpoints::import_into(chain, folder, dtype);
        self.import.push(begun.elapsed().as_secs_f64());
        model
    }

    fn cold_start(&mut self, dir: &Path, model: BlockHash) -> MoEModelManager {
        let begun = Instant::now();
        let chain = Chain::open_read_only(dir).unwrap();
        let options = ManagerOptions { model: Some(model), ..ManagerOptions::default() };
        let manager = MoEModelManager::open(&chain, &options).unwrap();
        let opened = begun.elapsed().as_secs_f64();
        self.cold.push(opened + generate(&manager).0);
        manager
    }
}

fn measure(folder: &Path, dtype: Option<DType>) {
    let mut times = Times::default();
    let mut bytes = 0.0;
    for _ in 0..IMPORTS {
        let scratch = tempfile::tempdir().unwrap();
        let chain = Chain::open(scratch.path()).unwrap();
        let model = times.import(&chain, folder, dtype);
        drop(chain);
        let manager = times.cold_start(scratch.path(), model);
        for _ in 0..GENERATIONS_PER_IMPORT {
            let (first, rest) = generate(&manager);
            times.prefill.push(PROMPT_TOKENS as f64 / first);
            times.decode.push((NEW_TOKENS - 1) as f64 / rest);
        }
        bytes = bytes_per_token(&manager);
    }
    let decode = median(times.decode);
    println!(
        "| {} | {} | {:.0} ms | {:.1} ms | {:.0} | {decode:.0} | {:.2} MB | {:.2} |",
        checkpoints::name(folder),
        dtype.map_or("kept", DType::name),
        median(times.import) * 1e3,
        median(times.cold) * 1e3,
        median(times.prefill),
        bytes / 1e6,
        decode * plain_read(bytes),
    );
}

fn main() {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with("--")).unwrap_or_default();
    let mut folders = checkpoints::fixtures();
    folders.push(checkpoints::tiny_kjv());
    folders.retain(|folder| checkpoints::name(folder).contains(&filter));
    println!(
        "{} threads; prompts of {PROMPT_TOKENS} tokens, {} tokens decoded; medians of {IMPORTS} imports and {} generations\n",
        rayon::current_num_threads(),
        NEW_TOKENS - 1,
        IMPORTS * GENERATIONS_PER_IMPORT,
    );
    println!(
        "| model | type | import | first token, cold | prefill tokens/s | decode tokens/s | weights a token | of plain read |"
    );
    println!("|---|---|---:|---:|---:|---:|---:|---:|");
    for folder in folders {
        for dtype in [None, Some(DType::I8)] {
            measure(&folder, dtype);
        }
    }
}
