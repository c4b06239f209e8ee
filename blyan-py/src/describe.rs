//! Owns what each [`Failure`] is in Python: its class in `blyan.exceptions`, its stable code, its
//! message with all causes, and its fields.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use blyan_core::chain::{BundleError, ChainError, Damage};
use blyan_core::hash::{BlockHash, PayloadHash};
use blyan_core::import::{ExportError, GgufError, ImportError};
use blyan_core::kernels::KernelError;
use blyan_core::manager::ManagerError;
use blyan_core::manager::chat::ChatError;
use blyan_core::manager::delta::DeltaBlockError;
use blyan_core::manager::receipt::ReceiptError;
use blyan_core::manager::sampling::SamplingError;
use blyan_core::manager::text::{StopError, TextError};
use blyan_core::model::ModelError;
use blyan_core::storage::StorageError;
use blyan_core::tensor::TensorError;
use blyan_core::usage::UsageError;
use blyan_learn::LearnError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::describe_evidence::{evolve, refused_for};
use crate::failure::Failure;
use crate::values;

/// A field of an error.
pub(crate) enum Field {
    Text(String),
    /// As the system spells it: a name that is no UTF-8 comes back as Python's own paths have it.
    Path(PathBuf),
    Int(u64),
    Float(f64),
    Ints(Vec<usize>),
    Texts(Vec<String>),
    Block(BlockHash),
    Blocks(Vec<BlockHash>),
    Payload(PayloadHash),
    Bytes(Vec<u8>),
}

macro_rules! field_from {
    ($($type:ty => |$value:ident| $field:expr),* $(,)?) => {$(
        impl From<$type> for Field {
            fn from($value: $type) -> Self {
                $field
            }
        }
    )*};
}

field_from! {
    &String => |text| Self::Text(text.clone()),
    &&'static str => |text| Self::Text((*text).to_owned()),
    &Option<String> => |text| Self::Text(text.clone().unwrap_or_default()),
    &PathBuf => |path| Self::Path(path.clone()),
    &semver::Version => |version| Self::Text(version.to_string()),
    &blyan_core::Slot => |slot| Self::Text(slot.to_string()),
    &blyan_core::BlockKind => |kind| Self::Text(kind.to_string()),
    &blyan_core::DType => |dtype| Self::Text(dtype.name().to_owned()),
    &blyan_core::Shape => |shape| Self::Ints(shape.dims().to_vec()),
    &char => |letter| Self::Text(letter.to_string()),
    &u8 => |number| Self::Int(u64::from(*number)),
    &u16 => |number| Self::Int(u64::from(*number)),
    &u32 => |number| Self::Int(u64::from(*number)),
    &u64 => |number| Self::Int(*number),
    &usize => |number| Self::Int(*number as u64),
    &f32 => |number| Self::Float(f64::from(*number)),
    &f64 => |number| Self::Float(*number),
    &Vec<String> => |texts| Self::Texts(texts.clone()),
    &Vec<blyan_core::Slot> => |slots| Self::Texts(slots.iter().map(ToString::to_string).collect()),
    &blyan_core::evolve::PublicKey => |key| Self::Text(key.to_string()),
    &BlockHash => |block| Self::Block(*block),
    &Vec<BlockHash> => |blocks| Self::Blocks(blocks.clone()),
    &PayloadHash => |payload| Self::Payload(*payload),
    &[u8; 4] => |bytes| Self::Bytes(bytes.to_vec()),
    &[u8; 32] => |bytes| Self::Bytes(bytes.to_vec()),
}

impl Field {
    fn into_python<'py>(self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Self::Text(text) => text.into_pyobject(py).map(Bound::into_any).map_err(Into::into),
            Self::Path(path) => path.as_os_str().into_pyobject(py).map(Bound::into_any).map_err(Into::into),
            Self::Int(number) => number.into_pyobject(py).map(Bound::into_any).map_err(Into::into),
            Self::Float(number) => number.into_pyobject(py).map(Bound::into_any).map_err(Into::into),
            Self::Ints(numbers) => numbers.into_pyobject(py),
            Self::Texts(texts) => texts.into_pyobject(py),
            Self::Block(block) => values::block_hash(py, &block),
            Self::Blocks(blocks) => {
                let blocks: PyResult<Vec<_>> =
                    blocks.iter().map(|block| values::block_hash(py, block)).collect();
                blocks?.into_pyobject(py)
            }
            Self::Payload(payload) => values::payload_hash(py, &payload),
            Self::Bytes(bytes) => Ok(pyo3::types::PyBytes::new(py, &bytes).into_any()),
        }
    }
}

pub(crate) type Fields = Vec<(&'static str, Field)>;
/// Class, code, fields.
pub(crate) type Description = (&'static str, &'static str, Fields);

/// `fields![block, name]`: the bindings of those names, under their names.
macro_rules! fields {
    ($($name:ident),* $(,)?) => { vec![$((stringify!($name), Field::from($name))),*] };
}
pub(crate) use fields;

fn io_fields(source: &io::Error, path: &std::path::Path) -> Fields {
    let mut fields = vec![("filename", Field::Path(path.to_owned()))];
    if let Some(number) = source.raw_os_error() {
        fields.push(("errno", Field::Int(u64::from(number.unsigned_abs()))));
        fields.push(("strerror", Field::Text(source.to_string())));
    }
    fields
}

/// The error with each of its causes that it does not name itself.
fn message(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

fn storage(error: &StorageError) -> Description {
    match error {
        StorageError::Io { path, source, .. } => ("StorageError", "io", io_fields(source, path)),
        StorageError::Missing { place } => {
            ("ChainNotFoundError", "chain_missing", vec![("filename", Field::from(place))])
        }
        StorageError::Locked => ("ChainLockedError", "locked", vec![]),
        StorageError::NeedsRecovery => ("ChainError", "needs_recovery", vec![]),
        StorageError::ReadOnly => ("ReadOnlyError", "read_only", vec![]),
        StorageError::PayloadMissing { payload } => {
            ("DamagedPayloadError", "payload_missing", fields![payload])
        }
        StorageError::PayloadLength { payload, expected, actual } => {
            ("DamagedPayloadError", "payload_length", fields![payload, expected, actual])
        }
        StorageError::PayloadMismatch { payload, actual } => {
            ("DamagedPayloadError", "payload_mismatch", fields![payload, actual])
        }
        StorageError::IndexDamaged { reason } => ("DamagedIndexError", "index_damaged", fields![reason]),
        StorageError::Index { reason } => ("ChainError", "index", fields![reason]),
        _ => ("ChainError", "storage", vec![]),
    }
}

/// What [`Damage`] adds to the fields of the block.
pub(crate) fn damage_code(damage: &Damage) -> &'static str {
    match damage {
        Damage::HeaderHash { .. } => "header_hash",
        Damage::Header(_) => "header",
        Damage::HeaderMissing => "header_missing",
        Damage::Unreadable { .. } => "unreadable",
        Damage::Entry { .. } => "entry",
        Damage::StrayEntry { .. } => "stray_entry",
        Damage::Height { .. } => "height",
        Damage::MissingParent { .. } => "missing_parent",
        Damage::Payload(StorageError::PayloadMissing { .. }) => "payload_missing",
        Damage::Payload(StorageError::PayloadLength { .. }) => "payload_length",
        Damage::Payload(StorageError::PayloadMismatch { .. }) => "payload_mismatch",
        Damage::Payload(_) => "payload",
        Damage::Signature { .. } => "signature",
        _ => "damage",
    }
}

fn damage_fields(damage: &Damage) -> Fields {
    match damage {
        Damage::HeaderHash { actual } => fields![actual],
        Damage::Unreadable { table, reason } => fields![table, reason],
        Damage::Entry { table } => fields![table],
        Damage::StrayEntry { table, number } => fields![table, number],
        Damage::Height { stored, expected } => fields![stored, expected],
        Damage::MissingParent { parent } => fields![parent],
        Damage::Payload(error) => storage(error).2,
        Damage::Signature { public_key, time_ms } => fields![public_key, time_ms],
        _ => vec![],
    }
}

pub(crate) fn chain(error: &ChainError) -> Description {
    match error {
        ChainError::Storage(error) => storage(error),
        ChainError::Header { name, .. } => ("RefusedBlockError", "header", fields![name]),
        ChainError::NotFound { block } => ("BlockNotFoundError", "not_found", fields![block]),
        ChainError::MissingParent { name, parent } => {
            ("BlockNotFoundError", "missing_parent", fields![name, parent])
        }
        ChainError::Refused { name, kind, source } => {
            let mut all = fields![name, kind];
            all.extend(refused_for(source).map(|reason| ("reason", Field::Text(reason.to_owned()))));
            ("RefusedBlockError", "refused", all)
        }
        ChainError::Signature { block } => ("RefusedBlockError", "signature", fields![block]),
        ChainError::Damaged { block, reason } => {
            let mut all = fields![block];
            all.push(("damage", Field::Text(damage_code(reason).to_owned())));
            all.extend(damage_fields(reason));
            ("DamagedBlockError", "damaged", all)
        }
        ChainError::PayloadCollected { block, payload } => {
            ("PayloadCollectedError", "payload_collected", fields![block, payload])
        }
        ChainError::Bundle(error) => bundle(error),
        ChainError::IndexVersion { found } => ("ChainError", "index_version", fields![found]),
        ChainError::Cancelled => ("Cancelled", "cancelled", vec![]),
        _ => ("ChainError", "chain", vec![]),
    }
}

fn bundle(error: &BundleError) -> Description {
    const CLASS: &str = "InvalidBundleError";
    match error {
        BundleError::Io { path, source, .. } => {
            let mut all = io_fields(source, path);
            if path.as_os_str().is_empty() {
                all.retain(|(name, _)| *name != "filename");
            }
            ("BundleIoError", "io", all)
        }
        BundleError::NotABundle => (CLASS, "not_a_bundle", vec![]),
        BundleError::Version { found } => (CLASS, "bundle_version", fields![found]),
        BundleError::Truncated { len_bytes } => (CLASS, "bundle_truncated", fields![len_bytes]),
        BundleError::Record { tag, offset_bytes } => (CLASS, "bundle_record", fields![tag, offset_bytes]),
        BundleError::Header { offset_bytes, .. } => (CLASS, "bundle_header", fields![offset_bytes]),
        BundleError::Repeated { what, offset_bytes } => {
            (CLASS, "bundle_repeated", fields![what, offset_bytes])
        }
        BundleError::TooMany { what, limit } => (CLASS, "bundle_too_many", fields![what, limit]),
        BundleError::PayloadTooLong { len_bytes, limit_bytes } => {
            (CLASS, "payload_too_long", fields![len_bytes, limit_bytes])
        }
        BundleError::PayloadLength { block, expected, actual } => {
            (CLASS, "payload_length", fields![block, expected, actual])
        }
        BundleError::MissingPayload { block, payload } => (CLASS, "missing_payload", fields![block, payload]),
        BundleError::StrayPayload { payload } => (CLASS, "stray_payload", fields![payload]),
        BundleError::MissingParents { blocks } => (CLASS, "missing_parents", fields![blocks]),
        BundleError::Signature { block } => (CLASS, "signature", fields![block]),
        BundleError::Counts => (CLASS, "bundle_counts", vec![]),
        BundleError::Checksum => (CLASS, "bundle_checksum", vec![]),
        BundleError::Trailing { offset_bytes } => (CLASS, "bundle_trailing", fields![offset_bytes]),
        BundleError::Changed => (CLASS, "bundle_changed", vec![]),
        _ => (CLASS, "bundle", vec![]),
    }
}

pub(crate) fn tensor(error: &TensorError) -> Description {
    const CLASS: &str = "TensorError";
    match error {
        TensorError::Chain(error) => chain(error),
        TensorError::NotWeights { block, kind } => (CLASS, "not_weights", fields![block, kind]),
        TensorError::InBlock { block, source } => {
            let (class, code, mut all) = tensor(source);
            all.push(("block", Field::from(block)));
            (class, code, all)
        }
        TensorError::HeaderTruncated { needed, len_bytes } => {
            (CLASS, "header_truncated", fields![needed, len_bytes])
        }
        TensorError::HeaderTooLarge { len_bytes, max } => {
            (CLASS, "header_too_large", fields![len_bytes, max])
        }
        TensorError::Header { reason } => (CLASS, "tensor_header", fields![reason]),
        TensorError::DuplicateTensor { tensor } => (CLASS, "duplicate_tensor", fields![tensor]),
        TensorError::Offsets { tensor, start, end, reason } => {
            (CLASS, "offsets", fields![tensor, start, end, reason])
        }
        TensorError::Rank { tensor, rank, max } => (CLASS, "rank", fields![tensor, rank, max]),
        TensorError::DType { tensor, dtype } => (CLASS, "dtype", fields![tensor, dtype]),
        TensorError::Missing { tensor, present } => {
            ("TensorNotFoundError", "tensor_missing", fields![tensor, present])
        }
        TensorError::Shape { tensor, actual, expected } => {
            (CLASS, "shape", fields![tensor, actual, expected])
        }
        TensorError::Scale { tensor, dtype, rows } => (CLASS, "scale", fields![tensor, dtype, rows]),
        TensorError::ScaleValue { tensor, row, value } => (CLASS, "scale_value", fields![tensor, row, value]),
        TensorError::Packed { tensor, reason } => (CLASS, "packed", fields![tensor, reason]),
        TensorError::NotFinite { tensor, index, value } => {
            (CLASS, "not_finite", fields![tensor, index, value])
        }
        TensorError::Overflow { tensor, index, value, dtype } => {
            (CLASS, "overflow", fields![tensor, index, value, dtype])
        }
        TensorError::Conversion { tensor, from, to } => (CLASS, "conversion", fields![tensor, from, to]),
        TensorError::Size { tensor, expected, actual } => (CLASS, "size", fields![tensor, expected, actual]),
        _ => (CLASS, "tensor", vec![]),
    }
}

pub(crate) fn import(error: &ImportError) -> Description {
    const INVALID: &str = "InvalidCheckpointError";
    const MISSING: &str = "CheckpointNotFoundError";
    match error {
        ImportError::Io { path, source } => {
            let class = match source.kind() {
                io::ErrorKind::NotFound => MISSING,
                _ => "CheckpointIoError",
            };
            (class, "io", io_fields(source, path))
        }
        ImportError::EmptyFolder { dir } => (MISSING, "empty_folder", vec![("filename", Field::from(dir))]),
        ImportError::MissingFile { dir, file } => {
            (MISSING, "missing_file", vec![("filename", Field::from(&dir.join(file)))])
        }
        ImportError::PickledWeights { file } => (INVALID, "pickled_weights", fields![file]),
        ImportError::AmbiguousWeights => (INVALID, "ambiguous_weights", vec![]),
        ImportError::FileTooLarge { file, len_bytes, max } => {
            (INVALID, "file_too_large", fields![file, len_bytes, max])
        }
        ImportError::Json { file, reason } => (INVALID, "json", fields![file, reason]),
        ImportError::NotUtf8 { file } => (INVALID, "not_utf8", fields![file]),
        ImportError::ChatTemplate { file, source } => {
            let reason = &source.to_string();
            (INVALID, "chat_template", fields![file, reason])
        }
        ImportError::UnknownArchitecture { model_type } => {
            (INVALID, "unknown_architecture", fields![model_type])
        }
        ImportError::MissingKey { key } => (INVALID, "missing_key", fields![key]),
        ImportError::InvalidValue { file, key, value, expected } => {
            (INVALID, "invalid_value", fields![file, key, value, expected])
        }
        ImportError::Unsupported { key, value, reason } => {
            (INVALID, "unsupported", fields![key, value, reason])
        }
        ImportError::UnknownKey { key, value } => (INVALID, "unknown_key", fields![key, value]),
        ImportError::ConflictingKeys { key, value, other, other_value } => {
            (INVALID, "conflicting_keys", fields![key, value, other, other_value])
        }
        ImportError::Spec(_) => (INVALID, "spec", vec![]),
        ImportError::ShardName { name } => (INVALID, "shard_name", fields![name]),
        ImportError::MissingShards { names } => (MISSING, "missing_shards", fields![names]),
        ImportError::ShardMismatch { tensor, indexed, found } => {
            (INVALID, "shard_mismatch", fields![tensor, indexed, found])
        }
        ImportError::Tensor { file, source } => {
            let (_, code, mut all) = tensor(source);
            all.push(("file", Field::from(file)));
            (INVALID, code, all)
        }
        ImportError::MissingTensors { names } => (INVALID, "missing_tensors", fields![names]),
        ImportError::UnexpectedTensors { names } => (INVALID, "unexpected_tensors", fields![names]),
        ImportError::TensorShape { file, tensor, actual, expected } => {
            (INVALID, "tensor_shape", fields![file, tensor, actual, expected])
        }
        ImportError::Gguf { file, source } => {
            let (code, mut all) = gguf(source);
            all.push(("file", Field::from(file)));
            (INVALID, code, all)
        }
        ImportError::TiedHeadDiffers => (INVALID, "tied_head_differs", vec![]),
        ImportError::Chain(error) => chain(error),
        ImportError::Cancelled => ("Cancelled", "cancelled", vec![]),
        _ => (INVALID, "checkpoint", vec![]),
    }
}

/// Code and fields; where config.json can be wrong in the same way, the same code.
fn gguf(error: &GgufError) -> (&'static str, Fields) {
    match error {
        GgufError::Magic { magic } => ("gguf_magic", fields![magic]),
        GgufError::Version { version } => ("gguf_version", fields![version]),
        GgufError::BigEndian { version } => ("gguf_big_endian", fields![version]),
        GgufError::Truncated { what } => ("gguf_truncated", fields![what]),
        GgufError::TooLong { what, max } => ("gguf_too_long", fields![what, max]),
        GgufError::Header { what, reason } => ("gguf_header", fields![what, reason]),
        GgufError::Type { tensor, found } => ("gguf_type", fields![tensor, found]),
        GgufError::Tensor { tensor, shape, offset, reason } => {
            ("gguf_tensor", fields![tensor, shape, offset, reason])
        }
        GgufError::UnknownArchitecture { architecture } => ("unknown_architecture", fields![architecture]),
        GgufError::MissingKey { key } => ("missing_key", fields![key]),
        GgufError::InvalidValue { key, value, expected } => ("invalid_value", fields![key, value, expected]),
        GgufError::Unsupported { key, value, reason } => ("unsupported", fields![key, value, reason]),
        GgufError::UnknownKey { key, value } => ("unknown_key", fields![key, value]),
        GgufError::Spec(_) => ("spec", vec![]),
        GgufError::NotFirstPart { part, parts, first } => ("not_first_part", fields![part, parts, first]),
        GgufError::Parts { reason } => ("parts", fields![reason]),
        GgufError::Tokenizer { reason } => ("tokenizer", fields![reason]),
        _ => ("gguf", vec![]),
    }
}

fn export(error: &ExportError) -> Description {
    const CLASS: &str = "ExportError";
    match error {
        ExportError::Io { path, source } => ("ExportIoError", "io", io_fields(source, path)),
        ExportError::NoShardBytes => {
            let option = "max_shard_bytes";
            ("OptionError", "zero", vec![("option", Field::Text(option.to_owned()))])
        }
        ExportError::NotEmpty { dir } => {
            ("FolderNotEmptyError", "not_empty", vec![("filename", Field::from(dir))])
        }
        ExportError::NotAModel { block, kind } => (CLASS, "not_a_model", fields![block, kind]),
        ExportError::Manifest(_) => (CLASS, "manifest", vec![]),
        ExportError::Spec(_) => (CLASS, "spec", vec![]),
        ExportError::MissingSlot { slot } => (CLASS, "missing_slot", fields![slot]),
        ExportError::Tensor { slot, source } => {
            let (_, code, mut all) = tensor(source);
            all.push(("slot", Field::from(slot)));
            (CLASS, code, all)
        }
        ExportError::NotExpressible { architecture, reason } => {
            (CLASS, "not_expressible", fields![architecture, reason])
        }
        ExportError::Chain(error) => chain(error),
        ExportError::Cancelled => ("Cancelled", "cancelled", vec![]),
        _ => (CLASS, "export", vec![]),
    }
}

fn kernel(error: &KernelError) -> Description {
    match error {
        KernelError::UnknownIsa { name } => ("OptionError", "unknown_isa", fields![name]),
        KernelError::IsaUnavailable { isa, missing } => {
            ("OptionError", "isa_unavailable", fields![isa, missing])
        }
        _ => ("ModelError", "kernel", vec![]),
    }
}

fn forward(error: &ModelError) -> Description {
    const CLASS: &str = "ModelError";
    match error {
        ModelError::Tensor { slot, source } => {
            let (class, code, mut all) = tensor(source);
            all.push(("slot", Field::from(slot)));
            (class, code, all)
        }
        ModelError::WrongTensor { slot, tensor, found, expected } => {
            (CLASS, "wrong_tensor", fields![slot, tensor, found, expected])
        }
        ModelError::TensorCount { slot, found, expected } => {
            (CLASS, "tensor_count", fields![slot, found, expected])
        }
        ModelError::UnknownSlot { slot } => (CLASS, "unknown_slot", fields![slot]),
        ModelError::UnknownToken { token, vocab_size } => {
            ("OptionError", "unknown_token", fields![token, vocab_size])
        }
        ModelError::ContextFull { needed, capacity } => {
            ("ContextFullError", "context_full", fields![needed, capacity])
        }
        ModelError::NoTokens => ("OptionError", "empty_prompt", vec![]),
        ModelError::Kernel(error) => kernel(error),
        _ => (CLASS, "model", vec![]),
    }
}

fn sampling(error: &SamplingError) -> Description {
    match error {
        SamplingError::OutOfRange { field, value, expected } => {
            ("OptionError", "out_of_range", fields![field, value, expected])
        }
        SamplingError::NanLogit { token } => ("ModelError", "nan_logit", fields![token]),
        SamplingError::InfiniteLogit { token } => ("ModelError", "infinite_logit", fields![token]),
        SamplingError::NoCandidate { vocab_size } => ("ModelError", "no_candidate", fields![vocab_size]),
        SamplingError::UnknownToken { token, vocab_size } => {
            ("OptionError", "unknown_token", fields![token, vocab_size])
        }
        _ => ("ModelError", "sampling", vec![]),
    }
}

fn text(error: &TextError) -> Description {
    const CLASS: &str = "TextError";
    match error {
        TextError::Tokenizer { reason } => (CLASS, "tokenizer", fields![reason]),
        TextError::TokenOutOfRange { token, vocab_size } => {
            ("OptionError", "unknown_token", fields![token, vocab_size])
        }
        TextError::Encode { reason } => (CLASS, "encode", fields![reason]),
        TextError::Decode { reason } => (CLASS, "decode", fields![reason]),
        _ => (CLASS, "text", vec![]),
    }
}

fn chat(error: &ChatError) -> Description {
    const CLASS: &str = "ChatError";
    match error {
        ChatError::Config { file, reason } => (CLASS, "chat_config", fields![file, reason]),
        ChatError::NoTemplate => (CLASS, "no_template", vec![]),
        ChatError::UnknownTemplate { name, available } => {
            (CLASS, "unknown_template", fields![name, available])
        }
        ChatError::Syntax { line, reason } => (CLASS, "template_syntax", fields![line, reason]),
        ChatError::NoMessages => (CLASS, "no_messages", vec![]),
        ChatError::Message { index } => (CLASS, "message", fields![index]),
        ChatError::Refused { reason } => (CLASS, "template_refused", fields![reason]),
        ChatError::NeedsTime => (CLASS, "needs_time", vec![]),
        ChatError::OutOfFuel => (CLASS, "template_endless", vec![]),
        ChatError::Render { line, reason } => (CLASS, "template_render", fields![line, reason]),
        _ => (CLASS, "chat", vec![]),
    }
}

fn stop(error: &StopError) -> Description {
    const CLASS: &str = "OptionError";
    match error {
        StopError::Empty { index } => (CLASS, "stop_empty", fields![index]),
        StopError::TooLong { index, len_bytes } => (CLASS, "stop_too_long", fields![index, len_bytes]),
        StopError::TooMany { count } => (CLASS, "stop_too_many", fields![count]),
        _ => (CLASS, "stop", vec![]),
    }
}

pub(crate) fn manager(error: &ManagerError) -> Description {
    const CLASS: &str = "ModelError";
    match error {
        ManagerError::Chain(error) => chain(error),
        ManagerError::Block { slot, block, source } => {
            let (class, code, mut all) = tensor(source);
            all.retain(|(name, _)| *name != "block");
            all.extend(fields![slot, block]);
            // Whatever is wrong with it, the model cannot go on because of this block.
            let class = if class == "TensorError" { "DamagedBlockError" } else { class };
            (class, code, all)
        }
        ManagerError::Model(error) => forward(error),
        ManagerError::Kernel(error) => kernel(error),
        ManagerError::Spec(_) => (CLASS, "spec", vec![]),
        ManagerError::Manifest(_) => (CLASS, "manifest", vec![]),
        ManagerError::SlotName(_) => (CLASS, "slot_name", vec![]),
        ManagerError::Text(error) => text(error),
        ManagerError::Chat(error) => chat(error),
        ManagerError::Sampling(error) => sampling(error),
        ManagerError::Stop(error) => stop(error),
        ManagerError::Receipt(error) => receipt(error),
        ManagerError::Usage(error) => usage(error),
        ManagerError::NoModel => ("NoModelError", "no_model", vec![]),
        ManagerError::ManyModels { models } => ("NoModelError", "many_models", fields![models]),
        ManagerError::NotAModel { block, kind } => (CLASS, "not_a_model", fields![block, kind]),
        ManagerError::NotASpec { block, kind } => (CLASS, "not_a_spec", fields![block, kind]),
        ManagerError::MissingSlots { slots } => (CLASS, "missing_slots", fields![slots]),
        ManagerError::WrongBlock { slot, block, name, kind } => {
            (CLASS, "wrong_block", fields![slot, block, name, kind])
        }
        ManagerError::OtherSpec { block, spec } => (CLASS, "other_spec", fields![block, spec]),
        ManagerError::UnknownSlot { slot } => (CLASS, "unknown_slot", fields![slot]),
        ManagerError::Delta(error) => delta(error),
        ManagerError::UnknownName { name } => ("NameNotFoundError", "unknown_name", fields![name]),
        ManagerError::AmbiguousName { name, candidates } => {
            ("AmbiguousNameError", "ambiguous_name", fields![name, candidates])
        }
        ManagerError::EmptySlot { slot } => ("NameNotFoundError", "empty_slot", fields![slot]),
        ManagerError::NamedTwice => ("OptionError", "named_twice", vec![]),
        ManagerError::OverlaidTwice { slot } => ("OptionError", "overlaid_twice", fields![slot]),
        ManagerError::ReleaseExists { name, version, model } => {
            ("HistoryError", "release_exists", fields![name, version, model])
        }
        ManagerError::NotInHistory { model, of } => ("HistoryError", "not_in_history", fields![model, of]),
        ManagerError::NeedsMigration { from, spec } => (
            "HistoryError",
            "needs_migration",
            vec![("before", Field::from(from)), ("spec", Field::from(spec))],
        ),
        ManagerError::NotGrowing { layer } => ("HistoryError", "not_growing", fields![layer]),
        ManagerError::EmptyPrompt => ("OptionError", "empty_prompt", vec![]),
        ManagerError::NoMaxTokens => ("OptionError", "no_max_tokens", vec![]),
        ManagerError::ContextFull { prompt_tokens, max_tokens, capacity } => {
            ("ContextFullError", "context_full", fields![prompt_tokens, max_tokens, capacity])
        }
        ManagerError::NoTokenizer => ("TextError", "no_tokenizer", vec![]),
        ManagerError::StreamFailed => (CLASS, "stream_failed", vec![]),
        ManagerError::SessionBusy => ("BusyError", "busy", vec![]),
        ManagerError::Threads(_) => ("InternalError", "threads", vec![]),
        ManagerError::Zero { option } => ("OptionError", "zero", fields![option]),
        ManagerError::TooManyThreads { threads, max } => {
            ("OptionError", "too_many_threads", fields![threads, max])
        }
        _ => (CLASS, "manager", vec![]),
    }
}

fn delta(error: &DeltaBlockError) -> Description {
    const CLASS: &str = "DeltaError";
    match error {
        DeltaBlockError::NotADelta { block, kind } => (CLASS, "not_a_delta", fields![block, kind]),
        DeltaBlockError::NoBase { block, kind } => (CLASS, "no_base", fields![block, kind]),
        DeltaBlockError::NotMerged { block } => (CLASS, "not_merged", fields![block]),
        DeltaBlockError::Parents { block, .. } => (CLASS, "delta_parents", fields![block]),
        DeltaBlockError::Mismatch { block, expected, actual } => {
            (CLASS, "delta_mismatch", fields![block, expected, actual])
        }
        DeltaBlockError::Delta { block, .. } => (CLASS, "delta_payload", fields![block]),
        _ => (CLASS, "delta", vec![]),
    }
}

fn receipt(error: &ReceiptError) -> Description {
    const CLASS: &str = "ReceiptError";
    match error {
        ReceiptError::TooLarge { len_bytes } => (CLASS, "receipt_too_large", fields![len_bytes]),
        ReceiptError::Json { reason } => (CLASS, "receipt_json", fields![reason]),
        ReceiptError::Version { version } => (CLASS, "receipt_version", fields![version]),
        _ => (CLASS, "receipt", vec![]),
    }
}

fn usage(error: &UsageError) -> Description {
    match error {
        UsageError::Io { path, source } => ("UsageIoError", "io", io_fields(source, path)),
        UsageError::Locked { path } => ("UsageError", "usage_locked", vec![("filename", Field::from(path))]),
        UsageError::Slot(error) => {
            let name = &error.name;
            ("ExpertNotFoundError", "slot_name", fields![name])
        }
        UsageError::NoExpert { slot } => ("ExpertNotFoundError", "no_expert", fields![slot]),
        _ => ("UsageError", "usage", vec![]),
    }
}

fn learn(error: &LearnError) -> Description {
    const OPTION: &str = "OptionError";
    const CLASS: &str = "TrainingError";
    const CHECKPOINT: &str = "RunCheckpointError";
    match error {
        LearnError::Chain(error) => chain(error),
        LearnError::Manager(error) => manager(error),
        LearnError::Tensor { slot, source } => {
            let (class, code, mut all) = tensor(source);
            all.extend(fields![slot]);
            (class, code, all)
        }
        LearnError::Kernel(error) => kernel(error),
        LearnError::Option { option: field, value, expected } => {
            (OPTION, "option", fields![field, value, expected])
        }
        LearnError::NoSlots => (OPTION, "no_slots", vec![]),
        LearnError::UnknownSlot { slot } => (OPTION, "unknown_slot", fields![slot]),
        LearnError::NoMatrix { slot } => (OPTION, "no_matrix", fields![slot]),
        LearnError::Balance { found } => (OPTION, "balance", vec![("found", Field::Ints(found.clone()))]),
        LearnError::FewTokens { found, needed } => (OPTION, "too_few_tokens", fields![found, needed]),
        LearnError::UnknownToken { index, token, vocab_size } => {
            (OPTION, "unknown_token", fields![index, token, vocab_size])
        }
        LearnError::NoBase => (OPTION, "no_base", vec![]),
        LearnError::WholeModel { dtype } => (OPTION, "whole_model", fields![dtype]),
        LearnError::Diverged { step, loss } => (CLASS, "diverged", fields![step, loss]),
        LearnError::Checkpoint { reason } => (CHECKPOINT, "checkpoint", fields![reason]),
        LearnError::OtherRun { field, found, expected } => {
            (CHECKPOINT, "other_run", fields![field, found, expected])
        }
        LearnError::Threads { .. } => ("InternalError", "threads", vec![]),
        LearnError::Memory { len_bytes } => ("InternalError", "memory", fields![len_bytes]),
        LearnError::Candle(_) => (CLASS, "candle", vec![]),
        _ => (CLASS, "training", vec![]),
    }
}

impl Failure {
    /// The exception.
    pub(crate) fn into_py(self, py: Python<'_>) -> PyErr {
        let ((class, code, fields), message) = match self {
            Self::Python(error) => return error,
            Self::Core(error) => {
                let description = match &*error {
                    blyan_core::Error::Chain(error) => chain(error),
                    blyan_core::Error::Tensor(error) => tensor(error),
                    blyan_core::Error::Import(error) => import(error),
                    blyan_core::Error::Export(error) => export(error),
                    blyan_core::Error::Manager(error) => manager(error),
                    blyan_core::Error::Usage(error) => usage(error),
                    blyan_core::Error::Evolve(error) => evolve(error),
                    _ => ("BlyanError", "error", vec![]),
                };
                (description, message(&*error))
            }
            Self::Learn(error) => (learn(&error), message(&*error)),
            Self::Hash(error) => (("HashError", "hash", vec![]), message(&error)),
            Self::Argument(message) => (("OptionError", "argument", vec![]), message),
            Self::Closed(what) => (("ClosedError", "closed", vec![]), format!("the {what} is closed")),
            Self::Forked(what, process) => (
                ("ForkedError", "forked", vec![("process", Field::Int(u64::from(process)))]),
                format!("the {what} was opened by process {process}: open it again in this one"),
            ),
            Self::ForkedInCall(process) => (
                ("ForkedError", "forked", vec![("process", Field::Int(u64::from(process)))]),
                format!("this call forked: process {process} goes on with it"),
            ),
            Self::TrainedBefore(process) => (
                ("ForkedError", "forked", vec![("process", Field::Int(u64::from(process)))]),
                format!(
                    "process {process} began to train and forked: a process that trains too is started by spawn"
                ),
            ),
            Self::Busy(message) => (("BusyError", "busy", vec![]), message.to_owned()),
            Self::Panic(message) => (
                ("InternalError", "panic", vec![]),
                format!("blyan failed in a way it never should, please report it: {message}"),
            ),
            Self::Threads(message) => {
                (("InternalError", "threads", vec![]), format!("no thread could be started: {message}"))
            }
        };
        raise(py, class, code, &message, fields).unwrap_or_else(|error| error)
    }
}

fn raise(py: Python<'_>, class: &str, code: &str, message: &str, fields: Fields) -> PyResult<PyErr> {
    let given = PyDict::new(py);
    for (name, field) in fields {
        given.set_item(name, field.into_python(py)?)?;
    }
    let exceptions = py.import("blyan.exceptions")?;
    let made = exceptions.getattr("_make")?.call1((class, code, message, given))?;
    Ok(PyErr::from_value(made))
}
