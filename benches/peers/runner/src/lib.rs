//! What the programs share: token ids that every peer makes alike, and what the kernel says of memory.

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
