//! Owns models: open, describe, tokenize, logits.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use std::ffi::c_char;
use std::ptr;

use blyan_core::manager::text::Tokenizer;
use blyan_core::manager::{ManagerError, ManagerOptions, MoEModelManager};
use blyan_core::model::KvDType;

use crate::chain::{blyan_chain, optional_block};
use crate::edge::{
    Options, copy_out, describe, free, init_options, new_handle, optional_text, options, out, read, slice,
    text,
};
use crate::error::{Failure, Outcome, blyan_status, edge};
use crate::hash::{block_hashes, blyan_hash};
use crate::snapshot::blyan_snapshot;
use crate::text::{BLYAN_NONE, BLYAN_NUL, Text, blyan_str, blyan_text, blyan_tokens};

/// Element type of KV caches. It changes logits, so a receipt names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum blyan_kv_cache {
    /// Half the memory and the default.
    F16 = 0,
    /// Exact.
    F32 = 1,
}

/// How a model is opened. Fill it with `blyan_model_options_init` first.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_model_options {
    /// `sizeof(blyan_model_options)`.
    pub size: usize,
    /// The model block; by default NULL: what `name` says, or else the chain's only model.
    pub model: *const blyan_hash,
    /// Threads that compute; by default `BLYAN_NONE`: all cores. It never changes a result.
    pub threads: u64,
    /// Most tokens in one forward pass, 512 by default. It never changes a result.
    pub prefill_chunk: u64,
    /// Instruction set: "scalar", "avx2", "avx512", "amx" or "neon"; by default NULL: what the environment
    /// variable BLYAN_ISA says, or else the best of this CPU. It never changes a result. Where the CPU has AMX, the
    /// search for the best, like "amx", asks Linux for this process's right to use it, which lasts until exec.
    pub isa: blyan_str,
    /// A `blyan_kv_cache`.
    pub kv_cache: i32,
    /// Not 0, as by default: usage is kept in the chain's directory.
    pub persist_usage: i32,
    /// Not 0: payload files that were verified before and did not change since are not hashed again in
    /// this process. SECURITY.md says what that gives up. By default 0.
    pub trust_verified: i32,
    /// Nothing; keeps the size a multiple of 8 bytes.
    pub reserved: i32,
    /// The model by a name, as `blyan_chain_find_model` takes it; by default NULL. Not beside `model`.
    pub name: blyan_str,
    /// Blocks to try, each in the slot that its name says, at most one a slot. Nothing is appended; receipts
    /// name the model block that the result would be published as.
    pub overlay: *const blyan_hash,
    /// Number of these blocks.
    pub overlay_len: usize,
}

// SAFETY: numbers and pointers alone, the size first.
unsafe impl Options for blyan_model_options {
    fn defaults(size: usize) -> Self {
        let defaults = ManagerOptions::default();
        Self {
            size,
            model: ptr::null(),
            threads: BLYAN_NONE,
            prefill_chunk: defaults.prefill_chunk as u64,
            isa: blyan_str { data: ptr::null(), len: BLYAN_NUL },
            kv_cache: blyan_kv_cache::F16 as i32,
            persist_usage: defaults.persist_usage.into(),
            trust_verified: defaults.trust_verified.into(),
            reserved: 0,
            name: blyan_str { data: ptr::null(), len: BLYAN_NUL },
            overlay: ptr::null(),
            overlay_len: 0,
        }
    }
}

/// Fills options with their defaults; `size` is `sizeof *options`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_model_options_init(
    options: *mut blyan_model_options,
    size: usize,
) -> blyan_status {
    // SAFETY: the caller's pointer, as the header asks.
    edge(|| unsafe { init_options(options, size) })
}

/// A count that a `usize` holds.
pub(crate) fn count(value: u64, name: &str) -> Outcome<usize> {
    usize::try_from(value).map_err(|_| Failure::argument(format!("{name} = {value} is out of range")))
}

/// A count, or none for `BLYAN_NONE`.
pub(crate) fn optional_count(value: u64, name: &str) -> Outcome<Option<usize>> {
    if value == BLYAN_NONE { Ok(None) } else { count(value, name).map(Some) }
}

/// # Safety
///
/// NULL or options whose pointers are valid.
pub(crate) unsafe fn model_options(options: *const blyan_model_options) -> Outcome<ManagerOptions> {
    // SAFETY: the caller's promise.
    let asked = unsafe { self::options(options, "options") }?;
    // SAFETY: as above.
    let (model, isa, name, overlay) = unsafe {
        (
            optional_block(asked.model, "model")?,
            optional_text(asked.isa.data, asked.isa.len, "isa")?,
            optional_text(asked.name.data, asked.name.len, "name")?,
            block_hashes(asked.overlay, asked.overlay_len, "overlay")?,
        )
    };
    let kv_cache = match asked.kv_cache {
        0 => KvDType::F16,
        1 => KvDType::F32,
        other => {
            return Err(Failure::argument(format!("kv_cache {other} is none: expected a blyan_kv_cache")));
        }
    };
    Ok(ManagerOptions {
        model,
        name: name.map(str::to_owned),
        overlay,
        threads: optional_count(asked.threads, "threads")?,
        kv_cache,
        isa: isa.map(str::to_owned),
        prefill_chunk: count(asked.prefill_chunk, "prefill_chunk")?,
        persist_usage: asked.persist_usage != 0,
        trust_verified: asked.trust_verified != 0,
    })
}

/// A model opened from a chain. Any number of threads may use it at once. It holds no lock of the chain
/// and goes on working when the chain is closed.
pub struct blyan_model {
    pub(crate) manager: MoEModelManager,
    isa: Text,
}

impl blyan_model {
    fn new(manager: MoEModelManager) -> Self {
        Self { isa: Text::new(manager.isa()), manager }
    }
}

/// Opens a model of a chain; `options` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_model_open(
    chain: *const blyan_chain,
    options: *const blyan_model_options,
    model: *mut *mut blyan_model,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (model, chain, options) =
            unsafe { (new_handle(model, "model")?, read(chain, "chain")?, model_options(options)?) };
        model.set(blyan_model::new(MoEModelManager::open(&chain.chain, &options)?));
        Ok(())
    })
}

/// Opens a snapshot, such as one with another expert; the options' model and name are not looked at, and they
/// may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_model_open_snapshot(
    chain: *const blyan_chain,
    snapshot: *const blyan_snapshot,
    options: *const blyan_model_options,
    model: *mut *mut blyan_model,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (model, chain, snapshot, options) = unsafe {
            (
                new_handle(model, "model")?,
                read(chain, "chain")?,
                read(snapshot, "snapshot")?,
                model_options(options)?,
            )
        };
        let manager = MoEModelManager::open_snapshot(&chain.chain, snapshot.snapshot.clone(), &options)?;
        model.set(blyan_model::new(manager));
        Ok(())
    })
}

/// Closes a model; nothing for NULL. Streams, sessions and generations made from it stay usable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_model_free(model: *mut blyan_model) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(model) }
}

/// What a model is and how it runs. Texts live as long as the model's handle.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_model_info {
    /// The model block; of a snapshot in memory the one that it would be published as.
    pub model: blyan_hash,
    /// The spec block.
    pub spec: blyan_hash,
    /// Root of its snapshot.
    pub root: blyan_hash,
    /// Number of token ids; the width of a row of logits.
    pub vocab_size: u64,
    /// Positions of its context.
    pub max_position_embeddings: u64,
    /// Number of layers.
    pub layers: u64,
    /// Threads that compute.
    pub threads: u64,
    /// Instruction set that computes.
    pub isa: blyan_str,
    /// A `blyan_kv_cache`.
    pub kv_cache: i32,
    /// Not 0 if it has a tokenizer, so that it takes and gives text.
    pub has_tokenizer: i32,
    /// Not 0 if it has a chat template.
    pub has_chat_template: i32,
    /// 0.
    pub reserved: i32,
}

/// What a model is and how it runs; `size` is `sizeof *info`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_model_describe(
    model: *const blyan_model,
    info: *mut blyan_model_info,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        let model = unsafe { read(model, "model") }?;
        let manager = &model.manager;
        let snapshot = manager.snapshot();
        let spec = snapshot.spec();
        let description = blyan_model_info {
            model: (*manager.model()).into(),
            spec: (*snapshot.spec_block()).into(),
            root: snapshot.root().into(),
            vocab_size: spec.vocab_size as u64,
            max_position_embeddings: spec.max_position_embeddings as u64,
            layers: spec.layers.len() as u64,
            threads: manager.threads() as u64,
            isa: model.isa.view(),
            kv_cache: match manager.kv_cache() {
                KvDType::F16 => blyan_kv_cache::F16,
                KvDType::F32 => blyan_kv_cache::F32,
            } as i32,
            has_tokenizer: manager.tokenizer().is_some().into(),
            has_chat_template: i32::from(!manager.chat_templates().is_empty()),
            reserved: 0,
        };
        // SAFETY: as above.
        unsafe { describe(info, size, "info", description) }
    })
}

/// What a model has touched so far.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_residency {
    /// Weight blocks whose payload was verified and mapped.
    pub blocks_verified: u64,
    /// Their payloads' bytes.
    pub bytes_mapped: u64,
    /// How many of those blocks are routed experts.
    pub experts_touched: u64,
}

/// What a model has touched so far; `size` is `sizeof *residency`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_model_residency(
    model: *const blyan_model,
    residency: *mut blyan_residency,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        let report = unsafe { read(model, "model") }?.manager.residency();
        let description = blyan_residency {
            blocks_verified: report.blocks_verified,
            bytes_mapped: report.bytes_mapped,
            experts_touched: report.experts_touched,
        };
        // SAFETY: as above.
        unsafe { describe(residency, size, "residency", description) }
    })
}

fn tokenizer(model: &blyan_model) -> Result<&Tokenizer, ManagerError> {
    model.manager.tokenizer().ok_or(ManagerError::NoTokenizer)
}

/// Token ids of a text. `add_special_tokens` adds those that every text of the model starts or ends with;
/// rendered chats hold theirs already.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_model_tokenize(
    model: *const blyan_model,
    text: *const c_char,
    text_len: usize,
    add_special_tokens: bool,
    tokens: *mut *mut blyan_tokens,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (tokens, model, text) = unsafe {
            (new_handle(tokens, "tokens")?, read(model, "model")?, self::text(text, text_len, "text")?)
        };
        tokens.set(blyan_tokens(tokenizer(model)?.encode(text, add_special_tokens)?));
        Ok(())
    })
}

/// How many tokens a text is, as `blyan_model_tokenize` would give.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_model_count_tokens(
    model: *const blyan_model,
    text: *const c_char,
    text_len: usize,
    add_special_tokens: bool,
    tokens: *mut usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (model, text, tokens) =
            unsafe { (read(model, "model")?, self::text(text, text_len, "text")?, out(tokens, "tokens")?) };
        tokens.set(tokenizer(model)?.count(text, add_special_tokens)?);
        Ok(())
    })
}

/// Text of token ids. `skip_special_tokens` leaves out those that are no text, such as the end of a turn.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_model_detokenize(
    model: *const blyan_model,
    tokens: *const u32,
    tokens_len: usize,
    skip_special_tokens: bool,
    text: *mut *mut blyan_text,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (text, model, tokens) = unsafe {
            (new_handle(text, "text")?, read(model, "model")?, slice(tokens, tokens_len, "tokens")?)
        };
        text.set(blyan_text::new(tokenizer(model)?.decode(tokens, skip_special_tokens)?));
        Ok(())
    })
}

/// The id of a token by its spelling in the vocabulary.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_model_token_id(
    model: *const blyan_model,
    token: *const c_char,
    token_len: usize,
    id: *mut u32,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (model, token, id) =
            unsafe { (read(model, "model")?, self::text(token, token_len, "token")?, out(id, "id")?) };
        let tokenizer = tokenizer(model)?;
        let unknown = || Failure::new(blyan_status::NotFound, format!("there is no token {token:?}"));
        id.set(tokenizer.token_id(token).ok_or_else(unknown)?);
        Ok(())
    })
}

/// The spelling of a token in the vocabulary.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_model_token(
    model: *const blyan_model,
    id: u32,
    token: *mut *mut blyan_text,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (token, model) = unsafe { (new_handle(token, "token")?, read(model, "model")?) };
        let tokenizer = tokenizer(model)?;
        let unknown = || Failure::new(blyan_status::NotFound, format!("there is no token {id}"));
        token.set(blyan_text::new(tokenizer.token(id).ok_or_else(unknown)?));
        Ok(())
    })
}

/// Refuses a buffer that does not have exactly the size of logits.
pub(crate) fn check_logits_room(vocab_size: usize, tokens_len: usize, logits_len: usize) -> Outcome {
    let needed = vocab_size.checked_mul(tokens_len);
    if needed == Some(logits_len) {
        return Ok(());
    }
    let needed = needed.map_or_else(|| "more than there is".to_owned(), |needed| needed.to_string());
    Err(Failure::size(format!("logits has room for {logits_len}, {needed} are needed")))
}

/// Logits of every position, (tokens, vocab_size), row-major; `logits_len` must be
/// `tokens_len * vocab_size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_model_logits(
    model: *const blyan_model,
    tokens: *const u32,
    tokens_len: usize,
    logits: *mut f32,
    logits_len: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (model, tokens) = unsafe { (read(model, "model")?, slice(tokens, tokens_len, "tokens")?) };
        check_logits_room(model.manager.snapshot().spec().vocab_size, tokens_len, logits_len)?;
        let computed = model.manager.logits(tokens)?;
        // SAFETY: as above.
        unsafe { copy_out(&computed, logits, logits_len, "logits") }
    })
}

/// The model's spec and slots.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_model_snapshot(
    model: *const blyan_model,
    snapshot: *mut *mut blyan_snapshot,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (snapshot, model) = unsafe { (new_handle(snapshot, "snapshot")?, read(model, "model")?) };
        snapshot.set(blyan_snapshot::new(model.manager.snapshot().clone()));
        Ok(())
    })
}
