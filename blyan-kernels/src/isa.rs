//! Owns [`Isa`]: which instruction set runs, and the one place where a kernel is handed to it.

use std::ffi::OsStr;

use super::error::KernelError;
use super::simd::Simd;

#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
use super::aarch64::neon::Neon;
#[cfg(target_arch = "x86_64")]
use super::x86_64::{amx::Amx, avx2::Avx2, avx512::Avx512};

/// An instruction set that this CPU has: holding one proves it.
///
/// Looking for `amx` asks Linux for this process's right to use it, wherever a CPU has it: [`Isa::named`] of that name,
/// [`Isa::detect`], [`Isa::from_env`] and [`Isa::available`] do, [`Isa::for_rows`] does not. The right lasts until exec,
/// and child processes have it too. From then on the system refuses alternate signal stacks too small for tiles; where a
/// thread has one already, it refuses the right, and `avx512` is the fastest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isa(Backend);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Backend {
    Scalar,
    #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
    Neon(Neon),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "x86_64")]
    Amx(Amx),
}

/// A kernel with its arguments, whose shapes were checked.
pub(super) trait Kernel: Sized {
    /// The plain loops that define the result.
    fn scalar(self);

    /// The same bits from vector instructions. Must be `#[inline(always)]`, see [`Simd`].
    fn simd<S: Simd>(self, s: S);

    /// The same bits, with tiles where they are of use.
    #[cfg(target_arch = "x86_64")]
    fn amx(self, amx: Amx) {
        amx.avx512().run(self);
    }
}

/// The variable that forces an instruction set.
pub const ISA_VARIABLE: &str = "BLYAN_ISA";

/// Every name but [`TILES`], the slowest first.
const VECTORS: [&str; 4] = ["scalar", "neon", "avx2", "avx512"];

/// The name that needs a right of the system and is of use for matrix products alone.
const TILES: &str = "amx";

impl Isa {
    /// The plain loops, which every CPU runs.
    pub const SCALAR: Self = Self(Backend::Scalar);

    /// The fastest instruction set of this CPU. Linux is asked for this process's right to `amx`.
    pub fn detect() -> Self {
        Self::named(TILES).unwrap_or_else(|_| Self::for_rows())
    }

    /// The fastest for work on single rows, such as converting weights: never `amx`, which has nothing to add to it.
    pub fn for_rows() -> Self {
        VECTORS.iter().rev().find_map(|name| Self::named(name).ok()).unwrap_or(Self::SCALAR)
    }

    /// The instruction set of this name: `scalar`, `neon`, `avx2`, `avx512` or `amx`. For `amx`, Linux is
    /// asked for this process's right to it.
    ///
    /// # Errors
    ///
    /// An unknown name, or an instruction set that this CPU does not have.
    pub fn named(name: &str) -> Result<Self, KernelError> {
        let missing = |isa| move |missing| KernelError::IsaUnavailable { isa, missing };
        match name {
            "scalar" => Ok(Self::SCALAR),
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            "neon" => Ok(Self(Backend::Neon(Neon))),
            #[cfg(not(all(target_arch = "aarch64", target_endian = "little")))]
            "neon" => Err(missing("neon")("an aarch64 CPU")),
            #[cfg(target_arch = "x86_64")]
            "avx2" => Avx2::detect().map(|token| Self(Backend::Avx2(token))).map_err(missing("avx2")),
            #[cfg(target_arch = "x86_64")]
            "avx512" => Avx512::detect().map(|token| Self(Backend::Avx512(token))).map_err(missing("avx512")),
            #[cfg(target_arch = "x86_64")]
            "amx" => Amx::detect().map(|token| Self(Backend::Amx(token))).map_err(missing("amx")),
            #[cfg(not(target_arch = "x86_64"))]
            "avx2" => Err(missing("avx2")("an x86-64 CPU")),
            #[cfg(not(target_arch = "x86_64"))]
            "avx512" => Err(missing("avx512")("an x86-64 CPU")),
            #[cfg(not(target_arch = "x86_64"))]
            "amx" => Err(missing("amx")("an x86-64 CPU")),
            _ => Err(KernelError::UnknownIsa { name: name.chars().take(80).collect() }),
        }
    }

    /// What the environment variable `BLYAN_ISA` names, or the fastest if it is not set or empty: [`Isa::named`] or
    /// [`Isa::detect`].
    ///
    /// # Errors
    ///
    /// As [`Isa::named`].
    pub fn from_env() -> Result<Self, KernelError> {
        Self::forced_by(std::env::var_os(ISA_VARIABLE).as_deref())
    }

    fn forced_by(variable: Option<&OsStr>) -> Result<Self, KernelError> {
        variable
            .filter(|name| !name.is_empty())
            .map_or_else(|| Ok(Self::detect()), |name| Self::named(&name.to_string_lossy()))
    }

    /// Every instruction set that this CPU has, the fastest last. Linux is asked for this process's right to `amx`.
    pub fn available() -> Vec<Self> {
        VECTORS.iter().chain([&TILES]).filter_map(|name| Self::named(name).ok()).collect()
    }

    /// The same set, used as on a CPU of Intel's or of another maker, where that differs.
    #[cfg(test)]
    pub(super) fn as_on(self, _intel: bool) -> Self {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2(token) => Self(Backend::Avx2(token.as_on(_intel))),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512(token) => Self(Backend::Avx512(token.as_on(_intel))),
            #[cfg(target_arch = "x86_64")]
            Backend::Amx(token) => Self(Backend::Amx(token.as_on(_intel))),
            _ => self,
        }
    }

    /// The name under which it can be asked for.
    pub fn name(self) -> &'static str {
        match self.0 {
            Backend::Scalar => "scalar",
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Backend::Neon(_) => "neon",
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512(_) => "avx512",
            #[cfg(target_arch = "x86_64")]
            Backend::Amx(_) => "amx",
        }
    }

    /// Runs a kernel on this instruction set.
    pub(super) fn run<K: Kernel>(self, kernel: K) {
        match self.0 {
            Backend::Scalar => kernel.scalar(),
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Backend::Neon(token) => token.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2(token) => token.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512(token) => token.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Backend::Amx(token) => token.run(kernel),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_is_what_was_asked_for() {
        let available = Isa::available();
        assert_eq!(available.first(), Some(&Isa::SCALAR));
        assert_eq!(available.last(), Some(&Isa::detect()));
        for isa in available {
            assert_eq!(Isa::named(isa.name()), Ok(isa));
            assert_eq!(Isa::forced_by(Some(OsStr::new(isa.name()))), Ok(isa));
        }
        assert_eq!(Isa::forced_by(None), Ok(Isa::detect()));
    }

    #[test]
    fn rows_need_no_tiles() {
        let vectors: Vec<Isa> = Isa::available().into_iter().filter(|isa| isa.name() != "amx").collect();
        assert_eq!(vectors.last(), Some(&Isa::for_rows()));
    }

    #[test]
    fn unknown_and_unavailable_names_are_errors() {
        for name in ["", "AVX2", "sse2", " scalar"] {
            assert_eq!(Isa::named(name), Err(KernelError::UnknownIsa { name: name.into() }));
            // An empty variable is as good as none.
            assert_eq!(Isa::forced_by(Some(OsStr::new(name))).is_err(), !name.is_empty());
        }
        // No CPU has both.
        let foreign = if cfg!(target_arch = "aarch64") { "avx2" } else { "neon" };
        assert!(
            matches!(Isa::named(foreign), Err(KernelError::IsaUnavailable { isa, .. }) if isa == foreign)
        );
    }
}
