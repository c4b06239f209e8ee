//! The instruction sets of x86-64: a token for each, which proves that the CPU has it.

#![expect(unsafe_code, reason = "intrinsics, and functions compiled for more features than the crate")]

/// Returns the first feature that the CPU lacks as the function's error.
macro_rules! require_features {
    ($($feature:tt),*) => {
        $(if !std::arch::is_x86_feature_detected!($feature) {
            return Err($feature);
        })*
    };
}

pub(super) mod amx;
pub(super) mod avx2;
pub(super) mod avx512;

#[cfg(test)]
mod tests {
    #[test]
    fn the_first_missing_feature_is_named() {
        fn check() -> Result<(), &'static str> {
            // TBM was in AMD's CPUs of 2012 to 2016 alone.
            require_features!("sse2", "tbm", "avx");
            Ok(())
        }
        if !std::arch::is_x86_feature_detected!("tbm") {
            assert_eq!(check(), Err("tbm"));
        }
    }
}
