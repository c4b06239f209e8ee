//! Owns [`TensorView`]: one tensor's bytes, borrowed from a payload.

use half::{bf16, f16};

use super::error::TensorError;
use crate::dtype::{DType, Shape};

/// One tensor, borrowed: no byte is copied.
#[derive(Debug, Clone, Copy)]
pub struct TensorView<'a> {
    pub(super) name: &'a str,
    pub(super) dtype: DType,
    pub(super) shape: &'a Shape,
    pub(super) data: &'a [u8],
}

impl<'a> TensorView<'a> {
    /// Views `data` as a tensor.
    ///
    /// # Errors
    ///
    /// [`TensorError::Size`] if the number of bytes contradicts shape and dtype.
    pub fn new(name: &'a str, dtype: DType, shape: &'a Shape, data: &'a [u8]) -> Result<Self, TensorError> {
        let expected = shape.size_bytes(dtype).unwrap_or(usize::MAX);
        if data.len() != expected {
            return Err(TensorError::Size { tensor: name.to_owned(), expected, actual: data.len() });
        }
        Ok(Self { name, dtype, shape, data })
    }

    /// Its name inside the block, such as `gate_proj.weight`.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Dimensions, outermost first.
    pub fn shape(&self) -> &'a Shape {
        self.shape
    }

    /// The bytes, little-endian, row-major, of any alignment.
    pub fn data(&self) -> &'a [u8] {
        self.data
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match self.dtype {
            DType::I4 => self.shape.dims().iter().product(),
            dtype => self.data.len() / dtype.size_bytes(),
        }
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// The bytes of each row: all dimensions but the first together.
    pub fn rows(&self) -> std::slice::ChunksExact<'a, u8> {
        let rows = self.shape.dims().first().copied().unwrap_or(1).max(1);
        // A tensor without elements has no rows; a chunk must not be empty.
        self.data.chunks_exact((self.data.len() / rows).max(1))
    }

    /// The elements widened to f32, exactly. Quantized elements are *not* multiplied by their scale.
    pub fn to_f32_vec(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.len()];
        super::convert::widen(self.dtype, self.data, &mut values);
        values
    }

    /// Element `index` widened to f32, or `None` beyond the end.
    pub fn get_f32(&self, index: usize) -> Option<f32> {
        if self.dtype == DType::I4 {
            let byte = *self.data.get(index / 2).filter(|_| index < self.len())?;
            return Some(super::convert::i4_to_f32(byte, index % 2));
        }
        let size = self.dtype.size_bytes();
        let bytes = self.data.get(index.checked_mul(size)?..)?.get(..size)?;
        Some(match (self.dtype, bytes) {
            (DType::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
            (DType::BF16, &[a, b]) => bf16::from_le_bytes([a, b]).to_f32(),
            (DType::F16, &[a, b]) => f16::from_le_bytes([a, b]).to_f32(),
            (DType::I8, &[a]) => f32::from(i8::from_le_bytes([a])),
            (DType::F8E4M3, &[a]) => super::convert::f8e4m3_to_f32(a),
            _ => return None,
        })
    }
}
