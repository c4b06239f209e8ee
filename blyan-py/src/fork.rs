//! Owns what happens after `fork`: the child has the memory of its parent and none of its threads.
//!
//! Handles remember the process that opened them. In another one they are neither used nor dropped,
//! since both could wait for threads that are not there; and work that wants the threads of rayon's
//! global pool, which only the parent has, gets a pool of the child's own.
//!
//! A lock that another thread holds in the moment of the fork is held in the child for ever. So one that
//! a child may take is either taken with the interpreter's lock alone, which `fork` waits for, or is only
//! tried, or is [`PerProcess`]; and what Python's objects are made with is made without a lock.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use blyan_core::hash::is_first_process;
use once_cell::race::OnceBox;
use pyo3::Python;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::door::lock;
use crate::failure::Failure;

/// This process.
pub(crate) fn here() -> u32 {
    std::process::id()
}

/// Threads of a process made by `fork`.
static CHILD_THREADS: PerProcess<Mutex<Option<Arc<ThreadPool>>>> = PerProcess::new();

/// Runs work where rayon has threads.
pub(crate) fn with_threads<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, Failure> {
    if is_first_process() {
        return Ok(work());
    }
    Ok(child_threads()?.install(work))
}

/// As [`with_threads`], for work that waits for its caller's callback: it has threads to itself, as the callback's own
/// calls want some, too.
pub(crate) fn with_own_threads<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, Failure> {
    if is_first_process() {
        return Ok(work());
    }
    Ok(new_threads()?.install(work))
}

fn new_threads() -> Result<ThreadPool, Failure> {
    let builder = ThreadPoolBuilder::new().thread_name(|index| format!("blyan child {index}"));
    builder.build().map_err(|error| Failure::Threads(error.to_string()))
}

fn child_threads() -> Result<Arc<ThreadPool>, Failure> {
    let mut threads = lock(CHILD_THREADS.get());
    if let Some(pool) = &*threads {
        return Ok(Arc::clone(pool));
    }
    Ok(Arc::clone(threads.insert(Arc::new(new_threads()?))))
}

/// The process that trained first; 0 before that.
static TRAINS: AtomicU32 = AtomicU32::new(0);

/// Refuses to train in a process made by `fork` from one that trained. The tensor library shares work among threads
/// that it starts once, and only the parent has them.
pub(crate) fn may_train() -> Result<(), Failure> {
    match TRAINS.compare_exchange(0, here(), Ordering::Relaxed, Ordering::Relaxed) {
        Err(process) if process != here() => Err(Failure::TrainedBefore(process)),
        _ => Ok(()),
    }
}

/// A value that each process has of its own. Those of the processes before it stay as the fork found them.
#[derive(Debug)]
pub(crate) struct PerProcess<T>(OnceBox<Own<T>>);

#[derive(Debug)]
struct Own<T> {
    process: u32,
    value: T,
    /// Of a process made by `fork` from that one.
    next: PerProcess<T>,
}

impl<T: Default> PerProcess<T> {
    pub(crate) const fn new() -> Self {
        Self(OnceBox::new())
    }

    /// This process's value. Threads that make it race, as waiting for one that a fork left behind would never end.
    pub(crate) fn get(&self) -> &T {
        let process = here();
        let mut place = self;
        loop {
            let make = || Box::new(Own { process, value: T::default(), next: Self::new() });
            let own = place.0.get_or_init(make);
            if own.process == process {
                return &own.value;
            }
            place = &own.next;
        }
    }
}

/// A value that belongs to the process that made it, and is dropped there alone, without the
/// interpreter's lock: dropping may wait for threads.
///
/// Held by Python's objects alone, never by a thread of work: the drop needs the interpreter.
#[derive(Debug)]
pub(crate) struct Local<T: Send> {
    /// Taken by `drop` and by nothing else.
    value: Option<T>,
    process: u32,
}

impl<T: Send> Local<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { value: Some(value), process: here() }
    }

    /// The value; `what` names it in the error if it belongs to another process.
    pub(crate) fn get(&self, what: &'static str) -> Result<&T, Failure> {
        let value = self.value.as_ref().filter(|_| self.is_here());
        value.ok_or(Failure::Forked(what, self.process))
    }

    /// The value, whoever it belongs to.
    pub(crate) fn anywhere(&self) -> Option<&T> {
        self.value.as_ref()
    }

    pub(crate) fn is_here(&self) -> bool {
        self.process == here()
    }
}

impl<T: Send> Drop for Local<T> {
    fn drop(&mut self) {
        let value = self.value.take();
        if !self.is_here() {
            std::mem::forget(value);
        } else if value.is_some() {
            let mut value = Some(value);
            // Not during the end of the interpreter, which takes the memory back anyway.
            Python::try_attach(|py| py.detach(|| drop(value.take())));
            std::mem::forget(value);
        }
    }
}
