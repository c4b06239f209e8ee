//! AVX2 with FMA and F16C: 16 lanes are two registers, of which there are 16.

use std::arch::x86_64::*;

use crate::scalar::LANES;
use crate::simd::{self, Grid, Part, Simd};

/// Proof that the CPU has AVX2, FMA and F16C, as x86-64-v3 does (2013).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Avx2 {
    /// Whether the CPU is Intel's.
    intel: bool,
}

impl Avx2 {
    /// The first feature that the CPU lacks is the error.
    pub(in super::super) fn detect() -> Result<Self, &'static str> {
        require_features!("avx2", "fma", "f16c");
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
        // SAFETY: an `Avx2` was made by `detect`, so the CPU has the features of every intrinsic in this
        // file; and what a pointer reads or writes, without an alignment, lies within the array whose
        // reference it comes from.
        unsafe { $($body)* }
    };
}

/// Widens E4M3 to binary16, but for a factor of 2^8: exponent and mantissa keep their bits, which mean
/// 2^-8 as much under the larger bias, subnormals too. So there is no branch and no f32 subnormal.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn f8_to_f16(bytes: __m128i) -> __m256i {
    // s…s eeee mmm → s 0 eeee mmm 0000000
    let shifted = _mm256_slli_epi16::<7>(_mm256_cvtepi8_epi16(bytes));
    let halves = _mm256_and_si256(shifted, _mm256_set1_epi16(0xbfff_u16 as i16));
    // All ones is E4M3's only magnitude of NaN, and all ones is a NaN of binary16.
    let magnitude = _mm256_and_si256(shifted, _mm256_set1_epi16(0x3fff));
    _mm256_or_si256(halves, _mm256_cmpeq_epi16(magnitude, _mm256_set1_epi16(0x3f80)))
}

/// Adds lanes i and i + 4, then i + 2, then i + 1.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn sum_8(x: __m256) -> f32 {
    let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
}

/// The largest of all lanes.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn largest_8(x: __m256) -> f32 {
    let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)))
}

/// Lanes 0..8 and 8..16.
type Pair<T> = (T, T);

/// Two halves of 16 bytes.
#[inline(always)]
fn load_halves(_: Avx2, bytes: &[u8; 32]) -> Pair<__m128i> {
    intrinsics!((_mm_loadu_si128(bytes.as_ptr().cast()), _mm_loadu_si128(bytes.as_ptr().add(16).cast())))
}

/// Of the two groups at `first` and every 64 bytes on, words 0 to 3, four groups' to 128 bits.
#[inline(always)]
fn transpose_half(_: Avx2, groups: &[u8; 16 * LANES], first: usize) -> [__m256i; 4] {
    intrinsics! {
        let load = |i: usize| _mm256_loadu_si256(groups[first + 64 * i..][..32].as_ptr().cast());
        let (a, b, c, d) = (load(0), load(1), load(2), load(3));
        let (ab, ab_high) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
        let (cd, cd_high) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
        [
            _mm256_unpacklo_epi64(ab, cd),
            _mm256_unpackhi_epi64(ab, cd),
            _mm256_unpacklo_epi64(ab_high, cd_high),
            _mm256_unpackhi_epi64(ab_high, cd_high),
        ]
    }
}

impl Simd for Avx2 {
    type Floats = Pair<__m256>;
    type Mask = Pair<__m256>;
    type Shorts = Pair<__m256i>;
    type Bytes = Pair<__m256i>;
    type Words = [Pair<__m256i>; 4];
    type Sums = __m256i;
    type GroupSums = Pair<__m256i>;
    type F8s<'a> = &'a [u8; 4 * LANES];

    const ROW_BY_ROW: usize = 4;
    const ROW_BY_ROW_COSTLY: usize = 1;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::Floats {
        intrinsics!((_mm256_set1_ps(x), _mm256_set1_ps(x)))
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::Floats {
        intrinsics!((_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))))
    }
    #[inline(always)]
    fn store(self, x: Self::Floats, out: &mut [f32; LANES]) {
        intrinsics! {
            _mm256_storeu_ps(out.as_mut_ptr(), x.0);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), x.1);
        }
    }

    #[inline(always)]
    fn widen_f32(self, bytes: &[u8; 4 * LANES]) -> Self::Floats {
        intrinsics! {
            (_mm256_loadu_ps(bytes.as_ptr().cast()), _mm256_loadu_ps(bytes.as_ptr().add(32).cast()))
        }
    }
    #[inline(always)]
    fn widen_bf16(self, bytes: &[u8; 2 * LANES]) -> Self::Floats {
        let (a, b) = load_halves(self, bytes);
        intrinsics! {
            let a = _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(a));
            let b = _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(b));
            (_mm256_castsi256_ps(a), _mm256_castsi256_ps(b))
        }
    }
    #[inline(always)]
    fn widen_f16(self, bytes: &[u8; 2 * LANES]) -> Self::Floats {
        let (a, b) = load_halves(self, bytes);
        intrinsics!((_mm256_cvtph_ps(a), _mm256_cvtph_ps(b)))
    }
    #[inline(always)]
    fn prepare_f8(self, bytes: &[u8; 4 * LANES]) -> &[u8; 4 * LANES] {
        bytes
    }
    #[inline(always)]
    fn widen_f8(self, bytes: &[u8; 4 * LANES], part: usize) -> Self::Floats {
        let bytes: &[u8; LANES] = &bytes.as_chunks().0[part];
        intrinsics! {
            let halves = f8_to_f16(_mm_loadu_si128(bytes.as_ptr().cast()));
            let a = _mm256_cvtph_ps(_mm256_castsi256_si128(halves));
            let b = _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(halves));
            (_mm256_mul_ps(a, _mm256_set1_ps(256.0)), _mm256_mul_ps(b, _mm256_set1_ps(256.0)))
        }
    }
    #[inline(always)]
    fn widen_i8(self, bytes: &[u8; LANES]) -> Self::Floats {
        intrinsics! {
            let bytes = _mm_loadu_si128(bytes.as_ptr().cast());
            let a = _mm256_cvtepi8_epi32(bytes);
            let b = _mm256_cvtepi8_epi32(_mm_unpackhi_epi64(bytes, bytes));
            (_mm256_cvtepi32_ps(a), _mm256_cvtepi32_ps(b))
        }
    }
    #[inline(always)]
    fn narrow_f16(self, x: Self::Floats) -> [u8; 2 * LANES] {
        let mut bytes = [0; 2 * LANES];
        intrinsics! {
            let a = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x.0);
            let b = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x.1);
            _mm_storeu_si128(bytes.as_mut_ptr().cast(), a);
            _mm_storeu_si128(bytes.as_mut_ptr().add(16).cast(), b);
        }
        bytes
    }
    #[inline(always)]
    fn narrow_i16(self, x: Self::Floats) -> [i16; LANES] {
        let mut values = [0; LANES];
        intrinsics! {
            // Packing works within 128-bit parts; the permutation puts the quarters in order.
            let quarters = _mm256_packs_epi32(_mm256_cvtps_epi32(x.0), _mm256_cvtps_epi32(x.1));
            let shorts = _mm256_permute4x64_epi64::<0b11_01_10_00>(quarters);
            _mm256_storeu_si256(values.as_mut_ptr().cast(), shorts);
        }
        values
    }

    #[inline(always)]
    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        intrinsics!((_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1)))
    }
    #[inline(always)]
    fn sub(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        intrinsics!((_mm256_sub_ps(a.0, b.0), _mm256_sub_ps(a.1, b.1)))
    }
    #[inline(always)]
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        intrinsics!((_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)))
    }
    #[inline(always)]
    fn div(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        intrinsics!((_mm256_div_ps(a.0, b.0), _mm256_div_ps(a.1, b.1)))
    }
    #[inline(always)]
    fn fma(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        intrinsics!((_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1)))
    }
    #[inline(always)]
    fn neg(self, x: Self::Floats) -> Self::Floats {
        intrinsics! {
            let sign = _mm256_set1_ps(-0.0);
            (_mm256_xor_ps(x.0, sign), _mm256_xor_ps(x.1, sign))
        }
    }
    #[inline(always)]
    fn abs(self, x: Self::Floats) -> Self::Floats {
        intrinsics! {
            let sign = _mm256_set1_ps(-0.0);
            (_mm256_andnot_ps(sign, x.0), _mm256_andnot_ps(sign, x.1))
        }
    }
    #[inline(always)]
    fn round_ties_even(self, x: Self::Floats) -> Self::Floats {
        const MODE: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        intrinsics!((_mm256_round_ps::<MODE>(x.0), _mm256_round_ps::<MODE>(x.1)))
    }
    #[inline(always)]
    fn pow2(self, n: Self::Floats) -> Self::Floats {
        intrinsics! {
            let bias = _mm256_set1_epi32(127);
            let a = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n.0), bias));
            let b = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n.1), bias));
            (_mm256_castsi256_ps(a), _mm256_castsi256_ps(b))
        }
    }

    #[inline(always)]
    fn less(self, a: Self::Floats, b: Self::Floats) -> Self::Mask {
        intrinsics!((_mm256_cmp_ps::<_CMP_LT_OQ>(a.0, b.0), _mm256_cmp_ps::<_CMP_LT_OQ>(a.1, b.1)))
    }
    #[inline(always)]
    fn is_nan(self, x: Self::Floats) -> Self::Mask {
        intrinsics!((_mm256_cmp_ps::<_CMP_UNORD_Q>(x.0, x.0), _mm256_cmp_ps::<_CMP_UNORD_Q>(x.1, x.1)))
    }
    #[inline(always)]
    fn select(self, mask: Self::Mask, yes: Self::Floats, no: Self::Floats) -> Self::Floats {
        intrinsics!((_mm256_blendv_ps(no.0, yes.0, mask.0), _mm256_blendv_ps(no.1, yes.1, mask.1)))
    }
    #[inline(always)]
    fn max(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        intrinsics!((_mm256_max_ps(a.0, b.0), _mm256_max_ps(a.1, b.1)))
    }
    #[inline(always)]
    fn min(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        intrinsics!((_mm256_min_ps(a.0, b.0), _mm256_min_ps(a.1, b.1)))
    }
    #[inline(always)]
    fn largest(self, x: Self::Floats) -> f32 {
        intrinsics!(largest_8(_mm256_max_ps(x.0, x.1)))
    }

    #[inline(always)]
    fn sum(self, x: Self::Floats) -> f32 {
        intrinsics!(sum_8(_mm256_add_ps(x.0, x.1)))
    }

    #[inline(always)]
    fn sum_each(self, x: [Self::Floats; 4]) -> [f32; 4] {
        let mut sums = [0.0; 4];
        intrinsics! {
            // Lanes i and i + 8, then i and i + 4 with 128 bits for each of a, b and of c, d.
            let [a, b, c, d] = x.map(|x| _mm256_add_ps(x.0, x.1));
            let ab = _mm256_add_ps(
                _mm256_permute2f128_ps::<0x20>(a, b),
                _mm256_permute2f128_ps::<0x31>(a, b),
            );
            let cd = _mm256_add_ps(
                _mm256_permute2f128_ps::<0x20>(c, d),
                _mm256_permute2f128_ps::<0x31>(c, d),
            );
            // i and i + 2: a0 a1 c0 c1, b0 b1 d0 d1; then i and i + 1: a c a c, b d b d.
            let two = _mm256_add_ps(
                _mm256_shuffle_ps::<0b01_00_01_00>(ab, cd),
                _mm256_shuffle_ps::<0b11_10_11_10>(ab, cd),
            );
            let one = _mm256_add_ps(
                _mm256_shuffle_ps::<0b10_00_10_00>(two, two),
                _mm256_shuffle_ps::<0b11_01_11_01>(two, two),
            );
            let (ac, bd) = (_mm256_castps256_ps128(one), _mm256_extractf128_ps::<1>(one));
            _mm_storeu_ps(sums.as_mut_ptr(), _mm_unpacklo_ps(ac, bd));
        }
        sums
    }

    #[inline(always)]
    fn zero_sums(self) -> __m256i {
        intrinsics!(_mm256_setzero_si256())
    }
    #[inline(always)]
    fn widen_i8_to_i16(self, bytes: &[u8; 2 * LANES]) -> Self::Shorts {
        let (a, b) = load_halves(self, bytes);
        intrinsics!((_mm256_cvtepi8_epi16(a), _mm256_cvtepi8_epi16(b)))
    }
    #[inline(always)]
    fn load_shorts(self, x: &[i16; 2 * LANES]) -> Self::Shorts {
        intrinsics! {
            (_mm256_loadu_si256(x.as_ptr().cast()), _mm256_loadu_si256(x.as_ptr().add(LANES).cast()))
        }
    }
    #[inline(always)]
    fn add_products(self, acc: __m256i, w: Self::Shorts, x: Self::Shorts) -> __m256i {
        // Four products to a lane, so that a sum takes one register and not two.
        intrinsics! {
            let acc = _mm256_add_epi32(acc, _mm256_madd_epi16(w.0, x.0));
            _mm256_add_epi32(acc, _mm256_madd_epi16(w.1, x.1))
        }
    }
    #[inline(always)]
    fn load_bytes(self, x: &[i8; 4 * LANES]) -> Self::Bytes {
        intrinsics! {
            (_mm256_loadu_si256(x.as_ptr().cast()), _mm256_loadu_si256(x.as_ptr().add(32).cast()))
        }
    }
    #[inline(always)]
    fn transpose_words(self, groups: &[u8; 16 * LANES]) -> Self::Words {
        let (a, b) = (transpose_half(self, groups, 0), transpose_half(self, groups, 32));
        [(a[0], b[0]), (a[1], b[1]), (a[2], b[2]), (a[3], b[3])]
    }
    #[inline(always)]
    fn transpose_bf16(self, bytes: &[u8; 2 * LANES]) -> Self::Floats {
        let (a, b) = load_halves(self, bytes);
        intrinsics! {
            // 0 4 1 5 2 6 3 7 of each half, then 0 4 8 12 1 5 9 13 and 2 6 10 14 3 7 11 15.
            let order = _mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15);
            let (a, b) = (_mm_shuffle_epi8(a, order), _mm_shuffle_epi8(b, order));
            let low = _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_unpacklo_epi32(a, b)));
            let high = _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_unpackhi_epi32(a, b)));
            (_mm256_castsi256_ps(low), _mm256_castsi256_ps(high))
        }
    }
    #[inline(always)]
    fn nibbles(self, words: Self::Words, part: usize) -> Self::Bytes {
        let (a, b) = words[part / 2];
        intrinsics! {
            let (a, b) = match part % 2 {
                0 => (a, b),
                _ => (_mm256_srli_epi16::<4>(a), _mm256_srli_epi16::<4>(b)),
            };
            let mask = _mm256_set1_epi8(0xf);
            (_mm256_and_si256(a, mask), _mm256_and_si256(b, mask))
        }
    }
    #[inline(always)]
    fn zero_group_sums(self) -> Self::GroupSums {
        intrinsics!((_mm256_setzero_si256(), _mm256_setzero_si256()))
    }
    #[inline(always)]
    fn add_nibble_products(self, acc: Self::GroupSums, w: Self::Bytes, x: Self::Bytes) -> Self::GroupSums {
        // Two products to 16 bits, and after eight times sixteen: at most 16 × 15 × 127.
        intrinsics! {
            let a = _mm256_add_epi16(acc.0, _mm256_maddubs_epi16(w.0, x.0));
            let b = _mm256_add_epi16(acc.1, _mm256_maddubs_epi16(w.1, x.1));
            (a, b)
        }
    }
    #[inline(always)]
    fn group_sums_to_floats(self, sums: Self::GroupSums, offsets: &[i32; LANES]) -> Self::Floats {
        intrinsics! {
            let ones = _mm256_set1_epi16(1);
            let (a, b) = (_mm256_madd_epi16(sums.0, ones), _mm256_madd_epi16(sums.1, ones));
            let a = _mm256_add_epi32(a, _mm256_loadu_si256(offsets.as_ptr().cast()));
            let b = _mm256_add_epi32(b, _mm256_loadu_si256(offsets.as_ptr().add(8).cast()));
            (_mm256_cvtepi32_ps(a), _mm256_cvtepi32_ps(b))
        }
    }
    #[inline(always)]
    fn total_each(self, [a, b, c, d]: [__m256i; 4]) -> [f64; 4] {
        let mut totals = [0.0; 4];
        intrinsics! {
            // 64 steps put 256 products of at most 128 × 32767 into a lane: the sum of two lanes, and no more, fits
            // 31 bits. Two lanes each of a, a, b, b and of c, c, d, d, in both halves of 128 bits.
            let (ab, cd) = (_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
            let ab = _mm256_add_pd(
                _mm256_cvtepi32_pd(_mm256_castsi256_si128(ab)),
                _mm256_cvtepi32_pd(_mm256_extracti128_si256::<1>(ab)),
            );
            let cd = _mm256_add_pd(
                _mm256_cvtepi32_pd(_mm256_castsi256_si128(cd)),
                _mm256_cvtepi32_pd(_mm256_extracti128_si256::<1>(cd)),
            );
            let all = _mm256_permute4x64_pd::<0b11_01_10_00>(_mm256_hadd_pd(ab, cd));
            _mm256_storeu_pd(totals.as_mut_ptr(), all);
        }
        totals
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
        #[target_feature(enable = "avx2,fma,f16c")]
        fn compiled<P: Part<Avx2>>(simd: Avx2, part: P) {
            part.inlined(simd);
        }
        // SAFETY: `self` was made by `detect`, so the CPU has every feature that is enabled here.
        unsafe { compiled(self, part) }
    }

    #[inline(always)]
    fn cover(self, grid: &mut impl Grid<Self>) {
        // 4 sums take 8 of 16 registers; the rest holds a row's and a column's operands.
        simd::cover!(self, grid, 4 x 1, 2 x [], 2);
    }
    #[inline(always)]
    fn cover_costly(self, grid: &mut impl Grid<Self>) {
        simd::cover!(self, grid, 4 x 1, 1 x [2, 3], 4);
    }
    #[inline(always)]
    fn cover_sums(self, grid: &mut impl Grid<Self>) {
        // Rows go one after the other, over columns that the first of them brings into the first-level cache: two side
        // by side share a column's loads, but on AMD's CPUs they read memory more slowly.
        simd::cover!(self, grid, 4 x 1, 8 x [2, 3], 4);
    }
    #[inline(always)]
    fn cover_twofold(self, grid: &mut impl Grid<Self>) {
        simd::cover!(self, grid, 4 x 1, 1 x [], 2);
    }
}
