//! The reference against naive f64 arithmetic and against other libraries, with error bounds.

use super::{Forms, Random, decode, encode, encode_scales, f32_bytes};
use crate::dtype::DType;
use crate::{Attention, HeadShape, Input, Isa, MatMut, Vector, Weights, math};

/// Half a unit in the last place of 1: the relative error of one rounding to f32.
const ROUNDING: f64 = 1.0 / (1u64 << 24) as f64;

/// Distance of a result from the exact value, in units in the last place of an f32 near it.
fn ulps(actual: f32, exact: f64) -> f64 {
    let exponent = exact.abs().log2().floor().max(-126.0);
    (f64::from(actual) - exact).abs() / 2f64.powf(exponent - 23.0)
}

/// `Isa::matmul` of the reference, one token and one row.
fn dot(dtype: DType, weights: &[u8], scale: Option<f32>, x: &[f32]) -> f32 {
    scaled_dot(dtype, weights, scale.as_slice(), x)
}

/// The same with the scales that the type has.
fn scaled_dot(dtype: DType, weights: &[u8], scales: &[f32], x: &[f32]) -> f32 {
    let scale = encode_scales(dtype, scales);
    let weights = Weights::new(dtype, 1, x.len(), weights, scale.as_deref()).unwrap();
    let forms = Forms::new(Isa::SCALAR, x, x.len());
    let input = forms.with(Input::new(x, x.len()).unwrap());
    let mut out = [0.0];
    Isa::SCALAR.matmul(&weights, 0..1, &input, MatMut::from_slice(&mut out, 1, 1).unwrap()).unwrap();
    out[0]
}

fn exact_dot(w: &[f64], x: &[f32]) -> (f64, f64) {
    let products = || w.iter().zip(x).map(|(w, x)| w * f64::from(*x));
    (products().sum(), products().map(f64::abs).sum())
}

#[test]
fn the_platform_fuses_multiply_and_add() {
    // The exact product and sum as f64, rounded to odd, then once to f32: no second rounding shows.
    let fused = |a: f32, b: f32, c: f32| {
        let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
        let sum = product + c;
        let of_c = sum - product;
        let error = (product - (sum - of_c)) + (c - of_c);
        let mut bits = sum.to_bits();
        if error.abs() > 0.0 && bits & 1 == 0 {
            bits = if (error > 0.0) == (sum > 0.0) { bits + 1 } else { bits - 1 };
        }
        f64::from_bits(bits) as f32
    };
    let mut random = Random(20);
    for _ in 0..200_000 {
        let (a, b) = (random.hostile(), random.hostile());
        let c = [random.hostile(), -(a * b)][random.below(2)];
        let (expected, actual) = (fused(a, b, c), a.mul_add(b, c));
        assert!(
            expected.to_bits() == actual.to_bits() || expected.is_nan() && actual.is_nan(),
            "{a:e} × {b:e} + {c:e}: {actual:e}, not {expected:e}"
        );
    }
}

/// Largest error in normal and in subnormal results of `exp` over some of all f32.
fn largest_exp_error(inputs: impl Iterator<Item = u32>) -> (f64, f64) {
    let (mut normal, mut subnormal) = (0.0f64, 0.0f64);
    for x in inputs.map(f32::from_bits).filter(|x| !x.is_nan()) {
        let (actual, exact) = (math::exp(x), f64::from(x).exp());
        if exact > f64::from(f32::MAX) * (1.0 + ROUNDING) {
            assert_eq!(actual, f32::INFINITY, "{x:e}");
        } else if exact < f64::from(f32::MIN_POSITIVE) {
            subnormal = subnormal.max(ulps(actual, exact));
        } else {
            assert!(actual.is_finite(), "{x:e}");
            normal = normal.max(ulps(actual, exact));
        }
    }
    (normal, subnormal)
}

#[test]
fn exp_is_within_one_ulp() {
    let (normal, subnormal) = largest_exp_error((0..=u32::MAX).step_by(1021));
    println!("exp: {normal:.3} ulp, {subnormal:.3} ulp where subnormal");
    assert!(normal < 1.0 && subnormal < 1.0, "{normal} {subnormal}");
}

#[test]
#[ignore = "every f32, ten minutes in a release build"]
fn exp_is_within_one_ulp_everywhere() {
    let (normal, subnormal) = largest_exp_error(0..=u32::MAX);
    println!("exp: {normal:.4} ulp, {subnormal:.4} ulp where subnormal");
    assert!(normal < 1.0 && subnormal < 1.0, "{normal} {subnormal}");
}

#[test]
fn exp_at_its_edges() {
    assert_eq!(math::exp(0.0), 1.0);
    assert_eq!(math::exp(-0.0), 1.0);
    assert_eq!(math::exp(f32::INFINITY), f32::INFINITY);
    assert_eq!(math::exp(f32::NEG_INFINITY).to_bits(), 0);
    assert_eq!(math::exp(-f32::NAN).to_bits(), 0x7fc0_0000);
    // The largest argument with a finite result, and the smallest with one above zero.
    assert!(math::exp(88.722_83).is_finite() && math::exp(88.722_84).is_infinite());
    assert_eq!(math::exp(-103.972_08).to_bits(), 1);
    assert_eq!(math::exp((-103.972_08f32).next_down()).to_bits(), 0);
}

#[test]
fn gates_are_within_a_few_ulp() {
    let mut worst = (0.0f64, 0.0f64);
    for x in (0..=u32::MAX).step_by(4093).map(f32::from_bits).filter(|x| x.abs() < 80.0) {
        let exact = 1.0 / (1.0 + (-f64::from(x)).exp());
        worst.0 = worst.0.max(ulps(math::sigmoid(x), exact));
        let mut gate = [x];
        Isa::SCALAR.silu_mul(&mut gate, &[1.0]).unwrap();
        worst.1 = worst.1.max(ulps(gate[0], f64::from(x) * exact));
    }
    println!("sigmoid {:.3} ulp, silu {:.3} ulp", worst.0, worst.1);
    assert!(worst.0 < 2.6 && worst.1 < 2.6, "{worst:?}");
}

#[test]
fn element_types_read_as_other_libraries_do() {
    for dtype in [DType::BF16, DType::F16, DType::F8E4M3, DType::I8, DType::I4] {
        let data: Vec<u8> = match dtype.size_bytes() {
            1 => (0..=255).collect(),
            _ => (0..=u16::MAX).flat_map(u16::to_le_bytes).collect(),
        };
        let expected = decode(dtype, &data);
        let scale = encode_scales(dtype, &vec![1.0; super::scale_count(dtype, 1, expected.len())]);
        let weights = Weights::new(dtype, 1, expected.len(), &data, scale.as_deref()).unwrap();
        let mut actual = vec![0.0; expected.len()];
        Isa::SCALAR.dequantize_row(&weights, 0, &mut actual).unwrap();
        for (i, (expected, actual)) in expected.iter().zip(&actual).enumerate() {
            let same = f64::from(*actual).to_bits() == expected.to_bits();
            assert!(same || expected.is_nan() && actual.is_nan(), "{dtype} {i:#x}: {actual}, not {expected}");
        }
    }
}

#[test]
fn cache_rounds_as_another_library_does() {
    let mut random = Random(21);
    let near_halves = (0..=u16::MAX).flat_map(|bits| {
        let bits = half::f16::from_bits(bits).to_f32_const().to_bits();
        [0, 1, 0xfff, 0x1000, 0x1001].map(|offset| f32::from_bits(bits + offset))
    });
    let values: Vec<f32> = near_halves.chain(random.hostiles(100_000)).collect();
    let mut rounded = vec![0; 2 * values.len()];
    Isa::SCALAR.round_to(DType::F16, &values, &mut rounded).unwrap();
    for (x, rounded) in values.iter().zip(rounded.as_chunks::<2>().0) {
        let rounded = u16::from_le_bytes(*rounded);
        let expected = if x.is_nan() { 0x7e00 } else { half::f16::from_f32_const(*x).to_bits() };
        assert_eq!(rounded, expected, "{x:e}");
    }
}

#[test]
fn float_dot_products_keep_their_bound() {
    let mut random = Random(22);
    for dtype in [DType::F32, DType::BF16, DType::F16, DType::F8E4M3] {
        for cols in [1, 2, 15, 16, 17, 100, 577, 4096] {
            let weights = encode(dtype, &random.normals(cols));
            let x = random.normals(cols);
            let scale = dtype.is_quantized().then_some(0.5);
            let (exact, sum_of_magnitudes) = exact_dot(&decode(dtype, &weights), &x);
            let factor = f64::from(scale.unwrap_or(1.0));
            let actual = f64::from(dot(dtype, &weights, scale, &x));
            // Each product meets one rounding per later step of its lane, and four of the tree.
            let roundings = cols.div_ceil(16) as f64 + 4.0;
            let bound = roundings * ROUNDING * sum_of_magnitudes * factor;
            assert!((actual - exact * factor).abs() <= bound, "{dtype} {cols}: {actual}, {exact}");
        }
    }
}

#[test]
fn integer_dot_products_keep_their_bound() {
    let mut random = Random(23);
    for cols in [1, 2, 31, 32, 33, 577, 4096, 9000] {
        let weights = random.bytes(cols);
        let x = random.normals(cols);
        let scale = 0.01f32;
        let (exact, _) = exact_dot(&decode(DType::I8, &weights), &x);
        let exact = exact * f64::from(scale);
        let actual = f64::from(dot(DType::I8, &weights, Some(scale), &x));
        let largest = x.iter().fold(0.0f32, |a, x| a.max(x.abs()));
        let sum_of_weights: f64 = decode(DType::I8, &weights).iter().map(|w| w.abs()).sum();
        // Half a step of the activations each, then three roundings and that of the two scales.
        let step = f64::from(largest) / 32767.0;
        let bound = (0.5001 * step * sum_of_weights * f64::from(scale)) + 5.0 * ROUNDING * exact.abs();
        assert!((actual - exact).abs() <= bound, "{cols}: {actual}, {exact}");
    }
}

#[test]
fn grouped_dot_products_keep_their_bound() {
    let mut random = Random(29);
    for cols in [32, 64, 96, 128, 160, 4096, 9024] {
        let weights = random.bytes(cols / 2);
        let x = random.normals(cols);
        let scales: Vec<f32> =
            random.normals(cols / 32).iter().map(|x| half::bf16::from_f32(*x).to_f32()).collect();
        let scaled: Vec<f64> = decode(DType::I4, &weights)
            .iter()
            .enumerate()
            .map(|(k, w)| w * f64::from(scales[k / 32]))
            .collect();
        let (exact, sum_of_magnitudes) = exact_dot(&scaled, &x);
        let actual = f64::from(scaled_dot(DType::I4, &weights, &scales, &x));
        // Half a step of each group's activations.
        let steps = x.chunks(32).zip(scaled.chunks(32)).map(|(x, w)| {
            let largest = x.iter().fold(0.0f32, |a, x| a.max(x.abs()));
            f64::from(largest) / 127.0 * w.iter().map(|w| w.abs()).sum::<f64>()
        });
        // Then one rounding for each group of a lane, two of its scales, and four of the tree.
        let roundings = cols.div_ceil(512) as f64 + 6.0;
        let bound = 0.5001 * steps.sum::<f64>() + 1.001 * roundings * ROUNDING * sum_of_magnitudes;
        assert!((actual - exact).abs() <= bound, "{cols}: {actual}, {exact}");
    }
}

/// By a plain loop over what the activations were rounded to.
#[test]
fn sums_of_groups_are_exact_and_go_to_their_lanes() {
    let mut random = Random(33);
    for cols in [32, 160, 512, 544, 2048] {
        let (weights, x) = (random.bytes(cols / 2), random.normals(cols));
        let scales: Vec<f32> =
            random.normals(cols / 32).iter().map(|x| half::bf16::from_f32(*x).to_f32()).collect();
        let quantized = Isa::SCALAR.quantize_by_group(&x, cols).unwrap();
        let mut lanes = [[0.0f32; 4]; 4];
        for (group, (values, scale)) in quantized.tokens().flatten().enumerate() {
            let stored = decode(DType::I4, &weights[16 * group..][..16]);
            let sum: f64 = stored.iter().zip(values).map(|(w, q)| w * f64::from(q)).sum();
            let lane = &mut lanes[group % 4][group % 16 / 4];
            *lane = (sum as f32).mul_add(scales[group] * scale, *lane);
        }
        let mut lanes = lanes.as_flattened().to_vec();
        while lanes.len() > 1 {
            let (low, high) = lanes.split_at(lanes.len() / 2);
            lanes = low.iter().zip(high).map(|(a, b)| a + b).collect();
        }
        assert_eq!(lanes, [scaled_dot(DType::I4, &weights, &scales, &x)], "{cols}");
    }
}

#[test]
fn integer_sums_are_exact() {
    let mut random = Random(24);
    for cols in [1, 33, 8192, 20001] {
        let weights = random.bytes(cols);
        let x = random.normals(cols);
        let quantized = Isa::SCALAR.quantize(&x, cols).unwrap();
        let values = quantized.tokens().next().unwrap();
        let sum: i128 = weights.iter().zip(values).map(|(w, q)| i128::from(*w as i8) * i128::from(*q)).sum();
        assert_eq!(dot(DType::I8, &weights, Some(0.3), &x), sum as f32 * quantized.scales()[0] * 0.3);
    }
}

#[test]
fn quantized_inputs_stay_within_half_a_step() {
    let mut random = Random(25);
    for exponent in [-90, -20, 0, 30, 120] {
        let x: Vec<f32> = random.normals(999).iter().map(|x| x * 2f32.powi(exponent)).collect();
        let quantized = Isa::SCALAR.quantize(&x, 333).unwrap();
        for ((x, values), scale) in x.chunks(333).zip(quantized.tokens()).zip(quantized.scales()) {
            assert!(values.iter().any(|q| q.abs() == 32767));
            for (x, q) in x.iter().zip(values) {
                let error = (f64::from(*x) - f64::from(*q) * f64::from(*scale)).abs();
                assert!(error <= 0.51 * f64::from(*scale), "{x} {q} {scale}");
            }
        }
    }
    let tiny = Isa::SCALAR.quantize(&[1e-31, -1e-31, 0.0], 3).unwrap();
    assert_eq!((tiny.tokens().next(), tiny.scales()), (Some(&[0, 0, 0][..]), &[0.0][..]));
    let broken = Isa::SCALAR.quantize(&[1.0, f32::NEG_INFINITY], 2).unwrap();
    assert_eq!((broken.tokens().next(), broken.scales()[0].to_bits()), (Some(&[0, 0][..]), 0x7fc0_0000));
}

#[test]
fn inputs_quantized_by_group_stay_within_half_a_step() {
    let mut random = Random(34);
    for exponent in [-90, -20, 0, 30, 120] {
        let x: Vec<f32> = random.normals(1088).iter().map(|x| x * 2f32.powi(exponent)).collect();
        let quantized = Isa::SCALAR.quantize_by_group(&x, 544).unwrap();
        let groups: Vec<_> = quantized.tokens().flatten().collect();
        assert_eq!(groups.len(), 34);
        for (x, (values, scale)) in x.chunks(32).zip(groups) {
            assert!(values.iter().any(|q| q.abs() == 127));
            for (x, q) in x.iter().zip(values) {
                let error = (f64::from(*x) - f64::from(q) * f64::from(scale)).abs();
                assert!(error <= 0.5001 * f64::from(scale), "{x} {q} {scale}");
            }
        }
    }
    let mut x = [1e-31; 96];
    x[40] = f32::NAN;
    x[70] = -254.0;
    let quantized = Isa::SCALAR.quantize_by_group(&x, 96).unwrap();
    let groups: Vec<_> =
        quantized.tokens().flatten().map(|(values, scale)| (values[6], scale.to_bits())).collect();
    assert_eq!(groups, [(0, 0), (0, 0x7fc0_0000), (-127, 2f32.to_bits())]);
}

#[test]
fn norms_follow_their_formula() {
    let mut random = Random(26);
    for n in [1, 5, 16, 100, 2048] {
        let (x, w) = (random.normals(2 * n), random.normals(n));
        let bytes = f32_bytes(&w);
        let mut out = vec![0.0; 2 * n];
        let weight = Vector::new(DType::F32, n, &bytes).unwrap();
        Isa::SCALAR.rms_norm(&x, &weight, 1e-5, &mut out).unwrap();
        for (x, out) in x.chunks(n).zip(out.chunks(n)) {
            let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / n as f64;
            for ((x, w), out) in x.iter().zip(&w).zip(out) {
                let exact = f64::from(*x) * f64::from(*w) / (mean + f64::from(1e-5f32)).sqrt();
                let bound = exact.abs() * ROUNDING * (n.div_ceil(16) as f64 / 2.0 + 10.0);
                assert!((f64::from(*out) - exact).abs() <= bound, "{n}: {out}, {exact}");
            }
        }
    }
}

#[test]
fn rotations_follow_their_formula() {
    let mut random = Random(27);
    let (x, half) = (random.normals(34), 17);
    let angles = random.normals(half);
    let cos: Vec<f32> = angles.iter().map(|a| a.cos()).collect();
    let sin: Vec<f32> = angles.iter().map(|a| a.sin()).collect();
    let mut turned = x.clone();
    Isa::SCALAR.rope(&mut turned, &cos, &sin).unwrap();
    for i in 0..half {
        let [a, b, cos, sin] = [x[i], x[i + half], cos[i], sin[i]].map(f64::from);
        let bound = 2.0 * ROUNDING * (a.abs() + b.abs());
        assert!((f64::from(turned[i]) - (a * cos - b * sin)).abs() <= bound);
        assert!((f64::from(turned[i + half]) - (b * cos + a * sin)).abs() <= bound);
    }
}

fn exact_softmax(x: &[f64]) -> Vec<f64> {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let e: Vec<f64> = x.iter().map(|x| (x - max).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.iter().map(|e| e / sum).collect()
}

#[test]
fn softmax_follows_its_formula() {
    let mut random = Random(28);
    for n in [1, 2, 17, 1000] {
        let x: Vec<f32> = random.normals(n).iter().map(|x| x * 5.0).collect();
        let exact = exact_softmax(&x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>());
        let mut actual = x;
        Isa::SCALAR.softmax(&mut actual);
        for (actual, exact) in actual.iter().zip(exact) {
            // x - max is rounded once before e^, which makes a relative error of up to 40 roundings.
            let bound = exact * ROUNDING * (50.0 + n.div_ceil(16) as f64);
            assert!((f64::from(*actual) - exact).abs() <= bound, "{n}: {actual}, {exact}");
        }
    }
}

#[test]
fn the_loss_follows_its_formula() {
    let mut random = Random(31);
    for n in [1, 2, 17, 1000, 50_000] {
        let x: Vec<f32> = random.normals(n).iter().map(|x| x * 5.0).collect();
        let exact = exact_softmax(&x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>());
        for target in [0, n / 2, n - 1] {
            let actual = Isa::SCALAR.loss(&mut x.clone(), target).unwrap();
            // Each e^ is off by one unit of f32 and by the rounding of x - max; the sum itself is in f64.
            let error = (actual + exact[target].ln()).abs();
            assert!(error <= 50.0 * ROUNDING, "{n}: {actual}, {error:e}");
        }
    }
    let loss = |x: &[f32], target| Isa::SCALAR.loss(&mut x.to_vec(), target).unwrap();
    assert_eq!(loss(&[3.0], 0).to_bits(), 0.0f64.to_bits());
    assert_eq!(loss(&[0.0, f32::NEG_INFINITY], 1), f64::INFINITY);
    assert_eq!(loss(&[0.0, f32::NEG_INFINITY], 0), 0.0);
    for x in [[f32::NAN, 1.0], [1.0, f32::INFINITY], [f32::NEG_INFINITY; 2]] {
        assert_eq!(loss(&x, 0).to_bits(), 0x7ff8_0000_0000_0000);
    }
}

#[test]
fn attention_follows_its_formula() {
    let mut random = Random(29);
    for dtype in [DType::F16, DType::F32] {
        for (group, head_dim, positions) in [(1, 16, 1), (2, 24, 5), (4, 64, 300)] {
            let queries = random.normals(group * head_dim);
            let (keys, values) = (random.normals(positions * head_dim), random.normals(positions * head_dim));
            let shape = HeadShape { dtype, head_dim };
            let mut store = (vec![0; shape.keys_len(positions)], vec![0; shape.values_len(positions)]);
            for (position, row) in keys.chunks(head_dim).zip(values.chunks(head_dim)).enumerate() {
                let place = (&mut store.0[..], &mut store.1[..]);
                Isa::SCALAR.store_position(shape, position, row, place).unwrap();
            }
            let (scale, stride) = (0.25, queries.len());
            let mut out = vec![0.0; group * head_dim];
            let span = 0..positions;
            let args = Attention {
                shape,
                keys: &store.0,
                values: &store.1,
                queries: &queries,
                stride,
                group,
                spans: std::slice::from_ref(&span),
                scale,
            };
            let matrix = MatMut::from_slice(&mut out, 1, stride).unwrap();
            Isa::SCALAR.attention(&args, &mut Vec::new(), matrix).unwrap();
            // The oracle rounds by itself and keeps positions in rows.
            let (keys, values) =
                (decode(dtype, &encode(dtype, &keys)), decode(dtype, &encode(dtype, &values)));
            for (query, out) in queries.chunks(head_dim).zip(out.chunks(head_dim)) {
                let scores: Vec<f64> =
                    keys.chunks(head_dim).map(|key| exact_dot(key, query).0 * f64::from(scale)).collect();
                let weights = exact_softmax(&scores);
                for (d, out) in out.iter().enumerate() {
                    let exact: f64 =
                        weights.iter().zip(values.chunks(head_dim)).map(|(weight, v)| weight * v[d]).sum();
                    assert!((f64::from(*out) - exact).abs() < 2e-6, "{dtype}: {out}, {exact}");
                }
            }
        }
    }
}

#[test]
fn f64_functions_are_within_a_few_ulp() {
    let mut random = Random(30);
    let mut uniform = |low: f64, high: f64| low + (high - low) * (random.bits() >> 11) as f64 / 2f64.powi(53);
    let relative = |actual: f64, exact: f64| ((actual - exact) / exact).abs();
    let mut worst = [0.0f64; 5];
    for _ in 0..200_000 {
        let x = uniform(-700.0, 700.0);
        worst[0] = worst[0].max(relative(math::exp_f64(x), x.exp()));
        let x = uniform(-700.0, 700.0).exp();
        worst[1] = worst[1].max(relative(math::ln_f64(x), x.ln()));
        let x = uniform(0.5, 2.0);
        worst[1] = worst[1].max(relative(math::ln_f64(x), x.ln()));
        let (x, y) = (uniform(1.0, 1e7), uniform(-1.0, 1.0));
        worst[2] = worst[2].max(relative(math::pow_f64(x, y), x.powf(y)));
        let x = [uniform(-4.0, 4.0), uniform(-16_777_216.0, 16_777_216.0)][(x as usize) % 2];
        worst[3] = worst[3].max((math::sin_f64(x) - x.sin()).abs());
        worst[4] = worst[4].max((math::cos_f64(x) - x.cos()).abs());
    }
    let worst_text = worst.map(|worst| format!("{worst:.1e}")).join(", ");
    println!("exp, ln, pow relative, sin, cos absolute: {worst_text}");
    assert!(worst.iter().all(|worst| *worst < 3.4e-16), "{worst:?}");
    // Near multiples of π/2 the absolute error stays small as well.
    for n in (0..10_000_000).step_by(9973) {
        let x = f64::from(n) * std::f64::consts::FRAC_PI_2;
        assert!((math::sin_f64(x) - x.sin()).abs() < 2.3e-16, "{x}");
        assert!((math::cos_f64(x) - x.cos()).abs() < 2.3e-16, "{x}");
    }
}

#[test]
fn f64_functions_at_their_edges() {
    assert_eq!([math::exp_f64(0.0), math::exp_f64(710.0), math::exp_f64(-800.0)], [1.0, f64::INFINITY, 0.0]);
    assert_eq!(math::exp_f64(f64::NEG_INFINITY), 0.0);
    assert_eq!([math::ln_f64(1.0), math::ln_f64(0.0)], [0.0, f64::NEG_INFINITY]);
    assert_eq!(math::ln_f64(f64::INFINITY), f64::INFINITY);
    assert!((math::ln_f64(5e-324) - 5e-324f64.ln()).abs() < 2e-13);
    assert!(math::ln_f64(-1.0).is_nan() && math::ln_f64(f64::NAN).is_nan());
    assert_eq!([math::pow_f64(10_000.0, 0.0), math::pow_f64(2.0, 10.0)], [1.0, 1024.0]);
    assert_eq!([math::pow_f64(1e300, 2.0), math::pow_f64(1e300, -2.0)], [f64::INFINITY, 0.0]);
    assert!(math::pow_f64(0.0, 1.0).is_nan() && math::pow_f64(2.0, f64::NAN).is_nan());
    assert_eq!(math::sin_cos_f64(0.0), (0.0, 1.0));
    assert!(math::sin_f64(f64::INFINITY).is_nan() && math::cos_f64(f64::NAN).is_nan());
}

#[test]
fn weights_are_rounded_to_the_nearest_f8_ties_to_even() {
    let codes: Vec<u8> = (0..=255).filter(|code| code & 0x7f != 0x7f).collect();
    let values: Vec<(u8, f64)> = codes.iter().copied().zip(decode(DType::F8E4M3, &codes)).collect();
    // Codes of one sign are in the order of their values, so even code = even mantissa.
    let nearest = |x: f64| {
        let codes = values.iter().filter(|(code, _)| (*code >= 128) == x.is_sign_negative());
        let best = codes.clone().map(|(_, v)| (v - x).abs()).fold(f64::INFINITY, f64::min);
        let mut ties: Vec<u8> = codes.filter(|(_, v)| (v - x).abs() == best).map(|(c, _)| *c).collect();
        ties.sort_by_key(|code| code & 1);
        ties[0]
    };
    // The largest makes the scale 1.
    let mut row = vec![448.0, -448.0, 0.0, -0.0, f32::MIN_POSITIVE, 1e-45];
    for pair in values.windows(2) {
        let (a, b) = (pair[0].1 as f32, pair[1].1 as f32);
        let middle = (a + b) / 2.0;
        row.extend([a, middle, middle.next_up(), middle.next_down()]);
    }
    let mut random = Random(41);
    row.extend((0..20_000).map(|_| (random.bits() as i32 as f32) / 2f32.powi(23 + random.below(40) as i32)));
    let (mut codes, mut scale) = (vec![0; row.len()], [0; 4]);
    Isa::SCALAR.quantize_weights(DType::F8E4M3, &row, &mut codes, &mut scale).unwrap();
    assert_eq!(scale, 1f32.to_le_bytes());
    for (x, code) in row.iter().zip(codes) {
        assert_eq!(code, nearest(f64::from(*x)), "{x:e}");
    }
}

/// Root mean square of the error over that of the exact result, of projections of 2048 inputs from
/// normal weights, as an import would store them, and inputs of which one in 256 is 20 times larger.
fn projection_error(dtype: DType) -> (f64, f64) {
    const COLS: usize = 2048;
    let mut random = Random(31);
    let (mut signal, mut of_stored, mut of_original) = (0.0, 0.0, 0.0);
    for _ in 0..64 {
        let weights: Vec<f32> = random.normals(COLS).iter().map(|w| w * 0.02).collect();
        let x: Vec<f32> = random
            .normals(COLS)
            .iter()
            .enumerate()
            .map(|(k, x)| x * if k % 256 == 7 { 20.0 } else { 1.0 })
            .collect();
        if dtype == DType::I4 {
            let (mut values, mut scales) = (vec![0; COLS / 2], vec![0; COLS / 16]);
            Isa::SCALAR.quantize_weights(dtype, &weights, &mut values, &mut scales).unwrap();
            let scales: Vec<f32> = decode(DType::BF16, &scales).iter().map(|x| *x as f32).collect();
            let stored: Vec<f64> = decode(DType::I4, &values)
                .iter()
                .enumerate()
                .map(|(k, w)| w * f64::from(scales[k / 32]))
                .collect();
            let original: Vec<f64> = weights.iter().map(|w| f64::from(*w)).collect();
            let actual = f64::from(scaled_dot(DType::I4, &values, &scales, &x));
            let exact = exact_dot(&original, &x).0;
            signal += exact * exact;
            of_stored += (actual - exact_dot(&stored, &x).0).powi(2);
            of_original += (actual - exact).powi(2);
            continue;
        }
        let largest = weights.iter().fold(0.0f32, |a, w| a.max(w.abs()));
        let scale = match dtype {
            DType::I8 => Some(largest / 127.0),
            DType::F8E4M3 => Some(largest / 448.0),
            _ => None,
        };
        let scaled: Vec<f32> = weights.iter().map(|w| w / scale.unwrap_or(1.0)).collect();
        let data = encode(dtype, &scaled);
        let stored: Vec<f64> =
            decode(dtype, &data).iter().map(|w| w * f64::from(scale.unwrap_or(1.0))).collect();
        let original: Vec<f64> = weights.iter().map(|w| f64::from(*w)).collect();
        let actual = f64::from(dot(dtype, &data, scale, &x));
        let exact = exact_dot(&original, &x).0;
        signal += exact * exact;
        of_stored += (actual - exact_dot(&stored, &x).0).powi(2);
        of_original += (actual - exact).powi(2);
    }
    ((of_stored / signal).sqrt(), (of_original / signal).sqrt())
}

/// The table of docs/numerics.md.
#[test]
fn error_budget_of_each_dtype() {
    let budget = [
        (DType::F32, 3e-7, 3e-7),
        (DType::BF16, 3e-7, 2e-3),
        (DType::F16, 3e-7, 2.5e-4),
        (DType::F8E4M3, 3e-7, 3e-2),
        (DType::I8, 2.5e-4, 9e-3),
        (DType::I4, 9e-3, 1e-1),
    ];
    for (dtype, arithmetic, with_storage) in budget {
        let (of_stored, of_original) = projection_error(dtype);
        println!("{dtype:8} arithmetic {of_stored:.1e}, with storage {of_original:.1e}");
        assert!(of_stored < arithmetic && of_original < with_storage, "{dtype}: {of_stored} {of_original}");
    }
}
