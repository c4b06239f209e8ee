//! `trust_verified`: what was verified before and has not changed is not hashed again, and nothing else.

#![allow(clippy::unwrap_used, reason = "a test ends where its premises fail")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use blyan_core::import::{self, ImportOptions};
use blyan_core::manager::{GenerateOptions, ManagerOptions, MoEModelManager};
use blyan_core::{BlockKind, Chain, ChainId};

const RECORD: &str = "verified";

fn generate(dir: &Path, trust_verified: bool) -> Result<Vec<u32>, String> {
    let chain = Chain::open_read_only(dir).map_err(|error| error.to_string())?;
    let options = ManagerOptions { trust_verified, persist_usage: false, ..ManagerOptions::default() };
    let model = MoEModelManager::open(&chain, &options).map_err(|error| error.to_string())?;
    let options = GenerateOptions { max_tokens: Some(4), ignore_eos: true, ..GenerateOptions::default() };
    model.generate("In the beginning", &options).map(|made| made.tokens).map_err(|error| error.to_string())
}

/// The payload file of an expert that the prompt goes through, for certain: all experts' files.
fn experts(dir: &Path) -> Vec<PathBuf> {
    let chain = Chain::open_read_only(dir).unwrap();
    let blocks = chain.blocks(ChainId::Parameter).map(Result::unwrap);
    let experts = blocks.filter(|block| block.header().kind == BlockKind::EXPERT);
    experts
        .map(|block| {
            let name = block.header().payload.hash.to_string();
            dir.join("payloads").join(&name[..2]).join(&name)
        })
        .collect()
}

/// Changes the last byte of a file, which stays as long as it was.
fn damage(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o444)).unwrap();
}

/// What the record says of a payload's file as it is.
fn line(path: &Path) -> String {
    let (file, name) = (fs::metadata(path).unwrap(), path.file_name().unwrap().to_str().unwrap());
    let changed = i128::from(file.ctime()) * 1_000_000_000 + i128::from(file.ctime_nsec());
    format!("{name} {} {} {} {changed}\n", file.dev(), file.ino(), file.len())
}

#[test]
fn a_changed_file_is_hashed_again_and_an_unchanged_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("chain");
    let chain = Chain::open(&dir).unwrap();
    import::checkpoint(&chain, crate::checkpoints::tiny_kjv(), &ImportOptions::default()).unwrap();
    drop(chain);

    let expected = generate(&dir, false).unwrap();
    assert!(!dir.join(RECORD).exists(), "nothing is recorded unless asked for");
    assert_eq!(generate(&dir, true).unwrap(), expected);
    let record = fs::read_to_string(dir.join(RECORD)).unwrap();
    assert!(!record.is_empty());
    assert_eq!(generate(&dir, true).unwrap(), expected);
    assert_eq!(fs::read_to_string(dir.join(RECORD)).unwrap(), record, "nothing was hashed again");

    experts(&dir).iter().for_each(|path| damage(path));
    assert!(generate(&dir, true).unwrap_err().contains("cannot be used"));

    // A forged record is what the option trusts: damage passes then, and only with the option.
    let forged: String = experts(&dir).iter().map(|path| line(path)).collect();
    fs::write(dir.join(RECORD), record + &forged).unwrap();
    assert!(generate(&dir, true).is_ok());
    assert!(generate(&dir, false).unwrap_err().contains("cannot be used"));
}

/// Puts a damaged copy in the place of a file, whose bytes stay for who has mapped them.
fn replace(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    let copy = path.with_extension("copy");
    fs::write(&copy, bytes).unwrap();
    fs::rename(copy, path).unwrap();
}

fn generate_with(chain: &Chain, trust_verified: bool) -> Result<Vec<u32>, String> {
    let options = ManagerOptions { trust_verified, persist_usage: false, ..ManagerOptions::default() };
    let model = MoEModelManager::open(chain, &options).map_err(|error| error.to_string())?;
    let options = GenerateOptions { max_tokens: Some(4), ignore_eos: true, ..GenerateOptions::default() };
    model.generate("In the beginning", &options).map(|made| made.tokens).map_err(|error| error.to_string())
}

#[test]
fn a_file_that_took_the_place_of_a_verified_one_is_not_put_on_record_unhashed() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("chain");
    let chain = Chain::open(&dir).unwrap();
    import::checkpoint(&chain, crate::checkpoints::tiny_kjv(), &ImportOptions::default()).unwrap();
    generate_with(&chain, false).unwrap();

    experts(&dir).iter().for_each(|path| replace(path));
    assert!(generate_with(&chain, true).unwrap_err().contains("cannot be used"));
    drop(chain);
    assert!(generate(&dir, true).unwrap_err().contains("cannot be used"));
}

#[test]
fn what_one_model_took_on_trust_another_verifies() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("chain");
    let chain = Chain::open(&dir).unwrap();
    import::checkpoint(&chain, crate::checkpoints::tiny_kjv(), &ImportOptions::default()).unwrap();
    drop(chain);
    generate(&dir, true).unwrap();
    let mut forged = fs::read_to_string(dir.join(RECORD)).unwrap();
    for path in experts(&dir) {
        damage(&path);
        forged.push_str(&line(&path));
    }
    fs::write(dir.join(RECORD), forged).unwrap();

    let chain = Chain::open_read_only(&dir).unwrap();
    generate_with(&chain, true).unwrap();
    assert!(generate_with(&chain, false).unwrap_err().contains("cannot be used"));
}
