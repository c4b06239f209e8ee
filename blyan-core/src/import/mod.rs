//! Checkpoint folders and GGUF files → blocks, and folders back.
//!
//! [`checkpoint`] reads a folder of Hugging Face's layout or a GGUF file, checks all of it that can be checked without
//! reading weights, then builds one payload at a time: memory stays near the largest block. All blocks
//! are one transaction, so an import that fails or is cancelled leaves the chain as it was.

mod added_tokens;
mod config;
mod delta;
mod error;
pub mod export;
mod folder;
mod gguf;
mod json;
mod names;
mod payload;
mod plan;
mod texts;
pub(crate) mod validate;
mod weights;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

pub use self::error::{ExportError, ImportError};
use self::folder::Folder;
pub use self::gguf::GgufError;
use self::plan::PlannedBlock;
pub(crate) use self::plan::target as stored_dtype;
pub use self::validate::InvalidBlock;
use self::weights::Weights;
use crate::chain::{self, Appended, Chain, Draft, Writer};
use crate::dtype::{DType, UnknownDType};
use crate::format::{BlockKind, ChainId, Header, Manifest, ModelSpec, ParentRole, Slot};
use crate::hash::{BlockHash, PayloadHash, SnapshotRoot};
use crate::kernels::FpEnv;

/// How to import a checkpoint.
#[derive(Clone, Default)]
pub struct ImportOptions<'a> {
    /// Type of the projections: `None` keeps the checkpoint's, and makes F16 of ggml's quantized types.
    /// A shorter float also rounds the
    /// embedding. Norms, biases and routers are always kept. docs/format.md says why.
    pub dtype: Option<DType>,
    /// What rotary frequencies are rounded to: `None` for F32, as a loaded checkpoint has them, or
    /// BF16 for a model that was made or measured as a module cast to it as a whole. It is part of
    /// the spec, so it makes another model; no key of config.json says it, so an exported folder has to
    /// be imported with it again.
    pub rope_frequencies: Option<DType>,
    /// Whether to append nothing, only to report what would be.
    pub dry_run: bool,
    /// Keys of config.json that are unknown but known by the caller not to change the arithmetic; a
    /// dot separates nested keys. Of a GGUF file, keys of its metadata, which then count as absent.
    pub ignore_config_keys: Vec<String>,
    /// Called after each block, on the calling thread.
    pub progress: Option<&'a (dyn Fn(ImportProgress) + Sync)>,
    /// Set to stop; the import then ends with [`ImportError::Cancelled`].
    pub cancel: Option<&'a AtomicBool>,
}

/// The dtype that users name `f32`, `bf16`, `f16`, `fp8`, `int8` or `int4`.
///
/// # Errors
///
/// [`UnknownDType`] for any other name.
pub fn dtype_of_option(name: &str) -> Result<DType, UnknownDType> {
    let names = [
        ("f32", DType::F32),
        ("bf16", DType::BF16),
        ("f16", DType::F16),
        ("fp8", DType::F8E4M3),
        ("int8", DType::I8),
        ("int4", DType::I4),
    ];
    let known = names.into_iter().find(|(known, _)| *known == name);
    known.map(|(_, dtype)| dtype).ok_or_else(|| UnknownDType { name: name.chars().take(80).collect() })
}

/// How far an import is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ImportProgress {
    /// Blocks built.
    pub blocks: u64,
    /// Blocks to build.
    pub total_blocks: u64,
    /// Bytes of payloads built.
    pub payload_bytes: u64,
    /// Bytes of payloads to build.
    pub total_payload_bytes: u64,
}

/// What an import appended, or would append.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImportReport {
    /// The model block.
    pub model: BlockHash,
    /// The spec block.
    pub spec: BlockHash,
    /// Root of the model's snapshot.
    pub root: SnapshotRoot,
    /// Blocks that the chain did not hold.
    pub blocks_new: u64,
    /// Blocks that it held.
    pub blocks_known: u64,
    /// Bytes of payloads that were written: new ones, and damaged ones repaired.
    pub payload_bytes_new: u64,
    /// Bytes of payloads that were there already, or appeared twice.
    pub payload_bytes_known: u64,
    /// Files of the folder that are no part of the model.
    pub ignored_files: Vec<String>,
}

/// Imports a checkpoint, a folder or a GGUF file: appends its spec, one block for each slot, and a model
/// block. Of a GGUF that is split into several files, the first is named.
///
/// The same checkpoint gives the same blocks on every machine, whatever the folder is called. A
/// checkpoint that is in the chain already appends nothing; payloads found damaged are repaired.
///
/// # Errors
///
/// [`ImportError`]; nothing was appended then.
pub fn checkpoint(
    chain: &Chain,
    path: impl AsRef<Path>,
    options: &ImportOptions<'_>,
) -> Result<ImportReport, ImportError> {
    let _env = FpEnv::enter();
    let source = Source::open(path.as_ref(), options)?;
    let mut sink = Sink::new(chain, options.dry_run)?;
    let mut import = Import::new(&source, options);

    let spec_draft = Draft::new(ChainId::Meta, BlockKind::SPEC, "spec", source.spec.to_canonical_json());
    let spec = import.append(&mut sink, spec_draft)?;
    let mut slots = BTreeMap::new();
    for block in &source.blocks {
        let payload = block.build(&source.weights, sink.buffer(), &|| import.check_cancelled())?;
        let name = block.slot.to_string();
        let draft = Draft::new(ChainId::Parameter, block.slot.kind(), name, payload);
        let draft = draft.with_parent(spec, ParentRole::Dependency);
        slots.insert(block.slot, import.append(&mut sink, draft)?);
    }
    for (slot, payload) in &source.texts {
        let draft = Draft::new(ChainId::Parameter, slot.kind(), slot.to_string(), payload.as_slice());
        slots.insert(*slot, import.append(&mut sink, draft)?);
    }
    let manifest = Manifest { spec, slots };
    let mut draft = Draft::new(ChainId::Meta, BlockKind::MODEL, "model", manifest.to_canonical_json())
        .with_parent(spec, ParentRole::Dependency);
    for block in manifest.slots.values() {
        draft = draft.with_parent(*block, ParentRole::Dependency);
    }
    let model = import.append(&mut sink, draft)?;
    import.check_cancelled()?;
    sink.commit()?;
    Ok(ImportReport {
        model,
        spec,
        root: manifest.root(),
        blocks_new: import.blocks_new,
        blocks_known: import.progress.blocks - import.blocks_new,
        payload_bytes_new: import.payload_bytes_new,
        payload_bytes_known: import.progress.payload_bytes - import.payload_bytes_new,
        ignored_files: source.ignored_files,
    })
}

/// A checkpoint whose blocks are built one at a time, as [`checkpoint`] builds them.
pub(crate) struct Slots<'a> {
    source: Source,
    cancel: Option<&'a AtomicBool>,
}

impl<'a> Slots<'a> {
    /// Reads everything but the weights. Of the options, those count that decide what a block holds.
    pub(crate) fn open(path: &Path, options: &ImportOptions<'a>) -> Result<Self, ImportError> {
        Ok(Self { source: Source::open(path, options)?, cancel: options.cancel })
    }

    /// Payload of a weight block; none for a slot that the model does not have.
    pub(crate) fn payload(&self, slot: Slot) -> Result<Option<Vec<u8>>, ImportError> {
        let _env = FpEnv::enter();
        let block = self.source.blocks.iter().find(|block| block.slot == slot);
        let check = || check_cancelled(self.cancel);
        block.map(|block| block.build(&self.source.weights, Vec::new(), &check)).transpose()
    }
}

fn check_cancelled(cancel: Option<&AtomicBool>) -> Result<(), ImportError> {
    match cancel {
        Some(cancel) if cancel.load(Ordering::Relaxed) => Err(ImportError::Cancelled),
        _ => Ok(()),
    }
}

/// A checkpoint, read and checked except for the weights themselves.
struct Source {
    spec: ModelSpec,
    weights: Weights,
    blocks: Vec<PlannedBlock>,
    texts: Vec<(Slot, Vec<u8>)>,
    ignored_files: Vec<String>,
}

impl Source {
    fn open(path: &Path, options: &ImportOptions<'_>) -> Result<Self, ImportError> {
        let mut source = if gguf::is_gguf(path)? {
            let gguf::Model { spec, weights, texts } = gguf::open(path, &options.ignore_config_keys)?;
            Self { spec, weights, blocks: Vec::new(), texts, ignored_files: Vec::new() }
        } else {
            Self::open_folder(path, options)?
        };
        texts::check_templates(&source.texts)?;
        source.spec.rope.frequency_dtype = options.rope_frequencies.unwrap_or(DType::F32);
        source.spec.check()?;
        source.blocks = plan::plan(&source.spec, &source.weights, options.dtype)?;
        Ok(source)
    }

    fn open_folder(dir: &Path, options: &ImportOptions<'_>) -> Result<Self, ImportError> {
        let mut folder = Folder::open(dir)?;
        let config = folder
            .read_json("config.json", texts::MAX_CONFIG_BYTES)?
            .ok_or_else(|| ImportError::MissingFile { dir: dir.to_owned(), file: "config.json" })?;
        let mut texts = texts::read(&mut folder)?;
        let spec = config::read(&config, texts.generation_config.as_ref(), &options.ignore_config_keys)?;
        texts.complete_tokenizer(spec.vocab_size)?;
        let weights = folder.weights()?;
        let ignored_files = folder.ignored();
        Ok(Self { spec, weights, blocks: Vec::new(), texts: texts.slots, ignored_files })
    }
}

/// Counts what is appended.
struct Import<'a> {
    options: &'a ImportOptions<'a>,
    progress: ImportProgress,
    blocks_new: u64,
    payload_bytes_new: u64,
}

impl<'a> Import<'a> {
    fn new(source: &Source, options: &'a ImportOptions<'a>) -> Self {
        let texts = source.texts.iter().map(|(_, bytes)| bytes.len() as u64);
        let weights = source.blocks.iter().map(|block| block.layout.len_bytes() as u64);
        let progress = ImportProgress {
            total_blocks: 2 + source.texts.len() as u64 + source.blocks.len() as u64,
            // Spec and model block are small beside these, and the latter's length is not known yet.
            total_payload_bytes: texts.chain(weights).sum(),
            ..ImportProgress::default()
        };
        Self { options, progress, blocks_new: 0, payload_bytes_new: 0 }
    }

    fn check_cancelled(&self) -> Result<(), ImportError> {
        check_cancelled(self.options.cancel)
    }

    fn append(&mut self, sink: &mut Sink<'_>, draft: Draft) -> Result<BlockHash, ImportError> {
        self.check_cancelled()?;
        let len_bytes = draft.payload.len() as u64;
        let appended = sink.append(draft)?;
        self.blocks_new += u64::from(appended.new_block);
        if appended.new_payload {
            self.payload_bytes_new += len_bytes;
        }
        self.progress.blocks += 1;
        self.progress.payload_bytes += len_bytes;
        self.progress.total_payload_bytes =
            self.progress.total_payload_bytes.max(self.progress.payload_bytes);
        if let Some(progress) = self.options.progress {
            progress(self.progress);
        }
        Ok(appended.hash)
    }
}

/// Where blocks go.
pub(crate) enum Sink<'a> {
    Writer(Box<Writer>),
    /// Only asks what the writer would do.
    Dry {
        chain: &'a Chain,
        seen: BTreeSet<PayloadHash>,
    },
}

impl<'a> Sink<'a> {
    pub(crate) fn new(chain: &'a Chain, dry_run: bool) -> Result<Self, chain::ChainError> {
        Ok(match dry_run {
            true => Self::Dry { chain, seen: BTreeSet::new() },
            false => Self::Writer(Box::new(chain.writer()?)),
        })
    }

    /// Memory for the next payload, with whatever is in it.
    fn buffer(&self) -> Vec<u8> {
        match self {
            Self::Writer(writer) => writer.buffer(),
            Self::Dry { .. } => Vec::new(),
        }
    }

    pub(crate) fn append(&mut self, draft: Draft) -> Result<Appended, chain::ChainError> {
        match self {
            Self::Writer(writer) => writer.append(draft),
            Self::Dry { chain, seen } => {
                let header = draft.header()?;
                let payload = header.payload.hash;
                let hash = header
                    .hash()
                    .map_err(|source| chain::ChainError::Header { name: draft.name.clone(), source })?;
                let new_block = !chain.contains(&hash)?;
                let new_payload = match chain::is_inline(&header) {
                    // Lies beside its block, in the index.
                    true => new_block,
                    false => seen.insert(payload) && !holds_file(chain, &header)?,
                };
                Ok(Appended { hash, new_block, new_payload })
            }
        }
    }

    pub(crate) fn commit(self) -> Result<(), chain::ChainError> {
        match self {
            Self::Writer(writer) => writer.commit(),
            Self::Dry { .. } => Ok(()),
        }
    }
}

/// Whether the chain holds a payload's file, intact.
fn holds_file(chain: &Chain, header: &Header) -> Result<bool, chain::ChainError> {
    let payload = &header.payload;
    Ok(chain.payloads().is_intact(&payload.hash, payload.len_bytes)?)
}
