//! The instruction set of every 64-bit Arm CPU.

#![expect(unsafe_code, reason = "loads, stores and conversions that have no safe intrinsic")]

pub(super) mod neon;
