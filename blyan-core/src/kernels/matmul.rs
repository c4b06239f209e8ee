//! Owns the matrix product of weights and activations.

use std::marker::PhantomData;
use std::ops::Range;

use super::error::{KernelError, check_len};
use super::isa::{Isa, Kernel};
use super::mat::MatMut;
use super::operand::{GroupScale, Input, WORD, Weights, Words};
use super::rows::CACHE_LINE_BYTES;
use super::scalar::{self, LANES, canonical_nan};
use super::simd::{self, BF16, Chunk, Element, F8, F16, F32, Grid, Simd, unroll};
use crate::dtype::{DType, GROUP};

struct Matmul<'a, 'o> {
    weights: &'a Weights<'a>,
    rows: Range<usize>,
    input: &'a Input<'a>,
    out: MatMut<'o>,
}

impl Isa {
    /// `out[t][r] = Σ_k w[rows.start + r][k] × input[t][k]`, for some rows of the weights.
    ///
    /// weights: `(n, d)`, input: `(tokens, d)`, out: `(tokens, rows.len())`. `I8` and `I4` weights
    /// read the quantized form of the input. A result does not depend on the other tokens or rows.
    ///
    /// # Errors
    ///
    /// Shapes that do not fit; `I8` or `I4` weights without a quantized input.
    pub fn matmul(
        self,
        weights: &Weights<'_>,
        rows: Range<usize>,
        input: &Input<'_>,
        out: MatMut<'_>,
    ) -> Result<(), KernelError> {
        check_len("input columns", weights.cols(), input.cols())?;
        if rows.start > rows.end || rows.end > weights.rows() {
            let index = rows.end.max(rows.start);
            return Err(KernelError::OutOfRange { argument: "rows", index, len: weights.rows() });
        }
        check_len("output rows", input.tokens(), out.rows())?;
        check_len("output columns", rows.len(), out.cols())?;
        let ready = match weights.dtype() {
            DType::I8 => input.is_quantized(),
            DType::I4 => input.has_groups(),
            _ => true,
        };
        if !ready {
            return Err(KernelError::NotQuantized);
        }
        let job = Matmul { weights, rows, input, out };
        match weights.dtype() {
            DType::F32 => self.run(Products::<FloatDot<F32>>::new(job)),
            DType::BF16 => self.run(Products::<FloatDot<BF16>>::new(job)),
            DType::F16 => self.run(Products::<FloatDot<F16>>::new(job)),
            DType::F8E4M3 => self.run(Products::<FloatDot<F8>>::new(job)),
            DType::I8 => self.run(Products::<IntDot>::new(job)),
            DType::I4 => self.run(Products::<GroupDot>::new(job)),
        }
        Ok(())
    }
}

/// A kind of product, on every instruction set.
trait AnyDot {
    /// Computes the products. Must be `#[inline(always)]`, see [`Simd`].
    fn cover<S: Simd>(s: S, products: &mut Products<'_, '_, Self>)
    where
        Self: Sized;
}

impl<D: AnyDot> Kernel for Products<'_, '_, D> {
    fn scalar(mut self) {
        let Matmul { weights, rows, input, out } = &mut self.job;
        scalar::matmul(weights, rows.clone(), input, out);
    }

    #[inline(always)]
    fn simd<S: Simd>(mut self, s: S) {
        D::cover(s, &mut self);
    }
}

/// How a row of weights meets a token: step by step, into one accumulator of lanes.
trait Dot<S: Simd> {
    /// The weights of a step, as they are stored.
    type Weights: Chunk<Item = u8>;
    /// What scales a step's weights apart from others of their row; `()` for none.
    type Scale: Copy + 'static;
    /// The same in registers.
    type Spread: Copy;
    /// The activations of a step.
    type Values: Chunk;
    /// Weights after what is done to all of a step at once.
    type Prepared<'a>: Copy;
    /// A part of the weights in registers, shared by all tokens of a tile.
    type Wide: Copy;
    /// A part of the activations in registers, shared by all rows of a tile.
    type Loaded: Copy;
    /// Sums of a step, one per lane.
    type Sum: Copy;
    /// Running sums, one per lane.
    type Acc: Copy;
    /// Sum over lanes and blocks.
    type Total: Copy + Default;

    /// Elements of a step.
    const STEP: usize;

    /// Parts of a step.
    const PARTS: usize;

    /// Elements of a part, of which an unfinished step has those that are begun.
    const PART: usize;

    /// Steps after which the accumulator must be emptied into the total.
    const BLOCK: usize;

    /// Up to how many tokens rows are summed one after the other, as memory is read fastest, and not side by side:
    /// where so few chains of sums keep up with memory.
    const ROW_BY_ROW: usize;

    /// One for each whole step of a row, or more, and one for what is left after them.
    fn scales<'a>(weights: &Weights<'a>, row: usize) -> (&'a [Self::Scale], Self::Scale);
    fn token<'a>(input: &Input<'a>, token: usize) -> &'a [<Self::Values as Chunk>::Item];
    fn zero(s: S) -> Self::Acc;
    fn prepare(s: S, weights: &Self::Weights) -> Self::Prepared<'_>;
    fn widen(s: S, weights: Self::Prepared<'_>, part: usize) -> Self::Wide;
    fn load(s: S, values: &Self::Values, part: usize) -> Self::Loaded;
    /// What a step's sum starts at: `acc`, unless steps have sums of their own.
    fn begin(s: S, acc: Self::Acc, values: &Self::Values) -> Self::Sum;
    fn add(s: S, sum: Self::Sum, wide: Self::Wide, values: Self::Loaded) -> Self::Sum;
    fn spread(s: S, scale: &Self::Scale) -> Self::Spread;
    /// The running sums after a step.
    fn end(s: S, acc: Self::Acc, sum: Self::Sum, scale: Self::Spread) -> Self::Acc;
    fn flush(s: S, totals: &mut [Self::Total; 4], acc: [Self::Acc; 4]);
    fn token_scale(input: &Input<'_>, token: usize) -> f32;
    /// Results from totals, with the scales of the token and of the row of each.
    fn finish(totals: [Self::Total; 4], token_scales: [f32; 4], row_scales: [f32; 4]) -> [f32; 4];
}

/// What a row without scales of its own for each step has, of whatever length: it takes no memory.
const NO_SCALES: &[(); usize::MAX] = &[(); usize::MAX];

/// Floats: fused multiply-add of widened weights, 16 at a time, never emptied on the way.
struct FloatDot<E>(PhantomData<E>);

impl<S: Simd, E: Element> Dot<S> for FloatDot<E> {
    type Weights = E::Step;
    type Scale = ();
    type Spread = ();
    type Values = [f32; 4 * LANES];
    type Prepared<'a> = E::Prepared<'a, S>;
    type Wide = S::Floats;
    type Loaded = S::Floats;
    type Sum = S::Floats;
    type Acc = S::Floats;
    type Total = f32;

    const STEP: usize = 4 * LANES;
    const PARTS: usize = 4;
    const PART: usize = LANES;
    const BLOCK: usize = usize::MAX;
    const ROW_BY_ROW: usize = 1;

    #[inline(always)]
    fn scales<'a>(_: &Weights<'a>, _: usize) -> (&'a [()], ()) {
        (NO_SCALES, ())
    }
    #[inline(always)]
    fn token<'a>(input: &Input<'a>, token: usize) -> &'a [f32] {
        input.token(token)
    }
    #[inline(always)]
    fn zero(s: S) -> S::Floats {
        s.splat(0.0)
    }
    #[inline(always)]
    fn prepare(s: S, weights: &E::Step) -> E::Prepared<'_, S> {
        E::prepare(s, weights)
    }
    #[inline(always)]
    fn widen(s: S, weights: E::Prepared<'_, S>, part: usize) -> S::Floats {
        E::widen_part(s, weights, part)
    }
    #[inline(always)]
    fn load(s: S, values: &[f32; 4 * LANES], part: usize) -> S::Floats {
        s.load(&values.as_chunks().0[part])
    }
    #[inline(always)]
    fn begin(_: S, acc: S::Floats, _: &[f32; 4 * LANES]) -> S::Floats {
        acc
    }
    #[inline(always)]
    fn spread(_: S, (): &()) {}
    #[inline(always)]
    fn end(_: S, _: S::Floats, sum: S::Floats, (): ()) -> S::Floats {
        sum
    }
    #[inline(always)]
    fn add(s: S, acc: S::Floats, wide: S::Floats, values: S::Floats) -> S::Floats {
        s.fma(wide, values, acc)
    }
    #[inline(always)]
    fn flush(s: S, totals: &mut [f32; 4], acc: [S::Floats; 4]) {
        *totals = s.sum_each(acc);
    }
    #[inline(always)]
    fn token_scale(_: &Input<'_>, _: usize) -> f32 {
        1.0
    }
    #[inline(always)]
    fn finish(totals: [f32; 4], _: [f32; 4], row_scales: [f32; 4]) -> [f32; 4] {
        // Without a scale nothing is multiplied, with the same result as by 1.
        times(totals, row_scales)
    }
}

impl<E: Element> AnyDot for FloatDot<E> {
    #[inline(always)]
    fn cover<S: Simd>(s: S, products: &mut Products<'_, '_, Self>) {
        E::cover(s, products);
    }
}

/// Integers: exact sums of products of 8-bit weights and 16-bit activations, 32 at a time.
struct IntDot;

impl<S: Simd> Dot<S> for IntDot {
    type Weights = [u8; 2 * LANES];
    type Scale = ();
    type Spread = ();
    type Values = [i16; 2 * LANES];
    type Prepared<'a> = &'a [u8; 2 * LANES];
    type Wide = S::Shorts;
    type Loaded = S::Shorts;
    type Sum = S::Sums;
    type Acc = S::Sums;
    type Total = f64;

    const STEP: usize = 2 * LANES;
    const PARTS: usize = 1;
    const PART: usize = 2 * LANES;

    /// As many steps as [`Simd::total_each`] is exact for.
    const BLOCK: usize = 64;

    const ROW_BY_ROW: usize = S::ROW_BY_ROW;

    #[inline(always)]
    fn scales<'a>(_: &Weights<'a>, _: usize) -> (&'a [()], ()) {
        (NO_SCALES, ())
    }
    #[inline(always)]
    fn token<'a>(input: &Input<'a>, token: usize) -> &'a [i16] {
        input.quantized_token(token).0
    }
    #[inline(always)]
    fn zero(s: S) -> S::Sums {
        s.zero_sums()
    }
    #[inline(always)]
    fn prepare(_: S, weights: &[u8; 2 * LANES]) -> &[u8; 2 * LANES] {
        weights
    }
    #[inline(always)]
    fn widen(s: S, weights: &[u8; 2 * LANES], _: usize) -> S::Shorts {
        s.widen_i8_to_i16(weights)
    }
    #[inline(always)]
    fn load(s: S, values: &[i16; 2 * LANES], _: usize) -> S::Shorts {
        s.load_shorts(values)
    }
    #[inline(always)]
    fn begin(_: S, acc: S::Sums, _: &[i16; 2 * LANES]) -> S::Sums {
        acc
    }
    #[inline(always)]
    fn spread(_: S, (): &()) {}
    #[inline(always)]
    fn end(_: S, _: S::Sums, sum: S::Sums, (): ()) -> S::Sums {
        sum
    }
    #[inline(always)]
    fn add(s: S, acc: S::Sums, wide: S::Shorts, values: S::Shorts) -> S::Sums {
        s.add_products(acc, wide, values)
    }
    #[inline(always)]
    fn flush(s: S, totals: &mut [f64; 4], acc: [S::Sums; 4]) {
        for (total, sum) in totals.iter_mut().zip(s.total_each(acc)) {
            *total += sum;
        }
    }
    #[inline(always)]
    fn token_scale(input: &Input<'_>, token: usize) -> f32 {
        input.quantized_token(token).1
    }
    #[inline(always)]
    fn finish(totals: [f64; 4], token_scales: [f32; 4], row_scales: [f32; 4]) -> [f32; 4] {
        times(times(totals.map(|total| total as f32), token_scales), row_scales)
    }
}

impl AnyDot for IntDot {
    #[inline(always)]
    fn cover<S: Simd>(s: S, products: &mut Products<'_, '_, Self>) {
        s.cover_sums(products);
    }
}

/// 4-bit integers in words of eight, 16 words at a time: the exact sum of a word's products goes to
/// its lane, as f32 times the scale of its group.
struct GroupDot;

/// Bytes of 16 words.
const WORDS_BYTES: usize = 4 * LANES;

/// The scales of 16 words: four.
type WordScales = [u8; size_of::<GroupScale>() * LANES * WORD / GROUP];

impl<S: Simd> Dot<S> for GroupDot {
    type Weights = [u8; WORDS_BYTES];
    type Scale = WordScales;
    type Spread = S::Floats;
    type Values = [Words; 1];
    type Prepared<'a> = &'a [u8; WORDS_BYTES];
    type Wide = S::Shorts;
    type Loaded = S::Shorts;
    type Sum = S::Ints;
    type Acc = S::Floats;
    type Total = f32;

    const STEP: usize = LANES * WORD;
    const PARTS: usize = WORD / 2;
    /// A part has elements from the whole step.
    const PART: usize = 1;
    const BLOCK: usize = usize::MAX;
    const ROW_BY_ROW: usize = 1;

    #[inline(always)]
    fn scales<'a>(weights: &Weights<'a>, row: usize) -> (&'a [WordScales], WordScales) {
        let (whole, rest) = WordScales::split(weights.group_scales(row).as_flattened());
        (whole, WordScales::padded(rest))
    }
    #[inline(always)]
    fn token<'a>(input: &Input<'a>, token: usize) -> &'a [Words] {
        input.words(token)
    }
    #[inline(always)]
    fn zero(s: S) -> S::Floats {
        s.splat(0.0)
    }
    #[inline(always)]
    fn prepare(_: S, weights: &[u8; WORDS_BYTES]) -> &[u8; WORDS_BYTES] {
        weights
    }
    #[inline(always)]
    fn widen(s: S, weights: &[u8; WORDS_BYTES], part: usize) -> S::Shorts {
        s.nibbles(weights, part)
    }
    #[inline(always)]
    fn load(s: S, [words]: &[Words; 1], part: usize) -> S::Shorts {
        s.load_shorts(&words.values[part])
    }
    #[inline(always)]
    fn begin(s: S, _: S::Floats, [words]: &[Words; 1]) -> S::Ints {
        s.load_ints(&words.offsets)
    }
    #[inline(always)]
    fn add(s: S, sum: S::Ints, wide: S::Shorts, values: S::Shorts) -> S::Ints {
        s.add_pairs(sum, wide, values)
    }
    #[inline(always)]
    fn spread(s: S, scale: &WordScales) -> S::Floats {
        s.spread_bf16(scale)
    }
    #[inline(always)]
    fn end(s: S, acc: S::Floats, sum: S::Ints, scale: S::Floats) -> S::Floats {
        s.fma(s.ints_to_floats(sum), scale, acc)
    }
    #[inline(always)]
    fn flush(s: S, totals: &mut [f32; 4], acc: [S::Floats; 4]) {
        *totals = s.sum_each(acc);
    }
    #[inline(always)]
    fn token_scale(input: &Input<'_>, token: usize) -> f32 {
        input.quantized_token(token).1
    }
    #[inline(always)]
    fn finish(totals: [f32; 4], token_scales: [f32; 4], _: [f32; 4]) -> [f32; 4] {
        times(totals, token_scales)
    }
}

impl AnyDot for GroupDot {
    #[inline(always)]
    fn cover<S: Simd>(s: S, products: &mut Products<'_, '_, Self>) {
        s.cover_twofold(products);
    }
}

/// The products of weight rows (the grid's rows) and tokens (its columns).
struct Products<'a, 'o, D> {
    job: Matmul<'a, 'o>,
    dot: PhantomData<D>,
}

impl<'a, 'o, D> Products<'a, 'o, D> {
    fn new(job: Matmul<'a, 'o>) -> Self {
        Self { job, dot: PhantomData }
    }
}

/// How far ahead of their use weights are asked for, where rows are read one after the other.
const AHEAD_BYTES: usize = 4096;

/// Steps between two such requests. They are unrolled: the fewer instructions lie between two reads, the more
/// of them a core has under way.
const RUN: usize = 4;

/// The same of rows side by side, whose steps are longer: at least a cache line of each row.
const RUN_OF_ROWS: usize = 2;

/// Fours of results in the largest tile.
const MOST_FOURS: usize = 8;

/// The activations of C tokens.
struct Tokens<'a, V: Chunk, const C: usize> {
    /// Whole chunks, and what is left after them.
    values: [&'a [V]; C],
    values_end: [&'a [V::Item]; C],
    scales: [f32; C],
}

impl<'a, S: Simd, D: Dot<S>> Grid<S> for Products<'a, '_, D> {
    type Columns<const C: usize> = Tokens<'a, D::Values, C>;

    fn shape(&self) -> (usize, usize) {
        (self.job.rows.len(), self.job.input.tokens())
    }

    fn rows_in_cache(&self) -> usize {
        simd::CACHED_BYTES / self.job.weights.row_bytes().max(1)
    }

    #[inline(always)]
    fn columns<const C: usize>(&self, col: usize) -> Tokens<'a, D::Values, C> {
        let input = self.job.input;
        let mut tokens = Tokens { values: [&[]; C], values_end: [&[]; C], scales: [1.0; C] };
        unroll!(c < 4 or C, {
            (tokens.values[c], tokens.values_end[c]) = D::Values::split(D::token(input, col + c));
            tokens.scales[c] = D::token_scale(input, col + c);
        });
        tokens
    }

    #[inline(always)]
    fn tile<const R: usize, const C: usize>(
        &mut self,
        s: S,
        row: usize,
        col: usize,
        tokens: &Tokens<'a, D::Values, C>,
    ) {
        let job = &mut self.job;
        let first_row = job.rows.start + row;
        let rows = R.min(job.rows.end - first_row);
        // A row past the end is the last one once more, and its result is dropped.
        let row_of = |r: usize| first_row + r.min(rows - 1);

        // The whole chunks of each row, and what is left after them.
        let mut weights: [&[D::Weights]; R] = [&[]; R];
        let mut weights_end: [&[u8]; R] = [&[]; R];
        let mut scales: [&[D::Scale]; R] = [&[]; R];
        unroll!(r < R, {
            (weights[r], weights_end[r]) = D::Weights::split(job.weights.row(row_of(r)));
            scales[r] = D::scales(job.weights, row_of(r)).0;
        });
        // The first tokens read weights from memory; the next ones find them in a cache.
        let ahead = |bytes: usize| (col == 0).then_some(bytes);

        let whole = weights[0].len();
        let left = job.weights.cols() - whole * D::STEP;
        let steps = whole + usize::from(left > 0);
        let mut totals = [[D::Total::default(); 4]; MOST_FOURS];
        let mut step = 0usize;
        while step < steps {
            let end = steps.min(step.saturating_add(D::BLOCK));
            let block = step..end.min(whole);
            let mut acc = [[D::zero(s); C]; R];
            if C <= D::ROW_BY_ROW {
                let ahead = ahead(AHEAD_BYTES);
                unroll!(r < R, {
                    if r < rows {
                        let row = (&[weights[r]], &[scales[r]]);
                        [acc[r]] = sum_steps::<S, D, 1, C, RUN>(s, row, &tokens.values, block.clone(), ahead);
                    }
                });
            } else {
                // While one tile is computed, the one after the next is asked for.
                let ahead = ahead(2 * R * job.weights.row_bytes());
                let rows = (&weights, &scales);
                acc = sum_steps::<S, D, R, C, RUN_OF_ROWS>(s, rows, &tokens.values, block, ahead);
            }
            if end > whole {
                // Only parts that are begun are filled up with zeros: a product of zeros changes -0.
                let parts = left.div_ceil(D::PART);
                unroll!(r < R, {
                    let weights = D::Weights::padded(weights_end[r]);
                    let prepared = D::prepare(s, &weights);
                    let scale = D::spread(s, &D::scales(job.weights, row_of(r)).1);
                    unroll!(c < 4 or C, {
                        // Values may come in whole chunks although weights do not.
                        let values = match tokens.values[c].get(whole) {
                            Some(values) => *values,
                            None => D::Values::padded(tokens.values_end[c]),
                        };
                        let mut sum = D::begin(s, acc[r][c], &values);
                        unroll!(part < 4 or D::PARTS, {
                            if part < parts {
                                let (wide, loaded) = (D::widen(s, prepared, part), D::load(s, &values, part));
                                sum = D::add(s, sum, wide, loaded);
                            }
                        });
                        acc[r][c] = D::end(s, acc[r][c], sum, scale);
                    });
                });
            }
            step = end;

            // Sums are added up by fours, whichever they are; the last one fills up.
            unroll!(four < (R * C).div_ceil(4), {
                let sum = |i: usize| {
                    let index = (4 * four + i).min(R * C - 1);
                    acc[index % R][index / R]
                };
                D::flush(s, &mut totals[four], [sum(0), sum(1), sum(2), sum(3)]);
            });
        }

        let mut row_scales = [1.0; R];
        unroll!(r < R, {
            row_scales[r] = job.weights.row_scale(row_of(r)).unwrap_or(1.0);
        });
        let mut results = [[0.0; 4]; MOST_FOURS];
        unroll!(four < (R * C).div_ceil(4), {
            let (mut of_tokens, mut of_rows) = ([1.0; 4], [1.0; 4]);
            unroll!(i < 4, {
                let index = (4 * four + i).min(R * C - 1);
                (of_tokens[i], of_rows[i]) = (tokens.scales[index / R], row_scales[index % R]);
            });
            results[four] = canonical_each(D::finish(totals[four], of_tokens, of_rows));
        });
        unroll!(c < 4 or C, {
            let results = &results.as_flattened()[c * R..][..R];
            if let Some(out) = job.out.row_mut(col + c).and_then(|out| out.get_mut(row..row + rows)) {
                match <&mut [f32; R]>::try_from(&mut *out) {
                    Ok(out) => out.copy_from_slice(results),
                    Err(_) => out.copy_from_slice(&results[..rows]),
                }
            }
        });
    }
}

/// The products, one by one.
#[inline(always)]
fn times(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
    [a[0] * b[0], a[1] * b[1], a[2] * b[2], a[3] * b[3]]
}

/// [`canonical_nan`] of each.
#[inline(always)]
fn canonical_each(x: [f32; 4]) -> [f32; 4] {
    [canonical_nan(x[0]), canonical_nan(x[1]), canonical_nan(x[2]), canonical_nan(x[3])]
}

/// A slice of each row.
type Slices<'a, T, const R: usize> = [&'a [T]; R];

/// The sums of R rows × C tokens over a block of steps, in registers. Before each run of steps, the lines are asked
/// for that lie so many bytes `ahead`: a hint, so they need not be the weights' own.
#[inline(always)]
fn sum_steps<S: Simd, D: Dot<S>, const R: usize, const C: usize, const RUN: usize>(
    s: S,
    (weights, scales): (&Slices<'_, D::Weights, R>, &Slices<'_, D::Scale, R>),
    values: &[&[D::Values]; C],
    block: Range<usize>,
    ahead: Option<usize>,
) -> [[D::Acc; C]; R] {
    // All have as many steps; said here, the loops need no further check.
    let steps = block.len();
    let (mut w, mut g, mut x) = ([&weights[0][..0]; R], [&scales[0][..0]; R], [&values[0][..0]; C]);
    unroll!(r < R, {
        w[r] = &weights[r][block.clone()][..steps];
        g[r] = &scales[r][block.clone()][..steps];
    });
    unroll!(c < 4 or C, { x[c] = &values[c][block.clone()][..steps]; });
    let mut acc = [[D::zero(s); C]; R];
    let mut first = 0;
    while steps - first >= RUN {
        if let Some(ahead) = ahead {
            unroll!(r < R, {
                let at = w[r][first..].as_ptr().cast::<u8>().wrapping_add(ahead);
                for line in (0..RUN * size_of::<D::Weights>()).step_by(CACHE_LINE_BYTES) {
                    s.prefetch(at.wrapping_add(line));
                }
            });
        }
        let (mut w_run, mut g_run, mut x_run) = ([&w[0][..RUN]; R], [&g[0][..RUN]; R], [&x[0][..RUN]; C]);
        unroll!(r < R, {
            w_run[r] = &w[r][first..][..RUN];
            g_run[r] = &g[r][first..][..RUN];
        });
        unroll!(c < 4 or C, { x_run[c] = &x[c][first..][..RUN]; });
        for step in 0..RUN {
            acc = add_step::<S, D, R, C>(s, (&w_run, &g_run), &x_run, step, acc);
        }
        first += RUN;
    }
    for step in first..steps {
        acc = add_step::<S, D, R, C>(s, (&w, &g), &x, step, acc);
    }
    acc
}

/// `acc` and the products of one step.
#[inline(always)]
fn add_step<S: Simd, D: Dot<S>, const R: usize, const C: usize>(
    s: S,
    (weights, scales): (&Slices<'_, D::Weights, R>, &Slices<'_, D::Scale, R>),
    values: &[&[D::Values]; C],
    step: usize,
    mut acc: [[D::Acc; C]; R],
) -> [[D::Acc; C]; R] {
    let mut prepared = [D::prepare(s, &weights[0][step]); R];
    unroll!(r < R, {
        prepared[r] = D::prepare(s, &weights[r][step]);
    });
    let mut sums = [[D::begin(s, acc[0][0], &values[0][step]); C]; R];
    unroll!(c < 4 or C, {
        unroll!(r < R, { sums[r][c] = D::begin(s, acc[r][c], &values[c][step]); });
    });
    unroll!(part < 4 or D::PARTS, {
        let mut wide = [D::widen(s, prepared[0], part); R];
        unroll!(r < R, { wide[r] = D::widen(s, prepared[r], part); });
        unroll!(c < 4 or C, {
            let loaded = D::load(s, &values[c][step], part);
            unroll!(r < R, { sums[r][c] = D::add(s, sums[r][c], wide[r], loaded); });
        });
    });
    unroll!(r < R, {
        let scale = D::spread(s, &scales[r][step]);
        unroll!(c < 4 or C, { acc[r][c] = D::end(s, acc[r][c], sums[r][c], scale); });
    });
    acc
}
