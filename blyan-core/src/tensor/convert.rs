//! Owns widening to f32, rounding between float types (to nearest, ties to even), and the search
//! for weights that are no numbers. Deterministic: work is split over threads, results never depend
//! on the split, and of several bad elements the first is reported.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use super::error::TensorError;
use crate::dtype::DType;
use crate::kernels::FpEnv;

/// Elements that one task converts; its f32 buffer stays in the L1 cache.
const CHUNK: usize = 4096;

/// Widens one F8_E4M3 (OCP E4M3FN), exactly.
pub(crate) fn f8e4m3_to_f32(code: u8) -> f32 {
    let sign = if code & 0x80 == 0 { 1.0 } else { -1.0 };
    let exponent = i32::from(code >> 3 & 0x0f);
    let mantissa = f32::from(code & 0x07);
    let magnitude = match (exponent, code & 0x07) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa / 512.0,
        // Exact: a power of two in range, built from its bits, times at most 1.875.
        _ => f32::from_bits(((exponent + 120) as u32) << 23) * (1.0 + mantissa / 8.0),
    };
    sign * magnitude
}

/// Widens the low or the high half of a byte of two I4, exactly.
pub(super) fn i4_to_f32(byte: u8, half: usize) -> f32 {
    f32::from(byte >> (4 * half) & 0xf) - 8.0
}

/// Widens little-endian elements to f32, exactly. `out` decides how many.
pub(super) fn widen(dtype: DType, data: &[u8], out: &mut [f32]) {
    match dtype {
        DType::F32 => {
            for (out, bytes) in out.iter_mut().zip(data.as_chunks().0) {
                *out = f32::from_le_bytes(*bytes);
            }
        }
        DType::BF16 => {
            for (out, bytes) in out.iter_mut().zip(data.as_chunks().0) {
                *out = bf16::from_le_bytes(*bytes).to_f32();
            }
        }
        DType::F16 => {
            let mut halves = [f16::ZERO; 64];
            for (out, bytes) in out.chunks_mut(64).zip(data.chunks(128)) {
                for (half, bytes) in halves.iter_mut().zip(bytes.as_chunks().0) {
                    *half = f16::from_le_bytes(*bytes);
                }
                if let Some(halves) = halves.get(..out.len()) {
                    halves.convert_to_f32_slice(out);
                }
            }
        }
        DType::F8E4M3 => {
            for (out, &code) in out.iter_mut().zip(data) {
                *out = f8e4m3_to_f32(code);
            }
        }
        DType::I8 => {
            for (out, &byte) in out.iter_mut().zip(data) {
                *out = f32::from(byte as i8);
            }
        }
        DType::I4 => {
            for (out, &byte) in out.chunks_mut(2).zip(data) {
                for (half, out) in out.iter_mut().enumerate() {
                    *out = i4_to_f32(byte, half);
                }
            }
        }
    }
}

/// Rounds finite f32 to a float type, little-endian, ties to even. Returns the index of the first
/// value that became infinite.
fn narrow(values: &[f32], dtype: DType, out: &mut [u8]) -> Option<usize> {
    match dtype {
        DType::F16 => {
            let mut halves = [f16::ZERO; 64];
            for (values, out) in values.chunks(64).zip(out.chunks_mut(128)) {
                let halves = halves.get_mut(..values.len())?;
                halves.convert_from_f32_slice(values);
                for (half, out) in halves.iter().zip(out.as_chunks_mut().0) {
                    *out = half.to_le_bytes();
                }
            }
        }
        DType::BF16 => {
            for (value, out) in values.iter().zip(out.as_chunks_mut().0) {
                *out = bf16::from_f32(*value).to_le_bytes();
            }
        }
        _ => {
            for (value, out) in values.iter().zip(out.as_chunks_mut().0) {
                *out = value.to_le_bytes();
            }
        }
    }
    not_finite(dtype, out)
}

/// Index of the first element that is NaN or infinite, or an I8 of −128.
fn not_finite(dtype: DType, data: &[u8]) -> Option<usize> {
    // All ones in the exponent; for F8_E4M3, which has no infinity, in the mantissa too. The first
    // pass has no early exit, so that it vectorizes; only a bad chunk is searched again.
    match dtype {
        DType::F32 => {
            let words = data.as_chunks::<4>().0;
            let bad = |bytes: &[u8; 4]| u32::from_le_bytes(*bytes) & 0x7f80_0000 == 0x7f80_0000;
            words.iter().fold(false, |any, bytes| any | bad(bytes)).then(|| words.iter().position(bad))?
        }
        DType::BF16 | DType::F16 => {
            let mask = if dtype == DType::BF16 { 0x7f80 } else { 0x7c00 };
            let words = data.as_chunks::<2>().0;
            let bad = |bytes: &[u8; 2]| u16::from_le_bytes(*bytes) & mask == mask;
            words.iter().fold(false, |any, bytes| any | bad(bytes)).then(|| words.iter().position(bad))?
        }
        DType::F8E4M3 => {
            let bad = |byte: &u8| byte & 0x7f == 0x7f;
            data.iter().fold(false, |any, byte| any | bad(byte)).then(|| data.iter().position(bad))?
        }
        DType::I8 => {
            let bad = |byte: &u8| *byte == 0x80;
            data.iter().fold(false, |any, byte| any | bad(byte)).then(|| data.iter().position(bad))?
        }
        // Each of its 16 values is a number.
        DType::I4 => None,
    }
}

/// Searches for the first element that is NaN or infinite, or an I8 of −128 (quantized values are
/// symmetric), on all threads of the current rayon pool. `Ok` if there is none.
///
/// # Errors
///
/// [`TensorError::NotFinite`] with an empty tensor name.
pub fn first_not_finite(dtype: DType, data: &[u8]) -> Result<(), TensorError> {
    let size = dtype.size_bytes();
    let chunk = 64 * CHUNK;
    let found = data.par_chunks(chunk * size).enumerate().find_map_first(|(number, data)| {
        not_finite(dtype, data).map(|index| (number * chunk + index, data, index))
    });
    let Some((index, data, index_in_chunk)) = found else { return Ok(()) };
    let mut value = [0.0];
    widen(dtype, data.get(index_in_chunk * size..).unwrap_or_default(), &mut value);
    Err(TensorError::NotFinite { tensor: String::new(), index, value: value[0] })
}

/// Rounds the elements of `source` to the float type `to`, to nearest, ties to even, on all threads
/// of the current rayon pool. Equal types copy. Every element must be finite and stay so.
///
/// # Errors
///
/// With an empty tensor name: [`TensorError::NotFinite`] or [`TensorError::Overflow`] with the first
/// such index, [`TensorError::Conversion`] if either type is quantized and they differ,
/// [`TensorError::Size`] if source and output do not have the same number of elements.
pub fn convert_into(from: DType, source: &[u8], to: DType, out: &mut [u8]) -> Result<(), TensorError> {
    if DType::I4 == from || DType::I4 == to {
        return Err(TensorError::Conversion { tensor: String::new(), from, to });
    }
    let expected = source.len() / from.size_bytes() * to.size_bytes();
    if out.len() != expected || !source.len().is_multiple_of(from.size_bytes()) {
        return Err(TensorError::Size { tensor: String::new(), expected, actual: out.len() });
    }
    if from == to {
        out.copy_from_slice(source);
        return first_not_finite(to, out);
    }
    if from.is_quantized() || to.is_quantized() {
        return Err(TensorError::Conversion { tensor: String::new(), from, to });
    }
    let error = source
        .par_chunks(CHUNK * from.size_bytes())
        .zip(out.par_chunks_mut(CHUNK * to.size_bytes()))
        .enumerate()
        .find_map_first(|(number, (source, out))| {
            let _env = FpEnv::enter();
            let mut buffer = [0.0; CHUNK];
            let values = buffer.get_mut(..source.len() / from.size_bytes())?;
            widen(from, source, values);
            let at = |index: usize| (number * CHUNK + index, values.get(index).copied().unwrap_or(f32::NAN));
            if let Some(index) = not_finite(from, source) {
                let (index, value) = at(index);
                return Some(TensorError::NotFinite { tensor: String::new(), index, value });
            }
            let (index, value) = at(narrow(values, to, out)?);
            Some(TensorError::Overflow { tensor: String::new(), index, value, dtype: to })
        });
    error.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All finite E4M3 values by the formula of the OCP specification, in f64.
    fn f8_values() -> Vec<(u8, f64)> {
        (0..=255u8)
            .filter(|code| code & 0x7f != 0x7f)
            .map(|code| {
                let (exponent, mantissa) = (i32::from(code >> 3 & 15), f64::from(code & 7));
                let magnitude = if exponent == 0 {
                    2f64.powi(-6) * mantissa / 8.0
                } else {
                    2f64.powi(exponent - 7) * (1.0 + mantissa / 8.0)
                };
                (code, if code >= 128 { -magnitude } else { magnitude })
            })
            .collect()
    }

    #[test]
    fn f8_widens_exactly() {
        for (code, value) in f8_values() {
            assert_eq!(f64::from(f8e4m3_to_f32(code)), value, "{code:#x}");
            assert_eq!(f8e4m3_to_f32(code).to_bits(), float8::F8E4M3::from_bits(code).to_f32().to_bits());
        }
        assert!(f8e4m3_to_f32(0x7f).is_nan() && f8e4m3_to_f32(0xff).is_nan());
    }

    #[test]
    fn every_half_converts_like_the_oracle() {
        let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for (from, finite) in [(DType::BF16, 0x7f80u16), (DType::F16, 0x7c00)] {
            let source: Vec<u8> = all
                .chunks(2)
                .filter(|b| u16::from_le_bytes([b[0], b[1]]) & finite != finite)
                .flatten()
                .copied()
                .collect();
            let mut wide = vec![0; source.len() * 2];
            convert_into(from, &source, DType::F32, &mut wide).unwrap();
            for (source, wide) in source.chunks(2).zip(wide.chunks(4)) {
                let source = [source[0], source[1]];
                let expected = if from == DType::BF16 {
                    bf16::from_le_bytes(source).to_f64()
                } else {
                    f16::from_le_bytes(source).to_f64()
                };
                let actual = f32::from_le_bytes([wide[0], wide[1], wide[2], wide[3]]);
                assert_eq!(f64::from(actual), expected);
            }
            let mut back = vec![0; source.len()];
            convert_into(DType::F32, &wide, from, &mut back).unwrap();
            assert_eq!(back, source);
        }
    }

    #[test]
    fn rounding_is_to_even_and_overflow_is_named() {
        let source = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let mut out = [0; 4];
        // 1 + 2^-8 lies halfway between two bf16 values, 1 + 3 × 2^-8 too.
        convert_into(DType::F32, &source(&[1.003_906_3, 1.011_718_8]), DType::BF16, &mut out).unwrap();
        assert_eq!(out, [0x80, 0x3f, 0x82, 0x3f]);
        let error = convert_into(DType::F32, &source(&[1.0, 65520.0]), DType::F16, &mut out).unwrap_err();
        assert!(matches!(error, TensorError::Overflow { index: 1, value: 65520.0, dtype: DType::F16, .. }));
        convert_into(DType::F32, &source(&[1.0, 65519.9]), DType::F16, &mut out).unwrap();
        let error = convert_into(DType::F32, &source(&[f32::MAX, 1.0]), DType::BF16, &mut out).unwrap_err();
        assert!(matches!(error, TensorError::Overflow { index: 0, .. }));
    }

    #[test]
    fn the_first_bad_element_is_found_whatever_the_threads() {
        // Every I4 is a number.
        first_not_finite(DType::I4, &[0x00, 0x88, 0xff]).unwrap();
        for dtype in DType::ALL.into_iter().filter(|dtype| *dtype != DType::I4) {
            let (bad, good): (&[u8], &[u8]) = match dtype {
                DType::F32 => (&[0, 0, 0x80, 0x7f], &[0xff, 0xff, 0x7f, 0x7f]),
                DType::BF16 => (&[0x80, 0xff], &[0x7f, 0xff]),
                DType::F16 => (&[0, 0x7c], &[0xff, 0x7b]),
                DType::F8E4M3 => (&[0xff], &[0xfe]),
                DType::I8 | DType::I4 => (&[0x80], &[0x81]),
            };
            let len = 64 * CHUNK * 3 + 5;
            let mut data = good.repeat(len);
            first_not_finite(dtype, &data).unwrap();
            for index in [len - 1, 64 * CHUNK * 2, 7] {
                data[index * bad.len()..][..bad.len()].copy_from_slice(bad);
                let error = first_not_finite(dtype, &data).unwrap_err();
                assert!(matches!(error, TensorError::NotFinite { index: found, .. } if found == index));
            }
        }
    }
}
