//! Owns kernels whose output element depends on one element of each input: gates, sums, clamps.

use super::error::{KernelError, check_len, whole_rows};
use super::isa::{Isa, Kernel};
use super::operand::Vector;
use super::scalar::{self, LANES};
use super::simd::{self, Simd};

impl Isa {
    /// `gate = silu(gate) × up`, where `silu(g) = g / (1 + e^-g)`: the gate of a feed-forward part.
    ///
    /// # Errors
    ///
    /// Slices of different lengths.
    pub fn silu_mul(self, gate: &mut [f32], up: &[f32]) -> Result<(), KernelError> {
        check_len("up", gate.len(), up.len())?;
        self.run(SiluMul { gate, up });
        Ok(())
    }

    /// `acc = acc + x`: the residual.
    ///
    /// # Errors
    ///
    /// Slices of different lengths.
    pub fn add(self, acc: &mut [f32], x: &[f32]) -> Result<(), KernelError> {
        check_len("x", acc.len(), x.len())?;
        self.run(Add { acc, x });
        Ok(())
    }

    /// `acc = scale × x + acc`, rounded once: the weighted sum over experts.
    ///
    /// # Errors
    ///
    /// Slices of different lengths.
    pub fn scale_add(self, acc: &mut [f32], scale: f32, x: &[f32]) -> Result<(), KernelError> {
        check_len("x", acc.len(), x.len())?;
        self.run(ScaleAdd { acc, scale, x });
        Ok(())
    }

    /// `acc = acc + vector`, each row: a bias. acc: `(rows, n)`, vector: `(n,)`.
    ///
    /// # Errors
    ///
    /// A length that is no whole number of rows.
    pub fn add_vector(self, acc: &mut [f32], vector: &Vector<'_>) -> Result<(), KernelError> {
        whole_rows("acc", acc.len(), vector.len())?;
        self.run(AddVector { acc, vector });
        Ok(())
    }

    /// Clamps to `-limit..=limit`; a NaN stays one.
    pub fn clamp(self, x: &mut [f32], limit: f32) {
        self.run(Clamp { x, limit });
    }
}

struct SiluMul<'a> {
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl Kernel for SiluMul<'_> {
    fn scalar(self) {
        scalar::silu_mul(self.gate, self.up);
    }

    #[inline(always)]
    fn simd<S: Simd>(self, s: S) {
        for (gate, up) in self.gate.chunks_mut(LANES).zip(self.up.chunks(LANES)) {
            let g = simd::load(s, gate);
            let silu = s.div(g, s.add(s.splat(1.0), simd::exp(s, s.neg(g))));
            let y = s.mul(silu, simd::load(s, up));
            simd::store(s, simd::canonical(s, y), gate);
        }
    }
}

struct Add<'a> {
    acc: &'a mut [f32],
    x: &'a [f32],
}

impl Kernel for Add<'_> {
    fn scalar(self) {
        scalar::add(self.acc, self.x);
    }

    #[inline(always)]
    fn simd<S: Simd>(self, s: S) {
        for (acc, x) in self.acc.chunks_mut(LANES).zip(self.x.chunks(LANES)) {
            let y = s.add(simd::load(s, acc), simd::load(s, x));
            simd::store(s, simd::canonical(s, y), acc);
        }
    }
}

struct ScaleAdd<'a> {
    acc: &'a mut [f32],
    scale: f32,
    x: &'a [f32],
}

impl Kernel for ScaleAdd<'_> {
    fn scalar(self) {
        scalar::scale_add(self.acc, self.scale, self.x);
    }

    #[inline(always)]
    fn simd<S: Simd>(self, s: S) {
        let scale = s.splat(self.scale);
        for (acc, x) in self.acc.chunks_mut(LANES).zip(self.x.chunks(LANES)) {
            let y = s.fma(scale, simd::load(s, x), simd::load(s, acc));
            simd::store(s, simd::canonical(s, y), acc);
        }
    }
}

struct AddVector<'a> {
    acc: &'a mut [f32],
    vector: &'a Vector<'a>,
}

impl Kernel for AddVector<'_> {
    fn scalar(self) {
        scalar::add_vector(self.acc, self.vector);
    }

    #[inline(always)]
    fn simd<S: Simd>(self, s: S) {
        let dtype = self.vector.dtype();
        for row in self.acc.chunks_exact_mut(self.vector.len()) {
            let vector = self.vector.data().chunks(simd::lanes_bytes(dtype));
            for (acc, x) in row.chunks_mut(LANES).zip(vector) {
                let y = s.add(simd::load(s, acc), simd::widen_dtype(s, dtype, x));
                simd::store(s, simd::canonical(s, y), acc);
            }
        }
    }
}

struct Clamp<'a> {
    x: &'a mut [f32],
    limit: f32,
}

impl Kernel for Clamp<'_> {
    fn scalar(self) {
        scalar::clamp(self.x, self.limit);
    }

    #[inline(always)]
    fn simd<S: Simd>(self, s: S) {
        let (low, high) = (s.splat(-self.limit), s.splat(self.limit));
        for x in self.x.chunks_mut(LANES) {
            let y = simd::load(s, x);
            let y = s.max(low, s.min(high, y));
            simd::store(s, simd::canonical(s, y), x);
        }
    }
}
