//! Owns the way between text and token ids: [`Tokenizer`], [`StreamDecoder`], [`StopStrings`].

mod growth;
mod pattern;
mod stop;
mod stream;
#[cfg(test)]
mod tests;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokenizers::{Model, PostProcessor};

pub use stop::{StopError, StopStrings, Stopped};
pub use stream::StreamDecoder;

/// Largest `tokenizer.json` that is read; the largest published ones have some 35 MB.
pub const MAX_TOKENIZER_BYTES: usize = 256 << 20;

/// Text or tokens that the tokenizer of a model cannot handle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// `tokenizer.json` cannot be used.
    #[error("tokenizer.json cannot be used: {reason}")]
    Tokenizer {
        /// What is wrong with it.
        reason: String,
    },
    /// A token that the model has no embedding for.
    #[error("token {token} is outside the model's vocabulary of {vocab_size} tokens")]
    TokenOutOfRange {
        /// The token.
        token: u32,
        /// Rows of the model's embedding.
        vocab_size: usize,
    },
    /// The tokenizer failed on this text.
    #[error("the text cannot be encoded: {reason}")]
    Encode {
        /// What the tokenizer said.
        reason: String,
    },
    /// The tokenizer failed on these tokens.
    #[error("the tokens cannot be decoded: {reason}")]
    Decode {
        /// What the tokenizer said.
        reason: String,
    },
}

/// A model's tokenizer. Cloning is cheap.
///
/// Which special tokens [`encode`](Self::encode) adds is decided by the post-processor of
/// `tokenizer.json`. Truncation and padding that the file asks for are switched off.
#[derive(Clone)]
pub struct Tokenizer(Arc<Inner>);

/// Longest text that is not matched beforehand. A match gives up after a million steps back, and even a pattern that
/// tries every end for every start does not come to that here.
const SHORT_TEXT_BYTES: usize = 1 << 10;

struct Inner {
    tokenizer: tokenizers::Tokenizer,
    /// What texts are matched with.
    patterns: Vec<fancy_regex::Regex>,
    vocab_size: usize,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.0.vocab_size).finish_non_exhaustive()
    }
}

/// Runs library code that panics on some inputs, and turns the panic into text.
fn caught<T>(run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    // Whatever a panic left half done is dropped with the values that it belongs to: a tokenizer is
    // only read, and its cache of words is a lock that poisons.
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(|error| shorten(&error.to_string())),
        Err(panic) => {
            let message = panic.downcast_ref::<&str>().copied();
            let message = message.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
            Err(format!("the tokenizers library failed: {}", shorten(message.unwrap_or("no message"))))
        }
    }
}

/// Bytes of a text that is worth a thread of its own.
const LONG_TEXT_BYTES: usize = 4096;

/// [`caught`] on a thread of its own. The library keeps the words that it met in thread-locals, for each BPE, and takes
/// none out when the BPE is dropped: those of a document would stay for as long as the caller's thread.
fn caught_aside<T: Send>(run: impl FnOnce() -> tokenizers::Result<T> + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, || caught(run));
        let thread = thread.map_err(|error| format!("there is no thread to run it on: {error}"))?;
        thread.join().unwrap_or_else(|_| Err("the tokenizers library failed".to_owned()))
    })
}

/// Errors of the library quote whole files.
fn shorten(message: &str) -> String {
    message.chars().take(300).collect()
}

impl Tokenizer {
    /// Reads `tokenizer.json` for a model whose embedding has `vocab_size` rows.
    ///
    /// # Errors
    ///
    /// [`TextError::Tokenizer`] if the bytes are no tokenizer, or one that gives the same text other
    /// tokens each time (dropout), or one whose steps can make a text longer without bound, or
    /// one with a pattern that cannot be matched as Hugging Face's library would.
    pub fn from_json(bytes: &[u8], vocab_size: usize) -> Result<Self, TextError> {
        let refuse = |reason: String| TextError::Tokenizer { reason };
        if bytes.len() > MAX_TOKENIZER_BYTES {
            return Err(refuse(format!("{} bytes are more than {MAX_TOKENIZER_BYTES}", bytes.len())));
        }
        let steps = pattern::Steps::read(bytes).map_err(refuse)?;
        growth::check(&steps).map_err(refuse)?;
        let pattern::Rewritten { file, patterns } = pattern::rewrite_file(bytes, steps).map_err(refuse)?;
        let bytes = file.as_deref().unwrap_or(bytes);
        let mut tokenizer = caught(|| tokenizers::Tokenizer::from_bytes(bytes)).map_err(refuse)?;
        if let tokenizers::ModelWrapper::BPE(bpe) = tokenizer.get_model()
            && bpe.dropout.is_some_and(|dropout| dropout != 0.0)
        {
            return Err(refuse("model.dropout makes encoding random: set it to null".to_owned()));
        }
        let added = tokenizer.get_post_processor().map_or(0, |steps| steps.added_tokens(false));
        if added > growth::MAX_ADDED_TOKENS {
            return Err(refuse(format!("its post_processor adds {added} tokens to a text")));
        }
        caught(|| tokenizer.with_truncation(None).map(|_| ())).map_err(refuse)?;
        tokenizer.with_padding(None);
        // A first text makes most of the constants of the tokenizer's library. Made later, by a thread beside one that
        // forks, they could be left half made in the child, which would wait for them.
        let _ = caught(|| {
            tokenizer.encode_fast("a 1", false).and_then(|first| tokenizer.decode(first.get_ids(), false))
        });
        let compile = |pattern: &String| caught(|| Ok(fancy_regex::Regex::new(pattern)?));
        let patterns = patterns.iter().map(compile).collect::<Result<_, _>>().map_err(refuse)?;
        Ok(Self(Arc::new(Inner { tokenizer, patterns, vocab_size })))
    }

    /// Tokens of a text; `add_special_tokens` adds those that every text of the model starts or ends
    /// with. Rendered chats hold theirs already.
    ///
    /// # Errors
    ///
    /// [`TextError::Encode`] if the tokenizer fails, or gives up on matching so long a text;
    /// [`TextError::TokenOutOfRange`] if it gives a token that the model has no embedding for.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TextError> {
        self.check_matches(text)?;
        let encode = || self.0.tokenizer.encode_fast(text, add_special_tokens);
        let encoding = if text.len() < LONG_TEXT_BYTES { caught(encode) } else { caught_aside(encode) };
        let encoding = encoding.map_err(|reason| TextError::Encode { reason })?;
        let tokens = encoding.get_ids().to_vec();
        self.check(&tokens)?;
        Ok(tokens)
    }

    /// Refuses a text that a pattern cannot be matched with to its end: the tokenizer's library would take all that
    /// is left for one piece.
    fn check_matches(&self, text: &str) -> Result<(), TextError> {
        if text.len() <= SHORT_TEXT_BYTES {
            return Ok(());
        }
        for pattern in &self.0.patterns {
            let refuse = |reason: String| {
                let pattern = shorten(pattern.as_str());
                let reason = format!(
                    "the pattern {pattern:?} cannot be matched with all of it, encode it in parts: {reason}"
                );
                TextError::Encode { reason }
            };
            let matched =
                || pattern.find_iter(text).try_for_each(|found| found.map(drop)).map_err(Into::into);
            caught(matched).map_err(refuse)?;
        }
        Ok(())
    }

    /// Number of tokens of a text, as [`encode`](Self::encode) would give.
    ///
    /// # Errors
    ///
    /// As [`encode`](Self::encode).
    pub fn count(&self, text: &str, add_special_tokens: bool) -> Result<usize, TextError> {
        self.encode(text, add_special_tokens).map(|tokens| tokens.len())
    }

    /// Text of tokens. Bytes that are no UTF-8 become U+FFFD; tokens of the model that the tokenizer
    /// does not know, as in padded vocabularies, become nothing.
    ///
    /// # Errors
    ///
    /// [`TextError::TokenOutOfRange`], or [`TextError::Decode`] if the tokenizer fails.
    pub fn decode(&self, tokens: &[u32], skip_special_tokens: bool) -> Result<String, TextError> {
        self.check(tokens)?;
        let skipped = |token: u32| skip_special_tokens && self.is_special(token);
        let tokens: Vec<u32> = tokens.iter().copied().filter(|&token| !skipped(token)).collect();
        if tokens.is_empty() {
            return Ok(String::new());
        }
        caught(|| self.0.tokenizer.decode(&tokens, skip_special_tokens))
            .map_err(|reason| TextError::Decode { reason })
    }

    /// Decodes tokens one by one.
    pub fn stream(&self, skip_special_tokens: bool) -> StreamDecoder {
        StreamDecoder::new(self.clone(), skip_special_tokens)
    }

    /// Refuses tokens that the model has no embedding for.
    ///
    /// # Errors
    ///
    /// [`TextError::TokenOutOfRange`] for the first such token.
    pub fn check(&self, tokens: &[u32]) -> Result<(), TextError> {
        let vocab_size = self.0.vocab_size;
        match tokens.iter().find(|&&token| token as usize >= vocab_size) {
            Some(&token) => Err(TextError::TokenOutOfRange { token, vocab_size }),
            None => Ok(()),
        }
    }

    /// The token written so, such as `"</s>"`.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.0.tokenizer.token_to_id(token)
    }

    /// How a token is written in the vocabulary.
    pub fn token(&self, id: u32) -> Option<String> {
        let inner = &self.0.tokenizer;
        let added = inner.get_added_vocabulary().get_added_tokens_decoder().get(&id);
        added.map(|token| token.content.clone()).or_else(|| inner.get_model().id_to_token(id))
    }

    /// The special token written so.
    pub(super) fn special(&self, token: &str) -> Option<u32> {
        self.token_id(token).filter(|&id| self.is_special(id))
    }

    /// Whether a token is special. The library goes by texts, of which a token that the normalizer rewrites has two.
    fn is_special(&self, id: u32) -> bool {
        let added = self.0.tokenizer.get_added_vocabulary().get_added_tokens_decoder();
        added.get(&id).is_some_and(|token| token.special)
    }

    /// Every token with its id, ascending.
    pub fn vocabulary(&self) -> Vec<(u32, String)> {
        let mut tokens: Vec<(u32, String)> =
            self.0.tokenizer.get_vocab(true).into_iter().map(|(token, id)| (id, token)).collect();
        tokens.sort_unstable();
        tokens
    }

    /// Rows of the model's embedding.
    pub fn vocab_size(&self) -> usize {
        self.0.vocab_size
    }
}
