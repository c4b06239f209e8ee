//! Owns [`MatMut`]: a mutable matrix view that splits by rows and by columns, so that threads can
//! fill disjoint parts of one output.

#![expect(unsafe_code, reason = "columns of a row-major matrix are disjoint, but no slice can say so")]

use std::marker::PhantomData;

use super::error::{KernelError, check_len};
use crate::dtype::{DType, Shape};

/// A mutable view of `(rows, cols)` f32, row-major, each row `stride` elements after the last.
#[derive(Debug)]
pub struct MatMut<'a> {
    // Invariant: for every row < rows, the `cols` elements at `start + row × stride` lie within the
    // slice that was borrowed for 'a, and no other live view covers any of them.
    start: *mut f32,
    rows: usize,
    cols: usize,
    stride: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: a view is an exclusive borrow of its elements (the invariant), as `&mut [f32]` is, which
// is Send and Sync.
unsafe impl Send for MatMut<'_> {}
// SAFETY: as above; `&MatMut` gives no access to the elements at all.
unsafe impl Sync for MatMut<'_> {}

impl<'a> MatMut<'a> {
    /// Views a slice as `(rows, cols)`.
    ///
    /// # Errors
    ///
    /// A slice that does not hold exactly `rows × cols` elements.
    pub fn from_slice(data: &'a mut [f32], rows: usize, cols: usize) -> Result<Self, KernelError> {
        let len = Shape::new([rows, cols]).size_bytes(DType::F32)? / DType::F32.size_bytes();
        check_len("matrix data", len, data.len())?;
        Ok(Self { start: data.as_mut_ptr(), rows, cols, stride: cols, borrow: PhantomData })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Elements per row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The elements of one row, or `None` past the end.
    pub fn row_mut(&mut self, row: usize) -> Option<&mut [f32]> {
        if row >= self.rows {
            return None;
        }
        // SAFETY: row < rows, so by the invariant the elements lie in the borrowed slice and belong
        // to this view alone; `&mut self` keeps them from being borrowed twice.
        Some(unsafe { std::slice::from_raw_parts_mut(self.start.wrapping_add(row * self.stride), self.cols) })
    }

    /// Writes one element.
    pub(super) fn set(&mut self, row: usize, col: usize, value: f32) {
        if let Some(slot) = self.row_mut(row).and_then(|row| row.get_mut(col)) {
            *slot = value;
        }
    }

    /// The same view for a shorter time.
    pub fn reborrow(&mut self) -> MatMut<'_> {
        MatMut {
            start: self.start,
            rows: self.rows,
            cols: self.cols,
            stride: self.stride,
            borrow: PhantomData,
        }
    }

    /// Splits into rows `0..at` and `at..`.
    ///
    /// # Errors
    ///
    /// `at` past the last row.
    pub fn split_at_row(self, at: usize) -> Result<(MatMut<'a>, MatMut<'a>), KernelError> {
        let below = self.rows.checked_sub(at).ok_or(KernelError::OutOfRange {
            argument: "row to split at",
            index: at,
            len: self.rows,
        })?;
        // No row of either half is shared. The sum wraps only where `below` is 0 and nothing is read.
        let start = self.start.wrapping_add(at * self.stride);
        Ok((MatMut { rows: at, ..self }, MatMut { start, rows: below, ..self }))
    }

    /// Splits into columns `0..at` and `at..` of every row.
    ///
    /// # Errors
    ///
    /// `at` past the last column.
    pub fn split_at_col(self, at: usize) -> Result<(MatMut<'a>, MatMut<'a>), KernelError> {
        let right = self.cols.checked_sub(at).ok_or(KernelError::OutOfRange {
            argument: "column to split at",
            index: at,
            len: self.cols,
        })?;
        // Within each row the halves share no element, and rows are `stride ≥ cols` apart.
        let start = self.start.wrapping_add(at);
        Ok((MatMut { cols: at, ..self }, MatMut { start, cols: right, ..self }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_disjoint_and_cover_the_whole() {
        let mut data = vec![0.0; 5 * 7];
        let whole = MatMut::from_slice(&mut data, 5, 7).unwrap();
        let (top, bottom) = whole.split_at_row(2).unwrap();
        let (a, b) = top.split_at_col(3).unwrap();
        let (c, d) = bottom.split_at_col(7).unwrap();
        std::thread::scope(|scope| {
            for (part, mark) in [(a, 1.0), (b, 2.0), (c, 3.0), (d, 4.0)] {
                scope.spawn(move || {
                    let mut part = part;
                    for row in 0..part.rows() {
                        part.row_mut(row).unwrap().iter_mut().for_each(|x| *x += mark);
                    }
                });
            }
        });
        for (i, &x) in data.iter().enumerate() {
            let expected = match (i / 7, i % 7) {
                (0..2, 0..3) => 1.0,
                (0..2, _) => 2.0,
                _ => 3.0,
            };
            assert_eq!(x, expected, "element {i}");
        }
    }

    #[test]
    fn edges_are_refused_or_empty() {
        let mut data = vec![0.0; 6];
        assert!(MatMut::from_slice(&mut data, 2, 4).is_err());
        assert!(MatMut::from_slice(&mut data, usize::MAX, 2).is_err());
        let mut whole = MatMut::from_slice(&mut data, 2, 3).unwrap();
        assert!(whole.row_mut(2).is_none());
        assert!(whole.reborrow().split_at_row(3).is_err());
        assert!(whole.reborrow().split_at_col(4).is_err());
        let (all, mut none) = whole.split_at_row(2).unwrap();
        assert!(none.row_mut(0).is_none());
        let (_, mut none) = all.split_at_col(3).unwrap();
        assert_eq!(none.row_mut(1).unwrap().len(), 0);
        let mut empty = MatMut::from_slice(&mut [], 0, 9).unwrap();
        assert!(empty.row_mut(0).is_none());
    }
}
