//! Owns the checkpoint of a run: where it is, what it learnt and the optimizer's state, in one file.
//!
//! ```text
//! 8      BLYANLRN
//! 2      version 1, little-endian
//! 4      length n of the description
//! n      description: JSON, the step and everything that makes the run what it is
//! …      safetensors: value/…, first/…, second/… of each variable, F32
//! 32     plain BLAKE3 of all before
//! ```

use std::collections::BTreeMap;

use blyan_core::tensor::{TensorBlock, write};
use blyan_core::{DType, PayloadHash, Shape};
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

/// A variable's values and moments.
pub(crate) type State = BTreeMap<String, [Vec<f32>; 3]>;

const PARTS: [&str; 3] = ["value", "first", "second"];

pub(crate) fn to_bytes(description: &Description, state: &State) -> Result<Vec<u8>, LearnError> {
    let json = serde_json::to_vec(description).map_err(|error| broken(error.to_string()))?;
    let length = u32::try_from(json.len()).map_err(|error| broken(error.to_string()))?;
    let mut data = Vec::new();
    for (name, parts) in state {
        for (part, values) in PARTS.iter().zip(parts) {
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            data.push((format!("{part}/{name}"), Shape::new([values.len()]), bytes));
        }
    }
    let tensors: Vec<_> =
        data.iter().map(|(name, shape, bytes)| (&name[..], DType::F32, shape, &bytes[..])).collect();
    let mut bytes = [&MAGIC[..], &VERSION.to_le_bytes(), &length.to_le_bytes(), &json].concat();
    bytes.extend(write(&tensors).map_err(|error| broken(error.to_string()))?);
    bytes.extend(PayloadHash::of_parallel(&bytes).as_bytes());
    Ok(bytes)
}

/// Checks everything but whose run it is.
pub(crate) fn from_bytes(bytes: &[u8]) -> Result<(Description, State), LearnError> {
    let cut = || broken("it is cut off".to_owned());
    let (body, hash) = bytes.split_last_chunk::<32>().ok_or_else(cut)?;
    let rest = body.strip_prefix(MAGIC).ok_or_else(|| broken("it does not begin with BLYANLRN".to_owned()))?;
    let (version, rest) = rest.split_first_chunk::<2>().ok_or_else(cut)?;
    if u16::from_le_bytes(*version) != VERSION {
        return Err(broken(format!("version {}, expected 1", u16::from_le_bytes(*version))));
    }
    if PayloadHash::of_parallel(body).as_bytes() != hash {
        return Err(broken("its hash does not match: it is damaged".to_owned()));
    }
    let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| cut())?;
    let (json, payload) = rest.split_at_checked(length).ok_or_else(cut)?;
    let description = serde_json::from_slice(json).map_err(|error| broken(error.to_string()))?;
    let block = TensorBlock::from_payload(payload.to_vec().into()).map_err(|error| broken(error.to_string()))?;
    let mut state = State::new();
    for (name, view) in block.tensors() {
        let known = name.split_once('/').and_then(|(part, name)| {
            Some((PARTS.iter().position(|known| *known == part)?, name.to_owned()))
        });
        let Some((part, name)) = known.filter(|_| view.dtype() == DType::F32) else {
            return Err(broken(format!("tensor {name:?} does not belong there")));
        };
        state.entry(name).or_default()[part] = view.to_f32_vec();
    }
    Ok((description, state))
}

pub(crate) fn broken(reason: String) -> LearnError {
    LearnError::Checkpoint { reason }
}
