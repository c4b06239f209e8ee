//! The instruction set of every 64-bit Arm CPU.

#![expect(unsafe_code, reason = "intrinsics")]

pub(super) mod neon;
