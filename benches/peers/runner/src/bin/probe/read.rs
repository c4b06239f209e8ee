//! Ways to read memory, and how fast they are.

use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use peers_runner::median;
use rayon::prelude::*;

const PASSES: usize = 5;

/// Bytes that are read at once.
const TURN_BYTES: usize = 512;

/// Bytes that two runs share.
const RUNS_BYTES: usize = 384 << 10;

const PAGE_BYTES: usize = 4096;

/// How memory is read, and how a software prefetch asks.
#[derive(Clone, Copy)]
pub(crate) enum How {
    Plain,
    Prefetch,
    /// Memory for the second-level cache, and that one for the first.
    Twice,
    /// The same of two runs in turns, near each other and not at the end of a page at the same time, as the library's
    /// kernels read on some CPUs.
    TwoRuns,
}

impl How {
    pub(crate) const ALL: [(&str, Self); 4] = [
        ("", Self::Plain),
        ("_prefetch", Self::Prefetch),
        ("_twice", Self::Twice),
        ("_two_runs", Self::TwoRuns),
    ];

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
pub(crate) fn read(parts: &[&[u8]], threads: usize, how: How) -> (f64, f64) {
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

/// Calls a function with how far ahead a way asks. That is a part of its instructions: with more of them it would read slower.
#[cfg(target_arch = "x86_64")]
macro_rules! in_way {
    ($how:ident, $module:ident::$sum:ident($bytes:ident)) => {
        match $how {
            How::Plain => $module::$sum::<0, 0>($bytes, $how),
            How::Prefetch => $module::$sum::<{ 6 << 10 }, 0>($bytes, $how),
            How::Twice => $module::$sum::<{ 4 << 10 }, { 16 << 10 }>($bytes, $how),
            How::TwoRuns => $module::$sum::<{ 2 << 10 }, { 6 << 10 }>($bytes, $how),
        }
    };
}

/// Reads `bytes`, in whole turns, as fast as the widest loads go.
pub(crate) fn sum(bytes: &[u8], how: How) -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU has AVX-512F.
            return unsafe { in_way!(how, x86_64::sum_avx512(bytes)) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU has AVX2.
            return unsafe { in_way!(how, x86_64::sum_avx2(bytes)) };
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

    use super::{How, RUNS_BYTES, TURN_BYTES};

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

    /// Asks for what comes after a line, so many bytes ahead for the first-level cache, and for the second; 0 is not at all.
    #[inline(always)]
    fn ask<const FIRST: usize, const SECOND: usize>(line: *const u8) {
        // SAFETY: hints that neither read nor write; an address outside of the map is ignored. Not intrinsics, which
        // the compiler moves behind the reads that follow.
        unsafe {
            if FIRST > 0 {
                asm!("prefetcht0 [{} + {}]", in(reg) line, const FIRST, options(nostack, preserves_flags));
            }
            if SECOND > 0 {
                asm!("prefetcht1 [{} + {}]", in(reg) line, const SECOND, options(nostack, preserves_flags));
            }
        }
    }

    /// The xor of all 64-byte lines.
    #[target_feature(enable = "avx512f")]
    pub(super) fn sum_avx512<const FIRST: usize, const SECOND: usize>(bytes: &[u8], how: How) -> u64 {
        let mut sums = [_mm512_setzero_si512(); 8];
        let mut add = |lines: &[u8]| {
            for (sum, line) in sums.iter_mut().zip(lines.chunks_exact(64)) {
                ask::<FIRST, SECOND>(line.as_ptr());
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
    pub(super) fn sum_avx2<const FIRST: usize, const SECOND: usize>(bytes: &[u8], how: How) -> u64 {
        let mut sums = [_mm256_setzero_si256(); 16];
        let mut add = |lines: &[u8]| {
            for (sum, half) in sums.iter_mut().zip(lines.chunks_exact(32)) {
                // Once for each line.
                if half.as_ptr().addr() % 64 == 0 {
                    ask::<FIRST, SECOND>(half.as_ptr());
                }
                // SAFETY: `half` is 32 bytes.
                *sum = _mm256_xor_si256(*sum, unsafe { _mm256_loadu_si256(half.as_ptr().cast()) });
            }
        };
        in_turns(how, bytes, &mut add);
        let all = sums.into_iter().fold(_mm256_setzero_si256(), |a, b| _mm256_xor_si256(a, b));
        _mm256_extract_epi64::<0>(all) as u64 ^ _mm256_extract_epi64::<2>(all) as u64
    }
}
