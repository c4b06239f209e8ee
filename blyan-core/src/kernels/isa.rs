//! Owns [`Isa`]: which instruction set runs, and the one place where a kernel is handed to it.

use super::error::KernelError;

/// An instruction set that this CPU has: holding one proves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isa(Backend);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Backend {
    Scalar,
}

/// A kernel with its arguments, whose shapes were checked.
pub(super) trait Kernel: Sized {
    /// The plain loops that define the result.
    fn scalar(self);
}

/// The variable that forces an instruction set.
pub const ISA_VARIABLE: &str = "BLYAN_ISA";

impl Isa {
    /// The plain loops, which every CPU runs.
    pub const SCALAR: Self = Self(Backend::Scalar);

    /// The fastest instruction set of this CPU.
    pub fn detect() -> Self {
        Self::SCALAR
    }

    /// The instruction set of this name: `scalar`, `avx2` or `avx512`.
    ///
    /// # Errors
    ///
    /// An unknown name, or an instruction set that this CPU does not have.
    pub fn named(name: &str) -> Result<Self, KernelError> {
        match name {
            "scalar" | "avx2" | "avx512" => Ok(Self::SCALAR),
            "neon" => Err(KernelError::IsaUnavailable { isa: "neon", missing: "an aarch64 CPU" }),
            _ => Err(KernelError::UnknownIsa { name: name.chars().take(80).collect() }),
        }
    }

    /// What the environment variable `BLYAN_ISA` names, or the fastest if it is not set.
    ///
    /// # Errors
    ///
    /// As [`Isa::named`].
    pub fn from_env() -> Result<Self, KernelError> {
        match std::env::var_os(ISA_VARIABLE) {
            Some(name) => Self::named(&name.to_string_lossy()),
            None => Ok(Self::detect()),
        }
    }

    /// Every instruction set that this CPU has, the fastest last.
    pub fn available() -> Vec<Self> {
        vec![Self::SCALAR]
    }

    /// The name under which it can be asked for.
    pub fn name(self) -> &'static str {
        match self.0 {
            Backend::Scalar => "scalar",
        }
    }

    /// Runs a kernel on this instruction set.
    pub(super) fn run<K: Kernel>(self, kernel: K) {
        match self.0 {
            Backend::Scalar => kernel.scalar(),
        }
    }
}
