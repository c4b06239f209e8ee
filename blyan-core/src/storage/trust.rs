//! Owns the record of payload files that were verified before, for those who choose to rely on it.
//!
//! A file whose device, inode, size and change time are those at which its BLAKE3 matched has not been
//! written to since, as far as the file system tells. SECURITY.md says what that does not cover.
//!
//! The record is a text file beside the index, no part of the chain: a line for each payload, appended
//! after its hash matched. A line that cannot be read is passed over; losing the file costs one
//! verification.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::StorageError;
use super::regular::{open_regular, read_regular};
use crate::hash::PayloadHash;

/// Name of the record in a chain's directory.
const FILE: &str = "verified";

/// Bytes of a record that are read at most: room for a few million lines.
const MAX_BYTES: u64 = 1 << 29;

/// What a file system says of a file and changes with every write to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileIdentity {
    /// The device it lies on.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
    /// Its length.
    pub size_bytes: u64,
    /// When its content or its inode last changed, in nanoseconds since 1970.
    pub changed_ns: i128,
}

/// Payload files that were verified before.
#[derive(Debug)]
pub(crate) struct TrustRecord {
    dir: PathBuf,
    /// Without a file where there is none and the folder cannot be written to.
    lines: Mutex<(HashMap<PayloadHash, FileIdentity>, Option<File>)>,
}

impl TrustRecord {
    /// Opens the record in a chain's directory, and creates it if there is none. Where nothing can be written, what
    /// was recorded before is used.
    pub(crate) fn open(dir: &Path) -> Result<Self, StorageError> {
        let path = dir.join(FILE);
        let open = || {
            let file = match open_regular(&path, OpenOptions::new().read(true).append(true).create(true)) {
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
                    ) =>
                {
                    match read_regular(&path) {
                        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                        file => Some(file?),
                    }
                }
                file => Some(file?),
            };
            let mut text = Vec::new();
            if let Some(file) = &file {
                file.take(MAX_BYTES).read_to_end(&mut text)?;
            }
            Ok((parse(&String::from_utf8_lossy(&text)), file))
        };
        let lines: io::Result<_> = open();
        let lines = Mutex::new(lines.map_err(StorageError::io("open record", path.clone()))?);
        Ok(Self { dir: dir.to_owned(), lines })
    }

    /// The same file's record, that shares no lock with this one.
    pub(crate) fn reopen(&self) -> Result<Self, StorageError> {
        Self::open(&self.dir)
    }

    /// Whether the payload's file was verified when it was what it is now.
    pub(crate) fn knows(&self, payload: &PayloadHash, file: &FileIdentity) -> bool {
        self.lines().0.get(payload) == Some(file)
    }

    /// Remembers that the payload's hash matched. A record that cannot be written is a verification
    /// more the next time, and no reason to fail.
    pub(crate) fn add(&self, payload: &PayloadHash, file: FileIdentity) {
        let mut lines = self.lines();
        let FileIdentity { device, inode, size_bytes, changed_ns } = file;
        // One write, so that lines of several processes do not mix.
        let line = format!("{payload} {device} {inode} {size_bytes} {changed_ns}\n");
        if lines.1.as_mut().is_some_and(|file| file.write_all(line.as_bytes()).is_ok()) {
            lines.0.insert(*payload, file);
        }
    }

    fn lines(&self) -> MutexGuard<'_, (HashMap<PayloadHash, FileIdentity>, Option<File>)> {
        // An entry is inserted whole or not at all.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last line of each payload counts.
fn parse(text: &str) -> HashMap<PayloadHash, FileIdentity> {
    // A line without an end is one that a crash cut short.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let line = |line: &str| {
        let mut words = line.split(' ');
        let payload = words.next()?.parse().ok()?;
        let mut number = || words.next()?.parse::<i128>().ok();
        let (device, inode, size, changed_ns) = (number()?, number()?, number()?, number()?);
        let identity = FileIdentity {
            device: device.try_into().ok()?,
            inode: inode.try_into().ok()?,
            size_bytes: size.try_into().ok()?,
            changed_ns,
        };
        Some((payload, identity))
    };
    whole.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_kept_and_broken_lines_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (PayloadHash::of(b"a"), PayloadHash::of(b"b"));
        let identity =
            FileIdentity { device: 1, inode: u64::MAX, size_bytes: 3, changed_ns: 1_700_000_000_123 };
        TrustRecord::open(dir.path()).unwrap().add(&a, identity);
        let path = dir.path().join(FILE);
        let mut text = std::fs::read_to_string(&path).unwrap();
        text.push_str(&format!("{b} 1 2\nnonsense\n\u{0}\n{b} 1 2 3 4"));
        std::fs::write(&path, text).unwrap();
        let record = TrustRecord::open(dir.path()).unwrap();
        assert!(record.knows(&a, &identity));
        assert!(!record.knows(&a, &FileIdentity { changed_ns: 5, ..identity }));
        assert!(!record.knows(&b, &FileIdentity { device: 1, inode: 2, size_bytes: 3, changed_ns: 4 }));
        let held = record.lines();
        assert!(record.reopen().unwrap().knows(&a, &identity), "and waits for nobody");
        drop(held);
    }
}
