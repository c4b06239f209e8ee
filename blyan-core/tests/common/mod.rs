//! What several test files need.
#![allow(dead_code, reason = "each test file uses a part")]

use std::path::{Path, PathBuf};

use blyan_core::DType;

/// The choices of type that golden files and matrices of tests go through.
pub(crate) const CHOICES: [Option<DType>; 5] =
    [None, Some(DType::F16), Some(DType::BF16), Some(DType::I8), Some(DType::F8E4M3)];

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// All checkpoint folders that the repository carries.
pub(crate) fn fixtures() -> Vec<PathBuf> {
    let folder = std::fs::read_dir(fixture("")).unwrap();
    let mut dirs: Vec<PathBuf> =
        folder.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    dirs.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny-kjv-moe"));
    dirs.sort();
    assert!(dirs.len() >= 17);
    dirs
}
