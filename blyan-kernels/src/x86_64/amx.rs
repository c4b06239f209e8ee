//! AMX: tiles of 16 rows of 64 bytes, for products of I8 and several tokens. All else runs as with AVX-512.
//!
//! A tile multiplies bytes. An activation of 16 bits is two of them, `256 × high + low`, with a signed high byte and an
//! unsigned low one. So there are two sums of integers, which are as exact as one.

use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;

use super::avx512::Avx512;
use crate::isa::Kernel;
use crate::mat::MatMut;
use crate::operand::{Input, Weights};
use crate::rows::CACHE_LINE_BYTES;
use crate::simd::{self, Chunk, Simd};

/// Rows of a tile, and tokens of a tile of activations.
const TILE: usize = 16;

/// Elements of a row of a tile.
const STEP: usize = 64;

/// Rows of weights in two tiles, whose sums fill half of the eight tiles that there are.
const ROWS: usize = 2 * TILE;

/// Fewer tokens are summed as fast without tiles, whose time does not depend on how many there are.
const FEWEST_TOKENS: usize = 5;

/// Sums of as many products of a weight and an unsigned byte fit in 32 bits: 2^16 × 128 × 255 < 2^31.
const MOST_COLS: usize = 1 << 16;

/// Activations in tiles that a core's second-level cache keeps beside the weights.
const PANEL_BYTES: usize = 512 << 10;

thread_local! {
    /// Kept, as asking the system for the memory in each product would take as long as the product.
    static PANEL: RefCell<Panel> = const { RefCell::new(Panel::new()) };
}

/// Proof that the CPU has AMX for integers and AVX-512, and that this process may use both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Amx(Avx512);

impl Amx {
    /// What is missing first is the error.
    pub(in super::super) fn detect() -> Result<Self, &'static str> {
        let avx512 = Avx512::detect()?;
        // Of leaf 7, which CPUs with AVX2 have. `is_x86_feature_detected` does not know them in stable Rust.
        const TILE_AND_INT8: u32 = 1 << 24 | 1 << 25;
        #[allow(unused_unsafe, reason = "the call is unsafe in Rust 1.90")]
        // SAFETY: every x86-64 CPU has the instruction.
        let leaf = unsafe { __cpuid_count(7, 0) };
        if leaf.edx & TILE_AND_INT8 != TILE_AND_INT8 {
            return Err("amx-int8");
        }
        if !request_permission() {
            return Err("the system's permission to use AMX");
        }
        Ok(Self(avx512))
    }

    /// As [`Avx512::as_on`].
    #[cfg(test)]
    pub(in super::super) fn as_on(self, intel: bool) -> Self {
        Self(self.0.as_on(intel))
    }

    pub(in super::super) fn run<K: Kernel>(self, kernel: K) {
        kernel.amx(self);
    }

    /// The instruction set that this one adds to.
    pub(in super::super) fn avx512(self) -> Avx512 {
        self.0
    }

    /// Whether products are faster with tiles, and their sums fit.
    pub(in super::super) fn suits(self, cols: usize, rows: &Range<usize>, tokens: usize) -> bool {
        (STEP..=MOST_COLS).contains(&cols) && rows.len() >= ROWS && tokens >= FEWEST_TOKENS
    }

    /// Products of I8 of a shape that [`Amx::suits`].
    pub(in super::super) fn products(
        self,
        weights: &Weights<'_>,
        rows: &Range<usize>,
        input: &Input<'_>,
        out: &mut MatMut<'_>,
    ) {
        let sixteen_tokens = weights.cols().div_ceil(STEP) * size_of::<Step>();
        let at_once = TILE * (PANEL_BYTES / sixteen_tokens).max(1);
        let mut all = |panel: &mut Panel| {
            for first in (0..input.tokens()).step_by(at_once) {
                let tokens = first..input.tokens().min(first + at_once);
                self.pack(input, tokens.clone(), panel);
                self.meet(weights, rows, panel, tokens, out);
            }
        };
        if PANEL.try_with(|panel| all(&mut panel.borrow_mut())).is_err() {
            // The thread is ending, and it is one of its destructors that asks.
            all(&mut Panel::new());
        }
    }

    /// Arranges some tokens in tiles.
    fn pack(self, input: &Input<'_>, tokens: Range<usize>, panel: &mut Panel) {
        let steps = input.cols().div_ceil(STEP);
        let tiles = tokens.len().div_ceil(TILE);
        // Memory of more tokens stays as it is.
        if panel.steps.len() < tiles * steps {
            panel.steps.resize(tiles * steps, Step([[[0; STEP]; TILE]; 2]));
        }
        if panel.scales.len() < tiles {
            panel.scales.resize(tiles, [0.0; TILE]);
        }
        let packed = panel.steps.chunks_exact_mut(steps).zip(&mut panel.scales);
        for (first, (steps, scales)) in tokens.clone().step_by(TILE).zip(packed) {
            let mut values: [&[i16]; TILE] = [&[]; TILE];
            for ((values, scale), token) in values.iter_mut().zip(scales).zip(first..tokens.end) {
                (*values, *scale) = input.quantized_token(token);
            }
            // SAFETY: `self` was made by `detect`, so the CPU has the features of the function.
            unsafe { pack_tokens(&values, steps) };
        }
    }

    /// Products of the tokens that were arranged.
    fn meet(
        self,
        weights: &Weights<'_>,
        rows: &Range<usize>,
        panel: &Panel,
        tokens: Range<usize>,
        out: &mut MatMut<'_>,
    ) {
        let cols = weights.cols();
        let (whole, steps) = (cols / STEP, cols.div_ceil(STEP));
        let mut sums = Sums([[[0; TILE]; TILE]; 4]);
        let mut end = [[0; STEP]; ROWS];
        let configured = Configured::new(self);
        for row in (0..rows.len()).step_by(ROWS) {
            // The last rows are computed with some of those before, once more.
            let row = row.min(rows.len() - ROWS);
            let first = rows.start + row;
            let bytes = weights.rows_bytes(first..first + ROWS);
            if steps > whole {
                for (end, row) in end.iter_mut().zip(bytes.chunks_exact(cols)) {
                    end[..cols - whole * STEP].copy_from_slice(&row[whole * STEP..]);
                }
            }
            let row_scales: [f32; ROWS] = weights.tile_scales(first, ROWS);
            let packed = panel.steps.chunks_exact(steps).zip(&panel.scales);
            for (col, (packed, token_scales)) in tokens.clone().step_by(TILE).zip(packed) {
                add_up(&configured, bytes, cols, packed, &end, &mut sums);
                let tokens = col..tokens.end.min(col + TILE);
                for (half, row_scales) in row_scales.as_chunks().0.iter().enumerate() {
                    let sums = (&sums.0[2 * half], &sums.0[2 * half + 1]);
                    // SAFETY: `self` was made by `detect`, so the CPU has the features of the function.
                    let results = unsafe { finish(self.0, sums, row_scales, token_scales) };
                    for (token, results) in tokens.clone().zip(&results) {
                        let place = out.row_mut(token).and_then(|out| out.get_mut(row + half * TILE..));
                        if let Some(place) = place.and_then(<[f32]>::first_chunk_mut) {
                            *place = *results;
                        }
                    }
                }
            }
        }
    }
}

/// Asks the kernel for this process's right to use tiles, whose state makes the frames of its signals larger. Asked
/// again, it grants it again.
fn request_permission() -> bool {
    #[cfg(target_os = "linux")]
    {
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_long = 18;
        // SAFETY: the call reads no memory of this process and changes none.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
    }
    #[cfg(not(target_os = "linux"))]
    false
}

/// Activations of some tokens, 16 at a time.
struct Panel {
    /// All steps of the first tokens, then those of the next.
    steps: Vec<Step>,
    /// Of each token.
    scales: Vec<[f32; TILE]>,
}

impl Panel {
    const fn new() -> Self {
        Self { steps: Vec::new(), scales: Vec::new() }
    }
}

/// Activations of 16 tokens and 64 columns, as two tiles: of each token four neighbours side by side, high bytes first.
#[derive(Clone)]
#[repr(C, align(64))]
struct Step([[[u8; STEP]; TILE]; 2]);

/// Sums of 32 rows × 16 tokens: of high and of low bytes of the first 16 rows, then of the others.
#[repr(C, align(64))]
struct Sums([[[i32; TILE]; TILE]; 4]);

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// While it lives, the eight tiles of its thread, on which it stays, have 16 rows of 64 bytes.
struct Configured(PhantomData<*const ()>);

impl Configured {
    /// Takes the proof that there are tiles.
    fn new(_: Amx) -> Self {
        let first_eight = |i| i < 8;
        let config = Config {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: std::array::from_fn(|i| if first_eight(i) { STEP as u16 } else { 0 }),
            rows: std::array::from_fn(|i| if first_eight(i) { TILE as u8 } else { 0 }),
        };
        // SAFETY: the CPU has tiles, the process may use them, and the configuration is one of palette 1.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, preserves_flags)) };
        Self(PhantomData)
    }
}

impl Drop for Configured {
    fn drop(&mut self) {
        // SAFETY: as there is a `Configured`, the CPU has tiles.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}

/// Sums up products of 32 rows of `cols` bytes and 16 tokens. `end`: what is left of the rows after whole steps, filled up
/// with zeros; not read if nothing is. Nothing is asked for ahead: the core sees by itself what comes next, and such
/// requests only slow it down.
#[inline(always)]
fn add_up(
    _: &Configured,
    rows: &[u8],
    cols: usize,
    tokens: &[Step],
    end: &[[u8; STEP]; ROWS],
    sums: &mut Sums,
) {
    let whole = cols / STEP;
    assert!(rows.len() == ROWS * cols && tokens.len() == cols.div_ceil(STEP) && whole > 0);
    // SAFETY: each step reads 64 bytes of 16 rows from `first` and of as many from `second`, of which the rows hold
    // `whole` times as many, and two tiles of a token's step, of which there are `whole` and one more where rows have an
    // end; then `sums` is filled. There is a `Configured`. One block, so that no value in a tile is there before
    // it or after.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{first} + {row_bytes}]",
            "tileloadd tmm6, [{tokens} + {line}]",
            "tileloadd tmm7, [{tokens} + {line} + 1024]",
            "tileloadd tmm5, [{second} + {row_bytes}]",
            "tdpbssd tmm0, tmm4, tmm6",
            "tdpbsud tmm1, tmm4, tmm7",
            "tdpbssd tmm2, tmm5, tmm6",
            "tdpbsud tmm3, tmm5, tmm7",
            "add {first}, 64",
            "add {second}, 64",
            "add {tokens}, 2048",
            "dec {whole}",
            "jnz 2b",
            "test {end}, {end}",
            "jz 3f",
            "tileloadd tmm4, [{end} + {line}]",
            "tileloadd tmm6, [{tokens} + {line}]",
            "tileloadd tmm7, [{tokens} + {line} + 1024]",
            "tileloadd tmm5, [{end} + {line} + 1024]",
            "tdpbssd tmm0, tmm4, tmm6",
            "tdpbsud tmm1, tmm4, tmm7",
            "tdpbssd tmm2, tmm5, tmm6",
            "tdpbsud tmm3, tmm5, tmm7",
            "3:",
            "tilestored [{sums} + {line}], tmm0",
            "tilestored [{sums} + {line} + 1024], tmm1",
            "tilestored [{sums} + {line} + 2048], tmm2",
            "tilestored [{sums} + {line} + 3072], tmm3",
            first = inout(reg) rows.as_ptr() => _,
            second = inout(reg) rows[TILE * cols..].as_ptr() => _,
            row_bytes = in(reg) cols,
            tokens = inout(reg) tokens.as_ptr() => _,
            line = in(reg) CACHE_LINE_BYTES,
            whole = inout(reg) whole => _,
            end = in(reg) if tokens.len() > whole { end.as_ptr() } else { std::ptr::null() },
            sums = in(reg) sums,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// Arranges the activations of 16 tokens. Those that there are not, and columns past the end, are zero.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn pack_tokens(tokens: &[&[i16]; TILE], steps: &mut [Step]) {
    let places: [u8; STEP] = std::array::from_fn(|i| 2 * i as u8);
    // SAFETY: the array holds 64 bytes.
    let evens = unsafe { _mm512_loadu_si512(places.as_ptr().cast()) };
    let odds = _mm512_add_epi8(evens, _mm512_set1_epi8(1));
    for (index, step) in steps.iter_mut().enumerate() {
        let (mut high, mut low) = ([_mm512_setzero_si512(); TILE], [_mm512_setzero_si512(); TILE]);
        for ((high, low), values) in high.iter_mut().zip(&mut low).zip(tokens) {
            let Some(values) = values.get(index * STEP..) else { continue };
            let padded: [i16; STEP];
            let values = match values.first_chunk() {
                Some(values) => values,
                None => {
                    padded = Chunk::padded(values);
                    &padded
                }
            };
            // SAFETY: the array holds 128 bytes.
            let (a, b) = unsafe {
                let halves = values.as_ptr().cast::<__m512i>();
                (_mm512_loadu_si512(halves), _mm512_loadu_si512(halves.add(1)))
            };
            *low = _mm512_permutex2var_epi8(a, evens, b);
            *high = _mm512_permutex2var_epi8(a, odds, b);
        }
        for (tile, tokens) in step.0.iter_mut().zip([high, low]) {
            for (row, words) in tile.iter_mut().zip(transpose(tokens)) {
                // SAFETY: the row holds 64 bytes.
                unsafe { _mm512_storeu_si512(row.as_mut_ptr().cast(), words) };
            }
        }
    }
}

/// Results from the sums of 16 rows × 16 tokens, those of each token side by side.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn finish(
    s: Avx512,
    (high, low): (&[[i32; TILE]; TILE], &[[i32; TILE]; TILE]),
    row_scales: &[f32; TILE],
    token_scales: &[f32; TILE],
) -> [[f32; TILE]; TILE] {
    let token_scales = s.load(token_scales);
    let mut rows = [_mm512_setzero_si512(); TILE];
    for (((result, high), low), scale) in rows.iter_mut().zip(high).zip(low).zip(row_scales) {
        let scaled = s.mul(s.mul(total(high, low), token_scales), s.splat(*scale));
        *result = _mm512_castps_si512(simd::canonical(s, scaled));
    }
    let mut results = [[0.0; TILE]; TILE];
    for (results, words) in results.iter_mut().zip(transpose(rows)) {
        s.store(_mm512_castsi512_ps(words), results);
    }
    results
}

/// 256 × high + low of each, exactly, then rounded once.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn total(high: &[i32; TILE], low: &[i32; TILE]) -> __m512 {
    let half = |i: usize| {
        // SAFETY: each array holds two halves of 32 bytes.
        let (high, low) = unsafe {
            (
                _mm256_loadu_si256(high.as_ptr().cast::<__m256i>().add(i)),
                _mm256_loadu_si256(low.as_ptr().cast::<__m256i>().add(i)),
            )
        };
        let (high, low) = (_mm512_cvtepi32_pd(high), _mm512_cvtepi32_pd(low));
        _mm512_cvtpd_ps(_mm512_fmadd_pd(high, _mm512_set1_pd(256.0), low))
    };
    _mm512_insertf32x8::<1>(_mm512_castps256_ps512(half(0)), half(1))
}

/// 16 × 16 words of 32 bits, turned.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(rows: [__m512i; TILE]) -> [__m512i; TILE] {
    let mut pairs = [_mm512_setzero_si512(); TILE];
    let mut fours = pairs;
    let mut eights = pairs;
    let mut all = pairs;
    // Within each 128 bits: words of two rows, then of four.
    for i in 0..TILE / 2 {
        pairs[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    for i in 0..TILE / 4 {
        let four = &pairs[4 * i..][..4];
        fours[4 * i] = _mm512_unpacklo_epi64(four[0], four[2]);
        fours[4 * i + 1] = _mm512_unpackhi_epi64(four[0], four[2]);
        fours[4 * i + 2] = _mm512_unpacklo_epi64(four[1], four[3]);
        fours[4 * i + 3] = _mm512_unpackhi_epi64(four[1], four[3]);
    }
    // Then 128 bits of two fours, and of all.
    for i in 0..4 {
        for half in 0..2 {
            let (a, b) = (fours[8 * half + i], fours[8 * half + 4 + i]);
            eights[8 * half + i] = _mm512_shuffle_i32x4::<0b10_00_10_00>(a, b);
            eights[8 * half + 4 + i] = _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b);
        }
    }
    for i in 0..4 {
        let (a, b) = (eights[i], eights[8 + i]);
        all[i] = _mm512_shuffle_i32x4::<0b10_00_10_00>(a, b);
        all[8 + i] = _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b);
        let (a, b) = (eights[4 + i], eights[12 + i]);
        all[4 + i] = _mm512_shuffle_i32x4::<0b10_00_10_00>(a, b);
        all[12 + i] = _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b);
    }
    all
}
