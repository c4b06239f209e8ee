//! Owns the state of one generation: what was asked, what is still to be computed, what came out.
//!
//! A job knows nothing of other jobs, of threads or of batches: it is handed the logits of its last
//! position and gives a piece of text, so that what runs beside it cannot change its result.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::format::ModelSpec;
use crate::hash::LogitsDigest;
use crate::kernels::Isa;

use super::ManagerError;
use super::options::GenerateOptions;
use super::receipt::{FinishReason, LogitsHasher};
use super::sampling::{Logprobs, Sampler, top_logprobs};
use super::text::{StopStrings, StreamDecoder, Tokenizer};

/// Text that became certain with one token.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// The token.
    pub token: u32,
    /// Text, often empty; never half a character, never part of a stop string.
    pub text: String,
    /// Its log probability and the best alternatives, if they were asked for.
    pub logprobs: Option<Logprobs>,
    /// Set with the last piece.
    pub finish_reason: Option<FinishReason>,
}

/// Turns tokens into text and looks for stop strings; nothing at all for a model without a tokenizer.
#[derive(Debug)]
struct TextOut {
    decoder: StreamDecoder,
    stops: StopStrings,
    /// Stop strings that are special tokens, which are no text.
    special_stops: Vec<u32>,
}

/// One generation.
#[derive(Debug)]
pub(super) struct Job {
    /// Prompt and output together.
    pub(super) tokens: Vec<u32>,
    pub(super) prompt_len: usize,
    pub(super) text: String,
    pub(super) logprobs: Vec<Logprobs>,
    pub(super) finish_reason: Option<FinishReason>,
    digest: LogitsHasher,
    isa: Isa,
    sampler: Sampler,
    text_out: Option<TextOut>,
    /// Tokens that end the text.
    pub(super) stop_token_ids: Vec<u32>,
    /// Most output tokens.
    pub(super) max_tokens: usize,
    /// Whether so many fill the context.
    fills_context: bool,
    logprob_count: Option<usize>,
    cancel: Option<Arc<AtomicBool>>,
}

impl Job {
    /// `prompt` is everything the model has read or is to read before the first new token.
    pub(super) fn new(
        prompt: Vec<u32>,
        options: &GenerateOptions,
        isa: Isa,
        spec: &ModelSpec,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<Self, ManagerError> {
        if prompt.is_empty() {
            return Err(ManagerError::EmptyPrompt);
        }
        let capacity = spec.max_position_embeddings;
        let room = capacity.saturating_sub(prompt.len());
        let max_tokens = options.max_tokens.unwrap_or(room.max(1));
        if max_tokens == 0 {
            return Err(ManagerError::NoMaxTokens);
        }
        if max_tokens > room {
            return Err(ManagerError::ContextFull { prompt_tokens: prompt.len(), max_tokens, capacity });
        }
        let text_out = match tokenizer {
            Some(tokenizer) => Some(TextOut {
                decoder: tokenizer.stream(true),
                stops: StopStrings::new(&options.stop)?,
                special_stops: options.stop.iter().filter_map(|stop| tokenizer.special(stop)).collect(),
            }),
            None if options.stop.is_empty() => None,
            None => return Err(ManagerError::NoTokenizer),
        };
        Ok(Self {
            prompt_len: prompt.len(),
            tokens: prompt,
            text: String::new(),
            logprobs: Vec::new(),
            finish_reason: None,
            digest: LogitsHasher::new(spec.vocab_size),
            isa,
            sampler: Sampler::new(isa, &options.sampling)?,
            text_out,
            stop_token_ids: if options.ignore_eos { Vec::new() } else { spec.tokens.eos_token_ids.clone() },
            max_tokens,
            fills_context: max_tokens == room,
            logprob_count: options.logprobs,
            cancel: options.cancel.clone(),
        })
    }

    /// Ends the job if its caller wants no more; returns whether it is over.
    pub(super) fn is_over(&mut self) -> bool {
        let cancelled = self.cancel.as_ref().is_some_and(|cancel| cancel.load(Ordering::Relaxed));
        if self.finish_reason.is_none() && cancelled {
            self.finish_reason = Some(FinishReason::Cancelled);
        }
        self.finish_reason.is_some()
    }

    /// Chooses the next token from the logits of the last position.
    pub(super) fn accept(&mut self, logits: &[f32]) -> Result<Piece, ManagerError> {
        let token = self.sampler.next(logits, &self.tokens)?.token;
        let isa = self.isa;
        let logprobs = self.logprob_count.map(|count| top_logprobs(isa, logits, token, count)).transpose()?;
        self.digest.update(logits);
        self.tokens.push(token);
        self.logprobs.extend(logprobs.clone());
        let is_stop_token = self.stop_token_ids.contains(&token);
        let mut text = String::new();
        let mut stopped = false;
        if let Some(out) = &mut self.text_out {
            if !is_stop_token {
                text = out.stops.push(&out.decoder.push(token)?);
            }
            stopped = out.stops.stopped().is_some() || out.special_stops.contains(&token);
        }
        self.finish_reason = if is_stop_token {
            Some(FinishReason::StopToken)
        } else if stopped {
            Some(FinishReason::StopString)
        } else if self.tokens.len() - self.prompt_len < self.max_tokens {
            None
        } else if self.fills_context {
            Some(FinishReason::ContextFull)
        } else {
            Some(FinishReason::MaxTokens)
        };
        if let (Some(out), Some(_)) = (&mut self.text_out, self.finish_reason) {
            // What was held back is text now, and may complete a stop string.
            text.push_str(&out.stops.push(&out.decoder.finish()?));
            text.push_str(&out.stops.finish());
            if out.stops.stopped().is_some() && !is_stop_token {
                self.finish_reason = Some(FinishReason::StopString);
            }
        }
        self.text.push_str(&text);
        Ok(Piece { token, text, logprobs, finish_reason: self.finish_reason })
    }

    pub(super) fn digest(&self) -> LogitsDigest {
        self.digest.digest()
    }
}
