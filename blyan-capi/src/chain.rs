//! Owns chains: open, look up, walk, append.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use std::ffi::c_char;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::ThreadId;

use blyan_core::chain::Blocks;
use blyan_core::{BlockKind, Chain};

use crate::block::{blyan_block, blyan_block_list, blyan_draft, blyan_payload, draft_of, lane_of};
use crate::edge::{Options, free, init_options, lock, new_handle, options, out, path, read, text};
use crate::error::{Failure, Outcome, blyan_status, edge, edge_status};
use crate::hash::{blyan_hash, blyan_hashes};
use crate::text::{EMPTY, Text, blyan_str};

/// An open chain. Any number of threads may use it at once.
///
/// What was opened from it (models, blocks, tensors, payloads) stays usable after it is freed.
pub struct blyan_chain {
    pub(crate) chain: Chain,
    dir: Text,
    /// The threads that have a transaction.
    writing: Arc<Mutex<Vec<ThreadId>>>,
}

/// A thread's mark that it has a transaction: another one of its own would wait for ever.
pub(crate) struct Writing {
    threads: Arc<Mutex<Vec<ThreadId>>>,
    thread: ThreadId,
}

impl Writing {
    /// Marks the thread that goes on with the transaction, in place of the one before.
    pub(crate) fn follow(&mut self) {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mark) = threads.iter_mut().find(|mark| **mark == self.thread) {
            self.thread = std::thread::current().id();
            *mark = self.thread;
        }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = threads.iter().position(|thread| *thread == self.thread) {
            threads.swap_remove(at);
        }
    }
}

impl blyan_chain {
    fn new(chain: Chain) -> Self {
        let dir = chain.dir().map(|dir| dir.as_os_str().as_encoded_bytes().to_vec());
        Self { chain, dir: Text::new(dir.unwrap_or_default()), writing: Arc::default() }
    }

    /// The chain, if this thread may wait for a transaction of it.
    pub(crate) fn to_write(&self) -> Outcome<&Chain> {
        let threads = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if threads.contains(&std::thread::current().id()) {
            return Err(Failure::busy("chain's writer"));
        }
        Ok(&self.chain)
    }

    /// Marks this thread: it begins a transaction, or a call that tells its callback while it has one.
    pub(crate) fn writing(&self) -> Writing {
        let thread = std::thread::current().id();
        self.writing.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Writing { threads: Arc::clone(&self.writing), thread }
    }
}

/// How a chain is opened. Fill it with `blyan_chain_options_init` first.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_chain_options {
    /// `sizeof(blyan_chain_options)`.
    pub size: usize,
    /// Not 0: for reading only, also while another process writes. By default 0: for writing, creating
    /// the chain if there is none.
    pub read_only: i32,
    /// 0.
    pub reserved: i32,
}

// SAFETY: numbers alone, the size first.
unsafe impl Options for blyan_chain_options {
    fn defaults(size: usize) -> Self {
        Self { size, read_only: 0, reserved: 0 }
    }
}

/// Fills options with their defaults; `size` is `sizeof *options`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_chain_options_init(
    options: *mut blyan_chain_options,
    size: usize,
) -> blyan_status {
    // SAFETY: the caller's pointer, as the header asks.
    edge(|| unsafe { init_options(options, size) })
}

/// Opens the chain in a directory; `options` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_chain_open(
    dir: *const c_char,
    dir_len: usize,
    options: *const blyan_chain_options,
    chain: *mut *mut blyan_chain,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (chain, dir, asked) = unsafe {
            (new_handle(chain, "chain")?, path(dir, dir_len, "dir")?, self::options(options, "options")?)
        };
        let open = if asked.read_only != 0 { Chain::open_read_only } else { Chain::open };
        chain.set(blyan_chain::new(open(dir)?));
        Ok(())
    })
}

/// A new chain in memory, gone when it and everything opened from it are freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_chain_in_memory(chain: *mut *mut blyan_chain) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        let chain = unsafe { new_handle(chain, "chain") }?;
        chain.set(blyan_chain::new(Chain::in_memory()?));
        Ok(())
    })
}

/// Closes a chain; nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_chain_free(chain: *mut blyan_chain) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(chain) }
}

/// The chain's directory; empty in memory and for NULL. Lives as long as the handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_chain_dir(chain: *const blyan_chain) -> blyan_str {
    // SAFETY: NULL or a handle.
    unsafe { chain.as_ref() }.map_or(EMPTY, |chain| chain.dir.view())
}

/// Whether blocks can be appended; false for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_chain_is_writable(chain: *const blyan_chain) -> bool {
    // SAFETY: NULL or a handle.
    unsafe { chain.as_ref() }.is_some_and(|chain| chain.chain.is_writable())
}

/// Number of blocks in all lanes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_chain_len(chain: *const blyan_chain, len: *mut u64) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (chain, len) = unsafe { (read(chain, "chain")?, out(len, "len")?) };
        len.set(chain.chain.len()?);
        Ok(())
    })
}

/// Whether the chain has a block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_chain_contains(
    chain: *const blyan_chain,
    block: *const blyan_hash,
    contains: *mut bool,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (chain, block, contains) =
            unsafe { (read(chain, "chain")?, read(block, "block")?, out(contains, "contains")?) };
        contains.set(chain.chain.contains(&block.block())?);
        Ok(())
    })
}

/// The block of that hash.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_chain_get(
    chain: *const blyan_chain,
    hash: *const blyan_hash,
    block: *mut *mut blyan_block,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (block, chain, hash) =
            unsafe { (new_handle(block, "block")?, read(chain, "chain")?, read(hash, "hash")?) };
        block.set(blyan_block::new(chain.chain.get(&hash.block())?));
        Ok(())
    })
}

/// The payload of the block of that hash, verified: mapped, or a copy of what lies in the index.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_chain_payload(
    chain: *const blyan_chain,
    hash: *const blyan_hash,
    payload: *mut *mut blyan_payload,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (payload, chain, hash) =
            unsafe { (new_handle(payload, "payload")?, read(chain, "chain")?, read(hash, "hash")?) };
        payload.set(blyan_payload(chain.chain.payload(&hash.block())?));
        Ok(())
    })
}

/// Appends one block, durably, and gives its hash. One that the chain has already stays as it is, its
/// payload repaired if it is damaged.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_chain_append(
    chain: *const blyan_chain,
    draft: *const blyan_draft,
    hash: *mut blyan_hash,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (chain, draft, hash) = unsafe { (read(chain, "chain")?, draft_of(draft)?, out(hash, "hash")?) };
        hash.set(chain.to_write()?.append(draft)?.into());
        Ok(())
    })
}

/// A walk over blocks, parents before children: by height, then hash, as of the moment it began. For
/// one thread at a time.
pub struct blyan_blocks(Mutex<Blocks>);

unsafe fn walk(
    chain: *const blyan_chain,
    blocks: *mut *mut blyan_blocks,
    begin: impl FnOnce(&Chain) -> Outcome<Blocks>,
) -> Outcome {
    // SAFETY: the caller's pointers, as the header asks.
    let (blocks, chain) = unsafe { (new_handle(blocks, "blocks")?, read(chain, "chain")?) };
    blocks.set(blyan_blocks(Mutex::new(begin(&chain.chain)?)));
    Ok(())
}

/// The blocks of a lane, a `blyan_lane`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_chain_blocks(
    chain: *const blyan_chain,
    lane: i32,
    blocks: *mut *mut blyan_blocks,
) -> blyan_status {
    // SAFETY: the caller's pointers, as the header asks.
    edge(|| unsafe { walk(chain, blocks, |chain| Ok(chain.blocks(lane_of(lane)?))) })
}

/// The blocks of a kind.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_chain_blocks_of_kind(
    chain: *const blyan_chain,
    kind: u16,
    blocks: *mut *mut blyan_blocks,
) -> blyan_status {
    // SAFETY: the caller's pointers, as the header asks.
    edge(|| unsafe { walk(chain, blocks, |chain| Ok(chain.blocks_of_kind(BlockKind(kind)))) })
}

/// The blocks of a kind in a lane, a `blyan_lane`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_chain_blocks_of_kind_in(
    chain: *const blyan_chain,
    lane: i32,
    kind: u16,
    blocks: *mut *mut blyan_blocks,
) -> blyan_status {
    // SAFETY: the caller's pointers, as the header asks.
    edge(|| unsafe {
        walk(chain, blocks, |chain| Ok(chain.blocks_of_kind_in(lane_of(lane)?, BlockKind(kind))))
    })
}

/// All blocks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_chain_all_blocks(
    chain: *const blyan_chain,
    blocks: *mut *mut blyan_blocks,
) -> blyan_status {
    // SAFETY: the caller's pointers, as the header asks.
    edge(|| unsafe { walk(chain, blocks, |chain| Ok(chain.topological_order())) })
}

/// The next block of a walk; `BLYAN_STATUS_END` and NULL after the last. After an error about one block
/// the walk can go on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_blocks_next(
    blocks: *const blyan_blocks,
    block: *mut *mut blyan_block,
) -> blyan_status {
    edge_status(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (block, blocks) = unsafe { (new_handle(block, "block")?, read(blocks, "blocks")?) };
        match lock(&blocks.0, "walk")?.next().transpose()? {
            Some(next) => block.set(blyan_block::new(next)),
            None => return Ok(blyan_status::End),
        }
        Ok(blyan_status::Ok)
    })
}

/// Ends a walk; nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_blocks_free(blocks: *mut blyan_blocks) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(blocks) }
}

/// The blocks of a name that no block of the same name has as its predecessor, by hash: the newest in
/// a slot.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_chain_heads(
    chain: *const blyan_chain,
    name: *const c_char,
    name_len: usize,
    heads: *mut *mut blyan_block_list,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (heads, chain, name) =
            unsafe { (new_handle(heads, "heads")?, read(chain, "chain")?, text(name, name_len, "name")?) };
        heads.set(blyan_block_list(chain.chain.heads(name)?));
        Ok(())
    })
}

/// Every block that this one depends on, directly or not, parents before children.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_chain_ancestors(
    chain: *const blyan_chain,
    block: *const blyan_hash,
    ancestors: *mut *mut blyan_block_list,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (ancestors, chain, block) =
            unsafe { (new_handle(ancestors, "ancestors")?, read(chain, "chain")?, read(block, "block")?) };
        ancestors.set(blyan_block_list(chain.chain.ancestors(&block.block())?));
        Ok(())
    })
}

/// The blocks that have this one as a parent, by hash.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_chain_children(
    chain: *const blyan_chain,
    block: *const blyan_hash,
    children: *mut *mut blyan_hashes,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (children, chain, block) =
            unsafe { (new_handle(children, "children")?, read(chain, "chain")?, read(block, "block")?) };
        children.set(blyan_hashes(chain.chain.children(&block.block())?));
        Ok(())
    })
}

/// The blocks of a lane, a `blyan_lane`, without a child in the same lane, by hash.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_chain_tips(
    chain: *const blyan_chain,
    lane: i32,
    tips: *mut *mut blyan_hashes,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (tips, chain) = unsafe { (new_handle(tips, "tips")?, read(chain, "chain")?) };
        tips.set(blyan_hashes(chain.chain.tips(lane_of(lane)?)?));
        Ok(())
    })
}

/// Names the whole chain: a hash over its tips.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_chain_root(chain: *const blyan_chain, root: *mut blyan_hash) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (chain, root) = unsafe { (read(chain, "chain")?, out(root, "root")?) };
        root.set(chain.chain.root()?.into());
        Ok(())
    })
}

/// The optional block of an argument.
///
/// # Safety
///
/// NULL or valid.
pub(crate) unsafe fn optional_block(
    hash: *const blyan_hash,
    name: &str,
) -> Outcome<Option<blyan_core::BlockHash>> {
    if ptr::eq(hash, ptr::null()) {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    Ok(Some(unsafe { read(hash, name) }?.block()))
}
