//! Owns matrix products on parts of slices, without copies: the one place that hands pointers to `gemm`.

#![expect(unsafe_code, reason = "gemm takes pointers")]

use std::mem::MaybeUninit;

use candle_core::{Result, bail};
use rayon::prelude::*;

/// Multiply-adds below which one thread computes a product.
const SHARED_FROM: usize = 1 << 18;

/// Rows of a thread are a multiple of this.
const ROWS: usize = 24;

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
    sizes: (usize, usize, usize),
    by: By,
) -> Result<Vec<f32>> {
    let (m, n, _) = sizes;
    // Zeros would take one thread a good part of the time that the product takes all of them.
    let mut out = Vec::with_capacity(m * n);
    run(&mut out.spare_capacity_mut()[..m * n], false, a, b, sizes, by)?;
    // SAFETY: a product that is not added to what is there has written every element.
    unsafe { out.set_len(m * n) };
    Ok(out)
}

/// (m, k) × (k, n) into `out`, row-major.
pub(crate) fn write_product(
    out: &mut [f32],
    a: Matrix<'_>,
    b: Matrix<'_>,
    sizes: (usize, usize, usize),
    by: By,
) -> Result<()> {
    run(as_uninit(out), false, a, b, sizes, by)
}

/// Adds (m, k) × (k, n) to `sum`, row-major.
pub(crate) fn add_product(
    sum: &mut [f32],
    a: Matrix<'_>,
    b: Matrix<'_>,
    sizes: (usize, usize, usize),
    by: By,
) -> Result<()> {
    run(as_uninit(sum), true, a, b, sizes, by)
}

fn as_uninit(out: &mut [f32]) -> &mut [MaybeUninit<f32>] {
    // SAFETY: the layout is the same, and nothing here writes anything but numbers.
    unsafe { &mut *(std::ptr::from_mut(out) as *mut [MaybeUninit<f32>]) }
}

/// Writes every element of `out`, or adds to it if `add`, in which case all are there already.
fn run(
    out: &mut [MaybeUninit<f32>],
    add: bool,
    a: Matrix<'_>,
    b: Matrix<'_>,
    (m, n, k): (usize, usize, usize),
    by: By,
) -> Result<()> {
    let fits = m.checked_mul(n).is_some_and(|len| len == out.len());
    if !(fits && a.holds(m, k) && b.holds(k, n)) {
        bail!("a product of ({m}, {k}) and ({k}, {n}) leaves its slices");
    }
    if m == 0 || n == 0 {
        return Ok(());
    }
    if k == 0 {
        if !add {
            out.fill(MaybeUninit::new(0.0));
        }
        return Ok(());
    }
    // Rows are shared out here: gemm's own threads wait while one of them arranges an operand.
    let threads = match by {
        By::Pool if m * n * k >= SHARED_FROM => rayon::current_num_threads(),
        By::Pool | By::Caller => 1,
    };
    let rows = m.div_ceil(threads).next_multiple_of(ROWS);
    let part = |(index, out): (usize, &mut [MaybeUninit<f32>])| {
        let a = Matrix { data: &a.data[index * rows * a.row_stride..], ..a };
        // SAFETY: both operands hold all of the product, so they hold these rows of it; what is added to is there.
        unsafe { multiply(out, add, a, b, (out.len() / n, n, k)) };
    };
    if rows >= m {
        part((0, out));
    } else {
        out.par_chunks_mut(rows * n).enumerate().for_each(part);
    }
    Ok(())
}

/// One thread's part of a product.
///
/// # Safety
///
/// `out` has m × n elements, which are numbers if they are added to; the operands hold (m, k) and (k, n), none of
/// them 0.
unsafe fn multiply(
    out: &mut [MaybeUninit<f32>],
    add: bool,
    a: Matrix<'_>,
    b: Matrix<'_>,
    (m, n, k): (usize, usize, usize),
) {
    // SAFETY: the caller's; strides come from slice lengths, which fit isize.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr().cast::<f32>(),
            1,
            n as isize,
            add,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            if add { 1.0 } else { 0.0 },
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_those_of_plain_loops_and_stay_in_their_slices() {
        let data: Vec<f32> = (0..20_000).map(|i| (i * 7 % 23) as f32 - 11.0).collect();
        // The last ones are shared out among threads, the last thread having fewer rows than the others, or none.
        for (m, n, k) in [(1, 1, 1), (3, 5, 7), (8, 6, 4), (7, 0, 2), (5, 4, 0), (211, 40, 37), (20, 150, 99)]
        {
            let (stride_a, stride_b) = (k + 4, k + 9);
            let (a, b) = (Matrix::new(&data[3..], stride_a), Matrix::new(&data[50..], stride_b).t());
            let mut sum = vec![2.0; m * n];
            add_product(&mut sum, a, b, (m, n, k), By::Pool).unwrap();
            let plain = product(a, b, (m, n, k), By::Pool).unwrap();
            let mut written = vec![f32::NAN; m * n];
            write_product(&mut written, a, b, (m, n, k), By::Caller).unwrap();
            for row in 0..m {
                for col in 0..n {
                    let exact: f32 =
                        (0..k).map(|i| data[3 + row * stride_a + i] * data[50 + col * stride_b + i]).sum();
                    assert_eq!(plain[row * n + col], exact);
                    assert_eq!(written[row * n + col], exact);
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
