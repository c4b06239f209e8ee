//! Owns the reading of checkpoint folders: which files count, and which tensors they have.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::error::ImportError;
use super::gguf::Encoding;
use super::json;
use super::names::Naming;
use super::weights::{Located, Shard, Weights, open_regular};
use crate::tensor::header::{self, MAX_HEADER_BYTES, TensorEntry};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const MAX_INDEX_BYTES: u64 = 256 << 20;

/// A checkpoint folder. Remembers which of its files were read.
pub(super) struct Folder {
    dir: PathBuf,
    /// Names of all entries, and whether each was read.
    entries: BTreeMap<String, bool>,
}

impl Folder {
    pub(super) fn open(dir: &Path) -> Result<Self, ImportError> {
        let io = |source| ImportError::Io { path: dir.to_owned(), source };
        let mut entries = BTreeMap::new();
        for entry in std::fs::read_dir(dir).map_err(io)? {
            entries.insert(entry.map_err(io)?.file_name().to_string_lossy().into_owned(), false);
        }
        if entries.is_empty() {
            return Err(ImportError::EmptyFolder { dir: dir.to_owned() });
        }
        Ok(Self { dir: dir.to_owned(), entries })
    }

    /// Names of entries that nothing read.
    pub(super) fn ignored(&self) -> Vec<String> {
        self.entries.iter().filter(|(_, read)| !**read).map(|(name, _)| name.clone()).collect()
    }

    /// Names of the files of a folder in this one, if it is there: they count as entries of this one.
    pub(super) fn list(&mut self, folder: &str) -> Result<Vec<String>, ImportError> {
        let path = self.dir.join(folder);
        if !self.entries.contains_key(folder) || !path.is_dir() {
            return Ok(Vec::new());
        }
        let mut names = Vec::new();
        for entry in std::fs::read_dir(path).map_err(self.io(folder))? {
            let entry = entry.map_err(self.io(folder))?;
            names.push(format!("{folder}/{}", entry.file_name().to_string_lossy()));
        }
        names.sort_unstable();
        self.entries.remove(folder);
        self.entries.extend(names.iter().map(|name| (name.clone(), false)));
        Ok(names)
    }

    fn io(&self, name: &str) -> impl Fn(io::Error) -> ImportError + use<> {
        let path = self.dir.join(name);
        move |source| ImportError::Io { path: path.clone(), source }
    }

    /// Opens a file of the folder, following links as caches of checkpoints use them. Only regular
    /// files: a pipe would wait for ever.
    fn open_file(&mut self, name: &str) -> Result<(File, u64), ImportError> {
        let opened = open_regular(&self.dir.join(name))?;
        if let Some(read) = self.entries.get_mut(name) {
            *read = true;
        }
        Ok(opened)
    }

    /// A whole small file, if it is there.
    pub(super) fn read(&mut self, name: &str, max: u64) -> Result<Option<Vec<u8>>, ImportError> {
        if !self.entries.contains_key(name) {
            return Ok(None);
        }
        let (file, len_bytes) = self.open_file(name)?;
        let too_large = |len_bytes| ImportError::FileTooLarge { file: name.to_owned(), len_bytes, max };
        if len_bytes > max {
            return Err(too_large(len_bytes));
        }
        let mut bytes = Vec::new();
        // The file may have grown since.
        file.take(max + 1).read_to_end(&mut bytes).map_err(self.io(name))?;
        if bytes.len() as u64 > max {
            return Err(too_large(bytes.len() as u64));
        }
        Ok(Some(bytes))
    }

    /// A whole JSON object, if it is there.
    pub(super) fn read_json(
        &mut self,
        name: &str,
        max: u64,
    ) -> Result<Option<Map<String, Value>>, ImportError> {
        self.read(name, max)?.map(|bytes| json::object(name, &bytes)).transpose()
    }

    /// Opens all weight files and reads their headers.
    pub(super) fn weights(&mut self) -> Result<Weights, ImportError> {
        let single = self.entries.contains_key(SINGLE);
        let index = self.read_json(INDEX, MAX_INDEX_BYTES)?.map(|index| weight_map(&index)).transpose()?;
        let Some(index) = index else {
            if !single {
                return Err(self.without_weights());
            }
            return self.load(&BTreeSet::from([SINGLE.to_owned()]), None);
        };
        let files: BTreeSet<String> = index.values().cloned().collect();
        if single && !files.contains(SINGLE) {
            return Err(ImportError::AmbiguousWeights);
        }
        let missing: Vec<String> =
            files.iter().filter(|name| !self.entries.contains_key(*name)).cloned().collect();
        if !missing.is_empty() {
            return Err(ImportError::MissingShards { names: missing });
        }
        self.load(&files, Some(&index))
    }

    fn without_weights(&self) -> ImportError {
        let pickled = |name: &&String| [".bin", ".pt", ".pth"].iter().any(|end| name.ends_with(end));
        match self.entries.keys().find(pickled) {
            Some(file) => ImportError::PickledWeights { file: file.clone() },
            None => ImportError::MissingFile { dir: self.dir.clone(), file: SINGLE },
        }
    }

    fn load(
        &mut self,
        names: &BTreeSet<String>,
        index: Option<&BTreeMap<String, String>>,
    ) -> Result<Weights, ImportError> {
        let mut weights = Weights::new(Naming::HuggingFace);
        for name in names {
            let (file, len_bytes) = self.open_file(name)?;
            let shard = Shard { name: name.clone(), path: self.dir.join(name), file };
            let entries = header(&shard, len_bytes)?;
            let number = weights.push(shard);
            for entry in entries {
                let indexed = index.map(|index| index.get(&entry.name));
                if indexed.is_some_and(|indexed| indexed != Some(name)) {
                    return Err(ImportError::ShardMismatch {
                        indexed: indexed.flatten().cloned(),
                        found: Some(name.clone()),
                        tensor: entry.name,
                    });
                }
                // No second file can have it: without an index there is one file, with an index each
                // tensor was just found where the index says.
                weights.insert(Located { file: number, entry, encoding: Encoding::Plain });
            }
        }
        let absent = index.and_then(|index| index.iter().find(|(tensor, _)| weights.get(tensor).is_none()));
        if let Some((tensor, file)) = absent {
            return Err(ImportError::ShardMismatch {
                tensor: tensor.clone(),
                indexed: Some(file.clone()),
                found: None,
            });
        }
        let base = weights.get("embed_tokens.weight").is_some();
        if base && !weights.names().any(|name| name.starts_with("model.")) {
            weights.name_as_of_causal_lm();
        }
        Ok(weights)
    }
}

/// Tensor → file, with every file name checked to be one.
fn weight_map(index: &Map<String, Value>) -> Result<BTreeMap<String, String>, ImportError> {
    let json = |reason: &str| ImportError::Json { file: INDEX.to_owned(), reason: reason.to_owned() };
    let map = index.get("weight_map").and_then(Value::as_object);
    let map = map
        .filter(|map| !map.is_empty())
        .ok_or_else(|| json("expected an object weight_map that names tensors"))?;
    map.iter()
        .map(|(tensor, file)| {
            let file = file.as_str().ok_or_else(|| json("expected file names in weight_map"))?;
            let stem = file.strip_suffix(".safetensors").unwrap_or_default();
            let plain = !stem.is_empty() && !file.starts_with('.') && !file.contains(['/', '\\', ':', '\0']);
            if !plain {
                return Err(ImportError::ShardName { name: file.chars().take(80).collect() });
            }
            Ok((tensor.clone(), file.to_owned()))
        })
        .collect()
}

/// The tensors of a safetensors file.
fn header(shard: &Shard, len_bytes: u64) -> Result<Vec<TensorEntry>, ImportError> {
    let mut prefix = [0; 8];
    let present = usize::try_from(len_bytes).unwrap_or(8).min(8);
    let prefix = prefix.get_mut(..present).unwrap_or_default();
    shard.read_at(0, prefix)?;
    let header_len = header::header_len_bytes(prefix, len_bytes, MAX_HEADER_BYTES)
        .map_err(|error| shard.tensor_error(error))?;
    let mut json = vec![0; usize::try_from(header_len).unwrap_or_default()];
    shard.read_at(8, &mut json)?;
    header::parse_json(&json, len_bytes).map_err(|error| shard.tensor_error(error))
}
