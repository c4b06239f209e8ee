//! Owns where matrices of F8_E4M3 hold normal numbers alone, which take fewer steps to widen.

use super::isa::{Isa, Kernel};
use super::operand::Weights;
use super::simd::Simd;
use crate::dtype::DType;

/// Neighbours in a row that are found out about together.
pub(super) const STRETCH: usize = 128;

/// Which stretches of 128 neighbours in the rows of an `F8_E4M3` matrix hold normal numbers alone: no zero, no subnormal
/// number, no NaN. Their products take fewer steps on some instruction sets, with the same bits; each row has a bit for a
/// stretch, in whole bytes.
///
/// Made by [`Isa::normals`].
#[derive(Debug, Clone)]
pub struct Normals {
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// A bit for each whole stretch, the first in the lowest; each row begins a byte. None if nothing is known.
    bits: Vec<u8>,
}

impl Normals {
    fn row_bytes(&self) -> usize {
        (self.cols / STRETCH).div_ceil(8)
    }

    /// The bits of all rows, or none.
    pub(super) fn bits(&self) -> &[u8] {
        &self.bits
    }

    /// The bits of a row, or none.
    pub(super) fn row(&self, row: usize) -> &[u8] {
        let row_bytes = self.row_bytes();
        self.bits.get(row * row_bytes..(row + 1) * row_bytes).unwrap_or_default()
    }
}

impl Isa {
    /// Finds the normal numbers of a matrix, for [`Weights::with_normals`]: reads it once. Nothing where that is of no use:
    /// of other types than `F8_E4M3`, or on an instruction set without a shorter way.
    pub fn normals(self, weights: &Weights<'_>) -> Normals {
        let mut found = Normals { rows: weights.rows(), cols: weights.cols(), bits: Vec::new() };
        if weights.dtype() == DType::F8E4M3 {
            self.run(FindNormals { weights, found: &mut found });
        }
        found
    }
}

struct FindNormals<'a> {
    weights: &'a Weights<'a>,
    found: &'a mut Normals,
}

impl Kernel for FindNormals<'_> {
    /// The plain loops have one way for all numbers.
    fn scalar(self) {}

    #[inline(always)]
    fn simd<S: Simd>(self, _: S) {
        if !S::F8_NORMALS {
            return;
        }
        let row_bytes = self.found.row_bytes();
        let mut bits = vec![0; self.found.rows * row_bytes];
        for (row, bits) in bits.chunks_exact_mut(row_bytes.max(1)).enumerate() {
            for (at, stretch) in self.weights.row(row).as_chunks::<STRETCH>().0.iter().enumerate() {
                bits[at / 8] |= u8::from(is_normal(stretch)) << (at % 8);
            }
        }
        self.found.bits = bits;
    }
}

/// Whether no exponent is 0 and nothing is NaN, which is all ones but the sign.
#[inline(always)]
fn is_normal(stretch: &[u8; STRETCH]) -> bool {
    const LEAST_NORMAL: u8 = 1 << 3;
    const NAN: u8 = 0x7f;
    let mut others = 0;
    for &bits in stretch {
        others |= u8::from((bits & NAN).wrapping_sub(LEAST_NORMAL) >= NAN - LEAST_NORMAL);
    }
    others == 0
}
