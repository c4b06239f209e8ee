//! What the programs share: token ids that every peer makes alike, what the kernel says of memory, and how far the
//! cores are from each other while something is measured.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use serde_json::{Value, json};

/// Token ids of sequence `sequence`: splitmix64, as in `peer.py`.
pub fn tokens(sequence: u64, count: usize, vocab_size: usize) -> Vec<u32> {
    let ids = (0..count as u64).map(|index| {
        let mut z = ((sequence << 32) + index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % vocab_size as u64) as u32
    });
    ids.collect()
}

/// Bytes that this process holds at most (`VmHWM`) and now, apart by kind; empty where the system is not
/// Linux.
pub fn memory() -> Value {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
    };
    json!({
        "peak_bytes": field("VmHWM:"),
        "anonymous_bytes": field("RssAnon:"),
        "file_bytes": field("RssFile:"),
    })
}

/// The middle of some values, the upper one of two; 0 of none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Seconds that `work` takes.
pub fn seconds<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let begun = Instant::now();
    let result = work();
    (result, begun.elapsed().as_secs_f64())
}

/// Rounds of a cache line from core to core and back that are timed together, and how often.
const TRIPS: u32 = 500;
const BATCHES: u32 = 12;

/// Nanoseconds that a cache line takes from the first of this process's cores to its last; `None` with one core or
/// where threads cannot be bound to cores. The least of some batches, so that it counts little what else runs.
///
/// Virtual cores are moved about. Two on one die of AMD's share its link to memory, two on different dies have a link each:
/// how fast memory reads with both follows from this figure there.
pub fn cores_ns() -> Option<f64> {
    let cores = cores();
    let (&first, &last) = (cores.first()?, cores.last()?);
    if first == last {
        return None;
    }
    let turn = AtomicU32::new(0);
    // One thread writes the even turns, the other the odd ones.
    let play = |parity: u32, core: usize| {
        bind(core);
        let mut best = f64::INFINITY;
        for batch in 0..BATCHES {
            let begun = Instant::now();
            for trip in 0..TRIPS {
                let mine = 2 * (batch * TRIPS + trip) + parity;
                while turn.load(Ordering::Acquire) != mine {}
                turn.store(mine + 1, Ordering::Release);
            }
            best = best.min(begun.elapsed().as_secs_f64());
        }
        best
    };
    let best = std::thread::scope(|scope| {
        let other = scope.spawn(|| play(1, last));
        let best = scope.spawn(|| play(0, first)).join();
        other.join().and(best)
    });
    Some(best.ok()? * 1e9 / f64::from(2 * TRIPS))
}

/// The cores that this process may run on, ascending.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "there is no other way to ask the kernel")]
fn cores() -> Vec<usize> {
    // SAFETY: a set of cores is plain bits, and the call fills what it is told the size of.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) != 0 {
            return Vec::new();
        }
        (0..libc::CPU_SETSIZE as usize).filter(|&core| libc::CPU_ISSET(core, &set)).collect()
    }
}

/// Binds this thread to a core.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "there is no other way to ask the kernel")]
fn bind(core: usize) {
    // SAFETY: a set of cores is plain bits; the core was in a set that the kernel gave. A refusal changes nothing.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}

#[cfg(not(target_os = "linux"))]
fn cores() -> Vec<usize> {
    Vec::new()
}

#[cfg(not(target_os = "linux"))]
fn bind(_: usize) {}

/// Rates of decoding, a few steps at a time, each with [`cores_ns`] before and after it.
#[derive(Default)]
pub struct Parts {
    rates: Vec<f64>,
    parts: Vec<Value>,
}

impl Parts {
    /// Steps of a part: long beside the time between two, short beside the time that cores stay where they are.
    const STEPS: usize = 8;

    /// Takes `steps` steps, which give `tokens` tokens each.
    pub fn run<E>(
        &mut self,
        steps: usize,
        tokens: usize,
        mut step: impl FnMut() -> Result<(), E>,
    ) -> Result<(), E> {
        let mut before = cores_ns();
        for first in (0..steps).step_by(Self::STEPS) {
            let count = Self::STEPS.min(steps - first);
            let (done, time) = seconds(|| (0..count).try_for_each(|_| step()));
            done?;
            self.add((count * tokens) as f64 / time, &mut before);
        }
        Ok(())
    }

    /// A part that was timed otherwise; `before` is what the cores were at its begin, and then at its end.
    pub fn add(&mut self, rate: f64, before: &mut Option<f64>) {
        let after = cores_ns();
        self.rates.push(rate);
        self.parts.push(json!([rate, before, after]));
        *before = after;
    }

    /// The median rate, and the parts: rate, nanoseconds before, nanoseconds after.
    pub fn finish(self) -> (f64, Value) {
        (median(self.rates), self.parts.into())
    }
}
