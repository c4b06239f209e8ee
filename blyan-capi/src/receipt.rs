//! Owns receipts: read, write, describe, replay, compare.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use std::ffi::c_char;

use blyan_core::Receipt;
use blyan_core::manager::receipt::{Difference, ReceiptError};

use crate::chain::blyan_chain;
use crate::edge::{bytes, describe, free, new_handle, out, read};
use crate::error::{blyan_status, edge};
use crate::generate::finish_number;
use crate::hash::{at, blyan_hash};
use crate::model::{blyan_model_options, model_options};
use crate::text::{EMPTY, Text, blyan_str, blyan_text};

/// What was run and what came out, complete enough to run it again.
pub struct blyan_receipt {
    pub(crate) receipt: Receipt,
    text: Option<Text>,
    blocks: Vec<(Text, blyan_hash)>,
}

impl blyan_receipt {
    pub(crate) fn new(receipt: Receipt) -> Self {
        let claim = receipt.claim();
        let blocks = claim.blocks.iter().map(|(slot, block)| (Text::new(slot.as_str()), (*block).into()));
        Self { text: claim.text.as_deref().map(Text::new), blocks: blocks.collect(), receipt }
    }
}

/// Reads a receipt, in any spelling of its JSON. Whether it is true is for a replay to find out.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_receipt_from_json(
    json: *const c_char,
    json_len: usize,
    receipt: *mut *mut blyan_receipt,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (receipt, json) = unsafe { (new_handle(receipt, "receipt")?, bytes(json, json_len, "json")?) };
        receipt.set(blyan_receipt::new(Receipt::from_json(json)?));
        Ok(())
    })
}

/// Seals a claim, in any spelling of the JSON that a receipt has as its `claim`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_receipt_of_claim(
    json: *const c_char,
    json_len: usize,
    receipt: *mut *mut blyan_receipt,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (receipt, json) = unsafe { (new_handle(receipt, "receipt")?, bytes(json, json_len, "json")?) };
        let claim = serde_json::from_slice(json);
        let claim = claim.map_err(|error| ReceiptError::Json { reason: error.to_string() })?;
        receipt.set(blyan_receipt::new(Receipt::new(claim)));
        Ok(())
    })
}

/// The canonical JSON of a receipt: the bytes that its hash names.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_receipt_to_json(
    receipt: *const blyan_receipt,
    json: *mut *mut blyan_text,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (json, receipt) = unsafe { (new_handle(json, "json")?, read(receipt, "receipt")?) };
        json.set(blyan_text::new(receipt.receipt.to_json()));
        Ok(())
    })
}

/// What a receipt claims. Text and tokens live as long as its handle; the options of the run are in its
/// JSON.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_receipt_info {
    /// Names the receipt.
    pub hash: blyan_hash,
    /// The model block.
    pub model: blyan_hash,
    /// Spec and slots of the model that ran.
    pub snapshot: blyan_hash,
    /// The spec block.
    pub spec: blyan_hash,
    /// Digest of the logits that each output token was chosen from.
    pub logits: blyan_hash,
    /// Tokens of the prompt.
    pub prompt_tokens: *const u32,
    /// How many.
    pub prompt_tokens_len: usize,
    /// Tokens that were chosen.
    pub output_tokens: *const u32,
    /// How many.
    pub output_tokens_len: usize,
    /// The output as text; empty if the model has no tokenizer.
    pub text: blyan_str,
    /// Blocks that were touched; `blyan_receipt_block` names them.
    pub blocks_len: usize,
    /// A `blyan_finish_reason`.
    pub finish_reason: i32,
    /// Version of the arithmetic.
    pub numerics_version: u32,
}

/// What a receipt claims; `size` is `sizeof *info`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_receipt_describe(
    receipt: *const blyan_receipt,
    info: *mut blyan_receipt_info,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        let receipt = unsafe { read(receipt, "receipt") }?;
        let claim = receipt.receipt.claim();
        let description = blyan_receipt_info {
            hash: receipt.receipt.hash().into(),
            model: claim.model.into(),
            snapshot: claim.snapshot.into(),
            spec: claim.spec.into(),
            logits: claim.logits.into(),
            prompt_tokens: claim.prompt_tokens.as_ptr(),
            prompt_tokens_len: claim.prompt_tokens.len(),
            output_tokens: claim.output_tokens.as_ptr(),
            output_tokens_len: claim.output_tokens.len(),
            text: receipt.text.as_ref().map_or(EMPTY, Text::view),
            blocks_len: receipt.blocks.len(),
            finish_reason: finish_number(claim.finish_reason)?,
            numerics_version: claim.numerics_version,
        };
        // SAFETY: as above.
        unsafe { describe(info, size, "info", description) }
    })
}

/// One of the blocks that were touched, and the name of its slot, in byte order of these names. The name
/// lives as long as the receipt's handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_receipt_block(
    receipt: *const blyan_receipt,
    index: usize,
    slot: *mut blyan_str,
    block: *mut blyan_hash,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (receipt, slot, block) =
            unsafe { (read(receipt, "receipt")?, out(slot, "slot")?, out(block, "block")?) };
        let (name, hash) = at(&receipt.blocks, index)?;
        slot.set(name.view());
        block.set(*hash);
        Ok(())
    })
}

/// Frees a receipt; nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_receipt_free(receipt: *mut blyan_receipt) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(receipt) }
}

/// Leaves in which two receipts differ; none if a receipt is true.
pub struct blyan_differences(Vec<Texts>);

struct Texts {
    path: Text,
    claimed: Option<Text>,
    recomputed: Option<Text>,
    message: Text,
}

impl blyan_differences {
    fn new(differences: &[Difference]) -> Self {
        let json = |value: &Option<serde_json::Value>| value.as_ref().map(|json| Text::new(json.to_string()));
        let texts = differences.iter().map(|difference| Texts {
            path: Text::new(difference.path.as_str()),
            claimed: json(&difference.claimed),
            recomputed: json(&difference.recomputed),
            message: Text::new(difference.to_string()),
        });
        Self(texts.collect())
    }
}

/// One leaf in which two receipts differ. Texts live as long as the list.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_difference {
    /// JSON pointer (RFC 6901) into the receipt.
    pub path: blyan_str,
    /// JSON of what the receipt says; empty if it lacks the leaf.
    pub claimed: blyan_str,
    /// JSON of what was recomputed; empty if there is no such leaf, or if all that is known is that the
    /// claimed value was edited after the receipt was sealed.
    pub recomputed: blyan_str,
    /// All of this for people.
    pub message: blyan_str,
}

/// Runs a receipt's inputs again, on the chain's blocks and this machine, and lists what differs; an
/// empty list says that the receipt is true. `options` say how to run and may be NULL; model and cache
/// are the receipt's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_receipt_replay(
    receipt: *const blyan_receipt,
    chain: *const blyan_chain,
    options: *const blyan_model_options,
    differences: *mut *mut blyan_differences,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (differences, receipt, chain, options) = unsafe {
            (
                new_handle(differences, "differences")?,
                read(receipt, "receipt")?,
                read(chain, "chain")?,
                model_options(options)?,
            )
        };
        let replay = receipt.receipt.replay(&chain.chain, &options)?;
        differences.set(blyan_differences::new(&replay.differences));
        Ok(())
    })
}

/// Every leaf in which `recomputed`, the receipt of running another one's inputs again, differs from
/// that one, and every field of that one that was edited after it was sealed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_receipt_diff(
    receipt: *const blyan_receipt,
    recomputed: *const blyan_receipt,
    differences: *mut *mut blyan_differences,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (differences, receipt, recomputed) = unsafe {
            (
                new_handle(differences, "differences")?,
                read(receipt, "receipt")?,
                read(recomputed, "recomputed")?,
            )
        };
        differences.set(blyan_differences::new(&receipt.receipt.diff(&recomputed.receipt)));
        Ok(())
    })
}

/// Number of differences; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_differences_len(differences: *const blyan_differences) -> usize {
    // SAFETY: NULL or a handle.
    unsafe { differences.as_ref() }.map_or(0, |differences| differences.0.len())
}

/// One of the differences; `size` is `sizeof *difference`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_differences_get(
    differences: *const blyan_differences,
    index: usize,
    difference: *mut blyan_difference,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        let found = at(&unsafe { read(differences, "differences") }?.0, index)?;
        let description = blyan_difference {
            path: found.path.view(),
            claimed: found.claimed.as_ref().map_or(EMPTY, Text::view),
            recomputed: found.recomputed.as_ref().map_or(EMPTY, Text::view),
            message: found.message.view(),
        };
        // SAFETY: as above.
        unsafe { describe(difference, size, "difference", description) }
    })
}

/// Frees a list of differences; nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_differences_free(differences: *mut blyan_differences) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(differences) }
}
