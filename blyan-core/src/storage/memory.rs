//! Owns a chain that lives in memory and is gone with it.

use std::collections::HashMap;
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};
use std::time::{Duration, Instant};

use redb::backends::InMemoryBackend;
use redb::{BackendError, StorageBackend};

use super::medium::{Access, Medium};
use super::payload::Payload;
use crate::hash::PayloadHash;

/// A place in memory; a chain on it lasts as long as the medium.
#[derive(Debug, Default)]
pub struct MemoryMedium {
    state: Arc<RwLock<State>>,
    index: Arc<InMemoryBackend>,
}

/// How long a reader waits for a writer, who holds the lock for as long as it takes to insert into a map.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
struct State {
    open: bool,
    temporaries: HashMap<String, Payload>,
    payloads: HashMap<PayloadHash, Payload>,
}

/// Waits for a writer, but not for ever: in a process made by `fork` while one wrote or waited to, it is not there.
fn read(state: &RwLock<State>) -> io::Result<RwLockReadGuard<'_, State>> {
    let start = Instant::now();
    loop {
        match state.try_read() {
            Ok(state) => return Ok(state),
            // No code panics while it holds the lock, so a poisoned state is still whole.
            Err(TryLockError::Poisoned(state)) => return Ok(state.into_inner()),
            Err(TryLockError::WouldBlock) if start.elapsed() < LOCK_TIMEOUT => {
                std::thread::sleep(Duration::from_micros(100));
            }
            Err(TryLockError::WouldBlock) => {
                let reason = "the chain in memory was written to when this process was forked";
                return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
            }
        }
    }
}

fn write(state: &RwLock<State>) -> RwLockWriteGuard<'_, State> {
    state.write().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryMedium {
    /// An empty place.
    pub fn new() -> Self {
        Self::default()
    }

    /// The index as it lies in memory, to damage it while it is open.
    #[cfg(test)]
    pub(crate) fn index(&self) -> &InMemoryBackend {
        &self.index
    }
}

impl Medium for MemoryMedium {
    fn dir(&self) -> Option<&Path> {
        None
    }

    fn open_index(&self, access: Access) -> io::Result<Box<dyn StorageBackend>> {
        let mut state = write(&self.state);
        if access == Access::ReadOnly && self.index.len()? == 0 {
            return Err(io::ErrorKind::NotFound.into());
        }
        // One handle at a time, since memory has no range locks: two could free each other's pages.
        if std::mem::replace(&mut state.open, true) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(MemoryIndex { index: self.index.clone(), state: self.state.clone() }))
    }

    fn open_payload(&self, payload: &PayloadHash) -> io::Result<Option<Payload>> {
        Ok(read(&self.state)?.payloads.get(payload).cloned())
    }

    fn write_temporary(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let bytes = Payload::from(bytes.to_vec());
        write(&self.state).temporaries.insert(name.to_owned(), bytes);
        Ok(())
    }

    fn publish(&self, temporary: &str, payload: &PayloadHash) -> io::Result<()> {
        let mut state = write(&self.state);
        let bytes = state.temporaries.remove(temporary).ok_or(io::ErrorKind::NotFound)?;
        state.payloads.insert(*payload, bytes);
        Ok(())
    }

    fn sync_payload_folders(&self, _payloads: &[PayloadHash]) -> io::Result<()> {
        Ok(())
    }

    fn list_payloads(&self) -> io::Result<Vec<(PayloadHash, u64)>> {
        let state = read(&self.state)?;
        Ok(state.payloads.iter().map(|(payload, bytes)| (*payload, bytes.len() as u64)).collect())
    }

    fn remove_payload(&self, payload: &PayloadHash) -> io::Result<()> {
        let removed = write(&self.state).payloads.remove(payload);
        drop(removed);
        Ok(())
    }

    fn remove_temporaries(&self) -> io::Result<()> {
        let removed = std::mem::take(&mut write(&self.state).temporaries);
        drop(removed);
        Ok(())
    }
}

/// The index of the one handle that is open. Its locks always succeed: nobody else can ask.
#[derive(Debug)]
struct MemoryIndex {
    index: Arc<InMemoryBackend>,
    state: Arc<RwLock<State>>,
}

impl StorageBackend for MemoryIndex {
    fn len(&self) -> io::Result<u64> {
        self.index.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        StorageBackend::read(&*self.index, offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.index.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        StorageBackend::write(&*self.index, offset, data)
    }

    fn close(&self) -> io::Result<()> {
        write(&self.state).open = false;
        Ok(())
    }

    fn try_lock_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn try_lock_shared_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn lock_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn lock_shared_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn unlock_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn query_lock_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<bool, BackendError> {
        Ok(false)
    }
}
