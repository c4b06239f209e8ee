//! AVX-512: 16 lanes are one register, of which there are 32.

use std::arch::asm;
use std::arch::x86_64::*;

use super::avx2::{largest_8, sum_8};
use crate::scalar::LANES;
use crate::simd::{self, Grid, Part, Simd};

/// Proof that the CPU has AVX-512 F, BW, VL, DQ, VNNI, VBMI and GFNI, as servers have had since 2021.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Avx512 {
    /// Whether the CPU is Intel's.
    intel: bool,
}

impl Avx512 {
    /// The first feature that the CPU lacks is the error.
    pub(in super::super) fn detect() -> Result<Self, &'static str> {
        super::avx2::Avx2::detect()?;
        require_features!("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vnni", "avx512vbmi", "gfni");
        Ok(Self { intel: super::is_intel() })
    }

    /// The same set, used as on a CPU of Intel's or of another maker.
    #[cfg(test)]
    pub(in super::super) fn as_on(self, intel: bool) -> Self {
        Self { intel }
    }
}

/// Calls intrinsics.
macro_rules! intrinsics {
    ($($body:tt)*) => {
        // SAFETY: an `Avx512` was made by `detect`, so the CPU has the features of every intrinsic in
        // this file; and what a pointer reads or writes, without an alignment, lies within the array
        // whose reference it comes from.
        unsafe { $($body)* }
    };
}

/// Each magnitude of E4M3 as bf16, which holds them all: 128 low bytes, then 128 high bytes.
static F8_TO_BF16: [u8; 256] = f8_to_bf16();

const fn f8_to_bf16() -> [u8; 256] {
    let mut table = [0; 256];
    let mut magnitude = 0;
    while magnitude < 128 {
        let (exponent, mantissa) = (magnitude as u16 >> 3, magnitude as u16 & 7);
        let bits = if magnitude == 0x7f {
            0x7fc0
        } else if exponent > 0 {
            (exponent + 127 - 7) << 7 | mantissa << 4
        } else if mantissa > 0 {
            // Subnormal, in units of 2^-9: normal with its leading bit shifted out.
            let leading = 15 - mantissa.leading_zeros() as u16;
            (leading + 127 - 9) << 7 | (mantissa << (7 - leading) & 0x7f)
        } else {
            0
        };
        table[magnitude] = bits as u8;
        table[128 + magnitude] = (bits >> 8) as u8;
        magnitude += 1;
    }
    table
}

/// The bytes of a normal E4M3, s eeee mmm, as bf16, whose exponent is e + 120 in 8 bits: E ēēēē eee, where ē is not E. For
/// each bit of a byte, 7 first, which bit of E4M3 it is, inverted or not: no look-up, and no shuffle.
const F8_NORMAL_LOW: i64 = bits_of([Some(3), Some(2), Some(1), Some(0), None, None, None, None]);
const F8_NORMAL_HIGH: i64 = bits_of([Some(7), Some(6), Some(6), Some(6), Some(6), Some(6), Some(5), Some(4)]);
const F8_NORMAL_HIGH_INVERTED: i32 = 0b0011_1100;

/// The matrix of `vgf2p8affineqb` whose row for a bit of the result, 7 first, takes that bit of the source.
const fn bits_of(sources: [Option<u32>; 8]) -> i64 {
    let mut rows = [0; 8];
    let mut row = 0;
    while row < 8 {
        rows[row] = match sources[row] {
            Some(bit) => 1 << bit,
            None => 0,
        };
        row += 1;
    }
    i64::from_le_bytes(rows)
}

/// Where 64 E4M3 are taken from, so that unpacking their bf16 within each 128 bits, low halves and high ones, puts
/// element `l` of each 16 into lane `l`: of the first 16 into the lower half of a lane, of the next 16 into the upper
/// half, where masking alone makes it an f32. Shuffles are what limits this.
static F8_ORDER: [u8; 64] = f8_order();

const fn f8_order() -> [u8; 64] {
    let mut order = [0; 64];
    let mut to = 0;
    while to < 64 {
        let (part, byte) = (to / 16, to % 16);
        let sixteen = byte / 8 * 2 + byte % 2;
        order[to] = (16 * sixteen + 4 * part + byte % 8 / 2) as u8;
        to += 1;
    }
    order
}

/// The nearest of −8..=7 to 0..=15, then to −16..=−1.
static NIBBLES: [f32; 2 * LANES] = nibbles();

const fn nibbles() -> [f32; 2 * LANES] {
    let mut nearest = [0.0; 2 * LANES];
    let mut i = 0;
    while i < LANES {
        nearest[i] = if i < 7 { i as f32 } else { 7.0 };
        nearest[LANES + i] = if i < 8 { -8.0 } else { i as f32 - 16.0 };
        i += 1;
    }
    nearest
}

/// `_mm512_dpwssd_epi32`, and one instruction for certain. Of two that add to the same sum in one basic block, LLVM 22
/// splits the second into `vpmaddwd` and `vpaddd`, which is done sooner but takes more of the core: a tile, which has
/// other sums to go on with, loses by it.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn dpwssd(acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
    let mut sum = acc;
    // SAFETY: it reads and writes registers alone, of a set that the features of this function include.
    unsafe {
        asm!(
            "vpdpwssd {sum}, {w}, {x}",
            sum = inout(zmm_reg) sum,
            w = in(zmm_reg) w,
            x = in(zmm_reg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// `_mm512_fmadd_ps` of part `PART` of 64 floats, which it reads itself: compilers load what two of them read into a register
/// first. That is an instruction more, and how many more bytes of weights a core sees to come hangs on how few there are.
#[inline]
#[target_feature(enable = "avx512f")]
fn fma_from<const PART: usize>(a: __m512, b: &[f32; 4 * LANES], c: __m512) -> __m512 {
    const { assert!(PART < 4) };
    let mut sum = c;
    // SAFETY: it reads registers and 64 bytes within an array, and writes a register, of a set that the features of this
    // function include.
    unsafe {
        asm!(
            "vfmadd231ps {sum}, {a}, [{b} + {offset}]",
            sum = inout(zmm_reg) sum,
            a = in(zmm_reg) a,
            b = in(reg) b.as_ptr(),
            offset = const PART * size_of::<__m512>(),
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    sum
}

impl Simd for Avx512 {
    type Floats = __m512;
    type Mask = __mmask16;
    type Shorts = __m512i;
    type Bytes = __m512i;
    type Words = [__m512i; 4];
    type Sums = __m512i;
    type GroupSums = __m512i;
    type F8s<'a> = (__m512i, __m512i);

    const ROW_BY_ROW: usize = 1;
    const ROW_BY_ROW_COSTLY: usize = 0;
    const F8_NORMALS: bool = true;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        intrinsics!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> __m512 {
        intrinsics!(_mm512_loadu_ps(x.as_ptr()))
    }
    #[inline(always)]
    fn store(self, x: __m512, out: &mut [f32; LANES]) {
        intrinsics!(_mm512_storeu_ps(out.as_mut_ptr(), x))
    }

    #[inline(always)]
    fn widen_f32(self, bytes: &[u8; 4 * LANES]) -> __m512 {
        intrinsics!(_mm512_loadu_ps(bytes.as_ptr().cast()))
    }
    #[inline(always)]
    fn widen_bf16(self, bytes: &[u8; 2 * LANES]) -> __m512 {
        intrinsics! {
            let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(bytes.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
        }
    }
    #[inline(always)]
    fn widen_f16(self, bytes: &[u8; 2 * LANES]) -> __m512 {
        intrinsics!(_mm512_cvtph_ps(_mm256_loadu_si256(bytes.as_ptr().cast())))
    }
    #[inline(always)]
    fn prepare_f8(self, bytes: &[u8; 4 * LANES]) -> (__m512i, __m512i) {
        intrinsics! {
            let order = _mm512_loadu_si512(F8_ORDER.as_ptr().cast());
            let bytes = _mm512_permutexvar_epi8(order, _mm512_loadu_si512(bytes.as_ptr().cast()));
            let table = |i: usize| _mm512_loadu_si512(F8_TO_BF16.as_ptr().cast::<__m512i>().add(i));
            // A look-up minds 7 bits of its index: all but the sign.
            let low = _mm512_permutex2var_epi8(table(0), bytes, table(1));
            let high = _mm512_permutex2var_epi8(table(2), bytes, table(3));
            const A_OR_B_AND_C: i32 = 0b1111_1000;
            let high = _mm512_ternarylogic_epi32::<A_OR_B_AND_C>(high, bytes, _mm512_set1_epi8(-128));
            (_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high))
        }
    }
    #[inline(always)]
    fn prepare_f8_normals(self, bytes: &[u8; 4 * LANES]) -> (__m512i, __m512i) {
        intrinsics! {
            let order = _mm512_loadu_si512(F8_ORDER.as_ptr().cast());
            let bytes = _mm512_permutexvar_epi8(order, _mm512_loadu_si512(bytes.as_ptr().cast()));
            let (low, high) = (_mm512_set1_epi64(F8_NORMAL_LOW), _mm512_set1_epi64(F8_NORMAL_HIGH));
            let low = _mm512_gf2p8affine_epi64_epi8::<0>(bytes, low);
            let high = _mm512_gf2p8affine_epi64_epi8::<F8_NORMAL_HIGH_INVERTED>(bytes, high);
            (_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high))
        }
    }
    #[inline(always)]
    fn widen_f8(self, (first, second): (__m512i, __m512i), part: usize) -> __m512 {
        intrinsics! {
            let upper = _mm512_set1_epi32(!0xffff);
            _mm512_castsi512_ps(match part {
                0 => _mm512_slli_epi32::<16>(first),
                1 => _mm512_and_si512(first, upper),
                2 => _mm512_slli_epi32::<16>(second),
                _ => _mm512_and_si512(second, upper),
            })
        }
    }
    #[inline(always)]
    fn widen_i8(self, bytes: &[u8; LANES]) -> __m512 {
        intrinsics!(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(bytes.as_ptr().cast()))))
    }
    #[inline(always)]
    fn narrow_f16(self, x: __m512) -> [u8; 2 * LANES] {
        let mut bytes = [0; 2 * LANES];
        intrinsics! {
            let halves = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x);
            _mm256_storeu_si256(bytes.as_mut_ptr().cast(), halves);
        }
        bytes
    }
    #[inline(always)]
    fn narrow_i16(self, x: __m512) -> [i16; LANES] {
        let mut values = [0; LANES];
        intrinsics! {
            let shorts = _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(x));
            _mm256_storeu_si256(values.as_mut_ptr().cast(), shorts);
        }
        values
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        intrinsics!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        intrinsics!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        intrinsics!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        intrinsics!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        intrinsics!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn fma_from(self, a: __m512, b: &[f32; 4 * LANES], part: usize, c: __m512) -> __m512 {
        intrinsics! {
            match part {
                0 => fma_from::<0>(a, b, c),
                1 => fma_from::<1>(a, b, c),
                2 => fma_from::<2>(a, b, c),
                _ => fma_from::<3>(a, b, c),
            }
        }
    }
    #[inline(always)]
    fn neg(self, x: __m512) -> __m512 {
        intrinsics!(_mm512_xor_ps(x, _mm512_set1_ps(-0.0)))
    }
    #[inline(always)]
    fn abs(self, x: __m512) -> __m512 {
        intrinsics!(_mm512_andnot_ps(_mm512_set1_ps(-0.0), x))
    }
    #[inline(always)]
    fn round_ties_even(self, x: __m512) -> __m512 {
        intrinsics!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x))
    }
    #[inline(always)]
    fn round_to_nibble(self, x: __m512) -> __m512 {
        intrinsics! {
            // Leaves the integer in the lowest bits, of which a look-up minds 5: it rounds and cuts in two instructions,
            // where rounding alone is two.
            let index = _mm512_castps_si512(_mm512_add_ps(x, _mm512_set1_ps(12_582_912.0)));
            let table = |i: usize| _mm512_loadu_ps(NIBBLES.as_ptr().add(LANES * i));
            _mm512_permutex2var_ps(table(0), index, table(1))
        }
    }
    #[inline(always)]
    fn pow2(self, n: __m512) -> __m512 {
        intrinsics! {
            let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
        }
    }

    #[inline(always)]
    fn less(self, a: __m512, b: __m512) -> __mmask16 {
        intrinsics!(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b))
    }
    #[inline(always)]
    fn is_nan(self, x: __m512) -> __mmask16 {
        intrinsics!(_mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x))
    }
    #[inline(always)]
    fn select(self, mask: __mmask16, yes: __m512, no: __m512) -> __m512 {
        intrinsics!(_mm512_mask_mov_ps(no, mask, yes))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        intrinsics!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        intrinsics!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn largest(self, x: __m512) -> f32 {
        intrinsics!(largest_8(_mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x))))
    }

    #[inline(always)]
    fn transpose(self, x: [__m512; LANES]) -> [__m512; LANES] {
        let mut columns = x;
        intrinsics! {
            // Four rows within each 128 bits, then the 128 bits of four times four rows.
            let mut fours = [_mm512_setzero_pd(); LANES];
            for (four, x) in fours.as_chunks_mut::<4>().0.iter_mut().zip(x.as_chunks::<4>().0) {
                let low = _mm512_castps_pd(_mm512_unpacklo_ps(x[0], x[1]));
                let high = _mm512_castps_pd(_mm512_unpackhi_ps(x[0], x[1]));
                let next_low = _mm512_castps_pd(_mm512_unpacklo_ps(x[2], x[3]));
                let next_high = _mm512_castps_pd(_mm512_unpackhi_ps(x[2], x[3]));
                four[0] = _mm512_unpacklo_pd(low, next_low);
                four[1] = _mm512_unpackhi_pd(low, next_low);
                four[2] = _mm512_unpacklo_pd(high, next_high);
                four[3] = _mm512_unpackhi_pd(high, next_high);
            }
            for i in 0..4 {
                let (a, b) = (_mm512_castpd_ps(fours[i]), _mm512_castpd_ps(fours[4 + i]));
                let (c, d) = (_mm512_castpd_ps(fours[8 + i]), _mm512_castpd_ps(fours[12 + i]));
                let lower = (_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0x44>(c, d));
                let upper = (_mm512_shuffle_f32x4::<0xee>(a, b), _mm512_shuffle_f32x4::<0xee>(c, d));
                columns[i] = _mm512_shuffle_f32x4::<0x88>(lower.0, lower.1);
                columns[4 + i] = _mm512_shuffle_f32x4::<0xdd>(lower.0, lower.1);
                columns[8 + i] = _mm512_shuffle_f32x4::<0x88>(upper.0, upper.1);
                columns[12 + i] = _mm512_shuffle_f32x4::<0xdd>(upper.0, upper.1);
            }
        }
        columns
    }

    #[inline(always)]
    fn sum(self, x: __m512) -> f32 {
        intrinsics!(sum_8(_mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x))))
    }

    #[inline(always)]
    fn sum_each(self, [a, b, c, d]: [__m512; 4]) -> [f32; 4] {
        let mut sums = [0.0; 4];
        intrinsics! {
            // Each 128 bits are four lanes. Lanes i and i + 8:
            let ab = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0b01_00_01_00>(a, b),
                _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b),
            );
            let cd = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0b01_00_01_00>(c, d),
                _mm512_shuffle_f32x4::<0b11_10_11_10>(c, d),
            );
            // i and i + 4: now 128 bits for each of a, b, c, d.
            let four = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0b10_00_10_00>(ab, cd),
                _mm512_shuffle_f32x4::<0b11_01_11_01>(ab, cd),
            );
            let two = _mm512_add_ps(four, _mm512_permute_ps::<0b11_10_11_10>(four));
            let one = _mm512_add_ps(two, _mm512_permute_ps::<0b01_01_01_01>(two));
            let order = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
            _mm_storeu_ps(sums.as_mut_ptr(), _mm512_castps512_ps128(_mm512_permutexvar_ps(order, one)));
        }
        sums
    }

    #[inline(always)]
    fn zero_sums(self) -> __m512i {
        intrinsics!(_mm512_setzero_si512())
    }
    #[inline(always)]
    fn widen_i8_to_i16(self, bytes: &[u8; 2 * LANES]) -> __m512i {
        intrinsics!(_mm512_cvtepi8_epi16(_mm256_loadu_si256(bytes.as_ptr().cast())))
    }
    #[inline(always)]
    fn load_shorts(self, x: &[i16; 2 * LANES]) -> __m512i {
        intrinsics!(_mm512_loadu_si512(x.as_ptr().cast()))
    }
    #[inline(always)]
    fn add_products(self, acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
        intrinsics!(dpwssd(acc, w, x))
    }
    #[inline(always)]
    fn load_bytes(self, x: &[i8; 4 * LANES]) -> __m512i {
        intrinsics!(_mm512_loadu_si512(x.as_ptr().cast()))
    }
    #[inline(always)]
    fn transpose_words(self, groups: &[u8; 16 * LANES]) -> [__m512i; 4] {
        intrinsics! {
            // Of each 128 bits, which are a group: a0 b0 a1 b1, a2 b2 a3 b3, then all four's words.
            let load = |i: usize| _mm512_loadu_si512(groups.as_ptr().add(64 * i).cast());
            let (a, b, c, d) = (load(0), load(1), load(2), load(3));
            let (ab, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let (cd, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            [
                _mm512_unpacklo_epi64(ab, cd),
                _mm512_unpackhi_epi64(ab, cd),
                _mm512_unpacklo_epi64(ab_high, cd_high),
                _mm512_unpackhi_epi64(ab_high, cd_high),
            ]
        }
    }
    #[inline(always)]
    fn transpose_bf16(self, bytes: &[u8; 2 * LANES]) -> __m512 {
        // Into the upper halves of lanes.
        const fn pair(group: i32) -> i32 {
            group << 16
        }
        intrinsics! {
            let order = _mm512_setr_epi32(
                pair(0), pair(4), pair(8), pair(12), pair(1), pair(5), pair(9), pair(13),
                pair(2), pair(6), pair(10), pair(14), pair(3), pair(7), pair(11), pair(15),
            );
            let scales = _mm512_castsi256_si512(_mm256_loadu_si256(bytes.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xaaaa_aaaa, order, scales))
        }
    }
    #[inline(always)]
    fn nibbles(self, words: [__m512i; 4], part: usize) -> __m512i {
        let word = words[part / 2];
        intrinsics! {
            let shifted = match part % 2 {
                0 => word,
                _ => _mm512_srli_epi16::<4>(word),
            };
            _mm512_and_si512(shifted, _mm512_set1_epi8(0xf))
        }
    }
    #[inline(always)]
    fn zero_group_sums(self) -> __m512i {
        intrinsics!(_mm512_setzero_si512())
    }
    #[inline(always)]
    fn add_nibble_products(self, acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
        intrinsics!(_mm512_dpbusd_epi32(acc, w, x))
    }
    #[inline(always)]
    fn group_sums_to_floats(self, sums: __m512i, offsets: &[i32; LANES]) -> __m512 {
        intrinsics! {
            let offsets = _mm512_loadu_si512(offsets.as_ptr().cast());
            _mm512_cvtepi32_ps(_mm512_add_epi32(sums, offsets))
        }
    }
    #[inline(always)]
    fn total_each(self, [a, b, c, d]: [__m512i; 4]) -> [f64; 4] {
        let mut sums = [0.0; 4];
        intrinsics! {
            // Within each 128 bits: a0+a2 b0+b2 a1+a3 b1+b3, then the sums of a, b, c, d.
            let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            let abcd = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
            let low = _mm512_cvtepi32_pd(_mm512_castsi512_si256(abcd));
            let high = _mm512_cvtepi32_pd(_mm512_extracti64x4_epi64::<1>(abcd));
            let both = _mm512_add_pd(low, high);
            let all = _mm256_add_pd(_mm512_castpd512_pd256(both), _mm512_extractf64x4_pd::<1>(both));
            _mm256_storeu_pd(sums.as_mut_ptr(), all);
        }
        sums
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        intrinsics!(_mm_prefetch::<_MM_HINT_T1>(at.cast()));
    }
    #[inline(always)]
    fn prefetch_near(self, at: *const u8, bytes: usize) {
        super::prefetch_near(at, bytes);
    }
    #[inline(always)]
    fn reads_two_runs(self) -> bool {
        self.intel
    }

    #[inline(always)]
    fn run<P: Part<Self>>(self, part: P) {
        #[inline(never)]
        #[target_feature(
            enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni,avx2,fma,f16c"
        )]
        fn compiled<P: Part<Avx512>>(simd: Avx512, part: P) {
            part.inlined(simd);
        }
        // SAFETY: `self` was made by `detect`, so the CPU has every feature that is enabled here.
        unsafe { compiled(self, part) }
    }

    #[inline(always)]
    fn cover(self, grid: &mut impl Grid<Self>) {
        // 24 of 32 registers hold sums, 6 a row's weights each, one a token's activations.
        simd::cover!(self, grid, 4 x 1, 6 x [2, 3], 4);
    }
    #[inline(always)]
    fn cover_costly(self, grid: &mut impl Grid<Self>) {
        // Two registers a row are widened step by step: with six rows they would not all stay in registers.
        simd::cover!(self, grid, 4 x 1, 4 x [2, 3], 4);
    }
    #[inline(always)]
    fn cover_two_steps(self, grid: &mut impl Grid<Self>) {
        // With six rows, too, the compiler would keep some of what the first step makes in memory.
        self.cover_costly(grid);
    }
    #[inline(always)]
    fn cover_attention(self, grid: &mut impl Grid<Self>) {
        // Eight sixteens are a whole value of 128, read in one run; and as many blocks of keys are sums enough to
        // read them as fast.
        simd::cover!(self, grid, 8 x 1, 6 x [2, 3], 4);
    }
    #[inline(always)]
    fn cover_twofold(self, grid: &mut impl Grid<Self>) {
        // Eight sums, as many on the way, and four registers of each row's words.
        simd::cover!(self, grid, 4 x 1, 2 x [2, 3], 4);
    }
}
