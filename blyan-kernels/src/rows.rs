//! Owns [`Rows`], a matrix that lies in memory as vector loads like it.

use std::ops::Range;

pub(super) const CACHE_LINE_BYTES: usize = 64;

/// Row-major numbers. Each row begins with a cache line, so that no vector lies across two, and takes an
/// odd number of them: rows a power of two apart would share a few sets of the first-level cache, and a
/// tile that reads several rows at once would push them out of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Rows<T> {
    buffer: Vec<T>,
    /// Of the first row in the buffer.
    start: usize,
    rows: usize,
    cols: usize,
}

impl<T: Copy + Default> Rows<T> {
    /// Takes on a shape, with any numbers of before. Memory of a larger one stays as it is, so that no shape to come
    /// has it cleared again.
    pub(super) fn resize(&mut self, rows: usize, cols: usize) {
        let line = CACHE_LINE_BYTES / size_of::<T>();
        (self.rows, self.cols) = (rows, cols);
        let len = rows * self.stride() + line;
        if self.buffer.len() < len {
            self.buffer.resize(len, T::default());
        }
        // A clone may lie at another address, which costs speed alone.
        self.start = self.buffer.as_ptr().align_offset(CACHE_LINE_BYTES).min(line);
    }

    fn stride(&self) -> usize {
        let line = CACHE_LINE_BYTES / size_of::<T>();
        (self.cols.div_ceil(line) | 1) * line
    }

    fn place(&self, row: usize) -> Range<usize> {
        let start = self.start + row * self.stride();
        start..start + self.cols
    }

    pub(super) fn len(&self) -> usize {
        self.rows
    }

    pub(super) fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        self.buffer.capacity() * size_of::<T>()
    }

    pub(super) fn row(&self, row: usize) -> &[T] {
        &self.buffer[self.place(row)]
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = &[T]> {
        (0..self.rows).map(|row| self.row(row))
    }

    pub(super) fn rows_mut(&mut self) -> impl Iterator<Item = &mut [T]> {
        let (start, cols, stride) = (self.start, self.cols, self.stride());
        self.buffer[start..].chunks_exact_mut(stride).take(self.rows).map(move |row| &mut row[..cols])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_begin_with_cache_lines_an_odd_number_of_them_apart() {
        let mut rows = Rows::<i16>::default();
        for (count, cols) in [(3, 2048), (5, 33), (2, 32), (1, 1), (0, 7), (4, 64)] {
            rows.resize(count, cols);
            rows.rows_mut().enumerate().for_each(|(i, row)| row.fill(i as i16));
            assert_eq!((rows.len(), rows.cols()), (count, cols));
            assert_eq!(rows.rows().count(), count);
            for (i, row) in rows.rows().enumerate() {
                assert_eq!(row, vec![i as i16; cols]);
                assert_eq!(row.as_ptr().addr() % CACHE_LINE_BYTES, 0);
            }
            if count > 1 {
                let apart = rows.row(1).as_ptr().addr() - rows.row(0).as_ptr().addr();
                assert_eq!(apart / CACHE_LINE_BYTES % 2, 1);
            }
        }
    }
}
