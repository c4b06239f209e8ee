//! Owns [`FpEnv`]: the floating-point control state that the numerics assume.
//!
//! A host program may have set another rounding mode, or flush-to-zero for audio; kernels would
//! then give other bits. Each thread of a job enters the default state and restores its own after.

#![cfg_attr(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    expect(unsafe_code, reason = "the control register is read and written by one instruction each")
)]

use std::marker::PhantomData;

/// While it lives, this thread rounds to nearest even, keeps subnormals and masks exceptions.
///
/// Covers MXCSR on x86-64 and FPCR on aarch64. Elsewhere it does nothing: Rust itself assumes the
/// default state there.
#[derive(Debug)]
pub struct FpEnv {
    saved: ControlWord,
    /// The register belongs to a thread, so the guard stays on it.
    not_send: PhantomData<*const ()>,
}

impl FpEnv {
    /// Enters the default state; dropping the guard restores the one before.
    #[must_use = "the state is restored when the guard is dropped"]
    pub fn enter() -> Self {
        let saved = read();
        if saved != DEFAULT {
            write(DEFAULT);
        }
        Self { saved, not_send: PhantomData }
    }
}

impl Drop for FpEnv {
    fn drop(&mut self) {
        if self.saved != DEFAULT {
            write(self.saved);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod register {
    use std::arch::asm;

    pub(super) type ControlWord = u32;

    /// All exceptions masked, nearest even, FTZ and DAZ off, no sticky flags: MXCSR at reset.
    pub(super) const DEFAULT: ControlWord = 0x1f80;

    pub(super) fn read() -> ControlWord {
        let mut word: ControlWord = 0;
        // SAFETY: stores the 32-bit MXCSR to the given address, a live local.
        unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut word, options(nostack, preserves_flags)) };
        // The low six bits only report exceptions that have happened; they change no result.
        word & !0x3f
    }

    pub(super) fn write(word: ControlWord) {
        // SAFETY: loads MXCSR from a live local; the word is DEFAULT or was read from the register, so
        // no reserved bit is set.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const word, options(nostack, preserves_flags)) };
    }
}

#[cfg(target_arch = "aarch64")]
mod register {
    use std::arch::asm;

    pub(super) type ControlWord = u64;

    /// Nearest even, no flush to zero, no traps, NaNs propagate: FPCR at reset.
    pub(super) const DEFAULT: ControlWord = 0;

    pub(super) fn read() -> ControlWord {
        let word: ControlWord;
        // SAFETY: reads FPCR into a register.
        unsafe { asm!("mrs {}, fpcr", out(reg) word, options(nomem, nostack, preserves_flags)) };
        word
    }

    pub(super) fn write(word: ControlWord) {
        // SAFETY: the word is DEFAULT or was read from FPCR.
        unsafe { asm!("msr fpcr, {}", in(reg) word, options(nomem, nostack, preserves_flags)) };
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod register {
    pub(super) type ControlWord = ();
    pub(super) const DEFAULT: ControlWord = ();
    pub(super) fn read() -> ControlWord {}
    pub(super) fn write((): ControlWord) {}
}

use register::{ControlWord, DEFAULT, read, write};

#[cfg(all(test, any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tests {
    use std::hint::black_box;

    use super::*;

    /// Subnormals flushed and rounding towards zero.
    const HOSTILE: ControlWord = if cfg!(target_arch = "x86_64") { 0xffc0 } else { 0x01c0_0000 };

    #[test]
    fn a_hostile_state_is_replaced_and_restored() {
        let third = || black_box(1.0f32) / black_box(3.0f32);
        let subnormal = || black_box(f32::MIN_POSITIVE) / black_box(2.0f32);
        let before = read();
        write(HOSTILE);
        let flushed = subnormal();
        let (inside, inside_third) = {
            let _env = FpEnv::enter();
            (subnormal(), third())
        };
        let after = read();
        write(before);
        assert_eq!(flushed, 0.0, "the test's hostile state does something");
        assert_eq!(inside, f32::MIN_POSITIVE / 2.0);
        assert_eq!(inside_third.to_bits(), 0x3eaa_aaab);
        assert_eq!(after, HOSTILE);
    }
}
