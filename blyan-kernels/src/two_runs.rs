//! Owns in which order rows of weights are read in two runs.

/// Bytes of rows that two runs share: memory gives runs that are near each other faster. There, 192 to 768 KiB were the fastest.
const RUNS_BYTES: usize = 384 << 10;

/// Rows that two runs share are a multiple of this, so that no tile of four lies across two parts.
const ROWS_OF_RUNS: usize = 8;

/// The order of two runs, see [`Simd::reads_two_runs`](super::simd::Simd::reads_two_runs). Rows are taken in parts, and of a
/// part one of the first run, one of the second, and so on. The first run has two or three rows more than the second, which
/// come last: so runs of rows that are half a page, or a quarter, do not come to the end of a page at the same time.
pub(super) struct TwoRuns {
    /// The part's first row, which is its first place, too.
    pub(super) start: usize,
    len: usize,
    /// Rows of the second run.
    pub(super) second_len: usize,
}

impl TwoRuns {
    /// Rows that two runs share.
    pub(super) fn rows_of_part(row_bytes: usize) -> usize {
        (RUNS_BYTES / row_bytes.max(1) / ROWS_OF_RUNS).max(1) * ROWS_OF_RUNS
    }

    /// The part that a place is in.
    #[inline(always)]
    pub(super) fn at(place: usize, rows: usize, part: usize) -> Self {
        let start = place - place % part;
        let len = part.min(rows - start);
        Self { start, len, second_len: (len / 2).saturating_sub(1) }
    }

    /// The row at a place of the part.
    #[inline(always)]
    pub(super) fn row(&self, place: usize) -> usize {
        let row = if place >= 2 * self.second_len {
            place - self.second_len
        } else if place.is_multiple_of(2) {
            place / 2
        } else {
            self.len - self.second_len + place / 2
        };
        self.start + row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(rows: usize, row_bytes: usize) -> Vec<usize> {
        let row = |place| {
            let runs = TwoRuns::at(place, rows, TwoRuns::rows_of_part(row_bytes));
            runs.row(place - runs.start)
        };
        (0..rows).map(row).collect()
    }

    #[test]
    fn two_runs_have_every_row_once() {
        for row_bytes in [0, 1, 64, 2048, 2816, 4096, 14336, 1 << 20] {
            for rows in [0, 1, 2, 3, 4, 7, 8, 9, 10, 23, 96, 191, 192, 193, 1000] {
                let mut order = order(rows, row_bytes);
                order.sort_unstable();
                assert!(order.into_iter().eq(0..rows), "{rows} rows of {row_bytes} bytes");
            }
        }
    }

    #[test]
    fn two_runs_are_read_in_turns_and_ascend() {
        assert_eq!(order(8, 48 << 10), [0, 5, 1, 6, 2, 7, 3, 4]);
        // A part has eight rows; those that are left are one of their own.
        assert_eq!(order(13, 48 << 10), [0, 5, 1, 6, 2, 7, 3, 4, 8, 12, 9, 10, 11]);
    }
}
