//! Owns asking for memory ahead of its use.

#![allow(unsafe_code, reason = "a hint is an instruction")]

/// Asks for the cache line at an address, up to the second-level cache. It is a hint: an address that is not mapped, or
/// no longer, is ignored, and a CPU without such an instruction here does nothing.
#[inline(always)]
pub fn prefetch(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a hint that reads nothing, of the instructions that every x86-64 CPU has.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a hint that reads nothing.
    unsafe {
        std::arch::asm!("prfm pldl2keep, [{0}]", in(reg) at, options(readonly, nostack, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = at;
}
