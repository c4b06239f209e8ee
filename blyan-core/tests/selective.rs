//! Only the experts that the router picks are verified and touched, and nothing is run unverified.

#![allow(clippy::unwrap_used, reason = "a test ends where its premises fail")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::checkpoints::{fixture, import_into, open, tiny_kjv};
use blyan_core::manager::{GenerateOptions, ManagerError, Snapshot};
use blyan_core::{Chain, DType, Slot};

fn options() -> GenerateOptions {
    GenerateOptions { max_tokens: Some(3), ignore_eos: true, ..GenerateOptions::default() }
}

fn payload_file(dir: &Path, chain: &Chain, snapshot: &Snapshot, slot: Slot) -> PathBuf {
    let block = chain.get(&snapshot.slots()[&slot].block).unwrap();
    let hash = block.header().payload.hash.to_string();
    dir.join("payloads").join(&hash[..2]).join(&hash)
}

/// A chain on disk with the small model, what a short prompt uses of it, and what not.
fn used_and_unused(dir: &Path) -> (Snapshot, BTreeSet<Slot>, BTreeSet<Slot>) {
    let chain = Chain::open(dir).unwrap();
    import_into(&chain, &fixture("olmoe"), None);
    let model = open(&chain, |_| ());
    let generation = model.generate([3, 17], &options()).unwrap();
    let used: BTreeSet<Slot> =
        generation.receipt.claim().blocks.keys().map(|name| name.parse().unwrap()).collect();
    let experts = model.snapshot().slots().keys().filter(|slot| matches!(slot, Slot::Expert { .. }));
    let unused: BTreeSet<Slot> = experts.copied().filter(|slot| !used.contains(slot)).collect();
    let used_experts = used.iter().filter(|slot| matches!(slot, Slot::Expert { .. })).count();
    assert!(used_experts > 0 && !unused.is_empty(), "{used_experts} used, {} unused", unused.len());

    let report = model.residency();
    assert_eq!(report.experts_touched, used_experts as u64);
    assert_eq!(report.blocks_verified, used.len() as u64);
    let bytes: u64 = used.iter().map(|slot| model.snapshot().slots()[slot].len_bytes).sum();
    assert_eq!(report.bytes_mapped, bytes);
    (model.snapshot().clone(), used, unused)
}

#[test]
fn experts_that_are_never_routed_to_are_never_read() {
    let dir = tempfile::tempdir().unwrap();
    let (snapshot, _, unused) = used_and_unused(dir.path());
    let chain = Chain::open(dir.path()).unwrap();
    let expected = open(&chain, |_| ()).generate([3, 17], &options()).unwrap();
    for slot in unused {
        std::fs::remove_file(payload_file(dir.path(), &chain, &snapshot, slot)).unwrap();
    }
    drop(chain);
    let chain = Chain::open(dir.path()).unwrap();
    assert_eq!(open(&chain, |_| ()).generate([3, 17], &options()).unwrap(), expected);
}

#[test]
fn a_missing_or_damaged_expert_is_named_by_its_block() {
    let dir = tempfile::tempdir().unwrap();
    let (snapshot, used, _) = used_and_unused(dir.path());
    let routed = used.into_iter().find(|slot| matches!(slot, Slot::Expert { .. })).unwrap();
    let block = snapshot.slots()[&routed].block;
    let chain = Chain::open(dir.path()).unwrap();
    let file = payload_file(dir.path(), &chain, &snapshot, routed);
    drop(chain);

    let mut bytes = std::fs::read(&file).unwrap();
    let expect_named = |what: &str| {
        let chain = Chain::open(dir.path()).unwrap();
        let model = open(&chain, |_| ());
        let before = model.session();
        let error = model.generate([3, 17], &options()).unwrap_err();
        match error {
            ManagerError::Block { slot, block: named, .. } => {
                assert_eq!((slot, named), (routed, block), "{what}")
            }
            error => panic!("{what}: {error:?}"),
        }
        assert!(before.tokens().is_empty());
    };
    std::fs::remove_file(&file).unwrap();
    expect_named("missing");
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    expect_named("one flipped bit");
    bytes.pop();
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, &bytes).unwrap();
    expect_named("truncated");
}

#[test]
fn a_loaded_model_does_not_keep_others_from_importing() {
    let dir = tempfile::tempdir().unwrap();
    let chain = Chain::open(dir.path()).unwrap();
    import_into(&chain, &tiny_kjv(), Some(DType::I8));
    let model = open(&chain, |_| ());
    drop(chain);
    // A second handle would be refused if the model held the index.
    let chain = Chain::open(dir.path()).unwrap();
    import_into(&chain, &fixture("llama"), None);
    assert!(!model.generate("And God said", &options()).unwrap().tokens.is_empty());
}
