//! Evidence: who says what of which improvement, and what follows from it. One file per concept, as the
//! core's `evolve` has them; docs/evolution.md tells what they are for.

#![expect(unsafe_code, reason = "pointers of the caller")]

pub mod attest;
pub mod contribute;
pub mod dataset;
pub mod evaluate;
pub mod extract;
pub mod judge;
pub mod key;
pub mod policy;
pub mod reward;
pub mod round;
pub mod statement;
pub mod usage;

use blyan_core::evolve::EvolveError;
use blyan_core::{BlockHash, Chain};
use serde::Serialize;

use crate::chain::blyan_chain;
use crate::edge::{out, read};
use crate::error::{Failure, Outcome, blyan_status};
use crate::hash::blyan_hash;
use crate::text::blyan_text;

/// Appends one block, and gives its hash.
///
/// # Safety
///
/// As [`read`] and [`out`].
unsafe fn append(
    chain: *const blyan_chain,
    block: *mut blyan_hash,
    make: impl FnOnce(&Chain) -> Result<BlockHash, EvolveError>,
) -> Outcome {
    // SAFETY: the caller's promise.
    let (chain, block) = unsafe { (read(chain, "chain")?, out(block, "block")?) };
    block.set(make(chain.to_write()?)?.into());
    Ok(())
}

/// The JSON of a result.
fn json(value: &impl Serialize) -> Outcome<blyan_text> {
    let json = serde_json::to_vec(value);
    Ok(blyan_text::new(json.map_err(|error| Failure::new(blyan_status::Other, error.to_string()))?))
}
