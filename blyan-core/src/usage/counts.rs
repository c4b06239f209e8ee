//! Owns the numbers: plain ones that are stored and added, and atomic ones that are counted in.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use borsh::{BorshDeserialize, BorshSerialize};

use super::histogram::{BUCKETS, bucket};

/// Experts of a token whose pairs are counted, at most.
const MOST_TOGETHER: usize = 64;
/// Experts of a layer whose pairs are counted, at most: they take 4 MiB then, and no published model has as many.
const MOST_WITH_PAIRS: usize = 1024;

/// Routing weights are summed in units of 2^-24, so that sums are exact and in no order.
const WEIGHT_UNITS: f64 = (1 << 24) as f64;

/// What is known of one expert.
#[derive(Debug, Clone, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(super) struct Counts {
    pub(super) calls: u64,
    pub(super) tokens: u64,
    pub(super) nanos: u64,
    pub(super) weight: u64,
    /// Unix time in ms; 0 if never.
    pub(super) last_used_ms: u64,
    /// Calls by latency: bucket and count, ascending, no zeros.
    pub(super) latency: Vec<(u16, u64)>,
}

impl Counts {
    pub(super) fn weight(&self) -> f64 {
        self.weight as f64 / WEIGHT_UNITS
    }

    /// All buckets.
    pub(super) fn histogram(&self) -> [u64; BUCKETS] {
        let mut all = [0; BUCKETS];
        for &(bucket, count) in &self.latency {
            if let Some(place) = all.get_mut(usize::from(bucket)) {
                *place = count;
            }
        }
        all
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.calls = self.calls.saturating_add(other.calls);
        self.tokens = self.tokens.saturating_add(other.tokens);
        self.nanos = self.nanos.saturating_add(other.nanos);
        self.weight = self.weight.saturating_add(other.weight);
        self.last_used_ms = self.last_used_ms.max(other.last_used_ms);
        self.latency = merge(&self.latency, &other.latency);
    }
}

/// Adds two ascending sparse lists.
fn merge<K: Ord + Copy>(a: &[(K, u64)], b: &[(K, u64)]) -> Vec<(K, u64)> {
    let mut sum = Vec::with_capacity(a.len().max(b.len()));
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    loop {
        let next = match (a.peek(), b.peek()) {
            (Some(x), Some(y)) if x.0 == y.0 => {
                let entry = (x.0, x.1.saturating_add(y.1));
                a.next();
                b.next();
                Some(entry)
            }
            (Some(x), Some(y)) => if x.0 < y.0 { a.next() } else { b.next() }.copied(),
            (Some(_), None) => a.next().copied(),
            (None, _) => b.next().copied(),
        };
        match next {
            Some(entry) => sum.push(entry),
            None => return sum,
        }
    }
}

/// What is known of one layer.
#[derive(Debug, Clone, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(super) struct LayerCounts {
    /// By expert; none if never used.
    pub(super) experts: Vec<Option<Counts>>,
    /// Tokens that used both of two experts, the first the lower; ascending, no zeros.
    pub(super) pairs: Vec<((u32, u32), u64)>,
}

/// What is known of all layers.
#[derive(Debug, Clone, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(super) struct ModelCounts {
    pub(super) layers: Vec<LayerCounts>,
}

impl ModelCounts {
    /// No use of any expert.
    pub(super) fn new(experts: impl Iterator<Item = usize>) -> Self {
        let layer = |experts| LayerCounts { experts: vec![None; experts], pairs: Vec::new() };
        Self { layers: experts.map(layer).collect() }
    }

    /// Whether both are of models of the same sizes, and every index is within them.
    pub(super) fn fits(&self, experts: impl ExactSizeIterator<Item = usize>) -> bool {
        let ascending = |list: &[(u16, u64)]| {
            list.is_sorted_by(|a, b| a.0 < b.0)
                && list.iter().all(|&(bucket, _)| usize::from(bucket) < BUCKETS)
        };
        self.layers.len() == experts.len()
            && self.layers.iter().zip(experts).all(|(layer, experts)| {
                let pair_fits = |&((a, b), _): &((u32, u32), u64)| a < b && (b as usize) < experts;
                layer.experts.len() == experts
                    && layer.experts.iter().flatten().all(|counts| ascending(&counts.latency))
                    && layer.pairs.is_sorted_by(|a, b| a.0 < b.0)
                    && layer.pairs.iter().all(pair_fits)
            })
    }

    /// Adds the counts of a model of the same sizes.
    pub(super) fn add(&mut self, other: &Self) {
        for (layer, more) in self.layers.iter_mut().zip(&other.layers) {
            for (expert, more) in layer.experts.iter_mut().zip(&more.experts) {
                if let Some(more) = more {
                    expert.get_or_insert_default().add(more);
                }
            }
            layer.pairs = merge(&layer.pairs, &more.pairs);
        }
    }
}

/// Counts of one expert since they were last taken. Allocated at its first use: a histogram for
/// each expert of a large model would be tens of MB.
#[derive(Debug)]
struct Live {
    calls: AtomicU64,
    tokens: AtomicU64,
    nanos: AtomicU64,
    weight: AtomicU64,
    last_used_ms: AtomicU64,
    latency: [AtomicU64; BUCKETS],
}

impl Live {
    fn new() -> Self {
        Self {
            calls: AtomicU64::new(0),
            tokens: AtomicU64::new(0),
            nanos: AtomicU64::new(0),
            weight: AtomicU64::new(0),
            last_used_ms: AtomicU64::new(0),
            latency: [const { AtomicU64::new(0) }; BUCKETS],
        }
    }

    /// The counts, read by `read`; none if there are none.
    fn collect(&self, read: impl Fn(&AtomicU64) -> u64) -> Option<Counts> {
        let latency = (0..).zip(&self.latency).map(|(bucket, count)| (bucket, read(count)));
        let counts = Counts {
            latency: latency.filter(|&(_, count)| count > 0).collect(),
            calls: read(&self.calls),
            tokens: read(&self.tokens),
            nanos: read(&self.nanos),
            weight: read(&self.weight),
            last_used_ms: read(&self.last_used_ms),
        };
        (counts != Counts::default()).then_some(counts)
    }
}

#[derive(Debug)]
struct LiveLayer {
    experts: Vec<OnceLock<Box<Live>>>,
    /// Row `b` holds the pairs (a, b) with a < b.
    pairs: Vec<OnceLock<Box<[AtomicU64]>>>,
}

/// Counts of all experts since they were last taken. Counting takes no lock.
#[derive(Debug)]
pub(super) struct LiveCounts {
    layers: Vec<LiveLayer>,
    dirty: AtomicBool,
}

impl LiveCounts {
    pub(super) fn new(experts: impl Iterator<Item = usize>) -> Self {
        let layer = |experts| LiveLayer {
            experts: (0..experts).map(|_| OnceLock::new()).collect(),
            pairs: (0..experts).map(|_| OnceLock::new()).collect(),
        };
        Self { layers: experts.map(layer).collect(), dirty: AtomicBool::new(false) }
    }

    /// Counts one call of an expert; an expert that does not exist counts for nothing.
    pub(super) fn record(
        &self,
        (layer, expert): (u32, u32),
        (tokens, weight, nanos): (u32, f32, u64),
        now_ms: u64,
    ) {
        let Some(slot) = self.layers.get(layer as usize).and_then(|l| l.experts.get(expert as usize)) else {
            return;
        };
        let live = slot.get_or_init(|| Box::new(Live::new()));
        // A conversion from float to integer saturates; NaN becomes 0.
        let weight = (f64::from(weight) * WEIGHT_UNITS).round_ties_even() as u64;
        live.calls.fetch_add(1, Relaxed);
        live.tokens.fetch_add(tokens.into(), Relaxed);
        live.nanos.fetch_add(nanos, Relaxed);
        live.weight.fetch_add(weight, Relaxed);
        live.last_used_ms.fetch_max(now_ms, Relaxed);
        if let Some(count) = live.latency.get(bucket(nanos)) {
            count.fetch_add(1, Relaxed);
        }
        self.touch();
    }

    /// Counts every pair of the experts that one token used, unless these or the layer's are very many: pairs grow with
    /// their square.
    pub(super) fn record_together(&self, layer: u32, experts: &[u32]) {
        let counted =
            |layer: &&LiveLayer| experts.len() <= MOST_TOGETHER && layer.pairs.len() <= MOST_WITH_PAIRS;
        let Some(layer) = self.layers.get(layer as usize).filter(counted) else {
            return;
        };
        for (place, &a) in experts.iter().enumerate() {
            for &b in experts.iter().skip(place + 1) {
                let (low, high) = (a.min(b), a.max(b));
                let Some(slot) = layer.pairs.get(high as usize) else { continue };
                let row = slot.get_or_init(|| (0..high).map(|_| AtomicU64::new(0)).collect());
                // An expert does not pair with itself: row `high` ends before `high`.
                if let Some(count) = row.get(low as usize) {
                    count.fetch_add(1, Relaxed);
                }
            }
        }
        self.touch();
    }

    fn touch(&self) {
        // A plain read first: all threads write this line at once only after a flush.
        if !self.dirty.load(Relaxed) {
            self.dirty.store(true, Relaxed);
        }
    }

    /// Whether it is worth to [`take`](Self::take) the counts. What is being counted right now may be
    /// seen later.
    pub(super) fn is_dirty(&self) -> bool {
        self.dirty.load(Relaxed)
    }

    /// The counts, which stay.
    pub(super) fn read(&self) -> ModelCounts {
        self.collect(|count| count.load(Relaxed))
    }

    /// The counts of one expert, which stay.
    pub(super) fn read_expert(&self, layer: usize, expert: usize) -> Option<Counts> {
        self.layers.get(layer)?.experts.get(expert)?.get()?.collect(|count| count.load(Relaxed))
    }

    /// The counts, which start at 0 again. What is counted meanwhile is in these or in the next.
    pub(super) fn take(&self) -> ModelCounts {
        self.dirty.store(false, Relaxed);
        self.collect(|count| count.swap(0, Relaxed))
    }

    /// Puts back what was taken but could not be stored.
    pub(super) fn restore(&self, counts: &ModelCounts) {
        for (live, counts) in self.layers.iter().zip(&counts.layers) {
            for (slot, counts) in live.experts.iter().zip(&counts.experts) {
                let (Some(live), Some(counts)) = (slot.get(), counts) else { continue };
                live.calls.fetch_add(counts.calls, Relaxed);
                live.tokens.fetch_add(counts.tokens, Relaxed);
                live.nanos.fetch_add(counts.nanos, Relaxed);
                live.weight.fetch_add(counts.weight, Relaxed);
                live.last_used_ms.fetch_max(counts.last_used_ms, Relaxed);
                for &(bucket, count) in &counts.latency {
                    if let Some(place) = live.latency.get(usize::from(bucket)) {
                        place.fetch_add(count, Relaxed);
                    }
                }
            }
            for &((low, high), count) in &counts.pairs {
                let row = live.pairs.get(high as usize).and_then(OnceLock::get);
                if let Some(place) = row.and_then(|row| row.get(low as usize)) {
                    place.fetch_add(count, Relaxed);
                }
            }
        }
        self.touch();
    }

    fn collect(&self, read: impl Fn(&AtomicU64) -> u64) -> ModelCounts {
        let layers = self.layers.iter().map(|layer| {
            let experts = layer.experts.iter().map(|slot| slot.get()?.collect(&read));
            let mut pairs = Vec::new();
            for (high, row) in (0..).zip(&layer.pairs) {
                for (low, count) in (0..).zip(row.get().into_iter().flatten()) {
                    let count = read(count);
                    if count > 0 {
                        pairs.push(((low, high), count));
                    }
                }
            }
            pairs.sort_unstable();
            LayerCounts { experts: experts.collect(), pairs }
        });
        ModelCounts { layers: layers.collect() }
    }
}
