//! Owns the versions that a program can compare with those it was compiled for.

#![expect(unsafe_code, reason = "exported symbols")]

use std::ffi::c_char;

/// Version of the binary interface that this header describes. It grows when a program compiled for an
/// older header would not work with the library any more.
pub const BLYAN_ABI_VERSION: u32 = 1;

/// Version of the binary interface that the library has; a program works with it if it equals
/// `BLYAN_ABI_VERSION`.
#[unsafe(no_mangle)]
pub extern "C" fn blyan_abi_version() -> u32 {
    BLYAN_ABI_VERSION
}

/// Version of the library, such as "0.1.0"; ends with NUL, lives forever.
#[unsafe(no_mangle)]
pub extern "C" fn blyan_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}
