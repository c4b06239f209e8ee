//! Owns reading a payload file through once: parts that the page cache holds are looked at where they lie, all
//! others are read into a buffer. So no bytes are copied without need, and what a disk cannot read is an error, where
//! a map that meets it ends the process.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::unix::fs::FileExt;

use memmap2::Mmap;

use super::payload::map_cached;

/// A file, part by part.
#[derive(Debug)]
pub(super) struct PayloadStream {
    file: File,
    /// Bytes that the file had when it was opened.
    len: u64,
    part_bytes: usize,
    /// Where the next part begins.
    next: u64,
    part: Part,
    /// Bytes of the part that were consumed.
    used: usize,
}

#[derive(Debug)]
enum Part {
    Mapped(Mmap),
    Read(Vec<u8>),
}

impl Part {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Read(bytes) => bytes,
        }
    }
}

impl PayloadStream {
    /// `part_bytes`: a multiple of the page size.
    pub(super) fn new(file: File, len: u64, part_bytes: usize) -> Self {
        Self { file, len, part_bytes, next: 0, part: Part::Read(Vec::new()), used: 0 }
    }

    fn next_part(&mut self) -> io::Result<()> {
        let rest = usize::try_from(self.len - self.next).unwrap_or(usize::MAX);
        let len = rest.min(self.part_bytes);
        let next = match map_cached(&self.file, self.next, len) {
            Some(map) => Part::Mapped(map),
            None => {
                let mut bytes = match std::mem::replace(&mut self.part, Part::Read(Vec::new())) {
                    Part::Read(bytes) => bytes,
                    Part::Mapped(_) => Vec::new(),
                };
                self.used = 0;
                if bytes.is_empty() {
                    // Zeroed by the system rather than here.
                    bytes = vec![0; len];
                }
                bytes.resize(len, 0);
                self.file.read_exact_at(&mut bytes, self.next)?;
                Part::Read(bytes)
            }
        };
        (self.part, self.used) = (next, 0);
        self.next += len as u64;
        Ok(())
    }
}

impl BufRead for PayloadStream {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.used >= self.part.bytes().len() {
            self.next_part()?;
        }
        Ok(self.part.bytes().get(self.used..).unwrap_or_default())
    }

    fn consume(&mut self, amount: usize) {
        self.used += amount;
    }
}

impl Read for PayloadStream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let len = self.fill_buf()?.read(out)?;
        self.consume(len);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const PART: usize = 64 << 10;

    fn file_of(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|at| (at * 31 / 7) as u8).collect()
    }

    #[test]
    fn a_stream_gives_the_file_whatever_is_cached() {
        for len in [0, 1, PART - 1, PART, PART + 1, 3 * PART + 5000] {
            let bytes = pattern(len);
            let file = file_of(&bytes);
            file.sync_all().unwrap();
            for cached in [true, false] {
                if !cached {
                    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
                }
                let mut stream = PayloadStream::new(file.try_clone().unwrap(), len as u64, PART);
                let mut found = Vec::new();
                // In pieces that are no divisor of a part.
                let mut piece = [0; 1000];
                loop {
                    match stream.read(&mut piece).unwrap() {
                        0 => break,
                        len => found.extend_from_slice(&piece[..len]),
                    }
                }
                assert!(found == bytes, "{len} {cached}");
                assert_eq!(stream.read(&mut piece).unwrap(), 0);
            }
        }
    }

    #[test]
    fn a_part_in_the_cache_is_not_copied() {
        let file = file_of(&pattern(2 * PART));
        let mut byte = [0];
        let into = &mut [io::IoSliceMut::new(&mut byte)];
        let told = rustix::io::preadv2(&file, into, 0, rustix::io::ReadWriteFlags::NOWAIT);
        let entered = memmap2::MmapMut::map_anon(PART).unwrap().advise(memmap2::Advice::PopulateRead);
        if told == Err(rustix::io::Errno::OPNOTSUPP) || entered.is_err() {
            println!("left out: this file system or kernel cannot tell what is cached");
            return;
        }
        let mut stream = PayloadStream::new(file, 2 * PART as u64, PART);
        assert_eq!(stream.fill_buf().unwrap().len(), PART);
        assert!(matches!(stream.part, Part::Mapped(_)));
    }

    #[test]
    fn a_file_that_was_cut_ends_early() {
        let file = file_of(&pattern(2 * PART));
        let mut stream = PayloadStream::new(file.try_clone().unwrap(), 2 * PART as u64, PART);
        stream.fill_buf().unwrap();
        stream.consume(PART);
        file.set_len(PART as u64 + 100).unwrap();
        for _ in 0..2 {
            assert_eq!(stream.fill_buf().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
