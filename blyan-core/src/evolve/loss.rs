//! Owns the exact arithmetic of what is accepted: losses as bits, compared as the rational numbers that
//! they are, and never rounded.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::MILLION;

/// A mean loss in nats as the bits of an f64; in JSON 16 hexadecimal digits. Not negative; NaN is
/// `7ff8000000000000`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LossBits(u64);

/// Bits or a text that are no loss.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a loss is the bits of an f64, not negative, as 16 lowercase hexadecimal digits, NaN as 7ff8000000000000: \
     got {text:?}"
)]
pub struct ParseLossError {
    /// The text as given, cut to 80 characters.
    pub text: String,
}

const NAN: u64 = 0x7ff8_0000_0000_0000;
const INFINITY: u64 = 0x7ff0_0000_0000_0000;

impl LossBits {
    /// The loss with these bits, if it is one.
    ///
    /// # Errors
    ///
    /// [`ParseLossError`] for negative numbers, −0 included, and other NaNs.
    pub fn from_bits(bits: u64) -> Result<Self, ParseLossError> {
        if bits <= INFINITY || bits == NAN {
            Ok(Self(bits))
        } else {
            Err(ParseLossError { text: format!("{bits:016x}") })
        }
    }

    /// A loss that was computed; every NaN becomes the one, as does what no mean loss can be.
    pub fn of(loss: f64) -> Self {
        if loss == 0.0 { Self(0) } else { Self::from_bits(loss.to_bits()).unwrap_or(Self(NAN)) }
    }

    /// The bits.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The loss in nats.
    pub fn value(self) -> f64 {
        f64::from_bits(self.0)
    }

    /// Whether it is a number.
    pub const fn is_finite(self) -> bool {
        self.0 < INFINITY
    }

    /// Mantissa and exponent: the loss is `mantissa × 2^exponent`.
    fn parts(self) -> (u128, i32) {
        let (exponent, mantissa) = ((self.0 >> 52) as i32, u128::from(self.0 & 0x000f_ffff_ffff_ffff));
        if exponent == 0 { (mantissa, -1074) } else { (mantissa | 1 << 52, exponent - 1075) }
    }
}

impl fmt::Display for LossBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for LossBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LossBits({self}: {})", self.value())
    }
}

impl FromStr for LossBits {
    type Err = ParseLossError;

    fn from_str(text: &str) -> Result<Self, ParseLossError> {
        let error = || ParseLossError { text: text.chars().take(80).collect() };
        let digits = text.len() == 16 && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
        let bits = u64::from_str_radix(text, 16).ok().filter(|_| digits).ok_or_else(error)?;
        Self::from_bits(bits)
    }
}

impl Serialize for LossBits {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LossBits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str> as Deserialize>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Compares `left × a` with `right × b` for finite losses, exactly.
fn compare_products(left: LossBits, a: u32, right: LossBits, b: u32) -> Ordering {
    let ((left, left_exponent), (right, right_exponent)) = (left.parts(), right.parts());
    // At most 85 bits each.
    let (left, right) = (left * u128::from(a), right * u128::from(b));
    if left == 0 || right == 0 {
        return left.cmp(&right);
    }
    let (left_bits, right_bits) = (128 - left.leading_zeros(), 128 - right.leading_zeros());
    let magnitude = (left_bits as i32 + left_exponent).cmp(&(right_bits as i32 + right_exponent));
    // Of equal magnitude: with their highest bits in one place, the integers compare as the numbers.
    magnitude.then_with(|| (left << (128 - left_bits)).cmp(&(right << (128 - right_bits))))
}

/// Whether `base − candidate ≥ threshold × base`, the threshold in parts per million. Never for what is
/// not finite, nor for a base of 0.
pub(super) fn improves(base: LossBits, candidate: LossBits, threshold_ppm: u32) -> bool {
    let rest = MILLION.saturating_sub(threshold_ppm);
    base.is_finite()
        && candidate.is_finite()
        && base.0 > 0
        && compare_products(candidate, MILLION, base, rest) != Ordering::Greater
}

/// Whether `candidate > base × (1 + tolerance)`, the tolerance in parts per million. Always for a
/// candidate that is not finite.
pub(super) fn worsens(base: LossBits, candidate: LossBits, tolerance_ppm: u32) -> bool {
    let limit = MILLION.saturating_add(tolerance_ppm);
    !candidate.is_finite()
        || (base.is_finite() && compare_products(candidate, MILLION, base, limit) == Ordering::Greater)
}

/// A product of ratios of losses in units of 2⁻⁶²: what is left of the loss of the first model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Score(u64);

impl Score {
    /// The first model's own.
    pub const ONE: Self = Self(1 << 62);

    /// In units of 2⁻⁶².
    pub const fn units(self) -> u64 {
        self.0
    }

    /// As a number, for people.
    pub fn value(self) -> f64 {
        self.0 as f64 / Self::ONE.0 as f64
    }

    /// This times `candidate / base`, a ratio of at most 1 that is rounded down to a unit, as is the
    /// product. A product that is no longer distinguished from 0 stays 0.
    pub(super) fn times(self, candidate: LossBits, base: LossBits) -> Self {
        let ((candidate, candidate_exponent), (base, base_exponent)) = (candidate.parts(), base.parts());
        let shift = i64::from(candidate_exponent) - i64::from(base_exponent) + 62;
        let shifted = match u32::try_from(shift) {
            // 53 bits and at most 62 more: the exponent of what is not larger is not larger.
            Ok(left) => candidate.checked_shl(left.min(75)).unwrap_or(u128::MAX),
            Err(_) => candidate.checked_shr(u32::try_from(-shift).unwrap_or(u32::MAX)).unwrap_or(0),
        };
        let ratio = shifted.checked_div(base).unwrap_or(0).min(u128::from(Self::ONE.0));
        Self(u64::try_from((u128::from(self.0) * ratio) >> 62).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn loss(value: f64) -> LossBits {
        LossBits::from_bits(value.to_bits()).unwrap()
    }

    /// Exact for integers that an f64 holds.
    fn integers(base: u64, candidate: u64, ppm: u32) -> (bool, bool) {
        let (b, c, p) = (u128::from(base), u128::from(candidate), u128::from(ppm));
        let million = 1_000_000;
        (b > 0 && c * million + p * b <= b * million, c * million > b * (million + p))
    }

    proptest! {
        #[test]
        fn comparisons_are_those_of_integers(
            base in 0u64..1 << 53,
            other in 0u64..1 << 53,
            near in -3i64..=3,
            ppm in prop_oneof![0u32..=1_000_000, Just(10_000), Just(0), Just(1_000_000)],
            scale in -1000i32..=900,
        ) {
            // Near the edges, where one unit decides.
            let lower = (u128::from(base) * u128::from(1_000_000 - ppm) / 1_000_000) as i64;
            let upper = (u128::from(base) * u128::from(1_000_000 + ppm) / 1_000_000) as i64;
            for candidate in [other as i64, lower + near, upper + near] {
                let Ok(candidate) = u64::try_from(candidate) else { continue };
                if candidate >= 1 << 53 {
                    continue;
                }
                let expected = integers(base, candidate, ppm);
                for scale in [0, scale] {
                    let scaled = |x: u64| loss(x as f64 * 2f64.powi(scale));
                    let (base, candidate) = (scaled(base), scaled(candidate));
                    prop_assert_eq!(improves(base, candidate, ppm), expected.0);
                    prop_assert_eq!(worsens(base, candidate, ppm), expected.1);
                }
            }
        }

        #[test]
        fn scores_are_products_of_ratios(ratios in prop::collection::vec((1u64..=1 << 52, 1u64..1 << 52), 1..20)) {
            let (mut score, mut expected) = (Score::ONE, 1.0);
            for (a, b) in ratios {
                let (candidate, base) = (a.min(b) as f64, a.max(b) as f64);
                let next = score.times(loss(candidate), loss(base));
                prop_assert!(next <= score);
                expected *= candidate / base;
                score = next;
            }
            prop_assert!((score.value() - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn what_is_no_number_never_improves() {
        let (nan, infinite) = (loss(f64::from_bits(NAN)), loss(f64::INFINITY));
        for bad in [nan, infinite] {
            assert!(!improves(loss(1.0), bad, 1) && !improves(bad, loss(1.0), 1) && !improves(bad, bad, 0));
            assert!(worsens(loss(1.0), bad, 1_000_000) && worsens(bad, bad, 0));
        }
        assert!(!improves(loss(0.0), loss(0.0), 1), "nothing is better than nothing");
        assert!(improves(loss(1.0), loss(0.0), 1_000_000));
        assert!(improves(loss(1e-310), loss(0.0), 10_000) && improves(loss(1e-310), loss(9e-311), 10_000));
        assert!(improves(loss(f64::MAX), loss(f64::MIN_POSITIVE), 999_999));
        assert!(worsens(loss(f64::MIN_POSITIVE), loss(f64::MAX), 1_000_000));
    }

    #[test]
    fn scores_of_extremes_stay_in_range() {
        for (candidate, base) in [(0.0, 1.0), (5e-324, f64::MAX), (5e-324, 5e-324), (f64::MAX, f64::MAX)] {
            let score = Score::ONE.times(loss(candidate), loss(base));
            assert_eq!(score.value(), candidate / base);
        }
        assert_eq!(Score::ONE.times(loss(0.5), loss(1.0)).units(), 1 << 61);
        assert_eq!(Score::ONE.times(loss(1.0), loss(3.0)).units(), (1u64 << 62) / 3);
    }

    #[test]
    fn one_loss_has_one_spelling() {
        let text = "400bd70a3d70a3d7";
        assert_eq!(text.parse::<LossBits>().unwrap().to_string(), text);
        assert_eq!(text.parse::<LossBits>().unwrap().value(), 3.48);
        for bad in [
            "",
            "400BD70A3D70A3D7",
            "400bd70a3d70a3d",
            "0400bd70a3d70a3d7",
            "+00bd70a3d70a3d7",
            "8000000000000000",
            "c00bd70a3d70a3d7",
            "7ff8000000000001",
            "7ff0000000000001",
            "fff8000000000000",
        ] {
            assert!(bad.parse::<LossBits>().is_err(), "{bad}");
        }
    }
}
