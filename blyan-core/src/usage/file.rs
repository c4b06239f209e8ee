//! Owns the file that usage counts outlive a process in: `usage/<model block>.usage`.
//!
//! ```text
//! "BLYANUSE"  version u16 = 1  counts (borsh)  BLAKE3 of all before (32 bytes)      little-endian
//! ```
//!
//! Several processes may use a model at once. Each adds what it counted since its last flush to what
//! the file holds, under an exclusive lock of `<model block>.lock`, and puts the sum in its place by
//! rename: nothing is lost or counted twice, and a reader sees the old file or the new one.
//!
//! Counts are a convenience. A file that is damaged is moved aside and reported, never a reason not
//! to run the model.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::counts::ModelCounts;
use crate::format::ParseSlotError;
use crate::hash::BlockHash;
use crate::storage::regular::{open_regular, read_regular};

const MAGIC: &[u8; 8] = b"BLYANUSE";
const VERSION: u16 = 1;
const CHECKSUM_LEN: usize = 32;
/// Largest file that is read: far above what a million experts need.
const MAX_FILE_BYTES: u64 = 4 << 30;
/// How long to wait for another process that is flushing.
const LOCK_TIMEOUT: Duration = if cfg!(test) { Duration::from_millis(300) } else { Duration::from_secs(5) };

/// Usage counts that cannot be stored or found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UsageError {
    /// The file system refuses.
    #[error("usage counts cannot be stored at {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process keeps the lock.
    #[error("usage counts are locked by another process: {} is held for too long", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// No slot is called so.
    #[error(transparent)]
    Slot(#[from] ParseSlotError),
    /// The model has no such expert.
    #[error("the model has no expert {slot}")]
    NoExpert {
        /// The name of its slot.
        slot: String,
    },
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum Damage {
    #[error("it is no file of usage counts")]
    Magic,
    #[error("version {0} is unknown")]
    Version(u16),
    #[error("its checksum is wrong")]
    Checksum,
    #[error("its counts do not fit the model")]
    Counts,
    #[error("it is too large")]
    TooLarge,
}

/// A damaged file that was found and is moved aside.
#[derive(Debug)]
pub(super) struct Found {
    path: PathBuf,
    aside: PathBuf,
    damage: Damage,
}

impl Found {
    /// Reports it. No lock may be held: who hears of it may ask for the counts.
    pub(super) fn warn(&self) {
        let Self { path, aside, damage } = self;
        tracing::warn!(
            path = %path.display(), aside = %aside.display(), %damage,
            "usage counts are damaged and start at 0"
        );
    }
}

pub(super) fn encode(counts: &ModelCounts) -> io::Result<Vec<u8>> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    borsh::to_writer(&mut bytes, counts)?;
    let checksum = blake3::hash(&bytes);
    bytes.extend(checksum.as_bytes());
    Ok(bytes)
}

/// Reads what [`encode`] wrote for a model with these numbers of experts.
pub(super) fn decode(
    bytes: &[u8],
    experts: impl ExactSizeIterator<Item = usize>,
) -> Result<ModelCounts, Damage> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(Damage::Magic)?;
    let (version, rest) = rest.split_first_chunk().ok_or(Damage::Checksum)?;
    let version = u16::from_le_bytes(*version);
    if version != VERSION {
        return Err(Damage::Version(version));
    }
    let body_len = rest.len().checked_sub(CHECKSUM_LEN).ok_or(Damage::Checksum)?;
    let (body, checksum) = rest.split_at(body_len);
    let hashed = bytes.get(..bytes.len() - CHECKSUM_LEN).ok_or(Damage::Checksum)?;
    if blake3::hash(hashed).as_bytes() != checksum {
        return Err(Damage::Checksum);
    }
    let counts: ModelCounts = borsh::from_slice(body).map_err(|_| Damage::Counts)?;
    if counts.fits(experts) { Ok(counts) } else { Err(Damage::Counts) }
}

/// The files of one model.
#[derive(Debug)]
pub(super) struct UsageFile {
    dir: PathBuf,
    name: String,
    /// Experts of each layer.
    experts: Vec<usize>,
}

/// An open file that is locked. Closing it would not do: a process made by `fork` meanwhile has it open too.
struct Locked(File);

impl Drop for Locked {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

impl UsageFile {
    pub(super) fn new(dir: &Path, model: &BlockHash, experts: Vec<usize>) -> Self {
        Self { dir: dir.to_owned(), name: model.to_string(), experts }
    }

    fn path(&self, extension: &str) -> PathBuf {
        self.dir.join(format!("{}.{extension}", self.name))
    }

    /// The stored counts; none if there are none, or if they are damaged, which `found` then says.
    pub(super) fn load(&self, found: &mut Option<Found>) -> Result<ModelCounts, UsageError> {
        match self.read()? {
            Ok(counts) => Ok(counts),
            // Under the lock, and after another look: another process may have replaced it by now.
            Err(_) => self.locked(|| self.read_or_set_aside(found)),
        }
    }

    fn read(&self) -> Result<Result<ModelCounts, Damage>, UsageError> {
        let path = self.path("usage");
        let read = || -> io::Result<Result<ModelCounts, Damage>> {
            let mut file = read_regular(&path)?;
            if file.metadata()?.len() > MAX_FILE_BYTES {
                return Ok(Err(Damage::TooLarge));
            }
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(decode(&bytes, self.experts.iter().copied()))
        };
        match read() {
            Ok(counts) => Ok(counts),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Ok(self.empty())),
            Err(source) => Err(UsageError::Io { path, source }),
        }
    }

    fn empty(&self) -> ModelCounts {
        ModelCounts::new(self.experts.iter().copied())
    }

    /// The stored counts; a damaged file is moved aside. Call it under the lock.
    fn read_or_set_aside(&self, found: &mut Option<Found>) -> Result<ModelCounts, UsageError> {
        let damage = match self.read()? {
            Ok(counts) => return Ok(counts),
            Err(damage) => damage,
        };
        let (path, aside) = (self.path("usage"), self.path("damaged"));
        let moved = fs::rename(&path, &aside).map_err(|source| UsageError::Io { path: path.clone(), source });
        *found = Some(Found { path, aside, damage });
        moved.map(|()| self.empty())
    }

    /// Runs while no other process stores counts of this model.
    fn locked<T>(&self, run: impl FnOnce() -> Result<T, UsageError>) -> Result<T, UsageError> {
        let path = self.path("lock");
        let error = |path: &Path| {
            let path = path.to_owned();
            |source| UsageError::Io { path, source }
        };
        fs::create_dir_all(&self.dir).map_err(error(&self.dir))?;
        let mut options = File::options();
        let file =
            open_regular(&path, options.create(true).truncate(false).write(true)).map_err(error(&path))?;
        let start = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if start.elapsed() < LOCK_TIMEOUT => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(TryLockError::WouldBlock) => return Err(UsageError::Locked { path }),
                Err(TryLockError::Error(source)) => return Err(UsageError::Io { path, source }),
            }
        }
        let _locked = Locked(file);
        run()
    }

    /// Adds `delta` to the stored counts and returns the sum; `found` as in [`Self::load`].
    pub(super) fn add(
        &self,
        delta: &ModelCounts,
        found: &mut Option<Found>,
    ) -> Result<ModelCounts, UsageError> {
        self.locked(|| {
            let mut counts = self.read_or_set_aside(found)?;
            counts.add(delta);
            self.store(&counts)?;
            Ok(counts)
        })
    }

    /// Forgets the stored counts.
    pub(super) fn clear(&self) -> Result<(), UsageError> {
        self.locked(|| self.store(&self.empty()))
    }

    /// Replaces the file; call it under the lock.
    fn store(&self, counts: &ModelCounts) -> Result<(), UsageError> {
        let path = self.path("tmp");
        let write = || {
            // Whatever lies there is of a process that was killed, or no file at all.
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = File::options().write(true).create_new(true).open(&path)?;
            file.write_all(&encode(counts)?)?;
            file.sync_data()?;
            fs::rename(&path, self.path("usage"))
        };
        write().map_err(|source| UsageError::Io { path: path.clone(), source })
    }
}
