//! Owns deltas: low-rank and 8-bit differences of weights as blocks, and what merging them gives.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use std::ffi::c_void;

use blyan_core::manager::delta;
use blyan_core::tensor::merge_delta;

use crate::block::blyan_payload;
use crate::chain::blyan_chain;
use crate::edge::{new_handle, out, read, slice};
use crate::error::{blyan_status, edge};
use crate::hash::blyan_hash;

/// Appends a delta of a weight block, and gives its hash. The payload is a safetensors file: for a matrix
/// x.weight of the base it holds x.lora_A.weight (r, columns) and x.lora_B.weight (rows, r), or x.delta
/// (`BLYAN_DTYPE_I8`) with its x.delta_scale; docs/format.md.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_delta_append(
    chain: *const blyan_chain,
    base: *const blyan_hash,
    payload: *const c_void,
    payload_len: usize,
    block: *mut blyan_hash,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (chain, base, payload, block) = unsafe {
            (
                read(chain, "chain")?,
                read(base, "base")?,
                slice(payload.cast::<u8>(), payload_len, "payload")?,
                out(block, "block")?,
            )
        };
        let chain = chain.to_write()?;
        block.set(chain.append(delta::draft(chain, &base.block(), payload.to_vec())?)?.into());
        Ok(())
    })
}

/// Appends the block that a delta makes of its base, and gives its hash: an ordinary block of weights for the
/// same slot, with the next patch version.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_delta_merge(
    chain: *const blyan_chain,
    delta: *const blyan_hash,
    block: *mut blyan_hash,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (chain, delta, block) =
            unsafe { (read(chain, "chain")?, read(delta, "delta")?, out(block, "block")?) };
        block.set(delta::merge(chain.to_write()?, &delta.block())?.into());
        Ok(())
    })
}

/// The hash of the payload that merging a delta would give; appends nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_delta_merged_hash(
    chain: *const blyan_chain,
    delta: *const blyan_hash,
    payload: *mut blyan_hash,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (chain, delta, payload) =
            unsafe { (read(chain, "chain")?, read(delta, "delta")?, out(payload, "payload")?) };
        payload.set(delta::merged_hash(&chain.chain, &delta.block())?.into());
        Ok(())
    })
}

/// The payload of a merged block: as stored, or made again from base and delta where it is missing or
/// damaged. Writes nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_delta_merged_payload(
    chain: *const blyan_chain,
    block: *const blyan_hash,
    payload: *mut *mut blyan_payload,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (payload, chain, block) =
            unsafe { (new_handle(payload, "payload")?, read(chain, "chain")?, read(block, "block")?) };
        payload.set(blyan_payload(delta::merged_bytes(&chain.chain, &block.block())?));
        Ok(())
    })
}

/// Makes sure that a merged block's payload is in the chain, and tells whether it had to be made again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_delta_materialise(
    chain: *const blyan_chain,
    block: *const blyan_hash,
    made: *mut bool,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (chain, block, made) =
            unsafe { (read(chain, "chain")?, read(block, "block")?, out(made, "made")?) };
        made.set(delta::materialise(chain.to_write()?, &block.block())?);
        Ok(())
    })
}

/// Adds the payload of a delta to that of a base, without any chain: each tensor in the base's type, what the
/// delta does not name as it was. `BLYAN_STATUS_TENSOR` if they do not fit.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_delta_apply(
    base: *const c_void,
    base_len: usize,
    delta: *const c_void,
    delta_len: usize,
    payload: *mut *mut blyan_payload,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (payload, base, delta) = unsafe {
            (
                new_handle(payload, "payload")?,
                slice(base.cast::<u8>(), base_len, "base")?,
                slice(delta.cast::<u8>(), delta_len, "delta")?,
            )
        };
        payload.set(blyan_payload(merge_delta(base, delta)?.into()));
        Ok(())
    })
}
