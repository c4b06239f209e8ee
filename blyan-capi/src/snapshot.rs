//! Owns snapshots: the slot → block map of a model, pinned by a block or built in memory.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use std::ffi::c_char;

use blyan_core::Manifest;
use blyan_core::manager::{ManagerError, PinnedBlock, SlotChange, Snapshot};

use crate::chain::{blyan_chain, optional_block};
use crate::edge::{bytes, describe, free, new_handle, out, read};
use crate::error::{blyan_status, edge};
use crate::hash::{at, blyan_hash};
use crate::text::{Text, blyan_str, blyan_text};

/// One model: a spec and a block for each slot. It never changes; a change makes another one.
pub struct blyan_snapshot {
    pub(crate) snapshot: Snapshot,
    slots: Vec<(Text, PinnedBlock)>,
}

impl blyan_snapshot {
    pub(crate) fn new(snapshot: Snapshot) -> Self {
        let slots = snapshot.slots().iter().map(|(slot, pinned)| (Text::new(slot.to_string()), *pinned));
        Self { slots: slots.collect(), snapshot }
    }
}

/// What a snapshot is.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_snapshot_info {
    /// Names spec and slots together.
    pub root: blyan_hash,
    /// The spec block.
    pub spec: blyan_hash,
    /// The model block that it came from.
    pub base: blyan_hash,
    /// Number of slots; `blyan_snapshot_slot` names them.
    pub slots_len: usize,
    /// Not 0 if `base` is one.
    pub has_base: i32,
    /// 0.
    pub reserved: i32,
}

/// A slot and the block that fills it. The name lives as long as the snapshot's handle.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_slot {
    /// Name of the slot, such as "layer3.expert7".
    pub name: blyan_str,
    /// The block.
    pub block: blyan_hash,
    /// Its payload.
    pub payload: blyan_hash,
    /// The payload's length in bytes.
    pub payload_bytes: u64,
}

/// The model that a model block pins; `model` may be NULL for the chain's only model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_snapshot_open(
    chain: *const blyan_chain,
    model: *const blyan_hash,
    snapshot: *mut *mut blyan_snapshot,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (snapshot, chain, model) = unsafe {
            (new_handle(snapshot, "snapshot")?, read(chain, "chain")?, optional_block(model, "model")?)
        };
        snapshot.set(blyan_snapshot::new(match model {
            Some(model) => Snapshot::of_model(&chain.chain, &model)?,
            None => Snapshot::only_model(&chain.chain)?,
        }));
        Ok(())
    })
}

/// A snapshot with another block in the slot that the block's name says, in memory only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_snapshot_with_block(
    snapshot: *const blyan_snapshot,
    chain: *const blyan_chain,
    block: *const blyan_hash,
    changed: *mut *mut blyan_snapshot,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (changed, snapshot, chain, block) = unsafe {
            (
                new_handle(changed, "changed")?,
                read(snapshot, "snapshot")?,
                read(chain, "chain")?,
                read(block, "block")?,
            )
        };
        changed.set(blyan_snapshot::new(snapshot.snapshot.with_block(&chain.chain, &block.block())?));
        Ok(())
    })
}

/// What a snapshot is; `size` is `sizeof *info`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_snapshot_describe(
    snapshot: *const blyan_snapshot,
    info: *mut blyan_snapshot_info,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        let snapshot = &unsafe { read(snapshot, "snapshot") }?.snapshot;
        let description = blyan_snapshot_info {
            root: snapshot.root().into(),
            spec: (*snapshot.spec_block()).into(),
            base: snapshot.base().map_or(blyan_hash::ZERO, |base| (*base).into()),
            slots_len: snapshot.slots().len(),
            has_base: snapshot.base().is_some().into(),
            reserved: 0,
        };
        // SAFETY: as above.
        unsafe { describe(info, size, "info", description) }
    })
}

/// One of the slots, in their order; `size` is `sizeof *slot`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_snapshot_slot(
    snapshot: *const blyan_snapshot,
    index: usize,
    slot: *mut blyan_slot,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        let (name, pinned) = at(&unsafe { read(snapshot, "snapshot") }?.slots, index)?;
        let description = blyan_slot {
            name: name.view(),
            block: pinned.block.into(),
            payload: pinned.payload.into(),
            payload_bytes: pinned.len_bytes,
        };
        // SAFETY: as above.
        unsafe { describe(slot, size, "slot", description) }
    })
}

/// The canonical JSON of a snapshot's spec: the parts of the decoder.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_snapshot_spec_json(
    snapshot: *const blyan_snapshot,
    json: *mut *mut blyan_text,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (json, snapshot) = unsafe { (new_handle(json, "json")?, read(snapshot, "snapshot")?) };
        json.set(blyan_text::new(snapshot.snapshot.spec().to_canonical_json()));
        Ok(())
    })
}

/// The canonical JSON of a snapshot's manifest, which a model block of it has as its payload: the spec block,
/// and the block of each slot.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_snapshot_manifest_json(
    snapshot: *const blyan_snapshot,
    json: *mut *mut blyan_text,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (json, snapshot) = unsafe { (new_handle(json, "json")?, read(snapshot, "snapshot")?) };
        json.set(blyan_text::new(snapshot.snapshot.manifest().to_canonical_json()));
        Ok(())
    })
}

/// The model that a manifest pins, which need not be in the chain; its blocks are. `base` is the model block
/// that it follows if it is published; NULL for none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_snapshot_of_manifest(
    chain: *const blyan_chain,
    json: *const c_char,
    json_len: usize,
    base: *const blyan_hash,
    snapshot: *mut *mut blyan_snapshot,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (snapshot, chain, json, base) = unsafe {
            (
                new_handle(snapshot, "snapshot")?,
                read(chain, "chain")?,
                bytes(json, json_len, "json")?,
                optional_block(base, "base")?,
            )
        };
        let manifest = Manifest::from_canonical_json(json).map_err(ManagerError::from)?;
        snapshot.set(blyan_snapshot::new(Snapshot::of_manifest(&chain.chain, manifest, base)?));
        Ok(())
    })
}

/// The model block that publishing a snapshot would give, without appending it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_snapshot_model_block(
    snapshot: *const blyan_snapshot,
    chain: *const blyan_chain,
    model: *mut blyan_hash,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (snapshot, chain, model) =
            unsafe { (read(snapshot, "snapshot")?, read(chain, "chain")?, out(model, "model")?) };
        model.set(snapshot.snapshot.model_block(&chain.chain)?.into());
        Ok(())
    })
}

/// Appends a snapshot as a model block that follows the one it came from. One that was not changed is
/// its own model block already.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_snapshot_publish(
    snapshot: *const blyan_snapshot,
    chain: *const blyan_chain,
    model: *mut blyan_hash,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (snapshot, chain, model) =
            unsafe { (read(snapshot, "snapshot")?, read(chain, "chain")?, out(model, "model")?) };
        model.set(snapshot.snapshot.publish(chain.to_write()?)?.into());
        Ok(())
    })
}

/// Frees a snapshot; nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_snapshot_free(snapshot: *mut blyan_snapshot) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(snapshot) }
}

/// Slots in which two snapshots differ.
pub struct blyan_slot_changes(Vec<(Text, SlotChange)>);

/// A slot in which two snapshots differ. The name lives as long as the list.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_slot_change {
    /// Name of the slot.
    pub name: blyan_str,
    /// The block before.
    pub before: blyan_hash,
    /// The block after.
    pub after: blyan_hash,
    /// Not 0 if `before` is one.
    pub has_before: i32,
    /// Not 0 if `after` is one.
    pub has_after: i32,
}

/// The slots in which two snapshots differ, in slot order.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_snapshot_diff(
    before: *const blyan_snapshot,
    after: *const blyan_snapshot,
    changes: *mut *mut blyan_slot_changes,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (changes, before, after) =
            unsafe { (new_handle(changes, "changes")?, read(before, "before")?, read(after, "after")?) };
        let found = before.snapshot.diff(&after.snapshot).into_iter();
        let named = found.map(|change| (Text::new(change.slot.to_string()), change));
        changes.set(blyan_slot_changes(named.collect()));
        Ok(())
    })
}

/// Number of changes; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_slot_changes_len(changes: *const blyan_slot_changes) -> usize {
    // SAFETY: NULL or a handle.
    unsafe { changes.as_ref() }.map_or(0, |changes| changes.0.len())
}

/// One of the changes; `size` is `sizeof *change`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_slot_changes_get(
    changes: *const blyan_slot_changes,
    index: usize,
    change: *mut blyan_slot_change,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        let (name, found) = at(&unsafe { read(changes, "changes") }?.0, index)?;
        let description = blyan_slot_change {
            name: name.view(),
            before: found.before.map_or(blyan_hash::ZERO, Into::into),
            after: found.after.map_or(blyan_hash::ZERO, Into::into),
            has_before: found.before.is_some().into(),
            has_after: found.after.is_some().into(),
        };
        // SAFETY: as above.
        unsafe { describe(change, size, "change", description) }
    })
}

/// Frees a list of changes; nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_slot_changes_free(changes: *mut blyan_slot_changes) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(changes) }
}
