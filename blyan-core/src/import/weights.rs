//! Owns the tensors of a checkpoint, whatever its format: which file has each, and how its bytes become
//! elements.
//!
//! Files are read at offsets, not mapped: what was read stays out of the process's memory, and a file
//! that shrinks meanwhile is an error instead of a signal.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::error::ImportError;
use super::gguf::Encoding;
use super::names::Naming;
use crate::storage::regular::read_regular;
use crate::tensor::TensorError;
use crate::tensor::header::TensorEntry;

/// Opens a regular file for reading and tells its length.
pub(super) fn open_regular(path: &Path) -> Result<(File, u64), ImportError> {
    let io = |source| ImportError::Io { path: path.to_owned(), source };
    let file = read_regular(path).map_err(io)?;
    let len_bytes = file.metadata().map_err(io)?.len();
    Ok((file, len_bytes))
}

/// Reads at an offset; several threads may read one file at once.
#[cfg(unix)]
fn read_exact_at(file: &File, offset: u64, out: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut offset: u64, mut out: &mut [u8]) -> io::Result<()> {
    while !out.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, out, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                offset += read as u64;
                out = out.split_at_mut(read).1;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// One open weight file.
pub(super) struct Shard {
    /// For errors.
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) file: File,
}

impl Shard {
    pub(super) fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), ImportError> {
        read_exact_at(&self.file, offset, out)
            .map_err(|source| ImportError::Io { path: self.path.clone(), source })
    }

    pub(super) fn tensor_error(&self, source: TensorError) -> ImportError {
        ImportError::Tensor { file: self.name.clone(), source }
    }
}

/// A tensor and the file that has it.
pub(super) struct Located {
    pub(super) file: usize,
    /// Its dtype is that of the elements that reading gives.
    pub(super) entry: TensorEntry,
    pub(super) encoding: Encoding,
}

/// All tensors of a checkpoint.
pub(super) struct Weights {
    naming: Naming,
    files: Vec<Shard>,
    tensors: BTreeMap<String, Located>,
}

impl Weights {
    pub(super) fn new(naming: Naming) -> Self {
        Self { naming, files: Vec::new(), tensors: BTreeMap::new() }
    }

    /// Whose names the tensors have.
    pub(super) fn naming(&self) -> Naming {
        self.naming
    }

    /// Adds a file and returns its number.
    pub(super) fn push(&mut self, file: Shard) -> usize {
        self.files.push(file);
        self.files.len() - 1
    }

    /// Adds a tensor, and returns the one of this name that was there before.
    pub(super) fn insert(&mut self, tensor: Located) -> Option<Located> {
        self.tensors.insert(tensor.entry.name.clone(), tensor)
    }

    /// Gives a model that was saved without the class around it, as `AutoModel` has it, the names it has inside of
    /// that.
    pub(super) fn name_as_of_causal_lm(&mut self) {
        for (name, mut tensor) in std::mem::take(&mut self.tensors) {
            if !name.starts_with("lm_head.") {
                tensor.entry.name = format!("model.{name}");
            }
            self.insert(tensor);
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Located> {
        self.tensors.get(name)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Name of the file that has a tensor.
    pub(super) fn file_name(&self, tensor: &Located) -> &str {
        self.files.get(tensor.file).map_or("", |shard| &shard.name)
    }

    /// Reads elements of a tensor: those whose bytes, as elements of its dtype, are `bytes`. They are
    /// whole blocks where it is stored in blocks.
    pub(super) fn read(
        &self,
        tensor: &Located,
        bytes: Range<u64>,
        out: &mut [u8],
    ) -> Result<(), ImportError> {
        let Some(shard) = self.files.get(tensor.file) else { return Ok(()) };
        debug_assert_eq!(bytes.end - bytes.start, out.len() as u64);
        let start = tensor.entry.bytes.start;
        match tensor.encoding {
            Encoding::Plain => shard.read_at(start + bytes.start, out),
            Encoding::Blocks(blocks) => {
                let (elements, block_bytes) = tensor.encoding.block(4);
                let wide = 4 * elements as u64;
                debug_assert!(bytes.start.is_multiple_of(wide) && bytes.end.is_multiple_of(wide));
                let count = usize::try_from((bytes.end - bytes.start) / wide).unwrap_or_default();
                let mut stored = vec![0; count * block_bytes];
                shard.read_at(start + bytes.start / wide * block_bytes as u64, &mut stored)?;
                blocks.dequantize(&stored, out);
                Ok(())
            }
        }
    }

    /// An error about a tensor, with the name of its file.
    pub(super) fn error(&self, tensor: &Located, source: TensorError) -> ImportError {
        let file = self.file_name(tensor).to_owned();
        ImportError::Tensor { file, source: source.about(&tensor.entry.name) }
    }
}
