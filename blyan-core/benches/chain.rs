//! What a chain costs against the number of its blocks and against their bytes, full verification against
//! plain BLAKE3, and what it takes to look at a model of 10,000 slots.
//!
//! `cargo bench -p blyan-core --bench chain`; `-- --dir DIR` to measure another medium than the
//! system's folder for temporary files.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a benchmark prints and may end")]

use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use blyan_core::chain::{Draft, Validators};
use blyan_core::format::{
    Architecture, AttentionSpec, FeedForward, LayerSpec, QkNorm, RopeScaling, RopeSpec, TokenSpec,
};
use blyan_core::manager::Snapshot;
use blyan_core::storage::{Access, DirMedium};
use blyan_core::{
    BlockHash, BlockKind, Chain, ChainId, DType, Manifest, ModelSpec, ParentRole, VerifyOptions,
};
use rayon::prelude::*;

const SIZES: [u64; 3] = [1_000, 10_000, 100_000];
/// Blocks of one transaction: a small import, and about a model with 40 layers of 128 experts.
const BATCHES: [u64; 2] = [1_000, 5_000];
const SINGLES: u64 = 40;
/// Blocks appended in transactions of each size. What is ordered by hash moves to its place once in 16,384 blocks, so
/// that one move or two are among them; but none for the smallest chain, which has room for so many before the first.
const MEASURED: u64 = 20_000;
const MEASURED_FIRST: u64 = 5_000;
const TURNS_ALONE: usize = 200;
const LOOKUPS: usize = 20_000;
/// 4 GiB.
const PAYLOAD_FILES: u64 = 512;
const PAYLOAD_BYTES: usize = 8 << 20;
/// With attention and router of each layer, embedding, norm and head: 10,003 slots.
const LAYERS: usize = 40;
const EXPERTS: usize = 248;

/// Without the validators of the layers above: payloads here are no models.
fn open(dir: &Path, access: Access) -> Chain {
    Chain::open_with(Arc::new(DirMedium::new(dir)), access, Validators::new()).unwrap()
}

fn micros(duration: Duration, count: u64) -> f64 {
    duration.as_secs_f64() * 1e6 / count as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A small block: 64 bytes of payload, one of 100 versions of its name, two parents.
fn small(number: u64, root: Option<BlockHash>, before: Option<BlockHash>) -> Draft {
    let payload: Vec<u8> = number.to_le_bytes().repeat(8);
    let name = format!("item{}", number / 100);
    let mut draft = Draft::new(ChainId::Dataset, BlockKind(5000), name, payload);
    if let Some(root) = root {
        draft = draft.with_parent(root, ParentRole::Dependency);
    }
    match before {
        Some(before) if Some(before) != root => draft.with_parent(before, ParentRole::Evidence),
        _ => draft,
    }
}

struct Growing {
    chain: Chain,
    hashes: Vec<BlockHash>,
}

impl Growing {
    fn next(&self) -> Draft {
        let number = self.hashes.len() as u64;
        // Forks of 100 blocks, so that a chain of 100,000 is not 100,000 high.
        let before = (!number.is_multiple_of(100)).then(|| self.hashes.last().copied()).flatten();
        small(number, self.hashes.first().copied(), before)
    }

    /// Appends in one transaction; microseconds per block, commit included.
    fn batch(&mut self, count: u64) -> f64 {
        let begun = Instant::now();
        let mut writer = self.chain.writer().unwrap();
        for _ in 0..count {
            let draft = self.next();
            self.hashes.push(writer.append(draft).unwrap().hash);
        }
        writer.commit().unwrap();
        micros(begun.elapsed(), count)
    }

    /// Appends in transactions of so many; the mean of microseconds per block.
    fn batches(&mut self, count: u64, blocks: u64) -> f64 {
        let batches = blocks / count;
        (0..batches).map(|_| self.batch(count)).sum::<f64>() / batches as f64
    }

    fn single(&mut self) -> f64 {
        let draft = self.next();
        let begun = Instant::now();
        let hash = self.chain.append(draft).unwrap();
        let cost = micros(begun.elapsed(), 1);
        self.hashes.push(hash);
        cost
    }
}

fn open_millis(dir: &Path, read_only: bool) -> f64 {
    let open_once = || {
        let begun = Instant::now();
        let chain = open(dir, if read_only { Access::ReadOnly } else { Access::ReadWrite });
        assert!(chain.len().unwrap() > 0);
        begun.elapsed().as_secs_f64() * 1e3
    };
    median((0..9).map(|_| open_once()).collect())
}

/// Blocks in no order, from a chain whose pages are warm.
fn lookup_micros(chain: &Chain, hashes: &[BlockHash]) -> f64 {
    let mut at = 1_u64;
    let mut look_up = |count: usize| {
        let begun = Instant::now();
        for _ in 0..count {
            at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let hash = hashes[(at >> 33) as usize % hashes.len()];
            assert_eq!(chain.get(&hash).unwrap().hash(), hash);
        }
        micros(begun.elapsed(), count as u64)
    };
    look_up(LOOKUPS);
    look_up(LOOKUPS)
}

/// The time to open what a killed process leaves.
fn open_after_crash_millis(dir: &Path, scratch: &Path) -> f64 {
    let open_once = |number: u32| {
        let copy = scratch.join(format!("crash{number}"));
        fs::create_dir_all(copy.join("payloads")).unwrap();
        fs::create_dir_all(copy.join("tmp")).unwrap();
        fs::copy(dir.join("index.redb"), copy.join("index.redb")).unwrap();
        // Else recovery's own sync would write the whole copy.
        fs::File::open(copy.join("index.redb")).unwrap().sync_all().unwrap();
        let begun = Instant::now();
        let chain = open(&copy, Access::ReadWrite);
        assert!(chain.len().unwrap() > 0);
        let millis = begun.elapsed().as_secs_f64() * 1e3;
        drop(chain);
        fs::remove_dir_all(copy).unwrap();
        millis
    };
    median((0..5).map(open_once).collect())
}

fn scale(scratch: &Path) {
    println!(
        "| blocks | append, 1,000 a transaction | append, 5,000 a transaction | append, alone | open | open read-only | open after crash | look-up | look-up read-only | verify headers | index |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    let dir = scratch.join("scale");
    let mut growing = Growing { chain: open(&dir, Access::ReadWrite), hashes: Vec::new() };
    for size in SIZES {
        while (growing.hashes.len() as u64) < size {
            let count = BATCHES[1].min(size - growing.hashes.len() as u64);
            growing.batch(count);
        }
        let blocks = growing.hashes.len();
        let single = median((0..SINGLES).map(|_| growing.single()).collect());
        let after_crash = open_after_crash_millis(&dir, scratch);
        let lookup = lookup_micros(&growing.chain, &growing.hashes);
        let begun = Instant::now();
        assert!(growing.chain.verify(&VerifyOptions::headers()).unwrap().is_ok());
        let headers = begun.elapsed().as_secs_f64() * 1e3;
        let bytes = fs::metadata(dir.join("index.redb")).unwrap().len();
        let Growing { chain, hashes } = growing;
        drop(chain);
        let (writable, read_only) = (open_millis(&dir, false), open_millis(&dir, true));
        // Takes a view of the chain each time, as another process may have written.
        let lookup_read_only = lookup_micros(&open(&dir, Access::ReadOnly), &hashes);
        growing = Growing { chain: open(&dir, Access::ReadWrite), hashes };
        let measured = if size == SIZES[0] { MEASURED_FIRST } else { MEASURED };
        let [small, large] = BATCHES.map(|count| growing.batches(count, measured));
        println!(
            "| {blocks} | {small:.1} µs | {large:.1} µs | {single:.0} µs | {writable:.2} ms | {read_only:.2} ms | {after_crash:.2} ms | {lookup:.2} µs | {lookup_read_only:.2} µs | {headers:.0} ms | {} MiB |",
            bytes >> 20
        );
    }
}

/// Appends to a small chain and to a large one in turns, so that whatever else the machine does meets both. Means, so
/// that what moves to its place once in 16,384 blocks is among them; the median ratio knows nothing of it.
fn in_turns(scratch: &Path) {
    let grown = |name: &str, blocks: u64| {
        let dir = scratch.join(name);
        let mut growing = Growing { chain: open(&dir, Access::ReadWrite), hashes: Vec::new() };
        for _ in 0..blocks.div_ceil(BATCHES[1]) {
            growing.batch(BATCHES[1].min(blocks));
        }
        growing
    };
    let mut large = grown("large", SIZES[2]);
    println!(
        "\n| in turns, means | to {} blocks | to {} | ratio | median ratio | half of them |",
        SIZES[0], SIZES[2]
    );
    println!("|---|---:|---:|---:|---:|---|");
    for count in [BATCHES[0], BATCHES[1], 1] {
        let mut pairs = Vec::new();
        if count == 1 {
            let mut small = grown("small", SIZES[0]);
            pairs.extend((0..TURNS_ALONE).map(|_| (small.single(), large.single())));
        } else {
            for turn in 0..MEASURED / count {
                // Anew each time, or it would not stay small.
                let mut small = grown(&format!("small{count}.{turn}"), SIZES[0]);
                pairs.push((small.batch(count), large.batch(count)));
            }
        }
        let mean = |pick: fn(&(f64, f64)) -> f64| pairs.iter().map(pick).sum::<f64>() / pairs.len() as f64;
        let (small, large) = (mean(|pair| pair.0), mean(|pair| pair.1));
        let mut ratios: Vec<f64> = pairs.iter().map(|(small, large)| large / small).collect();
        ratios.sort_by(f64::total_cmp);
        let quarter = ratios.len() / 4;
        let [least, median, most] =
            [quarter, ratios.len() / 2, ratios.len() - 1 - quarter].map(|at| ratios[at]);
        println!(
            "| {count} a transaction | {small:.1} µs | {large:.1} µs | {:.2} | {median:.2} | {least:.2} to {most:.2} |",
            large / small
        );
    }
}

fn payload_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for folder in fs::read_dir(dir.join("payloads")).unwrap() {
        for file in fs::read_dir(folder.unwrap().path()).unwrap() {
            files.push(file.unwrap().path());
        }
    }
    files
}

fn verification(scratch: &Path) {
    let dir = scratch.join("payloads");
    let chain = open(&dir, Access::ReadWrite);
    let mut appending = Duration::ZERO;
    let mut writer = chain.writer().unwrap();
    let root = writer.append(Draft::new(ChainId::Meta, BlockKind::SPEC, "spec", "{}")).unwrap().hash;
    let mut hashes = vec![root];
    for number in 0..PAYLOAD_FILES {
        let mut payload = vec![0; PAYLOAD_BYTES];
        blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut payload);
        let name = format!("layer0.expert{number}");
        let draft = Draft::new(ChainId::Parameter, BlockKind::EXPERT, name, payload)
            .with_parent(root, ParentRole::Dependency);
        let begun = Instant::now();
        hashes.push(writer.append(draft).unwrap().hash);
        appending += begun.elapsed();
    }
    let begun = Instant::now();
    writer.commit().unwrap();
    appending += begun.elapsed();
    let total = PAYLOAD_FILES as f64 * PAYLOAD_BYTES as f64;
    let rate = |duration: Duration| total / duration.as_secs_f64() / 1e9;
    println!("\nappend {:.1} GB of payloads: {:.2} GB/s, durable", total / 1e9, rate(appending));
    let lookup = lookup_micros(&chain, &hashes);
    drop(chain);
    let (writable, read_only) = (open_millis(&dir, false), open_millis(&dir, true));
    println!("with them: open {writable:.2} ms, open read-only {read_only:.2} ms, look-up {lookup:.2} µs");
    let chain = open(&dir, Access::ReadOnly);

    let files = payload_files(&dir);
    let hash = |path: &PathBuf| *blake3::Hasher::new().update_mmap(path).unwrap().finalize().as_bytes();
    let hash_split =
        |path: &PathBuf| *blake3::Hasher::new().update_mmap_rayon(path).unwrap().finalize().as_bytes();
    let works: [(&str, &dyn Fn()); 3] = [
        ("blake3, one file after the other, all threads", &|| {
            files.iter().for_each(|file| {
                black_box(hash_split(file));
            })
        }),
        ("blake3, one file a thread", &|| {
            files.par_iter().for_each(|file| {
                black_box(hash(file));
            })
        }),
        ("chain.verify, full", &|| assert!(chain.verify(&VerifyOptions::full()).unwrap().is_ok())),
    ];
    // In turns, so that whatever else the machine does meets all of them.
    let mut rates = [0.0_f64; 3];
    for _ in 0..9 {
        for ((_, work), best) in works.iter().zip(&mut rates) {
            let begun = Instant::now();
            work();
            *best = best.max(rate(begun.elapsed()));
        }
    }
    println!("\n| {} files of {} MiB | GB/s | of the best BLAKE3 |", PAYLOAD_FILES, PAYLOAD_BYTES >> 20);
    println!("|---|---:|---:|");
    let best = rates[0].max(rates[1]);
    for ((name, _), rate) in works.iter().zip(rates) {
        println!("| {name} | {rate:.2} | {:.2} |", rate / best);
    }
}

/// A model of many slots: the chain looks at no payload of a weight, so they share one.
fn append_model(chain: &Chain) -> BlockHash {
    let feed_forward = FeedForward::Moe {
        num_experts: EXPERTS,
        num_experts_per_tok: 8,
        moe_intermediate_size: 1,
        norm_topk_prob: false,
        shared_expert_intermediate_size: None,
    };
    let spec = ModelSpec {
        spec_version: 1,
        architecture: Architecture::Olmoe,
        vocab_size: 1,
        hidden_size: 2,
        max_position_embeddings: 1,
        rms_norm_eps: 1e-5,
        tie_word_embeddings: false,
        attention: AttentionSpec {
            num_attention_heads: 1,
            num_key_value_heads: 1,
            head_dim: 2,
            qkv_bias: false,
            output_bias: false,
            qk_norm: QkNorm::None,
            clip_qkv: None,
        },
        rope: RopeSpec { rope_theta: 1e4, frequency_dtype: DType::F32, scaling: RopeScaling::Default },
        layers: vec![LayerSpec { sliding_window: None, feed_forward }; LAYERS],
        tokens: TokenSpec { bos_token_id: None, eos_token_ids: Vec::new(), pad_token_id: None },
    };
    let mut writer = chain.writer().unwrap();
    let draft = Draft::new(ChainId::Meta, BlockKind::SPEC, "spec", spec.to_canonical_json());
    let root = writer.append(draft).unwrap().hash;
    let mut slots = std::collections::BTreeMap::new();
    for slot in spec.required_slots() {
        let draft = Draft::new(ChainId::Parameter, slot.kind(), slot.to_string(), "weights");
        let draft = draft.with_parent(root, ParentRole::Dependency);
        slots.insert(slot, writer.append(draft).unwrap().hash);
    }
    let manifest = Manifest { spec: root, slots };
    let draft = Draft::new(ChainId::Meta, BlockKind::MODEL, "model", manifest.to_canonical_json());
    let draft = manifest
        .slots
        .values()
        .chain([&root])
        .fold(draft, |draft, block| draft.with_parent(*block, ParentRole::Dependency));
    let model = writer.append(draft).unwrap().hash;
    writer.commit().unwrap();
    model
}

fn snapshots(scratch: &Path) {
    let dir = scratch.join("slots");
    let model = append_model(&open(&dir, Access::ReadWrite));
    let timed = |chain: &Chain| {
        let begun = Instant::now();
        let snapshot = Snapshot::of_model(chain, &model).unwrap();
        let millis = begun.elapsed().as_secs_f64() * 1e3;
        (snapshot.slots().len(), millis)
    };
    let first = median((0..9).map(|_| timed(&open(&dir, Access::ReadOnly)).1).collect());
    let chain = open(&dir, Access::ReadOnly);
    let (slots, _) = timed(&chain);
    let again = median((0..9).map(|_| timed(&chain).1).collect());
    println!("\nsnapshot of {slots} slots: {first:.1} ms after opening the chain, {again:.1} ms again");
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut parent = std::env::temp_dir();
    while let Some(argument) = arguments.next() {
        if argument == "--dir" {
            parent = arguments.next().map(PathBuf::from).unwrap();
        }
    }
    let scratch = tempfile::tempdir_in(parent).unwrap();
    println!("{} threads\n", rayon::current_num_threads());
    scale(scratch.path());
    in_turns(scratch.path());
    verification(scratch.path());
    snapshots(scratch.path());
}
