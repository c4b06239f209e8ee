//! Owns the checkpoint of a run: where it is, what it learnt and the optimizer's state, in one file.
//!
//! ```text
//! 8      BLYANLRN
//! 2      version 1, little-endian
//! 4      length n of the description
//! n      description: JSON, the step and everything that makes the run what it is
//! …      for each variable: length of its name (4), name, number of elements (8), then its values, the
//!        mean of its gradients and of their squares, F32
//! 32     plain BLAKE3 of all before
//! ```

use std::collections::BTreeMap;

use blyan_core::PayloadHash;
use serde::{Deserialize, Serialize};

use crate::error::LearnError;

const MAGIC: &[u8; 8] = b"BLYANLRN";
const VERSION: u16 = 1;

/// Where a run is, and which run it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Description {
    pub(crate) step: u64,
    /// Options, data and base, as text: equal or another run.
    pub(crate) run: BTreeMap<String, String>,
}

/// A variable's values, and the means of its gradients and of their squares.
type Parts = [Vec<f32>; 3];

/// Every variable by its name.
pub(crate) type State = BTreeMap<String, Parts>;

pub(crate) fn to_bytes(description: &Description, state: &State) -> Result<Vec<u8>, LearnError> {
    let json = serde_json::to_vec(description).map_err(|error| broken(error.to_string()))?;
    let length = u32::try_from(json.len()).map_err(|error| broken(error.to_string()))?;
    let mut bytes = [&MAGIC[..], &VERSION.to_le_bytes(), &length.to_le_bytes(), &json].concat();
    for (name, parts) in state {
        let length = u32::try_from(name.len()).map_err(|error| broken(error.to_string()))?;
        bytes.extend(length.to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend((parts[0].len() as u64).to_le_bytes());
        parts.iter().flatten().for_each(|value| bytes.extend(value.to_le_bytes()));
    }
    bytes.extend(PayloadHash::of_parallel(&bytes).as_bytes());
    Ok(bytes)
}

/// Checks everything but whose run it is.
pub(crate) fn from_bytes(bytes: &[u8]) -> Result<(Description, State), LearnError> {
    let cut = || broken("it is cut off".to_owned());
    let (body, hash) = bytes.split_last_chunk::<32>().ok_or_else(cut)?;
    let rest =
        body.strip_prefix(MAGIC).ok_or_else(|| broken("it does not begin with BLYANLRN".to_owned()))?;
    let (version, rest) = rest.split_first_chunk::<2>().ok_or_else(cut)?;
    if u16::from_le_bytes(*version) != VERSION {
        return Err(broken(format!("version {}, expected 1", u16::from_le_bytes(*version))));
    }
    if PayloadHash::of_parallel(body).as_bytes() != hash {
        return Err(broken("its hash does not match: it is damaged".to_owned()));
    }
    let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| cut())?;
    let (json, mut rest) = rest.split_at_checked(length).ok_or_else(cut)?;
    let description = serde_json::from_slice(json).map_err(|error| broken(error.to_string()))?;
    let mut state = State::new();
    while !rest.is_empty() {
        let (variable, parts, after) = read_variable(rest).ok_or_else(cut)?;
        if state.insert(variable.clone(), parts).is_some() {
            return Err(broken(format!("{variable:?} stands in it twice")));
        }
        rest = after;
    }
    Ok((description, state))
}

/// One variable, and what follows it; `None` if the bytes end before it does.
fn read_variable(bytes: &[u8]) -> Option<(String, Parts, &[u8])> {
    let (length, bytes) = bytes.split_first_chunk::<4>()?;
    let (name, bytes) = bytes.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    let (count, bytes) = bytes.split_first_chunk::<8>()?;
    let len_bytes = usize::try_from(u64::from_le_bytes(*count)).ok()?.checked_mul(4)?;
    let mut rest = bytes;
    let mut part = || {
        let (part, after) = rest.split_at_checked(len_bytes)?;
        rest = after;
        Some(part.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect())
    };
    let parts = [part()?, part()?, part()?];
    Some((String::from_utf8_lossy(name).into_owned(), parts, rest))
}

pub(crate) fn broken(reason: String) -> LearnError {
    LearnError::Checkpoint { reason }
}
