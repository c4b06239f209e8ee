//! Owns blocks as they are read, drafts of blocks, and payloads.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use std::ffi::{c_char, c_void};
use std::ptr;

use blyan_core::{Block, BlockKind, ChainId, Draft, Parent, ParentRole, Payload};

use crate::edge::{
    Options, describe, free, init_options, new_handle, optional_text, options, out, read, slice, text,
};
use crate::error::{Failure, Outcome, blyan_status, edge, kind_of_name};
use crate::hash::{at, blyan_hash};
use crate::text::{Text, blyan_str, blyan_text};

/// Lane of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum blyan_lane {
    /// Lane A: architecture, models, releases.
    Meta = 0,
    /// Lane B: weights and what else fills a slot.
    Parameter = 1,
    /// Lane D: evaluation and training data, votes.
    Dataset = 2,
}

/// The lane of a number that C gave.
pub(crate) fn lane_of(lane: i32) -> Outcome<ChainId> {
    let known = ChainId::ALL.into_iter().find(|known| lane_number(*known) as i32 == lane);
    known.ok_or_else(|| Failure::argument(format!("lane {lane} is none: expected a blyan_lane")))
}

fn lane_number(lane: ChainId) -> blyan_lane {
    match lane {
        ChainId::Meta => blyan_lane::Meta,
        ChainId::Parameter => blyan_lane::Parameter,
        ChainId::Dataset => blyan_lane::Dataset,
    }
}

/// What a parent is to a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum blyan_role {
    /// The block means nothing without this parent.
    Dependency = 0,
    /// The block takes this parent's place in its slot.
    Predecessor = 1,
    /// The block was derived from this parent, in whatever way.
    Base = 2,
    /// The parent supports a claim that the block makes.
    Evidence = 3,
}

/// A block that another one depends on.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_parent {
    /// The parent block.
    pub hash: blyan_hash,
    /// What it is to the child: a `blyan_role`.
    pub role: i32,
}

impl blyan_parent {
    fn new(parent: &Parent) -> Self {
        Self { hash: parent.hash.into(), role: parent.role as i32 }
    }

    fn parent(&self) -> Outcome<Parent> {
        let roles = [ParentRole::Dependency, ParentRole::Predecessor, ParentRole::Base, ParentRole::Evidence];
        let role = roles.into_iter().find(|role| *role as i32 == self.role);
        let unknown = || Failure::argument(format!("role {} is none: expected a blyan_role", self.role));
        Ok(Parent { hash: self.hash.block(), role: role.ok_or_else(unknown)? })
    }
}

/// Name of a kind of block, such as "expert" or "kind4096".
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_kind_name(kind: u16, name: *mut *mut blyan_text) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        unsafe { new_handle(name, "name") }?.set(blyan_text::new(BlockKind(kind).to_string()));
        Ok(())
    })
}

/// The kind of that name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_kind_from_name(
    name: *const c_char,
    name_len: usize,
    kind: *mut u16,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (name, kind) = unsafe { (text(name, name_len, "name")?, out(kind, "kind")?) };
        kind.set(kind_of_name(name)?.0);
        Ok(())
    })
}

/// A block of a chain: what it says about itself, without its payload.
pub struct blyan_block {
    block: Block,
    name: Text,
    kind_name: Text,
    version: Text,
    media_type: Text,
    parents: Vec<blyan_parent>,
    header: Vec<u8>,
}

impl blyan_block {
    pub(crate) fn new(block: Block) -> Self {
        let header = block.header();
        Self {
            name: Text::new(header.name.as_str()),
            kind_name: Text::new(header.kind.to_string()),
            version: Text::new(header.version.to_string()),
            media_type: Text::new(header.payload.media_type.as_str()),
            parents: header.parents.iter().map(blyan_parent::new).collect(),
            // Of a block that is in a chain they can be written.
            header: header.to_bytes().unwrap_or_default(),
            block,
        }
    }
}

/// What a block says about itself. Texts, parents and header live as long as the block's handle.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_block_info {
    /// Names the block, everything below included.
    pub hash: blyan_hash,
    /// Names the payload: what `b3sum` prints of it.
    pub payload: blyan_hash,
    /// Length of the payload in bytes.
    pub payload_bytes: u64,
    /// Length of the longest path to a block without parents.
    pub height: u64,
    /// Slot or other name.
    pub name: blyan_str,
    /// Name of the kind, such as "expert".
    pub kind_name: blyan_str,
    /// SemVer version of what the block holds.
    pub version: blyan_str,
    /// What the payload's bytes are.
    pub media_type: blyan_str,
    /// Blocks it depends on, ascending by hash.
    pub parents: *const blyan_parent,
    /// Number of parents.
    pub parents_len: usize,
    /// A `blyan_lane`.
    pub lane: i32,
    /// Number of the kind.
    pub kind: u32,
    /// The bytes whose BLAKE3 names the block.
    pub header: *const c_void,
    /// Number of bytes.
    pub header_len: usize,
}

/// What a block says about itself; `size` is `sizeof *info`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_block_describe(
    block: *const blyan_block,
    info: *mut blyan_block_info,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        let block = unsafe { read(block, "block") }?;
        let header = block.block.header();
        let description = blyan_block_info {
            hash: block.block.hash().into(),
            payload: header.payload.hash.into(),
            payload_bytes: header.payload.len_bytes,
            height: block.block.height(),
            name: block.name.view(),
            kind_name: block.kind_name.view(),
            version: block.version.view(),
            media_type: block.media_type.view(),
            parents: block.parents.as_ptr(),
            parents_len: block.parents.len(),
            lane: lane_number(header.lane) as i32,
            kind: header.kind.0.into(),
            header: block.header.as_ptr().cast(),
            header_len: block.header.len(),
        };
        // SAFETY: as above.
        unsafe { describe(info, size, "info", description) }
    })
}

/// Frees a block's handle; nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_block_free(block: *mut blyan_block) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(block) }
}

/// A list of blocks that the caller owns.
pub struct blyan_block_list(pub(crate) Vec<Block>);

/// Number of blocks; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_block_list_len(list: *const blyan_block_list) -> usize {
    // SAFETY: NULL or a handle.
    unsafe { list.as_ref() }.map_or(0, |list| list.0.len())
}

/// One of the blocks; to be freed on its own.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_block_list_get(
    list: *const blyan_block_list,
    index: usize,
    block: *mut *mut blyan_block,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (block, list) = unsafe { (new_handle(block, "block")?, read(list, "list")?) };
        block.set(blyan_block::new(at(&list.0, index)?.clone()));
        Ok(())
    })
}

/// Frees a list of blocks; nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_block_list_free(list: *mut blyan_block_list) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(list) }
}

/// Verified bytes of a payload, mapped where they are a file. They stay when the chain is closed.
pub struct blyan_payload(pub(crate) Payload);

/// First byte of a payload; NULL for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_payload_data(payload: *const blyan_payload) -> *const c_void {
    // SAFETY: NULL or a handle.
    unsafe { payload.as_ref() }.map_or(ptr::null(), |payload| payload.0.as_ptr().cast())
}

/// Number of bytes of a payload; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_payload_len(payload: *const blyan_payload) -> usize {
    // SAFETY: NULL or a handle.
    unsafe { payload.as_ref() }.map_or(0, |payload| payload.0.len())
}

/// Frees a payload's handle; nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_payload_free(payload: *mut blyan_payload) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(payload) }
}

/// A block that is not in a chain yet. Fill it with `blyan_draft_init` first.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_draft {
    /// `sizeof(blyan_draft)`.
    pub size: usize,
    /// Lane to append to: a `blyan_lane`; by default `BLYAN_LANE_PARAMETER`.
    pub lane: i32,
    /// Number of the kind; by default 0, which no block has.
    pub kind: u32,
    /// Slot or other name: 1 to 128 bytes of `[a-z0-9_.-]`.
    pub name: blyan_str,
    /// SemVer version without build metadata; by default "1.0.0".
    pub version: blyan_str,
    /// What the bytes are; by default NULL: it follows from the kind.
    pub media_type: blyan_str,
    /// Blocks it depends on, in any order.
    pub parents: *const blyan_parent,
    /// Number of parents.
    pub parents_len: usize,
    /// The bytes it carries, copied by the call.
    pub payload: *const c_void,
    /// Number of bytes.
    pub payload_len: usize,
}

const NO_TEXT: blyan_str = blyan_str { data: ptr::null(), len: 0 };

// SAFETY: numbers and pointers alone, the size first.
unsafe impl Options for blyan_draft {
    fn defaults(size: usize) -> Self {
        Self {
            size,
            lane: blyan_lane::Parameter as i32,
            kind: 0,
            name: NO_TEXT,
            version: NO_TEXT,
            media_type: NO_TEXT,
            parents: ptr::null(),
            parents_len: 0,
            payload: ptr::null(),
            payload_len: 0,
        }
    }
}

/// Fills a draft with its defaults; `size` is `sizeof *draft`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_draft_init(draft: *mut blyan_draft, size: usize) -> blyan_status {
    // SAFETY: the caller's pointer, as the header asks.
    edge(|| unsafe { init_options(draft, size) })
}

/// # Safety
///
/// NULL or a draft whose pointers are valid.
pub(crate) unsafe fn draft_of(draft: *const blyan_draft) -> Outcome<Draft> {
    // SAFETY: the caller's promise.
    let given = unsafe {
        read(draft, "draft")?;
        options(draft, "draft")?
    };
    let kind = u16::try_from(given.kind)
        .map_err(|_| Failure::argument(format!("kind {} is above 65535", given.kind)))?;
    // SAFETY: the caller's promise.
    let (name, version, media_type, parents, payload) = unsafe {
        (
            text(given.name.data, given.name.len, "name")?,
            optional_text(given.version.data, given.version.len, "version")?,
            optional_text(given.media_type.data, given.media_type.len, "media_type")?,
            slice(given.parents, given.parents_len, "parents")?,
            slice(given.payload.cast::<u8>(), given.payload_len, "payload")?,
        )
    };
    let mut draft = Draft::new(lane_of(given.lane)?, BlockKind(kind), name, payload);
    draft.parents = parents.iter().map(blyan_parent::parent).collect::<Outcome<_>>()?;
    if let Some(version) = version {
        draft.version = version.parse()?;
    }
    if let Some(media_type) = media_type {
        media_type.clone_into(&mut draft.media_type);
    }
    Ok(draft)
}

/// The hash that the block of a draft will have.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_draft_hash(draft: *const blyan_draft, hash: *mut blyan_hash) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (draft, hash) = unsafe { (draft_of(draft)?, out(hash, "hash")?) };
        hash.set(draft.hash()?.into());
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_core() {
        for lane in ChainId::ALL {
            assert_eq!(lane_number(lane) as i32, lane as i32);
            assert_eq!(lane_of(lane as i32).unwrap(), lane);
        }
        for (role, core) in [
            (blyan_role::Dependency, ParentRole::Dependency),
            (blyan_role::Predecessor, ParentRole::Predecessor),
            (blyan_role::Base, ParentRole::Base),
            (blyan_role::Evidence, ParentRole::Evidence),
        ] {
            assert_eq!(role as i32, core as i32);
        }
    }
}
