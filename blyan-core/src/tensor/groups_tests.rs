//! Quantizing to I4: scales against a search in f64, packing by hand, extremes.

use half::bf16;

use super::{TensorError, TensorView, quantize};
use crate::dtype::{DType, Shape};

fn pseudo_random(len: usize, seed: u32) -> Vec<f32> {
    let mut bits = seed;
    let mut next = || {
        bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(bits as i32) / 2f64.powi(31)
    };
    (0..len).map(|_| ((next() + next() + next()) * 0.03) as f32).collect()
}

fn quantized(rows: usize, cols: usize, values: &[f32]) -> (Vec<f32>, Vec<i32>) {
    let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let shape = Shape::new([rows, cols]);
    let quantized = quantize(DType::I4, &TensorView::new("w", DType::F32, &shape, &data).unwrap()).unwrap();
    let scales = quantized.scales.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect();
    let words = quantized.values.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word));
    let values = words.flat_map(|word| (0..8).map(move |i| (word >> (4 * i) & 15) as i32 - 8)).collect();
    (scales, values)
}

/// The error of one scale with the best values there are, in f64.
fn least_error(x: &[f32], scale: f64) -> f64 {
    let distance =
        |x: f64| (-8..=7).map(|q| (x - f64::from(q) * scale).powi(2)).fold(f64::INFINITY, f64::min);
    x.iter().map(|x| distance(f64::from(*x))).sum()
}

/// In f64, by trying all: shares nothing with the code above but the definition.
#[test]
fn the_best_of_the_scales_and_the_nearest_values_are_chosen() {
    let (rows, cols) = (40, 96);
    let values = pseudo_random(rows * cols, 7);
    let (scales, stored) = quantized(rows, cols, &values);
    for (group, ((x, q), &scale)) in values.chunks(32).zip(stored.chunks(32)).zip(&scales).enumerate() {
        let extreme = x.iter().copied().reduce(|a, b| if b.abs() > a.abs() { b } else { a }).unwrap();
        let candidates: Vec<f64> =
            (24..=36).map(|n| bf16::from_f32(extreme * (-n as f32 / 256.0)).to_f64()).collect();
        assert!(candidates.contains(&f64::from(scale)), "{group}: {scale}");
        let best = candidates.iter().map(|&c| least_error(x, c)).fold(f64::INFINITY, f64::min);
        let scale = f64::from(scale);
        let actual: f64 = x.iter().zip(q).map(|(x, q)| (f64::from(*x) - f64::from(*q) * scale).powi(2)).sum();
        assert!(actual <= best * (1.0 + 1e-5), "{group}: {actual}, not {best}");
    }
}

#[test]
fn extremes() {
    let smallest = f32::from_bits(1);
    let mut values = vec![0.0f32; 8 * 32];
    values[32..64].fill(-0.0);
    (values[64], values[65]) = (f32::MAX, f32::MIN);
    values[96..128].fill(smallest);
    (values[128], values[129]) = (-8.0, 7.0);
    (values[160], values[161]) = (8.0, -7.0);
    values[192..224].fill(f32::MAX);
    values[255] = -1e-30;
    let (scales, stored) = quantized(4, 64, &values);
    assert_eq!(scales[..2], [1.0, 1.0]);
    assert!(scales.iter().all(|scale| scale.is_finite() && *scale != 0.0));
    assert!(stored[..64].iter().all(|q| *q == 0));
    assert_eq!((scales[3], stored[96]), (-f32::MIN_POSITIVE, 0));
    // The largest goes to -8 whatever its sign, where nothing else speaks against it.
    assert_eq!((scales[4], &stored[128..131]), (1.0, &[-8, 7, 0][..]));
    assert_eq!((scales[5], &stored[160..163]), (-1.0, &[-8, 7, 0][..]));
    for group in [2, 6, 7] {
        for (x, q) in values[group * 32..][..32].iter().zip(&stored[group * 32..]) {
            let error = (f64::from(*x) - f64::from(*q) * f64::from(scales[group])).abs();
            assert!(error <= f64::from(scales[group].abs()), "{group}: {x} became {q}");
        }
    }
}

#[test]
fn words_are_packed_as_compressed_tensors_packs_them() {
    // -8..=7 and again: value + 8, element i of a word in bits 4 i and up.
    let values: Vec<f32> = (0..32).map(|k| (k % 16 - 8) as f32).collect();
    let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let shape = Shape::new([1, 32]);
    let packed = quantize(DType::I4, &TensorView::new("w", DType::F32, &shape, &data).unwrap()).unwrap();
    assert_eq!(packed.scales, [0x80, 0x3f]);
    let words: Vec<u32> = packed.values.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
    assert_eq!(words, [0x7654_3210, 0xfedc_ba98, 0x7654_3210, 0xfedc_ba98]);
}

#[test]
fn threads_do_not_change_the_result() {
    let values = pseudo_random(97 * 512, 3);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| quantized(97, 512, &values))
    };
    assert!(run(1) == run(7));
}

#[test]
fn rows_that_are_no_whole_groups_are_refused() {
    let shape = Shape::new([2, 48]);
    let view = TensorView::new("w", DType::BF16, &shape, &[0; 192]).unwrap();
    assert!(matches!(quantize(DType::I4, &view), Err(TensorError::Packed { tensor, .. }) if tensor == "w"));
}
