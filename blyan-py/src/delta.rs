//! Owns deltas: appending one, merging it, and making merged weights again.

use blyan_core::Payload as CorePayload;
use blyan_core::manager::delta as core;
use blyan_core::tensor::{self, DeltaError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::args::BlockArg;
use crate::buffer::{bytes_of, new_bytes};
use crate::chain::{Block, Chain};
use crate::door::{Job, Silent, Watch, run_watched};
use crate::failure::Failure;
use crate::history::appended;
use crate::snapshot::await_turn;
use crate::tensor::Payload;
use crate::values;

/// Appends what is added to the weights of `base`, and returns the block. `payload` is what
/// `write_tensors` makes of `x.lora_A.weight` and `x.lora_B.weight`, or of `x.delta` and `x.delta_scale`,
/// for matrices `x.weight` of the base.
///
/// >>> import numpy as np
/// >>> with blyan.Chain.in_memory() as another:
/// ...     meta = blyan.import_checkpoint(another, folder)
/// ...     expert = next(another.blocks(kind="expert"))
/// ...     rows, cols = expert.tensors["up_proj.weight"].shape
/// ...     a, b = np.full((1, cols), 0.01, "f4"), np.full((rows, 1), 0.1, "f4")
/// ...     adapter = blyan.write_tensors({"up_proj.lora_A.weight": a, "up_proj.lora_B.weight": b})
/// ...     delta = blyan.append_delta(another, expert, adapter)
/// ...     better = blyan.merge_delta(another, delta)
/// ...     better.name == expert.name, better.version, better.payload_hash == blyan.merged_hash(another, delta)
/// (True, '1.0.1', True)
#[pyfunction]
pub(crate) fn append_delta(
    py: Python<'_>,
    chain: &Bound<'_, Chain>,
    base: BlockArg,
    payload: &Bound<'_, PyAny>,
) -> PyResult<Block> {
    let payload = bytes_of(payload)?;
    appended(py, chain, move |chain| {
        let draft = core::draft(chain, &base.0, payload)?;
        Ok::<_, Failure>(chain.append(draft)?)
    })
}

/// Appends the block that a delta makes of its base, and returns it: an ordinary block of weights, of the
/// same slot and the next patch version, whose payload hash attests the sum.
#[pyfunction]
pub(crate) fn merge_delta(py: Python<'_>, chain: &Bound<'_, Chain>, delta: BlockArg) -> PyResult<Block> {
    appended(py, chain, move |chain| core::merge(chain, &delta.0))
}

/// The payload hash of the block that `merge_delta` would append. Appends nothing.
#[pyfunction]
pub(crate) fn merged_hash<'py>(
    py: Python<'py>,
    chain: &Bound<'py, Chain>,
    delta: BlockArg,
) -> PyResult<Bound<'py, PyAny>> {
    let chain = chain.get().handle.get(py)?;
    let hash =
        run_watched(py, &Watch::default(), move |_: &Job<Silent>| core::merged_hash(&chain, &delta.0))?;
    values::payload_hash(py, &hash)
}

/// The payload of a merged block: as stored, or made again from base and delta where it is missing or
/// damaged. Writes nothing.
#[pyfunction]
pub(crate) fn merged_payload(py: Python<'_>, chain: &Bound<'_, Chain>, block: BlockArg) -> PyResult<Payload> {
    let chain = chain.get().handle.get(py)?;
    let payload: CorePayload =
        run_watched(py, &Watch::default(), move |_: &Job<Silent>| core::merged_bytes(&chain, &block.0))?;
    Ok(Payload::new(payload))
}

/// The payload that a delta makes of another one, without any chain: `base` and `delta` are what
/// `write_tensors` makes, or payloads of blocks.
#[pyfunction]
pub(crate) fn apply_delta<'py>(
    py: Python<'py>,
    base: &Bound<'py, PyAny>,
    delta: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyBytes>> {
    let (base, delta) = (bytes_of(base)?, bytes_of(delta)?);
    let merged = run_watched(py, &Watch::default(), move |_: &Job<Silent>| {
        tensor::merge_delta(&base, &delta).map_err(|error| match error {
            DeltaError::Tensor(error) => Failure::from(error),
            error => Failure::Argument(error.to_string()),
        })
    })?;
    new_bytes(py, &merged)
}

/// Makes sure that a merged block's payload is in the chain; whether it had to be made again.
#[pyfunction]
pub(crate) fn restore_merged(py: Python<'_>, chain: &Bound<'_, Chain>, block: BlockArg) -> PyResult<bool> {
    let target = chain.get().handle.to_append(py)?;
    run_watched(py, &Watch::default(), move |job: &Job<Silent>| {
        await_turn(&target, job)?;
        Ok::<_, Failure>(core::materialise(&target, &block.0)?)
    })
}
