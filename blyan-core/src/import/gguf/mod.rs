//! GGUF files → what an import needs of a checkpoint: spec, weights, texts.
//!
//! The metadata is read in full and judged key by key, as config.json is; weights stay in the file until
//! their block is built. Names, formulas and defaults are those of llama.cpp and its converter.

mod config;
mod error;
mod header;
mod metadata;
mod names;
mod pre_tokenizer;
mod rope;
mod texts;
mod tokenizer;
mod types;

use std::collections::BTreeMap;
use std::io::{BufReader, Read as _};
use std::path::Path;

pub use self::error::GgufError;
use self::header::{Header, ReadError, Value};
use self::metadata::Metadata;
pub(super) use self::names::{interleaved_rows, is_derived, published, stacked};
use self::rope::ROPE_FREQUENCIES;
pub(super) use self::types::Encoding;
use super::error::ImportError;
use super::names::Naming;
use super::weights::{Located, Shard, Weights, open_regular};
use crate::format::{ModelSpec, RopeScaling, Slot};

/// Most files that one model may be split into.
const MAX_PARTS: u64 = 10_000;

/// What a file says, but for the weights themselves.
pub(super) struct Model {
    pub(super) spec: ModelSpec,
    pub(super) weights: Weights,
    pub(super) texts: Vec<(Slot, Vec<u8>)>,
}

/// Whether a path names a GGUF file: by its name, or else by how the file begins.
///
/// # Errors
///
/// [`ImportError::Io`] for a file that is neither that nor a folder.
pub(super) fn is_gguf(path: &Path) -> Result<bool, ImportError> {
    let io = |source| ImportError::Io { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(io)?.is_dir() {
        return Ok(false);
    }
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) {
        return Ok(true);
    }
    let (file, _) = open_regular(path)?;
    let mut magic = Vec::new();
    file.take(4).read_to_end(&mut magic).map_err(io)?;
    if magic == b"GGUF" {
        return Ok(true);
    }
    let reason = "neither a folder nor a GGUF file";
    Err(io(std::io::Error::new(std::io::ErrorKind::NotADirectory, reason)))
}

/// Reads a file, and the ones that continue it. Keys named in `ignored` count as absent.
pub(super) fn open(path: &Path, ignored: &[String]) -> Result<Model, ImportError> {
    let name = file_name(path);
    let error = |source| ImportError::Gguf { file: name.clone(), source };
    let mut weights = Weights::new(Naming::Gguf);
    let metadata = read_file(path, &mut weights)?;
    read_parts(path, &metadata, &mut weights)?;
    let (spec, texts) = read_metadata(&metadata, &weights, ignored).map_err(error)?;
    let spec = with_frequencies(spec, &weights, &name)?;
    Ok(Model { spec, weights, texts })
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Adds the tensors of one file, and returns its metadata.
fn read_file(path: &Path, weights: &mut Weights) -> Result<BTreeMap<String, Value>, ImportError> {
    let name = file_name(path);
    let (file, len_bytes) = open_regular(path)?;
    let header = header::read(BufReader::new(&file), len_bytes).map_err(|error| match error {
        ReadError::Io(source) => ImportError::Io { path: path.to_owned(), source },
        ReadError::Gguf(source) => ImportError::Gguf { file: name.clone(), source },
    })?;
    let Header { metadata, tensors } = header;
    let number = weights.push(Shard { name: name.clone(), path: path.to_owned(), file });
    for tensor in tensors {
        let located = Located { file: number, entry: tensor.entry, encoding: tensor.encoding };
        if let Some(other) = weights.insert(located) {
            let reason = format!("{:?} is also in {}", other.entry.name, weights.file_name(&other));
            return Err(ImportError::Gguf { file: name, source: GgufError::Parts { reason } });
        }
    }
    Ok(metadata)
}

/// A number of the keys that split files have.
fn part_number(metadata: &BTreeMap<String, Value>, key: &str) -> Result<Option<u64>, GgufError> {
    match metadata.get(key) {
        None => Ok(None),
        Some(&Value::Unsigned(number)) => Ok(Some(number)),
        Some(&Value::Signed(number)) if number >= 0 => Ok(u64::try_from(number).ok()),
        Some(value) => Err(GgufError::InvalidValue {
            key: key.to_owned(),
            value: value.shortened(),
            expected: "a whole number".to_owned(),
        }),
    }
}

/// Reads the files that continue the first, `<stem>-00001-of-00003.gguf`.
fn read_parts(
    path: &Path,
    metadata: &BTreeMap<String, Value>,
    weights: &mut Weights,
) -> Result<(), ImportError> {
    let name = file_name(path);
    let error = |source| ImportError::Gguf { file: name.clone(), source };
    let parts = part_number(metadata, "split.count").map_err(error)?.unwrap_or(1);
    let number = part_number(metadata, "split.no").map_err(error)?.unwrap_or(0);
    let total = part_number(metadata, "split.tensors.count").map_err(error)?;
    if parts > MAX_PARTS {
        let reason = format!("split.count = {parts}: at most {MAX_PARTS} files are read");
        return Err(error(GgufError::Parts { reason }));
    }
    if number != 0 {
        let first = part_name(&name, number, 0, parts);
        let first = first.unwrap_or_else(|| format!("the one with split.no = 0 instead of {number}"));
        return Err(error(GgufError::NotFirstPart { part: number.saturating_add(1), parts, first }));
    }
    for part in 1..parts {
        let Some(next) = part_name(&name, 0, part, parts) else {
            let reason = format!("the first of {parts} files has to be named …-00001-of-{parts:05}.gguf");
            return Err(error(GgufError::Parts { reason }));
        };
        let next = path.with_file_name(next);
        let metadata = read_file(&next, weights)?;
        let file = file_name(&next);
        let error = |source| ImportError::Gguf { file: file.clone(), source };
        let is = (part_number(&metadata, "split.no"), part_number(&metadata, "split.count"));
        if is != (Ok(Some(part)), Ok(Some(parts))) {
            let reason = format!("it does not say that it is number {} of {parts}", part + 1);
            return Err(error(GgufError::Parts { reason }));
        }
    }
    let found = weights.names().count() as u64;
    match total {
        Some(total) if parts > 1 && total != found => {
            let reason = format!("split.tensors.count = {total}, but the files have {found} tensors");
            Err(error(GgufError::Parts { reason }))
        }
        _ => Ok(()),
    }
}

/// The name of another part, if the name of this one has the form that names of parts have.
fn part_name(name: &str, is: u64, wanted: u64, parts: u64) -> Option<String> {
    let stem = name.strip_suffix(&format!("-{:05}-of-{parts:05}.gguf", is.checked_add(1)?))?;
    Some(format!("{stem}-{:05}-of-{parts:05}.gguf", wanted + 1))
}

type Read = (ModelSpec, Vec<(Slot, Vec<u8>)>);

fn read_metadata(
    map: &BTreeMap<String, Value>,
    weights: &Weights,
    ignored: &[String],
) -> Result<Read, GgufError> {
    let metadata = Metadata::new(map, ignored);
    let (vocabulary, tokens) = tokenizer::read(&metadata)?;
    let spec = config::read(&metadata, weights, tokens)?;
    if vocabulary.is_none() {
        tokenizer::check_ids(&metadata, spec.vocab_size)?;
    }
    let texts = texts::read(&metadata, vocabulary.as_ref(), spec.max_position_embeddings)?;
    Ok((spec, texts))
}

/// Finds out which interpolation the stored divisors of the frequencies are.
fn with_frequencies(mut spec: ModelSpec, weights: &Weights, name: &str) -> Result<ModelSpec, ImportError> {
    let Some(tensor) = weights.get(ROPE_FREQUENCIES) else { return Ok(spec) };
    let refuse = |reason: &str| {
        let source = GgufError::Header { what: ROPE_FREQUENCIES.to_owned(), reason: reason.to_owned() };
        ImportError::Gguf { file: name.to_owned(), source }
    };
    let pairs = spec.attention.head_dim / 2;
    let plain = tensor.encoding == Encoding::Plain && tensor.entry.dtype == safetensors::Dtype::F32;
    if !plain || tensor.entry.shape.dims() != [pairs] {
        return Err(refuse("expected one F32 for each pair of a head's dimensions"));
    }
    let mut bytes = vec![0; 4 * pairs];
    weights.read(tensor, 0..bytes.len() as u64, &mut bytes)?;
    let divisors: Vec<f64> =
        bytes.as_chunks::<4>().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect();
    let scaling = rope::llama3(&divisors, spec.rope.rope_theta, spec.max_position_embeddings)
        .map_err(|source| ImportError::Gguf { file: name.to_owned(), source })?;
    if scaling != RopeScaling::Default {
        if spec.rope.scaling != RopeScaling::Default {
            return Err(refuse("the keys under rope.scaling ask for another scaling"));
        }
        spec.rope.scaling = scaling;
        spec.check().map_err(|error| ImportError::Gguf { file: name.to_owned(), source: error.into() })?;
    }
    Ok(spec)
}
