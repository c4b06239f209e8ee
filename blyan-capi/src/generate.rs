//! Owns generating text: prompts, options, pieces, results.

#![expect(unsafe_code, reason = "exported symbols, pointers and callbacks of the caller")]

use std::ffi::{c_char, c_void};
use std::ptr;

use blyan_core::manager::sampling::{Logprobs, TokenLogprob};
use blyan_core::manager::{
    FinishReason, GenerateOptions, Generation, Piece, Prompt, SamplingOptions, Stream,
};

use crate::cancel::{blyan_cancel, flag};
use crate::edge::{
    NewHandle, Options, describe, free, init_options, new_handle, options, read, slice, text, texts,
};
use crate::error::{Failure, Outcome, blyan_status, edge};
use crate::hash::at;
use crate::model::{blyan_model, optional_count};
use crate::receipt::blyan_receipt;
use crate::text::{BLYAN_NONE, Text, blyan_str};

/// What to continue: a text, or token ids taken as they are. The other pointer is NULL.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_prompt {
    /// A text; the tokenizer adds the tokens that every text of the model starts with.
    pub text: *const c_char,
    /// Its bytes, or `BLYAN_NUL`.
    pub text_len: usize,
    /// Token ids.
    pub tokens: *const u32,
    /// How many.
    pub tokens_len: usize,
}

/// # Safety
///
/// NULL or a prompt whose pointers are valid.
pub(crate) unsafe fn prompt_of(prompt: *const blyan_prompt) -> Outcome<Prompt> {
    // SAFETY: the caller's promise.
    let given = unsafe { read(prompt, "prompt") }?;
    match (given.text.is_null(), given.tokens.is_null()) {
        // SAFETY: as above.
        (false, true) => Ok(unsafe { text(given.text, given.text_len, "prompt") }?.into()),
        // SAFETY: as above.
        (true, false) => Ok(unsafe { slice(given.tokens, given.tokens_len, "prompt") }?.into()),
        (true, true) => Err(Failure::new(
            blyan_status::NullArgument,
            "the prompt has neither text nor tokens: one of the two must not be NULL",
        )),
        (false, false) => {
            Err(Failure::argument("the prompt has text and tokens: one of the two must be NULL"))
        }
    }
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum blyan_finish_reason {
    /// It goes on.
    None = 0,
    /// A token that ends texts was chosen; it is the last output token.
    StopToken = 1,
    /// A stop string appeared.
    StopString = 2,
    /// `max_tokens` tokens were written.
    MaxTokens = 3,
    /// The context of the model is full.
    ContextFull = 4,
    /// The caller stopped or cancelled it.
    Cancelled = 5,
}

pub(crate) fn finish_number(reason: FinishReason) -> Outcome<i32> {
    Ok(match reason {
        FinishReason::StopToken => blyan_finish_reason::StopToken,
        FinishReason::StopString => blyan_finish_reason::StopString,
        FinishReason::MaxTokens => blyan_finish_reason::MaxTokens,
        FinishReason::ContextFull => blyan_finish_reason::ContextFull,
        FinishReason::Cancelled => blyan_finish_reason::Cancelled,
        other => return Err(Failure::argument(format!("{other:?} has no number in this version"))),
    } as i32)
}

/// Name of a `blyan_finish_reason` as receipts spell it, such as "max_tokens"; "none" for
/// `BLYAN_FINISH_REASON_NONE`, "unknown" for a number that is none. Ends with NUL, lives forever.
#[unsafe(no_mangle)]
pub extern "C" fn blyan_finish_reason_name(reason: i32) -> *const c_char {
    let names = [c"none", c"stop_token", c"stop_string", c"max_tokens", c"context_full", c"cancelled"];
    let known = usize::try_from(reason).ok().and_then(|reason| names.get(reason));
    known.copied().unwrap_or(c"unknown").as_ptr()
}

/// A token with the logarithm of its probability under the raw logits, before any sampler.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
pub struct blyan_token_logprob {
    /// The token.
    pub token: u32,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// Log probabilities at one position.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_logprobs {
    /// The token that was chosen.
    pub chosen: blyan_token_logprob,
    /// The most probable tokens, best first.
    pub top: *const blyan_token_logprob,
    /// How many.
    pub top_len: usize,
}

/// Log probabilities of one position, where C can point to them.
#[derive(Debug)]
struct OwnedLogprobs {
    chosen: blyan_token_logprob,
    top: Vec<blyan_token_logprob>,
}

impl OwnedLogprobs {
    fn new(logprobs: &Logprobs) -> Self {
        let pair = |pair: &TokenLogprob| blyan_token_logprob { token: pair.token, logprob: pair.logprob };
        Self { chosen: pair(&logprobs.chosen), top: logprobs.top.iter().map(pair).collect() }
    }

    fn view(&self) -> blyan_logprobs {
        blyan_logprobs { chosen: self.chosen, top: self.top.as_ptr(), top_len: self.top.len() }
    }
}

/// Text that became certain with one token.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_piece {
    /// The text: often empty, never half a character, never part of a stop string.
    pub text: blyan_str,
    /// Its log probability and the best alternatives; NULL if they were not asked for.
    pub logprobs: *const blyan_logprobs,
    /// The token.
    pub token: u32,
    /// A `blyan_finish_reason`: other than `BLYAN_FINISH_REASON_NONE` with the last piece.
    pub finish_reason: i32,
}

/// A piece, where C can point to it.
#[derive(Debug, Default)]
pub(crate) struct OwnedPiece {
    text: Text,
    logprobs: Option<OwnedLogprobs>,
    // Boxed: the piece that C sees points to it.
    view: Option<Box<blyan_logprobs>>,
}

impl OwnedPiece {
    /// Takes the place of the piece before, whose views end.
    pub(crate) fn set(&mut self, piece: &Piece) -> Outcome<blyan_piece> {
        self.text.set(&piece.text);
        self.logprobs = piece.logprobs.as_ref().map(OwnedLogprobs::new);
        self.view = self.logprobs.as_ref().map(|logprobs| Box::new(logprobs.view()));
        Ok(blyan_piece {
            text: self.text.view(),
            logprobs: self.view.as_deref().map_or(ptr::null(), ptr::from_ref),
            token: piece.token,
            finish_reason: piece.finish_reason.map_or(Ok(0), finish_number)?,
        })
    }
}

// SAFETY: the pointer in `view` is to `logprobs` beside it.
unsafe impl Send for OwnedPiece {}

/// Hears of each token as it is made, on the thread that made the call. Returns 0 to go on; anything
/// else ends the generation: the call returns `BLYAN_STATUS_STOPPED` and gives what there is so far.
/// What `piece` points to is gone when it returns.
pub type blyan_token_fn = Option<unsafe extern "C" fn(user: *mut c_void, piece: *const blyan_piece) -> i32>;

/// What one generation is asked for. Fill it with `blyan_generate_options_init` first: the defaults are
/// greedy, until the model ends the text.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_generate_options {
    /// `sizeof(blyan_generate_options)`.
    pub size: usize,
    /// Most new tokens; by default `BLYAN_NONE`: as many as the context has room for.
    pub max_tokens: u64,
    /// Keeps this many of the best tokens; by default `BLYAN_NONE`: all.
    pub top_k: u64,
    /// Where the random numbers start; 0 by default.
    pub seed: u64,
    /// Divides the logits; 0, as by default, chooses greedily.
    pub temperature: f32,
    /// Keeps the best tokens that together reach this probability; 1, as by default: all.
    pub top_p: f32,
    /// Keeps tokens at least this fraction as probable as the best; 0, as by default: all.
    pub min_p: f32,
    /// Makes tokens that were seen already less likely if above 1, the default.
    pub repetition_penalty: f32,
    /// Texts that end the generation; they are not part of its text. Special tokens of the tokenizer, which are
    /// never text, do too when they are chosen.
    pub stop: *const blyan_str,
    /// How many.
    pub stop_len: usize,
    /// Log probabilities of each token and of this many best ones; by default `BLYAN_NONE`: none.
    pub logprobs: u64,
    /// Not 0: goes on after a token that ends a text.
    pub ignore_eos: i32,
    /// 0.
    pub reserved: i32,
    /// Hears of each token; may be NULL. Not for streams and batches.
    pub on_token: blyan_token_fn,
    /// Given to `on_token`.
    pub user: *mut c_void,
    /// Ends the generation at the next token when set; may be NULL. The call still returns
    /// `BLYAN_STATUS_OK` and a generation that says so.
    pub cancel: *const blyan_cancel,
}

// SAFETY: numbers, pointers and an optional function, the size first.
unsafe impl Options for blyan_generate_options {
    fn defaults(size: usize) -> Self {
        Self {
            size,
            max_tokens: BLYAN_NONE,
            top_k: BLYAN_NONE,
            seed: 0,
            temperature: 0.0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            stop: ptr::null(),
            stop_len: 0,
            logprobs: BLYAN_NONE,
            ignore_eos: 0,
            reserved: 0,
            on_token: None,
            user: ptr::null_mut(),
            cancel: ptr::null(),
        }
    }
}

/// Fills options with their defaults; `size` is `sizeof *options`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_generate_options_init(
    options: *mut blyan_generate_options,
    size: usize,
) -> blyan_status {
    // SAFETY: the caller's pointer, as the header asks.
    edge(|| unsafe { init_options(options, size) })
}

/// The core's options, and whom to tell of tokens.
pub(crate) struct Asked {
    pub(crate) options: GenerateOptions,
    on_token: blyan_token_fn,
    user: *mut c_void,
}

/// # Safety
///
/// NULL or options whose pointers are valid, and whose callback can be called until the call ends.
pub(crate) unsafe fn asked(options: *const blyan_generate_options) -> Outcome<Asked> {
    // SAFETY: the caller's promise.
    let given = unsafe { self::options(options, "options") }?;
    // SAFETY: as above.
    let (stop, cancel) = unsafe { (texts(given.stop, given.stop_len, "stop")?, flag(given.cancel)?) };
    let options = GenerateOptions {
        max_tokens: optional_count(given.max_tokens, "max_tokens")?,
        sampling: SamplingOptions {
            temperature: given.temperature,
            top_k: optional_count(given.top_k, "top_k")?,
            top_p: Some(given.top_p),
            min_p: Some(given.min_p),
            repetition_penalty: Some(given.repetition_penalty),
            seed: given.seed,
        },
        stop,
        ignore_eos: given.ignore_eos != 0,
        logprobs: optional_count(given.logprobs, "logprobs")?,
        cancel,
    };
    Ok(Asked { options, on_token: given.on_token, user: given.user })
}

impl Asked {
    /// The options of a call that has no callback.
    pub(crate) fn silent(self, call: &str) -> Outcome<GenerateOptions> {
        match self.on_token {
            None => Ok(self.options),
            Some(_) => Err(Failure::argument(format!("{call} calls no on_token: leave it NULL"))),
        }
    }

    /// Reads a stream to its end, or to where the callback stops it.
    pub(crate) fn run(&self, mut stream: Stream<'_>, generation: NewHandle<blyan_generation>) -> Outcome {
        let mut owned = OwnedPiece::default();
        let mut stopped = false;
        for piece in &mut stream {
            let piece = piece?;
            let Some(on_token) = self.on_token else { continue };
            let view = owned.set(&piece)?;
            // SAFETY: the caller promised that it can be called with `user`.
            if unsafe { on_token(self.user, &raw const view) } != 0 {
                stopped = true;
                break;
            }
        }
        generation.set(blyan_generation::new(stream.finish()?));
        if stopped { Err(Failure::stopped()) } else { Ok(()) }
    }
}

/// A finished generation.
pub struct blyan_generation {
    generation: Generation,
    text: Text,
    logprobs: Vec<OwnedLogprobs>,
}

impl blyan_generation {
    pub(crate) fn new(generation: Generation) -> Self {
        Self {
            text: Text::new(generation.text.as_str()),
            logprobs: generation.logprobs.iter().map(OwnedLogprobs::new).collect(),
            generation,
        }
    }
}

/// A finished generation. Text and tokens live as long as its handle.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_generation_info {
    /// The new text; empty for a model without a tokenizer.
    pub text: blyan_str,
    /// The new tokens, a token that ended the text included.
    pub tokens: *const u32,
    /// How many.
    pub tokens_len: usize,
    /// Tokens that the model had read or was given to read before the first new one.
    pub prompt_tokens: usize,
    /// Positions with log probabilities: one a new token if they were asked for, else 0.
    pub logprobs_len: usize,
    /// A `blyan_finish_reason`.
    pub finish_reason: i32,
    /// 0.
    pub reserved: i32,
}

/// Continues a prompt; `options` may be NULL. With `BLYAN_STATUS_STOPPED` there is a generation, too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_model_generate(
    model: *const blyan_model,
    prompt: *const blyan_prompt,
    options: *const blyan_generate_options,
    generation: *mut *mut blyan_generation,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (generation, model, prompt, asked) = unsafe {
            (
                new_handle(generation, "generation")?,
                read(model, "model")?,
                prompt_of(prompt)?,
                asked(options)?,
            )
        };
        asked.run(model.manager.stream(prompt, &asked.options)?, generation)
    })
}

/// Several generations.
pub struct blyan_generations(Vec<Generation>);

/// Continues several prompts beside each other; each result is what the prompt alone would give.
/// `options` may be NULL and has no `on_token`. One bad prompt refuses the batch.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_model_generate_batch(
    model: *const blyan_model,
    prompts: *const blyan_prompt,
    prompts_len: usize,
    options: *const blyan_generate_options,
    generations: *mut *mut blyan_generations,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (generations, model, prompts, asked) = unsafe {
            (
                new_handle(generations, "generations")?,
                read(model, "model")?,
                slice(prompts, prompts_len, "prompts")?,
                asked(options)?,
            )
        };
        // SAFETY: as above.
        let prompts: Vec<Prompt> =
            prompts.iter().map(|prompt| unsafe { prompt_of(prompt) }).collect::<Outcome<_>>()?;
        let options = asked.silent("a batch")?;
        generations.set(blyan_generations(model.manager.generate_batch(prompts, &options)?));
        Ok(())
    })
}

/// Number of generations; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_generations_len(generations: *const blyan_generations) -> usize {
    // SAFETY: NULL or a handle.
    unsafe { generations.as_ref() }.map_or(0, |generations| generations.0.len())
}

/// One of the generations, in the order of the prompts; to be freed on its own.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_generations_get(
    generations: *const blyan_generations,
    index: usize,
    generation: *mut *mut blyan_generation,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (generation, generations) =
            unsafe { (new_handle(generation, "generation")?, read(generations, "generations")?) };
        generation.set(blyan_generation::new(at(&generations.0, index)?.clone()));
        Ok(())
    })
}

/// Frees a list of generations; nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_generations_free(generations: *mut blyan_generations) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(generations) }
}

/// What was generated; `size` is `sizeof *info`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_generation_describe(
    generation: *const blyan_generation,
    info: *mut blyan_generation_info,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        let owned = unsafe { read(generation, "generation") }?;
        let description = blyan_generation_info {
            text: owned.text.view(),
            tokens: owned.generation.tokens.as_ptr(),
            tokens_len: owned.generation.tokens.len(),
            prompt_tokens: owned.generation.prompt_tokens,
            logprobs_len: owned.logprobs.len(),
            finish_reason: finish_number(owned.generation.finish_reason)?,
            reserved: 0,
        };
        // SAFETY: as above.
        unsafe { describe(info, size, "info", description) }
    })
}

/// Log probabilities of a new token; `size` is `sizeof *logprobs`. They live as long as the handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_generation_logprobs(
    generation: *const blyan_generation,
    index: usize,
    logprobs: *mut blyan_logprobs,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        let found = at(&unsafe { read(generation, "generation") }?.logprobs, index)?.view();
        // SAFETY: as above.
        unsafe { describe(logprobs, size, "logprobs", found) }
    })
}

/// The receipt of a generation: what ran, complete enough to run it again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_generation_receipt(
    generation: *const blyan_generation,
    receipt: *mut *mut blyan_receipt,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (receipt, generation) =
            unsafe { (new_handle(receipt, "receipt")?, read(generation, "generation")?) };
        receipt.set(blyan_receipt::new(generation.generation.receipt.clone()));
        Ok(())
    })
}

/// Frees a generation; nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_generation_free(generation: *mut blyan_generation) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(generation) }
}
