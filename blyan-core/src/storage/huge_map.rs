//! Owns maps of payload files that the kernel may back with huge pages.
//!
//! A file map is backed with 2 MiB pages only if it starts at a multiple of 2 MiB and asks for them before
//! the file is first read (ext4 and XFS of recent kernels do, others ignore it). Weights then read as fast
//! as anonymous memory, and the first touch of a payload costs a fault per 2 MiB instead of one per 64 KiB.

#![expect(unsafe_code, reason = "mapping a file at an address of our choice")]

use std::ffi::c_void;
use std::fs::File;
use std::io;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

/// Size and alignment of a huge page, on x86-64 and on aarch64 with pages of 4 KiB.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A read-only map of a whole file, at a multiple of 2 MiB.
#[derive(Debug)]
pub(super) struct HugeMap {
    // Invariant: `len` bytes from `start` are mapped, readable, until this is dropped.
    start: *mut c_void,
    len: usize,
}

// SAFETY: a map belongs to the process, not to a thread, and is only ever read.
unsafe impl Send for HugeMap {}
// SAFETY: as above.
unsafe impl Sync for HugeMap {}

impl HugeMap {
    /// Maps a file; `None` if it is shorter than a huge page, or there is no address range for it.
    ///
    /// # Errors
    ///
    /// Whatever the operating system says of the file.
    pub(super) fn new(file: &File) -> io::Result<Option<Self>> {
        let len = file.metadata()?.len();
        let Some((len, room)) = usize::try_from(len).ok().and_then(|len| {
            let room = len.checked_next_multiple_of(HUGE_PAGE_BYTES)?.checked_add(HUGE_PAGE_BYTES)?;
            (len >= HUGE_PAGE_BYTES).then_some((len, room))
        }) else {
            return Ok(None);
        };
        // SAFETY: a new range where the kernel likes; no existing map is touched.
        let range =
            unsafe { mmap_anonymous(std::ptr::null_mut(), room, ProtFlags::empty(), MapFlags::PRIVATE) };
        let Ok(range) = range else { return Ok(None) };
        let before = range.cast::<u8>().align_offset(HUGE_PAGE_BYTES);
        let start = range.wrapping_byte_add(before);
        // SAFETY: `before + len` is at most `room`, so the file replaces part of the range that was just
        // made and nobody else knows. What is assumed of the file is said in `Payload::map`.
        let map = unsafe { mmap(start, len, ProtFlags::READ, MapFlags::SHARED | MapFlags::FIXED, file, 0) };
        if let Err(error) = map {
            // SAFETY: the range is ours, and nothing points into it.
            let _ = unsafe { munmap(range, room) };
            return Err(error.into());
        }
        let end = len.next_multiple_of(rustix::param::page_size());
        // What is left of the range on both sides; that it stays reserved would do no harm.
        for (part, len) in [(range, before), (start.wrapping_byte_add(end), room - before - end)] {
            if len > 0 {
                // SAFETY: pages of the range that the file does not cover; nothing points into them.
                let _ = unsafe { munmap(part, len) };
            }
        }
        // SAFETY: a hint about pages of the new map, which changes none of their contents.
        let _ = unsafe { madvise(start, len, Advice::LinuxHugepage) };
        Ok(Some(Self { start, len }))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the invariant; `&self` keeps the map alive, and that nobody changes the file's bytes is
        // what docs/format.md assumes of the medium.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.len) }
    }
}

impl Drop for HugeMap {
    fn drop(&mut self) {
        // SAFETY: the map is this value's own, and no borrow of its bytes outlives it.
        let _ = unsafe { munmap(self.start, self.len) };
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_map_shows_the_file_at_a_huge_page() {
        for len in
            [0, 1, HUGE_PAGE_BYTES - 1, HUGE_PAGE_BYTES, HUGE_PAGE_BYTES + 1, 3 * HUGE_PAGE_BYTES + 5000]
        {
            let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes).unwrap();
            let map = HugeMap::new(&file).unwrap();
            assert_eq!(map.is_some(), len >= HUGE_PAGE_BYTES, "{len}");
            if let Some(map) = map {
                assert_eq!(map.start.cast::<u8>().align_offset(HUGE_PAGE_BYTES), 0);
                assert!(map.bytes() == bytes, "{len}");
            }
        }
    }
}
