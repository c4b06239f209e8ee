//! Owns the buckets of the latency histogram.
//!
//! Eight buckets an octave from 256 ns to 2^38 ns (275 s): a bucket is at most an eighth wide, so a
//! quantile is right within ± 6 %. Shorter latencies share the first bucket, longer ones the last.

/// Shortest latency that is told apart: 2^8 ns.
const FIRST_OCTAVE: u32 = 8;
/// Octaves above it.
const OCTAVES: u32 = 30;
/// Number of buckets.
pub(super) const BUCKETS: usize = 8 * OCTAVES as usize;

/// The bucket of a latency.
pub(super) fn bucket(nanos: u64) -> usize {
    let nanos = nanos.clamp(1 << FIRST_OCTAVE, (1 << (FIRST_OCTAVE + OCTAVES)) - 1);
    let octave = nanos.ilog2();
    let eighth = (nanos >> (octave - 3)) as usize & 7;
    8 * (octave - FIRST_OCTAVE) as usize + eighth
}

/// The latency in the middle of a bucket.
pub(super) fn middle(bucket: usize) -> f64 {
    let octave = FIRST_OCTAVE as usize + bucket / 8;
    // 2^octave * (1 + (eighth + 1/2) / 8), exact in f64.
    (1_u64 << (octave - 4)) as f64 * (2 * (8 + bucket % 8) + 1) as f64
}

/// The latency that `quantile` of the counted ones do not exceed; none without any.
pub(super) fn quantile(counts: &[u64], quantile: f64) -> Option<f64> {
    // A file may hold any counts.
    let total = counts.iter().fold(0_u64, |total, count| total.saturating_add(*count));
    let rank = ((total as f64 * quantile).ceil() as u64).max(1);
    let mut below = 0_u64;
    counts
        .iter()
        .position(|&count| {
            below = below.saturating_add(count);
            below >= rank
        })
        .map(middle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_at_most_an_eighth_wide_and_in_order() {
        let mut nanos = 256_u64;
        while nanos < 1 << 38 {
            let place = bucket(nanos);
            assert!((middle(place) / nanos as f64 - 1.0).abs() <= 0.0626, "{nanos}");
            assert!(bucket(nanos + 1) == place || bucket(nanos + 1) == place + 1);
            nanos += nanos / 31;
        }
        assert_eq!((bucket(0), bucket(256), bucket(u64::MAX)), (0, 0, BUCKETS - 1));
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_values() {
        let values: Vec<u64> = (1..=1000).map(|n| n * n * 300).collect();
        let mut counts = [0; BUCKETS];
        values.iter().for_each(|&value| counts[bucket(value)] += 1);
        for percent in [1, 50, 95, 99, 100] {
            let exact = values[percent * 10 - 1] as f64;
            let found = quantile(&counts, percent as f64 / 100.0).unwrap();
            assert!((found / exact - 1.0).abs() <= 0.0626, "{percent}: {found} {exact}");
        }
        assert_eq!(quantile(&[0; BUCKETS], 0.95), None);
    }
}
