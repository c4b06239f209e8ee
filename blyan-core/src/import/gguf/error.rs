//! Owns [`GgufError`].

use super::types::SUPPORTED;
use crate::dtype::Shape;
use crate::format::SpecError;

/// A GGUF file that cannot be imported.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// Other bytes than a GGUF file starts with.
    #[error(
        "this is no GGUF file: it starts with {magic:02x?}; expected a .gguf file or a checkpoint folder"
    )]
    Magic {
        /// Its first four bytes.
        magic: [u8; 4],
    },
    /// A version of the format that is not read.
    #[error("GGUF version {version} is not supported, only 2 and 3: convert the model anew")]
    Version {
        /// The version.
        version: u32,
    },
    /// A file whose numbers have their bytes the other way around.
    #[error(
        "the file is big-endian (its version is {version} with the bytes reversed), only little-endian is read: convert it with gguf_convert_endian.py"
    )]
    BigEndian {
        /// The version.
        version: u32,
    },
    /// The file ends inside its header.
    #[error("the file ends within {what}: it is cut off")]
    Truncated {
        /// What was read.
        what: String,
    },
    /// A header that is longer than any model's.
    #[error("{what} would make the header longer than the {max} bytes that are read")]
    TooLong {
        /// What was read.
        what: String,
        /// Longest header that is read.
        max: u64,
    },
    /// A header whose parts contradict each other or the format.
    #[error("{what}: {reason}")]
    Header {
        /// What was read.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor's type that is not supported.
    #[error("tensor {tensor:?} has type {found}: expected one of {}", SUPPORTED)]
    Type {
        /// Name of the tensor.
        tensor: String,
        /// Name of its type, or its number.
        found: String,
    },
    /// A tensor whose dimensions or place make no sense.
    #[error("tensor {tensor:?} of shape {shape} at offset {offset}: {reason}")]
    Tensor {
        /// Name of the tensor.
        tensor: String,
        /// Its dimensions, outermost first.
        shape: Shape,
        /// Its offset in the data section.
        offset: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// An architecture that is not supported.
    #[error(
        "general.architecture = {architecture:?} is not supported: expected one of llama, qwen2, qwen3, olmoe, qwen2moe, qwen3moe"
    )]
    UnknownArchitecture {
        /// Its name.
        architecture: String,
    },
    /// A key that must be there.
    #[error("the metadata lacks {key}")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A key whose value makes no sense.
    #[error("{key} = {value}: expected {expected}")]
    InvalidValue {
        /// The key.
        key: String,
        /// Its value, shortened.
        value: String,
        /// What is expected.
        expected: String,
    },
    /// A key that asks for something that is not supported.
    #[error("{key} = {value} is not supported: {reason}")]
    Unsupported {
        /// The key.
        key: String,
        /// Its value, shortened.
        value: String,
        /// What is supported instead.
        reason: &'static str,
    },
    /// A key that is not known, so that it may change what the model computes.
    #[error(
        "{key} = {value} is unknown and may change the arithmetic or the tokens: if it does not, name it in ignore_config_keys"
    )]
    UnknownKey {
        /// The key.
        key: String,
        /// Its value, shortened.
        value: String,
    },
    /// Keys that make sense alone but not together.
    #[error("the metadata describes no model: {0}")]
    Spec(#[from] SpecError),
    /// One of several files, but not the first.
    #[error("this is part {part} of {parts}: import the first part, {first}")]
    NotFirstPart {
        /// Its number, from 1.
        part: u64,
        /// Number of files.
        parts: u64,
        /// Name of the first file.
        first: String,
    },
    /// Parts that do not belong together.
    #[error("the parts do not belong together: {reason}")]
    Parts {
        /// What is wrong.
        reason: String,
    },
    /// Merges or tokens that make no tokenizer.
    #[error("tokenizer: {reason}")]
    Tokenizer {
        /// What is wrong.
        reason: String,
    },
}
