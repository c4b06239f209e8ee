//! Owns [`UsageTracker`]: counting beside the forward pass, reading, and when to store.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::counts::{Counts, LiveCounts, ModelCounts};
use super::file::{Found, UsageError, UsageFile};
use super::histogram::quantile;
use crate::format::Slot;
use crate::hash::BlockHash;

/// The experts of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageLayout {
    /// The model block.
    pub model: BlockHash,
    /// Blocks of the experts, by layer.
    pub experts: Vec<Vec<BlockHash>>,
}

/// One call of an expert: one forward step of one layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExpertUse {
    /// The expert.
    pub expert: u32,
    /// Tokens that it was called with.
    pub tokens: u32,
    /// Sum of their routing weights for it.
    pub weight_sum: f32,
    /// How long it took.
    pub nanos: u64,
}

/// What is known of one expert.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ExpertUsage {
    /// Name of its slot.
    pub slot: String,
    /// Its layer.
    pub layer: u32,
    /// Its place in the layer.
    pub expert: u32,
    /// Its block.
    pub block: BlockHash,
    /// Forward steps that used it.
    pub calls: u64,
    /// Tokens that used it.
    pub tokens: u64,
    /// Mean time of a call; none without one.
    pub latency_mean_ns: Option<f64>,
    /// Time that 95 % of the calls stay within, to ± 6 % from 256 ns to 275 s; none without one.
    pub latency_p95_ns: Option<f64>,
    /// Sum of its routing weights.
    pub weight_sum: f64,
    /// Its share of the layer's routing weights, 0 to 1.
    pub weight_share: f64,
    /// Unix time of its last use in ms; none without one.
    pub last_used_ms: Option<u64>,
}

/// How many tokens used two experts of a layer both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CoUse {
    /// The layer.
    pub layer: u32,
    /// The two experts, the lower first.
    pub experts: (u32, u32),
    /// Tokens that used both.
    pub tokens: u64,
}

/// Everything that is known, at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct UsageSnapshot {
    /// The model block.
    pub model: BlockHash,
    /// Experts that were used, by layer and place.
    pub experts: Vec<ExpertUsage>,
    /// Pairs that were used together, by layer and experts.
    pub co_use: Vec<CoUse>,
}

/// Counts the use of a model's experts, over all processes that run it from one chain directory.
///
/// Recording takes no lock. Counts are stored by [`flush`](Self::flush), in the background if asked
/// for, and when the tracker is dropped.
#[derive(Debug)]
pub struct UsageTracker {
    shared: Arc<Shared>,
    flusher: Option<Flusher>,
}

#[derive(Debug)]
struct Shared {
    layout: UsageLayout,
    /// Since the last flush.
    live: LiveCounts,
    /// As of the last flush, by all processes.
    base: Mutex<ModelCounts>,
    file: Option<UsageFile>,
}

#[derive(Debug)]
struct Flusher {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: JoinHandle<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Counts are whole after each statement; a panic elsewhere does not spoil them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl UsageTracker {
    /// A tracker that continues the counts stored in `dir` (a chain's `usage/`), or that stores
    /// none. Counts that cannot be read are reported as a warning and start at 0.
    pub fn open(layout: UsageLayout, dir: Option<&Path>) -> Self {
        let sizes = || layout.experts.iter().map(Vec::len);
        let file = dir.map(|dir| UsageFile::new(dir, &layout.model, sizes().collect()));
        let mut found = None;
        let loaded = file.as_ref().map(|file| file.load(&mut found));
        if let Some(found) = found {
            found.warn();
        }
        let base = loaded.and_then(|loaded| {
            loaded.inspect_err(|error| tracing::warn!(%error, "stored usage counts are left out")).ok()
        });
        let base = Mutex::new(base.unwrap_or_else(|| ModelCounts::new(sizes())));
        let live = LiveCounts::new(sizes());
        Self { shared: Arc::new(Shared { layout, live, base, file }), flusher: None }
    }

    /// Also stores the counts every `interval`, on a thread of its own. Without a directory there is
    /// nothing to store.
    #[must_use]
    pub fn flush_every(mut self, interval: Duration) -> Self {
        if self.shared.file.is_none() || self.flusher.is_some() {
            return self;
        }
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let shared = Arc::clone(&self.shared);
        let thread_stop = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("blyan usage".to_owned()).spawn(move || {
            let (stopped, changed) = &*thread_stop;
            let mut guard = lock(stopped);
            while !*guard {
                let wait = changed.wait_timeout(guard, interval).unwrap_or_else(PoisonError::into_inner);
                guard = wait.0;
                if !*guard && wait.1.timed_out() {
                    drop(guard);
                    if shared.live.is_dirty() {
                        shared.flush_or_warn();
                    }
                    guard = lock(stopped);
                }
            }
        });
        match thread {
            Ok(thread) => self.flusher = Some(Flusher { stop, thread }),
            Err(error) => tracing::warn!(%error, "usage counts are stored at the end only"),
        }
        self
    }

    /// Counts one forward step of a layer: one entry for each expert that was called.
    pub fn record(&self, layer: u32, uses: &[ExpertUse]) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.record_at(layer, uses, u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
    }

    /// As [`record`](Self::record), at a given Unix time in ms.
    pub fn record_at(&self, layer: u32, uses: &[ExpertUse], now_ms: u64) {
        for used in uses {
            let amounts = (used.tokens, used.weight_sum, used.nanos);
            self.shared.live.record((layer, used.expert), amounts, now_ms);
        }
    }

    /// Counts which experts of a layer worked together: `routed` holds `experts_per_token` experts
    /// for each token, one token after another. More than 64 for a token, or 1,024 in the layer, are not counted.
    pub fn record_together(&self, layer: u32, routed: &[u32], experts_per_token: usize) {
        if experts_per_token < 2 {
            return;
        }
        for experts in routed.chunks_exact(experts_per_token) {
            self.shared.live.record_together(layer, experts);
        }
    }

    /// The model block that is counted for.
    pub fn model(&self) -> &BlockHash {
        &self.shared.layout.model
    }

    /// What is known of an expert; none if the model has no such one.
    pub fn get(&self, layer: u32, expert: u32) -> Option<ExpertUsage> {
        let shared = &self.shared;
        let experts = shared.layout.experts.get(layer as usize)?;
        experts.get(expert as usize)?;
        let base = lock(&shared.base);
        let total = (0..experts.len()).filter_map(|e| shared.expert(&base, layer as usize, e));
        let total: f64 = total.map(|counts| counts.weight()).sum();
        let counts = shared.expert(&base, layer as usize, expert as usize).unwrap_or_default();
        Some(shared.usage(layer, expert, &counts, total))
    }

    /// What is known of the expert in a slot such as `layer0.expert1`.
    ///
    /// # Errors
    ///
    /// [`UsageError::Slot`] for a name outside the grammar, [`UsageError::NoExpert`] if the model has
    /// no expert of that name.
    pub fn by_name(&self, slot: &str) -> Result<ExpertUsage, UsageError> {
        match slot.parse::<Slot>()? {
            Slot::Expert { layer, expert } => self.get(layer, expert),
            _ => None,
        }
        .ok_or_else(|| UsageError::NoExpert { slot: slot.to_owned() })
    }

    /// Every expert, used or not, by layer and place.
    pub fn experts(&self) -> Vec<ExpertUsage> {
        let counts = self.shared.total();
        let mut all = Vec::new();
        for (layer, counts) in (0..).zip(&counts.layers) {
            let total: f64 = counts.experts.iter().flatten().map(Counts::weight).sum();
            for (expert, counts) in (0..).zip(&counts.experts) {
                let counts = counts.clone().unwrap_or_default();
                all.push(self.shared.usage(layer, expert, &counts, total));
            }
        }
        all
    }

    /// The `n` experts that most tokens used, most used first, ties by layer and place; none that
    /// were never used.
    pub fn top(&self, n: usize) -> Vec<ExpertUsage> {
        let mut experts = self.experts();
        experts.retain(|expert| expert.calls > 0);
        // The sort is stable, and they are in order of layer and place.
        experts.sort_by_key(|expert| std::cmp::Reverse(expert.tokens));
        experts.truncate(n);
        experts
    }

    /// Pairs of experts that worked together, by layer and experts.
    pub fn co_use(&self) -> Vec<CoUse> {
        let layers = self.shared.total().layers;
        let pairs = (0..).zip(layers).flat_map(|(layer, counts)| {
            counts.pairs.into_iter().map(move |(experts, tokens)| CoUse { layer, experts, tokens })
        });
        pairs.collect()
    }

    /// Everything, for storing elsewhere.
    pub fn snapshot(&self) -> UsageSnapshot {
        let mut experts = self.experts();
        experts.retain(|expert| expert.calls > 0);
        UsageSnapshot { model: self.shared.layout.model, experts, co_use: self.co_use() }
    }

    /// Starts all counts at 0, stored ones included. What other processes counted since they last
    /// stored theirs is added when they do.
    ///
    /// # Errors
    ///
    /// [`UsageError`] if the stored counts cannot be replaced; nothing is reset then.
    pub fn reset(&self) -> Result<(), UsageError> {
        let shared = &self.shared;
        let mut base = lock(&shared.base);
        if let Some(file) = &shared.file {
            file.clear()?;
        }
        shared.live.take();
        *base = ModelCounts::new(shared.layout.experts.iter().map(Vec::len));
        Ok(())
    }

    /// Stores what was counted since the last flush, and takes note of what other processes stored.
    ///
    /// # Errors
    ///
    /// [`UsageError`] if that fails; the counts are kept for the next flush.
    pub fn flush(&self) -> Result<(), UsageError> {
        self.shared.flush()
    }
}

impl Drop for UsageTracker {
    fn drop(&mut self) {
        if let Some(Flusher { stop, thread }) = self.flusher.take() {
            *lock(&stop.0) = true;
            stop.1.notify_all();
            if thread.join().is_err() {
                tracing::warn!("the thread that stores usage counts failed");
            }
        }
        self.shared.flush_or_warn();
    }
}

impl Shared {
    fn flush(&self) -> Result<(), UsageError> {
        let Some(file) = &self.file else { return Ok(()) };
        let mut found = None;
        let flushed = self.flush_to(file, &mut found);
        if let Some(found) = found {
            found.warn();
        }
        flushed
    }

    /// As [`Self::flush`], and leaves to the caller, which holds no lock, to say what was `found`.
    fn flush_to(&self, file: &UsageFile, found: &mut Option<Found>) -> Result<(), UsageError> {
        let mut base = lock(&self.base);
        let delta = self.live.take();
        if delta == ModelCounts::new(self.layout.experts.iter().map(Vec::len)) {
            *base = file.load(found)?;
            return Ok(());
        }
        match file.add(&delta, found) {
            Ok(sum) => {
                *base = sum;
                Ok(())
            }
            Err(error) => {
                self.live.restore(&delta);
                Err(error)
            }
        }
    }

    fn flush_or_warn(&self) {
        if let Err(error) = self.flush() {
            tracing::warn!(%error, "usage counts are not stored");
        }
    }

    fn total(&self) -> ModelCounts {
        let base = lock(&self.base);
        let mut counts = self.live.read();
        counts.add(&base);
        counts
    }

    fn expert(&self, base: &ModelCounts, layer: usize, expert: usize) -> Option<Counts> {
        let stored = base.layers.get(layer).and_then(|layer| layer.experts.get(expert)?.as_ref());
        match (self.live.read_expert(layer, expert), stored) {
            (Some(mut counts), Some(stored)) => {
                counts.add(stored);
                Some(counts)
            }
            (live, stored) => live.or_else(|| stored.cloned()),
        }
    }

    fn usage(&self, layer: u32, expert: u32, counts: &Counts, layer_weight: f64) -> ExpertUsage {
        let experts = self.layout.experts.get(layer as usize);
        let block = experts.and_then(|experts| experts.get(expert as usize)).copied();
        ExpertUsage {
            slot: Slot::Expert { layer, expert }.to_string(),
            layer,
            expert,
            block: block.unwrap_or(BlockHash::from_bytes([0; 32])),
            calls: counts.calls,
            tokens: counts.tokens,
            latency_mean_ns: (counts.calls > 0).then(|| counts.nanos as f64 / counts.calls as f64),
            latency_p95_ns: quantile(&counts.histogram(), 0.95),
            weight_sum: counts.weight(),
            weight_share: if layer_weight > 0.0 { counts.weight() / layer_weight } else { 0.0 },
            last_used_ms: (counts.last_used_ms > 0).then_some(counts.last_used_ms),
        }
    }
}
