//! Owns the matrix product of weights and activations.

use std::marker::PhantomData;
use std::ops::Range;

use super::dot::{Dot, FloatDot, GroupDot, IntDot};
use super::error::{KernelError, check_len};
use super::isa::{Isa, Kernel};
use super::mat::MatMut;
use super::normals::STRETCH;
use super::operand::{Input, Weights};
use super::rows::CACHE_LINE_BYTES;
use super::scalar::{self, canonical_nan};
use super::simd::{self, BF16, Chunk, Element, F8, F16, F32, Grid, Simd, unroll};
use super::two_runs::TwoRuns;
#[cfg(target_arch = "x86_64")]
use super::x86_64::amx::Amx;
use crate::dtype::DType;

struct Matmul<'a, 'o> {
    weights: &'a Weights<'a>,
    rows: Range<usize>,
    input: &'a Input<'a>,
    out: MatMut<'o>,
}

impl<'a> Matmul<'a, '_> {
    /// R rows from a place on, in the order of two runs or one after the other.
    #[inline(always)]
    fn rows_of_tile<const R: usize>(&self, place: usize, runs: Option<&mut TwoRuns>) -> Tile<'a, R> {
        let len = R.min(self.rows.len() - place);
        let first = self.rows.start + place;
        let two_runs = runs.is_some();
        let mut tile = Tile { len, two_runs, index: [first; R], bytes: [&[]; R], scales: [1.0; R] };
        let Some(runs) = runs else {
            unroll!(r < R, {
                tile.index[r] = first + r.min(len - 1);
            });
            tile.bytes = self.weights.tile(first, len);
            tile.scales = self.weights.tile_scales(first, len);
            return tile;
        };
        if let Some((a, b)) = runs.side_by_side(place, R) {
            // Neighbours in each run.
            let (a, b) = (self.rows.start + a, self.rows.start + b);
            let (bytes_a, bytes_b) = (self.weights.tile::<R>(a, R / 2), self.weights.tile::<R>(b, R / 2));
            let scales_a = self.weights.tile_scales::<R>(a, R / 2);
            let scales_b = self.weights.tile_scales::<R>(b, R / 2);
            unroll!(r < R, {
                (tile.index[r], tile.bytes[r], tile.scales[r]) = match r % 2 {
                    0 => (a + r / 2, bytes_a[r / 2], scales_a[r / 2]),
                    _ => (b + r / 2, bytes_b[r / 2], scales_b[r / 2]),
                };
            });
        } else {
            unroll!(r < R, {
                let index = self.rows.start + runs.row(place + r.min(len - 1));
                tile.index[r] = index;
                tile.bytes[r] = self.weights.row(index);
                tile.scales[r] = self.weights.row_scale(index).unwrap_or(1.0);
            });
        }
        tile
    }
}

/// Rows of weights that are summed together.
struct Tile<'a, const R: usize> {
    /// Those that there are. The others are the last one once more, and their results are dropped.
    len: usize,
    /// Whether they are in the order of two runs, or one after the other.
    two_runs: bool,
    /// Among the weights' rows.
    index: [usize; R],
    bytes: [&'a [u8]; R],
    scales: [f32; R],
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
    runs: TwoRuns,
    beside: [Beside; 2],
    dot: PhantomData<D>,
}

/// What lies beside the weights, so many bytes for each row.
#[derive(Clone, Copy)]
struct Beside {
    start: *const u8,
    row_bytes: usize,
}

impl<'a, 'o, D> Products<'a, 'o, D> {
    fn new(job: Matmul<'a, 'o>) -> Self {
        let weights = job.weights;
        let runs = TwoRuns::new(job.rows.len(), weights.row_bytes());
        let beside = weights
            .beside()
            .map(|bytes| Beside { start: bytes.as_ptr(), row_bytes: bytes.len() / weights.rows().max(1) });
        Self { job, runs, beside, dot: PhantomData }
    }
}

/// What is asked for before it is read.
#[derive(Clone, Copy)]
enum Ask {
    Nothing,
    /// For the second-level cache, so many bytes ahead in the order of memory and not in that of the steps: memory gives
    /// one run faster than as many as a tile has rows.
    Ahead(usize),
    /// Twice, in each row for itself, where neighbours are of two runs: from memory for the second-level cache, and from
    /// there for the first.
    InRuns,
}

/// How far ahead of their use weights are asked for, where rows are read one after the other for several tokens. For a
/// single one, a core that reads row by row sees by itself what comes next, and such requests only slow it down.
const AHEAD_BYTES: usize = 4096;

/// How many rows ahead what lies beside the rows of two runs is asked for: it is less than the rows, but whoever waits for it
/// waits for memory.
const PLACES_AHEAD: usize = 64;

/// And for how many rows at once: a multiple of every tile's.
const PLACES_AT_ONCE: usize = 24;

/// Up to how many tokens rows are read in two runs. Weights that more tokens meet come from a cache for most of them.
const MOST_TOKENS_OF_RUNS: usize = 4;

/// Steps between two requests. They are unrolled: the fewer instructions lie between two reads, the more of them a core
/// has under way.
const AT_ONCE: usize = 4;

/// The same of steps of half a cache line, those of I8. With fewer, how fast a row is read depends on where the loop
/// happens to lie in memory.
const AT_ONCE_OF_HALF_LINES: usize = 8;

/// The same of rows side by side, whose steps are longer.
const AT_ONCE_OF_ROWS: usize = 2;

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
        // Whatever R is: all tiles of a product take the rows in one order, so that those of its last tokens find in a cache
        // what those of the first have read.
        let two_runs = s.reads_two_runs() && job.input.tokens() <= MOST_TOKENS_OF_RUNS;
        let tile = job.rows_of_tile::<R>(row, two_runs.then_some(&mut self.runs));
        const { assert!(PLACES_AT_ONCE.is_multiple_of(R)) };
        if two_runs && col == 0 && row.is_multiple_of(PLACES_AT_ONCE) {
            // Neighbouring places are of one run each.
            let mut runs = self.runs;
            unroll!(run < 2, {
                let place = row + PLACES_AHEAD + run;
                if place < job.rows.len() {
                    let index = job.rows.start + runs.row(place);
                    for Beside { start, row_bytes } in self.beside {
                        let at = start.wrapping_add(index * row_bytes);
                        simd::prefetch_all(|line| s.prefetch(line), at, PLACES_AT_ONCE / 2 * row_bytes);
                    }
                }
            });
        }
        // Apart, so that a tile without an end does none of what an end would need.
        let totals = if job.weights.cols().is_multiple_of(D::STEP) {
            totals::<S, D, R, C, false>(s, job.weights, &tile, col, tokens)
        } else {
            totals::<S, D, R, C, true>(s, job.weights, &tile, col, tokens)
        };
        let mut results = [[0.0; 4]; MOST_FOURS];
        unroll!(four < (R * C).div_ceil(4), {
            let (mut of_tokens, mut of_rows) = ([1.0; 4], [1.0; 4]);
            unroll!(i < 4, {
                let index = (4 * four + i).min(R * C - 1);
                (of_tokens[i], of_rows[i]) = (tokens.scales[index / R], tile.scales[index % R]);
            });
            results[four] = canonical_each(D::finish(totals[four], of_tokens, of_rows));
        });
        unroll!(c < 4 or C, {
            let results = &results.as_flattened()[c * R..][..R];
            let out = job.out.row_mut(col + c).unwrap_or_default();
            if two_runs {
                unroll!(r < R, {
                    if r < tile.len {
                        out[tile.index[r] - job.rows.start] = results[r];
                    }
                });
            } else {
                match <&mut [f32; R]>::try_from(&mut out[row..row + tile.len]) {
                    Ok(out) => out.copy_from_slice(results),
                    Err(_) => out[row..row + tile.len].copy_from_slice(&results[..tile.len]),
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
    tile: &Tile<'_, R>,
    col: usize,
    tokens: &Tokens<'_, D::Values, C>,
) -> [[D::Total; 4]; MOST_FOURS] {
    let mut weights: [&[D::Weights]; R] = [&[]; R];
    let mut scales: [&[D::Scale]; R] = [&[]; R];
    let mut normals: [&[u8]; R] = [&[]; R];
    unroll!(r < R, {
        if D::NORMALS {
            normals[r] = matrix.normals(tile.index[r]);
        }
        weights[r] = D::Weights::split(tile.bytes[r]).0;
        scales[r] = D::scales(matrix, tile.index[r]).0;
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
        if tile.two_runs && col == 0 && R == 1 {
            let rows = (&weights, &scales, &normals);
            acc = sum_steps::<S, D, R, C, AT_ONCE_OF_ROWS>(s, rows, &tokens.values, block, Ask::InRuns);
        } else if tile.two_runs && col == 0 {
            unroll!(pair < R / 2, {
                let (a, b) = (2 * pair, 2 * pair + 1);
                if a < tile.len {
                    let rows =
                        (&[weights[a], weights[b]], &[scales[a], scales[b]], &[normals[a], normals[b]]);
                    let (values, block) = (&tokens.values, block.clone());
                    [acc[a], acc[b]] =
                        sum_steps::<S, D, 2, C, AT_ONCE_OF_ROWS>(s, rows, values, block, Ask::InRuns);
                }
            });
        } else if C <= D::ROW_BY_ROW && col == 0 {
            let ask = if C > 1 { Ask::Ahead(AHEAD_BYTES) } else { Ask::Nothing };
            unroll!(r < R, {
                if r < tile.len {
                    let row = (&[weights[r]], &[scales[r]], &[normals[r]]);
                    acc[r] = sum_row::<S, D, C>(s, row, &tokens.values, block.clone(), ask);
                }
            });
        } else {
            // While one tile is computed, the one after the next is asked for.
            let ask = if col == 0 { Ask::Ahead(2 * R * matrix.row_bytes()) } else { Ask::Nothing };
            let rows = (&weights, &scales, &normals);
            acc = sum_steps::<S, D, R, C, AT_ONCE_OF_ROWS>(s, rows, &tokens.values, block, ask);
        }
        if ENDS && end > whole {
            // Only parts that are begun are filled up with zeros: a product of zeros changes -0.
            let parts = (matrix.cols() - whole * D::STEP).div_ceil(D::PART);
            unroll!(r < R, {
                let weights = D::Weights::padded(D::Weights::split(tile.bytes[r]).1);
                let prepared = D::prepare(s, &weights);
                let scale = D::spread(s, &D::scales(matrix, tile.index[r]).1);
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

/// Weights of each row, what scales their steps, and which of their stretches hold normal numbers alone.
type RowSlices<'r, 'a, W, G, const R: usize> =
    (&'r Slices<'a, W, R>, &'r Slices<'a, G, R>, &'r Slices<'a, u8, R>);

/// [`sum_steps`] of one row.
#[inline(always)]
fn sum_row<S: Simd, D: Dot<S>, const C: usize>(
    s: S,
    row: RowSlices<'_, '_, D::Weights, D::Scale, 1>,
    values: &[&[D::Values]; C],
    block: Range<usize>,
    ask: Ask,
) -> [D::Acc; C] {
    let [acc] = if size_of::<D::Weights>() < CACHE_LINE_BYTES {
        sum_steps::<S, D, 1, C, AT_ONCE_OF_HALF_LINES>(s, row, values, block, ask)
    } else {
        sum_steps::<S, D, 1, C, AT_ONCE>(s, row, values, block, ask)
    };
    acc
}

/// The sums of R rows × C tokens over a block of steps, in registers. Before each run of steps, as many bytes as it
/// reads are asked for: a hint, so they need not be the weights' own.
#[inline(always)]
fn sum_steps<S: Simd, D: Dot<S>, const R: usize, const C: usize, const AT_ONCE: usize>(
    s: S,
    (weights, scales, normals): RowSlices<'_, '_, D::Weights, D::Scale, R>,
    values: &[&[D::Values]; C],
    block: Range<usize>,
    ask: Ask,
) -> [[D::Acc; C]; R] {
    // So a block begins with a stretch, and a run of steps is one.
    const { assert!(!D::NORMALS || D::BLOCK == usize::MAX, "blocks may begin within a stretch") };
    // All have as many steps; said here, the loops need no further check, nor more than one place to count.
    let (runs, rest) = (block.len() / AT_ONCE, block.len() % AT_ONCE);
    let mut w: Runs<'_, D::Weights, R, AT_ONCE> = ([&[]; R], [&[]; R]);
    let mut g: Runs<'_, D::Scale, R, AT_ONCE> = ([&[]; R], [&[]; R]);
    let mut x: Runs<'_, D::Values, C, AT_ONCE> = ([&[]; C], [&[]; C]);
    unroll!(r < R, {
        (w.0[r], w.1[r]) = runs_of(&weights[r][block.clone()], runs, rest);
        (g.0[r], g.1[r]) = runs_of(&scales[r][block.clone()], runs, rest);
    });
    unroll!(c < 4 or C, { (x.0[c], x.1[c]) = runs_of(&values[c][block.clone()], runs, rest); });
    let mut acc = [[D::zero(s); C]; R];
    let rows = (&w.0, &g.0);
    if D::NORMALS && AT_ONCE * D::STEP == STRETCH {
        let mut run = 0;
        while run < runs {
            let (normal, end) = alike(normals, run, runs);
            acc = if normal {
                sum_runs::<S, D, R, C, AT_ONCE, true>(s, rows, &x.0, run..end, block.start, ask, acc)
            } else {
                sum_runs::<S, D, R, C, AT_ONCE, false>(s, rows, &x.0, run..end, block.start, ask, acc)
            };
            run = end;
        }
    } else {
        acc = sum_runs::<S, D, R, C, AT_ONCE, false>(s, rows, &x.0, 0..runs, block.start, ask, acc);
    }
    for step in 0..rest {
        if let Ask::InRuns = ask {
            // Rows of I4 are often shorter than so many steps.
            let mut now = [&w.1[0][step..=step]; R];
            unroll!(r < R, {
                now[r] = &w.1[r][step..=step];
            });
            prefetch(s, ask, &now, block.start + runs * AT_ONCE + step);
        }
        acc = add_step::<S, D, R, C, false>(s, (&w.1, &g.1), &x.1, step, acc);
    }
    acc
}

/// `acc` and the products of some runs of steps; `before` are the row's steps before the first of all runs.
/// `NORMALS`: whether their weights are normal numbers alone.
#[inline(always)]
fn sum_runs<S: Simd, D: Dot<S>, const R: usize, const C: usize, const AT_ONCE: usize, const NORMALS: bool>(
    s: S,
    (weights, scales): WithScales<'_, '_, [D::Weights; AT_ONCE], [D::Scale; AT_ONCE], R>,
    values: &Slices<'_, [D::Values; AT_ONCE], C>,
    runs: Range<usize>,
    before: usize,
    ask: Ask,
    mut acc: [[D::Acc; C]; R],
) -> [[D::Acc; C]; R] {
    for run in runs {
        let (mut w, mut g, mut x) =
            ([&weights[0][run][..]; R], [&scales[0][run][..]; R], [&values[0][run][..]; C]);
        unroll!(r < R, {
            (w[r], g[r]) = (&weights[r][run], &scales[r][run]);
        });
        unroll!(c < 4 or C, { x[c] = &values[c][run]; });
        prefetch(s, ask, &w, before + run * AT_ONCE);
        for step in 0..AT_ONCE {
            acc = add_step::<S, D, R, C, NORMALS>(s, (&w, &g), &x, step, acc);
        }
    }
    acc
}

/// Weights of each row, and what scales their steps.
type WithScales<'r, 'a, W, G, const R: usize> = (&'r Slices<'a, W, R>, &'r Slices<'a, G, R>);

/// Slices as runs of so many steps, and what is left after them.
type Runs<'a, T, const R: usize, const AT_ONCE: usize> = ([&'a [[T; AT_ONCE]]; R], Slices<'a, T, R>);

/// So many runs of steps and what is left after them, which is all there is.
#[inline(always)]
fn runs_of<T, const AT_ONCE: usize>(steps: &[T], runs: usize, rest: usize) -> (&[[T; AT_ONCE]], &[T]) {
    let (whole, left) = steps.as_chunks();
    (&whole[..runs], &left[..rest])
}

/// Whether all rows are known to have normal numbers alone in a stretch, and up to where that is so of those that follow: to
/// the end of a byte of the bits, at most.
#[inline(always)]
fn alike<const R: usize>(normals: &Slices<'_, u8, R>, stretch: usize, stretches: usize) -> (bool, usize) {
    let mut bits = u8::MAX;
    unroll!(r < R, {
        bits &= normals[r].get(stretch / 8).copied().unwrap_or(0);
    });
    let (bits, left) = (bits >> (stretch % 8), 8 - stretch % 8);
    let normal = bits & 1 == 1;
    let alike = if normal { bits.trailing_ones() } else { bits.trailing_zeros() };
    (normal, stretches.min(stretch + left.min(alike as usize)))
}

/// Asks for as many bytes as some steps of R rows read, of which `first` is the first among the row's.
#[inline(always)]
fn prefetch<S: Simd, T, const R: usize>(s: S, ask: Ask, steps: &Slices<'_, T, R>, first: usize) {
    let bytes = size_of_val(steps[0]);
    let at = |row: &[T]| row.as_ptr().cast::<u8>();
    match ask {
        Ask::Nothing => {}
        // A step of R rows stands for as many bytes of a tile whose rows lie one after the other.
        Ask::Ahead(ahead) => {
            let ahead = ahead + (R - 1) * first * size_of::<T>();
            simd::prefetch_all(|line| s.prefetch(line), at(steps[0]).wrapping_add(ahead), R * bytes);
        }
        Ask::InRuns => {
            unroll!(r < R, {
                simd::prefetch_twice(s, at(steps[r]), bytes);
            });
        }
    }
}

/// Rows to which a single token's activations are worth no instruction that loads them.
const FEW_ROWS: usize = 2;

/// `acc` and the products of one step.
/// `NORMALS`: whether its weights are normal numbers alone.
#[inline(always)]
fn add_step<S: Simd, D: Dot<S>, const R: usize, const C: usize, const NORMALS: bool>(
    s: S,
    (weights, scales): WithScales<'_, '_, D::Weights, D::Scale, R>,
    values: &[&[D::Values]; C],
    step: usize,
    mut acc: [[D::Acc; C]; R],
) -> [[D::Acc; C]; R] {
    let mut prepared = [D::prepare(s, &weights[0][step]); R];
    unroll!(r < R, {
        let weights = &weights[r][step];
        prepared[r] = if NORMALS { D::prepare_normals(s, weights) } else { D::prepare(s, weights) };
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
            let values = &values[c][step];
            if R <= FEW_ROWS && C == 1 {
                unroll!(r < R, { sums[r][c] = D::add_from(s, sums[r][c], wide[r], values, part); });
            } else {
                let loaded = D::load(s, values, part);
                unroll!(r < R, { sums[r][c] = D::add(s, sums[r][c], wide[r], loaded); });
            }
        });
    });
    unroll!(r < R, {
        let scale = D::spread(s, &scales[r][step]);
        unroll!(c < 4 or C, { acc[r][c] = D::end(s, acc[r][c], sums[r][c], scale, &values[c][step]); });
    });
    acc
}
