//! Owns [`Team`]: threads that share out the tasks of many short parallel regions, one after the other.
//!
//! A decoded token is a hundred regions of some microseconds up to a millisecond each. Waking a thread
//! through the kernel for each of them costs more than small models compute, so workers look for the
//! next region for a while before they sleep. A worker that is late is not waited for: whoever is awake
//! does the work, which matters where another program wants the same cores.

#![expect(unsafe_code, reason = "workers outlive the regions whose tasks they borrow")]

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use super::buffers::Buffers;
use crate::kernels::FpEnv;

/// How long a worker looks for the next region before it sleeps: longer than what lies between two
/// tokens, the choice of the next one included.
const LOOKING: Duration = Duration::from_micros(500);

/// Rounds of looking between two glances at the clock or offers of the core to others.
const ROUNDS: u32 = 64;

/// Some threads, the caller's among them.
#[derive(Debug)]
pub(crate) struct Team {
    crew: Mutex<Crew>,
    threads: usize,
    buffers: Buffers,
}

/// The workers, and the process that they live in: a fork leaves them behind.
#[derive(Debug)]
struct Crew {
    process: u32,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

/// What the members of a team see.
#[derive(Debug)]
struct Shared {
    /// The region's number in the upper half; whether it may still be joined; how many workers did.
    state: AtomicU64,
    /// Valid while the state says that the region is open or somebody is in it.
    region: UnsafeCell<Region>,
    /// Whether a caller has the team.
    taken: AtomicBool,
    quit: AtomicBool,
    sleeping: AtomicU32,
    sleepers: Mutex<Vec<Thread>>,
}

// SAFETY: `region` is written only by the caller that has `taken`, while the region is closed and
// nobody is in it; workers read it only after they joined an open region. `state` orders both.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer in `region` is used only while what it points to is borrowed.
unsafe impl Send for Shared {}

const REGION: u64 = 1 << 32;
const OPEN: u64 = 1 << 31;
const MEMBERS: u64 = OPEN - 1;

/// Takes the part of the work that falls to the n-th member to join.
type Member<'a> = dyn Fn(usize) + Sync + 'a;

#[derive(Debug)]
struct Region(*const Member<'static>);

impl Team {
    /// `threads` at least 1, the caller's included.
    pub(crate) fn new(threads: usize) -> std::io::Result<Self> {
        let threads = threads.max(1);
        Ok(Self { crew: Mutex::new(Crew::new(threads)?), threads, buffers: Buffers::default() })
    }

    /// Memory for results of regions.
    pub(crate) fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    /// Threads that take part at most.
    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// Starts the workers anew in a process made by `fork`, where they are missing. Who may have been forked since
    /// the last region calls this before the next one; a region does not, as asking for the process is a system
    /// call and there are a hundred regions to a token.
    pub(crate) fn after_fork(&self) {
        let Some(mut crew) = self.crew() else { return };
        if crew.process != std::process::id() {
            let new = Crew::new(self.threads).unwrap_or_else(|_| Crew::alone());
            // The old one's threads are the parent's: nothing here may wait for them or free what they hold.
            std::mem::forget(std::mem::replace(&mut *crew, new));
        }
    }

    /// The crew, unless another thread looks at it right now, or did so in the moment of a fork: who gets none
    /// works alone.
    fn crew(&self) -> Option<MutexGuard<'_, Crew>> {
        match self.crew.try_lock() {
            Ok(crew) => Some(crew),
            Err(TryLockError::Poisoned(crew)) => Some(crew.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Runs `task` on every item, on all threads. Neighbours in the list go to one thread, as far as it
    /// keeps up. After an error no item is begun; of several errors, that of the first item among those that were.
    ///
    /// A caller that finds the team at work for another, or that is itself a task, works alone.
    pub(crate) fn for_each<T: Send, E: Send>(
        &self,
        items: Vec<T>,
        task: impl Fn(T) -> Result<(), E> + Sync,
    ) -> Result<(), E> {
        let (len, shares) = (items.len(), self.threads.min(items.len()));
        self.for_each_in_shares(items, (0..shares).map(|share| share * len / shares).collect(), task)
    }

    /// As [`Self::for_each`], where the threads' shares of the list start at `starts`, which ascend.
    pub(crate) fn for_each_in_shares<T: Send, E: Send>(
        &self,
        items: Vec<T>,
        starts: Vec<usize>,
        task: impl Fn(T) -> Result<(), E> + Sync,
    ) -> Result<(), E> {
        let several = self.threads > 1 && items.len() > 1;
        let crew = several.then(|| self.crew()).flatten().map(|crew| Arc::clone(&crew.shared));
        let Some(shared) = crew.filter(|shared| !shared.taken.swap(true, Ordering::Acquire)) else {
            return items.into_iter().try_for_each(task);
        };
        let _taken = Taken(&shared);

        let items: Vec<Mutex<Option<T>>> = items.into_iter().map(|item| Mutex::new(Some(item))).collect();
        let shares = starts.len();
        let end = |share: usize| starts.get(share + 1).map_or(items.len(), |next| *next);
        let next: Vec<CachePadded<AtomicUsize>> =
            starts.iter().map(|&start| CachePadded(AtomicUsize::new(start))).collect();
        let failed: Mutex<Option<(usize, E)>> = Mutex::new(None);
        let has_failed = AtomicBool::new(false);
        let member = |number: usize| {
            // Everyone begins with a share of their own and then helps the others.
            for share in (0..shares).map(|turn| (number + turn) % shares) {
                loop {
                    let index = next[share].0.fetch_add(1, Ordering::Relaxed);
                    if index >= end(share) || has_failed.load(Ordering::Relaxed) {
                        break;
                    }
                    let Some(item) = lock(&items[index]).take() else { continue };
                    if let Err(error) = task(item) {
                        has_failed.store(true, Ordering::Relaxed);
                        let mut failed = lock(&failed);
                        if failed.as_ref().is_none_or(|(first, _)| index < *first) {
                            *failed = Some((index, error));
                        }
                    }
                }
            }
        };
        shared.run(&member);
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }
}

/// Poisoning says that a task panicked, which the region reports by itself.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A value in cache lines of its own, which cores do not take from each other for the value beside it: two, as
/// neighbours are fetched together.
#[repr(align(128))]
pub(crate) struct CachePadded<T>(pub(crate) T);

/// Gives the team back.
struct Taken<'a>(&'a Shared);

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.taken.store(false, Ordering::Release);
    }
}

impl Crew {
    fn new(threads: usize) -> std::io::Result<Self> {
        let mut crew = Self::alone();
        for number in 1..threads {
            let shared = Arc::clone(&crew.shared);
            let builder = thread::Builder::new().name(format!("blyan-{number}"));
            // Dropping the crew ends those that did start.
            crew.workers.push(builder.spawn(move || shared.work())?);
        }
        Ok(crew)
    }

    /// No workers: callers do all of the work themselves.
    fn alone() -> Self {
        fn nothing(_: usize) {}
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            region: UnsafeCell::new(Region(&nothing)),
            taken: AtomicBool::new(false),
            quit: AtomicBool::new(false),
            sleeping: AtomicU32::new(0),
            sleepers: Mutex::new(Vec::new()),
        });
        Self { process: std::process::id(), shared, workers: Vec::new() }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            self.workers.drain(..).for_each(std::mem::forget);
            return;
        }
        self.shared.quit.store(true, Ordering::SeqCst);
        for worker in &self.workers {
            worker.thread().unpark();
        }
        for worker in self.workers.drain(..) {
            // A worker catches what its tasks throw, so there is nothing to hear from it.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Runs a region: the caller is member 0. Returns when nobody is in it any more.
    fn run(&self, member: &Member<'_>) {
        let panicked: Mutex<Option<Box<dyn std::any::Any + Send>>> = Mutex::new(None);
        let guarded = |number: usize| {
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| member(number))) {
                lock(&panicked).get_or_insert(payload);
            }
        };
        let guarded: &Member<'_> = &guarded;
        // SAFETY: only the lifetime changes. The pointer is followed by members of this region alone,
        // and this function waits until there are none, whatever a task does: panics are caught.
        let erased = unsafe { std::mem::transmute::<*const Member<'_>, *const Member<'static>>(guarded) };
        // SAFETY: the caller has the team, the last region is closed and empty, so nobody reads.
        unsafe { *self.region.get() = Region(erased) };
        let state = (self.state.load(Ordering::Relaxed) & !(OPEN | MEMBERS)).wrapping_add(REGION) | OPEN;
        self.state.store(state, Ordering::SeqCst);
        if self.sleeping.load(Ordering::SeqCst) > 0 {
            lock(&self.sleepers).drain(..).for_each(|sleeper| sleeper.unpark());
        }
        guarded(0);
        let mut members = self.state.fetch_and(!OPEN, Ordering::AcqRel) & MEMBERS;
        let mut rounds = 0u32;
        while members > 0 {
            std::hint::spin_loop();
            rounds += 1;
            if rounds.is_multiple_of(ROUNDS) {
                // Perhaps the worker is not running at all.
                thread::yield_now();
            }
            members = self.state.load(Ordering::Acquire) & MEMBERS;
        }
        if let Some(payload) = panicked.into_inner().unwrap_or_else(PoisonError::into_inner) {
            resume_unwind(payload);
        }
    }

    /// A worker's life.
    fn work(&self) {
        let _env = FpEnv::enter();
        let mut done = 0;
        let mut since = Instant::now();
        let mut rounds = 0u32;
        while !self.quit.load(Ordering::Relaxed) {
            if self.join(&mut done) {
                (since, rounds) = (Instant::now(), 0);
                continue;
            }
            std::hint::spin_loop();
            rounds += 1;
            if rounds.is_multiple_of(ROUNDS) && since.elapsed() > LOOKING {
                self.sleep(done);
                since = Instant::now();
            }
        }
    }

    /// Takes part in the region that is open, if it is a new one; `done` is the last one's number.
    fn join(&self, done: &mut u64) -> bool {
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            if state & OPEN == 0 || state / REGION == *done {
                return false;
            }
            match self.state.compare_exchange_weak(state, state + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => state = now,
            }
        }
        *done = state / REGION;
        let number = (state & MEMBERS) as usize + 1;
        // SAFETY: this worker was counted in while the region was open, so the caller, who wrote the
        // pointer before that, waits until it is counted out, and what the pointer borrows is alive.
        let member = unsafe { &*(*self.region.get()).0 };
        member(number);
        self.state.fetch_sub(1, Ordering::Release);
        true
    }

    /// Sleeps until a caller opens a region; perhaps a little less.
    fn sleep(&self, done: u64) {
        lock(&self.sleepers).push(thread::current());
        self.sleeping.fetch_add(1, Ordering::SeqCst);
        // A caller that opened a region before it could see the sleeper is seen here.
        let state = self.state.load(Ordering::SeqCst);
        let news = state & OPEN != 0 && state / REGION != done;
        if !news && !self.quit.load(Ordering::SeqCst) {
            thread::park();
        }
        self.sleeping.fetch_sub(1, Ordering::SeqCst);
        lock(&self.sleepers).retain(|sleeper| sleeper.id() != thread::current().id());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_run_once_on_any_number_of_threads() {
        for threads in [1, 2, 3, 7] {
            let team = Team::new(threads).unwrap();
            for len in [0, 1, 2, 3, 10, 100].repeat(50) {
                let counts: Vec<AtomicUsize> = (0..len).map(|_| AtomicUsize::new(0)).collect();
                let task = |index: usize| {
                    counts[index].fetch_add(1, Ordering::Relaxed);
                    Ok::<_, ()>(())
                };
                team.for_each((0..len).collect(), task).unwrap();
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn shares_may_be_of_any_size() {
        let team = Team::new(3).unwrap();
        let shares: [&[usize]; 5] = [&[0], &[0, 0, 0], &[0, 9, 10], &[0, 10, 10], &[0, 3]];
        for starts in shares.repeat(50) {
            let counts: Vec<AtomicUsize> = (0..10).map(|_| AtomicUsize::new(0)).collect();
            let task = |index: usize| {
                counts[index].fetch_add(1, Ordering::Relaxed);
                Ok::<_, ()>(())
            };
            team.for_each_in_shares((0..10).collect(), starts.to_vec(), task).unwrap();
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn sleepers_wake_and_callers_do_not_wait_for_each_other() {
        let team = Team::new(3).unwrap();
        thread::scope(|scope| {
            for caller in 0..4 {
                let team = &team;
                scope.spawn(move || {
                    for round in 0..200 {
                        let sum = AtomicUsize::new(0);
                        let task = |n: usize| {
                            sum.fetch_add(n, Ordering::Relaxed);
                            Ok::<_, ()>(())
                        };
                        team.for_each((0..=20).collect(), task).unwrap();
                        assert_eq!(sum.into_inner(), 210);
                        if round % 67 == caller {
                            thread::sleep(2 * LOOKING);
                        }
                    }
                });
            }
        });
    }

    #[test]
    fn a_task_may_have_regions_of_its_own() {
        let team = Team::new(2).unwrap();
        let total = AtomicUsize::new(0);
        let inner = |n: usize| {
            total.fetch_add(n, Ordering::Relaxed);
            Ok::<_, ()>(())
        };
        team.for_each(vec![(); 8], |()| team.for_each(vec![1, 2, 3], inner)).unwrap();
        assert_eq!(total.into_inner(), 48);
    }

    #[test]
    fn errors_and_panics_come_out() {
        let team = Team::new(2).unwrap();
        for _ in 0..100 {
            assert_eq!(team.for_each(vec![1, 2, 3], |n| if n == 3 { Err(n) } else { Ok(()) }), Err(3));
        }
        let panics =
            || team.for_each((0..64).collect(), |n| if n == 40 { panic!("40") } else { Ok::<_, ()>(()) });
        assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
        team.for_each(vec![1, 2], |_| Ok::<_, ()>(())).unwrap();
    }
}
