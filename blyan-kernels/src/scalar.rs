//! The reference: plain loops that define what every kernel computes, bit for bit.
//!
//! Shares nothing with the vector code but the operand types. docs/numerics.md says the same in
//! words; each function here is one of its sections. Shapes were checked by the caller.

use std::ops::Range;

use super::attention::Attention;
use super::mat::MatMut;
use super::math;
use super::operand::{Input, Vector, Weights, lane_of};
use crate::dtype::{DType, GROUP};

/// Sums run in this many lanes: element k goes to lane k mod 16.
pub(super) const LANES: usize = 16;

/// Replaces any NaN by the canonical one, `0x7fc00000`.
pub(super) fn canonical_nan(x: f32) -> f32 {
    if x.is_nan() { f32::from_bits(0x7fc0_0000) } else { x }
}

/// Adds the lanes: i and i + 8, then i and i + 4, then i + 2, then i + 1.
fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    lanes[0]
}

/// Dot product: each lane adds its products in ascending k, one rounding each; the last row of lanes
/// is filled up with zeros.
fn dot(w: &[f32], x: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    for (w, x) in w.chunks(LANES).zip(x.chunks(LANES)) {
        for (i, lane) in lanes.iter_mut().enumerate() {
            let (w, x) = if i < w.len() { (w[i], x[i]) } else { (0.0, 0.0) };
            *lane = w.mul_add(x, *lane);
        }
    }
    sum_lanes(lanes)
}

/// Dot product of integers, exact.
fn dot_i8(w: &[u8], x: &[i16]) -> i64 {
    w.iter().zip(x).map(|(&w, &x)| i64::from(w as i8) * i64::from(x)).sum()
}

/// Element k of a row of I4: the low half of byte k / 2 where k is even, else the high one, less 8.
fn nibble(row: &[u8], k: usize) -> i32 {
    i32::from(row[k / 2] >> (4 * (k % 2)) & 0xf) - 8
}

fn widen_bf16(bytes: [u8; 2]) -> f32 {
    f32::from_le_bytes([0, 0, bytes[0], bytes[1]])
}

/// Sum of integers times the scales of both: the exact sum of a group meets them in one rounding, in its lane.
fn dot_i4(w: &[u8], scales: &[[u8; 2]], x: &[([i8; GROUP], f32)]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    for (group, (scale, (values, value_scale))) in scales.iter().zip(x).enumerate() {
        let products = values.iter().enumerate().map(|(i, &x)| nibble(w, GROUP * group + i) * i32::from(x));
        let sum: i32 = products.sum();
        let lane = &mut lanes[lane_of(group)];
        *lane = (sum as f32).mul_add(widen_bf16(*scale) * value_scale, *lane);
    }
    sum_lanes(lanes)
}

/// w: (n, d), x: (tokens, d), out: (tokens, rows.len())
pub(super) fn matmul(w: &Weights<'_>, rows: Range<usize>, x: &Input<'_>, out: &mut MatMut<'_>) {
    let mut widened = vec![0.0; w.cols()];
    let groups: Vec<Vec<_>> = match w.dtype() {
        DType::I4 => (0..x.tokens()).map(|token| x.grouped_token(token).collect()).collect(),
        _ => Vec::new(),
    };
    for (column, row) in rows.enumerate() {
        if w.dtype() == DType::I8 {
            for token in 0..x.tokens() {
                let (values, token_scale) = x.quantized_token(token);
                let sum = dot_i8(w.row(row), values) as f32;
                let scaled = sum * token_scale * w.row_scale(row).unwrap_or(1.0);
                out.set(token, column, canonical_nan(scaled));
            }
        } else if w.dtype() == DType::I4 {
            for (token, groups) in groups.iter().enumerate() {
                let sum = dot_i4(w.row(row), w.group_scales(row), groups);
                out.set(token, column, canonical_nan(sum));
            }
        } else {
            widen(w.dtype(), w.row(row), &mut widened);
            for token in 0..x.tokens() {
                let sum = dot(&widened, x.token(token));
                let scaled = w.row_scale(row).map_or(sum, |scale| sum * scale);
                out.set(token, column, canonical_nan(scaled));
            }
        }
    }
}

/// Rounds the values of one scale to integers of a magnitude up to `limit`. Returns the scale.
fn round<T: Copy + Default>(x: &[f32], limit: f32, values: &mut [T], narrow: fn(f32) -> T) -> f32 {
    values.fill(T::default());
    if x.iter().any(|x| !x.is_finite()) {
        return canonical_nan(f32::NAN);
    }
    let largest = x.iter().fold(0.0f32, |largest, x| if x.abs() > largest { x.abs() } else { largest });
    if largest < SMALLEST_QUANTIZED {
        return 0.0;
    }
    let per_unit = limit / largest;
    for (value, x) in values.iter_mut().zip(x) {
        // Within the limit: the product is at most limit × (1 + 2^-23), which rounds to it.
        *value = narrow((x * per_unit).round_ties_even());
    }
    largest / limit
}

/// Rounds one token to 16 bits. Returns its scale.
pub(super) fn quantize(x: &[f32], values: &mut [i16]) -> f32 {
    round(x, 32767.0, values, |x| x as i16)
}

/// Rounds one group of a token to 8 bits. Returns its scale.
pub(super) fn quantize_group(x: &[f32; GROUP], values: &mut [i8; GROUP]) -> f32 {
    round(x, 127.0, values, |x| x as i8)
}

/// A token or group whose largest value is below 2^-100 counts as zero: so neither the scale nor its inverse
/// can leave the normal range.
pub(super) const SMALLEST_QUANTIZED: f32 = 7.888_609e-31;

/// One element, exactly, from little-endian bytes.
fn widen_one(dtype: DType, bytes: &[u8]) -> f32 {
    match (dtype, bytes) {
        (DType::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
        (DType::BF16, &[a, b]) => widen_bf16([a, b]),
        (DType::F16, &[a, b]) => widen_f16(u16::from_le_bytes([a, b])),
        (DType::F8E4M3, &[a]) => widen_f8(a),
        (DType::I8, &[a]) => f32::from(a as i8),
        _ => f32::NAN,
    }
}

/// Elements, exactly: every value of the narrower types is an f32.
fn widen(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    for (out, bytes) in out.iter_mut().zip(bytes.chunks_exact(dtype.size_bytes())) {
        *out = widen_one(dtype, bytes);
    }
}

/// binary16: 5 exponent bits of bias 15, 10 mantissa bits.
fn widen_f16(bits: u16) -> f32 {
    let (exponent, mantissa) = (u32::from(bits >> 10 & 0x1f), u32::from(bits & 0x3ff));
    let magnitude = match exponent {
        0 => mantissa as f32 * 2.0f32.powi(-24),
        0x1f => f32::from_bits(0x7f80_0000 | mantissa << 13),
        _ => f32::from_bits((exponent + 127 - 15) << 23 | mantissa << 13),
    };
    if bits >> 15 == 1 { -magnitude } else { magnitude }
}

/// E4M3FN: 4 exponent bits of bias 7, 3 mantissa bits, no infinity, one NaN of each sign.
fn widen_f8(bits: u8) -> f32 {
    let (exponent, mantissa) = (u32::from(bits >> 3 & 0xf), u32::from(bits & 7));
    let magnitude = match (exponent, mantissa) {
        (0xf, 7) => f32::NAN,
        (0, _) => mantissa as f32 * 2.0f32.powi(-9),
        _ => f32::from_bits((exponent + 127 - 7) << 23 | mantissa << 20),
    };
    if bits >> 7 == 1 { -magnitude } else { magnitude }
}

/// To binary16, to nearest even; too large becomes infinity, NaN becomes `0x7e00`.
fn round_f16(x: f32) -> u16 {
    let sign = (x.to_bits() >> 16 & 0x8000) as u16;
    let magnitude = x.abs();
    if x.is_nan() {
        0x7e00
    } else if magnitude >= 65520.0 {
        sign | 0x7c00
    } else if magnitude < 2.0f32.powi(-14) {
        // Subnormal: units of 2^-24. Rounding up to 1024 units gives the smallest normal number.
        sign | (magnitude * 2.0f32.powi(24)).round_ties_even() as u16
    } else {
        let bits = magnitude.to_bits() - ((127 - 15) << 23);
        let to_even = bits >> 13 & 1;
        sign | ((bits + 0xfff + to_even) >> 13) as u16
    }
}

/// Rounds to the cache's dtype, F16 or F32.
pub(super) fn round_to(dtype: DType, x: &[f32], out: &mut [u8]) {
    for (out, &x) in out.chunks_exact_mut(dtype.size_bytes()).zip(x) {
        if dtype == DType::F16 {
            out.copy_from_slice(&round_f16(x).to_le_bytes());
        } else {
            out.copy_from_slice(&canonical_nan(x).to_le_bytes());
        }
    }
}

/// One row of a matrix as f32, times the row's scale where there is one.
pub(super) fn dequantize_row(w: &Weights<'_>, row: usize, out: &mut [f32]) {
    if w.dtype() == DType::I4 {
        for (k, out) in out.iter_mut().enumerate() {
            let scale = w.group_scales(row)[k / GROUP];
            *out = canonical_nan(nibble(w.row(row), k) as f32 * widen_bf16(scale));
        }
        return;
    }
    widen(w.dtype(), w.row(row), out);
    for out in out.iter_mut() {
        *out = canonical_nan(w.row_scale(row).map_or(*out, |scale| *out * scale));
    }
}

/// x, out: (rows, n), weight: (n,). The mean square is the dot product of the row with itself over n.
pub(super) fn rms_norm(x: &[f32], weight: &Vector<'_>, eps: f32, out: &mut [f32]) {
    let mut widened = vec![0.0; weight.len()];
    widen(weight.dtype(), weight.data(), &mut widened);
    for (x, out) in x.chunks_exact(widened.len()).zip(out.chunks_exact_mut(widened.len())) {
        let mean = dot(x, x) / widened.len() as f32;
        let inverse = 1.0 / (mean + eps).sqrt();
        for (out, (x, w)) in out.iter_mut().zip(x.iter().zip(&widened)) {
            *out = canonical_nan(x * inverse * w);
        }
    }
}

/// gate = gate / (1 + e^-gate) × up
pub(super) fn silu_mul(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = canonical_nan(*gate / (1.0 + math::exp(-*gate)) * up);
    }
}

/// acc = acc + x
pub(super) fn add(acc: &mut [f32], x: &[f32]) {
    for (acc, x) in acc.iter_mut().zip(x) {
        *acc = canonical_nan(*acc + x);
    }
}

/// acc = scale × x + acc, rounded once
pub(super) fn scale_add(acc: &mut [f32], scale: f32, x: &[f32]) {
    for (acc, x) in acc.iter_mut().zip(x) {
        *acc = canonical_nan(scale.mul_add(*x, *acc));
    }
}

/// acc: (rows, n), vector: (n,). acc = acc + vector, each row.
pub(super) fn add_vector(acc: &mut [f32], vector: &Vector<'_>) {
    let mut widened = vec![0.0; vector.len()];
    widen(vector.dtype(), vector.data(), &mut widened);
    for row in acc.chunks_exact_mut(widened.len()) {
        add(row, &widened);
    }
}

/// Into -limit..=limit.
pub(super) fn clamp(x: &mut [f32], limit: f32) {
    for x in x.iter_mut() {
        let from_above = if limit < *x { limit } else { *x };
        *x = canonical_nan(if from_above < -limit { -limit } else { from_above });
    }
}

/// x: (2 h,), cos, sin: (h,). Element i turns with element i + h.
pub(super) fn rope(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, second) = x.split_at_mut(cos.len());
    for (i, (a, b)) in first.iter_mut().zip(second).enumerate() {
        let turned = a.mul_add(cos[i], -(*b * sin[i]));
        *b = canonical_nan(b.mul_add(cos[i], *a * sin[i]));
        *a = canonical_nan(turned);
    }
}

/// x = e^(x - max), and their sum, element i in lane i mod 16. NaN, if any element is.
fn exp_and_sum(x: &mut [f32]) -> f32 {
    let max = x.iter().fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max });
    let mut lanes = [0.0f32; LANES];
    for (i, x) in x.iter_mut().enumerate() {
        *x = math::exp(*x - max);
        lanes[i % LANES] += *x;
    }
    sum_lanes(lanes)
}

/// x = e^(x - max) × (1 / sum)
pub(super) fn softmax(x: &mut [f32]) {
    let inverse = 1.0 / exp_and_sum(x);
    for x in x.iter_mut() {
        *x = canonical_nan(*x * inverse);
    }
}

/// ln Σ e^(x - max) + (max - x[target]), the sum in f64, element i in lane i mod 16.
pub(super) fn loss(x: &[f32], target: usize) -> f64 {
    let max = x.iter().fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max });
    let mut lanes = [0.0f64; LANES];
    for (i, x) in x.iter().enumerate() {
        lanes[i % LANES] += f64::from(math::exp(*x - max));
    }
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    math::ln_f64(lanes[0]) + (f64::from(max) - f64::from(x[target]))
}

/// Each query head of each token over the token's positions; out: (tokens, group × head_dim).
pub(super) fn attention(args: &Attention<'_>, scores: &mut [f32], out: &mut MatMut<'_>) {
    let (shape, head_dim) = (args.shape, args.shape.head_dim);
    let size = shape.dtype.size_bytes();
    let mut row = vec![0.0; head_dim];
    for (token, span) in args.spans.iter().enumerate().filter(|(_, span)| !span.is_empty()) {
        for head in 0..args.group {
            let query = &args.queries[token * args.stride + head * head_dim..][..head_dim];
            let scores = &mut scores[..span.len()];
            for (score, position) in scores.iter_mut().zip(span.clone()) {
                let mut sum = 0.0f32;
                for (d, q) in query.iter().enumerate() {
                    let key = &args.keys[shape.key_place(position, d)..][..size];
                    sum = q.mul_add(widen_one(shape.dtype, key), sum);
                }
                *score = sum * args.scale;
            }
            let inverse = 1.0 / exp_and_sum(scores);
            let Some(out) = out.row_mut(token) else { continue };
            let out = &mut out[head * head_dim..][..head_dim];
            out.fill(0.0);
            for (score, position) in scores.iter().zip(span.clone()) {
                let value = &args.values[position * shape.value_bytes()..];
                widen(shape.dtype, &value[..head_dim * size], &mut row);
                for (out, value) in out.iter_mut().zip(&row) {
                    *out = score.mul_add(*value, *out);
                }
            }
            for out in out.iter_mut() {
                *out = canonical_nan(*out * inverse);
            }
        }
    }
}
