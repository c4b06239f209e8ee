//! Every input that was ever found to do harm, and others made to: `fuzz/corpus` through the functions
//! that the fuzz targets call. A file named `valid-…` must be accepted, every other refused with a
//! typed error; nothing may panic, and nothing may take long.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../../fuzz/src/lib.rs"]
#[allow(dead_code, unreachable_pub, reason = "a library of its own in the fuzz package")]
mod targets;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use blyan_core::chain::Validators;
use blyan_core::import::{self, ImportOptions};
use blyan_core::manager::{GenerateOptions, ManagerOptions, MoEModelManager, SamplingOptions};
use blyan_core::storage::{Access, DirMedium};
use blyan_core::{
    BlockKind, Chain, ChainId, DType, Draft, Manifest, ParentRole, Shape, SignatureRecord, tensor,
};

/// No input of the corpus needs a tenth of this, on a slow and busy machine.
const LONGEST: Duration = Duration::from_secs(30);

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus")
}

fn run(name: &str) {
    let (_, target) = targets::TARGETS.iter().find(|(target, _)| *target == name).unwrap();
    let (mut valid, mut hostile) = (0, 0);
    for entry in fs::read_dir(corpus().join(name)).unwrap() {
        let path = entry.unwrap().path();
        let start = Instant::now();
        let outcome = target(&fs::read(&path).unwrap());
        assert!(start.elapsed() < LONGEST, "{} took {:?}", path.display(), start.elapsed());
        if path.file_name().unwrap().to_str().unwrap().starts_with("valid-") {
            valid += 1;
            assert!(outcome.is_ok(), "{}: {}", path.display(), outcome.unwrap_err());
        } else {
            hostile += 1;
            let error = outcome.expect_err(&path.display().to_string());
            assert!(!error.to_string().is_empty());
        }
    }
    assert!(valid > 0 && hostile > 0, "{name}: {valid} valid and {hostile} hostile inputs");
}

macro_rules! corpus {
    ($($target:ident)*) => {
        $(
            #[test]
            fn $target() {
                run(stringify!($target));
            }
        )*

        #[test]
        fn no_target_and_no_folder_is_left_out() {
            let tested = [$(stringify!($target)),*];
            assert_eq!(targets::TARGETS.map(|(name, _)| name), tested);
            let mut folders: Vec<_> =
                fs::read_dir(corpus()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            folders.sort();
            let mut expected = tested;
            expected.sort_unstable();
            assert_eq!(folders, expected);
        }
    };
}

/// Writes the valid inputs that only the library can make: after a change of a format run this test
/// with `BLYAN_BLESS=1`.
#[test]
fn seeds() {
    if std::env::var_os("BLYAN_BLESS").is_none() {
        return;
    }
    let write = |name: &str, bytes: &[u8]| fs::write(corpus().join(name), bytes).unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/mixtral_window");
    let dir = tempfile::tempdir().unwrap();
    let memory = Chain::in_memory().unwrap();
    let model = import::checkpoint(&memory, &fixture, &ImportOptions::default()).unwrap().model;
    let manifest = memory.payload(&model).unwrap();
    let spec = Manifest::from_canonical_json(&manifest).unwrap().spec;
    write("manifest/valid-model", &manifest);
    write("spec/valid-moe", &memory.payload(&spec).unwrap());
    write("header/valid-model", &memory.get(&model).unwrap().header().to_bytes().unwrap());
    write("header/valid-spec", &memory.get(&spec).unwrap().header().to_bytes().unwrap());
    let options = ManagerOptions { persist_usage: false, ..ManagerOptions::default() };
    let manager = MoEModelManager::open(&memory, &options).unwrap();
    let options = GenerateOptions {
        max_tokens: Some(4),
        sampling: SamplingOptions { temperature: 0.5, top_p: Some(0.9), ..SamplingOptions::default() },
        logprobs: Some(1),
        ..GenerateOptions::default()
    };
    let generation = manager.generate(&[1, 2, 3][..], &options).unwrap();
    write("receipt/valid-sampled", generation.receipt.to_json().as_bytes());

    let (matrix, rows, vector) = (Shape::new([2, 3]), Shape::new([2, 1]), Shape::new([4]));
    let scales = [0.5f32, 2.0].map(f32::to_le_bytes).concat();
    let payload = tensor::write(&[
        ("up_proj.weight", DType::I8, &matrix, &[1, 2, 3, 4, 5, 6]),
        ("up_proj.weight_scale", DType::F32, &rows, &scales),
        ("norm.weight", DType::BF16, &vector, &[0x80, 0x3f].repeat(4)),
    ]);
    write("payload/valid-int8", &payload.unwrap());

    // Blocks of every lane, a fork, a payload in a file, a signature.
    let chain = Chain::open_with(Arc::new(DirMedium::new(dir.path())), Access::ReadWrite, Validators::new());
    let chain = chain.unwrap();
    let mut last = Vec::new();
    for (number, lane) in ChainId::ALL.into_iter().cycle().take(9).enumerate() {
        let name = format!("block{}", number % 4);
        let mut draft = Draft::new(lane, BlockKind(5000), name, vec![number as u8; 10 + 600 * number]);
        for parent in last.iter().rev().take(number % 3) {
            let role = [ParentRole::Dependency, ParentRole::Predecessor][number % 2];
            draft = draft.with_parent(*parent, role);
        }
        last.push(chain.append(draft).unwrap());
    }
    let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    chain.add_signature(&last[3], SignatureRecord::sign(&key, &last[3], 1)).unwrap();
    drop(chain);
    crate::seeds::bundles(&write);
    crate::seeds::deltas(&write);
    crate::seeds::statements(&write);
    crate::seeds::datasets(&write);
    write("index/valid-chain", &fs::read(dir.path().join("index.redb")).unwrap());
}

corpus! {
    header payload spec manifest config index receipt tokenizer chat_template gguf bundle
    release migration delta policy statement tokens dataset ballot
}
