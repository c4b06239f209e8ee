//! Owns quantization of weights: to I8 and F8_E4M3 with one scale per row, to I4 with one per group. Deterministic.

mod groups;
mod rows;

use groups::QuantizeGroups;
use rows::{LargestMagnitude, QuantizeRow};

use crate::dtype::{DType, GROUP};
use crate::error::{KernelError, check_len};
use crate::isa::Isa;
use crate::operand::GroupScale;

/// Adding it to what is small beside it rounds that to an integer, ties to even, and leaves the integer in the
/// lowest bits.
const ROUNDER: f32 = 12_582_912.0;

impl Isa {
    /// Quantizes a row of weights: to I8 and F8_E4M3 with one F32 scale, to I4, two in a byte, with one BF16
    /// scale for each group of 32. Scales are little-endian.
    ///
    /// # Errors
    ///
    /// Another dtype, a row that is no whole groups for I4, an output of another length, or a weight that is NaN or
    /// infinite.
    pub fn quantize_weights(
        self,
        to: DType,
        row: &[f32],
        values: &mut [u8],
        scales: &mut [u8],
    ) -> Result<(), KernelError> {
        if !to.is_quantized() {
            return Err(KernelError::UnsupportedDType { argument: "quantized weights", dtype: to });
        }
        if to == DType::I4 && !row.len().is_multiple_of(GROUP) {
            return Err(KernelError::Group { cols: row.len() });
        }
        let scale_bytes = match to {
            DType::I4 => row.len() / GROUP * size_of::<GroupScale>(),
            _ => size_of::<f32>(),
        };
        check_len("values", to.bytes_of(row.len()), values.len())?;
        check_len("scales", scale_bytes, scales.len())?;
        let mut largest = 0.0;
        self.run(LargestMagnitude { row, largest: &mut largest });
        if !largest.is_finite() {
            return Err(KernelError::NotFinite { argument: "row" });
        }
        match to {
            DType::I4 => self.run(QuantizeGroups { row, values, scales }),
            _ => self.run(QuantizeRow { to, row, largest, values, scale: scales }),
        }
        Ok(())
    }
}
