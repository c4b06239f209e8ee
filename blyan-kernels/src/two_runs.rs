//! Owns in which order rows of weights are read in two runs.

/// Bytes of rows that two runs share: memory gives runs that are near each other faster. There, 192 to 768 KiB were the fastest.
const RUNS_BYTES: usize = 384 << 10;

/// Rows that two runs share are a multiple of this, so that no tile of four lies across two parts.
const ROWS_OF_RUNS: usize = 8;

/// The order of two runs, see [`Simd::reads_two_runs`](super::simd::Simd::reads_two_runs). Rows are taken in parts, and of a
/// part one of the first run, one of the second, and so on. The first run has two or three rows more than the second, which
/// come last: so runs of rows that are half a page, or a quarter, do not come to the end of a page at the same time.
#[derive(Debug, Clone, Copy)]
pub(super) struct TwoRuns {
    rows: usize,
    /// Rows of a part.
    part: usize,
    /// The first row of the part that was asked for last, which is its first place, too: finding it takes a division.
    start: usize,
    len: usize,
    /// Rows of its second run.
    second_len: usize,
}

impl TwoRuns {
    pub(super) fn new(rows: usize, row_bytes: usize) -> Self {
        let part = (RUNS_BYTES / row_bytes.max(1) / ROWS_OF_RUNS).max(1) * ROWS_OF_RUNS;
        Self { rows, part, start: 0, len: 0, second_len: 0 }
    }

    /// Goes to the part of a place.
    #[inline(always)]
    fn seek(&mut self, place: usize) {
        if place.wrapping_sub(self.start) >= self.len {
            self.start = place - place % self.part;
            self.len = self.part.min(self.rows - self.start);
            self.second_len = (self.len / 2).saturating_sub(1);
        }
    }

    /// The row at a place.
    #[inline(always)]
    pub(super) fn row(&mut self, place: usize) -> usize {
        self.seek(place);
        let place = place - self.start;
        let row = if place >= 2 * self.second_len {
            place - self.second_len
        } else if place.is_multiple_of(2) {
            place / 2
        } else {
            self.len - self.second_len + place / 2
        };
        self.start + row
    }

    /// The first row of each run at some places, if these hold as many rows of each.
    #[inline(always)]
    pub(super) fn side_by_side(&mut self, place: usize, places: usize) -> Option<(usize, usize)> {
        self.seek(place);
        let at = place - self.start;
        let in_turns = at.is_multiple_of(2) && places.is_multiple_of(2) && at + places <= 2 * self.second_len;
        let first = self.start + at / 2;
        in_turns.then_some((first, first + self.len - self.second_len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(rows: usize, row_bytes: usize) -> Vec<usize> {
        let mut runs = TwoRuns::new(rows, row_bytes);
        (0..rows).map(|place| runs.row(place)).collect()
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

    #[test]
    fn rows_side_by_side_are_those_of_their_places() {
        for (rows, row_bytes) in [(13, 48 << 10), (192, 2048), (1000, 2048), (1000, 14336), (1000, 64)] {
            let order = order(rows, row_bytes);
            let mut runs = TwoRuns::new(rows, row_bytes);
            let mut found = 0;
            // Not in ascending order, which is what no kernel needs and may be asked all the same.
            for place in (0..rows).rev() {
                for places in (1..8).filter(|places| place + places <= rows) {
                    let Some((a, b)) = runs.side_by_side(place, places) else { continue };
                    let expected = (0..places).map(|i| if i % 2 == 0 { a + i / 2 } else { b + i / 2 });
                    assert!(order[place..place + places].iter().copied().eq(expected));
                    found += 1;
                }
            }
            assert!(found > 0);
        }
    }
}
