//! AVX-512: 16 lanes are one register, of which there are 32.

use std::arch::x86_64::*;

use super::avx2::{f8_to_f16, sum_8};
use crate::kernels::isa::Kernel;
use crate::kernels::scalar::LANES;
use crate::kernels::simd::{self, Grid, Simd};

/// Proof that the CPU has AVX-512 F, BW, VL and DQ, as servers have had since 2017.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Avx512(());

impl Avx512 {
    /// The first feature that the CPU lacks is the error.
    pub(in super::super) fn detect() -> Result<Self, &'static str> {
        super::avx2::Avx2::detect()?;
        require_features!("avx512f", "avx512bw", "avx512vl", "avx512dq");
        Ok(Self(()))
    }

    /// Compiles a kernel for these features and runs it.
    pub(in super::super) fn run<K: Kernel>(self, kernel: K) {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
        fn compiled<K: Kernel>(simd: Avx512, kernel: K) {
            kernel.simd(simd);
        }
        // SAFETY: `self` was made by `detect`, so the CPU has every feature that is enabled here.
        unsafe { compiled(self, kernel) }
    }
}

/// Calls intrinsics.
macro_rules! intrinsics {
    ($($body:tt)*) => {
        // SAFETY: an `Avx512` was made by `detect`, so the CPU has the features of every intrinsic in
        // this file; and what a pointer reads or writes, without an alignment, is the array whose
        // reference it comes from.
        unsafe { $($body)* }
    };
}

impl Simd for Avx512 {
    type Floats = __m512;
    type Mask = __mmask16;
    type Shorts = __m512i;
    type Ints = __m512i;

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
    fn widen_f8(self, bytes: &[u8; LANES]) -> __m512 {
        intrinsics! {
            let halves = f8_to_f16(_mm_loadu_si128(bytes.as_ptr().cast()));
            _mm512_mul_ps(_mm512_cvtph_ps(halves), _mm512_set1_ps(256.0))
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
    fn sum(self, x: __m512) -> f32 {
        intrinsics!(sum_8(_mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x))))
    }

    #[inline(always)]
    fn zero_ints(self) -> __m512i {
        intrinsics!(_mm512_setzero_si512())
    }
    #[inline(always)]
    fn widen_i8_to_i16(self, bytes: &[u8; 2 * LANES]) -> __m512i {
        intrinsics!(_mm512_cvtepi8_epi16(_mm256_loadu_si256(bytes.as_ptr().cast())))
    }
    #[inline(always)]
    fn add_products(self, acc: __m512i, w: __m512i, x: &[i16; 2 * LANES]) -> __m512i {
        // One instruction where there is VNNI (vpdpwssd); the sum is the same integer.
        intrinsics!(_mm512_add_epi32(acc, _mm512_madd_epi16(w, _mm512_loadu_si512(x.as_ptr().cast()))))
    }
    #[inline(always)]
    fn sum_ints(self, x: __m512i) -> i64 {
        intrinsics! {
            let low = _mm512_cvtepi32_epi64(_mm512_castsi512_si256(x));
            let high = _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64::<1>(x));
            _mm512_reduce_add_epi64(_mm512_add_epi64(low, high))
        }
    }

    #[inline(always)]
    fn cover(self, grid: &mut impl Grid<Self>) {
        // 16 of 32 registers hold sums; one token keeps 8 rows in flight to hide latency.
        simd::cover::<Self, _, 4, 4, 8>(self, grid);
    }
}
