//! Checkpoint folders as they lie on disk: the fixtures, and copies of them with one thing changed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use blyan_core::{BlockHash, Chain, ChainId, DType, Manifest, TensorBlock};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value};
use tempfile::TempDir;

/// The choices of type that golden files and matrices of tests go through.
pub(crate) const CHOICES: [(&str, Option<DType>); 6] = [
    ("kept", None),
    ("f16", Some(DType::F16)),
    ("bf16", Some(DType::BF16)),
    ("int8", Some(DType::I8)),
    ("fp8", Some(DType::F8E4M3)),
    ("int4", Some(DType::I4)),
];

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// All checkpoint folders that the repository carries, by name.
pub(crate) fn fixtures() -> BTreeMap<String, PathBuf> {
    let folder = fs::read_dir(fixture("")).unwrap();
    let mut dirs: Vec<PathBuf> =
        folder.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    dirs.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny-kjv-moe"));
    assert!(dirs.len() >= 17);
    dirs.into_iter().map(|dir| (dir.file_name().unwrap().to_str().unwrap().to_owned(), dir)).collect()
}

/// A tensor as it stands in a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Raw {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Vec<u8>,
}

/// All weights of a checkpoint folder, read by the `safetensors` crate alone.
pub(crate) fn weights(dir: &Path) -> BTreeMap<String, Raw> {
    let mut tensors = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if !(name.starts_with("model") && name.ends_with(".safetensors")) {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        for (name, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
            let raw = Raw { dtype: view.dtype(), shape: view.shape().to_vec(), data: view.data().to_vec() };
            assert!(tensors.insert(name, raw).is_none());
        }
    }
    tensors
}

/// A checkpoint in memory, to be changed and written.
#[derive(Clone)]
pub(crate) struct Checkpoint {
    pub(crate) config: Map<String, Value>,
    pub(crate) tensors: BTreeMap<String, Raw>,
    /// Other files, byte for byte.
    pub(crate) files: BTreeMap<String, Vec<u8>>,
}

impl Checkpoint {
    pub(crate) fn of(name: &str) -> Self {
        let dir = fixture(name);
        let config = serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap();
        let generation = fs::read(dir.join("generation_config.json")).unwrap();
        let files = BTreeMap::from([("generation_config.json".to_owned(), generation)]);
        Self { config, tensors: weights(&dir), files }
    }

    /// Writes one weight file, as the `safetensors` crate does.
    pub(crate) fn write(&self) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        self.write_to(dir.path());
        dir
    }

    pub(crate) fn write_to(&self, dir: &Path) {
        let config = serde_json::to_vec(&self.config).unwrap();
        fs::write(dir.join("config.json"), config).unwrap();
        for (name, bytes) in &self.files {
            fs::write(dir.join(name), bytes).unwrap();
        }
        fs::write(dir.join("model.safetensors"), safetensors_file(&self.tensors)).unwrap();
    }

    pub(crate) fn tensor(&mut self, name: &str) -> &mut Raw {
        self.tensors.get_mut(name).unwrap()
    }
}

pub(crate) fn safetensors_file(tensors: &BTreeMap<String, Raw>) -> Vec<u8> {
    let views = tensors
        .iter()
        .map(|(name, raw)| (name, TensorView::new(raw.dtype, raw.shape.clone(), &raw.data).unwrap()));
    safetensors::serialize(views, None).unwrap()
}

pub(crate) fn manifest(chain: &Chain, model: &BlockHash) -> Manifest {
    Manifest::from_canonical_json(&chain.payload(model).unwrap()).unwrap()
}

pub(crate) fn tensor_block(chain: &Chain, model: &BlockHash, slot: &str) -> TensorBlock {
    let manifest = manifest(chain, model);
    TensorBlock::open(chain, &manifest.slots[&slot.parse().unwrap()]).unwrap()
}

/// Tips of all lanes and the number of blocks: equal before and after a refused import.
pub(crate) fn state(chain: &Chain) -> (Vec<Vec<BlockHash>>, u64) {
    (ChainId::ALL.map(|lane| chain.tips(lane).unwrap()).to_vec(), chain.len().unwrap())
}
