//! Importing the fixtures: what is appended, in which types, and that it does not depend on chance.

mod common;

use std::fs;

use blyan_core::import::{self, ImportOptions};
use blyan_core::{Chain, DType};
use common::{CHOICES, fixtures};

#[test]
fn every_fixture_imports_in_every_type() {
    for dir in fixtures() {
        let chain = Chain::in_memory().unwrap();
        for dtype in CHOICES {
            let options = ImportOptions { dtype, ..ImportOptions::default() };
            let report = import::checkpoint(&chain, &dir, &options)
                .unwrap_or_else(|error| panic!("{} {dtype:?}: {error}", dir.display()));
            assert!(report.blocks_new > 0 || dtype == Some(DType::BF16), "{} {dtype:?}", dir.display());
            let again = import::checkpoint(&chain, &dir, &options).unwrap();
            assert_eq!((again.blocks_new, again.payload_bytes_new), (0, 0));
            assert_eq!((again.model, again.root), (report.model, report.root));
        }
    }
    let _ = fs::metadata(".");
}
