//! Owns [`MoEModelManager`]: a model opened from a chain, ready to write text.
//!
//! Opening resolves the snapshot and reads the model's texts; after that the chain's database is
//! needed no more, so a loaded model holds no lock. Weights are mapped and verified when a token
//! first needs them.

mod assemble;
mod compare;
mod grow;
mod history;
mod job;
mod losses;
mod names;
mod options;
mod release;
mod replay;
mod run;
mod session;
mod snapshot;

pub mod delta;
pub mod receipt;
pub mod sampling;
pub mod text;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

pub use compare::{CompareOptions, Distance, LossDiff, SlotDiff, SnapshotDiff, TensorDiff, compare};
pub use grow::{LayerGrowth, grow};
pub use history::{lineage, migrate, rollback, rollback_block};
pub use job::Piece;
pub use names::{MIN_HASH_DIGITS, find_block, find_model};
pub use options::{GenerateOptions, ManagerOptions, Prompt};
pub use receipt::{FinishReason, Receipt};
pub(crate) use release::release_to;
pub use release::{ReleaseEntry, find_release, release, releases};
pub use replay::Replay;
pub use sampling::SamplingOptions;
pub use session::{Generation, Session, SharedSession, Stream};
pub use snapshot::{PinnedBlock, SlotChange, Snapshot};

use crate::chain::{Chain, ChainError};
pub use crate::chat;
pub use crate::format::Release;
use crate::format::{BlockKind, ManifestError, ParseSlotError, Slot, SpecError};
use crate::hash::BlockHash;
use crate::kernels::{Isa, KernelError, NUMERICS_VERSION};
use crate::model::{Decoder, KvCache, KvDType, LayerRouting, Logits, ModelError, ResidencyReport, Step};
use crate::storage::PayloadStore;
use crate::storage::trust::TrustRecord;
use crate::tensor::TensorError;
use crate::usage::{ExpertUse, UsageError, UsageTracker};

use assemble::{USAGE_FOLDER, decoder, usage_tracker};
use chat::{ChatError, ChatRequest, ChatTemplates};
use job::Job;
use receipt::{Claim, ReceiptError, ReceiptOptions};
use run::Context;
use sampling::SamplingError;
use text::{StopError, TextError, Tokenizer};

/// Most threads of a model: more would take what the rest of the process needs before the system refuses one.
const MAX_THREADS: usize = 1 << 16;

/// A model opened from a chain. Cloning shares it; all methods may be called from many threads.
#[derive(Debug, Clone)]
pub struct MoEModelManager(Arc<Model>);

/// What a session, a stream and the manager share.
#[derive(Debug)]
struct Model {
    /// The model block, or the one that the snapshot would be published as.
    block: BlockHash,
    snapshot: Snapshot,
    decoder: Decoder,
    tokenizer: Option<Tokenizer>,
    chat_templates: ChatTemplates,
    usage: UsageTracker,
    kv_cache: KvDType,
    prefill_chunk: usize,
    /// Where the decoder's blocks and the counts of use come from; for [`MoEModelManager::reopen`].
    payloads: Arc<PayloadStore>,
    /// What was verified before, if the caller relies on that.
    record: Option<Arc<TrustRecord>>,
    usage_dir: Option<PathBuf>,
}

/// What can go wrong with a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManagerError {
    /// The chain failed, or a block is missing or damaged.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// A weight block cannot be used.
    #[error("block {block} in slot {slot} cannot be used: {source}")]
    Block {
        /// The slot.
        slot: Slot,
        /// The block.
        block: BlockHash,
        /// Why.
        source: Box<TensorError>,
    },
    /// A delta block.
    #[error(transparent)]
    Delta(#[from] delta::DeltaBlockError),
    /// The forward pass failed.
    #[error(transparent)]
    Model(ModelError),
    /// A kernel cannot run, such as a forced instruction set that the CPU lacks.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The spec block describes no model.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The model block is no manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A block's name is no slot.
    #[error(transparent)]
    SlotName(#[from] ParseSlotError),
    /// Text and tokens.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The chat template, or what it was given.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// A sampling option out of range, or logits that nothing can be chosen from.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// A stop string that cannot be used.
    #[error(transparent)]
    Stop(#[from] StopError),
    /// A receipt that cannot be read.
    #[error(transparent)]
    Receipt(#[from] ReceiptError),
    /// The usage file.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// The chain holds no model.
    #[error("the chain holds no model: import one")]
    NoModel,
    /// The chain holds several models.
    #[error("the chain holds {} models, name one: {}", models.len(), list(models))]
    ManyModels {
        /// Their model blocks.
        models: Vec<BlockHash>,
    },
    /// A block that is no model.
    #[error("block {block} is a {kind} block, no model block")]
    NotAModel {
        /// The block.
        block: BlockHash,
        /// What it is.
        kind: BlockKind,
    },
    /// A block that is no spec.
    #[error("block {block} is a {kind} block, no spec block")]
    NotASpec {
        /// The block.
        block: BlockHash,
        /// What it is.
        kind: BlockKind,
    },
    /// Slots that nothing fills.
    #[error("the model has no block for {} of its slots: {}", slots.len(), list(slots))]
    MissingSlots {
        /// All of them.
        slots: Vec<Slot>,
    },
    /// A block that was made for another slot.
    #[error("block {block} is a {kind} block called {name:?} and cannot fill {slot}")]
    WrongBlock {
        /// The slot it is pinned in.
        slot: Slot,
        /// The block.
        block: BlockHash,
        /// Its name.
        name: String,
        /// Its kind.
        kind: BlockKind,
    },
    /// A block that was made for another spec.
    #[error("block {block} was not made for spec {spec}")]
    OtherSpec {
        /// The block.
        block: BlockHash,
        /// The spec of the model.
        spec: BlockHash,
    },
    /// A slot that the spec does not have.
    #[error("the model's spec has no slot {slot}")]
    UnknownSlot {
        /// The slot.
        slot: Slot,
    },
    /// A name that no block of the chain has.
    #[error(
        "{name:?} names no such block of this chain: give a hash or its first {MIN_HASH_DIGITS} digits or more, a \
         release, latest, or, where any block will do, a slot such as layer0.expert1"
    )]
    UnknownName {
        /// The name, cut to 80 characters.
        name: String,
    },
    /// A name that several blocks have.
    #[error("{name:?} may mean any of {} blocks: {}", candidates.len(), list(candidates))]
    AmbiguousName {
        /// The name.
        name: String,
        /// Blocks that it may mean, some of very many.
        candidates: Vec<BlockHash>,
    },
    /// A slot without a block.
    #[error("the model has no block in {slot}")]
    EmptySlot {
        /// The slot.
        slot: Slot,
    },
    /// A model was named twice.
    #[error("both model and name say which model to open: give one of them")]
    NamedTwice,
    /// Two blocks to try in one slot.
    #[error("two of the blocks to lay over the model fill {slot}")]
    OverlaidTwice {
        /// The slot.
        slot: Slot,
    },
    /// A name and version that another model has.
    #[error("{name} {version} is released already, it is model {model}: choose another version")]
    ReleaseExists {
        /// The name.
        name: String,
        /// The version.
        version: semver::Version,
        /// The model that has it.
        model: BlockHash,
    },
    /// A model to go back to that is not among those that the current one comes from.
    #[error("model {of} does not come from model {model}")]
    NotInHistory {
        /// The model to go back to.
        model: BlockHash,
        /// The current model.
        of: BlockHash,
    },
    /// A model of another architecture cannot just follow.
    #[error(
        "model {from} and spec {spec} have other architectures: a migration has to say why one follows the other"
    )]
    NeedsMigration {
        /// The model that is to be followed.
        from: BlockHash,
        /// The spec of the model that is to follow.
        spec: BlockHash,
    },
    /// A layer that cannot get these experts.
    #[error(
        "layer {layer} cannot grow: it needs a router of its own, at least one expert, and to be named once"
    )]
    NotGrowing {
        /// The layer.
        layer: u32,
    },
    /// No prompt.
    #[error("the prompt has no tokens: give at least one")]
    EmptyPrompt,
    /// Nothing to generate.
    #[error("max_tokens is 0: ask for at least one token, or none to fill the context")]
    NoMaxTokens,
    /// The prompt and what is to be generated do not fit the model's context.
    #[error(
        "the context is full: {prompt_tokens} tokens of prompt and {max_tokens} new ones need more than the \
         model's {capacity} positions"
    )]
    ContextFull {
        /// Tokens before the first new one.
        prompt_tokens: usize,
        /// New tokens that were asked for.
        max_tokens: usize,
        /// Positions that the model has.
        capacity: usize,
    },
    /// A text was given to, or wanted from, a model without a tokenizer.
    #[error("the model has no tokenizer: give and take token ids")]
    NoTokenizer,
    /// A stream that failed was asked for its result.
    #[error("the stream gave an error before")]
    StreamFailed,
    /// A shared session that another call or a stream has.
    #[error("the session is in use: finish its stream, or wait for the other call")]
    SessionBusy,
    /// No thread could be started.
    #[error("no threads to compute with")]
    Threads(#[source] std::io::Error),
    /// Zero threads or zero tokens a pass.
    #[error("{option} is 0: expected at least 1")]
    Zero {
        /// The option.
        option: &'static str,
    },
    /// More threads than any machine has use for.
    #[error("{threads} threads are too many: expected at most {max}")]
    TooManyThreads {
        /// Threads asked for.
        threads: usize,
        /// Most that are started.
        max: usize,
    },
}

fn list(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl MoEModelManager {
    /// Opens a model of the chain.
    ///
    /// # Errors
    ///
    /// [`ManagerError`]: no model or several, missing or damaged blocks, an option out of range.
    pub fn open(chain: &Chain, options: &ManagerOptions) -> Result<Self, ManagerError> {
        let snapshot = match (&options.model, &options.name) {
            (None, None) => Snapshot::only_model(chain)?,
            (Some(model), None) => Snapshot::of_model(chain, model)?,
            (None, Some(name)) => Snapshot::named(chain, name)?,
            (Some(_), Some(_)) => return Err(ManagerError::NamedTwice),
        };
        Self::open_snapshot(chain, snapshot, options)
    }

    /// Opens a snapshot, such as one with another expert, with `options.overlay` over it; `options.model` and
    /// `options.name` are not looked at.
    ///
    /// # Errors
    ///
    /// As [`MoEModelManager::open`].
    pub fn open_snapshot(
        chain: &Chain,
        snapshot: Snapshot,
        options: &ManagerOptions,
    ) -> Result<Self, ManagerError> {
        for (option, value) in [("threads", options.threads), ("prefill_chunk", Some(options.prefill_chunk))]
        {
            if value == Some(0) {
                return Err(ManagerError::Zero { option });
            }
        }
        if let Some(threads) = options.threads.filter(|threads| *threads > MAX_THREADS) {
            return Err(ManagerError::TooManyThreads { threads, max: MAX_THREADS });
        }
        let snapshot = match options.overlay.as_slice() {
            [] => snapshot,
            blocks => snapshot.with_blocks(chain, blocks)?,
        };
        let isa = options.isa.as_deref().map_or_else(Isa::from_env, Isa::named)?;
        let all_cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = options.threads.unwrap_or_else(all_cores);
        let text = |slot: Slot| {
            let pinned = snapshot.slots().get(&slot);
            pinned.map(|pinned| chain.payload(&pinned.block)).transpose()
        };
        let vocab_size = snapshot.spec().vocab_size;
        let tokenizer =
            text(Slot::Tokenizer)?.map(|json| Tokenizer::from_json(&json, vocab_size)).transpose()?;
        let chat_templates = ChatTemplates::read(
            text(Slot::TokenizerConfig)?.as_deref(),
            text(Slot::SpecialTokensMap)?.as_deref(),
            text(Slot::ChatTemplate)?.as_deref(),
        );
        let record = match chain.dir().filter(|_| options.trust_verified) {
            Some(dir) => Some(Arc::new(TrustRecord::open(dir).map_err(ChainError::from)?)),
            None => None,
        };
        let block = snapshot.model_block(chain)?;
        let usage_dir = chain.dir().filter(|_| options.persist_usage).map(|dir| dir.join(USAGE_FOLDER));
        let payloads = Arc::clone(chain.payloads());
        Ok(Self(Arc::new(Model {
            block,
            decoder: decoder(&snapshot, &payloads, record.as_ref(), isa, threads)?,
            usage: usage_tracker(&snapshot, block, usage_dir.as_deref()),
            snapshot,
            tokenizer,
            chat_templates,
            kv_cache: options.kv_cache,
            prefill_chunk: options.prefill_chunk,
            payloads,
            record,
            usage_dir,
        })))
    }

    /// Continues a prompt.
    ///
    /// # Errors
    ///
    /// [`ManagerError`]: options out of range, a prompt that the context has no room for, a missing
    /// or damaged block.
    pub fn generate(
        &self,
        prompt: impl Into<Prompt>,
        options: &GenerateOptions,
    ) -> Result<Generation, ManagerError> {
        self.stream(prompt, options)?.complete()
    }

    /// As [`MoEModelManager::generate`], piece by piece.
    ///
    /// # Errors
    ///
    /// As [`MoEModelManager::generate`]; what fails later comes out of the stream.
    pub fn stream(
        &self,
        prompt: impl Into<Prompt>,
        options: &GenerateOptions,
    ) -> Result<Stream<'static>, ManagerError> {
        self.session().into_stream(prompt.into(), options)
    }

    /// Continues several prompts beside each other. Each result is what the prompt alone would give.
    ///
    /// # Errors
    ///
    /// As [`MoEModelManager::generate`]; one bad prompt refuses the batch.
    pub fn generate_batch(
        &self,
        prompts: impl IntoIterator<Item = impl Into<Prompt>>,
        options: &GenerateOptions,
    ) -> Result<Vec<Generation>, ManagerError> {
        session::generate_batch(&self.0, prompts.into_iter().map(Into::into).collect(), options)
    }

    /// A conversation that keeps its KV cache.
    pub fn session(&self) -> Session {
        Session::new(Arc::clone(&self.0))
    }

    /// Answers a conversation, written by the model's chat template up to where the answer starts.
    ///
    /// # Errors
    ///
    /// As [`MoEModelManager::generate`], and those of the template.
    pub fn chat(
        &self,
        request: &ChatRequest<'_>,
        options: &GenerateOptions,
    ) -> Result<Generation, ManagerError> {
        self.chat_stream(request, options)?.complete()
    }

    /// As [`MoEModelManager::chat`], piece by piece.
    ///
    /// # Errors
    ///
    /// As [`MoEModelManager::chat`].
    pub fn chat_stream(
        &self,
        request: &ChatRequest<'_>,
        options: &GenerateOptions,
    ) -> Result<Stream<'static>, ManagerError> {
        let text = self.chat_prompt(&ChatRequest { add_generation_prompt: true, ..request.clone() })?;
        // The template wrote the special tokens already.
        let tokens = self.0.tokenizer()?.encode(&text, false)?;
        self.stream(tokens, options)
    }

    /// What the model's chat template makes of a conversation.
    ///
    /// # Errors
    ///
    /// Those of the template.
    pub fn chat_prompt(&self, request: &ChatRequest<'_>) -> Result<String, ManagerError> {
        Ok(self.0.chat_templates.render(request)?)
    }

    /// Logits of every position, (tokens, vocab_size), row-major.
    ///
    /// # Errors
    ///
    /// [`ManagerError`]: no or unknown tokens, more than the context holds, a damaged block.
    pub fn logits(&self, tokens: &[u32]) -> Result<Vec<f32>, ManagerError> {
        let model = &*self.0;
        let spec = model.snapshot.spec();
        let capacity = spec.max_position_embeddings;
        if tokens.is_empty() {
            return Err(ManagerError::EmptyPrompt);
        }
        if tokens.len() > capacity {
            return Err(ManagerError::ContextFull { prompt_tokens: tokens.len(), max_tokens: 0, capacity });
        }
        model.check_tokens(tokens)?;
        let mut cache = KvCache::new(spec, model.kv_cache);
        let mut all = Vec::new();
        for chunk in tokens.chunks(model.prefill_chunk) {
            let mut steps = [Step { tokens: chunk, cache: &mut cache, logits: Logits::All }];
            let output = model.decoder.forward(&mut steps);
            let output = output.map_err(|error| model.snapshot.name_block(error))?;
            all.extend(output.logits.into_iter().flatten());
        }
        Ok(all)
    }

    /// Tokens of a text, with those that every text of the model starts with.
    ///
    /// # Errors
    ///
    /// [`ManagerError::NoTokenizer`], or the tokenizer's own.
    pub fn tokenize(&self, text: &str) -> Result<Vec<u32>, ManagerError> {
        Ok(self.0.tokenizer()?.encode(text, true)?)
    }

    /// Text of tokens, without special tokens.
    ///
    /// # Errors
    ///
    /// [`ManagerError::NoTokenizer`], or the tokenizer's own.
    pub fn detokenize(&self, tokens: &[u32]) -> Result<String, ManagerError> {
        Ok(self.0.tokenizer()?.decode(tokens, true)?)
    }

    /// How many tokens a text is.
    ///
    /// # Errors
    ///
    /// As [`MoEModelManager::tokenize`].
    pub fn count_tokens(&self, text: &str) -> Result<usize, ManagerError> {
        Ok(self.0.tokenizer()?.count(text, true)?)
    }

    /// The tokenizer, where the model has one.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.0.tokenizer.as_ref()
    }

    /// The model's chat templates and special tokens.
    pub fn chat_templates(&self) -> &ChatTemplates {
        &self.0.chat_templates
    }

    /// The model block; of a snapshot in memory the one it would be published as.
    pub fn model(&self) -> &BlockHash {
        &self.0.block
    }

    /// Spec and slots.
    pub fn snapshot(&self) -> &Snapshot {
        &self.0.snapshot
    }

    /// Which experts work, how long they take and which work together.
    pub fn usage(&self) -> &UsageTracker {
        &self.0.usage
    }

    /// What was verified, mapped and touched so far.
    pub fn residency(&self) -> ResidencyReport {
        self.0.decoder.residency()
    }

    /// Name of the instruction set that computes.
    pub fn isa(&self) -> &'static str {
        self.0.decoder.isa().name()
    }

    /// Threads that compute.
    pub fn threads(&self) -> usize {
        self.0.decoder.threads()
    }

    /// Element type of KV caches.
    pub fn kv_cache(&self) -> KvDType {
        self.0.kv_cache
    }
}

impl Model {
    fn tokenizer(&self) -> Result<&Tokenizer, ManagerError> {
        self.tokenizer.as_ref().ok_or(ManagerError::NoTokenizer)
    }

    fn check_tokens(&self, tokens: &[u32]) -> Result<(), ManagerError> {
        let vocab_size = self.snapshot.spec().vocab_size;
        match tokens.iter().find(|&&token| token as usize >= vocab_size) {
            Some(&token) => Err(ManagerError::Model(ModelError::UnknownToken { token, vocab_size })),
            None => Ok(()),
        }
    }

    /// Counts what a step used.
    fn record_usage(&self, routing: &[LayerRouting]) {
        for routing in routing {
            let layer = routing.layer as u32;
            let mut uses: Vec<ExpertUse> = (routing.nanos.iter())
                .map(|&(expert, nanos)| ExpertUse { expert, tokens: 0, weight_sum: 0.0, nanos })
                .collect();
            for (expert, weight) in routing.experts.iter().zip(&routing.weights) {
                if let Ok(index) = uses.binary_search_by_key(expert, |used| used.expert) {
                    uses[index].tokens += 1;
                    uses[index].weight_sum += weight;
                }
            }
            self.usage.record(layer, &uses);
            self.usage.record_together(layer, &routing.experts, routing.experts_per_token);
        }
    }

    /// The result of a job that is over.
    fn generation(&self, job: Job, context: &Context, options: &GenerateOptions) -> Generation {
        let finish_reason = job.finish_reason.unwrap_or(FinishReason::Cancelled);
        let (prompt, output) = job.tokens.split_at(job.prompt_len);
        let sampling = options.sampling.effective();
        // How far a prompt was read when it was cancelled is chance, so it is no part of a receipt.
        let used = if output.is_empty() { BTreeSet::new() } else { context.used_slots(self) };
        let blocks = used.into_iter().filter_map(|slot| {
            let pinned = self.snapshot.slots().get(&slot)?;
            Some((slot.to_string(), pinned.block))
        });
        let claim = Claim {
            numerics_version: NUMERICS_VERSION,
            model: self.block,
            snapshot: self.snapshot.root(),
            spec: *self.snapshot.spec_block(),
            prompt_tokens: prompt.to_vec(),
            options: ReceiptOptions {
                temperature: sampling.temperature,
                top_k: sampling.top_k,
                top_p: sampling.top_p,
                min_p: sampling.min_p,
                repetition_penalty: sampling.repetition_penalty,
                seed: sampling.seed,
                max_tokens: job.max_tokens as u64,
                stop: options.stop.clone(),
                stop_token_ids: job.stop_token_ids.clone(),
                kv_cache: self.kv_cache,
                logprobs: options.logprobs.map(|count| u32::try_from(count).unwrap_or(u32::MAX)),
            },
            output_tokens: output.to_vec(),
            text: self.tokenizer.is_some().then(|| job.text.clone()),
            finish_reason,
            logits: job.digest(),
            blocks: blocks.collect(),
        };
        Generation {
            text: job.text.clone(),
            tokens: output.to_vec(),
            prompt_tokens: job.prompt_len,
            finish_reason,
            logprobs: job.logprobs,
            receipt: Receipt::new(claim),
        }
    }
}
