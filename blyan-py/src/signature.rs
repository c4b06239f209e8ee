//! Owns signatures on blocks: making, reading and checking a `blyan.SignatureRecord`.

use std::time::{SystemTime, UNIX_EPOCH};

use blyan_core::SignatureRecord;
use blyan_core::hash::BlockHash;
use pyo3::prelude::*;

use crate::args::{BlockArg, Count};
use crate::values;

pub(crate) fn sign(block: &BlockHash, key: &[u8; 32], time_ms: Option<Count<u64>>) -> SignatureRecord {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let time_ms = time_ms.map_or_else(|| u64::try_from(now()).unwrap_or(u64::MAX), |time| time.0);
    SignatureRecord::sign(&ed25519_dalek::SigningKey::from_bytes(key), block, time_ms)
}

/// Signs a block with an ed25519 key (32 secret bytes), without putting it anywhere.
#[pyfunction]
#[pyo3(signature = (key, block, time_ms=None))]
pub(crate) fn sign_block<'py>(
    py: Python<'py>,
    key: [u8; 32],
    block: BlockArg,
    time_ms: Option<Count<u64>>,
) -> PyResult<Bound<'py, PyAny>> {
    values::signature(py, &sign(&block.0, &key, time_ms))
}

pub(crate) fn read_signature(signature: &Bound<'_, PyAny>) -> PyResult<SignatureRecord> {
    Ok(SignatureRecord {
        public_key: signature.getattr("public_key")?.extract()?,
        time_ms: signature.getattr("time_ms")?.extract::<Count<u64>>()?.0,
        signature: signature.getattr("signature")?.extract()?,
    })
}

/// Whether a signature is of this block, this time and this key.
#[pyfunction]
pub(crate) fn signature_verifies(signature: &Bound<'_, PyAny>, block: BlockArg) -> PyResult<bool> {
    Ok(read_signature(signature)?.verifies(&block.0))
}
