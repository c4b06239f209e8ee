//! Owns the history of models: what a block followed, going back, following another architecture.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use std::ffi::c_char;

use blyan_core::manager;

use crate::block::blyan_block_list;
use crate::chain::blyan_chain;
use crate::edge::{new_handle, out, read, text};
use crate::error::{blyan_status, edge};
use crate::hash::blyan_hash;

/// A block and those whose place it took, the newest first.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_chain_lineage(
    chain: *const blyan_chain,
    block: *const blyan_hash,
    lineage: *mut *mut blyan_block_list,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (lineage, chain, block) =
            unsafe { (new_handle(lineage, "lineage")?, read(chain, "chain")?, read(block, "block")?) };
        lineage.set(blyan_block_list(manager::lineage(&chain.chain, &block.block())?));
        Ok(())
    })
}

/// Appends a model block that follows `current` and has the slots of `to`, an older model that `current` comes
/// from, and gives its hash. The reason is kept where the two have other specs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_chain_rollback(
    chain: *const blyan_chain,
    current: *const blyan_hash,
    to: *const blyan_hash,
    reason: *const c_char,
    reason_len: usize,
    model: *mut blyan_hash,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (chain, current, to, reason, model) = unsafe {
            (
                read(chain, "chain")?,
                read(current, "current")?,
                read(to, "to")?,
                text(reason, reason_len, "reason")?,
                out(model, "model")?,
            )
        };
        let chain = chain.to_write()?;
        model.set(manager::rollback(chain, &current.block(), &to.block(), reason)?.into());
        Ok(())
    })
}

/// Appends a model block that follows `from` and has the slots of `to`, a model of another architecture, with
/// a block that keeps the reason, and gives the model block's hash.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_chain_migrate(
    chain: *const blyan_chain,
    from: *const blyan_hash,
    to: *const blyan_hash,
    reason: *const c_char,
    reason_len: usize,
    model: *mut blyan_hash,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (chain, from, to, reason, model) = unsafe {
            (
                read(chain, "chain")?,
                read(from, "from")?,
                read(to, "to")?,
                text(reason, reason_len, "reason")?,
                out(model, "model")?,
            )
        };
        let chain = chain.to_write()?;
        model.set(manager::migrate(chain, &from.block(), &to.block(), reason)?.into());
        Ok(())
    })
}
