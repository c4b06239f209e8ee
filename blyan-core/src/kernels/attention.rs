//! Owns attention of one token for one key-value head and the query heads that share it.

use std::marker::PhantomData;

use super::error::{KernelError, check_len, whole_rows};
use super::isa::{Isa, Kernel};
use super::mat::MatMut;
use super::matmul::{FloatDot, Matmul, Products};
use super::operand::{Input, Weights};
use super::scalar::{self, LANES};
use super::simd::{self, Chunk, Element, F16, F32, Grid, Simd};
use super::softmax::exp_and_sum;
use crate::dtype::{DType, Shape};

/// What one token's query heads of one group attend to.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// `(group, head_dim)`
    pub queries: &'a [f32],
    /// `(positions, head_dim)` in `dtype`, the first attended position first.
    pub keys: &'a [u8],
    /// `(positions, head_dim)` in `dtype`.
    pub values: &'a [u8],
    /// F16 or F32.
    pub dtype: DType,
    /// Size of a head.
    pub head_dim: usize,
    /// Factor of each score, as a rule 1/√head_dim.
    pub scale: f32,
}

impl Isa {
    /// `out = softmax(scale × q·k) v` for each query head, over all the positions given.
    ///
    /// out: `(group, head_dim)`. `scores` is scratch space that may be reused. All NaN, if there are
    /// no positions.
    ///
    /// # Errors
    ///
    /// Shapes that do not fit, or a dtype other than F16 and F32.
    pub fn attention(
        self,
        args: &Attention<'_>,
        scores: &mut Vec<f32>,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        if !matches!(args.dtype, DType::F16 | DType::F32) {
            return Err(KernelError::UnsupportedDType { argument: "cache", dtype: args.dtype });
        }
        let group = whole_rows("queries", args.queries.len(), args.head_dim)?;
        let positions =
            whole_rows("keys", args.keys.len(), Shape::new([args.head_dim]).size_bytes(args.dtype)?)?;
        check_len("values", args.keys.len(), args.values.len())?;
        check_len("out", args.queries.len(), out.len())?;
        if positions == 0 {
            out.fill(scalar::canonical_nan(f32::NAN));
            return Ok(());
        }
        // A score per query and position, and an inverse sum per query.
        let len = Shape::new([group, positions + 1]).size_bytes(DType::F32)? / DType::F32.size_bytes();
        scores.resize(len, 0.0);
        let (scores, inverse_sums) = scores.split_at_mut(group * positions);

        let keys = Weights::new(args.dtype, positions, args.head_dim, args.keys, None)?;
        let queries = Input::new(args.queries, args.head_dim)?;
        self.run(Run { args, keys, queries, scores, inverse_sums, out });
        Ok(())
    }
}

struct Run<'a> {
    args: &'a Attention<'a>,
    /// The same keys and queries, as operands of a matrix product.
    keys: Weights<'a>,
    queries: Input<'a>,
    scores: &'a mut [f32],
    inverse_sums: &'a mut [f32],
    out: &'a mut [f32],
}

impl Kernel for Run<'_> {
    fn scalar(self) {
        scalar::attention(self.args, self.scores, self.out);
    }

    #[inline(always)]
    fn simd<S: Simd>(self, s: S) {
        match self.args.dtype {
            DType::F32 => self.attend::<S, F32>(s),
            _ => self.attend::<S, F16>(s),
        }
    }
}

impl Run<'_> {
    #[inline(always)]
    fn attend<S: Simd, E: Element>(mut self, s: S) {
        let (group, positions) = (self.queries.tokens(), self.keys.rows());
        let Ok(out) = MatMut::from_slice(self.scores, group, positions) else { return };
        let products = Matmul { weights: &self.keys, rows: 0..positions, input: &self.queries, out };
        s.cover(&mut Products::<FloatDot<E>>::new(products));

        let scale = s.splat(self.args.scale);
        for (scores, inverse) in self.scores.chunks_exact_mut(positions).zip(&mut *self.inverse_sums) {
            for scores in scores.chunks_mut(LANES) {
                let scaled = s.mul(simd::load(s, scores), scale);
                simd::store(s, scaled, scores);
            }
            *inverse = 1.0 / exp_and_sum(s, scores);
        }

        s.cover(&mut WeightedValues::<E, true> { run: &mut self, dtype: PhantomData });
        s.cover(&mut WeightedValues::<E, false> { run: &mut self, dtype: PhantomData });
    }
}

/// The sums of values: 16 elements of a head (the grid's rows) for each query (its columns). Either
/// all `WHOLE` groups of 16, or the one group that is left, in a loop of its own for its branch.
struct WeightedValues<'r, 'a, E, const WHOLE: bool> {
    run: &'r mut Run<'a>,
    dtype: PhantomData<E>,
}

impl<S: Simd, E: Element, const WHOLE: bool> Grid<S> for WeightedValues<'_, '_, E, WHOLE> {
    fn shape(&self) -> (usize, usize) {
        let (whole, rest) = (self.run.args.head_dim / LANES, self.run.args.head_dim % LANES);
        (if WHOLE { whole } else { rest.min(1) }, self.run.queries.tokens())
    }

    fn rows_in_cache(&self) -> usize {
        usize::MAX / 2
    }

    #[inline(always)]
    fn tile<const R: usize, const C: usize>(&mut self, s: S, row: usize, col: usize) {
        let Run { args, keys, scores, inverse_sums, out, .. } = &mut *self.run;
        let (head_dim, positions) = (args.head_dim, keys.rows());
        let value_bytes = args.values.len() / positions;

        let mut weights: [&[f32]; C] = [&[]; C];
        for c in 0..C {
            weights[c] = &scores[(col + c) * positions..][..positions];
        }
        let mut acc = [[s.splat(0.0); C]; R];
        for (position, value) in args.values.chunks_exact(value_bytes).enumerate() {
            let (whole, rest) = E::Bytes::split(value);
            let whole = if WHOLE { &whole[row..][..R] } else { &[] };
            let mut weight = [s.splat(0.0); C];
            for c in 0..C {
                weight[c] = s.splat(weights[c][position]);
            }
            for r in 0..R {
                let value = if WHOLE { E::widen(s, &whole[r]) } else { E::widen(s, &E::Bytes::padded(rest)) };
                for c in 0..C {
                    acc[r][c] = s.fma(weight[c], value, acc[r][c]);
                }
            }
        }
        let first = if WHOLE { row * LANES } else { head_dim / LANES * LANES };
        for c in 0..C {
            let inverse = s.splat(inverse_sums[col + c]);
            let out = &mut out[(col + c) * head_dim..][first..head_dim];
            for (r, out) in out.chunks_mut(LANES).take(R).enumerate() {
                simd::store(s, simd::canonical(s, s.mul(acc[r][c], inverse)), out);
            }
        }
    }
}
