//! Owns the writing of payload files in the background: written, synced and renamed by a few
//! threads while the caller hashes the next one.
//!
//! Syncing one file at a time leaves the medium idle between them; a few at once keep it busy. The
//! bytes in flight are bounded, so an import's memory does not grow with the model.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::error::StorageError;
use super::medium::Medium;
use crate::hash::PayloadHash;

/// Files being written at once.
const MAX_THREADS: usize = 8;
/// Bytes accepted and not yet written; a longer payload waits until it is alone.
const MAX_BYTES_IN_FLIGHT: usize = 64 << 20;

/// Makes temporary names unique within a process; the folder is emptied before the first.
static NEXT_TEMPORARY: AtomicU64 = AtomicU64::new(0);

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(PayloadHash, Vec<u8>)>,
    /// Memory of payloads that are written, for the next ones, once somebody asked for it: with what is in
    /// flight no more than may be in flight.
    spare: Option<Vec<Vec<u8>>>,
    bytes_in_flight: usize,
    files_in_flight: usize,
    idle_threads: usize,
    closed: bool,
    failure: Option<StorageError>,
}

#[derive(Debug)]
struct Shared {
    medium: Arc<dyn Medium>,
    queue: Mutex<Queue>,
    /// Something was queued, or the queue was closed.
    work: Condvar,
    /// Something was finished.
    done: Condvar,
}

/// Writes payload files; see the module.
#[derive(Debug)]
pub(crate) struct PayloadWriter {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    unsynced: Vec<PayloadHash>,
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    // The queue is changed in single steps, none of which panics half way.
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write_payload(medium: &dyn Medium, payload: &PayloadHash, bytes: &[u8]) -> Result<(), StorageError> {
    let number = NEXT_TEMPORARY.fetch_add(1, Ordering::Relaxed);
    let name = format!("{}-{number}", std::process::id());
    let path = || PathBuf::from(payload.to_string());
    medium.write_temporary(&name, bytes).map_err(StorageError::io("write payload", path()))?;
    medium.publish(&name, payload).map_err(StorageError::io("publish payload", path()))
}

impl Queue {
    /// Keeps the memory of a payload for the next one.
    fn keep(&mut self, buffer: Vec<u8>) {
        let Some(spare) = &mut self.spare else { return };
        let kept: usize = spare.iter().map(Vec::capacity).sum();
        let held = kept + self.bytes_in_flight + buffer.capacity();
        if spare.len() < MAX_THREADS && held <= MAX_BYTES_IN_FLIGHT {
            spare.push(buffer);
        }
    }
}

impl Shared {
    fn run(&self) {
        let mut queue = lock(&self.queue);
        loop {
            queue = self.write_waiting(queue);
            if queue.closed {
                return;
            }
            queue.idle_threads += 1;
            queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.idle_threads -= 1;
        }
    }

    /// Writes what waits; the queue is not locked meanwhile.
    fn write_waiting<'a>(&'a self, mut queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
        while let Some((payload, bytes)) = queue.waiting.pop_front() {
            let failed = queue.failure.is_some();
            drop(queue);
            // After a failure the transaction is lost; what is still queued need not be written.
            let result = if failed { Ok(()) } else { write_payload(&*self.medium, &payload, &bytes) };
            queue = lock(&self.queue);
            queue.bytes_in_flight -= bytes.len();
            queue.keep(bytes);
            queue.files_in_flight -= 1;
            if let Err(error) = result {
                queue.failure.get_or_insert(error);
            }
            self.done.notify_all();
        }
        queue
    }
}

impl PayloadWriter {
    pub(crate) fn new(medium: Arc<dyn Medium>) -> Self {
        let shared = Shared { medium, queue: Mutex::default(), work: Condvar::new(), done: Condvar::new() };
        Self { shared: Arc::new(shared), threads: Vec::new(), unsynced: Vec::new() }
    }

    /// Memory for a payload to write: that of one that was written, with whatever is in it, or none. The system
    /// clears new memory page by page, which takes as long as some of the work on a payload.
    pub(crate) fn buffer(&self) -> Vec<u8> {
        lock(&self.shared.queue).spare.get_or_insert_default().pop().unwrap_or_default()
    }

    /// Takes back memory of a payload that need not be written.
    pub(crate) fn keep(&self, buffer: Vec<u8>) {
        lock(&self.shared.queue).keep(buffer);
    }

    /// Takes a payload to write; waits while too many bytes are in flight.
    pub(crate) fn write(&mut self, payload: PayloadHash, bytes: Vec<u8>) -> Result<(), StorageError> {
        self.unsynced.push(payload);
        let mut queue = lock(&self.shared.queue);
        while queue.bytes_in_flight > 0 && queue.bytes_in_flight + bytes.len() > MAX_BYTES_IN_FLIGHT {
            queue = self.shared.done.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(error) = queue.failure.take() {
            return Err(self.fail(queue, error));
        }
        queue.bytes_in_flight += bytes.len();
        queue.files_in_flight += 1;
        queue.waiting.push_back((payload, bytes));
        let start_thread = queue.waiting.len() > queue.idle_threads && self.threads.len() < MAX_THREADS;
        drop(queue);
        self.shared.work.notify_one();
        if start_thread {
            let shared = self.shared.clone();
            let thread = std::thread::Builder::new().name("blyan-payload".into());
            let spawned = thread.spawn(move || shared.run());
            match spawned {
                Ok(handle) => self.threads.push(handle),
                // One thread is enough; without any, nothing else would ever write it.
                Err(_) if self.threads.is_empty() => {
                    drop(self.shared.write_waiting(lock(&self.shared.queue)));
                }
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// An existing file that a block relies on: its name must be durable too, as who wrote it may have been killed before it was.
    pub(crate) fn rely_on(&mut self, payload: PayloadHash) {
        self.unsynced.push(payload);
    }

    /// Waits until everything taken is written; its names need not be durable yet.
    pub(crate) fn wait(&self) -> Result<(), StorageError> {
        let mut queue = lock(&self.shared.queue);
        while queue.files_in_flight > 0 {
            queue = self.shared.done.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        match queue.failure.take() {
            Some(error) => Err(self.fail(queue, error)),
            None => Ok(()),
        }
    }

    /// Hands out the first failure and keeps every later call failing.
    fn fail(&self, mut queue: MutexGuard<'_, Queue>, error: StorageError) -> StorageError {
        queue.failure = Some(StorageError::Index { reason: "an earlier payload was not written".into() });
        error
    }

    /// Waits until everything taken is durable under its name.
    pub(crate) fn sync(&mut self) -> Result<(), StorageError> {
        self.wait()?;
        if !self.unsynced.is_empty() {
            let synced = self.shared.medium.sync_payload_folders(&self.unsynced);
            synced.map_err(StorageError::io("sync the folders of", "payloads"))?;
            self.unsynced.clear();
        }
        Ok(())
    }
}

impl Drop for PayloadWriter {
    fn drop(&mut self) {
        lock(&self.shared.queue).closed = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked wrote nothing more; its payload was never acknowledged.
            let _ = thread.join();
        }
    }
}
