//! Owns transactions: several blocks that become durable and visible together, or not at all.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use std::sync::Mutex;

use blyan_core::Writer;

use crate::block::{blyan_draft, draft_of};
use crate::chain::{Writing, blyan_chain};
use crate::edge::{free, lock, new_handle, out, read};
use crate::error::{Failure, Outcome, blyan_status, edge};
use crate::hash::blyan_hash;
use crate::signature::blyan_signature;

/// A transaction of a chain, for one thread at a time. It is the thread's that used it last: what that
/// thread appends to the chain itself gets `BLYAN_STATUS_BUSY` until the transaction ends, what another
/// one appends waits for that. Freed without `blyan_writer_commit`, nothing of it remains.
pub struct blyan_writer(Mutex<Open>);

/// None once it is committed.
struct Open(Option<(Writer, Writing)>);

impl Open {
    fn writer(&mut self) -> Outcome<&mut Writer> {
        let (writer, writing) = self.0.as_mut().ok_or_else(committed)?;
        writing.follow();
        Ok(writer)
    }
}

fn committed() -> Failure {
    Failure::argument("the writer was committed: begin another one")
}

/// What an append did.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_appended {
    /// The block.
    pub hash: blyan_hash,
    /// Whether the chain did not have it before.
    pub new_block: bool,
    /// Whether its payload had to be written: new, or damaged and now repaired.
    pub new_payload: bool,
}

/// Begins a transaction, waiting for one of another thread to end. `BLYAN_STATUS_BUSY` if this thread
/// has one already.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_chain_writer(
    chain: *const blyan_chain,
    writer: *mut *mut blyan_writer,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (writer, chain) = unsafe { (new_handle(writer, "writer")?, read(chain, "chain")?) };
        let begun = chain.to_write()?.writer()?;
        writer.set(blyan_writer(Mutex::new(Open(Some((begun, chain.writing()))))));
        Ok(())
    })
}

/// Adds a block; its parents may be of the same transaction. A refused draft leaves the transaction
/// usable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_writer_append(
    writer: *const blyan_writer,
    draft: *const blyan_draft,
    appended: *mut blyan_appended,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (writer, draft, place) =
            unsafe { (read(writer, "writer")?, draft_of(draft)?, out(appended, "appended")?) };
        let appended = lock(&writer.0, "writer")?.writer()?.append(draft)?;
        place.set(blyan_appended {
            hash: appended.hash.into(),
            new_block: appended.new_block,
            new_payload: appended.new_payload,
        });
        Ok(())
    })
}

/// Puts a signature beside a block, which may be of the same transaction. Of one key at one time the first
/// that is valid stays, and another is left out without an error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_writer_add_signature(
    writer: *const blyan_writer,
    block: *const blyan_hash,
    signature: *const blyan_signature,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (writer, block, signature) =
            unsafe { (read(writer, "writer")?, read(block, "block")?, read(signature, "signature")?) };
        Ok(lock(&writer.0, "writer")?.writer()?.add_signature(&block.block(), signature.record())?)
    })
}

/// Whether a block is in the chain or in this transaction.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_writer_contains(
    writer: *const blyan_writer,
    block: *const blyan_hash,
    contains: *mut bool,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (writer, block, contains) =
            unsafe { (read(writer, "writer")?, read(block, "block")?, out(contains, "contains")?) };
        contains.set(lock(&writer.0, "writer")?.writer()?.contains(&block.block())?);
        Ok(())
    })
}

/// Makes everything appended durable and visible, together, and ends the transaction; the handle can
/// only be freed after that.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_writer_commit(writer: *const blyan_writer) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        let writer = unsafe { read(writer, "writer") }?;
        let (writer, _writing) = lock(&writer.0, "writer")?.0.take().ok_or_else(committed)?;
        Ok(writer.commit()?)
    })
}

/// Frees a transaction, undoing it if it was not committed; nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_writer_free(writer: *mut blyan_writer) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(writer) }
}
