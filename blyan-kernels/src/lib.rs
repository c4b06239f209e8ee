//! Arithmetic on slices: what a forward pass computes, with the same bits on every CPU.
//!
//! `scalar.rs` defines each result with plain loops and docs/numerics.md says it in words; the
//! vector code equals it bit for bit. An [`Isa`] says which of them runs, and each kernel is a method
//! of it: shapes are checked there, once. A kernel starts no thread; callers split output rows
//! ([`MatMut`]), heads or tokens, and enter [`FpEnv`] on each thread. Every NaN that a kernel writes
//! is the canonical one.
//!
//! In blyan-core this crate is the module `kernels`.
//!
//! ```
//! use blyan_kernels::dtype::DType;
//! use blyan_kernels::{FpEnv, Input, Isa, KernelError, MatMut, Weights};
//!
//! # fn main() -> Result<(), KernelError> {
//! // Two rows of three weights, as they lie in a file.
//! let bytes: Vec<u8> = [1f32, 2.0, 3.0, 4.0, 5.0, 6.0].iter().flat_map(|w| w.to_le_bytes()).collect();
//! let weights = Weights::new(DType::F32, 2, 3, &bytes, None)?;
//! let input = Input::new(&[1.0, 10.0, 100.0], 3)?;
//!
//! let _env = FpEnv::enter();
//! for isa in Isa::available() {
//!     let mut out = [0.0; 2];
//!     isa.matmul(&weights, 0..2, &input, MatMut::from_slice(&mut out, 1, 2)?)?;
//!     assert_eq!(out, [321.0, 654.0], "{}", isa.name());
//! }
//! # Ok(())
//! # }
//! ```

// `cargo xtask neon` runs the unit tests from a plain `main`.
#![cfg_attr(all(test, plain_main), feature(custom_test_frameworks, test))]
#![cfg_attr(all(test, plain_main), test_runner(plain_main::run))]

#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod aarch64;
mod attention;
mod convert;
mod dot;
pub mod dtype;
mod error;
mod fp_env;
mod isa;
mod mat;
pub mod math;
mod matmul;
mod norm;
mod normals;
mod operand;
#[cfg(all(test, plain_main))]
#[path = "../../xtask/neon/plain_main.rs"]
mod plain_main;
mod pointwise;
mod quantize;
mod rope;
mod rows;
mod scalar;
mod simd;
mod softmax;
#[cfg(test)]
mod tests;
mod top_k;
mod two_runs;
#[cfg(target_arch = "x86_64")]
mod x86_64;

pub use attention::{Attention, HeadShape};
pub use error::KernelError;
pub use fp_env::FpEnv;
pub use isa::{ISA_VARIABLE, Isa};
pub use mat::MatMut;
pub use normals::Normals;
pub use operand::{
    Aligned, GroupQuantized, GroupQuantizedRow, Input, Quantized, QuantizedRow, Vector, Weights,
};
pub use top_k::top_k;

/// Version of docs/numerics.md; any change of a bit that a kernel writes is a new one.
pub const NUMERICS_VERSION: u32 = 2;

/// Replaces any NaN by the canonical one, `0x7fc00000`.
pub fn canonical_nan(x: f32) -> f32 {
    scalar::canonical_nan(x)
}
