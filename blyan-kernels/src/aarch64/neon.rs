//! NEON: 16 lanes are four registers, of which there are 32.

use std::arch::aarch64::*;
use std::arch::asm;

use crate::scalar::LANES;
use crate::simd::{self, Grid, Part, Simd};

/// NEON, which every aarch64 CPU has and Rust compiles for: a token like those of x86-64, without a
/// question to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Neon;

/// Calls intrinsics.
macro_rules! intrinsics {
    ($($body:tt)*) => {
        // SAFETY: every aarch64 CPU has NEON; and what a pointer reads or writes, without an alignment,
        // lies within the array whose reference it comes from.
        unsafe { $($body)* }
    };
}

/// Lanes 0..4, 4..8, 8..12 and 12..16.
type Four<T> = [T; 4];

/// One operation on each of the four registers of its arguments.
macro_rules! each {
    ($operation:ident, $a:expr) => {
        match $a {
            [a, b, c, d] => intrinsics!([$operation(a), $operation(b), $operation(c), $operation(d)]),
        }
    };
    ($operation:ident, $x:expr, $y:expr) => {
        match ($x, $y) {
            (x, y) => intrinsics!([
                $operation(x[0], y[0]),
                $operation(x[1], y[1]),
                $operation(x[2], y[2]),
                $operation(x[3], y[3]),
            ]),
        }
    };
    ($operation:ident, $x:expr, $y:expr, $z:expr) => {
        match ($x, $y, $z) {
            (x, y, z) => intrinsics!([
                $operation(x[0], y[0], z[0]),
                $operation(x[1], y[1], z[1]),
                $operation(x[2], y[2], z[2]),
                $operation(x[3], y[3], z[3]),
            ]),
        }
    };
}

/// Pointers to the four parts, of as many elements, of an array.
#[inline(always)]
fn parts<T>(array: &[T]) -> Four<*const T> {
    let part = array.len() / 4;
    [0, 1, 2, 3].map(|i| array.as_ptr().wrapping_add(i * part))
}

/// 16 signed bytes as i16.
#[inline]
#[target_feature(enable = "neon")]
fn widen_bytes(bytes: uint8x16_t) -> [int16x8_t; 2] {
    let bytes = vreinterpretq_s8_u8(bytes);
    [vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes)]
}

/// E4M3 to binary16 but for a factor of 2^8, as on x86-64: s…s eeee mmm → s 0 eeee mmm 0000000, and the
/// one magnitude that is NaN to all ones.
#[inline]
#[target_feature(enable = "neon")]
fn f8_to_f16(bits: int16x8_t) -> uint16x8_t {
    let shifted = vreinterpretq_u16_s16(vshlq_n_s16::<7>(bits));
    let magnitude = vandq_u16(shifted, vdupq_n_u16(0x3fff));
    let halves = vandq_u16(shifted, vdupq_n_u16(0xbfff));
    vorrq_u16(halves, vceqq_u16(magnitude, vdupq_n_u16(0x3f80)))
}

/// binary16 to f32.
#[inline]
#[target_feature(enable = "neon")]
fn f16_to_f32(halves: uint16x4_t) -> float32x4_t {
    let floats;
    // SAFETY: converts one register to another; each ARMv8 CPU can.
    unsafe {
        asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) floats, in(vreg) halves, options(pure, nomem, nostack));
    }
    floats
}

/// f32 to binary16, rounded as FPCR says: to nearest even.
#[inline]
#[target_feature(enable = "neon")]
fn f32_to_f16(floats: float32x4_t) -> uint16x4_t {
    let halves;
    // SAFETY: converts one register to another; each ARMv8 CPU can.
    unsafe {
        asm!("fcvtn {0:v}.4h, {1:v}.4s", out(vreg) halves, in(vreg) floats, options(pure, nomem, nostack));
    }
    halves
}

#[inline]
#[target_feature(enable = "neon")]
fn bf16_to_f32(bits: uint16x4_t) -> float32x4_t {
    vreinterpretq_f32_u32(vshll_n_u16::<16>(bits))
}

#[inline]
#[target_feature(enable = "neon")]
fn not_equal(a: float32x4_t, b: float32x4_t) -> uint32x4_t {
    vmvnq_u32(vceqq_f32(a, b))
}

#[inline]
#[target_feature(enable = "neon")]
fn lower_nibbles(x: uint8x16_t) -> int8x16_t {
    vreinterpretq_s8_u8(vandq_u8(x, vdupq_n_u8(0xf)))
}

#[inline]
#[target_feature(enable = "neon")]
fn upper_nibbles(x: uint8x16_t) -> int8x16_t {
    vreinterpretq_s8_u8(vshrq_n_u8::<4>(x))
}

/// Words 0 to 3 of the groups at `first` and every 64 bytes on.
#[inline]
#[target_feature(enable = "neon")]
fn transpose_quarter(groups: &[u8; 16 * LANES], first: usize) -> Four<uint8x16_t> {
    let load = |i: usize| {
        let group: &[u8; 16] = &groups.as_chunks().0[first / 16 + 4 * i];
        // SAFETY: it reads the array whose reference it comes from.
        vreinterpretq_u32_u8(unsafe { vld1q_u8(group.as_ptr()) })
    };
    let (a, b, c, d) = (load(0), load(1), load(2), load(3));
    // a0 c0 a1 c1 and b0 d0 b1 d1, then a0 b0 c0 d0.
    let (ac, bd) = (vzip1q_u32(a, c), vzip1q_u32(b, d));
    let (ac_high, bd_high) = (vzip2q_u32(a, c), vzip2q_u32(b, d));
    [
        vreinterpretq_u8_u32(vzip1q_u32(ac, bd)),
        vreinterpretq_u8_u32(vzip2q_u32(ac, bd)),
        vreinterpretq_u8_u32(vzip1q_u32(ac_high, bd_high)),
        vreinterpretq_u8_u32(vzip2q_u32(ac_high, bd_high)),
    ]
}

/// Adds the products of four neighbours to each lane.
#[inline]
#[target_feature(enable = "neon")]
fn add_fours(acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    let low = vmull_s8(vget_low_s8(w), vget_low_s8(x));
    vpadalq_s16(acc, vpaddq_s16(low, vmull_high_s8(w, x)))
}

/// a × b + c
#[inline]
#[target_feature(enable = "neon")]
fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
    vfmaq_f32(c, a, b)
}

#[inline]
#[target_feature(enable = "neon")]
fn power_of_two(n: float32x4_t) -> float32x4_t {
    let exponent = vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127));
    vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent))
}

/// All 16 lanes.
#[inline]
#[target_feature(enable = "neon")]
fn sum_lanes([a, b, c, d]: Four<int32x4_t>) -> f64 {
    // Exact: the sum is far below 2^53.
    (vaddlvq_s32(a) + vaddlvq_s32(b) + vaddlvq_s32(c) + vaddlvq_s32(d)) as f64
}

impl Simd for Neon {
    type Floats = Four<float32x4_t>;
    type Mask = Four<uint32x4_t>;
    type Shorts = Four<int16x8_t>;
    type Bytes = Four<int8x16_t>;
    type Words = [Four<uint8x16_t>; 4];
    type Sums = Four<int32x4_t>;
    type GroupSums = Four<int32x4_t>;
    type F8s<'a> = &'a [u8; 4 * LANES];

    const ROW_BY_ROW: usize = 2;
    const ROW_BY_ROW_COSTLY: usize = 1;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::Floats {
        intrinsics!([vdupq_n_f32(x); 4])
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::Floats {
        each!(vld1q_f32, parts(x))
    }
    #[inline(always)]
    fn store(self, x: Self::Floats, out: &mut [f32; LANES]) {
        for (out, x) in out.as_chunks_mut::<4>().0.iter_mut().zip(x) {
            intrinsics!(vst1q_f32(out.as_mut_ptr(), x));
        }
    }

    #[inline(always)]
    fn widen_f32(self, bytes: &[u8; 4 * LANES]) -> Self::Floats {
        each!(vreinterpretq_f32_u8, each!(vld1q_u8, parts(bytes)))
    }
    #[inline(always)]
    fn widen_bf16(self, bytes: &[u8; 2 * LANES]) -> Self::Floats {
        let bits = each!(vld1_u8, parts(bytes));
        each!(bf16_to_f32, each!(vreinterpret_u16_u8, bits))
    }
    #[inline(always)]
    fn widen_f16(self, bytes: &[u8; 2 * LANES]) -> Self::Floats {
        let bits = each!(vld1_u8, parts(bytes));
        each!(f16_to_f32, each!(vreinterpret_u16_u8, bits))
    }
    #[inline(always)]
    fn prepare_f8(self, bytes: &[u8; 4 * LANES]) -> &[u8; 4 * LANES] {
        bytes
    }
    #[inline(always)]
    fn widen_f8(self, bytes: &[u8; 4 * LANES], part: usize) -> Self::Floats {
        let bytes: &[u8; LANES] = &bytes.as_chunks().0[part];
        let quarters = intrinsics! {
            let [a, b] = widen_bytes(vld1q_u8(bytes.as_ptr()));
            let (a, b) = (f8_to_f16(a), f8_to_f16(b));
            [vget_low_u16(a), vget_high_u16(a), vget_low_u16(b), vget_high_u16(b)]
        };
        each!(vmulq_f32, each!(f16_to_f32, quarters), self.splat(256.0))
    }
    #[inline(always)]
    fn widen_i8(self, bytes: &[u8; LANES]) -> Self::Floats {
        let quarters = intrinsics! {
            let [a, b] = widen_bytes(vld1q_u8(bytes.as_ptr()));
            [vget_low_s16(a), vget_high_s16(a), vget_low_s16(b), vget_high_s16(b)]
        };
        each!(vcvtq_f32_s32, each!(vmovl_s16, quarters))
    }
    #[inline(always)]
    fn narrow_f16(self, x: Self::Floats) -> [u8; 2 * LANES] {
        let mut bytes = [0; 2 * LANES];
        let halves = each!(vreinterpret_u8_u16, each!(f32_to_f16, x));
        for (out, halves) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(halves) {
            intrinsics!(vst1_u8(out.as_mut_ptr(), halves));
        }
        bytes
    }
    #[inline(always)]
    fn narrow_i16(self, x: Self::Floats) -> [i16; LANES] {
        let mut values = [0; LANES];
        let shorts = each!(vmovn_s32, each!(vcvtnq_s32_f32, x));
        for (out, shorts) in values.as_chunks_mut::<4>().0.iter_mut().zip(shorts) {
            intrinsics!(vst1_s16(out.as_mut_ptr(), shorts));
        }
        values
    }

    #[inline(always)]
    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        each!(vaddq_f32, a, b)
    }
    #[inline(always)]
    fn sub(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        each!(vsubq_f32, a, b)
    }
    #[inline(always)]
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        each!(vmulq_f32, a, b)
    }
    #[inline(always)]
    fn div(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        each!(vdivq_f32, a, b)
    }
    #[inline(always)]
    fn fma(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        each!(fma, a, b, c)
    }
    #[inline(always)]
    fn neg(self, x: Self::Floats) -> Self::Floats {
        each!(vnegq_f32, x)
    }
    #[inline(always)]
    fn abs(self, x: Self::Floats) -> Self::Floats {
        each!(vabsq_f32, x)
    }
    #[inline(always)]
    fn round_ties_even(self, x: Self::Floats) -> Self::Floats {
        each!(vrndnq_f32, x)
    }
    #[inline(always)]
    fn pow2(self, n: Self::Floats) -> Self::Floats {
        each!(power_of_two, n)
    }

    #[inline(always)]
    fn less(self, a: Self::Floats, b: Self::Floats) -> Self::Mask {
        each!(vcltq_f32, a, b)
    }
    #[inline(always)]
    fn is_nan(self, x: Self::Floats) -> Self::Mask {
        each!(not_equal, x, x)
    }
    #[inline(always)]
    fn select(self, mask: Self::Mask, yes: Self::Floats, no: Self::Floats) -> Self::Floats {
        each!(vbslq_f32, mask, yes, no)
    }

    #[inline(always)]
    fn sum(self, x: Self::Floats) -> f32 {
        intrinsics! {
            let four = vaddq_f32(vaddq_f32(x[0], x[2]), vaddq_f32(x[1], x[3]));
            let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
            vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
        }
    }

    #[inline(always)]
    fn sum_each(self, x: [Self::Floats; 4]) -> [f32; 4] {
        x.map(|x| self.sum(x))
    }

    #[inline(always)]
    fn zero_sums(self) -> Self::Sums {
        intrinsics!([vdupq_n_s32(0); 4])
    }
    #[inline(always)]
    fn widen_i8_to_i16(self, bytes: &[u8; 2 * LANES]) -> Self::Shorts {
        each!(vmovl_s8, each!(vreinterpret_s8_u8, each!(vld1_u8, parts(bytes))))
    }
    #[inline(always)]
    fn load_shorts(self, x: &[i16; 2 * LANES]) -> Self::Shorts {
        each!(vld1q_s16, parts(x))
    }
    #[inline(always)]
    fn add_products(self, acc: Self::Sums, w: Self::Shorts, x: Self::Shorts) -> Self::Sums {
        let low = each!(vmlal_s16, acc, each!(vget_low_s16, w), each!(vget_low_s16, x));
        each!(vmlal_high_s16, low, w, x)
    }
    #[inline(always)]
    fn load_bytes(self, x: &[i8; 4 * LANES]) -> Self::Bytes {
        each!(vld1q_s8, parts(x))
    }
    #[inline(always)]
    fn transpose_words(self, groups: &[u8; 16 * LANES]) -> Self::Words {
        let quarters = intrinsics!([0, 16, 32, 48].map(|first| transpose_quarter(groups, first)));
        [0, 1, 2, 3].map(|word| quarters.map(|quarter| quarter[word]))
    }
    #[inline(always)]
    fn transpose_bf16(self, bytes: &[u8; 2 * LANES]) -> Self::Floats {
        let mut scales = [0u16; LANES];
        for (scale, bytes) in scales.iter_mut().zip(bytes.as_chunks().0) {
            *scale = u16::from_le_bytes(*bytes);
        }
        let quarters = intrinsics!(vld4_u16(scales.as_ptr()));
        each!(bf16_to_f32, [quarters.0, quarters.1, quarters.2, quarters.3])
    }
    #[inline(always)]
    fn nibbles(self, words: Self::Words, part: usize) -> Self::Bytes {
        match part % 2 {
            0 => each!(lower_nibbles, words[part / 2]),
            _ => each!(upper_nibbles, words[part / 2]),
        }
    }
    #[inline(always)]
    fn zero_group_sums(self) -> Self::GroupSums {
        self.zero_sums()
    }
    #[inline(always)]
    fn add_nibble_products(self, acc: Self::GroupSums, w: Self::Bytes, x: Self::Bytes) -> Self::GroupSums {
        each!(add_fours, acc, w, x)
    }
    #[inline(always)]
    fn group_sums_to_floats(self, sums: Self::GroupSums, offsets: &[i32; LANES]) -> Self::Floats {
        each!(vcvtq_f32_s32, each!(vaddq_s32, sums, each!(vld1q_s32, parts(offsets))))
    }
    #[inline(always)]
    fn total_each(self, x: [Self::Sums; 4]) -> [f64; 4] {
        each!(sum_lanes, x)
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        // SAFETY: a hint that reads nothing.
        unsafe { asm!("prfm pldl2keep, [{0}]", in(reg) at, options(readonly, nostack, preserves_flags)) }
    }

    #[inline(never)]
    fn run<P: Part<Self>>(self, part: P) {
        part.inlined(self);
    }

    #[inline(always)]
    fn cover(self, grid: &mut impl Grid<Self>) {
        // 4 sums take 16 of 32 registers; the rest holds a row's and a column's operands.
        simd::cover!(self, grid, 4 x 1, 2 x [], 2);
    }
    #[inline(always)]
    fn cover_twofold(self, grid: &mut impl Grid<Self>) {
        simd::cover!(self, grid, 4 x 1, 1 x [], 2);
    }
}
