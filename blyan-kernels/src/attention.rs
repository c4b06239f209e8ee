//! Owns attention over the cache of one key-value head, and how that cache lies in memory.
//!
//! Keys lie in blocks of 16 positions, `(blocks, head_dim, 16)`, so that 16 scores are sums in one
//! register and nothing has to be added across; values lie in rows of `head_dim`, filled up to a
//! multiple of 16. A tile shares what it loads of either between several queries, of one token's heads
//! or of many tokens.

use std::marker::PhantomData;
use std::ops::Range;

use super::error::{KernelError, check_len, whole_rows};
use super::isa::{Isa, Kernel};
use super::mat::MatMut;
use super::scalar::{self, LANES};
use super::simd::{self, Chunk, Element, F16, F32, Grid, Simd, unroll};
use super::softmax::exp_and_sum;
use crate::dtype::{DType, Shape};

/// Positions of a block of keys.
const BLOCK: usize = LANES;

/// The shape of one key-value head's cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadShape {
    /// F16 or F32.
    pub dtype: DType,
    /// Elements of a key and of a value.
    pub head_dim: usize,
}

impl HeadShape {
    /// Bytes of 16 positions' keys.
    pub(super) fn key_block_bytes(self) -> usize {
        self.head_dim.saturating_mul(BLOCK * self.dtype.size_bytes())
    }

    /// Bytes of one position's value.
    pub(super) fn value_bytes(self) -> usize {
        self.head_dim.div_ceil(LANES).saturating_mul(simd::lanes_bytes(self.dtype))
    }

    /// Bytes that the keys of so many positions take.
    pub fn keys_len(self, positions: usize) -> usize {
        positions.div_ceil(BLOCK).saturating_mul(self.key_block_bytes())
    }

    /// Bytes that the values of so many positions take.
    pub fn values_len(self, positions: usize) -> usize {
        positions.saturating_mul(self.value_bytes())
    }

    /// Where element `d` of the key at `position` starts.
    pub(super) fn key_place(self, position: usize, d: usize) -> usize {
        let block = position / BLOCK * self.key_block_bytes();
        block + (d * BLOCK + position % BLOCK) * self.dtype.size_bytes()
    }
}

/// What the tokens of one sequence attend to: the cache of one key-value head, read by the query heads
/// that share it.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// Shape of the cache.
    pub shape: HeadShape,
    /// As [`Isa::store_position`] writes them.
    pub keys: &'a [u8],
    /// As [`Isa::store_position`] writes them.
    pub values: &'a [u8],
    /// The group's heads of each token, `group × head_dim` elements, lie `stride` elements apart.
    pub queries: &'a [f32],
    /// Elements from one token's queries to the next one's.
    pub stride: usize,
    /// Query heads that share the key-value head.
    pub group: usize,
    /// The positions that each token attends to.
    pub spans: &'a [Range<usize>],
    /// Factor of each score, as a rule 1/√head_dim.
    pub scale: f32,
}

impl Isa {
    /// Rounds a key and a value to the cache's dtype and writes them at a position.
    ///
    /// # Errors
    ///
    /// A dtype other than F16 and F32; a cache too short for the position; a key or value of another
    /// length than `head_dim`.
    pub fn store_position(
        self,
        shape: HeadShape,
        position: usize,
        (key, value): (&[f32], &[f32]),
        (keys, values): (&mut [u8], &mut [u8]),
    ) -> Result<(), KernelError> {
        check_len("key", shape.head_dim, key.len())?;
        check_len("value", shape.head_dim, value.len())?;
        check_positions(shape, position.saturating_add(1), keys, values)?;
        let size = shape.dtype.size_bytes();
        let row = &mut values[position * shape.value_bytes()..][..shape.head_dim * size];
        // The value's place first holds the rounded key, from where its elements are dealt out.
        self.round_to(shape.dtype, key, row)?;
        for (d, element) in row.chunks_exact(size).enumerate() {
            keys[shape.key_place(position, d)..][..size].copy_from_slice(element);
        }
        self.round_to(shape.dtype, value, row)
    }

    /// `out = softmax(scale × q·k) v` for each token and query head, over the token's positions.
    ///
    /// out: `(tokens, group × head_dim)`. `scores` is scratch space that may be reused. All NaN for a
    /// token without positions.
    ///
    /// # Errors
    ///
    /// Shapes that do not fit, a span past the cache's end, or a dtype other than F16 and F32.
    pub fn attention(
        self,
        args: &Attention<'_>,
        scores: &mut Vec<f32>,
        mut out: MatMut<'_>,
    ) -> Result<(), KernelError> {
        let width = args.group.saturating_mul(args.shape.head_dim);
        whole_rows("queries", width, width)?;
        check_len("output rows", args.spans.len(), out.rows())?;
        check_len("output columns", width, out.cols())?;
        if let Some(last) = args.spans.len().checked_sub(1) {
            let needed = last.saturating_mul(args.stride).saturating_add(width);
            if args.stride < width || args.queries.len() < needed {
                return Err(KernelError::Length {
                    argument: "queries",
                    expected: needed,
                    actual: args.queries.len(),
                });
            }
        }
        for token in 0..out.rows() {
            out.row_mut(token).into_iter().for_each(|row| row.fill(scalar::canonical_nan(f32::NAN)));
        }
        let attending = || args.spans.iter().filter(|span| !span.is_empty());
        let Some(end) = attending().map(|span| span.end).max() else {
            return check_positions(args.shape, 0, args.keys, args.values);
        };
        check_positions(args.shape, end, args.keys, args.values)?;
        let first_block = attending().map(|span| span.start).min().unwrap_or(0) / BLOCK;
        let blocks = end.div_ceil(BLOCK) - first_block;
        let queries = args.spans.len() * args.group;
        let len = Shape::new([queries, blocks, BLOCK]).size_bytes(DType::F32)? / DType::F32.size_bytes();
        scores.resize(len, 0.0);
        match args.shape.dtype {
            DType::F32 => self.run(Run::<F32> { args, first_block, blocks, scores, out, bytes: PhantomData }),
            _ => self.run(Run::<F16> { args, first_block, blocks, scores, out, bytes: PhantomData }),
        }
        Ok(())
    }
}

fn check_positions(
    shape: HeadShape,
    positions: usize,
    keys: &[u8],
    values: &[u8],
) -> Result<(), KernelError> {
    if !matches!(shape.dtype, DType::F16 | DType::F32) {
        return Err(KernelError::UnsupportedDType { argument: "cache", dtype: shape.dtype });
    }
    for (argument, expected, actual) in [
        ("keys", shape.keys_len(positions), keys.len()),
        ("values", shape.values_len(positions), values.len()),
    ] {
        if actual < expected {
            return Err(KernelError::Length { argument, expected, actual });
        }
    }
    Ok(())
}

struct Run<'a, 'o, E> {
    args: &'a Attention<'a>,
    /// The first block that any token attends to.
    first_block: usize,
    /// Blocks from there to the last one.
    blocks: usize,
    /// (tokens × group, blocks × 16)
    scores: &'a mut [f32],
    /// (tokens, group × head_dim)
    out: MatMut<'o>,
    bytes: PhantomData<E>,
}

impl<E: Element> Kernel for Run<'_, '_, E> {
    fn scalar(mut self) {
        scalar::attention(self.args, self.scores, &mut self.out);
    }

    #[inline(always)]
    fn simd<S: Simd>(self, s: S) {
        self.attend(s);
    }
}

/// Positions whose values stay in a core's second-level cache while all queries pass by.
const VALUES_IN_CACHE: usize = 512;

impl<'a, E: Element> Run<'a, '_, E> {
    /// A query's head, by its index among tokens × group.
    #[inline(always)]
    fn query(&self, index: usize) -> &'a [f32] {
        let args = self.args;
        let start = index / args.group * args.stride + index % args.group * args.shape.head_dim;
        &args.queries[start..][..args.shape.head_dim]
    }

    /// The positions that a query attends to, counted from the first block.
    #[inline(always)]
    fn span(&self, index: usize) -> Range<usize> {
        let span = &self.args.spans[index / self.args.group];
        let first = self.first_block * BLOCK;
        if span.is_empty() { 0..0 } else { span.start - first..span.end - first }
    }

    #[inline(always)]
    fn out(&mut self, index: usize) -> &mut [f32] {
        let (group, head_dim) = (self.args.group, self.args.shape.head_dim);
        let row = self.out.row_mut(index / group).unwrap_or_default();
        &mut row[index % group * head_dim..][..head_dim]
    }

    #[inline(always)]
    fn attend<S: Simd>(mut self, s: S) {
        let queries = self.args.spans.len() * self.args.group;
        s.cover_attention(&mut Scores { run: &mut self });

        let mut inverse_sums = Vec::with_capacity(queries);
        for query in 0..queries {
            let span = self.span(query);
            let scores = &mut self.scores[query * self.blocks * BLOCK..][span.clone()];
            inverse_sums.push(1.0 / exp_and_sum(s, scores));
            if !span.is_empty() {
                self.out(query).fill(0.0);
            }
        }

        for first in (0..self.blocks * BLOCK).step_by(VALUES_IN_CACHE) {
            let positions = first..first + VALUES_IN_CACHE;
            s.cover_attention(&mut WeightedValues { run: &mut self, positions });
        }

        for (query, inverse) in inverse_sums.into_iter().enumerate() {
            let inverse = s.splat(inverse);
            for out in self.out(query).chunks_mut(LANES) {
                simd::store(s, simd::canonical(s, s.mul(simd::load(s, out), inverse)), out);
            }
        }
    }
}

/// The scores of 16 positions (the grid's rows) and a query (its columns): a sum over the head in each
/// lane, in ascending order.
struct Scores<'r, 'a, 'o, E> {
    run: &'r mut Run<'a, 'o, E>,
}

impl<S: Simd, E: Element> Grid<S> for Scores<'_, '_, '_, E> {
    type Columns<const C: usize> = ();

    fn shape(&self) -> (usize, usize) {
        (self.run.blocks, self.run.args.spans.len() * self.run.args.group)
    }

    fn rows_in_cache(&self) -> usize {
        simd::CACHED_BYTES / self.run.args.shape.key_block_bytes().max(1)
    }

    fn columns<const C: usize>(&self, _: usize) {}

    #[inline(always)]
    fn tile<const R: usize, const C: usize>(&mut self, s: S, block: usize, query: usize, (): &()) {
        // A block past the end is computed for nothing.
        match self.run.blocks - block {
            1 | 2 => self.sums::<S, 2, C>(s, block, query),
            3 | 4 if R > 4 => self.sums::<S, 4, C>(s, block, query),
            _ => self.sums::<S, R, C>(s, block, query),
        }
    }
}

impl<E: Element> Scores<'_, '_, '_, E> {
    /// R blocks, of which those past the end are the last one once more.
    #[inline(always)]
    fn sums<S: Simd, const R: usize, const C: usize>(&mut self, s: S, block: usize, query: usize) {
        let run = &mut *self.run;
        let head_dim = run.args.shape.head_dim;
        let (keys, _) = E::Bytes::split(run.args.keys);
        let block_of = |r: usize| (block + r).min(run.blocks - 1);
        let mut rows: [&[E::Bytes]; R] = [&[]; R];
        let mut queries: [&[f32]; C] = [&[]; C];
        unroll!(r < R, {
            rows[r] = &keys[(run.first_block + block_of(r)) * head_dim..][..head_dim];
        });
        unroll!(c < 4 or C, { queries[c] = &run.query(query + c)[..head_dim]; });

        // The first query reads keys from memory, the next ones find them in a cache. While one tile is computed, the
        // one after it is asked for: as many bytes with each element of the head, in the order of memory.
        let next = run.args.shape.key_block_bytes() * R;
        let next = (query == 0 && block + R < run.blocks).then_some(next);
        let mut acc = [[s.splat(0.0); C]; R];
        for d in 0..head_dim {
            if let Some(next) = next {
                let bytes = R * size_of::<E::Bytes>();
                let at = rows[0].as_ptr().cast::<u8>().wrapping_add(next + d * bytes);
                simd::prefetch_all(|line| s.prefetch(line), at, bytes);
            }
            let mut key = [s.splat(0.0); R];
            unroll!(r < R, {
                key[r] = E::widen(s, &rows[r][d]);
            });
            unroll!(c < 4 or C, {
                let q = s.splat(queries[c][d]);
                unroll!(r < R, { acc[r][c] = s.fma(q, key[r], acc[r][c]); });
            });
        }

        let scale = s.splat(run.args.scale);
        unroll!(c < 4 or C, {
            let scores = &mut run.scores[(query + c) * run.blocks * BLOCK..][..run.blocks * BLOCK];
            unroll!(r < R, {
                simd::store(s, s.mul(acc[r][c], scale), &mut scores[block_of(r) * BLOCK..][..BLOCK]);
            });
        });
    }
}

/// The sums of some positions' values, weighted: 16 elements of a head (the grid's rows) for each query
/// (its columns), in ascending positions.
struct WeightedValues<'r, 'a, 'o, E> {
    run: &'r mut Run<'a, 'o, E>,
    positions: Range<usize>,
}

impl<S: Simd, E: Element> Grid<S> for WeightedValues<'_, '_, '_, E> {
    type Columns<const C: usize> = ();

    fn shape(&self) -> (usize, usize) {
        let args = self.run.args;
        (args.shape.head_dim.div_ceil(LANES), args.spans.len() * args.group)
    }

    fn rows_in_cache(&self) -> usize {
        usize::MAX / 2
    }

    fn columns<const C: usize>(&self, _: usize) {}

    #[inline(always)]
    fn tile<const R: usize, const C: usize>(&mut self, s: S, chunk: usize, query: usize, (): &()) {
        // As in `Scores`.
        match self.run.args.shape.head_dim.div_ceil(LANES) - chunk {
            1 | 2 => self.sums::<S, 2, C>(s, chunk, query),
            3 | 4 if R > 4 => self.sums::<S, 4, C>(s, chunk, query),
            _ => self.sums::<S, R, C>(s, chunk, query),
        }
    }
}

impl<E: Element> WeightedValues<'_, '_, '_, E> {
    /// R chunks of the head, of which those past its end are the last one once more.
    #[inline(always)]
    fn sums<S: Simd, const R: usize, const C: usize>(&mut self, s: S, chunk: usize, query: usize) {
        let run = &mut *self.run;
        let chunks = run.args.shape.head_dim.div_ceil(LANES);
        let chunk_of = |r: usize| (chunk + r).min(chunks - 1);
        let (values, _) = E::Bytes::split(run.args.values);
        let values = &values[run.first_block * BLOCK * chunks..];

        let mut spans = [const { 0..0 }; C];
        let mut weights: [&[f32]; C] = [&[]; C];
        let mut acc = [[s.splat(0.0); C]; R];
        unroll!(c < 4 or C, {
            let span = run.span(query + c);
            spans[c] = span.start.max(self.positions.start)..span.end.min(self.positions.end);
            unroll!(r < R, {
                let (lanes, at) = (LANES, chunk_of(r) * LANES);
                let out = run.out(query + c);
                acc[r][c] = simd::load(s, &out[at..(at + lanes).min(out.len())]);
            });
        });
        unroll!(c < 4 or C, { weights[c] = &run.scores[(query + c) * run.blocks * BLOCK..][..run.blocks * BLOCK]; });

        // Positions that all queries attend to go through the tile; those before and after, query by
        // query: nothing may be added for a position that a query does not attend to.
        let start = spans.iter().map(|span| span.start).max().unwrap_or(0);
        let end = spans.iter().map(|span| span.end).min().unwrap_or(0).max(start);
        unroll!(c < 4 or C, {
            for j in spans[c].start..start.min(spans[c].end) {
                let weight = s.splat(weights[c][j]);
                unroll!(r < R, {
                    acc[r][c] = s.fma(weight, E::widen(s, &values[j * chunks + chunk_of(r)]), acc[r][c]);
                });
            }
        });
        // As with keys, the first query reads from memory; a core that is quicker where it is asked for more than what it
        // sees coming is asked.
        let asks = s.reads_two_runs() && query == 0;
        for j in start..end {
            let row = &values[j * chunks..][..chunks];
            if asks {
                let at = row.as_ptr().wrapping_add(chunk).cast();
                simd::prefetch_twice(s, at, R * size_of::<E::Bytes>());
            }
            let mut value = [s.splat(0.0); R];
            unroll!(r < R, {
                value[r] = E::widen(s, &row[chunk_of(r)]);
            });
            unroll!(c < 4 or C, {
                let weight = s.splat(weights[c][j]);
                unroll!(r < R, { acc[r][c] = s.fma(weight, value[r], acc[r][c]); });
            });
        }
        unroll!(c < 4 or C, {
            for j in end.max(spans[c].start)..spans[c].end {
                let weight = s.splat(weights[c][j]);
                unroll!(r < R, {
                    acc[r][c] = s.fma(weight, E::widen(s, &values[j * chunks + chunk_of(r)]), acc[r][c]);
                });
            }
        });

        unroll!(c < 4 or C, {
            if !run.span(query + c).is_empty() {
                unroll!(r < R, {
                    let at = chunk_of(r) * LANES;
                    let out = run.out(query + c);
                    let end = (at + LANES).min(out.len());
                    simd::store(s, acc[r][c], &mut out[at..end]);
                });
            }
        });
    }
}
