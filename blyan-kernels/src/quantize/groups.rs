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

use super::error::{KernelError, check_len};
use super::isa::{Isa, Kernel};
use super::operand::GroupScale;
use super::scalar::LANES;
use super::simd::{self, Simd};
use crate::dtype::GROUP;

/// Bytes of a group's values.
const GROUP_BYTES: usize = GROUP / 2;

/// A group of zeros.
const ZEROS: [u8; GROUP_BYTES] = [0x88; GROUP_BYTES];

/// 256ths of the largest element that are tried as scales, the last one again to fill the lanes.
const CANDIDATES: [u8; LANES] = [24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 36, 36, 36];

/// Groups that are quantized step by step together.
const AT_ONCE: usize = 16;

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

/// The largest element or the smallest, whichever is larger in magnitude, in vectors.
#[inline(always)]
fn extreme_simd<S: Simd>(s: S, x: &[f32; GROUP]) -> f32 {
    let (low, high) = (simd::load(s, &x[..LANES]), simd::load(s, &x[LANES..]));
    let largest = s.largest(s.max(low, high));
    let smallest = -s.largest(s.max(s.neg(low), s.neg(high)));
    if largest > -smallest { largest } else { smallest }
}

/// The best scale of a group whose extreme is not 0: one candidate to a lane, so that no sum is over lanes. The
/// last lanes repeat the last candidate.
#[inline(always)]
fn best_scale_simd<S: Simd>(s: S, x: &[f32; GROUP], extreme: f32) -> f32 {
    let mut scales = [0.0; LANES];
    for (scale, n) in scales.iter_mut().zip(CANDIDATES) {
        *scale = candidate(extreme, n);
    }
    let candidates = s.load(&scales);
    let ratio = s.div(candidates, s.splat(extreme));
    let errors = squared_errors_simd(s, x, s.div(s.splat(1.0), candidates));
    let errors = s.mul(errors, s.mul(ratio, ratio));
    let least = -s.largest(s.neg(errors));
    let mut best = 1.0;
    for (scale, error) in scales.into_iter().zip(simd::lanes(s, errors)).rev() {
        best = if error == least { scale } else { best };
    }
    best
}

/// The values of a group with its scale.
#[inline(always)]
fn pack_simd<S: Simd>(s: S, x: &[f32; GROUP], scale: f32, out: &mut [u8; GROUP_BYTES]) {
    let inverse = s.splat(1.0 / scale);
    // No closure: it would not inherit the instruction set.
    let low = s.narrow_i16(round_simd(s, s.mul(simd::load(s, &x[..LANES]), inverse)));
    let high = s.narrow_i16(round_simd(s, s.mul(simd::load(s, &x[LANES..]), inverse)));
    let values = [low, high];
    for (out, pair) in out.iter_mut().zip(values.as_flattened().as_chunks::<2>().0) {
        *out = (pair[0] + 8) as u8 | ((pair[1] + 8) as u8) << 4;
    }
}

/// The sums of the squared errors with 16 scales, in the order of [`squared_error`].
#[inline(always)]
fn squared_errors_simd<S: Simd>(s: S, x: &[f32; GROUP], inverses: S::Floats) -> S::Floats {
    let mut quarters = [s.splat(0.0); LANES / 2];
    for (i, quarter) in quarters.iter_mut().enumerate() {
        let lane = s.add(square_simd(s, x[i], inverses), square_simd(s, x[i + 16], inverses));
        let other = s.add(square_simd(s, x[i + 8], inverses), square_simd(s, x[i + 24], inverses));
        *quarter = s.add(lane, other);
    }
    for half in [4, 2, 1] {
        for i in 0..half {
            quarters[i] = s.add(quarters[i], quarters[i + half]);
        }
    }
    quarters[0]
}

/// The squared errors of one element.
#[inline(always)]
fn square_simd<S: Simd>(s: S, x: f32, inverses: S::Floats) -> S::Floats {
    let y = s.mul(s.splat(x), inverses);
    let error = s.sub(y, round_simd(s, y));
    s.mul(error, error)
}

/// The nearest of −8..=7; a zero may have another sign than [`round`] gives it, which changes no error.
#[inline(always)]
fn round_simd<S: Simd>(s: S, y: S::Floats) -> S::Floats {
    let (bottom, top) = (s.splat(-8.0), s.splat(7.0));
    s.round_ties_even(s.min(s.max(y, bottom), top))
}

struct QuantizeGroups<'a> {
    row: &'a [f32],
    values: &'a mut [u8],
    scales: &'a mut [u8],
}

impl Isa {
    /// Quantizes a row of finite values, whole groups of 32: to half a byte each, and a BF16 scale for each group.
    ///
    /// # Errors
    ///
    /// A row that is no whole groups, or an output of another length.
    pub fn quantize_groups(
        self,
        row: &[f32],
        values: &mut [u8],
        scales: &mut [u8],
    ) -> Result<(), KernelError> {
        if !row.len().is_multiple_of(GROUP) {
            return Err(KernelError::Group { cols: row.len() });
        }
        check_len("values", row.len() / 2, values.len())?;
        check_len("scales", row.len() / GROUP * size_of::<GroupScale>(), scales.len())?;
        self.run(QuantizeGroups { row, values, scales });
        Ok(())
    }
}

impl Kernel for QuantizeGroups<'_> {
    fn scalar(self) {
        let (values, scales) = (self.values.as_chunks_mut().0, self.scales.as_chunks_mut().0);
        for ((x, values), scale) in self.row.as_chunks().0.iter().zip(values).zip(scales) {
            *scale = bf16_bytes(quantize_group(x, values));
        }
    }

    /// Step by step for some groups, as the next group's step need not wait for this one's result.
    #[inline(always)]
    fn simd<S: Simd>(self, s: S) {
        let (values, scales) = (self.values.as_chunks_mut().0, self.scales.as_chunks_mut().0);
        let groups = self.row.as_chunks().0.chunks(AT_ONCE);
        for ((x, values), scales) in groups.zip(values.chunks_mut(AT_ONCE)).zip(scales.chunks_mut(AT_ONCE)) {
            let mut best = [0.0; AT_ONCE];
            for (best, x) in best.iter_mut().zip(x) {
                *best = extreme_simd(s, x);
            }
            for (best, x) in best.iter_mut().zip(x) {
                *best = if *best == 0.0 { 1.0 } else { best_scale_simd(s, x, *best) };
            }
            for (((x, values), scale), best) in x.iter().zip(values).zip(scales).zip(best) {
                pack_simd(s, x, best, values);
                *scale = bf16_bytes(best);
            }
        }
    }
}

/// A number that is one of BF16.
#[inline(always)]
fn bf16_bytes(x: f32) -> [u8; 2] {
    let [_, _, low, high] = x.to_le_bytes();
    [low, high]
}
