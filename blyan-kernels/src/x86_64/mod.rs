//! The instruction sets of x86-64: a token for each, which proves that the CPU has it.

#![expect(unsafe_code, reason = "intrinsics, and functions compiled for more features than the crate")]

use std::arch::asm;
use std::sync::LazyLock;

use super::rows::CACHE_LINE_BYTES;
use super::simd::NEAR_BYTES;

/// Returns the first feature that the CPU lacks as the function's error.
macro_rules! require_features {
    ($($feature:tt),*) => {
        $(if !std::arch::is_x86_feature_detected!($feature) {
            return Err($feature);
        })*
    };
}

/// Asks for the cache lines of so many bytes [`NEAR_BYTES`] after an address for the first-level cache. Not an intrinsic, which
/// the compiler moves behind reads that follow: of a core's few requests under way, those for what is needed last should not be
/// made last.
#[inline(always)]
fn prefetch_near(at: *const u8, bytes: usize) {
    for start in (0..bytes).step_by(4 * CACHE_LINE_BYTES) {
        let (at, left) = (at.wrapping_add(start), bytes - start);
        // Lines whose distance is part of the instruction.
        macro_rules! ask {
            ($($line:literal)*) => {
                $(if $line * CACHE_LINE_BYTES < left {
                    // SAFETY: a hint that neither reads nor writes. That the compiler does not know it, for want of `nomem`
                    // and `readonly`, keeps it in its place.
                    unsafe {
                        asm!(
                            "prefetcht0 [{} + {}]",
                            in(reg) at,
                            const NEAR_BYTES + $line * CACHE_LINE_BYTES,
                            options(nostack, preserves_flags),
                        );
                    }
                })*
            };
        }
        ask!(0 1 2 3);
    }
}

/// Whether the CPU is Intel's, see [`Simd::reads_two_runs`](super::simd::Simd::reads_two_runs).
fn is_intel() -> bool {
    // Asked once: in a virtual machine it is the host that has to answer.
    static INTEL: LazyLock<bool> = LazyLock::new(|| {
        #[allow(unused_unsafe, reason = "the call is unsafe in Rust 1.90")]
        // SAFETY: every x86-64 CPU has the instruction and the leaf.
        let leaf = unsafe { std::arch::x86_64::__cpuid(0) };
        let name = [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes);
        name.as_flattened() == b"GenuineIntel"
    });
    *INTEL
}

pub(super) mod amx;
pub(super) mod avx2;
pub(super) mod avx512;

#[cfg(test)]
mod tests {
    #[test]
    fn the_first_missing_feature_is_named() {
        fn check() -> Result<(), &'static str> {
            // TBM was in AMD's CPUs of 2012 to 2016 alone.
            require_features!("sse2", "tbm", "avx");
            Ok(())
        }
        if !std::arch::is_x86_feature_detected!("tbm") {
            assert_eq!(check(), Err("tbm"));
        }
    }
}
