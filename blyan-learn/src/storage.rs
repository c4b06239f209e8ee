//! Owns reading candle's CPU storage as slices, and matrix products on parts of it without copies.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, Layout, Result, Shape, Storage, Tensor, bail};

/// The elements of a contiguous tensor of F32.
pub(crate) fn floats<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        _ => bail!("expected a contiguous tensor of F32"),
    }
}

/// Looks at a tensor's storage; the layout given is contiguous.
pub(crate) fn with_storage<R>(
    tensor: &Tensor,
    f: impl FnOnce(&CpuStorage, &Layout) -> Result<R>,
) -> Result<R> {
    let tensor = tensor.detach().contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => f(storage, layout),
        _ => bail!("training runs on the CPU"),
    }
}

/// Looks at a tensor's elements.
pub(crate) fn with_floats<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    with_storage(tensor, |storage, layout| f(floats(storage, layout)?))
}

/// A matrix somewhere in a storage.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    storage: &'a CpuStorage,
    start: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of neighbouring elements, the first at `start`.
    pub(crate) fn new(storage: &'a CpuStorage, start: usize, row_stride: usize) -> Self {
        Self { storage, start, row_stride, col_stride: 1 }
    }

    pub(crate) fn t(self) -> Self {
        Self { row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    fn layout(&self, rows: usize, cols: usize) -> Layout {
        Layout::new(Shape::from((rows, cols)), vec![self.row_stride, self.col_stride], self.start)
    }
}

/// (m, k) × (k, n)
pub(crate) fn product(a: Matrix<'_>, b: Matrix<'_>, m: usize, n: usize, k: usize) -> Result<Vec<f32>> {
    into_floats(a.storage.matmul(b.storage, (1, m, n, k), &a.layout(m, k), &b.layout(k, n))?)
}

pub(crate) fn into_floats(storage: CpuStorage) -> Result<Vec<f32>> {
    match storage {
        CpuStorage::F32(values) => Ok(values),
        _ => bail!("expected F32"),
    }
}
