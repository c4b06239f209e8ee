//! Owns the checksums of the index file: redb writes pages, this puts a sum behind each.
//!
//! redb keeps checksums of its pages but does not look at them on ordinary reads, and may panic,
//! recurse without end or ask for terabytes on a damaged page. Here a page reaches it only after
//! its sum matched. A damaged one is noted, and redb gets a page in its place that it refuses.
//!
//! ```text
//! physical offset        bytes
//! 0                      320   redb's file header
//! 320                    16    sum of the header
//! 336                    3760  zero
//! 4096 + (p - 1) × 4112  4096  page p = 1, 2, …, as redb writes it
//!   … + 4096             16    sum of page p
//! ```
//!
//! A sum is the first 16 bytes of `derive_key("blyan index page 1")` over the page number (u64
//! little-endian) and the bytes. Header and sum lie in one 512-byte sector, so they change together.

use std::collections::BTreeSet;
use std::io;
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};

use redb::{BackendError, StorageBackend};

const PAGE: u64 = 4096;
const SUM: u64 = 16;
const STRIDE: u64 = PAGE + SUM;
const HEADER: usize = 320;
const HEADER_WITH_SUM: usize = HEADER + SUM as usize;
const MAGIC: &[u8] = b"redb";
/// A file longer than this was certainly in use, whatever its header says.
const MAX_UNBORN_BYTES: u64 = 64 << 20;
/// Attempts at a header that another process may be writing at that moment.
const HEADER_READS: usize = 50;

/// What redb reads in place of a damaged page: an inner node of its trees without keys, whose only
/// child is a page of a size that does not exist. redb refuses to follow it with an ordinary error.
/// An I/O error instead would make it refuse every later read of undamaged pages, too.
const REFUSED_NODE: [u8; 8] = [2, 0, 0, 0, 0, 0, 0, 0];
/// Fills the rest of such a node, the number of the child included.
const REFUSED_CHILD: u8 = 0xff;

type Sum = [u8; SUM as usize];

fn sum(page: u64, bytes: &[u8]) -> Sum {
    // Side by side, so that the chunks of a page are hashed together.
    let mut input = [0; size_of::<u64>() + PAGE as usize];
    let input = &mut input[..size_of::<u64>() + bytes.len()];
    input[..size_of::<u64>()].copy_from_slice(&page.to_le_bytes());
    input[size_of::<u64>()..].copy_from_slice(bytes);
    let mut hasher = blake3::Hasher::new_derive_key("blyan index page 1");
    hasher.update(input);
    let mut sum = Sum::default();
    hasher.finalize_xof().fill(&mut sum);
    sum
}

/// The pages found damaged so far.
#[derive(Debug, Default)]
pub(crate) struct DamageLog(Mutex<BTreeSet<u64>>);

impl DamageLog {
    fn note(&self, page: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(page);
    }

    /// The damaged pages in words, if any.
    pub(crate) fn describe(&self) -> Option<String> {
        let pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let list: Vec<String> = pages.iter().take(8).map(u64::to_string).collect();
        (!list.is_empty()).then(|| format!("checksum mismatch in page {}", list.join(", ")))
    }
}

/// A file of pages with sums, to redb a plain file.
#[derive(Debug)]
pub(crate) struct CheckedPages {
    file: Box<dyn StorageBackend>,
    damage: Arc<DamageLog>,
    /// The header that last matched its sum. A process that only reads looks at it for every view, and it changes with
    /// commits alone.
    matching: Mutex<[u8; HEADER_WITH_SUM]>,
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Where page `page` ≥ 1 starts in the file.
fn physical(page: u64) -> Option<u64> {
    page.checked_sub(1)?.checked_mul(STRIDE)?.checked_add(PAGE)
}

impl CheckedPages {
    pub(crate) fn new(file: Box<dyn StorageBackend>) -> Self {
        Self { file, damage: Arc::default(), matching: Mutex::new([0; HEADER_WITH_SUM]) }
    }

    pub(crate) fn damage(&self) -> Arc<DamageLog> {
        self.damage.clone()
    }

    /// The header, if its sum matches or nothing was ever written.
    fn read_header(&self) -> io::Result<[u8; HEADER]> {
        let mut bytes = [0; HEADER_WITH_SUM];
        for _ in 0..HEADER_READS {
            self.file.read(0, &mut bytes)?;
            let (header, stored) = bytes.split_at(HEADER);
            let mut copy = [0; HEADER];
            copy.copy_from_slice(header);
            // Only tried: in a process made by `fork` it may be locked for ever.
            let matching = self.matching.try_lock().ok();
            if matching.as_ref().is_some_and(|matching| **matching == bytes) {
                return Ok(copy);
            }
            if stored == sum(0, header) || bytes.iter().all(|&byte| byte == 0) {
                if let Some(mut matching) = matching {
                    *matching = bytes;
                }
                return Ok(copy);
            }
            // Another process may be between the bytes of one write.
            std::thread::yield_now();
        }
        Err(damaged("checksum mismatch in the file header"))
    }

    fn write_header(&self, header: &[u8; HEADER]) -> io::Result<()> {
        let mut bytes = [0; HEADER_WITH_SUM];
        bytes[..HEADER].copy_from_slice(header);
        bytes[HEADER..].copy_from_slice(&sum(0, header));
        self.file.write(0, &bytes)
    }

    /// Whether the file's creation was interrupted: redb writes the magic number last.
    fn is_unborn(&self, physical_len: u64) -> io::Result<bool> {
        let mut offset = 0;
        if physical_len >= PAGE {
            if self.read_header()?.starts_with(MAGIC) {
                return Ok(false);
            }
            offset = PAGE;
        }
        if physical_len > MAX_UNBORN_BYTES {
            return Err(damaged("the file header is gone"));
        }
        let mut chunk = vec![0; 64 << 10];
        while offset < physical_len {
            let len = chunk.len().min(usize::try_from(physical_len - offset).unwrap_or(usize::MAX));
            let chunk = &mut chunk[..len];
            self.file.read(offset, chunk)?;
            if chunk.iter().any(|&byte| byte != 0) {
                return Err(damaged("the file header is gone"));
            }
            offset += len as u64;
        }
        Ok(true)
    }

    /// Reads whole pages `first`, `first + 1`, … ≥ 1. They are one node: one damaged page spoils all.
    fn read_pages(&self, first: u64, out: &mut [u8]) -> io::Result<()> {
        let count = out.len() / PAGE as usize;
        let start = physical(first).ok_or(io::ErrorKind::InvalidInput)?;
        let mut bytes = vec![0; count * STRIDE as usize];
        self.file.read(start, &mut bytes)?;
        let mut intact = true;
        let pages = bytes.chunks_exact(STRIDE as usize).zip(out.chunks_exact_mut(PAGE as usize));
        for (page, (stored, out)) in (first..).zip(pages) {
            let (data, stored_sum) = stored.split_at(PAGE as usize);
            if stored_sum == sum(page, data) {
                out.copy_from_slice(data);
            } else {
                self.damage.note(page);
                intact = false;
            }
        }
        if !intact {
            out.fill(REFUSED_CHILD);
            out[..REFUSED_NODE.len()].copy_from_slice(&REFUSED_NODE);
        }
        Ok(())
    }

    fn write_pages(&self, first: u64, data: &[u8]) -> io::Result<()> {
        let start = physical(first).ok_or(io::ErrorKind::InvalidInput)?;
        let mut bytes = Vec::with_capacity(data.len() / PAGE as usize * STRIDE as usize);
        for (page, data) in (first..).zip(data.chunks_exact(PAGE as usize)) {
            bytes.extend_from_slice(data);
            bytes.extend_from_slice(&sum(page, data));
        }
        self.file.write(start, &bytes)
    }
}

/// A range of the file as redb sees it, cut at the edges of pages.
struct Spans {
    offset: u64,
    end: u64,
}

/// Part of one page, or several whole pages.
struct Span {
    page: u64,
    start: usize,
    len: usize,
}

impl Iterator for Spans {
    type Item = Span;

    fn next(&mut self) -> Option<Span> {
        if self.offset >= self.end {
            return None;
        }
        let (page, start) = (self.offset / PAGE, self.offset % PAGE);
        let rest = self.end - self.offset;
        let len =
            if start == 0 && page > 0 && rest >= PAGE { rest - rest % PAGE } else { rest.min(PAGE - start) };
        self.offset += len;
        // Both are bounded by the length of a slice in memory.
        Some(Span { page, start: start as usize, len: len as usize })
    }
}

fn spans(offset: u64, len: usize) -> io::Result<Spans> {
    let end = offset.checked_add(len as u64).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(Spans { offset, end })
}

impl Span {
    fn is_whole_pages(&self) -> bool {
        self.page > 0 && self.start == 0 && (self.len as u64).is_multiple_of(PAGE)
    }
}

impl StorageBackend for CheckedPages {
    fn len(&self) -> io::Result<u64> {
        let physical_len = self.file.len()?;
        if self.is_unborn(physical_len)? {
            return Ok(0);
        }
        let pages = physical_len - PAGE;
        if !pages.is_multiple_of(STRIDE) {
            return Err(damaged("the file was cut or extended"));
        }
        Ok(PAGE + pages / STRIDE * PAGE)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut rest = out;
        for span in spans(offset, rest.len())? {
            let (part, after) = rest.split_at_mut(span.len);
            rest = after;
            if span.page == 0 {
                let header = self.read_header()?;
                // Behind the header, page 0 is zero.
                let used = HEADER.saturating_sub(span.start).min(part.len());
                part.fill(0);
                part[..used].copy_from_slice(&header[HEADER.min(span.start)..][..used]);
            } else if span.is_whole_pages() {
                self.read_pages(span.page, part)?;
            } else {
                let mut page = vec![0; PAGE as usize];
                self.read_pages(span.page, &mut page)?;
                part.copy_from_slice(&page[span.start..][..span.len]);
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let pages = len / PAGE;
        if !len.is_multiple_of(PAGE) || pages == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.file.set_len(physical(pages).ok_or(io::ErrorKind::InvalidInput)?)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut rest = data;
        for span in spans(offset, data.len())? {
            let (part, after) = rest.split_at(span.len);
            rest = after;
            if span.page == 0 {
                let used = HEADER.saturating_sub(span.start).min(part.len());
                if part[used..].iter().any(|&byte| byte != 0) {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
                let mut header = if used == HEADER { [0; HEADER] } else { self.read_header()? };
                header[HEADER.min(span.start)..][..used].copy_from_slice(&part[..used]);
                self.write_header(&header)?;
            } else if span.is_whole_pages() {
                self.write_pages(span.page, part)?;
            } else {
                let mut page = vec![0; PAGE as usize];
                self.read_pages(span.page, &mut page)?;
                page[span.start..][..span.len].copy_from_slice(part);
                self.write_pages(span.page, &page)?;
            }
        }
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}

#[cfg(test)]
#[path = "pages_tests.rs"]
mod tests;
