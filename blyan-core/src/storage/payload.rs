//! Owns payload bytes in memory or in a map: the one place that maps files.

#![expect(unsafe_code, reason = "mapping a file is unsafe: another process could change it")]

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::sync::Arc;

use memmap2::Mmap;
#[cfg(target_os = "linux")]
use memmap2::MmapOptions;
#[cfg(target_os = "linux")]
use rustix::io::ReadWriteFlags;

#[cfg(target_os = "linux")]
use super::huge_map::HugeMap;

#[derive(Debug)]
enum Bytes {
    Map(Mmap),
    #[cfg(target_os = "linux")]
    HugeMap(HugeMap),
    Memory(Vec<u8>),
}

/// The bytes of a payload: shared, read-only, cheap to clone.
///
/// Bytes of a file are mapped, not read: dropping the last clone unmaps them.
#[derive(Clone)]
pub struct Payload(Arc<Bytes>);

impl Payload {
    /// Maps a whole file.
    ///
    /// # Errors
    ///
    /// Whatever the operating system says.
    pub fn map(file: &File) -> io::Result<Self> {
        if file.metadata()?.len() == 0 {
            // An empty file cannot be mapped.
            return Ok(Self::from(Vec::new()));
        }
        // Where huge pages cannot be had, ordinary ones do.
        #[cfg(target_os = "linux")]
        if let Some(map) = HugeMap::new(file)? {
            return Ok(Self(Arc::new(Bytes::HugeMap(map))));
        }
        // SAFETY: payload files are only ever created, under a temporary name, and renamed into
        // place with mode 0444; this library never writes to one again. That nobody else rewrites
        // or truncates them while they are mapped is what docs/format.md assumes of the medium.
        let map = unsafe { Mmap::map(file)? };
        Ok(Self(Arc::new(Bytes::Map(map))))
    }

    /// Whether the bytes are those of a mapped file.
    pub fn is_mapped(&self) -> bool {
        !matches!(*self.0, Bytes::Memory(_))
    }

    /// Whether nobody else holds these bytes.
    pub(crate) fn is_unshared(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

/// Maps a part of a file that the page cache holds, all of its pages entered, so that nothing is read where its bytes
/// are looked at right afterwards, unless memory is so short that the kernel takes a page back in that moment. `None` if
/// the cache does not hold it, or that cannot be told (Linux before 5.14, tmpfs, overlayfs).
#[cfg(target_os = "linux")]
pub(super) fn map_cached(file: &File, offset: u64, len: usize) -> Option<Mmap> {
    let last = offset.checked_add(u64::try_from(len.checked_sub(1)?).ok()?)?;
    // The first and the last byte stand for the part: what lies between them and is not there is read by the kernel below.
    for at in [offset, last] {
        let mut byte = [0];
        let into = &mut [io::IoSliceMut::new(&mut byte)];
        rustix::io::preadv2(file, into, at, ReadWriteFlags::NOWAIT).ok().filter(|&read| read == 1)?;
    }
    // SAFETY: as in `Payload::map`.
    let map = unsafe { MmapOptions::new().offset(offset).len(len).map(file) }.ok()?;
    // Where a page cannot be read, this is an error and no signal.
    map.advise(memmap2::Advice::PopulateRead).ok()?;
    Some(map)
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Bytes::Memory(bytes)))
    }
}

impl Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &*self.0 {
            Bytes::Map(map) => map,
            #[cfg(target_os = "linux")]
            Bytes::HugeMap(map) => map.bytes(),
            Bytes::Memory(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payload").field("len", &self.len()).field("mapped", &self.is_mapped()).finish()
    }
}
