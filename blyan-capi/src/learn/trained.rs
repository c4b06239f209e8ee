//! Owns what comes of training: a candidate for each slot that learnt, or a whole new model.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use blyan_core::Slot;
use blyan_learn::Candidate;

use crate::chain::blyan_chain;
use crate::edge::{check_room, describe, free, new_handle, out, read, slice, text};
use crate::error::{Outcome, blyan_status, edge};
use crate::grow::blyan_bytes;
use crate::hash::{at, blyan_hash};
use crate::learn::trainer::blyan_trainer;
use crate::tensor::dtype_of;
use crate::text::{Text, blyan_str};

/// Blocks that were trained, by slot.
pub struct blyan_trained_blocks(Vec<(Text, Candidate)>);

/// A block that was trained to take another's place. The slot's name lives as long as the list.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_trained_block {
    /// The slot.
    pub slot: blyan_str,
    /// The block in it when training began.
    pub base: blyan_hash,
    /// The block that takes the base's place.
    pub block: blyan_hash,
    /// The delta block that was learnt, in the forms that have one.
    pub delta: blyan_hash,
    /// Not 0 if `delta` is one.
    pub has_delta: i32,
    /// 0.
    pub reserved: i32,
}

/// Appends a candidate for each slot that was trained, and gives them in slot order; a slot whose weights
/// round to the base's has none. The chain must hold the blocks that training began with. Those that were
/// appended before a failure stay. `BLYAN_STATUS_TENSOR` for weights beyond the range of a block's type,
/// `BLYAN_STATUS_INVALID_ARGUMENT` for a run from nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_trainer_append_candidates(
    trainer: *const blyan_trainer,
    chain: *const blyan_chain,
    blocks: *mut *mut blyan_trained_blocks,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (blocks, trainer, chain) =
            unsafe { (new_handle(blocks, "blocks")?, read(trainer, "trainer")?, read(chain, "chain")?) };
        let appended = trainer.run()?.append_candidates(chain.to_write()?)?;
        let named = appended.into_iter().map(|block| (Text::new(block.slot.to_string()), block));
        blocks.set(blyan_trained_blocks(named.collect()));
        Ok(())
    })
}

/// Number of blocks; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_trained_blocks_len(blocks: *const blyan_trained_blocks) -> usize {
    // SAFETY: NULL or a handle.
    unsafe { blocks.as_ref() }.map_or(0, |blocks| blocks.0.len())
}

/// One of the blocks; `size` is `sizeof *block`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_trained_blocks_get(
    blocks: *const blyan_trained_blocks,
    index: usize,
    block: *mut blyan_trained_block,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        let blocks = unsafe { read(blocks, "blocks") }?;
        // Also where nothing was learnt.
        check_room(block, size, "block")?;
        let (slot, found) = at(&blocks.0, index)?;
        let description = blyan_trained_block {
            slot: slot.view(),
            base: found.base.into(),
            block: found.block.into(),
            delta: found.delta.map_or(blyan_hash::ZERO, Into::into),
            has_delta: found.delta.is_some().into(),
            reserved: 0,
        };
        // SAFETY: as above.
        unsafe { describe(block, size, "block", description) }
    })
}

/// Frees a list of blocks; nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_trained_blocks_free(blocks: *mut blyan_trained_blocks) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(blocks) }
}

/// A slot and the bytes of the block for it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_slot_bytes {
    /// Name of the slot, such as "tokenizer".
    pub slot: blyan_str,
    /// The bytes.
    pub bytes: blyan_bytes,
}

impl blyan_slot_bytes {
    /// # Safety
    ///
    /// Its pointers are valid.
    unsafe fn copy(&self) -> Outcome<(Slot, Vec<u8>)> {
        // SAFETY: the caller's promise.
        let (slot, bytes) =
            unsafe { (text(self.slot.data, self.slot.len, "slot")?, self.bytes.copy("texts")?) };
        Ok((slot.parse()?, bytes))
    }
}

/// Appends the whole model of a run from nothing, and gives its model block: weights as `dtype`, which is
/// `BLYAN_DTYPE_F32`, `BLYAN_DTYPE_BF16` or `BLYAN_DTYPE_F16`, and `texts`, its tokenizer and other files.
/// Nothing is appended if it fails. `BLYAN_STATUS_NOT_FOUND` for a run that began with a snapshot.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_trainer_append_model(
    trainer: *const blyan_trainer,
    chain: *const blyan_chain,
    dtype: i32,
    texts: *const blyan_slot_bytes,
    texts_len: usize,
    model: *mut blyan_hash,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (trainer, chain, texts, model) = unsafe {
            (
                read(trainer, "trainer")?,
                read(chain, "chain")?,
                slice(texts, texts_len, "texts")?,
                out(model, "model")?,
            )
        };
        // SAFETY: as above.
        let texts = texts.iter().map(|text| unsafe { text.copy() }).collect::<Outcome<Vec<_>>>()?;
        let dtype = dtype_of(dtype)?;
        model.set(trainer.run()?.append_model(chain.to_write()?, dtype, &texts)?.into());
        Ok(())
    })
}
