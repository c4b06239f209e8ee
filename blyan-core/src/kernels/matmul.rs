//! Owns the matrix product of weights and activations.

use std::marker::PhantomData;
use std::ops::Range;

use super::dot::{Dot, FloatDot, GroupDot, IntDot};
use super::error::{KernelError, check_len};
use super::isa::{Isa, Kernel};
use super::mat::MatMut;
use super::operand::{Input, Weights};
use super::rows::CACHE_LINE_BYTES;
use super::scalar::{self, canonical_nan};
use super::simd::{self, BF16, Chunk, Element, F8, F16, F32, Grid, Simd, unroll};
#[cfg(target_arch = "x86_64")]
use super::x86_64::amx::Amx;
use crate::dtype::DType;

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
    /// read quantized forms of the input. A result does not depend on the other tokens or rows.
    ///
    /// # Errors
    ///
    /// Shapes that do not fit; `I8` or `I4` weights without the form of the input that they meet.
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
        if !input.suits(weights.dtype()) {
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

    /// The same, with tiles where they are of use.
    #[cfg(target_arch = "x86_64")]
    fn amx(amx: Amx, products: Products<'_, '_, Self>)
    where
        Self: Sized,
    {
        amx.avx512().run(products);
    }
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

    #[cfg(target_arch = "x86_64")]
    fn amx(self, amx: Amx) {
        D::amx(amx, self);
    }
}

impl<E: Element> AnyDot for FloatDot<E> {
    #[inline(always)]
    fn cover<S: Simd>(s: S, products: &mut Products<'_, '_, Self>) {
        E::cover(s, products);
    }
}

impl AnyDot for IntDot {
    #[inline(always)]
    fn cover<S: Simd>(s: S, products: &mut Products<'_, '_, Self>) {
        s.cover_sums(products);
    }

    #[cfg(target_arch = "x86_64")]
    fn amx(amx: Amx, mut products: Products<'_, '_, Self>) {
        let Matmul { weights, rows, input, out } = &mut products.job;
        if amx.suits(weights.cols(), rows, input.tokens()) {
            amx.products(weights, rows, input, out);
        } else {
            amx.avx512().run(products);
        }
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

/// How far ahead of their use weights are asked for, where rows are read one after the other for several tokens.
const AHEAD_BYTES: usize = 4096;

/// The same for a single token, into the first-level cache, for the dtypes and on the CPUs that are faster for it. Elsewhere
/// a core that reads row by row sees by itself what comes next, and such requests only slow it down.
const AHEAD_OF_ONE_BYTES: usize = 2048;

/// What is asked for before it is read, so many bytes ahead of its use.
#[derive(Clone, Copy)]
enum Ask {
    Nothing,
    FirstLevel(usize),
    SecondLevel(usize),
}

/// Steps between two such requests. They are unrolled: the fewer instructions lie between two reads, the more
/// of them a core has under way.
const RUN: usize = 4;

/// The same of steps of half a cache line, those of I8. With fewer, how fast a row is read depends on where the loop
/// happens to lie in memory.
const RUN_OF_HALF_LINES: usize = 8;

/// The same of rows side by side, whose steps are longer.
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
        let of_matrix = first_row..first_row + rows;
        // Apart, so that a tile without an end does none of what an end would need.
        let totals = if job.weights.cols().is_multiple_of(D::STEP) {
            totals::<S, D, R, C, false>(s, job.weights, of_matrix, col, tokens)
        } else {
            totals::<S, D, R, C, true>(s, job.weights, of_matrix, col, tokens)
        };
        let row_scales: [f32; R] = job.weights.tile_scales(first_row, rows);
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

/// The sums of R rows × C tokens from token `col` on, by fours.
/// `ENDS`: whether rows have an end that is no whole step.
#[inline(always)]
fn totals<S: Simd, D: Dot<S>, const R: usize, const C: usize, const ENDS: bool>(
    s: S,
    matrix: &Weights<'_>,
    rows: Range<usize>,
    col: usize,
    tokens: &Tokens<'_, D::Values, C>,
) -> [[D::Total; 4]; MOST_FOURS] {
    // A row past the end is the last one once more, and its result is dropped.
    let row_of = |r: usize| rows.start + r.min(rows.len() - 1);
    let bytes: [&[u8]; R] = matrix.tile(rows.start, rows.len());
    let mut weights: [&[D::Weights]; R] = [&[]; R];
    let mut scales: [&[D::Scale]; R] = [&[]; R];
    unroll!(r < R, {
        weights[r] = D::Weights::split(bytes[r]).0;
        scales[r] = D::scales(matrix, row_of(r)).0;
    });
    let whole = weights[0].len();
    let steps = whole + usize::from(ENDS);
    let mut totals = [[D::Total::default(); 4]; MOST_FOURS];
    let mut step = 0usize;
    while step < steps {
        let end = steps.min(step.saturating_add(D::BLOCK));
        let block = step..end.min(whole);
        let mut acc = [[D::zero(s); C]; R];
        // The first tokens read weights from memory; the next ones find them in a cache.
        let asks = C == 1 && D::MANY_INSTRUCTIONS && s.asks_for_one_token();
        if (C <= D::ROW_BY_ROW || asks) && col == 0 {
            unroll!(r < R, {
                if r < rows.len() {
                    let row = (&[weights[r]], &[scales[r]]);
                    let (values, block) = (&tokens.values, block.clone());
                    // Loops of their own, so that one that asks for nothing does not decide about it either.
                    acc[r] = if C > 1 {
                        sum_row::<S, D, C>(s, row, values, block, Ask::SecondLevel(AHEAD_BYTES))
                    } else if asks {
                        sum_row::<S, D, C>(s, row, values, block, Ask::FirstLevel(AHEAD_OF_ONE_BYTES))
                    } else {
                        sum_row::<S, D, C>(s, row, values, block, Ask::Nothing)
                    };
                }
            });
        } else {
            // While one tile is computed, the one after the next is asked for.
            let ask = if col == 0 { Ask::SecondLevel(2 * R * matrix.row_bytes()) } else { Ask::Nothing };
            let rows = (&weights, &scales);
            acc = sum_steps::<S, D, R, C, RUN_OF_ROWS>(s, rows, &tokens.values, block, ask);
        }
        if ENDS && end > whole {
            // Only parts that are begun are filled up with zeros: a product of zeros changes -0.
            let parts = (matrix.cols() - whole * D::STEP).div_ceil(D::PART);
            unroll!(r < R, {
                let weights = D::Weights::padded(D::Weights::split(bytes[r]).1);
                let prepared = D::prepare(s, &weights);
                let scale = D::spread(s, &D::scales(matrix, row_of(r)).1);
                unroll!(c < 4 or C, {
                    // Values may come in whole chunks although weights do not.
                    let padded;
                    let values = match tokens.values[c].get(whole) {
                        Some(values) => values,
                        None => {
                            padded = D::Values::padded(tokens.values_end[c]);
                            &padded
                        }
                    };
                    let mut sum = D::begin(s, acc[r][c]);
                    unroll!(part < D::PARTS, {
                        if part < parts {
                            let (wide, loaded) = (D::widen(s, prepared, part), D::load(s, values, part));
                            sum = D::add(s, sum, wide, loaded);
                        }
                    });
                    acc[r][c] = D::end(s, acc[r][c], sum, scale, values);
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
    totals
}

/// [`canonical_nan`] of each.
#[inline(always)]
fn canonical_each(x: [f32; 4]) -> [f32; 4] {
    [canonical_nan(x[0]), canonical_nan(x[1]), canonical_nan(x[2]), canonical_nan(x[3])]
}

/// A slice of each row.
type Slices<'a, T, const R: usize> = [&'a [T]; R];

/// [`sum_steps`] of one row.
#[inline(always)]
fn sum_row<S: Simd, D: Dot<S>, const C: usize>(
    s: S,
    row: (&Slices<'_, D::Weights, 1>, &Slices<'_, D::Scale, 1>),
    values: &[&[D::Values]; C],
    block: Range<usize>,
    ask: Ask,
) -> [D::Acc; C] {
    let [acc] = if size_of::<D::Weights>() < CACHE_LINE_BYTES {
        sum_steps::<S, D, 1, C, RUN_OF_HALF_LINES>(s, row, values, block, ask)
    } else {
        sum_steps::<S, D, 1, C, RUN>(s, row, values, block, ask)
    };
    acc
}

/// The sums of R rows × C tokens over a block of steps, in registers. Before each run of steps, as many bytes as it
/// reads are asked for, in the order of memory and not in that of the steps: memory gives one run faster than several.
/// They lie as far ahead as `ask` says of those that the tile would have read by then in that order: a hint, so they need
/// not be the weights' own.
#[inline(always)]
fn sum_steps<S: Simd, D: Dot<S>, const R: usize, const C: usize, const RUN: usize>(
    s: S,
    (weights, scales): (&Slices<'_, D::Weights, R>, &Slices<'_, D::Scale, R>),
    values: &[&[D::Values]; C],
    block: Range<usize>,
    ask: Ask,
) -> [[D::Acc; C]; R] {
    // All have as many steps; said here, the loops need no further check.
    let steps = block.len();
    let (mut w, mut g, mut x) = ([&weights[0][..0]; R], [&scales[0][..0]; R], [&values[0][..0]; C]);
    unroll!(r < R, {
        w[r] = &weights[r][block.clone()][..steps];
        g[r] = &scales[r][block.clone()][..steps];
    });
    unroll!(c < 4 or C, { x[c] = &values[c][block.clone()][..steps]; });
    // A step of R rows stands for as many bytes of a tile whose rows lie one after the other.
    let bytes = R * size_of::<D::Weights>();
    let at = |step: usize| weights[0].as_ptr().cast::<u8>().wrapping_add((block.start + step) * bytes);
    let mut acc = [[D::zero(s); C]; R];
    let mut first = 0;
    while steps - first >= RUN {
        match ask {
            Ask::Nothing => {}
            Ask::FirstLevel(ahead) => {
                simd::prefetch_all(|line| s.prefetch_first(line), at(first).wrapping_add(ahead), RUN * bytes);
            }
            Ask::SecondLevel(ahead) => {
                simd::prefetch_all(|line| s.prefetch(line), at(first).wrapping_add(ahead), RUN * bytes);
            }
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
        // Rows of I4 are often shorter than a run.
        if let Ask::FirstLevel(ahead) = ask {
            simd::prefetch_all(|line| s.prefetch_first(line), at(step).wrapping_add(ahead), bytes);
        }
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
    let mut sums = [[D::begin(s, acc[0][0]); C]; R];
    unroll!(c < 4 or C, {
        unroll!(r < R, { sums[r][c] = D::begin(s, acc[r][c]); });
    });
    unroll!(part < D::PARTS, {
        let mut wide = [D::widen(s, prepared[0], part); R];
        unroll!(r < R, {
            wide[r] = D::widen(s, prepared[r], part);
        });
        unroll!(c < 4 or C, {
            let loaded = D::load(s, &values[c][step], part);
            unroll!(r < R, { sums[r][c] = D::add(s, sums[r][c], wide[r], loaded); });
        });
    });
    unroll!(r < R, {
        let scale = D::spread(s, &scales[r][step]);
        unroll!(c < 4 or C, { acc[r][c] = D::end(s, acc[r][c], sums[r][c], scale, &values[c][step]); });
    });
    acc
}
