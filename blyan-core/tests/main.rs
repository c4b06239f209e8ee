//! Every test of the public API in one binary, which is linked once; `cargo test --test main import::` runs those of
//! a file. Only what needs a process of its own has its own binary: memory.rs counts what the process allocates, and
//! smollm2.rs runs in release.

mod bundle;
mod chain;
mod checkpoints;
mod collect;
mod contribute;
mod corpus;
mod crash;
mod damage;
mod datasets;
mod delta;
mod durable_import;
mod evaluate;
mod exact;
mod export;
mod extract;
mod folders;
mod generate;
mod gguf;
mod history;
mod hostile;
mod import;
mod order;
mod proof_of_learning;
mod receipts;
mod reference;
mod reopen;
mod rewards;
mod rounds;
mod seeds;
mod selective;
mod snapshots;
mod support;
mod trust;
mod usage;
mod world;

/// A file that nobody names is never compiled, so its tests would pass for ever.
#[test]
fn every_file_is_named() {
    let manifest = include_str!("../Cargo.toml");
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests")).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        if path.extension().is_some_and(|extension| extension == "rs") {
            let binary = manifest.contains(&format!("[[test]]\nname = \"{name}\""));
            assert!(binary || include_str!("main.rs").contains(&format!("\nmod {name};")), "{name}");
        }
    }
}
