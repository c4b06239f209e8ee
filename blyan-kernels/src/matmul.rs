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
    /// R rows from a place on. `part`: rows that two runs share, where they are read in two runs.
    #[inline(always)]
    fn rows_of_tile<const R: usize>(&self, place: usize, part: Option<usize>) -> Tile<'a, R> {
        let len = R.min(self.rows.len() - place);
        let first = self.rows.start + place;
        let two_runs = part.is_some();
        let mut tile = Tile { len, two_runs, index: [first; R], bytes: [&[]; R], scales: [1.0; R] };
        let Some(part) = part else {
            unroll!(r < R, {
                tile.index[r] = first + r.min(len - 1);
            });
            tile.bytes = self.weights.tile(first, len);
            tile.scales = self.weights.tile_scales(first, len);
            return tile;
        };
        let runs = TwoRuns::at(place, self.rows.len(), part);
        let in_part = place - runs.start;
        if R.is_multiple_of(2) && in_part.is_multiple_of(2) && in_part + R <= 2 * runs.second_len {
            // As many of each run, which are neighbours in it.
            let (a, b) = (self.rows.start + runs.row(in_part), self.rows.start + runs.row(in_part + 1));
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
                let place = place + r.min(len - 1);
                let runs = TwoRuns::at(place, self.rows.len(), part);
                let index = self.rows.start + runs.row(place - runs.start);
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
    /// Rows that two runs share, where they are read so.
    part: usize,
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
        let part = TwoRuns::rows_of_part(weights.row_bytes());
        let beside = weights
            .beside()
            .map(|bytes| Beside { start: bytes.as_ptr(), row_bytes: bytes.len() / weights.rows().max(1) });
        Self { job, part, beside, dot: PhantomData }
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
        let tile = job.rows_of_tile::<R>(row, two_runs.then_some(self.part));
        const { assert!(PLACES_AT_ONCE.is_multiple_of(R)) };
        if two_runs && col == 0 && row.is_multiple_of(PLACES_AT_ONCE) {
            // Neighbouring places are of one run each.
            unroll!(run < 2, {
                let place = row + PLACES_AHEAD + run;
                if place < job.rows.len() {
                    let runs = TwoRuns::at(place, job.rows.len(), self.part);
                    let index = job.rows.start + runs.row(place - runs.start);
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
    // So a run of steps begins a stretch.
    const { assert!(!D::NORMALS || D::BLOCK == usize::MAX, "blocks may begin within a stretch") };
    // All have as many steps; said here, the loops need no further check.
    let steps = block.len();
    let (mut w, mut g, mut x) = ([&weights[0][..0]; R], [&scales[0][..0]; R], [&values[0][..0]; C]);
    unroll!(r < R, {
        w[r] = &weights[r][block.clone()][..steps];
        g[r] = &scales[r][block.clone()][..steps];
    });
    unroll!(c < 4 or C, { x[c] = &values[c][block.clone()][..steps]; });
    let start = block.start;
    let mut acc = [[D::zero(s); C]; R];
    let mut first = 0;
    while steps - first >= AT_ONCE {
        prefetch(s, ask, weights, start + first..start + first + AT_ONCE);
        let (mut w_now, mut g_now, mut x_now) =
            ([&w[0][..AT_ONCE]; R], [&g[0][..AT_ONCE]; R], [&x[0][..AT_ONCE]; C]);
        unroll!(r < R, {
            w_now[r] = &w[r][first..][..AT_ONCE];
            g_now[r] = &g[r][first..][..AT_ONCE];
        });
        unroll!(c < 4 or C, { x_now[c] = &x[c][first..][..AT_ONCE]; });
        let rows = (&w_now, &g_now);
        if D::NORMALS && AT_ONCE * D::STEP == STRETCH && are_normal(normals, (start + first) / AT_ONCE) {
            for step in 0..AT_ONCE {
                acc = add_step::<S, D, R, C, true>(s, rows, &x_now, step, acc);
            }
        } else {
            for step in 0..AT_ONCE {
                acc = add_step::<S, D, R, C, false>(s, rows, &x_now, step, acc);
            }
        }
        first += AT_ONCE;
    }
    for step in first..steps {
        if let Ask::InRuns = ask {
            // Rows of I4 are often shorter than so many steps.
            prefetch(s, ask, weights, start + step..start + step + 1);
        }
        acc = add_step::<S, D, R, C, false>(s, (&w, &g), &x, step, acc);
    }
    acc
}

/// Whether all rows are known to have normal numbers alone in a stretch.
#[inline(always)]
fn are_normal<const R: usize>(normals: &Slices<'_, u8, R>, stretch: usize) -> bool {
    let mut bits = u8::MAX;
    unroll!(r < R, {
        bits &= normals[r].get(stretch / 8).copied().unwrap_or(0);
    });
    bits >> (stretch % 8) & 1 == 1
}

/// Asks for as many bytes as some steps of R rows read.
#[inline(always)]
fn prefetch<S: Simd, T, const R: usize>(s: S, ask: Ask, rows: &Slices<'_, T, R>, steps: Range<usize>) {
    let (start, bytes) = (steps.start * size_of::<T>(), steps.len() * size_of::<T>());
    let at = |row: &[T], offset: usize| row.as_ptr().cast::<u8>().wrapping_add(offset);
    match ask {
        Ask::Nothing => {}
        // A step of R rows stands for as many bytes of a tile whose rows lie one after the other.
        Ask::Ahead(ahead) => {
            simd::prefetch_all(|line| s.prefetch(line), at(rows[0], R * start + ahead), R * bytes)
        }
        Ask::InRuns => {
            unroll!(r < R, {
                simd::prefetch_all(|line| simd::prefetch_twice(s, line), at(rows[r], start), bytes);
            });
        }
    }
}

/// `acc` and the products of one step.
/// `NORMALS`: whether its weights are normal numbers alone.
#[inline(always)]
fn add_step<S: Simd, D: Dot<S>, const R: usize, const C: usize, const NORMALS: bool>(
    s: S,
    (weights, scales): (&Slices<'_, D::Weights, R>, &Slices<'_, D::Scale, R>),
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
