//! Owns the matrix product of weights and activations.

use std::marker::PhantomData;
use std::ops::Range;

use super::error::{KernelError, check_len};
use super::isa::{Isa, Kernel};
use super::mat::MatMut;
use super::operand::{Input, Weights};
use super::scalar::{self, LANES, canonical_nan};
use super::simd::{BF16, Chunk, Element, F8, F16, F32, Grid, Simd};
use crate::dtype::DType;

pub(super) struct Matmul<'a, 'o> {
    pub(super) weights: &'a Weights<'a>,
    pub(super) rows: Range<usize>,
    pub(super) input: &'a Input<'a>,
    pub(super) out: MatMut<'o>,
}

impl Isa {
    /// `out[t][r] = Σ_k w[rows.start + r][k] × input[t][k]`, for some rows of the weights.
    ///
    /// weights: `(n, d)`, input: `(tokens, d)`, out: `(tokens, rows.len())`. `I8` weights read the
    /// quantized form of the input. A result does not depend on the other tokens or rows.
    ///
    /// # Errors
    ///
    /// Shapes that do not fit; `I8` weights without a quantized input.
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
        if weights.dtype() == DType::I8 && !input.is_quantized() {
            return Err(KernelError::NotQuantized);
        }
        self.run(Matmul { weights, rows, input, out });
        Ok(())
    }
}

impl Kernel for Matmul<'_, '_> {
    fn scalar(mut self) {
        scalar::matmul(self.weights, self.rows, self.input, &mut self.out);
    }

    #[inline(always)]
    fn simd<S: Simd>(self, s: S) {
        match self.weights.dtype() {
            DType::F32 => s.cover(&mut Products::<FloatDot<F32>>::new(self)),
            DType::BF16 => s.cover(&mut Products::<FloatDot<BF16>>::new(self)),
            DType::F16 => s.cover(&mut Products::<FloatDot<F16>>::new(self)),
            DType::F8E4M3 => s.cover(&mut Products::<FloatDot<F8>>::new(self)),
            DType::I8 => s.cover(&mut Products::<IntDot>::new(self)),
        }
    }
}

/// How a row of weights meets a token: chunk by chunk, into one accumulator of lanes.
pub(super) trait Dot<S: Simd> {
    /// Weights of one step, as they are stored.
    type Weights: Chunk<Item = u8>;
    /// Activations of one step.
    type Values: Chunk;
    /// Weights of one step in registers, shared by all tokens of a tile.
    type Wide: Copy;
    /// Running sums, one per lane.
    type Acc: Copy;
    /// Sum over lanes and blocks.
    type Total: Copy + Default;

    /// Steps after which the accumulator must be emptied into the total.
    const BLOCK: usize;

    fn token<'a>(input: &Input<'a>, token: usize) -> &'a [<Self::Values as Chunk>::Item];
    fn zero(s: S) -> Self::Acc;
    fn widen(s: S, weights: &Self::Weights) -> Self::Wide;
    fn step(s: S, acc: Self::Acc, wide: Self::Wide, values: &Self::Values) -> Self::Acc;
    fn flush(s: S, total: Self::Total, acc: Self::Acc) -> Self::Total;
    fn finish(total: Self::Total, job: &Matmul<'_, '_>, row: usize, token: usize) -> f32;
}

/// Floats: fused multiply-add of widened weights. 16 elements a step, never emptied on the way.
pub(super) struct FloatDot<E>(PhantomData<E>);

impl<S: Simd, E: Element> Dot<S> for FloatDot<E> {
    type Weights = E::Bytes;
    type Values = [f32; LANES];
    type Wide = S::Floats;
    type Acc = S::Floats;
    type Total = f32;

    const BLOCK: usize = usize::MAX;

    #[inline(always)]
    fn token<'a>(input: &Input<'a>, token: usize) -> &'a [f32] {
        input.token(token)
    }
    #[inline(always)]
    fn zero(s: S) -> S::Floats {
        s.splat(0.0)
    }
    #[inline(always)]
    fn widen(s: S, weights: &E::Bytes) -> S::Floats {
        E::widen(s, weights)
    }
    #[inline(always)]
    fn step(s: S, acc: S::Floats, wide: S::Floats, values: &[f32; LANES]) -> S::Floats {
        s.fma(wide, s.load(values), acc)
    }
    #[inline(always)]
    fn flush(s: S, _: f32, acc: S::Floats) -> f32 {
        s.sum(acc)
    }
    #[inline(always)]
    fn finish(total: f32, job: &Matmul<'_, '_>, row: usize, _: usize) -> f32 {
        job.weights.row_scale(row).map_or(total, |scale| total * scale)
    }
}

/// Integers: exact sums of products of 8-bit weights and 16-bit activations. 32 elements a step.
struct IntDot;

impl<S: Simd> Dot<S> for IntDot {
    type Weights = [u8; 2 * LANES];
    type Values = [i16; 2 * LANES];
    type Wide = S::Shorts;
    type Acc = S::Ints;
    type Total = i64;

    /// A lane takes two products a step, each at most 128 × 32767, and has room for 512 of them;
    /// one step is left for the end of the row.
    const BLOCK: usize = 255;

    #[inline(always)]
    fn token<'a>(input: &Input<'a>, token: usize) -> &'a [i16] {
        input.quantized_token(token).0
    }
    #[inline(always)]
    fn zero(s: S) -> S::Ints {
        s.zero_ints()
    }
    #[inline(always)]
    fn widen(s: S, weights: &[u8; 2 * LANES]) -> S::Shorts {
        s.widen_i8_to_i16(weights)
    }
    #[inline(always)]
    fn step(s: S, acc: S::Ints, wide: S::Shorts, values: &[i16; 2 * LANES]) -> S::Ints {
        s.add_products(acc, wide, values)
    }
    #[inline(always)]
    fn flush(s: S, total: i64, acc: S::Ints) -> i64 {
        total + s.sum_ints(acc)
    }
    #[inline(always)]
    fn finish(total: i64, job: &Matmul<'_, '_>, row: usize, token: usize) -> f32 {
        let (_, token_scale) = job.input.quantized_token(token);
        total as f32 * token_scale * job.weights.row_scale(row).unwrap_or(1.0)
    }
}

/// The products of weight rows (the grid's rows) and tokens (its columns).
pub(super) struct Products<'a, 'o, D> {
    job: Matmul<'a, 'o>,
    dot: PhantomData<D>,
}

impl<'a, 'o, D> Products<'a, 'o, D> {
    pub(super) fn new(job: Matmul<'a, 'o>) -> Self {
        Self { job, dot: PhantomData }
    }
}

impl<S: Simd, D: Dot<S>> Grid<S> for Products<'_, '_, D> {
    fn shape(&self) -> (usize, usize) {
        (self.job.rows.len(), self.job.input.tokens())
    }

    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "r and c number registers, not elements of a slice")]
    fn tile<const R: usize, const C: usize>(&mut self, s: S, row: usize, col: usize) {
        let job = &mut self.job;
        let first_row = job.rows.start + row;

        // The whole chunks of each row, and what is left after them.
        let mut weights: [&[D::Weights]; R] = [&[]; R];
        let mut weights_end: [&[u8]; R] = [&[]; R];
        let mut values: [&[D::Values]; C] = [&[]; C];
        let mut values_end: [&[<D::Values as Chunk>::Item]; C] = [&[]; C];
        for r in 0..R {
            (weights[r], weights_end[r]) = D::Weights::split(job.weights.row(first_row + r));
        }
        for c in 0..C {
            (values[c], values_end[c]) = D::Values::split(D::token(job.input, col + c));
        }
        // All rows have as many chunks; said here, the loop below needs no further check.
        let steps = weights[0].len();
        for row in &mut weights {
            *row = &row[..steps];
        }
        for token in &mut values {
            *token = &token[..steps];
        }

        let mut totals = [[D::Total::default(); C]; R];
        let mut step = 0usize;
        loop {
            let mut acc = [[D::zero(s); C]; R];
            let block_end = steps.min(step.saturating_add(D::BLOCK));
            while step < block_end {
                for r in 0..R {
                    let wide = D::widen(s, &weights[r][step]);
                    for c in 0..C {
                        acc[r][c] = D::step(s, acc[r][c], wide, &values[c][step]);
                    }
                }
                step += 1;
            }
            if step == steps && !weights_end[0].is_empty() {
                for r in 0..R {
                    let wide = D::widen(s, &D::Weights::padded(weights_end[r]));
                    for c in 0..C {
                        acc[r][c] = D::step(s, acc[r][c], wide, &D::Values::padded(values_end[c]));
                    }
                }
            }
            for r in 0..R {
                for c in 0..C {
                    totals[r][c] = D::flush(s, totals[r][c], acc[r][c]);
                }
            }
            if step == steps {
                break;
            }
        }

        for c in 0..C {
            for r in 0..R {
                let result = D::finish(totals[r][c], job, first_row + r, col + c);
                job.out.set(col + c, row + r, canonical_nan(result));
            }
        }
    }
}
