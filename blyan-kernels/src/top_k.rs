//! Owns [`top_k`]: which experts a router picks.

use std::cmp::Ordering;

/// Writes the `k` best of `scores` as `(index, score)`, best first, into `out`; all, if there are fewer.
///
/// Equal scores (`-0.0` and `0.0` are equal) go to the lowest index; NaN ranks below everything.
pub fn top_k(scores: &[f32], k: usize, out: &mut Vec<(u32, f32)>) {
    out.clear();
    out.extend((0u32..).zip(scores.iter().copied()));
    if k == 0 {
        out.clear();
    } else if k < out.len() {
        out.select_nth_unstable_by(k - 1, best_first);
        out.truncate(k);
    }
    // Indices are unique, so no two entries are equal and an unstable sort has one result.
    out.sort_unstable_by(best_first);
}

fn best_first(a: &(u32, f32), b: &(u32, f32)) -> Ordering {
    let by_score = match (a.1.is_nan(), b.1.is_nan()) {
        (false, false) => b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal),
        (a_is_nan, b_is_nan) => a_is_nan.cmp(&b_is_nan),
    };
    by_score.then(a.0.cmp(&b.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn indices(scores: &[f32], k: usize) -> Vec<u32> {
        let mut out = vec![(9, 9.0)];
        top_k(scores, k, &mut out);
        out.iter().map(|&(index, _)| index).collect()
    }

    #[test]
    fn ties_go_to_the_lowest_index_and_nan_comes_last() {
        assert_eq!(indices(&[1.0, 3.0, 3.0, 2.0], 2), [1, 2]);
        assert_eq!(indices(&[-0.0, 0.0, -0.0], 3), [0, 1, 2]);
        assert_eq!(indices(&[f32::NAN, f32::NEG_INFINITY, -f32::NAN, 1.0], 4), [3, 1, 0, 2]);
        assert_eq!(indices(&[5.0, 6.0], 7), [1, 0]);
        assert_eq!(indices(&[5.0], 0), [0u32; 0]);
        assert_eq!(indices(&[], 3), [0u32; 0]);
    }

    proptest! {
        #[test]
        fn equals_repeated_arg_max(scores in proptest::collection::vec(-3i8..3, 0..40), k in 0usize..50) {
            let scores: Vec<f32> = scores.into_iter().map(f32::from).collect();
            let mut left: Vec<(usize, f32)> = scores.iter().copied().enumerate().collect();
            let mut expected = Vec::new();
            while expected.len() < k && !left.is_empty() {
                let mut best = 0;
                for i in 1..left.len() {
                    if left[i].1 > left[best].1 {
                        best = i;
                    }
                }
                expected.push(left.remove(best).0 as u32);
            }
            prop_assert_eq!(indices(&scores, k), expected);
        }
    }
}
