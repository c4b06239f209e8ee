//! Media for tests: a disk that loses power at the n-th write, and one that only fails.

#![allow(unreachable_pub, reason = "nothing outside the binary can reach anything")]
#![allow(clippy::unwrap_used, reason = "a lock is poisoned by a test that has failed")]

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use blyan_core::PayloadHash;
use blyan_core::storage::{Access, IndexFile, Medium, Payload};
use redb::BackendError;

/// What a sector keeps or loses as a whole.
const SECTOR: usize = 512;

/// A small, seeded generator: the tests must repeat.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d)
    }

    pub fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub fn chance(&mut self) -> bool {
        self.next() & 1 == 1
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// What the disk does when its operations run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The power goes: the operation may have happened, and none happens after it.
    PowerLoss,
    /// This operation fails and does nothing; those after it work again.
    Once,
}

#[derive(Debug, Clone)]
enum IndexOp {
    Write { offset: usize, data: Vec<u8> },
    SetLen(usize),
}

#[derive(Debug, Default, Clone)]
struct Contents {
    index: Option<Vec<u8>>,
    temporaries: HashMap<String, Vec<u8>>,
    payloads: HashMap<PayloadHash, Vec<u8>>,
}

#[derive(Debug, Default)]
struct State {
    /// What a power loss certainly leaves.
    durable: Contents,
    /// What a reader sees while the power is on.
    current: Contents,
    /// Index operations since its last sync, in order.
    unsynced_index: Vec<IndexOp>,
    /// Renames since their folder's last sync, in order.
    unsynced_renames: Vec<PayloadHash>,
    /// Payloads whose second half cannot be read.
    unreadable: Vec<PayloadHash>,
    open: bool,
    operations: u64,
    fail_at: Option<(u64, Failure)>,
    dead: bool,
}

/// A disk that tells synced from unsynced, redb's pages included.
#[derive(Debug, Clone, Default)]
pub struct SimDisk(Arc<Mutex<State>>);

fn gone() -> io::Error {
    io::Error::other("the simulated disk failed")
}

impl SimDisk {
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Lets the operation number `at` (from 0, counted from now) fail.
    pub fn fail_at(&self, at: u64, failure: Failure) {
        let mut state = self.lock();
        state.operations = 0;
        state.fail_at = Some((at, failure));
    }

    /// Write operations since the disk was made, or since [`Self::fail_at`].
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    pub fn has_failed(&self) -> bool {
        let state = self.lock();
        state.dead || state.fail_at.is_some_and(|(at, _)| state.operations > at)
    }

    /// Lets reads of a payload fail half way.
    pub fn make_unreadable(&self, payload: PayloadHash) {
        self.lock().unreadable.push(payload);
    }

    pub fn payload_count(&self) -> usize {
        self.lock().current.payloads.len()
    }

    pub fn temporary_count(&self) -> usize {
        self.lock().current.temporaries.len()
    }

    /// The disk after its power came back: everything synced, and of the rest a random part, index
    /// sectors in any order and torn from each other.
    pub fn after_power_loss(&self, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let state = self.lock();
        let mut contents = state.durable.clone();
        contents.index = contents.index.map(|index| surviving_index(index, &state.unsynced_index, &mut rng));
        for payload in &state.unsynced_renames {
            if rng.chance()
                && let Some(bytes) = state.current.payloads.get(payload)
            {
                contents.payloads.insert(*payload, bytes.clone());
            }
        }
        for (name, bytes) in &state.current.temporaries {
            // Not even the content of an unfinished file is certain.
            let len = rng.below(bytes.len() + 1);
            if rng.chance() {
                contents.temporaries.insert(name.clone(), bytes[..len].to_vec());
            }
        }
        let state = State { durable: contents.clone(), current: contents, ..State::default() };
        Self(Arc::new(Mutex::new(state)))
    }

    /// The same disk after the process that wrote to it was killed: nothing is lost.
    pub fn after_kill(&self) -> Self {
        let contents = self.lock().current.clone();
        let state = State { durable: contents.clone(), current: contents, ..State::default() };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Counts an operation; an error if it must not happen.
    fn step(state: &mut State) -> io::Result<()> {
        if state.dead {
            return Err(gone());
        }
        let number = state.operations;
        state.operations += 1;
        match state.fail_at {
            Some((at, Failure::Once)) if number == at => Err(gone()),
            // The last operation reaches the disk's cache, which may or may not have written it.
            Some((at, Failure::PowerLoss)) if number == at => {
                state.dead = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// What an operation reports after it took place.
    fn end(state: &State) -> io::Result<()> {
        if state.dead { Err(gone()) } else { Ok(()) }
    }
}

fn surviving_index(mut index: Vec<u8>, unsynced: &[IndexOp], rng: &mut Rng) -> Vec<u8> {
    // A length that did not survive takes with it what was written behind the old end.
    let lens: Vec<usize> = unsynced
        .iter()
        .filter_map(|op| match op {
            IndexOp::SetLen(len) => Some(*len),
            IndexOp::Write { .. } => None,
        })
        .collect();
    let kept = rng.below(lens.len() + 1);
    if kept > 0 {
        index.resize(lens[kept - 1], 0);
    }
    let mut sectors: Vec<(usize, &[u8])> = Vec::new();
    for op in unsynced {
        if let IndexOp::Write { offset, data } = op {
            let mut at = 0;
            while at < data.len() {
                let end = ((offset + at) / SECTOR + 1) * SECTOR - offset;
                let end = end.min(data.len());
                sectors.push((offset + at, &data[at..end]));
                at = end;
            }
        }
    }
    // Half of the time each sector has even odds; else almost all, or almost none survive.
    let odds = [50, 50, 95, 5][rng.below(4)];
    sectors.retain(|_| rng.below(100) < odds);
    // A later write of the same sector may be lost while an earlier survives, never reversed.
    for (offset, data) in sectors {
        if let Some(target) = index.get_mut(offset..offset + data.len()) {
            target.copy_from_slice(data);
        }
    }
    index
}

impl Medium for SimDisk {
    fn dir(&self) -> Option<&Path> {
        None
    }

    fn open_index(&self, access: Access) -> io::Result<Box<dyn IndexFile>> {
        let mut state = self.lock();
        if state.current.index.is_none() {
            if access == Access::ReadOnly {
                return Err(io::ErrorKind::NotFound.into());
            }
            // DirMedium syncs the folder before anything is written to the file.
            Self::step(&mut state)?;
            Self::end(&state)?;
            state.current.index = Some(Vec::new());
            state.durable.index = Some(Vec::new());
        }
        if std::mem::replace(&mut state.open, true) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimIndex(self.clone())))
    }

    fn open_payload(&self, payload: &PayloadHash) -> io::Result<Option<Payload>> {
        Ok(self.lock().current.payloads.get(payload).cloned().map(Payload::from))
    }

    fn stream_payload(
        &self,
        payload: &PayloadHash,
        _part_bytes: usize,
    ) -> io::Result<Option<(u64, Box<dyn BufRead + Send>)>> {
        let state = self.lock();
        let Some(bytes) = state.current.payloads.get(payload).cloned() else { return Ok(None) };
        let len = bytes.len();
        if state.unreadable.contains(payload) {
            let half = Cursor::new(bytes[..len / 2].to_vec());
            return Ok(Some((len as u64, Box::new(half.chain(BufReader::new(Unreadable))))));
        }
        Ok(Some((len as u64, Box::new(Cursor::new(bytes)))))
    }

    fn write_temporary(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        Self::step(&mut state)?;
        state.current.temporaries.insert(name.to_owned(), bytes.to_vec());
        Self::end(&state)
    }

    fn publish(&self, temporary: &str, payload: &PayloadHash) -> io::Result<()> {
        let mut state = self.lock();
        Self::step(&mut state)?;
        let bytes = state.current.temporaries.remove(temporary).ok_or(io::ErrorKind::NotFound)?;
        state.current.payloads.insert(*payload, bytes);
        state.unsynced_renames.push(*payload);
        Self::end(&state)
    }

    fn sync_payload_folders(&self, payloads: &[PayloadHash]) -> io::Result<()> {
        let mut state = self.lock();
        Self::step(&mut state)?;
        Self::end(&state)?;
        for payload in payloads {
            if let Some(bytes) = state.current.payloads.get(payload).cloned() {
                state.durable.payloads.insert(*payload, bytes);
            }
        }
        state.unsynced_renames.retain(|payload| !payloads.contains(payload));
        Ok(())
    }

    fn list_payloads(&self) -> io::Result<Vec<(PayloadHash, u64)>> {
        let state = self.lock();
        Ok(state.current.payloads.iter().map(|(payload, bytes)| (*payload, bytes.len() as u64)).collect())
    }

    fn remove_payload(&self, payload: &PayloadHash) -> io::Result<()> {
        let mut state = self.lock();
        Self::step(&mut state)?;
        state.current.payloads.remove(payload);
        // Whether the name is gone after a loss of power is chance: half of them are.
        if payload.as_bytes()[0] & 1 == 1 {
            state.durable.payloads.remove(payload);
        }
        state.unsynced_renames.retain(|renamed| renamed != payload);
        Self::end(&state)
    }

    fn remove_temporaries(&self) -> io::Result<()> {
        let mut state = self.lock();
        Self::step(&mut state)?;
        Self::end(&state)?;
        state.current.temporaries.clear();
        Ok(())
    }
}

struct Unreadable;

impl Read for Unreadable {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(gone())
    }
}

#[derive(Debug)]
struct SimIndex(SimDisk);

impl IndexFile for SimIndex {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().current.index.as_ref().map_or(0, |index| index.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.0.lock();
        let offset = offset as usize;
        let index = state.current.index.as_ref().ok_or_else(gone)?;
        let bytes = index.get(offset..offset + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.0.lock();
        SimDisk::step(&mut state)?;
        state.current.index.as_mut().ok_or_else(gone)?.resize(len as usize, 0);
        state.unsynced_index.push(IndexOp::SetLen(len as usize));
        SimDisk::end(&state)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.0.lock();
        SimDisk::step(&mut state)?;
        SimDisk::end(&state)?;
        state.durable.index = state.current.index.clone();
        state.unsynced_index.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.0.lock();
        SimDisk::step(&mut state)?;
        let offset = offset as usize;
        let index = state.current.index.as_mut().ok_or_else(gone)?;
        if index.len() < offset + data.len() {
            index.resize(offset + data.len(), 0);
        }
        index[offset..offset + data.len()].copy_from_slice(data);
        state.unsynced_index.push(IndexOp::Write { offset, data: data.to_vec() });
        SimDisk::end(&state)
    }

    fn close(&self) -> io::Result<()> {
        self.0.lock().open = false;
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
