//! Owns quantization to I4: one BF16 scale per group of 32 neighbours in a row, deterministic.
//!
//! Of thirteen scales, the one with the least squared error is taken. Each step is rounded to f32, and
//! the order of the sum is fixed, so vector code gives the same bits:
//!
//! 1. `m` is the largest element if it is larger than the smallest negated, else the smallest. If
//!    it is 0, the scale is 1 and all values are 0.
//! 2. For `n` in 24..=36, the scale is `m × (−n / 256)`, its magnitude at least 2⁻¹²⁶, rounded to BF16, ties
//!    to even: `n` of 32 takes `m` to −8.
//! 3. A value is `y = x × (1 / scale)`, cut to −8..=7 and rounded, ties to even; its error is `e = y − value`.
//! 4. `e²` is summed up in 16 lanes, as in a dot product, and multiplied by `(scale / m)²`. The first
//!    of the smallest results wins.

use std::ops::RangeInclusive;

use super::isa::{Isa, Kernel};
use super::scalar::LANES;
use super::simd::{self, Simd};
use crate::dtype::GROUP;

/// Bytes of a group's values.
const GROUP_BYTES: usize = GROUP / 2;

/// A group of zeros.
const ZEROS: [u8; GROUP_BYTES] = [0x88; GROUP_BYTES];

/// 256ths of the largest element that are tried as scales.
const CANDIDATES: RangeInclusive<u8> = 24..=36;

/// Adding and subtracting it rounds what is small beside it to an integer, ties to even.
const ROUNDER: f32 = 12_582_912.0;

/// Rounds a finite number to BF16.
#[inline(always)]
fn round_to_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
}

/// The nearest of −8..=7.
#[inline(always)]
fn round(y: f32) -> f32 {
    let y = if y > -8.0 { y } else { -8.0 };
    let y = if y < 7.0 { y } else { 7.0 };
    (y + ROUNDER) - ROUNDER
}

/// The sum of the squared errors with a scale, in units of it.
#[inline(always)]
fn squared_error(x: &[f32; GROUP], inverse: f32) -> f32 {
    let mut squares = [0.0; GROUP];
    for (square, x) in squares.iter_mut().zip(x) {
        let y = x * inverse;
        let error = y - round(y);
        *square = error * error;
    }
    let mut lanes = [0.0; LANES];
    for (lane, (a, b)) in lanes.iter_mut().zip(squares.iter().zip(&squares[LANES..])) {
        *lane = a + b;
    }
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    lanes[0]
}

/// The candidate `n` for a scale, whose largest is `extreme`.
#[inline(always)]
fn candidate(extreme: f32, n: u8) -> f32 {
    let scale = extreme * (-f32::from(n) / 256.0);
    let magnitude = if scale.abs() > f32::MIN_POSITIVE { scale.abs() } else { f32::MIN_POSITIVE };
    round_to_bf16(magnitude.copysign(scale))
}

/// Quantizes one group of finite values. Returns its scale.
fn quantize_group(x: &[f32; GROUP], out: &mut [u8; GROUP_BYTES]) -> f32 {
    let largest = x.iter().fold(x[0], |a, &b| if b > a { b } else { a });
    let smallest = x.iter().fold(x[0], |a, &b| if b < a { b } else { a });
    let extreme = if largest > -smallest { largest } else { smallest };
    if extreme == 0.0 {
        *out = ZEROS;
        return 1.0;
    }
    let (mut best, mut least) = (1.0, f32::INFINITY);
    for n in CANDIDATES {
        let scale = candidate(extreme, n);
        let ratio = scale / extreme;
        let error = squared_error(x, 1.0 / scale) * (ratio * ratio);
        if error < least {
            (best, least) = (scale, error);
        }
    }
    let inverse = 1.0 / best;
    for (out, x) in out.iter_mut().zip(x.as_chunks::<2>().0) {
        let [low, high] = x.map(|x| (round(x * inverse) + 8.0) as u8);
        *out = low | high << 4;
    }
    best
}

/// The same in vectors, of which a group is two.
#[inline(always)]
fn quantize_group_simd<S: Simd>(s: S, x: &[f32; GROUP], out: &mut [u8; GROUP_BYTES]) -> f32 {
    let (low, high) = (simd::load(s, &x[..LANES]), simd::load(s, &x[LANES..]));
    let largest = simd::lanes(s, simd::max(s, low, high));
    let smallest = simd::lanes(s, simd::max(s, s.neg(low), s.neg(high)));
    let (mut largest_of_all, mut smallest_of_all) = (largest[0], -smallest[0]);
    for i in 1..LANES {
        largest_of_all = if largest[i] > largest_of_all { largest[i] } else { largest_of_all };
        smallest_of_all = if -smallest[i] < smallest_of_all { -smallest[i] } else { smallest_of_all };
    }
    let extreme = if largest_of_all > -smallest_of_all { largest_of_all } else { smallest_of_all };
    if extreme == 0.0 {
        *out = ZEROS;
        return 1.0;
    }
    let (mut best, mut least) = (1.0, f32::INFINITY);
    for n in CANDIDATES {
        let scale = candidate(extreme, n);
        let inverse = s.splat(1.0 / scale);
        let (a, b) = (s.mul(low, inverse), s.mul(high, inverse));
        let (a, b) = (s.sub(a, round_simd(s, a)), s.sub(b, round_simd(s, b)));
        let ratio = scale / extreme;
        let error = s.sum(s.add(s.mul(a, a), s.mul(b, b))) * (ratio * ratio);
        if error < least {
            (best, least) = (scale, error);
        }
    }
    let inverse = s.splat(1.0 / best);
    // No closure: it would not inherit the instruction set.
    let low = s.narrow_i16(round_simd(s, s.mul(low, inverse)));
    let high = s.narrow_i16(round_simd(s, s.mul(high, inverse)));
    let values = [low, high];
    for (out, pair) in out.iter_mut().zip(values.as_flattened().as_chunks::<2>().0) {
        *out = (pair[0] + 8) as u8 | ((pair[1] + 8) as u8) << 4;
    }
    best
}

/// The nearest of −8..=7; a zero may have another sign than [`round`] gives it, which changes no error.
#[inline(always)]
fn round_simd<S: Simd>(s: S, y: S::Floats) -> S::Floats {
    let (bottom, top) = (s.splat(-8.0), s.splat(7.0));
    let y = s.select(s.less(bottom, y), y, bottom);
    s.round_ties_even(s.select(s.less(y, top), y, top))
}

struct QuantizeGroups<'a> {
    row: &'a [f32],
    values: &'a mut [u8],
    scales: &'a mut [u8],
}

impl Isa {
    /// Quantizes a row of finite values, whole groups of them: to half a byte each, and a BF16 scale for
    /// each group.
    pub(crate) fn quantize_groups(self, row: &[f32], values: &mut [u8], scales: &mut [u8]) {
        self.run(QuantizeGroups { row, values, scales });
    }
}

/// Runs a function from a group and its place to its scale over all of them.
macro_rules! each_group {
    ($job:ident, $x:ident, $out:ident, $quantize:expr) => {
        let (values, scales) = ($job.values.as_chunks_mut().0, $job.scales.as_chunks_mut().0);
        for (($x, $out), scale) in $job.row.as_chunks().0.iter().zip(values).zip(scales) {
            let [_, _, low, high] = $quantize.to_le_bytes();
            *scale = [low, high];
        }
    };
}

impl Kernel for QuantizeGroups<'_> {
    fn scalar(self) {
        each_group!(self, x, out, quantize_group(x, out));
    }

    #[inline(always)]
    fn simd<S: Simd>(self, s: S) {
        each_group!(self, x, out, quantize_group_simd(s, x, out));
    }
}
