//! Owns matrix products on parts of slices, without copies: the one place that hands pointers to `gemm`.

#![expect(unsafe_code, reason = "gemm takes pointers")]

use candle_core::{Result, bail};

/// A matrix somewhere in a slice.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of neighbouring elements, the first at the beginning of `data`.
    pub(crate) fn new(data: &'a [f32], row_stride: usize) -> Self {
        Self { data, row_stride, col_stride: 1 }
    }

    pub(crate) fn t(self) -> Self {
        Self { row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    /// Whether the last element of so many rows and columns lies in the slice.
    fn holds(&self, rows: usize, cols: usize) -> bool {
        if rows == 0 || cols == 0 {
            return true;
        }
        let last = (rows - 1).checked_mul(self.row_stride).zip((cols - 1).checked_mul(self.col_stride));
        last.and_then(|(row, col)| row.checked_add(col)).is_some_and(|last| last < self.data.len())
    }
}

/// Who computes a product.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// The threads of the current pool.
    Pool,
    /// The caller alone, being one of many.
    Caller,
}

/// (m, k) × (k, n), row-major.
pub(crate) fn product(
    a: Matrix<'_>,
    b: Matrix<'_>,
    (m, n, k): (usize, usize, usize),
    by: By,
) -> Result<Vec<f32>> {
    let mut out = vec![0.0; m * n];
    run(&mut out, 0.0, a, b, (m, n, k), by)?;
    Ok(out)
}

/// Adds (m, k) × (k, n) to `sum`, row-major.
pub(crate) fn add_product(
    sum: &mut [f32],
    a: Matrix<'_>,
    b: Matrix<'_>,
    (m, n, k): (usize, usize, usize),
    by: By,
) -> Result<()> {
    run(sum, 1.0, a, b, (m, n, k), by)
}

fn run(
    out: &mut [f32],
    keep: f32,
    a: Matrix<'_>,
    b: Matrix<'_>,
    (m, n, k): (usize, usize, usize),
    by: By,
) -> Result<()> {
    let fits = m.checked_mul(n).is_some_and(|len| len == out.len());
    if !(fits && a.holds(m, k) && b.holds(k, n)) {
        bail!("a product of ({m}, {k}) and ({k}, {n}) leaves its slices");
    }
    if m == 0 || n == 0 || k == 0 {
        // `out` is zeros, or keeps what it has.
        return Ok(());
    }
    let parallelism = match (by, rayon::current_num_threads()) {
        (By::Pool, threads @ 2..) => gemm::Parallelism::Rayon(threads),
        _ => gemm::Parallelism::None,
    };
    // SAFETY: `out` has m × n elements, and the last of each operand was just checked to lie in its slice;
    // strides come from slice lengths, which fit isize.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            keep != 0.0,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            keep,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_those_of_plain_loops_and_stay_in_their_slices() {
        let data: Vec<f32> = (0..400).map(|i| (i * 7 % 23) as f32 - 11.0).collect();
        for (m, n, k) in [(1, 1, 1), (3, 5, 7), (8, 6, 4), (7, 0, 2), (5, 4, 0)] {
            let (a, b) = (Matrix::new(&data[3..], 11), Matrix::new(&data[50..], 13).t());
            let mut sum = vec![2.0; m * n];
            add_product(&mut sum, a, b, (m, n, k), By::Caller).unwrap();
            let plain = product(a, b, (m, n, k), By::Pool).unwrap();
            for row in 0..m {
                for col in 0..n {
                    let exact: f32 = (0..k).map(|i| data[3 + row * 11 + i] * data[50 + col * 13 + i]).sum();
                    assert_eq!(plain[row * n + col], exact);
                    assert_eq!(sum[row * n + col], exact + 2.0);
                }
            }
        }
        let small = Matrix::new(&data[..10], 5);
        assert!(product(small, small, (2, 5, 5), By::Pool).is_err());
        assert!(product(small, small.t(), (2, 2, 5), By::Pool).is_ok());
        assert!(add_product(&mut [0.0; 3], small, small.t(), (2, 2, 5), By::Pool).is_err());
    }
}
