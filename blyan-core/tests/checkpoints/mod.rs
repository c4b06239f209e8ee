//! The checkpoints that tests run, their references, and chains made of them.

#![allow(dead_code, reason = "each binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a test ends where its premises fail")]

use std::path::{Path, PathBuf};

use blyan_core::import::{self, ImportOptions};
use blyan_core::manager::{ManagerOptions, MoEModelManager};
use blyan_core::model::KvDType;
use blyan_core::{BlockHash, Chain, DType};
use safetensors::SafeTensors;

/// Every dtype a checkpoint can be imported in.
pub(crate) const DTYPES: [Option<DType>; 6] =
    [None, Some(DType::F16), Some(DType::BF16), Some(DType::F8E4M3), Some(DType::I8), Some(DType::I4)];

/// The folders of `tests/fixtures`, in order of their names.
pub(crate) fn fixtures() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("config.json").exists())
        .collect();
    folders.sort();
    assert!(folders.len() >= 16, "the fixtures are there");
    folders
}

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// The small model that was trained on the King James Bible.
pub(crate) fn tiny_kjv() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny-kjv-moe")
}

pub(crate) fn name(folder: &Path) -> String {
    folder.file_name().unwrap().to_string_lossy().into_owned()
}

/// A chain in memory that holds one checkpoint.
pub(crate) fn imported(folder: &Path, dtype: Option<DType>) -> (Chain, BlockHash) {
    let chain = Chain::in_memory().unwrap();
    let model = import_into(&chain, folder, dtype);
    (chain, model)
}

pub(crate) fn import_into(chain: &Chain, folder: &Path, dtype: Option<DType>) -> BlockHash {
    let options = ImportOptions { dtype, ..ImportOptions::default() };
    import::checkpoint(chain, folder, &options).unwrap().model
}

pub(crate) fn open(chain: &Chain, change: impl FnOnce(&mut ManagerOptions)) -> MoEModelManager {
    let mut options = ManagerOptions { persist_usage: false, threads: Some(2), ..ManagerOptions::default() };
    change(&mut options);
    MoEModelManager::open(chain, &options).unwrap()
}

/// What transformers computed in float32 from the same weights.
pub(crate) struct Reference {
    pub(crate) prompt: Vec<u32>,
    /// (prompt, vocab)
    pub(crate) logits: Vec<f32>,
    /// The prompt and the greedy tokens after it.
    pub(crate) greedy: Vec<u32>,
    /// The same with keys and values rounded to f16, where the reference has it.
    pub(crate) greedy_f16: Option<Vec<u32>>,
}

impl Reference {
    pub(crate) fn read(folder: &Path) -> Self {
        Self::read_file(&folder.join("reference.safetensors"))
    }

    pub(crate) fn read_file(file: &Path) -> Self {
        let bytes = std::fs::read(file).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let words = |name: &str| -> Vec<[u8; 4]> {
            let (words, rest) = tensors.tensor(name).unwrap().data().as_chunks();
            assert!(rest.is_empty());
            words.to_vec()
        };
        let tokens = |name: &str| -> Vec<u32> {
            words(name).into_iter().map(|word| i32::from_le_bytes(word).try_into().unwrap()).collect()
        };
        Self {
            prompt: tokens("prompt"),
            logits: words("logits").into_iter().map(f32::from_le_bytes).collect(),
            greedy: tokens("greedy"),
            greedy_f16: tensors.tensor("greedy_f16").is_ok().then(|| tokens("greedy_f16")),
        }
    }
}

/// Largest difference, as a share of the largest reference value.
pub(crate) fn relative_error(actual: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(actual.len(), expected.len());
    let largest = expected.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
    let error = actual.iter().zip(expected).fold(0.0_f32, |error, (a, b)| {
        assert!(!a.is_nan());
        error.max((a - b).abs())
    });
    error / largest
}

pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

pub(crate) const KV_DTYPES: [KvDType; 2] = [KvDType::F16, KvDType::F32];
