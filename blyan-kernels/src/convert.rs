//! Owns conversions between element types: activations to 16 bits for `I8` weights and to 8 bits for `I4`, cache rows
//! to F16, weight rows to f32.

use super::error::{KernelError, check_len};
use super::isa::{Isa, Kernel};
use super::operand::{
    GROUPS_COLS, GroupQuantized, GroupQuantizedRow, Groups, Quantized, QuantizedRow, Weights,
};
use super::scalar::{self, LANES, SMALLEST_QUANTIZED, canonical_nan};
use super::simd::{self, Simd};
use crate::dtype::{DType, GROUP, Shape};

impl Isa {
    /// Rounds activations to 16 bits with one scale per token, for `I8` weights.
    ///
    /// x: `(tokens, cols)`.
    ///
    /// # Errors
    ///
    /// A length that is no whole number of rows.
    pub fn quantize(self, x: &[f32], cols: usize) -> Result<Quantized, KernelError> {
        let mut out = Quantized::default();
        out.rows_for(x, cols)?.for_each(|row| self.quantize_row(row));
        Ok(out)
    }

    /// Quantizes one token, see [`Quantized::rows_for`].
    pub fn quantize_row(self, row: QuantizedRow<'_>) {
        self.run(QuantizeRow(row));
    }

    /// Rounds activations to 8 bits with one scale for each 32 of a token, for `I4` weights.
    ///
    /// x: `(tokens, cols)`.
    ///
    /// # Errors
    ///
    /// A length that is no whole number of rows; columns that are no multiple of 32.
    pub fn quantize_by_group(self, x: &[f32], cols: usize) -> Result<GroupQuantized, KernelError> {
        let mut out = GroupQuantized::default();
        out.rows_for(x, cols)?.for_each(|row| self.quantize_row_by_group(row));
        Ok(out)
    }

    /// Quantizes one token by group, see [`GroupQuantized::rows_for`].
    pub fn quantize_row_by_group(self, row: GroupQuantizedRow<'_>) {
        self.run(QuantizeRowByGroup(row));
    }

    /// Rounds to the dtype of a KV cache, F16 or F32, little-endian.
    ///
    /// # Errors
    ///
    /// Another dtype, or an output of another length.
    pub fn round_to(self, dtype: DType, x: &[f32], out: &mut [u8]) -> Result<(), KernelError> {
        if !matches!(dtype, DType::F16 | DType::F32) {
            return Err(KernelError::UnsupportedDType { argument: "cache", dtype });
        }
        check_len("rounded bytes", Shape::new([x.len()]).size_bytes(dtype)?, out.len())?;
        self.run(RoundTo { dtype, x, out });
        Ok(())
    }

    /// One row of a matrix as f32, times its scale where it has one: an embedding look-up.
    ///
    /// # Errors
    ///
    /// A row past the end, or an output of another length.
    pub fn dequantize_row(
        self,
        weights: &Weights<'_>,
        row: usize,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        if row >= weights.rows() {
            return Err(KernelError::OutOfRange { argument: "row", index: row, len: weights.rows() });
        }
        check_len("out", weights.cols(), out.len())?;
        self.run(DequantizeRow { weights, row, out });
        Ok(())
    }
}

struct QuantizeRow<'a>(QuantizedRow<'a>);

impl Kernel for QuantizeRow<'_> {
    fn scalar(self) {
        *self.0.scale = scalar::quantize(self.0.x, self.0.values);
    }

    #[inline(always)]
    fn simd<S: Simd>(self, s: S) {
        *self.0.scale = quantize_token(s, self.0.x, self.0.values);
    }
}

struct QuantizeRowByGroup<'a>(GroupQuantizedRow<'a>);

impl Kernel for QuantizeRowByGroup<'_> {
    fn scalar(self) {
        for (x, groups) in self.0.x.chunks(GROUPS_COLS).zip(self.0.groups) {
            *groups = Groups::default();
            for (group, x) in x.as_chunks().0.iter().enumerate() {
                let mut values = [0; GROUP];
                let scale = scalar::quantize_group(x, &mut values);
                groups.set(group, &values, scale);
            }
        }
    }

    #[inline(always)]
    fn simd<S: Simd>(self, s: S) {
        for (x, groups) in self.0.x.chunks(GROUPS_COLS).zip(self.0.groups) {
            quantize_16_groups(s, x.as_chunks().0, groups);
        }
    }
}

/// Up to 16 groups; further ones are zero. The scales of all are computed at once.
#[inline(always)]
fn quantize_16_groups<S: Simd>(s: S, x: &[[f32; GROUP]], groups: &mut Groups) {
    let (infinity, mut largest) = (s.splat(f32::INFINITY), [0.0; LANES]);
    for (largest, x) in largest.iter_mut().zip(x) {
        let (a, b) = (s.abs(simd::load(s, &x[..LANES])), s.abs(simd::load(s, &x[LANES..])));
        // Infinity stands for NaN as well.
        let (a, b) = (s.select(s.less(a, infinity), a, infinity), s.select(s.less(b, infinity), b, infinity));
        *largest = s.largest(s.max(a, b));
    }
    let (largest, limit, zero) = (s.load(&largest), s.splat(127.0), s.splat(0.0));
    let (tiny, finite) = (s.less(largest, s.splat(SMALLEST_QUANTIZED)), s.less(largest, infinity));
    let scales = s.select(finite, s.div(largest, limit), s.splat(canonical_nan(f32::NAN)));
    let per_unit = s.select(finite, s.div(limit, largest), zero);
    let scales = simd::lanes(s, s.select(tiny, zero, scales));
    let per_unit = simd::lanes(s, s.select(tiny, zero, per_unit));
    for (group, (scale, per_unit)) in scales.into_iter().zip(per_unit).enumerate() {
        let mut values = [0; GROUP];
        if let Some(x) = x.get(group).filter(|_| per_unit > 0.0) {
            let per_unit = s.splat(per_unit);
            let (halves, _) = values.as_chunks_mut::<LANES>();
            for (x, values) in x.as_chunks::<LANES>().0.iter().zip(halves) {
                *values = s.narrow_i16(s.round_ties_even(s.mul(s.load(x), per_unit))).map(|x| x as i8);
            }
        }
        groups.set(group, &values, scale);
    }
}

/// Copies as many elements as the shorter has.
#[inline(always)]
fn copy_part<T: Copy>(from: &[T], to: &mut [T]) {
    let len = from.len().min(to.len());
    to[..len].copy_from_slice(&from[..len]);
}

#[inline(always)]
fn quantize_token<S: Simd>(s: S, x: &[f32], values: &mut [i16]) -> f32 {
    let (infinity, mut largest, mut infinite) = (s.splat(f32::INFINITY), s.splat(0.0), s.splat(0.0));
    for x in x.chunks(LANES) {
        let magnitude = s.abs(simd::load(s, x));
        largest = s.max(magnitude, largest);
        infinite = s.select(s.less(magnitude, infinity), infinite, s.splat(1.0));
    }
    let (max, infinite) = (s.largest(largest), s.largest(infinite) > 0.0);
    if infinite || max < SMALLEST_QUANTIZED {
        values.fill(0);
        return if infinite { canonical_nan(f32::NAN) } else { 0.0 };
    }
    let per_unit = s.splat(32767.0 / max);
    for (x, values) in x.chunks(LANES).zip(values.chunks_mut(LANES)) {
        let rounded = s.narrow_i16(s.round_ties_even(s.mul(simd::load(s, x), per_unit)));
        copy_part(&rounded, values);
    }
    max / 32767.0
}

struct RoundTo<'a> {
    dtype: DType,
    x: &'a [f32],
    out: &'a mut [u8],
}

impl Kernel for RoundTo<'_> {
    fn scalar(self) {
        scalar::round_to(self.dtype, self.x, self.out);
    }

    #[inline(always)]
    fn simd<S: Simd>(self, s: S) {
        let out = self.out.chunks_mut(simd::lanes_bytes(self.dtype));
        for (x, out) in self.x.chunks(LANES).zip(out) {
            let x = simd::canonical(s, simd::load(s, x));
            if self.dtype == DType::F16 {
                copy_part(&s.narrow_f16(x), out);
            } else {
                for (out, lane) in out.chunks_exact_mut(4).zip(simd::lanes(s, x)) {
                    out.copy_from_slice(&lane.to_le_bytes());
                }
            }
        }
    }
}

struct DequantizeRow<'a> {
    weights: &'a Weights<'a>,
    row: usize,
    out: &'a mut [f32],
}

impl Kernel for DequantizeRow<'_> {
    fn scalar(self) {
        scalar::dequantize_row(self.weights, self.row, self.out);
    }

    #[inline(always)]
    fn simd<S: Simd>(self, s: S) {
        let dtype = self.weights.dtype();
        if dtype == DType::I4 {
            // No embedding is I4, so nothing waits for this.
            return self.scalar();
        }
        // Without a scale nothing is multiplied, with the same result as by 1.
        let scale = s.splat(self.weights.row_scale(self.row).unwrap_or(1.0));
        let row = self.weights.row(self.row).chunks(simd::lanes_bytes(dtype));
        for (w, out) in row.zip(self.out.chunks_mut(LANES)) {
            let y = s.mul(simd::widen_dtype(s, dtype, w), scale);
            simd::store(s, simd::canonical(s, y), out);
        }
    }
}
