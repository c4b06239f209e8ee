//! Owns what a caller may ask of a model and of one generation.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::hash::BlockHash;
use crate::model::KvDType;

use super::sampling::SamplingOptions;

/// How a model is opened.
#[derive(Debug, Clone)]
pub struct ManagerOptions {
    /// The model block; `None` for what `name` says, or else the chain's only model.
    pub model: Option<BlockHash>,
    /// The model by a name, see [`super::find_model`]: `latest`, a release such as `tiny` or `tiny@1.2.0`, a
    /// hash or its beginning. Not beside `model`.
    pub name: Option<String>,
    /// Blocks to try, each in the slot that its name says, at most one a slot. Nothing is appended; receipts
    /// name the model block that the result would be published as.
    pub overlay: Vec<BlockHash>,
    /// Threads that compute; `None` for all cores. It never changes a result.
    pub threads: Option<usize>,
    /// Element type of KV caches.
    pub kv_cache: KvDType,
    /// Instruction set: `scalar`, `avx2`, `avx512`, `amx` or `neon`; `None` for `BLYAN_ISA`, or else the
    /// best of this CPU. It never changes a result. Where the CPU has AMX, the search for the best, like
    /// `amx`, asks Linux for this process's right to use it, see [`Isa`](crate::kernels::Isa).
    pub isa: Option<String>,
    /// Most tokens in one forward pass; bounds the memory of a long prompt. It never changes a
    /// result.
    pub prefill_chunk: usize,
    /// Whether usage is kept in the chain's directory.
    pub persist_usage: bool,
    /// Relies on the record of an earlier verification for payload files whose inode, size and change
    /// time are still the same, instead of hashing them once in each process. SECURITY.md says what that
    /// gives up. The chain's directory keeps the record.
    pub trust_verified: bool,
}

impl Default for ManagerOptions {
    fn default() -> Self {
        Self {
            model: None,
            name: None,
            overlay: Vec::new(),
            threads: None,
            kv_cache: KvDType::default(),
            isa: None,
            prefill_chunk: 512,
            persist_usage: true,
            trust_verified: false,
        }
    }
}

/// What one generation is asked for. The default is greedy, until the model ends the text.
#[derive(Debug, Clone, Default)]
pub struct GenerateOptions {
    /// Most new tokens; `None` for as many as the context has room for.
    pub max_tokens: Option<usize>,
    /// How tokens are chosen.
    pub sampling: SamplingOptions,
    /// Texts that end the generation; they are not part of its text. Special tokens of the tokenizer, which are
    /// never text, do too when they are chosen.
    pub stop: Vec<String>,
    /// Goes on after a token that ends a text.
    pub ignore_eos: bool,
    /// Log probabilities of each token and of this many best ones.
    pub logprobs: Option<usize>,
    /// Set it to end the generation at the next token.
    pub cancel: Option<Arc<AtomicBool>>,
}

/// What to continue.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Prompt {
    /// A text; the tokenizer adds the tokens that every text of the model starts with.
    Text(String),
    /// Token ids, taken as they are.
    Tokens(Vec<u32>),
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Prompt {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&[u32]> for Prompt {
    fn from(tokens: &[u32]) -> Self {
        Self::Tokens(tokens.to_vec())
    }
}

impl From<Vec<u32>> for Prompt {
    fn from(tokens: Vec<u32>) -> Self {
        Self::Tokens(tokens)
    }
}

impl<const N: usize> From<[u32; N]> for Prompt {
    fn from(tokens: [u32; N]) -> Self {
        Self::Tokens(tokens.to_vec())
    }
}
