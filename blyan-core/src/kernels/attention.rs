//! Owns attention of one token for one key-value head and the query heads that share it.

use super::error::{KernelError, check_len, whole_rows};
use super::isa::{Isa, Kernel};
use super::scalar;
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

struct Run<'a> {
    args: &'a Attention<'a>,
    scores: &'a mut [f32],
    out: &'a mut [f32],
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
        let len = Shape::new([group, positions]).size_bytes(DType::F32)? / DType::F32.size_bytes();
        scores.resize(len, 0.0);
        self.run(Run { args, scores, out });
        Ok(())
    }
}

impl Kernel for Run<'_> {
    fn scalar(self) {
        scalar::attention(self.args, self.scores, self.out);
    }
}
