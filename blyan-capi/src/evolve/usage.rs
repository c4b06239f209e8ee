//! Owns recorded use: receipts as blocks, and what validators say of them after they ran them again.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use blyan_core::evolve::{self, Evidence};
use blyan_core::manager::ManagerOptions;

use crate::chain::blyan_chain;
use crate::edge::{new_handle, out, read};
use crate::error::{Outcome, blyan_status, edge};
use crate::evolve::key::blyan_key;
use crate::evolve::{append, json};
use crate::hash::{block_hashes, blyan_hash, blyan_hashes};
use crate::model::{blyan_model_options, model_options};
use crate::receipt::blyan_receipt;
use crate::text::blyan_text;

/// Appends a receipt as a block that depends on its model, and gives it. Whoever has the chain can run it
/// again, so this publishes the prompt and the text.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_receipt_append(
    receipt: *const blyan_receipt,
    chain: *const blyan_chain,
    block: *mut blyan_hash,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        unsafe {
            let receipt = read(receipt, "receipt")?;
            append(chain, block, |chain| receipt.receipt.append(chain))
        }
    })
}

/// Names what a receipt's run read: receipts that differ in anything else are of one run, which counts once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_receipt_run(
    receipt: *const blyan_receipt,
    run: *mut blyan_hash,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (receipt, run) = unsafe { (read(receipt, "receipt")?, out(run, "run")?) };
        run.set(blyan_hash { bytes: evolve::run_of(receipt.receipt.claim()) });
        Ok(())
    })
}

/// Runs a receipt's inputs again, and gives the tokens that went through each block of weights as a JSON object;
/// of an expert those that were routed to it. Empty if it cannot be run; whether the receipt is true is for
/// `blyan_receipt_replay`. `options` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_receipt_uses_json(
    receipt: *const blyan_receipt,
    chain: *const blyan_chain,
    options: *const blyan_model_options,
    json: *mut *mut blyan_text,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (text, receipt, chain, options) = unsafe {
            (new_handle(json, "json")?, read(receipt, "receipt")?, read(chain, "chain")?, again(options)?)
        };
        text.set(self::json(&receipt.receipt.replay(&chain.chain, &options)?.uses)?);
        Ok(())
    })
}

/// How receipts are run again: without counting that as use of the model.
///
/// # Safety
///
/// As [`model_options`].
unsafe fn again(options: *const blyan_model_options) -> Outcome<ManagerOptions> {
    // SAFETY: the caller's promise.
    Ok(ManagerOptions { persist_usage: false, ..unsafe { model_options(options) }? })
}

/// Runs receipt blocks again as a validator, and appends what they used; it counts in the period that
/// `reveal` ends. `BLYAN_STATUS_STEP` for one that does not recompute. `options` say how to run and may be
/// NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_record_usage(
    chain: *const blyan_chain,
    policy: *const blyan_hash,
    reveal: *const blyan_hash,
    receipts: *const blyan_hash,
    receipts_len: usize,
    key: *const blyan_key,
    options: *const blyan_model_options,
    record: *mut blyan_hash,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        unsafe {
            let (policy, reveal, key) = (read(policy, "policy")?, read(reveal, "reveal")?, read(key, "key")?);
            let (receipts, options) = (block_hashes(receipts, receipts_len, "receipts")?, again(options)?);
            append(chain, record, |chain| {
                evolve::record_usage(chain, &policy.block(), &reveal.block(), &receipts, &key.0, &options)
            })
        }
    })
}

/// Runs the receipts of a record again, and gives those that it is wrong about. `options` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_audit_usage(
    chain: *const blyan_chain,
    record: *const blyan_hash,
    options: *const blyan_model_options,
    wrong: *mut *mut blyan_hashes,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (wrong, chain, record, options) = unsafe {
            (new_handle(wrong, "wrong")?, read(chain, "chain")?, read(record, "record")?, again(options)?)
        };
        wrong.set(blyan_hashes(evolve::audit_usage(&chain.chain, &record.block(), &options)?));
        Ok(())
    })
}

/// Runs that count under a policy, since enough validators recorded the same, as a JSON array: receipt,
/// reveal, model, run, and the tokens that went through each block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_recorded_uses_json(
    chain: *const blyan_chain,
    policy: *const blyan_hash,
    json: *mut *mut blyan_text,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (text, chain, policy) =
            unsafe { (new_handle(json, "json")?, read(chain, "chain")?, read(policy, "policy")?) };
        text.set(self::json(&evolve::uses(&chain.chain, &policy.block())?)?);
        Ok(())
    })
}
