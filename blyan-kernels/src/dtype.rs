//! Owns element types and shapes, with byte arithmetic that cannot overflow.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Element type of a tensor, under safetensors' names; I4 alone has none there.
///
/// Not `non_exhaustive`: a further one needs arithmetic of its own, so whoever matches them has to decide about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// bfloat16: the upper half of a binary32.
    BF16,
    /// IEEE 754 binary16.
    F16,
    /// 8-bit float with 4 exponent and 3 mantissa bits, no infinities (OCP E4M3FN).
    #[serde(rename = "F8_E4M3")]
    F8E4M3,
    /// Signed 8-bit integer.
    I8,
    /// Signed 4-bit integer, stored plus 8; two in a byte, the first in the low half. Each
    /// [`GROUP`] of a row share a scale.
    I4,
}

/// Elements of [`DType::I4`] that share a scale.
pub const GROUP: usize = 32;

impl DType {
    /// Every supported element type.
    pub const ALL: [Self; 6] = [Self::F32, Self::BF16, Self::F16, Self::F8E4M3, Self::I8, Self::I4];

    /// Bytes per element; 1 for I4, of which a byte holds two: see [`Self::bytes_of`].
    pub const fn size_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::BF16 | Self::F16 => 2,
            Self::F8E4M3 | Self::I8 | Self::I4 => 1,
        }
    }

    /// Bytes of that many elements, or the largest number if there is none.
    pub const fn bytes_of(self, elements: usize) -> usize {
        match self {
            Self::I4 => elements.div_ceil(2),
            _ => elements.saturating_mul(self.size_bytes()),
        }
    }

    /// The name that safetensors headers use; I4 is stored there as I32, eight in a word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::BF16 => "BF16",
            Self::F16 => "F16",
            Self::F8E4M3 => "F8_E4M3",
            Self::I8 => "I8",
            Self::I4 => "I4",
        }
    }

    /// Whether values of this type need a `*_scale` tensor to mean anything.
    pub const fn is_quantized(self) -> bool {
        matches!(self, Self::F8E4M3 | Self::I8 | Self::I4)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A dtype name that is not supported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unsupported dtype {name:?}: expected F32, BF16, F16, F8_E4M3 (fp8), I8 (int8) or I4 (int4)")]
pub struct UnknownDType {
    /// The name as given.
    pub name: String,
}

impl FromStr for DType {
    type Err = UnknownDType;

    fn from_str(name: &str) -> Result<Self, UnknownDType> {
        Self::ALL
            .into_iter()
            .find(|dtype| dtype.name() == name)
            .ok_or_else(|| UnknownDType { name: name.chars().take(80).collect() })
    }
}

/// Dimensions of a tensor, outermost first, row-major.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Shape(Vec<usize>);

/// A shape whose size in bytes does not fit this machine's address space.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("shape {dims:?} of {dtype} overflows the address space")]
pub struct ShapeOverflow {
    /// The dimensions as given.
    pub dims: Vec<usize>,
    /// The element type as given.
    pub dtype: DType,
}

impl Shape {
    /// Wraps dimensions, outermost first.
    pub fn new(dims: impl Into<Vec<usize>>) -> Self {
        Self(dims.into())
    }

    /// The dimensions, outermost first.
    pub fn dims(&self) -> &[usize] {
        &self.0
    }

    /// Bytes of a dense tensor of this shape.
    ///
    /// # Errors
    ///
    /// [`ShapeOverflow`] if the product does not fit `isize`, the largest object a process can map.
    pub fn size_bytes(&self, dtype: DType) -> Result<usize, ShapeOverflow> {
        self.0
            .iter()
            .try_fold(dtype.size_bytes(), |bytes, &dim| bytes.checked_mul(dim))
            .map(|bytes| if dtype == DType::I4 { dtype.bytes_of(bytes) } else { bytes })
            .filter(|&bytes| isize::try_from(bytes).is_ok())
            .ok_or_else(|| ShapeOverflow { dims: self.0.clone(), dtype })
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_checked() {
        assert_eq!(Shape::new([3, 5]).size_bytes(DType::BF16), Ok(30));
        assert_eq!(Shape::new([]).size_bytes(DType::F32), Ok(4));
        assert_eq!(Shape::new([0, usize::MAX]).size_bytes(DType::I8), Ok(0));
        assert_eq!(Shape::new([3, 32]).size_bytes(DType::I4), Ok(48));
        assert_eq!(DType::I4.bytes_of(5), 3);
        assert_eq!(DType::F32.bytes_of(usize::MAX), usize::MAX);
        assert!(Shape::new([usize::MAX, 2]).size_bytes(DType::I4).is_err());
        assert!(Shape::new([usize::MAX, 2]).size_bytes(DType::I8).is_err());
        assert!(Shape::new([usize::MAX]).size_bytes(DType::I8).is_err());
    }

    #[test]
    fn names_round_trip() {
        for dtype in DType::ALL {
            assert_eq!(dtype.name().parse::<DType>(), Ok(dtype));
        }
        assert!("I64".parse::<DType>().is_err());
    }
}
