//! Measures the limits of the machine, in the run whose figures are compared with them: one line of JSON.
//!
//! ```text
//! probe FOLDER [--threads N] [--mib N] [--payloads CHAIN]
//! probe --cores                            how far its cores are from each other, and nothing else
//! probe --payloads CHAIN --turns N [--dtype NAME] [--threads N]
//!                                          ways to read the chain's payloads and products of them, N turns each
//! ```
//!
//! In FOLDER a file is written, mapped and removed. The payloads of CHAIN are mapped and read as they are, one after the
//! other, if they are as many bytes: many GiB may be read slower than one GiB again and again. Each figure is the best of a
//! few passes, of reads their median as well; GB are 10^9 bytes. What the CPU or the kernel does not have is null.

#![expect(unsafe_code, reason = "the limits are those of single instructions and of maps with advice")]

use std::error::Error;
use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use blyan_core::kernels::{GroupQuantized, Input, Isa, KernelError, MatMut, Normals, Quantized, Weights};
use blyan_core::{DType, import};
use lexopt::prelude::*;
use peers_runner::{cores_ns, median};
use rayon::prelude::*;
use serde_json::{Value, json};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const HUGE_PAGE_BYTES: usize = 2 << 20;
const PASSES: usize = 5;

/// Bytes that are read at once.
const TURN_BYTES: usize = 512;

/// Bytes that two runs share.
const RUNS_BYTES: usize = 384 << 10;

const PAGE_BYTES: usize = 4096;

/// How memory is read, and how a software prefetch asks.
#[derive(Clone, Copy)]
enum How {
    Plain,
    Prefetch,
    /// Memory for the second-level cache, and that one for the first.
    Twice,
    /// The same of two runs in turns, near each other and not at the end of a page at the same time, as the library's
    /// kernels read on some CPUs.
    TwoRuns,
}

impl How {
    const ALL: [(&str, Self); 4] = [
        ("", Self::Plain),
        ("_prefetch", Self::Prefetch),
        ("_twice", Self::Twice),
        ("_two_runs", Self::TwoRuns),
    ];

    /// How far ahead the first-level cache is asked, and the second.
    fn ahead(self) -> (Option<usize>, Option<usize>) {
        match self {
            Self::Plain => (None, None),
            Self::Prefetch => (Some(6 << 10), None),
            Self::Twice => (Some(4 << 10), Some(16 << 10)),
            Self::TwoRuns => (Some(2 << 10), Some(6 << 10)),
        }
    }

    /// What is read side by side of a part.
    fn runs(self, part: &[u8]) -> (&[u8], &[u8]) {
        match self {
            Self::Plain | Self::Prefetch | Self::Twice => (part, &[]),
            // Half a page beyond the half of whole pages.
            Self::TwoRuns => {
                part.split_at((part.len() / 2 / PAGE_BYTES * PAGE_BYTES + PAGE_BYTES / 2).min(part.len()))
            }
        }
    }
}

/// The best and the median of a few passes over all parts, in GB/s. A thread that has read a part takes the next one.
fn read(parts: &[&[u8]], threads: usize, how: How) -> (f64, f64) {
    let bytes: usize = parts.iter().map(|part| part.len()).sum();
    let mut rates = Vec::with_capacity(PASSES);
    for _ in 0..PASSES {
        let next = AtomicUsize::new(0);
        let read = |_| {
            while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                black_box(sum(part, how));
            }
        };
        let begun = Instant::now();
        (0..threads).into_par_iter().with_max_len(1).for_each(read);
        rates.push(bytes as f64 / begun.elapsed().as_secs_f64() / 1e9);
    }
    (rates.iter().copied().fold(0.0, f64::max), median(rates))
}

/// Reads `bytes`, in whole turns, as fast as the widest loads go.
fn sum(bytes: &[u8], how: How) -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU has AVX-512F.
            return unsafe { x86_64::sum_avx512(bytes, how) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU has AVX2.
            return unsafe { x86_64::sum_avx2(bytes, how) };
        }
    }
    let _ = how;
    let words =
        bytes.chunks_exact(8).map(|word| word.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte)));
    words.fold(0, |a, b| a ^ b)
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::arch::asm;
    use std::arch::x86_64::*;

    use super::{How, Isa, RUNS_BYTES, TURN_BYTES};

    /// Runs `add` with each turn's bytes.
    #[inline(always)]
    fn in_turns(how: How, bytes: &[u8], add: &mut impl FnMut(&[u8])) {
        for part in bytes.chunks(RUNS_BYTES) {
            let (first, second) = how.runs(part);
            let mut second = second.chunks_exact(TURN_BYTES);
            for lines in first.chunks_exact(TURN_BYTES) {
                add(lines);
                if let Some(lines) = second.next() {
                    add(lines);
                }
            }
            second.for_each(&mut *add);
        }
    }

    /// Asks for what comes after a line.
    #[inline(always)]
    fn ask(line: *const u8, how: How) {
        let (first, second) = how.ahead();
        // SAFETY: hints that neither read nor write; an address outside of the map is ignored. Not intrinsics, which
        // the compiler moves behind the reads that follow.
        unsafe {
            if let Some(ahead) = first {
                asm!("prefetcht0 [{}]", in(reg) line.wrapping_add(ahead), options(nostack, preserves_flags));
            }
            if let Some(ahead) = second {
                asm!("prefetcht1 [{}]", in(reg) line.wrapping_add(ahead), options(nostack, preserves_flags));
            }
        }
    }

    /// The xor of all 64-byte lines.
    #[target_feature(enable = "avx512f")]
    pub(super) fn sum_avx512(bytes: &[u8], how: How) -> u64 {
        let mut sums = [_mm512_setzero_si512(); 8];
        let mut add = |lines: &[u8]| {
            for (sum, line) in sums.iter_mut().zip(lines.chunks_exact(64)) {
                ask(line.as_ptr(), how);
                // SAFETY: `line` is 64 bytes.
                *sum = _mm512_xor_si512(*sum, unsafe { _mm512_loadu_si512(line.as_ptr().cast()) });
            }
        };
        in_turns(how, bytes, &mut add);
        let all = sums.into_iter().fold(_mm512_setzero_si512(), |a, b| _mm512_xor_si512(a, b));
        _mm512_reduce_add_epi64(all) as u64
    }

    /// The xor of all 32-byte halves of lines.
    #[target_feature(enable = "avx2")]
    pub(super) fn sum_avx2(bytes: &[u8], how: How) -> u64 {
        let mut sums = [_mm256_setzero_si256(); 16];
        let mut add = |lines: &[u8]| {
            for (sum, half) in sums.iter_mut().zip(lines.chunks_exact(32)) {
                // Once for each line.
                if half.as_ptr().addr() % 64 == 0 {
                    ask(half.as_ptr(), how);
                }
                // SAFETY: `half` is 32 bytes.
                *sum = _mm256_xor_si256(*sum, unsafe { _mm256_loadu_si256(half.as_ptr().cast()) });
            }
        };
        in_turns(how, bytes, &mut add);
        let all = sums.into_iter().fold(_mm256_setzero_si256(), |a, b| _mm256_xor_si256(a, b));
        _mm256_extract_epi64::<0>(all) as u64 ^ _mm256_extract_epi64::<2>(all) as u64
    }

    /// Ten chains that depend on nothing but themselves, so that only the instruction's throughput counts.
    macro_rules! ten_chains {
        ($name:ident, $features:literal, $instruction:literal, $register:literal) => {
            #[target_feature(enable = $features)]
            pub(super) fn $name(rounds: usize) {
                // SAFETY: arithmetic on registers that are declared as overwritten. They are zero, so that
                // no denormal or NaN slows them down.
                unsafe {
                    asm!(
                        "vpxor xmm10, xmm10, xmm10",
                        "vpxor xmm0, xmm0, xmm0",
                        "vpxor xmm1, xmm1, xmm1",
                        "vpxor xmm2, xmm2, xmm2",
                        "vpxor xmm3, xmm3, xmm3",
                        "vpxor xmm4, xmm4, xmm4",
                        "vpxor xmm5, xmm5, xmm5",
                        "vpxor xmm6, xmm6, xmm6",
                        "vpxor xmm7, xmm7, xmm7",
                        "vpxor xmm8, xmm8, xmm8",
                        "vpxor xmm9, xmm9, xmm9",
                        "2:",
                        concat!($instruction, " ", $register, "0, ", $register, "10, ", $register, "10"),
                        concat!($instruction, " ", $register, "1, ", $register, "10, ", $register, "10"),
                        concat!($instruction, " ", $register, "2, ", $register, "10, ", $register, "10"),
                        concat!($instruction, " ", $register, "3, ", $register, "10, ", $register, "10"),
                        concat!($instruction, " ", $register, "4, ", $register, "10, ", $register, "10"),
                        concat!($instruction, " ", $register, "5, ", $register, "10, ", $register, "10"),
                        concat!($instruction, " ", $register, "6, ", $register, "10, ", $register, "10"),
                        concat!($instruction, " ", $register, "7, ", $register, "10, ", $register, "10"),
                        concat!($instruction, " ", $register, "8, ", $register, "10, ", $register, "10"),
                        concat!($instruction, " ", $register, "9, ", $register, "10, ", $register, "10"),
                        "dec {rounds}",
                        "jnz 2b",
                        rounds = inout(reg) rounds => _,
                        out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _,
                        out("xmm5") _, out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _,
                        out("xmm10") _,
                        options(nomem, nostack),
                    );
                }
            }
        };
    }
    ten_chains!(fma_avx512, "avx512f", "vfmadd231ps", "zmm");
    ten_chains!(fma_avx2, "avx2,fma", "vfmadd231ps", "ymm");
    ten_chains!(dot_i16_avx2, "avx2", "vpmaddwd", "ymm");
    ten_chains!(dot_u8_avx512, "avx512f,avx512vnni", "vpdpbusd", "zmm");
    ten_chains!(dot_i16_avx512, "avx512f,avx512vnni", "vpdpwssd", "zmm");
    ten_chains!(dot_bf16_avx512, "avx512f,avx512bf16", "vdpbf16ps", "zmm");

    /// What `ldtilecfg` reads: eight tiles of 16 rows of 64 bytes.
    #[repr(C, align(64))]
    struct Tiles([u8; 64]);

    /// Four chains of products of tiles, ten in each round.
    unsafe fn dot_i8_amx(rounds: usize) {
        let mut tiles = Tiles([0; 64]);
        tiles.0[0] = 1;
        (0..8).for_each(|tile| (tiles.0[16 + 2 * tile], tiles.0[48 + tile]) = (64, 16));
        // SAFETY: the caller says that the CPU has tiles and that the process may use them; nothing else is touched.
        unsafe {
            asm!(
                "ldtilecfg [{tiles}]",
                "2:",
                "tdpbssd tmm0, tmm4, tmm6",
                "tdpbssd tmm1, tmm4, tmm7",
                "tdpbssd tmm2, tmm5, tmm6",
                "tdpbssd tmm3, tmm5, tmm7",
                "tdpbssd tmm0, tmm4, tmm6",
                "tdpbssd tmm1, tmm4, tmm7",
                "tdpbssd tmm2, tmm5, tmm6",
                "tdpbssd tmm3, tmm5, tmm7",
                "tdpbssd tmm0, tmm4, tmm6",
                "tdpbssd tmm1, tmm4, tmm7",
                "dec {rounds}",
                "jnz 2b",
                "tilerelease",
                tiles = in(reg) &raw const tiles,
                rounds = inout(reg) rounds => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }

    /// Operations of one instruction, a multiplication and an addition being two, by the name they are reported
    /// under, and the chain where the CPU has it.
    pub(super) fn chains() -> [(&'static str, f64, Option<unsafe fn(usize)>); 7] {
        let vnni = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni");
        let bf16 = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16");
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        [
            ("fma_f32_avx512_gflops", 32.0, is_x86_feature_detected!("avx512f").then_some(fma_avx512 as _)),
            ("fma_f32_avx2_gflops", 16.0, avx2.then_some(fma_avx2 as _)),
            ("vpmaddwd_gops", 32.0, is_x86_feature_detected!("avx2").then_some(dot_i16_avx2 as _)),
            ("vpdpbusd_gops", 128.0, vnni.then_some(dot_u8_avx512 as _)),
            ("vpdpwssd_gops", 64.0, vnni.then_some(dot_i16_avx512 as _)),
            ("vdpbf16ps_gflops", 64.0, bf16.then_some(dot_bf16_avx512 as _)),
            // The library asks the system for the right to use tiles.
            ("tdpbssd_gops", 32768.0, Isa::named("amx").is_ok().then_some(dot_i8_amx as _)),
        ]
    }
}

/// 10^9 operations a second of all threads together.
#[cfg(target_arch = "x86_64")]
fn peaks(threads: usize, result: &mut Value) {
    const ROUNDS: usize = 20_000_000;
    for (name, operations, chain) in x86_64::chains() {
        let Some(chain) = chain else {
            result[name] = Value::Null;
            continue;
        };
        let mut best = f64::INFINITY;
        for _ in 0..2 {
            let begun = Instant::now();
            // SAFETY: `chains` gives those alone whose instructions the CPU has.
            (0..threads).into_par_iter().with_max_len(1).for_each(|_| unsafe { chain(ROUNDS) });
            best = best.min(begun.elapsed().as_secs_f64());
        }
        result[name] = json!((threads * ROUNDS * 10) as f64 * operations / best / 1e9);
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn peaks(_: usize, _: &mut Value) {}

/// A map that starts at a huge page's border, of a file or of anonymous memory.
struct Map {
    /// What was reserved, so that there is room for the border.
    reserved: *mut libc::c_void,
    reserved_bytes: usize,
    start: *mut u8,
    len_bytes: usize,
}

impl Map {
    /// Maps `len_bytes`, with advice for or against huge pages; `None` where the kernel refuses the advice for
    /// them.
    fn new(file: Option<&File>, len_bytes: usize, huge: bool) -> Outcome<Option<Self>> {
        let reserved_bytes = len_bytes + HUGE_PAGE_BYTES;
        let (nothing, none) = (std::ptr::null_mut(), libc::PROT_NONE);
        let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new map at an address of the kernel's choice touches no other.
        let reserved = unsafe { libc::mmap(nothing, reserved_bytes, none, anonymous, -1, 0) };
        if reserved == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error().into());
        }
        let start = reserved.wrapping_byte_add(reserved.align_offset(HUGE_PAGE_BYTES));
        let map = Self { reserved, reserved_bytes, start: start.cast(), len_bytes };
        let (protection, flags, fd) = match file {
            Some(file) => (libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd()),
            None => (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
        };
        // SAFETY: the fixed range lies in what was just reserved.
        if unsafe { libc::mmap(start, len_bytes, protection, flags | libc::MAP_FIXED, fd, 0) } != start {
            return Err(std::io::Error::last_os_error().into());
        }
        let advice = if huge { libc::MADV_HUGEPAGE } else { libc::MADV_NOHUGEPAGE };
        // SAFETY: the advice changes no byte, and the range is that of the map.
        let refused = unsafe { libc::madvise(start, len_bytes, advice) } != 0;
        Ok((!(huge && refused)).then_some(map))
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the map is readable and lives as long as `self`; its file has no name, or is a payload, which is never
        // written again: the chain is the benchmark's own.
        unsafe { std::slice::from_raw_parts(self.start, self.len_bytes) }
    }

    /// Writes every page of an anonymous map.
    fn fill(&mut self) {
        // SAFETY: an anonymous map is writable, and `self` is borrowed alone.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.start, self.len_bytes) };
        bytes
            .par_chunks_mut(HUGE_PAGE_BYTES)
            .enumerate()
            .for_each(|(index, part)| part.fill(index as u8 | 1));
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: no slice outlives `self`.
        unsafe { libc::munmap(self.reserved, self.reserved_bytes) };
    }
}

/// KiB of the process's maps of files that whole huge pages hold.
fn file_huge_kib() -> u64 {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix("FilePmdMapped:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

fn run() -> Outcome<Value> {
    let (mut folder, mut threads, mut mib) = (None, std::thread::available_parallelism()?.get(), 1024);
    let (mut payloads, mut rounds, mut dtype) = (None, None, DType::I8);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("threads") => threads = parser.value()?.parse()?,
            Long("cores") => return Ok(json!({ "cores_ns": cores_ns() })),
            Long("mib") => mib = parser.value()?.parse()?,
            Long("turns") => rounds = Some(parser.value()?.parse()?),
            Long("dtype") => dtype = import::dtype_of_option(&parser.value()?.string()?)?,
            Long("payloads") => payloads = Some(PathBuf::from(parser.value()?).join("payloads")),
            Value(value) if folder.is_none() => folder = Some(PathBuf::from(value)),
            _ => return Err(argument.unexpected().into()),
        }
    }
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    if let Some(rounds) = rounds {
        let maps = map_payloads(&payloads.ok_or("name a chain by --payloads")?)?;
        return turns(&parts_of(&maps), rounds, dtype, threads, mib << 20);
    }
    let folder = folder.ok_or("name a folder to write a file in")?;
    let len = mib << 20;
    let mut result = json!({ "threads": threads, "read_mib": mib });

    for (name, huge) in [("anonymous", false), ("anonymous_huge", true)] {
        let mut map = Map::new(None, len, huge)?;
        map.iter_mut().for_each(Map::fill);
        read_map(name, map.as_ref(), threads, &mut result);
        if let (Some(map), false) = (&map, huge) {
            hashes(map.bytes(), threads, &mut result);
        }
    }

    let path = folder.join(format!("probe-{}", std::process::id()));
    let mut file = File::options().read(true).write(true).create_new(true).open(&path)?;
    // Nameless from here on, so that nothing stays behind whatever happens.
    std::fs::remove_file(&path)?;
    let part = vec![0x5a_u8; HUGE_PAGE_BYTES];
    for _ in 0..len / HUGE_PAGE_BYTES {
        file.write_all(&part)?;
    }
    file.sync_all()?;
    for (name, huge) in [("file", false), ("file_huge", true)] {
        // Huge pages are given when a file is read through a map that asks for them, not when it was written.
        // SAFETY: a call on a file that is open; what it drops from the cache is on the disk.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        let map = Map::new(Some(&file), len, huge)?;
        if let (Some(map), true) = (&map, huge) {
            black_box(sum(map.bytes(), How::Plain));
            result["file_huge_kib"] = json!(file_huge_kib());
        }
        read_map(name, map.as_ref(), threads, &mut result);
    }
    if let Some(payloads) = payloads {
        let maps = map_payloads(&payloads)?;
        let parts = parts_of(&maps);
        // Of fewer bytes a cache would hold much of what the pass before has read.
        if parts.iter().map(|part| part.len()).sum::<usize>() >= len {
            // Those that are not in memory are read from the disk here.
            parts.iter().for_each(|part| _ = black_box(sum(part, How::Plain)));
            read_parts("payloads", Some(&parts), threads, &mut result);
        }
    }
    peaks(threads, &mut result);
    Ok(result)
}

/// Bytes of payloads that are read, at most: those of several models are to stay in memory beside them.
const MOST_PAYLOAD_BYTES: u64 = 6 << 30;

/// The payloads of a chain in huge pages. Those that would be too much are left out, by their names and so by chance.
fn map_payloads(folder: &Path) -> Outcome<Vec<Map>> {
    let mut files = Vec::new();
    for prefix in std::fs::read_dir(folder)? {
        let prefix = prefix?;
        if prefix.file_type()?.is_dir() {
            for file in std::fs::read_dir(prefix.path())? {
                let file = file?;
                files.push((file.path(), file.metadata()?.len()));
            }
        }
    }
    files.sort();
    let mut left = MOST_PAYLOAD_BYTES;
    files.retain(|(_, len)| {
        let fits = (1..=left).contains(len);
        left -= if fits { *len } else { 0 };
        fits
    });
    let maps =
        files.iter().map(|(path, len)| Map::new(Some(&File::open(path)?), usize::try_from(*len)?, true));
    maps.filter_map(Outcome::transpose).collect()
}

/// Pieces, so that no thread reads a large one while the others have nothing left.
fn parts_of(maps: &[Map]) -> Vec<&[u8]> {
    maps.iter().flat_map(|map| map.bytes().chunks(4 * HUGE_PAGE_BYTES)).collect()
}

/// Parts of one turn: some 300 MB of a large model, so that a turn is short beside what a host's memory takes to change its
/// speed, and long beside what it takes to begin.
const PARTS_OF_TURN: usize = 48;

/// Each way to read, and products of one token with rows of 2048 and of 1024 weights, take turns over the parts. Of each:
/// the median rate, and the quarters of its ratios to the read in two runs beside it. The bytes are taken as rows of the
/// dtype, whatever they are, so a product is as fast as in the model only of a chain of that dtype; scales, which for int4
/// are an eighth more, are not counted.
fn turns(parts: &[&[u8]], rounds: usize, dtype: DType, threads: usize, least_bytes: usize) -> Outcome<Value> {
    if parts.iter().map(|part| part.len()).sum::<usize>() < least_bytes {
        return Err("too few bytes of payloads in huge pages: a cache would hold them, see --mib".into());
    }
    let per_turn = PARTS_OF_TURN.min(parts.len());
    parts.iter().for_each(|part| _ = black_box(sum(part, How::Plain)));
    type Work<'a> = Box<dyn Fn(usize) -> Result<(), KernelError> + Sync + 'a>;
    let mut ways: Vec<(String, Work<'_>)> = Vec::new();
    for (name, how) in How::ALL.into_iter().rev() {
        let work = move |at: usize| {
            black_box(sum(parts[at], how));
            Ok(())
        };
        ways.push((format!("read{name}"), Box::new(work)));
    }
    for cols in [2048, 1024] {
        let products =
            parts.iter().map(|part| Product::new(dtype, cols, part)).collect::<Result<Vec<_>, _>>()?;
        ways.push((format!("product_{cols}"), Box::new(move |at| products[at].run())));
    }
    let mut rates = vec![vec![0.0; rounds]; ways.len()];
    let mut first = 0;
    for round in 0..rounds {
        for turn in 0..ways.len() {
            // Another one begins each round, so that none meets the same parts again and again.
            let way = (round + turn) % ways.len();
            let of_turn = first..first + per_turn;
            let next = AtomicUsize::new(of_turn.start);
            let run = |_| -> Result<(), KernelError> {
                loop {
                    match next.fetch_add(1, Ordering::Relaxed) {
                        at if at < of_turn.end => ways[way].1(at % parts.len())?,
                        _ => return Ok(()),
                    }
                }
            };
            let begun = Instant::now();
            (0..threads).into_par_iter().with_max_len(1).try_for_each(run)?;
            let seconds = begun.elapsed().as_secs_f64();
            let bytes: usize = of_turn.clone().map(|at| parts[at % parts.len()].len()).sum();
            rates[way][round] = bytes as f64 / seconds / 1e9;
            first = of_turn.end % parts.len();
        }
    }
    let mut result = json!({ "threads": threads, "dtype": dtype.to_string() });
    for ((name, _), of_way) in ways.iter().zip(&rates) {
        let mut ratios: Vec<f64> = of_way.iter().zip(&rates[0]).map(|(rate, read)| rate / read).collect();
        ratios.sort_by(f64::total_cmp);
        let quarters: Vec<f64> =
            [1, 2, 3].iter().filter_map(|q| ratios.get(q * ratios.len() / 4).copied()).collect();
        result[name] = json!({ "gb_per_s": median(of_way.clone()), "of_two_runs": quarters });
    }
    Ok(result)
}

/// One token and the rows that a part is taken as.
struct Product<'a> {
    isa: Isa,
    dtype: DType,
    rows: usize,
    cols: usize,
    weights: &'a [u8],
    scale: Option<Vec<u8>>,
    normals: Normals,
    token: Vec<f32>,
    quantized: Quantized,
    groups: GroupQuantized,
}

impl<'a> Product<'a> {
    fn new(dtype: DType, cols: usize, part: &'a [u8]) -> Result<Self, KernelError> {
        let isa = Isa::for_rows();
        let rows = part.len() / dtype.bytes_of(cols);
        let weights = &part[..rows * dtype.bytes_of(cols)];
        // Ones, or as good as that.
        let scale_bytes = if dtype == DType::I4 { rows * cols / 16 } else { 4 * rows };
        let scale = dtype.is_quantized().then(|| vec![0x3f; scale_bytes]);
        let normals = isa.normals(&Weights::new(dtype, rows, cols, weights, scale.as_deref())?);
        let token: Vec<f32> = (0..cols).map(|col| (col as f32 * 0.37).sin()).collect();
        let (mut quantized, mut groups) = (Quantized::default(), GroupQuantized::default());
        quantized.rows_for(&token, cols)?.for_each(|row| isa.quantize_row(row));
        groups.rows_for(&token, cols)?.for_each(|row| isa.quantize_row_by_group(row));
        Ok(Self { isa, dtype, rows, cols, weights, scale, normals, token, quantized, groups })
    }

    fn run(&self) -> Result<(), KernelError> {
        let weights = Weights::new(self.dtype, self.rows, self.cols, self.weights, self.scale.as_deref())?
            .with_normals(&self.normals)?;
        let input = Input::new(&self.token, self.cols)?;
        let input = input.with_quantized(&self.quantized)?.with_groups(&self.groups)?;
        let mut out = vec![0.0; self.rows];
        self.isa.matmul(&weights, 0..self.rows, &input, MatMut::from_slice(&mut out, 1, self.rows)?)?;
        black_box(&out);
        Ok(())
    }
}

/// In each way, and how far the cores were before and after; null where there is no such map.
fn read_map(name: &str, map: Option<&Map>, threads: usize, result: &mut Value) {
    let bytes = map.map_or(&[][..], Map::bytes);
    let part = bytes.len().div_ceil(threads).next_multiple_of(64).max(64);
    let parts: Vec<&[u8]> = bytes.chunks(part).collect();
    read_parts(name, map.map(|_| &parts[..]), threads, result);
}

fn read_parts(name: &str, parts: Option<&[&[u8]]>, threads: usize, result: &mut Value) {
    for (suffix, how) in How::ALL {
        let before = cores_ns();
        let found = parts.map(|parts| read(parts, threads, how));
        result[format!("read_{name}{suffix}")] = json!(found.map(|(best, _)| best));
        result[format!("median_{name}{suffix}")] = json!(found.map(|(_, median)| median));
        result[format!("cores_{name}{suffix}")] = json!([before, cores_ns()]);
    }
}

/// BLAKE3 of a GB that is in memory: one thread, all threads on one input, all threads on their own.
fn hashes(bytes: &[u8], threads: usize, result: &mut Value) {
    let rate = |len: usize, work: &dyn Fn()| {
        let begun = Instant::now();
        work();
        json!(len as f64 / begun.elapsed().as_secs_f64() / 1e9)
    };
    let quarter = &bytes[..bytes.len() / 4];
    result["blake3_one_thread"] = rate(quarter.len(), &|| {
        black_box(blake3::hash(quarter));
    });
    result["blake3_one_input"] = rate(bytes.len(), &|| {
        black_box(blake3::Hasher::new().update_rayon(bytes).finalize());
    });
    result["blake3_many_inputs"] = rate(bytes.len(), &|| {
        let part = bytes.len().div_ceil(threads * 16);
        bytes.par_chunks(part).for_each(|part| {
            black_box(blake3::hash(part));
        });
    });
}

fn main() {
    println!("{}", run().unwrap_or_else(|error| json!({ "error": error.to_string() })));
}
