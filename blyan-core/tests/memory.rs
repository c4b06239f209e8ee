//! Importing takes memory for one block and a bounded queue, not for one model; a tokenizer takes none once it is
//! dropped. A test binary of its own, because it counts every allocation of the process.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(unsafe_code, reason = "a counting allocator implements an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use blyan_core::import::{self, ImportOptions};
use blyan_core::manager::text::Tokenizer;
use blyan_core::{Chain, DType};
use serde_json::json;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

fn grow(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(live, Ordering::Relaxed);
}

// SAFETY: passes every call to the system's allocator and only counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`, which is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const HIDDEN: usize = 512;
const INNER: usize = 2048;
const LAYERS: usize = 36;
const VOCAB: usize = 256;

/// A dense model of 300 MB whose largest block has 6 MB, written without holding it in memory.
fn write_checkpoint(dir: &Path) -> usize {
    let config = json!({
        "model_type": "llama", "vocab_size": VOCAB, "hidden_size": HIDDEN, "intermediate_size": INNER,
        "num_hidden_layers": LAYERS, "num_attention_heads": 8, "num_key_value_heads": 8,
        "max_position_embeddings": 128, "tie_word_embeddings": true, "rms_norm_eps": 1e-6,
    });
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_owned(), vec![VOCAB, HIDDEN]),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
    ];
    for layer in 0..LAYERS {
        let mut add = |name: &str, shape: Vec<usize>| {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), shape));
        };
        add("input_layernorm", vec![HIDDEN]);
        add("post_attention_layernorm", vec![HIDDEN]);
        for part in ["q_proj", "k_proj", "v_proj", "o_proj"] {
            add(&format!("self_attn.{part}"), vec![HIDDEN, HIDDEN]);
        }
        add("mlp.gate_proj", vec![INNER, HIDDEN]);
        add("mlp.up_proj", vec![INNER, HIDDEN]);
        add("mlp.down_proj", vec![HIDDEN, INNER]);
    }
    let mut header = BTreeMap::new();
    let mut offset = 0;
    for (name, shape) in &tensors {
        let end = offset + 2 * shape.iter().product::<usize>();
        header.insert(name, json!({"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}));
        offset = end;
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut file = BufWriter::new(File::create(dir.join("model.safetensors")).unwrap());
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(&header).unwrap();
    for (number, (_, shape)) in tensors.iter().enumerate() {
        // Equal payloads would be written once: every tensor has a value of its own.
        let value = half::bf16::from_f32(0.001 * (number + 1) as f32).to_le_bytes();
        let row = value.repeat(*shape.last().unwrap());
        for _ in 0..shape.iter().rev().skip(1).product::<usize>() {
            file.write_all(&row).unwrap();
        }
    }
    file.into_inner().unwrap();
    offset
}

/// All is counted together.
static ALONE: Mutex<()> = Mutex::new(());

/// The tokenizers library keeps every word for as long as the thread lasts that met it.
#[test]
fn a_dropped_tokenizer_leaves_nothing_behind() {
    let _alone = ALONE.lock();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny-kjv-moe/tokenizer.json");
    let json = fs::read(path).unwrap();
    let text: String = (0..5000).map(|number| format!(" {number}")).collect();
    let encode = || Tokenizer::from_json(&json, 2048).unwrap().encode(&text, false).unwrap();
    // Patterns keep what they match with, for some threads.
    for _ in 0..32 {
        encode();
    }
    let before = LIVE.load(Ordering::Relaxed);
    for _ in 0..3 {
        encode();
    }
    let left = LIVE.load(Ordering::Relaxed).saturating_sub(before);
    assert!(left < 64 << 10, "{left} bytes are left");
}

#[test]
fn memory_does_not_grow_with_the_model() {
    let _alone = ALONE.lock();
    let dir = tempfile::tempdir().unwrap();
    let model_bytes = write_checkpoint(dir.path());
    assert!(model_bytes > 300_000_000);
    for dtype in [None, Some(DType::I8)] {
        let chain_dir = tempfile::tempdir().unwrap();
        let chain = Chain::open(chain_dir.path()).unwrap();
        let before = LIVE.load(Ordering::Relaxed);
        PEAK.store(before, Ordering::Relaxed);
        let options = ImportOptions { dtype, ..ImportOptions::default() };
        import::checkpoint(&chain, dir.path(), &options).unwrap();
        let peak = PEAK.load(Ordering::Relaxed) - before;
        // 64 MiB of payloads may wait to be written; then the block being built, its source, the index.
        let bound = (64 << 20) + 4 * (6 << 20) + (16 << 20);
        assert!(peak < bound, "{dtype:?}: {peak} bytes at the peak, expected less than {bound}");
    }
}
