//! Owns [`Simd`], what an instruction set has to offer, and what is built from it once for all of
//! them: elements, partial rows, tiles, `exp`.
//!
//! An algorithm is written once, generic over `Simd`, and always inlined: it becomes machine code in a `#[target_feature]`
//! function of each instruction set, `run` in x86_64/, one for each size of tile. (The pattern of the memchr and pulp crates.) Hot loops avoid closures, which would not inherit those features.

use std::ops::Range;

use super::isa::Kernel;
use super::math::exp_f32::{LN_2_HIGH, LN_2_LOW, LOG2_E, POLYNOMIAL, RANGE};
use super::rows::CACHE_LINE_BYTES;
use super::scalar::{LANES, canonical_nan};
use crate::dtype::DType;

/// An instruction set, as operations on 16 lanes of f32.
///
/// Each operation rounds as IEEE 754 says, so all implementations agree except on which NaN they
/// give; whatever is stored for good went through [`canonical`].
pub(super) trait Simd: Copy {
    /// 16 f32.
    type Floats: Copy;
    /// One truth value per lane of `Floats`.
    type Mask: Copy;
    /// 32 i16.
    type Shorts: Copy;
    /// 64 bytes.
    type Bytes: Copy;
    /// 64 words of 32 bits, four to a lane.
    type Words: Copy;
    /// i32 in as few registers as a sum of 32 products takes, however many to a lane.
    type Sums: Copy;
    /// 16 sums of 32 products of an unsigned nibble and an i8 within ±127, on the way.
    type GroupSums: Copy;
    /// 64 E4M3 after what is done to all of them at once.
    type F8s<'a>: Copy;

    /// Up to how many tokens rows of I8 and I4 are summed one after the other, and not side by side, unless
    /// [`Simd::reads_two_runs`].
    const ROW_BY_ROW: usize;

    /// The same of F8, which takes many steps to widen.
    const ROW_BY_ROW_COSTLY: usize;

    /// Whether [`Simd::prepare_f8_normals`] takes fewer steps than [`Simd::prepare_f8`].
    const F8_NORMALS: bool = false;

    fn splat(self, x: f32) -> Self::Floats;
    fn load(self, x: &[f32; LANES]) -> Self::Floats;
    fn store(self, x: Self::Floats, out: &mut [f32; LANES]);

    fn widen_f32(self, bytes: &[u8; 4 * LANES]) -> Self::Floats;
    fn widen_bf16(self, bytes: &[u8; 2 * LANES]) -> Self::Floats;
    fn widen_f16(self, bytes: &[u8; 2 * LANES]) -> Self::Floats;
    fn prepare_f8(self, bytes: &[u8; 4 * LANES]) -> Self::F8s<'_>;
    /// The same of normal numbers alone.
    #[inline(always)]
    fn prepare_f8_normals(self, bytes: &[u8; 4 * LANES]) -> Self::F8s<'_> {
        self.prepare_f8(bytes)
    }
    /// Elements `16 × part ..` of the 64.
    fn widen_f8(self, bytes: Self::F8s<'_>, part: usize) -> Self::Floats;
    fn widen_i8(self, bytes: &[u8; LANES]) -> Self::Floats;
    /// Rounds to nearest even.
    fn narrow_f16(self, x: Self::Floats) -> [u8; 2 * LANES];
    /// Of integers within ±32767.
    fn narrow_i16(self, x: Self::Floats) -> [i16; LANES];

    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    fn sub(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    fn div(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// a × b + c, rounded once.
    fn fma(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// The same, where b is `16 × part ..` of 64 floats, and loaded for this alone.
    #[inline(always)]
    fn fma_from(self, a: Self::Floats, b: &[f32; 4 * LANES], part: usize, c: Self::Floats) -> Self::Floats {
        self.fma(a, self.load(&b.as_chunks().0[part]), c)
    }
    fn neg(self, x: Self::Floats) -> Self::Floats;
    fn abs(self, x: Self::Floats) -> Self::Floats;
    fn round_ties_even(self, x: Self::Floats) -> Self::Floats;
    /// The nearest of −8..=7, ties to even, of numbers within ±15; a zero may have either sign.
    #[inline(always)]
    fn round_to_nibble(self, x: Self::Floats) -> Self::Floats {
        let (bottom, top) = (self.splat(-8.0), self.splat(7.0));
        self.round_ties_even(self.min(self.max(x, bottom), top))
    }
    /// 2^n for integers n in -126..=127; anything for NaN.
    fn pow2(self, n: Self::Floats) -> Self::Floats;

    /// a < b; false for NaN.
    fn less(self, a: Self::Floats, b: Self::Floats) -> Self::Mask;
    fn is_nan(self, x: Self::Floats) -> Self::Mask;
    fn select(self, mask: Self::Mask, yes: Self::Floats, no: Self::Floats) -> Self::Floats;
    /// a where a > b; b elsewhere, also where either is NaN.
    #[inline(always)]
    fn max(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        self.select(self.less(b, a), a, b)
    }
    /// a where a < b; b elsewhere, also where either is NaN.
    #[inline(always)]
    fn min(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        self.select(self.less(a, b), a, b)
    }

    /// The largest lane, of which none is NaN; of two zeros, either.
    #[inline(always)]
    fn largest(self, x: Self::Floats) -> f32 {
        let mut largest = f32::NEG_INFINITY;
        for lane in lanes(self, x) {
            largest = if lane > largest { lane } else { largest };
        }
        largest
    }
    /// Lane j of register i to lane i of register j.
    #[inline(always)]
    fn transpose(self, x: [Self::Floats; LANES]) -> [Self::Floats; LANES] {
        let (mut rows, mut columns) = ([[0.0; LANES]; LANES], x);
        for (row, x) in rows.iter_mut().zip(x) {
            self.store(x, row);
        }
        for (i, column) in columns.iter_mut().enumerate() {
            let mut lanes = [0.0; LANES];
            for (lane, row) in lanes.iter_mut().zip(&rows) {
                *lane = row[i];
            }
            *column = self.load(&lanes);
        }
        columns
    }
    /// Lanes i and i + 8 are added, then i and i + 4, then i + 2, then i + 1.
    fn sum(self, x: Self::Floats) -> f32;
    /// [`Simd::sum`] of each, which together take fewer steps.
    fn sum_each(self, x: [Self::Floats; 4]) -> [f32; 4];

    fn zero_sums(self) -> Self::Sums;
    fn load_shorts(self, x: &[i16; 2 * LANES]) -> Self::Shorts;
    fn widen_i8_to_i16(self, bytes: &[u8; 2 * LANES]) -> Self::Shorts;
    /// Adds 32 products of an i8 and an i16, each at most 128 × 32767. [`Simd::total_each`] is exact if this was
    /// done 64 times at most.
    fn add_products(self, acc: Self::Sums, w: Self::Shorts, x: Self::Shorts) -> Self::Sums;
    /// The sum of all lanes of each, exactly.
    fn total_each(self, x: [Self::Sums; 4]) -> [f64; 4];

    fn load_bytes(self, x: &[i8; 4 * LANES]) -> Self::Bytes;
    /// 16 groups of four words: words 0 to 3 of group `4 i + j` into lane `4 j + i`.
    fn transpose_words(self, groups: &[u8; 16 * LANES]) -> Self::Words;
    /// BF16 `4 i + j` of 16 into lane `4 j + i`.
    fn transpose_bf16(self, bytes: &[u8; 2 * LANES]) -> Self::Floats;
    /// Of the bytes of word `part / 2` of each lane, the lower nibbles, or for an odd part the upper ones, unsigned.
    fn nibbles(self, words: Self::Words, part: usize) -> Self::Bytes;
    fn zero_group_sums(self) -> Self::GroupSums;
    /// Adds four products to each lane; a sum takes no more than eight times as many.
    fn add_nibble_products(self, acc: Self::GroupSums, w: Self::Bytes, x: Self::Bytes) -> Self::GroupSums;
    /// Plus the offsets, which leaves less than 2^15 in magnitude.
    fn group_sums_to_floats(self, sums: Self::GroupSums, offsets: &[i32; LANES]) -> Self::Floats;

    /// Asks for the cache line at an address, which need not be mapped.
    fn prefetch(self, at: *const u8);

    /// The same of the lines of so many bytes, [`NEAR_BYTES`] after an address, for the first-level cache, where
    /// [`Simd::reads_two_runs`]: before any read that follows.
    #[inline(always)]
    fn prefetch_near(self, at: *const u8, bytes: usize) {
        prefetch_all(|line| self.prefetch(line), at.wrapping_add(NEAR_BYTES), bytes);
    }

    /// Whether a core reads two runs of memory side by side, each asked for ahead (see [`prefetch_twice`]), faster than one run,
    /// asked for or not. So rows of weights are then read for a few tokens. What can be read in one run only, it reads faster
    /// if asked for.
    #[inline(always)]
    fn reads_two_runs(self) -> bool {
        false
    }

    /// Runs a part of an algorithm, as a function of its own that is compiled for this set's features. Of one that holds every size
    /// of tile, compilers make slower code, and in much more time.
    fn run<P: Part<Self>>(self, part: P);

    /// Covers a grid with the tiles that this set's registers hold, see [`cover!`].
    fn cover(self, grid: &mut impl Grid<Self>);
    /// The same where a row's operands take many steps to make.
    #[inline(always)]
    fn cover_costly(self, grid: &mut impl Grid<Self>) {
        self.cover(grid);
    }
    /// The same where a row's operands take two steps to make.
    #[inline(always)]
    fn cover_two_steps(self, grid: &mut impl Grid<Self>) {
        self.cover(grid);
    }
    /// The same where sums are [`Simd::Sums`].
    #[inline(always)]
    fn cover_sums(self, grid: &mut impl Grid<Self>) {
        self.cover(grid);
    }
    /// The same for attention, where a single column's rows come from memory and need no fours.
    #[inline(always)]
    fn cover_attention(self, grid: &mut impl Grid<Self>) {
        self.cover(grid);
    }
    /// The same where each result has two sums.
    fn cover_twofold(self, grid: &mut impl Grid<Self>);
}

/// Results that are computed a tile of rows × columns at a time, each in a register of its own.
///
/// Every result has its own sum in its own order, so the tiling changes no bit. What a tile shares
/// is loads: a row's for all columns, a column's for all rows.
pub(super) trait Grid<S: Simd> {
    /// Rows and columns.
    fn shape(&self) -> (usize, usize);

    /// Rows that stay in a core's cache while the columns pass by.
    fn rows_in_cache(&self) -> usize;

    /// What all tiles of the same columns share.
    type Columns<const C: usize>;

    /// Of the columns `col..col + C`, which lie within the shape.
    fn columns<const C: usize>(&self, col: usize) -> Self::Columns<C>;

    /// Computes the results `row..row + R` × `col..col + C`. Rows past the shape's end are for the grid to leave
    /// out.
    fn tile<const R: usize, const C: usize>(
        &mut self,
        s: S,
        row: usize,
        col: usize,
        columns: &Self::Columns<C>,
    );
}

/// Bytes of a grid's rows that a core's second-level cache keeps beside the columns.
pub(super) const CACHED_BYTES: usize = 256 << 10;

/// Repeats a block for each register number below a constant of at most 8, or 4 where that is enough.
/// Unlike a loop, this makes sure that what the number indexes is never in memory.
macro_rules! unroll {
    ($i:ident < $n:expr, $block:block) => {
        simd::unroll!(@ $i, $n, $block, 0 1 2 3 4 5 6 7)
    };
    ($i:ident < 4 or $n:expr, $block:block) => {
        simd::unroll!(@ $i, $n, $block, 0 1 2 3)
    };
    (@ $i:ident, $n:expr, $block:block, $($number:literal)*) => {
        $(if $number < $n {
            let $i = $number;
            $block
        })*
    };
}
pub(super) use unroll;

/// Computes a grid's columns in tiles of the largest size given, then one of what is left; a single column in tiles
/// of a height of its own, a multiple of four where sums are added up by fours. A tile's columns stay in the
/// first-level cache while the rows pass by, and those rows in the second-level cache until the last column.
macro_rules! cover {
    ($s:expr, $grid:expr, $alone:literal x 1, $rows:literal x [$($cols:literal),*], $most:literal) => {{
        let (rows, cols) = $grid.shape();
        let block = $grid.rows_in_cache().max(1).next_multiple_of(const { simd::common_multiple($alone, $rows) });
        let mut first = 0;
        while first < rows {
            let end = rows.min(first + block);
            let mut col = 0;
            while col < cols {
                match cols - col {
                    1 => $s.run(simd::Tiles::<_, $alone, 1> { grid: $grid, rows: first..end, col }),
                    $($cols => $s.run(simd::Tiles::<_, $rows, $cols> { grid: $grid, rows: first..end, col }),)*
                    _ => $s.run(simd::Tiles::<_, $rows, $most> { grid: $grid, rows: first..end, col }),
                }
                col += $most;
            }
            first = end;
        }
    }};
}
pub(super) use cover;

/// The least number that both divide.
pub(super) const fn common_multiple(a: usize, b: usize) -> usize {
    let mut multiple = a;
    while !multiple.is_multiple_of(b) {
        multiple += a;
    }
    multiple
}

/// How far ahead [`prefetch_twice`] asks. With rows of 2048 bytes, on the Intel CPU of docs/benchmarks.md, 1.5 to 2.75 KiB and
/// 6 to 10 KiB were equally fast.
pub(super) const NEAR_BYTES: usize = 2 << 10;
const FAR_BYTES: usize = 6 << 10;

/// Asks for what comes after bytes that are about to be read, where [`Simd::reads_two_runs`]: memory for the second-level cache,
/// and that one for the first. The first has few places for lines that are under way; if it asked memory, each would be taken
/// for as long as memory takes.
#[inline(always)]
pub(super) fn prefetch_twice<S: Simd>(s: S, at: *const u8, bytes: usize) {
    s.prefetch_near(at, bytes);
    prefetch_all(|line| s.prefetch(line), at.wrapping_add(FAR_BYTES), bytes);
}

/// Asks for the cache lines of so many bytes, of which none need be mapped, each by `prefetch`: a closure, but of one
/// instruction that every CPU has.
#[inline(always)]
pub(super) fn prefetch_all(prefetch: impl Fn(*const u8), at: *const u8, bytes: usize) {
    for line in (0..bytes).step_by(CACHE_LINE_BYTES) {
        prefetch(at.wrapping_add(line));
    }
}

/// A part of an algorithm that is a function of its own, see [`Simd::run`].
pub(super) trait Part<S: Simd> {
    /// Must be `#[inline(always)]`, see [`Simd`].
    fn inlined(self, s: S);
}

impl<S: Simd, K: Kernel> Part<S> for K {
    #[inline(always)]
    fn inlined(self, s: S) {
        self.simd(s);
    }
}

/// Some rows of C columns, in tiles of R rows.
pub(super) struct Tiles<'g, G, const R: usize, const C: usize> {
    pub(super) grid: &'g mut G,
    pub(super) rows: Range<usize>,
    pub(super) col: usize,
}

impl<S: Simd, G: Grid<S>, const R: usize, const C: usize> Part<S> for Tiles<'_, G, R, C> {
    #[inline(always)]
    fn inlined(self, s: S) {
        let columns = self.grid.columns::<C>(self.col);
        let mut row = self.rows.start;
        while row < self.rows.end {
            self.grid.tile::<R, C>(s, row, self.col, &columns);
            row += R;
        }
    }
}

/// A fixed-size piece of a row: an array.
pub(super) trait Chunk: Copy + 'static {
    type Item: Copy + 'static;

    /// The whole chunks of a row and what is left.
    fn split(row: &[Self::Item]) -> (&[Self], &[Self::Item]);

    /// What is left, filled up with zeros.
    fn padded(rest: &[Self::Item]) -> Self;
}

impl<T: Copy + Default + 'static, const N: usize> Chunk for [T; N] {
    type Item = T;

    #[inline(always)]
    fn split(row: &[T]) -> (&[Self], &[T]) {
        row.as_chunks()
    }

    #[inline(always)]
    fn padded(rest: &[T]) -> Self {
        let mut chunk = [T::default(); N];
        for (to, from) in chunk.iter_mut().zip(rest) {
            *to = *from;
        }
        chunk
    }
}

/// An element type of weights or of a KV cache.
pub(super) trait Element {
    /// The bytes of 16 elements.
    type Bytes: Chunk<Item = u8>;
    /// The bytes of 64 elements.
    type Step: Chunk<Item = u8>;
    /// 64 elements after what is done to all of them at once.
    type Prepared<'a, S: Simd>: Copy;

    fn widen<S: Simd>(s: S, bytes: &Self::Bytes) -> S::Floats;
    fn prepare<S: Simd>(s: S, bytes: &Self::Step) -> Self::Prepared<'_, S>;
    /// The same of normal numbers alone.
    #[inline(always)]
    fn prepare_normals<S: Simd>(s: S, bytes: &Self::Step) -> Self::Prepared<'_, S> {
        Self::prepare(s, bytes)
    }
    /// Elements `16 × part ..` of the 64.
    fn widen_part<S: Simd>(s: S, prepared: Self::Prepared<'_, S>, part: usize) -> S::Floats;

    /// Covers a grid whose rows are such elements.
    fn cover<S: Simd>(s: S, grid: &mut impl Grid<S>);
}

macro_rules! element {
    ($name:ident, $size:literal, $widen:ident, $cover:ident) => {
        #[derive(Clone, Copy)]
        pub(super) struct $name;

        impl Element for $name {
            type Bytes = [u8; $size * LANES];
            type Step = [u8; 4 * $size * LANES];
            type Prepared<'a, S: Simd> = &'a Self::Step;

            #[inline(always)]
            fn widen<S: Simd>(s: S, bytes: &Self::Bytes) -> S::Floats {
                s.$widen(bytes)
            }
            #[inline(always)]
            fn prepare<S: Simd>(_: S, bytes: &Self::Step) -> &Self::Step {
                bytes
            }
            #[inline(always)]
            fn widen_part<S: Simd>(s: S, prepared: &Self::Step, part: usize) -> S::Floats {
                s.$widen(&prepared.as_chunks().0[part])
            }
            #[inline(always)]
            fn cover<S: Simd>(s: S, grid: &mut impl Grid<S>) {
                s.$cover(grid);
            }
        }
    };
}

element!(F32, 4, widen_f32, cover);
element!(BF16, 2, widen_bf16, cover_two_steps);
element!(F16, 2, widen_f16, cover);
element!(I8, 1, widen_i8, cover);

/// E4M3, whose widening takes the most steps, some of them for 64 elements at once.
#[derive(Clone, Copy)]
pub(super) struct F8;

impl Element for F8 {
    type Bytes = [u8; LANES];
    type Step = [u8; 4 * LANES];
    type Prepared<'a, S: Simd> = S::F8s<'a>;

    #[inline(always)]
    fn widen<S: Simd>(s: S, bytes: &[u8; LANES]) -> S::Floats {
        s.widen_f8(s.prepare_f8(&Chunk::padded(bytes)), 0)
    }
    #[inline(always)]
    fn prepare<S: Simd>(s: S, bytes: &Self::Step) -> S::F8s<'_> {
        s.prepare_f8(bytes)
    }
    #[inline(always)]
    fn prepare_normals<S: Simd>(s: S, bytes: &Self::Step) -> S::F8s<'_> {
        s.prepare_f8_normals(bytes)
    }
    #[inline(always)]
    fn widen_part<S: Simd>(s: S, prepared: S::F8s<'_>, part: usize) -> S::Floats {
        s.widen_f8(prepared, part)
    }
    #[inline(always)]
    fn cover<S: Simd>(s: S, grid: &mut impl Grid<S>) {
        s.cover_costly(grid);
    }
}

/// Widens up to 16 elements; further lanes are zero.
#[inline(always)]
pub(super) fn widen<S: Simd, E: Element>(s: S, bytes: &[u8]) -> S::Floats {
    match E::Bytes::split(bytes) {
        ([chunk, ..], _) => E::widen(s, chunk),
        ([], rest) => E::widen(s, &E::Bytes::padded(rest)),
    }
}

/// As [`widen`], where choosing the type once per 16 elements costs nothing that matters.
#[inline(always)]
pub(super) fn widen_dtype<S: Simd>(s: S, dtype: DType, bytes: &[u8]) -> S::Floats {
    match dtype {
        DType::F32 => widen::<S, F32>(s, bytes),
        DType::BF16 => widen::<S, BF16>(s, bytes),
        DType::F16 => widen::<S, F16>(s, bytes),
        DType::F8E4M3 => widen::<S, F8>(s, bytes),
        DType::I8 => widen::<S, I8>(s, bytes),
        // Neither vectors nor embeddings are I4.
        DType::I4 => s.splat(f32::NAN),
    }
}

/// Bytes of 16 elements.
pub(super) fn lanes_bytes(dtype: DType) -> usize {
    LANES * dtype.size_bytes()
}

/// Loads up to 16 f32; further lanes are `fill`.
#[inline(always)]
pub(super) fn load_or<S: Simd>(s: S, x: &[f32], fill: f32) -> S::Floats {
    match x.try_into() {
        Ok(whole) => s.load(whole),
        Err(_) => {
            let mut lanes = [fill; LANES];
            for (lane, x) in lanes.iter_mut().zip(x) {
                *lane = *x;
            }
            s.load(&lanes)
        }
    }
}

/// Loads up to 16 f32; further lanes are zero.
#[inline(always)]
pub(super) fn load<S: Simd>(s: S, x: &[f32]) -> S::Floats {
    load_or(s, x, 0.0)
}

/// Stores the first lanes, up to 16.
#[inline(always)]
pub(super) fn store<S: Simd>(s: S, x: S::Floats, out: &mut [f32]) {
    match <&mut [f32; LANES]>::try_from(&mut *out) {
        Ok(whole) => s.store(x, whole),
        Err(_) => {
            for (out, lane) in out.iter_mut().zip(lanes(s, x)) {
                *out = lane;
            }
        }
    }
}

/// The lanes as an array.
#[inline(always)]
pub(super) fn lanes<S: Simd>(s: S, x: S::Floats) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    s.store(x, &mut lanes);
    lanes
}

/// Replaces any NaN by the canonical one.
#[inline(always)]
pub(super) fn canonical<S: Simd>(s: S, x: S::Floats) -> S::Floats {
    s.select(s.is_nan(x), s.splat(canonical_nan(f32::NAN)), x)
}

/// Dot product of f32 rows of the same length.
#[inline(always)]
pub(super) fn dot<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    let mut acc = s.splat(0.0);
    for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
        acc = s.fma(load(s, a), load(s, b), acc);
    }
    s.sum(acc)
}

/// e^x, the steps of [`math::exp`](super::math::exp); a NaN is not yet canonical.
#[inline(always)]
pub(super) fn exp<S: Simd>(s: S, x: S::Floats) -> S::Floats {
    let (low, high) = (s.splat(RANGE.0), s.splat(RANGE.1));
    let x = s.max(low, s.min(high, x));
    let n = s.round_ties_even(s.mul(x, s.splat(LOG2_E)));
    let minus_n = s.neg(n);
    let r = s.fma(minus_n, s.splat(LN_2_HIGH), x);
    let r = s.fma(minus_n, s.splat(LN_2_LOW), r);
    let mut series = s.splat(POLYNOMIAL[0]);
    for coefficient in &POLYNOMIAL[1..] {
        series = s.fma(series, r, s.splat(*coefficient));
    }
    let fraction = s.add(s.fma(series, s.mul(r, r), r), s.splat(1.0));
    let half = s.round_ties_even(s.mul(n, s.splat(0.5)));
    s.mul(s.mul(fraction, s.pow2(half)), s.pow2(s.sub(n, half)))
}
