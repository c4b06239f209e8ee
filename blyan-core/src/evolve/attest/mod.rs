//! Attestations: what a validator measured of a model with and without candidates, and measuring it.

mod measure;
mod statement;

pub(super) use measure::Measure;
pub use measure::{attest, attest_all};
pub use statement::{Attestation, Losses};
