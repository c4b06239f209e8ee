//! Owns the reward's arithmetic: logarithms and shares in integers, so that no rounding mode, no libm
//! and no order of additions decides a bit.

/// Binary digits after the point of a logarithm.
pub(super) const FRACTION_BITS: u32 = 32;

/// Exponent of the smallest positive f64, 2^-1074.
const LEAST_EXPONENT: i64 = -1074;

/// log₂ of a finite f64 that is not negative, given by its bits, in units of 2^-32; none for any other.
/// Zero counts as the smallest positive number, 2^-1074.
///
/// The mantissa is squared 32 times, each time giving one digit, and cut to 63 digits after the point.
/// Cutting keeps the order, so a larger number never has a smaller logarithm; and as the result
/// depends on one number alone, differences along a path add up exactly to the difference of its ends.
pub(super) fn log2(bits: u64) -> Option<i64> {
    let (exponent, mantissa) = ((bits >> 52) as i64, bits & ((1 << 52) - 1));
    // The sign is the eleventh bit of what should be an exponent.
    if exponent >= 0x7ff {
        return None;
    }
    let (mut digits, exponent) = match (exponent, mantissa) {
        (0, 0) => (1 << 63, LEAST_EXPONENT),
        (0, mantissa) => {
            let zeros = mantissa.leading_zeros();
            (mantissa << zeros, LEAST_EXPONENT + 63 - i64::from(zeros))
        }
        (exponent, mantissa) => ((1 << 63) | mantissa << 11, exponent - 1023),
    };
    let mut log = exponent;
    for _ in 0..FRACTION_BITS {
        // In [1, 4), 63 digits after the point.
        let square = (u128::from(digits) * u128::from(digits)) >> 63;
        let carry = square >> 64;
        digits = (square >> carry) as u64;
        log = log << 1 | carry as i64;
    }
    Some(log)
}

/// ⌊amount × part / whole⌋ for `part` ≤ `whole` < 2^127; 0 of nothing.
pub(super) fn share(amount: u64, part: u128, whole: u128) -> u64 {
    if whole == 0 {
        return 0;
    }
    // Long division: the digits of `amount` from the highest, `rest` always less than `whole`.
    let (mut quotient, mut rest) = (0, 0);
    for digit in (0..u64::BITS).rev() {
        quotient <<= 1;
        rest <<= 1;
        if rest >= whole {
            (quotient, rest) = (quotient | 1, rest - whole);
        }
        if amount >> digit & 1 == 1 {
            rest += part;
            if rest >= whole {
                (quotient, rest) = (quotient + 1, rest - whole);
            }
        }
    }
    quotient
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn powers_of_two_are_exact() {
        for exponent in -1022..=1023 {
            assert_eq!(log2(2f64.powi(exponent).to_bits()), Some(i64::from(exponent) << 32));
        }
        assert_eq!(log2(f64::from_bits(1).to_bits()), Some(-1074 << 32));
        assert_eq!(log2(f64::from_bits(2).to_bits()), Some(-1073 << 32));
        assert_eq!(log2(0), Some(-1074 << 32));
        assert!(log2(f64::from_bits(3).to_bits()).unwrap() > -1073 << 32);
        assert!(log2(f64::MAX.to_bits()).unwrap() < 1024 << 32);
    }

    #[test]
    fn what_is_no_loss_has_no_logarithm() {
        for value in [f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, -0.0, -f64::MIN_POSITIVE] {
            assert_eq!(log2(value.to_bits()), None, "{value}");
        }
    }

    proptest! {
        #[test]
        fn logarithms_are_those_of_the_c_library(x in 1e-300f64..1e300) {
            let expected = x.log2() * 2f64.powi(32);
            prop_assert!((log2(x.to_bits()).unwrap() as f64 - expected).abs() <= 2.0 + expected.abs() * 1e-15);
        }

        #[test]
        fn logarithms_keep_the_order(a in 0u64..0x7ff0_0000_0000_0000, step in 0u64..1 << 54) {
            let b = a.saturating_add(step).min(f64::MAX.to_bits());
            prop_assert!(log2(a) <= log2(b));
            prop_assert!(log2(a) <= log2((a + 1).min(f64::MAX.to_bits())));
        }

        #[test]
        fn a_share_is_rounded_down(amount in any::<u64>(), part in 0u128..1 << 64, more in 0u128..1 << 63) {
            // Small enough for a plain division to be the oracle.
            let (part, whole) = (part >> 1, (part >> 1) + more + 1);
            prop_assert_eq!(u128::from(share(amount, part, whole)), u128::from(amount) * part / whole);
        }

        #[test]
        fn a_share_of_large_weights_is_that_of_small_ones(amount in any::<u64>(), part in 0u128..1 << 63, more in 0u128..1 << 62) {
            let whole = part + more + 1;
            prop_assert_eq!(share(amount, part << 63, whole << 63), share(amount, part, whole));
        }
    }

    #[test]
    fn the_whole_is_all_of_it_and_nothing_is_nothing() {
        for whole in [1, 3, (1 << 127) - 1] {
            assert_eq!(share(u64::MAX, whole, whole), u64::MAX);
            assert_eq!(share(u64::MAX, 0, whole), 0);
        }
        assert_eq!(share(u64::MAX, 0, 0), 0);
    }
}
