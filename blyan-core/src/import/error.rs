//! Owns [`ImportError`] and [`ExportError`].

use std::io;
use std::path::PathBuf;

use super::gguf::GgufError;
use crate::chain::ChainError;
use crate::chat::ChatError;
use crate::dtype::Shape;
use crate::format::{ManifestError, SpecError};
use crate::hash::BlockHash;
use crate::tensor::TensorError;

/// Most names that the text of an error lists; its field has all.
const MAX_LISTED: usize = 10;

/// Most characters of each.
const MAX_NAME_CHARS: usize = 200;

/// A folder or GGUF file that cannot be imported. Nothing was appended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// A file or folder that cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// What was read.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A folder with nothing in it.
    #[error("{} is empty: expected config.json and model.safetensors", dir.display())]
    EmptyFolder {
        /// The folder.
        dir: PathBuf,
    },
    /// A file that every checkpoint has is not there.
    #[error("{} has no {file}", dir.display())]
    MissingFile {
        /// The folder.
        dir: PathBuf,
        /// Name of the file.
        file: &'static str,
    },
    /// Weights are there, but only pickled: reading them could run code.
    #[error("{file} is a pickle, which can run code when read: convert the checkpoint to safetensors")]
    PickledWeights {
        /// Name of the first such file.
        file: String,
    },
    /// Both a single file and an index of several.
    #[error("model.safetensors and model.safetensors.index.json describe different weights: remove one")]
    AmbiguousWeights,
    /// A file that is larger than such a file ever is.
    #[error("{file} has {len_bytes} bytes: at most {max} are read")]
    FileTooLarge {
        /// Name of the file.
        file: String,
        /// Its length.
        len_bytes: u64,
        /// Largest length accepted.
        max: u64,
    },
    /// A file that is not the JSON it should be, or has a key twice.
    #[error("{file}: {reason}")]
    Json {
        /// Name of the file.
        file: String,
        /// What the parser said.
        reason: String,
    },
    /// A text that is not UTF-8.
    #[error("{file} is not UTF-8")]
    NotUtf8 {
        /// Name of the file.
        file: String,
    },
    /// A chat template that does not compile.
    #[error("{file}: {source}: mend or remove the template")]
    ChatTemplate {
        /// Name of the file; of a GGUF file's the one that a folder would have.
        file: &'static str,
        /// What is wrong.
        source: ChatError,
    },
    /// A `model_type` that is not supported.
    #[error(
        "config.json: model_type {model_type} is not supported: expected one of mixtral, olmoe, qwen2_moe, qwen3_moe, llama, qwen3, qwen2"
    )]
    UnknownArchitecture {
        /// Its value.
        model_type: String,
    },
    /// A key that must be there.
    #[error("config.json: {key} is missing")]
    MissingKey {
        /// Path of the key.
        key: String,
    },
    /// A key whose value makes no sense.
    #[error("{file}: {key} = {value}: expected {expected}")]
    InvalidValue {
        /// Name of the file.
        file: String,
        /// Path of the key.
        key: String,
        /// Its value.
        value: String,
        /// What is expected.
        expected: &'static str,
    },
    /// A key that asks for arithmetic that is not supported.
    #[error("config.json: {key} = {value} is not supported: {reason}")]
    Unsupported {
        /// Path of the key.
        key: String,
        /// Its value.
        value: String,
        /// What is supported instead.
        reason: &'static str,
    },
    /// A key that is not known, so that it may change the arithmetic.
    #[error(
        "config.json: {key} = {value} is unknown and may change the arithmetic: if it does not, name it in ignore_config_keys"
    )]
    UnknownKey {
        /// Path of the key.
        key: String,
        /// Its value.
        value: String,
    },
    /// Two spellings of one thing with different values.
    #[error("config.json: {key} = {value} contradicts {other} = {other_value}")]
    ConflictingKeys {
        /// Path of one key.
        key: String,
        /// Its value.
        value: String,
        /// Path of the other.
        other: String,
        /// Its value.
        other_value: String,
    },
    /// Keys that make sense alone but not together.
    #[error("config.json describes no model: {0}")]
    Spec(#[from] SpecError),
    /// An index that names a file outside of the folder, or none at all.
    #[error("model.safetensors.index.json: {name:?} is no plain file name ending in .safetensors")]
    ShardName {
        /// The name.
        name: String,
    },
    /// Files that the index names are not there.
    #[error("model.safetensors.index.json names files that are missing: {}", listed(names))]
    MissingShards {
        /// All of their names.
        names: Vec<String>,
    },
    /// The index and a file disagree about a tensor.
    #[error(
        "tensor {tensor:?}: model.safetensors.index.json says {}, it is found in {}",
        or_none(indexed.as_deref()), or_none(found.as_deref())
    )]
    ShardMismatch {
        /// Name of the tensor.
        tensor: String,
        /// File that the index names, if any.
        indexed: Option<String>,
        /// File that has it, if any.
        found: Option<String>,
    },
    /// A weight file, or a tensor in it, that is refused.
    #[error("{file}: {source}")]
    Tensor {
        /// Name of the file.
        file: String,
        /// What is wrong.
        source: TensorError,
    },
    /// Tensors that the config promises are not there.
    #[error("the checkpoint lacks {} tensors: {}", names.len(), listed(names))]
    MissingTensors {
        /// All of their names.
        names: Vec<String>,
    },
    /// Tensors that no part of the model uses: leaving them out may change what it computes.
    #[error("the checkpoint has {} tensors that the model does not use: {}", names.len(), listed(names))]
    UnexpectedTensors {
        /// All of their names.
        names: Vec<String>,
    },
    /// A tensor of another shape than the config promises.
    #[error("{file}: tensor {tensor:?} has shape {actual}, the configuration needs {expected}")]
    TensorShape {
        /// Name of the file.
        file: String,
        /// Name of the tensor.
        tensor: String,
        /// Its shape.
        actual: Shape,
        /// The shape needed.
        expected: Shape,
    },
    /// `tie_word_embeddings`, but the head is not the embedding.
    #[error("config.json has tie_word_embeddings, but lm_head.weight differs from model.embed_tokens.weight")]
    TiedHeadDiffers,
    /// A GGUF file that is refused.
    #[error("{file}: {source}")]
    Gguf {
        /// Name of the file.
        file: String,
        /// What is wrong.
        source: GgufError,
    },
    /// The chain refused a block.
    #[error(transparent)]
    Chain(Box<ChainError>),
    /// The caller asked to stop.
    #[error("the import was cancelled; nothing was appended")]
    Cancelled,
}

fn or_none(file: Option<&str>) -> &str {
    file.unwrap_or("no file")
}

/// The first of some names, and how many more there are.
fn listed(names: &[String]) -> String {
    let shortened = |name: &String| match name.char_indices().nth(MAX_NAME_CHARS) {
        Some((at, _)) => format!("{}…", name.get(..at).unwrap_or_default()),
        None => name.clone(),
    };
    let first = names.iter().take(MAX_LISTED).map(shortened).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(MAX_LISTED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// A model that cannot be exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// A file or folder that cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Io {
        /// What was written.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Files of no bytes were asked for.
    #[error("max_shard_bytes is 0: expected at least 1")]
    NoShardBytes,
    /// The folder has something in it.
    #[error("{} is not empty: choose another folder, or ask to overwrite it", dir.display())]
    NotEmpty {
        /// The folder.
        dir: PathBuf,
    },
    /// The block is no model.
    #[error("block {block} is a {kind}, no model: name a model block")]
    NotAModel {
        /// The block asked for.
        block: BlockHash,
        /// Its kind.
        kind: String,
    },
    /// The manifest of the model block.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The spec of the model.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A slot without a block.
    #[error("the model has no block in {slot}")]
    MissingSlot {
        /// Name of the slot.
        slot: String,
    },
    /// A weight block's payload.
    #[error("{slot}: {source}")]
    Tensor {
        /// Name of the slot.
        slot: String,
        /// What is wrong.
        source: TensorError,
    },
    /// A model that its architecture's config.json cannot express.
    #[error("a {architecture} config.json cannot express this model: {reason}")]
    NotExpressible {
        /// The architecture.
        architecture: &'static str,
        /// What it lacks words for.
        reason: &'static str,
    },
    /// The chain could not give a block.
    #[error(transparent)]
    Chain(Box<ChainError>),
    /// The caller asked to stop.
    #[error("the export was cancelled")]
    Cancelled,
}

impl From<ChainError> for ImportError {
    fn from(error: ChainError) -> Self {
        Self::Chain(Box::new(error))
    }
}

impl From<ChainError> for ExportError {
    fn from(error: ChainError) -> Self {
        Self::Chain(Box::new(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_list_the_first_names_and_count_the_rest() {
        let names = |count: usize| (0..count).map(|n| format!("t{n}")).collect::<Vec<_>>();
        let text = ImportError::MissingTensors { names: names(2) }.to_string();
        assert_eq!(text, "the checkpoint lacks 2 tensors: t0, t1");
        let ten = "t0, t1, t2, t3, t4, t5, t6, t7, t8, t9";
        let text = ImportError::UnexpectedTensors { names: names(10) }.to_string();
        assert_eq!(text, format!("the checkpoint has 10 tensors that the model does not use: {ten}"));
        let text = ImportError::MissingTensors { names: names(12_345) }.to_string();
        assert_eq!(text, format!("the checkpoint lacks 12345 tensors: {ten} and 12335 more"));
        let text = ImportError::MissingShards { names: vec!["é".repeat(1 << 20); 1000] }.to_string();
        assert!(text.len() < 8 << 10 && text.ends_with("… and 990 more"), "{}", text.len());
    }
}
