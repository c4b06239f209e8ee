//! The first open of a weight block against plain BLAKE3 over its file, and what a view costs after it.
//!
//! `cargo bench -p blyan-core --bench tensor`; `-- --dir DIR` to measure another medium than the
//! system's folder for temporary files. Files are in the page cache, so hashing is what is measured.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a benchmark prints and may end")]

use std::fs::{self, File};
use std::hint::black_box;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use blyan_core::chain::Draft;
use blyan_core::storage::DirMedium;
use blyan_core::tensor::PayloadLayout;
use blyan_core::{
    BlockHash, BlockKind, Chain, ChainId, DType, Payload, PayloadHash, Shape, TensorBlock, TensorView,
};

const SIZES_MIB: [usize; 4] = [1, 32, 256, 1024];
const COLS: usize = 1024;
const MIN_ROUNDS: usize = 11;
const MIN_TIME: Duration = Duration::from_secs(2);
const VIEWS: u32 = 100_000;

/// Weights of no slot that exists yet: a block of any shape.
const KIND: BlockKind = BlockKind(31);

struct Stored {
    block: BlockHash,
    payload: PayloadHash,
    file: PathBuf,
}

/// Appends a block that holds one matrix of as many MiB.
fn append(dir: &Path, mib: usize) -> Stored {
    let shape = Shape::new([(mib << 20) / COLS / DType::BF16.size_bytes(), COLS]);
    let layout = PayloadLayout::new(&[("weight", DType::BF16, &shape)]).unwrap();
    let mut bytes = layout.zeroed();
    for (_, place) in layout.places(&mut bytes) {
        blake3::Hasher::new().update(&mib.to_le_bytes()).finalize_xof().fill(place);
    }
    let draft = Draft::new(ChainId::Parameter, KIND, "weights", bytes);
    let payload = draft.header().unwrap().payload.hash;
    let block = Chain::open(dir).unwrap().append(draft).unwrap();
    Stored { block, payload, file: DirMedium::new(dir).payload_path(&payload) }
}

/// A chain that verified nothing yet. The block was looked up, as all of a model's blocks are before
/// the first is opened: what a look-up costs, the bench `chain` says.
fn prepare(dir: &Path, stored: &Stored) -> Chain {
    let chain = Chain::open_read_only(dir).unwrap();
    assert_eq!(chain.get(&stored.block).unwrap().hash(), stored.block);
    chain
}

/// Opens the block: maps, hashes, parses.
fn first_open(dir: &Path, stored: &Stored) -> Duration {
    let chain = prepare(dir, stored);
    let begun = Instant::now();
    let opened = TensorBlock::open(&chain, &stored.block).unwrap();
    let time = begun.elapsed();
    assert_eq!(opened.tensors().len(), 1);
    time
}

/// Maps and hashes the file with nothing else, on all threads: after the same preparation, in which
/// the threads of the pool fall asleep, and with unmapping off the clock as well.
fn plain_blake3(dir: &Path, stored: &Stored) -> Duration {
    let _chain = prepare(dir, stored);
    let begun = Instant::now();
    let bytes = Payload::map(&File::open(&stored.file).unwrap()).unwrap();
    let hash = *blake3::Hasher::new().update_rayon(&bytes).finalize().as_bytes();
    let time = begun.elapsed();
    assert_eq!(&hash, stored.payload.as_bytes());
    time
}

/// Best of both, in turns, so that what else the machine does meets both.
fn open_against_blake3(dir: &Path, stored: &Stored) -> (Duration, Duration) {
    let mut best = (Duration::MAX, Duration::MAX);
    let begun = Instant::now();
    let mut rounds = 0;
    while rounds < MIN_ROUNDS || begun.elapsed() < MIN_TIME {
        best.0 = best.0.min(first_open(dir, stored));
        best.1 = best.1.min(plain_blake3(dir, stored));
        rounds += 1;
    }
    best
}

fn view_nanos(block: &TensorBlock) -> f64 {
    let batch = || {
        let begun = Instant::now();
        for _ in 0..VIEWS {
            black_box(black_box(block).tensor("weight").unwrap());
        }
        begun.elapsed().as_secs_f64() * 1e9 / f64::from(VIEWS)
    };
    (0..15).map(|_| batch()).fold(f64::INFINITY, f64::min)
}

/// Whether the kernel says that all of a view lies in the map of the payload's file.
#[cfg(target_os = "linux")]
fn lies_in_map(view: &TensorView<'_>, payload: &PayloadHash) -> bool {
    let view = view.data().as_ptr_range();
    let view = view.start.addr()..view.end.addr();
    let name = payload.to_string();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mut ranges = maps.lines().filter(|line| line.ends_with(&name)).map(|line| -> Range<usize> {
        let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        usize::from_str_radix(start, 16).unwrap()..usize::from_str_radix(end, 16).unwrap()
    });
    ranges.any(|map| map.start <= view.start && view.end <= map.end)
}

#[cfg(not(target_os = "linux"))]
fn lies_in_map(view: &TensorView<'_>, _: &PayloadHash) -> bool {
    !view.data().is_empty()
}

/// KiB of memory that the process holds: in all, and of it no map of a file. Exact, and zero where
/// the system is not Linux.
fn resident_kib() -> (i64, i64) {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let field = |name: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name));
        line.map_or(0, |line| line.trim().trim_end_matches(" kB").parse().unwrap())
    };
    (field("Rss:"), field("Anonymous:"))
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
    let dir = scratch.path();
    println!("{} threads\n", rayon::current_num_threads());
    println!(
        "| tensor | first open | blake3 | of blake3 | copied by the open | a view | in the map | RSS by {VIEWS} × 15 views |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---|---:|");
    for mib in SIZES_MIB {
        let stored = append(dir, mib);
        let (open, blake3) = open_against_blake3(dir, &stored);

        let chain = Chain::open_read_only(dir).unwrap();
        let (_, anonymous_before) = resident_kib();
        let block = TensorBlock::open(&chain, &stored.block).unwrap();
        let (resident_before, anonymous) = resident_kib();
        let nanos = view_nanos(&block);
        let (resident, _) = resident_kib();
        let view = block.tensor("weight").unwrap();
        assert_eq!(view.data().len(), mib << 20);
        assert!(lies_in_map(&view, &stored.payload), "the view lies outside of the map");
        let rate = |time: Duration| (mib << 20) as f64 / time.as_secs_f64() / 1e9;
        println!(
            "| {mib} MiB | {:.2} GB/s | {:.2} GB/s | {:.2} | {} KiB | {nanos:.1} ns | yes | {:+} KiB |",
            rate(open),
            rate(blake3),
            blake3.as_secs_f64() / open.as_secs_f64(),
            anonymous - anonymous_before,
            resident - resident_before,
        );
    }
}
