//! Owns quantization of whole matrices, deterministic: rows on all threads, each as [`Isa::quantize_weights`] does.

use rayon::prelude::*;

use super::convert::first_not_finite;
use super::error::TensorError;
use super::scale_layout;
use super::view::TensorView;
use crate::dtype::{DType, GROUP, Shape};
use crate::kernels::{FpEnv, Isa, KernelError, Weights};

/// A quantized matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quantized {
    /// (rows, cols) of I8, F8_E4M3 or I4.
    pub values: Vec<u8>,
    /// (rows, 1) of F32, or for I4 (rows, cols / 32) of BF16, little-endian.
    pub scales: Vec<u8>,
}

/// Quantizes whole rows of a float matrix into place, on all threads of the current rayon pool.
/// `source` is (rows, cols) of `from`, `values` (rows, cols) of `to`, `scales` as
/// [`scale_layout`] says; after an error both hold anything.
///
/// # Errors
///
/// With an empty tensor name: [`TensorError::NotFinite`] with the first such index,
/// [`TensorError::Conversion`] unless `from` is a float type and `to` a quantized one,
/// [`TensorError::Size`] if the sizes do not agree, [`TensorError::Packed`] if rows are no whole groups.
pub fn quantize_rows_into(
    from: DType,
    source: &[u8],
    cols: usize,
    to: DType,
    values: &mut [u8],
    scales: &mut [u8],
) -> Result<(), TensorError> {
    if !to.is_quantized() || from.is_quantized() {
        return Err(TensorError::Conversion { tensor: String::new(), from, to });
    }
    if to == DType::I4 && !cols.is_multiple_of(GROUP) {
        return Err(no_groups());
    }
    let size = |expected, actual| TensorError::Size { tensor: String::new(), expected, actual };
    if cols == 0 {
        scales.as_chunks_mut().0.fill(1f32.to_le_bytes());
        return if values.is_empty() && source.is_empty() { Ok(()) } else { Err(size(0, values.len())) };
    }
    let row_bytes = cols.saturating_mul(from.size_bytes());
    let rows = source.len() / row_bytes;
    let sizes = |dtype: DType, shape: &Shape| shape.size_bytes(dtype).unwrap_or(usize::MAX);
    let shape = Shape::new([rows, cols]);
    let scales_len = scale_layout(to, &shape).map_or(0, |(dtype, shape)| sizes(dtype, &shape));
    let lens =
        [(sizes(from, &shape), source.len()), (sizes(to, &shape), values.len()), (scales_len, scales.len())];
    if let Some((expected, actual)) = lens.into_iter().find(|(expected, actual)| expected != actual) {
        return Err(size(expected, actual));
    }
    if rows == 0 {
        return Ok(());
    }
    let isa = Isa::for_rows();
    source
        .par_chunks(row_bytes)
        .zip(values.par_chunks_mut(to.bytes_of(cols)))
        .zip(scales.par_chunks_mut(scales_len / rows))
        .with_min_len((1 << 14) / cols + 1)
        .try_for_each_init(
            || vec![0.0; cols],
            |row, ((source, values), scales)| {
                let _env = FpEnv::enter();
                isa.dequantize_row(&Weights::new(from, 1, cols, source, None)?, 0, row)?;
                isa.quantize_weights(to, row, values, scales)
            },
        )
        .map_err(|error| {
            let not_finite = matches!(error, KernelError::NotFinite { .. });
            // The first of them, whichever row came first.
            not_finite.then(|| first_not_finite(from, source).err()).flatten().unwrap_or_else(no_groups)
        })
}

fn no_groups() -> TensorError {
    let reason = "its columns are no multiple of 32, as those of I4 must be";
    TensorError::Packed { tensor: String::new(), reason }
}

/// Quantizes a float matrix of shape (rows, cols).
///
/// # Errors
///
/// [`TensorError`] naming the tensor: not two dimensions, not finite, or no such conversion.
pub fn quantize(to: DType, source: &TensorView<'_>) -> Result<Quantized, TensorError> {
    let &[_, cols] = source.shape().dims() else {
        let expected = Shape::new([source.shape().dims().first().copied().unwrap_or(1), 1]);
        let (tensor, actual) = (source.name().to_owned(), source.shape().clone());
        return Err(TensorError::Shape { tensor, actual, expected });
    };
    let scales = scale_layout(to, source.shape()).and_then(|(dtype, shape)| shape.size_bytes(dtype).ok());
    let mut quantized =
        Quantized { values: vec![0; to.bytes_of(source.len())], scales: vec![0; scales.unwrap_or_default()] };
    let Quantized { values, scales } = &mut quantized;
    quantize_rows_into(source.dtype(), source.data(), cols, to, values, scales)
        .map_err(|error| error.about(source.name()))?;
    Ok(quantized)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Shape;

    fn pseudo_random(len: usize) -> Vec<f32> {
        let mut bits = 12345u32;
        (0..len)
            .map(|_| {
                bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (bits as i32 as f32) / 2f32.powi(31 + (bits >> 8 & 7) as i32)
            })
            .collect()
    }

    fn quantize_f32(to: DType, rows: usize, cols: usize, values: &[f32]) -> Quantized {
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let shape = Shape::new([rows, cols]);
        quantize(to, &TensorView::new("w", DType::F32, &shape, &data).unwrap()).unwrap()
    }

    /// In f64, by searching all codes: shares nothing with the code above but the definition.
    #[test]
    fn the_nearest_code_is_chosen() {
        let (rows, cols) = (13, 37);
        let values = pseudo_random(rows * cols);
        for to in [DType::I8, DType::F8E4M3] {
            let decode = |code: u8| match to {
                DType::I8 => f64::from(code as i8),
                _ => f64::from(float8::F8E4M3::from_bits(code).to_f32()),
            };
            let quantized = quantize_f32(to, rows, cols, &values);
            for row in 0..rows {
                let source = &values[row * cols..][..cols];
                let amax = source.iter().fold(0f32, |a, x| a.max(x.abs()));
                let scale = f32::from_le_bytes(quantized.scales[row * 4..][..4].try_into().unwrap());
                assert_eq!(scale, amax / if to == DType::I8 { 127.0 } else { 448.0 });
                for (x, code) in source.iter().zip(&quantized.values[row * cols..]) {
                    let y = f64::from(x / scale);
                    let distance = (decode(*code) - y).abs();
                    let best = (0..=255u8)
                        .filter(|&c| {
                            decode(c).is_finite() && decode(c) >= -448.0 && (to != DType::I8 || c != 0x80)
                        })
                        .map(|c| (decode(c) - y).abs())
                        .fold(f64::INFINITY, f64::min);
                    assert_eq!(distance, best, "{to} {x}");
                }
            }
        }
    }

    #[test]
    fn extremes() {
        let smallest = f32::from_bits(1);
        let values = [0.0, -0.0, f32::MAX, f32::MIN, smallest, -smallest, 127.0, 0.5, 127.0, 1.5];
        let quantized = quantize_f32(DType::I8, 5, 2, &values);
        let scales: Vec<f32> =
            quantized.scales.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(scales, [1.0, f32::MAX / 127.0, f32::MIN_POSITIVE, 1.0, 1.0]);
        // Ties go to even: 0.5 to 0, 1.5 to 2.
        assert_eq!(
            quantized.values.iter().map(|&b| b as i8).collect::<Vec<_>>(),
            [0, 0, 127, -127, 0, 0, 127, 0, 127, 2]
        );
    }

    #[test]
    fn threads_do_not_change_the_result() {
        let (rows, cols) = (97, 501);
        let values = pseudo_random(rows * cols);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| quantize_f32(DType::F8E4M3, rows, cols, &values))
        };
        assert_eq!(run(1), run(7));
    }

    #[test]
    fn what_cannot_be_quantized_is_named() {
        let shape = Shape::new([1, 2]);
        let data: Vec<u8> = [1.0, f32::NAN].iter().flat_map(|v: &f32| v.to_le_bytes()).collect();
        let view = TensorView::new("w", DType::F32, &shape, &data).unwrap();
        assert!(matches!(
            quantize(DType::I8, &view),
            Err(TensorError::NotFinite { tensor, index: 1, .. }) if tensor == "w"
        ));
        assert!(matches!(quantize(DType::F16, &view), Err(TensorError::Conversion { .. })));
        let shape = Shape::new([2]);
        let view = TensorView::new("w", DType::F32, &shape, &data).unwrap();
        assert!(matches!(quantize(DType::I8, &view), Err(TensorError::Shape { .. })));
    }
}
