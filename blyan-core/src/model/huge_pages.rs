//! Owns the request that memory be backed with huge pages: long reads of it then need fewer address translations.

#![cfg_attr(
    target_os = "linux",
    expect(unsafe_code, reason = "a hint about memory that Rust has no call for")
)]

/// Asks for huge pages for the part of `memory` that whole ones fit in. Nothing but speed depends on the answer.
pub(super) fn advise(memory: &mut [u8]) {
    #[cfg(target_os = "linux")]
    {
        use rustix::mm::{Advice, madvise};

        /// On x86-64, and on aarch64 with pages of 4 KiB.
        const HUGE_PAGE_BYTES: usize = 2 << 20;

        let before = memory.as_ptr().align_offset(HUGE_PAGE_BYTES);
        let len = memory.len().saturating_sub(before) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
        if len > 0 {
            let start = memory.as_mut_ptr().wrapping_add(before);
            // SAFETY: `len` bytes from `start` on are whole pages of the slice, and the hint changes none of their
            // contents.
            let _ = unsafe { madvise(start.cast(), len, Advice::LinuxHugepage) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = memory;
}
